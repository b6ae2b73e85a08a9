//! Moves what is still live out of the oldest segment: copies it to the head, with its state as it is at the append, and tells
//! the queue when the copies are durable. Damaged records are reported, never copied.

use std::collections::HashSet;
use std::future::poll_fn;
use std::io;
use std::task::Poll;

use super::commit::Log;
use super::error::AppendError;
use super::meta;
use super::placing::Class;
use super::record::{Draft, Kind, Record, RecordError, Salt};
use super::recovery::{self, Frame, Halt};
use super::replay::segment_path;
use super::segment::{Header, TRAILER_BYTES, read_footer};
use super::storage::{Storage, StorageFile, read_range};
use super::window::Window;
use crate::id::{Location, MessageId};
use crate::limits::BLOCK_BYTES;
use crate::outcome::LegState;

/// What the ring must know of the queue. Implemented over it; never called while the log is borrowed.
pub trait Liveness {
    /// Location and leg states of a message that is not settled.
    fn state(&self, id: MessageId) -> Option<(Location, Vec<LegState>)>;
    /// The message lies elsewhere now, durably. It still lay at `from` a moment ago.
    fn moved(&self, id: MessageId, from: Location, to: Location);
    /// The message's record at `at` is not what was written. The queue should report and settle the message: until then
    /// its segment stays. Told again at each try to free that.
    fn damaged(&self, id: MessageId, at: Location);
}

/// Why a message was not moved.
#[derive(Debug, thiserror::Error)]
enum NotMoved {
    #[error(transparent)]
    Disk(#[from] io::Error),
    #[error("a record in segment {} at {} is damaged", .0.segment, .0.offset)]
    Damaged(Location),
}

/// A copy on its way.
struct Move {
    id: MessageId,
    from: Location,
    to: Location,
    /// Chunks as the copy lists them.
    chunks: Vec<Location>,
    /// Those of them that are copies, and what they are copies of.
    fresh: Vec<Location>,
    stale: Vec<Location>,
}

impl<S: Storage> Log<S> {
    /// Copies what is live in the oldest segment to the head and frees it once the copies are durable.
    pub(super) async fn empty_oldest(&self, liveness: &impl Liveness) -> io::Result<()> {
        let (number, salt, size, unreadable) = {
            let state = self.0.state.borrow();
            let Some(front) = state.ring.segments.front() else { return Ok(()) };
            (front.number, front.salt, front.size, front.unreadable)
        };
        if !unreadable {
            let file = self.0.storage.open(&segment_path(&self.0.dir, number)).await?;
            let entries = self.entries(&file, number, salt, size).await?;
            let mut seen = HashSet::new();
            let mut moves = Vec::new();
            let mut last = 0;
            let oldest = Oldest { number, salt, file: &file };
            let mut result = Ok(());
            for entry in entries {
                match self.move_one(liveness, &oldest, entry, &mut seen).await {
                    Ok(None) => {}
                    Ok(Some((done, sequence))) => {
                        moves.extend(done);
                        last = sequence.max(last);
                    }
                    Err(NotMoved::Damaged(at)) => {
                        liveness.damaged(entry.0, at);
                        // Its sender is told first, and what else there is to move goes ahead.
                        result = Err(io::ErrorKind::WouldBlock.into());
                    }
                    Err(NotMoved::Disk(error)) => {
                        result = Err(error);
                        break;
                    }
                }
            }
            // What was copied before an error counts: it is not copied again in the next round.
            let durable = self.ticket(last, None).await.map(|_| ());
            durable.map_err(|error| io::Error::other(error.to_string()))?;
            self.finish_moves(liveness, moves);
            result?;
        }
        let mut state = self.0.state.borrow_mut();
        if let Some(front) = state.ring.segments.front_mut()
            && front.number == number
            && front.pending == 0
        {
            // Whatever is still counted was settled without being reported.
            front.live_bytes = 0;
        }
        drop(state);
        self.free_dead();
        Ok(())
    }

