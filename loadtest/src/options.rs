//! The command line, and its translation into settings. What could hurt somebody is refused here.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::clock;
use crate::limits::{
    CONNECTIONS_MAX, DURATION_SECONDS_DEFAULT, DURATION_SECONDS_MAX, MESSAGE_BYTES_MAX, MESSAGES_MAX,
    RECIPIENTS_MAX, TEMPLATES,
};
use crate::sink::script::Script;
use crate::sink::session::Offers;
use crate::source::pace::Pace;
use crate::source::plan::{Local, Plan};
use crate::wire::mark::Run;
use crate::wire::template::{Template, date, mix};
use crate::{sink, source};

/// SMTP load generator and sink with a ledger, for any relay.
#[derive(Debug, Parser)]
#[command(name = "ringpost-load", version)]
pub struct Options {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Send messages and measure the replies
    Source(SourceCommand),
    /// Take messages and count them
    Sink(SinkCommand),
    /// Send through a running relay that delivers to the sink in this process, and judge what arrives
    Run(RunCommand),
}

/// `source`.
#[derive(Debug, Args)]
pub struct SourceCommand {
    /// What is sent.
    #[command(flatten)]
    pub source: SourceOptions,
    /// How it is reported.
    #[command(flatten)]
    pub output: OutputOptions,
}

/// `sink`.
#[derive(Debug, Args)]
pub struct SinkCommand {
    /// Where to listen; may be given again
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:2526")]
    pub listen: Vec<SocketAddr>,
    /// How it behaves.
    #[command(flatten)]
    pub sink: SinkOptions,
    /// Answer `stats`, `ids` and `quit` on this loopback address
    #[arg(long, value_name = "ADDR:PORT")]
    pub control: Option<SocketAddr>,
    /// How it is reported.
    #[command(flatten)]
    pub output: OutputOptions,
}

/// `run`.
#[derive(Debug, Args)]
pub struct RunCommand {
    /// Where the sink listens; the relay must deliver there. May be given again
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:2526")]
    pub sink: Vec<SocketAddr>,
    /// What is sent.
    #[command(flatten)]
    pub source: SourceOptions,
    /// How the sink behaves.
    #[command(flatten)]
    pub sink_options: SinkOptions,
    /// Longest wait for accepted messages to arrive after the last was sent
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub drain_timeout: u64,
    /// Watch this long for repeats after everything arrived
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 500)]
    pub linger: u64,
    /// Read CPU time and memory of this process and its descendants
    #[arg(long, value_name = "PID")]
    pub pid: Option<u32>,
    /// Report repeats but do not fail for them: after kill -9, "at least once" is what can be promised
    #[arg(long)]
    pub repeats_allowed: bool,
    /// Wait for a bounce of each message that the sink refused for good, and fail if one is missing
    #[arg(long)]
    pub expect_bounces: bool,
    /// How it is reported.
    #[command(flatten)]
    pub output: OutputOptions,
}

/// How results are shown.
#[derive(Clone, Debug, Default, Args)]
pub struct OutputOptions {
    /// Also write the report as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// A line each second even if standard error is no terminal
    #[arg(long)]
    pub live: bool,
}

/// What a source sends.
#[derive(Clone, Debug, Args)]
pub struct SourceOptions {
    /// The relay
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:2525")]
    pub target: String,
    /// Connections kept busy
    #[arg(long, value_name = "N", default_value_t = 32)]
    pub connections: usize,
    /// Messages in all
    #[arg(long, value_name = "N")]
    pub messages: Option<u64>,
    /// Seconds during which messages are started [default: 10 if --messages is not given]
    #[arg(long, value_name = "SECONDS")]
    pub duration: Option<u64>,
    /// Open loop: messages per second at constant intervals, whatever the relay does; else closed loop
    #[arg(long, value_name = "PER_SECOND")]
    pub rate: Option<f64>,
    /// Bytes of a message, header included
    #[arg(long, value_name = "BYTES", default_value_t = 4096)]
    pub size: usize,
    /// Recipients of a message
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub recipients: u16,
    /// Recipient domains d0.load.invalid to d(N-1).load.invalid
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub domains: u32,
    /// A recipient domain instead; may be given again
    #[arg(long, value_name = "NAME")]
    pub domain: Vec<String>,
    /// A prefix of recipients' local parts and its weight; may be given again
    #[arg(long, value_name = "PREFIX[=WEIGHT]", default_value = "load")]
    pub local: Vec<String>,
    /// Domain of senders
    #[arg(long, value_name = "NAME", default_value = "source.load.invalid")]
    pub sender_domain: String,
    /// Messages on a connection before QUIT; 0 keeps it
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub reuse: u64,
    /// An envelope in one write and the next one behind the final dot, if the relay offers PIPELINING (the default)
    #[arg(long, overrides_with = "no_pipelining")]
    pub pipelining: bool,
    /// Wait for each reply
    #[arg(long)]
    pub no_pipelining: bool,
    /// Source threads
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub threads: usize,
    /// Seed of bodies and choices
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Seconds of silence after which a connection counts as lost
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub timeout: u64,
    /// Open lost connections again, for as long as the run lasts: for relays that are killed and restarted
    #[arg(long)]
    pub reconnect: bool,
    /// Allow targets that are not loopback, and recipient domains that might exist
    #[arg(long)]
    pub i_own_this_host: bool,
}

