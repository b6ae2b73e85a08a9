//! Metrics and health as a monitoring system meets them, the start text as a person does, and the cost of doing nothing.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use crate::harness::client::content;
use crate::harness::host_is_able;
use crate::harness::relay::{Config, Lab};
use crate::harness::sink::Sink;

#[test]
fn a_scrape_is_strictly_well_formed_and_its_counters_move() {
    if !host_is_able() {
        return;
    }
    let (lab, sink) = (Lab::new(), Sink::start());
    let relay = lab.start(&Config::new().threads(2, "shared").to(sink.address()));
    assert_eq!(relay.http("/healthz").0, 200);
    assert_eq!(relay.http("/readyz").0, 200);
    assert_eq!(relay.http("/nothing").0, 404);
    let before = relay.metrics();
    let mut client = relay.client();
    for nth in 0..10 {
        client.mail("a@client.test", &["x@a.test", "y@a.test", "z@b.test"], &content("n", &nth.to_string()));
    }
    client.expect("EXPN list", 502);
    client.expect("QUIT", 221);
    relay.drain();
    sink.await_taken(20);
    relay.await_metric("ringpost_deliveries_total", &[("result", "delivered")], |count| count == 30.0);
    let after = relay.metrics();
    let moved = |name: &str, labels: &[(&str, &str)]| after.sum(name, labels) - before.sum(name, labels);
    assert_eq!(moved("ringpost_connections_total", &[("result", "accepted")]), 1.0);
    assert_eq!(moved("ringpost_messages_accepted_total", &[]), 10.0);
    assert_eq!(moved("ringpost_recipients_accepted_total", &[]), 30.0);
    assert_eq!(moved("ringpost_end_of_data_to_250_seconds_count", &[]), 10.0);
    assert_eq!(moved("ringpost_injection_to_delivery_seconds_count", &[]), 20.0);
    assert_eq!(moved("ringpost_replies_total", &[("class", "5xx")]), 1.0);
    assert_eq!(moved("ringpost_replies_total", &[("class", "3xx")]), 10.0);
    assert!(moved("ringpost_replies_total", &[("class", "2xx")]) >= 52.0);
    assert!(moved("ringpost_spool_commit_seconds_count", &[]) >= 10.0, "each 250 waits for a commit");
    assert!(moved("ringpost_spool_commit_records_count", &[]) >= 10.0);
    assert!(
        moved("ringpost_accepted_bytes_total", &[]) > 0.0 && moved("ringpost_sent_bytes_total", &[]) > 0.0
    );
    assert!(moved("ringpost_outbound_transactions_total", &[]) == 20.0);
    assert!(moved("ringpost_outbound_connections_total", &[("result", "opened")]) >= 1.0);
    assert_eq!(after.sum("ringpost_queue_messages", &[]), 0.0);
    assert_eq!(after.sum("ringpost_panics_total", &[]), 0.0);
    assert_eq!(after.sum("ringpost_scrape_incomplete", &[]), 0.0);
    let has_prefix = |name: &String| name.starts_with("ringpost_") || name.starts_with("process_");
    assert!(after.types.keys().all(has_prefix), "{:?}", after.types);
    let series: BTreeSet<_> = before.types.keys().collect();
    assert_eq!(series, after.types.keys().collect(), "every family is there from the start");
    relay.stop();
}

#[test]
fn commits_can_be_compared_with_what_the_disk_did_when_it_was_measured() {
    if !host_is_able() {
        return;
    }
    let lab = Lab::new();
    let profile = lab.path().join("disk-profile.toml");
    let measured =
        "version = 1\ndirectory = '/spool'\n[relay_commit]\np50_micros = 388.0\np99_micros = 15000.0\n";
    fs::write(&profile, measured).expect("a profile");
    let relay = lab.start(&Config::new().set("spool.disk_profile", format!("'{}'", profile.display())));
    assert!(relay.start_text().contains("0.39 ms (p50), 15.00 ms (p99)"), "{}", relay.start_text());
    let metrics = relay.metrics();
    assert_eq!(metrics.sum("ringpost_spool_commit_profile_seconds", &[("quantile", "0.5")]), 0.000_388);
    assert_eq!(metrics.sum("ringpost_spool_commit_profile_seconds", &[("quantile", "0.99")]), 0.015);
    relay.stop();
}

