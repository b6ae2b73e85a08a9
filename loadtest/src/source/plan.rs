//! PURE. What a source sends: which sender, recipients and body message `n` has. A function of the plan and `n` only, so
//! a run is repeated by its seed.

use crate::source::mix::Mix;
use crate::wire::mark::{self, ID_BYTES, Id, NUMBER_DIGITS, Run};
use crate::wire::template::{Template, mix};

/// Which dialogue is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// SMTP (RFC 5321).
    Smtp,
    /// LMTP (RFC 2033): LHLO, and a reply for each recipient after the dot.
    Lmtp,
}

/// Everything that does not change during a run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Names the run in each id.
    pub run: Run,
    /// Messages.
    pub templates: Mix<Template>,
    /// Recipients of a message, 1 to [`RECIPIENTS_MAX`](crate::limits::RECIPIENTS_MAX).
    pub recipients: Mix<u16>,
    /// Prefixes of recipients; the message number and the recipient's index follow.
    pub locals: Mix<String>,
    /// Domains of recipients.
    pub domains: Mix<String>,
    /// Domains of senders: one for each tenant.
    pub senders: Mix<String>,
    /// The name given with EHLO.
    pub helo: String,
    /// Send MAIL, RCPT and DATA in one write, and the next envelope behind the final dot (RFC 2920).
    pub pipelining: bool,
    /// Send content as one chunk with BDAT (RFC 3030). The templates are then in that form.
    pub chunking: bool,
    /// SMTP or LMTP.
    pub protocol: Protocol,
    /// Ask for STARTTLS, and give up if it is not offered.
    pub starttls: bool,
    /// The argument of AUTH PLAIN.
    pub auth: Option<String>,
    /// Messages before a connection is closed with QUIT; 0 keeps it.
    pub reuse: u64,
    /// Seed of all choices.
    pub seed: u64,
}

/// What a choice is about: without it, all choices of a message would go together.
#[derive(Clone, Copy)]
enum About {
    Template = 1,
    Recipients,
    Local,
    Domain,
    Sender,
}

impl Plan {
    /// The id of message `number`.
    pub fn id(&self, number: u64) -> Id {
        Id { run: self.run, number }
    }

    fn choice(&self, number: u64, about: About) -> u64 {
        mix(self.seed ^ number.wrapping_mul(0x0100_0000_01b3) ^ (about as u64) << 56)
    }

    /// Which template message `number` uses.
    pub fn template(&self, number: u64) -> &Template {
        self.templates.pick(self.choice(number, About::Template))
    }

    /// How many recipients message `number` has.
    pub fn recipients(&self, number: u64) -> u16 {
        *self.recipients.pick(self.choice(number, About::Recipients))
    }

    /// Appends `MAIL FROM`.
    pub fn mail(&self, number: u64, out: &mut Vec<u8>) {
        out.extend_from_slice(b"MAIL FROM:<b-");
        let start = out.len();
        out.resize(start + ID_BYTES, 0);
        self.id(number).write(&mut out[start..]);
        out.push(b'@');
        out.extend_from_slice(self.senders.pick(self.choice(number, About::Sender)).as_bytes());
        out.extend_from_slice(b">\r\n");
    }

    /// Appends `RCPT TO` for recipient `index`.
    pub fn rcpt(&self, number: u64, index: u16, out: &mut Vec<u8>) {
        out.extend_from_slice(b"RCPT TO:<");
        out.extend_from_slice(self.locals.pick(self.choice(number, About::Local)).as_bytes());
        let start = out.len();
        out.resize(start + NUMBER_DIGITS, 0);
        mark::digits(&mut out[start..], number);
        let width = 1 + usize::from(index > 9) + usize::from(index > 99) + usize::from(index > 999);
        out.push(b'-');
        let start = out.len();
        out.resize(start + width, 0);
        mark::digits(&mut out[start..], u64::from(index));
        out.push(b'@');
        let choice = self.choice(number, About::Domain).wrapping_add(u64::from(index));
        out.extend_from_slice(self.domains.pick(choice).as_bytes());
        out.extend_from_slice(b">\r\n");
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn plan(recipients: u16) -> Plan {
        Plan {
            run: Run(0xab),
            templates: Mix::one(Template::new(600, "s.invalid", "Thu, 01 Jan 1970 00:00:00 +0000", 1)),
            recipients: Mix::one(recipients),
            locals: Mix::one("load".into()),
            domains: Mix::one("d0.load.invalid".into()),
            senders: Mix::one("s.invalid".into()),
            helo: "s.invalid".into(),
            pipelining: true,
            chunking: false,
            protocol: Protocol::Smtp,
            starttls: false,
            auth: None,
            reuse: 0,
            seed: 1,
        }
    }

    #[test]
    fn an_envelope_carries_its_marks() {
        let mut out = Vec::new();
        plan(1).mail(7, &mut out);
        plan(1).rcpt(7, 12, &mut out);
        let want = "MAIL FROM:<b-000000ab-000000000007@s.invalid>\r\nRCPT TO:<load000000000007-12@d0.load.invalid>\r\n";
        assert_eq!(String::from_utf8_lossy(&out), want);
    }

    #[test]
    fn prefixes_and_domains_are_used_by_weight_and_independently() {
        let mut plan = plan(1);
        let locals = Mix::weighted([("load".to_owned(), 1), ("defer".to_owned(), 3)]);
        plan.locals = locals.unwrap_or(plan.locals);
        let domains = Mix::uniform(vec!["d0.invalid".to_owned(), "d1.invalid".to_owned()]);
        plan.domains = domains.unwrap_or(plan.domains);
        let (mut deferred, mut second, mut both) = (0, 0, 0);
        for number in 0..10_000 {
            let mut out = Vec::new();
            plan.rcpt(number, 0, &mut out);
            let text = String::from_utf8_lossy(&out);
            let (local, domain) = (text.starts_with("RCPT TO:<defer"), text.contains("@d1."));
            deferred += u32::from(local);
            second += u32::from(domain);
            both += u32::from(local && domain);
        }
        assert!((7_200..7_800).contains(&deferred), "{deferred}");
        assert!((4_700..5_300).contains(&second), "{second}");
        assert!((3_500..4_000).contains(&both), "{both}");
    }
}
