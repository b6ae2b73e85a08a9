//! Admin HTTP on a thread of its own: metrics, health, readiness. No access control: it belongs on loopback.
//!
//! A scrape asks each role for a snapshot and waits [`ANSWER_WAIT_MAX`] at most; it never makes a role wait, and what did
//! not come in time is shown as it was before.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use crossbeam_channel::Receiver;
use tokio::sync::{Mutex, Notify};

use super::exposition::Exposition;
use super::process::Process;
use crate::metrics::RoleSnapshot;
use crate::metrics::paths::PathAnswer;

/// How long a scrape waits for the roles.
pub const ANSWER_WAIT_MAX: Duration = Duration::from_secs(1);
/// How long open requests are waited for when the thread is stopped.
const STOP_WAIT_MAX: Duration = Duration::from_millis(500);

/// The way to all shards and workers, as whoever wires them knows it.
pub trait Roles: Send + Sync + 'static {
    /// Asks every role for its snapshot, without waiting for any. The channel closes when all have answered; a role
    /// that cannot be asked now is left out.
    fn request_snapshots(&self) -> Receiver<RoleSnapshot>;

    /// Likewise for what it knows of the paths with this name; workers tell of their busiest if it is empty.
    fn request_paths(&self, name: Arc<str>) -> Receiver<Vec<PathAnswer>>;
}

/// Why the relay is not ready for mail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Unready {
    /// The spool is being read.
    Recovering = 1,
    /// Listeners are not bound yet.
    NotListening = 2,
    /// A failure of the disk has stopped commits.
    Fenced = 4,
    /// The disk has no room for new mail.
    Full = 8,
    /// SIGTERM or SIGINT came.
    Stopping = 16,
}

impl Unready {
    const ALL: [(Unready, &str); 5] = [
        (Unready::Recovering, "the spool is being recovered"),
        (Unready::NotListening, "listeners are not bound yet"),
        (Unready::Fenced, "a disk error has stopped the spool: see the log, mend the disk, restart"),
        (Unready::Full, "the disk is full: new mail gets 452"),
        (Unready::Stopping, "stopping"),
    ];
}

/// Whether the relay is ready for mail; shared between those who know and `/readyz`.
#[derive(Debug)]
pub struct Readiness(AtomicU8);

impl Default for Readiness {
    /// Not ready: recovering, and not listening.
    fn default() -> Self {
        Self(AtomicU8::new(Unready::Recovering as u8 | Unready::NotListening as u8))
    }
}

impl Readiness {
    /// `reason` holds from now on.
    pub fn set(&self, reason: Unready) {
        self.0.fetch_or(reason as u8, Ordering::Relaxed);
    }

    /// `reason` holds no longer.
    pub fn clear(&self, reason: Unready) {
        self.0.fetch_and(!(reason as u8), Ordering::Relaxed);
    }

    /// All reasons that hold, in words; none means ready.
    pub fn reasons(&self) -> Vec<&'static str> {
        let bits = self.0.load(Ordering::Relaxed);
        Unready::ALL.iter().filter(|(reason, _)| bits & *reason as u8 != 0).map(|(_, words)| *words).collect()
    }
}

/// Why the admin HTTP could not be started.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The address could not be bound.
    #[error("cannot listen on {address} for metrics and health: {source}; give another address with --admin ADDR:PORT{}",
        if source.kind() == io::ErrorKind::AddrInUse { " (is another ringpost running?)" } else { "" })]
    Bind {
        /// As configured.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// No thread, or no runtime for it.
    #[error("cannot start the admin thread: {0}")]
    Start(#[from] io::Error),
}

/// A bound, not yet served socket: bind before recovery, so that a second instance is noticed at once.
#[derive(Debug)]
pub struct AdminListener {
    socket: TcpListener,
    address: SocketAddr,
}

impl AdminListener {
    /// Binds `address`.
    ///
    /// # Errors
    /// When it cannot be bound; the text says what to do.
    pub fn bind(address: SocketAddr) -> Result<Self, AdminError> {
        let bound = TcpListener::bind(address).and_then(|socket| {
            socket.set_nonblocking(true)?;
            let address = socket.local_addr()?;
            Ok(Self { socket, address })
        });
        bound.map_err(|source| AdminError::Bind { address, source })
    }

    /// Where it is bound; the real port even where 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Starts to answer.
    ///
    /// # Errors
    /// When the thread or its runtime cannot be made.
    pub fn serve(
        self,
        exposition: Exposition,
        roles: Arc<dyn Roles>,
        readiness: Arc<Readiness>,
    ) -> Result<AdminThread, AdminError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        let stop = Arc::new(Notify::new());
        let admin = Arc::new(Admin { exposition: Mutex::new(exposition), roles, readiness });
        let stopped = stop.clone();
        let thread = std::thread::Builder::new().name("admin".into()).spawn(move || {
            if let Err(error) = runtime.block_on(run(self.socket, admin, stopped)) {
                tracing::error!(target: "control", %error, "metrics and health are not served any more");
            }
            runtime.shutdown_timeout(STOP_WAIT_MAX);
        })?;
        Ok(AdminThread { stop, thread })
    }
}

/// The running thread.
#[derive(Debug)]
pub struct AdminThread {
    stop: Arc<Notify>,
    thread: JoinHandle<()>,
}

impl AdminThread {
    /// Ends it, within a second.
    pub fn stop(self) {
        self.stop.notify_one();
        // A panic on it has been reported by the panic hook.
        let _ = self.thread.join();
    }
}

struct Admin {
    exposition: Mutex<Exposition>,
    roles: Arc<dyn Roles>,
    readiness: Arc<Readiness>,
}

