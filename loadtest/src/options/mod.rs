//! The command line. Its translation into settings is in [`settings`], the values' forms in [`values`]; a command line
//! written down is a [`scenario`], and what is wrong in a file is said with its [`place`].

pub mod place;
pub mod scenario;
pub mod settings;
pub mod values;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub use settings::{OptionError, is_loopback, listens_here};

/// SMTP load generator and sink with a ledger, for any relay.
#[derive(Debug, Parser)]
#[command(name = "ringpost-load", version, args_override_self = true)]
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
    /// Send through a relay that delivers to the sink in this process, and judge what arrives
    Run(Box<RunCommand>),
    /// Find the highest rate at which the bounds hold
    Search(Box<SearchCommand>),
    /// Kill -9 the relay again and again while it is loaded, and judge what arrives
    Crash(Box<CrashCommand>),
    /// Measure sessions in the clear and over TLS, idle connections, and good clients beside handshakes
    Door(DoorCommand),
    /// Compare two reports written with --json
    Compare(CompareCommand),
    /// Draw the page of a report written with --json
    Page(PageCommand),
}

impl Command {
    /// The run that it is or is made of.
    pub fn run(&self) -> Option<&RunCommand> {
        match self {
            Self::Run(command) => Some(command),
            Self::Search(command) => Some(&command.run),
            Self::Crash(command) => Some(&command.run),
            _ => None,
        }
    }
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
    /// Where to listen, with a profile of its own instead of --profile; may be given again
    #[arg(
        long,
        value_name = "ADDR:PORT[=PROFILE]",
        default_value = "127.0.0.1:2526",
        help_heading = "The sink"
    )]
    pub listen: Vec<Listen>,
    /// How it behaves.
    #[command(flatten)]
    pub sink: SinkOptions,
    /// Allow addresses that are not loopback: whatever is delivered there is gone
    #[arg(long)]
    pub i_own_this_host: bool,
    /// Answer `stats`, `ids` and `quit` on this loopback address
    #[arg(long, value_name = "ADDR:PORT")]
    pub control: Option<SocketAddr>,
    /// How it is reported.
    #[command(flatten)]
    pub output: OutputOptions,
}

/// `door`.
#[derive(Debug, Args)]
pub struct DoorCommand {
    /// The relay, which trusts us: no limit of an address must hold
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:2525")]
    pub target: SocketAddr,
    /// Its process, for CPU and memory
    #[arg(long)]
    pub pid: Option<u32>,
    /// How long each measurement lasts
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    pub seconds: u64,
    /// Clients at once
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub threads: usize,
    /// Idle connections to open, in the clear and over TLS
    #[arg(long, value_name = "N", default_value_t = 500)]
    pub idle: u64,
    /// Handshakes a second beside the good client
    #[arg(long, value_name = "RATE", default_value_t = 1000)]
    pub rate: u64,
}

/// `compare`.
#[derive(Debug, Args)]
pub struct CompareCommand {
    /// The report that is compared with
    pub before: PathBuf,
    /// The report that may be better or worse
    pub after: PathBuf,
}

/// `page`.
#[derive(Debug, Args)]
pub struct PageCommand {
    /// The report
    pub report: PathBuf,
    /// The page to write
    #[arg(long, short, value_name = "FILE")]
    pub output: PathBuf,
}

/// `search`.
#[derive(Debug, Args)]
pub struct SearchCommand {
    /// Lowest rate to try, in messages per second
    #[arg(long, value_name = "RATE", default_value_t = 100.0)]
    pub from: f64,
    /// Highest rate to try
    #[arg(long, value_name = "RATE", default_value_t = 100_000.0)]
    pub to: f64,
    /// Stop when the two nearest rates are this close, in per cent
    #[arg(long, value_name = "PERCENT", default_value_t = 5.0)]
    pub precision: f64,
    /// Runs that must hold in a row before a rate counts as found
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub confirm: u32,
    /// Everything but --rate; --duration is of each try, bounds default to p99<=100ms and errors<=0.1%
    #[command(flatten)]
    pub run: RunCommand,
}

/// `crash`.
#[derive(Debug, Args)]
pub struct CrashCommand {
    /// How many times the relay is killed
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub kills: u32,
    /// Shortest time that the relay lives
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 300)]
    pub life_min: u64,
    /// Longest time that the relay lives
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 3000)]
    pub life_max: u64,
    /// How it is loaded; --relay is needed, and --reconnect and --repeats-allowed are implied
    #[command(flatten)]
    pub run: RunCommand,
}

