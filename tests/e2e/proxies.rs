//! Clients that proxies speak for: who they are decides what they may do, never who the proxy is or who was there before.

use crate::door::{add_user, with_users};
use crate::harness::client::{Client, content};
use crate::harness::host_is_able;
use crate::harness::relay::{Config, Lab, Relay};
use crate::limits::{behind_proxy, from, greeted, limit};
use crate::tls::{can_run_python, script, with_certificate};

/// "alice" with "secret", and with "guess".
const RIGHT: &str = "AUTH PLAIN AGFsaWNlAHNlY3JldA==";
const WRONG: &str = "AUTH PLAIN AGFsaWNlAGd1ZXNz";

/// A laboratory with the user alice; loopback may log in without TLS, and may not relay.
fn with_alice(config: Config) -> (Lab, Config) {
    let lab = Lab::new();
    assert!(add_user(&lab, "alice", "secret", &[]).status.success());
    let config = with_users(&lab, config)
        .set("auth.cleartext_networks", "['127.0.0.0/8']")
        .set("smtp.relay_networks", "[]")
        .route("*", "hold");
    (lab, config)
}

fn offers(client: &mut Client, word: &str) -> bool {
    client.expect("EHLO client.test", 250).text.lines().any(|line| line.split(' ').next() == Some(word))
}

#[test]
fn a_login_ends_when_a_proxy_introduces_another_client_or_tls_begins() {
    if !host_is_able() {
        return;
    }
    let (lab, config) = with_alice(Config::new().set("smtp.xclient_networks", "['127.0.0.0/8']"));
    let relay = lab.start(&config);
    for introduction in ["XCLIENT NAME=other.test", "XCLIENT ADDR=192.0.2.1"] {
        let mut proxy = relay.client();
        proxy.expect(RIGHT, 235);
        proxy.envelope("a@client.test", &["x@other.test"]);
        proxy.expect("RSET", 250);
        proxy.expect(introduction, 220);
        proxy.expect("EHLO client.test", 250);
        proxy.envelope("a@client.test", &[]);
        proxy.expect("RCPT TO:<x@other.test>", 550);
    }
    relay.stop();
    if !can_run_python() {
        return;
    }
    let relay = lab.start(&with_certificate(&lab, config));
    let text = r#"
client = smtplib.SMTP("127.0.0.1", int(sys.argv[1]))
client.login("alice", "secret")
client.starttls(context=context())
client.ehlo()
assert [client.docmd(line)[0] for line in ("MAIL FROM:<x@a.test>", "RCPT TO:<y@b.test>")] == [250, 550], "logged in still"
"#;
    script(text, &[relay.smtp().port().to_string()]);
    relay.stop();
}

#[test]
fn a_client_without_an_address_of_its_own_has_none_of_the_proxys_rights() {
    if !host_is_able() {
        return;
    }
    let (lab, config) = with_alice(Config::new());
    let check = |mut client: Client| {
        assert!(!offers(&mut client, "AUTH"), "a login in the clear is offered for the proxy's address");
        client.expect(RIGHT, 538);
    };
    let relay = lab.start(&config.clone().set("smtp.proxy_networks", "['127.0.0.0/8']"));
    let mut unnamed = Client::open(relay.smtp());
    unnamed.send(b"PROXY UNKNOWN\r\n");
    unnamed.expect_reply(220);
    check(unnamed);
    relay.stop();
    let relay = lab.start(&config.set("smtp.xclient_networks", "['127.0.0.0/8']"));
    let mut proxy = relay.client();
    assert!(offers(&mut proxy, "AUTH"));
    proxy.expect("XCLIENT ADDR=[UNAVAILABLE]", 220);
    check(proxy);
    relay.stop();
}

#[test]
fn a_client_that_was_introduced_cannot_introduce_another() {
    if !host_is_able() {
        return;
    }
    let lab = Lab::new();
    let config = Config::new()
        .set("smtp.relay_networks", "['198.51.100.0/24']")
        .set("smtp.xclient_networks", "['127.0.0.0/8']")
        .route("*", "hold");
    let relay = lab.start(&config);
    // A proxy that has introduced its client passes on what the client says.
    for address in ["192.0.2.1", "[UNAVAILABLE]"] {
        let mut client = relay.client();
        client.expect("XCLIENT NAME=[UNAVAILABLE]", 220);
        client.expect(&format!("XCLIENT ADDR={address}"), 220);
        assert!(!offers(&mut client, "XCLIENT"));
        client.expect("XCLIENT ADDR=198.51.100.1", 550);
    }
    relay.stop();
}

