//! The door: limits of addresses, slow and early clients, proxies that speak for others, and balance between shards.
//!
//! Clients with any address come by a PROXY header, as they would through a load balancer.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::harness::client::{Client, content};
use crate::harness::relay::{Config, Lab, Relay};
use crate::harness::sink::Sink;
use crate::harness::{SOON, host_is_able};

/// A relay behind a proxy on loopback: strangers may send to `ours.test`, and 198.51.100.0/24 anywhere.
pub fn behind_proxy() -> Config {
    Config::new()
        .set("smtp.relay_networks", "['198.51.100.0/24']")
        .set("smtp.relay_domains", "['ours.test']")
        .set("smtp.proxy_networks", "['127.0.0.0/8']")
        .route("*", "hold")
}

/// A connection of the client at `address`, through the proxy, which nothing has been read of.
pub fn from(relay: &Relay, address: &str) -> Client {
    let mut client = Client::open(relay.smtp());
    let family = if address.contains(':') { "TCP6" } else { "TCP4" };
    let own = if address.contains(':') { "::1" } else { "192.0.2.200" };
    client.send(format!("PROXY {family} {address} {own} 40000 25\r\n").as_bytes());
    client
}

/// The same, greeted.
pub fn greeted(relay: &Relay, address: &str) -> Client {
    let mut client = from(relay, address);
    client.expect_reply(220);
    client.expect("EHLO client.test", 250);
    client
}

pub fn limit(relay: &Relay, limit: &str) -> f64 {
    relay.metrics().sum("ringpost_limits_total", &[("limit", limit)])
}

#[test]
fn an_address_and_a_network_with_too_many_connections_are_told_and_others_are_served() {
    if !host_is_able() {
        return;
    }
    let lab = Lab::new();
    let config = behind_proxy()
        .threads(2, "shared")
        .set("limits.address_connections_max", 2)
        .set("limits.network_factor", 2);
    let relay = lab.start(&config);
    let mut open: Vec<Client> =
        ["192.0.2.1", "192.0.2.1", "192.0.2.2", "192.0.2.3"].map(|address| greeted(&relay, address)).into();
    let said = from(&relay, "192.0.2.1").expect_reply(421);
    let words = "421 4.7.0 Too many connections from 192.0.2.1, at most 2 at once";
    assert!(said.starts_with(words), "{said:?}");
    let said = from(&relay, "192.0.2.4").expect_reply(421);
    let words = "421 4.7.0 Too many connections from 192.0.2.0/24, at most 4 at once";
    assert!(said.starts_with(words), "{said:?}");
    open.push(greeted(&relay, "192.0.3.1"));
    // Who may relay is exempt.
    open.extend((0..6).map(|_| greeted(&relay, "198.51.100.7")));
    assert_eq!(limit(&relay, "connections"), 2.0);
    drop(open);
    relay.await_metric("ringpost_connections_open", &[], |open| open == 0.0);
    greeted(&relay, "192.0.2.1");
    relay.stop();
}

#[test]
fn messages_connections_and_errors_over_the_rate_are_told_when_to_come_again() {
    if !host_is_able() {
        return;
    }
    let lab = Lab::new();
    let config = behind_proxy()
        .set("limits.address_connections_per_minute", 3)
        .set("limits.address_messages_per_minute", 2)
        .set("limits.address_errors_per_minute", 2);
    let relay = lab.start(&config);
    let mut client = greeted(&relay, "192.0.2.1");
    for _ in 0..2 {
        client.mail("a@client.test", &["x@ours.test"], &content("within", "x"));
    }
    let said = client.expect("MAIL FROM:<a@client.test>", 450);
    let words = "450 4.7.1 Too many messages from 192.0.2.1, at most 2 a minute; try again in ";
    assert!(said.starts_with(words), "{said:?}");
    client.expect("NOOP", 250);
    for address in ["192.0.2.2", "192.0.2.2", "192.0.2.2"] {
        greeted(&relay, address);
    }
    let said = from(&relay, "192.0.2.2").expect_reply(421);
    let words = "421 4.7.0 Too many connections from 192.0.2.2, at most 3 a minute; try again in ";
    assert!(said.starts_with(words), "{said:?}");
    let mut client = greeted(&relay, "192.0.2.3");
    client.expect("NONSENSE", 500);
    client.send(b"NONSENSE\r\nNONSENSE\r\nNOOP\r\n");
    client.expect_replies(&[500, 500, 250]);
    let said = client.expect_reply(421);
    assert!(said.starts_with("421 4.7.0 Too many errors from 192.0.2.3, at most 2 a minute"), "{said:?}");
    assert_eq!(client.reply(), None);
    from(&relay, "192.0.2.3").expect_reply(421);
    // Errors count as well of who does not wait for them.
    let mut client = greeted(&relay, "192.0.2.4");
    client.send(b"NONSENSE\r\nNONSENSE\r\nQUIT\r\n");
    client.expect_replies(&[500, 500, 221]);
    from(&relay, "192.0.2.4").expect_reply(421);
    for (name, count) in [("message_rate", 1.0), ("connection_rate", 1.0), ("error_rate", 3.0)] {
        assert_eq!(limit(&relay, name), count, "{name}");
    }
    // Neither holds for who may relay.
    let mut client = greeted(&relay, "198.51.100.7");
    for turn in 0..5 {
        client.mail("a@client.test", &["x@a.test"], &content(&format!("bulk {turn}"), "x"));
        client.expect("NONSENSE", 500);
    }
    relay.stop();
}

