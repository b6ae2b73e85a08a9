//! PURE. Bounds stated beforehand, such as `p99<=50ms` or `errors<=0.1%`, and whether a report keeps them.

use std::str::FromStr;

use crate::options::values;
use crate::report::text::duration;
use crate::report::{BoundReport, Percentiles, Report};

/// How a measured value is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Relation {
    AtMost,
    AtLeast,
}

/// Which unit a metric has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    Micros,
    Share,
    Number,
}

/// One bound.
#[derive(Clone, Debug, PartialEq)]
pub struct Bound {
    text: String,
    metric: String,
    relation: Relation,
    value: f64,
}

/// A bound that cannot be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}`: a bound is METRIC<=VALUE or METRIC>=VALUE, such as p99<=50ms, end_of_data.p99.9<=20ms, errors<=0.1%, rate>=5000, \
     lost<=0, repeated<=0, cpu<=25us or memory<=200m"
)]
pub struct BoundError(String);

const QUANTILES: [&str; 6] = ["p50", "p90", "p99", "p99.9", "max", "mean"];

impl FromStr for Bound {
    type Err = BoundError;

    fn from_str(text: &str) -> Result<Self, BoundError> {
        read(text).ok_or_else(|| BoundError(text.into()))
    }
}

fn read(text: &str) -> Option<Bound> {
    let (at, relation) = match (text.find("<="), text.find(">=")) {
        (Some(at), None) => (at, Relation::AtMost),
        (None, Some(at)) => (at, Relation::AtLeast),
        _ => return None,
    };
    let (metric, value) = (text[..at].trim().to_ascii_lowercase(), text[at + 2..].trim());
    let value = match unit(&metric)? {
        Unit::Micros => values::time(value)? as f64,
        Unit::Share => {
            let (digits, whole) = value.strip_suffix('%').map_or((value, 1.0), |digits| (digits, 100.0));
            digits.trim().parse::<f64>().ok()? / whole
        }
        Unit::Number if metric == "memory" => values::bytes(value)? as f64,
        Unit::Number => value.parse::<f64>().ok()?,
    };
    Some(Bound { text: text.into(), metric, relation, value })
}

fn unit(metric: &str) -> Option<Unit> {
    match metric {
        "errors" | "achieved" => Some(Unit::Share),
        "rate" | "lost" | "repeated" | "accepted" | "memory" => Some(Unit::Number),
        "cpu" => Some(Unit::Micros),
        _ => {
            let quantile = metric.split_once('.').filter(|(phase, _)| *phase != "p99");
            let quantile = quantile.map_or(metric, |(_, quantile)| quantile);
            QUANTILES.contains(&quantile).then_some(Unit::Micros)
        }
    }
}

impl Bound {
    /// Whether the report keeps it. What was not measured is not kept.
    pub fn judge(&self, report: &Report) -> BoundReport {
        let measured = measure(&self.metric, report);
        let holds = measured.is_some_and(|measured| match self.relation {
            Relation::AtMost => measured <= self.value,
            Relation::AtLeast => measured >= self.value,
        });
        let text = measured.map_or("nothing".into(), |measured| match unit(&self.metric) {
            Some(Unit::Micros) => duration(measured.max(0.0) as u64),
            Some(Unit::Share) => format!("{:.3} %", measured * 100.0),
            _ => format!("{measured:.0}"),
        });
        BoundReport { bound: self.text.clone(), measured: text, holds }
    }
}

fn measure(metric: &str, report: &Report) -> Option<f64> {
    let source = report.source.as_ref()?;
    let failed = source.refused + source.unknown + source.aborted;
    let all = source.accepted + failed;
    match metric {
        "errors" => (all > 0).then(|| failed as f64 / all as f64),
        "rate" => Some(source.accepted_per_second),
        "accepted" => Some(source.accepted as f64),
        "achieved" => achieved(report),
        "lost" => report.ledger.as_ref().map(|ledger| ledger.lost as f64),
        "repeated" => report.ledger.as_ref().map(|ledger| ledger.repeated as f64),
        "cpu" => report.relay.map(|relay| relay.cpu_micros_per_message),
        "memory" => report.relay.map(|relay| relay.resident_peak as f64),
        _ => latency(metric, report),
    }
}

