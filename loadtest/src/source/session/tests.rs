//! Dialogues played against the session, whole and byte by byte.

use super::*;
use crate::source::plan::tests::plan;

#[derive(Default)]
struct Script {
    jobs: u64,
    issued: u64,
    log: Vec<(u64, Answer, Vec<u16>)>,
    phases: Vec<Phase>,
    missing: Option<&'static str>,
}

impl Host for Script {
    fn next(&mut self, now: Micros) -> Option<Job> {
        let number = self.issued;
        (number < self.jobs).then(|| {
            self.issued += 1;
            Job { number, intended: now }
        })
    }
    fn reply(&mut self, _: Stage, _: ReplyLine<'_>) {}
    fn phase(&mut self, phase: Phase, since: Micros, now: Micros, _: Option<Micros>) {
        assert!(since <= now, "{phase:?}");
        self.phases.push(phase);
    }
    fn missing(&mut self, what: &'static str) {
        self.missing = Some(what);
    }
    fn ended(&mut self, ended: &Ended<'_>) {
        self.log.push((ended.job.number, ended.answer, ended.refused.to_vec()));
    }
}

/// Plays `S: ` lines to the session and compares what it sends with the `C: ` lines: verbs only, a message is `BODY`.
fn play(plan: &Plan, jobs: u64, chunk: usize, script: &[&str]) -> (Vec<(u64, Answer, Vec<u16>)>, Flow) {
    let (mut session, mut host) = (Session::default(), Script { jobs, ..Script::default() });
    let mut flow = Flow::Continue;
    for line in script {
        if let Some(said) = line.strip_prefix("S: ") {
            let bytes = format!("{said}\r\n").replace('|', "\r\n");
            for piece in bytes.as_bytes().chunks(chunk) {
                flow = session.receive(plan, piece, 1, &mut host);
                if flow == Flow::Secure {
                    session.secured(plan, 1, &mut host);
                }
            }
        } else if let Some(want) = line.strip_prefix("C: ") {
            let sent = session.out.slices(plan).concat();
            session.written(plan, sent.len(), 2);
            assert_eq!(verbs(&sent), want, "{script:?}");
        } else {
            session.lost(3, &mut host);
        }
    }
    (host.log, flow)
}

fn verbs(sent: &[u8]) -> String {
    let text = String::from_utf8_lossy(sent).replace("\r\n.\r\n", "\r\nBODY \r\n");
    let known = [
        "EHLO", "HELO", "LHLO", "STARTTLS", "AUTH", "BDAT", "RSET", "MAIL", "RCPT", "DATA", "BODY", "QUIT",
        ".",
    ];
    let verb = |line: &str| known.into_iter().find(|verb| line.split(' ').next() == Some(*verb));
    text.lines().filter_map(verb).collect::<Vec<_>>().join(" ")
}

fn check(recipients: u16, pipelining: bool, jobs: u64, script: &[&str], want: &[(u64, Answer, &[u16])]) {
    let plan = Plan { pipelining, ..plan(recipients) };
    let want: Vec<_> =
        want.iter().map(|(number, answer, refused)| (*number, *answer, refused.to_vec())).collect();
    for chunk in [1, 5, 1000] {
        assert_eq!(play(&plan, jobs, chunk, script).0, want, "{script:?} by {chunk}");
    }
}

const HELLO: [&str; 3] = ["S: 220 hi", "C: EHLO", "S: 250-me|250-PIPELINING|250 SIZE"];

fn after_hello<'a>(rest: &[&'a str]) -> Vec<&'a str> {
    [&HELLO[..], rest].concat()
}

#[test]
fn a_pipelined_envelope_is_one_write_and_the_next_goes_behind_the_dot() {
    let script = after_hello(&[
        "C: MAIL RCPT DATA",
        "S: 250 a|250 b|354 go",
        "C: BODY MAIL RCPT DATA",
        "S: 250 queued|250 a|250 b|354 go",
        "C: BODY",
        "S: 250 queued",
    ]);
    check(1, true, 2, &script, &[(0, Answer::Accepted, &[]), (1, Answer::Accepted, &[])]);
}

#[test]
fn without_pipelining_each_command_waits() {
    let rest = [
        "C: MAIL",
        "S: 250 a",
        "C: RCPT",
        "S: 250 b",
        "C: RCPT",
        "S: 550 no",
        "C: DATA",
        "S: 354",
        "C: BODY",
    ];
    let script = [&HELLO[..], &rest, &["S: 250 ok", "C: MAIL"]].concat();
    check(2, false, 2, &script, &[(0, Answer::Accepted, &[1])]);
    let unoffered = ["S: 220 hi", "C: EHLO", "S: 250 me", "C: MAIL"];
    check(1, true, 1, &unoffered, &[]);
}

