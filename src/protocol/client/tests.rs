//! Scripts: what the remote says, what the client sends, what it reports. Each runs with the remote's bytes whole and
//! one by one.

use super::*;
use crate::envelope::{Content, Notify};
use crate::protocol::sasl::prove::Credentials;

const ALL: &str = "220 hi\r\n|250-mx\r\n250-PIPELINING\r\n250-CHUNKING\r\n250 SIZE 1000\r\n";
const PLAIN: &str = "220 hi\r\n|250 mx\r\n";
const PIPED: &str = "220 hi\r\n|250-mx\r\n250 PIPELINING\r\n";

/// Plays `script`: pieces of the remote's bytes, split at `|`, the client's output being taken away between them.
/// A transaction to `recipients` begins as soon as may be, `count` times; its body is `.x`. Returns what was sent and
/// what was reported, or the error.
struct Play<'a> {
    script: &'a str,
    recipients: &'a [&'a str],
    count: u64,
    body_ready: bool,
    quit: bool,
    lmtp: bool,
}

impl Play<'_> {
    fn run(&self, step: usize) -> (String, Vec<String>) {
        let options = Options { ehlo_name: "me.test".into(), body_with_envelope: true };
        let (mut client, mut sent, mut log) = (Client::new(options), String::new(), Vec::new());
        if self.lmtp {
            client = client.with_lmtp();
        }
        let mut next = 0;
        for piece in self.script.split('|') {
            for bytes in piece.as_bytes().chunks(step) {
                if let Err(error) = client.handle(bytes) {
                    log.push(error.to_string());
                    client.lost(Loss::GivenUp, "misbehaved");
                }
                self.drive(&mut client, &mut next, &mut log);
            }
            sent.push_str(std::str::from_utf8(client.output()).unwrap());
            client.output().clear();
        }
        (sent, log)
    }

    fn drive(&self, client: &mut Client, next: &mut u64, log: &mut Vec<String>) {
        loop {
            if client.can_begin() && *next < self.count {
                let transaction = Transaction {
                    sender: "s@b.test",
                    parameters: Parameters::default(),
                    envid: None,
                    secured: Ok(()),
                    size: 2,
                    body_ready: self.body_ready,
                };
                let recipient =
                    |mailbox| Recipient { index: 0, mailbox, notify: Notify::DEFAULT, original: "" };
                client.begin(*next, transaction, (0..).zip(self.recipients.iter().copied().map(recipient)));
                *next += 1;
            } else if self.quit && *next == self.count {
                client.quit();
            }
            let Some(event) = client.poll_event() else { return };
            if let Event::BodyWanted { tag } = event {
                client.body_piece(tag, b".x", true);
                continue;
            }
            log.push(told(&event));
        }
    }
}

fn told(event: &Event) -> String {
    match event {
        Event::Finished { tag, results, untried, in_doubt } => {
            let results =
                results.iter().map(|r| format!(" {:?}:{:b}:{}", r.verdict, r.recipients, r.reply.code));
            let mut line = format!("{tag}{}", results.collect::<String>());
            if *untried != 0 {
                line += &format!(" untried:{untried:b}");
            }
            if *in_doubt != 0 {
                line += &format!(" in doubt:{in_doubt:b}");
            }
            line
        }
        Event::Closing(reply) => format!("closing {}", reply.code),
        Event::Refused { stage, reply } => format!("refused {stage:?} {}", reply.code),
        other => format!("{other:?}"),
    }
}

fn check(play: &Play<'_>, sent: &str, log: &[&str]) {
    for step in [1, 3, 10_000] {
        let (got_sent, got_log) = play.run(step);
        assert_eq!(got_log, log, "{} step {step}\nsent {got_sent}", play.script);
        let got_sent = got_sent.replace("\r\n", " / ");
        assert_eq!(got_sent.trim_end_matches(" / "), sent, "{} step {step}", play.script);
    }
}

fn one<'a>(script: &'a str, recipients: &'a [&'a str]) -> Play<'a> {
    Play { script, recipients, count: 1, body_ready: false, quit: false, lmtp: false }
}

