//! PURE. The fields that the spool adds to metas: tag u8, length u16, value, like `envelope`; numbers little-endian.
//!
//! | tag | field | value |
//! | --- | --- | --- |
//! | 0xA0 | chunks | locations, 12 bytes each (segment, offset, bytes); the body is these, then the record's own. May repeat |
//! | 0xA1 | leg state | leg u16, attempts u16, due u64, open u64, owed u64. Its presence marks a moved copy |
//! | 0xA2 | result | recipients u64, verdict u8, code u16, enhanced u8 u16 u16, text. Of the leg state or attempt before it |
//! | 0xA3 | attempt | leg u16, attempts u16, at u64, due u64. First field of an Outcome |
//! | 0xA4 | settled | leg u16, bits u64. Of a Bounced |
//! | 0xA5 | notification | message id u64. Of a Bounced |
//! | 0x26 | success | u8: 1 = relayed, 2 = placed. Of the result before it, whose verdict is *delivered* |
//! | 0x27 | reports | of each leg state before it: u8 (1 = delay told), relayed, placed; both in 7 bits a byte, the lowest first, bit 7 = more follow |
//! | 0x28 | delayed | leg u16. Of a Bounced; may repeat |
//!
//! In an Accepted these stand behind the envelope. An unknown critical tag refuses the log. Those that are not critical came
//! later: a reader that skips them has every message where it is, and only forgets reports of success, or repeats one of delay.

use crate::clock::WallTime;
use crate::envelope::{Envelope, EnvelopeError, FIELD_HEADER_BYTES, Fields, push_field, tag::CRITICAL};
use crate::id::{Location, MessageId};
use crate::limits::RECORD_META_BYTES_MAX;
use crate::outcome::{Bounced, Enhanced, LegResult, LegState, Outcome, Reply, Verdict};

mod tag {
    pub const CHUNKS: u8 = 0xA0;
    pub const LEG_STATE: u8 = 0xA1;
    pub const RESULT: u8 = 0xA2;
    pub const ATTEMPT: u8 = 0xA3;
    pub const SETTLED: u8 = 0xA4;
    pub const NOTIFICATION: u8 = 0xA5;
    pub const SUCCESS: u8 = 0x26;
    pub const REPORTS: u8 = 0x27;
    pub const DELAYED: u8 = 0x28;
}

/// Verdicts in a result.
const DELIVERED: u8 = 1;
const DEFERRED: u8 = 2;
const FAILED: u8 = 3;
/// What kind of *delivered*, in a field *success*.
const RELAYED: u8 = 1;
const PLACED: u8 = 2;

/// Bytes of a location in a chunk list.
const LOCATION_BYTES: usize = 12;
/// Chunks per field: the value must stay below 64 KiB.
const CHUNKS_PER_FIELD: usize = 5000;
/// Most chunks that one message may list: they leave room for the leg states of a moved copy.
pub const CHUNKS_MAX: usize = 2600;

/// Why a meta whose checksum holds cannot be used: written by a newer version, or by a bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MetaError {
    /// A field that must be understood is not known.
    #[error("field 0x{0:02x} is critical and unknown: written by a newer version")]
    UnknownCritical(u8),
    /// A value has the wrong length or an impossible value.
    #[error("field 0x{0:02x} has a value this version cannot read")]
    Malformed(u8),
    /// The envelope's own rules.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
}

/// Appends the chunk list.
pub fn push_chunks(meta: &mut Vec<u8>, chunks: &[Location]) {
    for part in chunks.chunks(CHUNKS_PER_FIELD) {
        meta.push(tag::CHUNKS);
        meta.extend_from_slice(&((part.len() * LOCATION_BYTES) as u16).to_le_bytes());
        for chunk in part {
            for word in [chunk.segment, chunk.offset, chunk.bytes] {
                meta.extend_from_slice(&word.to_le_bytes());
            }
        }
    }
}

/// Appends the states of legs. Replies are left out once the meta, of which `taken` bytes stand elsewhere, has no
/// room for them beside the states that follow: what is lost is only the wording of a later bounce.
pub fn push_leg_states(meta: &mut Vec<u8>, taken: usize, legs: &[LegState]) {
    let reports = reports(legs);
    let mut ahead = legs.len() * (FIELD_HEADER_BYTES + 28) + FIELD_HEADER_BYTES + reports.len();
    for leg in legs {
        meta.push(tag::LEG_STATE);
        meta.extend_from_slice(&28u16.to_le_bytes());
        meta.extend_from_slice(&leg.leg.to_le_bytes());
        meta.extend_from_slice(&leg.attempts.to_le_bytes());
        for word in [leg.due.0, leg.open, leg.owed] {
            meta.extend_from_slice(&word.to_le_bytes());
        }
        ahead -= FIELD_HEADER_BYTES + 28;
        for result in &leg.replies {
            let bytes = 2 * FIELD_HEADER_BYTES + 17 + result.reply.text.len();
            if taken + meta.len() + ahead + bytes <= RECORD_META_BYTES_MAX {
                push_result(meta, result);
            }
        }
    }
    if !reports.is_empty() {
        push_field(meta, tag::REPORTS, &reports);
    }
}

