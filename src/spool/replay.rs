//! Opening a part: reads what the last run left, hands it to the queue in log order, and starts a new segment whose
//! header says where the old log ends. Never writes to an old segment.
//!
//! Order of writes, so that a crash in between changes nothing: copies of damaged bytes; the new segment's file under
//! a spare name; its rename and the directory; last its header, which makes the noted end binding.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Weak;

use super::commit::{Inner, Log, LogOptions};
use super::committer::write_header;
use super::error::{Fence, Refusal, SpoolError};
use super::meta;
use super::record::{self, Kind, RecordError, Salt};
use super::recovery::{self, Damage, Frame, Halt, Source};
use super::ring::{Ring, Segment, Spare};
use super::segment::{
    BATCHES_OFFSET, Footer, FooterBuilder, Header, HeaderError, TRAILER_BYTES, Tail, read_footer,
};
use super::state::{Head, State};
use super::storage::{DiskBuffer, Storage, StorageFile, read_range};
use super::window::Window;
use crate::envelope::Envelope;
use crate::id::{Location, MessageId, PartId};
use crate::limits::{BATCH_BYTES_MAX, BLOCK_BYTES};
use crate::outcome::{Bounced, LegState, Outcome};

/// Message sequences skipped by a restart: ids given out since the last durable batch may stand in replies and logs.
const IDS_SKIPPED: u64 = 1 << 20;
/// Smallest segment that works at all, bytes; the configuration asks for more.
pub const SEGMENT_BYTES_MIN: u32 = 16 * BLOCK_BYTES as u32;
/// Largest segment, bytes: offsets are 32 bits wide, and a restart reads the newest one whole.
pub const SEGMENT_BYTES_MAX: u32 = 1 << 30;

/// A record of the last run, in log order.
#[derive(Debug)]
pub enum Recovered<'a> {
    /// A message, new or moved: what is known of an earlier copy is void.
    Accepted {
        /// Which.
        id: MessageId,
        /// Where the record lies now.
        location: Location,
        /// Sender, recipients, times.
        envelope: Envelope,
        /// State of each leg that is not settled, if this is a moved copy; else empty.
        legs: &'a [LegState],
    },
    /// An attempt ended.
    Outcome(&'a Outcome),
    /// Owed recipients were settled.
    Bounced(&'a Bounced),
    /// The Accepted before it was never acknowledged: forget the message.
    Aborted(MessageId),
}

/// What [`Log::open`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Segments read.
    pub segments: u32,
    /// Records applied.
    pub records: u64,
    /// Segments that had to be scanned, since they have no intact footer.
    pub scanned: u32,
    /// Damaged bytes by segment, with what was torn (never acknowledged) and what was rot.
    pub damage: Vec<(u32, Damage)>,
    /// Segments of which one of two header copies is damaged.
    pub headers_damaged: Vec<u32>,
    /// Segments whose header is lost, and with it everything in them; the files are kept.
    pub unreadable: Vec<u32>,
    /// Segments that should be there and are not.
    pub missing: Vec<u32>,
    /// Copies of damaged bytes that could not be written to `damaged/`.
    pub copies_failed: u32,
}

impl RecoveryReport {
    /// Whether acknowledged bytes were damaged or lost.
    pub fn has_rot(&self) -> bool {
        let rot = self.damage.iter().any(|(_, damage)| !damage.torn);
        rot || !(self.headers_damaged.is_empty() && self.unreadable.is_empty() && self.missing.is_empty())
    }
}

