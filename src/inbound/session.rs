//! Drives `protocol::server` over one connection: reads, steps, makes durable, answers.
//!
//! Copies of a body: socket → receive buffer → body buffer (dots removed) → batch buffer of the log. The body buffer
//! becomes the shared message that delivery sends from. Replies of a pipelined group leave in one write.

use std::cell::RefCell;
use std::io::ErrorKind;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::admission::{Admission, Reservation};
use super::limits::{Act, Clients, Excess};
use super::listener::{ListenerPolicy, Listeners};
use super::login::Logins;
use super::pace::{Patience, SCARCE_WAIT};
use super::policy::SessionPolicy;
use super::sessions::{Sessions, Waiting};
use crate::clock::Moment;
use crate::endpoint::Origin;
use crate::event::{Event, EventSender};
use crate::id::{Location, MessageId};
use crate::limits::BODY_INLINE_BYTES_MAX;
use crate::message::Message;
use crate::metrics::{LimitKind, RejectReason, ReplyClass, ShardMetrics};
use crate::net;
use crate::net::buffer::{BUFFER_BYTES, ReceiveBuffer};
use crate::net::stream::Stream;
use crate::outcome::Reply;
use crate::protocol::reply::{self, Refusal};
use crate::protocol::server::{Session, Want};
use crate::protocol::trace::{Protocol, Trace};
use crate::spool::storage::Storage;
use crate::spool::{AppendError, Committed, Log};

/// Room for a trace header in front of a body, bytes.
const TRACE_ROOM: usize = 512;
/// Longest name of a tenant that a header may give, bytes.
const TENANT_BYTES_MAX: usize = 64;
/// First size of a body buffer when the client does not say SIZE, bytes.
const BODY_ROOM: usize = 8 * 1024;

/// Called when a message has become durable, before its 250 is written.
pub type OnAccepted = Box<dyn Fn(Arc<Message>, Location, u64)>;

/// What the sessions of a shard share.
pub struct Inbound<S: Storage> {
    /// What differs from listener to listener.
    pub listeners: RefCell<Listeners>,
    /// The clients of all shards, and their limits.
    pub clients: Arc<Clients>,
    /// How long a client must be silent before the banner.
    pub banner_wait: Duration,
    /// Budgets.
    pub admission: Admission,
    /// Where messages are made durable.
    pub log: Log<S>,
    /// Takes over what is durable.
    pub on_accepted: OnAccepted,
    /// Counters of the shard.
    pub metrics: Rc<ShardMetrics>,
    /// Log lines.
    pub events: EventSender,
    /// How long a client may take.
    pub patience: Patience,
    /// Age at which a message bounces.
    pub expire_after: Duration,
    /// Logins that are being checked.
    pub logins: Logins,
    /// Open sessions.
    pub sessions: Sessions,
}

/// Counts a session out when its task ends, however it ends.
struct Place<'a, S: Storage> {
    inbound: &'a Inbound<S>,
    key: u64,
}

impl<S: Storage> Drop for Place<'_, S> {
    fn drop(&mut self) {
        self.inbound.sessions.leave(self.key);
        self.inbound.admission.close_connection();
        self.inbound.metrics.connections_open.sub(1);
    }
}

/// Serves one connection to its end. The caller has counted it in (`Admission::open_connection`).
pub async fn serve<S: Storage>(
    inbound: &Inbound<S>,
    listener: &ListenerPolicy,
    stream: Stream,
    peer: Origin,
) {
    inbound.metrics.connections_open.add(1);
    let now = net::now().mono;
    let (key, waiting) = inbound.sessions.enter(stream.handle(), now);
    let place = Place { inbound, key };
    let mut driver = Driver {
        inbound,
        listener,
        stream,
        peer,
        is_known: true,
        session: Session::new(),
        // Until the greeting knows better.
        policy: SessionPolicy::new(&listener.rules, false, net::random),
        input: ReceiveBuffer::default(),
        out: Vec::new(),
        body: Vec::new(),
        receiving: None,
        reservation: Reservation::none(&inbound.admission),
        end_of_data_at: None,
        waiting,
        asked: now,
    };
    if driver.greet().await {
        driver.run().await;
    }
    drop(driver);
    drop(place);
}