#[test]
fn a_pipelined_message_that_nobody_gets_is_a_dot_alone_and_refused() {
    let script = after_hello(&[
        "C: MAIL RCPT RCPT DATA",
        "S: 250 a|550 no|450 later|354 go",
        "C: .",
        "S: 250 queued for nobody",
    ]);
    check(2, true, 1, &script, &[(0, Answer::Refused, &[0, 1])]);
}

#[test]
fn a_refused_data_resets_before_the_next_envelope() {
    let script = after_hello(&[
        "C: MAIL RCPT DATA",
        "S: 250 a|550 no|503 nobody",
        "C: RSET MAIL RCPT DATA",
        "S: 250 reset|250 a|250 b|354 go",
        "C: BODY",
    ]);
    check(1, true, 2, &script, &[(0, Answer::Refused, &[0])]);
}

#[test]
fn a_lost_connection_tells_apart_what_may_arrive_and_what_may_not() {
    let sent = after_hello(&["C: MAIL RCPT DATA", "S: 250 a|250 b|354 go", "C: BODY MAIL RCPT DATA", "lost"]);
    check(1, true, 2, &sent, &[(0, Answer::Unknown, &[]), (1, Answer::Aborted, &[])]);
    let unsent = after_hello(&["C: MAIL RCPT DATA", "S: 250 a|250 b|354 go", "lost"]);
    check(1, true, 1, &unsent, &[(0, Answer::Aborted, &[])]);
    let envelope = after_hello(&["C: MAIL RCPT DATA", "S: 250 a", "lost"]);
    check(1, true, 1, &envelope, &[(0, Answer::Aborted, &[])]);
}

#[test]
fn shut_out_with_421_is_a_refusal_and_closes() {
    let script = after_hello(&["C: MAIL RCPT DATA", "S: 421 closing", "lost"]);
    check(1, true, 1, &script, &[(0, Answer::Refused, &[])]);
    assert_eq!(play(&plan(1), 1, 100, &script[..5]).1, Flow::Close);
    let at_end = after_hello(&[
        "C: MAIL RCPT DATA",
        "S: 250 a|250 b|354 go",
        "C: BODY MAIL RCPT DATA",
        "S: 421 full",
        "lost",
    ]);
    check(1, true, 2, &at_end, &[(0, Answer::Refused, &[]), (1, Answer::Aborted, &[])]);
}

#[test]
fn a_connection_is_closed_after_its_share_of_messages() {
    let plan = Plan { reuse: 1, ..plan(1) };
    let script =
        after_hello(&["C: MAIL RCPT DATA", "S: 250 a|250 b|354 go", "C: BODY QUIT", "S: 250 queued|221 bye"]);
    let (log, flow) = play(&plan, 9, 1000, &script);
    assert_eq!((log.len(), flow), (1, Flow::Done));
}

#[test]
fn helo_follows_a_refused_ehlo_and_nonsense_closes() {
    check(1, true, 1, &["S: 220 hi", "C: EHLO", "S: 502 what", "C: HELO", "S: 250 me", "C: MAIL"], &[]);
    assert_eq!(play(&plan(1), 1, 100, &["S: HTTP/1.1 400 Bad Request"]).1, Flow::Close);
    assert_eq!(play(&plan(1), 1, 100, &["S: 554 go away"]).1, Flow::Close);
}

#[test]
fn starttls_and_auth_come_before_the_first_envelope_and_ehlo_is_said_again() {
    let plan = Plan { starttls: true, auth: Some("AHUAcA==".into()), ..plan(1) };
    let script = [
        "S: 220 hi",
        "C: EHLO",
        "S: 250-me|250 STARTTLS",
        "C: STARTTLS",
        "S: 220 go",
        "C: EHLO",
        "S: 250-me|250-AUTH LOGIN PLAIN|250 PIPELINING",
        "C: AUTH",
        "S: 235 ok",
        "C: MAIL RCPT DATA",
    ];
    play(&plan, 1, 1000, &script);
    let stripped = ["S: 220 hi", "C: EHLO", "S: 250 me"];
    assert_eq!(play(&plan, 1, 1000, &stripped).1, Flow::Close, "never in the clear");
    let refused = [&script[..8], &["S: 535 no"]].concat();
    assert_eq!(play(&plan, 1, 1000, &refused).1, Flow::Close);
}

