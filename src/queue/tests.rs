//! The queue as a whole: against a naive model, through time, and what it costs.

mod model;
mod reports;

use super::retry::RetryOptions;
use super::slab::NONE;
use super::*;
use crate::envelope::{EnvelopeBuilder, Notify, Parameters};
use crate::id::PartId;
use crate::outcome::Enhanced;

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
const START: Now = Now { wall: WallTime(1_800_000_000_000), mono: Moment(77_000_000) };

fn later(now: Now, wait: Duration) -> Now {
    Now { wall: now.wall + wait, mono: now.mono + wait }
}

fn id(sequence: u64) -> MessageId {
    MessageId::new(PartId(1), sequence)
}

fn place(offset: u64) -> Location {
    Location { segment: 1, offset: offset as u32, bytes: 100 }
}

fn envelope(tenant: &str, mailboxes: &[&str], accepted: WallTime, lifetime: Duration) -> Envelope {
    let mailboxes: Vec<_> = mailboxes.iter().map(|mailbox| (*mailbox, Notify::DEFAULT)).collect();
    envelope_wishing("s@a.test", tenant, &mailboxes, accepted, lifetime)
}

fn envelope_wishing(
    sender: &str,
    tenant: &str,
    mailboxes: &[(&str, Notify)],
    accepted: WallTime,
    lifetime: Duration,
) -> Envelope {
    let mut builder = EnvelopeBuilder::default();
    builder.begin(sender, Parameters::default(), "");
    builder.set_tenant(tenant);
    for (mailbox, notify) in mailboxes {
        builder.push_recipient(mailbox, *notify, "").unwrap();
    }
    builder.encode(accepted, accepted + lifetime)
}

/// A record, owned, so that a log of them can be applied again.
#[derive(Clone, Debug)]
enum Record {
    Accepted(MessageId, Envelope, Location, u32, Vec<LegState>),
    Outcome(Outcome),
    Bounced(Bounced),
    Aborted(MessageId),
}

impl Record {
    fn change(&self) -> Change<'_> {
        match self {
            Record::Accepted(id, envelope, location, body_bytes, states) => {
                Change::Accepted { id: *id, envelope, location: *location, body_bytes: *body_bytes, states }
            }
            Record::Outcome(outcome) => Change::Outcome(outcome),
            Record::Bounced(bounced) => Change::Bounced(bounced),
            Record::Aborted(id) => Change::Aborted(*id),
        }
    }
}

/// A queue, its log and its clock.
struct World {
    queue: Queue,
    log: Vec<Record>,
    now: Now,
}

impl World {
    fn new() -> Self {
        Self::with(QueueOptions::default())
    }

    fn with(options: QueueOptions) -> Self {
        Self { queue: Queue::new(options, 5), log: Vec::new(), now: START }
    }

    fn apply(&mut self, record: Record) -> Applied {
        let applied = self.queue.apply(record.change(), self.now);
        self.log.push(record);
        applied
    }

    fn accept(&mut self, sequence: u64, tenant: &str, mailboxes: &[&str], body_bytes: u32) {
        let envelope = envelope(tenant, mailboxes, self.now.wall, 5 * DAY);
        self.apply(Record::Accepted(id(sequence), envelope, place(sequence), body_bytes, Vec::new()));
    }

    fn route(&mut self, domain: &str, path: u32) {
        self.queue.route(domain, PathId(path), false, Moment(u64::MAX), self.now);
    }

    fn report(&mut self, job: Job, verdict: Verdict) -> Applied {
        let counts = verdict != Verdict::Failed;
        let results = vec![LegResult { recipients: job.recipients, verdict, reply: reply(verdict) }];
        let outcome = self.queue.outcome(job.leg, job.recipients, results, counts, self.now).unwrap();
        self.apply(Record::Outcome(outcome))
    }

    fn advance(&mut self, wait: Duration) {
        self.now = later(self.now, wait);
        while self.queue.advance(self.now, 1000) {}
    }

