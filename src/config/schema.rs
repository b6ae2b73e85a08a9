//! PURE. The table of all settings. Reading, `config --default` and the hints in errors are made from it.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use toml::de::DeValue;

use super::listener::Listener;
use super::options::{Certificate, Config, GIB, KIB, MIB, Network, ROLES_MAX, Tenant};
use super::schedule::Schedule;
use super::value::{
    Count, CountOrAuto, Fraction, Kind, LISTENER_KIND, LOG_FORMAT, LOG_LEVEL, LineOrEmpty, Mode, NameOrEmpty,
    Own, Parsed, PathOrEmpty, Size, Switch, TIMEOUT, TLS_POLICY, Time, WIRING, WordOrEmpty, Wrong, list,
    text,
};
use super::words::{Delimiters, SENDERS, TENANTS};
use crate::endpoint::Endpoint;
use crate::limits::{BATCH_BYTES_MAX, LEG_RECIPIENTS_MAX, RECIPIENTS_MAX, WEIGHT_MAX};
use crate::routing::site::Site;
use crate::routing::source::{Member, Pool, Source};
use crate::routing::{Rate, Target};
use crate::users::Fingerprint;

/// One key of the file, in a table that is read into a `T`.
pub(super) struct Setting<T: 'static> {
    /// Its table.
    pub section: &'static str,
    /// Its key there.
    pub key: &'static str,
    /// What it is, for the comment above it.
    pub about: &'static str,
    /// The allowed values, in words.
    pub allowed: fn() -> String,
    /// Its value as TOML.
    pub show: fn(&T) -> String,
    /// Takes its value over, or says what is wrong.
    pub set: fn(&mut T, &DeValue<'_>) -> Result<(), Wrong>,
}

/// A table of the file.
pub(super) struct Section {
    /// Its name.
    pub name: &'static str,
    /// What it is about.
    pub about: &'static str,
}

/// The one section that is no list of known keys: domain → target.
pub(super) const ROUTES: &str = "routes";
/// Those that may stand several times: `[[listener]]`…
pub(super) const LISTENER: &str = "listener";
/// …and `[[certificate]]`…
pub(super) const CERTIFICATE: &str = "certificate";
/// …`[[site]]`…
pub(super) const SITE: &str = "site";
/// …`[[schedule]]`…
pub(super) const SCHEDULE: &str = "schedule";
/// … `[[source]]`…
pub(super) const SOURCE: &str = "source";
/// … `[[pool]]`…
pub(super) const POOL: &str = "pool";
/// …and `[[tenant]]`.
pub(super) const TENANT: &str = "tenant";

