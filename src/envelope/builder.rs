//! PURE. An envelope while it comes in, command by command.

use super::{
    Aliases, Content, ENVELOPE_BYTES_MAX, Envelope, EnvelopeError, FIELD_HEADER_BYTES, Notify, Parameters,
    push_field, tag,
};
use crate::clock::WallTime;
use crate::limits::{LEG_RECIPIENTS_MAX, MAILBOX_BYTES_MAX, RECIPIENTS_MAX};

/// Collects an envelope while a transaction goes on. Keeps its memory between transactions ([`Self::reset`]).
#[derive(Debug, Default)]
pub struct EnvelopeBuilder {
    /// Text of sender, mailboxes and ORCPTs, one behind the other.
    arena: String,
    sender_bytes: usize,
    parameters: Parameters,
    envid: String,
    tenant: String,
    pool: String,
    recipients: Vec<BuilderRecipient>,
    /// RCPTs that were accepted: each stands for one recipient, or as an alias for any number.
    accepted: usize,
    /// Bytes that the encoded recipients will take at the most.
    encoded_bytes: usize,
}

#[derive(Clone, Copy, Debug)]
struct BuilderRecipient {
    /// Where its text starts in the arena: mailbox, ORCPT.
    start: u32,
    mailbox_bytes: u16,
    /// Where the domain starts inside the mailbox.
    domain_at: u16,
    original_bytes: u16,
    notify: Notify,
}

impl EnvelopeBuilder {
    /// Forgets everything but the memory.
    pub fn reset(&mut self) {
        self.arena.clear();
        self.sender_bytes = 0;
        self.parameters = Parameters::default();
        self.envid.clear();
        self.tenant.clear();
        self.pool.clear();
        self.recipients.clear();
        self.accepted = 0;
        self.encoded_bytes = 0;
    }

    /// Starts a transaction: MAIL has been accepted. `sender` is empty for the null sender.
    pub fn begin(&mut self, sender: &str, parameters: Parameters, envid: &str) {
        self.reset();
        self.arena.push_str(sender);
        self.sender_bytes = sender.len();
        self.parameters = parameters;
        self.envid.push_str(envid);
    }

    /// The body is complete, and this is what it is made of.
    pub fn note_content(&mut self, content: Content) {
        self.parameters.content = content;
    }

    /// Says whose mail it is.
    pub fn set_tenant(&mut self, tenant: &str) {
        self.tenant.clear();
        self.tenant.push_str(tenant);
    }

    /// Says which pool of sources it leaves by.
    pub fn set_pool(&mut self, pool: &str) {
        self.pool.clear();
        self.pool.push_str(pool);
    }

    /// Adds an accepted recipient; `mailbox` has an `@`. `Err` (452 to the client) when a record can hold no more.
    pub fn push_recipient(
        &mut self,
        mailbox: &str,
        notify: Notify,
        original: &str,
    ) -> Result<(), EnvelopeError> {
        self.push(mailbox, notify, original)?;
        self.accepted += 1;
        Ok(())
    }

    fn push(&mut self, mailbox: &str, notify: Notify, original: &str) -> Result<(), EnvelopeError> {
        let domain_at = mailbox.rfind('@').map_or(0, |at| at + 1);
        // A leg field of its own for each recipient is the worst case.
        let encoded = 3 * FIELD_HEADER_BYTES + 3 + 2 * mailbox.len() + original.len();
        if self.recipients.len() >= RECIPIENTS_MAX
            || mailbox.len() > MAILBOX_BYTES_MAX + 256
            || original.len() > 1024
            || self.encoded_bytes + encoded + 4096 > ENVELOPE_BYTES_MAX
        {
            return Err(EnvelopeError::TooLarge);
        }
        self.recipients.push(BuilderRecipient {
            start: self.arena.len() as u32,
            mailbox_bytes: mailbox.len() as u16,
            domain_at: domain_at as u16,
            original_bytes: original.len() as u16,
            notify,
        });
        self.encoded_bytes += encoded;
        self.arena.push_str(mailbox);
        self.arena.push_str(original);
        Ok(())
    }

    /// Adds those who get the mail of an accepted recipient, all of them or none. Each once: whoever is a recipient already
    /// gets no second copy through an alias.
    pub fn push_aliased(
        &mut self,
        mailbox: &str,
        aliases: Aliases<'_>,
        notify: Notify,
        original: &str,
    ) -> Result<(), EnvelopeError> {
        if aliases.others.is_empty() {
            return self.push_recipient(mailbox, notify, original);
        }
        let mark = (self.recipients.len(), self.arena.len(), self.encoded_bytes);
        let (notify, original) = aliases.passed_on(mailbox, notify, original);
        let itself = aliases.itself.then_some(mailbox);
        for recipient in itself.into_iter().chain(aliases.others.iter().map(|other| &**other)) {
            if self.recipients.iter().any(|known| self.mailbox(*known).eq_ignore_ascii_case(recipient)) {
                continue;
            }
            if let Err(error) = self.push(recipient, notify, &original) {
                self.recipients.truncate(mark.0);
                self.arena.truncate(mark.1);
                self.encoded_bytes = mark.2;
                return Err(error);
            }
        }
        self.accepted += 1;
        Ok(())
    }

