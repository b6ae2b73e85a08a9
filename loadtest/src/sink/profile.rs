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

use std::ops::Range;

use serde::Deserialize;
use toml::Spanned;

use crate::clock::Micros;
use crate::options::{place, values};
use crate::sink::script::{Action, Name, Rule, Script, Stage, Window, reply, stage};
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
    banner: Option<Spanned<String>>,
    #[serde(default)]
    offers: Offers,
    #[serde(default)]
    limits: Limits,
    #[serde(default)]
    rule: Vec<Spanned<WrittenRule>>,
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
#[serde(untagged, expecting = "a text or a list of texts")]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct WrittenRule {
    stage: Spanned<String>,
    local: Option<String>,
    domain: Option<String>,
    share: Option<Spanned<f64>>,
    first: Option<u32>,
    above: Option<u32>,
    during: Option<Spanned<String>>,
    every: Option<Spanned<String>>,
    reply: Option<Spanned<OneOrMore>>,
    #[serde(default)]
    drop: bool,
    delay: Option<Spanned<String>>,
    tarpit: Option<Spanned<String>>,
}

/// What is wrong, and where in the text.
struct Wrong(Range<usize>, String);

impl Wrong {
    fn at<T>(place: &Spanned<T>, what: impl Into<String>) -> Self {
        Self(place.span(), what.into())
    }
}

/// Reads a profile.
pub fn read(text: &str) -> Result<Profile, String> {
    let written: Written = toml::from_str(text).map_err(|error| error.to_string())?;
    profile(written).map_err(|Wrong(place, what)| place::say(text, place.start, &what))
}

