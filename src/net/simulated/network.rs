//! PURE. Listeners and connections of a simulated world: bytes arrive late, in other pieces than they were sent in, or not at all.
//!
//! A connection is two sockets. What one writes waits in the other's inbox until it has arrived; an inbox has room
//! for [`WINDOW_BYTES`], then the writer waits. Handles are numbers, so that they can travel as descriptors do.

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::{Death, Host, World};
use crate::clock::Moment;
use crate::endpoint::{Endpoint, Origin};

/// Bytes under way in one direction of a connection before its writer waits.
const WINDOW_BYTES: usize = 64 * 1024;

/// What the network does to connections that are made under it. Shares are from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Weather {
    /// Longest way of a segment.
    pub latency_max: Duration,
    /// Share of connects that nobody answers.
    pub lost: f64,
    /// Share of connections that break after a number of bytes.
    pub breaks: f64,
    /// Share of connections that fall silent after a number of bytes, without a word to either end.
    pub stalls: f64,
}

impl Weather {
    /// Nothing goes wrong.
    pub const FAIR: Self =
        Self { latency_max: Duration::from_millis(2), lost: 0.0, breaks: 0.0, stalls: 0.0 };
}

impl Default for Weather {
    fn default() -> Self {
        Self::FAIR
    }
}

/// A socket of the world; closed when it is dropped.
#[derive(Debug)]
pub struct SocketId {
    id: u64,
    /// Timers of the waits under way.
    read_timer: Cell<Option<Timer>>,
    write_timer: Cell<Option<Timer>>,
}

type Timer = (Moment, u64);

/// A listening socket of the world; clones are the same one.
#[derive(Clone, Copy, Debug)]
pub struct ListenerId(u64);

/// What becomes of a connect.
pub(super) enum Fate {
    Lost,
    After(Duration),
}

/// How a socket's life ends from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The peer will write nothing more.
    Closed,
    /// The connection is broken.
    Reset,
}

struct Segment {
    arrives: Moment,
    bytes: VecDeque<u8>,
}

struct Socket {
    host: Host,
    peer: u64,
    /// None at either end of a unix socket.
    peer_address: Option<SocketAddr>,
    inbox: VecDeque<Segment>,
    inbox_bytes: usize,
    /// When what follows the inbox arrives: the end.
    end: Option<(Moment, End)>,
    /// Reading was shut from this side.
    deaf: bool,
    /// Writing was shut from this side.
    mute: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
    read_limit: Option<Duration>,
    write_limit: Option<Duration>,
    /// When the wait under way is over.
    read_deadline: Option<Moment>,
    write_deadline: Option<Moment>,
    latency_max: Duration,
    /// Bytes that this socket may still write before the connection breaks or falls silent.
    breaks_after: Option<usize>,
    stalls_after: Option<usize>,
}

struct Listener {
    host: Host,
    address: Endpoint,
    waiting: VecDeque<u64>,
    acceptor: Option<Waker>,
    shut: bool,
}

/// Everything that is connected, or waits to be.
#[derive(Default)]
pub struct Network {
    listeners: BTreeMap<u64, Listener>,
    sockets: BTreeMap<u64, Socket>,
    next: u64,
    pub(super) weather: Weather,
    /// To be woken when nobody looks into the network any more.
    pub(super) wakers: Vec<Waker>,
}

impl Network {
    pub(super) fn listen(&mut self, host: Host, address: Endpoint) -> ListenerId {
        self.next += 1;
        let listener = Listener { host, address, waiting: VecDeque::new(), acceptor: None, shut: false };
        self.listeners.insert(self.next, listener);
        ListenerId(self.next)
    }

    pub(super) fn fate_of_connect(&self, remote: &Endpoint, random: &mut fastrand::Rng) -> Fate {
        let listens = self.listeners.values().any(|listener| listener.address == *remote && !listener.shut);
        if listens && remote.ip().is_some() && random.f64() < self.weather.lost {
            return Fate::Lost;
        }
        Fate::After(latency(self.weather.latency_max, random))
    }

