//! PURE. Pages and plots of this program: SVG as text in one self-contained file, with the style sheet of `ringpost-load`.

use std::fmt::Write as _;

use ringpost_load::page::chart::{grouped, legend};
use ringpost_load::page::{STYLE, escaped};

const WIDTH: f64 = 1060.0;
const LEFT: f64 = 74.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 44.0;

/// A page with a title, a line below it, and sections.
pub fn page(title: &str, below: &str, sections: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n\
         <header><h1>{title}</h1><p>{below}</p></header>\n{sections}</main>\n</body>\n</html>\n",
        title = escaped(title),
        below = escaped(below),
    )
}

/// A section with a heading, a hint and what it shows.
pub fn section(heading: &str, hint: &str, content: &str) -> String {
    format!(
        "<section><h2>{}</h2><p class=\"hint\">{}</p>{content}</section>\n",
        escaped(heading),
        escaped(hint)
    )
}

/// Lines of text, aligned as they are.
pub fn lines_of_text(text: &str) -> String {
    format!("<pre class=\"mono\">{}</pre>", escaped(text))
}

/// A table; the first column is text.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let cells = |kind: &str, cells: &mut dyn Iterator<Item = &str>| {
        cells.map(|cell| format!("<{kind}>{}</{kind}>", escaped(cell))).collect::<String>()
    };
    let mut text = format!("<table><tr>{}</tr>\n", cells("th", &mut head.iter().copied()));
    for row in rows {
        let _ = writeln!(text, "<tr>{}</tr>", cells("td", &mut row.iter().map(String::as_str)));
    }
    text + "</table>\n"
}

/// A line: its name, a colour of the style sheet, and its points.
pub struct Line<'a> {
    /// For the legend.
    pub name: &'a str,
    /// A variable of the style sheet, without dashes.
    pub colour: &'a str,
    /// Across and up; both above 0.
    pub points: Vec<(f64, f64)>,
    /// Single marks instead of a line.
    pub dots: bool,
}

