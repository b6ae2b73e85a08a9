//! Looking into a stopped relay's spool: what the commands show is what was sent, they change nothing, and damage is found,
//! told, and keeps no other mail from being delivered.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use crate::harness::client::content;
use crate::harness::host_is_able;
use crate::harness::relay::{Config, Lab};
use crate::harness::sink::{Act, Sink, Stage};

fn spool_command(arguments: &[&str], directory: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringpost"));
    command.arg("spool").arg(arguments[0]).arg(directory).args(&arguments[1..]);
    command
}

pub fn spool(arguments: &[&str], directory: &Path) -> Output {
    spool_command(arguments, directory).output().expect("the command can be run")
}

pub fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Paths in a directory and below it.
pub fn tree(directory: &Path) -> Vec<PathBuf> {
    let mut all = vec![directory.to_owned()];
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() { all.extend(tree(&path)) } else { all.push(path) }
    }
    all.sort();
    all
}

/// Everything about a directory that a command which changes nothing must leave as it is.
fn picture(directory: &Path) -> BTreeMap<PathBuf, (u32, i64, i64, Vec<u8>)> {
    let look = |path: PathBuf| {
        let stat = fs::metadata(&path).expect("a file");
        let contents = if stat.is_file() { fs::read(&path).expect("readable") } else { Vec::new() };
        (path, (stat.mode(), stat.mtime(), stat.mtime_nsec(), contents))
    };
    tree(directory).into_iter().map(look).collect()
}

pub fn rows(directory: &Path, arguments: &[&str]) -> Vec<Value> {
    let listed = spool(&[&["list", "--json"], arguments].concat(), directory);
    assert!(listed.status.success(), "{}", err(&listed));
    out(&listed).lines().map(|line| serde_json::from_str(line).expect("an object a line")).collect()
}

/// Of a message to two recipients of whom one was delivered and one deferred.
fn assert_half_done(row: &Value) {
    assert_eq!(
        (&row["sender"], &row["envid"], &row["ret"]),
        (&"a@client.test".into(), &"e1".into(), &"hdrs".into())
    );
    let leg = &row["legs"][0];
    assert_eq!((&leg["domain"], &leg["attempts"]), (&"one.test".into(), &1.into()));
    let recipients = leg["recipients"].as_array().expect("recipients");
    assert_eq!(recipients.len(), 1, "the delivered one is settled: {leg}");
    assert_eq!(
        (&recipients[0]["address"], &recipients[0]["state"]),
        (&"busy@one.test".into(), &"open".into())
    );
    assert_eq!(recipients[0]["reply"]["text"], "mailbox busy");
}

fn look_into_a_copy_that_cannot_be_written(lab: &Lab) {
    fs::remove_file(lab.spool().join("lock")).expect("there was one");
    for path in tree(&lab.spool()) {
        let mode = if path.is_dir() { 0o500 } else { 0o400 };
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("ours");
    }
    let copy = picture(&lab.spool());
    assert!(spool(&["verify"], &lab.spool()).status.success());
    assert_eq!(rows(&lab.spool(), &[]).len(), 5);
    assert!(copy == picture(&lab.spool()), "something was changed");
    for path in tree(&lab.spool()).into_iter().filter(|path| path.is_dir()) {
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).expect("ours");
    }
}

