//! PURE. What was measured, as text for people and as JSON for programs.

use std::fmt::{self, Write as _};
use std::time::Duration;

use serde::Serialize;

use crate::board::{Board, Latency, SinkCounts, ThreadUse};
use crate::clock::Micros;
use crate::ledger::Verdict;
use crate::process::Usage;
use crate::source::session::Stage;
use crate::wire::mark::Run;

/// From this share on, a thread counts as fully used.
const FULLY_BUSY: f64 = 0.9;

/// Everything one command found out.
#[derive(Debug, Default, Serialize)]
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
    /// Some of the faults.
    pub faults: Vec<String>,
    /// The relay's process tree.
    pub relay: Option<RelayReport>,
    /// The generator's own use of the machine.
    pub generator: GeneratorReport,
    /// Whether the ledger holds; only after a whole run.
    pub holds: Option<bool>,
}

/// A latency distribution in microseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
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
#[derive(Clone, Debug, Serialize)]
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

/// What the source saw.
#[derive(Clone, Debug, Default, Serialize)]
pub struct SourceReport {
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
    /// Connections lost or shut out.
    pub connections_lost: u64,
    /// From the first MAIL to the last 2xx, in seconds.
    pub seconds: f64,
    /// Accepted messages per second of that time.
    pub accepted_per_second: f64,
    /// End of data to its reply.
    pub end_of_data: Percentiles,
    /// MAIL to the last reply.
    pub transaction: Percentiles,
    /// Open loop only: intended time to the last reply.
    pub from_intended: Option<Percentiles>,
    /// Open loop only: intended time to MAIL.
    pub lateness: Option<Percentiles>,
    /// Replies by stage and code.
    pub replies: Vec<ReplyCount>,
}

/// What the sink saw.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct SinkReport {
    /// Counts.
    pub counts: SinkCounts,
    /// From the first to the last message, in seconds.
    pub seconds: f64,
    /// Messages per second of that time.
    pub messages_per_second: f64,
    /// Sent by the source to received here; same host only.
    pub transit: Percentiles,
}

/// What the relay used.
#[derive(Clone, Copy, Debug, Default, Serialize)]
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

/// What the generator used.
#[derive(Clone, Debug, Default, Serialize)]
pub struct GeneratorReport {
    /// CPU seconds of the source's threads.
    pub source_cpu_seconds: f64,
    /// CPU seconds of the sink's threads.
    pub sink_cpu_seconds: f64,
    /// The largest share of its time that one of the threads was running.
    pub busiest_thread: f64,
    /// A thread was fully busy: the figures are the generator's limit, not the relay's.
    pub was_the_limit: bool,
}

impl GeneratorReport {
    /// From the threads' own figures.
    pub fn of(source: &[ThreadUse], sink: &[ThreadUse]) -> Self {
        let cpu = |threads: &[ThreadUse]| threads.iter().map(|thread| thread.cpu.as_secs_f64()).sum();
        let share = |thread: &ThreadUse| thread.cpu.as_secs_f64() / thread.wall.as_secs_f64().max(1e-9);
        let busiest_thread = source.iter().chain(sink).map(share).fold(0.0, f64::max);
        let was_the_limit = busiest_thread >= FULLY_BUSY;
        Self { source_cpu_seconds: cpu(source), sink_cpu_seconds: cpu(sink), busiest_thread, was_the_limit }
    }
}

