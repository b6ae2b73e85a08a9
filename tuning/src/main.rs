//! The `ringpost-tune` command: looks at the host with the relay's eyes. It changes nothing unless told to.

mod apply;
mod check;
mod disk;
mod host;
mod model;
mod plot;
mod sweep;
mod units;

use std::error::Error;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use disk::profile::Profile;
use ringpost::config::{Config, Overrides};

/// Finds what a host must change, and which settings are best on it, by looking and by measuring.
#[derive(Debug, Parser)]
#[command(name = "ringpost-tune", version, arg_required_else_help = true, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show this host: CPUs, limits, network, disk, and what of it cannot be seen from here
    Detect {
        /// The spool's directory, whose disk is shown; it need not be there yet
        #[arg(long, value_name = "DIR", default_value = "ringpost-spool")]
        spool: PathBuf,
        /// As JSON; what was not seen is {"not_visible": "why"}
        #[arg(long)]
        json: bool,
    },
    /// List what this host allows, what the relay wants, and how to change it; changes nothing.
    ///
    /// Exit code: 0 if the relay can run, 1 if something stands in its way, 2 if the configuration is wrong.
    Check {
        /// The relay's configuration (TOML); without it, its embedded defaults
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// What `disk` has measured: adds what the disk bounds
        #[arg(long, value_name = "FILE")]
        profile: Option<PathBuf>,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Measure what the spool gets from a disk: commits by way of writing, by batch, and by logs at once
    Disk {
        /// A directory on that disk; files without a name are made there, and are gone afterwards
        #[arg(value_name = "DIR")]
        directory: PathBuf,
        /// How long to measure
        #[arg(long, value_name = "SECONDS", default_value_t = 30.0, value_parser = positive)]
        seconds: f64,
        /// Where the profile goes, which `check`, `sweep`, `model` and `ringpost serve` (spool.disk_profile) read
        #[arg(long, value_name = "FILE", default_value = "disk-profile.toml")]
        profile: PathBuf,
        /// Draw a page with plots
        #[arg(long, value_name = "FILE")]
        html: Option<PathBuf>,
    },
    /// Run the relay under load with many layouts of its threads, and find the best with few runs.
    ///
    /// Writes recommended.toml, runs.csv and report.html. When it is stopped, the same command goes on. The generator
    /// runs on this host too: where it shares the CPUs, messages/s are those of both together.
    Sweep(Box<sweep::Options>),
    /// Predict what the relay would do on more cores and another disk, from a sweep; with the error against that sweep
    Model(Predict),
    /// Show the files that would change this host, each line with its reason; with --write, write them
    Apply {
        /// The relay's configuration (TOML); without it, its embedded defaults
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Only show; this is the default
        #[arg(long, conflicts_with_all = ["write", "undo"])]
        dry_run: bool,
        /// Write the files, and say which commands make them count
        #[arg(long)]
        write: bool,
        /// Take back what --write has done
        #[arg(long, conflicts_with = "write")]
        undo: bool,
        /// Write below this directory instead of /
        #[arg(long, value_name = "DIR", default_value = "/")]
        root: PathBuf,
    },
}

/// What `model` is asked.
#[derive(clap::Args, Debug)]
struct Predict {
    /// The state of a sweep that has ended
    #[arg(long, value_name = "FILE", default_value = "ringpost-sweep/state.json")]
    sweep: PathBuf,
    /// What `disk` has measured
    #[arg(long, value_name = "FILE")]
    profile: Option<PathBuf>,
    /// Cores, up to which it is told
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=1024))]
    cores: u16,
    /// Clients for each core
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=4096))]
    connections: u16,
    /// Bytes of a message; those of the sweep if not given
    #[arg(long, value_name = "BYTES")]
    size: Option<u64>,
    /// As JSON
    #[arg(long)]
    json: bool,
    /// Draw a page with the plot
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// A number of seconds above 0.
fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number > 0.0 && number.is_finite() => Ok(number),
        _ => Err("a number above 0 is needed".into()),
    }
}

