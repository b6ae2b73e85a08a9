//! One whole run: sink, relay (if it is to be started), source, drain, verdict.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::board::{SharedBoard, ThreadUse};
use crate::bounds::Bound;
use crate::clock::{self, Micros};
use crate::environment::{busy_between, cpu_ticks};
use crate::options::{RunCommand, TlsMode, listens_here};
use crate::process::{self, Usage};
use crate::report::generator::GeneratorReport;
use crate::report::{RelayReport, Report, SinkReport, SourceReport, faults};
use crate::run::live::Live;
use crate::run::relay::{Recipe, Relay};
use crate::run::{Failure, LOOK, finish};
use crate::sink::Sink;
use crate::source::Source;
use crate::wire::mark::Run;

/// Faults named in a report.
const FAULTS_SHOWN: usize = 10;

/// What the relay is subjected to while the source runs.
pub trait Ordeal {
    /// Called about fifty times a second. `true` ends the sending, and so does an error.
    fn look(&mut self, relay: &mut Option<Relay>) -> Result<bool, Failure>;
    /// Something for the report.
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }
}

/// Nothing happens to the relay.
pub struct Peace;

impl Ordeal for Peace {
    fn look(&mut self, relay: &mut Option<Relay>) -> Result<bool, Failure> {
        let ended = relay.as_mut().is_some_and(|relay| !relay.is_running());
        if ended { Err("the relay ended by itself".into()) } else { Ok(false) }
    }
}

/// Runs once and judges. The board is left with everything measured.
pub fn trial(
    command: &RunCommand,
    stop: &Arc<AtomicBool>,
    board: &SharedBoard,
    ordeal: &mut dyn Ordeal,
) -> Result<Report, Failure> {
    let bounds = command.bounds()?;
    let plan = command.source.plan()?;
    let run = plan.run;
    let settings = command.source.settings()?;
    listens_here(&command.sink, command.source.i_own_this_host)?;
    let sink = Sink::start(command.sink_options.settings(&command.sink)?, board)?;
    let first = sink.addresses().first().copied().ok_or("--sink is empty")?;
    let recipe = recipe(command, settings.target, first);
    let mut relay = recipe.map(|recipe| Relay::start(&recipe, stop)).transpose()?;
    let pid = relay.as_ref().map(Relay::pid).or(command.pid);
    let before = pid.map(|pid| process::usage(pid).ok_or(format!("--pid {pid}: no such process")));
    let before = before.transpose()?;
    let ticks = cpu_ticks();
    // The sending may be over before the run is: the drain looks at the user's own stop.
    let enough = Arc::new(AtomicBool::new(false));
    let source = Source::start(&settings, plan, command.source.pace(clock::now())?, board, &enough)?;
    let mut live = Live::new(&command.output);
    let mut failed = None;
    while !source.is_finished() {
        std::thread::sleep(LOOK);
        live.look(board);
        let over = if failed.is_none() { ordeal.look(&mut relay) } else { Ok(true) };
        if !matches!(over, Ok(false)) || stop.load(Ordering::Relaxed) {
            source.stop();
        }
        failed = failed.or(over.err());
    }
    let source_threads = source.join()?;
    let busy = busy_between(ticks, cpu_ticks());
    let given_up = drain(command, board, run, stop, &mut live);
    // One that was killed and started again has lost the account of its earlier lives.
    let same = relay.as_ref().is_none_or(|relay| Some(relay.pid()) == pid);
    let after = pid.and_then(process::usage).filter(|_| same);
    let before = before.filter(|_| same);
    let sink_threads = sink.stop()?;
    let mut notes = ordeal.notes();
    notes.extend(given_up);
    let went_wrong = failed.is_some();
    notes.extend(failed.map(|error| error.to_string()));
    if let Some(relay) = relay {
        let took = relay.stop()?;
        notes.push(format!("the relay stopped within {:.1} s of SIGTERM", took.as_secs_f64()));
    }
    let mut report = judge(command, board, run, (&source_threads, &sink_threads), busy);
    report.notes.append(&mut notes);
    relay_report(&mut report, before, after);
    finish(&mut report, &board.lock(), &command.output, Some(command.source.seed));
    apply(&bounds, &mut report);
    if went_wrong {
        report.fail("the run was cut short");
    }
    Ok(report)
}

