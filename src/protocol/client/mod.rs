//! PURE. The outbound SMTP session: one [`Client`] per connection, without socket, clock or async.
//!
//! The driver writes what [`Client::output`] holds, gives received bytes to [`Client::handle`], asks
//! [`Client::poll_event`] until it is empty, and starts over. It owns time: [`Client::waiting_for`] says which time-out
//! of RFC 5321 §4.5.3.2 runs, and [`Client::lost`] is told when it fired or the socket broke.
//!
//! ```text
//! Banner → EHLO [→ HELO] → Ready ⇄ transactions (at most DEPTH_MAX, the next behind the end of the last body) → QUIT
//! ```
//!
//! Replies come in the order of the commands, so one queue of expected replies is the whole memory of what was sent. With
//! PIPELINING (RFC 2920) commands go to the output at once; without it they wait in `held` and each reply releases one.
//! A body goes behind 354 with dots stuffed, or in BDAT chunks together with its envelope (RFC 3030): that takes
//! one round trip, but the body is sent in vain when the envelope is refused, so driver and options both must want it.
//!
//! Invariants: each recipient of a transaction is in its one [`Event::Finished`] exactly once; `Delivered` (or `Relayed`,
//! if the sender wants a report that the remote does not make) only on 2xx to the end of the body; at a MAIL the remote is outside of any transaction (by a final dot, or by RSET).
//!
//! Copies: a body once, from the piece to the output. Replies without a result are not kept; queues keep their memory.
//!
//! LMTP would differ in `Expect::End` alone: one for each accepted recipient, with its bit, instead of one for all.

mod capabilities;
mod command;
mod flight;
mod login;
#[cfg(test)]
mod model;
mod objection;
mod replies;
#[cfg(test)]
mod tests;

pub use capabilities::Capabilities;

use self::flight::{Body, Flight, Form, Mail};
use super::remote::{Malformed, ReplyParser};
use super::sasl::prove::Prover;
use super::stuff::Stuffer;
use crate::envelope::{Parameters, Recipient};
use crate::outcome::{Enhanced, LegResult, Reply, Verdict};
use std::collections::VecDeque;
use std::io::Write;

/// Most transactions in flight on one connection: one whose final reply is awaited, and the next behind its end.
pub const DEPTH_MAX: usize = 2;

/// What holds for a connection.
#[derive(Clone, Debug)]
pub struct Options {
    /// The name given in EHLO: the domain of the connection's source address, or an address literal.
    pub ehlo_name: String,
    /// Whether a body that is ready may be sent together with its envelope where the remote offers CHUNKING and
    /// PIPELINING. Off where refusals are likely.
    pub body_with_envelope: bool,
}

/// What is to be sent. Recipients are given beside it ([`Client::begin`]).
#[derive(Clone, Copy, Debug)]
pub struct Transaction<'a> {
    /// Sender's mailbox without angle brackets; empty for the null sender.
    pub sender: &'a str,
    /// BODY, SMTPUTF8, RET, and what the body is made of. A message that needs what the remote does not offer fails
    /// (RFC 6152 §3, RFC 6531 §3.2, RFC 3030 §3); a parameter that it does not need is left out. Addresses are checked here.
    pub parameters: Parameters,
    /// ENVID, if one was given.
    pub envid: Option<&'a str>,
    /// Bytes of the body before stuffing.
    pub size: u64,
    /// Whether the way to the remote is as safe as REQUIRETLS wants it (RFC 8689 §4.2.1), or what it lacks. Asked only for a
    /// message that requires it.
    pub secured: Result<(), &'a str>,
    /// Whether the body is at hand *and* worth sending before the envelope is accepted.
    pub body_ready: bool,
}

/// What the client waits for: the choice of time-out, and the label of latencies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// The greeting (5 minutes).
    Banner,
    /// The reply to EHLO or HELO (5 minutes).
    Ehlo,
    /// The reply to STARTTLS, or the driver's handshake (2 minutes).
    StartTls,
    /// The next word of the login.
    Login,
    /// The reply to MAIL, or to the RSET before it (5 minutes).
    Mail,
    /// The reply to RCPT (5 minutes).
    Rcpt,
    /// The reply to DATA (2 minutes).
    Data,
    /// The driver's next piece of a body, or room to write it (3 minutes).
    Body,
    /// The reply to the final dot or to a chunk (10 minutes).
    FinalDot,
    /// The reply to QUIT.
    Quit,
    /// Nothing: a transaction may begin, or the session is over.
    Idle,
}

