//! What the relay would do on another host: from what a message costs, a disk, and a number of cores.
//!
//! Three answers, because each leaves out something else:
//! - *formula*: `n` cores divided by what a message costs there ([`costs`]); the disk's rate if that is lower;
//! - *growth*: the same, if every further core made messages as much dearer as the second one did (Gunther's universal scalability law with
//!   its linear part alone): a lower bound;
//! - *simulated*: queues, commits and waiting clients ([`simulate`]).

pub mod costs;
pub mod simulate;

use std::fmt::Write as _;

use serde::Serialize;

use crate::disk::profile::Profile;
use crate::plot::{self, Line};
use crate::sweep::space::{Point, Wiring};
use crate::sweep::state::State;
use crate::units;
use costs::{Costs, Error};
use simulate::Plant;

/// What is to be predicted.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// Up to so many cores.
    pub cores: usize,
    /// Clients for each core.
    pub connections: usize,
    /// Bytes of a message.
    pub size: u64,
    /// The disk, if one was measured.
    pub disk: Option<&'a Profile>,
}

/// One row of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Row {
    /// Cores, each with a shard and a worker.
    pub cores: usize,
    /// CPU for a message, microseconds.
    pub cpu_micros: f64,
    /// What the CPUs can do, messages per second.
    pub by_cpu: f64,
    /// What the disk can do for so many clients; without a disk none.
    pub by_disk: Option<f64>,
    /// The lower of both.
    pub formula: f64,
    /// The lower bound.
    pub growth: f64,
    /// By simulation.
    pub simulated: f64,
    /// Simulated 99th percentile of the wait for a 250, microseconds.
    pub answer_p99_micros: f64,
    /// Simulated messages of a commit.
    pub batch: f64,
}

/// Everything.
#[derive(Clone, Debug, Serialize)]
pub struct Answer {
    /// What a message costs.
    pub costs: Costs,
    /// The formula against what was measured.
    pub errors: Vec<Error>,
    /// By cores.
    pub rows: Vec<Row>,
    /// Whether a disk is in it.
    pub has_disk: bool,
}

/// Answers it from a sweep.
///
/// # Errors
/// When the sweep has too few runs.
pub fn answer(state: &State, question: &Question<'_>) -> Result<Answer, String> {
    let costs = Costs::of(state)?;
    let errors = costs.errors(state);
    let mut counts: Vec<usize> =
        (0..).map(|power| 1 << power).take_while(|count| *count < question.cores).collect();
    counts.push(question.cores);
    let rows = counts.into_iter().map(|cores| row(&costs, question, cores)).collect();
    Ok(Answer { costs, errors, rows, has_disk: question.disk.is_some() })
}

fn row(costs: &Costs, question: &Question<'_>, cores: usize) -> Row {
    let count = cores as f64;
    let layout = |cores: usize| {
        let roles = u16::try_from(cores).unwrap_or(u16::MAX);
        Point { wiring: Wiring::Shared, shards: roles, workers: roles, pin: true, connections: 1 }
    };
    let cpu_micros = costs.message(&layout(cores), question.size);
    let by_cpu = count * 1e6 / cpu_micros;
    // A large message is many records to the disk.
    let records = (question.size as f64 / crate::disk::profile::RECORD_BYTES as f64).max(1.0);
    let by_disk =
        question.disk.map(|disk| disk.durable_rate(count, question.connections as f64 * records) / records);
    let formula = by_disk.map_or(by_cpu, |by_disk| by_cpu.min(by_disk));
    let alone = costs.message(&layout(1), question.size);
    let grown = count * 1e6 / (alone * (1.0 + costs.growth * (count - 1.0)));
    let simulated = simulate::run(Plant {
        cores,
        connections: question.connections * cores,
        inbound: alone * costs.inbound_share,
        outbound: alone * (1.0 - costs.inbound_share),
        crossing: costs.spread,
        disk: question.disk,
    });
    Row {
        cores,
        cpu_micros,
        by_cpu,
        by_disk,
        formula,
        growth: by_disk.map_or(grown, |by_disk| grown.min(by_disk)),
        simulated: simulated.rate,
        answer_p99_micros: simulated.answer_p99,
        batch: simulated.batch,
    }
}

impl Answer {
    /// Median and largest relative error, of CPU and of messages per second.
    fn error(&self, of: impl Fn(&Error) -> (f64, f64)) -> (f64, f64) {
        let mut shares: Vec<f64> =
            self.errors.iter().map(&of).map(|(was, said)| (said / was - 1.0).abs()).collect();
        shares.sort_by(f64::total_cmp);
        (shares.get(shares.len() / 2).copied().unwrap_or(0.0), shares.last().copied().unwrap_or(0.0))
    }