    fn stage(&self, sequence: u64) -> Vec<Stage> {
        let view = self.queue.describe(id(sequence));
        view.map_or(Vec::new(), |view| view.legs.iter().map(|leg| leg.stage).collect())
    }

    /// A queue that has read the log, as after a restart now.
    fn recovered(&self, log: &[Record]) -> World {
        let mut other = World::with(self.queue.options.clone());
        other.now = self.now;
        log.iter().for_each(|record| {
            other.queue.apply(record.change(), self.now);
        });
        other
    }
}

fn reply(verdict: Verdict) -> Reply {
    match verdict {
        Verdict::Delivered | Verdict::Relayed | Verdict::Placed => Reply::new(250, Enhanced(2, 0, 0), "ok"),
        Verdict::Deferred => Reply::new(451, Enhanced(4, 7, 1), "later"),
        Verdict::Failed => Reply::new(550, Enhanced(5, 1, 1), "no such user"),
    }
}

#[test]
fn a_message_goes_from_unrouted_to_settled() {
    let mut world = World::new();
    world.accept(1, "t", &["a@one.test", "b@one.test", "c@two.test"], 500);
    let mut asked = Vec::new();
    while let Some(domain) = world.queue.poll_unrouted() {
        asked.push(domain.to_owned());
    }
    assert_eq!(asked, ["one.test", "two.test"]);
    assert_eq!(world.queue.pop(PathId(1), 50), None);
    world.route("one.test", 1);
    world.route("two.test", 1);
    let (path, demand) = world.queue.poll_demand().unwrap();
    assert_eq!((path, demand.ready, demand.tenants), (PathId(1), 2, 1));
    assert_eq!(world.queue.poll_demand(), None);
    let jobs: Vec<_> = std::iter::from_fn(|| world.queue.pop(PathId(1), 50)).collect();
    assert_eq!(jobs.iter().map(|job| (job.leg_first, job.recipients)).collect::<Vec<_>>(), [(0, 3), (2, 1)]);
    assert_eq!(world.report(jobs[0], Verdict::Delivered), Applied::default());
    assert_eq!(world.report(jobs[1], Verdict::Delivered).settled, Some(place(1)));
    assert_eq!(world.queue.depth(), Depth::default());
    assert_eq!(world.queue.poll_demand().map(|(path, demand)| (path, demand.ready)), Some((PathId(1), 0)));
    assert_eq!(world.queue.oldest(), None);
}

#[test]
fn parts_of_a_leg_fly_together_and_count_as_one_attempt() {
    let mut world = World::new();
    let mailboxes: Vec<_> = (0..5).map(|i| format!("u{i}@one.test")).collect();
    world.accept(1, "t", &mailboxes.iter().map(String::as_str).collect::<Vec<_>>(), 500);
    world.route("one.test", 1);
    let first = world.queue.pop(PathId(1), 2).unwrap();
    let second = world.queue.pop(PathId(1), 2).unwrap();
    assert_eq!((first.recipients, second.recipients), (0b11, 0b1100));
    world.report(first, Verdict::Deferred);
    let third = world.queue.pop(PathId(1), 2).unwrap();
    assert_eq!((third.recipients, third.attempts), (0b10000, 0));
    world.report(second, Verdict::Deferred);
    world.report(third, Verdict::Deferred);
    assert_eq!(world.stage(1), [Stage::Waiting]);
    let state = world.queue.state(id(1)).unwrap().1.remove(0);
    assert_eq!((state.attempts, state.open), (1, 0b11111));
    assert_eq!(state.replies.len(), 3, "each part has its own reply: {state:?}");
    world.advance(HOUR);
    assert_eq!(world.queue.pop(PathId(1), 64).map(|job| (job.recipients, job.attempts)), Some((0b11111, 1)));
}

