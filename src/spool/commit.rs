//! Appending and group commit. Records go into the *filling* batch; whatever has arrived when the previous write
//! completes is written next, as one batch, in one durable write. There is no timer for acceptances; outcomes alone
//! wait up to [`LINGER`] for company.
//!
//! Owns the filling batch, the head segment, the message sequence and everyone who waits. Does not know the queue and
//! spawns nothing: whoever opens a log drives [`Log::run_committer`], [`Log::run_clock`] and [`Log::run_upkeep`].
//!
//! Copies: a body is copied once, from the session's memory into the batch that the disk reads.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::batch;
use super::error::{AppendError, Fence};
use super::meta;
use super::record::{self, Draft, Kind, Salt};
use super::ring::{Ring, Segment, SegmentPin};
use super::segment::{self, BATCHES_OFFSET, FooterBuilder, Tail};
use super::storage::{DiskBuffer, Storage, StorageFile};
use crate::clock::Moment;
use crate::id::{Location, MessageId, PartId};
use crate::limits::{BATCH_BYTES_MAX, BLOCK_BYTES, BODY_INLINE_BYTES_MAX};
use crate::message::Message;
use crate::outcome::{Bounced, Outcome};

/// Longest time that an outcome waits for others before it is written.
pub const LINGER: Duration = Duration::from_millis(5);
/// How long a log is idle before it writes down that its last batch is durable; also the tick of [`Log::run_clock`].
const IDLE: Duration = Duration::from_millis(500);

/// Settings of a log.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// Size of new segments, bytes; whole blocks, 1 MiB to 1 GiB (tests go lower).
    pub segment_bytes: u32,
    /// Bytes of the file system that new segments leave alone.
    pub reserve_bytes: u64,
    /// How long a commit may take before acceptances are refused.
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

/// The segment that is being written.
pub(super) struct Head<S: Storage> {
    pub number: u32,
    pub salt: Salt,
    pub size: u32,
    pub file: Rc<S::File>,
    pub footer: FooterBuilder,
    /// Where the filling batch starts.
    pub cursor: u32,
    /// Whether the header on disk says open.
    pub opened: bool,
}

/// A batch while records are added to it.
struct Filling<B> {
    buffer: B,
    offset: u32,
    used: usize,
    records: u32,
    sequence: u64,
    /// The segment changes with this batch: whose footer is due then.
    leaves: Option<Leaving>,
}

/// A full segment whose footer is to be written.
pub(super) struct Leaving {
    pub number: u32,
    pub footer: FooterBuilder,
    pub end: u32,
    pub batch: u64,
}

pub(super) struct State<S: Storage> {
    filling: Option<Filling<S::Buffer>>,
    pub head: Head<S>,
    pub ring: Ring<S>,
    pub next_message: u64,
    /// Sequence of the last batch that was started, and of the last that is durable.
    started: u64,
    durable: u64,
    /// The last durable batch had records: its durability is not on disk yet.
    watermark_owed: bool,
    watermark_due: bool,
    urgent: bool,
    lazy: bool,
    stopping: bool,
    pub closed: bool,
    pub full: bool,
    stuck: bool,
    writing_since: Option<Moment>,
    idle_since: Moment,
    waiters: Vec<(u64, Waker)>,
    room: Vec<Waker>,
    committer: Option<Waker>,
    pub upkeep: Option<Waker>,
    pub upkeep_due: bool,
    aborts: Vec<MessageId>,
    /// The last try to append an abort found no place; the next segment ends this.
    aborts_blocked: bool,
    /// Where the chunks of long bodies lie: of open transactions and of accepted messages.
    pub chunks: HashMap<MessageId, Vec<Location>, foldhash::fast::RandomState>,
    /// Messages with chunks between their Accepted being placed and their acceptor being told.
    pub accepting: HashSet<MessageId, foldhash::fast::RandomState>,
    pub leaving: Vec<Leaving>,
    /// Outcomes and bounces in the filling batch, and in the one being written.
    notes_filling: u64,
    notes_writing: u64,
    pub stats: LogStats,
}

/// Told of each commit: how long it took, and how many records it had.
pub type OnCommit = Box<dyn Fn(Duration, u32)>;

pub(super) struct Inner<S: Storage> {
    pub storage: S,
    pub part: PartId,
    pub dir: String,
    pub options: LogOptions,
    pub fence: Fence,
    pub state: RefCell<State<S>>,
    pub on_commit: RefCell<Option<OnCommit>>,
}

/// A part's log. Clones are handles to the same one; all on one thread.
pub struct Log<S: Storage>(pub(super) Rc<Inner<S>>);

impl<S: Storage> Clone for Log<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// Who may take the last segment: with the disk full, mail must still be able to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// New mail: leaves one prepared segment alone.
    Accept,
    /// Outcomes, bounces, aborts, moves.
    Settle,
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
    /// Wait for the next batch or the next segment.
    Room,
    Failed(AppendError),
}

