//! A worker's paths: the ones it is home of, its lanes, their connections; what shards and other workers say to them.
//!
//! One task takes in messages; each connection is a task of its own. All of them change the state here, never across an
//! await, and call [`Pool::upkeep`] for the path they changed, so that no path waits for a round of the main task.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::hash::HashState;

use super::connection::ConnectionOptions;
use super::dial::Dialler;
use super::home::{Home, LaneNews, Lease, RestOptions};
use super::job::{ActiveJob, Payload};
use super::maildir::Stores;
use super::path::PathState;
use super::peer::Peer;
use super::times::{COOLING, Times};
use crate::clock::Moment;
use crate::event::{Event, EventSender};
use crate::exchange::{self, Demand, End, Job, Report, ToShard, ToWorker};
use crate::id::{PathId, ShardIndex, WorkerIndex};
use crate::metrics::WorkerMetrics;
use crate::net::doorbell::{Inbox, Receiver, Sender};
use crate::net::{self, stream};
use crate::outcome::Reply;
use crate::routing::{PathKind, PathSpec};
use crate::spool::storage::Storage;

/// A path's rest after its first failure, and the longest.
const REST: RestOptions =
    RestOptions { first: Duration::from_secs(1), longest: Duration::from_secs(10 * 60) };
/// Messages taken in per round before connections get their turn.
const ROUND: usize = 256;

/// Channels and settings of a worker.
pub struct Wiring<S: Storage> {
    /// Its place.
    pub index: WorkerIndex,
    /// How many workers there are.
    pub workers: u16,
    /// Shards that have not ended: until then they may send jobs, which need their reports.
    pub shards: Arc<AtomicU32>,
    /// The shard on the same executor.
    pub near: Option<ShardIndex>,
    /// Where it waits.
    pub inbox: Inbox,
    /// From each shard.
    pub from_shards: Vec<Receiver<ToWorker<Payload<S::Pin>>>>,
    /// To each shard.
    pub to_shards: Vec<Sender<ToShard>>,
    /// From the other workers.
    pub from_peers: Vec<Receiver<Peer>>,
    /// To each worker; nothing is sent to itself.
    pub to_peers: Vec<Sender<Peer>>,
    /// Settings of its connections.
    pub options: ConnectionOptions,
    /// Where waiting messages are read back from.
    pub disk: S,
    /// Its deliveries into Maildirs.
    pub stores: Stores,
    /// Its counters.
    pub metrics: Rc<WorkerMetrics>,
    /// To the log.
    pub events: EventSender,
}

/// A worker's state, shared by its tasks.
pub struct Pool<S: Storage> {
    pub(super) wiring: Wiring<S>,
    pub(super) paths: RefCell<HashMap<PathId, Rc<PathState<S>>, HashState>>,
    /// Paths to be looked after: a message did not fit into a channel, or a connection ended.
    pub(super) unsaid: RefCell<HashSet<PathId, HashState>>,
    pub(super) stopping: Cell<bool>,
    pub(super) connections: Cell<u32>,
    /// Of these, how many wait for a host to answer the connect: nothing is lost with them.
    connecting: Cell<u32>,
    handles: RefCell<HashMap<u64, Held, HashState>>,
    next_handle: Cell<u64>,
    dialler: Dialler,
    pub(super) times: Times,
}

impl<S: Storage> Pool<S> {
    /// A pool without paths.
    pub fn new(wiring: Wiring<S>) -> Rc<Self> {
        Rc::new(Self {
            wiring,
            paths: RefCell::default(),
            unsaid: RefCell::default(),
            stopping: Cell::new(false),
            connections: Cell::new(0),
            connecting: Cell::new(0),
            handles: RefCell::default(),
            next_handle: Cell::new(0),
            dialler: Dialler::default(),
            times: Times::default(),
        })
    }

    /// Its counters.
    pub fn metrics(&self) -> &WorkerMetrics {
        &self.wiring.metrics
    }

