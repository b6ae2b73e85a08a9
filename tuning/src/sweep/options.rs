//! The flags of `sweep`.

use std::path::PathBuf;

use clap::Args;
use ringpost::net::executor;

use super::search::Rules;
use super::space::Space;
use super::state::{By, Settings, State};
use super::trial::Bench;
use crate::host::{self, Limit, Seen};

/// What is swept, and how long.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Directory for the result, the state, and the spool of each run: on the disk that the relay will use
    #[arg(long, value_name = "DIR", default_value = "ringpost-sweep")]
    pub out: PathBuf,
    /// What `disk` has measured there: the search begins nearer to the end
    #[arg(long, value_name = "FILE")]
    pub profile: Option<PathBuf>,
    /// What is to be best: messages/s as measured, or (cpu) what the relay's CPU for each message would allow, where the
    /// generator or others share the CPUs
    #[arg(long, value_enum, default_value = "throughput")]
    pub by: By,
    /// Longest 99th percentile from end of data to 250 that counts, milliseconds
    #[arg(long, value_name = "MS", default_value_t = 100.0, value_parser = crate::positive)]
    pub p99: f64,
    /// Connections of the load; several are tried as part of the search
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "64", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub connections: Vec<u32>,
    /// Bytes of a message
    #[arg(long, value_name = "BYTES", default_value_t = 4096, value_parser = clap::value_parser!(u64).range(256..=16 << 20))]
    pub size: u64,
    /// Length of a run
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub seconds: u64,
    /// Part before it that is not timed
    #[arg(long, value_name = "SECONDS", default_value_t = 1, value_parser = clap::value_parser!(u64).range(0..=60))]
    pub warmup: u64,
    /// Most runs of the search
    #[arg(long, value_name = "N", default_value_t = 40)]
    pub runs: usize,
    /// Runs of the best point before it is believed
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub repeats: usize,
    /// Improvement that is not worth another run
    #[arg(long, value_name = "PERCENT", default_value_t = 1.0, value_parser = crate::positive)]
    pub tolerance: f64,
    /// Leave threads.pin on instead of trying both
    #[arg(long)]
    pub keep_pin: bool,
    /// Run every point `--repeats` times instead of searching
    #[arg(long)]
    pub exhaustive: bool,
    /// CPUs to plan for, instead of those this process may use
    #[arg(long, value_name = "N", value_parser = crate::positive)]
    pub cpus: Option<f64>,
    /// The relay's program; else beside this one, or in PATH
    #[arg(long, value_name = "FILE")]
    pub relay: Option<PathBuf>,
    /// ringpost-load; else beside this one, or in PATH
    #[arg(long, value_name = "FILE")]
    pub load: Option<PathBuf>,
}

impl Options {
    /// What decides whether runs can be compared. Looks at the host.
    pub(super) fn settings(&self) -> Result<Settings, String> {
        let host = host::look(&self.out);
        let cpus = match (self.cpus, host.usable_cpus()) {
            (Some(cpus), _) | (None, Seen::Value(cpus)) => cpus,
            (None, Seen::Hidden { not_visible }) => {
                return Err(format!("the CPUs are not visible ({not_visible}): say how many with --cpus"));
            }
        };
        let locked = match host.kernel.memlock {
            Seen::Value((_, Limit::Of(bytes))) => bytes / executor::MEMLOCK_PER_EXECUTOR,
            _ => u64::MAX,
        };
        if locked == 0 {
            return Err("no executor can lock its memory: see `ringpost-tune check`".into());
        }
        Ok(Settings {
            space: Space {
                cpus,
                connections: self.connections.clone(),
                // The relay takes at most so many of each role.
                executors_max: u16::try_from(locked).unwrap_or(u16::MAX).min(512),
                try_pin: !self.keep_pin,
            },
            size: self.size,
            seconds: self.seconds,
            by: self.by,
            p99_max: self.p99 * 1e3,
            host: format!(
                "Linux {}, {}",
                host.kernel.release.show(String::clone),
                host.cpus.model.show(String::clone)
            ),
        })
    }

    pub(super) fn bench(&self) -> Result<Bench, String> {
        Ok(Bench {
            relay: found(self.relay.as_ref(), "ringpost", "--relay")?,
            load: found(self.load.as_ref(), "ringpost-load", "--load")?,
            directory: self.out.clone(),
            seconds: self.seconds,
            warmup: self.warmup,
        })
    }

    pub(super) fn rules(&self, state: &State) -> Rules {
        Rules {
            runs_max: self.runs,
            repeats: self.repeats,
            tolerance: self.tolerance / 100.0,
            p99_max: state.settings.p99_max,
        }
    }

    /// Runs there may be: the search's, and three for the model.
    pub(super) fn runs_max(&self, space: &Space) -> usize {
        3 + if self.exhaustive { space.points().len() * self.repeats } else { self.runs }
    }
}

/// The program that was named, or one beside this one, or one in PATH.
fn found(named: Option<&PathBuf>, name: &str, flag: &str) -> Result<PathBuf, String> {
    if let Some(path) = named {
        return if path.is_file() {
            Ok(path.clone())
        } else {
            Err(format!("{flag}: {} is no file", path.display()))
        };
    }
    let beside = std::env::current_exe().ok().and_then(|path| path.parent().map(|folder| folder.join(name)));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places = beside.into_iter().chain(std::env::split_paths(&path).map(|folder| folder.join(name)));
    places.find(|place| place.is_file()).ok_or_else(|| {
        format!("{name} is neither beside this program nor in PATH: say where with {flag}, or build it (cargo build --release --workspace)")
    })
}
