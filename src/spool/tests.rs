//! The log as a whole, on the in-memory disk: what is acknowledged is there after anything.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::commit::{Log, Note};
use super::error::AppendError;
use super::storage::memory::{Fault, MemoryDisk, Rule};
use super::testing::*;
use crate::id::{Location, MessageId};
use crate::limits::BATCH_BYTES_MAX;
use crate::outcome::{Bounced, Verdict};

const SEGMENT: u32 = 128 * 1024;

/// What clients were told, in order, with the place in the disk's history.
#[derive(Clone, Default)]
struct Journal(Rc<RefCell<Vec<(usize, MessageId)>>>, Rc<RefCell<Vec<(usize, MessageId)>>>);

impl Journal {
    fn acknowledged(&self, events: usize) -> BTreeSet<MessageId> {
        self.0.borrow().iter().filter(|(at, _)| *at <= events).map(|(_, id)| *id).collect()
    }

    /// Acknowledged by then, and no settlement was on its way.
    fn owed(&self, events: usize) -> BTreeSet<MessageId> {
        let mut owed = self.acknowledged(events);
        for (_, id) in self.1.borrow().iter().filter(|(at, _)| *at <= events) {
            owed.remove(id);
        }
        owed
    }

    fn settling(&self, disk: &MemoryDisk, id: MessageId) {
        self.1.borrow_mut().push((disk.event_count(), id));
    }
}

/// Accepts a message, hands it to the model and notes the acknowledgement.
async fn accept(
    log: &Log<MemoryDisk>,
    disk: &MemoryDisk,
    model: &Model,
    journal: &Journal,
    body_bytes: usize,
) -> Result<(MessageId, Location), AppendError> {
    let id = log.next_id();
    let (_, location) = log.accept(&message(id, body_bytes)).await?;
    model.0.borrow_mut().insert(id, (location, 0));
    journal.0.borrow_mut().push((disk.event_count(), id));
    Ok((id, location))
}

async fn settle(log: &Log<MemoryDisk>, model: &Model, id: MessageId) -> Result<(), AppendError> {
    let _ticket = log.append(Note::Outcome(&outcome(id, 1, Verdict::Delivered))).await?;
    let settled = model.0.borrow_mut().remove(&id);
    if let Some((location, _)) = settled {
        log.settled(id, location);
    }
    Ok(())
}

/// A running log on a fresh disk.
fn fresh(segment_bytes: u32) -> (MemoryDisk, Executor, Log<MemoryDisk>, Model, Journal) {
    let disk = MemoryDisk::new(1 << 30);
    let executor = Executor::new(&disk);
    let (log, report, model) = open(&executor, &disk, segment_bytes, 1).unwrap();
    assert_eq!(report, super::RecoveryReport::default());
    drive(&executor, &log, &model);
    (disk, executor, log, model, Journal::default())
}

/// Eight sessions accept `count` messages each; every third is settled, one has chunks.
fn workload(
    disk: &MemoryDisk,
    executor: &Executor,
    log: &Log<MemoryDisk>,
    model: &Model,
    journal: &Journal,
    count: usize,
) {
    for session in 0..8 {
        let (log, disk, model, journal) = (log.clone(), disk.clone(), model.clone(), journal.clone());
        executor.spawn(async move {
            for turn in 0..count {
                let bytes = 100 + 700 * ((session * 7 + turn) % 5);
                let Ok((id, _)) = accept(&log, &disk, &model, &journal, bytes).await else { return };
                if turn % 3 == 0 {
                    journal.settling(&disk, id);
                }
                if turn % 3 == 0 && settle(&log, &model, id).await.is_err() {
                    return;
                }
            }
        });
    }
    executor.settle();
    for _ in 0..4 {
        disk.advance();
        executor.settle();
    }
}

#[test]
fn what_was_accepted_and_settled_is_recovered_with_the_same_places() {
    let (disk, executor, log, model, journal) = fresh(SEGMENT);
    workload(&disk, &executor, &log, &model, &journal, 6);
    assert_eq!(journal.0.borrow().len(), 48);
    let last = log.next_id();
    let stats = log.stats();
    assert!(stats.commits < stats.records, "sessions share commits: {stats:?}");
    let after = disk.copy();
    let (again, report, recovered) = open(&Executor::new(&after), &after, SEGMENT, 9).unwrap();
    assert!(report.damage.is_empty() && !report.has_rot(), "{report:?}");
    assert_eq!(*recovered.0.borrow(), *model.0.borrow());
    assert!(again.next_id() > last, "ids are never given out twice");
}

