//! PURE. From a key's hash to a slab slot: many small open-addressing tables instead of one large map.
//!
//! One map of ten million entries stops the shard for a quarter of a second when it grows; these tables grow one at a
//! time, by half, a few thousand entries each. Keys are not stored: the slab has them, and the caller compares. An
//! entry is 8 bytes: 32 bits of the hash, and the slot.

use super::slab::NONE;
use std::hash::{BuildHasher, Hash};

/// Tables of an index of messages: at ten million entries each holds 20,000, which move in a fraction of a millisecond.
pub(super) const TABLES_MANY: usize = 512;
/// Tables of an index that stays small.
pub(super) const TABLES_FEW: usize = 16;
const EMPTY: u64 = u64::MAX;

#[derive(Debug)]
pub(super) struct Index {
    tables: Vec<Table>,
    hasher: foldhash::fast::FixedState,
}

#[derive(Clone, Debug, Default)]
struct Table {
    /// Upper half: low 32 bits of the hash. Lower half: slot.
    entries: Vec<u64>,
    used: usize,
}

impl Index {
    /// `tables` is a power of two above 1. The seed keeps clients from choosing domains that collide.
    pub fn new(tables: usize, seed: u64) -> Self {
        assert!(tables.is_power_of_two() && tables > 1, "the upper bits of the hash choose the table");
        Self { tables: vec![Table::default(); tables], hasher: foldhash::fast::FixedState::with_seed(seed) }
    }

    pub fn hash(&self, key: impl Hash) -> u64 {
        self.hasher.hash_one(key)
    }

    fn table(&self, hash: u64) -> usize {
        (hash >> (64 - self.tables.len().trailing_zeros())) as usize
    }

    /// The slot with this hash for which `is_it` holds.
    pub fn find(&self, hash: u64, is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        let table = &self.tables[self.table(hash)];
        let at = table.probe(hash as u32, is_it)?;
        Some(table.entries[at] as u32)
    }

    /// Adds a slot that is not there yet.
    pub fn insert(&mut self, hash: u64, slot: u32) {
        debug_assert_ne!(slot, NONE);
        let table = self.table(hash);
        self.tables[table].insert((u64::from(hash as u32) << 32) | u64::from(slot));
    }

    /// Forgets a slot.
    pub fn remove(&mut self, hash: u64, slot: u32) {
        let table = self.table(hash);
        let table = &mut self.tables[table];
        if let Some(at) = table.probe(hash as u32, |other| other == slot) {
            table.remove(at);
        }
    }

    pub fn resident_bytes(&self) -> usize {
        self.tables.iter().map(|table| table.entries.capacity() * size_of::<u64>() + size_of::<Table>()).sum()
    }
}

impl Table {
    /// Where the search for an entry starts: its tag scaled to the table, which need not be a power of two.
    fn home(&self, entry: u64) -> usize {
        (((entry >> 32) * self.entries.len() as u64) >> 32) as usize
    }

    fn after(&self, at: usize) -> usize {
        if at + 1 == self.entries.len() { 0 } else { at + 1 }
    }

    fn probe(&self, tag: u32, mut is_it: impl FnMut(u32) -> bool) -> Option<usize> {
        if self.used == 0 {
            return None;
        }
        let mut at = self.home(u64::from(tag) << 32);
        // A table always has an empty place: it grows at seven eighths.
        while self.entries[at] != EMPTY {
            if (self.entries[at] >> 32) as u32 == tag && is_it(self.entries[at] as u32) {
                return Some(at);
            }
            at = self.after(at);
        }
        None
    }

    fn insert(&mut self, entry: u64) {
        if (self.used + 1) * 8 > self.entries.len() * 7 {
            let larger = vec![EMPTY; (self.entries.len() * 3 / 2).max(8)];
            for entry in std::mem::replace(&mut self.entries, larger) {
                if entry != EMPTY {
                    self.place(entry);
                }
            }
        }
        self.place(entry);
        self.used += 1;
    }

    fn place(&mut self, entry: u64) {
        let mut at = self.home(entry);
        while self.entries[at] != EMPTY {
            at = self.after(at);
        }
        self.entries[at] = entry;
    }

    /// Moves later entries of the run back, so that no tombstones pile up.
    fn remove(&mut self, mut gap: usize) {
        let mut at = gap;
        loop {
            at = self.after(at);
            if self.entries[at] == EMPTY {
                break;
            }
            let home = self.home(self.entries[at]);
            let home_behind_gap = if gap <= at { gap < home && home <= at } else { gap < home || home <= at };
            if !home_behind_gap {
                self.entries[gap] = self.entries[at];
                gap = at;
            }
        }
        self.entries[gap] = EMPTY;
        self.used -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    proptest! {
        #[test]
        fn an_index_does_what_a_map_does(steps in prop::collection::vec((any::<bool>(), 0..60u32), 0..400)) {
            // Few distinct hashes, so that runs collide and wrap.
            let hash = |key: u32| u64::from(key % 7) * 0x2000_0001;
            let (mut index, mut map) = (Index::new(2, 1), HashMap::new());
            for (add, key) in steps {
                if add && map.insert(key, ()).is_none() {
                    index.insert(hash(key), key);
                } else if !add && map.remove(&key).is_some() {
                    index.remove(hash(key), key);
                }
                for key in 0..60 {
                    let found = index.find(hash(key), |slot| slot == key);
                    prop_assert_eq!(found, map.get(&key).map(|()| key));
                }
            }
        }
    }
}
