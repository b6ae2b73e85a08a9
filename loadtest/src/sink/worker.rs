//! One sink thread: a poll and the sessions of its connections. The first thread also accepts, and hands connections
//! round: with few of them, SO_REUSEPORT would leave threads idle.

use std::collections::{BTreeSet, VecDeque};
use std::io::{self, ErrorKind, IoSlice};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token, Waker};

use crate::alarm::Alarm;
use crate::board::{Board, SharedBoard, SinkCounts, ThreadUse, widen};
use crate::clock::{self, Micros};
use crate::limits::{EVENTS_PER_TURN, READ_BYTES, READS_PER_TURN_MAX, REPLIES_BYTES_MAX};
use crate::measure::phase::record;
use crate::sink::Settings;
use crate::sink::keep::Keeper;
use crate::sink::meter::Meter;
use crate::sink::profile::Profile;
use crate::sink::script::Moment;
use crate::sink::session::{Counted, Delivery, Fixed, Flow, Host, Session};
use crate::stream::Stream;
use crate::wire::content::DotFinder;
use crate::wire::mark::{Id, Local};
use crate::wire::template::mix;

/// Tokens from here on are listeners; below are connections.
const LISTENERS: usize = 1 << 40;
const WAKER: Token = Token(usize::MAX - 1);
const ALARM: Token = Token(usize::MAX - 2);
const TOO_MANY: &[u8] = b"421 4.7.0 Too many connections\r\n";
/// Longest sleep: so often a stop request is looked for.
const TICK: Duration = Duration::from_millis(100);

/// Where a thread takes connections in.
pub struct Door {
    sender: Sender<(TcpStream, usize)>,
    waker: Arc<Waker>,
}

/// What a sink's threads count together.
pub struct Shared {
    started: Micros,
    gates: Vec<Gate>,
}

/// What a listener's connections count together.
#[derive(Default)]
struct Gate {
    /// Connections.
    open: AtomicUsize,
    /// Messages begun.
    begun: Meter,
}

impl Shared {
    /// Nothing has happened yet at any of so many listeners.
    pub fn new(listeners: usize) -> Self {
        Self { started: clock::now(), gates: std::iter::repeat_with(Gate::default).take(listeners).collect() }
    }
}

struct Connection {
    stream: Stream,
    /// Where it came in.
    listener: usize,
    session: Session,
    replies: Vec<u8>,
    replies_done: usize,
    /// From these offsets in the replies on, nothing leaves before these times.
    holds: VecDeque<(usize, Micros)>,
    /// Close once the replies are written.
    closing: bool,
    /// Begin TLS once the replies are written.
    securing: bool,
}

/// Collects a turn's events: the sessions' host.
struct Tray {
    now: Micros,
    /// By listener.
    counts: Vec<SinkCounts>,
    /// Where the connection came in whose turn it is.
    listener: usize,
    settings: Arc<Settings>,
    arrived: Vec<(Id, u16, bool)>,
    misdelivered: Vec<Id>,
    transits: Vec<Micros>,
    failed: Vec<(Id, u16)>,
    bounced: Vec<Id>,
    /// Delays asked for in this turn of a session.
    holds: Vec<(usize, Micros)>,
    chance: u64,
    keep: Option<Arc<Keeper>>,
    shared: Arc<Shared>,
}

