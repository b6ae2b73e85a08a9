//! `ringpost spool list`: the messages that are not settled, as text for people or as an object a line for programs.

use std::fmt::Write as _;
use std::io::Write;
use std::time::Duration;

use serde::Serialize;

use super::{InspectError, Verdict, View};
use crate::clock::WallTime;
use crate::control::log::shown;
use crate::envelope::{Envelope, Recipient, Return};
use crate::id::{Location, MessageId};
use crate::net;
use crate::outcome::{Enhanced, LegState, Reply};
use crate::queue::LegView;
use crate::spool::reader::{self, ReadError};

/// A message that is not settled.
#[derive(Debug, Serialize)]
struct Row<'a> {
    id: String,
    /// Empty is the null sender.
    sender: &'a str,
    /// Bytes of the body.
    size: u64,
    accepted_at: String,
    expires_at: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    tenant: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    envid: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ret: Option<&'static str>,
    segment: u32,
    offset: u32,
    legs: Vec<LegRow<'a>>,
}

/// Its recipients in one domain of whom something is left to be done.
#[derive(Debug, Serialize)]
struct LegRow<'a> {
    domain: &'a str,
    attempts: u16,
    due: String,
    recipients: Vec<RecipientRow<'a>>,
}

#[derive(Debug, Serialize)]
struct RecipientRow<'a> {
    address: &'a str,
    state: State,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    notify: Vec<&'static str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    orcpt: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reply: Option<ReplyRow<'a>>,
}

/// What is left to be done for a recipient.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    /// To be tried.
    Open,
    /// Failed, and the sender has not been told.
    Owed,
    /// Handed on, and the sender, who asked, has not been told.
    Relayed,
    /// Delivered here, likewise.
    Placed,
}

impl State {
    /// What is to be done, in words.
    fn owes(self) -> &'static str {
        match self {
            State::Open => "",
            State::Owed => ", bounce owed",
            State::Relayed | State::Placed => ", report of success owed",
        }
    }
}

#[derive(Debug, Serialize)]
struct ReplyRow<'a> {
    /// 0 if the words are ours.
    code: u16,
    enhanced: String,
    text: &'a str,
}

/// Writes all messages, or those to `domain`.
pub(super) async fn list(
    view: &View,
    domain: Option<&str>,
    json: bool,
    out: &mut impl Write,
) -> Result<Verdict, InspectError> {
    let (now, mut shown, mut unreadable) = (net::now().wall, Totals::default(), 0);
    for id in &view.ids {
        let Some(message) = view.queue.describe(*id) else { continue };
        let wanted = |leg: &&LegView| domain.is_none_or(|domain| *leg.domain == *domain);
        let legs: Vec<_> = message.legs.iter().filter(wanted).collect();
        if legs.is_empty() {
            continue;
        }
        match opened(view, *id).await {
            Ok((envelope, size)) => {
                let row = row(*id, message.location, &envelope, size, &legs);
                shown.add(&row);
                if json {
                    let line = serde_json::to_string(&row).expect("text and numbers only");
                    writeln!(out, "{line}")?;
                } else {
                    out.write_all(text(&row, &envelope, &legs, now).as_bytes())?;
                }
            }
            Err(InspectError::Read(error @ (ReadError::Damaged { .. } | ReadError::Meta(_)))) => {
                unreadable += 1;
                eprintln!("ringpost: {error}");
            }
            Err(error) => return Err(error),
        }
    }
    if !json {
        writeln!(out, "{shown}")?;
    }
    let damage = view.parts.iter().any(|part| part.report().has_rot());
    if damage || unreadable > 0 {
        eprintln!(
            "ringpost: the spool is damaged, something may be missing here; see: ringpost spool verify {}",
            view.directory.display()
        );
        return Ok(Verdict::Damaged);
    }
    Ok(Verdict::Sound)
}

/// A message's envelope, and the bytes of its body.
async fn opened(view: &View, id: MessageId) -> Result<(Envelope, u64), InspectError> {
    let (part, pinned) = view.pin(id)?;
    let opened = reader::open(part.storage(), &pinned).await?;
    let chunks: usize = opened.chunks.iter().map(|chunk| reader::chunk_body_bytes(*chunk)).sum();
    Ok((opened.envelope, (chunks + opened.rest.len()) as u64))
}

fn row<'a>(
    id: MessageId,
    location: Location,
    envelope: &'a Envelope,
    size: u64,
    legs: &'a [&'a LegView],
) -> Row<'a> {
    let ret = match envelope.parameters().ret {
        Return::Unspecified => None,
        Return::Full => Some("full"),
        Return::Headers => Some("hdrs"),
    };
    let leg_row = |leg: &&'a LegView| LegRow {
        domain: &leg.domain,
        attempts: leg.state.attempts,
        due: time(leg.state.due),
        recipients: recipients(envelope, &leg.state).map(|found| recipient_row(found, &leg.state)).collect(),
    };
    Row {
        id: id.to_string(),
        sender: envelope.sender(),
        size,
        accepted_at: time(envelope.accepted_at()),
        expires_at: time(envelope.expires_at()),
        tenant: envelope.tenant(),
        envid: envelope.envid(),
        ret,
        segment: location.segment,
        offset: location.offset,
        legs: legs.iter().map(leg_row).collect(),
    }
}

/// Recipients of a leg for whom something is left to be done, each with its bit and state.
fn recipients<'a>(
    envelope: &'a Envelope,
    leg: &LegState,
) -> impl Iterator<Item = (Recipient<'a>, u64, State)> {
    let first = leg.leg;
    let states = [
        (leg.open, State::Open),
        (leg.owed, State::Owed),
        (leg.relayed, State::Relayed),
        (leg.placed, State::Placed),
    ];
    envelope.recipients().filter_map(move |recipient| {
        let place = recipient.index.checked_sub(first).filter(|place| *place < 64)?;
        let bit = 1u64 << place;
        let (_, state) = states.iter().find(|(recipients, _)| recipients & bit != 0)?;
        Some((recipient, bit, *state))
    })
}

