//! A remote that follows a script and keeps what it takes: a thread for each connection, for few connections.

use std::cell::RefCell;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::eventually;

/// Where in a session the script is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Banner,
    Ehlo,
    StartTls,
    Mail,
    Rcpt,
    Data,
    Dot,
}

/// What the script is told.
pub struct Moment<'a> {
    pub stage: Stage,
    /// The mailbox, of MAIL the sender's, of RCPT the recipient's; else empty.
    pub mailbox: &'a str,
    /// How often the script was asked at this stage for this mailbox before.
    pub before: usize,
    /// The other end of the connection.
    pub peer: IpAddr,
    /// Sessions that were accepted and are open, this one left out at its banner.
    pub open: usize,
}

/// What the sink does instead of accepting.
#[derive(Clone, Debug)]
pub enum Act {
    /// Goes on.
    Accept,
    /// Says this line and goes on; a 421 ends the session.
    Say(&'static str),
    /// Closes the connection without a word.
    Drop,
}

/// A message that was taken.
#[derive(Clone, Debug)]
pub struct Taken {
    /// The sender's mailbox; empty is the null sender.
    pub sender: String,
    /// What stood behind the sender's path.
    pub mail_parameters: String,
    /// Mailboxes, each with what stood behind it.
    pub recipients: Vec<(String, String)>,
    /// As received, dots undone.
    pub content: Vec<u8>,
    /// The address on which it came in.
    pub at: SocketAddr,
    /// Where it came from.
    pub peer: IpAddr,
    /// What the client called itself.
    pub helo: String,
}

impl Taken {
    /// The content behind the relay's Received header.
    pub fn original(&self) -> &[u8] {
        assert!(
            self.content.starts_with(b"Received: "),
            "{}",
            self.content[..80.min(self.content.len())].escape_ascii()
        );
        let mut at = 0;
        loop {
            let end = self.content[at..].iter().position(|byte| *byte == b'\n').expect("a line end");
            at += end + 1;
            if !matches!(self.content.get(at), Some(b' ' | b'\t')) {
                return &self.content[at..];
            }
        }
    }

    /// The mailboxes alone.
    pub fn mailboxes(&self) -> Vec<&str> {
        self.recipients.iter().map(|(mailbox, _)| mailbox.as_str()).collect()
    }
}

type Script = dyn Fn(&Moment) -> Act + Send + Sync;

struct Shared {
    script: Box<Script>,
    offers: &'static [&'static str],
    taken: Mutex<Vec<Taken>>,
    asked: Mutex<Vec<(Stage, String)>>,
    sessions: Mutex<Sessions>,
    greeting: Mutex<()>,
    connections: Mutex<Vec<TcpStream>>,
}

/// Accepted sessions: open now, and the most that ever were at once.
#[derive(Clone, Copy, Default)]
struct Sessions {
    open: usize,
    peak: usize,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a usual remote offers.
pub const USUAL: &[&str] =
    &["PIPELINING", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES", "DSN", "SIZE 100000000"];

/// A running sink; its threads end with the test process.
#[derive(Clone)]
pub struct Sink {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Sink {
    /// Takes everything.
    pub fn start() -> Self {
        Self::scripted(|_| Act::Accept)
    }

    /// Follows a script.
    pub fn scripted(script: impl Fn(&Moment) -> Act + Send + Sync + 'static) -> Self {
        Self::on(&[([127, 0, 0, 1], 0).into()], USUAL, script)
    }

    /// On these addresses, with these offers.
    pub fn on(
        addresses: &[SocketAddr],
        offers: &'static [&'static str],
        script: impl Fn(&Moment) -> Act + Send + Sync + 'static,
    ) -> Self {
        let shared = Arc::new(Shared {
            script: Box::new(script),
            offers,
            taken: Mutex::default(),
            asked: Mutex::default(),
            sessions: Mutex::default(),
            greeting: Mutex::default(),
            connections: Mutex::default(),
        });
        let mut first = None;
        for address in addresses {
            // Another test's look for a free port, or its child between fork and exec, may hold the port for a moment.
            let listener =
                super::eventually(&format!("{address} is free"), || TcpListener::bind(address).ok());
            let bound = listener.local_addr().expect("bound");
            first.get_or_insert(bound);
            let shared = shared.clone();
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let shared = shared.clone();
                    locked(&shared.connections).extend(stream.try_clone());
                    std::thread::spawn(move || Session::new(&shared, &stream, bound).serve());
                }
            });
        }
        Self { address: first.expect("at least one address"), shared }
    }

    /// Its first address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// All it has taken.
    pub fn taken(&self) -> Vec<Taken> {
        locked(&self.shared.taken).clone()
    }

    /// How often the script was asked at a stage.
    pub fn asked(&self, stage: Stage) -> usize {
        locked(&self.shared.asked).iter().filter(|(at, _)| *at == stage).count()
    }

    /// The most sessions that were open at once; one that was refused at its banner is none.
    pub fn peak(&self) -> usize {
        locked(&self.shared.sessions).peak
    }

    /// Closes all connections without a word, whatever goes on in them.
    pub fn hang_up(&self) {
        for connection in locked(&self.shared.connections).drain(..) {
            // One that is closed already is none to be closed.
            let _ = connection.shutdown(std::net::Shutdown::Both);
        }
    }

    /// Waits until it has taken at least `count`.
    pub fn await_taken(&self, count: usize) -> Vec<Taken> {
        eventually(&format!("{count} messages at the sink"), || {
            Some(self.taken()).filter(|taken| taken.len() >= count)
        })
    }

    /// Waits for a message to a mailbox.
    pub fn await_to(&self, mailbox: &str) -> Taken {
        eventually(&format!("a message to {mailbox}"), || {
            self.taken().into_iter().find(|taken| taken.mailboxes().contains(&mailbox))
        })
    }
}

