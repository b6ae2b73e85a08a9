//! PURE but for the file handles it holds. Book-keeping of a log's segments: which there are, what is live in each, which may be freed. Segments are
//! freed strictly oldest first, so a settlement always outlives the acceptance that it settles.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::{Arc, Weak};

use super::record::Salt;
use super::storage::Storage;

/// A segment that records point into.
pub(crate) struct Segment<P> {
    pub number: u32,
    pub size: u32,
    pub salt: Salt,
    /// Bytes of records that are still needed.
    pub live_bytes: u64,
    /// Accepted records whose acceptors have not been told yet: the queue does not know these messages.
    pub pending: u32,
    /// Whether all its batches are durable and its footer is written, or never will be.
    pub sealed: bool,
    /// Header and batches could not be read: when its turn comes the file is kept in `damaged/`.
    pub unreadable: bool,
    pub pin: Weak<SegmentPin<P>>,
}

/// Keeps a segment's file readable. Holding one does not keep the segment in the ring: once its live records
/// are moved, a pinned segment is removed instead of recycled, and its bytes stay until the last pin goes.
#[derive(Debug)]
pub struct SegmentPin<P> {
    /// The segment's number.
    pub segment: u32,
    /// Salt of its checksums.
    pub salt: Salt,
    /// The storage's own handle.
    pub file: P,
}

/// A file that is ready to become the head.
pub(crate) struct Spare<S: Storage> {
    pub number: u32,
    pub salt: Salt,
    pub file: Rc<S::File>,
}

/// The segments of a part.
pub(crate) struct Ring<S: Storage> {
    /// Oldest first, numbers without gaps; the last is the head.
    pub segments: VecDeque<Segment<S::Pin>>,
    /// Next heads, in order of their numbers, right behind the head's.
    pub spares: VecDeque<Spare<S>>,
    /// Not needed any more; to be recycled or removed once a durable batch says so.
    pub freed: VecDeque<Segment<S::Pin>>,
    /// Highest `oldest` of a durable batch or header: files below may go.
    pub oldest_durable: u32,
}

impl<S: Storage> Ring<S> {
    /// Lowest segment still needed.
    pub fn oldest(&self) -> u32 {
        self.segments.front().map_or(1, |segment| segment.number)
    }

    pub fn segment(&mut self, number: u32) -> Option<&mut Segment<S::Pin>> {
        let first = self.segments.front()?.number;
        self.segments.get_mut(number.checked_sub(first)? as usize)
    }

    pub fn add_live(&mut self, number: u32, bytes: u32) {
        if let Some(segment) = self.segment(number) {
            segment.live_bytes += u64::from(bytes);
        }
    }

    /// Records of `bytes` are not needed any more. A segment that is gone had no live records.
    pub fn sub_live(&mut self, number: u32, bytes: u32) {
        if let Some(segment) = self.segment(number) {
            assert!(
                segment.unreadable || segment.live_bytes >= u64::from(bytes),
                "a record of segment {number} was settled twice"
            );
            segment.live_bytes = segment.live_bytes.saturating_sub(u64::from(bytes));
        }
    }

    pub fn live_bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.live_bytes).sum()
    }

    /// Bytes of all files.
    pub fn disk_bytes(&self, spare_size: u32) -> u64 {
        let files = self.segments.iter().chain(&self.freed).map(|segment| u64::from(segment.size));
        files.sum::<u64>() + self.spares.len() as u64 * u64::from(spare_size)
    }

    /// Puts empty entries where files are missing below `next`, so that numbers stay without gaps.
    pub fn fill_gaps(&mut self, next: u32) {
        let Some(first) = self.segments.front().map(|segment| segment.number) else { return };
        for index in 0..(next - first) as usize {
            let number = first + index as u32;
            if self.segments.get(index).is_none_or(|segment| segment.number != number) {
                let gap = Segment {
                    number,
                    size: 0,
                    salt: Salt::new(0),
                    live_bytes: 0,
                    pending: 0,
                    sealed: true,
                    unreadable: true,
                    pin: Weak::new(),
                };
                self.segments.insert(index, gap);
            }
        }
    }

    /// Takes dead segments off the old end; `true` if any.
    pub fn free_dead(&mut self) -> bool {
        let before = self.freed.len();
        while self.segments.len() > 1
            && let Some(front) = self.segments.front()
            && front.sealed
            && front.live_bytes == 0
            && front.pending == 0
        {
            self.freed.extend(self.segments.pop_front());
        }
        self.freed.len() > before
    }

    /// Next freed segment whose file may be used for something else.
    pub fn take_freed(&mut self) -> Option<Segment<S::Pin>> {
        let durable = self.oldest_durable;
        self.freed.pop_front_if(|segment| segment.number < durable)
    }

    /// Number for the next spare.
    pub fn next_number(&self) -> u32 {
        let last = self.spares.back().map(|spare| spare.number);
        last.or(self.segments.back().map(|segment| segment.number)).unwrap_or(0) + 1
    }

    /// The segment's pin, if somebody holds one.
    pub fn pinned(&mut self, number: u32) -> Option<Arc<SegmentPin<S::Pin>>> {
        self.segment(number)?.pin.upgrade()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::storage::memory::MemoryDisk;

    fn ring(live: &[u64]) -> Ring<MemoryDisk> {
        let mut ring = Ring {
            segments: VecDeque::new(),
            spares: VecDeque::new(),
            freed: VecDeque::new(),
            oldest_durable: 1,
        };
        for (number, live_bytes) in (1..).zip(live) {
            ring.segments.push_back(Segment {
                number,
                size: 4096,
                salt: Salt::new(1),
                live_bytes: *live_bytes,
                pending: 0,
                sealed: true,
                unreadable: false,
                pin: Weak::new(),
            });
        }
        ring
    }

    #[test]
    fn segments_are_freed_oldest_first_and_never_the_head() {
        let mut ring = ring(&[0, 0, 9, 0, 0]);
        assert!(ring.free_dead());
        assert_eq!((ring.oldest(), ring.freed.len()), (3, 2));
        ring.sub_live(3, 9);
        assert!(ring.free_dead());
        assert_eq!((ring.oldest(), ring.segments.len()), (5, 1));
    }

    #[test]
    fn a_segment_whose_acceptors_have_not_been_told_stays() {
        let mut ring = ring(&[0, 0]);
        ring.segments[0].pending = 1;
        assert!(!ring.free_dead());
    }

    #[test]
    fn a_freed_file_is_used_again_only_when_a_durable_batch_gave_it_up() {
        let mut ring = ring(&[0, 0, 9]);
        ring.free_dead();
        assert!(ring.take_freed().is_none(), "a restart would still look for it");
        ring.oldest_durable = 2;
        assert_eq!(ring.take_freed().map(|segment| segment.number), Some(1));
        assert!(ring.take_freed().is_none());
    }

    #[test]
    #[should_panic(expected = "settled twice")]
    fn settling_twice_is_a_bug_that_stops() {
        ring(&[10, 0]).sub_live(1, 11);
    }
}
