//! PURE. Honesty: how busy and how late the generator was, and whether it was the limit instead of the relay.

use serde::{Deserialize, Serialize};

use crate::board::{Board, ThreadUse};
use crate::report::Percentiles;

/// From this share on, a thread or the machine counts as fully used.
const FULLY_BUSY: f64 = 0.9;
/// From this share on, waiting for a CPU is said.
const STARVED: f64 = 0.1;
/// Own lateness below this is the timer's and the scheduler's grain, in microseconds.
const LATENESS_GRAIN: u64 = 1_000;

/// What the generator used.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct GeneratorReport {
    /// CPU seconds of the source's threads.
    pub source_cpu_seconds: f64,
    /// CPU seconds of the sink's threads.
    pub sink_cpu_seconds: f64,
    /// The largest share of its time that one of the threads was running.
    pub busiest_thread: f64,
    /// Each thread, and the share of its time that it was running.
    pub threads: Vec<(String, f64)>,
    /// The largest share of its time that one of the threads was ready to run and had no CPU.
    pub starved: f64,
    /// The share of all CPUs' time that was used, by anybody, while the source ran.
    pub machine_busy: Option<f64>,
    /// The generator was the limit, or made latencies worse than they were.
    pub was_the_limit: bool,
    /// Why the figures may not be the relay's, in words.
    pub warnings: Vec<String>,
}

impl GeneratorReport {
    /// From the threads' own figures.
    pub fn of(source: &[ThreadUse], sink: &[ThreadUse], machine_busy: Option<f64>, board: &Board) -> Self {
        let cpu =
            |threads: &[ThreadUse]| threads.iter().fold(0.0, |sum, thread| sum + thread.cpu.as_secs_f64());
        // Starting up is no load: below half a second the share says nothing.
        let share = |thread: &ThreadUse| thread.cpu.as_secs_f64() / thread.wall.as_secs_f64().max(0.5);
        let starved = |thread: &ThreadUse| thread.waited.as_secs_f64() / thread.wall.as_secs_f64().max(0.5);
        let starved = source.iter().chain(sink).map(starved).fold(0.0, f64::max);
        let all = source.iter().chain(sink);
        let threads: Vec<(String, f64)> = all.map(|thread| (thread.name.clone(), share(thread))).collect();
        let busiest_thread = threads.iter().map(|(_, share)| *share).fold(0.0, f64::max);
        let mut report = Self {
            source_cpu_seconds: cpu(source),
            sink_cpu_seconds: cpu(sink),
            busiest_thread,
            threads,
            starved,
            machine_busy,
            ..Self::default()
        };
        report.judge(board);
        report
    }

    fn judge(&mut self, board: &Board) {
        if self.busiest_thread >= FULLY_BUSY {
            self.was_the_limit = true;
            self.warnings.push("a thread of its own was fully busy: the rate is its own, not the relay's (more --threads or --sink-threads?)".into());
        }
        if self.starved >= STARVED {
            self.was_the_limit |= self.starved + self.busiest_thread >= FULLY_BUSY;
            self.warnings.push(format!(
                "a thread of its own was ready to run and had no CPU for {:.0} % of the time: latencies include that wait",
                self.starved * 100.0
            ));
        }
        let own = Percentiles::of(&board.source.own_lateness);
        let latency = Percentiles::of(board.source.phases.intended(crate::measure::phase::Phase::Whole));
        if own.p99 > LATENESS_GRAIN && own.p99 * 5 > latency.p99 {
            self.was_the_limit = true;
            self.warnings.push(format!(
                "it was late itself, by up to {} µs in 99 % of cases, a fifth or more of the latency measured: the latencies are its own",
                own.p99
            ));
        }
        let waited = board.source.waited_for_connection;
        let begun = board.source.lateness.len();
        if begun > 0 && waited * 10 > begun {
            self.warnings.push(format!(
                "{waited} of {begun} messages found no connection free; that wait is counted, and more --connections may shorten it"
            ));
        }
        if self.machine_busy.is_some_and(|busy| busy >= FULLY_BUSY) {
            self.warnings.push(
                "the machine's CPUs were all busy: the figures are what relay and generator can do together"
                    .into(),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::measure::phase::{Phase, record};

    fn thread(busy: u64) -> ThreadUse {
        let name = "source-0".into();
        ThreadUse {
            name,
            cpu: Duration::from_millis(busy),
            waited: Duration::ZERO,
            wall: Duration::from_secs(1),
        }
    }

    #[test]
    fn a_busy_thread_makes_the_generator_the_limit() {
        let board = Board::default();
        let idle = GeneratorReport::of(&[thread(500), thread(899)], &[thread(10)], Some(0.5), &board);
        assert!(!idle.was_the_limit && idle.warnings.is_empty());
        let busy = GeneratorReport::of(&[thread(500)], &[thread(950)], None, &board);
        assert!(busy.was_the_limit && busy.warnings.len() == 1);
        let machine = GeneratorReport::of(&[thread(500)], &[], Some(0.97), &board);
        assert!(!machine.was_the_limit && machine.warnings.len() == 1);
        let waiting = |busy| ThreadUse { waited: Duration::from_millis(600), ..thread(busy) };
        assert!(GeneratorReport::of(&[waiting(350)], &[], None, &board).was_the_limit);
        let said = GeneratorReport::of(&[waiting(100)], &[], None, &board);
        assert!(!said.was_the_limit && said.warnings.len() == 1);
    }

    #[test]
    fn own_lateness_counts_only_beside_the_latency_it_is_part_of() {
        for (latency, limit) in [(100_000, false), (20_000, true)] {
            let mut board = Board::default();
            record(&mut board.source.own_lateness, 5_000);
            board.source.phases.record(Phase::Whole, 1, Some(latency));
            assert_eq!(
                GeneratorReport::of(&[thread(1)], &[], None, &board).was_the_limit,
                limit,
                "{latency}"
            );
        }
    }
}
