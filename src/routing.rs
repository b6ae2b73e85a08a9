//! PURE. Where mail goes: the configured routes, and the paths that control makes of them.
//!
//! A *route* is what the operator wrote: a domain pattern and a [`Target`]. A *path* is what a worker can send to: hosts
//! with addresses and limits, shared by every domain whose mail goes to the same hosts. The map from one to the other is
//! made by `control::resolver`, which alone asks the DNS; shards keep only [`PathId`]s.

mod domain_map;
mod rate;
pub mod security;
pub mod site;
pub mod source;

use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use crate::endpoint::is_socket_path;
use crate::id::PathId;
use crate::limits::DOMAIN_BYTES_MAX;
use crate::outcome::Reply;
pub use domain_map::{DomainMap, PatternError};
pub use rate::{ParseRateError, Rate};
pub use security::{Security, TlsPolicy, Way};
use source::SourcePool;

/// Port of a `smtp://` target that names none.
const SMTP_PORT: u16 = 25;
/// Likewise of a `smtps://` target (RFC 8314 §3.3).
const SMTPS_PORT: u16 = 465;
/// Likewise of a `lmtp://` target: the one that most servers are shown with, as there is no registered one.
const LMTP_PORT: u16 = 24;

/// What the operator wants done with the mail of a domain.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// To the hosts that the domain's MX records name (RFC 5321 §5.1).
    Mx,
    /// To this host, whatever the domain.
    Smtp {
        /// Lower-case host name, or an IP address without brackets.
        host: Box<str>,
        /// TCP port, never 0.
        port: u16,
        /// Whether TLS comes from the first byte on.
        implicit_tls: bool,
    },
    /// To the delivery agent behind this address, by LMTP (RFC 2033).
    Lmtp {
        /// As above.
        host: Box<str>,
        /// As above.
        port: u16,
    },
    /// Likewise behind this unix socket, an absolute path.
    LmtpSocket(Box<Path>),
    /// Into the Maildirs that the mailboxes file names.
    Maildir,
    /// Nowhere: taken as delivered at once. For measuring.
    Discard,
    /// Kept in the spool; nothing is delivered until the route changes.
    Hold,
}

/// A text that is no target.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a target: allowed are `mx`, `smtp://HOST:PORT`, `smtps://HOST:PORT`, `lmtp://HOST:PORT`, \
     `lmtp:/PATH/OF/SOCKET`, `maildir`, `discard` and `hold`"
)]
pub struct ParseTargetError(pub String);

impl FromStr for Target {
    type Err = ParseTargetError;

    fn from_str(text: &str) -> Result<Self, ParseTargetError> {
        let wrong = || ParseTargetError(text.to_owned());
        match text {
            "mx" => return Ok(Target::Mx),
            "discard" => return Ok(Target::Discard),
            "hold" => return Ok(Target::Hold),
            "maildir" => return Ok(Target::Maildir),
            _ => {}
        }
        if let Some(rest) = text.strip_prefix("smtp://") {
            let (host, port) = host_and_port(rest, SMTP_PORT).ok_or_else(wrong)?;
            Ok(Target::Smtp { host, port, implicit_tls: false })
        } else if let Some(rest) = text.strip_prefix("smtps://") {
            let (host, port) = host_and_port(rest, SMTPS_PORT).ok_or_else(wrong)?;
            Ok(Target::Smtp { host, port, implicit_tls: true })
        } else if let Some(rest) = text.strip_prefix("lmtp://") {
            let (host, port) = host_and_port(rest, LMTP_PORT).ok_or_else(wrong)?;
            Ok(Target::Lmtp { host, port })
        } else {
            let path = text.strip_prefix("lmtp:").filter(|path| is_socket_path(path)).ok_or_else(wrong)?;
            Ok(Target::LmtpSocket(Path::new(path).into()))
        }
    }
}