#[test]
fn sessions_open_or_are_refused_before_anything_is_attempted() {
    let none: &[&str] = &[];
    let open = |script| Play { count: 0, ..one(script, none) };
    check(&open(ALL), "EHLO me.test", &["Ready"]);
    check(&open("220 hi\r\n|502 what\r\n|250 ok\r\n"), "EHLO me.test / HELO me.test", &["Ready"]);
    check(&open("220 hi\r\n|502 what\r\n|550 no\r\n"), "EHLO me.test / HELO me.test", &["refused Ehlo 550"]);
    check(&open("220 hi\r\n|451 later\r\n"), "EHLO me.test", &["refused Ehlo 451"]);
    check(&open("220 hi\r\n|421 later\r\n"), "EHLO me.test", &["refused Ehlo 421"]);
    check(&open("554 no\r\n"), "", &["refused Banner 554"]);
    check(&open("421 busy\r\n"), "", &["refused Banner 421"]);
    check(&open("421-busy\r\n421 really\r\nmore"), "", &["refused Banner 421"]);
    check(&open("250 hi\r\n"), "", &["remote answered Banner with code 250: out of step"]);
    check(&open("220 hi\r\n|250 mx\r\n|421 idle\r\n"), "EHLO me.test", &["Ready", "closing 421"]);
    let quit = Play { quit: true, ..open("220 hi\r\n|250 mx\r\n|221 bye\r\n") };
    check(&quit, "EHLO me.test / QUIT", &["Ready", "Closed"]);
}

#[test]
fn envelope_goes_out_in_one_write_with_pipelining_and_bit_by_bit_without() {
    let envelope = "MAIL FROM:<s@b.test> / RCPT TO:<a@b> / RCPT TO:<b@b> / DATA / ..x / .";
    let sent = format!("EHLO me.test / {envelope}");
    let piped = format!("{PIPED}|250 m\r\n250 r\r\n550 5.1.1 r\r\n354 go\r\n|250 done\r\n");
    check(&one(&piped, &["a@b", "b@b"]), &sent, &["Ready", "0 Failed:10:550 Delivered:1:250"]);
    let plain = format!("{PLAIN}|250 m\r\n|250 r\r\n|452 r\r\n|354 go\r\n|250 done\r\n");
    check(&one(&plain, &["a@b", "b@b"]), &sent, &["Ready", "0 Deferred:10:452 Delivered:1:250"]);
}

#[test]
fn ready_body_goes_with_its_envelope_where_the_remote_chunks() {
    let script = format!("{ALL}|250 m\r\n250 r\r\n250 done\r\n");
    let play = Play { body_ready: true, ..one(&script, &["a@b"]) };
    check(
        &play,
        "EHLO me.test / MAIL FROM:<s@b.test> SIZE=2 / RCPT TO:<a@b> / BDAT 2 LAST / .x",
        &["Ready", "0 Delivered:1:250"],
    );
    let script = format!("{ALL}|250 m\r\n550 r\r\n503 no\r\n|250 reset\r\n");
    let play = Play { body_ready: true, ..one(&script, &["a@b"]) };
    check(
        &play,
        "EHLO me.test / MAIL FROM:<s@b.test> SIZE=2 / RCPT TO:<a@b> / BDAT 2 LAST / .xRSET",
        &["Ready", "0 Failed:1:550"],
    );
}

#[test]
fn refusals_hold_for_whom_they_concern() {
    let envelope = "EHLO me.test / MAIL FROM:<s@b.test> / RCPT TO:<a@b> / RCPT TO:<b@b> / DATA";
    let to = &["a@b", "b@b"];
    for (replies, more, log) in [
        ("550 m\r\n503 r\r\n503 r\r\n503 d\r\n", "", "0 Failed:11:550"),
        ("450 m\r\n503 r\r\n503 r\r\n503 d\r\n", "", "0 Deferred:11:450"),
        ("550 m\r\n503 r\r\n503 r\r\n354 d\r\n|250 void\r\n", " / .", "0 Failed:11:550"),
        ("250 m\r\n550 r\r\n551 r\r\n354 d\r\n|554 void\r\n", " / .", "0 Failed:1:550 Failed:10:551"),
        ("250 m\r\n550 r\r\n550 r\r\n554 d\r\n|250 reset\r\n", " / RSET", "0 Failed:11:550"),
        ("250 m\r\n552 r\r\n250 r\r\n451 d\r\n|250 reset\r\n", " / RSET", "0 Deferred:1:552 Deferred:10:451"),
        ("250 m\r\n250 r\r\n251 r\r\n354 d\r\n|552 full\r\n", " / ..x / .", "0 Failed:11:552"),
        ("250 m\r\n250 r\r\n250 r\r\n354 d\r\n|250 yes\r\n", " / ..x / .", "0 Delivered:11:250"),
    ] {
        let script = format!("{PIPED}|{replies}");
        check(&one(&script, to), &format!("{envelope}{more}"), &["Ready", log]);
    }
}

