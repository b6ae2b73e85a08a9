//! PURE. Delivery status notifications: tells a sender what became of which recipients, and why (RFC 3461, 3464, 6522, 6533).
//!
//! Builds the notification's envelope and body; when one is owed, and that it is queued durably with the settlement, is
//! the queue's and the spool's business. A notification is about one [`Topic`]: failure, success or delay. It fits one
//! record ([`BODY_INLINE_BYTES_MAX`]): when there are more recipients than fit, it covers the first of them and says how many.

mod address;
mod class;
mod status;
#[cfg(test)]
mod tests;
mod words;

pub use class::{BounceClass, classify};

use crate::clock::WallTime;
use crate::envelope::{Content, Envelope, EnvelopeBuilder, Notify, Parameters, Recipient, Return};
use crate::id::MessageId;
use crate::limits::BODY_INLINE_BYTES_MAX;
use crate::outcome::{Reply, Topic};
use mail_builder::MessageBuilder;
use mail_builder::headers::content_type::ContentType;
use mail_builder::headers::date::Date;
use mail_builder::headers::raw::Raw;
use mail_builder::mime::MimePart;

/// Bytes for the two accounts of the recipients, text and fields; the rest is for what is returned of the original.
const REPORT_BYTES_MAX: usize = 36 * 1024;
/// Bytes kept free for headers, MIME part headers and boundaries: sender and host at their longest, six boundaries.
const FRAME_BYTES: usize = 4 * 1024;

/// The message that is reported on.
#[derive(Clone, Copy, Debug)]
pub struct Original<'a> {
    /// Its identity.
    pub id: MessageId,
    /// Its envelope.
    pub envelope: &'a Envelope,
    /// The beginning of its body, headers first, as kept: all of it, or the first [`BODY_INLINE_BYTES_MAX`] bytes. May be
    /// empty if it cannot be read any more.
    pub content: &'a [u8],
    /// Whether `content` is all of it.
    pub is_whole: bool,
}

/// What became of a recipient (RFC 3464 §2.3.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It failed for good.
    Failed,
    /// It has not got it yet, and will be tried until then.
    Delayed {
        /// The deadline.
        until: WallTime,
    },
    /// It was handed on to a server that does not report.
    Relayed,
    /// It is where it was to go.
    Delivered,
}

impl Fate {
    /// What a notification that tells of it is about.
    pub fn topic(self) -> Topic {
        match self {
            Fate::Failed => Topic::Failure,
            Fate::Delayed { .. } => Topic::Delay,
            Fate::Relayed | Fate::Delivered => Topic::Success,
        }
    }
}

/// Whether the sender wants to be told of `topic`, for a recipient with this NOTIFY.
fn is_wanted(topic: Topic, notify: Notify) -> bool {
    match topic {
        Topic::Failure => notify.on_failure(),
        Topic::Success => notify.on_success(),
        Topic::Delay => notify.on_delay(),
    }
}

/// A recipient, and what became of it.
#[derive(Clone, Copy, Debug)]
pub struct Reported<'a> {
    /// As the envelope has it.
    pub recipient: Recipient<'a>,
    /// What became of it.
    pub fate: Fate,
    /// Why; code 0 if the reason is ours. `None` when there is nothing to quote.
    pub reply: Option<&'a Reply>,
    /// Host name of the remote that said so; empty if there was none, or it is not known any more.
    pub remote: &'a str,
}

/// Who reports, and when.
#[derive(Clone, Copy, Debug)]
pub struct Reporter<'a> {
    /// This relay's host name.
    pub host: &'a str,
    /// To whom: the original's sender, or what stands for it.
    pub to: &'a str,
    /// Identity of the notification.
    pub id: MessageId,
    /// The date it carries.
    pub now: WallTime,
    /// When to give up on the notification itself.
    pub expires_at: WallTime,
}

/// A notification, ready to be queued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    /// From the null sender to the original's sender.
    pub envelope: Envelope,
    /// At most [`BODY_INLINE_BYTES_MAX`] bytes, lines end in CRLF.
    pub body: Vec<u8>,
    /// How many of the recipients, from the first, are dealt with: reported, or not to be. Ask again for the rest.
    pub covered: usize,
}

