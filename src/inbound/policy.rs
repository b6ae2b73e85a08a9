//! PURE. Who may send what through us: by the client's network, and by the recipient's domain.

use super::limits::{Act, Excess, Pass};
use crate::clock::Moment;
use crate::envelope::Parameters;
use crate::protocol::reply::{self, Refusal};
use crate::protocol::server::Policy;

/// What a relay permission is made of; shared by the sessions of a shard.
#[derive(Clone, Debug, Default)]
pub struct RelayRules {
    domains_exact: Vec<Box<str>>,
    /// Without the leading `*`: `.example.com`.
    domains_below: Vec<Box<str>>,
}

impl RelayRules {
    /// `domains` take mail from anybody: `example.com`, or `*.example.com` for all below it; lower case.
    pub fn new(domains: &[String]) -> Self {
        let mut rules = Self::default();
        for domain in domains {
            match domain.strip_prefix('*') {
                Some(below) => rules.domains_below.push(below.into()),
                None => rules.domains_exact.push(domain.as_str().into()),
            }
        }
        rules
    }

    fn takes(&self, mailbox: &str) -> bool {
        let Some((_, domain)) = mailbox.rsplit_once('@') else { return false };
        let same = |pattern: &str| pattern.eq_ignore_ascii_case(domain);
        let below = |suffix: &str| {
            let at = domain.len().checked_sub(suffix.len());
            at.is_some_and(|at| {
                at > 0 && domain.is_char_boundary(at) && domain[at..].eq_ignore_ascii_case(suffix)
            })
        };
        self.domains_exact.iter().any(|pattern| same(pattern))
            || self.domains_below.iter().any(|suffix| below(suffix))
    }
}

/// What one session asks, and what it must remember of the answers.
#[derive(Debug)]
pub struct SessionPolicy<'a> {
    rules: &'a RelayRules,
    /// The client's network may relay anywhere.
    trusted: bool,
    /// What holds the client to the limits of its address; `None`: it is exempt.
    pub pass: Option<Pass>,
    /// The time of the commands that are handled next.
    pub now: Moment,
    /// The last limit that was met, for the metrics.
    pub excess: Option<Excess>,
    /// SIZE of the open transaction, octets.
    pub declared_size: Option<u64>,
    /// The last refusal, for the log.
    pub refused: Option<(Refusal, Box<str>)>,
}

impl<'a> SessionPolicy<'a> {
    /// For a client that may relay if it is `trusted`.
    pub fn new(rules: &'a RelayRules, trusted: bool) -> Self {
        Self { rules, trusted, pass: None, now: Moment(0), excess: None, declared_size: None, refused: None }
    }
}

impl Policy for SessionPolicy<'_> {
    fn mail(&mut self, _sender: &str, _: &Parameters, declared_size: Option<u64>) -> Result<(), Refusal> {
        if let Some(pass) = &self.pass
            && let Err(excess) = pass.count(Act::Message, self.now)
        {
            self.excess = Some(excess);
            return Err(excess.refusal());
        }
        self.declared_size = declared_size;
        Ok(())
    }

    fn recipient(&mut self, mailbox: &str) -> Result<(), Refusal> {
        if self.trusted || self.rules.takes(mailbox) {
            return Ok(());
        }
        self.refused = Some((reply::RELAY_DENIED, mailbox.into()));
        Err(reply::RELAY_DENIED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(trusted: bool, mailbox: &str, want: bool) {
        let rules = RelayRules::new(&["ours.test".into(), "*.wide.test".into()]);
        let mut policy = SessionPolicy::new(&rules, trusted);
        assert_eq!(policy.recipient(mailbox).is_ok(), want, "{mailbox} {trusted}");
    }

    #[test]
    fn strangers_reach_our_domains_only() {
        check(false, "a@ours.test", true);
        check(false, "a@OURS.TEST", true);
        check(false, "a@sub.ours.test", false);
        check(false, "a@x.wide.test", true);
        check(false, "a@wide.test", false);
        check(false, "a@notwide.test", false);
        check(false, "a@ours.test.evil.test", false);
        check(false, "\"a@ours.test\"@evil.test", false);
        check(false, "a@éwide.test", false);
    }

    #[test]
    fn trusted_clients_reach_everybody() {
        check(true, "a@evil.test", true);
    }
}
