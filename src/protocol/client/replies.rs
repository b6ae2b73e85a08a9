//! PURE. What each reply does to the session: the table of the state machine.
//!
//! | reply to | 2xx | 3xx | 4xx, 5xx |
//! | --- | --- | --- | --- |
//! | banner | EHLO (220 only) | out of step | `Refused` |
//! | EHLO | `Ready` | out of step | 4xx `Refused`; 5xx HELO |
//! | AUTH | `LoggedIn` | 334: our next response | `LoginRefused` |
//! | MAIL | accepted | out of step | all recipients get it |
//! | RCPT | accepted; out of step if MAIL was refused | out of step | the recipient gets it; 552 counts as 4xx |
//! | DATA | out of step | body, or a lone dot if nobody is left (RFC 2920 §3.1) | accepted recipients get it, RSET |
//! | chunk | go on | out of step | accepted recipients get it, RSET |
//! | end of body | delivered (relayed where we owe a report) | out of step | accepted recipients get it; RSET behind chunks |
//! | RSET | go on | out of step | out of step |
//!
//! 421 to anything, asked or not, ends the session (RFC 5321 §3.8): what had begun is deferred with its words, what had
//! not is handed back. A MAIL on a *used* connection counts as not begun: more likely than not the remote closed an
//! idle connection and the MAIL crossed its 421.

use super::flight::{Body, Flight, Form, Mail};
use super::{Client, Event, Expect, Misbehaved, State};
use crate::outcome::Verdict;
use crate::protocol::remote::RemoteReply;

/// The service is closing the channel.
const CLOSING: u16 = 421;
/// Too many recipients, to many remotes: RFC 5321 §4.5.3.1.10 wants it treated as 452 in reply to RCPT.
const TOO_MANY_RECIPIENTS: u16 = 552;

impl Client {
    /// Takes received bytes, all of them unless the remote misbehaves; returns how many. Replies may be split anywhere.
    pub fn handle(&mut self, input: &[u8]) -> Result<usize, Misbehaved> {
        // Only commands written before this input was read can be answered by it.
        let mut answerable = self.expected.len();
        let mut taken = 0;
        while taken < input.len() {
            if self.state == State::Over {
                return Ok(input.len());
            }
            let in_ehlo = self.expected.front() == Some(&Expect::Ehlo);
            let offered = &mut self.offered;
            let (bytes, whole) = self.parser.push(&input[taken..], |line, text| {
                if in_ehlo && line > 0 {
                    offered.take_line(text);
                }
            })?;
            taken += bytes;
            if whole {
                let reply = self.parser.take();
                let done = self.on_reply(&reply, &mut answerable);
                self.parser.restore(reply);
                done?;
            } else if answerable == 0 {
                // Judged at its first bytes, so that early bytes cannot wait for the command that they forestall.
                let may_close = self.parser.partial().iter().zip(b"421").all(|(byte, want)| byte == want);
                if !may_close {
                    return Err(Misbehaved::Unasked);
                }
            }
        }
        Ok(taken)
    }

    fn on_reply(&mut self, reply: &RemoteReply, answerable: &mut usize) -> Result<(), Misbehaved> {
        if reply.code == CLOSING {
            self.on_closing(reply);
            return Ok(());
        }
        if *answerable == 0 {
            return Err(Misbehaved::Unasked);
        }
        *answerable -= 1;
        let expect = self.expected.pop_front().ok_or(Misbehaved::Unasked)?;
        match expect {
            Expect::Banner | Expect::Ehlo | Expect::Helo | Expect::StartTls => {
                self.on_opening(expect, reply)?;
            }
            Expect::Login => self.on_login(reply)?,
            Expect::Rset if reply.code / 100 == 2 => {}
            Expect::Rset => return Err(out_of_step(expect, reply)),
            Expect::Quit => {
                self.end();
                self.events.push_back(Event::Closed);
            }
            Expect::Mail | Expect::Rcpt(_) | Expect::Data | Expect::Chunk | Expect::End => {
                self.on_transaction(expect, reply)?;
            }
        }
        self.release_held();
        self.leave_if_done();
        Ok(())
    }

    fn on_opening(&mut self, expect: Expect, reply: &RemoteReply) -> Result<(), Misbehaved> {
        match (expect, reply.code / 100) {
            (Expect::Banner, _) if reply.code == 220 => self.say_hello(Expect::Ehlo),
            (Expect::Ehlo, 2) => self.ready(),
            (Expect::Ehlo, 5) => self.say_hello(Expect::Helo),
            (Expect::Helo, 2) => self.ready(),
            (Expect::StartTls, _) if reply.code == 220 => {
                self.state = State::Handshake;
                self.events.push_back(Event::TlsWanted);
            }
            (Expect::StartTls, 4 | 5) => self.events.push_back(Event::TlsRefused(reply.to_reply())),
            (_, 4 | 5) => {
                self.end();
                self.events.push_back(Event::Refused { stage: expect.stage(), reply: reply.to_reply() });
            }
            _ => return Err(out_of_step(expect, reply)),
        }
        Ok(())
    }

    fn ready(&mut self) {
        self.state = State::Ready;
        self.events.push_back(Event::Ready);
    }

    /// A reply within the oldest transaction.
    fn on_transaction(&mut self, expect: Expect, reply: &RemoteReply) -> Result<(), Misbehaved> {
        let flight =
            self.flights.front_mut().expect("a transaction's replies are expected while it is in flight");
        flight.unanswered -= 1;
        match expect {
            Expect::Mail => on_mail(flight, reply)?,
            Expect::Rcpt(place) => on_rcpt(flight, place, reply)?,
            Expect::Data => {
                if on_data(flight, reply)? {
                    self.events.push_back(Event::BodyWanted { tag: flight.tag });
                } else if reply.code / 100 == 3 {
                    self.output.extend_from_slice(b".\r\n");
                    self.expected.push_back(Expect::End);
                    flight.unanswered += 1;
                }
            }
            Expect::Chunk | Expect::End => on_body(flight, expect, reply, self.offered.dsn)?,
            _ => unreachable!("sorted out by on_reply"),
        }
        self.give_up_in_vain();
        self.finish_front();
        Ok(())
    }