/// Lines over counts that double: the axis below is logarithmic to 2, the one beside it begins at 0. `wide` names the former.
pub fn doubling(lines: &[Line<'_>], wide: &str) -> String {
    let points = || lines.iter().flat_map(|line| &line.points);
    let most = points().fold(2.0f64, |most, (x, _)| most.max(*x)).log2().ceil();
    let top = points().fold(1.0f64, |top, (_, y)| top.max(*y)) * 1.05;
    let x = |value: f64| LEFT + value.max(1.0).log2() / most * (WIDTH - LEFT - RIGHT);
    let height = 320.0;
    let y = |value: f64| TOP + (1.0 - value / top) * (height - TOP - BOTTOM);
    let names: Vec<_> = lines.iter().map(|line| (escaped(line.name), line.colour)).collect();
    let mut svg = legend(&names.iter().map(|(name, colour)| (name.as_str(), *colour)).collect::<Vec<_>>());
    let _ =
        writeln!(svg, "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{}\">", escaped(wide));
    for share in [0.0, 0.25, 0.5, 0.75, 1.0] {
        let (value, right) = (share * top, WIDTH - RIGHT);
        let _ = writeln!(
            svg,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{0:.1}\" y2=\"{0:.1}\"/>\
             <text x=\"{1}\" y=\"{2:.1}\" text-anchor=\"end\">{3}</text>",
            y(value),
            LEFT - 8.0,
            y(value) + 4.0,
            axis(value)
        );
    }
    for power in 0..=most as u32 {
        let (at, below) = (x(f64::from(power).exp2()), height - BOTTOM + 16.0);
        let _ = writeln!(
            svg,
            "<text x=\"{at:.1}\" y=\"{below}\" text-anchor=\"middle\">{}</text>",
            1u64 << power
        );
    }
    let (middle, below) = ((LEFT + WIDTH) / 2.0, height - 6.0);
    let _ =
        writeln!(svg, "<text x=\"{middle}\" y=\"{below}\" text-anchor=\"middle\">{}</text>", escaped(wide));
    for line in lines {
        mark(&mut svg, line, &|(across, up)| (x(across), y(up)));
    }
    svg + "</svg>\n"
}

fn axis(value: f64) -> String {
    if value > 0.0 && value < 20.0 { format!("{value:.1}") } else { grouped(value as u64) }
}

fn mark(svg: &mut String, line: &Line<'_>, place: &dyn Fn((f64, f64)) -> (f64, f64)) {
    if !line.dots {
        let path: String =
            line.points.iter().map(|point| place(*point)).map(|(x, y)| format!("{x:.1},{y:.1} ")).collect();
        let _ = writeln!(
            svg,
            "<polyline class=\"series\" stroke=\"var(--{})\" points=\"{}\"/>",
            line.colour,
            path.trim_end()
        );
    }
    for point in &line.points {
        let (x, y) = place(*point);
        let _ = writeln!(
            svg,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"var(--{})\"><title>{}: {} at {}</title></circle>",
            line.colour,
            escaped(line.name),
            axis(point.1),
            point.0
        );
    }
}

/// A field of a [`grid`].
#[derive(Clone, Debug, Default)]
pub struct Field {
    /// What it holds.
    pub value: f64,
    /// How dark it is, 0 to 1.
    pub shade: f64,
    /// Whether it was measured, or only estimated from its neighbours.
    pub is_measured: bool,
    /// Whether it is the one to take.
    pub is_best: bool,
    /// For the pointer.
    pub title: String,
}

/// A surface: rows by columns; `None` is not allowed there.
pub fn grid(
    rows: &[String],
    columns: &[String],
    beside: &str,
    below: &str,
    fields: &[Vec<Option<Field>>],
) -> String {
    let (width, height) = ((WIDTH - LEFT - RIGHT - 60.0) / columns.len().max(1) as f64, 30.0);
    let left = LEFT + 60.0;
    let bottom = TOP + height * rows.len() as f64;
    let mut svg =
        format!("<svg viewBox=\"0 0 {WIDTH} {:.0}\" role=\"img\" aria-label=\"surface\">\n", bottom + BOTTOM);
    for (row, (name, line)) in rows.iter().zip(fields).enumerate() {
        let y = TOP + row as f64 * height;
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{} {}</text>",
            left - 8.0,
            y + height / 2.0 + 4.0,
            escaped(name),
            escaped(beside)
        );
        for (column, field) in
            line.iter().enumerate().filter_map(|(column, field)| Some((column, field.as_ref()?)))
        {
            let x = left + column as f64 * width;
            let stroke = if field.is_best {
                "stroke=\"var(--bad)\" stroke-width=\"3\""
            } else {
                "stroke=\"var(--card)\""
            };
            let _ = writeln!(
                svg,
                "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" rx=\"3\" fill=\"var(--hot)\" fill-opacity=\"{:.2}\" {stroke}><title>{}</title></rect>\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\" style=\"fill:var(--ink)\">{}{}</text>",
                x + 1.0,
                y + 1.0,
                width - 2.0,
                height - 2.0,
                0.08 + 0.6 * field.shade,
                escaped(&field.title),
                x + width / 2.0,
                y + height / 2.0 + 4.0,
                axis(field.value),
                if field.is_measured { " ●" } else { "" }
            );
        }
    }
    for (column, name) in columns.iter().enumerate() {
        let x = left + (column as f64 + 0.5) * width;
        let _ = writeln!(
            svg,
            "<text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            bottom + 16.0,
            escaped(name)
        );
    }
    let _ = writeln!(
        svg,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
        (left + WIDTH) / 2.0,
        bottom + 34.0,
        escaped(below)
    );
    svg + "</svg>\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plots_of_nothing_and_of_one_value_hold_only_numbers() {
        let line = |points| Line { name: "a<b", colour: "a", points, dots: false };
        let field = Field { value: 3.0, ..Field::default() };
        for svg in [
            doubling(&[], "x"),
            doubling(&[line(vec![])], "x"),
            doubling(&[line(vec![(1.0, 0.0)])], "x"),
            grid(&[], &[], "", "", &[]),
            grid(&["1".into()], &["2".into()], "r", "c", &[vec![Some(field)]]),
            grid(&["1".into()], &["2".into()], "r", "c", &[vec![None]]),
        ] {
            assert!(svg.ends_with("</svg>\n") && !svg.contains("NaN") && !svg.contains("inf"), "{svg}");
            assert!(!svg.contains("a<b"), "{svg}");
        }
    }
}
