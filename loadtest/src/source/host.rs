//! PURE. What a source's session and its driver say to each other about messages.

use crate::clock::Micros;
use crate::ledger::Answer;
use crate::measure::phase::Phase;
use crate::wire::reply::ReplyLine;

/// A message to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Job {
    /// Its number.
    pub number: u64,
    /// When it was meant to be sent.
    pub intended: Micros,
}

/// Where in a session a reply belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// The greeting.
    Banner,
    /// EHLO, LHLO or HELO.
    Hello,
    /// STARTTLS.
    StartTls,
    /// AUTH.
    Auth,
    /// RSET.
    Rset,
    /// MAIL.
    Mail,
    /// RCPT.
    Rcpt,
    /// DATA.
    Data,
    /// The final dot.
    EndOfData,
    /// QUIT.
    Quit,
    /// Nothing was asked.
    Unasked,
}

/// A transaction's end.
#[derive(Debug)]
pub struct Ended<'a> {
    /// The message.
    pub job: Job,
    /// When its MAIL was queued.
    pub begun: Micros,
    /// When the socket had taken its end of data.
    pub sent: Option<Micros>,
    /// When the last reply came or the connection went.
    pub ended: Micros,
    /// What holds for all recipients that were not refused one by one.
    pub answer: Answer,
    /// Indices of recipients refused one by one.
    pub refused: &'a [u16],
}

/// What a session needs from whoever drives it.
pub trait Host {
    /// The next message if one is due.
    fn next(&mut self, now: Micros) -> Option<Job>;
    /// A reply came.
    fn reply(&mut self, stage: Stage, reply: ReplyLine<'_>);
    /// A phase lasted from `since` to `now`; of a message that was intended for a time, if of one.
    fn phase(&mut self, phase: Phase, since: Micros, now: Micros, intended: Option<Micros>);
    /// A transaction ended.
    fn ended(&mut self, ended: &Ended<'_>);
    /// The relay does not offer what was asked for, so the connection is useless.
    fn missing(&mut self, what: &'static str);
}
