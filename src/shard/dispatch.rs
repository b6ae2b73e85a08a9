//! Ready legs and credits become jobs.

use std::time::Duration;

use super::{ROUND, Shard};
use crate::clock::WallTime;
use crate::delivery::job::Payload;
use crate::exchange::shares::Waiting;
use crate::exchange::{self, Job, ToWorker};
use crate::id::{PathId, WorkerIndex};
use crate::metrics::paths::{PathAnswer, PathPart, ShardPart};
use crate::net;
use crate::outcome::{Enhanced, Reply};
use crate::queue;
use crate::spool::reader::ReadError;
use crate::spool::storage::Storage;

/// Most tenants of a path that are named to control.
const TENANTS_TOLD: usize = 20;

impl<S: Storage> Shard<S> {
    /// Asks control for the domains that have no path, no faster than answers are taken in; whether more wait to be
    /// asked for at once.
    pub(super) fn ask_routes(&self) -> bool {
        let mut queue = self.queue.borrow_mut();
        for _ in 0..ROUND {
            if self.wiring.answers.len() > 4 * ROUND {
                // Answers are taken in first, and bring the keeper here again.
                return false;
            }
            let Some(domain) = queue.poll_unrouted() else { return false };
            if !self.wiring.resolver.ask(self.wiring.index, domain) {
                // Control is behind: the same domain again in a moment.
                let domain = domain.to_owned();
                let reply = Reply::new(0, Enhanced(4, 4, 3), "DNS lookup waits its turn");
                queue.delay_domain(&domain, net::now().mono + Duration::from_secs(1), reply);
                return false;
            }
        }
        true
    }

    /// Tells workers of demand and sends what credits and windows allow; whether there is more to send at once.
    pub(super) async fn dispatch(&self) -> bool {
        if self.stopping.get() || self.active_log().fence().reason().is_some() {
            return false;
        }
        self.tell_demand();
        for _ in 0..ROUND {
            let Some((path, worker)) = ({ self.ledger.borrow_mut().next_send() }) else {
                self.tell_demand();
                return false;
            };
            match self.pop(path) {
                Some(ready) => match self.payload(&ready).await {
                    Ok(body) => self.send(worker, self.job(&ready, path, body)),
                    Err(ReadError::Damaged { id, at }) => {
                        self.damaged_job(ready.leg, ready.recipients, id, at).await;
                    }
                    Err(error) => self.unreadable(&ready, &error).await,
                },
                None => self.ledger.borrow_mut().set_ready(path, 0, WallTime::default()),
            }
        }
        true
    }

    fn pop(&self, path: PathId) -> Option<queue::Job> {
        let limit = {
            let ledger = self.ledger.borrow();
            ledger.spec(path).map_or(1, |spec| u32::from(spec.limits.recipients_per_transaction))
        };
        self.queue.borrow_mut().pop(path, limit)
    }

    /// The message, or the means to read it: from memory without waiting, else with its segments pinned.
    async fn payload(&self, ready: &queue::Job) -> Result<Payload<S::Pin>, ReadError> {
        if let Some(message) = self.resident.borrow().message(ready.id) {
            return Ok(Payload::Resident(message.clone()));
        }
        let log = self.log_of(ready.id);
        if let Ok(pinned) = log.pin(ready.id, ready.location).await {
            return Ok(Payload::Spooled(pinned));
        }
        // It may have been moved while it was being pinned.
        let location = self.queue.borrow().state(ready.id).map_or(ready.location, |(location, _)| location);
        log.pin(ready.id, location).await.map(Payload::Spooled)
    }

    /// What waits here for the paths of this name.
    pub(super) fn describe(&self, name: &str) -> Vec<PathAnswer> {
        let (ledger, queue, now) = (self.ledger.borrow(), self.queue.borrow(), net::now().wall);
        let part = |path: PathId| {
            let (ready, oldest) = queue.demand(path).map_or((0, now), |demand| (demand.ready, demand.oldest));
            let oldest = if ready == 0 { Duration::ZERO } else { now.since(oldest) };
            let tenants = queue.tenants_of(path, TENANTS_TOLD);
            PathPart::Shard(ShardPart { shard: self.wiring.index, ready, oldest, tenants })
        };
        ledger.named(name).map(|path| PathAnswer { path, name: name.to_owned(), part: part(path) }).collect()
    }

    fn tell_demand(&self) {
        let mut ledger = self.ledger.borrow_mut();
        while let Some((path, demand)) = { self.queue.borrow_mut().poll_demand() } {
            let waiting = Waiting { tenants: demand.shares.into(), others: demand.others };
            ledger.set_waiting(path, waiting, demand.joined);
            ledger.set_ready(path, demand.ready, demand.oldest);
        }
        let to = |worker: WorkerIndex| &self.wiring.to_workers[usize::from(worker.0)];
        while let Some((worker, demand)) =
            ledger.poll_demand(|worker| exchange::has_control_room(to(worker).room()))
        {
            let said = to(worker).send(ToWorker::Demand(self.wiring.index, demand));
            assert!(said.is_ok(), "there was room");
        }
    }

    fn send(&self, worker: WorkerIndex, job: Job<Payload<S::Pin>>) {
        let left = self.queue.borrow().ready(job.path);
        self.ledger.borrow_mut().sent(job.path, worker, job.bytes, left);
        let sent = self.wiring.to_workers[usize::from(worker.0)].send(ToWorker::Job(job));
        assert!(sent.is_ok(), "the channel holds a whole window");
    }

    fn job(&self, ready: &queue::Job, path: PathId, body: Payload<S::Pin>) -> Job<Payload<S::Pin>> {
        Job {
            shard: self.wiring.index,
            leg: ready.leg,
            id: ready.id,
            path,
            first: ready.leg_first,
            recipients: ready.recipients,
            attempts: ready.attempts,
            bytes: ready.body_bytes,
            hosts: self.queue.borrow().hosts(ready.leg).cloned(),
            tenant: ready.tenant,
            body,
        }
    }
}
