//! An in-memory disk with a virtual clock for tests and the simulation: it remembers every operation, so that the disk
//! after a power cut at any point can be built; it fails the Nth call on demand; and it can hold completions back.
//!
//! Model of a power cut: of each write that had not completed, any subset of its 512-byte sectors is on disk; of
//! the changes of a directory since it was last synced, any subset. All that completed is there.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

use super::{DiskBuffer, Storage, StorageFile};
use crate::clock::Moment;

/// What a power cut leaves whole.
const SECTOR_BYTES: usize = 512;

/// Answers yes or no: a seeded coin for the sectors and names that a power cut spares.
pub type Coin<'a> = &'a mut dyn FnMut() -> bool;

/// Shared with pins, which travel between threads.
type Contents = Arc<Mutex<Vec<u8>>>;

fn lock(contents: &Contents) -> MutexGuard<'_, Vec<u8>> {
    contents.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One thing that happened, in order.
#[derive(Clone, Debug)]
enum Event {
    Create { path: String, file: usize },
    Rename { from: String, to: String },
    Remove { path: String },
    SyncDir { dir: String },
    Write { file: usize, offset: usize, bytes: Rc<[u8]>, write: usize },
    Done { write: usize },
}

/// How calls fail.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// Which call fails first, counted from 0 over creates, opens, renames, removes, writes, reads, syncs.
    pub call: u64,
    /// The error number: EIO, ENOSPC, …
    pub errno: i32,
    /// Whether all later calls fail too.
    pub sticky: bool,
}

/// What was read from files.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reads {
    /// Most bytes asked for at once.
    pub most: usize,
    /// Bytes asked for, all calls together.
    pub all: usize,
}

/// What was written to files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Writes {
    /// Durable writes: on a real disk each is a sync.
    pub calls: u64,
    /// Bytes, all calls together.
    pub bytes: u64,
}

#[derive(Default)]
struct Disk {
    names: BTreeMap<String, usize>,
    files: Vec<Contents>,
    events: Vec<Event>,
    writes: usize,
    calls: u64,
    fault: Option<Fault>,
    held: bool,
    released: Vec<Waker>,
    now: Moment,
    sleepers: Vec<(Moment, Waker)>,
    free: u64,
    reads: Reads,
    written: Writes,
    /// Whether operations are not remembered.
    forgets: bool,
}

impl Disk {
    fn remember(&mut self, event: Event) {
        if !self.forgets {
            self.events.push(event);
        }
    }
}

/// A disk; clones share it.
#[derive(Clone, Default)]
pub struct MemoryDisk {
    disk: Rc<RefCell<Disk>>,
}

/// A file on a [`MemoryDisk`].
pub struct MemoryFile {
    disk: MemoryDisk,
    file: usize,
}

/// A plain vector.
pub struct MemoryBuffer(Vec<u8>);

impl DiskBuffer for MemoryBuffer {
    fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    fn as_bytes_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }

    fn truncate(&mut self, bytes: usize) {
        self.0.truncate(bytes);
    }
}

impl MemoryDisk {
    /// An empty disk with `free` bytes.
    pub fn new(free: u64) -> Self {
        let disk = Disk { free, ..Disk::default() };
        Self { disk: Rc::new(RefCell::new(disk)) }
    }

    /// The same without a history: its power cannot be cut, and what it holds does not grow with what was written.
    pub fn without_history(free: u64) -> Self {
        let disk = Disk { free, forgets: true, ..Disk::default() };
        Self { disk: Rc::new(RefCell::new(disk)) }
    }

    /// Events so far: places where the power can be cut.
    pub fn event_count(&self) -> usize {
        self.disk.borrow().events.len()
    }

    /// Calls so far.
    pub fn call_count(&self) -> u64 {
        self.disk.borrow().calls
    }

    /// What was read so far.
    pub fn reads(&self) -> Reads {
        self.disk.borrow().reads
    }

