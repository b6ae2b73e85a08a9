//! The command line's translation into settings. It reads the files named there. What could hurt somebody is
//! refused here.

use std::net::{IpAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::bounds::Bound;
use crate::clock;
use crate::limits::{
    CONNECTIONS_DEFAULT, CONNECTIONS_MAX, DURATION_SECONDS_DEFAULT, DURATION_SECONDS_MAX, MESSAGE_BYTES_MAX,
    MESSAGES_MAX, RATE_DEFAULT, RECIPIENTS_MAX, TEMPLATES, THREADS_MAX,
};
use crate::options::{Listen, RunCommand, SinkOptions, SourceOptions, TlsMode, values};
use crate::sink::Listener;
use crate::sink::keep::Keeper;
use crate::sink::profile::{self, Profile};
use crate::sink::script::Script;
use crate::sink::session::Manners;
use crate::source::mix::Mix;
use crate::source::pace::{Pace, Pattern};
use crate::source::plan::{Plan, Protocol};
use crate::source::{Security, Settings};
use crate::wire::base64;
use crate::wire::mark::Run;
use crate::wire::template::{Template, date, mix};
use crate::{sink, tls};

/// A command line that cannot be followed; says what to change.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct OptionError(pub String);

fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), OptionError> {
    if holds { Ok(()) } else { Err(OptionError(otherwise())) }
}

fn given<T>(value: Option<T>, otherwise: impl FnOnce() -> String) -> Result<T, OptionError> {
    value.ok_or_else(|| OptionError(otherwise()))
}

impl SourceOptions {
    /// How the source behaves.
    pub fn settings(&self) -> Result<Settings, OptionError> {
        let addresses = self.target.to_socket_addrs();
        let target = addresses.ok().and_then(|mut found| found.next());
        let target = given(target, || format!("--target {}: no such HOST:PORT", self.target))?;
        ensure(is_loopback(target.ip()) || self.i_own_this_host, || {
            format!("--target {} is not this machine: add --i-own-this-host if you may load it", self.target)
        })?;
        let connections = self.connections.unwrap_or(CONNECTIONS_DEFAULT);
        ensure((1..=CONNECTIONS_MAX).contains(&connections), || {
            format!("--connections takes 1 to {CONNECTIONS_MAX}")
        })?;
        ensure((1..=THREADS_MAX).contains(&self.threads), || format!("--threads takes 1 to {THREADS_MAX}"))?;
        let client = || tls::client(!self.no_resume).map_err(|error| OptionError(format!("TLS: {error}")));
        let security = match self.tls {
            TlsMode::Off => Security::None,
            TlsMode::Starttls => Security::StartTls(client()?),
            TlsMode::Implicit => Security::Implicit(client()?),
        };
        let server_name = self.server_name.clone().try_into().ok();
        Ok(Settings {
            security,
            server_name: given(server_name, || format!("--server-name {}: no name", self.server_name))?,
            target,
            connections,
            threads: self.threads,
            timeout: self.timeout.saturating_mul(1_000_000),
            reconnect: self.reconnect,
        })
    }

    /// What is sent, in a run of its own.
    pub fn plan(&self) -> Result<Plan, OptionError> {
        let recipients = values::weighted(&self.recipients, |text| text.parse::<u16>().ok());
        let recipients = recipients
            .filter(|list| list.iter().all(|(count, _)| (1..=RECIPIENTS_MAX).contains(count)))
            .and_then(Mix::weighted);
        let recipients = given(recipients, || {
            format!("--recipients takes 1 to {RECIPIENTS_MAX}, or a list such as 1=90,5=10")
        })?;
        let locals = self.local.iter().map(|text| local(text)).collect::<Result<Vec<_>, _>>()?;
        let wall = clock::wall();
        let run = mix(mix(wall.as_nanos() as u64) ^ u64::from(std::process::id())) as u32;
        Ok(Plan {
            run: Run(run),
            templates: self.templates(&date(wall.as_secs()))?,
            recipients,
            locals: given(Mix::weighted(locals), || "--local is empty".into())?,
            domains: self.recipient_domains()?,
            senders: self.sender_domains()?,
            helo: self.sender_domain.clone(),
            pipelining: !self.no_pipelining,
            chunking: self.bdat,
            protocol: if self.lmtp { Protocol::Lmtp } else { Protocol::Smtp },
            starttls: self.tls == TlsMode::Starttls,
            auth: self.auth.as_deref().map(|text| plain("--auth", text)).transpose()?,
            reuse: self.reuse,
            seed: self.seed,
        })
    }

