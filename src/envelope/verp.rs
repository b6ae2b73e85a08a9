//! PURE. Variable envelope return paths: the sender of a transaction names its recipient, so that a bounce tells of whom it
//! is, whatever it says (D. J. Bernstein's VERP, in the form that Postfix made common).
//!
//! ```text
//! sender news@lists.example, recipient joe@there.example  →  MAIL FROM:<news+joe=there.example@lists.example>
//! ```
//!
//! Such mail goes out with one recipient in a transaction, and our own reports on it go to the same address. The message as
//! it is kept has its plain sender: what is in the spool does not depend on the configuration.

use super::Envelope;
use crate::limits::MAILBOX_BYTES_MAX;

/// Whose mail goes out so, and in which form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verp {
    /// Mail of these tenants,
    pub tenants: Vec<String>,
    /// and of these senders: see [`sender_fits`].
    pub senders: Vec<String>,
    /// What stands between the sender's local part and the recipient's, and in place of the recipient's `@`.
    pub delimiters: (char, char),
}

impl Default for Verp {
    /// Nobody's.
    fn default() -> Self {
        Self { tenants: Vec::new(), senders: Vec::new(), delimiters: ('+', '=') }
    }
}

impl Verp {
    /// Whether this mail goes out so. Mail from the null sender never does: there is nothing to come back to.
    pub fn is_for(&self, envelope: &Envelope) -> bool {
        if self.tenants.is_empty() && self.senders.is_empty() {
            return false;
        }
        let sender = envelope.sender();
        sender.contains('@')
            && (self.tenants.iter().any(|tenant| tenant == envelope.tenant())
                || self.senders.iter().any(|rule| sender_fits(rule, sender)))
    }

    /// The sender of the transaction for `recipient`. `None` if such an address cannot be made, and the plain one serves: one
    /// of the two has no domain or a quoted local part, or it would be longer than an address may be.
    pub fn sender(&self, sender: &str, recipient: &str) -> Option<String> {
        let is_plain = |local: &&str| !local.starts_with('"');
        let (local, domain) = sender.rsplit_once('@').filter(|(local, _)| is_plain(local))?;
        let (to, there) = recipient.rsplit_once('@').filter(|(local, _)| is_plain(local))?;
        // An address literal has letters that a local part cannot have.
        let there = Some(there).filter(|there| !there.starts_with('['))?;
        let (first, second) = self.delimiters;
        let address = format!("{local}{first}{to}{second}{there}@{domain}");
        Some(address).filter(|address| address.len() <= MAILBOX_BYTES_MAX)
    }
}

/// Whether `sender` is meant by `rule`: a mailbox, `*@domain`, or `<>` for the null sender.
pub fn sender_fits(rule: &str, sender: &str) -> bool {
    match rule.strip_prefix("*@") {
        Some(domain) => sender.rsplit_once('@').is_some_and(|(_, own)| own.eq_ignore_ascii_case(domain)),
        None => rule.eq_ignore_ascii_case(if sender.is_empty() { "<>" } else { sender }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::WallTime;
    use crate::envelope::{EnvelopeBuilder, Notify, Parameters};

    #[test]
    fn the_sender_names_the_recipient() {
        let verp = Verp::default();
        let check = |sender, recipient, want: Option<&str>| {
            assert_eq!(verp.sender(sender, recipient).as_deref(), want, "{sender} {recipient}");
        };
        check("news@lists.test", "joe@there.test", Some("news+joe=there.test@lists.test"));
        check("news@lists.test", "j+o=e@there.test", Some("news+j+o=e=there.test@lists.test"));
        check("a@b@lists.test", "joe@there.test", Some("a@b+joe=there.test@lists.test"));
        check("news@lists.test", "é@there.test", Some("news+é=there.test@lists.test"));
        check("news@lists.test", "\"j e\"@there.test", None);
        check("\"n\"@lists.test", "joe@there.test", None);
        check("news@lists.test", "joe@[192.0.2.1]", None);
        check("news", "joe@there.test", None);
        check("news@lists.test", &format!("{}@there.test", "x".repeat(240)), None);
        let other = Verp { delimiters: ('-', '#'), ..verp.clone() };
        assert_eq!(other.sender("n@l.test", "j@t.test").as_deref(), Some("n-j#t.test@l.test"));
    }

    #[test]
    fn it_is_for_the_tenants_and_senders_named_and_never_for_the_null_sender() {
        let verp = Verp {
            tenants: vec!["news".to_owned()],
            senders: vec!["*@Lists.test".to_owned(), "one@a.test".to_owned()],
            ..Verp::default()
        };
        for (sender, tenant, want) in [
            ("x@a.test", "news", true),
            ("x@lists.test", "", true),
            ("ONE@a.test", "", true),
            ("x@a.test", "", false),
            ("x@sub.lists.test", "", false),
            ("", "news", false),
        ] {
            let mut builder = EnvelopeBuilder::default();
            builder.begin(sender, Parameters::default(), "");
            builder.set_tenant(tenant);
            builder.push_recipient("r@there.test", Notify::DEFAULT, "").expect("room");
            let envelope = builder.encode(WallTime(0), WallTime(0));
            assert_eq!(verp.is_for(&envelope), want, "{sender} {tenant}");
            assert!(!Verp::default().is_for(&envelope));
        }
    }
}