/// `run`.
#[derive(Clone, Debug, Args)]
pub struct RunCommand {
    /// A scenario: smoke, steady, mixed, bursts, storm, soak, or a TOML file whose keys are options' names
    pub scenario: Option<String>,
    /// Start the relay with this command, and stop it afterwards; {target} and {sink} stand for the addresses
    #[arg(long, value_name = "COMMAND", help_heading = "The relay")]
    pub relay: Option<String>,
    /// Append the output of --relay to this file
    #[arg(long, value_name = "FILE", help_heading = "The relay")]
    pub relay_log: Option<PathBuf>,
    /// Longest wait for the relay to be ready: to greet
    #[arg(long, value_name = "SECONDS", default_value_t = 30, help_heading = "The relay")]
    pub relay_wait: u64,
    /// What must hold for success, such as 'p99<=50ms' or 'errors<=0.1%'; may be given again
    #[arg(long, value_name = "BOUND", help_heading = "The verdict")]
    pub bound: Vec<String>,
    /// Where the sink listens, with a profile of its own instead of --profile; the relay must deliver there. May be given again
    #[arg(
        long,
        value_name = "ADDR:PORT[=PROFILE]",
        default_value = "127.0.0.1:2526",
        help_heading = "The sink"
    )]
    pub sink: Vec<Listen>,
    /// What is sent.
    #[command(flatten)]
    pub source: SourceOptions,
    /// How the sink behaves.
    #[command(flatten)]
    pub sink_options: SinkOptions,
    /// Longest wait for accepted messages to arrive after the last was sent
    #[arg(long, value_name = "SECONDS", default_value_t = 60, help_heading = "The verdict")]
    pub drain_timeout: u64,
    /// Watch this long for repeats after everything arrived
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 500, help_heading = "The verdict")]
    pub linger: u64,
    /// Read CPU time and memory of this process and its descendants
    #[arg(long, value_name = "PID", help_heading = "The relay")]
    pub pid: Option<u32>,
    /// Report repeats but do not fail for them: after kill -9, "at least once" is what can be promised
    #[arg(long, help_heading = "The verdict")]
    pub repeats_allowed: bool,
    /// Wait for a bounce of each message that the sink refused for good, and fail if one is missing
    #[arg(long, help_heading = "The verdict")]
    pub expect_bounces: bool,
    /// How it is reported.
    #[command(flatten)]
    pub output: OutputOptions,
}

/// How results are shown.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Results")]
pub struct OutputOptions {
    /// Also write the report as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// A line each second even if standard error is no terminal
    #[arg(long)]
    pub live: bool,
    /// Write a percentile distribution of each phase to this directory, for HdrHistogram's tools
    #[arg(long, value_name = "DIR")]
    pub hgrm: Option<PathBuf>,
    /// Write a page with plots that needs no network
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Something about the relay that belongs to the report, such as durability='fdatasync before 250'; may be given again
    #[arg(long, value_name = "KEY=VALUE")]
    pub note: Vec<String>,
    /// A path on the disk that the relay uses, to name it in the report
    #[arg(long, value_name = "PATH", default_value = ".")]
    pub disk: PathBuf,
    /// Write a line of counts and latencies for each second
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,
}

/// Where a sink listens, and how it behaves there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// The address; port 0 takes a free one.
    pub address: SocketAddr,
    /// Name or file of its profile; `None` for the sink's.
    pub profile: Option<String>,
}

impl From<SocketAddr> for Listen {
    fn from(address: SocketAddr) -> Self {
        Self { address, profile: None }
    }
}

impl FromStr for Listen {
    type Err = OptionError;

    fn from_str(text: &str) -> Result<Self, OptionError> {
        let (address, profile) = text.split_once('=').map_or((text, None), |(a, p)| (a, Some(p.to_owned())));
        let wrong = |_| OptionError(format!("`{address}` is not ADDR:PORT, such as 127.0.0.1:2526"));
        Ok(Self { address: address.parse().map_err(wrong)?, profile })
    }
}

/// When a connection is secured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TlsMode {
    /// Never
    Off,
    /// After STARTTLS
    Starttls,
    /// Before anything else
    Implicit,
}

