//! PURE. Contents of files: which sectors are not durable yet, and what a power cut would bring back in their place.
//!
//! The disk writes at once and notes here what was there before. A sector that was written twice without a sync has two
//! notes, and a power cut leaves any of its three versions. A length that changed without a sync is the old one or the new one.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use crate::mercy::Mercy;
use crate::names::FileId;

/// What is written whole or not at all, bytes.
pub const SECTOR_BYTES: u64 = 512;

/// A sector's contents before a write that may be lost.
#[derive(Debug)]
struct Note {
    file: FileId,
    sector: u64,
    before: Box<[u8]>,
    /// A sync failed behind the write. The kernel takes the page for clean then: a later sync says nothing about it.
    doomed: bool,
}

/// What is not durable yet.
#[derive(Debug, Default)]
pub struct Journal {
    /// In the order of writing.
    notes: Vec<Note>,
    /// Durable lengths of files that have another one now.
    lengths: BTreeMap<FileId, u64>,
}

/// What a power cut does to contents, in this order.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// Bytes to be written: file, offset, contents.
    pub bytes: Vec<(FileId, u64, Box<[u8]>)>,
    /// Lengths to be set.
    pub lengths: Vec<(FileId, u64)>,
}

/// The sectors that a range of bytes touches, as a range of bytes.
pub fn sectors(offset: u64, bytes: u64) -> Range<u64> {
    let from = offset / SECTOR_BYTES * SECTOR_BYTES;
    from..(offset + bytes).next_multiple_of(SECTOR_BYTES).max(from)
}

impl Journal {
    /// A write begins at the sector at byte `from`; `before` is what the sectors that it touches hold.
    pub fn write(&mut self, file: FileId, from: u64, before: &[u8]) {
        for (sector, before) in (from / SECTOR_BYTES..).zip(before.chunks(SECTOR_BYTES as usize)) {
            self.notes.push(Note { file, sector, before: before.into(), doomed: false });
        }
    }

    /// The file gets another length; now it has `length`.
    pub fn resize(&mut self, file: FileId, length: u64) {
        self.lengths.entry(file).or_insert(length);
    }

    /// A write through to the disk, O_DSYNC, has ended: its bytes are durable, and the length they need.
    pub fn sync_range(&mut self, file: FileId, bytes: &Range<u64>) {
        let inside = |sector: u64| bytes.contains(&(sector * SECTOR_BYTES));
        self.notes.retain(|note| note.file != file || !inside(note.sector));
        self.lengths.remove(&file);
    }

    /// Everything in the file is durable, but for what an earlier sync failed to make so.
    pub fn sync(&mut self, file: FileId) {
        let fresh = self.notes.iter().filter(|note| note.file == file && !note.doomed);
        let written: BTreeSet<u64> = fresh.map(|note| note.sector).collect();
        self.notes.retain(|note| note.file != file || note.doomed && !written.contains(&note.sector));
        self.lengths.remove(&file);
    }

    /// A sync has failed.
    pub fn sync_failed(&mut self, file: FileId) {
        for note in self.notes.iter_mut().filter(|note| note.file == file) {
            note.doomed = true;
        }
    }

    /// The file is gone for good.
    pub fn forget(&mut self, file: FileId) {
        self.notes.retain(|note| note.file != file);
        self.lengths.remove(&file);
    }

    /// The power fails: what has to be undone. After that everything is durable.
    pub fn cut(&mut self, mercy: &mut Mercy) -> Losses {
        let kept: Vec<bool> = self.notes.iter().map(|_| mercy.keeps()).collect();
        let mut losses = Losses::default();
        let mut settled = BTreeSet::new();
        // From the newest write back, to the first that had reached the disk.
        for (note, kept) in std::mem::take(&mut self.notes).into_iter().zip(kept).rev() {
            let sector = (note.file, note.sector);
            if kept {
                settled.insert(sector);
            } else if !settled.contains(&sector) {
                losses.bytes.push((note.file, note.sector * SECTOR_BYTES, note.before));
            }
        }
        for (file, length) in std::mem::take(&mut self.lengths) {
            if !mercy.keeps() {
                losses.lengths.push((file, length));
            }
        }
        losses
    }

