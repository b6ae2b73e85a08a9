//! PURE. What a remote's EHLO reply offers (RFC 5321 §4.1.1.1).

use super::login::MECHANISMS;
use crate::protocol::sasl::Mechanism;

/// Service extensions of a remote. After HELO there are none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// PIPELINING (RFC 2920).
    pub pipelining: bool,
    /// CHUNKING (RFC 3030).
    pub chunking: bool,
    /// BINARYMIME (RFC 3030).
    pub binary: bool,
    /// 8BITMIME (RFC 6152).
    pub eight_bit: bool,
    /// SMTPUTF8 (RFC 6531).
    pub smtputf8: bool,
    /// SIZE (RFC 1870): largest message in bytes; 0 if the remote names none.
    pub size: Option<u64>,
    /// DSN (RFC 3461).
    pub dsn: bool,
    /// ENHANCEDSTATUSCODES (RFC 2034).
    pub enhanced: bool,
    /// STARTTLS (RFC 3207).
    pub starttls: bool,
    /// LIMITS (RFC 9422): most recipients of a transaction; 0 if the remote names no number.
    pub recipients_max: u32,
    /// Most transactions of a session; likewise.
    pub messages_max: u32,
    /// REQUIRETLS (RFC 8689).
    pub require_tls: bool,
    /// AUTH (RFC 4954): those of the mechanisms that we know, in the order of `login::MECHANISMS`.
    pub auth: [bool; MECHANISMS.len()],
}

impl Capabilities {
    /// Takes one line of the EHLO reply, without its code. The first line is the remote's name and must not come here.
    pub(super) fn take_line(&mut self, line: &[u8]) {
        let mut words = line.split(|byte| *byte == b' ' || *byte == b'\t').filter(|word| !word.is_empty());
        let Some(keyword) = words.next() else { return };
        let is = |name: &[u8]| keyword.eq_ignore_ascii_case(name);
        match () {
            () if is(b"PIPELINING") => self.pipelining = true,
            () if is(b"CHUNKING") => self.chunking = true,
            () if is(b"BINARYMIME") => self.binary = true,
            () if is(b"8BITMIME") => self.eight_bit = true,
            () if is(b"SMTPUTF8") => self.smtputf8 = true,
            () if is(b"DSN") => self.dsn = true,
            () if is(b"ENHANCEDSTATUSCODES") => self.enhanced = true,
            () if is(b"STARTTLS") => self.starttls = true,
            () if is(b"REQUIRETLS") => self.require_tls = true,
            () if is(b"LIMITS") => words.for_each(|word| self.take_limit(word)),
            () if is(b"AUTH") => {
                for word in words {
                    let known = MECHANISMS.iter().zip(&mut self.auth);
                    known.for_each(|((_, name), offered)| {
                        *offered |= word.eq_ignore_ascii_case(name.as_bytes())
                    });
                }
            }
            () if is(b"SIZE") => {
                // A limit that cannot be read is no limit: the remote will say so itself.
                let limit = words.next().and_then(|word| std::str::from_utf8(word).ok());
                self.size = Some(limit.and_then(|limit| limit.parse().ok()).unwrap_or(0));
            }
            () => {}
        }
    }

    /// Takes `NAME=number`. What cannot be read is no limit, and what is none of ours concerns us not: a transaction has
    /// recipients of one domain (RCPTDOMAINMAX).
    fn take_limit(&mut self, word: &[u8]) {
        let Some((name, number)) = std::str::from_utf8(word).ok().and_then(|word| word.split_once('='))
        else {
            return;
        };
        let number = number.parse().unwrap_or(0);
        if name.eq_ignore_ascii_case("RCPTMAX") {
            self.recipients_max = number;
        } else if name.eq_ignore_ascii_case("MAILMAX") {
            self.messages_max = number;
        }
    }

    /// Whether a transaction has as many recipients as the remote says it takes.
    pub(super) fn is_full(&self, recipients: u32) -> bool {
        self.recipients_max != 0 && recipients >= self.recipients_max
    }

    /// Whether a session has had as many transactions as the remote says it takes.
    pub fn is_used_up(&self, transactions: u64) -> bool {
        self.messages_max != 0 && transactions >= u64::from(self.messages_max)
    }

    /// The strongest mechanism offered, and its name.
    pub(super) fn mechanism(&self) -> Option<(Mechanism, &'static str)> {
        MECHANISMS.into_iter().zip(self.auth).find(|(_, offered)| *offered).map(|(mechanism, _)| mechanism)
    }

    /// Whether a message of `bytes` is larger than the remote says it takes.
    pub fn is_too_large(&self, bytes: u64) -> bool {
        matches!(self.size, Some(limit) if limit > 0 && bytes > limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offers_are_read_whatever_their_case_and_arguments() {
        let mut offered = Capabilities::default();
        for line in
            [&b"pipelining"[..], b"Chunking", b"8BITMIME", b"SIZE 1000", b"AUTH PLAIN DSN", b"", b"DSNX"]
        {
            offered.take_line(line);
        }
        let want = Capabilities {
            pipelining: true,
            chunking: true,
            eight_bit: true,
            size: Some(1000),
            auth: [false, true, false],
            ..Capabilities::default()
        };
        assert_eq!(offered, want);
        assert!(offered.is_too_large(1001) && !offered.is_too_large(1000));
    }

    #[test]
    fn size_without_a_usable_number_is_no_limit() {
        for line in [&b"SIZE"[..], b"SIZE 0", b"SIZE big", b"SIZE 99999999999999999999999"] {
            let mut offered = Capabilities::default();
            offered.take_line(line);
            assert_eq!(offered.size, Some(0));
            assert!(!offered.is_too_large(u64::MAX));
        }
    }

    #[test]
    fn limits_are_read_and_what_is_no_number_is_none() {
        for (line, recipients, messages) in [
            (&b"LIMITS RCPTMAX=50 MAILMAX=7"[..], 50, 7),
            (b"limits mailmax=7 RCPTDOMAINMAX=1 X", 0, 7),
            (b"LIMITS RCPTMAX=0 MAILMAX=-1", 0, 0),
            (b"LIMITS RCPTMAX=99999999999 MAILMAX", 0, 0),
            (b"LIMITS", 0, 0),
        ] {
            let mut offered = Capabilities::default();
            offered.take_line(line);
            assert_eq!((offered.recipients_max, offered.messages_max), (recipients, messages));
        }
        let offered = Capabilities { recipients_max: 2, messages_max: 3, ..Capabilities::default() };
        assert!(!offered.is_full(1) && offered.is_full(2));
        assert!(!offered.is_used_up(2) && offered.is_used_up(3));
        assert!(!Capabilities::default().is_full(1000) && !Capabilities::default().is_used_up(1000));
    }
}
