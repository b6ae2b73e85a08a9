//! PURE. SASL exchanges (RFC 4422): responses in, challenges and at the end a claim out. What comes in and goes out here
//! is decoded; the session does base64 (RFC 4954 §4).
//!
//! An exchange decides nothing: it ends in a [`Claim`], and whoever drives the session says whether it holds. Only SCRAM
//! is verified here, since its proof is bound to the exchange; that costs three HMACs and no password hash.

pub mod prove;
mod scram;

use crate::users::{ScramKeys, prepared};
use scram::Scram;

/// Mechanisms, by their names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mechanism {
    /// RFC 4616.
    Plain,
    /// Of old clients; never standardised.
    Login,
    /// RFC 7677.
    ScramSha256,
    /// RFC 4422, appendix A: the client's certificate.
    External,
}

impl Mechanism {
    /// The one that a client names.
    pub fn named(name: &str) -> Option<Self> {
        let names = [
            ("SCRAM-SHA-256", Self::ScramSha256),
            ("PLAIN", Self::Plain),
            ("LOGIN", Self::Login),
            ("EXTERNAL", Self::External),
        ];
        names.into_iter().find(|(known, _)| name.eq_ignore_ascii_case(known)).map(|(_, mechanism)| mechanism)
    }
}

/// Who the client says it is, and with what.
#[derive(Clone, PartialEq, Eq)]
pub enum Claim {
    /// To be checked against the user's key.
    Password {
        /// Name.
        user: Box<str>,
        /// Password.
        password: Box<[u8]>,
    },
    /// SCRAM, which is decided already.
    Proof {
        /// Name.
        user: Box<str>,
        /// Whether the client knows the password.
        holds: bool,
    },
    /// The certificate of the TLS handshake.
    Certificate {
        /// Name; empty is whoever the certificate belongs to.
        user: Box<str>,
    },
}

impl std::fmt::Debug for Claim {
    /// A password never reaches a log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (Self::Password { user, .. } | Self::Proof { user, .. } | Self::Certificate { user }) = self;
        write!(f, "Claim({user:?})")
    }
}

/// What SCRAM asks.
pub trait Secrets {
    /// Keys of `user`; made up for one that is unknown, so that nobody can tell.
    fn scram_keys(&mut self, _user: &str) -> ScramKeys {
        ScramKeys::made_up(b"", "", 4096)
    }

    /// 18 random bytes.
    fn nonce(&mut self) -> [u8; 18] {
        [0; 18]
    }
}

/// What comes next.
#[derive(Debug)]
pub enum Step {
    /// Send the challenge and go on with the response to it.
    Challenge(Exchange, Vec<u8>),
    /// The exchange is over.
    Claim(Claim),
    /// The response is none: 501.
    Malformed,
}

/// An exchange that waits for a response.
#[derive(Debug)]
pub struct Exchange(State);

#[derive(Debug)]
enum State {
    Plain,
    LoginUser,
    LoginPassword {
        user: Box<str>,
    },
    External,
    ScramFirst,
    ScramFinal(Box<Scram>),
    /// The server's proof is sent; an empty response follows.
    ScramProved {
        user: Box<str>,
    },
}

impl Exchange {
    /// Begins one: the challenge before the first response, and what waits for it.
    pub fn begin(mechanism: Mechanism) -> (Self, &'static [u8]) {
        let (state, challenge): (_, &'static [u8]) = match mechanism {
            Mechanism::Plain => (State::Plain, b""),
            Mechanism::Login => (State::LoginUser, b"Username:"),
            Mechanism::ScramSha256 => (State::ScramFirst, b""),
            Mechanism::External => (State::External, b""),
        };
        (Self(state), challenge)
    }

