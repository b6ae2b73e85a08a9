//! Any remote: each recipient gets its one result, and what is delivered was acknowledged.

use ringpost::envelope::{Notify, Parameters, Recipient};
use ringpost::outcome::Verdict;
use ringpost::protocol::client::{Client, Event, Loss, Options, Transaction};
use ringpost::protocol::remote::ReplyParser;
use ringpost::protocol::sasl::prove::Credentials;

const MAILBOXES: [&str; 3] = ["a@b.test", "b@b.test", "c@b.test"];
const TRANSACTIONS_MAX: u64 = 4;

struct Driver {
    client: Client,
    begun: u64,
    finished: u64,
    recipients: usize,
    body_ready: bool,
    binary: bool,
    /// STARTTLS is wanted and has not been tried.
    tls: bool,
    /// A login is wanted and has not been tried.
    login: bool,
    quit: bool,
    open: bool,
}

impl Driver {
    fn new(choice: u8) -> Self {
        let options = Options { ehlo_name: "me.test".into(), body_with_envelope: true };
        Self {
            client: Client::new(options),
            begun: 0,
            finished: 0,
            recipients: usize::from(choice & 3).max(1),
            body_ready: choice & 4 != 0,
            binary: choice & 32 != 0,
            tls: choice & 8 != 0,
            login: choice & 64 != 0,
            quit: choice & 16 != 0,
            open: false,
        }
    }

    fn drive(&mut self) {
        loop {
            while let Some(event) = self.client.poll_event() {
                self.note(event);
            }
            if self.open && self.client.can_begin() && self.begun < TRANSACTIONS_MAX {
                self.begin();
            } else if self.quit && self.begun == TRANSACTIONS_MAX {
                return self.client.quit();
            } else {
                return;
            }
        }
    }

    fn begin(&mut self) {
        let transaction = Transaction {
            sender: "s@b.test",
            parameters: Parameters { binary: self.binary, ..Parameters::default() },
            envid: None,
            secured: Ok(()),
            size: 4,
            body_ready: self.body_ready,
        };
        let recipient = |mailbox| Recipient { index: 0, mailbox, notify: Notify::DEFAULT, original: "" };
        let recipients = MAILBOXES[..self.recipients].iter().copied().map(recipient);
        self.client.begin(self.begun, transaction, (0..).zip(recipients));
        self.begun += 1;
    }

    fn note(&mut self, event: Event) {
        match event {
            Event::Ready if self.tls && self.client.capabilities().starttls => {
                self.tls = false;
                self.client.start_tls();
            }
            Event::Ready | Event::TlsRefused(_) if self.login => {
                self.login = false;
                let credentials = Credentials { user: "user".into(), password: b"password"[..].into() };
                self.client.log_in(&credentials, &[7; 18]);
            }
            Event::Ready | Event::TlsRefused(_) | Event::LoggedIn | Event::LoginRefused(_) => {
                self.open = true
            }
            Event::TlsWanted => self.client.tls_established(),
            Event::BodyWanted { tag } => {
                if self.client.body_piece(tag, b"x\r\n", false) {
                    self.client.body_piece(tag, b".", true);
                }
            }
            Event::Finished { tag, results, untried, in_doubt } => {
                assert_eq!(tag, self.finished, "transactions end in their order");
                self.finished += 1;
                let (mut seen, mut deferred) = (untried, 0);
                for result in &results {
                    assert_eq!(seen & result.recipients, 0, "a recipient has two results");
                    seen |= result.recipients;
                    // Code 0 is a refusal of our own, made before anything was said.
                    let class = result.reply.code / 100;
                    match result.verdict {
                        Verdict::Delivered | Verdict::Relayed | Verdict::Placed => {
                            assert_eq!(class, 2, "{result:?}")
                        }
                        Verdict::Deferred => deferred |= result.recipients,
                        Verdict::Failed => assert!(matches!(class, 0 | 5), "{result:?}"),
                    }
                }
                assert_eq!(seen, (1 << self.recipients) - 1, "a recipient has no result");
                assert_eq!(in_doubt & !(deferred | untried), 0, "in doubt and not tried again");
            }
            Event::Refused { .. } | Event::Closing(_) | Event::Closed | Event::BodyUnwanted { .. } => {}
        }
    }
}

type Replies = (Vec<(u16, String)>, bool);

fn replies(input: &[u8], step: usize) -> Replies {
    let (mut parser, mut seen) = (ReplyParser::default(), Vec::new());
    for mut piece in input.chunks(step) {
        while !piece.is_empty() {
            let Ok((taken, whole)) = parser.push(piece, |_, _| {}) else { return (seen, false) };
            piece = &piece[taken..];
            if whole {
                seen.push((parser.reply().code, parser.reply().text.clone()));
            }
        }
    }
    (seen, true)
}

/// The first byte chooses what the driver does, the second how many bytes come at a time; the rest is the remote's.
pub fn check(bytes: &[u8]) {
    let [choice, step, input @ ..] = bytes else { return };
    let step = 1 + usize::from(*step);
    assert_eq!(replies(input, step), replies(input, input.len().max(1)), "{}", input.escape_ascii());
    let mut driver = Driver::new(*choice);
    for piece in input.chunks(step) {
        if driver.client.handle(piece).is_err() {
            break;
        }
        driver.drive();
        driver.client.output().clear();
    }
    let loss = if choice.is_multiple_of(2) { Loss::Closed } else { Loss::GivenUp };
    driver.client.lost(loss, "end of input");
    driver.quit = false;
    driver.drive();
    assert_eq!(driver.finished, driver.begun, "a transaction was forgotten");
    assert!(!driver.client.can_begin());
}
