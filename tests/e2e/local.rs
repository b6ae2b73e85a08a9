//! Domains of our own: delivery agents by LMTP, Maildirs, and who is there.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use rustix::process::Signal;

use crate::harness::client::content;
use crate::harness::relay::{Config, Lab, Relay};
use crate::harness::sink::Sink;
use crate::harness::{eventually, host_is_able};

/// Who has which content.
type Taken = Vec<(String, Vec<u8>)>;

/// A delivery agent that speaks LMTP: `never@` is unknown to it, `full@` has no room at the end of the first message.
#[derive(Clone, Default)]
struct Agent {
    taken: Arc<Mutex<Taken>>,
    full: Arc<AtomicBool>,
}

impl Agent {
    fn on_socket(path: &Path) -> Self {
        let (agent, listener) = (Self::default(), UnixListener::bind(path).expect("a path"));
        let serving = agent.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let agent = serving.clone();
                std::thread::spawn(move || agent.serve(&stream, &stream));
            }
        });
        agent
    }

    fn on_port() -> (Self, u16) {
        let (agent, listener) = (Self::default(), TcpListener::bind("127.0.0.1:0").expect("a port"));
        let (serving, port) = (agent.clone(), listener.local_addr().expect("bound").port());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let agent = serving.clone();
                std::thread::spawn(move || agent.serve(&stream, &stream));
            }
        });
        (agent, port)
    }

    fn taken(&self) -> Taken {
        self.taken.lock().expect("no panic").clone()
    }

    fn await_for(&self, recipient: &str) -> Vec<u8> {
        eventually(&format!("a message for {recipient}"), || {
            self.taken().into_iter().find(|(who, _)| who == recipient).map(|(_, content)| content)
        })
    }

    fn serve(&self, input: impl Read, mut output: impl Write) {
        let mut say = move |line: &str| output.write_all(format!("{line}\r\n").as_bytes()).is_ok();
        let mut lines = BufReader::new(input).split(b'\n').map_while(Result::ok);
        let mut recipients = Vec::new();
        say("220 agent.test LMTP");
        while let Some(line) = lines.next() {
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            let said = match line.split(':').next().unwrap_or_default() {
                "LHLO relay.test" => {
                    say("250-agent.test\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 ENHANCEDSTATUSCODES")
                }
                "RCPT TO" if line.contains("<never@") => say("550 5.1.1 nobody here"),
                "RCPT TO" => {
                    recipients.push(line[9..].trim_end_matches('>').to_owned());
                    say("250 2.1.5 ok")
                }
                "DATA" if recipients.is_empty() => say("503 5.5.1 nobody is left"),
                "DATA" => {
                    say("354 go on");
                    let mut content = Vec::new();
                    for line in lines.by_ref().take_while(|line| line != b".\r") {
                        content.extend_from_slice(line.strip_prefix(b".").unwrap_or(&line));
                        content.push(b'\n');
                    }
                    recipients.drain(..).all(|recipient| {
                        if recipient.starts_with("full@") && !self.full.swap(true, Ordering::Relaxed) {
                            return say("452 4.2.2 mailbox full");
                        }
                        self.taken.lock().expect("no panic").push((recipient, content.clone()));
                        say("250 2.0.0 has it")
                    })
                }
                "MAIL FROM" | "RSET" => say("250 2.0.0 ok"),
                "QUIT" => {
                    say("221 2.0.0 bye");
                    return;
                }
                _ => say("500 5.5.1 LMTP is spoken here"),
            };
            if !said {
                return;
            }
        }
    }
}

/// The content behind the relay's Received header.
fn original(content: &[u8]) -> &[u8] {
    let ends = content.windows(2).enumerate().filter(|(_, two)| two[0] == b'\n' && !b" \t".contains(&two[1]));
    let (end, _) = ends.into_iter().next().expect("a header behind the first");
    &content[end + 1..]
}

fn each_recipient_has_its_own_result(target: &str, agent: &Agent) {
    let lab = Lab::new();
    let sink = Sink::start();
    let relay = lab.start(&Config::new().route("own.test", target).to(sink.address()));
    let text = content("lmtp", ".a line with a dot\r\n.\r\nand the last");
    let id = relay.client().mail(
        "me@client.test",
        &["a@own.test", "never@own.test", "full@own.test", "b@own.test"],
        &text,
    );
    for recipient in ["a@own.test", "b@own.test"] {
        assert_eq!(original(&agent.await_for(recipient)), text);
    }
    let deferred = relay.await_log(&["deferred", &id]);
    assert!(deferred.contains("recipients=1") && deferred.contains("mailbox full"), "{deferred}");
    assert_eq!(original(&agent.await_for("full@own.test")), text);
    let bounce = sink.await_to("me@client.test");
    let bounce = String::from_utf8_lossy(&bounce.content).into_owned();
    assert!(bounce.contains("never@own.test") && bounce.contains("nobody here"), "{bounce}");
    assert!(!bounce.contains("b@own.test") && !bounce.contains("full@own.test"), "{bounce}");
    relay.drain();
    assert_eq!(agent.taken().len(), 3, "only who was deferred is tried again: {:?}", agent.taken());
    relay.stop();
}

