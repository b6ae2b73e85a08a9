//! The tests of power cuts can fail: on a disk that lies they find what is lost. Mutants of the source itself are
//! `tests/mutants`.

use super::*;
use crate::spool::storage::memory::{Call, Dice, Fault, Rule};

/// How often the law is broken after a power cut at the end of a day on a disk with this fault.
fn broken(rule: Option<Rule>) -> usize {
    let mut broken = 0;
    for seed in 0..40 {
        let disk = MemoryDisk::new(1 << 30);
        rule.iter().for_each(|rule| disk.set_faults(rule.clone()));
        let (rig, _) = Rig::open(&disk, SMALL, seed).unwrap();
        rig.drive();
        rig.long_day(30 + seed as usize);
        let mut dice = Dice::new(seed);
        let sound = match Rig::open(&disk.cut_now(&mut || dice.coin()), SMALL, 9) {
            Ok((found, report)) => {
                !report.has_rot() && rig.ledger.judge(disk.event_count(), &found.model).is_ok()
            }
            Err(_) => false,
        };
        broken += usize::from(!sound);
    }
    broken
}

#[test]
fn an_honest_disk_breaks_nothing() {
    assert_eq!(broken(None), 0);
}

#[test]
fn a_250_before_the_write_is_safe_is_caught() {
    assert!(broken(Some(Rule::new(Fault::Cached).on(Call::Write).sticky())) > 20);
}

#[test]
fn a_directory_that_is_not_synced_is_caught() {
    assert!(broken(Some(Rule::new(Fault::Ignored).on(Call::SyncDir).sticky())) > 20);
}
