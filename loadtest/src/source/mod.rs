//! The sending side: what is sent ([`plan`]), when ([`pace`]), in which dialogue ([`session`], with its bytes in
//! [`outgoing`] and its messages from a [`host`], which is the thread's [`desk`]), and the threads that do it
//! ([`worker`]). Choices by weight are a [`mix`].

pub mod desk;
pub mod host;
pub mod mix;
pub mod outgoing;
pub mod pace;
pub mod plan;
pub mod session;
pub mod worker;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::thread::JoinHandle;

use crate::board::{SharedBoard, ThreadUse};
use crate::clock::Micros;

/// Whether and when connections are secured.
#[derive(Clone, Debug)]
pub enum Security {
    /// Never.
    None,
    /// After STARTTLS.
    StartTls(Arc<rustls::ClientConfig>),
    /// From the start.
    Implicit(Arc<rustls::ClientConfig>),
}

/// How a source behaves, apart from what it sends.
#[derive(Clone, Debug)]
pub struct Settings {
    /// TLS.
    pub security: Security,
    /// The name asked for with TLS.
    pub server_name: rustls::pki_types::ServerName<'static>,
    /// The relay.
    pub target: SocketAddr,
    /// Connections over all threads.
    pub connections: usize,
    /// Threads.
    pub threads: usize,
    /// Microseconds of a peer's silence after which a connection counts as lost.
    pub timeout: Micros,
    /// Open lost connections again; otherwise each loss retires one.
    pub reconnect: bool,
}

/// A running source.
pub struct Source {
    threads: Vec<JoinHandle<io::Result<ThreadUse>>>,
    stop: Arc<AtomicBool>,
}

impl Source {
    /// Starts the threads.
    pub fn start(
        settings: &Settings,
        plan: plan::Plan,
        pace: pace::Pace,
        board: &SharedBoard,
        stop: &Arc<AtomicBool>,
    ) -> io::Result<Self> {
        let plan = Arc::new(plan);
        board.lock().timeline.begin(pace.start());
        let counter = Arc::new(AtomicU64::new(0));
        let threads = settings.threads.clamp(1, settings.connections.max(1));
        let spawn = |index: usize| {
            let share = settings.connections / threads + usize::from(index < settings.connections % threads);
            let settings = Settings { connections: share, ..settings.clone() };
            let desk = desk::Desk::new(plan.clone(), pace.clone(), counter.clone(), stop.clone());
            let worker = worker::Worker::new(settings, desk, board.clone())?;
            std::thread::Builder::new().name(format!("source-{index}")).spawn(move || worker.run())
        };
        let threads = (0..threads).map(spawn).collect::<io::Result<_>>()?;
        Ok(Self { threads, stop: stop.clone() })
    }

    /// All threads have ended.
    pub fn is_finished(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }

    /// Begins no further message. Those under way end.
    pub fn stop(&self) {
        self.stop.store(true, std::sync::atomic::Ordering::Relaxed);
    }

    /// Waits for the threads and says how busy each was.
    pub fn join(self) -> io::Result<Vec<ThreadUse>> {
        let join = |thread: JoinHandle<_>| {
            thread.join().unwrap_or_else(|_| Err(io::Error::other("a source thread panicked")))
        };
        self.threads.into_iter().map(join).collect()
    }
}
