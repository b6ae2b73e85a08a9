//! Bounces: for each message with owed recipients one notification at a time, durable together with the record that
//! settles them.

use std::io;
use std::rc::Rc;
use std::sync::Arc;

use super::{BOUNCES_MAX, Shard};
use crate::bounce::{self, Failed, Original, Reporter};
use crate::envelope::Recipient;
use crate::event::Event;
use crate::id::MessageId;
use crate::message::Message;
use crate::net;
use crate::outcome::{Bounced, LegState, Reply, Verdict};
use crate::queue::Change;
use crate::spool::reader::{self, ReadError};
use crate::spool::storage::Storage;
use crate::spool::{AppendError, Note};

/// Why a bounce was not queued; it stays owed, and is offered again.
#[derive(Debug, thiserror::Error)]
enum NotBounced {
    #[error(transparent)]
    Append(#[from] AppendError),
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// Counts a bounce out when its task ends, however it ends.
struct Making<S: Storage> {
    shard: Rc<Shard<S>>,
}

impl<S: Storage> Drop for Making<S> {
    fn drop(&mut self) {
        self.shard.bounces.set(self.shard.bounces.get() - 1);
        self.shard.wiring.inbox.event().notify();
    }
}

impl<S: Storage> Shard<S> {
    /// Starts the bounces that are due, a few at a time.
    pub(super) fn make_bounces(self: &Rc<Self>) {
        while self.bounces.get() < BOUNCES_MAX && !self.stopping.get() {
            let now = net::now();
            let Some(id) = ({ self.queue.borrow_mut().poll_owed(now) }) else { return };
            self.bounces.set(self.bounces.get() + 1);
            let making = Making { shard: self.clone() };
            net::spawn(async move {
                let shard = &making.shard;
                if let Err(error) = shard.make_bounce(id).await {
                    // The queue offers it again.
                    let what = format!("bounce of {id} not queued: {error}").into();
                    shard.wiring.events.send(Event::Trouble { at: net::now().wall, part: "bounce", what });
                }
                drop(making);
            });
        }
    }

    async fn make_bounce(&self, id: MessageId) -> Result<(), NotBounced> {
        let (original, is_whole) = match self.original(id).await {
            Ok(original) => original,
            // The disk may answer the next time: nobody is forgotten for that.
            Err(error @ ReadError::Disk(_)) => return Err(error.into()),
            Err(error) => {
                let what = format!("message {id} cannot be read back for its bounce: {error}").into();
                self.wiring.events.send(Event::Trouble { at: net::now().wall, part: "bounce", what });
                let states = self.queue.borrow().owed(id);
                return Ok(self.settle_silently(id, &states).await?);
            }
        };
        loop {
            let states = self.queue.borrow().owed(id);
            let failures = failures(&original, &states);
            if failures.is_empty() {
                return Ok(());
            }
            let failed: Vec<_> = failures
                .iter()
                .map(|(recipient, reply)| Failed { recipient: *recipient, reply, remote: "" })
                .collect();
            let log = self.log_of(id);
            let now = net::now();
            let content = Original { id, envelope: &original.envelope, content: &original.body, is_whole };
            let reporter = Reporter {
                host: &self.options.hostname,
                id: log.next_id(),
                now: now.wall,
                expires_at: now.wall + self.options.expire_after,
            };
            let Some(notification) = bounce::notification(&content, &failed, &reporter) else {
                return Ok(self.settle_silently(id, &states).await?);
            };
            let settled = settled_by(&states, &failures[..notification.covered]);
            let bounced = Bounced { id, legs: settled, notification: Some(reporter.id) };
            let message = Arc::new(Message {
                id: reporter.id,
                envelope: notification.envelope,
                body: notification.body,
            });
            let notification = log.append_notification(&bounced, &message).await?;
            self.bounced(&bounced);
            let (_committed, location) = notification.durable().await?;
            self.accepted(message.clone(), location, message.body.len() as u64);
            self.metrics.notifications.inc();
        }
    }

    /// Settles owed recipients without a word: nobody may, or can, be told.
    async fn settle_silently(&self, id: MessageId, states: &[LegState]) -> Result<(), AppendError> {
        let legs = states.iter().map(|state| (state.leg, state.owed)).collect();
        let bounced = Bounced { id, legs, notification: None };
        let ticket = self.log_of(id).append(Note::Bounced(&bounced)).await?;
        drop(ticket);
        self.bounced(&bounced);
        Ok(())
    }

    fn bounced(&self, bounced: &Bounced) {
        let now = net::now();
        let recipients = bounced.legs.iter().map(|(_, bits)| bits.count_ones()).sum::<u32>();
        let applied = self.queue.borrow_mut().apply(Change::Bounced(bounced), now);
        if let Some(location) = applied.settled {
            self.settled(bounced.id, location);
        }
        self.wiring.events.send(Event::Bounced {
            at: now.wall,
            id: bounced.id,
            recipients: u16::try_from(recipients).unwrap_or(u16::MAX),
            notification: bounced.notification,
        });
    }

    /// The message that failed, and whether its body is whole: of a long or damaged one there is none.
    async fn original(&self, id: MessageId) -> Result<(Arc<Message>, bool), ReadError> {
        match self.read_original(id).await {
            Err(ReadError::Damaged { id, at }) => {
                self.tell_damaged(id, at).await;
                self.fail_damaged(id).await;
                let envelope = self.salvage(id).await?.ok_or(ReadError::Damaged { id, at })?;
                Ok((Arc::new(Message { id, envelope, body: Vec::new() }), false))
            }
            read => read,
        }
    }

    async fn read_original(&self, id: MessageId) -> Result<(Arc<Message>, bool), ReadError> {
        if let Some(message) = self.resident.borrow().message(id) {
            return Ok((message.clone(), true));
        }
        let state = self.queue.borrow().state(id);
        // Settled meanwhile: what is asked for next finds nothing owed.
        let (location, _) = state.ok_or(io::Error::from(io::ErrorKind::NotFound))?;
        let log = self.log_of(id);
        let pinned = log.pin(id, location).await?;
        let opened = reader::open(log.storage(), &pinned).await?;
        let is_whole = opened.chunks.is_empty();
        // The end of a long body alone would mislead.
        let body = if is_whole { opened.rest } else { Vec::new() };
        Ok((Arc::new(Message { id, envelope: opened.envelope, body }), is_whole))
    }
}

/// Each owed recipient with the reply that failed it.
fn failures<'a>(original: &'a Message, states: &'a [LegState]) -> Vec<(Recipient<'a>, Reply)> {
    let mut failures = Vec::new();
    for recipient in original.envelope.recipients() {
        for state in states {
            let Some(place) = recipient.index.checked_sub(state.leg).filter(|place| *place < 64) else {
                continue;
            };
            let bit = 1u64 << place;
            if state.owed & bit == 0 {
                continue;
            }
            let said = |result: &&crate::outcome::LegResult| {
                result.verdict == Verdict::Failed && result.recipients & bit != 0
            };
            let reply = state.replies.iter().find(said).map(|result| result.reply.clone());
            failures.push((recipient, reply.unwrap_or_default()));
        }
    }
    failures
}

/// The bits of each leg that these failures cover.
fn settled_by(states: &[LegState], failures: &[(Recipient<'_>, Reply)]) -> Vec<(u16, u64)> {
    let mut legs: Vec<(u16, u64)> = states.iter().map(|state| (state.leg, 0)).collect();
    for (recipient, _) in failures {
        for (state, (leg, bits)) in states.iter().zip(&mut legs) {
            if let Some(place) = recipient.index.checked_sub(*leg).filter(|place| *place < 64)
                && state.owed & (1 << place) != 0
            {
                *bits |= 1 << place;
            }
        }
    }
    legs.retain(|(_, bits)| *bits != 0);
    legs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::WallTime;
    use crate::envelope::{EnvelopeBuilder, Notify, Parameters};
    use crate::id::PartId;
    use crate::outcome::{Enhanced, LegResult};

    #[test]
    fn only_owed_recipients_fail_each_with_its_own_reply() {
        let mut builder = EnvelopeBuilder::default();
        builder.begin("s@a.test", Parameters::default(), "");
        for mailbox in ["a@one.test", "b@one.test", "c@two.test"] {
            builder.push_recipient(mailbox, Notify::DEFAULT, "").expect("fits");
        }
        let envelope = builder.encode(WallTime(0), WallTime(0));
        let original = Message { id: MessageId::new(PartId(0), 1), envelope, body: Vec::new() };
        let result = |recipients, text: &str| LegResult {
            recipients,
            verdict: Verdict::Failed,
            reply: Reply::new(550, Enhanced(5, 1, 1), text),
        };
        let state =
            |leg, owed, replies| LegState { leg, attempts: 1, due: WallTime(0), open: 0, owed, replies };
        let states = [
            state(0, 0b10, vec![result(0b01, "not a"), result(0b10, "not b")]),
            state(2, 1, vec![result(1, "not c")]),
        ];
        let failures = failures(&original, &states);
        let words: Vec<_> = failures.iter().map(|(r, reply)| (r.mailbox, &*reply.text)).collect();
        assert_eq!(words, [("b@one.test", "not b"), ("c@two.test", "not c")]);
        assert_eq!(settled_by(&states, &failures), [(0, 0b10), (2, 1)]);
        assert_eq!(settled_by(&states, &failures[..1]), [(0, 0b10)]);
    }
}
