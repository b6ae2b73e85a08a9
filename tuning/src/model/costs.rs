//! PURE. What a message costs, from the runs of a sweep.
//!
//! The relay's CPU for a message is taken to be `base + apart × split + spread × (1 − 1/shards)`:
//!
//! - *base*: on one executor that has both roles,
//! - *apart*: in addition with split wiring, where each message goes from thread to thread,
//! - *spread*: in addition, the more shards there are: messages meet workers of other executors, and fewer share each commit. The two
//!   are not told apart; both have `1 − 1/shards` as their bound, so a message's cost does not grow for ever.
//!
//! All three are fitted to the median of each layout's runs by least squares, none below 0. Noise, and what the formula leaves out, shows as
//! its error.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::sweep::space::{Point, Wiring};
use crate::sweep::state::State;
use crate::sweep::trial::Run;

/// CPU for a message, microseconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Costs {
    /// On one executor with both roles.
    pub base: f64,
    /// In addition with split wiring.
    pub apart: f64,
    /// In addition, for the share of messages `1 − 1/shards`.
    pub spread: f64,
    /// The part of a message that is spent on receiving and keeping it, 0 to 1: by the threads of a run with split wiring.
    pub inbound_share: f64,
    /// For each further KiB, by a run with larger messages; 0 if there was none.
    pub per_kib: f64,
    /// Bytes of the messages that `base` is for.
    pub size: u64,
    /// The generator's and the sink's, for the check against the sweep.
    pub generator: f64,
    /// How much more a message costs on each further executor: by the smallest and the largest shared layout, as a share.
    /// An upper bound for hosts with more cores.
    pub growth: f64,
}

/// What `base`, `apart` and `spread` are multiplied with.
fn factors(point: &Point) -> [f64; 3] {
    let split = if point.wiring == Wiring::Split { 1.0 } else { 0.0 };
    [1.0, split, 1.0 - 1.0 / f64::from(point.shards)]
}

/// How far a prediction is off, by layout.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Error {
    /// The layout.
    pub point: Point,
    /// Measured and predicted CPU for a message, microseconds.
    pub cpu: (f64, f64),
    /// Measured and predicted messages per second, generator and relay on the same CPUs.
    pub rate: (f64, f64),
    /// CPUs that relay and generator got together: fewer than the host has if others took them, or if they waited.
    pub cpus: f64,
    /// Runs behind it.
    pub runs: usize,
}

impl Costs {
    /// From a sweep.
    ///
    /// # Errors
    /// When it has too few layouts to tell the two numbers apart.
    pub fn of(state: &State) -> Result<Self, String> {
        let size = state.settings.size;
        let layouts = layouts(state);
        let rows: Vec<([f64; 3], f64)> = layouts
            .iter()
            .map(|(point, runs)| (factors(point), median(runs, |run| run.cpu_micros)))
            .collect();
        if rows.iter().all(|(factors, _)| *factors == rows[0].0) {
            return Err("the sweep has no two layouts that differ in wiring or shards; let it end".into());
        }
        let [base, apart, spread] = least_squares(&rows);
        let of = |wanted: &dyn Fn(&Run) -> bool| {
            let runs: Vec<&Run> = state.runs.iter().filter(|run| wanted(run)).collect();
            (!runs.is_empty()).then_some(runs)
        };
        let is_apart = |run: &Run| run.point.wiring == Wiring::Split && run.size == size;
        let larger = of(&|run| run.size > size);
        let per_kib = larger.and_then(|larger| {
            let point = larger[0].point;
            let same = of(&|run| run.point == point && run.size == size)?;
            let kib = (larger[0].size - size) as f64 / 1024.0;
            Some((median(&larger, |run| run.cpu_micros) - median(&same, |run| run.cpu_micros)).max(0.0) / kib)
        });
        let inbound_share = of(&is_apart).map(|runs| median(&runs, inbound_share));
        Ok(Self {
            base,
            apart,
            spread,
            inbound_share: inbound_share.unwrap_or(0.5),
            per_kib: per_kib.unwrap_or(0.0),
            size,
            generator: median(&layouts.values().flatten().copied().collect::<Vec<_>>(), |run| {
                run.generator_micros
            }),
            growth: growth(&layouts),
        })
    }

    /// A message of `size` bytes with a layout, microseconds.
    pub fn message(&self, point: &Point, size: u64) -> f64 {
        let [base, split, spread] = factors(point);
        let kib = (size as f64 - self.size as f64) / 1024.0;
        (self.base * base + self.apart * split + self.spread * spread + self.per_kib * kib).max(1.0)
    }

    /// How the formula does on the layouts that it was fitted to.
    pub fn errors(&self, state: &State) -> Vec<Error> {
        let cpus = state.settings.space.cpus;
        let of = |(point, runs): (Point, Vec<&Run>)| {
            let cpu = self.message(&point, self.size);
            // No executor uses more than one CPU, and the generator needs its own part.
            let shared = cpus * 1e6 / (cpu + self.generator);
            let alone = f64::from(point.executors()) * 1e6 / cpu;
            Error {
                point,
                cpu: (median(&runs, |run| run.cpu_micros), cpu),
                rate: (median(&runs, |run| run.messages_per_second), shared.min(alone)),
                cpus: median(&runs, |run| {
                    run.messages_per_second * (run.cpu_micros + run.generator_micros) / 1e6
                }),
                runs: runs.len(),
            }
        };
        layouts(state).into_iter().map(of).collect()
    }
}