#[test]
fn readiness_ends_when_the_stop_begins() {
    if !host_is_able() {
        return;
    }
    let lab = Lab::new();
    let relay = lab.start(&Config::new().route("*", "hold"));
    // A client in a transaction keeps the relay from ending.
    let mut client = relay.client();
    client.envelope("a@client.test", &["x@a.test"]);
    client.expect("DATA", 354);
    client.send(b"Subject: x\r\n");
    relay.await_metric("ringpost_in_flight_bytes", &[], |bytes| bytes > 0.0);
    relay.signal(rustix::process::Signal::TERM);
    crate::harness::eventually("/readyz to say no", || (relay.http("/readyz").0 == 503).then_some(()));
    assert_eq!(relay.http("/healthz").0, 200);
    client.send(b"\r\nx\r\n.\r\n");
    client.expect_reply(250);
    assert!(relay.wait(Duration::from_secs(10)).success());
}

#[test]
fn the_start_text_answers_where_who_whither_and_what_next() {
    if !host_is_able() {
        return;
    }
    let lab = Lab::new();
    let relay = lab.start(&Config::new());
    let text = relay.start_text();
    let (smtp, admin) = (relay.smtp().to_string(), relay.admin().to_string());
    let spool = lab.spool().display().to_string();
    for words in [
        &smtp,
        &admin,
        &spool,
        "relay.test",
        "127.0.0.0/8",
        "hold",
        "--route mx",
        "Ctrl-C",
        "0 messages waiting",
    ] {
        assert!(text.contains(words), "`{words}` is missing: {text}");
    }
    relay.stop();
}

/// Voluntary and involuntary switches of all threads, and CPU time in milliseconds.
fn cost(pid: u32) -> (u64, u64) {
    let (mut switches, mut nanos) = (0, 0);
    for task in fs::read_dir(format!("/proc/{pid}/task")).expect("a process").flatten() {
        let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
        let count = |line: &str| line.rsplit_once('\t').and_then(|(_, count)| count.parse::<u64>().ok());
        switches +=
            status.lines().filter(|line| line.contains("ctxt_switches")).filter_map(count).sum::<u64>();
        let schedule = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        nanos += schedule.split(' ').next().and_then(|nanos| nanos.parse::<u64>().ok()).unwrap_or(0);
    }
    (switches, nanos / 1_000_000)
}

fn idles(wiring: &str) {
    let (lab, sink) = (Lab::new(), Sink::start());
    let relay = lab.start(&Config::new().threads(2, wiring).to(sink.address()));
    // Not a fresh one: with open connections both ways, paths, and a message that waits for its time.
    let mut client = relay.client();
    client.mail("a@client.test", &["x@a.test"], &content("one", "x"));
    sink.await_to("x@a.test");
    relay.drain();
    let nap = Duration::from_secs(3);
    let before = cost(relay.pid());
    std::thread::sleep(nap);
    let after = cost(relay.pid());
    let (switches, millis) = (after.0 - before.0, after.1 - before.1);
    println!("{wiring}: {switches} context switches and {millis} ms of CPU in {nap:?}");
    // The log looks 20 times a second and the main thread 10 times: 90 in all. A spin would be thousands.
    assert!(switches < 600, "{switches} context switches in {nap:?}");
    assert!(millis < 300, "{millis} ms of CPU in {nap:?}");
    client.expect("NOOP", 250);
    let status = fs::read_to_string(format!("/proc/{}/status", relay.pid())).expect("a process");
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: u64 = resident.and_then(|words| words.trim().split(' ').next()?.parse().ok()).expect("VmRSS");
    println!("{kib} KiB resident");
    assert!(kib < 128 * 1024, "{kib} KiB resident");
    relay.stop();
}

#[test]
fn an_idle_relay_with_shared_executors_sleeps() {
    if host_is_able() {
        idles("shared");
    }
}

#[test]
fn an_idle_relay_with_split_executors_sleeps() {
    if host_is_able() {
        idles("split");
    }
}
