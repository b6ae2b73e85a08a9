//! PURE. What shards ask the thread that checks passwords, and what they are told.

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::Users;
use crate::id::ShardIndex;

/// Questions that may wait: at some 30 checks a second more would wait longer than clients do.
const QUESTIONS_MAX: usize = 128;

/// What the client offers.
pub enum Evidence {
    /// To be checked.
    Password(Box<[u8]>),
    /// Checked already: by SCRAM, or by the handshake.
    Decided(bool),
}

/// Whether a client is who it says.
pub struct Question {
    /// Who asks.
    pub shard: ShardIndex,
    /// The asker's number for it.
    pub ticket: u64,
    /// Who it says it is.
    pub user: Box<str>,
    /// With what.
    pub evidence: Evidence,
    /// Among whom.
    pub users: Arc<Users>,
}

/// The answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is.
    Granted,
    /// It is not, or there is no such user.
    Refused,
    /// Nobody looked: too many failures, or too many questions.
    Later,
}

/// A shard's way to ask.
#[derive(Clone)]
pub struct Asker(Sender<Question>);

impl Asker {
    /// Asks without waiting; `false` when too many questions wait.
    #[must_use]
    pub fn ask(&self, question: Question) -> bool {
        self.0.try_send(question).is_ok()
    }
}

/// A way to ask, and where the questions come out.
pub fn questions() -> (Asker, Receiver<Question>) {
    let (sender, receiver) = bounded(QUESTIONS_MAX);
    (Asker(sender), receiver)
}