/// `HOST`, `HOST:PORT` or `[V6]:PORT`, a slash behind it allowed.
fn host_and_port(text: &str, default: u16) -> Option<(Box<str>, u16)> {
    let text = text.strip_suffix('/').unwrap_or(text);
    let (host, port) = if let Some(bracketed) = text.strip_prefix('[') {
        let (host, port) = bracketed.split_once(']')?;
        host.parse::<std::net::Ipv6Addr>().ok()?;
        (host, if port.is_empty() { None } else { Some(port.strip_prefix(':')?) })
    } else {
        match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        }
    };
    let port = match port {
        Some(digits) => digits.parse().ok().filter(|port| *port != 0)?,
        None => default,
    };
    let is_host = host.parse::<IpAddr>().is_ok() || is_host_name(host);
    is_host.then(|| (host.to_ascii_lowercase().into_boxed_str(), port))
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Mx => f.write_str("mx"),
            Target::Smtp { host, port, implicit_tls } => {
                let scheme = if *implicit_tls { "smtps" } else { "smtp" };
                write!(f, "{scheme}://{}:{port}", bracketed(host))
            }
            Target::Lmtp { host, port } => write!(f, "lmtp://{}:{port}", bracketed(host)),
            Target::LmtpSocket(path) => write!(f, "lmtp:{}", path.display()),
            Target::Maildir => f.write_str("maildir"),
            Target::Discard => f.write_str("discard"),
            Target::Hold => f.write_str("hold"),
        }
    }
}

/// A host as it stands before a port.
fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

/// Whether `text` is a host name: labels of letters, digits, `-` and `_` (seen in the wild), 1 to 63 bytes each.
pub fn is_host_name(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= DOMAIN_BYTES_MAX && text.split('.').all(label)
}

/// Whether `text` is a domain as mail uses it: like [`is_host_name`], and letters beyond ASCII too (RFC 6531).
pub fn is_domain(text: &str) -> bool {
    if text.is_ascii() {
        return is_host_name(text);
    }
    text.len() <= DOMAIN_BYTES_MAX
        && text.split('.').all(|label| !label.is_empty())
        && text.chars().all(|c| !c.is_ascii() || c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
        && !text.contains(char::is_control)
}

/// Domain patterns and their targets; `*` is every domain that no other pattern matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteTable {
    patterns: DomainMap<Target>,
    default: Target,
}

impl Default for RouteTable {
    /// Everything is held: a relay that nobody configured sends no mail.
    fn default() -> Self {
        Self { patterns: DomainMap::default(), default: Target::Hold }
    }
}

impl RouteTable {
    /// Routes `pattern` to `target`, in place of what it had before.
    ///
    /// # Errors
    /// When `pattern` is neither `*` nor a pattern of [`DomainMap::insert`].
    pub fn insert(&mut self, pattern: &str, target: Target) -> Result<(), PatternError> {
        if pattern == "*" {
            self.default = target;
            return Ok(());
        }
        self.patterns.insert(pattern, target)
    }

    /// The target of `domain`, which must be in lower case.
    pub fn target(&self, domain: &str) -> &Target {
        self.patterns.get(domain).unwrap_or(&self.default)
    }

    /// Patterns and targets as the configuration writes them; `*` comes last.
    pub fn entries(&self) -> impl Iterator<Item = (String, &Target)> {
        self.patterns.entries().chain(std::iter::once(("*".to_owned(), &self.default)))
    }
}

/// The address in a domain that is an address literal, `[192.0.2.1]` or `[IPv6:2001:db8::1]` (RFC 5321 §4.1.3).
pub fn literal_address(domain: &str) -> Option<IpAddr> {
    let inner = domain.strip_prefix('[')?.strip_suffix(']')?;
    match inner.get(..5) {
        Some(tag) if tag.eq_ignore_ascii_case("ipv6:") => inner[5..].parse().ok().map(IpAddr::V6),
        _ => inner.parse().ok().map(IpAddr::V4),
    }
}