/// Waits until a record is durable. May be dropped: the record is written all the same.
#[must_use = "dropping it is fine, forgetting to decide is not"]
pub struct Ticket<S: Storage> {
    log: Log<S>,
    sequence: u64,
    /// Whether the one who waits wants an answer by the commit deadline.
    impatient: bool,
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
        if self.impatient && state.stuck {
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
            let placed = self.poll_place(&mut state, context, Class::Accept, &[draft]);
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
        self.told_when_durable(message.id, placed).await
    }

    async fn told_when_durable(
        &self,
        id: MessageId,
        placed: Placed,
    ) -> Result<(Committed, Location), AppendError> {
        let acceptance = Acceptance { log: self, id, location: Some(placed.location) };
        let committed = self.ticket(placed.sequence, true).await?;
        acceptance.told();
        Ok((committed, placed.location))
    }

    /// Appends the next piece, at most [`BODY_INLINE_BYTES_MAX`] bytes, of the body of a message that is coming in.
    /// It goes into a batch, not yet to disk.
    pub async fn append_chunk(&self, id: MessageId, bytes: &[u8]) -> Result<(), AppendError> {
        if self.0.state.borrow().chunks.get(&id).is_some_and(|chunks| chunks.len() >= meta::CHUNKS_MAX) {
            return Err(AppendError::TooLarge);
        }
        let draft = Draft { kind: Kind::Chunk, id, meta: [&[], &[]], body: bytes };
        poll_fn(|context| {
            let mut state = self.0.state.borrow_mut();
            let placed = self.poll_place(&mut state, context, Class::Accept, &[draft]);
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
        Ok(self.ticket(placed.sequence, false))
    }

    /// Settles owed recipients and accepts their notification, both in one batch. Returns when it is durable; the
    /// caller must apply both to the queue before its next await.
    pub async fn append_notification(
        &self,
        bounced: &Bounced,
        notification: &Message,
    ) -> Result<(Committed, Location), AppendError> {
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
        // Never aborted: the Bounced beside it counts on it. Fenced, a restart decides what stands.
        let committed = self.ticket(placed.sequence, false).await?;
        self.0.state.borrow_mut().told(notification.id, placed.location);
        Ok((committed, placed.location))
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

    /// Writes what has been appended and a watermark, then ends the three drivers. Nothing may be appended after.
    pub async fn close(&self) {
        let last = {
            let mut state = self.0.state.borrow_mut();
            state.stopping = true;
            state.wake_committer();
            state.wake_upkeep();
            state.started
        };
        let _ = self.ticket(last, false).await;
        poll_fn(|context| {
            let mut state = self.0.state.borrow_mut();
            if state.closed || self.0.fence.reason().is_some() {
                return Poll::Ready(());
            }
            state.room.push(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Lets a second pass on the log's clock.
    #[cfg(test)]
    pub(super) async fn storage_sleep(&self) {
        self.0.storage.sleep(Duration::from_secs(3)).await;
    }

    pub(super) fn ticket(&self, sequence: u64, impatient: bool) -> Ticket<S> {
        Ticket { log: self.clone(), sequence, impatient }
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
            Err(Blocked::Room) => {
                state.room.push(context.waker().clone());
                Poll::Pending
            }
        }
    }

    fn try_place(&self, state: &mut State<S>, class: Class, drafts: &[Draft<'_>]) -> Result<Placed, Blocked> {
        self.0.fence.check().map_err(Blocked::Failed)?;
        if state.closed {
            return Err(Blocked::Failed(AppendError::Closed));
        }
        if class == Class::Accept {
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
            Some(filling) if filling.used + bytes > self.batch_bytes_max() || !fits(state, filling.used) => {
                state.urge();
                return Err(Blocked::Room);
            }
            Some(_) => {}
            None => {
                if !fits(state, batch::HEADER_BYTES) {
                    let least = if class == Class::Accept { 2 } else { 1 };
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
        Ok(state.write_drafts(drafts))
    }

    /// Largest batch, bytes: a small segment must hold some.
    fn batch_bytes_max(&self) -> usize {
        BATCH_BYTES_MAX.min((self.0.options.segment_bytes as usize / 2).next_multiple_of(BLOCK_BYTES))
    }

    fn begin_batch(&self, state: &mut State<S>, leaves: Option<Leaving>) {
        state.started += 1;
        state.filling = Some(Filling {
            buffer: self.0.storage.buffer(self.batch_bytes_max()),
            offset: state.head.cursor,
            used: batch::HEADER_BYTES,
            records: 0,
            sequence: state.started,
            leaves,
        });
    }

    /// Makes the first spare the head. There must be one.
    fn next_head(&self, state: &mut State<S>) -> Leaving {
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
        state.room.drain(..).for_each(Waker::wake);
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
            self.0.storage.sleep(IDLE).await;
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
            if state.writing_since.is_some_and(|since| now.since(since) >= self.0.options.commit_deadline) {
                state.stuck = true;
                state.wake_all();
            }
            let idle = state.filling.is_none() && state.writing_since.is_none();
            if idle && state.watermark_owed && now.since(state.idle_since) >= IDLE / 2 {
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

impl<S: Storage> State<S> {
    /// A fresh state behind `tail`, appending to `head`, which is in the ring already.
    pub(super) fn new(head: Head<S>, ring: Ring<S>, tail: Tail, next_message: u64, now: Moment) -> Self {
        Self {
            filling: None,
            head,
            ring,
            next_message,
            started: tail.batch,
            durable: tail.batch,
            watermark_owed: false,
            watermark_due: false,
            urgent: false,
            lazy: false,
            stopping: false,
            closed: false,
            full: false,
            stuck: false,
            writing_since: None,
            idle_since: now,
            waiters: Vec::new(),
            room: Vec::new(),
            committer: None,
            upkeep: None,
            upkeep_due: true,
            aborts: Vec::new(),
            aborts_blocked: false,
            chunks: HashMap::default(),
            accepting: HashSet::default(),
            leaving: Vec::new(),
            notes_filling: 0,
            notes_writing: 0,
            stats: LogStats::default(),
        }
    }

    fn write_drafts(&mut self, drafts: &[Draft<'_>]) -> Placed {
        let filling = self.filling.as_mut().expect("the caller began a batch");
        let mut location = Location::default();
        for draft in drafts {
            let offset = filling.offset + filling.used as u32;
            let out = &mut filling.buffer.as_bytes_mut()[filling.used..];
            draft.encode(self.head.salt, offset, out);
            self.head.footer.push(out, draft.meta_bytes());
            filling.used += record::padded(draft.bytes());
            filling.records += 1;
            location = Location { segment: self.head.number, offset, bytes: draft.bytes() as u32 };
        }
        Placed { sequence: filling.sequence, location }
    }

    fn accepted(&mut self, location: Location) {
        if let Some(segment) = self.ring.segment(location.segment) {
            segment.live_bytes += u64::from(location.bytes);
            segment.pending += 1;
        }
    }

    /// From here on the queue answers for the message, or nobody does.
    fn told(&mut self, id: MessageId, location: Location) {
        self.accepting.remove(&id);
        if let Some(segment) = self.ring.segment(location.segment) {
            segment.pending -= 1;
        }
    }

    /// The chunks of a message that is over are not needed any more.
    pub(super) fn drop_chunks(&mut self, id: MessageId) {
        for chunk in self.chunks.remove(&id).unwrap_or_default() {
            self.ring.sub_live(chunk.segment, chunk.bytes);
        }
    }

    fn no_segment(&mut self) -> Blocked {
        self.wake_upkeep();
        if self.full { Blocked::Failed(AppendError::Full) } else { Blocked::Room }
    }

    /// The filling batch is wanted at once.
    pub(super) fn urge(&mut self) {
        if !std::mem::replace(&mut self.urgent, true) {
            self.wake_committer();
        }
    }

    /// The filling batch is wanted soon.
    fn nudge(&mut self) {
        if !std::mem::replace(&mut self.lazy, true) {
            self.wake_committer();
        }
    }

    /// Asks for a batch even if there is nothing to put into it.
    pub(super) fn want_watermark(&mut self) {
        self.watermark_due = true;
        self.wake_committer();
    }

    fn wake_committer(&mut self) {
        if let Some(waker) = self.committer.take() {
            waker.wake();
        }
    }

    pub(super) fn wake_upkeep(&mut self) {
        self.upkeep_due = true;
        if let Some(waker) = self.upkeep.take() {
            waker.wake();
        }
    }

    /// There is a new segment to write to.
    pub(super) fn wake_room(&mut self) {
        if std::mem::take(&mut self.aborts_blocked) {
            self.wake_committer();
        }
        self.room.drain(..).for_each(Waker::wake);
    }

    fn wake_durable(&mut self) {
        let durable = self.durable;
        self.waiters.retain(|(sequence, waker)| {
            let waits = *sequence > durable;
            if !waits {
                waker.wake_by_ref();
            }
            waits
        });
    }

    pub(super) fn wake_all(&mut self) {
        self.room.drain(..).for_each(Waker::wake);
        self.waiters.drain(..).for_each(|(_, waker)| waker.wake());
    }

    /// Remembers a pin for whoever needs the same segment; `None` if the segment is gone.
    pub(super) fn keep_pin(&mut self, number: u32, file: S::Pin) -> Option<Arc<SegmentPin<S::Pin>>> {
        let segment = self.ring.segment(number)?;
        let pin = Arc::new(SegmentPin { segment: number, salt: segment.salt, file });
        segment.pin = Arc::downgrade(&pin);
        Some(pin)
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping
    }
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

const _: () = assert!(BODY_INLINE_BYTES_MAX + batch::HEADER_BYTES < BATCH_BYTES_MAX);
