//! The real disk: direct I/O on io_uring through glommio. One write to a file opened with `O_DSYNC` is a whole commit.
//!
//! Rules of glommio 0.9 that are kept here and nowhere else:
//! - the first file that an executor opens on a device must be write-only, else the device may be taken for pollable and the
//!   executor spins for ever: [`Disk::open`] sees to that;
//! - a write may be short: that is a failure, never continued;
//! - `Directory::sync` is an `fdatasync`, which need not cover names: directories are synced by `fsync` on the
//!   blocking pool.

use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use glommio::io::{DmaBuffer, DmaFile, OpenOptions, OwnedDmaFile, ReadResult};

use super::{DiskBuffer, Storage, StorageFile};
use crate::clock::Moment;
use crate::spool::layout::LOCK;

/// Mode of new files: mail is private.
const FILE_MODE: u32 = 0o600;
/// Longest single read, bytes: bounds the aligned buffer behind it.
const READ_BYTES_MAX: usize = 4 << 20;

/// Keeps a segment readable on other executors.
pub type DiskPin = OwnedDmaFile;

/// A spool directory. Clones share it; one per executor.
#[derive(Clone)]
pub struct Disk(Rc<Inner>);

struct Inner {
    root: PathBuf,
    start: Instant,
}

impl Disk {
    /// Uses the directory `root`, a spool that [`layout`](crate::spool::layout) has opened. Within a glommio executor only.
    pub async fn open(root: &Path) -> io::Result<Self> {
        let disk = Self(Rc::new(Inner { root: root.to_owned(), start: Instant::now() }));
        // The lock file is there, nobody writes to it, and unlike O_TMPFILE every file system can open it.
        let first = OpenOptions::new().write(true).dma_open(root.join(LOCK)).await;
        first.map_err(io::Error::from)?.close().await.map_err(io::Error::from)?;
        Ok(disk)
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.root.join(path)
    }

    async fn open_file(&self, path: &str, new: bool) -> io::Result<DiskFile> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(new).mode(FILE_MODE);
        options.custom_flags(rustix::fs::OFlags::DSYNC.bits() as i32);
        let file = options.dma_open(self.path(path)).await.map_err(io::Error::from)?;
        Ok(DiskFile(file))
    }
}

/// An open file.
pub struct DiskFile(DmaFile);

impl DiskBuffer for DmaBuffer {
    fn as_bytes(&self) -> &[u8] {
        DmaBuffer::as_bytes(self)
    }

    fn as_bytes_mut(&mut self) -> &mut [u8] {
        DmaBuffer::as_bytes_mut(self)
    }

    fn truncate(&mut self, bytes: usize) {
        self.trim_to_size(bytes);
    }
}

async fn read(file: &DmaFile, offset: u64, bytes: usize) -> io::Result<ReadResult> {
    file.read_at(offset, bytes.min(READ_BYTES_MAX)).await.map_err(io::Error::from)
}

impl StorageFile for DiskFile {
    type Buffer = DmaBuffer;
    type Bytes = ReadResult;
    type Pin = OwnedDmaFile;

    async fn write_at(&self, buffer: DmaBuffer, offset: u64) -> io::Result<()> {
        let bytes = buffer.len();
        let written = self.0.write_at(buffer, offset).await.map_err(io::Error::from)?;
        if written == bytes { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }

    async fn read_at(&self, offset: u64, bytes: usize) -> io::Result<ReadResult> {
        read(&self.0, offset, bytes).await
    }

    async fn sync(&self) -> io::Result<()> {
        self.0.fdatasync().await.map_err(io::Error::from)
    }

    async fn size(&self) -> io::Result<u64> {
        self.0.file_size().await.map_err(io::Error::from)
    }

    fn pin(&self) -> io::Result<OwnedDmaFile> {
        self.0.dup().map(OwnedDmaFile::from).map_err(io::Error::from)
    }
}

impl Storage for Disk {
    type Buffer = DmaBuffer;
    type Bytes = ReadResult;
    type Pin = OwnedDmaFile;
    type File = DiskFile;

    fn buffer(&self, bytes: usize) -> DmaBuffer {
        glommio::allocate_dma_buffer(bytes)
    }

    async fn create(&self, path: &str) -> io::Result<DiskFile> {
        self.open_file(path, true).await
    }

    async fn open(&self, path: &str) -> io::Result<DiskFile> {
        self.open_file(path, false).await
    }

    async fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        glommio::io::rename(self.path(from), self.path(to)).await.map_err(io::Error::from)
    }

    async fn remove(&self, path: &str) -> io::Result<()> {
        glommio::io::remove(self.path(path)).await.map_err(io::Error::from)
    }

