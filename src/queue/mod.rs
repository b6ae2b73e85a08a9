//! PURE. The queue of one shard: which recipients of which messages are to be tried when, and whose turn it is.
//!
//! It owns legs (message × domain), their timers, the shard's view of domain → path, fairness between tenants and the
//! schedules of retries. It does no I/O and reads no clock, holds no body and no address: those are on disk, and a [`Job`] says
//! where. Envelope, DNS, credits and DSNs are others' work.
//!
//! **One way to change what is durable**: [`Queue::apply`], with what has become a record. Live traffic and recovery use
//! the same fold, and a record applied twice changes nothing. The fold is a join: a recipient only moves from *open* to
//! *owed* to *settled*, so it does not matter which of two copies of a message is read first.
//!
//! **Legs** stand in one list at a time, which follows from their bits (`leg::Bits::place`):
//!
//! ```text
//!            route            pop                apply(Outcome)
//! unrouted ────────→ ready ────────→ in flight ────────→ settled
//!                      ↑ ↑ not_tried    │  │
//!                      │ └──────────────┘  ├──→ waiting (wheel) ──→ ready, when due
//!                      └───────────────────┘    bounce owed ──→ settled, by apply(Bounced)
//! ```
//!
//! Ready legs hang on a *flow* (domain × tenant); a path has *turns* (path × tenant), each with the flows that have ready
//! legs. A domain that moves to another path takes its flows along: no leg is touched. Tenants take turns by deficit
//! round robin in bytes, by their weights and by how many shards they wait in; one that comes anew is next.
//!
//! **Time.** Records have wall time. When one is applied the wait is worked out, cut to what the options allow, and from
//! then on only monotonic time counts: a jump of the wall clock moves no timer. What had to be taken from wall time at
//! a restart neither expires nor counts as late before it was tried, or [`QueueOptions::untried_grace`] has gone by.

mod due;
mod fold;
mod index;
mod leg;
mod reply;
pub mod retry;
mod route;
pub mod schedule;
mod slab;
#[cfg(test)]
mod tests;
mod view;
mod wheel;

use crate::clock::{Moment, Now, WallTime};
use crate::envelope::Envelope;
use crate::envelope::verp::Verp;
use crate::id::{LegRef, Location, MessageId, PathId, TenantKey, TenantShare};
use crate::outcome::{Bounced, LegResult, LegState, Outcome, Reply, Verdict};
use crate::routing::source::Pools;
use index::{Index, TABLES_MANY};
use leg::{Leg, Message, Mixed, Replies, Wishes};
use retry::Retry;
use schedule::{Schedule, Schedules};
use slab::Slab;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use wheel::Wheel;

pub use view::{Depth, LegView, MessageView, Stage};

/// Microseconds of a tick, as a shift: 65.5 ms. Retries wait for minutes; 2³² ticks are nine years.
const TICK_SHIFT: u32 = 16;

/// Ticks that have gone by after `wait`.
fn ticks(wait: Duration) -> u32 {
    u32::try_from(wait.as_micros() >> TICK_SHIFT).unwrap_or(slab::NONE - 1)
}

/// Settings of a queue.
#[derive(Clone, Debug)]
pub struct QueueOptions {
    /// Back-off, deadlines and delays.
    pub schedules: Schedules,
    /// Mail whose recipients go out one by one, each with a sender of its own.
    pub verp: Verp,
    /// How long a message that was recovered is kept beyond its deadline if it has not been tried since.
    pub untried_grace: Duration,
    /// Longest time in the queue for legs whose path holds mail; the sender's deadline if that is later.
    pub hold_max: Duration,
    /// How long what the sender is to be told of is gathered into one report while other legs are still open.
    pub bounce_gather: Duration,
    /// When a bounce that was offered and has not been recorded is offered again.
    pub bounce_again: Duration,
    /// Weights of tenants; all others have 1.
    pub weights: HashMap<Box<str>, u32>,
    /// Bytes for the texts of last replies; beyond them only statuses are kept.
    pub reply_bytes_max: usize,
    /// Domains without legs whose path is remembered.
    pub idle_domains_max: usize,
    /// Which pool mail leaves by.
    pub pools: Arc<Pools>,
}

impl Default for QueueOptions {
    fn default() -> Self {
        Self {
            schedules: Schedules::default(),
            verp: Verp::default(),
            untried_grace: Duration::from_secs(4 * 3600),
            hold_max: Duration::from_secs(30 * 24 * 3600),
            bounce_gather: Duration::from_secs(60),
            bounce_again: Duration::from_secs(60),
            weights: HashMap::new(),
            reply_bytes_max: 8 * 1024 * 1024,
            idle_domains_max: 4096,
            pools: Arc::default(),
        }
    }
}

