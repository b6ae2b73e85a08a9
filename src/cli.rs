//! The command line: what `ringpost` understands, and the commands that only look at the configuration.
//!
//! `serve` itself is `main`'s; this module reads its flags and loads its configuration.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::{Config, ConfigError, Overrides, PROVIDERS, default_file};
use crate::id::MessageId;
use crate::routing::Target;

/// A mail relay for bulk senders: it makes each message safe on disk before it says 250, and delivers at the pace each
/// destination allows.
#[derive(Debug, Parser)]
#[command(name = "ringpost", version, arg_required_else_help = true, max_term_width = 100)]
#[command(after_help = "Begin with: ringpost serve\n\
    It needs no file: mail on 127.0.0.1:2525, metrics on 127.0.0.1:9925, spool in ./ringpost-spool,\n\
    nothing is delivered until a route says so (--route).")]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the relay until SIGTERM or SIGINT (Ctrl-C)
    Serve(Serve),
    /// Check a configuration file and list everything that is wrong with it
    Check {
        /// The file
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Print configuration
    #[command(arg_required_else_help = true)]
    Config {
        /// Print all settings with their defaults and comments, as a file to begin with
        #[arg(long, required_unless_present = "providers")]
        default: bool,
        /// Print the sites of large mailbox providers that come with the program
        #[arg(long, conflicts_with = "default")]
        providers: bool,
    },
    /// Users who may log in
    #[command(subcommand, arg_required_else_help = true)]
    User(User),
    /// Look into the spool of a stopped relay; changes nothing
    #[command(subcommand, arg_required_else_help = true)]
    Spool(Spool),
}

/// What `user` can do.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum User {
    /// Add a user to the users file, or replace one; the password is read from standard input
    Add(UserAdd),
}

/// The flags of `user add`.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
#[command(
    after_help = "Without --scram the password is kept by Argon2id, which is the stronger form and serves PLAIN and LOGIN. With\n\
    --scram it is kept as SCRAM keys, which serve SCRAM-SHA-256 too."
)]
pub struct UserAdd {
    /// The file that auth.users_file names; made if it is not there
    #[arg(long, value_name = "FILE")]
    pub file: PathBuf,
    /// The user's name
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Keep SCRAM-SHA-256 keys in place of Argon2id
    #[arg(long)]
    pub scram: bool,
    /// No password: the user logs in by certificate only
    #[arg(long, requires = "certificate", conflicts_with = "scram")]
    pub no_password: bool,
    /// A sender that the user may use: user@domain, *@domain or <>; may be given several times, and without it any is allowed
    #[arg(long, value_name = "PATTERN")]
    pub sender: Vec<String>,
    /// Whose mail it is; the user's name if not set
    #[arg(long, value_name = "NAME")]
    pub tenant: Option<String>,
    /// SHA-256 of a certificate with which the user may log in (EXTERNAL); may be given several times
    #[arg(long, value_name = "SHA256")]
    pub certificate: Vec<String>,
}

/// What `spool` can do.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
#[command(after_help = "They read a stopped relay's spool, or a copy of one, and change nothing in it.\n\
    Exit code: 0 all is well, 1 something is damaged, 2 it could not be read or the command is wrong.")]
