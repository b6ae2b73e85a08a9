//! PURE. Messages made before the run: seeded, text-like, dot-stuffed. Each message is a copy of the header with id and
//! time patched in, and the shared body.

use crate::wire::mark::{self, ID_BYTES, Id, TIME_DIGITS};

const WORDS: &[&str] = &[
    "the", "mail", "of", "queue", "and", "relay", "to", "letter", "in", "route", "is", "sender", "that",
    "window", "for", "morning", "it", "harbour", "with", "paper", "as", "station", "was", "number", "on",
    "quickly", "be", "by", "at", "signal", "this", "from", "they", "delivery", "or", "one", "had", "weather",
    "but", "what", "some", "we", "can",
];

/// Fields of a message from a file that are left out: ours replaces the first, the others are for the last hop.
const OWN_FIELDS: [&str; 3] = ["Message-ID", "Return-Path", "Bcc"];

/// One message, its marks open.
#[derive(Clone, Debug)]
pub struct Template {
    header: Vec<u8>,
    message_id_at: usize,
    id_at: usize,
    time_at: usize,
    /// Body in wire form, the final `.` CRLF included.
    body: Vec<u8>,
    /// Bytes of the message as content: header and body, dots unstuffed.
    bytes: usize,
}

impl Template {
    /// A message of `bytes` bytes (header included, before dot-stuffing), or the shortest possible if that is less.
    pub fn new(bytes: usize, sender_domain: &str, date: &str, seed: u64) -> Self {
        let zeros = "0".repeat(ID_BYTES);
        let compose = |sum: u32| {
            format!(
                "Message-ID: <{zeros}@{sender_domain}>\r\nDate: {date}\r\nFrom: Load <load@{sender_domain}>\r\n\
                 To: undisclosed-recipients:;\r\nSubject: Load test\r\nMIME-Version: 1.0\r\n\
                 Content-Type: text/plain; charset=us-ascii\r\nX-Load-Id: {zeros}\r\n\
                 X-Load-Time: {:0width$}\r\nX-Load-Sum: {sum:08x}\r\n\r\n",
                0,
                width = TIME_DIGITS
            )
        };
        let body = body(bytes.saturating_sub(compose(0).len()), seed);
        Self::assemble(compose(crc32c::crc32c(&body)).into_bytes(), &body)
    }

    /// The same message for BDAT: dots as they are, and no dot at the end.
    #[must_use]
    pub fn chunked(mut self) -> Self {
        let dotted = self.body.strip_suffix(b".\r\n").unwrap_or(&self.body);
        let lines = dotted.split_inclusive(|byte| *byte == b'\n');
        self.body = lines.flat_map(|line| line.strip_prefix(b".").unwrap_or(line)).copied().collect();
        self
    }

    /// A message from a file: our marks, then its header without the fields that must be our own, then its body, with
    /// CRLF line ends. `None` if it has no header.
    pub fn of_file(file: &[u8], sender_domain: &str, date: &str) -> Option<Self> {
        let mut text = Vec::with_capacity(file.len() + file.len() / 32);
        for line in file.split_inclusive(|byte| *byte == b'\n') {
            let line = line.strip_suffix(b"\n").unwrap_or(line);
            text.extend_from_slice(line.strip_suffix(b"\r").unwrap_or(line));
            text.extend_from_slice(b"\r\n");
        }
        let end = memchr::memmem::find(&text, b"\r\n\r\n")?;
        let (header, body) = (&text[..end + 2], &text[end + 4..]);
        let mut kept = Vec::new();
        let mut keep = true;
        for line in header.split_inclusive(|byte| *byte == b'\n') {
            if !matches!(line.first(), Some(b' ' | b'\t')) {
                let name = &line[..memchr::memchr(b':', line)?];
                keep = !OWN_FIELDS.iter().any(|own| name.eq_ignore_ascii_case(own.as_bytes()))
                    && !name.to_ascii_lowercase().starts_with(b"x-load-");
            }
            if keep {
                kept.extend_from_slice(line);
            }
        }
        let has_date = header
            .split(|byte| *byte == b'\n')
            .any(|line| line.get(..5).is_some_and(|name| name.eq_ignore_ascii_case(b"date:")));
        let date = if has_date { String::new() } else { format!("Date: {date}\r\n") };
        let zeros = "0".repeat(ID_BYTES);
        let ours = format!(
            "Message-ID: <{zeros}@{sender_domain}>\r\nX-Load-Id: {zeros}\r\nX-Load-Time: {:0width$}\r\n\
             X-Load-Sum: {:08x}\r\n{date}",
            0,
            crc32c::crc32c(body),
            width = TIME_DIGITS
        );
        Some(Self::assemble([ours.as_bytes(), &kept, b"\r\n"].concat(), body))
    }

