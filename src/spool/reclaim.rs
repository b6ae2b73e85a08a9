//! Upkeep of the ring, in the background of commits: writes footers of full segments, prepares the next ones, moves what
//! is still live out of the oldest, and frees it.
//!
//! A failure here never fences: nothing that was acknowledged depends on it. No segment means 452 and another try.

use std::collections::HashSet;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use super::commit::{Class, Log};
use super::error::AppendError;
use super::meta;
use super::record::{Draft, Kind, Record, RecordError, Salt};
use super::recovery::{self, Frame, Halt};
use super::replay::segment_path;
use super::restart::make_spare;
use super::ring::Segment;
use super::segment::{Header, TRAILER_BYTES, Tail, read_footer};
use super::state::Leaving;
use super::storage::{DiskBuffer, Storage, StorageFile, read_range};
use super::window::Window;
use crate::id::{Location, MessageId};
use crate::limits::BLOCK_BYTES;
use crate::outcome::LegState;

/// How often upkeep looks even if nobody calls it: a full disk may have got room.
const TICK: Duration = Duration::from_secs(1);
/// Segments that are kept ready: one for new mail, one in reserve for outcomes, bounces and moves.
const SPARES: usize = 2;
/// Freed segments that wait to be recycled.
const FREED_KEPT: usize = 4;
/// The files may have this many times the live bytes, so that moving stays cheap,
const USE_OVER_LIVE: u64 = 4;
/// and this many segments besides. Live records are moved one segment earlier, since that takes a while.
const SLACK_SEGMENTS: u64 = 4;

/// What the ring must know of the queue. Implemented over it; never called while the log is borrowed.
pub trait Liveness {
    /// Location and leg states of a message that is not settled.
    fn state(&self, id: MessageId) -> Option<(Location, Vec<LegState>)>;
    /// The message lies elsewhere now, durably. It still lay at `from` a moment ago.
    fn moved(&self, id: MessageId, from: Location, to: Location);
    /// The message's bytes cannot be read any more; the segment's file is kept in `damaged/`. The queue should
    /// report and settle it.
    fn damaged(&self, id: MessageId, at: Location);
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
    /// Drives upkeep until the log is closed or fenced. Spawn once. `salt` gives random numbers.
    pub async fn run_upkeep(self, liveness: impl Liveness, salt: impl FnMut() -> u64) {
        self.0.state.borrow_mut().upkeep_running = true;
        self.look_after(liveness, salt).await;
        let mut state = self.0.state.borrow_mut();
        state.upkeep_running = false;
        state.wake_room();
    }

    async fn look_after(&self, liveness: impl Liveness, mut salt: impl FnMut() -> u64) {
        // As long as moving works it gives segments; else new mail needs new ones.
        let mut moving_works = true;
        loop {
            {
                let state = self.0.state.borrow();
                if state.closed || state.is_stopping() || self.0.fence.reason().is_some() {
                    return;
                }
            }
            self.write_footers().await;
            self.free_dead();
            self.prepare(&mut salt, moving_works).await;
            self.drop_freed().await;
            if self.wants_moves() && !self.is_over() {
                let moved = self.empty_oldest(&liveness).await;
                moving_works = moved.is_ok();
                if let Err(error) = moved
                    && !self.only_lacks_a_segment(&error)
                {
                    tracing::warn!(part = self.0.part.0, %error, "spool: moving live records failed, trying again");
                    self.0.storage.sleep(TICK).await;
                }
                continue;
            }
            self.wait_for_call().await;
        }
    }

    /// Whether a move goes on as soon as the next segment is prepared. Not if that has just failed, nor if it was the disk
    /// that has no room: then it waits for a while.
    fn only_lacks_a_segment(&self, error: &io::Error) -> bool {
        let refused = error.kind() == io::ErrorKind::StorageFull && error.raw_os_error().is_none();
        refused && !self.0.state.borrow().full
    }

    fn is_over(&self) -> bool {
        self.0.state.borrow().is_stopping() || self.0.fence.reason().is_some()
    }

