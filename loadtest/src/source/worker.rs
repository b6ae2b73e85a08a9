//! One source thread: a poll, its share of the connections, and a session for each. All decisions are the session's and
//! the pace's; this moves bytes.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use crate::board::{Board, SharedBoard, ThreadUse, record, widen};
use crate::clock::{self, Micros};
use crate::ledger::Answer;
use crate::limits::{EVENTS_PER_TURN, READ_BYTES};
use crate::source::Settings;
use crate::source::pace::{Due, Pace};
use crate::source::plan::Plan;
use crate::source::session::{Ended, Flow, Host, Job, Session, Stage};
use crate::wire::reply::ReplyLine;

/// Between two attempts to connect.
const RETRY: Micros = 100_000;
/// Longest sleep: so often a stop request and silence of peers are looked for.
const TICK: Micros = 100_000;
/// Connections in a row that a relay may shut out before any transaction, unless told to reconnect for ever.
const STRIKES_MAX: u32 = 10;
/// After a stop request, how long replies are waited for.
const STOP_GRACE: Micros = 10_000_000;

/// Hands out messages and collects what became of them: the session's host.
pub struct Desk {
    plan: Arc<Plan>,
    pace: Pace,
    counter: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    batch: Batch,
}

#[derive(Default)]
struct Batch {
    begun: u64,
    ended: Vec<Done>,
    refused: Vec<(u64, u16)>,
    replies: Vec<(Stage, u16, u64)>,
    texts: Vec<(Stage, u16, String)>,
    connections: u64,
    connects_failed: u64,
    connections_lost: u64,
}

struct Done {
    job: Job,
    begun: Micros,
    sent: Option<Micros>,
    ended: Micros,
    answer: Answer,
    all_refused: bool,
}

impl Desk {
    /// A desk that shares `counter` with the other threads.
    pub fn new(plan: Arc<Plan>, pace: Pace, counter: Arc<AtomicU64>, stop: Arc<AtomicBool>) -> Self {
        Self { plan, pace, counter, stop, batch: Batch::default() }
    }

    /// When the next message is due.
    fn due(&self, now: Micros) -> Due {
        if self.stop.load(Ordering::Relaxed) {
            return Due::Never;
        }
        self.pace.due(self.counter.load(Ordering::Relaxed), now)
    }

    /// Applies the turn's events.
    fn settle(&mut self, board: &mut Board) {
        let batch = &mut self.batch;
        let tally = &mut board.source;
        tally.connections += std::mem::take(&mut batch.connections);
        tally.connects_failed += std::mem::take(&mut batch.connects_failed);
        tally.connections_lost += std::mem::take(&mut batch.connections_lost);
        tally.in_flight += std::mem::take(&mut batch.begun);
        tally.in_flight -= batch.ended.len() as u64;
        for (stage, code, count) in batch.replies.drain(..) {
            tally.replies.entry((stage, code)).or_default().0 += count;
        }
        for (stage, code, text) in batch.texts.drain(..) {
            let (_, kept) = tally.replies.entry((stage, code)).or_default();
            if kept.is_empty() {
                *kept = text;
            }
        }
        let Some(ledger) = board.books.ledger(self.plan.run) else { return };
        for (number, recipient) in batch.refused.drain(..) {
            ledger.answered(number, recipient, Answer::Refused);
        }
        for done in batch.ended.drain(..) {
            // The first word about a recipient counts, so those refused one by one stay refused.
            (0..self.plan.recipients)
                .for_each(|recipient| ledger.answered(done.job.number, recipient, done.answer));
            match done.answer {
                Answer::Accepted if !done.all_refused => tally.accepted += 1,
                Answer::Accepted | Answer::Refused => tally.refused += 1,
                Answer::Unknown => tally.unknown += 1,
                Answer::Aborted => tally.aborted += 1,
            }
            if let (Some(sent), Answer::Accepted) = (done.sent, done.answer) {
                record(&mut tally.end_of_data, done.ended.saturating_sub(sent));
                record(&mut tally.transaction, done.ended.saturating_sub(done.begun));
                widen(&mut tally.first_and_last, done.begun);
                widen(&mut tally.first_and_last, done.ended);
            }
            if self.pace.rate.is_some() {
                record(&mut tally.lateness, done.begun.saturating_sub(done.job.intended));
                if done.answer == Answer::Accepted {
                    record(&mut tally.from_intended, done.ended.saturating_sub(done.job.intended));
                }
            }
        }
    }
}

