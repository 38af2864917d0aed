//! What a fit needs of a node's samples: decayed sums, not the samples.
//!
//! `G = sum w x x'`, `g = sum w x y`, with weights that fall by `exp(-age / 60 s)`. A fit's cost then does not depend on
//! how many samples there were, decay and priors are additions, and several proxies' sums can be added. The age is in
//! *learning time*: it stands still while the whole fleet has little evidence left, so that a fleet that sleeps at
//! night does not wake up ignorant.

use serde::{Deserialize, Serialize};

use crate::learn::features::{COLUMNS_MAX, Row, dot};

/// Time constant of the decay: long enough for hundreds of samples per node, short enough to follow a changed fleet.
pub(super) const TAU_S: f64 = 60.0;

/// A square matrix of the widest target.
pub(super) type Square = [[f64; COLUMNS_MAX]; COLUMNS_MAX];

/// Decayed sums of one node and target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stats {
    /// `sum w x x'`; its first entry is the sum of weights, as the first column is the constant 1.
    pub g2: Square,
    /// `sum w x y`; its first entry is `sum w y`.
    pub g: Row,
    /// `sum w y y`.
    pub yy: f64,
    /// `sum w w`.
    pub w2: f64,
    /// Learning time of the weights, in seconds.
    pub at_s: f64,
}

impl Stats {
    /// Adds an observation at learning time `at_s`.
    pub fn add(&mut self, at_s: f64, row: &Row, y: f64) {
        self.decay(at_s);
        for (sums, a) in self.g2.iter_mut().zip(row) {
            for (sum, b) in sums.iter_mut().zip(row) {
                *sum += a * b;
            }
        }
        for (sum, a) in self.g.iter_mut().zip(row) {
            *sum += a * y;
        }
        self.yy += y * y;
        self.w2 += 1.0;
    }

    /// The mean of a column; `None` without evidence.
    pub fn mean_of(&self, column: usize) -> Option<f64> {
        let mean = self.g2[0][column] / self.g2[0][0];
        mean.is_finite().then_some(mean)
    }

    /// Brings the weights to learning time `at_s`; an earlier time changes nothing.
    pub fn decay(&mut self, at_s: f64) {
        let age = at_s - self.at_s;
        if age > 0.0 {
            self.scale((-age / TAU_S).exp());
            self.at_s = at_s;
        }
    }

    /// Multiplies every weight by `factor`.
    pub fn scale(&mut self, factor: f64) {
        self.g2.iter_mut().flatten().for_each(|sum| *sum *= factor);
        self.g.iter_mut().for_each(|sum| *sum *= factor);
        self.yy *= factor;
        self.w2 *= factor * factor;
    }

    /// Adds the sums of `other`, each multiplied by `factor` and its response times by `time_factor`.
    pub fn merge(&mut self, other: &Stats, factor: f64, time_factor: f64) {
        for (sums, others) in self.g2.iter_mut().zip(&other.g2) {
            for (sum, other) in sums.iter_mut().zip(others) {
                *sum += factor * other;
            }
        }
        for (sum, other) in self.g.iter_mut().zip(&other.g) {
            *sum += factor * time_factor * other;
        }
        self.yy += factor * time_factor * time_factor * other.yy;
        self.w2 += factor * factor * other.w2;
    }

    /// Sum of weights.
    pub fn weight(&self) -> f64 {
        self.g2[0][0]
    }

    /// Mean observation; 0 without any.
    pub fn mean(&self) -> f64 {
        if self.weight() > 0.0 { self.g[0] / self.weight() } else { 0.0 }
    }

    /// How many equally weighted observations the weights are worth.
    pub fn effective(&self) -> f64 {
        if self.w2 > 0.0 { self.weight() * self.weight() / self.w2 } else { 0.0 }
    }

    /// `sum w x . beta`.
    pub fn predicted_sum(&self, beta: &Row) -> f64 {
        dot(&self.g2[0], beta)
    }

    /// `sum w (y - ratio x . beta)^2`, never negative.
    pub fn squared_error(&self, beta: &Row, ratio: f64) -> f64 {
        let quadratic: f64 = self.g2.iter().zip(beta).map(|(row, b)| b * dot(row, beta)).sum();
        (self.yy - 2.0 * ratio * dot(&self.g, beta) + ratio * ratio * quadratic).max(0.0)
    }

    /// Whether every sum is a finite number.
    pub fn is_finite(&self) -> bool {
        let sums = self.g2.iter().flatten().chain(&self.g).chain([&self.yy, &self.w2, &self.at_s]);
        sums.into_iter().all(|sum| sum.is_finite())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learn::features;

    #[test]
    fn a_sample_weighs_less_with_age_and_never_more() {
        let mut stats = Stats::default();
        stats.add(0.0, &features::gap(3.0, 0.0), 2.0);
        stats.decay(TAU_S);
        assert!((stats.weight() - (-1.0f64).exp()).abs() < 1e-12);
        assert!((stats.mean() - 2.0).abs() < 1e-12);
        let before = stats;
        stats.decay(-1e9);
        assert_eq!(stats, before);
    }

    #[test]
    fn the_squared_error_is_that_of_the_samples() {
        let mut stats = Stats::default();
        let beta = [0.5, 0.25, 0.0, 0.0, 0.0, 0.0];
        let samples = [(1.0, 0.9), (2.0, 1.4), (7.0, 2.0)];
        let mut error = 0.0;
        for (n, y) in samples {
            stats.add(0.0, &features::gap(n, 0.0), y);
            error += (y - 1.5 * (0.5 + 0.25 * n)).powi(2);
        }
        assert!((stats.squared_error(&beta, 1.5) - error).abs() < 1e-12);
        assert_eq!(stats.effective(), 3.0);
    }
}