/// Refuses a connection that no budget has room for.
pub async fn refuse(mut stream: Stream, refusal: &Refusal) {
    let mut out = Vec::new();
    refusal.write(&mut out);
    stream.set_write_timeout(Duration::from_secs(1));
    let _ = stream.write_all(&out).await;
}

/// A message of which the body is coming in.
struct Receiving {
    id: MessageId,
    /// Bytes already appended to the log in chunks.
    chunk_bytes: u64,
    began: Moment,
}

/// Drives one session: everything that it has besides what the protocol knows.
pub(super) struct Driver<'a, S: Storage> {
    pub(super) inbound: &'a Inbound<S>,
    pub(super) listener: &'a ListenerPolicy,
    pub(super) stream: Stream,
    /// The client: the other end of the connection, or whom a proxy there speaks for.
    pub(super) peer: Origin,
    /// Whether `peer` is the client's own address. A client that its proxy does not name has no rights by an address, and
    /// no limits.
    pub(super) is_known: bool,
    pub(super) session: Session,
    pub(super) policy: SessionPolicy<'a>,
    pub(super) input: ReceiveBuffer,
    pub(super) out: Vec<u8>,
    body: Vec<u8>,
    receiving: Option<Receiving>,
    reservation: Reservation<'a>,
    /// When the end of data was seen whose reply is still in `out`.
    end_of_data_at: Option<Moment>,
    pub(super) waiting: Rc<Waiting>,
    /// When the client was last answered: its command is due from then on.
    asked: Moment,
}

/// Chunks of a body that was not completed must not keep their segments, even if the session's end is a panic.
impl<S: Storage> Drop for Driver<'_, S> {
    fn drop(&mut self) {
        self.forget_body();
    }
}

