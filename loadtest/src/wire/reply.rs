//! PURE. Cuts received bytes into reply lines (RFC 5321 §4.2). Owns the piece of a line that has not ended yet.

use crate::limits::LINE_BYTES_MAX;

/// One line of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyLine<'a> {
    /// Reply code, 200 to 599.
    pub code: u16,
    /// No further line of this reply follows.
    pub last: bool,
    /// What follows the code and its separator.
    pub text: &'a [u8],
}

/// The peer does not speak SMTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    /// No reply code at the start of a line.
    #[error("a reply line does not start with a code")]
    Code,
    /// Longer than [`LINE_BYTES_MAX`].
    #[error("a reply line is too long")]
    Length,
}

/// Cuts bytes into lines, whatever the sizes of the reads.
#[derive(Debug, Default)]
pub struct LineCutter {
    partial: Vec<u8>,
}

impl LineCutter {
    /// Takes the next line, without its line end, from the front of `bytes`; `Ok(None)` when none has ended yet
    /// (the rest is kept). The line is valid until the next call.
    pub fn next<'s, 'b: 's>(&'s mut self, bytes: &mut &'b [u8]) -> Result<Option<&'s [u8]>, ReplyError> {
        // A line handed out by the previous call ends in LF; a piece never holds one.
        if self.partial.last() == Some(&b'\n') {
            self.partial.clear();
        }
        let Some(end) = memchr::memchr(b'\n', bytes) else {
            if self.partial.len() + bytes.len() > LINE_BYTES_MAX {
                return Err(ReplyError::Length);
            }
            self.partial.extend_from_slice(bytes);
            *bytes = &[];
            return Ok(None);
        };
        let (line, rest) = bytes.split_at(end + 1);
        *bytes = rest;
        let line = if self.partial.is_empty() {
            line
        } else {
            self.partial.extend_from_slice(line);
            &self.partial
        };
        if line.len() > LINE_BYTES_MAX {
            return Err(ReplyError::Length);
        }
        let line = &line[..line.len() - 1];
        Ok(Some(line.strip_suffix(b"\r").unwrap_or(line)))
    }
}

/// Reads one reply line.
pub fn parse(line: &[u8]) -> Result<ReplyLine<'_>, ReplyError> {
    let (code, rest) = line.split_at_checked(3).ok_or(ReplyError::Code)?;
    let code = match code {
        [b'2'..=b'5', b'0'..=b'9', b'0'..=b'9'] => {
            code.iter().fold(0, |value, byte| value * 10 + u16::from(byte - b'0'))
        }
        _ => return Err(ReplyError::Code),
    };
    match rest.split_first() {
        None => Ok(ReplyLine { code, last: true, text: b"" }),
        Some((b' ', text)) => Ok(ReplyLine { code, last: true, text }),
        Some((b'-', text)) => Ok(ReplyLine { code, last: false, text }),
        Some(_) => Err(ReplyError::Code),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(chunks: &[&[u8]]) -> Result<Vec<String>, ReplyError> {
        let mut cutter = LineCutter::default();
        let mut lines = Vec::new();
        for chunk in chunks {
            let mut rest = *chunk;
            while let Some(line) = cutter.next(&mut rest)? {
                lines.push(String::from_utf8_lossy(line).into_owned());
            }
        }
        Ok(lines)
    }

    #[test]
    fn lines_are_the_same_whole_and_byte_by_byte() {
        let text = b"220 hi\r\n250-a\r\n250 b\r\n354\r\n";
        let single: Vec<&[u8]> = text.chunks(1).collect();
        let want = ["220 hi", "250-a", "250 b", "354"];
        assert_eq!(lines(&[text]).as_deref(), Ok(&want.map(String::from)[..]));
        assert_eq!(lines(&single).as_deref(), Ok(&want.map(String::from)[..]));
    }

    #[test]
    fn an_endless_line_is_an_error_and_not_memory() {
        let chunk = [b'2'; 1000];
        assert_eq!(lines(&[&chunk[..]; 5]), Err(ReplyError::Length));
    }

    #[test]
    fn replies_need_a_code_and_a_separator() {
        assert_eq!(parse(b"250-PIPELINING"), Ok(ReplyLine { code: 250, last: false, text: b"PIPELINING" }));
        assert_eq!(parse(b"354"), Ok(ReplyLine { code: 354, last: true, text: b"" }));
        for bad in [&b""[..], b"25", b"250x", b"650 no", b"abc hello", b"150 no"] {
            assert_eq!(parse(bad), Err(ReplyError::Code), "{bad:?}");
        }
    }
}
