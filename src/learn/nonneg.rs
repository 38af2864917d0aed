//! Least squares with non-negative coefficients, solved by linfa on rows.
//!
//! linfa's linear regression knows neither weights nor ridge nor signs, but all three can be said in rows. Weighted
//! sums `G, g` become the rows of the Cholesky factor `R` of `G` with targets `R'^-1 g`, which have the same solution
//! as the samples they stand for. A prior of weight k on a coefficient is a row `sqrt(k)` in its column. And the signs
//! are an active set around the regression: drop the most negative column, solve again, readmit a dropped column whose
//! gradient says that it would help. (Dropping all negatives at once is not the same and not optimal.) Columns are
//! scaled first, because normal equations square the condition number.

use linfa::Dataset;
use linfa::traits::Fit;
use linfa_linear::LinearRegression;
use ndarray::{Array1, Array2, ShapeBuilder};

use crate::learn::features::{COLUMNS_MAX, Row};
use crate::learn::stats::{Square, Stats};

/// A pivot this much smaller than its diagonal is rounding: the column is a combination of earlier ones.
const PIVOT_MIN: f64 = 1e-12;

/// A gradient this small, relative to column times target, is rounding.
const GRADIENT_MIN: f64 = 1e-10;

/// Why there is no solution.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SolveError {
    /// The regression refused.
    #[error("the regression failed: {0}")]
    Regression(String),
    /// A coefficient came out that is not a finite number.
    #[error("a coefficient is not a finite number")]
    NotFinite,
}

/// Rows of a regression whose columns are divided by `scale`.
#[derive(Debug)]
pub(super) struct Rows {
    width: usize,
    scale: Row,
    rows: Vec<(Row, f64)>,
}

impl Rows {
    /// No rows yet. A scale that is not positive counts as 1.
    pub(super) fn new(width: usize, scale: &Row) -> Rows {
        let scale = scale.map(|s| if s.is_finite() && s > 0.0 { s } else { 1.0 });
        Rows { width: width.min(COLUMNS_MAX), scale, rows: Vec::with_capacity(3 * COLUMNS_MAX) }
    }

    /// Adds rows that stand for the samples in `stats`.
    pub(super) fn push_stats(&mut self, stats: &Stats) {
        let factor = cholesky(&stats.g2, self.width);
        let mut targets = [0.0; COLUMNS_MAX];
        for j in 0..self.width {
            let pivot = factor[j][j];
            if pivot > 0.0 {
                let known: f64 = (0..j).map(|k| factor[k][j] * targets[k]).sum();
                targets[j] = (stats.g[j] - known) / pivot;
                self.push(factor[j], targets[j]);
            }
        }
    }

    /// Adds a prior of `weight` that coefficient `column` is `value`.
    pub(super) fn push_prior(&mut self, column: usize, weight: f64, value: f64) {
        let root = weight.max(0.0).sqrt();
        let mut row = [0.0; COLUMNS_MAX];
        row[column] = root;
        self.push(row, root * value);
    }

    fn push(&mut self, mut row: Row, target: f64) {
        for (x, scale) in row.iter_mut().zip(&self.scale) {
            *x /= scale;
        }
        self.rows.push((row, target));
    }

    /// The coefficients of least squared error, none of them negative.
    ///
    /// # Errors
    /// linfa refuses the rows, or a coefficient is not finite.
    pub(super) fn solve(&self) -> Result<Row, SolveError> {
        let mut active = [false; COLUMNS_MAX];
        active[..self.width].fill(true);
        let mut beta = [0.0; COLUMNS_MAX];
        for _ in 0..3 * self.width {
            beta = self.unconstrained(&active)?;
            if let Some(worst) = least(&beta).filter(|j| beta[*j] < 0.0) {
                active[worst] = false;
            } else if let Some(best) = self.steepest(&beta, &active) {
                active[best] = true;
            } else {
                break;
            }
        }
        for (b, scale) in beta.iter_mut().zip(&self.scale) {
            // Only a search that ran out of rounds still has a negative one.
            *b = b.max(0.0) / scale;
        }
        if beta.iter().all(|b| b.is_finite()) { Ok(beta) } else { Err(SolveError::NotFinite) }
    }

    /// Ordinary least squares over the active columns; in scaled units, zero elsewhere.
    fn unconstrained(&self, active: &[bool; COLUMNS_MAX]) -> Result<Row, SolveError> {
        let columns: Vec<usize> = (0..self.width).filter(|j| active[*j]).collect();
        let mut beta = [0.0; COLUMNS_MAX];
        if columns.is_empty() || self.rows.len() < columns.len() {
            return Ok(beta);
        }
        if self.rows.iter().any(|(row, y)| !y.is_finite() || row.iter().any(|x| !x.is_finite())) {
            // linfa answers a NaN with coefficients that are all NaN and no error.
            return Err(SolveError::NotFinite);
        }
        // Column-major is what its Householder QR runs along.
        let mut x = Array2::zeros((self.rows.len(), columns.len()).f());
        for (at, (row, _)) in self.rows.iter().enumerate() {
            for (to, from) in columns.iter().enumerate() {
                x[(at, to)] = row[*from];
            }
        }
        let y: Array1<f64> = self.rows.iter().map(|(_, y)| *y).collect();
        let fitted = LinearRegression::new().with_intercept(false).fit(&Dataset::new(x, y));
        let fitted = fitted.map_err(|error| SolveError::Regression(error.to_string()))?;
        for (column, value) in columns.iter().zip(fitted.params()) {
            beta[*column] = *value;
        }
        if beta.iter().all(|b| b.is_finite()) { Ok(beta) } else { Err(SolveError::NotFinite) }
    }

