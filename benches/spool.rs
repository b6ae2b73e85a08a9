//! The spool: records with their checksums; messages appended and committed, onto the in-memory disk for the log's own
//! CPU, and onto the real one (feature `runtime`) for throughput; recovery. Beside the times stands what does not depend
//! on the machine: bytes written for each byte of mail, and syncs for each message.

mod work;

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use criterion::{
    BenchmarkGroup, BenchmarkId, Criterion, SamplingMode, Throughput, measurement::WallTime as Wall,
};
use ringpost::clock::{Moment, Now, WallTime};
use ringpost::id::{Location, MessageId, PartId};
use ringpost::limits::BODY_INLINE_BYTES_MAX;
use ringpost::message::Message;
use ringpost::outcome::LegState;
use ringpost::queue::{Change, Queue, QueueOptions};
use ringpost::spool::storage::Storage;
use ringpost::spool::storage::memory::{MemoryDisk, Writes};
use ringpost::spool::{Fence, Liveness, Log, LogOptions, LogStats, Recovered};
use work::{Acceptance, envelope};

const DIR: &str = "part-00001";
/// Bytes of bodies, and how many sessions append one at the same time.
const SIZES: [usize; 4] = [512, 4 << 10, 64 << 10, 1 << 20];
const AT_ONCE: [usize; 3] = [1, 16, 256];
/// Messages in the log that is recovered.
const RECOVERED: u64 = 20_000;
static LARGE: [u8; BODY_INLINE_BYTES_MAX] = [b'x'; BODY_INLINE_BYTES_MAX];

fn records(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("record");
    let mut acceptance = Acceptance::new();
    group.throughput(Throughput::Bytes(acceptance.bytes.len() as u64));
    group.bench_function("decode 4 KiB", |bencher| bencher.iter(|| acceptance.decode()));
    group.bench_function("encode 4 KiB", |bencher| bencher.iter(|| acceptance.encode()));
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

async fn open<S: Storage>(disk: S, segment_bytes: u32, queue: &mut Queue) -> Log<S> {
    let options = LogOptions { segment_bytes, reserve_bytes: 0, ..LogOptions::default() };
    let mut salt = salts();
    let mut apply = |recovered: Recovered<'_>| {
        let Recovered::Accepted { id, location, envelope, legs } = recovered else { return None };
        let (envelope, body_bytes) = (&envelope, location.bytes);
        let change = Change::Accepted { id, envelope, location, body_bytes, states: legs };
        queue.apply(change, Now { wall: WallTime(3), mono: Moment(1_000_000) }).superseded
    };
    let opened = Log::open(disk, PartId(1), DIR, options, Fence::default(), &mut salt, &mut apply).await;
    opened.expect("what was closed well opens").0
}

fn salts() -> impl FnMut() -> u64 {
    let mut salt = 0;
    move || {
        salt += 1;
        salt
    }
}

fn queue() -> Queue {
    Queue::new(QueueOptions::default(), 5)
}

