//! PURE. What goes wrong on a disk in memory: rules that pick calls by kind, path and number, and plans of rules, written
//! down or drawn by a seed. A plan is a value: the same one strikes the same calls.

use std::time::Duration;

/// What a caller may ask of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// A file is made.
    Create,
    /// A file is opened.
    Open,
    /// A file is renamed; it is known by its old name.
    Rename,
    /// A file is removed.
    Remove,
    /// A directory is listed.
    List,
    /// A directory's names are made durable.
    SyncDir,
    /// A file is written.
    Write,
    /// A file is read, by its owner or by a pin.
    Read,
    /// A file is made durable.
    Sync,
    /// A file is asked for its size.
    Size,
}

/// How a call goes wrong. What makes no sense for a call leaves it alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It does nothing and fails with this error number: EIO, ENOSPC, …
    Error(i32),
    /// A write stores this many sectors of 512 bytes and then fails.
    Short(usize),
    /// It takes this long.
    Delay(Duration),
    /// It says that it is done and does nothing: after a write all its sectors are stale, after a sync nothing is safe.
    Ignored,
    /// A write says that it is done, but it is in a volatile cache: a power cut may take any of its sectors until the
    /// file is synced.
    Cached,
    /// A write says that it is done, but this sector of it keeps what stood there before.
    Stale(usize),
    /// A write goes this many bytes too far.
    Misdirected(usize),
    /// A write stores, or a read gives, this byte with these bits flipped. Counted from the first byte of the call,
    /// and from there again if the call is shorter.
    Flipped(usize, u8),
}

/// Which calls a fault strikes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    fault: Fault,
    call: Option<Call>,
    path: String,
    skips: u64,
    strikes: u64,
}

impl Rule {
    /// Strikes the next call, whatever it is, once.
    pub fn new(fault: Fault) -> Self {
        Self { fault, call: None, path: String::new(), skips: 0, strikes: 1 }
    }

    /// Calls of one kind only.
    #[must_use]
    pub fn on(self, call: Call) -> Self {
        Self { call: Some(call), ..self }
    }

    /// Calls about paths only that have `part` in them.
    #[must_use]
    pub fn within(self, part: &str) -> Self {
        Self { path: part.to_owned(), ..self }
    }

    /// Leaves the first `calls` of those calls alone.
    #[must_use]
    pub fn after(self, calls: u64) -> Self {
        Self { skips: calls, ..self }
    }

    /// Strikes this many of them, one after the other.
    #[must_use]
    pub fn times(self, calls: u64) -> Self {
        Self { strikes: calls, ..self }
    }

    /// Strikes all of them from there on.
    #[must_use]
    pub fn sticky(self) -> Self {
        self.times(u64::MAX)
    }

    fn picks(&self, call: Call, path: &str) -> bool {
        self.call.is_none_or(|wanted| wanted == call) && path.contains(&self.path)
    }
}

/// What a drawn plan may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nature {
    /// Calls fail: errors and short writes, once or from then on.
    Fails,
    /// Calls take 0.1 ms to 30 s.
    Slow,
    /// Calls lie: what they say is stored is stale, elsewhere or changed. No log keeps its promises on such a disk;
    /// what it must do is notice.
    Lies,
}

/// Rules, each of which counts the calls that it picks. Several may strike the same call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FaultPlan {
    rules: Vec<(Rule, u64)>,
}

impl From<Rule> for FaultPlan {
    fn from(rule: Rule) -> Self {
        Self::default().with(rule)
    }
}

impl FaultPlan {
    /// One rule more.
    #[must_use]
    pub fn with(mut self, rule: Rule) -> Self {
        self.rules.push((rule, 0));
        self
    }

    /// One to four rules of these natures among the next `calls` calls; the same for the same arguments.
    pub fn random(seed: u64, natures: &[Nature], calls: u64) -> Self {
        let mut dice = Dice::new(seed);
        let mut plan = Self::default();
        for _ in 0..dice.below(4) + 1 {
            let Some(nature) = natures.get(dice.below(natures.len() as u64) as usize) else { break };
            let (call, fault) = dice.draw(*nature);
            let rule = Rule::new(fault).after(dice.below(calls)).times(dice.below(3) + 1);
            let rule = Rule { call, ..rule };
            plan =
                plan.with(if *nature != Nature::Lies && dice.below(4) == 0 { rule.sticky() } else { rule });
        }
        plan
    }

