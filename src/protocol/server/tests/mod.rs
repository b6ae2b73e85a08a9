//! PURE. Tests of the session, through a driver that does what `inbound` does, without sockets.

mod login;
mod model;
mod smuggling;
mod transcripts;

use proptest::prelude::*;

use super::*;
use crate::clock::WallTime;
use crate::id::{MessageId, PartId};
use crate::limits::{BODY_INLINE_BYTES_MAX, COMMAND_LINE_BYTES_MAX};
use crate::protocol::reply;
use crate::protocol::sasl::Claim;
use crate::users::ScramKeys;

/// What stands for the trace header.
const TRACE: &str = "Received: ours\r\n";

/// Decides by local part, so that a script can say what it wants.
struct ByName;

/// Whoever logs in by SCRAM has this password.
impl Secrets for ByName {
    fn scram_keys(&mut self, _: &str) -> ScramKeys {
        ScramKeys::of(b"pencil", b"salt", 4096)
    }
}

impl Policy for ByName {
    fn mail(&mut self, sender: &str, _: &Parameters, _: Option<u64>) -> Result<(), Refusal> {
        if sender.starts_with("denied@") { Err(reply::RELAY_DENIED) } else { Ok(()) }
    }

    fn recipient(&mut self, mailbox: &str) -> Result<(), Refusal> {
        match mailbox.split_once('@').map_or("", |(local, _)| local) {
            "denied" => Err(reply::RELAY_DENIED),
            "later" => Err(reply::NO_ROOM),
            _ => Ok(()),
        }
    }
}

/// A session and all that came of it.
pub(super) struct Driver {
    options: Options,
    session: Session,
    received: Vec<u8>,
    body: Vec<u8>,
    spooled: Vec<u8>,
    /// Everything that was sent, from the banner on.
    pub(super) out: Vec<u8>,
    /// `sender > recipients` and body of each message committed.
    pub(super) messages: Vec<(String, Vec<u8>)>,
    pub(super) closed: bool,
    /// Bodies begun and neither committed, refused by us nor discarded.
    open_bodies: i32,
}

impl Driver {
    pub(super) fn new(size_max: u64) -> Self {
        Self::with(Options::new("mx.test", size_max, 4, Extensions::default()))
    }

    pub(super) fn with(options: Options) -> Self {
        let session = Session::new();
        let mut out = Vec::new();
        session.banner(&options, &mut out);
        Self {
            options,
            session,
            received: Vec::new(),
            body: Vec::new(),
            spooled: Vec::new(),
            out,
            messages: Vec::new(),
            closed: false,
            open_bodies: 0,
        }
    }

