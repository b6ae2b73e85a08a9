//! Source straight into sink over loopback: the two state machines against each other, with exact counts.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clap::Parser;
use ringpost_load::board::{Board, SharedBoard};
use ringpost_load::clock;
use ringpost_load::door::door;
use ringpost_load::ledger::Verdict;
use ringpost_load::measure::phase::Phase;
use ringpost_load::options::{Command, DoorCommand, Options, RunCommand};
use ringpost_load::sink::Sink;
use ringpost_load::source::Source;

type Failure = Box<dyn std::error::Error>;

fn options(arguments: &str) -> Result<RunCommand, Failure> {
    let words = ["ringpost-load", "run", "--sink", "127.0.0.1:0"].into_iter().chain(arguments.split(' '));
    // A rule holds blanks, so in these tests `_` stands for one.
    let options = Options::try_parse_from(words.map(|word| word.replace('_', " ")))?;
    if let Command::Run(command) = options.command { Ok(*command) } else { Err("not a run".into()) }
}

/// Runs source and sink to their end; `target` instead of the sink if given.
fn play(
    arguments: &str,
    target: Option<SocketAddr>,
    check: impl FnOnce(&Board, &Verdict),
) -> Result<(), Failure> {
    let command = options(arguments)?;
    let board = SharedBoard::default();
    let sink = Sink::start(command.sink_options.settings(&command.sink)?, &board)?;
    let mut settings = command.source.settings()?;
    settings.target = target.unwrap_or(sink.addresses()[0]);
    let (plan, pace) = (command.source.plan()?, command.source.pace(clock::now())?);
    let run = plan.run;
    Source::start(&settings, plan, pace, &board, &Arc::new(AtomicBool::new(false)))?.join()?;
    sink.stop()?;
    let mut board = board.lock();
    let verdict = board.books.ledger(run).map(|ledger| ledger.verdict()).unwrap_or_default();
    assert_eq!(board.source.in_flight, 0, "every transaction ended");
    check(&board, &verdict);
    Ok(())
}

fn all_arrive(arguments: &str, messages: u64, recipients: u64) -> Result<(), Failure> {
    play(arguments, None, |board, verdict| {
        assert_eq!(board.source.accepted, messages, "{arguments}");
        assert_eq!(
            (board.sink.counts.messages, board.sink.counts.recipients),
            (messages, messages * recipients)
        );
        let want =
            Verdict { accepted: messages * recipients, arrived: messages * recipients, ..Verdict::default() };
        assert_eq!(*verdict, want, "{arguments}");
        assert_eq!(board.sink.transit.len(), messages);
        assert_eq!((board.source.connections_lost, board.sink.counts.errors), (0, 0), "{arguments}");
    })
}

#[test]
fn every_message_arrives_once_in_each_way_of_sending() -> Result<(), Failure> {
    all_arrive("--messages 2000 --connections 8", 2000, 1)?;
    all_arrive("--messages 500 --connections 3 --no-pipelining", 500, 1)?;
    all_arrive("--messages 300 --connections 4 --sink-no-pipelining", 300, 1)?;
    all_arrive("--messages 300 --connections 4 --recipients 12 --domains 3", 300, 12)?;
    all_arrive("--messages 300 --connections 8 --threads 2 --sink-threads 2 --reuse 7", 300, 1)?;
    all_arrive("--messages 60 --connections 4 --reuse 1 --no-pipelining", 60, 1)?;
    all_arrive("--messages 6 --connections 2 --size 3000000", 6, 1)?;
    all_arrive("--messages 200 --connections 4 --rate 5000", 200, 1)?;
    all_arrive("--messages 200 --connections 4 --rate poisson:5000 --size 1k=9,70k=1", 200, 1)?;
    all_arrive("--messages 100 --connections 4 --bdat", 100, 1)?;
    all_arrive("--messages 100 --connections 4 --bdat --no-pipelining --recipients 3", 100, 3)?;
    all_arrive("--messages 100 --connections 4 --lmtp --sink-lmtp --recipients 4", 100, 4)
}

