//! A disk in memory with a virtual clock, for tests and the simulation. It remembers every operation, so that the disk
//! after a power cut at any moment can be built; calls fail, lie or take their time by a [`FaultPlan`]; completions can be
//! held back. Nothing in it is random: what happens follows from the calls, the plan and the coin.
//!
//! `platter` holds names and bytes and knows what a power cut leaves; `fault` says what goes wrong; `calls` brings both
//! together behind the [`Storage`](super::Storage) trait.

mod calls;
mod fault;
mod platter;
#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;

pub use fault::{Call, Dice, Fault, FaultPlan, Nature, Rule};
pub use platter::{Coin, SECTOR_BYTES, Unsafe};

use crate::clock::Moment;
use platter::{Change, Contents, Event, Platter, lock};

/// What was read from files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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
    /// Calls at a place of a file where a write of the same process had failed. Nobody may: the kernel marks the pages
    /// clean.
    pub retries: u64,
}

/// Memory for writes that is in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Buffers {
    /// Bytes now.
    pub bytes: usize,
    /// Most bytes at any time.
    pub most: usize,
}

/// What happened since the disk was as `start` says.
#[derive(Clone, Default)]
struct History {
    start: Platter,
    events: Vec<Event>,
}

#[derive(Default)]
struct Disk {
    platter: Platter,
    /// The last path of each file, for rules.
    paths: Vec<Rc<str>>,
    history: Option<History>,
    writes: usize,
    calls: u64,
    plan: FaultPlan,
    failed: BTreeSet<(usize, usize)>,
    held: bool,
    released: Vec<Waker>,
    now: Moment,
    sleepers: Vec<(Moment, Waker)>,
    capacity: u64,
    reads: Reads,
    written: Writes,
}

impl Disk {
    fn happen(&mut self, event: Event) {
        match &event {
            Event::Change(Change::Create { path, .. }) | Event::Put { path, .. } => {
                self.paths.push(path.clone())
            }
            Event::Change(Change::Rename { to, file, .. }) => {
                self.paths[*file] = to.clone();
                // It is used for something else: what is written there now is no second try.
                self.failed.retain(|(failed, _)| failed != file);
            }
            _ => {}
        }
        self.platter.apply(&event);
        match &mut self.history {
            Some(history) => history.events.push(event),
            None if matches!(event, Event::SyncDir { .. }) => self.platter.forget_nameless(),
            None => {}
        }
    }

    fn free(&self) -> u64 {
        self.capacity.saturating_sub(self.platter.used_bytes())
    }

    fn file(&self, path: &str) -> io::Result<usize> {
        self.platter.names.get(path).copied().ok_or(io::ErrorKind::NotFound.into())
    }
}

/// A disk; clones share it.
#[derive(Clone, Default)]
pub struct MemoryDisk {
    disk: Rc<RefCell<Disk>>,
    buffers: Rc<Cell<Buffers>>,
}

/// A file on a [`MemoryDisk`].
pub struct MemoryFile {
    disk: MemoryDisk,
    file: usize,
    /// Held, so that a file without a name keeps its bytes until it is closed.
    contents: Contents,
}

/// Keeps a file readable.
#[derive(Clone, Debug)]
pub struct MemoryPin {
    path: Arc<str>,
    contents: Contents,
}

/// A plain vector that is counted.
pub struct MemoryBuffer {
    bytes: Vec<u8>,
    buffers: Rc<Cell<Buffers>>,
}

/// Faults, space and time.
impl MemoryDisk {
    /// An empty disk with room for `capacity` bytes, that remembers what happens.
    pub fn new(capacity: u64) -> Self {
        let disk = Self::without_history(capacity);
        disk.disk.borrow_mut().history = Some(History::default());
        disk
    }

    /// The same without a history: its power can be cut now and not in its past, and what it holds does not grow with
    /// what was written.
    pub fn without_history(capacity: u64) -> Self {
        let disk = Disk { capacity, ..Disk::default() };
        Self { disk: Rc::new(RefCell::new(disk)), buffers: Rc::default() }
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

    /// Memory for writes.
    pub fn buffers(&self) -> Buffers {
        self.buffers.get()
    }

    /// From now on calls go wrong by this plan, which counts them from here.
    pub fn set_faults(&self, plan: impl Into<FaultPlan>) {
        self.disk.borrow_mut().plan = plan.into();
    }

    /// From now on all goes well.
    pub fn heal(&self) {
        self.set_faults(FaultPlan::default());
    }

    /// A new process begins: what failed in the one before may be tried again.
    pub fn restarted(&self) {
        self.disk.borrow_mut().failed.clear();
    }

    /// Somebody else takes or gives room, so that `free` bytes are left now. A write that makes a file longer than there
    /// is room for fails with ENOSPC.
    pub fn set_free(&self, free: u64) {
        let mut disk = self.disk.borrow_mut();
        disk.capacity = disk.platter.used_bytes().saturating_add(free);
    }

    /// From now on no write completes until this is called with `false`.
    pub fn hold_completions(&self, held: bool) {
        let mut disk = self.disk.borrow_mut();
        disk.held = held;
        let released = if held { Vec::new() } else { std::mem::take(&mut disk.released) };
        drop(disk);
        released.into_iter().for_each(Waker::wake);
    }

    /// When the next timer fires that somebody sleeps for.
    pub fn next_timer(&self) -> Option<Moment> {
        self.disk.borrow().sleepers.iter().map(|(at, _)| *at).min()
    }

    /// Moves the clock, which never goes back, and wakes whoever slept until then.
    pub fn advance_to(&self, moment: Moment) {
        let mut disk = self.disk.borrow_mut();
        disk.now = disk.now.max(moment);
        let now = disk.now;
        let (due, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut disk.sleepers).into_iter().partition(|(at, _)| *at <= now);
        disk.sleepers = later;
        drop(disk);
        due.into_iter().for_each(|(_, waker)| waker.wake());
    }

    /// Moves the clock to the next timer; `false` if nobody sleeps.
    pub fn advance(&self) -> bool {
        let next = self.next_timer();
        next.into_iter().for_each(|next| self.advance_to(next));
        next.is_some()
    }
}

/// Looking and tampering behind everybody's back. Paths of files that must exist panic if they do not.
impl MemoryDisk {
    /// Paths of all files.
    pub fn paths(&self) -> Vec<String> {
        self.disk.borrow().platter.names.keys().map(|path| path.to_string()).collect()
    }

