//! Encryption towards remotes: what each policy makes of certificates that are good, strange, old or for somebody else, and of
//! remotes that have none.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};

use crate::door::{add_user, python, with_users};
use crate::harness::client::content;
use crate::harness::dns::Stub;
use crate::harness::relay::{Config, Lab, Relay};
use crate::harness::report::Report;
use crate::harness::sink::{Act, Sink, Stage};
use crate::harness::{has_program, host_is_able};

/// A certificate authority of the laboratory.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    file: PathBuf,
}

impl Authority {
    /// With its certificate in a file of the laboratory.
    pub fn new(lab: &Lab, name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        let file = lab.path().join(format!("{name}.pem"));
        std::fs::write(&file, params.self_signed(&key).expect("signed").pem()).expect("written");
        Self { issuer: Issuer::new(params, key), file }
    }

    /// Issues a certificate for `host`; gives the files of chain and key.
    pub fn issue(&self, lab: &Lab, name: &str, host: &str, is_old: bool) -> (PathBuf, PathBuf) {
        let mut params = CertificateParams::new(vec![host.to_owned()]).expect("a name");
        if is_old {
            (params.not_before, params.not_after) = (date_time_ymd(2019, 1, 1), date_time_ymd(2020, 1, 1));
        }
        let key = KeyPair::generate().expect("a key");
        let signed = params.signed_by(&key, &self.issuer).expect("signed");
        write(lab, name, &signed.pem(), &key)
    }

    /// Starts a relay that trusts it.
    pub fn trusted_by(&self, lab: &Lab, config: &Config) -> Relay {
        let mut command = lab.command(config);
        command.env("SSL_CERT_FILE", &self.file).env_remove("SSL_CERT_DIR");
        lab.start_command(command)
    }
}

fn write(lab: &Lab, name: &str, chain: &str, key: &KeyPair) -> (PathBuf, PathBuf) {
    let files = (lab.path().join(format!("{name}.pem")), lab.path().join(format!("{name}.key")));
    std::fs::write(&files.0, chain).expect("written");
    std::fs::write(&files.1, key.serialize_pem()).expect("written");
    files
}

fn self_signed(lab: &Lab, host: &str) -> (PathBuf, PathBuf) {
    let key = KeyPair::generate().expect("a key");
    let signed = CertificateParams::new(vec![host.to_owned()]).and_then(|params| params.self_signed(&key));
    write(lab, "self-signed", &signed.expect("signed").pem(), &key)
}

/// A relay with a certificate, which passes everything on to the sink.
pub fn receiver(lab: &Lab, sink: &Sink, (chain, key): &(PathBuf, PathBuf)) -> Relay {
    let quoted = |path: &Path| format!("'{}'", path.display());
    let config = Config::new()
        .to(sink.address())
        .set("smtp.tls_certificate", quoted(chain))
        .set("smtp.tls_key", quoted(key));
    lab.start(&config)
}

/// Whether a message came to `mailbox`, and encrypted over the hop before the last.
fn came_encrypted(sink: &Sink, mailbox: &str) -> bool {
    String::from_utf8_lossy(&sink.await_to(mailbox).content).contains("with ESMTPS")
}

/// Sends a message to `user@domain` from `domain@client.test`.
fn mail(relay: &Relay, domain: &str) {
    let (from, to) = (format!("{domain}@client.test"), format!("user@{domain}"));
    relay.client().mail(&from, &[&to], &content("policy", "x"));
}

/// The bounce to `domain@client.test`: status and diagnostic.
fn bounce(sink: &Sink, domain: &str) -> (String, String) {
    let report = Report::parse(&sink.await_to(&format!("{domain}@client.test")).content);
    let fields = &report.recipient_fields[0];
    (fields["status"].clone(), fields["diagnostic-code"].clone())
}