/// How the relay is started, if it is to be.
pub fn recipe(command: &RunCommand, target: SocketAddr, sink: SocketAddr) -> Option<Recipe> {
    let wait = Duration::from_secs(command.relay_wait);
    let log = command.relay_log.clone();
    let greets = command.source.tls != TlsMode::Implicit;
    command.relay.clone().map(|command| Recipe { command, target, sink, wait, greets, log })
}

fn relay_report(report: &mut Report, before: Option<Usage>, after: Option<Usage>) {
    let accepted = report.source.as_ref().map_or(0, |source| source.accepted);
    match (before, after) {
        (Some(before), Some(after)) => report.relay = Some(RelayReport::of(&before, &after, accepted)),
        (Some(_), None) => {
            report.notes.push("the relay's process is gone, so its CPU time and memory are not known".into())
        }
        _ => {}
    }
}

/// Adds what became of the bounds to the verdict.
fn apply(bounds: &[Bound], report: &mut Report) {
    report.bounds = bounds.iter().map(|bound| bound.judge(report)).collect();
    let missed: Vec<String> =
        report.bounds.iter().filter(|bound| !bound.holds).map(|bound| bound.bound.clone()).collect();
    if !missed.is_empty() {
        report.fail(format!("missed: {}", missed.join(", ")));
    }
}

/// Waits until everything accepted has arrived (and bounced, if that is expected), then watches for repeats. What it says
/// if it gave up waiting is for the report.
fn drain(
    command: &RunCommand,
    board: &SharedBoard,
    run: Run,
    stop: &AtomicBool,
    live: &mut Live,
) -> Option<String> {
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
                return None;
            }
        } else {
            settled_at = None;
        }
        let stopped_now = interrupted.is_none() && stop.load(Ordering::Relaxed);
        if now >= deadline || stopped_now || interrupted.is_some_and(|end| now >= end) {
            return (open > 0).then(|| given_up(open, now, board));
        }
        std::thread::sleep(LOOK);
        live.look(board);
    }
}

/// A queue that is still being worked off is no loss, but it looks like one.
fn given_up(open: u64, now: Micros, board: &SharedBoard) -> String {
    let last = board.lock().sink.first_and_last.map_or(0, |(_, last)| last);
    let silence = now.saturating_sub(last) as f64 / 1e6;
    let guess = if silence < 5.0 {
        "they may be in the relay's queue still: a longer --drain-timeout would tell"
    } else {
        "if the relay tries again later than that, --drain-timeout is too short"
    };
    format!("{open} were awaited when the run ended, {silence:.1} s after the last arrival; {guess}")
}

fn judge(
    command: &RunCommand,
    board: &SharedBoard,
    run: Run,
    (source, sink): (&[ThreadUse], &[ThreadUse]),
    busy: Option<f64>,
) -> Report {
    let mut board = board.lock();
    let board = &mut *board;
    let verdict = board.books.ledger(run).map(|ledger| ledger.verdict()).unwrap_or_default();
    let mut report = Report {
        run: Some(format!("{:08x}", run.0)),
        source: Some(SourceReport::of(board, command.source.open_loop())),
        sink: Some(SinkReport::of(board)),
        holds: Some(true),
        notes: faults(board, run, FAULTS_SHOWN),
        generator: GeneratorReport::of(source, sink, busy, board),
        ..Report::default()
    };
    if verdict.accepted == 0 {
        report.fail("nothing was accepted");
    }
    verdict.faults(command.repeats_allowed).into_iter().for_each(|fault| report.fail(fault));
    if command.expect_bounces && verdict.bounces_missing > 0 {
        report.fail(format!("{} bounces missing", verdict.bounces_missing));
    }
    Report { ledger: Some(verdict), ..report }
}
