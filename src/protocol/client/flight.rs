//! PURE. One transaction between its MAIL and its last reply: who is still open, and what became of the others.

use crate::outcome::{LegResult, Reply, Verdict};

/// How the body travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// DATA, 354, stuffed body, final dot.
    Data,
    /// BDAT chunks, sent without waiting for the envelope's replies (RFC 3030).
    Chunks,
}

/// What MAIL was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mail {
    Unanswered,
    Accepted,
    Refused,
}

/// Where the body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Body {
    /// Behind the reply to DATA.
    Ahead,
    /// The driver gives it, piece by piece.
    Open,
    /// Its end has been written: the remote may take it.
    Ended,
    /// It will not be sent, or not to its end.
    Void,
}

/// A transaction in flight. Bits are places within the leg.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) tag: u64,
    pub(super) form: Form,
    pub(super) mail: Mail,
    pub(super) body: Body,
    /// Recipients without a result.
    pub(super) open: u64,
    /// Of those, the ones whose RCPT was accepted.
    pub(super) accepted: u64,
    /// Recipients of whose success the sender wants to be told.
    pub(super) asked: u64,
    /// Recipients handed back as if they had never been begun.
    pub(super) untried: u64,
    /// Deferred recipients that may have the message all the same.
    pub(super) in_doubt: u64,
    /// Replies that are still to come, those to commands that are held back included.
    pub(super) unanswered: u32,
    /// Whether the remote has left the transaction by itself: after the final dot, or the last chunk's success.
    pub(super) closed_by_peer: bool,
    pub(super) results: Vec<LegResult>,
}

impl Flight {
    pub(super) fn new(tag: u64) -> Self {
        Self {
            tag,
            form: Form::Data,
            mail: Mail::Unanswered,
            body: Body::Ahead,
            open: 0,
            accepted: 0,
            asked: 0,
            untried: 0,
            in_doubt: 0,
            unanswered: 0,
            closed_by_peer: false,
            results: Vec::new(),
        }
    }

    /// Gives `recipients` their result. Those that have one already keep it: each gets exactly one.
    pub(super) fn settle(&mut self, recipients: u64, verdict: Verdict, reply: impl FnOnce() -> Reply) {
        let recipients = recipients & self.open;
        if recipients == 0 {
            return;
        }
        self.open &= !recipients;
        self.accepted &= !recipients;
        let reply = reply();
        match self.results.iter_mut().find(|result| result.verdict == verdict && result.reply == reply) {
            Some(result) => result.recipients |= recipients,
            None => self.results.push(LegResult { recipients, verdict, reply }),
        }
    }

    /// Gives `recipients` a result before they were begun (an address that cannot be sent).
    pub(super) fn settle_unbegun(&mut self, recipients: u64, verdict: Verdict, reply: Reply) {
        self.open |= recipients;
        self.settle(recipients, verdict, || reply);
    }

    /// Hands the open recipients back untried.
    pub(super) fn hand_back(&mut self) {
        self.untried |= self.open;
        self.open = 0;
        self.accepted = 0;
    }

    /// Whether nothing more will come for it.
    pub(super) fn is_over(&self) -> bool {
        self.unanswered == 0 && matches!(self.body, Body::Ended | Body::Void)
    }

    /// Whether the remote would take the next MAIL for a nested one (RFC 5321 §4.1.4, RFC 3030).
    pub(super) fn needs_reset(&self) -> bool {
        self.mail == Mail::Accepted && !self.closed_by_peer
    }
}
