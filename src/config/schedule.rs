//! PURE. When mail is tried again, given up or reported, and from whom bounces come back.

use std::time::Duration;

/// One `[[schedule]]`. What is `None` holds as under `[delivery]`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Schedule {
    /// For recipients in these domains, lower case; `*.domain` is all below it. Empty means all.
    pub domains: Vec<String>,
    /// For mail of these tenants. Empty means all.
    pub tenants: Vec<String>,
    /// First wait before a retry.
    pub retry_first: Option<Duration>,
    /// What each further wait is multiplied with.
    pub retry_factor: Option<f64>,
    /// Longest wait between retries.
    pub retry_max: Option<Duration>,
    /// Part of the wait by which it is varied either way.
    pub retry_jitter: Option<f64>,
    /// Age at which a message bounces.
    pub expire_after: Option<Duration>,
    /// Age at which its sender is told that it is late; zero means never.
    pub delay_after: Option<Duration>,
}

/// Bounces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bounce {
    /// Tenants whose mail goes out with a sender of its own for each recipient.
    pub verp_tenants: Vec<String>,
    /// Senders of such mail: mailboxes, or `*@domain`.
    pub verp_senders: Vec<String>,
    /// What stands before the recipient in such a sender, and in place of its `@`.
    pub verp_delimiters: String,
}

impl Default for Bounce {
    fn default() -> Self {
        Self { verp_tenants: Vec::new(), verp_senders: Vec::new(), verp_delimiters: "+=".to_owned() }
    }
}
