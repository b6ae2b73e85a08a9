//! PURE. Turns what the DNS said about a domain into a path, canonical and versioned.
//!
//! A path is known by its hosts: all domains whose MX records name the same hosts in the same order of preference share
//! one [`PathId`], whatever the numbers of the preferences. When addresses change, the id stays and the version rises.
//! Ids are for the life of the process. DNS answers are input from strangers: they are capped, and addresses inside the
//! operator's network are refused.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use crate::id::PathId;
use crate::outcome::{Enhanced, Reply};
use crate::routing::{PathHost, PathKind, PathLimits, PathSpec, is_host_name};

/// MX hosts used of one domain; the least preferred beyond it are dropped. RFC 5321 §5.1 asks for two at least.
pub const HOSTS_MAX: usize = 16;
/// Addresses used of one host.
pub const ADDRESSES_MAX: usize = 8;

/// Why there are no records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Missing {
    /// There is no such name (NXDOMAIN).
    Name,
    /// The name has no record of the type.
    Record,
    /// Nobody knows now: SERVFAIL, time-out, no server.
    Unknown(String),
}

/// The hosts that MX records name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exchanges {
    /// At least one: preference and lower-case name, by preference, then name; at most [`HOSTS_MAX`].
    Hosts(Vec<(u16, String)>),
    /// The domain takes no mail (RFC 7505).
    NullMx,
}

/// Reads MX records: preference and name. No records at all mean the domain itself (RFC 5321 §5.1, implicit MX).
pub fn exchanges(domain: &str, records: Vec<(u16, String)>) -> Exchanges {
    if records.is_empty() {
        return Exchanges::Hosts(vec![(0, domain.to_owned())]);
    }
    let name = |name: String| name.trim_end_matches('.').to_ascii_lowercase();
    let mut hosts: Vec<(u16, String)> = records.into_iter().map(|(rank, host)| (rank, name(host))).collect();
    // RFC 7505 allows "." only alone; beside others it says nothing.
    hosts.retain(|(_, host)| !host.is_empty());
    if hosts.is_empty() {
        return Exchanges::NullMx;
    }
    hosts.sort();
    let mut seen = Vec::new();
    hosts.retain(|(_, host)| {
        let new = !seen.contains(host);
        if new && seen.len() <= HOSTS_MAX {
            seen.push(host.clone());
        }
        new && seen.len() <= HOSTS_MAX
    });
    Exchanges::Hosts(hosts)
}

/// One host of a domain and what was found about its addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// MX preference.
    pub preference: u16,
    /// Its name, or an address.
    pub name: String,
    /// Its port.
    pub port: u16,
    /// Its addresses, or why there are none.
    pub addresses: Result<Vec<IpAddr>, Missing>,
}

/// What follows for a domain.
#[derive(Clone, Debug)]
pub enum Decision {
    /// Its mail goes here.
    Path {
        /// Canonical.
        spec: Arc<PathSpec>,
        /// Whether all its hosts were found; else ask again soon.
        complete: bool,
    },
    /// It takes no mail.
    Refused(Reply),
    /// Not known now.
    Delayed(Reply),
}

/// Addresses that MX records may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressRule {
    /// Those of the public internet only: DNS is a stranger's word, and must not reach hosts behind the firewall.
    Public,
    /// Loopback and private ones too: tests, labs, and hosts that the operator named.
    Any,
}

impl AddressRule {
    /// Whether mail may be sent to `address`.
    pub fn allows(self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        if address.is_unspecified() || address.is_multicast() {
            return false;
        }
        match (self, address) {
            (AddressRule::Any, IpAddr::V4(ip)) => !ip.is_broadcast(),
            (AddressRule::Any, IpAddr::V6(_)) => true,
            (AddressRule::Public, IpAddr::V4(ip)) => {
                let [first, second, ..] = ip.octets();
                let shared = first == 100 && second & 0xc0 == 64; // RFC 6598
                !(ip.is_loopback()
                    || ip.is_private()
                    || ip.is_link_local()
                    || shared
                    || first == 0
                    || first >= 240)
            }
            (AddressRule::Public, IpAddr::V6(ip)) => {
                !(ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local() || embeds_ipv4(ip))
            }
        }
    }
}