    async fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let path = self.path(dir);
        let listing = move || {
            let mut names = Vec::new();
            for entry in std::fs::read_dir(path)? {
                // A name that is no text is none of ours.
                names.extend(entry?.file_name().into_string().ok());
            }
            Ok(names)
        };
        glommio::executor().spawn_blocking(listing).await
    }

    async fn sync_dir(&self, dir: &str) -> io::Result<()> {
        let path = self.path(dir);
        glommio::executor().spawn_blocking(move || std::fs::File::open(path)?.sync_all()).await
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(&self.0.root)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    async fn read_pinned(&self, pin: &OwnedDmaFile, offset: u64, bytes: usize) -> io::Result<ReadResult> {
        // A glommio file belongs to one executor: a duplicate for the time of the read.
        let file = DmaFile::from(pin.dup().map_err(io::Error::from)?);
        let result = read(&file, offset, bytes).await;
        file.close().await.map_err(io::Error::from)?;
        result
    }

    fn now(&self) -> Moment {
        Moment(u64::try_from(self.0.start.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    async fn sleep(&self, wait: Duration) {
        glommio::timer::sleep(wait).await;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::id::MessageId;
    use crate::spool::reader::{self, ReadError};
    use crate::spool::testing::{DIR, Model, PART, message, options};
    use crate::spool::{Fence, Log};

    /// Runs a test on an executor, or says on stderr why it cannot. `print!` would be swallowed by the test harness.
    fn on_executor<F: Future<Output = ()> + 'static>(test: impl FnOnce(PathBuf) -> F + Send + 'static) {
        let directory = tempfile::tempdir().expect("a temporary directory");
        std::fs::create_dir(directory.path().join(DIR)).expect("a part's directory");
        std::fs::create_dir(directory.path().join("damaged")).expect("a directory");
        std::fs::write(directory.path().join(LOCK), "").expect("a file");
        let root = directory.path().to_owned();
        let builder = glommio::LocalExecutorBuilder::default().io_memory(4 << 20);
        let run = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
            builder.make().map(|executor| (executor, root, test))
        }));
        match run {
            Ok(Ok((executor, root, test))) => executor.run(test(root)),
            Ok(Err(error)) => skip(&error.to_string()),
            Err(_) => skip("io_uring is not available"),
        }
    }

    fn skip(reason: &str) {
        let _ = io::Write::write_all(
            &mut io::stderr(),
            format!("SKIP: spool on a real disk: {reason}\n").as_bytes(),
        );
    }

    async fn open(disk: &Disk, model: &Model) -> (Log<Disk>, crate::spool::RecoveryReport) {
        let mut salt = || getrandom::u64().expect("random numbers");
        let mut apply = |record: crate::spool::Recovered<'_>| model.apply(record);
        let (options, fence) = (options(1 << 20), Fence::default());
        Log::open(disk.clone(), PART, DIR, options, fence, &mut salt, &mut apply).await.expect("it opens")
    }

    fn drive(log: &Log<Disk>, model: &Model) {
        glommio::spawn_local(log.clone().run_committer()).detach();
        glommio::spawn_local(log.clone().run_clock()).detach();
        let salt = || getrandom::u64().expect("random numbers");
        glommio::spawn_local(log.clone().run_upkeep(model.clone(), salt)).detach();
    }

    #[test]
    fn a_log_on_a_real_directory_wraps_reads_back_and_reopens() {
        on_executor(|root| async move {
            let disk = Disk::open(&root).await.expect("the directory is there");
            let model = Model::default();
            let (log, _) = open(&disk, &model).await;
            drive(&log, &model);
            let mut kept: Vec<MessageId> = Vec::new();
            for turn in 0..600 {
                let id = log.next_id();
                let (_, location) = log.accept(&message(id, 20_000)).await.expect("there is room");
                model.0.borrow_mut().insert(id, (location, 0));
                if turn % 100 == 0 {
                    kept.push(id);
                } else {
                    model.0.borrow_mut().remove(&id);
                    let outcome = crate::spool::testing::outcome(id, 1, crate::outcome::Verdict::Delivered);
                    let _ticket =
                        log.append(crate::spool::Note::Outcome(&outcome)).await.expect("there is room");
                    log.settled(id, location);
                }
            }
            let pins = RefCell::new(Vec::new());
            for id in &kept {
                // A message that moves meanwhile is looked for in its new place.
                let pin = loop {
                    let location = model.0.borrow()[id].0;
                    match log.pin(*id, location).await {
                        Ok(pin) => break pin,
                        Err(ReadError::Disk(error)) if error.kind() == io::ErrorKind::NotFound => {}
                        Err(error) => panic!("{error}"),
                    }
                };
                let opened = reader::open(&disk, &pin).await.expect("it reads back");
                assert_eq!(opened.rest, message(*id, 20_000).body);
                pins.borrow_mut().push(pin);
            }
            log.close().await;
            let stats = log.stats();
            assert!(stats.segments < 10 && stats.moved_bytes > 0, "{stats:?}");
            let again = Model::default();
            let (log, report) = open(&disk, &again).await;
            assert!(!report.has_rot() && report.damage.is_empty(), "{report:?}");
            assert_eq!(*again.0.borrow(), *model.0.borrow());
            let location = again.0.borrow()[&kept[0]].0;
            assert_eq!(log.read(kept[0], location).await.expect("it reads back").body.len(), 20_000);
        });
    }
}
