//! The sockets that mail comes in by: bound here, or passed by systemd.

use std::net::SocketAddr;

use super::{StartError, seats};
use crate::config::Config;
use crate::inbound::listener::ListenerIndex;
use crate::net::listener::{self, Bound, inherited};

/// What each shard accepts on, and the address of each listener.
type Sockets = (Vec<Vec<(ListenerIndex, Bound)>>, Vec<SocketAddr>);

/// One socket for each shard and listener; with port 0 the first decides the port for the others. For a listener whose socket
/// was passed, the first shard has it, and the others get their share of its connections from there.
pub fn bind_all(config: &Config) -> Result<Sockets, StartError> {
    let mut passed = inherited::take().map_err(|error| {
        StartError::Passed(format!(
            "cannot use a socket that was passed (LISTEN_FDS): {error}; allowed is TCP"
        ))
    })?;
    let cpus = if config.threads.steer { seats::pinned_cpus(config) } else { Vec::new() };
    let mut by_shard: Vec<Vec<_>> = (0..config.threads.shards).map(|_| Vec::new()).collect();
    let mut listening = Vec::new();
    for (nth, wanted) in (0..).map(ListenerIndex).zip(config.listeners()) {
        let mut address = wanted.address;
        if let Some(place) = passed.iter().position(|(passed, _)| *passed == address) {
            by_shard[0].push((nth, passed.swap_remove(place).1));
            listening.push(address);
            continue;
        }
        for (index, sockets) in by_shard.iter_mut().enumerate() {
            let failed = |source| StartError::Bind { address, flag: "--listen", source };
            // SO_REUSEPORT would let a second relay of the same user listen beside the first, unnoticed.
            if index == 0 && address.port() != 0 {
                listener::check_free(address).map_err(failed)?;
            }
            let socket = listener::bind(address, cpus.get(index).copied()).map_err(failed)?;
            address = socket.local_address().map_err(failed)?;
            sockets.push((nth, socket));
        }
        listening.push(address);
    }
    match passed.first() {
        None => Ok((by_shard, listening)),
        Some((address, _)) => Err(StartError::Passed(format!(
            "a socket on {address} was passed (LISTEN_FDS), and no listener is there; add it to smtp.listen or as a \
             [[listener]], or take its ListenStream from the .socket unit"
        ))),
    }
}
