//! Random histories against a naive model: the fate of each recipient, and the jobs that are out.

use super::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// Every leg stands where its bits say, counts are what walking the lists gives.
fn check_lists(queue: &Queue, ids: impl Iterator<Item = MessageId>) {
    let mut seen = Depth::default();
    for view in ids.filter_map(|id| queue.describe(id)) {
        seen.messages += 1;
        for leg in &view.legs {
            seen.legs += 1;
            match leg.stage {
                Stage::Unrouted => seen.unrouted += 1,
                Stage::Ready => seen.ready += 1,
                Stage::Held => (seen.held, seen.ready) = (seen.held + 1, seen.ready + 1),
                Stage::Waiting => seen.waiting += 1,
                Stage::InFlight => seen.in_flight += 1,
                Stage::Owed => seen.owed += 1,
            }
            assert_ne!(leg.state.unsettled(), 0, "a settled leg is still there: {view:?}");
            assert_eq!(leg.state.open & leg.state.reports(), 0, "{view:?}");
            assert_eq!(leg.in_flight & !leg.state.open, 0, "{view:?}");
        }
    }
    assert_eq!(queue.depth(), seen);
}

/// What a random history does.
#[derive(Clone, Debug)]
enum Op {
    Accept { tenant: u8, domains: Vec<u8>, asks: bool },
    Route { domain: u8, path: u8, hold: bool },
    Pop { path: u8, recipients_max: u32 },
    Report { which: usize, verdicts: u64, known: u64 },
    NotTried { which: usize },
    Advance(u32),
    Expire,
    Bounce,
    Move { which: usize },
    Abort { which: usize },
    Restart,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0..3u8, prop::collection::vec(0..4u8, 1..9), any::<bool>()).prop_map(|(tenant, domains, asks)| Op::Accept { tenant, domains, asks }),
        3 => (0..4u8, 0..3u8, prop::bool::weighted(0.1)).prop_map(|(domain, path, hold)| Op::Route { domain, path, hold }),
        8 => (0..3u8, 1..5u32).prop_map(|(path, recipients_max)| Op::Pop { path, recipients_max }),
        8 => (any::<usize>(), any::<u64>(), any::<u64>()).prop_map(|(which, verdicts, known)| Op::Report { which, verdicts, known }),
        1 => any::<usize>().prop_map(|which| Op::NotTried { which }),
        2 => (0..40_000u32).prop_map(Op::Advance),
        1 => Just(Op::Expire),
        2 => Just(Op::Bounce),
        1 => any::<usize>().prop_map(|which| Op::Move { which }),
        1 => any::<usize>().prop_map(|which| Op::Abort { which }),
        1 => Just(Op::Restart),
    ]
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Open,
    Owed,
    Settled,
}

/// The naive model: the fate of each recipient, and the jobs that are out.
#[derive(Default)]
struct Model {
    fates: BTreeMap<MessageId, (Envelope, Vec<Fate>)>,
    jobs: Vec<Job>,
    /// Legs of whose delay the sender was told.
    told: BTreeSet<(MessageId, u16)>,
    next: u64,
    offset: u64,
}

impl Model {
    fn recipients(job: &Job, bits: u64) -> impl Iterator<Item = usize> {
        let first = usize::from(job.leg_first);
        (0..64).filter(move |bit| bits >> bit & 1 == 1).map(move |bit| first + bit)
    }

    fn launch(&mut self, job: Job) {
        let fates = &self.fates[&job.id].1;
        assert!(Self::recipients(&job, job.recipients).all(|i| fates[i] == Fate::Open), "{job:?} {fates:?}");
        let twice = |other: &Job| {
            (other.id, other.leg_first) == (job.id, job.leg_first) && other.recipients & job.recipients != 0
        };
        assert!(!self.jobs.iter().any(twice), "in flight twice: {job:?}");
        self.jobs.push(job);
    }

    fn forget_settled(&mut self, id: MessageId, applied: Applied) {
        let done =
            self.fates.get(&id).is_none_or(|(_, fates)| fates.iter().all(|fate| *fate == Fate::Settled));
        assert_eq!(done, applied.settled.is_some(), "{id}");
        if done {
            self.fates.remove(&id);
        }
    }

