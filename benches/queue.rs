//! The queue: what a message costs it from acceptance to its outcome, empty and with a hundred thousand waiting.

use std::time::Duration;

use criterion::{Criterion, Throughput};
use ringpost::clock::{Moment, Now, WallTime};
use ringpost::envelope::{Envelope, EnvelopeBuilder, Notify, Parameters};
use ringpost::id::{Location, MessageId, PartId, PathId};
use ringpost::outcome::{Enhanced, LegResult, Reply, Verdict};
use ringpost::queue::{Change, Queue, QueueOptions};

const NOW: Now = Now { wall: WallTime(1_800_000_000_000), mono: Moment(1_000_000) };
const PATH: PathId = PathId(1);
const DOMAINS: usize = 1000;

/// An envelope for each domain.
fn envelopes() -> Vec<Envelope> {
    let envelope = |number| {
        let mut builder = EnvelopeBuilder::default();
        builder.begin("s@a.test", Parameters::default(), "");
        let mailbox = format!("r@d{number}.test");
        builder.push_recipient(&mailbox, Notify::DEFAULT, "").expect("a recipient");
        builder.encode(NOW.wall, NOW.wall + Duration::from_secs(3600))
    };
    (0..DOMAINS).map(envelope).collect()
}

struct Bench {
    queue: Queue,
    envelopes: Vec<Envelope>,
    accepted: u64,
}

impl Bench {
    fn accept(&mut self) {
        self.accepted += 1;
        let change = Change::Accepted {
            id: MessageId::new(PartId(1), self.accepted),
            envelope: &self.envelopes[self.accepted as usize % DOMAINS],
            location: Location { segment: 1, offset: self.accepted as u32, bytes: 4300 },
            body_bytes: 4096,
            states: &[],
        };
        self.queue.apply(change, NOW);
        while let Some(domain) = self.queue.poll_unrouted().map(str::to_owned) {
            self.queue.route(&domain, PATH, false, Moment(u64::MAX), NOW);
        }
    }

    fn deliver(&mut self) {
        let job = self.queue.pop(PATH, 10).expect("a job");
        let reply = Reply::new(250, Enhanced(2, 0, 0), "queued as 1");
        let results = vec![LegResult { recipients: job.recipients, verdict: Verdict::Delivered, reply }];
        let outcome = self.queue.outcome(job.leg, job.recipients, results, true, NOW).expect("an outcome");
        let applied = self.queue.apply(Change::Outcome(&outcome), NOW);
        assert!(applied.settled.is_some());
    }
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("queue");
    group.throughput(Throughput::Elements(1));
    for depth in [0, 100_000] {
        let queue = Queue::new(QueueOptions::default(), 1);
        let mut bench = Bench { queue, envelopes: envelopes(), accepted: 0 };
        for _ in 0..depth {
            bench.accept();
        }
        group.bench_function(format!("accepted to settled with {depth} waiting"), |bencher| {
            bencher.iter(|| {
                bench.accept();
                bench.deliver();
            });
        });
    }
    group.finish();
    criterion.final_summary();
}
