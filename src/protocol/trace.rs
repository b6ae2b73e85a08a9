//! PURE. Writes the `Received` header that stands in front of each accepted message (RFC 5321 §4.4).
//!
//! Lines are folded at 78 columns where a blank allows it. No control character can get in: names come from the
//! session, which has cleaned them, and what is left is replaced here.

use std::io::Write;
use std::net::IpAddr;

use crate::clock::WallTime;
use crate::endpoint::Origin;
use crate::id::MessageId;
use crate::protocol::reply::push_number;

/// Columns at which lines are folded. RFC 5322 §2.1.1.
const COLUMNS: usize = 78;

/// How the message came, as the `with` clause names it (RFC 3848, RFC 6531 §4.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Protocol {
    /// The client said EHLO.
    pub extended: bool,
    /// The client said LHLO.
    pub lmtp: bool,
    /// The transaction used SMTPUTF8.
    pub smtputf8: bool,
    /// Over TLS.
    pub tls: bool,
    /// The client had authenticated itself.
    pub authenticated: bool,
}

impl Protocol {
    /// Keyword of the registry "Mail Transmission Types".
    pub fn keyword(self) -> &'static str {
        let words = match (self.lmtp, self.smtputf8, self.extended) {
            (true, true, _) => ["UTF8LMTP", "UTF8LMTPS", "UTF8LMTPA", "UTF8LMTPSA"],
            (true, false, _) => ["LMTP", "LMTPS", "LMTPA", "LMTPSA"],
            (false, true, _) => ["UTF8SMTP", "UTF8SMTPS", "UTF8SMTPA", "UTF8SMTPSA"],
            (false, false, true) => ["ESMTP", "ESMTPS", "ESMTPA", "ESMTPSA"],
            // RFC 3848 has no other word for it: HELO offers neither TLS nor AUTH.
            (false, false, false) => return "SMTP",
        };
        words[usize::from(self.tls) + 2 * usize::from(self.authenticated)]
    }
}

/// What the header tells.
#[derive(Clone, Copy, Debug)]
pub struct Trace<'a> {
    /// Name the client gave in EHLO or HELO.
    pub helo: &'a str,
    /// Where the client came from.
    pub peer: Origin,
    /// Our name.
    pub hostname: &'a str,
    /// How it came.
    pub protocol: Protocol,
    /// The message.
    pub id: MessageId,
    /// The recipient when there is only one: with more, the header would tell them of each other.
    pub recipient: Option<&'a str>,
    /// When it came.
    pub at: WallTime,
}

impl Trace<'_> {
    /// Appends the header, CR LF at its end.
    pub fn write(&self, out: &mut Vec<u8>) {
        let mut line = Folder { line_start: out.len(), first: true, out };
        line.word(|out| out.extend_from_slice(b"Received:"));
        line.word(|out| out.extend_from_slice(b"from"));
        line.word(|out| push_clean(out, self.helo));
        line.word(|out| {
            // Writing to a vector cannot fail.
            let _ = match self.peer {
                Origin::Ip(address @ IpAddr::V6(_)) => write!(out, "([IPv6:{address}])"),
                Origin::Ip(address) => write!(out, "([{address}])"),
                Origin::Socket => write!(out, "(unix socket)"),
            };
        });
        line.word(|out| out.extend_from_slice(b"by"));
        line.word(|out| push_clean(out, self.hostname));
        line.word(|out| {
            out.extend_from_slice(b"with ");
            out.extend_from_slice(self.protocol.keyword().as_bytes());
        });
        line.word(|out| {
            out.extend_from_slice(b"id ");
            out.extend_from_slice(&self.id.letters());
            if self.recipient.is_none() {
                out.push(b';');
            }
        });
        if let Some(recipient) = self.recipient {
            line.word(|out| {
                out.extend_from_slice(b"for <");
                push_clean(out, recipient);
                out.extend_from_slice(b">;");
            });
        }
        line.word(|out| push_date(out, self.at));
        out.extend_from_slice(b"\r\n");
    }
}

/// Appends words with a blank between, or a fold where the line would grow too long.
struct Folder<'a> {
    out: &'a mut Vec<u8>,
    line_start: usize,
    first: bool,
}

impl Folder<'_> {
    fn word(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let before = self.out.len();
        if !std::mem::take(&mut self.first) {
            self.out.push(b' ');
        }
        write(self.out);
        if self.out.len() - self.line_start > COLUMNS && before > self.line_start {
            self.out.splice(before..=before, *b"\r\n\t");
            self.line_start = before + 2;
        }
    }
}

fn push_clean(out: &mut Vec<u8>, text: &str) {
    let start = out.len();
    if text.contains(char::is_control) {
        out.extend(text.replace(char::is_control, "?").into_bytes());
    } else {
        out.extend_from_slice(text.as_bytes());
    }
    debug_assert!(!out[start..].contains(&b'\n'));
}

