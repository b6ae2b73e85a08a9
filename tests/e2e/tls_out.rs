//! Encryption towards remotes: what each policy makes of certificates that are good, strange, old or for somebody else, and of
//! remotes that have none.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};

use crate::harness::client::content;
use crate::harness::host_is_able;
use crate::harness::relay::{Config, Lab, Relay};
use crate::harness::report::Report;
use crate::harness::sink::{Act, Sink, Stage};

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
