//! The shard: everything about accepting and keeping. It owns its listeners, its sessions, the logs of its parts and the
//! queue, and wires them to the workers.
//!
//! Its tasks: one for each accept loop and each session, the tasks of the logs, one for each report being made, and the
//! *keeper* (here), which takes in what workers, control and timers bring, turns it into records and sends jobs. All of
//! them run on one executor and change the state in cells that are never borrowed across an await.
//!
//! * [`open`] recovers the parts.
//! * `settle` turns reports, expiry and refused domains into records.
//! * `dispatch` turns ready legs and credits into jobs.
//! * `notify` makes bounces and other reports to senders; `reports` says what of. PURE.
//! * `damage` tells of messages that cannot be read back, and fails them.
//! * `resident` keeps fresh messages in memory. PURE.

mod accept;
mod damage;
mod dispatch;
mod gauges;
mod notify;
pub mod open;
mod reports;
mod resident;
mod settle;

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::hash::HashState;
use crossbeam_channel as channel;

use crate::clock::Moment;
use crate::control::resolver::ResolverHandle;
use crate::delivery::job::Payload;
use crate::envelope::verp::Verp;
use crate::event::EventSender;
use crate::exchange::ledger::Ledger;
use crate::exchange::{ToShard, ToWorker};
use crate::id::{Location, MessageId, PartId, PathId, ShardIndex};
use crate::inbound::accept::Loads;
use crate::inbound::listener::{Handed, Listeners};
use crate::inbound::session::Inbound;
use crate::message::Message;
use crate::metrics::paths::PathAnswer;
use crate::metrics::{RoleSnapshot, ShardMetrics};
use crate::net;
use crate::net::doorbell::{Inbox, Receiver, RemoteSender, Sender};
use crate::net::event::WaitList;
use crate::net::listener::Bound;
use crate::outcome::{Outcome, Reply};
use crate::queue::{Change, Queue};
use crate::routing::RouteAnswer;
use crate::spool::Log;
use crate::spool::storage::Storage;
use crate::users::question::Answer;
use resident::Resident;

/// Entries of the queue that one round moves, messages of a channel that it takes, and jobs that it sends. At about a
/// microsecond each a round stays well below the 10 ms that a task's turn may take.
const ROUND: usize = 512;
/// Pause before outcomes are written again that found the disk full.
const FULL_PAUSE: Duration = Duration::from_millis(200);
/// Reports being made at once: each may read a message from disk.
const BOUNCES_MAX: usize = 8;

/// What control tells a shard.
#[derive(Debug)]
pub enum Order {
    /// Answer with the counters.
    Snapshot(channel::Sender<RoleSnapshot>),
    /// Answer with what waits for the paths of this name.
    Paths(Arc<str>, channel::Sender<Vec<PathAnswer>>),
    /// Stop: no new connections, transactions or jobs.
    Stop,
    /// The time for stopping is over: tell clients so, whatever they are at.
    Hurry,
    /// And now end what is still open.
    Shut,
    /// New sessions have other policies.
    Reload(Reload),
}

/// Makes the policies of all listeners, on the shard that will use them.
pub struct Reload(pub Box<dyn FnOnce() -> Listeners + Send>);

impl std::fmt::Debug for Reload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reload")
    }
}

/// Channels of a shard.
pub struct Wiring<P> {
    /// Its place.
    pub index: ShardIndex,
    /// Where the keeper waits.
    pub inbox: Inbox,
    /// From each worker.
    pub from_workers: Vec<Receiver<ToShard>>,
    /// To each worker.
    pub to_workers: Vec<Sender<ToWorker<Payload<P>>>>,
    /// Takes the numbers of parts that are not active and hold nothing any more, at the stop.
    pub drained: std::sync::mpsc::Sender<PartId>,
    /// Answers of the resolver.
    pub answers: channel::Receiver<(Box<str>, RouteAnswer)>,
    /// Orders.
    pub orders: channel::Receiver<Order>,
    /// Answers to logins.
    pub logins: channel::Receiver<(u64, Answer)>,
    /// Connections accepted by other shards.
    pub handed: channel::Receiver<Handed>,
    /// To hand connections to each shard.
    pub hand_to: Vec<RemoteSender<Handed>>,
    /// Connections of all shards.
    pub loads: Loads,
    /// Asks where domains go.
    pub resolver: ResolverHandle,
    /// Log lines.
    pub events: EventSender,
}