/// Takes recovered records. Returns what died with the record: the location that its message had had.
pub type Apply<'a> = &'a mut dyn FnMut(Recovered<'_>) -> Option<Location>;

/// A segment file with what its header and trailer say.
struct Found<S: Storage> {
    number: u32,
    path: String,
    file: S::File,
    size: u32,
    header: Option<Header>,
    trailer: Option<(Header, Footer)>,
}

impl<S: Storage> Found<S> {
    fn salt(&self) -> Option<Salt> {
        self.header.or(self.trailer.map(|(header, _)| header)).map(|header| header.salt)
    }
}

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
        let mut replay = Replay {
            storage,
            part,
            dir: dir.to_owned(),
            report: RecoveryReport::default(),
            next_message: 0,
            oldest: 1,
            chunks: HashMap::default(),
            live: BTreeMap::new(),
        };
        let (found, spare_names) = replay.survey().await?;
        let (opened, prepared): (Vec<_>, Vec<_>) =
            found.into_iter().partition(|found| found.header.is_none_or(|header| !header.prepared));
        let tail = replay.read_all(&opened, apply).await?;
        let numbers = opened.iter().map(|found| found.number);
        let number = numbers.chain(prepared.iter().map(|found| found.number)).max().unwrap_or(0) + 1;
        // What was prepared for the last run becomes raw material for this one.
        let mut names = spare_names;
        let reusable = prepared.iter().find(|found| found.size == given).map(|found| found.path.clone());
        names.extend(
            prepared.into_iter().map(|found| found.path).filter(|path| Some(path) != reusable.as_ref()),
        );
        replay.discard(&names).await?;
        replay.start(opened, (number, reusable), tail, options, fence, salt).await
    }
}

struct Replay<S: Storage> {
    storage: S,
    part: PartId,
    dir: String,
    report: RecoveryReport,
    next_message: u64,
    oldest: u32,
    chunks: HashMap<MessageId, Vec<Location>, crate::hash::HashState>,
    live: BTreeMap<u32, u64>,
}

/// Name of segment `number` in directory `dir`.
pub(super) fn segment_path(dir: &str, number: u32) -> String {
    format!("{dir}/segment-{number:010}")
}

/// Name of the file that is to become segment `number`.
pub(super) fn spare_path(dir: &str, number: u32) -> String {
    format!("{dir}/spare-{number:010}")
}

impl<S: Storage> Replay<S> {
    fn disk(&self, doing: &'static str, path: &str) -> impl FnOnce(io::Error) -> SpoolError {
        let path = path.to_owned();
        move |source| SpoolError::Disk { doing, path, source }
    }

    /// All segment files in order of their numbers, with header and trailer; and the names of spares.
    async fn survey(&mut self) -> Result<(Vec<Found<S>>, Vec<String>), SpoolError> {
        let names = self.storage.list(&self.dir).await.map_err(self.disk("list", &self.dir))?;
        let mut numbers = Vec::new();
        let mut spares = Vec::new();
        for name in names {
            match name.strip_prefix("segment-").map(str::parse::<u32>) {
                Some(Ok(number)) if number > 0 => numbers.push(number),
                _ if name.starts_with("spare-") => spares.push(format!("{}/{name}", self.dir)),
                _ => {}
            }
        }
        numbers.sort_unstable();
        let mut all = Vec::new();
        for number in numbers {
            let found = self.look(number).await?;
            for header in found.header.iter().chain(found.trailer.iter().map(|(header, _)| header)) {
                self.oldest = self.oldest.max(header.oldest);
                self.next_message = self.next_message.max(header.next_message);
            }
            all.push(found);
        }
        Ok((all, spares))
    }

    async fn look(&mut self, number: u32) -> Result<Found<S>, SpoolError> {
        let path = segment_path(&self.dir, number);
        let file = self.storage.open(&path).await.map_err(self.disk("open", &path))?;
        let size = file.size().await.map_err(self.disk("read", &path))?;
        let size = u32::try_from(size).unwrap_or(u32::MAX).min(SEGMENT_BYTES_MAX) / BLOCK_BYTES as u32
            * BLOCK_BYTES as u32;
        let blocks = file.read_at(0, BATCHES_OFFSET as usize).await.map_err(self.disk("read", &path))?;
        let end = u64::from(size.saturating_sub(TRAILER_BYTES));
        let block = file.read_at(end, BLOCK_BYTES).await.map_err(self.disk("read", &path))?;
        let ours = |header: &Header| header.segment == number && header.part == self.part;
        let refuse =
            |error: HeaderError| SpoolError::Unreadable { path: path.clone(), reason: error.to_string() };
        let mut copies = Vec::new();
        for copy in blocks.chunks(BLOCK_BYTES) {
            match Header::decode(copy) {
                Ok(header) if ours(&header) => copies.push(header),
                Ok(_) | Err(HeaderError::Damaged) => {}
                Err(error @ HeaderError::Version(_)) => return Err(refuse(error)),
            }
        }
        let trailer = match Header::decode_trailer(&block) {
            Ok((header, footer)) if ours(&header) => Some((header, footer)),
            Ok(_) | Err(HeaderError::Damaged) => None,
            Err(error @ HeaderError::Version(_)) => return Err(refuse(error)),
        };
        if copies.len() == 1 {
            self.report.headers_damaged.push(number);
        }
        // A power cut while it was opened may have left one copy that still says prepared.
        let header = copies.iter().find(|header| !header.prepared).or(copies.first()).copied();
        // A trailer of an earlier use of the file has another salt.
        let trailer = trailer.filter(|(t, _)| header.is_none_or(|header| header.salt == t.salt));
        Ok(Found { number, path, file, size, header, trailer })
    }