impl Tray {
    fn settle(&mut self, board: &mut Board) {
        let tally = &mut board.sink;
        for (counts, (_, total)) in self.counts.iter_mut().zip(&mut tally.listeners) {
            if *counts == SinkCounts::default() {
                continue;
            }
            let slot = board.timeline.at(self.now);
            slot.arrived += counts.messages;
            slot.sink_refused += counts.deferred + counts.rejected + counts.dropped;
            if counts.messages > 0 {
                widen(&mut tally.first_and_last, self.now);
            }
            total.add(counts);
            tally.counts.add(&std::mem::take(counts));
        }
        self.transits.drain(..).for_each(|micros| record(&mut tally.transit, micros));
        let books = &mut board.books;
        for (id, recipient, intact) in self.arrived.drain(..) {
            match books.ledger_of(id) {
                Some(ledger) => ledger.arrived(id.number, recipient, intact),
                None => tally.counts.foreign += 1,
            }
        }
        for id in self.misdelivered.drain(..) {
            if let Some(ledger) = books.ledger_of(id) {
                ledger.misdelivered();
            }
        }
        for (id, recipient) in self.failed.drain(..) {
            if let Some(ledger) = books.ledger_of(id) {
                ledger.failed(id.number, recipient);
            }
        }
        for id in self.bounced.drain(..) {
            if let Some(ledger) = books.ledger_of(id) {
                ledger.bounced(id.number);
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.failed.is_empty() && self.counts.iter().all(|counts| *counts == SinkCounts::default())
    }

    fn counts(&mut self) -> &mut SinkCounts {
        &mut self.counts[self.listener]
    }
}

impl Host for Tray {
    fn delivered(&mut self, delivery: &Delivery<'_>) {
        let Delivery { receipt, recipients, null_sender, envelope, content } = delivery;
        self.counts().messages += 1;
        self.counts().recipients += recipients.len() as u64;
        self.counts().bytes += receipt.bytes();
        if let Some(keeper) = &self.keep
            && let Err(error) = keeper.keep(envelope, content, clock::wall())
        {
            eprintln!("ringpost-load: cannot keep a message: {error}; no further one is kept");
            self.keep = None;
        }
        if *null_sender {
            self.counts().bounces += 1;
            for recipient in *recipients {
                if let Local::Sender(id) = recipient {
                    self.bounced.push(*id);
                }
            }
            return;
        }
        let Some(id) = receipt.id() else {
            self.counts().foreign += 1;
            return;
        };
        self.counts().corrupted += u64::from(!receipt.intact());
        // A turn may be long, and the sender's clock is read at each message too.
        if let Some(transit) = receipt.sent().and_then(|sent| clock::now().checked_sub(sent)) {
            self.transits.push(transit);
        }
        for recipient in *recipients {
            match recipient {
                Local::Recipient { number, index } if *number == id.number => {
                    self.arrived.push((id, *index, receipt.intact()));
                }
                _ => self.misdelivered.push(id),
            }
        }
    }

    fn failed(&mut self, id: Id, index: u16) {
        self.failed.push((id, index));
    }

    fn count(&mut self, counted: Counted) {
        match counted {
            Counted::Deferred => self.counts().deferred += 1,
            Counted::Rejected => self.counts().rejected += 1,
            Counted::Dropped => self.counts().dropped += 1,
            Counted::Error => self.counts().errors += 1,
        }
    }

    fn moment(&mut self) -> Moment {
        self.chance = self.chance.wrapping_add(1);
        Moment { chance: mix(self.chance), elapsed: self.now.saturating_sub(self.shared.started) }
    }

    fn hold(&mut self, from: usize, micros: Micros) {
        self.holds.push((from, micros));
    }

    fn admit(&mut self) -> bool {
        let elapsed = self.now.saturating_sub(self.shared.started);
        let most = self.settings.listeners[self.listener].profile.messages_per_second;
        most.is_none_or(|most| self.shared.gates[self.listener].begun.admit(most, elapsed))
    }
}

/// One sink thread.
pub struct Worker {
    settings: Arc<Settings>,
    shared: Arc<Shared>,
    board: SharedBoard,
    stop: Arc<AtomicBool>,
    poll: Poll,
    alarm: Alarm,
    /// When held replies of which connection may leave.
    timers: BTreeSet<(Micros, usize)>,
    inlet: Receiver<(TcpStream, usize)>,
    listeners: Vec<TcpListener>,
    doors: Vec<Door>,
    next_door: usize,
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
    /// Connections that had more to read than their turn allowed.
    again: Vec<(usize, bool)>,
    finder: DotFinder,
    buffer: Vec<u8>,
    tray: Tray,
}

impl Worker {
    /// A worker and the door through which it gets connections.
    pub fn new(
        thread: usize,
        settings: Arc<Settings>,
        shared: Arc<Shared>,
        board: SharedBoard,
        stop: Arc<AtomicBool>,
    ) -> io::Result<(Self, Door)> {
        let poll = Poll::new()?;
        let alarm = Alarm::new(poll.registry(), ALARM)?;
        let (sender, inlet) = channel();
        let door = Door { sender, waker: Arc::new(Waker::new(poll.registry(), WAKER)?) };
        let tray = Tray {
            now: 0,
            counts: vec![SinkCounts::default(); settings.listeners.len()],
            listener: 0,
            settings: settings.clone(),
            arrived: Vec::new(),
            misdelivered: Vec::new(),
            transits: Vec::new(),
            failed: Vec::new(),
            bounced: Vec::new(),
            chance: mix(thread as u64) >> 8,
            keep: settings.keep.clone(),
            holds: Vec::new(),
            shared: shared.clone(),
        };
        let worker = Self {
            settings,
            shared,
            board,
            stop,
            poll,
            alarm,
            timers: BTreeSet::new(),
            inlet,
            listeners: Vec::new(),
            doors: Vec::new(),
            next_door: 0,
            connections: Vec::new(),
            free: Vec::new(),
            again: Vec::new(),
            finder: DotFinder::default(),
            buffer: vec![0; READ_BYTES],
            tray,
        };
        Ok((worker, door))
    }

    /// Makes this worker the one that accepts, for all `doors`.
    pub fn accept_for(&mut self, mut listeners: Vec<TcpListener>, doors: Vec<Door>) -> io::Result<()> {
        for (index, listener) in listeners.iter_mut().enumerate() {
            self.poll.registry().register(listener, Token(LISTENERS + index), Interest::READABLE)?;
        }
        (self.listeners, self.doors) = (listeners, doors);
        Ok(())
    }

    /// Runs until told to stop, and says how busy the thread was.
    pub fn run(mut self) -> io::Result<ThreadUse> {
        let (started, cpu, waited) = (clock::now(), clock::thread_cpu(), clock::thread_waited());
        let mut events = Events::with_capacity(EVENTS_PER_TURN);
        while !self.stop.load(Ordering::Relaxed) {
            let sleep = if self.again.is_empty() { TICK } else { Duration::ZERO };
            match self.poll.poll(&mut events, Some(sleep)) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                other => other?,
            }
            self.tray.now = clock::now();
            while let Some((time, index)) =
                self.timers.first().copied().filter(|timer| timer.0 <= self.tray.now)
            {
                self.timers.remove(&(time, index));
                self.serve(index, true);
            }
            for (index, ended) in std::mem::take(&mut self.again) {
                self.serve(index, ended);
            }
            for event in &events {
                match event.token() {
                    WAKER => self.take_in(),
                    ALARM => {}
                    Token(token) if token >= LISTENERS => self.accept(token - LISTENERS),
                    Token(index) => self.serve(index, event.is_read_closed()),
                }
            }
            if !self.tray.is_empty() {
                self.tray.settle(&mut self.board.lock());
            }
            if let Some((time, _)) = self.timers.first() {
                self.alarm.set(*time)?;
            }
        }
        let wall = Duration::from_micros(clock::now().saturating_sub(started));
        let name = std::thread::current().name().unwrap_or_default().to_owned();
        let waited = clock::thread_waited().saturating_sub(waited);
        Ok(ThreadUse { name, cpu: clock::thread_cpu().saturating_sub(cpu), waited, wall })
    }

    fn accept(&mut self, index: usize) {
        loop {
            let Some(listener) = self.listeners.get(index) else { return };
            let stream = match listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                // Out of descriptors or an aborted connection: the rest waits for the next event.
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => continue,
                Err(error) => return eprintln!("ringpost-load: the sink cannot accept: {error}"),
            };
            self.next_door = (self.next_door + 1) % self.doors.len().max(1);
            if self.next_door == 0 {
                self.enter(stream, index);
            } else if let Some(door) = self.doors.get(self.next_door)
                && door.sender.send((stream, index)).is_ok()
            {
                // A failed wake leaves the connection to the other thread's next turn.
                let _ = door.waker.wake();
            }
        }
    }