/// The reports of success that are owed and those of delay that are done, leg by leg; empty if there are none. At most
/// 3 bytes for each recipient.
fn reports(legs: &[LegState]) -> Vec<u8> {
    let mut reports = Vec::new();
    if legs.iter().any(|leg| leg.delay_told || leg.relayed | leg.placed != 0) {
        for leg in legs {
            reports.push(u8::from(leg.delay_told));
            push_number(&mut reports, leg.relayed);
            push_number(&mut reports, leg.placed);
        }
    }
    reports
}

/// LEB128.
fn push_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn push_result(meta: &mut Vec<u8>, result: &LegResult) {
    meta.push(tag::RESULT);
    meta.extend_from_slice(&((16 + result.reply.text.len()) as u16).to_le_bytes());
    meta.extend_from_slice(&result.recipients.to_le_bytes());
    let (verdict, success) = match result.verdict {
        Verdict::Delivered => (DELIVERED, None),
        Verdict::Relayed => (DELIVERED, Some(RELAYED)),
        Verdict::Placed => (DELIVERED, Some(PLACED)),
        Verdict::Deferred => (DEFERRED, None),
        Verdict::Failed => (FAILED, None),
    };
    meta.push(verdict);
    let Enhanced(class, subject, detail) = result.reply.enhanced;
    meta.extend_from_slice(&result.reply.code.to_le_bytes());
    meta.push(class);
    meta.extend_from_slice(&subject.to_le_bytes());
    meta.extend_from_slice(&detail.to_le_bytes());
    meta.extend_from_slice(result.reply.text.as_bytes());
    if let Some(success) = success {
        push_field(meta, tag::SUCCESS, &[success]);
    }
}

/// Appends the meta of an Outcome record.
pub fn push_outcome(meta: &mut Vec<u8>, outcome: &Outcome) {
    meta.push(tag::ATTEMPT);
    meta.extend_from_slice(&20u16.to_le_bytes());
    meta.extend_from_slice(&outcome.leg.to_le_bytes());
    meta.extend_from_slice(&outcome.attempts.to_le_bytes());
    meta.extend_from_slice(&outcome.at.0.to_le_bytes());
    meta.extend_from_slice(&outcome.due.0.to_le_bytes());
    for result in &outcome.results {
        push_result(meta, result);
    }
}

/// Appends the meta of a Bounced record.
pub fn push_bounced(meta: &mut Vec<u8>, bounced: &Bounced) {
    for (leg, bits) in &bounced.legs {
        meta.push(tag::SETTLED);
        meta.extend_from_slice(&10u16.to_le_bytes());
        meta.extend_from_slice(&leg.to_le_bytes());
        meta.extend_from_slice(&bits.to_le_bytes());
    }
    for leg in &bounced.delayed {
        push_field(meta, tag::DELAYED, &leg.to_le_bytes());
    }
    if let Some(id) = bounced.notification {
        push_field(meta, tag::NOTIFICATION, &id.as_u64().to_le_bytes());
    }
}

/// What the meta of an Accepted record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcceptedMeta {
    /// The envelope, without the spool's fields.
    pub envelope: Envelope,
    /// Chunks of a long body, in order.
    pub chunks: Vec<Location>,
    /// State of each leg that is not settled, if this is a moved copy; empty in the first.
    pub legs: Vec<LegState>,
}

/// Length of the envelope at the start of an Accepted's meta.
pub fn envelope_bytes(meta: &[u8]) -> usize {
    let mut bytes = 0;
    for (tag, value) in Fields::new(meta).map_while(Result::ok) {
        if tag & !CRITICAL >= 0x20 {
            return bytes;
        }
        bytes += FIELD_HEADER_BYTES + value.len();
    }
    meta.len()
}

