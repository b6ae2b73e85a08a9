//! Queues, ledgers, grants, lane and home of one path in virtual time: what tenants get of it, and how long a fresh message waits.

use std::sync::Arc;
use std::time::Duration;

use ringpost::clock::{Moment, Now, WallTime};
use ringpost::delivery::home::{Home, RestOptions};
use ringpost::delivery::lane::Lane;
use ringpost::envelope::{EnvelopeBuilder, Notify, Parameters};
use ringpost::exchange::Grant;
use ringpost::exchange::ledger::{Ledger, WindowLimits};
use ringpost::exchange::shares::Waiting;
use ringpost::id::{Location, MessageId, PartId, PathId, ShardIndex, TenantKey, WorkerIndex};
use ringpost::outcome::{Enhanced, LegResult, Reply, Verdict};
use ringpost::queue::{Change, Job, Queue, QueueOptions};
use ringpost::routing::{PathKind, PathLimits, PathSpec, Rate, Security, TlsPolicy, Way};

const PATH: PathId = PathId(1);
const WORKER: WorkerIndex = WorkerIndex(0);
/// Time that a remote takes for a message.
const SERVICE: Duration = Duration::from_millis(100);
const LIMITS: PathLimits = PathLimits {
    connections: 4,
    messages_per_connection: 100,
    recipients_per_transaction: 10,
    window: 1000,
    idle: Duration::from_secs(60),
    connection_rate: None,
    message_rate: None,
    security: Security { tls: TlsPolicy::Opportunistic, way: Way::Mx, shows: None, logs_in: None },
};

struct Shard {
    queue: Queue,
    ledger: Ledger,
    accepted: u64,
}

/// A job at the worker.
struct AtWorker {
    shard: usize,
    job: Job,
    ends: Moment,
}

struct World {
    now: Moment,
    shards: Vec<Shard>,
    lane: Lane<AtWorker>,
    home: Home,
    busy: Vec<AtWorker>,
    /// Delivered: when, whose, which.
    delivered: Vec<(Moment, TenantKey, MessageId)>,
    /// How often something was looked at.
    steps: u64,
}

impl World {
    fn new(shards: usize, limits: PathLimits, weights: &[(&str, u32)]) -> Self {
        let kind = PathKind::Smtp { hosts: Vec::new() };
        let spec = Arc::new(PathSpec {
            id: PATH,
            version: 1,
            name: "path".into(),
            kind,
            limits,
            pool: Arc::default(),
        });
        let now = Moment(1_000_000);
        let shard = |_| {
            let mut ledger = Ledger::new(1, None, WindowLimits { jobs: 2048, bytes: u64::MAX });
            ledger.learn(spec.clone());
            let weights = weights.iter().map(|(name, weight)| ((*name).into(), *weight)).collect();
            let mut queue = Queue::new(QueueOptions { weights, ..QueueOptions::default() }, 1);
            queue.route("one.test", PATH, false, Moment(u64::MAX), at(now));
            Shard { queue, ledger, accepted: 0 }
        };
        let rest = RestOptions { first: Duration::from_secs(1), longest: Duration::from_secs(60) };
        Self {
            now,
            shards: (0..shards).map(shard).collect(),
            lane: Lane::new(spec.clone(), true),
            home: Home::new(&limits, rest),
            busy: Vec::new(),
            delivered: Vec::new(),
            steps: 0,
        }
    }

    fn accept(&mut self, shard: usize, tenant: &str) -> MessageId {
        let now = at(self.now);
        let part = PartId(shard as u16);
        let shard = &mut self.shards[shard];
        shard.accepted += 1;
        let mut builder = EnvelopeBuilder::default();
        builder.begin("s@a.test", Parameters::default(), "");
        builder.set_tenant(tenant);
        builder.push_recipient("r@one.test", Notify::DEFAULT, "").expect("a recipient");
        let envelope = builder.encode(now.wall, now.wall + Duration::from_secs(3600 * 24 * 9));
        let id = MessageId::new(part, shard.accepted);
        let location = Location { segment: 1, offset: shard.accepted as u32, bytes: 100 };
        let change = Change::Accepted { id, envelope: &envelope, location, body_bytes: 1000, states: &[] };
        shard.queue.apply(change, now);
        if shard.queue.poll_unrouted().is_some() {
            shard.queue.route("one.test", PATH, false, Moment(u64::MAX), now);
        }
        id
    }

