//! PURE. The state machine of a session. Its picture is in the module above.

use std::io::Write as _;

use crate::envelope::EnvelopeBuilder;
use crate::id::MessageId;
use crate::protocol::body::Decoder;
use crate::protocol::command::{self, Bdat, Verb};
use crate::protocol::extension::Extensions;
use crate::protocol::line::{Found, LineFault, LineScanner};
use crate::protocol::reply::{self, Refusal};
use crate::protocol::sasl::{Claim, Exchange};
use crate::protocol::server::rules::{Argument, Phase, rule_of};
use crate::protocol::server::{AuthOffer, Channel, ERRORS_MAX, Options, Policy, Want};
use crate::protocol::xclient;

/// Longest client name that is kept, bytes: names are at most this long (RFC 5321 §4.5.3.1.2).
const HELO_BYTES_MAX: usize = 255;

/// What is going on. Each variant holds what exists only then.
#[derive(Debug)]
pub(super) enum State {
    /// No transaction.
    Idle,
    /// MAIL was accepted. `tried`: there was a well-formed RCPT, accepted or not.
    Mail { tried: bool },
    /// DATA was accepted; 354 is written when the driver steps again.
    BeginData,
    /// Behind 354. `refused`: the driver does not want it; read on and say so at its end.
    Data { decoder: Decoder, refused: Option<Refusal> },
    /// The first BDAT was accepted; its octets are next.
    BeginChunk(Bdat),
    /// Inside a BDAT chunk with `left` octets to come.
    Chunk { decoder: Decoder, bdat: Bdat, left: u64 },
    /// Between BDAT chunks.
    Between(Decoder),
    /// Octets of a BDAT that failed are dropped; then the client is told. The transaction is over already.
    Swallow { left: u64, refusal: Refusal, replies: usize },
    /// 220 to STARTTLS is written; the driver shakes hands.
    Handshake,
    /// A proxy has named its client; the driver takes it over.
    Introduced(xclient::Client),
    /// Inside AUTH: a response is next.
    Login(Exchange),
    /// What the client claims is with the driver.
    Claiming(Claim),
    /// The message is with the driver.
    Committing,
    /// Nothing more is read.
    Closed,
}

/// One session. Keeps its memory from transaction to transaction.
#[derive(Debug)]
pub struct Session {
    pub(super) state: State,
    lines: LineScanner,
    /// Name from EHLO or HELO; empty before.
    helo: String,
    extended: bool,
    /// The client said LHLO.
    lmtp: bool,
    /// Over TLS.
    secured: bool,
    /// XCLIENT is offered.
    is_proxy: bool,
    pub(super) auth: AuthOffer,
    pub(super) user: Option<Box<str>>,
    pub(super) envelope: EnvelopeBuilder,
    errors: u32,
    /// A body was given up and the driver has not been told.
    discard: bool,
}

impl Default for Session {
    fn default() -> Self {
        Self::new()
    }
}

impl Session {
    /// A session to which nothing has been said yet.
    pub fn new() -> Self {
        Self {
            state: State::Idle,
            lines: LineScanner::default(),
            helo: String::new(),
            extended: false,
            lmtp: false,
            secured: false,
            is_proxy: false,
            auth: AuthOffer::None,
            user: None,
            envelope: EnvelopeBuilder::default(),
            errors: 0,
            discard: false,
        }
    }

    /// Appends the greeting: the first thing to send.
    pub fn banner(&self, options: &Options, out: &mut Vec<u8>) {
        out.extend_from_slice(&options.banner);
    }

    /// Name the client gave, cleaned: printable ASCII, no blanks, at most 255 bytes; empty before EHLO or HELO.
    pub fn helo(&self) -> &str {
        &self.helo
    }

    /// Whether the client said EHLO or LHLO.
    pub fn is_extended(&self) -> bool {
        self.extended
    }

    /// Whether the client said LHLO.
    pub fn is_lmtp(&self) -> bool {
        self.lmtp
    }

