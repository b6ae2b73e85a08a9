//! PURE. What became of an attempt, in the words that delivery, queue, spool, bounces and logs share.

use crate::clock::WallTime;
use crate::id::MessageId;
use crate::limits::REPLY_TEXT_BYTES_MAX;

/// What a result means for its recipients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The remote took responsibility (2xx to the final dot), and reports itself to a sender who asked for it. Or nobody
    /// asked.
    Delivered,
    /// The remote took it from a sender who asked to be told of success, and cannot report (no DSN): we owe the report.
    Relayed,
    /// It is where it was to go and nobody further on will report: a mailbox of our own. A sender who asked is owed a report.
    Placed,
    /// To be tried again (4xx, broken connection, time-out).
    Deferred,
    /// Refused for good (5xx, or the message expired): a bounce is owed.
    Failed,
}

impl Verdict {
    /// Whether the recipient has it, as far as it is ours to know.
    pub fn is_success(self) -> bool {
        matches!(self, Verdict::Delivered | Verdict::Relayed | Verdict::Placed)
    }
}

/// An enhanced status code: class, subject, detail (RFC 3463).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Enhanced(pub u8, pub u16, pub u16);

/// The words behind a verdict: the remote's, or ours when there was no remote (code 0).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// SMTP reply code, 200 to 599; 0 when the text is ours and not a remote's.
    pub code: u16,
    /// Enhanced status, given by the remote or chosen by us.
    pub enhanced: Enhanced,
    /// At most [`REPLY_TEXT_BYTES_MAX`] bytes, lines joined with a space, no control characters.
    pub text: Box<str>,
}

impl Reply {
    /// A reply whose text is cut to [`REPLY_TEXT_BYTES_MAX`] and cleared of control characters.
    pub fn new(code: u16, enhanced: Enhanced, text: &str) -> Self {
        let clean = |c: char| if c.is_control() { ' ' } else { c };
        let mut end = text.len().min(REPLY_TEXT_BYTES_MAX);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let text = text[..end].trim_end();
        let text = if text.contains(char::is_control) {
            text.chars().map(clean).collect::<String>().into_boxed_str()
        } else {
            Box::from(text)
        };
        Self { code, enhanced, text }
    }
}

/// One result and the recipients it holds for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LegResult {
    /// Bit `i` is the leg's recipient `first + i`.
    pub recipients: u64,
    /// What it means.
    pub verdict: Verdict,
    /// Why.
    pub reply: Reply,
}

/// The outcome of one attempt at a leg, as recorded: results only, nothing to recompute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The message.
    pub id: MessageId,
    /// Which leg: the index of its first recipient.
    pub leg: u16,
    /// Attempts so far, this one included. Unchanged by a result that is no attempt, such as expiry.
    pub attempts: u16,
    /// When it ended.
    pub at: WallTime,
    /// When the deferred recipients are due again, jitter included.
    pub due: WallTime,
    /// Each open recipient of the leg that was tried, once.
    pub results: Vec<LegResult>,
}

/// State of a leg, as carried by the moved copy of a message. No recipient stands in two of its sets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LegState {
    /// Which leg: the index of its first recipient.
    pub leg: u16,
    /// Attempts so far.
    pub attempts: u16,
    /// When it is due.
    pub due: WallTime,
    /// Recipients neither delivered nor failed.
    pub open: u64,
    /// Recipients that failed and for whom no bounce has been queued yet.
    pub owed: u64,
    /// Recipients that were [`Verdict::Relayed`], and of whom the sender has not been told.
    pub relayed: u64,
    /// Recipients that were [`Verdict::Placed`], likewise.
    pub placed: u64,
    /// Whether the sender has been told that those that are open are late.
    pub delay_told: bool,
    /// Last reply of the recipients above, as far as it is still known.
    pub replies: Vec<LegResult>,
}

impl LegState {
    /// Recipients of whom the sender is still to be told: failed, relayed or placed.
    pub fn reports(&self) -> u64 {
        self.owed | self.relayed | self.placed
    }

    /// Recipients of whom anything is left to be done.
    pub fn unsettled(&self) -> u64 {
        self.open | self.reports()
    }
}

/// What a notification is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topic {
    /// Recipients failed for good.
    Failure,
    /// They have it, or somebody who does not report has taken it for them.
    Success,
    /// They have not got it yet.
    Delay,
}

/// `Bounced`: owed recipients of a message have been reported (or must not be: null sender, NOTIFY=NEVER).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bounced {
    /// The message that is reported on.
    pub id: MessageId,
    /// For each leg concerned: index of its first recipient, and the bits now settled.
    pub legs: Vec<(u16, u64)>,
    /// Legs (by their first recipients) of whose delay the sender has been told; once is enough.
    pub delayed: Vec<u16>,
    /// The status notification, accepted in the same batch; `None` if none may be sent.
    pub notification: Option<MessageId>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reply_text_is_bounded_and_carries_no_control_characters() {
        let long = format!("line\r\n\u{1b}[31m{}", "é".repeat(REPLY_TEXT_BYTES_MAX));
        let reply = Reply::new(550, Enhanced(5, 1, 1), &long);
        assert!(reply.text.len() <= REPLY_TEXT_BYTES_MAX, "{}", reply.text.len());
        assert!(!reply.text.contains(char::is_control));
        assert!(reply.text.starts_with("line   [31mé"));
    }
}
