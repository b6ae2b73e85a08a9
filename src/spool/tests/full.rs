//! A full disk: new mail is refused with 452, what was accepted can still leave, and room is used without a restart.

use std::time::Duration;

use super::*;
use crate::clock::Moment;
use crate::spool::storage::Storage;
use crate::spool::storage::memory::Call;
use crate::spool::storage::memory::{Fault, Rule};

/// Within this time of there being room mail is accepted again.
const AGAIN: Duration = Duration::from_secs(5);

/// Accepts until it is refused; how many.
async fn fill(rig: &Rig, body_bytes: usize) -> usize {
    for count in 0..100_000 {
        match rig.accept(body_bytes).await {
            Ok(_) => {}
            Err(AppendError::Full) => return count,
            Err(error) => panic!("{error}"),
        }
    }
    panic!("it is never full");
}

/// Waits until mail is accepted again, which must be soon.
async fn accepted_again(rig: &Rig, since: Moment) {
    while let Err(error) = rig.accept(4000).await {
        assert_eq!(error, AppendError::Full);
        let waited = rig.disk.now().since(since);
        assert!(waited <= AGAIN, "there is room and mail is refused after {waited:?}: {:?}", rig.log.stats());
        rig.disk.sleep(Duration::from_millis(100)).await;
    }
}

#[test]
fn a_full_disk_refuses_mail_but_takes_outcomes_and_recovers_by_itself() {
    const MIB: u64 = 1 << 20;
    let disk = MemoryDisk::without_history(64 * MIB);
    let (rig, _) = Rig::open(&disk, MIB as u32, 1).unwrap();
    rig.drive();
    rig.run(async move |rig| {
        for round in 0..4 {
            let count = fill(&rig, 30_000).await;
            assert!(count > 100 && rig.log.fence().reason().is_none(), "round {round}: {count}");
            assert_eq!(rig.log.admits(), Err(AppendError::Full), "asked before a body is read");
            // Deliveries go on, oldest and newest alike; those that fail for now are noted, too.
            let ids = rig.model.ids();
            assert!(ids.len() > 300, "{}", ids.len());
            for (index, id) in ids.into_iter().enumerate() {
                match index % 4 {
                    0 => rig.defer(id, round + 1).await.expect("an outcome finds room"),
                    _ => rig.settle(id).await.expect("an outcome finds room"),
                }
            }
            let freed = rig.disk.now();
            accepted_again(&rig, freed).await;
        }
    });
    assert_eq!(rig.log.fence().reason(), None);
    let (found, report) = Rig::open(&disk.copy(), MIB as u32, 9).unwrap();
    assert!(report.damage.is_empty() && !report.has_rot(), "{report:?}");
    assert_eq!(*found.model.0.borrow(), *rig.model.0.borrow());
}

#[test]
fn room_that_somebody_else_took_and_gave_back_is_used_again() {
    let rig = Rig::fresh(SEGMENT);
    rig.executor.settle();
    rig.run(async move |rig| {
        for _ in 0..3 {
            rig.disk.set_free(0);
            assert!(fill(&rig, 4000).await > 10);
            rig.disk.set_free(1 << 20);
            let freed = rig.disk.now();
            accepted_again(&rig, freed).await;
        }
    });
    assert_eq!(rig.log.fence().reason(), None, "want of room is no failure of the disk");
}

#[test]
fn a_disk_that_is_full_although_it_says_otherwise_refuses_mail_and_fences_nothing() {
    let rig = Rig::fresh(SEGMENT);
    rig.executor.settle();
    // As with a quota, or with blocks that are reserved for others.
    rig.disk.set_faults(Rule::new(Fault::Error(28)).on(Call::Create).sticky());
    rig.run(async move |rig| {
        assert!(fill(&rig, 4000).await > 10);
        for id in rig.model.ids() {
            rig.settle(id).await.expect("an outcome finds room");
        }
        rig.disk.heal();
        let freed = rig.disk.now();
        accepted_again(&rig, freed).await;
    });
    assert_eq!(rig.log.fence().reason(), None);
}