/// The sections in the order of the default file.
pub(super) const SECTIONS: &[Section] = &[
    Section { name: "smtp", about: "Receiving mail." },
    Section {
        name: LISTENER,
        about: "Further places to listen, each with a policy of its own. May stand any number of times.",
    },
    Section {
        name: CERTIFICATE,
        about: "Further certificates, for clients that ask for a name in them. May stand any number of times.",
    },
    Section {
        name: "auth",
        about: "Users who log in, on every listener but those of kind \"mx\" and \"lmtp\".",
    },
    Section { name: "limits", about: "Budgets of the whole process." },
    Section { name: "spool", about: "Keeping mail. Changes need a restart." },
    Section {
        name: ROUTES,
        about: "Where mail goes, by recipient domain: the exact domain first, then the longest \"*.suffix\"\n\
                # (which does not match the suffix itself), then \"*\". The order of the lines means nothing.\n\
                #   \"mx\"                to the hosts of the domain's MX records\n\
                #   \"smtp://HOST:PORT\"  to this host; \"smtps://HOST:PORT\" with TLS from the first byte on\n\
                #   \"lmtp://HOST:PORT\", \"lmtp:/PATH\"  to a delivery agent such as Dovecot's, over TCP or a unix socket\n\
                #   \"maildir\"           into the Maildirs that the mailboxes file names\n\
                #   \"discard\"           nowhere, taken as delivered: for measuring\n\
                #   \"hold\"              kept in the spool until the route changes",
    },
    Section {
        name: "mailboxes",
        about: "Domains of our own: whoever has a mailbox or an alias in them gets mail, from anybody; others do not exist.",
    },
    Section { name: "delivery", about: "Sending mail." },
    Section {
        name: SITE,
        about: "Rules for where mail is sent to: a provider, a smart host, recipient domains. All that a site matches shares its\n\
                # limits. What it leaves out holds as under [delivery], or as an earlier site says that matches too; sites that\n\
                # name sources come last. May stand any number of times.",
    },
    Section { name: SOURCE, about: "Addresses that mail is sent from. May stand any number of times." },
    Section {
        name: POOL,
        about: "Sources that share mail. A message leaves by the pool that a trusted client names, else by its tenant's, else\n\
                # by that of the recipient's domain, else by delivery.pool. May stand any number of times.",
    },
    Section {
        name: SCHEDULE,
        about: "How some mail is tried again, and for how long. The first that matches wins; what it leaves out holds as under\n\
                # [delivery]. It holds from a restart on for mail that is queued already. May stand any number of times.",
    },
    Section { name: "bounce", about: "What comes back." },
    Section {
        name: TENANT,
        about: "Whose mail it is, where several want the same path: they take turns by their weights. May stand any number of times.",
    },
    Section { name: "resolver", about: "DNS." },
    Section {
        name: "admin",
        about: "Health and metrics over HTTP. There is no access control: keep it on loopback.",
    },
    Section {
        name: "threads",
        about: "Shards accept and keep mail, workers send it. Changes need a restart.",
    },
    Section { name: "log", about: "Log lines, on standard error. RUST_LOG wins over the level." },
];

/// Rows of [`SETTINGS`]: `section: field.path as "key" = kind, "about"`.
macro_rules! settings {
    ($($section:literal $key:literal: $($field:ident).+ = $kind:expr, $about:expr;)*) => {
        &[$(Setting {
            section: $section,
            key: $key,
            about: $about,
            allowed: || $kind.allowed(),
            show: |table| $kind.show(&table.$($field).+),
            set: |table, value| {
                table.$($field).+ = $kind.read(value)?;
                Ok(())
            },
        }),*]
    };
}

const ENDPOINT: &str = "\"ADDRESS:PORT\", such as \"127.0.0.1:2525\" or \"[::1]:2525\", or \"unix:/PATH\"";
const ADDRESS: &str = "\"ADDRESS:PORT\", such as \"127.0.0.1:2525\" or \"[::1]:2525\"";
const NETWORK: &str = "networks such as \"10.0.0.0/8\", \"192.0.2.7\" or \"2001:db8::/32\"";
const FINGERPRINTS: &str = "SHA-256 fingerprints, 64 hexadecimal digits each";
const DOMAINS: &str = "domains such as \"example.com\", or \"*.example.com\" for all below it";
/// A duration of up to 90 days.
const LIFETIME: Time = Time(1000..=90 * 86_400_000);
/// Likewise, or nothing.
const DELAY: Time = Time(0..=90 * 86_400_000);
const FACTOR: Fraction = Fraction(1.0..=10.0);
const JITTER: Fraction = Fraction(0.0..=0.9);

// Of a path, whether all of them or those of a site.
const CONNECTIONS: Count<u16> = Count(1..=10_000);
const MESSAGES_PER_CONNECTION: Count<u32> = Count(1..=1_000_000);
const RECIPIENTS: Count<u16> = Count(1..=LEG_RECIPIENTS_MAX as u16);
const WINDOW: Count<u32> = Count(1..=65_536);
const RATE: Parsed<Rate> = text("a rate such as \"100/min\", per s, min, h or d");

