//! The drivers of a log that write: the committer, one batch after the other, and the clock, which watches it.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use super::batch;
use super::commit::{LINGER, Log};
use super::error::AppendError;
use super::placing::Class;
use super::record::{Draft, Kind};
use super::segment::{self, BATCHES_OFFSET, Tail};
use super::state::Leaving;
use super::storage::{DiskBuffer, Storage, StorageFile};
use crate::limits::BLOCK_BYTES;

/// The tick of [`Log::run_clock`].
pub(super) const TICK: Duration = Duration::from_millis(500);

impl<S: Storage> Log<S> {
    /// Drives commits until the log is closed or fenced. Spawn once.
    pub async fn run_committer(self) {
        let mut last_words = false;
        loop {
            self.wait_for_work().await;
            // Tasks that are ready now get their records into this batch.
            yield_now().await;
            if self.commit().await.is_err() {
                break;
            }
            let mut state = self.0.state.borrow_mut();
            if !state.stopping || state.filling.is_some() {
                continue;
            }
            if state.watermark_owed && !last_words {
                last_words = true;
                state.watermark_due = true;
                continue;
            }
            state.closed = true;
            state.wake_all();
            state.wake_upkeep();
            break;
        }
    }

    async fn wait_for_work(&self) {
        let mut linger = pin!(None);
        poll_fn(|context| {
            let mut state = self.0.state.borrow_mut();
            let aborts = !state.aborts.is_empty() && !state.aborts_blocked;
            let fenced = self.0.fence.reason().is_some();
            if state.urgent || state.watermark_due || state.stopping || aborts || fenced {
                return Poll::Ready(());
            }
            state.committer = Some(context.waker().clone());
            if !state.lazy {
                return Poll::Pending;
            }
            drop(state);
            if linger.is_none() {
                linger.set(Some(self.0.storage.sleep(LINGER)));
            }
            linger.as_mut().as_pin_mut().map_or(Poll::Pending, |sleep| sleep.poll(context))
        })
        .await;
    }

    /// Writes the filling batch, if there is reason to. An error fences.
    async fn commit(&self) -> Result<(), AppendError> {
        self.0.fence.check().inspect_err(|_| self.0.state.borrow_mut().wake_all())?;
        self.append_aborts();
        let Some(mut batch) = self.take_batch() else { return Ok(()) };
        let written = match self.0.fence.check() {
            Ok(()) => self.write_batch(&mut batch).await,
            Err(_) => Err(std::io::Error::other("another part on this file system failed")),
        };
        let mut state = self.0.state.borrow_mut();
        let now = self.0.storage.now();
        let took = state.writing_since.take().map_or(Duration::ZERO, |since| now.since(since));
        if let Err(error) = written {
            self.0.fence.raise(&format!("write to {} failed: {error}", self.0.dir));
            state.wake_all();
            return self.0.fence.check();
        }
        let header = batch.header;
        state.durable = header.sequence;
        state.notes_writing = 0;
        if let Some(on_commit) = &*self.0.on_commit.borrow() {
            on_commit(took, header.records);
        }
        state.ring.oldest_durable = state.ring.oldest_durable.max(header.oldest);
        state.watermark_owed = header.records > 0;
        state.idle_since = now;
        state.stuck = false;
        state.stats.commits += 1;
        state.stats.records += u64::from(header.records);
        state.stats.record_bytes += u64::from(header.bytes) - batch::HEADER_BYTES as u64;
        state.stats.written_bytes += header.blocks_bytes() as u64;
        state.stats.write_us += took.as_micros() as u64;
        state.stats.write_us_max = state.stats.write_us_max.max(took.as_micros() as u64);
        if let Some(leaving) = batch.leaves.take() {
            state.leaving.push(leaving);
            state.wake_upkeep();
        }
        if !state.ring.freed.is_empty() {
            state.wake_upkeep();
        }
        state.wake_durable();
        Ok(())
    }

    fn append_aborts(&self) {
        let mut state = self.0.state.borrow_mut();
        while let Some(id) = state.aborts.last().copied() {
            let draft = Draft { kind: Kind::Aborted, id, meta: [&[], &[]], body: &[] };
            if self.try_place(&mut state, Class::Settle, &[draft]).is_err() {
                state.aborts_blocked = true;
                break;
            }
            state.aborts.pop();
        }
    }

