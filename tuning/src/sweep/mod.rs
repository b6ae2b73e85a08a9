//! Finds the best layout by running the relay: [`search`] says what to run next, [`trial`] runs it, [`state`] keeps it, [`outcome`] tells.

mod options;
pub mod outcome;
pub mod search;
pub mod space;
pub mod state;
pub mod surface;
pub mod trial;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use indicatif::{ProgressBar, ProgressStyle};

use crate::disk::profile::Profile;
pub use options::Options;
use outcome::Outcome;
use search::{Search, Step, Told};
use space::{Point, Wiring};
use state::{By, State};
use trial::{Failure, Purpose, Run};

/// The relay's CPU for a message that the first guess assumes, microseconds: what 2 cores of an AMD EPYC need. It matters
/// only beside the disk's bound.
const MESSAGE_MICROS: f64 = 60.0;
/// How many times larger the messages are from which the model learns what a byte costs.
const LARGER: u64 = 8;

/// How a sweep ended.
pub enum End {
    /// With a result, as lines for people.
    Found(String),
    /// It was stopped, and goes on when it is called again.
    Stopped,
}

/// Runs a sweep, or goes on with one.
///
/// # Errors
/// When a program is missing or a run fails; what was found until then is kept.
pub fn run(options: &Options, disk: Option<Profile>) -> Result<End, String> {
    let settings = options.settings()?;
    fs::create_dir_all(&options.out).map_err(|error| format!("{}: {error}", options.out.display()))?;
    let file = options.out.join("state.json");
    let mut state = State::resume(&file, settings)?;
    let bench = options.bench()?;
    let stop = stop_flag()?;
    let bar = bar(options, &state);
    let mut search = new_search(options, &state, disk);
    let one = |state: &mut State, point: Point, size: u64, purpose: Purpose| -> Result<Option<Run>, String> {
        bar.set_message(format!("{point}"));
        match trial::run(&bench, point, size, purpose, &stop) {
            Ok(run) => {
                state.runs.push(run.clone());
                state.save(&file)?;
                bar.inc(1);
                let (by, rate) = (state.settings.by, run.messages_per_second);
                let told = format!(
                    "{point}: {rate:.0} messages/s, {:.1} µs CPU, {:.0} {}",
                    run.cpu_micros,
                    state.settings.score(&run),
                    by.unit()
                );
                // Also where nobody watches the bar: a log shows how far it came.
                bar.suspend(|| eprintln!("{told}"));
                Ok(Some(run))
            }
            Err(Failure::Stopped) => Ok(None),
            Err(Failure::Failed(why)) => Err(format!("{point}: {why} (see {})", bench.directory.display())),
        }
    };
    let reason = loop {
        match next(options, &search, &state) {
            Step::Run(point) => {
                let size = state.settings.size;
                let Some(run) = one(&mut state, point, size, Purpose::Search)? else {
                    return Ok(End::Stopped);
                };
                search.tell(told(&run, &state));
            }
            Step::Done(reason) => break reason,
        }
    };
    for (point, size) in costs(&state, search.best().point) {
        if one(&mut state, point, size, Purpose::Costs)?.is_none() {
            return Ok(End::Stopped);
        }
    }
    bar.finish_and_clear();
    state.done = Some(reason.to_owned());
    state.save(&file)?;
    let known = search.known();
    write(&options.out, &Outcome { state: &state, known: &known, best: search.best(), reason })
        .map(End::Found)
}

/// Set by Ctrl-C and SIGTERM.
fn stop_flag() -> Result<Arc<AtomicBool>, String> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        signal_hook::flag::register(signal, stop.clone()).map_err(|error| error.to_string())?;
    }
    Ok(stop)
}

fn bar(options: &Options, state: &State) -> ProgressBar {
    // As many as there may be: it ends early when enough is known.
    let bar = ProgressBar::new(options.runs_max(&state.settings.space) as u64)
        .with_position(state.runs.len() as u64);
    let style = ProgressStyle::with_template(
        "{bar:30} {pos}/{len} runs at most, {elapsed}, {eta} left at most  {msg}",
    );
    bar.set_style(style.expect("a constant template"));
    bar.enable_steady_tick(std::time::Duration::from_secs(1));
    bar
}

