//! PURE. The fold: what a record does to the queue, live and in recovery alike.

use super::leg::{Bits, Form, Leg, Message, Mixed, Place, REPLIES_MANY, Replies, Wall48, Wishes, halves};
use super::slab::{Link, NONE};
use super::{Applied, Change, Queue};
use crate::clock::{Moment, Now, WallTime};
use crate::envelope::Envelope;
use crate::id::{Location, MessageId};
use crate::outcome::{Bounced, LegResult, LegState, Outcome, Verdict};
use std::time::Duration;

/// A message that was accepted longer ago than this is taken to be recovered.
const FRESH_WITHIN: Duration = Duration::from_secs(60);

impl Queue {
    /// Applies what has become durable. A record about an unknown message is ignored (its end was read before); one that
    /// was applied before changes nothing.
    pub fn apply(&mut self, change: Change<'_>, now: Now) -> Applied {
        self.touch(now.mono);
        match change {
            Change::Accepted { id, envelope, location, body_bytes, states } => {
                self.apply_accepted(id, envelope, location, body_bytes, states, now)
            }
            Change::Outcome(outcome) => self.apply_outcome(outcome, now),
            Change::Bounced(bounced) => self.apply_bounced(bounced),
            Change::Aborted(id) => match self.find(id) {
                Some(message) => {
                    while self.messages[message].leg != NONE {
                        self.free_leg(self.messages[message].leg);
                    }
                    self.settle(message)
                }
                None => Applied::default(),
            },
        }
    }

    fn apply_accepted(
        &mut self,
        id: MessageId,
        envelope: &Envelope,
        location: Location,
        body_bytes: u32,
        states: &[LegState],
        now: Now,
    ) -> Applied {
        if let Some(message) = self.find(id) {
            return self.merge_copy(message, location, states, now);
        }
        let message = self.insert_message(id, envelope, location, body_bytes, now);
        let tenant = envelope.tenant();
        let mut last = NONE;
        for part in envelope.legs() {
            let all = if part.count >= 64 { u64::MAX } else { (1 << part.count) - 1 };
            let state = states.iter().find(|state| state.leg == part.first);
            let known = state.map_or(0, LegState::unsettled);
            if !states.is_empty() && known & all == 0 {
                continue;
            }
            let slot = self.legs.take();
            let generation = self.legs[slot].generation;
            let course = self.options.pools.course(envelope.pool(), tenant, part.domain);
            let flow = self.routes.join_flow(&course, tenant, &self.options);
            let due = Wall48::from(envelope.accepted_at());
            self.legs[slot] = Leg { message, flow, generation, first: part.first, due, ..Leg::default() };
            match last {
                NONE => self.messages[message].leg = slot,
                last => self.legs[last].sibling = slot,
            }
            last = slot;
            let mut bits = Bits { open: all, ..Bits::default() };
            if let Some(state) = state {
                bits.open = state.open & all;
                let closed = all & !state.open;
                bits.owed = state.owed & closed;
                (bits.relayed, bits.placed) = (state.relayed & closed, state.placed & closed);
                // What is due in the past is ready at once: see `set_bits`.
                bits.deferred = bits.open;
                bits.round = state.attempts;
                self.legs[slot].attempts = state.attempts;
                self.legs[slot].due = state.due.into();
                self.legs[slot].delay_told = state.delay_told;
                self.merge_replies(slot, &state.replies, bits);
            }
            self.place_deferred(slot, bits, now);
        }
        self.finish(message)
    }

    fn insert_message(
        &mut self,
        id: MessageId,
        envelope: &Envelope,
        location: Location,
        body_bytes: u32,
        now: Now,
    ) -> u32 {
        let (accepted_at, expires_at) = (envelope.accepted_at(), envelope.expires_at());
        let lifetime = expires_at.since(accepted_at);
        // A clock that went back does not prolong a life: nothing is younger than new.
        let age = now.wall.since(accepted_at);
        let born = i64::from(self.tick_ceil(now.mono)) - i64::from(super::ticks(age));
        let seconds = |at: u64| u32::try_from(at).unwrap_or(u32::MAX);
        let message = self.messages.insert(Message {
            link: Link::default(),
            id: halves(id.as_u64()),
            location,
            body_bytes,
            leg: NONE,
            born: i32::try_from(born).unwrap_or(i32::MIN),
            accepted: seconds(accepted_at.0 / 1000),
            expires: seconds(expires_at.0.div_ceil(1000)),
            fresh: age <= FRESH_WITHIN && (age < lifetime || lifetime.is_zero()),
            offered: false,
            wishes: Wishes::of(envelope, &self.options.verp),
        });
        self.ids.insert(self.ids.hash(id.as_u64()), message);
        *self.ages.entry(self.messages[message].accepted).or_default() += 1;
        message
    }

