//! PURE. The envelope of a message, in the one form that session, spool, queue and delivery share: encoded bytes.
//!
//! A session builds it while MAIL and RCPT come in ([`EnvelopeBuilder`]); the spool writes the same bytes as the meta of
//! the `Accepted` record; the queue and the workers read fields out of it without copying. Recipients are grouped into
//! legs: one per domain, at most [`LEG_RECIPIENTS_MAX`] recipients each. A recipient's *index* is its place in this
//! encoded order and never changes.
//!
//! | tag | field | value |
//! | --- | --- | --- |
//! | 0x81 | sender | mailbox, UTF-8; empty is the null sender. Always first |
//! | 0x82 | accepted at | u64 LE, milliseconds since 1970 |
//! | 0x83 | expires at | u64 LE, likewise |
//! | 0x84 | leg | domain, lower case, UTF-8 (or an address literal). Starts a leg |
//! | 0x85 | recipient | notify u8, mailbox length u16 LE, mailbox, ORCPT (the rest; may be empty). Of the leg before it |
//! | 0x86 | flags | u8: 1 = BODY=8BITMIME, 2 = SMTPUTF8, 4 = RET=FULL, 8 = RET=HDRS, 16 = has octets above 127, 32 = in its header |
//! | 0x87 | needs | u8: 1 = BODY=BINARYMIME, 2 = REQUIRETLS. Absent if 0; other bits are refused like an unknown critical tag |
//! | 0x07 | ENVID | xtext as the client gave it |
//! | 0x08 | tenant | UTF-8 |
//! | 0x09 | pool | UTF-8: the pool of sources that the client named |
//!
//! Each field is tag u8, length u16 LE, value. Bit 7 of the tag says *critical*: a reader that does not know such a tag
//! must refuse the record. Tags from 0x20 (0xA0) on belong to `spool::record`, which appends its own fields.

mod aliases;
mod builder;
pub mod verp;

pub use aliases::Aliases;
pub use builder::EnvelopeBuilder;

use crate::clock::WallTime;
use crate::limits::{LEG_RECIPIENTS_MAX, RECIPIENTS_MAX, RECORD_META_BYTES_MAX};

/// Tags of the fields, as in the table above.
pub mod tag {
    #![allow(missing_docs)]
    pub const SENDER: u8 = 0x81;
    pub const ACCEPTED_AT: u8 = 0x82;
    pub const EXPIRES_AT: u8 = 0x83;
    pub const LEG: u8 = 0x84;
    pub const RECIPIENT: u8 = 0x85;
    pub const FLAGS: u8 = 0x86;
    pub const NEEDS: u8 = 0x87;
    pub const ENVID: u8 = 0x07;
    pub const TENANT: u8 = 0x08;
    pub const POOL: u8 = 0x09;
    /// Set in tags that a reader may not skip.
    pub const CRITICAL: u8 = 0x80;
}

/// Bytes of a field before its value.
pub const FIELD_HEADER_BYTES: usize = 3;
/// Room that `spool::record` may need behind the envelope in a record's meta: the chunks of a long body, and the state
/// of each leg in a moved copy.
pub const ENVELOPE_BYTES_MAX: usize = RECORD_META_BYTES_MAX - 64 * 1024;

/// When the sender wants delivery status notifications for a recipient (RFC 3461 §4.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Notify(pub u8);

impl Notify {
    /// No NOTIFY parameter was given: failures are reported, delays may be.
    pub const DEFAULT: Notify = Notify(0);
    /// NOTIFY=NEVER.
    pub const NEVER: u8 = 1;
    /// NOTIFY=SUCCESS.
    pub const SUCCESS: u8 = 2;
    /// NOTIFY=FAILURE.
    pub const FAILURE: u8 = 4;
    /// NOTIFY=DELAY.
    pub const DELAY: u8 = 8;

    /// Whether a failure must be reported to the sender.
    pub fn on_failure(self) -> bool {
        self.0 == 0 || self.0 & Self::FAILURE != 0
    }

    /// Whether success must be reported to the sender.
    pub fn on_success(self) -> bool {
        self.0 & (Self::NEVER | Self::SUCCESS) == Self::SUCCESS
    }

