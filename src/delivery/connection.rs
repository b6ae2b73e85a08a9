//! One outbound connection, from connect to close: drives `protocol::client`, one task each.
//!
//! The next transaction goes out behind the final dot of the one before, so a busy connection needs one write and one
//! read for each message. What ends a connection: the remote (421, or a broken socket), a time-out, its message limit,
//! home wanting the slot back, idleness, or the stop.

mod opening;

use std::cell::Cell;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::content::Content;
use super::dial::{Call, Dialled, dial};
use super::job::{ActiveJob, count_results};
use super::keys::Keys;
use super::maildir;
use super::path::{PathState, Waited};
use super::pool::Pool;
use crate::clock::Moment;
use crate::envelope::verp::Verp;
use crate::id::Location;
use crate::metrics::AttemptStage;
use crate::net;
use crate::net::buffer::ReceiveBuffer;
use crate::net::stream::Stream;
use crate::outcome::{Enhanced, LegResult, Reply, Verdict};
use crate::protocol::client::{Client, Event, Loss, Options, Stage};
use crate::routing::{PathKind, PathSpec, Security, TlsPolicy};
use crate::spool::reader::ReadError;
use crate::spool::storage::Storage;

/// Longest output that a remote can hardly draw out, since the kernel takes it at once, bytes.
const WRITE_SHORT: usize = 16 * 1024;
/// Wait for words that a remote may have sent before it broke the connection.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Reads of such words.
const LAST_READS: usize = 4;
/// Why a connection is lost whose stream has ended.
const CLOSED: &str = "closed by the remote";

/// Settings of outbound connections.
#[derive(Clone)]
pub struct ConnectionOptions {
    /// Our name in EHLO.
    pub ehlo_name: String,
    /// Mail that goes out with a sender for each recipient.
    pub verp: Verp,
    /// Waits for the remote.
    pub timeouts: Timeouts,
    /// To shake hands with remotes.
    pub keys: Keys,
}

/// Waits for the remote; RFC 5321 §4.5.3.2 says at least how long where it has a word on it.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// TCP connection.
    pub connect: Duration,
    /// Banner.
    pub greeting: Duration,
    /// EHLO, MAIL, RSET, QUIT.
    pub command: Duration,
    /// RCPT.
    pub recipient: Duration,
    /// DATA.
    pub data: Duration,
    /// Writing a block of the message.
    pub block: Duration,
    /// The final dot.
    pub end_of_data: Duration,
    /// The whole attempt, whatever the remote does to prolong it.
    pub attempt: Duration,
}

impl Timeouts {
    fn of(&self, stage: Stage) -> Duration {
        match stage {
            Stage::Banner => self.greeting,
            Stage::Rcpt => self.recipient,
            Stage::Data => self.data,
            Stage::Body => self.block,
            Stage::FinalDot => self.end_of_data,
            Stage::Ehlo | Stage::StartTls | Stage::Login | Stage::Mail | Stage::Idle => self.command,
            // Nothing depends on the answer to QUIT.
            Stage::Quit => self.command.min(Duration::from_secs(5)),
        }
    }
}

/// Opens a connection of the path and works until it ends.
pub async fn run<S: Storage>(pool: &Rc<Pool<S>>, path: &Rc<PathState<S>>) {
    let spec = path.lane.borrow().spec().clone();
    if spec.kind == PathKind::Maildir {
        return maildir::run(pool, path).await;
    }
    let Some(mut call) = pool.dialler().call(path) else { return };
    if let (Some(hosts), Some(reply)) = (&call.hosts, pool.dialler().known_dead(&call)) {
        return path.defer_all(hosts, &reply);
    }
    // A unix socket is inside of this host.
    let is_socket = matches!(spec.kind, PathKind::LmtpSocket(_));
    let tls = if is_socket { TlsPolicy::Off } else { spec.limits.security.tls };
    let security = Security { tls, ..spec.limits.security };
    if open(pool, path, &mut call, security).await == Ended::FallsBack {
        // To the same host.
        open(pool, path, &mut call, Security { tls: TlsPolicy::Off, ..security }).await;
    }
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// As connections do.
    Served,
    /// TLS could not be agreed on, and the policy allows another connection in the clear; no transaction was begun.
    FallsBack,
}