/// How a sink behaves.
#[derive(Clone, Debug, Args)]
pub struct SinkOptions {
    /// Sink threads
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub sink_threads: usize,
    /// Refuse: PATTERN=ACTION@STAGE[:first=N][:p=SHARE], as in 'defer*=450 4.2.0 try later@rcpt:first=1' or
    /// 'cut*=drop@data'; stages are rcpt, data and dot. May be given again
    #[arg(long, value_name = "RULE")]
    pub refuse: Vec<String>,
    /// Do not offer PIPELINING
    #[arg(long)]
    pub sink_no_pipelining: bool,
    /// Do not offer CHUNKING
    #[arg(long)]
    pub no_chunking: bool,
    /// Write each message to a file in this directory
    #[arg(long, value_name = "DIR")]
    pub keep: Option<PathBuf>,
}

/// A command line that cannot be followed; says what to change.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct OptionError(String);

fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), OptionError> {
    if holds { Ok(()) } else { Err(OptionError(otherwise())) }
}

impl SourceOptions {
    /// How the source behaves.
    pub fn settings(&self) -> Result<source::Settings, OptionError> {
        let addresses = self.target.to_socket_addrs();
        let target = addresses.ok().and_then(|mut found| found.next());
        let target =
            target.ok_or_else(|| OptionError(format!("--target {}: no such HOST:PORT", self.target)))?;
        ensure(is_loopback(target.ip()) || self.i_own_this_host, || {
            format!("--target {} is not this machine: add --i-own-this-host if you may load it", self.target)
        })?;
        ensure((1..=CONNECTIONS_MAX).contains(&self.connections), || {
            format!("--connections takes 1 to {CONNECTIONS_MAX}")
        })?;
        Ok(source::Settings {
            target,
            connections: self.connections,
            threads: self.threads,
            timeout: self.timeout.saturating_mul(1_000_000),
            reconnect: self.reconnect,
        })
    }

    /// What is sent, in a run of its own.
    pub fn plan(&self) -> Result<Plan, OptionError> {
        ensure((1..=RECIPIENTS_MAX).contains(&self.recipients), || {
            format!("--recipients takes 1 to {RECIPIENTS_MAX}")
        })?;
        ensure(self.size <= MESSAGE_BYTES_MAX, || format!("--size takes at most {MESSAGE_BYTES_MAX}"))?;
        ensure((1..=1_000_000).contains(&self.domains), || "--domains takes 1 to 1000000".into())?;
        let domains = if self.domain.is_empty() {
            (0..self.domains).map(|index| format!("d{index}.load.invalid")).collect()
        } else {
            self.domain.clone()
        };
        for domain in domains.iter().chain([&self.sender_domain]) {
            ensure(is_domain(domain), || format!("`{domain}` is no domain name"))?;
            ensure(is_reserved(domain) || self.i_own_this_host, || {
                format!(
                    "`{domain}` might be somebody's: use .invalid, .test, .example or localhost, or add --i-own-this-host"
                )
            })?;
        }
        let wall = clock::wall();
        let run = mix(mix(wall.as_nanos() as u64) ^ u64::from(std::process::id())) as u32;
        let date = date(wall.as_secs());
        let templates = if self.size > 1 << 20 { 1 } else { TEMPLATES };
        let template =
            |index| Template::new(self.size, &self.sender_domain, &date, mix(self.seed).wrapping_add(index));
        Ok(Plan {
            run: Run(run),
            templates: (0..templates as u64).map(template).collect(),
            recipients: self.recipients,
            locals: self.local.iter().map(|text| local(text)).collect::<Result<_, _>>()?,
            domains,
            sender_domain: self.sender_domain.clone(),
            pipelining: !self.no_pipelining,
            reuse: self.reuse,
            seed: self.seed,
        })
    }

