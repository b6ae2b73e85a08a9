//! PURE. Reads the batches of one segment after a restart and tells a torn tail from rot.
//!
//! The writer starts batch n + 1 only after the write of batch n completed. So what was acknowledged is *proven* by
//! anything later: a batch header whose watermark covers it, the next segment's header or the own trailer (both name
//! the *end*). What is damaged and proven is rot: intact records still apply, the bytes are set aside, reading goes on.
//! What is damaged and not proven was never acknowledged: it is a torn tail, and the log ends before it.
//!
//! Decision for the place where batch n is expected, before the end if it is known:
//!
//! | row | what stands there | proven | a later batch is intact | action |
//! | --- | --- | --- | --- | --- |
//! | 1 | batch n, whole | any | any | apply it |
//! | 2 | batch n, header intact, rest damaged | yes | any | salvage its records, go on behind it |
//! | 3 | anything else | yes | yes | salvage up to the later batch, go on there |
//! | 4 | anything else | yes | no | salvage up to the end |
//! | 5 | nothing of ours | no | any | the log ends here |
//! | 6 | traces of ours, but no whole batch n | no | any | torn tail: the log ends here, the bytes are set aside |
//!
//! To *salvage* is to apply every record that is intact by its own checksums, and an Accepted whose body alone is not.
//! *Nothing of ours* is zeros, or what an earlier use of a recycled file left, under another salt. *Traces* are the salt
//! in the place of a batch header, or an intact record header within the reach of one batch.

use std::convert::Infallible;
use std::future::Future;
use std::ops::Range;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use super::batch;
use super::meta;
use super::record::{self, Record, RecordError, Salt};
use super::segment::{BATCHES_OFFSET, TRAILER_BYTES, Tail};
use crate::id::Location;
use crate::limits::{BATCH_BYTES_MAX, BLOCK_BYTES, RECORD_BYTES_MAX};

const BLOCK: u32 = BLOCK_BYTES as u32;

/// What stands where a batch is expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// The batch, checksum and all.
    Whole,
    /// Its header is intact, something behind it is not.
    HeaderOnly,
    /// Zeros, or leftovers of an earlier use of the file.
    Nothing,
    /// Traces of this use of the file, batches of another sequence included.
    Traces,
}

/// What to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Apply the batch.
    Apply,
    /// Rot: take the intact records of this batch.
    SalvageBatch,
    /// Rot: take the intact records up to the next intact batch.
    SalvageToNext,
    /// Rot: take the intact records up to the known end.
    SalvageToEnd,
    /// A clean end.
    End,
    /// An unclean end.
    Torn,
}

/// The table above.
pub fn decide(found: Found, proven: bool, later: bool) -> Action {
    match (found, proven, later) {
        (Found::Whole, _, _) => Action::Apply,
        (Found::HeaderOnly, true, _) => Action::SalvageBatch,
        (Found::Nothing | Found::Traces, true, true) => Action::SalvageToNext,
        (Found::Nothing | Found::Traces, true, false) => Action::SalvageToEnd,
        (Found::Nothing, false, _) => Action::End,
        (Found::HeaderOnly | Found::Traces, false, _) => Action::Torn,
    }
}

/// What is known of a segment before its batches are read.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    /// Its number.
    pub segment: u32,
    /// Its salt.
    pub salt: Salt,
    /// Bytes that its file was made with: the trailer's place is at their end.
    pub size: u32,
    /// Sequence of its first batch, if known.
    pub first_batch: Option<u64>,
    /// Where its batches end, if the next segment or its trailer says so.
    pub end: Option<Tail>,
}

/// Bytes that are not what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Where in the segment.
    pub range: Range<u32>,
    /// `true`: never acknowledged. `false`: rot of acknowledged bytes.
    pub torn: bool,
    /// Intact records found in it and applied.
    pub salvaged: u32,
}

/// What reading a segment's batches gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scan {
    /// Where the batches end and the sequence of the last one.
    pub tail: Tail,
    /// Highest `next message` of any batch header.
    pub next_message: u64,
    /// Highest `oldest` of any batch header.
    pub oldest: u32,
    /// What was damaged.
    pub damage: Vec<Damage>,
}

