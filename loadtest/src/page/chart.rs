//! PURE. Plots as SVG text: lines over time, percentile curves, a heat map. Tooltips are SVG titles, so nothing is
//! scripted.

use std::fmt::Write as _;

use crate::report::text::duration;

const WIDTH: f64 = 1060.0;
const LEFT: f64 = 74.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 30.0;
/// Points of a line: more than a screen can show are averaged.
const POINTS_MAX: usize = 300;
/// Columns of a heat map.
const COLUMNS_MAX: usize = 150;

/// A percentile curve: its name, its colour, and shares with microseconds.
pub type Curve<'a> = (&'a str, &'a str, &'a [(f64, u64)]);

/// One line of a plot.
pub struct Series<'a> {
    /// For the legend.
    pub name: &'a str,
    /// A variable of the style sheet, without dashes.
    pub colour: &'a str,
    /// What was meant to be, not what was.
    pub dashed: bool,
    /// One value for each slot.
    pub values: Vec<f64>,
}

/// A plot area of a given height.
struct Frame {
    height: f64,
    width: f64,
}

impl Frame {
    fn x(&self, share: f64) -> f64 {
        LEFT + share * (self.width - LEFT - RIGHT)
    }

    fn y(&self, share: f64) -> f64 {
        TOP + (1.0 - share) * (self.height - TOP - BOTTOM)
    }

    fn open(&self, label: &str) -> String {
        format!(
            "<svg viewBox=\"0 0 {:.0} {:.0}\" role=\"img\" aria-label=\"{label}\">\n",
            self.width, self.height
        )
    }

    fn across(&self, svg: &mut String, share: f64, text: &str) {
        let (left, right, y) = (self.x(0.0), self.x(1.0), self.y(share));
        let _ = writeln!(
            svg,
            "<line class=\"grid\" x1=\"{left:.1}\" x2=\"{right:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{text}</text>",
            left - 8.0,
            y + 4.0
        );
    }

    fn below(&self, svg: &mut String, share: f64, text: &str, line: bool) {
        let (x, bottom) = (self.x(share), self.y(0.0));
        if line {
            let _ = writeln!(
                svg,
                "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP:.1}\" y2=\"{bottom:.1}\"/>"
            );
        }
        let _ = writeln!(
            svg,
            "<text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"{}\">{text}</text>",
            bottom + 18.0,
            if share > 0.97 { "end" } else { "middle" }
        );
    }

    fn seconds(&self, svg: &mut String, seconds: f64) {
        let step = step(seconds, 8.0).max(1.0);
        let mut at = 0.0;
        while at <= seconds {
            self.below(svg, if seconds > 0.0 { at / seconds } else { 0.0 }, &clock(at), false);
            at += step;
        }
    }
}

fn clock(seconds: f64) -> String {
    match seconds as u64 {
        seconds @ 0..600 => format!("{seconds} s"),
        seconds @ 600..36_000 => format!("{} min", seconds / 60),
        seconds => format!("{:.1} h", seconds as f64 / 3600.0),
    }
}

/// A round distance between grid lines: 1, 2 or 5 times a power of ten.
fn step(span: f64, lines: f64) -> f64 {
    let raw = (span / lines).max(1e-9);
    let power = 10f64.powf(raw.log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|factor| factor * power).find(|step| *step >= raw).unwrap_or(raw)
}

/// 1234567 as 1,234,567.
pub fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn averaged(values: &[f64], most: usize) -> Vec<f64> {
    let width = values.len().div_ceil(most).max(1);
    values.chunks(width).map(|part| part.iter().sum::<f64>() / part.len() as f64).collect()
}

/// The names and colours of the series that have values.
pub fn legend(series: &[(&str, &str)]) -> String {
    let mut text = String::from("<div class=\"legend\">");
    for (name, colour) in series {
        let _ = write!(text, "<span><i style=\"background:var(--{colour})\"></i>{name}</span>");
    }
    text + "</div>\n"
}

