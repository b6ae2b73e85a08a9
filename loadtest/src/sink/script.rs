//! PURE. What a sink refuses: rules by recipient and probability, each for one stage of a transaction.
//!
//! ```text
//! RULE    = PATTERN "=" ACTION "@" STAGE *( ":" OPTION )
//! PATTERN = local part, or its start and "*"; with "@domain" also the domain
//! ACTION  = 4xx or 5xx and text | "drop"
//! STAGE   = "rcpt" | "data" | "dot"
//! OPTION  = "first=N" (only the first N times for a recipient) | "p=0.1" (this share)
//! ```
//! Example: `defer*=450 4.2.0 try later@rcpt:first=1`. The first rule that matches a stage decides.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::wire::template::mix;

/// When a rule is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
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
    /// This reply, CRLF included; 4xx or 5xx.
    Reply(Box<str>),
    /// The connection goes without a reply.
    Drop,
}

impl Action {
    /// The refusal is for good: a bounce is owed.
    pub fn is_permanent(&self) -> bool {
        matches!(self, Self::Reply(text) if text.starts_with('5'))
    }
}

#[derive(Clone, Debug, PartialEq)]
struct Rule {
    local: Box<str>,
    /// `local` is a prefix, not the whole.
    prefix: bool,
    domain: Option<Box<str>>,
    action: Action,
    stage: Stage,
    first: Option<u32>,
    share: f64,
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

/// All rules and how often each was applied to whom.
#[derive(Debug, Default)]
pub struct Script {
    rules: Vec<Rule>,
    /// Applications by hash of rule and recipient; only of rules with `first`.
    applied: Mutex<HashMap<u64, u32>>,
}

/// A rule that concerns a recipient of the transaction, kept until its stage comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pending {
    rule: usize,
    recipient: u64,
}

impl Script {
    /// Reads rules.
    pub fn parse<S: AsRef<str>>(rules: impl IntoIterator<Item = S>) -> Result<Self, RuleError> {
        let rules = rules.into_iter().map(|rule| {
            let rule = rule.as_ref();
            parse(rule).map_err(|what| RuleError { rule: rule.to_owned(), what })
        });
        Ok(Self { rules: rules.collect::<Result<_, _>>()?, applied: Mutex::default() })
    }

    /// No rules: nothing is ever refused.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The first rule of `stage` for an address. `chance` is any random number.
    pub fn matching(&self, stage: Stage, address: &[u8], chance: u64) -> Option<Pending> {
        let at = memchr::memrchr(b'@', address).unwrap_or(address.len());
        let (local, domain) = (&address[..at], address.get(at + 1..).unwrap_or_default());
        let hit = |(index, rule): &(usize, &Rule)| {
            rule.stage == stage && rule.matches(local, domain, mix(chance ^ *index as u64))
        };
        let (rule, _) = self.rules.iter().enumerate().find(hit)?;
        let recipient = address.iter().fold(rule as u64, |hash, byte| mix(hash ^ u64::from(*byte)));
        Some(Pending { rule, recipient })
    }

    /// Applies a rule, unless it has been applied to this recipient as often as it says.
    pub fn apply(&self, pending: Pending) -> Option<&Action> {
        let rule = self.rules.get(pending.rule)?;
        if let Some(first) = rule.first {
            let mut applied = self.applied.lock().unwrap_or_else(PoisonError::into_inner);
            let count = applied.entry(pending.recipient).or_default();
            if *count >= first {
                return None;
            }
            *count += 1;
        }
        Some(&rule.action)
    }
}

impl Rule {
    fn matches(&self, local: &[u8], domain: &[u8], chance: u64) -> bool {
        let named = if self.prefix {
            local.starts_with(self.local.as_bytes())
        } else {
            local == self.local.as_bytes()
        };
        let there = self.domain.as_ref().is_none_or(|want| domain.eq_ignore_ascii_case(want.as_bytes()));
        named && there && (chance >> 11) as f64 / (1u64 << 53) as f64 <= self.share
    }
}

fn parse(rule: &str) -> Result<Rule, &'static str> {
    let (pattern, rest) = rule.split_once('=').ok_or("no `=` behind the pattern")?;
    let (action, rest) = rest.rsplit_once('@').ok_or("no `@` before the stage")?;
    let mut options = rest.split(':');
    let stage = match options.next() {
        Some("rcpt") => Stage::Rcpt,
        Some("data") => Stage::Data,
        Some("dot") => Stage::Dot,
        _ => return Err("the stage is rcpt, data or dot"),
    };
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
    let (local, domain) = match pattern.rsplit_once('@') {
        Some((local, domain)) => (local, Some(domain.into())),
        None => (pattern, None),
    };
    let prefix = local.ends_with('*');
    let local = local.trim_end_matches('*').into();
    Ok(Rule { local, prefix, domain, action: parse_action(action)?, stage, first, share })
}

fn parse_action(text: &str) -> Result<Action, &'static str> {
    if text == "drop" {
        return Ok(Action::Drop);
    }
    let bytes = text.as_bytes();
    let code =
        bytes.len() >= 3 && matches!(bytes[0], b'4' | b'5') && bytes[1..3].iter().all(u8::is_ascii_digit);
    if !code || !matches!(bytes.get(3), None | Some(b' ')) || text.contains(char::is_control) {
        return Err("the action is `drop` or a reply such as `450 4.2.0 try later`");
    }
    Ok(Action::Reply(format!("{text}\r\n").into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hit(script: &Script, stage: Stage, address: &str) -> Option<Action> {
        script.matching(stage, address.as_bytes(), 1).and_then(|pending| script.apply(pending).cloned())
    }

    #[test]
    fn rules_match_by_prefix_whole_name_domain_and_stage() -> Result<(), RuleError> {
        let rules = ["defer*=450 4.2.0 later@rcpt", "gone=550 5.1.1 a=b@rcpt", "*@Slow.invalid=drop@data"];
        let script = Script::parse(rules)?;
        let reply = |text: &str| Some(Action::Reply(format!("{text}\r\n").into()));
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
    fn a_share_is_about_that_share() -> Result<(), RuleError> {
        let script = Script::parse(["*=550 no@dot:p=0.25"])?;
        let hits =
            (0..10_000).filter(|chance| script.matching(Stage::Dot, b"a@x", *chance).is_some()).count();
        assert!((2_300..2_700).contains(&hits), "{hits}");
        Ok(())
    }

    #[test]
    fn wrong_rules_are_refused_with_what_is_wrong() {
        for bad in [
            "",
            "a",
            "a=450 x",
            "a=450 x@mail",
            "a=250 x@rcpt",
            "a=45@rcpt",
            "a=450x@rcpt",
            "a=drop@data:p=2",
            "a=drop@data:often",
            "a=450 x\r\ny@rcpt",
        ] {
            assert!(Script::parse([bad]).is_err(), "{bad:?}");
        }
    }
}
