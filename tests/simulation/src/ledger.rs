//! PURE. What clients were told and what remotes took: the oracle.
//!
//! The law: a message that was answered 250 is, at every instant and after any crash, queued, delivered or bounced for
//! each recipient. And: what was refused is not delivered, nothing is delivered twice without a reason, and no recipient is
//! reported as failed by two notifications, whatever happens: a notification and the settlement are one batch.

use std::collections::BTreeMap;

use crate::mail::Recipient;

/// What the client heard about a recipient.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Told {
    /// Nothing yet: it is under way.
    #[default]
    Nothing,
    /// 250 to the end of data.
    Accepted,
    /// 4xx or 5xx.
    Refused,
    /// The connection was lost before an answer.
    Unknown,
}

#[derive(Clone, Debug, Default)]
struct Entry {
    told: Told,
    /// Crashes of the relay when it was told so.
    told_after: u32,
    /// For each delivery, how many crashes there had been.
    delivered: Vec<u32>,
    /// Deliveries that the relay may not have heard of.
    in_doubt: usize,
    /// The notification that reported it as failed; it may itself be delivered more than once.
    bounced: Option<String>,
    /// It is for somebody whose mail must bounce.
    must_bounce: bool,
}

impl Entry {
    /// A crash may repeat a delivery, and so may a doubt; nothing else.
    fn is_repeated_without_reason(&self) -> bool {
        let since = |crashes: &u32| self.delivered.iter().filter(|other| *other == crashes).count();
        self.delivered.iter().any(|crashes| since(crashes) > 1 + self.in_doubt)
    }
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation(pub String);

/// The ledger of a run.
#[derive(Debug, Default)]
pub struct Ledger {
    entries: BTreeMap<Recipient, Entry>,
    /// Ends of the relay without a clean stop, and commits that were given up: each may repeat what was in flight.
    crashes: u32,
    violations: Vec<Violation>,
}

/// Counts at the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Recipients answered 250.
    pub accepted: u32,
    /// Of those, delivered.
    pub delivered: u32,
    /// Of those, bounced.
    pub bounced: u32,
    /// Deliveries beyond the first of a recipient.
    pub repeated: u32,
    /// Refused recipients.
    pub refused: u32,
    /// Recipients without an answer.
    pub unknown: u32,
}

impl Ledger {
    /// A recipient is about to be named to the relay. `must_bounce` says whether its mail has to.
    pub fn sending(&mut self, recipient: Recipient, must_bounce: bool) {
        self.entries.entry(recipient).or_default().must_bounce = must_bounce;
    }

    /// A client was told about a recipient.
    pub fn told(&mut self, recipient: Recipient, told: Told) {
        let crashes = self.crashes;
        let entry = self.entries.entry(recipient).or_default();
        (entry.told, entry.told_after) = (told, crashes);
        if told == Told::Refused && entry.delivered.contains(&crashes) {
            self.violations.push(Violation(format!("{recipient:?} was delivered and then refused")));
        }
    }

    /// The relay ended otherwise than by a clean stop.
    pub fn crashed(&mut self) {
        self.crashes += 1;
    }

    /// Crashes so far.
    pub fn crashes(&self) -> u32 {
        self.crashes
    }

    /// A remote took a message for a recipient, over a connection that was made after so many `crashes`. `intact` says
    /// whether it was what was sent.
    pub fn delivered(&mut self, recipient: Recipient, intact: bool, crashes: u32) {
        let entry = self.entries.entry(recipient).or_default();
        entry.delivered.push(crashes);
        let mut wrong = Vec::new();
        if !intact {
            wrong.push("was delivered, but not as it was sent");
        }
        if entry.told == Told::Refused && entry.told_after == crashes {
            wrong.push("was refused, and delivered");
        }
        self.violations.extend(wrong.into_iter().map(|what| Violation(format!("{recipient:?} {what}"))));
    }

    /// The remote cannot know whether the relay heard of a delivery.
    pub fn in_doubt(&mut self, recipient: Recipient) {
        self.entries.entry(recipient).or_default().in_doubt += 1;
    }

    /// The sender was told by `notification` that a recipient failed.
    pub fn bounced(&mut self, recipient: Recipient, notification: &str) {
        let entry = self.entries.entry(recipient).or_default();
        let first = entry.bounced.get_or_insert_with(|| notification.to_owned());
        if first != notification {
            let what = format!("{recipient:?} was reported as failed twice, by {first} and {notification}");
            self.violations.push(Violation(what));
        }
    }

