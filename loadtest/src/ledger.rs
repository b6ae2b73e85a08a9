//! PURE. The judge: what the source was told about each recipient of each message, against what reached the sink.
//!
//! One byte for each recipient of each message, in pages made when first touched, so that tens of millions fit:
//!
//! | bits | meaning |
//! | --- | --- |
//! | 0–2 | what the source was told: nothing, or an [`Answer`] |
//! | 3 | the sink refused it for good: a bounce is owed, arrival is no longer expected |
//! | 4–7 | arrivals, stops counting at 15 |
//!
//! | told | must arrive |
//! | --- | --- |
//! | accepted | once; or not at all if the sink refused it for good |
//! | refused, aborted | never |
//! | unknown | any number of times, 0 included: the reply was lost, not the message |
//!
//! It does not know about sockets, threads or time.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::limits::{MESSAGES_MAX, RECIPIENTS_MAX, RUNS_MAX};
use crate::wire::mark::{Id, Run};

/// What the source was told about a recipient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// 2xx to the end of data: the relay has taken responsibility.
    Accepted,
    /// 4xx or 5xx, at any stage.
    Refused,
    /// The end of data was sent, and the connection was lost before its reply.
    Unknown,
    /// The connection was lost before the end of data was sent.
    Aborted,
}

const TOLD: u8 = 0b0000_0111;
const FAILED: u8 = 0b0000_1000;
const ARRIVAL: u8 = 0b0001_0000;
const ACCEPTED: u8 = 1;
const REFUSED: u8 = 2;
const UNKNOWN: u8 = 3;
const ABORTED: u8 = 4;

/// The state of one recipient of one message.
#[derive(Clone, Copy, Default)]
struct Slot(u8);

impl Slot {
    fn told(self) -> u8 {
        self.0 & TOLD
    }
    fn failed(self) -> bool {
        self.0 & FAILED != 0
    }
    fn arrivals(self) -> u64 {
        u64::from(self.0 / ARRIVAL)
    }
    /// Accepted, and neither arrived nor refused by the sink.
    fn outstanding(self) -> bool {
        self.told() == ACCEPTED && !self.failed() && self.arrivals() == 0
    }
}

const PAGE: usize = 1 << 16;

/// A sparse array of bytes.
#[derive(Default)]
struct Pages(Vec<Option<Box<[u8]>>>);

impl Pages {
    fn slot(&mut self, number: u64) -> &mut u8 {
        let (page, place) = (number as usize / PAGE, number as usize % PAGE);
        if self.0.len() <= page {
            self.0.resize_with(page + 1, || None);
        }
        &mut self.0[page].get_or_insert_with(|| vec![0; PAGE].into_boxed_slice())[place]
    }

    fn iter(&self) -> impl Iterator<Item = (u64, u8)> {
        let pages = self.0.iter().enumerate().filter_map(|(index, page)| Some((index, page.as_deref()?)));
        pages.flat_map(|(index, page)| {
            page.iter().enumerate().map(move |(place, byte)| ((index * PAGE + place) as u64, *byte))
        })
    }
}

/// One run's account.
#[derive(Default)]
pub struct Ledger {
    /// By recipient index, then by message number.
    recipients: Vec<Pages>,
    /// Bounces that came back, by message number.
    bounces: Pages,
    /// Messages of which a recipient was refused for good, by message number.
    owed: Pages,
    bounces_owed: u64,
    outstanding: u64,
    unique: u64,
    corrupted: u64,
    misdelivered: u64,
}

/// What the ledger says. Counts are of recipients unless said otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Verdict {
    /// Answered 2xx.
    pub accepted: u64,
    /// Answered 4xx or 5xx.
    pub refused: u64,
    /// The connection was lost before the reply.
    pub unknown: u64,
    /// The connection was lost before the end of data.
    pub aborted: u64,
    /// Different (message, recipient) pairs that reached the sink.
    pub arrived: u64,
    /// Accepted, that the sink refused for good and that have not arrived.
    pub failed_at_sink: u64,
    /// Accepted and never arrived. A fault.
    pub lost: u64,
    /// Accepted, and arrived again: arrivals beyond the first. A fault unless the relay was killed.
    pub repeated: u64,
    /// Refused or cut off, and yet arrived. A fault.
    pub refused_but_delivered: u64,
    /// Arrived after the sink had refused it for good. A fault.
    pub delivered_after_failure: u64,
    /// Arrived with a body that is not what was sent. A fault. Counts arrivals.
    pub corrupted: u64,
    /// Arrived for a recipient of another message. A fault. Counts arrivals.
    pub misdelivered: u64,
    /// Unknown ones that arrived.
    pub unknown_delivered: u64,
    /// Arrived, though this ledger knows no source's word about them.
    pub unasked: u64,
    /// Messages of which a bounce came back.
    pub bounced_messages: u64,
    /// Messages owed a bounce that has not come back.
    pub bounces_missing: u64,
}

