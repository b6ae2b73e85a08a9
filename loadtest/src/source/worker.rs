//! One source thread: a poll, its share of the connections, and a session for each. All decisions are the session's and
//! the pace's; this moves bytes.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice};
use std::sync::Arc;
use std::time::Duration;

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use crate::alarm::Alarm;
use crate::board::{SharedBoard, ThreadUse};
use crate::clock::{self, Micros};
use crate::limits::{EVENTS_PER_TURN, READ_BYTES};
use crate::measure::phase::Phase;
use crate::source::desk::Desk;
use crate::source::host::Host;
use crate::source::pace::Due;
use crate::source::plan::Plan;
use crate::source::session::{Flow, Session};
use crate::source::{Security, Settings};
use crate::stream::Stream;

/// The alarm's token; below are connections.
const ALARM: Token = Token(usize::MAX - 1);
/// Between two attempts to connect.
const RETRY: Micros = 100_000;
/// Longest sleep: so often a stop request and silence of peers are looked for.
const TICK: Micros = 100_000;
/// Connections in a row that a relay may shut out before any transaction, unless told to reconnect for ever.
const STRIKES_MAX: u32 = 10;
/// After a stop request, how long replies are waited for.
const STOP_GRACE: Micros = 10_000_000;

enum Link {
    /// No socket; try again at this time.
    Down(Micros),
    Connecting(TcpStream),
    /// The TLS handshake is under way.
    Securing(Stream),
    Up(Stream),
    /// Not opened again.
    Retired,
}

