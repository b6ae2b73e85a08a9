//! PURE. The client side of one connection. The driver feeds it received bytes and tells what the socket took; it queues
//! bytes in [`Outgoing`] and reports each transaction's end to the [`Host`].
//!
//! ```text
//! Banner → Hello → Idle ⇄ Envelope (RSET? MAIL RCPT… DATA) → Content → Idle | Envelope of the next | Quit → Closed
//! ```
//!
//! With pipelining a whole envelope is one write and the next one goes behind the final dot, as RFC 2920 §3.1 allows:
//! only DATA must end a group. Replies are then taken off in order; the states are the same.

use crate::clock::Micros;
use crate::ledger::Answer;
use crate::source::outgoing::Outgoing;
use crate::source::plan::Plan;
use crate::wire::reply::{self, LineCutter, ReplyLine};

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
    /// EHLO or HELO.
    Hello,
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
    /// Indices of recipients refused at RCPT.
    pub refused: &'a [u16],
}

/// What a session needs from whoever drives it.
pub trait Host {
    /// The next message if one is due.
    fn next(&mut self, now: Micros) -> Option<Job>;
    /// A reply came.
    fn reply(&mut self, stage: Stage, reply: ReplyLine<'_>);
    /// A transaction ended.
    fn ended(&mut self, ended: &Ended<'_>);
}

/// What the driver does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Write what is queued, read on.
    Continue,
    /// QUIT was answered: close the connection.
    Done,
    /// Close the connection: the peer shut us out or does not speak SMTP.
    Close,
}

#[derive(Debug)]
struct Transaction {
    job: Job,
    begun: Micros,
    sent: Option<Micros>,
    mail_taken: bool,
    refused: Vec<u16>,
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
    /// EHLO sent, or HELO after EHLO was refused.
    Hello {
        extended: bool,
    },
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
        behind: Behind,
    },
    Quit,
    Closed,
}

/// One connection's session.
#[derive(Debug)]
pub struct Session {
    state: State,
    cutter: LineCutter,
    /// Bytes for the socket.
    pub out: Outgoing,
    /// The peer offers PIPELINING and the plan wants it.
    pipelining: bool,
    transactions: u64,
}

impl Default for Session {
    fn default() -> Self {
        let (state, cutter, out) = (State::Banner, LineCutter::default(), Outgoing::default());
        Self { state, cutter, out, pipelining: false, transactions: 0 }
    }
}

