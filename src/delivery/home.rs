//! PURE. A path at its home worker: how many connections it may have now, who has them, and when it rests.
//!
//! The home alone decides. It leases connection slots to *lanes*, one per worker that serves the path (its own among
//! them), and never leases more than it has: a slot that moves from one lane to another is given out only when the first
//! says that it knows the smaller lease and has let the slot go. Permits of the path's rates are leased likewise ([`super::rate`]).
//!
//! Connections allowed adapt to what the remote takes: one more with each session that is accepted; a quarter less with each
//! that is refused while others stand, and then no more than were taken for a while that doubles each time. A path that fails
//! altogether rests for a while, longer each time, and comes back with one connection.

use std::time::Duration;

use super::rate::{Account, Bucket, PerRate, Spent};
use crate::clock::Moment;
use crate::id::WorkerIndex;
use crate::metrics::paths::LimitedBy;
use crate::routing::PathLimits;

/// Connections a path may open before the first success.
const CONNECTIONS_AT_START: u32 = 4;
/// How long a path keeps to the connections that the remote took when it refused one more, and the longest.
const CROWDED: [Duration; 2] = [Duration::from_secs(60), Duration::from_secs(30 * 60)];

/// How long a failing path rests.
#[derive(Clone, Copy, Debug)]
pub struct RestOptions {
    /// After the first failure.
    pub first: Duration,
    /// Longest rest; each is twice the one before.
    pub longest: Duration,
}

/// What a lane may do now. State: the last one counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lease {
    /// Connections it may have open or opening.
    pub slots: u32,
    /// The path rests until then: parked jobs go back, credits are revoked.
    pub rest_until: Option<Moment>,
    /// Counts the leases of this lane, which repeats it to say that it knows this one.
    pub number: u32,
    /// Permits that the lane has been given in all; `None` where there is no such rate.
    pub permits: PerRate<Option<u64>>,
}

/// What a lane says of itself. State: the last one counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LaneNews {
    /// Whether there are jobs, or shards with some.
    pub wants: bool,
    /// Connections open or opening.
    pub held: u32,
    /// Of these, how many have an open session.
    pub ready: u32,
    /// Number of the last lease that it knows.
    pub known: u32,
    /// What became of its permits.
    pub permits: PerRate<Spent>,
}

/// A path's limits and back-off.
#[derive(Debug)]
pub struct Home {
    limit: u32,
    allowed: u32,
    crowded: Option<Crowded>,
    state: State,
    rest: RestOptions,
    rates: PerRate<Option<Bucket>>,
    lanes: Vec<LaneView>,
    /// The lane that is given permits first.
    turn: usize,
}

/// The remote has refused one connection more while others stood.
#[derive(Clone, Copy, Debug)]
struct Crowded {
    /// Connections that it took.
    taken: u32,
    /// One more than that is being tried.
    trying: bool,
    /// Until then no more are tried.
    until: Moment,
    wait: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// No connection until then; `step` failures in a row led here.
    Resting {
        until: Moment,
        step: u32,
    },
    /// One connection is allowed; its fate decides.
    Probing {
        step: u32,
    },
}

#[derive(Debug)]
struct LaneView {
    worker: WorkerIndex,
    news: LaneNews,
    lease: Lease,
    permits: PerRate<Account>,
    /// What is due to it, against the others; 0 is not known.
    due: u64,
    /// Most slots of leases that were said and that the lane may still act on.
    believed: u32,
    dirty: bool,
}

impl LaneView {
    /// Connections that it has, or may open before it hears of a smaller lease.
    fn in_use(&self) -> u32 {
        self.news.held.max(self.believed)
    }
}

impl Home {
    /// A path with these limits.
    pub fn new(limits: &PathLimits, rest: RestOptions) -> Self {
        let limit = u32::from(limits.connections).max(1);
        Self {
            limit,
            allowed: limit.min(CONNECTIONS_AT_START),
            crowded: None,
            state: State::Open,
            rest,
            rates: PerRate {
                messages: limits.message_rate.map(Bucket::new),
                connections: limits.connection_rate.map(Bucket::new),
            },
            lanes: Vec::new(),
            turn: 0,
        }
    }

