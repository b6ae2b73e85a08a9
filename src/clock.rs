//! PURE. Two clocks, kept apart by type: wall time goes into records, monotonic time drives timers.
//!
//! Nothing here reads a clock: `now` is an argument everywhere. `net::now` is the one place that asks the system.

use std::ops::{Add, Sub};
use std::time::Duration;

/// Milliseconds since 1970-01-01T00:00:00Z. What records and headers hold; may jump either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WallTime(pub u64);

/// Microseconds of a clock that never goes back, from an arbitrary start. What timers and latencies use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(pub u64);

/// Both clocks, read together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// For what is written down.
    pub wall: WallTime,
    /// For what is waited for.
    pub mono: Moment,
}

impl WallTime {
    /// Time since `earlier`, zero if the clock went back.
    pub fn since(self, earlier: WallTime) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for WallTime {
    type Output = WallTime;
    fn add(self, wait: Duration) -> WallTime {
        WallTime(self.0.saturating_add(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)))
    }
}

impl Moment {
    /// Time since `earlier`, zero if `earlier` is later.
    pub fn since(self, earlier: Moment) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Moment {
    type Output = Moment;
    fn add(self, wait: Duration) -> Moment {
        Moment(self.0.saturating_add(u64::try_from(wait.as_micros()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Duration> for Moment {
    type Output = Moment;
    fn sub(self, wait: Duration) -> Moment {
        Moment(self.0.saturating_sub(u64::try_from(wait.as_micros()).unwrap_or(u64::MAX)))
    }
}

impl Now {
    /// The monotonic moment at which wall time will be `wall` if the clock does not jump; now if it has passed.
    pub fn moment_of(self, wall: WallTime) -> Moment {
        self.mono + wall.since(self.wall)
    }
}