    /// Nobody is left to send the body to: commands that were held back are dropped, and an open body is stopped.
    fn give_up_in_vain(&mut self) {
        let Some(flight) = self.flights.front_mut().filter(|flight| flight.open == 0) else { return };
        if !self.held.is_empty() {
            // Without PIPELINING all that is held belongs to the one transaction in flight.
            flight.unanswered -= self.held.len() as u32;
            flight.body = Body::Void;
            self.held.clear();
            self.held_bytes.clear();
        }
        if flight.body == Body::Open {
            flight.body = Body::Void;
            self.events.push_back(Event::BodyUnwanted { tag: flight.tag });
        }
    }

    fn finish_front(&mut self) {
        if !self.flights.front().is_some_and(Flight::is_over) {
            return;
        }
        let flight = self.flights.pop_front().expect("looked at above");
        // With another one behind it, RSET went out before that one's MAIL; before QUIT it is of no use.
        if flight.needs_reset() && self.flights.is_empty() && self.state == State::Ready {
            self.issue(Expect::Rset, |_, out| out.extend_from_slice(b"RSET\r\n"));
        }
        self.finish(flight);
    }

    /// Without PIPELINING: the next command, once nothing is awaited.
    fn release_held(&mut self) {
        if !self.expected.is_empty() {
            return;
        }
        if let Some((expect, bytes)) = self.held.pop_front() {
            self.output.extend(self.held_bytes.drain(..bytes));
            self.expected.push_back(expect);
        }
    }

    fn on_closing(&mut self, reply: &RemoteReply) {
        let asked = self.expected.front().copied();
        if let Some(expect) = asked.filter(|expect| expect.is_opening()) {
            self.end();
            self.events.push_back(Event::Refused { stage: expect.stage(), reply: reply.to_reply() });
            return;
        }
        let mut is_first = self.begun == self.flights.len() as u64;
        while let Some(mut flight) = self.flights.pop_front() {
            let begun = flight.mail != Mail::Unanswered || (is_first && asked == Some(Expect::Mail));
            is_first = false;
            if begun {
                let open = flight.open;
                flight.settle(open, Verdict::Deferred, || reply.to_reply());
            } else {
                flight.hand_back();
            }
            self.finish(flight);
        }
        self.end();
        self.events.push_back(Event::Closing(reply.to_reply()));
    }
}

fn on_mail(flight: &mut Flight, reply: &RemoteReply) -> Result<(), Misbehaved> {
    match reply.code / 100 {
        2 => flight.mail = Mail::Accepted,
        3 => return Err(out_of_step(Expect::Mail, reply)),
        _ => {
            flight.mail = Mail::Refused;
            flight.settle(flight.open, refusal(reply), || reply.to_reply());
        }
    }
    Ok(())
}

fn on_rcpt(flight: &mut Flight, place: u64, reply: &RemoteReply) -> Result<(), Misbehaved> {
    match reply.code / 100 {
        // The remote would send the message on in a transaction that is not this one.
        2 if flight.mail == Mail::Refused => return Err(out_of_step(Expect::Rcpt(place), reply)),
        2 => flight.accepted |= place,
        3 => return Err(out_of_step(Expect::Rcpt(place), reply)),
        _ => {
            let later = reply.code == TOO_MANY_RECIPIENTS;
            let verdict = if later { Verdict::Deferred } else { refusal(reply) };
            flight.settle(place, verdict, || reply.to_reply());
        }
    }
    Ok(())
}

/// Says whether the body is to be sent.
fn on_data(flight: &mut Flight, reply: &RemoteReply) -> Result<bool, Misbehaved> {
    match reply.code / 100 {
        2 => return Err(out_of_step(Expect::Data, reply)),
        3 if flight.accepted != 0 => flight.body = Body::Open,
        3 => flight.body = Body::Void,
        _ => {
            flight.settle(flight.open, refusal(reply), || reply.to_reply());
            flight.body = Body::Void;
        }
    }
    Ok(flight.body == Body::Open)
}

/// `reports`: the remote was told what the sender wants to hear of, and will say it.
fn on_body(
    flight: &mut Flight,
    expect: Expect,
    reply: &RemoteReply,
    reports: bool,
) -> Result<(), Misbehaved> {
    let is_end = expect == Expect::End;
    match reply.code / 100 {
        2 if is_end => {
            let relayed = if reports { 0 } else { flight.accepted & flight.asked };
            flight.settle(relayed, Verdict::Relayed, || reply.to_reply());
            flight.settle(flight.accepted, Verdict::Delivered, || reply.to_reply());
        }
        2 => {}
        3 => return Err(out_of_step(expect, reply)),
        _ => flight.settle(flight.open, refusal(reply), || reply.to_reply()),
    }
    // A final dot ends the remote's transaction whatever it says (RFC 5321 §4.1.1.4); chunks only when they succeed.
    if is_end && (flight.form == Form::Data || reply.code / 100 == 2) {
        flight.closed_by_peer = true;
    }
    Ok(())
}

fn refusal(reply: &RemoteReply) -> Verdict {
    if reply.code / 100 == 5 { Verdict::Failed } else { Verdict::Deferred }
}

pub(super) fn out_of_step(expect: Expect, reply: &RemoteReply) -> Misbehaved {
    Misbehaved::OutOfStep { stage: expect.stage(), code: reply.code }
}