    /// `bytes` arrive.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        self.received.extend_from_slice(bytes);
        while !self.closed {
            let (used, want) =
                self.session.step(&self.options, &mut ByName, &self.received, &mut self.out, &mut self.body);
            self.received.drain(..used);
            match want {
                Want::Read => {
                    assert!(self.received.len() < COMMAND_LINE_BYTES_MAX, "a buffer would be full for ever");
                    break;
                }
                Want::BeginBody => self.begin_body(),
                Want::Chunk => {
                    assert!(self.body.len() <= BODY_INLINE_BYTES_MAX, "{}", self.body.len());
                    self.spooled.append(&mut self.body);
                }
                Want::Commit => self.commit(),
                Want::Discard => {
                    self.open_bodies -= 1;
                    self.body.clear();
                    self.spooled.clear();
                }
                // As a driver must: what came behind the command is not trusted.
                Want::StartTls if !self.received.is_empty() => self.closed = true,
                Want::StartTls => self.session.tls_established(),
                Want::NewClient => {
                    self.session.introduce();
                    self.session.banner(&self.options, &mut self.out);
                }
                Want::Authenticate => self.authenticate(),
                Want::Close => self.closed = true,
            }
        }
    }

    /// `user` with the password `pencil`, or with a certificate.
    fn authenticate(&mut self) {
        let holds = match self.session.claim() {
            Claim::Password { user, password } => &**user == "user" && &**password == b"pencil",
            Claim::Proof { user, holds } => &**user == "user" && *holds,
            Claim::Certificate { user } => user.is_empty() || &**user == "user",
        };
        let result = if holds { Ok("user") } else { Err(reply::BAD_CREDENTIALS) };
        self.session.authenticated(result, &mut self.out);
    }

    /// Ways to log in.
    pub(super) fn offer_auth(&mut self, offer: AuthOffer) {
        self.session.offer_auth(offer);
    }

    fn begin_body(&mut self) {
        assert_eq!(self.open_bodies, 0, "a body was given up silently");
        self.body.clear();
        if self.session.envelope().sender().starts_with("full@") {
            return self.session.refuse_body(reply::NO_ROOM, &mut self.out);
        }
        self.open_bodies = 1;
        self.body.extend_from_slice(TRACE.as_bytes());
        if self.session.envelope().sender().starts_with("exact@") {
            self.body.clear();
        }
    }

    fn commit(&mut self) {
        assert!(self.body.len() <= BODY_INLINE_BYTES_MAX, "{}", self.body.len());
        self.open_bodies -= 1;
        let envelope = self.session.envelope().encode(WallTime(1), WallTime(2));
        self.spooled.append(&mut self.body);
        let body = std::mem::take(&mut self.spooled);
        if envelope.sender().starts_with("broken@") {
            return self.session.committed(Err(reply::NOT_STORED), &mut self.out);
        }
        let recipients: Vec<&str> = envelope.recipients().map(|recipient| recipient.mailbox).collect();
        self.messages.push((format!("{} > {}", envelope.sender(), recipients.join(" ")), body));
        let id = MessageId::new(PartId(0), self.messages.len() as u64);
        self.session.committed(Ok(id), &mut self.out);
    }
}

/// Result of a whole input that arrives in pieces ending at `cuts`.
pub(super) fn run(size_max: u64, input: &[u8], cuts: &[usize]) -> (String, Vec<(String, Vec<u8>)>, bool) {
    run_with(Driver::new(size_max), input, cuts)
}

fn run_with(mut driver: Driver, input: &[u8], cuts: &[usize]) -> (String, Vec<(String, Vec<u8>)>, bool) {
    let mut start = 0;
    for &end in cuts.iter().chain([&input.len()]) {
        let end = end.clamp(start, input.len());
        driver.feed(&input[start..end]);
        start = end;
    }
    (String::from_utf8(driver.out).unwrap(), driver.messages, driver.closed)
}

const ENVELOPE: &str = "EHLO c.test\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\n";

#[test]
fn a_long_body_comes_in_full_chunks_by_data_and_by_bdat() {
    let line = "0123456789 0123456789 0123456789\r\n";
    let text = line.repeat(3 * BODY_INLINE_BYTES_MAX / line.len());
    let data = format!("{ENVELOPE}DATA\r\n{text}.\r\nQUIT\r\n");
    let bdat = format!("{ENVELOPE}BDAT {} LAST\r\n{text}QUIT\r\n", text.len());
    for input in [data, bdat] {
        let (out, messages, _) = run(1 << 20, input.as_bytes(), &[]);
        assert!(out.contains("queued as") && out.ends_with("221 2.0.0 Bye\r\n"), "{out}");
        assert!(messages[0].1 == format!("{TRACE}{text}").as_bytes(), "the body differs");
        assert_eq!(run(1 << 20, input.as_bytes(), &[70_000, 70_001, 150_003]), (out, messages, true));
    }
}