/// Takes a record that is to be applied.
pub type Sink<'a, E> = &'a mut dyn FnMut(&Record<'_>, Location) -> Result<(), E>;

/// The bytes of a segment, a few at a time: a segment is far larger than what a restart may hold in memory.
#[allow(async_fn_in_trait, reason = "one thread per role: futures never travel")]
pub trait Source {
    /// Why bytes could not be had.
    type Error;

    /// Bytes of the segment.
    fn size(&self) -> u32;
    /// All bytes of `range`, which is within the segment and at most [`BATCH_BYTES_MAX`] long.
    async fn read(&mut self, range: Range<u32>) -> Result<&[u8], Self::Error>;
}

/// Why a segment was not read to its end.
#[derive(Debug)]
pub enum Halt<R, E> {
    /// Its source failed.
    Source(R),
    /// The sink failed, or a record is intact and of a kind that must be known.
    Sink(E),
}

struct Whole<'a>(&'a [u8]);

impl Source for Whole<'_> {
    type Error = Infallible;

    fn size(&self) -> u32 {
        self.0.len() as u32
    }

    async fn read(&mut self, range: Range<u32>) -> Result<&[u8], Infallible> {
        Ok(&self.0[range.start as usize..range.end as usize])
    }
}

/// Reads all batches of the segment `bytes` in order. Fails only if `sink` does, or if a record is intact and of a
/// kind that must be known.
pub fn scan<E: From<RecordError>>(bytes: &[u8], frame: &Frame, sink: Sink<'_, E>) -> Result<Scan, E> {
    let mut source = Whole(bytes);
    let scanning = pin!(scan_source(&mut source, frame, sink));
    match scanning.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(scanned) => scanned.map_err(|halt| match halt {
            Halt::Source(never) => match never {},
            Halt::Sink(error) => error,
        }),
        Poll::Pending => unreachable!("nothing waits for bytes in memory"),
    }
}

/// As [`scan`], of a segment that comes in pieces. Without damage it reads each byte about once, in order.
pub async fn scan_source<S: Source, E: From<RecordError>>(
    source: &mut S,
    frame: &Frame,
    sink: Sink<'_, E>,
) -> Result<Scan, Halt<S::Error, E>> {
    Scanner::new(source, frame).run(sink).await
}

/// What stands at a place, as far as one batch reaches.
struct Look {
    found: Found,
    /// Its header, if it is the expected one.
    header: Option<batch::Header>,
    /// Where the bytes end that a torn batch has left; the place itself if there is nothing of ours.
    traces_end: u32,
}

fn whole_blocks<S: Source>(source: &S) -> u32 {
    source.size() / BLOCK * BLOCK
}

struct Scanner<'a, S> {
    source: &'a mut S,
    frame: &'a Frame,
    /// Where batches may stand at most.
    limit: u32,
    expected: Option<u64>,
    scan: Scan,
}

impl<'a, S: Source> Scanner<'a, S> {
    fn new(source: &'a mut S, frame: &'a Frame) -> Self {
        let whole = whole_blocks(source);
        let limit = frame.end.map_or(frame.size.saturating_sub(TRAILER_BYTES), |end| end.offset).min(whole);
        let batch = frame.first_batch.map_or(0, |first| first.saturating_sub(1));
        let tail = Tail { segment: frame.segment, offset: BATCHES_OFFSET, batch };
        let scan = Scan { tail, next_message: 0, oldest: 0, damage: Vec::new() };
        Self { source, frame, limit, expected: frame.first_batch, scan }
    }

    async fn run<E: From<RecordError>>(mut self, sink: Sink<'_, E>) -> Result<Scan, Halt<S::Error, E>> {
        let mut at = BATCHES_OFFSET;
        while at < self.limit {
            let Look { found, header, traces_end } = self.look(at).await.map_err(Halt::Source)?;
            let (later, proven) = match found {
                Found::Whole => (None, true),
                _ => self.evidence(at).await.map_err(Halt::Source)?,
            };
            let until = match decide(found, proven, later.is_some()) {
                Action::Apply => {
                    let header = header.expect("a whole batch has a header");
                    self.apply(at, &header, sink).await?;
                    self.advance(&header);
                    at + header.blocks_bytes() as u32
                }
                Action::SalvageBatch => {
                    let header = header.expect("the header is intact");
                    self.advance(&header);
                    let until = (at + header.blocks_bytes() as u32).min(self.limit);
                    self.salvage(at..until, sink).await?;
                    until
                }
                Action::SalvageToNext => {
                    let later = later.expect("a later batch was seen");
                    self.expected = Some(later.sequence);
                    self.salvage(at..later.offset, sink).await?;
                    later.offset
                }
                Action::SalvageToEnd => {
                    self.salvage(at..self.limit, sink).await?;
                    self.limit
                }
                Action::End => break,
                Action::Torn => {
                    let until = traces_end.max(at + BLOCK);
                    self.scan.damage.push(Damage { range: at..until, torn: true, salvaged: 0 });
                    break;
                }
            };
            at = until;
            self.scan.tail.offset = at;
        }
        // Segments have their full size before their first batch: a shorter file was cut off, and what was behind its end is lost.
        let (whole, due) =
            (whole_blocks(self.source), self.frame.end.map_or(self.frame.size, |end| end.offset));
        if whole < due {
            self.scan.damage.push(Damage { range: whole..due, torn: false, salvaged: 0 });
        }
        if let Some(end) = self.frame.end {
            self.scan.tail = Tail { batch: end.batch.max(self.scan.tail.batch), ..self.scan.tail };
        }
        Ok(self.scan)
    }