    /// Where waiting messages are read back from.
    pub fn disk(&self) -> &S {
        &self.wiring.disk
    }

    /// Settings of its connections.
    pub fn options(&self) -> &ConnectionOptions {
        &self.wiring.options
    }

    /// What it knows of the addresses that it connects to.
    pub(super) fn dialler(&self) -> &Dialler {
        &self.dialler
    }

    /// Says something to the operator.
    pub(super) fn notice(&self, what: String) {
        self.wiring.events.send(Event::Notice { at: net::now().wall, part: "delivery", what: what.into() });
    }

    /// Whether no new transaction may begin.
    pub fn is_stopping(&self) -> bool {
        self.stopping.get()
    }

    /// Reads the levels that a scrape shows.
    pub fn update_gauges(&self) {
        let metrics = self.metrics();
        let paths = self.paths.borrow();
        let (mut waiting, mut active, mut credits, mut resting) = (0, 0, 0, 0);
        for path in paths.values() {
            let mut lane = path.lane.borrow_mut();
            waiting += lane.parked() as u64;
            active += lane.depth() as u64 - lane.parked() as u64;
            credits += lane.grants().outstanding();
            resting += u64::from(lane.rest_until().is_some());
        }
        metrics.jobs_waiting.set(waiting);
        metrics.jobs_active.set(active);
        metrics.credits.set(credits);
        metrics.paths.set(paths.len() as u64);
        metrics.paths_backing_off.set(resting);
        let waiting: usize = self.wiring.from_shards.iter().map(Receiver::len).sum();
        metrics.channel_depth.set(waiting as u64);
    }

    /// Takes in messages until the worker is stopped and its connections are closed. `take_orders` does what control
    /// says and tells whether there was anything; `has_no_orders` looks whether there is.
    pub async fn run(self: Rc<Self>, take_orders: impl Fn() -> bool, has_no_orders: impl Fn() -> bool) {
        let mut cooled = net::now().mono;
        loop {
            let worked = self.take_in() | take_orders();
            let now = net::now().mono;
            if now.since(cooled) >= COOLING {
                cooled = now;
                self.cool();
            }
            self.wake_due(now);
            for path in self.unsaid.take() {
                self.upkeep(path);
            }
            // Acquire: a shard that has ended has sent nothing that was not taken in by the round after this.
            let last_round = self.wiring.shards.load(Ordering::Acquire) == 0;
            let is_quiet = self.connections.get() == self.connecting.get() && self.is_inbox_empty();
            if self.stopping.get() && last_round && is_quiet {
                return;
            }
            if worked {
                net::yield_now().await;
            } else {
                let limit = self.next_wake(now, cooled);
                self.wiring.inbox.wait(limit, || self.is_inbox_empty() && has_no_orders()).await;
            }
        }
    }

    /// No new transaction from now on. Parked jobs go back; transactions before their body are given up by their
    /// connections; those behind it are waited for.
    pub fn stop(&self) {
        self.stopping.set(true);
        let paths: Vec<_> = self.paths.borrow().values().cloned().collect();
        for path in paths {
            while let Some(job) = path.take_parked() {
                drop(job);
            }
            path.wake_all_idle();
        }
        for held in self.handles.borrow().values().filter(|held| !held.open.get()) {
            held.handle.shut_both();
        }
        self.wiring.inbox.event().notify();
    }

    /// Shuts every connection: the limit of the stop has come.
    pub fn shut_connections(&self) {
        for held in self.handles.borrow().values() {
            held.handle.shut_both();
        }
    }

    fn is_inbox_empty(&self) -> bool {
        self.wiring.from_shards.iter().all(Receiver::is_empty)
            && self.wiring.from_peers.iter().all(Receiver::is_empty)
    }

