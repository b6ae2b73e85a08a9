//! What the threads share: the books and the tallies. Each thread collects a turn's events and applies them under one
//! short lock, so nothing is locked per message.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Micros;
use crate::ledger::Books;
use crate::measure::phase::{Latency, Phases, latency};
use crate::measure::timeline::Timeline;
use crate::source::host::Stage;

/// What a source counts.
pub struct SourceTally {
    /// Messages answered 2xx at the end of data.
    pub accepted: u64,
    /// Messages answered 4xx or 5xx, at any stage, for all recipients.
    pub refused: u64,
    /// Messages whose connection was lost after their end of data.
    pub unknown: u64,
    /// Messages whose connection was lost before their end of data.
    pub aborted: u64,
    /// Transactions begun and not ended.
    pub in_flight: u64,
    /// Connections that came to be.
    pub connections: u64,
    /// Connects that failed.
    pub connects_failed: u64,
    /// Why the last of them failed.
    pub connect_error: Option<String>,
    /// Connections lost, timed out or closed by the peer without a reply to QUIT.
    pub connections_lost: u64,
    /// TLS handshakes: full, and of continued sessions.
    pub handshakes: (u64, u64),
    /// Latencies by phase.
    pub phases: Phases,
    /// Intended time, to MAIL queued: the generator's and the window's lateness. Only filled in open loop.
    pub lateness: Latency,
    /// The generator's part of it: a connection was free and the message due, to MAIL queued.
    pub own_lateness: Latency,
    /// Messages that became due while no connection was free.
    pub waited_for_connection: u64,
    /// Replies by stage and code, with the first text of each from 400 on.
    pub replies: BTreeMap<(Stage, u16), (u64, String)>,
    /// First end of data and last accepting reply.
    pub first_and_last: Option<(Micros, Micros)>,
}

impl Default for SourceTally {
    fn default() -> Self {
        Self {
            accepted: 0,
            refused: 0,
            unknown: 0,
            aborted: 0,
            in_flight: 0,
            connections: 0,
            connects_failed: 0,
            connect_error: None,
            connections_lost: 0,
            handshakes: (0, 0),
            phases: Phases::default(),
            lateness: latency(),
            own_lateness: latency(),
            waited_for_connection: 0,
            replies: BTreeMap::new(),
            first_and_last: None,
        }
    }
}

/// What a sink counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SinkCounts {
    /// Connections accepted.
    pub connections: u64,
    /// Messages answered 250.
    pub messages: u64,
    /// Recipients of those messages.
    pub recipients: u64,
    /// Bytes of content of those messages.
    pub bytes: u64,
    /// Messages from the null sender, to a sender of ours: bounces.
    pub bounces: u64,
    /// Messages without an id of a source.
    pub foreign: u64,
    /// Messages with an id whose body is not what was sent.
    pub corrupted: u64,
    /// Replies 4xx by the script.
    pub deferred: u64,
    /// Replies 5xx by the script.
    pub rejected: u64,
    /// Connections dropped by the script.
    pub dropped: u64,
    /// Replies 5xx to bad commands.
    pub errors: u64,
}

impl SinkCounts {
    /// Adds another thread's turn.
    pub fn add(&mut self, other: &Self) {
        self.connections += other.connections;
        self.messages += other.messages;
        self.recipients += other.recipients;
        self.bytes += other.bytes;
        self.bounces += other.bounces;
        self.foreign += other.foreign;
        self.corrupted += other.corrupted;
        self.deferred += other.deferred;
        self.rejected += other.rejected;
        self.dropped += other.dropped;
        self.errors += other.errors;
    }
}

/// What a sink measures.
pub struct SinkTally {
    /// Counts.
    pub counts: SinkCounts,
    /// The same for each listener: its address and profile, and its counts.
    pub listeners: Vec<(String, SinkCounts)>,
    /// End of the header being sent by the source, to end of data read by the sink. Same host and boot only.
    pub transit: Latency,
    /// First and last message.
    pub first_and_last: Option<(Micros, Micros)>,
}

impl Default for SinkTally {
    fn default() -> Self {
        Self {
            counts: SinkCounts::default(),
            listeners: Vec::new(),
            transit: latency(),
            first_and_last: None,
        }
    }
}

/// Everything that threads share.
#[derive(Default)]
pub struct Board {
    /// Who was told what, and what arrived.
    pub books: Books,
    /// Second by second.
    pub timeline: Timeline,
    /// The source's counts.
    pub source: SourceTally,
    /// The sink's counts.
    pub sink: SinkTally,
}

/// The board, shared.
#[derive(Clone, Default)]
pub struct SharedBoard(Arc<Mutex<Board>>);

impl SharedBoard {
    /// Locks the board. A thread that panicked leaves counts that are still worth printing.
    pub fn lock(&self) -> MutexGuard<'_, Board> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Widens a span of times to hold `now`.
pub fn widen(span: &mut Option<(Micros, Micros)>, now: Micros) {
    *span = Some(span.map_or((now, now), |(first, last)| (first.min(now), last.max(now))));
}

/// How busy a thread was.
#[derive(Clone, Debug, Default)]
pub struct ThreadUse {
    /// Its name.
    pub name: String,
    /// CPU time, user and system.
    pub cpu: Duration,
    /// Time it was ready to run and had no CPU.
    pub waited: Duration,
    /// Time from its start to its end.
    pub wall: Duration,
}
