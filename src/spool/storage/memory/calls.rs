//! The disk in memory as a [`Storage`]: each call is counted, struck by what the plan says, and becomes an event.

use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use super::platter::{Change, Contents, Event, lock, parent};
use super::{Buffers, Call, Fault, MemoryBuffer, MemoryDisk, MemoryFile, MemoryPin, Reads, SECTOR_BYTES};
use crate::clock::Moment;
use crate::spool::storage::{DiskBuffer, Storage, StorageFile};

const ENOSPC: i32 = 28;

impl MemoryBuffer {
    fn count(&self, more: usize, less: usize) {
        let Buffers { bytes, most } = self.buffers.get();
        let bytes = bytes + more - less;
        self.buffers.set(Buffers { bytes, most: most.max(bytes) });
    }
}

impl Drop for MemoryBuffer {
    fn drop(&mut self) {
        self.count(0, self.bytes.len());
    }
}

impl DiskBuffer for MemoryBuffer {
    fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn as_bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    fn truncate(&mut self, bytes: usize) {
        self.count(0, self.bytes.len().saturating_sub(bytes));
        self.bytes.truncate(bytes);
    }
}

/// What a call of the storage goes through.
impl MemoryDisk {
    /// Counts a call, lets it wait or fail as the plan says, and gives what else strikes it.
    async fn call(&self, call: Call, path: &str) -> io::Result<Vec<Fault>> {
        let struck = self.strike(call, path);
        self.wait(&struck).await;
        match struck
            .iter()
            .find_map(|fault| if let Fault::Error(errno) = fault { Some(*errno) } else { None })
        {
            Some(errno) => Err(io::Error::from_raw_os_error(errno)),
            None => Ok(struck),
        }
    }

    fn strike(&self, call: Call, path: &str) -> Vec<Fault> {
        let mut disk = self.disk.borrow_mut();
        disk.calls += 1;
        disk.plan.strike(call, path)
    }

    async fn wait(&self, struck: &[Fault]) {
        for fault in struck {
            if let Fault::Delay(time) = fault {
                self.sleep(*time).await;
            }
        }
    }

    fn happen(&self, event: Event) {
        self.disk.borrow_mut().happen(event);
    }

    fn path_of(&self, file: usize) -> Rc<str> {
        self.disk.borrow().paths[file].clone()
    }

    /// Waits as long as completions are held back, and for one turn at least: no real write completes within its call.
    async fn complete(&self) {
        let mut polled = false;
        poll_fn(|context| {
            let mut disk = self.disk.borrow_mut();
            if disk.held {
                disk.released.push(context.waker().clone());
                return Poll::Pending;
            }
            if !std::mem::replace(&mut polled, true) {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            Poll::Ready(())
        })
        .await;
    }
}

impl MemoryFile {
    /// Begins a write of `bytes`; gives its number.
    fn begin(&self, offset: usize, bytes: &[u8]) -> usize {
        let mut disk = self.disk.disk.borrow_mut();
        let write = disk.writes;
        disk.writes += 1;
        disk.happen(Event::Write { write, file: self.file, offset, bytes: bytes.into() });
        write
    }

    /// Counts a write, and says how it fails if it does.
    fn check(&self, offset: usize, bytes: usize, struck: &[Fault]) -> Option<(usize, io::Error)> {
        let mut disk = self.disk.disk.borrow_mut();
        disk.written.calls += 1;
        disk.written.bytes += bytes as u64;
        disk.written.retries += u64::from(disk.failed.contains(&(self.file, offset)));
        let grows = (offset + bytes).saturating_sub(lock(&self.contents).len());
        let failure = struck.iter().find_map(|fault| match fault {
            Fault::Error(errno) => Some((0, io::Error::from_raw_os_error(*errno))),
            // What the real disk makes of a short write.
            Fault::Short(sectors) => {
                Some(((sectors * SECTOR_BYTES).min(bytes), io::ErrorKind::WriteZero.into()))
            }
            _ => None,
        });
        let failure = match failure {
            None if grows > 0 && grows as u64 > disk.free() => {
                Some((0, io::Error::from_raw_os_error(ENOSPC)))
            }
            failure => failure,
        };
        if failure.is_some() {
            disk.failed.insert((self.file, offset));
        }
        failure
    }
}

impl StorageFile for MemoryFile {
    type Buffer = MemoryBuffer;
    type Bytes = Vec<u8>;
    type Pin = MemoryPin;

    async fn write_at(&self, buffer: MemoryBuffer, offset: u64) -> io::Result<()> {
        let struck = self.disk.strike(Call::Write, &self.disk.path_of(self.file));
        let (mut bytes, mut offset) = (buffer.as_bytes(), offset as usize);
        let failure = self.check(offset, bytes.len(), &struck);
        if let Some((stored, _)) = &failure {
            bytes = &bytes[..*stored];
        }
        let mut changed = None;
        for fault in &struck {
            match fault {
                Fault::Misdirected(by) => offset += by,
                Fault::Flipped(at, mask) if !bytes.is_empty() => {
                    let changed = changed.get_or_insert_with(|| bytes.to_vec());
                    changed[at % bytes.len()] ^= mask;
                }
                _ => {}
            }
        }
        let bytes = changed.as_deref().unwrap_or(bytes);
        let stale = struck.iter().find_map(|fault| match fault {
            Fault::Ignored => Some(0..bytes.len()),
            Fault::Stale(sector) => {
                let start = (sector * SECTOR_BYTES).min(bytes.len());
                Some(start..(start + SECTOR_BYTES).min(bytes.len()))
            }
            _ => None,
        });
        let stale = stale.unwrap_or(bytes.len()..bytes.len());
        let pieces = [(offset, &bytes[..stale.start]), (offset + stale.end, &bytes[stale.end..])];
        let pieces = pieces.into_iter().filter(|(_, piece)| !piece.is_empty());
        let writes: Vec<_> = pieces.map(|(at, piece)| self.begin(at, piece)).collect();
        self.disk.wait(&struck).await;
        self.disk.complete().await;
        let cached = struck.contains(&Fault::Cached);
        for write in writes {
            self.disk.happen(if cached { Event::Cached { write } } else { Event::Done { write } });
        }
        failure.map_or(Ok(()), |(_, error)| Err(error))
    }