    /// Whether a delay should be reported to the sender: RFC 3461 §4.1 leaves it to us where nothing was said.
    pub fn on_delay(self) -> bool {
        self.0 == 0 || self.0 & (Self::NEVER | Self::DELAY) == Self::DELAY
    }
}

/// What the bounce should carry of the message (RFC 3461 §4.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Return {
    /// No RET parameter: headers are returned.
    #[default]
    Unspecified,
    /// RET=FULL.
    Full,
    /// RET=HDRS.
    Headers,
}

/// Transaction parameters that travel with the message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parameters {
    /// BODY=8BITMIME (RFC 6152).
    pub eight_bit: bool,
    /// BODY=BINARYMIME (RFC 3030): the body is octets, not lines.
    pub binary: bool,
    /// SMTPUTF8 (RFC 6531).
    pub smtputf8: bool,
    /// REQUIRETLS (RFC 8689): sent over verified TLS only, to who promises the same.
    pub require_tls: bool,
    /// RET (RFC 3461 §4.3).
    pub ret: Return,
    /// What the body turned out to be made of.
    pub content: Content,
}

/// What a body is made of, seen while it came in: a parameter that it does not need is no reason to fail it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Content {
    /// Octets above 127 anywhere.
    pub eight_bit: bool,
    /// Octets above 127 in the message's header.
    pub eight_bit_header: bool,
}

/// BODY=BINARYMIME in the field *needs*.
const NEEDS_BINARY: u8 = 1;
/// REQUIRETLS there.
const NEEDS_TLS: u8 = 2;

impl Parameters {
    fn as_flags(self) -> u8 {
        let ret = match self.ret {
            Return::Unspecified => 0,
            Return::Full => 4,
            Return::Headers => 8,
        };
        let content = u8::from(self.content.eight_bit) << 4 | u8::from(self.content.eight_bit_header) << 5;
        u8::from(self.eight_bit) | (u8::from(self.smtputf8) << 1) | ret | content
    }

    fn as_needs(self) -> u8 {
        (u8::from(self.binary) * NEEDS_BINARY) | (u8::from(self.require_tls) * NEEDS_TLS)
    }

    fn from_fields(flags: u8, needs: u8) -> Self {
        let ret = match flags & 12 {
            4 => Return::Full,
            8 => Return::Headers,
            _ => Return::Unspecified,
        };
        Self {
            eight_bit: flags & 1 != 0,
            binary: needs & NEEDS_BINARY != 0,
            require_tls: needs & NEEDS_TLS != 0,
            smtputf8: flags & 2 != 0,
            ret,
            content: Content { eight_bit: flags & 16 != 0, eight_bit_header: flags & 32 != 0 },
        }
    }
}

/// A recipient, read out of an envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recipient<'a> {
    /// Place in the envelope, from 0.
    pub index: u16,
    /// Address without angle brackets, as the client wrote it.
    pub mailbox: &'a str,
    /// NOTIFY.
    pub notify: Notify,
    /// ORCPT (`rfc822;xtext`), empty if none was given.
    pub original: &'a str,
}

/// A leg, read out of an envelope: recipients `first .. first + count` are in `domain`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leg<'a> {
    /// Lower-case domain, or an address literal.
    pub domain: &'a str,
    /// Index of its first recipient.
    pub first: u16,
    /// How many recipients, 1 to [`LEG_RECIPIENTS_MAX`].
    pub count: u16,
}

/// Why bytes are not an envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// A field ends behind the last byte, or a value is too short for its field.
    #[error("envelope field 0x{0:02x} is cut short")]
    Truncated(u8),
    /// A field that must be understood is not known to this version.
    #[error("envelope field 0x{0:02x} is critical and unknown: written by a newer version")]
    UnknownCritical(u8),
    /// Text that is not UTF-8.
    #[error("envelope field 0x{0:02x} is not UTF-8")]
    NotText(u8),
    /// A rule between fields is broken: sender first, recipients behind their leg, counts within limits.
    #[error("envelope field 0x{0:02x} stands where it may not")]
    Misplaced(u8),
    /// The builder was asked for more than a record can hold.
    #[error("envelope is larger than {ENVELOPE_BYTES_MAX} bytes or has over {RECIPIENTS_MAX} recipients")]
    TooLarge,
}

