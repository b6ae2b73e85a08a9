//! What the spool gets from a disk: measured, kept as a profile, shown as a table and as a page.

mod estimate;
pub mod measure;
pub mod profile;

use std::fmt::Write as _;
use std::path::Path;

use ringpost_load::page::chart;

use crate::host::{Host, Seen};
use crate::plot::{self, Line};
use crate::units;
use measure::Measured;
use profile::{BATCHES, CPU_WAIT_WORTH_TELLING, Cell, Latency, Profile, VERSION, Way};

/// Colours of the ways, in their order.
const COLOURS: [&str; 4] = ["a", "b", "c", "d"];

/// Measures the disk under `directory`.
///
/// # Errors
/// When there is no room, or the file system cannot do what the relay does there.
pub fn run(directory: &Path, seconds: f64, host: &Host) -> Result<(Profile, Measured), String> {
    let need = measure::bytes_needed();
    if let Seen::Value(free) = host.disk.free
        && free < need
    {
        let (free, need) = (units::size(free), units::size(need));
        return Err(format!("{}: {free} are free, and measuring needs {need}", directory.display()));
    }
    let bar = indicatif::ProgressBar::new(1000);
    let style = indicatif::ProgressStyle::with_template("{bar:30} {elapsed}, {eta} left  {msg}");
    bar.set_style(style.expect("a constant template"));
    let mut tell = |share: f64, what: &str| {
        bar.set_position((share * 1000.0) as u64);
        bar.set_message(what.to_owned());
    };
    let (begin, waited) = (std::time::Instant::now(), waited_for_cpu());
    let measured = measure::measure(directory, seconds, &mut tell).map_err(|error| {
        format!(
            "{}: {error}; it must be a directory that you may write, on a file system with O_DIRECT and O_TMPFILE (ext4, XFS)",
            directory.display()
        )
    })?;
    bar.finish_and_clear();
    let one = |way| {
        measured.cells.iter().find(|cell| cell.way == way && cell.batch == 1).map(|cell| cell.latency.clone())
    };
    let names = |devices: &Vec<crate::host::disk::Device>| {
        devices.iter().map(|device| device.name.as_str()).collect::<Vec<_>>().join(", ")
    };
    let profile = Profile {
        version: VERSION,
        directory: host.disk.directory.clone(),
        device: host.disk.devices.show(names),
        file_system: host.disk.file_system.show(String::clone),
        kernel: host.kernel.release.show(String::clone),
        seconds: begin.elapsed().as_secs_f64().round(),
        cpu_wait_share: (waited_for_cpu() - waited) / begin.elapsed().as_secs_f64(),
        relay_commit: one(Way::DirectZeroed).unwrap_or_default(),
        fdatasync: one(Way::BufferedZeroed).unwrap_or_default(),
        cells: measured.cells.clone(),
        parallel: measured.parallel.clone(),
    };
    Ok((profile, measured))
}

/// Seconds in which this thread was ready to run and had no CPU.
fn waited_for_cpu() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split_whitespace().nth(1).and_then(|nanos| nanos.parse::<f64>().ok()).unwrap_or(0.0) / 1e9
}

