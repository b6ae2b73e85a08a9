//! A blocking SMTP client that shows every reply.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::SOON;

/// A reply: its code, and the text of all its lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub code: u16,
    pub text: String,
}

impl Reply {
    /// Code and enhanced status as one word each, `550 5.7.1`.
    pub fn starts_with(&self, words: &str) -> bool {
        format!("{} {}", self.code, self.text).starts_with(words)
    }
}

/// One connection.
pub struct Client {
    stream: TcpStream,
    reader: BufReader<TcpStream>,
}

impl Client {
    /// Connects and waits for nothing.
    pub fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("the relay accepts connections");
        stream.set_read_timeout(Some(SOON)).expect("a time-out can be set");
        stream.set_nodelay(true).expect("Nagle can be turned off");
        let reader = BufReader::new(stream.try_clone().expect("a socket can be cloned"));
        Self { stream, reader }
    }

    /// Connects and says EHLO.
    pub fn connect(address: SocketAddr) -> Self {
        let mut client = Self::open(address);
        client.expect_reply(220);
        client.expect("EHLO client.test", 250);
        client
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the relay reads");
    }

    /// The next reply; `None` when the relay has closed.
    pub fn reply(&mut self) -> Option<Reply> {
        let mut texts = Vec::new();
        loop {
            let mut line = String::new();
            if self.reader.read_line(&mut line).ok()? == 0 {
                return None;
            }
            let code = line.get(..3).and_then(|code| code.parse().ok());
            let code = code.unwrap_or_else(|| panic!("no reply: {line:?}"));
            texts.push(line.get(4..).unwrap_or("").trim_end().to_owned());
            if line.as_bytes().get(3) != Some(&b'-') {
                return Some(Reply { code, text: texts.join("\n") });
            }
        }
    }

    /// The next reply, if it begins within `limit`.
    pub fn reply_within(&mut self, limit: Duration) -> Option<Reply> {
        self.stream.set_read_timeout(Some(limit)).expect("a time-out can be set");
        let has_begun = self.reader.fill_buf().is_ok_and(|bytes| !bytes.is_empty());
        self.stream.set_read_timeout(Some(SOON)).expect("a time-out can be set");
        if has_begun { self.reply() } else { None }
    }

    /// The next reply, which must have this code.
    pub fn expect_reply(&mut self, code: u16) -> Reply {
        let reply = self.reply().expect("a reply, not the end");
        assert_eq!(reply.code, code, "{reply:?}");
        reply
    }

    /// The next replies, which must have these codes.
    pub fn expect_replies(&mut self, codes: &[u16]) {
        for code in codes {
            self.expect_reply(*code);
        }
    }

    /// Sends a command line and gives its reply.
    pub fn command(&mut self, line: &str) -> Reply {
        self.send(format!("{line}\r\n").as_bytes());
        self.reply().expect("a reply, not the end")
    }

    /// Sends a command whose reply must have this code.
    pub fn expect(&mut self, line: &str, code: u16) -> Reply {
        let reply = self.command(line);
        assert_eq!(reply.code, code, "{line}: {reply:?}");
        reply
    }

    /// MAIL and RCPTs; an address may have parameters behind it: `a@b.test> NOTIFY=NEVER`.
    pub fn envelope(&mut self, sender: &str, recipients: &[&str]) {
        let path = |address: &str| {
            if address.contains('>') { format!("<{address}") } else { format!("<{address}>") }
        };
        self.expect(&format!("MAIL FROM:{}", path(sender)), 250);
        for recipient in recipients {
            self.expect(&format!("RCPT TO:{}", path(recipient)), 250);
        }
    }

    /// Sends a message with DATA and gives the id that the 250 names. The content has CRLF line ends, the last included.
    pub fn mail(&mut self, sender: &str, recipients: &[&str], content: &[u8]) -> String {
        self.envelope(sender, recipients);
        self.expect("DATA", 354);
        self.send(&stuffed(content));
        queued(&self.expect_reply(250))
    }

    /// Sends a message with BDAT in chunks of `chunk` bytes.
    pub fn mail_in_chunks(
        &mut self,
        sender: &str,
        recipients: &[&str],
        content: &[u8],
        chunk: usize,
    ) -> String {
        self.envelope(sender, recipients);
        for piece in content.chunks(chunk) {
            self.send(format!("BDAT {}\r\n", piece.len()).as_bytes());
            self.send(piece);
            self.expect_reply(250);
        }
        queued(&self.expect("BDAT 0 LAST", 250))
    }
}

/// The id in `2.6.0 Message queued as ID`.
fn queued(reply: &Reply) -> String {
    reply.text.split_once("queued as ").expect("an id").1.to_owned()
}

/// The content with dots doubled at the start of lines, and the final dot.
pub fn stuffed(content: &[u8]) -> Vec<u8> {
    assert!(content.ends_with(b"\r\n"), "DATA needs a last CRLF");
    let mut bytes = Vec::with_capacity(content.len() + 64);
    for line in content.split_inclusive(|byte| *byte == b'\n') {
        if line.starts_with(b".") {
            bytes.push(b'.');
        }
        bytes.extend_from_slice(line);
    }
    bytes.extend_from_slice(b".\r\n");
    bytes
}

/// Content with headers and this text.
pub fn content(subject: &str, text: &str) -> Vec<u8> {
    format!("From: <from@client.test>\r\nSubject: {subject}\r\n\r\n{text}\r\n").into_bytes()
}
