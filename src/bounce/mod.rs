//! PURE. Delivery status notifications: tells a sender which recipients failed and why (RFC 3461, 3464, 6522, 6533).
//!
//! Builds the notification's envelope and body; when one is owed, and that it is queued durably with the settlement, is
//! the queue's and the spool's business. Only failures are reported. A notification fits one record
//! ([`BODY_INLINE_BYTES_MAX`]): when there are more recipients than fit, it covers the first of them and says how many.

mod class;
mod status;
#[cfg(test)]
mod tests;

pub use class::{BounceClass, classify};

use crate::clock::WallTime;
use crate::envelope::{Content, Envelope, EnvelopeBuilder, Notify, Parameters, Recipient, Return};
use crate::id::MessageId;
use crate::limits::BODY_INLINE_BYTES_MAX;
use crate::outcome::Reply;
use mail_builder::MessageBuilder;
use mail_builder::headers::content_type::ContentType;
use mail_builder::headers::date::Date;
use mail_builder::headers::raw::Raw;
use mail_builder::mime::MimePart;

/// Bytes for the two accounts of the recipients, text and fields; the rest is for what is returned of the original.
const REPORT_BYTES_MAX: usize = 36 * 1024;
/// Bytes kept free for headers, MIME part headers and boundaries: sender and host at their longest, six boundaries.
const FRAME_BYTES: usize = 4 * 1024;

/// The message that failed.
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

/// A recipient that failed for good.
#[derive(Clone, Copy, Debug)]
pub struct Failed<'a> {
    /// As the envelope has it.
    pub recipient: Recipient<'a>,
    /// Why; code 0 if the reason is ours.
    pub reply: &'a Reply,
    /// Host name of the remote that said so; empty if there was none.
    pub remote: &'a str,
}

/// Who reports, and when.
#[derive(Clone, Copy, Debug)]
pub struct Reporter<'a> {
    /// This relay's host name.
    pub host: &'a str,
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
    /// How many of the failed recipients, from the first, are dealt with: reported, or not to be. Ask again for the rest.
    pub covered: usize,
}

/// The notification that `failed` recipients of `original` call for. `None` if none may be sent: the original has the null
/// sender (it is a notification itself), its sender has no domain, or NOTIFY forbids it for each of them.
pub fn notification(
    original: &Original<'_>,
    failed: &[Failed<'_>],
    reporter: &Reporter<'_>,
) -> Option<Notification> {
    let sender = original.envelope.sender();
    if sender.is_empty() || !sender.contains('@') {
        return None;
    }
    let is_reported = |failed: &&Failed<'_>| failed.recipient.notify.on_failure();
    // RFC 6533: only who can send from such an address, or asked for SMTPUTF8, can read such a report.
    let utf8 = original.envelope.parameters().smtputf8 || !sender.is_ascii();
    let report = Report::new(original, failed, reporter.host, utf8);
    failed[..report.covered].iter().find(is_reported)?;
    let covered = report.covered;
    let body = assemble(original, reporter, report, utf8);
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

/// The two accounts of what failed.
struct Report {
    text: String,
    fields: String,
    covered: usize,
}

impl Report {
    fn new(original: &Original<'_>, failed: &[Failed<'_>], host: &str, utf8: bool) -> Self {
        let (mut text, mut fields) = (String::new(), String::new());
        status::push_greeting(&mut text, original, host, utf8);
        status::push_message_fields(&mut fields, original, host, utf8);
        let mut covered = 0;
        let mut reported = 0;
        for failed in failed {
            if failed.recipient.notify.on_failure() {
                let before = (text.len(), fields.len());
                status::push_explanation(&mut text, failed, utf8);
                status::push_recipient_fields(&mut fields, failed, utf8);
                if reported > 0 && text.len() + fields.len() > REPORT_BYTES_MAX {
                    text.truncate(before.0);
                    fields.truncate(before.1);
                    break;
                }
                reported += 1;
            }
            covered += 1;
        }
        status::push_closing(&mut text, original);
        Self { text, fields, covered }
    }
}

fn assemble(original: &Original<'_>, reporter: &Reporter<'_>, report: Report, utf8: bool) -> Vec<u8> {
    let room = BODY_INLINE_BYTES_MAX - FRAME_BYTES - report.text.len() - report.fields.len();
    let (returned_type, returned) = returned(original, room, utf8);
    let kind = if utf8 { "global-delivery-status" } else { "delivery-status" };
    let boundary = boundary(reporter.id, returned, &report);
    let mut host = String::new();
    status::push_clean(&mut host, reporter.host, utf8);
    let mut sender = String::new();
    status::push_clean(&mut sender, original.envelope.sender(), utf8);
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
        .header("Subject", Raw::new("Undelivered mail: returned to sender"))
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
/// fits, otherwise its headers (RFC 3461 §4.3), cut at a line's end if they do not fit.
fn returned<'a>(original: &Original<'a>, room: usize, utf8: bool) -> (&'static str, &'a [u8]) {
    let content = original.content;
    let Parameters { ret, binary, require_tls, .. } = original.envelope.parameters();
    // The report may have to go where the message must not: RFC 8689 §5 disregards RET=FULL then.
    if ret == Return::Full && original.is_whole && content.len() <= room && !binary && !require_tls {
        return (if utf8 { "message/global" } else { "message/rfc822" }, content);
    }
    let headers = match memchr::memmem::find(content, b"\r\n\r\n") {
        Some(end) => &content[..end + 2],
        None => content,
    };
    let headers = match headers.get(..room) {
        Some(cut) => &cut[..memchr::memrchr(b'\n', cut).map_or(0, |lf| lf + 1)],
        None => headers,
    };
    // A notification goes by DATA: octets that are no lines cannot be in it.
    let headers = if binary && !is_lines(headers) { &[] } else { headers };
    (if utf8 { "message/global-headers" } else { "text/rfc822-headers" }, headers)
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