#[test]
fn without_pipelining_nothing_is_sent_in_vain() {
    let script = format!("{PLAIN}|550 m\r\n");
    check(
        &one(&script, &["a@b", "b@b"]),
        "EHLO me.test / MAIL FROM:<s@b.test>",
        &["Ready", "0 Failed:11:550"],
    );
    let script = format!("{PLAIN}|250 m\r\n|550 r\r\n|450 r\r\n|250 reset\r\n");
    check(
        &one(&script, &["a@b", "b@b"]),
        "EHLO me.test / MAIL FROM:<s@b.test> / RCPT TO:<a@b> / RCPT TO:<b@b> / RSET",
        &["Ready", "0 Failed:1:550 Deferred:10:450"],
    );
}

#[test]
fn next_envelope_follows_the_final_dot() {
    let first = "MAIL FROM:<s@b.test> / RCPT TO:<a@b> / DATA / ..x / .";
    let script = format!(
        "{PIPED}|250 m\r\n250 r\r\n354 d\r\n|250 yes\r\n250 m\r\n250 r\r\n354 d\r\n|250 yes\r\n|221 bye\r\n"
    );
    let play = Play { count: 2, quit: true, ..one(&script, &["a@b"]) };
    let sent = format!("EHLO me.test / {first} / {first} / QUIT");
    check(&play, &sent, &["Ready", "0 Delivered:1:250", "1 Delivered:1:250", "Closed"]);
}

#[test]
fn reset_keeps_recipients_of_refused_chunks_out_of_the_next_transaction() {
    let script = format!("{ALL}|250 m\r\n250 r\r\n451 no\r\n250 reset\r\n250 m\r\n250 r\r\n250 yes\r\n");
    let play = Play { count: 2, body_ready: true, ..one(&script, &["a@b"]) };
    let (sent, log) = play.run(10_000);
    assert!(sent.contains("BDAT 2 LAST\r\n.xRSET\r\nMAIL"), "{sent}");
    assert_eq!(log, ["Ready", "0 Deferred:1:451", "1 Delivered:1:250"]);
}

#[test]
fn closing_defers_what_had_begun_and_hands_back_the_rest() {
    let envelope = "EHLO me.test / MAIL FROM:<s@b.test> / RCPT TO:<a@b> / RCPT TO:<b@b> / DATA";
    let to = &["a@b", "b@b"];
    let script = format!("{PIPED}|421 later\r\n");
    check(&one(&script, to), envelope, &["Ready", "0 Deferred:11:421", "closing 421"]);
    let script = format!("{PIPED}|250 m\r\n550 r\r\n421 r\r\n");
    check(&one(&script, to), envelope, &["Ready", "0 Failed:1:550 Deferred:10:421", "closing 421"]);
    let script = format!("{PIPED}|250 m\r\n250 r\r\n250 r\r\n354 d\r\n|421 no\r\n");
    let play = Play { count: 2, ..one(&script, to) };
    let (_, log) = play.run(1);
    assert_eq!(log, ["Ready", "0 Deferred:11:421", "1 untried:11", "closing 421"]);
    // The remote closed while the connection was idle, and MAIL crossed that.
    let script = format!("{PIPED}|250 m\r\n250 r\r\n250 r\r\n354 d\r\n|250 yes\r\n421 idle\r\n");
    let play = Play { count: 2, ..one(&script, to) };
    let (_, log) = play.run(1);
    assert_eq!(log, ["Ready", "0 Delivered:11:250", "1 untried:11", "closing 421"]);
}

#[test]
fn a_421_in_the_place_of_any_reply_fails_nobody_and_delivers_what_was_taken_before_it() {
    let dialogues = [
        (PIPED, &["250 m", "250 r", "250 r", "354 d", "250 yes"][..], false),
        (PLAIN, &["250 m", "250 r", "250 r", "354 d", "250 yes"], false),
        (ALL, &["250 m", "250 r", "250 r", "250 yes"], true),
    ];
    for (opening, replies, body_ready) in dialogues {
        for at in 0..2 * replies.len() {
            // Two transactions, and the remote goes away over reply `at`.
            let all: Vec<&str> = [replies, replies].concat();
            let script =
                format!("{opening}|{}\r\n|421 4.3.2 going", all[..at].join("\r\n|")).replace("|\r\n|", "|");
            let script = script + "\r\n";
            let play = Play { count: 2, body_ready, ..one(&script, &["a@b", "b@b"]) };
            let (_, log) = play.run(10_000);
            let taken = at / replies.len();
            assert_eq!(log.first().map(String::as_str), Some("Ready"), "{script}");
            assert_eq!(log.last().map(String::as_str), Some("closing 421"), "{script}\n{log:?}");
            for (nth, line) in log[1..log.len() - 1].iter().enumerate() {
                let is_delivered = *line == format!("{nth} Delivered:11:250");
                let goes_again =
                    *line == format!("{nth} Deferred:11:421") || *line == format!("{nth} untried:11");
                assert!(if nth < taken { is_delivered } else { goes_again }, "{script}\n{log:?}");
            }
        }
    }
}

