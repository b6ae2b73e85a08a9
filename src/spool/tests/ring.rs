//! The ring: it wraps, live records move, dead segments are used again, and nothing live goes with them.

use super::*;
use crate::spool::testing::coin;

impl Rig {
    /// Accepts and settles mail until some of it lies in `segment`.
    pub(super) async fn fill_until(&self, segment: u32) {
        loop {
            let (id, location) = self.accept(2000).await.unwrap();
            self.settle(id).await.unwrap();
            if location.segment >= segment {
                return;
            }
        }
    }
}

#[test]
fn a_ring_that_wraps_keeps_every_live_message_and_frees_the_rest() {
    let rig = Rig::fresh(SEGMENT);
    let kept = rig.run(async move |rig| {
        let mut kept = 0;
        for turn in 0..1500usize {
            let (id, _) = rig.accept(2000).await.unwrap();
            if turn % 50 == 0 {
                // Long-lived mail, deferred: its state must travel with each move.
                rig.defer(id, 7).await.unwrap();
                kept += 1;
            } else {
                rig.settle(id).await.unwrap();
            }
        }
        rig.log.storage_sleep().await;
        kept
    });
    assert_eq!(kept, 30);
    let stats = rig.log.stats();
    assert!(stats.moved_bytes > 0 && stats.segments < 14, "{stats:?}");
    let live: u64 = rig.model.0.borrow().values().map(|(at, _)| u64::from(at.bytes)).sum();
    assert_eq!(stats.live_bytes, live);
    for seed in 0..20 {
        let (found, report) = Rig::open(&rig.disk.cut_now(&mut coin(seed)), SEGMENT, 9).unwrap();
        // What recycled files hold behind the end is no damage.
        assert!(!report.has_rot() && report.damage.is_empty(), "{report:?}");
        assert_eq!(*found.model.0.borrow(), *rig.model.0.borrow());
    }
}

#[test]
fn a_settlement_outlives_the_acceptance_that_it_settles() {
    let rig = Rig::fresh(SEGMENT);
    rig.run(async move |rig| {
        // One message lives in the first segment; another one there is settled by a record in the second, where nothing
        // else is alive. That one must stay as long as the first.
        rig.accept(2000).await.unwrap();
        let (settled_later, _) = rig.accept(2000).await.unwrap();
        rig.fill_until(2).await;
        rig.settle(settled_later).await.unwrap();
        rig.fill_until(4).await;
        rig.log.storage_sleep().await;
        rig.fill_until(5).await;
    });
    assert_eq!(rig.model.ids().len(), 1);
    let (found, report) = Rig::open(&rig.disk.copy(), SEGMENT, 9).unwrap();
    assert!(!report.has_rot(), "{report:?}");
    assert_eq!(*found.model.0.borrow(), *rig.model.0.borrow(), "what was settled is alive again");
}

#[test]
fn a_segment_that_is_missing_is_seen() {
    let rig = Rig::fresh(SEGMENT);
    rig.run(async move |rig| {
        for _ in 0..120 {
            rig.accept(3000).await.unwrap();
        }
    });
    let gone = rig.disk.without("part-00001/segment-0000000002");
    let (_, report) = Rig::open(&gone, SEGMENT, 9).unwrap();
    assert_eq!(report.missing, [2], "{report:?}");
}
