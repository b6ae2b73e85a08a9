//! PURE. The report as one self-contained page: no script, no network, plots as inline SVG. It is drawn from the report
//! alone, so a page can be made later from a JSON file.

pub mod chart;
pub mod tables;

use std::fmt::Write as _;

use crate::measure::timeline::bucket_end;
use crate::page::chart::{Series, grouped};
use crate::report::text::duration;
use crate::report::{Report, SourceReport};

/// The style sheet: colours for a light and a dark screen, tables and plots.
pub const STYLE: &str = include_str!("style.css");
/// Colours of the percentile curves, in their order.
const COLOURS: [&str; 4] = ["a", "b", "c", "d"];

/// The page.
pub fn page(report: &Report) -> String {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n",
        escaped(&title(report))
    );
    head(report, &mut page);
    tiles(report, &mut page);
    throughput(report, &mut page);
    curves(report, &mut page);
    heat(report, &mut page);
    tables::all(report, &mut page);
    page + "</main>\n</body>\n</html>\n"
}

fn title(report: &Report) -> String {
    format!("Load test {}", report.run.as_deref().unwrap_or("of a sink"))
}

/// Text for HTML.
pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn head(report: &Report, page: &mut String) {
    let badge = match report.holds {
        Some(true) => "<span class=\"badge pass\">PASS</span>",
        Some(false) => "<span class=\"badge fail\">FAIL</span>",
        None => "",
    };
    let days = crate::wire::template::date(report.environment.started);
    let _ = writeln!(
        page,
        "<header><h1>{}</h1>{badge}<p>{days} · {}</p><p><code>{}</code></p></header>",
        escaped(&title(report)),
        escaped(&report.environment.generator),
        escaped(&report.command)
    );
    if !report.failures.is_empty() {
        list(page, "failure", "It failed:", &report.failures);
    }
    let generator = &report.generator;
    if !generator.warnings.is_empty() {
        let word =
            if generator.was_the_limit { "The generator was the limit." } else { "Mind when reading:" };
        list(page, "warning", word, &generator.warnings);
    }
}

fn list(page: &mut String, class: &str, word: &str, lines: &[String]) {
    let _ = write!(page, "<div class=\"{class}\"><b>{word}</b><ul>");
    for line in lines {
        let _ = write!(page, "<li>{}</li>", escaped(line));
    }
    *page += "</ul></div>\n";
}

fn tiles(report: &Report, page: &mut String) {
    *page += "<div class=\"tiles\">\n";
    let mut tile = |value: String, name: &str, bad: bool| {
        let class = if bad { "tile bad" } else { "tile" };
        let _ = writeln!(page, "<div class=\"{class}\"><b>{value}</b><span>{name}</span></div>");
    };
    tile_list(report, &mut tile);
    *page += "</div>\n";
}

fn tile_list(report: &Report, tile: &mut dyn FnMut(String, &str, bool)) {
    if let Some(source) = &report.source {
        let failed = source.refused + source.unknown + source.aborted;
        tile(grouped(source.accepted_per_second.round() as u64), "accepted per second", false);
        tile(grouped(source.accepted), "messages accepted", false);
        let (latency, kind) = headline(source);
        tile(duration(latency.p50), &format!("median, {kind}"), false);
        tile(duration(latency.p99), &format!("99 %, {kind}"), false);
        tile(duration(latency.p99_9), &format!("99.9 %, {kind}"), false);
        tile(grouped(failed), "refused, unknown or cut off", failed > 0);
    } else if let Some(sink) = &report.sink {
        tile(grouped(sink.counts.messages), "messages taken", false);
        tile(grouped(sink.messages_per_second.round() as u64), "per second", false);
    }
    if let Some(ledger) = &report.ledger {
        tile(grouped(ledger.lost), "lost", ledger.lost > 0);
        tile(grouped(ledger.repeated), "repeated", ledger.repeated > 0);
    }
    if let Some(relay) = &report.relay {
        tile(duration(relay.cpu_micros_per_message as u64), "relay's CPU per message", false);
    }
}

/// The latency that senders would have seen.
fn headline(source: &SourceReport) -> (crate::report::Percentiles, &'static str) {
    match source.from_intended {
        Some(latency) => (latency, "from intended time"),
        None => (source.transaction, "whole transaction"),
    }
}

