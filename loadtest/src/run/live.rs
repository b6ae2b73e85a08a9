//! The line each second: the last whole second's rate and latencies, and what has gone wrong so far.

use std::io::{self, IsTerminal};

use crate::board::{Board, SharedBoard};
use crate::clock::{self, Micros};
use crate::options::OutputOptions;
use crate::report::text::duration;

/// The line each second.
pub struct Live {
    shown: bool,
    next: Micros,
    last: (Micros, u64, u64),
}

impl Live {
    /// Shown on terminals, or if asked for.
    pub fn new(output: &OutputOptions) -> Self {
        let now = clock::now();
        let shown = output.live || io::stderr().is_terminal();
        Self { shown, next: now + 1_000_000, last: (now, 0, 0) }
    }

    /// Prints the line if its time has come.
    pub fn look(&mut self, board: &SharedBoard) {
        let now = clock::now();
        if !self.shown || now < self.next {
            return;
        }
        self.next = now + 1_000_000;
        let board = board.lock();
        let (accepted, arrived) = (board.source.accepted, board.sink.counts.messages);
        let seconds = (now - self.last.0) as f64 / 1e6;
        let rate = |new: u64, old: u64| new.saturating_sub(old) as f64 / seconds;
        let (rate, arrival_rate) = (rate(accepted, self.last.1), rate(arrived, self.last.2));
        eprintln!("{}", line(&board, rate, arrival_rate));
        self.last = (now, accepted, arrived);
    }
}

fn line(board: &Board, rate: f64, arrival_rate: f64) -> String {
    let (source, sink) = (&board.source, &board.sink.counts);
    let slots = board.timeline.slots();
    // The second under way has only begun.
    let slot = slots.len().checked_sub(2).and_then(|index| slots.get(index));
    let mut line = format!("accepted {} ({rate:.0}/s", source.accepted);
    if let Some(slot) = slot.filter(|slot| slot.intended > 0) {
        line += &format!(", intended {}, late {}", slot.intended, duration(slot.lateness_max));
    }
    line += &format!(")  at sink {} ({arrival_rate:.0}/s)  in flight {}", sink.messages, source.in_flight);
    if let Some(slot) = slot {
        for (name, quantile) in [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)] {
            line += &slot
                .quantile(quantile)
                .map_or(String::new(), |micros| format!("  {name} {}", duration(micros)));
        }
    }
    let errors = [
        (source.refused, "refused"),
        (source.unknown, "unknown"),
        (source.aborted, "cut off"),
        (source.connections_lost, "connections lost"),
        (source.connects_failed, "connects failed"),
        (sink.deferred + sink.rejected + sink.dropped, "refused by the sink"),
        (sink.corrupted, "CORRUPTED"),
    ];
    for (count, name) in errors.iter().filter(|(count, _)| *count > 0) {
        line += &format!("  {count} {name}");
    }
    line
}