#[test]
fn a_client_that_speaks_before_the_banner_is_sent_away_and_one_that_waits_is_served() {
    if !host_is_able() {
        return;
    }
    let lab = Lab::new();
    let relay = lab.start(&behind_proxy().set("smtp.banner_wait", "'100ms'"));
    let mut early = from(&relay, "192.0.2.1");
    early.send(b"EHLO early.test\r\n");
    let said = early.expect_reply(554);
    assert!(said.starts_with("554 5.5.1 Wait for the banner"), "{said:?}");
    assert_eq!(early.reply(), None);
    assert_eq!(limit(&relay, "early_talk"), 1.0);
    let mut client = greeted(&relay, "192.0.2.1");
    client.mail("a@client.test", &["x@ours.test"], &content("patient", "x"));
    relay.stop();
}

/// Sends `piece` again and again until the relay says something.
fn drip(mut client: Client, piece: &[u8]) -> String {
    let began = Instant::now();
    loop {
        client.send(piece);
        if let Some(reply) = client.reply_within(Duration::from_millis(30)) {
            return format!("{} {}", reply.code, reply.text);
        }
        assert!(began.elapsed() < SOON, "a client that drips is served for ever");
    }
}

#[test]
fn bytes_that_drip_do_not_prolong_a_command_or_a_message() {
    if !host_is_able() {
        return;
    }
    let lab = Lab::new();
    let config = Config::new()
        .set("smtp.command_timeout", "'400ms'")
        .set("smtp.data_timeout", "'400ms'")
        .set("smtp.data_rate_min", "'1MiB'")
        .route("*", "hold");
    let relay = lab.start(&config);
    assert_eq!(drip(relay.client(), b"N"), "421 4.4.2 Idle too long, closing");
    let mut client = relay.client();
    client.envelope("a@client.test", &["x@a.test"]);
    client.expect("DATA", 354);
    assert_eq!(drip(client, b"x"), "421 4.4.2 Message comes too slowly, closing");
    assert_eq!((limit(&relay, "command_time"), limit(&relay, "data_rate")), (1.0, 1.0));
    relay.stop();
}

#[test]
fn the_client_that_a_proxy_names_is_the_one_in_policy_received_and_log() {
    if !host_is_able() {
        return;
    }
    let (lab, sink) = (Lab::new(), Sink::start());
    let relay = lab.start(&behind_proxy().to(sink.address()));
    let mut stranger = greeted(&relay, "192.0.2.77");
    stranger.envelope("a@client.test", &["x@ours.test"]);
    stranger.expect("RCPT TO:<x@other.test>", 550);
    relay.await_log(&["rejected", "192.0.2.77", "x@other.test"]);
    stranger.expect("RSET", 250);
    stranger.mail("a@client.test", &["1@ours.test"], &content("by text", "x"));
    let received = String::from_utf8_lossy(&sink.await_to("1@ours.test").content).into_owned();
    assert!(received.starts_with("Received: from client.test ([192.0.2.77])"), "{received}");
    relay.await_log(&["accepted", "192.0.2.77", "1@ours.test"]);
    // Version 2, a byte at a time, for a client that may relay.
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    header.extend([198, 51, 100, 7, 192, 0, 2, 200, 1, 2, 0, 25]);
    let mut trusted = Client::open(relay.smtp());
    for byte in header {
        trusted.send(&[byte]);
    }
    trusted.expect_reply(220);
    trusted.expect("EHLO client.test", 250);
    trusted.mail("a@client.test", &["2@other.test"], &content("by bytes", "x"));
    let received = String::from_utf8_lossy(&sink.await_to("2@other.test").content).into_owned();
    assert!(received.starts_with("Received: from client.test ([198.51.100.7])"), "{received}");
    relay.stop();
}

#[test]
fn a_proxy_without_a_header_and_a_header_without_a_proxy_are_refused() {
    if !host_is_able() {
        return;
    }
    let lab = Lab::new();
    // The proxy's own address may relay: a client that it does not name must not.
    let relay = lab.start(&behind_proxy().set("smtp.relay_networks", "['127.0.0.0/8']"));
    for start in ["EHLO client.test\r\n", "PROXY TCP4 192.0.2.1 192.0.2.200 1\r\n"] {
        let mut client = Client::open(relay.smtp());
        client.send(start.as_bytes());
        let said = client.expect_reply(550);
        assert!(said.starts_with("550 5.7.0 A PROXY header must come first"), "{said:?}");
        assert_eq!(client.reply(), None);
    }
    assert_eq!(limit(&relay, "proxy"), 2.0);
    let mut unnamed = Client::open(relay.smtp());
    unnamed.send(b"PROXY UNKNOWN\r\n");
    unnamed.expect_reply(220);
    unnamed.expect("EHLO client.test", 250);
    unnamed.envelope("a@client.test", &["x@ours.test"]);
    unnamed.expect("RCPT TO:<x@other.test>", 550);
    relay.stop();
    let relay = lab.start(&Config::new().route("*", "hold"));
    let mut liar = relay.client();
    liar.expect("PROXY TCP4 192.0.2.1 192.0.2.200 1 25", 500);
    relay.stop();
}

