//! Configuration: a TOML file and flags become one validated, immutable [`Config`] of plain data.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `options` | the structs that modules are given, with their defaults. PURE |
//! | `providers` | sites of large mailbox providers, which come with the program. PURE |
//! | `listener` | likewise for the places where mail is taken. PURE |
//! | `schedule` | likewise for retries and bounces. PURE |
//! | `value` | how a kind of value (size, duration, address…) is read, shown and described. PURE |
//! | `words` | likewise for values made of words. PURE |
//! | `from_text` | likewise what is written as a text. PURE |
//! | `schema` | the table of all settings: the one place that knows each key. PURE |
//! | `write` | and back: the default file is made from the same table. PURE |
//! | `read` | text → `Config`, with every error of the file at once, each with its place. PURE |
//! | `sending` | rules between sites, sources and pools. PURE |
//! | `startup` | what `serve` says when it has started. PURE |
//!
//! `ringpost config --default` and the list of known keys in errors are made from the same table that reads the file, so
//! they cannot drift apart. This module reads the file and asks for the host name; it opens nothing else.

mod from_text;
mod listener;
mod options;
mod providers;
mod read;
mod schedule;
mod schema;
mod sending;
mod startup;
mod value;
mod words;
mod write;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

pub use listener::{Listener, ListenerKind};
pub use options::{
    Admin, Auth, Certificate, Config, Delivery, Limits, Log, LogFormat, LogLevel, MailboxesFile, Network,
    Resolver, Routing, Smtp, Spool, Threads, Timeouts, Wiring,
};
pub use providers::PROVIDERS;
pub use read::{ConfigError, Problem};
pub use schedule::{Bounce, Schedule};
pub use startup::{Started, startup_text};
pub use write::default_file;

use crate::routing::Target;

/// What the flags of `serve` say; each wins over the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `--listen`, in place of all listeners of the file; empty when not given.
    pub listen: Vec<SocketAddr>,
    /// `--route`: the target of `*`. Routes of single domains in the file stay.
    pub route: Option<Target>,
    /// `--spool`.
    pub spool: Option<PathBuf>,
    /// `--admin`.
    pub admin: Option<SocketAddr>,
    /// `--shards`.
    pub shards: Option<u16>,
    /// `--workers`.
    pub workers: Option<u16>,
}

/// Facts of the host that stand in for settings left to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// The system's host name.
    pub name: String,
    /// CPUs this process may run on; at least 1.
    pub cpus: u16,
}

impl Host {
    /// Asks the system.
    pub fn detect() -> Self {
        let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        Self { name, cpus: u16::try_from(cpus).unwrap_or(u16::MAX) }
    }
}

impl Config {
    /// Reads `file`, or takes the embedded defaults when there is none, and completes the result for this host.
    ///
    /// # Errors
    /// When the file cannot be read, and with every problem found in it.
    pub fn load(file: Option<&Path>, overrides: &Overrides) -> Result<Config, ConfigError> {
        let config = match file {
            None => Config::default(),
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
                Config::parse(&text)
                    .map_err(|problems| ConfigError::Invalid { path: path.to_owned(), problems })?
            }
        };
        config.with(overrides).completed(&Host::detect())
    }

    /// This configuration with the flags' values in place of the file's.
    pub fn with(mut self, overrides: &Overrides) -> Config {
        let flags = overrides.clone();
        if !flags.listen.is_empty() {
            self.smtp.listen = flags.listen;
            self.listeners.clear();
        }
        if let Some(target) = flags.route {
            self.routing.table.insert("*", target).expect("`*` is a pattern");
        }
        self.spool.directory = flags.spool.unwrap_or(self.spool.directory);
        self.admin.listen = flags.admin.unwrap_or(self.admin.listen);
        self.threads.shards = flags.shards.unwrap_or(self.threads.shards);
        self.threads.workers = flags.workers.unwrap_or(self.threads.workers);
        self
    }

    /// Fills in what was left to the host: names, and numbers of shards and workers. After it, `smtp.hostname` and
    /// `delivery.ehlo_name` are names and `threads.shards` and `threads.workers` are at least 1.
    ///
    /// # Errors
    /// When the system's host name cannot be used in SMTP.
    pub fn completed(mut self, host: &Host) -> Result<Config, ConfigError> {
        if self.smtp.hostname.is_empty() {
            if !crate::routing::is_host_name(&host.name) {
                return Err(ConfigError::HostName { name: host.name.clone() });
            }
            self.smtp.hostname.clone_from(&host.name);
        }
        if self.delivery.ehlo_name.is_empty() {
            self.delivery.ehlo_name.clone_from(&self.smtp.hostname);
        }
        if self.delivery.providers {
            self.sites.splice(..0, providers::sites());
        }
        for count in [&mut self.threads.shards, &mut self.threads.workers] {
            if *count == 0 {
                *count = host.cpus.clamp(1, options::ROLES_MAX);
            }
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> Host {
        Host { name: "mail.example".into(), cpus: 3 }
    }

    #[test]
    fn flags_win_over_the_file_and_leave_the_rest() {
        let file =
            "[routes]\n'*' = 'mx'\n'a.example' = 'discard'\n[smtp]\nlisten = ['127.0.0.1:25', '[::1]:25']\n";
        let flags = Overrides {
            listen: vec!["127.0.0.1:2600".parse().expect("address")],
            route: Some(Target::Hold),
            workers: Some(2),
            ..Overrides::default()
        };
        let config = Config::parse(file).expect("valid").with(&flags).completed(&host()).expect("complete");
        assert_eq!(config.smtp.listen, flags.listen);
        assert_eq!(config.routing.table.target("b.example"), &Target::Hold);
        assert_eq!(config.routing.table.target("a.example"), &Target::Discard);
        assert_eq!((config.threads.shards, config.threads.workers), (3, 2));
        assert_eq!(config.spool, Spool::default());
    }

    #[test]
    fn names_left_out_come_from_the_host_and_a_bad_one_is_an_error() {
        let config = Config::default().completed(&host()).expect("complete");
        assert_eq!(
            (config.smtp.hostname.as_str(), config.delivery.ehlo_name.as_str()),
            ("mail.example", "mail.example")
        );
        let bad = Host { name: "my host".into(), cpus: 1 };
        assert!(matches!(Config::default().completed(&bad), Err(ConfigError::HostName { .. })));
    }

    #[test]
    fn a_missing_file_is_named() {
        let error =
            Config::load(Some(Path::new("/nonexistent/r.toml")), &Overrides::default()).expect_err("missing");
        assert!(error.to_string().contains("/nonexistent/r.toml"), "{error}");
    }
}
