//! The whole relay: makes the channels, starts executors and control, and stops them again. `main` and the tests use it.
//!
//! Shard and worker are roles, not threads. *Shared* wiring puts shard i and worker i on one executor, so that a message
//! crosses no thread on its way; *split* gives each role its own. Which one is the default is said, with its figures,
//! in ARCHITECTURE.md.

pub mod door;
pub mod placement;
pub mod roles;
mod rules;
pub mod seats;
mod sockets;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel as channel;

use crate::config::{Config, Wiring as WiringChoice};
use crate::control::admin::Roles;
use crate::control::auth;
use crate::control::log::LogThread;
use crate::control::resolver::{self, ResolverCounters};
use crate::delivery::keys::{Keys, KeysError};
use crate::exchange::ledger::WindowLimits;
use crate::exchange::{CONTROL_ROOM, WINDOW_JOBS};
use crate::id::{PartId, ShardIndex};
use crate::metrics::RoleSnapshot;
use crate::metrics::paths::PathAnswer;
use crate::net::doorbell::RemoteSender;
use crate::net::executor::{self, HostError};
use crate::net::tls::TlsError;
use crate::shard;
use crate::spool::layout::Layout;
use crate::spool::storage::Storage;
use crate::spool::storage::disk::Disk;
use crate::spool::{Fence, SpoolError};

use crate::users::failures::FailureLimits;
use crate::users::question::{self, Answer, Asker};
use crate::worker;
use door::DoorKeeper;
use roles::Common;

/// Jobs and bytes that one shard may have at one worker: thousands in flight over a fast path, little memory.
const WINDOW: WindowLimits = WindowLimits { jobs: WINDOW_JOBS, bytes: 64 << 20 };
/// Room of a channel between a shard and a worker: a whole window, so that nobody waits to send.
const CHANNEL_ROOM: usize = WINDOW.jobs as usize + CONTROL_ROOM;
/// Time for a stop: after it, clients are told 421 in the middle of their message, and remotes are left.
pub const STOP_LIMIT: Duration = Duration::from_secs(7);
/// Time for that; then what is still open is shut, and after as much again the process ends as it is.
pub const HURRY_LIMIT: Duration = Duration::from_secs(1);

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
    /// Sockets that were passed cannot be used.
    #[error("{0}")]
    Passed(String),
    /// TLS could not be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// What outbound connections show could not be read.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// The users file is wrong.
    #[error("{}", .0.join("\n"))]
    Users(Vec<String>),
    /// The spool could not be opened.
    #[error(transparent)]
    Spool(#[from] SpoolError),
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
    door_keeper: DoorKeeper,
    config: Arc<Config>,
    queued: u64,
    executors: Vec<JoinHandle<()>>,
    orders: Orders,
    resolver: Arc<ResolverCounters>,
    fence: Fence,
    log: Option<LogThread>,
    /// Parts of earlier, larger shard counts that hold nothing any more.
    drained: mpsc::Receiver<PartId>,
    /// Held until the end: another process must not open the spool.
    spool: Layout,
}

/// Control's way to every role.
#[derive(Clone)]
pub struct Orders {
    shards: Vec<RemoteSender<shard::Order>>,
    workers: Vec<RemoteSender<worker::Order>>,
}

impl Orders {
    /// No new mail and no new transactions; what is under way gets its time.
    pub fn stop(&self) {
        self.tell_all(|| shard::Order::Stop, || worker::Order::Stop);
    }

    /// That time is over: clients are told 421 in the middle of their message, and remotes are left.
    pub fn hurry(&self) {
        self.tell_all(|| shard::Order::Hurry, || worker::Order::Hurry);
    }

