//! Dialogues played against the session, whole and byte by byte.

use proptest::strategy::Strategy as _;

use super::*;
use crate::wire::mark::Run;
use crate::wire::template::Template;

#[derive(Debug, Default, PartialEq)]
struct Seen {
    delivered: Vec<(Option<Id>, bool, Vec<Local>, u64)>,
    failed: Vec<(u64, u16)>,
    counted: Vec<Counted>,
    held: Vec<(usize, Micros)>,
}

impl Host for Seen {
    fn delivered(&mut self, delivery: &Delivery<'_>) {
        let Delivery { receipt, recipients, content, envelope, .. } = delivery;
        assert!(
            envelope.starts_with(b"Return-Path: <b-000000ab-000000000005@s.invalid>\r\nDelivered-To: load")
        );
        assert_eq!(content.len() as u64, receipt.bytes(), "kept whole");
        self.delivered.push((receipt.id(), receipt.intact(), recipients.to_vec(), receipt.bytes()));
    }
    fn failed(&mut self, id: Id, index: u16) {
        self.failed.push((id.number, index));
    }
    fn count(&mut self, counted: Counted) {
        self.counted.push(counted);
    }
    fn moment(&mut self) -> Moment {
        Moment { chance: 7, elapsed: 0 }
    }
    fn admit(&mut self) -> bool {
        true
    }
    fn hold(&mut self, from: usize, micros: Micros) {
        self.held.push((from, micros));
    }
}

fn feed(rules: &[&str], bytes: &[u8], chunk: usize) -> (String, Flow, Seen) {
    let script = Script::parse(rules).unwrap_or_default();
    assert_eq!(script.is_empty(), rules.is_empty(), "{rules:?}");
    play(&Manners::default(), &script, bytes, chunk)
}

fn play(manners: &Manners, script: &Script, bytes: &[u8], chunk: usize) -> (String, Flow, Seen) {
    let finder = DotFinder::default();
    let fixed = Fixed { script, manners, keep: true, finder: &finder };
    let (mut session, mut out, mut seen) = (Session::default(), Vec::new(), Seen::default());
    let mut flow = Flow::Continue;
    for piece in bytes.chunks(chunk) {
        if flow == Flow::Continue {
            flow = session.receive(&fixed, piece, &mut out, &mut seen);
        }
    }
    (String::from_utf8_lossy(&out).into_owned(), flow, seen)
}

/// The first letters of each reply.
fn codes(replies: &str) -> String {
    replies.lines().map(|line| &line[..3]).collect::<Vec<_>>().join(" ")
}

fn check(rules: &[&str], bytes: &[u8], want: &str, flow: Flow) -> Seen {
    let whole = feed(rules, bytes, bytes.len());
    assert_eq!((codes(&whole.0).as_str(), whole.1), (want, flow), "{}", whole.0);
    for chunk in [1, 2, 3, 13] {
        assert_eq!(feed(rules, bytes, chunk), whole, "by {chunk}");
    }
    whole.2
}

const ID: Id = Id { run: Run(0xab), number: 5 };

fn message(dots: bool) -> Vec<u8> {
    let template = Template::new(2000, "s.invalid", "Thu, 01 Jan 1970 00:00:00 +0000", 3);
    let mut wire = Vec::new();
    template.header(ID, 1, &mut wire);
    wire.extend_from_slice(template.body());
    if !dots {
        let text = String::from_utf8_lossy(&wire[..wire.len() - 3]).replace("\r\n..", "\r\n.");
        return text.into_bytes();
    }
    wire
}

const ENVELOPE: &str = "MAIL FROM:<b-000000ab-000000000005@s.invalid> SIZE=9\r\n\
    RCPT TO:<load000000000005-0@d.invalid>\r\nrcpt to: <LOAD000000000005-1@d.invalid> NOTIFY=NEVER\r\n";

#[test]
fn pipelined_transactions_are_taken_whole_and_byte_by_byte() {
    let one = [ENVELOPE.as_bytes(), b"DATA\r\n", &message(true)].concat();
    let bytes = [b"EHLO me\r\n", &one[..], &one, b"QUIT\r\n"].concat();
    let replies = "250 250 250 250 250 250 250 250 250 250 250 354 250 250 250 250 354 250 221";
    let seen = check(&[], &bytes, replies, Flow::Close);
    let recipients = [0, 1].map(|index| Local::Recipient { number: 5, index }).to_vec();
    assert_eq!(seen.delivered, vec![(Some(ID), true, recipients, 2000); 2]);
}

