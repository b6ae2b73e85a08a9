//! PURE. A small model of a remote, and random sessions against it.
//!
//! The model decides by a tape of random bytes and keeps the rules of RFC 5321, 2920 and 3030 strictly: a nested MAIL, a
//! command before its turn, or a line that is no command is a bug of the client and panics.

use super::*;
use crate::envelope::Notify;
use proptest::prelude::*;

/// What the remote took: sender, recipients, body.
type Taken = Vec<(String, Vec<String>, Vec<u8>)>;

struct Remote {
    pipelining: bool,
    chunking: bool,
    tape: Vec<u8>,
    at: usize,
    input: Vec<u8>,
    replies: Vec<u8>,
    sender: Option<String>,
    recipients: Vec<String>,
    body: Vec<u8>,
    in_data: bool,
    /// A chunk was refused: RSET must come before anything else is accepted.
    broken: bool,
    closed: bool,
    taken: Taken,
}

impl Remote {
    fn decide(&mut self, of: u8) -> u8 {
        self.at += 1;
        self.tape[self.at % self.tape.len()] % of
    }

    fn say(&mut self, reply: &str) {
        self.replies.extend_from_slice(reply.as_bytes());
        self.replies.extend_from_slice(b"\r\n");
    }

    fn run(&mut self) {
        while !self.closed && (if self.in_data { self.data() } else { self.command() }) {
            assert!(self.pipelining || self.input.is_empty(), "a command came before its turn");
        }
    }

    fn data(&mut self) -> bool {
        let end = if self.input.starts_with(b".\r\n") {
            0
        } else if let Some(at) = memchr::memmem::find(&self.input, b"\r\n.\r\n") {
            at + 2
        } else {
            return false;
        };
        let stuffed: Vec<u8> = self.input.drain(..end + 3).collect();
        for line in stuffed[..end].split_inclusive(|byte| *byte == b'\n') {
            self.body.extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
        }
        self.in_data = false;
        self.end();
        self.reset();
        true
    }

    fn end(&mut self) {
        match self.decide(5) {
            0 => self.say("452 4.3.1 no room"),
            1 => self.say("554-5.7.1 not\r\n554 5.7.1 wanted"),
            _ => {
                let body = std::mem::take(&mut self.body);
                if !self.recipients.is_empty() {
                    self.taken.push((self.sender.clone().unwrap(), self.recipients.clone(), body));
                }
                self.say("250 2.0.0 taken");
            }
        }
    }

    fn reset(&mut self) {
        self.sender = None;
        self.recipients.clear();
        self.body.clear();
        self.broken = false;
    }

    fn command(&mut self) -> bool {
        let Some(lf) = memchr::memchr(b'\n', &self.input) else { return false };
        let line = String::from_utf8(self.input[..=lf].to_vec()).unwrap();
        if let Some(rest) = line.strip_prefix("BDAT ") {
            let bytes: usize = rest.split_whitespace().next().unwrap().parse().unwrap();
            if self.input.len() < lf + 1 + bytes {
                return false;
            }
            self.input.drain(..=lf);
            let chunk: Vec<u8> = self.input.drain(..bytes).collect();
            self.chunk(&chunk, rest.ends_with("LAST\r\n"));
            return true;
        }
        self.input.drain(..=lf);
        if self.decide(40) == 0 {
            self.say("421 4.3.2 closing");
            self.closed = true;
            return true;
        }
        self.plain_command(line.strip_suffix("\r\n").expect("commands end in CRLF"));
        true
    }

    fn plain_command(&mut self, line: &str) {
        if let Some(rest) = line.strip_prefix("MAIL FROM:<") {
            assert!(self.sender.is_none() && !self.broken, "MAIL within a transaction");
            match self.decide(8) {
                0 => self.say("451 4.7.1 later"),
                1 => self.say("550 5.7.1 never"),
                _ => {
                    self.sender = Some(rest.split('>').next().unwrap().to_string());
                    self.say("250 ok");
                }
            }
        } else if let Some(rest) = line.strip_prefix("RCPT TO:<") {
            match (self.sender.is_some(), self.decide(6)) {
                (false, _) => self.say("503 no sender"),
                (_, 0) => self.say("450 4.2.1 busy"),
                (_, 1) => self.say("550 5.1.1 unknown"),
                (_, 2) => self.say("552 too many"),
                _ => {
                    self.recipients.push(rest.split('>').next().unwrap().to_string());
                    self.say("250 ok");
                }
            }
        } else if line == "DATA" {
            let lax = self.decide(2) == 0;
            if self.recipients.is_empty() && !(lax && self.pipelining) {
                self.say("503 no recipients");
            } else if self.decide(8) == 0 {
                self.say("451 4.3.0 not now");
            } else {
                self.in_data = true;
                self.say("354 go");
            }
        } else if line == "RSET" {
            self.reset();
            self.say("250 ok");
        } else if line == "QUIT" {
            self.say("221 bye");
            self.closed = true;
        } else if line.starts_with("EHLO ") {
            let pipelining = if self.pipelining { "250-PIPELINING\r\n" } else { "" };
            let chunking = if self.chunking { "250-CHUNKING\r\n" } else { "" };
            self.say(&format!("250-mx\r\n{pipelining}{chunking}250 8BITMIME"));
        } else {
            panic!("no command: {line:?}");
        }
    }

