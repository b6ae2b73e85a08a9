//! A non-blocking connection, in the clear or with TLS, for both ends. With TLS, bytes count as written only when the
//! socket has taken them, so that times mean the same with and without.

use std::io::{self, ErrorKind, IoSlice, Read, Write};

use mio::net::TcpStream;
use rustls::Connection;

/// Bytes of plaintext that one write hands to TLS: some records, and no second copy of a large body.
const CLEAR_BYTES_MAX: usize = 64 << 10;

/// A connection.
pub enum Stream {
    /// In the clear.
    Clear(TcpStream),
    /// With TLS.
    Tls(Box<Tls>),
    /// Taken out to be replaced.
    Gone,
}

/// TLS over a socket.
pub struct Tls {
    connection: Connection,
    socket: TcpStream,
    /// Plaintext handed to TLS that the socket has not taken as a whole.
    pending: usize,
}

impl Stream {
    /// Puts TLS on the socket. Bytes of the handshake move with the next [`Stream::shake_hands`] or read.
    pub fn secure(self, connection: Connection) -> Self {
        match self {
            Self::Clear(socket) => {
                let mut connection = connection;
                connection.set_buffer_limit(Some(CLEAR_BYTES_MAX));
                Self::Tls(Box::new(Tls { connection, socket, pending: 0 }))
            }
            already => already,
        }
    }

    /// Takes the connection out, to put it back secured.
    #[must_use]
    pub fn take(&mut self) -> Self {
        std::mem::replace(self, Self::Gone)
    }

    /// With TLS, a short read does not mean that nothing is left.
    pub fn is_clear(&self) -> bool {
        matches!(self, Self::Clear(_))
    }

    /// Moves the handshake on; `Ok(true)` when it is done.
    pub fn shake_hands(&mut self) -> io::Result<bool> {
        let Self::Tls(tls) = self else { return Ok(true) };
        loop {
            match tls.flush() {
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                other => other?,
            }
            if !tls.connection.is_handshaking() {
                return Ok(true);
            }
            match tls.fill() {
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                other => other?,
            };
        }
    }

    /// The handshake continued an earlier session.
    pub fn is_resumed(&self) -> bool {
        matches!(self, Self::Tls(tls)
            if tls.connection.handshake_kind() == Some(rustls::HandshakeKind::Resumed))
    }

    /// Reads. 0 is the end.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let tls = match self {
            Self::Clear(socket) => return socket.read(buffer),
            Self::Tls(tls) => tls,
            Self::Gone => return Err(ErrorKind::NotConnected.into()),
        };
        loop {
            match tls.connection.reader().read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                // Mail has its own end; a peer that leaves without close_notify is only gone.
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(0),
                other => return other,
            }
            if tls.fill()? == 0 {
                return Ok(0);
            }
            match tls.flush() {
                Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error),
                _ => {}
            }
        }
    }

    /// Writes. After `WouldBlock` the same bytes must be offered again, with more behind them if need be.
    pub fn write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let tls = match self {
            Self::Clear(socket) => return socket.write_vectored(slices),
            Self::Tls(tls) => tls,
            Self::Gone => return Err(ErrorKind::NotConnected.into()),
        };
        if tls.pending == 0 {
            tls.pending = tls.connection.writer().write_vectored(slices)?;
        }
        tls.flush()?;
        Ok(std::mem::take(&mut tls.pending))
    }
}

impl Tls {
    fn flush(&mut self) -> io::Result<()> {
        while self.connection.wants_write() {
            if self.connection.write_tls(&mut self.socket)? == 0 {
                return Err(ErrorKind::WriteZero.into());
            }
        }
        Ok(())
    }

    fn fill(&mut self) -> io::Result<usize> {
        let count = self.connection.read_tls(&mut self.socket)?;
        self.connection.process_new_packets().map_err(|error| {
            // The peer may want to know why.
            let _ = self.connection.write_tls(&mut self.socket);
            io::Error::new(ErrorKind::InvalidData, error)
        })?;
        Ok(count)
    }
}