impl Verdict {
    /// Nothing but what a correct relay may do. `repeats_allowed` after kills: at least once is the promise then.
    pub fn holds(&self, repeats_allowed: bool) -> bool {
        self.faults(repeats_allowed).is_empty()
    }

    /// What a correct relay may not do, each with its count.
    pub fn faults(&self, repeats_allowed: bool) -> Vec<String> {
        let faults = [
            (self.lost, "lost"),
            (if repeats_allowed { 0 } else { self.repeated }, "repeated"),
            (self.corrupted, "corrupted"),
            (self.misdelivered, "misdelivered"),
            (self.refused_but_delivered, "delivered although refused or cut off"),
            (self.delivered_after_failure, "delivered after the sink had refused it for good"),
        ];
        let happened = faults.into_iter().filter(|(count, _)| *count > 0);
        happened.map(|(count, what)| format!("{count} {what}")).collect()
    }
}

impl Ledger {
    /// The source was told `answer`. Each recipient is told once; a second word is ignored.
    pub fn answered(&mut self, number: u64, recipient: u16, answer: Answer) {
        let told = match answer {
            Answer::Accepted => ACCEPTED,
            Answer::Refused => REFUSED,
            Answer::Unknown => UNKNOWN,
            Answer::Aborted => ABORTED,
        };
        self.change(number, recipient, |slot| if slot.told() == 0 { Slot(slot.0 | told) } else { slot });
    }

    /// The sink accepted the message for `recipient`.
    pub fn arrived(&mut self, number: u64, recipient: u16, intact: bool) {
        let mut first = false;
        self.change(number, recipient, |slot| {
            first = slot.arrivals() == 0;
            Slot(slot.0.checked_add(ARRIVAL).unwrap_or(slot.0))
        });
        self.unique += u64::from(first);
        self.corrupted += u64::from(!intact);
    }

    /// The sink accepted the message for a recipient that is not one of its own.
    pub fn misdelivered(&mut self) {
        self.misdelivered += 1;
    }

    /// The sink refused `recipient` for good (5xx).
    pub fn failed(&mut self, number: u64, recipient: u16) {
        self.change(number, recipient, |slot| Slot(slot.0 | FAILED));
        if within(number, recipient) {
            let owed = self.owed.slot(number);
            let bounced = *self.bounces.slot(number) > 0;
            self.bounces_owed += u64::from(*owed == 0 && !bounced);
            *owed = 1;
        }
    }

    /// A bounce of the message reached the sink.
    pub fn bounced(&mut self, number: u64) {
        if within(number, 0) {
            let bounces = self.bounces.slot(number);
            self.bounces_owed -= u64::from(*bounces == 0 && *self.owed.slot(number) == 1);
            *bounces = bounces.saturating_add(1);
        }
    }

    /// Recipients accepted that have neither arrived nor been refused by the sink for good.
    pub fn outstanding(&self) -> u64 {
        self.outstanding
    }

    /// Messages owed a bounce that has not come back.
    pub fn bounces_owed(&self) -> u64 {
        self.bounces_owed
    }

    /// Different (message, recipient) pairs that arrived.
    pub fn unique(&self) -> u64 {
        self.unique
    }

    fn change(&mut self, number: u64, recipient: u16, change: impl FnOnce(Slot) -> Slot) {
        if !within(number, recipient) {
            return;
        }
        let index = usize::from(recipient);
        if self.recipients.len() <= index {
            self.recipients.resize_with(index + 1, Pages::default);
        }
        let byte = self.recipients[index].slot(number);
        let (before, after) = (Slot(*byte), change(Slot(*byte)));
        *byte = after.0;
        self.outstanding += u64::from(after.outstanding());
        self.outstanding -= u64::from(before.outstanding());
    }

    fn slots(&self) -> impl Iterator<Item = (u64, u16, Slot)> {
        (0u16..).zip(&self.recipients).flat_map(|(recipient, pages)| {
            pages
                .iter()
                .filter(|(_, byte)| *byte != 0)
                .map(move |(number, byte)| (number, recipient, Slot(byte)))
        })
    }

