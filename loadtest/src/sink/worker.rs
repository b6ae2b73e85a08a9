//! One sink thread: a poll and the sessions of its connections. The first thread also accepts, and hands connections
//! round: with few of them, SO_REUSEPORT would leave threads idle.

use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token, Waker};

use crate::board::{Board, SharedBoard, SinkCounts, ThreadUse, widen};
use crate::clock::{self, Micros};
use crate::limits::{EVENTS_PER_TURN, READ_BYTES, READS_PER_TURN_MAX, REPLIES_BYTES_MAX};
use crate::measure::phase::record;
use crate::sink::Settings;
use crate::sink::session::{BANNER, Counted, Delivery, Fixed, Flow, Host, Session};
use crate::wire::content::DotFinder;
use crate::wire::mark::{Id, Local};
use crate::wire::template::mix;

/// Tokens from here on are listeners; below are connections.
const LISTENERS: usize = 1 << 40;
const WAKER: Token = Token(usize::MAX - 1);
/// Longest sleep: so often a stop request is looked for.
const TICK: Duration = Duration::from_millis(100);

/// Where a thread takes connections in.
pub struct Door {
    sender: Sender<TcpStream>,
    waker: Arc<Waker>,
}

struct Connection {
    stream: TcpStream,
    session: Session,
    replies: Vec<u8>,
    replies_done: usize,
    /// Close once the replies are written.
    closing: bool,
}

/// Collects a turn's events: the sessions' host.
struct Tray {
    now: Micros,
    counts: SinkCounts,
    arrived: Vec<(Id, u16, bool)>,
    misdelivered: Vec<Id>,
    transits: Vec<Micros>,
    failed: Vec<(Id, u16)>,
    bounced: Vec<Id>,
    chance: u64,
    keep: Option<PathBuf>,
    kept: u64,
    thread: usize,
}

impl Tray {
    fn settle(&mut self, board: &mut Board) {
        let tally = &mut board.sink;
        if self.counts != SinkCounts::default() {
            let slot = board.timeline.at(self.now);
            slot.arrived += self.counts.messages;
            slot.sink_refused += self.counts.deferred + self.counts.rejected + self.counts.dropped;
        }
        if self.counts.messages > 0 {
            widen(&mut tally.first_and_last, self.now);
        }
        tally.counts.add(&std::mem::take(&mut self.counts));
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
        self.counts == SinkCounts::default() && self.failed.is_empty()
    }

    fn keep(&mut self, content: &[u8]) -> io::Result<()> {
        let Some(directory) = &self.keep else { return Ok(()) };
        self.kept += 1;
        fs::write(directory.join(format!("{:02}-{:09}.eml", self.thread, self.kept)), content)
    }
}

impl Host for Tray {
    fn delivered(&mut self, delivery: &Delivery<'_>) {
        let Delivery { receipt, recipients, null_sender, content } = delivery;
        self.counts.messages += 1;
        self.counts.recipients += recipients.len() as u64;
        self.counts.bytes += receipt.bytes();
        if let Err(error) = self.keep(content) {
            eprintln!("ringpost-load: cannot keep a message: {error}; no further one is kept");
            self.keep = None;
        }
        if *null_sender {
            self.counts.bounces += 1;
            for recipient in *recipients {
                if let Local::Sender(id) = recipient {
                    self.bounced.push(*id);
                }
            }
            return;
        }
        let Some(id) = receipt.id() else {
            self.counts.foreign += 1;
            return;
        };
        self.counts.corrupted += u64::from(!receipt.intact());
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
            Counted::Deferred => self.counts.deferred += 1,
            Counted::Rejected => self.counts.rejected += 1,
            Counted::Dropped => self.counts.dropped += 1,
            Counted::Error => self.counts.errors += 1,
        }
    }

    fn chance(&mut self) -> u64 {
        self.chance = self.chance.wrapping_add(1);
        mix(self.chance)
    }
}

