//! Makes the channels between all roles, and lays the roles on executors.

use std::io;
use std::path::Path;

use crossbeam_channel as channel;

use super::{CHANNEL_ROOM, Orders, StartError, placement, system};
use crate::config::Config;
use crate::control::resolver::ResolverHandle;
use crate::delivery::job::Payload;
use crate::delivery::peer::Peer;
use crate::exchange::{CONTROL_ROOM, ToShard, ToWorker};
use crate::id::{PartId, ShardIndex, WorkerIndex};
use crate::inbound::accept::Loads;
use crate::inbound::listener::{Handed, ListenerIndex};
use crate::net::doorbell::{self, RemoteSender, Ringer};
use crate::net::executor;
use crate::net::listener::Bound;
use crate::routing::RouteAnswer;
use crate::shard::open::PartPlan;
use crate::spool::layout;
use crate::users::question::Answer;
use crate::{shard, worker};

/// Orders of control, and connections handed over, that may wait for a role.
const ORDERS_ROOM: usize = 256;

/// Everything that is handed to the executors, and what control keeps.
pub struct Made<P> {
    /// One for each executor.
    pub seats: Vec<Seat<P>>,
    /// Control's way to every role.
    pub orders: Orders,
    /// The way of answers to logins to every shard.
    pub logins: Vec<RemoteSender<(u64, Answer)>>,
}

/// The resolver's way to every shard.
pub struct AnswerTo(Vec<RemoteSender<(Box<str>, RouteAnswer)>>);

impl AnswerTo {
    /// Tells `shard` where the mail of `domain` goes. Never waits.
    pub fn tell(&self, shard: ShardIndex, domain: Box<str>, answer: RouteAnswer) {
        // Fails only when the shard has ended.
        let _ = self.0[usize::from(shard.0)].send((domain, answer));
    }
}

/// Which of `parts` each of `shards` shards hosts, its active one first: at least one for each. Those beyond the shards
/// are drained by them, in turn.
pub fn plan_parts(parts: &[PartId], shards: u16) -> Vec<Vec<PartPlan>> {
    assert!(parts.len() >= usize::from(shards), "each shard has a part of its own");
    let mut plans = vec![Vec::new(); usize::from(shards)];
    for (nth, id) in parts.iter().enumerate() {
        plans[nth % usize::from(shards)].push(PartPlan { id: *id, dir: layout::part_dir(*id) });
    }
    plans
}

/// What one executor is given.
pub struct Seat<P> {
    /// Of its thread.
    pub name: String,
    /// The CPU it is pinned to.
    pub cpu: Option<usize>,
    pub(super) shard: Option<ShardSeat<P>>,
    pub(super) worker: Option<WorkerSeat<P>>,
}

/// A shard's ends of its channels, its listeners and its parts.
pub struct ShardSeat<P> {
    pub(super) index: ShardIndex,
    pub(super) bell: Ringer,
    pub(super) from_workers: Vec<Option<channel::Receiver<ToShard>>>,
    pub(super) to_workers: Vec<Option<RemoteSender<ToWorker<Payload<P>>>>>,
    pub(super) answers: channel::Receiver<(Box<str>, RouteAnswer)>,
    pub(super) orders: channel::Receiver<shard::Order>,
    pub(super) logins: channel::Receiver<(u64, Answer)>,
    pub(super) handed: channel::Receiver<Handed>,
    pub(super) hand_to: Vec<RemoteSender<Handed>>,
    pub(super) loads: Loads,
    pub(super) resolver: ResolverHandle,
    /// Not every listener need have one.
    pub(super) listeners: Vec<(ListenerIndex, Bound)>,
    pub(super) parts: Vec<PartPlan>,
}

/// A worker's ends of its channels.
pub struct WorkerSeat<P> {
    pub(super) index: WorkerIndex,
    pub(super) bell: Ringer,
    pub(super) from_shards: Vec<Option<channel::Receiver<ToWorker<Payload<P>>>>>,
    pub(super) to_shards: Vec<Option<RemoteSender<ToShard>>>,
    pub(super) from_peers: Vec<channel::Receiver<Peer>>,
    pub(super) to_peers: Vec<RemoteSender<Peer>>,
    pub(super) orders: channel::Receiver<worker::Order>,
}

/// Makes every channel and gives each role its ends.
pub fn make<P>(
    config: &Config,
    shared: bool,
    sockets: Vec<Vec<(ListenerIndex, Bound)>>,
    plans: Vec<Vec<PartPlan>>,
    start_resolver: impl FnOnce(AnswerTo) -> io::Result<ResolverHandle>,
) -> Result<Made<P>, StartError> {
    let bells = |count: u16| {
        let made: io::Result<Vec<_>> = (0..count).map(|_| Ringer::new()).collect();
        made.map_err(system("cannot make an eventfd"))
    };
    let shard_bells = bells(config.threads.shards)?;
    let worker_bells = bells(config.threads.workers)?;
    // Without a bound, since a lost answer would not be asked for again; bounded by what shards ask, who look at it.
    let (answer_to, answers): (Vec<_>, Vec<_>) = shard_bells.iter().map(doorbell::remote_unbounded).unzip();
    let resolver = start_resolver(AnswerTo(answer_to)).map_err(system("cannot start the DNS thread"))?;
    let (shard_orders, shard_inboxes) = inboxes(ORDERS_ROOM, &shard_bells);
    let (worker_orders, worker_inboxes) = inboxes(ORDERS_ROOM, &worker_bells);
    let (hand_to, handed) = inboxes(ORDERS_ROOM, &shard_bells);
    // Without a bound; the questions have one.
    let (logins, login_answers): (Vec<_>, Vec<_>) =
        shard_bells.iter().map(doorbell::remote_unbounded).unzip();
    let loads = Loads::new(config.threads.shards, config.threads.steer);

    let mut shards = Vec::new();
    let parts = shard_inboxes.into_iter().zip(answers).zip(handed).zip(sockets).zip(plans).zip(login_answers);
    for (bell, (((((orders, answers), handed), listeners), parts), logins)) in shard_bells.iter().zip(parts) {
        shards.push(ShardSeat {
            index: ShardIndex(shards.len() as u16),
            bell: bell.clone(),
            from_workers: Vec::new(),
            to_workers: Vec::new(),
            answers,
            orders,
            logins,
            handed,
            hand_to: hand_to.clone(),
            loads: loads.clone(),
            resolver: resolver.clone(),
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
    Ok(Made { seats: lay(config, shared, shards, workers), orders, logins })
}

/// A channel into each role.
fn inboxes<T>(room: usize, bells: &[Ringer]) -> (Vec<RemoteSender<T>>, Vec<channel::Receiver<T>>) {
    bells.iter().map(|bell| doorbell::remote(room, bell)).unzip()
}

/// Joins every shard with every worker, and the workers with each other.
fn connect<P>(shards: &mut [ShardSeat<P>], workers: &mut [WorkerSeat<P>], shared: bool) {
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
    if !config.threads.pin {
        return Vec::new();
    }
    placement::order(&placement::look(Path::new("/sys/devices/system"), &executor::online_cpus()))
}

/// Lays the roles on executors.
fn lay<P>(
    config: &Config,
    shared: bool,
    shards: Vec<ShardSeat<P>>,
    workers: Vec<WorkerSeat<P>>,
) -> Vec<Seat<P>> {
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