#[test]
fn a_verified_path_takes_only_a_certificate_that_is_good_for_the_host() {
    if !host_is_able() {
        return;
    }
    let sink = Sink::start();
    let labs: Vec<Lab> = (0..6).map(|_| Lab::new()).collect();
    let (good, other) = (Authority::new(&labs[5], "good"), Authority::new(&labs[5], "other"));
    let receivers = [
        ("valid.test", receiver(&labs[0], &sink, &good.issue(&labs[0], "valid", "127.0.0.1", false))),
        ("self.test", receiver(&labs[1], &sink, &self_signed(&labs[1], "127.0.0.1"))),
        ("wrong.test", receiver(&labs[2], &sink, &good.issue(&labs[2], "wrong", "elsewhere.test", false))),
        ("old.test", receiver(&labs[3], &sink, &good.issue(&labs[3], "old", "127.0.0.1", true))),
        ("unknown.test", receiver(&labs[4], &sink, &other.issue(&labs[4], "unknown", "127.0.0.1", false))),
    ];
    let config = Config::new()
        .route("client.test", format!("smtp://{}", sink.address()))
        .route("plain.test", format!("smtp://{}", sink.address()))
        .set("delivery.expire_after", "'3s'")
        .set("delivery.tls", "'verified'")
        .table("[[site]]\nname = 'clients'\ndomains = ['client.test']\ntls = 'off'");
    let config = receivers
        .iter()
        .fold(config, |config, (domain, relay)| config.route(domain, format!("smtp://{}", relay.smtp())));
    let sender = good.trusted_by(&labs[5], &config);
    receivers.iter().for_each(|(domain, _)| mail(&sender, domain));
    mail(&sender, "plain.test");
    assert!(came_encrypted(&sink, "user@valid.test"));
    for (domain, status, words) in [
        ("self.test", "5.7.5", "certificate"),
        ("wrong.test", "5.7.5", "not valid for"),
        ("old.test", "5.7.5", "expired"),
        ("unknown.test", "5.7.5", "UnknownIssuer"),
        ("plain.test", "5.7.4", "does not offer"),
    ] {
        let (got, diagnostic) = bounce(&sink, domain);
        assert_eq!(got, status, "{domain}: {diagnostic}");
        assert!(diagnostic.contains(words), "{domain}: {diagnostic}");
        assert!(!sink.taken().iter().any(|taken| taken.mailboxes() == [format!("user@{domain}")]));
    }
    sender.drain();
    sender.stop();
    receivers.into_iter().for_each(|(_, relay)| relay.stop());
}

#[test]
fn the_certificate_of_a_mail_exchanger_must_be_for_the_name_in_the_mx_record() {
    if !host_is_able() {
        return;
    }
    let (lab, far, sink, dns) = (Lab::new(), Lab::new(), Sink::start(), Stub::start());
    let authority = Authority::new(&lab, "authority");
    let remote = receiver(&far, &sink, &authority.issue(&far, "good", "mx.good.test", false));
    for (domain, host) in [("named.test", "mx.good.test"), ("renamed.test", "mx.other.test")] {
        dns.mx(domain, &[(10, host)]);
        dns.address(host, "127.0.0.1");
    }
    let config = Config::new()
        .route("*", "mx")
        .route("client.test", format!("smtp://{}", sink.address()))
        .set("resolver.addresses", format!("['{}']", dns.address))
        .set("delivery.mx_port", remote.smtp().port())
        .set("delivery.allow_loopback_mx", true)
        .set("delivery.expire_after", "'3s'")
        .table("[[site]]\nname = 'verified'\nmx = ['*.good.test', '*.other.test']\ntls = 'verified'");
    let sender = authority.trusted_by(&lab, &config);
    mail(&sender, "named.test");
    mail(&sender, "renamed.test");
    assert!(came_encrypted(&sink, "user@named.test"));
    let (status, diagnostic) = bounce(&sink, "renamed.test");
    assert!(status == "5.7.5" && diagnostic.contains("not valid for"), "{status} {diagnostic}");
    sender.drain();
    sender.stop();
    remote.stop();
}