    /// Takes a response.
    pub fn step(self, response: &[u8], secrets: &mut dyn Secrets) -> Step {
        match self.0 {
            State::Plain => plain(response).map_or(Step::Malformed, Step::Claim),
            State::LoginUser => match name(response) {
                Some(user) => Step::Challenge(Self(State::LoginPassword { user }), b"Password:".to_vec()),
                None => Step::Malformed,
            },
            State::LoginPassword { user } => Step::Claim(Claim::Password { user, password: response.into() }),
            State::External if response.is_empty() => Step::Claim(Claim::Certificate { user: "".into() }),
            State::External => match name(response) {
                Some(user) => Step::Claim(Claim::Certificate { user }),
                None => Step::Malformed,
            },
            State::ScramFirst => match Scram::begin(response, secrets) {
                Some((scram, challenge)) => {
                    Step::Challenge(Self(State::ScramFinal(Box::new(scram))), challenge)
                }
                None => Step::Malformed,
            },
            State::ScramFinal(scram) => match scram.finish(response) {
                Some((user, Some(proof))) => Step::Challenge(Self(State::ScramProved { user }), proof),
                Some((user, None)) => Step::Claim(Claim::Proof { user, holds: false }),
                None => Step::Malformed,
            },
            State::ScramProved { user } if response.is_empty() => {
                Step::Claim(Claim::Proof { user, holds: true })
            }
            State::ScramProved { .. } => Step::Malformed,
        }
    }
}

/// A user's name as names are compared.
fn name(bytes: &[u8]) -> Option<Box<str>> {
    prepared(std::str::from_utf8(bytes).ok()?).map(Box::from)
}

/// `authzid NUL authcid NUL password`. Nobody may act for another, so that both names must be one.
fn plain(response: &[u8]) -> Option<Claim> {
    let mut parts = response.split(|byte| *byte == 0);
    let (acting, user, password) = (parts.next()?, name(parts.next()?)?, parts.next()?);
    let is_whole = parts.next().is_none() && !password.is_empty();
    let is_own = acting.is_empty() || name(acting)? == user;
    (is_whole && is_own).then(|| Claim::Password { user, password: password.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nothing;
    impl Secrets for Nothing {}

    fn claim(mechanism: Mechanism, responses: &[&[u8]]) -> Option<Claim> {
        let (mut exchange, _) = Exchange::begin(mechanism);
        for response in responses {
            match exchange.step(response, &mut Nothing) {
                Step::Challenge(next, _) => exchange = next,
                Step::Claim(claim) => return Some(claim),
                Step::Malformed => return None,
            }
        }
        panic!("the exchange goes on");
    }

    #[test]
    fn plain_takes_the_examples_of_its_rfc_and_nothing_half() {
        // RFC 4616 §4; the second has another authorization identity, which nobody may have here.
        let tim = Claim::Password { user: "tim".into(), password: b"tanstaaftanstaaf"[..].into() };
        assert_eq!(claim(Mechanism::Plain, &[b"\0tim\0tanstaaftanstaaf"]), Some(tim.clone()));
        assert_eq!(claim(Mechanism::Plain, &[b"tim\0tim\0tanstaaftanstaaf"]), Some(tim));
        for wrong in [
            &b"Ursel\0Kurt\0xipj3plmq"[..],
            b"",
            b"\0tim",
            b"\0tim\0",
            b"\0\0x",
            b"\0tim\0x\0y",
            b"\0\xff\0x",
        ] {
            assert_eq!(claim(Mechanism::Plain, &[wrong]), None, "{}", wrong.escape_ascii());
        }
    }

    #[test]
    fn login_asks_for_name_and_password() {
        let (_, challenge) = Exchange::begin(Mechanism::Login);
        assert_eq!(challenge, b"Username:");
        let want = Claim::Password { user: "a".into(), password: b"b"[..].into() };
        assert_eq!(claim(Mechanism::Login, &[b"a", b"b"]), Some(want));
        assert_eq!(claim(Mechanism::Login, &[b""]), None);
    }

    #[test]
    fn external_may_name_a_user_or_leave_it_to_the_certificate() {
        assert_eq!(claim(Mechanism::External, &[b""]), Some(Claim::Certificate { user: "".into() }));
        assert_eq!(claim(Mechanism::External, &[b"a"]), Some(Claim::Certificate { user: "a".into() }));
    }

    #[test]
    fn a_claim_in_a_log_shows_no_password() {
        let claim = Claim::Password { user: "a".into(), password: b"hidden"[..].into() };
        assert_eq!(format!("{claim:?}"), "Claim(\"a\")");
    }
}
