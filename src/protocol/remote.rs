//! PURE. Parser of a remote's replies (RFC 5321 §4.2, enhanced codes of RFC 2034).
//!
//! Owns the bytes of an unfinished line and the reply collected so far; both are bounded by `limits`. It does not know
//! which command a reply answers. A line that lies whole in the input is not copied, but for the text that is kept.

use crate::limits::{REPLY_LINE_BYTES_MAX, REPLY_LINES_MAX, REPLY_TEXT_BYTES_MAX};
use crate::outcome::{Enhanced, Reply};

/// Why a remote's bytes are no reply. The connection is of no use afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// No line end within [`REPLY_LINE_BYTES_MAX`].
    #[error("reply line is longer than {REPLY_LINE_BYTES_MAX} bytes")]
    LineTooLong,
    /// A multi-line reply that does not end.
    #[error("reply has more than {REPLY_LINES_MAX} lines")]
    TooManyLines,
    /// A line that does not begin with a code from 200 to 599 and a space, a hyphen or the line's end.
    #[error("reply line does not begin with a reply code")]
    NoCode,
    /// Lines of one reply differ in their code: it cannot be told what was meant (RFC 5321 §4.2.1).
    #[error("lines of one reply carry different codes")]
    CodesDiffer,
}

/// A whole reply of a remote. Its memory is used again for the next one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RemoteReply {
    /// 200 to 599.
    pub code: u16,
    /// As given; `None` if none was, or if its class contradicts the code.
    pub enhanced: Option<Enhanced>,
    /// Texts of the lines without their enhanced codes, joined with a space. Lines that begin behind
    /// [`REPLY_TEXT_BYTES_MAX`] bytes are left out.
    pub text: String,
}

impl RemoteReply {
    /// The form that results carry. Without an enhanced code it gets class.0.0 (RFC 3463 §3.1: other or undefined).
    pub fn to_reply(&self) -> Reply {
        let class = (self.code / 100) as u8;
        Reply::new(self.code, self.enhanced.unwrap_or(Enhanced(class, 0, 0)), &self.text)
    }
}

/// Collects replies from input that may be split anywhere.
#[derive(Debug, Default)]
pub struct ReplyParser {
    /// Start of a line whose end has not come.
    partial: Vec<u8>,
    /// Lines of the unfinished reply.
    lines: usize,
    reply: RemoteReply,
}

impl ReplyParser {
    /// Takes bytes up to the end of one reply at most. Returns how many were taken and whether [`Self::reply`] is whole.
    /// `on_line` is shown the text of each finished line with its place in the reply, from 0.
    pub fn push(
        &mut self,
        input: &[u8],
        mut on_line: impl FnMut(usize, &[u8]),
    ) -> Result<(usize, bool), Malformed> {
        let mut taken = 0;
        while let Some(end) = memchr::memchr(b'\n', &input[taken..]) {
            let rest = &input[taken..=taken + end];
            taken += rest.len();
            let last = if self.partial.is_empty() {
                self.line(rest, &mut on_line)?
            } else {
                self.extend_partial(rest)?;
                let mut line = std::mem::take(&mut self.partial);
                let last = self.line(&line, &mut on_line);
                line.clear();
                self.partial = line;
                last?
            };
            if last {
                return Ok((taken, true));
            }
        }
        self.extend_partial(&input[taken..])?;
        Ok((input.len(), false))
    }

    /// The reply that was finished last. Valid after [`Self::push`] said so, until it is called again.
    pub fn reply(&self) -> &RemoteReply {
        &self.reply
    }

    /// Lends the finished reply out, so that its reader may change the parser's owner; give it back with
    /// [`Self::restore`] to use its memory again.
    pub fn take(&mut self) -> RemoteReply {
        std::mem::take(&mut self.reply)
    }

    /// Gives back what [`Self::take`] lent.
    pub fn restore(&mut self, reply: RemoteReply) {
        self.reply = reply;
    }

    /// Bytes of a line that has not ended.
    pub fn partial(&self) -> &[u8] {
        &self.partial
    }