/// The notification about `topic` that `reported` recipients of `original`, all of that topic, call for. `None` if none may
/// be sent: the original has the null sender (it is a notification itself), its sender has no domain, or NOTIFY forbids it
/// for each of them.
pub fn notification(
    original: &Original<'_>,
    topic: Topic,
    reported: &[Reported<'_>],
    reporter: &Reporter<'_>,
) -> Option<Notification> {
    let sender = reporter.to;
    if original.envelope.sender().is_empty() || !sender.contains('@') {
        return None;
    }
    assert!(reported.iter().all(|one| one.fate.topic() == topic), "one notification, one topic");
    let utf8 = needs_utf8(original, sender, reported);
    let report = Report::new(original, topic, reported, reporter.host, utf8);
    let covered = report.covered;
    reported[..covered].iter().find(|one| is_wanted(topic, one.recipient.notify))?;
    let body = assemble(original, topic, reporter, report, utf8);
    assert!(body.len() <= BODY_INLINE_BYTES_MAX, "a notification fits one record");
    let eight_bit = !body.is_ascii();
    let content = Content { eight_bit, eight_bit_header: !sender.is_ascii() };
    // RFC 8689 §5: what was said in confidence is reported in confidence.
    let require_tls = original.envelope.parameters().require_tls;
    let parameters = Parameters { eight_bit, smtputf8: utf8, require_tls, content, ..Parameters::default() };
    let mut builder = EnvelopeBuilder::default();
    builder.begin("", parameters, "");
    builder.set_tenant(original.envelope.tenant());
    // RFC 3461: nothing is reported about a report.
    builder.push_recipient(sender, Notify(Notify::NEVER), "").ok()?;
    let envelope = builder.encode(reporter.now, reporter.expires_at);
    Some(Notification { envelope, body, covered })
}

/// Whether the report is an internationalised one (RFC 6533): there is something beyond ASCII to say, and the sender can
/// read it, having such an address or having asked for SMTPUTF8.
fn needs_utf8(original: &Original<'_>, sender: &str, reported: &[Reported<'_>]) -> bool {
    let is_more = |one: &Reported<'_>| {
        let said = one.reply.is_none_or(|reply| reply.text.is_ascii());
        let kind = one.recipient.original.as_bytes().first_chunk();
        let typed = kind.is_some_and(|kind: &[u8; 6]| kind.eq_ignore_ascii_case(b"utf-8;"));
        !one.recipient.mailbox.is_ascii() || !one.recipient.original.is_ascii() || typed || !said
    };
    let read = original.envelope.parameters().smtputf8 || !sender.is_ascii();
    read && (!sender.is_ascii() || !header(original.content).is_ascii() || reported.iter().any(is_more))
}

/// The two accounts of what happened.
struct Report {
    text: String,
    fields: String,
    covered: usize,
}

impl Report {
    fn new(original: &Original<'_>, topic: Topic, reported: &[Reported<'_>], host: &str, utf8: bool) -> Self {
        let (mut text, mut fields) = (String::new(), String::new());
        words::push_greeting(&mut text, original, topic, host, utf8);
        status::push_message_fields(&mut fields, original, host, utf8);
        let mut covered = 0;
        let mut told = 0;
        for one in reported {
            if is_wanted(topic, one.recipient.notify) {
                let before = (text.len(), fields.len());
                words::push_explanation(&mut text, one, utf8);
                status::push_recipient_fields(&mut fields, one, utf8);
                if told > 0 && text.len() + fields.len() > REPORT_BYTES_MAX {
                    text.truncate(before.0);
                    fields.truncate(before.1);
                    break;
                }
                told += 1;
            }
            covered += 1;
        }
        words::push_closing(&mut text, original, topic);
        Self { text, fields, covered }
    }
}