/// Iterates over the (tag, value) fields of a meta; stops with an error at a field that is cut short.
#[derive(Clone, Debug)]
pub struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// Fields of `meta`.
    pub fn new(meta: &'a [u8]) -> Self {
        Self(meta)
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u8, &'a [u8]), EnvelopeError>;

    fn next(&mut self) -> Option<Self::Item> {
        let (&tag, rest) = self.0.split_first()?;
        let field = rest
            .split_first_chunk::<2>()
            .and_then(|(length, rest)| rest.split_at_checked(usize::from(u16::from_le_bytes(*length))));
        match field {
            Some((value, rest)) => {
                self.0 = rest;
                Some(Ok((tag, value)))
            }
            None => {
                self.0 = &[];
                Some(Err(EnvelopeError::Truncated(tag)))
            }
        }
    }
}

/// Appends one field; the value must be shorter than 64 KiB.
pub fn push_field(meta: &mut Vec<u8>, tag: u8, value: &[u8]) {
    let length = u16::try_from(value.len()).expect("callers bound their values below 64 KiB");
    meta.push(tag);
    meta.extend_from_slice(&length.to_le_bytes());
    meta.extend_from_slice(value);
}

/// A checked, encoded envelope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    bytes: Vec<u8>,
}

impl Envelope {
    /// Checks every field of `bytes`: afterwards the accessors cannot fail.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, EnvelopeError> {
        check(&bytes)?;
        Ok(Self { bytes })
    }

    /// The encoded form.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn fields(&self) -> impl Iterator<Item = (u8, &[u8])> {
        Fields::new(&self.bytes).map_while(Result::ok)
    }

    fn first(&self, wanted: u8) -> Option<&[u8]> {
        self.fields().find(|(tag, _)| *tag == wanted).map(|(_, value)| value)
    }

    /// The sender's mailbox; empty for the null sender.
    pub fn sender(&self) -> &str {
        text(self.first(tag::SENDER))
    }

    /// When the end of data was reached.
    pub fn accepted_at(&self) -> WallTime {
        WallTime(number(self.first(tag::ACCEPTED_AT)))
    }

    /// When the sender gives up on it.
    pub fn expires_at(&self) -> WallTime {
        WallTime(number(self.first(tag::EXPIRES_AT)))
    }

    /// BODY, SMTPUTF8, RET.
    pub fn parameters(&self) -> Parameters {
        let byte = |tag| self.first(tag).map_or(0, |value| value[0]);
        Parameters::from_fields(byte(tag::FLAGS), byte(tag::NEEDS))
    }

    /// ENVID as the client gave it.
    pub fn envid(&self) -> Option<&str> {
        self.first(tag::ENVID).map(|value| text(Some(value)))
    }

    /// The tenant; empty if none is known.
    pub fn tenant(&self) -> &str {
        text(self.first(tag::TENANT))
    }

    /// The pool of sources that the client named; empty if it did not.
    pub fn pool(&self) -> &str {
        text(self.first(tag::POOL))
    }

    /// Recipients in index order.
    pub fn recipients(&self) -> impl Iterator<Item = Recipient<'_>> {
        self.fields().filter(|(tag, _)| *tag == tag::RECIPIENT).zip(0u16..).map(|((_, value), index)| {
            let length = usize::from(u16::from_le_bytes([value[1], value[2]]));
            let (mailbox, original) = value[3..].split_at(length);
            Recipient {
                index,
                mailbox: text(Some(mailbox)),
                notify: Notify(value[0]),
                original: text(Some(original)),
            }
        })
    }

    /// Legs in index order.
    pub fn legs(&self) -> impl Iterator<Item = Leg<'_>> {
        let mut fields = self.fields().peekable();
        let mut first = 0;
        std::iter::from_fn(move || {
            let domain = fields.find(|(tag, _)| *tag == tag::LEG)?.1;
            let mut count = 0;
            while let Some((tag, _)) = fields.peek()
                && *tag != tag::LEG
            {
                count += u16::from(*tag == tag::RECIPIENT);
                fields.next();
            }
            let leg = Leg { domain: text(Some(domain)), first, count };
            first += count;
            Some(leg)
        })
    }
}