    /// Finds the marks in a header that holds each of them once before anything else may look like one.
    fn assemble(header: Vec<u8>, body: &[u8]) -> Self {
        let after =
            |name: &str| memchr::memmem::find(&header, name.as_bytes()).map_or(0, |at| at + name.len());
        Self {
            message_id_at: after("Message-ID: <"),
            id_at: after("X-Load-Id: "),
            time_at: after("X-Load-Time: "),
            bytes: header.len() + body.len(),
            body: stuffed(body),
            header,
        }
    }

    /// Appends the header of message `id`, sent at `now`, to `out`.
    pub fn header(&self, id: Id, now: u64, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&self.header);
        let header = &mut out[start..];
        id.write(&mut header[self.message_id_at..][..ID_BYTES]);
        id.write(&mut header[self.id_at..][..ID_BYTES]);
        mark::digits(&mut header[self.time_at..][..TIME_DIGITS], now);
    }

    /// The body in wire form, final dot included.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// Bytes of the message as content.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

/// A well-mixed number from any (splitmix64): seeds and per-message choices.
pub fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// Lines of words, at most 76 characters and CRLF each, `bytes` in all (at least one line).
/// Some start with a dot and some are a dot alone, so that stuffing is part of every check of the sum.
fn body(bytes: usize, seed: u64) -> Vec<u8> {
    const LINE_MAX: usize = 76;
    let mut state = mix(seed);
    let mut body = Vec::with_capacity(bytes + 2);
    let mut line_number = 0u64;
    loop {
        let room = bytes.saturating_sub(body.len()).saturating_sub(2);
        // A rest of one byte could not hold a line end.
        let length = if room == LINE_MAX + 1 { LINE_MAX - 1 } else { room.min(LINE_MAX) };
        line_number += 1;
        let start = body.len();
        if line_number % 9 == 4 {
            body.push(b'.');
        }
        if !(line_number % 27 == 13 && room > LINE_MAX) {
            while body.len() < start + length {
                state = mix(state);
                body.extend_from_slice(WORDS[state as usize % WORDS.len()].as_bytes());
                body.push(b' ');
            }
            body.truncate(start + length);
            // No white space at a line's end: some relays take it off, and it is not what is tested.
            if let Some(last) = body[start..].last_mut().filter(|last| **last == b' ') {
                *last = b'.';
            }
        }
        body.extend_from_slice(b"\r\n");
        if body.len() >= bytes {
            return body;
        }
    }
}

/// Wire form: dots doubled at line starts, and the final dot (RFC 5321 §4.5.2).
fn stuffed(body: &[u8]) -> Vec<u8> {
    let mut wire = Vec::with_capacity(body.len() + body.len() / 64 + 8);
    for line in body.split_inclusive(|byte| *byte == b'\n') {
        if line.first() == Some(&b'.') {
            wire.push(b'.');
        }
        wire.extend_from_slice(line);
    }
    wire.extend_from_slice(b".\r\n");
    wire
}