    /// Applies all segments in order; returns where the log ends.
    async fn read_all(&mut self, opened: &[Found<S>], apply: Apply<'_>) -> Result<Option<Tail>, SpoolError> {
        self.learn_oldest(opened).await?;
        let mut tail = None;
        let mut expected = self.oldest;
        for (index, found) in opened.iter().enumerate() {
            if found.number < self.oldest {
                continue;
            }
            // Between the segment that this one continues and itself there may have been unused, prepared ones.
            let before = found.header.map(|header| header.tail.map_or(0, |tail| tail.segment + 1));
            self.report.missing.extend(expected..before.unwrap_or(found.number).min(found.number));
            expected = found.number + 1;
            let end = opened.get(index + 1).and_then(|next| next.header?.tail);
            let end = end.filter(|end| end.segment == found.number);
            if let Some(end) = self.read_segment(found, end, apply).await? {
                tail = Some(end);
            }
        }
        Ok(tail)
    }

    /// Batches in the newest segment may say that segments below some number are not needed any more.
    async fn learn_oldest(&mut self, opened: &[Found<S>]) -> Result<(), SpoolError> {
        let Some(newest) = opened.iter().rev().find(|found| found.salt().is_some()) else { return Ok(()) };
        let Some(frame) = self.frame(newest, None) else { return Ok(()) };
        let mut sink = |_: &record::Record<'_>, _| Ok::<(), Refusal>(());
        let mut window = Window::new(&newest.file, newest.size);
        let scan = recovery::scan_source(&mut window, &frame, &mut sink).await;
        let scan = scan.map_err(|halt| halted(&newest.path, halt))?;
        self.oldest = self.oldest.max(scan.oldest);
        Ok(())
    }

    fn frame(&self, found: &Found<S>, end: Option<Tail>) -> Option<Frame> {
        let first_batch = found.header.map(|header| header.tail.map_or(1, |tail| tail.batch + 1));
        let end = end.or(found.trailer.and_then(|(trailer, _)| trailer.tail));
        Some(Frame { segment: found.number, salt: found.salt()?, first_batch, end })
    }

    async fn read_segment(
        &mut self,
        found: &Found<S>,
        end: Option<Tail>,
        apply: Apply<'_>,
    ) -> Result<Option<Tail>, SpoolError> {
        let Some(frame) = self.frame(found, end) else {
            self.report.unreadable.push(found.number);
            return Ok(None);
        };
        self.report.segments += 1;
        if found.header.is_none() {
            self.report.headers_damaged.push(found.number);
        }
        if let Some((trailer, footer)) = found.trailer
            && let Some(footer) = self.read_footer(found, &trailer, footer).await?
        {
            let applied =
                read_footer::<Refusal>(&footer, trailer.salt, found.number, &mut |header, meta, at| {
                    self.apply_record(header, meta, at, apply)
                });
            applied.map_err(|refusal| unreadable(&found.path, &refusal))?;
            return Ok(trailer.tail);
        }
        self.report.scanned += 1;
        let mut sink =
            |record: &record::Record<'_>, at| self.apply_record(&record.header, record.meta, at, apply);
        let mut window = Window::new(&found.file, found.size);
        let scan = recovery::scan_source(&mut window, &frame, &mut sink).await;
        let scan = scan.map_err(|halt| halted(&found.path, halt))?;
        self.next_message = self.next_message.max(scan.next_message);
        for damage in scan.damage {
            self.set_aside(found, &damage).await;
            self.report.damage.push((found.number, damage));
        }
        Ok(Some(scan.tail))
    }

