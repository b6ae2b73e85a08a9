//! PURE. Why the spool refuses, and the fence.

use std::sync::{Arc, OnceLock};

use super::meta::MetaError;
use super::record::RecordError;

/// Why nothing was appended, or why it is not known to be durable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The disk has no room before the reserve: 452 4.3.1.
    #[error("the spool's disk is full")]
    Full,
    /// A write failed somewhere on this file system; nothing is accepted until a restart: 451 4.3.0.
    #[error("the spool is fenced: {0}")]
    Fenced(Arc<str>),
    /// The disk has not answered within the deadline: 451 4.3.0. The message will not be delivered.
    #[error("the spool's disk does not answer")]
    Stuck,
    /// Larger than a record may be; the session's limits should have prevented it.
    #[error("message does not fit the spool's records")]
    TooLarge,
    /// The log is closed.
    #[error("the spool is closed")]
    Closed,
}

/// Why a part could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// The disk.
    #[error("{doing} {path}: {source}")]
    Disk {
        /// What was tried: "open", "read", …
        doing: &'static str,
        /// On what.
        path: String,
        /// How it failed.
        source: std::io::Error,
    },
    /// Intact, but not understood: nothing was changed.
    #[error("{path}: {reason}; nothing was changed")]
    Unreadable {
        /// The file.
        path: String,
        /// What is not understood.
        reason: String,
    },
    /// A setting that cannot work.
    #[error("segment size must be a multiple of 4096 from {least} to {most} bytes, not {given}")]
    SegmentSize {
        /// As configured.
        given: u32,
        /// Lower bound.
        least: u32,
        /// Upper bound.
        most: u32,
    },
    /// The spool directory as a whole.
    #[error("{0}")]
    Layout(String),
}

/// Why a record that is intact stops recovery.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error(transparent)]
    Meta(#[from] MetaError),
}

/// Shared by all logs on one file system: once raised, by a failed write in any of them, nothing is accepted until a
/// restart. A failed sync must not be retried, since the kernel marks the pages clean.
#[derive(Clone, Debug, Default)]
pub struct Fence(Arc<OnceLock<Arc<str>>>);

impl Fence {
    /// Raises it; the first reason stays.
    pub fn raise(&self, reason: &str) {
        let _ = self.0.set(Arc::from(reason));
    }

    /// Why it was raised, if it was.
    pub fn reason(&self) -> Option<Arc<str>> {
        self.0.get().cloned()
    }

    /// An error if it was raised.
    pub fn check(&self) -> Result<(), AppendError> {
        match self.0.get() {
            None => Ok(()),
            Some(reason) => Err(AppendError::Fenced(reason.clone())),
        }
    }
}
