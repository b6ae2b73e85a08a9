//! One thread's desk: hands out messages that are due, collects a turn's events, applies them to the board under one lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::board::{Board, widen};
use crate::clock::Micros;
use crate::ledger::Answer;
use crate::measure::phase::{Phase, record};
use crate::source::host::{Ended, Host, Job, Stage};
use crate::source::pace::{Due, Pace};
use crate::source::plan::Plan;
use crate::wire::reply::ReplyLine;

/// Hands out messages and collects what became of them: the session's host.
pub struct Desk {
    plan: Arc<Plan>,
    pace: Pace,
    open_loop: bool,
    counter: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    /// Since when the connection that is about to take a message has been free; `None` if it was busy until now.
    free_since: Option<Micros>,
    batch: Batch,
}

/// What happened since the board was last locked.
#[derive(Default)]
pub struct Batch {
    begun: Vec<Begun>,
    ended: Vec<Done>,
    refused: Vec<(u64, u16)>,
    phases: Vec<(Phase, Micros, Option<Micros>)>,
    replies: Vec<(Stage, u16, u64)>,
    texts: Vec<(Stage, u16, String)>,
    /// Connections that came to be.
    pub connections: u64,
    /// Handshakes: full and resumed.
    pub handshakes: (u64, u64),
    /// Connects that failed, and why the last of them did.
    pub connects_failed: u64,
    /// Why the last connect failed or the last connection was of no use.
    pub connect_error: Option<String>,
    /// Connections lost.
    pub connections_lost: u64,
}

struct Begun {
    intended: Micros,
    now: Micros,
    /// How late it was by the generator's own fault; `None` if it waited for a busy connection.
    own_lateness: Option<Micros>,
}

struct Done {
    job: Job,
    begun: Micros,
    sent: Option<Micros>,
    ended: Micros,
    answer: Answer,
    all_refused: bool,
}

impl Desk {
    /// A desk that shares `counter` with the other threads.
    pub fn new(plan: Arc<Plan>, pace: Pace, counter: Arc<AtomicU64>, stop: Arc<AtomicBool>) -> Self {
        let open_loop = pace.is_open_loop();
        Self { plan, pace, open_loop, counter, stop, free_since: None, batch: Batch::default() }
    }

    /// What is sent.
    pub fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// The turn's counts.
    pub fn batch(&mut self) -> &mut Batch {
        &mut self.batch
    }

    /// No further message is to be begun.
    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// The next message goes to a connection that has been free since then; `None`: to one that was busy.
    pub fn offer(&mut self, free_since: Option<Micros>) {
        self.free_since = free_since;
    }

    /// When the next message is due.
    pub fn due(&mut self, now: Micros) -> Due {
        if self.is_stopped() {
            return Due::Never;
        }
        self.pace.due(self.counter.load(Ordering::Relaxed), now)
    }

    /// Applies the turn's events.
    pub fn settle(&mut self, board: &mut Board) {
        self.settle_connections(board);
        let from = self.pace.measured_from();
        let Self { batch, plan, open_loop, .. } = self;
        let tally = &mut board.source;
        tally.in_flight += batch.begun.len() as u64;
        tally.in_flight -= batch.ended.len() as u64;
        for begun in batch.begun.drain(..) {
            let slot = board.timeline.at(begun.now);
            slot.begun += 1;
            if *open_loop {
                let late = begun.now.saturating_sub(begun.intended);
                slot.lateness_max = slot.lateness_max.max(late);
                board.timeline.at(begun.intended).intended += 1;
                if begun.intended < from {
                    continue;
                }
                record(&mut tally.lateness, late);
                match begun.own_lateness {
                    Some(micros) => record(&mut tally.own_lateness, micros),
                    None => tally.waited_for_connection += 1,
                }
            }
        }
        for (phase, service, intended) in batch.phases.drain(..) {
            tally.phases.record(phase, service, intended);
        }
        let Some(ledger) = board.books.ledger(plan.run) else { return };
        for (number, recipient) in batch.refused.drain(..) {
            ledger.answered(number, recipient, Answer::Refused);
        }
        for done in batch.ended.drain(..) {
            // The first word about a recipient counts, so those refused one by one stay refused.
            (0..plan.recipients(done.job.number))
                .for_each(|recipient| ledger.answered(done.job.number, recipient, done.answer));
            let slot = board.timeline.at(done.ended);
            match done.answer {
                Answer::Accepted if !done.all_refused => {
                    tally.accepted += 1;
                    slot.accepted += 1;
                }
                Answer::Accepted | Answer::Refused => {
                    tally.refused += 1;
                    slot.refused += 1;
                }
                Answer::Unknown => tally.unknown += 1,
                Answer::Aborted => tally.aborted += 1,
            }
            slot.lost += u64::from(matches!(done.answer, Answer::Unknown | Answer::Aborted));
            if let (Some(sent), Answer::Accepted) = (done.sent, done.answer) {
                let since = |time: Micros| done.ended.saturating_sub(time);
                let intended = open_loop.then(|| since(done.job.intended));
                if done.job.intended >= from {
                    tally.phases.record(Phase::EndOfData, since(sent), intended);
                    tally.phases.record(Phase::Whole, since(done.begun), intended);
                }
                slot.record(intended.unwrap_or(since(done.begun)));
                widen(&mut tally.first_and_last, done.begun);
                widen(&mut tally.first_and_last, done.ended);
            }
        }
    }