#[test]
fn recipients_without_a_result_go_back_to_the_front() {
    let mut world = World::new();
    world.accept(1, "t", &["a@one.test", "b@one.test"], 1);
    world.accept(2, "t", &["c@one.test"], 1);
    world.route("one.test", 1);
    let job = world.queue.pop(PathId(1), 50).unwrap();
    let results = vec![LegResult { recipients: 1, verdict: Verdict::Delivered, reply: Reply::default() }];
    let outcome = world.queue.outcome(job.leg, job.recipients, results, true, world.now).unwrap();
    world.apply(Record::Outcome(outcome));
    let again = world.queue.pop(PathId(1), 50).unwrap();
    assert_eq!((again.id, again.recipients), (id(1), 0b10));
    world.queue.not_tried(again.leg, again.recipients);
    assert_eq!(world.queue.pop(PathId(1), 50), Some(again));
}

#[test]
fn a_reference_to_a_leg_that_is_gone_does_nothing() {
    let mut world = World::new();
    world.accept(1, "t", &["a@one.test"], 1);
    world.route("one.test", 1);
    let job = world.queue.pop(PathId(1), 50).unwrap();
    assert_eq!(world.apply(Record::Aborted(id(1))).settled, Some(place(1)));
    world.accept(2, "t", &["b@one.test"], 1);
    world.queue.not_tried(job.leg, job.recipients);
    let results = vec![LegResult { recipients: 1, verdict: Verdict::Failed, reply: Reply::default() }];
    assert_eq!(world.queue.outcome(job.leg, 1, results, true, world.now), None);
    assert_eq!(world.stage(2), [Stage::Ready]);
}

#[test]
fn tenants_share_a_path_by_bytes_and_not_by_messages() {
    let mut world = World::new();
    for i in 0..2000 {
        world.accept(2 * i, "small", &["a@one.test"], 3 * 1024);
        world.accept(2 * i + 1, "large", &["b@two.test"], 63 * 1024);
    }
    world.route("one.test", 1);
    world.route("two.test", 1);
    let mut bytes = [0u64; 2];
    for _ in 0..1500 {
        let job = world.queue.pop(PathId(1), 50).unwrap();
        bytes[(job.id.sequence() % 2) as usize] += u64::from(job.body_bytes) + 1024;
    }
    let share = bytes[0] as f64 / (bytes[0] + bytes[1]) as f64;
    assert!((0.45..0.55).contains(&share), "{bytes:?}");
}

#[test]
fn a_tenant_with_a_backlog_does_not_delay_another_by_more_than_a_turn() {
    let mut world = World::new();
    (0..1000).for_each(|i| world.accept(i, "noisy", &["a@one.test"], 1024));
    world.route("one.test", 1);
    world.queue.pop(PathId(1), 50).unwrap();
    world.accept(5000, "quiet", &["b@one.test"], 1024);
    let waited = std::iter::from_fn(|| world.queue.pop(PathId(1), 50)).position(|job| job.id == id(5000));
    assert!(waited.is_some_and(|waited| waited <= 1), "{waited:?}");
}

#[test]
fn tenants_take_turns_by_their_weights_and_by_the_shards_that_they_wait_in() {
    let mut world = World::new();
    world.queue.options.weights = [("heavy".into(), 3), ("spread".into(), 4)].into();
    for i in 0..3000 {
        world.accept(3 * i, "heavy", &["a@one.test"], 4096);
        world.accept(3 * i + 1, "light", &["a@one.test"], 4096);
        world.accept(3 * i + 2, "spread", &["a@one.test"], 4096);
    }
    world.route("one.test", 1);
    world.queue.set_spread(PathId(1), vec![(TenantKey::of("spread"), 2)]);
    let mut jobs = [0u32; 3];
    for _ in 0..600 {
        jobs[(world.queue.pop(PathId(1), 50).unwrap().id.sequence() % 3) as usize] += 1;
    }
    assert!(
        jobs[0].abs_diff(300) <= 3 && jobs[1].abs_diff(100) <= 3 && jobs[2].abs_diff(200) <= 3,
        "{jobs:?}"
    );
}

