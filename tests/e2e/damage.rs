//! Messages that are damaged on disk when they are wanted: what is damaged never leaves, and whoever sent it is told at once.

use std::fs;

use crate::harness::client::content;
use crate::harness::host_is_able;
use crate::harness::relay::{Config, Lab};
use crate::harness::sink::{Act, Sink, Stage};
use crate::stopped::{find, flip, tree};

#[test]
fn a_long_message_damaged_in_its_middle_is_never_taken_and_its_sender_is_told_of_all_recipients() {
    if !host_is_able() {
        return;
    }
    let (lab, sink) = (Lab::new(), Sink::start());
    let held = Config::new().route("*", "hold");
    let relay = lab.start(&held);
    let filler = "0123456789abcdef\r\n".repeat(9000);
    let text = format!("{filler}the middle\r\n{filler}");
    let to = ["x@one.test", "y@held.test", "z@one.test"];
    let id = relay.client().mail("a@client.test", &to, &content("long", &text));
    let well = relay.client().mail("a@client.test", &["w@one.test"], &content("short", "x"));
    relay.stop();
    flip(&lab, "the middle");

    let config = held.route("one.test", format!("smtp://{}", sink.address()));
    let config = config.route("client.test", format!("smtp://{}", sink.address()));
    let relay = lab.start(&config);
    let line = relay.await_log(&["ERROR", &id, "is damaged", "from <a@client.test>"]);
    assert!(to.iter().all(|mailbox| line.contains(mailbox)), "{line}");
    relay.await_log(&[&well, "delivered"]);
    let bounce = sink.await_to("a@client.test");
    let told = String::from_utf8_lossy(&bounce.content).into_owned();
    for mailbox in to {
        assert!(told.contains(&format!("Final-Recipient: rfc822; {mailbox}")), "{mailbox}: {told}");
    }
    assert_eq!(told.matches("Status: 5.3.0").count(), to.len(), "{told}");
    relay.drain();
    assert_eq!(sink.taken().len(), 2, "the other message and one notification");
    relay.await_metric("ringpost_spool_damage_total", &[("kind", "message")], |count| count == 1.0);
    // The path is not to blame: it rests for nobody.
    assert_eq!(relay.metrics().sum("ringpost_outbound_connections_total", &[("result", "failed")]), 0.0);
    let names = tree(&lab.spool().join("damaged"));
    let reports: Vec<_> =
        names.iter().filter(|name| name.to_string_lossy().ends_with(".message.txt")).collect();
    assert_eq!(reports.len(), 1, "{names:?}");
    let text = fs::read_to_string(reports[0]).expect("a text");
    assert!(to.iter().all(|mailbox| text.contains(mailbox)) && text.contains(&id), "{text}");
    let copy = fs::read(reports[0].with_extension("")).expect("a copy");
    assert!(copy.windows(9).any(|window| window == b"he middle"), "it is of the damaged record");
    relay.stop();
}

#[test]
fn a_message_damaged_while_it_waits_is_returned_at_its_next_try_or_bounce() {
    if !host_is_able() {
        return;
    }
    let lab = Lab::new();
    let sink = Sink::scripted(|moment| match (moment.stage, moment.mailbox) {
        (Stage::Rcpt, "busy@one.test") => Act::Say("450 4.2.1 mailbox busy"),
        (Stage::Rcpt, "none@one.test") => Act::Say("550 5.1.1 no such mailbox"),
        _ => Act::Accept,
    });
    let config = Config::new().set("delivery.retry_first", "'1s'").to(sink.address());
    let relay = lab.start(&config);
    let to = ["busy@one.test", "none@one.test"];
    let id = relay.client().mail("a@client.test", &to, &content("n", "the body of it"));
    relay.await_log(&[&id, "deferred"]);
    assert_eq!(find(&lab, b"the body of it").len(), 1);
    flip(&lab, "the body of it");
    relay.await_log(&["ERROR", &id, "is damaged"]);
    sink.await_to("a@client.test");
    relay.drain();
    let taken = sink.taken();
    let told = taken.iter().map(|taken| String::from_utf8_lossy(&taken.content)).collect::<String>();
    for words in ["550 5.1.1 no such mailbox", "damaged in storage", "Status: 5.3.0", "Status: 5.1.1"] {
        assert!(told.contains(words), "`{words}` is missing: {told}");
    }
    assert!(taken.iter().all(|taken| taken.sender.is_empty() && taken.mailboxes() == ["a@client.test"]));
    relay.stop();
}