/// Rates over time.
pub fn lines(series: &[Series<'_>], seconds_per_value: f64) -> String {
    let frame = Frame { height: 300.0, width: WIDTH };
    let top = series.iter().flat_map(|line| &line.values).fold(1.0f64, |top, value| top.max(*value)) * 1.06;
    let count = series.iter().map(|line| line.values.len()).max().unwrap_or(0);
    let seconds = count as f64 * seconds_per_value;
    let mut svg = frame.open("messages per second over time");
    let step = step(top, 5.0);
    let mut at = 0.0;
    while at <= top {
        frame.across(&mut svg, at / top, &grouped(at as u64));
        at += step;
    }
    frame.seconds(&mut svg, seconds);
    for line in series {
        let values = averaged(&line.values, POINTS_MAX);
        let mut points = String::new();
        for (index, value) in values.iter().enumerate() {
            // A value is of its whole slot, so it stands in its middle.
            let x = frame.x((index as f64 + 0.5) / values.len() as f64);
            let _ = write!(points, "{x:.1},{:.1} ", frame.y(value / top));
        }
        let class = if line.dashed { "series dashed" } else { "series" };
        let _ = writeln!(
            svg,
            "<polyline class=\"{class}\" stroke=\"var(--{})\" points=\"{}\"><title>{}</title></polyline>",
            line.colour,
            points.trim_end(),
            line.name
        );
    }
    svg + "</svg>\n"
}

/// Latency by percentile: the axis below counts nines, both are logarithmic. Points are shares and microseconds.
pub fn percentiles(curves: &[Curve<'_>]) -> String {
    let frame = Frame { height: 340.0, width: WIDTH };
    let all = || curves.iter().flat_map(|(_, _, points)| points.iter());
    let nines = |share: f64| if share >= 1.0 { f64::MAX } else { -(1.0 - share).log10() };
    let most = all().map(|(share, _)| nines(*share)).filter(|value| *value < 9.0).fold(1.0, f64::max);
    let (low, high) = span(all().map(|(_, micros)| *micros));
    let mut svg = frame.open("latency by percentile");
    decades(&frame, &mut svg, low, high);
    for (share, text) in [
        (0.0, "0 %"),
        (0.5, "50 %"),
        (0.9, "90 %"),
        (0.99, "99 %"),
        (0.999, "99.9 %"),
        (0.9999, "99.99 %"),
        (0.99999, "99.999 %"),
    ] {
        if nines(share) <= most {
            frame.below(&mut svg, nines(share) / most, text, true);
        }
    }
    for (name, colour, points) in curves {
        let mut path = String::new();
        for (share, micros) in *points {
            let x = frame.x((nines(*share) / most).min(1.0));
            let y = frame.y(height(*micros, low, high));
            let _ = write!(path, "{x:.1},{y:.1} ");
        }
        let _ = writeln!(
            svg,
            "<polyline class=\"series\" stroke=\"var(--{colour})\" points=\"{}\"><title>{name}</title></polyline>",
            path.trim_end()
        );
    }
    svg + "</svg>\n"
}

/// Powers of ten around all values.
fn span(values: impl Iterator<Item = u64>) -> (f64, f64) {
    let (low, high) =
        values.fold((u64::MAX, 1), |(low, high), value| (low.min(value.max(1)), high.max(value)));
    let low = (low.min(high) as f64).log10().floor();
    (low, ((high as f64).log10().ceil()).max(low + 1.0))
}

fn height(micros: u64, low: f64, high: f64) -> f64 {
    (((micros.max(1) as f64).log10() - low) / (high - low)).clamp(0.0, 1.0)
}

fn decades(frame: &Frame, svg: &mut String, low: f64, high: f64) {
    let mut power = low;
    while power <= high {
        let micros = 10f64.powf(power) as u64;
        let text = match micros {
            0..1_000 => format!("{micros} µs"),
            1_000..1_000_000 => format!("{} ms", micros / 1_000),
            _ => format!("{} s", micros / 1_000_000),
        };
        frame.across(svg, (power - low) / (high - low), &text);
        power += 1.0;
    }
}

/// Where the messages of each moment lie: darker is more. `slots` hold counts by bucket, bucket `b` ends at `end(b)`.
pub fn heat(slots: &[Vec<(u16, u32)>], seconds_per_slot: f64, end: fn(usize) -> u64) -> String {
    // Two buckets make a row, several slots a column, so that a cell can be seen.
    let width = slots.len().div_ceil(COLUMNS_MAX).max(1);
    let columns = slots.len().div_ceil(width).max(1);
    let mut cells = std::collections::BTreeMap::<(usize, usize), u64>::new();
    for (index, slot) in slots.iter().enumerate() {
        for (bucket, count) in slot {
            *cells.entry((index / width, usize::from(*bucket) / 2)).or_default() += u64::from(*count);
        }
    }
    let frame = Frame { height: 320.0, width: WIDTH };
    let row_end = |row: usize| end(row * 2 + 1);
    let row_start = |row: usize| if row == 0 { 1 } else { end(row * 2 - 1) };
    let rows = || cells.keys().map(|(_, row)| *row);
    let (low, high) = span(rows().flat_map(|row| [row_start(row), row_end(row)]));
    let most = cells.values().copied().max().unwrap_or(1) as f64;
    let mut svg = frame.open("latency over time");
    decades(&frame, &mut svg, low, high);
    frame.seconds(&mut svg, slots.len() as f64 * seconds_per_slot);
    svg += "<g class=\"heat\">\n";
    for ((column, row), count) in &cells {
        let (left, right) =
            (frame.x(*column as f64 / columns as f64), frame.x((column + 1) as f64 / columns as f64));
        let bottom = frame.y(height(row_start(*row), low, high));
        let top = frame.y(height(row_end(*row), low, high));
        // The square root keeps the few slow ones visible beside the many quick ones.
        let shade = 0.08 + 0.92 * (*count as f64 / most).sqrt();
        let _ = writeln!(
            svg,
            "<rect x=\"{left:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill-opacity=\"{shade:.2}\"><title>{} messages up to {} at {}</title></rect>",
            right - left,
            bottom - top,
            grouped(*count),
            duration(row_end(*row)),
            clock((column * width) as f64 * seconds_per_slot)
        );
    }
    svg + "</g>\n</svg>\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::timeline::bucket_end;

    #[test]
    fn steps_are_round_and_numbers_are_grouped() {
        assert_eq!([step(10.0, 5.0), step(7_300.0, 5.0), step(0.0, 5.0) * 1e9], [2.0, 2_000.0, 1.0]);
        assert_eq!([0, 999, 1_000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn plots_of_nothing_and_of_one_value_hold_only_numbers() {
        let one = |values| Series { name: "x", colour: "a", dashed: false, values };
        for svg in [
            lines(&[], 1.0),
            lines(&[one(vec![])], 1.0),
            lines(&[one(vec![5.0])], 1.0),
            percentiles(&[]),
            percentiles(&[("x", "a", &[(1.0, 5)])]),
            heat(&[], 1.0, bucket_end),
            heat(&[vec![(255, 1)], vec![(0, 7)]], 1.0, bucket_end),
        ] {
            assert!(svg.ends_with("</svg>\n") && !svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
    }

    #[test]
    fn a_week_is_drawn_with_as_few_marks_as_a_minute() {
        let values = vec![1.0; 7_200];
        let svg = lines(&[Series { name: "x", colour: "a", dashed: false, values }], 84.0);
        assert!(svg.matches(',').count() < 400);
        let slots = vec![vec![(80, 1), (81, 1), (120, 2)]; 7_200];
        assert!(heat(&slots, 84.0, bucket_end).matches("<rect").count() <= 2 * COLUMNS_MAX);
    }
}