    /// The dropped column along which the error falls fastest, if any.
    fn steepest(&self, beta: &Row, active: &[bool; COLUMNS_MAX]) -> Option<usize> {
        let mut best = None;
        for j in (0..self.width).filter(|j| !active[*j]) {
            let (mut gradient, mut size) = (0.0, 0.0);
            for (row, y) in &self.rows {
                let error: f64 = y - row.iter().zip(beta).map(|(x, b)| x * b).sum::<f64>();
                gradient += row[j] * error;
                size += (row[j] * y).abs();
            }
            if gradient > GRADIENT_MIN * size && best.is_none_or(|(_, steepest)| gradient > steepest) {
                best = Some((j, gradient));
            }
        }
        best.map(|(j, _)| j)
    }
}

/// Index of the least entry.
fn least(beta: &Row) -> Option<usize> {
    (0..COLUMNS_MAX).min_by(|a, b| beta[*a].total_cmp(&beta[*b]))
}

/// The upper triangular `R` with `R'R = G`; rows of dependent columns are zero.
fn cholesky(g2: &Square, width: usize) -> Square {
    let mut r = [[0.0; COLUMNS_MAX]; COLUMNS_MAX];
    for j in 0..width {
        let pivot = g2[j][j] - (0..j).map(|k| r[k][j] * r[k][j]).sum::<f64>();
        if pivot.is_nan() || pivot <= PIVOT_MIN * g2[j][j] {
            continue;
        }
        let root = pivot.sqrt();
        r[j][j] = root;
        for i in j + 1..width {
            let known: f64 = (0..j).map(|k| r[k][j] * r[k][i]).sum();
            r[j][i] = (g2[j][i] - known) / root;
        }
    }
    r
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learn::features;

    const UNIT: Row = [1.0; COLUMNS_MAX];

    fn solve(width: usize, samples: &[(Row, f64)]) -> Row {
        let mut stats = Stats::default();
        for (row, y) in samples {
            stats.add(0.0, row, *y);
        }
        let mut rows = Rows::new(width, &UNIT);
        rows.push_stats(&stats);
        rows.solve().expect("solvable")
    }

    /// Every subset of columns by ordinary least squares; the best feasible one is the optimum.
    fn by_brute_force(width: usize, samples: &[(Row, f64)]) -> (Row, f64) {
        let mut best = ([0.0; COLUMNS_MAX], f64::INFINITY);
        for subset in 0u32..1 << width {
            let mut rows = Rows::new(width, &UNIT);
            samples.iter().for_each(|(row, y)| rows.push(*row, *y));
            let active = std::array::from_fn(|j| subset >> j & 1 == 1);
            let beta = rows.unconstrained(&active).expect("solvable");
            let error: f64 = samples.iter().map(|(row, y)| (y - features::dot(row, &beta)).powi(2)).sum();
            if beta.iter().all(|b| *b >= 0.0) && error < best.1 {
                best = (beta, error);
            }
        }
        best
    }

    #[test]
    fn the_active_set_finds_the_optimum_that_brute_force_finds() {
        let mut rng = fastrand::Rng::with_seed(3);
        for _ in 0..60 {
            let samples: Vec<(Row, f64)> = (0..12)
                .map(|_| {
                    let row = std::array::from_fn(|j| if j < 5 { rng.f64() } else { 0.0 });
                    (row, rng.f64() * 4.0 - 1.0)
                })
                .collect();
            let beta = solve(5, &samples);
            let error: f64 = samples.iter().map(|(row, y)| (y - features::dot(row, &beta)).powi(2)).sum();
            let (best, least) = by_brute_force(5, &samples);
            assert!(beta.iter().all(|b| *b >= 0.0), "{beta:?}");
            assert!(error <= least * (1.0 + 1e-6) + 1e-9, "{beta:?} {error} against {best:?} {least}");
        }
    }

    #[test]
    fn collinear_columns_stay_finite_with_a_ridge() {
        let mut stats = Stats::default();
        for i in 0..50 {
            let n = f64::from(i);
            stats.add(0.0, &[1.0, n, 2.0 * n, 0.0, 0.0, 0.0], 1.0 + n);
        }
        let mut rows = Rows::new(3, &[1.0, 10.0, 20.0, 1.0, 1.0, 1.0]);
        rows.push_stats(&stats);
        for j in 0..3 {
            rows.push_prior(j, 1e-3 * stats.g2[j][j] + 1e-9, 0.0);
        }
        let beta = rows.solve().expect("solvable");
        assert!((beta[1] + 2.0 * beta[2] - 1.0).abs() < 0.02, "{beta:?}");
    }

    #[test]
    fn what_is_not_a_number_is_an_error_and_not_a_coefficient() {
        let mut rows = Rows::new(2, &UNIT);
        rows.push([1.0, f64::NAN, 0.0, 0.0, 0.0, 0.0], 1.0);
        rows.push([1.0, 2.0, 0.0, 0.0, 0.0, 0.0], 1.0);
        assert_eq!(rows.solve(), Err(SolveError::NotFinite));
    }
}
