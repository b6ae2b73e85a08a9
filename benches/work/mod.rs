//! What a message costs each pure stage, made once for both kinds of measuring: times (`protocol`, `queue`, `spool`) and instructions
//! (`instructions`). Each piece of work is set up by `new` and done by `once`.
#![allow(dead_code, reason = "no bench uses all of it")]

use std::hint::black_box;
use std::time::Duration;

use ringpost::clock::{Moment, Now, WallTime};
use ringpost::envelope::{Envelope, EnvelopeBuilder, Notify, Parameters, Recipient};
use ringpost::id::{Location, MessageId, PartId, PathId};
use ringpost::outcome::{Enhanced, LegResult, Reply, Verdict};
use ringpost::protocol::body::Decoder;
use ringpost::protocol::client::{self, Client, Event, Transaction};
use ringpost::protocol::command::{self, Verb};
use ringpost::protocol::extension::Extensions;
use ringpost::protocol::line::{Found, LineScanner};
use ringpost::protocol::reply::Refusal;
use ringpost::protocol::sasl::Secrets;
use ringpost::protocol::server::{Options, Policy, Session, Want};
use ringpost::queue::{Change, Queue, QueueOptions};
use ringpost::spool::record::{Draft, Kind, Record, Salt, padded};

/// What a client says before the body.
pub const COMMANDS: &str = "MAIL FROM:<sender@source.example> SIZE=4096 BODY=8BITMIME\r\n\
                            RCPT TO:<recipient@destination.example>\r\nDATA\r\n";

/// Eight header fields and lines of 76 letters, 4 KiB in all.
pub fn body() -> Vec<u8> {
    let mut body = b"From: Sender <sender@source.example>\r\nTo: recipient@destination.example\r\n\
        Subject: what this month brought\r\nDate: Wed, 25 Nov 2026 10:00:00 +0000\r\n\
        Message-ID: <20261125100000.1@source.example>\r\nMIME-Version: 1.0\r\n\
        Content-Type: text/plain; charset=utf-8\r\nList-Unsubscribe: <https://source.example/u/1>\r\n\r\n"
        .to_vec();
    while body.len() < 4094 {
        let letters = (4094 - body.len()).min(76);
        body.resize(body.len() + letters, b'x');
        body.extend_from_slice(b"\r\n");
    }
    body
}

/// Cuts the commands into lines.
pub fn scan(scanner: &mut LineScanner) {
    let mut input = black_box(COMMANDS.as_bytes());
    while let Found::Line { line, consumed } = scanner.next(input) {
        black_box(line);
        input = &input[consumed..];
    }
}

/// Understands them.
pub fn parse(offered: &Extensions) {
    for line in black_box(COMMANDS).split_terminator("\r\n") {
        let (verb, arguments) = command::split(line.as_bytes()).expect("a command");
        match verb {
            Verb::Mail => drop(black_box(command::parse_mail(arguments, offered))),
            Verb::Rcpt => drop(black_box(command::parse_rcpt(arguments, offered, false))),
            _ => {}
        }
    }
}

/// A body behind DATA, and where it goes.
pub struct Data {
    pub input: Vec<u8>,
    kept: Vec<u8>,
}

impl Data {
    pub fn new() -> Self {
        Self { input: [body().as_slice(), b".\r\n"].concat(), kept: Vec::with_capacity(8192) }
    }

    pub fn once(&mut self) {
        self.kept.clear();
        let decoded = Decoder::data(1 << 20).decode(black_box(&self.input), &mut self.kept);
        assert!(decoded.ended);
    }
}

struct Everybody;

impl Secrets for Everybody {}

impl Policy for Everybody {
    fn mail(&mut self, _: &str, _: &Parameters, _: Option<u64>) -> Result<(), Refusal> {
        Ok(())
    }

    fn recipient(&mut self, _: &str) -> Result<(), Refusal> {
        Ok(())
    }
}

