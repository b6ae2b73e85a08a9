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
//! *Nothing of ours* is zeros, or what an earlier use of a recycled file left, under another salt. *Traces* are the salt
//! in the place of a batch header, or an intact record header within the reach of one batch.

use std::ops::Range;

use super::batch;
use super::record::{self, Record, RecordError, Salt};
use super::segment::{BATCHES_OFFSET, TRAILER_BYTES, Tail};
use crate::id::Location;
use crate::limits::{BATCH_BYTES_MAX, BLOCK_BYTES};

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

/// Reads all batches of the segment `bytes` in order. Fails only if `sink` does, or if a record is intact and of a
/// kind that must be known.
pub fn scan<E: From<RecordError>>(bytes: &[u8], frame: &Frame, sink: Sink<'_, E>) -> Result<Scan, E> {
    Scanner::new(bytes, frame).run(sink)
}

struct Scanner<'a> {
    bytes: &'a [u8],
    frame: &'a Frame,
    /// Where batches may stand at most.
    limit: u32,
    expected: Option<u64>,
    scan: Scan,
}

impl<'a> Scanner<'a> {
    fn new(bytes: &'a [u8], frame: &'a Frame) -> Self {
        let whole = (bytes.len() / BLOCK_BYTES * BLOCK_BYTES) as u32;
        let limit = frame.end.map_or(whole.saturating_sub(TRAILER_BYTES), |end| end.offset.min(whole));
        let batch = frame.first_batch.map_or(0, |first| first.saturating_sub(1));
        let tail = Tail { segment: frame.segment, offset: BATCHES_OFFSET, batch };
        let scan = Scan { tail, next_message: 0, oldest: 0, damage: Vec::new() };
        Self { bytes, frame, limit, expected: frame.first_batch, scan }
    }

    fn run<E: From<RecordError>>(mut self, sink: Sink<'_, E>) -> Result<Scan, E> {
        let mut at = BATCHES_OFFSET;
        while at < self.limit {
            let (found, header) = self.look(at);
            let (later, proven) = if found == Found::Whole { (None, true) } else { self.evidence(at) };
            let until = match decide(found, proven, later.is_some()) {
                Action::Apply => {
                    let header = header.expect("a whole batch has a header");
                    self.apply(at, &header, sink)?;
                    self.advance(&header);
                    at + header.blocks_bytes() as u32
                }
                Action::SalvageBatch => {
                    let header = header.expect("the header is intact");
                    self.advance(&header);
                    let until = (at + header.blocks_bytes() as u32).min(self.limit);
                    self.salvage(at..until, sink)?;
                    until
                }
                Action::SalvageToNext => {
                    let later = later.expect("a later batch was seen");
                    self.expected = Some(later.sequence);
                    self.salvage(at..later.offset, sink)?;
                    later.offset
                }
                Action::SalvageToEnd => {
                    self.salvage(at..self.limit, sink)?;
                    self.limit
                }
                Action::End => break,
                Action::Torn => {
                    let until = self.traces_end(at).max(at + BLOCK_BYTES as u32);
                    self.scan.damage.push(Damage { range: at..until, torn: true, salvaged: 0 });
                    break;
                }
            };
            at = until;
            self.scan.tail.offset = at;
        }
        if let Some(end) = self.frame.end {
            self.scan.tail = Tail { batch: end.batch.max(self.scan.tail.batch), ..self.scan.tail };
        }
        Ok(self.scan)
    }

    fn header_at(&self, at: u32) -> Option<batch::Header> {
        batch::Header::decode(&self.bytes[at as usize..], self.frame.salt, at)
    }

    fn look(&self, at: u32) -> (Found, Option<batch::Header>) {
        let header =
            self.header_at(at).filter(|h| self.expected.is_none_or(|expected| h.sequence == expected));
        match header {
            Some(header) if header.is_whole(&self.bytes[at as usize..], self.frame.salt) => {
                (Found::Whole, Some(header))
            }
            Some(header) => (Found::HeaderOnly, Some(header)),
            None if self.traces_end(at) > at => (Found::Traces, None),
            None => (Found::Nothing, None),
        }
    }

    /// The next intact batch header behind `at`, and whether what stands at `at` was acknowledged.
    fn evidence(&self, at: u32) -> (Option<batch::Header>, bool) {
        // Without a known first sequence any watermark proves that something stood here.
        let expected = self.expected.unwrap_or(1);
        let later = (at + BLOCK_BYTES as u32..self.limit)
            .step_by(BLOCK_BYTES)
            .filter_map(|at| self.header_at(at))
            .find(|header| header.sequence > expected || self.expected.is_none());
        let proven = self.frame.end.is_some() || later.as_ref().is_some_and(|h| h.durable >= expected);
        (later, proven)
    }

    /// Where the bytes end that a torn batch at `at` has left; `at` if there is nothing of ours.
    fn traces_end(&self, at: u32) -> u32 {
        let start = at as usize;
        let window =
            &self.bytes[start..self.bytes.len().min(start + BATCH_BYTES_MAX).min(self.limit as usize)];
        let salted = batch::Header::bears_salt(window, self.frame.salt);
        let header = self.header_at(at).map_or(0, |header| header.blocks_bytes());
        let mut end = header.max(if salted { BLOCK_BYTES } else { 0 });
        for offset in (0..window.len()).step_by(record::ALIGN_BYTES) {
            if record::Header::claims(&window[offset..], (start + offset) as u32)
                && let Ok(header) = record::Header::decode(&window[offset..], self.frame.salt)
            {
                end = end.max(offset + header.bytes());
            }
        }
        (start + end).next_multiple_of(BLOCK_BYTES).min(self.limit as usize) as u32
    }

    fn advance(&mut self, header: &batch::Header) {
        self.expected = Some(header.sequence + 1);
        self.scan.tail.batch = header.sequence;
        self.scan.next_message = self.scan.next_message.max(header.next_message);
        self.scan.oldest = self.scan.oldest.max(header.oldest);
    }

    fn apply<E: From<RecordError>>(
        &mut self,
        at: u32,
        header: &batch::Header,
        sink: Sink<'_, E>,
    ) -> Result<(), E> {
        let end = at as usize + header.bytes as usize;
        let mut offset = at as usize + batch::HEADER_BYTES;
        while offset < end {
            let record = Record::decode(&self.bytes[offset..end], self.frame.salt, offset as u32)?;
            let bytes = record.header.bytes();
            sink(
                &record,
                Location { segment: self.frame.segment, offset: offset as u32, bytes: bytes as u32 },
            )?;
            offset += record::padded(bytes);
        }
        Ok(())
    }

    fn salvage<E: From<RecordError>>(&mut self, range: Range<u32>, sink: Sink<'_, E>) -> Result<(), E> {
        let (mut at, end) = (range.start as usize, range.end as usize);
        let mut salvaged = 0;
        while at + record::HEADER_BYTES <= end {
            match Record::decode(&self.bytes[at..end], self.frame.salt, at as u32) {
                Ok(record) => {
                    let bytes = record.header.bytes();
                    sink(
                        &record,
                        Location { segment: self.frame.segment, offset: at as u32, bytes: bytes as u32 },
                    )?;
                    salvaged += 1;
                    at += record::padded(bytes);
                }
                Err(RecordError::Damaged) => at += record::ALIGN_BYTES,
                Err(unknown) => return Err(unknown.into()),
            }
        }
        self.scan.damage.push(Damage { range, torn: false, salvaged });
        Ok(())
    }
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
