//! Commits: what is acknowledged is durable, what is refused is never delivered, what belongs together stays together.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use super::*;
use crate::clock::Moment;
use crate::limits::{BATCH_BYTES_MAX, BATCH_PATIENT_BYTES_MAX, BLOCK_BYTES, BODY_INLINE_BYTES_MAX};
use crate::outcome::Bounced;
use crate::spool::storage::Storage;
use crate::spool::storage::memory::{Call, Fault, Rule};
use crate::spool::testing::coin;

#[test]
fn what_was_accepted_and_settled_is_recovered_with_the_same_places() {
    let rig = Rig::fresh(SEGMENT);
    rig.workload(6);
    assert_eq!(rig.ledger.accepted_count(), 48);
    let last = rig.log.next_id();
    let stats = rig.log.stats();
    assert!(stats.commits < stats.records, "sessions share commits: {stats:?}");
    let (again, report) = Rig::open(&rig.disk.copy(), SEGMENT, 9).unwrap();
    assert!(report.damage.is_empty() && !report.has_rot(), "{report:?}");
    assert_eq!(*again.model.0.borrow(), *rig.model.0.borrow());
    assert!(again.log.next_id() > last, "ids are never given out twice");
}

#[test]
fn nothing_is_acknowledged_before_its_write_completes() {
    let rig = Rig::fresh(SEGMENT);
    rig.workload(1);
    let before = rig.ledger.accepted_count();
    rig.disk.hold_completions(true);
    rig.workload(2);
    assert_eq!(rig.ledger.accepted_count(), before);
    rig.disk.hold_completions(false);
    rig.executor.settle();
    assert_eq!(rig.ledger.accepted_count(), before + 16);
}

#[test]
fn a_commit_that_outlasts_its_deadline_is_refused_and_never_delivered() {
    let rig = Rig::fresh(SEGMENT);
    rig.executor.settle();
    rig.disk.hold_completions(true);
    let (id, result) = rig.run(async move |rig| {
        let id = rig.log.next_id();
        (id, rig.accept_as(id, 10).await)
    });
    assert_eq!(result, Err(AppendError::Stuck));
    assert!(rig.log.stats().stuck);
    rig.disk.hold_completions(false);
    rig.executor.settle();
    assert!(!rig.log.stats().stuck);
    rig.workload(1);
    let (again, _) = Rig::open(&rig.disk.copy(), SEGMENT, 9).unwrap();
    assert!(!again.model.ids().contains(&id), "an Aborted follows when the disk returns");
    assert_eq!(again.model.ids(), rig.model.ids());
}

#[test]
fn a_bounce_and_its_notification_stand_or_fall_together() {
    let rig = Rig::fresh(SEGMENT);
    let start = rig.disk.event_count();
    let ids = rig.run(async move |rig| {
        let (id, _) = rig.accept(10).await.unwrap();
        let notification = rig.log.next_id();
        let bounced =
            Bounced { id, legs: vec![(0, 1)], delayed: Vec::new(), notification: Some(notification) };
        rig.ledger.settling(id, rig.disk.event_count());
        rig.ledger.asked(notification, rig.disk.event_count());
        let on_its_way = rig.log.append_notification(&bounced, &message(notification, 20)).await.unwrap();
        on_its_way.durable().await.unwrap();
        (id, notification)
    });
    for events in start..=rig.disk.event_count() {
        for seed in 0..8 {
            let image = rig.disk.cut(events, &mut coin(seed));
            let (found, _) = Rig::open(&image, SEGMENT, 9).unwrap();
            let there = found.model.ids();
            assert!(!(there.contains(&ids.0) && there.contains(&ids.1)), "event {events}");
            if !there.contains(&ids.1) {
                rig.ledger.judge(start.max(events) - 1, &found.model).unwrap();
            }
        }
    }
}

#[test]
fn a_settlement_is_told_before_it_is_durable_so_that_no_move_carries_an_older_state_behind_it() {
    let rig = Rig::fresh(SEGMENT);
    let (id, _) = rig.run(async move |rig| rig.accept(10).await.unwrap());
    rig.disk.hold_completions(true);
    let on_its_way = rig.run(async move |rig| {
        let notification = rig.log.next_id();
        let bounced =
            Bounced { id, legs: vec![(0, 1)], delayed: Vec::new(), notification: Some(notification) };
        rig.log.append_notification(&bounced, &message(notification, 20)).await.unwrap()
    });
    let done = Rc::new(Cell::new(false));
    let tell = done.clone();
    rig.spawn(async move |_| {
        on_its_way.durable().await.unwrap();
        tell.set(true);
    });
    rig.pass(20);
    assert!(!done.get(), "the notification waits for the disk");
    rig.disk.hold_completions(false);
    rig.pass(20);
    assert!(done.get());
}

