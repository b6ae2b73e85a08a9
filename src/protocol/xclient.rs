//! PURE. XCLIENT: a mail proxy says for whom it speaks (Postfix, XCLIENT_README).
//!
//! Attributes may come in one command or in several; each is `NAME=value` in xtext. Those that nothing here uses are
//! checked like the others, so that a mistake is told.

use std::net::IpAddr;

use crate::protocol::reply::{self, Refusal};

/// The attributes, as EHLO announces them.
pub const ATTRIBUTES: &str = "NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT";
/// What stands for a value that the proxy does not have: for good, or for now.
const UNKNOWN: [&str; 2] = ["[UNAVAILABLE]", "[TEMPUNAVAIL]"];

/// What ADDR says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Address {
    /// Nothing: as before.
    #[default]
    Kept,
    /// That the proxy does not know: nobody may be trusted for the proxy's own address then.
    Unknown,
    /// This one.
    Is(IpAddr),
}

/// What a proxy says of its client. `None`: it said nothing, or does not know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Client {
    /// ADDR.
    pub address: Address,
    /// HELO.
    pub helo: Option<String>,
    /// PROTO: whether it said EHLO.
    pub extended: Option<bool>,
}

/// Understands the arguments of XCLIENT.
///
/// # Errors
/// An attribute that is unknown, or a value that it cannot have.
pub fn parse(arguments: &str) -> Result<Client, Refusal> {
    let mut client = Client::default();
    for word in arguments.split(' ').filter(|word| !word.is_empty()) {
        let (name, value) = word.split_once('=').ok_or(reply::BAD_ARGUMENTS)?;
        let value = decode(value).ok_or(reply::BAD_ARGUMENTS)?;
        let known = !UNKNOWN.iter().any(|unknown| value.eq_ignore_ascii_case(unknown));
        let value = known.then_some(value);
        let is = |other: &str| name.eq_ignore_ascii_case(other);
        let checked = if is("ADDR") {
            client.address = value.as_deref().map(address).transpose()?.map_or(Address::Unknown, Address::Is);
            true
        } else if is("PROTO") {
            client.extended = value.as_deref().map(is_extended).transpose()?;
            true
        } else if is("HELO") {
            client.helo = value;
            true
        } else if is("NAME") || is("LOGIN") {
            true
        } else if is("DESTADDR") {
            value.as_deref().map(address).transpose()?;
            true
        } else if is("PORT") || is("DESTPORT") {
            value
                .is_none_or(|value| value.bytes().all(|b| b.is_ascii_digit()) && value.parse::<u16>().is_ok())
        } else {
            false
        };
        if !checked {
            return Err(reply::BAD_ARGUMENTS);
        }
    }
    Ok(client)
}

/// `192.0.2.7`, `2001:db8::7` or `IPV6:2001:db8::7`.
fn address(value: &str) -> Result<IpAddr, Refusal> {
    let tagged = value.get(..5).filter(|tag| tag.eq_ignore_ascii_case("IPV6:")).map(|_| &value[5..]);
    let parsed = match tagged {
        Some(bare) => bare.parse::<std::net::Ipv6Addr>().map(IpAddr::from),
        None => value.parse::<IpAddr>(),
    };
    parsed.map(|address| address.to_canonical()).map_err(|_| reply::BAD_ARGUMENTS)
}

fn is_extended(value: &str) -> Result<bool, Refusal> {
    if value.eq_ignore_ascii_case("ESMTP") {
        Ok(true)
    } else if value.eq_ignore_ascii_case("SMTP") {
        Ok(false)
    } else {
        Err(reply::BAD_ARGUMENTS)
    }
}

/// Decodes xtext (RFC 3461 §4): `+` and two hexadecimal digits stand for a byte. Not empty, and without control characters.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        if *first == b'+' {
            let (digits, tail) = tail.split_at_checked(2)?;
            let digits = std::str::from_utf8(digits).ok().filter(|text| !text.starts_with('+'))?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = tail;
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    let text = String::from_utf8(bytes).ok()?;
    (!text.is_empty() && !text.chars().any(char::is_control)).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_read_whatever_their_case_and_order() {
        let client = |address: Option<&str>, helo: Option<&str>, extended| Client {
            address: address.map_or(Address::Kept, |text| Address::Is(text.parse().expect("an address"))),
            helo: helo.map(str::to_owned),
            extended,
        };
        let check = |arguments: &str, want: Client| assert_eq!(parse(arguments), Ok(want), "{arguments}");
        check("NAME=spike.test ADDR=192.0.2.7", client(Some("192.0.2.7"), None, None));
        check("helo=a+2Bb.test proto=esmtp", client(None, Some("a+b.test"), Some(true)));
        check("ADDR=IPV6:2001:db8::7 PROTO=SMTP", client(Some("2001:db8::7"), None, Some(false)));
        check("ADDR=::ffff:192.0.2.7", client(Some("192.0.2.7"), None, None));
        let unknown = Client { address: Address::Unknown, ..Client::default() };
        check("ADDR=[UNAVAILABLE] HELO=[TEMPUNAVAIL] PROTO=[UNAVAILABLE]", unknown);
        check("PORT=65535 DESTPORT=25 DESTADDR=198.51.100.1 LOGIN=ann", Client::default());
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for arguments in [
            "ADDR",
            "ADDR=",
            "ADDR=192.0.2",
            "ADDR=IPV6:192.0.2.7",
            "ADDR=é",
            "PORT=65536",
            "PORT=+1",
            "PROTO=LMTP",
            "HELO=a+2",
            "HELO=a+zzb",
            "HELO=a+0D+0Ab",
            "HELO=a+FFb",
            "REVERSE_NAME=x",
            "=x",
            "DESTADDR=x",
        ] {
            assert_eq!(parse(arguments), Err(reply::BAD_ARGUMENTS), "{arguments}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_arguments_panic(arguments in "((ADDR|HELO|PORT|PROTO|NAME)=[+0-9A-Fé.:\\[\\]]{0,9} ?|.{0,9}){0,6}") {
            let _ = parse(&arguments);
        }
    }
}
