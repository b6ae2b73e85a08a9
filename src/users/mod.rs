//! PURE. Users who may log in: read from the text of a file, found by name or by certificate, checked against a password.
//!
//! A line is a user: name, key, and what else is known, blanks between them; `#` begins a comment.
//!
//! ```text
//! # name   key                                         may use these senders     whose mail it is
//! alice    $argon2id$v=19$m=19456,t=2,p=1$salt$hash    senders=*@example.com,<>  tenant=acme
//! printer  -                                           certificate=SHA-256 of it, 64 hexadecimal digits
//! ```
//!
//! `ringpost user add` writes such lines. Names and passwords are compared as SASLprep makes them.

pub mod failures;
mod key;
mod prepare;
pub mod question;
#[cfg(test)]
mod tests;

use crate::envelope::verp::sender_fits;
use std::fmt;

pub use key::{Key, SCRAM_ITERATIONS, ScramKeys, ScramProof, hmac_sha256, sha256};
pub use prepare::prepared;

/// SHA-256 of a certificate in DER.
pub type Fingerprint = [u8; 32];

/// Longest name, bytes.
const NAME_BYTES_MAX: usize = 255;

/// One user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// As the client gives it.
    pub name: Box<str>,
    /// What a password is checked against; `None`, and a certificate is the only way in.
    pub key: Option<Key>,
    /// Senders that it may use; empty is any. `user@domain`, `*@domain`, or `<>` for the null sender; lower case.
    pub senders: Vec<Box<str>>,
    /// Whose mail it is; the name, if nothing else is said.
    pub tenant: Box<str>,
    /// Certificates with which EXTERNAL logs in.
    pub certificates: Vec<Fingerprint>,
}

impl User {
    /// Whether it may send as `sender`; empty is the null sender.
    pub fn may_send_as(&self, sender: &str) -> bool {
        self.senders.is_empty() || self.senders.iter().any(|rule| sender_fits(rule, sender))
    }
}

/// What is wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// From 1.
    pub line: usize,
    /// What was found, and what is allowed.
    pub what: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.what)
    }
}

/// Computations of a check: the costly part, which must not depend on the name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Of Argon2id.
    pub argon2: u32,
    /// Of PBKDF2.
    pub pbkdf2: u32,
}

/// All users of a file. Immutable; a reload makes another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Users(Vec<User>);