    fn chunk(&mut self, chunk: &[u8], last: bool) {
        if self.recipients.is_empty() || self.broken {
            self.broken |= self.sender.is_some();
            self.say("503 no recipients");
        } else if !last && self.decide(6) == 0 {
            self.broken = true;
            self.say("452 4.3.1 no room");
        } else {
            self.body.extend_from_slice(chunk);
            if !last {
                return self.say("250 chunk");
            }
            let before = self.taken.len();
            self.end();
            if self.taken.len() == before {
                self.broken = true;
            } else {
                self.reset();
            }
        }
    }
}

#[derive(Clone, Debug)]
struct Case {
    pipelining: bool,
    chunking: bool,
    body_ready: bool,
    tape: Vec<u8>,
    /// For each message: recipients, and its body in pieces.
    messages: Vec<(u32, Vec<Vec<u8>>)>,
    /// Bytes of replies that reach the client at once.
    step: usize,
    /// The connection breaks after so many bytes of replies.
    cut: usize,
}

fn cases() -> impl Strategy<Value = Case> {
    let piece =
        proptest::collection::vec(proptest::sample::select(vec![".", "\r\n", "a", "\r\n.\r\n"]), 0..6)
            .prop_map(|parts| parts.concat().into_bytes());
    let message = (1u32..6, proptest::collection::vec(piece, 1..4));
    (
        any::<(bool, bool, bool)>(),
        proptest::collection::vec(any::<u8>(), 1..80),
        proptest::collection::vec(message, 0..6),
        prop_oneof![Just(1usize), 2usize..200],
        prop_oneof![Just(usize::MAX), 0usize..900],
    )
        .prop_map(|((pipelining, chunking, body_ready), tape, messages, step, cut)| Case {
            pipelining,
            chunking,
            body_ready,
            tape,
            messages,
            step,
            cut,
        })
}

/// What the client reported: for each message, once, results and bits.
type Reported = Vec<Option<(Vec<LegResult>, u64, u64)>>;

fn drive(case: &Case, client: &mut Client, next: &mut usize, reported: &mut Reported) {
    loop {
        if client.can_begin() && *next < case.messages.len() {
            let (count, pieces) = &case.messages[*next];
            let sender = format!("m{next}@s");
            let transaction = Transaction {
                sender: &sender,
                parameters: Parameters::default(),
                envid: None,
                secured: Ok(()),
                size: pieces.iter().map(|piece| piece.len() as u64).sum(),
                body_ready: case.body_ready,
            };
            let mailboxes: Vec<_> = (0..*count).map(|i| format!("{i}@r")).collect();
            let recipients = mailboxes.iter().map(|m| Recipient {
                index: 0,
                mailbox: m,
                notify: Notify::DEFAULT,
                original: "",
            });
            client.begin(*next as u64, transaction, (0..).zip(recipients));
            *next += 1;
        } else if *next == case.messages.len() {
            client.quit();
        }
        match client.poll_event() {
            None => return,
            Some(Event::BodyWanted { tag }) => {
                let pieces = &case.messages[tag as usize].1;
                for (i, piece) in pieces.iter().enumerate() {
                    client.body_piece(tag, piece, i + 1 == pieces.len());
                }
            }
            Some(Event::Finished { tag, results, untried, in_doubt }) => {
                let earlier = reported[tag as usize].replace((results, untried, in_doubt));
                assert!(earlier.is_none(), "finished twice");
            }
            Some(_) => {}
        }
    }
}