    async fn wait_for_call(&self) {
        let mut tick = pin!(self.0.storage.sleep(TICK));
        poll_fn(|context| {
            let mut state = self.0.state.borrow_mut();
            if std::mem::take(&mut state.upkeep_due) || state.is_stopping() {
                return Poll::Ready(());
            }
            state.upkeep = Some(context.waker().clone());
            drop(state);
            tick.as_mut().poll(context)
        })
        .await;
    }

    /// Footers only save a restart the scan, so a failure is logged and forgotten.
    async fn write_footers(&self) {
        loop {
            let Some(leaving) = self.0.state.borrow_mut().leaving.pop() else { return };
            let number = leaving.number;
            let written = self.write_footer(leaving).await;
            if let Err(error) = written {
                tracing::warn!(part = self.0.part.0, segment = number, %error, "spool: writing a footer failed");
            }
            if let Some(segment) = self.0.state.borrow_mut().ring.segment(number) {
                segment.sealed = true;
            }
        }
    }

    /// The log is closed and will not write to its head again: all batches are durable, unless the fence says otherwise.
    pub(super) async fn seal_head(&self) {
        if self.0.fence.reason().is_some() {
            return;
        }
        {
            let mut state = self.0.state.borrow_mut();
            let footer = std::mem::take(&mut state.head.footer);
            let (number, end, batch) = (state.head.number, state.head.cursor, state.durable);
            state.leaving.push(Leaving { number, footer, end, batch });
        }
        self.write_footers().await;
    }

    async fn write_footer(&self, leaving: Leaving) -> io::Result<()> {
        let (header, footer) = {
            let mut state = self.0.state.borrow_mut();
            let (oldest, next_message) = (state.ring.oldest_durable, state.next_message);
            let Some(segment) = state.ring.segment(leaving.number) else { return Ok(()) };
            let footer = leaving.footer.footer(segment.salt, segment.size);
            let tail = Some(Tail { segment: leaving.number, offset: leaving.end, batch: leaving.batch });
            let (salt, size, part) = (segment.salt, segment.size, self.0.part);
            let number = leaving.number;
            (
                Header { salt, part, segment: number, size, oldest, next_message, tail, prepared: false },
                footer,
            )
        };
        let file = self.0.storage.open(&segment_path(&self.0.dir, leaving.number)).await?;
        const PIECE: usize = 256 * 1024;
        let mut at = u64::from(footer.offset);
        for piece in leaving.footer.as_bytes().chunks(PIECE) {
            let mut buffer = self.0.storage.buffer(piece.len().next_multiple_of(BLOCK_BYTES));
            let bytes = buffer.as_bytes_mut();
            bytes[..piece.len()].copy_from_slice(piece);
            bytes[piece.len()..].fill(0);
            file.write_at(buffer, at).await?;
            at += PIECE as u64;
        }
        let mut buffer = self.0.storage.buffer(BLOCK_BYTES);
        header.encode_trailer(footer, buffer.as_bytes_mut());
        file.write_at(buffer, u64::from(header.size - TRAILER_BYTES)).await
    }

    /// Takes dead segments off the old end; a watermark makes that durable, then their files may go.
    fn free_dead(&self) {
        let mut state = self.0.state.borrow_mut();
        if state.ring.free_dead() {
            state.want_watermark();
        }
    }

    /// Keeps [`SPARES`] segments ready: out of freed files if there are, else new ones if the disk has room. A new one is
    /// not made while one is left and another about to be free.
    async fn prepare(&self, salt: &mut impl FnMut() -> u64, moving_works: bool) {
        while self.0.state.borrow().ring.spares.len() < SPARES && !self.is_over() {
            if self.will_be_free() || moving_works && self.wants_moves() {
                return;
            }
            let freed = self.0.state.borrow_mut().ring.take_freed();
            let prepared = match freed {
                Some(segment) => self.recycle(segment, salt()).await,
                None if !self.has_room() => Ok(false),
                None => self.make(salt(), None).await.map(|()| true),
            };
            let mut state = self.0.state.borrow_mut();
            match prepared {
                Ok(true) => {}
                // What was freed could not be used again: the next one, or a new one.
                Ok(false)
                    if !state.ring.freed.is_empty()
                        && state.ring.freed[0].number < state.ring.oldest_durable =>
                {
                    continue;
                }
                Ok(false) if self.has_room() => continue,
                Ok(false) => {
                    state.full = true;
                    state.wake_room();
                    return;
                }
                Err(error) => {
                    tracing::warn!(part = self.0.part.0, %error, "spool: preparing a segment failed");
                    state.full = true;
                    state.wake_room();
                    return;
                }
            }
            state.full = false;
            state.wake_room();
        }
    }

