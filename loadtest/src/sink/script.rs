//! PURE. What a sink refuses: rules by recipient and probability, each for one stage of a transaction.
//!
//! ```text
//! RULE    = PATTERN "=" ACTION "@" STAGE *( ":" OPTION )
//! PATTERN = local part, or its start and "*"; with "@domain" also the domain
//! ACTION  = 4xx or 5xx and text | "drop"
//! STAGE   = "connect" | "ehlo" | "mail" | "rcpt" | "data" | "dot"
//! OPTION  = "first=N" (only the first N times for a recipient) | "p=0.1" (this share)
//! ```
//! Example: `defer*=450 4.2.0 try later@rcpt:first=1`. Of a stage's rules the first one decides that fits and is not used
//! up; the same for delays. Profiles say more: several texts, tarpits, delays, rates and times; see
//! [`profile`](crate::sink::profile).

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::clock::Micros;
use crate::sink::meter::Meter;
use crate::wire::template::mix;

/// When a rule is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Instead of the greeting.
    Connect,
    /// At EHLO.
    Hello,
    /// At MAIL; the address is the sender's.
    Mail,
    /// At RCPT.
    Rcpt,
    /// At DATA or the first BDAT.
    Data,
    /// At the end of data, instead of 250.
    Dot,
}

/// What a rule does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// One of these replies, CRLF included; 4xx or 5xx, 421 closes.
    Replies {
        /// The texts; all of the same class.
        texts: Vec<Box<str>>,
        /// Microseconds before each byte.
        tarpit: Micros,
    },
    /// The connection goes without a reply.
    Drop,
}

impl Action {
    /// The refusal is for good: a bounce is owed.
    pub fn is_permanent(&self) -> bool {
        matches!(self, Self::Replies { texts, .. } if texts.iter().any(|text| text.starts_with('5')))
    }
}

/// What a name must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Name {
    /// Any.
    Any,
    /// This one.
    Whole(Box<str>),
    /// It starts so: `x*`.
    Start(Box<str>),
    /// It ends so: `*x`.
    End(Box<str>),
}

impl Name {
    /// From `x`, `x*`, `*x` or `*`.
    pub fn parse(text: &str) -> Self {
        match (text.strip_prefix('*'), text.strip_suffix('*')) {
            (Some(""), _) => Self::Any,
            (Some(end), _) => Self::End(end.into()),
            (None, Some(start)) => Self::Start(start.into()),
            (None, None) => Self::Whole(text.into()),
        }
    }

    fn fits(&self, name: &[u8], same: fn(&[u8], &[u8]) -> bool) -> bool {
        match self {
            Self::Any => true,
            Self::Whole(whole) => same(name, whole.as_bytes()),
            Self::Start(start) => name.get(..start.len()).is_some_and(|part| same(part, start.as_bytes())),
            Self::End(end) => {
                let at = name.len().checked_sub(end.len());
                at.is_some_and(|at| same(&name[at..], end.as_bytes()))
            }
        }
    }
}

/// When a rule holds, counted from the sink's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// From then on.
    pub from: Micros,
    /// Until then.
    pub to: Micros,
    /// Again after so long; 0 for once.
    pub every: Micros,
}

impl Window {
    fn holds(self, elapsed: Micros) -> bool {
        let elapsed = if self.every > 0 { elapsed % self.every } else { elapsed };
        (self.from..self.to).contains(&elapsed)
    }
}

/// What decides where no name does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// Any random number.
    pub chance: u64,
    /// Since the sink's start.
    pub elapsed: Micros,
}

impl Moment {
    /// The same time with another chance.
    #[must_use]
    pub fn salted(self, salt: u64) -> Self {
        Self { chance: self.chance ^ (salt << 40), ..self }
    }
}

/// One rule.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// When it is applied.
    pub stage: Stage,
    /// Local parts, case counts.
    pub local: Name,
    /// Domains, case does not count.
    pub domain: Name,
    /// What it does; `None` if it only delays.
    pub action: Option<Action>,
    /// Delays, one of which is taken; empty for none.
    pub delays: Vec<Micros>,
    /// Only the first so many times for each recipient.
    pub first: Option<u32>,
    /// Only what exceeds so many a second.
    pub above: Option<u32>,
    /// For this share.
    pub share: f64,
    /// Only then.
    pub window: Option<Window>,
}

/// A rule that was written wrongly.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{rule}`: {what}; a rule is PATTERN=ACTION@STAGE, such as `defer*=450 4.2.0 try later@rcpt:first=1`"
)]
pub struct RuleError {
    rule: String,
    what: &'static str,
}

/// All rules and what was made of them.
#[derive(Debug, Default)]
pub struct Script {
    rules: Vec<Rule>,
    /// What each rule with `above` has let through.
    passed: Vec<Meter>,
    /// Applications by hash of rule and recipient; only of rules with `first`.
    applied: Mutex<HashMap<u64, u32>>,
}