#[test]
fn an_agent_on_a_unix_socket_answers_for_each_recipient() {
    if !host_is_able() {
        return;
    }
    let socket = socket_path("agent");
    let agent = Agent::on_socket(&socket);
    each_recipient_has_its_own_result(&format!("lmtp:{}", socket.display()), &agent);
    let _ = fs::remove_file(&socket);
}

#[test]
fn an_agent_behind_an_address_answers_for_each_recipient() {
    if !host_is_able() {
        return;
    }
    let (agent, port) = Agent::on_port();
    each_recipient_has_its_own_result(&format!("lmtp://127.0.0.1:{port}"), &agent);
}

/// A relay with a mailboxes file.
struct Home {
    lab: Lab,
    sink: Sink,
    relay: Relay,
}

/// Starts one; `MAILDIRS` in the lines is a directory of the laboratory.
fn home(config: Config, lines: &str) -> Home {
    let (lab, sink) = (Lab::new(), Sink::start());
    write_mailboxes(&lab, lines);
    let file = format!("'{}'", lab.path().join("mailboxes").display());
    let config = config.set("mailboxes.file", file).route("own.test", "maildir").to(sink.address());
    let relay = lab.start(&config);
    Home { lab, sink, relay }
}

/// A path for a socket: that of a laboratory may be too long.
fn socket_path(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("ringpost-{name}-{}", std::process::id()));
    let _ = fs::remove_file(&path);
    path
}

fn write_mailboxes(lab: &Lab, lines: &str) {
    let text = lines.replace("MAILDIRS", &lab.path().display().to_string());
    fs::write(lab.path().join("mailboxes"), text).expect("the file can be written");
}

impl Home {
    fn files(&self, maildir: &str) -> Vec<PathBuf> {
        let new = self.lab.path().join(maildir).join("new");
        let entries = fs::read_dir(new).map(|entries| entries.flatten().map(|entry| entry.path()).collect());
        entries.unwrap_or_default()
    }

    fn await_files(&self, maildir: &str, count: usize) -> Vec<String> {
        let files = eventually(&format!("{count} messages in {maildir}"), || {
            Some(self.files(maildir)).filter(|files| files.len() >= count)
        });
        assert_eq!(files.len(), count);
        files.iter().map(|file| fs::read_to_string(file).expect("a file")).collect()
    }
}

#[test]
fn mail_for_our_users_is_in_their_maildirs_and_others_are_refused_at_rcpt() {
    if !host_is_able() {
        return;
    }
    let lines = "alice@own.test maildir:MAILDIRS/alice\nbob@own.test maildir:MAILDIRS/bob\n\
                 team@own.test Alice@own.test, bob@own.test, far@away.test\n";
    // Nobody is trusted: strangers reach our users all the same, and nobody else.
    let home =
        home(Config::new().threads(2, "shared").set("smtp.relay_networks", "[]").listener("mx", ""), lines);
    for kind in ["SMTP", "mx"] {
        let mut client = crate::harness::client::Client::connect(home.relay.listener(kind));
        client.expect("MAIL FROM:<me@client.test>", 250);
        client.expect("RCPT TO:<alice@own.test>", 250);
        let nobody = client.expect("RCPT TO:<carol@own.test>", 550);
        assert!(nobody.starts_with("550 5.1.1 "), "{nobody:?}");
        assert!(client.expect("RCPT TO:<x@other.test>", 550).starts_with("550 5.7.1 "));
    }
    let small = content("small", "a line\r\n.\r\n..two dots");
    home.relay.client().mail("me@client.test", &["ALICE@own.test"], &small);
    let got = home.await_files("alice", 1).remove(0);
    let (head, rest) = got.split_once("Received: ").expect("the relay's own header");
    assert_eq!(head, "Return-Path: <me@client.test>\nDelivered-To: ALICE@own.test\n");
    assert!(rest.ends_with(&String::from_utf8_lossy(&small).replace("\r\n", "\n")), "{rest}");
    // A body in chunks, to an alias: each gets it once, and the sender stays who it was.
    let large = content("large", &"0123456789abcdef\r\n".repeat(20_000));
    home.relay.client().mail("me@client.test", &["bob@own.test", "team@own.test"], &large);
    for maildir in ["alice", "bob"] {
        let all = home.await_files(maildir, if maildir == "alice" { 2 } else { 1 });
        let large = String::from_utf8_lossy(&large).replace("\r\n", "\n");
        assert_eq!(all.iter().filter(|text| text.ends_with(&large)).count(), 1, "{maildir}");
    }
    let far = home.sink.await_to("far@away.test");
    assert_eq!((far.sender.as_str(), far.original()), ("me@client.test", &large[..]));
    home.relay.drain();
    home.relay.stop();
}