    /// What was written so far.
    pub fn written(&self) -> Writes {
        self.disk.borrow().written
    }

    /// Lets calls fail.
    pub fn set_fault(&self, fault: Option<Fault>) {
        self.disk.borrow_mut().fault = fault;
    }

    /// Sets the free bytes.
    pub fn set_free(&self, free: u64) {
        self.disk.borrow_mut().free = free;
    }

    /// From now on no write completes until this is called with `false`.
    pub fn hold_completions(&self, held: bool) {
        let mut disk = self.disk.borrow_mut();
        disk.held = held;
        let released = if held { Vec::new() } else { std::mem::take(&mut disk.released) };
        drop(disk);
        released.into_iter().for_each(Waker::wake);
    }

    /// Moves the clock to the next timer that somebody sleeps for; `false` if nobody sleeps.
    pub fn advance(&self) -> bool {
        let mut disk = self.disk.borrow_mut();
        let Some(next) = disk.sleepers.iter().map(|(at, _)| *at).min() else { return false };
        disk.now = disk.now.max(next);
        let (due, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut disk.sleepers).into_iter().partition(|(at, _)| *at <= next);
        disk.sleepers = later;
        drop(disk);
        due.into_iter().for_each(|(_, waker)| waker.wake());
        true
    }

    /// Changes one byte of a file behind everybody's back.
    pub fn flip(&self, path: &str, at: usize, mask: u8) {
        let file = self.disk.borrow().names.get(path).copied().expect("the file to damage exists");
        lock(&self.disk.borrow().files[file])[at] ^= mask;
    }

    /// The bytes of a file.
    pub fn contents(&self, path: &str) -> Option<Vec<u8>> {
        let disk = self.disk.borrow();
        disk.names.get(path).map(|file| lock(&disk.files[*file]).clone())
    }

    /// Puts a file there as it stands.
    pub fn put(&self, path: &str, bytes: Vec<u8>) {
        let mut disk = self.disk.borrow_mut();
        let file = disk.files.len();
        disk.files.push(Arc::new(Mutex::new(bytes)));
        disk.names.insert(path.to_owned(), file);
    }

    /// Puts a file there that survives power cuts of this disk.
    pub fn put_durably(&self, path: &str, bytes: Vec<u8>) {
        self.put(path, bytes.clone());
        let mut disk = self.disk.borrow_mut();
        let (file, write) = (disk.files.len() - 1, disk.writes);
        disk.writes += 1;
        let dir = parent(path).to_owned();
        disk.events.extend([
            Event::Create { path: path.to_owned(), file },
            Event::Write { file, offset: 0, bytes: bytes.into(), write },
            Event::Done { write },
            Event::SyncDir { dir },
        ]);
    }

    /// A copy that lacks one file.
    pub fn without(&self, path: &str) -> Self {
        let copy = self.copy();
        copy.disk.borrow_mut().names.remove(path);
        copy
    }

    /// Paths of all files.
    pub fn paths(&self) -> Vec<String> {
        self.disk.borrow().names.keys().cloned().collect()
    }

    /// A disk with the same files and no history.
    pub fn copy(&self) -> Self {
        let copy = Self::new(self.disk.borrow().free);
        for path in self.paths() {
            copy.put(&path, self.contents(&path).unwrap_or_default());
        }
        copy
    }

    /// The disk after the power went off behind the first `events` events. Only for disks that started empty.
    pub fn cut(&self, events: usize, coin: Coin<'_>) -> Self {
        let disk = self.disk.borrow();
        let mut image = Image::default();
        for event in &disk.events[..events] {
            image.apply(event);
        }
        image.lose(coin);
        let after = Self::new(disk.free);
        for (path, file) in image.durable {
            after.put(&path, image.files[file].clone());
        }
        after
    }

