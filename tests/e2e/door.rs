//! Listeners of several kinds: each with its own policy, whichever shard serves the connection.

use std::io::Write;
use std::net::SocketAddr;
use std::process::{Command, Output, Stdio};

use crate::harness::client::Client;
use crate::harness::relay::{Config, Lab};
use crate::harness::{has_program, host_is_able};

#[test]
fn each_listener_keeps_its_policy_on_whichever_shard_a_connection_lands() {
    if !host_is_able() {
        return;
    }
    let lab = Lab::new();
    let config = Config::new()
        .threads(2, "shared")
        .set("smtp.relay_domains", "['ours.test']")
        .listener("mx", "")
        .listener("relay", "relay_networks = []")
        .listener("submission", "")
        .route("*", "hold");
    let relay = lab.start(&config);
    // Kept open, so that connections are handed from shard to shard.
    let mut open = Vec::new();
    for _ in 0..6 {
        for (kind, mail, ours, others) in
            [("SMTP", 250, 250, 250), ("mx", 250, 250, 550), ("submission", 530, 503, 503)]
        {
            let mut client = Client::connect(relay.listener(kind));
            client.expect("MAIL FROM:<a@client.test>", mail);
            client.expect("RCPT TO:<x@ours.test>", ours);
            client.expect("RCPT TO:<x@other.test>", others);
            open.push(client);
        }
    }
    drop(open);
    relay.stop();
}

#[test]
fn a_listener_on_ipv6_takes_mail_and_knows_its_networks() {
    if !host_is_able() {
        return;
    }
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        eprintln!("SKIP: this host has no IPv6 loopback");
        return;
    }
    let lab = Lab::new();
    let config = Config::new()
        .set("smtp.listen", "['127.0.0.1:0', '[::1]:0', '[::]:0']")
        .set("smtp.relay_networks", "['::1']")
        .route("*", "hold");
    let relay = lab.start(&config);
    let [v4, v6, both] = relay.listeners("SMTP")[..] else { panic!("three listeners") };
    // On [::] clients of both families come in, and IPv4 ones are in their IPv4 networks.
    let through_both = |ip: &str| SocketAddr::new(ip.parse().expect("an address"), both.port());
    for (address, code) in
        [(v4, 550), (v6, 250), (through_both("::1"), 250), (through_both("127.0.0.1"), 550)]
    {
        let mut client = Client::connect(address);
        client.expect("MAIL FROM:<a@client.test>", 250);
        client.expect("RCPT TO:<x@other.test>", code);
    }
    relay.stop();
}

/// `ringpost user add` into the laboratory's users file.
pub fn add_user(lab: &Lab, name: &str, password: &str, flags: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringpost"));
    command.args(["user", "add", "--file"]).arg(lab.path().join("users")).arg(name).args(flags);
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.expect("the command can be run");
    // One that refuses its arguments does not read.
    let _ = writeln!(child.stdin.take().expect("a pipe"), "{password}");
    child.wait_with_output().expect("the command ends")
}

pub fn with_users(lab: &Lab, config: Config) -> Config {
    config.set("auth.users_file", format!("'{}'", lab.path().join("users").display()))
}

/// Runs a Python script with the ports of the listeners as its arguments; it must say nothing on standard error.
pub fn python(script: &str, arguments: &[String]) -> String {
    let ran = Command::new("python3").arg("-c").arg(script).args(arguments).output().expect("python3 runs");
    let (out, err) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success(), "{out}{err}");
    out.into_owned()
}

#[test]
fn users_log_in_over_tls_and_send_as_themselves_only() {
    if !host_is_able() {
        return;
    }
    if !has_program("python3") {
        return;
    }
    let lab = Lab::new();
    assert!(
        add_user(&lab, "alice", "secret", &["--sender", "*@a.test", "--tenant", "acme"]).status.success()
    );
    assert!(add_user(&lab, "bob", "other", &["--scram"]).status.success());
    // With one letter for two, and an accent that is a letter of its own.
    assert!(add_user(&lab, "ren\u{e9}", "Stra\u{df}e \u{2168}", &[]).status.success());
    let config = crate::tls::with_certificate(&lab, with_users(&lab, Config::new()))
        .listener("submission", "")
        .listener("submissions", "")
        .route("*", "hold");
    let relay = lab.start(&config);
    let script = r#"
import base64, smtplib, ssl, sys
submission, submissions = int(sys.argv[1]), int(sys.argv[2])
context = ssl._create_unverified_context()
def codes(client, *commands):
    return [client.docmd(command)[0] for command in commands]
clear = smtplib.SMTP("127.0.0.1", submission)
clear.ehlo()
assert not clear.has_extn("auth"), "AUTH is announced in the clear"
assert codes(clear, "AUTH PLAIN AGFsaWNlAHNlY3JldA==", "MAIL FROM:<x@a.test>") == [538, 530]
for connect in (lambda: smtplib.SMTP("127.0.0.1", submission), lambda: smtplib.SMTP_SSL("127.0.0.1", submissions, context=context)):
    for user, password, method in (("alice", "secret", "auth_plain"), ("alice", "secret", "auth_login"), ("bob", "other", "auth_plain")):
        client = connect()
        client.ehlo()
        if client.has_extn("starttls"):
            client.starttls(context=context)
            client.ehlo()
        assert "SCRAM-SHA-256" in client.esmtp_features["auth"], client.esmtp_features
        client.user, client.password = user, password
        client.auth(method[5:].upper(), getattr(client, method))
        if user == "alice":
            assert codes(client, "MAIL FROM:<x@b.test>") == [553]
        client.sendmail("x@a.test", ["y@anywhere.test"], "Subject: " + user + "\r\n\r\nx\r\n")
        client.quit()
typed = smtplib.SMTP_SSL("127.0.0.1", submissions, context=context)
typed.ehlo()
typed.user, typed.password = "rene\u0301", "Stra\u00dfe IX"
assert typed.docmd("AUTH PLAIN " + base64.b64encode(f"\0{typed.user}\0{typed.password}".encode()).decode())[0] == 235
wrong = smtplib.SMTP_SSL("127.0.0.1", submissions, context=context)
for user, password in (("alice", "other"), ("nobody", "secret")):
    try:
        wrong.login(user, password)
        sys.exit("a wrong password logs in")
    except smtplib.SMTPAuthenticationError as error:
        assert error.smtp_code == 535, error
"#;
    let ports = ["submission", "submissions"].map(|kind| relay.listener(kind).port().to_string());
    python(script, &ports);
    let logins = |result: &str| relay.metrics().sum("ringpost_logins_total", &[("result", result)]);
    assert_eq!((logins("granted"), logins("refused"), logins("later")), (7.0, 4.0, 0.0));
    relay.stop();
    let rows = crate::stopped::rows(&lab.spool(), &[]);
    let mut tenants: Vec<_> =
        rows.iter().map(|row| row["tenant"].as_str().unwrap_or("").to_owned()).collect();
    tenants.sort();
    assert_eq!(tenants, ["acme", "acme", "acme", "acme", "bob", "bob"]);
    let id = rows[0]["id"].as_str().expect("an id");
    let text = crate::stopped::spool(&["export", id], &lab.spool()).stdout;
    assert!(String::from_utf8_lossy(&text).contains("with ESMTPSA"), "{}", String::from_utf8_lossy(&text));
}

