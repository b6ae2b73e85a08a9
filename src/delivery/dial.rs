//! From a path's hosts to a connected socket: which host, which address, and from which source.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::order::DeadHosts;
use super::path::PathState;
use super::pool::Pool;
use super::sources::{BLOCKED_FOR, Choice, Sources, UNBOUND_FOR, is_block};
use crate::net;
use crate::net::stream::Stream;
use crate::outcome::{Enhanced, Reply};
use crate::routing::source::Source;
use crate::routing::{DomainHosts, PathHost, PathKind, PathSpec};
use crate::spool::storage::Storage;

/// What a worker knows of the addresses that it connects to and from.
#[derive(Debug, Default)]
pub struct Dialler {
    dead: RefCell<DeadHosts>,
    sources: RefCell<Sources>,
    dialled: Cell<u64>,
}

/// Where one connection goes and comes from, however often it must be tried: the same hosts in the same order.
#[derive(Clone, Debug)]
pub struct Call {
    /// Hosts of the domains whose jobs it can take, if the path has none of its own.
    pub hosts: Option<DomainHosts>,
    choice: Choice,
    seed: u64,
}

impl Call {
    /// The source that it comes from.
    pub fn source(&self) -> Option<&Arc<Source>> {
        match &self.choice {
            Choice::From(source) => Some(source),
            Choice::Any | Choice::AllOut => None,
        }
    }

    /// Our name in its EHLO.
    pub fn ehlo_name<'a>(&'a self, usual: &'a str) -> &'a str {
        self.source().map(|source| source.ehlo_name.as_str()).filter(|name| !name.is_empty()).unwrap_or(usual)
    }
}

/// A connection that stands.
pub struct Dialled {
    /// The socket.
    pub stream: Stream,
    /// Name of the host.
    pub host: Arc<str>,
    /// Its address; a unix socket has none.
    pub address: Option<SocketAddr>,
}

impl Dialler {
    /// Where a new connection of the path goes; `None` if that is a job's to say and the jobs are gone.
    pub fn call<S: Storage>(&self, path: &PathState<S>) -> Option<Call> {
        self.dialled.set(self.dialled.get().wrapping_add(1));
        let hosts = path.hosts_to_open();
        let spec = path.lane.borrow().spec().clone();
        let is_shared = matches!(&spec.kind, PathKind::Smtp { hosts } if hosts.is_empty());
        if is_shared && hosts.is_none() {
            return None;
        }
        let choice = self.choose(&spec);
        Some(Call { hosts, choice, seed: self.dialled.get() })
    }

    /// What to say of a call that leads to a domain's own hosts, none of which could be reached of late: trying them again
    /// for each of its jobs would take connections from the others on the path.
    pub fn known_dead(&self, call: &Call) -> Option<Reply> {
        let hosts = call.hosts.as_ref()?;
        self.dead.borrow().why_all_dead(hosts, net::now().mono).cloned()
    }

    /// A session was opened with it; a unix socket has no address.
    pub fn answered(&self, address: Option<SocketAddr>) {
        if let Some(address) = address {
            self.dead.borrow_mut().answered(address);
        }
    }

    fn choose(&self, spec: &PathSpec) -> Choice {
        self.sources.borrow_mut().choose(&spec.pool, spec.id, net::now().mono)
    }

    fn is_dead(&self, address: SocketAddr, why: &Reply) {
        self.dead.borrow_mut().failed(address, why, net::now().mono);
    }
}

impl<S: Storage> Pool<S> {
    /// No session came of a call, for the reason in `reply`: jobs for just these hosts need not wait for them.
    pub(super) fn call_failed(self: &Rc<Self>, path: &PathState<S>, call: &Call, reply: &Reply) {
        self.metrics().connections_failed.inc();
        if let Some(hosts) = &call.hosts {
            path.defer_all(hosts, reply);
        }
        self.path_failed(path, reply);
    }

    /// A host sent a connection away before any command: it comes last for a while, and so does the source if its words
    /// mean that.
    pub(super) fn sent_away(&self, spec: &PathSpec, call: &Call, address: Option<SocketAddr>, reply: &Reply) {
        if let Some(address) = address {
            self.dialler().is_dead(address, reply);
        }
        let Some(source) = call.source().filter(|_| reply.code >= 400 && is_block(&reply.text)) else {
            return;
        };
        let now = net::now().mono;
        if self.dialler().sources.borrow_mut().blocked(source, &spec.pool, spec.id, now) {
            self.metrics().sources.update(&source.name, |figures| {
                figures.blocked += 1;
                figures.out += 1;
            });
            self.notice(format!(
                "{} blocks source {}, which is left out there for {} s: {}",
                spec.name,
                source.name,
                BLOCKED_FOR.as_secs(),
                reply.text
            ));
        }
    }

