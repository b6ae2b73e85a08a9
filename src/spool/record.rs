//! PURE. One record of the log: how it lies on disk, written into a batch buffer without intermediate copies and read
//! back as a view. Numbers are little-endian.
//!
//! | offset | size | field | meaning, range |
//! | --- | --- | --- | --- |
//! | 0 | 4 | header checksum | CRC32C of bytes 4..40, salted |
//! | 4 | 1 | kind | below; bit 7 = *critical*: who does not know it must refuse the log |
//! | 5 | 3 | reserved | zero |
//! | 8 | 8 | message id | part and sequence |
//! | 16 | 4 | offset | of this header in its segment: a record copied elsewhere is not a record; multiple of 8 |
//! | 20 | 4 | meta bytes | 0 to [`RECORD_META_BYTES_MAX`] |
//! | 24 | 4 | body bytes | 0 to [`BODY_INLINE_BYTES_MAX`] |
//! | 28 | 4 | meta checksum | CRC32C, salted |
//! | 32 | 4 | body checksum | CRC32C, salted |
//! | 36 | 4 | reserved | zero |
//! | 40 | … | meta, then body, then zeros to a multiple of 8 | |
//!
//! | kind | name | meta | body |
//! | --- | --- | --- | --- |
//! | 0x81 | Accepted | envelope, then fields of `spool::meta` (chunk list, leg states of a moved copy) | the message, or what follows its chunks |
//! | 0x82 | Chunk | empty | a piece of a long body; dead unless an Accepted lists it |
//! | 0x83 | Outcome | `spool::meta` | empty |
//! | 0x84 | Bounced | `spool::meta` | empty |
//! | 0x85 | Aborted | empty | empty: the Accepted before it was never acknowledged and must not be delivered |
//!
//! There is no watermark record: each batch header holds one, and an idle log writes a batch without records.
//! The salt is the segment's: mail may hold bytes that look like records, and recycled segments hold real, old ones.

use crate::id::MessageId;
use crate::limits::{BODY_INLINE_BYTES_MAX, RECORD_BYTES_MAX, RECORD_META_BYTES_MAX};

/// Bytes of a record before its meta.
pub const HEADER_BYTES: usize = 40;
/// Records start at multiples of this, bytes.
pub const ALIGN_BYTES: usize = 8;
/// In a kind: refuse the log if it is unknown.
const KIND_CRITICAL: u8 = 0x80;

const _: () = assert!(HEADER_BYTES.is_multiple_of(ALIGN_BYTES));
const _: () =
    assert!(HEADER_BYTES + RECORD_META_BYTES_MAX + BODY_INLINE_BYTES_MAX + ALIGN_BYTES <= RECORD_BYTES_MAX);

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// A message is ours from here on.
    Accepted = 0x81,
    /// A piece of a long body.
    Chunk = 0x82,
    /// What became of an attempt.
    Outcome = 0x83,
    /// Owed bounces are settled.
    Bounced = 0x84,
    /// An Accepted that was never acknowledged.
    Aborted = 0x85,
}

impl Kind {
    fn from_u8(raw: u8) -> Option<Self> {
        [Self::Accepted, Self::Chunk, Self::Outcome, Self::Bounced, Self::Aborted]
            .into_iter()
            .find(|kind| *kind as u8 == raw)
    }
}

/// A segment's random number, mixed into every checksum of the segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Salt {
    raw: u64,
    seed: u32,
}

impl Salt {
    /// The salt `raw`.
    pub fn new(raw: u64) -> Self {
        Self { raw, seed: crc32c::crc32c(&raw.to_le_bytes()) }
    }

    /// The form kept on disk.
    pub fn as_u64(self) -> u64 {
        self.raw
    }

    /// Salted CRC32C of `bytes`.
    pub fn checksum(self, bytes: &[u8]) -> u32 {
        crc32c::crc32c_append(self.seed, bytes)
    }
}

/// A record to be written. The meta comes in two slices, so that an envelope needs no copy to get fields behind it.
#[derive(Clone, Copy, Debug)]
pub struct Draft<'a> {
    /// What it says.
    pub kind: Kind,
    /// The message it is about.
    pub id: MessageId,
    /// Meta, first and second half.
    pub meta: [&'a [u8]; 2],
    /// Body.
    pub body: &'a [u8],
}

