//! PURE. What must hold within a `[[schedule]]`.

use super::Reader;
use crate::config::Config;
use crate::config::schema::SCHEDULE;
use crate::config::value::show_duration;

impl Reader<'_> {
    pub(super) fn schedule_rules(&mut self, config: &Config) {
        for (index, schedule) in config.schedules.iter().enumerate() {
            self.rule_at(
                index,
                !schedule.domains.is_empty() || !schedule.tenants.is_empty(),
                SCHEDULE,
                "it is for all mail; a schedule needs domains or tenants, the rest is under [delivery]"
                    .to_owned(),
            );
            let first = schedule.retry_first.unwrap_or(config.delivery.retry_first);
            let max = schedule.retry_max.unwrap_or(config.delivery.retry_max);
            let what = format!(
                "its retry_first is {} and its retry_max {}; allowed is retry_first ≤ retry_max",
                show_duration(first),
                show_duration(max)
            );
            self.rule_at(index, first <= max, SCHEDULE, what);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::read::tests::check;

    #[test]
    fn a_schedule_that_is_wrong_is_told_where_and_why() {
        check(
            "[[schedule]]\nexpire_after = '1d'\n",
            &[(1, 1, "schedule", "for all mail|domains or tenants")],
        );
        check(
            "[[schedule]]\ntenants = ['a b']\ndomain = ['x.test']\nretry_factor = 0.5\n",
            &[
                (2, 11, "schedule.tenants", "\"a b\"|names of tenants"),
                (3, 1, "schedule.domain", "did you mean `domains`?"),
                (4, 16, "schedule.retry_factor", "found 0.5|from 1.0 to 10.0"),
            ],
        );
        check(
            "[[schedule]]\ntenants = ['a']\n[[schedule]]\ntenants = ['b']\nretry_first = '5h'\n",
            &[(3, 1, "schedule", "retry_first is 5h and its retry_max 4h")],
        );
    }

    #[test]
    fn verp_that_is_wrong_is_told_where_and_what_would_be_right() {
        check(
            "[bounce]\nverp_senders = ['lists.test']\nverp_delimiters = '++'\n",
            &[
                (2, 16, "bounce.verp_senders", "\"lists.test\"|*@example.com"),
                (3, 19, "bounce.verp_delimiters", "\"++\"|two different letters of \"-+=_#%\""),
            ],
        );
    }
}
