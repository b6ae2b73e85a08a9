//! Ringpost: a thread-per-core SMTP relay on io_uring that is durable before it says 250.
//!
//! `src/ARCHITECTURE.md` is the map. A reader who takes the modules in the order below follows a message from the socket
//! to the remote.

// Base: what everything else speaks of.
pub mod clock;
pub mod envelope;
pub mod event;
pub mod hash;
pub mod id;
pub mod limits;
pub mod message;
pub mod metrics;
pub mod outcome;
pub mod routing;
pub mod users;

#[cfg(feature = "runtime")]
pub mod account;
#[cfg(feature = "runtime")]
pub mod cli;
pub mod config;

// The path of a message, in its order.
pub mod net;
pub mod protocol;
pub mod spool;
#[cfg(feature = "runtime")]
pub mod inbound;
pub mod queue;
pub mod exchange;
pub mod delivery;
pub mod bounce;

// Beside the path, and around it.
pub mod control;
#[cfg(feature = "runtime")]
pub mod shard;
#[cfg(feature = "runtime")]
pub mod worker;
#[cfg(feature = "runtime")]
pub mod relay;
#[cfg(feature = "runtime")]
pub mod inspect;