#[test]
fn nothing_is_acknowledged_before_its_write_completes() {
    let (disk, executor, log, model, journal) = fresh(SEGMENT);
    workload(&disk, &executor, &log, &model, &journal, 1);
    let before = journal.0.borrow().len();
    disk.hold_completions(true);
    workload(&disk, &executor, &log, &model, &journal, 2);
    assert_eq!(journal.0.borrow().len(), before);
    disk.hold_completions(false);
    executor.settle();
    assert_eq!(journal.0.borrow().len(), before + 16);
}

#[test]
fn a_commit_that_outlasts_its_deadline_is_refused_and_never_delivered() {
    let (disk, executor, log, model, journal) = fresh(SEGMENT);
    executor.settle();
    disk.hold_completions(true);
    let (waiting, held) = (log.clone(), disk.clone());
    let refused = executor.run(async move {
        let id = waiting.next_id();
        let result = waiting.accept(&message(id, 10)).await.map(|_| ());
        (id, result, held.event_count())
    });
    let (id, result, _) = refused.expect("the deadline ends the wait");
    assert_eq!(result, Err(AppendError::Stuck));
    assert!(log.stats().stuck);
    disk.hold_completions(false);
    executor.settle();
    assert!(!log.stats().stuck);
    workload(&disk, &executor, &log, &model, &journal, 1);
    let after = disk.copy();
    let (_, _, recovered) = open(&Executor::new(&after), &after, SEGMENT, 9).unwrap();
    assert!(!recovered.ids().contains(&id), "an Aborted follows when the disk returns");
    assert_eq!(recovered.ids(), model.ids());
}

#[test]
fn a_power_cut_at_any_write_loses_nothing_acknowledged_and_applies_nothing_half() {
    let (disk, executor, log, model, journal) = fresh(SEGMENT);
    workload(&disk, &executor, &log, &model, &journal, 5);
    let mut images = 0;
    for events in 0..=disk.event_count() {
        for round in 0..6 {
            let seed = (events * 31 + round) as u64;
            let image = match round {
                0 => disk.cut(events, &mut || false),
                1 => disk.cut(events, &mut || true),
                _ => disk.cut(events, &mut coin(seed)),
            };
            check_image(&image, &journal, events, seed);
            images += 1;
        }
    }
    assert!(images > 200, "{images}");
}

/// Recovers, checks, accepts one more, cuts the power again and recovers again.
fn check_image(image: &MemoryDisk, journal: &Journal, events: usize, seed: u64) {
    let history = image;
    let executor = Executor::new(history);
    let (log, report, model) = open(&executor, history, SEGMENT, seed).unwrap();
    assert!(!report.has_rot(), "a power cut is no rot: {report:?}");
    for id in journal.owed(events) {
        assert!(model.0.borrow().contains_key(&id), "event {events}, seed {seed}: {id} is lost");
    }
    for (id, (location, _)) in model.0.borrow().clone() {
        let handle = log.clone();
        let body = executor.run(async move { handle.read(id, location).await.map(|whole| whole.body) });
        let body = body.unwrap().unwrap();
        assert_eq!(body, message(id, body.len()).body, "event {events}, seed {seed}");
    }
    let acknowledged = journal.acknowledged(events);
    drive(&executor, &log, &model);
    let journal = Journal::default();
    let (handle, disk, queue, notes) = (log.clone(), history.clone(), model.clone(), journal.clone());
    let more =
        executor.run(async move { accept(&handle, &disk, &queue, &notes, 50).await.map(|(id, _)| id) });
    let more = more.expect("it goes on").expect("the disk is sound");
    assert!(!acknowledged.contains(&more), "ids are never given out twice");
    let again = history.cut(history.event_count(), &mut coin(seed + 1));
    let (_, report, twice) = open(&Executor::new(&again), &again, SEGMENT, seed + 7).unwrap();
    assert!(!report.has_rot(), "{report:?}");
    assert_eq!(twice.ids(), model.ids());
}