/// One sink thread.
pub struct Worker {
    settings: Arc<Settings>,
    board: SharedBoard,
    stop: Arc<AtomicBool>,
    poll: Poll,
    inlet: Receiver<TcpStream>,
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
        board: SharedBoard,
        stop: Arc<AtomicBool>,
    ) -> io::Result<(Self, Door)> {
        let poll = Poll::new()?;
        let (sender, inlet) = channel();
        let door = Door { sender, waker: Arc::new(Waker::new(poll.registry(), WAKER)?) };
        let tray = Tray {
            now: 0,
            counts: SinkCounts::default(),
            arrived: Vec::new(),
            misdelivered: Vec::new(),
            transits: Vec::new(),
            failed: Vec::new(),
            bounced: Vec::new(),
            chance: mix(thread as u64) >> 8,
            keep: settings.keep.clone(),
            kept: 0,
            thread,
        };
        let worker = Self {
            settings,
            board,
            stop,
            poll,
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
        let (started, cpu) = (clock::now(), clock::thread_cpu());
        let mut events = Events::with_capacity(EVENTS_PER_TURN);
        while !self.stop.load(Ordering::Relaxed) {
            let sleep = if self.again.is_empty() { TICK } else { Duration::ZERO };
            match self.poll.poll(&mut events, Some(sleep)) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                other => other?,
            }
            self.tray.now = clock::now();
            for (index, ended) in std::mem::take(&mut self.again) {
                self.serve(index, ended);
            }
            for event in &events {
                match event.token() {
                    WAKER => self.take_in(),
                    Token(token) if token >= LISTENERS => self.accept(token - LISTENERS),
                    Token(index) => self.serve(index, event.is_read_closed()),
                }
            }
            if !self.tray.is_empty() {
                self.tray.settle(&mut self.board.lock());
            }
        }
        let wall = Duration::from_micros(clock::now().saturating_sub(started));
        let name = std::thread::current().name().unwrap_or_default().to_owned();
        Ok(ThreadUse { name, cpu: clock::thread_cpu().saturating_sub(cpu), wall })
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
                self.enter(stream);
            } else if let Some(door) = self.doors.get(self.next_door)
                && door.sender.send(stream).is_ok()
            {
                // A failed wake leaves the connection to the other thread's next turn.
                let _ = door.waker.wake();
            }
        }
    }

    fn take_in(&mut self) {
        while let Ok(stream) = self.inlet.try_recv() {
            self.enter(stream);
        }
    }

    fn enter(&mut self, mut stream: TcpStream) {
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
        self.tray.counts.connections += 1;
        let (session, replies) = (Session::default(), BANNER.to_vec());
        let connection = Connection { stream, session, replies, replies_done: 0, closing: false };
        self.connections[index] = Some(connection);
        self.serve(index, false);
    }

    fn close(&mut self, index: usize) {
        if self.connections[index].take().is_some() {
            self.free.push(index);
        }
    }

    /// Writes what waits, reads what has come, until nothing moves or the turn is over. `ended`: the peer has closed its
    /// side, so there is an end to be read behind the last bytes.
    fn serve(&mut self, index: usize, ended: bool) {
        let fixed = Fixed {
            script: &self.settings.script,
            offers: self.settings.offers,
            keep: self.tray.keep.is_some(),
            finder: &self.finder,
        };
        for _ in 0..READS_PER_TURN_MAX {
            let Some(Some(connection)) = self.connections.get_mut(index) else { return };
            if connection.flush().is_err() || (connection.closing && connection.replies.is_empty()) {
                return self.close(index);
            }
            // A peer that does not read its replies is not read from; its next event is room to write.
            if connection.closing || connection.replies.len() > REPLIES_BYTES_MAX {
                return;
            }
            let count = match connection.stream.read(&mut self.buffer) {
                Ok(0) => return self.close(index),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => return self.close(index),
            };
            let Connection { session, replies, .. } = connection;
            match session.receive(&fixed, &self.buffer[..count], replies, &mut self.tray) {
                Flow::Continue => {}
                Flow::Close => connection.closing = true,
                Flow::Drop => {
                    // Earlier transactions keep their replies: only this one is cut off.
                    let _ = connection.flush();
                    return self.close(index);
                }
            }
            if connection.flush().is_err() || (connection.closing && connection.replies.is_empty()) {
                return self.close(index);
            }
            // A short read has emptied the socket: what comes later is a new event (epoll(7), edge-triggered).
            if count < self.buffer.len() && !ended {
                return;
            }
        }
        self.again.push((index, ended));
    }
}

impl Connection {
    /// Writes until the socket is full or nothing is left.
    fn flush(&mut self) -> io::Result<()> {
        while self.replies_done < self.replies.len() {
            match self.stream.write(&self.replies[self.replies_done..]) {
                Ok(count) => self.replies_done += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.replies.clear();
        self.replies_done = 0;
        Ok(())
    }
}