    /// A lane says how it is. The home's own lane should be the first to speak: it comes first when there are fewer slots
    /// than lanes, since it serves the shards that no other lane does.
    pub fn lane_news(&mut self, worker: WorkerIndex, news: LaneNews, now: Moment) {
        let at = self.lane(worker);
        let lane = &mut self.lanes[at];
        lane.news = news;
        let mut said = news.permits;
        for ((bucket, account), said) in
            self.rates.each().into_iter().zip(lane.permits.each()).zip(said.each())
        {
            if let Some(bucket) = bucket {
                account.book(*said, bucket, now);
            }
        }
        if news.known == lane.lease.number && !lane.dirty {
            lane.believed = lane.lease.slots;
        }
        self.assign(now);
    }

    /// Brings a lane in: it is taken to have work until it says otherwise.
    pub fn invite(&mut self, worker: WorkerIndex, now: Moment) {
        let at = self.lane(worker);
        self.lanes[at].news.wants = true;
        self.assign(now);
    }

    /// A remote accepted a session: the path works.
    pub fn succeeded(&mut self, now: Moment) {
        if self.state == State::Open && self.allowed == self.limit {
            return;
        }
        self.state = State::Open;
        self.grow(now);
        self.assign(now);
    }

    /// One connection more, if the remote is not known to refuse it.
    fn grow(&mut self, now: Moment) {
        let most = match &mut self.crowded {
            None => self.limit,
            Some(crowded) => {
                let most = crowded.taken + u32::from(crowded.trying);
                if crowded.until <= now && self.allowed >= most {
                    // One more was not refused: the next one after a first wait again.
                    let wait = if crowded.trying { CROWDED[0] } else { crowded.wait };
                    *crowded = Crowded { taken: most, trying: true, until: now + wait, wait };
                }
                (crowded.taken + u32::from(crowded.trying)).min(self.limit)
            }
        };
        self.allowed = (self.allowed + 1).min(most);
        if self.allowed == self.limit {
            self.crowded = None;
        }
    }

    /// A lane could open no connection: no host was reached, or it sent us away before MAIL; `ready` sessions stand there.
    /// `noise` is 0 to 1 and spreads the rest over its second half, so that many paths do not come back at once. The lane gets a
    /// lease in answer, whatever it says.
    pub fn failed(&mut self, worker: WorkerIndex, ready: u32, now: Moment, noise: f64) {
        let at = self.lane(worker);
        self.lanes[at].news.ready = ready;
        let standing: u32 = self.lanes.iter().map(|lane| lane.news.ready).sum();
        if standing > 0 && self.state == State::Open {
            self.shrink(standing, now);
        } else {
            self.fall(now, noise);
        }
        self.assign(now);
        self.lanes[at].dirty = true;
    }

    /// Nothing stands: the path rests.
    fn fall(&mut self, now: Moment, noise: f64) {
        let step = match self.state {
            // The other connections of the same failure: it has been counted.
            State::Resting { .. } => return,
            State::Open => 0,
            State::Probing { step } => step + 1,
        };
        let full =
            self.rest.first.saturating_mul(1u32.checked_shl(step).unwrap_or(u32::MAX)).min(self.rest.longest);
        let until = now + full.mul_f64(0.5 + noise.clamp(0.0, 1.0) / 2.0);
        self.state = State::Resting { until, step };
        self.allowed = 1;
    }

    /// The remote wants fewer connections, but not fewer than those that stand.
    fn shrink(&mut self, standing: u32, now: Moment) {
        let held: u32 = self.lanes.iter().map(|lane| lane.news.held).sum();
        let tried = held.max(standing + 1).min(self.allowed);
        let wait = match self.crowded {
            Some(crowded) if crowded.trying => (crowded.wait * 2).min(CROWDED[1]),
            Some(crowded) => crowded.wait,
            None => CROWDED[0],
        };
        self.allowed = (tried - tried / 4).saturating_sub(1).max(standing.min(tried)).max(1);
        self.crowded = Some(Crowded { taken: self.allowed, trying: false, until: now + wait, wait });
    }

