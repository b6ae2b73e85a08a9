//! Where a record goes: into the filling batch, if its kind has room there, and when a new batch or segment begins. Decides
//! who waits for whom; writes nothing to disk.

use std::task::{Context, Poll};

use super::batch;
use super::commit::Log;
use super::error::AppendError;
use super::record::{self, Draft};
use super::ring::Segment;
use super::segment::{BATCHES_OFFSET, FooterBuilder};
use super::state::{Filling, Head, Leaving, State};
use super::storage::Storage;
use crate::id::Location;
use crate::limits::{BATCH_BYTES_MAX, BATCH_PATIENT_BYTES_MAX, BLOCK_BYTES, BODY_INLINE_BYTES_MAX};

/// Who may take the last segment: with the disk full, mail must still be able to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// New mail: leaves one prepared segment alone.
    Accept,
    /// Pieces of new mail. As `Accept`, but nobody waits for them to be durable.
    Chunk,
    /// Outcomes, bounces, aborts.
    Settle,
    /// Copies of live records. As `Settle`, but never waits for a segment, and nobody waits for them.
    Move,
}

impl Class {
    fn is_new_mail(self) -> bool {
        matches!(self, Self::Accept | Self::Chunk)
    }

    fn is_patient(self) -> bool {
        matches!(self, Self::Chunk | Self::Move)
    }
}

/// Where records went.
#[derive(Clone, Copy, Debug)]
pub(super) struct Placed {
    pub sequence: u64,
    /// Of the last of them.
    pub location: Location,
}

/// Why records cannot go into a batch right now.
#[derive(Debug)]
pub(super) enum Blocked {
    /// Wait for the next batch.
    Batch,
    /// Wait for upkeep to make a segment ready.
    Segment,
    Failed(AppendError),
}

impl<S: Storage> Log<S> {
    /// As [`Self::poll_place`] for new mail, but not for ever: making a segment on a slow disk takes many writes.
    pub(super) fn poll_accept(
        &self,
        state: &mut State<S>,
        context: &Context<'_>,
        until: u64,
        class: Class,
        drafts: &[Draft<'_>],
    ) -> Poll<Result<Placed, AppendError>> {
        let placed = self.poll_place(state, context, class, drafts);
        if placed.is_pending() && state.ticks >= until {
            Poll::Ready(Err(AppendError::Stuck))
        } else {
            placed
        }
    }

    /// Puts `drafts` into one batch, or arranges a wake-up for when it may be possible.
    pub(super) fn poll_place(
        &self,
        state: &mut State<S>,
        context: &Context<'_>,
        class: Class,
        drafts: &[Draft<'_>],
    ) -> Poll<Result<Placed, AppendError>> {
        match self.try_place(state, class, drafts) {
            Ok(placed) => Poll::Ready(Ok(placed)),
            Err(Blocked::Failed(error)) => Poll::Ready(Err(error)),
            // Upkeep is what moves: it would wait for itself.
            Err(Blocked::Segment) if class == Class::Move => Poll::Ready(Err(AppendError::Full)),
            Err(Blocked::Batch | Blocked::Segment) => {
                let waker = context.waker().clone();
                if class == Class::Chunk {
                    state.chunk_room.push_back(waker)
                } else {
                    state.room.push(waker)
                }
                Poll::Pending
            }
        }
    }

    pub(super) fn try_place(
        &self,
        state: &mut State<S>,
        class: Class,
        drafts: &[Draft<'_>],
    ) -> Result<Placed, Blocked> {
        self.0.fence.check().map_err(Blocked::Failed)?;
        if state.closed {
            return Err(Blocked::Failed(AppendError::Closed));
        }
        if class.is_new_mail() {
            if state.stuck {
                return Err(Blocked::Failed(AppendError::Stuck));
            }
            if state.ring.spares.is_empty() {
                return Err(state.no_segment());
            }
        }
        let bytes: usize = drafts.iter().map(|draft| record::padded(draft.bytes())).sum();
        let metas: usize =
            drafts.iter().map(|draft| record::padded(record::HEADER_BYTES + draft.meta_bytes())).sum();
        if !drafts.iter().all(Draft::fits) || batch::HEADER_BYTES + bytes > self.batch_bytes_max() {
            return Err(Blocked::Failed(AppendError::TooLarge));
        }
        let fits = |state: &State<S>, used: usize| {
            let end = state.head.cursor as usize + (used + bytes).next_multiple_of(BLOCK_BYTES);
            // One block more, so that a watermark still finds its place.
            end + state.head.footer.bytes_with(metas) + BLOCK_BYTES <= state.head.size as usize
        };
        match &state.filling {
            Some(filling) => {
                let over = class.is_patient() && filling.patient_bytes + bytes > BATCH_PATIENT_BYTES_MAX;
                if over || filling.used + bytes > self.batch_bytes_max() || !fits(state, filling.used) {
                    state.urge();
                    return Err(Blocked::Batch);
                }
            }
            None => {
                if !fits(state, batch::HEADER_BYTES) {
                    if state.head.cursor == BATCHES_OFFSET {
                        return Err(Blocked::Failed(AppendError::TooLarge));
                    }
                    let least = if class.is_new_mail() { 2 } else { 1 };
                    if state.ring.spares.len() < least {
                        return Err(state.no_segment());
                    }
                    let leaves = self.next_head(state);
                    self.begin_batch(state, Some(leaves));
                } else {
                    self.begin_batch(state, None);
                }
            }
        }
        if let Some(filling) = state.filling.as_mut().filter(|_| class.is_patient()) {
            filling.patient_bytes += bytes;
        }
        Ok(state.write_drafts(drafts))
    }

    /// Largest batch, bytes: a small segment must hold some.
    pub(super) fn batch_bytes_max(&self) -> usize {
        BATCH_BYTES_MAX.min((self.0.options.segment_bytes as usize / 2).next_multiple_of(BLOCK_BYTES))
    }

    pub(super) fn begin_batch(&self, state: &mut State<S>, leaves: Option<Leaving>) {
        state.started += 1;
        state.filling = Some(Filling {
            buffer: self.0.storage.buffer(self.batch_bytes_max()),
            offset: state.head.cursor,
            used: batch::HEADER_BYTES,
            patient_bytes: 0,
            records: 0,
            sequence: state.started,
            leaves,
        });
    }

    /// Makes the first spare the head. There must be one.
    pub(super) fn next_head(&self, state: &mut State<S>) -> Leaving {
        let spare = state.ring.spares.pop_front().expect("the caller saw a spare");
        let head = Head {
            number: spare.number,
            salt: spare.salt,
            size: self.0.options.segment_bytes,
            file: spare.file,
            footer: FooterBuilder::default(),
            cursor: BATCHES_OFFSET,
            opened: false,
        };
        let old = std::mem::replace(&mut state.head, head);
        state.ring.segments.push_back(Segment {
            number: state.head.number,
            size: state.head.size,
            salt: state.head.salt,
            live_bytes: 0,
            pending: 0,
            sealed: false,
            unreadable: false,
            pin: std::sync::Weak::new(),
        });
        state.wake_upkeep();
        Leaving { number: old.number, footer: old.footer, end: old.cursor, batch: state.started }
    }
}

const _: () = assert!(BODY_INLINE_BYTES_MAX + batch::HEADER_BYTES < BATCH_BYTES_MAX);