fn profile(written: Written) -> Result<Profile, Wrong> {
    let rules = written.rule.into_iter().map(read_rule).collect::<Result<_, _>>()?;
    let default = Manners::default();
    let (offers, limits) = (written.offers, written.limits);
    let is_banner = |text: &str| text.starts_with("220") && !text.contains(char::is_control);
    if let Some(banner) = written.banner.as_ref().filter(|banner| !is_banner(banner.as_ref())) {
        return Err(Wrong::at(banner, "banner takes one line that starts with 220"));
    }
    Ok(Profile {
        manners: Manners {
            banner: written.banner.map_or(default.banner, Spanned::into_inner),
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

fn read_rule(rule: Spanned<WrittenRule>) -> Result<Rule, Wrong> {
    let here = rule.span();
    let rule = rule.into_inner();
    let stage = stage(rule.stage.as_ref())
        .ok_or_else(|| Wrong::at(&rule.stage, "stage takes connect, ehlo, mail, rcpt, data or dot"))?;
    let action = action(&rule, stage, &here)?;
    let delays = rule.delay.as_ref().map_or(Ok(Vec::new()), delays)?;
    if action.is_none() && delays.is_empty() {
        return Err(Wrong(here, "a rule needs `reply`, `drop` or `delay`".into()));
    }
    let share = rule.share.as_ref().map_or(1.0, |share| *share.as_ref());
    if let Some(place) = rule.share.as_ref().filter(|_| !(0.0..=1.0).contains(&share)) {
        return Err(Wrong::at(place, "share takes 0 to 1"));
    }
    Ok(Rule {
        stage,
        local: Name::parse(rule.local.as_deref().unwrap_or("*")),
        domain: Name::parse(rule.domain.as_deref().unwrap_or("*")),
        action,
        delays,
        first: rule.first,
        above: rule.above,
        share,
        window: window(rule.during.as_ref(), rule.every.as_ref())?,
    })
}

fn action(rule: &WrittenRule, stage: Stage, here: &Range<usize>) -> Result<Option<Action>, Wrong> {
    let tarpit = rule.tarpit.as_ref().map(time).transpose()?.unwrap_or(0);
    let Some(place) = &rule.reply else {
        if let Some(place) = &rule.tarpit {
            return Err(Wrong::at(place, "tarpit slows the bytes of `reply`, which is not there"));
        }
        return Ok(rule.drop.then_some(Action::Drop));
    };
    let written = match place.as_ref() {
        OneOrMore::One(text) => std::slice::from_ref(text),
        OneOrMore::More(texts) => texts,
    };
    let texts = written.iter().map(|text| reply(text, stage)).collect::<Result<Vec<_>, _>>();
    let texts = texts.map_err(|what| Wrong::at(place, what))?;
    // A rule is either for now or for good: what is owed to the sender depends on it.
    if texts.windows(2).any(|pair| pair[0].as_bytes()[0] != pair[1].as_bytes()[0]) {
        return Err(Wrong::at(place, "a rule's replies are either all 4xx or all 5xx"));
    }
    if texts.is_empty() {
        return Err(Wrong::at(place, "reply takes one text or a list of some"));
    }
    if rule.drop {
        return Err(Wrong(here.clone(), "`drop` and `reply` exclude each other".into()));
    }
    Ok(Some(Action::Replies { texts, tarpit }))
}

fn time(place: &Spanned<String>) -> Result<Micros, Wrong> {
    values::time(place.as_ref()).ok_or_else(|| Wrong::at(place, "a time is such as 250us, 50ms, 2s or 1m"))
}

fn delays(place: &Spanned<String>) -> Result<Vec<Micros>, Wrong> {
    let text = place.as_ref();
    let points = values::distribution(text, |text| values::time(text).map(|micros| micros as f64));
    let points = points.map(|points| points.into_iter().map(|micros| micros as Micros).collect());
    let alone = || values::time(text).map(|micros| vec![micros]);
    points.or_else(alone).ok_or_else(|| {
        Wrong::at(place, "a delay is such as 50ms, lognormal:80ms,0.7, uniform:1ms..9ms or exponential:20ms")
    })
}

fn window(
    during: Option<&Spanned<String>>,
    every: Option<&Spanned<String>>,
) -> Result<Option<Window>, Wrong> {
    let Some(place) = during else {
        return every
            .map_or(Ok(None), |place| Err(Wrong::at(place, "`every` repeats `during`, which is not there")));
    };
    let pair = place.as_ref().split_once("..").map(|(from, to)| (values::time(from), values::time(to)));
    let Some((Some(from), Some(to))) = pair.filter(|(from, to)| from < to) else {
        return Err(Wrong::at(place, "during takes such as 10s..40s"));
    };
    Ok(Some(Window { from, to, every: every.map_or(Ok(0), time)? }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::script::Moment;

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
    fn what_is_wrong_is_said_with_its_line() {
        for (text, want) in [
            ("[[rule]]\nstage='rcpt'\n[[rule]]\nstage='rcpt'\ndrop=true", "line 1: a rule needs"),
            ("# x\n[[rule]]\nstage='later'\ndrop=true", "line 3: stage takes"),
            ("[[rule]]\nstage='rcpt'\nreply=['450 a',\n'550 b']", "line 3: a rule's replies"),
            ("[[rule]]\nstage='rcpt'\n\nreply='450-a'", "line 4: a reply is such as"),
            ("[[rule]]\nstage='rcpt'\nreply=[]", "line 3: reply takes"),
            ("[[rule]]\nstage='rcpt'\nreply='552 full'", "line 3: 552 at RCPT"),
            ("[[rule]]\nstage='rcpt'\nreply='450 a'\ndrop=true", "line 1: `drop` and `reply`"),
            ("[[rule]]\nstage='rcpt'\ndelay='soon'", "line 3: a delay is such as"),
            ("[[rule]]\nstage='rcpt'\ndrop=true\ntarpit='1s'", "line 4: tarpit slows"),
            ("[[rule]]\nstage='rcpt'\nreply='450 a'\ntarpit='slow'", "line 4: a time is such as"),
            ("[[rule]]\nstage='rcpt'\ndrop=true\nshare=2.0", "line 4: share takes"),
            ("[[rule]]\nstage='rcpt'\ndrop=true\nduring='9s..1s'", "line 4: during takes"),
            ("[[rule]]\nstage='rcpt'\ndrop=true\nevery='9s'", "line 4: `every` repeats"),
            ("[limits]\nconections=5", "line 2"),
            ("\nbanner='hello'", "line 2: banner"),
            ("[[rule]]\nstage='rcpt'\nreply='450 a'\nfirst='once'", "line 4"),
        ] {
            let error = read(text).map(|_| ()).unwrap_err();
            assert!(error.contains(want), "{text}: {error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(key in "[a-z]{1,7}", value in "\\PC{0,24}") {
            let quoted = value.replace(['\\', '\''], "");
            for text in [value.clone(), format!("{key}='{quoted}'"), format!("[[rule]]\nstage='dot'\n{key}='{quoted}'")] {
                let _ = read(&text);
            }
            for key in ["reply", "delay", "during", "tarpit", "stage", "local", "domain"] {
                let _ = read(&format!("[[rule]]\nreply='450 a'\nstage='dot'\n{key}='{quoted}'"));
                let _ = read(&format!("[[rule]]\n{key}='{quoted}'"));
            }
        }
    }
}
