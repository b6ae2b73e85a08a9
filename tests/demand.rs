//! The queue and the shard's end of the exchange together: what is ready in the one must never be forgotten in the other.

use std::sync::Arc;
use std::time::Duration;

use ringpost::clock::{Moment, Now, WallTime};
use ringpost::envelope::{EnvelopeBuilder, Notify, Parameters};
use ringpost::exchange::Grant;
use ringpost::exchange::ledger::{Ledger, WindowLimits};
use ringpost::id::{Location, MessageId, PartId, PathId};
use ringpost::outcome::{Enhanced, LegResult, Reply, Verdict};
use ringpost::queue::{Change, Job, Queue, QueueOptions};
use ringpost::routing::{PathKind, PathLimits, PathSpec, Security};

const NOW: Now = Now { wall: WallTime(1_800_000_000_000), mono: Moment(1_000_000) };
const PATH: PathId = PathId(1);

/// A shard without I/O, and workers that grant and deliver whatever they are asked to.
struct Shard {
    queue: Queue,
    ledger: Ledger,
    accepted: u64,
    granted: u64,
    delivered: u64,
}

impl Shard {
    fn new() -> Self {
        let limits = PathLimits {
            connections: 4,
            messages_per_connection: 100,
            recipients_per_transaction: 10,
            window: 1000,
            idle: Duration::from_secs(60),
            connection_rate: None,
            message_rate: None,
            security: Security::default(),
        };
        let spec = PathSpec {
            id: PATH,
            version: 1,
            name: "path".into(),
            kind: PathKind::Discard,
            limits,
            pool: Arc::default(),
        };
        let mut ledger = Ledger::new(1, None, WindowLimits { jobs: 1000, bytes: u64::MAX });
        ledger.learn(Arc::new(spec));
        let mut queue = Queue::new(QueueOptions::default(), 1);
        queue.route("one.test", PATH, false, Moment(u64::MAX), NOW);
        Self { queue, ledger, accepted: 0, granted: 0, delivered: 0 }
    }

    fn accept(&mut self, count: u64) {
        for _ in 0..count {
            self.accepted += 1;
            let mut builder = EnvelopeBuilder::default();
            builder.begin("s@a.test", Parameters::default(), "");
            builder.push_recipient("r@one.test", Notify::DEFAULT, "").expect("a recipient");
            let envelope = builder.encode(NOW.wall, NOW.wall + Duration::from_secs(3600));
            let change = Change::Accepted {
                id: MessageId::new(PartId(1), self.accepted),
                envelope: &envelope,
                location: Location { segment: 1, offset: self.accepted as u32, bytes: 100 },
                body_bytes: 100,
                states: &[],
            };
            self.queue.apply(change, NOW);
            self.queue.route("one.test", PATH, false, Moment(u64::MAX), NOW);
        }
    }

    /// What the shard does in `dispatch`, for at most `count` jobs.
    fn dispatch(&mut self, count: usize) -> usize {
        self.tell();
        for sent in 0..count {
            let Some((path, worker)) = self.ledger.next_send() else { return sent };
            let Some(job) = self.queue.pop(path, 10) else {
                self.ledger.set_ready(path, 0, WallTime::default());
                continue;
            };
            let left = self.queue.demand(path).map_or(0, |demand| demand.ready);
            self.ledger.sent(path, worker, job.body_bytes, left);
            self.ledger.reported(worker, job.body_bytes);
            self.deliver(job);
        }
        count
    }

    fn tell(&mut self) {
        while let Some((path, demand)) = self.queue.poll_demand() {
            self.ledger.set_ready(path, demand.ready, demand.oldest);
        }
        while let Some((worker, demand)) = self.ledger.poll_demand(|_| true) {
            self.granted = demand.sent + 16;
            self.ledger.grant(Grant { worker, path: PATH, epoch: 0, granted: self.granted });
        }
    }

    fn grant(&mut self, more: u64) {
        self.granted += more;
        let worker = ringpost::exchange::home(PATH, 1);
        self.ledger.grant(Grant { worker, path: PATH, epoch: 0, granted: self.granted });
    }

    fn deliver(&mut self, job: Job) {
        let reply = Reply::new(250, Enhanced(2, 0, 0), "ok");
        let results = vec![LegResult { recipients: job.recipients, verdict: Verdict::Delivered, reply }];
        let outcome = self.queue.outcome(job.leg, job.recipients, results, true, NOW).expect("an outcome");
        self.queue.apply(Change::Outcome(&outcome), NOW);
        self.delivered += 1;
    }
}

#[test]
fn a_backlog_that_neither_doubles_nor_halves_is_sent_to_its_end() {
    let mut shard = Shard::new();
    shard.accept(100);
    shard.tell();
    // As fast in as out: the queue has no news, while the ledger counts what it was told down to nothing.
    for _ in 0..150 {
        shard.grant(1);
        shard.dispatch(1);
        shard.accept(1);
    }
    shard.grant(1000);
    while shard.dispatch(100) > 0 {}
    assert_eq!(shard.delivered, shard.accepted);
}

#[test]
fn demand_that_ends_and_begins_between_two_looks_is_told() {
    let mut shard = Shard::new();
    shard.accept(4);
    shard.tell();
    shard.grant(100);
    let sent: usize = std::iter::from_fn(|| {
        // Jobs leave without a look at the queue's news, as they do within one round.
        let (path, worker) = shard.ledger.next_send()?;
        let job = shard.queue.pop(path, 10)?;
        let left = shard.queue.demand(path).map_or(0, |demand| demand.ready);
        shard.ledger.sent(path, worker, job.body_bytes, left);
        Some(1)
    })
    .sum();
    assert_eq!(sent, 4);
    shard.accept(3);
    assert_eq!(shard.dispatch(100), 3);
}
