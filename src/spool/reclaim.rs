//! Upkeep of the ring, in the background of commits: writes footers of full segments, prepares the next ones, has what
//! is still live moved out of the oldest (`moving`), and frees it.
//!
//! A failure here never fences: nothing that was acknowledged depends on it. No segment means 452 and another try.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use super::aside;
use super::commit::Log;
use super::moving::Liveness;
use super::record::Salt;
use super::replay::segment_path;
use super::report::segment_name;
use super::restart::make_spare;
use super::ring::Segment;
use super::segment::{Header, TRAILER_BYTES, Tail};
use super::state::Leaving;
use super::storage::{DiskBuffer, Storage, StorageFile};
use crate::limits::BLOCK_BYTES;

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
                match moved {
                    // Somebody has to do something about a message first.
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        self.0.storage.sleep(TICK).await;
                    }
                    Err(error) if !self.only_lacks_a_segment(&error) => {
                        tracing::warn!(part = self.0.part.0, %error, "spool: moving live records failed, trying again");
                        self.0.storage.sleep(TICK).await;
                    }
                    _ => {}
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
    pub(super) fn free_dead(&self) {
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
            let segment = state.ring.next_number();
            Header {
                salt: Salt::new(salt),
                part: self.0.part,
                segment,
                size: self.0.options.segment_bytes,
                oldest: state.ring.oldest_durable,
                next_message: state.next_message,
                // If that one is gone at a start, this one proves that there was one.
                tail: Some(Tail { segment: segment - 1, offset: 0, batch: 0 }),
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
        if unpinned && !segment.unreadable && segment.size == self.0.options.segment_bytes {
            return self.make(salt, Some(&path)).await.map(|()| true);
        }
        self.remove(segment).await.map(|()| false)
    }

    async fn remove(&self, segment: Segment<S::Pin>) -> io::Result<()> {
        let path = segment_path(&self.0.dir, segment.number);
        let keep = segment.unreadable;
        let removed = if keep {
            // Its report is there since it was found.
            let kept = aside::path(&segment_name(self.0.part, segment.number));
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
}