    fn settle_connections(&mut self, board: &mut Board) {
        let (batch, tally) = (&mut self.batch, &mut board.source);
        let errors = batch.connects_failed + batch.connections_lost;
        if errors > 0 {
            board.timeline.at(crate::clock::now()).connection_errors += errors;
        }
        tally.connections += std::mem::take(&mut batch.connections);
        let (full, resumed) = std::mem::take(&mut batch.handshakes);
        tally.handshakes.0 += full;
        tally.handshakes.1 += resumed;
        tally.connects_failed += std::mem::take(&mut batch.connects_failed);
        if let Some(error) = batch.connect_error.take() {
            tally.connect_error = Some(error);
        }
        tally.connections_lost += std::mem::take(&mut batch.connections_lost);
        for (stage, code, count) in batch.replies.drain(..) {
            tally.replies.entry((stage, code)).or_default().0 += count;
        }
        for (stage, code, text) in batch.texts.drain(..) {
            let (_, kept) = tally.replies.entry((stage, code)).or_default();
            if kept.is_empty() {
                *kept = text;
            }
        }
    }
}

impl Host for Desk {
    fn next(&mut self, now: Micros) -> Option<Job> {
        if self.is_stopped() {
            return None;
        }
        let mut number = self.counter.load(Ordering::Relaxed);
        loop {
            let Due::Now(intended) = self.pace.due(number, now) else { return None };
            match self.counter.compare_exchange_weak(number, number + 1, Ordering::Relaxed, Ordering::Relaxed)
            {
                Ok(_) => {
                    let free_since = self.free_since.take();
                    let own_lateness = free_since.map(|since| now.saturating_sub(since.max(intended)));
                    self.batch.begun.push(Begun { intended, now, own_lateness });
                    return Some(Job { number, intended });
                }
                Err(other) => number = other,
            }
        }
    }

    fn reply(&mut self, stage: Stage, reply: ReplyLine<'_>) {
        let counts = &mut self.batch.replies;
        match counts.iter_mut().find(|(of, code, _)| (*of, *code) == (stage, reply.code)) {
            Some((_, _, count)) => *count += 1,
            None => {
                counts.push((stage, reply.code, 1));
                if reply.code >= 400 {
                    let text = String::from_utf8_lossy(reply.text).replace(char::is_control, " ");
                    self.batch.texts.push((stage, reply.code, text));
                }
            }
        }
    }

    fn phase(&mut self, phase: Phase, since: Micros, now: Micros, intended: Option<Micros>) {
        if intended.is_some_and(|time| time < self.pace.measured_from()) {
            return;
        }
        let intended = intended.filter(|_| self.open_loop).map(|time| now.saturating_sub(time));
        self.batch.phases.push((phase, now.saturating_sub(since), intended));
    }

    fn ended(&mut self, ended: &Ended<'_>) {
        let number = ended.job.number;
        self.batch.refused.extend(ended.refused.iter().map(|recipient| (number, *recipient)));
        self.batch.ended.push(Done {
            job: ended.job,
            begun: ended.begun,
            sent: ended.sent,
            ended: ended.ended,
            answer: ended.answer,
            all_refused: ended.refused.len() == usize::from(self.plan.recipients(number)),
        });
    }

    fn missing(&mut self, what: &'static str) {
        self.batch.connect_error = Some(format!("the relay does not offer {what}"));
    }
}
