//! Runs `tests/transcripts/*.txt`: sessions as text.
//!
//! ```text
//! # remark                     C: line, sent with CR LF        C= raw bytes: \r \n \0 \\ and nothing added
//! S: reply line, by its start  S. the connection is closed     M: sender > recipients | body with \r \n, trace left out
//! ```
//! Each is run line by line, where every reply must have come by the next line of the client, then whole and byte by
//! byte, with the same result. Messages may be at most 200 octets, transactions have at most 4 recipients.

use super::{Driver, TRACE, run};

const SIZE_MAX: u64 = 200;

fn unescape(text: &str) -> Vec<u8> {
    let text = text.replace("\\r", "\r").replace("\\n", "\n").replace("\\0", "\0").replace("\\\\", "\\");
    text.into_bytes()
}

fn run_transcript(name: &str, text: &str) {
    let (mut driver, mut input, mut seen) = (Driver::new(SIZE_MAX), Vec::new(), 0);
    let mut messages = 0;
    for (number, line) in text.lines().enumerate() {
        let place = format!("{name}:{}", number + 1);
        let (kind, rest) = line.split_at_checked(2).unwrap_or((line, ""));
        let rest = rest.strip_prefix(' ').unwrap_or(rest);
        let pending = String::from_utf8(driver.out[seen..].to_vec()).unwrap();
        match kind {
            "C:" | "C=" => {
                assert_eq!(pending, "", "{place}: replies that the transcript does not have");
                let bytes = if kind == "C:" { format!("{rest}\r\n").into_bytes() } else { unescape(rest) };
                driver.feed(&bytes);
                input.extend(bytes);
            }
            "S:" => {
                let end = pending.find("\r\n").unwrap_or_else(|| panic!("{place}: no reply"));
                assert!(pending[..end].starts_with(rest), "{place}: got {:?}", &pending[..end]);
                seen += end + 2;
            }
            "S." => assert!(driver.closed && pending.is_empty(), "{place}: not closed, or after {pending:?}"),
            "M:" => {
                let (envelope, body) = rest.split_once(" | ").unwrap_or((rest, ""));
                let message = driver.messages.get(messages).unwrap_or_else(|| panic!("{place}: no message"));
                assert_eq!(message.0, envelope, "{place}");
                let body = [TRACE.as_bytes(), &unescape(body)].concat();
                assert_eq!(message.1.escape_ascii().to_string(), body.escape_ascii().to_string(), "{place}");
                messages += 1;
            }
            _ => assert!(line.is_empty() || line.starts_with('#'), "{place}: not understood: {line:?}"),
        }
    }
    assert_eq!(String::from_utf8_lossy(&driver.out[seen..]), "", "{name}: replies behind its end");
    assert_eq!(driver.messages.len(), messages, "{name}: messages that the transcript does not have");
    let want = (String::from_utf8(driver.out).unwrap(), driver.messages, driver.closed);
    assert_eq!(run(SIZE_MAX, &input, &[]), want, "{name}, whole");
    assert_eq!(run(SIZE_MAX, &input, &(0..input.len()).collect::<Vec<_>>()), want, "{name}, byte by byte");
}

#[test]
fn transcripts_come_out_as_written() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/transcripts");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "txt") {
            run_transcript(
                &path.file_name().unwrap().to_string_lossy(),
                &std::fs::read_to_string(&path).unwrap(),
            );
            count += 1;
        }
    }
    assert!(count >= 6, "only {count} transcripts were found");
}
