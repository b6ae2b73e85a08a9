//! PURE. Mailboxes and paths, as MAIL and RCPT carry them (RFC 5321 §4.1.2, RFC 6531 §3.3).
//!
//! Everything is borrowed from the command line. Non-ASCII letters are let through and noted: whether they are allowed
//! depends on SMTPUTF8, which stands behind the address. What a domain leads to is no matter of this module.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::limits::{DOMAIN_BYTES_MAX, MAILBOX_BYTES_MAX};

/// Longest local part, bytes. RFC 5321 §4.5.3.1.1.
const LOCAL_PART_BYTES_MAX: usize = 64;
/// Longest label of a domain, bytes. RFC 1035 §2.3.4.
const LABEL_BYTES_MAX: usize = 63;

/// Text that is no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a mailbox as RFC 5321 section 4.1.2 has it")]
pub struct AddressError;

/// `local-part@domain`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mailbox<'a> {
    text: &'a str,
    domain_at: usize,
}

impl<'a> Mailbox<'a> {
    /// All of `text` as a mailbox, without angle brackets.
    pub fn parse(text: &'a str) -> Result<Self, AddressError> {
        let mailbox = Self::parse_start(text)?;
        if mailbox.text.len() == text.len() { Ok(mailbox) } else { Err(AddressError) }
    }

    /// The mailbox that `text` starts with.
    fn parse_start(text: &'a str) -> Result<Self, AddressError> {
        let local = local_part_bytes(text)?;
        let domain = text[local..].strip_prefix('@').ok_or(AddressError)?;
        let bytes = local + 1 + domain_bytes(domain)?;
        if local > LOCAL_PART_BYTES_MAX || bytes > MAILBOX_BYTES_MAX {
            return Err(AddressError);
        }
        Ok(Self { text: &text[..bytes], domain_at: local + 1 })
    }

    /// As the client wrote it.
    pub fn as_str(self) -> &'a str {
        self.text
    }

    /// Before the `@`, with its quotes if it has some.
    pub fn local_part(self) -> &'a str {
        &self.text[..self.domain_at - 1]
    }

    /// Domain or address literal, in the case the client chose.
    pub fn domain(self) -> &'a str {
        &self.text[self.domain_at..]
    }

    /// Whether it can be used without SMTPUTF8.
    pub fn is_ascii(self) -> bool {
        self.text.is_ascii()
    }
}

/// What stands between the angle brackets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path<'a> {
    /// `<>`, a sender that wants no bounces.
    Null,
    /// `<Postmaster>`, which RCPT must accept without a domain (RFC 5321 §4.5.1).
    Postmaster,
    /// A mailbox; a source route before it has been dropped (RFC 5321 appendix C).
    Mailbox(Mailbox<'a>),
}

/// The path that `text` starts with, and what follows its `>`.
pub fn parse_path(text: &str) -> Result<(Path<'_>, &str), AddressError> {
    let text = text.strip_prefix('<').ok_or(AddressError)?;
    if let Some(rest) = text.strip_prefix('>') {
        return Ok((Path::Null, rest));
    }
    if let Some((word, rest)) = text.split_once('>')
        && word.eq_ignore_ascii_case("postmaster")
    {
        return Ok((Path::Postmaster, rest));
    }
    let text = without_route(text)?;
    let mailbox = Mailbox::parse_start(text)?;
    let after = text[mailbox.text.len()..].strip_prefix('>').ok_or(AddressError)?;
    Ok((Path::Mailbox(mailbox), after))
}

/// `text` behind its source route `@a,@b:`, if it has one.
fn without_route(mut text: &str) -> Result<&str, AddressError> {
    while let Some(domain) = text.strip_prefix('@') {
        let after = &domain[domain_bytes(domain)?..];
        match after.strip_prefix(',') {
            Some(next) if next.starts_with('@') => text = next,
            Some(_) => return Err(AddressError),
            None => return after.strip_prefix(':').ok_or(AddressError),
        }
    }
    Ok(text)
}

/// RFC 5322 §3.2.3 `atext`, and any letter beyond ASCII (RFC 6531 §3.3).
fn is_atom(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c) || is_wide(c)
}

fn is_wide(c: char) -> bool {
    !c.is_ascii() && !c.is_control() && !c.is_whitespace()
}

/// Length of the local part that `text` starts with: dot-string or quoted string.
fn local_part_bytes(text: &str) -> Result<usize, AddressError> {
    if text.starts_with('"') {
        return quoted_bytes(text);
    }
    let mut before = '.';
    for (at, c) in text.char_indices() {
        match c {
            '.' if before != '.' => {}
            '@' if before != '.' => return Ok(at),
            _ if is_atom(c) => {}
            _ => return Err(AddressError),
        }
        before = c;
    }
    Err(AddressError)
}

fn quoted_bytes(text: &str) -> Result<usize, AddressError> {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if !matches!(c, ' '..='~') && !is_wide(c) => return Err(AddressError),
            // RFC 5321 has a quoted pair of ASCII only.
            _ if escaped && !c.is_ascii() => return Err(AddressError),
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return Ok(at + 1),
            _ => {}
        }
    }
    Err(AddressError)
}

