//! The disk in memory keeps its word: a test of the spool is worth what this is worth.

use std::io;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::*;
use crate::limits::BLOCK_BYTES as BLOCK;
use crate::spool::storage::{DiskBuffer, Storage, StorageFile};

const ENOSPC: i32 = 28;

/// Polls until it is done; on this disk every wait ends by the clock or by another poll.
fn run<T>(disk: &MemoryDisk, future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    for _ in 0..100 {
        for _ in 0..3 {
            if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                return value;
            }
        }
        disk.advance();
    }
    panic!("it never ends");
}

fn write(disk: &MemoryDisk, file: &MemoryFile, offset: usize, byte: u8) -> io::Result<()> {
    let mut buffer = disk.buffer(BLOCK);
    buffer.as_bytes_mut().fill(byte);
    run(disk, file.write_at(buffer, offset as u64))
}

/// A disk with the file `d/a` of one block of ones, all of it safe.
fn one_file() -> (MemoryDisk, MemoryFile) {
    let disk = MemoryDisk::new(1 << 20);
    let file = run(&disk, disk.create("d/a")).unwrap();
    write(&disk, &file, 0, 1).unwrap();
    run(&disk, disk.sync_dir("d")).unwrap();
    (disk, file)
}

/// First byte of each sector.
fn sectors(disk: &MemoryDisk, path: &str) -> Vec<u8> {
    disk.contents(path).unwrap().chunks(SECTOR_BYTES).map(|sector| sector[0]).collect()
}

#[test]
fn a_power_cut_tears_a_write_in_any_way_and_leaves_alone_what_completed() {
    let (disk, file) = one_file();
    let before = disk.event_count();
    write(&disk, &file, 0, 2).unwrap();
    let mut cuts = disk.cuts();
    while cuts.events() <= before {
        cuts.step();
    }
    assert_eq!(cuts.at_risk(), Unsafe { names: 0, sectors: 8 });
    for subset in 0..256u32 {
        let mut next = 0;
        let image = cuts.image(&mut || {
            next += 1;
            subset >> (next - 1) & 1 != 0
        });
        let want: Vec<u8> = (0..8).map(|sector| 1 + (subset >> sector & 1) as u8).collect();
        assert_eq!(sectors(&image, "d/a"), want);
    }
    assert_eq!(sectors(&disk.cut_now(&mut || false), "d/a"), [2; 8]);
    assert_eq!(sectors(&disk.cut(before, &mut || true), "d/a"), [1; 8]);
}

#[test]
fn names_are_safe_when_their_directory_is_synced_and_may_be_lost_in_any_subset_before() {
    let (disk, _) = one_file();
    run(&disk, disk.rename("d/a", "d/b")).unwrap();
    run(&disk, disk.create("d/c")).unwrap();
    let after = |kept: [bool; 2]| {
        let mut kept = kept.into_iter();
        disk.cut_now(&mut || kept.next().unwrap()).paths()
    };
    assert_eq!(after([false, false]), ["d/a"]);
    assert_eq!(after([false, true]), ["d/a", "d/c"]);
    assert_eq!(after([true, false]), ["d/b"]);
    run(&disk, disk.sync_dir("d")).unwrap();
    run(&disk, disk.remove("d/b")).unwrap();
    assert_eq!(disk.cut_now(&mut || false).paths(), ["d/b", "d/c"]);
}

#[test]
fn a_disk_that_lies_keeps_what_it_says_from_the_platter() {
    let (disk, file) = one_file();
    let lie = |fault| {
        disk.set_faults(Rule::new(fault).on(Call::Write));
        write(&disk, &file, 0, 3).unwrap();
        let seen = sectors(&disk, "d/a");
        write(&disk, &file, 0, 1).unwrap();
        seen
    };
    assert_eq!(lie(Fault::Ignored), [1; 8]);
    assert_eq!(lie(Fault::Stale(2)), [3, 3, 1, 3, 3, 3, 3, 3]);
    assert_eq!(lie(Fault::Flipped(SECTOR_BYTES, 0x10)), [3, 0x13, 3, 3, 3, 3, 3, 3]);
    assert_eq!(lie(Fault::Misdirected(BLOCK))[8..], [3; 8]);
    disk.set_faults(Rule::new(Fault::Ignored).on(Call::SyncDir));
    run(&disk, disk.remove("d/a")).unwrap();
    run(&disk, disk.sync_dir("d")).unwrap();
    assert_eq!(disk.cut_now(&mut || false).paths(), ["d/a"]);
}

#[test]
fn what_is_cached_is_seen_and_may_be_lost_until_the_file_is_synced() {
    let (disk, file) = one_file();
    disk.set_faults(Rule::new(Fault::Cached).times(2));
    write(&disk, &file, 0, 2).unwrap();
    write(&disk, &file, 0, 3).unwrap();
    assert_eq!(sectors(&disk, "d/a"), [3; 8]);
    assert_eq!(sectors(&disk.cut_now(&mut || false), "d/a"), [1; 8], "the latest is taken back first");
    let mut first = (0..16).map(|sector| sector < 8);
    assert_eq!(sectors(&disk.cut_now(&mut || first.next().unwrap()), "d/a"), [2; 8]);
    run(&disk, file.sync()).unwrap();
    assert_eq!(sectors(&disk.cut_now(&mut || false), "d/a"), [3; 8]);
}

#[test]
fn failures_leave_what_they_say_and_a_retry_is_noticed() {
    let (disk, file) = one_file();
    disk.set_faults(Rule::new(Fault::Short(3)).on(Call::Write));
    assert_eq!(write(&disk, &file, 0, 2).unwrap_err().kind(), io::ErrorKind::WriteZero);
    assert_eq!(sectors(&disk, "d/a"), [2, 2, 2, 1, 1, 1, 1, 1]);
    assert_eq!(disk.written().retries, 0);
    write(&disk, &file, 0, 2).unwrap();
    assert_eq!(disk.written().retries, 1);
    disk.set_free(BLOCK as u64 - 1);
    assert_eq!(write(&disk, &file, BLOCK, 2).unwrap_err().raw_os_error(), Some(ENOSPC));
    write(&disk, &file, 0, 4).expect("what does not grow fits");
    disk.set_free(BLOCK as u64);
    write(&disk, &file, BLOCK, 2).expect("there is room again");
    assert_eq!(disk.free_bytes().unwrap(), 0);
}

#[test]
fn a_removed_file_stays_readable_by_its_pin_and_gives_its_room_back() {
    let disk = MemoryDisk::without_history(1 << 20);
    let file = run(&disk, disk.create("d/a")).unwrap();
    write(&disk, &file, 0, 1).unwrap();
    let (pin, free) = (file.pin().unwrap(), disk.free_bytes().unwrap());
    run(&disk, disk.remove("d/a")).unwrap();
    run(&disk, disk.sync_dir("d")).unwrap();
    assert_eq!(disk.free_bytes().unwrap(), free + BLOCK as u64);
    assert_eq!(run(&disk, disk.read_pinned(&pin, 0, 2)).unwrap(), [1, 1]);
    assert_eq!(disk.buffers().bytes, 0);
}

#[test]
fn a_slow_call_takes_its_time_on_the_virtual_clock() {
    let (disk, file) = one_file();
    disk.set_faults(Rule::new(Fault::Delay(Duration::from_secs(30))));
    let start = disk.now();
    write(&disk, &file, 0, 2).unwrap();
    assert_eq!(disk.now().since(start), Duration::from_secs(30));
}
