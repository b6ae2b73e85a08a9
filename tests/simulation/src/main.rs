//! `ringpost-simulation simulate --seeds N`: lets seeds happen, prints the command for the first that broke the law.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;

use clap::{Parser, Subcommand};
use ringpost_simulation::ledger::Violation;
use ringpost_simulation::plan::Plan;
use ringpost_simulation::replay;
use ringpost_simulation::run::{Report, Sabotage, run};

#[derive(Debug, Parser)]
#[command(name = "ringpost-simulation", version, about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Let seeds happen; exit code 1 if one of them breaks the law
    Simulate {
        /// How many
        #[arg(long, default_value_t = 1000)]
        seeds: u64,
        /// The first one
        #[arg(long, default_value_t = 0)]
        first: u64,
        /// Threads; all CPUs when not given
        #[arg(long)]
        threads: Option<usize>,
        /// Print the plan and the result of every seed
        #[arg(long)]
        verbose: bool,
    },
}

fn main() -> ExitCode {
    let Command::Simulate { seeds, first, threads, verbose } = Cli::parse().command;
    let threads =
        threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from)).max(1);
    let next = AtomicU64::new(first);
    let (say, said) = mpsc::channel();
    let mut failed = 0u64;
    std::thread::scope(|scope| {
        for _ in 0..threads {
            let (next, say) = (&next, say.clone());
            scope.spawn(move || {
                loop {
                    // Only a number is shared.
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + seeds || say.send((seed, attempt(seed))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(say);
        failed = report(&said, verbose);
    });
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A panic is a finding like any other.
fn attempt(seed: u64) -> Result<Report, Violation> {
    let caught = catch_unwind(AssertUnwindSafe(|| run(seed, Sabotage::default())));
    caught.unwrap_or_else(|_| Err(Violation("a panic, printed above".to_owned())))
}

fn report(said: &mpsc::Receiver<(u64, Result<Report, Violation>)>, verbose: bool) -> u64 {
    let (mut done, mut failed, mut recipients, mut crashes, mut repeated) = (0u64, 0u64, 0u64, 0u64, 0u64);
    let (mut bounced, mut fences, mut drained, mut moved, mut aborted) = (0u64, 0u64, 0u64, 0u64, 0u64);
    let (mut succeeded, mut delayed) = (0u64, 0u64);
    for (seed, result) in said {
        done += 1;
        if verbose {
            println!("{seed}: {result:?}\n  {:?}", Plan::new(seed));
        }
        match result {
            Ok(report) => {
                recipients += u64::from(report.totals.accepted);
                crashes += u64::from(report.crashes);
                repeated += u64::from(report.totals.repeated);
                bounced += u64::from(report.totals.bounced);
                fences += u64::from(report.seen.fences);
                drained += u64::from(report.seen.drained);
                moved += u64::from(report.seen.records.moved > 0);
                aborted += u64::from(report.seen.records.aborted > 0);
                succeeded += u64::from(report.totals.succeeded);
                delayed += u64::from(report.totals.delayed);
            }
            Err(violation) => {
                failed += 1;
                println!("seed {seed} breaks the law: {}\n  again: {}", violation.0, replay(seed));
            }
        }
        if done.is_multiple_of(1000) {
            println!("{done} seeds, {failed} failed");
        }
    }
    println!(
        "{done} seeds, {failed} failed: {recipients} recipients accepted, {bounced} bounced, {crashes} crashes, {fences} fences, \
         {repeated} deliveries repeated, success told of {succeeded}, delay of {delayed}; {drained} parts drained, \
         {moved} seeds with moved records, {aborted} with aborted ones"
    );
    failed
}