#[test]
fn replies_that_nobody_asked_for_are_misbehaviour() {
    let unasked = "remote sent a reply that nobody asked for";
    for (script, log) in [
        ("220 hi\r\n|250 mx\r\n|250 more\r\n", &["Ready", unasked][..]),
        ("220 hi\r\n|250 mx\r\n|2", &["Ready", unasked]),
        ("220 hi\r\n|250 mx\r\n|junk", &["Ready", unasked]),
    ] {
        let play = Play { count: 0, ..one(script, &[]) };
        check(&play, "EHLO me.test", log);
    }
    // Whole: the answer to EHLO came before EHLO was sent.
    let early = Play { count: 0, ..one("220 hi\r\n250 mx\r\n", &[]) };
    assert_eq!(early.run(10_000).1, [unasked]);
}

#[test]
fn answers_that_a_command_cannot_have_are_misbehaviour() {
    for (replies, stage, rest) in [
        ("354 m\r\n", "Mail with code 354", "0 Deferred:1:0"),
        ("250 m\r\n354 r\r\n", "Rcpt with code 354", "0 Deferred:1:0"),
        ("250 m\r\n250 r\r\n250 d\r\n", "Data with code 250", "0 Deferred:1:0"),
        ("550 m\r\n250 r\r\n", "Rcpt with code 250", "0 Failed:1:550"),
    ] {
        let script = format!("{PIPED}|{replies}");
        let error = format!("remote answered {stage}: out of step");
        let (_, log) = one(&script, &["a@b"]).run(1);
        assert_eq!(log, ["Ready", &error, rest], "{replies}");
    }
}

fn opened(script: &str) -> Client {
    let mut client = Client::new(Options { ehlo_name: "me.test".into(), body_with_envelope: true });
    for piece in script.split('|') {
        client.handle(piece.as_bytes()).unwrap();
        client.output().clear();
    }
    assert_eq!(client.poll_event(), Some(Event::Ready));
    client
}

fn begin(client: &mut Client, sender: &str, size: u64, mailboxes: &[&str]) {
    let parameters = Parameters { eight_bit: true, smtputf8: true, ..Parameters::default() };
    begin_with(client, parameters, sender, size, mailboxes);
}

/// A transaction of `s@b`, whose body is not there yet, and its one recipient.
fn plain(parameters: Parameters, size: u64) -> (Transaction<'static>, Recipient<'static>) {
    let transaction =
        Transaction { sender: "s@b", parameters, envid: None, secured: Ok(()), size, body_ready: false };
    (transaction, Recipient { index: 0, mailbox: "a@b", notify: Notify::DEFAULT, original: "" })
}

fn begin_with(client: &mut Client, parameters: Parameters, sender: &str, size: u64, mailboxes: &[&str]) {
    let transaction =
        Transaction { sender, parameters, envid: None, secured: Ok(()), size, body_ready: false };
    let recipient = |mailbox| Recipient { index: 0, mailbox, notify: Notify::DEFAULT, original: "" };
    client.begin(9, transaction, (0..).zip(mailboxes.iter().copied().map(recipient)));
}

#[test]
fn what_cannot_be_sent_fails_without_a_word_to_the_remote() {
    for (sender, size, mailbox, enhanced) in [
        ("s@b", 1001, "a@b", Enhanced(5, 3, 4)),
        ("é@b", 10, "a@b", Enhanced(5, 6, 7)),
        ("s@b", 10, "é@b", Enhanced(5, 6, 7)),
        ("s>@b", 10, "a@b", Enhanced(5, 1, 7)),
        ("s@b", 10, "a@b>\r\nRCPT TO:<c@d", Enhanced(5, 1, 3)),
        ("s@b", 10, "", Enhanced(5, 1, 3)),
    ] {
        let mut client = opened(ALL);
        begin(&mut client, sender, size, &[mailbox]);
        let Some(Event::Finished { results, .. }) = client.poll_event() else {
            panic!("{mailbox}: not finished")
        };
        assert_eq!((results[0].verdict, results[0].recipients), (Verdict::Failed, 1));
        assert_eq!(results[0].reply.enhanced, enhanced, "{mailbox:?}");
        assert!(client.output().is_empty() && client.is_idle() && client.can_begin());
    }
}

