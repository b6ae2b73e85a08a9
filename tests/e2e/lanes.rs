//! Lanes: a busy smart host is served by all workers, its limits stay what they are, and nothing is left standing.

use std::collections::BTreeMap;

use crate::harness::client::content;
use crate::harness::gate::Gate;
use crate::harness::relay::{Config, Lab, Relay};
use crate::harness::sink::{Act, Moment, Sink, Stage};
use crate::harness::{eventually, host_is_able};

const WORKERS: u16 = 4;

/// Messages on as many connections as there are shards, so that each shard has some of the mail; they go to `count` mailboxes.
fn inject(relay: &Relay, count: usize) -> Vec<String> {
    let mut clients: Vec<_> = (0..WORKERS).map(|_| relay.client()).collect();
    let mail = |nth: usize| {
        let to = format!("n{nth}@busy.test");
        clients[nth % usize::from(WORKERS)].mail("from@client.test", &[&to], &content("lanes", "x"));
        to
    };
    (0..count).map(mail).collect()
}

/// A relay of four shards and workers with one smart host.
fn serve(lab: &Lab, sink: &Sink, wiring: &str, connections: u16) -> Relay {
    let config = Config::new().threads(WORKERS, wiring).set("delivery.connections_max", connections);
    lab.start(&config.to(sink.address()))
}

/// How often each of `mailboxes` was written to.
fn copies(sink: &Sink, mailboxes: &[String]) -> BTreeMap<String, usize> {
    let mut copies: BTreeMap<_, _> = mailboxes.iter().map(|mailbox| (mailbox.clone(), 0)).collect();
    for taken in sink.taken() {
        for mailbox in taken.mailboxes() {
            *copies.get_mut(mailbox).expect("nothing is made up") += 1;
        }
    }
    copies
}

fn all_workers_serve(wiring: &str) {
    const LIMIT: u16 = 8;
    let (lab, gate) = (Lab::new(), Gate::default());
    let sink = gate.sink();
    let relay = serve(&lab, &sink, wiring, LIMIT);
    let sent = inject(&relay, 100);
    // A slot moves only when a transaction ends: one after the other ends, until each worker has its share.
    let share = f64::from(LIMIT / WORKERS);
    let has_share = |worker: u16| {
        let open =
            relay.metrics().sum("ringpost_outbound_connections_open", &[("worker", &worker.to_string())]);
        open == share
    };
    eventually("each worker to have its share of the connections", || {
        gate.let_pass(1);
        (0..WORKERS).all(has_share).then_some(())
    });
    gate.let_pass(sent.len());
    relay.drain();
    assert!(copies(&sink, &sent).values().all(|count| *count == 1), "each once");
    assert_eq!(sink.peak(), usize::from(LIMIT));
    relay.stop();
}

#[test]
fn one_busy_smart_host_is_served_by_all_shared_workers() {
    if host_is_able() {
        all_workers_serve("shared");
    }
}

#[test]
fn one_busy_smart_host_is_served_by_all_workers_on_executors_of_their_own() {
    if host_is_able() {
        all_workers_serve("split");
    }
}

#[test]
fn one_message_opens_one_connection() {
    if !host_is_able() {
        return;
    }
    for (wiring, count) in [("shared", 1), ("split", 2)] {
        let (lab, sink) = (Lab::new(), Sink::start());
        let relay = lab.start(&Config::new().threads(count, wiring).to(sink.address()));
        relay.client().mail("from@client.test", &["one@a.test"], &content("lanes", "x"));
        relay.drain();
        assert_eq!(sink.asked(Stage::Banner), 1, "{wiring}");
        relay.stop();
    }
}

fn two_are_two(wiring: &str) {
    let (lab, sink) = (Lab::new(), Sink::start());
    let config = Config::new().threads(WORKERS, wiring).set("delivery.connections_max", 2);
    // So that slots are let go and leased again all the time.
    let relay = lab.start(&config.set("delivery.messages_per_connection_max", 3).to(sink.address()));
    let sent = inject(&relay, 300);
    relay.drain();
    assert!(copies(&sink, &sent).values().all(|count| *count == 1), "each once");
    assert_eq!(sink.peak(), 2);
    relay.stop();
}

#[test]
fn two_connections_over_four_shared_workers_are_two_at_every_instant() {
    if host_is_able() {
        two_are_two("shared");
    }
}

#[test]
fn two_connections_over_four_workers_of_their_own_are_two_at_every_instant() {
    if host_is_able() {
        two_are_two("split");
    }
}

#[test]
fn a_remote_that_takes_three_connections_is_not_pestered_for_a_fourth() {
    if !host_is_able() {
        return;
    }
    let crowded = |moment: &Moment| match moment.stage == Stage::Banner && moment.open >= 3 {
        true => Act::Say("421 4.7.0 too many connections from you"),
        false => Act::Accept,
    };
    let (lab, sink) = (Lab::new(), Sink::scripted(crowded));
    let relay = serve(&lab, &sink, "shared", 20);
    let sent = inject(&relay, 1000);
    relay.drain();
    assert!(copies(&sink, &sent).values().all(|count| *count == 1), "each once");
    let refused = relay.metrics().sum("ringpost_outbound_connections_total", &[("result", "failed")]);
    println!("{refused} refused, {} asked", sink.asked(Stage::Banner));
    assert!(refused <= 30.0, "{refused} connections were refused");
    relay.stop();
}

#[test]
fn nothing_is_left_standing_by_a_remote_that_refuses_and_drops_at_random() {
    if !host_is_able() {
        return;
    }
    // Mixed from what is asked and how often: as good as chance, and spread over the stages.
    let moody = |moment: &Moment| {
        let seed = (moment.before as u64 + 1) * 31 + moment.stage as u64;
        let mixed = moment.mailbox.bytes().fold(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15), |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x9E37_79B9_7F4A_7C15)
        }) >> 40;
        match (moment.stage, mixed % 30) {
            (Stage::Banner, 0) => Act::Say("421 4.3.2 not now"),
            (Stage::Mail | Stage::Rcpt, 1) => Act::Drop,
            (Stage::Mail, 2) => Act::Say("421 4.3.2 enough"),
            (Stage::Rcpt, 3) => Act::Say("451 4.2.1 later"),
            (Stage::Dot, 4) => Act::Say("451 4.3.0 later"),
            (Stage::Dot, 5) => Act::Drop,
            _ => Act::Accept,
        }
    };
    for wiring in ["shared", "split"] {
        let (lab, sink) = (Lab::new(), Sink::scripted(moody));
        let relay = serve(&lab, &sink, wiring, 5);
        let sent = inject(&relay, 80);
        eventually("everything at the sink", || {
            copies(&sink, &sent).values().all(|count| *count > 0).then_some(())
        });
        relay.drain();
        assert!(sink.peak() <= 5, "{} at once", sink.peak());
        relay.stop();
    }
}