    /// A second copy: the later place counts, and each recipient is as far as it is in either.
    fn merge_copy(&mut self, message: u32, location: Location, states: &[LegState], now: Now) -> Applied {
        let old = self.messages[message].location;
        if old == location {
            return Applied::default();
        }
        if (location.segment, location.offset) < (old.segment, old.offset) {
            return Applied { superseded: Some(location), ..Applied::default() };
        }
        self.messages[message].location = location;
        if !states.is_empty() {
            let legs: Vec<_> = self.legs_of(message).collect();
            for slot in legs {
                let first = self.legs[slot].first;
                let settled = LegState::default();
                let state = states.iter().find(|state| state.leg == first).unwrap_or(&settled);
                self.merge_state(slot, state, now);
            }
        }
        Applied { superseded: Some(old), ..self.finish(message) }
    }

    fn merge_state(&mut self, slot: u32, state: &LegState, now: Now) {
        let mut bits = self.bits(slot);
        let unsettled = bits.unsettled() & state.unsettled();
        bits.open &= state.open;
        let reports = unsettled & !bits.open;
        bits.owed = (bits.owed | state.owed) & reports;
        bits.relayed = (bits.relayed | state.relayed) & reports;
        bits.placed = (bits.placed | state.placed) & reports;
        self.legs[slot].delay_told |= state.delay_told;
        if state.attempts > self.legs[slot].attempts {
            self.legs[slot].attempts = state.attempts;
            self.legs[slot].due = state.due.into();
            bits.deferred = bits.open & !bits.flying;
        }
        self.merge_replies(slot, &state.replies, bits);
        self.place_deferred(slot, bits, now);
    }

    fn apply_outcome(&mut self, outcome: &Outcome, now: Now) -> Applied {
        let Some(message) = self.find(outcome.id) else { return Applied::default() };
        let found = self.legs_of(message).find(|slot| self.legs[*slot].first == outcome.leg);
        let Some(slot) = found else { return Applied::default() };
        let mut bits = self.bits(slot);
        let leg = &mut self.legs[slot];
        // A deferral from before the last one that is known says nothing new.
        let current = outcome.attempts >= leg.attempts;
        let mut deferred_now = false;
        for result in &outcome.results {
            let recipients = result.recipients & bits.open;
            bits.flying &= !result.recipients;
            match result.verdict {
                Verdict::Delivered => {}
                Verdict::Relayed => bits.relayed |= recipients,
                Verdict::Placed => bits.placed |= recipients,
                Verdict::Failed => bits.owed |= recipients,
                Verdict::Deferred if current => {
                    bits.deferred |= recipients;
                    deferred_now |= recipients != 0;
                }
                Verdict::Deferred => {}
            }
            if result.verdict != Verdict::Deferred {
                bits.open &= !recipients;
            }
        }
        if deferred_now {
            let known = WallTime::from(leg.due);
            // Parts of one round wait for each other's time.
            let due = if outcome.attempts > leg.attempts { outcome.due } else { outcome.due.max(known) };
            leg.due = due.into();
        }
        leg.attempts = leg.attempts.max(outcome.attempts);
        if current || outcome.results.iter().any(|result| result.verdict != Verdict::Deferred) {
            self.merge_replies(slot, &outcome.results, bits);
        }
        self.place_deferred(slot, bits, now);
        self.finish(message)
    }

    fn apply_bounced(&mut self, bounced: &Bounced) -> Applied {
        let Some(message) = self.find(bounced.id) else { return Applied::default() };
        self.leased.remove(&bounced.id);
        for first in &bounced.delayed {
            let found = self.legs_of(message).find(|slot| self.legs[*slot].first == *first);
            if let Some(slot) = found {
                self.legs[slot].delay_told = true;
            }
        }
        for (first, recipients) in &bounced.legs {
            let found = self.legs_of(message).find(|slot| self.legs[*slot].first == *first);
            if let Some(slot) = found {
                let mut bits = self.bits(slot);
                for reported in [&mut bits.owed, &mut bits.relayed, &mut bits.placed] {
                    *reported &= !recipients;
                }
                self.merge_replies(slot, &[], bits);
                self.set_bits(slot, bits, false);
            }
        }
        self.finish(message)
    }