    fn recipient_domains(&self) -> Result<Mix<String>, OptionError> {
        let domains = if self.domain.is_empty() {
            values::named(&self.domains, |index| format!("d{index}.load.invalid"))
        } else {
            let list = values::weighted(&self.domain.join(","), |name| Some(name.to_owned()));
            list.and_then(Mix::weighted)
        };
        let domains = given(domains, || {
            "--domains takes 1 to 1000000 or zipf:N, --domain takes NAME[=WEIGHT]".to_owned()
        })?;
        self.ours(&domains)?;
        Ok(domains)
    }

    fn sender_domains(&self) -> Result<Mix<String>, OptionError> {
        let senders = match &self.tenants {
            None => Some(Mix::one(self.sender_domain.clone())),
            Some(count) => values::named(count, |index| format!("t{index}.{}", self.sender_domain)),
        };
        let senders = given(senders, || "--tenants takes 1 to 1000000 or zipf:N".into())?;
        self.ours(&senders)?;
        Ok(senders)
    }

    /// No domain may be somebody else's.
    fn ours(&self, domains: &Mix<String>) -> Result<(), OptionError> {
        for domain in domains.items() {
            ensure(is_domain(domain), || format!("`{domain}` is no domain name"))?;
            ensure(is_reserved(domain) || self.i_own_this_host, || {
                format!(
                    "`{domain}` might be somebody's: use .invalid, .test, .example or localhost, or add --i-own-this-host"
                )
            })?;
        }
        Ok(())
    }

    fn templates(&self, date: &str) -> Result<Mix<Template>, OptionError> {
        let made = match &self.eml {
            Some(directory) => self.files(directory, date)?,
            None => self.made_up(date)?,
        };
        let form = |(template, weight): (Template, u32)| {
            (if self.bdat { template.chunked() } else { template }, weight)
        };
        given(Mix::weighted(made.into_iter().map(form)), || "no message to send".into())
    }

    fn made_up(&self, date: &str) -> Result<Vec<(Template, u32)>, OptionError> {
        let sizes = given(values::sizes(&self.size), || {
            format!("--size {}: as in 4096, 1k=80,50k=20, lognormal:8k,1.2 or uniform:1k..64k", self.size)
        })?;
        let variants = (TEMPLATES / sizes.len()).max(1);
        let mut made = Vec::new();
        for (size, weight) in sizes {
            // A distribution's tail is cut; a size that somebody wrote is not.
            let cut = if self.size.contains(':') { size.min(MESSAGE_BYTES_MAX >> 3) } else { size };
            ensure(cut <= MESSAGE_BYTES_MAX, || format!("--size takes at most {MESSAGE_BYTES_MAX}"))?;
            for _ in 0..if cut > 1 << 20 { 1 } else { variants } {
                let seed = mix(self.seed).wrapping_add(made.len() as u64);
                made.push((Template::new(cut, &self.sender_domain, date, seed), weight));
            }
        }
        if variants > 1 {
            // Large messages have one variant only, which must have the weight of all.
            let few = |size: usize| if size > 1 << 20 { variants as u32 } else { 1 };
            made.iter_mut().for_each(|(template, weight)| *weight *= few(template.bytes()));
        }
        Ok(made)
    }

