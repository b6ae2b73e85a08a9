//! Who may send what, and how much: each refusal with the code that the standards give it.

use crate::harness::client::{Client, content};
use crate::harness::host_is_able;
use crate::harness::relay::{Config, Lab};
use crate::harness::sink::Sink;

#[test]
fn strangers_may_send_to_our_domains_only() {
    if !host_is_able() {
        return;
    }
    let (lab, sink) = (Lab::new(), Sink::start());
    let config = Config::new()
        .set("smtp.relay_networks", "['192.0.2.0/24']")
        .set("smtp.relay_domains", "['ours.test', '*.ours.test']")
        .to(sink.address());
    let relay = lab.start(&config);
    let mut client = relay.client();
    client.expect("MAIL FROM:<a@client.test>", 250);
    for to in ["x@other.test", "x@notours.test", "x@ours.test.evil.test", "x%other.test@ours.test.invalid"] {
        let said = client.expect(&format!("RCPT TO:<{to}>"), 550);
        assert!(said.starts_with("550 5.7.1"), "{to}: {said:?}");
    }
    client.expect("RCPT TO:<x@OURS.test>", 250);
    client.expect("RCPT TO:<x@below.ours.test>", 250);
    client.expect("DATA", 354);
    client.send(b"Subject: x\r\n\r\n.\r\n");
    client.expect_reply(250);
    relay.drain();
    let mut got: Vec<_> =
        sink.taken().iter().flat_map(|taken| taken.recipients.clone()).map(|(to, _)| to).collect();
    got.sort();
    assert_eq!(got, ["x@OURS.test", "x@below.ours.test"]);
    relay.await_log(&["rejected", "x@other.test", "5.7.1"]);
    assert_eq!(relay.metrics().sum("ringpost_rejects_total", &[("reason", "relay")]), 4.0);
    // All recipients refused, DATA pipelined behind them.
    let mut client = relay.client();
    client.send(b"MAIL FROM:<a@client.test>\r\nRCPT TO:<x@other.test>\r\nDATA\r\nQUIT\r\n");
    client.expect_replies(&[250, 550, 554, 221]);
    relay.stop();
}

#[test]
fn connections_over_the_budget_are_told_421_and_there_is_room_again_afterwards() {
    if !host_is_able() {
        return;
    }
    let lab = Lab::new();
    let relay = lab.start(&Config::new().set("limits.connections_max", 2).route("*", "hold"));
    let (one, mut two) = (relay.client(), relay.client());
    let mut three = Client::open(relay.smtp());
    let said = three.expect_reply(421);
    assert!(said.starts_with("421 4.7.0"), "{said:?}");
    assert_eq!(three.reply(), None);
    assert_eq!(relay.metrics().sum("ringpost_connections_total", &[("result", "refused")]), 1.0);
    drop(one);
    relay.await_metric("ringpost_connections_open", &[], |open| open == 1.0);
    relay.client().mail("a@client.test", &["x@a.test"], &content("room", "x"));
    two.expect("NOOP", 250);
    relay.stop();
}

#[test]
fn messages_over_the_limit_are_refused_when_declared_and_when_sent() {
    if !host_is_able() {
        return;
    }
    let lab = Lab::new();
    let relay = lab.start(&Config::new().set("smtp.message_bytes_max", "'1MiB'").route("*", "hold"));
    let mut client = relay.client();
    let said = client.expect("MAIL FROM:<a@client.test> SIZE=1048577", 552);
    assert!(said.starts_with("552 5.3.4"), "{said:?}");
    client.expect("MAIL FROM:<a@client.test> SIZE=1000", 250);
    client.expect("RCPT TO:<x@a.test>", 250);
    client.expect("DATA", 354);
    let line = [&[b'x'; 998][..], b"\r\n"].concat();
    client.send(&line.repeat(1200));
    client.send(b".\r\n");
    let said = client.expect_reply(552);
    assert!(said.starts_with("552 5.3.4"), "{said:?}");
    // The same with BDAT, whose octets must not be read as commands.
    client.envelope("a@client.test", &["x@a.test"]);
    client.send(b"BDAT 1048577 LAST\r\n");
    client.send(&b"QUIT\r\n".repeat(1048577 / 6 + 1)[..1048577]);
    client.expect_reply(552);
    // The session goes on, and a message of the size itself is taken.
    let whole = [b"\r\n".as_slice(), &line.repeat(1048)].concat();
    client.mail_in_chunks("a@client.test", &["x@a.test"], &whole, 500_000);
    assert_eq!(relay.metrics().sum("ringpost_queue_messages", &[]), 1.0);
    relay.stop();
}

