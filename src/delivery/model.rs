//! PURE. A model of shards and workers round the real [`Ledger`], [`Lane`] and [`Home`]: random orders of everything that
//! can happen, over channels that are as slow as they like. Nothing may be sent that was not granted, nothing may be
//! forgotten, and once things calm down all mail must have gone.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::home::{Home, LaneNews, Lease, RestOptions};
use super::lane::Lane;
use crate::clock::{Moment, WallTime};
use crate::exchange::grants::Grants;
use crate::exchange::ledger::{Ledger, WindowLimits};
use crate::exchange::{Demand, Grant, home};
use crate::id::{PathId, ShardIndex, TenantKey, WorkerIndex};
use crate::routing::{PathKind, PathLimits, PathSpec, Rate, Security};

const PATHS: u32 = 3;
const WINDOW: WindowLimits = WindowLimits { jobs: 6, bytes: 10_000 };
const SECOND: Duration = Duration::from_secs(1);
const REST: RestOptions = RestOptions { first: Duration::from_secs(1), longest: Duration::from_secs(4) };

enum ToWorker {
    Demand(Demand),
    Job { path: PathId, bytes: u32 },
}

enum ToShard {
    Grant(Grant),
    /// `ready` again, or done with.
    Report {
        path: PathId,
        bytes: u32,
        tried: bool,
    },
}

enum Peer {
    News { path: PathId, from: WorkerIndex, news: LaneNews },
    Lease { path: PathId, lease: Lease, shards: Vec<ShardIndex> },
    Succeeded(PathId),
    Failed(PathId, WorkerIndex),
}

/// A job at its worker.
#[derive(Debug)]
struct Job {
    shard: u16,
    path: PathId,
    bytes: u32,
}

/// The queue's demand, with its rule of what is worth telling.
#[derive(Default)]
struct Waiting {
    ready: u32,
    reported: u32,
    dirty: bool,
}

impl Waiting {
    fn change(&mut self, more: i64) {
        self.ready = u32::try_from(i64::from(self.ready) + more).expect("never below zero");
        let (ready, reported) = (self.ready, self.reported);
        self.dirty |= (ready == 0) != (reported == 0) || ready > 2 * reported || 2 * ready < reported;
    }
}

struct Shard {
    ledger: Ledger,
    queue: HashMap<PathId, Waiting>,
    injected: u64,
    done: u64,
}

struct PathAtWorker {
    lane: Lane<Job>,
    home: Option<Home>,
    invited: Vec<WorkerIndex>,
    busy: Vec<Job>,
}

struct Worker {
    index: u16,
    paths: HashMap<PathId, PathAtWorker>,
}

struct World {
    /// Shard i and worker i share an executor.
    shared: bool,
    limits: PathLimits,
    now: Moment,
    shards: Vec<Shard>,
    workers: Vec<Worker>,
    to_worker: Vec<Vec<VecDeque<ToWorker>>>,
    to_shard: Vec<Vec<VecDeque<ToShard>>>,
    to_peer: Vec<Vec<VecDeque<Peer>>>,
    /// When which path's transactions began.
    begun: HashMap<PathId, Vec<Moment>>,
}

fn grid<T>(rows: u16, columns: u16) -> Vec<Vec<VecDeque<T>>> {
    (0..rows).map(|_| (0..columns).map(|_| VecDeque::new()).collect()).collect()
}

impl World {
    fn new(
        shards: u16,
        workers: u16,
        shared: bool,
        connections: u16,
        window: u32,
        rate: Option<u32>,
    ) -> Self {
        let limits = PathLimits {
            connections,
            messages_per_connection: 10,
            recipients_per_transaction: 50,
            window,
            idle: Duration::from_secs(1),
            connection_rate: rate.map(|count| Rate { count: count * 2, period: SECOND }),
            message_rate: rate.map(|count| Rate { count, period: SECOND }),
            security: Security::default(),
        };
        let near = |index: u16| (shared && index < workers).then_some(WorkerIndex(index));
        Self {
            shared,
            limits,
            now: Moment(1),
            shards: (0..shards)
                .map(|index| Shard {
                    ledger: Ledger::new(workers, near(index), WINDOW),
                    queue: HashMap::new(),
                    injected: 0,
                    done: 0,
                })
                .collect(),
            workers: (0..workers).map(|index| Worker { index, paths: HashMap::new() }).collect(),
            to_worker: grid(shards, workers),
            to_shard: grid(workers, shards),
            to_peer: grid(workers, workers),
            begun: HashMap::new(),
        }
    }