fn text(value: Option<&[u8]>) -> &str {
    value.map_or("", |value| std::str::from_utf8(value).unwrap_or(""))
}

fn number(value: Option<&[u8]>) -> u64 {
    value.and_then(|value| value.try_into().ok()).map_or(0, u64::from_le_bytes)
}

/// Whether `meta` (an envelope, perhaps with fields of the spool behind it) keeps the rules of the table.
pub fn check(meta: &[u8]) -> Result<(), EnvelopeError> {
    let (mut seen_sender, mut recipients, mut in_leg) = (false, 0usize, None::<usize>);
    for field in Fields::new(meta) {
        let (tag, value) = field?;
        if !seen_sender && tag != tag::SENDER {
            return Err(EnvelopeError::Misplaced(tag));
        }
        match tag {
            tag::SENDER if !seen_sender => seen_sender = true,
            tag::ACCEPTED_AT | tag::EXPIRES_AT if value.len() == 8 => continue,
            tag::FLAGS if value.len() == 1 => continue,
            tag::NEEDS if value.len() == 1 && value[0] & !(NEEDS_BINARY | NEEDS_TLS) != 0 => {
                return Err(EnvelopeError::UnknownCritical(tag));
            }
            tag::NEEDS if value.len() == 1 => continue,
            tag::LEG if in_leg != Some(0) => in_leg = Some(0),
            tag::RECIPIENT => {
                let within = in_leg.as_mut().ok_or(EnvelopeError::Misplaced(tag))?;
                *within += 1;
                recipients += 1;
                if *within > LEG_RECIPIENTS_MAX || recipients > RECIPIENTS_MAX {
                    return Err(EnvelopeError::TooLarge);
                }
                let length = value.get(1..3).ok_or(EnvelopeError::Truncated(tag))?;
                let length = usize::from(u16::from_le_bytes([length[0], length[1]]));
                let (mailbox, original) =
                    value[3..].split_at_checked(length).ok_or(EnvelopeError::Truncated(tag))?;
                utf8(tag, mailbox)?;
                utf8(tag, original)?;
                continue;
            }
            tag::ENVID | tag::TENANT | tag::POOL => {}
            tag::ACCEPTED_AT | tag::EXPIRES_AT | tag::FLAGS | tag::NEEDS => {
                return Err(EnvelopeError::Truncated(tag));
            }
            tag::SENDER | tag::LEG => return Err(EnvelopeError::Misplaced(tag)),
            // The spool's own fields: spool::record checks them.
            0xA0.. => continue,
            _ if tag & tag::CRITICAL != 0 => return Err(EnvelopeError::UnknownCritical(tag)),
            _ => continue,
        }
        utf8(tag, value)?;
    }
    match (seen_sender, in_leg) {
        (true, Some(1..)) => Ok(()),
        _ => Err(EnvelopeError::Truncated(tag::LEG)),
    }
}

