//! The disk: files and directories, and the way of each call through faults, journal and names to its answer.
//!
//! Bytes are in anonymous files and are written at once; the journal knows what a power cut takes back. A write through to
//! the disk (O_DSYNC) and a sync are durable at the moment at which they are answered, not before.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use rustix::io::Errno;

use crate::faults::{Fate, Faults, Kind, Order};
use crate::journal::{Journal, SECTOR_BYTES, sectors};
use crate::mercy::Mercy;
use crate::names::{FileId, Names};

/// The root directory.
pub const ROOT: FileId = 1;
/// What is counted as used, bytes.
pub const BLOCK_BYTES: u64 = 4096;

/// What is known of a file or directory.
#[derive(Debug)]
pub struct Inode {
    /// Its bytes; none for a directory.
    pub content: Option<File>,
    /// Bytes in it.
    pub length: u64,
    /// Permissions.
    pub mode: u32,
    /// Owner: user and group.
    pub owner: (u32, u32),
    /// When it was changed.
    pub modified: SystemTime,
    /// Descriptors.
    pub opens: u32,
}

/// Tells a caller how its call ended; `None` is success.
type Answer = Box<dyn FnOnce(&mut State, Option<Errno>) + Send>;

/// Everything on the disk.
#[derive(Default)]
pub struct State {
    backing: PathBuf,
    inodes: BTreeMap<FileId, Inode>,
    last: FileId,
    /// What directories hold.
    pub names: Names,
    journal: Journal,
    faults: Faults,
    /// Calls whose time to be answered comes later, or never.
    waiting: Vec<(Option<Instant>, Answer)>,
}

/// The disk.
#[derive(Default)]
pub struct Disk {
    state: Mutex<State>,
    /// Something is waiting for its time.
    later: Condvar,
}

impl Disk {
    /// An empty disk whose bytes are in the directory `backing`.
    pub fn new(backing: &Path) -> Self {
        let mut state = State { backing: backing.to_owned(), last: ROOT, ..State::default() };
        let owner = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        state.inodes.insert(ROOT, Inode::new(None, 0o700, owner));
        Self { state: Mutex::new(state), later: Condvar::new() }
    }

    /// Everything, for a look or for a change that no power cut asks about.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A call: `work` changes something, `answer` tells the caller. What becomes of it is up to the faults.
    pub fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut State) -> Result<T, Errno>,
        answer: impl FnOnce(Result<T, Errno>) + Send + 'static,
    ) {
        self.call_of(Kind::Other, work, |_, _| {}, |_| {}, answer);
    }

    /// A call of some kind. `settle` makes what it did durable when it is answered; when it fails it does what `spoil` does.
    pub fn call_of<T: Send + 'static>(
        &self,
        kind: Kind,
        work: impl FnOnce(&mut State) -> Result<T, Errno>,
        spoil: impl FnOnce(&mut State, Errno),
        settle: impl FnOnce(&mut State) + Send + 'static,
        answer: impl FnOnce(Result<T, Errno>) + Send + 'static,
    ) {
        let mut state = self.state();
        let fate = state.faults.next(kind);
        match fate {
            Fate::Failed(errno) => {
                spoil(&mut state, errno);
                return answer(Err(errno));
            }
            Fate::Dark => return answer(Err(Errno::IO)),
            _ => {}
        }
        let done = match work(&mut state) {
            Ok(done) => done,
            Err(errno) => return answer(Err(errno)),
        };
        let finish: Answer = Box::new(move |state, failed| {
            if failed.is_none() {
                settle(state);
            }
            answer(failed.map_or(Ok(done), Err));
        });
        match fate {
            Fate::Late(delay) => {
                state.waiting.push((Some(Instant::now() + delay), finish));
                self.later.notify_one();
            }
            Fate::Held => state.waiting.push((None, finish)),
            _ => finish(&mut state, None),
        }
    }

    /// Answers late calls when their time has come, for ever.
    pub fn answer_late_calls(self: Arc<Self>) {
        let mut state = self.state();
        loop {
            let now = Instant::now();
            let due = |(at, _): &(Option<Instant>, Answer)| at.is_some_and(|at| at <= now);
            while let Some(index) = state.waiting.iter().position(due) {
                let (_, finish) = state.waiting.remove(index);
                finish(&mut state, None);
            }
            let next = state.waiting.iter().filter_map(|(at, _)| *at).min();
            let wait = next.map_or(Duration::from_secs(3600), |at| at.saturating_duration_since(now));
            let waited = self.later.wait_timeout(state, wait);
            state = waited.map_or_else(|poisoned| poisoned.into_inner().0, |(state, _)| state);
        }
    }

    /// Carries an order out; what is worth telling comes back.
    pub fn obey(&self, order: Order) -> String {
        let mut state = self.state();
        state.faults.obey(order);
        if let Order::Freeze | Order::Mend = order {
            // Late calls are held with the others, or are not late any more.
            let at = (order == Order::Mend).then(Instant::now);
            state.waiting.iter_mut().for_each(|(due, _)| *due = at);
            self.later.notify_one();
        }
        match order {
            Order::Cut(seed) => state.cut(seed),
            _ => state.stats(),
        }
    }
}