#[test]
fn a_body_that_fills_the_buffer_to_the_last_byte_is_kept_within_it() {
    for bytes in BODY_INLINE_BYTES_MAX - 4..BODY_INLINE_BYTES_MAX + 4 {
        for ending in ["", "\r\n"] {
            let text = "x".repeat(bytes - ending.len()) + ending;
            let size = text.len();
            let envelope = ENVELOPE.replace("a@b", "exact@b");
            let input = format!("{envelope}BDAT {size} LAST\r\n{text}QUIT\r\n");
            let (out, messages, closed) = run(1 << 20, input.as_bytes(), &[]);
            assert!(closed && out.contains("queued as"), "{bytes} {out}");
            assert_eq!(messages[0].1.len(), bytes - ending.len() + 2);
        }
    }
}

#[test]
fn octets_of_a_refused_chunk_are_never_commands() {
    let hidden = "QUIT\r\nQUIT\r\n";
    for before in ["", "EHLO c.test\r\n", ENVELOPE] {
        let size = if before == ENVELOPE { 1000 } else { hidden.len() };
        let filler = "x".repeat(size - hidden.len());
        let input = format!("{before}BDAT {size} LAST\r\n{hidden}{filler}NOOP\r\n");
        let (out, messages, closed) = run(100, input.as_bytes(), &[]);
        assert!(!closed && messages.is_empty() && out.ends_with("250 2.0.0 Ok\r\n"), "{out}");
    }
}

#[test]
fn a_body_refused_by_the_driver_midway_is_read_to_its_end_and_then_refused() {
    let options = Options::new("mx.test", 1 << 30, 10, Extensions::default());
    for verb in ["DATA", "BDAT 200002 LAST"] {
        let (mut session, mut out, mut body) = (Session::new(), Vec::new(), Vec::new());
        let end = if verb == "DATA" { ".\r\n" } else { "" };
        let input = format!("{ENVELOPE}{verb}\r\n{}\r\n{end}NOOP\r\n", "x".repeat(200_000));
        let (mut used, mut wants) = (0, Vec::new());
        loop {
            let (consumed, want) =
                session.step(&options, &mut ByName, &input.as_bytes()[used..], &mut out, &mut body);
            used += consumed;
            match want {
                Want::Read => break,
                Want::Chunk => {
                    body.clear();
                    session.refuse_body(reply::NO_ROOM, &mut out);
                }
                _ => {}
            }
            wants.push(want);
        }
        assert_eq!(wants, [Want::BeginBody, Want::Chunk, Want::Discard], "{verb}");
        assert!(out.ends_with(b"452 4.3.1 Insufficient system storage\r\n250 2.0.0 Ok\r\n"));
        assert!(body.is_empty() && used == input.len());
    }
}

#[test]
fn closing_says_why_once_and_reads_nothing_more() {
    let mut driver = Driver::new(1000);
    driver.feed(b"EHLO c.test\r\n");
    driver.out.clear();
    driver.session.close(&reply::SHUTTING_DOWN, &mut driver.out);
    driver.session.close(&reply::IDLE_TOO_LONG, &mut driver.out);
    driver.feed(b"NOOP\r\n");
    assert_eq!(driver.out, b"421 4.3.2 Service is shutting down\r\n");
    assert!(driver.closed);
}

#[test]
fn a_client_name_is_cleaned_and_bounded() {
    let mut driver = Driver::new(1000);
    driver.feed("EHLO a(b)é<c> d\"\\\r\n".as_bytes());
    assert_eq!(driver.session.helo(), "a?b???c??d??");
    driver.feed(format!("HELO {}\r\n", "x".repeat(1000)).as_bytes());
    assert_eq!((driver.session.helo().len(), driver.session.is_extended()), (255, false));
}

#[test]
fn a_greeting_stays_on_one_line() {
    let options = Options::new("mx.test", 1, 1, Extensions::default()).with_greeting("ESMTP hello\r\n250 x");
    let mut out = Vec::new();
    Session::new().banner(&options, &mut out);
    assert_eq!(out, b"220 mx.test ESMTP hello  250 x\r\n");
}