impl Host for Desk {
    fn next(&mut self, now: Micros) -> Option<Job> {
        if self.stop.load(Ordering::Relaxed) {
            return None;
        }
        let mut number = self.counter.load(Ordering::Relaxed);
        loop {
            let Due::Now(intended) = self.pace.due(number, now) else { return None };
            match self.counter.compare_exchange_weak(number, number + 1, Ordering::Relaxed, Ordering::Relaxed)
            {
                Ok(_) => {
                    self.batch.begun += 1;
                    return Some(Job { number, intended });
                }
                Err(other) => number = other,
            }
        }
    }

    fn reply(&mut self, stage: Stage, reply: ReplyLine<'_>) {
        let counts = &mut self.batch.replies;
        match counts.iter_mut().find(|(of, code, _)| (*of, *code) == (stage, reply.code)) {
            Some((_, _, count)) => *count += 1,
            None => {
                counts.push((stage, reply.code, 1));
                if reply.code >= 400 {
                    let text = String::from_utf8_lossy(reply.text).replace(char::is_control, " ");
                    self.batch.texts.push((stage, reply.code, text));
                }
            }
        }
    }

    fn ended(&mut self, ended: &Ended<'_>) {
        let number = ended.job.number;
        self.batch.refused.extend(ended.refused.iter().map(|recipient| (number, *recipient)));
        self.batch.ended.push(Done {
            job: ended.job,
            begun: ended.begun,
            sent: ended.sent,
            ended: ended.ended,
            answer: ended.answer,
            all_refused: ended.refused.len() == usize::from(self.plan.recipients),
        });
    }
}

enum Link {
    /// No socket; try again at this time.
    Down(Micros),
    Connecting(TcpStream),
    Up(TcpStream),
    /// Not opened again.
    Retired,
}

struct Connection {
    session: Session,
    link: Link,
    /// Last time bytes moved.
    moved: Micros,
    /// In the list of idle ones.
    listed: bool,
    /// Connections in a row that were shut out before any transaction.
    strikes: u32,
}

/// How a connection ended, which decides whether it is opened again.
enum Over {
    /// QUIT was answered.
    Orderly,
    /// The relay shut us out with a reply, or does not speak SMTP.
    ShutOut,
    /// Cut off or silent.
    Lost,
}

/// One source thread.
pub struct Worker {
    settings: Settings,
    plan: Arc<Plan>,
    desk: Desk,
    board: SharedBoard,
    poll: Poll,
    connections: Vec<Connection>,
    idle: VecDeque<usize>,
    buffer: Vec<u8>,
}

impl Worker {
    /// A worker for `settings.connections` connections.
    pub fn new(settings: Settings, desk: Desk, board: SharedBoard) -> io::Result<Self> {
        let fresh = || Connection {
            session: Session::default(),
            link: Link::Down(0),
            moved: 0,
            listed: false,
            strikes: 0,
        };
        Ok(Self {
            connections: std::iter::repeat_with(fresh).take(settings.connections).collect(),
            poll: Poll::new()?,
            idle: VecDeque::new(),
            buffer: vec![0; READ_BYTES],
            plan: desk.plan.clone(),
            settings,
            desk,
            board,
        })
    }

