//! PURE. A sink's behaviour written down: what it offers, its limits, its rules. TOML, with errors that name the line.
//!
//! ```toml
//! banner = "220 mx.provider.invalid ESMTP"
//! [offers]
//! pipelining = false
//! [limits]
//! connections = 20                # at once; further ones get 421
//! messages-per-connection = 100   # then 421
//! messages-per-second = 500       # further ones get 450 at MAIL
//! recipients = 50                 # of a message; further ones get 452
//! [[rule]]
//! stage = "rcpt"                  # connect, ehlo, mail, rcpt, data or dot
//! domain = "*.slow.invalid"       # and `local`; whole, `x*` or `*x`
//! share = 0.05                    # of those it fits
//! first = 1                       # times for each recipient
//! above = 20                      # a second: so many are let through first
//! during = "10s..40s"             # since the sink's start, again each `every`
//! every = "60s"
//! reply = ["450 4.2.0 try later"] # one of these; or `drop = true`
//! delay = "lognormal:80ms,0.7"    # before the reply, whichever it is; or a time, `uniform:A..B`, `exponential:MEAN`
//! tarpit = "100ms"                # before each byte of `reply`
//! ```

use serde::Deserialize;

use crate::clock::Micros;
use crate::options::values;
use crate::sink::script::{Action, Name, Rule, Script, Window, reply, stage};
use crate::sink::session::Manners;

/// Profiles that are always there.
pub const BUILT_IN: [(&str, &str); 5] = [
    ("clean", include_str!("../../profiles/clean.toml")),
    ("provider-mix", include_str!("../../profiles/provider-mix.toml")),
    ("deferral-storm", include_str!("../../profiles/deferral-storm.toml")),
    ("slow", include_str!("../../profiles/slow.toml")),
    ("flaky", include_str!("../../profiles/flaky.toml")),
];

