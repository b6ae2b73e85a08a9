//! PURE. What time brings: legs that are due, late or expired, and reports to be made.
//!
//! Each message has one timer, at the earliest of its deadlines, of the times at which legs count as late, of the time by
//! which failures are gathered, and of the time at which an offered report is offered again. It may fire early, never late; what fires is looked at afresh.

use super::leg::{Place, Wishes};
use super::slab::NONE;
use super::wheel::Step;
use super::{Expired, Late, Queue};
use crate::clock::{Moment, Now, WallTime};
use crate::id::{MessageId, PathId};
use crate::outcome::{LegState, Reply};
use std::time::Duration;

impl Queue {
    /// Moves what is due, at most `entries_max` entries; `true` if there is more to do at once.
    pub fn advance(&mut self, now: Now, entries_max: usize) -> bool {
        self.touch(now.mono);
        let tick = self.tick_now();
        for _ in 0..entries_max {
            if self.routes.wake_domain(self.now) {
                continue;
            }
            match self.due_legs.step(&mut self.legs, tick) {
                Step::Fired(slot) => self.leg_is_due(slot),
                Step::Moved => {}
                Step::Idle => match self.due_messages.step(&mut self.messages, tick) {
                    Step::Fired(message) => self.message_is_due(message),
                    Step::Moved => {}
                    Step::Idle => return false,
                },
            }
        }
        true
    }

    /// When [`Self::advance`] has work next.
    pub fn next_wake(&self) -> Option<Moment> {
        let ticks = [self.due_legs.next_tick(), self.due_messages.next_tick()];
        let tick = ticks.into_iter().flatten().min();
        let base = self.base.unwrap_or_default();
        let wheels = tick.map(|tick| base + Duration::from_micros(u64::from(tick) << super::TICK_SHIFT));
        wheels.into_iter().chain(self.routes.next_wake()).min()
    }

    /// How far [`Self::advance`] is behind the earliest timer.
    pub fn lateness(&self, now: Now) -> Duration {
        self.next_wake().map_or(Duration::ZERO, |due| now.mono.since(due))
    }

    fn leg_is_due(&mut self, slot: u32) {
        let mut bits = self.bits(slot);
        bits.deferred = 0;
        bits.round = self.legs[slot].attempts;
        self.legs[slot].place = Place::Nowhere;
        self.counts.waiting -= 1;
        self.set_bits(slot, bits, false);
    }

    /// How old a leg may become.
    fn lifetime(&self, slot: u32) -> Duration {
        let message = &self.messages[self.legs[slot].message];
        let given = || message.expires_at().since(message.accepted_at());
        self.schedule(slot).expire_after.unwrap_or_else(given)
    }

    /// When a leg expires.
    pub(super) fn expires_at(&self, slot: u32) -> WallTime {
        self.messages[self.legs[slot].message].accepted_at() + self.lifetime(slot)
    }

    /// The tick at which a leg reaches an age.
    fn tick_at_age(&self, slot: u32, age: Duration) -> u32 {
        let born = i64::from(self.messages[self.legs[slot].message].born);
        let tick = born.saturating_add(i64::from(super::ticks(age)) + 1);
        u32::try_from(tick.max(0)).unwrap_or(NONE).min(NONE - 1)
    }

    /// [`Self::tick_at_age`], if the leg has had its chance in this process by then; else when it has had time for one.
    fn tick_at_fair_age(&self, slot: u32, age: Duration) -> u32 {
        let tick = self.tick_at_age(slot, age);
        let leg = &self.legs[slot];
        if leg.tried || self.messages[leg.message].fresh {
            return tick;
        }
        // Ticks count from the start of the process: so does the grace.
        tick.max(super::ticks(self.options.untried_grace))
    }

    fn is_held(&self, slot: u32) -> bool {
        self.routes.path_of(self.legs[slot].flow).is_some_and(|path| path.hold)
    }

    /// The tick at which a leg that is not in flight expires.
    fn leg_deadline(&self, slot: u32) -> u32 {
        let lifetime = self.lifetime(slot);
        if self.is_held(slot) {
            return self.tick_at_age(slot, lifetime.max(self.options.hold_max));
        }
        self.tick_at_fair_age(slot, lifetime)
    }

    /// The tick at which the sender is to be told that a leg is late; `None` if that is done, not wanted, or of no use: an
    /// operator holds it, or it expires before.
    fn leg_delay(&self, slot: u32) -> Option<u32> {
        let leg = &self.legs[slot];
        let wanted = self.messages[leg.message].wishes.has(Wishes::DELAY);
        let after = self.schedule(slot).delay_after.filter(|_| wanted && !leg.delay_told)?;
        let useful = after < self.lifetime(slot) && !self.is_held(slot);
        useful.then(|| self.tick_at_fair_age(slot, after))
    }

    fn is_late(&self, slot: u32) -> bool {
        let bits = self.bits(slot);
        let now = self.tick_now();
        bits.open & !bits.flying != 0
            && self.leg_deadline(slot) > now
            && self.leg_delay(slot).is_some_and(|tick| tick <= now)
    }

