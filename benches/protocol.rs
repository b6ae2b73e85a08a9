//! SMTP without sockets: what a message costs the session that takes it and the one that sends it.

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use ringpost::clock::WallTime;
use ringpost::envelope::{Notify, Parameters, Recipient};
use ringpost::id::{MessageId, PartId};
use ringpost::protocol::body::Decoder;
use ringpost::protocol::client::{self, Client, Event, Transaction};
use ringpost::protocol::command::{self, Verb};
use ringpost::protocol::extension::Extensions;
use ringpost::protocol::line::{Found, LineScanner};
use ringpost::protocol::reply::Refusal;
use ringpost::protocol::sasl::Secrets;
use ringpost::protocol::server::{Options, Policy, Session, Want};

const COMMANDS: &str = "MAIL FROM:<sender@source.example> SIZE=4096 BODY=8BITMIME\r\n\
                        RCPT TO:<recipient@destination.example>\r\nDATA\r\n";

/// Lines of 76 letters, 4 KiB in all.
fn body() -> Vec<u8> {
    let mut body = [[b'x'; 76].as_slice(), b"\r\n"].concat().repeat(4096 / 78);
    body.resize(4094, b'y');
    body.extend_from_slice(b"\r\n");
    body
}

fn lines(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("protocol");
    group.throughput(Throughput::Bytes(COMMANDS.len() as u64));
    group.bench_function("scan three lines", |bencher| {
        let mut scanner = LineScanner::default();
        bencher.iter(|| {
            let mut input = black_box(COMMANDS.as_bytes());
            while let Found::Line { line, consumed } = scanner.next(input) {
                black_box(line);
                input = &input[consumed..];
            }
        });
    });
    group.bench_function("parse three commands", |bencher| {
        let offered = Extensions::default();
        bencher.iter(|| {
            for line in black_box(COMMANDS).split_terminator("\r\n") {
                let (verb, arguments) = command::split(line.as_bytes()).expect("a command");
                match verb {
                    Verb::Mail => drop(black_box(command::parse_mail(arguments, &offered))),
                    Verb::Rcpt => drop(black_box(command::parse_rcpt(arguments, &offered, false))),
                    _ => {}
                }
            }
        });
    });
    let input = [body().as_slice(), b".\r\n"].concat();
    group.throughput(Throughput::Bytes(input.len() as u64));
    group.bench_function("decode a body of 4 KiB", |bencher| {
        let mut kept = Vec::with_capacity(8192);
        bencher.iter(|| {
            kept.clear();
            let decoded = Decoder::data(1 << 20).decode(black_box(&input), &mut kept);
            assert!(decoded.ended);
        });
    });
    group.finish();
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

/// A session and the buffers of its driver.
struct Server {
    options: Options,
    session: Session,
    out: Vec<u8>,
    body: Vec<u8>,
    committed: u64,
}

impl Server {
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

fn server(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("server");
    let body = body();
    let data = [COMMANDS.as_bytes(), &body, b".\r\n"].concat();
    let chunk = format!("BDAT {} LAST\r\n", body.len());
    let bdat = [COMMANDS.replace("DATA\r\n", &chunk).as_bytes(), &body].concat();
    for (name, input) in [("message of 4 KiB by DATA", data), ("message of 4 KiB by BDAT", bdat)] {
        let options = Options::new("mx.test", 1 << 20, 100, Extensions::default());
        let (session, out, body) = (Session::new(), Vec::new(), Vec::new());
        let mut server = Server { options, session, out, body, committed: 0 };
        server.take(b"EHLO client.example\r\n");
        group.throughput(Throughput::Elements(1));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                server.out.clear();
                server.take(black_box(&input));
            });
        });
        assert!(server.committed > 0 && server.out.ends_with(b"\r\n"));
    }
    group.finish();
}

/// One transaction, answered as a remote that takes everything answers.
fn deliver(client: &mut Client, tag: u64, body: &[u8], replies: &[&[u8]]) {
    let transaction = Transaction {
        sender: "sender@source.example",
        parameters: Parameters::default(),
        envid: None,
        secured: Ok(()),
        size: body.len() as u64,
        body_ready: true,
    };
    let mailbox = "recipient@destination.example";
    let recipient = Recipient { index: 0, mailbox, notify: Notify::DEFAULT, original: "" };
    client.begin(tag, transaction, [(0, recipient)]);
    let mut replies = replies.iter();
    loop {
        match client.poll_event() {
            Some(Event::BodyWanted { tag }) => assert!(client.body_piece(tag, body, true)),
            Some(Event::Finished { results, .. }) => {
                black_box(results);
                client.output().clear();
                return;
            }
            Some(other) => panic!("{other:?}"),
            None => {
                let reply = replies.next().expect("the transaction ends with the last reply");
                client.handle(black_box(reply)).expect("good replies");
            }
        }
    }
}

fn client(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("client");
    group.throughput(Throughput::Elements(1));
    let body = body();
    let envelope = b"250 2.1.0 Ok\r\n250 2.1.5 Ok\r\n".as_slice();
    let data: &[&[u8]] = &[b"250 2.1.0 Ok\r\n250 2.1.5 Ok\r\n354 Go\r\n", b"250 2.0.0 queued as 1\r\n"];
    let bdat: &[&[u8]] = &[envelope, b"250 2.0.0 queued as 1\r\n"];
    for (name, offer, replies) in [
        ("message of 4 KiB by DATA", "250 PIPELINING\r\n", data),
        ("message of 4 KiB by BDAT", "250-CHUNKING\r\n250 PIPELINING\r\n", bdat),
    ] {
        let options = client::Options { ehlo_name: "relay.example".into(), body_with_envelope: true };
        let mut client = Client::new(options);
        client.handle(b"220 hi\r\n").expect("a banner");
        client.handle(format!("250-mx\r\n{offer}").as_bytes()).expect("an offer");
        assert_eq!(client.poll_event(), Some(Event::Ready));
        let mut tag = 0;
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                tag += 1;
                deliver(&mut client, tag, &body, replies);
            });
        });
    }
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    lines(&mut criterion);
    server(&mut criterion);
    client(&mut criterion);
    criterion.final_summary();
}