/// What a source sends.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "What is sent")]
pub struct SourceOptions {
    /// The relay
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:2525")]
    pub target: String,
    /// Connections. Without --rate each is kept busy: closed loop [default: 32]
    #[arg(long, value_name = "N")]
    pub connections: Option<usize>,
    /// Messages in all
    #[arg(long, value_name = "N")]
    pub messages: Option<u64>,
    /// Seconds during which messages are started [default: 10 if --messages is not given]
    #[arg(long, value_name = "SECONDS")]
    pub duration: Option<u64>,
    /// Seconds at the start whose messages count in everything but latencies
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub warmup: u64,
    /// Open loop, whatever the relay does: messages per second as RATE, poisson:RATE, FROM..TO (a ramp) or
    /// burst:RATExSIZE [default: 100 if --connections is not given either]
    #[arg(long, value_name = "PATTERN")]
    pub rate: Option<String>,
    /// Bytes of a message, header included: BYTES, a list as in 1k=80,50k=18,1m=2, lognormal:MEDIAN,SIGMA or uniform:A..B
    #[arg(long, value_name = "SIZES", default_value = "4096")]
    pub size: String,
    /// Send the .eml files of this directory instead of made-up messages
    #[arg(long, value_name = "DIR")]
    pub eml: Option<PathBuf>,
    /// Recipients of a message: N, or a list as in 1=90,5=9,50=1
    #[arg(long, value_name = "COUNTS", default_value = "1")]
    pub recipients: String,
    /// Recipient domains d0.load.invalid to d(N-1).load.invalid: N, or zipf:N with the first the most frequent
    #[arg(long, value_name = "N", default_value = "1")]
    pub domains: String,
    /// A recipient domain and its weight instead; may be given again
    #[arg(long, value_name = "NAME[=WEIGHT]")]
    pub domain: Vec<String>,
    /// A prefix of recipients' local parts and its weight; may be given again
    #[arg(long, value_name = "PREFIX[=WEIGHT]", default_value = "load")]
    pub local: Vec<String>,
    /// Domain of senders
    #[arg(long, value_name = "NAME", default_value = "source.load.invalid")]
    pub sender_domain: String,
    /// Tenants: sender domains t0.DOMAIN to t(N-1).DOMAIN below --sender-domain: N or zipf:N
    #[arg(long, value_name = "N")]
    pub tenants: Option<String>,
    /// Messages on a connection before QUIT; 0 keeps it
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "The dialogue")]
    pub reuse: u64,
    /// An envelope in one write and the next one behind the final dot, if the relay offers PIPELINING (the default)
    #[arg(long, overrides_with = "no_pipelining", help_heading = "The dialogue")]
    pub pipelining: bool,
    /// Wait for each reply
    #[arg(long, help_heading = "The dialogue")]
    pub no_pipelining: bool,
    /// Send content with BDAT, in one chunk (RFC 3030)
    #[arg(long, help_heading = "The dialogue")]
    pub bdat: bool,
    /// Speak LMTP (RFC 2033)
    #[arg(long, help_heading = "The dialogue")]
    pub lmtp: bool,
    /// Secure connections: after STARTTLS or from the start. Any certificate is taken
    #[arg(long, value_name = "WHEN", value_enum, default_value_t = TlsMode::Off, help_heading = "The dialogue")]
    pub tls: TlsMode,
    /// A full TLS handshake for each connection
    #[arg(long, help_heading = "The dialogue")]
    pub no_resume: bool,
    /// The name asked for with TLS
    #[arg(long, value_name = "NAME", default_value = "relay.load.invalid", help_heading = "The dialogue")]
    pub server_name: String,
    /// Authenticate with AUTH PLAIN
    #[arg(long, value_name = "USER:PASSWORD", help_heading = "The dialogue")]
    pub auth: Option<String>,
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
    /// Allow targets and sinks that are not loopback, and domains that might exist
    #[arg(long)]
    pub i_own_this_host: bool,
}

/// How a sink behaves.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "The sink")]
pub struct SinkOptions {
    /// Sink threads
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub sink_threads: usize,
    /// Rules of refusal.
    #[arg(
        long,
        value_name = "RULE",
        help = "Refuse: PATTERN=ACTION@STAGE[:first=N][:p=SHARE], as in 'defer*=450 4.2.0 try later@rcpt:first=1' or \
                'cut*=drop@data'; stages are rcpt, data and dot. May be given again"
    )]
    pub refuse: Vec<String>,
    /// Do not offer PIPELINING
    #[arg(long)]
    pub sink_no_pipelining: bool,
    /// Do not offer CHUNKING
    #[arg(long)]
    pub no_chunking: bool,
    /// A profile of behaviour: clean, provider-mix, deferral-storm, slow, flaky, or a TOML file. Each listener counts for itself
    #[arg(long, value_name = "NAME|FILE")]
    pub profile: Option<String>,
    /// Offer STARTTLS, or expect TLS from the start
    #[arg(long, value_name = "WHEN", value_enum, default_value_t = TlsMode::Off)]
    pub sink_tls: TlsMode,
    /// Certificate and key in PEM instead of a self-made one
    #[arg(long, value_name = "FILE", requires = "sink_key")]
    pub sink_cert: Option<PathBuf>,
    /// Key of --sink-cert
    #[arg(long, value_name = "FILE", requires = "sink_cert")]
    pub sink_key: Option<PathBuf>,
    /// Offer AUTH PLAIN, and take mail only after it
    #[arg(long, value_name = "USER:PASSWORD")]
    pub sink_auth: Option<String>,
    /// Speak LMTP
    #[arg(long)]
    pub sink_lmtp: bool,
    /// Keep whole messages: in a Maildir, or in one file if it ends in .mbox
    #[arg(long, value_name = "DIR|FILE.mbox")]
    pub keep: Option<PathBuf>,
}
