//! PURE. The text of a notification, for people: which address, what happened, what was said by whom, what to do.

use super::class::{BounceClass, classify};
use super::status::{date, push_clean, said};
use super::{Fate, Original, Reported};
use crate::outcome::Topic;

/// The subject of a notification.
pub(super) fn subject(topic: Topic) -> &'static str {
    match topic {
        Topic::Failure => "Undelivered mail: returned to sender",
        Topic::Success => "Delivered mail: the report you asked for",
        Topic::Delay => "Delayed mail: still being tried",
    }
}

/// The beginning of the text.
pub(super) fn push_greeting(out: &mut String, original: &Original<'_>, topic: Topic, host: &str, utf8: bool) {
    out.push_str("This is the mail system at ");
    push_clean(out, host, utf8);
    out.push_str(".\r\n\r\nYour message, accepted on ");
    out.push_str(&date(original.envelope.accepted_at()));
    out.push_str(match topic {
        Topic::Failure => {
            ",\r\ncould not be delivered to the recipients below. It will not be tried again.\r\n"
        }
        Topic::Success => ",\r\nhas been delivered or handed on to the recipients below, as you asked to be told.\r\n",
        Topic::Delay => {
            ",\r\nhas not been delivered to the recipients below yet. You need not do anything: it is tried again\r\n\
             and again, and you will be told if it fails for good.\r\n"
        }
    });
}

/// One recipient.
pub(super) fn push_explanation(out: &mut String, reported: &Reported<'_>, utf8: bool) {
    out.push_str("\r\n  <");
    push_clean(out, reported.recipient.mailbox, utf8);
    out.push_str(">\r\n");
    match reported.fate {
        Fate::Failed => {
            push_reason(out, reported, utf8);
            let advice = reported.reply.map_or(BounceClass::Other, classify);
            push_line(out, advice_on(advice));
        }
        Fate::Delayed { until } => {
            push_reason(out, reported, utf8);
            push_line(out, &format!("It will be tried until {}.", date(until)));
        }
        Fate::Delivered => push_line(out, "It has been delivered to the mailbox."),
        Fate::Relayed => push_line(
            out,
            "It has been handed on to the receiving server, which does not send such reports itself.",
        ),
    }
}

fn push_line(out: &mut String, line: &str) {
    out.push_str("    ");
    out.push_str(line);
    out.push_str("\r\n");
}

/// What was said last, by whom.
fn push_reason(out: &mut String, reported: &Reported<'_>, utf8: bool) {
    out.push_str("    ");
    match reported.reply {
        None => out.push_str("The receiving server could not be asked yet."),
        Some(reply) if reply.code == 0 => {
            out.push_str("Reason: ");
            push_clean(out, &reply.text, utf8);
        }
        Some(reply) => {
            let remote = if reported.remote.is_empty() { "The receiving server" } else { reported.remote };
            push_clean(out, remote, utf8);
            out.push_str(" said:\r\n      ");
            push_clean(out, &said(reply), utf8);
        }
    }
    out.push_str("\r\n");
}

/// The end of the text.
pub(super) fn push_closing(out: &mut String, original: &Original<'_>, topic: Topic) {
    if topic != Topic::Success {
        out.push_str("\r\nIf you ask for help, please quote this message's id: ");
        out.push_str(&original.id.to_string());
        out.push_str("\r\n");
    }
}

/// What to do about a failure.
fn advice_on(class: BounceClass) -> &'static str {
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
