//! PURE. The session against a reference model: random scripts, the codes of all replies must be equal.
//!
//! The model knows nothing of bytes: it keeps the few facts that RFC 5321, 2033, 3030, 3207 and 6531 speak of, and is written
//! from those, not from the session. 10,000 scripts, or as many as `RINGPOST_MODEL_CASES` says.

use proptest::prelude::*;

use super::super::ERRORS_MAX;
use super::{Driver, Extensions, Options, run_with};

const SIZE_MAX: u64 = 100;
/// Offered, and taken, over TLS alone.
const REQUIRETLS: &str = "<a@b> REQUIRETLS";

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
    /// STARTTLS; eager: more is sent before the reply has come.
    StartTls {
        eager: bool,
    },
    /// What ends the session: bytes and code, if there is one.
    Fatal(&'static str, Option<u16>),
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
    /// Where an input must be cut, and may not be: behind STARTTLS the client waits or does not.
    cuts: Vec<usize>,
    uncut: Vec<usize>,
    lmtp: bool,
    secured: bool,
    hello: bool,
    mail: bool,
    smtputf8: bool,
    binary: bool,
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

    /// Replies at the end of a message: LMTP has one for each recipient.
    fn at_end(&mut self, code: u16) {
        let replies = if self.lmtp { self.recipients } else { 1 };
        self.codes.extend(std::iter::repeat_n(code, replies));
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
        self.at_end(code);
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
                if self.lmtp != text.starts_with("LHLO") {
                    return self.answer(500);
                }
                self.hello = true;
                self.reset();
                self.answer(250);
            }
            Op::StartTls { eager } => self.start_tls(eager),
            Op::Fatal(text, code) => {
                self.input.extend_from_slice(text.as_bytes());
                self.codes.extend(code);
                self.closed = true;
            }
            Op::Mail(text, code) => {
                let code = if text == REQUIRETLS && self.secured { 250 } else { code };
                self.input.extend_from_slice(format!("MAIL FROM:{text}\r\n").as_bytes());
                let code = if !self.hello || self.mail { 503 } else { code };
                if code == 250 {
                    self.mail = true;
                    (self.smtputf8, self.binary) = (text.contains("SMTPUTF8"), text.contains("BINARYMIME"));
                    (self.full, self.broken) = (text.contains("full@"), text.contains("broken@"));
                }
                self.answer(code);
            }
            Op::Rcpt(text, code) => {
                self.input.extend_from_slice(format!("RCPT TO:{text}\r\n").as_bytes());
                let mut code = if !self.mail || self.chunks.is_some() { 503 } else { code };
                if code != 503 {
                    self.tried = true;
                    if text.contains('é') && !self.smtputf8 {
                        code = 553;
                    }
                    code = if self.recipients == 4 && !matches!(code, 501 | 553) { 452 } else { code };
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

    fn start_tls(&mut self, eager: bool) {
        self.input.extend_from_slice(b"STARTTLS\r\n");
        let refusal = match (self.secured, self.hello, self.mail) {
            (true, ..) => Some(502),
            (_, false, _) | (.., true) => Some(503),
            _ => None,
        };
        if let Some(code) = refusal {
            return self.answer(code);
        }
        self.codes.push(220);
        if eager {
            self.uncut.push(self.input.len());
            self.input.extend_from_slice(b"MAIL FROM:<evil@b>\r\n");
            self.closed = true;
        } else {
            self.cuts.push(self.input.len());
            self.reset();
            (self.secured, self.hello, self.errors) = (true, false, 0);
        }
    }

    fn data(&mut self, text: Text) {
        self.input.extend_from_slice(b"DATA\r\n");
        if let Some(code) = self.order(true).or(self.chunks.map(|_| 503)) {
            return self.answer(code);
        }
        if self.binary {
            return self.answer(503);
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
            Text::BareLf => self.at_end(550),
            Text::TooLong => self.at_end(552),
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
            self.fail_chunk(code, last);
        } else if self.chunks.is_none() && self.full {
            self.fail_chunk(452, last);
        } else if text == Text::BareLf && !self.binary {
            if last {
                self.at_end(550);
            } else {
                self.codes.push(550);
            }
            self.reset();
        } else if last {
            self.complete();
        } else {
            self.chunks = Some(size);
            self.codes.push(250);
        }
    }

    /// A chunk that fails before its octets are looked at.
    fn fail_chunk(&mut self, code: u16, last: bool) {
        if last && self.lmtp && self.recipients > 1 {
            self.codes.extend(std::iter::repeat_n(code, self.recipients - 1));
        }
        self.reset();
        self.answer(code);
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
            Op::Plain("EXPN a\r\n", 502), Op::Plain("AUTH PLAIN\r\n", 502),
            Op::Plain("WHAT\r\n", 500), Op::Plain("\r\n", 500), Op::Plain("NOOP\rx\r\n", 500), Op::Plain("RSET x\r\n", 501),
            Op::Plain("QUIT x\r\n", 501), Op::Plain("VRFY\r\n", 501),
        ]),
        3 => prop::sample::select(vec![Op::Hello("EHLO c\r\n"), Op::Hello("helo c\r\n"), Op::Hello("LHLO c\r\n")]),
        1 => any::<bool>().prop_map(|eager| Op::StartTls { eager }),
        6 => prop::sample::select(vec![
            Op::Mail("<a@b>", 250), Op::Mail("<>", 250), Op::Mail("<full@b> SIZE=100", 250), Op::Mail("<broken@b>", 250),
            Op::Mail("<denied@b>", 550), Op::Mail("<a@b> SIZE=101", 552), Op::Mail("<a@b> X=1", 555), Op::Mail("<a", 501),
            Op::Mail("<a@b> BODY=8BITMIME RET=FULL ENVID=x", 250), Op::Mail("<a@b> BODY=BINARYMIME", 250),
            Op::Mail("<é@b> SMTPUTF8", 250), Op::Mail("<é@b>", 553), Op::Mail("<a@b> SMTPUTF8 SMTPUTF8", 501),
            Op::Mail(REQUIRETLS, 555), Op::Mail("<a@b> SIZE=x", 501),
        ]),
        8 => prop::sample::select(vec![
            Op::Rcpt("<a@b>", 250), Op::Rcpt("<postmaster>", 250), Op::Rcpt("<c@d>", 250), Op::Rcpt("<denied@b>", 550),
            Op::Rcpt("<later@b>", 452), Op::Rcpt("<>", 501), Op::Rcpt("<é@b>", 250),
            Op::Rcpt("<a@b> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;a", 250), Op::Rcpt("<a@b> NOTIFY=NEVER,DELAY", 501),
        ]),
        4 => text().prop_map(Op::Data),
        4 => (text(), any::<bool>()).prop_map(|(text, last)| Op::Bdat(text, last)),
        1 => Just(Op::Rset),
        1 => prop::sample::select(vec![
            Op::Quit, Op::Rset, Op::Rset, Op::Rset, Op::Fatal("NOOP\n", Some(521)), Op::Fatal("BDAT -1\r\n", Some(521)),
            Op::Fatal("GET / HTTP/1.1\r\n", None),
        ]),
    ]
}

