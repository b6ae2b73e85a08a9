//! PURE. What was measured, as JSON for programs; as [`text`] and as a page for people.

pub mod curves;
pub mod generator;
pub mod text;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::board::{Board, SinkCounts};
use crate::clock::Micros;
use crate::environment::Environment;
use crate::ledger::Verdict;
use crate::measure::phase::{Latency, Phase};
use crate::process::Usage;
use crate::report::curves::{Curve, Seconds};
use crate::report::generator::GeneratorReport;
use crate::source::host::Stage;
use crate::wire::mark::Run;

/// Everything one command found out.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// The command line.
    pub command: String,
    /// The run's name in ids, in hex.
    pub run: Option<String>,
    /// The source's side.
    pub source: Option<SourceReport>,
    /// The sink's side.
    pub sink: Option<SinkReport>,
    /// What became of each recipient.
    pub ledger: Option<Verdict>,
    /// Some of the faults, and what else a reader should know.
    pub notes: Vec<String>,
    /// The relay's process tree.
    pub relay: Option<RelayReport>,
    /// The generator's own use of the machine.
    pub generator: GeneratorReport,
    /// Where and with what it was measured.
    pub environment: Environment,
    /// Second by second.
    pub seconds: Seconds,
    /// Latency by percentile, of the phases that matter.
    pub curves: Vec<Curve>,
    /// The stated bounds and what came of them.
    pub bounds: Vec<BoundReport>,
    /// Whether anything was accepted, the ledger holds and the bounds do; only after a whole run.
    pub holds: Option<bool>,
    /// Why it does not.
    pub failures: Vec<String>,
}

impl Report {
    /// It does not hold, and why.
    pub fn fail(&mut self, why: impl Into<String>) {
        self.holds = Some(false);
        self.failures.push(why.into());
    }
}

/// A latency distribution in microseconds.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Percentiles {
    /// How many values.
    pub count: u64,
    /// Mean.
    pub mean: f64,
    /// Half of the values are at most this.
    pub p50: u64,
    /// 90 %.
    pub p90: u64,
    /// 99 %.
    pub p99: u64,
    /// 99.9 %.
    pub p99_9: u64,
    /// The largest.
    pub max: u64,
}

impl Percentiles {
    /// Of a histogram.
    pub fn of(histogram: &Latency) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile);
        Self {
            count: histogram.len(),
            mean: histogram.mean(),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p99_9: at(0.999),
            max: histogram.max(),
        }
    }
}

/// Replies of one stage and code.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ReplyCount {
    /// Where in the session.
    pub stage: String,
    /// Reply code.
    pub code: u16,
    /// How many.
    pub count: u64,
    /// The first text, from 400 on.
    pub text: String,
}

/// A bound and what was measured.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct BoundReport {
    /// As it was stated.
    pub bound: String,
    /// What was measured, for people.
    pub measured: String,
    /// Whether it holds.
    pub holds: bool,
}

/// One phase's latencies.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PhaseReport {
    /// Its name.
    pub phase: String,
    /// Time that the relay took.
    pub service: Percentiles,
    /// Open loop only, from MAIL on: intended time to this phase's reply.
    pub from_intended: Option<Percentiles>,
}

/// What the source saw.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SourceReport {
    /// Open loop only: its pattern.
    pub rate: Option<String>,
    /// Messages answered 2xx.
    pub accepted: u64,
    /// Messages answered 4xx or 5xx.
    pub refused: u64,
    /// Messages whose reply was lost.
    pub unknown: u64,
    /// Messages cut off before their end.
    pub aborted: u64,
    /// Connections opened.
    pub connections: u64,
    /// Connects that failed.
    pub connects_failed: u64,
    /// Why the last of them failed.
    pub connect_error: Option<String>,
    /// Connections lost or shut out.
    pub connections_lost: u64,
    /// From the first MAIL to the last 2xx, in seconds.
    pub seconds: f64,
    /// Accepted messages per second of that time.
    pub accepted_per_second: f64,
    /// TLS handshakes in full.
    pub handshakes_full: u64,
    /// TLS handshakes that continued an earlier session.
    pub handshakes_resumed: u64,
    /// Latencies by phase; phases that did not happen are left out.
    pub phases: Vec<PhaseReport>,
    /// End of data to its reply.
    pub end_of_data: Percentiles,
    /// MAIL to the last reply.
    pub transaction: Percentiles,
    /// Open loop only: intended time to the last reply.
    pub from_intended: Option<Percentiles>,
    /// Open loop only: intended time to MAIL.
    pub lateness: Option<Percentiles>,
    /// Open loop only: the part of it that was the generator's own, with a connection free.
    pub own_lateness: Option<Percentiles>,
    /// Open loop only: messages that became due while every connection was busy.
    pub waited_for_connection: u64,
    /// Replies by stage and code.
    pub replies: Vec<ReplyCount>,
}

/// What the sink saw.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SinkReport {
    /// Counts.
    pub counts: SinkCounts,
    /// The same for each listener, by address and profile.
    pub listeners: Vec<(String, SinkCounts)>,
    /// From the first to the last message, in seconds.
    pub seconds: f64,
    /// Messages per second of that time.
    pub messages_per_second: f64,
    /// Sent by the source to received here; same host only.
    pub transit: Percentiles,
}

