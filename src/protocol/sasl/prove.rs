//! PURE. The client's side of an exchange: proves us to a remote, and with SCRAM the remote to us (RFC 4616, 5802, 7677).

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;
use subtle::ConstantTimeEq as _;

use super::Mechanism;
use crate::users::{ScramProof, hmac_sha256, sha256};

/// Iterations that a remote may ask for: RFC 7677 §4 has the least; they are computed in one turn of the executor, some
/// 20 ms at most.
const ITERATIONS_ALLOWED: std::ops::RangeInclusive<u32> = 4096..=100_000;

/// Who we are at a remote, and the secret.
#[derive(Clone)]
pub struct Credentials {
    /// Name.
    pub user: Box<str>,
    /// Password.
    pub password: Box<[u8]>,
}

impl std::fmt::Debug for Credentials {
    /// A password never reaches a log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credentials({:?})", self.user)
    }
}

/// An exchange under way.
#[derive(Debug)]
pub struct Prover {
    credentials: Credentials,
    state: State,
}

#[derive(Debug)]
enum State {
    LoginUser,
    LoginPassword,
    /// Our first message is sent: the nonce in it, and the message without its header.
    ScramFirst {
        nonce: String,
        bare: String,
    },
    /// Our proof is sent: what the remote must show.
    ScramFinal {
        theirs: [u8; 32],
    },
    /// Nothing more is to be said.
    Done,
}

impl Prover {
    /// Begins one; gives the initial response, if the mechanism has one.
    pub fn begin(
        mechanism: Mechanism,
        credentials: &Credentials,
        nonce: &[u8; 18],
    ) -> (Self, Option<Vec<u8>>) {
        let user = &credentials.user;
        let (state, first) = match mechanism {
            Mechanism::Plain => {
                let response = [b"\0", user.as_bytes(), b"\0", &credentials.password].concat();
                (State::Done, Some(response))
            }
            Mechanism::ScramSha256 => {
                let nonce = BASE64.encode(nonce);
                let bare = format!("n={},r={nonce}", user.replace('=', "=3D").replace(',', "=2C"));
                let first = format!("n,,{bare}").into_bytes();
                (State::ScramFirst { nonce, bare }, Some(first))
            }
            // LOGIN asks first; EXTERNAL is not ours to choose.
            Mechanism::Login | Mechanism::External => (State::LoginUser, None),
        };
        (Self { credentials: credentials.clone(), state }, first)
    }

    /// Takes a challenge, gives the response to it. `None`: it is none that can come here, or a proof that does not hold.
    pub fn answer(&mut self, challenge: &[u8]) -> Option<Vec<u8>> {
        // What fails is not done: a 2xx behind it is no success.
        match std::mem::replace(&mut self.state, State::LoginUser) {
            // What the words are differs from server to server; their order does not.
            State::LoginUser => {
                self.state = State::LoginPassword;
                Some(self.credentials.user.as_bytes().to_vec())
            }
            State::LoginPassword => {
                self.state = State::Done;
                Some(self.credentials.password.to_vec())
            }
            State::ScramFirst { nonce, bare } => {
                let (response, theirs) = self.prove(&nonce, &bare, std::str::from_utf8(challenge).ok()?)?;
                self.state = State::ScramFinal { theirs };
                Some(response)
            }
            State::ScramFinal { theirs } => {
                let shown = BASE64.decode(challenge.strip_prefix(b"v=")?).ok()?;
                if !bool::from(shown.ct_eq(&theirs)) {
                    return None;
                }
                self.state = State::Done;
                Some(Vec::new())
            }
            State::Done => None,
        }
    }

    /// Whether the exchange has come to its end, with the remote's proof if it owes one.
    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// For another exchange.
    pub fn into_credentials(self) -> Credentials {
        self.credentials
    }

