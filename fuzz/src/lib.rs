//! What must hold for any bytes, one function for each fuzz target: `check` panics if it does not.
//!
//! `tests/corpus.rs` of the relay includes these files and replays `fuzz/corpus` with the ordinary toolchain.

pub mod address;
pub mod body;
pub mod client;
pub mod config;
pub mod dns;
pub mod door;
pub mod envelope;
pub mod part;
pub mod record;
pub mod session;