    /// The sender's mailbox.
    pub fn sender(&self) -> &str {
        &self.arena[..self.sender_bytes]
    }

    /// BODY, SMTPUTF8, RET.
    pub fn parameters(&self) -> Parameters {
        self.parameters
    }

    /// Accepted RCPTs so far.
    pub fn accepted_count(&self) -> usize {
        self.accepted
    }

    /// Recipients so far.
    pub fn recipient_count(&self) -> usize {
        self.recipients.len()
    }

    /// Mailbox of the first recipient, which the trace header names when it is the only one.
    pub fn first_mailbox(&self) -> Option<&str> {
        self.recipients.first().map(|recipient| self.mailbox(*recipient))
    }

    fn mailbox(&self, recipient: BuilderRecipient) -> &str {
        let start = recipient.start as usize;
        &self.arena[start..start + usize::from(recipient.mailbox_bytes)]
    }

    fn domain(&self, recipient: BuilderRecipient) -> &str {
        &self.mailbox(recipient)[usize::from(recipient.domain_at)..]
    }

    /// The encoded envelope; there must be at least one recipient. One allocation, of the exact size or a little more.
    pub fn encode(&mut self, accepted_at: WallTime, expires_at: WallTime) -> Envelope {
        assert!(!self.recipients.is_empty(), "an envelope needs a recipient");
        self.group_by_domain();
        let words = self.envid.len() + self.tenant.len() + self.pool.len();
        let fixed = 9 * FIELD_HEADER_BYTES + 18 + self.sender_bytes + words;
        let mut bytes = Vec::with_capacity(fixed + self.encoded_bytes);
        push_field(&mut bytes, tag::SENDER, self.sender().as_bytes());
        push_field(&mut bytes, tag::ACCEPTED_AT, &accepted_at.0.to_le_bytes());
        push_field(&mut bytes, tag::EXPIRES_AT, &expires_at.0.to_le_bytes());
        push_field(&mut bytes, tag::FLAGS, &[self.parameters.as_flags()]);
        if self.parameters.as_needs() != 0 {
            push_field(&mut bytes, tag::NEEDS, &[self.parameters.as_needs()]);
        }
        if !self.envid.is_empty() {
            push_field(&mut bytes, tag::ENVID, self.envid.as_bytes());
        }
        if !self.tenant.is_empty() {
            push_field(&mut bytes, tag::TENANT, self.tenant.as_bytes());
        }
        if !self.pool.is_empty() {
            push_field(&mut bytes, tag::POOL, self.pool.as_bytes());
        }
        self.encode_legs(&mut bytes);
        Envelope { bytes }
    }

    /// Brings recipients of one domain together, keeping the order in which domains and recipients came.
    fn group_by_domain(&mut self) {
        let one = |builder: &Self| {
            let first = builder.domain(builder.recipients[0]);
            builder.recipients.iter().all(|r| builder.domain(*r).eq_ignore_ascii_case(first))
        };
        if one(self) {
            return;
        }
        let mut recipients = std::mem::take(&mut self.recipients);
        recipients.sort_by_cached_key(|recipient| self.domain(*recipient).to_lowercase());
        self.recipients = recipients;
    }

    fn encode_legs(&self, bytes: &mut Vec<u8>) {
        let mut within = 0;
        let mut domain = "";
        for recipient in &self.recipients {
            let next = self.domain(*recipient);
            if within == 0 || within == LEG_RECIPIENTS_MAX || !next.eq_ignore_ascii_case(domain) {
                domain = next;
                within = 0;
                let start = bytes.len() + FIELD_HEADER_BYTES;
                push_field(bytes, tag::LEG, domain.as_bytes());
                bytes[start..].make_ascii_lowercase();
            }
            within += 1;
            let text = &self.arena.as_bytes()[recipient.start as usize..];
            let text = &text[..usize::from(recipient.mailbox_bytes) + usize::from(recipient.original_bytes)];
            bytes.push(tag::RECIPIENT);
            bytes.extend_from_slice(&((3 + text.len()) as u16).to_le_bytes());
            bytes.push(recipient.notify.0);
            bytes.extend_from_slice(&recipient.mailbox_bytes.to_le_bytes());
            bytes.extend_from_slice(text);
        }
    }
}
