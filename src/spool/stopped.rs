//! A part of a stopped relay: read as a restart reads it, by the same code, and then looked into. Writes nothing.

use std::sync::Arc;

use super::error::{Refusal, SpoolError};
use super::reader::{self, Pinned, ReadError};
use super::record::{Header, Record};
use super::recovery;
use super::replay::{Apply, Found, RecoveryReport, Replay, end_by_next, halted, unreadable};
use super::report::{self, Finding, Flaw, Trace};
use super::ring::SegmentPin;
use super::segment::read_footer;
use super::storage::{Storage, StorageFile};
use super::window::Window;
use crate::id::{Location, MessageId, PartId};

/// A part that was read and not opened.
pub struct StoppedPart<S: Storage> {
    replay: Replay<S>,
    segments: Vec<Found<S>>,
}

impl<S: Storage> StoppedPart<S> {
    /// Reads the part in directory `dir` and hands `apply` what is in it, as [`Log::open`](super::Log::open) does.
    ///
    /// # Errors
    /// When the disk fails, or a record is intact but not understood.
    pub async fn read(storage: S, part: PartId, dir: &str, apply: Apply<'_>) -> Result<Self, SpoolError> {
        let mut replay = Replay::new(storage, part, dir);
        let survey = replay.survey().await?;
        replay.read_all(&survey, apply).await?;
        Ok(Self { replay, segments: survey.opened })
    }

    /// The part.
    pub fn part(&self) -> PartId {
        self.replay.part
    }

    /// What reading it found, and [`Self::scan_sealed`] since.
    pub fn report(&self) -> &RecoveryReport {
        &self.replay.report
    }

    /// The disk that it is on.
    pub fn storage(&self) -> &S {
        &self.replay.storage
    }

    /// Bytes of the segments that are still needed.
    pub fn bytes(&self) -> u64 {
        self.needed().map(|(_, found)| u64::from(found.size)).sum()
    }

    /// Makes a message readable. `location` is where its Accepted record lies.
    ///
    /// # Errors
    /// When a segment that it needs is missing or cannot be read.
    pub fn pin(&self, id: MessageId, location: Location) -> Result<Pinned<S::Pin>, ReadError> {
        let chunks = self.replay.chunks.get(&id).map_or(&[][..], Vec::as_slice);
        let mut pins = Vec::new();
        for segment in reader::segments_of(location, chunks) {
            let found = self.find(segment).and_then(|found| Some((found, found.salt()?)));
            let lost = || chunks.iter().find(|chunk| chunk.segment == segment).copied().unwrap_or(location);
            let (found, salt) = found.ok_or_else(|| ReadError::Damaged { id, at: lost() })?;
            pins.push(Arc::new(SegmentPin { segment, salt, file: found.file.pin()? }));
        }
        Ok(Pinned::new(id, location, pins))
    }