/// What a command comes to: its exit code, or what was wrong with what it was given.
type Outcome = Result<ExitCode, Box<dyn Error>>;

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Detect { spool, json } => detect(&spool, json),
        Command::Check { config, profile, json } => check(config.as_deref(), profile.as_deref(), json),
        Command::Disk { directory, seconds, profile, html } => {
            measure_disk(&directory, seconds, &profile, html.as_deref())
        }
        Command::Sweep(options) => run_sweep(&options),
        Command::Model(ask) => predict(&ask),
        Command::Apply { undo: true, root, .. } => {
            apply::undo(&root).map(|text| done(&text)).map_err(Into::into)
        }
        Command::Apply { config, write, root, .. } => apply_host(config.as_deref(), write, &root),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("ringpost-tune: {error}");
        ExitCode::from(2)
    })
}

fn detect(spool: &Path, json: bool) -> Outcome {
    let host = host::look(spool);
    print(&if json { serde_json::to_string_pretty(&host)? + "\n" } else { host::text(&host) });
    Ok(ExitCode::SUCCESS)
}

fn check(config: Option<&Path>, profile: Option<&Path>, json: bool) -> Outcome {
    let config = Config::load(config, &Overrides::default())?;
    let configured = Some(config.spool.disk_profile.as_path()).filter(|path| !path.as_os_str().is_empty());
    let profile = profile.or(configured).map(read_profile).transpose()?;
    let host = host::look(&config.spool.directory);
    let findings = check::findings(&host, &check::Wanted::of(&config), profile.as_ref());
    let colours = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    print(&if json {
        serde_json::to_string_pretty(&findings)? + "\n"
    } else {
        check::table(&findings, colours)
    });
    let is_fatal = findings.iter().any(|finding| finding.state == check::State::Red);
    Ok(if is_fatal { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn measure_disk(directory: &Path, seconds: f64, file: &Path, html: Option<&Path>) -> Outcome {
    let (profile, measured) = disk::run(directory, seconds, &host::look(directory))?;
    print(&disk::text(&profile));
    write(file, &profile.to_toml())?;
    if let Some(html) = html {
        write(html, &disk::page(&profile, &measured))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn run_sweep(options: &sweep::Options) -> Outcome {
    let disk = options.profile.as_deref().map(read_profile).transpose()?;
    match sweep::run(options, disk)? {
        sweep::End::Found(text) => {
            print(&text);
            Ok(ExitCode::SUCCESS)
        }
        sweep::End::Stopped => {
            eprintln!("ringpost-tune: stopped; the same command goes on where it was");
            Ok(ExitCode::FAILURE)
        }
    }
}

fn predict(ask: &Predict) -> Outcome {
    let disk = ask.profile.as_deref().map(read_profile).transpose()?;
    let state = sweep::state::State::load(&ask.sweep)?;
    let state = state
        .ok_or_else(|| format!("{}: not there; run `ringpost-tune sweep` first", ask.sweep.display()))?;
    let question = model::Question {
        cores: ask.cores.into(),
        connections: ask.connections.into(),
        size: ask.size.unwrap_or(state.settings.size),
        disk: disk.as_ref(),
    };
    let answer = model::answer(&state, &question)?;
    print(&if ask.json { serde_json::to_string_pretty(&answer)? + "\n" } else { answer.text() });
    if let Some(html) = &ask.html {
        write(html, &answer.page())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn apply_host(config: Option<&Path>, write: bool, root: &Path) -> Outcome {
    let config = Config::load(config, &Overrides::default())?;
    let (host, wanted) = (host::look(&config.spool.directory), check::Wanted::of(&config));
    Ok(done(&match write {
        true => apply::write(&host, &wanted, root)?,
        false => apply::dry_run(&host, &wanted, root),
    }))
}

fn done(text: &str) -> ExitCode {
    print(text);
    ExitCode::SUCCESS
}

/// Writes a result, and says where it is.
fn write(path: &Path, text: &str) -> Result<(), String> {
    std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))?;
    eprintln!("written: {}", path.display());
    Ok(())
}

/// A profile that `disk` has written.
fn read_profile(path: &Path) -> Result<Profile, String> {
    let named = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let text = std::fs::read_to_string(path).map_err(|error| named(&error))?;
    Profile::parse(&text).map_err(|error| named(&error))
}

/// A reader that has gone (`| head`) is no error.
fn print(text: &str) {
    let _ = io::stdout().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_has_no_contradictions() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }
}
