//! Any body: the decoder reads it as the naive rule does, however it is cut.

use ringpost::limits::RECEIVED_HEADERS_MAX;
use ringpost::protocol::body::{BodyFault, Decoder};

/// Body or fault, and bytes left behind the end; `None` if there is no end.
type Read = Option<(Result<Vec<u8>, BodyFault>, usize)>;

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}

/// Cut at each CR LF; the last line is what follows the last one.
fn lines(mut text: &[u8]) -> Vec<&[u8]> {
    let mut lines = Vec::new();
    while let Some(end) = find(text, b"\r\n") {
        lines.push(&text[..end]);
        text = &text[end + 2..];
    }
    lines.push(text);
    lines
}

/// The fault of lines that have been decoded, `size` octets in all.
fn fault(lines: &[&[u8]], size: u64, size_max: u64) -> Option<BodyFault> {
    let bare = lines.iter().any(|line| line.contains(&b'\r') || line.contains(&b'\n'));
    let header = lines.iter().take_while(|line| !line.is_empty());
    let is_received = |line: &&&[u8]| line.len() >= 9 && line[..9].eq_ignore_ascii_case(b"received:");
    if bare {
        Some(BodyFault::BareNewline)
    } else if size > size_max {
        Some(BodyFault::TooLarge)
    } else if header.filter(is_received).count() >= RECEIVED_HEADERS_MAX {
        Some(BodyFault::Looping)
    } else {
        None
    }
}

/// DATA by its rule: it ends at the first CR LF . CR LF, one leading dot of a line goes.
fn data_oracle(input: &[u8], size_max: u64) -> Read {
    let text = [b"\r\n", input].concat();
    let end = find(&text, b"\r\n.\r\n")?;
    let lines: Vec<&[u8]> = match end {
        0 => Vec::new(),
        _ => lines(&text[2..end]).into_iter().map(|line| line.strip_prefix(b".").unwrap_or(line)).collect(),
    };
    let body: Vec<u8> = lines.iter().flat_map(|line| [*line, b"\r\n"].concat()).collect();
    let fault = fault(&lines, body.len() as u64, size_max);
    Some((fault.map_or(Ok(body), Err), text.len() - end - 5))
}

fn data(input: &[u8], step: usize, size_max: u64) -> Read {
    let (mut decoder, mut body, mut start) = (Decoder::data(size_max), Vec::new(), 0);
    for piece in input.chunks(step) {
        let decoded = decoder.decode(piece, &mut body);
        start += decoded.consumed;
        if decoded.ended {
            return Some((decoder.fault().map_or(Ok(body), Err), input.len() - start));
        }
        assert_eq!(decoded.consumed, piece.len(), "bytes were left though there was no end");
    }
    None
}

fn chunks_oracle(input: &[u8], size_max: u64) -> Result<Vec<u8>, BodyFault> {
    let ends = input.is_empty() || input.ends_with(b"\r\n");
    match fault(&lines(input), input.len() as u64, size_max) {
        Some(fault) => Err(fault),
        None => Ok([input, if ends { b"" } else { b"\r\n" }].concat()),
    }
}

fn chunks(input: &[u8], step: usize, size_max: u64) -> Result<Vec<u8>, BodyFault> {
    let (mut decoder, mut body) = (Decoder::chunks(size_max), Vec::new());
    for piece in input.chunks(step) {
        assert!(!decoder.decode(piece, &mut body).ended, "chunks have no end of their own");
    }
    decoder.finish_chunks(&mut body);
    decoder.fault().map_or(Ok(body), Err)
}

/// The first byte chooses the cuts, the second the size limit (0: none); the rest is the body, with or without its end.
pub fn check(bytes: &[u8]) {
    let [choice, limit, input @ ..] = bytes else { return };
    let size_max = if *limit == 0 { u64::MAX } else { u64::from(*limit) };
    let (want_data, want_chunks) = (data_oracle(input, size_max), chunks_oracle(input, size_max));
    for step in [input.len().max(1), 1, 1 + usize::from(*choice)] {
        assert_eq!(data(input, step, size_max), want_data, "DATA by {step}: {}", input.escape_ascii());
        assert_eq!(chunks(input, step, size_max), want_chunks, "BDAT by {step}: {}", input.escape_ascii());
    }
}
