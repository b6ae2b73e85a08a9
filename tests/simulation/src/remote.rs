//! Remote mail servers with moods: they defer, refuse, dawdle, hang up at every stage, and note what they took.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use ringpost::net;
use ringpost::net::listener::{Bound, Listener};
use ringpost::net::simulated::World;

use crate::ledger::Ledger;
use crate::mail::{SENDERS, is_body_of, is_unknown, message_id, recipient_of, reported, unstuffed};
use crate::wire::{Gone, Wire};

/// How remotes treat the relay; shares are from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mood {
    /// Connections sent away at the banner.
    pub busy: f64,
    /// Commands answered 451.
    pub defers: f64,
    /// Commands that are answered by hanging up.
    pub hangs_up: f64,
    /// Messages taken with the answer never sent.
    pub forgets: f64,
    /// Longest time for an answer.
    pub slowest: Duration,
}

impl Mood {
    /// Takes everything.
    pub const CALM: Self =
        Self { busy: 0.0, defers: 0.0, hangs_up: 0.0, forgets: 0.0, slowest: Duration::from_millis(50) };
}

/// What a remote's tasks share.
#[derive(Clone)]
pub struct Remote {
    /// The world it is in.
    pub world: World,
    /// Today's mood.
    pub mood: Rc<Cell<Mood>>,
    /// Where it notes what it took.
    pub ledger: Rc<RefCell<Ledger>>,
}

impl Remote {
    /// Accepts connections for ever.
    pub async fn run(self, socket: Bound) {
        let listener = Listener::new(socket);
        while let Ok(accepted) = listener.accept().await {
            let Ok(stream) = accepted.into_stream() else { continue };
            let remote = self.clone();
            net::spawn(async move {
                let crashes = remote.ledger.borrow().crashes();
                let mut session =
                    Session { remote, crashes, wire: Wire::new(stream), doubtful: VecDeque::new() };
                let _ = session.serve().await;
            });
        }
    }

    fn happens(&self, share: f64) -> bool {
        self.world.random(|random| random.f64() < share)
    }
}

struct Session {
    remote: Remote,
    /// Crashes of the relay before this connection: what a killed relay had sent still arrives.
    crashes: u32,
    wire: Wire,
    /// Recipients of the last messages taken: if the connection breaks the relay may not have heard of it.
    doubtful: VecDeque<Vec<String>>,
}

/// Transactions whose answers can be lost with one connection: the relay sends the next one behind the dot.
const UNDER_WAY: usize = 3;

#[derive(Default)]
struct Transaction {
    null_sender: bool,
    /// Mailboxes, and whether we are asked to report success.
    recipients: Vec<(String, bool)>,
    body: Vec<u8>,
}

impl Session {
    async fn serve(&mut self) -> Result<(), Gone> {
        if self.remote.happens(self.remote.mood.get().busy) {
            return self.say("421 4.3.2 too busy").await;
        }
        self.say("220 mx.test ESMTP").await?;
        let mut transaction = None;
        loop {
            let line = self.wire.line().await?;
            let verb = line.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase();
            if self.remote.happens(self.remote.mood.get().hangs_up) {
                return Err(Gone);
            }
            match verb.as_str() {
                "EHLO" => self.greet().await?,
                "HELO" => self.say("250 mx.test").await?,
                "MAIL" if self.defers() => self.say("451 4.3.0 not now").await?,
                "MAIL" => {
                    let null_sender = line.contains("FROM:<>");
                    transaction = Some(Transaction { null_sender, ..Transaction::default() });
                    self.say("250 2.1.0 ok").await?;
                }
                "RCPT" => self.recipient(&line, transaction.as_mut()).await?,
                "DATA" => self.data(&mut transaction).await?,
                "BDAT" => self.chunk(&line, &mut transaction).await?,
                "RSET" => {
                    transaction = None;
                    self.say("250 2.0.0 reset").await?;
                }
                "QUIT" => {
                    // The relay says goodbye when it has heard everything.
                    self.doubtful.clear();
                    return self.say("221 2.0.0 bye").await;
                }
                _ => self.say("500 5.5.1 what?").await?,
            }
        }
    }

    async fn say(&mut self, line: &str) -> Result<(), Gone> {
        let most = self.remote.mood.get().slowest.as_micros() as u64;
        let wait = self.remote.world.random(|random| random.u64(..=most));
        net::sleep(Duration::from_micros(wait)).await;
        self.wire.send(format!("{line}\r\n").as_bytes()).await
    }

