//! PURE. Which point to try next, and when to stop: Bayesian optimisation with a bound on p99.
//!
//! One surface is fitted through the scores, one through p99 (see [`surface`](super::surface)). The next point is the one
//! from which most improvement over the best known one is expected, times how likely it keeps the bound; a point counts as known
//! by its surface, so a lucky run does not win. The best one is run again until it has been measured
//! [`Rules::repeats`] times. It stops when less than [`Rules::tolerance`] is left to be expected, or at
//! [`Rules::runs_max`].

use super::space::{Point, Space};
use super::surface::{Estimate, Sample, Surface};

/// By how much an estimate may be wrong where nothing was run, as a share, however sure the surface is.
const DOUBT: f64 = 0.05;

/// When to stop.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Runs in all.
    pub runs_max: usize,
    /// Runs of the best point before it is believed.
    pub repeats: usize,
    /// Improvement that is not worth another run, as a share.
    pub tolerance: f64,
    /// p99 of the end of data that must hold, microseconds.
    pub p99_max: f64,
}

/// What one run has shown, as far as it matters here.
#[derive(Clone, Copy, Debug)]
pub struct Told {
    /// Where.
    pub point: Point,
    /// What is to be as high as can be; above 0.
    pub score: f64,
    /// Microseconds; above 0.
    pub p99: f64,
}

/// What is known of a point.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// Where.
    pub point: Point,
    /// Its score as the surface has it.
    pub score: f64,
    /// Standard deviation of that, as a share.
    pub deviation: f64,
    /// Standard deviation of one run, as a share.
    pub noise: f64,
    /// p99 as the surface has it, microseconds.
    pub p99: f64,
    /// How likely it keeps the bound, 0 to 1.
    pub holds: f64,
    /// Runs.
    pub runs: usize,
}

/// A search.
pub struct Search {
    points: Vec<Point>,
    /// The logarithm of what a model expects of each point, up to a constant.
    guess: Box<dyn Fn(&Point) -> f64>,
    rules: Rules,
    told: Vec<Told>,
}

/// The next step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Step {
    /// Run this, and tell.
    Run(Point),
    /// Enough is known, for this reason.
    Done(&'static str),
}

impl Search {
    /// Nothing has been run yet. `expected` is what a model says of a point's score, in any unit; above 0.
    pub fn new(space: &Space, rules: Rules, expected: impl Fn(&Point) -> f64 + 'static) -> Self {
        let points = space.points();
        assert!(!points.is_empty(), "a space has one point at least");
        Self { points, guess: Box::new(move |point| expected(point).ln()), rules, told: Vec::new() }
    }

    /// Takes in a run.
    pub fn tell(&mut self, told: Told) {
        self.told.push(told);
    }

    /// What comes next.
    pub fn next(&self) -> Step {
        if self.told.len() >= self.rules.runs_max {
            return Step::Done("the number of runs is used up");
        }
        if let Some(point) = self.beginning() {
            return Step::Run(point);
        }
        let known = self.known();
        let best = self.best_of(&known);
        let (point, gain) = self.most_promising(&known, &best);
        if gain < self.rules.tolerance {
            if best.runs < self.rules.repeats {
                return Step::Run(best.point);
            }
            if let Some(point) = self.contender(&known, &best) {
                return Step::Run(point);
            }
            return Step::Done("no other point is likely to be better by more than the tolerance");
        }
        // The best one and the promising ones in turn, so that both are compared under the same weather.
        if best.runs < self.rules.repeats && self.told.last().is_some_and(|last| last.point != best.point) {
            return Step::Run(best.point);
        }
        Step::Run(point)
    }

    /// The first runs: what the model expects most of, of each kind, and the smallest layout.
    fn beginning(&self) -> Option<Point> {
        let most = |fits: &dyn Fn(&Point) -> bool| {
            let points = self.points.iter().filter(|point| fits(point));
            points.max_by(|one, two| (self.guess)(one).total_cmp(&(self.guess)(two))).copied()
        };
        let first = most(&|_| true)?;
        let smallest = self.points.iter().min_by_key(|point| (point.executors(), point.connections)).copied();
        let plan = [
            Some(first),
            most(&|point| point.wiring != first.wiring && point.pin == first.pin),
            smallest,
            most(&|point| point.pin != first.pin && point.wiring == first.wiring),
        ];
        let is_new = |point: &Point| self.told.iter().all(|told| told.point != *point);
        plan.into_iter().flatten().find(is_new)
    }