    /// Id, place and kind of each Accepted and Chunk in a sealed segment.
    async fn entries(
        &self,
        file: &S::File,
        number: u32,
        salt: Salt,
        size: u32,
    ) -> io::Result<Vec<(MessageId, Location, Kind)>> {
        let mut entries = Vec::new();
        let mut take = |id, location, kind: Option<Kind>| {
            if let Some(kind @ (Kind::Accepted | Kind::Chunk)) = kind {
                entries.push((id, location, kind));
            }
        };
        let block = file.read_at(u64::from(size - TRAILER_BYTES), BLOCK_BYTES).await?;
        let trailer = Header::decode_trailer(&block).ok().filter(|(header, _)| header.salt == salt);
        if let Some((_, footer)) = trailer {
            let bytes = read_range(file, u64::from(footer.offset), footer.bytes as usize).await?;
            if bytes.len() == footer.bytes as usize && salt.checksum(&bytes) == footer.checksum {
                read_footer::<RecordError>(&bytes, salt, number, &mut |header, _, location| {
                    take(header.id, location, header.kind);
                    Ok(())
                })
                .map_err(io::Error::other)?;
                return Ok(entries);
            }
        }
        let frame = Frame { segment: number, salt, size, first_batch: None, end: None };
        let mut window = Window::new(file, size);
        let mut sink = |record: &Record<'_>, location| {
            take(record.header.id, location, record.header.kind);
            Ok::<(), RecordError>(())
        };
        match recovery::scan_source(&mut window, &frame, &mut sink).await {
            Ok(_) => Ok(entries),
            Err(Halt::Source(error)) => Err(error),
            Err(Halt::Sink(error)) => Err(io::Error::other(error)),
        }
    }

    /// Moves what `entry` belongs to, if it is live and has not been moved in this round.
    async fn move_one(
        &self,
        liveness: &impl Liveness,
        oldest: &Oldest<'_, S>,
        entry: (MessageId, Location, Kind),
        seen: &mut HashSet<MessageId>,
    ) -> Result<Option<(Option<Move>, u64)>, NotMoved> {
        let (id, location, kind) = entry;
        if kind == Kind::Chunk {
            let state = self.0.state.borrow();
            if !state.chunks.get(&id).is_some_and(|chunks| chunks.contains(&location)) {
                return Ok(None);
            }
            if state.accepting.contains(&id) {
                // Its Accepted lists this chunk and nobody answers for the message yet: a moment later.
                return Err(io::Error::from(io::ErrorKind::WouldBlock).into());
            }
        }
        match liveness.state(id) {
            Some((at, _)) if kind == Kind::Chunk || at == location => {
                if !seen.insert(id) {
                    return Ok(None);
                }
                self.move_message(liveness, oldest, id, at).await.map(Some)
            }
            None if kind == Kind::Chunk => match self.move_open_chunk(oldest, id, location).await {
                // Whoever answers for the message when it is accepted will be told.
                Err(error @ NotMoved::Damaged(_)) => Err(io::Error::other(error).into()),
                moved => moved,
            },
            _ => Ok(None),
        }
    }

    /// The transaction that a chunk belongs to is still open: its list follows at once.
    async fn move_open_chunk(
        &self,
        oldest: &Oldest<'_, S>,
        id: MessageId,
        from: Location,
    ) -> Result<Option<(Option<Move>, u64)>, NotMoved> {
        let bytes = read_exact(oldest.file, from).await?;
        let record = whole(&bytes, oldest.salt, from)?;
        let draft = Draft { kind: Kind::Chunk, id, meta: [&[], &[]], body: record.body };
        let placed = poll_fn(|context| {
            let mut state = self.0.state.borrow_mut();
            let listed =
                state.chunks.get(&id).and_then(|chunks| chunks.iter().position(|chunk| *chunk == from));
            let Some(index) = listed else { return Poll::Ready(Ok(None)) };
            if state.accepting.contains(&id) {
                return Poll::Ready(Err(AppendError::Stuck));
            }
            let placed = self.poll_place(&mut state, context, Class::Move, &[draft]);
            if let Poll::Ready(Ok(placed)) = &placed {
                state.ring.add_live(placed.location.segment, placed.location.bytes);
                state.ring.sub_live(from.segment, from.bytes);
                if let Some(chunks) = state.chunks.get_mut(&id) {
                    chunks[index] = placed.location;
                }
            }
            placed.map_ok(Some)
        });
        let placed = placed.await.map_err(refused)?;
        Ok(placed.map(|placed| (None, placed.sequence)))
    }