impl Inode {
    fn new(content: Option<File>, mode: u32, owner: (u32, u32)) -> Self {
        Self { content, length: 0, mode, owner, modified: SystemTime::now(), opens: 0 }
    }

    /// Bytes that it takes.
    fn used(&self) -> u64 {
        self.length.next_multiple_of(BLOCK_BYTES)
    }
}

fn errno(error: io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}

impl State {
    /// What is known of a file.
    pub fn inode(&mut self, file: FileId) -> Result<&mut Inode, Errno> {
        self.inodes.get_mut(&file).ok_or(Errno::NOENT)
    }

    /// What stands at a name.
    pub fn find(&self, directory: FileId, name: &OsStr) -> Result<FileId, Errno> {
        self.names.get(directory, name).ok_or(Errno::NOENT)
    }

    /// Makes a file, or a directory, at a name that is free.
    pub fn make(
        &mut self,
        directory: FileId,
        name: &OsStr,
        is_file: bool,
        mode: u32,
        owner: (u32, u32),
    ) -> Result<FileId, Errno> {
        if self.find(directory, name).is_ok() {
            return Err(Errno::EXIST);
        }
        let content = is_file.then(|| tempfile::tempfile_in(&self.backing)).transpose().map_err(errno)?;
        self.last += 1;
        self.inodes.insert(self.last, Inode::new(content, mode & 0o7777, owner));
        self.names.change(vec![((directory, name.to_owned()), Some(self.last))]);
        Ok(self.last)
    }

    /// Removes a name.
    pub fn remove(&mut self, directory: FileId, name: &OsStr) -> Result<(), Errno> {
        let file = self.find(directory, name)?;
        if self.names.list(file).next().is_some() {
            return Err(Errno::NOTEMPTY);
        }
        self.names.change(vec![((directory, name.to_owned()), None)]);
        self.clean(file);
        Ok(())
    }

    /// Gives what stands at a name another one, in the place of what stands there.
    pub fn rename(&mut self, from: (FileId, &OsStr), to: (FileId, &OsStr)) -> Result<(), Errno> {
        let file = self.find(from.0, from.1)?;
        let replaced = self.find(to.0, to.1);
        if from != to {
            let place = |(directory, name): (FileId, &OsStr)| (directory, name.to_owned());
            self.names.change(vec![(place(from), None), (place(to), Some(file))]);
        }
        if let Ok(replaced) = replaced {
            self.clean(replaced);
        }
        Ok(())
    }

    /// The directory's names are durable.
    pub fn sync_names(&mut self, directory: FileId) {
        self.names.sync(directory);
        self.inodes.keys().copied().collect::<Vec<_>>().into_iter().for_each(|file| self.clean(file));
    }

    /// Forgets a file that nobody can reach any more.
    pub fn clean(&mut self, file: FileId) {
        let is_open = self.inodes.get(&file).is_some_and(|inode| inode.opens > 0);
        if file != ROOT && !is_open && !self.names.mentions(file).1 {
            self.inodes.remove(&file);
            self.journal.forget(file);
        }
    }

    /// Reads up to `bytes`; fewer at the end.
    pub fn read(&mut self, file: FileId, offset: u64, bytes: usize) -> Result<Vec<u8>, Errno> {
        let inode = self.inode(file)?;
        let there = inode.length.saturating_sub(offset).min(bytes as u64) as usize;
        let mut read = vec![0; there];
        let content = inode.content.as_ref().ok_or(Errno::ISDIR)?;
        content.read_exact_at(&mut read, offset).map_err(errno)?;
        Ok(read)
    }

    /// Writes.
    pub fn write(&mut self, file: FileId, offset: u64, bytes: &[u8]) -> Result<(), Errno> {
        self.write_some(file, offset, bytes, || true)
    }

    /// A write fails: for want of room it leaves nothing, for any other reason some of its sectors.
    pub fn write_badly(&mut self, file: FileId, offset: u64, bytes: &[u8], why: Errno) {
        let mut mercy = Mercy::half(self.faults.calls());
        if why != Errno::NOSPC {
            // It has failed already.
            let _ = self.write_some(file, offset, bytes, || mercy.keeps());
        }
    }

