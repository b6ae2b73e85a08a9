//! PURE. When message `n` is due, and how many there are. In closed loop every message is due as soon as a connection is
//! free; in open loop the time is fixed beforehand by a [`Pattern`], whatever the relay does.

use std::str::FromStr;

use crate::clock::Micros;
use crate::wire::template::mix;

/// How the times of an open loop lie.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pattern {
    /// Equal distances.
    Constant {
        /// Messages per second.
        rate: f64,
    },
    /// Independent messages: exponential distances.
    Poisson {
        /// Messages per second on average.
        rate: f64,
        /// Seed of the distances.
        seed: u64,
    },
    /// A rate that changes linearly over the whole duration.
    Ramp {
        /// Messages per second at the start.
        from: f64,
        /// Messages per second at the end.
        to: f64,
        /// Microseconds from start to end.
        over: Micros,
    },
    /// Many at once, then nothing until the next.
    Burst {
        /// Messages per second on average.
        rate: f64,
        /// Messages at once.
        size: u64,
    },
}

/// A `--rate` that cannot be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "--rate takes RATE, poisson:RATE, FROM..TO or burst:RATExSIZE in messages per second, above 0, up to 10000000"
)]
pub struct PatternError;

impl FromStr for Pattern {
    type Err = PatternError;

    /// The ramp's duration and the seed are filled in later: [`Pattern::complete`].
    fn from_str(text: &str) -> Result<Self, PatternError> {
        let rate = |text: &str| {
            let (digits, factor) = text.strip_suffix('k').map_or((text, 1.0), |digits| (digits, 1e3));
            let rate = digits.parse::<f64>().ok().map(|rate| rate * factor);
            rate.filter(|rate| *rate > 0.0 && *rate <= 1e7).ok_or(PatternError)
        };
        if let Some(mean) = text.strip_prefix("poisson:") {
            return Ok(Self::Poisson { rate: rate(mean)?, seed: 0 });
        }
        if let Some(burst) = text.strip_prefix("burst:") {
            let (mean, size) = burst.split_once('x').ok_or(PatternError)?;
            let size = size.parse().ok().filter(|size| *size > 0).ok_or(PatternError)?;
            return Ok(Self::Burst { rate: rate(mean)?, size });
        }
        match text.split_once("..") {
            Some((from, to)) => Ok(Self::Ramp { from: rate(from)?, to: rate(to)?, over: 1 }),
            None => Ok(Self::Constant { rate: rate(text)? }),
        }
    }
}

impl Pattern {
    /// The pattern with its seed, and its ramp stretched over the run: its duration, or the time its messages take.
    pub fn complete(self, seed_of_run: u64, duration: Option<Micros>, messages: Option<u64>) -> Self {
        match self {
            Self::Poisson { rate, .. } => Self::Poisson { rate, seed: mix(seed_of_run ^ 0x0070_6163_6500) },
            Self::Ramp { from, to, .. } => {
                let by_count = messages.map(|count| (count as f64 * 2e6 / (from + to)) as Micros);
                Self::Ramp { from, to, over: duration.or(by_count).unwrap_or(1).max(1) }
            }
            other => other,
        }
    }

    /// Microseconds from the start to message `number`, for all but Poisson.
    fn offset(self, number: u64) -> Micros {
        let number_f = number as f64;
        let seconds = match self {
            Self::Constant { rate } | Self::Poisson { rate, .. } => number_f / rate,
            Self::Burst { rate, size } => (number / size * size) as f64 / rate,
            Self::Ramp { from, to, over } => {
                // from·t + (to − from)·t²/2T = n; beyond the ramp's end the last rate holds.
                let over = over as f64 / 1e6;
                let whole = (from + to) * over / 2.0;
                if number_f >= whole {
                    over + (number_f - whole) / to
                } else {
                    let slope = (to - from) / over;
                    let root = (from * from + 2.0 * slope * number_f).max(0.0).sqrt();
                    2.0 * number_f / (from + root)
                }
            }
        };
        (seconds * 1e6) as Micros
    }
}

/// When messages are sent and when sending stops. Each thread has its own.
#[derive(Clone, Debug, PartialEq)]
pub struct Pace {
    /// When the run started.
    start: Micros,
    /// `None` for closed loop.
    pattern: Option<Pattern>,
    /// Messages in all; `None` for no bound.
    messages: Option<u64>,
    /// Microseconds after which no message is started; `None` for no bound.
    duration: Option<Micros>,
    /// Microseconds from the start on that are not measured.
    warmup: Micros,
    /// Poisson only: a number and its distance from the start. Numbers only grow, so the sum is carried on.
    carried: (u64, f64),
}

/// What to do about message `n` now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Send it; it was meant to go at this time.
    Now(Micros),
    /// Not before this time.
    At(Micros),
    /// There is no such message.
    Never,
}

impl Pace {
    /// A pace from `start` on.
    pub fn new(
        start: Micros,
        pattern: Option<Pattern>,
        messages: Option<u64>,
        duration: Option<Micros>,
    ) -> Self {
        Self { start, pattern, messages, duration, warmup: 0, carried: (0, 0.0) }
    }

    /// The same pace, of which the first so many microseconds are not measured.
    #[must_use]
    pub fn warmed_up(self, warmup: Micros) -> Self {
        Self { warmup, ..self }
    }

    /// Messages intended from then on are measured.
    pub fn measured_from(&self) -> Micros {
        self.start.saturating_add(self.warmup)
    }

    /// Times are fixed beforehand.
    pub fn is_open_loop(&self) -> bool {
        self.pattern.is_some()
    }