#[test]
fn every_message_arrives_once_with_tls_and_auth() -> Result<(), Failure> {
    all_arrive("--messages 100 --connections 4 --tls starttls --sink-tls starttls", 100, 1)?;
    all_arrive("--messages 100 --connections 4 --tls implicit --sink-tls implicit --no-pipelining", 100, 1)?;
    all_arrive("--messages 4 --connections 2 --tls implicit --sink-tls implicit --size 3m", 4, 1)?;
    all_arrive("--messages 50 --connections 2 --auth me:secret --sink-auth me:secret", 50, 1)
}

#[test]
fn tls_sessions_are_resumed_unless_told_otherwise() -> Result<(), Failure> {
    let arguments = "--messages 30 --connections 1 --reuse 1 --tls starttls --sink-tls starttls";
    play(arguments, None, |board, _| {
        assert_eq!((board.source.accepted, board.source.handshakes.0), (30, 1));
        assert!(board.source.handshakes.1 >= 29, "{:?}", board.source.handshakes);
    })?;
    play(&format!("{arguments} --no-resume"), None, |board, _| {
        assert_eq!(board.source.handshakes.1, 0);
    })
}

#[test]
fn what_the_relay_does_not_offer_is_said_and_nothing_is_sent() -> Result<(), Failure> {
    for arguments in ["--tls starttls", "--auth a:b", "--bdat --no-chunking"] {
        play(&format!("--messages 5 --connections 2 {arguments}"), None, |board, verdict| {
            assert_eq!((board.source.accepted, verdict.arrived), (0, 0), "{arguments}");
            let why = board.source.connect_error.as_deref().unwrap_or_default();
            assert!(why.contains("does not offer"), "{arguments}: {why}");
        })?;
    }
    play("--messages 5 --connections 2 --auth a:b --sink-auth a:c", None, |board, _| {
        assert_eq!(board.source.accepted, 0);
    })
}

#[test]
fn a_profile_delays_and_limits_and_the_ledger_holds() -> Result<(), Failure> {
    let profile = std::env::temp_dir().join(format!("ringpost-load-profile-{}.toml", std::process::id()));
    std::fs::write(
        &profile,
        "[limits]\nmessages-per-connection = 3\n[[rule]]\nstage = 'connect'\ndelay = '10ms'\n\
         [[rule]]\nstage = 'dot'\ndelay = '20ms'\n\
         [[rule]]\nstage = 'rcpt'\nlocal = 'load00000000000*'\nreply = '450 4.7.0 no'\ntarpit = '1ms'\n",
    )?;
    let arguments = format!("--messages 40 --connections 4 --profile {}", profile.display());
    play(&arguments, None, |board, verdict| {
        assert!(verdict.holds(false) && verdict.accepted > 0, "{verdict:?}");
        assert_eq!(verdict.accepted, verdict.arrived);
        let phases = &board.source.phases;
        assert!(
            phases.service(Phase::Banner).min() >= 9_000 && phases.service(Phase::EndOfData).min() >= 18_000
        );
        assert!(board.source.replies.keys().any(|(_, code)| *code == 421));
        assert!(board.source.replies.keys().any(|(_, code)| *code == 450));
    })?;
    std::fs::remove_file(profile)?;
    Ok(())
}