#[test]
fn recipients_over_the_limit_are_told_452_and_the_others_get_their_mail() {
    if !host_is_able() {
        return;
    }
    let (lab, sink) = (Lab::new(), Sink::start());
    let relay = lab.start(&Config::new().set("smtp.recipients_max", 3).to(sink.address()));
    let mut client = relay.client();
    client.envelope("a@client.test", &["1@a.test", "2@a.test", "3@a.test"]);
    let said = client.expect("RCPT TO:<4@a.test>", 452);
    assert!(said.starts_with("452 4.5.3"), "{said:?}");
    client.expect("DATA", 354);
    client.send(b"Subject: x\r\n\r\n.\r\n");
    client.expect_reply(250);
    assert_eq!(sink.await_to("1@a.test").mailboxes(), ["1@a.test", "2@a.test", "3@a.test"]);
    assert_eq!(relay.metrics().sum("ringpost_rejects_total", &[("reason", "recipients")]), 1.0);
    relay.stop();
}

#[test]
fn bytes_in_flight_over_the_budget_are_told_452_and_the_mail_is_taken_later() {
    if !host_is_able() {
        return;
    }
    let lab = Lab::new();
    let config = Config::new()
        .set("limits.in_flight_bytes_max", "'1MiB'")
        .set("smtp.message_bytes_max", "'1MiB'")
        .route("*", "hold");
    let relay = lab.start(&config);
    let mut open = Vec::new();
    let refused = loop {
        let mut client = relay.client();
        client.expect("MAIL FROM:<a@client.test> SIZE=1000000", 250);
        client.expect("RCPT TO:<x@a.test>", 250);
        let said = client.command("DATA");
        if said.code != 354 {
            break (client, said);
        }
        open.push(client);
        assert!(open.len() < 100, "the budget of 1 MiB holds no 100 messages");
    };
    let (mut client, said) = refused;
    assert!(said.starts_with("452 4.3.1"), "{said:?}");
    assert!(open.len() >= 8, "only {} at once", open.len());
    for client in &mut open {
        client.send(b"Subject: x\r\n\r\n.\r\n");
        client.expect_reply(250);
    }
    client.mail("a@client.test", &["x@a.test"], &content("later", "x"));
    assert_eq!(relay.metrics().sum("ringpost_queue_messages", &[]), (open.len() + 1) as f64);
    assert_eq!(relay.metrics().sum("ringpost_in_flight_bytes", &[]), 0.0);
    relay.stop();
}

#[test]
fn a_header_without_end_is_refused_and_the_session_goes_on() {
    if !host_is_able() {
        return;
    }
    let lab = Lab::new();
    let relay = lab.start(&Config::new().route("*", "hold"));
    let mut client = relay.client();
    client.envelope("a@client.test", &["x@a.test"]);
    client.expect("DATA", 354);
    client.send(&b"X-Endless: again\r\n".repeat(20_000));
    client.send(b"\r\nx\r\n.\r\n");
    let said = client.expect_reply(552);
    assert!(said.starts_with("552 5.3.4 Header too long"), "{said:?}");
    client.mail("a@client.test", &["x@a.test"], &content("short", "x"));
    assert_eq!(relay.metrics().sum("ringpost_rejects_total", &[("reason", "size")]), 1.0);
    assert_eq!(relay.metrics().sum("ringpost_queue_messages", &[]), 1.0);
    relay.stop();
}

#[test]
fn a_message_that_loops_or_has_bare_newlines_is_refused() {
    if !host_is_able() {
        return;
    }
    let lab = Lab::new();
    let relay = lab.start(&Config::new().route("*", "hold"));
    let mut client = relay.client();
    for (content, words) in [
        (b"Received: from x by y\r\n".repeat(101), "554 5.4.6"),
        (b"Subject: x\r\n\r\nbare\nnewline\r\n".to_vec(), "550 5.6.11"),
        (b"Subject: x\r\n\r\nsmuggled\r\n.\nMAIL FROM:<evil@x.test>\r\n".to_vec(), "550 5.6.11"),
    ] {
        client.envelope("a@client.test", &["x@a.test"]);
        client.expect("DATA", 354);
        client.send(&content);
        client.send(b".\r\n");
        let said = client.reply().expect("a reply");
        assert!(said.starts_with(words), "{said:?}");
    }
    client.expect("NOOP", 250);
    assert_eq!(relay.metrics().sum("ringpost_rejects_total", &[("reason", "content")]), 3.0);
    assert_eq!(relay.metrics().sum("ringpost_queue_messages", &[]), 0.0);
    relay.stop();
}
