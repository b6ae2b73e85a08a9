//! Makes the channels between all roles, and lays the roles on executors.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use crossbeam_channel as channel;

use super::{CHANNEL_ROOM, Orders, StartError, system};
use crate::config::Config;
use crate::control::resolver::{self, ResolverCounters, ResolverHandle};
use crate::delivery::job::Payload;
use crate::delivery::peer::Peer;
use crate::exchange::{CONTROL_ROOM, ToShard, ToWorker};
use crate::id::{ShardIndex, WorkerIndex};
use crate::inbound::accept::Loads;
use crate::net::doorbell::{self, RemoteSender, Ringer};
use crate::net::executor;
use crate::routing::RouteAnswer;
use crate::shard::open::PartPlan;
use crate::spool::layout::{self, Layout};
use crate::{shard, worker};

/// Orders of control, and connections handed over, that may wait for a role.
const ORDERS_ROOM: usize = 256;

/// Everything that is handed to the executors, and what control keeps.
pub(super) struct Made {
    pub seats: Vec<Seat>,
    pub orders: Orders,
    pub resolver: Arc<ResolverCounters>,
}

/// Which parts each of `shards` shards hosts, its active one first. Missing ones are made; those beyond the shards there
/// are now are drained by them, in turn.
pub(super) fn plan_parts(spool: &mut Layout, shards: u16) -> std::io::Result<Vec<Vec<PartPlan>>> {
    let mut parts = spool.parts()?;
    while parts.len() < usize::from(shards) {
        parts.push(spool.create_part()?);
    }
    let mut plans = vec![Vec::new(); usize::from(shards)];
    for (nth, id) in parts.into_iter().enumerate() {
        plans[nth % usize::from(shards)].push(PartPlan { id, dir: layout::part_dir(id) });
    }
    Ok(plans)
}

/// What one executor is given.
pub(super) struct Seat {
    pub name: String,
    pub cpu: Option<usize>,
    pub shard: Option<ShardSeat>,
    pub worker: Option<WorkerSeat>,
}

pub(super) struct ShardSeat {
    pub index: ShardIndex,
    pub bell: Ringer,
    pub from_workers: Vec<Option<channel::Receiver<ToShard>>>,
    pub to_workers: Vec<Option<RemoteSender<ToWorker<Payload>>>>,
    pub answers: channel::Receiver<(Box<str>, RouteAnswer)>,
    pub orders: channel::Receiver<shard::Order>,
    pub handed: channel::Receiver<OwnedFd>,
    pub hand_to: Vec<RemoteSender<OwnedFd>>,
    pub loads: Loads,
    pub resolver: ResolverHandle,
    pub listeners: Vec<OwnedFd>,
    pub parts: Vec<PartPlan>,
}

pub(super) struct WorkerSeat {
    pub index: WorkerIndex,
    pub bell: Ringer,
    pub from_shards: Vec<Option<channel::Receiver<ToWorker<Payload>>>>,
    pub to_shards: Vec<Option<RemoteSender<ToShard>>>,
    pub from_peers: Vec<channel::Receiver<Peer>>,
    pub to_peers: Vec<RemoteSender<Peer>>,
    pub orders: channel::Receiver<worker::Order>,
}

/// Makes every channel and gives each role its ends.
pub(super) fn make(
    config: &Arc<Config>,
    shared: bool,
    sockets: Vec<Vec<OwnedFd>>,
    plans: Vec<Vec<PartPlan>>,
) -> Result<Made, StartError> {
    let bells = |count: u16| {
        let made: std::io::Result<Vec<_>> = (0..count).map(|_| Ringer::new()).collect();
        made.map_err(system("cannot make an eventfd"))
    };
    let shard_bells = bells(config.threads.shards)?;
    let worker_bells = bells(config.threads.workers)?;
    // Without a bound, since a lost answer would not be asked for again; bounded by what shards ask, who look at it.
    let (answer_to, answers): (Vec<_>, Vec<_>) = shard_bells.iter().map(doorbell::remote_unbounded).unzip();
    let resolver = resolver::start(config, move |shard, domain, answer| {
        // Fails only when the shard has ended.
        let _ = answer_to[usize::from(shard.0)].send((domain, answer));
    })
    .map_err(system("cannot start the DNS thread"))?;
    let (shard_orders, shard_inboxes) = inboxes(ORDERS_ROOM, &shard_bells);
    let (worker_orders, worker_inboxes) = inboxes(ORDERS_ROOM, &worker_bells);
    let (hand_to, handed) = inboxes(ORDERS_ROOM, &shard_bells);
    let loads = Loads::new(config.threads.shards, config.threads.steer);

    let mut shards = Vec::new();
    let parts = shard_inboxes.into_iter().zip(answers).zip(handed).zip(sockets).zip(plans);
    for (bell, ((((orders, answers), handed), listeners), parts)) in shard_bells.iter().zip(parts) {
        shards.push(ShardSeat {
            index: ShardIndex(shards.len() as u16),
            bell: bell.clone(),
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
    let mut workers = Vec::new();
    for (bell, orders) in worker_bells.iter().zip(worker_inboxes) {
        workers.push(WorkerSeat {
            index: WorkerIndex(workers.len() as u16),
            bell: bell.clone(),
            from_shards: Vec::new(),
            to_shards: Vec::new(),
            from_peers: Vec::new(),
            to_peers: Vec::new(),
            orders,
        });
    }
    connect(&mut shards, &mut workers, shared);
    let orders = Orders { shards: shard_orders, workers: worker_orders };
    Ok(Made { seats: lay(config, shared, shards, workers), orders, resolver: resolver.counters })
}

/// A channel into each role.
fn inboxes<T>(room: usize, bells: &[Ringer]) -> (Vec<RemoteSender<T>>, Vec<channel::Receiver<T>>) {
    bells.iter().map(|bell| doorbell::remote(room, bell)).unzip()
}

/// Joins every shard with every worker, and the workers with each other.
fn connect(shards: &mut [ShardSeat], workers: &mut [WorkerSeat], shared: bool) {
    for shard in shards {
        for worker in &mut *workers {
            if shared && shard.index.0 == worker.index.0 {
                // A gap: these two ends are made on their executor.
                shard.to_workers.push(None);
                shard.from_workers.push(None);
                worker.from_shards.push(None);
                worker.to_shards.push(None);
                continue;
            }
            let (to_worker, from_shard) = doorbell::remote(CHANNEL_ROOM, &worker.bell);
            let (to_shard, from_worker) = doorbell::remote(CHANNEL_ROOM, &shard.bell);
            shard.to_workers.push(Some(to_worker));
            shard.from_workers.push(Some(from_worker));
            worker.from_shards.push(Some(from_shard));
            worker.to_shards.push(Some(to_shard));
        }
    }
    for from in 0..workers.len() {
        for to in 0..workers.len() {
            let (sender, receiver) = doorbell::remote(CONTROL_ROOM, &workers[to].bell);
            workers[from].to_peers.push(sender);
            workers[to].from_peers.push(receiver);
        }
    }
}

/// The CPU of each executor, as far as there are CPUs; shards come first with either wiring. Empty without `threads.pin`.
pub(super) fn pinned_cpus(config: &Config) -> Vec<usize> {
    if config.threads.pin { executor::online_cpus() } else { Vec::new() }
}

/// Lays the roles on executors.
fn lay(config: &Config, shared: bool, shards: Vec<ShardSeat>, workers: Vec<WorkerSeat>) -> Vec<Seat> {
    let cpus = pinned_cpus(config);
    let cpu = |nth: usize| cpus.get(nth).copied();
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