    /// Closes the filling batch; from here on records go into the next.
    fn take_batch(&self) -> Option<Closed<S>> {
        let mut guard = self.0.state.borrow_mut();
        let state = &mut *guard;
        if state.filling.is_none() && state.watermark_due {
            let end = state.head.cursor as usize + BLOCK_BYTES + state.head.footer.bytes_with(0);
            if end <= state.head.size as usize {
                self.begin_batch(state, None);
            } else if !state.ring.spares.is_empty() {
                let leaves = self.next_head(state);
                self.begin_batch(state, Some(leaves));
            }
        }
        (state.urgent, state.lazy, state.watermark_due) = (false, false, false);
        let mut filling = state.filling.take()?;
        state.notes_writing = std::mem::take(&mut state.notes_filling);
        let header = batch::Header {
            bytes: filling.used as u32,
            sequence: filling.sequence,
            durable: state.durable,
            next_message: state.next_message,
            offset: filling.offset,
            oldest: state.ring.oldest(),
            records: filling.records,
        };
        filling.buffer.truncate(header.blocks_bytes());
        header.seal(state.head.salt, filling.buffer.as_bytes_mut());
        state.head.cursor += header.blocks_bytes() as u32;
        state.writing_since = Some(self.0.storage.now());
        let opens = (!state.head.opened).then(|| segment::Header {
            salt: state.head.salt,
            part: self.0.part,
            segment: state.head.number,
            size: state.head.size,
            oldest: state.ring.oldest(),
            next_message: state.next_message,
            tail: filling.leaves.as_ref().map(|l| Tail {
                segment: l.number,
                offset: l.end,
                batch: filling.sequence - 1,
            }),
            prepared: false,
        });
        state.head.opened = true;
        state.wake_for_batch();
        let file = state.head.file.clone();
        let leaves = filling.leaves.map(|leaves| Leaving { batch: filling.sequence - 1, ..leaves });
        Some(Closed { header, buffer: Some(filling.buffer), file, opens, leaves })
    }

    async fn write_batch(&self, batch: &mut Closed<S>) -> std::io::Result<()> {
        if let Some(header) = batch.opens.take() {
            // All earlier batches are durable, so this may say where the segment before it ends.
            write_header(&self.0.storage, &batch.file, &header).await?;
        }
        let buffer = batch.buffer.take().expect("a batch is written once");
        batch.file.write_at(buffer, u64::from(batch.header.offset)).await
    }

    /// Watches the commit deadline, the fence and idleness. Spawn once.
    pub async fn run_clock(self) {
        loop {
            self.0.storage.sleep(TICK).await;
            let now = self.0.storage.now();
            let mut state = self.0.state.borrow_mut();
            if state.closed {
                break;
            }
            if self.0.fence.reason().is_some() {
                state.wake_all();
                state.wake_committer();
                state.wake_upkeep();
                break;
            }
            state.ticks += 1;
            let writing = state.writing_since.map_or(Duration::ZERO, |since| now.since(since));
            state.stuck |= writing >= self.0.options.commit_deadline;
            if writing >= TICK || !(state.room.is_empty() && state.chunk_room.is_empty()) {
                // Who has waited too long gives up.
                state.wake_all();
            }
            let idle = state.filling.is_none() && state.writing_since.is_none();
            // Within two ticks an idle log writes down that its last batch is durable.
            if idle && state.watermark_owed && now.since(state.idle_since) >= TICK / 2 {
                state.watermark_due = true;
                state.wake_committer();
            }
        }
    }
}

/// A batch on its way to disk.
struct Closed<S: Storage> {
    header: batch::Header,
    buffer: Option<S::Buffer>,
    file: Rc<S::File>,
    opens: Option<segment::Header>,
    leaves: Option<Leaving>,
}

/// Writes both copies of a segment's header, durably.
pub(super) async fn write_header<S: Storage>(
    storage: &S,
    file: &S::File,
    header: &segment::Header,
) -> std::io::Result<()> {
    let mut buffer = storage.buffer(BATCHES_OFFSET as usize);
    let (first, second) = buffer.as_bytes_mut().split_at_mut(BLOCK_BYTES);
    header.encode(first);
    second.copy_from_slice(first);
    file.write_at(buffer, 0).await
}

/// Lets every task that is ready run once.
async fn yield_now() {
    let mut yielded = false;
    poll_fn(|context| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
