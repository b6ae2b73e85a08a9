//! PURE. The server side of one connection. Fed received bytes, it appends replies and tells the [`Host`] of messages.
//! It copies nothing but a command line that two reads share; content streams through as slices.

mod envelope;
mod replies;
#[cfg(test)]
mod tests;

use crate::clock::Micros;
use crate::sink::script::{Action, Moment, Script, Stage};
use crate::sink::session::envelope::Envelope;
use crate::sink::session::replies::{answer, refuse, scripted, slow};
use crate::wire::content::{Content, DotFinder};
use crate::wire::mark::{Id, Local, parse_digits};
use crate::wire::receipt::Receipt;
use crate::wire::reply::LineCutter;

/// How the sink behaves towards everybody, apart from its script.
#[derive(Clone, Debug)]
pub struct Manners {
    /// Sent on connect, without CRLF.
    pub banner: String,
    /// PIPELINING is offered.
    pub pipelining: bool,
    /// CHUNKING is offered, and BDAT understood (RFC 3030).
    pub chunking: bool,
    /// 8BITMIME, ENHANCEDSTATUSCODES, DSN and SMTPUTF8 are offered.
    pub modern: bool,
    /// The SIZE that is offered; nothing larger is refused for it, since the script says what is refused.
    pub size: u64,
    /// STARTTLS is offered.
    pub starttls: bool,
    /// The argument of AUTH PLAIN without which no mail is taken.
    pub auth: Option<String>,
    /// LMTP is spoken.
    pub lmtp: bool,
    /// Messages on a connection; then 421.
    pub messages_max: Option<u64>,
    /// Recipients of a message; then 452.
    pub recipients_max: Option<usize>,
}

impl Default for Manners {
    fn default() -> Self {
        Self {
            banner: "220 sink.load.invalid ESMTP ringpost-load".into(),
            pipelining: true,
            chunking: true,
            modern: true,
            size: 0,
            starttls: false,
            auth: None,
            lmtp: false,
            messages_max: None,
            recipients_max: None,
        }
    }
}

/// Counted by the session's host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    /// 4xx by the script.
    Deferred,
    /// 5xx by the script.
    Rejected,
    /// The script drops the connection.
    Dropped,
    /// 5xx to a bad command.
    Error,
}

/// A message that gets its 250.
#[derive(Debug)]
pub struct Delivery<'a> {
    /// What its header and body say.
    pub receipt: &'a Receipt,
    /// Its recipients.
    pub recipients: &'a [Local],
    /// From the null sender.
    pub null_sender: bool,
    /// The envelope as header lines, if the host keeps messages, else empty.
    pub envelope: &'a [u8],
    /// The whole content if the host keeps messages, else empty.
    pub content: &'a [u8],
}

/// What a session needs from whoever drives it.
pub trait Host {
    /// A message was taken.
    fn delivered(&mut self, delivery: &Delivery<'_>);
    /// The recipient at `index` of message `id` was refused for good.
    fn failed(&mut self, id: Id, index: u16);
    /// Something to count.
    fn count(&mut self, counted: Counted);
    /// A random number and the time since the sink started.
    fn moment(&mut self) -> Moment;
    /// A message begins: whether the sink's rate has room for it.
    fn admit(&mut self) -> bool;
    /// Reply bytes from this offset on leave that much later than those before them.
    fn hold(&mut self, from: usize, micros: Micros);
}

/// What does not change between sessions of a thread.
#[derive(Debug)]
pub struct Fixed<'a> {
    /// Who is refused.
    pub script: &'a Script,
    /// Everything else.
    pub manners: &'a Manners,
    /// Whole contents are handed to the host.
    pub keep: bool,
    /// The thread's search for dots.
    pub finder: &'a DotFinder,
}

/// What the driver does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Write the replies, read on.
    Continue,
    /// Write the replies, then begin the TLS handshake; what is in hand unread belongs to nobody.
    Secure,
    /// Write the replies, then close.
    Close,
    /// Close without a further reply.
    Drop,
}

#[derive(Debug)]
enum State {
    Command,
    Data(Content),
    /// Inside a BDAT chunk.
    Chunk {
        left: u64,
        last: bool,
    },
    /// Inside a BDAT chunk that nobody wants.
    Discard {
        left: u64,
    },
}

