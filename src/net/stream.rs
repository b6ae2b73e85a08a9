//! A connected TCP socket of this executor: reads into a pooled buffer, writes whole buffers, can be shut from outside.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use futures_lite::{AsyncRead, AsyncWrite};
use glommio::net::TcpStream;

use super::buffer::ReceiveBuffer;
use super::fd;

/// One end of a connection. The socket sits in a cell so that a [`Handle`] can shut it while its task waits.
pub struct Stream {
    // Borrowed only inside a poll, never across an await.
    socket: Rc<RefCell<TcpStream>>,
}

/// Shuts a stream from another task of the same executor. Does not keep it open.
#[derive(Clone)]
pub struct Handle(Weak<RefCell<TcpStream>>);

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
    /// A stream from a connected socket, with NODELAY: replies leave as whole groups already.
    pub fn from_fd(socket: OwnedFd) -> io::Result<Self> {
        Self::from_socket(fd::tcp_stream(socket))
    }

    pub(super) fn from_socket(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true).map_err(io::Error::from)?;
        Ok(Self { socket: Rc::new(RefCell::new(stream)) })
    }

    /// Connects to `remote`, from `source` if one is given, within `limit`.
    pub async fn connect(remote: SocketAddr, source: Option<IpAddr>, limit: Duration) -> io::Result<Self> {
        let domain = socket2::Domain::for_address(remote);
        let socket = socket2::Socket::new(domain, socket2::Type::STREAM, Some(socket2::Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        if let Some(source) = source {
            socket.bind(&SocketAddr::new(source, 0).into())?;
        }
        match socket.connect(&remote.into()) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {}
            Err(error) => return Err(error),
        }
        let stream = Self::from_fd(OwnedFd::from(socket))?;
        stream.set_write_timeout(limit);
        // An empty write completes when the connection stands, with the error of connect if it does not.
        poll_fn(|context| Pin::new(&mut *stream.socket.borrow_mut()).poll_write(context, &[])).await?;
        Ok(stream)
    }

    /// A handle to shut it.
    pub fn handle(&self) -> Handle {
        Handle(Rc::downgrade(&self.socket))
    }

    /// Longest wait of one read.
    pub fn set_read_timeout(&self, limit: Duration) {
        let limit = limit.max(Duration::from_millis(1));
        self.socket.borrow().set_read_timeout(Some(limit)).expect("a positive time-out is accepted");
    }

    /// Longest wait of one write.
    pub fn set_write_timeout(&self, limit: Duration) {
        let limit = limit.max(Duration::from_millis(1));
        self.socket.borrow().set_write_timeout(Some(limit)).expect("a positive time-out is accepted");
    }

    /// Reads behind what `buffer` holds; 0 is the end of input. The buffer has memory only while there are bytes in it.
    /// A full buffer is an error: the caller must consume first.
    pub async fn read(&mut self, buffer: &mut ReceiveBuffer) -> io::Result<usize> {
        poll_fn(|context| {
            let Some(room) = buffer.room() else {
                return Poll::Ready(Err(io::Error::other("receive buffer is full")));
            };
            match Pin::new(&mut *self.socket.borrow_mut()).poll_read(context, room) {
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
                let written = ready!(Pin::new(&mut *self.socket.borrow_mut()).poll_write(context, rest))?;
                if written == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                rest = &rest[written..];
            }
            Poll::Ready(Ok(()))
        })
        .await
    }

    /// Address of the other end.
    pub fn peer_address(&self) -> io::Result<SocketAddr> {
        self.socket.borrow().peer_addr().map_err(io::Error::from)
    }

    /// Says to the peer that nothing more will come.
    pub fn shut_write(&self) {
        shut(&self.socket.borrow(), Shutdown::Write);
    }
}

/// glommio makes the system call in the first poll, so one poll is all it takes. An error means the peer has gone.
fn shut(socket: &TcpStream, how: Shutdown) {
    let mut shutdown = std::pin::pin!(socket.shutdown(how));
    let _ = shutdown.as_mut().poll(&mut Context::from_waker(Waker::noop()));
}
