//! PURE. What a sweep came to: the recommended configuration with its evidence, a table, a page.

use std::fmt::Write as _;

use super::search::Known;
use super::space::{Point, Wiring};
use super::state::{By, State};
use super::trial::{Purpose, Run};
use crate::plot::{self, Field};
use crate::units;

/// A difference that is not worth a key in the configuration, as a share.
const WORTH_A_KEY: f64 = 0.02;

/// Mean of some runs with half the width of its 95 % interval; that is unknown of a single run.
pub fn interval(values: &[f64]) -> (f64, Option<f64>) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count.max(1.0);
    if values.len() < 2 {
        return (mean, None);
    }
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0);
    // Student's t, 97.5 %, by degrees of freedom.
    let t =
        [12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26].get(values.len() - 2).copied().unwrap_or(2.1);
    (mean, Some(t * (variance / count).sqrt()))
}

/// The runs that searched.
pub fn searched(state: &State) -> impl Iterator<Item = &Run> {
    state.runs.iter().filter(|run| run.purpose == Purpose::Search)
}

/// A sweep, its end, and what is known of each point.
pub struct Outcome<'a> {
    /// The runs.
    pub state: &'a State,
    /// All points.
    pub known: &'a [Known],
    /// The one to take.
    pub best: Known,
    /// Why the search ended.
    pub reason: &'a str,
}

