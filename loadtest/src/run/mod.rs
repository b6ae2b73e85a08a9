//! The commands: they wire the parts, wait, and report. The exit code is 0, or 1 if a ledger or a bound does not hold or
//! nothing was accepted.

pub mod crash;
pub mod live;
pub mod relay;
pub mod search;
pub mod trial;

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::board::{Board, SharedBoard};
use crate::clock;
use crate::compare;
use crate::door;
use crate::environment::{Environment, busy_between, cpu_ticks};
use crate::measure::export;
use crate::options::{
    Command, Options, OutputOptions, RunCommand, SinkCommand, SourceCommand, is_loopback, listens_here,
};
use crate::page;
use crate::report::curves::{Curve, Seconds};
use crate::report::generator::GeneratorReport;
use crate::report::{Report, SinkReport, SourceReport};
use crate::run::live::Live;
use crate::sink::{Sink, control};
use crate::source::Source;

/// How often the waiting thread looks.
const LOOK: Duration = Duration::from_millis(20);

/// Why a command could not be carried out.
pub type Failure = Box<dyn std::error::Error>;

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
        Command::Search(command) => search::search(&command, &stop),
        Command::Crash(command) => crash::crash(&command, &stop),
        Command::Door(command) => {
            io::stdout().write_all(door::door(&command)?.as_bytes())?;
            Ok(0)
        }
        Command::Compare(command) => {
            let text = compare::compare(&load(&command.before)?, &load(&command.after)?);
            io::stdout().write_all(text.as_bytes())?;
            Ok(0)
        }
        Command::Page(command) => {
            write(&command.output, &page::page(&load(&command.report)?))?;
            Ok(0)
        }
    }
}

fn load(path: &Path) -> Result<Report, Failure> {
    let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let text = std::fs::read_to_string(path).map_err(|error| failed(&error))?;
    Ok(serde_json::from_str(&text).map_err(|error| failed(&error))?)
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()).into())
}

fn source(command: &SourceCommand, stop: &Arc<AtomicBool>) -> Result<u8, Failure> {
    let board = SharedBoard::default();
    let plan = command.source.plan()?;
    let run = plan.run;
    let ticks = cpu_ticks();
    let settings = command.source.settings()?;
    let source = Source::start(&settings, plan, command.source.pace(clock::now())?, &board, stop)?;
    let mut live = Live::new(&command.output);
    while !source.is_finished() {
        std::thread::sleep(LOOK);
        live.look(&board);
    }
    let threads = source.join()?;
    let board = board.lock();
    let mut report = Report {
        run: Some(format!("{:08x}", run.0)),
        source: Some(SourceReport::of(&board, command.source.open_loop())),
        generator: GeneratorReport::of(&threads, &[], busy_between(ticks, cpu_ticks()), &board),
        ..Report::default()
    };
    finish(&mut report, &board, &command.output, Some(command.source.seed));
    publish(&report, &board, &command.output)?;
    Ok(u8::from(board.source.accepted == 0))
}

fn sink(command: &SinkCommand, stop: &Arc<AtomicBool>) -> Result<u8, Failure> {
    let board = SharedBoard::default();
    if let Some(address) = command.control {
        if !is_loopback(address.ip()) {
            return Err("--control takes a loopback address: it has no password".into());
        }
        eprintln!("control on {}", control::start(address, board.clone(), stop.clone())?);
    }
    listens_here(&command.listen, command.i_own_this_host)?;
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
        generator: GeneratorReport::of(&[], &threads, None, &board),
        ..Report::default()
    };
    for (run, ledger) in board.books.iter() {
        let verdict = ledger.verdict();
        report.notes.push(format!(
            "run {:08x}: {} recipients arrived, {} corrupted, {} messages bounced",
            run.0, verdict.arrived, verdict.corrupted, verdict.bounced_messages
        ));
    }
    finish(&mut report, &board, &command.output, None);
    publish(&report, &board, &command.output)?;
    Ok(0)
}

fn run(command: &RunCommand, stop: &Arc<AtomicBool>) -> Result<u8, Failure> {
    let board = SharedBoard::default();
    let report = trial::trial(command, stop, &board, &mut trial::Peace)?;
    publish(&report, &board.lock(), &command.output)?;
    Ok(u8::from(report.holds != Some(true)))
}

/// Adds what every report has: the environment and the pictures' data.
fn finish(report: &mut Report, board: &Board, output: &OutputOptions, seed: Option<u64>) {
    report.command = std::env::args().map(quoted).collect::<Vec<_>>().join(" ");
    report.environment = Environment::read(&output.disk, seed, &output.note);
    report.seconds = Seconds::of(&board.timeline);
    report.curves = Curve::all(&board.source.phases);
}

/// An argument as it can be given to a shell again.
fn quoted(argument: String) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:=,@%+".contains(&byte);
    if !argument.is_empty() && argument.bytes().all(plain) {
        return argument;
    }
    format!("'{}'", argument.replace('\'', "'\\''"))
}

/// Prints the report and writes the files asked for.
fn publish(report: &Report, board: &Board, output: &OutputOptions) -> Result<(), Failure> {
    io::stdout().write_all(report.to_string().as_bytes())?;
    if let Some(path) = &output.json {
        write(path, &(serde_json::to_string_pretty(report)? + "\n"))?;
    }
    if let Some(path) = &output.html {
        write(path, &page::page(report))?;
    }
    if let Some(path) = &output.csv {
        write(path, &export::csv(&board.timeline))?;
    }
    if let Some(directory) = &output.hgrm {
        std::fs::create_dir_all(directory).map_err(|error| format!("{}: {error}", directory.display()))?;
        for (name, text) in export::hgrm_files(&board.source.phases) {
            write(&directory.join(name), &text)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn the_command_in_a_report_can_be_given_to_a_shell_again() {
        for (argument, want) in
            [("--size=1k", "--size=1k"), ("", "''"), ("p99<=1s", "'p99<=1s'"), ("it's", "'it'\\''s'")]
        {
            assert_eq!(quoted(argument.into()), want);
        }
    }
}
