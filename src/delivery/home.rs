//! PURE. A path at its home worker: how many connections it may have now, who has them, and when it rests.
//!
//! The home alone decides. It leases connection slots to *lanes*, one per worker that serves the path (its own among
//! them), and never leases more than it has: a slot that moves from one lane to another is given out only when the first
//! says that it knows the smaller lease and has let the slot go. Connections wanted grow with success and shrink with failure; a path that fails altogether
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lease {
    /// Connections it may have open or opening.
    pub slots: u32,
    /// The path rests until then: parked jobs go back, credits are revoked.
    pub rest_until: Option<Moment>,
    /// Counts the leases of this lane, which repeats it to say that it knows this one.
    pub number: u32,
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
    /// Most slots of leases that were said and that the lane may still act on.
    believed: u32,
    dirty: bool,
}

impl LaneView {
    /// Connections that it has, or may open before it hears of a smaller lease.
    fn in_use(&self) -> u32 {
        self.held.max(self.believed)
    }
}

impl Home {
    /// A path that may have `limit` connections, at least 1.
    pub fn new(limit: u32, rest: RestOptions) -> Self {
        let limit = limit.max(1);
        Self { limit, allowed: limit.min(CONNECTIONS_AT_START), state: State::Open, rest, lanes: Vec::new() }
    }

    /// A lane says whether it has work, how many slots it uses, and the number of the last lease it knows. The home's own
    /// lane should be the first to speak: it comes first when there are fewer slots than lanes, since it serves the
    /// shards that no other lane does.
    pub fn lane_news(&mut self, worker: WorkerIndex, wants: bool, held: u32, known: u32) {
        let lane = self.lane(worker);
        (lane.wants, lane.held) = (wants, held);
        if known == lane.lease.number && !lane.dirty {
            lane.believed = lane.lease.slots;
        }
        self.assign();
    }

    /// Brings a lane in: it is taken to have work until it says otherwise.
    pub fn invite(&mut self, worker: WorkerIndex) {
        self.lane(worker).wants = true;
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
        lane.believed = lane.believed.max(lane.lease.slots);
        Some((lane.worker, lane.lease))
    }

    /// Workers whose lanes may have connections now.
    pub fn lanes_with_slots(&self) -> impl Iterator<Item = WorkerIndex> {
        self.lanes.iter().filter(|lane| lane.lease.slots > 0).map(|lane| lane.worker)
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
        // What the others have beyond their new share is not free yet.
        let excess: u32 =
            self.lanes.iter().zip(&fair).map(|(lane, fair)| lane.in_use().saturating_sub(*fair)).sum();
        let mut missing = excess;
        for (lane, fair) in self.lanes.iter_mut().zip(fair) {
            let waits = missing.min(fair.saturating_sub(lane.in_use()));
            missing -= waits;
            let slots = fair - waits;
            if (slots, rest_until) != (lane.lease.slots, lane.lease.rest_until) {
                lane.lease = Lease { slots, rest_until, number: lane.lease.number.wrapping_add(1) };
                lane.dirty = true;
            }
        }
    }