impl Users {
    /// Reads a file's text.
    ///
    /// # Errors
    /// Every line that is wrong; at least one.
    pub fn parse(text: &str) -> Result<Self, Vec<Fault>> {
        let (mut users, mut faults) = (Vec::<User>::new(), Vec::new());
        for (nth, line) in text.lines().enumerate() {
            let content = line.trim();
            if content.is_empty() || content.starts_with('#') {
                continue;
            }
            match parse_line(content) {
                Ok(user) if users.iter().any(|other| other.name == user.name) => {
                    let what = format!("{:?} has a line already; allowed is one for each name", user.name);
                    faults.push(Fault { line: nth + 1, what });
                }
                Ok(user) => users.push(user),
                Err(what) => faults.push(Fault { line: nth + 1, what }),
            }
        }
        if faults.is_empty() { Ok(Self(users)) } else { Err(faults) }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The user of that name, prepared.
    pub fn user(&self, name: &str) -> Option<&User> {
        self.0.iter().find(|user| &*user.name == name)
    }

    /// The user to whom a certificate belongs.
    pub fn of_certificate(&self, fingerprint: &Fingerprint) -> Option<&User> {
        self.0.iter().find(|user| user.certificates.contains(fingerprint))
    }

    /// Whether any user logs in by certificate.
    pub fn have_certificates(&self) -> bool {
        self.0.iter().any(|user| !user.certificates.is_empty())
    }

    /// Whether `password` is that of `name`, and what it cost. The work is the same for every name, there or not: one
    /// computation for each kind of key that the file holds. Slow, and meant to be: never on a shard.
    pub fn check(&self, name: &str, password: &[u8]) -> (bool, Work) {
        let (password, mut work) = (&*prepare::prepared_password(password), Work::default());
        let key = self.user(name).and_then(|user| user.key.as_ref());
        let mut is_right = false;
        if let Some(other) = self.first(|key| matches!(key, Key::Argon2(_))) {
            let own = key.filter(|key| matches!(key, Key::Argon2(_)));
            is_right |= own.unwrap_or(other).fits(password) & own.is_some();
            work.argon2 += 1;
        }
        if let Some(other) = self.first(|key| matches!(key, Key::Scram(_))) {
            let own = key.filter(|key| matches!(key, Key::Scram(_)));
            is_right |= own.unwrap_or(other).fits(password) & own.is_some();
            work.pbkdf2 += 1;
        }
        (is_right, work)
    }

    /// The keys for SCRAM. For a name without such keys they are made up, always the same ones, so that nobody can tell;
    /// nothing fits them.
    pub fn scram_keys(&self, name: &str) -> ScramKeys {
        let own = self.user(name).and_then(|user| user.key.as_ref());
        if let Some(Key::Scram(keys)) = own {
            return keys.clone();
        }
        let iterations = match self.first(|key| matches!(key, Key::Scram(_))) {
            Some(Key::Scram(keys)) => keys.iterations,
            _ => SCRAM_ITERATIONS,
        };
        // A secret that stays as long as the file's first key does: made-up salts must not change at a restart.
        let secret = self.first(|_| true).map(ToString::to_string).unwrap_or_default();
        ScramKeys::made_up(secret.as_bytes(), name, iterations)
    }

    fn first(&self, is: impl Fn(&Key) -> bool) -> Option<&Key> {
        self.0.iter().filter_map(|user| user.key.as_ref()).find(|key| is(key))
    }
}

fn parse_line(line: &str) -> Result<User, String> {
    let mut words = line.split_whitespace();
    let name = words.next().unwrap_or_default();
    let Some(name) = prepared(name).filter(|_| name.len() <= NAME_BYTES_MAX) else {
        return Err(format!(
            "the name is longer than {NAME_BYTES_MAX} bytes, or has characters that SASLprep (RFC 4013) forbids"
        ));
    };
    let name = &*name;
    let key = match words.next() {
        Some("-") => None,
        Some(text) => Some(text.parse::<Key>()?),
        None => {
            return Err(format!("{name:?} has no key; allowed is one as `ringpost user add` makes it, or -"));
        }
    };
    let mut user =
        User { name: name.into(), key, senders: Vec::new(), tenant: name.into(), certificates: Vec::new() };
    for word in words {
        match word.split_once('=') {
            Some(("senders", rules)) => {
                user.senders = rules.split(',').map(sender_rule).collect::<Result<_, _>>()?
            }
            Some(("tenant", tenant)) if !tenant.is_empty() => user.tenant = tenant.into(),
            Some(("certificate", digits)) => user.certificates.push(fingerprint(digits)?),
            _ => {
                let allowed = "senders=PATTERN,…, tenant=NAME or certificate=SHA256";
                return Err(format!("found {word:?} behind the key; allowed is {allowed}"));
            }
        }
    }
    if user.key.is_none() && user.certificates.is_empty() {
        return Err(format!("{name:?} has neither a key nor a certificate: nobody could log in"));
    }
    Ok(user)
}

fn sender_rule(rule: &str) -> Result<Box<str>, String> {
    let has_parts =
        rule.rsplit_once('@').is_some_and(|(local, domain)| !local.is_empty() && !domain.is_empty());
    if rule == "<>" || has_parts {
        return Ok(rule.to_lowercase().into());
    }
    Err(format!("found the sender {rule:?}; allowed is user@domain, *@domain or <>"))
}

/// A fingerprint of 64 hexadecimal digits; colons between them, as openssl prints it, may stay.
///
/// # Errors
/// With what was found in its place.
pub fn fingerprint(text: &str) -> Result<Fingerprint, String> {
    let digits: String = text.chars().filter(|c| *c != ':').collect();
    let byte = |nth: usize| u8::from_str_radix(digits.get(2 * nth..2 * nth + 2)?, 16).ok();
    let is_hex = digits.len() == 64 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    let bytes: Option<Vec<u8>> = if is_hex { (0..32).map(byte).collect() } else { None };
    bytes.and_then(|bytes| bytes.try_into().ok()).ok_or_else(|| {
        format!("found the certificate {text:?}; allowed is its SHA-256, 64 hexadecimal digits")
    })
}