    fn files(&self, directory: &Path, date: &str) -> Result<Vec<(Template, u32)>, OptionError> {
        let failed = |error: std::io::Error| OptionError(format!("--eml {}: {error}", directory.display()));
        let mut paths = Vec::new();
        for entry in std::fs::read_dir(directory).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("eml")) {
                paths.push(path);
            }
        }
        // The directory's order is no order; a seed must mean the same choices.
        paths.sort();
        let mut made = Vec::new();
        for path in paths {
            let template =
                Template::of_file(&std::fs::read(&path).map_err(failed)?, &self.sender_domain, date);
            made.push((given(template, || format!("{}: no header", path.display()))?, 1));
        }
        ensure(!made.is_empty(), || format!("--eml {}: no .eml file", directory.display()))?;
        Ok(made)
    }

    /// The pattern of an open loop, which is the default; `None` if only the connections say how much is sent.
    pub fn open_loop(&self) -> Option<&str> {
        self.rate.as_deref().or(self.connections.is_none().then_some(RATE_DEFAULT))
    }

    /// When it is sent, from `start` on.
    pub fn pace(&self, start: clock::Micros) -> Result<Pace, OptionError> {
        let default = self.messages.is_none().then_some(DURATION_SECONDS_DEFAULT);
        let seconds = self.duration.or(default);
        ensure(seconds.is_none_or(|seconds| seconds <= DURATION_SECONDS_MAX), || {
            format!("--duration takes at most {DURATION_SECONDS_MAX} seconds")
        })?;
        ensure(self.messages.is_none_or(|count| count <= MESSAGES_MAX), || {
            format!("--messages takes at most {MESSAGES_MAX}")
        })?;
        let duration = seconds.map(|seconds| seconds * 1_000_000);
        let pattern = self.open_loop().map(str::parse::<Pattern>).transpose();
        let pattern = pattern.map_err(|error| OptionError(error.to_string()))?;
        let pattern = pattern.map(|pattern| pattern.complete(self.seed, duration, self.messages));
        ensure(self.warmup <= DURATION_SECONDS_MAX, || {
            format!("--warmup takes at most {DURATION_SECONDS_MAX} seconds")
        })?;
        let pace = Pace::new(start, pattern, Some(self.messages.unwrap_or(MESSAGES_MAX)), duration);
        Ok(pace.warmed_up(self.warmup * 1_000_000))
    }
}

impl RunCommand {
    /// Reads every value once, so that what is wrong is said before anything starts.
    pub fn check(&self) -> Result<(), OptionError> {
        self.bounds()?;
        self.source.settings()?;
        self.source.plan()?;
        self.source.pace(0)?;
        listens_here(&self.sink, self.source.i_own_this_host)?;
        self.sink.iter().try_for_each(|listen| {
            let name = listen.profile.as_ref().or(self.sink_options.profile.as_ref());
            self.sink_options.behaviour(name).map(drop)
        })
    }

    /// What must hold.
    pub fn bounds(&self) -> Result<Vec<Bound>, OptionError> {
        let read = |text: &String| text.parse().map_err(|error| OptionError(format!("--bound {error}")));
        self.bound.iter().map(read).collect()
    }
}

impl SinkOptions {
    /// How the sink behaves, at these addresses.
    pub fn settings(&self, listen: &[Listen]) -> Result<sink::Settings, OptionError> {
        let keep = |path: &PathBuf| match Keeper::open(path) {
            Ok(keeper) => Ok(Arc::new(keeper)),
            Err(error) => Err(OptionError(format!("--keep {}: {error}", path.display()))),
        };
        let files = self.sink_cert.as_deref().zip(self.sink_key.as_deref());
        let tls = (self.sink_tls != TlsMode::Off).then(|| tls::server(files)).transpose();
        ensure((1..=THREADS_MAX).contains(&self.sink_threads), || {
            format!("--sink-threads takes 1 to {THREADS_MAX}")
        })?;
        let listener = |listen: &Listen| {
            let name = listen.profile.as_ref().or(self.profile.as_ref());
            Ok(Listener { address: listen.address, name: name.cloned(), profile: self.behaviour(name)? })
        };
        Ok(sink::Settings {
            listeners: listen.iter().map(listener).collect::<Result<_, _>>()?,
            threads: self.sink_threads,
            tls: tls.map_err(|error| OptionError(format!("--sink-tls: {error}")))?,
            implicit: self.sink_tls == TlsMode::Implicit,
            keep: self.keep.as_ref().map(keep).transpose()?,
        })
    }