    /// Frees legs that have nothing left, arranges bounces and timers, and settles the message with its last leg.
    fn finish(&mut self, message: u32) -> Applied {
        let mut slot = self.messages[message].leg;
        let (mut open, mut owed) = (false, false);
        while slot != NONE {
            let next = self.legs[slot].sibling;
            let bits = self.bits(slot);
            if bits.unsettled() == 0 {
                self.free_leg(slot);
            } else {
                open |= bits.open != 0;
                owed |= bits.reports() != 0;
                self.watch_deadline(slot);
            }
            slot = next;
        }
        if !open && !owed {
            return self.settle(message);
        }
        if owed {
            self.arrange_bounce(message, open);
        }
        Applied::default()
    }

    /// Forgets a message without legs.
    fn settle(&mut self, message: u32) -> Applied {
        let Message { location, accepted, .. } = self.messages[message];
        let id = self.messages[message].id();
        if self.messages[message].link.tick != NONE {
            self.due_messages.remove(&mut self.messages, message);
        }
        self.leased.remove(&id);
        self.ids.remove(self.ids.hash(id.as_u64()), message);
        if let Some(count) = self.ages.get_mut(&accepted) {
            *count -= 1;
            if *count == 0 {
                self.ages.remove(&accepted);
            }
        }
        self.messages.release(message);
        Applied { settled: Some(location), superseded: None }
    }

    fn free_leg(&mut self, slot: u32) {
        self.merge_replies(slot, &[], Bits::default());
        self.set_bits(slot, Bits::default(), false);
        let Leg { message, sibling, flow, .. } = self.legs[slot];
        if self.messages[message].leg == slot {
            self.messages[message].leg = sibling;
        } else {
            let before = self.legs_of(message).find(|other| self.legs[*other].sibling == slot);
            let before = before.expect("a leg stands in its message's list");
            self.legs[before].sibling = sibling;
        }
        self.routes.leave_flow(flow, self.options.idle_domains_max);
        let leg = &mut self.legs[slot];
        leg.generation = leg.generation.wrapping_add(1);
        leg.message = NONE;
        self.legs.release(slot);
    }

    pub(super) fn bits(&self, slot: u32) -> Bits {
        let leg = &self.legs[slot];
        let raw = super::leg::join(leg.raw);
        let simple = Bits { open: raw, round: leg.attempts, ..Bits::default() };
        match leg.form {
            Form::Fresh => simple,
            Form::Flying => Bits { flying: raw, ..simple },
            Form::Deferred => Bits { deferred: raw, ..simple },
            Form::Owed => Bits { open: 0, owed: raw, ..simple },
            Form::Mixed => self.mixed[leg.raw[1]].bits,
        }
    }

    /// [`Self::set_bits`], where deferred recipients whose time has passed become fresh at once.
    fn place_deferred(&mut self, slot: u32, mut bits: Bits, now: Now) {
        bits.flying &= bits.open;
        bits.deferred &= bits.open;
        let leg = &mut self.legs[slot];
        if bits.deferred != 0 && WallTime::from(leg.due) <= now.wall {
            bits.deferred = 0;
            if bits.flying == 0 {
                bits.round = leg.attempts;
            }
        }
        // A due time in the wheel is worked out anew when the leg's own has changed.
        if leg.place == Place::Waiting {
            self.due_legs.remove(&mut self.legs, slot);
            self.legs[slot].place = Place::Nowhere;
            self.counts.waiting -= 1;
        }
        let wait =
            WallTime::from(self.legs[slot].due).since(now.wall).min(self.schedule(slot).retry.wait_max());
        self.change_bits(slot, bits, false, now.mono + wait);
    }

    /// Writes a leg's bits and puts it where it belongs. A leg that goes (back) to wait keeps no time: it is due at once,
    /// which only happens to jobs that come back unused.
    pub(super) fn set_bits(&mut self, slot: u32, bits: Bits, front: bool) {
        self.change_bits(slot, bits, front, self.now);
    }

