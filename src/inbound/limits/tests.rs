//! PURE. Tests of the limits of addresses: against a table without bounds, and against those who would make it forget.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits {
    connections: 3,
    connections_per_minute: 6,
    messages_per_minute: 4,
    errors_per_minute: 5,
    auth_failures: 2,
    auth_failure_window: Duration::from_secs(300),
    network_factor: 2,
};

fn address(text: &str) -> IpAddr {
    text.parse().expect("a test address")
}

fn at(seconds: u64) -> Moment {
    Moment(seconds * 1_000_000)
}

/// What the table should say, with exact buckets of tokens (in microseconds of filling) and no bound.
#[derive(Default)]
struct Model {
    connections: HashMap<Who, u32>,
    missing: HashMap<(Who, usize), (u64, u64)>,
}

impl Model {
    fn missing(&self, who: Who, act: Act, now: Moment) -> u64 {
        let (missing, since) = self.missing.get(&(who, act as usize)).copied().unwrap_or((0, 0));
        missing.saturating_sub(now.0 - since)
    }

    fn has_token(&self, who: Who, act: Act, now: Moment) -> bool {
        let rate = LIMITS.rate(act, who).expect("a limit");
        self.missing(who, act, now) + rate.token() <= rate.within_us()
    }

    fn count(&mut self, from: IpAddr, act: Act, now: Moment) -> Result<(), Who> {
        for who in Who::both(from) {
            if !self.has_token(who, act, now) {
                return Err(who);
            }
            let missing = self.missing(who, act, now) + LIMITS.rate(act, who).expect("a limit").token();
            self.missing.insert((who, act as usize), (missing, now.0));
        }
        Ok(())
    }

    fn take_back(&mut self, from: IpAddr, act: Act) {
        for who in Who::both(from) {
            let token = LIMITS.rate(act, who).expect("a limit").token();
            self.missing.get_mut(&(who, act as usize)).expect("it was counted").0 -= token;
        }
    }

    fn admit(&mut self, from: IpAddr, now: Moment) -> Result<(), Who> {
        let both = Who::both(from);
        let open = |who: &Who| self.connections.get(who).copied().unwrap_or(0);
        if let Some(who) = both.iter().find(|who| open(who) >= LIMITS.connections * who.times(&LIMITS)) {
            return Err(*who);
        }
        for act in [Act::Error, Act::AuthFailure] {
            if let Some(who) = both.iter().find(|who| !self.has_token(**who, act, now)) {
                return Err(*who);
            }
        }
        self.count(from, Act::Connection, now)?;
        for who in both {
            *self.connections.entry(who).or_default() += 1;
        }
        Ok(())
    }

    fn close(&mut self, from: IpAddr) {
        for who in Who::both(from) {
            *self.connections.get_mut(&who).expect("it was counted in") -= 1;
        }
    }
}

proptest! {
    /// Few addresses in few networks, so that each limit is met.
    #[test]
    fn the_table_says_what_exact_buckets_without_bounds_say(
        steps in prop::collection::vec((0..7u8, 0..2u8, 0..3u8, 0..9_000_000u64), 1..120)
    ) {
        let (clients, mut model) = (Clients::new(LIMITS, 1), Model::default());
        let mut open: Vec<(IpAddr, Pass)> = Vec::new();
        let mut now = Moment(5);
        for (what, network, host, later) in steps {
            now = Moment(now.0 + later);
            let from = IpAddr::from([192, 0, network, host]);
            let of_client = open.iter().position(|(other, _)| *other == from);
            match (what, of_client) {
                (0 | 1, _) => {
                    let admitted = clients.admit(from, now);
                    let said = admitted.as_ref().map(|_| ()).map_err(|excess| excess.who);
                    prop_assert_eq!(said, model.admit(from, now));
                    open.extend(admitted.ok().map(|pass| (from, pass)));
                }
                (2, Some(place)) => {
                    open.swap_remove(place);
                    model.close(from);
                }
                (3, Some(place)) => prop_assert_eq!(
                    open[place].1.count(Act::Message, now).map_err(|excess| excess.who),
                    model.count(from, Act::Message, now)
                ),
                (4, Some(place)) => prop_assert_eq!(
                    open[place].1.count(Act::Error, now).map_err(|excess| excess.who),
                    model.count(from, Act::Error, now)
                ),
                // A login that succeeds (5), or fails (6).
                (5 | 6, Some(place)) => {
                    let said = open[place].1.count(Act::AuthFailure, now).map_err(|excess| excess.who);
                    prop_assert_eq!(said, model.count(from, Act::AuthFailure, now));
                    if what == 5 && said.is_ok() {
                        open[place].1.take_back(Act::AuthFailure);
                        model.take_back(from, Act::AuthFailure);
                    }
                }
                _ => {}
            }
        }
    }
}

#[test]
fn the_time_that_a_refusal_names_is_the_time_after_which_it_works() {
    let clients = Clients::new(LIMITS, 1);
    let pass = clients.admit(address("192.0.2.1"), at(100)).expect("the first");
    for _ in 0..4 {
        pass.count(Act::Message, at(100)).expect("within the limit");
    }
    let excess = pass.count(Act::Message, at(103)).expect_err("over it");
    assert_eq!((excess.wait, excess.limit), (Duration::from_secs(12), 4));
    assert!(pass.count(Act::Message, Moment(at(115).0 - 1)).is_err());
    assert_eq!(pass.count(Act::Message, at(115)), Ok(()));
}

