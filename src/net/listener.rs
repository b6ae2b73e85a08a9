//! Listening sockets: one per shard on the same address (SO_REUSEPORT), and the accept that survives a lack of
//! descriptors.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use glommio::net::{TcpListener, TcpStream};
use socket2::{Domain, Protocol, Socket, Type};

use super::fd;
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
pub fn bind(address: SocketAddr, cpu: Option<usize>) -> io::Result<OwnedFd> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    if let Some(cpu) = cpu {
        socket.set_cpu_affinity(cpu)?;
    }
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
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
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_listener_of_a_killed_relay_that_goes_away_late_is_waited_for() {
        let old = bind("127.0.0.1:0".parse().expect("address"), None).expect("a free port");
        let address = local_address(&old).expect("bound");
        assert_eq!(try_bind(address).map_err(|error| error.kind()), Err(io::ErrorKind::AddrInUse));
        let looking = std::thread::spawn(move || check_free(address));
        drop(old);
        assert!(looking.join().expect("no panic").is_ok());
    }

    #[test]
    fn a_second_relay_on_the_same_address_is_noticed() {
        let other = bind("127.0.0.1:0".parse().expect("address"), None).expect("a free port");
        let address = local_address(&other).expect("bound");
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
        let address = local_address(&first).expect("bound");
        let second = bind(address, Some(cpus[1])).expect("a second one on the same address");
        let sockets = [Socket::from(first), Socket::from(second)];
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