/// What the rules say about an address at a stage. It may be made before its stage comes: what is to happen at DATA is
/// known from RCPT on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// How long the reply is held back, if it is.
    pub delay: Option<Micros>,
    /// The rule that refuses; [`Script::action`] has it.
    refusal: Option<usize>,
}

impl Decision {
    /// This one, and from the other what this one leaves open.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self { delay: self.delay.or(other.delay), refusal: self.refusal.or(other.refusal) }
    }
}

impl Script {
    /// Reads rules.
    pub fn parse<S: AsRef<str>>(rules: impl IntoIterator<Item = S>) -> Result<Self, RuleError> {
        let rules = rules.into_iter().map(|rule| {
            let rule = rule.as_ref();
            parse(rule).map_err(|what| RuleError { rule: rule.to_owned(), what })
        });
        Ok(Self::new(rules.collect::<Result<_, _>>()?))
    }

    /// From rules made elsewhere.
    pub fn new(rules: Vec<Rule>) -> Self {
        let passed = rules.iter().map(|_| Meter::default()).collect();
        Self { rules, passed, applied: Mutex::default() }
    }

    /// These rules first, then the others; none has been applied yet.
    #[must_use]
    pub fn before(mut self, other: Self) -> Self {
        self.rules.extend(other.rules);
        Self::new(self.rules)
    }

    /// No rules: nothing is ever refused.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// What the rules of `stage` say about an address. Rules that this uses count it.
    pub fn decide(&self, stage: Stage, address: &[u8], moment: Moment) -> Decision {
        let at = memchr::memrchr(b'@', address).unwrap_or(address.len());
        let (local, domain) = (&address[..at], address.get(at + 1..).unwrap_or_default());
        let mut decision = Decision::default();
        for (index, rule) in self.rules.iter().enumerate().filter(|(_, rule)| rule.stage == stage) {
            let refuses = rule.action.is_some() && decision.refusal.is_none();
            let delays = !rule.delays.is_empty() && decision.delay.is_none();
            let chance = mix(moment.chance ^ index as u64);
            if (refuses || delays)
                && rule.matches(local, domain, Moment { chance, ..moment })
                && self.is_left(index, rule, address, moment.elapsed)
            {
                decision = decision.or(Decision {
                    delay: rule.delays.get(mix(chance) as usize % rule.delays.len().max(1)).copied(),
                    refusal: refuses.then_some(index),
                });
            }
        }
        decision
    }

    /// How a decision refuses, if it does.
    pub fn action(&self, decision: Decision) -> Option<&Action> {
        self.rules.get(decision.refusal?)?.action.as_ref()
    }

    /// A rule is used, unless it has been for this recipient as often as it says, or its rate is not exceeded.
    fn is_left(&self, index: usize, rule: &Rule, address: &[u8], elapsed: Micros) -> bool {
        if let (Some(above), Some(passed)) = (rule.above, self.passed.get(index))
            && passed.admit(above, elapsed)
        {
            return false;
        }
        let Some(first) = rule.first else { return true };
        let recipient = address.iter().fold(index as u64, |hash, byte| mix(hash ^ u64::from(*byte)));
        let mut applied = self.applied.lock().unwrap_or_else(PoisonError::into_inner);
        let count = applied.entry(recipient).or_default();
        let left = *count < first;
        *count += u32::from(left);
        left
    }
}

impl Rule {
    fn matches(&self, local: &[u8], domain: &[u8], moment: Moment) -> bool {
        self.local.fits(local, |one, other| one == other)
            && self.domain.fits(domain, |one, other| one.eq_ignore_ascii_case(other))
            && self.window.is_none_or(|window| window.holds(moment.elapsed))
            && (moment.chance >> 11) as f64 / (1u64 << 53) as f64 <= self.share
    }
}

/// The stage of this name.
pub fn stage(name: &str) -> Option<Stage> {
    Some(match name {
        "connect" => Stage::Connect,
        "ehlo" => Stage::Hello,
        "mail" => Stage::Mail,
        "rcpt" => Stage::Rcpt,
        "data" => Stage::Data,
        "dot" => Stage::Dot,
        _ => return None,
    })
}

fn parse(rule: &str) -> Result<Rule, &'static str> {
    let (pattern, rest) = rule.split_once('=').ok_or("no `=` behind the pattern")?;
    let (action, rest) = rest.rsplit_once('@').ok_or("no `@` before the stage")?;
    let mut options = rest.split(':');
    let stage =
        options.next().and_then(stage).ok_or("the stage is connect, ehlo, mail, rcpt, data or dot")?;
    let (mut first, mut share) = (None, 1.0);
    for option in options {
        match option.split_once('=') {
            Some(("first", count)) => first = Some(count.parse().map_err(|_| "first takes a number")?),
            Some(("p", text)) => {
                share = text.parse().ok().filter(|p| (0.0..=1.0).contains(p)).ok_or("p takes 0 to 1")?;
            }
            _ => return Err("options are first=N and p=SHARE"),
        }
    }
    let (local, domain) = pattern.rsplit_once('@').unwrap_or((pattern, "*"));
    let action = match action {
        "drop" => Action::Drop,
        text => Action::Replies { texts: vec![reply(text, stage)?], tarpit: 0 },
    };
    Ok(Rule {
        stage,
        local: Name::parse(local),
        domain: Name::parse(domain),
        action: Some(action),
        delays: Vec::new(),
        first,
        above: None,
        share,
        window: None,
    })
}

