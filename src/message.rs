//! PURE. A message in memory: the envelope as the spool keeps it, and the bytes that will be sent.
//!
//! One `Arc<Message>` serves the log line, the delivery and nothing else; a shard keeps it only while its path has
//! credit. A message that waits longer lives on disk alone.

use crate::envelope::Envelope;
use crate::id::MessageId;

/// An accepted message. Immutable; shared between its shard and the workers that send it.
#[derive(Debug)]
pub struct Message {
    /// Identity, as the 250 reply named it.
    pub id: MessageId,
    /// Sender, recipients, parameters.
    pub envelope: Envelope,
    /// The bytes to send: trace header first, no dot-stuffing, lines end in CRLF. Long bodies (over
    /// [`crate::limits::BODY_INLINE_BYTES_MAX`]) are never held whole: they are read back from the spool.
    pub body: Vec<u8>,
}

impl Message {
    /// Bytes it keeps resident, for the budgets.
    pub fn resident_bytes(&self) -> usize {
        size_of::<Self>() + self.envelope.as_bytes().len() + self.body.capacity()
    }
}