/// A profile that was read.
#[derive(Debug, Default)]
pub struct Profile {
    /// What it offers and how much of it.
    pub manners: Manners,
    /// Connections at once.
    pub connections_max: Option<usize>,
    /// Messages begun in a second.
    pub messages_per_second: Option<u32>,
    /// Whom it refuses and delays.
    pub script: Script,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Written {
    #[serde(rename = "description")]
    _description: Option<String>,
    banner: Option<String>,
    #[serde(default)]
    offers: Offers,
    #[serde(default)]
    limits: Limits,
    #[serde(default)]
    rule: Vec<WrittenRule>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Offers {
    pipelining: Option<bool>,
    chunking: Option<bool>,
    modern: Option<bool>,
    size: Option<u64>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Limits {
    connections: Option<usize>,
    messages_per_connection: Option<u64>,
    messages_per_second: Option<u32>,
    recipients: Option<usize>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct WrittenRule {
    stage: String,
    local: Option<String>,
    domain: Option<String>,
    share: Option<f64>,
    first: Option<u32>,
    above: Option<u32>,
    during: Option<String>,
    every: Option<String>,
    reply: Option<OneOrMore>,
    #[serde(default)]
    drop: bool,
    delay: Option<String>,
    tarpit: Option<String>,
}

/// Reads a profile.
pub fn read(text: &str) -> Result<Profile, String> {
    let written: Written = toml::from_str(text).map_err(|error| error.to_string())?;
    let number = |(index, rule): (usize, WrittenRule)| {
        read_rule(rule).map_err(|what| format!("rule {}: {what}", index + 1))
    };
    let rules = written.rule.into_iter().enumerate().map(number).collect::<Result<_, _>>()?;
    let default = Manners::default();
    let (offers, limits) = (written.offers, written.limits);
    let banner = written.banner.unwrap_or(default.banner);
    if !banner.starts_with("220") || banner.contains(char::is_control) {
        return Err("banner: one line that starts with 220".into());
    }
    Ok(Profile {
        manners: Manners {
            banner,
            pipelining: offers.pipelining.unwrap_or(true),
            chunking: offers.chunking.unwrap_or(true),
            modern: offers.modern.unwrap_or(true),
            size: offers.size.unwrap_or(0),
            messages_max: limits.messages_per_connection,
            recipients_max: limits.recipients,
            ..Manners::default()
        },
        connections_max: limits.connections,
        messages_per_second: limits.messages_per_second,
        script: Script::new(rules),
    })
}

fn read_rule(rule: WrittenRule) -> Result<Rule, String> {
    let time = |text: &str| values::time(text).ok_or(format!("`{text}` is no time such as 50ms"));
    let tarpit = rule.tarpit.as_deref().map(time).transpose()?.unwrap_or(0);
    let texts = match rule.reply {
        None => Vec::new(),
        Some(OneOrMore::One(text)) => vec![text],
        Some(OneOrMore::More(texts)) => texts,
    };
    let texts = texts.iter().map(|text| reply(text)).collect::<Result<Vec<_>, _>>()?;
    // A rule is either for now or for good: what is owed to the sender depends on it.
    if texts.windows(2).any(|pair| pair[0].as_bytes()[0] != pair[1].as_bytes()[0]) {
        return Err("its replies are either all 4xx or all 5xx".into());
    }
    let action = match (rule.drop, texts.is_empty()) {
        (true, true) => Some(Action::Drop),
        (false, false) => Some(Action::Replies { texts, tarpit }),
        (false, true) => None,
        (true, false) => return Err("`drop` and `reply` exclude each other".into()),
    };
    let delays = rule.delay.as_deref().map_or(Ok(Vec::new()), delays)?;
    if action.is_none() && delays.is_empty() {
        return Err("it needs `reply`, `drop` or `delay`".into());
    }
    let share = rule.share.unwrap_or(1.0);
    if !(0.0..=1.0).contains(&share) {
        return Err("share takes 0 to 1".into());
    }
    let window = window(rule.during.as_deref(), rule.every.as_deref())?;
    Ok(Rule {
        stage: stage(&rule.stage).ok_or("stage takes connect, ehlo, mail, rcpt, data or dot")?,
        local: Name::parse(rule.local.as_deref().unwrap_or("*")),
        domain: Name::parse(rule.domain.as_deref().unwrap_or("*")),
        action,
        delays,
        first: rule.first,
        above: rule.above,
        share,
        window,
    })
}

fn delays(text: &str) -> Result<Vec<Micros>, String> {
    let points = values::distribution(text, |text| values::time(text).map(|micros| micros as f64));
    let points = points.map(|points| points.into_iter().map(|micros| micros as Micros).collect());
    let alone = || values::time(text).map(|micros| vec![micros]);
    points
        .or_else(alone)
        .ok_or(format!("`{text}`: a delay is such as 50ms, lognormal:80ms,0.7 or uniform:1ms..9ms"))
}

fn window(during: Option<&str>, every: Option<&str>) -> Result<Option<Window>, String> {
    const WRONG: &str = "`during` takes such as 10s..40s, and `every` a time";
    let Some(during) = during else {
        return if every.is_some() { Err(WRONG.into()) } else { Ok(None) };
    };
    let (from, to) = during.split_once("..").ok_or(WRONG)?;
    let time = |text: &str| values::time(text).ok_or(WRONG);
    let every = every.map_or(Ok(0), time)?;
    Ok(Some(Window { from: time(from)?, to: time(to)?, every }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::script::{Moment, Stage};

    #[test]
    fn every_built_in_profile_can_be_read_and_says_what_it_is() {
        for (name, text) in BUILT_IN {
            assert!(text.starts_with("description"), "{name}");
            assert_eq!(read(text).map(|profile| profile.script.is_empty()), Ok(name == "clean"), "{name}");
        }
    }

    #[test]
    fn storms_come_and_go() {
        let text = "[[rule]]\nstage='rcpt'\nduring='10s..20s'\nevery='60s'\nreply='450 later'";
        let Ok(profile) = read(text) else { panic!("not read") };
        let hit = |seconds: u64| {
            let moment = Moment { chance: 1, elapsed: seconds * 1_000_000 };
            let decision = profile.script.decide(Stage::Rcpt, b"a@b", moment);
            profile.script.action(decision).is_some()
        };
        assert_eq!([0, 10, 19, 20, 70, 80].map(hit), [false, true, true, false, true, false]);
    }

    #[test]
    fn a_rate_refuses_what_exceeds_it_and_a_delay_with_first_delays_once() {
        let text = "[[rule]]\nstage='rcpt'\nabove=3\nreply='450 slow down'\n[[rule]]\nstage='rcpt'\nfirst=1\ndelay='9s'";
        let Ok(profile) = read(text) else { panic!("not read") };
        let decide = |n: u64| {
            let moment = Moment { chance: n, elapsed: n / 10 * 1_000_000 };
            profile.script.decide(Stage::Rcpt, b"a@b", moment)
        };
        let decisions: Vec<_> = (0..20).map(decide).collect();
        let refused = decisions.iter().filter(|decision| profile.script.action(**decision).is_some());
        assert_eq!(refused.count(), 14, "three of ten pass in each of two seconds");
        assert_eq!(decisions.iter().filter_map(|decision| decision.delay).collect::<Vec<_>>(), [9_000_000]);
    }

    #[test]
    fn what_is_wrong_is_said_with_its_rule() {
        for (text, want) in [
            ("[[rule]]\nstage='rcpt'", "rule 1: it needs"),
            ("[[rule]]\nstage='later'\ndrop=true", "rule 1: stage takes"),
            ("[[rule]]\nstage='rcpt'\nreply=['450 a','550 b']", "either all 4xx"),
            ("[[rule]]\nstage='rcpt'\nreply='450-a'", "a reply is such as"),
            ("[[rule]]\nstage='rcpt'\ndelay='soon'", "a delay is such as"),
            ("[[rule]]\nstage='rcpt'\ndrop=true\nshare=2", "share takes"),
            ("[limits]\nconections=5", "conections"),
            ("banner='hello'", "banner"),
        ] {
            let error = read(text).map(|_| ()).unwrap_err();
            assert!(error.contains(want), "{text}: {error}");
        }
    }
}
