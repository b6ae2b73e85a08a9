//! The highest rate at which the bounds hold: by bisection, each candidate confirmed by further runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::board::SharedBoard;
use crate::options::{RunCommand, SearchCommand};
use crate::report::Report;
use crate::report::text::duration;
use crate::run::trial::{Peace, trial};
use crate::run::{Failure, publish};

/// What holds if nothing else is asked for.
const BOUNDS: [&str; 2] = ["p99<=100ms", "errors<=0.1%"];
/// Without this a relay that is hopelessly behind could look good for as long as the run lasts.
const ACHIEVED: &str = "achieved>=99%";
/// Seconds of a try if nothing else is asked for.
const SECONDS: u64 = 10;

/// PURE. Where the search stands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bisection {
    /// Highest rate known to hold.
    holds: Option<f64>,
    /// Lowest rate known not to.
    fails: Option<f64>,
    lowest: f64,
    highest: f64,
    precision: f64,
    confirm: u32,
    /// The rate being tried, and how often it has held.
    trying: (f64, u32),
}

impl Bisection {
    /// From `lowest` to `highest`, until they are within `precision` (a share); each rate must hold `confirm` times.
    pub fn new(lowest: f64, highest: f64, precision: f64, confirm: u32) -> Self {
        let trying = (lowest, 0);
        Self { holds: None, fails: None, lowest, highest, precision, confirm: confirm.max(1), trying }
    }

    /// The rate to try now; `None` when the search is over.
    pub fn next(&self) -> Option<f64> {
        (self.trying.0 > 0.0).then_some(self.trying.0)
    }

    /// The rate tried did or did not hold.
    pub fn learn(&mut self, held: bool) {
        let (rate, times) = self.trying;
        if held && times + 1 < self.confirm {
            self.trying.1 += 1;
            return;
        }
        if held {
            self.holds = Some(rate);
        } else {
            self.fails = Some(rate);
        }
        let next = match (self.holds, self.fails) {
            (None, _) => 0.0,
            (Some(low), None) if low >= self.highest => 0.0,
            // Upwards in large steps: most of the range is far too much.
            (Some(low), None) => (low * 2.0).min(self.highest),
            (Some(low), Some(high)) if high <= low * (1.0 + self.precision) => 0.0,
            // The middle of a ratio, since rates are compared by ratio; in numbers that can be typed again.
            (Some(low), Some(high)) => match (low * high).sqrt() {
                rate if rate < 100.0 => (rate * 100.0).round() / 100.0,
                rate => rate.round(),
            },
        };
        self.trying = (next, 0);
    }

    /// The highest rate that held.
    pub fn found(&self) -> Option<f64> {
        self.holds
    }

    /// Even the highest rate held, so the relay can do more.
    pub fn is_open_above(&self) -> bool {
        self.fails.is_none() && self.holds.is_some_and(|rate| rate >= self.highest)
    }
}

/// Searches and reports the best run.
pub fn search(command: &SearchCommand, stop: &Arc<AtomicBool>) -> Result<u8, Failure> {
    let run = prepared(&command.run);
    if !(command.from > 0.0 && command.to >= command.from && command.precision > 0.0) {
        return Err("--from and --to must be above 0 and in order, --precision above 0".into());
    }
    println!("search     {}", run.bound.join(", "));
    let mut bisection = Bisection::new(command.from, command.to, command.precision / 100.0, command.confirm);
    let mut best: Option<(Report, SharedBoard)> = None;
    let mut limited = false;
    while let Some(rate) = bisection.next() {
        let board = SharedBoard::default();
        let mut run = run.clone();
        run.source.rate = Some(format!("{rate}"));
        let report = trial(&run, stop, &board, &mut Peace)?;
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let held = report.holds == Some(true) && !report.generator.was_the_limit;
        println!("{}", line(rate, held, &report));
        limited |= report.generator.was_the_limit;
        if report.generator.was_the_limit {
            println!(
                "           the generator was the limit there: the relay may do more than is found here"
            );
        }
        bisection.learn(held);
        if bisection.found() == Some(rate) || (held && best.is_none()) {
            best = Some((report, board));
        }
    }
    match (bisection.found(), best) {
        (Some(rate), Some((report, board))) => {
            let more = if bisection.is_open_above() { " or more: try a higher --to" } else { "" };
            println!("found      {rate:.0} messages/s{more}; its last run:");
            publish(&report, &board.lock(), &run.output)?;
            Ok(0)
        }
        _ => {
            let why = if limited { "the generator was the limit" } else { "the bounds do not hold" };
            println!("found      nothing: {why} even at {:.0} messages/s", command.from);
            Ok(1)
        }
    }
}

fn prepared(run: &RunCommand) -> RunCommand {
    let mut run = run.clone();
    if run.bound.is_empty() {
        run.bound = BOUNDS.map(String::from).to_vec();
    }
    run.bound.push(ACHIEVED.into());
    if run.source.messages.is_none() && run.source.duration.is_none() {
        run.source.duration = Some(SECONDS);
    }
    if run.source.warmup == 0 && run.source.duration.is_none_or(|seconds| seconds > 2) {
        // Connecting is not what is searched for.
        run.source.warmup = 1;
    }
    run
}

fn line(rate: f64, held: bool, report: &Report) -> String {
    let missed: Vec<String> = report
        .bounds
        .iter()
        .filter(|bound| !bound.holds)
        .map(|bound| format!("{} was {}", bound.bound, bound.measured))
        .collect();
    let p99 = report.source.as_ref().and_then(|source| source.from_intended).map_or(0, |part| part.p99);
    let word = if held { "holds" } else { "fails" };
    let missed = if missed.is_empty() { String::new() } else { format!("  {}", missed.join(", ")) };
    format!("{rate:>10.0}/s  {word}  p99 {}{missed}", duration(p99))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Searches a relay that holds up to `limit`, and says what was found after how many runs.
    fn find(limit: f64, confirm: u32) -> (Bisection, u32) {
        let mut bisection = Bisection::new(100.0, 100_000.0, 0.05, confirm);
        let mut runs = 0;
        while let Some(rate) = bisection.next() {
            bisection.learn(rate <= limit);
            runs += 1;
            assert!(runs < 100, "the search ends");
        }
        (bisection, runs)
    }

    #[test]
    fn the_limit_is_found_to_the_precision_in_few_runs() {
        for limit in [100.0, 777.0, 5_000.0, 99_999.0] {
            let (found, runs) = find(limit, 1);
            let rate = found.found().unwrap_or(0.0);
            assert!(rate <= limit && rate * 1.06 >= limit, "{limit}: {rate}");
            assert_eq!(rate, (rate * 100.0).round() / 100.0, "can be typed again");
            assert!(runs <= 16, "{limit}: {runs}");
        }
        assert_eq!(find(1e9, 1).0.found(), Some(100_000.0));
        assert!(find(1e9, 1).0.is_open_above());
        assert_eq!(find(50.0, 2).0.found(), None);
    }

    #[test]
    fn a_rate_that_holds_once_and_then_not_is_not_found() {
        let mut bisection = Bisection::new(100.0, 100.0, 0.05, 2);
        bisection.learn(true);
        assert_eq!(bisection.next(), Some(100.0));
        bisection.learn(false);
        assert_eq!((bisection.next(), bisection.found()), (None, None));
    }
}