#[test]
fn a_message_that_goes_round_in_circles_is_refused_at_its_end() {
    for (fields, want) in [(99, "250 2.6.0"), (100, "554 5.4.6")] {
        let text = "Received: by x\r\n".repeat(fields);
        let input = format!("{ENVELOPE}DATA\r\n{text}\r\n.\r\nNOOP\r\n");
        let (out, _, _) = run(1 << 20, input.as_bytes(), &[]);
        let reply = out.lines().rev().nth(1).unwrap();
        assert!(reply.starts_with(want), "{fields}: {reply}");
    }
}

#[test]
fn chunks_may_fill_the_size_limit_to_the_last_octet() {
    for (bytes, want) in [(9, "250"), (10, "250"), (11, "552")] {
        let input = format!("{ENVELOPE}BDAT {bytes} LAST\r\n{}", "x".repeat(bytes));
        let (out, _, _) = run(10, input.as_bytes(), &[]);
        assert!(out.lines().last().unwrap().starts_with(want), "{bytes}: {out}");
    }
}

#[test]
fn nothing_of_a_transaction_outlives_it() {
    for end in ["RSET\r\n", "EHLO c\r\n", "DATA\r\n.\r\n", "DATA\r\nx\n\r\n.\r\n", "BDAT 1000\r\n"] {
        let mut driver = Driver::new(100);
        driver.feed(format!("{ENVELOPE}{end}").as_bytes());
        let envelope = driver.session.envelope();
        assert_eq!((envelope.recipient_count(), envelope.sender()), (0, ""), "{end:?}");
    }
}

#[test]
fn starttls_is_offered_in_the_clear_only_and_forgets_what_was_said() {
    let mut driver = Driver::new(1 << 20);
    driver.options = driver.options.with_starttls();
    driver.feed(b"STARTTLS\r\nEHLO c.test\r\nMAIL FROM:<a@b.test>\r\nSTARTTLS\r\nRSET\r\nSTARTTLS now\r\n");
    driver.out.clear();
    driver.feed(b"EHLO c.test\r\n");
    assert!(driver.out.ends_with(b"\r\n250 STARTTLS\r\n"), "{}", driver.out.escape_ascii());
    driver.out.clear();
    driver.feed(b"STARTTLS\r\n");
    assert_eq!(driver.out, b"220 2.0.0 Ready to start TLS\r\n");
    assert!(driver.session.is_secured() && driver.session.helo().is_empty());
    driver.out.clear();
    driver.feed(b"MAIL FROM:<a@b.test>\r\nEHLO c.test\r\nSTARTTLS\r\n");
    let said = String::from_utf8_lossy(&driver.out);
    assert!(said.starts_with("503 ") && said.ends_with("502 5.5.1 Command not implemented\r\n"), "{said}");
    assert!(!said.contains("STARTTLS"), "{said}");
}

#[test]
fn commands_smuggled_behind_starttls_are_not_run() {
    let mut driver = Driver::new(1 << 20);
    driver.options = driver.options.with_starttls();
    driver.feed(b"EHLO c.test\r\nSTARTTLS\r\nMAIL FROM:<evil@b.test>\r\n");
    assert!(driver.closed && driver.out.ends_with(b"220 2.0.0 Ready to start TLS\r\n"));
}

#[test]
fn requiretls_is_offered_and_taken_over_tls_alone() {
    let mail =
        b"EHLO c.test\r\nMAIL FROM:<a@b.test> REQUIRETLS\r\nRSET\r\nMAIL FROM:<a@b.test> REQUIRETLS=1\r\n";
    let run = |secured: bool| {
        let mut driver = Driver::new(1 << 20);
        driver.options = driver.options.with_starttls();
        if secured {
            driver.session.begin_secured();
        }
        driver.feed(mail);
        let said = String::from_utf8_lossy(&driver.out).into_owned();
        let codes: Vec<_> =
            said.lines().filter(|line| !line.starts_with("250-")).map(|l| l[..3].to_owned()).collect();
        (said.contains("REQUIRETLS\r\n"), codes[1..].join(" "))
    };
    assert_eq!(run(false), (false, "250 555 250 555".to_owned()));
    assert_eq!(run(true), (true, "250 250 250 501".to_owned()));
}

