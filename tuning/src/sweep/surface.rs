//! PURE. A surface through noisy measurements: Gaussian process regression over [`Point`]s.
//!
//! What is fitted is the difference between the measurements and a prior guess, both logarithms, so noise is a share of the
//! value. Points near each other are alike (a squared exponential of the distance), the more the nearer. How far "near" is,
//! how much the surface moves and how noisy the measurements are is chosen from a small table by what makes the
//! measurements most likely. Rasmussen and Williams, Gaussian Processes for Machine Learning, algorithm 2.1.

use super::space::Point;

/// Lengths over which counts are alike, doublings.
const LENGTHS: [f64; 3] = [1.0, 2.0, 4.0];
/// How far the surface moves away from the guess: standard deviations of logarithms, so shares.
const MOVES: [f64; 3] = [0.1, 0.3, 0.8];
/// Noise of one measurement, likewise.
const NOISES: [f64; 5] = [0.01, 0.03, 0.06, 0.12, 0.25];
/// How alike points of different kinds (wiring, pinning) are: a factor of `exp(-1)` for a whole kind.
const KIND_WEIGHT: f64 = 1.0;

/// A value at a point: logarithm of what was measured, less the guess.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Where.
    pub point: Point,
    /// What.
    pub value: f64,
}

/// What the surface says of a point.
#[derive(Clone, Copy, Debug)]
pub struct Estimate {
    /// Mean of what lies below the noise.
    pub mean: f64,
    /// Its standard deviation.
    pub deviation: f64,
}

/// A fitted surface.
pub struct Surface {
    samples: Vec<Sample>,
    kernel: Kernel,
    /// Mean of all samples: how far the guess is off everywhere.
    offset: f64,
    /// Lower triangle of the covariances' Cholesky decomposition.
    factor: Vec<Vec<f64>>,
    /// Covariances inverse times values.
    weights: Vec<f64>,
}

#[derive(Clone, Copy, Debug)]
struct Kernel {
    length: f64,
    moves: f64,
    noise: f64,
}

impl Kernel {
    fn between(&self, one: &Point, two: &Point) -> f64 {
        let distance = one.distance(two);
        let exponent = distance.counts / (2.0 * self.length * self.length) + KIND_WEIGHT * distance.kinds;
        self.moves * self.moves * (-exponent).exp()
    }
}

impl Surface {
    /// Fits one. Without samples it is the guess itself.
    pub fn fit(samples: &[Sample]) -> Self {
        let mut best: Option<(f64, Self)> = None;
        for length in LENGTHS {
            for moves in MOVES {
                for noise in NOISES {
                    let kernel = Kernel { length, moves, noise };
                    let Some((likelihood, surface)) = Self::with(samples, kernel) else { continue };
                    if best.as_ref().is_none_or(|(found, _)| likelihood > *found) {
                        best = Some((likelihood, surface));
                    }
                }
            }
        }
        best.expect("noise makes the covariances positive definite").1
    }

    /// The surface with one kernel, and the logarithm of how likely it makes the samples.
    fn with(samples: &[Sample], kernel: Kernel) -> Option<(f64, Self)> {
        let count = samples.len();
        let offset = samples.iter().map(|sample| sample.value).sum::<f64>() / count.max(1) as f64;
        let mut factor = vec![vec![0.0; count]; count];
        for row in 0..count {
            for column in 0..=row {
                let noise = if row == column { kernel.noise * kernel.noise } else { 0.0 };
                let own = kernel.between(&samples[row].point, &samples[column].point) + noise;
                let rest: f64 = (0..column).map(|at| factor[row][at] * factor[column][at]).sum();
                factor[row][column] = match row == column {
                    true if own - rest > 0.0 => (own - rest).sqrt(),
                    true => return None,
                    false => (own - rest) / factor[column][column],
                };
            }
        }
        let values: Vec<f64> = samples.iter().map(|sample| sample.value - offset).collect();
        let half = forward(&factor, &values);
        let weights = backward(&factor, &half);
        let fit: f64 = half.iter().map(|value| value * value).sum();
        let volume: f64 = (0..count).map(|at| factor[at][at].ln()).sum();
        // Small moves and low noise are as likely as not with few samples: do not be sure too early.
        let prior = -0.5 * (kernel.noise / 0.06).ln().powi(2) - 0.5 * (kernel.moves / 0.3).ln().powi(2);
        let surface = Self { samples: samples.to_vec(), kernel, offset, factor, weights };
        Some((-0.5 * fit - volume + prior, surface))
    }