#[test]
fn each_listener_has_its_own_profile_and_limits() -> Result<(), Failure> {
    let directory = std::env::temp_dir();
    let profile = directory.join(format!("ringpost-load-listener-{}.toml", std::process::id()));
    std::fs::write(&profile, "[offers]\npipelining = false\n[limits]\nmessages-per-connection = 1\n")?;
    let board = SharedBoard::default();
    let listen = ["127.0.0.1:0".to_owned(), format!("127.0.0.1:0={}", profile.display())];
    let listen = listen.iter().map(|text| text.parse()).collect::<Result<Vec<_>, _>>()?;
    let command = options("--messages 20 --connections 1")?;
    let sink = Sink::start(command.sink_options.settings(&listen)?, &board)?;
    for address in sink.addresses() {
        let mut settings = command.source.settings()?;
        settings.target = *address;
        let (plan, pace) = (command.source.plan()?, command.source.pace(clock::now())?);
        Source::start(&settings, plan, pace, &board, &Arc::new(AtomicBool::new(false)))?.join()?;
    }
    sink.stop()?;
    std::fs::remove_file(&profile)?;
    let board = board.lock();
    let of = |index: usize| {
        let (_, counts) = &board.sink.listeners[index];
        (counts.messages, counts.deferred)
    };
    // The second one shuts each connection out at its second message, so of 20 about every other one is refused.
    assert_eq!(of(0), (20, 0));
    assert_eq!(of(1).0 + of(1).1, 20);
    assert!(of(1).1 >= 9, "{:?}", of(1));
    assert_eq!(board.sink.counts.messages, of(0).0 + of(1).0);
    Ok(())
}

#[test]
fn a_door_is_measured_in_the_clear_and_over_tls_and_sessions_are_resumed_where_they_can_be()
-> Result<(), Failure> {
    let board = SharedBoard::default();
    let command = options("--messages 1 --sink-tls starttls")?;
    let sink = Sink::start(command.sink_options.settings(&command.sink)?, &board)?;
    let measured = door(&DoorCommand {
        target: sink.addresses()[0],
        pid: Some(std::process::id()),
        seconds: 1,
        threads: 2,
        idle: 10,
        rate: 20,
    })?;
    sink.stop()?;
    let lines: Vec<&str> = measured.lines().collect();
    assert_eq!(lines.len(), 7, "{measured}");
    for (line, share) in lines.iter().zip([0, 0, 100]) {
        assert!(
            line.ends_with(&format!("resumed {share} %")) && !line.contains(": 0 sessions"),
            "{measured}"
        );
    }
    assert!(lines[3].contains("10 idle connections") && lines[5].contains("beside 0 full"), "{measured}");
    Ok(())
}

#[test]
fn messages_of_the_warm_up_are_judged_and_not_timed() -> Result<(), Failure> {
    play("--duration 3 --rate 100 --warmup 2 --connections 4", None, |board, verdict| {
        assert_eq!((verdict.accepted, verdict.arrived), (300, 300));
        for phase in [Phase::Mail, Phase::EndOfData, Phase::Whole] {
            assert_eq!(board.source.phases.intended(phase).len(), 100, "{phase:?}");
        }
        assert_eq!((board.source.lateness.len(), board.source.phases.service(Phase::Hello).len()), (100, 4));
    })
}

#[test]
fn refusals_are_told_apart_and_nothing_refused_arrives() -> Result<(), Failure> {
    let rules = "--refuse load*=450_4.2.0_later@rcpt:p=0.3 --refuse load*=554_5.7.1_spam@dot:p=0.3";
    play(&format!("--messages 1000 --connections 5 --recipients 2 {rules}"), None, |board, verdict| {
        assert!(board.sink.counts.deferred > 100 && board.sink.counts.rejected > 50);
        assert_eq!(verdict.accepted + verdict.refused, 2000);
        assert_eq!(verdict.arrived, verdict.accepted);
        assert!(verdict.holds(false), "{verdict:?}");
    })
}

#[test]
fn lmtp_refuses_some_recipients_after_the_dot_and_the_others_get_the_message() -> Result<(), Failure> {
    let arguments = "--messages 200 --connections 4 --recipients 4 --lmtp --sink-lmtp --refuse *=452_4.2.2_full@dot:p=0.3";
    play(arguments, None, |board, verdict| {
        assert_eq!(verdict.accepted + verdict.refused, 800);
        assert!((150..330).contains(&verdict.refused), "{verdict:?}");
        assert_eq!((verdict.arrived, verdict.refused_but_delivered), (verdict.accepted, 0));
        assert!(board.source.accepted > 150, "most messages reach somebody");
    })
}

