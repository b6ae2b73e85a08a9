//! What remotes refuse: deferred mail is retried, refused mail bounces, lost connections are tried again, and a bounce is
//! never bounced.

use std::time::{Duration, Instant};

use crate::harness::client::content;
use crate::harness::relay::{Config, Lab, Relay};
use crate::harness::report::Report;
use crate::harness::sink::{Act, Moment, Sink, Stage};
use crate::harness::{SOON, eventually, host_is_able};

/// A relay that sends everything to a sink with a script.
struct Scene {
    lab: Lab,
    sink: Sink,
    relay: Relay,
}

fn play(config: Config, script: impl Fn(&Moment) -> Act + Send + Sync + 'static) -> Scene {
    let (lab, sink) = (Lab::new(), Sink::scripted(script));
    let relay = lab.start(&config.to(sink.address()));
    Scene { lab, sink, relay }
}

impl Scene {
    /// Sends one message to these recipients.
    fn mail(&self, recipients: &[&str]) -> String {
        self.relay.client().mail("me@client.test", recipients, &content("retries", "the text"))
    }

    /// The bounce to the sender.
    fn bounce(&self) -> Report {
        let taken = self.sink.await_to("me@client.test");
        assert_eq!(taken.sender, "", "a notification has the null sender");
        Report::parse(taken.original_of_notification())
    }

    /// Everything settled: the relay must be done, and stop cleanly.
    fn end(self) {
        self.relay.drain();
        self.relay.stop();
        drop(self.lab);
    }
}

impl crate::harness::sink::Taken {
    /// A notification is ours from its first byte: there is no Received header to take off.
    fn original_of_notification(&self) -> &[u8] {
        &self.content
    }
}

/// The script for one stage: `act` as long as it was asked less than `times` times for that mailbox.
fn first(stage: Stage, times: usize, act: Act) -> impl Fn(&Moment) -> Act + Send + Sync {
    move |moment| match moment.stage == stage && moment.before < times && moment.mailbox != "me@client.test" {
        true => act.clone(),
        false => Act::Accept,
    }
}

#[test]
fn a_deferred_recipient_is_delivered_on_retry() {
    if !host_is_able() {
        return;
    }
    let scene = play(Config::new(), first(Stage::Rcpt, 1, Act::Say("450 4.2.1 greylisted, come again")));
    let began = Instant::now();
    let id = scene.mail(&["grey@a.test"]);
    assert_eq!(scene.sink.await_to("grey@a.test").original(), content("retries", "the text"));
    assert!(
        began.elapsed() >= Duration::from_millis(900),
        "the first wait is a second: {:?}",
        began.elapsed()
    );
    let deferred = scene.relay.await_log(&["deferred", &id]);
    assert!(deferred.contains("greylisted") && deferred.contains("attempts=1"), "{deferred}");
    let delivered = scene.relay.await_log(&["delivered", &id]);
    assert!(delivered.contains("attempts=2"), "{delivered}");
    assert_eq!(scene.sink.asked(Stage::Rcpt), 2);
    let page = scene.relay.metrics();
    assert_eq!(page.sum("ringpost_retries_total", &[]), 1.0);
    assert_eq!(page.sum("ringpost_deliveries_total", &[("result", "deferred")]), 1.0);
    assert_eq!(page.sum("ringpost_deliveries_total", &[("result", "delivered")]), 1.0);
    scene.end();
}

#[test]
fn a_refused_recipient_bounces_with_the_remotes_words() {
    if !host_is_able() {
        return;
    }
    let scene = play(Config::new(), first(Stage::Rcpt, 99, Act::Say("550 5.1.1 no such user here")));
    let id = scene.mail(&["gone@a.test> ORCPT=rfc822;old@a.test"]);
    let report = scene.bounce();
    assert!(report.header["to"].contains("me@client.test"), "{:?}", report.header);
    let [fields] = &report.recipient_fields[..] else { panic!("one recipient: {report:?}") };
    assert_eq!(fields["final-recipient"], "rfc822; gone@a.test");
    assert_eq!(fields["original-recipient"], "rfc822; old@a.test");
    assert_eq!(fields["status"], "5.1.1");
    assert_eq!(fields["diagnostic-code"], "smtp; 550 5.1.1 no such user here");
    assert_eq!(report.message_fields["reporting-mta"], "dns; relay.test");
    assert!(report.text.contains(&id) && report.text.contains("gone@a.test"), "{}", report.text);
    assert!(report.returned.1.contains("Subject: retries"), "{:?}", report.returned);
    assert_eq!(scene.sink.asked(Stage::Rcpt), 2, "tried once, and the bounce");
    scene.end();
}

