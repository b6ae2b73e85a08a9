//! Listening sockets: one per shard on the same address (SO_REUSEPORT), and the accept that survives a lack of
//! descriptors.

pub mod inherited;
pub mod unix;

#[cfg(feature = "simulation")]
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use glommio::net::{TcpListener, TcpStream};
use socket2::{Domain, Protocol, Socket, Type};

use super::fd;
#[cfg(feature = "simulation")]
use super::simulated::network::{ListenerId, SocketId};
use super::stream::Stream;

/// Connections the kernel holds for us; more than this many at once wait for a retry of their SYN. The kernel caps it
/// at net.core.somaxconn.
pub const BACKLOG: i32 = 4096;
/// Pause after an accept that failed for want of descriptors or memory: without it the loop would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);
/// How long an address may still be in use after a process that was killed: the kernel takes io_uring rings down in the
/// background, and with them the sockets that their requests hold, when the process is long gone for its parent. Whoever
/// restarts a relay at once would fail. Shorter than the second in which a start must say that it fails.
const LEFTOVERS: Duration = Duration::from_millis(700);
/// How often to look meanwhile.
const LEFTOVERS_LOOK: Duration = Duration::from_millis(10);

/// Binds and listens. Ordinary system calls: done once, before the executors start, so that errors come early.
///
/// Of the listeners on one address, a connection goes to the one whose `cpu` is that on which its packets come in (SO_INCOMING_CPU;
/// Linux 6.2, before it the kernel hashes all the same); without one, the kernel hashes.
pub fn bind(address: SocketAddr, cpu: Option<usize>) -> io::Result<Bound> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    if let Some(cpu) = cpu {
        socket.set_cpu_affinity(cpu)?;
    }
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(Bound::Kernel(socket.into()))
}

/// Fails if somebody listens there already: SO_REUSEPORT alone would let a second relay of the same user share the
/// address unnoticed, and half of the connections with it. Binding suffices to find out; a probe that listened would
/// take a client's connection and drop it.
///
/// Waits a little for a relay that was killed: the kernel closes sockets that its ring held only after the process has
/// gone.
pub fn check_free(address: SocketAddr) -> io::Result<()> {
    let deadline = Instant::now() + LEFTOVERS;
    loop {
        match try_bind(address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                std::thread::sleep(LEFTOVERS_LOOK);
            }
            bound => return bound,
        }
    }
}

fn try_bind(address: SocketAddr) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.bind(&address.into())
}

/// A bound, listening socket that belongs to no executor yet.
#[derive(Debug)]
pub enum Bound {
    /// The kernel's.
    Kernel(OwnedFd),
    /// Likewise, and somebody else's, who will go on listening.
    Inherited(OwnedFd),
    /// A simulated world's.
    #[cfg(feature = "simulation")]
    Simulated(ListenerId),
}

impl Bound {
    /// The address it has, which matters when port 0 was asked for.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Kernel(socket) | Self::Inherited(socket) => {
                let address = Socket::from(socket.try_clone()?).local_addr()?;
                address.as_socket().ok_or_else(|| io::Error::other("not an IP socket"))
            }
            #[cfg(feature = "simulation")]
            Self::Simulated(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Another handle to the same socket.
    pub fn try_clone(&self) -> io::Result<Self> {
        match self {
            Self::Kernel(socket) => socket.try_clone().map(Self::Kernel),
            Self::Inherited(socket) => socket.try_clone().map(Self::Inherited),
            #[cfg(feature = "simulation")]
            Self::Simulated(listener) => Ok(Self::Simulated(*listener)),
        }
    }

    /// Stops it: accepts on it fail from now on, in whichever executor they wait. One that is somebody else's stays as it is:
    /// whoever connects waits for the next relay.
    pub fn shut(&self) {
        match self {
            Self::Inherited(_) => {}
            Self::Kernel(socket) => drop(rustix::net::shutdown(socket, rustix::net::Shutdown::Both)),
            #[cfg(feature = "simulation")]
            Self::Simulated(listener) => listener.shut(),
        }
    }
}

/// A listener of this executor.
pub enum Listener {
    /// The kernel's.
    Kernel(TcpListener),
    /// A simulated world's.
    #[cfg(feature = "simulation")]
    Simulated(ListenerId),
}

/// A connection that has been accepted but is not served yet: it may still go to another executor.
pub enum Accepted {
    /// The kernel's.
    Kernel(TcpStream),
    /// A simulated world's.
    #[cfg(feature = "simulation")]
    Simulated(SocketId),
}

/// A connected socket that belongs to no executor: on its way to another one.
#[derive(Debug)]
pub enum Detached {
    /// The kernel's.
    Kernel(OwnedFd),
    /// A simulated world's.
    #[cfg(feature = "simulation")]
    Simulated(SocketId),
}