/// Settings of a shard.
#[derive(Clone, Debug)]
pub struct Options {
    /// Our name in notifications.
    pub hostname: String,
    /// Mail whose reports go to an address for each recipient.
    pub verp: Verp,
    /// Age at which a notification is given up.
    pub expire_after: Duration,
    /// Budget of messages kept in memory, bytes.
    pub resident_bytes_max: usize,
}

/// A part that this shard hosts.
pub struct Part<S: Storage> {
    /// Its number.
    pub id: PartId,
    /// Its log.
    pub log: Log<S>,
}

/// A shard's state, shared by its tasks.
pub struct Shard<S: Storage> {
    wiring: Wiring<S::Pin>,
    options: Options,
    queue: RefCell<Queue>,
    ledger: RefCell<Ledger>,
    /// The active part first; the others are only drained.
    parts: Vec<Part<S>>,
    resident: RefCell<Resident>,
    /// Why paths rest, for the words of a bounce.
    path_errors: RefCell<HashMap<PathId, Reply, HashState>>,
    /// Messages that are known to be damaged on disk, until they are settled.
    damaged: RefCell<HashSet<MessageId, HashState>>,
    /// Outcomes that found the disk full; their legs are in flight until they are written.
    unwritten: RefCell<VecDeque<Outcome>>,
    metrics: Rc<ShardMetrics>,
    stopping: Cell<bool>,
    /// Accept loops, which wait for connections or this.
    stopped: WaitList,
    bounces: Cell<usize>,
    accepting: Cell<usize>,
    listeners: RefCell<Vec<Bound>>,
}

impl<S: Storage> Shard<S> {
    /// A shard whose parts have been recovered into `queue`.
    pub fn new(
        wiring: Wiring<S::Pin>,
        options: Options,
        queue: Queue,
        ledger: Ledger,
        parts: Vec<Part<S>>,
        metrics: Rc<ShardMetrics>,
    ) -> Rc<Self> {
        assert!(!parts.is_empty(), "a shard has an active part");
        Rc::new(Self {
            resident: RefCell::new(Resident::new(options.resident_bytes_max)),
            wiring,
            options,
            queue: RefCell::new(queue),
            ledger: RefCell::new(ledger),
            parts,
            path_errors: RefCell::default(),
            damaged: RefCell::default(),
            unwritten: RefCell::default(),
            metrics,
            stopping: Cell::new(false),
            stopped: WaitList::default(),
            bounces: Cell::new(0),
            accepting: Cell::new(0),
            listeners: RefCell::default(),
        })
    }

    /// Its place.
    pub fn index(&self) -> ShardIndex {
        self.wiring.index
    }

    /// The log that takes new mail.
    pub fn active_log(&self) -> &Log<S> {
        &self.parts[0].log
    }

    fn log_of(&self, id: MessageId) -> &Log<S> {
        let part = self.parts.iter().find(|part| part.id == id.part());
        &part.expect("a message in the queue is in a part of this shard").log
    }

    /// A message is settled for everybody; its newest record was at `location`.
    fn settled(&self, id: MessageId, location: Location) {
        self.log_of(id).settled(id, location);
        self.resident.borrow_mut().remove(id);
        self.damaged.borrow_mut().remove(&id);
    }

