//! PURE. Where a socket is: an IP address and port, or the path of a unix socket. And who is at the other end of one that was
//! accepted.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::str::FromStr;

/// Longest path of a unix socket, bytes: the kernel has room for this many and a NUL (unix(7)).
pub const SOCKET_PATH_BYTES_MAX: usize = 107;
/// How a unix socket begins in text.
const UNIX: &str = "unix:";

/// Where a socket listens, or is connected to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// TCP.
    Ip(SocketAddr),
    /// A unix socket, by an absolute path.
    Unix(Box<Path>),
}

impl Endpoint {
    /// Its address, if it is no unix socket.
    pub fn ip(&self) -> Option<SocketAddr> {
        match self {
            Self::Ip(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        Self::Ip(address)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "{UNIX}{}", path.display()),
        }
    }
}

/// The other end of an accepted connection. Whoever came over a unix socket has no address, and is in no network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Has this address.
    Ip(IpAddr),
    /// A process of this host, over a unix socket.
    Socket,
}

impl Origin {
    /// Its address, if it has one.
    pub fn ip(self) -> Option<IpAddr> {
        match self {
            Self::Ip(address) => Some(address),
            Self::Socket => None,
        }
    }
}

impl From<IpAddr> for Origin {
    fn from(address: IpAddr) -> Self {
        Self::Ip(address)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Socket => f.write_str("unix-socket"),
        }
    }
}

/// A text that is no endpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is neither ADDRESS:PORT nor unix:/PATH (absolute, at most {SOCKET_PATH_BYTES_MAX} bytes, no control characters)"
)]
pub struct ParseEndpointError(pub String);

impl FromStr for Endpoint {
    type Err = ParseEndpointError;

    fn from_str(text: &str) -> Result<Self, ParseEndpointError> {
        let parsed = match text.strip_prefix(UNIX) {
            Some(path) => is_socket_path(path).then(|| Self::Unix(Path::new(path).into())),
            None => text.parse().ok().map(Self::Ip),
        };
        parsed.ok_or_else(|| ParseEndpointError(text.to_owned()))
    }
}

/// Whether `text` can be the path of a unix socket: absolute, short enough for the kernel, and fit for a line of the log.
pub fn is_socket_path(text: &str) -> bool {
    text.len() > 1
        && text.len() <= SOCKET_PATH_BYTES_MAX
        && text.starts_with('/')
        && !text.ends_with('/')
        && !text.contains(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_read_and_shown_alike_and_others_are_refused() {
        for text in ["127.0.0.1:25", "[::1]:2525", "unix:/run/ringpost/lmtp"] {
            assert_eq!(text.parse::<Endpoint>().map(|e| e.to_string()), Ok(text.to_owned()));
        }
        let long = format!("unix:/{}", "x".repeat(SOCKET_PATH_BYTES_MAX));
        for text in
            ["", "127.0.0.1", "localhost:25", "unix:", "unix:/", "unix:run/x", "unix:/a\nb", "/run/x", &long]
        {
            assert_eq!(text.parse::<Endpoint>(), Err(ParseEndpointError(text.to_owned())));
        }
    }
}
