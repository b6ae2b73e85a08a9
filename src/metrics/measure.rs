//! PURE. Counters, gauges and histograms of one thread.

use std::cell::Cell;
use std::time::Duration;

/// Upper bounds of latency buckets, microseconds. Durable commits lie at 50 µs to 20 ms, remotes at 1 ms to a minute.
pub const LATENCY_BOUNDS_MICROS: [u64; 20] = [
    25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 10_000_000, 30_000_000, 60_000_000,
];
/// Upper bounds of buckets for how many records share a commit.
pub const GROUP_BOUNDS: [u64; 12] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048];

/// Something that is counted here and shown elsewhere.
pub trait Measure {
    /// Its value as plain data.
    type Snapshot: Send + Clone;
    /// Its value now.
    fn snapshot(&self) -> Self::Snapshot;
}

/// A number that only rises.
#[derive(Debug, Default)]
pub struct Counter(Cell<u64>);

impl Counter {
    /// One more.
    pub fn inc(&self) {
        self.add(1);
    }
    /// `count` more.
    pub fn add(&self, count: u64) {
        self.0.set(self.0.get().wrapping_add(count));
    }
    /// How many so far.
    pub fn value(&self) -> u64 {
        self.0.get()
    }
    /// Takes over a total that is counted elsewhere; it must never fall.
    pub fn set_total(&self, total: u64) {
        self.0.set(total);
    }
}

impl Measure for Counter {
    type Snapshot = u64;
    fn snapshot(&self) -> u64 {
        self.value()
    }
}

/// A number that rises and falls, never below 0.
#[derive(Debug, Default)]
pub struct Gauge(Cell<u64>);

impl Gauge {
    /// Takes the place of the value.
    pub fn set(&self, value: u64) {
        self.0.set(value);
    }
    /// `count` more.
    pub fn add(&self, count: u64) {
        self.0.set(self.0.get().saturating_add(count));
    }
    /// `count` less; below 0 it stays 0, since a wrong gauge must not stop the relay.
    pub fn sub(&self, count: u64) {
        self.0.set(self.0.get().saturating_sub(count));
    }
    /// Its value.
    pub fn value(&self) -> u64 {
        self.0.get()
    }
}

impl Measure for Gauge {
    type Snapshot = u64;
    fn snapshot(&self) -> u64 {
        self.value()
    }
}

/// How often values fell between fixed bounds. `N` bounds, and one more bucket above the last.
#[derive(Debug)]
pub struct Histogram<const N: usize> {
    bounds: &'static [u64; N],
    buckets: [Cell<u64>; N],
    count: Cell<u64>,
    sum: Cell<u64>,
}

/// A histogram of durations.
pub type Latency = Histogram<20>;
/// A histogram of group sizes.
pub type Sizes = Histogram<12>;

impl Default for Latency {
    fn default() -> Self {
        Self::new(&LATENCY_BOUNDS_MICROS)
    }
}

impl Default for Sizes {
    fn default() -> Self {
        Self::new(&GROUP_BOUNDS)
    }
}

impl<const N: usize> Histogram<N> {
    fn new(bounds: &'static [u64; N]) -> Self {
        Self {
            bounds,
            buckets: std::array::from_fn(|_| Cell::new(0)),
            count: Cell::new(0),
            sum: Cell::new(0),
        }
    }

    /// Counts one value.
    pub fn record(&self, value: u64) {
        self.record_many(value, 1);
    }

    /// Counts `times` values that are alike, as the messages of one commit are.
    pub fn record_many(&self, value: u64, times: u64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        if let Some(bucket) = self.buckets.get(bucket) {
            bucket.set(bucket.get() + times);
        }
        self.count.set(self.count.get() + times);
        self.sum.set(self.sum.get().wrapping_add(value.saturating_mul(times)));
    }
}

impl Latency {
    /// Counts a duration.
    pub fn observe(&self, duration: Duration) {
        self.record(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX));
    }
}

/// A histogram as plain data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistogramSnapshot {
    /// Upper bounds of the buckets, inclusive.
    pub bounds: &'static [u64],
    /// Values in each bucket (not summed up); those above the last bound are only in `count`.
    pub buckets: Vec<u64>,
    /// Values in all.
    pub count: u64,
    /// Their sum.
    pub sum: u64,
}

impl HistogramSnapshot {
    /// A histogram with nothing in it, to add others to.
    pub fn empty(bounds: &'static [u64]) -> Self {
        Self { bounds, buckets: vec![0; bounds.len()], count: 0, sum: 0 }
    }

    /// Takes the values of `other`, which must have the same bounds, in.
    pub fn merge(&mut self, other: &HistogramSnapshot) {
        assert_eq!(self.bounds, other.bounds, "histograms of different measures were merged");
        for (sum, more) in self.buckets.iter_mut().zip(&other.buckets) {
            *sum += more;
        }
        self.count += other.count;
        self.sum = self.sum.wrapping_add(other.sum);
    }
}

impl<const N: usize> Measure for Histogram<N> {
    type Snapshot = HistogramSnapshot;
    fn snapshot(&self) -> HistogramSnapshot {
        HistogramSnapshot {
            bounds: self.bounds,
            buckets: self.buckets.iter().map(Cell::get).collect(),
            count: self.count.get(),
            sum: self.sum.get(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn each_value_is_in_the_first_bucket_that_reaches_it(values in proptest::collection::vec(0u64..100_000_000, 0..50)) {
            let histogram = Latency::default();
            values.iter().for_each(|value| histogram.record(*value));
            let snapshot = histogram.snapshot();
            let mut summed = 0;
            for (bound, bucket) in snapshot.bounds.iter().zip(&snapshot.buckets) {
                summed += bucket;
                proptest::prop_assert_eq!(summed, values.iter().filter(|value| *value <= bound).count() as u64);
            }
            proptest::prop_assert_eq!(snapshot.count, values.len() as u64);
            proptest::prop_assert_eq!(snapshot.sum, values.iter().sum::<u64>());
        }
    }

    #[test]
    fn bounds_rise_and_span_25_microseconds_to_60_seconds() {
        assert!(LATENCY_BOUNDS_MICROS.is_sorted_by(|a, b| a < b) && GROUP_BOUNDS.is_sorted_by(|a, b| a < b));
        assert_eq!((LATENCY_BOUNDS_MICROS[0], LATENCY_BOUNDS_MICROS[19]), (25, 60_000_000));
    }

    #[test]
    fn many_alike_count_as_that_many() {
        let (one_by_one, together) = (Sizes::default(), Sizes::default());
        (0..5).for_each(|_| one_by_one.record(3));
        together.record_many(3, 5);
        assert_eq!(one_by_one.snapshot(), together.snapshot());
    }

    #[test]
    fn a_gauge_stops_at_zero() {
        let gauge = Gauge::default();
        gauge.add(1);
        gauge.sub(2);
        assert_eq!(gauge.value(), 0);
    }
}
