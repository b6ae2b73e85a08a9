//! Power cuts: at any moment, with any of the sectors and names that were not safe; again while a restart recovers from the
//! first; and again after that. Segments are moved and used again meanwhile.

use super::*;
use crate::spool::storage::memory::{Cuts, Dice};

/// Ways in which one moment's cut can end, at most: a case is its moment times this and its way.
const WAYS: u64 = 1 << 12;
/// Up to so many things at risk all their subsets are tried.
const ALL_SUBSETS: usize = 12;

/// What may survive a cut.
#[derive(Clone, Copy)]
enum Ways {
    /// All subsets; of many things every prefix, and 256 subsets by chance.
    All,
    /// Every prefix, and this many subsets by chance.
    Prefixes(u64),
    /// This many subsets by chance.
    Chance(u64),
}

impl Ways {
    fn count(self, risk: usize) -> u64 {
        match self {
            _ if risk == 0 => 1,
            Self::All if risk <= ALL_SUBSETS => 1 << risk,
            Self::All => risk as u64 + 1 + 256,
            Self::Prefixes(more) => risk as u64 + 1 + more,
            Self::Chance(count) => count,
        }
    }

    /// What survives in `case`: always the same.
    fn survivors(self, case: u64, risk: usize) -> impl FnMut() -> bool {
        let (way, mut dice, mut asked) = (case % WAYS, Dice::new(case), 0);
        let subset = matches!(self, Self::All) && risk <= ALL_SUBSETS;
        let prefix = !matches!(self, Self::Chance(_)) && way <= risk as u64;
        move || {
            asked += 1;
            match (subset, prefix) {
                (true, _) => way >> (asked - 1) & 1 != 0,
                (_, true) => asked <= way,
                _ => dice.coin(),
            }
        }
    }
}

/// Hands `each` the disk after each cut: case, moment, image.
fn each_image(
    cases: &mut Cases,
    disk: &MemoryDisk,
    ways: Ways,
    mut each: impl FnMut(u64, usize, &MemoryDisk),
) {
    let mut cuts: Cuts = disk.cuts();
    loop {
        let (moment, risk) = (cuts.events(), cuts.at_risk());
        let (first, risk) = (moment as u64 * WAYS, risk.names + risk.sectors);
        if cases.wants(first, first + WAYS - 1) {
            for case in first..first + ways.count(risk) {
                cases.case(case, || each(case, moment, &cuts.image(&mut ways.survivors(case, risk))));
            }
        }
        if !cuts.step() {
            return;
        }
    }
}

/// Recovers `image`, which comes of a cut of `before`, and judges what is there.
fn recover(before: &Rig, moment: usize, image: &MemoryDisk, salt: u64) -> Rig {
    let (rig, report) = Rig::open(image, SMALL, salt).unwrap();
    assert!(!report.has_rot(), "a power cut is no rot: {report:?}");
    before.ledger.judge(moment, &rig.model).unwrap();
    rig
}

/// The bodies of the newest messages are whole: whose sectors may have been on their way.
fn newest_are_whole(rig: &Rig) {
    let newest: Vec<_> = rig.model.0.borrow().iter().rev().take(4).map(|(id, (at, _))| (*id, *at)).collect();
    for (id, location) in newest {
        let read = rig.body(id, location).expect("it is intact");
        assert_eq!(read, body_with_chunks(id, read.len()), "{id}");
    }
}

/// What [`Rig::long_day`] sends: perhaps two chunks, then a short body.
fn body_with_chunks(id: MessageId, bytes: usize) -> Vec<u8> {
    let chunks = if bytes >= 8000 { 2 } else { 0 };
    let mut all = body(id, 4000).repeat(chunks);
    all.extend(body(id, bytes - 4000 * chunks));
    all
}

/// A rig whose ring has wrapped, with moves.
fn wrapped() -> Rig {
    let rig = Rig::fresh(SMALL);
    rig.long_day(120);
    let stats = rig.log.stats();
    assert!(stats.moved_bytes > 0 && rig.log.fence().reason().is_none(), "{stats:?}");
    rig
}

#[test]
fn a_power_cut_at_any_write_loses_nothing_acknowledged_and_applies_nothing_half() {
    let rig = Rig::fresh(SMALL);
    rig.long_day(8);
    let mut cases = Cases::of(|| ());
    each_image(&mut cases, &rig.disk, Ways::All, |case, moment, image| {
        newest_are_whole(&recover(&rig, moment, image, case));
    });
    cases.at_least(6_000);
}

#[test]
fn a_power_cut_while_records_move_and_segments_are_used_again_loses_no_live_message() {
    let rig = wrapped();
    let mut cases = Cases::of(|| ());
    each_image(&mut cases, &rig.disk, Ways::Prefixes(2), |case, moment, image| {
        newest_are_whole(&recover(&rig, moment, image, case));
    });
    cases.at_least(12_000);
}

#[test]
fn a_power_cut_at_any_write_of_a_recovery_changes_nothing() {
    let rig = wrapped();
    let mut cases = Cases::of(|| ());
    // A recovery has some ten writes: each is cut, of one image a moment.
    each_image(&mut cases, &rig.disk, Ways::Chance(1), |case, moment, image| {
        let first = recover(&rig, moment, image, case);
        let mut cuts = image.cuts();
        loop {
            let mut dice = Dice::new(case + cuts.events() as u64);
            let (second, report) = Rig::open(&cuts.image(&mut || dice.coin()), SMALL, case + 1).unwrap();
            assert!(!report.has_rot(), "write {}: {report:?}", cuts.events());
            assert_eq!(*second.model.0.borrow(), *first.model.0.borrow(), "write {}", cuts.events());
            if !cuts.step() {
                break;
            }
        }
    });
    cases.at_least(400);
}

#[test]
fn after_a_power_cut_mail_is_accepted_and_survives_the_next_one() {
    let rig = wrapped();
    let mut cases = Cases::of(|| ());
    each_image(&mut cases, &rig.disk, Ways::Chance(10), |case, moment, image| {
        let again = recover(&rig, moment, image, case);
        again.drive();
        let (more, _) = again.run(async move |rig| rig.accept(50).await).expect("the disk is sound");
        assert!(!rig.ledger.knows(moment, more), "ids are never given out twice");
        let events = Dice::new(case).below(image.event_count() as u64 + 1) as usize;
        let mut dice = Dice::new(case + 1);
        let twice = recover(&again, events, &image.cut(events, &mut || dice.coin()), case + 7);
        assert!(events < image.event_count() || twice.model.ids().contains(&more));
    });
    cases.at_least(5_000);
}
