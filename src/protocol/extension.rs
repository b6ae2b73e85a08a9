//! PURE. The service extensions that this relay offers, and its replies to EHLO and HELO (RFC 5321 §4.1.1.1).
//!
//! An extension that is switched off is neither announced nor taken: its parameters and verbs are unknown then.

use crate::protocol::reply::{push_lines, push_number};

/// Largest value that LIMITS can say: six digits (RFC 9422 §3).
const RCPTMAX_MAX: usize = 999_999;

/// Extensions that can be switched off. PIPELINING, SIZE, 8BITMIME, ENHANCEDSTATUSCODES and LIMITS are always there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extensions {
    /// DSN (RFC 3461).
    pub dsn: bool,
    /// SMTPUTF8 (RFC 6531).
    pub smtputf8: bool,
    /// CHUNKING, and with it BINARYMIME, which needs it (RFC 3030).
    pub chunking: bool,
    /// AUTH (RFC 4954): the parameter of MAIL. Which mechanisms are announced differs from session to session.
    pub auth: bool,
    /// REQUIRETLS (RFC 8689), which is for sessions over TLS alone.
    pub require_tls: bool,
}

impl Default for Extensions {
    fn default() -> Self {
        Self { dsn: true, smtputf8: true, chunking: true, auth: false, require_tls: false }
    }
}

impl Extensions {
    /// The whole reply to EHLO. It is the same for all clients in the clear, and for all over TLS, so each is made once.
    /// `starttls` announces STARTTLS (RFC 3207), `recipients_max` is the RCPTMAX of LIMITS (RFC 9422); `auth` is the line
    /// of AUTH, or empty.
    pub fn ehlo_reply(
        &self,
        hostname: &str,
        size_max: u64,
        recipients_max: usize,
        starttls: bool,
        auth: &str,
    ) -> Vec<u8> {
        let mut size = b"SIZE ".to_vec();
        push_number(&mut size, size_max);
        let size = String::from_utf8_lossy(&size);
        let limits = format!("LIMITS RCPTMAX={}", recipients_max.clamp(1, RCPTMAX_MAX));
        let mut lines = vec![hostname, "PIPELINING", &size, "8BITMIME", "ENHANCEDSTATUSCODES", &limits];
        let switched = [
            (self.dsn, "DSN"),
            (self.smtputf8, "SMTPUTF8"),
            (self.chunking, "CHUNKING"),
            (self.chunking, "BINARYMIME"),
            (starttls, "STARTTLS"),
            (self.require_tls, "REQUIRETLS"),
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
        let all = Extensions::default().ehlo_reply("mx.test", 1000, 50, false, "");
        let all = String::from_utf8(all).unwrap();
        assert!(all.starts_with("250-mx.test\r\n250-PIPELINING\r\n250-SIZE 1000\r\n"), "{all}");
        let end =
            "\r\n250-LIMITS RCPTMAX=50\r\n250-DSN\r\n250-SMTPUTF8\r\n250-CHUNKING\r\n250 BINARYMIME\r\n";
        assert!(all.ends_with(end), "{all}");
        let none =
            Extensions { dsn: false, smtputf8: false, chunking: false, auth: false, require_tls: false }
                .ehlo_reply("mx.test", 1000, 0, false, "");
        assert!(none.ends_with(b"\r\n250 LIMITS RCPTMAX=1\r\n"), "{}", none.escape_ascii());
    }
}
