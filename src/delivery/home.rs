//! PURE. A path at its home worker: how many connections it may have now, who has them, and when it rests.
//!
//! The home alone decides. It leases connection slots to *lanes*, one per worker that serves the path (its own among
//! them), and never leases more than it has: a slot that moves from one lane to another is given out only when the first
//! says that it let it go. Connections wanted grow with success and shrink with failure; a path that fails altogether
//! rests for a while, longer each time, and comes back with one connection.

use std::time::Duration;

use crate::clock::Moment;
use crate::id::WorkerIndex;

/// Connections a path may open before the first success.
const CONNECTIONS_AT_START: u32 = 4;

/// How long a failing path rests.
#[derive(Clone, Copy, Debug)]
pub struct RestOptions {
    /// After the first failure.
    pub first: Duration,
    /// Longest rest; each is twice the one before.
    pub longest: Duration,
}

/// What a lane may do now. State: the last one counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Connections it may have open or opening.
    pub slots: u32,
    /// The path rests until then: parked jobs go back, credits are revoked.
    pub rest_until: Option<Moment>,
}

/// A path's limits and back-off.
#[derive(Debug)]
pub struct Home {
    limit: u32,
    allowed: u32,
    state: State,
    rest: RestOptions,
    lanes: Vec<LaneView>,
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
    wants: bool,
    held: u32,
    lease: Lease,
    dirty: bool,
}

impl Home {
    /// A path that may have `limit` connections, at least 1.
    pub fn new(limit: u32, rest: RestOptions) -> Self {
        let limit = limit.max(1);
        Self { limit, allowed: limit.min(CONNECTIONS_AT_START), state: State::Open, rest, lanes: Vec::new() }
    }

    /// A lane says whether it has work and how many slots it still uses.
    pub fn lane_news(&mut self, worker: WorkerIndex, wants: bool, held: u32) {
        let lane = self.lane(worker);
        (lane.wants, lane.held) = (wants, held);
        self.assign();
    }

    /// A remote accepted a session: the path works.
    pub fn succeeded(&mut self) {
        if self.state == State::Open && self.allowed == self.limit {
            return;
        }
        self.state = State::Open;
        self.allowed = (self.allowed + 1).min(self.limit);
        self.assign();
    }

    /// No host of the path could be reached, or it sent us away before MAIL. `noise` is 0 to 1 and spreads the rest
    /// over its second half, so that many paths do not come back at once.
    pub fn failed(&mut self, now: Moment, noise: f64) {
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
        self.assign();
    }

    /// One connection more could not be opened while others stand: the remote wants fewer.
    pub fn shrink(&mut self) {
        if self.state == State::Open {
            self.allowed = (self.allowed - self.allowed / 4).saturating_sub(1).max(1);
            self.assign();
        }
    }

    /// When [`Self::tick`] has something to do.
    pub fn next_wake(&self) -> Option<Moment> {
        match self.state {
            State::Resting { until, .. } => Some(until),
            State::Open | State::Probing { .. } => None,
        }
    }

    /// Ends a rest that is over.
    pub fn tick(&mut self, now: Moment) {
        if let State::Resting { until, step } = self.state
            && until <= now
        {
            self.state = State::Probing { step };
            self.assign();
        }
    }

    /// The next lease to tell a lane.
    pub fn poll_lease(&mut self) -> Option<(WorkerIndex, Lease)> {
        let lane = self.lanes.iter_mut().find(|lane| lane.dirty)?;
        lane.dirty = false;
        Some((lane.worker, lane.lease))
    }

    /// Workers whose lanes may have connections now.
    pub fn lanes_with_slots(&self) -> impl Iterator<Item = WorkerIndex> {
        self.lanes.iter().filter(|lane| lane.lease.slots > 0).map(|lane| lane.worker)
    }

    /// Whether a worker's lane has work, as far as home knows.
    pub fn is_wanted(&self, worker: WorkerIndex) -> bool {
        self.lanes.iter().any(|lane| lane.worker == worker && lane.wants)
    }

    /// The lease that was polled last for `worker` could not be said: it comes again.
    pub fn untold(&mut self, worker: WorkerIndex) {
        self.lane(worker).dirty = true;
    }

