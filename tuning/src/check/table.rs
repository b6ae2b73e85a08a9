//! PURE. Findings as a table for people.

use std::fmt::Write as _;

use super::{Finding, State};

/// The table: a line for each finding, and under those that are not green why it matters and what to do.
pub fn table(findings: &[Finding], colours: bool) -> String {
    let width = |cell: fn(&Finding) -> &str, head: &str| {
        findings.iter().map(|finding| cell(finding).chars().count()).chain([head.len()]).max().unwrap_or(0)
    };
    let (what, now) = (width(|f| f.what, "what"), width(|f| &f.now, "now"));
    let wanted = width(|f| &f.wanted, "wanted");
    // Writing to a String cannot fail.
    let mut text = String::new();
    let _ = writeln!(text, "state   {:what$}  {:now$}  {:wanted$}  why", "what", "now", "wanted");
    for finding in findings {
        let (name, colour) = match finding.state {
            State::Green => ("green", 32),
            State::Yellow => ("yellow", 33),
            State::Red => ("red", 31),
        };
        let state = if colours { format!("\x1b[{colour}m{name:6}\x1b[0m") } else { format!("{name:6}") };
        let Finding { what: w, now: n, wanted: q, why, how, .. } = finding;
        let _ = writeln!(text, "{state}  {w:what$}  {n:now$}  {q:wanted$}  {why}");
        if finding.state != State::Green {
            let _ = writeln!(text, "        → {how}");
        }
    }
    let red = findings.iter().filter(|finding| finding.state == State::Red).count();
    let yellow = findings.iter().filter(|finding| finding.state == State::Yellow).count();
    text.push_str(&match (red, yellow) {
        (0, 0) => "The relay can run here: ringpost serve\n".to_owned(),
        (0, _) => format!("The relay can run here; {yellow} yellow: load may reach that limit.\n"),
        _ => {
            format!("{red} red: change that first; serve would not start, or could not keep its promises.\n")
        }
    });
    text
}