/// `count` sessions accept a message of `size` bytes each at the same time; with `keep` they stay live.
async fn accept<S: Storage>(log: &Log<S>, count: usize, size: usize, keep: bool) {
    let accept_one = |log: Log<S>| async move {
        let id = log.next_id();
        let mut left = size;
        while left > BODY_INLINE_BYTES_MAX {
            log.append_chunk(id, &LARGE[..BODY_INLINE_BYTES_MAX]).await.expect("room");
            left -= BODY_INLINE_BYTES_MAX;
        }
        let message =
            Message { id, envelope: envelope("recipient@destination.example"), body: LARGE[..left].to_vec() };
        let (_, location) = log.accept(&message).await.expect("room");
        if !keep {
            log.settled(id, location);
        }
    };
    let mut waiting: Vec<_> = (0..count).map(|_| Box::pin(accept_one(log.clone()))).collect();
    poll_fn(move |context| {
        waiting.retain_mut(|one| one.as_mut().poll(context).is_pending());
        if waiting.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// Runs rounds of accepts on a log, somewhere, and tells the time that they took.
trait Bench {
    fn rounds(&mut self, rounds: u64, count: usize, size: usize) -> Duration;
}

/// A log on the in-memory disk.
struct InMemory {
    disk: MemoryDisk,
    executor: Executor,
    log: Log<MemoryDisk>,
}

impl InMemory {
    fn new(segment_bytes: u32) -> Self {
        let disk = MemoryDisk::without_history(1 << 40);
        let mut executor = Executor { disk: disk.clone(), tasks: Vec::new() };
        let opening = disk.clone();
        let log = executor.run(async move { open(opening, segment_bytes, &mut queue()).await });
        executor.spawn(log.clone().run_committer());
        executor.spawn(log.clone().run_upkeep(Nothing, salts()));
        let mut bench = Self { disk, executor, log };
        // Until the spares are made: their zeros are written once, and never again.
        let disk = bench.disk.clone();
        bench.executor.run(async move { disk.sleep(Duration::from_millis(10)).await });
        bench
    }

    fn accept(&mut self, count: usize, size: usize, keep: bool) {
        let log = self.log.clone();
        self.executor.run(async move { accept(&log, count, size, keep).await });
    }
}

impl Bench for InMemory {
    fn rounds(&mut self, rounds: u64, count: usize, size: usize) -> Duration {
        let began = Instant::now();
        for _ in 0..rounds {
            self.accept(count, size, false);
        }
        began.elapsed()
    }
}

/// A log in a directory below `target/`, on an executor of its own.
#[cfg(feature = "runtime")]
mod on_disk {
    use std::sync::mpsc;
    use std::time::{Duration, Instant};

    use ringpost::net::{self, executor};
    use ringpost::spool::storage::disk::Disk;

    use super::{Bench, DIR, Nothing, accept, open, queue, salts};

    type Rounds = (u64, usize, usize);

    pub struct OnDisk {
        ask: mpsc::Sender<Rounds>,
        took: mpsc::Receiver<Duration>,
        // Goes last: the log is in it.
        _directory: tempfile::TempDir,
    }

    impl OnDisk {
        /// `Err` says what the host lacks.
        pub fn new(segment_bytes: u32) -> Result<Self, String> {
            executor::check_host(1).map_err(|error| error.to_string())?;
            let base = env!("CARGO_TARGET_TMPDIR");
            let directory = tempfile::tempdir_in(base).map_err(|error| format!("{base}: {error}"))?;
            let root = directory.path().to_owned();
            std::fs::create_dir(root.join(DIR)).map_err(|error| error.to_string())?;
            let (ask, asked) = mpsc::channel::<Rounds>();
            let (tell, took) = mpsc::channel();
            let main = move || async move {
                let disk = Disk::open(&root).await.expect("the directory is there");
                let log = open(disk, segment_bytes, &mut queue()).await;
                net::spawn_vital(log.clone().run_committer());
                net::spawn_vital(log.clone().run_upkeep(Nothing, salts()));
                while log.stats().spares < 2 {
                    net::sleep(Duration::from_millis(5)).await;
                }
                // Nothing else runs on this executor: it may block between measurements.
                while let Ok((rounds, count, size)) = asked.recv() {
                    let began = Instant::now();
                    for _ in 0..rounds {
                        accept(&log, count, size, false).await;
                    }
                    let _ = tell.send(began.elapsed());
                }
                log.close().await;
            };
            executor::start("bench", None, main).map_err(|error| error.to_string())?;
            Ok(Self { ask, took, _directory: directory })
        }
    }

    impl Bench for OnDisk {
        fn rounds(&mut self, rounds: u64, count: usize, size: usize) -> Duration {
            self.ask.send((rounds, count, size)).expect("the executor listens");
            self.took.recv().expect("the executor answers")
        }
    }
}

fn name(bytes: usize) -> String {
    if bytes < 1 << 10 {
        format!("{bytes} B")
    } else if bytes < 1 << 20 {
        format!("{} KiB", bytes >> 10)
    } else {
        format!("{} MiB", bytes >> 20)
    }
}

/// Each size with each number of sessions.
fn appends(group: &mut BenchmarkGroup<'_, Wall>, bench: &mut dyn Bench) {
    group.sample_size(10).sampling_mode(SamplingMode::Flat);
    group.warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_secs(1));
    for size in SIZES {
        for count in AT_ONCE {
            group.throughput(Throughput::Bytes((count * size) as u64));
            let id = BenchmarkId::new(name(size), format!("{count} at once"));
            group.bench_function(id, |bencher| {
                bencher.iter_custom(|rounds| bench.rounds(rounds, count, size));
            });
        }
    }
}

fn appends_in_memory(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("append and commit in memory");
    appends(&mut group, &mut InMemory::new(64 << 20));
    group.finish();
}

#[cfg(feature = "runtime")]
fn appends_on_disk(criterion: &mut Criterion) {
    match on_disk::OnDisk::new(64 << 20) {
        Ok(mut bench) => {
            let mut group = criterion.benchmark_group("append and commit on disk");
            appends(&mut group, &mut bench);
            group.finish();
        }
        Err(reason) => eprintln!("SKIP append and commit on disk: {reason}"),
    }
}

/// What appending writes: counted, so the same on every machine.
fn count_writes() {
    println!("size     sessions  records a batch  bytes written a byte  batches alone  syncs a message");
    for size in SIZES {
        for count in AT_ONCE {
            let mut bench = InMemory::new(64 << 20);
            let rounds = (192 << 20) / (size * count).max(64 << 10) + 1;
            // So that the ring has as many files as it will have.
            bench.rounds(rounds as u64, count, size);
            let before = (bench.disk.written(), bench.log.stats());
            bench.rounds(rounds as u64, count, size);
            let after = (bench.disk.written(), bench.log.stats());
            println!("{:8} {count:8}  {}", name(size), ratios(before, after, rounds * count, size));
        }
    }
}

fn ratios(before: (Writes, LogStats), after: (Writes, LogStats), messages: usize, size: usize) -> String {
    let bytes = (messages * size) as f64;
    let records = (after.1.records - before.1.records) as f64 / (after.1.commits - before.1.commits) as f64;
    let written = (after.0.bytes - before.0.bytes) as f64 / bytes;
    let batches = (after.1.written_bytes - before.1.written_bytes) as f64 / bytes;
    let syncs = (after.0.calls - before.0.calls) as f64 / messages as f64;
    format!("{records:15.1}  {written:20.3}  {batches:13.3}  {syncs:15.4}")
}

/// Opening a log of 20,000 queued messages and putting them into the queue: times 50 it is that of a million.
fn recovery(criterion: &mut Criterion) {
    const SEGMENT: u32 = 4 << 20;
    let mut filled = InMemory::new(SEGMENT);
    for _ in 0..RECOVERED / 200 {
        filled.accept(200, 512, true);
    }
    let log = filled.log.clone();
    filled.executor.run(async move { log.close().await });
    let mut group = criterion.benchmark_group("recovery");
    group.sample_size(10).measurement_time(Duration::from_secs(2)).sampling_mode(SamplingMode::Flat);
    group.throughput(Throughput::Elements(RECOVERED));
    group.bench_function(format!("{RECOVERED} queued messages"), |bencher| {
        bencher.iter_custom(|rounds| {
            let mut spent = Duration::ZERO;
            for _ in 0..rounds {
                let disk = filled.disk.copy();
                let mut executor = Executor { disk: disk.clone(), tasks: Vec::new() };
                let began = Instant::now();
                let queued = executor.run(async move {
                    let mut queue = queue();
                    open(disk, SEGMENT, &mut queue).await;
                    queue.depth().messages
                });
                spent += began.elapsed();
                assert_eq!(queued as u64, RECOVERED);
            }
            spent
        });
    });
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    records(&mut criterion);
    appends_in_memory(&mut criterion);
    #[cfg(feature = "runtime")]
    appends_on_disk(&mut criterion);
    recovery(&mut criterion);
    criterion.final_summary();
    count_writes();
}