/// Addresses that a translator turns into IPv4 ones (RFC 6052, RFC 3056): their targets cannot be judged here.
fn embeds_ipv4(ip: Ipv6Addr) -> bool {
    let segments = ip.segments();
    segments[..6] == [0x64, 0xff9b, 0, 0, 0, 0] || segments[0] == 0x2002 || segments[..6] == [0; 6]
}

/// The identity of a path: names and ports in order of preference, the preferences reduced to their order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum PathKey {
    Hosts(Vec<(u16, String, u16)>),
    Discard,
    Hold,
}

/// All paths there are.
#[derive(Debug)]
pub struct PathMap {
    paths: HashMap<PathKey, Arc<PathSpec>, crate::hash::HashState>,
    limits: PathLimits,
    random: Random,
}

impl PathMap {
    /// No paths yet; `seed` decides the order of equals.
    pub fn new(limits: PathLimits, seed: u64) -> Self {
        Self { paths: HashMap::default(), limits, random: Random(seed) }
    }

    /// How many paths there are.
    pub fn len(&self) -> usize {
        self.paths.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }

    /// The path that takes everything as delivered.
    pub fn discard(&mut self) -> Arc<PathSpec> {
        self.fixed(PathKey::Discard, "discard", PathKind::Discard)
    }

    /// The path that keeps everything.
    pub fn hold(&mut self) -> Arc<PathSpec> {
        self.fixed(PathKey::Hold, "hold", PathKind::Hold)
    }

    fn fixed(&mut self, key: PathKey, name: &str, kind: PathKind) -> Arc<PathSpec> {
        let id = self.next_id();
        let limits = self.limits;
        let spec = || Arc::new(PathSpec { id, version: 1, name: name.to_owned(), kind, limits });
        self.paths.entry(key).or_insert_with(spec).clone()
    }

    fn next_id(&self) -> PathId {
        PathId(u32::try_from(self.paths.len()).expect("memory ends before 2^32 paths"))
    }

    /// What follows from `hosts`, which are in order of preference and at most [`HOSTS_MAX`].
    pub fn decide(&mut self, hosts: Vec<Resolved>, rule: AddressRule) -> Decision {
        let key = key_of(&hosts);
        let mut usable = Vec::new();
        let (mut unknown, mut refused) = (None, None);
        for host in hosts {
            if rule == AddressRule::Public && !is_public_name(&host.name) {
                refused.get_or_insert_with(|| host.name.clone());
                continue;
            }
            match host.addresses {
                Ok(mut addresses) => {
                    addresses.sort();
                    addresses.dedup();
                    addresses.retain(|address| rule.allows(*address));
                    addresses.truncate(ADDRESSES_MAX);
                    let (name, port, preference) = (host.name.into_boxed_str(), host.port, host.preference);
                    if addresses.is_empty() {
                        refused.get_or_insert_with(|| name.to_string());
                    } else {
                        usable.push(PathHost { name, port, addresses, preference });
                    }
                }
                Err(Missing::Unknown(why)) => {
                    unknown.get_or_insert((host.name, why));
                }
                Err(Missing::Name | Missing::Record) => {}
            }
        }
        if !usable.is_empty() {
            return Decision::Path { complete: unknown.is_none(), spec: self.smtp(key, usable) };
        }
        match (unknown, refused) {
            (Some((name, why)), _) => Decision::Delayed(dns_trouble(&name, &why)),
            (None, Some(name)) => Decision::Refused(ours(
                Enhanced(5, 4, 4),
                &format!("mail host {name} has no address that mail may be sent to (loopback or private)"),
            )),
            (None, None) => {
                Decision::Refused(ours(Enhanced(5, 4, 4), "none of the domain's mail hosts has an address"))
            }
        }
    }

