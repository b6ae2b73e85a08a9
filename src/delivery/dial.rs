//! From a path's hosts to a connected socket.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::sync::Arc;

use super::order::DeadHosts;
use super::pool::Pool;
use crate::net;
use crate::net::stream::Stream;
use crate::outcome::{Enhanced, Reply};
use crate::routing::{PathKind, PathSpec};
use crate::spool::storage::Storage;

/// What a worker knows of the addresses that it connects to.
#[derive(Debug, Default)]
pub struct Dialler {
    dead: RefCell<DeadHosts>,
    dialled: Cell<u64>,
}

impl Dialler {
    /// The seed of a connection's order of hosts.
    pub fn seed(&self) -> u64 {
        self.dialled.set(self.dialled.get().wrapping_add(1));
        self.dialled.get()
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

/// A connection that stands.
pub struct Dialled {
    /// The socket.
    pub stream: Stream,
    /// Name of the host.
    pub host: Arc<str>,
    /// Its address.
    pub address: SocketAddr,
}

/// Connects to the first host and address that answers, in the order that `seed` gives.
///
/// # Errors
/// What expiry quotes when none does.
pub async fn dial<S: Storage>(pool: &Pool<S>, spec: &PathSpec, seed: u64) -> Result<Dialled, Reply> {
    let PathKind::Smtp { hosts } = &spec.kind else {
        return Err(Reply::new(0, Enhanced(4, 3, 5), "path has no hosts to connect to"));
    };
    let mut last = String::from("path has no addresses");
    let began = net::now().mono;
    let timeouts = &pool.options().timeouts;
    let order = pool.dialler().dead.borrow().order(hosts, seed ^ u64::from(spec.id.0) << 32, began);
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
