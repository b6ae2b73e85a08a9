//! PURE. Decodes message bodies: DATA with its dot-stuffing and its end, and the octets of BDAT chunks.
//!
//! Owns what must be known between two reads: where in a line the last byte stood, the size so far, the faults so far.
//! Decoded bytes go straight into the caller's buffer, in spans as long as the input allows: that is the one copy of a
//! body. A faulty body is read to its true end, so that the session stays in step, but nothing more of it is kept.
//!
//! Only CR LF . CR LF ends DATA (RFC 5321 §4.1.1.4). A bare CR or LF is a fault, never a line end: servers that
//! disagree about it can be made to see two messages where there was one (SMTP smuggling, CVE-2023-51764).

use memchr::memchr_iter;

use crate::envelope::Content;
use crate::limits::{HEADER_BYTES_MAX, HEADER_LINES_MAX, RECEIVED_HEADERS_MAX};

/// Header field that every relay adds, in lower case.
const RECEIVED: &[u8] = b"received:";

/// Why a body is refused, when it has been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyFault {
    /// A CR without LF or a LF without CR.
    BareNewline,
    /// More octets than the limit (RFC 1870 §6.1): line ends count, stuffed dots do not.
    TooLarge,
    /// [`RECEIVED_HEADERS_MAX`] or more `Received` fields: the message goes round in circles.
    Looping,
    /// More than [`HEADER_BYTES_MAX`] bytes or [`HEADER_LINES_MAX`] lines before the first empty line.
    LongHeader,
}

/// Where the next byte stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// First of a line: the body's first byte, or behind CR LF.
    LineStart,
    /// Inside a line.
    Middle,
    /// Behind a CR.
    Cr,
    /// DATA: behind a dot that starts a line. The dot is not passed on.
    Dot,
    /// DATA: behind such a dot and a CR, neither passed on.
    DotCr,
}

/// What a call to [`Decoder::decode`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// Bytes of the input that are done with: all of them unless the end was found.
    pub consumed: usize,
    /// The end of DATA was found.
    pub ended: bool,
}

/// Decoder of one body.
#[derive(Clone, Debug)]
pub struct Decoder {
    at: At,
    /// DATA: lines that start with a dot are special.
    stuffed: bool,
    /// BODY=BINARYMIME: octets without lines, in which CR and LF mean nothing.
    binary: bool,
    bare_newline: bool,
    /// Octets above 127 were seen.
    eight_bit: bool,
    size: u64,
    size_max: u64,
    headers: Headers,
}

impl Decoder {
    /// For what follows 354. A body of more than `size_max` octets is faulty.
    pub fn data(size_max: u64) -> Self {
        Self { stuffed: true, ..Self::chunks(size_max) }
    }

    /// For the octets of BDAT chunks, end to end. The caller knows where they end.
    pub fn chunks(size_max: u64) -> Self {
        Self {
            at: At::LineStart,
            stuffed: false,
            binary: false,
            bare_newline: false,
            eight_bit: false,
            size: 0,
            size_max,
            headers: Headers::default(),
        }
    }

    /// For the octets of BDAT chunks behind BODY=BINARYMIME (RFC 3030 §3): they are kept as they come.
    pub fn binary(size_max: u64) -> Self {
        Self { binary: true, ..Self::chunks(size_max) }
    }

    /// What kind of octets there were: what a remote must offer to be sent them.
    pub fn content(&self) -> Content {
        Content { eight_bit: self.eight_bit, eight_bit_header: self.headers.eight_bit }
    }

    /// Decoded octets so far, kept or not.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// What is wrong with the body so far. The order is fixed, so that it does not depend on how the input was split.
    pub fn fault(&self) -> Option<BodyFault> {
        if self.bare_newline && !self.binary {
            Some(BodyFault::BareNewline)
        } else if self.size > self.size_max {
            Some(BodyFault::TooLarge)
        } else if self.headers.received >= RECEIVED_HEADERS_MAX {
            Some(BodyFault::Looping)
        } else if self.headers.bytes > HEADER_BYTES_MAX || self.headers.lines > HEADER_LINES_MAX {
            Some(BodyFault::LongHeader)
        } else {
            None
        }
    }