/// Reads a reply of one or more lines, each with the same code, and gives it CRLF line ends.
pub fn reply(text: &str, stage: Stage) -> Result<Box<str>, &'static str> {
    const WRONG: &str =
        "a reply is such as `450 4.2.0 try later`, or lines such as `421-4.7.0 a` and `421 4.7.0 b`";
    let lines: Vec<&str> = text.trim_end().lines().collect();
    let code = text.get(..3).ok_or(WRONG)?;
    let digits = code.bytes().all(|byte| byte.is_ascii_digit());
    if !digits || !code.starts_with(['4', '5']) {
        return Err(WRONG);
    }
    if code == "552" && stage == Stage::Rcpt {
        // Neither a bounce nor a retry would be wrong, so nothing could be said about the relay.
        return Err(
            "552 at RCPT is for now with some relays and for good with others (RFC 5321 §4.5.3.1.10): use 452 or 554",
        );
    }
    for (index, line) in lines.iter().enumerate() {
        let last = index + 1 == lines.len();
        let separator = line.strip_prefix(code).ok_or(WRONG)?.chars().next();
        let fits = if last { matches!(separator, None | Some(' ')) } else { separator == Some('-') };
        if !fits || line.contains(char::is_control) {
            return Err(WRONG);
        }
    }
    Ok((lines.join("\r\n") + "\r\n").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hit(script: &Script, stage: Stage, address: &str) -> Option<Action> {
        let decision = script.decide(stage, address.as_bytes(), Moment { chance: 1, elapsed: 0 });
        script.action(decision).cloned()
    }

    #[test]
    fn rules_match_by_prefix_whole_name_domain_and_stage() -> Result<(), RuleError> {
        let rules = ["defer*=450 4.2.0 later@rcpt", "gone=550 5.1.1 a=b@rcpt", "*@Slow.invalid=drop@data"];
        let script = Script::parse(rules)?;
        let reply =
            |text: &str| Some(Action::Replies { texts: vec![format!("{text}\r\n").into()], tarpit: 0 });
        assert_eq!(hit(&script, Stage::Rcpt, "defer1@a.invalid"), reply("450 4.2.0 later"));
        assert_eq!(hit(&script, Stage::Rcpt, "gone@a.invalid"), reply("550 5.1.1 a=b"));
        assert_eq!(hit(&script, Stage::Rcpt, "gone2@a.invalid"), None);
        assert_eq!(hit(&script, Stage::Data, "x@slow.INVALID"), Some(Action::Drop));
        assert_eq!(hit(&script, Stage::Dot, "x@slow.invalid"), None);
        Ok(())
    }

    #[test]
    fn first_counts_for_each_recipient_apart() -> Result<(), RuleError> {
        let script = Script::parse(["*=450 later@rcpt:first=2"])?;
        let refused = |address| hit(&script, Stage::Rcpt, address).is_some();
        assert_eq!(
            [refused("a@x"), refused("a@x"), refused("b@x"), refused("a@x"), refused("b@x")],
            [true, true, true, false, true]
        );
        Ok(())
    }

    #[test]
    fn a_rule_that_is_used_up_leaves_the_word_to_the_next() -> Result<(), RuleError> {
        let script = Script::parse(["*=450 later@rcpt:first=1", "*=550 never@rcpt"])?;
        let permanent = || hit(&script, Stage::Rcpt, "a@x").map(|action| action.is_permanent());
        assert_eq!([permanent(), permanent()], [Some(false), Some(true)]);
        Ok(())
    }

    #[test]
    fn a_share_is_about_that_share() -> Result<(), RuleError> {
        let script = Script::parse(["*=550 no@dot:p=0.25"])?;
        let hit = |chance| {
            let decision = script.decide(Stage::Dot, b"a@x", Moment { chance, elapsed: 0 });
            script.action(decision).is_some()
        };
        let hits = (0..10_000).filter(|chance| hit(*chance)).count();
        assert!((2_300..2_700).contains(&hits), "{hits}");
        Ok(())
    }

    #[test]
    fn wrong_rules_are_refused_with_what_is_wrong() {
        for bad in [
            "",
            "a",
            "a=450 x",
            "a=450 x@quit",
            "a=250 x@rcpt",
            "a=45@rcpt",
            "a=450x@rcpt",
            "a=drop@data:p=2",
            "a=drop@data:often",
            "a=450 x\r\ny@rcpt",
            "a=552 full@rcpt",
        ] {
            assert!(Script::parse([bad]).is_err(), "{bad:?}");
        }
    }
}
