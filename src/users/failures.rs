//! PURE. Limits of failed logins by user: against guessing from many addresses. Those of an address are `inbound::limits`'.

use std::collections::HashMap;
use std::time::Duration;

use crate::clock::Moment;
use crate::hash::HashState;

/// Names that are remembered: an attacker with many must not fill the memory.
const REMEMBERED_MAX: usize = 16 * 1024;

/// The bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailureLimits {
    /// Failures within the window after which a user must wait: high, since anybody can make a user wait by it.
    pub by_user: u32,
    /// How long failures are remembered, from the first of them on.
    pub window: Duration,
}

/// Failures of late.
pub struct Failures {
    limits: FailureLimits,
    by_user: HashMap<Box<str>, Count, HashState>,
}

#[derive(Clone, Copy)]
struct Count {
    since: Moment,
    failures: u32,
}

impl Failures {
    /// None yet.
    pub fn new(limits: FailureLimits) -> Self {
        Self { limits, by_user: HashMap::default() }
    }

    /// Whether a try may be looked at.
    pub fn allow(&self, user: &str, now: Moment) -> bool {
        let count = self.by_user.get(user).filter(|count| now.since(count.since) < self.limits.window);
        count.is_none_or(|count| count.failures < self.limits.by_user)
    }

    /// A try has failed.
    pub fn failed(&mut self, user: &str, now: Moment) {
        let (counts, window) = (&mut self.by_user, self.limits.window);
        if counts.len() >= REMEMBERED_MAX && !counts.contains_key(user) {
            counts.retain(|_, count| now.since(count.since) < window);
            // Still full: the oldest half goes, so that this is rare.
            if counts.len() >= REMEMBERED_MAX {
                let mut ages: Vec<Moment> = counts.values().map(|count| count.since).collect();
                ages.sort_unstable();
                let middle = ages[ages.len() / 2];
                counts.retain(|_, count| count.since > middle);
            }
        }
        let count = counts.entry(user.into()).or_insert(Count { since: now, failures: 0 });
        if now.since(count.since) >= window {
            *count = Count { since: now, failures: 0 };
        }
        count.failures = count.failures.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: FailureLimits = FailureLimits { by_user: 2, window: Duration::from_secs(60) };

    fn at(second: u64) -> Moment {
        Moment(second * 1_000_000)
    }

    #[test]
    fn a_user_waits_after_its_failures_until_the_window_has_passed() {
        let mut failures = Failures::new(LIMITS);
        failures.failed("a", at(0));
        assert!(failures.allow("a", at(1)));
        failures.failed("a", at(1));
        assert!(!failures.allow("a", at(59)));
        assert!(failures.allow("b", at(59)), "another user");
        assert!(failures.allow("a", at(60)));
        failures.failed("a", at(60));
        assert!(failures.allow("a", at(61)), "the count began anew");
    }

    #[test]
    fn many_names_are_forgotten_in_part_and_never_grow_beyond_the_bound() {
        let mut failures = Failures::new(LIMITS);
        for nth in 0..3 * REMEMBERED_MAX {
            failures.failed(&format!("{nth}"), Moment(nth as u64));
        }
        assert!(failures.by_user.len() <= REMEMBERED_MAX);
        assert!(failures.by_user.contains_key(&*format!("{}", 3 * REMEMBERED_MAX - 1)));
    }
}
