//! Ringpost: a thread-per-core SMTP relay on io_uring that is durable before it says 250.
//!
//! `src/ARCHITECTURE.md` is the map. A reader who takes the modules in the order below follows a message from the socket
//! to the remote.

#[cfg(feature = "runtime")]
pub mod cli;
pub mod clock;
pub mod config;
pub mod control;
pub mod envelope;
pub mod event;
pub mod id;
pub mod limits;
pub mod message;
pub mod metrics;
pub mod outcome;
pub mod routing;
