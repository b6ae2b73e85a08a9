//! PURE. Rules for where we send to: the `[[site]]` tables, and what follows from them for a path.
//!
//! Rules are laid over each other: `[delivery]` below, then the sites that match in the order of the file, and above them
//! those that match and name sources. What a site leaves out it inherits. Sites also make paths: destinations that the same
//! sites match share one, and its limits hold for all of them together. Those that none matches share it by their hosts.

use std::path::PathBuf;
use std::time::Duration;

use super::{DomainMap, PathLimits, Rate, Security, Target, TlsPolicy, Way};

/// One `[[site]]`: what it matches, and what it sets there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Site {
    /// For logs and metrics; no two sites have the same.
    pub name: String,
    /// Patterns of MX hosts, lower case: domains whose MX hosts all match one of these.
    pub mx: Vec<String>,
    /// Targets of configured routes.
    pub hosts: Vec<Target>,
    /// Patterns of recipient domains, lower case.
    pub domains: Vec<String>,
    /// The rules hold only where every source of the pool is one of these; empty: whatever the source.
    pub sources: Vec<String>,
    /// What it sets.
    pub rules: SiteRules,
}

impl Site {
    /// Whether it says which destinations it is for; else it is for all that its sources send.
    pub fn has_destinations(&self) -> bool {
        !(self.mx.is_empty() && self.hosts.is_empty() && self.domains.is_empty())
    }
}

/// What a site may set; `None` is inherited. A further key has its field here, one in [`PathLimits`], and its row in the
/// table of settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SiteRules {
    /// See [`PathLimits::connections`].
    pub connections_max: Option<u16>,
    /// See [`PathLimits::messages_per_connection`].
    pub messages_per_connection_max: Option<u32>,
    /// See [`PathLimits::recipients_per_transaction`].
    pub recipients_per_transaction_max: Option<u16>,
    /// See [`PathLimits::window`].
    pub window: Option<u32>,
    /// See [`PathLimits::idle`].
    pub idle_timeout: Option<Duration>,
    /// See [`PathLimits::connection_rate`].
    pub connection_rate: Option<Rate>,
    /// See [`PathLimits::message_rate`].
    pub message_rate: Option<Rate>,
    /// See [`Security::tls`].
    pub tls: Option<TlsPolicy>,
    /// PEM file with the chain that is shown to remotes that ask for one; empty is inherited.
    pub client_certificate: PathBuf,
    /// PEM file with its key; empty if and only if the certificate is.
    pub client_key: PathBuf,
    /// Who logs in; empty is inherited.
    pub auth_user: String,
    /// File with the password; empty if and only if there is no user.
    pub auth_password_file: PathBuf,
}

impl SiteRules {
    /// `below`, and what is set here, at place `nth` of the file, in place of it.
    pub fn over(&self, nth: usize, below: PathLimits) -> PathLimits {
        let own = |is_set: bool, below: Option<usize>| if is_set { Some(nth) } else { below };
        PathLimits {
            connections: self.connections_max.unwrap_or(below.connections),
            messages_per_connection: self
                .messages_per_connection_max
                .unwrap_or(below.messages_per_connection),
            recipients_per_transaction: self
                .recipients_per_transaction_max
                .unwrap_or(below.recipients_per_transaction),
            window: self.window.unwrap_or(below.window),
            idle: self.idle_timeout.unwrap_or(below.idle),
            connection_rate: self.connection_rate.or(below.connection_rate),
            message_rate: self.message_rate.or(below.message_rate),
            security: Security {
                tls: self.tls.unwrap_or(below.security.tls),
                way: below.security.way,
                shows: own(!self.client_certificate.as_os_str().is_empty(), below.security.shows),
                logs_in: own(!self.auth_user.is_empty(), below.security.logs_in),
            },
        }
    }
}

/// Where a message is going, as far as sites ask.
#[derive(Clone, Copy, Debug)]
pub struct Destination<'a> {
    /// The recipient domain, lower case.
    pub domain: &'a str,
    /// Its route.
    pub target: &'a Target,
    /// Names of its MX hosts, lower case; none if the route is another.
    pub mx: &'a [&'a str],
    /// Names of the pool's sources.
    pub sources: &'a [&'a str],
}

