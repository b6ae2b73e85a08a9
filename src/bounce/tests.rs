//! Each field of a notification, and what Python's `email` package reads out of it.

use super::*;
use crate::id::PartId;
use crate::outcome::Enhanced;
use proptest::prelude::*;
use std::io::Write;
use std::process::{Command, Stdio};

const CONTENT: &[u8] = b"Received: by x\r\nSubject: hello\r\nMessage-ID: <1@s>\r\n\r\nsecret body\r\n";

fn envelope(sender: &str, ret: Return, smtputf8: bool, recipients: &[(&str, u8, &str)]) -> Envelope {
    let mut builder = EnvelopeBuilder::default();
    builder.begin(sender, Parameters { smtputf8, ret, ..Parameters::default() }, "QQ+2B1");
    builder.set_tenant("acme");
    for (mailbox, notify, original) in recipients {
        builder.push_recipient(mailbox, Notify(*notify), original).unwrap();
    }
    builder.encode(WallTime(784_887_151_000), WallTime(0))
}

fn report(envelope: &Envelope, content: &[u8], reply: &Reply, remote: &str) -> Option<Notification> {
    report_of(Fate::Failed, envelope, content, reply, remote)
}

fn report_of(
    fate: Fate,
    envelope: &Envelope,
    content: &[u8],
    reply: &Reply,
    remote: &str,
) -> Option<Notification> {
    let original = Original { id: MessageId::new(PartId(1), 7), envelope, content, is_whole: true };
    let failed: Vec<_> = envelope
        .recipients()
        .map(|recipient| Reported { recipient, fate, reply: Some(reply), remote })
        .collect();
    let reporter = Reporter {
        host: "relay.test",
        to: envelope.sender(),
        id: MessageId::new(PartId(1), 8),
        now: WallTime(784_887_152_000),
        expires_at: WallTime(784_887_153_000),
    };
    notification(&original, fate.topic(), &failed, &reporter)
}

#[test]
fn octets_of_a_binary_message_never_get_into_a_notification() {
    let binary = |content: &[u8]| {
        let mut builder = EnvelopeBuilder::default();
        let parameters = Parameters { binary: true, ret: Return::Full, ..Parameters::default() };
        builder.begin("s@sender.test", parameters, "");
        builder.push_recipient("r@there.test", Notify::DEFAULT, "").unwrap();
        let envelope = builder.encode(WallTime(784_887_151_000), WallTime(0));
        report(&envelope, content, &unknown_user(), "mx.there.test").unwrap().body
    };
    for (content, header_returned) in [
        (&b"Subject: hello\r\n\r\n\n.\nsecret\0"[..], true),
        (b"Subject: hello\n.\n\r\n\r\nsecret", false),
        (b"Subject: hello\r\r\n\r\nsecret", false),
        (b"Subject: hello\0\r\n\r\nsecret", false),
    ] {
        let body = binary(content);
        let text = String::from_utf8(body).unwrap();
        assert!(!text.contains("secret") && !text.contains('\0'), "{text}");
        assert_eq!(text.contains("Subject: hello"), header_returned, "{text}");
        assert!(text.split("\r\n").all(|line| !line.contains(['\r', '\n'])), "{text}");
    }
}

#[test]
fn the_report_on_a_message_that_requires_tls_requires_it_too_and_returns_no_body() {
    let mut builder = EnvelopeBuilder::default();
    let parameters = Parameters { require_tls: true, ret: Return::Full, ..Parameters::default() };
    builder.begin("s@sender.test", parameters, "");
    builder.push_recipient("r@there.test", Notify::DEFAULT, "").unwrap();
    let envelope = builder.encode(WallTime(784_887_151_000), WallTime(0));
    let content = b"Subject: hello\r\n\r\nsecret\r\n";
    let report = report(&envelope, content, &unknown_user(), "mx.there.test").unwrap();
    assert!(report.envelope.parameters().require_tls);
    let text = String::from_utf8(report.body).unwrap();
    assert!(text.contains("Subject: hello") && !text.contains("secret"), "{text}");
}

fn unknown_user() -> Reply {
    Reply::new(550, Enhanced(5, 1, 1), "no such user")
}

fn text(notification: &Notification) -> &str {
    std::str::from_utf8(&notification.body).unwrap()
}