    /// What it says of `point`.
    pub fn at(&self, point: &Point) -> Estimate {
        let near: Vec<f64> =
            self.samples.iter().map(|sample| self.kernel.between(&sample.point, point)).collect();
        let mean: f64 = near.iter().zip(&self.weights).map(|(near, weight)| near * weight).sum();
        let known: f64 = forward(&self.factor, &near).iter().map(|value| value * value).sum();
        let own = self.kernel.between(point, point);
        Estimate { mean: self.offset + mean, deviation: (own - known).max(0.0).sqrt() }
    }

    /// Standard deviation of one measurement, as a share.
    pub fn noise(&self) -> f64 {
        self.kernel.noise
    }
}

/// Solves `factor · x = values`.
fn forward(factor: &[Vec<f64>], values: &[f64]) -> Vec<f64> {
    let mut solved = Vec::with_capacity(values.len());
    for (row, value) in values.iter().enumerate() {
        let rest: f64 = solved.iter().zip(&factor[row]).map(|(x, factor)| x * factor).sum();
        solved.push((value - rest) / factor[row][row]);
    }
    solved
}

/// Solves `factor transposed · x = values`.
fn backward(factor: &[Vec<f64>], values: &[f64]) -> Vec<f64> {
    let mut solved = vec![0.0; values.len()];
    for row in (0..values.len()).rev() {
        let rest: f64 = (row + 1..values.len()).map(|below| factor[below][row] * solved[below]).sum();
        solved[row] = (values[row] - rest) / factor[row][row];
    }
    solved
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sweep::space::Wiring;

    fn point(shards: u16, workers: u16) -> Point {
        Point { wiring: Wiring::Shared, shards, workers, pin: true, connections: 32 }
    }

    #[test]
    fn it_passes_through_what_was_measured_often_and_doubts_what_was_not() {
        let mut samples = Vec::new();
        for nth in 0..6 {
            let noise = 0.01 * f64::from(nth % 3 - 1);
            samples.push(Sample { point: point(1, 1), value: 0.2 + noise });
            samples.push(Sample { point: point(8, 8), value: 0.8 + noise });
        }
        let surface = Surface::fit(&samples);
        assert!((surface.at(&point(1, 1)).mean - 0.2).abs() < 0.05);
        assert!((surface.at(&point(8, 8)).mean - 0.8).abs() < 0.05);
        let (known, unknown) = (surface.at(&point(8, 8)).deviation, surface.at(&point(64, 1)).deviation);
        assert!(known < 0.05 && unknown > 3.0 * known, "{known} {unknown}");
        let between = surface.at(&point(4, 4)).mean;
        assert!(between > 0.3 && between < 0.9, "{between}");
    }

    #[test]
    fn without_samples_it_is_the_guess() {
        let estimate = Surface::fit(&[]).at(&point(2, 2));
        assert!(estimate.mean == 0.0 && estimate.deviation > 0.0);
    }

    #[test]
    fn noise_is_told_from_the_samples() {
        let spread = |width: f64| -> f64 {
            let of = |nth: u32| Sample {
                point: point(2, 2),
                value: width * (f64::from(nth * 7 % 10) / 4.5 - 1.0),
            };
            Surface::fit(&(0..10).map(of).collect::<Vec<_>>()).noise()
        };
        assert!(spread(0.02) < spread(0.2), "{} {}", spread(0.02), spread(0.2));
    }
}