    fn write_some(
        &mut self,
        file: FileId,
        offset: u64,
        bytes: &[u8],
        mut keeps: impl FnMut() -> bool,
    ) -> Result<(), Errno> {
        let end = offset + bytes.len() as u64;
        let length = self.inode(file)?.length;
        if end > length && self.free() < end - length {
            return Err(Errno::NOSPC);
        }
        let range = sectors(offset, bytes.len() as u64);
        let mut sectors = self.read(file, range.start, (range.end - range.start) as usize)?;
        sectors.resize((range.end - range.start) as usize, 0);
        self.journal.write(file, range.start, &sectors);
        let before = sectors.clone();
        let skipped = (offset - range.start) as usize;
        sectors[skipped..skipped + bytes.len()].copy_from_slice(bytes);
        let pairs = sectors.chunks_mut(SECTOR_BYTES as usize).zip(before.chunks(SECTOR_BYTES as usize));
        pairs.filter(|_| !keeps()).for_each(|(sector, before)| sector.copy_from_slice(before));
        if end > length {
            self.set_length(file, end)?;
        }
        let inode = self.inode(file)?;
        inode.modified = SystemTime::now();
        let content = inode.content.as_ref().ok_or(Errno::ISDIR)?;
        content.write_all_at(&sectors[skipped..skipped + bytes.len()], offset).map_err(errno)
    }

    /// Cuts a file off, or makes it longer with zeros.
    pub fn truncate(&mut self, file: FileId, length: u64) -> Result<(), Errno> {
        let old = self.inode(file)?.length;
        if length < old {
            let from = sectors(length, 0).start;
            let before = self.read(file, from, (old - from) as usize)?;
            self.journal.write(file, from, &before);
        } else if self.free() < length - old {
            return Err(Errno::NOSPC);
        }
        self.set_length(file, length)
    }

    fn set_length(&mut self, file: FileId, length: u64) -> Result<(), Errno> {
        let inode = self.inode(file)?;
        let old = std::mem::replace(&mut inode.length, length);
        inode.content.as_ref().ok_or(Errno::ISDIR)?.set_len(length).map_err(errno)?;
        self.journal.resize(file, old);
        Ok(())
    }

    /// The bytes of a write through to the disk are durable.
    pub fn written_through(&mut self, file: FileId, offset: u64, bytes: u64) {
        self.journal.sync_range(file, &sectors(offset, bytes));
    }

    /// The file is durable.
    pub fn synced(&mut self, file: FileId) {
        self.journal.sync(file);
    }

    /// A sync of the file has failed.
    pub fn sync_failed(&mut self, file: FileId) {
        self.journal.sync_failed(file);
    }

    /// Size of the disk, bytes.
    pub fn size(&self) -> u64 {
        let behind = || {
            let stat = rustix::fs::statvfs(&self.backing);
            stat.map_or(0, |stat| stat.f_bavail * stat.f_frsize) + self.used()
        };
        self.faults.limit.unwrap_or_else(behind)
    }

    fn used(&self) -> u64 {
        let there =
            self.inodes.iter().filter(|(file, inode)| inode.opens > 0 || self.names.mentions(**file).0);
        there.map(|(_, inode)| inode.used()).sum()
    }

    /// Free bytes.
    pub fn free(&self) -> u64 {
        self.size().saturating_sub(self.used())
    }

    fn stats(&self) -> String {
        format!(
            "calls={} sectors={} names={} waiting={} used={} free={}",
            self.faults.calls(),
            self.journal.unsynced(),
            self.names.unsynced(),
            self.waiting.len(),
            self.used(),
            self.free()
        )
    }

    /// The power fails: whoever waits is told that it did, and the disk holds what it would hold then.
    fn cut(&mut self, seed: u64) -> String {
        let told = self.stats();
        for (_, finish) in std::mem::take(&mut self.waiting) {
            finish(self, Some(Errno::IO));
        }
        let mut mercy = Mercy::of(seed);
        self.names.cut(&mut mercy);
        let losses = self.journal.cut(&mut mercy);
        let undone = losses.bytes.len();
        for (file, offset, bytes) in losses.bytes {
            let Ok(inode) = self.inode(file) else { continue };
            let there = inode.length.saturating_sub(offset).min(bytes.len() as u64) as usize;
            if let Some(content) = &inode.content {
                content.write_all_at(&bytes[..there], offset).expect("the directory behind the disk is well");
            }
        }
        for (file, length) in losses.lengths {
            let Ok(inode) = self.inode(file) else { continue };
            inode.length = length;
            if let Some(content) = &inode.content {
                content.set_len(length).expect("the directory behind the disk is well");
            }
        }
        self.inodes.keys().copied().collect::<Vec<_>>().into_iter().for_each(|file| self.clean(file));
        format!("{told} undone={undone}")
    }
}