    /// A profile, with what the command line says besides.
    fn behaviour(&self, name: Option<&String>) -> Result<Profile, OptionError> {
        let rules = Script::parse(&self.refuse).map_err(|error| OptionError(format!("--refuse {error}")))?;
        let written = name.map_or_else(|| Ok(Profile::default()), |name| profile(name))?;
        let manners = written.manners;
        Ok(Profile {
            script: rules.before(written.script),
            manners: Manners {
                pipelining: manners.pipelining && !self.sink_no_pipelining,
                chunking: manners.chunking && !self.no_chunking,
                starttls: self.sink_tls == TlsMode::Starttls,
                auth: self.sink_auth.as_deref().map(|text| plain("--sink-auth", text)).transpose()?,
                lmtp: self.sink_lmtp,
                ..manners
            },
            ..written
        })
    }
}

fn profile(name: &str) -> Result<Profile, OptionError> {
    let known = profile::BUILT_IN.iter().find(|(known, _)| *known == name);
    let text = match known {
        Some((_, text)) => (*text).to_owned(),
        None => std::fs::read_to_string(name).map_err(|error| {
            let known: Vec<&str> = profile::BUILT_IN.iter().map(|(known, _)| *known).collect();
            OptionError(format!("profile {name}: {error}; built in are {}", known.join(", ")))
        })?,
    };
    profile::read(&text).map_err(|error| OptionError(format!("profile {name}: {error}")))
}

/// The argument of AUTH PLAIN for `USER:PASSWORD` (RFC 4616).
fn plain(option: &str, text: &str) -> Result<String, OptionError> {
    let pair = text.split_once(':').filter(|(user, _)| !user.is_empty());
    let (user, password) = given(pair, || format!("{option} takes USER:PASSWORD"))?;
    Ok(base64::encode(format!("\0{user}\0{password}").as_bytes()))
}

/// A sink that others can reach takes their mail and drops it.
pub fn listens_here(listen: &[Listen], owned: bool) -> Result<(), OptionError> {
    let open = listen.iter().find(|listen| !is_loopback(listen.address.ip()));
    open.filter(|_| !owned).map_or(Ok(()), |listen| {
        Err(OptionError(format!(
            "the sink at {} could be reached by others, whose mail it would drop: add --i-own-this-host if that is wanted",
            listen.address
        )))
    })
}

/// Nobody else's machine.
pub fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

fn is_domain(name: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    name.len() <= 253 && name.split('.').all(label)
}

/// A name that RFC 2606 and RFC 6761 keep from ever being somebody's.
fn is_reserved(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or_default().to_ascii_lowercase();
    matches!(last.as_str(), "invalid" | "test" | "example" | "localhost")
}

