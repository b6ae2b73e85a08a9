//! The whole relay: makes the channels, starts executors and control, and stops them again. `main` and the tests use it.
//!
//! Shard and worker are roles, not threads. *Shared* wiring puts shard i and worker i on one executor, so that a message
//! crosses no thread on its way; *split* gives each role its own. Which one is the default is said, with its figures,
//! in ARCHITECTURE.md.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel as channel;

use crate::config::{Config, Wiring as WiringChoice};
use crate::control::log::LogThread;
use crate::control::resolver::{self, ResolverHandle};
use crate::delivery::connection::{ConnectionOptions, Timeouts};
use crate::delivery::job::Payload;
use crate::delivery::pool::{self, Peer, Pool};
use crate::event::{Event, EventSender};
use crate::exchange::ledger::{Ledger, WindowLimits};
use crate::exchange::{ToShard, ToWorker};
use crate::id::{ShardIndex, WorkerIndex};
use crate::inbound::accept::Loads;
use crate::metrics::{RoleSnapshot, WorkerMetrics};
use crate::net::doorbell::{self, Inbox, Receiver, RemoteSender, Ringer, Sender};
use crate::net::executor::{self, HostError};
use crate::net::{self, listener};
use crate::routing::RouteAnswer;
use crate::shard::open::{self, OpenOptions, Recovered};
use crate::shard::{self, Shard};
use crate::spool::layout::{LayoutError, SpoolDirectory};
use crate::worker::{self, Worker};

/// Jobs and bytes that one shard may have at one worker: thousands in flight over a fast path, little memory.
const WINDOW: WindowLimits = WindowLimits { jobs: 2048, bytes: 64 << 20 };
/// Room in a channel beyond the window, for demands and grants.
const CONTROL_ROOM: usize = 2048;
/// Answers of the resolver that may wait for a shard.
const ANSWERS_ROOM: usize = 16 * 1024;
/// Time for a stop: after it, what is still open is ended.
const STOP_LIMIT: Duration = Duration::from_secs(7);
/// Shards and workers up to which `auto` puts both roles on one executor.
const SHARED_UP_TO: u16 = 256;

/// Why the relay could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The host will not have it.
    #[error(transparent)]
    Host(#[from] HostError),
    /// An address could not be bound.
    #[error("cannot listen on {address}: {source}; choose another with {flag}, or end what listens there")]
    Bind {
        /// Where.
        address: SocketAddr,
        /// The flag that changes it.
        flag: &'static str,
        /// How it failed.
        source: std::io::Error,
    },
    /// The spool could not be opened.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// A part could not be recovered.
    #[error("spool: {0}")]
    Recovery(String),
    /// Something of the system's.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// How it failed.
        source: std::io::Error,
    },
}

fn system(what: &'static str) -> impl FnOnce(std::io::Error) -> StartError {
    move |source| StartError::System { what, source }
}

/// A running relay.
pub struct Relay {
    listening: Vec<SocketAddr>,
    queued: u64,
    executors: Vec<JoinHandle<()>>,
    orders: Orders,
    log: Option<LogThread>,
    /// Held until the end: another process must not open the spool.
    _spool: SpoolDirectory,
}

/// Control's way to every role.
#[derive(Clone)]
pub struct Orders {
    shards: Vec<RemoteSender<shard::Order>>,
    workers: Vec<RemoteSender<worker::Order>>,
}

impl Orders {
    /// Asks every role for its counters; the answers come through the channel, which closes when all have answered.
    pub fn request_snapshots(&self) -> channel::Receiver<RoleSnapshot> {
        let (answer, answers) = channel::bounded(self.roles());
        for shard in &self.shards {
            let _ = shard.send(shard::Order::Snapshot(answer.clone()));
        }
        for worker in &self.workers {
            let _ = worker.send(worker::Order::Snapshot(answer.clone()));
        }
        answers
    }

    /// How many roles there are.
    pub fn roles(&self) -> usize {
        self.shards.len() + self.workers.len()
    }

    fn tell_all(&self, shard_order: fn() -> shard::Order, worker_order: fn() -> worker::Order) {
        for shard in &self.shards {
            let _ = shard.send(shard_order());
        }
        for worker in &self.workers {
            let _ = worker.send(worker_order());
        }
    }
}

/// What one executor is given.
struct Seat {
    name: String,
    cpu: Option<usize>,
    shard: Option<ShardSeat>,
    worker: Option<WorkerSeat>,
}