#[test]
fn too_many_failures_make_a_user_wait_even_with_the_right_password() {
    if !host_is_able() {
        return;
    }
    let lab = Lab::new();
    assert!(add_user(&lab, "alice", "secret", &[]).status.success());
    let config = with_users(&lab, Config::new())
        .set("auth.cleartext_networks", "['127.0.0.0/8']")
        .set("auth.failures_by_user", 2)
        .route("*", "hold");
    let relay = lab.start(&config);
    let mut client = relay.client();
    // "alice" with "guess", then with "secret".
    client.expect("AUTH PLAIN AGFsaWNlAGd1ZXNz", 535);
    client.expect("AUTH PLAIN AGFsaWNlAGd1ZXNz", 535);
    client.expect("AUTH PLAIN AGFsaWNlAHNlY3JldA==", 454);
    relay.client().expect("AUTH PLAIN AGFsaWNlAHNlY3JldA==", 454);
    relay.await_log(&["rejected", "alice", "5.7.8"]);
    relay.stop();
}

#[test]
fn the_tenant_comes_from_a_header_of_trusted_clients_alone_or_from_the_listener() {
    if !host_is_able() {
        return;
    }
    let lab = Lab::new();
    let config = Config::new()
        .set("smtp.relay_domains", "['a.test']")
        .listener("relay", "relay_networks = ['127.0.0.0/8']\ntenant = 'ours'\ntenant_header = 'X-Tenant'")
        .listener("mx", "tenant = 'strangers'\ntenant_header = 'X-Tenant'")
        .route("*", "hold");
    let relay = lab.start(&config);
    let mail = |address, subject: &str, header: &str| {
        let text = format!("Subject: {subject}\r\n{header}\r\nX-Tenant: body\r\n").into_bytes();
        Client::connect(address).mail(&format!("{subject}@client.test"), &["x@a.test"], &text);
    };
    let second = relay.listeners("SMTP")[1];
    mail(second, "said", "x-tenant: acme\r\n");
    mail(second, "unsaid", "");
    mail(second, "odd", "X-Tenant: a b\r\n");
    mail(relay.listener("mx"), "stranger", "X-Tenant: acme\r\n");
    let long = format!("X-Tenant: large\r\n\r\n{}", "0123456789abcdef\r\n".repeat(20_000));
    mail(second, "long", &long);
    relay.stop();
    let rows = crate::stopped::rows(&lab.spool(), &[]);
    let tenant = |subject: &str| {
        let row =
            rows.iter().find(|row| row["sender"].as_str().is_some_and(|sender| sender.starts_with(subject)));
        row.expect("queued")["tenant"].as_str().unwrap_or("").to_owned()
    };
    let tenants = ["said", "unsaid", "odd", "stranger", "long"].map(tenant);
    assert_eq!(tenants, ["acme", "ours", "ours", "strangers", "large"]);
}

#[test]
fn a_wrong_users_file_stops_the_start_and_every_wrong_line_is_named() {
    let lab = Lab::new();
    assert!(add_user(&lab, "alice", "secret", &[]).status.success());
    let refused = add_user(&lab, "bob", "x", &["--sender", "nodomain"]);
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("nodomain"));
    let users = lab.path().join("users");
    let mut text = std::fs::read_to_string(&users).expect("written");
    assert_eq!(text.lines().count(), 1, "what was refused is not written: {text}");
    text.push_str("carol secret\nalice -\n");
    std::fs::write(&users, text).expect("written");
    let ended = lab.run(lab.command(&with_users(&lab, Config::new())));
    assert!(!ended.status.success());
    for words in ["users: line 2: ", "users: line 3: "] {
        assert!(ended.err.contains(words), "{}", ended.err);
    }
    assert!(!ended.err.contains("secret"), "{}", ended.err);
}
