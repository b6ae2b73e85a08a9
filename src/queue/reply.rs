//! PURE. The last reply of each deferred or owed leg, each distinct reply kept once.
//!
//! Millions of legs share few replies, unless a remote puts a number into each. So the table has a limit in bytes: beyond
//! it the text is left out and the status kept, and beyond a number of statuses only code and class, of which there
//! are few. A leg pays four bytes.

use super::index::{Index, TABLES_FEW};
use super::slab::{Link, Slab, linked};
use crate::outcome::{Enhanced, Reply};

/// Replies without text kept beyond the limit in bytes; a remote chooses the digits, so they need a bound as well.
const STATUSES_MAX: usize = 4096;
/// What an entry costs besides its text: itself, its place in the index, the allocation's own.
const ENTRY_BYTES: usize = size_of::<Entry>() + 32;

#[derive(Debug, Default)]
struct Entry {
    link: Link,
    reply: Reply,
    users: u32,
}
linked!(Entry);

#[derive(Debug)]
pub(super) struct ReplyTable {
    entries: Slab<Entry>,
    index: Index,
    bytes: usize,
    bytes_max: usize,
}

impl ReplyTable {
    pub fn new(bytes_max: usize, seed: u64) -> Self {
        Self { entries: Slab::new(), index: Index::new(TABLES_FEW, seed), bytes: 0, bytes_max }
    }

    fn hash(&self, reply: &Reply) -> u64 {
        self.index.hash((reply.code, reply.enhanced, &*reply.text))
    }

    /// The number of `reply`, or of as much of it as there is room for; one more user.
    pub fn intern(&mut self, reply: &Reply) -> u32 {
        if let Some(slot) = self.share(reply) {
            return slot;
        }
        if self.bytes + ENTRY_BYTES + reply.text.len() <= self.bytes_max {
            return self.add(reply.clone());
        }
        let status = Reply { text: Box::default(), ..*reply };
        if let Some(slot) = self.share(&status) {
            return slot;
        }
        if self.bytes < self.bytes_max + STATUSES_MAX * ENTRY_BYTES {
            return self.add(status);
        }
        let class = status.enhanced.0.min(9);
        let status =
            Reply { code: reply.code.min(600), enhanced: Enhanced(class, 0, 0), text: Box::default() };
        self.share(&status).unwrap_or_else(|| self.add(status))
    }

    fn share(&mut self, reply: &Reply) -> Option<u32> {
        let slot = self.index.find(self.hash(reply), |slot| self.entries[slot].reply == *reply)?;
        self.entries[slot].users += 1;
        Some(slot)
    }

    fn add(&mut self, reply: Reply) -> u32 {
        let hash = self.hash(&reply);
        self.bytes += ENTRY_BYTES + reply.text.len();
        let slot = self.entries.insert(Entry { link: Link::default(), reply, users: 1 });
        self.index.insert(hash, slot);
        slot
    }

    /// One user less.
    pub fn release(&mut self, slot: u32) {
        self.entries[slot].users -= 1;
        if self.entries[slot].users == 0 {
            let reply = std::mem::take(&mut self.entries[slot].reply);
            self.bytes -= ENTRY_BYTES + reply.text.len();
            self.index.remove(self.hash(&reply), slot);
            self.entries.release(slot);
        }
    }

    pub fn reply(&self, slot: u32) -> &Reply {
        &self.entries[slot].reply
    }

    pub fn resident_bytes(&self) -> usize {
        self.entries.resident_bytes() + self.index.resident_bytes() + self.bytes
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_is_kept_once_and_freed_with_its_last_user() {
        let mut table = ReplyTable::new(1 << 20, 1);
        let reply = Reply::new(451, Enhanced(4, 7, 1), "try later");
        let (one, two) = (table.intern(&reply), table.intern(&reply));
        assert_eq!((one, table.reply(two)), (two, &reply));
        table.release(one);
        assert_eq!(table.len(), 1);
        table.release(two);
        assert_eq!((table.len(), table.bytes), (0, 0));
    }

    #[test]
    fn a_remote_that_makes_every_reply_unique_fills_nothing_but_its_share() {
        let mut table = ReplyTable::new(64 * 1024, 1);
        for i in 0..200_000u32 {
            let enhanced = Enhanced(4, (i >> 8) as u16, (i & 0xffff) as u16);
            let slot = table.intern(&Reply::new(421, enhanced, &format!("id {i}")));
            assert_eq!((table.reply(slot).code, table.reply(slot).enhanced.0), (421, 4));
        }
        assert!(table.bytes <= 64 * 1024 + (STATUSES_MAX + 1) * ENTRY_BYTES + 300, "{}", table.bytes);
    }
}
