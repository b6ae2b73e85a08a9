//! Hands owned descriptors to glommio, whose types can only be made from raw ones.

#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};

use glommio::io::BufferedFile;
use glommio::net::{TcpListener, TcpStream};

use crate::endpoint::Origin;

/// A listener of this executor. `fd` must be a listening stream socket, or its accepts fail.
pub(super) fn tcp_listener(fd: OwnedFd) -> TcpListener {
    // SAFETY: `into_raw_fd` gives up ownership of an open descriptor, which the listener takes over and closes on drop.
    unsafe { TcpListener::from_raw_fd(fd.into_raw_fd()) }
}

/// A stream of this executor. `fd` must be a stream socket, connected or connecting, or its reads fail.
pub(super) fn tcp_stream(fd: OwnedFd) -> TcpStream {
    // SAFETY: as above; the stream takes over the descriptor and closes it on drop.
    unsafe { TcpStream::from_raw_fd(fd.into_raw_fd()) }
}

/// An eventfd as a file of this executor, for reads of 8 bytes.
pub(super) fn event_file(fd: OwnedFd) -> BufferedFile {
    // SAFETY: as above; the file takes over the descriptor and closes it on drop.
    unsafe { BufferedFile::from_raw_fd(fd.into_raw_fd()) }
}

/// A second descriptor of the stream's socket, with CLOEXEC, for another executor to take over.
pub(super) fn duplicate(stream: &TcpStream) -> std::io::Result<OwnedFd> {
    // SAFETY: the stream is borrowed, so its descriptor stays open for as long as `borrowed` is used.
    let borrowed = unsafe { BorrowedFd::borrow_raw(stream.as_raw_fd()) };
    borrowed.try_clone_to_owned()
}

/// The other end of the stream's connection; an IPv4 client of a socket for both families is one. glommio's own way to ask panics at a unix socket.
pub(super) fn origin(stream: &TcpStream) -> std::io::Result<Origin> {
    // SAFETY: as in `duplicate`.
    let borrowed = unsafe { BorrowedFd::borrow_raw(stream.as_raw_fd()) };
    let address = socket2::SockRef::from(&borrowed).peer_addr()?;
    Ok(address.as_socket().map_or(Origin::Socket, |address| Origin::Ip(address.ip().to_canonical())))
}

/// Sets CLOEXEC, which glommio's accept leaves out.
pub(super) fn set_cloexec(stream: &TcpStream) -> std::io::Result<()> {
    // SAFETY: as in `duplicate`.
    let borrowed = unsafe { BorrowedFd::borrow_raw(stream.as_raw_fd()) };
    Ok(rustix::io::fcntl_setfd(borrowed, rustix::io::FdFlags::CLOEXEC)?)
}

/// Sets up a ring of one entry: shows whether this host allows it at all.
pub(super) fn probe_ring(parameters: &mut rustix::io_uring::io_uring_params) -> std::io::Result<OwnedFd> {
    // SAFETY: no ATTACH_WQ flag is set, so no descriptor is read from the parameters; the kernel writes only into the
    // structure behind the exclusive reference, and the ring is never mapped or used.
    Ok(unsafe { rustix::io_uring::io_uring_setup(1, parameters) }?)
}