/// What the sites say about a destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruling {
    /// Names of the sites whose path it shares, joined by `/`; empty, and it shares that of its hosts.
    pub sites: String,
    /// What holds there.
    pub limits: PathLimits,
}

/// All sites, ready to be asked.
#[derive(Clone, Debug)]
pub struct Sites {
    delivery: PathLimits,
    /// Those without sources first, then those with.
    layers: Vec<Layer>,
}

#[derive(Clone, Debug)]
struct Layer {
    /// The site's place in the file.
    nth: usize,
    site: Site,
    mx: DomainMap<()>,
    domains: DomainMap<()>,
}

impl Layer {
    fn new((nth, site): (usize, &Site)) -> Self {
        let set = |patterns: &[String]| {
            let mut set = DomainMap::default();
            // What is no pattern matches nothing; the reader of the configuration has refused it.
            patterns.iter().for_each(|pattern| drop(set.insert(pattern, ())));
            set
        };
        Self { nth, mx: set(&site.mx), domains: set(&site.domains), site: site.clone() }
    }

    fn matches(&self, to: Destination<'_>) -> bool {
        let sources = &self.site.sources;
        let of_sources = sources.is_empty()
            || (!to.sources.is_empty()
                && to.sources.iter().all(|name| sources.iter().any(|own| own == name)));
        of_sources
            && (!self.site.has_destinations()
                || self.domains.get(to.domain).is_some()
                || self.site.hosts.contains(to.target)
                || (!to.mx.is_empty() && to.mx.iter().all(|host| self.mx.get(host).is_some())))
    }
}

impl Sites {
    /// `sites` in the order of the file over what `[delivery]` says.
    pub fn new(delivery: PathLimits, sites: &[Site]) -> Self {
        let (below, above): (Vec<_>, Vec<_>) =
            sites.iter().enumerate().partition(|(_, site)| site.sources.is_empty());
        Self { delivery, layers: below.into_iter().chain(above).map(Layer::new).collect() }
    }

    /// What `[delivery]` says, below all sites.
    pub fn delivery(&self) -> PathLimits {
        self.delivery
    }

