//! PURE. Looking at the queue without changing it: for moved copies, gauges and the operator's questions.

use super::Queue;
use super::leg::{Bits, Place};
use super::slab::NONE;
use crate::clock::WallTime;
use crate::id::{LegRef, Location, MessageId, PathId};
use crate::outcome::{LegResult, LegState, Verdict};
use crate::routing::DomainHosts;

/// How much is queued.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Depth {
    /// Messages with an open or owed recipient.
    pub messages: usize,
    /// Legs in any state.
    pub legs: usize,
    /// Legs that could be tried if their domain had a path.
    pub unrouted: usize,
    /// Legs that wait for a credit of their path, held ones among them.
    pub ready: usize,
    /// Legs whose path holds mail.
    pub held: usize,
    /// Legs that are deferred.
    pub waiting: usize,
    /// Legs all of whose open recipients are out with jobs.
    pub in_flight: usize,
    /// Legs with nothing open for which a report is owed.
    pub owed: usize,
}

/// Where a leg stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Its domain has no path yet.
    Unrouted,
    /// It waits for a credit of its path.
    Ready,
    /// Its path holds mail.
    Held,
    /// It is deferred until it is due.
    Waiting,
    /// It is out with a job.
    InFlight,
    /// A report is owed for what is left of it.
    Owed,
}

/// A leg, for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LegView {
    /// Open and owed recipients, attempts, due time, last replies.
    pub state: LegState,
    /// Its domain.
    pub domain: Box<str>,
    /// The domain's path, if known.
    pub path: Option<PathId>,
    /// Where it stands.
    pub stage: Stage,
    /// Recipients out with a job.
    pub in_flight: u64,
}

/// A message, for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageView {
    /// Its id.
    pub id: MessageId,
    /// Where its record lies.
    pub location: Location,
    /// Acceptance, rounded down to a second.
    pub accepted_at: WallTime,
    /// Deadline, rounded up to a second.
    pub expires_at: WallTime,
    /// Bytes of the body.
    pub body_bytes: u32,
    /// Its tenant.
    pub tenant: Box<str>,
    /// Its unsettled legs.
    pub legs: Vec<LegView>,
}

impl Queue {
    /// Place and unsettled legs of a message, for a moved copy; `None` if it is unknown.
    pub fn state(&self, id: MessageId) -> Option<(Location, Vec<LegState>)> {
        let message = self.find(id)?;
        let states = self.legs_of(message).map(|slot| self.leg_state(slot)).collect();
        Some((self.messages[message].location, states))
    }

    pub(super) fn leg_state(&self, slot: u32) -> LegState {
        let (leg, bits) = (&self.legs[slot], self.bits(slot));
        let mut replies = Vec::new();
        for (recipients, number) in self.replies_of(slot) {
            let reply = self.replies.reply(number);
            for (held, verdict) in [
                (bits.open, Verdict::Deferred),
                (bits.owed, Verdict::Failed),
                (bits.relayed, Verdict::Relayed),
                (bits.placed, Verdict::Placed),
            ] {
                if recipients & held != 0 {
                    let recipients = recipients & held;
                    replies.push(LegResult { recipients, verdict, reply: reply.clone() });
                }
            }
        }
        // One due time for all: recipients of which some were deferred and some not tried yet all wait for it after a
        // restart from this copy. What is written depends on records alone, never on how far a timer has come.
        let due = leg.due.into();
        let Bits { open, owed, relayed, placed, .. } = bits;
        let (leg, attempts, delay_told) = (leg.first, leg.attempts, leg.delay_told);
        LegState { leg, attempts, due, open, owed, relayed, placed, delay_told, replies }
    }

    /// All about a message; `None` if it is unknown (settled, or never accepted here).
    pub fn describe(&self, id: MessageId) -> Option<MessageView> {
        let slot = self.find(id)?;
        let message = &self.messages[slot];
        let tenant = match message.leg {
            NONE => Box::default(),
            leg => self.routes.tenants[self.routes.flows[self.legs[leg].flow].tenant].name.clone(),
        };
        Some(MessageView {
            id,
            location: message.location,
            accepted_at: message.accepted_at(),
            expires_at: message.expires_at(),
            body_bytes: message.body_bytes,
            tenant,
            legs: self.legs_of(slot).map(|leg| self.leg_view(leg)).collect(),
        })
    }

    fn leg_view(&self, slot: u32) -> LegView {
        let flow = self.legs[slot].flow;
        let path = self.routes.path_of(flow);
        let stage = match (self.legs[slot].place, path) {
            (Place::Queued, None) => Stage::Unrouted,
            (Place::Queued, Some(path)) if path.hold => Stage::Held,
            (Place::Queued, Some(_)) => Stage::Ready,
            (Place::Waiting, _) => Stage::Waiting,
            (Place::Flying, _) => Stage::InFlight,
            (Place::Owed | Place::Nowhere, _) => Stage::Owed,
        };
        LegView {
            state: self.leg_state(slot),
            domain: self.routes.domain_name(flow).into(),
            path: path.map(|path| path.id),
            stage,
            in_flight: self.bits(slot).flying,
        }
    }

    /// How much is queued.
    pub fn depth(&self) -> Depth {
        Depth {
            messages: self.messages.len(),
            legs: self.legs.len(),
            unrouted: self.routes.unrouted,
            ready: self.routes.ready,
            held: self.routes.held(),
            waiting: self.counts.waiting,
            in_flight: self.counts.flying,
            owed: self.counts.owed,
        }
    }

    /// Acceptance of the oldest queued message, whatever its state, rounded down to a second.
    pub fn oldest(&self) -> Option<WallTime> {
        self.ages.keys().next().map(|second| WallTime(u64::from(*second) * 1000))
    }

    /// Domain of a leg; `None` if the leg is gone.
    pub fn domain_of(&self, leg: LegRef) -> Option<&str> {
        let slot = self.slot(leg)?;
        Some(self.routes.domain_name(self.legs[slot].flow))
    }

    /// Hosts that were set for a leg's domain by [`Queue::set_hosts`].
    pub fn hosts(&self, leg: LegRef) -> Option<&DomainHosts> {
        self.routes.hosts(self.legs[self.slot(leg)?].flow)
    }

    /// When a message was accepted, rounded down to a second; `None` if it is unknown.
    pub fn accepted_at(&self, id: MessageId) -> Option<WallTime> {
        self.find(id).map(|message| self.messages[message].accepted_at())
    }

    /// Memory held, free places included.
    pub fn resident_bytes(&self) -> usize {
        /// Of a B-tree's entry at its usual fill, 8 bytes of data.
        const AGE_BYTES: usize = 16;
        self.messages.resident_bytes()
            + self.legs.resident_bytes()
            + self.mixed.resident_bytes()
            + self.many_replies.resident_bytes()
            + self.replies.resident_bytes()
            + self.ids.resident_bytes()
            + self.routes.resident_bytes()
            + self.ages.len() * AGE_BYTES
            + self.owed.capacity() * size_of::<(u32, MessageId)>()
            + self.expired.capacity() * size_of::<crate::id::LegRef>()
            + self.leased.capacity() * (size_of::<(MessageId, u32)>() + 1)
            + size_of::<Self>()
    }
}
