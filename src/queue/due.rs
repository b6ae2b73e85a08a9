//! PURE. What time brings: legs that are due, messages that expire, bounces to be sent.
//!
//! Each message has one timer, at the earliest of its deadlines, of the time by which failures are gathered, and of the
//! time at which an offered bounce is offered again. It may fire early, never late; what fires is looked at afresh.

use super::leg::Place;
use super::slab::NONE;
use super::wheel::Step;
use super::{Expired, Queue};
use crate::clock::{Moment, Now};
use crate::id::MessageId;
use crate::outcome::LegState;
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

    /// The tick at which a leg that is not in flight expires.
    fn leg_deadline(&self, slot: u32) -> u32 {
        let leg = &self.legs[slot];
        let message = &self.messages[leg.message];
        let ticks = |wait: Duration| u32::try_from(wait.as_micros() >> super::TICK_SHIFT).unwrap_or(NONE);
        if self.routes.path_of(leg.flow).is_some_and(|path| path.hold) {
            let lifetime = message.expires_at().since(message.accepted_at());
            return message.deadline.saturating_add(ticks(self.options.hold_max.saturating_sub(lifetime)));
        }
        if leg.tried || message.fresh {
            return message.deadline;
        }
        // Ticks count from the start of the process: so does the grace.
        message.deadline.max(ticks(self.options.untried_grace))
    }

    /// Sees to it that the message's timer fires when this leg expires.
    pub(super) fn watch_deadline(&mut self, slot: u32) {
        let bits = self.bits(slot);
        if bits.open & !bits.flying != 0 {
            let tick = self.leg_deadline(slot);
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
            owed |= bits.owed != 0;
            if bits.open & !bits.flying != 0 {
                let deadline = self.leg_deadline(slot);
                if deadline > now {
                    self.watch(message, deadline);
                } else if !self.legs[slot].expired {
                    self.legs[slot].expired = true;
                    let leg = self.leg_ref(slot);
                    self.expired.push_back(leg);
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
            let flow = self.legs[slot].flow;
            let domain = &self.routes.domains[self.routes.flows[flow].domain];
            let path = self.routes.path_of(flow).map(|path| path.id);
            let said = || Some(self.replies.reply(self.replies_of(slot).last()?.1).clone());
            let reason = domain.reason.as_deref().cloned().or_else(said);
            return Some(Expired { job: self.launch(slot, idle), path, reason });
        }
        None
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

    /// A message for which a bounce is to be made now, of all that [`Self::owed`] says. Until `Bounced` is applied it is
    /// offered again each [`super::QueueOptions::bounce_again`].
    pub fn poll_owed(&mut self, now: Now) -> Option<MessageId> {
        self.touch(now.mono);
        while let Some((message, id)) = self.owed.pop_front() {
            if self.find(id) != Some(message) {
                continue;
            }
            self.messages[message].offered = false;
            if self.legs_of(message).any(|slot| self.bits(slot).owed != 0) {
                let again = self.tick_ceil(self.now + self.options.bounce_again);
                self.leased.insert(id, again);
                self.watch(message, again);
                return Some(id);
            }
        }
        None
    }

    /// The legs of a message that have owed recipients, with their replies; empty if there are none.
    pub fn owed(&self, id: MessageId) -> Vec<LegState> {
        let states = self.state(id).map(|(_, states)| states).unwrap_or_default();
        states.into_iter().filter(|state| state.owed != 0).collect()
    }
}