    /// Appends a message again with its present state: chunks of the oldest segment first, then its Accepted.
    async fn move_message(
        &self,
        liveness: &impl Liveness,
        oldest: &Oldest<'_, S>,
        id: MessageId,
        from: Location,
    ) -> Result<(Option<Move>, u64), NotMoved> {
        let old = self.0.state.borrow().chunks.get(&id).cloned().unwrap_or_default();
        let mut moving =
            Move { id, from, to: from, chunks: old.clone(), fresh: Vec::new(), stale: Vec::new() };
        for chunk in moving.chunks.iter_mut().filter(|chunk| chunk.segment == oldest.number) {
            let bytes = read_exact(oldest.file, *chunk).await?;
            let record = whole(&bytes, oldest.salt, *chunk)?;
            let draft = Draft { kind: Kind::Chunk, id, meta: [&[], &[]], body: record.body };
            let placed = poll_fn(|context| {
                let mut state = self.0.state.borrow_mut();
                let placed = self.poll_place(&mut state, context, Class::Move, &[draft]);
                if let Poll::Ready(Ok(placed)) = &placed {
                    state.ring.add_live(placed.location.segment, placed.location.bytes);
                    state.stats.moved_bytes += u64::from(placed.location.bytes);
                }
                placed
            });
            let placed = placed.await.map_err(refused)?;
            moving.stale.push(std::mem::replace(chunk, placed.location));
            moving.fresh.push(placed.location);
        }
        let bytes = if from.segment == oldest.number {
            read_exact(oldest.file, from).await?
        } else {
            let file = self.0.storage.open(&segment_path(&self.0.dir, from.segment)).await?;
            read_exact(&file, from).await?
        };
        let salt = self.0.state.borrow_mut().ring.segment(from.segment).map(|segment| segment.salt);
        let salt = salt.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        let record = whole(&bytes, salt, from)?;
        let envelope = &record.meta[..meta::envelope_bytes(record.meta)];
        let placed = poll_fn(|context| {
            // The state is taken in the same turn as the place: no outcome can fall between.
            let Some((at, legs)) = liveness.state(id) else { return Poll::Ready(Ok(None)) };
            if at != from {
                return Poll::Ready(Ok(None));
            }
            let mut fields = Vec::new();
            meta::push_chunks(&mut fields, &moving.chunks);
            meta::push_leg_states(&mut fields, envelope.len(), &legs);
            let draft = Draft { kind: Kind::Accepted, id, meta: [envelope, &fields], body: record.body };
            let mut state = self.0.state.borrow_mut();
            let placed = self.poll_place(&mut state, context, Class::Move, &[draft]);
            if let Poll::Ready(Ok(placed)) = &placed {
                state.ring.add_live(placed.location.segment, placed.location.bytes);
                state.stats.moved_bytes += u64::from(placed.location.bytes);
            }
            placed.map_ok(Some)
        });
        match placed.await.map_err(refused)? {
            Some(placed) => {
                moving.to = placed.location;
                Ok((Some(moving), placed.sequence))
            }
            None => {
                self.forget_copies(&moving.fresh);
                Ok((None, 0))
            }
        }
    }

    fn forget_copies(&self, copies: &[Location]) {
        let mut state = self.0.state.borrow_mut();
        for copy in copies {
            state.ring.sub_live(copy.segment, copy.bytes);
        }
    }

    /// The copies are durable: the queue learns of them, unless the message was settled meanwhile.
    fn finish_moves(&self, liveness: &impl Liveness, moves: Vec<Move>) {
        for Move { id, from, to, chunks, fresh, stale } in moves {
            if liveness.state(id).is_some_and(|(at, _)| at == from) {
                liveness.moved(id, from, to);
                self.forget_copies(&stale);
                self.forget_copies(&[from]);
                if !chunks.is_empty() {
                    self.0.state.borrow_mut().chunks.insert(id, chunks);
                }
            } else {
                self.forget_copies(&fresh);
                self.forget_copies(&[to]);
            }
        }
    }
}

/// The segment that is to be freed.
struct Oldest<'a, S: Storage> {
    number: u32,
    salt: Salt,
    file: &'a S::File,
}

async fn read_exact<F: StorageFile>(file: &F, location: Location) -> Result<F::Bytes, NotMoved> {
    let bytes = file.read_at(u64::from(location.offset), location.bytes as usize).await?;
    if bytes.len() == location.bytes as usize { Ok(bytes) } else { Err(NotMoved::Damaged(location)) }
}

fn whole(bytes: &[u8], salt: Salt, at: Location) -> Result<Record<'_>, NotMoved> {
    Record::decode(bytes, salt, at.offset).map_err(|_| NotMoved::Damaged(at))
}

fn refused(error: AppendError) -> io::Error {
    let kind = if error == AppendError::Full { io::ErrorKind::StorageFull } else { io::ErrorKind::Other };
    io::Error::new(kind, error)
}
