//! PURE. The shard's end of the exchange: which job may go where, and what workers must be told.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::hash::HashState;

use super::shares::Waiting;
use super::{CREDITS_AT_START, Demand, Grant, home};
use crate::clock::WallTime;
use crate::id::{PathId, WorkerIndex};
use crate::routing::PathSpec;

/// What may be on its way to one worker, or waiting there, at the same time.
#[derive(Clone, Copy, Debug)]
pub struct WindowLimits {
    /// Jobs.
    pub jobs: u32,
    /// Bytes of their messages. One job is let through whatever its size.
    pub bytes: u64,
}

/// Credits, windows and demands of one shard.
#[derive(Debug)]
pub struct Ledger {
    workers: u16,
    /// The worker on the same executor: a job to it crosses no thread, so its credits are used first.
    near: Option<WorkerIndex>,
    limits: WindowLimits,
    windows: Vec<Window>,
    paths: HashMap<PathId, Entry, HashState>,
    /// Paths with ready legs that may have a usable credit, in turn.
    sendable: VecDeque<PathId>,
    /// By worker: paths that had a credit but found the window closed, each once. They come first when it opens.
    blocked: Vec<VecDeque<PathId>>,
    /// Lanes that must be told something.
    dirty: VecDeque<(PathId, WorkerIndex)>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Window {
    jobs: u32,
    bytes: u64,
}

impl Window {
    fn admits_one(self, limits: WindowLimits) -> bool {
        self.jobs == 0 || (self.jobs < limits.jobs && self.bytes < limits.bytes)
    }
}

#[derive(Debug)]
struct Entry {
    spec: Arc<PathSpec>,
    ready: u32,
    oldest: WallTime,
    waiting: Waiting,
    lanes: Vec<Lane>,
    listed: bool,
}

#[derive(Debug)]
struct Lane {
    worker: WorkerIndex,
    epoch: u32,
    granted: u64,
    sent: u64,
    /// Ready legs that the worker has been told of.
    told: u32,
    /// The worker knows the path: a job may follow on the same channel.
    announced: bool,
    dirty: bool,
    /// A tenant has joined, and the worker has not been told.
    joined: bool,
    /// The path stands among the worker's blocked ones.
    blocked: bool,
}

impl Lane {
    fn new(worker: WorkerIndex, epoch: u32, granted: u64, announced: bool) -> Self {
        Self {
            worker,
            epoch,
            granted,
            sent: 0,
            told: 0,
            announced,
            dirty: false,
            joined: false,
            blocked: false,
        }
    }

    fn credits(&self) -> u64 {
        self.granted.saturating_sub(self.sent)
    }
}

impl Ledger {
    /// A ledger for a process with `workers` workers, of which `near` shares the shard's executor.
    pub fn new(workers: u16, near: Option<WorkerIndex>, limits: WindowLimits) -> Self {
        assert!(workers > 0, "a relay has at least one worker");
        Self {
            workers,
            near,
            limits,
            windows: vec![Window::default(); usize::from(workers)],
            paths: HashMap::default(),
            sendable: VecDeque::new(),
            blocked: vec![VecDeque::new(); usize::from(workers)],
            dirty: VecDeque::new(),
        }
    }

    /// Takes over what control says of a path. A newer version of a known path is passed on to its workers.
    pub fn learn(&mut self, spec: Arc<PathSpec>) {
        let path = spec.id;
        match self.paths.get_mut(&path) {
            Some(entry) if entry.spec.version >= spec.version => {}
            Some(entry) => {
                entry.spec = spec;
                for lane in &mut entry.lanes {
                    mark(&mut self.dirty, path, lane);
                }
            }
            None => {
                let entry = Entry {
                    spec,
                    ready: 0,
                    oldest: WallTime::default(),
                    waiting: Waiting::default(),
                    lanes: Vec::new(),
                    listed: false,
                };
                self.paths.insert(path, entry);
            }
        }
    }