/// What the driver should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// EHLO or HELO was accepted: [`Client::capabilities`] holds, transactions may begin.
    Ready,
    /// The session was refused before any transaction: back off the path, nothing was attempted.
    Refused {
        /// Banner or Ehlo.
        stage: Stage,
        /// The remote's words.
        reply: Reply,
    },
    /// STARTTLS was accepted: shake hands, then call [`Client::tls_established`].
    TlsWanted,
    /// STARTTLS was refused. The session goes on in the clear if the driver wants it to.
    TlsRefused(Reply),
    /// The login succeeded.
    LoggedIn,
    /// It did not: the remote's words, or ours if it has no mechanism that we know, or cannot prove itself.
    LoginRefused(Reply),
    /// The body of this transaction is wanted: [`Client::body_piece`].
    BodyWanted {
        /// The transaction.
        tag: u64,
    },
    /// The rest of this transaction's body would be sent in vain; further pieces are ignored.
    BodyUnwanted {
        /// The transaction.
        tag: u64,
    },
    /// A transaction is over. Each of its recipients is in one of `results` or in `untried`, once.
    Finished {
        /// The transaction.
        tag: u64,
        /// What became of its recipients.
        results: Vec<LegResult>,
        /// Recipients for which nothing was tried: to be handed back without counting an attempt.
        untried: u64,
        /// Those of the deferred or untried recipients who may have the message: the connection broke between the end of
        /// the body and its reply.
        in_doubt: u64,
    },
    /// The remote ends the session (421). All transactions are finished; close the connection.
    Closing(Reply),
    /// QUIT was answered; close the connection.
    Closed,
}

/// How a connection came to its end before its session did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The remote closed or reset it.
    Closed,
    /// We gave it up: the remote is silent, or says what it cannot mean, or a body cannot be read to its end.
    GivenUp,
}

/// The remote broke the protocol. Call [`Client::lost`] and close the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misbehaved {
    /// What came is no reply.
    #[error("remote sent no valid reply: {0}")]
    Malformed(#[from] Malformed),
    /// A reply, or the beginning of one, to no command. Before TLS this is an injection attempt (RFC 3207 §6).
    #[error("remote sent a reply that nobody asked for")]
    Unasked,
    /// A reply that the command cannot have, so that both sides disagree on what is going on.
    #[error("remote answered {stage:?} with code {code}: out of step")]
    OutOfStep {
        /// The command's stage.
        stage: Stage,
        /// The reply code.
        code: u16,
    },
}

/// A reply that must come, in the order of the commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expect {
    Banner,
    Ehlo,
    Helo,
    StartTls,
    Login,
    Rset,
    Mail,
    Rcpt(u64),
    Data,
    /// To a chunk that is not the last.
    Chunk,
    /// To the final dot or the last chunk.
    End,
    Quit,
}

impl Expect {
    /// Whether it comes before any transaction.
    fn is_opening(self) -> bool {
        matches!(self, Self::Banner | Self::Ehlo | Self::Helo | Self::StartTls | Self::Login)
    }

    fn stage(self) -> Stage {
        match self {
            Expect::Banner => Stage::Banner,
            Expect::Ehlo | Expect::Helo => Stage::Ehlo,
            Expect::StartTls => Stage::StartTls,
            Expect::Login => Stage::Login,
            Expect::Rset | Expect::Mail => Stage::Mail,
            Expect::Rcpt(_) => Stage::Rcpt,
            Expect::Data => Stage::Data,
            Expect::Chunk | Expect::End => Stage::FinalDot,
            Expect::Quit => Stage::Quit,
        }
    }
}

