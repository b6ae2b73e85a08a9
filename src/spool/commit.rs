//! Appending and group commit. Records go into the *filling* batch; whatever has arrived when the previous write
//! completes is written next, as one batch, in one durable write. There is no timer for acceptances; outcomes alone
//! wait up to [`LINGER`] for company.
//!
//! Owns the filling batch, the head segment, the message sequence and everyone who waits. Does not know the queue and
//! spawns nothing: whoever opens a log drives [`Log::run_committer`], [`Log::run_clock`] and [`Log::run_upkeep`].
//!
//! Copies: a body is copied once, from the session's memory into the batch that the disk reads.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::committer::TICK;
use super::error::{AppendError, Fence};
use super::meta;
use super::placing::Class;
use super::record::{Draft, Kind};
use super::state::State;
use super::storage::Storage;
use crate::id::{Location, MessageId, PartId};
use crate::message::Message;
use crate::outcome::{Bounced, Outcome};

/// Longest time that an outcome waits for others before it is written.
pub const LINGER: Duration = Duration::from_millis(5);
/// Settings of a log.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// Size of new segments, bytes; whole blocks, 1 MiB to 1 GiB (tests go lower).
    pub segment_bytes: u32,
    /// Bytes of the file system that new segments leave alone.
    pub reserve_bytes: u64,
    /// How long a commit may take before acceptances are refused, and how long an acceptance waits at most, whatever it
    /// waits for.
    pub commit_deadline: Duration,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self { segment_bytes: 64 << 20, reserve_bytes: 256 << 20, commit_deadline: Duration::from_secs(30) }
    }
}

/// Proof that what it was given for is durable. Only a completed write makes one; the writer of the 250 takes it.
#[derive(Debug)]
pub struct Committed(());

/// A record about a message that was accepted before.
#[derive(Clone, Copy, Debug)]
pub enum Note<'a> {
    /// What became of an attempt.
    Outcome(&'a Outcome),
    /// Owed recipients are settled without a notification.
    Bounced(&'a Bounced),
}

/// Counters and gauges of a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogStats {
    /// Batches written.
    pub commits: u64,
    /// Records written.
    pub records: u64,
    /// Bytes of records.
    pub record_bytes: u64,
    /// Bytes of batches, padding included.
    pub written_bytes: u64,
    /// Bytes of records that were appended again to free a segment.
    pub moved_bytes: u64,
    /// Sum of the time that writes took, microseconds.
    pub write_us: u64,
    /// Longest write, microseconds.
    pub write_us_max: u64,
    /// Segments, the head included, without spares.
    pub segments: u64,
    /// Segments that are ready to become the head.
    pub spares: u64,
    /// Bytes of all segment files.
    pub disk_bytes: u64,
    /// Bytes of records that are still needed.
    pub live_bytes: u64,
    /// Outcomes and bounces that were appended and are not durable yet: what a crash now would repeat.
    pub notes_pending: u64,
    /// Whether acceptances are refused for want of disk.
    pub full: bool,
    /// Whether a commit has outlasted its deadline.
    pub stuck: bool,
}

pub(super) struct Inner<S: Storage> {
    pub storage: S,
    pub part: PartId,
    pub dir: String,
    pub options: LogOptions,
    pub fence: Fence,
    pub state: RefCell<State<S>>,
    pub on_commit: RefCell<Option<OnCommit>>,
}

/// Told of each commit: how long it took, and how many records it had.
pub type OnCommit = Box<dyn Fn(Duration, u32)>;

/// A part's log. Clones are handles to the same one; all on one thread.
pub struct Log<S: Storage>(pub(super) Rc<Inner<S>>);

impl<S: Storage> Clone for Log<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// Waits until a record is durable. May be dropped: the record is written all the same.
#[must_use = "dropping it is fine, forgetting to decide is not"]
pub struct Ticket<S: Storage> {
    log: Log<S>,
    sequence: u64,
    /// The tick of the log's clock at which the one who waits wants an answer.
    until: Option<u64>,
}

impl<S: Storage> Future for Ticket<S> {
    type Output = Result<Committed, AppendError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.log.0.state.borrow_mut();
        if state.durable >= self.sequence {
            return Poll::Ready(Ok(Committed(())));
        }
        if let Err(fenced) = self.log.0.fence.check() {
            return Poll::Ready(Err(fenced));
        }
        if self.until.is_some_and(|until| state.stuck || state.ticks >= until) {
            return Poll::Ready(Err(AppendError::Stuck));
        }
        let known = state.waiters.iter().rev().take_while(|(sequence, _)| *sequence == self.sequence);
        let known = known.take(4).any(|(_, waker)| waker.will_wake(context.waker()));
        if !known {
            state.waiters.push((self.sequence, context.waker().clone()));
        }
        state.urge();
        Poll::Pending
    }
}

/// An acceptance until its acceptor has been told. Dropped before that, the message must not come to life.
struct Acceptance<'a, S: Storage> {
    log: &'a Log<S>,
    id: MessageId,
    location: Option<Location>,
}