#[test]
fn a_message_goes_only_where_its_octets_are_offered_a_way() {
    let wide = Content { eight_bit: true, eight_bit_header: false };
    let wide_header = Content { eight_bit: true, eight_bit_header: true };
    let with = |eight_bit, smtputf8, binary, content| Parameters {
        eight_bit,
        smtputf8,
        binary,
        content,
        ..Parameters::default()
    };
    let plain = Content::default();
    for (parameters, offers, want) in [
        // Declared and not needed: no reason to fail.
        (with(true, true, false, plain), "PIPELINING", Ok("MAIL FROM:<s@b>\r\nRCPT TO:<a@b>\r\nDATA\r\n")),
        (with(true, false, false, wide), "PIPELINING", Err(Enhanced(5, 6, 3))),
        (with(true, false, false, wide), "8BITMIME", Ok("MAIL FROM:<s@b> BODY=8BITMIME\r\n")),
        // Not declared: nobody asked for a promise.
        (with(false, false, false, wide), "X", Ok("MAIL FROM:<s@b>\r\n")),
        (with(true, true, false, wide_header), "8BITMIME", Err(Enhanced(5, 6, 7))),
        (with(true, true, false, wide), "8BITMIME", Ok("MAIL FROM:<s@b> BODY=8BITMIME\r\n")),
        (
            with(false, false, true, wide),
            "8BITMIME\r\n250-PIPELINING\r\n250 CHUNKING",
            Err(Enhanced(5, 6, 3)),
        ),
        (with(false, false, true, wide), "BINARYMIME\r\n250 PIPELINING", Err(Enhanced(5, 6, 3))),
        (
            with(false, false, true, wide),
            "BINARYMIME\r\n250-PIPELINING\r\n250 CHUNKING",
            Ok("MAIL FROM:<s@b> BODY=BINARYMIME\r\nRCPT TO:<a@b>\r\n"),
        ),
    ] {
        let offers = if offers.contains('\r') { format!("250-{offers}") } else { format!("250 {offers}") };
        let mut client = opened(&format!("220 hi\r\n|250-mx\r\n{offers}\r\n"));
        begin_with(&mut client, parameters, "s@b", 10, &["a@b"]);
        let said = String::from_utf8(client.output().clone()).unwrap();
        match (want, client.poll_event()) {
            (Ok(want), None) => assert_eq!(said, want, "{offers}"),
            (Ok(want), Some(Event::BodyWanted { tag: 9 })) => {
                assert_eq!(said, want, "{offers}");
                client.output().clear();
                client.body_piece(9, b"a\n.\0", false);
                client.body_piece(9, b"\r\xff", true);
                assert_eq!(client.output().as_slice(), b"BDAT 4\r\na\n.\0BDAT 2 LAST\r\n\r\xff");
            }
            (Err(want), Some(Event::Finished { results, .. })) => {
                assert_eq!(results[0].reply.enhanced, want, "{offers}");
                assert!(said.is_empty(), "{offers}: {said}");
            }
            (want, event) => panic!("{offers}: {event:?} instead of {want:?}"),
        }
    }
}

#[test]
fn words_injected_behind_the_reply_to_starttls_are_never_believed() {
    for injected in ["250-evil\r\n250 8BITMIME\r\n", "2", "250 ok\r\n", "\r\n"] {
        let mut client = opened("220 hi\r\n|250-mx\r\n250 STARTTLS\r\n");
        client.start_tls();
        let said = client.handle(format!("220 go\r\n{injected}").as_bytes());
        assert!(matches!(said, Err(Misbehaved::Unasked)) || said.is_err(), "{injected:?}: {said:?}");
    }
}

