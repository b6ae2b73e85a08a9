//! Any segment: recovery reads what it finds, and nothing comes out of it that was not written.
//!
//! Random bytes never get past a checksum, so there are three ways in: the bytes as they are, a good segment that the
//! bytes damage, and bytes whose checksums are put right.

use ringpost::id::{MessageId, PartId};
use ringpost::limits::BLOCK_BYTES;
use ringpost::spool::record::{self, Draft, Kind, Record, RecordError, Salt};
use ringpost::spool::recovery::{self, Frame, Scan};
use ringpost::spool::segment::{self, BATCHES_OFFSET, Tail};
use ringpost::spool::{batch, meta};

const SALT: u64 = 0x1234_5678_9ABC_DEF0;
const START: usize = BATCHES_OFFSET as usize;
/// Blocks of batches in a segment made here; one more behind them is the trailer.
const BLOCKS: usize = 4;

/// Sequence, meta and body of each record, in the order found.
type Found = Vec<(u64, Vec<u8>, Vec<u8>)>;

fn scan(bytes: &[u8], first_batch: Option<u64>, end: Option<Tail>) -> (Result<Scan, RecordError>, Found) {
    let frame = Frame { segment: 7, salt: Salt::new(SALT), size: bytes.len() as u32, first_batch, end };
    let mut found = Vec::new();
    let mut sink = |record: &Record<'_>, location: ringpost::id::Location| {
        assert!(
            (location.offset + location.bytes) as usize <= bytes.len(),
            "a record outside of its segment"
        );
        found.push((record.header.id.sequence(), record.meta.to_vec(), record.body.to_vec()));
        Ok::<(), RecordError>(())
    };
    let scan = recovery::scan(bytes, &frame, &mut sink);
    if let Ok(scan) = &scan {
        assert!(scan.tail.offset as usize <= bytes.len().max(START), "{scan:?}");
        assert!(scan.damage.iter().all(|damage| damage.range.start < damage.range.end), "{scan:?}");
    }
    (scan, found)
}

/// All that may be known of a segment from elsewhere.
fn scan_all_ways(bytes: &[u8]) {
    for first_batch in [None, Some(1), Some(u64::MAX)] {
        for offset in [None, Some(BATCHES_OFFSET), Some(BATCHES_OFFSET + 8192), Some(u32::MAX)] {
            let end = offset.map(|offset| Tail { segment: 7, offset, batch: 3 });
            let _ = scan(bytes, first_batch, end);
        }
    }
}

/// A segment with one batch of two records in each block, and what it holds.
fn good(content: &[u8]) -> (Vec<u8>, Found) {
    let salt = Salt::new(SALT);
    let mut bytes = vec![0; START + (BLOCKS + 1) * BLOCK_BYTES];
    let mut written = Vec::new();
    for (number, block) in bytes[START..START + BLOCKS * BLOCK_BYTES].chunks_mut(BLOCK_BYTES).enumerate() {
        let start = START + number * BLOCK_BYTES;
        let mut used = batch::HEADER_BYTES;
        for piece in 0..2 {
            let sequence = (2 * number + piece + 1) as u64;
            let body = &content[..content.len().min(1000 * (piece + 1))];
            let name = sequence.to_le_bytes();
            let id = MessageId::new(PartId(3), sequence);
            let draft = Draft { kind: Kind::Accepted, id, meta: [&name, b"m"], body };
            draft.encode(salt, (start + used) as u32, &mut block[used..]);
            used += record::padded(draft.bytes());
            written.push((sequence, [&name[..], b"m"].concat(), body.to_vec()));
        }
        let header = batch::Header {
            bytes: used as u32,
            sequence: number as u64 + 1,
            durable: number as u64,
            next_message: 100,
            offset: start as u32,
            oldest: 1,
            records: 2,
        };
        header.seal(salt, block);
    }
    (bytes, written)
}

/// Each three bytes of `damage` change one byte of a good segment.
fn check_damaged(damage: &[u8], content: &[u8]) {
    let (mut bytes, written) = good(content);
    let (whole, found) = scan(&bytes, Some(1), None);
    assert!(
        whole.is_ok_and(|scan| scan.damage.is_empty()) && found == written,
        "a good segment is read whole"
    );
    for change in damage.chunks_exact(3) {
        let at = START + usize::from(u16::from_le_bytes([change[0], change[1]])) % (BLOCKS * BLOCK_BYTES);
        bytes[at] ^= change[2];
    }
    let end = Tail { segment: 7, offset: (START + BLOCKS * BLOCK_BYTES) as u32, batch: BLOCKS as u64 };
    for end in [None, Some(end)] {
        let (_, found) = scan(&bytes, Some(1), end);
        let mut rest = written.iter();
        assert!(found.iter().all(|one| rest.any(|other| other == one)), "a record that nobody wrote");
    }
}

/// Bytes as the first batch of a segment, whose checksums are put right: the header's fields may say anything.
fn check_resealed(input: &[u8]) {
    let salt = Salt::new(SALT);
    let mut bytes = vec![0; START + 3 * BLOCK_BYTES];
    let length = input.len().min(2 * BLOCK_BYTES);
    bytes[START..START + length].copy_from_slice(&input[..length]);
    let record = &mut bytes[START + batch::HEADER_BYTES..];
    record[16..20].copy_from_slice(&((START + batch::HEADER_BYTES) as u32).to_le_bytes());
    let sum = salt.checksum(&record[4..record::HEADER_BYTES]);
    record[..4].copy_from_slice(&sum.to_le_bytes());
    let block = &mut bytes[START..];
    block[8..12].copy_from_slice(b"RPb1");
    block[32..40].copy_from_slice(&SALT.to_le_bytes());
    block[48..52].copy_from_slice(&BATCHES_OFFSET.to_le_bytes());
    let sum = salt.checksum(&block[8..batch::HEADER_BYTES]);
    block[4..8].copy_from_slice(&sum.to_le_bytes());
    let blocks = u32::from_le_bytes([block[12], block[13], block[14], block[15]]) as usize;
    let end = blocks.next_multiple_of(BLOCK_BYTES).clamp(BLOCK_BYTES, block.len());
    let sum = salt.checksum(&block[4..end]);
    block[..4].copy_from_slice(&sum.to_le_bytes());
    scan_all_ways(&bytes);
}

/// The first byte chooses the way in.
pub fn check(bytes: &[u8]) {
    let Some((&choice, input)) = bytes.split_first() else { return };
    match choice % 4 {
        0 => {
            let mut segment = vec![0; START];
            segment.extend_from_slice(input);
            scan_all_ways(input);
            scan_all_ways(&segment);
            let _ = (segment::Header::decode(input), segment::Header::decode_trailer(input));
            let mut each = |_: &record::Header, _: &[u8], _| Ok::<(), RecordError>(());
            let _ = segment::read_footer(input, Salt::new(SALT), 7, &mut each);
        }
        1 => check_resealed(input),
        2 => {
            let (damage, content) = input.split_at(input.len().min(24));
            check_damaged(damage, content);
        }
        _ => {
            let id = MessageId::new(PartId(1), 1);
            let _ = (meta::accepted(input), meta::outcome(id, input), meta::bounced(id, input));
            assert!(meta::envelope_bytes(input) <= input.len());
        }
    }
}