#[test]
fn a_required_path_takes_any_certificate_and_never_goes_on_in_the_clear() {
    if !host_is_able() {
        return;
    }
    const BROKEN: &[&str] = &["PIPELINING", "STARTTLS"];
    let local = [([127, 0, 0, 1], 0).into()];
    let (sink, plain) = (Sink::start(), Sink::start());
    // One cannot shake hands, the other says no.
    let broken = Sink::on(&local, BROKEN, |_| Act::Accept);
    let unwilling = Sink::on(&local, BROKEN, |moment| match moment.stage {
        Stage::StartTls => Act::Say("454 4.7.0 TLS not available now"),
        _ => Act::Accept,
    });
    let (lab, far) = (Lab::new(), Lab::new());
    let relay = receiver(&far, &sink, &self_signed(&far, "elsewhere.test"));
    let config = Config::new()
        .route("client.test", format!("smtp://{}", sink.address()))
        .route("self.test", format!("smtp://{}", relay.smtp()))
        .route("plain.test", format!("smtp://{}", plain.address()))
        .route("broken.test", format!("smtp://{}", broken.address()))
        .route("unwilling.test", format!("smtp://{}", unwilling.address()))
        .set("delivery.expire_after", "'3s'");
    let strict =
        "[[site]]\nname = 'strict'\ndomains = ['self.test', 'plain.test', 'broken.test', 'unwilling.test']\n";
    let sender = lab.start(&config.clone().table(&format!("{strict}tls = 'required'")));
    for domain in ["self.test", "plain.test", "broken.test", "unwilling.test"] {
        mail(&sender, domain);
    }
    assert!(came_encrypted(&sink, "user@self.test"));
    for (domain, status, words) in [
        ("plain.test", "5.7.4", "does not offer"),
        ("broken.test", "5.7.5", "could not be agreed on"),
        ("unwilling.test", "5.7.4", "TLS not available now"),
    ] {
        let (got, diagnostic) = bounce(&sink, domain);
        assert_eq!(got, status, "{domain}: {diagnostic}");
        assert!(diagnostic.contains(words), "{domain}: {diagnostic}");
    }
    let page = sender.metrics();
    for result in ["encrypted", "failed", "lacking"] {
        assert!(page.sum("ringpost_outbound_tls_total", &[("result", result)]) > 0.0, "{result}");
    }
    for untouched in [&plain, &broken, &unwilling] {
        assert!(untouched.taken().is_empty() && untouched.asked(Stage::Mail) == 0);
    }
    sender.drain();
    sender.stop();
    // The same remotes, where the policy lets mail go in the clear.
    let sender = lab.start(&config);
    for (domain, remote) in [
        ("self.test", &sink),
        ("plain.test", &plain),
        ("broken.test", &broken),
        ("unwilling.test", &unwilling),
    ] {
        mail(&sender, domain);
        remote.await_to(&format!("user@{domain}"));
    }
    sender.drain();
    sender.stop();
    relay.stop();
}

/// Starts a relay that takes mail from users alone, on both kinds of submission listeners: `anna` with a key for SCRAM, `otto`
/// with one that SCRAM cannot use.
fn submission(lab: &Lab, sink: &Sink, (chain, key): &(PathBuf, PathBuf)) -> Relay {
    for (user, flag) in [("anna", &["--scram"][..]), ("otto", &[])] {
        let added = add_user(lab, user, "correct horse", &[flag, &["--sender", "*@client.test"]].concat());
        assert!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));
    }
    let config = with_users(lab, Config::new())
        .to(sink.address())
        .set("smtp.tls_certificate", format!("'{}'", chain.display()))
        .set("smtp.tls_key", format!("'{}'", key.display()))
        .listener("submission", "")
        .listener("submissions", "");
    lab.start(&config)
}

/// A site that logs in, for one domain.
fn login(lab: &Lab, domain: &str, user: &str, password: &str) -> String {
    let file = lab.path().join(format!("password-{domain}"));
    std::fs::write(&file, format!("{password}\n")).expect("written");
    format!(
        "[[site]]\nname = '{domain}'\ndomains = ['{domain}']\nauth_user = '{user}'\nauth_password_file = '{}'\n",
        file.display()
    )
}