impl Listener {
    /// Takes over a bound socket.
    pub fn new(socket: Bound) -> Self {
        match socket {
            Bound::Kernel(socket) | Bound::Inherited(socket) => Self::Kernel(fd::tcp_listener(socket)),
            #[cfg(feature = "simulation")]
            Bound::Simulated(listener) => Self::Simulated(listener),
        }
    }

    /// The next connection. `Err` means that the listener was shut, that a connection was lost to an error of its network
    /// or, after a pause, to a want of descriptors or memory: [`is_shortage`] tells the last apart.
    pub async fn accept(&self) -> io::Result<Accepted> {
        let accepted = match self {
            Self::Kernel(listener) => listener.accept().await.map_err(io::Error::from),
            #[cfg(feature = "simulation")]
            Self::Simulated(listener) => {
                return poll_fn(|context| listener.poll_accept(context)).await.map(Accepted::Simulated);
            }
        };
        match accepted {
            Ok(stream) => {
                fd::set_cloexec(&stream)?;
                Ok(Accepted::Kernel(stream))
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
    /// A stream on this executor.
    pub fn into_stream(self) -> io::Result<Stream> {
        match self {
            Self::Kernel(stream) => Stream::from_socket(stream),
            #[cfg(feature = "simulation")]
            Self::Simulated(socket) => Ok(Stream::simulated(socket)),
        }
    }

    /// The socket, to be handed to another executor.
    pub fn detach(self) -> io::Result<Detached> {
        match self {
            Self::Kernel(stream) => fd::duplicate(&stream).map(Detached::Kernel),
            #[cfg(feature = "simulation")]
            Self::Simulated(socket) => Ok(Detached::Simulated(socket)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_listener_of_a_killed_relay_that_goes_away_late_is_waited_for() {
        let old = bind("127.0.0.1:0".parse().expect("address"), None).expect("a free port");
        let address = old.local_address().expect("bound");
        assert_eq!(try_bind(address).map_err(|error| error.kind()), Err(io::ErrorKind::AddrInUse));
        let looking = std::thread::spawn(move || check_free(address));
        drop(old);
        assert!(looking.join().expect("no panic").is_ok());
    }

    #[test]
    fn a_second_relay_on_the_same_address_is_noticed() {
        let other = bind("127.0.0.1:0".parse().expect("address"), None).expect("a free port");
        let address = other.local_address().expect("bound");
        assert_eq!(check_free(address).map_err(|error| error.kind()), Err(io::ErrorKind::AddrInUse));
    }

    /// The CPUs of this process's first two, if it has as many.
    fn two_cpus() -> Option<[usize; 2]> {
        let cpus = crate::net::executor::online_cpus();
        Some([*cpus.first()?, *cpus.get(1)?])
    }

    #[test]
    fn a_connection_comes_in_at_the_listener_of_its_cpu() {
        let Some(cpus) = two_cpus() else { return eprintln!("SKIP: steering: one CPU") };
        let first = bind("127.0.0.1:0".parse().expect("address"), Some(cpus[0])).expect("a free port");
        let address = first.local_address().expect("bound");
        let second = bind(address, Some(cpus[1])).expect("a second one on the same address");
        let sockets = [first, second].map(|bound| match bound {
            Bound::Kernel(socket) | Bound::Inherited(socket) => Socket::from(socket),
            #[cfg(feature = "simulation")]
            Bound::Simulated(_) => unreachable!("no world is entered"),
        });
        for (socket, cpu) in sockets.iter().zip(cpus) {
            socket.set_nonblocking(true).expect("a socket");
            assert_eq!(socket.cpu_affinity().expect("the option is there"), cpu);
        }
        // On loopback packets come in where the client runs.
        let connect_on = move |cpu| {
            let mut set = rustix::thread::CpuSet::new();
            set.set(cpu);
            rustix::thread::sched_setaffinity(None, &set).expect("one of our own CPUs");
            (0..16).map(|_| std::net::TcpStream::connect(address).expect("it listens")).collect::<Vec<_>>()
        };
        let mut came = [[0; 2]; 2];
        for (row, cpu) in came.iter_mut().zip(cpus) {
            let _clients = std::thread::spawn(move || connect_on(cpu)).join().expect("no panic");
            for (count, socket) in row.iter_mut().zip(&sockets) {
                *count = std::iter::from_fn(|| socket.accept().ok()).count();
            }
        }
        let hashed = came.iter().all(|row| row[0] > 0 && row[1] > 0);
        if hashed {
            return eprintln!("SKIP: steering: this kernel hashes, {came:?}");
        }
        assert_eq!(came, [[16, 0], [0, 16]]);
    }
}
