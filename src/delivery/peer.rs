//! PURE. What workers say to each other about the paths that they share.

use std::sync::Arc;

use super::home::Lease;
use crate::id::{PathId, ShardIndex, WorkerIndex};
use crate::routing::PathSpec;

/// What workers say to each other, and to themselves where home and lane are on the same worker.
#[derive(Debug)]
pub enum Peer {
    /// Lane → home: whether there is work, and the slots in use.
    News {
        /// The path.
        path: Arc<PathSpec>,
        /// The lane's worker.
        from: WorkerIndex,
        /// Whether there are jobs, or shards with some.
        wants: bool,
        /// Connections open or opening.
        held: u32,
        /// Number of the last lease that it knows.
        known: u32,
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
        /// No other connection of the lane stands.
        alone: bool,
    },
}
