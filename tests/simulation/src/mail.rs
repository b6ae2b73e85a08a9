//! PURE. The messages of a run. All that is in one follows from its number, so whoever sees a recipient's address knows what
//! must have come with it.

/// Domains that can be reached; several share a remote, as domains share their MX hosts.
pub const DOMAINS: [&str; 6] = ["d0.test", "d1.test", "d2.test", "d3.test", "d4.test", "d5.test"];
/// A domain whose host never answers: its mail expires.
pub const DEAD: &str = "dead.test";
/// A domain that takes no mail, as the DNS says: its mail bounces.
pub const NULL: &str = "null.test";
/// Where notifications go.
pub const SENDERS: &str = "senders.test";

/// A recipient of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Recipient {
    /// Number of the message.
    pub message: u32,
    /// Which of its recipients.
    pub nth: u16,
}

/// What is sent.
#[derive(Clone, Debug)]
pub struct Mail {
    /// Its number.
    pub number: u32,
    /// Mailboxes with their domains.
    pub recipients: Vec<(Recipient, String)>,
    /// With CRLF line ends, not stuffed.
    pub body: Vec<u8>,
}

impl Mail {
    /// Message `number` of the run. `may_expire` says whether some of it goes where nobody answers.
    pub fn new(number: u32, may_expire: bool, random: &mut fastrand::Rng) -> Self {
        let count = if random.u8(..4) == 0 { random.u16(2..8) } else { 1 };
        let recipients = (0..count).map(|nth| {
            let domain = match random.u8(..40) {
                0 if may_expire => DEAD,
                1 => NULL,
                _ => DOMAINS[random.usize(..DOMAINS.len())],
            };
            (Recipient { message: number, nth }, format!("{number}-{nth}@{domain}"))
        });
        let recipients = recipients.collect();
        let bytes = match random.u8(..16) {
            0 => random.usize(60_000..200_000),
            1..=3 => random.usize(5_000..60_000),
            _ => random.usize(20..5_000),
        };
        Self { number, recipients, body: body(number, bytes) }
    }

    /// The sender's mailbox.
    pub fn sender(&self) -> String {
        format!("s{}@{SENDERS}", self.number)
    }
}

/// The recipient that a mailbox stands for.
pub fn recipient_of(mailbox: &str) -> Option<Recipient> {
    let (number, nth) = mailbox.split_once('@')?.0.split_once('-')?;
    Some(Recipient { message: number.parse().ok()?, nth: nth.parse().ok()? })
}

/// Whether a recipient has a reason to bounce, whatever else happens.
pub fn must_bounce(recipient: Recipient, mailbox: &str) -> bool {
    mailbox.ends_with(DEAD) || mailbox.ends_with(NULL) || is_unknown(recipient)
}

/// Whether the remote refuses this recipient for good.
pub fn is_unknown(recipient: Recipient) -> bool {
    (recipient.message * 7 + u32::from(recipient.nth)).is_multiple_of(17)
}

fn body(number: u32, bytes: usize) -> Vec<u8> {
    let mut body = format!(
        "From: <s{number}@{SENDERS}>\r\nSubject: message {number} of {bytes} bytes\r\nDate: Mon, 1 Jun 2026 00:00:00 +0000\r\nMessage-ID: <{number}@{SENDERS}>\r\n\r\n"
    )
    .into_bytes();
    let mut chance = fastrand::Rng::with_seed(u64::from(number));
    while body.len() < bytes {
        // Lines that begin with dots, and lines of one dot, are what transparency is about.
        let line = match chance.u8(..8) {
            0 => ".".to_owned(),
            1 => "..".to_owned(),
            2 => String::new(),
            _ => format!(".{:x}", chance.u128(..))[chance.usize(..2)..].to_owned(),
        };
        body.extend_from_slice(line.as_bytes());
        body.extend_from_slice(b"\r\n");
    }
    body
}