/// One connection's session.
#[derive(Debug)]
pub struct Session {
    state: State,
    cutter: LineCutter,
    envelope: Envelope,
    /// Messages begun.
    messages: u64,
    secure: bool,
    authenticated: bool,
}

const SEQUENCE: &[u8] = b"503 5.5.1 Bad sequence of commands\r\n";
const SYNTAX: &[u8] = b"501 5.5.4 Syntax error in parameters\r\n";

impl Default for Session {
    fn default() -> Self {
        Self {
            state: State::Command,
            cutter: LineCutter::default(),
            envelope: Envelope::default(),
            messages: 0,
            secure: false,
            authenticated: false,
        }
    }
}

impl Session {
    /// The connection is there: appends the greeting.
    pub fn greet(&mut self, fixed: &Fixed<'_>, out: &mut Vec<u8>, host: &mut impl Host) -> Flow {
        if let Some(flow) = scripted(fixed, Stage::Connect, b"", out, host) {
            return if flow == Flow::Continue { Flow::Close } else { flow };
        }
        out.extend_from_slice(fixed.manners.banner.as_bytes());
        out.extend_from_slice(b"\r\n");
        Flow::Continue
    }

    /// The TLS handshake is done: everything begins anew.
    pub fn secured(&mut self) {
        *self = Self { secure: true, ..Self::default() };
    }

    /// Takes received bytes and appends replies to `out`.
    pub fn receive(
        &mut self,
        fixed: &Fixed<'_>,
        mut bytes: &[u8],
        out: &mut Vec<u8>,
        host: &mut impl Host,
    ) -> Flow {
        let mut cutter = std::mem::take(&mut self.cutter);
        let mut flow = Flow::Continue;
        while flow == Flow::Continue && !bytes.is_empty() {
            flow = match &mut self.state {
                State::Command => match cutter.next(&mut bytes) {
                    Ok(Some(line)) => self.command(fixed, line, out, host),
                    Ok(None) => Flow::Continue,
                    Err(_) => {
                        out.extend_from_slice(b"500 5.5.2 Line too long\r\n");
                        Flow::Close
                    }
                },
                State::Data(content) => {
                    let envelope = &mut self.envelope;
                    match content.scan(fixed.finder, bytes, |piece| envelope.take(fixed.keep, piece)) {
                        Some(rest) => {
                            bytes = rest;
                            self.finish(fixed, out, host)
                        }
                        None => break,
                    }
                }
                State::Chunk { .. } | State::Discard { .. } => self.chunk(fixed, &mut bytes, out, host),
            };
        }
        self.cutter = cutter;
        flow
    }

    fn command(&mut self, fixed: &Fixed<'_>, line: &[u8], out: &mut Vec<u8>, host: &mut impl Host) -> Flow {
        let verb_end = line.iter().position(|byte| *byte == b' ').unwrap_or(line.len());
        let argument = line[verb_end..].trim_ascii();
        let mut verb = [0u8; 8];
        if let Some(place) = verb.get_mut(..verb_end) {
            place.copy_from_slice(&line[..verb_end]);
            place.make_ascii_uppercase();
        }
        let manners = fixed.manners;
        let reply: &[u8] = match &verb[..verb_end.min(8)] {
            b"MAIL" => return self.mail(fixed, argument, out, host),
            b"RCPT" => return self.rcpt(fixed, argument, out, host),
            b"DATA" => return self.data(fixed, out, host),
            b"BDAT" if manners.chunking => return self.bdat(fixed, argument, out, host),
            b"LHLO" if manners.lmtp => return self.hello(fixed, out, host),
            b"EHLO" if !manners.lmtp => return self.hello(fixed, out, host),
            b"HELO" if !manners.lmtp => {
                self.envelope.reset();
                b"250 sink.load.invalid\r\n"
            }
            b"STARTTLS" if manners.starttls && !self.secure => {
                out.extend_from_slice(b"220 2.0.0 Ready\r\n");
                return Flow::Secure;
            }
            b"AUTH" => self.auth(manners, argument),
            b"RSET" => {
                self.envelope.reset();
                b"250 2.0.0 Ok\r\n"
            }
            b"NOOP" => b"250 2.0.0 Ok\r\n",
            b"VRFY" => b"252 2.0.0 Send some mail\r\n",
            b"QUIT" => {
                out.extend_from_slice(b"221 2.0.0 Bye\r\n");
                return Flow::Close;
            }
            _ => b"500 5.5.1 Command not known\r\n",
        };
        answer(reply, out, host)
    }