impl Draft<'_> {
    /// Bytes of the meta.
    pub fn meta_bytes(&self) -> usize {
        self.meta[0].len() + self.meta[1].len()
    }

    /// Bytes of the record: header, meta, body.
    pub fn bytes(&self) -> usize {
        HEADER_BYTES + self.meta_bytes() + self.body.len()
    }

    /// Whether it keeps the limits of the table.
    pub fn fits(&self) -> bool {
        self.meta_bytes() <= RECORD_META_BYTES_MAX && self.body.len() <= BODY_INLINE_BYTES_MAX
    }

    /// Writes the record, which must [`fit`](Self::fits), to the start of `out`, padding included; it will lie at `offset` of its segment.
    pub fn encode(&self, salt: Salt, offset: u32, out: &mut [u8]) {
        assert!(self.fits(), "a record of {} bytes exceeds the limits", self.bytes());
        let (header, rest) = out[..padded(self.bytes())].split_at_mut(HEADER_BYTES);
        let (meta, rest) = rest.split_at_mut(self.meta_bytes());
        meta[..self.meta[0].len()].copy_from_slice(self.meta[0]);
        meta[self.meta[0].len()..].copy_from_slice(self.meta[1]);
        let (body, padding) = rest.split_at_mut(self.body.len());
        body.copy_from_slice(self.body);
        padding.fill(0);
        header.fill(0);
        header[4] = self.kind as u8;
        header[8..16].copy_from_slice(&self.id.as_u64().to_le_bytes());
        header[16..20].copy_from_slice(&offset.to_le_bytes());
        header[20..24].copy_from_slice(&(meta.len() as u32).to_le_bytes());
        header[24..28].copy_from_slice(&(body.len() as u32).to_le_bytes());
        header[28..32].copy_from_slice(&salt.checksum(meta).to_le_bytes());
        header[32..36].copy_from_slice(&salt.checksum(body).to_le_bytes());
        let sum = salt.checksum(&header[4..]);
        header[..4].copy_from_slice(&sum.to_le_bytes());
    }
}

/// `bytes` rounded up to where the next record starts.
pub fn padded(bytes: usize) -> usize {
    bytes.next_multiple_of(ALIGN_BYTES)
}

/// Why bytes are not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// A checksum does not match, a length is out of range, or the record belongs elsewhere.
    #[error("record is damaged")]
    Damaged,
    /// The header is intact and its kind must be understood, but is not.
    #[error("record kind 0x{0:02x} is critical and unknown: written by a newer version")]
    UnknownCritical(u8),
}

/// A checked header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What it says; `None` is a kind of a newer version that may be skipped.
    pub kind: Option<Kind>,
    /// The message it is about.
    pub id: MessageId,
    /// Where it lies in its segment, bytes.
    pub offset: u32,
    /// Bytes of the meta.
    pub meta_bytes: u32,
    /// Bytes of the body.
    pub body_bytes: u32,
    meta_checksum: u32,
    body_checksum: u32,
}

impl Header {
    /// Reads the header at the start of `bytes`.
    pub fn decode(bytes: &[u8], salt: Salt) -> Result<Self, RecordError> {
        let header = bytes.first_chunk::<HEADER_BYTES>().ok_or(RecordError::Damaged)?;
        let word =
            |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        if word(0) != salt.checksum(&header[4..]) {
            return Err(RecordError::Damaged);
        }
        let decoded = Self {
            kind: Kind::from_u8(header[4]),
            id: MessageId::from_u64(u64::from(word(8)) | (u64::from(word(12)) << 32)),
            offset: word(16),
            meta_bytes: word(20),
            body_bytes: word(24),
            meta_checksum: word(28),
            body_checksum: word(32),
        };
        if decoded.kind.is_none() && header[4] & KIND_CRITICAL != 0 {
            return Err(RecordError::UnknownCritical(header[4]));
        }
        let in_range = decoded.meta_bytes as usize <= RECORD_META_BYTES_MAX
            && decoded.body_bytes as usize <= BODY_INLINE_BYTES_MAX;
        if in_range { Ok(decoded) } else { Err(RecordError::Damaged) }
    }

    /// Whether `bytes` have `offset` where a header has its own: cheap, and nearly always false for anything else.
    pub fn claims(bytes: &[u8], offset: u32) -> bool {
        bytes.get(16..20).is_some_and(|field| field == offset.to_le_bytes())
    }

    /// Hands `each` all places in `bytes`, which start at `offset`, that [claim](Self::claims) to be headers.
    pub fn claimed(bytes: &[u8], offset: u32, mut each: impl FnMut(usize)) {
        // By whole words of a record's alignment, for all of a segment may have to be looked at.
        const FIELD: usize = 16 / ALIGN_BYTES;
        let (words, _) = bytes.as_chunks::<ALIGN_BYTES>();
        let mut claim = offset;
        for word in words.get(FIELD..).unwrap_or_default() {
            if u64::from_le_bytes(*word) as u32 == claim {
                each((claim - offset) as usize);
            }
            claim = claim.wrapping_add(ALIGN_BYTES as u32);
        }
    }

