//! PURE. In which order a connection tries the hosts of its path.
//!
//! By preference, equals in an order of the connection's own (RFC 5321 §5.1), so that load spreads; of a host IPv4 before
//! IPv6, which fewer senders have a reputation on. What could not be reached of late comes last: a dead host costs its
//! time-out once in a while, not once a connection.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use crate::clock::Moment;
use crate::hash::HashState;
use crate::outcome::Reply;
use crate::routing::PathHost;

/// How long an address that could not be reached is tried last.
const DEAD_FOR: Duration = Duration::from_secs(60);
/// Dead addresses that are remembered; more than so many at once mean that it is us who cannot reach anybody.
const DEAD_MAX: usize = 4096;

/// What a worker remembers of addresses that could not be reached.
#[derive(Debug, Default)]
pub struct DeadHosts {
    /// Until when, and what happened.
    until: HashMap<SocketAddr, (Moment, Reply), HashState>,
}

impl DeadHosts {
    /// It could not be reached, or sent us away before any command.
    pub fn failed(&mut self, address: SocketAddr, why: &Reply, now: Moment) {
        if self.until.len() >= DEAD_MAX && !self.until.contains_key(&address) {
            self.until.retain(|_, (until, _)| *until > now);
            if self.until.len() >= DEAD_MAX {
                return;
            }
        }
        self.until.insert(address, (now + DEAD_FOR, why.clone()));
    }

    /// What happened at the best of `hosts`, if of late none of their addresses could be reached.
    pub fn why_all_dead(&self, hosts: &[PathHost], now: Moment) -> Option<&Reply> {
        let addresses =
            hosts.iter().flat_map(|host| host.addresses.iter().map(|ip| SocketAddr::new(*ip, host.port)));
        let mut whys = addresses.map(|address| self.why_dead(address, now));
        let best = whys.next()??;
        whys.all(|why| why.is_some()).then_some(best)
    }

    fn why_dead(&self, address: SocketAddr, now: Moment) -> Option<&Reply> {
        self.until.get(&address).filter(|(until, _)| *until > now).map(|(_, why)| why)
    }

    /// It took a session.
    pub fn answered(&mut self, address: SocketAddr) {
        self.until.remove(&address);
    }

    /// Hosts, by their place in `hosts`, and addresses in the order to try; `seed` decides between equals.
    pub fn order(&self, hosts: &[PathHost], seed: u64, now: Moment) -> Vec<(usize, SocketAddr)> {
        let mut all: Vec<(usize, SocketAddr)> = Vec::new();
        for (place, host) in hosts.iter().enumerate() {
            all.extend(host.addresses.iter().map(|address| (place, SocketAddr::new(*address, host.port))));
        }
        let mut nth = 0;
        all.sort_by_cached_key(|(place, address)| {
            nth += 1;
            let is_dead = self.why_dead(*address, now).is_some();
            let host = (hosts[*place].preference, mixed(seed, *place as u64));
            (is_dead, host, address.is_ipv6(), mixed(seed, !nth))
        });
        all
    }
}

/// splitmix64: for orders that nobody must rely on, and nothing secret hangs on.
fn mixed(seed: u64, nth: u64) -> u64 {
    let mixed =
        seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(nth.wrapping_mul(0xd134_2543_de82_ef95));
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Enhanced;
    use std::collections::BTreeSet;

    fn host(preference: u16, addresses: &[&str]) -> PathHost {
        let addresses = addresses.iter().map(|address| address.parse().expect("address")).collect();
        PathHost { name: "mx.test".into(), port: 25, addresses, preference }
    }

    fn order(dead: &DeadHosts, hosts: &[PathHost], seed: u64, now: Moment) -> Vec<String> {
        dead.order(hosts, seed, now).iter().map(|(_, address)| address.ip().to_string()).collect()
    }

    #[test]
    fn hosts_are_tried_by_preference_and_equals_in_any_order() {
        let hosts = [
            host(1, &["192.0.2.1"]),
            host(1, &["192.0.2.2"]),
            host(2, &["2001:db8::1", "192.0.2.3", "192.0.2.4"]),
        ];
        let (mut firsts, mut thirds) = (BTreeSet::new(), BTreeSet::new());
        for seed in 0..64 {
            let order = order(&DeadHosts::default(), &hosts, seed, Moment(0));
            assert_eq!(order[4], "2001:db8::1");
            firsts.insert(order[0].clone());
            thirds.insert(order[2].clone());
        }
        assert_eq!(firsts.into_iter().collect::<Vec<_>>(), ["192.0.2.1", "192.0.2.2"]);
        assert_eq!(thirds.into_iter().collect::<Vec<_>>(), ["192.0.2.3", "192.0.2.4"]);
    }

    #[test]
    fn a_dead_host_is_tried_last_for_a_while() {
        let hosts = [host(1, &["192.0.2.1"]), host(2, &["192.0.2.2"])];
        let first = SocketAddr::new(hosts[0].addresses[0], 25);
        let mut dead = DeadHosts::default();
        let why = Reply::new(0, Enhanced(4, 7, 4), "no TLS");
        dead.failed(first, &why, Moment(0));
        assert_eq!(dead.why_all_dead(&hosts[..1], Moment(0)), Some(&why));
        assert_eq!(dead.why_all_dead(&hosts, Moment(0)), None);
        assert_eq!(dead.why_all_dead(&hosts[..1], Moment(0) + DEAD_FOR), None);
        assert_eq!(order(&dead, &hosts, 1, Moment(0)), ["192.0.2.2", "192.0.2.1"]);
        assert_eq!(order(&dead, &hosts, 1, Moment(0) + DEAD_FOR), ["192.0.2.1", "192.0.2.2"]);
        dead.answered(first);
        assert_eq!(order(&dead, &hosts, 1, Moment(0)), ["192.0.2.1", "192.0.2.2"]);
    }

    #[test]
    fn no_number_of_dead_hosts_fills_the_memory() {
        let mut dead = DeadHosts::default();
        let address = |nth: usize| SocketAddr::from(([10, 0, (nth >> 8) as u8, nth as u8], 25));
        let why = Reply::new(0, Enhanced(4, 4, 1), "gone");
        (0..2 * DEAD_MAX).for_each(|nth| dead.failed(address(nth), &why, Moment(0)));
        assert_eq!(dead.until.len(), DEAD_MAX);
        dead.failed(address(2 * DEAD_MAX), &why, Moment(0) + DEAD_FOR);
        assert_eq!(dead.until.len(), 1, "those that have ended make room");
    }
}
