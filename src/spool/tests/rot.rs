//! Rot: whatever bytes change on disk, what comes back is what was written or is known to be damaged, and what was not hit
//! comes back.

use std::collections::BTreeMap;
use std::ops::Range;

use super::commits::long_log;
use super::*;
use crate::limits::{BATCH_BYTES_MAX, BLOCK_BYTES};
use crate::spool::storage::memory::{Dice, SECTOR_BYTES};

const PATH: &str = "part-00001/segment-0000000001";

/// An idle log of messages that have a batch each, so that one damage can hit no two of them.
struct Clean {
    disk: MemoryDisk,
    bytes: Vec<u8>,
    messages: BTreeMap<MessageId, (Location, u16)>,
}

impl Clean {
    /// With the first segment as the head, if `bodies` are few, or full and sealed.
    fn of(bodies: &[usize]) -> Self {
        let rig = Rig::fresh(SMALL);
        let bodies = bodies.to_vec();
        rig.run(async move |rig| {
            for bytes in bodies {
                let (id, _) = rig.accept(bytes).await.unwrap();
                if bytes % 2 == 0 {
                    rig.defer(id, 3).await.unwrap();
                }
            }
            // Its last batch is proven by a watermark. It is not closed, which would seal the head.
            rig.log.storage_sleep().await;
        });
        let bytes = rig.disk.contents(PATH).unwrap();
        let messages = rig.model.0.borrow().clone();
        Self { disk: rig.disk.copy(), bytes, messages }
    }

    fn head() -> Self {
        let clean = Self::of(&[10, 6000, 901, 2500, 77, 3900]);
        assert!(clean.messages.values().all(|(at, _)| at.segment == 1));
        clean
    }

    fn sealed() -> Self {
        let clean = Self::of(&[10, 6000, 901, 2500, 77, 3900, 9001, 12_000, 300, 31, 5000, 2001]);
        assert!(clean.messages.values().any(|(at, _)| at.segment == 2));
        assert!(
            clean.bytes[SMALL as usize - BLOCK_BYTES..]
                .starts_with(&clean.bytes[SMALL as usize - BLOCK_BYTES..][..4])
        );
        clean
    }

    /// Puts `bytes` in the place of the first segment, and judges what comes back. `changed` are where they differ.
    fn judge(&self, bytes: Vec<u8>, changed: &[Range<usize>]) {
        let disk = self.disk.copy();
        disk.put(PATH, bytes);
        let (found, report) = Rig::open(&disk, SMALL, 9).unwrap();
        let noticed = report.has_rot() || !report.damage.is_empty();
        let messages = found.model.0.borrow().clone();
        // Without both copies of its header nothing in the head can be told from noise; its file is kept.
        let block = |number: usize| changed.iter().any(|at| at.start / BLOCK_BYTES == number);
        let keyless = block(0) && block(1) && report.unreadable == [1];
        for (id, (location, attempts)) in &self.messages {
            let (start, end) = (location.offset as usize, (location.offset + location.bytes) as usize);
            let touched = changed.iter().any(|at| at.start < end && start < at.end);
            let hit = location.segment == 1 && (touched || keyless);
            match messages.get(id) {
                None => assert!(
                    noticed && hit,
                    "{id} is lost, and it was not even hit, or nobody noticed: {report:?}"
                ),
                Some(found_at) if !hit => {
                    assert_eq!(found_at.0, *location, "{id}");
                    assert!(noticed || found_at.1 == *attempts, "{id} lost an outcome and nobody noticed");
                }
                Some(found_at) => {
                    let read = found.body(*id, found_at.0);
                    let same = read.is_none_or(|read| read == body(*id, read.len()));
                    assert!(same, "{id} comes back as something else");
                }
            }
        }
        assert!(messages.keys().all(|id| self.messages.contains_key(id)), "something that nobody sent");
    }

    /// Flips each byte of those places, one after the other.
    fn flip_each(&self, cases: &mut Cases, places: impl Iterator<Item = usize>) {
        for at in places {
            cases.case(at as u64, || {
                let mut bytes = self.bytes.clone();
                bytes[at] ^= 1 << (at % 8);
                self.judge(bytes, std::slice::from_ref(&(at..at + 1)));
            });
        }
    }

    /// Has `change` done to each two sectors, of which the first is where it counts from.
    fn change_sectors(&self, cases: &mut Cases, change: impl Fn(&mut [u8], Range<usize>, Range<usize>)) {
        let count = self.bytes.len() / SECTOR_BYTES;
        let sector = |index: usize| index * SECTOR_BYTES..(index + 1) * SECTOR_BYTES;
        for first in 0..count {
            // Its neighbour, and some others.
            let mut dice = Dice::new(first as u64);
            for second in
                [first + 1, first + 8, dice.below(count as u64) as usize, dice.below(count as u64) as usize]
            {
                let (first, second) = (sector(first), sector(second % count));
                let case = (first.start * self.bytes.len() + second.start) as u64;
                cases.case(case, || {
                    let mut bytes = self.bytes.clone();
                    change(&mut bytes, first.clone(), second.clone());
                    self.judge(bytes, &[first.clone(), second.clone()]);
                });
            }
        }
        cases.at_least(4 * count as u64);
    }
}

