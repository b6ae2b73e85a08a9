//! PURE. The client side of one connection. The driver feeds it received bytes and tells what the socket took; it queues
//! bytes in [`Outgoing`] and reports each transaction's end to the [`Host`].
//!
//! ```text
//! Banner → Hello → (StartTls → Handshake → Hello) → (Auth) → Idle
//! Idle ⇄ Envelope (RSET? MAIL RCPT… DATA) → Content → Idle | Envelope of the next | Quit → Closed
//! ```
//!
//! With pipelining a whole envelope is one write and the next one goes behind the final dot, as RFC 2920 §3.1 allows:
//! only DATA must end a group. Replies are then taken off in order; the states are the same. With BDAT there is no DATA,
//! and envelope and chunk are one write. With LMTP each recipient has a reply after the dot.

#[cfg(test)]
mod tests;

use crate::clock::Micros;
use crate::ledger::Answer;
use crate::measure::phase::Phase;
use crate::source::host::{Ended, Host, Job, Stage};
use crate::source::outgoing::Outgoing;
use crate::source::plan::{Plan, Protocol};
use crate::wire::reply::{self, LineCutter, ReplyLine};

/// What the driver does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Write what is queued, read on.
    Continue,
    /// Begin the TLS handshake; [`Session::secured`] tells its end.
    Secure,
    /// QUIT was answered: close the connection.
    Done,
    /// Close the connection: the peer shut us out or does not speak SMTP.
    Close,
}

#[derive(Debug)]
struct Transaction {
    job: Job,
    recipients: u16,
    begun: Micros,
    sent: Option<Micros>,
    mail_taken: bool,
    refused: Vec<u16>,
}

impl Transaction {
    fn all_refused(&self) -> bool {
        self.refused.len() == usize::from(self.recipients)
    }
}

/// The reply an envelope waits for.
#[derive(Clone, Copy, Debug)]
enum Step {
    Rset,
    Mail,
    Rcpt(u16),
    Data,
}

#[derive(Debug)]
enum Behind {
    Nothing,
    Quit,
    Envelope(Transaction),
}

#[derive(Debug)]
enum State {
    Banner,
    /// EHLO or LHLO sent, or HELO after EHLO was refused.
    Hello {
        extended: bool,
    },
    StartTls,
    Handshake,
    Auth,
    /// No transaction. `reset`: the relay may still hold an envelope.
    Idle {
        reset: bool,
    },
    Envelope {
        transaction: Transaction,
        step: Step,
    },
    /// Content sent, or only a dot if nobody is left to get it.
    Content {
        transaction: Transaction,
        to_nobody: bool,
        /// LMTP: recipients before this one have had their reply.
        answered: u16,
        behind: Behind,
    },
    Quit,
    Closed,
}

/// What the peer has offered after EHLO.
#[derive(Clone, Copy, Debug, Default)]
struct Offers {
    pipelining: bool,
    chunking: bool,
    starttls: bool,
    auth_plain: bool,
}

/// One connection's session.
#[derive(Debug)]
pub struct Session {
    state: State,
    cutter: LineCutter,
    /// Bytes for the socket.
    pub out: Outgoing,
    offers: Offers,
    secure: bool,
    transactions: u64,
    /// When the command whose reply is awaited was queued, or the reply before it was read if that was later.
    since: Micros,
}

impl Default for Session {
    fn default() -> Self {
        Self {
            state: State::Banner,
            cutter: LineCutter::default(),
            out: Outgoing::default(),
            offers: Offers::default(),
            secure: false,
            transactions: 0,
            since: 0,
        }
    }
}

impl Session {
    /// The connection is there. `implicit`: a TLS handshake comes before the greeting.
    pub fn connected(&mut self, now: Micros, implicit: bool) {
        self.since = now;
        if implicit {
            self.state = State::Handshake;
        }
    }

    /// The TLS handshake that the session waited for is done.
    pub fn secured(&mut self, plan: &Plan, now: Micros, host: &mut impl Host) {
        host.phase(Phase::Tls, self.since, now, None);
        self.since = now;
        self.secure = true;
        if plan.starttls {
            self.hello(plan, true);
            self.state = State::Hello { extended: true };
        } else {
            self.state = State::Banner;
        }
    }