/// Where the session as a whole is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Up to the reply to EHLO.
    Opening,
    /// Between the reply to STARTTLS and the end of the handshake.
    Handshake,
    /// Transactions may begin.
    Ready,
    /// QUIT goes out when no transaction is left.
    Leaving,
    /// QUIT is on its way.
    Quitting,
    /// Nothing more is said or heard.
    Over,
}

/// One outbound session.
#[derive(Debug)]
pub struct Client {
    options: Options,
    state: State,
    offered: Capabilities,
    /// The login under way.
    prover: Option<Prover>,
    parser: ReplyParser,
    expected: VecDeque<Expect>,
    /// Commands that wait for the reply to the one before (no PIPELINING): what they expect, and their bytes.
    held: VecDeque<(Expect, usize)>,
    held_bytes: Vec<u8>,
    /// Oldest first; at most [`DEPTH_MAX`].
    flights: VecDeque<Flight>,
    /// Transactions that have gone out on this connection.
    begun: u64,
    stuffer: Stuffer,
    output: Vec<u8>,
    events: VecDeque<Event>,
}

impl Client {
    /// A session on a fresh connection: the remote speaks first.
    pub fn new(options: Options) -> Self {
        let safe = |byte: u8| byte.is_ascii_graphic();
        assert!(
            !options.ehlo_name.is_empty() && options.ehlo_name.bytes().all(safe),
            "the EHLO name is checked with the configuration"
        );
        Self {
            options,
            state: State::Opening,
            offered: Capabilities::default(),
            prover: None,
            parser: ReplyParser::default(),
            expected: VecDeque::from([Expect::Banner]),
            held: VecDeque::new(),
            held_bytes: Vec::new(),
            flights: VecDeque::with_capacity(DEPTH_MAX),
            begun: 0,
            stuffer: Stuffer::default(),
            output: Vec::new(),
            events: VecDeque::new(),
        }
    }

    /// The next event, oldest first.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Bytes to be written, in order. The driver removes what it has written and adds nothing.
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// What the remote offers. All false before [`Event::Ready`] and after HELO.
    pub fn capabilities(&self) -> &Capabilities {
        &self.offered
    }

    /// What the session waits for.
    pub fn waiting_for(&self) -> Stage {
        match self.expected.front() {
            Some(expect) => expect.stage(),
            None if self.state == State::Handshake => Stage::StartTls,
            None if self.flights.iter().any(|flight| flight.body == Body::Open) => Stage::Body,
            None => Stage::Idle,
        }
    }

    /// Whether nothing is in flight and nothing is owed by the remote.
    pub fn is_idle(&self) -> bool {
        self.flights.is_empty() && self.expected.is_empty()
    }

    /// Whether a transaction may begin now: the session is idle, or the remote offers PIPELINING and the last body has
    /// been written to its end.
    pub fn can_begin(&self) -> bool {
        if self.state != State::Ready || self.flights.len() == DEPTH_MAX {
            return false;
        }
        match self.flights.back() {
            // RFC 2920 §3.1 wants DATA to end a group; behind the final dot a new group begins.
            Some(last) => self.offered.pipelining && matches!(last.body, Body::Ended | Body::Void),
            None => self.expected.is_empty() || (self.offered.pipelining && !self.is_opening()),
        }
    }

    fn is_opening(&self) -> bool {
        self.expected.iter().any(|expect| expect.is_opening())
    }