/// A session, the buffers of its driver, and the message that a client sends again and again.
pub struct Server {
    options: Options,
    session: Session,
    message: Vec<u8>,
    out: Vec<u8>,
    body: Vec<u8>,
    committed: u64,
}

impl Server {
    pub fn by_data() -> Self {
        Self::new([COMMANDS.as_bytes(), &body(), b".\r\n"].concat())
    }

    pub fn by_bdat() -> Self {
        let chunk = format!("BDAT {} LAST\r\n", body().len());
        Self::new([COMMANDS.replace("DATA\r\n", &chunk).as_bytes(), &body()].concat())
    }

    fn new(message: Vec<u8>) -> Self {
        let options = Options::new("mx.test", 1 << 20, 100, Extensions::default());
        let (session, out, body) = (Session::new(), Vec::new(), Vec::new());
        let mut server = Self { options, session, message, out, body, committed: 0 };
        server.take(b"EHLO client.example\r\n");
        server
    }

    /// A message: replies, envelope, body.
    pub fn once(&mut self) {
        self.out.clear();
        let message = std::mem::take(&mut self.message);
        let before = self.committed;
        self.take(black_box(&message));
        assert!(self.committed == before + 1 && self.out.ends_with(b"\r\n"));
        self.message = message;
    }

    /// Does what the session wants until it wants to read.
    fn take(&mut self, mut input: &[u8]) {
        loop {
            let (used, want) =
                self.session.step(&self.options, &mut Everybody, input, &mut self.out, &mut self.body);
            input = &input[used..];
            match want {
                Want::BeginBody => self.body.clear(),
                Want::Commit => {
                    self.committed += 1;
                    black_box(self.session.envelope().encode(WallTime(1), WallTime(2)));
                    let id = MessageId::new(PartId(1), self.committed);
                    self.session.committed(Ok(id), &mut self.out);
                }
                Want::Read => return,
                other => panic!("{other:?}"),
            }
        }
    }
}

/// A connection to a remote that takes everything.
pub struct Remote {
    client: Client,
    body: Vec<u8>,
    replies: &'static [&'static [u8]],
    tag: u64,
}

impl Remote {
    pub fn by_data() -> Self {
        let replies: &[&[u8]] =
            &[b"250 2.1.0 Ok\r\n250 2.1.5 Ok\r\n354 Go\r\n", b"250 2.0.0 queued as 1\r\n"];
        Self::new("250 PIPELINING\r\n", replies)
    }

    pub fn by_bdat() -> Self {
        let replies: &[&[u8]] = &[b"250 2.1.0 Ok\r\n250 2.1.5 Ok\r\n", b"250 2.0.0 queued as 1\r\n"];
        Self::new("250-CHUNKING\r\n250 PIPELINING\r\n", replies)
    }

    fn new(offer: &str, replies: &'static [&'static [u8]]) -> Self {
        let options = client::Options { ehlo_name: "relay.example".into(), body_with_envelope: true };
        let mut client = Client::new(options);
        client.handle(b"220 hi\r\n").expect("a banner");
        client.handle(format!("250-mx\r\n{offer}").as_bytes()).expect("an offer");
        assert_eq!(client.poll_event(), Some(Event::Ready));
        Self { client, body: body(), replies, tag: 0 }
    }

    /// A transaction: commands, stuffing, replies, outcome.
    pub fn once(&mut self) {
        self.tag += 1;
        let transaction = Transaction {
            sender: "sender@source.example",
            parameters: Parameters::default(),
            envid: None,
            secured: Ok(()),
            size: self.body.len() as u64,
            body_ready: true,
        };
        let mailbox = "recipient@destination.example";
        let recipient = Recipient { index: 0, mailbox, notify: Notify::DEFAULT, original: "" };
        self.client.begin(self.tag, transaction, [(0, recipient)]);
        let mut replies = self.replies.iter();
        loop {
            match self.client.poll_event() {
                Some(Event::BodyWanted { tag }) => assert!(self.client.body_piece(tag, &self.body, true)),
                Some(Event::Finished { results, .. }) => {
                    black_box(results);
                    self.client.output().clear();
                    return;
                }
                Some(other) => panic!("{other:?}"),
                None => {
                    let reply = replies.next().expect("the transaction ends with the last reply");
                    self.client.handle(black_box(reply)).expect("good replies");
                }
            }
        }
    }
}