    /// Takes received bytes.
    pub fn receive(&mut self, plan: &Plan, mut bytes: &[u8], now: Micros, host: &mut impl Host) -> Flow {
        let mut cutter = std::mem::take(&mut self.cutter);
        let mut flow = Flow::Continue;
        while flow == Flow::Continue {
            let Ok(line) = cutter.next(&mut bytes) else { return Flow::Close };
            let Some(line) = line else { break };
            let Ok(reply) = reply::parse(line) else { return Flow::Close };
            if reply.last {
                flow = self.reply(plan, reply, now, host);
            } else if matches!(self.state, State::Hello { .. }) {
                self.extension(reply.text);
            }
        }
        self.cutter = cutter;
        flow
    }

    /// The socket took `count` bytes of [`Session::out`].
    pub fn written(&mut self, plan: &Plan, count: usize, now: Micros) {
        if self.out.written(plan, count) {
            match &mut self.state {
                State::Content { transaction, .. } | State::Envelope { transaction, .. } => {
                    transaction.sent = Some(now);
                }
                _ => {}
            }
        }
    }

    /// No transaction is under way and the session can start one.
    pub fn is_idle(&self) -> bool {
        matches!(self.state, State::Idle { .. })
    }

    /// The session waits for a reply or for bytes to leave, so silence is the peer's.
    pub fn is_waiting(&self) -> bool {
        !matches!(self.state, State::Idle { .. } | State::Closed)
    }

    /// It got as far as a transaction.
    pub fn was_useful(&self) -> bool {
        self.transactions > 0
    }

    /// Asks the host for a message if the session is idle.
    pub fn start(&mut self, plan: &Plan, now: Micros, host: &mut impl Host) {
        if let State::Idle { reset } = self.state
            && let Some(job) = host.next(now)
        {
            self.state = self.begin(plan, job, now, reset, host);
        }
    }

    /// Says QUIT if the session is idle.
    pub fn quit(&mut self) {
        if self.is_idle() {
            self.out.text().extend_from_slice(b"QUIT\r\n");
            self.state = State::Quit;
        }
    }

    /// The connection is gone. Ends what was under way and is ready for a new connection.
    pub fn lost(&mut self, now: Micros, host: &mut impl Host) {
        match std::mem::take(self).state {
            State::Envelope { transaction, .. } => {
                // With BDAT the whole message goes with its envelope.
                let answer = if transaction.sent.is_some() { Answer::Unknown } else { Answer::Aborted };
                end(&transaction, answer, now, host);
            }
            State::Content { transaction, to_nobody, behind, .. } => {
                let answer = match transaction.sent {
                    _ if to_nobody => Answer::Refused,
                    Some(_) => Answer::Unknown,
                    None => Answer::Aborted,
                };
                end(&transaction, answer, now, host);
                if let Behind::Envelope(next) = behind {
                    end(&next, Answer::Aborted, now, host);
                }
            }
            _ => {}
        }
    }

    fn extension(&mut self, text: &[u8]) {
        let text = text.trim_ascii();
        let offers = &mut self.offers;
        offers.pipelining |= text.eq_ignore_ascii_case(b"PIPELINING");
        offers.chunking |= text.eq_ignore_ascii_case(b"CHUNKING");
        offers.starttls |= text.eq_ignore_ascii_case(b"STARTTLS");
        let mut words = text.split(|byte| matches!(byte, b' ' | b'='));
        offers.auth_plain |= words.next().is_some_and(|word| word.eq_ignore_ascii_case(b"AUTH"))
            && words.any(|word| word.eq_ignore_ascii_case(b"PLAIN"));
    }

