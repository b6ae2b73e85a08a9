//! PURE. The page's tables: phases, bounds, ledger, errors, generator, environment.

use std::fmt::Write as _;

use crate::page::chart::grouped;
use crate::page::escaped;
use crate::report::text::duration;
use crate::report::{Percentiles, Report, SourceReport};

/// Appends all that have something to say.
pub fn all(report: &Report, page: &mut String) {
    if let Some(source) = &report.source {
        phases(source, report, page);
        errors(source, page);
    }
    bounds(report, page);
    *page += "<div class=\"two\">\n";
    verdict(report, page);
    generator(report, page);
    *page += "</div>\n";
    sink(report, page);
    environment(report, page);
}

fn percentiles(cells: &mut String, of: &Percentiles, class: &str) {
    for (index, value) in [of.p50, of.p90, of.p99, of.p99_9, of.max].into_iter().enumerate() {
        let class = if index == 0 { class } else { "" };
        let _ = write!(cells, "<td{class}>{}</td>", duration(value));
    }
}

fn phases(source: &SourceReport, report: &Report, page: &mut String) {
    if source.phases.is_empty() {
        return;
    }
    let open_loop = source.phases.iter().any(|phase| phase.from_intended.is_some());
    let names = "<th>p50</th><th>p90</th><th>p99</th><th>p99.9</th><th>max</th>";
    let second = names.replacen("<th>", "<th class=\"split\">", 1);
    *page += "<section><h2>Latency by phase</h2><p class=\"hint\">Service time is what the relay took for one step";
    *page += if open_loop {
        "; from the intended time counts every wait since the message should have begun.</p>"
    } else {
        ".</p>"
    };
    *page += "<table>";
    if open_loop {
        *page += "<tr><th></th><th></th><th class=\"group\" colspan=\"5\">service time</th>\
                  <th class=\"group split\" colspan=\"5\">from intended time</th></tr>";
    }
    let _ = writeln!(
        page,
        "<tr><th>phase</th><th>count</th>{names}{}</tr>",
        if open_loop { &second } else { "" }
    );
    let mut row = |name: &str, service: &Percentiles, intended: Option<&Percentiles>| {
        let mut cells = String::new();
        percentiles(&mut cells, service, "");
        match intended {
            Some(intended) => percentiles(&mut cells, intended, " class=\"split\""),
            None if open_loop => cells += "<td class=\"split\" colspan=\"5\"></td>",
            None => {}
        }
        let _ =
            writeln!(page, "<tr><td>{}</td><td>{}</td>{cells}</tr>", escaped(name), grouped(service.count));
    };
    for phase in &source.phases {
        row(&phase.phase, &phase.service, phase.from_intended.as_ref());
    }
    for (name, late) in
        [("begun too late", &source.lateness), ("of that, by own fault", &source.own_lateness)]
    {
        if let Some(late) = late.filter(|late| late.count > 0) {
            row(name, &late, None);
        }
    }
    if let Some(sink) = report.sink.as_ref().filter(|sink| sink.transit.count > 0) {
        row("sent → at the sink", &sink.transit, None);
    }
    *page += "</table></section>\n";
}

fn errors(source: &SourceReport, page: &mut String) {
    let refusals: Vec<_> = source.replies.iter().filter(|reply| reply.code >= 400).collect();
    if refusals.is_empty() && source.connect_error.is_none() {
        return;
    }
    *page += "<section><h2>Errors</h2><table><tr><th>at</th><th>code</th><th>count</th><th class=\"group\">first text</th></tr>\n";
    for reply in refusals {
        let _ = writeln!(
            page,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td class=\"text\">{}</td></tr>",
            escaped(&reply.stage),
            reply.code,
            grouped(reply.count),
            escaped(&reply.text)
        );
    }
    if let Some(error) = &source.connect_error {
        let _ = writeln!(
            page,
            "<tr><td>connect</td><td></td><td>{}</td><td class=\"text\">{}</td></tr>",
            grouped(source.connects_failed),
            escaped(error)
        );
    }
    *page += "</table></section>\n";
}

fn bounds(report: &Report, page: &mut String) {
    if report.bounds.is_empty() {
        return;
    }
    *page += "<section><h2>Bounds</h2><table><tr><th>stated</th><th>measured</th><th></th></tr>\n";
    for bound in &report.bounds {
        let word =
            if bound.holds { "<td class=\"holds\">holds</td>" } else { "<td class=\"missed\">missed</td>" };
        let (stated, measured) = (escaped(&bound.bound), escaped(&bound.measured));
        let _ = writeln!(page, "<tr><td class=\"mono\">{stated}</td><td>{measured}</td>{word}</tr>");
    }
    *page += "</table></section>\n";
}

