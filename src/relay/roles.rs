//! An executor's main future: makes its roles from their seats and runs them to their end.

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