    /// Decodes `input`, appending to `body` at most as many bytes as are consumed, and none once there is a fault.
    pub fn decode(&mut self, input: &[u8], body: &mut Vec<u8>) -> Decoded {
        let mut used = 0;
        while used < input.len() {
            let step = match self.at {
                At::LineStart if self.stuffed && input[used] == b'.' => {
                    self.at = At::Dot;
                    1
                }
                At::LineStart | At::Middle => self.lines(&input[used..], body),
                At::Cr if input[used] == b'\n' => {
                    self.keep(b"\n", body);
                    self.headers.line_end();
                    self.at = At::LineStart;
                    1
                }
                At::Dot if input[used] == b'\r' => {
                    self.at = At::DotCr;
                    1
                }
                At::DotCr if input[used] == b'\n' => return Decoded { consumed: used + 1, ended: true },
                At::Dot => {
                    self.at = At::Middle;
                    0
                }
                At::Cr | At::DotCr => {
                    self.bare_newline = true;
                    self.at = At::Middle;
                    0
                }
            };
            used += step;
        }
        Decoded { consumed: used, ended: false }
    }

    /// The last chunk has been decoded. A last line without its end gets one: DATA could not carry it further
    /// otherwise, and every body in the spool but a binary one ends in CR LF. So `body` may grow by 2 bytes here.
    pub fn finish_chunks(&mut self, body: &mut Vec<u8>) {
        match self.at {
            At::Cr => self.bare_newline = true,
            // Not counted: a client that kept to SIZE must not fail for what we add.
            At::Middle if self.fault().is_none() && !self.binary => body.extend_from_slice(b"\r\n"),
            At::Middle | At::LineStart | At::Dot | At::DotCr => {}
        }
    }

    /// Bulk part: whole lines up to one that starts with a dot, or to the end of `input`. Returns bytes consumed, at
    /// least 1. `self.at` is `LineStart` with no dot ahead, or `Middle`.
    ///
    /// Each LF must have a CR before it, which the loop sees; that no other CR is there follows from their number,
    /// which a vectorized count gives for less than a look at each.
    fn lines(&mut self, input: &[u8], body: &mut Vec<u8>) -> usize {
        let (mut line_start, mut pairs, mut end) = (0, 0, input.len());
        for lf in memchr_iter(b'\n', input) {
            if lf == 0 || input[lf - 1] != b'\r' {
                self.bare_newline = true;
                continue;
            }
            pairs += 1;
            if self.headers.open {
                self.headers.text(&input[line_start..lf - 1]);
                self.headers.line_end();
            }
            line_start = lf + 1;
            if self.stuffed && input.get(line_start) == Some(&b'.') {
                end = line_start;
                break;
            }
        }
        let span = &input[..end];
        self.at = if line_start == end {
            At::LineStart
        } else {
            let cr = span.ends_with(b"\r");
            if self.headers.open {
                self.headers.text(&span[line_start..end - usize::from(cr)]);
            }
            if cr { At::Cr } else { At::Middle }
        };
        let crs = memchr_iter(b'\r', span).count();
        self.bare_newline |= crs != pairs + usize::from(self.at == At::Cr);
        self.keep(span, body);
        end
    }

    fn keep(&mut self, span: &[u8], body: &mut Vec<u8>) {
        self.size = self.size.saturating_add(span.len() as u64);
        self.eight_bit = self.eight_bit || !span.is_ascii();
        if self.fault().is_none() {
            body.extend_from_slice(span);
        }
    }
}

/// Counts bytes, lines and `Received` fields and sees octets above 127 until the first empty line.
#[derive(Clone, Debug)]
struct Headers {
    open: bool,
    bytes: usize,
    lines: usize,
    received: usize,
    /// Bytes of the current line so far, up to one more than [`RECEIVED`] is long.
    line: usize,
    /// All of them were those of [`RECEIVED`].
    matching: bool,
    eight_bit: bool,
}

impl Default for Headers {
    fn default() -> Self {
        Self { open: true, bytes: 0, lines: 0, received: 0, line: 0, matching: true, eight_bit: false }
    }
}

impl Headers {
    /// Bytes of the current line, without its CR LF.
    fn text(&mut self, text: &[u8]) {
        if !self.open || text.is_empty() {
            return;
        }
        self.eight_bit = self.eight_bit || !text.is_ascii();
        if self.matching && self.line < RECEIVED.len() {
            let wanted = &RECEIVED[self.line..];
            let both = wanted.len().min(text.len());
            self.matching = text[..both].eq_ignore_ascii_case(&wanted[..both]);
            if self.matching && both == wanted.len() {
                self.received += 1;
            }
        }
        self.line = (self.line + text.len()).min(RECEIVED.len() + 1);
        self.bytes = self.bytes.saturating_add(text.len());
    }

