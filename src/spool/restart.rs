//! Opening a part: has `replay` hand what the last run left to the queue, and starts a new segment whose header says
//! where the old log ends. Never writes to an old segment.
//!
//! Order of writes, so that a crash in between changes nothing: copies of damaged bytes; the new segment's file under
//! a spare name; its rename and the directory; last its header, which makes the noted end binding.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::sync::Weak;

use super::aside;
use super::commit::{Inner, Log, LogOptions};
use super::committer::write_header;
use super::error::{Fence, SpoolError};
use super::record::Salt;
use super::replay::{
    Apply, Found, RecoveryReport, Replay, SEGMENT_BYTES_MAX, Survey, segment_path, spare_path,
};
use super::report::{self, Finding};
use super::ring::{Ring, Segment, Spare};
use super::segment::{BATCHES_OFFSET, FooterBuilder, Header, Tail};
use super::state::{Head, State};
use super::storage::{DiskBuffer, Storage, StorageFile};
use super::window::Window;
use crate::id::{MessageId, PartId};
use crate::limits::BLOCK_BYTES;

/// Message sequences skipped by a restart: ids given out since the last durable batch may stand in replies and logs.
const IDS_SKIPPED: u64 = 1 << 20;
/// Smallest segment that works at all, bytes; the configuration asks for more.
pub const SEGMENT_BYTES_MIN: u32 = 16 * BLOCK_BYTES as u32;

impl<S: Storage> Log<S> {
    /// Opens the part in directory `dir` (which must exist) and hands `apply` what is in it. `salt` gives random
    /// numbers. Fails without having changed anything if a record is intact but not understood.
    pub async fn open(
        storage: S,
        part: PartId,
        dir: &str,
        options: LogOptions,
        fence: Fence,
        salt: &mut dyn FnMut() -> u64,
        apply: Apply<'_>,
    ) -> Result<(Self, RecoveryReport), SpoolError> {
        let (least, most) = (SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX);
        let given = options.segment_bytes;
        if given < least || given > most || !(given as usize).is_multiple_of(BLOCK_BYTES) {
            return Err(SpoolError::SegmentSize { given, least, most });
        }
        let mut replay = Replay::new(storage, part, dir);
        let survey = replay.survey().await?;
        let tail = replay.read_all(&survey, apply).await?;
        replay.set_damage_aside(&survey).await;
        let Survey { opened, mut prepared, spares } = survey;
        let number = opened.iter().chain(&prepared).map(|found| found.number).max().unwrap_or(0) + 1;
        // What was prepared for the last run becomes raw material for this one. The lowest goes last: a prepared one
        // without the one before it says that something is missing.
        let reusable = prepared.first().filter(|found| found.size == given).map(|found| found.path.clone());
        let kept = usize::from(reusable.is_some());
        let names = prepared.drain(kept..).rev().map(|found| found.path).chain(spares);
        replay.discard(&names.collect::<Vec<_>>()).await?;
        replay.start(opened, (number, reusable), tail, options, fence, salt).await
    }
}

impl<S: Storage> Replay<S> {
    /// Has a report of each finding in `damaged/`, with a copy of the bytes. Best effort: a full disk must not keep mail
    /// from being delivered.
    async fn set_damage_aside(&mut self, survey: &Survey<S>) {
        for finding in self.report.findings(self.part) {
            let mut segments = survey.opened.iter().chain(&survey.prepared);
            let found = segments.find(|found| found.number == finding.segment);
            match self.set_aside(&finding, found).await {
                Ok(bytes) => self.report.bytes_set_aside += bytes,
                Err(_) => self.report.copies_failed += 1,
            }
        }
    }

    /// Gives the number of bytes that were copied.
    async fn set_aside(&self, finding: &Finding, found: Option<&Found<S>>) -> io::Result<u64> {
        let name = finding.file_name();
        let (mut bytes, mut traces) = (0, Vec::new());
        if let (Some(range), Some(found)) = (&finding.range, found) {
            // The place of the headers is said whole, however short the file is.
            let range = &(range.start.min(found.size)..range.end.min(found.size));
            bytes = range.len() as u64;
            let mut window = Window::new(&found.file, found.size);
            aside::copy(&self.storage, &mut window, range, &name).await?;
            if finding.is_of_batches() {
                let salt = found.salt().unwrap_or(Salt::new(0));
                traces = report::traces(&mut window, salt, range.clone()).await?;
            }
        }
        let text = report::text(finding, &segment_path(&self.dir, finding.segment), &traces);
        aside::write_text(&self.storage, &name, &text).await?;
        Ok(bytes)
    }

    async fn discard(&self, paths: &[String]) -> Result<(), SpoolError> {
        for path in paths {
            self.storage.remove(path).await.map_err(self.disk("remove", path))?;
            self.storage.sync_dir(&self.dir).await.map_err(self.disk("sync", &self.dir))?;
        }
        Ok(())
    }