    /// Takes over what the queue says of a path that has been learnt.
    pub fn set_ready(&mut self, path: PathId, ready: u32, oldest: WallTime) {
        let workers = self.workers;
        let Some(entry) = self.paths.get_mut(&path) else { return };
        (entry.ready, entry.oldest) = (ready, oldest);
        if entry.lanes.is_empty() && ready > 0 {
            let worker = home(path, workers);
            let mut lane = Lane::new(worker, 0, CREDITS_AT_START, false);
            mark(&mut self.dirty, path, &mut lane);
            entry.lanes.push(lane);
        }
        let without_credit = ready > 0 && entry.lanes.iter().all(|lane| lane.credits() == 0);
        for lane in &mut entry.lanes {
            // Told again when it would change what the worker does: news of any demand where there is no credit left,
            // demand that has doubled, and its end.
            if (without_credit && lane.told == 0) || ready / 2 > lane.told || (ready == 0 && lane.told > 0) {
                mark(&mut self.dirty, path, lane);
            }
        }
        self.list(path);
    }

    /// Takes over whose legs they are, before [`Self::set_ready`]. Told to the workers at once if a tenant has joined.
    pub fn set_waiting(&mut self, path: PathId, waiting: Waiting, joined: bool) {
        let Some(entry) = self.paths.get_mut(&path) else { return };
        entry.waiting = waiting;
        if joined {
            for lane in &mut entry.lanes {
                lane.joined = true;
                mark(&mut self.dirty, path, lane);
            }
        }
    }

    /// Takes over a grant.
    pub fn grant(&mut self, grant: Grant) {
        let Some(entry) = self.paths.get_mut(&grant.path) else { return };
        let at = entry.lanes.iter().position(|lane| lane.worker == grant.worker).unwrap_or_else(|| {
            entry.lanes.push(Lane::new(grant.worker, grant.epoch, 0, true));
            entry.lanes.len() - 1
        });
        let lane = &mut entry.lanes[at];
        if grant.epoch == lane.epoch {
            if lane.told == 0 && grant.granted > lane.granted {
                // The worker guesses: it must hear what there is, even if that is nothing.
                mark(&mut self.dirty, grant.path, lane);
            }
            lane.granted = lane.granted.max(grant.granted);
        } else if grant.epoch.wrapping_sub(lane.epoch) < u32::MAX / 2 {
            (lane.epoch, lane.granted, lane.sent) = (grant.epoch, grant.granted, 0);
            mark(&mut self.dirty, grant.path, lane);
        }
        self.list(grant.path);
    }

    /// The next path that may send a job, and to whom; `None` when no credit can be used now. The caller then calls
    /// [`Self::sent`], or [`Self::set_ready`] with what the queue really has.
    pub fn next_send(&mut self) -> Option<(PathId, WorkerIndex)> {
        while let Some(path) = self.next_candidate() {
            let Some(entry) = self.paths.get_mut(&path) else { continue };
            if entry.ready == 0 {
                continue;
            }
            match pick(entry, &self.windows, self.limits, self.near) {
                Pick::Lane(worker) => {
                    if !std::mem::replace(&mut entry.listed, true) {
                        self.sendable.push_back(path);
                    }
                    return Some((path, worker));
                }
                Pick::NoWindow => {
                    let waits = |lane: &&mut Lane| lane.credits() > 0 && lane.announced && !lane.blocked;
                    for lane in entry.lanes.iter_mut().filter(waits) {
                        lane.blocked = true;
                        self.blocked[usize::from(lane.worker.0)].push_back(path);
                    }
                }
                Pick::NoCredit => {
                    for lane in &mut entry.lanes {
                        if lane.told == 0 {
                            mark(&mut self.dirty, path, lane);
                        }
                    }
                }
            }
        }
        None
    }

    /// A path to look at: one that waited for a window that is open now, else the next in turn.
    fn next_candidate(&mut self) -> Option<PathId> {
        for (worker, blocked) in self.blocked.iter_mut().enumerate() {
            if blocked.is_empty() || !self.windows[worker].admits_one(self.limits) {
                continue;
            }
            let path = blocked.pop_front()?;
            let lanes = self.paths.get_mut(&path).map(|entry| entry.lanes.iter_mut());
            if let Some(lane) = lanes.and_then(|mut lanes| lanes.find(|l| usize::from(l.worker.0) == worker))
            {
                lane.blocked = false;
            }
            return Some(path);
        }
        let path = self.sendable.pop_front()?;
        if let Some(entry) = self.paths.get_mut(&path) {
            entry.listed = false;
        }
        Some(path)
    }

