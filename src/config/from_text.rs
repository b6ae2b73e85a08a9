//! PURE. What is written as a text, and how: addresses, domains, names, targets.

use std::path::PathBuf;

use super::options::Network;
use super::value::Wrong;
use crate::endpoint::Endpoint;
use crate::routing::source::Member;
use crate::routing::{Rate, Target, is_domain};
use crate::users::{Fingerprint, fingerprint};

/// Types that read themselves from a text.
pub(super) trait FromText: Sized {
    fn from_text(text: &str) -> Result<Self, Wrong>;
    fn to_text(&self) -> String;
}

impl FromText for std::net::SocketAddr {
    fn from_text(text: &str) -> Result<Self, Wrong> {
        text.parse().map_err(|_| Wrong::Form)
    }
    fn to_text(&self) -> String {
        self.to_string()
    }
}

impl FromText for Endpoint {
    fn from_text(text: &str) -> Result<Self, Wrong> {
        text.parse().map_err(|_| Wrong::Form)
    }
    fn to_text(&self) -> String {
        self.to_string()
    }
}

impl FromText for Network {
    fn from_text(text: &str) -> Result<Self, Wrong> {
        text.parse().map_err(Wrong::Reason)
    }
    fn to_text(&self) -> String {
        self.to_string()
    }
}

impl FromText for PathBuf {
    fn from_text(text: &str) -> Result<Self, Wrong> {
        if text.is_empty() || text.contains('\0') { Err(Wrong::Form) } else { Ok(text.into()) }
    }
    fn to_text(&self) -> String {
        self.to_string_lossy().into_owned()
    }
}

/// A target with a host, written as in `[routes]`; for SMTP the scheme can be left out.
impl FromText for Target {
    fn from_text(text: &str) -> Result<Self, Wrong> {
        let full = if text.contains("://") { text.to_owned() } else { format!("smtp://{text}") };
        full.parse().map_err(|_| Wrong::Form)
    }
    fn to_text(&self) -> String {
        self.to_string()
    }
}

impl FromText for Rate {
    fn from_text(text: &str) -> Result<Self, Wrong> {
        text.parse().map_err(|_| Wrong::Form)
    }
    fn to_text(&self) -> String {
        self.to_string()
    }
}

impl FromText for Fingerprint {
    fn from_text(text: &str) -> Result<Self, Wrong> {
        fingerprint(text).map_err(Wrong::Reason)
    }
    fn to_text(&self) -> String {
        self.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl FromText for std::net::IpAddr {
    fn from_text(text: &str) -> Result<Self, Wrong> {
        text.parse().map_err(|_| Wrong::Form)
    }
    fn to_text(&self) -> String {
        self.to_string()
    }
}

/// A name, with a weight behind a colon if it is not 1.
impl FromText for Member {
    fn from_text(text: &str) -> Result<Self, Wrong> {
        let (name, weight) = text.split_once(':').unwrap_or((text, "1"));
        let weight = weight.parse().ok().filter(|weight| (1..=1_000_000).contains(weight));
        match weight {
            Some(weight) if is_domain(name) => Ok(Self { source: name.to_owned(), weight }),
            _ => Err(Wrong::Form),
        }
    }
    fn to_text(&self) -> String {
        if self.weight == 1 { self.source.clone() } else { format!("{}:{}", self.source, self.weight) }
    }
}

/// A word.
impl FromText for Box<str> {
    fn from_text(text: &str) -> Result<Self, Wrong> {
        let splits = |c: char| c.is_control() || c.is_whitespace();
        if text.is_empty() || text.contains(splits) { Err(Wrong::Form) } else { Ok(text.into()) }
    }
    fn to_text(&self) -> String {
        self.to_string()
    }
}

/// A domain, or `*.domain`.
impl FromText for String {
    fn from_text(text: &str) -> Result<Self, Wrong> {
        let name = text.strip_prefix("*.").unwrap_or(text);
        if is_domain(name) { Ok(text.to_lowercase()) } else { Err(Wrong::Form) }
    }
    fn to_text(&self) -> String {
        self.clone()
    }
}
