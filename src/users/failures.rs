//! PURE. Limits of failed logins: by address, against guessing; by user, against guessing from many addresses.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use crate::clock::Moment;
use crate::endpoint::Origin;
use crate::hash::HashState;

/// Names and addresses that are remembered, of each kind: an attacker with many must not fill the memory.
const REMEMBERED_MAX: usize = 16 * 1024;

/// The bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailureLimits {
    /// Failures within the window after which an address must wait; of IPv6 a /64 counts as one.
    pub by_address: u32,
    /// Likewise for a user: higher, since anybody can make a user wait by it.
    pub by_user: u32,
    /// How long failures are remembered, from the first of them on.
    pub window: Duration,
}

/// Failures of late.
pub struct Failures {
    limits: FailureLimits,
    by_address: HashMap<IpAddr, Count, HashState>,
    by_user: HashMap<Box<str>, Count, HashState>,
}

#[derive(Clone, Copy)]
struct Count {
    since: Moment,
    failures: u32,
}

impl Failures {
    /// None yet.
    pub fn new(limits: FailureLimits) -> Self {
        Self { limits, by_address: HashMap::default(), by_user: HashMap::default() }
    }

    /// Whether a try may be looked at.
    pub fn allow(&self, peer: Origin, user: &str, now: Moment) -> bool {
        let count = |count: Option<&Count>| {
            let fresh = count.filter(|count| now.since(count.since) < self.limits.window);
            fresh.map_or(0, |count| count.failures)
        };
        peer.ip().is_none_or(|peer| count(self.by_address.get(&network(peer))) < self.limits.by_address)
            && count(self.by_user.get(user)) < self.limits.by_user
    }

    /// A try has failed.
    pub fn failed(&mut self, peer: Origin, user: &str, now: Moment) {
        if let Some(peer) = peer.ip() {
            add(&mut self.by_address, network(peer), now, self.limits.window);
        }
        add(&mut self.by_user, user.into(), now, self.limits.window);
    }
}

fn add<K: Hash + Eq>(counts: &mut HashMap<K, Count, HashState>, key: K, now: Moment, window: Duration) {
    if counts.len() >= REMEMBERED_MAX && !counts.contains_key(&key) {
        counts.retain(|_, count| now.since(count.since) < window);
        // Still full: the oldest half goes, so that this is rare.
        if counts.len() >= REMEMBERED_MAX {
            let mut ages: Vec<Moment> = counts.values().map(|count| count.since).collect();
            ages.sort_unstable();
            let middle = ages[ages.len() / 2];
            counts.retain(|_, count| count.since > middle);
        }
    }
    let count = counts.entry(key).or_insert(Count { since: now, failures: 0 });
    if now.since(count.since) >= window {
        *count = Count { since: now, failures: 0 };
    }
    count.failures = count.failures.saturating_add(1);
}

/// Whoever has one address of a /64 has all of it.
fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: FailureLimits =
        FailureLimits { by_address: 2, by_user: 3, window: Duration::from_secs(60) };

    fn at(second: u64) -> Moment {
        Moment(second * 1_000_000)
    }

    fn peer(last: u16) -> Origin {
        IpAddr::from([0x2001, 0xdb8, 0, last, 1, 2, 3, last]).into()
    }

    #[test]
    fn an_address_waits_after_its_failures_until_the_window_has_passed() {
        let mut failures = Failures::new(LIMITS);
        failures.failed(peer(1), "a", at(0));
        assert!(failures.allow(peer(1), "b", at(1)));
        failures.failed(peer(1), "b", at(1));
        assert!(!failures.allow(peer(1), "c", at(59)), "whatever the user");
        assert!(failures.allow(peer(2), "c", at(59)), "another address");
        assert!(failures.allow(peer(1), "c", at(60)));
        failures.failed(peer(1), "c", at(60));
        assert!(failures.allow(peer(1), "c", at(61)), "the count began anew");
    }

    #[test]
    fn a_user_waits_after_failures_from_many_addresses() {
        let mut failures = Failures::new(LIMITS);
        for nth in 0..3 {
            assert!(failures.allow(peer(nth), "a", at(0)));
            failures.failed(peer(nth), "a", at(0));
        }
        assert!(!failures.allow(peer(9), "a", at(1)));
        assert!(failures.allow(peer(9), "b", at(1)));
    }

    #[test]
    fn a_prefix_of_64_bits_is_one_address() {
        let mut failures = Failures::new(LIMITS);
        for last in 1..=2 {
            failures.failed(IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, last]).into(), "a", at(0));
        }
        assert!(!failures.allow(IpAddr::from([0x2001, 0xdb8, 0, 0, 9, 9, 9, 9]).into(), "b", at(0)));
    }

    #[test]
    fn many_addresses_are_forgotten_in_part_and_never_grow_beyond_the_bound() {
        let mut failures = Failures::new(LIMITS);
        for nth in 0..3 * REMEMBERED_MAX as u32 {
            failures.failed(IpAddr::from(nth.to_be_bytes()).into(), "a", Moment(u64::from(nth)));
        }
        assert!(failures.by_address.len() <= REMEMBERED_MAX);
        assert!(
            failures.by_address.contains_key(&IpAddr::from((3 * REMEMBERED_MAX as u32 - 1).to_be_bytes()))
        );
    }
}
