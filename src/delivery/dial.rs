//! From a path's hosts to a connected socket.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::sync::Arc;

use super::order::DeadHosts;
use super::path::PathState;
use super::pool::Pool;
use crate::net;
use crate::net::stream::Stream;
use crate::outcome::{Enhanced, Reply};
use crate::routing::{DomainHosts, PathHost, PathKind, PathSpec};
use crate::spool::storage::Storage;

/// What a worker knows of the addresses that it connects to.
#[derive(Debug, Default)]
pub struct Dialler {
    dead: RefCell<DeadHosts>,
    dialled: Cell<u64>,
}

impl Dialler {
    /// Where a new connection of the path goes; `None` if that is a job's to say and the jobs are gone.
    pub fn call<S: Storage>(&self, path: &PathState<S>) -> Option<Call> {
        self.dialled.set(self.dialled.get().wrapping_add(1));
        let hosts = path.hosts_to_open();
        let is_shared =
            matches!(&path.lane.borrow().spec().kind, PathKind::Smtp { hosts } if hosts.is_empty());
        (hosts.is_some() || !is_shared).then(|| Call { hosts, seed: self.dialled.get() })
    }

    /// A session was opened with it.
    pub fn answered(&self, address: SocketAddr) {
        self.dead.borrow_mut().answered(address);
    }

    /// It could not be reached, or sent us away before any command.
    pub fn failed(&self, address: SocketAddr) {
        self.dead.borrow_mut().failed(address, net::now().mono);
    }
}

/// Where one connection goes, however often it must be tried: the same hosts in the same order.
#[derive(Clone, Debug)]
pub struct Call {
    /// Hosts of the domains whose jobs it can take, if the path has none of its own.
    pub hosts: Option<DomainHosts>,
    seed: u64,
}

/// A connection that stands.
pub struct Dialled {
    /// The socket.
    pub stream: Stream,
    /// Name of the host.
    pub host: Arc<str>,
    /// Its address.
    pub address: SocketAddr,
}

/// Connects to the first host and address that answers.
///
/// # Errors
/// What expiry quotes when none does.
pub async fn dial<S: Storage>(pool: &Pool<S>, spec: &PathSpec, call: &Call) -> Result<Dialled, Reply> {
    let hosts: &[PathHost] = match (&call.hosts, &spec.kind) {
        (Some(hosts), _) => hosts,
        (None, PathKind::Smtp { hosts }) => hosts,
        (None, _) => &[],
    };
    let mut last = String::from("path has no hosts to connect to");
    let began = net::now().mono;
    let timeouts = &pool.options().timeouts;
    let order = pool.dialler().dead.borrow().order(hosts, call.seed, began);
    for (host, address) in order {
        let name = &hosts[host].name;
        let left = timeouts.attempt.saturating_sub(net::now().mono.since(began));
        if pool.is_stopping() || left.is_zero() {
            break;
        }
        match Stream::connect(address, None, timeouts.connect.min(left)).await {
            Ok(stream) => return Ok(Dialled { stream, host: Arc::from(&**name), address }),
            Err(error) => {
                pool.dialler().failed(address);
                last = format!("connect to {name} at {address}: {error}");
            }
        }
    }
    Err(Reply::new(0, Enhanced(4, 4, 1), &last))
}
