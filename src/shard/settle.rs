//! Reports of workers, expiry and refused domains: each becomes an outcome record, and the record changes the queue.

use std::rc::Rc;
use std::sync::Arc;

use super::{ROUND, Shard};
use crate::event::Event;
use crate::exchange::{End, Report, ToShard};
use crate::id::{LegRef, PathId};
use crate::metrics::{BounceClass, DeliveryResult};
use crate::net;
use crate::outcome::{Enhanced, LegResult, Outcome, Reply, Verdict};
use crate::queue::{self, Change, Expired};
use crate::routing::{PathKind, RouteAnswer};
use crate::spool::reader::ReadError;
use crate::spool::storage::Storage;
use crate::spool::{AppendError, Note};

/// Where a result comes from.
struct Source<'a> {
    remote: &'a str,
    counts_as_attempt: bool,
}

impl<S: Storage> Shard<S> {
    /// Takes in reports and grants.
    pub(super) async fn take_reports(self: &Rc<Self>) -> bool {
        let mut worked = false;
        for (nth, receiver) in self.wiring.from_workers.iter().enumerate() {
            if nth > 0 && worked {
                net::yield_now().await;
            }
            for _ in 0..ROUND {
                let Some(message) = receiver.try_recv() else { break };
                worked = true;
                match message {
                    ToShard::Report(report) => self.settle(report).await,
                    ToShard::Grant(grant) => self.ledger.borrow_mut().grant(grant),
                    ToShard::Spread(path, spread) => self.queue.borrow_mut().set_spread(path, spread),
                    ToShard::PathError { path, reply } => {
                        self.path_errors.borrow_mut().insert(path, reply);
                    }
                }
            }
        }
        worked
    }

    async fn settle(&self, report: Report) {
        self.ledger.borrow_mut().reported(report.worker, report.bytes);
        let (results, remote): (_, Arc<str>) = match report.end {
            End::NotTried => {
                self.metrics.deliveries[DeliveryResult::NotTried].inc();
                return self.queue.borrow_mut().not_tried(report.leg, report.recipients);
            }
            End::Attempted { results, remote, .. } => {
                self.path_errors.borrow_mut().remove(&report.path);
                (results, remote)
            }
            End::Damaged { at } => {
                return self.damaged_job(report.leg, report.recipients, report.id, at).await;
            }
            End::Unknown => {
                let reply = Reply::new(0, Enhanced(4, 3, 0), "the attempt ended without a result");
                let recipients = report.recipients;
                (vec![LegResult { recipients, verdict: Verdict::Deferred, reply }], Arc::from(""))
            }
        };
        let source = Source { remote: &remote, counts_as_attempt: true };
        self.record(report.leg, report.recipients, results, source).await;
    }

    /// A message cannot be read back now: it is tried again by the schedule, behind all that can be read.
    pub(super) async fn unreadable(&self, job: &queue::Job, error: &ReadError) {
        let what = format!("message {} cannot be read back: {error}", job.id).into();
        self.wiring.events.send(Event::Trouble { at: net::now().wall, part: "spool", what });
        let reply = Reply::new(0, Enhanced(4, 3, 0), "the message cannot be read back from the spool");
        let result = LegResult { recipients: job.recipients, verdict: Verdict::Deferred, reply };
        let source = Source { remote: "", counts_as_attempt: true };
        self.record(job.leg, job.recipients, vec![result], source).await;
    }

    /// Makes results durable and applies them.
    async fn record(&self, leg: LegRef, tried: u64, results: Vec<LegResult>, source: Source<'_>) {
        let now = net::now();
        let outcome = self.queue.borrow_mut().outcome(leg, tried, results, source.counts_as_attempt, now);
        let Some(outcome) = outcome else { return };
        self.tell(leg, &outcome, source.remote);
        self.write(outcome).await;
    }

    /// Writes outcomes again that had found the disk full, until one does so again.
    pub(super) async fn write_again(&self) {
        let count = self.unwritten.borrow().len().min(ROUND);
        for _ in 0..count {
            let Some(outcome) = self.unwritten.borrow_mut().pop_front() else { return };
            if !self.write(outcome).await {
                return;
            }
        }
    }

    /// Appends an outcome and applies it; `false` when the disk is full. Returns when the record is in a batch; that it
    /// becomes durable is not waited for: until then a crash repeats the attempt, which is what "at least once" allows.
    async fn write(&self, outcome: Outcome) -> bool {
        let now = net::now();
        match self.log_of(outcome.id).append(Note::Outcome(&outcome)).await {
            Ok(_) => {}
            Err(AppendError::Full) => {
                // Of a leg that stayed in flight nobody would hear again before a restart, which then sends it once more.
                self.unwritten.borrow_mut().push_back(outcome);
                return false;
            }
            Err(error) => {
                // The leg stays in flight: what became of it is known again after a restart.
                let what = format!("outcome of {} not recorded: {error}", outcome.id).into();
                self.wiring.events.send(Event::Trouble { at: now.wall, part: "spool", what });
                return true;
            }
        }
        let applied = self.queue.borrow_mut().apply(Change::Outcome(&outcome), now);
        if let Some(location) = applied.settled {
            self.settled(outcome.id, location);
        }
        if outcome.results.iter().any(|r| r.verdict == Verdict::Deferred) {
            self.resident.borrow_mut().remove(outcome.id);
        }
        true
    }

