//! The three commands: they wire the parts, wait, and report. Returns the exit code: 0, or 1 if a ledger does not hold
//! or nothing was accepted.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::board::{Board, SharedBoard, ThreadUse};
use crate::clock::{self, Micros};
use crate::options::{Command, Options, OutputOptions, RunCommand, SinkCommand, SourceCommand, is_loopback};
use crate::process;
use crate::report::{GeneratorReport, RelayReport, Report, SinkReport, SourceReport, duration, faults};
use crate::sink::{Sink, control};
use crate::source::Source;
use crate::wire::mark::Run;

/// How often the waiting thread looks.
const LOOK: Duration = Duration::from_millis(20);
/// Faults named in a report.
const FAULTS_SHOWN: usize = 10;

type Failure = Box<dyn std::error::Error>;

/// Does what the command line says.
pub fn execute(options: Options) -> Result<u8, Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // A second one ends the process at once: somebody means it.
        signal_hook::flag::register_conditional_shutdown(signal, 130, stop.clone())?;
        signal_hook::flag::register(signal, stop.clone())?;
    }
    match options.command {
        Command::Source(command) => source(&command, &stop),
        Command::Sink(command) => sink(&command, &stop),
        Command::Run(command) => run(&command, &stop),
    }
}

fn source(command: &SourceCommand, stop: &Arc<AtomicBool>) -> Result<u8, Failure> {
    let board = SharedBoard::default();
    let plan = command.source.plan()?;
    let run = plan.run;
    let pace = command.source.pace(clock::now())?;
    let source = Source::start(&command.source.settings()?, plan, pace, &board, stop)?;
    let mut live = Live::new(&command.output);
    while !source.is_finished() {
        std::thread::sleep(LOOK);
        live.look(&board);
    }
    let threads = source.join()?;
    let mut board = board.lock();
    let report = Report {
        run: Some(format!("{:08x}", run.0)),
        source: Some(SourceReport::of(&board, command.source.rate.is_some())),
        ledger: board.books.ledger(run).map(|ledger| ledger.verdict()).map(without_sink),
        generator: GeneratorReport::of(&threads, &[]),
        ..Report::default()
    };
    publish(report, &command.output)?;
    Ok(u8::from(board.source.accepted == 0))
}

/// A source alone cannot say what was lost.
fn without_sink(verdict: crate::ledger::Verdict) -> crate::ledger::Verdict {
    crate::ledger::Verdict { lost: 0, ..verdict }
}

fn sink(command: &SinkCommand, stop: &Arc<AtomicBool>) -> Result<u8, Failure> {
    let board = SharedBoard::default();
    if let Some(address) = command.control {
        if !is_loopback(address.ip()) {
            return Err("--control takes a loopback address: it has no password".into());
        }
        eprintln!("control on {}", control::start(address, board.clone(), stop.clone())?);
    }
    let sink = Sink::start(command.sink.settings(&command.listen)?, &board)?;
    for address in sink.addresses() {
        eprintln!("listening on {address}; Ctrl-C ends and prints the counts");
    }
    let mut live = Live::new(&command.output);
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(LOOK);
        live.look(&board);
    }
    let threads = sink.stop()?;
    let board = board.lock();
    let mut report = Report {
        sink: Some(SinkReport::of(&board)),
        generator: GeneratorReport::of(&[], &threads),
        ..Report::default()
    };
    for (run, ledger) in board.books.iter() {
        let verdict = ledger.verdict();
        report.faults.push(format!(
            "run {:08x}: {} recipients arrived, {} corrupted, {} messages bounced",
            run.0, verdict.arrived, verdict.corrupted, verdict.bounced_messages
        ));
    }
    publish(report, &command.output)?;
    Ok(0)
}

fn run(command: &RunCommand, stop: &Arc<AtomicBool>) -> Result<u8, Failure> {
    let board = SharedBoard::default();
    let before = command.pid.map(|pid| process::usage(pid).ok_or(format!("--pid {pid}: no such process")));
    let before = before.transpose()?;
    let plan = command.source.plan()?;
    let run = plan.run;
    let settings = command.source.settings()?;
    let sink = Sink::start(command.sink_options.settings(&command.sink)?, &board)?;
    let pace = command.source.pace(clock::now())?;
    let source = Source::start(&settings, plan, pace, &board, stop)?;
    let mut live = Live::new(&command.output);
    while !source.is_finished() {
        std::thread::sleep(LOOK);
        live.look(&board);
    }
    let source_threads = source.join()?;
    drain(command, &board, run, stop, &mut live);
    let after = command.pid.and_then(process::usage);
    let sink_threads = sink.stop()?;
    let mut board = board.lock();
    let mut report = judge(command, &mut board, run, &source_threads, &sink_threads);
    if let (Some(before), Some(after)) = (before, after) {
        report.relay = Some(RelayReport::of(&before, &after, board.source.accepted));
    }
    let holds = report.holds == Some(true);
    publish(report, &command.output)?;
    Ok(u8::from(!holds || board.source.accepted == 0))
}

