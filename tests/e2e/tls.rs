//! TLS in both directions: a relay that sends to a relay that offers STARTTLS, and clients that try to cheat.

use crate::door::{add_user, python, with_users};
use crate::harness::client::content;
use crate::harness::relay::{Config, Lab};
use crate::harness::sink::Sink;
use crate::harness::{eventually, has_program, host_is_able};
use rustix::process::Signal;
use std::path::PathBuf;

/// Writes a self-signed certificate and its key into the laboratory.
fn certificate(lab: &Lab, name: &str, hosts: &[&str]) -> (PathBuf, PathBuf) {
    let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
    let made = rcgen::generate_simple_self_signed(hosts).expect("a certificate can be made");
    let (chain, key) = (lab.path().join(format!("{name}.pem")), lab.path().join(format!("{name}-key.pem")));
    std::fs::write(&chain, made.cert.pem()).expect("written");
    std::fs::write(&key, made.signing_key.serialize_pem()).expect("written");
    (chain, key)
}

/// Configures a certificate, `certificate.pem` and `certificate-key.pem`.
pub fn with_certificate(lab: &Lab, config: Config) -> Config {
    let (chain, key) = certificate(lab, "certificate", &["mx.test"]);
    config
        .set("smtp.tls_certificate", format!("'{}'", chain.display()))
        .set("smtp.tls_key", format!("'{}'", key.display()))
}

/// Writes a self-signed certificate for `name`, and gives its SHA-256.
pub fn certificate_and_print(lab: &Lab, name: &str) -> String {
    let (chain, _) = certificate(lab, name, &[name]);
    let text = r#"import hashlib, ssl, sys; print(hashlib.sha256(ssl.PEM_cert_to_DER_cert(open(sys.argv[1]).read())).hexdigest())"#;
    python(text, &[chain.display().to_string()]).trim().to_owned()
}

/// What the scripts share: `show` connects with TLS from the first byte, and gives socket, greeting and fingerprint.
const PYTHON: &str = r#"
import hashlib, smtplib, socket, ssl, sys
def context(version=None, chain=None):
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname, made.verify_mode = False, ssl.CERT_NONE
    if version:
        made.minimum_version = made.maximum_version = version
    if chain:
        made.load_cert_chain(*chain)
    return made
def show(port, context, name=None, session=None):
    tls = context.wrap_socket(socket.create_connection(("127.0.0.1", port)), server_hostname=name, session=session)
    greeting = tls.recv(1000)
    assert greeting.startswith(b"220 "), greeting
    return tls
def fingerprint(tls):
    return hashlib.sha256(tls.getpeercert(True)).hexdigest()
def file_fingerprint(path):
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(open(path).read())).hexdigest()
"#;

/// Runs a script behind [`PYTHON`].
pub fn script(text: &str, arguments: &[String]) {
    python(&format!("{PYTHON}{text}"), arguments);
}

pub fn can_run_python() -> bool {
    host_is_able() && has_program("python3")
}

#[test]
fn the_certificate_is_chosen_by_the_name_the_client_wants_in_both_versions_of_tls() {
    if !can_run_python() {
        return;
    }
    let lab = Lab::new();
    let mut tables = String::new();
    for (name, hosts) in [("second", ["two.test", "*.two.test"]), ("third", ["three.test", "3.test"])] {
        let (chain, key) = certificate(&lab, name, &hosts);
        tables += &format!("[[certificate]]\nchain = '{}'\nkey = '{}'\n", chain.display(), key.display());
    }
    let config = with_certificate(&lab, Config::new()).listener("submissions", &tables);
    let relay = lab.start(&config);
    let text = r#"
port, folder = int(sys.argv[1]), sys.argv[2]
for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
    for name, file in ((None, "certificate"), ("mx.test", "certificate"), ("MX.Two.test", "second"), ("3.test", "third"), ("x.test", "certificate")):
        tls = show(port, context(version), name)
        assert fingerprint(tls) == file_fingerprint(f"{folder}/{file}.pem"), (version, name)
"#;
    let port = relay.listener("submissions").port().to_string();
    script(text, &[port, lab.path().display().to_string()]);
    relay.stop();
}

#[test]
fn a_session_is_resumed_where_it_began_and_by_no_other_listener() {
    if !can_run_python() {
        return;
    }
    let lab = Lab::new();
    let config = with_certificate(&lab, Config::new().threads(2, "shared"))
        .listener("submissions", "")
        .listener("submissions", "");
    let relay = lab.start(&config);
    let text = r#"
one, other = int(sys.argv[1]), int(sys.argv[2])
for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
    same = context(version)
    first = show(one, same)
    assert not first.session_reused
    # Whichever shard has it.
    for _ in range(4):
        assert show(one, same, session=first.session).session_reused, version
    assert not show(other, same, session=first.session).session_reused, "a ticket of another listener is taken"
"#;
    let ports = relay.listeners("submissions").into_iter().map(|address| address.port().to_string());
    script(text, &ports.collect::<Vec<_>>());
    relay.stop();
}