impl<S: Storage> Acceptance<'_, S> {
    /// The acceptor knows: from here on the queue answers for the message.
    fn told(mut self) -> Option<Location> {
        let location = self.location.take()?;
        self.log.0.state.borrow_mut().told(self.id, location);
        Some(location)
    }
}

impl<S: Storage> Drop for Acceptance<'_, S> {
    fn drop(&mut self) {
        let Some(location) = self.location.take() else { return };
        let mut state = self.log.0.state.borrow_mut();
        state.told(self.id, location);
        state.ring.sub_live(location.segment, location.bytes);
        state.drop_chunks(self.id);
        state.aborts.push(self.id);
        state.urge();
    }
}

/// A notification that is on its way to the disk, with the settlement of those it tells of.
#[must_use = "its segment stays until it has been waited for"]
pub struct Notification<S: Storage> {
    ticket: Ticket<S>,
    id: MessageId,
    location: Location,
}

impl<S: Storage> Notification<S> {
    /// Waits until both are durable. The caller must hand the notification to the queue before its next await. Never
    /// aborted, since the settlement counts on it: after an error a restart decides what stands.
    pub async fn durable(self) -> Result<(Committed, Location), AppendError> {
        let log = self.ticket.log.clone();
        let committed = self.ticket.await?;
        log.0.state.borrow_mut().told(self.id, self.location);
        Ok((committed, self.location))
    }
}

impl<S: Storage> Log<S> {
    pub(super) fn start(inner: Inner<S>) -> Self {
        Self(Rc::new(inner))
    }

    /// An id that this part has never given out. Before the first record of a message, at most once a message.
    pub fn next_id(&self) -> MessageId {
        let mut state = self.0.state.borrow_mut();
        let sequence = state.next_message;
        state.next_message += 1;
        MessageId::new(self.0.part, sequence)
    }

    /// Which part it is.
    pub fn part(&self) -> PartId {
        self.0.part
    }

    /// Accepts `message`: returns when it is durable. Its body is what was appended as chunks under its id, then
    /// `message.body`. The caller must hand the message to the queue before its next await. Dropping the future
    /// before it is done, or an error, means that the message will not be delivered.
    pub async fn accept(&self, message: &Message) -> Result<(Committed, Location), AppendError> {
        let until = self.patience();
        // Made again at each try: a reclaim may move chunks while this waits for room.
        let mut fields = Vec::new();
        let placed = poll_fn(|context| {
            let mut state = self.0.state.borrow_mut();
            if let Some(chunks) = state.chunks.get(&message.id) {
                fields.clear();
                meta::push_chunks(&mut fields, chunks);
            }
            let draft = Draft {
                kind: Kind::Accepted,
                id: message.id,
                meta: [message.envelope.as_bytes(), &fields],
                body: &message.body,
            };
            let placed = self.poll_accept(&mut state, context, until, Class::Accept, &[draft]);
            if let Poll::Ready(Ok(placed)) = &placed {
                state.accepted(placed.location);
                if !fields.is_empty() {
                    state.accepting.insert(message.id);
                }
            }
            placed
        })
        .await;
        let placed = placed.inspect_err(|_| self.forget_chunks(message.id))?;
        let acceptance = Acceptance { log: self, id: message.id, location: Some(placed.location) };
        let committed = self.ticket(placed.sequence, Some(until)).await?;
        acceptance.told();
        Ok((committed, placed.location))
    }

    /// Appends the next piece, at most [`crate::limits::BODY_INLINE_BYTES_MAX`] bytes, of the body of a message that is coming in.
    /// It goes into a batch, not yet to disk.
    pub async fn append_chunk(&self, id: MessageId, bytes: &[u8]) -> Result<(), AppendError> {
        if self.0.state.borrow().chunks.get(&id).is_some_and(|chunks| chunks.len() >= meta::CHUNKS_MAX) {
            return Err(AppendError::TooLarge);
        }
        let draft = Draft { kind: Kind::Chunk, id, meta: [&[], &[]], body: bytes };
        let until = self.patience();
        poll_fn(|context| {
            let mut state = self.0.state.borrow_mut();
            let placed = self.poll_accept(&mut state, context, until, Class::Chunk, &[draft]);
            if let Poll::Ready(Ok(placed)) = &placed {
                state.ring.add_live(placed.location.segment, placed.location.bytes);
                state.chunks.entry(id).or_default().push(placed.location);
            }
            placed.map_ok(|_| ())
        })
        .await
    }

    /// The transaction of a message that was never accepted is over.
    pub fn forget_chunks(&self, id: MessageId) {
        self.0.state.borrow_mut().drop_chunks(id);
    }