const NOW: Now = Now { wall: WallTime(1_800_000_000_000), mono: Moment(1_000_000) };
const PATH: PathId = PathId(1);
const DOMAINS: usize = 1000;

/// An envelope with one recipient.
pub fn envelope(mailbox: &str) -> Envelope {
    let mut builder = EnvelopeBuilder::default();
    builder.begin("sender@source.example", Parameters::default(), "");
    builder.push_recipient(mailbox, Notify::DEFAULT, "").expect("a recipient");
    builder.encode(NOW.wall, NOW.wall + Duration::from_secs(3600))
}

/// A queue, and messages to many domains.
pub struct Queued {
    queue: Queue,
    envelopes: Vec<Envelope>,
    accepted: u64,
}

impl Queued {
    /// With `depth` messages waiting.
    pub fn behind(depth: usize) -> Self {
        let envelopes = (0..DOMAINS).map(|number| envelope(&format!("r@d{number}.test"))).collect();
        let mut queued = Self { queue: Queue::new(QueueOptions::default(), 1), envelopes, accepted: 0 };
        (0..depth).for_each(|_| queued.accept());
        queued
    }

    /// A message from its acceptance to its last outcome.
    pub fn once(&mut self) {
        self.accept();
        self.deliver();
    }

    fn accept(&mut self) {
        self.accepted += 1;
        let change = Change::Accepted {
            id: MessageId::new(PartId(1), self.accepted),
            envelope: &self.envelopes[self.accepted as usize % DOMAINS],
            location: Location { segment: 1, offset: self.accepted as u32, bytes: 4300 },
            body_bytes: 4096,
            states: &[],
        };
        self.queue.apply(change, NOW);
        while let Some(domain) = self.queue.poll_unrouted().map(str::to_owned) {
            self.queue.route(&domain, PATH, false, Moment(u64::MAX), NOW);
        }
    }

    fn deliver(&mut self) {
        let job = self.queue.pop(PATH, 10).expect("a job");
        let reply = Reply::new(250, Enhanced(2, 0, 0), "queued as 1");
        let results = vec![LegResult { recipients: job.recipients, verdict: Verdict::Delivered, reply }];
        let outcome = self.queue.outcome(job.leg, job.recipients, results, true, NOW).expect("an outcome");
        let applied = self.queue.apply(Change::Outcome(&outcome), NOW);
        assert!(applied.settled.is_some());
    }
}

/// An acceptance of 4 KiB as a record of the log.
pub struct Acceptance {
    envelope: Envelope,
    body: Vec<u8>,
    pub bytes: Vec<u8>,
}

impl Acceptance {
    pub fn new() -> Self {
        let mut acceptance =
            Self { envelope: envelope("recipient@destination.example"), body: body(), bytes: Vec::new() };
        acceptance.bytes = vec![0; padded(acceptance.draft().bytes())];
        acceptance.encode();
        acceptance
    }

    fn draft(&self) -> Draft<'_> {
        let id = MessageId::new(PartId(1), 1);
        Draft { kind: Kind::Accepted, id, meta: [self.envelope.as_bytes(), &[]], body: &self.body }
    }

    /// Writes it, checksums included.
    pub fn encode(&mut self) {
        let mut bytes = std::mem::take(&mut self.bytes);
        black_box(self.draft()).encode(Salt::new(5), 64, black_box(&mut bytes));
        self.bytes = bytes;
    }

    /// Reads it, checksums compared.
    pub fn decode(&mut self) {
        assert!(black_box(Record::decode(black_box(&self.bytes), Salt::new(5), 64)).is_ok());
    }
}
