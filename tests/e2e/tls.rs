//! TLS in both directions: a relay that sends to a relay that offers STARTTLS, and clients that try to cheat.

use crate::harness::client::content;
use crate::harness::host_is_able;
use crate::harness::relay::{Config, Lab};
use crate::harness::sink::Sink;

/// Writes a self-signed certificate into the laboratory and offers STARTTLS with it.
pub fn with_certificate(lab: &Lab, config: Config) -> Config {
    let made = rcgen::generate_simple_self_signed(vec!["mx.test".into()]).expect("a certificate can be made");
    let (certificate, key) = (lab.path().join("certificate.pem"), lab.path().join("key.pem"));
    std::fs::write(&certificate, made.cert.pem()).expect("written");
    std::fs::write(&key, made.signing_key.serialize_pem()).expect("written");
    config
        .set("smtp.tls_certificate", format!("'{}'", certificate.display()))
        .set("smtp.tls_key", format!("'{}'", key.display()))
}

#[test]
fn mail_between_relays_is_encrypted_where_starttls_is_offered() {
    if !host_is_able() {
        return;
    }
    let sink = Sink::start();
    let (near, far) = (Lab::new(), Lab::new());
    let receiver = far.start(&with_certificate(&far, Config::new().to(sink.address())));
    let sender = near.start(&Config::new().to(receiver.smtp()));
    let sent = content("over TLS", "line\r\n.dot\r\n");
    let long = content("long", &"0123456789abcdef\r\n".repeat(20_000));
    sender.client().mail("from@client.test", &["to@a.test"], &sent);
    sender.client().mail("from@client.test", &["long@a.test"], &long);
    let taken = sink.await_to("to@a.test");
    let text = String::from_utf8_lossy(&taken.content).into_owned();
    assert!(
        text.contains("with ESMTPS\r\n\tid") || text.contains("with ESMTPS id"),
        "the second hop was in the clear: {text}"
    );
    assert!(
        text.contains("with ESMTP\r\n\tid") || text.contains("with ESMTP id"),
        "the first hop is plain: {text}"
    );
    assert!(taken.content.ends_with(&sent), "{text}");
    assert!(sink.await_to("long@a.test").content.ends_with(&long), "a long body over TLS");
    sender.stop();
    receiver.stop();
}

#[test]
fn commands_sent_behind_starttls_in_the_clear_close_the_connection() {
    if !host_is_able() {
        return;
    }
    let lab = Lab::new();
    let relay = lab.start(&with_certificate(&lab, Config::new()));
    let mut client = relay.client();
    let offer = client.expect("EHLO c.test", 250);
    assert!(offer.text.contains("STARTTLS"), "{offer:?}");
    client.send(b"STARTTLS\r\nMAIL FROM:<evil@c.test>\r\n");
    // 220 may or may not be seen; the injected command must not be answered.
    while let Some(reply) = client.reply() {
        assert_eq!(reply.code, 220, "{reply:?}");
    }
    relay.stop();
}

#[test]
fn a_key_that_does_not_belong_to_the_certificate_stops_the_start_with_one_line() {
    if !host_is_able() {
        return;
    }
    let (lab, other) = (Lab::new(), Lab::new());
    let config = with_certificate(&lab, Config::new());
    let _ = with_certificate(&other, Config::new());
    std::fs::copy(other.path().join("key.pem"), lab.path().join("key.pem")).expect("copied");
    let ended = lab.run(lab.command(&config));
    assert!(!ended.status.success());
    assert!(ended.err.lines().count() == 1 && ended.err.contains("key.pem"), "{}", ended.err);
}