fn assemble(
    original: &Original<'_>,
    topic: Topic,
    reporter: &Reporter<'_>,
    report: Report,
    utf8: bool,
) -> Vec<u8> {
    let room = BODY_INLINE_BYTES_MAX - FRAME_BYTES - report.text.len() - report.fields.len();
    let (returned_type, returned) = returned(original, topic, room, utf8);
    let kind = if utf8 { "global-delivery-status" } else { "delivery-status" };
    let boundary = boundary(reporter.id, returned, &report);
    let mut host = String::new();
    status::push_clean(&mut host, reporter.host, utf8);
    let mut sender = String::new();
    status::push_clean(&mut sender, reporter.to, utf8);
    let parts = vec![
        part(ContentType::new("text/plain").attribute("charset", "utf-8"), report.text.into_bytes()),
        part(ContentType::new(format!("message/{kind}")), report.fields.into_bytes()),
        part(ContentType::new(returned_type), returned.to_vec()),
    ];
    let report_type =
        ContentType::new("multipart/report").attribute("report-type", kind).attribute("boundary", boundary);
    let mut body = Vec::with_capacity(BODY_INLINE_BYTES_MAX - room + returned.len());
    MessageBuilder::new()
        .header("From", Raw::new(format!("Mail Delivery System <MAILER-DAEMON@{host}>")))
        .header("To", Raw::new(format!("<{sender}>")))
        .header("Subject", Raw::new(words::subject(topic)))
        .header("Date", Date::new(i64::try_from(reporter.now.0 / 1000).unwrap_or(0)))
        .header("Message-ID", Raw::new(format!("<{}@{host}>", reporter.id)))
        // RFC 3834 §5: keeps vacation programs from answering.
        .header("Auto-Submitted", Raw::new("auto-replied"))
        .body(MimePart::new(report_type, parts))
        .serialize(&mut body);
    body
}

fn part(content_type: ContentType<'static>, content: Vec<u8>) -> MimePart<'static> {
    // Returned as it is: a status part may not be encoded (RFC 3464 §2.1), and what was sent should be recognised.
    let encoding = if content.is_ascii() { "7bit" } else { "8bit" };
    MimePart::new(content_type, content).transfer_encoding(encoding)
}

/// What is returned of the original, within `room` bytes, and its type: all of it if the sender asked for that and it
/// fits and something failed, otherwise its headers (RFC 3461 §4.3), cut at a line's end if they do not fit.
fn returned<'a>(original: &Original<'a>, topic: Topic, room: usize, utf8: bool) -> (&'static str, &'a [u8]) {
    let content = original.content;
    let Parameters { ret, binary, require_tls, .. } = original.envelope.parameters();
    // The report may have to go where the message must not: RFC 8689 §5 disregards RET=FULL then.
    let full = ret == Return::Full && topic == Topic::Failure && !require_tls;
    if full && original.is_whole && content.len() <= room && !binary {
        return (if utf8 { "message/global" } else { "message/rfc822" }, content);
    }
    let headers = header(content);
    let headers = match headers.get(..room) {
        Some(cut) => &cut[..memchr::memrchr(b'\n', cut).map_or(0, |lf| lf + 1)],
        None => headers,
    };
    // A notification goes by DATA: octets that are no lines cannot be in it.
    let headers = if binary && !is_lines(headers) { &[] } else { headers };
    (if utf8 { "message/global-headers" } else { "text/rfc822-headers" }, headers)
}

/// The header of a message, up to its empty line.
fn header(content: &[u8]) -> &[u8] {
    match memchr::memmem::find(content, b"\r\n\r\n") {
        Some(end) => &content[..end + 2],
        None => content,
    }
}

/// Whether CR and LF stand in pairs only, and NUL nowhere.
fn is_lines(text: &[u8]) -> bool {
    let count = |byte| memchr::memchr_iter(byte, text).count();
    let pairs = memchr::memmem::find_iter(text, b"\r\n").count();
    count(b'\r') == pairs && count(b'\n') == pairs && count(0) == 0
}

/// A boundary that none of the parts contains, so that the original's author cannot forge a part of the report.
fn boundary(id: MessageId, returned: &[u8], report: &Report) -> String {
    let occurs = |boundary: &str| {
        let parts = [returned, report.text.as_bytes(), report.fields.as_bytes()];
        parts.iter().any(|part| memchr::memmem::find(part, boundary.as_bytes()).is_some())
    };
    (0u32..)
        .map(|turn| format!("=_{id}_{turn}"))
        .find(|boundary| !occurs(boundary))
        .expect("bounded parts cannot contain every boundary")
}