#[test]
fn connections_dropped_at_any_stage_lead_to_another_try() {
    if !host_is_able() {
        return;
    }
    for stage in [Stage::Mail, Stage::Rcpt, Stage::Data, Stage::Dot] {
        let scene = play(Config::new(), first(stage, 1, Act::Drop));
        scene.mail(&["drop@a.test"]);
        scene.sink.await_to("drop@a.test");
        scene.relay.drain();
        assert_eq!(scene.sink.taken().len(), 1, "{stage:?}: once, and no bounce");
        scene.end();
    }
}

/// A sink with a body in one flight with its envelope, as most remotes have it.
const CHUNKING: &[&str] = &["PIPELINING", "CHUNKING", "8BITMIME"];

#[test]
fn a_connection_that_the_remote_closed_while_it_was_idle_costs_the_next_message_nothing() {
    if !host_is_able() {
        return;
    }
    let sink = Sink::on(&[([127, 0, 0, 1], 0).into()], CHUNKING, |_| Act::Accept);
    let lab = Lab::new();
    let relay = lab.start(&Config::new().to(sink.address()));
    for nth in 0..5 {
        let to = format!("m{nth}@a.test");
        let id = relay.client().mail("me@client.test", &[&to], &content("idle", "x"));
        sink.await_to(&to);
        let delivered = relay.await_log(&["delivered", &id]);
        assert!(delivered.contains("attempts=1"), "{delivered}");
        sink.hang_up();
    }
    relay.drain();
    assert!(relay.log_lines(&["deferred"]).is_empty());
    // The end was seen in time: no message was begun on such a connection.
    assert_eq!(relay.metrics().sum("ringpost_outbound_transactions_total", &[]), 5.0);
    assert_eq!(sink.asked(Stage::Banner), 5, "one message needs one connection");
    relay.stop();
}

#[test]
fn a_remote_that_goes_away_over_a_message_it_has_not_answered_gets_it_again_at_once() {
    if !host_is_able() {
        return;
    }
    // The second message on a connection is cut off at its MAIL: as if the end had crossed it.
    let act = |moment: &Moment| match (moment.stage, moment.mailbox, moment.before) {
        (Stage::Mail, "cut@client.test", 0) => Act::Drop,
        _ => Act::Accept,
    };
    let sink = Sink::on(&[([127, 0, 0, 1], 0).into()], CHUNKING, act);
    let lab = Lab::new();
    let config = Config::new().set("delivery.retry_first", "'1h'").set("delivery.connections_max", 1);
    let relay = lab.start(&config.to(sink.address()));
    relay.client().mail("first@client.test", &["a@a.test"], &content("first", "x"));
    sink.await_to("a@a.test");
    let id = relay.client().mail("cut@client.test", &["b@a.test"], &content("cut", "x"));
    sink.await_to("b@a.test");
    let delivered = relay.await_log(&["delivered", &id]);
    assert!(delivered.contains("attempts=1"), "{delivered}");
    assert_eq!(sink.asked(Stage::Banner), 2);
    relay.drain();
    relay.stop();
}