    /// For people.
    pub fn text(&self) -> String {
        let costs = &self.costs;
        let mut text = format!(
            "a message   {:.1} µs CPU on one executor, {:.1} µs more with split wiring, up to {:.1} µs more on many shards, {:.2} µs for each KiB beyond {}\n\
             of it       {:.0} % to receive and keep, the rest to send\n",
            costs.base,
            costs.apart,
            costs.spread,
            costs.per_kib,
            units::size(costs.size),
            100.0 * costs.inbound_share
        );
        let ((cpu, cpu_worst), (rate, rate_worst)) =
            (self.error(|error| error.cpu), self.error(|error| error.rate));
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "error       against the {} layouts of the sweep: CPU {:.0} % (median), {:.0} % (worst); messages/s {:.0} %, {:.0} %",
            self.errors.len(),
            100.0 * cpu,
            100.0 * cpu_worst,
            100.0 * rate,
            100.0 * rate_worst
        );
        let mut got: Vec<f64> = self.errors.iter().map(|error| error.cpus).collect();
        got.sort_by(f64::total_cmp);
        let _ = writeln!(
            text,
            "mind        relay and generator got {:.2} CPUs in those runs (median): messages/s can be compared only where nobody else was there",
            got.get(got.len() / 2).copied().unwrap_or(0.0)
        );
        if !self.has_disk {
            text += "disk        not in it: give a profile (--profile)\n";
        }
        let _ = writeln!(
            text,
            "\n{:>6} {:>9} {:>10} {:>10} {:>10} {:>10} {:>10} {:>9} {:>6}",
            "cores", "CPU/msg", "by CPU", "by disk", "formula", "growth", "simulated", "p99", "batch"
        );
        for row in &self.rows {
            let _ = writeln!(
                text,
                "{:>6} {:>6.1} µs {:>10.0} {:>10} {:>10.0} {:>10.0} {:>10.0} {:>9} {:>6.1}",
                row.cores,
                row.cpu_micros,
                row.by_cpu,
                row.by_disk.map_or("-".into(), |rate| format!("{rate:.0}")),
                row.formula,
                row.growth,
                row.simulated,
                units::micros(row.answer_p99_micros),
                row.batch
            );
        }
        text + "messages per second. growth: if every further core made messages as much dearer as the second did, a lower bound.\n"
    }

    /// The page.
    pub fn page(&self) -> String {
        let line = |name, colour, of: fn(&Row) -> f64| Line {
            name,
            colour,
            points: self.rows.iter().map(|row| (row.cores as f64, of(row))).collect(),
            dots: false,
        };
        let lines = [
            line("formula", "a", |row| row.formula),
            line("simulated", "b", |row| row.simulated),
            line("growth, a lower bound", "c", |row| row.growth),
        ];
        let text = self.text();
        let words = text.split("\n\n").next().unwrap_or_default();
        let rows: Vec<Vec<String>> = self.errors.iter().map(error_row).collect();
        let head = ["layout", "CPU measured", "predicted", "messages/s measured", "predicted", "runs"];
        let sections = [
            plot::section("What a message costs", "", &plot::lines_of_text(words)),
            plot::section(
                "Messages per second by cores",
                "Predicted, not measured.",
                &plot::doubling(&lines, "cores"),
            ),
            plot::section(
                "Against the sweep",
                "Medians of the runs of each layout.",
                &plot::table(&head, &rows),
            ),
        ];
        plot::page("The relay on more cores", "A model fitted to a sweep of a small host", &sections.concat())
    }
}

fn error_row(error: &Error) -> Vec<String> {
    vec![
        error.point.to_string(),
        units::micros(error.cpu.0),
        units::micros(error.cpu.1),
        format!("{:.0}", error.rate.0),
        format!("{:.0}", error.rate.1),
        error.runs.to_string(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::profile::tests::profile;

    #[test]
    fn formula_and_simulation_agree_where_nothing_but_the_cpu_counts() {
        let question = Question { cores: 16, connections: 64, size: 4096, disk: None };
        let answer = answer(&costs::tests::state(), &question).expect("enough runs");
        assert_eq!(answer.rows.iter().map(|row| row.cores).collect::<Vec<_>>(), [1, 2, 4, 8, 16]);
        for row in &answer.rows {
            assert!((row.simulated / row.formula - 1.0).abs() < 0.08, "{row:?}");
            assert!(row.growth <= row.formula * 1.001, "{row:?}");
        }
        assert!(answer.text().contains("CPU 0 % (median)"), "{}", answer.text());
    }

    #[test]
    fn a_slow_disk_is_what_bounds_and_page_and_text_say_so() {
        let mut disk = profile();
        disk.cells.iter_mut().for_each(|cell| cell.latency.mean_micros *= 1_000.0);
        let question = Question { cores: 4, connections: 8, size: 4096, disk: Some(&disk) };
        let answer = answer(&costs::tests::state(), &question).expect("enough runs");
        for row in &answer.rows {
            assert_eq!(Some(row.formula), row.by_disk);
            // A commit has at most all clients of its shard.
            assert!(row.simulated < row.by_cpu / 10.0 && row.batch <= 8.0, "{row:?}");
        }
        assert_eq!(answer.page().matches("<svg").count(), 1);
    }
}