    fn reply(&mut self, plan: &Plan, reply: ReplyLine<'_>, now: Micros, host: &mut impl Host) -> Flow {
        let taken = (200..300).contains(&reply.code);
        self.measure(reply.code, now, host);
        host.reply(self.stage(), reply);
        // 421 may come in any state; the connection is over and the driver's `lost` would call refusals unknown.
        if reply.code == 421 {
            return self.shut_out(now, host);
        }
        self.state = match std::mem::replace(&mut self.state, State::Closed) {
            State::Quit => return Flow::Done,
            State::Banner if taken => {
                self.hello(plan, true);
                State::Hello { extended: true }
            }
            State::Hello { .. } if taken => {
                self.extension(reply.text);
                self.greeted(plan, now, host)
            }
            State::Hello { extended: true } if plan.protocol == Protocol::Smtp => {
                self.hello(plan, false);
                State::Hello { extended: false }
            }
            State::StartTls if taken => {
                self.state = State::Handshake;
                return Flow::Secure;
            }
            State::Auth if taken => self.proceed(plan, false, now, host),
            State::Envelope { transaction, step } => {
                self.envelope(plan, transaction, step, reply.code, now, host)
            }
            State::Content { transaction, to_nobody, answered, behind } => {
                self.content_answered(plan, transaction, to_nobody, answered, behind, taken, now, host)
            }
            _ => State::Closed,
        };
        if matches!(self.state, State::Closed) { Flow::Close } else { Flow::Continue }
    }

    /// Times the phase that this reply ends.
    fn measure(&mut self, code: u16, now: Micros, host: &mut impl Host) {
        let (phase, intended) = match &self.state {
            State::Banner => (Phase::Banner, None),
            State::Hello { .. } => (Phase::Hello, None),
            State::Auth => (Phase::Auth, None),
            // STARTTLS is part of the TLS phase, which ends with the handshake.
            State::StartTls => return,
            State::Envelope { transaction, step } => {
                let phase = match step {
                    Step::Mail => Phase::Mail,
                    Step::Rcpt(_) => Phase::Rcpt,
                    Step::Data if code == 354 => Phase::Data,
                    Step::Data | Step::Rset => return self.since = now,
                };
                (phase, Some(transaction.job.intended))
            }
            _ => return self.since = now,
        };
        host.phase(phase, self.since, now, intended);
        self.since = now;
    }

    /// EHLO was answered: what comes before the first transaction.
    fn greeted(&mut self, plan: &Plan, now: Micros, host: &mut impl Host) -> State {
        if plan.starttls && !self.secure {
            if !self.offers.starttls {
                host.missing("STARTTLS");
                return State::Closed;
            }
            self.out.text().extend_from_slice(b"STARTTLS\r\n");
            return State::StartTls;
        }
        if plan.chunking && !self.offers.chunking {
            host.missing("CHUNKING");
            return State::Closed;
        }
        if let Some(argument) = &plan.auth {
            if !self.offers.auth_plain {
                host.missing("AUTH PLAIN");
                return State::Closed;
            }
            let line = format!("AUTH PLAIN {argument}\r\n");
            self.out.text().extend_from_slice(line.as_bytes());
            return State::Auth;
        }
        self.proceed(plan, false, now, host)
    }

    fn pipelining(&self, plan: &Plan) -> bool {
        plan.pipelining && self.offers.pipelining
    }

    fn envelope(
        &mut self,
        plan: &Plan,
        mut transaction: Transaction,
        step: Step,
        code: u16,
        now: Micros,
        host: &mut impl Host,
    ) -> State {
        let taken = (200..300).contains(&code);
        let number = transaction.job.number;
        let lockstep = !self.pipelining(plan);
        let step = match step {
            Step::Rset => {
                if lockstep {
                    plan.mail(number, self.out.text());
                }
                Step::Mail
            }
            Step::Mail => {
                transaction.mail_taken = taken;
                if lockstep && !taken {
                    end(&transaction, Answer::Refused, now, host);
                    return self.proceed(plan, false, now, host);
                }
                self.rcpt_from(plan, number, 0)
            }
            Step::Rcpt(index) => {
                if !taken {
                    transaction.refused.push(index);
                }
                if index + 1 < transaction.recipients {
                    self.rcpt_from(plan, number, index + 1)
                } else {
                    return self.recipients_done(plan, transaction, now, host);
                }
            }
            Step::Data if code == 354 => return self.content(plan, transaction, now, host),
            Step::Data => {
                end(&transaction, Answer::Refused, now, host);
                return self.proceed(plan, true, now, host);
            }
        };
        State::Envelope { transaction, step }
    }