#[test]
fn a_stopped_spool_is_listed_exported_and_verified_and_nothing_in_it_changes() {
    if !host_is_able() {
        return;
    }
    let lab = Lab::new();
    let sink = Sink::scripted(|moment| match moment.stage {
        Stage::Rcpt if moment.mailbox.contains("busy") => Act::Say("450 4.2.1 mailbox busy"),
        _ => Act::Accept,
    });
    let config = Config::new()
        .threads(2, "shared")
        .set("delivery.retry_first", "'1h'")
        .route("*", "hold")
        .route("one.test", format!("smtp://{}", sink.address()));
    let relay = lab.start(&config);
    let long = content("long", &"0123456789abcdef\r\n".repeat(20_000));
    let mut sent = BTreeMap::new();
    for _ in 0..4 {
        // A connection each: both shards get some.
        let id = relay.client().mail("a@client.test", &["x@held.test", "y@held.test", "z@two.test"], &long);
        sent.insert(id, long.clone());
    }
    let short = content("short", ".dots\r\n..");
    let to = ["busy@one.test", "well@one.test> NOTIFY=FAILURE,DELAY ORCPT=rfc822;w@x.test"];
    let half = relay.client().mail("a@client.test> RET=HDRS ENVID=e1", &to, &short);
    sent.insert(half.clone(), short);
    relay.await_log(&[&half, "delivered"]);
    relay.await_log(&[&half, "deferred"]);
    relay.stop();
    let before = picture(&lab.spool());

    let listed = rows(&lab.spool(), &[]);
    let ids: Vec<_> = listed.iter().map(|row| row["id"].as_str().expect("an id")).collect();
    assert_eq!(ids, sent.keys().map(String::as_str).collect::<Vec<_>>(), "in order of their ids, each once");
    assert_half_done(listed.iter().find(|row| row["id"] == *half).expect("the deferred one"));
    let two = rows(&lab.spool(), &["--domain", "TWO.test"]);
    assert_eq!(two.len(), 4);
    assert!(two.iter().all(|row| row["legs"].as_array().is_some_and(|legs| legs.len() == 1)), "{two:?}");
    let text = out(&spool(&["list"], &lab.spool()));
    for words in
        ["busy@one.test: 450 4.2.1 mailbox busy", "1 attempt\n", "due in 5", "x@held.test\n", "5 messages"]
    {
        assert!(text.contains(words), "`{words}` is missing: {text}");
    }
    for (id, content) in &sent {
        let exported = spool(&["export", id], &lab.spool());
        assert!(exported.status.success(), "{}", err(&exported));
        assert!(exported.stdout.starts_with(b"Received: "));
        assert!(exported.stdout.ends_with(content), "{id} is not what was sent");
        let size = listed.iter().find(|row| row["id"] == **id).map(|row| row["size"].clone());
        assert_eq!(size, Some(exported.stdout.len().into()));
    }
    let verified = spool(&["verify"], &lab.spool());
    assert_eq!(verified.status.code(), Some(0), "{}{}", out(&verified), err(&verified));
    assert!(out(&verified).contains("5 messages, every body read and whole"), "{}", out(&verified));
    assert_eq!(spool(&["export", "0000000000zzz"], &lab.spool()).status.code(), Some(2));
    assert!(before == picture(&lab.spool()), "something was changed");
    look_into_a_copy_that_cannot_be_written(&lab);
}

#[test]
fn a_spool_in_use_is_neither_opened_twice_nor_looked_into() {
    if !host_is_able() {
        return;
    }
    let lab = Lab::new();
    let config = Config::new().route("*", "hold");
    let relay = lab.start(&config);
    let holder = format!("(pid {} on ", relay.pid());
    for command in ["verify", "list"] {
        let refused = spool(&[command], &lab.spool());
        assert_eq!(refused.status.code(), Some(2));
        assert!(err(&refused).contains(&holder), "{}", err(&refused));
    }
    let second = lab.run(lab.command(&config));
    assert!(!second.status.success());
    assert!(
        second.err.contains("is in use by another relay") && second.err.contains(&holder),
        "{}",
        second.err
    );
    // The first has not noticed.
    relay.client().mail("a@client.test", &["x@a.test"], &content("one", "x"));
    // Killed, it holds nothing, whatever its lock file says.
    relay.kill();
    assert!(spool(&["list"], &lab.spool()).status.success());
    lab.start(&config).stop();
}

/// Offsets at which `needle` stands in the files of parts, with their paths.
pub fn find(lab: &Lab, needle: &[u8]) -> Vec<(PathBuf, u64)> {
    let mut found = Vec::new();
    for path in tree(&lab.spool()).into_iter().filter(|path| path.to_string_lossy().contains("segment-")) {
        let bytes = fs::read(&path).expect("a segment");
        let places = bytes.windows(needle.len()).enumerate().filter(|(_, window)| *window == needle);
        found.extend(places.map(|(at, _)| (path.clone(), at as u64)));
    }
    found
}

/// Turns the bits of the one byte at which `needle` begins in the spool.
pub fn flip(lab: &Lab, needle: &str) {
    let found = find(lab, needle.as_bytes());
    let [(path, at)] = &found[..] else { panic!("`{needle}` stands at {found:?}") };
    let file = fs::File::options().read(true).write(true).open(path).expect("a segment");
    let mut byte = [0];
    file.read_exact_at(&mut byte, *at).expect("within it");
    file.write_all_at(&[!byte[0]], *at).expect("ours");
}

