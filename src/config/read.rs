//! PURE. Reads a configuration file: all its errors at once, each with line, column, key, what was found and what is
//! allowed.

mod schedules;

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::listener::{Listener, ListenerKind};
use super::options::{Config, MIB};
use super::schema::{
    CERTIFICATE, CERTIFICATE_SETTINGS, LISTENER, LISTENER_SETTINGS, POOL, POOL_SETTINGS, ROUTES, SCHEDULE,
    SCHEDULE_SETTINGS, SECTIONS, SETTINGS, SITE, SITE_SETTINGS, SOURCE, SOURCE_SETTINGS, Setting, TENANT,
    TENANT_SETTINGS,
};
use super::value::{Wrong, found, show_duration, show_size};
use crate::endpoint::Endpoint;
use crate::routing::Target;

/// One thing that is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// `section.key`, or the section; empty when the text is no TOML there.
    pub key: String,
    /// What was found, and what is allowed in its place.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}: ", self.line, self.column)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.what)
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error(
        "cannot read the configuration {}: {source}; `ringpost config --default` prints a file to begin with",
        path.display()
    )]
    Unreadable {
        /// As given.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file could be read and is wrong.
    #[error("{}", listed(path, problems))]
    Invalid {
        /// As given.
        path: PathBuf,
        /// At least one, by line.
        problems: Vec<Problem>,
    },
    /// The system's host name cannot stand in `smtp.hostname`.
    #[error(
        "the system's host name {name:?} cannot be used in SMTP: set `hostname = \"mail.example.com\"` under \
         `[smtp]` in a file given with --config (labels of letters, digits and `-`, joined by dots)"
    )]
    HostName {
        /// What the system said.
        name: String,
    },
}

fn listed(path: &std::path::Path, problems: &[Problem]) -> String {
    let lines: Vec<String> =
        problems.iter().map(|problem| format!("{}: {problem}", path.display())).collect();
    format!("{}\n(`ringpost config --default` prints a complete file with comments)", lines.join("\n"))
}

/// Problems found so far, and the text they are in.
pub(super) struct Reader<'a> {
    text: &'a str,
    problems: Vec<(usize, Problem)>,
    /// Where each setting of the file stands, as `section.key`, for rules between settings.
    places: Vec<(String, Range<usize>)>,
}

impl Config {
    /// Reads a file's text. Settings that are left out have their defaults.
    ///
    /// # Errors
    /// Every problem of the file, by place; at least one.
    pub fn parse(text: &str) -> Result<Config, Vec<Problem>> {
        let mut reader = Reader { text, problems: Vec::new(), places: Vec::new() };
        let mut config = Config::default();
        let (document, errors) = DeTable::parse_recoverable(text);
        for error in errors {
            let place = error.span().map_or(0, |span| span.start);
            reader.problem(place, String::new(), format!("not TOML: {}", error.message()));
        }
        for (name, table) in document.get_ref() {
            reader.section(&mut config, name, table);
        }
        // Rules between settings would only confuse while single ones are wrong.
        if reader.problems.is_empty() {
            reader.rules(&config);
        }
        if reader.problems.is_empty() {
            return Ok(config);
        }
        reader.problems.sort_by_key(|(place, _)| *place);
        Err(reader.problems.into_iter().map(|(_, problem)| problem).collect())
    }
}

