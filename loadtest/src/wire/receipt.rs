//! PURE. Reads a message's marks as its content streams by, and sums its body. Copies only a header line that two
//! reads share.

use crate::wire::mark::{self, Id};

/// Header lines longer than this are none of ours.
const MARK_LINE_BYTES_MAX: usize = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Header,
    Body,
}

/// What is known of one message. Reused: [`Receipt::reset`].
#[derive(Debug)]
pub struct Receipt {
    part: Part,
    partial: Vec<u8>,
    /// The current header line is too long to be a mark.
    skip_line: bool,
    id: Option<Id>,
    sent: Option<u64>,
    want_sum: Option<u32>,
    sum: u32,
    bytes: u64,
}

impl Default for Receipt {
    fn default() -> Self {
        Self {
            part: Part::Header,
            partial: Vec::new(),
            skip_line: false,
            id: None,
            sent: None,
            want_sum: None,
            sum: 0,
            bytes: 0,
        }
    }
}

impl Receipt {
    /// Ready for the next message.
    pub fn reset(&mut self) {
        let mut partial = std::mem::take(&mut self.partial);
        partial.clear();
        *self = Self { partial, ..Self::default() };
    }

    /// Takes the next piece of content, dots already unstuffed.
    pub fn take(&mut self, mut content: &[u8]) {
        self.bytes += content.len() as u64;
        while self.part == Part::Header {
            let Some(end) = memchr::memchr(b'\n', content) else {
                self.keep(content);
                return;
            };
            let (line, rest) = content.split_at(end + 1);
            content = rest;
            if self.partial.is_empty() && !self.skip_line {
                self.line(line);
            } else {
                self.keep(line);
                let whole = std::mem::take(&mut self.partial);
                if !self.skip_line {
                    self.line(&whole);
                }
                self.skip_line = false;
                self.partial = whole;
                self.partial.clear();
            }
        }
        self.sum = crc32c::crc32c_append(self.sum, content);
    }

    fn keep(&mut self, piece: &[u8]) {
        if self.partial.len() + piece.len() > MARK_LINE_BYTES_MAX {
            self.skip_line = true;
            self.partial.clear();
        } else {
            self.partial.extend_from_slice(piece);
        }
    }

    fn line(&mut self, line: &[u8]) {
        if line == b"\r\n" || line == b"\n" {
            self.part = Part::Body;
            return;
        }
        const NAME: &[u8] = b"X-Load-";
        let Some(rest) =
            line.split_at_checked(NAME.len()).filter(|(name, _)| name.eq_ignore_ascii_case(NAME))
        else {
            return;
        };
        let Some(colon) = memchr::memchr(b':', rest.1) else { return };
        let value = rest.1[colon + 1..].trim_ascii();
        let name = &rest.1[..colon];
        if name.eq_ignore_ascii_case(b"Id") {
            self.id = Id::parse(value);
        } else if name.eq_ignore_ascii_case(b"Time") {
            self.sent = mark::parse_digits(value);
        } else if name.eq_ignore_ascii_case(b"Sum") {
            self.want_sum = mark::parse_hex(value);
        }
    }

    /// The message's id, if it is one of a source's.
    pub fn id(&self) -> Option<Id> {
        self.id
    }

    /// When the source sent it, in microseconds of the monotonic clock.
    pub fn sent(&self) -> Option<u64> {
        self.sent
    }

    /// The body sums to what the header says. A message without a readable sum is not intact.
    pub fn intact(&self) -> bool {
        self.part == Part::Body && self.want_sum == Some(self.sum)
    }

    /// Bytes of content so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::mark::Run;

    fn read(message: &[u8], chunk: usize) -> Receipt {
        let mut receipt = Receipt::default();
        receipt.take(b"left over from before\r\n\r\nbody");
        receipt.reset();
        message.chunks(chunk).for_each(|piece| receipt.take(piece));
        receipt
    }

    #[test]
    fn marks_and_sum_are_read_behind_any_trace_header_and_in_any_split() {
        let long = "y".repeat(900);
        let message = format!(
            "Received: from x by y; z\r\nX-Long: {long}\r\nX-LOAD-id: 0000abcd-000000000042\r\nX-Load-Time: 0000000000000777\r\n\
             X-Load-Sum: {:08x}\r\n\r\nX-Load-Id: in the body\r\nbody\r\n",
            crc32c::crc32c(b"X-Load-Id: in the body\r\nbody\r\n")
        );
        for chunk in [1, 7, 4096] {
            let receipt = read(message.as_bytes(), chunk);
            assert_eq!(receipt.id(), Some(Id { run: Run(0xabcd), number: 42 }), "by {chunk}");
            assert_eq!(receipt.sent(), Some(777));
            assert!(receipt.intact(), "by {chunk}");
            assert_eq!(receipt.bytes(), message.len() as u64);
        }
    }

    #[test]
    fn a_changed_body_and_a_missing_sum_are_not_intact() {
        let message = format!("X-Load-Sum: {:08x}\r\n\r\nbody\r\n", crc32c::crc32c(b"body\r\n"));
        assert!(read(message.as_bytes(), 4096).intact());
        assert!(!read(message.replace("body", "bodY").as_bytes(), 4096).intact());
        assert!(!read(b"Subject: x\r\n\r\nbody\r\n", 4096).intact());
        assert!(!read(b"X-Load-Sum: 00000000\r\n", 4096).intact(), "cut off before the body");
    }
}