#[test]
fn a_chunked_message_goes_with_its_envelope_and_needs_no_data() {
    let chunked = |pipelining| {
        let template = plan(1).template(0).clone().chunked();
        Plan { chunking: true, pipelining, templates: crate::source::mix::Mix::one(template), ..plan(1) }
    };
    let hello = ["S: 220 hi", "C: EHLO", "S: 250-me|250-PIPELINING|250 CHUNKING"];
    let whole = ["C: MAIL RCPT BDAT", "S: 250 a|250 b|250 c", "C: MAIL RCPT BDAT", "S: 250 a|550 b|554 c"];
    let script: Vec<&str> = [&hello[..], &whole[..4]].concat();
    let want = vec![(0, Answer::Accepted, vec![]), (1, Answer::Refused, vec![0])];
    assert_eq!(play(&chunked(true), 2, 7, &script).0, want);
    let steps = ["C: MAIL", "S: 250 a", "C: RCPT", "S: 250 b", "C: BDAT", "S: 250 c"];
    let script: Vec<&str> = [&hello[..], &steps].concat();
    assert_eq!(play(&chunked(false), 1, 7, &script).0, want[..1]);
    let lost = [&hello[..], &["C: MAIL RCPT BDAT", "S: 250 a", "lost"]].concat();
    assert_eq!(play(&chunked(true), 1, 7, &lost).0, [(0, Answer::Unknown, vec![])]);
}

#[test]
fn lmtp_answers_for_each_recipient_that_was_taken() {
    let plan = Plan { protocol: Protocol::Lmtp, ..plan(3) };
    let script = [
        "S: 220 hi",
        "C: LHLO",
        "S: 250-me|250 PIPELINING",
        "C: MAIL RCPT RCPT RCPT DATA",
        "S: 250 a|250 b|550 c|250 d|354 go",
        "C: BODY",
        "S: 250 first|452 third",
    ];
    assert_eq!(play(&plan, 1, 5, &script).0, [(0, Answer::Accepted, vec![1, 2])]);
}

#[test]
fn each_phase_is_timed_once_and_in_order() {
    let (mut session, mut host) = (Session::default(), Script { jobs: 1, ..Script::default() });
    let plan = plan(2);
    session.connected(5, false);
    for (now, said) in
        [(9, "220 hi\r\n"), (12, "250 PIPELINING\r\n"), (20, "250 a\r\n250 b\r\n250 c\r\n354 d\r\n")]
    {
        session.receive(&plan, said.as_bytes(), now, &mut host);
    }
    use Phase::{Banner, Data, Hello, Mail, Rcpt};
    assert_eq!(host.phases, [Banner, Hello, Mail, Rcpt, Rcpt, Data]);
}

proptest::proptest! {
    #[test]
    fn whatever_the_peer_says_each_message_that_was_begun_ends_once(
        pieces in proptest::collection::vec(proptest::prop_oneof![
            proptest::strategy::Just("250 ok\r\n".to_owned()),
            proptest::strategy::Just("220 hello\r\n".to_owned()),
            proptest::strategy::Just("354 go\r\n".to_owned()),
            proptest::strategy::Just("250-PIPELINING\r\n250-CHUNKING\r\n250 AUTH PLAIN\r\n".to_owned()),
            "[2-5][0-9]{2}[ -][a-z]{0,9}\r\n",
            "\\PC{0,9}\r?\n",
        ], 0..40),
        form in 0u8..16,
        chunk in 1usize..40,
    ) {
        let mut plan = plan(1 + u16::from(form & 3));
        plan.pipelining = form & 4 > 0;
        plan.chunking = form & 8 > 0;
        let (mut session, mut host) = (Session::default(), Script { jobs: 30, ..Script::default() });
        for piece in pieces.concat().as_bytes().chunks(chunk) {
            let flow = session.receive(&plan, piece, 1, &mut host);
            let queued: usize = session.out.slices(&plan).iter().map(|slice| slice.len()).sum();
            session.written(&plan, queued.min(chunk * 7), 2);
            if session.is_idle() {
                session.start(&plan, 2, &mut host);
            }
            if flow != Flow::Continue {
                break;
            }
        }
        session.lost(3, &mut host);
        let mut ended: Vec<u64> = host.log.iter().map(|(number, ..)| *number).collect();
        ended.sort_unstable();
        proptest::prop_assert_eq!(ended, (0..host.issued).collect::<Vec<_>>());
    }
}