fn play(case: &Case) -> (Reported, usize, Taken) {
    let mut client = Client::new(Options { ehlo_name: "me.test".into(), body_with_envelope: true });
    let mut remote = Remote {
        pipelining: case.pipelining,
        chunking: case.chunking,
        tape: case.tape.clone(),
        at: 0,
        input: Vec::new(),
        replies: b"220 hi\r\n".to_vec(),
        sender: None,
        recipients: Vec::new(),
        body: Vec::new(),
        in_data: false,
        broken: false,
        closed: false,
        taken: Vec::new(),
    };
    let (mut next, mut reported, mut heard) = (0, vec![None; case.messages.len()], 0);
    loop {
        let replies = std::mem::take(&mut remote.replies);
        if replies.is_empty() {
            break;
        }
        let room = case.cut.saturating_sub(heard).min(replies.len());
        for piece in replies[..room].chunks(case.step) {
            heard += piece.len();
            assert_eq!(client.handle(piece), Ok(piece.len()), "{}", replies.escape_ascii());
            drive(case, &mut client, &mut next, &mut reported);
        }
        if room < replies.len() {
            break;
        }
        remote.input.append(client.output());
        remote.run();
    }
    client.lost(Loss::Closed, "cut");
    let begun = next;
    drive(case, &mut client, &mut next, &mut reported);
    (reported, begun, remote.taken)
}

fn check(case: &Case) {
    let (reported, begun, taken) = play(case);
    for (tag, (count, pieces)) in case.messages.iter().enumerate() {
        let Some((results, untried, in_doubt)) = &reported[tag] else {
            assert!(tag >= begun, "{tag} was begun and has no result");
            continue;
        };
        let mut seen = *untried;
        let mut delivered = 0;
        for result in results {
            assert!(result.recipients != 0 && seen & result.recipients == 0, "a recipient has two results");
            seen |= result.recipients;
            delivered |= if result.verdict.is_success() { result.recipients } else { 0 };
        }
        assert_eq!(seen, (1 << count) - 1, "a recipient has no result");
        let mut at_remote = 0u64;
        for (sender, recipients, body) in &taken {
            if *sender != format!("m{tag}@s") {
                continue;
            }
            for recipient in recipients {
                let place = 1 << recipient.strip_suffix("@r").unwrap().parse::<u32>().unwrap();
                assert_eq!(at_remote & place, 0, "taken twice");
                at_remote |= place;
            }
            let mut want = pieces.concat();
            if *body != want && !want.is_empty() && !want.ends_with(b"\r\n") {
                want.extend_from_slice(b"\r\n");
            }
            assert_eq!(*body, want, "the body was changed");
        }
        assert_eq!(delivered & !at_remote, 0, "reported as delivered, but not taken");
        assert_eq!(at_remote & !delivered & !in_doubt, 0, "taken, but not reported as delivered or in doubt");
        if case.cut == usize::MAX {
            assert_eq!(*in_doubt, 0, "nothing is in doubt when every reply came");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]
    #[test]
    fn every_recipient_gets_one_true_result_from_a_random_remote(case in cases()) {
        check(&case);
    }
}

/// What a broken or hostile remote may say, whole replies and parts of them.
const FRAGMENTS: &[&str] = &[
    "220 hi\r\n",
    "250 ok\r\n",
    "250 ok\r\n",
    "250-mx\r\n250-PIPELINING\r\n250 CHUNKING\r\n",
    "354 go\r\n",
    "421 closing\r\n",
    "450 later\r\n",
    "552 full\r\n",
    "503-no\r\n",
    "503 ",
    "\r\n",
    "junk",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]
    #[test]
    fn a_hostile_remote_causes_no_panic_and_no_lost_recipient(
        case in cases(),
        capabilities in 1usize..4,
        said in proptest::collection::vec(proptest::sample::select(FRAGMENTS), 0..40),
    ) {
        let mut client = Client::new(Options { ehlo_name: "me.test".into(), body_with_envelope: true });
        let (mut next, mut reported) = (0, vec![None; case.messages.len()]);
        // Most remotes get as far as transactions.
        for fragment in [FRAGMENTS[0], FRAGMENTS[capabilities]].iter().chain(&said) {
            for piece in fragment.as_bytes().chunks(case.step) {
                if client.handle(piece).is_err() {
                    client.lost(Loss::GivenUp, "misbehaved");
                }
                drive(&case, &mut client, &mut next, &mut reported);
            }
        }
        client.lost(Loss::Closed, "cut");
        let begun = next;
        drive(&case, &mut client, &mut next, &mut reported);
        prop_assert_eq!(begun, next, "a transaction began on a lost connection");
        for (tag, (count, _)) in case.messages.iter().enumerate().take(begun) {
            let (results, untried, _) = reported[tag].as_ref().expect("begun");
            let all = results.iter().fold(*untried, |all, result| all + result.recipients);
            prop_assert_eq!(all, (1 << count) - 1);
        }
    }
}
