//! PURE. The settings as modules are given them: one plain struct for each, with the defaults.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::listener::Listener;
use super::schedule::{Bounce, Schedule};
use crate::limits::{LEG_RECIPIENTS_MAX, RECIPIENTS_MAX};
use crate::routing::site::Site;
use crate::routing::source::{Pool, Source};
use crate::routing::{Rate, RouteTable, TlsPolicy};

/// Bytes in a KiB.
pub(super) const KIB: u64 = 1 << 10;
/// Bytes in a MiB.
pub(super) const MIB: u64 = 1 << 20;
/// Bytes in a GiB.
pub(super) const GIB: u64 = 1 << 30;
/// Most shards, and most workers: beyond it the windows between each pair cost more memory than they serve.
pub(super) const ROLES_MAX: u16 = 256;

const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}
const fn minutes(count: u64) -> Duration {
    Duration::from_secs(count * 60)
}
const fn hours(count: u64) -> Duration {
    Duration::from_secs(count * 3600)
}
const fn local(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

/// Everything that can be set. Immutable once loaded.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Config {
    /// Receiving.
    pub smtp: Smtp,
    /// Places to listen with a policy of their own, besides `smtp.listen`; [`Config::listeners`] gives all.
    pub listeners: Vec<Listener>,
    /// Further certificates, chosen by the name that the client wants.
    pub certificates: Vec<Certificate>,
    /// Users.
    pub auth: Auth,
    /// Budgets of the whole process.
    pub limits: Limits,
    /// Keeping.
    pub spool: Spool,
    /// Where mail goes.
    pub routing: Routing,
    /// Our own domains.
    pub mailboxes: MailboxesFile,
    /// Sending.
    pub delivery: Delivery,
    /// Rules for where mail is sent to, in the order of the file.
    pub sites: Vec<Site>,
    /// Exceptions from its waits; the first that matches wins.
    pub schedules: Vec<Schedule>,
    /// Bounces.
    pub bounce: Bounce,
    /// Where mail is sent from.
    pub sources: Vec<Source>,
    /// Sources that share mail.
    pub pools: Vec<Pool>,
    /// Tenants whose turns are not like everybody's.
    pub tenants: Vec<Tenant>,
    /// DNS.
    pub resolver: Resolver,
    /// Health and metrics.
    pub admin: Admin,
    /// Shards and workers.
    pub threads: Threads,
    /// Log lines.
    pub log: Log,
}

/// Receiving mail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Smtp {
    /// Our name in the banner, in replies and in `Received`. Empty in a file means the system's.
    pub hostname: String,
    /// Where to listen as a relay; at least one if there are no other listeners.
    pub listen: Vec<SocketAddr>,
    /// Clients in these networks may send to any domain.
    pub relay_networks: Vec<Network>,
    /// Anybody may send to these domains, lower case; `*.domain` is all below it.
    pub relay_domains: Vec<String>,
    /// Proxies that begin each connection with a PROXY header.
    pub proxy_networks: Vec<Network>,
    /// Proxies that may use XCLIENT.
    pub xclient_networks: Vec<Network>,
    /// Longest message, bytes; announced by SIZE.
    pub message_bytes_max: u64,
    /// Most recipients of a transaction, 1 to [`RECIPIENTS_MAX`].
    pub recipients_max: u16,
    /// How long clients outside `relay_networks` must be silent before the banner.
    pub banner_wait: Duration,
    /// From a reply to the end of the next command. RFC 5321 §4.5.3.2.7 asks for 5 minutes at least.
    pub command_timeout: Duration,
    /// Wait for more of a message. RFC 5321 §4.5.3.2.5 gives senders 3 minutes a block.
    pub data_timeout: Duration,
    /// Least rate of a message behind its first `data_timeout`, bytes a second; 0 is none.
    pub data_rate_min: u64,
    /// PEM file with the certificate chain; empty, and one is made.
    pub tls_certificate: PathBuf,
    /// PEM file with its key; empty if and only if the certificate is.
    pub tls_key: PathBuf,
}