    /// All points, by the surfaces.
    pub fn known(&self) -> Vec<Known> {
        let guess = &self.guess;
        let sample =
            |told: &Told| Sample { point: told.point, value: told.score.max(1e-9).ln() - guess(&told.point) };
        let scores = Surface::fit(&self.told.iter().map(sample).collect::<Vec<_>>());
        let late = |told: &Told| Sample { point: told.point, value: told.p99.max(1.0).ln() };
        let p99s = Surface::fit(&self.told.iter().map(late).collect::<Vec<_>>());
        let of = |point: &Point| {
            let (score, p99) = (scores.at(point), p99s.at(point));
            let bound = (self.rules.p99_max.ln() - p99.mean) / p99.deviation.max(1e-6);
            Known {
                point: *point,
                score: (score.mean + guess(point)).exp(),
                deviation: score.deviation,
                noise: scores.noise(),
                p99: p99.mean.exp(),
                holds: below(bound),
                runs: self.told.iter().filter(|told| told.point == *point).count(),
            }
        };
        self.points.iter().map(of).collect()
    }

    /// The best point that has been run and keeps the bound; if none does, the one that is nearest to it.
    pub fn best(&self) -> Known {
        self.best_of(&self.known())
    }

    fn best_of(&self, known: &[Known]) -> Known {
        let run = || known.iter().filter(|known| known.runs > 0);
        let holding = run().filter(|known| known.p99 <= self.rules.p99_max);
        let best = holding.max_by(|one, two| one.score.total_cmp(&two.score));
        let nearest = || run().min_by(|one, two| one.p99.total_cmp(&two.p99));
        *best.or_else(nearest).expect("the beginning has been run")
    }

    /// A point that might be better than the best after all. One step from it that has not been run: the surface is smooth by
    /// assumption, and must not be believed where a run can tell. Or one whose few runs may just have had bad luck.
    fn contender(&self, known: &[Known], best: &Known) -> Option<Point> {
        let place = |count: u16, counts: &[u16]| counts.iter().position(|found| *found == count);
        let mut counts: Vec<u16> = self.points.iter().map(|point| point.shards).collect();
        counts.sort_unstable();
        counts.dedup();
        let is_near = |one: u16, two: u16| {
            let (one, two) = (place(one, &counts), place(two, &counts));
            one.zip(two).is_some_and(|(one, two)| one.abs_diff(two) <= 1)
        };
        let high = |known: &Known| match known.runs {
            0 => known.score * (2.0 * known.deviation.max(DOUBT)).exp(),
            runs => known.score * (1.5 * known.noise / (runs as f64).sqrt()).exp(),
        };
        let is_neighbour = |known: &Known| {
            let (here, there) = (&best.point, &known.point);
            (here.wiring, here.pin, here.connections) == (there.wiring, there.pin, there.connections)
                && is_near(here.shards, there.shards)
                && is_near(here.workers, there.workers)
        };
        let fits = |known: &&Known| {
            known.point != best.point
                && (known.runs > 0 || is_neighbour(known))
                && known.runs < self.rules.repeats
                && known.holds > 0.1
                && high(known) > best.score
        };
        known.iter().filter(fits).max_by(|one, two| high(one).total_cmp(&high(two))).map(|known| known.point)
    }

    /// Where most is to be gained, and how much, as a share of the best.
    fn most_promising(&self, known: &[Known], best: &Known) -> (Point, f64) {
        let gain = |known: &Known| {
            let estimate = Estimate { mean: known.score.ln(), deviation: known.deviation };
            // While nothing keeps the bound, whatever does is a gain.
            let target = if best.p99 <= self.rules.p99_max { best.score.ln() } else { f64::NEG_INFINITY };
            improvement(estimate, target) * known.holds
        };
        let others = known.iter().filter(|known| known.point != best.point);
        let most = others.map(|known| (known.point, gain(known))).max_by(|one, two| one.1.total_cmp(&two.1));
        most.unwrap_or((best.point, 0.0))
    }
}

/// Expected improvement over `target`: of logarithms, so nearly a share.
fn improvement(estimate: Estimate, target: f64) -> f64 {
    if target == f64::NEG_INFINITY {
        return 1.0;
    }
    let Estimate { mean, deviation } = estimate;
    if deviation < 1e-9 {
        return (mean - target).max(0.0);
    }
    let z = (mean - target) / deviation;
    (mean - target) * below(z) + deviation * (-0.5 * z * z).exp() / (2.0 * std::f64::consts::PI).sqrt()
}