    /// Whether the next spare only waits for a watermark, and there is one until then.
    fn will_be_free(&self) -> bool {
        let ring = &self.0.state.borrow().ring;
        let waits = ring.freed.front().is_some_and(|segment| segment.number >= ring.oldest_durable);
        waits && !ring.spares.is_empty()
    }

    fn has_room(&self) -> bool {
        let wanted = self.0.options.reserve_bytes + u64::from(self.0.options.segment_bytes);
        self.0.storage.free_bytes().is_ok_and(|free| free >= wanted)
    }

    async fn make(&self, salt: u64, old: Option<&str>) -> io::Result<()> {
        let header = {
            let state = self.0.state.borrow();
            Header {
                salt: Salt::new(salt),
                part: self.0.part,
                segment: state.ring.next_number(),
                size: self.0.options.segment_bytes,
                oldest: state.ring.oldest_durable,
                next_message: state.next_message,
                tail: None,
                prepared: true,
            }
        };
        let spare = make_spare(&self.0.storage, &self.0.dir, &header, old).await?;
        self.0.state.borrow_mut().ring.spares.push_back(spare);
        Ok(())
    }

    /// Makes a spare out of a freed segment, or removes it if it cannot be one; `true` if there is a spare now.
    async fn recycle(&self, segment: Segment<S::Pin>, salt: u64) -> io::Result<bool> {
        let path = segment_path(&self.0.dir, segment.number);
        let unpinned = segment.pin.strong_count() == 0;
        if unpinned && !segment.unreadable && !segment.damaged && segment.size == self.0.options.segment_bytes
        {
            return self.make(salt, Some(&path)).await.map(|()| true);
        }
        self.remove(segment).await.map(|()| false)
    }

    async fn remove(&self, segment: Segment<S::Pin>) -> io::Result<()> {
        let path = segment_path(&self.0.dir, segment.number);
        let keep = segment.unreadable || segment.damaged;
        let removed = if keep {
            let kept = format!("damaged/part-{:05}-segment-{:010}", self.0.part.0, segment.number);
            self.0.storage.rename(&path, &kept).await
        } else {
            self.0.storage.remove(&path).await
        };
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        if keep {
            self.0.storage.sync_dir("damaged").await?;
        }
        self.0.storage.sync_dir(&self.0.dir).await
    }

    /// Removes freed segments beyond those that will soon be spares: zero-filling is dear.
    async fn drop_freed(&self) {
        while self.0.state.borrow().ring.freed.len() > FREED_KEPT || self.is_over_bound() {
            let freed = self.0.state.borrow_mut().ring.take_freed();
            let Some(segment) = freed else { return };
            if let Err(error) = self.remove(segment).await {
                tracing::warn!(part = self.0.part.0, %error, "spool: removing a freed segment failed");
            }
        }
    }

    fn wants_moves(&self) -> bool {
        let state = self.0.state.borrow();
        let Some(front) = state.ring.segments.front() else { return false };
        if state.ring.segments.len() < 2 || !front.sealed || front.pending > 0 {
            return false;
        }
        // Without a spare they must fit the head, with their states and entries in its footer. The segment that this frees is
        // the only one that a full disk can get.
        if state.ring.spares.is_empty() && 2 * front.live_bytes > state.head_room() {
            return false;
        }
        let files: u64 = state.ring.segments.iter().map(|segment| u64::from(segment.size)).sum();
        let (live, size) = (state.ring.live_bytes(), u64::from(self.0.options.segment_bytes));
        // Freed files are no reason: they become spares, or go, without any move.
        let roomy = files + SPARES as u64 * size > USE_OVER_LIVE * live + (SLACK_SEGMENTS - 1) * size;
        // Moving gains something as long as a segment's worth of the files is dead.
        let needed = state.full && files > live + live / 8 + 2 * size;
        roomy || needed
    }

