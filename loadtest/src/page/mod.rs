//! PURE. The report as one self-contained page: no script, no network, plots as inline SVG.

use crate::report::Report;

/// The page.
pub fn page(report: &Report) -> String {
    format!("<!doctype html><meta charset=utf-8><pre>{report}</pre>")
}