/// One host of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathHost {
    /// Lower-case host name, or an IP address.
    pub name: Box<str>,
    /// TCP port.
    pub port: u16,
    /// Where it can be reached; at least one.
    pub addresses: Vec<IpAddr>,
    /// MX preference, lower first; 0 for a configured host.
    pub preference: u16,
}

/// Hosts of a domain whose path is shared by domains with other hosts. The same hosts are one allocation.
pub type DomainHosts = Arc<[PathHost]>;

/// What a worker does with the jobs of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathKind {
    /// Sends them to the first host that takes them; each connection tries equals in an order of its own.
    Smtp {
        /// By preference. None: the path is that of a site, and each job brings the hosts of its domain.
        hosts: Vec<PathHost>,
    },
    /// Likewise by LMTP (RFC 2033).
    Lmtp {
        /// At least one, in the order to try.
        hosts: Vec<PathHost>,
    },
    /// By LMTP to whoever listens on this unix socket.
    LmtpSocket(Box<Path>),
    /// Puts them into Maildirs.
    Maildir,
    /// Reports them delivered.
    Discard,
    /// Gets none: shards grant nothing to it and keep the legs.
    Hold,
}

impl PathKind {
    /// Whether its jobs go out over connections, or what takes their place: they cost time, and other workers can help.
    pub fn is_sent(&self) -> bool {
        !matches!(self, Self::Discard | Self::Hold)
    }

    /// Whether its connections speak LMTP.
    pub fn is_lmtp(&self) -> bool {
        matches!(self, Self::Lmtp { .. } | Self::LmtpSocket(_))
    }
}

/// What a path may use at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathLimits {
    /// Connections open at once, over all its hosts and lanes; at least 1.
    pub connections: u16,
    /// Messages after which a connection is closed; at least 1.
    pub messages_per_connection: u32,
    /// Recipients of one transaction, 1 to [`crate::limits::LEG_RECIPIENTS_MAX`].
    pub recipients_per_transaction: u16,
    /// Jobs that all shards together may have at the workers; at least 1.
    pub window: u32,
    /// How long a connection without work is kept open.
    pub idle: Duration,
    /// Connections opened, over all its hosts and lanes.
    pub connection_rate: Option<Rate>,
    /// Transactions begun, likewise.
    pub message_rate: Option<Rate>,
    /// Not how much, but how.
    pub security: Security,
}

/// A path as control made it. Immutable: when addresses change, the same id comes with a higher version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathSpec {
    /// For the life of the process; the same for all domains with the same hosts, by the same pool.
    pub id: PathId,
    /// Rises each time the path's hosts or addresses change. From 1.
    pub version: u32,
    /// For logs and metrics: the first host and how many more, the smart host, or the kind. Bounded, printable.
    pub name: String,
    /// What it does.
    pub kind: PathKind,
    /// What it may use.
    pub limits: PathLimits,
    /// Where its connections come from.
    pub pool: Arc<SourcePool>,
}

