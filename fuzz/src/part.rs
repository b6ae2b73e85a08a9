//! Any part of a spool: a restart over damaged files returns, says so, and gives out nothing that was not written; what it
//! leaves behind can be read by the next one.

use std::cell::RefCell;
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use ringpost::clock::WallTime;
use ringpost::envelope::{EnvelopeBuilder, Notify, Parameters};
use ringpost::id::{MessageId, PartId};
use ringpost::limits::BLOCK_BYTES;
use ringpost::spool::commit::{Log, LogOptions};
use ringpost::spool::error::Fence;
use ringpost::spool::record::{self, Draft, Kind, Salt};
use ringpost::spool::replay::Recovered;
use ringpost::spool::segment::{BATCHES_OFFSET, Header, Tail};
use ringpost::spool::stopped::StoppedPart;
use ringpost::spool::storage::memory::MemoryDisk;
use ringpost::spool::{batch, restart};

const DIR: &str = "part-00001";
const PART: PartId = PartId(1);
const SEGMENT_BYTES: u32 = restart::SEGMENT_BYTES_MIN;
const SEGMENTS: u32 = 3;
/// Blocks of batches in each segment made here.
const BLOCKS: usize = 3;
const START: usize = BATCHES_OFFSET as usize;

/// Waits by moving the disk's clock, and by asking again where a task only gave way to others.
fn wait_for<T>(disk: &MemoryDisk, future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    for _ in 0..100_000 {
        match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(value) => return value,
            Poll::Pending => drop(disk.advance()),
        }
    }
    panic!("a recovery does not end")
}

fn path(number: u32) -> String {
    format!("{DIR}/segment-{number:010}")
}

/// Meta of the message `sequence`.
fn meta(sequence: u64) -> Vec<u8> {
    let mut builder = EnvelopeBuilder::default();
    builder.begin("s@a.test", Parameters::default(), "");
    builder.push_recipient(&format!("r{sequence}@b.test"), Notify::DEFAULT, "").expect("it fits");
    builder.encode(WallTime(1), WallTime(2)).as_bytes().to_vec()
}

/// Segments with a batch of two messages in each block.
fn segments() -> Vec<Vec<u8>> {
    let (mut sequence, mut tail) = (1, None);
    let mut one = |number: u32| {
        let salt = Salt::new(0x5A17 + u64::from(number));
        let mut bytes = vec![0; SEGMENT_BYTES as usize];
        let header = Header {
            salt,
            part: PART,
            segment: number,
            size: SEGMENT_BYTES,
            oldest: 1,
            next_message: sequence,
            tail,
            prepared: false,
        };
        header.encode(&mut bytes[..BLOCK_BYTES]);
        header.encode(&mut bytes[BLOCK_BYTES..2 * BLOCK_BYTES]);
        for block in 0..BLOCKS {
            let (start, mut used) = (START + block * BLOCK_BYTES, batch::HEADER_BYTES);
            let place = &mut bytes[start..start + BLOCK_BYTES];
            for _ in 0..2 {
                let meta = meta(sequence);
                let id = MessageId::new(PART, sequence);
                let draft =
                    Draft { kind: Kind::Accepted, id, meta: [&meta, b""], body: b"Subject: x\r\n\r\n" };
                draft.encode(salt, (start + used) as u32, &mut place[used..]);
                used += record::padded(draft.bytes());
                sequence += 1;
            }
            let batch = (number as usize - 1) * BLOCKS + block + 1;
            let header = batch::Header {
                bytes: used as u32,
                sequence: batch as u64,
                durable: batch as u64 - 1,
                next_message: sequence,
                offset: start as u32,
                oldest: 1,
                records: 2,
            };
            header.seal(salt, place);
            tail = Some(Tail { segment: number, offset: (start + BLOCK_BYTES) as u32, batch: batch as u64 });
        }
        bytes
    };
    (1..=SEGMENTS).map(&mut one).collect()
}

/// Restarts on `disk`: the ids of the messages found, or none if it refuses to start.
fn restarted(disk: &MemoryDisk, salt: u64) -> Option<Vec<u64>> {
    let found = RefCell::new(Vec::new());
    let mut apply = |recovered: Recovered<'_>| {
        if let Recovered::Accepted { id, .. } = recovered {
            found.borrow_mut().push(id.sequence());
        }
        None
    };
    let options = LogOptions { segment_bytes: SEGMENT_BYTES, reserve_bytes: 0, ..LogOptions::default() };
    let (mut salt, storage) = (salt, disk.clone());
    let mut salts = || {
        salt += 1;
        salt
    };
    let opened = Log::open(storage, PART, DIR, options, Fence::default(), &mut salts, &mut apply);
    let opened = wait_for(disk, opened);
    let mut found = found.into_inner();
    found.sort_unstable();
    found.dedup();
    opened.is_ok().then_some(found)
}

/// The first byte says what becomes of the files, each four bytes behind it change one byte of one of them.
pub fn check(bytes: &[u8]) {
    let Some((&choice, changes)) = bytes.split_first() else { return };
    let all: Vec<u64> = (1..=u64::from(SEGMENTS) * BLOCKS as u64 * 2).collect();
    let mut files = segments();
    let mut is_damaged = choice & 7 != 0;
    for change in changes.chunks_exact(4).take(64) {
        let file = &mut files[usize::from(change[0]) % SEGMENTS as usize];
        let at = usize::from(u16::from_le_bytes([change[1], change[2]])) % file.len();
        file[at] ^= change[3];
        is_damaged |= change[3] != 0;
    }
    let which = usize::from(choice >> 3) % SEGMENTS as usize;
    match choice & 7 {
        1 => drop(files.remove(which)),
        2 => files.swap(which, 0),
        3 => files[which].truncate(usize::from(choice) * 64),
        4 => files[which] = files[0].clone(),
        5 => files[which].extend_from_slice(&bytes[1..]),
        6 => files[which].clear(),
        7 => files[which] = bytes[1..].to_vec(),
        _ => {}
    }
    let disk = MemoryDisk::without_history(1 << 30);
    for (number, file) in (1..).zip(files) {
        disk.put(&path(number), file);
    }
    // Looking changes nothing and sees no more than a restart does.
    let mut seen = 0;
    let mut apply = |_: Recovered<'_>| {
        seen += 1;
        None
    };
    let looked = wait_for(&disk, StoppedPart::read(disk.clone(), PART, DIR, &mut apply)).is_ok();
    let first = restarted(&disk, 0x0DD5_A175);
    assert_eq!(first.is_some(), looked, "one reading refuses what the other takes");
    let Some(first) = first else { return };
    assert!(first.iter().all(|id| all.contains(id)), "a message that nobody wrote: {first:?}");
    assert!(is_damaged || first == all, "an undamaged part is read whole: {first:?}");
    let second = restarted(&disk, 0x0DD5_A175_0000).expect("a part that a restart took is taken again");
    assert_eq!(second, first, "a second restart sees the same");
}
