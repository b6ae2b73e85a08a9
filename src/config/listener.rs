//! PURE. A place where mail is taken, with its own policy: the `[[listener]]` tables of a file.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::options::{Config, Network};
use crate::users::Fingerprint;

/// What a listener is for; it decides who may send what there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ListenerKind {
    /// For injectors: clients of the relay networks may send to any domain, others to the relay domains.
    #[default]
    Relay,
    /// For users (RFC 6409), with STARTTLS.
    Submission,
    /// For users, TLS from the first byte (RFC 8314).
    Submissions,
    /// For other mail exchangers: our domains only, whoever the client is.
    Mx,
}

/// One `[[listener]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Where.
    pub address: SocketAddr,
    /// What for.
    pub kind: ListenerKind,
    /// Its own relay networks; without them a relay has those of `smtp`, and the other kinds none.
    pub relay_networks: Option<Vec<Network>>,
    /// Its own proxies with PROXY headers; without them those of `smtp`.
    pub proxy_networks: Option<Vec<Network>>,
    /// Its own proxies with XCLIENT; likewise.
    pub xclient_networks: Option<Vec<Network>>,
    /// Whether the limits of addresses hold, and the wait for the banner.
    pub limits: bool,
    /// Clients with these certificates may relay too.
    pub relay_certificates: Vec<Fingerprint>,
    /// Whose mail it is when nobody has logged in; empty is nobody's.
    pub tenant: String,
    /// Header field in which clients of the relay networks say whose mail it is; empty is none.
    pub tenant_header: String,
}

impl Default for Listener {
    fn default() -> Self {
        let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 2587);
        Self {
            address,
            kind: ListenerKind::Submission,
            relay_networks: None,
            proxy_networks: None,
            xclient_networks: None,
            limits: true,
            relay_certificates: Vec::new(),
            tenant: String::new(),
            tenant_header: String::new(),
        }
    }
}

impl Config {
    /// Every listener, in the order of their indexes: the addresses of `smtp.listen`, which are relays, then the tables.
    /// What a table leaves to `smtp` is filled in.
    pub fn listeners(&self) -> Vec<Listener> {
        let relay = |address: &SocketAddr| Listener {
            address: *address,
            kind: ListenerKind::Relay,
            ..Listener::default()
        };
        let plain = self.smtp.listen.iter().map(relay);
        let complete = |mut listener: Listener| {
            let own = listener.relay_networks.take();
            listener.relay_networks = own.or_else(|| match listener.kind {
                ListenerKind::Relay => Some(self.smtp.relay_networks.clone()),
                _ => None,
            });
            listener.proxy_networks.get_or_insert_with(|| self.smtp.proxy_networks.clone());
            listener.xclient_networks.get_or_insert_with(|| self.smtp.xclient_networks.clone());
            listener
        };
        plain.chain(self.listeners.iter().cloned()).map(complete).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_relays_inherit_the_relay_networks() {
        let file = "[smtp]\nlisten = ['127.0.0.1:25']\nrelay_networks = ['10.0.0.0/8']\n\
                    [[listener]]\naddress = '127.0.0.1:26'\nkind = 'mx'\n\
                    [[listener]]\naddress = '[::1]:587'\nkind = 'relay'\nrelay_networks = ['192.0.2.1']\n";
        let listeners = Config::parse(file).expect("valid").listeners();
        let networks = |nth: usize| {
            let networks = listeners[nth].relay_networks.iter().flatten();
            networks.map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(networks(0), ["10.0.0.0/8"]);
        assert!(networks(1).is_empty(), "an mx must not take mail for other domains");
        assert_eq!(networks(2), ["192.0.2.1/32"]);
    }
}