/// `seconds` since 1970 as an RFC 5322 date in UTC.
pub fn date(seconds: u64) -> String {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    let days = seconds / 86_400;
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let (mut year, mut day) = (1970, days);
    while day >= 365 + u64::from(leap(year)) {
        day -= 365 + u64::from(leap(year));
        year += 1;
    }
    let lengths = [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while day >= lengths[month] {
        day -= lengths[month];
        month += 1;
    }
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let weekday = DAYS[(days % 7) as usize];
    format!("{weekday}, {:02} {} {year} {hour:02}:{minute:02}:{second:02} +0000", day + 1, MONTHS[month])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::content::{Content, DotFinder};
    use crate::wire::mark::Run;
    use crate::wire::receipt::Receipt;

    #[test]
    fn a_message_reads_back_intact_with_its_marks_and_exact_size() {
        for bytes in (380..560).chain([1024, 4096, 100_000]) {
            let template = Template::new(bytes, "source.load.invalid", &date(0), bytes as u64);
            let id = Id { run: Run(0xfeed), number: 77 };
            let mut wire = Vec::new();
            template.header(id, 123_456, &mut wire);
            wire.extend_from_slice(template.body());
            wire.extend_from_slice(b"QUIT\r\n");
            let (mut receipt, mut content) = (Receipt::default(), Content::default());
            let rest = content.scan(&DotFinder::default(), &wire, |piece| receipt.take(piece));
            assert_eq!(rest, Some(&b"QUIT\r\n"[..]), "{bytes}");
            assert_eq!((receipt.id(), receipt.sent()), (Some(id), Some(123_456)));
            assert!(receipt.intact(), "{bytes}");
            assert_eq!(receipt.bytes(), template.bytes() as u64);
            if bytes >= 420 {
                assert_eq!(template.bytes(), bytes);
            }
        }
    }

    #[test]
    fn a_message_from_a_file_keeps_its_text_and_gets_our_marks() {
        let file =
            b"Received: a\n\tb\nMESSAGE-ID: <old@x>\n folded\nSubject: Gr\xc3\xbc\xc3\x9fe\n\n.dot\nend";
        let Some(template) = Template::of_file(file, "s.invalid", &date(0)) else { panic!("not taken") };
        for (template, tail) in [(template.clone(), 3), (template.chunked(), 0)] {
            let id = Id { run: Run(1), number: 2 };
            let mut wire = Vec::new();
            template.header(id, 9, &mut wire);
            let header = String::from_utf8_lossy(&wire).into_owned();
            assert!(
                !header.contains("old@x") && !header.contains("folded") && header.contains("\r\n\tb\r\n")
            );
            assert!(header.contains("Date: Thu, 01 Jan 1970") && header.contains("Subject: Gr\u{fc}\u{df}e"));
            let mut receipt = Receipt::default();
            receipt.take(&wire);
            let body = String::from_utf8_lossy(template.body()).into_owned();
            assert_eq!(body, if tail > 0 { "..dot\r\nend\r\n.\r\n" } else { ".dot\r\nend\r\n" });
            receipt.take(b".dot\r\nend\r\n");
            assert!(receipt.intact() && receipt.id() == Some(id));
            assert_eq!(receipt.bytes(), template.bytes() as u64);
        }
        assert!(Template::of_file(b"no header at all", "s.invalid", "").is_none());
    }

    #[test]
    fn lines_stay_short_and_dots_occur() {
        let body = body(20_000, 1);
        assert!(body.split(|byte| *byte == b'\n').all(|line| line.len() <= 77));
        assert!(memchr::memmem::find(&body, b"\r\n.\r\n").is_some());
        assert!(!memchr::memmem::find_iter(&body, b" \r\n").any(|_| true));
    }

    #[test]
    fn dates_are_those_of_rfc_5322() {
        assert_eq!(date(0), "Thu, 01 Jan 1970 00:00:00 +0000");
        assert_eq!(date(1_709_251_199), "Thu, 29 Feb 2024 23:59:59 +0000");
        assert_eq!(date(4_102_444_800), "Fri, 01 Jan 2100 00:00:00 +0000");
    }
}
