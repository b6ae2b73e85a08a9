//! What senders are told besides failures: success where nobody else says it, and delay, once; and who is told how.

use crate::harness::client::content;
use crate::harness::relay::{Config, Lab, Relay};
use crate::harness::report::Report;
use crate::harness::sink::{Act, Sink, Stage, Taken, USUAL};
use crate::harness::{eventually, host_is_able};

/// A usual remote that cannot report.
const WITHOUT_DSN: &[&str] = &["PIPELINING", "8BITMIME", "ENHANCEDSTATUSCODES", "SIZE 100000000"];

fn sink(offers: &'static [&'static str]) -> Sink {
    Sink::on(&[([127, 0, 0, 1], 0).into()], offers, |_| Act::Accept)
}

fn to(sink: &Sink) -> String {
    format!("smtp://{}", sink.address())
}

fn reports(sender: &Sink) -> Vec<Taken> {
    sender.taken().into_iter().filter(|taken| taken.sender.is_empty()).collect()
}

fn mail(relay: &Relay, recipients: &[&str]) -> String {
    relay.client().mail("me@client.test> RET=FULL ENVID=QQ+2B1", recipients, &content("reports", "the text"))
}

#[test]
fn success_is_reported_by_us_where_the_remote_cannot_and_never_twice() {
    if !host_is_able() {
        return;
    }
    let (lab, sender, quiet, able) = (Lab::new(), sink(USUAL), sink(WITHOUT_DSN), sink(USUAL));
    let config = Config::new()
        .route("client.test", to(&sender))
        .route("quiet.test", to(&quiet))
        .route("able.test", to(&able))
        .route("nowhere.test", "discard");
    let relay = lab.start(&config);
    mail(&relay, &["r@able.test> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;o+2Br@able.test"]);
    let passed_on = &able.await_to("r@able.test").recipients[0].1;
    assert!(passed_on.contains("NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;o+2Br@able.test"), "{passed_on}");
    mail(&relay, &["unasked@quiet.test", "unasked@nowhere.test", "never@quiet.test> NOTIFY=NEVER"]);
    for (mailbox, action) in [("r@quiet.test", "relayed"), ("r@nowhere.test", "delivered")] {
        let told = reports(&sender).len();
        let id = mail(&relay, &[&format!("{mailbox}> NOTIFY=SUCCESS ORCPT=rfc822;o+2Br@x.test")]);
        eventually("the report", || (reports(&sender).len() > told).then_some(()));
        let report = Report::parse(&reports(&sender)[told].content);
        let [fields] = &report.recipient_fields[..] else { panic!("one recipient: {report:?}") };
        assert_eq!(fields["action"], action);
        assert_eq!(fields["final-recipient"], format!("rfc822; {mailbox}"));
        assert_eq!(fields["original-recipient"], "rfc822; o+r@x.test");
        assert!(fields["status"].starts_with("2."), "{fields:?}");
        assert_eq!(report.message_fields["original-envelope-id"], "QQ+1");
        assert_eq!(report.returned.0, "text/rfc822-headers", "nothing failed, so headers are enough");
        relay.await_log(&["success reported", &id]);
    }
    relay.drain();
    assert_eq!(reports(&sender).len(), 2, "one for each who asked, where nobody else reports");
    relay.stop();
}

#[test]
fn a_report_of_success_that_is_owed_outlives_a_crash() {
    if !host_is_able() {
        return;
    }
    let (lab, sender, quiet) = (Lab::new(), sink(USUAL), sink(WITHOUT_DSN));
    // The leg that waits keeps the message open, so that what there is to tell is gathered for a minute.
    let config = Config::new()
        .route("client.test", to(&sender))
        .route("quiet.test", to(&quiet))
        .route("later.test", "hold");
    let relay = lab.start(&config);
    let id = mail(&relay, &["r@quiet.test> NOTIFY=SUCCESS", "r@later.test"]);
    relay.await_log(&["relayed", &id]);
    // Behind it in the log, so that the record before is on disk.
    relay.client().mail("me@client.test", &["x@later.test"], &content("after", "x"));
    relay.kill();
    assert_eq!(reports(&sender).len(), 0);
    let relay = lab.start(&config.route("later.test", "discard"));
    eventually("the report", || (!reports(&sender).is_empty()).then_some(()));
    relay.drain();
    assert_eq!((reports(&sender).len(), quiet.taken().len()), (1, 1), "reported once, and not sent again");
    relay.stop();
}