    fn cannot_bind(&self, source: &Source, error: &io::Error) {
        if self.dialler().sources.borrow_mut().unbound(source, net::now().mono) {
            self.metrics().sources.update(&source.name, |figures| {
                figures.unbound += 1;
                figures.out += 1;
            });
            let (name, seconds) = (&source.name, UNBOUND_FOR.as_secs());
            self.notice(format!(
                "source {name} cannot bind its address and is left out for {seconds} s: {error}"
            ));
        }
    }

    /// Says which sources are used again.
    pub(super) fn take_sources_back(&self) {
        let back = self.dialler().sources.borrow_mut().take_back(net::now().mono);
        for source in back {
            self.metrics().sources.update(&source, |figures| figures.out = figures.out.saturating_sub(1));
            self.notice(format!("source {source} is used again"));
        }
    }

    /// Whether a source is out.
    pub(super) fn has_sources_out(&self) -> bool {
        self.dialler().sources.borrow().any_out()
    }
}

/// Connects to the first host and address that answers.
///
/// # Errors
/// What expiry quotes when none does.
pub async fn dial<S: Storage>(pool: &Pool<S>, spec: &PathSpec, call: &mut Call) -> Result<Dialled, Reply> {
    if let PathKind::LmtpSocket(path) = &spec.kind {
        let connected = Stream::connect_unix(path, pool.options().timeouts.connect).await;
        let failed = |error| Reply::new(0, Enhanced(4, 4, 1), &format!("connect to {}: {error}", spec.name));
        let dialled = |stream| Dialled { stream, host: Arc::from(&*spec.name), address: None };
        return connected.map(dialled).map_err(failed);
    }
    if call.choice == Choice::AllOut {
        let text = format!("no source of pool {} can be used now", spec.pool.name);
        return Err(Reply::new(0, Enhanced(4, 4, 1), &text));
    }
    let hosts = call.hosts.clone();
    let hosts: &[PathHost] = match (&hosts, &spec.kind) {
        (Some(hosts), _) => hosts,
        (None, PathKind::Smtp { hosts } | PathKind::Lmtp { hosts }) => hosts,
        (None, _) => &[],
    };
    let unreachable = |what: &str| Reply::new(0, Enhanced(4, 4, 1), what);
    let mut last = unreachable("path has no hosts to connect to");
    let began = net::now().mono;
    let timeouts = &pool.options().timeouts;
    let order = pool.dialler().dead.borrow().order(hosts, call.seed, began);
    for (host, address) in order {
        let name = &hosts[host].name;
        let left = timeouts.attempt.saturating_sub(net::now().mono.since(began));
        if pool.is_stopping() || left.is_zero() {
            break;
        }
        match connect(pool, spec, call, address, timeouts.connect.min(left)).await {
            Ok(stream) => return Ok(Dialled { stream, host: Arc::from(&**name), address: Some(address) }),
            Err(error) => {
                last = unreachable(&format!("connect to {name} at {address}: {error}"));
                if error.kind() != io::ErrorKind::AddrNotAvailable {
                    pool.dialler().is_dead(address, &last);
                }
            }
        }
    }
    Err(last)
}

/// Connects from the call's source, or another of its pool if that one cannot bind. `AddrNotAvailable` is our fault, and no
/// other kind of error.
async fn connect<S: Storage>(
    pool: &Pool<S>,
    spec: &PathSpec,
    call: &mut Call,
    remote: SocketAddr,
    limit: Duration,
) -> io::Result<Stream> {
    loop {
        let Some(source) = call.source().cloned() else {
            return Stream::connect(remote, None, limit).await;
        };
        let Some(from) = source.address_for(remote) else {
            let what = format!("source {} has no address of that family", source.name);
            return Err(io::Error::new(io::ErrorKind::AddrNotAvailable, what));
        };
        match Stream::connect(remote, Some(from), limit).await {
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {
                pool.cannot_bind(&source, &error);
                call.choice = pool.dialler().choose(spec);
                if call.choice == Choice::AllOut {
                    return Err(error);
                }
            }
            connected => return connected,
        }
    }
}
