//! Days of mail on the in-memory disk, with the clock scaled: what the ring costs in writes and in files, and that nobody
//! who reads a message sees its place being used for something else.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use super::commit::{Log, Note};
use super::reader::{self, ReadError};
use super::replay::segment_path;
use super::segment::TRAILER_BYTES;
use super::storage::Storage;
use super::storage::memory::MemoryDisk;
use super::testing::*;
use crate::id::MessageId;
use crate::limits::{BATCH_BYTES_MAX, BODY_INLINE_BYTES_MAX};
use crate::outcome::Verdict;

const SEGMENT: u32 = 1 << 20;
/// Messages that are accepted in one commit.
const BATCH: u64 = 16;
/// What a mail's body has, bytes.
const BODY: usize = 4096;
/// Commits in an hour of the simulation. Eight thousand messages a day fill as many segments as two million would of
/// those that the relay has by default.
const HOUR: u64 = 84;
const DAY: u64 = 24 * HOUR;
/// From commit to commit on the log's clock: it is never idle.
const STEP: Duration = Duration::from_millis(200);

/// Numbers that look random, and are the same for the same seed.
#[derive(Clone)]
struct Dice(Rc<Cell<u64>>);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(Rc::new(Cell::new(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)))
    }

    /// A number below `sides`.
    fn roll(&self, sides: u64) -> u64 {
        let mut bits = self.0.get();
        bits ^= bits << 13;
        bits ^= bits >> 7;
        bits ^= bits << 17;
        self.0.set(bits);
        (bits >> 16) % sides
    }
}

/// A relay's spool, in numbers of commits.
struct Days {
    disk: MemoryDisk,
    executor: Executor,
    log: Log<MemoryDisk>,
    model: Model,
    dice: Dice,
    /// What is delivered when.
    due: BTreeMap<u64, Vec<MessageId>>,
    fresh: Rc<RefCell<Vec<MessageId>>>,
    step: u64,
    /// Most bytes of files beyond four times what lived.
    slack: u64,
}

impl Days {
    fn new(seed: u64) -> Self {
        let disk = MemoryDisk::without_history(1 << 40);
        let executor = Executor::new(&disk);
        let (log, _, model) = open(&executor, &disk, SEGMENT, seed).unwrap();
        drive(&executor, &log, &model);
        let dice = Dice::new(seed);
        let (due, fresh) = Default::default();
        Self { disk, executor, log, model, dice, due, fresh, step: 0, slack: 0 }
    }

    /// What is delivered by now leaves, a batch arrives, and the clock goes on.
    fn step(&mut self) {
        for id in self.due.remove(&self.step).unwrap_or_default() {
            let (log, model) = (self.log.clone(), self.model.clone());
            self.executor.spawn(async move { settle(&log, &model, id).await });
        }
        for _ in 0..BATCH {
            let (log, model, fresh) = (self.log.clone(), self.model.clone(), self.fresh.clone());
            let mail = message(log.next_id(), BODY);
            self.executor.spawn(async move {
                let id = mail.id;
                let (_, location) = log.accept(&mail).await.expect("there is room");
                model.0.borrow_mut().insert(id, (location, 0));
                fresh.borrow_mut().push(id);
            });
        }
        self.pass(STEP);
        self.step += 1;
        for id in self.fresh.take() {
            let wait = match self.dice.roll(100) {
                0..90 => 0,
                90..99 => self.dice.roll(HOUR),
                _ => DAY + self.dice.roll(2 * DAY),
            };
            self.due.entry(self.step + wait).or_default().push(id);
        }
    }

    /// Lets time pass, and looks at the files at every moment at which something happens.
    fn pass(&mut self, time: Duration) {
        let until = self.disk.now() + time;
        self.executor.spawn({
            let disk = self.disk.clone();
            async move { disk.sleep(time).await }
        });
        self.look();
        while self.disk.now() < until {
            assert!(self.disk.advance(), "somebody sleeps");
            self.look();
        }
    }

    fn look(&mut self) {
        self.executor.settle();
        let stats = self.log.stats();
        let slack = stats.disk_bytes.saturating_sub(4 * stats.live_bytes);
        self.slack = self.slack.max(slack);
        assert!(slack <= 4 * u64::from(SEGMENT), "after {} commits: {stats:?}", self.step);
    }

    /// Bytes of all files that there really are.
    fn file_bytes(&self) -> u64 {
        let sizes = self.disk.paths().into_iter().filter_map(|path| self.disk.contents(&path));
        sizes.map(|contents| contents.len() as u64).sum()
    }
}