struct Session<'a> {
    shared: &'a Shared,
    stream: &'a TcpStream,
    at: SocketAddr,
    peer: IpAddr,
    helo: RefCell<String>,
}

/// The session is over: dropped, refused with 421, or gone.
struct Over;

impl From<std::io::Error> for Over {
    fn from(_: std::io::Error) -> Self {
        Self
    }
}

impl<'a> Session<'a> {
    fn new(shared: &'a Shared, stream: &'a TcpStream, at: SocketAddr) -> Self {
        // Who is gone already says nothing more.
        let peer = stream.peer_addr().map_or(Ipv4Addr::UNSPECIFIED.into(), |peer| peer.ip());
        Self { shared, stream, at, peer, helo: RefCell::default() }
    }

    fn serve(&self) {
        let _ = self.greet().and_then(|accepted| {
            let over = self.dialogue();
            // Counted out before the relay hears of the end, and may open the next one.
            locked(&self.shared.sessions).open -= usize::from(accepted);
            over.and_then(|bye| self.say(bye))
        });
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }

    /// The banner, of one session at a time; says whether the session was accepted.
    fn greet(&self) -> Result<bool, Over> {
        let _alone = locked(&self.shared.greeting);
        let accepted = self.ask(Stage::Banner, "", "220 sink.test ESMTP")?;
        let mut sessions = locked(&self.shared.sessions);
        sessions.open += usize::from(accepted);
        sessions.peak = sessions.peak.max(sessions.open);
        Ok(accepted)
    }

    /// Asks the script and says what it says, or `otherwise`; whether it accepts.
    fn ask(&self, stage: Stage, mailbox: &str, otherwise: &str) -> Result<bool, Over> {
        let before = {
            let mut asked = locked(&self.shared.asked);
            let before = asked.iter().filter(|(at, who)| *at == stage && who == mailbox).count();
            asked.push((stage, mailbox.to_owned()));
            before
        };
        let (open, peer) = (locked(&self.shared.sessions).open, self.peer);
        match (self.shared.script)(&Moment { stage, mailbox, before, peer, open }) {
            Act::Accept => {
                self.say(otherwise)?;
                Ok(true)
            }
            Act::Say(line) => {
                self.say(line)?;
                if line.starts_with("421") { Err(Over) } else { Ok(false) }
            }
            Act::Drop => Err(Over),
        }
    }

    fn say(&self, line: &str) -> Result<(), Over> {
        let mut stream = self.stream;
        Ok(stream.write_all(format!("{line}\r\n").as_bytes())?)
    }

