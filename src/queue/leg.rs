//! PURE. The entries that exist by the million, and what they cost.
//!
//! | bytes | what a waiting leg of a message of its own costs |
//! | --- | --- |
//! | 56 | [`Leg`] |
//! | 56 | [`Message`] |
//! | 9.1–13.7 | its place in the index of ids: 8 bytes at 58 to 88 % load |
//! | 121–126 | all in |
//!
//! Domains, tenants and replies are shared and counted apart. What only few legs need at a time (parts in flight, some
//! recipients deferred and some not) lies in [`Mixed`] entries outside, so that the many do not pay for it.

use super::slab::{Link, NONE, linked};
use crate::clock::WallTime;
use crate::envelope::verp::Verp;
use crate::envelope::{Envelope, Recipient};
use crate::id::{Location, MessageId};

/// What a leg may cost, message and index included.
pub(super) const LEG_BYTES_MAX: usize = 128;
/// An entry of the index right after a table has grown by half.
const INDEX_ENTRY_BYTES_MAX: usize = 14;
const _: () = assert!(size_of::<Leg>() + size_of::<Message>() + INDEX_ENTRY_BYTES_MAX <= LEG_BYTES_MAX);
const _: () = assert!(size_of::<Leg>() == 56 && size_of::<Message>() == 56);

/// The recipients of a leg, by what holds of them; bit `i` is recipient `first + i`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Bits {
    /// Neither delivered nor failed.
    pub open: u64,
    /// Failed, bounce owed.
    pub owed: u64,
    /// Relayed, report owed.
    pub relayed: u64,
    /// Placed, report owed.
    pub placed: u64,
    /// Open and out with a job.
    pub flying: u64,
    /// Open and waiting for the leg's due time.
    pub deferred: u64,
    /// Attempts before the present round: all parts of a leg that go out in one round count as one attempt.
    pub round: u16,
}

/// Which list a leg stands in. Follows from its bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Place {
    /// In no list: not placed yet, or nothing left to do.
    #[default]
    Nowhere,
    /// In its flow's list: recipients can be tried now, once there is a path and a credit.
    Queued,
    /// In the wheel.
    Waiting,
    /// In no list: what is open is out with jobs.
    Flying,
    /// In no list: a report is owed, nothing is open.
    Owed,
}

impl Bits {
    /// Recipients that can be tried now.
    pub fn fresh(self) -> u64 {
        self.open & !self.flying & !self.deferred
    }

    /// Of whom the sender is still to be told.
    pub fn reports(self) -> u64 {
        self.owed | self.relayed | self.placed
    }

    /// Those that have not come to their end.
    pub fn unsettled(self) -> u64 {
        self.open | self.reports()
    }

    /// Where a leg with these bits belongs. Deferred recipients wait until all parts are back, then in the wheel.
    pub fn place(self) -> Place {
        if self.fresh() != 0 {
            Place::Queued
        } else if self.flying != 0 {
            Place::Flying
        } else if self.open != 0 {
            Place::Waiting
        } else if self.reports() != 0 {
            Place::Owed
        } else {
            Place::Nowhere
        }
    }
}

/// How [`Leg::raw`] says the bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Form {
    /// All set bits are open.
    #[default]
    Fresh,
    /// All set bits are open and in flight.
    Flying,
    /// All set bits are open and deferred.
    Deferred,
    /// All set bits are owed.
    Owed,
    /// `raw` is the slot of a [`Mixed`].
    Mixed,
}

/// A leg: the recipients of a message in one domain.
#[derive(Debug)]
pub(super) struct Leg {
    pub link: Link,
    /// A `u64` in halves, to keep the entry's alignment at 4.
    pub raw: [u32; 2],
    /// Slot of its message.
    pub message: u32,
    /// Slot of the message's next leg.
    pub sibling: u32,
    /// Slot of its flow: domain and tenant.
    pub flow: u32,
    /// How often the slot had been freed before.
    pub generation: u32,
    /// Last replies: [`NONE`], the number of the one reply of all open and owed recipients, or with
    /// [`REPLIES_MANY`] the slot of a [`Replies`].
    pub reply: u32,
    /// When deferred recipients are due.
    pub due: Wall48,
    /// Attempts so far.
    pub attempts: u16,
    /// Index of its first recipient.
    pub first: u16,
    pub form: Form,
    pub place: Place,
    /// Whether this process has tried it.
    pub tried: bool,
    /// Whether it stands in the list of expired legs.
    pub expired: bool,
    /// Whether the sender has been told that it is late.
    pub delay_told: bool,
}
linked!(Leg);

/// In [`Leg::reply`]: more than one reply.
pub(super) const REPLIES_MANY: u32 = 1 << 31;

impl Default for Leg {
    fn default() -> Self {
        Self {
            link: Link::default(),
            raw: [0; 2],
            message: NONE,
            sibling: NONE,
            flow: NONE,
            generation: 0,
            reply: NONE,
            due: Wall48::default(),
            attempts: 0,
            first: 0,
            form: Form::Fresh,
            place: Place::Nowhere,
            tried: false,
            expired: false,
            delay_told: false,
        }
    }
}

