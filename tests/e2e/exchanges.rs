//! Routing by MX, against a DNS server with a table.

use std::net::SocketAddr;

use crate::harness::client::content;
use crate::harness::dns::{MX, NXDOMAIN, SERVFAIL, Say, Stub};
use crate::harness::relay::{Config, Lab, Relay};
use crate::harness::report::Report;
use crate::harness::sink::{Act, Sink, USUAL};
use crate::harness::{eventually, host_is_able, quiet_port};

/// Loopback addresses for MX hosts; all use one port. Nothing listens on the first.
const HOSTS: [&str; 3] = ["127.0.0.11", "127.0.0.12", "127.0.0.13"];

struct Scene {
    _lab: Lab,
    dns: Stub,
    sink: Sink,
    port: u16,
    relay: Relay,
}

/// A relay that routes by MX, bounces of client.test to the first sink.
fn play(change: impl FnOnce(Config) -> Config) -> Scene {
    let (lab, dns) = (Lab::new(), Stub::start());
    let port = quiet_port();
    let addresses =
        [HOSTS[1], HOSTS[2]].map(|host| format!("{host}:{port}").parse::<SocketAddr>().expect("address"));
    let sink = Sink::on(&addresses, USUAL, |_| Act::Accept);
    for (name, address) in [("closed.test", HOSTS[0]), ("one.test", HOSTS[1]), ("two.test", HOSTS[2])] {
        dns.address(name, address);
    }
    let config = Config::new()
        .route("*", "mx")
        .route("client.test", format!("smtp://{}", addresses[0]))
        .set("resolver.addresses", format!("['{}']", dns.address))
        .set("resolver.timeout", "'1s'")
        .set("resolver.attempts", 1)
        .set("resolver.retry", "'1s'")
        .set("resolver.ttl_min", "'0s'")
        .set("delivery.mx_port", port)
        .set("delivery.allow_loopback_mx", true);
    let relay = lab.start(&change(config));
    Scene { _lab: lab, dns, sink, port, relay }
}

impl Scene {
    fn mail(&self, to: &str) -> String {
        self.relay.client().mail("me@client.test", &[to], &content("mx", "x"))
    }

    fn arrives_at(&self, to: &str, host: &str) {
        self.mail(to);
        assert_eq!(self.sink.await_to(to).at.ip().to_string(), host, "{to}");
    }

    fn bounces(&self, to: &str, status: &str) {
        let before = self.sink.taken().len();
        self.mail(to);
        let taken = self.sink.await_taken(before + 1).pop().expect("one more");
        assert_eq!(taken.mailboxes(), ["me@client.test"]);
        let report = Report::parse(&taken.content);
        assert_eq!(report.recipient_fields[0]["final-recipient"], format!("rfc822; {to}"));
        assert_eq!(report.recipient_fields[0]["status"], status);
    }

    fn end(self) {
        self.relay.drain();
        self.relay.stop();
    }
}

#[test]
fn mail_goes_to_the_most_preferred_host_that_answers() {
    if !host_is_able() {
        return;
    }
    let scene = play(|config| config);
    scene.dns.mx("prefers-two.test", &[(20, "one.test"), (10, "two.test")]);
    scene.dns.mx("prefers-one.test", &[(5, "one.test"), (10, "two.test")]);
    scene.dns.mx("falls-back.test", &[(1, "closed.test"), (2, "two.test")]);
    scene.dns.mx("half-known.test", &[(1, "nowhere.test"), (2, "one.test")]);
    scene.arrives_at("a@prefers-two.test", HOSTS[2]);
    scene.arrives_at("a@prefers-one.test", HOSTS[1]);
    scene.arrives_at("a@falls-back.test", HOSTS[2]);
    scene.arrives_at("a@half-known.test", HOSTS[1]);
    // No MX at all: the domain's own address.
    scene.arrives_at("a@one.test", HOSTS[1]);
    // An address in brackets is asked of nobody.
    scene.arrives_at(&format!("a@[{}]", HOSTS[2]), HOSTS[2]);
    scene.end();
}

#[test]
fn domains_that_take_no_mail_bounce_at_once() {
    if !host_is_able() {
        return;
    }
    let scene = play(|config| config);
    scene.dns.mx("null.test", &[(0, ".")]);
    scene.bounces("a@null.test", "5.1.10");
    scene.dns.set("typo.test", MX, Say::Code(NXDOMAIN));
    scene.bounces("a@typo.test", "5.1.2");
    assert_eq!(scene.relay.metrics().sum("ringpost_retries_total", &[]), 0.0);
    scene.end();
}

#[test]
fn an_outage_of_the_dns_delays_and_bounces_nothing() {
    if !host_is_able() {
        return;
    }
    let scene = play(|config| config);
    scene.dns.set("outage.test", MX, Say::Code(SERVFAIL));
    scene.dns.set("silent.test", MX, Say::Silence);
    scene.mail("a@outage.test");
    scene.mail("a@silent.test");
    scene.relay.await_metric("ringpost_dns_lookups_total", &[("result", "delayed")], |count| count >= 2.0);
    scene.relay.await_metric("ringpost_queue_messages", &[], |count| count == 2.0);
    assert!(scene.sink.taken().is_empty());
    // Other mail goes on meanwhile.
    scene.dns.mx("fine.test", &[(1, "one.test")]);
    scene.arrives_at("a@fine.test", HOSTS[1]);
    scene.dns.mx("outage.test", &[(1, "two.test")]);
    scene.dns.mx("silent.test", &[(1, "one.test")]);
    assert_eq!(scene.sink.await_to("a@outage.test").at.ip().to_string(), HOSTS[2]);
    assert_eq!(scene.sink.await_to("a@silent.test").at.ip().to_string(), HOSTS[1]);
    scene.relay.drain();
    assert_eq!(scene.sink.taken().len(), 3, "no bounce");
    scene.end();
}

#[test]
fn hosts_inside_the_operators_network_are_not_connected_to() {
    if !host_is_able() {
        return;
    }
    let scene =
        play(|config| config.set("delivery.allow_loopback_mx", false).set("delivery.expire_after", "'3s'"));
    scene.dns.mx("inside.test", &[(1, "one.test")]);
    scene.mail("a@inside.test");
    let bounce = scene.sink.await_to("me@client.test");
    let report = Report::parse(&bounce.content);
    println!("{:?}", report.recipient_fields);
    assert_eq!(scene.sink.taken().len(), 1, "the bounce only, by its configured route");
    let failed = scene.relay.log_lines(&["failed"]);
    assert_eq!(failed.len(), 1, "{failed:?}");
    scene.end();
}

#[test]
fn a_path_whose_hosts_are_all_closed_is_tried_again_when_one_opens() {
    if !host_is_able() {
        return;
    }
    let scene = play(|config| config);
    scene.dns.mx("shut.test", &[(1, "closed.test")]);
    let id = scene.mail("a@shut.test");
    scene
        .relay
        .await_metric("ringpost_outbound_connections_total", &[("result", "failed")], |count| count >= 1.0);
    let late =
        Sink::on(&[format!("{}:{}", HOSTS[0], scene.port).parse().expect("address")], USUAL, |_| Act::Accept);
    late.await_to("a@shut.test");
    let line = eventually("its outcome", || scene.relay.log_lines(&["delivered", &id]).pop());
    assert!(line.contains("attempts=1"), "{line}");
    scene.end();
}
