//! The log as a whole, on the disk in memory: what is acknowledged is there after anything. One file for each promise;
//! `ledger` says what was promised, `cases` how a failing case is run again.

mod cases;
mod commits;
mod damage;
mod failures;
mod full;
mod ledger;
mod lies;
mod power;
mod ring;
mod rot;
mod stuck;

use super::RecoveryReport;
use super::commit::{Log, Note};
use super::error::{AppendError, SpoolError};
use super::restart::SEGMENT_BYTES_MIN;
use super::storage::memory::MemoryDisk;
use super::testing::{Executor, Model, body, drive, message, open, outcome};
use crate::id::{Location, MessageId};
use crate::outcome::Verdict;
use cases::Cases;
use ledger::Ledger;

/// Segments of most tests.
const SEGMENT: u32 = 128 * 1024;
/// Where there are many images, segments are as small as they can be.
const SMALL: u32 = SEGMENT_BYTES_MIN;

/// A log on a disk, the queue over it, and what its clients were told. Clones are the same.
#[derive(Clone)]
struct Rig {
    disk: MemoryDisk,
    executor: Executor,
    log: Log<MemoryDisk>,
    model: Model,
    ledger: Ledger,
}

impl Rig {
    /// A running log on a fresh disk.
    fn fresh(segment_bytes: u32) -> Self {
        let (rig, report) = Self::open(&MemoryDisk::new(1 << 30), segment_bytes, 1).unwrap();
        assert_eq!(report, RecoveryReport::default());
        rig.drive();
        rig
    }

    /// Recovers what is on `disk`. Nothing runs yet.
    fn open(disk: &MemoryDisk, segment_bytes: u32, salt: u64) -> Result<(Self, RecoveryReport), SpoolError> {
        let executor = Executor::new(disk);
        let (log, report, model) = open(&executor, disk, segment_bytes, salt)?;
        let ledger = Ledger::of(&model);
        Ok((Self { disk: disk.clone(), executor, log, model, ledger }, report))
    }

    fn drive(&self) {
        drive(&self.executor, &self.log, &self.model);
    }

    /// Runs a client to its end.
    fn run<T: 'static, F: Future<Output = T> + 'static>(&self, client: impl FnOnce(Self) -> F) -> T {
        self.executor.run(client(self.clone())).expect("it ends")
    }

    /// Has a client that others run beside.
    fn spawn<F: Future<Output = ()> + 'static>(&self, client: impl FnOnce(Self) -> F) {
        self.executor.spawn(client(self.clone()));
    }

    /// Lets `timers` timers fire.
    fn pass(&self, timers: usize) {
        self.executor.settle();
        for _ in 0..timers {
            self.disk.advance();
            self.executor.settle();
        }
    }

    /// Sends a message, and hands it to the queue once it is acknowledged.
    async fn accept(&self, body_bytes: usize) -> Result<(MessageId, Location), AppendError> {
        self.accept_as(self.log.next_id(), body_bytes).await
    }

    /// The same with an id that may have chunks.
    async fn accept_as(
        &self,
        id: MessageId,
        body_bytes: usize,
    ) -> Result<(MessageId, Location), AppendError> {
        self.ledger.asked(id, self.disk.event_count());
        let (_, location) = self.log.accept(&message(id, body_bytes)).await?;
        self.model.0.borrow_mut().insert(id, (location, 0));
        self.ledger.accepted(id, self.disk.event_count());
        Ok((id, location))
    }

    /// The message was delivered.
    async fn settle(&self, id: MessageId) -> Result<(), AppendError> {
        self.ledger.settling(id, self.disk.event_count());
        let ticket = self.log.append(Note::Outcome(&outcome(id, 1, Verdict::Delivered))).await?;
        let settled = self.model.0.borrow_mut().remove(&id);
        if let Some((location, _)) = settled {
            self.log.settled(id, location);
        }
        self.spawn(async move |rig| {
            if ticket.await.is_ok() {
                rig.ledger.settled(id, rig.disk.event_count());
            }
        });
        Ok(())
    }

    /// The message was tried in vain, for the `attempts`th time.
    async fn defer(&self, id: MessageId, attempts: u16) -> Result<(), AppendError> {
        let ticket = self.log.append(Note::Outcome(&outcome(id, attempts, Verdict::Deferred))).await?;
        if let Some(message) = self.model.0.borrow_mut().get_mut(&id) {
            message.1 = attempts;
        }
        self.spawn(async move |rig| {
            if ticket.await.is_ok() {
                rig.ledger.deferred(id, rig.disk.event_count(), attempts);
            }
        });
        Ok(())
    }

    /// Reads a message back; `None` if it is damaged.
    fn body(&self, id: MessageId, location: Location) -> Option<Vec<u8>> {
        self.run(async move |rig| rig.log.read(id, location).await.ok().map(|whole| whole.body))
    }

    /// Eight sessions accept `count` messages each; every third is settled.
    fn workload(&self, count: usize) {
        for session in 0..8 {
            self.spawn(async move |rig| {
                for turn in 0..count {
                    let Ok((id, _)) = rig.accept(100 + 700 * ((session * 7 + turn) % 5)).await else {
                        return;
                    };
                    if turn % 3 == 0 && rig.settle(id).await.is_err() {
                        return;
                    }
                }
            });
        }
        self.pass(4);
    }

    /// Three sessions with mail of all kinds: some long, some deferred, most settled soon, a few kept; until the ring has
    /// wrapped and records have moved.
    fn long_day(&self, turns: usize) {
        for session in 0..3 {
            self.spawn(async move |rig| {
                let mut waiting = Vec::new();
                for turn in session..turns + session {
                    let id = rig.log.next_id();
                    if turn % 23 == 0 {
                        for _ in 0..2 {
                            if rig.log.append_chunk(id, &body(id, 4000)).await.is_err() {
                                return;
                            }
                        }
                    }
                    let bytes = [40, 2900, 700, 5200, 1800][turn % 5];
                    let Ok((id, _)) = rig.accept_as(id, bytes).await else { return };
                    if turn % 7 == 0 && rig.defer(id, 1 + (turn / 7) as u16).await.is_err() {
                        return;
                    }
                    if turn % 11 != 0 {
                        waiting.push(id);
                    }
                    if waiting.len() > 3 && rig.settle(waiting.remove(0)).await.is_err() {
                        return;
                    }
                }
            });
        }
        self.pass(6);
    }
}
