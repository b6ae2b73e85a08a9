//! PURE. Turns what the DNS said about a domain into a path, canonical and versioned.
//!
//! A path is known by its hosts: all domains whose MX records name the same hosts in the same order of preference share
//! one [`PathId`], whatever the numbers of the preferences; and all that the same sites match, whatever their hosts, which
//! then go with each domain. When addresses change, the id stays and the version rises.
//! Ids are for the life of the process. DNS answers are input from strangers: they are capped, and addresses inside the
//! operator's network are refused.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use crate::id::PathId;
use crate::outcome::{Enhanced, Reply};
use crate::routing::site::{Destination, Ruling, Sites};
use crate::routing::source::SourcePool;
use crate::routing::{DomainHosts, PathHost, PathKind, PathLimits, PathSpec, Target, Way, is_host_name};

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

/// Cuts a list of MX hosts, in order of preference, before the first that `is_ours`: we are in the list to pass mail on to
/// those before us, and sent to one behind us or as good as us it would come back (RFC 5321 §5.1). Whether it was cut.
pub fn cut_at_ourselves(hosts: &mut Vec<Resolved>, is_ours: impl Fn(&Resolved) -> bool) -> bool {
    let own = hosts.iter().filter(|host| is_ours(host)).map(|host| host.preference).min();
    if let Some(own) = own {
        hosts.retain(|host| host.preference < own);
    }
    own.is_some()
}

/// What follows for a domain.
#[derive(Clone, Debug)]
pub enum Decision {
    /// Its mail goes here.
    Path {
        /// Canonical.
        spec: Arc<PathSpec>,
        /// The domain's own hosts, canonical, if it shares the path of a site.
        hosts: Option<DomainHosts>,
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

/// Names and ports of hosts in order of preference, the preferences reduced to their order.
type HostsKey = Vec<(u16, String, u16)>;

/// The identity of a path: how its hosts are known, and which they are or what sites they belong to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum PathKey {
    Hosts(Way, HostsKey),
    /// Likewise, for hosts of a route that speak LMTP, by the sites that rule them.
    Lmtp(String, Way, HostsKey),
    /// A target on this host, likewise.
    Local(String, Target),
    Sites(Way, String),
    Discard,
    Hold,
}

/// What a path is wanted for.
#[derive(Clone, Debug)]
pub struct Asked<'a> {
    /// The recipient domain, lower case.
    pub domain: &'a str,
    /// Its route.
    pub target: &'a Target,
    /// The pool that its mail leaves by.
    pub pool: Arc<SourcePool>,
}

/// All paths there are.
#[derive(Debug)]
pub struct PathMap {
    /// By pool and destination.
    paths: HashMap<(Box<str>, PathKey), Arc<PathSpec>, crate::hash::HashState>,
    /// Of domains that share the paths of sites.
    hosts: HashMap<HostsKey, DomainHosts, crate::hash::HashState>,
    sites: Sites,
}

impl PathMap {
    /// No paths yet.
    pub fn new(sites: Sites) -> Self {
        Self { paths: HashMap::default(), hosts: HashMap::default(), sites }
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
        self.fixed(&Arc::default(), PathKey::Discard, "discard", PathKind::Discard, self.sites.delivery())
    }

    /// The path of `domain`, whose route `target` ends on this host.
    pub fn local(&mut self, domain: &str, target: &Target, kind: PathKind) -> Arc<PathSpec> {
        let Ruling { sites, limits } =
            self.sites.ruling(Destination { domain, target, mx: &[], sources: &[] });
        let name = if sites.is_empty() { target.to_string() } else { sites.clone() };
        self.fixed(&Arc::default(), PathKey::Local(sites, target.clone()), &name, kind, limits)
    }

    /// The path that keeps everything.
    pub fn hold(&mut self) -> Arc<PathSpec> {
        self.fixed(&Arc::default(), PathKey::Hold, "hold", PathKind::Hold, self.sites.delivery())
    }

    /// The path with `key`, which never changes.
    fn fixed(
        &mut self,
        pool: &Arc<SourcePool>,
        key: PathKey,
        name: &str,
        kind: PathKind,
        limits: PathLimits,
    ) -> Arc<PathSpec> {
        let id = self.next_id();
        let (name, pool) = (named(name.to_owned(), pool), pool.clone());
        let key = (pool.name.as_str().into(), key);
        let spec = || Arc::new(PathSpec { id, version: 1, name, kind, limits, pool });
        self.paths.entry(key).or_insert_with(spec).clone()
    }

    fn next_id(&self) -> PathId {
        PathId(u32::try_from(self.paths.len()).expect("memory ends before 2^32 paths"))
    }