impl Session {
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
                self.extension(plan, reply.text);
            }
        }
        self.cutter = cutter;
        flow
    }

    /// The socket took `count` bytes of [`Session::out`].
    pub fn written(&mut self, plan: &Plan, count: usize, now: Micros) {
        if self.out.written(plan, count)
            && let State::Content { transaction, .. } = &mut self.state
        {
            transaction.sent = Some(now);
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
            self.state = self.begin(plan, job, now, reset);
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
        let state = std::mem::replace(self, Self::default()).state;
        match state {
            State::Envelope { transaction, .. } => end(&transaction, Answer::Aborted, now, host),
            State::Content { transaction, to_nobody, behind } => {
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
            State::Banner | State::Hello { .. } | State::Idle { .. } | State::Quit | State::Closed => {}
        }
    }

    fn extension(&mut self, plan: &Plan, text: &[u8]) {
        self.pipelining |= plan.pipelining && text.trim_ascii().eq_ignore_ascii_case(b"PIPELINING");
    }

    fn reply(&mut self, plan: &Plan, reply: ReplyLine<'_>, now: Micros, host: &mut impl Host) -> Flow {
        let taken = (200..300).contains(&reply.code);
        host.reply(self.stage(), reply);
        // 421 may come in any state; the connection is over and the driver's `lost` would call refusals unknown.
        if reply.code == 421 {
            return self.shut_out(now, host);
        }
        if matches!(self.state, State::Quit) {
            self.state = State::Closed;
            return Flow::Done;
        }
        self.state = match std::mem::replace(&mut self.state, State::Closed) {
            State::Banner if taken => {
                self.hello("EHLO", plan);
                State::Hello { extended: true }
            }
            State::Hello { .. } if taken => {
                self.extension(plan, reply.text);
                self.proceed(plan, false, now, host)
            }
            State::Hello { extended: true } => {
                self.hello("HELO", plan);
                State::Hello { extended: false }
            }
            State::Envelope { transaction, step } => {
                self.envelope(plan, transaction, step, reply.code, now, host)
            }
            State::Content { transaction, to_nobody, behind } => {
                let answer = if taken && !to_nobody { Answer::Accepted } else { Answer::Refused };
                end(&transaction, answer, now, host);
                match behind {
                    Behind::Nothing => self.proceed(plan, false, now, host),
                    Behind::Quit => State::Quit,
                    Behind::Envelope(transaction) => State::Envelope { transaction, step: Step::Mail },
                }
            }
            State::Banner | State::Hello { .. } | State::Idle { .. } | State::Quit | State::Closed => {
                State::Closed
            }
        };
        if matches!(self.state, State::Closed) { Flow::Close } else { Flow::Continue }
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
        let lockstep = !self.pipelining;
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
                self.to_rcpt(plan, number, 0)
            }
            Step::Rcpt(index) => {
                if !taken {
                    transaction.refused.push(index);
                }
                if index + 1 < plan.recipients {
                    self.to_rcpt(plan, number, index + 1)
                } else if lockstep && transaction.refused.len() == usize::from(plan.recipients) {
                    end(&transaction, Answer::Refused, now, host);
                    return self.proceed(plan, true, now, host);
                } else {
                    if lockstep {
                        self.out.text().extend_from_slice(b"DATA\r\n");
                    }
                    Step::Data
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

    fn to_rcpt(&mut self, plan: &Plan, number: u64, index: u16) -> Step {
        if !self.pipelining {
            plan.rcpt(number, index, self.out.text());
        }
        Step::Rcpt(index)
    }

    /// After 354: the message, or a dot alone if nobody is left to get it (RFC 2920 §3.1).
    fn content(&mut self, plan: &Plan, transaction: Transaction, now: Micros, host: &mut impl Host) -> State {
        let to_nobody = !transaction.mail_taken || transaction.refused.len() == usize::from(plan.recipients);
        let number = transaction.job.number;
        if to_nobody {
            self.out.text().extend_from_slice(b".\r\n");
            self.out.end_of_data(plan);
            return State::Content { transaction, to_nobody, behind: Behind::Nothing };
        }
        plan.template(number).header(plan.id(number), now, self.out.text());
        if !self.out.body(plan, number) {
            // 354 before the earlier message had left: not a peer that replies in order.
            end(&transaction, Answer::Aborted, now, host);
            return State::Closed;
        }
        let behind = if !self.pipelining {
            Behind::Nothing
        } else if self.worn_out(plan) {
            self.out.text().extend_from_slice(b"QUIT\r\n");
            Behind::Quit
        } else if let Some(job) = host.next(now) {
            Behind::Envelope(self.transaction(plan, job, now, false))
        } else {
            Behind::Nothing
        };
        State::Content { transaction, to_nobody, behind }
    }

    fn proceed(&mut self, plan: &Plan, reset: bool, now: Micros, host: &mut impl Host) -> State {
        if self.worn_out(plan) {
            self.out.text().extend_from_slice(b"QUIT\r\n");
            return State::Quit;
        }
        match host.next(now) {
            Some(job) => self.begin(plan, job, now, reset),
            None => State::Idle { reset },
        }
    }

    fn worn_out(&self, plan: &Plan) -> bool {
        plan.reuse > 0 && self.transactions >= plan.reuse
    }

    fn begin(&mut self, plan: &Plan, job: Job, now: Micros, reset: bool) -> State {
        let transaction = self.transaction(plan, job, now, reset);
        State::Envelope { transaction, step: if reset { Step::Rset } else { Step::Mail } }
    }

    /// Queues the first command of an envelope, or all of it.
    fn transaction(&mut self, plan: &Plan, job: Job, now: Micros, reset: bool) -> Transaction {
        self.transactions += 1;
        let out = self.out.text();
        if reset {
            out.extend_from_slice(b"RSET\r\n");
        }
        if self.pipelining || !reset {
            plan.mail(job.number, out);
        }
        if self.pipelining {
            (0..plan.recipients).for_each(|index| plan.rcpt(job.number, index, out));
            out.extend_from_slice(b"DATA\r\n");
        }
        Transaction { job, begun: now, sent: None, mail_taken: false, refused: Vec::new() }
    }

    fn hello(&mut self, verb: &str, plan: &Plan) {
        let line = format!("{verb} {}\r\n", plan.sender_domain);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::plan::tests::plan;

    #[derive(Default)]
    struct Script {
        jobs: u64,
        issued: u64,
        log: Vec<(u64, Answer, Vec<u16>)>,
    }

    impl Host for Script {
        fn next(&mut self, now: Micros) -> Option<Job> {
            let number = self.issued;
            (number < self.jobs).then(|| {
                self.issued += 1;
                Job { number, intended: now }
            })
        }
        fn reply(&mut self, _: Stage, _: ReplyLine<'_>) {}
        fn ended(&mut self, ended: &Ended<'_>) {
            self.log.push((ended.job.number, ended.answer, ended.refused.to_vec()));
        }
    }

    /// Plays `S: ` lines to the session and compares what it sends with the `C: ` lines: verbs only, a message is `BODY`.
    fn play(plan: &Plan, jobs: u64, chunk: usize, script: &[&str]) -> (Vec<(u64, Answer, Vec<u16>)>, Flow) {
        let (mut session, mut host) = (Session::default(), Script { jobs, ..Script::default() });
        let mut flow = Flow::Continue;
        for line in script {
            if let Some(said) = line.strip_prefix("S: ") {
                let bytes = format!("{said}\r\n").replace('|', "\r\n");
                for piece in bytes.as_bytes().chunks(chunk) {
                    flow = session.receive(plan, piece, 1, &mut host);
                }
            } else if let Some(want) = line.strip_prefix("C: ") {
                let sent = session.out.slices(plan).concat();
                session.written(plan, sent.len(), 2);
                assert_eq!(verbs(&sent), want, "{script:?}");
            } else {
                session.lost(3, &mut host);
            }
        }
        (host.log, flow)
    }

    fn verbs(sent: &[u8]) -> String {
        let text = String::from_utf8_lossy(sent).replace("\r\n.\r\n", "\r\nBODY \r\n");
        let known = ["EHLO", "HELO", "RSET", "MAIL", "RCPT", "DATA", "BODY", "QUIT", "."];
        let verb = |line: &str| known.into_iter().find(|verb| line.split(' ').next() == Some(*verb));
        text.lines().filter_map(verb).collect::<Vec<_>>().join(" ")
    }

    fn check(recipients: u16, pipelining: bool, jobs: u64, script: &[&str], want: &[(u64, Answer, &[u16])]) {
        let plan = Plan { pipelining, ..plan(recipients) };
        let want: Vec<_> =
            want.iter().map(|(number, answer, refused)| (*number, *answer, refused.to_vec())).collect();
        for chunk in [1, 5, 1000] {
            assert_eq!(play(&plan, jobs, chunk, script).0, want, "{script:?} by {chunk}");
        }
    }

    const HELLO: [&str; 3] = ["S: 220 hi", "C: EHLO", "S: 250-me|250-PIPELINING|250 SIZE"];

    fn after_hello<'a>(rest: &[&'a str]) -> Vec<&'a str> {
        [&HELLO[..], rest].concat()
    }

    #[test]
    fn a_pipelined_envelope_is_one_write_and_the_next_goes_behind_the_dot() {
        let script = after_hello(&[
            "C: MAIL RCPT DATA",
            "S: 250 a|250 b|354 go",
            "C: BODY MAIL RCPT DATA",
            "S: 250 queued|250 a|250 b|354 go",
            "C: BODY",
            "S: 250 queued",
        ]);
        check(1, true, 2, &script, &[(0, Answer::Accepted, &[]), (1, Answer::Accepted, &[])]);
    }

    #[test]
    fn without_pipelining_each_command_waits() {
        let rest = [
            "C: MAIL",
            "S: 250 a",
            "C: RCPT",
            "S: 250 b",
            "C: RCPT",
            "S: 550 no",
            "C: DATA",
            "S: 354",
            "C: BODY",
        ];
        let script = [&HELLO[..], &rest, &["S: 250 ok", "C: MAIL"]].concat();
        check(2, false, 2, &script, &[(0, Answer::Accepted, &[1])]);
        let unoffered = ["S: 220 hi", "C: EHLO", "S: 250 me", "C: MAIL"];
        check(1, true, 1, &unoffered, &[]);
    }

    #[test]
    fn a_pipelined_message_that_nobody_gets_is_a_dot_alone_and_refused() {
        let script = after_hello(&[
            "C: MAIL RCPT RCPT DATA",
            "S: 250 a|550 no|450 later|354 go",
            "C: .",
            "S: 250 queued for nobody",
        ]);
        check(2, true, 1, &script, &[(0, Answer::Refused, &[0, 1])]);
    }

    #[test]
    fn a_refused_data_resets_before_the_next_envelope() {
        let script = after_hello(&[
            "C: MAIL RCPT DATA",
            "S: 250 a|550 no|503 nobody",
            "C: RSET MAIL RCPT DATA",
            "S: 250 reset|250 a|250 b|354 go",
            "C: BODY",
        ]);
        check(1, true, 2, &script, &[(0, Answer::Refused, &[0])]);
    }

    #[test]
    fn a_lost_connection_tells_apart_what_may_arrive_and_what_may_not() {
        let sent =
            after_hello(&["C: MAIL RCPT DATA", "S: 250 a|250 b|354 go", "C: BODY MAIL RCPT DATA", "lost"]);
        check(1, true, 2, &sent, &[(0, Answer::Unknown, &[]), (1, Answer::Aborted, &[])]);
        let unsent = after_hello(&["C: MAIL RCPT DATA", "S: 250 a|250 b|354 go", "lost"]);
        check(1, true, 1, &unsent, &[(0, Answer::Aborted, &[])]);
        let envelope = after_hello(&["C: MAIL RCPT DATA", "S: 250 a", "lost"]);
        check(1, true, 1, &envelope, &[(0, Answer::Aborted, &[])]);
    }

    #[test]
    fn shut_out_with_421_is_a_refusal_and_closes() {
        let script = after_hello(&["C: MAIL RCPT DATA", "S: 421 closing", "lost"]);
        check(1, true, 1, &script, &[(0, Answer::Refused, &[])]);
        assert_eq!(play(&plan(1), 1, 100, &script[..5]).1, Flow::Close);
        let at_end = after_hello(&[
            "C: MAIL RCPT DATA",
            "S: 250 a|250 b|354 go",
            "C: BODY MAIL RCPT DATA",
            "S: 421 full",
            "lost",
        ]);
        check(1, true, 2, &at_end, &[(0, Answer::Refused, &[]), (1, Answer::Aborted, &[])]);
    }

    #[test]
    fn a_connection_is_closed_after_its_share_of_messages() {
        let plan = Plan { reuse: 1, ..plan(1) };
        let script = after_hello(&[
            "C: MAIL RCPT DATA",
            "S: 250 a|250 b|354 go",
            "C: BODY QUIT",
            "S: 250 queued|221 bye",
        ]);
        let (log, flow) = play(&plan, 9, 1000, &script);
        assert_eq!((log.len(), flow), (1, Flow::Done));
    }

    #[test]
    fn helo_follows_a_refused_ehlo_and_nonsense_closes() {
        check(1, true, 1, &["S: 220 hi", "C: EHLO", "S: 502 what", "C: HELO", "S: 250 me", "C: MAIL"], &[]);
        assert_eq!(play(&plan(1), 1, 100, &["S: HTTP/1.1 400 Bad Request"]).1, Flow::Close);
        assert_eq!(play(&plan(1), 1, 100, &["S: 554 go away"]).1, Flow::Close);
    }
}