    /// Bytes of the record: header, meta, body.
    pub fn bytes(&self) -> usize {
        HEADER_BYTES + self.meta_bytes as usize + self.body_bytes as usize
    }

    /// The meta, out of bytes that start with the header.
    pub fn meta<'a>(&self, record: &'a [u8], salt: Salt) -> Result<&'a [u8], RecordError> {
        let meta = record.get(HEADER_BYTES..HEADER_BYTES + self.meta_bytes as usize);
        meta.filter(|meta| salt.checksum(meta) == self.meta_checksum).ok_or(RecordError::Damaged)
    }

    /// The body, out of bytes that start with the header.
    pub fn body<'a>(&self, record: &'a [u8], salt: Salt) -> Result<&'a [u8], RecordError> {
        let body = record.get(HEADER_BYTES + self.meta_bytes as usize..self.bytes());
        body.filter(|body| salt.checksum(body) == self.body_checksum).ok_or(RecordError::Damaged)
    }
}

/// A whole, checked record.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// The header.
    pub header: Header,
    /// The meta.
    pub meta: &'a [u8],
    /// The body.
    pub body: &'a [u8],
}

impl<'a> Record<'a> {
    /// Reads the record at the start of `bytes`, which must lie at `offset` of its segment.
    pub fn decode(bytes: &'a [u8], salt: Salt, offset: u32) -> Result<Self, RecordError> {
        if !Header::claims(bytes, offset) {
            return Err(RecordError::Damaged);
        }
        let header = Header::decode(bytes, salt)?;
        Ok(Self { header, meta: header.meta(bytes, salt)?, body: header.body(bytes, salt)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::PartId;

    const SALT: u64 = 0x1234_5678_9abc_def0;

    fn encoded(kind: Kind, meta: &[u8], body: &[u8]) -> Vec<u8> {
        let half = meta.len() / 2;
        let id = MessageId::new(PartId(3), 77);
        let draft = Draft { kind, id, meta: [&meta[..half], &meta[half..]], body };
        let mut out = vec![0xEE; padded(draft.bytes())];
        draft.encode(Salt::new(SALT), 64, &mut out);
        out
    }

    #[test]
    fn what_is_written_reads_back_at_its_place_only() {
        for kind in [Kind::Accepted, Kind::Chunk, Kind::Outcome, Kind::Bounced, Kind::Aborted] {
            let bytes = encoded(kind, b"meta!", b"body");
            let record = Record::decode(&bytes, Salt::new(SALT), 64).unwrap();
            assert_eq!(
                (record.header.kind, record.meta, record.body),
                (Some(kind), &b"meta!"[..], &b"body"[..])
            );
            assert_eq!(record.header.id, MessageId::new(PartId(3), 77));
            assert!(Record::decode(&bytes, Salt::new(SALT), 72).is_err());
            assert!(Record::decode(&bytes, Salt::new(SALT + 1), 64).is_err());
        }
    }

    #[test]
    fn every_flipped_bit_of_header_meta_and_body_is_seen() {
        let bytes = encoded(Kind::Accepted, b"meta of it", b"body");
        for at in 0..HEADER_BYTES + 14 {
            for bit in 0..8 {
                let mut bad = bytes.clone();
                bad[at] ^= 1 << bit;
                assert_eq!(
                    Record::decode(&bad, Salt::new(SALT), 64).err(),
                    Some(RecordError::Damaged),
                    "{at}.{bit}"
                );
            }
        }
        for end in 0..HEADER_BYTES + 14 {
            assert!(Record::decode(&bytes[..end], Salt::new(SALT), 64).is_err());
        }
    }

    #[test]
    fn unknown_kind_is_skipped_or_refused_by_its_critical_bit() {
        let mut bytes = encoded(Kind::Outcome, b"", b"");
        for (kind, want) in [(0x19, Ok(None)), (0x99, Err(RecordError::UnknownCritical(0x99)))] {
            bytes[4] = kind;
            let sum = Salt::new(SALT).checksum(&bytes[4..HEADER_BYTES]);
            bytes[..4].copy_from_slice(&sum.to_le_bytes());
            assert_eq!(Header::decode(&bytes, Salt::new(SALT)).map(|header| header.kind), want);
        }
    }
}
