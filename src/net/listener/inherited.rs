//! Listening sockets that whoever started us has bound already: systemd's socket activation (sd_listen_fds(3)).
//!
//! Such a socket is one for all shards, and glommio's accept switches the blocking of the socket off and on again, which two
//! executors must not do to one socket at once: one of them would block. So one shard accepts on it and hands over, as every
//! shard does with connections that others have more room for.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use listenfd::ListenFd;

use super::Bound;

/// Those that were passed, by their addresses. Once only: who asks again gets none.
///
/// # Errors
/// When one of them is no TCP socket.
pub fn take() -> io::Result<Vec<(SocketAddr, Bound)>> {
    let mut passed = ListenFd::from_env();
    let mut taken = Vec::new();
    for nth in 0..passed.len() {
        let Some(socket) = passed.take_tcp_listener(nth)? else { continue };
        // io_uring would not wait for a connection to one that does not block.
        socket.set_nonblocking(false)?;
        taken.push((socket.local_addr()?, Bound::Inherited(OwnedFd::from(socket))));
    }
    Ok(taken)
}
