//! PURE. The server's side of SCRAM-SHA-256 (RFC 5802, RFC 7677), without channel binding.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;
use subtle::ConstantTimeEq as _;

use super::Secrets;
use crate::users::{ScramKeys, hmac_sha256, sha256};

/// Between the client's two messages.
#[derive(Debug)]
pub(super) struct Scram {
    user: Box<str>,
    keys: ScramKeys,
    /// The client's and ours.
    nonce: String,
    /// What the client must repeat in base64.
    header: Box<str>,
    /// `client-first-message-bare,server-first-message`.
    said: String,
}

impl Scram {
    /// Takes the client's first message; gives ours. `None`: it is none.
    pub fn begin(message: &[u8], secrets: &mut dyn Secrets) -> Option<(Self, Vec<u8>)> {
        let message = std::str::from_utf8(message).ok()?;
        // gs2-header: `n` or `y`, since no binding is offered, and whom the client wants to act for.
        let (binding, rest) = message.split_once(',')?;
        let (acting, bare) = rest.split_once(',')?;
        if !matches!(binding, "n" | "y") {
            return None;
        }
        let (user, rest) = bare.strip_prefix("n=")?.split_once(',')?;
        let user = decode_name(user)?;
        // What follows the nonce are extensions, of which none is mandatory.
        let theirs = rest.strip_prefix("r=")?.split(',').next()?;
        let is_own = acting.is_empty() || acting.strip_prefix("a=").and_then(decode_name)? == user;
        let is_nonce = !theirs.is_empty() && theirs.bytes().all(|byte| byte.is_ascii_graphic());
        if !is_own || !is_nonce {
            return None;
        }
        let keys = secrets.scram_keys(&user);
        let nonce = format!("{theirs}{}", BASE64.encode(secrets.nonce()));
        let first = format!("r={nonce},s={},i={}", BASE64.encode(&keys.salt), keys.iterations);
        let header = message[..message.len() - bare.len()].into();
        let said = format!("{bare},{first}");
        Some((Self { user, keys, nonce, header, said }, first.into_bytes()))
    }

    /// Takes the client's final message; gives the user, and our proof if the client's holds. `None`: it is no such
    /// message, or not of this exchange.
    pub fn finish(self, message: &[u8]) -> Option<(Box<str>, Option<Vec<u8>>)> {
        let message = std::str::from_utf8(message).ok()?;
        let (without_proof, proof) = message.rsplit_once(",p=")?;
        let (binding, rest) = without_proof.strip_prefix("c=")?.split_once(',')?;
        let nonce = rest.strip_prefix("r=")?.split(',').next()?;
        if BASE64.decode(binding).ok()? != self.header.as_bytes() || nonce != self.nonce {
            return None;
        }
        let proof: [u8; 32] = BASE64.decode(proof).ok()?.try_into().ok()?;
        let said = format!("{},{without_proof}", self.said);
        let signature = hmac_sha256(&self.keys.stored, said.as_bytes());
        let client_key: [u8; 32] = std::array::from_fn(|at| proof[at] ^ signature[at]);
        let holds: bool = sha256(&client_key).ct_eq(&self.keys.stored).into();
        let ours = hmac_sha256(&self.keys.server, said.as_bytes());
        Some((self.user, holds.then(|| format!("v={}", BASE64.encode(ours)).into_bytes())))
    }
}

/// `=2C` is a comma and `=3D` an equals sign; others do not stand in a name.
fn decode_name(text: &str) -> Option<Box<str>> {
    let mut pieces = text.split('=');
    let mut name = pieces.next()?.to_owned();
    for piece in pieces {
        let (letter, rest) = match piece.split_at_checked(2)? {
            ("2C", rest) => (',', rest),
            ("3D", rest) => ('=', rest),
            _ => return None,
        };
        name.push(letter);
        name.push_str(rest);
    }
    super::name(name.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The exchange of RFC 7677 §3: user `user`, password `pencil`.
    struct Example;

    impl Secrets for Example {
        fn scram_keys(&mut self, _: &str) -> ScramKeys {
            ScramKeys::of(b"pencil", &BASE64.decode("W22ZaJ0SNY7soEsUEjb6gQ==").expect("base64"), 4096)
        }

        fn nonce(&mut self) -> [u8; 18] {
            [0; 18]
        }
    }

    /// The example's server nonce is no base64, so the messages are joined by hand.
    fn example() -> Scram {
        let first = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
        let (mut scram, _) = Scram::begin(first, &mut Example).expect("the first message");
        scram.nonce = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0".into();
        let ours = format!("r={},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096", scram.nonce);
        scram.said = format!("n=user,r=rOprNGfwEbeRWgbNEkqO,{ours}");
        scram
    }

    const FINAL: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                         p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";

    #[test]
    fn the_example_of_rfc_7677_is_proved_to_both_sides() {
        let (user, proof) = example().finish(FINAL.as_bytes()).expect("the final message");
        assert_eq!(&*user, "user");
        assert_eq!(proof.as_deref(), Some(&b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="[..]));
    }

    #[test]
    fn a_proof_of_another_password_does_not_hold() {
        let wrong = FINAL.replace("p=dHzb", "p=dHzc");
        assert_eq!(example().finish(wrong.as_bytes()), Some(("user".into(), None)));
    }

    #[test]
    fn a_final_message_of_another_exchange_is_none() {
        for wrong in [
            FINAL.replace("c=biws", "c=eSws"),
            FINAL.replace("hNlF$k0", "hNlF$k1"),
            FINAL.replace(",p=", ",q="),
            "c=biws,r=x".into(),
            String::new(),
        ] {
            assert_eq!(example().finish(wrong.as_bytes()), None, "{wrong}");
        }
    }

    #[test]
    fn our_first_message_has_both_nonces_and_the_users_salt() {
        let (_, ours) = Scram::begin(b"y,a=u=2Cv,n=u=2Cv,r=abc,x=ext", &mut Example).expect("valid");
        let want = b"r=abcAAAAAAAAAAAAAAAAAAAAAAAA,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        assert_eq!(ours, want);
    }

    #[test]
    fn first_messages_that_ask_for_what_is_not_offered_are_none() {
        for wrong in [
            "p=tls-exporter,,n=user,r=x",
            "n,a=other,n=user,r=x",
            "n,,m=ext,n=user,r=x",
            "n,,n=us=er,r=x",
            "n,,n=,r=x",
            "n,,n=user,r=",
            "n,,n=user",
            "n",
            "",
        ] {
            assert!(Scram::begin(wrong.as_bytes(), &mut Example).is_none(), "{wrong}");
        }
    }
}