/// The share of the intended messages that were accepted until the second after the last of them was due: a relay that
/// catches up afterwards did not keep the rate.
fn achieved(report: &Report) -> Option<f64> {
    let seconds = &report.seconds;
    let intended: u64 = seconds.intended.iter().sum();
    let last = seconds.intended.iter().rposition(|count| *count > 0)?;
    let accepted: u64 = seconds.accepted.iter().take(last + 2).sum();
    Some(accepted as f64 / intended as f64)
}

/// `p99` is from the intended time in open loop, else of the whole transaction; `PHASE.p99` is service time.
fn latency(metric: &str, report: &Report) -> Option<f64> {
    let source = report.source.as_ref()?;
    let (percentiles, quantile) = match metric.split_once('.').filter(|(phase, _)| *phase != "p99") {
        Some((name, quantile)) => {
            let same = |phase: &str| phase.replace(' ', "_").eq_ignore_ascii_case(name);
            let phase = source.phases.iter().find(|phase| same(&phase.phase))?;
            (phase.service, quantile)
        }
        None => (source.from_intended.unwrap_or(source.transaction), metric),
    };
    (percentiles.count > 0).then(|| pick(&percentiles, quantile)).flatten()
}

fn pick(percentiles: &Percentiles, quantile: &str) -> Option<f64> {
    Some(match quantile {
        "p50" => percentiles.p50 as f64,
        "p90" => percentiles.p90 as f64,
        "p99" => percentiles.p99 as f64,
        "p99.9" => percentiles.p99_9 as f64,
        "max" => percentiles.max as f64,
        "mean" => percentiles.mean,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Verdict;
    use crate::report::{PhaseReport, SourceReport};

    fn check(bound: &str, want: bool) {
        let percentiles = |p99| Percentiles { count: 5, p99, p99_9: p99 * 2, ..Percentiles::default() };
        let source = SourceReport {
            accepted: 990,
            refused: 10,
            accepted_per_second: 99.0,
            transaction: percentiles(9_000),
            from_intended: Some(percentiles(50_000)),
            phases: vec![PhaseReport {
                phase: "end of data".into(),
                service: percentiles(5_000),
                from_intended: None,
            }],
            ..SourceReport::default()
        };
        let ledger = Some(Verdict { lost: 0, repeated: 3, ..Verdict::default() });
        let report = Report { source: Some(source), ledger, ..Report::default() };
        let judged = bound.parse::<Bound>().map(|bound| bound.judge(&report));
        assert_eq!(judged.as_ref().map(|judged| judged.holds), Ok(want), "{bound}: {judged:?}");
    }

    #[test]
    fn bounds_are_of_the_intended_time_unless_a_phase_is_named() {
        check("p99<=50ms", true);
        check("p99 <= 49ms", false);
        check("p99.9<=100ms", true);
        check("end_of_data.p99<=5ms", true);
        check("end_of_data.p99.9 <= 9ms", false);
        check("errors<=1%", true);
        check("errors<=0.009", false);
        check("rate>=99", true);
        check("lost<=0", true);
        check("repeated<=0", false);
    }

    #[test]
    fn what_was_not_measured_is_not_kept() {
        check("cpu<=1s", false);
        check("memory<=1g", false);
        check("tls.p99<=1s", false);
        check("achieved>=90%", false);
    }

    #[test]
    fn a_relay_that_catches_up_later_has_not_achieved_the_rate() {
        let mut report = Report { source: Some(SourceReport::default()), ..Report::default() };
        report.seconds.intended = vec![100, 100, 0, 0, 0];
        let mut judge = |accepted: [u64; 5]| {
            report.seconds.accepted = accepted.to_vec();
            "achieved>=99%".parse::<Bound>().map(|bound| bound.judge(&report).holds)
        };
        assert_eq!(judge([60, 100, 40, 0, 0]), Ok(true));
        assert_eq!(judge([60, 60, 60, 10, 10]), Ok(false));
    }

    #[test]
    fn bounds_that_mean_nothing_are_refused() {
        for bad in ["", "p99", "p98<=1s", "p99<1s", "p99<=soon", "errors<=x%", "speed>=1", "p99<=1s>=2"] {
            assert!(bad.parse::<Bound>().is_err(), "{bad}");
        }
    }
}
