//! PURE. Counts what happens in each second, to let through so much of it and no more.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::clock::Micros;

/// What happened in the second under way. Shared by threads.
#[derive(Debug, Default)]
pub struct Meter {
    /// The second in the upper 32 bits, what was let through in it in the lower.
    state: AtomicU64,
}

impl Meter {
    /// Whether one more is let through: at most `most` in each second of `elapsed`.
    pub fn admit(&self, most: u32, elapsed: Micros) -> bool {
        let second = elapsed / 1_000_000;
        let step = |state: u64| {
            let count = if state >> 32 == second { state & 0xffff_ffff } else { 0 };
            (count < u64::from(most)).then_some(second << 32 | (count + 1))
        };
        self.state.fetch_update(Ordering::Relaxed, Ordering::Relaxed, step).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_second_lets_the_same_number_through() {
        let meter = Meter::default();
        let through = |second: u64| (0..9).filter(|n| meter.admit(3, second * 1_000_000 + n)).count();
        assert_eq!([through(0), through(1), through(7)], [3, 3, 3]);
        assert!(!meter.admit(0, 8_000_000));
    }
}