    fn auth(&mut self, manners: &Manners, argument: &[u8]) -> &'static [u8] {
        let Some(expected) = &manners.auth else { return b"500 5.5.1 Command not known\r\n" };
        let space = memchr::memchr(b' ', argument).unwrap_or(argument.len());
        let words = (&argument[..space], argument[space..].trim_ascii());
        if self.authenticated {
            return SEQUENCE;
        }
        self.authenticated = words.0.eq_ignore_ascii_case(b"PLAIN") && words.1 == expected.as_bytes();
        if self.authenticated { b"235 2.7.0 Ok\r\n" } else { b"535 5.7.8 Wrong\r\n" }
    }

    fn hello(&mut self, fixed: &Fixed<'_>, out: &mut Vec<u8>, host: &mut impl Host) -> Flow {
        self.envelope.reset();
        if let Some(flow) = scripted(fixed, Stage::Hello, b"", out, host) {
            return flow;
        }
        let manners = fixed.manners;
        out.extend_from_slice(b"250-sink.load.invalid\r\n");
        for (offered, line) in [
            (manners.pipelining, "PIPELINING"),
            (manners.chunking, "CHUNKING"),
            (manners.starttls && !self.secure, "STARTTLS"),
            (manners.auth.is_some(), "AUTH PLAIN"),
            (manners.modern, "8BITMIME"),
            (manners.modern, "ENHANCEDSTATUSCODES"),
            (manners.modern, "DSN"),
            (manners.modern, "SMTPUTF8"),
        ] {
            if offered {
                out.extend_from_slice(format!("250-{line}\r\n").as_bytes());
            }
        }
        out.extend_from_slice(format!("250 SIZE {}\r\n", manners.size).as_bytes());
        Flow::Continue
    }

    fn mail(&mut self, fixed: &Fixed<'_>, argument: &[u8], out: &mut Vec<u8>, host: &mut impl Host) -> Flow {
        let manners = fixed.manners;
        if self.envelope.from.is_some() {
            return answer(SEQUENCE, out, host);
        }
        if manners.auth.is_some() && !self.authenticated {
            return answer(b"530 5.7.0 Authentication required\r\n", out, host);
        }
        let Some(address) = path(argument, b"FROM:") else { return answer(SYNTAX, out, host) };
        if manners.messages_max.is_some_and(|most| self.messages >= most) {
            host.count(Counted::Deferred);
            out.extend_from_slice(b"421 4.7.0 Too many messages on this connection\r\n");
            return Flow::Close;
        }
        self.envelope.turned_away = true;
        if let Some(flow) = scripted(fixed, Stage::Mail, address, out, host) {
            return flow;
        }
        if !host.admit() {
            host.count(Counted::Deferred);
            out.extend_from_slice(b"450 4.7.1 Too many messages, slow down\r\n");
            return Flow::Continue;
        }
        self.envelope.turned_away = false;
        self.messages += 1;
        self.envelope.note(fixed.keep, [b"Return-Path: <", address, b">\r\n"]);
        self.envelope.null_sender = address.is_empty();
        self.envelope.from = Some(match Local::parse(local(address)) {
            Local::Sender(id) => Some(id),
            Local::Recipient { .. } | Local::Foreign => None,
        });
        out.extend_from_slice(b"250 2.1.0 Ok\r\n");
        Flow::Continue
    }

    fn rcpt(&mut self, fixed: &Fixed<'_>, argument: &[u8], out: &mut Vec<u8>, host: &mut impl Host) -> Flow {
        let address = path(argument, b"TO:").filter(|address| !address.is_empty());
        let (Some(from), Some(address)) = (self.envelope.from, address) else {
            if !self.envelope.turned_away || address.is_none() {
                host.count(Counted::Error);
            }
            out.extend_from_slice(if address.is_some() { SEQUENCE } else { SYNTAX });
            return Flow::Continue;
        };
        if fixed.manners.recipients_max.is_some_and(|most| self.envelope.recipients.len() >= most) {
            host.count(Counted::Deferred);
            out.extend_from_slice(b"452 4.5.3 Too many recipients\r\n");
            return Flow::Continue;
        }
        let recipient = Local::parse(local(address));
        if !fixed.script.is_empty() {
            let moment = host.moment();
            let decide = |stage, salt| fixed.script.decide(stage, address, moment.salted(salt));
            let decision = decide(Stage::Rcpt, 0);
            slow(decision, out, host);
            if let Some(action) = fixed.script.action(decision) {
                if action.is_permanent() {
                    failed(from, recipient, host);
                }
                return refuse(action, moment, out, host);
            }
            let Envelope { at_data, at_dot, each_at_dot, .. } = &mut self.envelope;
            // A refusal there is of all recipients (but for LMTP's after the dot), so it counts for each of them.
            *at_data = at_data.or(decide(Stage::Data, 1));
            let dot = decide(Stage::Dot, 2);
            *at_dot = at_dot.or(dot);
            if fixed.manners.lmtp {
                each_at_dot.push(dot);
            }
        }
        self.envelope.note(fixed.keep, [b"Delivered-To: ", address, b"\r\n"]);
        self.envelope.recipients.push(recipient);
        out.extend_from_slice(b"250 2.1.5 Ok\r\n");
        Flow::Continue
    }

    fn data(&mut self, fixed: &Fixed<'_>, out: &mut Vec<u8>, host: &mut impl Host) -> Flow {
        if self.envelope.recipients.is_empty() || self.envelope.chunking {
            self.out_of_order(out, host);
            return Flow::Continue;
        }
        slow(self.envelope.at_data, out, host);
        if let Some(action) = fixed.script.action(self.envelope.at_data) {
            return self.refuse_all(action, out, host);
        }
        out.extend_from_slice(b"354 End data with <CR><LF>.<CR><LF>\r\n");
        self.state = State::Data(Content::default());
        Flow::Continue
    }

    /// Content without anybody to get it. After refused recipients that is no mistake: a pipelining client has sent the
    /// command before it could know (RFC 2920 §3.1).
    fn out_of_order(&self, out: &mut Vec<u8>, host: &mut impl Host) {
        if self.envelope.from.is_some() && !self.envelope.chunking {
            out.extend_from_slice(b"554 5.5.1 No valid recipients\r\n");
        } else {
            if !self.envelope.turned_away {
                host.count(Counted::Error);
            }
            out.extend_from_slice(SEQUENCE);
        }
    }

    fn bdat(&mut self, fixed: &Fixed<'_>, argument: &[u8], out: &mut Vec<u8>, host: &mut impl Host) -> Flow {
        let mut words = argument.split(|byte| *byte == b' ');
        let (left, last) = (words.next().and_then(parse_digits), words.next());
        let last = match (left, last) {
            (Some(_), None) => false,
            (Some(_), Some(word)) if word.eq_ignore_ascii_case(b"LAST") => true,
            // Where the chunk ends is not known, so nothing behind it can be understood.
            _ => {
                host.count(Counted::Error);
                out.extend_from_slice(SYNTAX);
                return Flow::Close;
            }
        };
        let left = left.unwrap_or(0);
        let mut flow = Flow::Continue;
        let mut wanted = !self.envelope.recipients.is_empty();
        if !wanted {
            self.out_of_order(out, host);
        } else if !self.envelope.chunking {
            slow(self.envelope.at_data, out, host);
            if let Some(action) = fixed.script.action(self.envelope.at_data) {
                wanted = false;
                flow = self.refuse_all(action, out, host);
            }
        }
        self.envelope.chunking = wanted;
        self.state = if wanted { State::Chunk { left, last } } else { State::Discard { left } };
        if flow == Flow::Continue && left == 0 {
            // No byte will come to end it.
            flow = self.chunk(fixed, &mut &b""[..], out, host);
        }
        flow
    }

    fn chunk(
        &mut self,
        fixed: &Fixed<'_>,
        bytes: &mut &[u8],
        out: &mut Vec<u8>,
        host: &mut impl Host,
    ) -> Flow {
        let (State::Chunk { left, .. } | State::Discard { left }) = &mut self.state else {
            return Flow::Continue;
        };
        let here = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
        let (piece, rest) = bytes.split_at(here);
        *bytes = rest;
        *left -= here as u64;
        let ended = *left == 0;
        match self.state {
            State::Chunk { last, .. } => {
                self.envelope.take(fixed.keep, piece);
                if ended && last {
                    return self.finish(fixed, out, host);
                }
                if ended {
                    out.extend_from_slice(b"250 2.0.0 Ok\r\n");
                    self.state = State::Command;
                }
            }
            _ if ended => self.state = State::Command,
            _ => {}
        }
        Flow::Continue
    }

    /// The whole message is here.
    fn finish(&mut self, fixed: &Fixed<'_>, out: &mut Vec<u8>, host: &mut impl Host) -> Flow {
        self.state = State::Command;
        slow(self.envelope.at_dot, out, host);
        if fixed.manners.lmtp {
            return self.finish_each(fixed, out, host);
        }
        if let Some(action) = fixed.script.action(self.envelope.at_dot) {
            return self.refuse_all(action, out, host);
        }
        self.envelope.deliver(host);
        out.extend_from_slice(b"250 2.0.0 Ok\r\n");
        self.envelope.reset();
        Flow::Continue
    }

    /// The same with LMTP: each recipient has a reply of its own (RFC 2033 §4.2).
    fn finish_each(&mut self, fixed: &Fixed<'_>, out: &mut Vec<u8>, host: &mut impl Host) -> Flow {
        let moment = host.moment();
        let mut flow = Flow::Continue;
        let mut decisions = std::mem::take(&mut self.envelope.each_at_dot).into_iter();
        let from = self.envelope.from.flatten();
        self.envelope.recipients.retain(|recipient| {
            let action = decisions.next().and_then(|decision| fixed.script.action(decision));
            match action {
                _ if flow != Flow::Continue => return false,
                None => out.extend_from_slice(b"250 2.0.0 Ok\r\n"),
                Some(action) => {
                    if action.is_permanent() {
                        failed(from, *recipient, host);
                    }
                    flow = refuse(action, moment, out, host);
                }
            }
            action.is_none()
        });
        if !self.envelope.recipients.is_empty() {
            self.envelope.deliver(host);
        }
        self.envelope.reset();
        flow
    }

    /// Refuses the transaction for all its recipients, and forgets it.
    fn refuse_all(&mut self, action: &Action, out: &mut Vec<u8>, host: &mut impl Host) -> Flow {
        if let Some(from) = self.envelope.from
            && action.is_permanent()
        {
            self.envelope.recipients.iter().for_each(|recipient| failed(from, *recipient, host));
        }
        self.envelope.reset();
        let moment = host.moment();
        refuse(action, moment, out, host)
    }
}

fn failed(from: Option<Id>, recipient: Local, host: &mut impl Host) {
    // The envelope alone says whose message this is: at RCPT there is no header yet.
    if let (Some(id), Local::Recipient { number, index }) = (from, recipient)
        && id.number == number
    {
        host.failed(id, index);
    }
}

/// The address in `FROM:<address> parameters`, lenient about spaces.
fn path<'a>(argument: &'a [u8], keyword: &[u8]) -> Option<&'a [u8]> {
    let (word, rest) = argument.split_at_checked(keyword.len())?;
    if !word.eq_ignore_ascii_case(keyword) {
        return None;
    }
    let rest = rest.trim_ascii_start().strip_prefix(b"<")?;
    // A quoted local part may hold `>`; the last one before the parameters is not worth finding in a sink.
    Some(&rest[..memchr::memchr(b'>', rest)?])
}

fn local(address: &[u8]) -> &[u8] {
    &address[..memchr::memrchr(b'@', address).unwrap_or(address.len())]
}
