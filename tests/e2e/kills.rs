//! kill -9 under load: nothing acknowledged is lost, nothing refused arrives, and no more is repeated than was in flight.
//!
//! Kills happen at random moments; the seed is printed. `RINGPOST_KILLS` sets their number, `RINGPOST_SEED` the seed.

use std::time::Duration;

use crate::harness::relay::{Config, Lab};
use crate::harness::{host_is_able, quiet_port};
use crate::load::Load;

/// Kills in `cargo test`.
const KILLS: u64 = 5;
/// Kills that the release is tried with: `RINGPOST_KILLS=20`.
const KILLS_FOR_RELEASE: u64 = 20;
/// Connections of the source.
const CLIENTS: u64 = 16;
/// Outbound connections at most, each with at most two transactions in flight.
const REMOTE_CONNECTIONS: u64 = 4;
/// Outcomes of a batch that a kill may lose beside those in flight: what was noted and not yet written.
const OUTCOMES_UNWRITTEN_MAX: u64 = 512;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

fn kill_under_load(shards: u16, wiring: &str, size: usize) {
    let kills = number("RINGPOST_KILLS").unwrap_or(KILLS).min(50 * KILLS_FOR_RELEASE);
    let seed = number("RINGPOST_SEED").unwrap_or_else(|| getrandom::u64().expect("random"));
    println!("{kills} kills, RINGPOST_SEED={seed}");
    let mut state = seed;
    let mut random = move |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let (lab, mut load) = (Lab::new(), Load::new());
    let port = quiet_port();
    let config = Config::new()
        .threads(shards, wiring)
        .set("smtp.listen", format!("['127.0.0.1:{port}']"))
        .set("delivery.connections_max", REMOTE_CONNECTIONS)
        .to(load.sink());
    let mut relay = lab.start(&config);
    load.start(
        relay.smtp(),
        &format!("--connections {CLIENTS} --reconnect --size {size} --recipients 2 --domains 3"),
    );
    for nth in 0..kills {
        // At once after the start now and then: recovery and the first commits are the interesting moments.
        if nth % 3 != 2 {
            load.await_accepted(20);
        }
        std::thread::sleep(Duration::from_millis(random(400)));
        relay.kill();
        relay = lab.start(&config);
    }
    load.await_accepted(20);
    load.stop();
    load.drain();
    relay.drain();
    relay.stop();
    let verdict = load.verdict();
    println!("{verdict:?}");
    assert!(verdict.holds(true), "{verdict:?}");
    assert!(verdict.accepted >= 40 * kills, "a test without load is none: {verdict:?}");
    let in_flight = kills * 2 * (2 * REMOTE_CONNECTIONS * u64::from(shards) + OUTCOMES_UNWRITTEN_MAX);
    assert!(
        verdict.repeated <= in_flight,
        "{} repeated, {in_flight} in flight: {verdict:?}",
        verdict.repeated
    );
}

#[test]
fn nothing_acknowledged_is_lost_by_kills_under_load_on_two_shared_shards() {
    if host_is_able() {
        kill_under_load(2, "shared", 4096);
    }
}

#[test]
fn nothing_acknowledged_is_lost_by_kills_under_load_with_long_messages_and_split_roles() {
    if host_is_able() {
        kill_under_load(1, "split", 150_000);
    }
}