impl Default for Smtp {
    fn default() -> Self {
        Self {
            hostname: String::new(),
            listen: vec![local(2525)],
            relay_networks: vec![
                Network { address: IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), prefix: 8 },
                Network { address: IpAddr::V6(Ipv6Addr::LOCALHOST), prefix: 128 },
            ],
            relay_domains: Vec::new(),
            proxy_networks: Vec::new(),
            xclient_networks: Vec::new(),
            message_bytes_max: 50 * MIB,
            recipients_max: RECIPIENTS_MAX as u16,
            banner_wait: Duration::from_millis(1),
            command_timeout: minutes(5),
            data_timeout: minutes(5),
            data_rate_min: 500,
            tls_certificate: PathBuf::new(),
            tls_key: PathBuf::new(),
        }
    }
}

/// One `[[certificate]]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Certificate {
    /// PEM file with the chain.
    pub chain: PathBuf,
    /// PEM file with its key.
    pub key: PathBuf,
}

/// Users who log in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Auth {
    /// The users file; empty, and nobody can log in.
    pub users_file: PathBuf,
    /// Clients in these networks may send passwords in the clear.
    pub cleartext_networks: Vec<Network>,
    /// Failures within the window after which an address must wait; its network after `limits.network_factor` times as many.
    pub failures_by_address: u32,
    /// Likewise for a user.
    pub failures_by_user: u32,
    /// How long failures are remembered.
    pub failure_window: Duration,
}

impl Default for Auth {
    fn default() -> Self {
        Self {
            users_file: PathBuf::new(),
            cleartext_networks: Vec::new(),
            failures_by_address: 10,
            failures_by_user: 100,
            failure_window: minutes(10),
        }
    }
}

/// Budgets of the whole process, divided among the shards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Inbound connections open at once; the next one is told 421.
    pub connections_max: u32,
    /// Bytes of messages being received at once; beyond it 452.
    pub in_flight_bytes_max: u64,
    /// Bytes of accepted messages kept in memory for delivery; others are read back from the spool.
    pub resident_bytes_max: u64,
    /// Connections open at once from one address; 0 is no limit, here and below.
    pub address_connections_max: u32,
    /// Connections opened a minute from one address.
    pub address_connections_per_minute: u32,
    /// MAIL commands a minute from one address.
    pub address_messages_per_minute: u32,
    /// Commands answered 5xx a minute to one address.
    pub address_errors_per_minute: u32,
    /// How many times as much a network (/24, or /64 for IPv6) may do.
    pub network_factor: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 10_000,
            in_flight_bytes_max: 256 * MIB,
            resident_bytes_max: 256 * MIB,
            address_connections_max: 50,
            address_connections_per_minute: 600,
            address_messages_per_minute: 6000,
            address_errors_per_minute: 120,
            network_factor: 4,
        }
    }
}

/// Keeping mail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spool {
    /// Where messages are kept; created if its parent exists.
    pub directory: PathBuf,
    /// Size of a log segment, bytes; a multiple of 1 MiB.
    pub segment_bytes: u64,
    /// Disk space that new mail may not use, bytes: outcomes, bounces and moving need it.
    pub reserve_bytes: u64,
    /// What `ringpost-tune disk` measured there; empty for none.
    pub disk_profile: PathBuf,
}

impl Default for Spool {
    fn default() -> Self {
        Self {
            directory: PathBuf::from("./ringpost-spool"),
            segment_bytes: 64 * MIB,
            reserve_bytes: 256 * MIB,
            disk_profile: PathBuf::new(),
        }
    }
}

/// Where mail goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Routing {
    /// Domain → target.
    pub table: RouteTable,
}

/// Our own domains: who has a mailbox or an alias in them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MailboxesFile {
    /// The file; empty, and no domain is our own.
    pub file: PathBuf,
}