#[test]
fn chunks_make_the_same_message_as_data() {
    let content = message(false);
    let (first, second) = content.split_at(700);
    let bytes = [
        ENVELOPE.as_bytes(),
        format!("BDAT {}\r\n", first.len()).as_bytes(),
        first,
        format!("BDAT {}\r\n", second.len()).as_bytes(),
        second,
        b"BDAT 0 LAST\r\nNOOP\r\n",
    ]
    .concat();
    let seen = check(&[], &bytes, "250 250 250 250 250 250 250", Flow::Continue);
    assert_eq!(seen.delivered.len(), 1);
    assert_eq!((seen.delivered[0].1, seen.delivered[0].3), (true, 2000));
}

#[test]
fn a_chunk_without_recipients_is_skipped_and_not_read_as_commands() {
    let bytes = b"BDAT 6 LAST\r\nQUIT\r\nNOOP\r\n";
    check(&[], bytes, "503 250", Flow::Continue);
    check(&[], b"BDAT x LAST\r\nQUIT\r\n", "501", Flow::Close);
}

#[test]
fn refusals_at_each_stage_fail_the_right_recipients() {
    let bytes = [ENVELOPE.as_bytes(), b"DATA\r\n", &message(true), b"NOOP\r\n"].concat();
    let seen = check(&["load*=550 5.1.1 no@rcpt"], &bytes[..ENVELOPE.len()], "250 550 250", Flow::Continue);
    assert_eq!(seen.failed, [(5, 0)]);
    let seen =
        check(&["load*=450 4.2.0 later@rcpt"], &bytes[..ENVELOPE.len()], "250 450 250", Flow::Continue);
    assert_eq!((seen.failed.len(), seen.counted), (0, vec![Counted::Deferred]));
    let seen = check(&["load*=554 5.7.1 spam@dot"], &bytes, "250 250 250 354 554 250", Flow::Continue);
    assert_eq!((seen.failed, seen.delivered.len()), (vec![(5, 0), (5, 1)], 0));
    let seen = check(&["load*=drop@data"], &bytes, "250 250 250", Flow::Drop);
    assert_eq!((seen.delivered.len(), seen.counted), (0, vec![Counted::Dropped]));
}

#[test]
fn what_a_pipelining_client_sent_behind_a_refused_mail_is_no_mistake_of_its() {
    let bytes = [ENVELOPE.as_bytes(), b"DATA\r\nMAIL FROM:<>\r\nRSET\r\nRCPT TO:<a@b>\r\n"].concat();
    let seen = check(&["b-*=451 4.7.0 busy@mail"], &bytes, "451 503 503 503 250 250 503", Flow::Continue);
    assert_eq!(seen.counted, [Counted::Deferred, Counted::Error]);
}

#[test]
fn commands_out_of_order_and_unknown_ones_are_refused() {
    check(&[], b"RCPT TO:<a@b>\r\nDATA\r\n", "503 503", Flow::Continue);
    check(
        &[],
        b"MAIL FROM:<>\r\nMAIL FROM:<>\r\nRSET\r\nMAIL FROM:<>\r\n",
        "250 503 250 250",
        Flow::Continue,
    );
    check(&[], b"MAIL <a>\r\nVERYLONGCOMMAND\r\n\r\n", "501 500 500", Flow::Continue);
    check(&[], &[b'x'; 5000], "500", Flow::Close);
}

#[test]
fn lmtp_replies_for_each_recipient() {
    let manners = Manners { lmtp: true, ..Manners::default() };
    let bytes = [b"LHLO me\r\n", ENVELOPE.as_bytes(), b"DATA\r\n", &message(true), b"EHLO x\r\n"].concat();
    let (replies, _, seen) = play(&manners, &Script::default(), &bytes, 9);
    let behind = codes(&replies);
    assert!(behind.ends_with("250 250 250 354 250 250 500"), "{behind}");
    assert_eq!(seen.delivered.len(), 1);
}

#[test]
fn auth_and_starttls_are_offered_once_and_mail_waits_for_auth() {
    let manners = Manners { auth: Some("AHUAcA==".into()), starttls: true, ..Manners::default() };
    let say = |bytes: &[u8]| play(&manners, &Script::default(), bytes, 1000);
    let (replies, flow, _) =
        say(b"EHLO a\r\nMAIL FROM:<>\r\nAUTH PLAIN bad\r\nAUTH PLAIN AHUAcA==\r\nMAIL FROM:<>\r\n");
    assert!(replies.contains("250-AUTH PLAIN\r\n") && replies.contains("250-STARTTLS\r\n"));
    assert!(codes(&replies).ends_with("530 535 235 250") && flow == Flow::Continue, "{replies}");
    let (replies, flow, _) = say(b"STARTTLS\r\nMAIL FROM:<>\r\n");
    assert_eq!(
        (codes(&replies).as_str(), flow),
        ("220", Flow::Secure),
        "what follows is not read in the clear"
    );
}