fn utf8(tag: u8, value: &[u8]) -> Result<(), EnvelopeError> {
    std::str::from_utf8(value).map(drop).map_err(|_| EnvelopeError::NotText(tag))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn built(mailboxes: &[&str]) -> Envelope {
        let mut builder = EnvelopeBuilder::default();
        builder.begin("s@example.com", Parameters { eight_bit: true, ..Parameters::default() }, "id+20");
        for mailbox in mailboxes {
            builder.push_recipient(mailbox, Notify(Notify::FAILURE), "rfc822;x").unwrap();
        }
        builder.encode(WallTime(5), WallTime(9))
    }

    #[test]
    fn what_is_built_reads_back() {
        let envelope = built(&["a@one.test", "b@two.test", "c@ONE.test"]);
        assert_eq!(Envelope::from_bytes(envelope.as_bytes().to_vec()), Ok(envelope.clone()));
        assert_eq!(envelope.sender(), "s@example.com");
        assert_eq!((envelope.accepted_at(), envelope.expires_at()), (WallTime(5), WallTime(9)));
        assert!(envelope.parameters().eight_bit && !envelope.parameters().smtputf8);
        assert_eq!((envelope.envid(), envelope.tenant()), (Some("id+20"), ""));
        let mailboxes: Vec<_> = envelope.recipients().map(|r| (r.index, r.mailbox)).collect();
        assert_eq!(mailboxes, [(0, "a@one.test"), (1, "c@ONE.test"), (2, "b@two.test")]);
        let legs: Vec<_> = envelope.legs().map(|l| (l.domain, l.first, l.count)).collect();
        assert_eq!(legs, [("one.test", 0, 2), ("two.test", 2, 1)]);
    }

    #[test]
    fn a_domain_with_many_recipients_is_split_into_legs() {
        let mailboxes: Vec<_> = (0..130).map(|i| format!("u{i}@big.test")).collect();
        let envelope = built(&mailboxes.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(
            envelope.legs().map(|l| (l.first, l.count)).collect::<Vec<_>>(),
            [(0, 64), (64, 64), (128, 2)]
        );
        assert_eq!(envelope.recipients().count(), 130);
    }

    #[test]
    fn every_cut_of_an_envelope_is_refused_or_shorter() {
        let envelope = built(&["a@one.test", "b@two.test"]);
        for end in 0..envelope.as_bytes().len() {
            if let Ok(cut) = Envelope::from_bytes(envelope.as_bytes()[..end].to_vec()) {
                assert!(cut.recipients().count() < 2, "cut at {end}");
            }
        }
    }

    #[test]
    fn unknown_critical_field_is_refused_and_other_unknown_fields_are_skipped() {
        let mut bytes = built(&["a@one.test"]).as_bytes().to_vec();
        push_field(&mut bytes, 0x11, b"later");
        assert!(Envelope::from_bytes(bytes.clone()).is_ok());
        push_field(&mut bytes, 0x91, b"later");
        assert_eq!(Envelope::from_bytes(bytes), Err(EnvelopeError::UnknownCritical(0x91)));
    }

    #[test]
    fn what_a_message_needs_is_read_back_and_never_skipped() {
        let mut builder = EnvelopeBuilder::default();
        builder.begin("", Parameters { binary: true, ..Parameters::default() }, "");
        builder.push_recipient("a@one.test", Notify::DEFAULT, "").unwrap();
        builder.note_content(Content { eight_bit: true, eight_bit_header: false });
        let envelope = builder.encode(WallTime(0), WallTime(0));
        let parameters = envelope.parameters();
        assert!(!parameters.require_tls);
        assert!(parameters.binary && parameters.content.eight_bit && !parameters.content.eight_bit_header);
        assert_ne!(tag::NEEDS & tag::CRITICAL, 0, "an older version would send it by DATA");
        let mut bytes = built(&["a@one.test"]).as_bytes().to_vec();
        push_field(&mut bytes, tag::NEEDS, &[7]);
        assert_eq!(Envelope::from_bytes(bytes), Err(EnvelopeError::UnknownCritical(tag::NEEDS)));
    }

    #[test]
    fn a_message_that_requires_tls_does_so_after_a_restart() {
        let mut builder = EnvelopeBuilder::default();
        builder.begin("", Parameters { require_tls: true, ..Parameters::default() }, "");
        builder.push_recipient("a@one.test", Notify::DEFAULT, "").unwrap();
        let bytes = builder.encode(WallTime(0), WallTime(0)).as_bytes().to_vec();
        let parameters = Envelope::from_bytes(bytes).unwrap().parameters();
        assert!(parameters.require_tls && !parameters.binary);
    }

    #[test]
    fn an_envelope_that_no_record_can_hold_is_refused_while_it_is_built() {
        let mut builder = EnvelopeBuilder::default();
        builder.begin("", Parameters::default(), "");
        let original = "x".repeat(500);
        let taken = (0..RECIPIENTS_MAX)
            .take_while(|i| {
                builder.push_recipient(&format!("u{i}@{i}.test"), Notify::DEFAULT, &original).is_ok()
            })
            .count();
        assert!(taken > 100 && taken < RECIPIENTS_MAX, "{taken}");
        let envelope = builder.encode(WallTime(0), WallTime(0));
        assert!(envelope.as_bytes().len() <= ENVELOPE_BYTES_MAX);
        assert_eq!(Envelope::from_bytes(envelope.as_bytes().to_vec()), Ok(envelope));
    }
}