/// What has become durable, in the order of the log.
#[derive(Clone, Copy, Debug)]
pub enum Change<'a> {
    /// A message was accepted, or moved to the log's head.
    Accepted {
        /// Its id.
        id: MessageId,
        /// Its envelope.
        envelope: &'a Envelope,
        /// Where this copy lies; of two copies the later one counts.
        location: Location,
        /// Bytes of the body.
        body_bytes: u32,
        /// Empty: all recipients are open. Else a moved copy; a leg that is not listed is settled.
        states: &'a [LegState],
    },
    /// An attempt ended.
    Outcome(&'a Outcome),
    /// Owed recipients have been reported.
    Bounced(&'a Bounced),
    /// The message was never acknowledged, or an operator removed it.
    Aborted(MessageId),
}

/// What a change means for the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// The message has no open or owed recipient any more; its record there is dead.
    pub settled: Option<Location>,
    /// A copy of a message that another copy stands for; its record there is dead.
    pub superseded: Option<Location>,
}

/// A leg, or a part of it, to be tried. It must come back through [`Queue::outcome`] or [`Queue::not_tried`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Job {
    /// The leg.
    pub leg: LegRef,
    /// Its message.
    pub id: MessageId,
    /// Where the message lies.
    pub location: Location,
    /// Index of the leg's first recipient.
    pub leg_first: u16,
    /// Recipients to be tried; bit `i` is `leg_first + i`.
    pub recipients: u64,
    /// Attempts before this one.
    pub attempts: u16,
    /// When the message expires, rounded up to a second.
    pub expires_at: WallTime,
    /// Bytes of the body.
    pub body_bytes: u32,
    /// Whose it is.
    pub tenant: TenantKey,
}

/// Recipients whose time is up. They are out like a job's; the caller records them as failed (5.4.7).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expired {
    /// What failed.
    pub job: Job,
    /// The path that could not be used, whose last error may explain it.
    pub path: Option<PathId>,
    /// Why the domain had no path, or else the leg's last reply.
    pub reason: Option<Reply>,
}

/// Recipients that have not got their mail for so long that the sender is to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Late {
    /// Their leg; it is about those that are open.
    pub state: LegState,
    /// When they are given up.
    pub until: WallTime,
    /// The path that could not be used, whose last error may explain it.
    pub path: Option<PathId>,
    /// Why the domain has no path, or else the leg's last reply.
    pub reason: Option<Reply>,
}

/// What waits for a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Demand {
    /// Legs that can be tried now.
    pub ready: u32,
    /// Tenants they belong to.
    pub tenants: u32,
    /// These tenants, if they are few.
    pub shares: Vec<TenantShare>,
    /// Weights of all that are not listed.
    pub others: u32,
    /// One of them has come since the path's demand was told last.
    pub joined: bool,
    /// Acceptance of the oldest among the legs that are next in the turns looked at (an estimate).
    pub oldest: WallTime,
}

/// The queue. See the module's documentation.
#[derive(Debug)]
pub struct Queue {
    options: QueueOptions,
    retry: Retry,
    messages: Slab<Message>,
    legs: Slab<Leg>,
    mixed: Slab<Mixed>,
    many_replies: Slab<Replies>,
    replies: reply::ReplyTable,
    ids: Index,
    /// Messages by second of acceptance: the true oldest, at the cost of an entry a second.
    ages: BTreeMap<u32, u32>,
    routes: route::Routes,
    due_legs: Wheel,
    due_messages: Wheel,
    /// The latest time seen.
    now: Moment,
    /// Tick 0; set by the first call that has a time.
    base: Option<Moment>,
    expired: VecDeque<LegRef>,
    owed: VecDeque<(u32, MessageId)>,
    /// Bounces that were offered, and the tick at which they are offered again.
    leased: HashMap<MessageId, u32, foldhash::fast::FixedState>,
    counts: Counts,
}

/// Legs by place, kept up to date.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    waiting: usize,
    flying: usize,
    owed: usize,
}

impl Queue {
    /// An empty queue. The seed goes into jitter and hashes; it should differ from process to process.
    pub fn new(options: QueueOptions, seed: u64) -> Self {
        let hash_seed = seed.rotate_left(32) ^ 0x5851_F42D_4C95_7F2D;
        Self {
            retry: Retry::new(seed),
            messages: Slab::new(),
            legs: Slab::new(),
            mixed: Slab::new(),
            many_replies: Slab::new(),
            replies: reply::ReplyTable::new(options.reply_bytes_max, hash_seed),
            ids: Index::new(TABLES_MANY, hash_seed),
            ages: BTreeMap::new(),
            routes: route::Routes::new(hash_seed),
            due_legs: Wheel::new(),
            due_messages: Wheel::new(),
            now: Moment(0),
            base: None,
            expired: VecDeque::new(),
            owed: VecDeque::new(),
            leased: HashMap::with_hasher(foldhash::fast::FixedState::with_seed(hash_seed)),
            counts: Counts::default(),
            options,
        }
    }

