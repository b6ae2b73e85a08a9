//! PURE. A segment: one file of fixed size with a header in two copies, batches, and a footer once it is full.
//! Numbers are little-endian.
//!
//! | offset | what |
//! | --- | --- |
//! | 0 | header block |
//! | 4096 | the same block again: a bad sector must not cost the salt, without which nothing here can be read |
//! | 8192 | batches, each at a block of its own |
//! | … | footer: header and meta of every record, verbatim, so that a restart reads these and no bodies |
//! | size − 4096 | trailer block: says where the footer is |
//!
//! | header | size | field | meaning, range |
//! | --- | --- | --- | --- |
//! | 0 | 4 | checksum | CRC32C of bytes 4..4096, salted with the salt below |
//! | 4 | 4 | version | [`VERSION`]; a higher one refuses the log |
//! | 8 | 8 | magic | `RPsegmnt`; `RPfooter` in a trailer |
//! | 16 | 8 | salt | random, new each time the file is used |
//! | 24 | 4 | part | number of the part, 0 to 65,535 |
//! | 28 | 4 | segment | number of the segment, from 1, never reused within the part |
//! | 32 | 4 | size | bytes of the file, whole blocks |
//! | 36 | 4 | oldest | lowest segment still needed when this was written |
//! | 40 | 8 | next message | every message sequence given out so far is below this |
//! | 48 | 4 | tail segment | header: segment whose batches come before this one's, 0 if none. Prepared: the segment that was there before it, opened or prepared; 0 if a start made it. Trailer: this segment |
//! | 52 | 4 | tail offset | where that one's batches end; bytes behind it were never acknowledged |
//! | 56 | 8 | tail batch | sequence of the last batch before that place |
//! | 64 | 4 | footer offset | trailer only, else zero |
//! | 68 | 4 | footer bytes | trailer only, else zero |
//! | 72 | 4 | footer checksum | CRC32C, salted; trailer only, else zero |
//! | 76 | 4 | state | header: 0 open, 1 prepared (no batches yet, tail unknown). Trailer: 0 |
//! | 80 | … | reserved | zero |

use std::ops::Range;

use super::record::{self, RecordError, Salt};
use crate::id::{Location, PartId};
use crate::limits::BLOCK_BYTES;

/// Format version. A higher one on disk refuses the log.
pub const VERSION: u32 = 1;
/// Where the first batch lies, bytes.
pub const BATCHES_OFFSET: u32 = 2 * BLOCK_BYTES as u32;
/// Bytes of the trailer.
pub const TRAILER_BYTES: u32 = BLOCK_BYTES as u32;
const MAGIC_HEADER: u64 = u64::from_le_bytes(*b"RPsegmnt");
const MAGIC_TRAILER: u64 = u64::from_le_bytes(*b"RPfooter");

/// Where a segment's batches end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tail {
    /// Which segment.
    pub segment: u32,
    /// Bytes from its start.
    pub offset: u32,
    /// Sequence of the last batch before that place; 0 if there has been none in the part.
    pub batch: u64,
}

/// What header and trailer have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Salt of all checksums.
    pub salt: Salt,
    /// The part it belongs to.
    pub part: PartId,
    /// Its number.
    pub segment: u32,
    /// Bytes of the file.
    pub size: u32,
    /// Lowest segment still needed.
    pub oldest: u32,
    /// Message sequences given out are below this.
    pub next_message: u64,
    /// In a header the end of the segment before, in a prepared one only which that is; in a trailer the end of this one.
    pub tail: Option<Tail>,
    /// Whether it only waits to be opened: it holds no batches.
    pub prepared: bool,
}

/// Where a sealed segment's footer lies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Footer {
    /// Bytes from the segment's start.
    pub offset: u32,
    /// Bytes of it.
    pub bytes: u32,
    /// Salted CRC32C of them.
    pub checksum: u32,
}

impl Footer {
    /// The bytes of it that are within a segment of `size` bytes.
    pub fn range(&self, size: u32) -> Range<u32> {
        let offset = self.offset.min(size);
        offset..offset.saturating_add(self.bytes).min(size)
    }
}

/// Why a block is no header or trailer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Checksum or magic do not match, or a value is out of range.
    #[error("segment header is damaged")]
    Damaged,
    /// Written by a newer version.
    #[error("segment has format version {0}, this program knows {VERSION}")]
    Version(u32),
}

impl Header {
    /// Writes the header into a block.
    pub fn encode(&self, block: &mut [u8]) {
        self.encode_as(MAGIC_HEADER, Footer::default(), block);
    }

    /// Writes the trailer of a sealed segment into a block.
    pub fn encode_trailer(&self, footer: Footer, block: &mut [u8]) {
        self.encode_as(MAGIC_TRAILER, footer, block);
    }

    fn encode_as(&self, magic: u64, footer: Footer, block: &mut [u8]) {
        assert_eq!(block.len(), BLOCK_BYTES);
        let tail = self.tail.unwrap_or(Tail { segment: 0, offset: 0, batch: 0 });
        block.fill(0);
        let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        put(4, &VERSION.to_le_bytes());
        put(8, &magic.to_le_bytes());
        put(16, &self.salt.as_u64().to_le_bytes());
        put(24, &u32::from(self.part.0).to_le_bytes());
        put(28, &self.segment.to_le_bytes());
        put(32, &self.size.to_le_bytes());
        put(36, &self.oldest.to_le_bytes());
        put(40, &self.next_message.to_le_bytes());
        put(48, &tail.segment.to_le_bytes());
        put(52, &tail.offset.to_le_bytes());
        put(56, &tail.batch.to_le_bytes());
        put(64, &footer.offset.to_le_bytes());
        put(68, &footer.bytes.to_le_bytes());
        put(72, &footer.checksum.to_le_bytes());
        put(76, &u32::from(self.prepared).to_le_bytes());
        let sum = self.salt.checksum(&block[4..]);
        block[..4].copy_from_slice(&sum.to_le_bytes());
    }