    /// Counts an outcome and gives its log lines away.
    fn tell(&self, leg: LegRef, outcome: &Outcome, remote: &str) {
        let accepted_at = {
            let resident = self.resident.borrow();
            resident.message(outcome.id).map(|message| message.envelope.accepted_at())
        };
        let queue = self.queue.borrow();
        let accepted_at = accepted_at.or_else(|| queue.accepted_at(outcome.id)).unwrap_or(outcome.at);
        let delay = outcome.at.since(accepted_at);
        for result in &outcome.results {
            let count = result.recipients.count_ones();
            let mut due = None;
            match result.verdict {
                Verdict::Delivered | Verdict::Relayed | Verdict::Placed => {
                    self.metrics.deliveries[DeliveryResult::Delivered].add(count.into());
                    self.metrics.injection_to_delivery.observe(delay);
                }
                Verdict::Deferred => {
                    self.metrics.deliveries[DeliveryResult::Deferred].add(count.into());
                    self.metrics.retries.inc();
                    due = Some(outcome.due);
                }
                Verdict::Failed => {
                    self.metrics.deliveries[DeliveryResult::Failed].add(count.into());
                    let expired = result.reply.code == 0 && result.reply.enhanced == EXPIRED;
                    let class = if expired { BounceClass::Expired } else { BounceClass::of(&result.reply) };
                    self.metrics.bounces[class].add(count.into());
                }
            }
            self.wiring.events.send(Event::Outcome {
                at: outcome.at,
                id: outcome.id,
                domain: queue.domain_of(leg).unwrap_or_default().into(),
                recipients: count as u16,
                verdict: result.verdict,
                reply: result.reply.clone(),
                host: remote.into(),
                attempts: outcome.attempts,
                delay,
                due,
            });
        }
    }

    /// Records what expired.
    pub(super) async fn record_expired(&self) -> bool {
        let mut worked = false;
        if !self.unwritten.borrow().is_empty() {
            return false;
        }
        for _ in 0..ROUND {
            let Some(expired) = ({ self.queue.borrow_mut().poll_expired() }) else { break };
            worked = true;
            self.metrics.expiries.add(expired.job.recipients.count_ones().into());
            let reply = self.why_expired(&expired);
            self.fail(&expired.job, reply, false).await;
        }
        worked
    }

    /// Records that all of a job has failed, without a remote having said so.
    pub(super) async fn fail(&self, job: &queue::Job, reply: Reply, counts_as_attempt: bool) {
        let result = LegResult { recipients: job.recipients, verdict: Verdict::Failed, reply };
        let source = Source { remote: "", counts_as_attempt };
        self.record(job.leg, job.recipients, vec![result], source).await;
    }

    /// The words for a message that became too old: what stood in its way last.
    fn why_expired(&self, expired: &Expired) -> Reply {
        let last = self.last_error(expired.path, expired.reason.as_ref());
        let text = match &last {
            Some(last) if last.code != 0 => {
                format!("delivery time expired; last reply: {} {}", last.code, last.text)
            }
            Some(last) => format!("delivery time expired; last error: {}", last.text),
            None => "delivery time expired".to_owned(),
        };
        // What our own policy stood in the way of stays a matter of security.
        let enhanced = match &last {
            Some(Reply { code: 0, enhanced: Enhanced(4, 7, detail), .. }) => Enhanced(5, 7, *detail),
            _ => EXPIRED,
        };
        Reply::new(0, enhanced, &text)
    }

    /// What stood last in the way of a leg, as its queue (`reason`) or its path knows it.
    pub(super) fn last_error(&self, path: Option<PathId>, reason: Option<&Reply>) -> Option<Reply> {
        let errors = self.path_errors.borrow();
        reason.or_else(|| errors.get(&path?)).cloned()
    }

    /// Takes in what control says of domains.
    pub(super) async fn take_answers(&self) -> bool {
        let mut worked = false;
        for _ in 0..ROUND {
            let Ok((domain, answer)) = self.wiring.answers.try_recv() else { break };
            worked = true;
            let now = net::now();
            match answer {
                RouteAnswer::Path { spec, hosts, valid_for } => {
                    let hold = spec.kind == PathKind::Hold;
                    let path = spec.id;
                    if !hold {
                        self.ledger.borrow_mut().learn(spec);
                    }
                    let mut queue = self.queue.borrow_mut();
                    queue.route(&domain, path, hold, now.mono + valid_for, now);
                    queue.set_hosts(&domain, hosts);
                }
                RouteAnswer::Delayed { reply, retry_in } => {
                    self.queue.borrow_mut().delay_domain(&domain, now.mono + retry_in, reply);
                }
                RouteAnswer::Refused { reply } => self.fail_domain(&domain, &reply).await,
            }
        }
        worked
    }

    /// The domain takes no mail: fails its legs that are ready.
    async fn fail_domain(&self, domain: &str, reply: &Reply) {
        let mut failed = 0;
        while let Some(job) = { self.queue.borrow_mut().poll_domain_legs(domain) } {
            failed += 1;
            if failed % ROUND == 0 {
                net::yield_now().await;
            }
            self.fail(&job, reply.clone(), true).await;
        }
    }
}

/// Delivery time expired, RFC 3463 §3.5.
const EXPIRED: Enhanced = Enhanced(5, 4, 7);