impl Outcome<'_> {
    fn by(&self) -> By {
        self.state.settings.by
    }

    fn runs_at(&self, point: Point) -> Vec<&Run> {
        searched(self.state).filter(|run| run.point == point).collect()
    }

    /// Whether the generator, or others, took CPUs that the relay would have had.
    fn shared_cpus(&self) -> bool {
        searched(self.state).any(|run| run.machine_busy > 0.9 || run.generator_was_the_limit)
    }

    fn keeps_bound(&self) -> bool {
        self.best.p99 <= self.state.settings.p99_max
    }

    /// For people, in some lines.
    pub fn text(&self) -> String {
        let best = self.best.point;
        let runs = self.runs_at(best);
        let spread = |of: &dyn Fn(&Run) -> f64, show: &dyn Fn(f64) -> String| {
            let (mean, half) = interval(&runs.iter().map(|run| of(run)).collect::<Vec<_>>());
            half.map_or_else(|| show(mean), |half| format!("{} ± {}", show(mean), show(half)))
        };
        let mut text = format!("best        {best}\n");
        let count = runs.len();
        let rate = spread(&|run| run.messages_per_second, &|rate| format!("{rate:.0}"));
        let cpu = spread(&|run| run.cpu_micros, &|micros| format!("{micros:.1}"));
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "measured    {rate} messages/s, {cpu} µs CPU a message, p99 {} ({count} runs, 95 %)",
            units::micros(self.best.p99)
        );
        let _ = writeln!(
            text,
            "searched    {} runs of {} points: {}",
            searched(self.state).count(),
            self.known.len(),
            self.reason
        );
        if !self.keeps_bound() {
            let _ = writeln!(text, "bound       missed by every point that was run: this one is nearest");
        }
        if self.shared_cpus() {
            text += "mind        the generator shared the CPUs: messages/s are what relay and generator can do together; --by cpu goes by the relay's own CPU\n";
        }
        text
    }

    /// The part of a configuration that this sweep is about. Keys that make no difference are left out, and it says so.
    pub fn recommended(&self) -> String {
        let settings = &self.state.settings;
        let best = self.best.point;
        let text: String = self.text().lines().map(|line| format!("# {line}\n")).collect();
        let mut file = format!(
            "# Recommended by ringpost-tune sweep on {}.\n# Messages of {} bytes; best by {}, p99 up to {}.\n{text}\n[threads]\n",
            settings.host,
            settings.size,
            self.by().unit(),
            units::micros(settings.p99_max)
        );
        let shards = self.rivals(|point| *point == Point { shards: point.shards, ..best });
        let workers = self.rivals(|point| *point == Point { workers: point.workers, ..best });
        let _ = writeln!(file, "{shards}shards = {}\n{workers}workers = {}", best.shards, best.workers);
        let other = if best.wiring == Wiring::Shared { Wiring::Split } else { Wiring::Shared };
        file += &self.choice("wiring", &format!("\"{}\"", best.wiring.name()), other.name(), |point| {
            point.wiring == other && point.pin == best.pin && point.connections == best.connections
        });
        file += &self.choice("pin", &best.pin.to_string(), &(!best.pin).to_string(), |point| {
            *point == Point { pin: !best.pin, ..best }
        });
        file
    }

    /// The best of the points that fit, as a share of the best of all.
    fn share(&self, fits: &dyn Fn(&Point) -> bool) -> Option<&Known> {
        self.known
            .iter()
            .filter(|known| fits(&known.point))
            .max_by(|one, two| one.score.total_cmp(&two.score))
    }

    /// A comment with the nearest rivals of a count.
    fn rivals(&self, fits: impl Fn(&Point) -> bool) -> String {
        let others = self.known.iter().filter(|known| fits(&known.point) && known.point != self.best.point);
        let of = |known: &Known| {
            let kind = if known.runs > 0 { "measured" } else { "estimated" };
            let change = 100.0 * (known.score / self.best.score - 1.0);
            format!("{}×{} {change:+.0} % ({kind})", known.point.shards, known.point.workers)
        };
        let list: Vec<String> = others.map(of).collect();
        if list.is_empty() { String::new() } else { format!("# shards×workers: {}\n", list.join(", ")) }
    }

    /// A key with two values: left out where the other is as good within the noise.
    fn choice(&self, key: &str, value: &str, other: &str, fits: impl Fn(&Point) -> bool) -> String {
        let Some(rival) = self.share(&fits) else { return String::new() };
        let change = 1.0 - rival.score / self.best.score;
        let noise = (rival.deviation.powi(2) + self.best.deviation.powi(2)).sqrt();
        let kind = if rival.runs > 0 { "measured" } else { "estimated" };
        let evidence =
            format!("{other}: {:+.1} % ± {:.1} ({kind}, at its best counts)", -100.0 * change, 200.0 * noise);
        match change > WORTH_A_KEY && change > noise {
            true => format!("# {evidence}\n{key} = {value}\n"),
            false => format!("# {key} is left at its default: no difference was shown. {evidence}\n"),
        }
    }

    /// One line for each run.
    pub fn csv(&self) -> String {
        let mut text = "purpose,wiring,shards,workers,pin,connections,size,messages_per_second,p50_micros,p99_micros,cpu_micros,generator_micros,machine_busy,score\n".to_owned();
        for run in &self.state.runs {
            let Point { wiring, shards, workers, pin, connections } = run.point;
            let purpose = if run.purpose == Purpose::Search { "search" } else { "costs" };
            let _ = writeln!(
                text,
                "{purpose},{},{shards},{workers},{pin},{connections},{},{:.1},{:.0},{:.0},{:.2},{:.2},{:.3},{:.1}",
                wiring.name(),
                run.size,
                run.messages_per_second,
                run.p50_micros,
                run.p99_micros,
                run.cpu_micros,
                run.generator_micros,
                run.machine_busy,
                self.state.settings.score(run)
            );
        }
        text
    }

    /// The page: the surface of each wiring, and all runs.
    pub fn page(&self) -> String {
        let mut sections = String::new();
        sections += &plot::section("Result", "", &plot::lines_of_text(&self.text()));
        for wiring in [Wiring::Shared, Wiring::Split] {
            let hint = format!(
                "{}, {} at {} connections. ● was run, the rest is the surface through the runs; the red frame is the best.",
                self.by().unit(),
                if self.best.point.pin { "pinned" } else { "not pinned" },
                self.best.point.connections
            );
            sections += &plot::section(&format!("Wiring {}", wiring.name()), &hint, &self.surface(wiring));
        }
        let rows: Vec<Vec<String>> = self.state.runs.iter().map(row).collect();
        let head =
            ["layout", "messages/s", "p50", "p99", "CPU a message", "generator's", "CPUs busy", "bytes"];
        sections +=
            &plot::section("Runs", "In the order in which they were made.", &plot::table(&head, &rows));
        plot::page("Sweep of the relay's layout", &self.state.settings.host, &sections)
    }

    fn surface(&self, wiring: Wiring) -> String {
        let counts = self.state.settings.space.counts();
        let best = self.best.point;
        // Both wirings by one scale.
        let shown = self
            .known
            .iter()
            .filter(|known| known.point.pin == best.pin && known.point.connections == best.connections);
        let (low, high) = shown
            .fold((f64::MAX, f64::MIN), |(low, high), known| (low.min(known.score), high.max(known.score)));
        let field = |shards, workers| {
            let point = Point { wiring, shards, workers, ..best };
            let known = self.known.iter().find(|known| known.point == point)?;
            Some(Field {
                value: known.score,
                shade: (known.score - low) / (high - low).max(1e-9),
                is_measured: known.runs > 0,
                is_best: point == best,
                title: format!(
                    "{point}: {:.0} ± {:.0} %, p99 {}",
                    known.score,
                    200.0 * known.deviation,
                    units::micros(known.p99)
                ),
            })
        };
        let names: Vec<String> = counts.iter().map(u16::to_string).collect();
        let rows: Vec<Vec<Option<Field>>> = counts
            .iter()
            .map(|shards| counts.iter().map(|workers| field(*shards, *workers)).collect())
            .collect();
        plot::grid(&names, &names, "shards", "workers", &rows)
    }
}