/// Reads the meta of an Accepted record.
pub fn accepted(meta: &[u8]) -> Result<AcceptedMeta, MetaError> {
    let (envelope, own) = meta.split_at(envelope_bytes(meta));
    let envelope = Envelope::from_bytes(envelope.to_vec())?;
    let (mut chunks, mut legs) = (Vec::new(), Vec::<LegState>::new());
    for field in Fields::new(own) {
        let (tag, value) = field?;
        let mut value = Value { tag, bytes: value };
        match tag {
            tag::CHUNKS => {
                while !value.bytes.is_empty() {
                    let (segment, offset, bytes) = (value.u32()?, value.u32()?, value.u32()?);
                    chunks.push(Location { segment, offset, bytes });
                }
            }
            tag::LEG_STATE => legs.push(LegState {
                leg: value.u16()?,
                attempts: value.u16()?,
                due: WallTime(value.u64()?),
                open: value.u64()?,
                owed: value.u64()?,
                ..LegState::default()
            }),
            tag::RESULT => {
                legs.last_mut().ok_or(MetaError::Malformed(tag))?.replies.push(value.result()?);
            }
            tag::SUCCESS => {
                let leg = legs.last_mut().ok_or(MetaError::Malformed(tag))?;
                value.success(&mut leg.replies)?;
            }
            tag::REPORTS => {
                for leg in &mut legs {
                    leg.delay_told = value.take::<1>()?[0] & 1 != 0;
                    (leg.relayed, leg.placed) = (value.number()?, value.number()?);
                }
            }
            _ => unknown(tag)?,
        }
    }
    Ok(AcceptedMeta { envelope, chunks, legs })
}

/// Reads the meta of an Outcome record of message `id`.
pub fn outcome(id: MessageId, meta: &[u8]) -> Result<Outcome, MetaError> {
    let mut outcome = None;
    for field in Fields::new(meta) {
        let (tag, value) = field?;
        let mut value = Value { tag, bytes: value };
        match (tag, &mut outcome) {
            (tag::ATTEMPT, None) => {
                outcome = Some(Outcome {
                    id,
                    leg: value.u16()?,
                    attempts: value.u16()?,
                    at: WallTime(value.u64()?),
                    due: WallTime(value.u64()?),
                    results: Vec::new(),
                });
            }
            (tag::RESULT, Some(outcome)) => outcome.results.push(value.result()?),
            (tag::SUCCESS, Some(outcome)) => value.success(&mut outcome.results)?,
            _ => unknown(tag)?,
        }
    }
    outcome.ok_or(MetaError::Malformed(tag::ATTEMPT))
}

/// Reads the meta of a Bounced record of message `id`.
pub fn bounced(id: MessageId, meta: &[u8]) -> Result<Bounced, MetaError> {
    let mut bounced = Bounced { id, legs: Vec::new(), delayed: Vec::new(), notification: None };
    for field in Fields::new(meta) {
        let (tag, value) = field?;
        let mut value = Value { tag, bytes: value };
        match tag {
            tag::SETTLED => bounced.legs.push((value.u16()?, value.u64()?)),
            tag::DELAYED => bounced.delayed.push(value.u16()?),
            tag::NOTIFICATION => bounced.notification = Some(MessageId::from_u64(value.u64()?)),
            _ => unknown(tag)?,
        }
    }
    Ok(bounced)
}

fn unknown(tag: u8) -> Result<(), MetaError> {
    if tag & CRITICAL == 0 { Ok(()) } else { Err(MetaError::UnknownCritical(tag)) }
}

/// Takes numbers off the front of a field's value.
struct Value<'a> {
    tag: u8,
    bytes: &'a [u8],
}

