//! PURE. What workers say to each other about the paths that they share.

use std::sync::Arc;

use super::home::{LaneNews, Lease};
use crate::id::{PathId, ShardIndex, WorkerIndex};
use crate::routing::PathSpec;

/// What workers say to each other, and to themselves where home and lane are on the same worker.
#[derive(Debug)]
pub enum Peer {
    /// Lane → home: whether there is work, and what is in use.
    News {
        /// The path.
        path: Arc<PathSpec>,
        /// The lane's worker.
        from: WorkerIndex,
        /// How it is.
        news: LaneNews,
    },
    /// Home → lane.
    Lease {
        /// The path.
        path: Arc<PathSpec>,
        /// What the lane may do.
        lease: Lease,
        /// Shards that it is to serve.
        shards: Vec<ShardIndex>,
    },
    /// Lane → home: a session was opened.
    Succeeded(PathId),
    /// Lane → home: no host could be reached, or it sent us away.
    Failed {
        /// The path.
        path: PathId,
        /// The lane's worker.
        from: WorkerIndex,
        /// Sessions of the lane that stand.
        ready: u32,
    },
}