    /// What follows from `hosts`, which are in order of preference and at most [`HOSTS_MAX`].
    pub fn decide(&mut self, asked: &Asked<'_>, hosts: Vec<Resolved>, rule: AddressRule) -> Decision {
        let names = hosts.iter().map(|host| host.name.as_str());
        let mx: Vec<&str> = if *asked.target == Target::Mx { names.collect() } else { Vec::new() };
        let sources: Vec<&str> = asked.pool.members.iter().map(|(source, _)| source.name.as_str()).collect();
        let Asked { domain, target, .. } = *asked;
        let Ruling { sites, limits } =
            self.sites.ruling(Destination { domain, target, mx: &mx, sources: &sources });
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
            let complete = unknown.is_none();
            // A route by LMTP has hosts of its own in any case.
            if sites.is_empty() || matches!(target, Target::Lmtp { .. }) {
                return Decision::Path {
                    spec: self.path_to(asked, sites, key, usable, limits),
                    hosts: None,
                    complete,
                };
            }
            let shared = PathKind::Smtp { hosts: Vec::new() };
            let spec = self.fixed(
                &asked.pool,
                PathKey::Sites(limits.security.way, sites.clone()),
                &sites,
                shared,
                limits,
            );
            return Decision::Path { spec, hosts: Some(self.canonical(key, usable)), complete };
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
    pub fn literal(&mut self, asked: &Asked<'_>, host: Resolved, rule: AddressRule) -> Decision {
        let allowed = matches!(&host.addresses, Ok(all) if all.iter().all(|address| rule.allows(*address)));
        if allowed {
            return self.decide(asked, vec![host], AddressRule::Any);
        }
        Decision::Refused(ours(
            Enhanced(5, 4, 4),
            "mail may not be sent to this address (loopback or private)",
        ))
    }

    /// The hosts with `key`, in the one allocation that there is of them unless their addresses are others now.
    fn canonical(&mut self, key: HostsKey, hosts: Vec<PathHost>) -> DomainHosts {
        if let Some(known) = self.hosts.get(&key)
            && same_addresses(known, &hosts)
        {
            return known.clone();
        }
        let hosts = DomainHosts::from(hosts);
        self.hosts.insert(key, hosts.clone());
        hosts
    }

    /// The path with these hosts; a new version of it if their addresses are others now.
    fn path_to(
        &mut self,
        asked: &Asked<'_>,
        sites: String,
        key: HostsKey,
        hosts: Vec<PathHost>,
        limits: PathLimits,
    ) -> Arc<PathSpec> {
        let is_lmtp = matches!(asked.target, Target::Lmtp { .. });
        let name = match key.as_slice() {
            [one] if is_lmtp => format!("lmtp://{}", label(one)),
            [one] => label(one),
            all => format!("{}+{}", label(&all[0]), all.len() - 1),
        };
        let (pool, way) = (asked.pool.clone(), limits.security.way);
        let (key, kind) = match is_lmtp {
            true => (PathKey::Lmtp(sites, way, key), PathKind::Lmtp { hosts }),
            false => (PathKey::Hosts(way, key), PathKind::Smtp { hosts }),
        };
        let key = (pool.name.as_str().into(), key);
        let known = self.paths.get(&key);
        if let Some(spec) = known
            && have_same_hosts(&spec.kind, &kind)
        {
            return spec.clone();
        }
        let (id, version) =
            known.map_or((self.next_id(), 1), |spec| (spec.id, spec.version.saturating_add(1)));
        let (name, pool) = (named(name, &pool), pool);
        let spec = Arc::new(PathSpec { id, version, name, kind, limits, pool });
        self.paths.insert(key, spec.clone());
        spec
    }
}

/// Name of a path: that of where it leads, and of its pool.
fn named(whither: String, pool: &SourcePool) -> String {
    if pool.name.is_empty() { whither } else { format!("{whither}@{}", pool.name) }
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

fn key_of(hosts: &[Resolved]) -> HostsKey {
    let (mut order, mut last) = (0, None);
    let ranked = hosts.iter().map(|host| {
        order += u16::from(last.is_some_and(|last| last != host.preference));
        last = Some(host.preference);
        (order, host.name.clone(), host.port)
    });
    ranked.collect()
}

/// Whether a name that strangers give can be on the public internet.
fn is_public_name(name: &str) -> bool {
    name.parse::<IpAddr>().is_err()
        && is_host_name(name)
        && name != "localhost"
        && !name.ends_with(".localhost")
}

fn have_same_hosts(known: &PathKind, kind: &PathKind) -> bool {
    let (PathKind::Smtp { hosts: known } | PathKind::Lmtp { hosts: known }) = known else { return false };
    let (PathKind::Smtp { hosts } | PathKind::Lmtp { hosts }) = kind else { return false };
    same_addresses(known, hosts)
}

/// Whether `known` are just these hosts and addresses, in whatever order.
fn same_addresses(known: &[PathHost], hosts: &[PathHost]) -> bool {
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

/// We are the domain's most preferred mail host, and not configured to keep its mail.
pub fn loops_back(domain: &str) -> Reply {
    ours(
        Enhanced(5, 4, 6),
        &format!(
            "mail for {domain} loops back to this relay: it is the best of the domain's mail hosts and has no route for it"
        ),
    )
}

/// There is no such domain, or nothing in it that mail could be sent to.
pub fn no_such_domain() -> Reply {
    ours(Enhanced(5, 1, 2), "no such domain, or it has neither MX nor address records")
}

/// The DNS gave no answer.
pub fn dns_trouble(name: &str, why: &str) -> Reply {
    ours(Enhanced(4, 4, 3), &format!("DNS lookup of {name} failed: {why}"))
}

#[cfg(test)]
mod tests;
