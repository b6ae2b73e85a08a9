//! One end of an SMTP connection, for clients and remotes: lines, counted bytes, and bodies up to the dot.

use std::net::SocketAddr;
use std::time::Duration;

use ringpost::net::buffer::ReceiveBuffer;
use ringpost::net::stream::Stream;

/// Longest wait for the other end; longer than any wait of the relay, so that it is the relay that gives up.
const PATIENCE: Duration = Duration::from_secs(40 * 60);

/// The connection is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone;

/// A connection with what has been read from it.
pub struct Wire {
    stream: Stream,
    input: ReceiveBuffer,
    read: Vec<u8>,
}

impl Wire {
    /// Over an accepted connection.
    pub fn new(stream: Stream) -> Self {
        stream.set_read_timeout(PATIENCE);
        stream.set_write_timeout(PATIENCE);
        Self { stream, input: ReceiveBuffer::default(), read: Vec::new() }
    }

    /// Over a new connection to `remote`.
    pub async fn connect(remote: SocketAddr) -> Result<Self, Gone> {
        let stream = Stream::connect(remote, None, Duration::from_secs(60)).await;
        stream.map(Self::new).map_err(|_| Gone)
    }

    /// Sends all of `bytes`.
    pub async fn send(&mut self, bytes: &[u8]) -> Result<(), Gone> {
        self.stream.write_all(bytes).await.map_err(|_| Gone)
    }

    async fn fill(&mut self) -> Result<(), Gone> {
        match self.stream.read(&mut self.input).await {
            Ok(count) if count > 0 => {
                let bytes = self.input.filled();
                self.read.extend_from_slice(bytes);
                let count = bytes.len();
                self.input.consume(count);
                Ok(())
            }
            _ => Err(Gone),
        }
    }

    /// The next line, without its end.
    pub async fn line(&mut self) -> Result<String, Gone> {
        let line = self.until(b"\r\n").await?;
        Ok(String::from_utf8_lossy(&line[..line.len() - 2]).into_owned())
    }

    /// Everything up to `end`, with it.
    pub async fn until(&mut self, end: &[u8]) -> Result<Vec<u8>, Gone> {
        let mut looked = 0;
        loop {
            let found = self.read[looked..].windows(end.len()).position(|window| window == end);
            if let Some(at) = found {
                return Ok(self.read.drain(..looked + at + end.len()).collect());
            }
            looked = self.read.len().saturating_sub(end.len() - 1);
            self.fill().await?;
        }
    }

    /// The next `count` bytes.
    pub async fn exactly(&mut self, count: usize) -> Result<Vec<u8>, Gone> {
        while self.read.len() < count {
            self.fill().await?;
        }
        Ok(self.read.drain(..count).collect())
    }

    /// A whole reply: its code, and the text of its last line.
    pub async fn reply(&mut self) -> Result<(u16, String), Gone> {
        loop {
            let line = self.line().await?;
            let code = line.get(..3).and_then(|code| code.parse().ok());
            let Some(code) = code else { panic!("`{line}` is no reply") };
            if line.as_bytes().get(3) != Some(&b'-') {
                return Ok((code, line[4.min(line.len())..].to_owned()));
            }
        }
    }
}