/// The share of a normal distribution below `z`: Abramowitz and Stegun 26.2.17, to 7 digits.
fn below(z: f64) -> f64 {
    let t = 1.0 / (1.0 + 0.231_641_9 * z.abs());
    let series = t
        * (0.319_381_53
            + t * (-0.356_563_782 + t * (1.781_477_937 + t * (-1.821_255_978 + t * 1.330_274_429))));
    let tail = (-0.5 * z * z).exp() / (2.0 * std::f64::consts::PI).sqrt() * series;
    if z > 0.0 { 1.0 - tail } else { tail }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sweep::space::Wiring;

    /// Numbers that look random and are the same each time.
    struct Noise(u64);

    impl Noise {
        /// Nearly normal, standard deviation 1.
        fn next(&mut self) -> f64 {
            let mut uniform = || {
                self.0 =
                    self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (self.0 >> 11) as f64 / (1u64 << 53) as f64
            };
            (0..12).map(|_| uniform()).sum::<f64>() - 6.0
        }
    }

    type Truth = fn(&Point) -> (f64, f64);

    fn peak(point: &Point, shards: f64, workers: f64) -> f64 {
        let off = |count: u16, best: f64| (f64::from(count).log2() - best.log2()).powi(2);
        1e5 * (-0.25 * off(point.shards, shards) - 0.15 * off(point.workers, workers)).exp()
    }

    /// Surfaces as hosts may have them; the second and third disagree with the model that the search begins with.
    const TRUTHS: [(&str, Truth); 4] = [
        ("as expected", |point| (1e4 * point.expected(16.0), 5_000.0)),
        ("few shards, many workers, split", |point| {
            let kind = if point.wiring == Wiring::Split { 1.2 } else { 1.0 };
            (kind * peak(point, 4.0, 12.0), 5_000.0)
        }),
        ("half of the CPUs, and pinning hurts", |point| {
            (peak(point, 8.0, 8.0) * if point.pin { 0.8 } else { 1.0 }, 5_000.0)
        }),
        ("the fastest breaks the bound", |point| {
            (1e4 * point.expected(16.0), 500.0 * f64::from(point.shards) * f64::from(point.workers).sqrt())
        }),
    ];

    const P99_MAX: f64 = 20_000.0;

    fn space() -> Space {
        Space { cpus: 16.0, connections: vec![64], executors_max: 64, try_pin: true }
    }

    /// What it found as a share of the best that keeps the bound, and the runs it took.
    fn search(truth: Truth, noise: f64, seed: u64) -> (f64, usize) {
        let rules = Rules { runs_max: 40, repeats: 3, tolerance: 0.01, p99_max: P99_MAX };
        let mut search = Search::new(&space(), rules, |point| point.expected(16.0));
        let mut random = Noise(seed);
        let mut runs = 0;
        while let Step::Run(point) = search.next() {
            let (score, p99) = truth(&point);
            let score = score * (noise * random.next()).exp();
            search.tell(Told { point, score, p99: p99 * (noise * random.next()).exp() });
            runs += 1;
        }
        let points = space().points();
        let allowed = points.iter().map(truth).filter(|(_, p99)| *p99 <= P99_MAX);
        let most = allowed.map(|(score, _)| score).fold(0.0, f64::max);
        let (found, p99) = truth(&search.best().point);
        // What breaks the bound by more than the noise is no find.
        (if p99 <= P99_MAX * (1.0 + 2.0 * noise) { found / most } else { 0.0 }, runs)
    }

    #[test]
    fn it_comes_within_5_percent_of_the_best_of_hundreds_of_points_with_40_runs_under_noise() {
        let points = space().points().len();
        assert!(points > 100, "{points}");
        for (name, truth) in TRUTHS {
            let mut total = 0;
            let mut misses = Vec::new();
            for seed in 1..=10 {
                let (share, runs) = search(truth, 0.04, seed);
                total += runs;
                if share < 0.95 {
                    misses.push((seed, share));
                }
            }
            // One in ten may miss: with 4 % noise a run in a hundred is off by 10 %.
            assert!(misses.len() <= 1, "{name}: {misses:?} in {total} runs");
        }
    }

    #[test]
    fn without_noise_it_stops_long_before_the_runs_are_used_up() {
        for (name, truth) in TRUTHS {
            let (share, runs) = search(truth, 0.001, 1);
            assert!(share > 0.97, "{name}: {share}");
            assert!(runs < 40, "{name}: {runs}");
        }
    }

    #[test]
    fn where_nothing_keeps_the_bound_the_nearest_is_told() {
        let (share, _) = search(|point| (1e4, 1e6 * f64::from(point.executors())), 0.01, 1);
        assert_eq!(share, 0.0);
    }

    #[test]
    fn the_normal_distribution_is_right_where_tables_are() {
        for (z, want) in [(0.0, 0.5), (1.0, 0.841_345), (-1.0, 0.158_655), (1.96, 0.975), (4.0, 0.999_968)] {
            assert!((below(z) - want).abs() < 1e-5, "{z}");
        }
    }
}