    /// When it is sent, from `start` on.
    pub fn pace(&self, start: clock::Micros) -> Result<Pace, OptionError> {
        let default = self.messages.is_none().then_some(DURATION_SECONDS_DEFAULT);
        let seconds = self.duration.or(default);
        ensure(seconds.is_none_or(|seconds| seconds <= DURATION_SECONDS_MAX), || {
            format!("--duration takes at most {DURATION_SECONDS_MAX} seconds")
        })?;
        ensure(self.messages.is_none_or(|count| count <= MESSAGES_MAX), || {
            format!("--messages takes at most {MESSAGES_MAX}")
        })?;
        ensure(self.rate.is_none_or(|rate| rate.is_finite() && rate > 0.0), || {
            "--rate must be above 0".into()
        })?;
        let duration = seconds.map(|seconds| seconds * 1_000_000);
        Ok(Pace { start, rate: self.rate, messages: Some(self.messages.unwrap_or(MESSAGES_MAX)), duration })
    }
}

impl SinkOptions {
    /// How the sink behaves, on these addresses.
    pub fn settings(&self, listen: &[SocketAddr]) -> Result<sink::Settings, OptionError> {
        if let Some(directory) = &self.keep {
            std::fs::create_dir_all(directory)
                .map_err(|error| OptionError(format!("--keep {}: {error}", directory.display())))?;
        }
        Ok(sink::Settings {
            listen: listen.to_vec(),
            threads: self.sink_threads,
            script: Script::parse(&self.refuse).map_err(|error| OptionError(format!("--refuse {error}")))?,
            offers: Offers { pipelining: !self.sink_no_pipelining, chunking: !self.no_chunking },
            keep: self.keep.clone(),
        })
    }
}

/// Nobody else's machine.
pub fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

fn is_domain(name: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    name.len() <= 253 && name.split('.').all(label)
}

/// A name that RFC 2606 and RFC 6761 keep from ever being somebody's.
fn is_reserved(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or_default().to_ascii_lowercase();
    matches!(last.as_str(), "invalid" | "test" | "example" | "localhost")
}

fn local(text: &str) -> Result<Local, OptionError> {
    let (prefix, weight) = text.split_once('=').unwrap_or((text, "1"));
    let weight = weight.parse().ok().filter(|weight| *weight > 0);
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.+".contains(&byte);
    match weight {
        Some(weight) if prefix.len() <= 40 && prefix.bytes().all(allowed) => {
            Ok(Local { prefix: prefix.into(), weight })
        }
        _ => Err(OptionError(format!("--local {text}: letters, digits and -_.+, then =WEIGHT from 1"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(arguments: &[&str]) -> Result<(Plan, source::Settings, Pace), OptionError> {
        let all = ["ringpost-load", "source"].iter().chain(arguments);
        let options = Options::try_parse_from(all).map_err(|error| OptionError(error.to_string()))?;
        let Command::Source(command) = options.command else { return Err(OptionError("not source".into())) };
        Ok((command.source.plan()?, command.source.settings()?, command.source.pace(0)?))
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Options::command().debug_assert();
    }

    #[test]
    fn other_peoples_hosts_and_domains_need_a_word() {
        for arguments in
            [["--target", "192.0.2.1:25"], ["--domain", "example.com"], ["--sender-domain", "gmail.com"]]
        {
            let refused = source(&arguments).map(|_| ()).unwrap_err();
            assert!(refused.0.contains("--i-own-this-host"), "{refused}");
            assert!(source(&[&arguments[..], &["--i-own-this-host"]].concat()).is_ok());
        }
        for domain in ["a.test", "x.example", "localhost", "A.INVALID"] {
            assert!(source(&["--domain", domain]).is_ok(), "{domain}");
        }
    }

    #[test]
    fn defaults_are_bounded_and_pipelined() -> Result<(), OptionError> {
        let (plan, settings, pace) = source(&[])?;
        assert_eq!((plan.pipelining, settings.connections, plan.recipients), (true, 32, 1));
        assert_eq!((pace.duration, pace.messages), (Some(10_000_000), Some(MESSAGES_MAX)));
        assert_eq!(plan.templates[0].bytes(), 4096);
        assert_eq!(source(&["--messages", "5"])?.2.duration, None);
        assert!(!source(&["--no-pipelining"])?.0.pipelining);
        Ok(())
    }

    #[test]
    fn impossible_values_say_what_is_possible() {
        for arguments in [
            ["--recipients", "0"],
            ["--connections", "0"],
            ["--rate", "-1"],
            ["--rate", "NaN"],
            ["--local", "a b"],
            ["--local", "a=0"],
            ["--domain", "a b.invalid"],
            ["--target", "nowhere"],
        ] {
            assert!(source(&arguments).is_err(), "{arguments:?}");
        }
    }
}