    /// Begins a transaction; [`Self::can_begin`] must hold. `recipients` are those to be tried, each with its place
    /// within the leg (0 to 63, no place twice). Recipients that cannot be sent to get their result without a word to
    /// the remote; if none is left the transaction is finished at once.
    pub fn begin<'r>(
        &mut self,
        tag: u64,
        transaction: Transaction<'_>,
        recipients: impl IntoIterator<Item = (u32, Recipient<'r>)>,
    ) {
        assert!(self.can_begin(), "the driver asks can_begin first");
        let mut flight = Flight::new(tag);
        if let Some(reply) = self.objection(&transaction) {
            for (place, _) in recipients {
                flight.settle_unbegun(bit(place), Verdict::Failed, reply.clone());
            }
            self.finish(flight);
            return;
        }
        let mark = (self.output.len(), self.expected.len());
        let held_mark = (self.held_bytes.len(), self.held.len());
        self.issue_mail(&transaction, &mut flight);
        for (place, recipient) in recipients {
            let place = bit(place);
            let taken = flight.open
                | flight.untried
                | flight.results.iter().fold(0, |all, result| all | result.recipients);
            assert!(taken & place == 0, "a leg's place holds one recipient");
            if let Some(reply) = self.objection_to(&recipient, &transaction) {
                flight.settle_unbegun(place, Verdict::Failed, reply);
                continue;
            }
            // Those whom the remote would not take any more are handed back, for the next transaction.
            if self.offered.is_full(flight.open.count_ones()) {
                flight.untried |= place;
                continue;
            }
            flight.open |= place;
            if recipient.notify.on_success() && !transaction.sender.is_empty() {
                flight.asked |= place;
            }
            flight.unanswered += 1;
            self.issue(Expect::Rcpt(place), |offered, out| command::write_rcpt(&recipient, offered, out));
        }
        if flight.open == 0 {
            self.output.truncate(mark.0);
            self.expected.truncate(mark.1);
            self.held_bytes.truncate(held_mark.0);
            self.held.truncate(held_mark.1);
            self.finish(flight);
            return;
        }
        // BDAT only with PIPELINING, which every remote that chunks also has: without it nothing is won.
        let at_once = self.options.body_with_envelope && transaction.body_ready;
        let must = transaction.parameters.binary;
        if (at_once || must) && self.offered.chunking && self.offered.pipelining {
            flight.form = Form::Chunks;
            flight.body = Body::Open;
            self.events.push_back(Event::BodyWanted { tag });
        } else {
            flight.unanswered += 1;
            self.issue(Expect::Data, |_, out| out.extend_from_slice(b"DATA\r\n"));
        }
        self.begun += 1;
        self.flights.push_back(flight);
    }

    fn issue_mail(&mut self, transaction: &Transaction<'_>, flight: &mut Flight) {
        // If chunks are refused the remote may still be in their transaction, and would add these recipients to it:
        // RFC 3030 wants RSET, which costs no round trip here.
        if self.flights.back().is_some_and(|last| last.form == Form::Chunks) {
            self.issue(Expect::Rset, |_, out| out.extend_from_slice(b"RSET\r\n"));
        }
        // A report goes on without the promise where it cannot be had (RFC 8689 §5); all else has failed by now.
        let require_tls = transaction.parameters.require_tls && transaction.secured.is_ok();
        let mail = command::Mail {
            sender: transaction.sender,
            parameters: Parameters { require_tls, ..transaction.parameters },
            envid: transaction.envid,
            size: transaction.size,
        };
        flight.unanswered += 1;
        self.issue(Expect::Mail, |offered, out| command::write_mail(mail, offered, out));
    }

    /// Gives the next piece of a body after [`Event::BodyWanted`]; `last` with the final one, which may be empty. Says
    /// whether it was taken: `false` once the body is unwanted.
    pub fn body_piece(&mut self, tag: u64, piece: &[u8], last: bool) -> bool {
        let open = |flight: &&mut Flight| flight.tag == tag && flight.body == Body::Open;
        let Some(flight) = self.flights.iter_mut().find(open) else { return false };
        match flight.form {
            Form::Data => {
                self.stuffer.piece(piece, &mut self.output);
                if last {
                    self.stuffer.finish(&mut self.output);
                }
            }
            Form::Chunks if piece.is_empty() && !last => return true,
            Form::Chunks => {
                let end = if last { " LAST" } else { "" };
                write!(self.output, "BDAT {}{end}\r\n", piece.len()).expect("writing to memory succeeds");
                self.output.extend_from_slice(piece);
            }
        }
        if last {
            flight.body = Body::Ended;
        }
        match (flight.form, last) {
            (_, true) => self.expected.push_back(Expect::End),
            (Form::Chunks, false) => self.expected.push_back(Expect::Chunk),
            (Form::Data, false) => return true,
        }
        flight.unanswered += 1;
        true
    }