fn recipient_row<'a>(
    (recipient, bit, state): (Recipient<'a>, u64, State),
    leg: &'a LegState,
) -> RecipientRow<'a> {
    let notify = recipient.notify;
    let named = [
        (crate::envelope::Notify::NEVER, "never"),
        (crate::envelope::Notify::SUCCESS, "success"),
        (crate::envelope::Notify::FAILURE, "failure"),
        (crate::envelope::Notify::DELAY, "delay"),
    ];
    RecipientRow {
        address: recipient.mailbox,
        state,
        notify: named.iter().filter(|(flag, _)| notify.0 & flag != 0).map(|(_, name)| *name).collect(),
        orcpt: recipient.original,
        reply: last_reply(leg, bit).map(|reply| ReplyRow {
            code: reply.code,
            enhanced: dotted(reply.enhanced),
            text: &reply.text,
        }),
    }
}

fn last_reply(leg: &LegState, bit: u64) -> Option<&Reply> {
    leg.replies.iter().find(|result| result.recipients & bit != 0).map(|result| &result.reply)
}

fn dotted(Enhanced(class, subject, detail): Enhanced) -> String {
    format!("{class}.{subject}.{detail}")
}

/// A message in some lines, for people.
fn text(row: &Row<'_>, envelope: &Envelope, legs: &[&LegView], now: WallTime) -> String {
    let age = span(now.since(envelope.accepted_at()));
    let sender = if row.sender.is_empty() { "<>".into() } else { shown(row.sender) };
    let mut text = format!("{}  {} old, {}, from {sender}\n", row.id, age, size(row.size));
    for (leg, view) in row.legs.iter().zip(legs) {
        let due = match (view.state.open, view.state.due.since(now)) {
            (0, _) if view.state.owed != 0 => "bounce owed".to_owned(),
            (0, _) => "report of success owed".to_owned(),
            (_, Duration::ZERO) => "due now".to_owned(),
            (_, wait) => format!("due in {}", span(wait)),
        };
        let attempts = count(leg.attempts.into(), "attempt");
        let _ = writeln!(text, "    {}: {due}, {attempts}", shown(leg.domain));
        for recipient in &leg.recipients {
            let _ = write!(text, "        {}{}", shown(recipient.address), recipient.state.owes());
            match &recipient.reply {
                Some(reply) if reply.code == 0 => {
                    let _ = writeln!(text, ": {} {}", reply.enhanced, shown(reply.text));
                }
                Some(reply) => {
                    let _ = writeln!(text, ": {} {} {}", reply.code, reply.enhanced, shown(reply.text));
                }
                None => text.push('\n'),
            }
        }
    }
    text
}

/// What was shown, added up.
#[derive(Debug, Default)]
struct Totals {
    messages: u64,
    bytes: u64,
    open: u64,
    owed: u64,
    succeeded: u64,
}

impl Totals {
    fn add(&mut self, row: &Row<'_>) {
        self.messages += 1;
        self.bytes += row.size;
        for recipient in row.legs.iter().flat_map(|leg| &leg.recipients) {
            *match recipient.state {
                State::Open => &mut self.open,
                State::Owed => &mut self.owed,
                State::Relayed | State::Placed => &mut self.succeeded,
            } += 1;
        }
    }
}

impl std::fmt::Display for Totals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { messages, bytes, open, owed, succeeded } = self;
        let recipients = count(*open, "recipient");
        write!(f, "{}, {}, {recipients} open", count(*messages, "message"), size(*bytes))?;
        if *owed > 0 {
            write!(f, ", {owed} with a bounce owed")?;
        }
        if *succeeded > 0 { write!(f, ", {succeeded} with a report of success owed") } else { Ok(()) }
    }
}

/// `1 message`, `2 messages`.
pub(super) fn count(number: u64, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

/// `512 B`, `4.1 KiB`, `50.0 MiB`.
pub(super) fn size(bytes: u64) -> String {
    let units = [(1u64 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.into_iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) => format!("{:.1} {name}", bytes as f64 / unit as f64),
        None => format!("{bytes} B"),
    }
}

/// `5 s`, `3 min`, `2 h 10 min`, `4 d 3 h`.
fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match () {
        () if days > 0 => format!("{days} d {} h", hours % 24),
        () if hours > 0 => format!("{hours} h {} min", minutes % 60),
        () if minutes > 0 => format!("{minutes} min"),
        () => format!("{seconds} s"),
    }
}

/// As log lines have it, in UTC with milliseconds; far beyond any calendar, the number alone.
fn time(at: WallTime) -> String {
    let stamp = i64::try_from(at.0).ok().and_then(|millis| jiff::Timestamp::from_millisecond(millis).ok());
    stamp.map_or_else(|| at.0.to_string(), |stamp| format!("{stamp:.3}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_spans_and_times_are_for_people() {
        assert_eq!([size(512), size(4200), size(50 << 20)], ["512 B", "4.1 KiB", "50.0 MiB"]);
        let spans = [5, 185, 7800, 356_400].map(|seconds| span(Duration::from_secs(seconds)));
        assert_eq!(spans, ["5 s", "3 min", "2 h 10 min", "4 d 3 h"]);
        assert_eq!(time(WallTime(1_764_079_200_120)), "2025-11-25T14:00:00.120Z");
        assert_eq!(time(WallTime(u64::MAX)), u64::MAX.to_string());
        assert_eq!((count(1, "message"), count(0, "message")), ("1 message".into(), "0 messages".into()));
    }
}