    /// What follows from an address literal, which is a client's word and no name: only the address is judged.
    pub fn literal(&mut self, host: Resolved, rule: AddressRule) -> Decision {
        let allowed = matches!(&host.addresses, Ok(all) if all.iter().all(|address| rule.allows(*address)));
        if allowed {
            return self.decide(vec![host], AddressRule::Any);
        }
        Decision::Refused(ours(
            Enhanced(5, 4, 4),
            "mail may not be sent to this address (loopback or private)",
        ))
    }

    /// The path with `key`; a new version of it if its addresses are others now.
    fn smtp(&mut self, key: PathKey, hosts: Vec<PathHost>) -> Arc<PathSpec> {
        let known = self.paths.get(&key);
        if let Some(spec) = known
            && same_addresses(spec, &hosts)
        {
            return spec.clone();
        }
        let (id, version) =
            known.map_or((self.next_id(), 1), |spec| (spec.id, spec.version.saturating_add(1)));
        let name = match &key {
            PathKey::Hosts(all) if all.len() > 1 => format!("{}+{}", label(&all[0]), all.len() - 1),
            PathKey::Hosts(all) => label(&all[0]),
            PathKey::Discard | PathKey::Hold => unreachable!("only hosts come here"),
        };
        let hosts = self.random.ordered(hosts);
        let spec =
            Arc::new(PathSpec { id, version, name, kind: PathKind::Smtp { hosts }, limits: self.limits });
        self.paths.insert(key, spec.clone());
        spec
    }
}

/// Name of a host in logs and metrics; the port only if it is not the usual one. A host whose name is none can be part of a
/// path's identity, and its name a stranger's attempt at a line of ours.
fn label((_, name, port): &(u16, String, u16)) -> String {
    let name = name.replace(char::is_control, "?");
    match (port, name.contains(':')) {
        (25, _) => name,
        (_, true) => format!("[{name}]:{port}"),
        (_, false) => format!("{name}:{port}"),
    }
}

fn key_of(hosts: &[Resolved]) -> PathKey {
    let (mut order, mut last) = (0, None);
    let ranked = hosts.iter().map(|host| {
        order += u16::from(last.is_some_and(|last| last != host.preference));
        last = Some(host.preference);
        (order, host.name.clone(), host.port)
    });
    PathKey::Hosts(ranked.collect())
}

/// Whether a name that strangers give can be on the public internet.
fn is_public_name(name: &str) -> bool {
    name.parse::<IpAddr>().is_err()
        && is_host_name(name)
        && name != "localhost"
        && !name.ends_with(".localhost")
}

/// Whether `spec` has just these hosts and addresses, in whatever order.
fn same_addresses(spec: &PathSpec, hosts: &[PathHost]) -> bool {
    let PathKind::Smtp { hosts: known } = &spec.kind else { return false };
    known.len() == hosts.len()
        && hosts.iter().all(|host| {
            known.iter().any(|other| {
                other.name == host.name
                    && other.addresses.len() == host.addresses.len()
                    && host.addresses.iter().all(|address| other.addresses.contains(address))
            })
        })
}

fn ours(enhanced: Enhanced, text: &str) -> Reply {
    Reply::new(0, enhanced, text)
}

/// The domain says that it takes no mail (RFC 7505 §4.2).
pub fn null_mx() -> Reply {
    ours(Enhanced(5, 1, 10), "the domain does not accept mail (null MX)")
}

/// There is no such domain, or nothing in it that mail could be sent to.
pub fn no_such_domain() -> Reply {
    ours(Enhanced(5, 1, 2), "no such domain, or it has neither MX nor address records")
}

/// The DNS gave no answer.
pub fn dns_trouble(name: &str, why: &str) -> Reply {
    ours(Enhanced(4, 4, 3), &format!("DNS lookup of {name} failed: {why}"))
}