#[test]
fn a_smart_host_gets_its_password_over_tls_from_the_first_byte_or_behind_starttls() {
    if !host_is_able() {
        return;
    }
    let (lab, far, sink) = (Lab::new(), Lab::new(), Sink::start());
    let authority = Authority::new(&lab, "authority");
    let smart = submission(&far, &sink, &authority.issue(&lab, "smart", "127.0.0.1", false));
    let (starttls, implicit) = (smart.listener("submission"), smart.listener("submissions"));
    let config = Config::new()
        .set("delivery.expire_after", "'3s'")
        .set("delivery.tls", "'verified'")
        .route("anna.test", format!("smtp://{starttls}"))
        .route("otto.test", format!("smtps://{implicit}"))
        .route("wrong.test", format!("smtps://{implicit}"))
        .route("client.test", format!("smtp://{}", sink.address()))
        .table("[[site]]\nname = 'clients'\ndomains = ['client.test']\ntls = 'off'")
        .table(&login(&lab, "anna.test", "anna", "correct horse"))
        .table(&login(&lab, "otto.test", "otto", "correct horse"))
        .table(&login(&lab, "wrong.test", "anna", "horse, correct"));
    let sender = authority.trusted_by(&lab, &config);
    for domain in ["anna.test", "otto.test", "wrong.test"] {
        mail(&sender, domain);
    }
    for mailbox in ["user@anna.test", "user@otto.test"] {
        let content = String::from_utf8_lossy(&sink.await_to(mailbox).content).into_owned();
        assert!(content.contains("with ESMTPSA"), "{mailbox}: {content}");
    }
    let (status, diagnostic) = bounce(&sink, "wrong.test");
    assert!(diagnostic.contains("535"), "{status} {diagnostic}");
    sender.drain();
    sender.stop();
    for file in [sender_log(&lab), sender_log(&far)] {
        assert!(!file.contains("horse"), "a password in a log: {file}");
    }
    smart.stop();
}

fn sender_log(lab: &Lab) -> String {
    std::fs::read_to_string(lab.path().join("log")).expect("a log")
}

#[test]
fn a_certificate_of_ours_is_shown_to_the_remote_that_asks_for_it() {
    if !host_is_able() || !has_program("openssl") {
        return;
    }
    let (lab, far, sink) = (Lab::new(), Lab::new(), Sink::start());
    let authority = Authority::new(&lab, "authority");
    let (chain, key) = authority.issue(&lab, "own", "relay.test", false);
    let shown = std::process::Command::new("openssl")
        .args(["x509", "-noout", "-fingerprint", "-sha256", "-in"])
        .arg(&chain)
        .output()
        .expect("openssl runs");
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    let fingerprint = shown.trim().rsplit('=').next().expect("a fingerprint").replace(':', "");
    let (theirs, their_key) = self_signed(&far, "127.0.0.1");
    // Whoever shows no certificate may send to nobody there.
    let listener = format!("relay_networks = []\nrelay_certificates = ['{fingerprint}']");
    let config = Config::new()
        .to(sink.address())
        .set("smtp.tls_certificate", format!("'{}'", theirs.display()))
        .set("smtp.tls_key", format!("'{}'", their_key.display()))
        .listener("relay", &listener);
    let remote = far.start(&config);
    let place = remote.listeners("SMTP")[1];
    let site = format!(
        "[[site]]\nname = 'shown'\ndomains = ['shown.test']\ntls = 'required'\nclient_certificate = '{}'\nclient_key = '{}'",
        chain.display(),
        key.display()
    );
    let config = Config::new()
        .route("*", format!("smtp://{place}"))
        .route("client.test", format!("smtp://{}", sink.address()))
        .table(&site);
    let sender = lab.start(&config);
    mail(&sender, "shown.test");
    mail(&sender, "bare.test");
    assert!(came_encrypted(&sink, "user@shown.test"));
    let (status, diagnostic) = bounce(&sink, "bare.test");
    assert!(status == "5.7.1" && diagnostic.contains("550"), "{status} {diagnostic}");
    sender.drain();
    sender.stop();
    remote.stop();
}