#[test]
fn a_refusal_says_who_has_too_many_of_what_and_when_to_come_again() {
    let clients = Clients::new(LIMITS, 1);
    let passes: Vec<_> = (0..3).map(|_| clients.admit(address("192.0.2.1"), at(0)).expect("room")).collect();
    let check = |from: &str, now: Moment, words: &str| {
        let refusal = clients.admit(address(from), now).expect_err(words).refusal();
        let mut line = Vec::new();
        refusal.write(&mut line);
        assert_eq!(String::from_utf8_lossy(&line), format!("{words}\r\n"));
    };
    let once = "at most 3 at once; try again when one is closed";
    check("192.0.2.1", at(0), &format!("421 4.7.0 Too many connections from 192.0.2.1, {once}"));
    check("::ffff:192.0.2.1", at(0), &format!("421 4.7.0 Too many connections from 192.0.2.1, {once}"));
    drop(passes);
    for _ in 0..3 {
        clients.admit(address("192.0.2.1"), at(0)).expect("up to six a minute");
    }
    let rate = "at most 6 a minute; try again in 11 s";
    check("192.0.2.1", at(0), &format!("421 4.7.0 Too many connections from 192.0.2.1, {rate}"));
    for host in 2..8 {
        clients.admit(IpAddr::from([192, 0, 2, host]), at(0)).expect("the network has twelve a minute");
    }
    let network = "192.0.2.0/24, at most 12 a minute; try again in 6 s";
    check("192.0.2.9", at(0), &format!("421 4.7.0 Too many connections from {network}"));
    assert!(clients.admit(address("192.0.3.9"), at(0)).is_ok(), "another network");
}

#[test]
fn the_addresses_of_an_ipv6_network_share_what_it_may_do() {
    let clients = Clients::new(LIMITS, 1);
    let open: Vec<_> = (0..6)
        .map(|host| clients.admit(address(&format!("2001:db8:0:1::{host}")), at(0)).expect("room"))
        .collect();
    let excess = clients.admit(address("2001:db8:0:1:ffff::1"), at(0)).expect_err("the seventh");
    assert_eq!(excess.who.to_string(), "2001:db8:0:1::/64");
    assert!(clients.admit(address("2001:db8:0:2::1"), at(0)).is_ok());
    drop(open);
}

#[test]
fn an_address_that_made_too_many_errors_is_not_let_in_for_a_while() {
    let clients = Clients::new(LIMITS, 1);
    let pass = clients.admit(address("192.0.2.1"), at(0)).expect("the first");
    for _ in 0..5 {
        pass.count(Act::Error, at(0)).expect("within the limit");
    }
    assert_eq!(pass.count(Act::Error, at(0)).expect_err("over it").kind(), LimitKind::ErrorRate);
    drop(pass);
    assert_eq!(clients.admit(address("192.0.2.1"), at(1)).expect_err("not yet").act, Some(Act::Error));
    assert!(clients.admit(address("192.0.2.2"), at(1)).is_ok(), "a neighbour");
    assert!(clients.admit(address("192.0.2.1"), at(12)).is_ok(), "a token is back");
}

#[test]
fn a_flood_of_new_addresses_takes_no_memory_and_does_not_make_the_table_forget_who_is_connected() {
    let clients = Clients::with_slots(LIMITS, 64);
    let bad = address("198.51.100.7");
    let open: Vec<_> = (0..3).map(|_| clients.admit(bad, at(0)).expect("room")).collect();
    for high in 0..200 {
        for host in 0..200 {
            // Each is one connection, closed at once, in a network of its own.
            drop(clients.admit(IpAddr::from([10, high, host, 1]), at(0)));
        }
    }
    assert_eq!(clients.slots.len(), 64);
    assert_eq!(clients.admit(bad, at(0)).expect_err("still three open").act, None);
    drop(open);
    assert!(clients.slots.iter().all(|slot| slot.connections.load(Relaxed) == 0));
}

#[test]
fn whoever_has_most_to_be_forgotten_stays_longest() {
    let clients = Clients::with_slots(LIMITS, WAYS);
    let bad = address("198.51.100.7");
    let pass = clients.admit(bad, at(0)).expect("room");
    while pass.count(Act::Error, at(0)).is_ok() {}
    drop(pass);
    // One set: the newcomers have it all, and each has less to be forgotten than the one that is blocked.
    for host in 0..100 {
        drop(clients.admit(IpAddr::from([10, host, host, 1]), at(0)));
    }
    assert_eq!(clients.admit(bad, at(0)).expect_err("still blocked").act, Some(Act::Error));
}

#[test]
fn a_set_full_of_open_connections_lets_others_in_uncounted() {
    let clients = Clients::with_slots(LIMITS, WAYS);
    let open: Vec<_> =
        (0..4).map(|host| clients.admit(IpAddr::from([10, host, 0, 1]), at(0)).expect("room")).collect();
    let more: Vec<_> =
        (0..9).map(|_| clients.admit(address("192.0.2.1"), at(0)).expect("uncounted")).collect();
    drop((open, more));
    assert!(clients.slots.iter().all(|slot| slot.connections.load(Relaxed) == 0));
}

#[test]
fn connections_counted_in_by_many_threads_are_counted_out() {
    let clients = Clients::with_slots(Limits { connections: 8, network_factor: 4, ..LIMITS }, 64);
    std::thread::scope(|scope| {
        for thread in 0..8u8 {
            let clients = &clients;
            scope.spawn(move || {
                for turn in 0..2000u32 {
                    // More addresses than slots, so that slots change hands all the time.
                    let host = (turn.wrapping_mul(2_654_435_761) >> 24) as u8;
                    let pass = clients.admit(IpAddr::from([10, host % 40, 0, thread % 2]), at(turn.into()));
                    drop(pass);
                }
            });
        }
    });
    assert!(clients.slots.iter().all(|slot| slot.connections.load(Relaxed) == 0));
}