/// Codes of the replies in `out`, the banner left out.
fn codes(out: &str) -> Vec<u16> {
    let last = out.lines().filter(|line| line.as_bytes().get(3) == Some(&b' '));
    last.skip(1).map(|line| line[..3].parse().unwrap()).collect()
}

/// Scripts to try.
fn cases() -> u32 {
    std::env::var("RINGPOST_MODEL_CASES").map_or(10_000, |cases| cases.parse().expect("a number of scripts"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]
    #[test]
    fn random_scripts_get_the_codes_of_the_model(
        ops in proptest::collection::vec(op(), 0..60),
        greet in any::<bool>(),
        lmtp in prop::bool::weighted(0.3),
        cuts in proptest::collection::vec(0usize..2000, 0..6),
    ) {
        let mut model = Model { lmtp, ..Model::default() };
        if greet {
            model.apply(Op::Hello(if lmtp { "LHLO c\r\n" } else { "EHLO c\r\n" }));
        }
        for op in ops {
            model.apply(op);
        }
        let mut cuts: Vec<usize> = cuts.into_iter().filter(|cut| !model.uncut.contains(cut)).collect();
        cuts.extend(&model.cuts);
        cuts.sort_unstable();
        let options = Options::new("mx.test", SIZE_MAX, 4, Extensions::default()).with_starttls();
        let options = if lmtp { options.with_lmtp() } else { options };
        let (out, messages, closed) = run_with(Driver::with(options), &model.input, &cuts);
        prop_assert_eq!(codes(&out), model.codes, "{}", String::from_utf8_lossy(&model.input));
        prop_assert_eq!(messages.len(), model.messages);
        prop_assert_eq!(closed, model.closed);
    }
}