/// What the relay used.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RelayReport {
    /// User and system CPU seconds during the run.
    pub cpu_seconds: f64,
    /// The same for each accepted message, in microseconds.
    pub cpu_micros_per_message: f64,
    /// Peak resident bytes, summed over its processes.
    pub resident_peak: u64,
    /// Resident bytes at the end.
    pub resident: u64,
    /// Processes at the end.
    pub processes: u32,
}

impl SourceReport {
    /// From the board; an open loop's `rate` adds what only exists then.
    pub fn of(board: &Board, rate: Option<&str>) -> Self {
        let open_loop = rate.is_some();
        let tally = &board.source;
        let seconds = seconds(tally.first_and_last);
        let replies = tally.replies.iter().map(|((stage, code), (count, text))| ReplyCount {
            stage: stage_name(*stage).into(),
            code: *code,
            count: *count,
            text: text.clone(),
        });
        Self {
            rate: rate.map(str::to_owned),
            accepted: tally.accepted,
            refused: tally.refused,
            unknown: tally.unknown,
            aborted: tally.aborted,
            connections: tally.connections,
            connects_failed: tally.connects_failed,
            connect_error: tally.connect_error.clone(),
            connections_lost: tally.connections_lost,
            seconds,
            accepted_per_second: per_second(tally.accepted, seconds),
            handshakes_full: tally.handshakes.0,
            handshakes_resumed: tally.handshakes.1,
            phases: phases(board),
            end_of_data: Percentiles::of(tally.phases.service(Phase::EndOfData)),
            transaction: Percentiles::of(tally.phases.service(Phase::Whole)),
            from_intended: open_loop.then(|| Percentiles::of(tally.phases.intended(Phase::Whole))),
            lateness: open_loop.then(|| Percentiles::of(&tally.lateness)),
            own_lateness: open_loop.then(|| Percentiles::of(&tally.own_lateness)),
            waited_for_connection: tally.waited_for_connection,
            replies: replies.collect(),
        }
    }
}

impl SinkReport {
    /// From the board.
    pub fn of(board: &Board) -> Self {
        let tally = &board.sink;
        let seconds = seconds(tally.first_and_last);
        Self {
            counts: tally.counts,
            listeners: tally.listeners.clone(),
            seconds,
            messages_per_second: per_second(tally.counts.messages, seconds),
            transit: Percentiles::of(&tally.transit),
        }
    }
}

impl RelayReport {
    /// From two readings around a run of `accepted` messages.
    pub fn of(before: &Usage, after: &Usage, accepted: u64) -> Self {
        let cpu = after.cpu.saturating_sub(before.cpu);
        Self {
            cpu_seconds: cpu.as_secs_f64(),
            cpu_micros_per_message: cpu.as_micros() as f64 / accepted.max(1) as f64,
            resident_peak: after.resident_peak,
            resident: after.resident,
            processes: after.processes,
        }
    }
}

fn phases(board: &Board) -> Vec<PhaseReport> {
    let phases = &board.source.phases;
    let happened = Phase::ALL.into_iter().filter(|phase| !phases.service(*phase).is_empty());
    let report = |phase: Phase| PhaseReport {
        phase: phase.name().into(),
        service: Percentiles::of(phases.service(phase)),
        from_intended: Some(phases.intended(phase)).filter(|part| !part.is_empty()).map(Percentiles::of),
    };
    happened.map(report).collect()
}

/// Faults of a run, as lines.
pub fn faults(board: &mut Board, run: Run, count: usize) -> Vec<String> {
    let Some(ledger) = board.books.ledger(run) else { return Vec::new() };
    let line =
        |(number, recipient, what)| format!("{:08x}-{number:012} recipient {recipient}: {what}", run.0);
    ledger.examples(count).into_iter().map(line).collect()
}

fn seconds(span: Option<(Micros, Micros)>) -> f64 {
    span.map_or(0.0, |(first, last)| Duration::from_micros(last - first).as_secs_f64())
}

fn per_second(count: u64, seconds: f64) -> f64 {
    // One message has no rate.
    if seconds > 0.0 { count as f64 / seconds } else { 0.0 }
}

fn stage_name(stage: Stage) -> &'static str {
    match stage {
        Stage::Banner => "banner",
        Stage::Hello => "EHLO",
        Stage::StartTls => "STARTTLS",
        Stage::Auth => "AUTH",
        Stage::Rset => "RSET",
        Stage::Mail => "MAIL",
        Stage::Rcpt => "RCPT",
        Stage::Data => "DATA",
        Stage::EndOfData => "end of data",
        Stage::Quit => "QUIT",
        Stage::Unasked => "unasked",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_report_prints_and_divides_by_nothing() {
        let board = Board::default();
        let report = Report {
            source: Some(SourceReport::of(&board, Some("100"))),
            sink: Some(SinkReport::of(&board)),
            ledger: Some(Verdict::default()),
            relay: Some(RelayReport::of(&Usage::default(), &Usage::default(), 0)),
            holds: Some(true),
            ..Report::default()
        };
        assert!(!report.to_string().contains("NaN") && !report.to_string().contains("inf"));
    }
}