#[test]
fn a_power_cut_at_any_write_of_a_recovery_changes_nothing() {
    let (disk, executor, log, model, journal) = fresh(SEGMENT);
    workload(&disk, &executor, &log, &model, &journal, 5);
    for events in (1..=disk.event_count()).step_by(3) {
        let image = disk.cut(events, &mut coin(events as u64));
        let history = image;
        let start = history.event_count();
        let (_, _, first) = open(&Executor::new(&history), &history, SEGMENT, 5).unwrap();
        for at in start..=history.event_count() {
            let again = history.cut(at, &mut coin((events * 7 + at) as u64));
            let (_, report, second) = open(&Executor::new(&again), &again, SEGMENT, 6).unwrap();
            assert!(!report.has_rot(), "{events}/{at}: {report:?}");
            assert_eq!(*second.0.borrow(), *first.0.borrow(), "{events}/{at}");
        }
    }
}

#[test]
fn a_failed_call_at_any_place_is_never_acknowledged_and_the_fence_stays() {
    let calls = {
        let (disk, executor, log, model, journal) = fresh(SEGMENT);
        workload(&disk, &executor, &log, &model, &journal, 3);
        disk.call_count()
    };
    for (call, sticky) in (0..calls + 2).flat_map(|call| [(call, false), (call, true)]) {
        let disk = MemoryDisk::new(1 << 30);
        let executor = Executor::new(&disk);
        let rule = Rule::new(Fault::Error(5)).after(call);
        disk.set_faults(if sticky { rule.sticky() } else { rule });
        let Ok((log, _, model)) = open(&executor, &disk, SEGMENT, 1) else { continue };
        drive(&executor, &log, &model);
        let journal = Journal::default();
        workload(&disk, &executor, &log, &model, &journal, 3);
        let told = journal.0.borrow().len();
        if let Some(reason) = log.fence().reason() {
            assert!(reason.contains("failed"), "{reason}");
            workload(&disk, &executor, &log, &model, &journal, 1);
            assert_eq!(journal.0.borrow().len(), told, "call {call}: nothing is accepted behind a fence");
        } else if !sticky {
            // What failed was the making of a segment: refused with 452, then it works again.
            for _ in 0..20 {
                disk.advance();
                executor.settle();
            }
            workload(&disk, &executor, &log, &model, &journal, 1);
            let more = journal.0.borrow().len() - told;
            assert!(more == 8 || log.fence().reason().is_some(), "call {call}: what did not fail goes on");
        }
        disk.heal();
        let after = disk.cut(disk.event_count(), &mut coin(call));
        let (_, report, recovered) = open(&Executor::new(&after), &after, SEGMENT, 99).unwrap();
        assert!(!report.has_rot(), "call {call}: {report:?}");
        let (kept, model) = (recovered.0.borrow(), model.0.borrow());
        for id in model.keys() {
            assert!(kept.contains_key(id), "call {call}: {id} was acknowledged and is lost");
        }
    }
}

#[test]
fn every_flipped_byte_is_seen_or_changes_nothing() {
    const SMALL: u32 = 64 * 1024;
    let (disk, executor, log, model, journal) = fresh(SMALL);
    let (handle, on, queue, notes) = (log.clone(), disk.clone(), model.clone(), journal.clone());
    executor.run(async move {
        for body_bytes in [10, 6000, 900] {
            let _ = accept(&handle, &on, &queue, &notes, body_bytes).await;
        }
        handle.close().await;
    });
    let path = "part-00001/segment-0000000001";
    let size = disk.contents(path).unwrap().len();
    let clean = model.0.borrow().clone();
    let used = (0..size).rposition(|at| disk.contents(path).unwrap()[at] != 0);
    let used = used.map_or(0, |at| at / 4096 * 4096 + 4096);
    let image = disk.copy();
    for at in (0..used).chain((used..size).step_by(97)) {
        image.flip(path, at, 0x40);
        // Opening adds a segment each time: work on a copy.
        let copy = image.copy();
        let (_, report, recovered) = open(&Executor::new(&copy), &copy, SMALL, 9).unwrap();
        let seen = report.has_rot() || !report.damage.is_empty();
        let recovered = recovered.0.borrow();
        assert!(seen || *recovered == clean, "byte {at}");
        assert!(
            recovered.iter().all(|(id, at)| clean.get(id) == Some(at)),
            "byte {at}: something else came back"
        );
        assert!(
            recovered.len() + 1 >= clean.len(),
            "byte {at}: one byte costs one record at most: {report:?}"
        );
        image.flip(path, at, 0x40);
    }
}