    /// What holds for a destination.
    pub fn ruling(&self, to: Destination<'_>) -> Ruling {
        let mut ruling = Ruling { sites: String::new(), limits: self.delivery };
        ruling.limits.security.way = Way::of(to.target);
        for layer in self.layers.iter().filter(|layer| layer.matches(to)) {
            ruling.limits = layer.site.rules.over(layer.nth, ruling.limits);
            if layer.site.has_destinations() {
                let joint = if ruling.sites.is_empty() { "" } else { "/" };
                ruling.sites.extend([joint, &layer.site.name]);
            }
        }
        ruling
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DELIVERY: PathLimits = PathLimits {
        connections: 10,
        messages_per_connection: 100,
        recipients_per_transaction: 50,
        window: 1000,
        idle: Duration::from_secs(60),
        connection_rate: None,
        message_rate: None,
        security: Security { tls: TlsPolicy::Opportunistic, way: Way::Mx, shows: None, logs_in: None },
    };

    fn texts(words: &str) -> Vec<String> {
        words.split_whitespace().map(str::to_owned).collect()
    }

    fn site(name: &str, mx: &str, domains: &str, sources: &str, connections: u16) -> Site {
        let rules = SiteRules { connections_max: Some(connections), ..SiteRules::default() };
        let (mx, domains, sources) = (texts(mx), texts(domains), texts(sources));
        Site { name: name.into(), mx, domains, sources, rules, hosts: Vec::new() }
    }

    fn ask(sites: &Sites, domain: &str, mx: &str, sources: &str) -> (String, u16) {
        let mx: Vec<&str> = mx.split_whitespace().collect();
        let sources: Vec<&str> = sources.split_whitespace().collect();
        let to = Destination { domain, target: &Target::Mx, mx: &mx, sources: &sources };
        let ruling = sites.ruling(to);
        (ruling.sites, ruling.limits.connections)
    }

    #[test]
    fn a_provider_is_known_by_all_of_its_mx_hosts() {
        let sites = Sites::new(DELIVERY, &[site("big", "*.big.test mx.other.test", "", "", 3)]);
        let big = ("big".to_owned(), 3);
        let own = (String::new(), 10);
        assert_eq!(ask(&sites, "a.test", "mx1.big.test mx2.big.test", ""), big);
        assert_eq!(ask(&sites, "b.test", "mx1.big.test mx.other.test", ""), big);
        assert_eq!(ask(&sites, "c.test", "mx1.big.test mx.elsewhere.test", ""), own);
        assert_eq!(ask(&sites, "d.test", "big.test", ""), own);
        assert_eq!(ask(&sites, "e.test", "notbig.test", ""), own);
        assert_eq!(ask(&sites, "big.test", "", ""), own, "a domain is no host");
    }

    #[test]
    fn later_sites_win_key_by_key_and_those_of_the_sources_over_all() {
        let mut wide = site("wide", "*.test", "", "", 3);
        wide.rules.window = Some(7);
        let sites = [
            site("warm", "*.test", "", "new", 1),
            wide,
            site("narrow", "", "a.test", "", 5),
            site("all of new", "", "", "new newer", 2),
        ];
        let sites = Sites::new(DELIVERY, &sites);
        assert_eq!(ask(&sites, "b.test", "mx.test", ""), ("wide".to_owned(), 3));
        assert_eq!(ask(&sites, "a.test", "mx.test", "old"), ("wide/narrow".to_owned(), 5));
        assert_eq!(ask(&sites, "a.test", "mx.test", "old new"), ("wide/narrow".to_owned(), 5));
        assert_eq!(ask(&sites, "a.test", "mx.test", "new"), ("wide/narrow/warm".to_owned(), 2));
        assert_eq!(ask(&sites, "a.test", "mx.example", "newer"), ("narrow".to_owned(), 2));
        assert_eq!(ask(&sites, "x.example", "mx.example", "newer"), (String::new(), 2));
        let to = Destination { domain: "a.test", target: &Target::Mx, mx: &["mx.test"], sources: &["new"] };
        let want = PathLimits { connections: 2, window: 7, ..DELIVERY };
        assert_eq!(sites.ruling(to).limits, want, "what a site leaves out it inherits");
    }

    #[test]
    fn a_smart_host_is_known_by_its_route() {
        let smart: Target = "smtp://smart.test:26".parse().expect("target");
        let hosts = vec![smart.clone()];
        let rules = SiteRules { idle_timeout: Some(Duration::from_secs(5)), ..SiteRules::default() };
        let sites = Sites::new(DELIVERY, &[Site { name: "smart".into(), hosts, rules, ..Site::default() }]);
        let other: Target = "smtp://smart.test:25".parse().expect("target");
        let idle = |target: &Target| {
            let to = Destination { domain: "a.test", target, mx: &[], sources: &[] };
            sites.ruling(to).limits.idle.as_secs()
        };
        assert_eq!((idle(&smart), idle(&other), idle(&Target::Mx)), (5, 60, 60));
    }

    #[test]
    fn a_policy_is_inherited_and_secrets_are_those_of_the_site_that_names_them() {
        let with = |name: &str, domains: &str, rules| Site { rules, ..site(name, "", domains, "", 1) };
        let login = SiteRules { auth_user: "me".into(), ..SiteRules::default() };
        let strict = SiteRules {
            tls: Some(TlsPolicy::Verified),
            client_certificate: "own.pem".into(),
            ..SiteRules::default()
        };
        let sites =
            Sites::new(DELIVERY, &[with("all", "*.test", strict), with("one", "a.test b.example", login)]);
        let security = |domain| {
            let to = Destination { domain, target: &Target::Mx, mx: &[], sources: &[] };
            sites.ruling(to).limits.security
        };
        let strict = Security { tls: TlsPolicy::Verified, shows: Some(0), ..Security::default() };
        assert_eq!(security("b.test"), strict);
        assert_eq!(security("a.test"), Security { logs_in: Some(1), ..strict });
        assert_eq!(security("b.example"), Security { logs_in: Some(1), ..Security::default() });
    }
}
