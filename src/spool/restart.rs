//! Opening a part: has `replay` hand what the last run left to the queue, and starts a new segment whose header says
//! where the old log ends. Never writes to an old segment.
//!
//! Order of writes, so that a crash in between changes nothing: copies of damaged bytes; the new segment's file under
//! a spare name; its rename and the directory; last its header, which makes the noted end binding.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Weak;

use super::commit::{Inner, Log, LogOptions};
use super::committer::write_header;
use super::error::{Fence, SpoolError};
use super::record::Salt;
use super::recovery::{Damage, Source};
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
use crate::limits::{BATCH_BYTES_MAX, BLOCK_BYTES};

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
        let Survey { opened, prepared, spares } = replay.survey().await?;
        let tail = replay.read_all(&opened, apply).await?;
        replay.set_damage_aside(&opened).await;
        let numbers = opened.iter().map(|found| found.number);
        let number = numbers.chain(prepared.iter().map(|found| found.number)).max().unwrap_or(0) + 1;
        // What was prepared for the last run becomes raw material for this one.
        let mut names = spares;
        let reusable = prepared.iter().find(|found| found.size == given).map(|found| found.path.clone());
        names.extend(
            prepared.into_iter().map(|found| found.path).filter(|path| Some(path) != reusable.as_ref()),
        );
        replay.discard(&names).await?;
        replay.start(opened, (number, reusable), tail, options, fence, salt).await
    }
}

impl<S: Storage> Replay<S> {
    /// Copies damaged bytes to `damaged/`. Best effort: a full disk must not keep mail from being delivered.
    async fn set_damage_aside(&mut self, opened: &[Found<S>]) {
        for (number, damage) in self.report.damage.clone() {
            if let Some(found) = opened.iter().find(|found| found.number == number) {
                self.set_aside(found, &damage).await;
            }
        }
    }

    async fn set_aside(&mut self, found: &Found<S>, damage: &Damage) {
        let finding = Finding::of_damage(self.part, found.number, damage);
        let path = format!("damaged/{}", finding.file_name());
        let copied = async {
            self.copy_out(found, &damage.range, &path).await?;
            let mut window = Window::new(&found.file, found.size);
            let salt = found.salt().unwrap_or(Salt::new(0));
            let traces = report::traces(&mut window, salt, damage.range.clone()).await?;
            let text = report::text(&finding, &found.path, &traces);
            self.write_text(&format!("{path}.txt"), &text).await?;
            self.storage.sync_dir("damaged").await
        };
        match copied.await {
            Ok(()) => self.report.bytes_set_aside += damage.range.len() as u64,
            Err(_) => self.report.copies_failed += 1,
        }
    }

    /// A new file for `bytes` bytes; `None` if an earlier start has written it whole.
    async fn create_aside(&self, path: &str, bytes: usize) -> io::Result<Option<S::File>> {
        match self.storage.create(path).await {
            // Set aside by an earlier start, which may have ended on the way.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let file = self.storage.open(path).await?;
                Ok(if file.size().await? >= bytes as u64 { None } else { Some(file) })
            }
            created => created.map(Some),
        }
    }

    async fn copy_out(&self, found: &Found<S>, range: &Range<u32>, path: &str) -> io::Result<()> {
        let Some(file) = self.create_aside(path, range.len()).await? else { return Ok(()) };
        let mut window = Window::new(&found.file, found.size);
        for at in range.clone().step_by(BATCH_BYTES_MAX) {
            let bytes = window.read(at..range.end.min(at + BATCH_BYTES_MAX as u32)).await?;
            let buffer = self.filled(bytes, 0);
            file.write_at(buffer, u64::from(at - range.start)).await?;
        }
        Ok(())
    }

    async fn write_text(&self, path: &str, text: &str) -> io::Result<()> {
        let Some(file) = self.create_aside(path, text.len()).await? else { return Ok(()) };
        for (nth, bytes) in text.as_bytes().chunks(BATCH_BYTES_MAX).enumerate() {
            // The disk takes whole blocks; empty lines are what a reader minds least.
            file.write_at(self.filled(bytes, b'\n'), (nth * BATCH_BYTES_MAX) as u64).await?;
        }
        Ok(())
    }

    /// A buffer of whole blocks with `bytes`, and `padding` behind them.
    fn filled(&self, bytes: &[u8], padding: u8) -> S::Buffer {
        let mut buffer = self.storage.buffer(bytes.len().next_multiple_of(BLOCK_BYTES));
        let (copy, rest) = buffer.as_bytes_mut().split_at_mut(bytes.len());
        copy.copy_from_slice(bytes);
        rest.fill(padding);
        buffer
    }

    async fn discard(&self, paths: &[String]) -> Result<(), SpoolError> {
        for path in paths {
            self.storage.remove(path).await.map_err(self.disk("remove", path))?;
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
                damaged: false,
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
            (0, None) if self.report.unreadable.is_empty() => 1,
            // Whatever was lost, its ids are far below.
            (next, _) if !self.report.unreadable.is_empty() => {
                (next + (1 << 32)).min(MessageId::SEQUENCE_MAX)
            }
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
            damaged: false,
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