#[test]
fn damage_is_found_told_counted_and_set_aside_and_all_other_mail_is_delivered() {
    if !host_is_able() {
        return;
    }
    let (lab, sink) = (Lab::new(), Sink::start());
    let held = Config::new().route("*", "hold");
    let relay = lab.start(&held);
    let mut client = relay.client();
    let filler = "0123456789abcdef\r\n".repeat(3000);
    let mut ids = Vec::new();
    // A segment that is full, and one that is not.
    for nth in 0..100 {
        let content = content("n", &format!("{filler}body number {nth:03}\r\n"));
        ids.push(client.mail("a@client.test", &[&format!("r{nth}@a.test")], &content));
    }
    let last = client.mail("a@client.test", &["last@a.test"], &content("n", "body of the last"));
    // The next one proves it acknowledged.
    ids.push(client.mail("a@client.test", &["more@a.test"], &content("n", "more")));
    // A clean stop would seal the last one, too.
    relay.kill();
    assert_eq!(spool(&["verify"], &lab.spool()).status.code(), Some(0));
    flip(&lab, "body number 003");
    flip(&lab, "body of the last");
    let sealed = ids.remove(3);

    let verified = spool(&["verify"], &lab.spool());
    assert_eq!(verified.status.code(), Some(1));
    for words in [
        &*format!("Accepted of message {sealed}"),
        &*format!("Accepted of message {last}"),
        "rotten",
        "a.test",
    ] {
        assert!(out(&verified).contains(words), "`{words}` is missing: {}", out(&verified));
    }
    let exported = spool(&["export", &sealed], &lab.spool());
    assert_eq!((exported.status.code(), exported.stdout.len()), (Some(1), 0), "{}", err(&exported));
    assert_eq!(spool(&["export", &ids[0]], &lab.spool()).status.code(), Some(0));

    let relay = lab.start(&held.clone().to(sink.address()));
    let line = relay.await_log(&["ERROR", "spool", "rotten"]);
    assert!(line.contains("damaged/"), "{line}");
    // What was rotten in a sealed segment shows when it is read for its delivery.
    for (id, to) in [(&sealed, "<r3@a.test>"), (&last, "<last@a.test>")] {
        relay.await_log(&["ERROR", id, "is damaged", "from <a@client.test>", to, "damaged/"]);
    }
    relay.await_metric("ringpost_spool_damage_total", &[("kind", "rot")], |count| count >= 1.0);
    relay.await_metric("ringpost_spool_damage_total", &[("kind", "message")], |count| count == 2.0);
    assert!(relay.metrics().sum("ringpost_spool_set_aside_bytes_total", &[]) >= 4096.0);
    let taken = sink.await_taken(ids.len() + 2);
    assert_eq!(taken.len(), ids.len() + 2, "each once, and nothing that is damaged");
    let bounces: Vec<_> = taken.iter().filter(|taken| taken.sender.is_empty()).collect();
    assert_eq!(bounces.len(), 2, "a sender is told of each");
    let told = bounces.iter().map(|bounce| String::from_utf8_lossy(&bounce.content)).collect::<String>();
    for words in ["<r3@a.test>", "<last@a.test>", "Status: 5.3.0", "damaged in storage", "send it again"] {
        assert!(told.contains(words), "`{words}` is missing: {told}");
    }
    assert!(!told.contains("body"), "nothing is returned of what is not known to be right: {told}");
    let names: Vec<_> = tree(&lab.spool().join("damaged"));
    let texts = names.iter().filter(|path| path.extension().is_some_and(|kind| kind == "txt"));
    let text = texts.map(|path| fs::read_to_string(path).expect("text")).collect::<String>();
    for words in [&*last, &sealed, "rotten", "lost", "<a@client.test>", "<r3@a.test>", "<last@a.test>"] {
        assert!(text.contains(words), "`{words}` is missing: {text}");
    }
    relay.stop();
}

#[test]
fn files_are_for_their_owner_alone_whatever_the_umask() {
    if !host_is_able() {
        return;
    }
    for umask in ["000", "077"] {
        let (lab, sink) = (Lab::new(), Sink::start());
        let config = Config::new();
        let run = |config: &Config| {
            let plain = lab.command(config);
            let mut command = Command::new("sh");
            command.args(["-c", &format!("umask {umask}; exec \"$@\""), "sh"]);
            command.arg(plain.get_program()).args(plain.get_args()).env_remove("RUST_LOG");
            lab.start_command(command)
        };
        let relay = run(&config.clone().threads(2, "shared").route("*", "hold"));
        let text = "0123456789abcdef\r\n".repeat(40_000);
        for nth in 0..12 {
            let content = content("n", &format!("{text}{nth}\r\n"));
            relay.client().mail("a@client.test", &["x@a.test"], &content);
        }
        relay.client().mail("a@client.test", &["x@a.test"], &content("n", "body of the last"));
        relay.client().mail("a@client.test", &["x@a.test"], &content("n", "more"));
        // Not by a clean stop, which seals the last segment: its records would not be read at the next start.
        relay.kill();
        flip(&lab, "body of the last");
        // Sets bytes aside, reads a part that is not its own, drains it.
        let relay = run(&config.to(sink.address()));
        relay.drain();
        relay.stop();
        assert!(tree(&lab.spool().join("damaged")).len() > 2, "bytes were set aside");
        for path in tree(&lab.spool()) {
            let mode = fs::metadata(&path).expect("a file").mode() & 0o7777;
            let wanted = if path.is_dir() { 0o700 } else { 0o600 };
            assert_eq!(mode, wanted, "{mode:o} {} with umask {umask}", path.display());
        }
    }
}