impl<S: Storage> Driver<'_, S> {
    async fn run(&mut self) {
        loop {
            if self.policy.pass.is_some() {
                self.policy.now = net::now().mono;
            }
            let (used, want) = self.session.step(
                &self.listener.options,
                &mut self.policy,
                self.input.filled(),
                &mut self.out,
                &mut self.body,
            );
            self.input.consume(used);
            self.note_refusal();
            match want {
                Want::Read => {
                    if !self.answer().await || !self.read().await {
                        return;
                    }
                }
                Want::BeginBody => self.begin_body(),
                Want::Chunk => self.append_chunk().await,
                Want::Commit => {
                    self.commit().await;
                    // A client that pipelines has the next transaction here already: without a word now it would never
                    // find an end.
                    if self.inbound.sessions.is_stopping() {
                        self.close(&reply::SHUTTING_DOWN).await;
                        return;
                    }
                }
                Want::Discard => self.forget_body(),
                Want::StartTls => {
                    if !self.start_tls().await {
                        return;
                    }
                }
                Want::NewClient => {
                    if !self.introduce().await {
                        return;
                    }
                }
                Want::Authenticate => {
                    if !self.answer().await || !self.authenticate().await {
                        return;
                    }
                }
                Want::Close => {
                    // Over the limit, the next connection hears of it: this one has its last word already.
                    let _ = self.count_errors();
                    self.flush().await;
                    return;
                }
            }
        }
    }

    /// Answers a client that stays; `false` when the connection is lost, or has cost its address too many errors.
    pub(super) async fn answer(&mut self) -> bool {
        match self.count_errors() {
            Ok(()) => self.flush().await,
            Err(excess) => {
                let refusal = self.refuse_excess(&excess);
                self.close(&refusal).await
            }
        }
    }

    /// Writes the replies; `false` when the connection is lost.
    async fn flush(&mut self) -> bool {
        if self.out.is_empty() {
            return true;
        }
        self.count_replies();
        self.stream.set_write_timeout(self.inbound.patience.command);
        self.waiting.is_writing.set(true);
        if !self.waiting.is_trusted.get() {
            self.waiting.scarce_by.set(Some(net::now().mono + SCARCE_WAIT));
        }
        let written = self.stream.write_all(&self.out).await;
        self.waiting.scarce_by.set(None);
        self.waiting.is_writing.set(false);
        self.out.clear();
        self.asked = net::now().mono;
        if let Some(at) = self.end_of_data_at.take() {
            match written {
                Ok(()) => self.inbound.metrics.end_of_data_to_250.observe(self.asked.since(at)),
                Err(_) => self.inbound.metrics.ambiguous.inc(),
            }
        }
        written.is_ok()
    }

    /// What a client that may relay says in a header field.
    fn said(&self, field: &str) -> Option<&str> {
        let may_say = self.policy.is_trusted() && !field.is_empty();
        may_say.then(|| header_word(&self.body, field))?
    }

    /// Whose mail the complete message is: the user's; what a client that may relay says; the listener's.
    fn tenant(&self) -> Option<&str> {
        let said = || self.said(&self.listener.tenant_header);
        let user = self.policy.user().map(|user| &*user.tenant);
        user.or_else(said).or(Some(&*self.listener.tenant)).filter(|tenant| !tenant.is_empty())
    }

    /// Reads more; `false` when the session is over.
    async fn read(&mut self) -> bool {
        if self.receiving.is_some() && !self.make_room() {
            self.session.refuse_body(reply::NO_ROOM, &mut self.out);
            self.reject(RejectReason::Budget);
            self.forget_body();
        }
        // An envelope alone is not worth waiting for: the client keeps its message.
        self.waiting.busy.set(self.receiving.is_some());
        if self.inbound.sessions.is_stopping() && !self.waiting.busy.get() {
            return self.close(&reply::SHUTTING_DOWN).await;
        }
        let (by, late, now) = self.patience();
        self.stream.set_read_timeout(by.since(now));
        let read =
            if by > now { self.stream.read(&mut self.input).await } else { Err(ErrorKind::TimedOut.into()) };
        self.waiting.scarce_by.set(None);
        match read {
            Ok(0) if self.inbound.sessions.is_stopping() => self.close(&reply::SHUTTING_DOWN).await,
            Ok(0) if self.waiting.cut.get() => self.give_up(LimitKind::Stress).await,
            Ok(0) => false,
            Ok(_) => true,
            Err(error) if error.kind() == ErrorKind::TimedOut => self.give_up(late).await,
            Err(error) => {
                let (at, what) = (net::now().wall, error.to_string().into());
                self.inbound.events.send(Event::SessionError { at, peer: self.peer, what });
                false
            }
        }
    }

    /// By when the client must have sent more, which limit it meets else, and the time.
    fn patience(&self) -> (Moment, LimitKind, Moment) {
        let now = net::now().mono;
        let by = |patience: &Patience| match &self.receiving {
            None => (patience.command_by(self.asked), LimitKind::CommandTime),
            Some(receiving) => {
                let bytes = receiving.chunk_bytes + self.body.len() as u64;
                let (by, for_rate) = patience.message_by(receiving.began, bytes, now);
                (by, if for_rate { LimitKind::DataRate } else { LimitKind::CommandTime })
            }
        };
        let given = &self.inbound.patience;
        let (scarce_by, _) = by(&given.when_scarce());
        self.waiting.scarce_by.set(Some(scarce_by));
        if self.inbound.admission.is_scarce() && !self.waiting.is_trusted.get() {
            return (scarce_by, LimitKind::Stress, now);
        }
        let (by, late) = by(given);
        (by, late, now)
    }

    /// The client was too slow.
    async fn give_up(&mut self, limit: LimitKind) -> bool {
        self.reject(RejectReason::Timeout);
        let refusal = match limit {
            LimitKind::Stress => reply::SCARCE,
            LimitKind::DataRate => reply::TOO_SLOW,
            _ => reply::IDLE_TOO_LONG,
        };
        self.note_limit(limit, &refusal.text);
        self.close(&refusal).await
    }

    /// Counts the errors that `out` tells the client of, until they are too many for its address.
    fn count_errors(&self) -> Result<(), Excess> {
        let Some(pass) = &self.policy.pass else { return Ok(()) };
        let mut errors = final_lines(&self.out).filter(|line| line.starts_with(b"5"));
        errors.try_for_each(|_| pass.count(Act::Error, self.policy.now))
    }

    pub(super) async fn close(&mut self, refusal: &Refusal) -> bool {
        self.session.close(refusal, &mut self.out);
        self.flush().await;
        false
    }

    /// Reserves what the next read may add to the body.
    fn make_room(&mut self) -> bool {
        let needed = (self.body.len() + BUFFER_BYTES).min(BODY_INLINE_BYTES_MAX + TRACE_ROOM);
        let reserved =
            self.reservation.grow_to(needed.max(self.body.capacity()), self.waiting.is_trusted.get());
        self.inbound.metrics.in_flight_bytes.set(self.inbound.admission.in_flight_bytes());
        reserved
    }

    /// A body is about to come: gives it an id, memory, and its trace header.
    fn begin_body(&mut self) {
        let declared =
            self.policy.declared_size.map_or(BODY_ROOM, |size| usize::try_from(size).unwrap_or(usize::MAX));
        let room = declared.saturating_add(TRACE_ROOM).min(BODY_INLINE_BYTES_MAX);
        if !self.reservation.grow_to(room, self.waiting.is_trusted.get()) {
            self.reject(RejectReason::Budget);
            return self.session.refuse_body(reply::NO_ROOM, &mut self.out);
        }
        if let Err(error) = self.inbound.log.admits() {
            self.reservation.release();
            self.reject(RejectReason::Storage);
            return self.session.refuse_body(refusal_of(&error), &mut self.out);
        }
        let now = net::now();
        let id = self.inbound.log.next_id();
        self.body.clear();
        self.body.reserve(room);
        let extended = self.session.is_extended();
        let mut body = std::mem::take(&mut self.body);
        let smtputf8 = self.session.envelope().parameters().smtputf8;
        let alone = self.session.envelope().recipient_count() == 1;
        let recipient = if alone { self.session.envelope().first_mailbox().map(str::to_owned) } else { None };
        Trace {
            helo: self.session.helo(),
            peer: self.peer,
            hostname: self.listener.options.hostname(),
            protocol: Protocol {
                extended,
                lmtp: self.session.is_lmtp(),
                smtputf8,
                tls: self.session.is_secured(),
                authenticated: self.session.user().is_some(),
            },
            id,
            recipient: recipient.as_deref(),
            at: now.wall,
        }
        .write(&mut body);
        self.body = body;
        self.receiving = Some(Receiving { id, chunk_bytes: 0, began: now.mono });
    }

    /// The body is longer than one record holds: moves what there is to the log.
    async fn append_chunk(&mut self) {
        if self.receiving.is_none() {
            return self.body.clear();
        }
        self.note_header();
        let Some(receiving) = &mut self.receiving else { return };
        let appended = self.inbound.log.append_chunk(receiving.id, &self.body).await;
        receiving.chunk_bytes += self.body.len() as u64;
        self.body.clear();
        if let Err(error) = appended {
            self.reject(RejectReason::Storage);
            self.session.refuse_body(refusal_of(&error), &mut self.out);
            self.forget_body();
        }
    }

    /// The header is in `body`: it may say whose mail it is and where it leaves. Later pieces of a long body are not looked
    /// at.
    fn note_header(&mut self) {
        if self.receiving.as_ref().is_some_and(|receiving| receiving.chunk_bytes > 0) {
            return;
        }
        if let Some(tenant) = self.tenant().map(str::to_owned) {
            self.session.envelope().set_tenant(&tenant);
        }
        if let Some(pool) = self.said(&self.listener.pool_header).map(str::to_owned) {
            self.session.envelope().set_pool(&pool);
        }
    }

    /// The message is complete: makes it durable, hands it to the queue, answers.
    async fn commit(&mut self) {
        let Some(Receiving { id, chunk_bytes, began }) = self.receiving.take() else {
            return self.session.committed(Err(reply::NOT_STORED), &mut self.out);
        };
        let end_of_data = net::now();
        let expires_at = end_of_data.wall + self.inbound.expire_after;
        if chunk_bytes == 0 {
            self.note_header();
        }
        let envelope = self.session.envelope().encode(end_of_data.wall, expires_at);
        let message = Arc::new(Message { id, envelope, body: std::mem::take(&mut self.body) });
        let size = chunk_bytes + message.body.len() as u64;
        match self.inbound.log.accept(&message).await {
            Ok((committed, location)) => {
                let event = Event::accepted(end_of_data.wall, id, &message.envelope, size, self.peer);
                self.inbound.events.send(event);
                let metrics = &self.inbound.metrics;
                metrics.messages_accepted.inc();
                metrics.accepted_bytes.add(size);
                metrics.recipients_accepted.add(message.envelope.recipients().count() as u64);
                (self.inbound.on_accepted)(message, location, size);
                answer_250(committed, &mut self.session, id, &mut self.out);
                self.end_of_data_at = Some(end_of_data.mono);
            }
            Err(error) => {
                self.inbound.log.forget_chunks(id);
                self.reject(RejectReason::Storage);
                self.session.committed(Err(refusal_of(&error)), &mut self.out);
            }
        }
        self.inbound.metrics.transaction.observe(net::now().mono.since(began));
        self.reservation.release();
    }

    /// The body begun is not completed.
    fn forget_body(&mut self) {
        if let Some(receiving) = &self.receiving
            && receiving.chunk_bytes > 0
        {
            self.inbound.log.forget_chunks(receiving.id);
        }
        self.receiving_is_over();
    }

    fn receiving_is_over(&mut self) {
        self.receiving = None;
        self.body = Vec::new();
        self.reservation.release();
    }

    pub(super) fn reject(&self, reason: RejectReason) {
        self.inbound.metrics.rejects[reason].inc();
    }

    fn note_refusal(&mut self) {
        if let Some(excess) = self.policy.excess.take() {
            self.refuse_excess(&excess);
        }
        if let Some((refusal, about)) = self.policy.refused.take() {
            self.log_refusal(RejectReason::Relay, &refusal, about);
        }
    }

    pub(super) fn log_refusal(&self, reason: RejectReason, refusal: &Refusal, about: Box<str>) {
        self.reject(reason);
        let reply = Reply::new(refusal.code, refusal.enhanced, &refusal.text);
        let at = net::now().wall;
        self.inbound.events.send(Event::Rejected { at, client: self.peer, reply, about });
    }

    /// Counts the replies in `out`, and what the session itself refused.
    fn count_replies(&self) {
        for line in final_lines(&self.out) {
            self.inbound.metrics.replies[ReplyClass::of(u16::from(line[0] - b'0') * 100)].inc();
            if let Some(reason) = reason_of(line) {
                self.reject(reason);
            }
        }
    }
}