#[test]
fn a_password_file_that_is_missing_or_has_more_than_the_password_stops_the_start_with_one_line() {
    if !host_is_able() {
        return;
    }
    let lab = Lab::new();
    let site = login(&lab, "a.test", "anna", "one\ntwo");
    for (file, words) in [("password-a.test", "more than one line"), ("password-b.test", "No such file")] {
        let config = Config::new().table(&site.replace("password-a.test", file));
        let ended = lab.run(lab.command(&config));
        assert!(!ended.status.success() && ended.err.lines().count() == 1, "{}", ended.err);
        assert!(ended.err.contains(file) && ended.err.contains(words), "{}", ended.err);
        assert!(!ended.err.contains("two"), "{}", ended.err);
    }
}

#[test]
fn a_message_that_requires_tls_is_passed_on_in_confidence_or_comes_back_without_its_body() {
    if !host_is_able() || !has_program("python3") {
        return;
    }
    let (lab, far, sink) = (Lab::new(), Lab::new(), Sink::start());
    let authority = Authority::new(&lab, "authority");
    let good = authority.issue(&lab, "good", "127.0.0.1", false);
    let quoted = |path: &Path| format!("'{}'", path.display());
    let config =
        Config::new().set("smtp.tls_certificate", quoted(&good.0)).set("smtp.tls_key", quoted(&good.1));
    let plain = format!("smtp://{}", sink.address());
    // The one promises the same and ends the way, or has to pass it on in the clear; the other cannot be believed.
    let promising = far.start(
        &config.clone().route("*", "discard").route("further.test", &plain).route("client.test", &plain),
    );
    let strange = Lab::new();
    let unknown = receiver(&strange, &sink, &self_signed(&strange, "127.0.0.1"));
    let config = config
        .route("good.test", format!("smtp://{}", promising.smtp()))
        .route("further.test", format!("smtp://{}", promising.smtp()))
        .route("unknown.test", format!("smtp://{}", unknown.smtp()))
        .route("plain.test", &plain)
        .route("client.test", &plain);
    let sender = authority.trusted_by(&lab, &config);
    let text = r#"
import smtplib, ssl, sys
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
client = smtplib.SMTP("127.0.0.1", int(sys.argv[1]))
client.ehlo()
assert not client.has_extn("requiretls")
client.starttls(context=context)
client.ehlo()
assert client.has_extn("requiretls")
for domain in sys.argv[2:]:
    text = f"Subject: {domain}\r\n\r\nthe secret\r\n"
    client.sendmail(f"{domain}@client.test", [f"user@{domain}"], text, mail_options=["REQUIRETLS", "RET=FULL"])
client.quit()
"#;
    let domains = ["good.test", "further.test", "unknown.test", "plain.test"];
    let arguments: Vec<String> =
        [sender.smtp().port().to_string()].into_iter().chain(domains.map(str::to_owned)).collect();
    python(text, &arguments);
    sender.await_log(&["delivered", "good.test"]);
    promising.await_log(&["delivered", "good.test"]);
    for (domain, words) in [
        ("further.test", "not encrypted"),
        ("unknown.test", "not to be trusted"),
        ("plain.test", "not encrypted"),
    ] {
        let (status, diagnostic) = bounce(&sink, domain);
        assert_eq!(status, "5.7.10", "{domain}: {diagnostic}");
        assert!(diagnostic.contains(words), "{domain}: {diagnostic}");
    }
    for taken in sink.taken() {
        assert!(!String::from_utf8_lossy(&taken.content).contains("the secret"), "{:?}", taken.mailboxes());
    }
    for relay in [sender, promising, unknown] {
        relay.drain();
        relay.stop();
    }
}