#[test]
fn a_debt_of_many_rounds_is_paid_in_few_steps_and_in_full() {
    let mut world = World::new();
    for i in 0..50 {
        world.accept(2 * i, "films", &["a@one.test"], 64 << 20);
        world.accept(2 * i + 1, "letters", &["a@one.test"], 1 << 20);
    }
    world.route("one.test", 1);
    let first: Vec<_> = (0..40).map(|_| world.queue.pop(PathId(1), 50).unwrap().id.sequence() % 2).collect();
    assert_eq!(
        first.iter().filter(|tenant| **tenant == 0).count(),
        1,
        "a film, and letters of the same bytes: {first:?}"
    );
}

#[test]
fn a_tenant_that_joins_others_is_news_and_more_of_its_mail_is_none() {
    let mut world = World::new();
    (0..10).for_each(|i| world.accept(i, "t", &["a@one.test"], 1));
    world.route("one.test", 1);
    let told = |world: &mut World| {
        let demand = world.queue.poll_demand().map(|(_, demand)| demand)?;
        Some(demand.shares.iter().map(|share| share.tenant).collect::<Vec<_>>())
    };
    assert_eq!(told(&mut world), Some(vec![TenantKey::of("t")]));
    world.accept(20, "u", &["b@one.test"], 1);
    world.accept(21, "u", &["b@two.test"], 1);
    assert_eq!(told(&mut world), Some(vec![TenantKey::of("t"), TenantKey::of("u")]));
    world.accept(22, "u", &["b@one.test"], 1);
    assert_eq!(told(&mut world), None);
    // It takes its turn, has nothing left, and comes back.
    while world.queue.pop(PathId(1), 50).unwrap().id != id(22) {}
    world.accept(23, "u", &["b@one.test"], 1);
    assert!(world.queue.poll_demand().unwrap().1.joined);
}

#[test]
fn ready_legs_move_with_their_domain() {
    let mut world = World::new();
    world.accept(1, "t", &["a@one.test"], 1);
    world.accept(2, "u", &["b@one.test"], 1);
    world.accept(3, "t", &["c@two.test"], 1);
    world.route("one.test", 1);
    world.route("two.test", 1);
    let flying = world.queue.pop(PathId(1), 50).unwrap();
    world.route("one.test", 2);
    assert_eq!(world.queue.demand(PathId(1)).map(|demand| demand.ready), Some(1));
    world.queue.not_tried(flying.leg, flying.recipients);
    let moved: Vec<_> = std::iter::from_fn(|| world.queue.pop(PathId(2), 50)).map(|job| job.id).collect();
    assert_eq!(moved.len(), 2);
    assert_eq!(world.queue.pop(PathId(1), 50).map(|job| job.id), Some(id(3)));
}

#[test]
fn a_domain_without_an_answer_is_asked_again_after_its_delay() {
    let mut world = World::new();
    world.accept(1, "t", &["a@one.test"], 1);
    assert_eq!(world.queue.poll_unrouted(), Some("one.test"));
    world.queue.delay_domain("one.test", world.now.mono + HOUR, reply(Verdict::Deferred));
    world.accept(2, "t", &["a@one.test"], 1);
    world.advance(HOUR / 2);
    assert_eq!(world.queue.poll_unrouted(), None);
    world.advance(HOUR);
    assert_eq!(world.queue.poll_unrouted(), Some("one.test"));
    assert_eq!(world.queue.poll_unrouted(), None);
}

#[test]
fn a_path_past_its_validity_serves_while_it_is_asked_for() {
    let mut world = World::new();
    world.accept(1, "t", &["a@one.test"], 1);
    assert!(world.queue.poll_unrouted().is_some());
    world.queue.route("one.test", PathId(1), false, world.now.mono + HOUR, world.now);
    world.advance(2 * HOUR);
    assert_eq!(world.queue.poll_unrouted(), Some("one.test"));
    assert!(world.queue.pop(PathId(1), 1).is_some());
}