#[test]
fn a_ring_that_wraps_keeps_every_live_message_and_frees_the_rest() {
    let (disk, executor, log, model, journal) = fresh(SEGMENT);
    let (handle, on, queue, notes) = (log.clone(), disk.clone(), model.clone(), journal.clone());
    let done = executor.run(async move {
        let mut kept = 0;
        for turn in 0..1500usize {
            let (id, location) = accept(&handle, &on, &queue, &notes, 2000).await.unwrap();
            if turn % 50 == 0 {
                // Long-lived mail, deferred once: its state must travel with each move.
                let _ticket = handle.append(Note::Outcome(&outcome(id, 7, Verdict::Deferred))).await.unwrap();
                queue.0.borrow_mut().insert(id, (location, 7));
                kept += 1;
            } else {
                settle(&handle, &queue, id).await.unwrap();
            }
        }
        handle.storage_sleep().await;
        kept
    });
    assert_eq!(done, Some(30));
    let stats = log.stats();
    assert!(stats.moved_bytes > 0 && stats.segments < 14, "{stats:?}");
    assert_eq!(stats.live_bytes, model.0.borrow().values().map(|(at, _)| u64::from(at.bytes)).sum::<u64>());
    for seed in 0..20 {
        let after = disk.cut(disk.event_count(), &mut coin(seed));
        let (_, report, recovered) = open(&Executor::new(&after), &after, SEGMENT, 9).unwrap();
        // What recycled files hold behind the end is no damage.
        assert!(!report.has_rot() && report.damage.is_empty(), "{report:?}");
        assert_eq!(*recovered.0.borrow(), *model.0.borrow());
    }
}

#[test]
fn a_power_cut_while_records_move_loses_no_live_message() {
    let (disk, executor, log, model, journal) = fresh(SEGMENT);
    let live_at: Rc<RefCell<BTreeMap<usize, Vec<MessageId>>>> = Rc::default();
    let (handle, on, queue, notes, lives) =
        (log.clone(), disk.clone(), model.clone(), journal.clone(), live_at.clone());
    executor.run(async move {
        for turn in 0..700usize {
            let (id, _) = accept(&handle, &on, &queue, &notes, 3000).await.unwrap();
            if turn % 60 != 0 {
                settle(&handle, &queue, id).await.unwrap();
            }
            let long_lived: Vec<_> = queue.ids();
            lives.borrow_mut().insert(on.event_count(), long_lived);
        }
    });
    assert!(log.stats().moved_bytes > 0);
    let events = disk.event_count();
    // Every place in the last few turns of the ring.
    for step in 0..400 {
        let at = events - 1 - step;
        let image = disk.cut(at, &mut coin(step as u64));
        let (_, report, recovered) = open(&Executor::new(&image), &image, SEGMENT, 9).unwrap();
        assert!(!report.has_rot(), "event {at}: {report:?}");
        let live_at = live_at.borrow();
        let live = live_at.range(..=at).next_back().map(|(_, ids)| ids.clone()).unwrap_or_default();
        // The newest may have been settled right after it was noted.
        for id in live.iter().filter(|id| model.0.borrow().contains_key(id)) {
            assert!(recovered.0.borrow().contains_key(id), "event {at}: {id} is lost");
        }
    }
}

