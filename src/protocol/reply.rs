//! PURE. Every reply that a session can give: code, enhanced status and words in one place.
//!
//! A reply that says yes is a constant line, ready to be sent. One that says no is a [`Refusal`], which the driver may
//! make too (relay policy, budgets, a failed commit). Codes: RFC 5321 §4.2; enhanced: RFC 3463, RFC 5248.

use std::borrow::Cow;

use crate::id::MessageId;
use crate::limits::REPLY_TEXT_BYTES_MAX;
use crate::outcome::Enhanced;

/// A 4xx or 5xx reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// 400 to 599.
    pub code: u16,
    /// Enhanced status; its class is that of the code.
    pub enhanced: Enhanced,
    /// One line. Control characters and what is over [`REPLY_TEXT_BYTES_MAX`] bytes are not sent.
    pub text: Cow<'static, str>,
}

impl Refusal {
    /// A refusal in fixed words.
    pub const fn new(code: u16, enhanced: Enhanced, text: &'static str) -> Self {
        Self { code, enhanced, text: Cow::Borrowed(text) }
    }

    /// Whether trying again can help.
    pub fn is_temporary(&self) -> bool {
        self.code < 500
    }

    /// Appends it `times` times: LMTP has one for each recipient (RFC 2033 §4.2).
    pub fn write_each(&self, times: usize, out: &mut Vec<u8>) {
        (0..times).for_each(|_| self.write(out));
    }

    /// Appends `code enhanced text CRLF`.
    pub fn write(&self, out: &mut Vec<u8>) {
        let Enhanced(class, subject, detail) = self.enhanced;
        push_number(out, u64::from(self.code));
        for (mark, number) in [(b' ', u16::from(class)), (b'.', subject), (b'.', detail)] {
            out.push(mark);
            push_number(out, u64::from(number));
        }
        out.push(b' ');
        push_text(out, &self.text);
        out.extend_from_slice(b"\r\n");
    }
}

/// Appends `text` on one line: control characters become spaces, and it is cut at [`REPLY_TEXT_BYTES_MAX`] bytes.
pub fn push_text(out: &mut Vec<u8>, text: &str) {
    let mut letter = [0; 4];
    let mut left = REPLY_TEXT_BYTES_MAX;
    for c in text.chars() {
        let c = if c.is_control() { ' ' } else { c };
        let bytes = c.encode_utf8(&mut letter).as_bytes();
        let Some(rest) = left.checked_sub(bytes.len()) else { return };
        left = rest;
        out.extend_from_slice(bytes);
    }
}

/// Appends `number` in decimal, without the machinery of `fmt`.
pub fn push_number(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Appends a reply of several lines: `code-line` for all but the last, `code line` for that one (RFC 5321 §4.2.1).
pub fn push_lines<'a>(out: &mut Vec<u8>, code: u16, lines: impl IntoIterator<Item = &'a str>) {
    let mut lines = lines.into_iter().peekable();
    while let Some(line) = lines.next() {
        push_number(out, u64::from(code));
        out.push(if lines.peek().is_some() { b'-' } else { b' ' });
        push_text(out, line);
        out.extend_from_slice(b"\r\n");
    }
}

/// 250 to the end of data: from here on the message is ours (RFC 5321 §4.2.5). The word after `queued as` is the id.
pub fn push_queued(out: &mut Vec<u8>, id: MessageId) {
    out.extend_from_slice(b"250 2.6.0 Message queued as ");
    out.extend_from_slice(&id.letters());
    out.extend_from_slice(b"\r\n");
}

/// 250 to a BDAT chunk that is not the last (RFC 3030 §2).
pub fn push_octets_received(out: &mut Vec<u8>, octets: u64) {
    out.extend_from_slice(b"250 2.0.0 ");
    push_number(out, octets);
    out.extend_from_slice(b" octets received\r\n");
}

/// Replies that are the same each time.
pub mod line {
    /// To MAIL.
    pub const SENDER_OK: &[u8] = b"250 2.1.0 Sender ok\r\n";
    /// To RCPT.
    pub const RECIPIENT_OK: &[u8] = b"250 2.1.5 Recipient ok\r\n";
    /// To DATA. No enhanced status with a 3xx (RFC 2034 §4).
    pub const START_DATA: &[u8] = b"354 Send the message, end with CR LF . CR LF\r\n";
    /// To STARTTLS.
    pub const START_TLS: &[u8] = b"220 2.0.0 Ready to start TLS\r\n";
    /// To AUTH: the client is who it says.
    pub const AUTHENTICATED: &[u8] = b"235 2.7.0 Authenticated\r\n";
    /// To RSET.
    pub const RESET: &[u8] = b"250 2.0.0 Reset\r\n";
    /// To NOOP.
    pub const NOTHING_DONE: &[u8] = b"250 2.0.0 Ok\r\n";
    /// To QUIT.
    pub const BYE: &[u8] = b"221 2.0.0 Bye\r\n";
    /// To VRFY: RFC 5321 §3.5.3 wants 252 where addresses are not verified.
    pub const CANNOT_VERIFY: &[u8] = b"252 2.5.0 Send mail, and delivery will be tried\r\n";
    /// To HELP.
    pub const HELP: &[u8] = b"214 2.0.0 RFC 5321. EHLO MAIL RCPT DATA BDAT RSET NOOP QUIT VRFY HELP\r\n";
}

