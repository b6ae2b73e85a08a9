//! PURE. A run second by second: counts, and a coarse latency distribution for the heat map. Bounded: when there are too
//! many slots, neighbours are merged and each slot covers twice the time.

use crate::clock::Micros;

/// Slots kept at most: two hours of seconds.
const SLOTS_MAX: usize = 7200;
/// Buckets for each doubling of the latency: 9 % wide, finer than a heat map can show.
const PER_OCTAVE: usize = 8;
/// Buckets in all: 1 µs to 71 minutes.
pub const BUCKETS: usize = 32 * PER_OCTAVE;

/// One second, or several.
#[derive(Clone, Debug)]
pub struct Slot {
    /// Messages that should have begun. Open loop only.
    pub intended: u64,
    /// Messages whose MAIL was queued.
    pub begun: u64,
    /// Messages answered 2xx.
    pub accepted: u64,
    /// Messages answered 4xx or 5xx.
    pub refused: u64,
    /// Messages whose reply or end was lost.
    pub lost: u64,
    /// Connects that failed and connections that were lost.
    pub connection_errors: u64,
    /// Messages taken by the sink.
    pub arrived: u64,
    /// Refusals by the sink's script.
    pub sink_refused: u64,
    /// Largest time by which a message began too late, in microseconds.
    pub lateness_max: Micros,
    /// Messages by latency of the whole transaction, from the intended time in open loop.
    pub latency: Box<[u32; BUCKETS]>,
}

impl Default for Slot {
    fn default() -> Self {
        Self {
            intended: 0,
            begun: 0,
            accepted: 0,
            refused: 0,
            lost: 0,
            connection_errors: 0,
            arrived: 0,
            sink_refused: 0,
            lateness_max: 0,
            latency: Box::new([0; BUCKETS]),
        }
    }
}

impl Slot {
    fn add(&mut self, other: &Self) {
        self.intended += other.intended;
        self.begun += other.begun;
        self.accepted += other.accepted;
        self.refused += other.refused;
        self.lost += other.lost;
        self.connection_errors += other.connection_errors;
        self.arrived += other.arrived;
        self.sink_refused += other.sink_refused;
        self.lateness_max = self.lateness_max.max(other.lateness_max);
        for (mine, theirs) in self.latency.iter_mut().zip(other.latency.iter()) {
            *mine = mine.saturating_add(*theirs);
        }
    }

    /// Records the latency of an accepted message.
    pub fn record(&mut self, micros: Micros) {
        let count = &mut self.latency[bucket(micros)];
        *count = count.saturating_add(1);
    }

    /// The latency that this share of the messages did not exceed, to 9 %; `None` without messages.
    pub fn quantile(&self, quantile: f64) -> Option<Micros> {
        let total: u64 = self.latency.iter().map(|count| u64::from(*count)).sum();
        let rank = ((total as f64 * quantile).ceil() as u64).clamp(1, total.max(1));
        let mut seen = 0;
        let reaches = |count: &u32| {
            seen += u64::from(*count);
            seen >= rank
        };
        (total > 0).then(|| self.latency.iter().position(reaches).map(bucket_end)).flatten()
    }
}

/// The bucket of a latency.
pub fn bucket(micros: Micros) -> usize {
    let bucket = ((micros.max(1) as f64).log2() * PER_OCTAVE as f64) as usize;
    bucket.min(BUCKETS - 1)
}

/// The upper bound of a bucket in microseconds.
pub fn bucket_end(bucket: usize) -> Micros {
    ((bucket + 1) as f64 / PER_OCTAVE as f64).exp2().ceil() as Micros
}

/// A run's slots.
#[derive(Clone, Debug)]
pub struct Timeline {
    start: Option<Micros>,
    /// Microseconds of a slot.
    width: Micros,
    slots: Vec<Slot>,
}

impl Default for Timeline {
    fn default() -> Self {
        Self { start: None, width: 1_000_000, slots: Vec::new() }
    }
}

impl Timeline {
    /// When slot 0 begins. Without it, the first event says.
    pub fn begin(&mut self, start: Micros) {
        self.start = Some(start);
    }

    /// The slot of a moment; what is earlier than the start counts as the start.
    pub fn at(&mut self, time: Micros) -> &mut Slot {
        let start = *self.start.get_or_insert(time);
        loop {
            let index = (time.saturating_sub(start) / self.width) as usize;
            if index < SLOTS_MAX {
                if self.slots.len() <= index {
                    self.slots.resize_with(index + 1, Slot::default);
                }
                return &mut self.slots[index];
            }
            self.merge();
        }
    }

    fn merge(&mut self) {
        let merged = self.slots.chunks(2).map(|pair| {
            let mut slot = pair[0].clone();
            pair.iter().skip(1).for_each(|other| slot.add(other));
            slot
        });
        self.slots = merged.collect();
        self.width *= 2;
    }

    /// Seconds that a slot covers.
    pub fn seconds(&self) -> u64 {
        self.width / 1_000_000
    }

    /// All slots from the start on.
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_run_is_merged_and_loses_no_count() {
        let mut timeline = Timeline::default();
        timeline.begin(5);
        for second in 0..20_000u64 {
            timeline.at(5 + second * 1_000_000).accepted += 1;
        }
        assert!(timeline.slots().len() <= SLOTS_MAX && timeline.seconds() == 4);
        assert_eq!(timeline.slots().iter().map(|slot| slot.accepted).sum::<u64>(), 20_000);
        assert!(timeline.slots().iter().all(|slot| slot.accepted == 4));
        timeline.at(0).refused += 1;
        assert_eq!(timeline.slots()[0].refused, 1, "before the start counts as the start");
    }

    #[test]
    fn quantiles_are_right_to_a_bucket() {
        let mut slot = Slot::default();
        assert_eq!(slot.quantile(0.5), None);
        (1..=1000).for_each(|micros| slot.record(micros * 100));
        let half = slot.quantile(0.5).unwrap_or(0);
        assert!((50_000..=55_000).contains(&half), "{half}");
        slot.record(u64::MAX);
        assert!(slot.quantile(1.0) > Some(4_000_000_000));
    }

    #[test]
    fn buckets_hold_what_their_bounds_say() {
        for micros in [1, 2, 3, 999, 1_000_000, 3_600_000_000] {
            let bucket = bucket(micros);
            assert!(bucket_end(bucket) >= micros, "{micros}");
            assert!(bucket == 0 || bucket_end(bucket - 1) <= micros + 1, "{micros}");
        }
    }
}
