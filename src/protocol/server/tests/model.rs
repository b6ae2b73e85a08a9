//! PURE. The session against a reference model: random scripts, the codes of all replies must be equal.
//!
//! The model knows nothing of bytes: it keeps the few facts that RFC 5321 and RFC 3030 speak of, and is written from
//! those, not from the session.

use proptest::prelude::*;

use super::super::ERRORS_MAX;
use super::run;

const SIZE_MAX: u64 = 100;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Text {
    Good,
    BareLf,
    TooLong,
}

#[derive(Clone, Copy, Debug)]
enum Op {
    /// Always allowed: bytes and code.
    Plain(&'static str, u16),
    Hello(&'static str),
    /// MAIL: parameters behind the path, code if the order is right.
    Mail(&'static str, u16),
    Rcpt(&'static str, u16),
    Data(Text),
    Bdat(Text, bool),
    Rset,
    Quit,
}

#[derive(Default)]
struct Model {
    input: Vec<u8>,
    codes: Vec<u16>,
    hello: bool,
    mail: bool,
    tried: bool,
    recipients: usize,
    /// Octets so far, and whether the last text was good.
    chunks: Option<u64>,
    full: bool,
    broken: bool,
    errors: u32,
    messages: usize,
    closed: bool,
}

impl Model {
    fn answer(&mut self, code: u16) {
        self.codes.push(code);
        self.errors += u32::from(code >= 500);
        if self.errors >= ERRORS_MAX {
            self.codes.push(421);
            self.closed = true;
        }
    }

    fn reset(&mut self) {
        (self.mail, self.tried, self.recipients, self.chunks) = (false, false, 0, None);
    }

    fn order(&self, wants_recipient: bool) -> Option<u16> {
        match (self.mail, self.tried, self.recipients) {
            (false, ..) => Some(503),
            (true, false, 0) if wants_recipient => Some(503),
            (true, true, 0) if wants_recipient => Some(554),
            _ => None,
        }
    }

    /// End of a message that has arrived in full: bodies that the client got wrong do not count as its errors.
    fn complete(&mut self) {
        let code = if self.broken { 451 } else { 250 };
        self.codes.push(code);
        if code == 250 {
            self.errors = 0;
            self.messages += 1;
        }
        self.reset();
    }

    fn apply(&mut self, op: Op) {
        if self.closed {
            return;
        }
        match op {
            Op::Plain(text, code) => {
                self.input.extend_from_slice(text.as_bytes());
                self.answer(code);
            }
            Op::Hello(text) => {
                self.input.extend_from_slice(text.as_bytes());
                self.hello = true;
                self.reset();
                self.answer(250);
            }
            Op::Mail(text, code) => {
                self.input.extend_from_slice(format!("MAIL FROM:{text}\r\n").as_bytes());
                let code = if !self.hello || self.mail { 503 } else { code };
                if code == 250 {
                    self.mail = true;
                    (self.full, self.broken) = (text.contains("full@"), text.contains("broken@"));
                }
                self.answer(code);
            }
            Op::Rcpt(text, code) => {
                self.input.extend_from_slice(format!("RCPT TO:{text}\r\n").as_bytes());
                let mut code = if !self.mail || self.chunks.is_some() { 503 } else { code };
                if code != 503 {
                    self.tried = true;
                    code = if self.recipients == 4 && code != 501 { 452 } else { code };
                }
                self.recipients += usize::from(code == 250);
                self.answer(code);
            }
            Op::Data(text) => self.data(text),
            Op::Bdat(text, last) => self.bdat(text, last),
            Op::Rset => {
                self.input.extend_from_slice(b"RSET\r\n");
                self.reset();
                self.answer(250);
            }
            Op::Quit => {
                self.input.extend_from_slice(b"QUIT\r\n");
                self.codes.push(221);
                self.closed = true;
            }
        }
    }

    fn data(&mut self, text: Text) {
        self.input.extend_from_slice(b"DATA\r\n");
        if let Some(code) = self.order(true).or(self.chunks.map(|_| 503)) {
            return self.answer(code);
        }
        if self.full {
            self.reset();
            return self.codes.push(452);
        }
        self.codes.push(354);
        self.input.extend_from_slice(octets(text).as_bytes());
        self.input.extend_from_slice(b"\r\n.\r\n");
        match text {
            Text::Good => return self.complete(),
            Text::BareLf => self.codes.push(550),
            Text::TooLong => self.codes.push(552),
        }
        self.reset();
    }

    fn bdat(&mut self, text: Text, last: bool) {
        let octets = octets(text);
        let last_word = if last { " LAST" } else { "" };
        self.input.extend_from_slice(format!("BDAT {}{last_word}\r\n{octets}", octets.len()).as_bytes());
        let size = self.chunks.unwrap_or(0) + octets.len() as u64;
        let order = if self.hello { self.order(true) } else { Some(503) };
        if let Some(code) = order.or((size > SIZE_MAX).then_some(552)) {
            self.reset();
            self.answer(code);
        } else if self.chunks.is_none() && self.full {
            self.reset();
            self.answer(452);
        } else if text == Text::BareLf {
            self.reset();
            self.codes.push(550);
        } else if last {
            self.complete();
        } else {
            self.chunks = Some(size);
            self.codes.push(250);
        }
    }
}

fn octets(text: Text) -> String {
    match text {
        Text::Good => "QUIT\r\nhello\r\n".into(),
        Text::BareLf => "QUIT\nhello\r\n".into(),
        Text::TooLong => "DATA\r\n".repeat(30),
    }
}

fn op() -> impl Strategy<Value = Op> {
    let text = || prop_oneof![4 => Just(Text::Good), 1 => Just(Text::BareLf), 1 => Just(Text::TooLong)];
    prop_oneof![
        4 => prop::sample::select(vec![
            Op::Plain("NOOP\r\n", 250), Op::Plain("NOOP x\r\n", 250), Op::Plain("VRFY a\r\n", 252), Op::Plain("HELP\r\n", 214),
            Op::Plain("EXPN a\r\n", 502), Op::Plain("STARTTLS\r\n", 502), Op::Plain("AUTH PLAIN\r\n", 502),
            Op::Plain("WHAT\r\n", 500), Op::Plain("\r\n", 500), Op::Plain("NOOP\rx\r\n", 500), Op::Plain("RSET x\r\n", 501),
            Op::Plain("EHLO\r\n", 501), Op::Plain("QUIT x\r\n", 501), Op::Plain("VRFY\r\n", 501),
        ]),
        2 => prop::sample::select(vec![Op::Hello("EHLO c\r\n"), Op::Hello("helo c\r\n")]),
        6 => prop::sample::select(vec![
            Op::Mail("<a@b>", 250), Op::Mail("<>", 250), Op::Mail("<full@b> SIZE=100", 250), Op::Mail("<broken@b>", 250),
            Op::Mail("<denied@b>", 550), Op::Mail("<a@b> SIZE=101", 552), Op::Mail("<a@b> X=1", 555), Op::Mail("<a", 501),
        ]),
        8 => prop::sample::select(vec![
            Op::Rcpt("<a@b>", 250), Op::Rcpt("<postmaster>", 250), Op::Rcpt("<c@d>", 250), Op::Rcpt("<denied@b>", 550),
            Op::Rcpt("<later@b>", 452), Op::Rcpt("<>", 501),
        ]),
        4 => text().prop_map(Op::Data),
        4 => (text(), any::<bool>()).prop_map(|(text, last)| Op::Bdat(text, last)),
        1 => Just(Op::Rset),
        1 => prop::sample::select(vec![Op::Quit, Op::Rset, Op::Rset]),
    ]
}

/// Codes of the replies in `out`, the banner left out.
fn codes(out: &str) -> Vec<u16> {
    let last = out.lines().filter(|line| line.as_bytes().get(3) == Some(&b' '));
    last.skip(1).map(|line| line[..3].parse().unwrap()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]
    #[test]
    fn random_scripts_get_the_codes_of_the_model(
        ops in proptest::collection::vec(op(), 0..60),
        greet in any::<bool>(),
        cuts in proptest::collection::vec(0usize..2000, 0..6),
    ) {
        let mut model = Model::default();
        if greet {
            model.apply(Op::Hello("EHLO c\r\n"));
        }
        for op in ops {
            model.apply(op);
        }
        let mut cuts = cuts;
        cuts.sort_unstable();
        let (out, messages, closed) = run(SIZE_MAX, &model.input, &cuts);
        prop_assert_eq!(codes(&out), model.codes, "{}", String::from_utf8_lossy(&model.input));
        prop_assert_eq!(messages.len(), model.messages);
        prop_assert_eq!(closed, model.closed);
    }
}