    fn spec(&self, path: PathId) -> Arc<PathSpec> {
        Arc::new(PathSpec {
            pool: Arc::default(),
            id: path,
            version: 1,
            name: "path".into(),
            kind: PathKind::Smtp { hosts: Vec::new() },
            limits: self.limits,
        })
    }

    fn inject(&mut self, shard: usize, path: PathId, count: u32) {
        let spec = self.spec(path);
        let shard = &mut self.shards[shard];
        shard.ledger.learn(spec);
        shard.injected += u64::from(count);
        shard.queue.entry(path).or_default().change(i64::from(count));
    }

    /// A round of the keeper: tells demand, sends at most `jobs`.
    fn dispatch(&mut self, at: usize, jobs: usize) -> bool {
        let mut worked = self.tell_demand(at);
        for _ in 0..jobs {
            let shard = &mut self.shards[at];
            let Some((path, worker)) = shard.ledger.next_send() else { break };
            worked = true;
            let waiting = shard.queue.get_mut(&path).expect("known");
            if waiting.ready == 0 {
                shard.ledger.set_ready(path, 0, WallTime(0));
                continue;
            }
            waiting.change(-1);
            shard.ledger.sent(path, worker, 100, waiting.ready);
            assert!(shard.ledger.jobs_out() <= u64::from(WINDOW.jobs) * self.workers.len() as u64);
            self.to_worker[at][usize::from(worker.0)].push_back(ToWorker::Job { path, bytes: 100 });
        }
        worked | self.tell_demand(at)
    }

    fn tell_demand(&mut self, at: usize) -> bool {
        let shard = &mut self.shards[at];
        let mut worked = false;
        for (path, waiting) in &mut shard.queue {
            if std::mem::take(&mut waiting.dirty) {
                waiting.reported = waiting.ready;
                shard.ledger.set_ready(*path, waiting.ready, WallTime(0));
                worked = true;
            }
        }
        while let Some((worker, demand)) = shard.ledger.poll_demand(|_| true) {
            self.to_worker[at][usize::from(worker.0)].push_back(ToWorker::Demand(demand));
            worked = true;
        }
        worked
    }

    fn shard_hears(&mut self, from: usize, at: usize) -> bool {
        let Some(message) = self.to_shard[from][at].pop_front() else { return false };
        let shard = &mut self.shards[at];
        match message {
            ToShard::Grant(grant) => shard.ledger.grant(grant),
            ToShard::Report { path, bytes, tried } => {
                shard.ledger.reported(WorkerIndex(from as u16), bytes);
                if tried {
                    shard.done += 1;
                } else {
                    shard.queue.get_mut(&path).expect("known").change(1);
                }
            }
        }
        true
    }

    fn path(&mut self, worker: usize, path: PathId) -> &mut PathAtWorker {
        let spec = self.spec(path);
        let workers = self.workers.len() as u16;
        let at_home = usize::from(home(path, workers).0) == worker;
        let (limits, now) = (self.limits, self.now);
        self.workers[worker].paths.entry(path).or_insert_with(|| {
            let home = at_home.then(|| {
                let mut home = Home::new(&limits, REST);
                home.lane_news(WorkerIndex(worker as u16), LaneNews::default(), now);
                home
            });
            PathAtWorker { lane: Lane::new(spec, at_home), home, invited: Vec::new(), busy: Vec::new() }
        })
    }