#[test]
fn a_domain_that_takes_no_mail_gives_out_all_its_legs() {
    let mut world = World::new();
    (0..3).for_each(|i| world.accept(i, "t", &["a@one.test"], 1));
    world.queue.poll_unrouted().unwrap();
    while let Some(job) = world.queue.poll_domain_legs("one.test") {
        world.report(job, Verdict::Failed);
    }
    assert_eq!((world.queue.depth().owed, world.queue.depth().unrouted), (3, 0));
    world.accept(9, "t", &["a@one.test"], 1);
    assert_eq!(world.queue.poll_unrouted(), Some("one.test"), "the next message asks again");
}

#[test]
fn a_bounce_is_offered_until_it_is_recorded_and_not_twice_meanwhile() {
    let mut world = World::new();
    world.accept(1, "t", &["a@one.test"], 1);
    world.route("one.test", 1);
    let job = world.queue.pop(PathId(1), 50).unwrap();
    world.report(job, Verdict::Failed);
    assert_eq!(world.queue.poll_owed(world.now), Some(id(1)));
    world.advance(Duration::from_secs(30));
    assert_eq!(world.queue.poll_owed(world.now), None);
    world.advance(Duration::from_secs(31));
    assert_eq!(world.queue.poll_owed(world.now), Some(id(1)));
    let owed = world.queue.owed(id(1));
    assert_eq!(
        owed[0].replies,
        [LegResult { recipients: 1, verdict: Verdict::Failed, reply: reply(Verdict::Failed) }]
    );
    let bounced = Bounced { id: id(1), legs: vec![(0, 1)], delayed: Vec::new(), notification: None };
    assert_eq!(world.apply(Record::Bounced(bounced)).settled, Some(place(1)));
}

#[test]
fn failures_are_gathered_while_other_legs_are_open_but_not_for_long() {
    let mut world = World::new();
    world.accept(1, "t", &["a@one.test", "b@two.test"], 1);
    world.route("one.test", 1);
    let job = world.queue.pop(PathId(1), 50).unwrap();
    world.report(job, Verdict::Failed);
    assert_eq!(world.queue.poll_owed(world.now), None);
    world.advance(Duration::from_secs(61));
    assert_eq!(world.queue.poll_owed(world.now), Some(id(1)));
}

#[test]
fn the_deadline_holds_in_every_state_but_in_flight() {
    let mut world = World::new();
    let names = ["unrouted", "ready", "waiting", "flying", "delayed"];
    for (i, name) in names.iter().enumerate() {
        world.accept(i as u64, "t", &[&format!("a@{name}.test")], 1);
    }
    (1..4).for_each(|i| world.route(&format!("{}.test", names[i as usize]), i));
    world.queue.delay_domain("delayed.test", world.now.mono + 9 * DAY, reply(Verdict::Deferred));
    let flying = world.queue.pop(PathId(3), 1).unwrap();
    world.advance(5 * DAY - HOUR);
    let job = world.queue.pop(PathId(2), 1).unwrap();
    world.report(job, Verdict::Deferred);
    assert_eq!(world.queue.poll_expired(), None);
    // Four hours of back-off at the most, so one leg is deferred beyond the deadline; in any case all are late now.
    world.advance(HOUR + Duration::from_secs(1));
    let mut expired: Vec<_> = std::iter::from_fn(|| world.queue.poll_expired()).collect();
    expired.sort_by_key(|expired| expired.job.id);
    assert_eq!(expired.iter().map(|e| e.job.id.sequence()).collect::<Vec<_>>(), [0, 1, 2, 4]);
    assert_eq!(expired[3].reason, Some(reply(Verdict::Deferred)));
    assert_eq!(expired[1].path, Some(PathId(1)));
    world.report(flying, Verdict::Deferred);
    world.advance(Duration::from_secs(1));
    assert_eq!(world.queue.poll_expired().map(|expired| expired.job.id), Some(id(3)));
    world.queue.not_tried(flying.leg, 1);
    world.advance(Duration::from_secs(1));
    assert!(world.queue.poll_expired().is_some(), "an expiry that was not recorded is offered again");
    for expired in expired {
        world.report(expired.job, Verdict::Failed);
    }
    assert_eq!(world.queue.depth().owed, 4);
}

