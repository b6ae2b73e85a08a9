//! What says who a client is: a PROXY header, XCLIENT, a login, the users file.

use ringpost::protocol::proxy;
use ringpost::protocol::sasl::{Claim, Exchange, Mechanism, Secrets, Step};
use ringpost::protocol::xclient::{self, Address};
use ringpost::users::{Users, prepared};

/// The first byte chooses what the others are.
pub fn check(bytes: &[u8]) {
    let Some((first, rest)) = bytes.split_first() else { return };
    match first % 4 {
        0 => header(rest),
        1 => attributes(rest),
        2 => login(rest),
        _ => users(rest),
    }
}

/// A header that comes in pieces is the same header, and reading by what is missing at least never reads beyond it.
fn header(bytes: &[u8]) {
    let whole = proxy::parse(bytes);
    for cut in 0..bytes.len() {
        let part = proxy::parse(&bytes[..cut]);
        assert!(part == Ok(None) || part == whole, "{part:?} of {whole:?} at {cut}");
    }
    let Ok(Some(header)) = whole else { return };
    let mut read = 0;
    while proxy::parse(&bytes[..read]) == Ok(None) {
        read += proxy::least_missing(&bytes[..read]);
        assert!(read <= header.bytes, "read {read} of a header of {}", header.bytes);
    }
    assert_eq!(read, header.bytes);
}

fn attributes(bytes: &[u8]) {
    let Ok(client) = xclient::parse(&String::from_utf8_lossy(bytes)) else { return };
    if let Address::Is(address) = client.address {
        assert_eq!(address, address.to_canonical(), "an IPv4 address in other clothes");
    }
    let helo = client.helo.unwrap_or_default();
    assert!(!helo.chars().any(char::is_control), "{helo:?}");
}

struct Nobody;

impl Secrets for Nobody {}

/// The first byte names the mechanism, each line is a response: an exchange ends, and in a name that names are compared by.
fn login(bytes: &[u8]) {
    let Some((first, rest)) = bytes.split_first() else { return };
    let all = [Mechanism::Plain, Mechanism::Login, Mechanism::ScramSha256, Mechanism::External];
    let (mut exchange, _) = Exchange::begin(all[usize::from(first % 4)]);
    let mut responses = rest.split(|byte| *byte == b'\n').chain(std::iter::repeat(&b""[..]));
    for _ in 0..4 {
        match exchange.step(responses.next().unwrap_or_default(), &mut Nobody) {
            Step::Challenge(next, challenge) => {
                assert!(!challenge.contains(&b'\r'), "a challenge of two lines");
                exchange = next;
            }
            Step::Claim(claim) => {
                let (Claim::Password { user, .. } | Claim::Proof { user, .. } | Claim::Certificate { user }) =
                    &claim;
                let is_prepared = prepared(user).as_deref() == Some(&**user);
                let may_be_left_out = matches!(claim, Claim::Certificate { .. }) && user.is_empty();
                assert!(is_prepared || may_be_left_out, "{user:?}");
                assert!(!matches!(claim, Claim::Proof { holds: true, .. }), "nobody's key has a proof");
                return;
            }
            Step::Malformed => return,
        }
    }
    panic!("an exchange without end");
}

fn users(bytes: &[u8]) {
    match Users::parse(&String::from_utf8_lossy(bytes)) {
        Ok(users) => assert!(users.len() <= bytes.len()),
        Err(faults) => assert!(!faults.is_empty() && faults.iter().all(|fault| fault.line > 0)),
    }
}
