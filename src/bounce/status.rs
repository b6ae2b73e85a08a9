//! PURE. The parts of a notification: the text for people, and the fields for machines (RFC 3464 §2.2, §2.3).
//!
//! Every value comes from a client or a remote, so each goes through [`push_clean`]: one line stays one line.

use super::{Failed, Original};
use crate::bounce::class::{BounceClass, classify};
use crate::clock::WallTime;
use crate::outcome::Reply;
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

/// Turns xtext into what it stands for (RFC 3461 §4); text that is not xtext stays as it is.
pub(super) fn decode_xtext(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, more)) = rest.split_first() {
        let pair = more.split_first_chunk::<2>().filter(|_| byte == b'+');
        let code = pair.and_then(|(hex, more)| {
            let hex =
                std::str::from_utf8(hex).ok().filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()))?;
            Some((u8::from_str_radix(hex, 16).ok()?, more))
        });
        let (byte, more) = code.unwrap_or((byte, more));
        bytes.push(byte);
        rest = more;
    }
    String::from_utf8(bytes).unwrap_or_else(|_| text.to_owned())
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
pub(super) fn push_recipient_fields(out: &mut String, failed: &Failed<'_>, utf8: bool) {
    out.push_str("\r\n");
    if let Some((kind, address)) = failed.recipient.original.split_once(';') {
        let address = decode_xtext(address);
        out.push_str("Original-Recipient: ");
        push_clean(out, kind.trim(), false);
        out.push_str("; ");
        push_clean(out, &address, utf8);
        out.push_str("\r\n");
    }
    let kind = if utf8 && !failed.recipient.mailbox.is_ascii() { "utf-8; " } else { "rfc822; " };
    push_field(out, "Final-Recipient", kind, failed.recipient.mailbox, utf8);
    out.push_str("Action: failed\r\nStatus: ");
    out.push_str(&status(failed.reply));
    out.push_str("\r\n");
    if !failed.remote.is_empty() {
        push_field(out, "Remote-MTA", "dns; ", failed.remote, utf8);
    }
    if failed.reply.code == 0 {
        push_field(out, "Diagnostic-Code", "x-ringpost; ", &failed.reply.text, utf8);
    } else {
        push_field(out, "Diagnostic-Code", "smtp; ", &said(failed.reply), utf8);
    }
}

/// Enhanced status; `5.0.0` if there is none of class 4 or 5, since the recipient has failed (RFC 3464 §2.3.4).
fn status(reply: &Reply) -> String {
    let enhanced = reply.enhanced;
    match enhanced.0 {
        4 | 5 => format!("{}.{}.{}", enhanced.0, enhanced.1.min(999), enhanced.2.min(999)),
        _ => "5.0.0".to_owned(),
    }
}

/// The reply as the remote gave it, on one line.
fn said(reply: &Reply) -> String {
    format!("{} {} {}", reply.code, status(reply), reply.text)
}

/// The beginning of the text for people.
pub(super) fn push_greeting(out: &mut String, original: &Original<'_>, host: &str, utf8: bool) {
    out.push_str("This is the mail system at ");
    push_clean(out, host, utf8);
    out.push_str(".\r\n\r\nYour message, accepted on ");
    out.push_str(&date(original.envelope.accepted_at()));
    out.push_str(",\r\ncould not be delivered to the recipients below. It will not be tried again.\r\n");
}

/// One recipient in the text for people: who, what was said by whom, what to do.
pub(super) fn push_explanation(out: &mut String, failed: &Failed<'_>, utf8: bool) {
    out.push_str("\r\n  <");
    push_clean(out, failed.recipient.mailbox, utf8);
    out.push_str(">\r\n    ");
    if failed.reply.code == 0 {
        out.push_str("Reason: ");
        push_clean(out, &failed.reply.text, utf8);
    } else {
        let remote = if failed.remote.is_empty() { "The receiving server" } else { failed.remote };
        push_clean(out, remote, utf8);
        out.push_str(" said:\r\n      ");
        push_clean(out, &said(failed.reply), utf8);
    }
    out.push_str("\r\n    ");
    out.push_str(advice(classify(failed.reply)));
    out.push_str("\r\n");
}

/// The end of the text for people.
pub(super) fn push_closing(out: &mut String, original: &Original<'_>) {
    out.push_str("\r\nIf you ask for help, please quote this message's id: ");
    out.push_str(&original.id.to_string());
    out.push_str("\r\n");
}

fn advice(class: BounceClass) -> &'static str {
    match class {
        BounceClass::BadMailbox => {
            "Check the address for typing errors, and remove it from lists if it is right."
        }
        BounceClass::BadDomain => "Check the part behind the @ for typing errors: no mail can be sent there.",
        BounceClass::Policy => {
            "The receiving side refuses it by its rules; ask its postmaster, or your mail administrator."
        }
        BounceClass::Spam => "It was taken for spam; ask your mail administrator before you send it again.",
        BounceClass::Quota => "The mailbox is full; try again later or reach the recipient in another way.",
        BounceClass::TooLarge => "The message is too large; send less or a link instead of attachments.",
        BounceClass::Protocol => {
            "The receiving server cannot handle this message; your mail administrator can find out why."
        }
        BounceClass::Expired => {
            "The receiving server could not be reached for too long; send it again later."
        }
        BounceClass::RelayDenied => {
            "The receiving server does not take mail for this domain; its owner must correct that."
        }
        BounceClass::Other => "If the reason above does not help, ask your mail administrator.",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xtext_is_decoded_and_other_text_left_alone() {
        for (text, want) in [
            ("a+2Bb+3D", "a+b="),
            ("plain", "plain"),
            ("+", "+"),
            ("+4", "+4"),
            ("+zz", "+zz"),
            ("+FF", "+FF"),
            ("a+é", "a+é"),
        ] {
            assert_eq!(decode_xtext(text), want);
        }
    }

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
