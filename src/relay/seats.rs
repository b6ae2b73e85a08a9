//! Makes the channels between all roles, and lays the roles on executors.

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
    pub parts: Vec<open::PartPlan>,
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