    /// From behind the banner to the last words, which the caller says.
    fn dialogue(&self) -> Result<&'static str, Over> {
        let mut reader = BufReader::new(self.stream);
        let mut message = self.fresh();
        loop {
            let mut line = Vec::new();
            if reader.read_until(b'\n', &mut line)? == 0 {
                return Err(Over);
            }
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            let (verb, rest) = line.split_once(' ').unwrap_or((&line, ""));
            match verb.to_ascii_uppercase().as_str() {
                "EHLO" | "HELO" => {
                    self.helo.replace(rest.to_owned());
                    self.hello()?;
                }
                "MAIL" => {
                    let (mailbox, parameters) = path(rest);
                    if self.ask(Stage::Mail, &mailbox, "250 2.1.0 ok")? {
                        message = Taken { sender: mailbox, mail_parameters: parameters, ..self.fresh() };
                    }
                }
                "RCPT" => {
                    let recipient = path(rest);
                    if self.ask(Stage::Rcpt, &recipient.0, "250 2.1.5 ok")? {
                        message.recipients.push(recipient);
                    }
                }
                "DATA" if message.recipients.is_empty() => self.say("554 5.5.1 no valid recipients")?,
                "DATA" => {
                    if self.ask(Stage::Data, &message.recipients[0].0, "354 go on")? {
                        message.content = read_data(&mut reader)?;
                        message = self.end(message)?;
                    }
                }
                "BDAT" => {
                    let mut words = rest.split(' ');
                    let size = words.next().and_then(|size| size.parse::<usize>().ok()).ok_or(Over)?;
                    let start = message.content.len();
                    message.content.resize(start + size, 0);
                    reader.read_exact(&mut message.content[start..])?;
                    if words.next().is_none() {
                        self.say("250 2.0.0 ok")?;
                    } else if message.recipients.is_empty() {
                        self.say("554 5.5.1 no valid recipients")?;
                    } else {
                        message = self.end(message)?;
                    }
                }
                "RSET" => {
                    message = self.fresh();
                    self.say("250 2.0.0 ok")?;
                }
                // One that offers TLS and has none.
                "STARTTLS" => {
                    if self.ask(Stage::StartTls, "", "220 2.0.0 go ahead")? {
                        return Err(Over);
                    }
                }
                "QUIT" => return Ok("221 2.0.0 bye"),
                _ => self.say("500 5.5.1 what?")?,
            }
        }
    }

    fn fresh(&self) -> Taken {
        Taken {
            sender: String::new(),
            mail_parameters: String::new(),
            recipients: Vec::new(),
            content: Vec::new(),
            at: self.at,
            peer: self.peer,
            helo: self.helo.borrow().clone(),
        }
    }

    fn hello(&self) -> Result<(), Over> {
        let mut lines = vec!["250-sink.test".to_owned()];
        lines.extend(self.shared.offers.iter().map(|offer| format!("250-{offer}")));
        if let Some(last) = lines.last_mut() {
            last.replace_range(3..4, " ");
        }
        self.ask(Stage::Ehlo, "", &lines.join("\r\n"))?;
        Ok(())
    }

    /// The end of a message: kept before the 250 is written, so that who sees the 250 sees the message.
    fn end(&self, message: Taken) -> Result<Taken, Over> {
        let mailbox = message.recipients[0].0.clone();
        let before = {
            let mut asked = locked(&self.shared.asked);
            let before = asked.iter().filter(|(at, who)| *at == Stage::Dot && *who == mailbox).count();
            asked.push((Stage::Dot, mailbox.clone()));
            before
        };
        let (open, peer) = (locked(&self.shared.sessions).open, self.peer);
        match (self.shared.script)(&Moment { stage: Stage::Dot, mailbox: &mailbox, before, peer, open }) {
            Act::Accept => {
                locked(&self.shared.taken).push(message);
                self.say("250 2.0.0 taken")?;
            }
            Act::Say(line) => {
                self.say(line)?;
                if line.starts_with("421") {
                    return Err(Over);
                }
            }
            Act::Drop => return Err(Over),
        }
        Ok(self.fresh())
    }
}

/// `FROM:<a@b> PARAMETERS` → mailbox and parameters.
fn path(rest: &str) -> (String, String) {
    let inner = rest.split_once('<').map_or("", |(_, inner)| inner);
    let (mailbox, parameters) = inner.split_once('>').unwrap_or((inner, ""));
    (mailbox.to_owned(), parameters.trim().to_owned())
}

fn read_data(reader: &mut impl BufRead) -> Result<Vec<u8>, Over> {
    let mut content = Vec::new();
    loop {
        let mut line = Vec::new();
        if reader.read_until(b'\n', &mut line)? == 0 {
            return Err(Over);
        }
        assert!(line.ends_with(b"\r\n") || !line.ends_with(b"\n"), "the relay sent a bare LF");
        match line.as_slice() {
            b".\r\n" => return Ok(content),
            [b'.', rest @ ..] => content.extend_from_slice(rest),
            all => content.extend_from_slice(all),
        }
    }
}
