//! What senders are told besides failures: success and delay; and the schedules that say when.

use super::*;
use crate::queue::schedule::ScheduleRule;

const SUCCESS: Notify = Notify(Notify::SUCCESS | Notify::FAILURE);

fn wishing(world: &mut World, sequence: u64, sender: &str, mailboxes: &[(&str, Notify)]) {
    let envelope = envelope_wishing(sender, "t", mailboxes, world.now.wall, 5 * DAY);
    world.apply(Record::Accepted(id(sequence), envelope, place(sequence), 1, Vec::new()));
}

fn told(world: &mut World, sequence: u64) -> Applied {
    let legs = world.queue.owed(id(sequence)).iter().map(|state| (state.leg, state.reports())).collect();
    let delayed = world.queue.late(id(sequence)).iter().map(|late| late.state.leg).collect();
    world.apply(Record::Bounced(Bounced { id: id(sequence), legs, delayed, notification: None }))
}

fn telling(after: Duration) -> QueueOptions {
    let mut options = QueueOptions::default();
    options.schedules.default.delay_after = Some(after);
    options
}

#[test]
fn success_stays_owed_over_restarts_and_moves_until_it_is_told() {
    for verdict in [Verdict::Relayed, Verdict::Placed] {
        let mut world = World::new();
        wishing(&mut world, 1, "s@a.test", &[("a@one.test", SUCCESS), ("b@one.test", SUCCESS)]);
        world.route("one.test", 1);
        let job = world.queue.pop(PathId(1), 1).unwrap();
        assert_eq!(world.report(job, verdict), Applied::default());
        let other = world.queue.pop(PathId(1), 1).unwrap();
        world.report(other, Verdict::Failed);
        let (_, states) = world.queue.state(id(1)).unwrap();
        let copy = envelope_wishing(
            "s@a.test",
            "t",
            &[("a@one.test", SUCCESS), ("b@one.test", SUCCESS)],
            START.wall,
            5 * DAY,
        );
        world.apply(Record::Accepted(id(1), copy, place(900), 1, states.clone()));
        let mut world = world.recovered(&world.log[3..]);
        assert_eq!(world.queue.poll_owed(world.now), Some(id(1)));
        let owed = world.queue.owed(id(1)).remove(0);
        let success = if verdict == Verdict::Relayed { owed.relayed } else { owed.placed };
        assert_eq!((success, owed.owed, owed.replies.len()), (1, 2, 2), "{owed:?}");
        assert_eq!(told(&mut world, 1).settled, Some(place(900)));
    }
}

#[test]
fn success_that_nobody_asked_to_hear_of_settles_at_once() {
    for (sender, notify) in
        [("s@a.test", Notify::DEFAULT), ("", SUCCESS), ("s@a.test", Notify(Notify::NEVER))]
    {
        let mut world = World::new();
        wishing(&mut world, 1, sender, &[("a@one.test", notify)]);
        world.route("one.test", 1);
        let job = world.queue.pop(PathId(1), 1).unwrap();
        assert_eq!(world.report(job, Verdict::Placed).settled, Some(place(1)), "{sender} {notify:?}");
    }
}

#[test]
fn a_delay_is_told_once_for_each_leg_and_survives_a_restart() {
    let mut world = World::with(telling(4 * HOUR));
    let failure = Notify(Notify::FAILURE);
    wishing(&mut world, 1, "s@a.test", &[("a@one.test", Notify::DEFAULT), ("b@two.test", Notify::DEFAULT)]);
    wishing(&mut world, 2, "", &[("a@one.test", Notify::DEFAULT)]);
    wishing(&mut world, 3, "s@a.test", &[("a@one.test", failure)]);
    world.route("one.test", 1);
    world.advance(4 * HOUR - Duration::from_secs(1));
    assert_eq!(world.queue.poll_owed(world.now), None);
    let flying = world.queue.pop(PathId(1), 1).unwrap();
    world.advance(Duration::from_secs(2));
    assert_eq!(world.queue.poll_owed(world.now), Some(id(1)));
    let legs: Vec<_> = world.queue.late(id(1)).iter().map(|late| (late.state.leg, late.until)).collect();
    assert_eq!(legs, [(1, START.wall + 5 * DAY)], "what is being tried may be there in a moment");
    told(&mut world, 1);
    world.report(flying, Verdict::Deferred);
    world.advance(Duration::from_secs(2));
    assert_eq!(world.queue.poll_owed(world.now), Some(id(1)));
    let late = world.queue.late(id(1));
    assert_eq!((late.len(), late[0].reason.clone()), (1, Some(reply(Verdict::Deferred))));
    told(&mut world, 1);
    let mut again = world.recovered(&world.log);
    for world in [&mut world, &mut again] {
        world.advance(2 * DAY);
        assert_eq!(world.queue.poll_owed(world.now), None);
    }
}

