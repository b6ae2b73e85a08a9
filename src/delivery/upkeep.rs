//! What is due for a worker's paths: leases, news, credits, connections, timers.

use std::cell::RefCell;
use std::rc::Rc;

use super::connection;
use super::home::Home;
use super::path::PathState;
use super::peer::Peer;
use super::pool::Pool;
use crate::exchange::{self, Grant, ToShard};
use crate::id::{PathId, ShardIndex, WorkerIndex};
use crate::net;
use crate::spool::storage::Storage;

/// Messages a second from which on a path with a rate is worth more than one worker: below, its lanes would only share the waiting.
const LANES_FROM_RATE: f64 = 100.0;

impl<S: Storage> Pool<S> {
    /// Does for a path what has become due: leases, news, credits, connections.
    pub fn upkeep(self: &Rc<Self>, id: PathId) {
        let Some(path) = self.paths.borrow().get(&id).cloned() else { return };
        self.settle_with_home(id, &path);
        {
            let mut lane = path.lane.borrow_mut();
            if !self.stopping.get() {
                lane.replenish();
            }
            let has_room = |shard: ShardIndex| exchange::has_control_room(self.to_shard(shard).room());
            while let Some((shard, epoch, granted)) = lane.grants().poll_grant(has_room) {
                let grant = Grant { worker: self.wiring.index, path: id, epoch, granted };
                // There was room: it fails only if the shard has ended, who needs no credits.
                let _ = self.to_shard(shard).send(ToShard::Grant(grant));
            }
            while path.home.is_some()
                && let Some((shard, spread)) = lane.grants().poll_spread(has_room)
            {
                let _ = self.to_shard(shard).send(ToShard::Spread(id, spread));
            }
            if lane.grants().has_unsaid(path.home.is_some()) {
                self.unsaid.borrow_mut().insert(id);
            }
        }
        self.open_connections(&path);
        self.note_changed(id, &path);
    }

    /// Lane → home → lanes, as far as there is news.
    fn settle_with_home(self: &Rc<Self>, id: PathId, path: &Rc<PathState<S>>) {
        let Some(home) = &path.home else {
            let news = path.lane.borrow_mut().poll_news();
            if let Some(news) = news {
                let to = exchange::home(id, self.wiring.workers);
                let spec = path.lane.borrow().spec().clone();
                let message = Peer::News { path: spec, from: self.wiring.index, news };
                if self.wiring.to_peers[usize::from(to.0)].send(message).is_err() {
                    path.lane.borrow_mut().forget_told();
                    self.unsaid.borrow_mut().insert(id);
                }
            }
            return;
        };
        loop {
            let news = path.lane.borrow_mut().poll_news();
            if let Some(news) = news {
                home.borrow_mut().lane_news(self.wiring.index, news, net::now().mono);
            }
            self.invite_lanes(path, &mut home.borrow_mut());
            self.weigh_lanes(path, &mut home.borrow_mut());
            let leased = self.tell_leases(id, path, home);
            self.share_shards(path, &home.borrow());
            // A lease of this worker's own lane, or shards left to it, may be news for home in turn.
            if news.is_none() && !leased {
                return;
            }
        }
    }

    /// Says whether this worker's own lane got one.
    fn tell_leases(&self, id: PathId, path: &PathState<S>, home: &RefCell<Home>) -> bool {
        let mut leased = false;
        while let Some((worker, lease)) = { home.borrow_mut().poll_lease() } {
            if worker == self.wiring.index {
                self.take_lease(path, lease, &[]);
                leased = true;
                continue;
            }
            let shards = self.shards_for(worker, path);
            let spec = path.lane.borrow().spec().clone();
            let message = Peer::Lease { path: spec, lease, shards };
            if self.wiring.to_peers[usize::from(worker.0)].send(message).is_err() {
                home.borrow_mut().untold(worker);
                self.unsaid.borrow_mut().insert(id);
                break;
            }
        }
        leased
    }

    /// Brings in another worker when there is more demand than this lane can have in flight; each once in a period, since
    /// one that has nothing to do says so at once.
    fn invite_lanes(&self, path: &PathState<S>, home: &mut Home) {
        let mut lane = path.lane.borrow_mut();
        if self.wiring.workers < 2
            || lane.spec().limits.connections < 2
            || !lane.spec().kind.is_sent()
            || lane.spec().limits.message_rate.is_some_and(|rate| rate.per_second() < LANES_FROM_RATE)
            || lane.grants().ready() <= u64::from(lane.connections())
        {
            return;
        }
        let mut invited = path.invited.borrow_mut();
        for worker in (0..self.wiring.workers).map(WorkerIndex) {
            let wanted = match self.wiring.near {
                // One executor for both: the worker next to a shard that has work.
                Some(_) => lane.grants().has_ready(ShardIndex(worker.0)),
                None => true,
            };
            if worker != self.wiring.index && wanted && !invited.contains(&worker) {
                invited.push(worker);
                home.invite(worker, net::now().mono);
            }
        }
    }

    /// Where a lane serves the shard beside it, it is due what that shard is due.
    fn weigh_lanes(&self, path: &PathState<S>, home: &mut Home) {
        let mut lane = path.lane.borrow_mut();
        let grants = lane.grants();
        if self.wiring.near.is_some() && (grants.take_due_news() | home.must_weigh()) {
            home.set_due(|worker| grants.due(ShardIndex(worker.0)), net::now().mono);
        }
    }

    /// Shards that the lane at `worker` is for.
    fn shards_for(&self, worker: WorkerIndex, path: &PathState<S>) -> Vec<ShardIndex> {
        match self.wiring.near {
            Some(_) => vec![ShardIndex(worker.0)],
            None => path.lane.borrow_mut().grants().demanding().collect(),
        }
    }

    /// Leaves to other lanes the shards that share their executors.
    fn share_shards(&self, path: &PathState<S>, home: &Home) {
        if self.wiring.near.is_none() {
            return;
        }
        let served_elsewhere: Vec<_> = home.lanes_with_slots().filter(|w| *w != self.wiring.index).collect();
        path.lane
            .borrow_mut()
            .grants()
            .set_served(|shard| !served_elsewhere.iter().any(|worker| worker.0 == shard.0));
    }

    fn open_connections(self: &Rc<Self>, path: &Rc<PathState<S>>) {
        if self.stopping.get() {
            return;
        }
        path.wake_idle();
        while path.lane.borrow_mut().open_connection() {
            self.connections.set(self.connections.get() + 1);
            let ended = EndOfConnection { worker: self.clone(), path: path.clone() };
            net::spawn(async move {
                let (worker, path) = (ended.worker.clone(), ended.path.clone());
                connection::run(&worker, &path).await;
                drop(ended);
                let id = path.lane.borrow().spec().id;
                worker.upkeep(id);
            });
        }
    }
}

/// Counts a connection off when its task ends, however it ends. What follows from that the worker's task does: nothing is
/// begun by a destructor.
struct EndOfConnection<S: Storage> {
    worker: Rc<Pool<S>>,
    path: Rc<PathState<S>>,
}

impl<S: Storage> Drop for EndOfConnection<S> {
    fn drop(&mut self) {
        self.worker.connections.set(self.worker.connections.get() - 1);
        self.path.lane.borrow_mut().close_connection();
        let id = self.path.lane.borrow().spec().id;
        self.worker.unsaid.borrow_mut().insert(id);
        self.worker.wiring.inbox.event().notify();
    }
}
