//! PURE. What a password is checked against: Argon2id in the PHC form, or the keys of SCRAM-SHA-256.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Argon2, Params};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;
use ring::{digest, hmac, pbkdf2};
use subtle::ConstantTimeEq as _;

/// Iterations of new SCRAM keys. RFC 7677 §4 asks for 4096 at least; SCRAM clients compute them at each login.
pub const SCRAM_ITERATIONS: u32 = 20_000;
/// Bounds of what a file may say: below, RFC 7677; above, a check must end.
const SCRAM_ITERATIONS_ALLOWED: std::ops::RangeInclusive<u32> = 4096..=10_000_000;
/// Memory that a check may need, KiB: a line in a file must not exhaust the host.
const ARGON2_KIB_MAX: u32 = 1 << 20;
/// How the SCRAM form begins.
const SCRAM: &str = "$scram-sha-256$";

/// A user's key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    /// `$argon2id$v=19$m=…,t=…,p=…$salt$hash`. SCRAM cannot use it.
    Argon2(Box<str>),
    /// `$scram-sha-256$iterations$salt$StoredKey$ServerKey`, base64. PLAIN and LOGIN can use it too.
    Scram(ScramKeys),
}

impl Key {
    /// An Argon2id key for `password`, which is prepared; `salt` is random.
    ///
    /// # Errors
    /// When the library refuses it.
    pub fn argon2(password: &[u8], salt: &[u8; 16]) -> Result<Self, String> {
        let hash =
            Argon2::default().hash_password_with_salt(password, salt).map_err(|error| error.to_string())?;
        Ok(Self::Argon2(hash.to_string().into()))
    }

    /// SCRAM keys for `password`, which is prepared; `salt` is random.
    pub fn scram(password: &[u8], salt: &[u8; 16]) -> Self {
        Self::Scram(ScramKeys::of(password, salt, SCRAM_ITERATIONS))
    }

    /// Whether it is the key of `password`. As slow as the key says.
    pub(super) fn fits(&self, password: &[u8]) -> bool {
        match self {
            Self::Argon2(text) => PasswordHash::new(text)
                .is_ok_and(|hash| Argon2::default().verify_password(password, &hash).is_ok()),
            Self::Scram(keys) => {
                let other = ScramKeys::of(password, &keys.salt, keys.iterations);
                other.stored.ct_eq(&keys.stored).into()
            }
        }
    }
}

impl FromStr for Key {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(rest) = text.strip_prefix(SCRAM) {
            return ScramKeys::parse(rest).map(Self::Scram).ok_or_else(|| {
                format!(
                    "a SCRAM key is {SCRAM}ITERATIONS$SALT$STORED$SERVER, 4096 iterations at least, base64"
                )
            });
        }
        // Not shown: whoever reads the error may not read the file.
        let wrong = "the key is neither $argon2id$… nor $scram-sha-256$…; `ringpost user add` makes one";
        let hash = PasswordHash::new(text).map_err(|_| wrong.to_owned())?;
        if hash.algorithm.as_str() != "argon2id" || hash.hash.is_none() {
            return Err(wrong.to_owned());
        }
        let params = Params::try_from(&hash).map_err(|error| format!("the Argon2id key: {error}"))?;
        if params.m_cost() > ARGON2_KIB_MAX {
            return Err(format!(
                "the Argon2id key needs {} KiB; at most {ARGON2_KIB_MAX} are allowed",
                params.m_cost()
            ));
        }
        Ok(Self::Argon2(text.into()))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Argon2(text) => f.write_str(text),
            Self::Scram(keys) => {
                let [salt, stored, server] =
                    [&*keys.salt, &keys.stored, &keys.server].map(|bytes| BASE64.encode(bytes));
                write!(f, "{SCRAM}{}${salt}${stored}${server}", keys.iterations)
            }
        }
    }
}

/// What a SCRAM-SHA-256 server keeps of a password (RFC 5802 §3): not enough to log in elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScramKeys {
    /// Random for each user.
    pub salt: Box<[u8]>,
    /// Of PBKDF2.
    pub iterations: u32,
    /// SHA-256 of the client's key.
    pub stored: [u8; 32],
    /// What the server proves itself with.
    pub server: [u8; 32],
}

impl ScramKeys {
    /// Computes them: slow, by the number of iterations.
    pub fn of(password: &[u8], salt: &[u8], iterations: u32) -> Self {
        let ScramProof { client, server } = ScramProof::of(password, salt, iterations);
        Self { salt: salt.into(), iterations, stored: sha256(&client), server }
    }

    /// Keys of nobody, the same for a name each time.
    pub fn made_up(secret: &[u8], name: &str, iterations: u32) -> Self {
        let salt = hmac_sha256(secret, name.as_bytes());
        let stored = hmac_sha256(&salt, secret);
        let server = hmac_sha256(&stored, secret);
        Self { salt: salt[..16].into(), iterations, stored, server }
    }

    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('$');
        let iterations =
            parts.next()?.parse().ok().filter(|count| SCRAM_ITERATIONS_ALLOWED.contains(count))?;
        let mut bytes = || BASE64.decode(parts.next()?).ok();
        let (salt, stored, server) = (bytes()?, bytes()?, bytes()?);
        let keys = Self {
            salt: salt.into(),
            iterations,
            stored: stored.try_into().ok()?,
            server: server.try_into().ok()?,
        };
        (parts.next().is_none() && !keys.salt.is_empty()).then_some(keys)
    }
}

/// What a SCRAM-SHA-256 client proves itself with, and knows the server by.
pub struct ScramProof {
    /// The client's key: as good as the password.
    pub client: [u8; 32],
    /// What the server proves itself with.
    pub server: [u8; 32],
}

impl ScramProof {
    /// Computes it: slow, by the number of iterations.
    pub fn of(password: &[u8], salt: &[u8], iterations: u32) -> Self {
        let mut salted = [0; 32];
        let rounds = NonZeroU32::new(iterations).unwrap_or(NonZeroU32::MIN);
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, rounds, salt, password, &mut salted);
        Self { client: hmac_sha256(&salted, b"Client Key"), server: hmac_sha256(&salted, b"Server Key") }
    }
}

/// HMAC-SHA-256.
pub fn hmac_sha256(key: &[u8], data: &[u8]) -> [u8; 32] {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), data);
    tag.as_ref().try_into().expect("a tag of SHA-256 has 32 bytes")
}

/// SHA-256.
pub fn sha256(data: &[u8]) -> [u8; 32] {
    digest::digest(&digest::SHA256, data).as_ref().try_into().expect("SHA-256 has 32 bytes")
}
