//! PURE. Schedules: how mail is tried again, for how long, and when its sender hears that it is late. Each leg has one, by its
//! domain and its tenant; it is looked up when the first leg of a flow comes, so legs pay nothing for it.
//!
//! A schedule holds from the start of the process on, for mail that was queued before as well: deadlines and delays are
//! reckoned from acceptance, and a due time in a record is cut to the longest wait of today's schedule.

use super::retry::RetryOptions;
use std::time::Duration;

/// How the mail of a flow is tried.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Schedule {
    /// Back-off of deferred legs.
    pub retry: RetryOptions,
    /// Age at which it fails; `None` means the deadline that it was accepted with.
    pub expire_after: Option<Duration>,
    /// Age at which the sender is told that it is late; `None` means never.
    pub delay_after: Option<Duration>,
}

/// A schedule and the mail that it is for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ScheduleRule {
    /// Recipient domains in lower case; `*.domain` is all below it. Empty means all.
    pub domains: Vec<String>,
    /// Tenants. Empty means all.
    pub tenants: Vec<String>,
    /// How it is tried.
    pub schedule: Schedule,
}

impl ScheduleRule {
    fn is_for(&self, domain: &str, tenant: &str) -> bool {
        let is_of = |pattern: &String| match pattern.strip_prefix('*') {
            // With its dot, so that `*.b` is not for `ab`.
            Some(suffix) => domain.len() > suffix.len() && domain.ends_with(suffix),
            None => pattern == domain,
        };
        (self.domains.is_empty() || self.domains.iter().any(is_of))
            && (self.tenants.is_empty() || self.tenants.iter().any(|other| other == tenant))
    }
}

/// All schedules: the first rule that is for a leg wins.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Schedules {
    /// In the order of the file.
    pub rules: Vec<ScheduleRule>,
    /// For what no rule is for.
    pub default: Schedule,
}

impl Schedules {
    /// The number of the schedule for a domain, in lower case, and a tenant.
    pub(super) fn find(&self, domain: &str, tenant: &str) -> u16 {
        let rule = self.rules.iter().position(|rule| rule.is_for(domain, tenant));
        u16::try_from(rule.unwrap_or(self.rules.len())).unwrap_or(u16::MAX)
    }

    /// The schedule with a number that [`Self::find`] gave.
    pub(super) fn get(&self, number: u16) -> &Schedule {
        self.rules.get(usize::from(number)).map_or(&self.default, |rule| &rule.schedule)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_rule_that_is_for_domain_and_tenant_wins() {
        let rule = |domains: &[&str], tenants: &[&str]| {
            let words = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect();
            ScheduleRule { domains: words(domains), tenants: words(tenants), ..ScheduleRule::default() }
        };
        let schedules = Schedules {
            rules: vec![
                rule(&["slow.test", "*.wide.test"], &["news"]),
                rule(&["slow.test"], &[]),
                rule(&[], &["otp"]),
            ],
            ..Schedules::default()
        };
        for (domain, tenant, want) in [
            ("slow.test", "news", 0),
            ("slow.test", "otp", 1),
            ("a.wide.test", "news", 0),
            ("wide.test", "news", 3),
            ("awide.test", "news", 3),
            ("other.test", "otp", 2),
            ("other.test", "", 3),
        ] {
            assert_eq!(schedules.find(domain, tenant), want, "{domain} {tenant}");
        }
        assert_eq!(schedules.get(3), &schedules.default);
    }
}
