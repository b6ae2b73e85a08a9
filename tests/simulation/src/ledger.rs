//! PURE. What clients were told and what remotes took: the oracle.
//!
//! The law: a message that was answered 250 is, at every instant and after any crash, queued, delivered or bounced for
//! each recipient. And: what was refused is not delivered, and nothing is delivered twice without a reason. A sender who asked to
//! be told of success is told, by the remote or by the relay, and that may be lost as little as the message; nobody is
//! told the same of a recipient twice, nor what is not so.

use std::collections::{BTreeMap, BTreeSet};

use crate::mail::{Recipient, Said, asks_for_success};

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
    /// Deliveries to remotes that were asked to report success.
    passed_on: u32,
    /// What the sender was told, with the identities of the notifications.
    said: BTreeMap<Said, BTreeSet<String>>,
    /// It is for somebody whose mail must bounce.
    must_bounce: bool,
}

impl Entry {
    fn was_told(&self, said: Said) -> bool {
        self.said.contains_key(&said)
    }

    /// Whether all is done that was promised by a 250.
    fn is_done(&self, recipient: Recipient) -> bool {
        let is_told = !asks_for_success(recipient) || self.passed_on > 0 || self.was_told(Said::Succeeded);
        self.was_told(Said::Failed) || (!self.delivered.is_empty() && is_told)
    }

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
    /// Of those, told by the relay that they were delivered or handed on.
    pub succeeded: u32,
    /// Of those, told to be late.
    pub delayed: u32,
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
    /// whether it was what was sent, `reports` whether the remote was asked to report success.
    pub fn delivered(&mut self, recipient: Recipient, intact: bool, reports: bool, crashes: u32) {
        let entry = self.entries.entry(recipient).or_default();
        entry.delivered.push(crashes);
        entry.passed_on += u32::from(reports);
        let mut wrong = Vec::new();
        if reports && !asks_for_success(recipient) {
            wrong.push("is to be reported on, which nobody asked for");
        }
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

    /// The sender was told something of a recipient, by the notification `id`.
    pub fn reported(&mut self, recipient: Recipient, said: Said, id: &str) {
        let entry = self.entries.entry(recipient).or_default();
        let ids = entry.said.entry(said).or_default();
        ids.insert(id.to_owned());
        let mut wrong = Vec::new();
        if ids.len() > 1 {
            wrong.push(format!("was said twice to have {said:?}"));
        }
        let asks = asks_for_success(recipient);
        let is_so = match said {
            Said::Failed => true,
            Said::Delayed => !asks,
            Said::Succeeded => asks && entry.delivered.len() > entry.passed_on as usize,
        };
        if !is_so {
            wrong.push(format!("was said to have {said:?}, which is not so, or not to be said"));
        }
        self.violations.extend(wrong.into_iter().map(|what| Violation(format!("{recipient:?} {what}"))));
    }

    /// Recipients that were answered 250 and of whom something is left to be done: they must be in the queue.
    pub fn owed(&self) -> impl Iterator<Item = Recipient> {
        let owed = |recipient, entry: &Entry| entry.told == Told::Accepted && !entry.is_done(recipient);
        let owing = self.entries.iter().filter(move |(recipient, entry)| owed(**recipient, entry));
        owing.map(|(recipient, _)| *recipient)
    }

    /// Recipients that bounced although they had no reason to.
    pub fn bounced_without_reason(&self) -> Vec<Recipient> {
        let bounced =
            self.entries.iter().filter(|(_, entry)| entry.was_told(Said::Failed) && !entry.must_bounce);
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
            let told = |said| u32::from(entry.told == Told::Accepted && entry.was_told(said));
            totals.bounced += told(Said::Failed);
            totals.succeeded += told(Said::Succeeded);
            totals.delayed += told(Said::Delayed);
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
        ledger.reported(ONE, Said::Failed, "1");
        assert_eq!(ledger.owed().count(), 0);
        assert_eq!(ledger.bounced_without_reason(), [ONE]);
        ledger.sending(ONE, true);
        assert!(ledger.bounced_without_reason().is_empty());
    }

    #[test]
    fn who_asked_to_be_told_of_success_is_owed_that_until_somebody_has_said_it_and_once_is_enough() {
        let asks = Recipient { message: 3, nth: 0 };
        assert!(asks_for_success(asks) && !asks_for_success(ONE));
        for passed_on in [false, true] {
            let mut ledger = Ledger::default();
            ledger.told(asks, Told::Accepted);
            ledger.delivered(asks, true, passed_on, 0);
            assert_eq!(ledger.owed().count(), usize::from(!passed_on));
            assert_eq!(ledger.violation(), None);
            ledger.reported(asks, Said::Succeeded, "1");
            assert_eq!((ledger.owed().count(), ledger.violation().is_some()), (0, passed_on));
            ledger.reported(asks, Said::Succeeded, "1");
            ledger.reported(asks, Said::Succeeded, "2");
            assert!(ledger.violation().is_some());
        }
        let mut ledger = Ledger::default();
        ledger.reported(ONE, Said::Delayed, "1");
        assert_eq!(ledger.violation(), None);
        ledger.reported(asks, Said::Delayed, "1");
        assert!(ledger.violation().is_some_and(|wrong| wrong.0.contains("not to be said")));
    }

    #[test]
    fn a_repeat_needs_a_doubt_or_a_crash() {
        let mut ledger = Ledger::default();
        ledger.told(ONE, Told::Accepted);
        ledger.delivered(ONE, true, false, 0);
        ledger.in_doubt(ONE);
        ledger.delivered(ONE, true, false, 0);
        ledger.crashed();
        ledger.delivered(ONE, true, false, 1);
        ledger.check_repeats();
        assert_eq!(ledger.violation(), None);
        ledger.delivered(ONE, true, false, 1);
        ledger.delivered(ONE, true, false, 1);
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
            ledger.delivered(ONE, intact, false, 0);
            assert!(ledger.violation().is_some_and(|wrong| wrong.0.contains(word)), "{word}");
        }
    }
}