/// What control says about a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteAnswer {
    /// Mail of the domain goes over this path.
    Path {
        /// The path, shared by all who were told of this version.
        spec: Arc<PathSpec>,
        /// The domain's own hosts, if the path has none.
        hosts: Option<DomainHosts>,
        /// Ask again after this; until the next answer the old one serves.
        valid_for: Duration,
    },
    /// The domain takes no mail: its legs fail with this reply (null MX: 5.1.10, RFC 7505; no such domain: 5.1.2).
    Refused {
        /// Code 0: the words are ours.
        reply: Reply,
    },
    /// Not known now: the domain waits, no attempt is counted.
    Delayed {
        /// What expiry quotes.
        reply: Reply,
        /// Ask again after this.
        retry_in: Duration,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(entries: &[(&str, &str)]) -> RouteTable {
        let mut table = RouteTable::default();
        for (pattern, target) in entries {
            table.insert(pattern, target.parse().expect("test target")).expect("test pattern");
        }
        table
    }

    #[test]
    fn targets_are_read_and_shown_alike() {
        let check = |text: &str, want: &str| {
            assert_eq!(text.parse::<Target>().map(|t| t.to_string()), Ok(want.to_owned()), "{text}");
        };
        check("mx", "mx");
        check("hold", "hold");
        check("discard", "discard");
        check("smtp://Relay.example:2526", "smtp://relay.example:2526");
        check("smtp://relay.example", "smtp://relay.example:25");
        check("smtp://127.0.0.1:2526/", "smtp://127.0.0.1:2526");
        check("smtp://[::1]:25", "smtp://[::1]:25");
        check("smtp://[::1]", "smtp://[::1]:25");
        check("lmtp://127.0.0.1", "lmtp://127.0.0.1:24");
        check("lmtp://[::1]:2400", "lmtp://[::1]:2400");
        check("lmtp:/run/dovecot/lmtp", "lmtp:/run/dovecot/lmtp");
        check("maildir", "maildir");
        check("smtps://relay.example", "smtps://relay.example:465");
        check("smtps://[::1]:4650", "smtps://[::1]:4650");
    }

    #[test]
    fn texts_that_are_no_target_are_refused() {
        let long = format!("lmtp:/{}", "x".repeat(crate::endpoint::SOCKET_PATH_BYTES_MAX));
        for text in [
            "",
            "MX",
            "smtp://",
            "smtp://:25",
            "smtp://a:0",
            "smtp://a:65536",
            "smtp://a b:25",
            "smtp://::1:25",
            "smtp://[::1",
            "smtp://[::1]25",
            "smtp://[a]:25",
            "smtpss://a:465",
            "smtp://-a:25",
            "lmtp",
            "lmtp:",
            "lmtp:/",
            "lmtp:run/dovecot/lmtp",
            "lmtp:/run/dovecot/",
            "lmtp:/run/a\nb",
            "lmtp://",
            "maildir:/home",
            &long,
        ] {
            assert_eq!(text.parse::<Target>(), Err(ParseTargetError(text.to_owned())));
        }
    }

    #[test]
    fn most_specific_route_wins() {
        let table = table(&[
            ("*", "discard"),
            ("*.example.com", "smtp://wide:25"),
            ("*.mail.example.com", "smtp://narrow:25"),
            ("a.mail.example.com", "hold"),
            ("[192.0.2.1]", "mx"),
        ]);
        let check = |domain: &str, want: &str| assert_eq!(table.target(domain).to_string(), want, "{domain}");
        check("a.mail.example.com", "hold");
        check("b.mail.example.com", "smtp://narrow:25");
        check("mail.example.com", "smtp://wide:25");
        check("example.com", "discard");
        check("notexample.com", "discard");
        check("[192.0.2.1]", "mx");
        check("", "discard");
    }

    #[test]
    fn without_routes_all_mail_is_held() {
        assert_eq!(RouteTable::default().target("example.com"), &Target::Hold);
    }

    #[test]
    fn patterns_that_can_match_nothing_are_refused() {
        for pattern in ["", "*.", "**", "a.*.com", "a..b", ".com", "a b", "user@example.com"] {
            assert!(RouteTable::default().insert(pattern, Target::Mx).is_err(), "{pattern}");
        }
    }

    #[test]
    fn address_literals_are_understood_in_both_families() {
        let check = |text: &str, want: Option<&str>| {
            assert_eq!(literal_address(text), want.map(|a| a.parse().expect("test address")), "{text}");
        };
        check("[192.0.2.1]", Some("192.0.2.1"));
        check("[ipv6:2001:db8::1]", Some("2001:db8::1"));
        check("[IPv6:::1]", Some("::1"));
        check("[2001:db8::1]", None);
        check("192.0.2.1", None);
        check("[é:é:]", None);
        check("[]", None);
    }
}