    /// Whether no reply has begun.
    pub fn is_between_replies(&self) -> bool {
        self.lines == 0 && self.partial.is_empty()
    }

    fn extend_partial(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        if self.partial.len() + bytes.len() > REPLY_LINE_BYTES_MAX {
            return Err(Malformed::LineTooLong);
        }
        self.partial.extend_from_slice(bytes);
        Ok(())
    }

    /// Takes one line with its LF; says whether it is the reply's last. A lone LF ends a line as CRLF does: unlike in
    /// a body nothing can be smuggled behind it, and some remotes send it.
    fn line(&mut self, line: &[u8], on_line: &mut impl FnMut(usize, &[u8])) -> Result<bool, Malformed> {
        if line.len() > REPLY_LINE_BYTES_MAX {
            return Err(Malformed::LineTooLong);
        }
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let (code, text) = split_code(line)?;
        let (last, text) = match text {
            [] => (true, text),
            [b' ', text @ ..] => (true, text),
            [b'-', text @ ..] => (false, text),
            _ => return Err(Malformed::NoCode),
        };
        if self.lines == 0 {
            self.reply.code = code;
            self.reply.enhanced = None;
            self.reply.text.clear();
        } else if self.reply.code != code {
            return Err(Malformed::CodesDiffer);
        }
        if self.lines == REPLY_LINES_MAX {
            return Err(Malformed::TooManyLines);
        }
        on_line(self.lines, text);
        self.keep(text);
        self.lines = if last { 0 } else { self.lines + 1 };
        Ok(last)
    }

    fn keep(&mut self, text: &[u8]) {
        let mut text = text;
        if let Some((enhanced, rest)) = split_enhanced(text)
            && u16::from(enhanced.0) == self.reply.code / 100
        {
            self.reply.enhanced.get_or_insert(enhanced);
            text = rest;
        }
        let text = text.trim_ascii();
        if text.is_empty() || self.reply.text.len() >= REPLY_TEXT_BYTES_MAX {
            return;
        }
        if !self.reply.text.is_empty() {
            self.reply.text.push(' ');
        }
        self.reply.text.push_str(&String::from_utf8_lossy(text));
    }
}

fn split_code(line: &[u8]) -> Result<(u16, &[u8]), Malformed> {
    match line {
        [a @ b'2'..=b'5', b @ b'0'..=b'9', c @ b'0'..=b'9', rest @ ..] => {
            let digit = |byte: &u8| u16::from(byte - b'0');
            Ok((digit(a) * 100 + digit(b) * 10 + digit(c), rest))
        }
        _ => Err(Malformed::NoCode),
    }
}

/// Splits `class.subject.detail` (RFC 3463 §2) and the space behind it off the front.
fn split_enhanced(text: &[u8]) -> Option<(Enhanced, &[u8])> {
    let (class, rest) = match text {
        [class @ (b'2' | b'4' | b'5'), b'.', rest @ ..] => (class - b'0', rest),
        _ => return None,
    };
    let (subject, rest) = split_number(rest)?;
    let (detail, rest) = split_number(rest.strip_prefix(b".")?)?;
    match rest {
        [] => Some((Enhanced(class, subject, detail), rest)),
        [b' ' | b'\t', rest @ ..] => Some((Enhanced(class, subject, detail), rest)),
        _ => None,
    }
}