    async fn read_footer(
        &self,
        found: &Found<S>,
        trailer: &Header,
        footer: Footer,
    ) -> Result<Option<Vec<u8>>, SpoolError> {
        if footer.offset < BATCHES_OFFSET || footer.offset.saturating_add(footer.bytes) > found.size {
            return Ok(None);
        }
        let read = read_range(&found.file, u64::from(footer.offset), footer.bytes as usize).await;
        let read = read.map_err(self.disk("read", &found.path))?;
        let intact = read.len() == footer.bytes as usize && trailer.salt.checksum(&read) == footer.checksum;
        Ok(intact.then_some(read))
    }

    fn apply_record(
        &mut self,
        header: &record::Header,
        fields: &[u8],
        location: Location,
        apply: Apply<'_>,
    ) -> Result<(), Refusal> {
        let Some(kind) = header.kind else { return Ok(()) };
        let id = header.id;
        if id.part() != self.part {
            return Err(RecordError::Damaged.into());
        }
        self.report.records += 1;
        self.next_message = self.next_message.max(id.sequence() + 1);
        let died = match kind {
            Kind::Chunk => return Ok(()),
            Kind::Accepted => {
                let meta::AcceptedMeta { envelope, chunks, legs } = meta::accepted(fields)?;
                self.add_live(location);
                self.drop_chunks(id);
                for chunk in &chunks {
                    self.add_live(*chunk);
                }
                if !chunks.is_empty() {
                    self.chunks.insert(id, chunks);
                }
                let died = apply(Recovered::Accepted { id, location, envelope, legs: &legs });
                if let Some(died) = died {
                    self.sub_live(died);
                }
                return Ok(());
            }
            Kind::Outcome => apply(Recovered::Outcome(&meta::outcome(id, fields)?)),
            Kind::Bounced => apply(Recovered::Bounced(&meta::bounced(id, fields)?)),
            Kind::Aborted => apply(Recovered::Aborted(id)),
        };
        if let Some(died) = died {
            self.sub_live(died);
            self.drop_chunks(id);
        }
        Ok(())
    }

    fn add_live(&mut self, location: Location) {
        *self.live.entry(location.segment).or_default() += u64::from(location.bytes);
    }

    fn sub_live(&mut self, location: Location) {
        let live = self.live.entry(location.segment).or_default();
        *live = live.saturating_sub(u64::from(location.bytes));
    }

    fn drop_chunks(&mut self, id: MessageId) {
        for chunk in self.chunks.remove(&id).unwrap_or_default() {
            self.sub_live(chunk);
        }
    }

    /// Copies damaged bytes to `damaged/`. Best effort: a full disk must not keep mail from being delivered.
    async fn set_aside(&mut self, found: &Found<S>, damage: &Damage) {
        let what = if damage.torn { "torn" } else { "rot" };
        let (part, start) = (self.part.0, damage.range.start);
        let path = format!("damaged/part-{part:05}-segment-{:010}-at-{start}.{what}", found.number);
        if self.copy_out(found, &damage.range, &path).await.is_err() {
            self.report.copies_failed += 1;
        }
    }

    async fn copy_out(&self, found: &Found<S>, range: &Range<u32>, path: &str) -> io::Result<()> {
        let file = match self.storage.create(path).await {
            // Set aside by an earlier start, which may have ended on the way.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let file = self.storage.open(path).await?;
                if file.size().await? >= range.len() as u64 {
                    return Ok(());
                }
                file
            }
            created => created?,
        };
        let mut window = Window::new(&found.file, found.size);
        for at in range.clone().step_by(BATCH_BYTES_MAX) {
            let bytes = window.read(at..range.end.min(at + BATCH_BYTES_MAX as u32)).await?;
            let mut buffer = self.storage.buffer(bytes.len().next_multiple_of(BLOCK_BYTES));
            let (copy, padding) = buffer.as_bytes_mut().split_at_mut(bytes.len());
            copy.copy_from_slice(bytes);
            padding.fill(0);
            file.write_at(buffer, u64::from(at - range.start)).await?;
        }
        self.storage.sync_dir("damaged").await
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

fn unreadable(path: &str, refusal: &Refusal) -> SpoolError {
    SpoolError::Unreadable { path: path.to_owned(), reason: refusal.to_string() }
}

fn halted(path: &str, halt: Halt<io::Error, Refusal>) -> SpoolError {
    match halt {
        Halt::Source(source) => SpoolError::Disk { doing: "read", path: path.to_owned(), source },
        Halt::Sink(refusal) => unreadable(path, &refusal),
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