#[test]
fn connections_that_drop_are_opened_again_and_what_was_in_flight_is_cut_off() -> Result<(), Failure> {
    let rules = "--reconnect --refuse load*=drop@data:p=0.01";
    play(&format!("--messages 400 --connections 4 {rules}"), None, |board, verdict| {
        assert_eq!(verdict.aborted, board.sink.counts.dropped);
        assert_eq!(verdict.accepted + verdict.aborted, 400);
        assert!(verdict.holds(false), "{verdict:?}");
    })
}

#[test]
fn a_reply_lost_after_the_end_of_data_is_unknown() -> Result<(), Failure> {
    let rules = "--reconnect --refuse load*=drop@dot:p=0.02";
    play(&format!("--messages 400 --connections 4 {rules}"), None, |board, verdict| {
        assert!(verdict.unknown > 0 && verdict.unknown <= board.sink.counts.dropped);
        assert_eq!(verdict.accepted + verdict.unknown + verdict.aborted, 400);
        assert!(verdict.holds(false), "{verdict:?}");
    })
}

#[test]
fn a_relay_that_loses_what_it_accepted_is_found_out() -> Result<(), Failure> {
    let hole = Sink::start(
        options("--messages 1")?.sink_options.settings(&["127.0.0.1:0".parse()?])?,
        &SharedBoard::default(),
    )?;
    play("--messages 50 --connections 2", Some(hole.addresses()[0]), |_, verdict| {
        assert_eq!((verdict.accepted, verdict.lost, verdict.holds(true)), (50, 50, false));
    })?;
    hole.stop()?;
    Ok(())
}

#[test]
fn a_source_ends_when_the_relay_refuses_connections() -> Result<(), Failure> {
    // The port is free again once the listener is dropped.
    let closed = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    play("--messages 5 --connections 3", Some(closed), |board, _| {
        assert_eq!((board.source.accepted, board.source.connects_failed), (0, 3));
    })
}

#[test]
fn bytes_that_are_not_smtp_end_the_source_and_do_not_hang_it() -> Result<(), Failure> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream?;
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")?;
            stream.shutdown(Shutdown::Write)?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            let _ = stream.read(&mut [0; 64])?;
        }
        Ok::<(), std::io::Error>(())
    });
    play("--messages 5 --connections 1", Some(address), |board, verdict| {
        assert_eq!((board.source.accepted, verdict.accepted), (0, 0));
        assert!(board.source.connections_lost > 0);
    })
}

#[test]
fn a_changed_body_and_a_wrong_recipient_are_found_out() -> Result<(), Failure> {
    let board = SharedBoard::default();
    let command = options("--messages 1")?;
    let sink = Sink::start(command.sink_options.settings(&command.sink)?, &board)?;
    let plan = command.source.plan()?;
    // Message 0 with a letter changed, message 1 sent to message 2's recipient, message 3 as it should be.
    for (number, addressed, change) in [(0, 0, true), (1, 2, false), (3, 3, false)] {
        let mut header = Vec::new();
        plan.template(number).header(plan.id(number), 0, &mut header);
        let mut body = plan.template(number).body().to_vec();
        body[20] ^= u8::from(change);
        let mut bytes = Vec::new();
        plan.mail(number, &mut bytes);
        plan.rcpt(addressed, 0, &mut bytes);
        bytes.extend([b"DATA\r\n", &header[..], &body, b"QUIT\r\n"].concat());
        let mut stream = TcpStream::connect(sink.addresses()[0])?;
        stream.write_all(&bytes)?;
        let mut replies = String::new();
        stream.read_to_string(&mut replies)?;
        assert!(replies.contains("\r\n221 "), "{replies}");
    }
    sink.stop()?;
    let mut board = board.lock();
    let verdict = board.books.ledger(plan.run).map(|ledger| ledger.verdict()).unwrap_or_default();
    assert_eq!((verdict.corrupted, verdict.misdelivered, verdict.arrived), (1, 1, 2));
    assert!(!verdict.holds(true));
    Ok(())
}