    /// Sees to it that the message's timer fires when this leg is late, or expires.
    pub(super) fn watch_deadline(&mut self, slot: u32) {
        let bits = self.bits(slot);
        if bits.open & !bits.flying != 0 {
            let tick = self.leg_deadline(slot);
            let tick = self.leg_delay(slot).map_or(tick, |delay| delay.min(tick));
            self.watch(self.legs[slot].message, tick);
        }
    }

    fn watch(&mut self, message: u32, tick: u32) {
        let set = self.messages[message].link.tick;
        if set != NONE {
            if set <= tick {
                return;
            }
            self.due_messages.remove(&mut self.messages, message);
        }
        self.due_messages.insert(&mut self.messages, message, tick);
    }

    fn message_is_due(&mut self, message: u32) {
        let now = self.tick_now();
        let mut slot = self.messages[message].leg;
        let mut owed = false;
        while slot != NONE {
            let bits = self.bits(slot);
            owed |= bits.reports() != 0;
            if bits.open & !bits.flying != 0 {
                let deadline = self.leg_deadline(slot);
                if deadline > now {
                    self.watch(message, deadline);
                } else if !self.legs[slot].expired {
                    self.legs[slot].expired = true;
                    let leg = self.leg_ref(slot);
                    self.expired.push_back(leg);
                }
                match self.leg_delay(slot) {
                    Some(tick) if tick > now => self.watch(message, tick),
                    Some(_) if deadline > now => owed = true,
                    _ => {}
                }
            }
            slot = self.legs[slot].sibling;
        }
        if owed {
            self.offer_bounce(message);
        }
    }

    /// Recipients that have expired. They are in flight afterwards: the caller must answer by [`Self::outcome`], as failed
    /// and not as an attempt, or by [`Self::not_tried`], after which they are offered again.
    pub fn poll_expired(&mut self) -> Option<Expired> {
        while let Some(leg) = self.expired.pop_front() {
            let Some(slot) = self.slot(leg) else { continue };
            self.legs[slot].expired = false;
            let bits = self.bits(slot);
            let idle = bits.open & !bits.flying;
            // It may have been taken by a job, or its path may hold mail since; then the outcome or the timer
            // brings it here again.
            if idle == 0 {
                continue;
            }
            if self.leg_deadline(slot) > self.tick_now() {
                self.watch_deadline(slot);
                continue;
            }
            let (path, reason) = self.hindrance(slot);
            return Some(Expired { job: self.launch(slot, idle), path, reason });
        }
        None
    }

    /// What stands in a leg's way, as far as the queue knows: its path, why its domain has none, or the last reply.
    fn hindrance(&self, slot: u32) -> (Option<PathId>, Option<Reply>) {
        let flow = self.legs[slot].flow;
        let domain = &self.routes.domains[self.routes.flows[flow].domain];
        let path = self.routes.path_of(flow).map(|path| path.id);
        let said = || Some(self.replies.reply(self.replies_of(slot).last()?.1).clone());
        (path, domain.reason.as_deref().cloned().or_else(said))
    }

    /// Legs of a message of whose delay the sender is to be told; empty if there are none.
    pub fn late(&self, id: MessageId) -> Vec<Late> {
        let Some(message) = self.find(id) else { return Vec::new() };
        let late = self.legs_of(message).filter(|slot| self.is_late(*slot));
        late.map(|slot| {
            let (path, reason) = self.hindrance(slot);
            Late { state: self.leg_state(slot), until: self.expires_at(slot), path, reason }
        })
        .collect()
    }

    /// After a change that left recipients owed: now if nothing else is open, else when failures have been gathered.
    pub(super) fn arrange_bounce(&mut self, message: u32, open: bool) {
        if open {
            let tick = self.tick_ceil(self.now + self.options.bounce_gather);
            self.watch(message, tick);
        } else {
            self.offer_bounce(message);
        }
    }

    fn offer_bounce(&mut self, message: u32) {
        let id = self.messages[message].id();
        match self.leased.get(&id) {
            // A bounce is on its way: a second one before it is recorded would be sent twice.
            Some(until) if *until > self.tick_now() => {
                let until = *until;
                self.watch(message, until);
            }
            _ if !self.messages[message].offered => {
                self.messages[message].offered = true;
                self.owed.push_back((message, id));
            }
            _ => {}
        }
    }

    /// A message whose sender is to be told now of what [`Self::owed`] and [`Self::late`] say. Until `Bounced` is applied it is
    /// offered again each [`super::QueueOptions::bounce_again`].
    pub fn poll_owed(&mut self, now: Now) -> Option<MessageId> {
        self.touch(now.mono);
        while let Some((message, id)) = self.owed.pop_front() {
            if self.find(id) != Some(message) {
                continue;
            }
            self.messages[message].offered = false;
            let owes = |slot| self.bits(slot).reports() != 0 || self.is_late(slot);
            if self.legs_of(message).any(owes) {
                let again = self.tick_ceil(self.now + self.options.bounce_again);
                self.leased.insert(id, again);
                self.watch(message, again);
                return Some(id);
            }
        }
        None
    }

    /// The legs of a message that have recipients of whom the sender is to be told, with their replies.
    pub fn owed(&self, id: MessageId) -> Vec<LegState> {
        let states = self.state(id).map(|(_, states)| states).unwrap_or_default();
        states.into_iter().filter(|state| state.reports() != 0).collect()
    }
}
