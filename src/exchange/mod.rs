//! PURE. What shards and workers say to each other, and the credits that keep it bounded.
//!
//! A worker grants a shard *credits* for a path; the shard sends a [`Job`] only against one, and only while its window
//! to that worker has room. A channel holds a whole window, so nobody ever waits to send. Grants are totals, not
//! differences: one that is repeated or overtaken by a later one does no harm. Revoking is a new epoch.
//!
//! * [`ledger`] is the shard's end: credits, windows, what is to be said to workers.
//! * [`grants`] is the worker's end: who wants what, who was granted how much.
//! * [`shares`] says how much of a path is due to which shard, for the sake of its tenants.
//!
//! | message | from → to | carries |
//! | --- | --- | --- |
//! | [`Demand`] | shard → worker | ready legs of a path, and how many jobs were sent in the current epoch. State: the last one counts |
//! | [`Job`] | shard → worker | one leg, or a part of it, against one credit |
//! | [`Grant`] | worker → shard | total credits of a path in an epoch. State: the last one counts |
//! | [`Report`] | worker → shard | what became of a job: exactly one for each |
//! | [`ToShard::Spread`] | home → shard | at how many shards its tenants wait. State: the last one counts |
//!
//! The first job of an idle path needs no grant: a path that has been announced to its home worker has one credit from
//! the start, so announcement and job travel together.

pub mod grants;
pub mod ledger;
pub mod shares;

use std::sync::Arc;

use crate::clock::{Moment, WallTime};
use crate::id::{LegRef, Location, MessageId, PathId, ShardIndex, TenantKey, WorkerIndex};
use crate::outcome::{LegResult, Reply};
use crate::routing::{DomainHosts, PathSpec};
use shares::{Spread, Waiting};

/// Credits that a path has at its home worker from the first announcement on.
pub const CREDITS_AT_START: u64 = 1;

/// Most jobs of one shard at one worker. A channel between them keeps this much room for jobs or their reports, so that
/// neither ever waits to send one, however many demands, grants and errors there are to tell.
pub const WINDOW_JOBS: u32 = 2048;
/// Room in a channel for everything else.
pub const CONTROL_ROOM: usize = 2048;

/// Whether a channel with `room` free places takes a message that is not a job or a report.
pub fn has_control_room(room: usize) -> bool {
    room > WINDOW_JOBS as usize
}

/// One transaction to be tried: a leg, or the part of it that fits the path. `B` is where the body comes from.
#[derive(Debug)]
pub struct Job<B> {
    /// Who sent it, and gets the report.
    pub shard: ShardIndex,
    /// The leg in the shard's queue.
    pub leg: LegRef,
    /// The message.
    pub id: MessageId,
    /// The path whose credit was used.
    pub path: PathId,
    /// Index of the leg's first recipient.
    pub first: u16,
    /// Recipients to try: bit `i` is recipient `first + i`.
    pub recipients: u64,
    /// Attempts before this one.
    pub attempts: u16,
    /// Bytes that count against the window.
    pub bytes: u32,
    /// Where it goes, if the path leaves that to the domain.
    pub hosts: Option<DomainHosts>,
    /// Whose it is.
    pub tenant: TenantKey,
    /// Envelope and body.
    pub body: B,
}

/// What a shard has for a path.
#[derive(Clone, Debug)]
pub struct Demand {
    /// Where to deliver. The newest version counts.
    pub path: Arc<PathSpec>,
    /// The epoch that the shard knows; acknowledges it.
    pub epoch: u32,
    /// Jobs sent in that epoch.
    pub sent: u64,
    /// Legs that are ready and not sent.
    pub ready: u32,
    /// When the oldest of them was accepted.
    pub oldest: WallTime,
    /// Whose they are.
    pub waiting: Waiting,
    /// A tenant has come since the demand before.
    pub joined: bool,
}

/// Credits of a shard for a path at one worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Which worker grants.
    pub worker: WorkerIndex,
    /// For which path.
    pub path: PathId,
    /// A new epoch starts the totals again from 0.
    pub epoch: u32,
    /// Jobs that may be sent in this epoch, all told.
    pub granted: u64,
}

/// What became of a job.
#[derive(Debug)]
pub struct Report {
    /// Which worker had it.
    pub worker: WorkerIndex,
    /// The leg in the shard's queue.
    pub leg: LegRef,
    /// The message.
    pub id: MessageId,
    /// The path whose credit was used.
    pub path: PathId,
    /// Recipients that were to be tried.
    pub recipients: u64,
    /// Bytes to give back to the window.
    pub bytes: u32,
    /// The end of it.
    pub end: End,
}

/// How a job ended.
#[derive(Debug)]
pub enum End {
    /// Nothing was sent to a remote that could count as an attempt; the leg is as ready as before.
    NotTried,
    /// A remote was asked: one result for each recipient that was tried.
    Attempted {
        /// The results.
        results: Vec<LegResult>,
        /// Name of the remote host.
        remote: Arc<str>,
        /// When the job's first command was written.
        began: Moment,
    },
    /// The message is damaged on disk: it was not sent, and never can be.
    Damaged {
        /// Which of its records.
        at: Location,
    },
    /// The worker dropped it in a way that leaves open whether the remote has the message (a bug was caught).
    Unknown,
}

/// What a shard sends to a worker.
#[derive(Debug)]
pub enum ToWorker<B> {
    /// A job, against a credit.
    Job(Job<B>),
    /// News about a path.
    Demand(ShardIndex, Demand),
}

/// What a worker sends to a shard.
#[derive(Debug)]
pub enum ToShard {
    /// Credits.
    Grant(Grant),
    /// The end of a job.
    Report(Report),
    /// How the tenants of a path take turns.
    Spread(PathId, Spread),
    /// A path rests; why, for the words of a bounce if its legs expire meanwhile.
    PathError {
        /// Which path.
        path: PathId,
        /// What went wrong last.
        reply: Reply,
    },
}

/// The worker that holds a path's limits and back-off. Everyone computes it alike.
pub fn home(path: PathId, workers: u16) -> WorkerIndex {
    // Fibonacci hashing: neighbouring numbers go to different workers, and so do multiples of the worker count.
    let mixed = u64::from(path.0).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
    WorkerIndex(((mixed * u64::from(workers)) >> 32) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn homes_are_spread_over_the_workers() {
        for workers in [1u16, 2, 3, 16] {
            let mut counts = vec![0; usize::from(workers)];
            for path in 0..16_000 {
                counts[usize::from(home(PathId(path), workers).0)] += 1;
            }
            let fair = 16_000 / usize::from(workers);
            assert!(counts.iter().all(|count| *count > fair / 2 && *count < fair * 2), "{counts:?}");
        }
    }
}