    /// Whether all files together are more than there may be for what lives.
    fn is_over_bound(&self) -> bool {
        let (ring, size) = (&self.0.state.borrow().ring, self.0.options.segment_bytes);
        ring.disk_bytes(size) > USE_OVER_LIVE * ring.live_bytes() + SLACK_SEGMENTS * u64::from(size)
    }

    /// Copies what is live in the oldest segment to the head and frees it once the copies are durable.
    async fn empty_oldest(&self, liveness: &impl Liveness) -> io::Result<()> {
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
                    Err(error) => {
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
            // Whatever is still counted was settled without being reported, or is damaged and kept as a file.
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
        let frame = Frame { segment: number, salt, first_batch: None, end: None };
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
    ) -> io::Result<Option<(Option<Move>, u64)>> {
        let (id, location, kind) = entry;
        if kind == Kind::Chunk {
            let state = self.0.state.borrow();
            if !state.chunks.get(&id).is_some_and(|chunks| chunks.contains(&location)) {
                return Ok(None);
            }
            if state.accepting.contains(&id) {
                // Its Accepted lists this chunk and nobody answers for the message yet: a moment later.
                return Err(io::ErrorKind::WouldBlock.into());
            }
        }
        match liveness.state(id) {
            Some((at, _)) if kind == Kind::Chunk || at == location => {
                if !seen.insert(id) {
                    return Ok(None);
                }
                let moved = self.move_message(liveness, oldest, id, at).await;
                match moved {
                    Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                        if let Some(segment) = self.0.state.borrow_mut().ring.segment(oldest.number) {
                            segment.damaged = true;
                        }
                        liveness.damaged(id, at);
                        Ok(None)
                    }
                    moved => moved.map(|(done, sequence)| Some((done, sequence))),
                }
            }
            None if kind == Kind::Chunk => self.move_open_chunk(oldest, id, location).await,
            _ => Ok(None),
        }
    }

    /// The transaction that a chunk belongs to is still open: its list follows at once.
    async fn move_open_chunk(
        &self,
        oldest: &Oldest<'_, S>,
        id: MessageId,
        from: Location,
    ) -> io::Result<Option<(Option<Move>, u64)>> {
        let bytes = read_exact(oldest.file, from).await?;
        let record = Record::decode(&bytes, oldest.salt, from.offset).map_err(invalid)?;
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
    ) -> io::Result<(Option<Move>, u64)> {
        let old = self.0.state.borrow().chunks.get(&id).cloned().unwrap_or_default();
        let mut moving =
            Move { id, from, to: from, chunks: old.clone(), fresh: Vec::new(), stale: Vec::new() };
        for chunk in moving.chunks.iter_mut().filter(|chunk| chunk.segment == oldest.number) {
            let bytes = read_exact(oldest.file, *chunk).await?;
            let record = Record::decode(&bytes, oldest.salt, chunk.offset).map_err(invalid)?;
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
        let salt = salt.ok_or(io::ErrorKind::NotFound)?;
        let record = Record::decode(&bytes, salt, from.offset).map_err(invalid)?;
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

async fn read_exact<F: StorageFile>(file: &F, location: Location) -> io::Result<F::Bytes> {
    let bytes = file.read_at(u64::from(location.offset), location.bytes as usize).await?;
    if bytes.len() == location.bytes as usize { Ok(bytes) } else { Err(io::ErrorKind::InvalidData.into()) }
}

fn refused(error: AppendError) -> io::Error {
    let kind = if error == AppendError::Full { io::ErrorKind::StorageFull } else { io::ErrorKind::Other };
    io::Error::new(kind, error)
}

fn invalid(error: RecordError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