async fn run(socket: TcpListener, admin: Arc<Admin>, stop: Arc<Notify>) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(socket)?;
    let router = Router::new()
        .route("/", get(index))
        .route("/metrics", get(metrics))
        .route("/paths", get(paths))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .with_state(admin);
    // Not graceful: a client that keeps its connection open must not hold up the end of the process.
    let serve = async { axum::serve(listener, router).await };
    let stopped = async {
        stop.notified().await;
        Ok(())
    };
    futures_lite::future::or(serve, stopped).await
}

async fn index() -> &'static str {
    "ringpost\n/metrics  figures for Prometheus\n/paths    the busiest paths; with ?name=NAME all about one: what limits it, what failed, who waits\n/healthz  the process is alive\n/readyz   ready for mail, or 503 and why\n"
}

async fn readyz(State(admin): State<Arc<Admin>>) -> (StatusCode, String) {
    match admin.readiness.reasons().as_slice() {
        [] => (StatusCode::OK, "ready\n".into()),
        reasons => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {}\n", reasons.join("; "))),
    }
}

async fn metrics(State(admin): State<Arc<Admin>>) -> impl IntoResponse {
    // One scrape at a time, so that a stampede of them asks the roles no more often than they can answer.
    let mut exposition = admin.exposition.lock().await;
    let answers = admin.roles.request_snapshots();
    // On a thread for it: this one goes on answering /healthz.
    let snapshots = tokio::task::spawn_blocking(move || collect(&answers)).await.unwrap_or_default();
    let missing = exposition.roles().saturating_sub(snapshots.len());
    snapshots.into_iter().for_each(|snapshot| exposition.update(snapshot));
    let text = exposition.text(missing, &Process::read());
    ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text)
}

/// What a question about paths asks for.
#[derive(serde::Deserialize)]
struct PathsQuery {
    #[serde(default)]
    name: String,
}

async fn paths(State(admin): State<Arc<Admin>>, Query(query): Query<PathsQuery>) -> Response {
    let exposition = admin.exposition.lock().await;
    let answers = admin.roles.request_paths(query.name.as_str().into());
    let answers = tokio::task::spawn_blocking(move || collect(&answers)).await.unwrap_or_default();
    let missing = exposition.roles().saturating_sub(answers.len());
    match super::paths::json_of(answers.into_iter().flatten().collect(), missing) {
        Some(value) => axum::Json(value).into_response(),
        None if query.name.is_empty() => axum::Json(serde_json::json!({ "paths": [] })).into_response(),
        None => (
            StatusCode::NOT_FOUND,
            format!("no role knows a path `{}`; /paths lists the busiest\n", query.name),
        )
            .into_response(),
    }
}

/// The answers that come in time.
fn collect<T>(answers: &Receiver<T>) -> Vec<T> {
    let deadline = Instant::now() + ANSWER_WAIT_MAX;
    std::iter::from_fn(|| answers.recv_deadline(deadline).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::id::ShardIndex;
    use crate::metrics::ShardMetrics;
    use std::io::{Read, Write};

    /// Shard 0 answers from a thread of its own; the worker never does.
    struct OneAnswers;

    impl Roles for OneAnswers {
        fn request_paths(&self, _: Arc<str>) -> Receiver<Vec<PathAnswer>> {
            crossbeam_channel::bounded(1).1
        }

        fn request_snapshots(&self) -> Receiver<RoleSnapshot> {
            let (sender, answers) = crossbeam_channel::bounded(2);
            std::thread::spawn(move || {
                let metrics = ShardMetrics::default();
                metrics.messages_accepted.add(42);
                let _ = sender.send(metrics.role_snapshot(ShardIndex(0)));
            });
            answers
        }
    }

    fn fetch(address: SocketAddr, path: &str) -> String {
        let mut socket = std::net::TcpStream::connect(address).expect("admin listens");
        write!(socket, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("written");
        let mut text = String::new();
        socket.read_to_string(&mut text).expect("an answer");
        text
    }

    #[test]
    fn health_readiness_and_metrics_are_served() {
        let mut config = Config::default();
        (config.threads.shards, config.threads.workers) = (1, 1);
        let listener = AdminListener::bind("127.0.0.1:0".parse().expect("address")).expect("bound");
        let address = listener.address();
        let readiness = Arc::new(Readiness::default());
        let exposition = Exposition::new(&config, Arc::default(), None);
        let thread = listener.serve(exposition, Arc::new(OneAnswers), readiness.clone()).expect("served");

        assert!(fetch(address, "/").starts_with("HTTP/1.1 200"));
        assert!(fetch(address, "/healthz").starts_with("HTTP/1.1 200"));
        let early = fetch(address, "/readyz");
        assert!(early.starts_with("HTTP/1.1 503") && early.contains("recovered; listeners"), "{early}");
        readiness.clear(Unready::Recovering);
        readiness.clear(Unready::NotListening);
        assert!(fetch(address, "/readyz").starts_with("HTTP/1.1 200"));
        readiness.set(Unready::Fenced);
        assert!(fetch(address, "/readyz").contains("mend the disk"));

        let metrics = fetch(address, "/metrics");
        assert!(metrics.contains("ringpost_messages_accepted_total 42"), "{metrics}");
        assert!(metrics.contains("ringpost_scrape_incomplete 1"), "{metrics}");
        assert!(metrics.to_ascii_lowercase().contains("content-type: text/plain"), "{metrics}");
        thread.stop();
        assert!(std::net::TcpStream::connect(address).is_err());
    }

    #[test]
    fn an_address_in_use_says_what_to_do() {
        let first = AdminListener::bind("127.0.0.1:0".parse().expect("address")).expect("bound");
        let error = AdminListener::bind(first.address()).expect_err("taken").to_string();
        assert!(error.contains("--admin") && error.contains("another ringpost"), "{error}");
    }
}