/// Every setting but the routes and those of a listener.
pub(super) const SETTINGS: &[Setting<Config>] = settings! {
    "smtp" "hostname": smtp.hostname = NameOrEmpty,
        "Our name in the banner, in replies and in Received. \"\" means the system's host name.";
    "smtp" "listen": smtp.listen = list::<SocketAddr>(0, ADDRESS),
        "Where to listen for mail, as a relay. [[listener]] has the other kinds.";
    "smtp" "relay_networks": smtp.relay_networks = list::<Network>(0, NETWORK),
        "Clients in these networks may send to any domain; all others get 550 5.7.1.";
    "smtp" "relay_domains": smtp.relay_domains = list::<String>(0, DOMAINS),
        "Anybody may send to these recipient domains.";
    "smtp" "proxy_networks": smtp.proxy_networks = list::<Network>(0, NETWORK),
        "Proxies (HAProxy, a load balancer) whose connections must begin with a PROXY header, version 1 or 2: the client that\n\
         # it names is the one that policy, limits, Received and log lines go by.";
    "smtp" "xclient_networks": smtp.xclient_networks = list::<Network>(0, NETWORK),
        "Mail proxies (nginx, Postfix) that may say by XCLIENT for whom they speak. Whoever is in one of these lists can pose\n\
         # as any client; a client that was introduced can introduce no other, unless its address is in the list.";
    "smtp" "message_bytes_max": smtp.message_bytes_max = Size(64 * KIB..=2 * GIB),
        "Longest message.";
    "smtp" "recipients_max": smtp.recipients_max = Count(1..=RECIPIENTS_MAX as u16),
        "Most recipients of one transaction; the next gets 452.";
    "smtp" "banner_wait": smtp.banner_wait = Time(1..=60_000),
        "How long a client outside relay_networks must be silent before the banner; one that talks gets 554. Some seconds turn\n\
         # away simple bots, and delay everybody.";
    "smtp" "command_timeout": smtp.command_timeout = TIMEOUT,
        "How long a client may take for a whole command. When more than 4 of 5 connections are in use, clients outside\n\
         # relay_networks have 10s, here and below.";
    "smtp" "data_timeout": smtp.data_timeout = TIMEOUT,
        "How long to wait for more of a message.";
    "smtp" "data_rate_min": smtp.data_rate_min = Size(0..=GIB),
        "Bytes a second at which a message must come in, behind the first data_timeout. 0 means none.";

    "smtp" "tls_certificate": smtp.tls_certificate = PathOrEmpty,
        "PEM file with the certificate chain, own certificate first. \"\" and no [[certificate]]: a self-signed one is\n\
         # made at the first start and kept beside the spool. SIGHUP reads certificates, users and mailboxes again.";
    "smtp" "tls_key": smtp.tls_key = PathOrEmpty,
        "PEM file with the key of the certificate.";

    "auth" "users_file": auth.users_file = PathOrEmpty,
        "Who may log in, as `ringpost user add` writes it. \"\" means nobody.";
    "auth" "cleartext_networks": auth.cleartext_networks = list::<Network>(0, NETWORK),
        "Clients in these networks may log in without TLS.";
    "auth" "failures_by_address": auth.failures_by_address = Count(1..=1_000_000u32),
        "Failed logins within the window after which an address must wait: 421. Of a network limits.network_factor times as many.\n\
         # Clients in relay networks are exempt.";
    "auth" "failures_by_user": auth.failures_by_user = Count(1..=1_000_000u32),
        "Likewise for a user, from wherever they come: 454.";
    "auth" "failure_window": auth.failure_window = LIFETIME, "";

    "limits" "connections_max": limits.connections_max = Count(1..=1_000_000u32),
        "Inbound connections open at once; the next is told 421. Each needs a descriptor (ulimit -n).";
    "limits" "in_flight_bytes_max": limits.in_flight_bytes_max = Size(MIB..=1024 * GIB),
        "Memory for messages that are being received; beyond it clients get 452 and keep their mail.";
    "limits" "resident_bytes_max": limits.resident_bytes_max = Size(MIB..=1024 * GIB),
        "Memory for accepted messages that wait for a worker; others are read back from the spool.";

    "limits" "address_connections_max": limits.address_connections_max = Count(0..=1_000_000u32),
        "Connections open at once from one address; the next is told 421. 0 means no limit, here and below. Clients in\n\
         # smtp.relay_networks are exempt from these.";
    "limits" "address_connections_per_minute": limits.address_connections_per_minute = Count(0..=1_000_000u32),
        "Connections opened from one address; the next is told 421.";
    "limits" "address_messages_per_minute": limits.address_messages_per_minute = Count(0..=1_000_000u32),
        "Messages begun from one address; the next MAIL is told 450.";
    "limits" "address_errors_per_minute": limits.address_errors_per_minute = Count(0..=1_000_000u32),
        "Commands of one address that may fail (5xx); at the next its session ends with 421, and so does each new one.";
    "limits" "network_factor": limits.network_factor = Count(1..=1000u32),
        "How many times as much as one address all of a network together may: a /24, or a /64 for IPv6.";

    "spool" "directory": spool.directory = text::<PathBuf>("a path, relative to the working directory"),
        "Where messages are kept. Put it on a disk of its own, never on tmpfs.";
    "spool" "segment_bytes": spool.segment_bytes = Size(4 * BATCH_BYTES_MAX as u64..=GIB),
        "Size of a log segment, a multiple of 1MiB. Each shard prepares a few of them.";
    "spool" "reserve_bytes": spool.reserve_bytes = Size(16 * MIB..=1024 * GIB),
        "Disk space that new mail may not use (452 4.3.1): outcomes and bounces need it.";
    "spool" "disk_profile": spool.disk_profile = PathOrEmpty,
        "What `ringpost-tune disk` measured on this disk: shown at the start and as ringpost_spool_commit_profile_seconds,\n\
         # for an alert on a disk that has become slow. \"\" means none.";

    "mailboxes" "file": mailboxes.file = PathOrEmpty,
        "A line for each: ADDRESS, then maildir:/PATH, route (where the domain's route leads) or addresses. SIGHUP reads it again.";

    "delivery" "ehlo_name": delivery.ehlo_name = NameOrEmpty,
        "Our name in EHLO. \"\" means smtp.hostname.";
    "delivery" "pool": delivery.pool = WordOrEmpty,
        "Pool of mail that no [[pool]] takes. \"\": the system chooses our end of a connection.";
    "delivery" "pool_header": delivery.pool_header = WordOrEmpty,
        "Header field in which clients that may relay name a message's pool, such as \"X-Pool\".";
    "delivery" "mx_port": delivery.mx_port = Count(1..=u16::MAX),
        "Port of MX hosts. Anything but 25 is for tests and labs.";
    "delivery" "allow_loopback_mx": delivery.allow_loopback_mx = Switch,
        "Whether MX records may name loopback and private addresses. For tests and labs: with it, anybody\n\
         # who controls a domain can make the relay connect to hosts behind your firewall.";
    "delivery" "tls": delivery.tls = TLS_POLICY,
        "Encryption towards remotes: \"off\"; \"opportunistic\": where it is offered, with any certificate, else in the\n\
         # clear; \"required\": with any certificate, never in the clear; \"verified\": with a certificate that the system's\n\
         # trust store believes for the host's name. What the last two cannot get waits, and bounces when it expires.";
    "delivery" "connections_max": delivery.connections_max = CONNECTIONS,
        "Connections open at once to one path (all domains with the same MX hosts share a path).";
    "delivery" "messages_per_connection_max": delivery.messages_per_connection_max = MESSAGES_PER_CONNECTION,
        "Messages after which a connection is closed.";
    "delivery" "recipients_per_transaction_max":
        delivery.recipients_per_transaction_max = RECIPIENTS,
        "Recipients of one transaction.";
    "delivery" "idle_timeout": delivery.idle_timeout = TIMEOUT,
        "How long a connection without work is kept open.";
    "delivery" "window": delivery.window = WINDOW,
        "Messages of one path that may be at the workers at once.";
    "delivery" "connection_rate": delivery.connection_rate = Own(RATE),
        "Connections opened to one path: in no period of that length there are more.";
    "delivery" "message_rate": delivery.message_rate = Own(RATE),
        "Likewise messages sent over it, a transaction each.";
    "delivery" "providers": delivery.providers = Switch,
        "Whether the limits that large mailbox providers are known to want hold for them: `ringpost config --providers`\n\
         # shows these sites. Those of this file are laid over them.";
    "delivery" "connect_timeout": delivery.timeouts.connect = TIMEOUT,
        "Waits for the remote; the defaults follow RFC 5321, section 4.5.3.2.";
    "delivery" "greeting_timeout": delivery.timeouts.greeting = TIMEOUT, "";
    "delivery" "command_timeout": delivery.timeouts.command = TIMEOUT, "";
    "delivery" "recipient_timeout": delivery.timeouts.recipient = TIMEOUT, "";
    "delivery" "data_timeout": delivery.timeouts.data = TIMEOUT, "";
    "delivery" "block_timeout": delivery.timeouts.block = TIMEOUT, "";
    "delivery" "end_of_data_timeout": delivery.timeouts.end_of_data = TIMEOUT, "";
    "delivery" "attempt_timeout": delivery.timeouts.attempt = TIMEOUT,
        "The whole attempt, whatever the remote does to prolong it.";
    "delivery" "retry_first": delivery.retry_first = LIFETIME,
        "Wait before the first retry; each further one is longer by the factor, up to the longest wait,\n\
         # varied either way by the jitter (a part of the wait).";
    "delivery" "retry_factor": delivery.retry_factor = FACTOR, "";
    "delivery" "retry_max": delivery.retry_max = LIFETIME, "";
    "delivery" "retry_jitter": delivery.retry_jitter = JITTER, "";
    "delivery" "expire_after": delivery.expire_after = LIFETIME,
        "Age at which a message that could not be delivered bounces; fixed when it is accepted.";
    "delivery" "delay_after": delivery.delay_after = DELAY,
        "Age at which its sender is told, once, that it is late (unless NOTIFY says otherwise). \"0ms\" means never.";
    "delivery" "hold_max": delivery.hold_max = LIFETIME,
        "Age at which a message that is held bounces.";

    "bounce" "verp_tenants": bounce.verp_tenants = TENANTS,
        "Mail of these tenants goes out with a sender that names the recipient (VERP), one recipient at a time:\n\
         # news@lists.example to joe@there.example is from news+joe=there.example@lists.example.";
    "bounce" "verp_senders": bounce.verp_senders = SENDERS,
        "Likewise the mail of these senders.";
    "bounce" "verp_delimiters": bounce.verp_delimiters = Delimiters,
        "What stands before the recipient there, and in place of its \"@\".";

    "resolver" "addresses": resolver.addresses = list::<SocketAddr>(0, ADDRESS),
        "DNS servers to ask. [] means those of /etc/resolv.conf.";
    "resolver" "timeout": resolver.timeout = TIMEOUT,
        "How long to wait for one server.";
    "resolver" "attempts": resolver.attempts = Count(1..=10u8),
        "Tries in all.";
    "resolver" "ttl_min": resolver.ttl_min = Time(0..=86_400_000),
        "Bounds of how long an answer is kept, whatever its TTL.";
    "resolver" "ttl_max": resolver.ttl_max = Time(1000..=86_400_000), "";
    "resolver" "retry": resolver.retry = TIMEOUT,
        "Wait before a lookup that failed is tried again; the domain's mail waits with it.";

    "admin" "listen": admin.listen = text::<SocketAddr>(ADDRESS),
        "/metrics, /healthz and /readyz are here.";

    "threads" "shards": threads.shards = CountOrAuto(ROLES_MAX),
        "\"auto\" means one per CPU.";
    "threads" "workers": threads.workers = CountOrAuto(ROLES_MAX), "";
    "threads" "wiring": threads.wiring = WIRING,
        "\"shared\": a shard and a worker share a thread; \"split\": each has its own; \"auto\": what measured best.";
    "threads" "pin": threads.pin = Switch,
        "Whether each thread stays on one CPU: one of each core before the second ones, and of one memory node before the next.";
    "threads" "steer": threads.steer = Switch,
        "Whether a connection goes to the shard on whose CPU its packets come in: for a network card with a queue for each CPU. Needs pin.";

    "log" "format": log.format = LOG_FORMAT,
        "For people, or one JSON object a line.";
    "log" "level": log.level = LOG_LEVEL,
        "\"info\" has one line per message accepted and per outcome.";
};

