//! A home told by the test what its lanes say.

use super::*;
use crate::routing::{Rate, Security};

const REST: RestOptions = RestOptions { first: Duration::from_secs(1), longest: Duration::from_secs(60) };

const NOW: Moment = Moment(7);

pub(in crate::delivery) fn limits(connections: u16) -> PathLimits {
    PathLimits {
        connections,
        messages_per_connection: 100,
        recipients_per_transaction: 10,
        window: 100,
        idle: Duration::from_secs(60),
        connection_rate: None,
        message_rate: None,
        security: Security::default(),
    }
}

fn leases(home: &mut Home) -> Vec<(u16, u32, bool)> {
    std::iter::from_fn(|| home.poll_lease())
        .map(|(worker, lease)| (worker.0, lease.slots, lease.rest_until.is_some()))
        .collect()
}

fn hear(home: &mut Home, worker: u16, wants: bool, held: u32, known: u32) {
    home.lane_news(WorkerIndex(worker), LaneNews { wants, held, known, ..LaneNews::default() }, NOW);
}

/// A lane's word that it has heard every lease so far.
fn say(home: &mut Home, worker: u16, wants: bool, held: u32) {
    let at = home.lane(WorkerIndex(worker));
    let known = home.lanes[at].lease.number;
    home.lane_news(WorkerIndex(worker), LaneNews { wants, held, known, ..LaneNews::default() }, NOW);
}

#[test]
fn connections_grow_with_success_up_to_the_limit() {
    let mut home = Home::new(&limits(6), REST);
    say(&mut home, 0, true, 0);
    assert_eq!(leases(&mut home), [(0, 4, false)]);
    for _ in 0..10 {
        home.succeeded(NOW);
    }
    assert_eq!(leases(&mut home), [(0, 6, false)]);
}

#[test]
fn a_slot_moves_only_after_it_was_let_go() {
    let mut home = Home::new(&limits(4), REST);
    say(&mut home, 0, true, 0);
    say(&mut home, 0, true, 4);
    leases(&mut home);
    say(&mut home, 1, true, 0);
    assert_eq!(leases(&mut home), [(0, 2, false)]);
    say(&mut home, 0, true, 3);
    assert_eq!(leases(&mut home), [(1, 1, false)]);
    say(&mut home, 0, true, 2);
    assert_eq!(leases(&mut home), [(1, 2, false)]);
}

#[test]
fn a_failing_path_rests_longer_each_time_and_comes_back_with_one_connection() {
    let mut home = Home::new(&limits(8), REST);
    say(&mut home, 0, true, 0);
    leases(&mut home);
    let mut now = Moment(0);
    let mut rests = Vec::new();
    for _ in 0..8 {
        home.failed(WorkerIndex(0), 0, now, 1.0);
        home.failed(WorkerIndex(0), 0, now, 1.0);
        assert_eq!(leases(&mut home), [(0, 0, true)]);
        let until = home.next_wake().unwrap();
        rests.push(until.since(now).as_secs());
        now = until;
        home.tick(now);
        assert_eq!(leases(&mut home), [(0, 1, false)]);
    }
    assert_eq!(rests, [1, 2, 4, 8, 16, 32, 60, 60]);
    home.succeeded(NOW);
    home.succeeded(NOW);
    assert_eq!(leases(&mut home), [(0, 3, false)]);
}

#[test]
fn a_lane_that_has_not_heard_of_its_smaller_lease_keeps_the_slots_it_may_still_open() {
    let mut home = Home::new(&limits(4), REST);
    hear(&mut home, 0, true, 0, 0);
    assert_eq!(leases(&mut home), [(0, 4, false)]);
    // Lane 0 says nothing held yet, but is about to open four.
    hear(&mut home, 1, true, 0, 0);
    assert_eq!(leases(&mut home), [(0, 2, false)]);
    hear(&mut home, 0, true, 0, 1);
    assert_eq!(leases(&mut home), []);
    hear(&mut home, 0, true, 2, 2);
    assert_eq!(leases(&mut home), [(1, 2, false)]);
}

#[test]
fn an_invitation_forgets_nothing_of_what_the_lane_holds() {
    let mut home = Home::new(&limits(4), REST);
    say(&mut home, 0, true, 0);
    home.invite(WorkerIndex(1), NOW);
    assert_eq!(leases(&mut home), [(0, 2, false), (1, 2, false)]);
    say(&mut home, 1, false, 2);
    home.invite(WorkerIndex(1), NOW);
    let lane = home.lane(WorkerIndex(1));
    let news = home.lanes[lane].news;
    assert_eq!((news.held, news.wants), (2, true));
}

#[test]
fn slots_never_exceed_the_limit_however_late_lanes_hear_and_are_heard() {
    use std::collections::VecDeque;
    const LIMIT: u16 = 5;
    let mut home = Home::new(&limits(LIMIT), REST);
    let mut to_lane: [VecDeque<Lease>; 3] = Default::default();
    let mut to_home: [VecDeque<(bool, u32, u32)>; 3] = Default::default();
    let (mut held, mut lease, mut seed) = ([0u32; 3], [Lease::default(); 3], 7u64);
    for step in 0..200_000u64 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let lane = (seed >> 33) as usize % 3;
        match (seed >> 40) % 16 {
            0 => home.succeeded(NOW),
            1 if step % 64 == 0 => home.failed(WorkerIndex(lane as u16), 0, Moment(step), 0.5),
            2 => home.tick(Moment(u64::MAX)),
            3..5 if held[lane] < lease[lane].slots => held[lane] += 1,
            5..7 => held[lane] = held[lane].saturating_sub(1),
            7..10 => {
                if let Some(heard) = to_lane[lane].pop_front() {
                    lease[lane] = heard;
                }
            }
            10..13 => {
                to_home[lane].push_back((!(seed >> 50).is_multiple_of(4), held[lane], lease[lane].number))
            }
            _ => {
                if let Some((wants, held, known)) = to_home[lane].pop_front() {
                    hear(&mut home, lane as u16, wants, held, known);
                }
            }
        }
        for (worker, lease) in std::iter::from_fn(|| home.poll_lease()) {
            to_lane[usize::from(worker.0)].push_back(lease);
        }
        assert!(held.iter().sum::<u32>() <= u32::from(LIMIT), "step {step}: {held:?}");
    }
}

