//! Failing calls: what failed is never acknowledged and never tried again; a failure of the log fences it until a restart,
//! any other passes.

use super::*;
use crate::spool::storage::memory::{Call, Fault, FaultPlan, Nature, Rule};
use crate::spool::testing::coin;

const EIO: i32 = 5;
const ENOSPC: i32 = 28;
const MESSAGES: usize = 200;

/// The faults that each call is struck by, once and from then on.
fn rules(call: u64) -> [Rule; 6] {
    let error = |errno| Rule::new(Fault::Error(errno)).after(call);
    let short = Rule::new(Fault::Short(call as usize % 9)).on(Call::Write).after(call);
    [error(EIO), error(EIO).sticky(), error(ENOSPC), error(ENOSPC).sticky(), short.clone(), short.sticky()]
}

/// One life of the log: half of the messages, by four sessions, most of them settled.
fn life(rig: &Rig) {
    rig.drive();
    for session in 0..4 {
        rig.spawn(async move |rig| {
            for turn in 0..MESSAGES / 8 {
                let Ok((id, _)) = rig.accept(200 + 900 * ((turn + session) % 4)).await else { continue };
                let noted = if turn % 8 == 0 { rig.defer(id, 2).await } else { rig.settle(id).await };
                if noted.is_err() {
                    return;
                }
            }
        });
    }
    rig.pass(8);
}

/// Starts a log; if that fails, once more, as an operator would.
fn start(disk: &MemoryDisk, salt: u64) -> Option<Rig> {
    (salt..salt + 2).find_map(|salt| {
        disk.restarted();
        Rig::open(disk, SMALL, salt).ok().map(|(rig, _)| rig)
    })
}

/// The script: a life, a clean stop, another life. Gives the last one, if there was any.
fn script(disk: &MemoryDisk) -> Option<Rig> {
    let first = start(disk, 1);
    if let Some(rig) = &first {
        life(rig);
        rig.run(async move |rig| rig.log.close().await);
    }
    let second = start(disk, 3);
    second.iter().for_each(life);
    // What was told in the first life holds, whatever the second start found.
    second.or(first)
}

/// Nothing that is acknowledged from now on can be true.
fn stays_fenced(rig: &Rig) {
    let told = rig.ledger.accepted_count();
    rig.workload(1);
    assert_eq!(rig.ledger.accepted_count(), told, "nothing is accepted behind a fence");
    assert!(rig.log.admits().is_err());
}

fn survives(disk: &MemoryDisk, rig: &Rig, seed: u64) {
    assert_eq!(disk.written().retries, 0, "a failed write is never tried again");
    disk.heal();
    let after = disk.cut_now(&mut coin(seed));
    let (found, report) = Rig::open(&after, SMALL, 99).unwrap();
    assert!(!report.has_rot(), "{report:?}");
    rig.ledger.judge(disk.event_count(), &found.model).unwrap();
}

#[test]
fn a_failed_call_at_any_place_is_never_acknowledged_nor_retried_and_the_fence_stays() {
    let calls = {
        let disk = MemoryDisk::new(1 << 30);
        let rig = script(&disk).unwrap();
        assert_eq!(rig.log.fence().reason(), None);
        disk.call_count()
    };
    let mut cases = Cases::of(|| ());
    let (mut fenced, mut passed) = (0, 0);
    for call in 0..calls + 2 {
        for (kind, rule) in (0..).zip(rules(call)) {
            cases.case(call * 8 + kind, || {
                let disk = MemoryDisk::new(1 << 30);
                disk.set_faults(rule);
                let Some(rig) = script(&disk) else { return };
                if let Some(reason) = rig.log.fence().reason() {
                    assert!(reason.contains("failed"), "{reason}");
                    stays_fenced(&rig);
                    fenced += 1;
                } else if kind % 2 == 0 {
                    // What failed was the making of a segment: refused with 452, then it works again.
                    rig.pass(20);
                    disk.heal();
                    let told = rig.ledger.accepted_count();
                    rig.workload(1);
                    assert_eq!(
                        rig.ledger.accepted_count(),
                        told + 8,
                        "what did not fail goes on: {:?}",
                        rig.log.stats()
                    );
                    passed += 1;
                }
                survives(&disk, &rig, call);
            });
        }
    }
    cases.at_least(6 * calls);
    assert!(cases.run == 1 || fenced > 100 && passed > 100, "{fenced} fenced, {passed} went on");
}

#[test]
fn several_failures_and_delays_by_chance_lose_nothing() {
    let mut cases = Cases::of(|| ());
    for seed in 0..300 {
        cases.case(seed, || {
            let disk = MemoryDisk::new(1 << 30);
            disk.set_faults(FaultPlan::random(seed, &[Nature::Fails, Nature::Slow], 400));
            let Some(rig) = script(&disk) else { return };
            rig.pass(100);
            survives(&disk, &rig, seed);
        });
    }
    cases.at_least(300);
}