    /// Turns what a job reported into the record to be written; the queue changes when that is applied.
    ///
    /// `tried` are the job's recipients. Those without a result go back as [`Self::not_tried`]. `None` if nothing is
    /// left to record, or the leg is gone (the message was removed meanwhile).
    pub fn outcome(
        &mut self,
        leg: LegRef,
        tried: u64,
        mut results: Vec<LegResult>,
        counts_as_attempt: bool,
        now: Now,
    ) -> Option<Outcome> {
        self.touch(now.mono);
        let slot = self.slot(leg)?;
        let bits = self.bits(slot);
        let mut left = tried & bits.flying;
        // Each recipient once, whatever the job says: the first result counts.
        results.retain_mut(|result| {
            result.recipients &= left;
            left &= !result.recipients;
            result.recipients != 0
        });
        if left != 0 {
            self.not_tried(leg, left);
        }
        if results.is_empty() {
            return None;
        }
        self.legs[slot].tried = true;
        if !self.messages[self.legs[slot].message].wishes.has(Wishes::SUCCESS) {
            // Nobody is owed a word about it.
            for result in results.iter_mut().filter(|result| result.verdict.is_success()) {
                result.verdict = Verdict::Delivered;
            }
        }
        let attempts = bits.round.saturating_add(u16::from(counts_as_attempt));
        let deferred = results.iter().any(|result| result.verdict == Verdict::Deferred);
        let schedule = *self.schedule(slot);
        let wait = if deferred { self.retry.wait(&schedule.retry, attempts) } else { Duration::ZERO };
        Some(Outcome {
            id: self.messages[self.legs[slot].message].id(),
            leg: self.legs[slot].first,
            attempts,
            at: now.wall,
            due: now.wall + wait,
            results,
        })
    }

    /// A job, or these recipients of it, came back unused: they are next in their list again. Nothing is recorded.
    pub fn not_tried(&mut self, leg: LegRef, recipients: u64) {
        let Some(slot) = self.slot(leg) else { return };
        let mut bits = self.bits(slot);
        bits.flying &= !recipients;
        self.refund(slot);
        self.set_bits(slot, bits, true);
        self.watch_deadline(slot);
    }

    /// Open recipients of a message that are not out, a leg at a time: to be reported as failed, whatever they wait for,
    /// since the message itself is of no use any more.
    pub fn poll_message_legs(&mut self, id: MessageId) -> Option<Job> {
        let message = self.find(id)?;
        let idle = |slot: &u32| {
            let bits = self.bits(*slot);
            bits.open & !bits.flying
        };
        let slot = self.legs_of(message).find(|slot| idle(slot) != 0)?;
        let recipients = idle(&slot);
        Some(self.launch(slot, recipients))
    }

    /// The message's record has been moved and the old place is free.
    pub fn relocate(&mut self, id: MessageId, location: Location) {
        if let Some(message) = self.find(id) {
            self.messages[message].location = location;
        }
    }

    /// Domains, each once until it is answered by [`Self::route`], [`Self::delay_domain`] or, for a domain that takes no
    /// mail, by draining [`Self::poll_domain_legs`].
    pub fn poll_unrouted(&mut self) -> Option<&str> {
        self.routes.poll_ask()
    }

    fn touch(&mut self, now: Moment) {
        self.base.get_or_insert(now);
        self.now = self.now.max(now);
    }

    /// The last tick that has begun at `moment`.
    fn tick_floor(&self, moment: Moment) -> u32 {
        let since = moment.0.saturating_sub(self.base.unwrap_or(moment).0);
        u32::try_from(since >> TICK_SHIFT).unwrap_or(slab::NONE - 1)
    }

    /// The first tick that begins no earlier than `moment`.
    fn tick_ceil(&self, moment: Moment) -> u32 {
        self.tick_floor(moment + Duration::from_micros((1 << TICK_SHIFT) - 1))
    }

    /// How the mail of a leg is tried.
    fn schedule(&self, slot: u32) -> &Schedule {
        self.options.schedules.get(self.routes.flows[self.legs[slot].flow].schedule)
    }

    fn tick_now(&self) -> u32 {
        self.tick_floor(self.now)
    }

    fn find(&self, id: MessageId) -> Option<u32> {
        let hash = self.ids.hash(id.as_u64());
        self.ids.find(hash, |slot| self.messages[slot].id() == id)
    }

    fn slot(&self, leg: LegRef) -> Option<u32> {
        let live = self.legs.contains(leg.slot)
            && self.legs[leg.slot].generation == leg.generation
            && self.legs[leg.slot].message != slab::NONE;
        live.then_some(leg.slot)
    }

    fn leg_ref(&self, slot: u32) -> LegRef {
        LegRef { slot, generation: self.legs[slot].generation }
    }

    /// Slots of a message's legs. Few in the usual case; a message to n domains has n.
    fn legs_of(&self, message: u32) -> impl Iterator<Item = u32> + '_ {
        let first = Some(self.messages[message].leg).filter(|slot| *slot != slab::NONE);
        std::iter::successors(first, |slot| Some(self.legs[*slot].sibling).filter(|slot| *slot != slab::NONE))
    }

    fn job(&self, slot: u32, recipients: u64) -> Job {
        let leg = &self.legs[slot];
        let message = &self.messages[leg.message];
        Job {
            leg: self.leg_ref(slot),
            id: message.id(),
            location: message.location,
            leg_first: leg.first,
            recipients,
            attempts: self.bits(slot).round,
            expires_at: self.expires_at(slot),
            body_bytes: message.body_bytes,
            tenant: self.routes.tenants[self.routes.flows[leg.flow].tenant].key,
        }
    }
}
