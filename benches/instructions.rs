//! Instructions and allocations of each pure stage of a message: the same in every run, however busy the machine is. Each has a bound; more
//! than that fails the run, and with it the gate.
//!
//! Called without arguments it runs itself under valgrind for each stage, with two numbers of rounds: the difference is what the rounds cost,
//! without the start. A stage that became dearer for a reason gets a new bound, with the reason in the commit; one that became
//! cheaper as well, or what was won is lost again unseen.

mod work;

use std::alloc::System;
use std::env;
use std::process::{Command, ExitCode};

use ringpost::protocol::extension::Extensions;
use ringpost::protocol::line::LineScanner;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use work::{Acceptance, Data, Queued, Remote, Server};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Rounds before anything is counted: buffers have grown by then.
const WARM_UP: usize = 50;
/// Rounds that are counted.
const ROUNDS: usize = 200;

/// A piece of work, and what a round of it may cost at most.
struct Stage {
    name: &'static str,
    /// About a tenth more than what was counted when the bound was written: other versions of the compiler must fit in.
    instructions_max: u64,
    /// What was counted; a little more where maps grow now and then.
    allocations_max: f64,
    work: fn() -> Box<dyn FnMut()>,
}

const STAGES: &[Stage] = &[
    stage("scan three lines", 1_050, 0.0, || {
        let mut scanner = LineScanner::default();
        Box::new(move || work::scan(&mut scanner))
    }),
    stage("parse three commands", 8_600, 0.0, || {
        let offered = Extensions::default();
        Box::new(move || work::parse(&offered))
    }),
    stage("decode a body of 4 KiB", 15_500, 0.0, || {
        let mut data = Data::new();
        Box::new(move || data.once())
    }),
    stage("take a message by DATA", 27_000, 1.0, || {
        let mut server = Server::by_data();
        Box::new(move || server.once())
    }),
    stage("take a message by BDAT", 27_500, 1.0, || {
        let mut server = Server::by_bdat();
        Box::new(move || server.once())
    }),
    stage("encode its record", 3_850, 0.0, || {
        let mut acceptance = Acceptance::new();
        Box::new(move || acceptance.encode())
    }),
    stage("decode its record", 3_100, 0.0, || {
        let mut acceptance = Acceptance::new();
        Box::new(move || acceptance.decode())
    }),
    stage("queue and settle it", 12_500, 6.7, || {
        let mut queued = Queued::behind(0);
        Box::new(move || queued.once())
    }),
    stage("queue and settle it behind 100,000", 8_000, 2.1, || {
        let mut queued = Queued::behind(100_000);
        Box::new(move || queued.once())
    }),
    stage("send a message by DATA", 9_700, 2.0, || {
        let mut remote = Remote::by_data();
        Box::new(move || remote.once())
    }),
    stage("send a message by BDAT", 7_400, 2.0, || {
        let mut remote = Remote::by_bdat();
        Box::new(move || remote.once())
    }),
];

const fn stage(
    name: &'static str,
    instructions_max: u64,
    allocations_max: f64,
    work: fn() -> Box<dyn FnMut()>,
) -> Stage {
    Stage { name, instructions_max, allocations_max, work }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match arguments.as_slice() {
        [] => measure_all(),
        [stage, rounds] => {
            let (stage, rounds): (usize, usize) =
                (stage.parse().expect("a stage's number"), rounds.parse().expect("how many rounds"));
            run(&mut (STAGES[stage].work)(), WARM_UP + rounds);
            ExitCode::SUCCESS
        }
        // `cargo test --benches` passes other things: there is nothing to measure in a build that is not optimised.
        _ => ExitCode::SUCCESS,
    }
}

fn run(once: &mut dyn FnMut(), rounds: usize) {
    (0..rounds).for_each(|_| once());
}

fn measure_all() -> ExitCode {
    if Command::new("valgrind").arg("--version").output().is_err() {
        println!("SKIP instructions: no valgrind");
        return ExitCode::SUCCESS;
    }
    println!(
        "{:<36} {:>12} {:>9} {:>12} {:>9}",
        "a round of", "instructions", "bound", "allocations", "bound"
    );
    let mut exceeded = false;
    for (index, stage) in STAGES.iter().enumerate() {
        let instructions = (counted(index, ROUNDS) - counted(index, 0)) / ROUNDS as u64;
        let allocations = allocations(stage);
        let over = instructions > stage.instructions_max || allocations > stage.allocations_max;
        exceeded |= over;
        println!(
            "{:<36} {instructions:>12} {:>9} {allocations:>12.2} {:>9.2}{}",
            stage.name,
            stage.instructions_max,
            stage.allocations_max,
            if over { "  TOO MUCH" } else { "" }
        );
    }
    if exceeded { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn allocations(stage: &Stage) -> f64 {
    let mut once = (stage.work)();
    run(&mut once, WARM_UP);
    let region = Region::new(ALLOCATOR);
    run(&mut once, ROUNDS);
    let change = region.change();
    (change.allocations + change.reallocations) as f64 / ROUNDS as f64
}

/// Instructions of a run of this program with so many rounds.
fn counted(stage: usize, rounds: usize) -> u64 {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(env::current_exe().expect("this program"))
        .args([stage.to_string(), rounds.to_string()])
        .output()
        .expect("valgrind runs");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    let line = text.lines().find_map(|line| line.split_once("Collected :")).expect("a sum of instructions");
    line.1.trim().parse().expect("a number")
}