#[test]
fn every_flipped_byte_of_the_head_is_seen_or_changes_nothing() {
    let (clean, mut cases) = (Clean::head(), Cases::of(|| ()));
    let used = clean.bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0).next_multiple_of(BLOCK_BYTES);
    // Behind its end there are zeros, of which one is like the other.
    clean.flip_each(&mut cases, (0..used).chain((used..SMALL as usize).step_by(97)));
    cases.at_least(used as u64);
}

#[test]
fn a_file_that_was_cut_off_is_seen_wherever_it_ends() {
    let mut cases = Cases::of(|| ());
    for (nth, clean) in [Clean::head(), Clean::sealed()].into_iter().enumerate() {
        let whole = clean.bytes.len();
        for end in (0..whole).step_by(BLOCK_BYTES / 2) {
            // Batches are whole blocks: of a block in pieces nothing can be known.
            let cut_off = end / BLOCK_BYTES * BLOCK_BYTES..whole;
            let judge = || clean.judge(clean.bytes[..end].to_vec(), std::slice::from_ref(&cut_off));
            cases.case((nth * whole + end) as u64, judge);
        }
    }
    cases.at_least(2 * u64::from(SMALL) / BLOCK_BYTES as u64);
}

#[test]
fn every_flipped_byte_of_a_sealed_segment_is_seen_or_changes_nothing() {
    let mut cases = Cases::of(|| ());
    Clean::sealed().flip_each(&mut cases, 0..SMALL as usize);
    cases.at_least(u64::from(SMALL));
}

#[test]
fn a_sector_of_zeros_is_seen_or_changes_nothing() {
    for clean in [Clean::head(), Clean::sealed()] {
        clean.change_sectors(&mut Cases::of(|| ()), |bytes, first, _| bytes[first].fill(0));
    }
}

#[test]
fn swapped_sectors_are_seen_or_change_nothing() {
    for clean in [Clean::head(), Clean::sealed()] {
        clean.change_sectors(&mut Cases::of(|| ()), |bytes, first, second| {
            let other = bytes[second.clone()].to_vec();
            bytes.copy_within(first.clone(), second.start);
            bytes[first].copy_from_slice(&other);
        });
    }
}

#[test]
fn a_sector_written_in_the_place_of_another_is_seen_or_changes_nothing() {
    for clean in [Clean::head(), Clean::sealed()] {
        clean.change_sectors(&mut Cases::of(|| ()), |bytes, first, second| {
            bytes.copy_within(first, second.start)
        });
    }
}

#[test]
fn a_segment_as_it_was_earlier_or_in_the_place_of_another_is_seen() {
    let rig = Rig::fresh(SMALL);
    let earlier = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
    let snapshots = earlier.clone();
    rig.run(async move |rig| {
        for _ in 0..60 {
            rig.accept(2500).await.unwrap();
            snapshots.borrow_mut().push(rig.disk.contents(PATH).unwrap());
        }
    });
    let disk = rig.disk.copy();
    let (last, segments) = (disk.contents(PATH).unwrap(), disk.paths());
    assert!(segments.len() > 4);
    let stale = earlier.take().into_iter().filter(|bytes| *bytes != last);
    let others = segments[1..].iter().map(|path| disk.contents(path).unwrap());
    for (index, bytes) in stale.chain(others).enumerate() {
        let stale = disk.copy();
        stale.put(PATH, bytes);
        let (found, report) = Rig::open(&stale, SMALL, 9).unwrap();
        let lost = rig.model.ids().len() - found.model.ids().len();
        let noticed = report.damage.iter().any(|(segment, damage)| *segment == 1 && !damage.torn);
        assert!(noticed || report.unreadable == [1] || lost == 0, "{index}: {lost} lost; {report:?}");
    }
}

#[test]
fn records_of_a_damaged_range_longer_than_a_piece_are_salvaged_across_its_ends() {
    const LARGE: u32 = 8 << 20;
    let rig = long_log(LARGE);
    let disk = rig.disk.copy();
    // The next segment names the end of the first: from now on what is in it is proven.
    drop(Rig::open(&disk, LARGE, 9).unwrap());
    let mut bytes = disk.contents(PATH).unwrap();
    let intact = bytes.clone();
    for block in bytes[8192..].chunks_mut(BLOCK_BYTES).filter(|block| block[8..12] == *b"RPb1") {
        block[..64].fill(0);
    }
    let changed = (0..bytes.len()).filter(|at| bytes[*at] != intact[*at]).count();
    assert!(changed > 20, "there were batches: {changed}");
    disk.put(PATH, bytes.clone());
    let (found, report) = Rig::open(&disk, LARGE, 10).unwrap();
    assert_eq!(*found.model.0.borrow(), *rig.model.0.borrow());
    let [(1, damage)] = report.damage.as_slice() else { panic!("{report:?}") };
    assert!(!damage.torn && damage.salvaged as usize == rig.model.ids().len(), "{damage:?}");
    assert!(damage.range.len() > 4 * BATCH_BYTES_MAX && report.copies_failed == 0, "{report:?}");
    let copy = disk.contents("damaged/part-00001-segment-0000000001-at-8192.rot").unwrap();
    assert!(copy == bytes[damage.range.start as usize..damage.range.end as usize], "the copy is whole");
    assert!(disk.reads().most <= BATCH_BYTES_MAX, "{:?}", disk.reads());
}