/// Sending mail.
#[derive(Clone, Debug, PartialEq)]
pub struct Delivery {
    /// Our name in EHLO. Empty in a file means `smtp.hostname`.
    pub ehlo_name: String,
    /// Pool of mail that no other takes; empty: the system chooses our end of a connection.
    pub pool: String,
    /// Header field in which clients that may relay name a message's pool; empty is none.
    pub pool_header: String,
    /// Port of MX hosts: 25, but for tests and labs.
    pub mx_port: u16,
    /// Whether loopback and private addresses may be MX targets: for tests and labs.
    pub allow_loopback_mx: bool,
    /// What encryption is asked for where no site says otherwise.
    pub tls: TlsPolicy,
    /// Connections open at once to one path.
    pub connections_max: u16,
    /// Messages after which a connection is closed.
    pub messages_per_connection_max: u32,
    /// Recipients of one transaction, 1 to [`LEG_RECIPIENTS_MAX`].
    pub recipients_per_transaction_max: u16,
    /// How long a connection without work is kept.
    pub idle_timeout: Duration,
    /// Connections opened to one path.
    pub connection_rate: Option<Rate>,
    /// Messages sent to one path.
    pub message_rate: Option<Rate>,
    /// Whether sites of large mailbox providers come with the program.
    pub providers: bool,
    /// Jobs of one path that may be at the workers at once.
    pub window: u32,
    /// Waits for the remote.
    pub timeouts: Timeouts,
    /// First wait before a retry.
    pub retry_first: Duration,
    /// What each further wait is multiplied with, at least 1.
    pub retry_factor: f64,
    /// Longest wait between retries.
    pub retry_max: Duration,
    /// Part of the wait, 0 to 1, by which it is varied either way.
    pub retry_jitter: f64,
    /// Age at which a message bounces.
    pub expire_after: Duration,
    /// Age at which the sender is told that a message is late; zero means never.
    pub delay_after: Duration,
    /// Age at which a held message bounces.
    pub hold_max: Duration,
}

/// Waits of a delivery for the remote. The defaults are RFC 5321 §4.5.3.2's, where it has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// TCP connection.
    pub connect: Duration,
    /// Banner (§4.5.3.2.1).
    pub greeting: Duration,
    /// EHLO, MAIL, RSET, QUIT (§4.5.3.2.2).
    pub command: Duration,
    /// RCPT (§4.5.3.2.3).
    pub recipient: Duration,
    /// DATA (§4.5.3.2.4).
    pub data: Duration,
    /// Writing a block of the message (§4.5.3.2.5).
    pub block: Duration,
    /// The final dot (§4.5.3.2.6).
    pub end_of_data: Duration,
    /// The whole attempt, whatever the remote does to prolong it.
    pub attempt: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: seconds(30),
            greeting: minutes(5),
            command: minutes(5),
            recipient: minutes(5),
            data: minutes(2),
            block: minutes(3),
            end_of_data: minutes(10),
            attempt: minutes(30),
        }
    }
}

impl Default for Delivery {
    fn default() -> Self {
        Self {
            ehlo_name: String::new(),
            pool: String::new(),
            pool_header: String::new(),
            mx_port: 25,
            allow_loopback_mx: false,
            tls: TlsPolicy::Opportunistic,
            connections_max: 10,
            messages_per_connection_max: 100,
            recipients_per_transaction_max: LEG_RECIPIENTS_MAX as u16,
            idle_timeout: seconds(60),
            connection_rate: None,
            message_rate: None,
            providers: true,
            window: 1024,
            timeouts: Timeouts::default(),
            retry_first: minutes(5),
            retry_factor: 2.0,
            retry_max: hours(4),
            retry_jitter: 0.2,
            // RFC 5321 §4.5.4.1: the give-up time needs to be 4 to 5 days at least.
            expire_after: hours(5 * 24),
            delay_after: hours(4),
            hold_max: hours(30 * 24),
        }
    }
}

/// A `[[tenant]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tenant {
    /// As logins and listeners name it.
    pub name: String,
    /// Its share of a path that several tenants want, against the 1 of those that have no weight.
    pub weight: u32,
}

impl Default for Tenant {
    fn default() -> Self {
        Self { name: String::new(), weight: 1 }
    }
}

/// DNS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolver {
    /// Servers to ask, with their ports; empty means those of /etc/resolv.conf.
    pub addresses: Vec<SocketAddr>,
    /// Wait for one server.
    pub timeout: Duration,
    /// Tries in all.
    pub attempts: u8,
    /// An answer is kept at least so long.
    pub ttl_min: Duration,
    /// An answer is kept at most so long.
    pub ttl_max: Duration,
    /// Wait before a lookup that failed is tried again.
    pub retry: Duration,
}

impl Default for Resolver {
    fn default() -> Self {
        Self {
            addresses: Vec::new(),
            timeout: seconds(5),
            attempts: 3,
            ttl_min: seconds(30),
            ttl_max: hours(1),
            retry: seconds(60),
        }
    }
}

/// Health and metrics over HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Where to listen.
    pub listen: SocketAddr,
}