    /// As many bytes from `at` on as a batch can have, up to `end`.
    async fn reach(&mut self, at: u32, end: u32) -> Result<&[u8], S::Error> {
        self.source.read(at..end.min(at.saturating_add(BATCH_BYTES_MAX as u32))).await
    }

    async fn look(&mut self, at: u32) -> Result<Look, S::Error> {
        let (salt, expected, limit) = (self.frame.salt, self.expected, self.limit);
        let bytes = self.reach(at, self.source.size()).await?;
        let intact = batch::Header::decode(bytes, salt, at);
        let header = intact.filter(|h| expected.is_none_or(|expected| h.sequence == expected));
        if header.is_some_and(|header| header.is_whole(bytes, salt)) {
            return Ok(Look { found: Found::Whole, header, traces_end: at });
        }
        let window = &bytes[..bytes.len().min((limit - at) as usize)];
        let traces_end = traces_end(window, at, intact.as_ref(), salt).min(limit);
        let found = match header {
            Some(_) => Found::HeaderOnly,
            None if traces_end > at => Found::Traces,
            None => Found::Nothing,
        };
        Ok(Look { found, header, traces_end })
    }

    /// The next intact batch header behind `at`, and whether what stands at `at` was acknowledged.
    async fn evidence(&mut self, at: u32) -> Result<(Option<batch::Header>, bool), S::Error> {
        // Without a known first sequence any watermark proves that something stood here.
        let (after, expected) = (self.expected, self.expected.unwrap_or(1));
        let (salt, end) = (self.frame.salt, self.limit.next_multiple_of(BLOCK));
        let mut later = None;
        // From `at` on, though that block is known, so that the source need not move for what is near.
        let mut next = at;
        while later.is_none() && next < end {
            let bytes = self.reach(next, end).await?;
            later = (next..)
                .step_by(BLOCK_BYTES)
                .zip(bytes.chunks(BLOCK_BYTES))
                .filter(|(place, _)| *place > at)
                .filter_map(|(place, block)| batch::Header::decode(block, salt, place))
                .find(|header| header.sequence > expected || after.is_none());
            next += bytes.len() as u32;
        }
        let proven = self.frame.end.is_some() || later.as_ref().is_some_and(|h| h.durable >= expected);
        Ok((later, proven))
    }

    fn advance(&mut self, header: &batch::Header) {
        self.expected = Some(header.sequence + 1);
        self.scan.tail.batch = header.sequence;
        self.scan.next_message = self.scan.next_message.max(header.next_message);
        self.scan.oldest = self.scan.oldest.max(header.oldest);
    }

    async fn apply<E: From<RecordError>>(
        &mut self,
        at: u32,
        header: &batch::Header,
        sink: Sink<'_, E>,
    ) -> Result<(), Halt<S::Error, E>> {
        let (segment, salt) = (self.frame.segment, self.frame.salt);
        let batch = self.source.read(at..at + header.bytes).await.map_err(Halt::Source)?;
        let mut done = batch::HEADER_BYTES;
        while done < batch.len() {
            let offset = at + done as u32;
            let record = Record::decode(&batch[done..], salt, offset);
            let record = record.map_err(|error| Halt::Sink(error.into()))?;
            let bytes = record.header.bytes();
            sink(&record, Location { segment, offset, bytes: bytes as u32 }).map_err(Halt::Sink)?;
            done += record::padded(bytes);
        }
        Ok(())
    }