/// The profile as tables for people.
pub fn text(profile: &Profile) -> String {
    // Writing to a String cannot fail.
    let mut text = format!("{} on {} ({})\n\n", profile.directory, profile.device, profile.file_system);
    let _ = writeln!(
        text,
        "latency of 4 KiB           {:>9} {:>9} {:>9} {:>9} {:>9}",
        "p50", "p90", "p99", "p99.9", "max"
    );
    for (name, latency) in
        [("the relay's commit", &profile.relay_commit), ("write and fdatasync", &profile.fdatasync)]
    {
        let shown = percentiles(latency).map(|micros| format!("{:>9}", units::micros(micros))).join(" ");
        let _ = writeln!(text, "  {name:24} {shown}");
    }
    let _ = writeln!(text, "\nrecords/s by batch  {}", BATCHES.map(|batch| format!("{batch:>9}")).join(""));
    for way in Way::ALL {
        let rates: String =
            of(profile, way).map(|cell| format!("{:>9.0}", cell.records_per_second)).collect();
        let (kind, space) = (
            if way.is_direct() { "direct" } else { "buffered" },
            if way.is_extending() { "growing" } else { "zeroed" },
        );
        let _ = writeln!(text, "  {kind:8} {space:8} {rates}");
    }
    let _ = writeln!(text, "\nlogs at once, batches of {}", profile::PARALLEL_BATCH);
    for row in &profile.parallel {
        let p99 = units::micros(row.latency.p99_micros);
        let _ = writeln!(
            text,
            "  {:2} logs {:>9.0} records/s, p99 of a batch {p99}",
            row.logs, row.records_per_second
        );
    }
    if profile.cpu_wait_share > CPU_WAIT_WORTH_TELLING {
        let share = 100.0 * profile.cpu_wait_share;
        let _ = writeln!(
            text,
            "\nmind: the measuring thread had no CPU for {share:.0} % of the time, and latencies include that wait: measure again on a quiet host"
        );
    }
    text
}

fn percentiles(latency: &Latency) -> [f64; 5] {
    [latency.p50_micros, latency.p90_micros, latency.p99_micros, latency.p99_9_micros, latency.max_micros]
}

fn of(profile: &Profile, way: Way) -> impl Iterator<Item = &Cell> {
    profile.cells.iter().filter(move |cell| cell.way == way)
}

/// The page with the plots.
pub fn page(profile: &Profile, measured: &Measured) -> String {
    let mut ways = Vec::new();
    for (way, colour) in Way::ALL.into_iter().zip(COLOURS) {
        let points = of(profile, way).map(|cell| (cell.batch as f64, cell.records_per_second)).collect();
        ways.push(Line { name: way.name(), colour, points, dots: false });
    }
    let curves: Vec<chart::Curve<'_>> = measured
        .curves
        .iter()
        .zip(COLOURS)
        .map(|((way, points), colour)| (way.name(), colour, points.as_slice()))
        .collect();
    let names: Vec<_> = curves.iter().map(|(name, colour, _)| (*name, *colour)).collect();
    let logs = profile.parallel.iter().map(|row| (row.logs as f64, row.records_per_second)).collect();
    let logs = [Line { name: "all logs", colour: "a", points: logs, dots: false }];
    let sections = [
        plot::section(
            "How long one commit takes",
            "One record of 4 KiB made durable, by percentile; each axis is logarithmic.",
            &(chart::legend(&names) + &chart::percentiles(&curves)),
        ),
        plot::section(
            "What sharing a commit gains",
            "Records of 4 KiB made durable per second by one log, with so many in each batch.",
            &plot::doubling(&ways, "records of a batch"),
        ),
        plot::section(
            "What several logs gain",
            "Records per second by all of them, each with batches of 8 the relay's way. The relay has one log for each shard.",
            &plot::doubling(&logs, "logs at once"),
        ),
    ]
    .concat();
    let below = format!(
        "{} on {} ({}), Linux {}",
        profile.directory, profile.device, profile.file_system, profile.kernel
    );
    plot::page("Disk of the spool", &below, &sections)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_page_show_every_way_and_batch() {
        let profile = profile::tests::profile();
        let measured = Measured {
            cells: profile.cells.clone(),
            parallel: profile.parallel.clone(),
            curves: Way::ALL.map(|way| (way, vec![(0.5, 100), (0.99, 200)])).into(),
        };
        let text = text(&profile);
        assert!(text.contains("direct   zeroed") && text.contains("buffered growing"), "{text}");
        let last = text.lines().find(|line| line.contains("direct   zeroed")).expect("the relay's way");
        assert_eq!(last.split_whitespace().count(), 2 + BATCHES.len());
        let page = page(&profile, &measured);
        assert_eq!((page.matches("<svg").count(), page.matches("</svg>").count()), (3, 3));
        for way in Way::ALL {
            assert!(page.contains(way.name()));
        }
    }
}
