//! PURE. What `serve` says once it listens: enough for somebody who has read nothing else.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::listener::ListenerKind;
use super::options::Config;
use super::value::{LISTENER_KIND, show_size};
use crate::routing::Target;

/// What `serve` knows only once it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Started {
    /// Where mail is taken, at least one, by the listener's index; ports are real ones even where 0 was configured.
    pub listening: Vec<SocketAddr>,
    /// Where the admin HTTP listens.
    pub admin: SocketAddr,
    /// What to say of a certificate that the relay made.
    pub certificate: Option<String>,
    /// Messages that recovery found waiting.
    pub queued: u64,
    /// What the spool's disk did when it was measured.
    pub disk: Option<String>,
    /// The working directory, to show the spool's place in full.
    pub directory: std::path::PathBuf,
    /// How this program was called, for the commands that are shown.
    pub program: String,
}

/// The text for a completed `config`.
pub fn startup_text(config: &Config, started: &Started) -> String {
    let mut text = format!("ringpost {} is ready.\n", env!("CARGO_PKG_VERSION"));
    let mut line = |label: &str, words: String| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {label:<12}{words}");
    };
    let size = show_size(config.smtp.message_bytes_max);
    let listeners = config.listeners();
    let mut about = format!(" as {}, messages up to {size}", config.smtp.hostname);
    for (label, kind) in LISTENER_KIND.0 {
        let of_kind = listeners.iter().zip(&started.listening).filter(|(listener, _)| listener.kind == *kind);
        let addresses: Vec<String> = of_kind.map(|(_, address)| address.to_string()).collect();
        if !addresses.is_empty() {
            let label = if *kind == ListenerKind::Relay { "SMTP" } else { label };
            line(label, format!("{}{}", addresses.join(", "), std::mem::take(&mut about)));
        }
    }
    if let Some(certificate) = &started.certificate {
        line("certificate", format!("{certificate} (smtp.tls_certificate takes another)"));
    }
    line("relaying", relaying(config));
    let spool = started.directory.join(&config.spool.directory).components().collect::<std::path::PathBuf>();
    line("spool", format!("{}, {} messages waiting", spool.display(), started.queued));
    if let Some(disk) = &started.disk {
        line("disk", disk.clone());
    }
    for (pattern, target) in config.routing.table.entries() {
        line("route", format!("{pattern} → {}", destination(target)));
    }
    line("metrics", format!("http://{}/metrics (and /healthz, /readyz)", reachable(started.admin)));
    line("threads", format!("{} shards, {} workers", config.threads.shards, config.threads.workers));
    text.push_str(&next_steps(config, started));
    text
}

fn relaying(config: &Config) -> String {
    let networks: Vec<String> = config.smtp.relay_networks.iter().map(ToString::to_string).collect();
    let who = match networks.is_empty() {
        true => "no client may send to any domain".to_owned(),
        false => format!("clients in {} may send to any domain", networks.join(", ")),
    };
    if config.smtp.relay_networks.iter().any(|network| network.prefix == 0) {
        return format!("{who}: AN OPEN RELAY, unless a firewall stands before it (smtp.relay_networks)");
    }
    match config.smtp.relay_domains.is_empty() {
        true => format!("{who}; others are refused"),
        false => format!("{who}; anybody to {}", config.smtp.relay_domains.join(", ")),
    }
}

fn destination(target: &Target) -> String {
    match target {
        Target::Mx => "mx: to the hosts of the domain's MX records".into(),
        Target::Smtp { .. } => format!("{target}"),
        Target::Discard => "discard: taken as delivered, sent nowhere".into(),
        Target::Hold => "hold: kept in the spool, nothing is sent".into(),
    }
}

/// An address that a client on this host can use for a listener on `address`.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// Commands that can be pasted as they are. Python's smtplib is there on nearly every host; a pipe into `nc` talks too early.
fn next_steps(config: &Config, started: &Started) -> String {
    let Some(smtp) = started.listening.first().map(|address| reachable(*address)) else {
        return String::new();
    };
    let admin = reachable(started.admin);
    let mut text = format!(
        "Try next, in another terminal:\n  \
         send one   python3 -c \"import smtplib; smtplib.SMTP('{host}', {port}).sendmail('me@example.com', \
         ['you@example.com'], 'Subject: hello\\r\\n\\r\\nhello\\r\\n')\"\n  \
         see it     curl -s http://{admin}/metrics | grep ^ringpost_queue\n",
        host = smtp.ip(),
        port = smtp.port(),
    );
    let holds = config.routing.table.entries().all(|(_, target)| *target == Target::Hold);
    text.push_str(if holds {
        "  deliver    mail is held until a route says otherwise: start again with --route mx (real delivery),\n             \
         --route smtp://HOST:PORT (through a smart host) or --route discard (to measure)\n"
    } else {
        "  hold       start again with --route hold to keep mail and send nothing\n"
    });
    let program = &started.program;
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "  configure  {program} config --default > ringpost.toml; {program} serve --config ringpost.toml"
    );
    text.push_str("  stop       Ctrl-C: nothing accepted is lost\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Host, Overrides};

    fn text(file: &str, listening: &str) -> String {
        let config = Config::parse(file).expect("test file").with(&Overrides::default());
        let config = config.completed(&Host { name: "mail.example".into(), cpus: 2 }).expect("complete");
        let started = Started {
            listening: vec![listening.parse().expect("address")],
            admin: "127.0.0.1:9925".parse().expect("address"),
            queued: 17,
            disk: Some("a commit took 0.39 ms".into()),
            certificate: Some("self-signed, made now: /srv/c.pem".into()),
            directory: "/srv/mail".into(),
            program: "target/release/ringpost".into(),
        };
        startup_text(&config, &started)
    }

    #[test]
    fn the_start_text_answers_where_who_whither_and_what_next() {
        let text = text("", "127.0.0.1:2525");
        for words in [
            "127.0.0.1:2525 as mail.example",
            "clients in 127.0.0.0/8, ::1/128 may send",
            "/srv/mail/ringpost-spool, 17 messages",
            "self-signed, made now",
            "* → hold",
            "http://127.0.0.1:9925/metrics",
            "2 shards, 2 workers",
            "smtplib.SMTP('127.0.0.1', 2525)",
            "--route mx",
            "target/release/ringpost config --default",
        ] {
            assert!(text.contains(words), "`{words}` is missing:\n{text}");
        }
    }

    #[test]
    fn commands_use_an_address_that_can_be_connected_to() {
        assert!(text("", "0.0.0.0:25").contains("smtplib.SMTP('127.0.0.1', 25)"));
        assert!(text("", "[::]:25").contains("smtplib.SMTP('::1', 25)"));
    }

    #[test]
    fn an_open_relay_is_told_so() {
        assert!(text("[smtp]\nrelay_networks = ['::/0']\n", "0.0.0.0:25").contains("OPEN RELAY"));
    }

    #[test]
    fn a_relay_that_delivers_is_not_told_to_set_a_route() {
        let text = text("[routes]\n'*' = 'smtp://127.0.0.1:2526'\n", "127.0.0.1:2525");
        assert!(text.contains("* → smtp://127.0.0.1:2526") && !text.contains("--route mx"), "{text}");
    }
}