    /// Runs until every message has ended, and says how busy the thread was.
    pub fn run(mut self) -> io::Result<ThreadUse> {
        let (started, cpu) = (clock::now(), clock::thread_cpu());
        let mut events = Events::with_capacity(EVENTS_PER_TURN);
        let mut next_tick = 0;
        let mut stopped_at = None;
        loop {
            let now = clock::now();
            if now >= next_tick {
                self.tick(now);
                next_tick = now + TICK;
            }
            self.start_due(now);
            self.desk.settle(&mut self.board.lock());
            if self.connections.iter().all(|connection| matches!(connection.link, Link::Retired)) {
                break;
            }
            if self.desk.due(now) == Due::Never {
                let stopped = *stopped_at.get_or_insert(now);
                let grace = if self.desk.stop.load(Ordering::Relaxed) { STOP_GRACE } else { Micros::MAX };
                if self.wind_up(now, now.saturating_sub(stopped) > grace) {
                    break;
                }
            }
            let wake = match self.desk.due(now) {
                Due::At(due) => due.min(next_tick),
                Due::Now(_) | Due::Never => next_tick,
            };
            let sleep = Duration::from_micros(wake.saturating_sub(clock::now()));
            match self.poll.poll(&mut events, Some(sleep)) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                other => other?,
            }
            let now = clock::now();
            for event in &events {
                self.handle(event.token().0, now);
            }
        }
        self.desk.settle(&mut self.board.lock());
        let wall = Duration::from_micros(clock::now().saturating_sub(started));
        Ok(ThreadUse { cpu: clock::thread_cpu().saturating_sub(cpu), wall })
    }

    /// Opens what is down and gives up what has been silent too long.
    fn tick(&mut self, now: Micros) {
        let exhausted = self.desk.due(now) == Due::Never;
        for index in 0..self.connections.len() {
            let connection = &self.connections[index];
            let silent = now.saturating_sub(connection.moved) > self.settings.timeout;
            match connection.link {
                Link::Down(at) if at <= now && !exhausted => self.open(index, now),
                Link::Connecting(_) if silent => self.connect_failed(index, now),
                Link::Up(_) if silent && connection.session.is_waiting() => self.over(index, Over::Lost, now),
                _ => {}
            }
        }
    }

    fn open(&mut self, index: usize, now: Micros) {
        let opened = TcpStream::connect(self.settings.target).and_then(|mut stream| {
            let interest = Interest::READABLE | Interest::WRITABLE;
            self.poll.registry().register(&mut stream, Token(index), interest)?;
            Ok(stream)
        });
        match opened {
            Ok(stream) => {
                self.connections[index].link = Link::Connecting(stream);
                self.connections[index].moved = now;
            }
            Err(_) => self.connect_failed(index, now),
        }
    }

    fn connect_failed(&mut self, index: usize, now: Micros) {
        self.desk.batch.connects_failed += 1;
        self.connections[index].link =
            if self.settings.reconnect { Link::Down(now + RETRY) } else { Link::Retired };
    }

    /// Ends a connection and its session.
    fn over(&mut self, index: usize, over: Over, now: Micros) {
        let connection = &mut self.connections[index];
        connection.strikes = if connection.session.was_useful() { 0 } else { connection.strikes + 1 };
        connection.session.lost(now, &mut self.desk);
        let again = self.settings.reconnect || connection.strikes < STRIKES_MAX;
        connection.link = match over {
            Over::Orderly => Link::Down(now),
            Over::ShutOut if again => Link::Down(now + RETRY),
            Over::Lost if self.settings.reconnect => Link::Down(now + RETRY),
            Over::ShutOut | Over::Lost => Link::Retired,
        };
        match over {
            Over::Orderly if self.desk.due(now) != Due::Never => self.open(index, now),
            Over::Orderly => {}
            Over::ShutOut | Over::Lost => self.desk.batch.connections_lost += 1,
        }
    }

    /// Gives messages that are due to sessions that wait for one.
    fn start_due(&mut self, now: Micros) {
        while let Due::Now(_) = self.desk.due(now) {
            let Some(index) = self.idle.pop_front() else { return };
            let connection = &mut self.connections[index];
            connection.listed = false;
            if let Link::Up(_) = connection.link
                && connection.session.is_idle()
            {
                connection.session.start(&self.plan, now, &mut self.desk);
                connection.moved = now;
                self.flush(index, now);
            }
        }
    }

    /// No message is left: closes idle sessions. `true` when all are closed.
    fn wind_up(&mut self, now: Micros, cut_off: bool) -> bool {
        let mut done = true;
        for index in 0..self.connections.len() {
            match &self.connections[index].link {
                Link::Up(_) if cut_off => self.over(index, Over::Lost, now),
                Link::Up(_) => {
                    done = false;
                    if self.connections[index].session.is_idle() {
                        self.connections[index].session.quit();
                        self.connections[index].moved = now;
                        self.flush(index, now);
                    }
                }
                // It has nothing under way, so nobody waits for it.
                Link::Connecting(_) => self.connections[index].link = Link::Down(Micros::MAX),
                Link::Down(_) | Link::Retired => {}
            }
        }
        done
    }

    fn handle(&mut self, index: usize, now: Micros) {
        let Some(connection) = self.connections.get_mut(index) else { return };
        match std::mem::replace(&mut connection.link, Link::Retired) {
            Link::Connecting(stream) => {
                if matches!(stream.take_error(), Ok(None)) && stream.set_nodelay(true).is_ok() {
                    match stream.peer_addr() {
                        Ok(_) => {
                            self.desk.batch.connections += 1;
                            connection.link = Link::Up(stream);
                            connection.moved = now;
                            self.read(index, now);
                        }
                        Err(error) if error.kind() == ErrorKind::NotConnected => {
                            connection.link = Link::Connecting(stream);
                        }
                        Err(_) => self.connect_failed(index, now),
                    }
                } else {
                    self.connect_failed(index, now);
                }
            }
            Link::Up(stream) => {
                connection.link = Link::Up(stream);
                self.read(index, now);
            }
            other => connection.link = other,
        }
    }

    /// Reads what has come, writes what the session answers.
    fn read(&mut self, index: usize, now: Micros) {
        // Bytes may wait for room in the socket; this event may be that room.
        if !self.flush(index, now) {
            return;
        }
        loop {
            let connection = &mut self.connections[index];
            let Link::Up(stream) = &mut connection.link else { return };
            let count = match stream.read(&mut self.buffer) {
                Ok(0) => return self.over(index, Over::Lost, now),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => return self.over(index, Over::Lost, now),
            };
            connection.moved = now;
            match connection.session.receive(&self.plan, &self.buffer[..count], now, &mut self.desk) {
                Flow::Continue => {}
                Flow::Done => return self.over(index, Over::Orderly, now),
                Flow::Close => return self.over(index, Over::ShutOut, now),
            }
            if !self.flush(index, now) {
                return;
            }
            let connection = &mut self.connections[index];
            if connection.session.is_idle() && !connection.listed {
                connection.listed = true;
                self.idle.push_back(index);
            }
            // A short read has emptied the socket: what comes later is a new event (epoll(7), edge-triggered).
            if count < self.buffer.len() {
                return;
            }
        }
    }

    /// Writes until the socket is full or nothing is left. `false` if the connection went.
    fn flush(&mut self, index: usize, now: Micros) -> bool {
        let connection = &mut self.connections[index];
        let plan = &self.plan;
        let Link::Up(stream) = &mut connection.link else { return false };
        while !connection.session.out.is_empty() {
            let slices = connection.session.out.slices(plan).map(IoSlice::new);
            match stream.write_vectored(&slices) {
                Ok(count) => {
                    connection.moved = now;
                    connection.session.written(plan, count, clock::now());
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => {
                    self.over(index, Over::Lost, now);
                    return false;
                }
            }
        }
        true
    }
}
