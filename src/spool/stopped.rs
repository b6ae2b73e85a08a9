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
        let segments = replay.survey().await?.opened;
        replay.read_all(&segments, apply).await?;
        Ok(Self { replay, segments })
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
            let offset = location.offset;
            let (found, salt) = found.ok_or(ReadError::Damaged { id, segment, offset })?;
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
                footers.push(found.number);
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
            if let (Some(range), Some(found)) = (&finding.range, self.find(finding.segment)) {
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
