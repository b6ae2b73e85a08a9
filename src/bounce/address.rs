//! PURE. Addresses with their type, as reports carry them (RFC 3464 §2.3.1, RFC 6533 §3).
//!
//! An address that needs more than ASCII has the type `utf-8`. Where the report itself may have UTF-8 it stands there as it is;
//! elsewhere each such letter is written `\x{E9}`, so that nobody is left out or renamed.

use super::status::push_clean;
use std::fmt::Write;

/// The type of addresses beyond ASCII.
const UTF8: &str = "utf-8";

/// Turns xtext into what it stands for (RFC 3461 §4); text that is not xtext stays as it is.
pub(super) fn decode_xtext(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, more)) = rest.split_first() {
        let pair = more.split_first_chunk::<2>().filter(|_| byte == b'+');
        let code = pair.and_then(|(hex, more)| {
            let hex =
                std::str::from_utf8(hex).ok().filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()))?;
            Some((u8::from_str_radix(hex, 16).ok()?, more))
        });
        let (byte, more) = code.unwrap_or((byte, more));
        bytes.push(byte);
        rest = more;
    }
    String::from_utf8(bytes).unwrap_or_else(|_| text.to_owned())
}

/// Turns `\x{E9}` into the letter that it stands for (RFC 6533 §3); what is not of this form stays as it is.
fn decode_embedded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once("\\x{") {
        let letter = behind.split_once('}').and_then(|(hex, more)| {
            let hex = Some(hex).filter(|hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
            Some((char::from_u32(u32::from_str_radix(hex, 16).ok()?)?, more))
        });
        out.push_str(before);
        rest = match letter {
            Some((letter, more)) => {
                out.push(letter);
                more
            }
            None => {
                out.push_str("\\x{");
                behind
            }
        };
    }
    out + rest
}

/// Appends a mailbox with its type.
pub(super) fn push_mailbox(out: &mut String, mailbox: &str, utf8: bool) {
    if mailbox.is_ascii() {
        out.push_str("rfc822; ");
        push_clean(out, mailbox, utf8);
    } else {
        push_international(out, mailbox, utf8);
    }
}

/// Appends what a client gave as ORCPT: its type, and the address that the encoding stands for. `false` if it is none.
pub(super) fn push_original(out: &mut String, original: &str, utf8: bool) -> bool {
    let Some((kind, address)) = original.split_once(';') else { return false };
    if kind.trim().eq_ignore_ascii_case(UTF8) {
        push_international(out, &decode_embedded(address), utf8);
        return true;
    }
    push_clean(out, kind.trim(), false);
    out.push_str("; ");
    push_clean(out, &decode_xtext(address), utf8);
    true
}

fn push_international(out: &mut String, address: &str, utf8: bool) {
    let mut safe = String::with_capacity(address.len());
    for letter in address.chars() {
        match letter {
            // What the form itself is made of.
            '\\' | '+' | '=' => {}
            letter if letter.is_ascii_graphic() || (utf8 && letter > '\u{7f}' && !letter.is_control()) => {
                safe.push(letter);
                continue;
            }
            _ => {}
        }
        // Writing to a String cannot fail.
        let _ = write!(safe, "\\x{{{:02X}}}", u32::from(letter));
    }
    out.push_str(UTF8);
    out.push_str("; ");
    push_clean(out, &safe, utf8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xtext_is_decoded_and_other_text_left_alone() {
        for (text, want) in [
            ("a+2Bb+3D", "a+b="),
            ("plain", "plain"),
            ("+", "+"),
            ("+4", "+4"),
            ("+zz", "+zz"),
            ("+FF", "+FF"),
            ("a+é", "a+é"),
        ] {
            assert_eq!(decode_xtext(text), want);
        }
    }

    #[test]
    fn embedded_letters_are_decoded_and_other_text_left_alone() {
        for (text, want) in [
            ("j\\x{F6}rg\\x{1F600}@x", "jörg😀@x"),
            ("plain", "plain"),
            ("\\x{", "\\x{"),
            ("\\x{zz}\\x{D800}\\x{+41}\\x{}", "\\x{zz}\\x{D800}\\x{+41}\\x{}"),
        ] {
            assert_eq!(decode_embedded(text), want);
        }
    }

    #[test]
    fn an_address_beyond_ascii_survives_a_report_without_utf8() {
        let mailbox = |mailbox, utf8| {
            let mut out = String::new();
            push_mailbox(&mut out, mailbox, utf8);
            out
        };
        assert_eq!(mailbox("a+b@x.test", true), "rfc822; a+b@x.test");
        assert_eq!(mailbox("ü+b@x.test", true), "utf-8; ü\\x{2B}b@x.test");
        assert_eq!(mailbox("ü@x.test", false), "utf-8; \\x{FC}@x.test");
        assert_eq!(mailbox("ü\r\nB: c@x.test", true), "utf-8; ü\\x{0D}\\x{0A}B:\\x{20}c@x.test");
        let original = |given, utf8| {
            let mut out = String::new();
            push_original(&mut out, given, utf8).then_some(out)
        };
        assert_eq!(original("utf-8;j\\x{F6}rg@x", true).as_deref(), Some("utf-8; jörg@x"));
        assert_eq!(original("UTF-8;j\\x{F6}rg@x", false).as_deref(), Some("utf-8; j\\x{F6}rg@x"));
        assert_eq!(original("rfc822;a+2Bb@x", false).as_deref(), Some("rfc822; a+b@x"));
        assert_eq!(original("", false), None);
    }
}