#[test]
fn sighup_takes_a_new_mailboxes_file_and_keeps_the_old_one_when_it_is_wrong() {
    if !host_is_able() {
        return;
    }
    let home = home(Config::new(), "alice@own.test maildir:MAILDIRS/alice\n");
    let code = |mailbox: &str| {
        let mut client = home.relay.client();
        client.command("MAIL FROM:<me@client.test>");
        client.command(&format!("RCPT TO:<{mailbox}>")).code
    };
    assert_eq!((code("alice@own.test"), code("bob@own.test")), (250, 550));
    write_mailboxes(&home.lab, "bob@own.test maildir:MAILDIRS/bob\n");
    home.relay.signal(Signal::HUP);
    eventually("bob is there", || (code("bob@own.test") == 250).then_some(()));
    assert_eq!(code("alice@own.test"), 550);
    home.relay.client().mail("me@client.test", &["bob@own.test"], &content("reloaded", "x"));
    home.await_files("bob", 1);
    write_mailboxes(&home.lab, "bob@own.test maildir:bob\n");
    home.relay.signal(Signal::HUP);
    let told = home.relay.await_log(&["mailboxes", "line 1"]);
    assert!(told.contains("absolute path"), "{told}");
    assert_eq!(code("bob@own.test"), 250);
    home.relay.stop();
}

#[test]
fn a_maildir_that_cannot_be_written_defers_and_takes_the_mail_later() {
    if !host_is_able() {
        return;
    }
    let home = home(Config::new(), "alice@own.test maildir:MAILDIRS/later/alice\n");
    let id = home.relay.client().mail("me@client.test", &["alice@own.test"], &content("later", "x"));
    let deferred = home.relay.await_log(&["deferred", &id]);
    assert!(deferred.contains("cannot be written") && !deferred.contains("later/alice"), "{deferred}");
    assert!(
        !home.relay.log_lines(&["could not be stored", "later/alice"]).is_empty(),
        "the operator is told the path"
    );
    fs::create_dir(home.lab.path().join("later")).expect("a directory");
    home.await_files("later/alice", 1);
    home.relay.drain();
    home.relay.stop();
}

#[test]
fn a_mailboxes_file_that_does_not_fit_the_routes_stops_the_start_with_the_line() {
    if !host_is_able() {
        return;
    }
    let lab = Lab::new();
    write_mailboxes(&lab, "# ours\na@own.test maildir:/var/vmail/a\nb@own.test\n");
    let file = format!("'{}'", lab.path().join("mailboxes").display());
    let config = Config::new().set("mailboxes.file", file).route("own.test", "mx");
    let ended = lab.run(lab.command(&config));
    assert!(!ended.status.success());
    assert!(ended.err.contains("line 3: b@own.test goes nowhere"), "{}", ended.err);
    write_mailboxes(&lab, "# ours\na@own.test maildir:/var/vmail/a\n");
    let ended = lab.run(lab.command(&config));
    assert!(!ended.status.success());
    assert!(ended.err.contains("line 2: a Maildir, but the route of own.test is \"mx\""), "{}", ended.err);
}

/// A client on a unix socket.
struct SocketClient(BufReader<UnixStream>);

impl SocketClient {
    fn open(path: &Path) -> Self {
        let stream = UnixStream::connect(path).expect("it listens");
        stream.set_read_timeout(Some(crate::harness::SOON)).expect("a time-out can be set");
        Self(BufReader::new(stream))
    }

    /// The next reply, its lines joined by a blank.
    fn reply(&mut self) -> String {
        let mut reply = String::new();
        loop {
            let mut line = String::new();
            self.0.read_line(&mut line).expect("a line");
            reply.push_str(line.trim_end());
            if line.as_bytes().get(3) != Some(&b'-') {
                return reply;
            }
            reply.push(' ');
        }
    }

    fn say(&mut self, line: &str) -> String {
        self.0.get_mut().write_all(format!("{line}\r\n").as_bytes()).expect("it listens");
        self.reply()
    }
}