#[test]
fn lmtp_answers_for_each_accepted_recipient_at_the_end_of_a_message() {
    let options = |size_max| Options::new("mx.test", size_max, 4, Extensions::default()).with_lmtp();
    let envelope =
        "MAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nRCPT TO:<denied@d.test>\r\nRCPT TO:<e@f.test>\r\n";
    for (end, want) in [
        ("DATA\r\nx\r\n.\r\n", "354 250 250"),
        ("BDAT 3 LAST\r\nx\r\n", "250 250"),
        ("BDAT 1\r\nxBDAT 0 LAST\r\n", "250 250 250"),
        ("DATA\r\nx\ny\r\n.\r\n", "354 550 550"),
        ("BDAT 3 LAST\r\nx\ny", "550 550"),
        ("BDAT 3\r\nx\ny", "550"),
        ("BDAT 51 LAST\r\n012345678901234567890123456789012345678901234567890", "552 552"),
        ("BDAT 51\r\n012345678901234567890123456789012345678901234567890", "552"),
    ] {
        let mut driver = Driver::with(options(50));
        driver.feed(format!("EHLO c\r\nLHLO c\r\n{envelope}").as_bytes());
        assert!(driver.out.windows(4).any(|four| four == b"500 "), "EHLO is none of LMTP's commands");
        driver.out.clear();
        driver.feed(end.as_bytes());
        let said = String::from_utf8_lossy(&driver.out);
        let codes: Vec<&str> = said.lines().map(|line| &line[..3]).collect();
        assert_eq!(codes.join(" "), want, "{end:?}");
        assert!(driver.session.is_lmtp() && driver.messages.len() == usize::from(want.ends_with("250")));
    }
}

#[test]
fn an_idle_session_is_small() {
    assert!(size_of::<Session>() <= 512, "{}", size_of::<Session>());
}

/// Pieces of input, right and wrong, that a client may send in any order.
const PIECES: &[&str] = &[
    ENVELOPE,
    "EHLO c.test\r\n",
    "MAIL FROM:<a@b.test> SIZE=10\r\n",
    "RCPT TO:<c@d.test>\r\n",
    "RCPT TO:<denied@d.test>\r\n",
    "DATA\r\n",
    "Subject: x\r\n\r\n..text\r\n.\r\n",
    ".\r\n",
    "bare\n",
    "cr\rin the middle\r\n",
    "BDAT 7\r\nabcde\r\n",
    "BDAT 3 LAST\r\nxyz",
    "BDAT 12 LAST\r\n",
    "BDAT 0 LAST\r\n",
    "RSET\r\n",
    "\r",
    "\r\n",
    "NOOP\r\n",
    "QUIT\r\n",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn how_the_input_is_cut_changes_nothing(
        pieces in proptest::collection::vec(0..PIECES.len(), 0..30),
        cuts in proptest::collection::vec(0usize..600, 0..10),
        valid_start in any::<bool>(),
    ) {
        let start = if valid_start { ENVELOPE } else { "" };
        let input = start.to_owned() + &pieces.iter().map(|piece| PIECES[*piece]).collect::<String>();
        let mut cuts = cuts;
        cuts.sort_unstable();
        let want = run(60, input.as_bytes(), &[]);
        let every: Vec<usize> = (0..input.len()).collect();
        prop_assert_eq!(&run(60, input.as_bytes(), &cuts), &want);
        prop_assert_eq!(&run(60, input.as_bytes(), &every), &want);
    }

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        run(60, &bytes, &[]);
        run(60, &[ENVELOPE.as_bytes(), b"DATA\r\n", &bytes].concat(), &[]);
    }
}
