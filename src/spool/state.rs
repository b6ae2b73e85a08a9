//! PURE. What a log holds between two turns: the filling batch, the head, the ring, and everyone who waits.

use std::collections::{HashMap, HashSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;

use super::commit::LogStats;
use super::error::AppendError;
use super::placing::{Blocked, Placed};
use super::record::{self, Draft, Salt};
use super::ring::{Ring, SegmentPin};
use super::segment::{FooterBuilder, Tail};
use super::storage::{DiskBuffer, Storage};
use crate::clock::Moment;
use crate::id::{Location, MessageId};
use crate::limits::{BATCH_PATIENT_BYTES_MAX, BLOCK_BYTES, BODY_INLINE_BYTES_MAX};

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
pub(super) struct Filling<B> {
    pub buffer: B,
    pub offset: u32,
    pub used: usize,
    /// Those of records that nobody waits for.
    pub patient_bytes: usize,
    pub records: u32,
    pub sequence: u64,
    /// The segment changes with this batch: whose footer is due then.
    pub leaves: Option<Leaving>,
}

/// A full segment whose footer is to be written.
pub(super) struct Leaving {
    pub number: u32,
    pub footer: FooterBuilder,
    pub end: u32,
    pub batch: u64,
}

pub(super) struct State<S: Storage> {
    pub filling: Option<Filling<S::Buffer>>,
    pub head: Head<S>,
    pub ring: Ring<S>,
    pub next_message: u64,
    /// Sequence of the last batch that was started, and of the last that is durable.
    pub started: u64,
    pub durable: u64,
    /// The last durable batch had records: its durability is not on disk yet.
    pub watermark_owed: bool,
    pub watermark_due: bool,
    pub urgent: bool,
    pub lazy: bool,
    pub stopping: bool,
    pub closed: bool,
    pub full: bool,
    pub stuck: bool,
    /// Ticks of the log's clock so far.
    pub ticks: u64,
    pub writing_since: Option<Moment>,
    pub idle_since: Moment,
    pub waiters: Vec<(u64, Waker)>,
    pub room: Vec<Waker>,
    /// Sessions with a piece of a long body, in order.
    pub chunk_room: VecDeque<Waker>,
    pub committer: Option<Waker>,
    pub upkeep: Option<Waker>,
    pub upkeep_due: bool,
    pub upkeep_running: bool,
    pub aborts: Vec<MessageId>,
    /// The last try to append an abort found no place; the next segment ends this.
    pub aborts_blocked: bool,
    /// Where the chunks of long bodies lie: of open transactions and of accepted messages.
    pub chunks: HashMap<MessageId, Vec<Location>, crate::hash::HashState>,
    /// Messages with chunks between their Accepted being placed and their acceptor being told.
    pub accepting: HashSet<MessageId, crate::hash::HashState>,
    pub leaving: Vec<Leaving>,
    /// Outcomes and bounces in the filling batch, and in the one being written.
    pub notes_filling: u64,
    pub notes_writing: u64,
    pub stats: LogStats,
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
            ticks: 0,
            writing_since: None,
            idle_since: now,
            waiters: Vec::new(),
            room: Vec::new(),
            chunk_room: VecDeque::new(),
            committer: None,
            upkeep: None,
            upkeep_due: true,
            upkeep_running: false,
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

    pub(super) fn write_drafts(&mut self, drafts: &[Draft<'_>]) -> Placed {
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

    /// Bytes that the head still has for records and their entries in the footer.
    pub(super) fn head_room(&self) -> u64 {
        let filling = self.filling.as_ref().map_or(0, |filling| filling.used.next_multiple_of(BLOCK_BYTES));
        let used = self.head.cursor as usize + filling + self.head.footer.bytes_with(0) + 2 * BLOCK_BYTES;
        u64::from(self.head.size).saturating_sub(used as u64)
    }

    pub(super) fn accepted(&mut self, location: Location) {
        if let Some(segment) = self.ring.segment(location.segment) {
            segment.live_bytes += u64::from(location.bytes);
            segment.pending += 1;
        }
    }

    /// From here on the queue answers for the message, or nobody does.
    pub(super) fn told(&mut self, id: MessageId, location: Location) {
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

    pub(super) fn no_segment(&mut self) -> Blocked {
        self.wake_upkeep();
        if self.full { Blocked::Failed(AppendError::Full) } else { Blocked::Segment }
    }

    /// The filling batch is wanted at once.
    pub(super) fn urge(&mut self) {
        if !std::mem::replace(&mut self.urgent, true) {
            self.wake_committer();
        }
    }

    /// The filling batch is wanted soon.
    pub(super) fn nudge(&mut self) {
        if !std::mem::replace(&mut self.lazy, true) {
            self.wake_committer();
        }
    }

    /// Asks for a batch even if there is nothing to put into it.
    pub(super) fn want_watermark(&mut self) {
        self.watermark_due = true;
        self.wake_committer();
    }

    pub(super) fn wake_committer(&mut self) {
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
        self.room.drain(..).chain(self.chunk_room.drain(..)).for_each(Waker::wake);
    }

    /// The filling batch has been taken: as many as may find room in the next one. Should one of them have given up, the
    /// clock wakes the others.
    pub(super) fn wake_for_batch(&mut self) {
        self.room.drain(..).for_each(Waker::wake);
        let chunks = self.chunk_room.len().min(BATCH_PATIENT_BYTES_MAX / BODY_INLINE_BYTES_MAX);
        self.chunk_room.drain(..chunks).for_each(Waker::wake);
    }

    pub(super) fn wake_durable(&mut self) {
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
        self.room.drain(..).chain(self.chunk_room.drain(..)).for_each(Waker::wake);
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
