//! A connected socket of this executor, in the clear or over TLS: reads into a pooled buffer, writes whole buffers,
//! can be shut from outside.
//!
//! Unix sockets are glommio's `TcpStream` too: it reads and writes any stream socket by its descriptor, and glommio's own
//! type for them has no time-outs. What only TCP has (NODELAY, addresses) is not asked of them.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use futures_lite::{AsyncRead, AsyncWrite};
use futures_rustls::TlsStream;
use glommio::net::TcpStream;
use nix::sys::socket::{setsockopt, sockopt};
use rustix::io::Errno;

use super::buffer::ReceiveBuffer;
use super::fd;
use super::listener::Detached;
#[cfg(feature = "simulation")]
use super::simulated::{World, network::SocketId};
use super::tls::{ClientTls, ServerTls, Trust};
#[cfg(feature = "simulation")]
use crate::endpoint::Endpoint;
use crate::endpoint::Origin;

/// How often to look whether a unix socket takes connections again.
const BACKLOG_PAUSE: Duration = Duration::from_millis(20);

/// One end of a connection. The socket sits in a cell so that a [`Handle`] can shut it while its task waits.
pub struct Stream {
    // Borrowed only inside a poll, never across an await.
    socket: Rc<RefCell<Socket>>,
}

/// What bytes go through.
enum Socket {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    #[cfg(feature = "simulation")]
    Simulated(SocketId),
    /// With the handshake that is going on: a second descriptor, to shut it. Without one, closed by a handshake that failed.
    Away(Option<OwnedFd>),
}

impl Socket {
    fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Plain(tcp) => Some(tcp),
            Self::Tls(tls) => Some(tls.get_ref().0),
            Self::Away(_) => None,
            #[cfg(feature = "simulation")]
            Self::Simulated(_) => None,
        }
    }

    fn poll_read(&mut self, context: &mut Context<'_>, room: &mut [u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(tcp) => Pin::new(tcp).poll_read(context, room),
            Self::Tls(tls) => Pin::new(&mut **tls).poll_read(context, room),
            #[cfg(feature = "simulation")]
            Self::Simulated(socket) => socket.poll_read(context, room),
            Self::Away(_) => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    fn poll_write(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(tcp) => Pin::new(tcp).poll_write(context, bytes),
            Self::Tls(tls) => Pin::new(&mut **tls).poll_write(context, bytes),
            #[cfg(feature = "simulation")]
            Self::Simulated(socket) => socket.poll_write(context, bytes),
            Self::Away(_) => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    /// TLS keeps records back until it is flushed.
    fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tls(tls) => Pin::new(&mut **tls).poll_flush(context),
            _ => Poll::Ready(Ok(())),
        }
    }
}

/// Shuts a stream from another task of the same executor. Does not keep it open.
#[derive(Clone)]
pub struct Handle(Weak<RefCell<Socket>>);

impl Handle {
    /// Ends reading: the stream's task sees the end of input, and may still write.
    pub fn shut_read(&self) {
        self.shut(Shutdown::Read);
    }

    /// Ends both directions.
    pub fn shut_both(&self) {
        self.shut(Shutdown::Both);
    }

    fn shut(&self, how: Shutdown) {
        let Some(socket) = self.0.upgrade() else { return };
        let Ok(socket) = socket.try_borrow() else { return };
        shut(&socket, how);
    }
}

impl Stream {
    /// A stream from a connected socket that belongs to no executor.
    pub fn from_detached(socket: Detached) -> io::Result<Self> {
        match socket {
            Detached::Kernel(socket) => Self::from_fd(socket),
            #[cfg(feature = "simulation")]
            Detached::Simulated(socket) => Ok(Self::simulated(socket)),
        }
    }

    /// A stream from a connected socket, with NODELAY: replies leave as whole groups already.
    fn from_fd(socket: OwnedFd) -> io::Result<Self> {
        Self::from_socket(fd::tcp_stream(socket))
    }

    #[cfg(feature = "simulation")]
    pub(super) fn simulated(socket: SocketId) -> Self {
        Self { socket: Rc::new(RefCell::new(Socket::Simulated(socket))) }
    }

    pub(super) fn from_socket(stream: TcpStream) -> io::Result<Self> {
        match stream.set_nodelay(true).map_err(io::Error::from) {
            // A unix socket, which never delays.
            Err(error) if Errno::from_io_error(&error) == Some(Errno::OPNOTSUPP) => {}
            result => result?,
        }
        Ok(Self { socket: Rc::new(RefCell::new(Socket::Plain(stream))) })
    }