    /// Sectors that a power cut may lose.
    pub fn unsynced(&self) -> usize {
        self.notes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECTOR: usize = SECTOR_BYTES as usize;

    /// One file as disk.rs keeps it: bytes that are written at once, and the journal.
    #[derive(Default)]
    struct File {
        bytes: Vec<u8>,
        journal: Journal,
    }

    impl File {
        fn write(&mut self, offset: usize, bytes: &[u8]) {
            let range = sectors(offset as u64, bytes.len() as u64);
            let mut before = vec![0; (range.end - range.start) as usize];
            let there = self.bytes.len().min(range.end as usize);
            if let Some(held) = self.bytes.get(range.start as usize..there) {
                before[..held.len()].copy_from_slice(held);
            }
            self.journal.write(1, range.start, &before);
            let end = offset + bytes.len();
            if end > self.bytes.len() {
                self.journal.resize(1, self.bytes.len() as u64);
                self.bytes.resize(end, 0);
            }
            self.bytes[offset..end].copy_from_slice(bytes);
        }

        fn cut(mut self, mut mercy: Mercy) -> Vec<u8> {
            let losses = self.journal.cut(&mut mercy);
            assert_eq!(self.journal.unsynced(), 0);
            for (_, offset, bytes) in losses.bytes {
                let end = self.bytes.len().min(offset as usize + bytes.len());
                let there = end - offset as usize;
                self.bytes[offset as usize..end].copy_from_slice(&bytes[..there]);
            }
            for (_, length) in losses.lengths {
                self.bytes.resize(length as usize, 0);
            }
            self.bytes
        }
    }

    #[test]
    fn what_was_synced_is_there_whatever_the_seed() {
        for seed in 0..200 {
            let mut file = File::default();
            file.write(0, &[1; 4 * SECTOR]);
            file.journal.sync(1);
            file.write(SECTOR, &[2; SECTOR]);
            file.journal.sync_range(1, &sectors(SECTOR_BYTES, SECTOR_BYTES));
            file.write(2 * SECTOR, &[3; 6 * SECTOR]);
            let left = file.cut(Mercy::of(seed));
            assert_eq!(left[..SECTOR], [1; SECTOR], "seed {seed}");
            assert_eq!(left[SECTOR..2 * SECTOR], [2; SECTOR], "seed {seed}");
        }
    }

    #[test]
    fn a_write_that_was_not_synced_is_lost_whole_torn_or_kept_and_never_mixed_within_a_sector() {
        let (mut lost, mut torn, mut whole) = (0, 0, 0);
        for seed in 0..400 {
            let mut file = File::default();
            file.write(0, &[1; 8 * SECTOR]);
            file.journal.sync(1);
            file.write(0, &[2; 8 * SECTOR]);
            let left = file.cut(Mercy::of(seed));
            let new = left.chunks(SECTOR).filter(|sector| **sector == [2; SECTOR]).count();
            let old = left.chunks(SECTOR).filter(|sector| **sector == [1; SECTOR]).count();
            assert_eq!(new + old, 8, "seed {seed}");
            match new {
                0 => lost += 1,
                8 => whole += 1,
                _ => torn += 1,
            }
        }
        assert!(lost > 20 && torn > 20 && whole > 20, "{lost} {torn} {whole}");
    }

    #[test]
    fn a_sector_written_twice_may_hold_any_of_its_versions() {
        let mut seen = BTreeSet::new();
        for seed in 0..200 {
            let mut file = File::default();
            file.write(0, &[1; SECTOR]);
            file.journal.sync(1);
            file.write(0, &[2; SECTOR]);
            file.write(0, &[3; SECTOR]);
            seen.insert(file.cut(Mercy::of(seed))[0]);
        }
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), [1, 2, 3]);
    }

    #[test]
    fn a_file_that_grew_without_a_sync_has_the_old_or_the_new_length() {
        let mut seen = BTreeSet::new();
        for seed in 0..100 {
            let mut file = File::default();
            file.write(0, &[1; 100]);
            file.journal.sync(1);
            file.write(100, &[2; 1000]);
            seen.insert(file.cut(Mercy::of(seed)).len());
        }
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), [100, 1100]);
    }

    #[test]
    fn a_sync_after_a_failed_one_promises_nothing_about_what_was_written_before() {
        let mut file = File::default();
        file.write(0, &[1; SECTOR]);
        file.journal.sync(1);
        file.write(0, &[2; SECTOR]);
        file.journal.sync_failed(1);
        file.journal.sync(1);
        assert_eq!(file.cut(Mercy::of(0))[0], 1);
    }

    #[test]
    fn what_is_written_again_and_synced_after_a_failed_sync_is_durable() {
        let mut file = File::default();
        file.write(0, &[1; SECTOR]);
        file.journal.sync_failed(1);
        file.write(0, &[2; SECTOR]);
        file.journal.sync(1);
        assert_eq!(file.cut(Mercy::of(0)), [2; SECTOR]);
    }

    #[test]
    fn the_same_seed_leaves_the_same_disk() {
        let left = |seed| {
            let mut file = File::default();
            file.write(0, &[1; 64 * SECTOR]);
            file.write(300, &[2; 20 * SECTOR]);
            file.cut(Mercy::of(seed))
        };
        assert!((0..100).all(|seed| left(seed) == left(seed)));
        assert!((1..100).any(|seed| left(seed) != left(0)));
    }
}
