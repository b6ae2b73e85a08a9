//! The shard's accept loops, and connections handed over by other shards.

use std::rc::Rc;
use std::time::Duration;

use futures_lite::future;

use super::{ROUND, Shard};
use crate::id::ShardIndex;
use crate::inbound::listener::{Handed, ListenerIndex};
use crate::inbound::session::{self, Inbound};
use crate::metrics::ConnectionResult;
use crate::net;
use crate::net::listener::{self, Accepted, Bound, Listener};
use crate::net::stream::Stream;
use crate::protocol::reply;
use crate::spool::storage::Storage;

/// Gives a place on the shard back when the connection's task ends, however it ends.
struct Load<S: Storage> {
    shard: Rc<Shard<S>>,
}

impl<S: Storage> Drop for Load<S> {
    fn drop(&mut self) {
        self.shard.wiring.loads.release(self.shard.wiring.index);
        self.shard.wiring.inbox.event().notify();
    }
}

impl<S: Storage> Shard<S> {
    /// Starts an accept loop on a bound socket of `listener`.
    pub fn listen(
        self: &Rc<Self>,
        socket: Bound,
        listener: ListenerIndex,
        inbound: &Rc<Inbound<S>>,
    ) -> std::io::Result<()> {
        self.listeners.borrow_mut().push(socket.try_clone()?);
        self.accepting.set(self.accepting.get() + 1);
        let (shard, inbound) = (self.clone(), inbound.clone());
        net::spawn(async move {
            shard.accept_all(Listener::new(socket), listener, &inbound).await;
            shard.accepting.set(shard.accepting.get() - 1);
            shard.wiring.inbox.event().notify();
        });
        Ok(())
    }

    async fn accept_all(
        self: &Rc<Self>,
        socket: Listener,
        listener: ListenerIndex,
        inbound: &Rc<Inbound<S>>,
    ) {
        while !self.stopping.get() {
            let stopped = || self.stopping.get().then(|| Err(std::io::ErrorKind::ConnectionAborted.into()));
            match future::or(self.stopped.until(stopped), socket.accept()).await {
                Ok(accepted) => self.place(accepted, listener, inbound),
                Err(_) if self.stopping.get() => return,
                Err(error) => {
                    self.metrics.connections[ConnectionResult::Failed].inc();
                    if !listener::is_shortage(&error) {
                        // accept(2): errors of the network under a new connection come here as well. Only the stop
                        // shuts the listener.
                        net::sleep(Duration::from_millis(20)).await;
                    }
                }
            }
        }
    }

    /// Serves the connection here, or hands it to the shard with the fewest.
    fn place(self: &Rc<Self>, accepted: Accepted, listener: ListenerIndex, inbound: &Rc<Inbound<S>>) {
        let own = self.wiring.index;
        let chosen = self.wiring.loads.reserve(own);
        if chosen == own {
            return self.start_session(accepted.into_stream(), listener, inbound);
        }
        match accepted.detach() {
            Ok(socket) => {
                let handed = Handed { socket, listener };
                if let Err(handed) = self.wiring.hand_to[usize::from(chosen.0)].send(handed) {
                    // Its channel is full: stay.
                    self.wiring.loads.move_place(chosen, own);
                    self.start_session(Stream::from_detached(handed.socket), listener, inbound);
                }
            }
            Err(_) => self.lose(chosen),
        }
    }

    pub(super) fn take_handed(self: &Rc<Self>, inbound: &Rc<Inbound<S>>) -> bool {
        let mut worked = false;
        for _ in 0..ROUND {
            let Ok(Handed { socket, listener }) = self.wiring.handed.try_recv() else { break };
            worked = true;
            self.start_session(Stream::from_detached(socket), listener, inbound);
        }
        worked
    }

    fn start_session(
        self: &Rc<Self>,
        stream: std::io::Result<Stream>,
        listener: ListenerIndex,
        inbound: &Rc<Inbound<S>>,
    ) {
        let load = Load { shard: self.clone() };
        let connected = stream.and_then(|stream| Ok((stream.peer_address()?.ip(), stream)));
        let Ok((peer, stream)) = connected else {
            self.metrics.connections[ConnectionResult::Failed].inc();
            return;
        };
        let listener = inbound.listeners.borrow().policy(listener);
        let refusal = if self.stopping.get() {
            Some(reply::SHUTTING_DOWN)
        } else if self.active_log().fence().reason().is_some() {
            Some(reply::OUT_OF_SERVICE)
        } else if !inbound.admission.open_connection(listener.trusts_at_once(peer)) {
            Some(reply::TOO_MANY_CONNECTIONS)
        } else {
            None
        };
        if inbound.admission.is_scarce() {
            inbound.sessions.cut_slow(net::now().mono);
        }
        let result = if refusal.is_some() { ConnectionResult::Refused } else { ConnectionResult::Accepted };
        self.metrics.connections[result].inc();
        let inbound = inbound.clone();
        net::spawn(async move {
            match refusal {
                None => session::serve(&inbound, &listener, stream, peer).await,
                Some(refusal) => session::refuse(stream, &refusal).await,
            }
            drop(load);
        });
    }

    fn lose(&self, place: ShardIndex) {
        self.wiring.loads.release(place);
        self.metrics.connections[ConnectionResult::Failed].inc();
    }
}
