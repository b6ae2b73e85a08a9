//! PURE. The fields of a notification, for machines (RFC 3464 §2.2, §2.3).
//!
//! Every value comes from a client or a remote, so each goes through [`push_clean`]: one line stays one line.

use super::address::{decode_xtext, push_mailbox, push_original};
use super::{Fate, Original, Reported};
use crate::clock::WallTime;
use crate::outcome::{Enhanced, Reply};
use jiff::Timestamp;

/// Longest value in a field, bytes: keeps every line below the 998 of RFC 5322 §2.1.1.
const VALUE_BYTES_MAX: usize = 800;

/// Appends `text` as one line's part: no control characters, bounded; non-ASCII becomes `?` unless `utf8` is allowed.
pub(super) fn push_clean(out: &mut String, text: &str, utf8: bool) {
    let end = out.len() + VALUE_BYTES_MAX;
    for c in text.chars() {
        let c = match c {
            c if c.is_control() => ' ',
            // They end a line for some readers.
            '\u{2028}' | '\u{2029}' => ' ',
            c if !utf8 && !c.is_ascii() => '?',
            c => c,
        };
        if out.len() + c.len_utf8() > end {
            return;
        }
        out.push(c);
    }
}

/// RFC 5322 §3.3 date in UTC.
pub(super) fn date(at: WallTime) -> String {
    let seconds = i64::try_from(at.0 / 1000).unwrap_or(i64::MAX);
    let at = Timestamp::from_second(seconds).unwrap_or(Timestamp::UNIX_EPOCH);
    at.strftime("%a, %d %b %Y %H:%M:%S +0000").to_string()
}

fn push_field(out: &mut String, name: &str, kind: &str, value: &str, utf8: bool) {
    out.push_str(name);
    out.push_str(": ");
    out.push_str(kind);
    push_clean(out, value, utf8);
    out.push_str("\r\n");
}

/// The fields about the message.
pub(super) fn push_message_fields(out: &mut String, original: &Original<'_>, host: &str, utf8: bool) {
    if let Some(envid) = original.envelope.envid() {
        push_field(out, "Original-Envelope-Id", "", &decode_xtext(envid), utf8);
    }
    push_field(out, "Reporting-MTA", "dns; ", host, utf8);
    push_field(out, "X-Ringpost-Message-Id", "", &original.id.to_string(), utf8);
    push_field(out, "Arrival-Date", "", &date(original.envelope.accepted_at()), utf8);
}

/// The fields about one recipient, with the empty line before them.
pub(super) fn push_recipient_fields(out: &mut String, reported: &Reported<'_>, utf8: bool) {
    out.push_str("\r\nOriginal-Recipient: ");
    if push_original(out, reported.recipient.original, utf8) {
        out.push_str("\r\n");
    } else {
        out.truncate(out.len() - "Original-Recipient: ".len());
    }
    out.push_str("Final-Recipient: ");
    push_mailbox(out, reported.recipient.mailbox, utf8);
    let action = match reported.fate {
        Fate::Failed => "failed",
        Fate::Delayed { .. } => "delayed",
        Fate::Relayed => "relayed",
        Fate::Delivered => "delivered",
    };
    push_field(out, "\r\nAction", "", action, utf8);
    push_field(out, "Status", "", &status(reported), utf8);
    if !reported.remote.is_empty() {
        push_field(out, "Remote-MTA", "dns; ", reported.remote, utf8);
    }
    match reported.reply {
        Some(reply) if reply.code == 0 => {
            push_field(out, "Diagnostic-Code", "x-ringpost; ", &reply.text, utf8)
        }
        Some(reply) => push_field(out, "Diagnostic-Code", "smtp; ", &said(reply), utf8),
        None => {}
    }
    if let Fate::Delayed { until } = reported.fate {
        push_field(out, "Will-Retry-Until", "", &date(until), utf8);
    }
}

/// Enhanced status, of a class that goes with what happened (RFC 3464 §2.3.4); `N.0.0` where there is none.
fn status(reported: &Reported<'_>) -> String {
    let classes: &[u8] = match reported.fate {
        Fate::Failed => &[5, 4],
        Fate::Delayed { .. } => &[4],
        Fate::Relayed | Fate::Delivered => &[2],
    };
    match reported.reply.map(|reply| reply.enhanced) {
        Some(enhanced) if classes.contains(&enhanced.0) => dotted(enhanced),
        _ => format!("{}.0.0", classes[0]),
    }
}

fn dotted(Enhanced(class, subject, detail): Enhanced) -> String {
    format!("{class}.{}.{}", subject.min(999), detail.min(999))
}

/// The reply as the remote gave it, on one line.
pub(super) fn said(reply: &Reply) -> String {
    match reply.enhanced {
        Enhanced(2 | 4 | 5, ..) => format!("{} {} {}", reply.code, dotted(reply.enhanced), reply.text),
        _ => format!("{} {}", reply.code, reply.text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_rfc_5322_at_any_time() {
        assert_eq!(date(WallTime(784_887_151_999)), "Tue, 15 Nov 1994 08:12:31 +0000");
        assert_eq!(date(WallTime(0)), "Thu, 01 Jan 1970 00:00:00 +0000");
        assert!(date(WallTime(u64::MAX)).ends_with("+0000"));
    }

    #[test]
    fn values_stay_on_one_line() {
        let mut out = String::new();
        push_clean(&mut out, "a\r\nB: c\u{85}\u{2028}d\té", false);
        assert_eq!(out, "a  B: c  d ?");
        out.clear();
        push_clean(&mut out, &"é".repeat(1000), true);
        assert_eq!(out.len(), VALUE_BYTES_MAX);
    }
}
