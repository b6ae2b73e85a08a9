//! The documented format, proven by a reader that knows nothing else (`tests/spool_reader.py`).

use std::fs;
use std::path::Path;
use std::process::Command;

use ringpost::id::MessageId;
use serde_json::{Value, json};

use crate::harness::client::content;
use crate::harness::relay::{Config, Lab};
use crate::harness::sink::{Act, Sink, Stage};
use crate::harness::{has_program, host_is_able, skip};
use crate::stopped::{err, find, out, rows, spool};

/// What `list --json` must say of a message, made of what the reader in Python says.
fn as_listed(read: &Value) -> Value {
    let number = |value: &Value| value.as_u64().expect("a number");
    let time = |value: &Value| {
        let stamp = jiff::Timestamp::from_millisecond(number(value) as i64).expect("a time");
        format!("{stamp:.3}")
    };
    let mut row = json!({
        "id": MessageId::from_u64(number(&read["id"])).to_string(),
        "sender": read["sender"], "size": read["size"],
        "accepted_at": time(&read["accepted_at"]), "expires_at": time(&read["expires_at"]),
        "segment": read["place"][0], "offset": read["place"][1], "legs": [],
    });
    for (name, value) in [("envid", &read["envid"]), ("tenant", &read["tenant"])] {
        if !value.is_null() {
            row[name] = value.clone();
        }
    }
    match read["flags"].as_u64().unwrap_or(0) & 12 {
        4 => row["ret"] = "full".into(),
        8 => row["ret"] = "hdrs".into(),
        _ => {}
    }
    for leg in read["legs"].as_object().expect("legs").values() {
        let states = ["open", "owed", "relayed", "placed"];
        let recipients: Vec<_> = (0..64)
            .zip(leg["to"].as_array().expect("recipients"))
            .filter_map(|(bit, to)| {
                let state = states.into_iter().find(|state| number(&leg[*state]) >> bit & 1 == 1)?;
                Some((bit, to, state))
            })
            .map(|(bit, to, state)| {
                let mut recipient = json!({ "address": to[0], "state": state });
                let names = ["never", "success", "failure", "delay"].into_iter().enumerate();
                let notify: Vec<_> =
                    names.filter(|(bit, _)| number(&to[1]) >> bit & 1 == 1).map(|(_, n)| n).collect();
                if !notify.is_empty() {
                    recipient["notify"] = json!(notify);
                }
                if to[2] != "" {
                    recipient["orcpt"] = to[2].clone();
                }
                if let Some([code, Value::Array(status), text]) =
                    leg["replies"][bit.to_string()].as_array().map(Vec::as_slice)
                {
                    let dotted = status.iter().map(Value::to_string).collect::<Vec<_>>().join(".");
                    recipient["reply"] = json!({ "code": code, "enhanced": dotted, "text": text });
                }
                recipient
            })
            .collect();
        if !recipients.is_empty() {
            let leg = json!({
                "domain": leg["domain"], "attempts": leg["attempts"], "due": time(&leg["due"]), "recipients": recipients,
            });
            row["legs"].as_array_mut().expect("made above").push(leg);
        }
    }
    row
}

/// What the reader says, an object for each message.
pub fn read_by_python(lab: &Lab) -> Vec<Value> {
    let reader = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/spool_reader.py");
    let text = fs::read_to_string(&reader).expect("the reader");
    let lines = text.lines().filter(|line| !line.is_empty()).count();
    assert!(lines <= 100, "{lines} lines: the format should not need more");
    let read = Command::new("python3").arg(&reader).arg(lab.spool()).output().expect("python3 runs");
    assert!(read.status.success(), "{}", err(&read));
    out(&read).lines().map(|line| serde_json::from_str(line).expect("an object a line")).collect()
}

/// Leaves a spool in which messages and recipients are in all states.
fn fill(lab: &Lab) {
    let sink = Sink::scripted(|moment| match (&moment.stage, moment.mailbox) {
        (Stage::Rcpt, busy) if busy.starts_with("busy") => Act::Say("450 4.2.1 mailbox busy"),
        (Stage::Rcpt, gone) if gone.starts_with("gone") => Act::Say("550 5.1.1 no such user, sorry"),
        _ => Act::Accept,
    });
    // It cannot report success, so that we have to.
    let quiet =
        Sink::on(&[([127, 0, 0, 1], 0).into()], &["PIPELINING", "8BITMIME", "SMTPUTF8"], |_| Act::Accept);
    let config = Config::new()
        .threads(2, "shared")
        .set("delivery.retry_first", "'1h'")
        .route("quiet.test", format!("smtp://{}", quiet.address()))
        .route("*", "hold")
        .route("one.test", format!("smtp://{}", sink.address()));
    let relay = lab.start(&config);
    // Segments fill up, and get their footers.
    let long = content("long", &"0123456789abcdef\r\n".repeat(30_000));
    for _ in 0..20 {
        relay.client().mail("a@client.test", &["x@held.test", "y@two.test", "z@held.test"], &long);
    }
    let to = [
        "well@one.test",
        "busy@one.test",
        "gone@one.test",
        "x@held.test> NOTIFY=FAILURE,DELAY ORCPT=rfc822;w@x.test",
        "glad@quiet.test> NOTIFY=SUCCESS",
    ];
    for ret in ["RET=HDRS ENVID=e1", "RET=FULL BODY=8BITMIME", "SMTPUTF8"] {
        let id = relay.client().mail(&format!("a@client.test> {ret}"), &to, &content("short", ".dots\r\n.."));
        relay.await_log(&[&id, "deferred"]);
        relay.await_log(&[&id, "relayed"]);
    }
    let id = relay.client().mail("a@client.test", &["gone@one.test"], &content("gone", "x"));
    relay.await_log(&[&id, "bounced"]);
    // Read by another start, so that a part has an open segment that is not its newest.
    relay.kill();
    let relay = lab.start(&config);
    relay.client().mail("a@client.test", &["x@held.test"], &content("after", "the restart"));
    relay.stop();
    assert!(!find(lab, b"RPfooter").is_empty(), "a segment was sealed");
}

#[test]
fn a_reader_written_from_the_documented_format_sees_what_list_and_export_show() {
    if !host_is_able() {
        return;
    }
    if !["python3", "sha256sum"].into_iter().all(has_program) {
        skip("python3 or sha256sum is not there");
        return;
    }
    let lab = Lab::new();
    fill(&lab);
    let read = read_by_python(&lab);
    let listed = rows(&lab.spool(), &[]);
    assert_eq!(listed.len(), 25, "a notification is among them");
    let text = json!(listed).to_string();
    for words in [
        "\"owed\"",
        "\"relayed\"",
        "\"sender\":\"\"",
        "\"hdrs\"",
        "\"full\"",
        "\"orcpt\"",
        "\"failure\"",
        "mailbox busy",
    ] {
        assert!(text.contains(words), "{words} is not tried: {text}");
    }
    assert_eq!(read.iter().map(as_listed).collect::<Vec<_>>(), listed);
    let mut sums = Command::new("sha256sum");
    for row in &listed {
        let id = row["id"].as_str().expect("an id");
        let path = lab.path().join(id);
        fs::write(&path, spool(&["export", id], &lab.spool()).stdout).expect("room");
        sums.arg(path);
    }
    let sums = out(&sums.output().expect("sha256sum runs"));
    let exported: Vec<_> = sums.lines().filter_map(|line| line.split(' ').next()).collect();
    let hashes: Vec<_> = read.iter().map(|message| message["sha256"].as_str().expect("a hash")).collect();
    assert_eq!(hashes, exported, "bodies differ");
}