    /// When [`Self::tick`] has something to do.
    pub fn next_wake(&self) -> Option<Moment> {
        if self.rest_until().is_some() {
            return self.rest_until();
        }
        let needed = |kind: usize| self.lanes.iter().any(|lane| lane.permits.all()[kind].needs());
        let filled = self.rates.all().into_iter().enumerate();
        let filled = filled.filter_map(|(kind, bucket)| bucket.as_ref().filter(|_| needed(kind))?.next());
        filled.chain(self.crowded.filter(|_| self.is_used_up()).map(|crowded| crowded.until)).min()
    }

    /// Whether every connection that is allowed is open.
    fn is_used_up(&self) -> bool {
        self.lanes.iter().map(|lane| lane.news.ready).sum::<u32>() >= self.allowed
    }

    /// Does what has become due.
    pub fn tick(&mut self, now: Moment) {
        match self.state {
            State::Resting { until, step } if until <= now => self.state = State::Probing { step },
            State::Open if self.crowded.is_some_and(|crowded| crowded.until <= now) && self.is_used_up() => {
                self.grow(now);
            }
            _ => {}
        }
        self.assign(now);
    }

    /// Until when the path rests.
    pub fn rest_until(&self) -> Option<Moment> {
        match self.state {
            State::Resting { until, .. } => Some(until),
            State::Open | State::Probing { .. } => None,
        }
    }

    /// Connections allowed now, over all lanes.
    pub fn allowed(&self) -> u32 {
        self.allowed
    }

    /// Failures in a row.
    pub fn failures(&self) -> u32 {
        match self.state {
            State::Resting { step, .. } | State::Probing { step } => step + 1,
            State::Open => 0,
        }
    }

    /// Messages and connections that could begin at once, where they have a rate.
    pub fn permits_left(&self, now: Moment) -> (Option<u32>, Option<u32>) {
        let left = |bucket: &Option<Bucket>| bucket.as_ref().map(|bucket| bucket.available(now));
        (left(&self.rates.messages), left(&self.rates.connections))
    }

    /// What keeps the path from taking more now.
    pub fn limited_by(&self, now: Moment) -> LimitedBy {
        let waits = |permits: fn(&LaneView) -> Account| self.lanes.iter().any(|lane| permits(lane).needs());
        let (messages, connections) = self.permits_left(now);
        let held: u32 = self.lanes.iter().map(|lane| lane.news.held).sum();
        match self.state {
            State::Resting { .. } => LimitedBy::BackOff,
            State::Probing { .. } => LimitedBy::Probe,
            State::Open if messages == Some(0) && waits(|lane| lane.permits.messages) => {
                LimitedBy::MessageRate
            }
            State::Open if connections == Some(0) && waits(|lane| lane.permits.connections) => {
                LimitedBy::ConnectionRate
            }
            State::Open if held < self.allowed => LimitedBy::Nothing,
            State::Open if self.allowed == self.limit => LimitedBy::Connections,
            State::Open if self.crowded.is_some_and(|crowded| self.allowed >= crowded.taken) => {
                LimitedBy::Refusals
            }
            State::Open => LimitedBy::Growth,
        }
    }

    /// The next lease to tell a lane.
    pub fn poll_lease(&mut self) -> Option<(WorkerIndex, Lease)> {
        let lane = self.lanes.iter_mut().find(|lane| lane.dirty)?;
        lane.dirty = false;
        lane.believed = lane.believed.max(lane.lease.slots);
        lane.lease.permits = PerRate {
            messages: self.rates.messages.as_ref().map(|_| lane.permits.messages.total()),
            connections: self.rates.connections.as_ref().map(|_| lane.permits.connections.total()),
        };
        Some((lane.worker, lane.lease))
    }

    /// Whether there are several lanes, and what is due to one is not known.
    pub fn must_weigh(&self) -> bool {
        self.lanes.len() > 1 && self.lanes.iter().any(|lane| lane.due == 0)
    }

    /// Workers whose lanes may have connections now.
    pub fn lanes_with_slots(&self) -> impl Iterator<Item = WorkerIndex> {
        self.lanes.iter().filter(|lane| lane.lease.slots > 0).map(|lane| lane.worker)
    }

    /// The lease that was polled last for `worker` could not be said: it comes again.
    pub fn untold(&mut self, worker: WorkerIndex) {
        let at = self.lane(worker);
        self.lanes[at].dirty = true;
    }

