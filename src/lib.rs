//! Ringpost: a thread-per-core SMTP relay on io_uring that is durable before it says 250.
//!
//! `src/ARCHITECTURE.md` is the map. A reader who takes the modules in the order below follows a message from the socket
//! to the remote.

pub mod clock;
pub mod envelope;
pub mod id;
pub mod limits;
pub mod message;
pub mod outcome;
pub mod spool;