    /// Starts segment `number`, in the prepared file `reusable` if there is one, behind `tail`, and with it the log.
    async fn start(
        self,
        opened: Vec<Found<S>>,
        (number, reusable): (u32, Option<String>),
        tail: Option<Tail>,
        options: LogOptions,
        fence: Fence,
        salt: &mut dyn FnMut() -> u64,
    ) -> Result<(Log<S>, RecoveryReport), SpoolError> {
        for found in opened.iter().rev().take(1) {
            // What was read may still sit in the disk's volatile cache, and is about to be built on.
            found.file.sync().await.map_err(self.disk("sync", &found.path))?;
        }
        let mut ring = Ring {
            segments: VecDeque::new(),
            spares: VecDeque::new(),
            freed: VecDeque::new(),
            oldest_durable: 0,
        };
        for found in opened {
            let segment = Segment {
                number: found.number,
                size: found.size,
                salt: found.salt().unwrap_or(Salt::new(0)),
                live_bytes: self.live.get(&found.number).copied().unwrap_or(0),
                pending: 0,
                sealed: true,
                unreadable: found.salt().is_none(),
                pin: Weak::new(),
            };
            if found.number < self.oldest {
                ring.freed.push_back(segment)
            } else {
                ring.segments.push_back(segment)
            }
        }
        ring.fill_gaps(number);
        let next_message = match (self.next_message, tail) {
            // Whatever was lost, its ids are far below.
            (next, _) if self.report.lacks_segments() => (next + (1 << 32)).min(MessageId::SEQUENCE_MAX),
            (0, None) => 1,
            (next, _) => (next + IDS_SKIPPED).min(MessageId::SEQUENCE_MAX),
        };
        let oldest = ring.segments.front().map_or(number, |segment| segment.number);
        let salt = Salt::new(salt());
        let size = options.segment_bytes;
        let (part, prepared) = (self.part, false);
        let header = Header { salt, part, segment: number, size, oldest, next_message, tail, prepared };
        let path = segment_path(&self.dir, number);
        let first = Header { prepared: true, tail: None, ..header };
        let spare = make_spare(&self.storage, &self.dir, &first, reusable.as_deref()).await;
        let spare = spare.map_err(self.disk("create", &path))?;
        write_header(&self.storage, &spare.file, &header).await.map_err(self.disk("write", &path))?;
        ring.oldest_durable = oldest;
        let footer = FooterBuilder::default();
        let head =
            Head { number, salt, size, file: spare.file, footer, cursor: BATCHES_OFFSET, opened: true };
        ring.segments.push_back(Segment {
            number,
            size,
            salt,
            live_bytes: 0,
            pending: 0,
            sealed: false,
            unreadable: false,
            pin: Weak::new(),
        });
        let tail = tail.unwrap_or(Tail { segment: 0, offset: 0, batch: 0 });
        let mut state = State::new(head, ring, tail, next_message, self.storage.now());
        state.chunks = self.chunks;
        let state = RefCell::new(state);
        let on_commit = RefCell::default();
        let inner = Inner { storage: self.storage, part, dir: self.dir, options, fence, state, on_commit };
        Ok((Log::start(inner), self.report))
    }
}

/// Makes the file of a segment under its final name, with a header that says prepared: from the freed file `old`, which
/// must have the right size, or else new and filled with zeros.
pub(super) async fn make_spare<S: Storage>(
    storage: &S,
    dir: &str,
    header: &Header,
    old: Option<&str>,
) -> io::Result<Spare<S>> {
    let path = spare_path(dir, header.segment);
    let file = match old {
        Some(old) => {
            storage.rename(old, &path).await?;
            // Before the first byte changes, no crash may bring the old name back.
            storage.sync_dir(dir).await?;
            storage.open(&path).await?
        }
        None => {
            if let Err(error) = storage.remove(&path).await
                && error.kind() != io::ErrorKind::NotFound
            {
                return Err(error);
            }
            let file = storage.create(&path).await?;
            fill_with_zeros(storage, &file, header.size).await?;
            file
        }
    };
    write_header(storage, &file, header).await?;
    storage.rename(&path, &segment_path(dir, header.segment)).await?;
    storage.sync_dir(dir).await?;
    Ok(Spare { number: header.segment, salt: header.salt, file: Rc::new(file) })
}

async fn fill_with_zeros<S: Storage>(storage: &S, file: &S::File, size: u32) -> io::Result<()> {
    const PIECE: u32 = 1 << 20;
    let mut at = 0;
    while at < size {
        let mut buffer = storage.buffer(PIECE.min(size - at) as usize);
        buffer.as_bytes_mut().fill(0);
        file.write_at(buffer, u64::from(at)).await?;
        at += PIECE.min(size - at);
    }
    Ok(())
}
