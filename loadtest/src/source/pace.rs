//! PURE. When message `n` is due, and how many there are. In closed loop every message is due as soon as a connection is
//! free; in open loop the time is fixed beforehand, whatever the relay does.

use crate::clock::Micros;

/// When messages are sent and when sending stops.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    /// When the run started.
    pub start: Micros,
    /// Messages per second; `None` for closed loop.
    pub rate: Option<f64>,
    /// Messages in all; `None` for no bound.
    pub messages: Option<u64>,
    /// Microseconds after which no message is started; `None` for no bound.
    pub duration: Option<Micros>,
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
    /// Whether message `number` is due at `now`.
    pub fn due(&self, number: u64, now: Micros) -> Due {
        let end = self.duration.map_or(Micros::MAX, |duration| self.start.saturating_add(duration));
        if self.messages.is_some_and(|messages| number >= messages) {
            return Due::Never;
        }
        let Some(rate) = self.rate else {
            return if now >= end { Due::Never } else { Due::Now(now) };
        };
        let intended = self.start.saturating_add((number as f64 * 1e6 / rate) as u64);
        // A late message of the plan is still sent: leaving it out would flatter the relay that made it late.
        if intended >= end {
            Due::Never
        } else if intended <= now {
            Due::Now(intended)
        } else {
            Due::At(intended)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_loop_keeps_its_times_however_late_it_is_asked() {
        let pace = Pace { start: 1_000, rate: Some(1_000.0), messages: None, duration: Some(10_000) };
        assert_eq!(pace.due(0, 1_000), Due::Now(1_000));
        assert_eq!(pace.due(3, 1_000), Due::At(4_000));
        assert_eq!(pace.due(3, 999_999), Due::Now(4_000));
        assert_eq!(pace.due(10, 1_000), Due::Never);
    }

    #[test]
    fn closed_loop_ends_by_count_or_by_time() {
        let pace = Pace { start: 0, rate: None, messages: Some(2), duration: Some(50) };
        assert_eq!(pace.due(1, 49), Due::Now(49));
        assert_eq!(pace.due(2, 0), Due::Never);
        assert_eq!(pace.due(1, 50), Due::Never);
    }
}