    async fn read_at(&self, offset: u64, bytes: usize) -> io::Result<Vec<u8>> {
        self.disk.read(&self.disk.path_of(self.file), &self.contents, offset, bytes).await
    }

    async fn sync(&self) -> io::Result<()> {
        let struck = self.disk.call(Call::Sync, &self.disk.path_of(self.file)).await?;
        if !struck.contains(&Fault::Ignored) {
            self.disk.happen(Event::Flush { file: self.file });
        }
        Ok(())
    }

    async fn size(&self) -> io::Result<u64> {
        self.disk.call(Call::Size, &self.disk.path_of(self.file)).await?;
        Ok(lock(&self.contents).len() as u64)
    }

    fn pin(&self) -> io::Result<MemoryPin> {
        Ok(MemoryPin { path: self.disk.path_of(self.file).as_ref().into(), contents: self.contents.clone() })
    }
}

impl MemoryDisk {
    async fn read(&self, path: &str, contents: &Contents, offset: u64, bytes: usize) -> io::Result<Vec<u8>> {
        let struck = self.call(Call::Read, path).await?;
        let mut disk = self.disk.borrow_mut();
        disk.reads = Reads { most: disk.reads.most.max(bytes), all: disk.reads.all + bytes };
        let file = lock(contents);
        let start = (offset as usize).min(file.len());
        let mut read = file[start..(start + bytes).min(file.len())].to_vec();
        for fault in struck {
            if let Fault::Flipped(at, mask) = fault
                && !read.is_empty()
            {
                let at = at % read.len();
                read[at] ^= mask;
            }
        }
        Ok(read)
    }

    /// A change of a name that is there, unless it is ignored.
    async fn change(
        &self,
        call: Call,
        path: &str,
        change: impl FnOnce(Rc<str>, usize) -> Change,
    ) -> io::Result<()> {
        let struck = self.call(call, path).await?;
        let file = self.disk.borrow().file(path)?;
        if !struck.contains(&Fault::Ignored) {
            self.happen(Event::Change(change(path.into(), file)));
        }
        Ok(())
    }
}

impl Storage for MemoryDisk {
    type Buffer = MemoryBuffer;
    type Bytes = Vec<u8>;
    type Pin = MemoryPin;
    type File = MemoryFile;

    fn buffer(&self, bytes: usize) -> MemoryBuffer {
        // Not zeros: who relies on them writes old memory to disk.
        let mut buffer = MemoryBuffer { bytes: vec![0; bytes], buffers: self.buffers.clone() };
        buffer.bytes.fill(0xA5);
        buffer.count(bytes, 0);
        buffer
    }

    async fn create(&self, path: &str) -> io::Result<MemoryFile> {
        self.call(Call::Create, path).await?;
        let mut disk = self.disk.borrow_mut();
        if disk.file(path).is_ok() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let file = disk.platter.files.len();
        disk.happen(Event::Change(Change::Create { path: path.into(), file }));
        let contents = disk.platter.files[file].clone();
        Ok(MemoryFile { disk: self.clone(), file, contents })
    }

    async fn open(&self, path: &str) -> io::Result<MemoryFile> {
        self.call(Call::Open, path).await?;
        let disk = self.disk.borrow();
        let file = disk.file(path)?;
        let contents = disk.platter.files[file].clone();
        Ok(MemoryFile { disk: self.clone(), file, contents })
    }

    async fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.change(Call::Rename, from, |from, file| Change::Rename { from, to: to.into(), file }).await
    }

    async fn remove(&self, path: &str) -> io::Result<()> {
        self.change(Call::Remove, path, |path, file| Change::Remove { path, file }).await
    }

    async fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        self.call(Call::List, dir).await?;
        let disk = self.disk.borrow();
        let within = disk.platter.names.keys().filter(|path| parent(path) == dir);
        Ok(within.map(|path| path[path.len().min(dir.len() + 1)..].to_owned()).collect())
    }

    async fn sync_dir(&self, dir: &str) -> io::Result<()> {
        let struck = self.call(Call::SyncDir, dir).await?;
        if !struck.contains(&Fault::Ignored) {
            self.happen(Event::SyncDir { dir: dir.into() });
        }
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        Ok(self.disk.borrow().free())
    }

    async fn read_pinned(&self, pin: &MemoryPin, offset: u64, bytes: usize) -> io::Result<Vec<u8>> {
        self.read(&pin.path, &pin.contents, offset, bytes).await
    }

    fn now(&self) -> Moment {
        self.disk.borrow().now
    }

    async fn sleep(&self, wait: Duration) {
        let until = self.now() + wait;
        poll_fn(|context| {
            let mut disk = self.disk.borrow_mut();
            if disk.now >= until {
                return Poll::Ready(());
            }
            disk.sleepers.push((until, context.waker().clone()));
            Poll::Pending
        })
        .await;
    }
}
