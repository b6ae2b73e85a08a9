//! PURE. What a picture is drawn from: percentile curves and the run second by second, small enough for a JSON file.

use serde::{Deserialize, Serialize};

use crate::measure::phase::{Latency, Phase, Phases};
use crate::measure::timeline::{Slot, Timeline};

/// Latency by percentile.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Curve {
    /// What it is of.
    pub name: String,
    /// Share of the values from 0 to 1, and the microseconds they did not exceed.
    pub points: Vec<(f64, u64)>,
}

impl Curve {
    fn of(name: &str, histogram: &Latency) -> Self {
        let points = histogram.iter_quantiles(4).map(|step| (step.quantile(), step.value_iterated_to()));
        let mut points: Vec<(f64, u64)> = points.collect();
        points.dedup_by_key(|point| point.0);
        Self { name: name.into(), points }
    }

    /// The curves of a run: from the intended time where there is one, and the service times.
    pub fn all(phases: &Phases) -> Vec<Self> {
        let named = [
            ("intended time → reply", phases.intended(Phase::Whole)),
            ("whole transaction", phases.service(Phase::Whole)),
            ("end of data → reply", phases.service(Phase::EndOfData)),
            ("connect", phases.service(Phase::Connect)),
        ];
        let drawn = named.into_iter().filter(|(_, histogram)| !histogram.is_empty());
        drawn.map(|(name, histogram)| Self::of(name, histogram)).collect()
    }
}

/// The run second by second. All lists have the same length.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Seconds {
    /// Seconds that each entry covers.
    pub width: u64,
    /// Messages that should have begun. Open loop only.
    pub intended: Vec<u64>,
    /// Messages whose MAIL was queued.
    pub begun: Vec<u64>,
    /// Messages accepted.
    pub accepted: Vec<u64>,
    /// Messages refused.
    pub refused: Vec<u64>,
    /// Messages lost on their way.
    pub lost: Vec<u64>,
    /// Connects that failed and connections lost.
    pub connection_errors: Vec<u64>,
    /// Messages at the sink.
    pub arrived: Vec<u64>,
    /// Refusals by the sink's script.
    pub sink_refused: Vec<u64>,
    /// Largest lateness, in microseconds.
    pub lateness_max: Vec<u64>,
    /// Accepted messages by bucket of latency; bucket `b` ends at 2^((b+1)/8) µs. Empty buckets are left out.
    pub latency: Vec<Vec<(u16, u32)>>,
}

impl Seconds {
    /// From the timeline.
    pub fn of(timeline: &Timeline) -> Self {
        let slots = timeline.slots();
        let list = |field: fn(&Slot) -> u64| slots.iter().map(field).collect();
        let sparse = |slot: &Slot| {
            let filled = (0u16..).zip(slot.latency.iter().copied());
            filled.filter(|(_, count)| *count > 0).collect()
        };
        Self {
            width: timeline.seconds(),
            intended: list(|slot| slot.intended),
            begun: list(|slot| slot.begun),
            accepted: list(|slot| slot.accepted),
            refused: list(|slot| slot.refused),
            lost: list(|slot| slot.lost),
            connection_errors: list(|slot| slot.connection_errors),
            arrived: list(|slot| slot.arrived),
            sink_refused: list(|slot| slot.sink_refused),
            lateness_max: list(|slot| slot.lateness_max),
            latency: slots.iter().map(sparse).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curves_rise_and_end_with_the_maximum() {
        let mut phases = Phases::default();
        (1..=5000).for_each(|micros| phases.record(Phase::Whole, micros, None));
        let curves = Curve::all(&phases);
        assert_eq!(curves.len(), 1);
        let points = &curves[0].points;
        assert!(
            points.len() < 100
                && points.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1)
        );
        assert!(points.last().is_some_and(|(share, micros)| *share >= 1.0 && *micros >= 5000));
    }

    #[test]
    fn every_list_has_the_timelines_length() {
        let mut timeline = Timeline::default();
        timeline.at(0).record(9);
        timeline.at(2_000_000).arrived = 4;
        let seconds = Seconds::of(&timeline);
        assert_eq!((seconds.arrived.as_slice(), seconds.latency.len()), (&[0, 0, 4][..], 3));
        assert_eq!(seconds.latency[0], [(25, 1)]);
    }
}
