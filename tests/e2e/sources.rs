//! Where mail is sent from: source addresses and their names, pools, and sources that cannot be used.

use std::net::IpAddr;

use crate::harness::client::{Client, content};
use crate::harness::host_is_able;
use crate::harness::relay::{Config, Lab};
use crate::harness::sink::{Act, Sink, Stage, Taken, USUAL};

/// Addresses of sources a, b and c. Every host has all of 127.0.0.0/8.
const ADDRESSES: [&str; 3] = ["127.0.0.21", "127.0.0.22", "127.0.0.23"];

fn config(pools: &[&str]) -> Config {
    let mut config = Config::new().set("delivery.messages_per_connection_max", 1);
    for (name, address) in ["a", "b", "c"].into_iter().zip(ADDRESSES) {
        config = config.table(&format!(
            "[[source]]\nname = '{name}'\naddresses = ['{address}']\nehlo_name = '{name}.out.test'"
        ));
    }
    pools.iter().fold(config, |config, pool| config.table(&format!("[[pool]]\n{pool}")))
}

/// The source that a message came from, by its address, which must fit its name.
fn source(taken: &Taken) -> char {
    let address = taken.peer.to_string();
    let place = ADDRESSES.iter().position(|known| *known == address);
    let source = place.map_or('-', |place| ['a', 'b', 'c'][place]);
    let name = if source == '-' { "relay.test".to_owned() } else { format!("{source}.out.test") };
    assert_eq!(taken.helo, name, "from {address}");
    source
}

fn headed(header: &str) -> Vec<u8> {
    format!("{header}\r\nSubject: sources\r\n\r\nthe text\r\n").into_bytes()
}

#[test]
fn mail_leaves_by_the_sources_of_its_pool_in_their_weights_each_with_its_own_name() {
    if !host_is_able() {
        return;
    }
    let (lab, sink) = (Lab::new(), Sink::start());
    let pools = ["name = 'all'\nsources = ['a:3', 'b']"];
    let relay = lab.start(&config(&pools).set("delivery.pool", "'all'").to(sink.address()));
    let mut client = relay.client();
    let mut sources = Vec::new();
    for nth in 0..8 {
        let to = format!("r{nth}@one.test");
        client.mail("me@client.test", &[&to], &content("sources", "x"));
        sources.push(source(&sink.await_to(&to)));
    }
    assert_eq!(sources.iter().filter(|source| **source == 'a').count(), 6, "{sources:?}");
    assert_eq!(sources.iter().filter(|source| **source == 'b').count(), 2, "{sources:?}");
    let opened = |source| relay.metrics().sum("ringpost_source_connections_total", &[("source", source)]);
    assert_eq!((opened("a"), opened("b")), (6.0, 2.0));
    relay.drain();
    relay.stop();
}

#[test]
fn a_pool_is_chosen_by_a_trusted_word_then_by_tenant_then_by_domain_and_survives_a_restart() {
    if !host_is_able() {
        return;
    }
    let (lab, sink) = (Lab::new(), Sink::start());
    let pools = [
        "name = 'one'\nsources = ['a']\ndomains = ['one.test']",
        "name = 'two'\nsources = ['b']\ntenants = ['acme']",
        "name = 'three'\nsources = ['c']",
    ];
    let config = config(&pools)
        .set("delivery.pool_header", "'X-Pool'")
        .set("smtp.relay_domains", "['one.test']")
        .listener("relay", "tenant_header = 'X-Tenant'")
        .listener("mx", "")
        .to(sink.address());
    let relay = lab.start(&config);
    let mut trusted = Client::connect(relay.listeners("SMTP")[1]);
    let mut anybody = Client::connect(relay.listener("mx"));
    let leaves_by = |client: &mut Client, to: &str, header: &str| {
        client.mail("me@client.test", &[to], &headed(header));
        source(&sink.await_to(to))
    };
    assert_eq!(leaves_by(&mut trusted, "r1@other.test", "X-Nothing: three"), '-');
    assert_eq!(leaves_by(&mut trusted, "r2@one.test", "X-Nothing: three"), 'a');
    assert_eq!(leaves_by(&mut trusted, "r3@one.test", "X-Tenant: acme"), 'b');
    assert_eq!(leaves_by(&mut trusted, "r4@one.test", "X-Tenant: acme\r\nX-Pool: three"), 'c');
    assert_eq!(leaves_by(&mut trusted, "r5@one.test", "X-Pool: unknown"), 'a');
    assert_eq!(leaves_by(&mut anybody, "r6@one.test", "X-Pool: three"), 'a', "who is not trusted cannot say");
    relay.drain();
    relay.stop();
    // What the client said is kept with the message.
    let held = lab.start(&config.clone().route("*", "hold"));
    Client::connect(held.listeners("SMTP")[1]).mail(
        "me@client.test",
        &["r7@one.test"],
        &headed("X-Pool: three"),
    );
    held.stop();
    let relay = lab.start(&config);
    assert_eq!(source(&sink.await_to("r7@one.test")), 'c');
    relay.drain();
    relay.stop();
}

#[test]
fn a_source_that_cannot_bind_or_is_blocked_is_left_out_and_said_so() {
    if !host_is_able() {
        return;
    }
    let blocked: IpAddr = ADDRESSES[0].parse().expect("address");
    let lab = Lab::new();
    let sink = Sink::on(&[([127, 0, 0, 1], 0).into()], USUAL, move |moment| match moment.stage {
        Stage::Banner if moment.peer == blocked => Act::Say("554 5.7.1 you are listed at dnsbl.test"),
        _ => Act::Accept,
    });
    let pools = ["name = 'all'\nsources = ['lost', 'a', 'b']"];
    // An address of TEST-NET-2, which no host has.
    let lost = "[[source]]\nname = 'lost'\naddresses = ['198.51.100.77']";
    let relay = lab.start(&config(&pools).table(lost).set("delivery.pool", "'all'").to(sink.address()));
    let mut client = relay.client();
    for nth in 0..6 {
        let to = format!("r{nth}@one.test");
        client.mail("me@client.test", &[&to], &content("sources", "x"));
        assert_eq!(source(&sink.await_to(&to)), 'b');
    }
    // The banner was asked for once by the blocked one, and for each message by the other.
    assert_eq!(sink.asked(Stage::Banner), 7);
    let page = relay.metrics();
    for (source, reason) in [("lost", "unbound"), ("a", "blocked")] {
        let labels = [("source", source), ("reason", reason)];
        assert_eq!(page.sum("ringpost_source_removals_total", &labels), 1.0, "{source}");
        assert_eq!(page.sum("ringpost_source_out", &[("source", source)]), 1.0, "{source}");
    }
    relay.await_log(&["source lost cannot bind"]);
    relay.await_log(&["blocks source a", "listed at dnsbl.test"]);
    relay.drain();
    relay.stop();
}