    /// The bytes of a file.
    pub fn contents(&self, path: &str) -> Option<Vec<u8>> {
        let disk = self.disk.borrow();
        disk.platter.names.get(path).map(|file| lock(&disk.platter.files[*file]).to_vec())
    }

    /// Puts a file there as if it had always been.
    pub fn put(&self, path: &str, bytes: Vec<u8>) {
        self.disk.borrow_mut().happen(Event::Put { path: path.into(), bytes: Arc::new(bytes) });
    }

    /// Flips bits of one byte of a file.
    pub fn flip(&self, path: &str, at: usize, mask: u8) {
        let mut bytes = self.contents(path).expect("the file to damage exists");
        bytes[at] ^= mask;
        self.put(path, bytes);
    }

    /// A copy that lacks one file.
    pub fn without(&self, path: &str) -> Self {
        self.copy_of(|name| name != path)
    }

    /// A disk with the same files, all of them safe, and no past.
    pub fn copy(&self) -> Self {
        self.copy_of(|_| true)
    }

    fn copy_of(&self, wanted: impl Fn(&str) -> bool) -> Self {
        let disk = self.disk.borrow();
        let mut platter = Platter::default();
        for (path, file) in disk.platter.names.iter().filter(|(path, _)| wanted(path)) {
            platter
                .apply(&Event::Put { path: path.clone(), bytes: lock(&disk.platter.files[*file]).clone() });
        }
        Self::holding(platter, &disk)
    }
}

/// Power cuts. A disk that comes of one has a history of its own, if the one before it had.
impl MemoryDisk {
    /// A disk like `before` with `platter` in it.
    fn holding(platter: Platter, before: &Disk) -> Self {
        let mut paths = vec![Rc::from(""); platter.files.len()];
        for (path, file) in &platter.names {
            paths[*file] = path.clone();
        }
        let history = before.history.as_ref().map(|_| History { start: platter.clone(), events: Vec::new() });
        let disk = Disk { platter, paths, history, capacity: before.capacity, ..Disk::default() };
        Self { disk: Rc::new(RefCell::new(disk)), buffers: Rc::default() }
    }

    /// The disk after the power goes off now.
    pub fn cut_now(&self, coin: Coin<'_>) -> Self {
        let disk = self.disk.borrow();
        Self::holding(disk.platter.cut(coin), &disk)
    }

    /// Events so far: moments at which the power can be cut. 0 without a history.
    pub fn event_count(&self) -> usize {
        self.disk.borrow().history.as_ref().map_or(0, |history| history.events.len())
    }

    /// The disk after the power went off behind the first `events` events.
    pub fn cut(&self, events: usize, coin: Coin<'_>) -> Self {
        let mut cuts = self.cuts();
        while cuts.events() < events && cuts.step() {}
        cuts.image(coin)
    }

    /// All moments at which the power could have gone off, for those who want many of them. Panics without a history.
    pub fn cuts(&self) -> Cuts {
        let disk = self.disk.borrow();
        let history = disk.history.as_ref().expect("only a disk with a history has a past");
        Cuts { disk: self.clone(), platter: history.start.clone(), events: 0 }
    }
}

/// A walk through the past of a disk.
pub struct Cuts {
    disk: MemoryDisk,
    platter: Platter,
    events: usize,
}

impl Cuts {
    /// Events that have happened by now.
    pub fn events(&self) -> usize {
        self.events
    }

    /// One event on; `false` at the end.
    pub fn step(&mut self) -> bool {
        let disk = self.disk.disk.borrow();
        let event = disk.history.as_ref().and_then(|history| history.events.get(self.events));
        event.inspect(|event| self.platter.apply(event));
        self.events += usize::from(event.is_some());
        event.is_some()
    }

    /// How often [`Self::image`] asks its coin.
    pub fn at_risk(&self) -> Unsafe {
        self.platter.at_risk()
    }

    /// The disk after a power cut here.
    pub fn image(&self, coin: Coin<'_>) -> MemoryDisk {
        MemoryDisk::holding(self.platter.cut(coin), &self.disk.disk.borrow())
    }
}
