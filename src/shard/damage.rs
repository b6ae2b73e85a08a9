//! A message that turns out to be damaged on disk when it is read back, to be sent, moved or returned: told once in the
//! log, the counters and `damaged/`, and failed for all who have not got it, so that its sender is told to send it again.

use std::io;

use super::Shard;
use crate::envelope::Envelope;
use crate::event::Event;
use crate::id::{LegRef, Location, MessageId};
use crate::metrics::DamageKind;
use crate::net;
use crate::outcome::{Enhanced, Reply};
use crate::spool::storage::Storage;

/// Other or undefined mail system status, RFC 3463 §3.4.
const DAMAGED: Enhanced = Enhanced(5, 3, 0);
/// What the sender is told.
const WORDS: &str =
    "the message was damaged in storage at this relay and can not be delivered: please send it again";
/// Recipients that the log line names.
const RECIPIENTS_NAMED_MAX: usize = 5;

impl<S: Storage> Shard<S> {
    /// These recipients were out with a job whose message is damaged at `at`.
    pub(super) async fn damaged_job(&self, leg: LegRef, recipients: u64, id: MessageId, at: Location) {
        self.tell_damaged(id, at).await;
        self.queue.borrow_mut().not_tried(leg, recipients);
        self.fail_damaged(id).await;
    }

    /// Fails all recipients of a damaged message that are not out. Jobs that are will find the damage themselves, or have what
    /// they need in memory.
    pub(super) async fn fail_damaged(&self, id: MessageId) {
        while let Some(job) = { self.queue.borrow_mut().poll_message_legs(id) } {
            self.fail(&job, Reply::new(0, DAMAGED, WORDS), false).await;
        }
    }

    /// Tells operators of a message that is damaged at `at`, once, and sets the damaged record aside. While the message is
    /// not settled nothing else is written there.
    pub(super) async fn tell_damaged(&self, id: MessageId, at: Location) {
        if !self.damaged.borrow_mut().insert(id) {
            return;
        }
        self.metrics.spool_damage[DamageKind::Message].inc();
        // What cannot be read now may be so later; the message is as damaged then.
        let envelope = self.salvage(id).await.ok().flatten();
        let aside = match self.log_of(id).set_message_aside(id, at, envelope.as_ref()).await {
            Ok(()) => {
                self.metrics.spool_set_aside_bytes.add(at.bytes.into());
                "a copy and a report are in damaged/".to_owned()
            }
            Err(error) => format!("it could not be copied to damaged/: {error}"),
        };
        let who = match &envelope {
            Some(envelope) => said(envelope),
            None => "from and for whom is damaged, too, so its sender is not told".to_owned(),
        };
        let what =
            format!("message {id} is damaged in segment {} at {}: {who}; {aside}", at.segment, at.offset);
        self.wiring.events.send(Event::Trouble { at: net::now().wall, part: "spool", what: what.into() });
    }

    /// The envelope of a message that cannot be read back, if it can be.
    pub(super) async fn salvage(&self, id: MessageId) -> io::Result<Option<Envelope>> {
        let state = self.queue.borrow().state(id);
        let (location, _) = state.ok_or(io::ErrorKind::NotFound)?;
        self.log_of(id).salvage(id, location).await
    }
}

/// Who a damaged message was from and for.
fn said(envelope: &Envelope) -> String {
    let named = envelope.recipients().take(RECIPIENTS_NAMED_MAX);
    let mut to = named.map(|recipient| format!("<{}>", recipient.mailbox)).collect::<Vec<_>>().join(", ");
    let more = envelope.recipients().count().saturating_sub(RECIPIENTS_NAMED_MAX);
    if more > 0 {
        to.push_str(&format!(" and {more} more"));
    }
    format!("from <{}> to {to}", envelope.sender())
}
