//! PURE. The settings that a sweep tries, and what a simple model expects of each.

use serde::{Deserialize, Serialize};

/// One way to lay out the relay, under one load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Point {
    /// `threads.wiring`.
    pub wiring: Wiring,
    /// `threads.shards`.
    pub shards: u16,
    /// `threads.workers`.
    pub workers: u16,
    /// `threads.pin`.
    pub pin: bool,
    /// Connections of the load: clients decide about it, no setting.
    pub connections: u32,
}

/// As in the configuration, without `auto`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wiring {
    /// A shard and a worker on one executor.
    Shared,
    /// One executor each.
    Split,
}

impl Wiring {
    /// As the configuration has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Shared => "shared",
            Self::Split => "split",
        }
    }
}

impl std::fmt::Display for Point {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { shards, workers, connections, .. } = self;
        let pin = if self.pin { "pinned" } else { "free" };
        write!(out, "{} {shards}×{workers} {pin}, {connections} connections", self.wiring.name())
    }
}

/// A message's CPU that is spent receiving and keeping it, as a share; the rest sends it. Runs with split wiring show 0.6 to 0.66.
const INBOUND_SHARE: f64 = 0.6;
/// What a message costs in addition when it goes from thread to thread.
const HAND_OVER: f64 = 0.15;

impl Point {
    /// Threads with a ring.
    pub fn executors(&self) -> u16 {
        match self.wiring {
            Wiring::Shared => self.shards.max(self.workers),
            Wiring::Split => self.shards + self.workers,
        }
    }

    /// How many of `cpus` CPUs the layout can fill: the busiest executor is full first.
    pub fn capacity(&self, cpus: f64) -> f64 {
        let (shards, workers) = (f64::from(self.shards), f64::from(self.workers));
        let (inbound, outbound) = (INBOUND_SHARE / shards, (1.0 - INBOUND_SHARE) / workers);
        let busiest = match self.wiring {
            // With unequal counts some executors have one role only; the first has both.
            Wiring::Shared => inbound + outbound,
            Wiring::Split => inbound.max(outbound),
        };
        (1.0 / busiest).min(cpus)
    }

    /// Messages per unit of time that a model of `cpus` CPUs expects.
    pub fn expected(&self, cpus: f64) -> f64 {
        let cost = if self.wiring == Wiring::Split { 1.0 + HAND_OVER } else { 1.0 };
        let crowd = (f64::from(self.executors()) / cpus - 1.0).max(0.0);
        self.capacity(cpus) / cost / (1.0 + 0.1 * crowd)
    }

    /// How far apart two points are: in doublings for counts, and whether they differ for the rest.
    pub fn distance(&self, other: &Self) -> Distance {
        let octaves = |one: u32, two: u32| (f64::from(one).log2() - f64::from(two).log2()).powi(2);
        Distance {
            counts: octaves(self.shards.into(), other.shards.into())
                + octaves(self.workers.into(), other.workers.into())
                + octaves(self.connections, other.connections),
            kinds: f64::from(u8::from(self.wiring != other.wiring))
                + 0.5 * f64::from(u8::from(self.pin != other.pin)),
        }
    }
}

/// Between two points.
#[derive(Clone, Copy, Debug)]
pub struct Distance {
    /// Sum of squares, in doublings.
    pub counts: f64,
    /// 1 for another wiring, a half for another pinning.
    pub kinds: f64,
}

/// What is tried.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Space {
    /// CPUs that the relay can use.
    pub cpus: f64,
    /// Loads.
    pub connections: Vec<u32>,
    /// Most executors, by memory that may be locked.
    pub executors_max: u16,
    /// Whether pinning is tried both ways, or left on.
    pub try_pin: bool,
}

impl Space {
    /// Counts of roles: powers of two, three quarters of the CPUs, and the CPUs.
    pub fn counts(&self) -> Vec<u16> {
        let cpus = self.cpus.round().max(1.0) as u16;
        let mut counts: Vec<u16> = (0..).map(|power| 1 << power).take_while(|count| *count < cpus).collect();
        counts.extend([cpus - cpus / 4, cpus]);
        counts.sort_unstable();
        counts.dedup();
        counts
    }

    /// Every point, in a fixed order.
    pub fn points(&self) -> Vec<Point> {
        let mut points = Vec::new();
        // More executors than this only take turns.
        let crowd = (2.0 * self.cpus).max(2.0) as u16;
        let pins: &[bool] = if self.try_pin { &[true, false] } else { &[true] };
        for wiring in [Wiring::Shared, Wiring::Split] {
            for shards in self.counts() {
                for workers in self.counts() {
                    for pin in pins {
                        for connections in &self.connections {
                            let point =
                                Point { wiring, shards, workers, pin: *pin, connections: *connections };
                            if point.executors() <= crowd.min(self.executors_max) {
                                points.push(point);
                            }
                        }
                    }
                }
            }
        }
        points
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(cpus: f64) -> Space {
        Space { cpus, connections: vec![32], executors_max: 256, try_pin: true }
    }

    #[test]
    fn small_and_large_hosts_have_a_space_that_can_be_searched() {
        assert_eq!(space(1.0).counts(), [1]);
        assert_eq!(space(2.0).counts(), [1, 2]);
        assert_eq!(space(64.0).counts(), [1, 2, 4, 8, 16, 32, 48, 64]);
        assert_eq!(space(2.0).points().len(), 16);
        assert!(space(64.0).points().len() < 300);
        let locked = Space { executors_max: 2, ..space(64.0) };
        assert!(locked.points().iter().all(|point| point.executors() <= 2) && !locked.points().is_empty());
    }

    #[test]
    fn the_model_begins_with_one_shared_executor_for_each_cpu() {
        for cpus in [2.0, 8.0, 64.0] {
            let points = space(cpus).points();
            let best = points
                .iter()
                .max_by(|one, two| one.expected(cpus).total_cmp(&two.expected(cpus)))
                .expect("points");
            assert_eq!((best.wiring, f64::from(best.shards)), (Wiring::Shared, cpus));
        }
    }
}
