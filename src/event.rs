//! PURE. What roles tell the log: plain owned events, sent without waiting and without a system call.
//!
//! A role hands an [`Event`] to its [`EventSender`] and goes on; the log thread looks every 50 ms (`control::log`) and makes
//! the lines. When the channel is full the event is dropped and counted: the log has its own back-pressure and never
//! slows mail.

use std::cell::Cell;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::clock::WallTime;
use crate::envelope::Envelope;
use crate::id::MessageId;
use crate::outcome::{Reply, Topic, Verdict};

/// Events that may wait for the log thread: at 50 ms a look, 40,000 a second leave 2,000 waiting.
pub const EVENTS_WAITING_MAX: usize = 16 * 1024;

/// Something that deserves a log line.
#[derive(Clone, Debug)]
pub enum Event {
    /// A message is durable and its 250 is on the way.
    Accepted {
        /// When.
        at: WallTime,
        /// The message.
        id: MessageId,
        /// Its sender; empty is the null sender.
        sender: Box<str>,
        /// Its first recipient.
        recipient: Box<str>,
        /// How many recipients it has.
        recipients: u16,
        /// Bytes, trace header included.
        size: u64,
        /// Who sent it.
        client: IpAddr,
    },
    /// Recipients of a leg were tried, or given up.
    Outcome {
        /// When.
        at: WallTime,
        /// The message.
        id: MessageId,
        /// Domain of the leg.
        domain: Box<str>,
        /// How many recipients share this result.
        recipients: u16,
        /// What it means.
        verdict: Verdict,
        /// Why.
        reply: Reply,
        /// Host that was talked to; empty when there was none.
        host: Box<str>,
        /// Attempts so far.
        attempts: u16,
        /// Time since acceptance.
        delay: Duration,
        /// When the next try is due, if there is one.
        due: Option<WallTime>,
    },
    /// The sender was told what became of recipients, or must not be.
    Bounced {
        /// When.
        at: WallTime,
        /// The message that is reported on.
        id: MessageId,
        /// What was told; `None` if nothing.
        topic: Option<Topic>,
        /// Recipients that are settled by it.
        recipients: u16,
        /// The status notification, if one was queued.
        notification: Option<MessageId>,
    },
    /// A client was refused a transaction or a recipient.
    Rejected {
        /// When.
        at: WallTime,
        /// Who.
        client: IpAddr,
        /// Our reply.
        reply: Reply,
        /// What it was about: sender or recipient, as far as known.
        about: Box<str>,
    },
    /// A session or a connection ended otherwise than by QUIT. Logged at level debug: peers do this all day.
    SessionError {
        /// When.
        at: WallTime,
        /// The other end.
        peer: IpAddr,
        /// What happened.
        what: Box<str>,
    },
    /// Something local that is worth a line and asks for nothing. Logged at level warn.
    Notice {
        /// When.
        at: WallTime,
        /// Which part of the relay.
        part: &'static str,
        /// What happened.
        what: Box<str>,
    },
    /// Something local went wrong: disk, memory, descriptors. Logged at level error.
    Trouble {
        /// When.
        at: WallTime,
        /// Which part of the relay.
        part: &'static str,
        /// What happened, and what to do about it.
        what: Box<str>,
    },
}

impl Event {
    /// The event for a message that became durable at `at`. It copies two addresses and keeps no share of the body, so
    /// that a log that cannot write keeps little memory.
    pub fn accepted(at: WallTime, id: MessageId, envelope: &Envelope, size: u64, client: IpAddr) -> Self {
        let recipient = envelope.recipients().next().map_or("", |recipient| recipient.mailbox);
        let recipients = envelope.legs().map(|leg| leg.count).sum();
        Self::Accepted {
            at,
            id,
            sender: envelope.sender().into(),
            recipient: recipient.into(),
            recipients,
            size,
            client,
        }
    }
}

/// A role's end of the channel to the log. Cloned within its thread; clones share the count of drops.
#[derive(Clone, Debug)]
pub struct EventSender {
    channel: Sender<Event>,
    dropped: Rc<Cell<u64>>,
}

impl EventSender {
    /// Makes this thread's sender of `channel`.
    pub fn new(channel: Sender<Event>) -> Self {
        Self { channel, dropped: Rc::default() }
    }

    /// Hands `event` to the log, or drops and counts it when the log is behind.
    pub fn send(&self, event: Event) {
        if self.channel.try_send(event).is_err() {
            self.dropped.set(self.dropped.get() + 1);
        }
    }

    /// Events dropped by this thread.
    pub fn dropped(&self) -> u64 {
        self.dropped.get()
    }
}

/// The channel from all roles to the log.
pub fn event_channel() -> (Sender<Event>, Receiver<Event>) {
    bounded(EVENTS_WAITING_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envelope::{EnvelopeBuilder, Notify, Parameters};

    #[test]
    fn a_log_that_is_behind_costs_events_and_they_are_counted() {
        let (channel, receiver) = bounded(1);
        let sender = EventSender::new(channel);
        let event = || Event::Trouble { at: WallTime(0), part: "test", what: "x".into() };
        let clone = sender.clone();
        sender.send(event());
        clone.send(event());
        sender.send(event());
        assert_eq!((sender.dropped(), receiver.len()), (2, 1));
    }

    #[test]
    fn an_accepted_event_names_the_first_recipient_and_counts_all() {
        let mut builder = EnvelopeBuilder::default();
        builder.begin("from@example.com", Parameters::default(), "");
        for mailbox in ["a@one.example", "b@two.example", "c@one.example"] {
            builder.push_recipient(mailbox, Notify::DEFAULT, "").expect("room");
        }
        let envelope = builder.encode(WallTime(1), WallTime(2));
        let client = "127.0.0.1".parse().expect("address");
        let event = Event::accepted(WallTime(1), MessageId::from_u64(7), &envelope, 10, client);
        let Event::Accepted { sender, recipient, recipients, .. } = event else { panic!("another event") };
        assert_eq!((&*sender, &*recipient, recipients), ("from@example.com", "a@one.example", 3));
    }
}