fn verdict(report: &Report, page: &mut String) {
    let mut rows: Vec<(&str, u64, bool)> = Vec::new();
    if let Some(ledger) = &report.ledger {
        rows.extend([
            ("recipients accepted", ledger.accepted, false),
            ("lost", ledger.lost, true),
            ("repeated", ledger.repeated, true),
            ("corrupted", ledger.corrupted, true),
            ("misdelivered", ledger.misdelivered, true),
            ("refused or cut off", ledger.refused + ledger.aborted, false),
            ("… of these delivered", ledger.refused_but_delivered, true),
            ("reply unknown", ledger.unknown, false),
            ("… of these delivered", ledger.unknown_delivered, false),
            ("refused for good by the sink", ledger.failed_at_sink, false),
            ("messages bounced", ledger.bounced_messages, false),
        ]);
    } else if let Some(sink) = &report.sink {
        rows.extend([
            ("messages", sink.counts.messages, false),
            ("recipients", sink.counts.recipients, false),
            ("corrupted", sink.counts.corrupted, true),
        ]);
    }
    if rows.is_empty() && report.notes.is_empty() {
        return;
    }
    *page += "<section><h2>Ledger</h2><p class=\"hint\">What was told of each recipient, against what arrived.</p><table>\n";
    for (name, count, fault) in rows {
        let class = if fault && count > 0 { " class=\"missed\"" } else { "" };
        let _ = writeln!(page, "<tr><td>{name}</td><td{class}>{}</td></tr>", grouped(count));
    }
    *page += "</table>";
    for note in &report.notes {
        let _ = writeln!(page, "<p class=\"hint\">{}</p>", escaped(note));
    }
    *page += "</section>\n";
}

fn sink(report: &Report, page: &mut String) {
    let Some(sink) = report.sink.as_ref().filter(|sink| !sink.listeners.is_empty()) else { return };
    *page += "<section><h2>Sink</h2><p class=\"hint\">What each listener took and refused, and its profile.</p><table>\n\
              <tr><th>listener</th><th>connections</th><th>messages</th><th>bounces</th><th>deferred</th><th>rejected</th>\
              <th>dropped</th><th>bad commands</th></tr>\n";
    for (name, of) in &sink.listeners {
        let _ = write!(page, "<tr><td>{}</td>", escaped(name));
        for count in
            [of.connections, of.messages, of.bounces, of.deferred, of.rejected, of.dropped, of.errors]
        {
            let _ = write!(page, "<td>{}</td>", grouped(count));
        }
        *page += "</tr>\n";
    }
    *page += "</table></section>\n";
}

fn generator(report: &Report, page: &mut String) {
    let generator = &report.generator;
    *page += "<section><h2>Generator</h2><p class=\"hint\">The share of its time that each thread was running.</p><table>\n";
    let machine = generator.machine_busy.map(|share| ("all CPUs, everybody".to_owned(), share));
    for (name, share) in generator.threads.iter().cloned().chain(machine) {
        let percent = (share * 100.0).min(100.0);
        let class = if share >= 0.9 { " class=\"full\"" } else { "" };
        let _ = writeln!(
            page,
            "<tr><td>{}</td><td><span class=\"bar\"><i{class} style=\"width:{percent:.0}%\"></i></span></td><td>{percent:.0} %</td></tr>",
            escaped(&name)
        );
    }
    let _ = writeln!(
        page,
        "<tr><td>CPU of source and sink</td><td></td><td>{:.2} s</td></tr>",
        generator.source_cpu_seconds + generator.sink_cpu_seconds
    );
    if let Some(relay) = &report.relay {
        let _ =
            writeln!(page, "<tr><td>CPU of the relay</td><td></td><td>{:.2} s</td></tr>", relay.cpu_seconds);
        let _ = writeln!(
            page,
            "<tr><td>memory of the relay at most</td><td></td><td>{:.1} MiB</td></tr>",
            relay.resident_peak as f64 / f64::from(1 << 20)
        );
    }
    *page += "</table></section>\n";
}

fn environment(report: &Report, page: &mut String) {
    let of = &report.environment;
    let mut rows = vec![
        ("kernel", of.kernel.clone()),
        ("CPU", format!("{} × {}", of.cpus, of.cpu)),
        ("memory", format!("{:.1} GiB", of.memory as f64 / f64::from(1 << 30))),
        ("disk", of.disk.clone()),
        ("generator", of.generator.clone()),
        ("seed", of.seed.map_or(String::new(), |seed| seed.to_string())),
    ];
    rows.extend(of.notes.iter().map(|(key, value)| (key.as_str(), value.clone())));
    rows.retain(|(_, value)| !value.is_empty());
    *page += "<section><h2>Environment</h2><table>\n";
    for (name, value) in rows {
        let _ =
            writeln!(page, "<tr><td>{}</td><td class=\"text\">{}</td></tr>", escaped(name), escaped(&value));
    }
    *page += "</table></section>\n";
}
