//! PURE. Where mail goes: the configured routes, and the paths that control makes of them.
//!
//! A *route* is what the operator wrote: a domain pattern and a [`Target`]. A *path* is what a worker can send to: hosts
//! with addresses and limits, shared by every domain whose mail goes to the same hosts. The map from one to the other is
//! made by `control::resolver`, which alone asks the DNS; shards keep only [`PathId`]s.

mod domain_map;
mod rate;
pub mod security;
pub mod site;

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use crate::id::PathId;
use crate::limits::DOMAIN_BYTES_MAX;
use crate::outcome::Reply;
pub use domain_map::{DomainMap, PatternError};
pub use rate::{ParseRateError, Rate};
pub use security::{Security, TlsPolicy, Way};

/// Port of a `smtp://` target that names none.
const SMTP_PORT: u16 = 25;
/// Likewise of a `smtps://` target (RFC 8314 §3.3).
const SMTPS_PORT: u16 = 465;

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
    /// Nowhere: taken as delivered at once. For measuring.
    Discard,
    /// Kept in the spool; nothing is delivered until the route changes.
    Hold,
}

/// A text that is no target.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a target: allowed are `mx`, `smtp://HOST:PORT`, `smtps://HOST:PORT`, `discard` and `hold`"
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
            _ => {}
        }
        let implicit = text.strip_prefix("smtps://");
        let (implicit_tls, usual_port) =
            if implicit.is_some() { (true, SMTPS_PORT) } else { (false, SMTP_PORT) };
        let rest = implicit.or_else(|| text.strip_prefix("smtp://")).ok_or_else(wrong)?;
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = if let Some(bracketed) = rest.strip_prefix('[') {
            let (host, port) = bracketed.split_once(']').ok_or_else(wrong)?;
            host.parse::<std::net::Ipv6Addr>().map_err(|_| wrong())?;
            (host, if port.is_empty() { None } else { Some(port.strip_prefix(':').ok_or_else(wrong)?) })
        } else {
            match rest.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (rest, None),
            }
        };
        let port = match port {
            Some(digits) => digits.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?,
            None => usual_port,
        };
        if host.parse::<IpAddr>().is_err() && !is_host_name(host) {
            return Err(wrong());
        }
        Ok(Target::Smtp { host: host.to_ascii_lowercase().into_boxed_str(), port, implicit_tls })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Mx => f.write_str("mx"),
            Target::Smtp { host, port, implicit_tls } => {
                let scheme = if *implicit_tls { "smtps" } else { "smtp" };
                let (open, close) = if host.contains(':') { ("[", "]") } else { ("", "") };
                write!(f, "{scheme}://{open}{host}{close}:{port}")
            }
            Target::Discard => f.write_str("discard"),
            Target::Hold => f.write_str("hold"),
        }
    }
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

/// What a worker does with the jobs of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathKind {
    /// Sends them to the first host that takes them; each connection tries equals in an order of its own.
    Smtp {
        /// At least one, by preference.
        hosts: Vec<PathHost>,
    },
    /// Reports them delivered.
    Discard,
    /// Gets none: shards grant nothing to it and keep the legs.
    Hold,
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
    /// For the life of the process; the same for all domains with the same hosts.
    pub id: PathId,
    /// Rises each time the path's hosts or addresses change. From 1.
    pub version: u32,
    /// For logs and metrics: the first host and how many more, the smart host, or the kind. Bounded, printable.
    pub name: String,
    /// What it does.
    pub kind: PathKind,
    /// What it may use.
    pub limits: PathLimits,
}

/// What control says about a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteAnswer {
    /// Mail of the domain goes over this path.
    Path {
        /// The path, shared by all who were told of this version.
        spec: Arc<PathSpec>,
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
        check("smtps://relay.example", "smtps://relay.example:465");
        check("smtps://[::1]:4650", "smtps://[::1]:4650");
    }

    #[test]
    fn texts_that_are_no_target_are_refused() {
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
