//! Routing by MX, against a DNS server with a table.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::harness::client::content;
use crate::harness::dns::{A, MX, NXDOMAIN, Record, SERVFAIL, Say, Stub};
use crate::harness::relay::{Config, Lab, Relay};
use crate::harness::report::Report;
use crate::harness::sink::{Act, Moment, Sink, Stage, USUAL};
use crate::harness::{eventually, host_is_able, quiet_port, skip};

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
    play_with(USUAL, |_| Act::Accept, change)
}

/// Likewise with sinks that offer this and follow a script.
fn play_with(
    offers: &'static [&'static str],
    script: impl Fn(&Moment) -> Act + Send + Sync + 'static,
    change: impl FnOnce(Config) -> Config,
) -> Scene {
    let (lab, dns) = (Lab::new(), Stub::start());
    let port = quiet_port();
    let addresses =
        [HOSTS[1], HOSTS[2]].map(|host| format!("{host}:{port}").parse::<SocketAddr>().expect("address"));
    let sink = Sink::on(&addresses, offers, script);
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

#[test]
fn aliases_lead_to_hosts_and_hosts_may_have_ipv6_alone() {
    if !host_is_able() {
        return;
    }
    let scene = play(|config| config);
    let alias = |from, to| Record::Alias(from, to);
    scene.dns.set("alias.test", MX, Say::Records(vec![alias("alias.test", "real.test")]));
    scene.dns.mx("real.test", &[(1, "host.test")]);
    let chain = vec![
        alias("host.test", "h2.test"),
        alias("h2.test", "two.test"),
        Record::Address("two.test", HOSTS[2]),
    ];
    scene.dns.set("host.test", A, Say::Records(chain));
    scene.arrives_at("a@alias.test", HOSTS[2]);
    let six = format!("[::1]:{}", scene.port).parse::<SocketAddr>().expect("address");
    if TcpListener::bind(six).is_err() {
        skip("this host has no IPv6 loopback");
    } else {
        let sink = Sink::on(&[six], USUAL, |_| Act::Accept);
        scene.dns.address("six.test", "::1");
        scene.dns.mx("v6.test", &[(1, "closed.test"), (2, "six.test")]);
        for to in ["a@v6.test", "a@[IPv6:::1]"] {
            scene.mail(to);
            sink.await_to(to);
        }
    }
    scene.end();
}

#[test]
fn mail_that_leads_back_to_us_bounces_unless_a_better_host_takes_it() {
    if !host_is_able() {
        return;
    }
    let ours = "127.0.0.14";
    let scene = play(|config| {
        let port = config.text().lines().find_map(|line| line.strip_prefix("mx_port = ").map(str::to_owned));
        config.set("smtp.listen", format!("['{ours}:{}']", port.expect("it is set")))
    });
    scene.dns.address("ours.test", ours);
    scene.dns.mx("loop.test", &[(10, "ours.test"), (20, "one.test")]);
    scene.dns.mx("named.test", &[(10, "relay.test")]);
    scene.bounces("a@loop.test", "5.4.6");
    scene.bounces("a@named.test", "5.4.6");
    scene.bounces("a@ours.test", "5.4.6");
    scene.bounces(&format!("a@[{ours}]"), "5.4.6");
    scene.dns.mx("backup.test", &[(10, "one.test"), (20, "ours.test")]);
    scene.arrives_at("a@backup.test", HOSTS[1]);
    // Even while that one is away nothing comes to us, or to those behind us.
    scene.dns.mx("waits.test", &[(10, "closed.test"), (20, "ours.test"), (30, "two.test")]);
    scene.mail("a@waits.test");
    scene
        .relay
        .await_metric("ringpost_outbound_connections_total", &[("result", "failed")], |count| count >= 1.0);
    let late =
        Sink::on(&[format!("{}:{}", HOSTS[0], scene.port).parse().expect("address")], USUAL, |_| Act::Accept);
    late.await_to("a@waits.test");
    scene.end();
}

#[test]
fn whatever_a_dns_server_does_nothing_bounces_and_mail_goes_on_when_it_is_back() {
    if !host_is_able() {
        return;
    }
    let address = SocketAddr::from(([127, 0, 0, 1], quiet_port()));
    let scene = play(|config| {
        config
            .set("resolver.addresses", format!("['{address}']"))
            .set("resolver.timeout", "'300ms'")
            .set("resolver.retry", "'300ms'")
    });
    let delayed = || scene.relay.metrics().sum("ringpost_dns_lookups_total", &[("result", "delayed")]);
    let waits_for_dns = |to: &str| {
        let before = delayed();
        scene.mail(to);
        eventually("a lookup that fails", || (delayed() > before).then_some(()));
    };
    // Nobody is there at all.
    waits_for_dns("a@dead.test");
    let dns = Stub::on(address);
    dns.set_mood(Some(Say::Silence));
    dns.address("one.test", HOSTS[1]);
    let late = Say::Late(Duration::from_secs(5), vec![Record::Mx(1, "one.test")]);
    let moods = [
        ("silent", Say::Silence),
        ("broken", Say::Code(SERVFAIL)),
        ("unable", Say::Code(4)),
        ("refusing", Say::Code(5)),
        ("babbling", Say::Garbage),
        ("lying", Say::Forged),
        ("slow", late),
    ];
    for (name, mood) in &moods {
        dns.set_mood(Some(mood.clone()));
        waits_for_dns(&format!("a@{name}.test"));
    }
    for name in moods.iter().map(|(name, _)| *name).chain(["dead"]) {
        dns.mx(&format!("{name}.test"), &[(1, "one.test")]);
    }
    assert!(scene.sink.taken().is_empty(), "nothing bounces");
    dns.set_mood(None);
    let taken = scene.sink.await_taken(moods.len() + 1);
    assert!(taken.iter().all(|message| message.sender == "me@client.test"), "{taken:?}");
    assert_eq!(scene.relay.metrics().sum("ringpost_retries_total", &[]), 0.0, "no attempt was counted");
    scene.end();
}

#[test]
fn equal_hosts_share_the_load_and_one_that_sends_us_away_is_tried_last() {
    if !host_is_able() {
        return;
    }
    let scene = play(|config| config.set("delivery.messages_per_connection_max", 1));
    scene.dns.mx("equal.test", &[(5, "one.test"), (5, "two.test")]);
    let recipients: Vec<String> = (0..20).map(|nth| format!("r{nth}@equal.test")).collect();
    let hosts: BTreeSet<_> = recipients
        .iter()
        .map(|to| {
            scene.mail(to);
            scene.sink.await_to(to).at.ip().to_string()
        })
        .collect();
    assert_eq!(hosts.into_iter().collect::<Vec<_>>(), HOSTS[1..]);
    let address = format!("{}:{}", HOSTS[0], scene.port).parse().expect("address");
    let gruff = Sink::on(&[address], USUAL, |_| Act::Say("554 5.7.1 not you"));
    scene.dns.mx("gruff.test", &[(1, "closed.test"), (2, "one.test")]);
    for nth in 0..5 {
        scene.arrives_at(&format!("r{nth}@gruff.test"), HOSTS[1]);
    }
    assert_eq!(gruff.asked(Stage::Banner), 1, "it is not asked for each message");
    scene.end();
}

#[test]
fn a_provider_has_one_limit_for_all_its_hosts_and_each_domain_its_own_hosts() {
    if !host_is_able() {
        return;
    }
    let (open, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (counted, peak) = (open.clone(), most.clone());
    let script = move |moment: &Moment| {
        match moment.stage {
            Stage::Mail if moment.mailbox == "me@client.test" => {
                peak.fetch_max(counted.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            }
            Stage::Dot => {
                // Long enough for a second connection, if there were one, to be in the middle of its transaction.
                std::thread::sleep(Duration::from_millis(50));
                counted.fetch_sub(1, Ordering::SeqCst);
            }
            _ => {}
        }
        Act::Accept
    };
    let site = "[[site]]\nname = 'big'\nmx = ['*.big.test']\nconnections_max = 1\n";
    let plain: &[&str] = &["8BITMIME"];
    let scene = play_with(plain, script, |config| config.table(site).threads(2, "shared"));
    for (name, address) in
        [("mx0.big.test", HOSTS[0]), ("mx1.big.test", HOSTS[1]), ("mx2.big.test", HOSTS[2])]
    {
        scene.dns.address(name, address);
    }
    scene.dns.mx("shut.test", &[(1, "mx0.big.test")]);
    scene.dns.mx("a.test", &[(1, "mx1.big.test")]);
    scene.dns.mx("b.test", &[(1, "mx2.big.test")]);
    let mut client = scene.relay.client();
    let shut = client.mail("me@client.test", &["x@shut.test"], &content("mx", "x"));
    let recipients: Vec<_> =
        (0..20).map(|nth| format!("r{nth}@{}.test", if nth % 2 == 0 { 'a' } else { 'b' })).collect();
    for to in &recipients {
        client.mail("me@client.test", &[to], &content("mx", "x"));
    }
    for to in &recipients {
        let host = if to.ends_with("@a.test") { HOSTS[1] } else { HOSTS[2] };
        assert_eq!(scene.sink.await_to(to).at.ip().to_string(), host, "{to}");
    }
    assert_eq!(most.load(Ordering::SeqCst), 1, "connections at once to the provider");
    // The domain whose host is away waits by its schedule, and holds up nobody.
    let line = scene.relay.await_log(&["deferred", &shut]);
    assert!(line.contains("attempts=1") && line.contains("mx0.big.test"), "{line}");
    // Its host is not connected to for each of its messages: that would take the one connection from the others.
    let again = client.mail("me@client.test", &["y@shut.test"], &content("mx", "x"));
    let line = scene.relay.await_log(&["deferred", &again]);
    assert!(line.contains("Connection refused"), "what happened before is told: {line}");
    let failed = scene.relay.metrics().sum("ringpost_outbound_connections_total", &[("result", "failed")]);
    assert_eq!(failed, 1.0);
    scene.relay.stop();
}

#[test]
fn a_site_of_domains_has_limits_of_its_own() {
    if !host_is_able() {
        return;
    }
    let site = "[[site]]\nname = 'shy'\ndomains = ['*.shy.test']\nrecipients_per_transaction_max = 1\n";
    let scene = play(|config| config.table(site));
    scene.dns.mx("a.shy.test", &[(5, "one.test")]);
    scene.dns.mx("bold.test", &[(5, "one.test")]);
    let mut client = scene.relay.client();
    let transactions = |domain: &str, client: &mut crate::harness::client::Client| {
        let (one, two) = (format!("x@{domain}"), format!("y@{domain}"));
        client.mail("me@client.test", &[&one, &two], &content("mx", "x"));
        (scene.sink.await_to(&one).recipients.len(), scene.sink.await_to(&two).recipients.len())
    };
    assert_eq!(transactions("a.shy.test", &mut client), (1, 1));
    assert_eq!(transactions("bold.test", &mut client), (2, 2));
    scene.end();
}
