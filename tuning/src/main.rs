//! The `ringpost-tune` command: looks at the host with the relay's eyes. It changes nothing.

mod check;
mod host;

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use ringpost::config::{Config, Overrides};

/// Says what a host must change for the relay to run well on it.
#[derive(Debug, Parser)]
#[command(name = "ringpost-tune", version, arg_required_else_help = true, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List what this host allows, what the relay wants, and how to change it; changes nothing.
    ///
    /// Exit code: 0 if the relay can run, 1 if something stands in its way, 2 if the configuration is wrong.
    Check {
        /// The relay's configuration (TOML); without it, its embedded defaults
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    let Command::Check { config } = Cli::parse().command;
    let config = match Config::load(config.as_deref(), &Overrides::default()) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("ringpost-tune: {error}");
            return ExitCode::from(2);
        }
    };
    let findings = check::findings(&host::look(&config.spool.directory), &check::Wanted::of(&config));
    let colours = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    // A reader that has gone (`| head`) is no error.
    let _ = io::stdout().write_all(check::table(&findings, colours).as_bytes());
    if findings.iter().any(|finding| finding.state == check::State::Red) {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_has_no_contradictions() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }
}
