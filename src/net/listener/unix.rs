//! Listening on unix sockets. One socket serves all shards, SO_REUSEPORT being TCP's; one of them accepts on it, as on those of
//! `inherited`.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::time::Instant;

use socket2::{Domain, SockAddr, Socket, Type};

use super::{BACKLOG, Bound, LEFTOVERS, LEFTOVERS_LOOK};

/// Binds and listens; `mode` says who may connect. The file that a relay left which was killed is replaced; one on which
/// somebody listens, or that is no socket, is left alone.
///
/// # Errors
/// With why not.
pub fn bind(path: &Path, mode: u32) -> io::Result<Bound> {
    remove_stale(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    // Nobody can connect before it listens, and by then the mode is right.
    fs::set_permissions(path, Permissions::from_mode(mode))?;
    socket.listen(BACKLOG)?;
    Ok(Bound::Kernel(socket.into()))
}

/// Removes the file of a socket on which nobody listens. The kernel may hold that of a killed relay a little longer than the
/// process lived, as for addresses.
fn remove_stale(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => {}
        Ok(_) => {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is something that is no socket"));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    }
    let deadline = Instant::now() + LEFTOVERS;
    loop {
        let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        // A full backlog is somebody's.
        probe.set_nonblocking(true)?;
        match probe.connect(&SockAddr::unix(path)?) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => return fs::remove_file(path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
            _ if Instant::now() < deadline => std::thread::sleep(LEFTOVERS_LOOK),
            _ => return Err(io::ErrorKind::AddrInUse.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(path: &Path) -> Result<(), io::ErrorKind> {
        bind(path, 0o600).map(drop).map_err(|error| error.kind())
    }

    #[test]
    fn a_socket_that_nobody_listens_on_is_replaced_and_nothing_else_is() {
        let place = tempfile::tempdir().expect("a directory");
        let path = place.path().join("socket");
        let listening = bind(&path, 0o620).expect("a free path");
        assert_eq!(fs::metadata(&path).expect("a file").permissions().mode() & 0o777, 0o620);
        assert_eq!(kind(&path), Err(io::ErrorKind::AddrInUse));
        drop(listening);
        assert!(path.exists(), "a killed relay leaves its file");
        assert_eq!(kind(&path), Ok(()));
        let other = place.path().join("mail");
        fs::write(&other, "precious").expect("a file");
        assert_eq!(kind(&other), Err(io::ErrorKind::AlreadyExists));
        assert_eq!(fs::read(&other).expect("still there"), b"precious");
    }
}
