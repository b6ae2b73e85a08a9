//! What a sweep has found so far, in a file that is whole after every run: a sweep that was stopped goes on from it.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::space::Space;
use super::trial::Run;

/// Version of the format.
const VERSION: u32 = 1;

/// The file's content, JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// Version of the format.
    pub version: u32,
    /// What decides whether runs can be compared.
    pub settings: Settings,
    /// In their order.
    pub runs: Vec<Run>,
    /// Why it ended, if it has.
    pub done: Option<String>,
}

/// Runs with the same settings can be compared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// What is tried.
    pub space: Space,
    /// Bytes of a message.
    pub size: u64,
    /// Seconds of a run.
    pub seconds: u64,
    /// What is to be best.
    pub by: By,
    /// Bound on p99, microseconds.
    pub p99_max: f64,
    /// Kernel and CPU model.
    pub host: String,
}

/// What is to be best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// Messages per second.
    Throughput,
    /// Messages per second that the relay's CPU for each message would allow if the CPUs were its alone: for hosts where the
    /// generator takes part of them, or others do.
    Cpu,
}

impl By {
    /// The score of a run on `cpus` CPUs: more is better.
    pub fn score(self, run: &Run, cpus: f64) -> f64 {
        match self {
            Self::Throughput => run.messages_per_second,
            Self::Cpu => run.point.capacity(cpus) * 1e6 / run.cpu_micros.max(1e-3),
        }
    }

    /// What a score counts.
    pub fn unit(self) -> &'static str {
        match self {
            Self::Throughput => "messages/s",
            Self::Cpu => "messages/s by CPU",
        }
    }
}

impl Settings {
    /// The score of a run.
    pub fn score(&self, run: &Run) -> f64 {
        self.by.score(run, self.space.cpus)
    }
}

impl State {
    /// Of a sweep that begins.
    pub fn new(settings: Settings) -> Self {
        Self { version: VERSION, settings, runs: Vec::new(), done: None }
    }

    /// What the file holds; `None` if there is none.
    ///
    /// # Errors
    /// When it cannot be read, or is none of this version.
    pub fn load(path: &Path) -> Result<Option<Self>, String> {
        let text = match fs::read_to_string(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            read => read.map_err(|error| format!("{}: {error}", path.display()))?,
        };
        let state: Self = serde_json::from_str(&text).map_err(|error| {
            format!("{}: {error}; it is no state of a sweep of this version", path.display())
        })?;
        match state.version {
            VERSION => Ok(Some(state)),
            other => Err(format!("{}: version {other}, and this program reads {VERSION}", path.display())),
        }
    }

    /// That of `path` if it is of the same settings, or a new one.
    ///
    /// # Errors
    /// When the file is of another sweep: its runs must not be thrown away unasked.
    pub fn resume(path: &Path, settings: Settings) -> Result<Self, String> {
        match Self::load(path)? {
            None => Ok(Self::new(settings)),
            Some(state) if state.settings == settings => Ok(state),
            Some(_) => Err(format!(
                "{} is of a sweep with other settings or of another host: give those again, name another --out, or remove it",
                path.display()
            )),
        }
    }

    /// Writes it so that the file is the old or the new one, whatever happens.
    pub fn save(&self, path: &Path) -> Result<(), String> {
        let text = serde_json::to_string_pretty(self).expect("plain structs");
        let beside = path.with_extension("json.new");
        let written = fs::write(&beside, text).and_then(|()| fs::rename(&beside, path));
        written.map_err(|error| format!("{}: {error}", path.display()))
    }
}

#[cfg(test)]
pub mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::sweep::space::{Point, Wiring};
    use crate::sweep::trial::Purpose;

    /// A run as the model of [`Point::expected`] has it, on 2 CPUs.
    pub fn run(wiring: Wiring, shards: u16, workers: u16, pin: bool) -> Run {
        let point = Point { wiring, shards, workers, pin, connections: 32 };
        let rate = 1e4 * point.expected(2.0);
        let halves = match wiring {
            Wiring::Shared => vec![("ring", 50.0)],
            Wiring::Split => vec![("shard", 35.0), ("worker", 25.0)],
        };
        Run {
            point,
            size: 4096,
            purpose: Purpose::Search,
            messages_per_second: rate,
            p99_micros: 5_000.0,
            p50_micros: 1_000.0,
            cpu_micros: halves.iter().map(|(_, micros)| micros).sum(),
            generator_micros: 10.0,
            threads: halves
                .into_iter()
                .map(|(name, micros)| (name.to_owned(), micros))
                .collect::<BTreeMap<_, _>>(),
            machine_busy: 0.99,
            generator_was_the_limit: false,
        }
    }

    pub fn settings() -> Settings {
        Settings {
            space: Space { cpus: 2.0, connections: vec![32], executors_max: 16, try_pin: true },
            size: 4096,
            seconds: 4,
            by: By::Throughput,
            p99_max: 1e5,
            host: "Linux 6.1, a CPU".into(),
        }
    }

    #[test]
    fn by_cpu_a_cheap_layout_that_fills_one_cpu_is_worth_less_than_one_that_fills_two() {
        let score = |shards, cpu| {
            By::Cpu.score(&Run { cpu_micros: cpu, ..run(Wiring::Shared, shards, shards, true) }, 2.0)
        };
        assert_eq!((score(1, 40.0), score(2, 50.0)), (25_000.0, 40_000.0));
        assert_eq!(
            By::Cpu.score(&Run { cpu_micros: 50.0, ..run(Wiring::Shared, 4, 4, true) }, 2.0),
            40_000.0,
            "there are two"
        );
    }

    #[test]
    fn a_sweep_goes_on_from_its_file_and_never_from_that_of_another() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("state.json");
        let mut state = State::resume(&path, settings()).expect("new");
        state.runs.push(run(Wiring::Shared, 2, 2, true));
        state.save(&path).expect("written");
        assert_eq!(State::resume(&path, settings()).expect("its own"), state);
        let other = Settings { size: 1, ..settings() };
        assert!(State::resume(&path, other).expect_err("another").contains("other settings"));
        fs::write(&path, "{").expect("written");
        assert!(State::resume(&path, settings()).expect_err("damaged").contains("no state"));
    }
}
