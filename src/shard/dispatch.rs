//! Ready legs and credits become jobs.

use super::{ROUND, Shard};
use crate::clock::WallTime;
use crate::delivery::job::Payload;
use crate::exchange::{Job, ToWorker};
use crate::id::{PathId, WorkerIndex};
use crate::queue;

impl Shard {
    /// Asks control for the domains that have no path.
    pub(super) fn ask_routes(&self) {
        let mut queue = self.queue.borrow_mut();
        while let Some(domain) = queue.poll_unrouted() {
            if !self.wiring.resolver.ask(self.wiring.index, domain) {
                // Control is behind: the same domain again in a moment.
                let (domain, now) = (domain.to_owned(), crate::net::now());
                let reply = crate::outcome::Reply::new(0, crate::outcome::Enhanced(4, 4, 3), "DNS lookup waits its turn");
                queue.delay_domain(&domain, now.mono + std::time::Duration::from_secs(1), reply);
                return;
            }
        }
    }

    /// Tells workers of demand and sends what credits and windows allow; whether there is more to send at once.
    pub(super) fn dispatch(&self) -> bool {
        if self.stopping.get() || self.active_log().fence().reason().is_some() {
            return false;
        }
        let mut queue = self.queue.borrow_mut();
        let mut ledger = self.ledger.borrow_mut();
        while let Some((path, demand)) = queue.poll_demand() {
            ledger.set_ready(path, demand.ready, demand.oldest);
        }
        self.tell_demand(&mut ledger);
        for _ in 0..ROUND {
            let Some((path, worker)) = ledger.next_send() else {
                self.tell_demand(&mut ledger);
                return false;
            };
            let limit = ledger.spec(path).map_or(1, |spec| u32::from(spec.limits.recipients_per_transaction));
            match queue.pop(path, limit) {
                Some(job) => {
                    let job = self.job(&job, path);
                    ledger.sent(path, worker, job.bytes);
                    self.send(worker, job);
                }
                None => ledger.set_ready(path, 0, WallTime::default()),
            }
        }
        true
    }

    fn tell_demand(&self, ledger: &mut crate::exchange::ledger::Ledger) {
        let to = |worker: WorkerIndex| &self.wiring.to_workers[usize::from(worker.0)];
        while let Some((worker, demand)) = ledger.poll_demand(|worker| to(worker).room() > 0) {
            let said = to(worker).send(ToWorker::Demand(self.wiring.index, demand));
            assert!(said.is_ok(), "there was room");
        }
    }

    fn send(&self, worker: WorkerIndex, job: Job<Payload>) {
        let sent = self.wiring.to_workers[usize::from(worker.0)].send(ToWorker::Job(job));
        assert!(sent.is_ok(), "the channel holds a whole window");
    }

    fn job(&self, ready: &queue::Job, path: PathId) -> Job<Payload> {
        let body = match self.resident.borrow().message(ready.id) {
            Some(message) => Payload::Resident(message.clone()),
            None => Payload::Spooled(self.log_of(ready.id).stored(ready.id, ready.location)),
        };
        Job {
            shard: self.wiring.index,
            leg: ready.leg,
            id: ready.id,
            path,
            first: ready.leg_first,
            recipients: ready.recipients,
            attempts: ready.attempts,
            bytes: ready.body_bytes,
            body,
        }
    }
}