#[test]
fn a_long_body_comes_back_whole_and_its_chunks_move_with_it() {
    let (disk, executor, log, model, journal) = fresh(SEGMENT);
    let (handle, on, queue, notes) = (log.clone(), disk.clone(), model.clone(), journal.clone());
    let long = executor
        .run(async move {
            let id = handle.next_id();
            for piece in 0..3u8 {
                handle.append_chunk(id, &vec![piece; 9000]).await.unwrap();
            }
            let (_, location) = handle.accept(&message(id, 100)).await.unwrap();
            queue.0.borrow_mut().insert(id, (location, 0));
            for _ in 0..600 {
                let (id, _) = accept(&handle, &on, &queue, &notes, 3000).await.unwrap();
                settle(&handle, &queue, id).await.unwrap();
            }
            handle.storage_sleep().await;
            id
        })
        .unwrap();
    let stats = log.stats();
    assert!(stats.moved_bytes > 27_000, "{stats:?}");
    let location = model.0.borrow()[&long].0;
    let body = executor.run({
        let log = log.clone();
        async move { log.read(long, location).await.map(|read| (read.chunks.len(), read.body)) }
    });
    let (chunks, body) = body.unwrap().unwrap();
    let mut want: Vec<u8> = (0..3u8).flat_map(|piece| vec![piece; 9000]).collect();
    want.extend(message(long, 100).body);
    assert_eq!((chunks, body), (3, want));
    let after = disk.copy();
    let (again, _, recovered) = open(&Executor::new(&after), &after, SEGMENT, 9).unwrap();
    assert_eq!(recovered.0.borrow()[&long].0, location);
    assert_eq!(again.stats().live_bytes, stats.live_bytes);
}

#[test]
fn a_full_disk_refuses_mail_but_takes_outcomes_and_recovers_by_itself() {
    let (disk, executor, log, model, journal) = fresh(SEGMENT);
    let (handle, on, queue, notes) = (log.clone(), disk.clone(), model.clone(), journal.clone());
    executor.settle();
    disk.set_free(0);
    let accepted = executor.run(async move {
        for count in 0..1000 {
            if let Err(error) = accept(&handle, &on, &queue, &notes, 4000).await {
                return (count, error);
            }
        }
        (1000, AppendError::Closed)
    });
    let (count, error) = accepted.unwrap();
    assert_eq!(error, AppendError::Full);
    assert!(count > 10 && log.fence().reason().is_none(), "{count}");
    let (handle, queue) = (log.clone(), model.clone());
    let on = disk.clone();
    let again = executor.run(async move {
        for id in queue.ids() {
            settle(&handle, &queue, id).await.unwrap();
        }
        for _ in 0..5 {
            handle.storage_sleep().await;
        }
        accept(&handle, &on, &queue, &Journal::default(), 4000).await.map(|_| ())
    });
    assert_eq!(again, Some(Ok(())), "settled mail makes room without a restart: {:?}", log.stats());
}

#[test]
fn a_bounce_and_its_notification_stand_or_fall_together() {
    let (disk, executor, log, model, journal) = fresh(SEGMENT);
    let (handle, on, queue, notes) = (log.clone(), disk.clone(), model.clone(), journal.clone());
    let start = disk.event_count();
    let ids = executor
        .run(async move {
            let (id, _) = accept(&handle, &on, &queue, &notes, 10).await.unwrap();
            let notification = handle.next_id();
            let bounced = Bounced { id, legs: vec![(0, 1)], notification: Some(notification) };
            handle.append_notification(&bounced, &message(notification, 20)).await.unwrap();
            (id, notification)
        })
        .unwrap();
    for events in start..=disk.event_count() {
        for seed in 0..8 {
            let image = disk.cut(events, &mut coin(seed));
            let (_, _, recovered) = open(&Executor::new(&image), &image, SEGMENT, 9).unwrap();
            let (original, notification) =
                (recovered.ids().contains(&ids.0), recovered.ids().contains(&ids.1));
            assert!(!(original && notification), "event {events}");
            assert!(original || notification || journal.acknowledged(events).is_empty(), "event {events}");
        }
    }
}

#[test]
fn a_stale_segment_put_back_and_a_missing_one_are_seen() {
    let (disk, executor, log, model, journal) = fresh(SEGMENT);
    let early = disk.copy();
    let (handle, on, queue, notes) = (log.clone(), disk.clone(), model.clone(), journal.clone());
    executor.run(async move {
        for _ in 0..120 {
            accept(&handle, &on, &queue, &notes, 3000).await.unwrap();
        }
    });
    let path = "part-00001/segment-0000000001";
    let stale = disk.copy();
    stale.put(path, early.contents(path).unwrap());
    let (_, report, _) = open(&Executor::new(&stale), &stale, SEGMENT, 9).unwrap();
    assert!(report.damage.iter().any(|(segment, damage)| *segment == 1 && !damage.torn), "{report:?}");
    let gone = disk.without("part-00001/segment-0000000002");
    let (_, report, _) = open(&Executor::new(&gone), &gone, SEGMENT, 9).unwrap();
    assert_eq!(report.missing, [2], "{report:?}");
}