    /// Reads the batches of the segments whose footers were read instead, every byte of them, and compares the two. What
    /// it finds is added to the report.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub async fn scan_sealed(&mut self) -> Result<(), SpoolError> {
        let mut damage = Vec::new();
        let mut footers = Vec::new();
        for (index, found) in self.needed() {
            let Some((trailer, footer)) = found.trailer else { continue };
            let place = footer.range(found.size);
            let Some(footer) = self.replay.read_footer(found, &trailer, footer).await? else { continue };
            let Some(frame) = self.replay.frame(found, end_by_next(&self.segments, index)) else { continue };
            let mut listed = Vec::new();
            let read = read_footer::<Refusal>(&footer, trailer.salt, found.number, &mut |header, _, at| {
                listed.push((*header, at));
                Ok(())
            });
            read.map_err(|refusal| unreadable(&found.path, &refusal))?;
            let mut stored: Vec<(Header, Location)> = Vec::new();
            let mut window = Window::new(&found.file, found.size);
            let mut sink = |record: &Record<'_>, at| {
                stored.push((record.header, at));
                Ok::<(), Refusal>(())
            };
            let scan = recovery::scan_source(&mut window, &frame, &mut sink).await;
            let scan = scan.map_err(|halt| halted(&found.path, halt))?;
            // Where batches are rotten, records are missing from them, and the footer is right.
            if scan.damage.is_empty() && stored != listed {
                footers.push((found.number, place));
            }
            damage.extend(scan.damage.into_iter().map(|damage| (found.number, damage)));
        }
        self.replay.report.damage.extend(damage);
        self.replay.report.footers_damaged.extend(footers);
        Ok(())
    }

    /// Everything that is not as it was written, each with the records in it whose headers can still be read.
    ///
    /// # Errors
    /// When the disk fails.
    pub async fn findings(&self) -> Result<Vec<(Finding, Vec<Trace>)>, ReadError> {
        let mut all = Vec::new();
        for finding in self.report().findings(self.part()) {
            let mut traces = Vec::new();
            if finding.is_of_batches()
                && let (Some(range), Some(found)) = (&finding.range, self.find(finding.segment))
            {
                let mut window = Window::new(&found.file, found.size);
                let salt = found.salt().expect("bytes of it were read");
                traces = report::traces(&mut window, salt, range.clone()).await?;
                traces.retain(|trace| finding.flaw == Flaw::Torn || !trace.is_whole);
            }
            all.push((finding, traces));
        }
        Ok(all)
    }

    fn find(&self, number: u32) -> Option<&Found<S>> {
        let place = self.segments.binary_search_by_key(&number, |found| found.number);
        place.ok().map(|place| &self.segments[place])
    }

    /// Segments that are still needed, with their places.
    fn needed(&self) -> impl Iterator<Item = (usize, &Found<S>)> {
        self.segments.iter().enumerate().filter(|(_, found)| found.number >= self.replay.oldest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::BLOCK_BYTES;
    use crate::spool::segment;
    use crate::spool::storage::memory::MemoryDisk;
    use crate::spool::testing::{DIR, Executor, Model, PART, drive, message, open};

    const SEGMENT: u32 = 64 * 1024;
    const FIRST: &str = "part-00001/segment-0000000001";

    /// A disk with a part that some messages of 3,000 bytes have filled to the third segment.
    fn filled() -> MemoryDisk {
        let disk = MemoryDisk::new(1 << 30);
        let executor = Executor::new(&disk);
        let (log, _, model) = open(&executor, &disk, SEGMENT, 1).expect("an empty part");
        drive(&executor, &log, &model);
        let done = executor.run(async move {
            for _ in 0..40 {
                let id = log.next_id();
                let (_, location) = log.accept(&message(id, 3000)).await.expect("room");
                model.0.borrow_mut().insert(id, (location, 0));
            }
            log.storage_sleep().await;
            log.close().await;
        });
        done.expect("it ends");
        disk.copy()
    }

    /// What a look into the part found: at first as a restart does, and in all of it; and how many messages there are.
    type Looked = (Vec<Finding>, Vec<(Finding, Vec<Trace>)>, usize);

    fn look(disk: &MemoryDisk) -> Looked {
        let (on, model) = (disk.clone(), Model::default());
        let folded = model.clone();
        let before = disk.event_count();
        let looked = Executor::new(disk).run(async move {
            let mut apply = |record: crate::spool::Recovered<'_>| folded.apply(record);
            let mut part = StoppedPart::read(on, PART, DIR, &mut apply).await.expect("readable");
            let first = part.report().findings(PART);
            part.scan_sealed().await.expect("readable");
            (first, part.findings().await.expect("readable"))
        });
        assert_eq!(disk.event_count(), before, "something was written");
        let (first, all) = looked.expect("it ends");
        (first, all, model.ids().len())
    }

    #[test]
    fn a_sound_part_is_read_as_a_restart_reads_it_and_nothing_is_found_or_written() {
        let disk = filled();
        let (first, all, messages) = look(&disk);
        assert_eq!((first, all, messages), (Vec::new(), Vec::new(), 40));
        let (_, _, recovered) = open(&Executor::new(&disk), &disk, SEGMENT, 9).expect("sound");
        assert_eq!(recovered.ids().len(), messages);
    }

    #[test]
    fn rot_in_a_sealed_segment_is_found_though_a_restart_reads_its_footer() {
        let disk = filled();
        // Within the first record's body, and in the padding behind a batch.
        for at in
            [segment::BATCHES_OFFSET as usize + 1000, segment::BATCHES_OFFSET as usize + BLOCK_BYTES - 1]
        {
            let copy = disk.copy();
            copy.flip(FIRST, at, 4);
            let (first, all, messages) = look(&copy);
            assert_eq!((first.len(), messages), (0, 40), "the footer hides it");
            let [(finding, traces)] = &all[..] else { panic!("{all:?}") };
            assert_eq!((finding.segment, finding.flaw, finding.flaw.is_damage()), (1, Flaw::Rot, true));
            let struck = traces.iter().map(|trace| trace.header.id.sequence()).collect::<Vec<_>>();
            let padding = at % BLOCK_BYTES == BLOCK_BYTES - 1;
            assert_eq!(struck, if padding { vec![] } else { vec![1] }, "who is concerned is named");
        }
    }

    #[test]
    fn a_footer_that_is_damaged_or_says_something_else_is_found() {
        let disk = filled();
        let bytes = disk.contents(FIRST).expect("a segment");
        let place = bytes.len() - segment::TRAILER_BYTES as usize;
        let (header, footer) = segment::Header::decode_trailer(&bytes[place..]).expect("it is sealed");
        let flaws = |disk: &MemoryDisk| look(disk).1.iter().map(|(found, _)| found.flaw).collect::<Vec<_>>();
        let damaged = disk.copy();
        damaged.flip(FIRST, footer.offset as usize + 50, 1);
        assert_eq!(flaws(&damaged), [Flaw::Footer]);
        assert_eq!(look(&damaged).2, 40, "its batches say the same");
        // A footer that a bug had written without its last record: all checksums hold.
        let mut shorter = bytes.clone();
        let mut entries = Vec::new();
        let listed = &bytes[footer.offset as usize..][..footer.bytes as usize];
        read_footer::<Refusal>(listed, header.salt, 1, &mut |_, meta, _| {
            entries.push(crate::spool::record::padded(crate::spool::record::HEADER_BYTES + meta.len()));
            Ok(())
        })
        .expect("intact");
        let left = listed.len() - entries.last().expect("records");
        let checksum = header.salt.checksum(&listed[..left]);
        let lying = segment::Footer { bytes: left as u32, checksum, ..footer };
        header.encode_trailer(lying, &mut shorter[place..]);
        let lies = disk.copy();
        lies.put(FIRST, shorter);
        let (first, all, messages) = look(&lies);
        assert_eq!((first.len(), messages), (0, 39), "a restart believes it");
        assert_eq!(all.iter().map(|(found, _)| found.flaw).collect::<Vec<_>>(), [Flaw::Footer]);
    }
}