    /// The last RCPT was answered.
    fn recipients_done(
        &mut self,
        plan: &Plan,
        transaction: Transaction,
        now: Micros,
        host: &mut impl Host,
    ) -> State {
        let lockstep = !self.pipelining(plan);
        if lockstep && transaction.all_refused() {
            end(&transaction, Answer::Refused, now, host);
            return self.proceed(plan, true, now, host);
        }
        if plan.chunking {
            if lockstep && !self.chunk(plan, transaction.job.number, now) {
                end(&transaction, Answer::Aborted, now, host);
                return State::Closed;
            }
            let to_nobody = !transaction.mail_taken || transaction.all_refused();
            return State::Content { transaction, to_nobody, answered: 0, behind: Behind::Nothing };
        }
        if lockstep {
            self.out.text().extend_from_slice(b"DATA\r\n");
        }
        State::Envelope { transaction, step: Step::Data }
    }

    fn rcpt_from(&mut self, plan: &Plan, number: u64, index: u16) -> Step {
        if !self.pipelining(plan) {
            plan.rcpt(number, index, self.out.text());
        }
        Step::Rcpt(index)
    }

    /// Queues the message as one chunk. `false`: an earlier one has not left, so the peer replied out of order.
    fn chunk(&mut self, plan: &Plan, number: u64, now: Micros) -> bool {
        let template = plan.template(number);
        let out = self.out.text();
        out.extend_from_slice(format!("BDAT {} LAST\r\n", template.bytes()).as_bytes());
        template.header(plan.id(number), now, out);
        self.out.body(plan, number)
    }

    /// After 354: the message, or a dot alone if nobody is left to get it (RFC 2920 §3.1).
    fn content(&mut self, plan: &Plan, transaction: Transaction, now: Micros, host: &mut impl Host) -> State {
        let to_nobody = !transaction.mail_taken || transaction.all_refused();
        let number = transaction.job.number;
        if to_nobody {
            self.out.text().extend_from_slice(b".\r\n");
            self.out.end_of_data(plan);
            return State::Content { transaction, to_nobody, answered: 0, behind: Behind::Nothing };
        }
        plan.template(number).header(plan.id(number), now, self.out.text());
        if !self.out.body(plan, number) {
            // 354 before the earlier message had left: not a peer that replies in order.
            end(&transaction, Answer::Aborted, now, host);
            return State::Closed;
        }
        let behind = if !self.pipelining(plan) {
            Behind::Nothing
        } else if self.worn_out(plan) {
            self.out.text().extend_from_slice(b"QUIT\r\n");
            Behind::Quit
        } else if let Some(job) = host.next(now) {
            Behind::Envelope(self.transaction(plan, job, now, false))
        } else {
            Behind::Nothing
        };
        State::Content { transaction, to_nobody, answered: 0, behind }
    }

    /// A reply after the content: the only one, or with LMTP the next recipient's.
    #[allow(clippy::too_many_arguments, reason = "the parts of one state")]
    fn content_answered(
        &mut self,
        plan: &Plan,
        mut transaction: Transaction,
        to_nobody: bool,
        answered: u16,
        behind: Behind,
        taken: bool,
        now: Micros,
        host: &mut impl Host,
    ) -> State {
        if plan.protocol == Protocol::Lmtp && !to_nobody {
            let waits = |index: &u16| !transaction.refused.contains(index);
            let mut waiting = (answered..transaction.recipients).filter(waits);
            let (this, more) = (waiting.next().unwrap_or(answered), waiting.next().is_some());
            if !taken {
                transaction.refused.push(this);
            }
            if more {
                return State::Content { transaction, to_nobody, answered: this + 1, behind };
            }
        }
        let accepted = match plan.protocol {
            Protocol::Smtp => taken && !to_nobody,
            Protocol::Lmtp => !to_nobody && !transaction.all_refused(),
        };
        end(&transaction, if accepted { Answer::Accepted } else { Answer::Refused }, now, host);
        match behind {
            Behind::Nothing => self.proceed(plan, plan.chunking && !taken, now, host),
            Behind::Quit => State::Quit,
            Behind::Envelope(transaction) => State::Envelope { transaction, step: Step::Mail },
        }
    }