/// Appends `at` as RFC 5322 §3.3 writes it, in UTC: `Mon, 02 Jan 2006 15:04:05 +0000`.
pub fn push_date(out: &mut Vec<u8>, at: WallTime) {
    const DAYS: [&[u8]; 7] = [b"Thu", b"Fri", b"Sat", b"Sun", b"Mon", b"Tue", b"Wed"];
    const MONTHS: [&[u8]; 12] =
        [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"];
    let seconds = at.0 / 1000;
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    out.extend_from_slice(DAYS[(days % 7) as usize]);
    out.extend_from_slice(b", ");
    push_two(out, day);
    out.push(b' ');
    out.extend_from_slice(MONTHS[month]);
    out.push(b' ');
    push_number(out, year);
    for (mark, value) in [(b' ', second / 3600), (b':', second / 60 % 60), (b':', second % 60)] {
        out.push(mark);
        push_two(out, value);
    }
    out.extend_from_slice(b" +0000");
}

fn push_two(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(&[b'0' + (number / 10 % 10) as u8, b'0' + (number % 10) as u8]);
}

/// Year, month from 0, day from 1 of a day since 1970-01-01. Counts in eras of 400 years that start in March, so that
/// the leap day is the last of its year (H. Hinnant, "chrono-Compatible Low-Level Date Algorithms").
fn civil(days: u64) -> (u64, usize, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year + year / 4 - year / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12;
    (era * 400 + year + u64::from(month < 2), month as usize, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::PartId;

    fn date(at: u64) -> String {
        let mut out = Vec::new();
        push_date(&mut out, WallTime(at));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn dates_are_those_of_another_implementation() {
        for seconds in
            (0..4_200_000_000u64).step_by(3_333_331).chain([951_782_399, 951_782_400, 4_107_542_400])
        {
            let at = jiff::Timestamp::from_second(seconds as i64).unwrap();
            let want = jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_string(&at).unwrap();
            let want = want.replace("-0000", "+0000");
            let want = if want.as_bytes()[6] == b' ' { want.replacen(", ", ", 0", 1) } else { want };
            assert_eq!(date(seconds * 1000 + 999), want);
        }
    }

    #[test]
    fn the_furthest_time_does_not_panic() {
        assert!(date(u64::MAX).ends_with("+0000"));
    }

    fn header(helo: &str, peer: &str, protocol: Protocol, recipient: Option<&str>) -> String {
        let id = MessageId::new(PartId(1), 2);
        let peer = peer.parse().map_or(Origin::Socket, Origin::Ip);
        let trace = Trace { helo, peer, hostname: "mx.test", protocol, id, recipient, at: WallTime(0) };
        let mut out = b"before".to_vec();
        trace.write(&mut out);
        String::from_utf8(out).unwrap().strip_prefix("before").unwrap().to_owned()
    }

    #[test]
    fn the_protocol_has_the_word_of_the_registry() {
        let word = |letters: &str| {
            let has = |letter| letters.contains(letter);
            let (lmtp, extended) = (has('l'), has('e'));
            let (smtputf8, tls, authenticated) = (has('u'), has('s'), has('a'));
            Protocol { extended, lmtp, smtputf8, tls, authenticated }.keyword()
        };
        for (letters, want) in [
            ("", "SMTP"),
            ("s", "SMTP"),
            ("e", "ESMTP"),
            ("es", "ESMTPS"),
            ("ea", "ESMTPA"),
            ("esa", "ESMTPSA"),
            ("eu", "UTF8SMTP"),
            ("eus", "UTF8SMTPS"),
            ("eua", "UTF8SMTPA"),
            ("eusa", "UTF8SMTPSA"),
            ("el", "LMTP"),
            ("els", "LMTPS"),
            ("ela", "LMTPA"),
            ("elsa", "LMTPSA"),
            ("elu", "UTF8LMTP"),
            ("elusa", "UTF8LMTPSA"),
        ] {
            assert_eq!(word(letters), want, "{letters}");
        }
    }

    #[test]
    fn a_client_without_an_address_is_given_none() {
        let protocol =
            Protocol { extended: true, lmtp: true, smtputf8: false, tls: false, authenticated: false };
        let header = header("injector", "", protocol, None);
        assert!(
            header.starts_with("Received: from injector (unix socket) by mx.test with LMTP id "),
            "{header}"
        );
    }

    #[test]
    fn the_header_is_folded_and_complete() {
        let protocol = Protocol { extended: true, tls: true, ..Protocol::default() };
        let id = MessageId::new(PartId(1), 2);
        assert_eq!(
            header("client.test", "192.0.2.1", protocol, Some("a@b.test")),
            format!(
                "Received: from client.test ([192.0.2.1]) by mx.test with ESMTPS\r\n\
                 \tid {id} for <a@b.test>; Thu, 01 Jan 1970 00:00:00 +0000\r\n"
            )
        );
    }

    #[test]
    fn no_line_is_longer_than_it_must_be_and_each_goes_on_with_a_blank() {
        let long = "x".repeat(90);
        for recipient in [None, Some("a@b.test"), Some(long.as_str())] {
            let text = header(&long, "2001:db8::1", Protocol::default(), recipient);
            assert!(text.contains("([IPv6:2001:db8::1])") && text.contains("with SMTP"), "{text}");
            for line in text.strip_suffix("\r\n").unwrap().split("\r\n").skip(1) {
                assert!(line.starts_with('\t'), "{text}");
                assert!(line.len() <= COLUMNS || line.contains(&long), "{text}");
            }
        }
    }

    #[test]
    fn a_hostile_name_cannot_start_a_line_of_its_own() {
        let text = header("x\r\nSubject: y\0", "192.0.2.1", Protocol::default(), Some("a\u{85}\n@b"));
        assert!(text.split("\r\n").skip(1).all(|line| line.is_empty() || line.starts_with('\t')), "{text}");
        assert_eq!(text.chars().filter(|c| c.is_control() && !"\r\n\t".contains(*c)).count(), 0);
    }
}