/// Whether `received` is the body of message `number` behind the relay's trace header.
pub fn is_body_of(number: u32, received: &[u8]) -> bool {
    let subject = format!("\r\nSubject: message {number} of ");
    let text = String::from_utf8_lossy(received);
    let Some(bytes) = text.split_once(&*subject).and_then(|(_, rest)| rest.split(' ').next()?.parse().ok())
    else {
        return false;
    };
    let wanted = body(number, bytes);
    received.starts_with(b"Received: ") && received.ends_with(&wanted) && {
        let trace = &received[..received.len() - wanted.len()];
        // One header field and nothing else: every line but the first is folded.
        trace
            .split_inclusive(|byte| *byte == b'\n')
            .skip(1)
            .all(|line| line.starts_with(b" ") || line.starts_with(b"\t"))
    }
}

/// Whether the sender asks to be told that a recipient has got it, and not of delay.
pub fn asks_for_success(recipient: Recipient) -> bool {
    (recipient.message * 5 + u32::from(recipient.nth)).is_multiple_of(3)
}

/// What a notification says of a recipient.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Said {
    /// It failed.
    Failed,
    /// It is late.
    Delayed,
    /// It has been handed on, or delivered.
    Succeeded,
}

/// The recipients that a delivery status notification reports on.
pub fn reported(notification: &[u8]) -> Vec<(Recipient, Said)> {
    let text = String::from_utf8_lossy(notification);
    let field = |block: &str, name: &str| {
        let value = block.lines().find_map(|line| line.strip_prefix(name));
        value.map(|value| value.trim().to_owned())
    };
    let said = |block: &str| {
        let recipient = recipient_of(&field(block, "Final-Recipient: rfc822;")?)?;
        match field(block, "Action:").as_deref() {
            Some("failed") => Some((recipient, Said::Failed)),
            Some("delayed") => Some((recipient, Said::Delayed)),
            Some("relayed" | "delivered") => Some((recipient, Said::Succeeded)),
            other => panic!("an action that nobody takes: {other:?}"),
        }
    };
    text.split("\r\n\r\n").filter_map(said).collect()
}

/// The identity of a notification, which each delivery of it has.
pub fn message_id(notification: &[u8]) -> String {
    let text = String::from_utf8_lossy(notification);
    let id = text.lines().find_map(|line| line.strip_prefix("Message-ID: "));
    id.expect("a notification has an identity").to_owned()
}

/// Puts the dots in front that DATA asks for (RFC 5321 §4.5.2).
pub fn stuffed(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len() + 64);
    for line in body.split_inclusive(|byte| *byte == b'\n') {
        if line.starts_with(b".") {
            out.push(b'.');
        }
        out.extend_from_slice(line);
    }
    out.extend_from_slice(b".\r\n");
    out
}

/// And takes them away again; `wire` ends with the line of the dot.
pub fn unstuffed(wire: &[u8]) -> Vec<u8> {
    let lines = wire[..wire.len() - 3].split_inclusive(|byte| *byte == b'\n');
    lines.flat_map(|line| line.strip_prefix(b".").unwrap_or(line)).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_known_again_behind_a_trace_header_and_not_when_a_byte_changed() {
        let mail = Mail::new(9, true, &mut fastrand::Rng::with_seed(1));
        let mut received = [b"Received: from x\r\n\tby y; now\r\n".as_slice(), &mail.body].concat();
        assert!(is_body_of(9, &received));
        assert!(!is_body_of(8, &received));
        *received.last_mut().unwrap() = b'x';
        assert!(!is_body_of(9, &received));
        assert_eq!(recipient_of(&mail.recipients[0].1), Some(mail.recipients[0].0));
    }

    #[test]
    fn dots_come_and_go() {
        let mail = Mail::new(3, true, &mut fastrand::Rng::with_seed(2));
        assert_eq!(unstuffed(&stuffed(&mail.body)), mail.body);
    }
}
