//! What the sessions of one listener share: the settings of its protocol, its TLS, and who may send what there.

use std::net::IpAddr;
use std::rc::Rc;

use super::policy::RelayRules;
use crate::endpoint::Origin;
use crate::net::listener::Detached;
use crate::net::tls::ServerTls;
use crate::protocol::server::Options;

/// A listener's place among those of the configuration; the same on every shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenerIndex(pub u16);

/// A connection on its way to another shard, with the listener that took it.
#[derive(Debug)]
pub struct Handed {
    /// The connection.
    pub socket: Detached,
    /// Whose policy it has.
    pub listener: ListenerIndex,
}

/// When TLS begins.
#[derive(Clone)]
pub enum Encryption {
    /// Never.
    None,
    /// After STARTTLS, which is offered.
    StartTls(ServerTls),
    /// Before the banner.
    Implicit(ServerTls),
}

/// Says which addresses belong to some networks.
pub type Networks = Box<dyn Fn(IpAddr) -> bool>;

/// A listener's policy. A session keeps the one it began with.
pub struct ListenerPolicy {
    /// Settings of the protocol.
    pub options: Options,
    /// When TLS begins.
    pub encryption: Encryption,
    /// Domains that take mail from anybody.
    pub rules: RelayRules,
    /// Who may relay anywhere.
    pub relay_networks: Networks,
    /// Whether those may who come over a unix socket.
    pub trusts_socket: bool,
    /// Who must begin with a PROXY header.
    pub proxies: Networks,
    /// Who may say by XCLIENT for whom it speaks.
    pub introducers: Networks,
    /// Whether the limits of addresses hold for those who may not relay, and the wait for the banner.
    pub is_limited: bool,
    /// Who may log in without TLS.
    pub cleartext: Networks,
    /// Whose mail it is when nobody has logged in.
    pub tenant: Box<str>,
    /// Header field in which clients that may relay say so; empty is none.
    pub tenant_header: Box<str>,
    /// Header field in which they name the pool of sources; empty is none.
    pub pool_header: Box<str>,
}

impl ListenerPolicy {
    /// Whether a client may relay anywhere, for where it is.
    pub fn trusts(&self, peer: Origin) -> bool {
        match peer {
            Origin::Ip(address) => (self.relay_networks)(address),
            Origin::Socket => self.trusts_socket,
        }
    }

    /// Whether the other end of a connection may relay by its address. For a proxy that is not said yet: the connections
    /// that are kept for those who may are not for whoever comes through it.
    pub fn trusts_at_once(&self, peer: Origin) -> bool {
        self.trusts(peer) && !peer.ip().is_some_and(&self.proxies)
    }

    /// Whether it may log in without TLS. Over a unix socket nobody is between.
    pub fn takes_cleartext(&self, peer: Origin) -> bool {
        peer.ip().is_none_or(&self.cleartext)
    }

    /// To shake hands with in the middle of a session.
    pub fn starttls(&self) -> Option<&ServerTls> {
        match &self.encryption {
            Encryption::StartTls(tls) => Some(tls),
            _ => None,
        }
    }

    /// To shake hands with before the banner.
    pub fn implicit_tls(&self) -> Option<&ServerTls> {
        match &self.encryption {
            Encryption::Implicit(tls) => Some(tls),
            _ => None,
        }
    }
}

/// The policies of all listeners, by index.
pub struct Listeners(Vec<Rc<ListenerPolicy>>);

impl Listeners {
    /// In the order of their indexes.
    pub fn new(policies: Vec<ListenerPolicy>) -> Self {
        Self(policies.into_iter().map(Rc::new).collect())
    }

    /// The policy of a listener.
    pub fn policy(&self, index: ListenerIndex) -> Rc<ListenerPolicy> {
        self.0[usize::from(index.0)].clone()
    }
}
