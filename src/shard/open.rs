//! Opens the parts that a shard hosts: recovery fills the queue, then the logs' tasks are started.

use std::rc::Rc;

use super::{Part, Shard};
use crate::clock::Now;
use crate::event::{Event, EventSender};
use crate::id::{Location, MessageId, PartId};
use crate::metrics::{DamageKind, ShardMetrics};
use crate::net;
use crate::outcome::LegState;
use crate::queue::{Change, Queue};
use crate::spool::storage::Storage;
use crate::spool::{Fence, Flaw, Liveness, Log, LogOptions, Recovered, RecoveryReport, SpoolError};

/// Findings of a part's restart that get a line each: a part that is rotten all over must not fill the log.
const FINDINGS_TOLD_MAX: usize = 20;

/// A part to be opened.
#[derive(Clone, Debug)]
pub struct PartPlan {
    /// Its number.
    pub id: PartId,
    /// Its directory, inside the spool's.
    pub dir: String,
}

/// Opens `plans`, the active one first, and hands what is in them to `queue`.
///
/// # Errors
/// When a part cannot be read, or holds what this version does not understand. Nothing was changed then.
pub async fn open_parts<S: Storage>(
    disk: &S,
    plans: &[PartPlan],
    options: &LogOptions,
    fence: &Fence,
    queue: &mut Queue,
    metrics: &ShardMetrics,
    events: &EventSender,
) -> Result<Vec<Part<S>>, SpoolError> {
    let mut parts = Vec::new();
    for plan in plans {
        let mut apply = |recovered: Recovered<'_>| apply(queue, recovered, net::now());
        let mut salt = net::random;
        let (log, report) = Log::open(
            disk.clone(),
            plan.id,
            &plan.dir,
            options.clone(),
            fence.clone(),
            &mut salt,
            &mut apply,
        )
        .await?;
        tell(&report, plan, metrics, events);
        parts.push(Part { id: plan.id, log });
    }
    Ok(parts)
}

/// Folds one record of an earlier run into `queue`. Returns the place of a copy that is dead now.
pub fn apply(queue: &mut Queue, recovered: Recovered<'_>, now: Now) -> Option<Location> {
    let change = match &recovered {
        Recovered::Accepted { id, location, envelope, legs } => Change::Accepted {
            id: *id,
            envelope,
            location: *location,
            // The body's share of a record is what counts; headers and meta are a small error in fairness.
            body_bytes: location.bytes,
            states: legs,
        },
        Recovered::Outcome(outcome) => Change::Outcome(outcome),
        Recovered::Bounced(bounced) => Change::Bounced(bounced),
        Recovered::Aborted(id) => Change::Aborted(*id),
    };
    let applied = queue.apply(change, now);
    applied.settled.or(applied.superseded)
}

/// Counts what a restart found damaged and gives its log lines away.
fn tell(report: &RecoveryReport, plan: &PartPlan, metrics: &ShardMetrics, events: &EventSender) {
    let findings = report.findings(plan.id);
    for finding in &findings {
        metrics.spool_damage[damage_kind(finding.flaw)].inc();
    }
    metrics.spool_set_aside_bytes.add(report.bytes_set_aside);
    let at = net::now().wall;
    let trouble = |what: String| events.send(Event::Trouble { at, part: "spool", what: what.into() });
    for finding in findings.iter().take(FINDINGS_TOLD_MAX) {
        let aside = match finding.range {
            Some(_) => "; a copy and a report are in damaged/",
            None => "; a report is in damaged/",
        };
        if finding.flaw.is_damage() {
            trouble(format!("{finding}{aside}"));
        } else {
            events.send(Event::Notice { at, part: "spool", what: format!("{finding}{aside}").into() });
        }
    }
    if findings.len() > FINDINGS_TOLD_MAX {
        let more = findings.len() - FINDINGS_TOLD_MAX;
        trouble(format!("part {}: {more} more findings; stop and see: ringpost spool verify", plan.id.0));
    }
    if report.copies_failed > 0 {
        let failed = report.copies_failed;
        trouble(format!("part {}: {failed} copies of damaged bytes could not be written", plan.id.0));
    }
}

fn damage_kind(flaw: Flaw) -> DamageKind {
    match flaw {
        Flaw::Torn => DamageKind::Torn,
        Flaw::Rot => DamageKind::Rot,
        Flaw::Header | Flaw::Headers => DamageKind::Header,
        Flaw::Footer => DamageKind::Footer,
        Flaw::Unreadable => DamageKind::Unreadable,
        Flaw::Missing => DamageKind::Missing,
    }
}

/// What the log's ring asks the queue.
struct QueueLiveness<S: Storage>(Rc<Shard<S>>);

impl<S: Storage> Liveness for QueueLiveness<S> {
    fn state(&self, id: MessageId) -> Option<(Location, Vec<LegState>)> {
        self.0.queue.borrow().state(id)
    }

    fn moved(&self, id: MessageId, from: Location, to: Location) {
        let still_there = self.0.queue.borrow().state(id).is_some_and(|(location, _)| location == from);
        if still_there {
            self.0.queue.borrow_mut().relocate(id, to);
        }
    }

    fn damaged(&self, id: MessageId, at: Location) {
        // What is in memory is whole, and on its way.
        if self.0.resident.borrow().message(id).is_some() {
            return;
        }
        let shard = self.0.clone();
        net::spawn(async move {
            shard.tell_damaged(id, at).await;
            shard.fail_damaged(id).await;
        });
    }
}

impl<S: Storage> Shard<S> {
    /// Starts the tasks of the logs.
    pub fn start_logs(self: &Rc<Self>) {
        for part in &self.parts {
            let metrics = self.metrics.clone();
            part.log.set_on_commit(Box::new(move |took, records| {
                metrics.commit.observe(took);
                metrics.commit_records.record(records.into());
            }));
            net::spawn_vital(part.log.clone().run_committer());
            net::spawn_vital(part.log.clone().run_clock());
            net::spawn_vital(part.log.clone().run_upkeep(QueueLiveness(self.clone()), net::random));
        }
    }

    /// Messages in the queue.
    pub fn queued(&self) -> usize {
        self.queue.borrow().depth().messages
    }
}