async fn settle(log: &Log<MemoryDisk>, model: &Model, id: MessageId) {
    let outcome = outcome(id, 1, Verdict::Delivered);
    let _ticket = log.append(Note::Outcome(&outcome)).await.expect("there is room");
    let settled = model.0.borrow_mut().remove(&id);
    if let Some((location, _)) = settled {
        log.settled(id, location);
    }
}

/// Of a hundred messages ninety are delivered at once, nine within an hour, one after one to three days. What counts is the
/// fourth day: by then as much leaves as comes.
#[test]
fn a_day_of_mail_is_written_at_most_one_and_a_half_times_and_its_files_stay_within_four_times_what_lives() {
    let mut days = Days::new(1);
    for _ in 0..3 * DAY {
        days.step();
    }
    let before = (days.disk.written(), days.log.stats());
    for _ in 0..DAY {
        days.step();
        if days.step.is_multiple_of(HOUR) {
            assert_eq!(days.file_bytes(), days.log.stats().disk_bytes, "a file is not counted");
        }
    }
    let (written, stats) = (days.disk.written(), days.log.stats());
    let mail = DAY * BATCH * BODY as u64;
    // All writes: batches with padding, moves, footers, headers, and new files if recycling did not do.
    let amplification = (written.bytes - before.0.bytes) as f64 / mail as f64;
    let moved = (stats.moved_bytes - before.1.moved_bytes) as f64 / mail as f64;
    println!(
        "a day of {} messages of {BODY} bytes: written {amplification:.3} times, {moved:.3} of it moves; {:.2} segments \
         beyond four times what lives, at most; {} live of {} bytes of files at the end",
        DAY * BATCH,
        days.slack as f64 / f64::from(SEGMENT),
        stats.live_bytes,
        stats.disk_bytes,
    );
    assert!(moved > 0.0, "long-lived mail has to move: {stats:?}");
    assert!(amplification <= 1.5, "a message is written {amplification:.3} times");
}

/// Readers hold messages of all sizes by their pins, piece by piece, while the ring wraps under them again and again.
fn read_under_reclaim(seed: u64) {
    let disk = MemoryDisk::without_history(1 << 40);
    let executor = Executor::new(&disk);
    let (log, _, model) = open(&executor, &disk, SEGMENT, seed).unwrap();
    drive(&executor, &log, &model);
    let dice = Dice::new(seed);
    let reads = Rc::new(Cell::new(0));
    // Chunked, inline, and so small that a batch has many.
    for bytes in [200_000, 3 * BODY_INLINE_BYTES_MAX + 1, 30_000, 5_000, 700] {
        for _ in 0..2 {
            let session =
                Session { disk: disk.clone(), log: log.clone(), model: model.clone(), dice: dice.clone() };
            let reads = reads.clone();
            executor.spawn(async move {
                for turn in 0..12 {
                    session.keep_and_read(bytes + turn).await;
                    reads.set(reads.get() + 1);
                }
            });
        }
    }
    // And mail that leaves at once, so that old segments are wanted.
    let done = 10 * 12;
    let churn = (disk.clone(), log.clone(), model.clone(), reads.clone());
    executor.spawn(async move {
        let (disk, log, model, reads) = churn;
        while reads.get() < done {
            let id = log.next_id();
            let (_, location) = log.accept(&message(id, 60_000)).await.expect("there is room");
            model.0.borrow_mut().insert(id, (location, 0));
            settle(&log, &model, id).await;
            disk.sleep(Duration::from_millis(1)).await;
        }
    });
    while reads.get() < done {
        executor.settle();
        assert!(disk.advance(), "seed {seed}: nobody reads any more");
    }
    let stats = log.stats();
    assert!(stats.moved_bytes > 0 && stats.written_bytes > 20 * u64::from(SEGMENT), "seed {seed}: {stats:?}");
}

struct Session {
    disk: MemoryDisk,
    log: Log<MemoryDisk>,
    model: Model,
    dice: Dice,
}

impl Session {
    /// Accepts a message, pins it after a while, reads it slowly, and settles it.
    async fn keep_and_read(&self, bytes: usize) {
        let mut mail = message(self.log.next_id(), bytes);
        let (id, whole) = (mail.id, mail.body.clone());
        while mail.body.len() > BODY_INLINE_BYTES_MAX {
            let rest = mail.body.split_off(BODY_INLINE_BYTES_MAX);
            let chunk = std::mem::replace(&mut mail.body, rest);
            self.log.append_chunk(id, &chunk).await.expect("there is room");
            self.dawdle().await;
        }
        let (_, location) = self.log.accept(&mail).await.expect("there is room");
        self.model.0.borrow_mut().insert(id, (location, 0));
        self.dawdle().await;
        let pinned = loop {
            let location = self.model.0.borrow()[&id].0;
            match self.log.pin(id, location).await {
                Ok(pinned) => break pinned,
                Err(ReadError::Disk(error)) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => panic!("{id}: {error}"),
            }
        };
        self.dawdle().await;
        let opened = reader::open(&self.disk, &pinned).await.expect("it reads back");
        let mut read = Vec::new();
        for chunk in &opened.chunks {
            self.dawdle().await;
            reader::read_chunk(&self.disk, &pinned, *chunk, &mut read).await.expect("it reads back");
        }
        read.extend_from_slice(&opened.rest);
        assert!(read == whole, "{id} is not what was written");
        settle(&self.log, &self.model, id).await;
    }

