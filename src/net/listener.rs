//! Listening sockets: one per shard on the same address (SO_REUSEPORT), and the accept that survives a lack of
//! descriptors.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use glommio::net::{TcpListener, TcpStream};
use socket2::{Domain, Protocol, Socket, Type};

use super::fd;
use super::stream::Stream;

/// Connections the kernel holds for us; more than this many at once wait for a retry of their SYN. The kernel caps it
/// at net.core.somaxconn.
const BACKLOG: i32 = 4096;
/// Pause after an accept that failed for want of descriptors or memory: without it the loop would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Binds and listens. Ordinary system calls: done once, before the executors start, so that errors come early.
pub fn bind(address: SocketAddr) -> io::Result<OwnedFd> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Fails if somebody listens there already: SO_REUSEPORT alone would let a second relay of the same user share the
/// address unnoticed, and half of the connections with it.
pub fn check_free(address: SocketAddr) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(1)
}

/// The address a bound socket has, which matters when port 0 was asked for.
pub fn local_address(socket: &OwnedFd) -> io::Result<SocketAddr> {
    let address = Socket::from(socket.try_clone()?).local_addr()?;
    address.as_socket().ok_or_else(|| io::Error::other("not an IP socket"))
}

/// Stops a listening socket: accepts on it fail from now on, in whichever executor they wait.
pub fn shut(socket: &OwnedFd) {
    let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Both);
}

/// A listener of this executor.
pub struct Listener(TcpListener);

/// A connection that has been accepted but is not served yet: it may still go to another executor.
pub struct Accepted(TcpStream);

impl Listener {
    /// Takes over a socket made by [`bind`].
    pub fn from_fd(socket: OwnedFd) -> Self {
        Self(fd::tcp_listener(socket))
    }

    /// The next connection. `Err` means that the listener was shut, that a connection was lost to an error of its network
    /// or, after a pause, to a want of descriptors or memory: [`is_shortage`] tells the last apart.
    pub async fn accept(&self) -> io::Result<Accepted> {
        let accepted = self.0.accept().await.map_err(io::Error::from);
        match accepted {
            Ok(stream) => {
                fd::set_cloexec(&stream)?;
                Ok(Accepted(stream))
            }
            Err(error) => {
                if is_shortage(&error) {
                    super::sleep(ACCEPT_PAUSE).await;
                }
                Err(error)
            }
        }
    }
}

/// Whether an accept failed only for now: descriptors or memory ran out, or the peer gave up first.
pub fn is_shortage(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let Some(errno) = Errno::from_io_error(error) else { return false };
    [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::CONNABORTED, Errno::PROTO, Errno::INTR]
        .contains(&errno)
}

impl Accepted {
    /// Serves it on this executor.
    pub fn into_stream(self) -> io::Result<Stream> {
        Stream::from_socket(self.0)
    }

    /// Takes it out of this executor, for another one's [`Stream::from_fd`].
    pub fn into_fd(self) -> io::Result<OwnedFd> {
        fd::duplicate(&self.0)
    }

    /// Address of the client.
    pub fn peer_address(&self) -> io::Result<SocketAddr> {
        self.0.peer_addr().map_err(io::Error::from)
    }
}
