//! Keeps accepted mail safe: a log of batches in a ring of segments, one per part. DESIGN of the format: `record`,
//! `batch`, `segment`; of what a restart does with it: `recovery`.
//!
//! [`Log`] groups what arrives into commits and hands out [`Committed`] when, and only when, they are durable. It does
//! not know what a queue is: it asks one which records are live ([`Liveness`]) when it needs the oldest segment's place.

mod aside;
pub mod batch;
pub mod commit;
mod committer;
#[cfg(test)]
mod day;
pub mod error;
pub mod layout;
mod lock;
pub mod meta;
mod moving;
mod placing;
pub mod reader;
pub mod reclaim;
pub mod record;
pub mod recovery;
pub mod replay;
pub mod report;
pub mod restart;
mod ring;
mod salvage;
pub mod segment;
mod state;
pub mod stopped;
pub mod storage;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod window;

pub use commit::{Committed, Log, LogOptions, LogStats, Note, Ticket};
pub use error::{AppendError, Fence, SpoolError};
pub use layout::{Layout, StoppedSpool};
pub use moving::Liveness;
pub use reader::Pinned;
pub use replay::{Recovered, RecoveryReport};
pub use report::{Finding, Flaw};
pub use ring::SegmentPin;
pub use stopped::StoppedPart;

/// A log on the real disk.
#[cfg(feature = "runtime")]
pub type DiskLog = Log<storage::disk::Disk>;
