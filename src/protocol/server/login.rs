//! PURE. AUTH in a session (RFC 4954): base64 on the wire, an exchange of `sasl` behind it.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;

use super::session::{Session, State};
use super::{AuthOffer, Policy, Want};
use crate::protocol::reply::{self, Refusal};
use crate::protocol::sasl::{Claim, Exchange, Mechanism, Step};

impl Session {
    /// Says which ways to log in there are from now on: at the beginning, and after a handshake.
    pub fn offer_auth(&mut self, offer: AuthOffer) {
        self.auth = offer;
    }

    /// Whom the client is known to be, by AUTH.
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// After [`Want::Authenticate`]: what the client claims.
    pub fn claim(&self) -> &Claim {
        match &self.state {
            State::Claiming(claim) => claim,
            _ => panic!("there is a claim after Want::Authenticate only"),
        }
    }

    /// The claim holds, and the client is this user; or it does not.
    pub fn authenticated(&mut self, result: Result<&str, Refusal>, out: &mut Vec<u8>) {
        assert!(matches!(self.state, State::Claiming(_)), "a claim is decided after Want::Authenticate");
        self.state = State::Idle;
        match result {
            Ok(user) => {
                self.user = Some(user.into());
                out.extend_from_slice(reply::line::AUTHENTICATED);
            }
            Err(refusal) => self.refuse(&refusal, out),
        }
    }

    /// AUTH, with or without an initial response.
    pub(super) fn auth(
        &mut self,
        policy: &mut dyn Policy,
        arguments: &str,
        out: &mut Vec<u8>,
    ) -> Result<Option<Want>, Refusal> {
        let (name, initial) = arguments.split_once(' ').unwrap_or((arguments, ""));
        let mechanism = Mechanism::named(name).ok_or(reply::UNKNOWN_MECHANISM)?;
        if let Some(refusal) = self.auth.refusal(mechanism) {
            return Err(refusal);
        }
        if self.user.is_some() {
            return Err(reply::AUTHENTICATED_ALREADY);
        }
        let (exchange, challenge) = Exchange::begin(mechanism);
        match initial.trim_start_matches(' ') {
            "" => {
                self.challenge(exchange, challenge, out);
                Ok(None)
            }
            // RFC 4954 §4: an initial response that is empty.
            "=" => self.respond(policy, exchange, "", out),
            initial => self.respond(policy, exchange, initial, out),
        }
    }

    /// A line of an exchange.
    pub(super) fn response(
        &mut self,
        policy: &mut dyn Policy,
        line: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Option<Want>, Refusal> {
        let State::Login(exchange) = std::mem::replace(&mut self.state, State::Idle) else {
            unreachable!("called in Login only")
        };
        if line == b"*" {
            return Err(reply::AUTH_CANCELLED);
        }
        let line = std::str::from_utf8(line).map_err(|_| reply::BAD_RESPONSE)?;
        self.respond(policy, exchange, line, out)
    }

    fn respond(
        &mut self,
        policy: &mut dyn Policy,
        exchange: Exchange,
        response: &str,
        out: &mut Vec<u8>,
    ) -> Result<Option<Want>, Refusal> {
        let response = BASE64.decode(response).map_err(|_| reply::BAD_RESPONSE)?;
        match exchange.step(&response, policy) {
            Step::Challenge(exchange, challenge) => {
                self.challenge(exchange, &challenge, out);
                Ok(None)
            }
            Step::Claim(claim) => {
                self.state = State::Claiming(claim);
                Ok(Some(Want::Authenticate))
            }
            Step::Malformed => Err(reply::BAD_RESPONSE),
        }
    }

    fn challenge(&mut self, exchange: Exchange, challenge: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(b"334 ");
        out.extend_from_slice(BASE64.encode(challenge).as_bytes());
        out.extend_from_slice(b"\r\n");
        self.state = State::Login(exchange);
    }
}
