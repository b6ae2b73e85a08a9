//! Receiving: connections are admitted, sessions driven, messages made durable and answered.
//!
//! * [`accept`] takes connections and places each on the shard with the fewest.
//! * [`listener`] is what the sessions of one listener share.
//! * [`login`] waits for the thread that checks passwords.
//! * [`policy`] decides who may relay. PURE.
//! * [`admission`] counts connections and bytes against their budgets. PURE.
//! * [`limits`] holds what one address and its network may do. PURE.
//! * [`pace`] says how long a client may take. PURE.
//! * `greeting` finds out who the client is, before the banner.
//! * [`session`] drives `protocol::server` over one connection.
//! * [`sessions`] knows those that are open.

pub mod accept;
pub mod admission;
mod greeting;
pub mod limits;
pub mod listener;
pub mod login;
pub mod pace;
pub mod policy;
pub mod session;
pub mod sessions;