    /// Whether the session is over TLS.
    pub fn is_secured(&self) -> bool {
        self.secured
    }

    /// TLS stands from the first byte: to be said before the banner.
    pub fn begin_secured(&mut self) {
        self.secured = true;
    }

    /// The handshake is done. All that the client said in the clear is forgotten (RFC 3207 §4.2).
    pub fn tls_established(&mut self) {
        assert!(matches!(self.state, State::Handshake), "TLS comes after Want::StartTls");
        *self = Self { secured: true, is_proxy: self.is_proxy, ..Self::new() };
    }

    /// Offers XCLIENT: this client is a proxy that may say for whom it speaks.
    pub fn offer_xclient(&mut self) {
        self.is_proxy = true;
    }

    /// After [`Want::NewClient`]: who the proxy speaks for. The session begins anew, as that client's, and with nothing
    /// offered that only the proxy may.
    pub fn introduce(&mut self) -> xclient::Client {
        let State::Introduced(client) = std::mem::replace(&mut self.state, State::Idle) else {
            panic!("an introduction comes after Want::NewClient");
        };
        *self = Self { secured: self.secured, errors: self.errors, ..Self::new() };
        self.extended = client.extended == Some(true);
        self.helo.extend(client.helo.iter().flat_map(|name| clean(name)));
        client
    }

    /// Whether a message is on its way: what a driver that stops may want to wait for.
    pub fn is_in_transaction(&self) -> bool {
        !matches!(
            self.state,
            State::Idle
                | State::Handshake
                | State::Introduced(_)
                | State::Login(_)
                | State::Claiming(_)
                | State::Closed
                | State::Swallow { .. }
        )
    }

    /// Envelope of the open transaction.
    pub fn envelope(&mut self) -> &mut EnvelopeBuilder {
        &mut self.envelope
    }

    /// Goes on with `input`, which starts with the bytes left unconsumed by the last call. Appends replies to `out` and
    /// decoded octets to `body`, up to [`BODY_INLINE_BYTES_MAX`](crate::limits::BODY_INLINE_BYTES_MAX). Returns bytes consumed, and what is needed next;
    /// for [`Want::Read`] the rest is less than a command line. The driver's buffer must have room for a longest line.
    pub fn step(
        &mut self,
        options: &Options,
        policy: &mut dyn Policy,
        input: &[u8],
        out: &mut Vec<u8>,
        body: &mut Vec<u8>,
    ) -> (usize, Want) {
        let mut used = 0;
        loop {
            if std::mem::take(&mut self.discard) {
                return (used, Want::Discard);
            }
            let rest = &input[used..];
            let (consumed, want) = match &mut self.state {
                State::Closed => (0, Some(Want::Close)),
                State::Committing => (0, Some(Want::Commit)),
                State::Handshake => (0, Some(Want::StartTls)),
                State::Introduced(_) => (0, Some(Want::NewClient)),
                State::Claiming(_) => (0, Some(Want::Authenticate)),
                State::BeginData => {
                    out.extend_from_slice(reply::line::START_DATA);
                    self.state = State::Data { decoder: Decoder::data(options.size_max), refused: None };
                    (0, None)
                }
                State::BeginChunk(bdat) => {
                    let bdat = *bdat;
                    let binary = self.envelope.parameters().binary;
                    let new = if binary { Decoder::binary } else { Decoder::chunks };
                    let decoder = new(options.size_max);
                    self.begin_chunk(decoder, bdat);
                    (0, None)
                }
                State::Data { .. } => self.data(rest, out, body),
                State::Chunk { .. } => self.chunk(rest, out, body),
                State::Swallow { .. } => self.swallow(rest, out),
                State::Idle | State::Mail { .. } | State::Between(_) | State::Login(_) => {
                    self.line(options, policy, rest, out)
                }
            };
            used += consumed;
            if let Some(want) = want {
                return (used, want);
            }
        }
    }

