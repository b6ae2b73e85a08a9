//! PURE. What waits for each path, and which leg goes next: deficit round robin between tenants.

use crate::clock::WallTime;
use crate::id::{PathId, TenantKey, TenantShare};
use crate::queue::leg::{Place, Wishes};
use crate::queue::route::{Routes, SHARES_MAX, Tenant, Turn};
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
        let mut demand = self.demand_of(slot);
        let path = &mut self.routes.paths[slot];
        demand.joined = std::mem::take(&mut path.joined);
        path.dirty = false;
        path.reported = path.ready;
        path.tellings = path.tellings.wrapping_add(1);
        let (id, tellings) = (path.id, path.tellings);
        if !demand.shares.is_empty() {
            self.routes.each_active(slot, |turn| turn.told = tellings);
        }
        self.routes.free_path_if_unused(slot);
        Some((id, demand))
    }

    /// Legs that are ready for a path now.
    pub fn ready(&self, path: PathId) -> u32 {
        self.routes.find_path(path).map_or(0, |slot| self.routes.paths[slot].ready)
    }

    /// What waits for a path now, to be told again while unanswered.
    pub fn demand(&self, path: PathId) -> Option<Demand> {
        Some(self.demand_of(self.routes.find_path(path)?))
    }

    fn demand_of(&self, slot: u32) -> Demand {
        let routes = &self.routes;
        let path = &routes.paths[slot];
        let tenants = path.active.len;
        let share = |turn: u32| {
            let Tenant { key, weight, .. } = routes.tenants[routes.turns[turn].tenant];
            TenantShare { tenant: key, weight }
        };
        let shares: Vec<_> = match tenants <= SHARES_MAX {
            true => routes.active(slot).map(share).collect(),
            false => Vec::new(),
        };
        let others = if shares.is_empty() { path.weight } else { 0 };
        Demand { ready: path.ready, tenants, shares, others, joined: false, oldest: self.oldest_next(slot) }
    }

    /// Tenants with ready legs for a path and how many, those with the most first.
    pub fn tenants_of(&self, path: PathId, most: usize) -> Vec<(Box<str>, u32)> {
        let Some(slot) = self.routes.find_path(path) else { return Vec::new() };
        let routes = &self.routes;
        let mut turns: Vec<u32> = routes.active(slot).collect();
        turns.sort_by_key(|turn| std::cmp::Reverse(routes.turns[*turn].ready));
        let name = |turn: u32| routes.tenants[routes.turns[turn].tenant].name.clone();
        turns.into_iter().take(most).map(|turn| (name(turn), routes.turns[turn].ready)).collect()
    }

    /// Tenants of a path who wait in the queues of several shards, and in how many: here they take as much less.
    pub fn set_spread(&mut self, path: PathId, spread: Vec<(TenantKey, u16)>) {
        let Some(slot) = self.routes.find_path(path) else { return };
        self.routes.paths[slot].spread = spread;
        let turns: Vec<u32> = self.routes.active(slot).collect();
        for turn in turns {
            let Tenant { key, weight, .. } = self.routes.tenants[self.routes.turns[turn].tenant];
            self.routes.turns[turn].quantum = self.routes.paths[slot].quantum(key, weight);
        }
    }

    fn oldest_next(&self, path: u32) -> WallTime {
        let routes = &self.routes;
        let turns = routes.active(path);
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
        let turn = self.routes.next_turn(path)?;
        let routes = &mut self.routes;
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
        let cost = self.cost(slot);
        let routes = &mut self.routes;
        routes.turns[turn].deficit -= cost;
        if !std::mem::take(&mut routes.turns[turn].jumped) {
            routes.paths[path].jumped = false;
        }
        if routes.turns[turn].deficit <= 0 {
            routes.paths[path].active.rotate(&mut routes.turns);
        }
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
            turn.deficit = (turn.deficit + cost).min(turn.quantum);
        }
    }
}

impl Routes {
    /// Turns of a path with ready legs, the next one first.
    fn active(&self, path: u32) -> impl Iterator<Item = u32> {
        let known = |turn: u32| Some(turn).filter(|turn| *turn != NONE);
        std::iter::successors(known(self.paths[path].active.head), move |turn| {
            known(self.turns[*turn].link.next)
        })
    }

    /// A tenant's first ready leg: it takes its turns from now on. The next one is its own, so that a message now and then waits for
    /// no round, unless the last one went to somebody who had come like that: others get half of the path at least.
    pub(super) fn begin_turns(&mut self, path: u32, turn: u32) {
        let Tenant { key, weight, .. } = self.tenants[self.turns[turn].tenant];
        self.turns[turn].jumped = !std::mem::replace(&mut self.paths[path].jumped, true);
        if self.turns[turn].jumped {
            self.paths[path].active.push_front(&mut self.turns, turn);
        } else {
            self.paths[path].active.push_back(&mut self.turns, turn);
        }
        self.paths[path].weight += weight;
        self.turns[turn].quantum = self.paths[path].quantum(key, weight);
        let told = self.turns[turn].told == self.paths[path].tellings;
        if !told && self.paths[path].active.len <= SHARES_MAX {
            self.paths[path].joined = true;
            self.mark(path);
        }
    }

    fn each_active(&mut self, path: u32, mut act: impl FnMut(&mut Turn)) {
        let mut next = self.paths[path].active.head;
        while next != NONE {
            act(&mut self.turns[next]);
            next = self.turns[next].link.next;
        }
    }

    /// The turn that is next, at the head of the list: the first that is not in debt. Those that are get their quantum and go behind.
    fn next_turn(&mut self, path: u32) -> Option<u32> {
        let mut looked_at = 0;
        loop {
            let turn = self.paths[path].active.head;
            if turn == NONE {
                return None;
            }
            if self.turns[turn].deficit > 0 {
                return Some(turn);
            }
            if self.paths[path].active.len == 1 {
                // Nobody to be fair to.
                self.turns[turn].deficit = 0;
            }
            self.turns[turn].deficit += self.turns[turn].quantum;
            if self.turns[turn].deficit > 0 {
                return Some(turn);
            }
            self.paths[path].active.rotate(&mut self.turns);
            looked_at += 1;
            if looked_at == self.paths[path].active.len {
                self.skip_rounds(path);
                looked_at = 0;
            }
        }
    }

    /// All are in debt, of large messages perhaps: as many rounds at once as pass until the first is not.
    fn skip_rounds(&mut self, path: u32) {
        let rounds = |turn: u32| (-self.turns[turn].deficit).div_euclid(self.turns[turn].quantum);
        let skipped = self.active(path).map(rounds).min().unwrap_or(0);
        self.each_active(path, |turn| turn.deficit += skipped * turn.quantum);
    }
}