/// Waits until everything accepted has arrived (and bounced, if that is expected), then watches for repeats.
fn drain(command: &RunCommand, board: &SharedBoard, run: Run, stop: &AtomicBool, live: &mut Live) {
    let seconds = Duration::from_secs(command.drain_timeout).as_micros();
    let deadline = clock::now().saturating_add(Micros::try_from(seconds).unwrap_or(Micros::MAX));
    let mut settled_at = None;
    // Ctrl-C during the source's part still drains; it is given a short time then.
    let interrupted = stop.load(Ordering::Relaxed).then(|| clock::now() + 2_000_000);
    loop {
        let now = clock::now();
        let open = board.lock().books.ledger(run).map_or(0, |ledger| {
            ledger.outstanding() + if command.expect_bounces { ledger.bounces_owed() } else { 0 }
        });
        if open == 0 {
            let since: Micros = *settled_at.get_or_insert(now);
            if now - since >= command.linger.saturating_mul(1000) {
                return;
            }
        } else {
            settled_at = None;
        }
        let stopped_now = interrupted.is_none() && stop.load(Ordering::Relaxed);
        if now >= deadline || stopped_now || interrupted.is_some_and(|end| now >= end) {
            return;
        }
        std::thread::sleep(LOOK);
        live.look(board);
    }
}

fn judge(
    command: &RunCommand,
    board: &mut Board,
    run: Run,
    source: &[ThreadUse],
    sink: &[ThreadUse],
) -> Report {
    let verdict = board.books.ledger(run).map(|ledger| ledger.verdict()).unwrap_or_default();
    let bounced = !command.expect_bounces || verdict.bounces_missing == 0;
    Report {
        run: Some(format!("{:08x}", run.0)),
        source: Some(SourceReport::of(board, command.source.rate.is_some())),
        sink: Some(SinkReport::of(board)),
        holds: Some(verdict.holds(command.repeats_allowed) && bounced),
        ledger: Some(verdict),
        faults: faults(board, run, FAULTS_SHOWN),
        generator: GeneratorReport::of(source, sink),
        ..Report::default()
    }
}

fn publish(mut report: Report, output: &OutputOptions) -> Result<(), Failure> {
    report.command = std::env::args().collect::<Vec<_>>().join(" ");
    io::stdout().write_all(report.to_string().as_bytes())?;
    if let Some(path) = &output.json {
        let text = serde_json::to_string_pretty(&report)? + "\n";
        std::fs::write(path, text).map_err(|error| format!("--json {}: {error}", path.display()))?;
    }
    Ok(())
}

/// The line each second.
struct Live {
    shown: bool,
    next: Micros,
    last: (Micros, u64, u64),
}

impl Live {
    fn new(output: &OutputOptions) -> Self {
        let now = clock::now();
        let shown = output.live || io::stderr().is_terminal();
        Self { shown, next: now + 1_000_000, last: (now, 0, 0) }
    }

    fn look(&mut self, board: &SharedBoard) {
        let now = clock::now();
        if !self.shown || now < self.next {
            return;
        }
        self.next = now + 1_000_000;
        let board = board.lock();
        let (accepted, arrived) = (board.source.accepted, board.sink.counts.messages);
        let seconds = (now - self.last.0) as f64 / 1e6;
        let rate = |new: u64, old: u64| (new - old) as f64 / seconds;
        eprintln!(
            "accepted {accepted} ({:.0}/s)  at sink {arrived} ({:.0}/s)  in flight {}  refused {}  unknown {}  end of data p50 {} p99 {}",
            rate(accepted, self.last.1),
            rate(arrived, self.last.2),
            board.source.in_flight,
            board.source.refused,
            board.source.unknown,
            duration(board.source.end_of_data.value_at_quantile(0.5)),
            duration(board.source.end_of_data.value_at_quantile(0.99)),
        );
        self.last = (now, accepted, arrived);
    }
}