    fn call(&self) -> io::Result<()> {
        let mut disk = self.disk.borrow_mut();
        let call = disk.calls;
        disk.calls += 1;
        match disk.fault {
            Some(fault) if fault.call == call || (fault.sticky && call > fault.call) => {
                Err(io::Error::from_raw_os_error(fault.errno))
            }
            _ => Ok(()),
        }
    }

    fn lookup(&self, path: &str) -> io::Result<usize> {
        self.disk.borrow().names.get(path).copied().ok_or(io::ErrorKind::NotFound.into())
    }
}

/// A disk while its history is replayed up to a power cut.
#[derive(Default)]
struct Image {
    names: BTreeMap<String, usize>,
    durable: BTreeMap<String, usize>,
    pending: Vec<Event>,
    files: Vec<Vec<u8>>,
    writes: BTreeMap<usize, (usize, usize, Rc<[u8]>)>,
}

impl Image {
    fn apply(&mut self, event: &Event) {
        match event {
            Event::Write { file, offset, bytes, write } => {
                self.writes.insert(*write, (*file, *offset, bytes.clone()));
            }
            Event::Done { write } => {
                if let Some((file, offset, bytes)) = self.writes.remove(write) {
                    store(&mut self.files[file], offset, &bytes);
                }
            }
            Event::SyncDir { dir } => {
                let (synced, rest): (Vec<_>, Vec<_>) =
                    std::mem::take(&mut self.pending).into_iter().partition(|event| event.dir() == dir);
                self.pending = rest;
                for event in synced {
                    change(&mut self.durable, &event);
                }
            }
            names => {
                if let Event::Create { file, .. } = names {
                    self.files.resize(self.files.len().max(file + 1), Vec::new());
                }
                change(&mut self.names, names);
                self.pending.push(names.clone());
            }
        }
    }

    fn lose(&mut self, coin: Coin<'_>) {
        for event in std::mem::take(&mut self.pending) {
            if coin() {
                change(&mut self.durable, &event);
            }
        }
        for (file, offset, bytes) in std::mem::take(&mut self.writes).into_values() {
            for (index, sector) in bytes.chunks(SECTOR_BYTES).enumerate() {
                if coin() {
                    store(&mut self.files[file], offset + index * SECTOR_BYTES, sector);
                }
            }
        }
    }
}

impl Event {
    fn dir(&self) -> &str {
        match self {
            Event::Create { path, .. } | Event::Remove { path } | Event::Rename { to: path, .. } => {
                parent(path)
            }
            Event::SyncDir { dir } => dir,
            Event::Write { .. } | Event::Done { .. } => "",
        }
    }
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(dir, _)| dir)
}

fn change(names: &mut BTreeMap<String, usize>, event: &Event) {
    match event {
        Event::Create { path, file } => {
            names.insert(path.clone(), *file);
        }
        Event::Remove { path } => {
            names.remove(path);
        }
        Event::Rename { from, to } => {
            if let Some(file) = names.remove(from) {
                names.insert(to.clone(), file);
            }
        }
        Event::SyncDir { .. } | Event::Write { .. } | Event::Done { .. } => {}
    }
}

fn store(file: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if file.len() < offset + bytes.len() {
        file.resize(offset + bytes.len(), 0);
    }
    file[offset..offset + bytes.len()].copy_from_slice(bytes);
}

impl StorageFile for MemoryFile {
    type Buffer = MemoryBuffer;
    type Bytes = Vec<u8>;
    type Pin = Contents;