#[test]
fn a_long_body_comes_back_whole_and_its_chunks_move_with_it() {
    let rig = Rig::fresh(SEGMENT);
    let long = rig.run(async move |rig| {
        let id = rig.log.next_id();
        for piece in 0..3u8 {
            rig.log.append_chunk(id, &vec![piece; 9000]).await.unwrap();
        }
        rig.accept_as(id, 100).await.unwrap();
        for _ in 0..600 {
            let (id, _) = rig.accept(3000).await.unwrap();
            rig.settle(id).await.unwrap();
        }
        rig.log.storage_sleep().await;
        id
    });
    let stats = rig.log.stats();
    assert!(stats.moved_bytes > 27_000, "{stats:?}");
    let location = rig.model.0.borrow()[&long].0;
    let mut want: Vec<u8> = (0..3u8).flat_map(|piece| vec![piece; 9000]).collect();
    want.extend(body(long, 100));
    assert_eq!(rig.body(long, location), Some(want));
    let (again, _) = Rig::open(&rig.disk.copy(), SEGMENT, 9).unwrap();
    assert_eq!(again.model.0.borrow()[&long].0, location);
    assert_eq!(again.log.stats().live_bytes, stats.live_bytes);
}

/// A log of long messages whose first segment is full up to about three quarters.
pub(super) fn long_log(segment_bytes: u32) -> Rig {
    let rig = Rig::fresh(segment_bytes);
    for _ in 0..4 {
        rig.spawn(async move |rig| {
            // No divisor of a piece, so that records lie across the ends of pieces.
            for _ in 0..segment_bytes / 4 / 80_000 {
                rig.accept(60_001).await.unwrap();
            }
        });
    }
    rig.executor.settle();
    rig
}

#[test]
fn a_restart_reads_a_large_segment_in_pieces_and_once() {
    const LARGE: u32 = 24 << 20;
    let rig = long_log(LARGE);
    assert!(rig.model.ids().len() > 250);
    let (again, report) = Rig::open(&rig.disk.copy(), LARGE, 9).unwrap();
    assert!(report.scanned == 1 && report.damage.is_empty(), "{report:?}");
    assert_eq!(*again.model.0.borrow(), *rig.model.0.borrow());
    let reads = again.disk.reads();
    assert!(reads.most <= BATCH_BYTES_MAX, "{reads:?}");
    assert!(reads.all <= LARGE as usize + (1 << 20), "{reads:?}");
}

#[test]
fn a_start_after_a_clean_stop_reads_footers_alone() {
    const LARGE: u32 = 4 << 20;
    let rig = Rig::fresh(LARGE);
    rig.run(async move |rig| {
        for _ in 0..150 {
            rig.accept(60_000).await.unwrap();
        }
        rig.log.close().await;
    });
    let (again, report) = Rig::open(&rig.disk.copy(), LARGE, 9).unwrap();
    assert!(report.segments > 2 && report.scanned == 0 && report.damage.is_empty(), "{report:?}");
    assert_eq!(*again.model.0.borrow(), *rig.model.0.borrow());
    assert!(again.disk.reads().all < 1 << 20, "{:?}", again.disk.reads());
}

#[test]
fn a_short_message_waits_for_two_batches_with_little_of_the_long_ones_in_them() {
    let (rig, _) = Rig::open(&MemoryDisk::without_history(1 << 30), 8 << 20, 1).unwrap();
    rig.drive();
    // So that there is always a batch being written, and sessions wait for the next.
    rig.disk.set_faults(Rule::new(Fault::Delay(Duration::from_millis(1))).on(Call::Write).sticky());
    for _ in 0..50 {
        rig.spawn(async move |rig| {
            let (id, piece) = (rig.log.next_id(), vec![b'x'; BODY_INLINE_BYTES_MAX]);
            while rig.log.append_chunk(id, &piece).await.is_ok() {
                if rig.disk.now() > Moment(10_000_000) {
                    return rig.log.forget_chunks(id);
                }
            }
        });
    }
    let longest = rig.run(async move |rig| {
        let mut longest = 0;
        for turn in 0..100 {
            rig.disk.sleep(Duration::from_micros(2100 + 70 * (turn % 13))).await;
            let before = rig.log.stats().written_bytes;
            let (id, _) = rig.accept(1000).await.unwrap();
            longest = longest.max(rig.log.stats().written_bytes - before);
            rig.settle(id).await.unwrap();
        }
        longest as usize
    });
    let written = rig.log.stats().written_bytes as usize;
    assert!(written > 100 * BATCH_PATIENT_BYTES_MAX / 2, "the long ones go on: {written} bytes");
    let most = 2 * (BATCH_PATIENT_BYTES_MAX + 2 * BLOCK_BYTES);
    assert!(longest <= most, "{longest} bytes were written before the short one was answered, not {most}");
}
