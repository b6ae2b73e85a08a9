//! The thread that checks passwords: slow by intent, so it is none of a shard's. It sees every try, and so the limits of
//! a user's failures hold for the whole process.

use std::io;
use std::time::Instant;

use crossbeam_channel::Receiver;

use crate::clock::Moment;
use crate::id::ShardIndex;
use crate::users::failures::{FailureLimits, Failures};
use crate::users::question::{Answer, Evidence, Question};

/// Starts it; it ends when nobody can ask any more. `answer` is told each answer and never waits.
///
/// # Errors
/// When no thread can be made.
pub fn start(
    questions: Receiver<Question>,
    limits: FailureLimits,
    answer: impl Fn(ShardIndex, u64, Answer) + Send + 'static,
) -> io::Result<()> {
    let run = move || {
        let (mut failures, began) = (Failures::new(limits), Instant::now());
        for question in questions {
            let now = Moment(u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX));
            answer(question.shard, question.ticket, decide(&mut failures, &question, now));
        }
    };
    std::thread::Builder::new().name("auth".into()).spawn(run).map(drop)
}

fn decide(failures: &mut Failures, question: &Question, now: Moment) -> Answer {
    if !failures.allow(&question.user, now) {
        return Answer::Later;
    }
    let holds = match &question.evidence {
        Evidence::Password(password) => question.users.check(&question.user, password).0,
        Evidence::Decided(holds) => *holds,
    };
    if !holds {
        failures.failed(&question.user, now);
        return Answer::Refused;
    }
    Answer::Granted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::users::Users;
    use std::sync::Arc;
    use std::time::Duration;

    #[test]
    fn a_user_with_the_right_password_waits_as_well_once_the_failures_are_too_many() {
        let limits = FailureLimits { by_user: 2, window: Duration::from_secs(60) };
        let mut failures = Failures::new(limits);
        let mut ask = |holds, second: u64| {
            let question = Question {
                shard: ShardIndex(0),
                ticket: 0,
                user: "a".into(),
                evidence: Evidence::Decided(holds),
                users: Arc::new(Users::default()),
            };
            decide(&mut failures, &question, Moment(second * 1_000_000))
        };
        assert_eq!(ask(true, 0), Answer::Granted);
        assert_eq!(ask(false, 0), Answer::Refused);
        assert_eq!(ask(false, 0), Answer::Refused);
        assert_eq!(ask(true, 1), Answer::Later);
        assert_eq!(ask(true, 60), Answer::Granted);
    }
}