    fn change_bits(&mut self, slot: u32, mut bits: Bits, front: bool, due: Moment) {
        bits.flying &= bits.open;
        bits.deferred &= bits.open;
        self.write_bits(slot, bits);
        let (old, new) = (self.legs[slot].place, bits.place());
        if old == new {
            return;
        }
        match old {
            Place::Queued => self.unqueue_leg(slot),
            Place::Waiting => {
                self.due_legs.remove(&mut self.legs, slot);
                self.counts.waiting -= 1;
            }
            Place::Flying => self.counts.flying -= 1,
            Place::Owed => self.counts.owed -= 1,
            Place::Nowhere => {}
        }
        self.legs[slot].place = new;
        match new {
            Place::Queued => self.queue_leg(slot, front),
            Place::Waiting => {
                let tick = self.tick_ceil(due);
                self.due_legs.insert(&mut self.legs, slot, tick);
                self.counts.waiting += 1;
            }
            Place::Flying => self.counts.flying += 1,
            Place::Owed => self.counts.owed += 1,
            Place::Nowhere => {}
        }
    }

    fn write_bits(&mut self, slot: u32, bits: Bits) {
        let leg = &mut self.legs[slot];
        let one_round = bits.round == leg.attempts;
        let simple = match bits {
            Bits { relayed: 1.., .. } | Bits { placed: 1.., .. } => None,
            Bits { open, owed: 0, flying: 0, deferred: 0, .. } if one_round || open == 0 => {
                Some((Form::Fresh, open))
            }
            Bits { open, owed: 0, flying, deferred: 0, .. } if open == flying && one_round => {
                Some((Form::Flying, open))
            }
            Bits { open, owed: 0, flying: 0, deferred, .. } if open == deferred => {
                Some((Form::Deferred, open))
            }
            Bits { open: 0, owed, .. } => Some((Form::Owed, owed)),
            _ => None,
        };
        match simple {
            Some((form, raw)) => {
                if leg.form == Form::Mixed {
                    self.mixed.release(leg.raw[1]);
                }
                (leg.form, leg.raw) = (form, halves(raw));
            }
            None => {
                if leg.form != Form::Mixed {
                    leg.raw = [0, self.mixed.insert(Mixed::default())];
                    leg.form = Form::Mixed;
                }
                self.mixed[leg.raw[1]].bits = bits;
            }
        }
    }

    /// The replies of a leg: recipients and number of the reply.
    pub(super) fn replies_of(&self, slot: u32) -> Vec<(u64, u32)> {
        let bits = self.bits(slot);
        match self.legs[slot].reply {
            NONE => Vec::new(),
            many if many & REPLIES_MANY != 0 => self.many_replies[many & !REPLIES_MANY].list.clone(),
            one => vec![(bits.unsettled(), one)],
        }
    }

    /// Notes replies of recipients that are not settled with `bits`, and drops those of settled ones. Must come before
    /// the bits are written: the shortest form leaves the recipients out, since they are all.
    fn merge_replies(&mut self, slot: u32, results: &[LegResult], bits: Bits) {
        let kept = bits.unsettled();
        let still = |result: &LegResult| {
            let still = match result.verdict {
                Verdict::Delivered => 0,
                Verdict::Relayed => bits.relayed,
                Verdict::Placed => bits.placed,
                Verdict::Deferred => bits.open,
                Verdict::Failed => bits.owed,
            };
            result.recipients & still
        };
        let heard = |result: &&LegResult| still(result) != 0;
        let old = self.legs[slot].reply;
        let mut heard = results.iter().filter(heard).peekable();
        if old == NONE && heard.peek().is_none() {
            return;
        }
        let mut list = self.replies_of(slot);
        for result in heard {
            let recipients = still(result);
            list.iter_mut().for_each(|(known, _)| *known &= !recipients);
            list.push((recipients, self.replies.intern(&result.reply)));
        }
        list.retain_mut(|(recipients, reply)| {
            *recipients &= kept;
            if *recipients == 0 {
                self.replies.release(*reply);
            }
            *recipients != 0
        });
        if old != NONE && old & REPLIES_MANY != 0 {
            self.many_replies[old & !REPLIES_MANY].list = Vec::new();
            self.many_replies.release(old & !REPLIES_MANY);
        }
        self.legs[slot].reply = match list[..] {
            [] => NONE,
            [(recipients, reply)] if recipients == kept => reply,
            _ => REPLIES_MANY | self.many_replies.insert(Replies { link: Link::default(), list }),
        };
    }
}
