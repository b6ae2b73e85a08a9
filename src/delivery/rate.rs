//! PURE. Rates of a path: home gives out permits, lanes use them later, and say so later still.
//!
//! The promise is exact: in no period of the rate's length more is *used* than the rate says, however long permits and news
//! travel. A permit is *held* from when it is given out until home knows what became of it: *used*, and its place fills up again
//! from that moment on, or *returned*. What is held or not filled up again is never more than a *bunch*; so within a period
//! at most a bunch and what fills up is used, and the interval of filling is made such that this is the rate's count.

use crate::clock::Moment;
use crate::routing::Rate;

const NANOS: u64 = 1000;

/// A path's permits at home.
#[derive(Debug)]
pub struct Bucket {
    /// Permits that can be there at once.
    bunch: u32,
    /// Time in which the place of a used permit fills up again, nanoseconds.
    interval: u64,
    /// When all used places will be filled up, nanoseconds.
    whole_at: u64,
    /// Given out, fate unknown.
    held: u32,
}

impl Bucket {
    /// A full bucket.
    pub fn new(rate: Rate) -> Self {
        // What may come in a bunch is lost from the pace: a 32nd is little, and lets one lease serve several messages where they are
        // many. Never more than a second's worth, so that low rates are spread evenly.
        let bunch = (rate.count / 32).min(rate.per_second() as u32).max(1);
        let filled = u64::from(rate.count - bunch + 1);
        let period = u64::try_from(rate.period.as_nanos()).unwrap_or(u64::MAX);
        Self { bunch, interval: period.div_ceil(filled), whole_at: 0, held: 0 }
    }

    fn missing(&self, now: Moment) -> u32 {
        let wait = self.whole_at.saturating_sub(now.0 * NANOS);
        u32::try_from(wait.div_ceil(self.interval)).unwrap_or(u32::MAX)
    }

    /// Permits that can be given out now.
    pub fn available(&self, now: Moment) -> u32 {
        self.bunch.saturating_sub(self.held).saturating_sub(self.missing(now))
    }

    /// Gives out permits that are available.
    pub fn give_out(&mut self, count: u32) {
        self.held += count;
        assert!(self.held <= self.bunch, "more permits were given out than there are");
    }

    /// It is known now that so many were used.
    pub fn used(&mut self, count: u32, now: Moment) {
        self.held -= count;
        self.whole_at = self.whole_at.max(now.0 * NANOS) + u64::from(count) * self.interval;
    }

    /// So many came back unused.
    pub fn returned(&mut self, count: u32) {
        self.held -= count;
    }

    /// When a permit will be available; `None` if that takes news of those that are held.
    pub fn next(&self) -> Option<Moment> {
        let places = self.bunch.checked_sub(self.held + 1)?;
        let at = self.whole_at.saturating_sub(u64::from(places) * self.interval);
        Some(Moment(at.div_ceil(NANOS)))
    }
}

/// Something for each rate that a path has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PerRate<T> {
    /// Transactions begun.
    pub messages: T,
    /// Connections opened.
    pub connections: T,
}

impl<T> PerRate<T> {
    /// Both.
    pub fn all(&self) -> [&T; 2] {
        [&self.messages, &self.connections]
    }

    /// Both, to be changed.
    pub fn each(&mut self) -> [&mut T; 2] {
        [&mut self.messages, &mut self.connections]
    }
}

/// What a lane says of its permits: totals, so that news that is repeated or overtaken does no harm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// Used.
    pub used: u64,
    /// Sent back unused.
    pub returned: u64,
    /// None is left, and one could be used now.
    pub needs: bool,
}

/// A path's permits in one lane.
#[derive(Debug, Default)]
pub struct Permits {
    /// Given to the lane in all; `None` where there is no such rate.
    leased: Option<u64>,
    used: u64,
    returned: u64,
}

impl Permits {
    /// Takes over home's total.
    pub fn set_leased(&mut self, total: Option<u64>) {
        self.leased = total;
    }

    /// How many can be used.
    pub fn left(&self) -> u32 {
        let left = |total: u64| u32::try_from(total - self.used - self.returned).unwrap_or(u32::MAX);
        self.leased.map_or(u32::MAX, left)
    }

    /// Uses one of those that are left.
    pub fn spend(&mut self) {
        if self.leased.is_some() {
            assert!(self.left() > 0, "something was done without a permit");
            self.used += 1;
        }
    }

