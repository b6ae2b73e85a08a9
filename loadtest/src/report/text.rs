//! PURE. The report as text for people.

use std::fmt;

use crate::board::SinkCounts;
use crate::ledger::Verdict;
use crate::report::{Percentiles, PhaseReport, Report, SinkReport, SourceReport};

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
        self.generator_text(f)?;
        if let Some(ledger) = &self.ledger {
            ledger_text(ledger, f)?;
        }
        for note in &self.notes {
            writeln!(f, "           {note}")?;
        }
        for bound in &self.bounds {
            let word = if bound.holds { "holds" } else { "MISSED" };
            writeln!(f, "bound      {:32} {word}, measured {}", bound.bound, bound.measured)?;
        }
        match self.holds {
            Some(true) => writeln!(f, "PASS       every accepted recipient is accounted for"),
            Some(false) => writeln!(f, "FAIL       {}", self.failures.join("; ")),
            None => Ok(()),
        }
    }
}

impl Report {
    fn generator_text(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let generator = &self.generator;
        writeln!(
            f,
            "generator  source {}, sink {}, busiest thread {:.0} %",
            cpu(generator.source_cpu_seconds, self.source.as_ref().map_or(0, |source| source.accepted)),
            cpu(generator.sink_cpu_seconds, self.sink.as_ref().map_or(0, |sink| sink.counts.messages)),
            generator.busiest_thread * 100.0
        )?;
        if generator.was_the_limit {
            writeln!(f, "           THE GENERATOR WAS THE LIMIT")?;
        }
        for warning in &generator.warnings {
            writeln!(f, "           {warning}")?;
        }
        Ok(())
    }

    fn latencies(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.generator.was_the_limit {
            return writeln!(
                f,
                "latency    not shown: the generator was the limit, and they would be its own; --json has them"
            );
        }
        let Some(source) = &self.source else {
            let transit = self.sink.as_ref().map(|sink| sink.transit).filter(|transit| transit.count > 0);
            return transit.map_or(Ok(()), |transit| {
                heading(f, "latency", false)?;
                row(f, "sent → at the sink", &transit, None)
            });
        };
        let open_loop = source.phases.iter().any(|phase| phase.from_intended.is_some());
        if !source.phases.is_empty() {
            heading(f, "latency", open_loop)?;
        }
        for PhaseReport { phase, service, from_intended } in &source.phases {
            row(f, phase, service, from_intended.as_ref())?;
        }
        let late = [("begun too late", &source.lateness), ("by own fault", &source.own_lateness)];
        for (name, percentiles) in late {
            if let Some(percentiles) = percentiles.filter(|percentiles| percentiles.count > 0) {
                row(f, name, &percentiles, None)?;
            }
        }
        match self.sink.as_ref().map(|sink| sink.transit).filter(|transit| transit.count > 0) {
            Some(transit) => row(f, "sent → at the sink", &transit, None),
            None => Ok(()),
        }
    }
}

/// CPU time, and the share of each message.
fn cpu(seconds: f64, messages: u64) -> String {
    let share = if messages > 0 {
        format!(" ({:.1} µs a message)", seconds * 1e6 / messages as f64)
    } else {
        String::new()
    };
    format!("{seconds:.2} s CPU{share}")
}

fn heading(f: &mut fmt::Formatter<'_>, title: &str, open_loop: bool) -> fmt::Result {
    write!(f, "{title:11}{:18}", if open_loop { "service time" } else { "" })?;
    for name in ["p50", "p90", "p99", "p99.9", "max"] {
        write!(f, "{name:>10}")?;
    }
    if open_loop {
        write!(f, "  | from intended time:")?;
        for name in ["p50", "p99", "p99.9", "max"] {
            write!(f, "{name:>10}")?;
        }
    }
    writeln!(f)
}

fn row(
    f: &mut fmt::Formatter<'_>,
    name: &str,
    service: &Percentiles,
    intended: Option<&Percentiles>,
) -> fmt::Result {
    write!(f, "           {name:18}")?;
    for value in [service.p50, service.p90, service.p99, service.p99_9, service.max] {
        write!(f, "{:>10}", duration(value))?;
    }
    if let Some(intended) = intended {
        write!(f, "  |                    ")?;
        for value in [intended.p50, intended.p99, intended.p99_9, intended.max] {
            write!(f, "{:>10}", duration(value))?;
        }
    }
    writeln!(f)
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
            "           {}; {} connections, {} lost, {} connects failed",
            self.rate.as_ref().map_or("closed loop".into(), |rate| format!("open loop, {rate} messages/s")),
            self.connections,
            self.connections_lost,
            self.connects_failed
        )?;
        if self.handshakes_full + self.handshakes_resumed > 0 {
            let (full, resumed) = (self.handshakes_full, self.handshakes_resumed);
            writeln!(f, "           TLS handshakes: {full} full, {resumed} resumed")?;
        }
        if let Some(error) = &self.connect_error {
            writeln!(f, "           the last failed connect: {error}; does the relay listen there?")?;
        }
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
        let rest = rest(counts);
        if !rest.is_empty() {
            writeln!(f, "           {rest}")?;
        }
        for (name, counts) in self.listeners.iter().filter(|_| self.listeners.len() > 1) {
            write!(f, "           {name}: {} messages, {} connections", counts.messages, counts.connections)?;
            let rest = self::rest(counts);
            writeln!(f, "{}{rest}", if rest.is_empty() { "" } else { ", " })?;
        }
        Ok(())
    }
}

/// What there was besides messages.
fn rest(counts: &SinkCounts) -> String {
    let counts = [
        (counts.bounces, "bounces"),
        (counts.foreign, "without our id"),
        (counts.corrupted, "corrupted"),
        (counts.deferred, "deferred by the script"),
        (counts.rejected, "rejected by the script"),
        (counts.dropped, "dropped by the script"),
        (counts.errors, "bad commands"),
    ];
    let there = counts.iter().filter(|(count, _)| *count > 0);
    there.map(|(count, name)| format!("{count} {name}")).collect::<Vec<_>>().join(", ")
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
