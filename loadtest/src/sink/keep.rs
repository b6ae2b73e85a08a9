//! Whole messages on disk, for other programs to read: a Maildir, or one file in mbox form. As a delivery agent writes
//! them: behind Return-Path and Delivered-To, with LF line ends. Nothing is synced.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::wire::template::date;

/// Where messages are kept. Shared by threads.
#[derive(Debug)]
pub enum Keeper {
    /// A file for each message, in `new`.
    Maildir {
        /// The directory that holds `tmp`, `new` and `cur`.
        directory: PathBuf,
        /// Messages so far: part of their names.
        count: AtomicU64,
    },
    /// All in one file, behind `From ` lines; lines of theirs that look so get a `>` (mboxrd).
    Mbox(Mutex<File>),
}

impl Keeper {
    /// Opens what is there or makes it: a file if the name ends in `.mbox`, else a Maildir.
    pub fn open(path: &Path) -> io::Result<Self> {
        if path.extension().is_some_and(|extension| extension == "mbox") {
            return Ok(Self::Mbox(Mutex::new(File::options().append(true).create(true).open(path)?)));
        }
        for part in ["tmp", "new", "cur"] {
            fs::create_dir_all(path.join(part))?;
        }
        Ok(Self::Maildir { directory: path.to_owned(), count: AtomicU64::new(0) })
    }

    /// Keeps a message that came at `time` since 1970 with this envelope.
    pub fn keep(&self, envelope: &[u8], content: &[u8], time: Duration) -> io::Result<()> {
        match self {
            Self::Maildir { directory, count } => {
                let name = format!(
                    "{}.M{}P{}Q{}.sink",
                    time.as_secs(),
                    time.subsec_micros(),
                    std::process::id(),
                    count.fetch_add(1, Ordering::Relaxed)
                );
                let unfinished = directory.join("tmp").join(&name);
                fs::write(&unfinished, [local(envelope), local(content)].concat())?;
                fs::rename(unfinished, directory.join("new").join(name))
            }
            Self::Mbox(file) => {
                let entry = mbox(envelope, content, time);
                file.lock().unwrap_or_else(PoisonError::into_inner).write_all(&entry)
            }
        }
    }
}

/// CRLF becomes LF.
fn local(text: &[u8]) -> Vec<u8> {
    let line = |line: &[u8]| match line.strip_suffix(b"\r\n") {
        Some(line) => [line, b"\n"].concat(),
        None => line.to_vec(),
    };
    text.split_inclusive(|byte| *byte == b'\n').flat_map(line).collect()
}

/// One entry of an mbox file, its separators included.
fn mbox(envelope: &[u8], content: &[u8], time: Duration) -> Vec<u8> {
    let sender =
        envelope.strip_prefix(b"Return-Path: <").and_then(|rest| rest.split(|byte| *byte == b'>').next());
    let sender = sender.filter(|sender| !sender.is_empty()).unwrap_or(b"MAILER-DAEMON");
    let date = date(time.as_secs());
    // `Thu, 01 Jan 1970 00:00:00 +0000` as ctime(3) has it: `Thu Jan  1 00:00:00 1970`.
    let words: Vec<&str> = date.split([',', ' ']).filter(|word| !word.is_empty()).collect();
    let ctime = match words.as_slice() {
        [weekday, day, month, year, clock, _] => {
            format!("{weekday} {month} {:>2} {clock} {year}", day.trim_start_matches('0'))
        }
        _ => date.clone(),
    };
    let mut entry = [b"From ", sender, b" ", ctime.as_bytes(), b"\n"].concat();
    for part in [envelope, content] {
        for line in local(part).split_inclusive(|byte| *byte == b'\n') {
            let quotes = line.iter().take_while(|byte| **byte == b'>').count();
            if line[quotes..].starts_with(b"From ") {
                entry.push(b'>');
            }
            entry.extend_from_slice(line);
        }
    }
    if !entry.ends_with(b"\n") {
        entry.push(b'\n');
    }
    entry.push(b'\n');
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENVELOPE: &[u8] = b"Return-Path: <a@x.invalid>\r\nDelivered-To: b@y.invalid\r\n";

    #[test]
    fn an_mbox_entry_hides_its_own_separators_and_ends_in_an_empty_line() {
        let entry = mbox(ENVELOPE, b"Subject: s\r\n\r\nFrom me\r\n>From you\r\nend", Duration::from_secs(0));
        let want = "From a@x.invalid Thu Jan  1 00:00:00 1970\nReturn-Path: <a@x.invalid>\nDelivered-To: b@y.invalid\n\
                    Subject: s\n\n>From me\n>>From you\nend\n\n";
        assert_eq!(String::from_utf8_lossy(&entry), want);
        assert!(mbox(b"Return-Path: <>\r\n", b"", Duration::ZERO).starts_with(b"From MAILER-DAEMON Thu"));
    }

    #[test]
    fn a_maildir_gets_a_file_for_each_message_and_nothing_stays_in_tmp() -> io::Result<()> {
        let directory = std::env::temp_dir().join(format!("ringpost-load-maildir-{}", std::process::id()));
        let keeper = Keeper::open(&directory)?;
        for text in ["one\r\n\r\n", "two\r\n\r\n.\r\n"] {
            keeper.keep(ENVELOPE, text.as_bytes(), Duration::from_secs(7))?;
        }
        let mut texts: Vec<String> = Vec::new();
        for entry in fs::read_dir(directory.join("new"))? {
            texts.push(fs::read_to_string(entry?.path())?);
        }
        texts.sort();
        assert!(texts[0].ends_with("b@y.invalid\none\n\n") && texts[1].ends_with("two\n\n.\n"), "{texts:?}");
        assert_eq!((texts.len(), fs::read_dir(directory.join("tmp"))?.count()), (2, 0));
        fs::remove_dir_all(directory)
    }
}