#[test]
fn the_limits_that_a_remote_announces_are_kept_without_a_retry() {
    if !host_is_able() {
        return;
    }
    const LIMITED: &[&str] = &["PIPELINING", "CHUNKING", "LIMITS RCPTMAX=2 MAILMAX=1"];
    let sink = Sink::on(&[([127, 0, 0, 1], 0).into()], LIMITED, |_| Act::Accept);
    let lab = Lab::new();
    let config = Config::new().set("delivery.retry_first", "'1h'");
    let relay = lab.start(&config.to(sink.address()));
    let recipients: Vec<String> = (0..5).map(|nth| format!("r{nth}@a.test")).collect();
    let recipients: Vec<&str> = recipients.iter().map(String::as_str).collect();
    relay.client().mail("me@client.test", &recipients, &content("limits", "x"));
    relay.drain();
    let taken = sink.taken();
    assert!(taken.iter().all(|taken| taken.recipients.len() <= 2));
    let mut got: Vec<_> = taken.iter().flat_map(|taken| taken.mailboxes()).collect();
    got.sort_unstable();
    assert_eq!(got, recipients);
    assert_eq!((taken.len(), sink.asked(Stage::Banner)), (3, 3));
    assert!(relay.log_lines(&["deferred"]).is_empty());
    relay.stop();
}

#[test]
fn a_message_deferred_at_the_final_dot_is_sent_again() {
    if !host_is_able() {
        return;
    }
    let scene = play(Config::new(), first(Stage::Dot, 2, Act::Say("452 4.3.1 disk full")));
    let id = scene.mail(&["dot@a.test", "dot2@a.test"]);
    assert_eq!(scene.sink.await_to("dot@a.test").mailboxes(), ["dot@a.test", "dot2@a.test"]);
    assert!(scene.relay.await_log(&["delivered", &id]).contains("attempts=3"));
    scene.end();
}

#[test]
fn recipients_of_one_transaction_each_get_their_own_result() {
    if !host_is_able() {
        return;
    }
    let scene = play(Config::new(), |moment| match (moment.stage, moment.mailbox) {
        (Stage::Rcpt, "bad@a.test") => Act::Say("553 5.1.3 bad mailbox"),
        (Stage::Rcpt, "later@a.test") if moment.before == 0 => Act::Say("451 4.3.2 later"),
        _ => Act::Accept,
    });
    scene.mail(&["good@a.test", "bad@a.test", "later@a.test"]);
    assert_eq!(scene.sink.await_to("good@a.test").mailboxes(), ["good@a.test"]);
    assert_eq!(scene.sink.await_to("later@a.test").mailboxes(), ["later@a.test"]);
    let report = scene.bounce();
    assert_eq!(report.recipient_fields.len(), 1);
    assert_eq!(report.recipient_fields[0]["final-recipient"], "rfc822; bad@a.test");
    scene.relay.drain();
    assert_eq!(scene.sink.taken().len(), 3);
    scene.end();
}

#[test]
fn a_remote_that_sends_us_away_at_its_banner_costs_no_attempt() {
    if !host_is_able() {
        return;
    }
    let away = |moment: &Moment| match moment.stage == Stage::Banner && moment.before < 2 {
        true => Act::Say("421 4.7.0 too busy"),
        false => Act::Accept,
    };
    let scene = play(Config::new(), away);
    let began = Instant::now();
    let id = scene.mail(&["patient@a.test"]);
    scene.relay.await_metric("ringpost_paths_backing_off", &[], |count| count == 1.0);
    scene.sink.await_to("patient@a.test");
    assert!(began.elapsed() >= Duration::from_secs(1), "the path rests a while: {:?}", began.elapsed());
    let delivered = scene.relay.await_log(&["delivered", &id]);
    assert!(delivered.contains("attempts=1"), "{delivered}");
    assert!(scene.relay.log_lines(&["deferred", &id]).is_empty());
    assert!(scene.sink.asked(Stage::Banner) <= 4, "it does not hammer");
    scene.end();
}

#[test]
fn what_expires_bounces_with_the_last_error() {
    if !host_is_able() {
        return;
    }
    let config = Config::new().set("delivery.expire_after", "'3s'");
    let scene = play(config, first(Stage::Rcpt, usize::MAX, Act::Say("450 4.2.2 mailbox 77 is full")));
    let began = Instant::now();
    scene.mail(&["full@a.test"]);
    let report = scene.bounce();
    assert!(
        began.elapsed() >= Duration::from_millis(2900) && began.elapsed() < SOON,
        "{:?}",
        began.elapsed()
    );
    let fields = &report.recipient_fields[0];
    assert_eq!(fields["status"], "5.4.7", "{fields:?}");
    assert!(
        fields["diagnostic-code"].contains("450") && fields["diagnostic-code"].contains("mailbox 77 is full"),
        "{fields:?}"
    );
    assert_eq!(scene.relay.metrics().sum("ringpost_expiries_total", &[]), 1.0);
    scene.end();
}