    fn check(&self, world: &World) {
        for (id, (envelope, fates)) in &self.fates {
            let view = world.queue.describe(*id).expect("the model has it");
            for leg in envelope.legs() {
                let known = view.legs.iter().find(|known| known.state.leg == leg.first);
                let (open, owed) = known.map_or((0, 0), |known| (known.state.open, known.state.reports()));
                for bit in 0..leg.count {
                    let fate = match (open >> bit & 1, owed >> bit & 1) {
                        (1, 0) => Fate::Open,
                        (0, 1) => Fate::Owed,
                        (0, 0) => Fate::Settled,
                        _ => unreachable!("open and owed"),
                    };
                    assert_eq!(fate, fates[usize::from(leg.first + bit)], "{id} {view:?}");
                }
                let flying = self.jobs.iter().filter(|job| (job.id, job.leg_first) == (*id, leg.first));
                let flying = flying.fold(0, |bits, job| bits | job.recipients);
                assert_eq!(known.map_or(0, |known| known.in_flight), flying, "{id}");
            }
        }
        check_lists(&world.queue, self.fates.keys().copied());
        let oldest = self.fates.values().map(|(envelope, _)| envelope.accepted_at().0 / 1000 * 1000).min();
        assert_eq!(world.queue.oldest(), oldest.map(WallTime));
    }
}

fn step(world: &mut World, model: &mut Model, op: Op) {
    match op {
        Op::Accept { tenant, domains, asks } => {
            let mailboxes: Vec<_> = domains.iter().map(|domain| format!("a@d{domain}.test")).collect();
            let notify = Notify(if asks { Notify::SUCCESS | Notify::FAILURE | Notify::DELAY } else { 0 });
            let mailboxes: Vec<_> = mailboxes.iter().map(|mailbox| (mailbox.as_str(), notify)).collect();
            let tenant = format!("t{tenant}");
            let envelope = envelope_wishing("s@a.test", &tenant, &mailboxes, world.now.wall, 2 * DAY);
            let fresh = id(model.next);
            (model.next, model.offset) = (model.next + 1, model.offset + 1);
            model.fates.insert(fresh, (envelope.clone(), vec![Fate::Open; domains.len()]));
            world.apply(Record::Accepted(fresh, envelope, place(model.offset), 900, Vec::new()));
        }
        Op::Route { domain, path, hold } => {
            let domain = format!("d{domain}.test");
            world.queue.route(&domain, PathId(path.into()), hold, Moment(u64::MAX), world.now);
        }
        Op::Pop { path, recipients_max } => {
            if let Some(job) = world.queue.pop(PathId(path.into()), recipients_max) {
                assert!(job.recipients.count_ones() <= recipients_max);
                model.launch(job);
            }
        }
        Op::Report { which, verdicts, known } => report(world, model, which, verdicts, known),
        Op::NotTried { which } if !model.jobs.is_empty() => {
            let job = model.jobs.swap_remove(which % model.jobs.len());
            world.queue.not_tried(job.leg, job.recipients);
        }
        Op::Advance(seconds) => world.advance(Duration::from_secs(seconds.into())),
        Op::Expire => {
            while let Some(expired) = world.queue.poll_expired() {
                model.launch(expired.job);
            }
        }
        Op::Bounce => {
            while let Some(id) = world.queue.poll_owed(world.now) {
                let legs = world.queue.owed(id).iter().map(|state| (state.leg, state.reports())).collect();
                let delayed: Vec<_> = world.queue.late(id).iter().map(|late| late.state.leg).collect();
                for leg in &delayed {
                    assert!(model.told.insert((id, *leg)), "told twice that {id} is late");
                }
                let fates = &mut model.fates.get_mut(&id).unwrap().1;
                fates.iter_mut().filter(|fate| **fate == Fate::Owed).for_each(|fate| *fate = Fate::Settled);
                let applied = world.apply(Record::Bounced(Bounced { id, legs, delayed, notification: None }));
                model.forget_settled(id, applied);
            }
        }
        Op::Move { which } if !model.fates.is_empty() => {
            let (id, (envelope, _)) = model.fates.iter().nth(which % model.fates.len()).unwrap();
            model.offset += 1;
            let states = world.queue.state(*id).unwrap().1;
            let applied =
                world.apply(Record::Accepted(*id, envelope.clone(), place(model.offset), 900, states));
            assert!(applied.superseded.is_some() && applied.settled.is_none());
        }
        Op::Abort { which } if !model.fates.is_empty() => {
            let id = *model.fates.keys().nth(which % model.fates.len()).unwrap();
            assert!(world.apply(Record::Aborted(id)).settled.is_some());
            model.fates.remove(&id);
            model.jobs.retain(|job| job.id != id);
        }
        Op::Restart => {
            let queue = world.recovered(&world.log).queue;
            assert_same(&world.queue, &queue, model);
            world.queue = queue;
            model.jobs.clear();
        }
        Op::NotTried { .. } | Op::Move { .. } | Op::Abort { .. } => {}
    }
}

