//! PURE. What roles say of a path when control asks why it is slow.

use std::time::Duration;

use crate::id::{PathId, ShardIndex, WorkerIndex};
use crate::outcome::Reply;
use crate::routing::PathLimits;

/// What keeps a path from taking more now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitedBy {
    /// None of its limits: there is nothing to send, or the remote's answers are waited for.
    Nothing,
    /// It rests after failures.
    BackOff,
    /// After a rest one connection is tried.
    Probe,
    /// The rate of messages.
    MessageRate,
    /// The rate of new connections.
    ConnectionRate,
    /// The remote has refused more connections.
    Refusals,
    /// Connections are still being added, one with each that is accepted.
    Growth,
    /// All connections that it may have are open.
    Connections,
}

impl LimitedBy {
    /// For programs.
    pub fn name(self) -> &'static str {
        match self {
            LimitedBy::Nothing => "nothing",
            LimitedBy::BackOff => "back_off",
            LimitedBy::Probe => "probe",
            LimitedBy::MessageRate => "message_rate",
            LimitedBy::ConnectionRate => "connection_rate",
            LimitedBy::Refusals => "refusals",
            LimitedBy::Growth => "growth",
            LimitedBy::Connections => "connections_max",
        }
    }
}

/// What one role says of one path.
#[derive(Clone, Debug)]
pub struct PathAnswer {
    /// Which.
    pub path: PathId,
    /// Its name; two may have the same.
    pub name: String,
    /// What the role knows.
    pub part: PathPart,
}

/// What a role knows of a path, by what it is to it.
#[derive(Clone, Debug)]
pub enum PathPart {
    /// Its home: limits and back-off.
    Home(HomePart),
    /// A worker that serves it: connections and jobs.
    Lane(LanePart),
    /// A shard with mail for it.
    Shard(ShardPart),
}

/// A path at its home.
#[derive(Clone, Debug)]
pub struct HomePart {
    /// Hosts with their addresses, as they are tried.
    pub hosts: Vec<String>,
    /// What it may use.
    pub limits: PathLimits,
    /// Connections allowed now.
    pub allowed: u32,
    /// What keeps it from taking more.
    pub limited_by: LimitedBy,
    /// What is left of its rest.
    pub rests_for: Option<Duration>,
    /// Failures in a row.
    pub failures: u32,
    /// Messages that may begin at once, where there is a rate.
    pub messages_left: Option<u32>,
    /// Connections that may be opened at once, where there is a rate.
    pub connections_left: Option<u32>,
    /// Legs that shards have told of.
    pub ready: u64,
}

/// A path at a worker.
#[derive(Clone, Debug)]
pub struct LanePart {
    /// Which.
    pub worker: WorkerIndex,
    /// Connections open or opening.
    pub connections: u32,
    /// Of these, those with an open session.
    pub sessions: u32,
    /// Jobs that wait for a connection or a permit.
    pub parked: u32,
    /// Jobs on a connection.
    pub active: u32,
    /// The last thing that went wrong here, and how long ago.
    pub error: Option<(Duration, Reply)>,
}

/// A path at a shard.
#[derive(Clone, Debug)]
pub struct ShardPart {
    /// Which.
    pub shard: ShardIndex,
    /// Legs that could be sent now.
    pub ready: u32,
    /// Age of the oldest of them.
    pub oldest: Duration,
    /// Whose they are: tenants with the most first.
    pub tenants: Vec<(Box<str>, u32)>,
}