/// A log of long messages on a disk whose first segment is full up to about three quarters.
fn long_log(segment_bytes: u32) -> (MemoryDisk, Model) {
    let (disk, executor, log, model, journal) = fresh(segment_bytes);
    for _ in 0..4 {
        let (handle, on, queue, notes) = (log.clone(), disk.clone(), model.clone(), journal.clone());
        executor.spawn(async move {
            // No divisor of a piece, so that records lie across the ends of pieces.
            for _ in 0..segment_bytes / 4 / 80_000 {
                accept(&handle, &on, &queue, &notes, 60_001).await.unwrap();
            }
        });
    }
    executor.settle();
    (disk.copy(), model)
}

#[test]
fn a_restart_reads_a_large_segment_in_pieces_and_once() {
    const LARGE: u32 = 24 << 20;
    let (disk, model) = long_log(LARGE);
    assert!(model.ids().len() > 250);
    let (_, report, recovered) = open(&Executor::new(&disk), &disk, LARGE, 9).unwrap();
    assert!(report.scanned == 1 && report.damage.is_empty(), "{report:?}");
    assert_eq!(*recovered.0.borrow(), *model.0.borrow());
    let reads = disk.reads();
    assert!(reads.most <= BATCH_BYTES_MAX, "{reads:?}");
    assert!(reads.all <= LARGE as usize + (1 << 20), "{reads:?}");
}

#[test]
fn a_start_after_a_clean_stop_reads_footers_alone() {
    const LARGE: u32 = 4 << 20;
    let (disk, executor, log, model, journal) = fresh(LARGE);
    let (handle, on, queue, notes) = (log.clone(), disk.clone(), model.clone(), journal.clone());
    let filled = executor.run(async move {
        for _ in 0..150 {
            accept(&handle, &on, &queue, &notes, 60_000).await.unwrap();
        }
        handle.close().await;
    });
    filled.expect("it closes");
    let after = disk.copy();
    let (_, report, recovered) = open(&Executor::new(&after), &after, LARGE, 9).unwrap();
    assert!(report.segments > 2 && report.scanned == 0 && report.damage.is_empty(), "{report:?}");
    assert_eq!(*recovered.0.borrow(), *model.0.borrow());
    assert!(after.reads().all < 1 << 20, "{:?}", after.reads());
}

#[test]
fn records_of_a_damaged_range_longer_than_a_piece_are_salvaged_across_its_ends() {
    const LARGE: u32 = 8 << 20;
    let path = "part-00001/segment-0000000001";
    let (disk, model) = long_log(LARGE);
    // The next segment names the end of the first: from now on what is in it is proven.
    drop(open(&Executor::new(&disk), &disk, LARGE, 9).unwrap());
    let mut bytes = disk.contents(path).unwrap();
    let intact = bytes.clone();
    for block in bytes[8192..].chunks_mut(4096).filter(|block| block[8..12] == *b"RPb1") {
        block[..64].fill(0);
    }
    let changed = (0..bytes.len()).filter(|at| bytes[*at] != intact[*at]).count();
    assert!(changed > 20, "there were batches: {changed}");
    disk.put(path, bytes.clone());
    let (_, report, recovered) = open(&Executor::new(&disk), &disk, LARGE, 10).unwrap();
    assert_eq!(*recovered.0.borrow(), *model.0.borrow());
    let [(1, damage)] = report.damage.as_slice() else { panic!("{report:?}") };
    assert!(!damage.torn && damage.salvaged as usize == model.ids().len(), "{damage:?}");
    assert!(damage.range.len() > 4 * BATCH_BYTES_MAX && report.copies_failed == 0, "{report:?}");
    let copy = disk.contents("damaged/part-00001-segment-0000000001-at-8192.rot").unwrap();
    assert!(copy == bytes[damage.range.start as usize..damage.range.end as usize], "the copy is whole");
    assert!(disk.reads().most <= BATCH_BYTES_MAX, "{:?}", disk.reads());
}
