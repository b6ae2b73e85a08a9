//! The one place that talks to hickory: MX and address lookups, and what their errors mean.
//!
//! `NXDOMAIN` and "no such record" are facts about a name; everything else (SERVFAIL, REFUSED, time-out, answers that make
//! no sense) is doubt, and doubt never bounces mail.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use hickory_resolver::system_conf;

use super::path_map::Missing;
use crate::config::Resolver as Options;

/// MX records looked at; a list longer than any real one is cut before it is sorted.
const MX_RECORDS_MAX: usize = 256;
/// Addresses looked at per host and family.
const ADDRESS_RECORDS_MAX: usize = 64;

/// A DNS client. Clones share its connections and cache.
#[derive(Clone, Debug)]
pub(super) struct Dns {
    client: TokioResolver,
    /// Limit of a whole lookup, aliases and retries included.
    lookup_max: Duration,
}

type Found<T> = Result<(Vec<T>, Duration), Missing>;

impl Dns {
    /// A client for the configured servers, or those of `/etc/resolv.conf`.
    pub(super) fn new(options: &Options, lookups_max: usize) -> io::Result<Self> {
        let servers: Vec<_> = options.addresses.iter().map(|address| server(*address)).collect();
        if !servers.is_empty() {
            return Self::with_servers(servers, options, lookups_max);
        }
        match system_conf::read_system_conf() {
            Ok((system, _)) => Self::with_servers(system.name_servers().to_vec(), options, lookups_max),
            Err(error) => {
                // Such a host can still relay to addresses; what needs a name is delayed.
                tracing::warn!(target: "control", %error,
                    "no DNS server is known: /etc/resolv.conf names none; set addresses under [resolver]");
                Self::with_servers(Vec::new(), options, lookups_max)
            }
        }
    }

    fn with_servers(
        servers: Vec<NameServerConfig>,
        options: &Options,
        lookups_max: usize,
    ) -> io::Result<Self> {
        let config = ResolverConfig::from_name_servers(servers);
        let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        let settings: &mut ResolverOpts = builder.options_mut();
        settings.timeout = options.timeout;
        settings.attempts = usize::from(options.attempts.saturating_sub(1));
        settings.positive_min_ttl = Some(options.ttl_min);
        settings.positive_max_ttl = Some(options.ttl_max);
        settings.negative_min_ttl = Some(options.ttl_min);
        settings.negative_max_ttl = Some(options.ttl_max);
        // Addresses of hosts that many domains share.
        settings.cache_size = 8192;
        // Mail for the world must not depend on this host's /etc/hosts.
        settings.use_hosts_file = ResolveHosts::Never;
        // Each lookup has up to two queries for each of 16 hosts open.
        settings.max_active_requests = lookups_max * 32;
        let lookup_max = (options.timeout * u32::from(options.attempts)).saturating_mul(2);
        Ok(Self { client: builder.build().map_err(io::Error::other)?, lookup_max })
    }

    /// MX records of `domain`, as preference and host, and how long they hold.
    pub(super) async fn exchanges(&self, domain: &str) -> Found<(u16, String)> {
        let lookup = self.look_up(domain, RecordType::MX).await?;
        let records = lookup.answers().iter().filter_map(|record| match &record.data {
            RData::MX(mx) => Some((mx.preference, mx.exchange.to_ascii())),
            _ => None,
        });
        some(records.take(MX_RECORDS_MAX).collect(), &lookup)
    }

    /// IPv4 and IPv6 addresses of `host`, and how long they hold.
    pub(super) async fn addresses(&self, host: &str) -> Found<IpAddr> {
        let (four, six) =
            futures_lite::future::zip(self.family(host, RecordType::A), self.family(host, RecordType::AAAA))
                .await;
        match (four, six) {
            (Ok((mut addresses, ttl)), Ok((more, other_ttl))) => {
                addresses.extend(more);
                Ok((addresses, ttl.min(other_ttl)))
            }
            (Ok(found), Err(_)) | (Err(_), Ok(found)) => Ok(found),
            (Err(unknown @ Missing::Unknown(_)), _) | (_, Err(unknown @ Missing::Unknown(_))) => Err(unknown),
            (Err(missing), Err(_)) => Err(missing),
        }
    }

    async fn family(&self, host: &str, family: RecordType) -> Found<IpAddr> {
        let lookup = self.look_up(host, family).await?;
        let addresses = lookup.answers().iter().filter_map(|record| match &record.data {
            RData::A(address) => Some(IpAddr::V4(address.0)),
            RData::AAAA(address) => Some(IpAddr::V6(address.0)),
            _ => None,
        });
        some(addresses.take(ADDRESS_RECORDS_MAX).collect(), &lookup)
    }

    async fn look_up(&self, name: &str, kind: RecordType) -> Result<Lookup, Missing> {
        let parsed = if name.is_ascii() { Name::from_ascii(name) } else { Name::from_utf8(name) };
        // A text that cannot be a name cannot exist.
        let Ok(mut query) = parsed else { return Err(Missing::Name) };
        // Search lists are for people at a prompt.
        query.set_fqdn(true);
        match tokio::time::timeout(self.lookup_max, self.client.lookup(query, kind)).await {
            Ok(Ok(lookup)) => Ok(lookup),
            Ok(Err(error)) => Err(meaning(&error)),
            Err(_) => Err(Missing::Unknown("time-out".into())),
        }
    }
}

fn some<T>(records: Vec<T>, lookup: &Lookup) -> Found<T> {
    if records.is_empty() {
        // Aliases that lead nowhere, for example.
        return Err(Missing::Record);
    }
    Ok((records, lookup.valid_until().saturating_duration_since(Instant::now())))
}

fn meaning(error: &NetError) -> Missing {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(none)) => match none.response_code {
            ResponseCode::NXDomain => Missing::Name,
            ResponseCode::NoError => Missing::Record,
            code => Missing::Unknown(code.to_string()),
        },
        NetError::Dns(DnsError::ResponseCode(code)) => Missing::Unknown(code.to_string()),
        NetError::Timeout => Missing::Unknown("time-out".into()),
        NetError::NoConnections => Missing::Unknown("no DNS server can be reached".into()),
        other => Missing::Unknown(other.to_string()),
    }
}

fn server(address: SocketAddr) -> NameServerConfig {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
        connection.port = address.port();
        connection
    });
    NameServerConfig::new(address.ip(), true, connections.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_servers_every_lookup_is_in_doubt() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        let dns = Dns::with_servers(Vec::new(), &Options::default(), 1).expect("client");
        let found = runtime.block_on(dns.exchanges("example.test"));
        assert!(matches!(found, Err(Missing::Unknown(_))), "{found:?}");
        let found = runtime.block_on(dns.addresses("example.test"));
        assert!(matches!(found, Err(Missing::Unknown(_))), "{found:?}");
    }

    #[test]
    fn a_text_that_is_no_name_does_not_exist() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        let dns = Dns::with_servers(Vec::new(), &Options::default(), 1).expect("client");
        for text in ["a..b", &"x".repeat(64), &"abc.".repeat(80), "é..b"] {
            assert_eq!(runtime.block_on(dns.exchanges(text)), Err(Missing::Name), "{text}");
        }
    }
}