#[test]
fn a_unix_socket_takes_lmtp_from_who_may_open_it_and_answers_for_each_recipient() {
    if !host_is_able() {
        return;
    }
    let socket = socket_path("lmtp");
    let at = format!("unix:{}", socket.display());
    let config =
        Config::new().threads(2, "shared").listener_at(&at, "lmtp", "trusted = true\nsocket_mode = '0600'");
    let lines = "alice@own.test maildir:MAILDIRS/alice\nall@own.test alice@own.test, far@away.test\n";
    let home = home(config, lines);
    assert!(home.relay.start_text().contains(&at), "{}", home.relay.start_text());
    let mode = fs::metadata(&socket).expect("a socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // Kept open, so that connections are placed on both shards.
    let mut clients: Vec<_> = (0..4).map(|_| SocketClient::open(&socket)).collect();
    for client in &mut clients {
        assert!(client.reply().starts_with("220 relay.test LMTP"));
        assert!(client.say("EHLO me").starts_with("500 "), "LMTP is no SMTP");
        assert!(client.say("LHLO me").contains("PIPELINING"));
        client.say("MAIL FROM:<me@client.test>");
        for (mailbox, code) in [
            ("alice@own.test", "250"),
            ("who@own.test", "550"),
            ("all@own.test", "250"),
            ("x@other.test", "250"),
        ] {
            assert!(client.say(&format!("RCPT TO:<{mailbox}>")).starts_with(code), "{mailbox}");
        }
        assert!(client.say("DATA").starts_with("354"));
        client.0.get_mut().write_all(&content("socket", "x")).expect("it listens");
        // A reply for each RCPT that was accepted, an alias being one, and none for what it stands for.
        assert!(client.say(".").starts_with("250 "));
        assert!(client.reply().starts_with("250 ") && client.reply().starts_with("250 "));
        assert!(client.say("NOOP").starts_with("250 2.0.0 Ok"));
    }
    let far = home.sink.await_to("far@away.test");
    let head = String::from_utf8_lossy(&far.content).into_owned();
    assert!(head.starts_with("Received: from me (unix socket) by relay.test with LMTP"), "{head}");
    let alice = home.await_files("alice", 4);
    assert_eq!(alice.len(), 4, "once for each message, though an alias led there too");
    home.relay.stop();
    assert!(!socket.exists(), "a clean stop leaves no socket");
}

#[test]
fn clients_of_a_unix_socket_are_trusted_only_where_that_is_said() {
    if !host_is_able() {
        return;
    }
    let (open, closed) = (socket_path("relay"), socket_path("lmtp-closed"));
    let config = Config::new()
        .set("smtp.relay_networks", "['0.0.0.0/0', '::/0']")
        .listener_at(&format!("unix:{}", open.display()), "relay", "trusted = false")
        .listener_at(&format!("unix:{}", closed.display()), "lmtp", "trusted = false");
    let home = home(config, "alice@own.test maildir:MAILDIRS/alice\n");
    let mut client = SocketClient::open(&open);
    client.reply();
    assert!(!client.say("EHLO me").contains("STARTTLS"), "nobody is between");
    assert!(client.say("MAIL FROM:<me@client.test>").starts_with("250"));
    // No network holds whoever has no address, however wide.
    assert!(client.say("RCPT TO:<x@other.test>").starts_with("550 5.7.1"));
    assert!(client.say("RCPT TO:<alice@own.test>").starts_with("250"));
    let mut client = SocketClient::open(&closed);
    client.reply();
    client.say("LHLO me");
    assert!(client.say("MAIL FROM:<me@client.test>").starts_with("550 5.7.1"));
    home.relay.kill();
    assert!(open.exists(), "a killed relay leaves its socket");
    // The next one takes it over.
    let file = format!("'{}'", home.lab.path().join("mailboxes").display());
    let config = Config::new().set("mailboxes.file", file).route("own.test", "maildir");
    let again =
        home.lab.start(&config.listener_at(&format!("unix:{}", open.display()), "relay", "trusted = true"));
    let mut client = SocketClient::open(&open);
    client.reply();
    client.say("EHLO me");
    client.say("MAIL FROM:<me@client.test>");
    assert!(client.say("RCPT TO:<x@other.test>").starts_with("250"));
    again.stop();
}

#[test]
fn a_notification_to_a_sender_who_is_an_alias_of_ours_goes_to_whom_it_is_for() {
    if !host_is_able() {
        return;
    }
    let socket = socket_path("nobody");
    let agent = Agent::on_socket(&socket);
    let lines = "alice@own.test maildir:MAILDIRS/alice\ninfo@own.test alice@own.test, far@away.test\n";
    let home = home(Config::new().route("lost.test", format!("lmtp:{}", socket.display())), lines);
    home.relay.client().mail("info@own.test", &["never@lost.test"], &content("lost", "x"));
    let far = home.sink.await_to("far@away.test");
    assert_eq!(far.sender, "");
    assert!(String::from_utf8_lossy(&far.content).contains("nobody here"));
    let text = home.await_files("alice", 1).remove(0);
    assert!(text.starts_with("Return-Path: <>\nDelivered-To: alice@own.test\n"), "{text}");
    assert!(agent.taken().is_empty());
    home.relay.drain();
    home.relay.stop();
    let _ = fs::remove_file(&socket);
}
