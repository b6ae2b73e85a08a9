//! Notifications: for each message whose sender is to be told something one at a time, durable together with the record
//! that says so. Failures go first, then success, then delay.

use std::io;
use std::rc::Rc;
use std::sync::Arc;

use super::reports::{self, Report};
use super::{BOUNCES_MAX, Shard};
use crate::bounce::{self, Original, Reporter};
use crate::envelope::Envelope;
use crate::event::Event;
use crate::id::MessageId;
use crate::message::Message;
use crate::net;
use crate::outcome::{Bounced, LegState, Topic};
use crate::queue::{Change, Late};
use crate::spool::reader::{self, ReadError};
use crate::spool::storage::Storage;
use crate::spool::{AppendError, Note};

/// Why a notification was not queued; it stays owed, and is offered again.
#[derive(Debug, thiserror::Error)]
enum NotBounced {
    #[error(transparent)]
    Append(#[from] AppendError),
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// Counts a notification out when its task ends, however it ends.
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
    /// Starts the notifications that are due, a few at a time.
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
            // Delivered meanwhile: nobody waits for it any more.
            Err(_) if self.queue.borrow().state(id).is_none() => return Ok(()),
            // The disk may answer the next time: nobody is forgotten for that.
            Err(error @ ReadError::Disk(_)) => return Err(error.into()),
            Err(error) => {
                let what = format!("message {id} cannot be read back for its bounce: {error}").into();
                self.wiring.events.send(Event::Trouble { at: net::now().wall, part: "bounce", what });
                let (owed, late) = self.to_be_told(id);
                return Ok(self.settle_silently(reports::given_up(id, &owed, &late)).await?);
            }
        };
        loop {
            let (owed, late) = self.to_be_told(id);
            let mut reports = reports::next(&original.envelope, &owed, &late, |late| {
                self.last_error(late.path, late.reason.as_ref())
            });
            let Some(topic) = reports.first().map(|report| report.fate.topic()) else { return Ok(()) };
            let own = self.own_sender(&original.envelope, &mut reports);
            let log = self.log_of(id);
            let now = net::now();
            let content = Original { id, envelope: &original.envelope, content: &original.body, is_whole };
            let reporter = Reporter {
                host: &self.options.hostname,
                to: own.as_deref().unwrap_or(original.envelope.sender()),
                id: log.next_id(),
                now: now.wall,
                expires_at: now.wall + self.options.expire_after,
            };
            let reported: Vec<_> = reports.iter().map(Report::reported).collect();
            let Some(notification) = bounce::notification(&content, topic, &reported, &reporter) else {
                self.settle_silently(reports::settled(id, &reports)).await?;
                continue;
            };
            let covered = &reports[..notification.covered];
            let bounced = Bounced { notification: Some(reporter.id), ..reports::settled(id, covered) };
            let message = Arc::new(Message {
                id: reporter.id,
                envelope: notification.envelope,
                body: notification.body,
            });
            let notification = log.append_notification(&bounced, &message).await?;
            self.bounced(&bounced, Some(topic));
            let (_committed, location) = notification.durable().await?;
            self.accepted(message.clone(), location, message.body.len() as u64);
            self.metrics.notifications.inc();
        }
    }

    /// The sender that names the first of `reports`, which is then told alone, if the mail went out so.
    fn own_sender(&self, envelope: &Envelope, reports: &mut Vec<Report<'_>>) -> Option<String> {
        let verp = &self.options.verp;
        if !verp.is_for(envelope) {
            return None;
        }
        reports.truncate(1);
        verp.sender(envelope.sender(), reports.first()?.recipient.mailbox)
    }

    fn to_be_told(&self, id: MessageId) -> (Vec<LegState>, Vec<Late>) {
        let queue = self.queue.borrow();
        (queue.owed(id), queue.late(id))
    }

    /// Settles what is owed without a word: nobody may, or can, be told.
    async fn settle_silently(&self, bounced: Bounced) -> Result<(), AppendError> {
        let ticket = self.log_of(bounced.id).append(Note::Bounced(&bounced)).await?;
        drop(ticket);
        self.bounced(&bounced, None);
        Ok(())
    }

    /// Applies a record that is in a batch. `topic` is what the notification is about, if there is one.
    fn bounced(&self, bounced: &Bounced, topic: Option<Topic>) {
        let now = net::now();
        let recipients = bounced.legs.iter().map(|(_, bits)| bits.count_ones()).sum::<u32>();
        let applied = self.queue.borrow_mut().apply(Change::Bounced(bounced), now);
        if let Some(location) = applied.settled {
            self.settled(bounced.id, location);
        }
        self.wiring.events.send(Event::Bounced {
            at: now.wall,
            id: bounced.id,
            topic,
            recipients: u16::try_from(recipients).unwrap_or(u16::MAX),
            notification: bounced.notification,
        });
    }

    /// The message that is reported on, and whether its body is whole: of a long or damaged one there is none.
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
