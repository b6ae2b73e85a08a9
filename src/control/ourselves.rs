//! Which mail hosts are this relay: mail for a domain that leads back here would go round for ever.
//!
//! A host is ours if something of ours listens on its port, and it has our name or one of our addresses. A listener on all
//! addresses has those of the host's interfaces, which are looked at anew each time: they may come and go.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};

use nix::ifaddrs::getifaddrs;

use super::path_map::Resolved;
use crate::config::Config;

/// How we know ourselves.
#[derive(Clone, Debug)]
pub(super) struct Ourselves {
    /// Lower case.
    names: Vec<String>,
    listeners: Vec<SocketAddr>,
}

impl Ourselves {
    /// The relay that is configured like this.
    pub(super) fn new(config: &Config) -> Self {
        let names = [&config.smtp.hostname, &config.delivery.ehlo_name];
        Self {
            names: names
                .into_iter()
                .filter(|name| !name.is_empty())
                .map(|name| name.to_lowercase())
                .collect(),
            listeners: config.listeners().iter().map(|listener| listener.address).collect(),
        }
    }

    /// Whether `host` is this relay.
    pub(super) fn is(&self, host: &Resolved) -> bool {
        let mut here = self.listeners.iter().filter(|listener| listener.port() == host.port).peekable();
        if here.peek().is_none() {
            return false;
        }
        if self.names.contains(&host.name) {
            return true;
        }
        let Ok(addresses) = &host.addresses else { return false };
        here.any(|listener| match listener.ip().to_canonical() {
            all if all.is_unspecified() => {
                let own = own_addresses();
                let reaches = |ip: &IpAddr| ip.is_ipv4() || all.is_ipv6();
                addresses.iter().any(|ip| reaches(ip) && is_own(ip.to_canonical(), &own))
            }
            one => addresses.iter().any(|ip| ip.to_canonical() == one),
        })
    }
}

fn is_own(address: IpAddr, own: &HashSet<IpAddr>) -> bool {
    address.is_loopback() || own.contains(&address)
}

/// Addresses of this host's interfaces; none if the system does not say.
fn own_addresses() -> HashSet<IpAddr> {
    let interfaces = getifaddrs().into_iter().flatten();
    let addresses = interfaces.filter_map(|interface| interface.address).filter_map(|address| {
        let four = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
        four.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
    });
    addresses.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn is_ours(listen: &str, host: &str, port: u16, address: &str) -> bool {
        let file = format!("[smtp]\nhostname = 'Relay.test'\nlisten = ['{listen}']\n");
        let ourselves = Ourselves::new(&Config::parse(&file).expect("valid"));
        let addresses = Ok(vec![address.parse().expect("address")]);
        ourselves.is(&Resolved { preference: 0, name: host.into(), port, addresses })
    }

    #[test]
    fn a_host_is_ours_by_name_or_address_where_we_listen() {
        assert!(is_ours("192.0.2.1:25", "relay.test", 25, "198.51.100.1"), "behind a translator");
        assert!(is_ours("192.0.2.1:25", "mx.test", 25, "192.0.2.1"));
        assert!(is_ours("0.0.0.0:25", "mx.test", 25, "127.0.0.1"));
        assert!(is_ours("[::]:25", "mx.test", 25, "127.0.0.1"), "a listener of both families");
        assert!(is_ours("[::]:25", "mx.test", 25, "::1"));
        assert!(!is_ours("192.0.2.1:25", "mx.test", 25, "192.0.2.2"));
        assert!(!is_ours("0.0.0.0:25", "mx.test", 25, "198.51.100.99"));
        assert!(!is_ours("0.0.0.0:25", "mx.test", 25, "::1"), "nothing of ours is there");
        // Another program may be the domain's mail exchanger, on this host and under its name.
        assert!(!is_ours("192.0.2.1:2525", "relay.test", 25, "192.0.2.1"));
    }

    #[test]
    fn the_addresses_of_interfaces_are_found() {
        assert!(own_addresses().iter().any(IpAddr::is_loopback), "{:?}", own_addresses());
    }
}
