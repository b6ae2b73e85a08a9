//! PURE. A batch: the atomic unit of the log. It is written once, whole, at a block of its own, and applies whole or
//! not at all. Numbers are little-endian.
//!
//! | offset | size | field | meaning, range |
//! | --- | --- | --- | --- |
//! | 0 | 4 | checksum | CRC32C of bytes 4 to the end of the last block, padding included, salted |
//! | 4 | 4 | header checksum | CRC32C of bytes 8..64, salted: says where a batch with a damaged record ends |
//! | 8 | 4 | magic | `RPb1` |
//! | 12 | 4 | bytes | header and records, without padding; 64 to [`BATCH_BYTES_MAX`] |
//! | 16 | 8 | sequence | counts batches of the part, from 1 |
//! | 24 | 8 | durable | highest sequence whose write had completed when this one was started: the watermark |
//! | 32 | 8 | salt | the segment's |
//! | 40 | 8 | next message | every message sequence given out so far is below this |
//! | 48 | 4 | offset | of this batch in its segment; a multiple of [`BLOCK_BYTES`] |
//! | 52 | 4 | oldest | lowest segment still needed; lower ones may be gone |
//! | 56 | 4 | records | how many follow |
//! | 60 | 4 | reserved | zero |
//! | 64 | … | records, then zeros up to a multiple of [`BLOCK_BYTES`] | |
//!
//! A batch without records is a watermark and nothing else.

use super::record::{ALIGN_BYTES, Salt};
use crate::limits::{BATCH_BYTES_MAX, BLOCK_BYTES};

/// Bytes before the first record.
pub const HEADER_BYTES: usize = 64;
const MAGIC: u32 = u32::from_le_bytes(*b"RPb1");

const _: () = assert!(HEADER_BYTES.is_multiple_of(ALIGN_BYTES));

/// What a batch's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Bytes of header and records, without padding.
    pub bytes: u32,
    /// Place in the order of batches.
    pub sequence: u64,
    /// Highest sequence known durable.
    pub durable: u64,
    /// Message sequences given out are below this.
    pub next_message: u64,
    /// Where it lies in its segment, bytes.
    pub offset: u32,
    /// Lowest segment still needed.
    pub oldest: u32,
    /// How many records.
    pub records: u32,
}

impl Header {
    /// Bytes it takes in the segment: whole blocks.
    pub fn blocks_bytes(&self) -> usize {
        (self.bytes as usize).next_multiple_of(BLOCK_BYTES)
    }

    /// Completes a batch: `blocks` holds the records from [`HEADER_BYTES`] on and is cut to whole blocks; zeros go
    /// behind the records.
    pub fn seal(&self, salt: Salt, blocks: &mut [u8]) {
        assert_eq!(blocks.len(), self.blocks_bytes(), "a batch is written in whole blocks");
        blocks[self.bytes as usize..].fill(0);
        let mut header = [0; HEADER_BYTES];
        header[8..12].copy_from_slice(&MAGIC.to_le_bytes());
        header[12..16].copy_from_slice(&self.bytes.to_le_bytes());
        header[16..24].copy_from_slice(&self.sequence.to_le_bytes());
        header[24..32].copy_from_slice(&self.durable.to_le_bytes());
        header[32..40].copy_from_slice(&salt.as_u64().to_le_bytes());
        header[40..48].copy_from_slice(&self.next_message.to_le_bytes());
        header[48..52].copy_from_slice(&self.offset.to_le_bytes());
        header[52..56].copy_from_slice(&self.oldest.to_le_bytes());
        header[56..60].copy_from_slice(&self.records.to_le_bytes());
        let sum = salt.checksum(&header[8..]);
        header[4..8].copy_from_slice(&sum.to_le_bytes());
        blocks[..HEADER_BYTES].copy_from_slice(&header);
        let sum = salt.checksum(&blocks[4..]);
        blocks[..4].copy_from_slice(&sum.to_le_bytes());
    }

    /// The header at the start of `bytes` if it is intact and belongs to `offset` of a segment with this salt.
    pub fn decode(bytes: &[u8], salt: Salt, offset: u32) -> Option<Self> {
        let header = bytes.first_chunk::<HEADER_BYTES>()?;
        let word =
            |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let long = |at: usize| u64::from(word(at)) | (u64::from(word(at + 4)) << 32);
        if word(8) != MAGIC || long(32) != salt.as_u64() || word(4) != salt.checksum(&header[8..]) {
            return None;
        }
        let decoded = Self {
            bytes: word(12),
            sequence: long(16),
            durable: long(24),
            next_message: long(40),
            offset: word(48),
            oldest: word(52),
            records: word(56),
        };
        let bytes = HEADER_BYTES..=BATCH_BYTES_MAX;
        let plausible = decoded.offset == offset
            && bytes.contains(&(decoded.bytes as usize))
            && decoded.durable < decoded.sequence;
        plausible.then_some(decoded)
    }

    /// Whether `bytes` have the segment's salt where a batch header has it, intact or not.
    pub fn bears_salt(bytes: &[u8], salt: Salt) -> bool {
        bytes.get(32..40).is_some_and(|field| field == salt.as_u64().to_le_bytes())
    }

    /// Whether the whole batch at the start of `bytes`, whose header this is, is intact.
    pub fn is_whole(&self, bytes: &[u8], salt: Salt) -> bool {
        let blocks = bytes.get(..self.blocks_bytes());
        blocks.is_some_and(|blocks| {
            u32::from_le_bytes([blocks[0], blocks[1], blocks[2], blocks[3]]) == salt.checksum(&blocks[4..])
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed() -> (Header, Vec<u8>) {
        let header = Header {
            bytes: 100,
            sequence: 9,
            durable: 8,
            next_message: 3,
            offset: 8192,
            oldest: 1,
            records: 1,
        };
        let mut blocks = vec![7; BLOCK_BYTES];
        header.seal(Salt::new(5), &mut blocks);
        (header, blocks)
    }

    #[test]
    fn a_sealed_batch_reads_back_at_its_place_and_salt_only() {
        let (header, blocks) = sealed();
        assert_eq!(Header::decode(&blocks, Salt::new(5), 8192), Some(header));
        assert!(header.is_whole(&blocks, Salt::new(5)));
        assert_eq!(Header::decode(&blocks, Salt::new(5), 12288), None);
        assert_eq!(Header::decode(&blocks, Salt::new(6), 8192), None);
        assert!(!header.is_whole(&blocks[..4000], Salt::new(5)));
    }

    #[test]
    fn every_flipped_byte_is_seen_padding_included() {
        let (_, blocks) = sealed();
        for at in 0..blocks.len() {
            let mut bad = blocks.clone();
            bad[at] ^= 0x10;
            let whole =
                Header::decode(&bad, Salt::new(5), 8192).is_some_and(|h| h.is_whole(&bad, Salt::new(5)));
            assert!(!whole, "byte {at}");
        }
    }
}