    /// Appends a note. Returns when it is in a batch: its order is settled, and the caller may apply it to the queue
    /// before its next await. The ticket is for those who need durability.
    pub async fn append(&self, note: Note<'_>) -> Result<Ticket<S>, AppendError> {
        let mut fields = Vec::new();
        let (kind, id) = match note {
            Note::Outcome(outcome) => {
                meta::push_outcome(&mut fields, outcome);
                (Kind::Outcome, outcome.id)
            }
            Note::Bounced(bounced) => {
                meta::push_bounced(&mut fields, bounced);
                (Kind::Bounced, bounced.id)
            }
        };
        let draft = Draft { kind, id, meta: [&fields, &[]], body: &[] };
        let placed = poll_fn(|context| {
            let mut state = self.0.state.borrow_mut();
            self.poll_place(&mut state, context, Class::Settle, &[draft])
        })
        .await?;
        let mut state = self.0.state.borrow_mut();
        state.notes_filling += 1;
        state.nudge();
        drop(state);
        Ok(self.ticket(placed.sequence, None))
    }

    /// Settles owed recipients and accepts their notification, both in one batch. Returns when they are in it: the caller
    /// must apply `bounced` to the queue before its next await, or a move of the message would carry a state from before
    /// it behind it. The notification is for [`Notification::durable`].
    pub async fn append_notification(
        &self,
        bounced: &Bounced,
        notification: &Message,
    ) -> Result<Notification<S>, AppendError> {
        let mut fields = Vec::new();
        meta::push_bounced(&mut fields, bounced);
        let drafts = [
            Draft { kind: Kind::Bounced, id: bounced.id, meta: [&fields, &[]], body: &[] },
            Draft {
                kind: Kind::Accepted,
                id: notification.id,
                meta: [notification.envelope.as_bytes(), &[]],
                body: &notification.body,
            },
        ];
        let placed = poll_fn(|context| {
            let mut state = self.0.state.borrow_mut();
            let placed = self.poll_place(&mut state, context, Class::Settle, &drafts);
            if let Poll::Ready(Ok(placed)) = &placed {
                state.accepted(placed.location);
            }
            placed
        })
        .await?;
        let ticket = self.ticket(placed.sequence, None);
        Ok(Notification { ticket, id: notification.id, location: placed.location })
    }

    /// A message is settled for every recipient: its record at `location`, the newest, is not needed any more.
    pub fn settled(&self, id: MessageId, location: Location) {
        let mut state = self.0.state.borrow_mut();
        state.ring.sub_live(location.segment, location.bytes);
        state.drop_chunks(id);
        let oldest = state.ring.oldest();
        if location.segment == oldest
            && state.ring.segment(oldest).is_some_and(|oldest| oldest.live_bytes == 0)
        {
            state.wake_upkeep();
        }
    }

    /// Whether new mail would be taken now: asked before a body is read, so that a client keeps it.
    pub fn admits(&self) -> Result<(), AppendError> {
        self.0.fence.check()?;
        let state = self.0.state.borrow();
        match (state.full, state.stuck) {
            (true, _) => Err(AppendError::Full),
            (_, true) => Err(AppendError::Stuck),
            _ => Ok(()),
        }
    }

    /// The disk, for readers on this thread.
    pub fn storage(&self) -> &S {
        &self.0.storage
    }

    /// Has every commit told to `on_commit`, which must not call the log.
    pub fn set_on_commit(&self, on_commit: OnCommit) {
        *self.0.on_commit.borrow_mut() = Some(on_commit);
    }

    /// Counters and gauges.
    pub fn stats(&self) -> LogStats {
        let state = self.0.state.borrow();
        LogStats {
            segments: state.ring.segments.len() as u64,
            spares: state.ring.spares.len() as u64,
            disk_bytes: state.ring.disk_bytes(self.0.options.segment_bytes),
            live_bytes: state.ring.live_bytes(),
            notes_pending: state.notes_filling + state.notes_writing,
            full: state.full,
            stuck: state.stuck,
            ..state.stats
        }
    }

    /// The fence of this log's file system.
    pub fn fence(&self) -> &Fence {
        &self.0.fence
    }

    /// Writes what has been appended and a watermark, ends the three drivers, and seals the head, so that the next start
    /// reads no batches. Nothing may be appended after.
    pub async fn close(&self) {
        let last = {
            let mut state = self.0.state.borrow_mut();
            state.stopping = true;
            state.wake_committer();
            state.wake_upkeep();
            state.started
        };
        let _ = self.ticket(last, None).await;
        poll_fn(|context| {
            let mut state = self.0.state.borrow_mut();
            // Upkeep may be in the middle of a call that the executor must not end under.
            if (state.closed || self.0.fence.reason().is_some()) && !state.upkeep_running {
                return Poll::Ready(());
            }
            state.room.push(context.waker().clone());
            Poll::Pending
        })
        .await;
        self.seal_head().await;
    }

    /// Lets a second pass on the log's clock.
    #[cfg(test)]
    pub(super) async fn storage_sleep(&self) {
        self.0.storage.sleep(Duration::from_secs(3)).await;
    }

    pub(super) fn ticket(&self, sequence: u64, until: Option<u64>) -> Ticket<S> {
        Ticket { log: self.clone(), sequence, until }
    }

    /// The tick at which an acceptance that begins now has waited long enough. Counted, so that no clock is read.
    fn patience(&self) -> u64 {
        let ticks = self.0.options.commit_deadline.as_millis().div_ceil(TICK.as_millis());
        self.0.state.borrow().ticks + ticks as u64
    }
}