async fn open<S: Storage>(
    pool: &Rc<Pool<S>>,
    path: &Rc<PathState<S>>,
    call: &mut Call,
    security: Security,
) -> Ended {
    let spec = path.lane.borrow().spec().clone();
    let began = net::now().mono;
    let Dialled { stream, host, address } = match pool.while_connecting(dial(pool, &spec, call)).await {
        // Nothing has begun, and the worker may not be there any more.
        _ if pool.is_stopping() => return Ended::Served,
        Ok(connected) => connected,
        Err(reply) => {
            pool.call_failed(path, call, &reply);
            return Ended::Served;
        }
    };
    pool.metrics().connections.inc();
    pool.metrics().connections_open.add(1);
    pool.metrics().attempt[AttemptStage::Connect].observe(net::now().mono.since(began));
    let open = Rc::new(Cell::new(false));
    let handle = pool.keep_handle(stream.handle(), open.clone());
    let ehlo_name = call.ehlo_name(&pool.options().ehlo_name).to_owned();
    let options = Options { ehlo_name, body_with_envelope: true };
    if let Some(source) = call.source() {
        pool.metrics().sources.update(&source.name, |figures| {
            figures.opened += 1;
            figures.open += 1;
        });
    }
    let client = Client::new(options);
    let client = if spec.kind.is_lmtp() { client.with_lmtp() } else { client };
    let mut connection = Connection {
        pool,
        path,
        spec,
        call,
        stream,
        remote: host,
        address,
        security,
        is_encrypted: false,
        secured: None,
        client,
        input: ReceiveBuffer::default(),
        flights: VecDeque::new(),
        taken: 0,
        next_tag: 0,
        ready: false,
        answered: false,
        open,
        handle,
        stage_began: began,
        waits_since: began,
        ended: None,
    };
    if connection.begin_encrypted().await {
        connection.serve().await;
    }
    connection.ended.unwrap_or(Ended::Served)
}

/// Leaves the lane, and everything else that counts the connection, however it ends.
impl<S: Storage> Drop for Connection<'_, S> {
    fn drop(&mut self) {
        self.part();
        // After a panic jobs are dropped, which reports them; the lane must not count them for ever.
        (0..self.taken).for_each(|_| self.path.lane.borrow_mut().finished());
        self.pool.forget_handle(self.handle);
        self.pool.metrics().connections_open.sub(1);
        if let Some(source) = self.call.source() {
            self.pool.metrics().sources.update(&source.name, |figures| figures.open -= 1);
        }
    }
}

/// A job whose transaction is in flight.
struct Flight<S: Storage> {
    tag: u64,
    job: ActiveJob<S>,
    content: Content<S::Pin>,
    /// The record of its message that turned out to be damaged on the way.
    damaged: Option<Location>,
}

struct Connection<'a, S: Storage> {
    pool: &'a Rc<Pool<S>>,
    path: &'a Rc<PathState<S>>,
    spec: Arc<PathSpec>,
    call: &'a Call,
    stream: Stream,
    remote: Arc<str>,
    address: Option<SocketAddr>,
    security: Security,
    is_encrypted: bool,
    /// Whether REQUIRETLS may go over it, once that was asked.
    secured: Option<Result<(), String>>,
    client: Client,
    input: ReceiveBuffer,
    /// Transactions in flight, oldest first.
    flights: VecDeque<Flight<S>>,
    /// Jobs that were taken from the lane and have not ended.
    taken: u32,
    next_tag: u64,
    /// The session has been opened.
    ready: bool,
    /// The remote has answered to a command of a transaction.
    answered: bool,
    /// Whether the session is open, as far as the stop and the lane are concerned.
    open: Rc<Cell<bool>>,
    handle: u64,
    stage_began: Moment,
    /// When the remote's time began for what it is to do without a transaction: open the session, answer QUIT.
    waits_since: Moment,
    ended: Option<Ended>,
}