    fn worker_hears_shard(&mut self, from: usize, at: usize) -> bool {
        let Some(message) = self.to_worker[from][at].pop_front() else { return false };
        let shard = ShardIndex(from as u16);
        let id = match message {
            ToWorker::Demand(demand) => {
                self.path(at, demand.path.id).lane.demand(shard, &demand);
                demand.path.id
            }
            ToWorker::Job { path, bytes } => {
                assert!(self.workers[at].paths.contains_key(&path), "a job before its announcement");
                let job = Job { shard: shard.0, path, bytes };
                if let Err(job) = self.path(at, path).lane.arrive(shard, TenantKey(0), job) {
                    self.report(at, job, false);
                }
                path
            }
        };
        self.upkeep(at, id);
        true
    }

    fn worker_hears_peer(&mut self, from: usize, at: usize) -> bool {
        let Some(message) = self.to_peer[from][at].pop_front() else { return false };
        let now = self.now;
        let id = match message {
            Peer::News { path, from, news } => {
                let home = self.path(at, path).home.as_mut().expect("news goes home");
                home.lane_news(from, news, now);
                path
            }
            Peer::Lease { path, lease, shards } => {
                self.take_lease(at, path, lease, &shards);
                path
            }
            Peer::Succeeded(path) => {
                self.path(at, path).home.as_mut().expect("home").succeeded(now);
                path
            }
            Peer::Failed(path, from) => {
                self.path(at, path).home.as_mut().expect("home").failed(from, 0, now, 0.5);
                path
            }
        };
        self.upkeep(at, id);
        true
    }

    fn tell_home(&mut self, from: usize, path: PathId, message: Peer) {
        let to = usize::from(home(path, self.workers.len() as u16).0);
        self.to_peer[from][to].push_back(message);
    }

    fn report(&mut self, worker: usize, job: Job, tried: bool) {
        let report = ToShard::Report { path: job.path, bytes: job.bytes, tried };
        self.to_shard[worker][usize::from(job.shard)].push_back(report);
    }

    fn take_lease(&mut self, at: usize, id: PathId, lease: Lease, shards: &[ShardIndex]) {
        let path = self.path(at, id);
        let returned = path.lane.set_lease(lease);
        if lease.slots > 0 {
            shards.iter().for_each(|shard| path.lane.grants().invite(*shard));
        }
        let mut returned = returned;
        while let Some(job) = returned.pop(|_| true) {
            self.report(at, job, false);
        }
    }

    /// As `delivery::pool` does it.
    fn upkeep(&mut self, at: usize, id: PathId) {
        let (shared, now) = (self.shared, self.now);
        let index = WorkerIndex(at as u16);
        loop {
            let path = self.path(at, id);
            let news = path.lane.poll_news();
            if path.home.is_none() {
                if let Some(news) = news {
                    self.tell_home(at, id, Peer::News { path: id, from: index, news });
                }
                break;
            }
            if let (Some(home), Some(news)) = (&mut path.home, news) {
                home.lane_news(index, news, now);
            }
            self.invite_lanes(at, id);
            let mut leased = false;
            while let Some((worker, lease)) = self.path(at, id).home.as_mut().expect("home").poll_lease() {
                if worker == index {
                    self.take_lease(at, id, lease, &[]);
                    leased = true;
                    continue;
                }
                let shards = if shared {
                    vec![ShardIndex(worker.0)]
                } else {
                    self.path(at, id).lane.grants().demanding().collect()
                };
                let message = Peer::Lease { path: id, lease, shards };
                self.to_peer[at][usize::from(worker.0)].push_back(message);
            }
            let path = self.path(at, id);
            let home = path.home.as_ref().expect("home");
            if shared {
                let elsewhere: Vec<_> = home.lanes_with_slots().filter(|worker| *worker != index).collect();
                path.lane.grants().set_served(|shard| !elsewhere.contains(&WorkerIndex(shard.0)));
            }
            if news.is_none() && !leased {
                break;
            }
        }
        self.path(at, id).lane.replenish();
        while let Some((shard, epoch, granted)) = self.path(at, id).lane.grants().poll_grant(|_| true) {
            let grant = Grant { worker: index, path: id, epoch, granted };
            self.to_shard[at][usize::from(shard.0)].push_back(ToShard::Grant(grant));
        }
        self.run_connections(at, id);
    }