    /// Reads a header block.
    pub fn decode(block: &[u8]) -> Result<Self, HeaderError> {
        decode_as(MAGIC_HEADER, block).map(|(header, _)| header)
    }

    /// Reads a trailer block.
    pub fn decode_trailer(block: &[u8]) -> Result<(Self, Footer), HeaderError> {
        decode_as(MAGIC_TRAILER, block)
    }
}

fn decode_as(magic: u64, block: &[u8]) -> Result<(Header, Footer), HeaderError> {
    let block = block.first_chunk::<BLOCK_BYTES>().ok_or(HeaderError::Damaged)?;
    let word = |at: usize| u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]);
    let long = |at: usize| u64::from(word(at)) | (u64::from(word(at + 4)) << 32);
    let salt = Salt::new(long(16));
    if long(8) != magic || word(0) != salt.checksum(&block[4..]) {
        return Err(HeaderError::Damaged);
    }
    if word(4) != VERSION {
        return Err(HeaderError::Version(word(4)));
    }
    let tail = Tail { segment: word(48), offset: word(52), batch: long(56) };
    let header = Header {
        salt,
        part: PartId(u16::try_from(word(24)).map_err(|_| HeaderError::Damaged)?),
        segment: word(28),
        size: word(32),
        oldest: word(36),
        next_message: long(40),
        tail: (tail.segment != 0).then_some(tail),
        prepared: word(76) == 1,
    };
    Ok((header, Footer { offset: word(64), bytes: word(68), checksum: word(72) }))
}

/// Collects the footer of the open segment, record by record.
#[derive(Debug, Default)]
pub struct FooterBuilder {
    bytes: Vec<u8>,
}

impl FooterBuilder {
    /// Bytes of a footer with trailer, in whole blocks, after a record with `meta_bytes` more.
    pub fn bytes_with(&self, meta_bytes: usize) -> usize {
        let entry = record::padded(record::HEADER_BYTES + meta_bytes);
        (self.bytes.len() + entry).next_multiple_of(BLOCK_BYTES) + TRAILER_BYTES as usize
    }

    /// Adds header and meta of an encoded record.
    pub fn push(&mut self, record: &[u8], meta_bytes: usize) {
        self.bytes.extend_from_slice(&record[..record::HEADER_BYTES + meta_bytes]);
        self.bytes.resize(record::padded(self.bytes.len()), 0);
    }

    /// The bytes so far.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Where it goes in a segment of `size` bytes: right before the trailer.
    pub fn footer(&self, salt: Salt, size: u32) -> Footer {
        let blocks = self.bytes.len().next_multiple_of(BLOCK_BYTES) as u32;
        Footer {
            offset: size - TRAILER_BYTES - blocks,
            bytes: self.bytes.len() as u32,
            checksum: salt.checksum(&self.bytes),
        }
    }
}

/// Takes an entry of a footer: header, meta, location.
pub type EntrySink<'a, E> = &'a mut dyn FnMut(&record::Header, &[u8], Location) -> Result<(), E>;

/// Hands every entry of a footer whose checksum holds to `each`.
pub fn read_footer<E: From<RecordError>>(
    footer: &[u8],
    salt: Salt,
    segment: u32,
    each: EntrySink<'_, E>,
) -> Result<(), E> {
    let mut rest = footer;
    while !rest.is_empty() {
        let header = record::Header::decode(rest, salt)?;
        let meta = header.meta(rest, salt)?;
        each(&header, meta, Location { segment, offset: header.offset, bytes: header.bytes() as u32 })?;
        let entry = record::padded(record::HEADER_BYTES + meta.len());
        rest = rest.get(entry..).unwrap_or(&[]);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        let tail = Some(Tail { segment: 4, offset: 12288, batch: 99 });
        Header {
            salt: Salt::new(77),
            part: PartId(2),
            segment: 5,
            size: 1 << 20,
            oldest: 3,
            next_message: 1000,
            tail,
            prepared: false,
        }
    }

    #[test]
    fn header_and_trailer_read_back_and_are_not_taken_for_each_other() {
        let (mut block, mut trailer) = (vec![9; BLOCK_BYTES], vec![9; BLOCK_BYTES]);
        header().encode(&mut block);
        let footer = Footer { offset: 1, bytes: 2, checksum: 3 };
        header().encode_trailer(footer, &mut trailer);
        assert_eq!(Header::decode(&block), Ok(header()));
        assert_eq!(Header::decode_trailer(&trailer), Ok((header(), footer)));
        assert_eq!(Header::decode(&trailer), Err(HeaderError::Damaged));
        assert_eq!(Header::decode_trailer(&block), Err(HeaderError::Damaged));
    }

    #[test]
    fn every_flipped_byte_of_a_header_is_seen() {
        let mut block = vec![0; BLOCK_BYTES];
        header().encode(&mut block);
        for at in 0..BLOCK_BYTES {
            block[at] ^= 1;
            assert_eq!(Header::decode(&block), Err(HeaderError::Damaged), "byte {at}");
            block[at] ^= 1;
        }
    }

    #[test]
    fn an_intact_header_of_a_newer_version_is_refused_as_such() {
        let mut block = vec![0; BLOCK_BYTES];
        header().encode(&mut block);
        block[4] = 2;
        let sum = header().salt.checksum(&block[4..]);
        block[..4].copy_from_slice(&sum.to_le_bytes());
        assert_eq!(Header::decode(&block), Err(HeaderError::Version(2)));
    }
}
