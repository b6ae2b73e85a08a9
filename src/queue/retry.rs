//! PURE. When a deferred leg is due again: exponential back-off with jitter.
//!
//! The result goes into the outcome's record, so nothing is ever computed twice and the generator need not be kept.

use std::time::Duration;

/// How long deferred recipients wait.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RetryOptions {
    /// Wait after the first attempt.
    pub first: Duration,
    /// Each wait is this many times the one before; at least 1.
    pub factor: f64,
    /// Longest wait before jitter. RFC 5321 §4.5.4.1 asks for a try every few hours.
    pub max: Duration,
    /// Share of a wait, 0 to 1, by which it is made longer or shorter at random, so that what was deferred together
    /// does not come back together.
    pub jitter: f64,
}

impl Default for RetryOptions {
    fn default() -> Self {
        let minute = Duration::from_secs(60);
        Self { first: 5 * minute, factor: 2.0, max: 240 * minute, jitter: 0.2 }
    }
}

impl RetryOptions {
    /// The longest wait that jitter can give: what lies further ahead comes from a clock that has jumped.
    pub fn wait_max(&self) -> Duration {
        self.max.mul_f64(1.0 + self.jitter.clamp(0.0, 1.0))
    }

    /// The wait after `attempts` attempts (at least 1), without jitter.
    fn base(&self, attempts: u16) -> Duration {
        let exponent = i32::from(attempts.max(1)) - 1;
        let seconds = self.first.as_secs_f64() * self.factor.max(1.0).powi(exponent);
        // A huge exponent gives infinity, which is above the maximum all the same.
        Duration::from_secs_f64(seconds.min(self.max.as_secs_f64()))
    }
}

/// Draws waits. Its own small generator keeps the queue a function of its inputs.
#[derive(Debug)]
pub(super) struct Retry {
    state: u64,
}

impl Retry {
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// SplitMix64.
    fn random(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// How long to wait after `attempts` attempts.
    pub fn wait(&mut self, options: &RetryOptions, attempts: u16) -> Duration {
        let unit = (self.random() >> 11) as f64 / (1u64 << 53) as f64;
        let jitter = options.jitter.clamp(0.0, 1.0);
        options.base(attempts).mul_f64(1.0 + jitter * (2.0 * unit - 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_maximum() {
        let options = RetryOptions::default();
        let minutes: Vec<_> = [0, 1, 2, 3, 6, 7, 60, u16::MAX].map(|n| options.base(n).as_secs() / 60).into();
        assert_eq!(minutes, [5, 5, 10, 20, 160, 240, 240, 240]);
    }

    #[test]
    fn jitter_spreads_waits_and_stays_within_its_share() {
        let options = RetryOptions::default();
        let mut retry = Retry::new(7);
        let waits: Vec<_> = (0..1000).map(|_| retry.wait(&options, 1).as_secs_f64() / 300.0).collect();
        assert!(waits.iter().all(|wait| (0.8..=1.2).contains(wait)));
        assert!(waits.iter().any(|wait| *wait < 0.85) && waits.iter().any(|wait| *wait > 1.15));
        assert!((1..100).all(|n| retry.wait(&options, n) <= options.wait_max()));
    }
}
