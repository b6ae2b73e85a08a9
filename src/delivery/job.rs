//! A job at its worker: a guard that reports exactly one end, whatever happens to the connection that has it.

use std::rc::Rc;
use std::sync::Arc;

use super::pool::Pool;
use crate::clock::Moment;
use crate::exchange::{End, Job};
use crate::id::Location;
use crate::message::Message;
use crate::net;
use crate::outcome::{Enhanced, LegResult, Reply, Verdict};
use crate::spool::Pinned;
use crate::spool::storage::Storage;

/// Where a job's message is.
#[derive(Debug)]
pub enum Payload<P> {
    /// In memory, shared with the shard.
    Resident(Arc<Message>),
    /// On disk; the segments stay readable while this lives.
    Spooled(Pinned<P>),
}

/// How far a job has come: decides what its loss would mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// Nothing was said to a remote.
    Parked,
    /// A transaction has begun.
    Begun { at: Moment },
}

/// A job and the duty to report it. Dropped without a word it reports itself: `NotTried` before its transaction began,
/// `Unknown` after.
pub struct ActiveJob<S: Storage> {
    job: Job<Payload<S::Pin>>,
    pool: Rc<Pool<S>>,
    progress: Progress,
    reported: bool,
}

impl<S: Storage> ActiveJob<S> {
    /// Takes over the duty.
    pub(super) fn new(job: Job<Payload<S::Pin>>, pool: Rc<Pool<S>>) -> Self {
        Self { job, pool, progress: Progress::Parked, reported: false }
    }

    /// What is to be sent.
    pub fn job(&self) -> &Job<Payload<S::Pin>> {
        &self.job
    }

    /// Its transaction begins now.
    pub fn begin(&mut self, now: Moment) {
        self.progress = Progress::Begun { at: now };
    }

    /// When its transaction began.
    pub fn began(&self) -> Option<Moment> {
        match self.progress {
            Progress::Parked => None,
            Progress::Begun { at } => Some(at),
        }
    }

    /// Reports results for the recipients that were tried; none at all means that nothing was tried.
    pub fn finish(mut self, results: Vec<LegResult>, remote: Arc<str>) {
        let end = match self.progress {
            Progress::Begun { at } if !results.is_empty() => End::Attempted { results, remote, began: at },
            _ => End::NotTried,
        };
        self.report(end);
    }

    /// Reports that its message is damaged on disk, in the record at `at`.
    pub(super) fn damaged(mut self, at: Location) {
        self.report(End::Damaged { at });
    }

    /// Reports it delivered without sending it: the target is `discard`.
    pub(super) fn discard(mut self) {
        self.begin(net::now().mono);
        let reply = Reply::new(250, Enhanced(2, 0, 0), "discarded");
        let result = LegResult { recipients: self.job.recipients, verdict: Verdict::Placed, reply };
        self.finish(vec![result], Arc::from("discard"));
    }

    fn report(&mut self, end: End) {
        self.reported = true;
        self.pool.report(&self.job, end);
    }
}

impl<S: Storage> Drop for ActiveJob<S> {
    fn drop(&mut self) {
        if !self.reported {
            let end = match self.progress {
                Progress::Parked => End::NotTried,
                Progress::Begun { .. } => End::Unknown,
            };
            self.report(end);
        }
    }
}

impl<S: Storage> std::fmt::Debug for ActiveJob<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ActiveJob")
            .field("id", &self.job.id)
            .field("leg", &self.job.leg)
            .field("progress", &self.progress)
            .finish()
    }
}
