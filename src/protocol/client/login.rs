//! PURE. AUTH towards a remote (RFC 4954): the strongest mechanism that it offers and we know.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;

use super::{Client, Event, Expect, Misbehaved, State, replies};
use crate::outcome::{Enhanced, Reply};
use crate::protocol::remote::RemoteReply;
use crate::protocol::sasl::Mechanism;
use crate::protocol::sasl::prove::{Credentials, Prover};

/// Those that we know, the strongest first.
pub(super) const MECHANISMS: [(Mechanism, &str); 3] =
    [(Mechanism::ScramSha256, "SCRAM-SHA-256"), (Mechanism::Plain, "PLAIN"), (Mechanism::Login, "LOGIN")];

/// Unrecognized authentication type (RFC 4954 §6).
const UNKNOWN_MECHANISM: u16 = 504;

impl Client {
    /// Logs in; the session must be idle. `nonce` is random. [`Event::LoggedIn`] or [`Event::LoginRefused`] follows, unless
    /// the session is over.
    pub fn log_in(&mut self, credentials: &Credentials, nonce: &[u8; 18]) {
        if self.state == State::Over {
            return;
        }
        assert!(self.state == State::Ready && self.is_idle(), "AUTH is sent on an idle session");
        let Some((mechanism, name)) = self.offered.mechanism() else {
            return self.refuse_login("it offers none of SCRAM-SHA-256, PLAIN and LOGIN");
        };
        let (prover, first) = Prover::begin(mechanism, credentials, nonce);
        self.prover = Some(prover);
        let first = first.map(|first| format!(" {}", BASE64.encode(first))).unwrap_or_default();
        self.say(&format!("AUTH {name}{first}\r\n"));
    }

    pub(super) fn on_login(&mut self, reply: &RemoteReply) -> Result<(), Misbehaved> {
        match reply.code {
            200..300 => match self.prover.take() {
                Some(prover) if prover.is_done() => self.events.push_back(Event::LoggedIn),
                // A remote that has not proved itself may be anybody, and wants our mail.
                _ => self.refuse_login("it did not prove that it knows the password"),
            },
            334 => {
                let challenge = BASE64.decode(reply.text.trim()).ok();
                let answer = challenge.and_then(|challenge| self.prover.as_mut()?.answer(&challenge));
                match answer {
                    Some(answer) => self.say(&format!("{}\r\n", BASE64.encode(answer))),
                    None => self.refuse_login("its challenge is none, or not to our response"),
                }
            }
            400..600 => self.on_refusal(reply),
            _ => return Err(replies::out_of_step(Expect::Login, reply)),
        }
        Ok(())
    }

    /// A remote may offer SCRAM and keep passwords in a form that it cannot use for it, or name a mechanism that it has not:
    /// the next one is tried. Other refusals stand: each further try would count as a wrong password.
    fn on_refusal(&mut self, reply: &RemoteReply) {
        let tried = self.offered.auth.iter().position(|offered| *offered);
        let (Some(tried), Some(prover)) = (tried, self.prover.take()) else { return };
        let goes_on = MECHANISMS[tried].0 == Mechanism::ScramSha256 || reply.code == UNKNOWN_MECHANISM;
        self.offered.auth[tried] = false;
        if goes_on && self.offered.mechanism().is_some() {
            // None of those that are left has use for a nonce.
            return self.log_in(&prover.into_credentials(), &[0; 18]);
        }
        self.events.push_back(Event::LoginRefused(reply.to_reply()));
    }

    fn say(&mut self, line: &str) {
        self.issue(Expect::Login, |_, out| out.extend_from_slice(line.as_bytes()));
    }

    fn refuse_login(&mut self, why: &str) {
        self.prover = None;
        let text = format!("the remote does not let us log in: {why}");
        self.events.push_back(Event::LoginRefused(Reply::new(0, Enhanced(4, 7, 0), &text)));
    }
}
