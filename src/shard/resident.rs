//! PURE. Accepted messages kept in memory for a quick delivery, within a budget of bytes and for a short time.
//!
//! A message that is not here is on disk: keeping it saves the worker a read, nothing more. The oldest go first; one that
//! is not sent soon (its path holds mail, rests, or has a backlog) does not stay.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::hash::HashState;

use crate::clock::Moment;
use crate::id::MessageId;
use crate::message::Message;

/// How long a message is kept: a delivery that goes well has begun long before.
const KEPT_FOR: Duration = Duration::from_secs(3);

/// Messages of one shard.
#[derive(Debug)]
pub struct Resident {
    bytes_max: usize,
    bytes: usize,
    messages: HashMap<MessageId, Arc<Message>, HashState>,
    /// In order of arrival; ids that have left since are skipped.
    order: VecDeque<(MessageId, Moment)>,
}

impl Resident {
    /// Keeps at most `bytes_max` bytes.
    pub fn new(bytes_max: usize) -> Self {
        Self { bytes_max, bytes: 0, messages: HashMap::default(), order: VecDeque::new() }
    }

    /// Takes a message in; older ones leave as needed.
    pub fn insert(&mut self, message: Arc<Message>, now: Moment) {
        self.bytes += message.resident_bytes();
        self.order.push_back((message.id, now));
        self.messages.insert(message.id, message);
        while self.bytes > self.bytes_max
            && let Some((oldest, _)) = self.order.pop_front()
        {
            self.take(oldest);
        }
        // Ids that left out of turn must not pile up.
        if self.order.len() > 2 * self.messages.len() + 1024 {
            self.order.retain(|(id, _)| self.messages.contains_key(id));
        }
    }

    /// Lets go what has been here for too long; when to look again.
    pub fn expire(&mut self, now: Moment) -> Option<Moment> {
        while let Some((oldest, since)) = self.order.front().copied() {
            if self.messages.contains_key(&oldest) && now.since(since) < KEPT_FOR {
                return Some(since + KEPT_FOR);
            }
            self.order.pop_front();
            self.take(oldest);
        }
        None
    }

    /// The message, if it is here.
    pub fn message(&self, id: MessageId) -> Option<&Arc<Message>> {
        self.messages.get(&id)
    }

    /// Lets a message go: it is settled, or will wait for long.
    pub fn remove(&mut self, id: MessageId) {
        self.take(id);
    }

    /// Bytes kept.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn take(&mut self, id: MessageId) {
        if let Some(message) = self.messages.remove(&id) {
            self.bytes -= message.resident_bytes();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::WallTime;
    use crate::envelope::{EnvelopeBuilder, Notify, Parameters};
    use crate::id::PartId;

    fn message(sequence: u64) -> Arc<Message> {
        let mut builder = EnvelopeBuilder::default();
        builder.begin("", Parameters::default(), "");
        builder.push_recipient("a@b.test", Notify::DEFAULT, "").expect("one recipient fits");
        let envelope = builder.encode(WallTime(0), WallTime(0));
        Arc::new(Message { id: MessageId::new(PartId(0), sequence), envelope, body: vec![0; 1000] })
    }

    #[test]
    fn the_budget_holds_and_the_oldest_leave_first() {
        let each = message(0).resident_bytes();
        let mut resident = Resident::new(3 * each);
        (0..5).for_each(|sequence| resident.insert(message(sequence), Moment(0)));
        let kept: Vec<_> =
            (0..5).filter(|s| resident.message(MessageId::new(PartId(0), *s)).is_some()).collect();
        assert_eq!((kept, resident.bytes()), (vec![2, 3, 4], 3 * each));
    }

    #[test]
    fn a_message_that_is_not_sent_soon_does_not_stay() {
        let mut resident = Resident::new(1 << 20);
        resident.insert(message(0), Moment(0));
        resident.insert(message(1), Moment(1_000_000));
        assert_eq!(resident.expire(Moment(2_999_999)), Some(Moment(3_000_000)));
        assert_eq!(resident.expire(Moment(3_000_000)), Some(Moment(4_000_000)));
        assert!(resident.message(MessageId::new(PartId(0), 0)).is_none());
        assert_eq!(resident.expire(Moment(9_000_000)), None);
        assert_eq!(resident.bytes(), 0);
    }

    #[test]
    fn messages_that_left_by_themselves_leave_nothing_behind() {
        let mut resident = Resident::new(1 << 20);
        for sequence in 0..100_000 {
            let message = message(sequence);
            resident.insert(message.clone(), Moment(0));
            resident.remove(message.id);
        }
        assert_eq!(resident.bytes(), 0);
        assert!(resident.order.len() <= 1025, "{}", resident.order.len());
    }
}