/// The runs of one size, by layout.
fn layouts(state: &State) -> BTreeMap<Point, Vec<&Run>> {
    let mut layouts: BTreeMap<Point, Vec<&Run>> = BTreeMap::new();
    for run in state.runs.iter().filter(|run| run.size == state.settings.size) {
        layouts.entry(run.point).or_default().push(run);
    }
    layouts
}

/// The factors' weights, none below 0: one after the other is set to its best until nothing moves.
fn least_squares(rows: &[([f64; 3], f64)]) -> [f64; 3] {
    let mut weights = [0.0; 3];
    for _ in 0..1_000 {
        for at in 0..weights.len() {
            let (mut fit, mut square) = (0.0, 1e-9);
            for (factors, value) in rows {
                let others: f64 =
                    (0..3).filter(|other| *other != at).map(|other| weights[other] * factors[other]).sum();
                fit += factors[at] * (value - others);
                square += factors[at] * factors[at];
            }
            weights[at] = (fit / square).max(0.0);
        }
    }
    weights
}

/// Between the smallest and the largest shared layout with one shard for each worker.
fn growth(layouts: &BTreeMap<Point, Vec<&Run>>) -> f64 {
    let mut even: Vec<(u16, f64)> = layouts
        .iter()
        .filter(|(point, _)| point.wiring == Wiring::Shared && point.shards == point.workers)
        .map(|(point, runs)| (point.shards, median(runs, |run| run.cpu_micros)))
        .collect();
    even.sort_by_key(|(count, _)| *count);
    match (even.first(), even.last()) {
        (Some((few, low)), Some((many, high))) if many > few => {
            ((high / low - 1.0) / f64::from(many - few)).max(0.0)
        }
        _ => 0.0,
    }
}

/// The shards' part of what shards and workers used.
fn inbound_share(run: &Run) -> f64 {
    let of = |name: &str| run.threads.get(name).copied().unwrap_or(0.0);
    let (shard, worker) = (of("shard"), of("worker"));
    if shard + worker > 0.0 { shard / (shard + worker) } else { 0.5 }
}

fn median(runs: &[&Run], of: impl Fn(&Run) -> f64) -> f64 {
    let mut values: Vec<f64> = runs.iter().map(|run| of(run)).collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        count if count % 2 == 1 => values[count / 2],
        count => (values[count / 2 - 1] + values[count / 2]) / 2.0,
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::sweep::state::tests::{run, settings};
    use crate::sweep::trial::Purpose;

    /// A sweep of a relay whose messages cost 40 µs, 10 µs more with split wiring, 20 µs more for the share of other shards, and 0.5 µs for each KiB beyond the first 4.
    pub fn state() -> State {
        let mut state = State::new(settings());
        for (wiring, shards) in
            [(Wiring::Shared, 1), (Wiring::Shared, 2), (Wiring::Split, 1), (Wiring::Split, 2)]
        {
            for noise in [-0.5, 0.0, 0.5] {
                let mut run = run(wiring, shards, shards, true);
                let [_, split, spread] = factors(&run.point);
                run.cpu_micros = 40.0 + 10.0 * split + 20.0 * spread + noise;
                run.messages_per_second = 2e6 / (run.cpu_micros + 10.0);
                state.runs.push(run);
            }
        }
        let mut large = run(Wiring::Split, 1, 1, true);
        (large.size, large.cpu_micros, large.purpose) = (8 * 4096, 50.0 + 14.0, Purpose::Costs);
        state.runs.push(large);
        state
    }

    #[test]
    fn costs_are_found_again_and_the_error_is_small_where_the_formula_holds() {
        let state = state();
        let costs = Costs::of(&state).expect("enough runs");
        assert!((costs.base - 40.0).abs() < 0.1 && (costs.apart - 10.0).abs() < 0.1, "{costs:?}");
        assert!((costs.spread - 20.0).abs() < 0.1, "{costs:?}");
        assert!(
            (costs.per_kib - 0.5).abs() < 0.01 && (costs.inbound_share - 35.0 / 60.0).abs() < 1e-6,
            "{costs:?}"
        );
        assert!((costs.message(&state.runs[state.runs.len() - 1].point, 8 * 4096) - 64.0).abs() < 0.2);
        assert!((costs.growth - 0.25).abs() < 0.01, "50 µs instead of 40: {costs:?}");
        for error in costs.errors(&state) {
            assert!((error.cpu.0 / error.cpu.1 - 1.0).abs() < 0.01, "{error:?}");
        }
    }

    #[test]
    fn a_sweep_of_one_layout_is_told_apart_from_one_that_teaches_something() {
        let mut one = state();
        one.runs.truncate(2);
        assert!(Costs::of(&one).expect_err("one layout").contains("no two layouts"));
    }

    #[test]
    fn a_layout_that_does_not_fit_the_formula_shows_as_an_error() {
        let mut state = state();
        let is_one = |run: &&mut Run| run.point.shards == 2 && run.point.wiring == Wiring::Shared;
        state.runs.iter_mut().filter(is_one).for_each(|run| run.cpu_micros *= 1.5);
        let costs = Costs::of(&state).expect("enough runs");
        assert!(costs.errors(&state).iter().any(|error| (error.cpu.1 / error.cpu.0 - 1.0).abs() > 0.1));
    }
}