#[test]
fn every_field_of_the_standard_is_there() {
    let envelope = envelope(
        "s@sender.test",
        Return::Unspecified,
        false,
        &[("r@there.test", 0, "rfc822;old+2Br@there.test")],
    );
    let notification = report(&envelope, CONTENT, &unknown_user(), "mx.there.test").unwrap();
    let body = text(&notification);
    for line in [
        "From: Mail Delivery System <MAILER-DAEMON@relay.test>",
        "To: <s@sender.test>",
        "Date: Tue, 15 Nov 1994 08:12:32 +0000",
        "Auto-Submitted: auto-replied",
        "MIME-Version: 1.0",
        "Content-Type: message/delivery-status",
        "Content-Type: text/rfc822-headers",
        "Original-Envelope-Id: QQ+1",
        "Reporting-MTA: dns; relay.test",
        "Arrival-Date: Tue, 15 Nov 1994 08:12:31 +0000",
        "Original-Recipient: rfc822; old+r@there.test",
        "Final-Recipient: rfc822; r@there.test",
        "Action: failed",
        "Status: 5.1.1",
        "Remote-MTA: dns; mx.there.test",
        "Diagnostic-Code: smtp; 550 5.1.1 no such user",
        "    mx.there.test said:",
        "Subject: hello",
    ] {
        assert!(body.split("\r\n").any(|have| have == line), "{line} is missing in\n{body}");
    }
    assert!(!body.contains("secret"), "headers alone are returned unless RET=FULL");
    assert_eq!(notification.covered, 1);
    let sent = &notification.envelope;
    assert_eq!((sent.sender(), sent.tenant()), ("", "acme"));
    let to: Vec<_> = sent.recipients().map(|r| (r.mailbox, r.notify)).collect();
    assert_eq!(to, [("s@sender.test", Notify(Notify::NEVER))]);
    assert_eq!(
        (sent.accepted_at(), sent.expires_at()),
        (WallTime(784_887_152_000), WallTime(784_887_153_000))
    );
}

#[test]
fn no_bounce_of_a_bounce_and_none_against_notify() {
    let to = [("r@there.test", 0, "")];
    assert_eq!(report(&envelope("", Return::Unspecified, false, &to), CONTENT, &unknown_user(), ""), None);
    let never = [("r@there.test", Notify::NEVER, ""), ("q@there.test", Notify::SUCCESS | Notify::DELAY, "")];
    let never = envelope("s@b.test", Return::Unspecified, false, &never);
    assert_eq!(report(&never, CONTENT, &unknown_user(), ""), None);
    let mixed = [("never@there.test", Notify::NEVER, ""), ("told@there.test", Notify::FAILURE, "")];
    let mixed = envelope("s@b.test", Return::Unspecified, false, &mixed);
    let notification = report(&mixed, CONTENT, &unknown_user(), "").unwrap();
    assert!(
        text(&notification).contains("told@there.test") && !text(&notification).contains("never@there.test")
    );
    assert_eq!(notification.covered, 2);
}

#[test]
fn whole_message_is_returned_if_asked_for_and_small() {
    let full = envelope("s@b.test", Return::Full, false, &[("r@there.test", 0, "")]);
    let notification = report(&full, CONTENT, &unknown_user(), "").unwrap();
    assert!(text(&notification).contains("Content-Type: message/rfc822\r\n"));
    assert!(text(&notification).contains("secret body"));
    let mut large = CONTENT.to_vec();
    large.resize(BODY_INLINE_BYTES_MAX, b'x');
    let notification = report(&full, &large, &unknown_user(), "").unwrap();
    assert!(text(&notification).contains("Content-Type: text/rfc822-headers\r\n"));
    assert!(!text(&notification).contains("secret"));
}

#[test]
fn our_own_reason_is_not_put_into_a_remotes_mouth() {
    let envelope = envelope("s@b.test", Return::Unspecified, false, &[("r@there.test", 0, "")]);
    let expired = Reply::new(0, Enhanced(4, 4, 7), "not delivered within 5 days");
    let notification = report(&envelope, CONTENT, &expired, "").unwrap();
    assert!(text(&notification).contains("Diagnostic-Code: x-ringpost; not delivered within 5 days\r\n"));
    assert!(text(&notification).contains("Status: 4.4.7\r\n"));
    assert!(!text(&notification).contains("Remote-MTA"));
}