impl Default for Admin {
    fn default() -> Self {
        Self { listen: local(9925) }
    }
}

/// How roles are laid on threads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wiring {
    /// What measurement says is best for the number of CPUs.
    #[default]
    Auto,
    /// A shard and a worker share an executor.
    Shared,
    /// Each has its own.
    Split,
}

/// Shards and workers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Threads {
    /// Shards; 0 in a file's place means one per CPU.
    pub shards: u16,
    /// Delivery workers; likewise.
    pub workers: u16,
    /// One executor for both, or one each.
    pub wiring: Wiring,
    /// Whether each executor stays on one CPU.
    pub pin: bool,
    /// Whether a connection goes to the shard on whose CPU its packets come in. Without `pin` it does nothing.
    pub steer: bool,
}

impl Default for Threads {
    fn default() -> Self {
        Self { shards: 0, workers: 0, wiring: Wiring::Auto, pin: true, steer: false }
    }
}

/// The form of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// The least important lines that are still written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogLevel {
    /// Nothing but local errors.
    Error,
    /// And what may become one.
    Warn,
    /// And one line per message accepted and per outcome.
    #[default]
    Info,
    /// And peers' errors.
    Debug,
    /// Everything.
    Trace,
}

/// Log lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log {
    /// Text or JSON.
    pub format: LogFormat,
    /// From which level on.
    pub level: LogLevel,
}

/// A block of addresses, `192.0.2.0/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// First address; the bits behind the prefix are zero.
    pub address: IpAddr,
    /// Leading bits that must agree: up to 32, or 128 for IPv6.
    pub prefix: u8,
}

impl Network {
    /// Whether `address` lies in it. An IPv4 address mapped into IPv6, as dual-stack listeners give, counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(ours), IpAddr::V4(theirs)) => {
                (ours.to_bits() ^ theirs.to_bits()) & mask4(self.prefix) == 0
            }
            (IpAddr::V6(ours), IpAddr::V6(theirs)) => {
                (ours.to_bits() ^ theirs.to_bits()) & mask6(self.prefix) == 0
            }
            _ => false,
        }
    }
}

fn mask4(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0)
}

fn mask6(prefix: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(prefix.min(128))).unwrap_or(0)
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| format!("`{text}` is no network"))?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => bits,
            Some(digits) => match digits.parse::<u8>() {
                Ok(prefix) if prefix <= bits => prefix,
                _ => return Err(format!("the prefix of `{text}` is not 0 to {bits}")),
            },
        };
        // A set bit behind the prefix is nearly always a slip that would open the relay wider than meant.
        let first = match address {
            IpAddr::V4(address) => IpAddr::V4(Ipv4Addr::from_bits(address.to_bits() & mask4(prefix))),
            IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & mask6(prefix))),
        };
        if first != address {
            return Err(format!(
                "`{text}` has bits set behind its prefix: `{first}/{prefix}` is the network"
            ));
        }
        Ok(Network { address, prefix })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_holds_its_addresses_and_no_others() {
        let check = |network: &str, address: &str, want: bool| {
            let network: Network = network.parse().expect("test network");
            assert_eq!(network.contains(address.parse().expect("test address")), want, "{network} {address}");
        };
        check("127.0.0.0/8", "127.255.0.1", true);
        check("127.0.0.0/8", "128.0.0.1", false);
        check("127.0.0.0/8", "::ffff:127.0.0.1", true);
        check("127.0.0.0/8", "::1", false);
        check("0.0.0.0/0", "203.0.113.9", true);
        check("0.0.0.0/0", "2001:db8::1", false);
        check("192.0.2.7", "192.0.2.7", true);
        check("192.0.2.7", "192.0.2.6", false);
        check("2001:db8::/33", "2001:db8:7fff::1", true);
        check("2001:db8::/33", "2001:db8:8000::1", false);
        check("::/0", "::1", true);
    }

    #[test]
    fn a_network_with_bits_behind_its_prefix_is_refused_with_the_right_one() {
        let error = "10.1.2.3/8".parse::<Network>().expect_err("slip");
        assert!(error.contains("10.0.0.0/8"), "{error}");
        for text in ["", "10.0.0.0/33", "::/129", "10.0.0/8", "10.0.0.0/", "10.0.0.0/-1"] {
            assert!(text.parse::<Network>().is_err(), "{text}");
        }
    }
}