#[test]
fn failed_logins_make_an_address_and_its_network_wait_and_nobody_else() {
    if !host_is_able() {
        return;
    }
    let (lab, config) = with_alice(behind_proxy());
    let config = config
        .set("auth.cleartext_networks", "['192.0.2.0/24', '198.51.100.0/24']")
        .set("smtp.relay_networks", "['198.51.100.0/24']")
        .set("auth.failures_by_address", 2)
        .set("limits.network_factor", 2);
    let relay = lab.start(&config);
    let mut client = greeted(&relay, "192.0.2.1");
    let mut other = greeted(&relay, "192.0.2.2");
    let mut bystander = greeted(&relay, "192.0.2.3");
    for _ in 0..2 {
        client.expect(WRONG, 535);
        other.expect(WRONG, 535);
    }
    // The right password does not help, and a new connection neither.
    let said = client.expect(RIGHT, 421);
    let words = "421 4.7.0 Too many failed logins from 192.0.2.1, at most 2 in 600 s; try again in ";
    assert!(said.starts_with(words), "{said:?}");
    assert_eq!(client.reply(), None);
    from(&relay, "192.0.2.1").expect_reply(421);
    let said = bystander.expect(RIGHT, 421);
    assert!(said.starts_with("421 4.7.0 Too many failed logins from 192.0.2.0/24, at most 4 in"), "{said:?}");
    assert_eq!(limit(&relay, "auth_failures"), 3.0);
    // Who may relay may go on, and a login that succeeds is no failure.
    let mut trusted = greeted(&relay, "198.51.100.7");
    for _ in 0..3 {
        trusted.expect(WRONG, 535);
    }
    trusted.expect(RIGHT, 235);
    relay.stop();
    let relay = lab.start(&config);
    for _ in 0..3 {
        greeted(&relay, "192.0.2.9").expect(RIGHT, 235);
    }
    relay.stop();
}

#[test]
fn a_handshake_right_behind_the_header_of_a_proxy_is_made() {
    if !can_run_python() {
        return;
    }
    let lab = Lab::new();
    let config = with_certificate(&lab, behind_proxy()).listener("submissions", "");
    let relay = lab.start(&config);
    let text = r#"
port = int(sys.argv[1])
version_2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0f" + bytes([192, 0, 2, 7, 192, 0, 2, 200, 1, 2, 0, 25]) + b"\x04\0\0"
for header in (b"PROXY TCP4 192.0.2.7 192.0.2.200 1 25\r\n", b"PROXY UNKNOWN\r\n", version_2):
    received, sent = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context().wrap_bio(received, sent)
    plain = socket.create_connection(("127.0.0.1", port), timeout=60)
    plain.sendall(header + hello(tls, sent))
    while True:
        try:
            tls.do_handshake()
            plain.sendall(sent.read())
            break
        except ssl.SSLWantReadError:
            plain.sendall(sent.read())
            data = plain.recv(65536)
            assert data, f"closed behind {header}"
            received.write(data)
    while True:
        try:
            assert tls.read(4) == b"220 "
            break
        except ssl.SSLWantReadError:
            received.write(plain.recv(65536))
"#;
    let hello = "
def hello(tls, sent):
    try:
        tls.do_handshake()
    except ssl.SSLWantReadError:
        return sent.read()
";
    script(&format!("{hello}{text}"), &[relay.listener("submissions").port().to_string()]);
    relay.stop();
}

/// The first of these sends a certificate that may relay, the second none.
#[test]
fn a_client_whose_certificate_may_relay_is_exempt_from_the_limits_of_its_address() {
    if !can_run_python() {
        return;
    }
    let lab = Lab::new();
    let print = crate::tls::certificate_and_print(&lab, "host");
    let config = with_certificate(&lab, Config::new())
        .set("smtp.relay_networks", "[]")
        .set("smtp.relay_domains", "['ours.test']")
        .set("limits.address_messages_per_minute", 1)
        .set("limits.address_connections_max", 2)
        .listener("relay", &format!("relay_networks = []\nrelay_certificates = ['{print}']"))
        .route("*", "hold");
    let relay: Relay = lab.start(&config);
    let text = r#"
port, folder = int(sys.argv[1]), sys.argv[2]
def client(chain):
    client = smtplib.SMTP("127.0.0.1", port)
    client.starttls(context=context(chain=chain))
    client.ehlo()
    return client
host = (f"{folder}/host.pem", f"{folder}/host-key.pem")
hosts = [client(host) for _ in range(4)]
for host in hosts:
    for _ in range(2):
        host.sendmail("x@a.test", ["y@anywhere.test"], "Subject: x\r\n\r\nx\r\n")
stranger = client(None)
stranger.sendmail("x@a.test", ["y@ours.test"], "Subject: x\r\n\r\nx\r\n")
assert stranger.docmd("MAIL FROM:<x@a.test>")[0] == 450
"#;
    let port = relay.listeners("SMTP")[1].port().to_string();
    script(text, &[port, lab.path().display().to_string()]);
    relay.stop();
}

#[test]
fn a_listener_may_have_proxies_of_its_own_and_do_without_limits() {
    if !host_is_able() {
        return;
    }
    let lab = Lab::new();
    let config = behind_proxy()
        .set("smtp.relay_networks", "[]")
        .set("limits.address_messages_per_minute", 1)
        .listener("mx", "proxy_networks = []")
        .listener("mx", "limits = false\nxclient_networks = ['192.0.2.0/24']");
    let relay = lab.start(&config);
    let mx = relay.listeners("mx");
    let mut direct = Client::connect(mx[0]);
    direct.mail("a@client.test", &["x@ours.test"], &content("direct", "x"));
    direct.expect("MAIL FROM:<a@client.test>", 450);
    let mut client = Client::open(mx[1]);
    client.send(b"PROXY TCP4 192.0.2.7 192.0.2.200 1 25\r\n");
    client.expect_reply(220);
    assert!(offers(&mut client, "XCLIENT"));
    for turn in 0..3 {
        client.mail("a@client.test", &["x@ours.test"], &content(&format!("{turn}"), "x"));
    }
    let mut elsewhere = greeted(&relay, "192.0.2.7");
    assert!(!offers(&mut elsewhere, "XCLIENT"));
    relay.stop();
}