/// The settings of a `[[listener]]`.
pub(super) const LISTENER_SETTINGS: &[Setting<Listener>] = settings! {
    "listener" "address": address = text::<Endpoint>(ENDPOINT),
        "Where to listen.";
    "listener" "socket_mode": socket_mode = Mode,
        "Permissions of a unix socket: who may open it.";
    "listener" "trusted": trusted = Own(Switch),
        "Whether clients of a unix socket, who are in no network, may send to any domain. Needed there, and there only.";
    "listener" "kind": kind = LISTENER_KIND,
        "\"relay\" for injectors: relay networks to any domain, others to smtp.relay_domains; \"submission\" for\n\
         # users, with STARTTLS, and \"submissions\" with TLS from the first byte; \"mx\" for other mail exchangers:\n\
         # smtp.relay_domains and those of the mailboxes file only; \"lmtp\" for LMTP, from relay networks only.";
    "listener" "relay_networks": relay_networks = Own(list::<Network>(0, NETWORK)),
        "Clients in these networks may send to any domain here. Left out, \"relay\" and \"lmtp\" have smtp.relay_networks.";
    "listener" "proxy_networks": proxy_networks = Own(list::<Network>(0, NETWORK)),
        "As in smtp, for connections here. Left out, those of smtp.";
    "listener" "xclient_networks": xclient_networks = Own(list::<Network>(0, NETWORK)), "";
    "listener" "limits": limits = Switch,
        "Whether the limits of addresses hold here, and clients must wait for the banner.";
    "listener" "relay_certificates": relay_certificates = list::<Fingerprint>(0, FINGERPRINTS),
        "Clients with these certificates may as well; see `openssl x509 -noout -fingerprint -sha256`.";
    "listener" "tenant": tenant = WordOrEmpty,
        "Whose mail it is, for fairness between tenants, when nobody has logged in; a user's is the user's own.";
    "listener" "tenant_header": tenant_header = WordOrEmpty,
        "Header field in which clients that may relay say whose mail it is, such as \"X-Tenant\".";
};

