//! PURE. Finds command lines in a receive buffer that grows.
//!
//! Owns one number: how far the bytes that wait have been searched, so that a client which sends byte by byte costs
//! linear time. Only CR LF ends a line (RFC 5321 §2.3.8): taking a bare LF for a line end would let text that a client
//! relays inside one of its lines become a command of its own, so a bare LF ends the session instead.

use memchr::memchr;

use crate::limits::COMMAND_LINE_BYTES_MAX;

/// What a search found. `consumed` bytes of the input are done with and must not be given again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found<'a> {
    /// A line, without its CR LF.
    Line {
        /// No CR, no LF, at most [`COMMAND_LINE_BYTES_MAX`] - 2 bytes.
        line: &'a [u8],
        /// The line and its CR LF.
        consumed: usize,
    },
    /// The input ends before the line does. Give the rest again with more behind it.
    Incomplete {
        /// More than 0 only inside a line that is too long already.
        consumed: usize,
    },
    /// A line that is refused, but the next one can be told from it: answer and go on.
    Bad {
        /// Why.
        fault: LineFault,
        /// The line and its CR LF.
        consumed: usize,
    },
    /// A bare LF. What is behind it may not be read as a command.
    BareLf,
}

/// Why a line is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineFault {
    /// Over [`COMMAND_LINE_BYTES_MAX`] bytes with CR LF.
    TooLong,
    /// A CR stands inside the line.
    BareCr,
}

/// Searches the bytes that a session has not consumed yet.
#[derive(Clone, Copy, Debug, Default)]
pub struct LineScanner {
    /// Bytes at the start of the next input that are known to hold no LF.
    searched: usize,
    /// The line is too long already; bytes before the next CR LF are dropped.
    skipping: bool,
}

impl LineScanner {
    /// The first line of `input`, which starts with the bytes that the last search left unconsumed.
    pub fn next<'a>(&mut self, input: &'a [u8]) -> Found<'a> {
        // A driver that gives less than before gets a slower search, not a panic.
        let from = self.searched.min(input.len());
        let Some(lf) = memchr(b'\n', &input[from..]).map(|at| from + at) else {
            return self.incomplete(input);
        };
        let skipped = self.skipping;
        *self = Self::default();
        let Some((b'\r', line)) = input[..lf].split_last() else {
            return Found::BareLf;
        };
        let consumed = lf + 1;
        if skipped || consumed > COMMAND_LINE_BYTES_MAX {
            Found::Bad { fault: LineFault::TooLong, consumed }
        } else if memchr(b'\r', line).is_some() {
            Found::Bad { fault: LineFault::BareCr, consumed }
        } else {
            Found::Line { line, consumed }
        }
    }

    fn incomplete<'a>(&mut self, input: &[u8]) -> Found<'a> {
        self.skipping |= input.len() >= COMMAND_LINE_BYTES_MAX;
        // A CR at the end stays: it may be half of the CR LF that ends the line.
        let keep = if self.skipping { usize::from(input.last() == Some(&b'\r')) } else { input.len() };
        self.searched = keep;
        Found::Incomplete { consumed: input.len() - keep }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every result of scanning `input` when it arrives in pieces of `step` bytes.
    fn scan(input: &[u8], step: usize) -> Vec<String> {
        let (mut scanner, mut seen, mut start, mut end) = (LineScanner::default(), Vec::new(), 0, 0);
        loop {
            match scanner.next(&input[start..end]) {
                Found::Line { line, consumed } => {
                    seen.push(String::from_utf8_lossy(line).into_owned());
                    start += consumed;
                }
                Found::Bad { fault, consumed } => {
                    seen.push(format!("{fault:?}"));
                    start += consumed;
                }
                Found::BareLf => {
                    seen.push("BareLf".into());
                    return seen;
                }
                Found::Incomplete { consumed } => {
                    start += consumed;
                    if end == input.len() {
                        return seen;
                    }
                    end = (end + step).min(input.len());
                }
            }
        }
    }

    fn check(input: &[u8], want: &[&str]) {
        for step in [1, 2, 3, 7, 1000, usize::MAX / 2] {
            assert_eq!(scan(input, step), want, "step {step} of {}", input.escape_ascii());
        }
    }

    #[test]
    fn lines_are_the_same_whole_and_byte_by_byte() {
        check(b"", &[]);
        check(b"NOOP", &[]);
        check(b"NOOP\r", &[]);
        check(b"NOOP\r\nQUIT\r\nhalf", &["NOOP", "QUIT"]);
        check(b"\r\n\r\n", &["", ""]);
    }

    #[test]
    fn only_cr_lf_ends_a_line() {
        check(b"NOOP\rRSET\r\nQUIT\r\n", &["BareCr", "QUIT"]);
        check(b"NOOP\r\r\nQUIT\r\n", &["BareCr", "QUIT"]);
        check(b"NOOP\nMAIL FROM:<a@b>\r\n", &["BareLf"]);
        check(b"QUIT\r\n\nNOOP\r\n", &["QUIT", "BareLf"]);
    }

    #[test]
    fn a_line_of_the_longest_length_passes_and_one_byte_more_does_not() {
        for (extra, want) in
            [(0, None), (1, Some("TooLong")), (1000, Some("TooLong")), (9000, Some("TooLong"))]
        {
            let text = "x".repeat(COMMAND_LINE_BYTES_MAX - 2 + extra);
            check(format!("{text}\r\nQUIT\r\n").as_bytes(), &[want.unwrap_or(&text), "QUIT"]);
        }
    }

    #[test]
    fn an_over_long_line_is_skipped_to_its_cr_lf_whatever_is_in_it() {
        let text = "x\r".repeat(COMMAND_LINE_BYTES_MAX);
        check(format!("{text}\r\nQUIT\r\n").as_bytes(), &["TooLong", "QUIT"]);
        check(format!("{text}x\nQUIT\r\n").as_bytes(), &["BareLf"]);
    }

    #[test]
    fn a_byte_is_searched_once_however_slowly_it_comes() {
        let mut scanner = LineScanner::default();
        let input = vec![b'x'; 1000];
        for end in 0..input.len() {
            assert_eq!(scanner.next(&input[..end]), Found::Incomplete { consumed: 0 });
            assert_eq!(scanner.searched, end);
        }
    }
}
