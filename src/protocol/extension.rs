//! PURE. The service extensions that this relay offers, and its replies to EHLO and HELO (RFC 5321 §4.1.1.1).
//!
//! An extension that is switched off is neither announced nor taken: its parameters and verbs are unknown then.

use crate::protocol::reply::{push_lines, push_number};

/// Extensions that can be switched off. PIPELINING, SIZE, 8BITMIME and ENHANCEDSTATUSCODES are always there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extensions {
    /// DSN (RFC 3461).
    pub dsn: bool,
    /// SMTPUTF8 (RFC 6531).
    pub smtputf8: bool,
    /// CHUNKING (RFC 3030).
    pub chunking: bool,
    /// AUTH (RFC 4954): the parameter of MAIL. Which mechanisms are announced differs from session to session.
    pub auth: bool,
}

impl Default for Extensions {
    fn default() -> Self {
        Self { dsn: true, smtputf8: true, chunking: true, auth: false }
    }
}

impl Extensions {
    /// The whole reply to EHLO. It is the same for all clients in the clear, and for all over TLS, so each is made once.
    /// `starttls` announces STARTTLS (RFC 3207); `auth` is the line of AUTH, or empty.
    pub fn ehlo_reply(&self, hostname: &str, size_max: u64, starttls: bool, auth: &str) -> Vec<u8> {
        let mut size = b"SIZE ".to_vec();
        push_number(&mut size, size_max);
        let size = String::from_utf8_lossy(&size);
        let mut lines = vec![hostname, "PIPELINING", &size, "8BITMIME", "ENHANCEDSTATUSCODES"];
        let switched = [
            (self.dsn, "DSN"),
            (self.smtputf8, "SMTPUTF8"),
            (self.chunking, "CHUNKING"),
            (starttls, "STARTTLS"),
            (!auth.is_empty(), auth),
        ];
        lines.extend(switched.iter().filter(|(on, _)| *on).map(|(_, keyword)| *keyword));
        let mut out = Vec::new();
        push_lines(&mut out, 250, lines);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_switched_off_is_not_announced() {
        let all = Extensions::default().ehlo_reply("mx.test", 1000, false, "");
        let all = String::from_utf8(all).unwrap();
        assert!(all.starts_with("250-mx.test\r\n250-PIPELINING\r\n250-SIZE 1000\r\n"), "{all}");
        assert!(all.ends_with("\r\n250-DSN\r\n250-SMTPUTF8\r\n250 CHUNKING\r\n"), "{all}");
        let none = Extensions { dsn: false, smtputf8: false, chunking: false, auth: false }
            .ehlo_reply("mx.test", 1000, false, "");
        assert!(none.ends_with(b"\r\n250 ENHANCEDSTATUSCODES\r\n"), "{}", none.escape_ascii());
    }
}
