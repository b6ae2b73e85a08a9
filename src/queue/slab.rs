//! PURE. Slabs in pages and the lists threaded through them.
//!
//! A slab grows page by page, so that growth never copies what is there, and a freed place is used again before a new
//! page is taken. Lists are intrusive: a link lives in the entry, nothing is allocated to put an entry into a list.

use std::ops::{Index, IndexMut};

/// No slot.
pub(super) const NONE: u32 = u32::MAX;
/// Entries of a page: small enough that taking one is no stall, large enough that the page table stays small.
const PAGE: usize = 1024;

/// What an entry needs to stand in one list at a time: the free list, a [`List`], or a bucket of the wheel.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    pub next: u32,
    pub prev: u32,
    /// When it is due, in the wheel; [`NONE`] elsewhere.
    pub tick: u32,
}

impl Default for Link {
    fn default() -> Self {
        Self { next: NONE, prev: NONE, tick: NONE }
    }
}

/// An entry of a slab.
pub(super) trait Linked: Default {
    fn link(&mut self) -> &mut Link;
    fn linked(&self) -> &Link;
}

/// Implements [`Linked`] for types whose field is named `link`.
macro_rules! linked {
    ($($entry:ty),+) => {$(
        impl $crate::queue::slab::Linked for $entry {
            fn link(&mut self) -> &mut $crate::queue::slab::Link {
                &mut self.link
            }
            fn linked(&self) -> &$crate::queue::slab::Link {
                &self.link
            }
        }
    )+};
}
pub(super) use linked;

/// Entries by slot.
#[derive(Debug)]
pub(super) struct Slab<T> {
    pages: Vec<Vec<T>>,
    free: u32,
    len: usize,
}

impl<T: Linked> Slab<T> {
    pub fn new() -> Self {
        Self { pages: Vec::new(), free: NONE, len: 0 }
    }

    /// A place to be written to. It holds what its last user left there, so that a generation can outlive its users.
    pub fn take(&mut self) -> u32 {
        self.len += 1;
        if self.free != NONE {
            let slot = self.free;
            self.free = self[slot].link().next;
            *self[slot].link() = Link::default();
            return slot;
        }
        if self.pages.last().is_none_or(|page| page.len() == PAGE) {
            self.pages.push(Vec::with_capacity(PAGE));
        }
        let full_pages = self.pages.len() - 1;
        let page = &mut self.pages[full_pages];
        page.push(T::default());
        let slot = full_pages * PAGE + page.len() - 1;
        // The upper half of the numbers marks list heads in links.
        u32::try_from(slot)
            .ok()
            .filter(|slot| slot >> 31 == 0)
            .expect("2^31 entries are beyond any memory budget")
    }

    /// Puts `value` into a free place.
    pub fn insert(&mut self, value: T) -> u32 {
        let slot = self.take();
        self[slot] = value;
        slot
    }

    /// Frees a place; its entry must not stand in a list. What it owns stays until the place is used again.
    pub fn release(&mut self, slot: u32) {
        let free = self.free;
        *self[slot].link() = Link { next: free, ..Link::default() };
        self.free = slot;
        self.len -= 1;
    }

    /// Entries in use.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether a slot has ever been given out.
    pub fn contains(&self, slot: u32) -> bool {
        self.pages.get(slot as usize / PAGE).is_some_and(|page| slot as usize % PAGE < page.len())
    }

    /// Memory held, free places included; not what the entries own.
    pub fn resident_bytes(&self) -> usize {
        self.pages.iter().map(|page| page.capacity() * size_of::<T>()).sum::<usize>()
            + self.pages.capacity() * size_of::<Vec<T>>()
    }
}

impl<T> Index<u32> for Slab<T> {
    type Output = T;
    fn index(&self, slot: u32) -> &T {
        &self.pages[slot as usize / PAGE][slot as usize % PAGE]
    }
}

impl<T> IndexMut<u32> for Slab<T> {
    fn index_mut(&mut self, slot: u32) -> &mut T {
        &mut self.pages[slot as usize / PAGE][slot as usize % PAGE]
    }
}

/// A doubly linked list of entries of one slab.
#[derive(Clone, Copy, Debug)]
pub(super) struct List {
    pub head: u32,
    pub tail: u32,
    pub len: u32,
}

impl Default for List {
    fn default() -> Self {
        Self { head: NONE, tail: NONE, len: 0 }
    }
}

impl List {
    pub fn push_back<T: Linked>(&mut self, slab: &mut Slab<T>, slot: u32) {
        *slab[slot].link() = Link { next: NONE, prev: self.tail, tick: NONE };
        match self.tail {
            NONE => self.head = slot,
            tail => slab[tail].link().next = slot,
        }
        self.tail = slot;
        self.len += 1;
    }

    pub fn push_front<T: Linked>(&mut self, slab: &mut Slab<T>, slot: u32) {
        *slab[slot].link() = Link { next: self.head, prev: NONE, tick: NONE };
        match self.head {
            NONE => self.tail = slot,
            head => slab[head].link().prev = slot,
        }
        self.head = slot;
        self.len += 1;
    }

    /// Takes `slot`, which must stand in this list, out of it.
    pub fn unlink<T: Linked>(&mut self, slab: &mut Slab<T>, slot: u32) {
        let Link { next, prev, .. } = std::mem::take(slab[slot].link());
        match prev {
            NONE => self.head = next,
            prev => slab[prev].link().next = next,
        }
        match next {
            NONE => self.tail = prev,
            next => slab[next].link().prev = prev,
        }
        self.len -= 1;
    }

    /// The first becomes the last.
    pub fn rotate<T: Linked>(&mut self, slab: &mut Slab<T>) {
        if self.len > 1 {
            let head = self.head;
            self.unlink(slab, head);
            self.push_back(slab, head);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    #[derive(Default)]
    struct Entry {
        link: Link,
    }
    linked!(Entry);

    #[test]
    fn a_freed_place_is_used_again_before_the_slab_grows() {
        let mut slab = Slab::<Entry>::new();
        let slots: Vec<_> = (0..PAGE).map(|_| slab.take()).collect();
        let bytes = slab.resident_bytes();
        slots.iter().for_each(|slot| slab.release(*slot));
        let _again: Vec<_> = (0..PAGE).map(|_| slab.take()).collect();
        assert_eq!((slab.resident_bytes(), slab.len()), (bytes, PAGE));
    }

    proptest! {
        #[test]
        fn a_list_does_what_a_deque_does(steps in prop::collection::vec((0..4u8, 0..16u32), 0..200)) {
            let mut slab = Slab::<Entry>::new();
            let _slots: Vec<_> = (0..16).map(|_| slab.take()).collect();
            let (mut list, mut deque) = (List::default(), VecDeque::new());
            for (step, slot) in steps {
                let place = deque.iter().position(|other| *other == slot);
                match (step, place) {
                    (0, None) => { list.push_back(&mut slab, slot); deque.push_back(slot); }
                    (1, None) => { list.push_front(&mut slab, slot); deque.push_front(slot); }
                    (2, Some(place)) => { list.unlink(&mut slab, slot); deque.remove(place); }
                    (3, _) => { list.rotate(&mut slab); if !deque.is_empty() { deque.rotate_left(1); } }
                    _ => {}
                }
                let mut walked = Vec::new();
                let mut at = list.head;
                while at != NONE { walked.push(at); at = slab[at].link.next; }
                prop_assert_eq!(walked, Vec::from(deque.clone()));
                prop_assert_eq!((list.tail, list.len as usize), (deque.back().copied().unwrap_or(NONE), deque.len()));
            }
        }
    }
}