    fn invite_lanes(&mut self, at: usize, id: PathId) {
        let (shared, workers, index) = (self.shared, self.workers.len() as u16, WorkerIndex(at as u16));
        let now = self.now;
        let path = self.path(at, id);
        if workers < 2
            || path.lane.spec().limits.connections < 2
            || path.lane.grants().ready() <= u64::from(path.lane.connections())
        {
            return;
        }
        for worker in (0..workers).map(WorkerIndex) {
            let wanted = !shared || path.lane.grants().has_ready(ShardIndex(worker.0));
            if worker != index && wanted && !path.invited.contains(&worker) {
                path.invited.push(worker);
                path.home.as_mut().expect("home").invite(worker, now);
            }
        }
    }

    /// Connections take jobs, are opened for them, and close when they must.
    fn run_connections(&mut self, at: usize, id: PathId) {
        let mut began = 0;
        let path = self.path(at, id);
        while path.lane.open_connection() {}
        while path.busy.len() < path.lane.connections() as usize && !path.lane.is_over_lease() {
            let Some(job) = path.lane.take(|_| true) else { break };
            path.busy.push(job);
            began += 1;
        }
        while path.lane.connections() as usize > path.busy.len()
            && (path.lane.parked() == 0 || path.lane.is_over_lease())
        {
            path.lane.close_connection();
        }
        let now = self.now;
        self.begun.entry(id).or_default().extend((0..began).map(|_| now));
        self.check_limits(id);
    }

    /// At this and every instant, over all lanes.
    fn check_limits(&self, id: PathId) {
        let lanes = self.workers.iter().filter_map(|worker| worker.paths.get(&id));
        let open: u32 = lanes.map(|path| path.lane.connections()).sum();
        assert!(open <= u32::from(self.limits.connections), "{open} connections");
        let Some(rate) = self.limits.message_rate else { return };
        let recent = self.begun[&id].iter().rev().take_while(|at| self.now.since(**at) < rate.period).count();
        assert!(recent <= rate.count as usize, "{recent} messages of {rate}");
    }

    fn complete(&mut self, at: usize, id: PathId, nth: usize, tried: bool) -> bool {
        let Some(path) = self.workers[at].paths.get_mut(&id).filter(|path| !path.busy.is_empty()) else {
            return false;
        };
        let job = path.busy.swap_remove(nth % path.busy.len());
        path.lane.finished();
        self.report(at, job, tried);
        if tried {
            self.tell_home(at, id, Peer::Succeeded(id));
        }
        self.run_connections(at, id);
        self.upkeep(at, id);
        self.upkeep(at, id);
        true
    }

    fn fail(&mut self, at: usize, id: PathId) {
        if self.workers[at].paths.contains_key(&id) {
            self.tell_home(at, id, Peer::Failed(id, WorkerIndex(at as u16)));
        }
    }

    fn tick(&mut self, wait: Duration) -> bool {
        self.now = self.now + wait;
        let now = self.now;
        let mut worked = false;
        for (at, id) in self.everywhere() {
            let path = self.path(at, id);
            if let Some(home) = path.home.as_mut().filter(|home| home.next_wake().is_some_and(|at| at <= now))
            {
                home.tick(now);
                worked = true;
                self.upkeep(at, id);
            }
        }
        worked
    }

    /// Whether anything changed.
    fn cool(&mut self) -> bool {
        let mut worked = false;
        for (at, id) in self.everywhere() {
            self.path(at, id).invited.clear();
            let grants: &mut Grants = self.path(at, id).lane.grants();
            let before = grants.is_idle();
            grants.cool();
            if before != grants.is_idle() {
                worked = true;
                self.upkeep(at, id);
            }
        }
        worked
    }

    fn everywhere(&self) -> Vec<(usize, PathId)> {
        let mut all: Vec<_> = self
            .workers
            .iter()
            .flat_map(|worker| worker.paths.keys().map(|id| (usize::from(worker.index), *id)))
            .collect();
        all.sort_unstable();
        all
    }