    pub(super) fn connect(
        &mut self,
        host: Host,
        remote: &Endpoint,
        random: &mut fastrand::Rng,
    ) -> io::Result<SocketId> {
        let open =
            self.listeners.iter().filter(|(_, listener)| listener.address == *remote && !listener.shut);
        let open: Vec<u64> = open.map(|(id, _)| *id).collect();
        if open.is_empty() {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let chosen = open[random.usize(..open.len())];
        let (near, far) = (self.next + 1, self.next + 2);
        self.next += 2;
        let remote = remote.ip();
        let port = 20_000 + (near % 40_000) as u16;
        let own = remote.map(|_| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
        let far_host = self.listeners[&chosen].host;
        self.sockets.insert(near, self.socket(host, far, remote, random));
        self.sockets.insert(far, self.socket(far_host, near, own, random));
        if let Some(listener) = self.listeners.get_mut(&chosen) {
            listener.waiting.push_back(far);
            self.wakers.extend(listener.acceptor.take());
        }
        Ok(SocketId::new(near))
    }

    fn socket(
        &self,
        host: Host,
        peer: u64,
        peer_address: Option<SocketAddr>,
        random: &mut fastrand::Rng,
    ) -> Socket {
        let mut after = |share: f64| (random.f64() < share).then(|| random.usize(..20_000));
        Socket {
            host,
            peer,
            peer_address,
            inbox: VecDeque::new(),
            inbox_bytes: 0,
            end: None,
            deaf: false,
            mute: false,
            reader: None,
            writer: None,
            read_limit: None,
            write_limit: None,
            read_deadline: None,
            write_deadline: None,
            latency_max: self.weather.latency_max,
            breaks_after: after(self.weather.breaks),
            stalls_after: after(self.weather.stalls),
        }
    }

    pub(super) fn kill(&mut self, host: Host, death: Death, now: Moment) {
        let listeners: Vec<u64> =
            self.listeners.iter().filter(|(_, listener)| listener.host == host).map(|(id, _)| *id).collect();
        for id in listeners {
            self.shut_listener(ListenerId(id));
            self.listeners.remove(&id);
        }
        let own: Vec<u64> =
            self.sockets.iter().filter(|(_, socket)| socket.host == host).map(|(id, _)| *id).collect();
        for id in own {
            let Some(socket) = self.sockets.remove(&id) else { continue };
            let Some(peer) = self.sockets.get_mut(&socket.peer) else { continue };
            match death {
                Death::Killed => self.wakers.extend(peer.hear_end(now, End::Reset)),
                Death::PowerCut => {
                    peer.inbox.retain(|segment| segment.arrives <= now);
                    peer.inbox_bytes = peer.inbox.iter().map(|segment| segment.bytes.len()).sum();
                }
            }
        }
    }

    fn shut_listener(&mut self, id: ListenerId) {
        let Some(listener) = self.listeners.get_mut(&id.0) else { return };
        listener.shut = true;
        self.wakers.extend(listener.acceptor.take());
        let waiting = std::mem::take(&mut listener.waiting);
        for socket in waiting {
            self.close(socket, Moment(0), End::Reset);
        }
    }

    /// The socket is closed by its owner.
    fn close(&mut self, id: u64, now: Moment, end: End) {
        let Some(socket) = self.sockets.remove(&id) else { return };
        if let Some(peer) = self.sockets.get_mut(&socket.peer) {
            // Unread bytes make a close a reset, as TCP has it.
            let end = if socket.inbox_bytes > 0 && !socket.deaf { End::Reset } else { end };
            self.wakers.extend(peer.hear_end(now, end));
            self.wakers.extend(peer.writer.take());
        }
    }

    fn poll_read(
        &mut self,
        id: u64,
        now: Moment,
        room: &mut [u8],
        waker: &Waker,
        random: &mut fastrand::Rng,
    ) -> Result<io::Result<usize>, Option<Moment>> {
        let Some(socket) = self.sockets.get_mut(&id) else {
            return Ok(Err(io::ErrorKind::NotConnected.into()));
        };
        if socket.deaf {
            return Ok(Ok(0));
        }
        if let Some(segment) = socket.inbox.front_mut().filter(|segment| segment.arrives <= now) {
            let most = segment.bytes.len().min(room.len());
            // Any split is possible; most arrive as they were sent.
            let count = if random.u8(..8) == 0 { random.usize(1..=most) } else { most };
            segment.bytes.drain(..count).zip(room).for_each(|(byte, place)| *place = byte);
            if segment.bytes.is_empty() {
                socket.inbox.pop_front();
            }
            socket.inbox_bytes -= count;
            socket.read_deadline = None;
            let peer = socket.peer;
            let writer = self.sockets.get_mut(&peer).and_then(|peer| peer.writer.take());
            self.wakers.extend(writer);
            return Ok(Ok(count));
        }
        let next = socket.inbox.front().map(|segment| segment.arrives);
        match socket.end {
            Some((at, end)) if next.is_none() && at <= now => {
                return Ok(if end == End::Closed {
                    Ok(0)
                } else {
                    Err(io::ErrorKind::ConnectionReset.into())
                });
            }
            _ => {}
        }
        let deadline = *socket
            .read_deadline
            .get_or_insert(socket.read_limit.map_or(Moment(u64::MAX), |limit| now + limit));
        if deadline <= now {
            socket.read_deadline = None;
            return Ok(Err(io::ErrorKind::TimedOut.into()));
        }
        socket.reader = Some(waker.clone());
        let next = next.or(socket.end.map(|(at, _)| at));
        Err(Some(next.map_or(deadline, |next| next.min(deadline))))
    }

    fn poll_write(
        &mut self,
        id: u64,
        now: Moment,
        bytes: &[u8],
        waker: &Waker,
        random: &mut fastrand::Rng,
    ) -> Result<io::Result<usize>, Option<Moment>> {
        let Some(socket) = self.sockets.get_mut(&id) else {
            return Ok(Err(io::ErrorKind::NotConnected.into()));
        };
        if socket.mute || matches!(socket.end, Some((at, End::Reset)) if at <= now) {
            return Ok(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if bytes.is_empty() {
            return Ok(Ok(0));
        }
        let (peer, latency_max) = (socket.peer, socket.latency_max);
        let Some(room) = self.sockets.get(&peer).map(|peer| WINDOW_BYTES.saturating_sub(peer.inbox_bytes))
        else {
            // The peer closed: the first write behind that is lost without a word.
            return Ok(Ok(bytes.len()));
        };
        let socket = self.sockets.get_mut(&id).expect("it was there");
        if room == 0 {
            let limit = socket.write_limit.map_or(Moment(u64::MAX), |limit| now + limit);
            let deadline = *socket.write_deadline.get_or_insert(limit);
            if deadline <= now {
                socket.write_deadline = None;
                return Ok(Err(io::ErrorKind::TimedOut.into()));
            }
            socket.writer = Some(waker.clone());
            return Err(Some(deadline));
        }
        socket.write_deadline = None;
        let most = bytes.len().min(room);
        let count = if random.u8(..8) == 0 { random.usize(1..=most) } else { most };
        let arrives = match socket.spend(count) {
            Spent::Arrives => Some(now + latency(latency_max, random)),
            Spent::Silent => Some(Moment(u64::MAX)),
            Spent::Breaks(carried) => {
                self.send(peer, &bytes[..carried], now);
                self.break_both(id, peer, now);
                None
            }
        };
        if let Some(arrives) = arrives {
            self.send(peer, &bytes[..count], arrives);
        }
        Ok(Ok(count))
    }

    fn send(&mut self, to: u64, bytes: &[u8], arrives: Moment) {
        let Some(socket) = self.sockets.get_mut(&to) else { return };
        // What was sent later does not overtake.
        let arrives = socket.inbox.back().map_or(arrives, |last| last.arrives.max(arrives));
        socket.inbox.push_back(Segment { arrives, bytes: bytes.iter().copied().collect() });
        socket.inbox_bytes += bytes.len();
        self.wakers.extend(socket.reader.take());
    }

    fn break_both(&mut self, one: u64, other: u64, now: Moment) {
        for id in [one, other] {
            if let Some(socket) = self.sockets.get_mut(&id) {
                self.wakers.extend(socket.hear_end(now, End::Reset));
                self.wakers.extend(socket.writer.take());
            }
        }
    }

    fn shutdown(&mut self, id: u64, how: Shutdown, now: Moment) {
        let Some(socket) = self.sockets.get_mut(&id) else { return };
        if how != Shutdown::Write {
            socket.deaf = true;
            self.wakers.extend(socket.reader.take());
        }
        if how != Shutdown::Read {
            socket.mute = true;
            let (peer, writer) = (socket.peer, socket.writer.take());
            self.wakers.extend(writer);
            if let Some(peer) = self.sockets.get_mut(&peer) {
                self.wakers.extend(peer.hear_end(now, End::Closed));
            }
        }
    }
}

/// What became of written bytes.
enum Spent {
    Arrives,
    Silent,
    /// The connection breaks behind so many of them.
    Breaks(usize),
}

impl Socket {
    /// The end arrives behind everything that is under way. Returns who waits for it.
    fn hear_end(&mut self, now: Moment, end: End) -> Option<Waker> {
        let at = self.inbox.back().map_or(now, |last| last.arrives.max(now));
        if self.end.is_none_or(|(_, known)| known == End::Closed) {
            self.end = Some((at, end));
        }
        self.reader.take()
    }

    fn spend(&mut self, count: usize) -> Spent {
        if let Some(left) = &mut self.breaks_after {
            if *left < count {
                return Spent::Breaks(*left);
            }
            *left -= count;
        }
        if let Some(left) = &mut self.stalls_after {
            if *left < count {
                return Spent::Silent;
            }
            *left -= count;
        }
        Spent::Arrives
    }
}

fn latency(most: Duration, random: &mut fastrand::Rng) -> Duration {
    Duration::from_micros(random.u64(..=most.as_micros() as u64))
}

/// Polls, and sets a timer for what the network says it waits for.
fn poll_in_world(
    context: &mut Context<'_>,
    timer: &Cell<Option<Timer>>,
    look: impl FnOnce(&mut Network, Moment, &mut fastrand::Rng) -> Result<io::Result<usize>, Option<Moment>>,
) -> Poll<io::Result<usize>> {
    let Some(world) = World::current() else { return Poll::Ready(Err(io::ErrorKind::NotConnected.into())) };
    let now = world.now().mono;
    world.clear_timer(timer.take());
    match world.random(|random| world.network(|network| look(network, now, random))) {
        Ok(done) => Poll::Ready(done),
        Err(wake) => {
            if let Some(at) = wake.filter(|at| *at < Moment(u64::MAX)) {
                timer.set(Some(world.set_timer(at, context.waker())));
            }
            Poll::Pending
        }
    }
}

impl SocketId {
    fn new(id: u64) -> Self {
        Self { id, read_timer: Cell::default(), write_timer: Cell::default() }
    }

    pub(crate) fn poll_read(&self, context: &mut Context<'_>, room: &mut [u8]) -> Poll<io::Result<usize>> {
        let waker = context.waker().clone();
        poll_in_world(context, &self.read_timer, |network, now, random| {
            network.poll_read(self.id, now, room, &waker, random)
        })
    }

    pub(crate) fn poll_write(&self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let waker = context.waker().clone();
        poll_in_world(context, &self.write_timer, |network, now, random| {
            network.poll_write(self.id, now, bytes, &waker, random)
        })
    }

    pub(crate) fn set_read_timeout(&self, limit: Duration) {
        self.with(|socket| (socket.read_limit, socket.read_deadline) = (Some(limit), None));
    }

    pub(crate) fn set_write_timeout(&self, limit: Duration) {
        self.with(|socket| (socket.write_limit, socket.write_deadline) = (Some(limit), None));
    }

    pub(crate) fn origin(&self) -> io::Result<Origin> {
        let origin =
            |address: Option<SocketAddr>| address.map_or(Origin::Socket, |address| Origin::Ip(address.ip()));
        self.with(|socket| origin(socket.peer_address)).ok_or(io::ErrorKind::NotConnected.into())
    }

    pub(crate) fn shutdown(&self, how: Shutdown) {
        if let Some(world) = World::current() {
            let now = world.now().mono;
            world.network(|network| network.shutdown(self.id, how, now));
        }
    }

    fn with<T>(&self, look: impl FnOnce(&mut Socket) -> T) -> Option<T> {
        World::current()?.network(|network| network.sockets.get_mut(&self.id).map(look))
    }
}

impl Drop for SocketId {
    fn drop(&mut self) {
        if let Some(world) = World::current() {
            let now = world.now().mono;
            world.clear_timer(self.read_timer.take());
            world.clear_timer(self.write_timer.take());
            world.network(|network| network.close(self.id, now, End::Closed));
        }
    }
}

impl ListenerId {
    pub(crate) fn poll_accept(self, context: &mut Context<'_>) -> Poll<io::Result<SocketId>> {
        let Some(world) = World::current() else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        world.network(|network| {
            let Some(listener) = network.listeners.get_mut(&self.0).filter(|listener| !listener.shut) else {
                return Poll::Ready(Err(io::ErrorKind::InvalidInput.into()));
            };
            match listener.waiting.pop_front() {
                Some(socket) => Poll::Ready(Ok(SocketId::new(socket))),
                None => {
                    listener.acceptor = Some(context.waker().clone());
                    Poll::Pending
                }
            }
        })
    }

    pub(crate) fn shut(self) {
        if let Some(world) = World::current() {
            world.network(|network| network.shut_listener(self));
        }
    }
}