/// The settings of a `[[schedule]]`.
pub(super) const SCHEDULE_SETTINGS: &[Setting<Schedule>] = settings! {
    "schedule" "domains": domains = list::<String>(0, DOMAINS), "For recipients in these domains; left out, in all,";
    "schedule" "tenants": tenants = TENANTS, "and for mail of these tenants; left out, of all.";
    "schedule" "retry_first": retry_first = Own(LIFETIME), "";
    "schedule" "retry_factor": retry_factor = Own(FACTOR), "";
    "schedule" "retry_max": retry_max = Own(LIFETIME), "";
    "schedule" "retry_jitter": retry_jitter = Own(JITTER), "";
    "schedule" "expire_after": expire_after = Own(LIFETIME),
        "Holds for mail that is queued already, in place of the age that was fixed when it was accepted.";
    "schedule" "delay_after": delay_after = Own(DELAY), "";
};

/// The settings of a `[[certificate]]`.
pub(super) const CERTIFICATE_SETTINGS: &[Setting<Certificate>] = settings! {
    "certificate" "chain": chain = PathOrEmpty, "PEM file with the chain, own certificate first.";
    "certificate" "key": key = PathOrEmpty, "PEM file with its key.";
};

const TARGETS: &str = "targets as under [routes], such as \"smtp://relay.example.com:25\"";