#[test]
fn an_internationalised_message_gets_a_global_report() {
    let global = envelope("é@b.test", Return::Unspecified, true, &[("ü@there.test", 0, "")]);
    let notification = report(&global, "Subject: é\r\n\r\n".as_bytes(), &unknown_user(), "").unwrap();
    let body = text(&notification);
    assert!(body.contains("report-type=\"global-delivery-status\"") && body.contains("To: <é@b.test>\r\n"));
    assert!(body.contains("Final-Recipient: utf-8; ü@there.test\r\n"));
    let parameters = notification.envelope.parameters();
    assert!(parameters.eight_bit && parameters.smtputf8);
}

#[test]
fn a_report_is_internationalised_only_when_it_has_to_be_and_can_be_read() {
    let kind = |sender: &str, smtputf8, mailbox: &str, original: &str, content: &str| {
        let envelope = envelope(sender, Return::Full, smtputf8, &[(mailbox, 0, original)]);
        let notification = report(&envelope, content.as_bytes(), &unknown_user(), "").unwrap();
        let fields = text(&notification).contains("report-type=\"global-delivery-status\"");
        assert_eq!(text(&notification).contains("Content-Type: message/global\r\n"), fields);
        fields
    };
    assert!(!kind("s@b.test", true, "r@c.test", "", "Subject: x\r\n\r\n8-bit: é\r\n"));
    assert!(kind("s@b.test", true, "é@c.test", "", ""));
    assert!(kind("s@b.test", true, "r@c.test", "utf-8;\\x{E9}@c.test", ""));
    assert!(kind("s@b.test", true, "r@c.test", "", "Subject: é\r\n\r\n"));
    assert!(kind("é@b.test", false, "r@c.test", "", ""));
    assert!(!kind("s@b.test", false, "r@c.test", "", "Subject: é\r\n\r\n"), "the sender could not read it");
}

#[test]
fn success_is_told_to_who_asked_with_headers_alone_and_no_advice() {
    let to = [("r@there.test", Notify::SUCCESS, ""), ("silent@there.test", 0, "")];
    let envelope = envelope("s@b.test", Return::Full, false, &to);
    let taken = Reply::new(250, Enhanced(2, 6, 0), "queued as 7");
    for (fate, action) in [(Fate::Relayed, "relayed"), (Fate::Delivered, "delivered")] {
        let told = report_of(fate, &envelope, CONTENT, &taken, "").unwrap();
        let body = text(&told);
        for line in [
            &format!("Action: {action}"),
            "Status: 2.6.0",
            "Diagnostic-Code: smtp; 250 2.6.0 queued as 7",
            "Subject: Delivered mail: the report you asked for",
        ] {
            assert!(body.split("\r\n").any(|have| have == line), "{line} is missing in\n{body}");
        }
        assert!(
            !body.contains("silent@") && !body.contains("secret") && !body.contains("Will-Retry"),
            "{body}"
        );
        assert_eq!(told.covered, 2);
    }
    let unasked = super::tests::envelope("s@b.test", Return::Full, false, &to[1..]);
    assert_eq!(report_of(Fate::Relayed, &unasked, CONTENT, &taken, ""), None);
}

#[test]
fn a_delay_says_until_when_it_is_tried_and_what_stood_in_the_way() {
    let to =
        [("r@there.test", 0, ""), ("d@there.test", Notify::DELAY, ""), ("f@there.test", Notify::FAILURE, "")];
    let envelope = envelope("s@b.test", Return::Full, false, &to);
    let until = WallTime(784_987_151_000);
    let busy = Reply::new(552, Enhanced(5, 2, 2), "mailbox full");
    let body = report_of(Fate::Delayed { until }, &envelope, CONTENT, &busy, "mx.there.test").unwrap().body;
    let body = String::from_utf8(body).unwrap();
    for (line, count) in [
        ("Action: delayed", 2),
        ("Status: 4.0.0", 2),
        ("Will-Retry-Until: Wed, 16 Nov 1994 11:59:11 +0000", 2),
        ("    It will be tried until Wed, 16 Nov 1994 11:59:11 +0000.", 2),
        ("      552 5.2.2 mailbox full", 2),
        ("Subject: Delayed mail: still being tried", 1),
    ] {
        assert_eq!(body.split("\r\n").filter(|have| *have == line).count(), count, "{line} in\n{body}");
    }
    assert!(!body.contains("f@there.test") && !body.contains("secret"), "{body}");
}