    /// The account as it stands.
    pub fn verdict(&self) -> Verdict {
        let mut verdict = Verdict {
            corrupted: self.corrupted,
            misdelivered: self.misdelivered,
            bounced_messages: self.bounces.iter().filter(|(_, count)| *count > 0).count() as u64,
            bounces_missing: self.bounces_owed,
            ..Verdict::default()
        };
        for (_, _, slot) in self.slots() {
            let arrivals = slot.arrivals();
            let here = u64::from(arrivals > 0);
            verdict.arrived += here;
            match slot.told() {
                ACCEPTED => {
                    verdict.accepted += 1;
                    verdict.lost += u64::from(slot.outstanding());
                    verdict.repeated += arrivals.saturating_sub(1);
                    verdict.failed_at_sink += u64::from(slot.failed() && arrivals == 0);
                    verdict.delivered_after_failure += u64::from(slot.failed()) * here;
                }
                REFUSED | ABORTED => {
                    verdict.refused += u64::from(slot.told() == REFUSED);
                    verdict.aborted += u64::from(slot.told() == ABORTED);
                    verdict.refused_but_delivered += here;
                }
                UNKNOWN => {
                    verdict.unknown += 1;
                    verdict.unknown_delivered += here;
                }
                _ => verdict.unasked += here,
            }
        }
        verdict
    }

    /// Up to `count` recipients that were lost or repeated, or refused and delivered, each with what went wrong.
    pub fn examples(&self, count: usize) -> Vec<(u64, u16, &'static str)> {
        let fault = |slot: Slot| match slot.told() {
            ACCEPTED if slot.outstanding() => Some("lost"),
            ACCEPTED if slot.arrivals() > 1 => Some("repeated"),
            ACCEPTED if slot.failed() && slot.arrivals() > 0 => Some("delivered after a permanent refusal"),
            REFUSED | ABORTED if slot.arrivals() > 0 => Some("refused but delivered"),
            _ => None,
        };
        let faults =
            self.slots().filter_map(|(number, recipient, slot)| Some((number, recipient, fault(slot)?)));
        faults.take(count).collect()
    }

    /// Numbers whose recipient `recipient` arrived, as inclusive ranges in order.
    pub fn arrived_ranges(&self, recipient: u16) -> Vec<(u64, u64)> {
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        let Some(pages) = self.recipients.get(usize::from(recipient)) else { return ranges };
        for (number, _) in pages.iter().filter(|(_, byte)| Slot(*byte).arrivals() > 0) {
            match ranges.last_mut() {
                Some(last) if last.1 + 1 == number => last.1 = number,
                _ => ranges.push((number, number)),
            }
        }
        ranges
    }

    /// Recipients of a message that any word is known of: one more than the highest index.
    pub fn recipients(&self) -> u16 {
        u16::try_from(self.recipients.len()).unwrap_or(u16::MAX)
    }
}

/// Numbers come from the network too: none may make the ledger allocate without bound.
fn within(number: u64, recipient: u16) -> bool {
    number < MESSAGES_MAX && recipient < RECIPIENTS_MAX
}

/// The ledgers of the runs that a sink has seen.
#[derive(Default)]
pub struct Books {
    runs: BTreeMap<Run, Ledger>,
}

impl Books {
    /// The ledger of a run, made if there is room for another.
    pub fn ledger(&mut self, run: Run) -> Option<&mut Ledger> {
        if self.runs.len() >= RUNS_MAX && !self.runs.contains_key(&run) {
            return None;
        }
        Some(self.runs.entry(run).or_default())
    }

    /// The ledger of the message `id`, if it is one that can be kept.
    pub fn ledger_of(&mut self, id: Id) -> Option<&mut Ledger> {
        if within(id.number, 0) { self.ledger(id.run) } else { None }
    }

