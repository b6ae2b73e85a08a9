//! PURE. The configuration's rules for queued mail, in the words of the queue.

use std::sync::Arc;
use std::time::Duration;

use crate::config::{self, Config};
use crate::control::resolver;
use crate::envelope::verp::Verp;
use crate::queue::QueueOptions;
use crate::queue::retry::RetryOptions;
use crate::queue::schedule::{Schedule, ScheduleRule, Schedules};

/// Settings of a shard's queue.
pub(super) fn queue_options(config: &Config) -> QueueOptions {
    QueueOptions {
        schedules: schedules(config),
        verp: verp(config),
        hold_max: config.delivery.hold_max,
        pools: Arc::new(resolver::pools(config)),
        weights: config.tenants.iter().map(|tenant| (tenant.name.as_str().into(), tenant.weight)).collect(),
        ..QueueOptions::default()
    }
}

/// What a `[[schedule]]` leaves out holds as under `[delivery]`; but for the deadline, which is then the message's own.
fn schedules(config: &Config) -> Schedules {
    let delivery = &config.delivery;
    let retry = RetryOptions {
        first: delivery.retry_first,
        factor: delivery.retry_factor,
        max: delivery.retry_max,
        jitter: delivery.retry_jitter,
    };
    let told = |after: Duration| Some(after).filter(|after| !after.is_zero());
    let default = Schedule { retry, expire_after: None, delay_after: told(delivery.delay_after) };
    let rule = |rule: &config::Schedule| ScheduleRule {
        domains: rule.domains.clone(),
        tenants: rule.tenants.clone(),
        schedule: Schedule {
            retry: RetryOptions {
                first: rule.retry_first.unwrap_or(retry.first),
                factor: rule.retry_factor.unwrap_or(retry.factor),
                max: rule.retry_max.unwrap_or(retry.max),
                jitter: rule.retry_jitter.unwrap_or(retry.jitter),
            },
            expire_after: rule.expire_after,
            delay_after: told(rule.delay_after.unwrap_or(delivery.delay_after)),
        },
    };
    Schedules { rules: config.schedules.iter().map(rule).collect(), default }
}

/// Mail whose senders name their recipients.
pub(super) fn verp(config: &Config) -> Verp {
    let bounce = &config.bounce;
    let mut delimiters = bounce.verp_delimiters.chars();
    let mut next = || delimiters.next().expect("there are two: checked with the configuration");
    Verp {
        tenants: bounce.verp_tenants.clone(),
        senders: bounce.verp_senders.clone(),
        delimiters: (next(), next()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_inherits_what_it_leaves_out() {
        let file = "[delivery]\nretry_first = '7s'\ndelay_after = '2h'\n\
                    [[schedule]]\ndomains = ['a.test']\nretry_max = '3h'\nexpire_after = '1d'\n\
                    [[schedule]]\ntenants = ['t']\ndelay_after = '0ms'\n";
        let schedules = schedules(&Config::parse(file).expect("valid"));
        let [one, two] = &schedules.rules[..] else { panic!("two rules: {schedules:?}") };
        let seconds = Duration::from_secs;
        assert_eq!((one.schedule.retry.first, one.schedule.retry.max), (seconds(7), seconds(3 * 3600)));
        let day = seconds(24 * 3600);
        assert_eq!((one.schedule.expire_after, one.schedule.delay_after), (Some(day), Some(seconds(7200))));
        assert_eq!((two.schedule.expire_after, two.schedule.delay_after), (None, None));
        assert_eq!(schedules.default.expire_after, None, "the deadline of acceptance");
    }
}
