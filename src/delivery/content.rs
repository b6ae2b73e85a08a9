//! What a transaction sends: a message in memory, or one read back from the spool.
//!
//! A short message that was read back is whole in memory until its transaction ends; a long one is read chunk by chunk
//! while it is sent, so a connection holds at most one chunk. Ids and checksums are verified before a byte leaves.

use std::borrow::Cow;
use std::sync::Arc;

use super::job::{ActiveJob, Payload};
use super::pool::Pool;
use crate::envelope::Envelope;
use crate::envelope::verp::Verp;
use crate::message::Message;
use crate::protocol::client::{Client, Transaction};
use crate::spool::Pinned;
use crate::spool::reader::{self, Opened, ReadError};
use crate::spool::storage::Storage;

/// Envelope and body of a job.
pub(super) enum Content<P> {
    /// Shared with the shard.
    Resident(Arc<Message>),
    /// Read back.
    Spooled { opened: Opened, pinned: Pinned<P> },
}

impl<P> Content<P> {
    /// Reads what the job's transaction begins with.
    pub async fn load<S: Storage<Pin = P>>(pool: &Pool<S>, job: &ActiveJob<S>) -> Result<Self, ReadError> {
        match &job.job().body {
            Payload::Resident(message) => Ok(Self::Resident(message.clone())),
            Payload::Spooled(pinned) => {
                let opened = reader::open(pool.disk(), pinned).await?;
                Ok(Self::Spooled { opened, pinned: pinned.clone() })
            }
        }
    }

    fn envelope(&self) -> &Envelope {
        match self {
            Self::Resident(message) => &message.envelope,
            Self::Spooled { opened, .. } => &opened.envelope,
        }
    }

    /// Whether it may go over a secured way only.
    pub fn requires_tls(&self) -> bool {
        self.envelope().parameters().require_tls
    }

    /// Whether all of the body is in memory, and its size if it is.
    fn size(&self) -> (bool, usize) {
        match self {
            Self::Resident(message) => (true, message.body.len()),
            Self::Spooled { opened, .. } => {
                let chunks: usize = opened.chunks.iter().map(|chunk| reader::chunk_body_bytes(*chunk)).sum();
                (opened.chunks.is_empty(), chunks + opened.rest.len())
            }
        }
    }

    /// Begins the job's transaction.
    pub fn begin<S: Storage<Pin = P>>(
        &self,
        client: &mut Client,
        tag: u64,
        job: &ActiveJob<S>,
        secured: &Result<(), String>,
        verp: &Verp,
    ) {
        let envelope = self.envelope();
        let (body_ready, size) = self.size();
        let own = self.sender(job.job().first, job.job().recipients, verp);
        let transaction = Transaction {
            sender: own.as_deref().unwrap_or(envelope.sender()),
            parameters: envelope.parameters(),
            envid: envelope.envid(),
            secured: secured.as_ref().copied().map_err(String::as_str),
            size: size as u64,
            body_ready,
        };
        let (first, wanted) = (job.job().first, job.job().recipients);
        let recipients = envelope.recipients().filter_map(move |recipient| {
            let place = u32::from(recipient.index.checked_sub(first)?);
            (place < u64::BITS && wanted & (1 << place) != 0).then_some((place, recipient))
        });
        client.begin(tag, transaction, recipients);
    }

    /// The sender that is made for the one recipient of a job, if its mail goes out so.
    fn sender(&self, first: u16, recipients: u64, verp: &Verp) -> Option<String> {
        let envelope = self.envelope();
        if recipients.count_ones() != 1 || !verp.is_for(envelope) {
            return None;
        }
        let recipient =
            envelope.recipients().nth(usize::from(first) + recipients.trailing_zeros() as usize)?;
        verp.sender(envelope.sender(), recipient.mailbox)
    }

    /// The body's piece `nth`, from 0, and whether it is the last.
    pub async fn piece<S: Storage<Pin = P>>(
        &self,
        pool: &Pool<S>,
        nth: usize,
    ) -> Result<(Cow<'_, [u8]>, bool), ReadError> {
        match self {
            Self::Resident(message) => Ok((Cow::Borrowed(&message.body), true)),
            Self::Spooled { opened, pinned } => match opened.chunks.get(nth) {
                Some(chunk) => {
                    let mut body = Vec::new();
                    reader::read_chunk(pool.disk(), pinned, *chunk, &mut body).await?;
                    Ok((Cow::Owned(body), false))
                }
                None => Ok((Cow::Borrowed(&opened.rest), true)),
            },
        }
    }
}