    /// Connects to `remote`, from `source` if one is given, within `limit`.
    pub async fn connect(remote: SocketAddr, source: Option<IpAddr>, limit: Duration) -> io::Result<Self> {
        #[cfg(feature = "simulation")]
        if let Some(world) = World::current() {
            return world.connect(remote.into(), limit).await.map(Self::simulated);
        }
        let domain = socket2::Domain::for_address(remote);
        let socket = socket2::Socket::new(domain, socket2::Type::STREAM, Some(socket2::Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        if let Some(source) = source {
            // The port is chosen by the connect, which may share it among remotes; without this a source has 28,000
            // connections in all. A kernel that cannot leaves us with that.
            let _ = setsockopt(&socket, sockopt::IpBindAddressNoPort, &true);
            socket.bind(&SocketAddr::new(source, 0).into())?;
        }
        match socket.connect(&remote.into()) {
            Ok(()) => {}
            Err(error) if Errno::from_io_error(&error) == Some(Errno::INPROGRESS) => {}
            Err(error) => return Err(error),
        }
        let stream = Self::from_fd(OwnedFd::from(socket))?;
        stream.set_write_timeout(limit);
        // An empty write completes when the connection stands, with the error of connect if it does not.
        poll_fn(|context| stream.socket.borrow_mut().poll_write(context, &[])).await?;
        Ok(stream)
    }

    /// Connects to whoever listens on the unix socket at `path`, within `limit`.
    pub async fn connect_unix(path: &Path, limit: Duration) -> io::Result<Self> {
        #[cfg(feature = "simulation")]
        if let Some(world) = World::current() {
            return world.connect(Endpoint::Unix(path.into()), limit).await.map(Self::simulated);
        }
        let address = socket2::SockAddr::unix(path)?;
        let began = super::now().mono;
        loop {
            let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None)?;
            socket.set_nonblocking(true)?;
            match socket.connect(&address) {
                Ok(()) => return Self::from_fd(OwnedFd::from(socket)),
                // Its backlog is full, and the kernel tells nobody when it no longer is.
                Err(error) if Errno::from_io_error(&error) == Some(Errno::AGAIN) => {
                    if super::now().mono.since(began) >= limit {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                    super::sleep(BACKLOG_PAUSE).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Shakes hands as the server, within `limit` for all of it. On an error the connection is closed.
    pub async fn accept_tls(&mut self, tls: &ServerTls, limit: Duration) -> io::Result<()> {
        let tcp = self.take_plain()?;
        // The handshake ends with a read under way, and glommio sets its timer anew only when bytes have come: one that was
        // set here would hold for whatever is read next.
        tcp.set_read_timeout(None).map_err(io::Error::from)?;
        tcp.set_write_timeout(None).map_err(io::Error::from)?;
        // In a box: inline, each connection would carry the 8 KiB of a handshake to its end.
        let shaken = super::task::within(limit, Box::pin(tls.accept(tcp))).await;
        self.put_back(shaken.unwrap_or_else(|| Err(io::ErrorKind::TimedOut.into())).map(TlsStream::from))
    }

    /// Shakes hands as the client of `name`. Time-outs are those of reads and writes. On an error the connection is closed.
    pub async fn connect_tls(&mut self, tls: &ClientTls, name: &str) -> io::Result<()> {
        let tcp = self.take_plain()?;
        let shaken = Box::pin(tls.connect(tcp, name)).await;
        self.put_back(shaken.map(TlsStream::from))
    }

    /// What the client showed in the handshake, DER; its key signed the handshake.
    pub fn peer_certificate(&self) -> Option<Vec<u8>> {
        match &*self.socket.borrow() {
            Socket::Tls(tls) => tls.get_ref().1.peer_certificates()?.first().map(|der| der.to_vec()),
            _ => None,
        }
    }

    /// Whether the certificate that the server showed is one that `trust` believes for the host `name`.
    ///
    /// # Errors
    /// With what is wrong with it, or that the connection is in the clear.
    pub fn judge_server(&self, trust: &Trust, name: &str) -> io::Result<()> {
        match &*self.socket.borrow() {
            Socket::Tls(tls) => trust.judge(tls.get_ref().1.peer_certificates().unwrap_or_default(), name),
            _ => Err(io::Error::other("the connection is not encrypted")),
        }
    }

    fn take_plain(&self) -> io::Result<TcpStream> {
        match self.socket.replace(Socket::Away(None)) {
            Socket::Plain(tcp) => {
                let own = fd::duplicate(&tcp)?;
                self.socket.replace(Socket::Away(Some(own)));
                Ok(tcp)
            }
            _ => Err(io::Error::other("the connection is not in the clear")),
        }
    }

    fn put_back(&self, shaken: io::Result<TlsStream<TcpStream>>) -> io::Result<()> {
        let (socket, result) = match shaken {
            Ok(stream) => (Socket::Tls(Box::new(stream)), Ok(())),
            Err(error) => (Socket::Away(None), Err(error)),
        };
        self.socket.replace(socket);
        result
    }

    /// A handle to shut it.
    pub fn handle(&self) -> Handle {
        Handle(Rc::downgrade(&self.socket))
    }

    /// Longest wait of one read.
    pub fn set_read_timeout(&self, limit: Duration) {
        let limit = limit.max(Duration::from_millis(1));
        let socket = self.socket.borrow();
        #[cfg(feature = "simulation")]
        if let Socket::Simulated(socket) = &*socket {
            socket.set_read_timeout(limit);
        }
        if let Some(tcp) = socket.tcp() {
            tcp.set_read_timeout(Some(limit)).expect("a positive time-out is accepted");
        }
    }

    /// A read waits for as long as it is asked to, and leaves no timer behind when it is given up.
    pub fn set_no_read_timeout(&self) {
        let socket = self.socket.borrow();
        #[cfg(feature = "simulation")]
        if let Socket::Simulated(socket) = &*socket {
            socket.set_read_timeout(Duration::MAX);
        }
        if let Some(tcp) = socket.tcp() {
            tcp.set_read_timeout(None).expect("no time-out is accepted");
        }
    }

    /// Longest wait of one write.
    pub fn set_write_timeout(&self, limit: Duration) {
        let limit = limit.max(Duration::from_millis(1));
        let socket = self.socket.borrow();
        #[cfg(feature = "simulation")]
        if let Socket::Simulated(socket) = &*socket {
            socket.set_write_timeout(limit);
        }
        if let Some(tcp) = socket.tcp() {
            tcp.set_write_timeout(Some(limit)).expect("a positive time-out is accepted");
        }
    }

    /// Reads behind what `buffer` holds; 0 is the end of input. The buffer has memory only while there are bytes in it.
    /// A full buffer is an error: the caller must consume first.
    pub async fn read(&mut self, buffer: &mut ReceiveBuffer) -> io::Result<usize> {
        self.read_at_most(usize::MAX, buffer).await
    }

    /// The same, leaving what is behind the next `most` bytes, 1 at least.
    pub async fn read_at_most(&mut self, most: usize, buffer: &mut ReceiveBuffer) -> io::Result<usize> {
        poll_fn(|context| {
            let Some(room) = buffer.room() else {
                return Poll::Ready(Err(io::Error::other("receive buffer is full")));
            };
            let most = most.min(room.len());
            match self.socket.borrow_mut().poll_read(context, &mut room[..most]) {
                Poll::Ready(Ok(count)) => {
                    buffer.fill(count);
                    buffer.release();
                    Poll::Ready(Ok(count))
                }
                other => {
                    buffer.release();
                    other
                }
            }
        })
        .await
    }

    /// Writes all of `bytes`.
    pub async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut rest = bytes;
        poll_fn(|context| {
            while !rest.is_empty() {
                let written = ready!(self.socket.borrow_mut().poll_write(context, rest))?;
                if written == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                rest = &rest[written..];
            }
            self.socket.borrow_mut().poll_flush(context)
        })
        .await
    }

    /// The other end.
    pub fn origin(&self) -> io::Result<Origin> {
        let socket = self.socket.borrow();
        #[cfg(feature = "simulation")]
        if let Socket::Simulated(socket) = &*socket {
            return socket.origin();
        }
        match socket.tcp() {
            Some(tcp) => fd::origin(tcp),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Says to the peer that nothing more will come.
    pub fn shut_write(&self) {
        shut(&self.socket.borrow(), Shutdown::Write);
    }
}

/// glommio makes the system call in the first poll, so one poll is all it takes. An error means the peer has gone.
fn shut(socket: &Socket, how: Shutdown) {
    #[cfg(feature = "simulation")]
    if let Socket::Simulated(socket) = socket {
        return socket.shutdown(how);
    }
    if let Socket::Away(Some(own)) = socket {
        let how = match how {
            Shutdown::Read => rustix::net::Shutdown::Read,
            Shutdown::Write => rustix::net::Shutdown::Write,
            Shutdown::Both => rustix::net::Shutdown::Both,
        };
        let _ = rustix::net::shutdown(own, how);
        return;
    }
    let Some(tcp) = socket.tcp() else { return };
    let mut shutdown = std::pin::pin!(tcp.shutdown(how));
    let _ = shutdown.as_mut().poll(&mut Context::from_waker(Waker::noop()));
}