#[test]
fn many_recipients_are_covered_by_several_notifications() {
    let mailboxes: Vec<_> = (0..1000).map(|i| format!("u{i}@{}.test", "x".repeat(20))).collect();
    let recipients: Vec<_> = mailboxes.iter().map(|mailbox| (mailbox.as_str(), 0, "")).collect();
    let envelope = envelope("s@b.test", Return::Unspecified, false, &recipients);
    let original =
        Original { id: MessageId::from_u64(1), envelope: &envelope, content: CONTENT, is_whole: true };
    let reply = Reply::new(550, Enhanced(5, 1, 1), &"word ".repeat(60));
    let failed: Vec<_> = envelope
        .recipients()
        .map(|recipient| Reported { recipient, fate: Fate::Failed, reply: Some(&reply), remote: "mx.test" })
        .collect();
    let reporter = Reporter {
        host: "relay.test",
        to: envelope.sender(),
        id: MessageId::from_u64(2),
        now: WallTime(0),
        expires_at: WallTime(0),
    };
    let (mut rest, mut told) = (failed.as_slice(), 0);
    while !rest.is_empty() {
        let notification = notification(&original, Topic::Failure, rest, &reporter).unwrap();
        assert!(notification.covered > 10 && notification.body.len() <= BODY_INLINE_BYTES_MAX);
        told += text(&notification).matches("Final-Recipient: ").count();
        rest = &rest[notification.covered..];
    }
    assert_eq!(told, 1000);
}

#[test]
fn an_original_cannot_forge_parts_of_the_report() {
    let envelope = envelope("s@b.test", Return::Full, false, &[("r@there.test", 0, "")]);
    let id = MessageId::new(PartId(1), 8);
    let forged = format!("Subject: x\r\n\r\n--=_{id}_0\r\nContent-Type: text/html\r\n\r\nforged\r\n");
    let notification = report(&envelope, forged.as_bytes(), &unknown_user(), "").unwrap();
    assert!(text(&notification).contains(&format!("boundary=\"=_{id}_1\"")), "{}", text(&notification));
}

proptest! {
    #[test]
    fn no_text_of_others_adds_a_line(said in any::<String>(), remote in "[ -~\r\n\u{85}\u{2028}]{0,40}", filler in 0usize..70_000) {
        let envelope = envelope("s@b.test", Return::Full, false, &[("r@there.test", 0, "rfc822;+0D+0AInjected:+20x")]);
        let mut content = CONTENT.to_vec();
        content.extend("y".repeat(70).repeat(filler / 70).as_bytes());
        let reply = Reply { code: 550, enhanced: Enhanced(5, 1, 1), text: said.into() };
        let dirty = report(&envelope, &content, &reply, &format!("x{remote}")).unwrap();
        let clean = report(&envelope, &content, &Reply { text: "".into(), ..reply.clone() }, "x").unwrap();
        prop_assert!(dirty.body.len() <= BODY_INLINE_BYTES_MAX);
        let lines = |n: &Notification| n.body.iter().filter(|b| **b == b'\n').count();
        let shrunk = dirty.body.len() + 4096 > BODY_INLINE_BYTES_MAX || clean.body.len() + 4096 > BODY_INLINE_BYTES_MAX;
        prop_assert!(shrunk || lines(&dirty) == lines(&clean));
        prop_assert!(!dirty.body.windows(11).any(|w| w == b"\nInjected: "));
        for line in dirty.body.split(|b| *b == b'\n').take(60) {
            prop_assert!(!line.strip_suffix(b"\r").unwrap_or(line).contains(&b'\r'));
        }
    }
}

const READER: &str = r#"
import email, email.policy, sys
m = email.message_from_bytes(sys.stdin.buffer.read(), policy=email.policy.default)
defects = [str(d) for p in m.walk() for d in p.defects]
print("type", m.get_content_type(), m.get_param("report-type"))
print("parts", *[p.get_content_type() for p in m.iter_parts()])
status = list(m.iter_parts())[1]
for block in status.get_payload():
    print("block", "; ".join(f"{k}={v}" for k, v in block.items()))