    /// A message has become durable: into the queue, and into memory for a quick delivery.
    pub fn accepted(&self, message: Arc<Message>, location: Location, size: u64) {
        let change = Change::Accepted {
            id: message.id,
            envelope: &message.envelope,
            location,
            body_bytes: u32::try_from(size).unwrap_or(u32::MAX),
            states: &[],
        };
        let applied = self.queue.borrow_mut().apply(change, net::now());
        debug_assert!(applied.settled.is_none(), "a fresh message has open recipients");
        // A body that went out in chunks is not whole here.
        if size == message.body.len() as u64 {
            self.resident.borrow_mut().insert(message, net::now().mono);
        }
        self.wiring.inbox.event().notify();
    }

    /// The keeper: runs until the shard has stopped.
    pub async fn keep(self: Rc<Self>, inbound: Rc<Inbound<S>>) {
        loop {
            let worked = self.take_reports().await
                | self.take_answers().await
                | self.take_orders(&inbound)
                | self.take_handed(&inbound)
                | self.take_logins(&inbound);
            let now = net::now();
            let more = self.queue.borrow_mut().advance(now, ROUND);
            let stale = self.resident.borrow_mut().expire(now.mono);
            self.write_again().await;
            let expired = self.record_expired().await;
            self.make_bounces();
            let asking = self.ask_routes();
            let sent = self.dispatch().await;
            if self.is_done(&inbound) {
                break;
            }
            if worked || more || expired || asking || sent {
                net::yield_now().await;
            } else {
                let limit = self.next_wake(now.mono, stale);
                self.wiring.inbox.wait(limit, || self.is_inbox_empty()).await;
            }
        }
        for (nth, part) in self.parts.iter().enumerate() {
            part.log.close().await;
            if nth > 0 && part.log.stats().live_bytes == 0 && part.log.fence().reason().is_none() {
                let _ = self.wiring.drained.send(part.id);
            }
        }
    }

    fn is_done(&self, inbound: &Inbound<S>) -> bool {
        self.stopping.get()
            && inbound.sessions.is_empty()
            && self.accepting.get() == 0
            && self.bounces.get() == 0
            && self.ledger.borrow().jobs_out() == 0
    }

    fn is_inbox_empty(&self) -> bool {
        self.wiring.from_workers.iter().all(Receiver::is_empty)
            && self.wiring.answers.is_empty()
            && self.wiring.orders.is_empty()
            && self.wiring.handed.is_empty()
            && self.wiring.logins.is_empty()
    }

    fn next_wake(&self, now: Moment, stale: Option<Moment>) -> Option<Duration> {
        let next = [self.queue.borrow().next_wake(), stale].into_iter().flatten().min();
        // A wheel's tick may lie a little ahead of its entries: never spin on it.
        let next = next.map(|at| at.since(now).max(Duration::from_millis(1)));
        let again = (!self.unwritten.borrow().is_empty()).then_some(FULL_PAUSE);
        next.into_iter().chain(again).min()
    }

    fn take_logins(&self, inbound: &Inbound<S>) -> bool {
        let mut worked = false;
        for (ticket, answer) in self.wiring.logins.try_iter() {
            worked = true;
            inbound.logins.answer(ticket, answer);
        }
        worked
    }

    fn take_orders(self: &Rc<Self>, inbound: &Rc<Inbound<S>>) -> bool {
        let mut worked = false;
        while let Ok(order) = self.wiring.orders.try_recv() {
            worked = true;
            match order {
                Order::Snapshot(answer) => {
                    self.update_gauges(inbound);
                    let _ = answer.try_send(self.metrics.role_snapshot(self.wiring.index));
                }
                Order::Paths(name, answer) => {
                    let _ = answer.try_send(self.describe(&name));
                }
                Order::Stop => self.stop(inbound),
                Order::Hurry => inbound.sessions.hurry(),
                Order::Shut => inbound.sessions.shut(),
                Order::Reload(reload) => drop(inbound.listeners.replace((reload.0)())),
            }
        }
        worked
    }

    fn stop(&self, inbound: &Inbound<S>) {
        self.stopping.set(true);
        for listener in self.listeners.borrow().iter() {
            listener.shut();
        }
        self.stopped.wake_all();
        inbound.sessions.stop();
    }
}