    fn take_in(self: &Rc<Self>) -> bool {
        let mut touched = Vec::new();
        for receiver in &self.wiring.from_shards {
            for _ in 0..ROUND {
                let Some(message) = receiver.try_recv() else { break };
                match message {
                    ToWorker::Demand(shard, demand) => touched.push(self.hear_demand(shard, &demand)),
                    ToWorker::Job(job) => touched.push(self.hear_job(job)),
                }
            }
        }
        for receiver in &self.wiring.from_peers {
            while let Some(message) = receiver.try_recv() {
                touched.push(self.hear_peer(message));
            }
        }
        let worked = !touched.is_empty();
        touched.sort_unstable();
        touched.dedup();
        for path in touched {
            self.upkeep(path);
        }
        worked
    }

    fn hear_demand(&self, shard: ShardIndex, demand: &Demand) -> PathId {
        let path = self.path(&demand.path);
        path.lane.borrow_mut().demand(shard, demand);
        demand.path.id
    }

    fn hear_job(self: &Rc<Self>, job: Job<Payload<S::Pin>>) -> PathId {
        let (id, shard, tenant) = (job.path, job.shard, job.tenant);
        let active = ActiveJob::new(job, self.clone());
        let path = self.paths.borrow().get(&id).cloned();
        let path = path.expect("a shard announces a path before its first job, on the same channel");
        if self.stopping.get() {
            path.lane.borrow_mut().grants().arrived(shard, path.home.is_some());
            return id;
        }
        let discards = matches!(path.lane.borrow().spec().kind, PathKind::Discard);
        let returned = path.lane.borrow_mut().arrive(shard, tenant, active);
        drop(returned);
        if discards {
            path.discard_all();
        }
        id
    }

    fn hear_peer(self: &Rc<Self>, message: Peer) -> PathId {
        match message {
            Peer::News { path: spec, from, news } => {
                let path = self.path(&spec);
                if let Some(home) = &path.home {
                    home.borrow_mut().lane_news(from, news, net::now().mono);
                }
                spec.id
            }
            Peer::Lease { path: spec, lease, shards } => {
                let path = self.path(&spec);
                self.take_lease(&path, lease, &shards);
                spec.id
            }
            Peer::Succeeded(id) => {
                self.with_home(id, |home| home.succeeded(net::now().mono));
                id
            }
            Peer::Failed { path: id, from, ready } => {
                let now = net::now().mono;
                self.with_home(id, |home| home.failed(from, ready, now, noise(now, id)));
                id
            }
        }
    }

    pub(super) fn take_lease(&self, path: &PathState<S>, lease: Lease, shards: &[ShardIndex]) {
        let parked = path.lane.borrow_mut().set_lease(lease);
        drop(parked);
        if lease.slots > 0 {
            let mut lane = path.lane.borrow_mut();
            shards.iter().for_each(|shard| lane.grants().invite(*shard));
        }
        if lease.slots < path.lane.borrow().connections() || lease.rest_until.is_some() {
            path.wake_all_idle();
        }
    }

    /// A connection's session was accepted.
    pub fn path_succeeded(self: &Rc<Self>, path: PathId) {
        self.tell_home(path, Peer::Succeeded(path));
    }

    /// No host could be reached, or sent us away before MAIL. `reply` is what expiry quotes.
    pub fn path_failed(self: &Rc<Self>, path: &PathState<S>, reply: &Reply) {
        path.note_error(reply, net::now().mono);
        self.say_path_error(path, reply);
        let (id, ready) = (path.lane.borrow().spec().id, path.lane.borrow().ready());
        let told = self.tell_home(id, Peer::Failed { path: id, from: self.wiring.index, ready });
        if told && path.home.is_none() {
            // Until home's answer is heard the lane would try again as fast as it is refused.
            path.lane.borrow_mut().pause();
        }
        self.upkeep(id);
    }