/// The settings of a `[[site]]`.
pub(super) const SITE_SETTINGS: &[Setting<Site>] = settings! {
    "site" "name": name = WordOrEmpty, "Its name in logs and metrics.";
    "site" "mx": mx = list::<String>(0, "MX hosts such as \"mx.example.com\", or \"*.example.com\" for all below it"),
        "Domains all of whose MX hosts are among these,";
    "site" "hosts": hosts = list::<Target>(0, TARGETS),
        "and configured routes,";
    "site" "domains": domains = list::<String>(0, DOMAINS),
        "and recipient domains.";
    "site" "sources": sources = list::<String>(0, "names of sources"),
        "Only for mail whose pool has none but these sources.";
    "site" "connections_max": rules.connections_max = Own(CONNECTIONS), "";
    "site" "messages_per_connection_max": rules.messages_per_connection_max = Own(MESSAGES_PER_CONNECTION), "";
    "site" "recipients_per_transaction_max": rules.recipients_per_transaction_max = Own(RECIPIENTS), "";
    "site" "window": rules.window = Own(WINDOW), "";
    "site" "idle_timeout": rules.idle_timeout = Own(TIMEOUT), "";
    "site" "connection_rate": rules.connection_rate = Own(RATE), "";
    "site" "message_rate": rules.message_rate = Own(RATE), "";
    "site" "tls": rules.tls = Own(TLS_POLICY), "";
    "site" "client_certificate": rules.client_certificate = PathOrEmpty,
        "PEM file with the chain that is shown to remotes that ask for one. Read at the start.";
    "site" "client_key": rules.client_key = PathOrEmpty, "PEM file with its key.";
    "site" "auth_user": rules.auth_user = LineOrEmpty,
        "Who logs in, by SCRAM-SHA-256 where it is offered, else PLAIN or LOGIN; only over TLS, or to loopback. Whoever can\n\
         # pretend to be the host gets a password of the last two: tls = \"verified\" prevents it.";
    "site" "auth_password_file": rules.auth_password_file = PathOrEmpty,
        "File with nothing but the password. Read at the start.";
};