struct ShardSeat {
    index: ShardIndex,
    bell: Ringer,
    from_workers: Vec<Option<channel::Receiver<ToShard>>>,
    to_workers: Vec<Option<RemoteSender<ToWorker<Payload>>>>,
    answers: channel::Receiver<(Box<str>, RouteAnswer)>,
    orders: channel::Receiver<shard::Order>,
    handed: channel::Receiver<OwnedFd>,
    hand_to: Vec<RemoteSender<OwnedFd>>,
    loads: Loads,
    resolver: ResolverHandle,
    listeners: Vec<OwnedFd>,
    parts: Vec<open::PartPlan>,
}

struct WorkerSeat {
    index: WorkerIndex,
    bell: Ringer,
    from_shards: Vec<Option<channel::Receiver<ToWorker<Payload>>>>,
    to_shards: Vec<Option<RemoteSender<ToShard>>>,
    from_peers: Vec<channel::Receiver<Peer>>,
    to_peers: Vec<RemoteSender<Peer>>,
    orders: channel::Receiver<worker::Order>,
}

impl Relay {
    /// Starts everything, and returns when every part has been recovered and mail is taken.
    ///
    /// # Errors
    /// With the first thing that stands in the way. Nothing has been changed on disk by then, unless the spool had been
    /// opened.
    pub fn start(config: Arc<Config>) -> Result<Self, StartError> {
        let shared = is_shared(&config);
        let (shards, workers) = (config.threads.shards, config.threads.workers);
        let executors = if shared { shards.max(workers) } else { shards + workers };
        executor::check_host(usize::from(executors))?;
        let (sockets, listening) = bind_all(&config)?;
        let spool = SpoolDirectory::open(&config.spool.directory)?;
        let log = LogThread::start(&config.log).map_err(system("cannot start the log thread"))?;
        let (mut seats, orders) = seats(&config, shared, sockets, &spool)?;
        let (recovered, recoveries) = mpsc::channel();
        let mut threads = Vec::new();
        for seat in seats.drain(..) {
            let (config, recovered, events) = (config.clone(), recovered.clone(), log.sender());
            let (name, cpu) = (seat.name.clone(), seat.cpu);
            threads.push(executor::start(&name, cpu, move || run_seat(seat, config, recovered, events))?);
        }
        drop(recovered);
        let mut relay =
            Self { listening, queued: 0, executors: threads, orders, log: Some(log), _spool: spool };
        for result in recoveries {
            match result {
                Ok(count) => relay.queued += count,
                Err(error) => {
                    relay.stop();
                    return Err(StartError::Recovery(error));
                }
            }
        }
        Ok(relay)
    }

    /// Where mail is taken; ports are real ones even where 0 was asked for.
    pub fn listening(&self) -> &[SocketAddr] {
        &self.listening
    }

    /// Messages that recovery found waiting.
    pub fn queued(&self) -> u64 {
        self.queued
    }

    /// The way to every role.
    pub fn orders(&self) -> Orders {
        self.orders.clone()
    }

    /// Whether all executors still run.
    pub fn is_alive(&self) -> bool {
        self.executors.iter().all(|executor| !executor.is_finished())
    }

