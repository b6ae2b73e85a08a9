//! The sequences of `tests/smuggling/sequences.txt`, each between a text and a second message that hides behind it, cut at
//! every place: nobody sees a message that the client did not send. `tests/tier_b/smuggling.py` sends the same ones
//! through this relay and a real Postfix.

use super::{Driver, ENVELOPE, TRACE, run};
use crate::protocol::body::Decoder;
use crate::protocol::stuff::Stuffer;

const SIZE_MAX: u64 = 1 << 20;
const SEQUENCES: &str = include_str!("../../../../tests/smuggling/sequences.txt");
const HIDDEN: &[u8] =
    b"MAIL FROM:<evil@b.test>\r\nRCPT TO:<victim@d.test>\r\nDATA\r\nSubject: hidden\r\n\r\nhidden";

/// Bytes of a line of the file.
fn unescape(text: &str) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((&byte, behind)) = rest.split_first() {
        let (value, used) = match (byte, behind.first()) {
            (b'\\', Some(b'r')) => (b'\r', 2),
            (b'\\', Some(b'n')) => (b'\n', 2),
            (b'\\', Some(b't')) => (b'\t', 2),
            (b'\\', Some(b'0')) => (0, 2),
            (b'\\', Some(b'\\')) => (b'\\', 2),
            (b'\\', Some(b'x')) => {
                (u8::from_str_radix(&text[text.len() - rest.len()..][2..4], 16).unwrap(), 4)
            }
            (b'\\', _) => panic!("{text}: an unknown escape"),
            (byte, _) => (byte, 1),
        };
        out.push(value);
        rest = &rest[used..];
    }
    out
}

/// Each sequence, and whether it is an end of data by RFC 5321.
fn sequences() -> Vec<(Vec<u8>, bool)> {
    let lines = SEQUENCES.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let one = |line: &str| match line.strip_prefix("end ") {
        Some(sequence) => (unescape(sequence), true),
        None => (unescape(line), false),
    };
    lines.map(one).collect()
}

/// `body` as it goes out by DATA, and what a receiver makes of it that knows the one end and nothing of our decoder.
fn sent(body: &[u8]) -> Vec<u8> {
    let (mut stuffer, mut wire) = (Stuffer::default(), Vec::new());
    stuffer.piece(body, &mut wire);
    stuffer.finish(&mut wire);
    wire
}

fn received(wire: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(wire);
    assert_eq!(
        format!("\r\n{text}").find("\r\n.\r\n"),
        Some(text.len() - 3),
        "an end before the end: {text:?}"
    );
    for lone in ["\n.", "\r."] {
        // Whatever a lenient receiver takes for a line end, no lone dot stands behind it.
        assert_eq!(
            text.matches(lone).count() - text.matches("\r\n.").count() * usize::from(lone == "\n."),
            0
        );
    }
    let (mut decoder, mut body) = (Decoder::data(SIZE_MAX), Vec::new());
    assert!(decoder.decode(wire, &mut body).ended && decoder.fault().is_none());
    body
}

#[test]
fn no_sequence_smuggles_a_message_however_it_is_cut() {
    let sequences = sequences();
    assert!(sequences.len() >= 120, "only {}", sequences.len());
    let mut kept = 0;
    for (sequence, ends) in sequences {
        let text = [b"Subject: shown\r\n\r\nshown", sequence.as_slice(), HIDDEN].concat();
        let input = [ENVELOPE.as_bytes(), b"DATA\r\n", &text, b"\r\n.\r\nQUIT\r\n"].concat();
        let name = sequence.escape_ascii();
        let want = run(SIZE_MAX, &input, &[]);
        let (out, messages, closed) = &want;
        assert!(*closed && out.ends_with("221 2.0.0 Bye\r\n"), "{name}: out of step: {out}");
        let evil = messages.iter().filter(|(envelope, _)| envelope.starts_with("evil@")).count();
        assert_eq!(evil, usize::from(ends), "{name}: {out}");
        let plain = String::from_utf8_lossy(&text).replace("\r\n", "").contains(['\r', '\n']);
        if !ends {
            assert_eq!(messages.is_empty(), plain, "{name}: refused if and only if a CR or LF stands alone");
        }
        for (_, body) in messages {
            assert_eq!(&received(&sent(body)), body, "{name}: stored and received");
            kept += 1;
        }
        if let [(_, body)] = messages.as_slice()
            && !ends
        {
            let lines = text.split_inclusive(|byte| *byte == b'\n');
            let unstuffed: Vec<u8> =
                lines.flat_map(|line| line.strip_prefix(b".").unwrap_or(line)).copied().collect();
            assert_eq!(body, &[TRACE.as_bytes(), &unstuffed, b"\r\n"].concat(), "{name}: sent and stored");
        }
        let every: Vec<usize> = (1..input.len()).collect();
        assert_eq!(run(SIZE_MAX, &input, &every), want, "{name}: byte by byte");
        for cut in every {
            assert_eq!(run(SIZE_MAX, &input, &[cut]), want, "{name}: cut at {cut}");
        }
    }
    assert!(kept > 20, "only {kept} were no offence and could be compared");
}

#[test]
fn no_chunk_is_read_for_its_ends_of_data() {
    for (sequence, _) in sequences() {
        let text = [b"Subject: shown\r\n\r\nshown", sequence.as_slice(), HIDDEN, b"\r\n"].concat();
        let chunk = [format!("BDAT {} LAST\r\n", text.len()).as_bytes(), &text, b"QUIT\r\n"].concat();
        let binary = ENVELOPE.replace("a@b.test>", "a@b.test> BODY=BINARYMIME");
        for envelope in [ENVELOPE, &binary] {
            let mut driver = Driver::new(SIZE_MAX);
            driver.feed(&[envelope.as_bytes(), &chunk].concat());
            let name = sequence.escape_ascii();
            assert!(driver.closed && driver.messages.len() <= 1, "{name}");
            for (sender, body) in &driver.messages {
                assert!(sender.starts_with("a@b.test") && body.ends_with(&text), "{name}");
            }
            assert!(envelope == ENVELOPE || driver.messages.len() == 1, "{name}: binary octets are kept");
        }
    }
}