/// The settings of a `[[source]]`.
pub(super) const SOURCE_SETTINGS: &[Setting<Source>] = settings! {
    "source" "name": name = WordOrEmpty, "Its name in pools, sites, logs and metrics.";
    "source" "addresses": addresses = list::<IpAddr>(1, "addresses of this host such as \"192.0.2.1\" or \"2001:db8::1\""),
        "One IPv4 or IPv6 address, or one of each; hosts that need the other family are passed over.";
    "source" "ehlo_name": ehlo_name = NameOrEmpty,
        "Our name in its EHLO. \"\" means delivery.ehlo_name.";
};

/// The settings of a `[[pool]]`.
pub(super) const POOL_SETTINGS: &[Setting<Pool>] = settings! {
    "pool" "name": name = WordOrEmpty, "Its name in headers, logs and metrics.";
    "pool" "sources": sources = list::<Member>(1, "names of sources, such as \"one\", or \"one:3\" for three parts of the connections"),
        "A source that cannot be used is left out for a while; the others take its part.";
    "pool" "tenants": tenants = list::<Box<str>>(0, "names of tenants"),
        "Whose mail leaves by it,";
    "pool" "domains": domains = list::<String>(0, DOMAINS),
        "and to which recipient domains.";
};

/// The settings of a `[[tenant]]`.
pub(super) const TENANT_SETTINGS: &[Setting<Tenant>] = settings! {
    "tenant" "name": name = WordOrEmpty, "As users, listeners and their tenant_header name it.";
    "tenant" "weight": weight = Count(1..=WEIGHT_MAX),
        "Its part of what a path takes, in bytes, against the 1 of tenants without a weight.";
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_has_a_section_and_no_key_stands_twice() {
        let mut seen = std::collections::BTreeSet::new();
        for setting in SETTINGS {
            assert!(SECTIONS.iter().any(|section| section.name == setting.section), "{}", setting.section);
            assert!(seen.insert((setting.section, setting.key)), "{}.{}", setting.section, setting.key);
        }
    }
}
