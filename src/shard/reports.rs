//! PURE. Whom the sender of a message is to be told of next, and what the record says when that is done.

use crate::bounce::{Fate, Reported};
use crate::envelope::{Envelope, Recipient};
use crate::id::MessageId;
use crate::outcome::{Bounced, LegState, Reply, Verdict};
use crate::queue::Late;

/// A recipient that the sender is to be told of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Report<'a> {
    pub recipient: Recipient<'a>,
    /// First recipient of its leg.
    pub leg: u16,
    pub fate: Fate,
    /// The last words about it.
    pub reply: Option<Reply>,
}

impl Report<'_> {
    /// As a notification wants it.
    pub fn reported(&self) -> Reported<'_> {
        let Self { recipient, fate, reply, .. } = self;
        Reported { recipient: *recipient, fate: *fate, reply: reply.as_ref(), remote: "" }
    }
}

/// What to tell next of a message, all of one topic: failures, then success, then delay. Empty when there is nothing left.
/// `hindrance` says what stands in the way of a leg that has not been answered by any remote.
pub(super) fn next<'a>(
    envelope: &'a Envelope,
    owed: &[LegState],
    late: &[Late],
    hindrance: impl Fn(&Late) -> Option<Reply>,
) -> Vec<Report<'a>> {
    let mut reports = Vec::new();
    for state in owed {
        push(&mut reports, envelope, state, (state.owed, Verdict::Failed), Fate::Failed);
    }
    if reports.is_empty() {
        for state in owed {
            push(&mut reports, envelope, state, (state.relayed, Verdict::Relayed), Fate::Relayed);
            push(&mut reports, envelope, state, (state.placed, Verdict::Placed), Fate::Delivered);
        }
    }
    if reports.is_empty() {
        for late in late {
            let (told, fate) = (reports.len(), Fate::Delayed { until: late.until });
            push(&mut reports, envelope, &late.state, (late.state.open, Verdict::Deferred), fate);
            let unanswered = reports[told..].iter_mut().filter(|report| report.reply.is_none());
            unanswered.for_each(|report| report.reply = hindrance(late));
        }
    }
    reports.sort_by_key(|report| report.recipient.index);
    reports
}

/// Adds the recipients of a leg that are in the set, with the reply that put them there.
fn push<'a>(
    reports: &mut Vec<Report<'a>>,
    envelope: &'a Envelope,
    state: &LegState,
    (set, verdict): (u64, Verdict),
    fate: Fate,
) {
    if set == 0 {
        return;
    }
    let leg = state.leg;
    for recipient in envelope.recipients() {
        let place = recipient.index.checked_sub(leg).filter(|place| *place < 64);
        let Some(bit) = place.map(|place| 1u64 << place).filter(|bit| set & bit != 0) else { continue };
        let about =
            |result: &&crate::outcome::LegResult| result.verdict == verdict && result.recipients & bit != 0;
        let reply = state.replies.iter().find(about).map(|result| result.reply.clone());
        reports.push(Report { recipient, leg, fate, reply });
    }
}

/// The record of message `id` that settles these reports, without a notification. A leg of whose delay a part was told counts
/// as told: once is enough.
pub(super) fn settled(id: MessageId, reports: &[Report<'_>]) -> Bounced {
    let mut bounced = Bounced { id, legs: Vec::new(), delayed: Vec::new(), notification: None };
    for Report { recipient, leg, fate, .. } in reports {
        if let Fate::Delayed { .. } = fate {
            if !bounced.delayed.contains(leg) {
                bounced.delayed.push(*leg);
            }
            continue;
        }
        let bit = 1u64 << (recipient.index - leg);
        match bounced.legs.iter_mut().find(|(first, _)| first == leg) {
            Some((_, bits)) => *bits |= bit,
            None => bounced.legs.push((*leg, bit)),
        }
    }
    bounced
}

/// The record that settles all there is to tell of a message that cannot be told.
pub(super) fn given_up(id: MessageId, owed: &[LegState], late: &[Late]) -> Bounced {
    Bounced {
        id,
        legs: owed.iter().map(|state| (state.leg, state.reports())).collect(),
        delayed: late.iter().map(|late| late.state.leg).collect(),
        notification: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::WallTime;
    use crate::envelope::{EnvelopeBuilder, Notify, Parameters};
    use crate::id::PartId;
    use crate::outcome::{Enhanced, LegResult, Topic};

    fn envelope() -> Envelope {
        let mut builder = EnvelopeBuilder::default();
        builder.begin("s@a.test", Parameters::default(), "");
        for mailbox in ["a@one.test", "b@one.test", "c@two.test"] {
            builder.push_recipient(mailbox, Notify::DEFAULT, "").expect("fits");
        }
        builder.encode(WallTime(0), WallTime(0))
    }

    fn said(recipients: u64, verdict: Verdict, text: &str) -> LegResult {
        LegResult { recipients, verdict, reply: Reply::new(550, Enhanced(5, 1, 1), text) }
    }

    #[test]
    fn failures_go_first_then_success_then_delay_each_recipient_with_its_own_reply() {
        let envelope = envelope();
        let id = MessageId::new(PartId(0), 1);
        let mut one = LegState { owed: 0b10, relayed: 0b01, ..LegState::default() };
        one.replies = vec![said(0b01, Verdict::Relayed, "a went"), said(0b10, Verdict::Failed, "not b")];
        let two = LegState { leg: 2, owed: 1, ..LegState::default() };
        let two = LegState { replies: vec![said(1, Verdict::Failed, "not c")], ..two };
        let late = Late {
            state: LegState { leg: 2, open: 1, ..LegState::default() },
            until: WallTime(7),
            path: None,
            reason: None,
        };
        let ask = |owed: &[LegState]| -> (Vec<(&str, Topic, String)>, Bounced) {
            let why = |_: &Late| Some(Reply::new(0, Enhanced(4, 4, 1), "no way"));
            let reports = next(&envelope, owed, std::slice::from_ref(&late), why);
            let words =
                |report: &Report<'_>| report.reply.as_ref().map_or("", |reply| &*reply.text).to_owned();
            let told =
                reports.iter().map(|one| (one.recipient.mailbox, one.fate.topic(), words(one))).collect();
            (told, settled(id, &reports))
        };
        let none = Bounced { id, legs: Vec::new(), delayed: Vec::new(), notification: None };
        let failed = |mailbox, text: &str| (mailbox, Topic::Failure, text.to_owned());
        let (told, bounced) = ask(&[one.clone(), two]);
        assert_eq!(told, [failed("b@one.test", "not b"), failed("c@two.test", "not c")]);
        assert_eq!(bounced, Bounced { legs: vec![(0, 0b10), (2, 1)], ..none.clone() });
        one.owed = 0;
        let (told, bounced) = ask(&[one]);
        assert_eq!(told, [("a@one.test", Topic::Success, "a went".to_owned())]);
        assert_eq!(bounced, Bounced { legs: vec![(0, 0b01)], ..none.clone() });
        let (told, bounced) = ask(&[]);
        assert_eq!(told, [("c@two.test", Topic::Delay, "no way".to_owned())]);
        assert_eq!(bounced, Bounced { delayed: vec![2], ..none });
    }
}
