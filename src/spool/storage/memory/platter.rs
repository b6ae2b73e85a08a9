//! PURE. What a disk in memory holds: as programs see it, and as a power cut would leave it.
//!
//! Model of a power cut: of each write that has not completed, any subset of its 512-byte sectors is on disk; of the
//! changes of a directory since it was last synced, any subset. All that has completed is there. A file system that keeps
//! the order of names, or writes sectors in whole blocks, is one case of that.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a power cut leaves whole.
pub const SECTOR_BYTES: usize = 512;

/// Answers whether the next thing that is not safe survives a power cut: first each change of a name, in order, then
/// each sector of each write, in order.
pub type Coin<'a> = &'a mut dyn FnMut() -> bool;

/// What hangs on a power cut at some moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unsafe {
    /// Changes of names.
    pub names: usize,
    /// Sectors of writes.
    pub sectors: usize,
}

/// Bytes of a file. The lock is for pins, which travel between threads; the inner reference lets images share bytes
/// until one of them writes.
pub(super) type Contents = Arc<Mutex<Arc<Vec<u8>>>>;

pub(super) fn lock(contents: &Contents) -> MutexGuard<'_, Arc<Vec<u8>>> {
    contents.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The directory that a path is in.
pub(super) fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(dir, _)| dir)
}

/// A change of names. It is about one file: what has its name after a power cut took an earlier change is left alone.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Create { path: Rc<str>, file: usize },
    Rename { from: Rc<str>, to: Rc<str>, file: usize },
    Remove { path: Rc<str>, file: usize },
}

impl Change {
    /// Whose sync makes it safe.
    fn dir(&self) -> &str {
        match self {
            Self::Create { path, .. } | Self::Remove { path, .. } | Self::Rename { to: path, .. } => {
                parent(path)
            }
        }
    }

    fn make(&self, names: &mut Names) {
        let mut take = |path: &Rc<str>, file: &usize| {
            if names.get(path) == Some(file) {
                names.remove(path);
            }
        };
        match self {
            Self::Remove { path, file } => take(path, file),
            Self::Rename { from, file, .. } => take(from, file),
            Self::Create { .. } => {}
        }
        if let Self::Create { path, file } | Self::Rename { to: path, file, .. } = self {
            names.insert(path.clone(), *file);
        }
    }
}

/// One thing that happened, in order.
#[derive(Clone, Debug)]
pub(super) enum Event {
    Change(Change),
    SyncDir {
        dir: Rc<str>,
    },
    /// A write was begun.
    Write {
        write: usize,
        file: usize,
        offset: usize,
        bytes: Rc<[u8]>,
    },
    /// It completed and is safe.
    Done {
        write: usize,
    },
    /// It completed, as far as programs can see.
    Cached {
        write: usize,
    },
    /// What was cached of a file is safe.
    Flush {
        file: usize,
    },
    /// Bytes that have always been there.
    Put {
        path: Rc<str>,
        bytes: Arc<Vec<u8>>,
    },
}

/// A write that a power cut may tear.
#[derive(Clone, Debug)]
struct Write {
    file: usize,
    offset: usize,
    bytes: Rc<[u8]>,
    /// What stood there, if programs see the write already.
    before: Option<Vec<u8>>,
}

type Names = BTreeMap<Rc<str>, usize>;

/// Names and bytes.
#[derive(Debug, Default)]
pub(super) struct Platter {
    pub names: Names,
    pub files: Vec<Contents>,
    durable: Names,
    changes: Vec<Change>,
    writes: BTreeMap<usize, Write>,
}

impl Clone for Platter {
    /// The same bytes in files of its own.
    fn clone(&self) -> Self {
        let (names, durable) = (self.names.clone(), self.durable.clone());
        let (changes, writes) = (self.changes.clone(), self.writes.clone());
        Self { names, files: self.own_files(), durable, changes, writes }
    }
}

impl Platter {
    fn own_files(&self) -> Vec<Contents> {
        self.files.iter().map(|file| Arc::new(Mutex::new(lock(file).clone()))).collect()
    }