    /// And what is still open is shut.
    pub fn shut(&self) {
        self.tell_all(|| shard::Order::Shut, || worker::Order::Hurry);
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

/// Checks that the host lets a relay of `config` run, before anything is touched.
///
/// # Errors
/// With what to change.
pub fn check_host(config: &Config) -> Result<(), HostError> {
    executor::check_host(usize::from(executors(config)))
}

impl Relay {
    /// Starts everything, and returns when every part has been recovered and mail is taken.
    ///
    /// # Errors
    /// With the first thing that stands in the way. Nothing has been changed on disk by then, unless the spool had been
    /// opened.
    pub fn start(config: Arc<Config>) -> Result<Self, StartError> {
        let shared = is_shared(&config);
        let mut door_keeper = DoorKeeper::new(config.clone())?;
        let keys = Keys::read(&config.sites)?;
        let (sockets, listening) = sockets::bind_all(&config)?;
        make_directory(&config.spool.directory)?;
        let mut spool = Layout::open(&config.spool.directory)?;
        let door = door_keeper.complete()?;
        let log = LogThread::start(&config.log).map_err(system("cannot start the log thread"))?;
        let parts = parts_for(&mut spool, config.threads.shards)
            .map_err(system("cannot make a part of the spool"))?;
        let plans = seats::plan_parts(&parts, config.threads.shards);
        let mut resolver = Arc::default();
        let made = seats::make(&config, shared, sockets, plans, |answer_to| {
            let answer = move |shard, domain, answer| answer_to.tell(shard, domain, answer);
            let started = resolver::start(&config, answer)?;
            resolver = started.counters;
            Ok(started.handle)
        })?;
        let asker = start_auth(&config, made.logins)?;
        let (recovered, recoveries) = mpsc::channel();
        let (drain, drained) = mpsc::channel();
        let fence = Fence::default();
        let shards = Arc::new(AtomicU32::new(u32::from(config.threads.shards)));
        let reload_config = config.clone();
        let common = Common {
            clients: roles::clients(&config),
            config,
            events: log.sender(),
            fence: fence.clone(),
            door,
            keys,
            asker,
            drained: drain,
            recovered,
            shards,
        };
        let executors = start_executors(made.seats, common)?;
        let relay = Self {
            listening,
            door_keeper,
            config: reload_config,
            queued: 0,
            executors,
            orders: made.orders,
            resolver,
            fence,
            log: Some(log),
            drained,
            spool,
        };
        relay.await_recovery(&recoveries)
    }

    /// Each shard says how many messages it has found, or why it cannot start.
    fn await_recovery(
        mut self,
        recoveries: &mpsc::Receiver<Result<u64, String>>,
    ) -> Result<Self, StartError> {
        match recoveries.iter().take(self.orders.shards.len()).sum() {
            Ok(queued) => {
                self.queued = queued;
                Ok(self)
            }
            Err(error) => {
                self.stop();
                Err(StartError::Recovery(error))
            }
        }
    }

    /// Where mail is taken; ports are real ones even where 0 was asked for.
    pub fn listening(&self) -> &[SocketAddr] {
        &self.listening
    }

    /// What to say of the certificate, if the relay had to make one.
    pub fn made_certificate(&self) -> Option<&str> {
        self.door_keeper.made()
    }

    /// Reads certificates and users again. Sessions that are open keep what they began with.
    ///
    /// # Errors
    /// With what is wrong; what was read before stays.
    pub fn reload(&self) -> Result<(), StartError> {
        let door = self.door_keeper.read()?;
        for shard in &self.orders.shards {
            let (door, config) = (door.clone(), self.config.clone());
            let make = Box::new(move || door.listeners(&config));
            let _ = shard.send(shard::Order::Reload(shard::Reload(make)));
        }
        Ok(())
    }

    /// Messages that recovery found waiting.
    pub fn queued(&self) -> u64 {
        self.queued
    }

    /// The way to every role.
    pub fn orders(&self) -> Orders {
        self.orders.clone()
    }

    /// Counters of the resolver.
    pub fn resolver(&self) -> Arc<ResolverCounters> {
        self.resolver.clone()
    }

    /// The fence of the spool's file system.
    pub fn fence(&self) -> Fence {
        self.fence.clone()
    }

    /// Whether all executors still run.
    pub fn is_alive(&self) -> bool {
        self.executors.iter().all(|executor| !executor.is_finished())
    }

    /// Stops: no new mail, transactions under way get their time, everything is durable at the end. Says whether every
    /// executor came to its end; one that did not leaves its part for recovery.
    pub fn stop(mut self) -> bool {
        self.orders.stop();
        let began = Instant::now();
        let mut steps = [STOP_LIMIT, STOP_LIMIT + HURRY_LIMIT].into_iter().enumerate().peekable();
        while !self.executors.iter().all(JoinHandle::is_finished) {
            let waited = began.elapsed();
            match steps.next_if(|(_, limit)| waited >= *limit) {
                Some((0, _)) => {
                    tracing::warn!("peers take their time: ending their transactions");
                    self.orders.hurry();
                }
                Some(_) => self.orders.shut(),
                None => {}
            }
            if waited >= STOP_LIMIT + 2 * HURRY_LIMIT {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let mut clean = true;
        for executor in self.executors.drain(..) {
            clean &= executor.join().is_ok();
        }
        for part in self.drained.try_iter() {
            if let Err(error) = self.spool.remove_part(part) {
                tracing::warn!(part = part.0, %error, "a drained part of the spool could not be removed");
            }
        }
        if let Some(log) = self.log.take() {
            log.stop();
        }
        clean
    }
}

/// Makes the spool's directory if only itself is missing: a wrong path must not grow a tree. Mail is private.
fn make_directory(path: &std::path::Path) -> Result<(), StartError> {
    use std::os::unix::fs::DirBuilderExt;
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            let reason =
                format!("cannot create {}: {error}; choose another place with --spool", path.display());
            Err(SpoolError::Layout(reason).into())
        }
        _ => Ok(()),
    }
}

/// The spool's parts: at least as many as there are shards.
fn parts_for(spool: &mut Layout, shards: u16) -> std::io::Result<Vec<PartId>> {
    let mut parts = spool.parts()?;
    while parts.len() < usize::from(shards) {
        parts.push(spool.create_part()?);
    }
    Ok(parts)
}

async fn open_disk(config: Arc<Config>) -> Result<Disk, String> {
    let directory = &config.spool.directory;
    Disk::open(directory).await.map_err(|error| format!("{}: {error}", directory.display()))
}

/// An executor for each seat; what they share is dropped when the last of them has ended.
fn start_executors(
    seats: Vec<seats::Seat<<Disk as Storage>::Pin>>,
    common: Common,
) -> Result<Vec<JoinHandle<()>>, StartError> {
    let mut executors = Vec::new();
    for seat in seats {
        let (name, cpu, common) = (seat.name.clone(), seat.cpu, common.clone());
        let main = move || {
            let disk = open_disk(common.config.clone());
            roles::run(seat, common, disk)
        };
        executors.push(executor::start(&name, cpu, main)?);
    }
    Ok(executors)
}

/// Starts the thread that checks passwords.
fn start_auth(
    config: &Config,
    logins: Vec<RemoteSender<(u64, Answer)>>,
) -> Result<Option<Asker>, StartError> {
    if config.auth.users_file.as_os_str().is_empty() {
        return Ok(None);
    }
    let (asker, questions) = question::questions();
    let auth = &config.auth;
    let limits = FailureLimits { by_user: auth.failures_by_user, window: auth.failure_window };
    let answer = move |shard: ShardIndex, ticket, answer| {
        // Fails only when the shard has ended.
        let _ = logins[usize::from(shard.0)].send((ticket, answer));
    };
    auth::start(questions, limits, answer).map_err(system("cannot start the auth thread"))?;
    Ok(Some(asker))
}

/// How many executors a completed `config` asks for.
pub fn executors(config: &Config) -> u16 {
    let (shards, workers) = (config.threads.shards, config.threads.workers);
    if is_shared(config) { shards.max(workers) } else { shards + workers }
}

fn is_shared(config: &Config) -> bool {
    // `auto` is shared on every number of roles: ARCHITECTURE.md has the figures.
    config.threads.wiring != WiringChoice::Split
}

impl Roles for Orders {
    fn request_snapshots(&self) -> channel::Receiver<RoleSnapshot> {
        let (answer, answers) = channel::bounded(self.shards.len() + self.workers.len());
        for shard in &self.shards {
            let _ = shard.send(shard::Order::Snapshot(answer.clone()));
        }
        for worker in &self.workers {
            let _ = worker.send(worker::Order::Snapshot(answer.clone()));
        }
        answers
    }

    fn request_paths(&self, name: Arc<str>) -> channel::Receiver<Vec<PathAnswer>> {
        let (answer, answers) = channel::bounded(self.shards.len() + self.workers.len());
        for shard in &self.shards {
            let _ = shard.send(shard::Order::Paths(name.clone(), answer.clone()));
        }
        for worker in &self.workers {
            let _ = worker.send(worker::Order::Paths(name.clone(), answer.clone()));
        }
        answers
    }
}