    /// Everything that happens without time passing.
    fn settle(&mut self) {
        loop {
            self.steps += 1;
            let mut worked =
                (0..self.shards.len()).fold(false, |worked, shard| self.dispatch(shard) | worked);
            while let Some(news) = self.lane.poll_news() {
                self.home.lane_news(WORKER, news, self.now);
                while let Some((_, lease)) = self.home.poll_lease() {
                    assert!(self.lane.set_lease(lease).is_empty(), "nothing rests here");
                }
                worked = true;
            }
            self.lane.replenish();
            while let Some((shard, epoch, granted)) = self.lane.grants().poll_grant(|_| true) {
                let grant = Grant { worker: WORKER, path: PATH, epoch, granted };
                self.shards[usize::from(shard.0)].ledger.grant(grant);
                worked = true;
            }
            while let Some((shard, spread)) = self.lane.grants().poll_spread(|_| true) {
                self.shards[usize::from(shard.0)].queue.set_spread(PATH, spread);
            }
            worked |= self.connect();
            if !worked {
                return;
            }
        }
    }

    /// As `shard::dispatch` does it.
    fn dispatch(&mut self, at: usize) -> bool {
        let Shard { queue, ledger, .. } = &mut self.shards[at];
        let index = ShardIndex(at as u16);
        let mut worked = false;
        loop {
            while let Some((path, demand)) = queue.poll_demand() {
                let waiting = Waiting { tenants: demand.shares.into(), others: demand.others };
                ledger.set_waiting(path, waiting, demand.joined);
                ledger.set_ready(path, demand.ready, demand.oldest);
            }
            while let Some((_, demand)) = ledger.poll_demand(|_| true) {
                self.lane.demand(index, &demand);
                worked = true;
            }
            let Some((path, worker)) = ledger.next_send() else { return worked };
            worked = true;
            let Some(job) = queue.pop(path, 10) else {
                ledger.set_ready(path, 0, WallTime::default());
                continue;
            };
            ledger.sent(path, worker, job.body_bytes, queue.ready(path));
            let parked = AtWorker { shard: at, job, ends: self.now };
            assert!(self.lane.arrive(index, parked.job.tenant, parked).is_ok(), "nothing rests here");
        }
    }

    /// Connections open and take jobs.
    fn connect(&mut self) -> bool {
        let mut worked = false;
        while self.lane.open_connection() {
            self.lane.set_ready(true);
            self.lane.set_idle(true);
            self.home.succeeded(self.now);
            worked = true;
        }
        while self.busy.len() < self.lane.connections() as usize {
            let Some(job) = self.lane.take(|_| true) else { break };
            self.lane.set_idle(false);
            self.busy.push(AtWorker { ends: self.now + SERVICE, ..job });
            worked = true;
        }
        worked
    }

    /// Lets time pass until then.
    fn run_until(&mut self, end: Moment) {
        self.settle();
        loop {
            let ends = self.busy.iter().map(|job| job.ends).min();
            let next = [ends, self.home.next_wake()].into_iter().flatten().min();
            let Some(next) = next.filter(|next| *next <= end) else { break };
            self.now = self.now.max(next);
            let (done, busy) = std::mem::take(&mut self.busy).into_iter().partition(|job| job.ends <= next);
            self.busy = busy;
            done.into_iter().for_each(|job: AtWorker| self.deliver(job));
            if self.home.next_wake().is_some_and(|at| at <= self.now) {
                self.home.tick(self.now);
                while let Some((_, lease)) = self.home.poll_lease() {
                    assert!(self.lane.set_lease(lease).is_empty(), "nothing rests here");
                }
            }
            self.settle();
        }
        self.now = end;
    }

    fn deliver(&mut self, AtWorker { shard, job, .. }: AtWorker) {
        self.delivered.push((self.now, job.tenant, job.id));
        self.lane.finished();
        self.lane.set_idle(true);
        let Shard { queue, ledger, .. } = &mut self.shards[shard];
        ledger.reported(WORKER, job.body_bytes);
        let reply = Reply::new(250, Enhanced(2, 0, 0), "ok");
        let results = vec![LegResult { recipients: job.recipients, verdict: Verdict::Delivered, reply }];
        let outcome = queue.outcome(job.leg, job.recipients, results, true, at(self.now));
        queue.apply(Change::Outcome(&outcome.expect("an outcome")), at(self.now));
    }

    /// How many of a tenant's were delivered.
    fn count(&self, tenant: &str) -> usize {
        self.delivered.iter().filter(|(_, whose, _)| *whose == TenantKey::of(tenant)).count()
    }