struct Connection {
    session: Session,
    link: Link,
    /// Last time bytes moved or connecting began.
    moved: Micros,
    /// When it began to be free for a message.
    free_since: Micros,
    /// Last time bytes were read.
    last_read: Micros,
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
    alarm: Alarm,
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
            free_since: 0,
            last_read: 0,
            listed: false,
            strikes: 0,
        };
        let poll = Poll::new()?;
        let alarm = Alarm::new(poll.registry(), ALARM)?;
        Ok(Self {
            connections: std::iter::repeat_with(fresh).take(settings.connections).collect(),
            poll,
            alarm,
            idle: VecDeque::new(),
            buffer: vec![0; READ_BYTES],
            plan: desk.plan().clone(),
            settings,
            desk,
            board,
        })
    }

    /// Runs until every message has ended, and says how busy the thread was.
    pub fn run(mut self) -> io::Result<ThreadUse> {
        let (started, cpu, waited) = (clock::now(), clock::thread_cpu(), clock::thread_waited());
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
            if self.is_forsaken(now, started) {
                break;
            }
            if self.desk.due(now) == Due::Never {
                let stopped = *stopped_at.get_or_insert(now);
                let grace = if self.desk.is_stopped() { STOP_GRACE } else { Micros::MAX };
                if self.wind_up(now, now.saturating_sub(stopped) > grace) {
                    break;
                }
            }
            if let Due::At(due) = self.desk.due(now) {
                self.alarm.set(due)?;
            }
            let sleep = Duration::from_micros(next_tick.saturating_sub(clock::now()));
            match self.poll.poll(&mut events, Some(sleep)) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                other => other?,
            }
            for event in &events {
                if event.token() == ALARM {
                    continue;
                }
                // A turn may be long: each reply is timed as it is read.
                self.handle(event.token().0, event.is_read_closed(), clock::now());
            }
        }
        self.desk.settle(&mut self.board.lock());
        let wall = Duration::from_micros(clock::now().saturating_sub(started));
        let name = std::thread::current().name().unwrap_or_default().to_owned();
        let waited = clock::thread_waited().saturating_sub(waited);
        Ok(ThreadUse { name, cpu: clock::thread_cpu().saturating_sub(cpu), waited, wall })
    }

    /// No connection is left, or none has moved a byte for the whole time-out: a run is bounded in time even if it
    /// reconnects.
    fn is_forsaken(&mut self, now: Micros, started: Micros) -> bool {
        let connections = &self.connections;
        if connections.iter().all(|connection| matches!(connection.link, Link::Retired)) {
            return true;
        }
        if connections.iter().any(|connection| matches!(connection.link, Link::Up(_) | Link::Securing(_))) {
            return false;
        }
        let moved = connections.iter().map(|connection| connection.last_read).max().unwrap_or(0).max(started);
        self.desk.due(now) != Due::Never && now.saturating_sub(moved) > self.settings.timeout
    }

    /// Opens what is down and gives up what has been silent too long.
    fn tick(&mut self, now: Micros) {
        let exhausted = self.desk.due(now) == Due::Never;
        for index in 0..self.connections.len() {
            let connection = &self.connections[index];
            let silent = now.saturating_sub(connection.moved) > self.settings.timeout;
            match connection.link {
                Link::Down(at) if at <= now && !exhausted => self.open(index, now),
                Link::Connecting(_) if silent => self.connect_failed(index, &ErrorKind::TimedOut.into(), now),
                Link::Up(_) | Link::Securing(_) if silent && connection.session.is_waiting() => {
                    self.over(index, Over::Lost, now)
                }
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
            Err(error) => self.connect_failed(index, &error, now),
        }
    }

    fn connect_failed(&mut self, index: usize, why: &io::Error, now: Micros) {
        self.desk.batch().connects_failed += 1;
        self.desk.batch().connect_error = Some(why.to_string());
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
            Over::ShutOut | Over::Lost => self.desk.batch().connections_lost += 1,
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
                self.desk.offer(Some(connection.free_since));
                connection.session.start(&self.plan, now, &mut self.desk);
                self.desk.offer(None);
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
                Link::Connecting(_) | Link::Securing(_) => {
                    self.connections[index].link = Link::Down(Micros::MAX)
                }
                Link::Down(_) | Link::Retired => {}
            }
        }
        done
    }

    fn handle(&mut self, index: usize, ended: bool, now: Micros) {
        let Some(connection) = self.connections.get_mut(index) else { return };
        match std::mem::replace(&mut connection.link, Link::Retired) {
            Link::Connecting(stream) => {
                let failed = stream.take_error().and_then(|error| error.map_or(Ok(()), Err));
                match failed.and_then(|()| stream.peer_addr()).and_then(|_| stream.set_nodelay(true)) {
                    Ok(()) => self.connected(index, stream, ended, now),
                    // An event that came too early; the next one tells.
                    Err(error) if error.kind() == ErrorKind::NotConnected => {
                        connection.link = Link::Connecting(stream);
                    }
                    Err(error) => self.connect_failed(index, &error, now),
                }
            }
            Link::Securing(stream) => {
                connection.link = Link::Securing(stream);
                self.secure(index, ended, now);
            }
            Link::Up(stream) => {
                connection.link = Link::Up(stream);
                self.read(index, ended, now);
            }
            other => connection.link = other,
        }
    }

    fn connected(&mut self, index: usize, stream: TcpStream, ended: bool, now: Micros) {
        let connection = &mut self.connections[index];
        let implicit = matches!(self.settings.security, Security::Implicit(_));
        self.desk.batch().connections += 1;
        self.desk.phase(Phase::Connect, connection.moved, now, None);
        connection.moved = now;
        connection.session.connected(now, implicit);
        connection.link = Link::Up(Stream::Clear(stream));
        if implicit {
            self.begin_tls(index, ended, now);
        } else {
            self.read(index, ended, now);
        }
    }

    fn begin_tls(&mut self, index: usize, ended: bool, now: Micros) {
        let tls = match &self.settings.security {
            Security::None => Err(rustls::Error::General("no TLS was asked for".into())),
            Security::StartTls(config) | Security::Implicit(config) => {
                rustls::ClientConnection::new(config.clone(), self.settings.server_name.clone())
            }
        };
        match tls {
            Ok(tls) => {
                let connection = &mut self.connections[index];
                if let Link::Up(stream) = std::mem::replace(&mut connection.link, Link::Retired) {
                    connection.link = Link::Securing(stream.secure(tls.into()));
                }
                self.secure(index, ended, now);
            }
            Err(error) => {
                self.desk.batch().connect_error = Some(format!("TLS: {error}"));
                self.over(index, Over::Lost, now);
            }
        }
    }

    /// Moves the handshake on.
    fn secure(&mut self, index: usize, ended: bool, now: Micros) {
        let connection = &mut self.connections[index];
        let Link::Securing(stream) = &mut connection.link else { return };
        match stream.shake_hands() {
            Ok(false) => connection.moved = now,
            Ok(true) => {
                let resumed = stream.is_resumed();
                if let Link::Securing(stream) = std::mem::replace(&mut connection.link, Link::Retired) {
                    connection.link = Link::Up(stream);
                }
                connection.moved = now;
                connection.session.secured(&self.plan, clock::now(), &mut self.desk);
                let handshakes = &mut self.desk.batch().handshakes;
                *(if resumed { &mut handshakes.1 } else { &mut handshakes.0 }) += 1;
                self.read(index, ended, now);
            }
            Err(error) => {
                self.desk.batch().connect_error = Some(format!("TLS: {error}"));
                self.over(index, Over::Lost, now);
            }
        }
    }

    /// Reads what has come, writes what the session answers. `ended`: the peer has closed its side, so there is an end to
    /// be read behind the last bytes.
    fn read(&mut self, index: usize, ended: bool, now: Micros) {
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
            connection.last_read = now;
            match connection.session.receive(&self.plan, &self.buffer[..count], now, &mut self.desk) {
                Flow::Continue => {}
                Flow::Secure => return self.begin_tls(index, ended, now),
                Flow::Done => return self.over(index, Over::Orderly, now),
                Flow::Close => return self.over(index, Over::ShutOut, now),
            }
            if !self.flush(index, now) {
                return;
            }
            let connection = &mut self.connections[index];
            if connection.session.is_idle() && !connection.listed {
                connection.listed = true;
                connection.free_since = now;
                self.idle.push_back(index);
            }
            // A short read has emptied the socket: what comes later is a new event (epoll(7), edge-triggered).
            if count < self.buffer.len() && !ended && connection_is_clear(&self.connections[index].link) {
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
            match stream.write(&slices) {
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

/// With TLS, bytes of a record that was read may wait behind those handed out.
fn connection_is_clear(link: &Link) -> bool {
    matches!(link, Link::Up(stream) if stream.is_clear())
}
