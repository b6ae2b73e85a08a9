//! PURE. A `Config` as the file that reads back to it, with a comment for each setting.

use std::fmt::Write as _;

use super::options::Config;
use super::schema::{
    CERTIFICATE, CERTIFICATE_SETTINGS, LISTENER, LISTENER_SETTINGS, POOL, POOL_SETTINGS, ROUTES, SCHEDULE,
    SCHEDULE_SETTINGS, SECTIONS, SETTINGS, SITE, SITE_SETTINGS, SOURCE, SOURCE_SETTINGS, Setting, TENANT,
    TENANT_SETTINGS,
};
use super::value::quoted;

/// The defaults as a commented TOML file that reads back to them.
pub fn default_file() -> String {
    file_of(&Config::default())
}

/// `config` as a commented TOML file.
pub(super) fn file_of(config: &Config) -> String {
    let mut file = String::from(
        "# Configuration of Ringpost. Every setting is here with its default; leave out what you do not change.\n\
         # Check a file with: ringpost check --config FILE\n\
         # Sizes are \"64MiB\" (B, KiB, MiB, GiB), durations \"5m\" (ms, s, m, h, d).\n",
    );
    for section in SECTIONS {
        // Writing to a String cannot fail.
        let _ = write!(file, "\n# {}\n", section.about);
        let tables = match section.name {
            LISTENER => Some(tables_of(LISTENER, LISTENER_SETTINGS, &config.listeners)),
            CERTIFICATE => Some(tables_of(CERTIFICATE, CERTIFICATE_SETTINGS, &config.certificates)),
            SITE => Some(tables_of(SITE, SITE_SETTINGS, &config.sites)),
            SOURCE => Some(tables_of(SOURCE, SOURCE_SETTINGS, &config.sources)),
            POOL => Some(tables_of(POOL, POOL_SETTINGS, &config.pools)),
            SCHEDULE => Some(tables_of(SCHEDULE, SCHEDULE_SETTINGS, &config.schedules)),
            TENANT => Some(tables_of(TENANT, TENANT_SETTINGS, &config.tenants)),
            _ => None,
        };
        if let Some(tables) = tables {
            file.push_str(&tables);
            continue;
        }
        let _ = writeln!(file, "[{}]", section.name);
        if section.name == ROUTES {
            for (pattern, target) in config.routing.table.entries() {
                let _ = writeln!(file, "{} = {}", quoted(&pattern), quoted(&target.to_string()));
            }
        }
        for setting in SETTINGS.iter().filter(|setting| setting.section == section.name) {
            file.push_str(&lines_of(setting, config));
        }
    }
    file
}

/// The comment and the line of one setting.
fn lines_of<T>(setting: &Setting<T>, table: &T) -> String {
    let mut lines = String::new();
    if !setting.about.is_empty() {
        let _ = writeln!(lines, "# {}", setting.about);
    }
    // What is left to another setting has nothing to show.
    let shown = (setting.show)(table);
    let _ = if shown.is_empty() {
        writeln!(lines, "# {} = <{}>", setting.key, (setting.allowed)())
    } else {
        writeln!(lines, "{} = {shown}", setting.key)
    };
    lines
}

/// The tables of a section that may stand several times; without any an example in comments.
fn tables_of<T: Default>(name: &str, settings: &[Setting<T>], tables: &[T]) -> String {
    let table = |table: &T| {
        let lines = settings.iter().map(|setting| lines_of(setting, table));
        format!("[[{name}]]\n{}", lines.collect::<String>())
    };
    if tables.is_empty() {
        let commented =
            |line: &str| if line.starts_with('#') { format!("{line}\n") } else { format!("# {line}\n") };
        return table(&T::default()).lines().map(commented).collect();
    }
    tables.iter().map(table).collect()
}

#[cfg(test)]
mod tests {
    use super::super::listener::{Listener, ListenerKind};
    use super::super::options::{Certificate, Tenant};
    use super::super::schedule::Schedule;
    use super::*;
    use crate::routing::TlsPolicy;
    use crate::routing::site::{Site, SiteRules};
    use crate::routing::source::{Member, Pool, Source};

    #[test]
    fn the_default_file_reads_back_to_exactly_the_defaults() {
        assert_eq!(Config::parse(&default_file()).expect("the default file is valid"), Config::default());
    }

    #[test]
    fn each_setting_survives_being_written_and_read() {
        let mut config = Config::default();
        config.smtp.relay_domains = vec!["example.com".into(), "*.bücher.example".into()];
        config.listeners = vec![
            Listener::default(),
            Listener {
                address: "unix:/run/ringpost/in".parse().expect("address"),
                socket_mode: 0o666,
                trusted: Some(true),
                kind: ListenerKind::Mx,
                relay_networks: Some(vec!["10.0.0.0/8".parse().expect("network")]),
                proxy_networks: Some(Vec::new()),
                xclient_networks: Some(vec!["::1".parse().expect("network")]),
                limits: false,
                relay_certificates: vec![[7; 32]],
                tenant: "acme".into(),
                tenant_header: "X-Tenant".into(),
            },
        ];
        let addresses = vec!["192.0.2.1".parse().expect("v4"), "2001:db8::1".parse().expect("v6")];
        let name = "out-1".to_owned();
        config.sources = vec![Source { name: name.clone(), addresses, ehlo_name: "out.example".into() }];
        config.pools = vec![Pool {
            name: "bulk".into(),
            sources: vec![Member { source: name, weight: 3 }],
            tenants: vec!["acme".into()],
            domains: vec!["*.example.com".into()],
        }];
        config.delivery.pool = "bulk".into();
        config.sites = vec![Site {
            name: "big".into(),
            mx: vec!["*.big.example".into()],
            hosts: vec!["smtp://[::1]:26".parse().expect("target")],
            domains: vec!["a.example".into()],
            sources: vec!["out-1".into()],
            rules: SiteRules {
                window: Some(3),
                message_rate: "5/min".parse().ok(),
                tls: Some(TlsPolicy::Verified),
                client_certificate: "a.pem".into(),
                client_key: "a.key".into(),
                auth_user: "me \"é\" @a.example".into(),
                auth_password_file: "password".into(),
                ..SiteRules::default()
            },
        }];
        config.schedules = vec![Schedule {
            domains: vec!["*.slow.example".into()],
            tenants: vec!["news".into()],
            retry_factor: Some(1.5),
            delay_after: Some(std::time::Duration::ZERO),
            ..Schedule::default()
        }];
        config.bounce.verp_senders = vec!["*@lists.example".into()];
        config.bounce.verp_delimiters = "-=".into();
        config.tenants = vec![Tenant { name: "acme".into(), weight: 7 }];
        config.certificates = vec![Certificate { chain: "a.pem".into(), key: "a.key".into() }];
        config.smtp.hostname = "mail.example.com".into();
        config.spool.directory = "/var/spool/a \"b\" \\c".into();
        config.delivery.retry_factor = 1.25;
        config.delivery.timeouts.connect = std::time::Duration::from_millis(1500);
        config.resolver.addresses = vec!["[::1]:5353".parse().expect("address")];
        config.threads.shards = 7;
        config
            .routing
            .table
            .insert("*.example.org", "smtp://[::1]:26".parse().expect("target"))
            .expect("pattern");
        assert_eq!(Config::parse(&file_of(&config)).expect("valid"), config);
    }

    #[test]
    fn comments_of_the_default_file_stay_comments() {
        for line in default_file().lines() {
            assert!(line.len() <= 140, "{line}");
            assert!(line.is_empty() || line.starts_with(['#', '[', '"']) || line.contains(" = "), "{line}");
        }
    }
}
