//! Clean stops under load, and restarts with another number of shards: nothing lost, and nothing repeated.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::harness::client::{Client, content};
use crate::harness::relay::{Config, Lab};
use crate::harness::sink::{Act, Moment, Sink, Stage};
use crate::harness::{eventually, host_is_able, quiet_port};
use crate::load::Load;

fn stop_under_load(signal: Signal, wiring: &str) {
    let (lab, mut load) = (Lab::new(), Load::new());
    let port = quiet_port();
    let config =
        Config::new().threads(2, wiring).set("smtp.listen", format!("['127.0.0.1:{port}']")).to(load.sink());
    let mut relay = lab.start(&config);
    load.start(relay.smtp(), "--connections 16 --reconnect --size 4096 --recipients 2 --domains 3");
    for _ in 0..3 {
        load.await_accepted(200);
        let began = Instant::now();
        relay.signal(signal);
        let status = relay.wait(Duration::from_secs(10));
        println!("stopped in {:?}", began.elapsed());
        assert_eq!(status.code(), Some(0), "{status}");
        relay = lab.start(&config);
    }
    load.await_accepted(50);
    load.stop();
    load.drain();
    relay.drain();
    relay.stop();
    let verdict = load.verdict();
    assert!(verdict.holds(false), "a clean stop loses and repeats nothing: {verdict:?}");
    assert_eq!(verdict.unknown, 0, "every end of data got its reply: {verdict:?}");
}

#[test]
fn sigterm_under_load_loses_and_repeats_nothing() {
    if host_is_able() {
        stop_under_load(Signal::TERM, "shared");
    }
}

#[test]
fn sigint_under_load_loses_and_repeats_nothing() {
    if host_is_able() {
        stop_under_load(Signal::INT, "split");
    }
}

#[test]
fn clients_that_never_shake_hands_do_not_hold_up_the_stop() {
    if !host_is_able() {
        return;
    }
    let lab = Lab::new();
    let relay = lab.start(&Config::new().listener("submissions", "").route("*", "hold"));
    let mut silent = [relay.smtp(), relay.listener("submissions")].map(Client::open);
    silent[0].expect_reply(220);
    silent[0].expect("EHLO client.test", 250);
    silent[0].expect("STARTTLS", 220);
    relay.await_metric("ringpost_connections_open", &[], |open| open == 2.0);
    relay.signal(Signal::TERM);
    assert!(relay.wait(Duration::from_secs(10)).success());
    let log = std::fs::read_to_string(lab.path().join("log")).expect("there is a log");
    assert!(!log.contains("peers take their time"), "they were waited for: {log}");
}

#[test]
fn clients_that_wait_are_told_421_and_those_in_a_transaction_may_end_it() {
    if !host_is_able() {
        return;
    }
    let (lab, sink) = (Lab::new(), Sink::start());
    let relay = lab.start(&Config::new().to(sink.address()));
    let (mut idle, mut busy) = (relay.client(), relay.client());
    busy.envelope("from@client.test", &["last@a.test"]);
    busy.expect("DATA", 354);
    busy.send(b"Subject: last\r\n\r\n");
    // The relay has the bytes when it has them in flight.
    relay.await_metric("ringpost_in_flight_bytes", &[], |bytes| bytes > 0.0);
    relay.signal(Signal::TERM);
    let said = idle.expect_reply(421);
    assert!(said.starts_with("421 4.3.2"), "{said:?}");
    assert_eq!(idle.reply(), None);
    busy.send(b"text\r\n.\r\n");
    let said = busy.expect_reply(250);
    assert!(said.text.contains("queued as"), "{said:?}");
    assert_eq!(busy.expect_reply(421).code, 421);
    assert_eq!(relay.wait(Duration::from_secs(10)).code(), Some(0));
    let relay = lab.start(&Config::new().to(sink.address()));
    sink.await_to("last@a.test");
    relay.drain();
    assert_eq!(sink.taken().len(), 1);
    relay.stop();
}

#[test]
fn a_client_that_dawdles_does_not_keep_the_relay_from_stopping() {
    if !host_is_able() {
        return;
    }
    // The remote dawdles too: it never answers the final dot.
    let slow = |moment: &Moment| {
        if moment.stage == Stage::Dot {
            std::thread::sleep(Duration::from_secs(60));
        }
        Act::Accept
    };
    let (lab, sink) = (Lab::new(), Sink::scripted(slow));
    let relay = lab.start(&Config::new().to(sink.address()));
    let mut dawdler = relay.client();
    dawdler.mail("from@client.test", &["slow@a.test"], &content("slow", "x"));
    eventually("the final dot at the sink", || (sink.asked(Stage::Dot) > 0).then_some(()));
    dawdler.envelope("from@client.test", &["never@a.test"]);
    dawdler.expect("DATA", 354);
    let began = Instant::now();
    relay.signal(Signal::TERM);
    assert_eq!(dawdler.expect_reply(421).code, 421, "told so in the middle of its message");
    let status = relay.wait(Duration::from_secs(12));
    assert!(began.elapsed() <= Duration::from_secs(10), "{:?}", began.elapsed());
    assert!(status.success(), "{status}");
    // The message in doubt is tried again, once the relay is back.
    let quick = Sink::start();
    let relay = lab.start(&Config::new().to(quick.address()));
    assert_eq!(relay.queued(), 1);
    quick.await_to("slow@a.test");
    relay.drain();
    relay.stop();
}

#[test]
fn held_mail_survives_fewer_and_more_shards_and_leaves_when_the_route_says_so() {
    if !host_is_able() {
        return;
    }
    let (lab, sink) = (Lab::new(), Sink::start());
    let mut sent = Vec::new();
    let mut send = |shards: u16, count: usize, want_queued: u64| {
        let relay = lab.start(&Config::new().threads(shards, "shared").route("*", "hold"));
        assert_eq!(relay.queued(), want_queued, "with {shards} shards");
        for nth in 0..count {
            let to = format!("m{shards}-{nth}@a.test");
            let text = content(&to, &"x".repeat(nth * 9_000));
            relay.client().mail("from@client.test", &[&to], &text);
            sent.push((to, text));
        }
        relay.await_metric("ringpost_queue_legs", &[("state", "held")], |held| {
            held == (want_queued + count as u64) as f64
        });
        relay.stop();
    };
    send(3, 12, 0);
    send(1, 6, 12);
    send(4, 8, 18);
    let relay = lab.start(&Config::new().threads(2, "shared").to(sink.address()));
    assert_eq!(relay.queued(), 26);
    for (to, text) in &sent {
        assert!(sink.await_to(to).original() == text, "{to}");
    }
    relay.drain();
    assert_eq!(sink.taken().len(), 26, "each once");
    relay.stop();
    let relay = lab.start(&Config::new().threads(1, "shared").to(sink.address()));
    assert_eq!(relay.queued(), 0, "what was delivered stays so");
    relay.stop();
}