    /// What happens to this platter, and is all that ever changes it.
    pub fn apply(&mut self, event: &Event) {
        match event {
            Event::Change(change) => {
                if let Change::Create { file, .. } = change {
                    self.files.resize_with(self.files.len().max(file + 1), Contents::default);
                }
                change.make(&mut self.names);
                self.changes.push(change.clone());
            }
            Event::SyncDir { dir } => {
                let (synced, rest): (Vec<_>, Vec<_>) =
                    std::mem::take(&mut self.changes).into_iter().partition(|change| change.dir() == &**dir);
                self.changes = rest;
                synced.iter().for_each(|change| change.make(&mut self.durable));
            }
            Event::Write { write, file, offset, bytes } => {
                let (file, offset, bytes) = (*file, *offset, bytes.clone());
                self.writes.insert(*write, Write { file, offset, bytes, before: None });
            }
            Event::Done { write } => {
                if let Some(done) = self.writes.remove(write) {
                    store(&self.files[done.file], done.offset, &done.bytes);
                }
            }
            Event::Cached { write } => {
                if let Some(cached) = self.writes.get_mut(write) {
                    let file = &self.files[cached.file];
                    cached.before = Some(bytes_at(file, cached.offset, cached.bytes.len()));
                    store(file, cached.offset, &cached.bytes);
                }
            }
            Event::Flush { file } => {
                self.writes.retain(|_, write| write.file != *file || write.before.is_none());
            }
            Event::Put { path, bytes } => {
                let file = self.files.len();
                self.files.push(Arc::new(Mutex::new(bytes.clone())));
                self.names.insert(path.clone(), file);
                self.durable.insert(path.clone(), file);
            }
        }
    }

    /// What a power cut now may take.
    pub fn at_risk(&self) -> Unsafe {
        let sectors = self.writes.values().map(|write| write.bytes.len().div_ceil(SECTOR_BYTES)).sum();
        Unsafe { names: self.changes.len(), sectors }
    }

    /// What is left after a power cut now.
    pub fn cut(&self, coin: Coin<'_>) -> Self {
        let mut durable = self.durable.clone();
        for change in &self.changes {
            if coin() {
                change.make(&mut durable);
            }
        }
        let files = self.own_files();
        let mut lost = Vec::new();
        for write in self.writes.values() {
            for (index, sector) in write.bytes.chunks(SECTOR_BYTES).enumerate() {
                let at = index * SECTOR_BYTES;
                match (&write.before, coin()) {
                    (None, true) => store(&files[write.file], write.offset + at, sector),
                    (Some(before), false) => lost.push((write, at, &before[at..at + sector.len()])),
                    _ => {}
                }
            }
        }
        // What programs saw is taken back, the latest first.
        for (write, at, before) in lost.into_iter().rev() {
            store(&files[write.file], write.offset + at, before);
        }
        // Files without a name stay, as empty numbers.
        let mut left = Self { names: durable.clone(), files, durable, ..Self::default() };
        left.forget_nameless();
        left
    }

    /// Lets go of bytes that no name leads to, and none will.
    pub fn forget_nameless(&mut self) {
        let mut named = vec![false; self.files.len()];
        let changed = self.changes.iter().map(|change| match change {
            Change::Create { file, .. } | Change::Rename { file, .. } | Change::Remove { file, .. } => file,
        });
        for &file in self.names.values().chain(self.durable.values()).chain(changed) {
            named[file] = true;
        }
        for (file, named) in self.files.iter_mut().zip(named) {
            if !named {
                *file = Contents::default();
            }
        }
    }

    /// Bytes of all files that have a name.
    pub fn used_bytes(&self) -> u64 {
        self.names.values().map(|file| lock(&self.files[*file]).len() as u64).sum()
    }
}

/// `bytes` bytes of a file; zeros where there are none.
fn bytes_at(file: &Contents, offset: usize, bytes: usize) -> Vec<u8> {
    let file = lock(file);
    let there = &file[offset.min(file.len())..(offset + bytes).min(file.len())];
    longer(there, bytes)
}

/// `bytes` with zeros behind it. Not `Vec::resize`, which goes byte by byte in builds for tests.
fn longer(bytes: &[u8], wanted: usize) -> Vec<u8> {
    let mut all = vec![0; wanted];
    all[..bytes.len()].copy_from_slice(bytes);
    all
}

fn store(file: &Contents, offset: usize, bytes: &[u8]) {
    let mut file = lock(file);
    let file = Arc::make_mut(&mut *file);
    if file.len() < offset + bytes.len() {
        *file = longer(file, offset + bytes.len());
    }
    file[offset..offset + bytes.len()].copy_from_slice(bytes);
}