    /// What strikes this call, which is counted.
    pub(super) fn strike(&mut self, call: Call, path: &str) -> Vec<Fault> {
        let mut struck = Vec::new();
        for (rule, seen) in self.rules.iter_mut().filter(|(rule, _)| rule.picks(call, path)) {
            if *seen >= rule.skips && *seen - rule.skips < rule.strikes {
                struck.push(rule.fault);
            }
            *seen += 1;
        }
        struck
    }
}

/// Numbers that look random and are the same for the same seed (splitmix64).
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// Dice that fall by `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `sides`; 0 if there are none.
    pub fn below(&mut self, sides: u64) -> u64 {
        self.roll().checked_rem(sides).unwrap_or(0)
    }

    /// Heads or tails, for what a power cut spares.
    pub fn coin(&mut self) -> bool {
        self.roll() & 1 != 0
    }

    fn draw(&mut self, nature: Nature) -> (Option<Call>, Fault) {
        const EIO: i32 = 5;
        const ENOSPC: i32 = 28;
        match (nature, self.below(3)) {
            (Nature::Fails, 0) => (None, Fault::Error(EIO)),
            (Nature::Fails, 1) => (None, Fault::Error(ENOSPC)),
            (Nature::Fails, _) => (Some(Call::Write), Fault::Short(self.below(16) as usize)),
            (Nature::Slow, _) => {
                // Each order of magnitude is as likely as the next.
                let longest = 10u64.pow(3 + self.below(5) as u32).min(30_000_000);
                (None, Fault::Delay(Duration::from_micros(100 + self.below(longest))))
            }
            (Nature::Lies, 0) => (Some(Call::Write), Fault::Stale(self.below(16) as usize)),
            (Nature::Lies, 1) => (Some(Call::Write), Fault::Misdirected(4096 * (1 + self.below(4)) as usize)),
            (Nature::Lies, _) => {
                (Some(Call::Write), Fault::Flipped(self.below(8192) as usize, 1 << self.below(8)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EIO: Fault = Fault::Error(5);

    #[test]
    fn a_rule_strikes_the_calls_it_names_and_no_others() {
        let rule = Rule::new(EIO).on(Call::Write).within("segment").after(1).times(2);
        let mut plan = FaultPlan::from(rule);
        let mut hits = |call, path| !plan.strike(call, path).is_empty();
        assert!(!hits(Call::Write, "part/segment-1"), "the first is left alone");
        assert!(!hits(Call::Read, "part/segment-1") && !hits(Call::Write, "part/spare-1"));
        assert!(hits(Call::Write, "part/segment-1") && hits(Call::Write, "part/segment-2"));
        assert!(!hits(Call::Write, "part/segment-1"), "two times are over");
    }

    #[test]
    fn a_sticky_rule_never_ends_and_two_rules_may_strike_together() {
        let mut plan = FaultPlan::from(Rule::new(EIO).sticky()).with(Rule::new(Fault::Ignored).after(1));
        assert_eq!(plan.strike(Call::Sync, ""), [EIO]);
        assert_eq!(plan.strike(Call::Sync, ""), [EIO, Fault::Ignored]);
        assert_eq!(plan.strike(Call::Sync, ""), [EIO]);
    }

    #[test]
    fn a_drawn_plan_is_the_same_for_the_same_seed_and_of_the_natures_asked_for() {
        let all = [Nature::Fails, Nature::Slow, Nature::Lies];
        let plans: Vec<_> = (0..100).map(|seed| FaultPlan::random(seed, &all, 50)).collect();
        assert!((0..).zip(&plans).all(|(seed, plan)| *plan == FaultPlan::random(seed, &all, 50)));
        assert!(plans.windows(2).all(|two| two[0] != two[1]));
        for seed in 0..100 {
            let slow = FaultPlan::random(seed, &[Nature::Slow], 50);
            assert!(slow.rules.iter().all(|(rule, _)| matches!(rule.fault, Fault::Delay(_))));
            assert_eq!(FaultPlan::random(seed, &[], 50), FaultPlan::default());
        }
    }
}