    /// Asks for TLS; the session must be idle, TLS offered and not yet in use. Nothing happens if the session is over:
    /// the remote may have closed it behind its offer, which a later event tells.
    pub fn start_tls(&mut self) {
        if self.state == State::Over {
            return;
        }
        assert!(self.state == State::Ready && self.is_idle(), "STARTTLS is sent on an idle session");
        self.issue(Expect::StartTls, |_, out| out.extend_from_slice(b"STARTTLS\r\n"));
    }

    /// The handshake is done. All that was said in the clear is forgotten (RFC 3207 §4.2): EHLO goes out again,
    /// unless the session is over.
    pub fn tls_established(&mut self) {
        if self.state == State::Over {
            return;
        }
        assert!(self.state == State::Handshake, "TLS comes after Event::TlsWanted");
        self.say_hello(Expect::Ehlo);
    }

    /// Ends the session: QUIT goes out when the transactions in flight are finished; no other begins. Before
    /// [`Event::Ready`] there is nothing to end: close the connection.
    pub fn quit(&mut self) {
        if self.state == State::Ready {
            self.state = State::Leaving;
            self.leave_if_done();
        }
    }

    /// The connection is gone or has to be given up, for the reason `why`. Finishes every transaction in flight; poll
    /// the events once more.
    pub fn lost(&mut self, loss: Loss, why: &str) {
        // A connection may die in its sleep; one that is lost over its first transaction was tried.
        let mut is_first = self.begun == self.flights.len() as u64;
        while let Some(mut flight) = self.flights.pop_front() {
            let open = flight.open;
            let is_tried = flight.mail != Mail::Unanswered || std::mem::take(&mut is_first);
            let is_sent = flight.body == Body::Ended;
            flight.in_doubt = if is_sent { open } else { 0 };
            // A remote that went away without a word to any of it had most likely gone before it came. That it took all of
            // it and died before its first reply is possible: then it gets the message twice, as it would from a retry.
            if !is_tried && (!is_sent || loss == Loss::Closed) {
                flight.hand_back();
            } else if is_sent {
                flight.settle(open, Verdict::Deferred, || {
                    let text = format!(
                        "connection lost after the final dot, the remote may have the message: {why}"
                    );
                    Reply::new(0, Enhanced(4, 4, 2), &text)
                });
            } else {
                flight.settle(open, Verdict::Deferred, || {
                    let text = format!("connection lost before the message was sent: {why}");
                    Reply::new(0, Enhanced(4, 4, 2), &text)
                });
            }
            self.finish(flight);
        }
        self.end();
    }

    /// Puts a command where it belongs: to the output, or behind the replies it must wait for.
    fn issue(&mut self, expect: Expect, write: impl FnOnce(&Capabilities, &mut Vec<u8>)) {
        if self.offered.pipelining || (self.expected.is_empty() && self.held.is_empty()) {
            write(&self.offered, &mut self.output);
            self.expected.push_back(expect);
        } else {
            let before = self.held_bytes.len();
            write(&self.offered, &mut self.held_bytes);
            self.held.push_back((expect, self.held_bytes.len() - before));
        }
    }

    fn say_hello(&mut self, expect: Expect) {
        self.state = State::Opening;
        self.offered = Capabilities::default();
        let verb = if expect == Expect::Ehlo { "EHLO " } else { "HELO " };
        for part in [verb, &self.options.ehlo_name, "\r\n"] {
            self.output.extend_from_slice(part.as_bytes());
        }
        self.expected.push_back(expect);
    }

    fn leave_if_done(&mut self) {
        if self.state == State::Leaving && self.flights.is_empty() && self.held.is_empty() {
            self.state = State::Quitting;
            self.issue(Expect::Quit, |_, out| out.extend_from_slice(b"QUIT\r\n"));
        }
    }

    fn finish(&mut self, flight: Flight) {
        assert!(flight.open == 0, "every recipient gets a result");
        let Flight { tag, results, untried, in_doubt, .. } = flight;
        self.events.push_back(Event::Finished { tag, results, untried, in_doubt });
    }

    fn end(&mut self) {
        self.state = State::Over;
        self.expected.clear();
        self.held.clear();
        self.held_bytes.clear();
    }
}

fn bit(place: u32) -> u64 {
    assert!(place < u64::BITS, "a leg has at most 64 recipients");
    1 << place
}
