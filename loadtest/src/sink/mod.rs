//! The receiving side: the dialogue ([`session`]), what is refused and delayed ([`script`] with its [`meter`], written down
//! as a [`profile`]), the threads ([`worker`]), whole messages on disk ([`keep`]), and a way for tests to ask ([`control`]).

pub mod control;
pub mod keep;
pub mod meter;
pub mod profile;
pub mod script;
pub mod session;
pub mod worker;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use crate::board::{SharedBoard, SinkCounts, ThreadUse};
use crate::sink::keep::Keeper;
use crate::sink::profile::Profile;

/// Where a sink listens, and how it behaves there. Its limits and rules are counted for this listener alone.
#[derive(Debug)]
pub struct Listener {
    /// Port 0 takes a free one.
    pub address: SocketAddr,
    /// The profile's name, for people.
    pub name: Option<String>,
    /// How it behaves.
    pub profile: Profile,
}

/// How a sink behaves.
#[derive(Debug)]
pub struct Settings {
    /// Where it listens.
    pub listeners: Vec<Listener>,
    /// Threads.
    pub threads: usize,
    /// TLS, if any.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// TLS from the start.
    pub implicit: bool,
    /// Where whole messages are kept.
    pub keep: Option<Arc<Keeper>>,
}

/// A running sink.
pub struct Sink {
    threads: Vec<JoinHandle<io::Result<ThreadUse>>>,
    stop: Arc<AtomicBool>,
    addresses: Vec<SocketAddr>,
}

impl Sink {
    /// Binds and starts the threads. The first one accepts and hands connections round.
    pub fn start(settings: Settings, board: &SharedBoard) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let bind = |listener: &Listener| {
            mio::net::TcpListener::bind(listener.address).map_err(|error| {
                let what = format!("the sink cannot listen on {}: {error}", listener.address);
                io::Error::new(error.kind(), what)
            })
        };
        let sockets = settings.listeners.iter().map(bind).collect::<io::Result<Vec<_>>>()?;
        let addresses: Vec<SocketAddr> =
            sockets.iter().map(mio::net::TcpListener::local_addr).collect::<io::Result<_>>()?;
        let name = |(address, listener): (&SocketAddr, &Listener)| {
            let profile = listener.name.as_ref().map_or(String::new(), |name| format!(" {name}"));
            (format!("{address}{profile}"), SinkCounts::default())
        };
        board.lock().sink.listeners = addresses.iter().zip(&settings.listeners).map(name).collect();
        let threads = settings.threads.max(1);
        let settings = Arc::new(settings);
        let shared = Arc::new(worker::Shared::new(settings.listeners.len()));
        let mut doors = Vec::new();
        let mut workers = Vec::new();
        for index in 0..threads {
            let (worker, door) =
                worker::Worker::new(index, settings.clone(), shared.clone(), board.clone(), stop.clone())?;
            workers.push(worker);
            doors.push(door);
        }
        workers[0].accept_for(sockets, doors)?;
        let spawn = |(index, worker): (usize, worker::Worker)| {
            std::thread::Builder::new().name(format!("sink-{index}")).spawn(move || worker.run())
        };
        let threads = workers.into_iter().enumerate().map(spawn).collect::<io::Result<_>>()?;
        Ok(Self { threads, stop, addresses })
    }

    /// Where it listens, ports resolved.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Closes everything and says how busy each thread was.
    pub fn stop(self) -> io::Result<Vec<ThreadUse>> {
        self.stop.store(true, Ordering::Relaxed);
        let join = |thread: JoinHandle<_>| {
            thread.join().unwrap_or_else(|_| Err(io::Error::other("a sink thread panicked")))
        };
        self.threads.into_iter().map(join).collect()
    }
}