impl Reader<'_> {
    fn problem(&mut self, place: usize, key: String, what: String) {
        let mut place = place.min(self.text.len());
        while !self.text.is_char_boundary(place) {
            place -= 1;
        }
        let before = &self.text[..place];
        let line_start = before.rfind('\n').map_or(0, |end| end + 1);
        let line = before.matches('\n').count() + 1;
        let column = before[line_start..].chars().count() + 1;
        self.problems.push((place, Problem { line, column, key, what }));
    }

    fn section(
        &mut self,
        config: &mut Config,
        name: &Spanned<std::borrow::Cow<'_, str>>,
        table: &Spanned<DeValue<'_>>,
    ) {
        let section: &str = name.get_ref();
        if !SECTIONS.iter().any(|known| known.name == section) {
            let known: Vec<&str> = SECTIONS.iter().map(|section| section.name).collect();
            // A key written without its table is the usual slip.
            let homes: Vec<String> =
                SETTINGS.iter().filter(|s| s.key == section).map(|s| format!("[{}]", s.section)).collect();
            let what = if homes.is_empty() {
                unknown("section", section, &known)
            } else {
                format!("this key belongs under {}", homes.join(" or "))
            };
            return self.problem(name.span().start, section.to_owned(), what);
        }
        match section {
            LISTENER => {
                config.listeners = self.tables(LISTENER_SETTINGS, LISTENER, table, &["address", "kind"]);
            }
            CERTIFICATE => {
                config.certificates =
                    self.tables(CERTIFICATE_SETTINGS, CERTIFICATE, table, &["chain", "key"]);
            }
            SCHEDULE => config.schedules = self.tables(SCHEDULE_SETTINGS, SCHEDULE, table, &[]),
            SITE => config.sites = self.tables(SITE_SETTINGS, SITE, table, &["name"]),
            SOURCE => config.sources = self.tables(SOURCE_SETTINGS, SOURCE, table, &["name", "addresses"]),
            POOL => config.pools = self.tables(POOL_SETTINGS, POOL, table, &["name", "sources"]),
            TENANT => config.tenants = self.tables(TENANT_SETTINGS, TENANT, table, &["name", "weight"]),
            _ => self.section_of_keys(section, table, config),
        }
    }

    /// Reads a section that stands once.
    fn section_of_keys(&mut self, section: &str, table: &Spanned<DeValue<'_>>, config: &mut Config) {
        let Some(entries) = table.get_ref().as_table() else {
            let what = format!(
                "found {}; it is a section: write `[{section}]`, its keys below",
                found(table.get_ref())
            );
            return self.problem(table.span().start, section.to_owned(), what);
        };
        for (key, value) in entries {
            if section == ROUTES {
                self.route(config, key, value);
            } else {
                self.setting(SETTINGS, config, section, key, value);
            }
        }
    }

    /// Reads the tables of a section that may stand several times; each has the `needed` keys.
    fn tables<T: Default>(
        &mut self,
        settings: &[Setting<T>],
        section: &str,
        tables: &Spanned<DeValue<'_>>,
        needed: &[&str],
    ) -> Vec<T> {
        let array = tables.get_ref().as_array();
        let items = array.into_iter().flatten();
        let items: Vec<_> =
            items.filter_map(|item| Some((item.span(), item.get_ref().as_table()?))).collect();
        if items.is_empty() || items.len() != array.map_or(0, |array| array.len()) {
            let what = format!(
                "found {}; each {section} is a table of its own: write `[[{section}]]`, its keys below",
                found(tables.get_ref())
            );
            self.problem(tables.span().start, section.to_owned(), what);
            return Vec::new();
        }
        let mut read = Vec::new();
        for (place, entries) in items {
            let mut target = T::default();
            self.places.push((section.to_owned(), place.clone()));
            for (key, value) in entries {
                self.setting(settings, &mut target, section, key, value);
            }
            for key in needed {
                if !entries.keys().any(|given| given.get_ref() == key) {
                    let what = format!("a {section} needs its {}", needed.join(" and its "));
                    self.problem(place.start, format!("{section}.{key}"), what);
                }
            }
            read.push(target);
        }
        read
    }

    fn setting<T>(
        &mut self,
        settings: &[Setting<T>],
        target: &mut T,
        section: &str,
        key: &Spanned<std::borrow::Cow<'_, str>>,
        value: &Spanned<DeValue<'_>>,
    ) {
        let full = format!("{section}.{}", key.get_ref());
        let Some(setting) = settings.iter().find(|s| s.section == section && s.key == key.get_ref()) else {
            let known: Vec<&str> = settings.iter().filter(|s| s.section == section).map(|s| s.key).collect();
            return self.problem(key.span().start, full, unknown("key", key.get_ref(), &known));
        };
        if let Err(wrong) = (setting.set)(target, value.get_ref()) {
            let why = match wrong {
                Wrong::Form => String::new(),
                Wrong::Reason(reason) => format!(": {reason}"),
            };
            let what = format!("found {}{why}; allowed is {}", found(value.get_ref()), (setting.allowed)());
            self.problem(value.span().start, full.clone(), what);
        }
        self.places.push((full, value.span()));
    }

    fn route(
        &mut self,
        config: &mut Config,
        pattern: &Spanned<std::borrow::Cow<'_, str>>,
        value: &Spanned<DeValue<'_>>,
    ) {
        let key = format!("{ROUTES}.{:?}", pattern.get_ref());
        let target = match value.get_ref().as_str().map(str::parse::<Target>) {
            Some(Ok(target)) => target,
            // Unquoted, `example.com = "mx"` is a table `example` with a key `com`.
            None if value.get_ref().is_table() => {
                let what = "found a table; quote the domain: \"example.com\" = \"mx\"".to_owned();
                return self.problem(pattern.span().start, key, what);
            }
            _ => {
                let what = format!(
                    "found {}; allowed is \"mx\", \"smtp://HOST:PORT\", \"discard\" or \"hold\"",
                    found(value.get_ref())
                );
                return self.problem(value.span().start, key, what);
            }
        };
        if let Err(error) = config.routing.table.insert(pattern.get_ref(), target) {
            self.problem(pattern.span().start, key, error.to_string());
        }
    }

    /// Rules between settings: each names the setting that the file gives, the later one if it gives both.
    fn rules(&mut self, config: &Config) {
        let (delivery, resolver) = (&config.delivery, &config.resolver);
        self.rule(
            config.spool.segment_bytes.is_multiple_of(MIB),
            ["spool.segment_bytes"; 2],
            format!("found {}; allowed is a multiple of 1MiB", show_size(config.spool.segment_bytes)),
        );
        self.rule(
            delivery.retry_first <= delivery.retry_max,
            ["delivery.retry_first", "delivery.retry_max"],
            format!(
                "retry_first is {} and retry_max {}; allowed is retry_first ≤ retry_max",
                show_duration(delivery.retry_first),
                show_duration(delivery.retry_max)
            ),
        );
        self.rule(
            config.smtp.tls_certificate.as_os_str().is_empty() == config.smtp.tls_key.as_os_str().is_empty(),
            ["smtp.tls_certificate", "smtp.tls_key"],
            "only one of tls_certificate and tls_key is set; allowed is both or none".to_owned(),
        );
        self.rule(
            resolver.ttl_min <= resolver.ttl_max,
            ["resolver.ttl_min", "resolver.ttl_max"],
            format!(
                "ttl_min is {} and ttl_max {}; allowed is ttl_min ≤ ttl_max",
                show_duration(resolver.ttl_min),
                show_duration(resolver.ttl_max)
            ),
        );
        self.rule(
            config.smtp.message_bytes_max <= config.limits.in_flight_bytes_max,
            ["smtp.message_bytes_max", "limits.in_flight_bytes_max"],
            format!(
                "a message may have {} and all that are being received together {}; allowed is \
                 smtp.message_bytes_max ≤ limits.in_flight_bytes_max",
                show_size(config.smtp.message_bytes_max),
                show_size(config.limits.in_flight_bytes_max)
            ),
        );
        let into_maildirs = config.routing.table.entries().find(|(_, target)| **target == Target::Maildir);
        if let Some((pattern, _)) = into_maildirs {
            self.rule(
                !config.mailboxes.file.as_os_str().is_empty(),
                ["mailboxes.file"; 2],
                format!("the route of {pattern} is \"maildir\"; allowed is a file here that says whose Maildir is where"),
            );
        }
        self.listener_rules(config);
        self.schedule_rules(config);
        self.sending_rules(config);
    }

    fn listener_rules(&mut self, config: &Config) {
        let listeners = config.listeners();
        self.rule(
            !listeners.is_empty(),
            ["smtp.listen"; 2],
            "nothing to listen on; allowed is an address here, or a [[listener]]".to_owned(),
        );
        for (index, Listener { address, .. }) in listeners.iter().enumerate() {
            let is_free_port = address.ip().is_some_and(|address| address.port() == 0);
            let taken = listeners[..index].iter().any(|other| other.address == *address) && !is_free_port;
            self.rule(
                !taken,
                ["smtp.listen", "listener.address"],
                format!("{address} is listened on twice; allowed is once for each address"),
            );
        }
        for (nth, Listener { address, trusted, kind, .. }) in config.listeners.iter().enumerate() {
            let what = match (address, trusted, kind) {
                (Endpoint::Unix(_), None, _) => {
                    "clients of a unix socket are in no network; allowed is trusted = true or trusted = false beside it, \
                     which says whether they may send to any domain"
                }
                (Endpoint::Unix(_), _, ListenerKind::Submissions) => {
                    "no TLS is spoken over a unix socket; allowed is kind = \"submission\""
                }
                (Endpoint::Ip(_), Some(_), _) => {
                    "trusted is about clients of a unix socket; allowed is relay_networks for those of an address"
                }
                _ => continue,
            };
            self.rule_at(nth, false, "listener.address", what.to_owned());
        }
    }

    /// A rule about the table number `nth` of those with the key, which all of them have.
    pub(super) fn rule_at(&mut self, nth: usize, holds: bool, key: &str, what: String) {
        if !holds {
            let place = self.places.iter().filter(|(given, _)| given == key).nth(nth);
            let start = place.map_or(0, |(_, span)| span.start);
            self.problem(start, key.to_owned(), what);
        }
    }

    pub(super) fn rule(&mut self, holds: bool, keys: [&str; 2], what: String) {
        if !holds {
            let given = self.places.iter().filter(|(key, _)| keys.contains(&key.as_str()));
            let (key, place) = given
                .max_by_key(|(_, span)| span.start)
                .map_or_else(|| (keys[0].to_owned(), 0), |(key, span)| (key.clone(), span.start));
            self.problem(place, key, what);
        }
    }
}

/// The words for an unknown name: the nearest known one if it is near, and all of them.
fn unknown(kind: &str, name: &str, known: &[&str]) -> String {
    let nearest = known.iter().map(|other| (distance(name, other), other)).min();
    let hint = match nearest {
        Some((distance, other)) if distance <= 1 + other.len() / 4 => format!(" (did you mean `{other}`?)"),
        _ => String::new(),
    };
    format!("unknown {kind}{hint}; known are {}", known.join(", "))
}

/// Letters to insert, remove or replace to make `left` into `right` (Levenshtein).
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    // Names in a file have no bound, and nothing long is near anything known.
    for (above, from) in left.chars().take(64).enumerate() {
        let mut diagonal = row[0];
        row[0] = above + 1;
        for (column, to) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
pub(super) mod tests;