    fn say_path_error(&self, path: &PathState<S>, reply: &Reply) {
        let id = path.lane.borrow().spec().id;
        let shards: Vec<_> = path.lane.borrow_mut().grants().known().collect();
        for shard in shards {
            // Words for a later bounce: lost without harm when the channel is full.
            if exchange::has_control_room(self.to_shard(shard).room()) {
                let _ = self.to_shard(shard).send(ToShard::PathError { path: id, reply: reply.clone() });
            }
        }
    }

    /// Says whether home hears of it; if not it will of the next one.
    fn tell_home(self: &Rc<Self>, path: PathId, message: Peer) -> bool {
        let home = exchange::home(path, self.wiring.workers);
        if home != self.wiring.index {
            return self.wiring.to_peers[usize::from(home.0)].send(message).is_ok();
        }
        self.hear_peer(message);
        self.upkeep(path);
        true
    }

    /// The state of a path, made when it is new.
    fn path(&self, spec: &Arc<PathSpec>) -> Rc<PathState<S>> {
        if let Some(path) = self.paths.borrow().get(&spec.id) {
            path.lane.borrow_mut().update(spec.clone());
            return path.clone();
        }
        let at_home = exchange::home(spec.id, self.wiring.workers) == self.wiring.index;
        let home = at_home.then(|| Home::new(&spec.limits, REST));
        let path = Rc::new(PathState::new(spec.clone(), home));
        if let Some(home) = &path.home {
            // First in the list of lanes.
            home.borrow_mut().lane_news(self.wiring.index, LaneNews::default(), net::now().mono);
        }
        self.paths.borrow_mut().insert(spec.id, path.clone());
        path
    }

    pub(super) fn with_home(&self, id: PathId, act: impl FnOnce(&mut Home)) {
        if let Some(path) = self.paths.borrow().get(&id)
            && let Some(home) = &path.home
        {
            act(&mut home.borrow_mut());
        }
    }

    pub(super) fn to_shard(&self, shard: ShardIndex) -> &Sender<ToShard> {
        &self.wiring.to_shards[usize::from(shard.0)]
    }

    /// Sends a job's report. There is always room, since a shard's window is not larger than the channel.
    pub fn report(&self, job: &Job<Payload<S::Pin>>, end: End) {
        let report = Report {
            worker: self.wiring.index,
            leg: job.leg,
            id: job.id,
            path: job.path,
            recipients: job.recipients,
            bytes: job.bytes,
            end,
        };
        let shard = self.to_shard(job.shard);
        // A shard that has ended needs none; this worker is about to be gone as well.
        let said = shard.send(ToShard::Report(report)).is_ok() || shard.room() > 0;
        assert!(said, "a report found no room: the channel must hold a shard's whole window");
    }

    /// Keeps a handle to shut a connection with; give it back with [`Self::forget_handle`].
    /// `open` says whether its session is open: before that the stop ends it at once.
    pub fn keep_handle(&self, handle: stream::Handle, open: Rc<Cell<bool>>) -> u64 {
        let key = self.next_handle.get();
        self.next_handle.set(key + 1);
        self.handles.borrow_mut().insert(key, Held { handle, open });
        key
    }

    /// Counts a connection among those that wait for a host to answer, while the future runs.
    pub async fn while_connecting<T>(&self, connect: impl Future<Output = T>) -> T {
        self.connecting.set(self.connecting.get() + 1);
        let connected = connect.await;
        self.connecting.set(self.connecting.get() - 1);
        connected
    }

    /// The connection of the handle is closed.
    pub fn forget_handle(&self, key: u64) {
        self.handles.borrow_mut().remove(&key);
    }
}

/// A connection that can be shut.
struct Held {
    handle: stream::Handle,
    open: Rc<Cell<bool>>,
}

/// A number from 0 to 1 that differs by path and moment; for spreading, nothing else.
fn noise(now: Moment, path: PathId) -> f64 {
    let mixed = (now.0 ^ (u64::from(path.0) << 32)).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 11;
    mixed as f64 / (1u64 << 53) as f64
}