    /// Instead of taking the body (after [`Want::BeginBody`]) or in the middle of it (after [`Want::Chunk`]): the client
    /// is told `refusal` as soon as the protocol allows it. Step again afterwards.
    pub fn refuse_body(&mut self, refusal: Refusal, out: &mut Vec<u8>) {
        match &mut self.state {
            State::BeginData => {
                refusal.write(out);
                self.end_transaction();
            }
            State::Data { refused, .. } => *refused = Some(refusal),
            State::BeginChunk(bdat) => {
                let bdat = *bdat;
                self.fail_chunk(bdat, bdat.size, refusal);
            }
            State::Chunk { bdat, left, .. } => {
                let (bdat, left) = (*bdat, *left);
                self.fail_chunk(bdat, left, refusal);
            }
            // No body is open: nothing to refuse.
            _ => {}
        }
    }

    /// After [`Want::Commit`]: the message is durable under an id, or it is refused. Ends the transaction.
    pub fn committed(&mut self, result: Result<MessageId, Refusal>, out: &mut Vec<u8>) {
        assert!(matches!(self.state, State::Committing), "only a complete message can be committed");
        match result {
            Ok(id) => {
                (0..self.end_replies()).for_each(|_| reply::push_queued(out, id));
                self.errors = 0;
            }
            Err(refusal) => refusal.write_each(self.end_replies(), out),
        }
        self.end_transaction();
    }

    /// How many replies the end of a message gets. One record holds all recipients, so they are all the same.
    pub(super) fn end_replies(&self) -> usize {
        if self.lmtp { self.envelope.recipient_count() } else { 1 }
    }

    /// Says `refusal` (a 421) and ends the session; the next step wants [`Want::Close`]. What was not answered yet is
    /// not accepted.
    pub fn close(&mut self, refusal: &Refusal, out: &mut Vec<u8>) {
        if !matches!(self.state, State::Closed) {
            refusal.write(out);
        }
        self.end_transaction();
        self.discard = false;
        self.state = State::Closed;
    }

    /// The one place where a transaction ends, however it does.
    pub(super) fn end_transaction(&mut self) {
        let begun = matches!(self.state, State::Data { .. } | State::Chunk { .. } | State::Between(_));
        self.discard |= begun;
        self.envelope.reset();
        self.state = State::Idle;
    }

    fn line(
        &mut self,
        options: &Options,
        policy: &mut dyn Policy,
        input: &[u8],
        out: &mut Vec<u8>,
    ) -> (usize, Option<Want>) {
        match self.lines.next(input) {
            Found::Incomplete { consumed } => (consumed, Some(Want::Read)),
            Found::BareLf => {
                self.close(&reply::BARE_LF, out);
                (0, None)
            }
            Found::Bad { fault, consumed } => {
                let refusal = match fault {
                    LineFault::TooLong => &reply::LINE_TOO_LONG,
                    LineFault::BareCr => &reply::BARE_CR,
                };
                self.refuse(refusal, out);
                (consumed, None)
            }
            Found::Line { line, consumed } => {
                let done = match self.state {
                    State::Login(_) => self.response(policy, line, out),
                    _ => self.command(options, policy, line, out),
                };
                let want = done.unwrap_or_else(|refusal| {
                    self.refuse(&refusal, out);
                    None
                });
                (consumed, want)
            }
        }
    }

    /// Says no, and ends the session of a client that makes too many errors.
    pub(super) fn refuse(&mut self, refusal: &Refusal, out: &mut Vec<u8>) {
        refusal.write(out);
        self.errors += u32::from(!refusal.is_temporary());
        if self.errors >= ERRORS_MAX {
            self.close(&reply::TOO_MANY_ERRORS, out);
        }
    }

    fn phase(&self) -> Phase {
        match self.state {
            _ if self.helo.is_empty() => Phase::Start,
            State::Mail { .. } if self.envelope.recipient_count() > 0 => Phase::Recipients,
            State::Mail { tried: true } => Phase::NoRecipients,
            State::Mail { tried: false } => Phase::Sender,
            State::Between(_) => Phase::Chunks,
            _ => Phase::Idle,
        }
    }