#[test]
fn a_provider_limits_messages_and_recipients() {
    let manners = Manners { messages_max: Some(1), recipients_max: Some(1), ..Manners::default() };
    let bytes = [ENVELOPE.as_bytes(), b"DATA\r\n", &message(true), b"MAIL FROM:<>\r\n"].concat();
    let (replies, flow, seen) = play(&manners, &Script::default(), &bytes, 1000);
    assert_eq!((codes(&replies).as_str(), flow), ("250 250 452 354 250 421", Flow::Close));
    assert_eq!(seen.counted, [Counted::Deferred, Counted::Deferred]);
}

#[test]
fn delays_hold_the_reply_and_a_421_closes() {
    let script = crate::sink::profile::read(
        "[[rule]]\nstage='mail'\ndelay='50ms'\n[[rule]]\nstage='rcpt'\ndelay='1s'\nreply='421 4.7.0 slow'",
    );
    let Ok(profile) = script else { panic!("not read") };
    let (replies, flow, seen) = play(&Manners::default(), &profile.script, ENVELOPE.as_bytes(), 1000);
    assert_eq!((codes(&replies).as_str(), flow), ("250 421", Flow::Close));
    assert_eq!(seen.held, [(0, 50_000), (replies.find("421").unwrap_or(0), 1_000_000)]);
    let profile = crate::sink::profile::read("[[rule]]\nstage='data'\ndelay='30ms'").unwrap_or_default();
    for command in ["DATA\r\n", "BDAT 1 LAST\r\n."] {
        let bytes = [ENVELOPE, command].concat();
        let (replies, _, seen) = play(&Manners::default(), &profile.script, bytes.as_bytes(), 1000);
        let before = replies.rfind("250 2.1.5 Ok\r\n").map_or(0, |at| at + "250 2.1.5 Ok\r\n".len());
        assert_eq!(seen.held, [(before, 30_000)], "{command}");
    }
}

proptest::proptest! {
    #[test]
    fn whatever_a_client_says_is_answered_the_same_in_any_split(
        pieces in proptest::collection::vec(proptest::prop_oneof![
            proptest::sample::select(vec![
                "EHLO x\r\n", "MAIL FROM:<b-000000ab-000000000005@s.invalid>\r\n", "RCPT TO:<load000000000005-0@d>\r\n", "DATA\r\n",
                "a\r\n.\r\n", "BDAT 3\r\nabc", "BDAT 0 LAST\r\n", "RSET\r\n", "BDAT 99999999999999999999 LAST\r\n", "AUTH PLAIN\r\n",
            ]).prop_map(str::to_owned),
            "[A-Z]{4} ?\\PC{0,9}\r\n",
            "(MAIL FROM|RCPT TO):[<>a-z0-9@-]{0,30}\r\n",
        ], 0..30),
        chunk in 1usize..30,
    ) {
        let bytes = pieces.concat();
        let whole = untyped(bytes.as_bytes(), usize::MAX);
        proptest::prop_assert_eq!(&whole, &untyped(bytes.as_bytes(), chunk));
        proptest::prop_assert!(whole.0.lines().all(|line| line.as_bytes()[..3].iter().all(u8::is_ascii_digit)));
    }
}

/// The replies to bytes that nobody has vouched for.
fn untyped(bytes: &[u8], chunk: usize) -> (String, Flow) {
    struct Deaf;
    impl Host for Deaf {
        fn delivered(&mut self, _: &Delivery<'_>) {}
        fn failed(&mut self, _: Id, _: u16) {}
        fn count(&mut self, _: Counted) {}
        fn moment(&mut self) -> Moment {
            Moment::default()
        }
        fn admit(&mut self) -> bool {
            true
        }
        fn hold(&mut self, _: usize, _: Micros) {}
    }
    let (finder, script) = (DotFinder::default(), Script::default());
    let manners = Manners::default();
    let fixed = Fixed { script: &script, manners: &manners, keep: true, finder: &finder };
    let (mut session, mut out, mut flow) = (Session::default(), Vec::new(), Flow::Continue);
    for piece in bytes.chunks(chunk) {
        if flow == Flow::Continue {
            flow = session.receive(&fixed, piece, &mut out, &mut Deaf);
        }
    }
    (String::from_utf8_lossy(&out).into_owned(), flow)
}