    async fn greet(&mut self) -> Result<(), Gone> {
        let offers =
            ["PIPELINING", "CHUNKING", "8BITMIME", "SIZE 100000000", "ENHANCEDSTATUSCODES", "SMTPUTF8"];
        let mut text = "250-mx.test\r\n".to_owned();
        for offer in offers.iter().filter(|_| self.remote.world.random(|random| random.u8(..4)) > 0) {
            text.push_str(&format!("250-{offer}\r\n"));
        }
        // A remote that cannot report leaves that to the relay.
        let last = if self.remote.world.random(|random| random.bool()) { "DSN" } else { "HELP" };
        self.say(&format!("{text}250 {last}")).await
    }

    fn defers(&self) -> bool {
        self.remote.happens(self.remote.mood.get().defers)
    }

    async fn recipient(&mut self, line: &str, transaction: Option<&mut Transaction>) -> Result<(), Gone> {
        let Some(transaction) = transaction else { return self.say("503 5.5.1 MAIL first").await };
        let mailbox = line.split(['<', '>']).nth(1).unwrap_or_default().to_owned();
        if recipient_of(&mailbox).is_some_and(is_unknown) {
            return self.say("550 5.1.1 no such user").await;
        }
        if self.defers() {
            return self.say("450 4.2.0 greylisted").await;
        }
        transaction.recipients.push((mailbox, line.contains("NOTIFY=SUCCESS")));
        self.say("250 2.1.5 ok").await
    }

    async fn data(&mut self, transaction: &mut Option<Transaction>) -> Result<(), Gone> {
        if transaction.as_ref().is_none_or(|transaction| transaction.recipients.is_empty()) {
            return self.say("503 5.5.1 no valid recipients").await;
        }
        if self.defers() {
            *transaction = None;
            return self.say("451 4.3.0 not now").await;
        }
        self.say("354 go on").await?;
        let mut wire = self.wire.until(b"\r\n").await?;
        if wire != b".\r\n" {
            wire.extend(self.wire.until(b"\r\n.\r\n").await?);
        }
        let mut taken = transaction.take().expect("looked at above");
        taken.body = unstuffed(&wire);
        self.decide(taken).await
    }

    async fn chunk(&mut self, line: &str, transaction: &mut Option<Transaction>) -> Result<(), Gone> {
        let mut words = line.split(' ').skip(1);
        let bytes = words.next().and_then(|bytes| bytes.parse().ok()).ok_or(Gone)?;
        let last = words.next().is_some();
        let chunk = self.wire.exactly(bytes).await?;
        let Some(open) = transaction.as_mut().filter(|open| !open.recipients.is_empty()) else {
            return self.say("503 5.5.1 no valid recipients").await;
        };
        open.body.extend_from_slice(&chunk);
        if !last {
            return self.say("250 2.0.0 go on").await;
        }
        let whole = transaction.take().expect("looked at above");
        self.decide(whole).await
    }

    async fn decide(&mut self, transaction: Transaction) -> Result<(), Gone> {
        if self.defers() {
            return self.say("451 4.3.0 not after all").await;
        }
        self.take(&transaction);
        if self.remote.happens(self.remote.mood.get().forgets) {
            return Err(Gone);
        }
        self.say("250 2.6.0 taken").await
    }

    fn take(&mut self, transaction: &Transaction) {
        let mut ledger = self.remote.ledger.borrow_mut();
        for (mailbox, reports) in &transaction.recipients {
            if transaction.null_sender {
                assert!(mailbox.ends_with(SENDERS), "a notification for {mailbox}, who has sent nothing");
                let id = message_id(&transaction.body);
                for (recipient, said) in reported(&transaction.body) {
                    ledger.reported(recipient, said, &id);
                }
                continue;
            }
            let recipient = recipient_of(mailbox).expect("only mailboxes of the run get mail");
            let intact = is_body_of(recipient.message, &transaction.body);
            ledger.delivered(recipient, intact, *reports, self.crashes);
        }
        self.doubtful.push_back(transaction.recipients.iter().map(|(mailbox, _)| mailbox.clone()).collect());
        if self.doubtful.len() > UNDER_WAY {
            self.doubtful.pop_front();
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let mut ledger = self.remote.ledger.borrow_mut();
        let doubtful = self.doubtful.iter().flatten().filter_map(|mailbox| recipient_of(mailbox));
        doubtful.for_each(|recipient| ledger.in_doubt(recipient));
    }
}
