//! Opens the parts that a shard hosts: recovery fills the queue, then the logs' tasks are started.

use std::rc::Rc;

use super::{Log, Part, Shard};
use crate::clock::Now;
use crate::event::{Event, EventSender};
use crate::id::{Location, MessageId, PartId};
use crate::net;
use crate::outcome::LegState;
use crate::queue::{Change, Queue};
use crate::spool::storage::disk::Disk;
use crate::spool::{Fence, Liveness, LogOptions, Recovered, RecoveryReport, SpoolError};

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
pub async fn open_parts(
    disk: &Disk,
    plans: &[PartPlan],
    options: &LogOptions,
    fence: &Fence,
    queue: &mut Queue,
    events: &EventSender,
) -> Result<Vec<Part>, SpoolError> {
    let mut parts = Vec::new();
    for plan in plans {
        let mut apply = |recovered: Recovered<'_>| apply(queue, recovered, net::now());
        let mut salt = random;
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
        tell(&report, plan, events);
        parts.push(Part { id: plan.id, log });
    }
    Ok(parts)
}

/// One record of the last run. Returns the place of a copy that is dead now.
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

fn tell(report: &RecoveryReport, plan: &PartPlan, events: &EventSender) {
    if report.has_rot() || report.copies_failed > 0 {
        let what = format!(
            "part {} was damaged: {report:?}; what could not be read is in {}/damaged",
            plan.id.0, plan.dir
        );
        events.send(Event::Trouble { at: net::now().wall, part: "spool", what: what.into() });
    }
}

/// Random bits for segment salts, so that bytes in a mail cannot pass for records.
fn random() -> u64 {
    getrandom::u64().unwrap_or_else(|_| {
        // No entropy source: the clock differs from segment to segment, which is what stale blocks must not share.
        let now = net::now();
        (now.wall.0 << 20) ^ now.mono.0
    })
}

/// What the log's ring asks the queue.
struct QueueLiveness(Rc<Shard>);

impl Liveness for QueueLiveness {
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
        let what = format!(
            "message {id} is damaged in segment {} at {}; the segment is kept",
            at.segment, at.offset
        );
        self.0.wiring.events.send(Event::Trouble { at: net::now().wall, part: "spool", what: what.into() });
        // Nothing is left to send or to report to: it must not hold the ring for ever.
        let applied = self.0.queue.borrow_mut().apply(Change::Aborted(id), net::now());
        if let Some(location) = applied.settled {
            self.0.log_of(id).settled(id, location);
        }
    }
}

impl Shard {
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
            net::spawn_vital(part.log.clone().run_upkeep(QueueLiveness(self.clone()), random));
        }
    }

    /// Messages in the queue.
    pub fn queued(&self) -> usize {
        self.queue.borrow().depth().messages
    }
}
