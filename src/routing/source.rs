//! PURE. Where we send from: sources, pools of them, and which pool a message's mail leaves by.
//!
//! A leg's pool is chosen when the leg is queued: by what a trusted client said, else by its tenant, else by its domain, else
//! it is the configured one. It is part of the leg's *course*, by which legs are gathered and control is asked for a path, so
//! that each pool has paths of its own to the same hosts.

use std::borrow::Cow;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::DomainMap;
use crate::hash::HashState;

/// One `[[source]]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// For pools, logs and metrics; no two sources have the same.
    pub name: String,
    /// Our end of its connections: an address of one family, or one of each.
    pub addresses: Vec<IpAddr>,
    /// Its name in EHLO; empty is that of all.
    pub ehlo_name: String,
}

impl Source {
    /// Our address for a connection to `remote`; `None` if it cannot reach that family.
    pub fn address_for(&self, remote: SocketAddr) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|address| address.is_ipv4() == remote.is_ipv4())
    }
}

/// A source in a pool, with its share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Name of the source.
    pub source: String,
    /// Its part of the pool's connections, at least 1.
    pub weight: u32,
}

/// One `[[pool]]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pool {
    /// For headers, logs and metrics; no two pools have the same.
    pub name: String,
    /// At least one.
    pub sources: Vec<Member>,
    /// Tenants whose mail leaves by it.
    pub tenants: Vec<Box<str>>,
    /// Patterns of recipient domains whose mail does.
    pub domains: Vec<String>,
}

/// A pool as workers see it. Without members the system chooses our end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourcePool {
    /// Empty for the pool without members.
    pub name: String,
    /// Sources and weights.
    pub members: Vec<(Arc<Source>, u32)>,
}

/// All pools, ready to be chosen from.
#[derive(Clone, Debug, Default)]
pub struct Pools {
    pools: HashMap<String, Arc<SourcePool>, HashState>,
    /// Tenant → pool.
    tenants: HashMap<String, String, HashState>,
    domains: DomainMap<String>,
    /// Pool of all other mail; empty is none.
    otherwise: String,
    none: Arc<SourcePool>,
}

impl Pools {
    /// `otherwise` is the pool of mail that no other takes. Of two pools that want a tenant or a domain the first gets it.
    pub fn new(sources: &[Source], pools: &[Pool], otherwise: &str) -> Self {
        let sources: Vec<Arc<Source>> = sources.iter().cloned().map(Arc::new).collect();
        let mut all = Self { otherwise: otherwise.to_owned(), ..Self::default() };
        for pool in pools.iter().rev() {
            let member = |member: &Member| {
                let source = sources.iter().find(|source| source.name == member.source)?;
                Some((source.clone(), member.weight))
            };
            let members = pool.sources.iter().filter_map(member).collect();
            let spec = Arc::new(SourcePool { name: pool.name.clone(), members });
            all.pools.insert(pool.name.clone(), spec);
            for tenant in &pool.tenants {
                all.tenants.insert(tenant.to_string(), pool.name.clone());
            }
            for domain in &pool.domains {
                // What is no pattern matches nothing; the reader of the configuration has refused it.
                let _ = all.domains.insert(domain, pool.name.clone());
            }
        }
        all
    }

    /// The course of a leg to `domain` of a `tenant`'s message; `said` is the pool that its client named. A pool that there
    /// is not is as good as none.
    pub fn course<'a>(&self, said: &str, tenant: &str, domain: &'a str) -> Cow<'a, str> {
        if self.pools.is_empty() {
            return Cow::Borrowed(domain);
        }
        let said = Some(said).filter(|name| self.pools.contains_key(*name));
        let by_tenant = || self.tenants.get(tenant).map(String::as_str);
        let by_domain = || self.domains.get(domain).map(String::as_str);
        let pool = said.or_else(by_tenant).or_else(by_domain).unwrap_or(&self.otherwise);
        match pool {
            "" => Cow::Borrowed(domain),
            pool => Cow::Owned(format!("{domain}{SEPARATOR}{pool}")),
        }
    }

    /// A course's domain and pool.
    pub fn split<'a>(&self, course: &'a str) -> (&'a str, Arc<SourcePool>) {
        let (domain, pool) = split(course);
        (domain, self.pools.get(pool).unwrap_or(&self.none).clone())
    }
}

/// Between domain and pool in a course: no domain has it, and no pool.
const SEPARATOR: char = ' ';

/// A course's domain.
pub fn domain_of(course: &str) -> &str {
    split(course).0
}

fn split(course: &str) -> (&str, &str) {
    course.split_once(SEPARATOR).unwrap_or((course, ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(name: &str, tenants: &[&str], domains: &[&str]) -> Pool {
        let sources = vec![Member { source: "one".into(), weight: 2 }];
        let tenants = tenants.iter().map(|tenant| (*tenant).into()).collect();
        let domains = domains.iter().map(|domain| (*domain).to_owned()).collect();
        Pool { name: name.into(), sources, tenants, domains }
    }

    #[test]
    fn a_pool_is_chosen_by_word_then_tenant_then_domain() {
        let one = Source { name: "one".into(), ..Source::default() };
        let all = [
            pool("first", &["acme"], &["*.example.com"]),
            pool("second", &["acme", "other"], &["*.example.com", "a.test"]),
            pool("rest", &[], &[]),
        ];
        let pools = Pools::new(&[one], &all, "rest");
        let check = |said: &str, tenant: &str, domain: &str, want: &str| {
            let course = pools.course(said, tenant, domain);
            let (whither, pool) = pools.split(&course);
            assert_eq!((whither, pool.name.as_str()), (domain, want), "{said} {tenant} {domain}");
            assert_eq!(pool.members.len(), 1);
            assert_eq!(domain_of(&course), domain);
        };
        check("second", "acme", "mx.example.com", "second");
        check("unknown", "acme", "a.test", "first");
        check("", "other", "mx.example.com", "second");
        check("", "", "mx.example.com", "first");
        check("", "", "a.test", "second");
        check("", "", "b.test", "rest");
    }

    #[test]
    fn without_pools_the_course_is_the_domain_and_the_system_chooses_our_end() {
        let pools = Pools::default();
        let course = pools.course("any", "acme", "a.test");
        assert!(matches!(course, Cow::Borrowed("a.test")));
        assert_eq!(pools.split(&course), ("a.test", Arc::default()));
    }

    #[test]
    fn a_source_serves_the_families_it_has_an_address_of() {
        let addresses = vec!["192.0.2.1".parse().expect("address")];
        let source = Source { addresses, ..Source::default() };
        let check = |remote: &str| source.address_for(remote.parse().expect("address")).is_some();
        assert!(check("198.51.100.1:25"));
        assert!(!check("[2001:db8::1]:25"));
    }
}