impl Value<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], MetaError> {
        let (taken, rest) = self.bytes.split_first_chunk::<N>().ok_or(MetaError::Malformed(self.tag))?;
        self.bytes = rest;
        Ok(*taken)
    }

    fn u16(&mut self) -> Result<u16, MetaError> {
        self.take().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, MetaError> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, MetaError> {
        self.take().map(u64::from_le_bytes)
    }

    fn result(&mut self) -> Result<LegResult, MetaError> {
        let recipients = self.u64()?;
        let verdict = match self.take::<1>()?[0] {
            DELIVERED => Verdict::Delivered,
            DEFERRED => Verdict::Deferred,
            FAILED => Verdict::Failed,
            _ => return Err(MetaError::Malformed(self.tag)),
        };
        let code = self.u16()?;
        let enhanced = Enhanced(self.take::<1>()?[0], self.u16()?, self.u16()?);
        let text = std::str::from_utf8(self.bytes).map_err(|_| MetaError::Malformed(self.tag))?;
        Ok(LegResult { recipients, verdict, reply: Reply::new(code, enhanced, text) })
    }

    /// Says which kind of success the last of `results` is.
    fn success(&mut self, results: &mut [LegResult]) -> Result<(), MetaError> {
        let malformed = MetaError::Malformed(self.tag);
        let last = results.last_mut().filter(|last| last.verdict == Verdict::Delivered).ok_or(malformed)?;
        last.verdict = match self.take::<1>()?[0] {
            RELAYED => Verdict::Relayed,
            PLACED => Verdict::Placed,
            _ => return Err(malformed),
        };
        Ok(())
    }

    /// As [`push_number`] writes it.
    fn number(&mut self) -> Result<u64, MetaError> {
        let mut number = 0;
        for shift in (0..u64::BITS).step_by(7) {
            let byte = self.take::<1>()?[0];
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(MetaError::Malformed(self.tag))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envelope::{EnvelopeBuilder, Notify, Parameters};
    use crate::id::PartId;

    fn result(recipients: u64, verdict: Verdict) -> LegResult {
        LegResult { recipients, verdict, reply: Reply::new(450, Enhanced(4, 2, 1), "mailbox busy, é") }
    }

    fn envelope() -> Envelope {
        let mut builder = EnvelopeBuilder::default();
        builder.begin("s@example.com", Parameters::default(), "id");
        builder.push_recipient("a@one.test", Notify::DEFAULT, "").unwrap();
        builder.encode(WallTime(1), WallTime(2))
    }

    #[test]
    fn outcome_and_bounced_read_back() {
        let id = MessageId::new(PartId(1), 5);
        let results =
            [Verdict::Delivered, Verdict::Deferred, Verdict::Failed, Verdict::Relayed, Verdict::Placed];
        let results = results.into_iter().enumerate().map(|(at, verdict)| result(1 << at, verdict)).collect();
        let written = Outcome { id, leg: 3, attempts: 2, at: WallTime(9), due: WallTime(10), results };
        let mut meta = Vec::new();
        push_outcome(&mut meta, &written);
        assert_eq!(outcome(id, &meta), Ok(written));
        for end in 0..meta.len() {
            let _ = outcome(id, &meta[..end]);
        }
        for notification in [None, Some(MessageId::from_u64(0))] {
            let written =
                Bounced { id, legs: vec![(0, 1), (64, u64::MAX)], delayed: vec![7, 300], notification };
            let mut meta = Vec::new();
            push_bounced(&mut meta, &written);
            assert_eq!(bounced(id, &meta), Ok(written));
        }
    }

    #[test]
    fn a_moved_copy_carries_chunks_and_leg_states_behind_its_envelope() {
        let chunks: Vec<_> =
            (0..CHUNKS_MAX as u32).map(|i| Location { segment: i, offset: 8 * i, bytes: 40 }).collect();
        let replies = vec![result(7, Verdict::Deferred), result(8, Verdict::Relayed)];
        let state =
            LegState { attempts: 3, due: WallTime(77), open: 5, owed: 2, replies, ..LegState::default() };
        let told = LegState { relayed: 8, placed: 1 << 63, ..state.clone() };
        let legs = vec![state.clone(), told, LegState { relayed: u64::MAX, delay_told: true, ..state }];
        let mut meta = envelope().as_bytes().to_vec();
        push_chunks(&mut meta, &chunks);
        push_leg_states(&mut meta, 0, &legs);
        let read = accepted(&meta).unwrap();
        assert_eq!((read.envelope, read.chunks, read.legs), (envelope(), chunks, legs));
    }

    #[test]
    fn the_largest_moved_copy_fits_a_record_with_all_its_states() {
        let mut meta = Vec::new();
        push_chunks(&mut meta, &vec![Location::default(); CHUNKS_MAX]);
        let replies = vec![LegResult {
            reply: Reply::new(1, Enhanced(4, 0, 0), &"x".repeat(256)),
            ..result(1, Verdict::Relayed)
        }];
        let leg = LegState { relayed: 1, delay_told: true, replies, ..LegState::default() };
        push_leg_states(
            &mut meta,
            crate::envelope::ENVELOPE_BYTES_MAX,
            &vec![leg; crate::limits::RECIPIENTS_MAX],
        );
        assert!(crate::envelope::ENVELOPE_BYTES_MAX + meta.len() <= RECORD_META_BYTES_MAX, "{}", meta.len());
        let read = accepted(&[envelope().as_bytes(), &meta].concat()).unwrap();
        assert_eq!(read.legs.len(), crate::limits::RECIPIENTS_MAX);
        assert!(read.legs.iter().all(|leg| leg.relayed == 1), "no report may be forgotten for want of room");
    }

    #[test]
    fn unknown_critical_field_refuses_and_unknown_other_field_is_skipped() {
        let id = MessageId::new(PartId(1), 5);
        let mut meta = envelope().as_bytes().to_vec();
        push_field(&mut meta, 0x2F, b"later");
        assert!(accepted(&meta).is_ok());
        push_field(&mut meta, 0xAF, b"later");
        assert_eq!(accepted(&meta), Err(MetaError::UnknownCritical(0xAF)));
        assert_eq!(bounced(id, &[0xAF, 0, 0]), Err(MetaError::UnknownCritical(0xAF)));
    }
}