/// Why the session refused something, by its enhanced status; what the driver refused is counted where it is decided.
fn reason_of(line: &[u8]) -> Option<RejectReason> {
    match line.get(4..9)? {
        b"5.3.4" => Some(RejectReason::Size),
        b"4.5.3" => Some(RejectReason::Recipients),
        b"5.4.6" | b"5.6.1" => Some(RejectReason::Content),
        status if status.starts_with(b"5.5.") => Some(RejectReason::Syntax),
        _ => None,
    }
}

/// The last lines of the replies in `out`: those with a blank behind the code.
fn final_lines(out: &[u8]) -> impl Iterator<Item = &[u8]> {
    out.split_inclusive(|byte| *byte == b'\n').filter(|line| line.get(3) == Some(&b' '))
}

/// Writes the 250. The token proves that the batch with the message is durable: nothing else can make one.
fn answer_250(_: Committed, session: &mut Session, id: MessageId, out: &mut Vec<u8>) {
    session.committed(Ok(id), out);
}

/// The value of a header field, if it is one word that can be a tenant's name; `body` begins with the header.
fn header_word<'a>(body: &'a [u8], field: &str) -> Option<&'a str> {
    for line in body.split(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            return None;
        }
        if let Some((name, value)) = line.split_at_checked(field.len())
            && name.eq_ignore_ascii_case(field.as_bytes())
            && let Some(value) = value.strip_prefix(b":")
        {
            let value = std::str::from_utf8(value).ok()?.trim_matches([' ', '\t']);
            let is_word = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.@".contains(&byte);
            let fits = (1..=TENANT_BYTES_MAX).contains(&value.len()) && value.bytes().all(is_word);
            return fits.then_some(value);
        }
    }
    None
}

fn refusal_of(error: &AppendError) -> Refusal {
    match error {
        AppendError::Full => reply::NO_ROOM,
        _ => reply::NOT_STORED,
    }
}
