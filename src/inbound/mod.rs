//! Receiving: connections are admitted, sessions driven, messages made durable and answered.
//!
//! * [`accept`] takes connections and places each on the shard with the fewest.
//! * [`listener`] is what the sessions of one listener share.
//! * [`login`] waits for the thread that checks passwords.
//! * [`policy`] decides who may relay. PURE.
//! * [`admission`] counts connections and bytes against their budgets. PURE.
//! * [`session`] drives `protocol::server` over one connection.

pub mod accept;
pub mod admission;
pub mod listener;
pub mod login;
pub mod policy;
pub mod session;