    /// All runs.
    pub fn iter(&self) -> impl Iterator<Item = (Run, &Ledger)> {
        self.runs.iter().map(|(run, ledger)| (*run, ledger))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(
        told: &[Answer],
        arrivals: u32,
        failed: bool,
        want: impl Fn(&Verdict) -> u64,
        holds: bool,
        why: &str,
    ) {
        let mut ledger = Ledger::default();
        if failed {
            ledger.failed(70_000, 3);
        }
        told.iter().for_each(|answer| ledger.answered(70_000, 3, *answer));
        (0..arrivals).for_each(|_| ledger.arrived(70_000, 3, true));
        let verdict = ledger.verdict();
        assert_eq!(want(&verdict), 1, "{why}: {verdict:?}");
        assert_eq!(verdict.holds(false), holds, "{why}: {verdict:?}");
        assert_eq!(ledger.outstanding(), verdict.lost, "{why}");
        assert_eq!(ledger.examples(9).is_empty(), holds, "{why}");
    }

    #[test]
    fn each_answer_allows_only_its_own_arrivals() {
        use Answer::{Aborted, Accepted, Refused, Unknown};
        check(&[Accepted], 1, false, |v| v.arrived, true, "accepted and here");
        check(&[Accepted], 0, false, |v| v.lost, false, "accepted and gone");
        check(&[Accepted], 2, false, |v| v.repeated, false, "accepted and here twice");
        check(&[Accepted], 0, true, |v| v.failed_at_sink, true, "accepted and refused by the sink");
        check(&[Accepted], 1, true, |v| v.delivered_after_failure, false, "tried again after 5xx");
        check(&[Refused], 0, false, |v| v.refused, true, "refused");
        check(&[Refused], 3, false, |v| v.refused_but_delivered, false, "refused and here");
        check(&[Aborted], 0, false, |v| v.aborted, true, "cut off");
        check(&[Aborted], 1, false, |v| v.refused_but_delivered, false, "cut off and here");
        check(&[Unknown], 0, false, |v| v.unknown, true, "unknown and gone");
        check(&[Unknown], 2, false, |v| v.unknown_delivered, true, "unknown and here twice");
        check(&[], 1, false, |v| v.unasked, true, "another process asked");
        check(&[Accepted, Refused], 1, false, |v| v.accepted, true, "the first word counts");
    }

    #[test]
    fn arrival_may_come_before_the_answer() {
        let mut ledger = Ledger::default();
        ledger.arrived(5, 0, true);
        assert_eq!(ledger.outstanding(), 0);
        ledger.answered(5, 0, Answer::Accepted);
        assert_eq!(ledger.outstanding(), 0);
        assert!(ledger.verdict().holds(false));
    }

    #[test]
    fn counts_of_arrivals_stop_and_do_not_wrap_into_loss() {
        let mut ledger = Ledger::default();
        ledger.answered(0, 0, Answer::Accepted);
        (0..40).for_each(|_| ledger.arrived(0, 0, true));
        assert_eq!(ledger.verdict().repeated, 14);
        assert_eq!(ledger.outstanding(), 0);
    }

    #[test]
    fn a_corrupted_arrival_is_a_fault_and_no_loss() {
        let mut ledger = Ledger::default();
        ledger.answered(0, 0, Answer::Accepted);
        ledger.arrived(0, 0, false);
        let verdict = ledger.verdict();
        assert_eq!((verdict.lost, verdict.corrupted, verdict.holds(true)), (0, 1, false));
    }

    #[test]
    fn bounces_are_matched_with_what_is_owed_in_either_order() {
        let mut ledger = Ledger::default();
        ledger.failed(1, 0);
        ledger.failed(1, 1);
        ledger.bounced(2);
        ledger.failed(2, 0);
        assert_eq!(ledger.bounces_owed(), 1);
        ledger.bounced(1);
        ledger.bounced(1);
        assert_eq!((ledger.bounces_owed(), ledger.verdict().bounced_messages), (0, 2));
    }

    #[test]
    fn numbers_and_runs_from_the_network_cannot_take_all_memory() {
        let mut books = Books::default();
        for run in 0..1000 {
            if let Some(ledger) = books.ledger(Run(run)) {
                ledger.arrived(u64::MAX / 2, 0, true);
                ledger.arrived(0, u16::MAX, true);
                ledger.bounced(u64::MAX);
            }
        }
        assert_eq!(books.iter().count(), RUNS_MAX);
        assert_eq!(books.iter().map(|(_, ledger)| ledger.slots().count()).sum::<usize>(), 0);
    }

    #[test]
    fn ranges_join_neighbours_over_page_borders() {
        let mut ledger = Ledger::default();
        for number in [0, 1, 2, 9, 65_535, 65_536] {
            ledger.arrived(number, 0, true);
        }
        assert_eq!(ledger.arrived_ranges(0), [(0, 2), (9, 9), (65_535, 65_536)]);
    }
}
