//! The spool without a disk: records with their checksums, and commits onto the in-memory disk, so that what is
//! measured is the log's own work and a copy, not fdatasync.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::hint::black_box;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use ringpost::clock::WallTime;
use ringpost::envelope::{Envelope, EnvelopeBuilder, Notify, Parameters};
use ringpost::id::{Location, MessageId, PartId};
use ringpost::message::Message;
use ringpost::outcome::LegState;
use ringpost::spool::record::{Draft, Kind, Record, Salt, padded};
use ringpost::spool::storage::memory::MemoryDisk;
use ringpost::spool::{Fence, Liveness, Log, LogOptions, Recovered};

const BODY: &[u8] = &[b'x'; 4096];
/// The memory disk forgets nothing, so a log takes this many messages and is thrown away.
const MESSAGES_PER_LOG: u64 = 1024;

fn envelope() -> Envelope {
    let mut builder = EnvelopeBuilder::default();
    builder.begin("sender@source.example", Parameters::default(), "");
    builder.push_recipient("recipient@destination.example", Notify::DEFAULT, "").expect("a recipient");
    builder.encode(WallTime(1), WallTime(2))
}

fn records(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("record");
    let (salt, envelope) = (Salt::new(5), envelope());
    let id = MessageId::new(PartId(1), 1);
    let draft = Draft { kind: Kind::Accepted, id, meta: [envelope.as_bytes(), &[]], body: BODY };
    let mut bytes = vec![0; padded(draft.bytes())];
    draft.encode(salt, 64, &mut bytes);
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("decode 4 KiB", |bencher| {
        bencher.iter(|| black_box(Record::decode(black_box(&bytes), salt, 64)).is_ok());
    });
    group.bench_function("encode 4 KiB", |bencher| {
        bencher.iter(|| black_box(&draft).encode(salt, 64, black_box(&mut bytes)));
    });
    group.finish();
}

struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

type Task = (Pin<Box<dyn Future<Output = ()>>>, Arc<Flag>);

/// Polls what was woken; when nothing was, the disk's clock goes on.
struct Executor {
    disk: MemoryDisk,
    tasks: Vec<Task>,
}

impl Executor {
    fn spawn(&mut self, future: impl Future<Output = ()> + 'static) {
        self.tasks.push((Box::pin(future), Arc::new(Flag(AtomicBool::new(true)))));
    }

    fn run<T: 'static>(&mut self, future: impl Future<Output = T> + 'static) -> T {
        let result = Rc::new(RefCell::new(None));
        let slot = result.clone();
        self.spawn(async move { *slot.borrow_mut() = Some(future.await) });
        loop {
            let mut progress = false;
            self.tasks.retain_mut(|(future, flag)| {
                if !flag.0.swap(false, Ordering::Relaxed) {
                    return true;
                }
                progress = true;
                let waker = Waker::from(flag.clone());
                future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending()
            });
            if let Some(value) = result.borrow_mut().take() {
                return value;
            }
            assert!(progress || self.disk.advance(), "nothing will ever wake it");
        }
    }
}

/// Nothing is live: no segment is ever moved here.
struct Nothing;

impl Liveness for Nothing {
    fn state(&self, _: MessageId) -> Option<(Location, Vec<LegState>)> {
        None
    }

    fn moved(&self, _: MessageId, _: Location, _: Location) {}

    fn damaged(&self, id: MessageId, _: Location) {
        panic!("{id} is damaged");
    }
}

fn open() -> (Executor, Log<MemoryDisk>) {
    let disk = MemoryDisk::new(1 << 40);
    let mut executor = Executor { disk: disk.clone(), tasks: Vec::new() };
    let options = LogOptions { segment_bytes: 16 << 20, reserve_bytes: 0, ..LogOptions::default() };
    let log = executor.run(async move {
        let mut salt = 0;
        let mut random = move || {
            salt += 1;
            salt
        };
        let mut apply = |_: Recovered<'_>| None;
        Log::open(disk, PartId(1), "part-00001", options, Fence::default(), &mut random, &mut apply).await
    });
    let (log, _) = log.expect("an empty disk opens");
    executor.spawn(log.clone().run_committer());
    executor.spawn(log.clone().run_upkeep(Nothing, || 77));
    accept(&mut executor, &log, 1);
    (executor, log)
}

/// `count` sessions accept a message each at the same time.
fn accept(executor: &mut Executor, log: &Log<MemoryDisk>, count: u64) {
    let accept_one = |log: Log<MemoryDisk>| async move {
        let message = Message { id: log.next_id(), envelope: envelope(), body: BODY.to_vec() };
        log.accept(&message).await.expect("room");
    };
    let mut waiting: Vec<_> = (0..count).map(|_| Box::pin(accept_one(log.clone()))).collect();
    executor.run(poll_fn(move |context| {
        waiting.retain_mut(|one| one.as_mut().poll(context).is_pending());
        if waiting.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    }));
}

fn commits(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("log");
    for count in [1, 32] {
        group.throughput(Throughput::Elements(count));
        group.bench_function(format!("accept {count} of 4 KiB in a commit"), |bencher| {
            bencher.iter_custom(|iterations| {
                let (mut left, mut spent) = (iterations, Duration::ZERO);
                while left > 0 {
                    let (mut executor, log) = open();
                    let rounds = left.min(MESSAGES_PER_LOG / count);
                    let began = Instant::now();
                    for _ in 0..rounds {
                        accept(&mut executor, &log, count);
                    }
                    spent += began.elapsed();
                    left -= rounds;
                }
                spent
            });
        });
    }
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    records(&mut criterion);
    commits(&mut criterion);
    criterion.final_summary();
}