    /// Long enough for other mail to fill a segment or a few, or not at all.
    async fn dawdle(&self) {
        let wait = self.dice.roll(4) * self.dice.roll(50);
        self.disk.sleep(Duration::from_millis(wait)).await;
    }
}

#[test]
fn what_is_read_through_pins_is_what_was_written_however_often_the_ring_wraps_meanwhile() {
    for seed in 1..=8 {
        read_under_reclaim(seed);
    }
}

#[test]
fn a_segment_without_a_footer_is_emptied_without_being_held_in_memory_whole() {
    const LARGE: u32 = 8 << 20;
    let disk = MemoryDisk::without_history(1 << 40);
    let executor = Executor::new(&disk);
    let (log, _, model) = open(&executor, &disk, LARGE, 1).unwrap();
    drive(&executor, &log, &model);
    let first = log.next_id();
    let send = |id, leaves: bool| {
        let (log, model) = (log.clone(), model.clone());
        let sent = executor.run(async move {
            let (_, location) = log.accept(&message(id, 60_000)).await.expect("there is room");
            model.0.borrow_mut().insert(id, (location, 0));
            if leaves {
                settle(&log, &model, id).await;
            }
            location.segment
        });
        sent.expect("a message is accepted")
    };
    send(first, false);
    // As much as keeps the segment where it is until its footer is damaged.
    let others: Vec<_> = (0..100).map(|_| log.next_id()).collect();
    for id in &others {
        send(*id, false);
    }
    while send(log.next_id(), true) < 3 {}
    // The trailer is what says where the footer is.
    disk.flip(&segment_path(DIR, 1), (LARGE - TRAILER_BYTES) as usize, 1);
    let before = disk.reads();
    for id in others {
        let (log, model) = (log.clone(), model.clone());
        executor.spawn(async move { settle(&log, &model, id).await });
    }
    while model.0.borrow()[&first].0.segment == 1 {
        send(log.next_id(), true);
    }
    let read = disk.reads();
    assert!(read.all - before.all > LARGE as usize / 2, "the segment had to be scanned: {read:?}");
    assert!(read.most <= BATCH_BYTES_MAX, "{read:?}");
}

#[test]
fn a_segment_that_lives_whole_is_emptied_under_load_though_its_copies_are_larger() {
    let disk = MemoryDisk::without_history(1 << 40);
    let executor = Executor::new(&disk);
    let (log, _, model) = open(&executor, &disk, SEGMENT, 1).unwrap();
    drive(&executor, &log, &model);
    // Short messages, many to a batch: the leg states of the copies make them a fifth longer.
    for _ in 0..500 {
        let (log, model) = (log.clone(), model.clone());
        executor.spawn(async move {
            loop {
                let id = log.next_id();
                let (_, location) = log.accept(&message(id, 1)).await.expect("there is room");
                model.0.borrow_mut().insert(id, (location, 0));
                if location.segment > 1 {
                    return settle(&log, &model, id).await;
                }
            }
        });
    }
    executor.settle();
    let lives = model.ids();
    assert!(lives.len() > 3000 && model.0.borrow().values().all(|(location, _)| location.segment == 1));
    // Mail that comes and goes wants every segment that the copies want.
    for _ in 0..64 {
        let (log, model) = (log.clone(), model.clone());
        executor.spawn(async move {
            while model.0.borrow().values().any(|(location, _)| location.segment == 1) {
                let id = log.next_id();
                let (_, location) = log.accept(&message(id, 30_000)).await.expect("there is room");
                model.0.borrow_mut().insert(id, (location, 0));
                settle(&log, &model, id).await;
            }
        });
    }
    let (clock, queue) = (disk.clone(), model.clone());
    let emptied = executor.run(async move {
        while queue.0.borrow().values().any(|(location, _)| location.segment == 1) {
            clock.sleep(Duration::from_millis(10)).await;
        }
    });
    assert!(emptied.is_some(), "{:?}", log.stats());
    assert!(lives.iter().all(|id| model.0.borrow().contains_key(id)));
}