    /// CR LF.
    fn line_end(&mut self) {
        self.open &= self.line > 0;
        if self.open {
            (self.bytes, self.lines) = (self.bytes.saturating_add(2), self.lines.saturating_add(1));
        }
        self.line = 0;
        self.matching = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What a decoder made of an input that came in pieces: body if there is no fault, fault, bytes left behind the end.
    type Read = Option<(Result<Vec<u8>, BodyFault>, usize)>;

    fn read(input: &[u8], cuts: &[usize]) -> Read {
        let (mut decoder, mut body, mut start) = (Decoder::data(u64::MAX), Vec::new(), 0);
        for &end in cuts.iter().chain([&input.len()]) {
            if end < start {
                continue;
            }
            let decoded = decoder.decode(&input[start..end], &mut body);
            start += decoded.consumed;
            if decoded.ended {
                return Some((decoder.fault().map_or(Ok(body), Err), input.len() - start));
            }
            assert_eq!(start, end, "bytes were left though there was no end");
        }
        None
    }

    /// The rule in three lines: the end is the first CR LF . CR LF, a lone CR or LF is a fault, one leading dot goes.
    fn oracle(input: &[u8]) -> Read {
        let text = [b"\r\n", input].concat();
        let end = text.windows(5).position(|window| window == b"\r\n.\r\n")?;
        let content = String::from_utf8_lossy(&text[2..end.max(2)]).into_owned();
        let lines = content.split("\r\n").map(|line| line.strip_prefix('.').unwrap_or(line));
        let mut body = lines.clone().collect::<Vec<_>>().join("\r\n");
        if end > 0 {
            body.push_str("\r\n");
        }
        let bare = lines.clone().any(|line| line.contains(['\r', '\n']));
        let rest = text.len() - end - 5;
        Some((if bare { Err(BodyFault::BareNewline) } else { Ok(body.into_bytes()) }, rest))
    }

    /// Whole, byte by byte, and cut in two at every place.
    fn check(input: &[u8]) {
        let want = oracle(input);
        let every: Vec<usize> = (1..input.len()).collect();
        assert_eq!(read(input, &[]), want, "whole: {}", input.escape_ascii());
        assert_eq!(read(input, &every), want, "byte by byte: {}", input.escape_ascii());
        for cut in every {
            assert_eq!(read(input, &[cut]), want, "cut at {cut}: {}", input.escape_ascii());
        }
    }

    #[test]
    fn every_short_sequence_around_the_end_of_data_is_read_as_the_oracle_reads_it() {
        let letters = [b'\r', b'\n', b'.', b'a'];
        let mut count = 0;
        for length in 1..=6 {
            for number in 0..4usize.pow(length) {
                let middle: Vec<u8> = (0..length).map(|i| letters[number / 4usize.pow(i) % 4]).collect();
                check(&[b"text", &middle[..], b"MAIL FROM:<x@y>\r\n.\r\nQUIT\r\n"].concat());
                check(&[&middle[..], b"x\r\n.\r\n"].concat());
                count += 2;
            }
        }
        assert!(count > 10_000, "{count}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        #[test]
        fn long_bodies_cut_anywhere_are_read_as_the_oracle_reads_them(
            words in proptest::collection::vec(0usize..9, 0..200),
            mut cuts in proptest::collection::vec(0usize..2000, 0..12),
        ) {
            let parts = ["\r\n", "\r\n", ".", "..", "Received: x", "some longer text of a line", "\r", "\n", ":"];
            // Bare newlines rarely, or no long body would be free of them.
            let some = words.iter().filter(|w| **w < 6 || words.len() % 3 == 0);
            let text = some.map(|w| parts[*w]).collect::<String>() + "\r\n.\r\nQUIT\r\n";
            cuts.retain(|cut| *cut < text.len());
            cuts.sort_unstable();
            prop_assert_eq!(read(text.as_bytes(), &cuts), oracle(text.as_bytes()));
        }
    }

    fn fault_of(text: &str, size_max: u64) -> Option<BodyFault> {
        let (mut whole, mut slow) = (Decoder::data(size_max), Decoder::data(size_max));
        let mut body = Vec::new();
        assert!(whole.decode(text.as_bytes(), &mut body).ended);
        for byte in text.as_bytes() {
            slow.decode(std::slice::from_ref(byte), &mut body);
        }
        assert_eq!((whole.fault(), whole.size()), (slow.fault(), slow.size()));
        whole.fault()
    }

    #[test]
    fn size_counts_line_ends_and_no_stuffed_dots() {
        assert_eq!(fault_of("..a\r\n.\r\n", 4), None);
        assert_eq!(fault_of("..a\r\n.\r\n", 3), Some(BodyFault::TooLarge));
        assert_eq!(fault_of(".\r\n", 0), None);
    }

    #[test]
    fn received_fields_are_counted_in_the_header_section_only() {
        let field = "rEceived: from x\r\n\tby y\r\n";
        let other = "Received-SPF: pass\r\nX-Received: y\r\nSubject: Received: z\r\n received: folded\r\n";
        let below = RECEIVED_HEADERS_MAX - 1;
        assert_eq!(fault_of(&(field.repeat(below) + other + "\r\n.\r\n"), 1 << 20), None);
        assert_eq!(fault_of(&(field.repeat(below) + "\r\n" + field + "\r\n.\r\n"), 1 << 20), None);
        assert_eq!(fault_of(&(field.repeat(below + 1) + ".\r\n"), 1 << 20), Some(BodyFault::Looping));
    }

    #[test]
    fn a_header_section_has_a_longest_length_and_number_of_lines_and_the_text_behind_it_has_none() {
        let line = format!("X: {}\r\n", "x".repeat(59));
        let fits = line.repeat(HEADER_BYTES_MAX / line.len());
        assert_eq!(fits.len(), HEADER_BYTES_MAX);
        let fault = |text: String| fault_of(&text, 1 << 24);
        assert_eq!(fault(format!("{fits}\r\n{fits}{fits}.\r\n")), None);
        assert_eq!(fault(format!("{fits}X\r\n\r\n.\r\n")), Some(BodyFault::LongHeader));
        let short = "a\r\n".repeat(HEADER_LINES_MAX);
        assert_eq!(fault(format!("{short}\r\n{short}{short}.\r\n")), None);
        assert_eq!(fault(format!("{short}a\r\n\r\n.\r\n")), Some(BodyFault::LongHeader));
        // One line without an end.
        assert_eq!(fault(format!("{}\r\n.\r\n", "x".repeat(HEADER_BYTES_MAX))), Some(BodyFault::LongHeader));
    }

    #[test]
    fn nothing_is_kept_of_a_body_after_its_fault() {
        let (mut decoder, mut body) = (Decoder::data(10), Vec::new());
        for _ in 0..1000 {
            decoder.decode(b"12345678\r\n", &mut body);
        }
        assert_eq!(body, b"12345678\r\n");
        assert!(decoder.decode(b".\r\n", &mut body).ended);
    }

    #[test]
    fn the_line_end_that_is_added_to_chunks_does_not_count() {
        let (mut decoder, mut body) = (Decoder::chunks(3), Vec::new());
        decoder.decode(b"abc", &mut body);
        decoder.finish_chunks(&mut body);
        assert_eq!((decoder.fault(), decoder.size(), body.as_slice()), (None, 3, &b"abc\r\n"[..]));
    }

    #[test]
    fn a_binary_body_is_kept_octet_by_octet() {
        for text in [&b"a\nb\r\rc\0\xff"[..], b"\n.\n", b"\r", b"", b"Subject: x\r\n\r\n\r\n.\r\n\n"] {
            for step in 1..=text.len().max(1) {
                let (mut decoder, mut body) = (Decoder::binary(100), Vec::new());
                for piece in text.chunks(step) {
                    decoder.decode(piece, &mut body);
                }
                decoder.finish_chunks(&mut body);
                assert_eq!((decoder.fault(), body.as_slice()), (None, text), "by {step}");
            }
        }
    }

    #[test]
    fn octets_above_127_are_seen_where_they_stand() {
        for (text, header, any) in [
            ("Subject: x\r\n\r\ny\r\n.\r\n", false, false),
            ("Subject: é\r\n\r\ny\r\n.\r\n", true, true),
            ("Subject: x\r\n\r\né\r\n.\r\n", false, true),
        ] {
            for step in [1, 5, text.len()] {
                let (mut decoder, mut body) = (Decoder::data(100), Vec::new());
                for piece in text.as_bytes().chunks(step) {
                    decoder.decode(piece, &mut body);
                }
                let want = Content { eight_bit: any, eight_bit_header: header };
                assert_eq!(decoder.content(), want, "{text:?} by {step}");
            }
        }
    }

    #[test]
    fn chunks_know_no_dots_and_get_their_last_line_ended() {
        for (text, want) in [
            ("", Ok("")),
            ("a\r\n.\r\nb\r\n", Ok("a\r\n.\r\nb\r\n")),
            ("a\r\n..b", Ok("a\r\n..b\r\n")),
            ("a\r", Err(BodyFault::BareNewline)),
            ("a\nb\r\n", Err(BodyFault::BareNewline)),
        ] {
            for step in 1..=text.len().max(1) {
                let (mut decoder, mut body) = (Decoder::chunks(100), Vec::new());
                for piece in text.as_bytes().chunks(step) {
                    assert!(!decoder.decode(piece, &mut body).ended);
                }
                decoder.finish_chunks(&mut body);
                let got = decoder.fault().map_or(Ok(body), Err);
                assert_eq!(got, want.map(|want| want.as_bytes().to_vec()), "{text:?} by {step}");
            }
        }
    }
}
