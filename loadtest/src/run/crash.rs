//! Kills the relay with SIGKILL again and again while it is loaded, starts it again, and judges what arrived: accepted
//! messages must survive. A kill leaves the kernel's page cache alone, so it does not prove that anything was synced.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use crate::board::SharedBoard;
use crate::clock;
use crate::limits::DURATION_SECONDS_MAX;
use crate::options::CrashCommand;
use crate::run::relay::{Recipe, Relay};
use crate::run::trial::{Ordeal, recipe, trial};
use crate::run::{Failure, publish};
use crate::wire::template::mix;

/// The kills of a campaign.
struct Kills {
    recipe: Recipe,
    left: u32,
    done: u32,
    /// Shortest and longest life, in milliseconds.
    life: (u64, u64),
    chance: u64,
    next: Instant,
    slowest_start: Duration,
    board: SharedBoard,
    /// What had been accepted at the last kill.
    accepted: u64,
    /// Kills before which nothing new had been accepted, which prove little.
    idle: u32,
}

impl Kills {
    fn life(&mut self) -> Duration {
        self.chance = mix(self.chance);
        let (shortest, longest) = self.life;
        Duration::from_millis(shortest + self.chance % (longest.saturating_sub(shortest) + 1))
    }
}

impl Ordeal for Kills {
    fn look(&mut self, relay: &mut Option<Relay>) -> Result<bool, Failure> {
        let Some(running) = relay else { return Err("--relay is needed".into()) };
        if !running.is_running() {
            return Err("the relay ended by itself".into());
        }
        if self.left == 0 {
            // It lives on, so that what is left can be delivered.
            return Ok(true);
        }
        if Instant::now() < self.next {
            return Ok(false);
        }
        running.kill()?;
        (self.left, self.done) = (self.left - 1, self.done + 1);
        let accepted = self.board.lock().source.accepted;
        self.idle += u32::from(accepted == self.accepted);
        self.accepted = accepted;
        let begun = Instant::now();
        let stop = AtomicBool::new(false);
        *relay = Some(Relay::start_again(&self.recipe, &stop)?);
        self.slowest_start = self.slowest_start.max(begun.elapsed());
        self.next = Instant::now() + self.life();
        Ok(false)
    }

    fn notes(&self) -> Vec<String> {
        let mut notes = vec![format!(
            "killed {} times with SIGKILL; it was ready again within {:.2} s at the slowest",
            self.done,
            self.slowest_start.as_secs_f64()
        )];
        if self.idle > 0 {
            notes.push(format!(
                "before {} of the kills nothing new had been accepted: a longer --life-min?",
                self.idle
            ));
        }
        notes
    }
}

/// Runs the campaign.
pub fn crash(command: &CrashCommand, stop: &Arc<AtomicBool>) -> Result<u8, Failure> {
    let mut run = command.run.clone();
    let sink = run.sink.first().map(|sink| sink.address).filter(|sink| sink.port() != 0);
    let sink = sink.ok_or("crash needs --sink with a port: the relay must find it again")?;
    let recipe = recipe(&run, run.source.settings()?.target, sink);
    let recipe = recipe.ok_or("crash needs --relay COMMAND: it kills only what it has started")?;
    run.source.reconnect = true;
    run.repeats_allowed = true;
    // The kills decide when it is over; this only bounds it.
    let life = (command.life_max / 1000).saturating_add(run.relay_wait).saturating_add(1);
    let bound = (u64::from(command.kills) + 1).saturating_mul(life).min(DURATION_SECONDS_MAX);
    run.source.duration = Some(run.source.duration.unwrap_or(bound).max(1));
    let board = SharedBoard::default();
    let mut kills = Kills {
        recipe,
        left: command.kills,
        done: 0,
        life: (command.life_min, command.life_max),
        chance: mix(run.source.seed ^ clock::now()),
        next: Instant::now() + Duration::from_millis(command.life_max),
        slowest_start: Duration::ZERO,
        board: board.clone(),
        accepted: 0,
        idle: 0,
    };
    let mut report = trial(&run, stop, &board, &mut kills)?;
    if kills.done < command.kills {
        report.fail(format!("only {} of {} kills were done", kills.done, command.kills));
    }
    publish(&report, &board.lock(), &run.output)?;
    Ok(u8::from(report.holds != Some(true)))
}