/// Bits of a leg that fit no simple [`Form`].
#[derive(Debug, Default)]
pub(super) struct Mixed {
    pub link: Link,
    pub bits: Bits,
}
linked!(Mixed);

/// Replies of a leg that has several: recipients, number of the reply.
#[derive(Debug, Default)]
pub(super) struct Replies {
    pub link: Link,
    pub list: Vec<(u64, u32)>,
}
linked!(Replies);

/// A message with legs in the queue. Its link is that of its one timer (deadline, owed bounce).
#[derive(Debug, Default)]
pub(super) struct Message {
    pub link: Link,
    /// A `u64` in halves, to keep the entry's alignment at 4.
    pub id: [u32; 2],
    pub location: Location,
    pub body_bytes: u32,
    /// Slot of its first leg.
    pub leg: u32,
    /// Tick of its acceptance, on this process's clock: negative if it was before the process began.
    pub born: i32,
    /// Seconds since 1970, rounded down.
    pub accepted: u32,
    /// Seconds since 1970, rounded up.
    pub expires: u32,
    /// Whether its age counts from acceptance on this process's monotonic clock, so that no jump can have moved it.
    pub fresh: bool,
    /// Whether it stands in the list of messages that owe a report.
    pub offered: bool,
    /// What its envelope asks for: bits of `Wishes`.
    pub wishes: Wishes,
}
linked!(Message);

/// What the envelope of a message asks for that the queue must know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Wishes(u8);

impl Wishes {
    /// To be told of success, for one recipient at least.
    pub const SUCCESS: Wishes = Wishes(1);
    /// To be told of delay, likewise.
    pub const DELAY: Wishes = Wishes(2);
    /// To go out with one recipient in a transaction.
    pub const ONE_BY_ONE: Wishes = Wishes(4);

    /// Those of `envelope`.
    pub fn of(envelope: &Envelope, verp: &Verp) -> Self {
        if envelope.sender().is_empty() {
            return Self::default();
        }
        let sent = if verp.is_for(envelope) { Self::ONE_BY_ONE } else { Self::default() };
        envelope.recipients().fold(sent, |Self(wishes), Recipient { notify, .. }| {
            let success = if notify.on_success() { Self::SUCCESS.0 } else { 0 };
            let delay = if notify.on_delay() { Self::DELAY.0 } else { 0 };
            Self(wishes | success | delay)
        })
    }

    /// Whether `wish` is one of them.
    pub fn has(self, wish: Wishes) -> bool {
        self.0 & wish.0 != 0
    }
}

impl Message {
    pub fn id(&self) -> MessageId {
        MessageId::from_u64(join(self.id))
    }

    pub fn accepted_at(&self) -> WallTime {
        WallTime(u64::from(self.accepted) * 1000)
    }

    pub fn expires_at(&self) -> WallTime {
        WallTime(u64::from(self.expires) * 1000)
    }
}

pub(super) fn halves(value: u64) -> [u32; 2] {
    [(value >> 32) as u32, value as u32]
}

pub(super) fn join([high, low]: [u32; 2]) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

/// Wall time in 48 bits: milliseconds until the year 10889; what is later is cut to that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Wall48([u16; 3]);

impl From<WallTime> for Wall48 {
    fn from(WallTime(at): WallTime) -> Self {
        let at = at.min((1 << 48) - 1);
        Self([(at >> 32) as u16, (at >> 16) as u16, at as u16])
    }
}

impl From<Wall48> for WallTime {
    fn from(Wall48([high, middle, low]): Wall48) -> Self {
        WallTime(u64::from(high) << 32 | u64::from(middle) << 16 | u64::from(low))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wall_time_in_48_bits_is_exact_and_saturates() {
        for at in [0, 1, 1_790_000_000_123, (1 << 48) - 1] {
            assert_eq!(WallTime::from(Wall48::from(WallTime(at))), WallTime(at));
        }
        assert_eq!(WallTime::from(Wall48::from(WallTime(u64::MAX))), WallTime((1 << 48) - 1));
    }

    #[test]
    fn a_leg_with_fresh_recipients_is_queued_whatever_else_holds() {
        let cases = [
            (Bits { open: 7, flying: 1, deferred: 2, ..Bits::default() }, Place::Queued),
            (Bits { open: 3, flying: 1, deferred: 2, ..Bits::default() }, Place::Flying),
            (Bits { open: 2, deferred: 2, owed: 1, ..Bits::default() }, Place::Waiting),
            (Bits { owed: 1, ..Bits::default() }, Place::Owed),
            (Bits { placed: 1, ..Bits::default() }, Place::Owed),
            (Bits::default(), Place::Nowhere),
        ];
        for (bits, place) in cases {
            assert_eq!(bits.place(), place, "{bits:?}");
        }
    }
}