    fn command(
        &mut self,
        options: &Options,
        policy: &mut dyn Policy,
        line: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Option<Want>, Refusal> {
        let (verb, arguments) = command::split(line)?;
        let rule = rule_of(verb);
        self.check_offered(options, verb)?;
        let refusal = rule.refusal(self.phase());
        if verb == Verb::Bdat {
            return self.bdat(options, arguments, refusal, out);
        }
        if let Some(refusal) = refusal {
            return Err(refusal.clone());
        }
        if match rule.argument {
            Argument::Nothing => !arguments.is_empty(),
            Argument::Something => arguments.is_empty(),
            Argument::Anything => false,
        } {
            return Err(reply::BAD_ARGUMENTS);
        }
        match verb {
            Verb::Mail => self.mail(options, policy, arguments, out)?,
            Verb::Rcpt => self.rcpt(options, policy, arguments, out)?,
            // RFC 3030 §3: a binary body has no lines that a dot could stand alone on.
            Verb::Data if self.envelope.parameters().binary => return Err(reply::NEEDS_BDAT),
            Verb::Data => {
                self.state = State::BeginData;
                return Ok(Some(Want::BeginBody));
            }
            Verb::Ehlo | Verb::Helo | Verb::Lhlo => {
                self.lmtp = verb == Verb::Lhlo;
                self.hello(options, verb != Verb::Helo, arguments, out);
            }
            Verb::Rset => {
                self.end_transaction();
                out.extend_from_slice(reply::line::RESET);
            }
            Verb::Noop => out.extend_from_slice(reply::line::NOTHING_DONE),
            Verb::Vrfy => out.extend_from_slice(reply::line::CANNOT_VERIFY),
            Verb::Help => out.extend_from_slice(reply::line::HELP),
            Verb::Quit => {
                out.extend_from_slice(reply::line::BYE);
                self.end_transaction();
                self.discard = false;
                self.state = State::Closed;
            }
            // Not a word: a browser that shows the answer to a page would help whoever wrote the page.
            Verb::Http => self.state = State::Closed,
            Verb::StartTls => {
                out.extend_from_slice(reply::line::START_TLS);
                self.state = State::Handshake;
                return Ok(Some(Want::StartTls));
            }
            Verb::Xclient => {
                self.state = State::Introduced(xclient::parse(arguments)?);
                return Ok(Some(Want::NewClient));
            }
            Verb::Auth => return self.auth(policy, arguments, out),
            Verb::Bdat | Verb::Expn => return Err(reply::NOT_OFFERED),
        }
        Ok(None)
    }

    /// Whether the client may know of the command at all.
    fn check_offered(&self, options: &Options, verb: Verb) -> Result<(), Refusal> {
        match verb {
            Verb::StartTls if !options.starttls || self.secured => Err(reply::NOT_OFFERED),
            Verb::Auth if self.auth == AuthOffer::None => Err(reply::NOT_OFFERED),
            Verb::Xclient if !self.is_proxy => Err(reply::NO_PROXY),
            // RFC 2033 §4.1: each protocol knows its own greeting only, so that neither is taken for the other.
            Verb::Lhlo | Verb::Ehlo | Verb::Helo if options.lmtp != (verb == Verb::Lhlo) => {
                Err(reply::UNKNOWN_COMMAND)
            }
            _ => Ok(()),
        }
    }

    fn hello(&mut self, options: &Options, extended: bool, name: &str, out: &mut Vec<u8>) {
        self.end_transaction();
        self.extended = extended;
        self.helo.clear();
        self.helo.extend(clean(name));
        if extended {
            let channel = match (self.secured, options.starttls) {
                (true, _) => Channel::Secured,
                (false, true) => Channel::CanBeSecured,
                (false, false) => Channel::Clear,
            };
            let offer = &options.ehlo[self.auth.line(channel)];
            // Few clients are proxies: their line goes in behind the first, which is our name.
            let name = if self.is_proxy { memchr::memchr(b'\n', offer).map_or(0, |end| end + 1) } else { 0 };
            out.extend_from_slice(&offer[..name]);
            if self.is_proxy {
                let _ = write!(out, "250-XCLIENT {}\r\n", xclient::ATTRIBUTES);
            }
            out.extend_from_slice(&offer[name..]);
        } else {
            reply::push_lines(out, 250, [options.hostname.as_str()]);
        }
    }

    fn mail(
        &mut self,
        options: &Options,
        policy: &mut dyn Policy,
        arguments: &str,
        out: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        let auth = self.auth != AuthOffer::None;
        let offered = Extensions { auth, require_tls: self.secured, ..options.extensions };
        let mail = command::parse_mail(arguments, &offered)?;
        if mail.size.is_some_and(|size| size > options.size_max) {
            return Err(reply::TOO_LARGE);
        }
        policy.mail(mail.sender, &mail.parameters, mail.size)?;
        self.envelope.begin(mail.sender, mail.parameters, mail.envid);
        self.state = State::Mail { tried: false };
        out.extend_from_slice(reply::line::SENDER_OK);
        Ok(())
    }

    fn rcpt(
        &mut self,
        options: &Options,
        policy: &mut dyn Policy,
        arguments: &str,
        out: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        // A client that pipelines DATA behind a bad RCPT has tried: it gets 554 then, not 503.
        self.state = State::Mail { tried: true };
        let smtputf8 = self.envelope.parameters().smtputf8;
        let rcpt = command::parse_rcpt(arguments, &options.extensions, smtputf8)?;
        if self.envelope.recipient_count() >= options.recipients_max {
            return Err(reply::TOO_MANY_RECIPIENTS);
        }
        let mailbox = rcpt.mailbox.unwrap_or(&options.postmaster);
        policy.recipient(mailbox)?;
        let pushed = self.envelope.push_recipient(mailbox, rcpt.notify, rcpt.original);
        pushed.map_err(|_| reply::TOO_MANY_RECIPIENTS)?;
        out.extend_from_slice(reply::line::RECIPIENT_OK);
        Ok(())
    }

    /// BDAT: whatever is wrong with it, as many octets follow as it says.
    fn bdat(
        &mut self,
        options: &Options,
        arguments: &str,
        refusal: Option<&Refusal>,
        out: &mut Vec<u8>,
    ) -> Result<Option<Want>, Refusal> {
        let Some(bdat) = command::parse_bdat(arguments) else {
            self.close(&reply::BAD_CHUNK_SIZE, out);
            return Ok(None);
        };
        let before = if let State::Between(decoder) = &self.state { decoder.size() } else { 0 };
        let refusal = if !options.extensions.chunking {
            Some(reply::NOT_OFFERED)
        } else if let Some(refusal) = refusal {
            Some(refusal.clone())
        } else if before.saturating_add(bdat.size) > options.size_max {
            Some(reply::TOO_LARGE)
        } else {
            None
        };
        if let Some(refusal) = refusal {
            self.fail_chunk(bdat, bdat.size, refusal);
            return Ok(None);
        }
        match std::mem::replace(&mut self.state, State::Idle) {
            State::Between(decoder) => {
                self.begin_chunk(decoder, bdat);
                Ok(None)
            }
            _ => {
                self.state = State::BeginChunk(bdat);
                Ok(Some(Want::BeginBody))
            }
        }
    }
}

/// A client's name as it may stand in replies and headers.
fn clean(name: &str) -> impl Iterator<Item = char> {
    let clean = |c: char| if c.is_ascii_alphanumeric() || "-._:[]".contains(c) { c } else { '?' };
    name.chars().take(HELO_BYTES_MAX).map(clean)
}