#[test]
fn one_bad_recipient_does_not_spoil_the_others() {
    let mut client = opened(PIPED);
    begin(&mut client, "s@b", 10, &["é@b", "a@b"]);
    assert_eq!(client.output().as_slice(), b"MAIL FROM:<s@b>\r\nRCPT TO:<a@b>\r\nDATA\r\n");
    client.handle(b"250 m\r\n550 r\r\n554 d\r\n").unwrap();
    let Some(Event::Finished { results, .. }) = client.poll_event() else { panic!("not finished") };
    assert_eq!(results.iter().map(|result| result.recipients).collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn lost_connection_tells_doubt_from_certainty() {
    let mut client = opened(PIPED);
    begin(&mut client, "s@b", 10, &["a@b", "b@b"]);
    assert_eq!(client.waiting_for(), Stage::Mail);
    let mut early = opened(PIPED);
    begin(&mut early, "s@b", 10, &["a@b"]);
    early.lost(Loss::Closed, "reset");
    // Handed back it would go out again at once, to the same remote, for ever.
    assert_eq!(told(&early.poll_event().unwrap()), "9 Deferred:1:0");
    // A connection that has been used may have died in its sleep: not the message's fault.
    let mut used = opened(PIPED);
    begin(&mut used, "s@b", 10, &["a@b"]);
    used.handle(b"250 m\r\n550 r\r\n554 d\r\n").unwrap();
    assert_eq!(told(&used.poll_event().unwrap()), "9 Failed:1:550");
    begin(&mut used, "s@b", 10, &["a@b"]);
    used.lost(Loss::Closed, "reset");
    assert_eq!(told(&used.poll_event().unwrap()), "9 untried:1");
    client.handle(b"250 m\r\n550 r\r\n250 r\r\n354 d\r\n").unwrap();
    assert_eq!(client.poll_event(), Some(Event::BodyWanted { tag: 9 }));
    assert_eq!(client.waiting_for(), Stage::Body);
    client.body_piece(9, b"x", true);
    assert_eq!(client.waiting_for(), Stage::FinalDot);
    client.lost(Loss::Closed, "reset by peer");
    assert_eq!(told(&client.poll_event().unwrap()), "9 Failed:1:550 Deferred:10:0 in doubt:10");
    assert!(!client.can_begin() && client.poll_event().is_none());
}

#[test]
fn a_used_connection_that_closes_without_a_word_hands_back_even_what_was_sent_whole() {
    let lost = |used: bool, heard: &[u8], loss| {
        let mut client = opened(ALL);
        let (transaction, recipient) = plain(Parameters::default(), 1);
        let transaction = Transaction { body_ready: true, ..transaction };
        for nth in u64::from(!used)..2 {
            client.begin(nth, transaction, [(0, recipient)]);
            client.body_piece(nth, b"x", true);
            if nth == 0 {
                client.handle(b"250 m\r\n250 r\r\n250 yes\r\n").unwrap();
            }
        }
        client.handle(heard).unwrap();
        client.lost(loss, "gone");
        told(&std::iter::from_fn(|| client.poll_event()).last().unwrap())
    };
    assert_eq!(lost(true, b"", Loss::Closed), "1 untried:1 in doubt:1");
    // Silence is no end: the remote may be at work on it.
    assert_eq!(lost(true, b"", Loss::GivenUp), "1 Deferred:1:0 in doubt:1");
    assert_eq!(lost(true, b"250 m\r\n", Loss::Closed), "1 Deferred:1:0 in doubt:1");
    assert_eq!(lost(false, b"", Loss::Closed), "1 Deferred:1:0 in doubt:1");
}

#[test]
fn failed_chunk_stops_the_body() {
    let mut client = opened(ALL);
    let (transaction, recipient) = plain(Parameters::default(), 9);
    let transaction = Transaction { body_ready: true, ..transaction };
    client.begin(1, transaction, [(5, recipient)]);
    assert!(client.body_piece(1, b"abc", false));
    client.handle(b"250 m\r\n250 r\r\n552 full\r\n").unwrap();
    let events: Vec<_> = std::iter::from_fn(|| client.poll_event()).map(|event| told(&event)).collect();
    assert_eq!(events, ["BodyWanted { tag: 1 }", "BodyUnwanted { tag: 1 }", "1 Failed:100000:552"]);
    assert!(!client.body_piece(1, b"def", true));
    assert!(client.output().ends_with(b"BDAT 3\r\nabcRSET\r\n"));
}

#[test]
fn tls_forgets_what_was_said_in_the_clear() {
    let mut client = opened("220 hi\r\n|250-mx\r\n250-PIPELINING\r\n250 STARTTLS\r\n");
    client.start_tls();
    assert!(!client.can_begin());
    assert_eq!(client.handle(b"220 go\r\n250 injected\r\n"), Err(Misbehaved::Unasked));
    let mut client = opened("220 hi\r\n|250-mx\r\n250-PIPELINING\r\n250 STARTTLS\r\n");
    client.start_tls();
    client.handle(b"220 go\r\n").unwrap();
    assert_eq!(client.poll_event(), Some(Event::TlsWanted));
    assert_eq!(client.waiting_for(), Stage::StartTls);
    client.tls_established();
    assert_eq!(client.output().as_slice(), b"STARTTLS\r\nEHLO me.test\r\n");
    client.handle(b"250-mx\r\n250 SIZE\r\n").unwrap();
    assert_eq!(*client.capabilities(), Capabilities { size: Some(0), ..Capabilities::default() });
}

#[test]
fn a_message_that_requires_tls_goes_to_none_but_a_secured_remote_that_promises_the_same() {
    let begun = |sender, offer: &str, secured| {
        let mut client = opened(&format!("220 hi\r\n|250-mx\r\n250 {offer}\r\n"));
        let parameters = Parameters { require_tls: true, ..Parameters::default() };
        let (transaction, recipient) = plain(parameters, 1);
        let transaction = Transaction { sender, secured, ..transaction };
        client.begin(9, transaction, [(0, recipient)]);
        let said = String::from_utf8_lossy(client.output()).into_owned();
        let failed = client.poll_event().map(|event| match event {
            Event::Finished { results, .. } => (results[0].verdict, results[0].reply.enhanced),
            other => panic!("{other:?}"),
        });
        (said, failed)
    };
    let failed = |detail| Some((Verdict::Failed, Enhanced(5, 7, detail)));
    let unsafe_way = Err("the remote's certificate is not to be trusted");
    assert_eq!(begun("s@b", "REQUIRETLS", Ok(())), ("MAIL FROM:<s@b> REQUIRETLS\r\n".to_owned(), None));
    assert_eq!(begun("s@b", "SIZE", Ok(())), (String::new(), failed(30)));
    assert_eq!(begun("s@b", "REQUIRETLS", unsafe_way), (String::new(), failed(10)));
    // Who sent the message will hear what became of it.
    assert_eq!(begun("", "REQUIRETLS", unsafe_way), ("MAIL FROM:<>\r\n".to_owned(), None));
    assert_eq!(begun("", "X", Ok(())), ("MAIL FROM:<>\r\n".to_owned(), None));
}

#[test]
fn recipients_beyond_the_remotes_limit_are_handed_back_for_the_next_transaction() {
    let mut client = opened("220 hi\r\n|250-mx\r\n250-PIPELINING\r\n250 LIMITS RCPTMAX=2\r\n");
    begin(&mut client, "s@b", 10, &["a@b", "b@b>", "c@b", "d@b", "e@b"]);
    let said = String::from_utf8_lossy(client.output()).into_owned();
    assert_eq!(said, "MAIL FROM:<s@b>\r\nRCPT TO:<a@b>\r\nRCPT TO:<c@b>\r\nDATA\r\n");
    client.handle(b"250 m\r\n250 r\r\n250 r\r\n354 d\r\n").unwrap();
    assert_eq!(client.poll_event(), Some(Event::BodyWanted { tag: 9 }));
    client.body_piece(9, b"x", true);
    client.handle(b"250 yes\r\n").unwrap();
    assert_eq!(told(&client.poll_event().unwrap()), "9 Failed:10:0 Delivered:101:250 untried:11000");
}

/// Logs in at a remote that says `replies`, one to each line; gives our lines and what came of it.
fn logged_in(offer: &str, replies: &[&str]) -> (Vec<String>, String) {
    let mut client = opened(&format!("220 hi\r\n|250-mx\r\n250 AUTH {offer}\r\n"));
    client.log_in(&Credentials { user: "tim".into(), password: b"tanstaaf"[..].into() }, &[0; 18]);
    let mut said = Vec::new();
    for reply in replies {
        said.push(String::from_utf8(std::mem::take(client.output())).unwrap().trim_end().to_owned());
        client.handle(format!("{reply}\r\n").as_bytes()).unwrap();
    }
    assert!(client.output().is_empty(), "more was said than is told here");
    let event = client.poll_event().map(|event| match event {
        Event::LoginRefused(reply) => format!("refused {} {}", reply.code, reply.text),
        other => told(&other),
    });
    (said, event.unwrap_or_default())
}

#[test]
fn a_login_takes_the_strongest_mechanism_that_both_know() {
    let check = |offer: &str, replies: &[&str], said: &[&str], want: &str| {
        let (got, event) = logged_in(offer, replies);
        assert_eq!(got, said, "{offer}");
        assert!(event.starts_with(want), "{offer}: {event}");
    };
    let plain = "AUTH PLAIN AHRpbQB0YW5zdGFhZg==";
    check("LOGIN PLAIN CRAM-MD5", &["235 2.7.0 yes"], &[plain], "LoggedIn");
    check("plain", &["535 5.7.8 no"], &[plain], "refused 535 no");
    check("GSSAPI", &[], &[], "refused 0 the remote does not let us log in: it offers none");
    let login = ["AUTH LOGIN", "dGlt", "dGFuc3RhYWY="];
    check("LOGIN", &["334 VXNlcm5hbWU6", "334 UGFzc3dvcmQ6", "235 yes"], &login, "LoggedIn");
    // A yes before the password was asked for is none.
    check("LOGIN", &["334 VXNlcm5hbWU6", "235 yes"], &login[..2], "refused 0");
    check("LOGIN", &["334 ***"], &login[..1], "refused 0");
}

#[test]
fn scram_that_cannot_be_had_gives_way_to_the_next_and_a_remote_without_proof_is_not_believed() {
    let scram = "AUTH SCRAM-SHA-256 biwsbj10aW0scj1BQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE=";
    let plain = "AUTH PLAIN AHRpbQB0YW5zdGFhZg==";
    let (said, event) = logged_in("PLAIN SCRAM-SHA-256", &["535 5.7.8 no", "235 yes"]);
    assert_eq!((said, event.as_str()), (vec![scram.to_owned(), plain.to_owned()], "LoggedIn"));
    let (said, event) = logged_in("PLAIN SCRAM-SHA-256", &["235 yes"]);
    assert_eq!(said, [scram]);
    assert!(event.contains("did not prove"), "{event}");
    // Wrong is wrong: no second try with the same password.
    let (said, event) = logged_in("PLAIN LOGIN", &["535 5.7.8 no"]);
    assert_eq!((said, event.as_str()), (vec![plain.to_owned()], "refused 535 no"));
    let (said, _) = logged_in("PLAIN LOGIN", &["504 5.5.4 unknown", "535 no"]);
    assert_eq!(said, [plain, "AUTH LOGIN"]);
}

#[test]
fn a_remote_that_closes_behind_its_offer_of_tls_ends_the_session_only() {
    let mut client = opened("220 hi\r\n|250-mx\r\n250 STARTTLS\r\n");
    client.start_tls();
    client.handle(b"220 go\r\n421 bye\r\n").unwrap();
    assert_eq!(client.poll_event(), Some(Event::TlsWanted));
    client.tls_established();
    assert!(matches!(client.poll_event(), Some(Event::Closing(_))) && client.is_idle());

    let mut client = opened("220 hi\r\n|250-mx\r\n250 STARTTLS\r\n421 bye\r\n");
    client.output().clear();
    client.start_tls();
    assert!(client.output().is_empty() && client.waiting_for() == Stage::Idle);
}

#[test]
fn an_lmtp_server_answers_for_each_accepted_recipient_in_their_order() {
    let three = &["a@b.test", "b@b.test", "c@b.test"];
    let lmtp = |script| Play { lmtp: true, body_ready: true, ..one(script, three) };
    let begun = "LHLO me.test / MAIL FROM:<s@b.test> / RCPT TO:<a@b.test> / RCPT TO:<b@b.test> / RCPT TO:<c@b.test> / DATA";
    let envelope = "220 hi\r\n|250-lda\r\n250-CHUNKING\r\n250 PIPELINING\r\n|250 ok\r\n250 ok\r\n550 who\r\n250 ok\r\n354 go\r\n|";
    let script = |end: &str| format!("{envelope}{end}");
    let sent = format!("{begun} / ..x / .");
    let all = script("250 a has it\r\n452 c is full\r\n");
    check(&lmtp(&all), &sent, &["Ready", "0 Failed:10:550 Delivered:1:250 Deferred:100:452"]);
    // Who was answered has it; of the other nobody knows.
    let cut = script("250 a has it\r\n421 bye\r\n");
    check(&lmtp(&cut), &sent, &["Ready", "0 Failed:10:550 Delivered:1:250 Deferred:100:421", "closing 421"]);
    let unasked = script("250 a\r\n250 c\r\n250 who\r\n");
    let settled = "0 Failed:10:550 Delivered:1:250 Delivered:100:250";
    assert_eq!(lmtp(&unasked).run(10_000).1, ["Ready", "remote sent a reply that nobody asked for", settled]);
}

#[test]
fn an_lmtp_server_is_greeted_as_such_or_not_at_all_and_says_nothing_when_nobody_is_left() {
    let none: &[&str] = &[];
    let open = |script| Play { lmtp: true, count: 0, ..one(script, none) };
    check(&open("220 hi\r\n|500 speak SMTP\r\n"), "LHLO me.test", &["refused Ehlo 500"]);
    let refused = "220 hi\r\n|250-lda\r\n250 PIPELINING\r\n|250 ok\r\n550 who\r\n354 go\r\n|";
    let sent = "LHLO me.test / MAIL FROM:<s@b.test> / RCPT TO:<r@b.test> / DATA / . / QUIT";
    let nobody = Play { lmtp: true, quit: true, ..one(refused, &["r@b.test"]) };
    check(&nobody, sent, &["Ready", "0 Failed:1:550"]);
}