/// Length of the domain or address literal that `text` starts with.
///
/// Underscores are taken although no host name has them: such domains exist, and DNS answers for them.
fn domain_bytes(text: &str) -> Result<usize, AddressError> {
    if let Some(literal) = text.strip_prefix('[') {
        let (literal, _) = literal.split_once(']').ok_or(AddressError)?;
        let valid = match literal.get(..5) {
            Some(tag) if tag.eq_ignore_ascii_case("ipv6:") => literal[5..].parse::<Ipv6Addr>().is_ok(),
            _ => literal.parse::<Ipv4Addr>().is_ok(),
        };
        return if valid { Ok(literal.len() + 2) } else { Err(AddressError) };
    }
    let inside = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') || is_wide(c);
    let bytes = text.find(|c| !inside(c)).unwrap_or(text.len());
    if is_domain(&text[..bytes]) { Ok(bytes) } else { Err(AddressError) }
}

/// Labels of letters, digits, hyphens inside; none empty, so no dot at either end; lengths of RFC 1035.
fn is_domain(text: &str) -> bool {
    let label = |label: &str| {
        (1..=LABEL_BYTES_MAX).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-')
    };
    text.len() <= DOMAIN_BYTES_MAX && text.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn mailboxes_are_told_from_other_text() {
        let good = [
            "a@b",
            "first.last@example.com",
            "a+tag=x@b-c.d",
            "\"a b\"@c",
            "\"a>@\\\"b\"@c.d",
            "\"\"@c",
            "a@[127.0.0.1]",
            "a@[IPv6:::1]",
            "a@[ipv6:2001:db8::7]",
            "jürgen@bücher.example",
            "a@_dmarc.example",
            "a@1.2",
        ];
        let bad = [
            "",
            "a",
            "@b",
            "a@",
            ".a@b",
            "a.@b",
            "a..b@c",
            "a b@c",
            "a@b.",
            "a@.b",
            "a@b..c",
            "a@-b",
            "a@b-",
            "a@b c",
            "\"a@b",
            "\"a\"b@c",
            "\"a\u{7f}\"@c",
            "\"a\t\"@c",
            "a@[127.0.0]",
            "a@[::1]",
            "a@[IPv6:zz]",
            "a@[1.2.3.4",
            "a@b@c",
            "a\0@b",
            "a@b\0",
            "a(x)@b",
            "a@b>",
            "a\u{85}@b",
            "a@b\u{a0}c",
            "a@b,c",
            "\"é\\é\"@c",
        ];
        for text in good {
            let mailbox = Mailbox::parse(text).unwrap_or_else(|_| panic!("{text:?} was refused"));
            assert_eq!(format!("{}@{}", mailbox.local_part(), mailbox.domain()), text);
        }
        for text in bad {
            assert_eq!(Mailbox::parse(text), Err(AddressError), "{text:?}");
        }
    }

    #[test]
    fn lengths_are_those_of_the_rfc() {
        let local = |n: usize| format!("{}@b", "a".repeat(n));
        assert!(Mailbox::parse(&local(64)).is_ok());
        assert!(Mailbox::parse(&local(65)).is_err());
        let label = |n: usize| format!("a@{}", "b".repeat(n));
        assert!(Mailbox::parse(&label(63)).is_ok());
        assert!(Mailbox::parse(&label(64)).is_err());
        let long = |n: usize| format!("a@{}c", "b.".repeat(n));
        assert!(Mailbox::parse(&long(125)).is_ok_and(|m| m.as_str().len() == 253));
        assert!(Mailbox::parse(&long(126)).is_err());
    }

    #[test]
    fn a_path_ends_at_its_own_bracket_and_loses_its_route() {
        let mailbox = |text| Path::Mailbox(Mailbox::parse(text).unwrap());
        for (text, want) in [
            ("<>", Ok((Path::Null, ""))),
            ("<> SIZE=1", Ok((Path::Null, " SIZE=1"))),
            ("<PostMaster>", Ok((Path::Postmaster, ""))),
            ("<postmaster@b>", Ok((mailbox("postmaster@b"), ""))),
            ("<a@b>x", Ok((mailbox("a@b"), "x"))),
            ("<\"a>b\"@c> D", Ok((mailbox("\"a>b\"@c"), " D"))),
            ("<@x,@y.z:a@b>", Ok((mailbox("a@b"), ""))),
            ("<@x:@y:a@b>", Err(AddressError)),
            ("<@x,a@b>", Err(AddressError)),
            ("<@x>", Err(AddressError)),
            ("<a@b", Err(AddressError)),
            ("a@b", Err(AddressError)),
            ("< a@b>", Err(AddressError)),
            ("<a>", Err(AddressError)),
            ("", Err(AddressError)),
        ] {
            assert_eq!(parse_path(text), want, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics_and_an_accepted_one_is_safe_to_pass_on(text in "[<>@.,:\"\\\\a-cé\\[\\]\r\n\0 -]{0,24}") {
            if let Ok(mailbox) = Mailbox::parse(&text) {
                prop_assert!(!mailbox.as_str().contains(char::is_control));
                prop_assert_eq!(mailbox.as_str(), &text);
            }
            if let Ok((Path::Mailbox(mailbox), rest)) = parse_path(&text) {
                let end = format!("{}>{rest}", mailbox.as_str());
                prop_assert!(text.ends_with(&end));
            }
        }
    }
}
