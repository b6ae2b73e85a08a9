//! PURE. What a source sends: which sender, recipients and body message `n` has. A function of the plan and `n` only, so
//! a run is repeated by its seed.

use crate::wire::mark::{self, ID_BYTES, Id, NUMBER_DIGITS, Run};
use crate::wire::template::{Template, mix};

/// A local-part prefix and how often it is used, relative to the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Local {
    /// The prefix; the message number and the recipient's index follow it.
    pub prefix: String,
    /// Relative weight, at least 1.
    pub weight: u32,
}

/// Everything that does not change during a run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Names the run in each id.
    pub run: Run,
    /// Bodies, used in turn. At least one.
    pub templates: Vec<Template>,
    /// Recipients of each message, 1 to [`RECIPIENTS_MAX`](crate::limits::RECIPIENTS_MAX).
    pub recipients: u16,
    /// Prefixes of recipients. At least one.
    pub locals: Vec<Local>,
    /// Domains of recipients. At least one.
    pub domains: Vec<String>,
    /// Domain of senders, and the name given with EHLO.
    pub sender_domain: String,
    /// Send MAIL, RCPT and DATA in one write, and the next envelope behind the final dot (RFC 2920).
    pub pipelining: bool,
    /// Messages before a connection is closed with QUIT; 0 keeps it.
    pub reuse: u64,
    /// Seed of all choices.
    pub seed: u64,
}

impl Plan {
    /// The id of message `number`.
    pub fn id(&self, number: u64) -> Id {
        Id { run: self.run, number }
    }

    /// Which template message `number` uses.
    pub fn template(&self, number: u64) -> &Template {
        &self.templates[(number % self.templates.len() as u64) as usize]
    }

    /// Appends `MAIL FROM`.
    pub fn mail(&self, number: u64, out: &mut Vec<u8>) {
        out.extend_from_slice(b"MAIL FROM:<b-");
        let start = out.len();
        out.resize(start + ID_BYTES, 0);
        self.id(number).write(&mut out[start..]);
        out.push(b'@');
        out.extend_from_slice(self.sender_domain.as_bytes());
        out.extend_from_slice(b">\r\n");
    }

    /// Appends `RCPT TO` for recipient `index`.
    pub fn rcpt(&self, number: u64, index: u16, out: &mut Vec<u8>) {
        let choice = mix(self.seed ^ number.wrapping_mul(0x1000_0001_b3));
        out.extend_from_slice(b"RCPT TO:<");
        out.extend_from_slice(self.local(choice).as_bytes());
        let start = out.len();
        out.resize(start + NUMBER_DIGITS, 0);
        mark::digits(&mut out[start..], number);
        let width = 1 + usize::from(index > 9) + usize::from(index > 99) + usize::from(index > 999);
        out.push(b'-');
        let start = out.len();
        out.resize(start + width, 0);
        mark::digits(&mut out[start..], u64::from(index));
        out.push(b'@');
        let domain = (choice >> 32).wrapping_add(u64::from(index)) % self.domains.len() as u64;
        out.extend_from_slice(self.domains[domain as usize].as_bytes());
        out.extend_from_slice(b">\r\n");
    }

    fn local(&self, choice: u64) -> &str {
        let total: u64 = self.locals.iter().map(|local| u64::from(local.weight)).sum();
        let mut place = (choice & 0xffff_ffff) % total.max(1);
        for local in &self.locals {
            if place < u64::from(local.weight) {
                return &local.prefix;
            }
            place -= u64::from(local.weight);
        }
        ""
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn plan(recipients: u16) -> Plan {
        Plan {
            run: Run(0xab),
            templates: vec![Template::new(600, "s.invalid", "Thu, 01 Jan 1970 00:00:00 +0000", 1)],
            recipients,
            locals: vec![Local { prefix: "load".into(), weight: 1 }],
            domains: vec!["d0.load.invalid".into()],
            sender_domain: "s.invalid".into(),
            pipelining: true,
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
    fn prefixes_and_domains_are_used_by_weight_and_all_of_them() {
        let mut plan = plan(1);
        plan.locals.push(Local { prefix: "defer".into(), weight: 3 });
        plan.domains.push("d1.load.invalid".into());
        let (mut deferred, mut second) = (0, 0);
        for number in 0..10_000 {
            let mut out = Vec::new();
            plan.rcpt(number, 0, &mut out);
            let text = String::from_utf8_lossy(&out);
            deferred += u32::from(text.starts_with("RCPT TO:<defer"));
            second += u32::from(text.contains("@d1."));
        }
        assert!((7_200..7_800).contains(&deferred), "{deferred}");
        assert!((4_700..5_300).contains(&second), "{second}");
    }
}