impl SourceReport {
    /// From the board; `open_loop` adds what only exists then.
    pub fn of(board: &Board, open_loop: bool) -> Self {
        let tally = &board.source;
        let seconds = seconds(tally.first_and_last);
        let replies = tally.replies.iter().map(|((stage, code), (count, text))| ReplyCount {
            stage: stage_name(*stage).into(),
            code: *code,
            count: *count,
            text: text.clone(),
        });
        Self {
            accepted: tally.accepted,
            refused: tally.refused,
            unknown: tally.unknown,
            aborted: tally.aborted,
            connections: tally.connections,
            connects_failed: tally.connects_failed,
            connections_lost: tally.connections_lost,
            seconds,
            accepted_per_second: per_second(tally.accepted, seconds),
            end_of_data: Percentiles::of(&tally.end_of_data),
            transaction: Percentiles::of(&tally.transaction),
            from_intended: open_loop.then(|| Percentiles::of(&tally.from_intended)),
            lateness: open_loop.then(|| Percentiles::of(&tally.lateness)),
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
        Stage::Rset => "RSET",
        Stage::Mail => "MAIL",
        Stage::Rcpt => "RCPT",
        Stage::Data => "DATA",
        Stage::EndOfData => "end of data",
        Stage::Quit => "QUIT",
        Stage::Unasked => "unasked",
    }
}

/// Microseconds in the unit that reads best.
pub fn duration(micros: u64) -> String {
    match micros {
        0..1_000 => format!("{micros} µs"),
        1_000..1_000_000 => format!("{:.2} ms", micros as f64 / 1e3),
        _ => format!("{:.2} s", micros as f64 / 1e6),
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(run) = &self.run {
            writeln!(f, "run {run}")?;
        }
        if let Some(source) = &self.source {
            source.text(f)?;
        }
        if let Some(sink) = &self.sink {
            sink.text(f)?;
        }
        self.latencies(f)?;
        if let Some(relay) = &self.relay {
            writeln!(
                f,
                "relay      {:.2} s CPU, {:.1} µs per accepted message; peak resident {:.1} MiB ({} process{})",
                relay.cpu_seconds,
                relay.cpu_micros_per_message,
                relay.resident_peak as f64 / f64::from(1 << 20),
                relay.processes,
                if relay.processes == 1 { "" } else { "es" }
            )?;
        }
        let generator = &self.generator;
        writeln!(
            f,
            "generator  source {:.2} s CPU, sink {:.2} s CPU, busiest thread {:.0} %",
            generator.source_cpu_seconds,
            generator.sink_cpu_seconds,
            generator.busiest_thread * 100.0
        )?;
        if generator.was_the_limit {
            writeln!(
                f,
                "           THE GENERATOR WAS THE LIMIT: the rate is its own, not the relay's (more --threads?)"
            )?;
        }
        if let Some(ledger) = &self.ledger {
            ledger_text(ledger, f)?;
        }
        for fault in &self.faults {
            writeln!(f, "           {fault}")?;
        }
        match self.holds {
            Some(true) => writeln!(f, "PASS       every accepted recipient is accounted for"),
            Some(false) => writeln!(f, "FAIL       see the ledger above"),
            None => Ok(()),
        }
    }
}

impl Report {
    fn latencies(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rows: Vec<(&str, Percentiles)> = Vec::new();
        if let Some(source) = &self.source {
            rows.push(("end of data → reply", source.end_of_data));
            rows.push(("whole transaction", source.transaction));
            rows.extend(source.from_intended.map(|row| ("intended time → reply", row)));
            rows.extend(source.lateness.map(|row| ("intended time → MAIL", row)));
        }
        rows.extend(self.sink.map(|sink| ("sent → at the sink", sink.transit)));
        rows.retain(|(_, row)| row.count > 0);
        if !rows.is_empty() {
            writeln!(
                f,
                "latency    {:22}{:>10}{:>10}{:>10}{:>10}{:>10}",
                "", "p50", "p90", "p99", "p99.9", "max"
            )?;
        }
        for (name, row) in rows {
            write!(f, "           {name:22}")?;
            for value in [row.p50, row.p90, row.p99, row.p99_9, row.max] {
                write!(f, "{:>10}", duration(value))?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

impl SourceReport {
    fn text(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "source     {} accepted in {:.2} s: {:.0}/s; {} refused, {} unknown, {} cut off",
            self.accepted, self.seconds, self.accepted_per_second, self.refused, self.unknown, self.aborted
        )?;
        writeln!(
            f,
            "           {} connections, {} lost, {} connects failed",
            self.connections, self.connections_lost, self.connects_failed
        )?;
        for reply in self.replies.iter().filter(|reply| reply.code >= 400) {
            writeln!(f, "           {} × {} at {}: {}", reply.count, reply.code, reply.stage, reply.text)?;
        }
        Ok(())
    }
}

impl SinkReport {
    fn text(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = &self.counts;
        writeln!(
            f,
            "sink       {} messages to {} recipients in {:.2} s: {:.0}/s, {:.1} MB; {} connections",
            counts.messages,
            counts.recipients,
            self.seconds,
            self.messages_per_second,
            counts.bytes as f64 / 1e6,
            counts.connections
        )?;
        let rest = [
            (counts.bounces, "bounces"),
            (counts.foreign, "without our id"),
            (counts.corrupted, "corrupted"),
            (counts.deferred, "deferred by the script"),
            (counts.rejected, "rejected by the script"),
            (counts.dropped, "dropped by the script"),
            (counts.errors, "bad commands"),
        ];
        let rest =
            rest.iter().filter(|(count, _)| *count > 0).fold(String::new(), |mut text, (count, name)| {
                let _ = write!(text, "{}{count} {name}", if text.is_empty() { "" } else { ", " });
                text
            });
        if rest.is_empty() { Ok(()) } else { writeln!(f, "           {rest}") }
    }
}

fn ledger_text(ledger: &Verdict, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    writeln!(
        f,
        "ledger     {} recipients accepted: {} lost, {} repeated, {} corrupted, {} misdelivered",
        ledger.accepted, ledger.lost, ledger.repeated, ledger.corrupted, ledger.misdelivered
    )?;
    writeln!(
        f,
        "           {} refused or cut off, {} of them delivered; {} unknown, {} of them delivered",
        ledger.refused + ledger.aborted,
        ledger.refused_but_delivered,
        ledger.unknown,
        ledger.unknown_delivered
    )?;
    if ledger.failed_at_sink + ledger.delivered_after_failure + ledger.bounced_messages > 0 {
        writeln!(
            f,
            "           {} refused for good by the sink, {} delivered after that; {} messages bounced, {} bounces missing",
            ledger.failed_at_sink,
            ledger.delivered_after_failure,
            ledger.bounced_messages,
            ledger.bounces_missing
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_thread_makes_the_generator_the_limit() {
        let thread = |busy| ThreadUse { cpu: Duration::from_millis(busy), wall: Duration::from_secs(1) };
        assert!(!GeneratorReport::of(&[thread(500), thread(899)], &[thread(10)]).was_the_limit);
        let report =
            Report { generator: GeneratorReport::of(&[thread(500)], &[thread(950)]), ..Report::default() };
        assert!(report.to_string().contains("THE GENERATOR WAS THE LIMIT"));
    }

    #[test]
    fn an_empty_report_prints_and_divides_by_nothing() {
        let board = Board::default();
        let report = Report {
            source: Some(SourceReport::of(&board, true)),
            sink: Some(SinkReport::of(&board)),
            ledger: Some(Verdict::default()),
            relay: Some(RelayReport::of(&Usage::default(), &Usage::default(), 0)),
            holds: Some(true),
            ..Report::default()
        };
        assert!(!report.to_string().contains("NaN") && !report.to_string().contains("inf"));
    }
}
