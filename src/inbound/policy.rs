//! PURE. Who may send what through us: by the client's network, and by the recipient's domain.

use std::sync::Arc;

use super::limits::{Act, Excess, Pass};
use crate::clock::Moment;
use crate::envelope::Parameters;
use crate::protocol::reply::{self, Refusal};
use crate::protocol::sasl::Secrets;
use crate::protocol::server::Policy;
use crate::users::{Fingerprint, ScramKeys, User, Users};

/// What a relay permission is made of; shared by the sessions of a shard.
#[derive(Clone, Debug, Default)]
pub struct RelayRules {
    domains_exact: Vec<Box<str>>,
    /// Without the leading `*`: `.example.com`.
    domains_below: Vec<Box<str>>,
    /// Who may log in.
    users: Option<Arc<Users>>,
    /// Nobody sends without having logged in, but for those who may relay.
    requires_login: bool,
    /// Whose owners may relay anywhere.
    certificates: Vec<Fingerprint>,
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

    /// And `users` may log in.
    pub fn with_users(mut self, users: Option<Arc<Users>>) -> Self {
        self.users = users;
        self
    }

    /// And whoever may not relay must.
    pub fn with_login_required(mut self) -> Self {
        self.requires_login = true;
        self
    }

    /// And owners of these certificates may relay anywhere.
    pub fn with_certificates(mut self, certificates: Vec<Fingerprint>) -> Self {
        self.certificates = certificates;
        self
    }

    /// Who may log in.
    pub fn users(&self) -> Option<&Arc<Users>> {
        self.users.as_ref()
    }

    /// Whether a client's certificate means anything.
    pub fn wants_certificates(&self) -> bool {
        !self.certificates.is_empty() || self.users.as_ref().is_some_and(|users| users.have_certificates())
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
    /// The client's network or certificate may relay anywhere.
    trusted: bool,
    /// What holds the client to the limits of its address; `None`: it is exempt.
    pub pass: Option<Pass>,
    /// The time of the commands that are handled next.
    pub now: Moment,
    /// The last limit that was met, for the metrics.
    pub excess: Option<Excess>,
    /// Of the client, in the handshake.
    certificate: Option<Fingerprint>,
    user: Option<User>,
    random: fn() -> u64,
    /// SIZE of the open transaction, octets.
    pub declared_size: Option<u64>,
    /// The last refusal, for the log.
    pub refused: Option<(Refusal, Box<str>)>,
}

impl<'a> SessionPolicy<'a> {
    /// For a client whose network may relay or not. `random` makes nonces.
    pub fn new(rules: &'a RelayRules, trusted: bool, random: fn() -> u64) -> Self {
        let (certificate, user) = (None, None);
        Self {
            rules,
            trusted,
            pass: None,
            now: Moment(0),
            excess: None,
            certificate,
            user,
            random,
            declared_size: None,
            refused: None,
        }
    }

    /// The client has shown this certificate.
    pub fn certified(&mut self, certificate: Fingerprint) {
        self.trusted |= self.rules.certificates.contains(&certificate);
        self.certificate = Some(certificate);
    }

    /// The user to whom the client's certificate belongs.
    pub fn certificate_user(&self) -> Option<&User> {
        self.rules.users.as_ref()?.of_certificate(self.certificate.as_ref()?)
    }

    /// The client is this user.
    pub fn logged_in(&mut self, name: &str) {
        self.user = self.rules.users.as_ref().and_then(|users| users.user(name)).cloned();
    }

    /// Who the client is.
    pub fn user(&self) -> Option<&User> {
        self.user.as_ref()
    }

    /// Whether the client may relay anywhere without having logged in.
    pub fn is_trusted(&self) -> bool {
        self.trusted
    }

    fn refuse(&mut self, refusal: Refusal, about: &str) -> Result<(), Refusal> {
        self.refused = Some((refusal.clone(), about.into()));
        Err(refusal)
    }
}

impl Secrets for SessionPolicy<'_> {
    fn scram_keys(&mut self, user: &str) -> ScramKeys {
        let nobody = Users::default();
        self.rules.users.as_deref().unwrap_or(&nobody).scram_keys(user)
    }

    fn nonce(&mut self) -> [u8; 18] {
        let words = [(self.random)(), (self.random)(), (self.random)()].map(u64::to_le_bytes);
        std::array::from_fn(|at| words[at / 8][at % 8])
    }
}

impl Policy for SessionPolicy<'_> {
    fn mail(&mut self, sender: &str, _: &Parameters, declared_size: Option<u64>) -> Result<(), Refusal> {
        if let Some(pass) = &self.pass
            && let Err(excess) = pass.count(Act::Message, self.now)
        {
            self.excess = Some(excess);
            return Err(excess.refusal());
        }
        self.declared_size = declared_size;
        match &self.user {
            Some(user) if !user.may_send_as(sender) => self.refuse(reply::SENDER_DENIED, sender),
            None if self.rules.requires_login && !self.trusted => self.refuse(reply::AUTH_REQUIRED, sender),
            _ => Ok(()),
        }
    }

    fn recipient(&mut self, mailbox: &str) -> Result<(), Refusal> {
        if self.trusted || self.user.is_some() || self.rules.takes(mailbox) {
            return Ok(());
        }
        self.refuse(reply::RELAY_DENIED, mailbox)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(trusted: bool, mailbox: &str, want: bool) {
        let rules = RelayRules::new(&["ours.test".into(), "*.wide.test".into()]);
        let mut policy = SessionPolicy::new(&rules, trusted, || 4);
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
    fn where_a_login_is_required_a_user_sends_within_its_rules_and_a_certificate_replaces_it() {
        let users = Users::parse(&format!("a - certificate={} senders=*@a.test\n", "07".repeat(32)));
        let users = Some(Arc::new(users.expect("valid")));
        let rules =
            RelayRules::new(&[]).with_users(users).with_login_required().with_certificates(vec![[8; 32]]);
        let mail = |policy: &mut SessionPolicy<'_>, sender: &str| {
            let refusal = policy.mail(sender, &Parameters::default(), None).err();
            refusal.map_or(250, |refusal| refusal.code)
        };
        let mut policy = SessionPolicy::new(&rules, false, || 4);
        assert_eq!(mail(&mut policy, "x@a.test"), 530);
        policy.certified([7; 32]);
        assert_eq!(mail(&mut policy, "x@a.test"), 530, "a user's certificate is no login by itself");
        assert_eq!(policy.certificate_user().map(|user| &*user.name), Some("a"));
        policy.logged_in("a");
        assert_eq!(mail(&mut policy, "x@a.test"), 250);
        assert_eq!(mail(&mut policy, "x@b.test"), 553);
        assert!(policy.recipient("y@anywhere.test").is_ok());
        let mut policy = SessionPolicy::new(&rules, false, || 4);
        policy.certified([8; 32]);
        assert_eq!(mail(&mut policy, "x@b.test"), 250);
        assert!(policy.recipient("y@anywhere.test").is_ok());
    }

    #[test]
    fn trusted_clients_reach_everybody() {
        check(true, "a@evil.test", true);
    }
}