    /// How long fresh messages of `tenant` at shard 0 take, one after the other; the 99th percentile.
    fn latency(&mut self, tenant: &str, count: u32) -> Duration {
        let mut waits: Vec<Duration> = (0..count)
            .map(|nth| {
                // At any point of the others' rhythm.
                self.run_until(self.now + Duration::from_millis(200 + u64::from(nth * 37 % 101)));
                let (began, id) = (self.now, self.accept(0, tenant));
                loop {
                    self.run_until(self.now + Duration::from_millis(1));
                    if let Some((at, ..)) = self.delivered.iter().rev().find(|(_, _, other)| *other == id) {
                        break at.since(began);
                    }
                }
            })
            .collect();
        waits.sort();
        waits[waits.len() * 99 / 100]
    }
}

fn at(mono: Moment) -> Now {
    Now { wall: WallTime(1_800_000_000_000 + mono.0 / 1000), mono }
}

/// `noisy` has a backlog at all shards, then `quiet` sends now and then: its wait is held against twice what it waits when all is
/// idle and the time in which its share of the path serves one message.
fn a_fresh_message_overtakes(backlog: u32, shards: usize, limits: PathLimits, share: Duration) {
    let idle = World::new(shards, limits, &[]).latency("quiet", 20);
    let mut world = World::new(shards, limits, &[]);
    for nth in 0..backlog {
        world.accept(nth as usize % shards, "noisy");
    }
    world.run_until(world.now + Duration::from_secs(10));
    let busy = world.latency("quiet", 100);
    assert!(busy <= idle * 2 + share, "{busy:?} where {idle:?} is idle, with {shards} shards");
    assert!(world.count("noisy") > 100, "the neighbour is busy all the time");
}

#[test]
fn a_fresh_message_overtakes_a_million_of_another_tenant() {
    // Half of four connections.
    a_fresh_message_overtakes(1_000_000, 1, LIMITS, SERVICE / 2);
}

#[test]
fn a_fresh_message_on_one_shard_overtakes_the_backlogs_of_all() {
    a_fresh_message_overtakes(40_000, 4, LIMITS, SERVICE / 2);
    a_fresh_message_overtakes(40_000, 4, PathLimits { connections: 1, ..LIMITS }, SERVICE * 2);
}

#[test]
fn a_fresh_message_gets_its_share_of_a_slow_rate() {
    let rate = Rate { count: 300, period: Duration::from_secs(60) };
    let limits = PathLimits { message_rate: Some(rate), ..LIMITS };
    // Half of five a second.
    a_fresh_message_overtakes(5_000, 1, limits, Duration::from_millis(400));
    a_fresh_message_overtakes(20_000, 4, limits, Duration::from_millis(400));
}

fn parts(shards: usize, weights: &[(&str, u32)], limits: PathLimits) -> f64 {
    let mut world = World::new(shards, limits, weights);
    for nth in 0..24_000 {
        world.accept(nth % shards, "everywhere");
    }
    for _ in 0..12_000 {
        world.accept(0, "here");
    }
    world.run_until(world.now + Duration::from_secs(120));
    let (here, all) = (world.count("here"), world.delivered.len());
    assert!(all > 500, "{all}");
    here as f64 / all as f64
}

#[test]
fn a_tenant_on_one_shard_gets_its_part_against_one_on_all() {
    let slow =
        PathLimits { message_rate: Some(Rate { count: 10, period: Duration::from_secs(1) }), ..LIMITS };
    for limits in [LIMITS, PathLimits { connections: 1, ..LIMITS }, slow] {
        for (shards, weights, want) in [
            (1, [].as_slice(), 0.5),
            (4, &[], 0.5),
            (4, &[("here", 3)], 0.75),
            (4, &[("everywhere", 4)], 0.2),
        ] {
            let part = parts(shards, weights, limits);
            assert!((part - want).abs() < 0.05, "{part} and not {want}, {shards} shards, {limits:?}");
        }
    }
}

#[test]
fn a_path_that_waits_for_its_rate_takes_steps_by_its_messages_and_not_by_time() {
    let rate = Rate { count: 1, period: Duration::from_secs(60) };
    let mut world = World::new(1, PathLimits { message_rate: Some(rate), ..LIMITS }, &[]);
    for _ in 0..1000 {
        world.accept(0, "t");
    }
    world.run_until(world.now + Duration::from_secs(10));
    let before = world.steps;
    world.run_until(world.now + Duration::from_secs(3600));
    assert_eq!(world.delivered.len(), 61);
    assert!(world.steps - before < 60 * 8, "{} steps for 60 messages", world.steps - before);
}