fn row(run: &Run) -> Vec<String> {
    vec![
        run.point.to_string(),
        format!("{:.0}", run.messages_per_second),
        units::micros(run.p50_micros),
        units::micros(run.p99_micros),
        units::micros(run.cpu_micros),
        units::micros(run.generator_micros),
        format!("{:.0} %", 100.0 * run.machine_busy),
        run.size.to_string(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sweep::search::{Rules, Search, Told};
    use crate::sweep::state::tests::{run, settings};

    fn state() -> State {
        let mut state = State::new(settings());
        for wiring in [Wiring::Shared, Wiring::Split] {
            for (shards, workers) in [(1, 1), (2, 2), (2, 2)] {
                state.runs.push(run(wiring, shards, workers, true));
            }
        }
        state.runs.push(run(Wiring::Shared, 2, 2, false));
        state
    }

    fn with<T>(state: &State, look: impl FnOnce(&Outcome<'_>) -> T) -> T {
        let rules = Rules { runs_max: 20, repeats: 3, tolerance: 0.01, p99_max: settings().p99_max };
        let mut search = Search::new(&state.settings.space, rules, |point| point.expected(2.0));
        for run in searched(state) {
            search.tell(Told { point: run.point, score: state.settings.score(run), p99: run.p99_micros });
        }
        let known = search.known();
        look(&Outcome { state, known: &known, best: search.best(), reason: "enough" })
    }

    #[test]
    fn what_is_recommended_is_a_configuration_that_the_relay_takes() {
        let text = with(&state(), |outcome| outcome.recommended());
        let config = ringpost::config::Config::parse(&text).expect("valid");
        assert_eq!((config.threads.shards, config.threads.workers), (2, 2), "{text}");
        assert_eq!(config.threads.wiring, ringpost::config::Wiring::Shared, "{text}");
        assert!(text.contains("# split: -"), "the evidence: {text}");
    }

    #[test]
    fn a_key_that_makes_no_difference_is_left_out_and_said() {
        let text = with(&state(), |outcome| outcome.recommended());
        assert!(!text.contains("\npin = ") && text.contains("# pin is left at its default"), "{text}");
    }

    #[test]
    fn a_generator_that_shared_the_cpus_and_a_bound_that_was_missed_are_said() {
        let mut late = state();
        assert!(with(&late, |outcome| outcome.text()).contains("the generator shared the CPUs"));
        assert!(!with(&late, |outcome| outcome.text()).contains("missed"));
        late.runs.iter_mut().for_each(|run| (run.p99_micros, run.machine_busy) = (1e6, 0.5));
        let text = with(&late, |outcome| outcome.text());
        assert!(text.contains("missed by every point") && !text.contains("shared the CPUs"), "{text}");
    }

    #[test]
    fn csv_and_page_have_every_run_and_both_surfaces() {
        let state = state();
        assert_eq!(with(&state, |outcome| outcome.csv()).lines().count(), 1 + state.runs.len());
        let page = with(&state, |outcome| outcome.page());
        assert_eq!((page.matches("<svg").count(), page.matches("<tr>").count()), (2, 1 + state.runs.len()));
        assert_eq!(page.matches("stroke=\"var(--bad)\"").count(), 1, "one best");
    }

    #[test]
    fn intervals_are_students() {
        assert_eq!(interval(&[5.0]), (5.0, None));
        let (mean, half) = interval(&[9.0, 10.0, 11.0]);
        assert!((mean - 10.0).abs() < 1e-9 && (half.expect("three") - 2.48).abs() < 0.01);
    }
}
