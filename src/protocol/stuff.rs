//! PURE. Dot-stuffing: from a body as it is kept to the form DATA wants (RFC 5321 §4.5.2).
//!
//! Owns what must be known of the pieces before: whether the next byte begins a line, and whether the last line has
//! ended. Copies in bulk, once, from the piece to the output. The way back is the server side's.

use memchr::memmem::Finder;

/// Where the last byte left the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Nothing yet, or behind CRLF: a line begins, and the body may end here.
    LineStart,
    /// Behind an LF that no CR precedes: a lax remote takes it for a line's end.
    BareLf,
    /// Behind a CR.
    Cr,
    /// Within a line.
    Line,
}

/// Stuffs one body after the other.
#[derive(Debug)]
pub struct Stuffer {
    place: Place,
    /// Finds `LF .`, built once.
    line_dot: Finder<'static>,
}

impl Default for Stuffer {
    fn default() -> Self {
        Self { place: Place::LineStart, line_dot: Finder::new(b"\n.") }
    }
}

impl Stuffer {
    /// Appends a piece of the body. A dot behind *any* LF is doubled: kept bodies have CRLF only, and should one not,
    /// no `LF . CRLF` that a lax remote could take for the end gets out (SMTP smuggling).
    pub fn piece(&mut self, piece: &[u8], out: &mut Vec<u8>) {
        let Some(&first) = piece.first() else { return };
        if first == b'.' && matches!(self.place, Place::LineStart | Place::BareLf) {
            out.push(b'.');
        }
        let mut copied = 0;
        for lf in self.line_dot.find_iter(piece) {
            out.extend_from_slice(&piece[copied..=lf]);
            out.push(b'.');
            copied = lf + 1;
        }
        out.extend_from_slice(&piece[copied..]);
        self.place = match piece {
            [.., b'\r', b'\n'] => Place::LineStart,
            [b'\n'] if self.place == Place::Cr => Place::LineStart,
            [.., b'\n'] => Place::BareLf,
            [.., b'\r'] => Place::Cr,
            _ => Place::Line,
        };
    }

    /// Appends the end of data, a CRLF before it if the body does not end so, and is ready for the next body.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        if self.place != Place::LineStart {
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b".\r\n");
        self.place = Place::LineStart;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stuffed(pieces: &[&[u8]]) -> Vec<u8> {
        let (mut stuffer, mut out) = (Stuffer::default(), Vec::new());
        for piece in pieces {
            stuffer.piece(piece, &mut out);
        }
        stuffer.finish(&mut out);
        out
    }

    fn naive(body: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        for (i, byte) in body.iter().enumerate() {
            if *byte == b'.' && (i == 0 || body[i - 1] == b'\n') {
                out.push(b'.');
            }
            out.push(*byte);
        }
        if !body.is_empty() && !body.ends_with(b"\r\n") {
            out.extend(b"\r\n");
        }
        out.extend(b".\r\n");
        out
    }

    #[test]
    fn edges_are_stuffed_as_the_standard_says() {
        for (body, want) in [
            (&b""[..], &b".\r\n"[..]),
            (b".", b"..\r\n.\r\n"),
            (b".\r\n", b"..\r\n.\r\n"),
            (b"..\r\n", b"...\r\n.\r\n"),
            (b"a.b\r\n.c", b"a.b\r\n..c\r\n.\r\n"),
            (b"a\r\n.\r\nMAIL FROM:<x@y.test>\r\n", b"a\r\n..\r\nMAIL FROM:<x@y.test>\r\n.\r\n"),
            (b"a\n.\r\n", b"a\n..\r\n.\r\n"),
            (b"a\n", b"a\n\r\n.\r\n"),
            (b"a\r", b"a\r\r\n.\r\n"),
        ] {
            assert_eq!(stuffed(&[body]), want, "{}", body.escape_ascii());
        }
    }

    #[test]
    fn a_body_does_not_leak_into_the_next() {
        let (mut stuffer, mut out) = (Stuffer::default(), Vec::new());
        stuffer.piece(b"a", &mut out);
        stuffer.finish(&mut out);
        out.clear();
        stuffer.piece(b".b\r\n", &mut out);
        stuffer.finish(&mut out);
        assert_eq!(out, b"..b\r\n.\r\n");
    }

    proptest! {
        #[test]
        fn any_split_equals_the_naive_form(
            body in proptest::collection::vec(proptest::sample::select(b".\r\na".to_vec()), 0..60),
            cuts in proptest::collection::vec(0usize..60, 0..6),
        ) {
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut % (body.len() + 1)).collect();
            cuts.extend([0, body.len()]);
            cuts.sort_unstable();
            let pieces: Vec<_> = cuts.windows(2).map(|w| &body[w[0]..w[1]]).collect();
            prop_assert_eq!(stuffed(&pieces), naive(&body));
        }
    }
}