fn local(text: &str) -> Result<(String, u32), OptionError> {
    let (prefix, weight) = text.split_once('=').unwrap_or((text, "1"));
    let weight = weight.parse().ok().filter(|weight| *weight > 0);
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.+".contains(&byte);
    match weight {
        Some(weight) if prefix.len() <= 40 && prefix.bytes().all(allowed) => Ok((prefix.to_owned(), weight)),
        _ => Err(OptionError(format!("--local {text}: letters, digits and -_.+, then =WEIGHT from 1"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::options::{Command, Options};
    use clap::Parser;

    fn source(arguments: &[&str]) -> Result<(Plan, Settings, Pace), OptionError> {
        let all = ["ringpost-load", "source"].iter().chain(arguments);
        let options = Options::try_parse_from(all).map_err(|error| OptionError(error.to_string()))?;
        let Command::Source(command) = options.command else { return Err(OptionError("not source".into())) };
        Ok((command.source.plan()?, command.source.settings()?, command.source.pace(0)?))
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Options::command().debug_assert();
    }

    #[test]
    fn other_peoples_hosts_and_domains_need_a_word() {
        for arguments in
            [["--target", "192.0.2.1:25"], ["--domain", "example.com"], ["--sender-domain", "gmail.com"]]
        {
            let refused = source(&arguments).map(|_| ()).unwrap_err();
            assert!(refused.0.contains("--i-own-this-host"), "{refused}");
            assert!(source(&[&arguments[..], &["--i-own-this-host"]].concat()).is_ok());
        }
        for domain in ["a.test", "x.example", "localhost", "A.INVALID"] {
            assert!(source(&["--domain", domain]).is_ok(), "{domain}");
        }
    }

    #[test]
    fn defaults_are_bounded_and_pipelined() -> Result<(), OptionError> {
        let (plan, settings, pace) = source(&[])?;
        assert_eq!((plan.pipelining, settings.connections, plan.recipients(3)), (true, 32, 1));
        assert_eq!(plan.template(0).bytes(), 4096);
        assert_eq!(pace.intended_count(), Some(1000), "100 a second for 10 s");
        assert_eq!(source(&["--messages", "5"])?.2.intended_count(), Some(5));
        assert!(!source(&["--no-pipelining"])?.0.pipelining);
        Ok(())
    }

    #[test]
    fn the_loop_is_open_unless_only_the_connections_are_given() -> Result<(), OptionError> {
        let closed = Pace::new(0, None, Some(MESSAGES_MAX), Some(10_000_000));
        assert_eq!(source(&["--connections", "4"])?.2, closed);
        let open = source(&["--connections", "4", "--rate", "7"])?;
        assert_eq!((open.1.connections, open.2.intended_count()), (4, Some(70)));
        Ok(())
    }

    #[test]
    fn impossible_values_say_what_is_possible() {
        for arguments in [
            ["--recipients", "0"],
            ["--connections", "0"],
            ["--rate", "-1"],
            ["--rate", "NaN"],
            ["--local", "a b"],
            ["--local", "a=0"],
            ["--domain", "a b.invalid"],
            ["--target", "nowhere"],
            ["--threads", "0"],
            ["--threads", "1025"],
            ["--duration", "99999999999"],
            ["--warmup", "99999999999"],
            ["--messages", "99999999999"],
        ] {
            assert!(source(&arguments).is_err(), "{arguments:?}");
        }
    }

    proptest::proptest! {
        // Each case makes the messages of a plan for each option.
        #![proptest_config(proptest::test_runner::Config::with_cases(48))]
        #[test]
        fn no_value_of_any_option_makes_it_panic(
            value in proptest::prop_oneof![
                "\\PC{0,16}",
                "[-0-9.eExskmg:=,@*/]{0,16}",
                "(lognormal|uniform|exponential|zipf|poisson|burst):[0-9.,x]{0,12}",
                "(p99|p99.9|errors|mail.p50|achieved|rate|cpu|memory|lost)(<=|>=)[0-9.msuµ%k]{0,8}",
                "[a-z*@]{0,6}=(450 x|550|drop|[0-9]{3}-.{0,5})@(rcpt|dot|mail|data)(:(first|p)=.{0,5})?",
            ]
        ) {
            // Not those that name files or hosts: nothing is to be opened or looked up here.
            for option in [
                "rate", "size", "recipients", "domains", "domain", "local", "sender-domain", "tenants", "auth", "bound",
                "refuse", "sink-auth", "server-name", "sink", "connections", "duration", "messages", "warmup", "seed",
            ] {
                let words = ["ringpost-load".to_owned(), "run".into(), format!("--{option}={value}")];
                if let Ok(Options { command: Command::Run(command) }) = Options::try_parse_from(words) {
                    let profiles = command.sink.iter().all(|listen| listen.profile.is_none());
                    let _ = profiles.then(|| command.check());
                }
            }
        }
    }

    #[test]
    fn sizes_are_sent_by_their_weight_whatever_their_number_of_variants() -> Result<(), OptionError> {
        let (plan, _, _) = source(&["--size", "1k=70,64k=28,2m=2"])?;
        let share = |size: usize| (0..10_000).filter(|n| plan.template(*n).bytes() == size).count();
        assert!((6_700..7_300).contains(&share(1024)), "{}", share(1024));
        assert!((120..280).contains(&share(2 << 20)), "{}", share(2 << 20));
        Ok(())
    }

    #[test]
    fn tenants_recipients_and_auth_reach_the_plan() -> Result<(), OptionError> {
        let (plan, _, _) = source(&["--tenants", "zipf:9", "--recipients", "2=1,5=1", "--auth", "u:p"])?;
        assert_eq!((plan.senders.items().len(), plan.auth.as_deref()), (9, Some("AHUAcA==")));
        assert!((0..99).all(|number| [2, 5].contains(&plan.recipients(number))));
        assert!(source(&["--auth", "nobody"]).is_err());
        Ok(())
    }
}
