//! Reads what the last run left in a part and hands it on in log order: segment headers, then footers or batches, then
//! records. Writes nothing: what a restart does with the rest is `restart`'s.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::ops::Range;

use super::error::{Refusal, SpoolError};
use super::meta;
use super::record::{self, Kind, RecordError, Salt};
use super::recovery::{self, Damage, Frame, Halt, Scan};
use super::segment::{BATCHES_OFFSET, Footer, Header, HeaderError, TRAILER_BYTES, Tail, read_footer};
use super::storage::{Storage, StorageFile, read_range};
use super::window::Window;
use crate::envelope::Envelope;
use crate::id::{Location, MessageId, PartId};
use crate::limits::BLOCK_BYTES;
use crate::outcome::{Bounced, LegState, Outcome};

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

/// What reading a part found.
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
    /// Damaged header copies by segment: one of two, or both where the trailer was read instead.
    pub headers_damaged: Vec<(u32, Range<u32>)>,
    /// Damaged footers and trailers by segment: the batches were read instead.
    pub footers_damaged: Vec<(u32, Range<u32>)>,
    /// Segments whose header is lost, and with it everything in them; the files are kept.
    pub unreadable: Vec<u32>,
    /// Segments that should be there and are not.
    pub missing: Vec<u32>,
    /// Bytes that were set aside: copied to `damaged/`.
    pub bytes_set_aside: u64,
    /// Copies of damaged bytes that could not be written to `damaged/`.
    pub copies_failed: u32,
}

impl RecoveryReport {
    /// Whether segments are lost that may have had any ids in them.
    pub fn lacks_segments(&self) -> bool {
        !(self.unreadable.is_empty() && self.missing.is_empty())
    }

    /// Whether acknowledged bytes were damaged or lost.
    pub fn has_rot(&self) -> bool {
        self.findings(PartId(0)).iter().any(|finding| finding.flaw.is_damage())
    }
}