#[test]
fn a_delay_is_reported_once_to_who_may_hear_of_it_and_then_the_mail_arrives() {
    if !host_is_able() {
        return;
    }
    let (lab, sender) = (Lab::new(), sink(USUAL));
    let slow = Sink::scripted(|moment| match moment.stage == Stage::Rcpt && moment.before < 4 {
        true => Act::Say("451 4.7.1 greylisted, come again"),
        false => Act::Accept,
    });
    let config = Config::new()
        .route("client.test", to(&sender))
        .route("*", to(&slow))
        .set("delivery.delay_after", "'1500ms'")
        .set("delivery.expire_after", "'1h'");
    let relay = lab.start(&config);
    let id = mail(&relay, &["slow@a.test", "failure@a.test> NOTIFY=FAILURE", "never@b.test> NOTIFY=NEVER"]);
    relay.client().mail("", &["null@a.test"], &content("reports", "a bounce"));
    slow.await_to("slow@a.test");
    relay.await_log(&["delay reported", &id]);
    relay.drain();
    let told = reports(&sender);
    assert_eq!(told.len(), 1, "once, and nothing about a bounce");
    let report = Report::parse(&told[0].content);
    let [fields] = &report.recipient_fields[..] else { panic!("one recipient: {report:?}") };
    assert_eq!((&*fields["action"], &*fields["status"]), ("delayed", "4.7.1"));
    assert_eq!(fields["diagnostic-code"], "smtp; 451 4.7.1 greylisted, come again");
    assert!(fields.contains_key("will-retry-until"), "{fields:?}");
    assert!(report.text.contains("You need not do anything"), "{}", report.text);
    relay.stop();
}

#[test]
fn a_schedule_decides_for_its_domain_and_its_deadline_holds_for_mail_that_was_queued_before() {
    if !host_is_able() {
        return;
    }
    let (lab, sender) = (Lab::new(), sink(USUAL));
    let slow = Sink::scripted(|moment| match moment.stage {
        Stage::Rcpt => Act::Say("451 4.7.1 not now"),
        _ => Act::Accept,
    });
    let config = Config::new()
        .route("client.test", to(&sender))
        .route("*", to(&slow))
        .set("delivery.retry_first", "'1h'")
        .set("delivery.expire_after", "'5d'");
    let relay = lab.start(&config);
    let id = mail(&relay, &["r@short.test"]);
    mail(&relay, &["r@long.test"]);
    relay.await_metric("ringpost_retries_total", &[], |retries| retries >= 2.0);
    relay.stop();
    let relay = lab.start(&config.table(
        "[[schedule]]\ndomains = ['short.test']\nexpire_after = '1s'\nretry_first = '1s'\nretry_max = '1s'",
    ));
    let bounced = sender.await_to("me@client.test");
    let report = Report::parse(&bounced.content);
    let [fields] = &report.recipient_fields[..] else { panic!("one recipient: {report:?}") };
    assert_eq!((&*fields["final-recipient"], &*fields["status"]), ("rfc822; r@short.test", "5.4.7"));
    relay.await_log(&["bounced", &id]);
    relay.stop();
}

#[test]
fn each_recipient_of_a_list_gets_its_own_sender_and_bounces_go_there() {
    if !host_is_able() {
        return;
    }
    let (lab, sender) = (Lab::new(), sink(USUAL));
    let there =
        Sink::scripted(|moment| match moment.stage == Stage::Rcpt && moment.mailbox.starts_with("gone") {
            true => Act::Say("550 5.1.1 no such user"),
            false => Act::Accept,
        });
    let config = Config::new()
        .route("lists.test", to(&sender))
        .route("*", to(&there))
        .set("bounce.verp_senders", "['*@lists.test']");
    let relay = lab.start(&config);
    relay.client().mail(
        "news@lists.test",
        &["joe@a.test", "jane+x@a.test", "gone@a.test"],
        &content("list", "the news"),
    );
    relay.client().mail("me@plain.test", &["one@a.test", "two@a.test"], &content("plain", "no news"));
    let want = [("joe@a.test", "news+joe=a.test"), ("jane+x@a.test", "news+jane+x=a.test")];
    for (mailbox, local) in want {
        let taken = there.await_to(mailbox);
        assert_eq!((taken.sender, taken.recipients.len()), (format!("{local}@lists.test"), 1));
        let plain = there.await_to("one@a.test");
        assert_eq!((&*plain.sender, plain.recipients.len()), ("me@plain.test", 2));
    }
    let bounce = sender.await_to("news+gone=a.test@lists.test");
    let report = Report::parse(&bounce.content);
    assert_eq!(bounce.sender, "");
    assert_eq!(report.recipient_fields.len(), 1);
    assert!(report.header["to"].contains("news+gone=a.test@lists.test"), "{:?}", report.header);
    relay.drain();
    relay.stop();
}