    /// Our final message for the server's first, and the proof that it owes us then.
    fn prove(&self, nonce: &str, bare: &str, first: &str) -> Option<(Vec<u8>, [u8; 32])> {
        let mut fields = first.split(',');
        let joint = fields.next()?.strip_prefix("r=").filter(|joint| joint.starts_with(nonce))?;
        let salt = BASE64.decode(fields.next()?.strip_prefix("s=")?).ok()?;
        let iterations = fields.next()?.strip_prefix("i=")?.parse::<u32>().ok()?;
        if joint.len() == nonce.len() || !ITERATIONS_ALLOWED.contains(&iterations) {
            return None;
        }
        let keys = ScramProof::of(&self.credentials.password, &salt, iterations);
        let without_proof = format!("c=biws,r={joint}");
        let said = format!("{bare},{first},{without_proof}");
        let signature = hmac_sha256(&sha256(&keys.client), said.as_bytes());
        let proof: [u8; 32] = std::array::from_fn(|at| keys.client[at] ^ signature[at]);
        let response = format!("{without_proof},p={}", BASE64.encode(proof)).into_bytes();
        Some((response, hmac_sha256(&keys.server, said.as_bytes())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credentials() -> Credentials {
        Credentials { user: "user".into(), password: b"pencil"[..].into() }
    }

    /// The exchange of RFC 7677 §3, whose client nonce is no base64 of 18 bytes.
    fn example() -> Prover {
        let bare = "n=user,r=rOprNGfwEbeRWgbNEkqO".to_owned();
        let state = State::ScramFirst { nonce: "rOprNGfwEbeRWgbNEkqO".into(), bare };
        Prover { credentials: credentials(), state }
    }

    const FIRST: &str =
        "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";

    #[test]
    fn the_example_of_rfc_7677_is_proved_to_both_sides() {
        let mut prover = example();
        let response = prover.answer(FIRST.as_bytes()).expect("a challenge");
        let want = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                    p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
        assert_eq!(String::from_utf8_lossy(&response), want);
        assert!(!prover.is_done(), "the remote has proved nothing yet");
        assert_eq!(prover.answer(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="), Some(Vec::new()));
        assert!(prover.is_done());
    }

    #[test]
    fn a_remote_that_does_not_know_the_password_gets_no_further() {
        let mut prover = example();
        prover.answer(FIRST.as_bytes()).expect("a challenge");
        assert_eq!(prover.answer(b"v=7rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="), None);
        assert!(!prover.is_done());
    }

    #[test]
    fn first_messages_that_are_not_to_ours_or_ask_for_too_much_or_too_little_are_none() {
        for wrong in [
            FIRST.replace("r=rO", "r=xO"),
            "r=rOprNGfwEbeRWgbNEkqO,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096".to_owned(),
            FIRST.replace("i=4096", "i=4095"),
            FIRST.replace("i=4096", "i=100001"),
            FIRST.replace("s=W", "s=*"),
            String::new(),
        ] {
            assert_eq!(example().answer(wrong.as_bytes()), None, "{wrong}");
        }
    }

    #[test]
    fn plain_and_login_say_name_and_password_and_no_more() {
        let (mut prover, first) = Prover::begin(Mechanism::Plain, &credentials(), &[0; 18]);
        assert_eq!(first.as_deref(), Some(&b"\0user\0pencil"[..]));
        assert!(prover.is_done() && prover.answer(b"").is_none());
        let (mut prover, first) = Prover::begin(Mechanism::Login, &credentials(), &[0; 18]);
        assert_eq!(first, None);
        assert_eq!(prover.answer(b"Username:").as_deref(), Some(&b"user"[..]));
        assert!(!prover.is_done());
        assert_eq!(prover.answer(b"Password:").as_deref(), Some(&b"pencil"[..]));
        assert!(prover.is_done() && prover.answer(b"And?").is_none());
    }

    #[test]
    fn no_secret_is_shown() {
        let (prover, _) = Prover::begin(Mechanism::Plain, &credentials(), &[0; 18]);
        assert!(!format!("{prover:?}").contains("pencil"));
    }
}