impl<S: Storage> Connection<'_, S> {
    async fn serve(&mut self) {
        while self.ended.is_none() {
            if self.ready && !(self.begin_jobs().await && self.handle_events().await) {
                return;
            }
            if !self.write().await || self.ended.is_some() {
                return;
            }
            if self.ready && self.client.is_idle() {
                self.wait_for_work().await;
            } else if !self.read().await {
                return;
            }
            if !self.handle_events().await {
                return;
            }
        }
    }

    /// Begins as many transactions as the session takes; `false` when the connection is lost.
    async fn begin_jobs(&mut self) -> bool {
        while self.client.can_begin() && !self.is_leaving() {
            let Some(mut job) = self.path.take(self.call.hosts.as_ref()) else { return true };
            self.taken += 1;
            let content = match Content::load(self.pool, &job).await {
                Ok(content) => content,
                Err(error) => {
                    self.unreadable(job, &error);
                    continue;
                }
            };
            let tag = self.next_tag;
            self.next_tag += 1;
            let now = net::now().mono;
            if self.client.is_idle() {
                self.stage_began = now;
            }
            job.begin(now);
            let secured = if content.requires_tls() { self.secured() } else { Ok(()) };
            content.begin(&mut self.client, tag, &job, &secured, &self.pool.options().verp);
            self.pool.metrics().transactions.inc();
            if tag > 0 {
                self.pool.metrics().connections_reused.inc();
            }
            self.flights.push_back(Flight { tag, job, content, damaged: None });
            // A body that goes with its envelope must be given before the next transaction can begin.
            if !self.handle_events().await {
                return false;
            }
        }
        true
    }

    /// The message cannot be read back: nothing was said to the remote. Unless it is damaged, it is tried again by the
    /// schedule.
    fn unreadable(&mut self, mut job: ActiveJob<S>, error: &ReadError) {
        if let ReadError::Damaged { at, .. } = error {
            job.damaged(*at);
            return self.give_back();
        }
        job.begin(net::now().mono);
        let reply = Reply::new(0, Enhanced(4, 3, 0), &error.to_string());
        let recipients = job.job().recipients;
        job.finish(vec![LegResult { recipients, verdict: Verdict::Deferred, reply }], Arc::from(""));
        self.give_back();
    }

    /// Jobs of the path wait, and none for the hosts of this connection, which has none either.
    fn is_in_the_way(&self) -> bool {
        self.call.hosts.as_ref().is_some_and(|hosts| self.path.waits_for_others(hosts))
    }

    fn is_leaving(&self) -> bool {
        self.pool.is_stopping()
            || self.next_tag >= u64::from(self.spec.limits.messages_per_connection)
            || self.client.capabilities().is_used_up(self.next_tag)
            || self.path.lane.borrow().is_over_lease()
    }

    /// Does what the session says; `false` when the connection is lost.
    async fn handle_events(&mut self) -> bool {
        while let Some(event) = self.client.poll_event() {
            match event {
                Event::BodyWanted { tag } => {
                    if !self.send_body(tag).await {
                        return false;
                    }
                }
                Event::TlsWanted => {
                    if !self.shake_hands().await {
                        return false;
                    }
                }
                other => self.note(other),
            }
        }
        true
    }

    fn note(&mut self, event: Event) {
        match event {
            Event::Ready => self.greeted(),
            Event::Refused { reply, .. } => self.refused(&reply),
            Event::Finished { tag, results, in_doubt, .. } => self.finish(tag, results, in_doubt),
            Event::Closing(reply) => {
                if self.next_tag == 0 {
                    self.refused(&reply);
                }
                self.ended = Some(Ended::Served);
            }
            Event::Closed => self.ended = Some(Ended::Served),
            Event::TlsRefused(reply) => self.tls_refused(&reply),
            Event::LoggedIn => self.opened(),
            Event::LoginRefused(reply) => self.forbidden(&reply),
            Event::BodyWanted { .. } | Event::BodyUnwanted { .. } | Event::TlsWanted => {}
        }
    }

    /// The remote sent us away before MAIL: the path's matter, not a message's.
    fn refused(&mut self, reply: &Reply) {
        self.pool.metrics().connections_failed.inc();
        self.pool.sent_away(&self.spec, self.call, self.address, reply);
        self.pool.path_failed(self.path, reply);
        self.ended = Some(Ended::Served);
    }

    /// Gives the session the body of a transaction, chunk by chunk if it is long.
    async fn send_body(&mut self, tag: u64) -> bool {
        let Some(flight) = self.flights.iter().position(|flight| flight.tag == tag) else { return true };
        self.pool.metrics().sent_bytes.add(u64::from(self.flights[flight].job.job().bytes));
        let mut nth = 0;
        loop {
            let piece = self.flights[flight].content.piece(self.pool, nth).await;
            match piece {
                Ok((piece, last)) => {
                    if !self.client.body_piece(tag, &piece, last) || last {
                        return true;
                    }
                }
                Err(error) => {
                    // The remote must not take what there is for the whole: the connection is the only way to say so.
                    if let ReadError::Damaged { at, .. } = &error {
                        self.flights[flight].damaged = Some(*at);
                    }
                    self.lose(Loss::GivenUp, &error.to_string());
                    return false;
                }
            }
            nth += 1;
            if !self.write().await {
                return false;
            }
        }
    }

    fn finish(&mut self, tag: u64, results: Vec<LegResult>, in_doubt: u64) {
        let Some(at) = self.flights.iter().position(|flight| flight.tag == tag) else { return };
        let Some(Flight { job, damaged, .. }) = self.flights.remove(at) else { return };
        let now = net::now().mono;
        if let Some(at) = damaged {
            job.damaged(at);
            return self.give_back();
        }
        let metrics = self.pool.metrics();
        if let Some(began) = job.began() {
            metrics.attempt[AttemptStage::Total].observe(now.since(began));
        }
        for result in results.iter().filter(|result| !result.verdict.is_success()) {
            self.path.note_error(&result.reply, now);
        }
        count_results(metrics, &results, in_doubt);
        job.finish(results, self.remote.clone());
        self.waits_since = now;
        self.give_back();
    }

    /// A job that was taken has ended.
    fn give_back(&mut self) {
        self.taken -= 1;
        self.path.lane.borrow_mut().finished();
        self.pool.upkeep(self.spec.id);
    }

    /// Writes what the session has to say; `false` when the connection is lost.
    async fn write(&mut self) -> bool {
        if self.client.output().is_empty() {
            return true;
        }
        let left = self.attempt_left();
        self.stream.set_write_timeout(self.pool.options().timeouts.block.min(left));
        let output = self.client.output();
        let written = if output.len() <= WRITE_SHORT {
            self.stream.write_all(output).await
        } else {
            // The time-out of one write begins again with every byte that the remote takes.
            let whole = net::task::within(left, self.stream.write_all(output)).await;
            whole.unwrap_or_else(|| Err(std::io::ErrorKind::TimedOut.into()))
        };
        output.clear();
        match written {
            Ok(()) => true,
            Err(error) => {
                self.hear_last_words().await;
                if self.ended.is_none() {
                    self.lose(loss_of(&error), &error.to_string());
                }
                false
            }
        }
    }

    /// What the remote said before it hung up is worth more than our error, if it is there already.
    async fn hear_last_words(&mut self) {
        self.stream.set_read_timeout(LAST_WORDS);
        for _ in 0..LAST_READS {
            if !self.stream.read(&mut self.input).await.is_ok_and(|count| count > 0) || !self.take_input() {
                return;
            }
        }
    }

    /// Reads and takes in one buffer of replies; `false` when the connection is lost.
    async fn read(&mut self) -> bool {
        let stage = self.client.waiting_for();
        let limit = self.pool.options().timeouts.of(stage).min(self.attempt_left());
        self.stream.set_read_timeout(limit);
        match self.stream.read(&mut self.input).await {
            Ok(0) => self.lose(Loss::Closed, CLOSED),
            Ok(_) => {
                self.answered |= self.ready && !matches!(stage, Stage::Idle | Stage::Quit);
                self.note_stage(stage);
                return self.take_input();
            }
            Err(error) if error.kind() == std::io::ErrorKind::TimedOut => {
                self.lose(Loss::GivenUp, &format!("no answer for {} s ({stage:?})", limit.as_secs_f32()));
            }
            Err(error) => self.lose(loss_of(&error), &error.to_string()),
        }
        false
    }

    /// What is left of the oldest attempt's total time, or of the session's to open or end.
    fn attempt_left(&self) -> Duration {
        let total = self.pool.options().timeouts.attempt;
        let began = self.flights.front().and_then(|flight| flight.job.began()).unwrap_or(self.waits_since);
        total.saturating_sub(net::now().mono.since(began))
    }

    fn note_stage(&mut self, stage: Stage) {
        let label = match stage {
            Stage::Banner => AttemptStage::Banner,
            Stage::Ehlo | Stage::StartTls | Stage::Login => AttemptStage::Ehlo,
            Stage::Mail => AttemptStage::Mail,
            Stage::Rcpt => AttemptStage::Rcpt,
            Stage::Data => AttemptStage::Data,
            Stage::FinalDot => AttemptStage::Dot,
            Stage::Body | Stage::Quit | Stage::Idle => return,
        };
        let now = net::now().mono;
        self.pool.metrics().attempt[label].observe(now.since(self.stage_began));
        self.stage_began = now;
    }

    fn take_input(&mut self) -> bool {
        let taken = self.client.handle(self.input.filled());
        match taken {
            Ok(count) => {
                self.input.consume(count);
                true
            }
            Err(misbehaved) => {
                self.lose(Loss::GivenUp, &misbehaved.to_string());
                false
            }
        }
    }

    /// Waits until there is a job, or ends the session; what the remote says meanwhile is its end.
    async fn wait_for_work(&mut self) {
        if self.is_in_the_way() {
            // Its place may be free already for one that goes where the jobs go.
            self.pool.upkeep(self.spec.id);
        } else if !self.is_leaving() {
            self.stream.set_no_read_timeout();
            let heard = self.stream.read(&mut self.input);
            match self.path.wait_for_job(self.spec.limits.idle, heard).await {
                Waited::Job => return,
                Waited::InVain => {}
                Waited::Other(Ok(count)) if count > 0 => {
                    self.take_input();
                    return;
                }
                Waited::Other(_) => return self.lose(Loss::Closed, CLOSED),
            }
        }
        self.waits_since = net::now().mono;
        self.client.quit();
    }

    /// The connection is gone: every transaction in flight gets its result.
    fn lose(&mut self, loss: Loss, why: &str) {
        // A remote that takes sessions and drops them at the first MAIL is as useless as one that takes none: the path
        // rests, or it would be asked again at once.
        let ours = self.flights.iter().any(|flight| flight.damaged.is_some());
        let useless = !self.ready || (!self.answered && !self.flights.is_empty() && !ours);
        self.part();
        self.client.lost(loss, why);
        while let Some(event) = self.client.poll_event() {
            self.note(event);
        }
        self.ended = Some(Ended::Served);
        if useless && !self.pool.is_stopping() {
            let text = format!("{} {why}", self.remote);
            self.refused(&Reply::new(0, Enhanced(4, 4, 2), &text));
        }
    }

    /// Leaves the lane.
    fn part(&mut self) {
        if self.open.replace(false) {
            self.path.lane.borrow_mut().set_ready(false);
        }
    }
}

/// Whether it was the remote that ended the connection on which a read or a write failed.
fn loss_of(error: &std::io::Error) -> Loss {
    use std::io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    match error.kind() {
        BrokenPipe | ConnectionReset | UnexpectedEof => Loss::Closed,
        _ => Loss::GivenUp,
    }
}