print("text", "r@there.test" in list(m.iter_parts())[0].get_content())
print("date", m["Date"].datetime.isoformat(), "id", m["Message-ID"])
print("to", m["To"].addresses[0].addr_spec, "defects", defects)
returned = list(m.iter_parts())[2].get_payload()
print("subject", returned[0]["Subject"] if isinstance(returned, list) else returned.splitlines()[1])
"#;

fn read_by_python(body: &[u8]) -> Option<String> {
    let child =
        Command::new("python3").args(["-c", READER]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) => {
            let _ =
                writeln!(std::io::stderr(), "SKIP: python3 cannot be run to read a notification: {error}");
            return None;
        }
    };
    child.stdin.take().unwrap().write_all(body).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "python3 could not read\n{}", String::from_utf8_lossy(body));
    Some(String::from_utf8(output.stdout).unwrap())
}

#[test]
fn python_reads_reports_in_other_alphabets_and_of_other_fates() {
    let to = [("ü@there.test", Notify::SUCCESS | Notify::DELAY, "utf-8;\\x{F6}@there.test")];
    let global = envelope("é@b.test", Return::Full, true, &to);
    let taken = Reply::new(250, Enhanced(2, 0, 0), "bien reçu");
    let later = Reply::new(451, Enhanced(4, 2, 0), "à demain");
    let until = WallTime(784_987_151_000);
    for (fate, said, want) in [
        (Fate::Relayed, &taken, "Action=relayed; Status=2.0.0; Diagnostic-Code=smtp; 250 2.0.0 bien reçu\n"),
        (
            Fate::Delayed { until },
            &later,
            "Action=delayed; Status=4.2.0; Diagnostic-Code=smtp; 451 4.2.0 à demain; \
             Will-Retry-Until=Wed, 16 Nov 1994 11:59:11 +0000\n",
        ),
    ] {
        let body = report_of(fate, &global, CONTENT, said, "").unwrap().body;
        let Some(read) = read_by_python(&body) else { return };
        assert!(read.starts_with("type multipart/report global-delivery-status\n"), "{read}");
        assert!(
            read.contains("parts text/plain message/global-delivery-status message/global-headers\n"),
            "{read}"
        );
        assert!(read.contains("defects []"), "{read}");
        let text = String::from_utf8(body).unwrap();
        let fields = text.split("\r\n\r\nOriginal-Recipient: ").nth(1).unwrap().split("\r\n\r\n").next();
        let fields = fields.unwrap().split("\r\n").take_while(|line| !line.starts_with("--"));
        let fields: Vec<_> =
            fields.filter(|line| !line.is_empty()).map(|line| line.replacen(": ", "=", 1)).collect();
        let fields = format!("{}\n", fields.join("; "));
        assert_eq!(fields, format!("utf-8; ö@there.test; Final-Recipient=utf-8; ü@there.test; {want}"));
    }
}

#[test]
fn python_reads_the_structure_and_every_field() {
    for (ret, returned, subject) in [
        (Return::Full, "message/rfc822", "hello"),
        (Return::Headers, "text/rfc822-headers", "Subject: hello"),
    ] {
        let envelope = envelope("s@sender.test", ret, false, &[("r@there.test", 0, "rfc822;o@there.test")]);
        let notification = report(&envelope, CONTENT, &unknown_user(), "mx.there.test").unwrap();
        let Some(read) = read_by_python(&notification.body) else { return };
        let id = MessageId::new(PartId(1), 8);
        let original = MessageId::new(PartId(1), 7);
        let want = format!(
            "type multipart/report delivery-status\n\
             parts text/plain message/delivery-status {returned}\n\
             block Original-Envelope-Id=QQ+1; Reporting-MTA=dns; relay.test; X-Ringpost-Message-Id={original}; \
             Arrival-Date=Tue, 15 Nov 1994 08:12:31 +0000\n\
             block Original-Recipient=rfc822; o@there.test; Final-Recipient=rfc822; r@there.test; Action=failed; \
             Status=5.1.1; Remote-MTA=dns; mx.there.test; Diagnostic-Code=smtp; 550 5.1.1 no such user\n\
             text True\n\
             date 1994-11-15T08:12:32+00:00 id <{id}@relay.test>\n\
             to s@sender.test defects []\n\
             subject {subject}\n"
        );
        assert_eq!(read, want);
    }
}