#[test]
fn held_mail_has_a_maximum_of_its_own() {
    let mut world = World::new();
    world.accept(1, "t", &["a@one.test"], 1);
    world.queue.route("one.test", PathId(1), true, Moment(u64::MAX), world.now);
    world.advance(29 * DAY);
    assert_eq!((world.queue.poll_expired(), world.queue.pop(PathId(1), 1)), (None, None));
    assert_eq!(world.queue.depth().held, 1);
    world.advance(DAY + HOUR);
    assert!(world.queue.poll_expired().is_some());
}

#[test]
fn after_a_restart_nothing_expires_before_it_was_tried_or_the_grace_is_over() {
    for jump in [Duration::ZERO, DAY, 100 * DAY] {
        let mut world = World::new();
        (0..3).for_each(|i| world.accept(i, "t", &["a@one.test"], 1));
        world.now.wall = world.now.wall + 5 * DAY + jump;
        let mut world = world.recovered(&world.log);
        world.route("one.test", 1);
        world.advance(HOUR);
        assert_eq!(world.queue.poll_expired(), None);
        let job = world.queue.pop(PathId(1), 1).unwrap();
        world.report(job, Verdict::Deferred);
        world.advance(Duration::from_secs(1));
        assert_eq!(world.queue.poll_expired().map(|expired| expired.job.id), Some(job.id), "tried once");
        world.advance(4 * HOUR);
        assert_eq!(std::iter::from_fn(|| world.queue.poll_expired()).count(), 2);
    }
}

#[test]
fn a_jump_of_the_wall_clock_neither_expires_mail_nor_strands_retries() {
    for forward in [true, false] {
        let mut world = World::new();
        (0..50).for_each(|i| world.accept(i, "t", &["a@one.test"], 1));
        world.route("one.test", 1);
        while let Some(job) = world.queue.pop(PathId(1), 1) {
            world.report(job, Verdict::Deferred);
        }
        let day = DAY.as_millis() as u64;
        let wall = &mut world.now.wall.0;
        *wall = if forward { *wall + 6 * day } else { *wall - day };
        world.advance(Duration::from_secs(60));
        assert_eq!((world.queue.depth().waiting, world.queue.poll_expired()), (50, None));
        world.advance(Duration::from_secs(6 * 60));
        assert_eq!((world.queue.depth().ready, world.queue.poll_expired()), (50, None));
        // And the records, read at the jumped time: due at once, or after the longest wait there can be.
        let mut world = world.recovered(&world.log);
        world.advance(RetryOptions::default().wait_max() + Duration::from_secs(1));
        assert_eq!(world.queue.depth().unrouted, 50);
    }
}

#[test]
fn a_moved_copy_stands_for_what_went_before() {
    let mut world = World::new();
    world.accept(1, "t", &["a@one.test", "b@one.test", "c@two.test"], 1);
    world.route("one.test", 1);
    world.route("two.test", 2);
    let job = world.queue.pop(PathId(2), 50).unwrap();
    world.report(job, Verdict::Delivered);
    let job = world.queue.pop(PathId(1), 1).unwrap();
    world.report(job, Verdict::Failed);
    let (_, states) = world.queue.state(id(1)).unwrap();
    let copy = Record::Accepted(
        id(1),
        envelope("t", &["a@one.test", "b@one.test", "c@two.test"], START.wall, 5 * DAY),
        place(900),
        1,
        states.clone(),
    );
    assert_eq!(world.apply(copy.clone()).superseded, Some(place(1)));
    let first = world.log[0].clone();
    assert_eq!(world.apply(first.clone()).superseded, Some(place(1)), "an earlier copy is dead");
    let state = world.queue.state(id(1));
    assert_eq!(state, Some((place(900), states)));
    for log in [vec![copy.clone()], vec![copy.clone(), first.clone()], vec![first, copy]] {
        assert_eq!(world.recovered(&log).queue.state(id(1)), state, "{log:?}");
    }
}

