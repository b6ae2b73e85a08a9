//! PURE. A hierarchical timer wheel over the entries of a slab.
//!
//! Six levels of 64 buckets; a bucket of level *n* spans 64ⁿ ticks. An entry stands at the level of the highest digit in
//! which its tick differs from the wheel's time, so it moves down at most five times before it fires, whatever it waits
//! for: seconds or days. Buckets are singly headed lists; the first entry's `prev` names the bucket, so an entry can be
//! taken out without knowing where it stands.

use super::slab::{Link, Linked, NONE, Slab};

/// Digits of a tick in base 64: six cover all of `u32`.
const LEVELS: usize = 6;
/// Marks a `prev` that names a bucket.
const BUCKET: u32 = 1 << 31;

/// What one step of the wheel did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// This entry is due and stands in no list now.
    Fired(u32),
    /// An entry moved to a finer level: work was done, more may follow.
    Moved,
    /// Nothing is due.
    Idle,
}

#[derive(Debug)]
pub(super) struct Wheel {
    heads: Box<[u32; LEVELS * 64]>,
    /// A bit for each bucket that is not empty.
    occupied: [u64; LEVELS],
    /// All ticks up to this one have fired, but for pending moves.
    elapsed: u32,
}

impl Wheel {
    pub fn new() -> Self {
        Self { heads: Box::new([NONE; LEVELS * 64]), occupied: [0; LEVELS], elapsed: 0 }
    }

    /// Lets `slot`, which stands in no list, fire at `tick`; a tick that has passed fires with the next.
    pub fn insert<T: Linked>(&mut self, slab: &mut Slab<T>, slot: u32, tick: u32) {
        // NONE in a link means "not in the wheel", and no process lives to see that tick.
        let tick = tick.min(NONE - 1);
        let at = tick.max(self.elapsed);
        let level = ((32 - (at ^ self.elapsed).leading_zeros()).saturating_sub(1) / 6) as usize;
        let digit = (at >> (6 * level)) & 63;
        let bucket = level as u32 * 64 + digit;
        let head = self.heads[bucket as usize];
        if head != NONE {
            slab[head].link().prev = slot;
        }
        *slab[slot].link() = Link { next: head, prev: BUCKET | bucket, tick };
        self.heads[bucket as usize] = slot;
        self.occupied[level] |= 1 << digit;
    }

    /// Takes an entry out before it fires.
    pub fn remove<T: Linked>(&mut self, slab: &mut Slab<T>, slot: u32) {
        let Link { next, prev, .. } = std::mem::take(slab[slot].link());
        if next != NONE {
            slab[next].link().prev = prev;
        }
        if prev & BUCKET == 0 {
            slab[prev].link().next = next;
            return;
        }
        let bucket = (prev & !BUCKET) as usize;
        self.heads[bucket] = next;
        if next == NONE {
            self.occupied[bucket / 64] &= !(1 << (bucket % 64));
        }
    }

    fn digit(&self, level: usize) -> u32 {
        (self.elapsed >> (6 * level)) & 63
    }

    /// The next bucket and the tick at which it must be looked at.
    fn next(&self) -> Option<(usize, u32)> {
        // Buckets that time has entered but that are not emptied yet come first: their entries belong further down.
        let entered = (1..LEVELS).find(|level| self.occupied[*level] >> self.digit(*level) & 1 == 1);
        if let Some(level) = entered {
            return Some((level * 64 + self.digit(level) as usize, self.elapsed));
        }
        let level = (0..LEVELS).find(|level| self.occupied[*level] != 0)?;
        // Entries differ from `elapsed` first in this digit and are later, so no bucket lies behind it.
        let digit = self.occupied[level].trailing_zeros();
        let above = u64::from(self.elapsed) >> (6 * (level + 1)) << (6 * (level + 1));
        Some((level * 64 + digit as usize, (above | u64::from(digit) << (6 * level)) as u32))
    }

    /// The tick at which [`Self::step`] has work; never later than the earliest entry.
    pub fn next_tick(&self) -> Option<u32> {
        self.next().map(|(_, tick)| tick)
    }

    /// Does one entry's worth of work for all that is due at `now`.
    pub fn step<T: Linked>(&mut self, slab: &mut Slab<T>, now: u32) -> Step {
        match self.next() {
            Some((bucket, tick)) if tick <= now.max(self.elapsed) => {
                self.elapsed = self.elapsed.max(tick);
                let slot = self.heads[bucket];
                let due = slab[slot].linked().tick;
                self.remove(slab, slot);
                if due <= self.elapsed {
                    return Step::Fired(slot);
                }
                self.insert(slab, slot, due);
                Step::Moved
            }
            _ => {
                self.elapsed = self.elapsed.max(now);
                Step::Idle
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::slab::linked;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[derive(Default)]
    struct Entry {
        link: Link,
    }
    linked!(Entry);

    #[derive(Clone, Debug)]
    enum Op {
        Insert(u32),
        Remove(usize),
        Advance(u32, usize),
    }

    fn op() -> impl Strategy<Value = Op> {
        let span = (0..32u32, any::<u32>()).prop_map(|(bits, raw)| raw >> bits);
        prop_oneof![
            4 => span.clone().prop_map(Op::Insert),
            1 => any::<usize>().prop_map(Op::Remove),
            2 => (span.prop_map(|span| span >> 4), 1..40usize).prop_map(|(by, budget)| Op::Advance(by, budget)),
        ]
    }

    proptest! {
        #[test]
        fn the_wheel_fires_what_a_sorted_map_would_and_never_early(ops in prop::collection::vec(op(), 1..120)) {
            let (mut wheel, mut slab, mut now) = (Wheel::new(), Slab::<Entry>::new(), 0u32);
            let mut naive = BTreeMap::new();
            for op in ops {
                match op {
                    Op::Insert(wait) => {
                        let (slot, tick) = (slab.take(), now.saturating_add(wait).min(NONE - 1));
                        wheel.insert(&mut slab, slot, tick);
                        naive.insert(slot, tick);
                    }
                    Op::Remove(which) if !naive.is_empty() => {
                        let slot = *naive.keys().nth(which % naive.len()).unwrap();
                        wheel.remove(&mut slab, slot);
                        slab.release(slot);
                        naive.remove(&slot);
                    }
                    Op::Remove(_) => {}
                    Op::Advance(by, mut budget) => {
                        now = now.saturating_add(by);
                        // With a budget it may stop half-way; nothing may get lost by that.
                        while budget > 0 {
                            budget -= 1;
                            match wheel.step(&mut slab, now) {
                                Step::Fired(slot) => {
                                    let tick = naive.remove(&slot);
                                    prop_assert!(tick.is_some_and(|tick| tick <= now), "{tick:?} at {now}");
                                    slab.release(slot);
                                }
                                Step::Moved => {}
                                Step::Idle => {
                                    prop_assert!(naive.values().all(|tick| *tick > now), "{naive:?} at {now}");
                                    break;
                                }
                            }
                        }
                    }
                }
                prop_assert_eq!(wheel.next_tick().is_some(), !naive.is_empty());
                if let (Some(next), Some(first)) = (wheel.next_tick(), naive.values().min()) {
                    prop_assert!(next <= (*first).max(wheel.elapsed));
                }
            }
        }
    }
}
