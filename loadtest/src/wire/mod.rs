//! PURE. What travels: the marks by which a message is recognised, bodies, replies, the end of data.

pub mod base64;
pub mod content;
pub mod mark;
pub mod receipt;
pub mod reply;
pub mod template;
