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
}