    /// Lets everything that is under way happen, without a new failure.
    fn calm_down(&mut self) {
        for _ in 0..5_000 {
            let mut worked = false;
            for shard in 0..self.shards.len() {
                for worker in 0..self.workers.len() {
                    while self.worker_hears_shard(shard, worker) {
                        worked = true;
                    }
                    while self.shard_hears(worker, shard) {
                        worked = true;
                    }
                }
                worked |= self.dispatch(shard, 64);
            }
            for from in 0..self.workers.len() {
                for to in 0..self.workers.len() {
                    while self.worker_hears_peer(from, to) {
                        worked = true;
                    }
                }
            }
            for (at, id) in self.everywhere() {
                while self.complete(at, id, 0, true) {
                    worked = true;
                }
            }
            if !worked && !self.tick(SECOND * 10) && !self.cool() {
                return;
            }
        }
        panic!("it never calms down: messages go round for ever");
    }

    fn check_all_went(&mut self) {
        self.calm_down();
        for (index, shard) in self.shards.iter().enumerate() {
            let left: Vec<_> = shard.queue.iter().map(|(path, waiting)| (path.0, waiting.ready)).collect();
            assert!(
                shard.done == shard.injected && shard.ledger.jobs_out() == 0,
                "shard {index}: {} of {} went, left {left:?}, {:?}",
                shard.done,
                shard.injected,
                shard.ledger,
            );
        }
        for (at, id) in self.everywhere() {
            let want = u32::from(self.limits.connections) * 4 + self.shards.len() as u32;
            let lane = &mut self.path(at, id).lane;
            assert!(
                lane.grants().outstanding() <= u64::from(want),
                "{} credits",
                lane.grants().outstanding()
            );
            assert_eq!((lane.depth(), lane.connections()), (0, 0));
        }
    }

    fn step(&mut self, step: &Step) {
        let (shards, workers) = (self.shards.len(), self.workers.len());
        let (shard, worker) = (step.shard % shards, step.worker % workers);
        let path = PathId(step.path % PATHS);
        match step.what {
            0..4 => self.inject(shard, path, u32::from(step.amount)),
            4..14 => drop(self.dispatch(shard, usize::from(step.amount))),
            14..24 => drop(self.worker_hears_shard(shard, worker)),
            24..34 => drop(self.shard_hears(worker, shard)),
            34..42 => drop(self.worker_hears_peer(worker, usize::from(step.amount) % workers)),
            42..52 => {
                let _ = self.complete(worker, path, usize::from(step.amount), !step.amount.is_multiple_of(4));
            }
            52 => self.fail(worker, path),
            53..55 => drop(self.tick(Duration::from_millis(u64::from(step.amount) * 50))),
            55 => drop(self.cool()),
            _ => self.calm_down(),
        }
    }
}

#[derive(Clone, Debug)]
struct Step {
    what: u8,
    shard: usize,
    worker: usize,
    path: u32,
    amount: u8,
}

fn step() -> impl Strategy<Value = Step> {
    (0u8..57, 0usize..4, 0usize..4, 0u32..PATHS, 0u8..24)
        .prop_map(|(what, shard, worker, path, amount)| Step { what, shard, worker, path, amount })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, max_shrink_iters: 3000, max_shrink_time: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn all_mail_goes_whatever_comes_in_which_order(
        shards in 1u16..4,
        workers in 1u16..4,
        shared: bool,
        connections in 1u16..9,
        window in 1u32..40,
        rate in prop::option::of(1u32..100),
        steps in prop::collection::vec(step(), 1..400),
    ) {
        let mut world = World::new(shards, workers, shared, connections, window, rate);
        for step in &steps {
            world.step(step);
        }
        world.check_all_went();
    }
}

#[test]
fn credits_left_at_a_shard_without_mail_do_not_starve_the_others() {
    let mut world = World::new(2, 1, false, 1, 40, None);
    world.inject(0, PathId(0), 20);
    world.calm_down();
    world.inject(1, PathId(0), 20);
    world.check_all_went();
}

#[test]
fn a_trickle_behind_a_burst_is_not_left_standing() {
    let mut world = World::new(1, 1, false, 8, 40, None);
    world.inject(0, PathId(0), 10);
    // Tell the ten, then let fifteen be there before any is sent: not yet worth telling.
    world.tell_demand(0);
    world.inject(0, PathId(0), 5);
    world.check_all_went();
}