#[test]
fn a_certificate_of_the_client_lets_it_log_in_or_relay() {
    if !can_run_python() {
        return;
    }
    let lab = Lab::new();
    let print = |name: &str| certificate_and_print(&lab, name);
    let (users, hosts) = (print("printer"), print("host"));
    print("stranger");
    assert!(add_user(&lab, "printer", "", &["--no-password", "--certificate", &users]).status.success());
    let config = with_certificate(&lab, with_users(&lab, Config::new()))
        .listener("submissions", &format!("relay_certificates = ['{hosts}']"))
        .route("*", "hold");
    let relay = lab.start(&config);
    let text = r#"
port, folder = int(sys.argv[1]), sys.argv[2]
def client(name, version):
    chain = (f"{folder}/{name}.pem", f"{folder}/{name}-key.pem") if name else None
    client = smtplib.SMTP_SSL("127.0.0.1", port, context=context(version, chain))
    client.ehlo()
    return client
for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
    printer = client("printer", version)
    assert "EXTERNAL" in printer.esmtp_features["auth"]
    assert printer.docmd("MAIL FROM:<x@a.test>")[0] == 530
    assert printer.docmd("AUTH EXTERNAL b3RoZXI=")[0] == 535, "as another user"
    assert printer.docmd("AUTH EXTERNAL =")[0] == 235
    assert printer.docmd("MAIL FROM:<x@a.test>")[0] == 250
    host = client("host", version)
    assert "EXTERNAL" not in host.esmtp_features["auth"]
    assert [host.docmd(line)[0] for line in ("MAIL FROM:<x@a.test>", "RCPT TO:<y@b.test>")] == [250, 250]
    for name in ("stranger", None):
        stranger = client(name, version)
        assert stranger.docmd("AUTH EXTERNAL =")[0] == 504
        assert stranger.docmd("MAIL FROM:<x@a.test>")[0] == 530
"#;
    let port = relay.listener("submissions").port().to_string();
    script(text, &[port, lab.path().display().to_string()]);
    relay.stop();
}

#[test]
fn sighup_takes_new_certificates_and_users_and_drops_no_session() {
    if !can_run_python() {
        return;
    }
    let lab = Lab::new();
    assert!(add_user(&lab, "alice", "secret", &[]).status.success());
    let config = with_certificate(&lab, with_users(&lab, Config::new()))
        .set("auth.cleartext_networks", "['127.0.0.0/8']")
        .listener("submissions", "")
        .route("*", "hold");
    let relay = lab.start(&config);
    let mut open = relay.client();
    open.expect("MAIL FROM:<a@client.test>", 250);
    certificate(&lab, "certificate", &["mx.test"]);
    assert!(add_user(&lab, "bob", "other", &[]).status.success());
    relay.signal(Signal::HUP);
    // "bob" with "other".
    eventually("the new user", || {
        let mut client = relay.client();
        client.send(b"AUTH PLAIN AGJvYgBvdGhlcg==\r\n");
        (client.reply()?.code == 235).then_some(())
    });
    let shows_new = r#"
port, file = int(sys.argv[1]), sys.argv[2]
assert fingerprint(show(port, context())) == file_fingerprint(file)
"#;
    let port = relay.listener("submissions").port().to_string();
    let kept = lab.path().join("kept.pem");
    std::fs::copy(lab.path().join("certificate.pem"), &kept).expect("copied");
    script(shows_new, &[port.clone(), kept.display().to_string()]);
    // What cannot be read leaves everything as it was.
    std::fs::write(lab.path().join("users"), "nonsense\n").expect("written");
    certificate(&lab, "certificate", &["mx.test"]);
    relay.signal(Signal::HUP);
    relay.await_log(&["not reloaded", "users: line 1"]);
    script(shows_new, &[port, kept.display().to_string()]);
    relay.client().expect("AUTH PLAIN AGJvYgBvdGhlcg==", 235);
    open.expect("RCPT TO:<b@a.test>", 250);
    open.expect("DATA", 354);
    open.send(b"Subject: x\r\n\r\n.\r\n");
    open.expect_reply(250);
    relay.stop();
}

#[test]
fn a_relay_without_a_certificate_makes_one_says_so_and_keeps_it() {
    if !host_is_able() {
        return;
    }
    let lab = Lab::new();
    let (first, again) = {
        let relay = lab.start(&Config::new());
        let text = relay.start_text().to_owned();
        assert!(relay.client().expect("EHLO c.test", 250).text.contains("STARTTLS"));
        relay.stop();
        let relay = lab.start(&Config::new());
        let again = relay.start_text().to_owned();
        relay.stop();
        (text, again)
    };
    assert!(
        first.contains("self-signed, made now") && again.contains("made at an earlier start"),
        "{first}{again}"
    );
    let key = lab.path().join("spool.tls/key.pem");
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(key).expect("kept"));
    assert_eq!(mode & 0o777, 0o600);
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
    std::fs::copy(other.path().join("certificate-key.pem"), lab.path().join("certificate-key.pem"))
        .expect("copied");
    let ended = lab.run(lab.command(&config));
    assert!(!ended.status.success());
    assert!(ended.err.lines().count() == 1 && ended.err.contains("certificate-key.pem"), "{}", ended.err);
}
