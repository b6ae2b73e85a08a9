//! PURE. What waits for each path, and which leg goes next: deficit round robin between tenants.

use crate::clock::WallTime;
use crate::id::PathId;
use crate::queue::leg::{Place, Wishes};
use crate::queue::slab::NONE;
use crate::queue::{Demand, Job, Queue};

/// Cost of a job besides its body, bytes: a transaction has round trips and a final sync at the remote.
const JOB_BYTES: i64 = 1024;
/// Turns looked at for [`Demand::oldest`].
const TURNS_LOOKED_AT: usize = 16;

impl Queue {
    /// The next path whose demand is worth telling. Coalesced: a path stands here once, whatever happened to it. Told even
    /// if it came back to what it was: who sends counts jobs down, and may have come to 0 meanwhile.
    pub fn poll_demand(&mut self) -> Option<(PathId, Demand)> {
        let slot = self.routes.dirty.pop_front()?;
        let path = &mut self.routes.paths[slot];
        path.dirty = false;
        path.reported = path.ready;
        let (id, ready) = (path.id, path.ready);
        let tenants = path.active.len;
        let oldest = self.oldest_next(slot);
        self.routes.free_path_if_unused(slot);
        Some((id, Demand { ready, tenants, oldest }))
    }

    /// Legs that are ready for a path now.
    pub fn ready(&self, path: PathId) -> u32 {
        self.routes.find_path(path).map_or(0, |slot| self.routes.paths[slot].ready)
    }

    /// What waits for a path now, to be told again while unanswered.
    pub fn demand(&self, path: PathId) -> Option<Demand> {
        let slot = self.routes.find_path(path)?;
        let path = &self.routes.paths[slot];
        Some(Demand { ready: path.ready, tenants: path.active.len, oldest: self.oldest_next(slot) })
    }

    fn oldest_next(&self, path: u32) -> WallTime {
        let routes = &self.routes;
        let first = Some(routes.paths[path].active.head).filter(|turn| *turn != NONE);
        let turns = std::iter::successors(first, |turn| {
            Some(routes.turns[*turn].link.next).filter(|turn| *turn != NONE)
        });
        let accepted = turns.take(TURNS_LOOKED_AT).map(|turn| {
            let leg = routes.flows[routes.turns[turn].active.head].ready.head;
            self.messages[self.legs[leg].message].accepted_at()
        });
        accepted.min().unwrap_or_default()
    }

    /// The next job of a path, with at most `recipients_max` recipients; it is in flight then. A leg with more goes out in
    /// parts, which may be in flight at the same time and count as one attempt. `None` if nothing is ready, or the path
    /// holds mail.
    pub fn pop(&mut self, path: PathId, recipients_max: u32) -> Option<Job> {
        let path = self.routes.find_path(path)?;
        if self.routes.paths[path].hold || recipients_max == 0 {
            return None;
        }
        let routes = &mut self.routes;
        let turn = loop {
            let turn = routes.paths[path].active.head;
            if turn == NONE {
                return None;
            }
            if routes.turns[turn].deficit > 0 {
                break turn;
            }
            if routes.paths[path].active.len == 1 {
                // Nobody to be fair to.
                routes.turns[turn].deficit = 0;
            }
            routes.turns[turn].deficit += i64::from(self.options.quantum_bytes.max(1024));
            routes.paths[path].active.rotate(&mut routes.turns);
        };
        routes.turns[turn].active.rotate(&mut routes.flows);
        // Rotation takes the first to the back: that one is served.
        let flow = routes.turns[turn].active.tail;
        let slot = routes.flows[flow].ready.head;
        let one_by_one = self.messages[self.legs[slot].message].wishes.has(Wishes::ONE_BY_ONE);
        let recipients_max = if one_by_one { 1 } else { recipients_max.min(64) };
        let mut fresh = self.bits(slot).fresh();
        let mut recipients = 0;
        for _ in 0..recipients_max {
            recipients |= fresh & fresh.wrapping_neg();
            fresh &= fresh.wrapping_sub(1);
        }
        self.routes.turns[turn].deficit -= self.cost(slot);
        Some(self.launch(slot, recipients))
    }

    /// Puts recipients of a leg in flight.
    pub(in crate::queue) fn launch(&mut self, slot: u32, recipients: u64) -> Job {
        let job = self.job(slot, recipients);
        let mut bits = self.bits(slot);
        bits.flying |= recipients;
        self.set_bits(slot, bits, false);
        job
    }

    fn cost(&self, slot: u32) -> i64 {
        i64::from(self.messages[self.legs[slot].message].body_bytes) + JOB_BYTES
    }

    /// A job that came back unused costs its tenant nothing.
    pub(in crate::queue) fn refund(&mut self, slot: u32) {
        let turn = self.routes.flows[self.legs[slot].flow].turn;
        if turn != NONE && self.legs[slot].place == Place::Flying {
            let cost = self.cost(slot);
            let turn = &mut self.routes.turns[turn];
            turn.deficit = (turn.deficit + cost).min(i64::from(self.options.quantum_bytes.max(1024)));
        }
    }
}