#[test]
fn after_a_restart_no_delay_is_told_before_the_mail_was_tried() {
    let mut world = World::with(telling(4 * HOUR));
    world.accept(1, "t", &["a@one.test"], 1);
    world.now = later(world.now, DAY);
    let mut world = world.recovered(&world.log);
    world.advance(HOUR);
    assert_eq!(world.queue.poll_owed(world.now), None);
    world.route("one.test", 1);
    let job = world.queue.pop(PathId(1), 1).unwrap();
    world.report(job, Verdict::Deferred);
    world.advance(Duration::from_secs(1));
    assert_eq!(world.queue.poll_owed(world.now), Some(id(1)));
}

#[test]
fn held_and_expired_mail_is_not_called_late() {
    let mut world = World::with(telling(6 * DAY));
    world.accept(1, "t", &["a@one.test"], 1);
    world.accept(2, "t", &["a@held.test"], 1);
    world.queue.route("held.test", PathId(2), true, Moment(u64::MAX), world.now);
    world.advance(20 * DAY);
    assert_eq!(world.queue.poll_owed(world.now), None);
}

#[test]
fn each_leg_has_the_schedule_of_its_domain_and_tenant_and_a_restart_brings_the_new_one() {
    let rule = |domain: &str, expire_after, first| {
        let retry = RetryOptions { first, factor: 1.0, max: first, jitter: 0.0 };
        let schedule = Schedule { retry, expire_after: Some(expire_after), delay_after: None };
        ScheduleRule { domains: vec![domain.to_owned()], tenants: Vec::new(), schedule }
    };
    let mut options = QueueOptions::default();
    options.schedules.rules = vec![rule("short.test", DAY, HOUR), rule("long.test", 20 * DAY, 2 * HOUR)];
    let mut world = World::with(options.clone());
    world.accept(1, "t", &["a@short.test", "b@long.test", "c@other.test"], 1);
    let mut dues = Vec::new();
    for (domain, path) in [("short.test", 1), ("long.test", 2)] {
        world.route(domain, path);
        let job = world.queue.pop(PathId(path), 1).unwrap();
        world.report(job, Verdict::Deferred);
        let Some(Record::Outcome(outcome)) = world.log.last() else { panic!("an outcome") };
        dues.push(outcome.due.since(world.now.wall));
    }
    assert_eq!(dues, [HOUR, 2 * HOUR]);
    let expired = |world: &mut World| -> Vec<String> {
        let jobs = std::iter::from_fn(|| world.queue.poll_expired()).map(|expired| expired.job.leg);
        let jobs: Vec<_> = jobs.collect();
        jobs.iter().map(|leg| world.queue.domain_of(*leg).unwrap().to_owned()).collect()
    };
    world.advance(DAY + Duration::from_secs(1));
    assert_eq!(expired(&mut world), ["short.test"]);
    // The operator gives up earlier, and tries more often.
    options.schedules.rules = vec![rule("long.test", 2 * DAY, Duration::from_secs(60))];
    let mut world = World { queue: Queue::new(options, 6), ..world };
    let log = std::mem::take(&mut world.log);
    for record in log {
        world.apply(record);
    }
    world.route("long.test", 2);
    world.advance(Duration::from_secs(61));
    let job = world.queue.pop(PathId(2), 1).expect("due by the new schedule");
    world.report(job, Verdict::Deferred);
    world.advance(DAY);
    assert_eq!(expired(&mut world), ["long.test"]);
    world.advance(3 * DAY);
    assert_eq!(
        expired(&mut world),
        ["other.test", "short.test"],
        "without a rule the deadline of acceptance holds"
    );
}
