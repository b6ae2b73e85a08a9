//! Reads accepted messages back from their segments, for workers: piece by piece, ids and checksums verified before a
//! byte leaves. Pins come from the shard's [`Log`]; reading needs the storage only, on any thread that runs it.

use std::io;
use std::sync::Arc;

use super::commit::Log;
use super::meta::{self, MetaError};
use super::record::{Kind, Record, RecordError};
use super::replay::segment_path;
use super::ring::SegmentPin;
use super::storage::{Storage, StorageFile};
use crate::envelope::Envelope;
use crate::id::{Location, MessageId};

/// A message's place with everything that keeps it readable. Travels to workers inside jobs.
#[derive(Debug)]
pub struct Pinned<P> {
    /// Which message.
    pub id: MessageId,
    /// Its Accepted record.
    pub location: Location,
    /// The segments that hold it, each once.
    segments: Vec<Arc<SegmentPin<P>>>,
}

impl<P> Clone for Pinned<P> {
    fn clone(&self) -> Self {
        Self { id: self.id, location: self.location, segments: self.segments.clone() }
    }
}

impl<P> Pinned<P> {
    /// A message in `segments`, which are all that it needs, each once.
    pub(super) fn new(id: MessageId, location: Location, segments: Vec<Arc<SegmentPin<P>>>) -> Self {
        Self { id, location, segments }
    }
}

/// Why a message could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The disk refused; another try may help.
    #[error("reading the spool failed: {0}")]
    Disk(#[from] io::Error),
    /// The bytes are not what was written: not to be delivered.
    #[error("message {id} is damaged in segment {} at {}", at.segment, at.offset)]
    Damaged {
        /// Which message.
        id: MessageId,
        /// Which of its records.
        at: Location,
    },
    /// Written by a newer version.
    #[error(transparent)]
    Meta(#[from] MetaError),
}

/// The start of a message: everything but its chunks.
#[derive(Debug)]
pub struct Opened {
    /// Sender and recipients.
    pub envelope: Envelope,
    /// The body's pieces before [`Self::rest`], to be read one by one with [`read_chunk`].
    pub chunks: Vec<Location>,
    /// The body, or what follows its chunks.
    pub rest: Vec<u8>,
}

/// A whole message, for those who need all of it.
#[derive(Debug)]
pub struct Whole {
    /// Sender and recipients.
    pub envelope: Envelope,
    /// Where its chunks lie.
    pub chunks: Vec<Location>,
    /// All of the body.
    pub body: Vec<u8>,
}

/// Reads a message's Accepted record.
pub async fn open<S: Storage>(storage: &S, pinned: &Pinned<S::Pin>) -> Result<Opened, ReadError> {
    let bytes = read_record(storage, pinned, pinned.location).await?;
    let record = verify(pinned, pinned.location, Kind::Accepted, &bytes)?;
    let accepted = meta::accepted(record.meta)?;
    Ok(Opened { envelope: accepted.envelope, chunks: accepted.chunks, rest: record.body.to_vec() })
}

/// Appends a chunk of the message to `body`.
pub async fn read_chunk<S: Storage>(
    storage: &S,
    pinned: &Pinned<S::Pin>,
    chunk: Location,
    body: &mut Vec<u8>,
) -> Result<(), ReadError> {
    let bytes = read_record(storage, pinned, chunk).await?;
    body.extend_from_slice(verify(pinned, chunk, Kind::Chunk, &bytes)?.body);
    Ok(())
}

/// Bytes of body in a chunk's record.
pub fn chunk_body_bytes(chunk: Location) -> usize {
    (chunk.bytes as usize).saturating_sub(super::record::HEADER_BYTES)
}

/// Numbers of the segments that hold a message, each once.
pub(super) fn segments_of(location: Location, chunks: &[Location]) -> Vec<u32> {
    let mut numbers: Vec<_> = chunks.iter().chain([&location]).map(|place| place.segment).collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}

fn damaged<P>(pinned: &Pinned<P>, at: Location) -> ReadError {
    ReadError::Damaged { id: pinned.id, at }
}

fn pin_of<P>(pinned: &Pinned<P>, at: Location) -> Result<&SegmentPin<P>, ReadError> {
    let pin = pinned.segments.iter().find(|pin| pin.segment == at.segment);
    pin.map(AsRef::as_ref).ok_or_else(|| damaged(pinned, at))
}

async fn read_record<S: Storage>(
    storage: &S,
    pinned: &Pinned<S::Pin>,
    at: Location,
) -> Result<S::Bytes, ReadError> {
    let pin = pin_of(pinned, at)?;
    Ok(storage.read_pinned(&pin.file, u64::from(at.offset), at.bytes as usize).await?)
}

fn verify<'a, P>(
    pinned: &Pinned<P>,
    at: Location,
    kind: Kind,
    bytes: &'a [u8],
) -> Result<Record<'a>, ReadError> {
    let record = Record::decode(bytes, pin_of(pinned, at)?.salt, at.offset);
    match record {
        Ok(record) if record.header.kind == Some(kind) && record.header.id == pinned.id => Ok(record),
        Ok(_) | Err(RecordError::Damaged | RecordError::UnknownCritical(_)) => Err(damaged(pinned, at)),
    }
}

