//! Any client: how its bytes are cut changes nothing, and the driver is never asked for the impossible.

use ringpost::clock::WallTime;
use ringpost::envelope::Parameters;
use ringpost::id::{MessageId, PartId};
use ringpost::limits::{BODY_INLINE_BYTES_MAX, COMMAND_LINE_BYTES_MAX};
use ringpost::protocol::extension::Extensions;
use ringpost::protocol::reply::{self, Refusal};
use ringpost::protocol::sasl::Secrets;
use ringpost::protocol::server::{AuthOffer, Options, Policy, Session, Want};

/// Decides by the first letter, so that an input can reach each answer.
struct ByLetter;

impl Secrets for ByLetter {}

impl Policy for ByLetter {
    fn mail(&mut self, sender: &str, _: &Parameters, _: Option<u64>) -> Result<(), Refusal> {
        if sender.starts_with('d') { Err(reply::RELAY_DENIED) } else { Ok(()) }
    }

    fn recipient(&mut self, mailbox: &str) -> Result<(), Refusal> {
        match mailbox.as_bytes().first() {
            Some(b'd') => Err(reply::RELAY_DENIED),
            Some(b'l') => Err(reply::NO_ROOM),
            _ => Ok(()),
        }
    }
}

/// What came of a session.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    out: Vec<u8>,
    /// Envelope and body of each message.
    messages: Vec<(Vec<u8>, Vec<u8>)>,
    closed: bool,
}

struct Driver<'a> {
    options: &'a Options,
    session: Session,
    received: Vec<u8>,
    body: Vec<u8>,
    body_is_open: bool,
    seen: Seen,
}

impl Driver<'_> {
    fn feed(&mut self, bytes: &[u8]) {
        self.received.extend_from_slice(bytes);
        while !self.seen.closed {
            let (used, want) = self.session.step(
                self.options,
                &mut ByLetter,
                &self.received,
                &mut self.seen.out,
                &mut self.body,
            );
            self.received.drain(..used);
            assert!(self.body.len() <= BODY_INLINE_BYTES_MAX, "the body outgrows its buffer");
            match want {
                Want::Read => {
                    assert!(
                        self.received.len() < COMMAND_LINE_BYTES_MAX,
                        "a full buffer would wait for ever"
                    );
                    return;
                }
                Want::BeginBody => self.begin_body(),
                Want::Chunk => self.body.clear(),
                Want::Commit => self.commit(),
                Want::Discard => {
                    self.body_is_open = false;
                    self.body.clear();
                }
                // Half of the users there may be.
                Want::Authenticate => {
                    let holds = format!("{:?}", self.session.claim()).len() % 2 == 0;
                    let result = if holds { Ok("user") } else { Err(reply::BAD_CREDENTIALS) };
                    self.session.authenticated(result, &mut self.seen.out);
                }
                Want::StartTls if !self.received.is_empty() => self.seen.closed = true,
                Want::StartTls => {
                    self.session.tls_established();
                    self.session.offer_auth(AuthOffer::PasswordsAndCertificate);
                }
                Want::NewClient => {
                    self.session.introduce();
                    assert_eq!(self.session.user(), None, "a login of whoever was here before");
                    self.session.offer_xclient();
                    self.session.offer_auth(AuthOffer::Passwords);
                    self.session.banner(self.options, &mut self.seen.out);
                }
                Want::Close => self.seen.closed = true,
            }
        }
    }

    fn begin_body(&mut self) {
        assert!(!self.body_is_open, "a body was given up silently");
        self.body.clear();
        if self.session.envelope().sender().starts_with('f') {
            return self.session.refuse_body(reply::NO_ROOM, &mut self.seen.out);
        }
        self.body_is_open = true;
    }

    fn commit(&mut self) {
        assert!(self.body_is_open, "a message is complete that never began");
        self.body_is_open = false;
        let envelope = self.session.envelope().encode(WallTime(1), WallTime(2));
        assert!(envelope.recipients().next().is_some(), "a message to nobody");
        let body = std::mem::take(&mut self.body);
        let text = [b"\n", body.as_slice()].concat();
        let bare = |pair: &[u8]| (pair[0] == b'\r') != (pair[1] == b'\n') && pair[0] != pair[1];
        let is_binary = envelope.parameters().binary;
        let is_plain =
            is_binary || body.is_empty() || body.ends_with(b"\r\n") && !text[1..].windows(2).any(bare);
        assert!(is_plain, "a body with a bare newline: {}", body.escape_ascii());
        if envelope.sender().starts_with('b') {
            return self.session.committed(Err(reply::NOT_STORED), &mut self.seen.out);
        }
        self.seen.messages.push((envelope.as_bytes().to_vec(), body));
        let id = MessageId::new(PartId(0), self.seen.messages.len() as u64);
        self.session.committed(Ok(id), &mut self.seen.out);
    }
}

fn run(options: &Options, input: &[u8], step: usize) -> Seen {
    let mut driver = Driver {
        options,
        session: Session::new(),
        received: Vec::new(),
        body: Vec::new(),
        body_is_open: false,
        seen: Seen::default(),
    };
    driver.session.offer_xclient();
    driver.session.offer_auth(AuthOffer::Passwords);
    driver.session.banner(options, &mut driver.seen.out);
    for piece in input.chunks(step) {
        driver.feed(piece);
    }
    driver.seen
}

/// Lines of three digits and text, each with CR LF.
fn is_replies(out: &[u8]) -> bool {
    let Some(out) = out.strip_suffix(b"\r\n") else { return false };
    String::from_utf8_lossy(out).split("\r\n").all(|line| {
        let code = line.get(..3).is_some_and(|code| code.bytes().all(|byte| byte.is_ascii_digit()));
        code && matches!(line.as_bytes().get(3), Some(b' ' | b'-')) && !line.contains(['\r', '\n'])
    })
}

/// The first byte chooses how the input is cut; the rest is what the client sends.
pub fn check(bytes: &[u8]) {
    let Some((&choice, input)) = bytes.split_first() else { return };
    for size_max in [60, 1 << 20] {
        let options = Options::new("mx.test", size_max, 4, Extensions::default());
        let whole = run(&options, input, input.len().max(1));
        assert!(is_replies(&whole.out), "{}", whole.out.escape_ascii());
        for step in [1, 1 + usize::from(choice)] {
            assert_eq!(run(&options, input, step), whole, "in pieces of {step}: {}", input.escape_ascii());
        }
    }
    let options = Options::new("mx.test", 60, 4, Extensions::default()).with_lmtp();
    let whole = run(&options, input, input.len().max(1));
    assert_eq!(run(&options, input, 1 + usize::from(choice)), whole, "LMTP: {}", input.escape_ascii());
    // With STARTTLS the cuts matter by design: what comes in one piece with the command ends the session.
    let options = Options::new("mx.test", 1000, 4, Extensions::default()).with_starttls();
    for step in [1, 1 + usize::from(choice)] {
        assert!(is_replies(&run(&options, input, step).out));
    }
}
