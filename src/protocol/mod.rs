//! PURE. SMTP without sockets: bytes in, bytes and wants out. No clock, no randomness, no logging, no `async`.
//!
//! What comes from the wire is cut into lines by [`mod@line`], understood by [`command`] and [`address`], and decoded by
//! [`body`]; what goes to it is worded by [`reply`] and [`extension`]; [`trace`] writes our `Received` header.
//! [`sasl`] is how clients log in. [`server`] puts them together into the session that `inbound` drives. [`proxy`] and
//! [`xclient`] read what proxies say of their clients.
//!
//! The other direction: [`client`] is the session that `delivery` drives, [`remote`] reads what it is answered, and
//! [`stuff`] writes bodies.
//!
//! Copies: a body is copied once, from the receive buffer into the driver's body buffer; an accepted mailbox once, into
//! the envelope builder. Everything else is borrowed from the receive buffer.

pub mod address;
pub mod body;
pub mod client;
pub mod command;
pub mod extension;
pub mod line;
pub mod proxy;
pub mod remote;
pub mod reply;
pub mod sasl;
pub mod server;
pub mod stuff;
pub mod trace;
pub mod xclient;