    async fn salvage<E: From<RecordError>>(
        &mut self,
        range: Range<u32>,
        sink: Sink<'_, E>,
    ) -> Result<(), Halt<S::Error, E>> {
        let (segment, salt, end) = (self.frame.segment, self.frame.salt, range.end);
        let mut at = range.start;
        let mut salvaged = 0;
        while at + record::HEADER_BYTES as u32 <= end {
            let bytes = self.reach(at, end).await.map_err(Halt::Source)?;
            // A record that may go on behind the piece is looked at in the next one.
            let last = at as usize + bytes.len() == end as usize;
            let least = if last { record::HEADER_BYTES } else { RECORD_BYTES_MAX };
            let mut done = 0;
            while done + least <= bytes.len() {
                let offset = at + done as u32;
                match Record::decode(&bytes[done..], salt, offset) {
                    Ok(record) => {
                        let bytes = record.header.bytes();
                        sink(&record, Location { segment, offset, bytes: bytes as u32 })
                            .map_err(Halt::Sink)?;
                        salvaged += 1;
                        done += record::padded(bytes);
                    }
                    Err(RecordError::Damaged) => match bodiless(&bytes[done..], salt, offset) {
                        Some(record) => {
                            let bytes = record.header.bytes() as u32;
                            sink(&record, Location { segment, offset, bytes }).map_err(Halt::Sink)?;
                            done += record::padded(record::HEADER_BYTES + record.meta.len());
                        }
                        None => done += record::ALIGN_BYTES,
                    },
                    Err(unknown) => return Err(Halt::Sink(unknown.into())),
                }
            }
            at += done as u32;
        }
        self.scan.damage.push(Damage { range, torn: false, salvaged });
        Ok(())
    }
}

/// An Accepted of which the body alone is damaged: it counts, so that its sender is told when it is to be read. Not a moved
/// copy, which would stand before an older one that may be whole.
fn bodiless(bytes: &[u8], salt: Salt, offset: u32) -> Option<Record<'_>> {
    let header = record::Header::claims(bytes, offset).then(|| record::Header::decode(bytes, salt))?.ok()?;
    let meta = header.meta(bytes, salt).ok().filter(|_| header.kind == Some(record::Kind::Accepted))?;
    let is_first = meta::accepted(meta).is_ok_and(|accepted| accepted.legs.is_empty());
    is_first.then_some(Record { header, meta, body: &[] })
}

/// Where the bytes end that a torn batch at `at` has left in `window`, which starts there, in whole blocks; `at` if
/// there is nothing of ours.
fn traces_end(window: &[u8], at: u32, header: Option<&batch::Header>, salt: Salt) -> u32 {
    let salted = batch::Header::bears_salt(window, salt);
    let header = header.map_or(0, batch::Header::blocks_bytes);
    let mut end = header.max(if salted { BLOCK_BYTES } else { 0 });
    record::Header::claimed(window, at, |offset| {
        if let Ok(header) = record::Header::decode(&window[offset..], salt) {
            end = end.max(offset + header.bytes());
        }
    });
    (at as usize + end).next_multiple_of(BLOCK_BYTES) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_combination_matches_exactly_one_row() {
        type Row = (&'static [Found], &'static [bool], &'static [bool], Action);
        use Found::{HeaderOnly, Nothing, Traces, Whole};
        const BOTH: &[bool] = &[true, false];
        let table: [Row; 6] = [
            (&[Whole], BOTH, BOTH, Action::Apply),
            (&[HeaderOnly], &[true], BOTH, Action::SalvageBatch),
            (&[Nothing, Traces], &[true], &[true], Action::SalvageToNext),
            (&[Nothing, Traces], &[true], &[false], Action::SalvageToEnd),
            (&[Nothing], &[false], BOTH, Action::End),
            (&[HeaderOnly, Traces], &[false], BOTH, Action::Torn),
        ];
        for found in [Whole, HeaderOnly, Nothing, Traces] {
            for (proven, later) in [(true, true), (true, false), (false, true), (false, false)] {
                let rows: Vec<_> = table
                    .iter()
                    .filter(|(f, p, l, _)| f.contains(&found) && p.contains(&proven) && l.contains(&later))
                    .collect();
                assert_eq!(rows.len(), 1, "{found:?} {proven} {later}");
                assert_eq!(decide(found, proven, later), rows[0].3);
            }
        }
    }
}
