//! PURE. Names and passwords as they are compared: SASLprep (RFC 4013), so that one typed on another keyboard is the same.

use std::borrow::Cow;

/// `text` as it is compared; `None` for one that cannot be a name or password: with control characters, with letters of
/// both directions mixed, or with nothing left of it.
pub fn prepared(text: &str) -> Option<Cow<'_, str>> {
    stringprep::saslprep(text).ok().filter(|text| !text.is_empty())
}

/// A password from a client. One that cannot be prepared stays as it is: only a key that another program made can fit it.
pub(super) fn prepared_password(password: &[u8]) -> Cow<'_, [u8]> {
    match std::str::from_utf8(password).ok().and_then(prepared) {
        Some(Cow::Owned(text)) => Cow::Owned(text.into_bytes()),
        Some(Cow::Borrowed(text)) => Cow::Borrowed(text.as_bytes()),
        None => Cow::Borrowed(password),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_prepared_as_the_examples_of_the_rfc_are() {
        // RFC 4013 §3.
        let examples = [
            ("I\u{ad}X", Some("IX")),
            ("user", Some("user")),
            ("USER", Some("USER")),
            ("\u{aa}", Some("a")),
            ("\u{2168}", Some("IX")),
            ("\u{7}", None),
            ("\u{627}\u{31}", None),
        ];
        for (text, want) in examples {
            assert_eq!(prepared(text).as_deref(), want, "{text:?}");
        }
        assert_eq!(prepared("\u{ad}"), None, "nothing is left");
    }

    #[test]
    fn a_password_that_is_no_text_stays_as_it_is() {
        assert_eq!(&*prepared_password(b"\xe9"), b"\xe9");
        assert_eq!(&*prepared_password("e\u{301}".as_bytes()), "\u{e9}".as_bytes());
    }
}