    /// Shares out what is allowed among the lanes that want any.
    fn assign(&mut self) {
        let rest_until = match self.state {
            State::Resting { until, .. } => Some(until),
            State::Open | State::Probing { .. } => None,
        };
        let budget = if rest_until.is_some() { 0 } else { self.allowed };
        let wanting = self.lanes.iter().filter(|lane| lane.wants).count() as u32;
        let mut nth = 0;
        let fair: Vec<u32> = self
            .lanes
            .iter()
            .map(|lane| {
                if !lane.wants {
                    return 0;
                }
                // The first lanes get the remainder.
                let share = budget / wanting + u32::from(nth < budget % wanting);
                nth += 1;
                share
            })
            .collect();
        // What the others hold beyond their new share is not free yet.
        let excess: u32 =
            self.lanes.iter().zip(&fair).map(|(lane, fair)| lane.held.saturating_sub(*fair)).sum();
        let mut missing = excess;
        for (lane, fair) in self.lanes.iter_mut().zip(fair) {
            let waits = missing.min(fair.saturating_sub(lane.held));
            missing -= waits;
            let lease = Lease { slots: fair - waits, rest_until };
            lane.dirty |= lease != lane.lease;
            lane.lease = lease;
        }
    }

    fn lane(&mut self, worker: WorkerIndex) -> &mut LaneView {
        let at = self.lanes.iter().position(|lane| lane.worker == worker).unwrap_or_else(|| {
            let lease = Lease { slots: 0, rest_until: None };
            self.lanes.push(LaneView { worker, wants: false, held: 0, lease, dirty: false });
            self.lanes.len() - 1
        });
        &mut self.lanes[at]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REST: RestOptions = RestOptions { first: Duration::from_secs(1), longest: Duration::from_secs(60) };

    fn leases(home: &mut Home) -> Vec<(u16, u32, bool)> {
        std::iter::from_fn(|| home.poll_lease())
            .map(|(worker, lease)| (worker.0, lease.slots, lease.rest_until.is_some()))
            .collect()
    }

    #[test]
    fn connections_grow_with_success_up_to_the_limit() {
        let mut home = Home::new(6, REST);
        home.lane_news(WorkerIndex(0), true, 0);
        assert_eq!(leases(&mut home), [(0, 4, false)]);
        for _ in 0..10 {
            home.succeeded();
        }
        assert_eq!(leases(&mut home), [(0, 6, false)]);
    }

    #[test]
    fn a_slot_moves_only_after_it_was_let_go() {
        let mut home = Home::new(4, REST);
        home.lane_news(WorkerIndex(0), true, 0);
        home.lane_news(WorkerIndex(0), true, 4);
        leases(&mut home);
        home.lane_news(WorkerIndex(1), true, 0);
        assert_eq!(leases(&mut home), [(0, 2, false)]);
        home.lane_news(WorkerIndex(0), true, 3);
        assert_eq!(leases(&mut home), [(1, 1, false)]);
        home.lane_news(WorkerIndex(0), true, 2);
        assert_eq!(leases(&mut home), [(1, 2, false)]);
    }

    #[test]
    fn a_failing_path_rests_longer_each_time_and_comes_back_with_one_connection() {
        let mut home = Home::new(8, REST);
        home.lane_news(WorkerIndex(0), true, 0);
        leases(&mut home);
        let mut now = Moment(0);
        let mut rests = Vec::new();
        for _ in 0..8 {
            home.failed(now, 1.0);
            home.failed(now, 1.0);
            assert_eq!(leases(&mut home), [(0, 0, true)]);
            let until = home.next_wake().unwrap();
            rests.push(until.since(now).as_secs());
            now = until;
            home.tick(now);
            assert_eq!(leases(&mut home), [(0, 1, false)]);
        }
        assert_eq!(rests, [1, 2, 4, 8, 16, 32, 60, 60]);
        home.succeeded();
        home.succeeded();
        assert_eq!(leases(&mut home), [(0, 3, false)]);
    }

    #[test]
    fn never_more_is_leased_than_the_limit_whatever_the_lanes_say() {
        // Each lane holds what it was last leased, or less; walked through by a small deterministic generator.
        let mut home = Home::new(5, REST);
        let (mut held, mut seed) = ([0u32; 3], 7u64);
        let mut leased = [0u32; 3];
        for step in 0..10_000u64 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let lane = (seed >> 33) as usize % 3;
            match (seed >> 40) % 8 {
                0 => home.succeeded(),
                1 => home.failed(Moment(step), 0.5),
                2 => home.tick(Moment(u64::MAX)),
                3 => held[lane] = leased[lane],
                _ => held[lane] = held[lane].min((seed >> 45) as u32 % 6),
            }
            home.lane_news(WorkerIndex(lane as u16), (seed >> 50).is_multiple_of(2), held[lane]);
            for (worker, lease) in std::iter::from_fn(|| home.poll_lease()) {
                leased[usize::from(worker.0)] = lease.slots;
            }
            let in_use: u32 = held.iter().zip(leased).map(|(held, leased)| leased.max(*held)).sum();
            assert!(in_use <= 5 || held.iter().sum::<u32>() == in_use, "step {step}: {held:?} {leased:?}");
        }
    }
}