#[test]
fn a_host_that_cannot_be_reached_until_expiry_is_named_in_the_bounce() {
    if !host_is_able() {
        return;
    }
    let (lab, sink) = (Lab::new(), Sink::start());
    let closed = crate::harness::quiet_port();
    let config = Config::new()
        .to(sink.address())
        .route("closed.test", format!("smtp://127.0.0.1:{closed}"))
        .set("delivery.expire_after", "'2s'");
    let relay = lab.start(&config);
    relay.client().mail("me@client.test", &["x@closed.test"], &content("closed", "x"));
    let report = Report::parse(&sink.await_to("me@client.test").content);
    let fields = &report.recipient_fields[0];
    assert_eq!(fields["status"], "5.4.7", "{fields:?}");
    assert!(fields["diagnostic-code"].contains(&closed.to_string()), "{fields:?}");
    relay.drain();
    relay.stop();
}

#[test]
fn a_bounce_that_fails_is_not_bounced() {
    if !host_is_able() {
        return;
    }
    let refuse_all = |moment: &Moment| match moment.stage {
        Stage::Rcpt => Act::Say("550 5.7.1 nobody here"),
        _ => Act::Accept,
    };
    let scene = play(Config::new(), refuse_all);
    scene.mail(&["gone@a.test"]);
    eventually("the bounce to be refused", || (scene.sink.asked(Stage::Rcpt) >= 2).then_some(()));
    scene.relay.drain();
    assert_eq!(scene.relay.metrics().sum("ringpost_notifications_total", &[]), 1.0);
    // A message that comes from the null sender is bounced to nobody either.
    scene.relay.client().mail("", &["gone@a.test"], &content("null", "x"));
    scene.relay.drain();
    assert_eq!(scene.relay.metrics().sum("ringpost_notifications_total", &[]), 1.0);
    assert_eq!(scene.sink.asked(Stage::Rcpt), 3);
    scene.end();
}

#[test]
fn who_asks_for_no_notification_gets_none() {
    if !host_is_able() {
        return;
    }
    let scene = play(Config::new(), first(Stage::Rcpt, 99, Act::Say("550 5.1.1 no")));
    let id = scene.mail(&["quiet@a.test> NOTIFY=NEVER", "quiet2@a.test> NOTIFY=SUCCESS"]);
    scene.relay.await_log(&["failed", &id]);
    scene.relay.drain();
    assert_eq!(scene.relay.metrics().sum("ringpost_notifications_total", &[]), 0.0);
    assert!(scene.sink.taken().is_empty());
    scene.end();
}

#[test]
fn a_long_message_that_fails_bounces_and_what_failed_before_a_kill_bounces_after_it() {
    if !host_is_able() {
        return;
    }
    let (lab, sink) = (Lab::new(), Sink::scripted(first(Stage::Rcpt, 99, Act::Say("550 5.1.1 no"))));
    // Held first, so that the failure comes from a message read back from disk.
    let relay = lab.start(&Config::new().route("*", "hold"));
    let long = [content("long", ""), vec![b'z'; 400], b"\r\n".repeat(100_000)].concat();
    relay.client().mail("me@client.test", &["gone@a.test"], &long);
    relay.kill();
    let relay = lab.start(&Config::new().to(sink.address()));
    assert_eq!(relay.queued(), 1);
    let taken = sink.await_to("me@client.test");
    let report = Report::parse(&taken.content);
    assert_eq!(report.recipient_fields[0]["status"], "5.1.1");
    assert!(taken.content.len() < 100_000, "a bounce does not carry a long body: {}", taken.content.len());
    relay.drain();
    relay.stop();
}