macro_rules! refusals {
    ($($(#[$doc:meta])* $name:ident = $code:literal ($class:literal, $subject:literal, $detail:literal) $text:literal;)*) => {
        $($(#[$doc])* pub const $name: Refusal = Refusal::new($code, Enhanced($class, $subject, $detail), $text);)*
        #[cfg(test)]
        const ALL: &[Refusal] = &[$($name),*];
    };
}

refusals! {
    // --- lines and commands
    /// A command line of more than [`crate::limits::COMMAND_LINE_BYTES_MAX`] bytes.
    LINE_TOO_LONG = 500 (5, 5, 2) "Line too long";
    /// A CR inside a command line.
    BARE_CR = 500 (5, 5, 2) "CR without LF in a command";
    /// DATA behind BODY=BINARYMIME (RFC 3030 §3).
    NEEDS_BDAT = 503 (5, 5, 1) "BODY=BINARYMIME is sent by BDAT";
    /// A LF without CR; the session ends.
    BARE_LF = 521 (5, 5, 2) "LF without CR, closing";
    /// A command that is not text, or no command at all.
    NOT_A_COMMAND = 500 (5, 5, 2) "Not a command";
    /// A word that is no verb.
    UNKNOWN_COMMAND = 500 (5, 5, 1) "Unknown command";
    /// A verb that is known and not offered here.
    NOT_OFFERED = 502 (5, 5, 1) "Command not implemented";
    /// Arguments that do not fit the verb.
    BAD_ARGUMENTS = 501 (5, 5, 4) "Syntax error in arguments";
    /// A parameter of MAIL or RCPT with a value it cannot have, or given twice.
    BAD_PARAMETER = 501 (5, 5, 4) "Syntax error in a parameter";
    /// A parameter of MAIL or RCPT that is not known (RFC 5321 §4.1.1.11).
    UNKNOWN_PARAMETER = 555 (5, 5, 4) "Unknown parameter";
    /// BDAT without a size: where its octets end cannot be known, so the session ends.
    BAD_CHUNK_SIZE = 521 (5, 5, 4) "BDAT needs a size, closing";
    /// A command before EHLO or HELO.
    SAY_HELLO = 503 (5, 5, 1) "Send EHLO first";
    /// MAIL inside a transaction.
    NESTED_MAIL = 503 (5, 5, 1) "A transaction is open already";
    /// RCPT, DATA or BDAT outside a transaction.
    NEED_MAIL = 503 (5, 5, 1) "Send MAIL first";
    /// DATA or BDAT before any RCPT.
    NEED_RECIPIENT = 503 (5, 5, 1) "Send RCPT first";
    /// DATA, MAIL or RCPT between BDAT chunks (RFC 3030 §2).
    CHUNKS_BEGUN = 503 (5, 5, 1) "BDAT has begun";
    /// DATA or BDAT when every RCPT was refused.
    NO_VALID_RECIPIENTS = 554 (5, 5, 1) "No valid recipients";
    /// The client was wrong too often.
    TOO_MANY_ERRORS = 421 (4, 7, 0) "Too many errors, closing";

    // --- logging in (RFC 4954 §6)
    /// A mechanism that is not offered.
    UNKNOWN_MECHANISM = 504 (5, 5, 4) "Unknown authentication mechanism";
    /// A response that is no base64, or not what the mechanism wants.
    BAD_RESPONSE = 501 (5, 5, 2) "Cannot decode the authentication response";
    /// The client gave up by `*`.
    AUTH_CANCELLED = 501 (5, 7, 0) "Authentication cancelled";
    /// AUTH a second time.
    AUTHENTICATED_ALREADY = 503 (5, 5, 1) "Authenticated already";
    /// AUTH in the clear.
    ENCRYPT_FIRST = 538 (5, 7, 11) "Encryption is required: send STARTTLS first";
    /// Wrong password, unknown user: the client must not learn which.
    BAD_CREDENTIALS = 535 (5, 7, 8) "Authentication credentials invalid";
    /// Too many failures of late, or too many that wait.
    AUTH_LATER = 454 (4, 7, 0) "Cannot authenticate now, try later";
    /// MAIL where users must log in.
    AUTH_REQUIRED = 530 (5, 7, 0) "Authentication required";
    /// A sender that the user may not use.
    SENDER_DENIED = 553 (5, 7, 1) "This user may not send from that address";

    // --- addresses
    /// The reverse-path is no path.
    BAD_SENDER = 501 (5, 1, 7) "Syntax error in the sender's address";
    /// The forward-path is no path.
    BAD_RECIPIENT = 501 (5, 1, 3) "Syntax error in the recipient's address";
    /// A non-ASCII address without SMTPUTF8 (RFC 6531 §3.5).
    NEEDS_SMTPUTF8 = 553 (5, 6, 7) "Address needs SMTPUTF8";
    /// More recipients than one transaction may have (RFC 5321 §4.5.3.1.10).
    TOO_MANY_RECIPIENTS = 452 (4, 5, 3) "Too many recipients";

    // --- bodies
    /// More octets than SIZE says, declared or sent (RFC 1870 §6).
    TOO_LARGE = 552 (5, 3, 4) "Message too large";
    /// A CR without LF or a LF without CR in a body.
    BARE_NEWLINE = 550 (5, 6, 11) "CR or LF alone in the message";
    /// A header section of more than [`crate::limits::HEADER_BYTES_MAX`] bytes or
    /// [`crate::limits::HEADER_LINES_MAX`] lines.
    LONG_HEADER = 552 (5, 3, 4) "Header too long, at most 512 KiB and 10000 lines";
    /// [`crate::limits::RECEIVED_HEADERS_MAX`] `Received` fields.
    LOOPING = 554 (5, 4, 6) "Too many Received headers, mail loop";

    // --- local trouble, given by the driver
    /// The process stops.
    SHUTTING_DOWN = 421 (4, 3, 2) "Service is shutting down";
    /// The spool is fenced: nothing can be accepted until a restart.
    OUT_OF_SERVICE = 421 (4, 3, 2) "Storage has failed, try later";
    /// The client was silent too long (RFC 5321 §4.5.3.2.7).
    IDLE_TOO_LONG = 421 (4, 4, 2) "Idle too long, closing";
    /// More connections than the budget allows.
    TOO_MANY_CONNECTIONS = 421 (4, 7, 0) "Too many connections";
    /// Memory or disk is short for now.
    NO_ROOM = 452 (4, 3, 1) "Insufficient system storage";
    /// The log has failed or takes too long.
    NOT_STORED = 451 (4, 3, 0) "Message could not be stored, try again";
    /// XCLIENT from a client that is no proxy of ours.
    NO_PROXY = 550 (5, 7, 0) "XCLIENT is not for you";
    /// A proxy that must say who its client is has not (PROXY protocol).
    PROXY_EXPECTED = 550 (5, 7, 0) "A PROXY header must come first";
    /// Bytes before the banner: whoever does not wait for it is no mail client (RFC 5321 §3.1).
    EARLY_TALK = 554 (5, 5, 1) "Wait for the banner";
    /// A message came more slowly than the least rate.
    TOO_SLOW = 421 (4, 4, 2) "Message comes too slowly, closing";
    /// The client was slow while connections were scarce.
    SCARCE = 421 (4, 4, 2) "Connections are scarce, and you were slow; try again later";
    /// The client may not send to this recipient through us.
    RELAY_DENIED = 550 (5, 7, 1) "Relaying denied";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_has_one_class_and_fits_a_line() {
        for refusal in ALL {
            assert!((400..600).contains(&refusal.code), "{refusal:?}");
            assert_eq!(refusal.code / 100, u16::from(refusal.enhanced.0), "{refusal:?}");
            let mut out = Vec::new();
            refusal.write(&mut out);
            assert!(out.len() <= 512 && out.ends_with(b"\r\n") && out.is_ascii(), "{refusal:?}");
        }
    }

    #[test]
    fn a_refusal_with_hostile_words_stays_one_line() {
        let text = format!("no\r\n250 yes\0{}", "é".repeat(300));
        let refusal = Refusal { code: 550, enhanced: Enhanced(5, 7, 512), text: text.into() };
        let mut out = Vec::new();
        refusal.write(&mut out);
        assert!(out.starts_with("550 5.7.512 no  250 yes é".as_bytes()), "{}", out.escape_ascii());
        assert_eq!(out.iter().filter(|byte| byte.is_ascii_control()).count(), 2);
        assert!(out.len() < 300 && std::str::from_utf8(&out).is_ok());
    }

    #[test]
    fn numbers_are_written_as_fmt_writes_them() {
        for number in [0, 9, 10, 421, 65535, u64::MAX] {
            let mut out = Vec::new();
            push_number(&mut out, number);
            assert_eq!(out, number.to_string().as_bytes());
        }
    }

    #[test]
    fn only_the_last_of_several_lines_has_a_space() {
        let mut out = Vec::new();
        push_lines(&mut out, 250, ["a", "b", "c"]);
        assert_eq!(out, b"250-a\r\n250-b\r\n250 c\r\n");
    }
}