    fn lane(&mut self, worker: WorkerIndex) -> &mut LaneView {
        let at = self.lanes.iter().position(|lane| lane.worker == worker).unwrap_or_else(|| {
            let lease = Lease::default();
            self.lanes.push(LaneView { worker, wants: false, held: 0, lease, believed: 0, dirty: false });
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

    /// A lane's word that it has heard every lease so far.
    fn say(home: &mut Home, worker: u16, wants: bool, held: u32) {
        let known = home.lane(WorkerIndex(worker)).lease.number;
        home.lane_news(WorkerIndex(worker), wants, held, known);
    }

    #[test]
    fn connections_grow_with_success_up_to_the_limit() {
        let mut home = Home::new(6, REST);
        say(&mut home, 0, true, 0);
        assert_eq!(leases(&mut home), [(0, 4, false)]);
        for _ in 0..10 {
            home.succeeded();
        }
        assert_eq!(leases(&mut home), [(0, 6, false)]);
    }

    #[test]
    fn a_slot_moves_only_after_it_was_let_go() {
        let mut home = Home::new(4, REST);
        say(&mut home, 0, true, 0);
        say(&mut home, 0, true, 4);
        leases(&mut home);
        say(&mut home, 1, true, 0);
        assert_eq!(leases(&mut home), [(0, 2, false)]);
        say(&mut home, 0, true, 3);
        assert_eq!(leases(&mut home), [(1, 1, false)]);
        say(&mut home, 0, true, 2);
        assert_eq!(leases(&mut home), [(1, 2, false)]);
    }

    #[test]
    fn a_failing_path_rests_longer_each_time_and_comes_back_with_one_connection() {
        let mut home = Home::new(8, REST);
        say(&mut home, 0, true, 0);
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
    fn a_lane_that_has_not_heard_of_its_smaller_lease_keeps_the_slots_it_may_still_open() {
        let mut home = Home::new(4, REST);
        home.lane_news(WorkerIndex(0), true, 0, 0);
        assert_eq!(leases(&mut home), [(0, 4, false)]);
        // Lane 0 says nothing held yet, but is about to open four.
        home.lane_news(WorkerIndex(1), true, 0, 0);
        assert_eq!(leases(&mut home), [(0, 2, false)]);
        home.lane_news(WorkerIndex(0), true, 0, 1);
        assert_eq!(leases(&mut home), []);
        home.lane_news(WorkerIndex(0), true, 2, 2);
        assert_eq!(leases(&mut home), [(1, 2, false)]);
    }

    #[test]
    fn an_invitation_forgets_nothing_of_what_the_lane_holds() {
        let mut home = Home::new(4, REST);
        say(&mut home, 0, true, 0);
        home.invite(WorkerIndex(1));
        assert_eq!(leases(&mut home), [(0, 2, false), (1, 2, false)]);
        say(&mut home, 1, false, 2);
        home.invite(WorkerIndex(1));
        let lane = home.lane(WorkerIndex(1));
        assert_eq!((lane.held, lane.wants), (2, true));
    }

    #[test]
    fn slots_never_exceed_the_limit_however_late_lanes_hear_and_are_heard() {
        use std::collections::VecDeque;
        const LIMIT: u32 = 5;
        let mut home = Home::new(LIMIT, REST);
        let mut to_lane: [VecDeque<Lease>; 3] = Default::default();
        let mut to_home: [VecDeque<(bool, u32, u32)>; 3] = Default::default();
        let (mut held, mut lease, mut seed) = ([0u32; 3], [Lease::default(); 3], 7u64);
        for step in 0..200_000u64 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let lane = (seed >> 33) as usize % 3;
            match (seed >> 40) % 16 {
                0 => home.succeeded(),
                1 if step % 64 == 0 => home.failed(Moment(step), 0.5),
                2 => home.tick(Moment(u64::MAX)),
                3..5 if held[lane] < lease[lane].slots => held[lane] += 1,
                5..7 => held[lane] = held[lane].saturating_sub(1),
                7..10 => {
                    if let Some(heard) = to_lane[lane].pop_front() {
                        lease[lane] = heard;
                    }
                }
                10..13 => {
                    to_home[lane].push_back((!(seed >> 50).is_multiple_of(4), held[lane], lease[lane].number))
                }
                _ => {
                    if let Some((wants, held, known)) = to_home[lane].pop_front() {
                        home.lane_news(WorkerIndex(lane as u16), wants, held, known);
                    }
                }
            }
            for (worker, lease) in std::iter::from_fn(|| home.poll_lease()) {
                to_lane[usize::from(worker.0)].push_back(lease);
            }
            assert!(held.iter().sum::<u32>() <= LIMIT, "step {step}: {held:?}");
        }
    }
}