fn split_number(text: &[u8]) -> Option<(u16, &[u8])> {
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if !(1..=3).contains(&digits) {
        return None;
    }
    let number = text[..digits].iter().fold(0, |number, digit| number * 10 + u16::from(digit - b'0'));
    Some((number, &text[digits..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    type Replies = Vec<(u16, Option<Enhanced>, String)>;

    /// All replies of `input`, given in pieces of `step` bytes; stops at an error.
    fn parse(input: &[u8], step: usize) -> (Replies, Option<Malformed>) {
        let mut parser = ReplyParser::default();
        let mut replies = Vec::new();
        for mut piece in input.chunks(step) {
            while !piece.is_empty() {
                match parser.push(piece, |_, _| {}) {
                    Ok((taken, whole)) => {
                        piece = &piece[taken..];
                        if whole {
                            let reply = parser.reply();
                            replies.push((reply.code, reply.enhanced, reply.text.clone()));
                        }
                    }
                    Err(error) => return (replies, Some(error)),
                }
            }
        }
        (replies, None)
    }

    fn check(input: &[u8], want: &[(u16, Option<Enhanced>, &str)], error: Option<Malformed>) {
        for step in [1, 2, 3, 7, input.len().max(1)] {
            let (replies, got) = parse(input, step);
            let replies: Vec<_> = replies.iter().map(|(c, e, t)| (*c, *e, t.as_str())).collect();
            assert_eq!((replies.as_slice(), got), (want, error), "{} step {step}", input.escape_ascii());
        }
    }

    #[test]
    fn replies_read_alike_however_they_are_split() {
        let e = |a, b, c| Some(Enhanced(a, b, c));
        check(b"250 OK\r\n", &[(250, None, "OK")], None);
        check(b"250\r\n", &[(250, None, "")], None);
        check(b"250 \n", &[(250, None, "")], None);
        check(b"250 a\r\n354 b\r\n", &[(250, None, "a"), (354, None, "b")], None);
        check(b"550-5.1.1 no\r\n550 5.1.1 such user\r\n", &[(550, e(5, 1, 1), "no such user")], None);
        check(b"550 5.1.1\r\n", &[(550, e(5, 1, 1), "")], None);
        check(b"452 4.2.2 \xff full\r\n", &[(452, e(4, 2, 2), "\u{fffd} full")], None);
        check(b"550 5.7.26.1 x\r\n", &[(550, None, "5.7.26.1 x")], None);
        check(b"550 5.1000.1 x\r\n", &[(550, None, "5.1000.1 x")], None);
    }

    #[test]
    fn enhanced_code_that_contradicts_the_code_stays_text() {
        check(b"450 5.1.1 later\r\n", &[(450, None, "5.1.1 later")], None);
    }

    #[test]
    fn garbage_is_an_error_and_never_a_reply() {
        for input in
            [&b"hello\r\n"[..], b"\r\n", b"25\r\n", b"100 x\r\n", b"650 x\r\n", b"250x\r\n", b"2 50\r\n"]
        {
            check(input, &[], Some(Malformed::NoCode));
        }
        check(b"250-a\r\n251 b\r\n", &[], Some(Malformed::CodesDiffer));
    }

    #[test]
    fn endless_lines_and_endless_replies_are_cut_off() {
        let longest = format!("250 {}\r\n", "x".repeat(REPLY_LINE_BYTES_MAX - 6));
        assert_eq!(parse(longest.as_bytes(), 1).1, None);
        let longer = format!("250 {}\r\n", "x".repeat(REPLY_LINE_BYTES_MAX - 5));
        check(longer.as_bytes(), &[], Some(Malformed::LineTooLong));
        let endless = "250-x\r\n".repeat(REPLY_LINES_MAX + 1);
        check(endless.as_bytes(), &[], Some(Malformed::TooManyLines));
        let most = "250-x\r\n".repeat(REPLY_LINES_MAX - 1) + "250 x\r\n";
        assert_eq!(parse(most.as_bytes(), 1).1, None);
    }

    #[test]
    fn kept_text_stays_bounded() {
        let long = format!("550-{}\r\n", "é".repeat(900)).repeat(99) + "550 end\r\n";
        let (replies, error) = parse(long.as_bytes(), 5);
        assert_eq!(error, None);
        assert!(replies[0].2.len() < REPLY_TEXT_BYTES_MAX + REPLY_LINE_BYTES_MAX);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_give_the_same_whole_or_split(input: Vec<u8>, step in 1usize..9) {
            let whole = parse(&input, input.len().max(1));
            let split = parse(&input, step);
            proptest::prop_assert_eq!(whole, split);
        }
    }
}
