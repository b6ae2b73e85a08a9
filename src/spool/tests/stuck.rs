//! A slow disk, and one that stands still: each final dot is answered in time, what was refused is never delivered, and
//! what is held in memory does not grow meanwhile.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use super::*;
use crate::spool::storage::Storage;
use crate::spool::storage::memory::{Call, Fault, Rule};

/// The longest time from the end of data to its reply.
const ANSWERED: Duration = Duration::from_secs(60);
/// Most memory for writes: a batch that fills and one that is written, a segment that is prepared, a footer.
const BUFFERS: usize = 4 * SEGMENT as usize;

/// Sixteen sessions send what they can until `seconds` are over; the longest that one waited for a reply.
fn sessions(rig: &Rig, seconds: u64) -> Duration {
    let longest = Rc::new(RefCell::new(Duration::ZERO));
    let until = rig.disk.now() + Duration::from_secs(seconds);
    for session in 0..16 {
        let longest = longest.clone();
        rig.spawn(async move |rig| {
            while rig.disk.now() < until {
                let asked = rig.disk.now();
                let refused = match rig.accept(500 + 9000 * (session % 4)).await {
                    Ok((id, _)) => rig.settle(id).await.is_err(),
                    Err(_) => true,
                };
                let waited = rig.disk.now().since(asked);
                let most = (*longest.borrow()).max(waited);
                longest.replace(most);
                // A client that was refused, or answered at once, does something else first.
                rig.disk.sleep(Duration::from_millis(if refused { 1000 } else { 50 })).await;
            }
        });
    }
    while rig.disk.now() < until + 3 * ANSWERED && rig.disk.advance() {
        rig.executor.settle();
    }
    longest.take()
}

#[test]
fn a_slow_disk_answers_every_final_dot_in_time_and_holds_no_more_memory() {
    let delays = [100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000, 20_000_000, 29_000_000, 30_000_000];
    for delay in delays.map(Duration::from_micros) {
        let rig = Rig::fresh(SEGMENT);
        rig.workload(1);
        rig.disk.set_faults(Rule::new(Fault::Delay(delay)).on(Call::Write).sticky());
        let longest = sessions(&rig, 20 + 10 * delay.as_secs());
        assert!(longest <= ANSWERED, "with {delay:?} a write somebody waited {longest:?}");
        let most = rig.disk.buffers().most;
        assert!(most <= BUFFERS, "with {delay:?} a write {most} bytes were held");
        rig.disk.heal();
        rig.pass(400);
        assert_eq!(rig.log.fence().reason(), None, "slow is not broken");
        rig.workload(1);
        let told = rig.ledger.accepted_count();
        rig.workload(1);
        assert_eq!(rig.ledger.accepted_count(), told + 8, "after {delay:?} a write it goes on");
        rig.run(async move |rig| rig.log.close().await);
        let (found, _) = Rig::open(&rig.disk.copy(), SEGMENT, 9).unwrap();
        assert_eq!(found.model.ids(), rig.model.ids(), "what was refused is not there, what was not is");
    }
}

#[test]
fn a_disk_that_stands_still_answers_every_final_dot_in_time() {
    let rig = Rig::fresh(SEGMENT);
    rig.workload(1);
    rig.disk.hold_completions(true);
    let longest = sessions(&rig, 300);
    assert!(longest <= ANSWERED, "somebody waited {longest:?}");
    assert!(rig.disk.buffers().most <= BUFFERS, "{:?}", rig.disk.buffers());
    rig.disk.hold_completions(false);
    rig.pass(20);
    rig.workload(1);
    rig.run(async move |rig| rig.log.close().await);
    let (found, _) = Rig::open(&rig.disk.copy(), SEGMENT, 9).unwrap();
    assert_eq!(found.model.ids(), rig.model.ids());
}

#[test]
fn a_log_is_closed_only_when_its_upkeep_has_ended() {
    let rig = Rig::fresh(SEGMENT);
    // Upkeep is about to make segments, and the disk takes its time for them.
    rig.disk.set_faults(Rule::new(Fault::Delay(Duration::from_secs(3))).on(Call::Create).sticky());
    rig.run(async |rig| {
        rig.accept(100).await.expect("the head has room");
        rig.log.close().await;
    });
    let calls = rig.disk.call_count();
    rig.pass(100);
    assert_eq!(rig.disk.call_count(), calls, "who has closed the log ends the executor under what is left");
}