    /// Recipients that were answered 250 and are neither delivered nor bounced: they must be in the queue.
    pub fn owed(&self) -> impl Iterator<Item = Recipient> {
        let owed = |entry: &Entry| {
            entry.told == Told::Accepted && entry.delivered.is_empty() && entry.bounced.is_none()
        };
        self.entries.iter().filter(move |(_, entry)| owed(entry)).map(|(recipient, _)| *recipient)
    }

    /// Recipients that bounced although they had no reason to.
    pub fn bounced_without_reason(&self) -> Vec<Recipient> {
        let bounced = self.entries.iter().filter(|(_, entry)| entry.bounced.is_some() && !entry.must_bounce);
        bounced.map(|(recipient, _)| *recipient).collect()
    }

    /// Looks for what was delivered twice without a reason, when every remote has said what it doubts.
    pub fn check_repeats(&mut self) {
        let repeated = self.entries.iter().filter(|(_, entry)| entry.is_repeated_without_reason());
        let wrong = repeated.map(|(recipient, entry)| {
            Violation(format!("{recipient:?} was delivered again without a reason: {entry:?}"))
        });
        self.violations.extend(wrong);
    }

    /// The first thing that went wrong.
    pub fn violation(&self) -> Option<&Violation> {
        self.violations.first()
    }

    /// Counts.
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for entry in self.entries.values() {
            match entry.told {
                Told::Accepted => totals.accepted += 1,
                Told::Refused => totals.refused += 1,
                Told::Unknown | Told::Nothing => totals.unknown += 1,
            }
            totals.delivered += u32::from(entry.told == Told::Accepted && !entry.delivered.is_empty());
            totals.bounced += u32::from(entry.told == Told::Accepted && entry.bounced.is_some());
            totals.repeated += (entry.delivered.len() as u32).saturating_sub(1);
        }
        totals
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Recipient = Recipient { message: 1, nth: 0 };

    #[test]
    fn what_was_accepted_is_owed_until_it_is_delivered_or_bounced() {
        let mut ledger = Ledger::default();
        ledger.told(ONE, Told::Accepted);
        assert_eq!(ledger.owed().collect::<Vec<_>>(), [ONE]);
        ledger.bounced(ONE, "<1>");
        assert_eq!(ledger.owed().count(), 0);
        assert_eq!(ledger.bounced_without_reason(), [ONE]);
        ledger.sending(ONE, true);
        assert!(ledger.bounced_without_reason().is_empty());
    }

    #[test]
    fn a_notification_may_come_twice_and_a_second_one_may_not() {
        let mut ledger = Ledger::default();
        ledger.told(ONE, Told::Accepted);
        ledger.bounced(ONE, "<1>");
        ledger.crashed();
        ledger.bounced(ONE, "<1>");
        assert_eq!(ledger.violation(), None);
        ledger.bounced(ONE, "<2>");
        assert!(ledger.violation().is_some_and(|wrong| wrong.0.contains("failed twice")));
    }

    #[test]
    fn a_repeat_needs_a_doubt_or_a_crash() {
        let mut ledger = Ledger::default();
        ledger.told(ONE, Told::Accepted);
        ledger.delivered(ONE, true, 0);
        ledger.in_doubt(ONE);
        ledger.delivered(ONE, true, 0);
        ledger.crashed();
        ledger.delivered(ONE, true, 1);
        ledger.check_repeats();
        assert_eq!(ledger.violation(), None);
        ledger.delivered(ONE, true, 1);
        ledger.delivered(ONE, true, 1);
        ledger.check_repeats();
        assert!(ledger.violation().is_some_and(|wrong| wrong.0.contains("again without a reason")));
    }

    #[test]
    fn refused_mail_must_not_arrive_and_changed_mail_neither() {
        for (told, intact, word) in
            [(Told::Refused, true, "refused"), (Told::Accepted, false, "not as it was sent")]
        {
            let mut ledger = Ledger::default();
            ledger.told(ONE, told);
            ledger.delivered(ONE, intact, 0);
            assert!(ledger.violation().is_some_and(|wrong| wrong.0.contains(word)), "{word}");
        }
    }
}
