//! PURE. Finds the end of data and takes the stuffed dots out (RFC 5321 §4.5.2), without copying: the content is
//! handed on as slices of the receive buffer. Only CRLF.CRLF ends it.

use memchr::memmem::Finder;

/// Where the scanner stands between two reads. Everything but a dot at a line's start, and a CR after it, has been
/// handed on already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// At the start of a line.
    LineStart,
    /// Inside a line.
    Text,
    /// After a CR inside a line.
    Cr,
    /// After a dot at a line's start.
    Dot,
    /// After that dot and a CR.
    DotCr,
}

/// Scans one message sent with DATA. A fresh one for each message.
#[derive(Clone, Copy, Debug)]
pub struct Content {
    place: Place,
}

/// The search for `CRLF .`, built once per thread.
#[derive(Debug)]
pub struct DotFinder(Finder<'static>);

impl Default for DotFinder {
    fn default() -> Self {
        Self(Finder::new(b"\r\n."))
    }
}

impl Default for Content {
    fn default() -> Self {
        Self { place: Place::LineStart }
    }
}

impl Content {
    /// Hands the content in `bytes` to `take`. Returns what follows the end of data, or `None` if it is not there yet.
    pub fn scan<'a>(
        &mut self,
        finder: &DotFinder,
        mut bytes: &'a [u8],
        mut take: impl FnMut(&[u8]),
    ) -> Option<&'a [u8]> {
        while let Some(&first) = bytes.first() {
            match (self.place, first) {
                (Place::LineStart, b'.') => {
                    self.place = Place::Dot;
                    bytes = &bytes[1..];
                }
                (Place::Cr, b'\n') => {
                    take(b"\n");
                    self.place = Place::LineStart;
                    bytes = &bytes[1..];
                }
                (Place::Dot, b'\r') => {
                    self.place = Place::DotCr;
                    bytes = &bytes[1..];
                }
                (Place::DotCr, b'\n') => return Some(&bytes[1..]),
                (Place::DotCr, _) => {
                    // The dot was stuffing before a bare CR, which is content.
                    take(b"\r");
                    self.place = Place::Cr;
                }
                (Place::Dot | Place::LineStart | Place::Cr | Place::Text, _) => {
                    bytes = self.text(finder, bytes, &mut take);
                }
            }
        }
        None
    }

    /// Runs to the next dot at a line's start, or to the end of `bytes`.
    fn text<'a>(&mut self, finder: &DotFinder, bytes: &'a [u8], take: &mut impl FnMut(&[u8])) -> &'a [u8] {
        if let Some(hit) = finder.0.find(bytes) {
            take(&bytes[..hit + 2]);
            self.place = Place::Dot;
            return &bytes[hit + 3..];
        }
        take(bytes);
        self.place = match bytes {
            [.., b'\r', b'\n'] => Place::LineStart,
            [.., b'\r'] => Place::Cr,
            _ => Place::Text,
        };
        &[]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Content and what follows the end of data, the slow way.
    fn naive(bytes: &[u8]) -> (Vec<u8>, Option<Vec<u8>>) {
        let mut content = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            let line_start = content.is_empty() || content.ends_with(b"\r\n");
            if line_start && bytes[at] == b'.' {
                let rest = &bytes[at + 1..];
                if let Some(after) = rest.strip_prefix(b"\r\n") {
                    return (content, Some(after.to_vec()));
                }
                if rest.is_empty() || rest == b"\r" {
                    return (content, None);
                }
                at += 1;
                // What follows the stuffing is content even if it is a dot.
                content.push(bytes[at]);
                at += 1;
                continue;
            }
            content.push(bytes[at]);
            at += 1;
        }
        (content, None)
    }

    fn scanned(bytes: &[u8], chunk: usize) -> (Vec<u8>, Option<Vec<u8>>) {
        let finder = DotFinder::default();
        let mut scanner = Content::default();
        let mut content = Vec::new();
        let mut used = 0;
        for piece in bytes.chunks(chunk.max(1)) {
            used += piece.len();
            if let Some(rest) = scanner.scan(&finder, piece, |slice| content.extend_from_slice(slice)) {
                let after = [rest, &bytes[used..]].concat();
                return (content, Some(after));
            }
        }
        (content, None)
    }

    #[test]
    fn only_a_dot_alone_between_crlf_ends_the_data() {
        let cases: [(&[u8], &[u8], Option<&[u8]>); 9] = [
            (b"a\r\n.\r\nNEXT", b"a\r\n", Some(b"NEXT")),
            (b".\r\n", b"", Some(b"")),
            (b"..\r\n.\r\n", b".\r\n", Some(b"")),
            (b"a\n.\n.\r\n", b"a\n.\n.\r\n", None),
            (b"a\r.\r\n", b"a\r.\r\n", None),
            (b"a\r\n.\rb\r\n.\r\n", b"a\r\n\rb\r\n", Some(b"")),
            (b"a\r\n.\r\r\n.\r\n", b"a\r\n\r\r\n", Some(b"")),
            (b"a\r\n.\n\r\n.\r\n", b"a\r\n\n\r\n", Some(b"")),
            (b"a\r\n...\r\n.\r\nX", b"a\r\n..\r\n", Some(b"X")),
        ];
        for (bytes, content, rest) in cases {
            for chunk in [1, 2, 3, 100] {
                let want = (content.to_vec(), rest.map(<[u8]>::to_vec));
                assert_eq!(scanned(bytes, chunk), want, "{:?} by {chunk}", bytes.escape_ascii().to_string());
            }
        }
    }

    proptest! {
        #[test]
        fn any_split_gives_what_the_naive_scan_gives(
            picks in proptest::collection::vec(0usize..4, 0..60),
            chunk in 1usize..9,
        ) {
            let bytes: Vec<u8> = picks.into_iter().map(|pick| b"\r\n.a"[pick]).collect();
            prop_assert_eq!(scanned(&bytes, chunk), naive(&bytes));
        }
    }
}