/// Takes recovered records. Returns what died with the record: the location that its message had had.
pub type Apply<'a> = &'a mut dyn FnMut(Recovered<'_>) -> Option<Location>;

/// A segment file with what its header and trailer say.
pub(super) struct Found<S: Storage> {
    pub number: u32,
    pub path: String,
    pub file: S::File,
    pub size: u32,
    pub header: Option<Header>,
    pub trailer: Option<(Header, Footer)>,
}

impl<S: Storage> Found<S> {
    pub fn salt(&self) -> Option<Salt> {
        self.header.or(self.trailer.map(|(header, _)| header)).map(|header| header.salt)
    }
}

/// The files of a part.
pub(super) struct Survey<S: Storage> {
    /// Segments with batches, in order of their numbers.
    pub opened: Vec<Found<S>>,
    /// Segments that were made for later.
    pub prepared: Vec<Found<S>>,
    /// Names of files that were to become segments.
    pub spares: Vec<String>,
}

/// A segment that was read before its turn.
struct Ahead {
    number: u32,
    records: Vec<(record::Header, Location)>,
    /// Metas of the records, one behind the other.
    metas: Vec<u8>,
    scan: Scan,
}

impl Ahead {
    /// Hands the records to `sink` and gives what reading them has shown.
    fn apply<E>(
        self,
        mut sink: impl FnMut(&record::Header, &[u8], Location) -> Result<(), E>,
    ) -> Result<Scan, Halt<io::Error, E>> {
        let mut metas = self.metas.as_slice();
        for (header, at) in &self.records {
            let (meta, rest) = metas.split_at(header.meta_bytes as usize);
            sink(header, meta, *at).map_err(Halt::Sink)?;
            metas = rest;
        }
        Ok(self.scan)
    }
}

/// A part being read, and what is known of it so far.
pub(super) struct Replay<S: Storage> {
    pub storage: S,
    pub part: PartId,
    pub dir: String,
    pub report: RecoveryReport,
    pub next_message: u64,
    /// Lowest segment that is still needed.
    pub oldest: u32,
    /// Chunks of the messages that are not settled.
    pub chunks: HashMap<MessageId, Vec<Location>, crate::hash::HashState>,
    /// Bytes of records of messages that are not settled, by segment.
    pub live: BTreeMap<u32, u64>,
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
    pub fn new(storage: S, part: PartId, dir: &str) -> Self {
        Self {
            storage,
            part,
            dir: dir.to_owned(),
            report: RecoveryReport::default(),
            next_message: 0,
            oldest: 1,
            chunks: HashMap::default(),
            live: BTreeMap::new(),
        }
    }

    pub fn disk(&self, doing: &'static str, path: &str) -> impl FnOnce(io::Error) -> SpoolError {
        let path = path.to_owned();
        move |source| SpoolError::Disk { doing, path, source }
    }

    /// All files of the part, with headers and trailers.
    pub async fn survey(&mut self) -> Result<Survey<S>, SpoolError> {
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
        let (opened, prepared) =
            all.into_iter().partition(|found| found.header.is_none_or(|header| !header.prepared));
        Ok(Survey { opened, prepared, spares })
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
        let (mut copies, mut damaged) = (Vec::new(), Vec::new());
        for (copy, at) in blocks.chunks(BLOCK_BYTES).zip((0..).step_by(BLOCK_BYTES)) {
            match Header::decode(copy) {
                Ok(header) if ours(&header) => copies.push(header),
                Ok(_) | Err(HeaderError::Damaged) => damaged.push((number, at..at + BLOCK_BYTES as u32)),
                Err(error @ HeaderError::Version(_)) => return Err(refuse(error)),
            }
        }
        let trailer = match Header::decode_trailer(&block) {
            Ok((header, footer)) if ours(&header) => Some((header, footer)),
            // In a file that was cut off it is no trailer's place.
            Err(HeaderError::Damaged)
                if block.iter().any(|byte| *byte != 0)
                    && copies.first().is_none_or(|header| header.size <= size) =>
            {
                // Nothing but trailers is ever written there.
                self.report.footers_damaged.push((number, end as u32..size));
                None
            }
            Ok(_) | Err(HeaderError::Damaged) => None,
            Err(error @ HeaderError::Version(_)) => return Err(refuse(error)),
        };
        if copies.len() == 1 {
            self.report.headers_damaged.append(&mut damaged);
        }
        // A power cut while it was opened may have left one copy that still says prepared.
        let header = copies.iter().find(|header| !header.prepared).or(copies.first()).copied();
        // A trailer of an earlier use of the file has another salt.
        let trailer = trailer.filter(|(t, _)| header.is_none_or(|header| header.salt == t.salt));
        Ok(Found { number, path, file, size, header, trailer })
    }

    /// Applies all segments in order; returns where the log ends.
    pub async fn read_all(
        &mut self,
        Survey { opened, prepared, .. }: &Survey<S>,
        apply: Apply<'_>,
    ) -> Result<Option<Tail>, SpoolError> {
        let mut ahead = self.read_ahead(opened).await?;
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
            let end = end_by_next(opened, index);
            let ahead = ahead.take_if(|ahead| ahead.number == found.number);
            if let Some(end) = self.read_segment(found, end, ahead, apply).await? {
                tail = Some(end);
            }
        }
        // The newest segments have no opened one behind them that would tell.
        let behind = prepared.iter().filter_map(|found| found.header?.tail).map(|tail| tail.segment);
        let there = |number| opened.iter().chain(prepared).any(|found| found.number == number);
        let oldest = expected.max(self.oldest);
        self.report.missing.extend(behind.filter(|number| *number >= oldest && !there(*number)));
        Ok(tail)
    }

    /// Reads the newest segment before the others, if it has no footer: its batches may say that segments below some
    /// number are not needed any more. Its records wait in memory for their turn, as small as a footer would be.
    async fn read_ahead(&mut self, opened: &[Found<S>]) -> Result<Option<Ahead>, SpoolError> {
        let newest = opened.iter().rposition(|found| found.salt().is_some());
        let Some(index) = newest.filter(|index| opened[*index].trailer.is_none()) else { return Ok(None) };
        let newest = &opened[index];
        let Some(frame) = self.frame(newest, end_by_next(opened, index)) else { return Ok(None) };
        let (mut records, mut metas) = (Vec::new(), Vec::new());
        let mut sink = |record: &record::Record<'_>, at| {
            records.push((record.header, at));
            metas.extend_from_slice(record.meta);
            Ok::<(), Refusal>(())
        };
        let mut window = Window::new(&newest.file, newest.size);
        let scan = recovery::scan_source(&mut window, &frame, &mut sink).await;
        let scan = scan.map_err(|halt| halted(&newest.path, halt))?;
        self.oldest = self.oldest.max(scan.oldest);
        Ok(Some(Ahead { number: newest.number, records, metas, scan }))
    }

    pub fn frame(&self, found: &Found<S>, end: Option<Tail>) -> Option<Frame> {
        let first_batch = found.header.map(|header| header.tail.map_or(1, |tail| tail.batch + 1));
        let end = end.or(found.trailer.and_then(|(trailer, _)| trailer.tail));
        let size = found.header.map_or(found.size, |header| header.size);
        Some(Frame { segment: found.number, salt: found.salt()?, size, first_batch, end })
    }

    async fn read_segment(
        &mut self,
        found: &Found<S>,
        end: Option<Tail>,
        ahead: Option<Ahead>,
        apply: Apply<'_>,
    ) -> Result<Option<Tail>, SpoolError> {
        let Some(frame) = self.frame(found, end) else {
            self.report.unreadable.push(found.number);
            return Ok(None);
        };
        self.report.segments += 1;
        if found.header.is_none() {
            self.report.headers_damaged.push((found.number, 0..BATCHES_OFFSET));
        }
        if let Some((trailer, footer)) = found.trailer {
            if let Some(footer) = self.read_footer(found, &trailer, footer).await? {
                let applied =
                    read_footer::<Refusal>(&footer, trailer.salt, found.number, &mut |header, meta, at| {
                        self.apply_record(header, meta, at, apply)
                    });
                applied.map_err(|refusal| unreadable(&found.path, &refusal))?;
                return Ok(trailer.tail);
            }
            self.report.footers_damaged.push((found.number, footer.range(found.size)));
        }
        self.report.scanned += 1;
        let scan = match ahead {
            Some(ahead) => ahead.apply(|header, meta, at| self.apply_record(header, meta, at, apply)),
            None => {
                let mut sink = |record: &record::Record<'_>, at| {
                    self.apply_record(&record.header, record.meta, at, apply)
                };
                let mut window = Window::new(&found.file, found.size);
                recovery::scan_source(&mut window, &frame, &mut sink).await
            }
        };
        let scan = scan.map_err(|halt| halted(&found.path, halt))?;
        if frame.size > found.size && frame.end.is_some_and(|end| end.offset <= found.size) {
            // The file was cut off behind its batches, where its footer stood.
            self.report.footers_damaged.push((found.number, found.size..frame.size));
        }
        self.next_message = self.next_message.max(scan.next_message);
        self.report.damage.extend(scan.damage.into_iter().map(|damage| (found.number, damage)));
        Ok(Some(scan.tail))
    }

    /// The footer, if it is intact.
    pub async fn read_footer(
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
}

/// Where the segment at `index` ends, as the header behind it says.
pub(super) fn end_by_next<S: Storage>(opened: &[Found<S>], index: usize) -> Option<Tail> {
    let end = opened.get(index + 1).and_then(|next| next.header?.tail);
    end.filter(|end| end.segment == opened[index].number)
}

pub(super) fn unreadable(path: &str, refusal: &Refusal) -> SpoolError {
    SpoolError::Unreadable { path: path.to_owned(), reason: refusal.to_string() }
}

pub(super) fn halted(path: &str, halt: Halt<io::Error, Refusal>) -> SpoolError {
    match halt {
        Halt::Source(source) => SpoolError::Disk { doing: "read", path: path.to_owned(), source },
        Halt::Sink(refusal) => unreadable(path, &refusal),
    }
}