pub enum Spool {
    /// Read everything, bodies too, and say what is damaged
    Verify {
        /// The spool's directory
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
    /// List the messages that are not settled: sender, size, age, and for each recipient due time, attempts and last reply
    List {
        /// The spool's directory
        #[arg(value_name = "DIR")]
        directory: PathBuf,
        /// Only recipients in this domain
        #[arg(long, value_name = "DOMAIN")]
        domain: Option<String>,
        /// An object a line, for programs
        #[arg(long)]
        json: bool,
    },
    /// Write a message to standard output, as it would be sent: ringpost spool export DIR ID > message.eml
    Export {
        /// The spool's directory
        #[arg(value_name = "DIR")]
        directory: PathBuf,
        /// The message: 13 letters or digits, as in the 250 reply, the Received header and `list`
        #[arg(value_name = "ID")]
        id: MessageId,
    },
}

/// The flags of `serve`; each wins over the file.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
pub struct Serve {
    /// Configuration (TOML); without it the embedded defaults hold
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where to listen for mail, such as 127.0.0.1:2525, in place of the file's addresses; may be given several times
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: Vec<SocketAddr>,
    /// Where mail goes that no route of the file names: mx (to the hosts of the recipient's domain), smtp://HOST:PORT,
    /// discard (nowhere, to measure) or hold (keep it, the default)
    #[arg(long, value_name = "TARGET")]
    pub route: Option<Target>,
    /// Directory that keeps the messages
    #[arg(long, value_name = "DIR")]
    pub spool: Option<PathBuf>,
    /// Where metrics and health are served over HTTP
    #[arg(long, value_name = "ADDR:PORT")]
    pub admin: Option<SocketAddr>,
    /// Number of shards, which accept and keep mail; one per CPU if not set
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub shards: Option<u16>,
    /// Number of workers, which send mail; one per CPU if not set
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub workers: Option<u16>,
}

impl Serve {
    /// The configuration that `serve` runs with.
    ///
    /// # Errors
    /// When the file cannot be read or is wrong.
    pub fn load(&self) -> Result<Config, ConfigError> {
        let overrides = Overrides {
            listen: self.listen.clone(),
            route: self.route.clone(),
            spool: self.spool.clone(),
            admin: self.admin,
            shards: self.shards,
            workers: self.workers,
        };
        Config::load(self.config.as_deref(), &overrides)
    }
}

/// Reads the command line; on a mistake, `--help` and `--version` it prints and exits.
pub fn parse() -> Cli {
    Cli::parse()
}

/// `check`: says that the file is right, or everything that is not.
pub fn check(file: &std::path::Path) -> ExitCode {
    match Config::load(Some(file), &Overrides::default()) {
        Ok(_) => {
            print(&format!("{}: no errors\n", file.display()));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// `config --default` and `config --providers`.
pub fn print_config(providers: bool) -> ExitCode {
    let text = if providers { PROVIDERS.to_owned() } else { default_file() };
    print(&text);
    ExitCode::SUCCESS
}

/// To standard output, at once. A reader that has gone (`| head`, a supervisor that closed its pipe) is no error, and no
/// reason to end: `print!` would panic.
pub fn print(text: &str) {
    let mut out = io::stdout();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn serve(arguments: &[&str]) -> Result<Serve, String> {
        let line = ["ringpost", "serve"].iter().chain(arguments);
        match Cli::try_parse_from(line).map_err(|error| error.to_string())?.command {
            Command::Serve(serve) => Ok(serve),
            other => Err(format!("{other:?}")),
        }
    }

    #[test]
    fn the_definition_has_no_contradictions() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn flags_of_serve_reach_the_configuration() {
        let flags = [
            "--listen",
            "127.0.0.1:26",
            "--listen",
            "[::1]:26",
            "--route",
            "smtp://sink:2526",
            "--spool",
            "/s",
            "--admin",
            "127.0.0.1:1",
            "--shards",
            "3",
            "--workers",
            "4",
        ];
        let config = serve(&flags).expect("valid").load().expect("loads");
        assert_eq!(config.smtp.listen.len(), 2);
        assert_eq!(config.routing.table.target("x").to_string(), "smtp://sink:2526");
        assert_eq!((config.threads.shards, config.threads.workers), (3, 4));
        assert_eq!(config.spool.directory, PathBuf::from("/s"));
        assert_eq!(config.admin.listen.port(), 1);
    }

    #[test]
    fn mistakes_say_what_is_allowed() {
        let check = |arguments: &[&str], words: &str| {
            let error = serve(arguments).expect_err(words);
            assert!(error.contains(words), "`{words}` is missing: {error}");
        };
        check(&["--route", "nowhere"], "smtp://HOST:PORT");
        check(&["--shards", "0"], "1..=256");
        check(&["--listen", "25"], "--listen");
        check(&["--lisen", "127.0.0.1:25"], "--listen");
    }
}
