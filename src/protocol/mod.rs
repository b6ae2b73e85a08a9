//! PURE. SMTP without sockets: bytes in, values out.

pub mod client;
pub mod remote;
pub mod stuff;