    async fn write_at(&self, buffer: MemoryBuffer, offset: u64) -> io::Result<()> {
        self.disk.call()?;
        let bytes: Rc<[u8]> = buffer.0.into();
        let offset = offset as usize;
        let write = {
            let mut disk = self.disk.disk.borrow_mut();
            let write = disk.writes;
            disk.writes += 1;
            disk.written.calls += 1;
            disk.written.bytes += bytes.len() as u64;
            disk.remember(Event::Write { file: self.file, offset, bytes: bytes.clone(), write });
            write
        };
        let mut polled = false;
        poll_fn(|context| {
            let mut disk = self.disk.disk.borrow_mut();
            if disk.held {
                disk.released.push(context.waker().clone());
                return Poll::Pending;
            }
            // A real write never completes within the call either.
            if !std::mem::replace(&mut polled, true) {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            disk.remember(Event::Done { write });
            store(&mut lock(&disk.files[self.file]), offset, &bytes);
            Poll::Ready(Ok(()))
        })
        .await
    }

    async fn read_at(&self, offset: u64, bytes: usize) -> io::Result<Vec<u8>> {
        self.disk.call()?;
        let mut disk = self.disk.disk.borrow_mut();
        disk.reads = Reads { most: disk.reads.most.max(bytes), all: disk.reads.all + bytes };
        let file = lock(&disk.files[self.file]);
        let start = (offset as usize).min(file.len());
        Ok(file[start..(start + bytes).min(file.len())].to_vec())
    }

    async fn sync(&self) -> io::Result<()> {
        self.disk.call()
    }

    async fn size(&self) -> io::Result<u64> {
        Ok(lock(&self.disk.disk.borrow().files[self.file]).len() as u64)
    }

    fn pin(&self) -> io::Result<Contents> {
        Ok(self.disk.disk.borrow().files[self.file].clone())
    }
}

impl Storage for MemoryDisk {
    type Buffer = MemoryBuffer;
    type Bytes = Vec<u8>;
    type Pin = Contents;
    type File = MemoryFile;

    fn buffer(&self, bytes: usize) -> MemoryBuffer {
        // Not zeros: who relies on them writes old memory to disk.
        MemoryBuffer(vec![0xA5; bytes])
    }

    async fn create(&self, path: &str) -> io::Result<MemoryFile> {
        self.call()?;
        if self.lookup(path).is_ok() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.put(path, Vec::new());
        let file = self.lookup(path)?;
        self.disk.borrow_mut().remember(Event::Create { path: path.to_owned(), file });
        Ok(MemoryFile { disk: self.clone(), file })
    }

    async fn open(&self, path: &str) -> io::Result<MemoryFile> {
        self.call()?;
        Ok(MemoryFile { disk: self.clone(), file: self.lookup(path)? })
    }

    async fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.call()?;
        self.lookup(from)?;
        let event = Event::Rename { from: from.to_owned(), to: to.to_owned() };
        let mut disk = self.disk.borrow_mut();
        change(&mut disk.names, &event);
        disk.remember(event);
        Ok(())
    }

    async fn remove(&self, path: &str) -> io::Result<()> {
        self.call()?;
        self.lookup(path)?;
        let event = Event::Remove { path: path.to_owned() };
        let mut disk = self.disk.borrow_mut();
        change(&mut disk.names, &event);
        disk.remember(event);
        Ok(())
    }

    async fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        self.call()?;
        let disk = self.disk.borrow();
        let within = disk.names.keys().filter(|path| parent(path) == dir);
        Ok(within.map(|path| path[path.len().min(dir.len() + 1)..].to_owned()).collect())
    }

    async fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.call()?;
        self.disk.borrow_mut().remember(Event::SyncDir { dir: dir.to_owned() });
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        Ok(self.disk.borrow().free)
    }

    async fn read_pinned(&self, pin: &Contents, offset: u64, bytes: usize) -> io::Result<Vec<u8>> {
        let pin = lock(pin);
        let start = (offset as usize).min(pin.len());
        Ok(pin[start..(start + bytes).min(pin.len())].to_vec())
    }

    fn now(&self) -> Moment {
        self.disk.borrow().now
    }

    async fn sleep(&self, wait: Duration) {
        let until = self.now() + wait;
        poll_fn(|context| {
            if self.now() >= until {
                return Poll::Ready(());
            }
            self.disk.borrow_mut().sleepers.push((until, context.waker().clone()));
            Poll::Pending
        })
        .await;
    }
}