/// A search that knows what has been run.
fn new_search(options: &Options, state: &State, disk: Option<Profile>) -> Search {
    let (cpus, by) = (state.settings.space.cpus, state.settings.by);
    let expected = move |point: &Point| match by {
        By::Throughput => throughput(point, cpus, disk.as_ref()),
        By::Cpu => point.expected(cpus),
    };
    let mut search = Search::new(&state.settings.space, options.rules(state), expected);
    for run in outcome::searched(state) {
        search.tell(told(run, state));
    }
    search
}

/// Messages per second by CPU, or by what the disk makes durable of them: each client waits for its commit, so a shard's
/// commit has at most as many messages as it has clients.
fn throughput(point: &Point, cpus: f64, disk: Option<&Profile>) -> f64 {
    let by_cpu = point.expected(cpus) * 1e6 / MESSAGE_MICROS;
    let shards = f64::from(point.shards);
    let by_disk =
        disk.map(|disk| disk.durable_rate(shards, (f64::from(point.connections) / shards).max(1.0)));
    by_disk.map_or(by_cpu, |by_disk| by_cpu.min(by_disk))
}

fn told(run: &Run, state: &State) -> Told {
    Told { point: run.point, score: state.settings.score(run), p99: run.p99_micros }
}

/// The search's step, or the next point of all, in rounds.
fn next(options: &Options, search: &Search, state: &State) -> Step {
    if !options.exhaustive {
        return search.next();
    }
    let points = state.settings.space.points();
    let done = outcome::searched(state).count();
    match done < points.len() * options.repeats {
        true => Step::Run(points[done % points.len()]),
        false => Step::Done("every point was run"),
    }
}

/// What the model wants beside the search: roles apart on one thread each, and larger messages; those not run yet.
fn costs(state: &State, best: Point) -> Vec<(Point, u64)> {
    let apart = Point { wiring: Wiring::Split, shards: 1, workers: 1, ..best };
    let alone = Point { wiring: Wiring::Shared, shards: 1, workers: 1, ..best };
    let size = state.settings.size;
    let wanted = [(alone, size), (apart, size), (apart, size * LARGER)];
    let is_new =
        |(point, size): &(Point, u64)| state.runs.iter().all(|run| (run.point, run.size) != (*point, *size));
    wanted.into_iter().filter(is_new).collect()
}

fn write(out: &Path, outcome: &Outcome<'_>) -> Result<String, String> {
    let mut text = outcome.text();
    for (name, content) in [
        ("recommended.toml", outcome.recommended()),
        ("runs.csv", outcome.csv()),
        ("report.html", outcome.page()),
    ] {
        let path = out.join(name);
        fs::write(&path, content).map_err(|error| format!("{}: {error}", path.display()))?;
        text += &format!("written     {}\n", path.display());
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::profile::tests::profile;

    #[test]
    fn a_slow_disk_bounds_what_is_expected_of_a_layout_with_few_clients() {
        let point = Point { wiring: Wiring::Shared, shards: 8, workers: 8, pin: true, connections: 8 };
        let mut slow = profile();
        slow.cells.iter_mut().for_each(|cell| cell.latency.mean_micros *= 100.0);
        let free = throughput(&point, 8.0, None);
        assert!(throughput(&point, 8.0, Some(&slow)) < free / 10.0);
        let many = Point { connections: 100_000, ..point };
        assert_eq!(throughput(&many, 8.0, Some(&profile())), free.min(profile().durable_rate(8.0, 12_500.0)));
    }

    #[test]
    fn runs_for_the_model_are_made_once() {
        let mut state = State::new(state::tests::settings());
        let best = Point { wiring: Wiring::Shared, shards: 2, workers: 2, pin: true, connections: 32 };
        assert_eq!(costs(&state, best).len(), 3);
        for (point, size) in costs(&state, best) {
            let run = state::tests::run(point.wiring, point.shards, point.workers, true);
            state.runs.push(Run { point, size, ..run });
        }
        assert_eq!(costs(&state, best), []);
    }
}
