//! PURE. Two reports side by side: what got better, what got worse, and what makes them hard to compare.

use std::fmt::Write as _;

use crate::measure::phase::Phase;
use crate::report::text::duration;
use crate::report::{PhaseReport, Report};

/// Changes below this are noise on most machines.
const NOISE: f64 = 0.05;

/// One line of the comparison.
struct Line {
    name: String,
    before: f64,
    after: f64,
    /// More is better.
    up: bool,
    text: fn(f64) -> String,
}

/// The comparison as text.
pub fn compare(before: &Report, after: &Report) -> String {
    let mut text = String::new();
    for (name, report) in [("before", before), ("after", after)] {
        let _ = writeln!(text, "{name:8}{}", report.command);
    }
    for (name, old, new) in differences(before, after) {
        let _ = writeln!(text, "DIFFERS {name}: {old} | {new}");
    }
    let _ = writeln!(text, "{:34}{:>14}{:>14}{:>12}", "", "before", "after", "change");
    for line in lines(before, after) {
        let change = (line.after - line.before) / line.before;
        let word = match change {
            _ if line.before == line.after => "same",
            _ if change.abs() < NOISE => "about the same",
            _ if (change > 0.0) == line.up => "better",
            _ => "WORSE",
        };
        let (old, new) = ((line.text)(line.before), (line.text)(line.after));
        let change = if change.is_finite() { format!("{:+.1} %", change * 100.0) } else { String::new() };
        let _ = writeln!(text, "{:34}{old:>14}{new:>14}{change:>12}  {word}", line.name);
    }
    for (name, report) in [("before", before), ("after", after)] {
        for warning in &report.generator.warnings {
            let _ = writeln!(text, "{name}: the generator says: {warning}");
        }
    }
    text
}

/// What should be the same for a comparison to mean something.
fn differences(before: &Report, after: &Report) -> Vec<(&'static str, String, String)> {
    let (old, new) = (&before.environment, &after.environment);
    let mut pairs = vec![
        ("kernel", old.kernel.clone(), new.kernel.clone()),
        ("CPU", old.cpu.clone(), new.cpu.clone()),
        ("CPUs", old.cpus.to_string(), new.cpus.to_string()),
        ("disk", old.disk.clone(), new.disk.clone()),
        ("generator", old.generator.clone(), new.generator.clone()),
        ("seed", format!("{:?}", old.seed), format!("{:?}", new.seed)),
    ];
    let notes = |report: &Report| {
        let notes = report.environment.notes.iter().map(|(key, value)| format!("{key}={value}"));
        notes.collect::<Vec<_>>().join(", ")
    };
    pairs.push(("notes", notes(before), notes(after)));
    pairs.retain(|(_, old, new)| old != new);
    pairs
}

fn lines(before: &Report, after: &Report) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut add = |name: String, before: f64, after: f64, up: bool, text: fn(f64) -> String| {
        if before > 0.0 || after > 0.0 {
            lines.push(Line { name, before, after, up, text });
        }
    };
    let count = |value: f64| format!("{value:.0}");
    let time = |value: f64| duration(value as u64);
    if let (Some(old), Some(new)) = (&before.source, &after.source) {
        add("accepted per second".into(), old.accepted_per_second, new.accepted_per_second, true, count);
        let failed =
            |source: &crate::report::SourceReport| (source.refused + source.unknown + source.aborted) as f64;
        add("refused, unknown or cut off".into(), failed(old), failed(new), false, count);
        for (old, new) in old.phases.iter().filter_map(|phase| Some((phase, same(phase, &new.phases)?))) {
            let mut both = vec![("service", old.service, new.service)];
            // Up to the earlier phases it tells nothing that the whole does not.
            let whole = old.phase == Phase::Whole.name();
            let intended = old.from_intended.zip(new.from_intended).filter(|_| whole);
            both.extend(intended.map(|(old, new)| ("intended", old, new)));
            for (kind, old_part, new_part) in both {
                for (name, old_value, new_value, from) in [
                    ("p50", old_part.p50, new_part.p50, 1),
                    ("p99", old_part.p99, new_part.p99, 100),
                    ("p99.9", old_part.p99_9, new_part.p99_9, 1_000),
                ] {
                    // Replies that came in one read with the one before have no time of their own; and a percentile of
                    // fewer values than it speaks of is their maximum.
                    if old_value > 1 && new_value > 1 && old_part.count.min(new_part.count) >= from {
                        let name = format!("{} {kind} {name}", old.phase);
                        add(name, old_value as f64, new_value as f64, false, time);
                    }
                }
            }
        }
    }
    if let (Some(old), Some(new)) = (&before.sink, &after.sink) {
        add("at the sink per second".into(), old.messages_per_second, new.messages_per_second, true, count);
        add("sent → at the sink p50".into(), old.transit.p50 as f64, new.transit.p50 as f64, false, time);
        add("sent → at the sink p99".into(), old.transit.p99 as f64, new.transit.p99 as f64, false, time);
    }
    if let (Some(old), Some(new)) = (&before.relay, &after.relay) {
        add("CPU per message".into(), old.cpu_micros_per_message, new.cpu_micros_per_message, false, time);
        let mib = |value: f64| format!("{:.1} MiB", value / 1048576.0);
        add("peak resident".into(), old.resident_peak as f64, new.resident_peak as f64, false, mib);
    }
    if let (Some(old), Some(new)) = (&before.ledger, &after.ledger) {
        add("lost".into(), old.lost as f64, new.lost as f64, false, count);
        add("repeated".into(), old.repeated as f64, new.repeated as f64, false, count);
    }
    lines
}

fn same<'a>(phase: &PhaseReport, others: &'a [PhaseReport]) -> Option<&'a PhaseReport> {
    others.iter().find(|other| other.phase == phase.phase)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Percentiles, SourceReport};

    fn report(rate: f64, p99: u64, kernel: &str) -> Report {
        let service = Percentiles { count: 500, p50: 100, p99, p99_9: p99, ..Percentiles::default() };
        let phase = PhaseReport { phase: "MAIL".into(), service, from_intended: None };
        let source =
            SourceReport { accepted_per_second: rate, phases: vec![phase], ..SourceReport::default() };
        let mut report = Report { source: Some(source), ..Report::default() };
        report.environment.kernel = kernel.into();
        report
    }

    #[test]
    fn better_and_worse_know_which_way_is_up() {
        let text = compare(&report(1000.0, 500, "a"), &report(1500.0, 900, "a"));
        let line = |name: &str| text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        assert!(line("accepted per second").ends_with("+50.0 %  better"), "{text}");
        assert!(line("MAIL service p99").ends_with("WORSE"), "{text}");
        assert!(line("MAIL service p50").ends_with("same"), "{text}");
        assert!(!text.contains("DIFFERS") && !text.contains("NaN"));
        assert!(!text.contains("p99.9"), "500 values have none: {text}");
    }

    #[test]
    fn different_machines_are_said_to_differ() {
        assert!(compare(&report(1.0, 1, "a"), &report(1.02, 1, "b")).contains("DIFFERS kernel: a | b"));
    }

    #[test]
    fn reports_survive_json() {
        let text = serde_json::to_string(&report(5.0, 7, "k")).unwrap_or_default();
        let back: Report = serde_json::from_str(&text).unwrap_or_default();
        assert_eq!(back.environment.kernel, "k");
        assert_eq!(back.source.map(|source| source.phases[0].service.p99), Some(7));
        assert!(serde_json::from_str::<Report>("{}").is_ok(), "older reports lack newer fields");
    }
}