    /// When the run started.
    pub fn start(&self) -> Micros {
        self.start
    }

    /// How many messages the pattern has in this run, and when each should begin; `None` in closed loop or if endless.
    pub fn intended_count(&self) -> Option<u64> {
        let mut fresh = Self { carried: (0, 0.0), ..self.clone() };
        self.pattern?;
        // Found by doubling and halving: the times only grow.
        let exists = |pace: &mut Self, number| pace.due(number, 0) != Due::Never;
        let mut high = 1u64;
        while exists(&mut fresh, high) {
            high = high.checked_mul(2).filter(|high| *high < 1 << 32)?;
        }
        let mut low = high / 2;
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if exists(&mut fresh, middle) { low = middle } else { high = middle }
        }
        Some(high)
    }

    /// Whether message `number` is due at `now`.
    pub fn due(&mut self, number: u64, now: Micros) -> Due {
        let end = self.duration.map_or(Micros::MAX, |duration| self.start.saturating_add(duration));
        if self.messages.is_some_and(|messages| number >= messages) {
            return Due::Never;
        }
        let Some(pattern) = self.pattern else {
            return if now >= end { Due::Never } else { Due::Now(now) };
        };
        let offset = match pattern {
            Pattern::Poisson { rate, seed } => self.poisson(number, rate, seed),
            other => other.offset(number),
        };
        let intended = self.start.saturating_add(offset);
        // A late message of the plan is still sent: leaving it out would flatter the relay that made it late.
        if intended >= end {
            Due::Never
        } else if intended <= now {
            Due::Now(intended)
        } else {
            Due::At(intended)
        }
    }

    fn poisson(&mut self, number: u64, rate: f64, seed: u64) -> Micros {
        if self.carried.0 > number {
            self.carried = (0, 0.0);
        }
        while self.carried.0 < number {
            let (at, sum) = self.carried;
            // Uniform in (0, 1], so that the logarithm is finite.
            let uniform = ((mix(seed ^ at) >> 11) + 1) as f64 / (1u64 << 53) as f64;
            self.carried = (at + 1, sum - uniform.ln() / rate);
        }
        (self.carried.1 * 1e6) as Micros
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(pattern: Option<Pattern>, messages: Option<u64>, duration: Option<Micros>) -> Pace {
        Pace::new(1_000, pattern, messages, duration)
    }

    #[test]
    fn open_loop_keeps_its_times_however_late_it_is_asked() {
        let mut pace = pace(Some(Pattern::Constant { rate: 1_000.0 }), None, Some(10_000));
        assert_eq!(pace.due(0, 1_000), Due::Now(1_000));
        assert_eq!(pace.due(3, 1_000), Due::At(4_000));
        assert_eq!(pace.due(3, 999_999), Due::Now(4_000));
        assert_eq!(pace.due(10, 1_000), Due::Never);
        assert_eq!(pace.intended_count(), Some(10));
    }

    #[test]
    fn closed_loop_ends_by_count_or_by_time() {
        let mut pace = Pace::new(0, None, Some(2), Some(50));
        assert_eq!(pace.due(1, 49), Due::Now(49));
        assert_eq!(pace.due(2, 0), Due::Never);
        assert_eq!(pace.due(1, 50), Due::Never);
        assert_eq!(pace.intended_count(), None);
    }

    #[test]
    fn every_pattern_has_its_rate_and_never_goes_back_in_time() {
        for (text, want) in
            [("2000", 20_000), ("poisson:2k", 20_000), ("1000..3000", 20_000), ("burst:2000x50", 20_000)]
        {
            let pattern = text.parse::<Pattern>().map(|found| found.complete(1, Some(10_000_000), None));
            let mut pace = pace(pattern.ok(), None, Some(10_000_000));
            let count = pace.intended_count().unwrap_or(0);
            assert!(count.abs_diff(want) < 600, "{text}: {count}");
            let mut last = 0;
            for number in 0..count {
                let Due::Now(time) = pace.due(number, Micros::MAX) else { panic!("{text}: {number}") };
                assert!(time >= last, "{text}");
                last = time;
            }
        }
    }

    #[test]
    fn a_ramp_is_slow_at_its_start_and_a_burst_comes_at_once() {
        let ramp = Pattern::Ramp { from: 10.0, to: 1_000.0, over: 10_000_000 };
        assert!(ramp.offset(1) > 70_000 && ramp.offset(5050).abs_diff(10_000_000) < 2);
        assert!(ramp.offset(6050).abs_diff(11_000_000) < 2);
        let burst = Pattern::Burst { rate: 100.0, size: 10 };
        assert_eq!([0, 9, 10, 19, 20].map(|number| burst.offset(number)), [0, 0, 100_000, 100_000, 200_000]);
    }

    #[test]
    fn poisson_times_are_the_same_whichever_numbers_a_thread_asks_for() {
        let pattern = Some(Pattern::Poisson { rate: 100.0, seed: 7 });
        let (mut every, mut some) = (pace(pattern, None, None), pace(pattern, None, None));
        let times: Vec<Due> = (0..100).map(|number| every.due(number, 0)).collect();
        for number in [3, 50, 99, 2] {
            assert_eq!(some.due(number, 0), times[number as usize]);
        }
    }

    #[test]
    fn wrong_rates_are_refused() {
        for bad in ["", "0", "-1", "nan", "inf", "poisson:", "burst:5", "burst:5x0", "1..", "1..0", "1e9"] {
            assert_eq!(bad.parse::<Pattern>(), Err(PatternError), "{bad}");
        }
    }
}