    /// Stops: no new mail, transactions under way get their time, everything is durable at the end. Says whether it
    /// went without force.
    pub fn stop(mut self: Self) -> bool {
        self.orders.tell_all(|| shard::Order::Stop, || worker::Order::Stop);
        let deadline = Instant::now() + STOP_LIMIT;
        let mut clean = true;
        let mut hurried = false;
        while !self.executors.iter().all(JoinHandle::is_finished) {
            if !hurried && Instant::now() >= deadline {
                hurried = true;
                clean = false;
                self.orders.tell_all(|| shard::Order::Hurry, || worker::Order::Hurry);
            }
            if Instant::now() >= deadline + STOP_LIMIT / 3 {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        for executor in self.executors.drain(..) {
            clean &= executor.join().is_ok();
        }
        if let Some(log) = self.log.take() {
            log.stop();
        }
        clean
    }
}

fn is_shared(config: &Config) -> bool {
    match config.threads.wiring {
        WiringChoice::Shared => true,
        WiringChoice::Split => false,
        WiringChoice::Auto => config.threads.shards.max(config.threads.workers) <= SHARED_UP_TO,
    }
}

/// One socket for each shard and address. With port 0 the first decides the port for the others.
fn bind_all(config: &Config) -> Result<(Vec<Vec<OwnedFd>>, Vec<SocketAddr>), StartError> {
    let mut by_shard: Vec<Vec<OwnedFd>> = (0..config.threads.shards).map(|_| Vec::new()).collect();
    let mut listening = Vec::new();
    for wanted in &config.smtp.listen {
        let mut address = *wanted;
        for (index, sockets) in by_shard.iter_mut().enumerate() {
            let failed = |source| StartError::Bind { address, flag: "--listen", source };
            // SO_REUSEPORT would let a second relay of the same user listen beside the first, unnoticed.
            if index == 0 && address.port() != 0 {
                listener::check_free(address).map_err(failed)?;
            }
            let socket = listener::bind(address).map_err(failed)?;
            address = listener::local_address(&socket).map_err(failed)?;
            sockets.push(socket);
        }
        listening.push(address);
    }
    Ok((by_shard, listening))
}

/// Makes every channel and gives each executor its ends.
fn seats(
    config: &Arc<Config>,
    shared: bool,
    sockets: Vec<Vec<OwnedFd>>,
    spool: &SpoolDirectory,
) -> Result<(Vec<Seat>, Orders), StartError> {
    let (shards, workers) = (usize::from(config.threads.shards), usize::from(config.threads.workers));
    let bell = || Ringer::new().map_err(system("cannot make an eventfd"));
    let shard_bells: Vec<_> = (0..shards).map(|_| bell()).collect::<Result<_, _>>()?;
    let worker_bells: Vec<_> = (0..workers).map(|_| bell()).collect::<Result<_, _>>()?;
    let capacity = WINDOW.jobs as usize + CONTROL_ROOM;
    let (hand_to, handed): (Vec<_>, Vec<_>) = shard_bells.iter().map(|bell| doorbell::remote(256, bell)).unzip();
    let (answer_to, answers): (Vec<_>, Vec<_>) =
        shard_bells.iter().map(|bell| doorbell::remote(ANSWERS_ROOM, bell)).unzip();
    let (shard_orders, shard_inboxes): (Vec<_>, Vec<_>) =
        shard_bells.iter().map(|bell| doorbell::remote(64, bell)).unzip();
    let (worker_orders, worker_inboxes): (Vec<_>, Vec<_>) =
        worker_bells.iter().map(|bell| doorbell::remote(64, bell)).unzip();
    let resolver = resolver::start(config, move |shard, domain, answer| {
        // A full channel loses the answer; the shard asks again.
        let _ = answer_to[usize::from(shard.0)].send((domain, answer));
    })
    .map_err(system("cannot start the DNS thread"))?;
    let loads = Loads::new(config.threads.shards);
    let parts = spool.plan(config.threads.shards)?;

    let mut shard_seats: Vec<ShardSeat> = Vec::new();
    let rest = handed.into_iter().zip(answers).zip(shard_inboxes).zip(sockets).zip(parts);
    for (index, ((((handed, answers), orders), listeners), parts)) in rest.enumerate() {
        shard_seats.push(ShardSeat {
            index: ShardIndex(index as u16),
            bell: shard_bells[index].clone(),
            from_workers: Vec::new(),
            to_workers: Vec::new(),
            answers,
            orders,
            handed,
            hand_to: hand_to.clone(),
            loads: loads.clone(),
            resolver: resolver.handle.clone(),
            listeners,
            parts,
        });
    }
    let mut worker_seats: Vec<WorkerSeat> = Vec::new();
    for (index, orders) in worker_inboxes.into_iter().enumerate() {
        worker_seats.push(WorkerSeat {
            index: WorkerIndex(index as u16),
            bell: worker_bells[index].clone(),
            from_shards: Vec::new(),
            to_shards: Vec::new(),
            from_peers: Vec::new(),
            to_peers: Vec::new(),
            orders,
        });
    }
    for (s, shard) in shard_seats.iter_mut().enumerate() {
        for (w, worker) in worker_seats.iter_mut().enumerate() {
            if shared && s == w {
                // The two ends are made on their executor.
                shard.to_workers.push(None);
                shard.from_workers.push(None);
                worker.from_shards.push(None);
                worker.to_shards.push(None);
                continue;
            }
            let (to_worker, from_shard) = doorbell::remote(capacity, &worker_bells[w]);
            let (to_shard, from_worker) = doorbell::remote(capacity, &shard_bells[s]);
            shard.to_workers.push(Some(to_worker));
            shard.from_workers.push(Some(from_worker));
            worker.from_shards.push(Some(from_shard));
            worker.to_shards.push(Some(to_shard));
        }
    }
    for from in 0..workers {
        for to in 0..workers {
            let (sender, receiver) = doorbell::remote(CONTROL_ROOM, &worker_bells[to]);
            worker_seats[from].to_peers.push(sender);
            worker_seats[to].from_peers.push(receiver);
        }
    }
    let orders = Orders { shards: shard_orders, workers: worker_orders };
    Ok((seat_all(config, shared, shard_seats, worker_seats), orders))
}

/// Lays the roles on executors.
fn seat_all(config: &Config, shared: bool, shards: Vec<ShardSeat>, workers: Vec<WorkerSeat>) -> Vec<Seat> {
    let cpus = executor::online_cpus();
    let cpu = |nth: usize| (config.threads.pin && nth < cpus.len()).then(|| cpus[nth]);
    let mut seats = Vec::new();
    if shared {
        let (mut shards, mut workers) = (shards.into_iter(), workers.into_iter());
        loop {
            let (shard, worker) = (shards.next(), workers.next());
            if shard.is_none() && worker.is_none() {
                return seats;
            }
            let nth = seats.len();
            seats.push(Seat { name: format!("ring-{nth}"), cpu: cpu(nth), shard, worker });
        }
    }
    for shard in shards {
        let nth = seats.len();
        let name = format!("shard-{}", shard.index.0);
        seats.push(Seat { name, cpu: cpu(nth), shard: Some(shard), worker: None });
    }
    for worker in workers {
        let nth = seats.len();
        let name = format!("worker-{}", worker.index.0);
        seats.push(Seat { name, cpu: cpu(nth), shard: None, worker: Some(worker) });
    }
    seats
}

/// An executor's main future: its roles, to their end.
async fn run_seat(
    seat: Seat,
    config: Arc<Config>,
    recovered: mpsc::Sender<Result<u64, String>>,
    events: channel::Sender<Event>,
) {
    let events = EventSender::new(events);
    let inbox = |bell: &Ringer| Inbox::new(bell.clone());
    let shard_inbox = seat.shard.as_ref().map(|shard| inbox(&shard.bell)).transpose();
    let worker_inbox = seat.worker.as_ref().map(|worker| inbox(&worker.bell)).transpose();
    let (shard_inbox, worker_inbox) = match (shard_inbox, worker_inbox) {
        (Ok(shard), Ok(worker)) => (shard, worker),
        (Err(error), _) | (_, Err(error)) => {
            let _ = recovered.send(Err(format!("cannot wait for an eventfd: {error}")));
            return;
        }
    };
    let mut near = NearChannels::default();
    if let (Some(shard), Some(worker)) = (&shard_inbox, &worker_inbox) {
        near = NearChannels::new(shard, worker);
    }
    let ended = net::event::WaitList::default();
    let running = Rc::new(std::cell::Cell::new(0));
    if let (Some(seat), Some(inbox)) = (seat.worker, worker_inbox) {
        let worker = make_worker(seat, inbox, &mut near, &config, events.clone());
        watch(&running, &ended, worker.run());
    }
    if let (Some(seat), Some(inbox)) = (seat.shard, shard_inbox) {
        let shard = start_shard(seat, inbox, &mut near, &config, events);
        match shard.await {
            Ok((role, waiting)) => {
                watch(&running, &ended, role);
                let _ = recovered.send(Ok(waiting));
            }
            Err(error) => {
                let _ = recovered.send(Err(error));
            }
        }
    }
    drop(recovered);
    ended.until(|| (running.get() == 0).then_some(())).await;
}

/// Runs a role as a task, counted until it ends.
fn watch(
    running: &Rc<std::cell::Cell<u32>>,
    ended: &net::event::WaitList,
    role: impl Future<Output = ()> + 'static,
) {
    running.set(running.get() + 1);
    let (running, ended) = (running.clone(), ended.clone());
    net::spawn(async move {
        role.await;
        running.set(running.get() - 1);
        ended.wake_all();
    });
}

/// Channels between the two roles of one executor.
#[derive(Default)]
struct NearChannels {
    to_worker: Option<Sender<ToWorker<Payload>>>,
    from_shard: Option<Receiver<ToWorker<Payload>>>,
    to_shard: Option<Sender<ToShard>>,
    from_worker: Option<Receiver<ToShard>>,
}

impl NearChannels {
    fn new(shard: &Inbox, worker: &Inbox) -> Self {
        let capacity = WINDOW.jobs as usize + CONTROL_ROOM;
        let (to_worker, from_shard) = doorbell::local(capacity, worker.event());
        let (to_shard, from_worker) = doorbell::local(capacity, shard.event());
        Self {
            to_worker: Some(to_worker),
            from_shard: Some(from_shard),
            to_shard: Some(to_shard),
            from_worker: Some(from_worker),
        }
    }
}

fn senders<T>(remote: Vec<Option<RemoteSender<T>>>, near: &mut Option<Sender<T>>) -> Vec<Sender<T>> {
    let near = |near: &mut Option<Sender<T>>| near.take().expect("one seat has one near channel");
    remote.into_iter().map(|sender| sender.map_or_else(|| near_of(near_ref(near)), Sender::from)).collect()
}