    /// Shares out what is allowed among the lanes that want any.
    fn assign(&mut self, now: Moment) {
        let rest_until = self.rest_until();
        let budget = if rest_until.is_some() { 0 } else { self.allowed };
        let fair = self.fair(budget);
        // What the others have beyond their new share is not free yet.
        let excess: u32 =
            self.lanes.iter().zip(&fair).map(|(lane, fair)| lane.in_use().saturating_sub(*fair)).sum();
        let mut missing = excess;
        for (lane, fair) in self.lanes.iter_mut().zip(fair) {
            let waits = missing.min(fair.saturating_sub(lane.in_use()));
            missing -= waits;
            let slots = fair - waits;
            if (slots, rest_until) != (lane.lease.slots, lane.lease.rest_until) {
                lane.lease.number = lane.lease.number.wrapping_add(1);
                (lane.lease.slots, lane.lease.rest_until) = (slots, rest_until);
                lane.dirty = true;
            }
        }
        self.lease_permits(now);
    }

    /// What each lane should have of `budget` slots, by what is due to it. The first lane, which serves the shards that no other
    /// does, has at least one if it wants any.
    fn fair(&self, budget: u32) -> Vec<u32> {
        let due = |lane: &LaneView| if lane.news.wants { u128::from(lane.due.max(1)) } else { 0 };
        let all: u128 = self.lanes.iter().map(due).sum();
        let part = |lane: &LaneView| u128::from(budget) * due(lane);
        let mut fair: Vec<u32> = self
            .lanes
            .iter()
            .map(|lane| u32::try_from(part(lane) / all.max(1)).unwrap_or(u32::MAX))
            .collect();
        let mut left = if all == 0 { 0 } else { budget - fair.iter().sum::<u32>() };
        if left > 0 && fair[0] == 0 && self.lanes[0].news.wants {
            (fair[0], left) = (1, left - 1);
        }
        // The rest to those who miss most of their part, the earlier lane first.
        let mut behind: Vec<usize> = (0..fair.len()).filter(|at| due(&self.lanes[*at]) > 0).collect();
        behind.sort_by_key(|at| {
            std::cmp::Reverse(part(&self.lanes[*at]).saturating_sub(u128::from(fair[*at]) * all))
        });
        behind.into_iter().take(left as usize).for_each(|at| fair[at] += 1);
        fair
    }

    /// What is due to each lane's worker, against the others.
    pub fn set_due(&mut self, due: impl Fn(WorkerIndex) -> u64, now: Moment) {
        let mut changed = false;
        for lane in &mut self.lanes {
            let due = due(lane.worker).max(1);
            changed |= std::mem::replace(&mut lane.due, due) != due;
        }
        if changed {
            self.assign(now);
        }
    }

    /// Gives out permits to the lanes that wait for some.
    fn lease_permits(&mut self, now: Moment) {
        let count = self.lanes.len();
        for kind in 0..2 {
            let Some(bucket) = self.rates.each()[kind].as_mut() else { continue };
            let needing = self.lanes.iter().filter(|lane| lane.permits.all()[kind].needs()).count() as u32;
            let mut free = if needing == 0 { 0 } else { bucket.available(now) };
            let share = free.div_ceil(needing.max(1));
            for offset in 0..count {
                let at = (self.turn + offset) % count;
                let lane = &mut self.lanes[at];
                if free == 0 || !lane.permits.all()[kind].needs() {
                    continue;
                }
                let more = share.min(free);
                free -= more;
                bucket.give_out(more);
                lane.permits.each()[kind].lease(more);
                lane.dirty = true;
                self.turn = (at + 1) % count;
            }
        }
    }

    fn lane(&mut self, worker: WorkerIndex) -> usize {
        self.lanes.iter().position(|lane| lane.worker == worker).unwrap_or_else(|| {
            self.lanes.push(LaneView {
                worker,
                news: LaneNews::default(),
                lease: Lease::default(),
                permits: PerRate::default(),
                due: 0,
                believed: 0,
                dirty: false,
            });
            self.lanes.len() - 1
        })
    }
}

#[cfg(test)]
pub(super) mod tests;