    fn take_in(&mut self) {
        while let Ok((stream, listener)) = self.inlet.try_recv() {
            self.enter(stream, listener);
        }
    }

    fn enter(&mut self, mut stream: TcpStream, listener: usize) {
        let index = self.free.pop().unwrap_or_else(|| {
            self.connections.push(None);
            self.connections.len() - 1
        });
        let interest = Interest::READABLE | Interest::WRITABLE;
        if stream.set_nodelay(true).is_err()
            || self.poll.registry().register(&mut stream, Token(index), interest).is_err()
        {
            self.free.push(index);
            return;
        }
        self.tray.listener = listener;
        self.tray.counts().connections += 1;
        let open = self.shared.gates[listener].open.fetch_add(1, Ordering::Relaxed);
        let mut connection = Connection {
            stream: Stream::Clear(stream),
            listener,
            session: Session::default(),
            replies: Vec::new(),
            replies_done: 0,
            holds: VecDeque::new(),
            closing: false,
            securing: false,
        };
        if self.settings.implicit && connection.secure(&self.settings).is_err() {
            connection.closing = true;
        } else if self.settings.listeners[listener].profile.connections_max.is_some_and(|most| open >= most) {
            self.tray.count(Counted::Deferred);
            connection.replies.extend_from_slice(TOO_MANY);
            connection.closing = true;
        } else {
            let fixed = fixed(&self.settings, listener, &self.finder);
            let flow = connection.session.greet(&fixed, &mut connection.replies, &mut self.tray);
            connection.closing = flow != Flow::Continue;
        }
        self.connections[index] = Some(connection);
        self.hold(index);
        self.serve(index, false);
    }