    fn proceed(&mut self, plan: &Plan, reset: bool, now: Micros, host: &mut impl Host) -> State {
        if self.worn_out(plan) {
            self.out.text().extend_from_slice(b"QUIT\r\n");
            return State::Quit;
        }
        match host.next(now) {
            Some(job) => self.begin(plan, job, now, reset, host),
            None => State::Idle { reset },
        }
    }

    fn worn_out(&self, plan: &Plan) -> bool {
        plan.reuse > 0 && self.transactions >= plan.reuse
    }

    fn begin(&mut self, plan: &Plan, job: Job, now: Micros, reset: bool, host: &mut impl Host) -> State {
        self.since = now;
        let transaction = self.transaction(plan, job, now, reset);
        if plan.chunking && self.pipelining(plan) && !self.chunk(plan, job.number, now) {
            end(&transaction, Answer::Aborted, now, host);
            return State::Closed;
        }
        State::Envelope { transaction, step: if reset { Step::Rset } else { Step::Mail } }
    }

    /// Queues the first command of an envelope, or all of it.
    fn transaction(&mut self, plan: &Plan, job: Job, now: Micros, reset: bool) -> Transaction {
        self.transactions += 1;
        let pipelining = self.pipelining(plan);
        let recipients = plan.recipients(job.number);
        let out = self.out.text();
        if reset {
            out.extend_from_slice(b"RSET\r\n");
        }
        if pipelining || !reset {
            plan.mail(job.number, out);
        }
        if pipelining {
            (0..recipients).for_each(|index| plan.rcpt(job.number, index, out));
            if !plan.chunking {
                out.extend_from_slice(b"DATA\r\n");
            }
        }
        Transaction { job, recipients, begun: now, sent: None, mail_taken: false, refused: Vec::new() }
    }

    fn hello(&mut self, plan: &Plan, extended: bool) {
        self.offers = Offers::default();
        let verb = match plan.protocol {
            Protocol::Lmtp => "LHLO",
            Protocol::Smtp if extended => "EHLO",
            Protocol::Smtp => "HELO",
        };
        let line = format!("{verb} {}\r\n", plan.helo);
        self.out.text().extend_from_slice(line.as_bytes());
    }

    fn shut_out(&mut self, now: Micros, host: &mut impl Host) -> Flow {
        match std::mem::replace(&mut self.state, State::Closed) {
            State::Envelope { transaction, .. } => end(&transaction, Answer::Refused, now, host),
            State::Content { transaction, behind, .. } => {
                end(&transaction, Answer::Refused, now, host);
                if let Behind::Envelope(next) = behind {
                    end(&next, Answer::Aborted, now, host);
                }
            }
            _ => {}
        }
        Flow::Close
    }

    fn stage(&self) -> Stage {
        match &self.state {
            State::Banner => Stage::Banner,
            State::Hello { .. } => Stage::Hello,
            State::StartTls | State::Handshake => Stage::StartTls,
            State::Auth => Stage::Auth,
            State::Envelope { step: Step::Rset, .. } => Stage::Rset,
            State::Envelope { step: Step::Mail, .. } => Stage::Mail,
            State::Envelope { step: Step::Rcpt(_), .. } => Stage::Rcpt,
            State::Envelope { step: Step::Data, .. } => Stage::Data,
            State::Content { .. } => Stage::EndOfData,
            State::Quit => Stage::Quit,
            State::Idle { .. } | State::Closed => Stage::Unasked,
        }
    }
}

fn end(transaction: &Transaction, answer: Answer, now: Micros, host: &mut impl Host) {
    let Transaction { job, begun, sent, refused, .. } = transaction;
    host.ended(&Ended { job: *job, begun: *begun, sent: *sent, ended: now, answer, refused });
}