impl<S: Storage> Log<S> {
    /// Keeps the segments that hold a message readable until the last clone of the result is dropped. `location` must
    /// be the message's present one; if the message moves while this waits the error is `NotFound`: ask the queue for the
    /// new place and try again.
    pub async fn pin(&self, id: MessageId, location: Location) -> Result<Pinned<S::Pin>, ReadError> {
        let numbers = {
            let state = self.0.state.borrow();
            segments_of(location, state.chunks.get(&id).map_or(&[], Vec::as_slice))
        };
        let mut segments = Vec::with_capacity(numbers.len());
        for number in numbers {
            let pinned = self.pin_segment(number).await;
            segments.push(pinned.map_err(|error| self.why_not_pinned(id, location, number, error))?);
        }
        Ok(Pinned::new(id, location, segments))
    }

    /// Whether a message's record is lost with its segment, or only lies elsewhere by now.
    fn why_not_pinned(&self, id: MessageId, location: Location, number: u32, error: io::Error) -> ReadError {
        let mut state = self.0.state.borrow_mut();
        let chunks = state.chunks.get(&id).map_or(&[][..], Vec::as_slice);
        let chunk = chunks.iter().find(|chunk| chunk.segment == number).copied();
        let own = (location.segment == number && state.ring.segment(number).is_some()).then_some(location);
        match chunk.or(own) {
            Some(at) if error.kind() == io::ErrorKind::NotFound => ReadError::Damaged { id, at },
            _ => error.into(),
        }
    }

    pub(super) async fn pin_segment(&self, number: u32) -> io::Result<Arc<SegmentPin<S::Pin>>> {
        {
            let mut state = self.0.state.borrow_mut();
            if let Some(pin) = state.ring.pinned(number) {
                return Ok(pin);
            }
            if state.head.number == number {
                let file = state.head.file.pin()?;
                return state.keep_pin(number, file).ok_or_else(|| io::ErrorKind::NotFound.into());
            }
            if state.ring.segment(number).is_none_or(|segment| segment.unreadable) {
                return Err(io::ErrorKind::NotFound.into());
            }
        }
        let file = self.0.storage.open(&segment_path(&self.0.dir, number)).await?.pin()?;
        let mut state = self.0.state.borrow_mut();
        // The segment may have been freed, and its file used again, while it was opened.
        let pin = state.ring.pinned(number).or_else(|| state.keep_pin(number, file));
        pin.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Reads a whole message, long body included: for notifications, operators and tests, not for deliveries.
    pub async fn read(&self, id: MessageId, location: Location) -> Result<Whole, ReadError> {
        let pinned = self.pin(id, location).await?;
        let opened = open(&self.0.storage, &pinned).await?;
        let mut body = Vec::new();
        for chunk in &opened.chunks {
            read_chunk(&self.0.storage, &pinned, *chunk, &mut body).await?;
        }
        body.extend_from_slice(&opened.rest);
        Ok(Whole { envelope: opened.envelope, chunks: opened.chunks, body })
    }
}