/// A lane with so many open sessions, that knows its lease.
fn stand(home: &mut Home, worker: u16, ready: u32, now: Moment) {
    let at = home.lane(WorkerIndex(worker));
    let known = home.lanes[at].lease.number;
    home.lane_news(
        WorkerIndex(worker),
        LaneNews { wants: true, held: ready, ready, known, ..LaneNews::default() },
        now,
    );
}

#[test]
fn a_refusal_at_one_lane_slows_all_of_them_and_stops_none_that_stands() {
    let mut home = Home::new(&limits(40), REST);
    for worker in 0..4 {
        stand(&mut home, worker, 0, NOW);
    }
    (0..36).for_each(|_| home.succeeded(NOW));
    for _ in 0..4 {
        leases(&mut home);
        (0..4).for_each(|worker| stand(&mut home, worker, 5, NOW));
    }
    assert!(home.lanes.iter().all(|lane| lane.lease.slots == 10));
    home.failed(WorkerIndex(2), 5, NOW, 0.5);
    assert_eq!(leases(&mut home), [(0, 5, false), (1, 5, false), (2, 5, false), (3, 5, false)]);
}

#[test]
fn a_lane_that_could_not_connect_gets_an_answer_even_if_nothing_changes_for_it() {
    let mut home = Home::new(&limits(4), REST);
    stand(&mut home, 0, 3, NOW);
    say(&mut home, 1, true, 0);
    leases(&mut home);
    home.failed(WorkerIndex(1), 0, NOW, 0.5);
    assert_eq!(leases(&mut home).iter().map(|lease| lease.0).collect::<Vec<_>>(), [1]);
}

#[test]
fn what_the_remote_refused_is_tried_again_one_by_one_and_ever_more_seldom() {
    let mut home = Home::new(&limits(10), REST);
    let mut now = Moment(1);
    let mut waits = Vec::new();
    stand(&mut home, 0, 3, now);
    for _ in 0..8 {
        let before = now;
        // The remote takes three, and refuses the fourth.
        home.failed(WorkerIndex(0), 3, now, 0.5);
        stand(&mut home, 0, 3, now);
        (0..5).for_each(|_| home.succeeded(now));
        assert_eq!(home.allowed, 3);
        now = home.next_wake().expect("it looks again");
        waits.push(now.since(before).as_secs() / 60);
        home.tick(now);
        assert_eq!(home.allowed, 4);
        assert!(home.next_wake().is_none_or(|next| next > now), "one step, no spinning");
    }
    assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30, 30]);
}

#[test]
fn a_path_that_rests_is_looked_after_once() {
    let mut home = Home::new(&limits(10), REST);
    say(&mut home, 0, true, 0);
    home.failed(WorkerIndex(0), 0, NOW, 1.0);
    leases(&mut home);
    let until = home.next_wake().expect("its end");
    // News of lanes that still have demand change nothing, and make nobody wake.
    for _ in 0..100 {
        say(&mut home, 0, true, 0);
        assert_eq!((leases(&mut home), home.next_wake()), (vec![], Some(until)));
    }
    home.tick(until);
    assert_eq!((leases(&mut home), home.next_wake()), (vec![(0, 1, false)], None));
}

#[test]
fn permits_go_round_the_lanes_that_wait_and_never_exceed_the_rate() {
    let rate = Rate { count: 4, period: Duration::from_secs(1) };
    let mut home = Home::new(&PathLimits { message_rate: Some(rate), ..limits(8) }, REST);
    let mut spent = [Spent::default(); 3];
    let mut now = Moment(0);
    let mut begun: Vec<(u64, usize)> = Vec::new();
    for _ in 0..16 {
        for worker in 0..3u16 {
            spent[usize::from(worker)].needs = true;
            let permits = PerRate { messages: spent[usize::from(worker)], ..PerRate::default() };
            let news = LaneNews { wants: true, permits, ..LaneNews::default() };
            home.lane_news(WorkerIndex(worker), news, now);
            for (worker, lease) in std::iter::from_fn(|| home.poll_lease()) {
                let lane = &mut spent[usize::from(worker.0)];
                let leased = lease.permits.messages.expect("there is a rate");
                begun.extend((lane.used..leased).map(|_| (now.0 / 250_000, usize::from(worker.0))));
                *lane = Spent { used: leased, returned: 0, needs: true };
            }
        }
        if let Some(next) = home.next_wake() {
            now = now.max(next);
        }
        home.tick(now);
    }
    assert!(begun.len() >= 9, "{begun:?}");
    assert!(begun.windows(2).all(|two| two[0].0 < two[1].0), "one each quarter of a second: {begun:?}");
    assert!((0..3).all(|lane| begun.iter().filter(|(_, at)| *at == lane).count() >= 3), "{begun:?}");
}