    /// A job of `bytes` goes to `worker`, one of `path`'s ready legs, of which the queue now has `left`: its news come
    /// only with large changes, and a leg that goes in parts stays ready.
    pub fn sent(&mut self, path: PathId, worker: WorkerIndex, bytes: u32, left: u32) {
        let entry = self.paths.get_mut(&path).expect("a job goes to a path that next_send named");
        let lane = entry.lanes.iter_mut().find(|lane| lane.worker == worker).expect("likewise the worker");
        assert!(lane.credits() > 0, "a job without a credit");
        lane.sent += 1;
        lane.told = lane.told.saturating_sub(1);
        entry.ready = left;
        let window = &mut self.windows[usize::from(worker.0)];
        window.jobs += 1;
        window.bytes += u64::from(bytes);
    }

    /// A job's report came back.
    pub fn reported(&mut self, worker: WorkerIndex, bytes: u32) {
        let window = &mut self.windows[usize::from(worker.0)];
        assert!(window.jobs > 0, "more reports than jobs");
        window.jobs -= 1;
        window.bytes = window.bytes.saturating_sub(u64::from(bytes));
    }

    /// The next thing to tell a worker. `has_room` says whether the channel to it takes one more message; a demand that
    /// does not fit waits here.
    pub fn poll_demand(&mut self, has_room: impl Fn(WorkerIndex) -> bool) -> Option<(WorkerIndex, Demand)> {
        for _ in 0..self.dirty.len() {
            let (path, worker) = self.dirty.pop_front()?;
            let Some(entry) = self.paths.get_mut(&path) else { continue };
            let Some(lane) = entry.lanes.iter_mut().find(|lane| lane.worker == worker) else { continue };
            if !has_room(worker) {
                self.dirty.push_back((path, worker));
                continue;
            }
            (lane.dirty, lane.announced) = (false, true);
            lane.told = entry.ready;
            // A lane that waited for its announcement may send now.
            let listed = std::mem::replace(&mut entry.listed, true);
            if !listed {
                self.sendable.push_back(path);
            }
            let demand = Demand {
                path: entry.spec.clone(),
                epoch: lane.epoch,
                sent: lane.sent,
                ready: entry.ready,
                oldest: entry.oldest,
                waiting: entry.waiting.clone(),
                joined: std::mem::take(&mut lane.joined),
            };
            return Some((worker, demand));
        }
        None
    }

    /// Jobs at workers or on their way.
    pub fn jobs_out(&self) -> u64 {
        self.windows.iter().map(|window| u64::from(window.jobs)).sum()
    }

    /// Credits that could be used now, over all paths.
    pub fn credits(&self) -> u64 {
        self.paths.values().flat_map(|entry| &entry.lanes).map(Lane::credits).sum()
    }

    /// The newest word of control on a path.
    pub fn spec(&self, path: PathId) -> Option<&Arc<PathSpec>> {
        self.paths.get(&path).map(|entry| &entry.spec)
    }

    /// Paths with this name.
    pub fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = PathId> + 'a {
        self.paths.iter().filter(move |(_, entry)| entry.spec.name == name).map(|(path, _)| *path)
    }

    fn list(&mut self, path: PathId) {
        let Some(entry) = self.paths.get_mut(&path) else { return };
        if !entry.listed && entry.ready > 0 && entry.lanes.iter().any(|lane| lane.credits() > 0) {
            entry.listed = true;
            self.sendable.push_back(path);
        }
    }
}

enum Pick {
    Lane(WorkerIndex),
    NoWindow,
    NoCredit,
}

/// The near lane if it can take a job, else the one with the most credits.
fn pick(entry: &Entry, windows: &[Window], limits: WindowLimits, near: Option<WorkerIndex>) -> Pick {
    let mut best: Option<&Lane> = None;
    let mut credit = false;
    for lane in entry.lanes.iter().filter(|lane| lane.credits() > 0) {
        credit = true;
        if !lane.announced || !windows[usize::from(lane.worker.0)].admits_one(limits) {
            continue;
        }
        if Some(lane.worker) == near {
            return Pick::Lane(lane.worker);
        }
        if best.is_none_or(|best| lane.credits() > best.credits()) {
            best = Some(lane);
        }
    }
    match best {
        Some(lane) => Pick::Lane(lane.worker),
        None if credit => Pick::NoWindow,
        None => Pick::NoCredit,
    }
}

fn mark(dirty: &mut VecDeque<(PathId, WorkerIndex)>, path: PathId, lane: &mut Lane) {
    if !lane.dirty {
        lane.dirty = true;
        dirty.push_back((path, lane.worker));
    }
}