    /// Sends all back that are left.
    pub fn give_back(&mut self) {
        if self.leased.is_some() {
            self.returned += u64::from(self.left());
        }
    }

    /// What home should know; `could_use`: one would be used now.
    pub fn spent(&self, could_use: bool) -> Spent {
        Spent { used: self.used, returned: self.returned, needs: could_use && self.left() == 0 }
    }
}

/// Home's view of a lane's permits.
#[derive(Clone, Copy, Debug, Default)]
pub struct Account {
    leased: u64,
    spent: Spent,
}

impl Account {
    /// Books news of the lane.
    pub fn book(&mut self, news: Spent, bucket: &mut Bucket, now: Moment) {
        let count = |new: u64, old: u64| u32::try_from(new.saturating_sub(old)).unwrap_or(u32::MAX);
        bucket.used(count(news.used, self.spent.used), now);
        bucket.returned(count(news.returned, self.spent.returned));
        self.spent = news;
        // It does not know of these yet.
        self.spent.needs &= self.leased == news.used + news.returned;
    }

    /// Whether the lane waits for a permit.
    pub fn needs(&self) -> bool {
        self.spent.needs
    }

    /// Gives it more.
    pub fn lease(&mut self, count: u32) {
        self.leased += u64::from(count);
        self.spent.needs = false;
    }

    /// All that was leased to the lane.
    pub fn total(&self) -> u64 {
        self.leased
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_rate_is_spread_evenly_and_kept_to_the_last_permit() {
        let mut bucket = Bucket::new(Rate { count: 10, period: Duration::from_secs(60) });
        let mut now = Moment(5_000_000);
        let mut used = Vec::new();
        for _ in 0..20 {
            now = now.max(bucket.next().expect("none is held"));
            assert_eq!(bucket.available(now), 1);
            bucket.give_out(1);
            assert_eq!((bucket.available(now), bucket.next()), (0, None));
            bucket.used(1, now);
            used.push(now.0 / 1_000_000);
        }
        assert_eq!(used[..4], [5, 11, 17, 23]);
        assert_eq!(used[10] - used[0], 60, "the eleventh comes when the minute is over");
    }

    #[test]
    fn what_comes_back_unused_can_be_given_out_again_at_once() {
        let mut bucket = Bucket::new(Rate { count: 1, period: Duration::from_secs(3600) });
        bucket.give_out(1);
        bucket.returned(1);
        assert_eq!(bucket.available(Moment(0)), 1);
    }

    #[test]
    fn most_of_a_high_rate_is_reached() {
        let rate = Rate { count: 1000, period: Duration::from_secs(1) };
        let mut bucket = Bucket::new(rate);
        let used: u32 = (0..10_000u64)
            .map(|millis| {
                let count = bucket.available(Moment(millis * 1000));
                bucket.give_out(count);
                bucket.used(count, Moment(millis * 1000));
                count
            })
            .sum();
        assert!((9600..=10_000).contains(&used), "{used} in ten seconds");
    }

    proptest! {
        /// Permits lie at lanes for any time, and news of their use travels for any time.
        #[test]
        fn no_period_sees_more_than_the_rate(
            count in 1u32..200,
            steps in prop::collection::vec((0u8..5, 0u64..30_000, 1u32..8), 1..600),
        ) {
            let rate = Rate { count, period: Duration::from_secs(1) };
            let mut bucket = Bucket::new(rate);
            let mut now = Moment(1);
            let (mut at_lane, mut news, mut used) = (0, VecDeque::new(), Vec::new());
            for (what, wait, amount) in steps {
                match what {
                    0 => now = now + Duration::from_micros(wait),
                    1 => {
                        let count = bucket.available(now).min(amount);
                        bucket.give_out(count);
                        at_lane += count;
                    }
                    2 => {
                        let count = amount.min(at_lane);
                        at_lane -= count;
                        used.extend((0..count).map(|_| now));
                        news.push_back(count);
                    }
                    3 => {
                        let count = amount.min(at_lane);
                        at_lane -= count;
                        bucket.returned(count);
                    }
                    _ => if let Some(count) = news.pop_front() {
                        bucket.used(count, now);
                    },
                }
            }
            for (first, moment) in used.iter().enumerate() {
                let within = used[first..].iter().take_while(|other| other.since(*moment) < rate.period).count();
                prop_assert!(within <= count as usize, "{within} of {count} from {moment:?}");
            }
        }
    }
}