#[test]
fn xclient_gives_a_client_its_own_address_and_only_a_proxy_may_say_it() {
    if !host_is_able() {
        return;
    }
    let (lab, sink) = (Lab::new(), Sink::start());
    let config = Config::new()
        .set("smtp.relay_networks", "['127.0.0.0/8', '198.51.100.0/24']")
        .set("smtp.relay_domains", "['ours.test']")
        .set("limits.address_connections_max", 1)
        .to(sink.address());
    let relay = lab.start(&config);
    let mut client = relay.client();
    assert!(!client.expect("EHLO client.test", 250).text.contains("XCLIENT"));
    client.expect("XCLIENT ADDR=192.0.2.1", 550);
    relay.stop();

    let relay = lab.start(&config.set("smtp.xclient_networks", "['127.0.0.1/32']"));
    let mut proxy = relay.client();
    let offer = "XCLIENT NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT";
    assert!(proxy.expect("EHLO proxy.test", 250).text.lines().any(|line| line == offer));
    proxy.expect("XCLIENT ADDR=nonsense", 501);
    proxy.envelope("a@client.test", &[]);
    proxy.expect("XCLIENT ADDR=192.0.2.77", 503);
    proxy.expect("RSET", 250);
    proxy.expect("XCLIENT HELO=[UNAVAILABLE] PORT=4000", 220);
    proxy.expect("XCLIENT NAME=[UNAVAILABLE] ADDR=192.0.2.77 HELO=real.test PROTO=ESMTP", 220);
    proxy.envelope("a@client.test", &["1@ours.test"]);
    proxy.expect("RCPT TO:<x@other.test>", 550);
    proxy.expect("DATA", 354);
    proxy.send(b"Subject: x\r\n\r\n.\r\n");
    proxy.expect_reply(250);
    let received = String::from_utf8_lossy(&sink.await_to("1@ours.test").content).into_owned();
    assert!(received.starts_with("Received: from real.test ([192.0.2.77])"), "{received}");
    assert!(received.contains("with ESMTP"), "{received}");
    // Limits are those of the client, and the next client is another one.
    let said = relay.client().expect("XCLIENT ADDR=192.0.2.77", 421);
    assert!(said.starts_with("421 4.7.0 Too many connections from 192.0.2.77"), "{said:?}");
    drop(proxy);
    relay.await_metric("ringpost_connections_open", &[], |open| open == 0.0);
    relay.client().expect("XCLIENT ADDR=192.0.2.77", 220);
    let introduced = |address: &str| {
        let mut client = relay.client();
        client.expect(&format!("XCLIENT ADDR={address}"), 220);
        client.expect("EHLO client.test", 250);
        client
    };
    introduced("198.51.100.1").mail("a@client.test", &["2@other.test"], &content("trusted", "x"));
    // A client without an address is not taken for the proxy, which may relay.
    let mut unknown = introduced("[UNAVAILABLE]");
    unknown.envelope("a@client.test", &["x@ours.test"]);
    unknown.expect("RCPT TO:<x@other.test>", 550);
    relay.stop();
}

/// Sends messages on one connection, pipelined, until there is no more to do.
fn inject(address: SocketAddr, messages: usize) {
    let mut client = Client::connect(address);
    for turn in 0..messages {
        client.mail("a@client.test", &["x@a.test"], &content(&format!("{turn}"), "x"));
    }
}

#[test]
fn eight_busy_connections_at_once_give_four_shards_the_same_number_of_messages() {
    if !host_is_able() {
        return;
    }
    let lab = Lab::new();
    let relay = lab.start(&Config::new().threads(4, "shared").route("*", "hold"));
    for round in 1..=5 {
        let (all, each) = (std::sync::Barrier::new(8), 25);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    all.wait();
                    inject(relay.smtp(), each);
                });
            }
        });
        relay.await_metric("ringpost_connections_open", &[], |open| open == 0.0);
        let page = relay.metrics();
        let counts: Vec<f64> = (0..4)
            .map(|shard| page.sum("ringpost_queue_messages", &[("shard", &shard.to_string())]))
            .collect();
        let wanted = f64::from(round) * 8.0 * each as f64 / 4.0;
        assert!(counts.iter().all(|count| (count - wanted).abs() <= wanted / 10.0), "{counts:?}");
    }
    relay.stop();
}