#[test]
fn an_older_deferral_read_again_does_not_replace_the_last_reply() {
    let mut world = World::new();
    world.accept(1, "t", &["a@one.test"], 1);
    let deferral = |attempts: u16, text: &str| {
        let reply = Reply::new(451, Enhanced(4, 7, attempts), text);
        let results = vec![LegResult { recipients: 1, verdict: Verdict::Deferred, reply }];
        let due = START.wall + HOUR;
        Record::Outcome(Outcome { id: id(1), leg: 0, attempts, at: START.wall, due, results })
    };
    for (attempts, text) in [(1, "first"), (2, "second"), (1, "first")] {
        world.apply(deferral(attempts, text));
    }
    let (_, states) = world.queue.state(id(1)).unwrap();
    assert_eq!((states[0].attempts, &*states[0].replies[0].reply.text), (2, "second"));
}

#[test]
fn unused_domains_are_remembered_up_to_a_number_and_then_freed() {
    let mut world = World::with(QueueOptions { idle_domains_max: 10, ..QueueOptions::default() });
    for i in 0..100u64 {
        let domain = format!("d{i}.test");
        world.accept(i, &domain, &[&format!("a@{domain}")], 1);
        world.queue.poll_unrouted().unwrap();
        world.route(&domain, i as u32);
        let job = world.queue.pop(PathId(i as u32), 1).unwrap();
        world.report(job, Verdict::Delivered);
        while world.queue.poll_demand().is_some() {}
    }
    let routes = &world.queue.routes;
    assert_eq!((routes.domains.len(), routes.paths.len()), (10, 10));
    assert_eq!((routes.tenants.len(), routes.flows.len()), (0, 0));
    world.accept(999, "t", &["a@d99.test"], 1);
    assert_eq!(world.queue.poll_unrouted(), None, "its path is still known");
}

#[test]
fn a_million_waiting_legs_cost_at_most_128_bytes_each() {
    const COUNT: u64 = 1_000_000;
    let mut queue = Queue::new(QueueOptions::default(), 3);
    let mut state = LegState {
        leg: 0,
        attempts: 1,
        due: START.wall + HOUR,
        open: 1,
        replies: vec![LegResult {
            recipients: 1,
            verdict: Verdict::Deferred,
            reply: reply(Verdict::Deferred),
        }],
        ..LegState::default()
    };
    let envelopes: Vec<_> = (0..100)
        .map(|i| envelope(&format!("t{}", i % 7), &[&format!("a@d{i}.test")], START.wall, 5 * DAY))
        .collect();
    let empty = queue.resident_bytes() as u64;
    for i in 0..COUNT {
        state.due = START.wall + Duration::from_millis(HOUR.as_millis() as u64 + i);
        let change = Change::Accepted {
            id: id(i),
            envelope: &envelopes[(i % 100) as usize],
            location: place(i),
            body_bytes: 4096,
            states: std::slice::from_ref(&state),
        };
        queue.apply(change, START);
    }
    assert_eq!(queue.depth().waiting, COUNT as usize);
    let bytes = (queue.resident_bytes() as u64 - empty) as f64 / COUNT as f64;
    println!("{bytes:.1} bytes a waiting leg, message and index included; {empty} bytes when empty");
    assert!(bytes <= leg::LEG_BYTES_MAX as f64, "{bytes}");
    let now = later(START, 2 * HOUR);
    let mut turns = 0;
    while queue.advance(now, 1000) {
        turns += 1;
    }
    assert!(turns >= COUNT / 1000);
    assert_eq!(queue.depth().unrouted, COUNT as usize);
}

#[test]
fn no_slot_is_mistaken_for_none() {
    assert!(LegRef { slot: NONE, generation: 0 } != LegRef { slot: 0, generation: 0 });
    assert_eq!(Queue::new(QueueOptions::default(), 0).slot(LegRef { slot: NONE, generation: 0 }), None);
}