fn report(world: &mut World, model: &mut Model, which: usize, verdicts: u64, known: u64) {
    if model.jobs.is_empty() {
        return;
    }
    let job = model.jobs.swap_remove(which % model.jobs.len());
    let groups = [
        (Verdict::Relayed, verdicts & 0x1111_1111_1111_1111),
        (Verdict::Placed, verdicts & 0x0101_0101_0101_0101 << 1),
        (Verdict::Delivered, verdicts & 0x5555_5555_5555_5555),
        (Verdict::Deferred, !verdicts & 0x3333_3333_3333_3333),
        (Verdict::Failed, u64::MAX),
    ];
    // Results may overlap, name strangers, and leave some out: the first one counts, the others go back.
    let known = known | (known >> 1);
    let results =
        groups.map(|(verdict, bits)| LegResult { recipients: bits & known, verdict, reply: reply(verdict) });
    let Some(outcome) = world.queue.outcome(job.leg, job.recipients, results.to_vec(), true, world.now)
    else {
        return;
    };
    for result in &outcome.results {
        assert_eq!(result.recipients & !job.recipients, 0);
        for i in Model::recipients(&job, result.recipients) {
            let fate = &mut model.fates.get_mut(&job.id).unwrap().1[i];
            assert_eq!(*fate, Fate::Open, "a recipient has one fate");
            *fate = match result.verdict {
                Verdict::Delivered => Fate::Settled,
                Verdict::Deferred => Fate::Open,
                Verdict::Relayed | Verdict::Placed | Verdict::Failed => Fate::Owed,
            };
        }
    }
    let applied = world.apply(Record::Outcome(outcome));
    model.forget_settled(job.id, applied);
}

/// Both queues would write the same moved copies.
fn assert_same(live: &Queue, other: &Queue, model: &Model) {
    assert_eq!(live.depth().messages, other.depth().messages);
    for id in model.fates.keys() {
        let (place, states) = live.state(*id).unwrap();
        for state in &states {
            for (verdict, set) in [
                (Verdict::Failed, state.owed),
                (Verdict::Relayed, state.relayed),
                (Verdict::Placed, state.placed),
            ] {
                let about = state.replies.iter().filter(|result| result.verdict == verdict);
                assert_eq!(about.fold(0, |bits, result| bits | result.recipients), set, "{state:?}");
            }
        }
        assert_eq!(other.state(*id), Some((place, states)));
    }
}

/// Everything that is queued goes out in the end, whatever went before, and nothing is left behind.
fn drain(world: &mut World, model: &mut Model) {
    for _ in 0..40 {
        (0..4).for_each(|domain| world.route(&format!("d{domain}.test"), 1));
        world.advance(6 * HOUR);
        step(world, model, Op::Expire);
        while let Some(job) = world.queue.pop(PathId(1), 64) {
            model.launch(job);
        }
        while !model.jobs.is_empty() {
            report(world, model, 0, u64::MAX, u64::MAX);
        }
        step(world, model, Op::Bounce);
    }
    assert!(model.fates.is_empty(), "stuck: {:?}", model.fates.keys());
    let queue = &world.queue;
    assert_eq!((queue.depth(), queue.replies.len()), (Depth::default(), 0));
    assert_eq!((queue.mixed.len(), queue.many_replies.len()), (0, 0));
    assert_eq!((queue.routes.flows.len(), queue.routes.tenants.len(), queue.leased.len()), (0, 0, 0));
    assert_eq!((queue.due_legs.next_tick(), queue.due_messages.next_tick()), (None, None));
}

/// After half of the lifetime, so that much of a history is late.
fn delays_told() -> QueueOptions {
    let mut options = QueueOptions::default();
    options.schedules.default.delay_after = Some(DAY);
    options
}

proptest! {
    #[test]
    fn each_recipient_has_exactly_one_fate(ops in prop::collection::vec(op(), 1..120)) {
        let (mut world, mut model) = (World::with(delays_told()), Model::default());
        for op in ops {
            step(&mut world, &mut model, op);
            model.check(&world);
        }
        // Reading the log once, twice in a row, and each record twice gives what live traffic gave.
        let twice: Vec<_> = world.log.iter().chain(&world.log).cloned().collect();
        let stutter: Vec<_> = world.log.iter().flat_map(|record| [record.clone(), record.clone()]).collect();
        for log in [&world.log, &twice, &stutter] {
            assert_same(&world.queue, &world.recovered(log).queue, &model);
        }
        drain(&mut world, &mut model);
    }
}