    /// Turns the delays that a session asked for into times.
    fn hold(&mut self, index: usize) {
        let Some(Some(connection)) = self.connections.get_mut(index) else { return };
        for (from, micros) in self.tray.holds.drain(..) {
            let last = connection.holds.back().map_or(0, |hold| hold.1);
            let time = last.max(self.tray.now).saturating_add(micros);
            connection.holds.push_back((from, time));
            self.timers.insert((time, index));
        }
    }

    fn close(&mut self, index: usize) {
        if let Some(connection) = self.connections[index].take() {
            self.shared.gates[connection.listener].open.fetch_sub(1, Ordering::Relaxed);
            self.free.push(index);
        }
    }

    /// Writes what waits, reads what has come, until nothing moves or the turn is over. `ended`: the peer has closed its
    /// side, so there is an end to be read behind the last bytes.
    fn serve(&mut self, index: usize, ended: bool) {
        let now = self.tray.now;
        for _ in 0..READS_PER_TURN_MAX {
            let Some(Some(connection)) = self.connections.get_mut(index) else { return };
            if connection.flush(now).is_err() || (connection.closing && connection.replies.is_empty()) {
                return self.close(index);
            }
            if connection.securing && connection.replies.is_empty() {
                connection.securing = false;
                if connection.secure(&self.settings).is_err() {
                    return self.close(index);
                }
            }
            // A peer that does not read its replies is not read from; its next event is room to write.
            if connection.closing || connection.securing || connection.replies.len() > REPLIES_BYTES_MAX {
                return;
            }
            let count = match connection.stream.read(&mut self.buffer) {
                Ok(0) => return self.close(index),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => return self.close(index),
            };
            let Connection { session, replies, listener, .. } = connection;
            self.tray.listener = *listener;
            let fixed = fixed(&self.settings, *listener, &self.finder);
            let flow = session.receive(&fixed, &self.buffer[..count], replies, &mut self.tray);
            if !self.tray.holds.is_empty() {
                self.hold(index);
            }
            let Some(Some(connection)) = self.connections.get_mut(index) else { return };
            match flow {
                Flow::Continue => {}
                Flow::Secure => {
                    connection.securing = true;
                    continue;
                }
                Flow::Close => connection.closing = true,
                Flow::Drop => {
                    // Earlier transactions keep their replies: only this one is cut off.
                    let _ = connection.flush(now);
                    return self.close(index);
                }
            }
            if connection.flush(now).is_err() || (connection.closing && connection.replies.is_empty()) {
                return self.close(index);
            }
            // A short read has emptied the socket: what comes later is a new event (epoll(7), edge-triggered).
            if count < self.buffer.len() && !ended && connection.stream.is_clear() {
                return;
            }
        }
        self.again.push((index, ended));
    }
}

fn fixed<'a>(settings: &'a Settings, listener: usize, finder: &'a DotFinder) -> Fixed<'a> {
    let Profile { script, manners, .. } = &settings.listeners[listener].profile;
    Fixed { script, manners, keep: settings.keep.is_some(), finder }
}

impl Connection {
    /// Writes until the socket is full, nothing is left, or the rest is held back.
    fn flush(&mut self, now: Micros) -> io::Result<()> {
        loop {
            while self.holds.front().is_some_and(|hold| hold.1 <= now) {
                self.holds.pop_front();
            }
            let end = self.holds.front().map_or(self.replies.len(), |hold| hold.0);
            if self.replies_done >= end {
                break;
            }
            match self.stream.write(&[IoSlice::new(&self.replies[self.replies_done..end])]) {
                Ok(count) => self.replies_done += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if self.replies_done == self.replies.len() {
            self.replies.clear();
            self.replies_done = 0;
        }
        Ok(())
    }

    fn secure(&mut self, settings: &Settings) -> io::Result<()> {
        let config = settings.tls.clone().ok_or(ErrorKind::Unsupported)?;
        let tls = rustls::ServerConnection::new(config).map_err(io::Error::other)?;
        self.stream = self.stream.take().secure(tls.into());
        self.session.secured();
        Ok(())
    }
}
