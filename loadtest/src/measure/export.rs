//! PURE. Files for other tools: HdrHistogram's percentile text (`.hgrm`), which its plotter and many others read, and
//! one CSV line for each second.

use std::fmt::Write as _;

use crate::measure::phase::{Latency, Phase, Phases};
use crate::measure::timeline::Timeline;

/// A percentile distribution in HdrHistogram's text form, in milliseconds.
pub fn hgrm(histogram: &Latency) -> String {
    let mut text = String::from("       Value     Percentile TotalCount 1/(1-Percentile)\n\n");
    let mut count = 0;
    for step in histogram.iter_quantiles(5) {
        count += step.count_since_last_iteration();
        let quantile = step.quantile_iterated_to();
        let value = step.value_iterated_to() as f64 / 1e3;
        let _ = if quantile < 1.0 {
            writeln!(text, "{value:12.3} {quantile:14.12} {count:10} {:14.2}", 1.0 / (1.0 - quantile))
        } else {
            writeln!(text, "{value:12.3} {quantile:14.12} {count:10}")
        };
    }
    let _ = writeln!(
        text,
        "#[Mean    = {:12.3}, StdDeviation   = {:12.3}]\n#[Max     = {:12.3}, Total count    = {:12}]\n\
         #[Buckets = {:12}, SubBuckets     = {:12}]",
        histogram.mean() / 1e3,
        histogram.stdev() / 1e3,
        histogram.max() as f64 / 1e3,
        histogram.len(),
        21,
        2048
    );
    text
}

/// File name and content of each phase that has values: `NAME.hgrm`, and `NAME.intended.hgrm` in open loop.
pub fn hgrm_files(phases: &Phases) -> Vec<(String, String)> {
    let mut files = Vec::new();
    for phase in Phase::ALL {
        let name = phase.name().replace(' ', "-").to_ascii_lowercase();
        for (histogram, kind) in [(phases.service(phase), ""), (phases.intended(phase), ".intended")] {
            if !histogram.is_empty() {
                files.push((format!("{name}{kind}.hgrm"), hgrm(histogram)));
            }
        }
    }
    files
}

/// One line for each slot. Latencies in microseconds, empty where nothing was accepted.
pub fn csv(timeline: &Timeline) -> String {
    let mut text = String::from(
        "second,intended,begun,accepted,refused,lost,connection_errors,arrived,sink_refused,lateness_max_us,\
         p50_us,p90_us,p99_us,p99_9_us,max_us\n",
    );
    for (index, slot) in timeline.slots().iter().enumerate() {
        let _ = write!(
            text,
            "{},{},{},{},{},{},{},{},{},{}",
            index as u64 * timeline.seconds(),
            slot.intended,
            slot.begun,
            slot.accepted,
            slot.refused,
            slot.lost,
            slot.connection_errors,
            slot.arrived,
            slot.sink_refused,
            slot.lateness_max
        );
        for quantile in [0.5, 0.9, 0.99, 0.999, 1.0] {
            let _ = match slot.quantile(quantile) {
                Some(micros) => write!(text, ",{micros}"),
                None => write!(text, ","),
            };
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_distribution_ends_with_its_maximum_and_the_whole_count() {
        let mut phases = Phases::default();
        (1..=1000).for_each(|micros| phases.record(Phase::EndOfData, micros * 1000, None));
        let files = hgrm_files(&phases);
        assert_eq!(files.len(), 1);
        assert_eq!(files[0].0, "end-of-data.hgrm");
        let lines: Vec<&str> = files[0].1.lines().filter(|line| !line.starts_with('#')).collect();
        let last: Vec<&str> = lines[lines.len() - 1].split_whitespace().collect();
        assert_eq!((last[1], last[2], last.len()), ("1.000000000000", "1000", 3));
        assert!(last[0].starts_with("1000"), "{last:?}");
    }

    #[test]
    fn csv_has_a_line_for_each_second_with_all_columns() {
        let mut timeline = Timeline::default();
        timeline.begin(0);
        timeline.at(2_500_000).record(700);
        let text = csv(&timeline);
        let columns: Vec<usize> = text.lines().map(|line| line.split(',').count()).collect();
        assert_eq!(columns, [15; 4]);
        assert!(text.lines().nth(1).is_some_and(|line| line.ends_with(",,,,,")), "{text}");
    }
}