/// Small generator (splitmix64) for orders that nobody must be able to rely on, and nothing secret hangs on.
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// `hosts` by preference, equals in random order (RFC 5321 §5.1), and addresses too: IPv4 before IPv6, which
    /// fewer senders have a reputation on.
    fn ordered(&mut self, mut hosts: Vec<PathHost>) -> Vec<PathHost> {
        hosts.sort_by_cached_key(|host| (host.preference, self.next()));
        for host in &mut hosts {
            host.addresses.sort_by_cached_key(|address| (address.is_ipv6(), self.next()));
        }
        hosts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn map() -> PathMap {
        let limits = PathLimits {
            connections: 1,
            messages_per_connection: 1,
            recipients_per_transaction: 1,
            window: 1,
            idle: Duration::from_secs(1),
            connection_rate: None,
            message_rate: None,
        };
        PathMap::new(limits, 1)
    }

    /// `preference name address,address`; an address may be `nx`, `none` or `fail`.
    fn hosts(texts: &[&str]) -> Vec<Resolved> {
        let host = |text: &&str| {
            let words: Vec<&str> = text.split(' ').collect();
            let addresses = match words[2] {
                "nx" => Err(Missing::Name),
                "none" => Err(Missing::Record),
                "fail" => Err(Missing::Unknown("SERVFAIL".into())),
                list => Ok(list.split(',').map(|a| a.parse().expect("test address")).collect()),
            };
            Resolved {
                preference: words[0].parse().expect("number"),
                name: words[1].into(),
                port: 25,
                addresses,
            }
        };
        texts.iter().map(host).collect()
    }

    fn path(map: &mut PathMap, texts: &[&str]) -> Arc<PathSpec> {
        match map.decide(hosts(texts), AddressRule::Public) {
            Decision::Path { spec, .. } => spec,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_name_that_is_none_cannot_break_a_line_of_a_log() {
        let bad = (10, "a\r\nb".to_owned(), 25);
        assert_eq!(label(&bad), "a??b");
    }

    #[test]
    fn mx_records_become_hosts_in_order_without_repeats() {
        let check = |records: &[(u16, &str)], want: &[(u16, &str)]| {
            let records = records.iter().map(|(rank, name)| (*rank, (*name).to_owned())).collect();
            let want = want.iter().map(|(rank, name)| (*rank, (*name).to_owned())).collect();
            assert_eq!(exchanges("d.example", records), Exchanges::Hosts(want));
        };
        check(&[], &[(0, "d.example")]);
        check(&[(20, "b."), (10, "A.example.")], &[(10, "a.example"), (20, "b")]);
        check(&[(20, "a."), (10, "A.")], &[(10, "a")]);
        check(&[(0, "."), (10, "a.")], &[(10, "a")]);
        assert_eq!(exchanges("d.example", vec![(0, ".".into())]), Exchanges::NullMx);
    }

    #[test]
    fn more_hosts_than_allowed_lose_the_least_preferred() {
        let records = (0..40u16).rev().map(|rank| (rank, format!("mx{rank}."))).collect();
        let Exchanges::Hosts(hosts) = exchanges("d.example", records) else { panic!("not null") };
        assert_eq!(hosts.len(), HOSTS_MAX);
        assert_eq!(hosts.last().map(|(rank, _)| *rank), Some(15));
    }

    #[test]
    fn domains_with_the_same_hosts_share_a_path_whatever_the_numbers() {
        let mut map = map();
        let first = path(&mut map, &["10 a 192.0.2.1", "20 b 192.0.2.2"]);
        let same = path(&mut map, &["1 a 192.0.2.1", "2 b 192.0.2.2"]);
        assert!(Arc::ptr_eq(&first, &same));
        let equal_rank = path(&mut map, &["1 a 192.0.2.1", "1 b 192.0.2.2"]);
        assert_ne!(first.id, equal_rank.id);
        assert_eq!((first.name.as_str(), map.len()), ("a+1", 2));
    }

    #[test]
    fn new_addresses_raise_the_version_and_another_order_does_not() {
        let mut map = map();
        let first = path(&mut map, &["1 a 192.0.2.1,192.0.2.2"]);
        let turned = path(&mut map, &["1 a 192.0.2.2,192.0.2.1,192.0.2.1"]);
        assert!(Arc::ptr_eq(&first, &turned));
        let moved = path(&mut map, &["1 a 192.0.2.3"]);
        assert_eq!((moved.id, moved.version), (first.id, 2));
    }

    #[test]
    fn a_host_that_is_not_known_now_leaves_the_path_its_identity() {
        let mut map = map();
        let whole = path(&mut map, &["1 a 192.0.2.1", "2 b 192.0.2.2"]);
        match map.decide(hosts(&["1 a fail", "2 b 192.0.2.2"]), AddressRule::Public) {
            Decision::Path { spec, complete: false } => assert_eq!((spec.id, spec.version), (whole.id, 2)),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn without_a_usable_host_doubt_delays_and_certainty_refuses() {
        let check = |texts: &[&str], want: Option<Enhanced>| {
            let refused = match map().decide(hosts(texts), AddressRule::Public) {
                Decision::Refused(reply) => Some(reply.enhanced),
                Decision::Delayed(reply) => {
                    assert_eq!(reply.enhanced, Enhanced(4, 4, 3));
                    None
                }
                Decision::Path { spec, .. } => panic!("{texts:?}: {spec:?}"),
            };
            assert_eq!(refused, want, "{texts:?}");
        };
        check(&["1 a nx", "2 b none"], Some(Enhanced(5, 4, 4)));
        check(&["1 a fail", "2 b none"], None);
        check(&["1 a 127.0.0.1", "2 b fail"], None);
        check(&["1 a 10.0.0.1,::1"], Some(Enhanced(5, 4, 4)));
        check(&["1 localhost 192.0.2.1"], Some(Enhanced(5, 4, 4)));
        check(&["1 192.0.2.1 192.0.2.1"], Some(Enhanced(5, 4, 4)));
    }

    #[test]
    fn only_public_addresses_may_be_named_by_strangers() {
        let check = |address: &str, public: bool, any: bool| {
            let ip = address.parse().expect("test address");
            assert_eq!(
                (AddressRule::Public.allows(ip), AddressRule::Any.allows(ip)),
                (public, any),
                "{address}"
            );
        };
        check("192.0.2.1", true, true);
        check("2001:db8::1", true, true);
        for inside in [
            "127.0.0.1",
            "10.1.2.3",
            "172.31.0.1",
            "192.168.1.1",
            "169.254.1.1",
            "100.64.0.1",
            "::1",
            "fd00::1",
            "fe80::1",
            "::ffff:127.0.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "::7f00:1",
            "0.1.2.3",
            "240.0.0.1",
        ] {
            check(inside, false, true);
        }
        for nowhere in ["0.0.0.0", "::", "224.0.0.1", "ff02::1", "255.255.255.255", "::ffff:0.0.0.0"] {
            check(nowhere, false, false);
        }
        check("100.128.0.1", true, true);
        check("172.32.0.1", true, true);
    }

    #[test]
    fn hosts_are_tried_by_preference_and_equals_in_any_order() {
        let mut firsts = std::collections::BTreeSet::new();
        for seed in 0..32 {
            let mut map = PathMap { random: Random(seed), ..map() };
            let spec = path(&mut map, &["1 a 192.0.2.1", "1 b 192.0.2.2", "2 c 2001:db8::1,192.0.2.3"]);
            let PathKind::Smtp { hosts } = &spec.kind else { panic!("not SMTP") };
            assert_eq!(&*hosts[2].name, "c");
            assert!(hosts[2].addresses[0].is_ipv4());
            firsts.insert(hosts[0].name.clone());
        }
        assert_eq!(firsts.len(), 2);
    }

    #[test]
    fn fixed_paths_are_made_once() {
        let mut map = map();
        assert!(Arc::ptr_eq(&map.hold(), &map.hold()));
        assert_ne!(map.discard().id, map.hold().id);
    }
}