fn throughput(report: &Report, page: &mut String) {
    let seconds = &report.seconds;
    let width = seconds.width.max(1) as f64;
    // The last second is only a part of one: as a rate it would be wrong.
    let whole = if seconds.accepted.len() > 3 { seconds.accepted.len() - 1 } else { seconds.accepted.len() };
    let rate =
        |counts: &[u64]| counts.iter().take(whole).map(|count| *count as f64 / width).collect::<Vec<f64>>();
    let failed: Vec<u64> =
        seconds.refused.iter().zip(&seconds.lost).map(|(one, other)| one + other).collect();
    let all = [
        ("intended", "soft", true, rate(&seconds.intended)),
        ("accepted by the relay", "a", false, rate(&seconds.accepted)),
        ("at the sink", "b", false, rate(&seconds.arrived)),
        ("refused or lost", "bad", false, rate(&failed)),
        ("refused by the sink", "c", false, rate(&seconds.sink_refused)),
        ("connection errors", "d", false, rate(&seconds.connection_errors)),
    ];
    let happened = all.into_iter().filter(|(_, _, _, values)| values.iter().any(|value| *value > 0.0));
    let series: Vec<Series<'_>> =
        happened.map(|(name, colour, dashed, values)| Series { name, colour, dashed, values }).collect();
    if series.is_empty() {
        return;
    }
    let names: Vec<(&str, &str)> = series.iter().map(|line| (line.name, line.colour)).collect();
    let _ = writeln!(
        page,
        "<section><h2>Throughput over time</h2><p class=\"hint\">Per second; a last, partial second is left out.</p>{}{}</section>",
        chart::legend(&names),
        chart::lines(&series, width)
    );
}

fn curves(report: &Report, page: &mut String) {
    let curves: Vec<chart::Curve<'_>> = report
        .curves
        .iter()
        .zip(COLOURS.iter().cycle())
        .map(|(curve, colour)| (curve.name.as_str(), *colour, curve.points.as_slice()))
        .collect();
    if curves.is_empty() {
        return;
    }
    let names: Vec<(&str, &str)> = curves.iter().map(|(name, colour, _)| (*name, *colour)).collect();
    let _ = writeln!(
        page,
        "<section><h2>Latency by percentile</h2><p class=\"hint\">Both axes are logarithmic; each step to the right is a tenth of the messages before it.</p>{}{}</section>",
        chart::legend(&names),
        chart::percentiles(&curves)
    );
}

fn heat(report: &Report, page: &mut String) {
    let seconds = &report.seconds;
    if seconds.latency.iter().all(Vec::is_empty) {
        return;
    }
    let kind = report.source.as_ref().map_or("", |source| headline(source).1);
    let _ = writeln!(
        page,
        "<section><h2>Latency over time</h2><p class=\"hint\">Accepted messages by latency, {kind}, at the time of their reply; darker is more.</p>{}</section>",
        chart::heat(&seconds.latency, seconds.width.max(1) as f64, bucket_end)
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::board::Board;
    use crate::measure::phase::Phase;
    use crate::report::curves::{Curve, Seconds};
    use crate::report::{ReplyCount, SinkReport};

    fn full() -> Report {
        let mut board = Board::default();
        for message in 0..500u64 {
            board.source.phases.record(Phase::Whole, 100 + message, Some(200 + message));
            board.timeline.at(message * 10_000).record(200 + message);
            board.timeline.at(message * 10_000).accepted += 1;
        }
        let mut source = SourceReport::of(&board, Some("1000"));
        source.replies = vec![ReplyCount {
            stage: "RCPT".into(),
            code: 550,
            count: 3,
            text: "<script>alert(1)</script> & \"so\"".into(),
        }];
        Report {
            command: "ringpost-load run --note '<b>'".into(),
            source: Some(source),
            sink: Some(SinkReport::of(&board)),
            curves: Curve::all(&board.source.phases),
            seconds: Seconds::of(&board.timeline),
            ledger: Some(crate::ledger::Verdict::default()),
            holds: Some(true),
            ..Report::default()
        }
    }

    #[test]
    fn what_peers_and_users_wrote_is_text_and_never_markup() {
        let page = page(&full());
        assert!(page.contains("&lt;script&gt;") && !page.contains("<script"));
        assert!(!page.contains("<b>'") && page.matches("<svg").count() == 3);
    }

    #[test]
    fn nothing_is_fetched_and_tags_are_closed() {
        let page = page(&full());
        for outside in ["http:", "https:", "src=", "@import", "url("] {
            assert!(!page.contains(outside), "{outside}");
        }
        for tag in ["section", "table", "tr", "td", "th", "div", "svg", "g", "ul", "li", "span", "p", "main"]
        {
            let open = page.matches(&format!("<{tag}>")).count() + page.matches(&format!("<{tag} ")).count();
            assert_eq!(open, page.matches(&format!("</{tag}>")).count(), "{tag}");
        }
        assert!(!page.contains("NaN"));
    }

    #[test]
    fn an_empty_report_still_makes_a_page() {
        let page = page(&Report::default());
        assert!(page.ends_with("</html>\n") && !page.contains("<svg"));
    }
}
