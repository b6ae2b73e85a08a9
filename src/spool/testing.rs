//! A small executor with the memory disk's virtual clock, and a queue of one line, for the spool's tests.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Wake, Waker};

use super::commit::{Log, LogOptions};
use super::error::{Fence, SpoolError};
use super::moving::Liveness;
use super::replay::{Recovered, RecoveryReport};
use super::storage::memory::{Dice, MemoryDisk};
use crate::clock::WallTime;
use crate::envelope::{EnvelopeBuilder, Notify, Parameters};
use crate::id::{Location, MessageId, PartId};
use crate::message::Message;
use crate::outcome::{Enhanced, LegResult, LegState, Outcome, Reply, Verdict};

pub(super) const DIR: &str = "part-00001";
pub(super) const PART: PartId = PartId(1);

struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

struct Task {
    future: Pin<Box<dyn Future<Output = ()>>>,
    flag: Arc<Flag>,
}

/// Runs tasks in order of their spawning; when none is ready the disk's clock moves on.
#[derive(Clone)]
pub(super) struct Executor {
    tasks: Rc<RefCell<Vec<Task>>>,
    disk: MemoryDisk,
}

impl Executor {
    pub fn new(disk: &MemoryDisk) -> Self {
        Self { tasks: Rc::default(), disk: disk.clone() }
    }

    pub fn spawn(&self, future: impl Future<Output = ()> + 'static) {
        let flag = Arc::new(Flag(AtomicBool::new(true)));
        self.tasks.borrow_mut().push(Task { future: Box::pin(future), flag });
    }

    /// Runs everything that is ready until nothing is. Time stands still.
    pub fn settle(&self) {
        loop {
            let mut progress = false;
            let mut tasks = std::mem::take(&mut *self.tasks.borrow_mut());
            tasks.retain_mut(|task| {
                if !task.flag.0.swap(false, Ordering::Relaxed) {
                    return true;
                }
                progress = true;
                let waker = Waker::from(task.flag.clone());
                task.future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending()
            });
            let spawned = std::mem::replace(&mut *self.tasks.borrow_mut(), tasks);
            self.tasks.borrow_mut().extend(spawned);
            if !progress {
                return;
            }
        }
    }

    /// Runs until `future` is done; `None` if 10,000 timers fire before.
    pub fn run<T: 'static>(&self, future: impl Future<Output = T> + 'static) -> Option<T> {
        let result = Rc::new(RefCell::new(None));
        let slot = result.clone();
        self.spawn(async move { *slot.borrow_mut() = Some(future.await) });
        for _ in 0..10_000 {
            self.settle();
            if let Some(value) = result.borrow_mut().take() {
                return Some(value);
            }
            if !self.disk.advance() {
                break;
            }
        }
        None
    }
}

/// Messages that are not settled: where they lie, and how many attempts the one leg has had.
#[derive(Clone, Default)]
pub(super) struct Model(pub Rc<RefCell<BTreeMap<MessageId, (Location, u16)>>>);

impl Model {
    pub fn apply(&self, record: Recovered<'_>) -> Option<Location> {
        let mut messages = self.0.borrow_mut();
        match record {
            Recovered::Accepted { id, location, legs, .. } => {
                let attempts = legs.first().map_or(0, |leg| leg.attempts);
                messages.insert(id, (location, attempts)).map(|(old, _)| old)
            }
            Recovered::Outcome(outcome) => {
                let message = messages.get_mut(&outcome.id)?;
                message.1 = outcome.attempts;
                let open = outcome.results[0].verdict == Verdict::Deferred;
                if open { None } else { messages.remove(&outcome.id).map(|(location, _)| location) }
            }
            Recovered::Bounced(bounced) => messages.remove(&bounced.id).map(|(location, _)| location),
            Recovered::Aborted(id) => messages.remove(&id).map(|(location, _)| location),
        }
    }

    pub fn ids(&self) -> Vec<MessageId> {
        self.0.borrow().keys().copied().collect()
    }
}

impl Liveness for Model {
    fn state(&self, id: MessageId) -> Option<(Location, Vec<LegState>)> {
        let messages = self.0.borrow();
        let (location, attempts) = messages.get(&id)?;
        let (due, replies) = (WallTime(0), Vec::new());
        Some((
            *location,
            vec![LegState { attempts: *attempts, due, open: 1, replies, ..LegState::default() }],
        ))
    }

    fn moved(&self, id: MessageId, _from: Location, to: Location) {
        if let Some(message) = self.0.borrow_mut().get_mut(&id) {
            message.0 = to;
        }
    }

    fn damaged(&self, id: MessageId, _at: Location) {
        panic!("{id} is damaged");
    }
}

pub(super) fn options(segment_bytes: u32) -> LogOptions {
    LogOptions { segment_bytes, reserve_bytes: 0, ..LogOptions::default() }
}

/// Opens the part on `disk`; no driver runs yet.
pub(super) fn open(
    executor: &Executor,
    disk: &MemoryDisk,
    segment_bytes: u32,
    salt: u64,
) -> Result<(Log<MemoryDisk>, RecoveryReport, Model), SpoolError> {
    let model = Model::default();
    let (disk, folded) = (disk.clone(), model.clone());
    let opened = executor.run(async move {
        let mut salts = salt..;
        let mut random = move || salts.next().unwrap_or(0).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let (options, fence) = (options(segment_bytes), Fence::default());
        let mut apply = |record: Recovered<'_>| folded.apply(record);
        Log::open(disk, PART, DIR, options, fence, &mut random, &mut apply).await
    });
    let (log, report) = opened.expect("opening ends")?;
    Ok((log, report, model))
}

/// Spawns the drivers.
pub(super) fn drive(executor: &Executor, log: &Log<MemoryDisk>, model: &Model) {
    executor.spawn(log.clone().run_committer());
    executor.spawn(log.clone().run_clock());
    let mut salt = 1_000_000u64;
    let random = move || {
        salt += 1;
        salt.wrapping_mul(0x9E37_79B9_7F4A_7C15)
    };
    executor.spawn(log.clone().run_upkeep(model.clone(), random));
}

pub(super) fn message(id: MessageId, body_bytes: usize) -> Message {
    let mut builder = EnvelopeBuilder::default();
    builder.begin("s@example.com", Parameters::default(), "");
    builder.push_recipient("r@example.net", Notify::DEFAULT, "").expect("one recipient fits");
    let envelope = builder.encode(WallTime(1), WallTime(2));
    Message { id, envelope, body: body(id, body_bytes) }
}

/// The body of a message of that length: no two messages share eight bytes.
pub(super) fn body(id: MessageId, bytes: usize) -> Vec<u8> {
    let mut body = id.as_u64().wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes().repeat(bytes / 8 + 1);
    body.truncate(bytes);
    body
}

pub(super) fn outcome(id: MessageId, attempts: u16, verdict: Verdict) -> Outcome {
    let reply = Reply::new(250, Enhanced(2, 0, 0), "ok");
    let results = vec![LegResult { recipients: 1, verdict, reply }];
    Outcome { id, leg: 0, attempts, at: WallTime(3), due: WallTime(4), results }
}

/// A seeded coin for power cuts.
pub(super) fn coin(seed: u64) -> impl FnMut() -> bool {
    let mut dice = Dice::new(seed);
    move || dice.coin()
}
