//! Seeded draws that a workload is made of: lognormal sizes and exponential gaps.
//!
//! Two formulas on top of `fastrand` instead of a crate of distributions: a recorded seed must give the same workload
//! for as long as the repository lives, and foreign samplers change their algorithms between versions.

use fastrand::Rng;

/// A lognormal distribution by its mean, clamped to a range (the mean is that before clamping).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lognormal {
    /// Mean of the unclamped distribution, above 0.
    pub mean: f64,
    /// Standard deviation of the logarithm; 0 gives the mean always.
    pub sigma: f64,
    /// Smallest value drawn.
    pub min: f64,
    /// Largest value drawn.
    pub max: f64,
}

/// Prompt tokens of the study's requests.
pub const PROMPT_TOKENS: Lognormal = Lognormal { mean: 1_100.0, sigma: 1.0, min: 5.0, max: 14_000.0 };

/// Output tokens of the study's requests.
pub const OUTPUT_TOKENS: Lognormal = Lognormal { mean: 210.0, sigma: 0.7, min: 2.0, max: 1_000.0 };

/// Work of the study's plain requests, in seconds at speed 1.
pub const PLAIN_WORK_S: Lognormal = Lognormal { mean: 0.1, sigma: 1.0, min: 0.0, max: f64::INFINITY };

impl Lognormal {
    /// One value.
    pub fn draw(&self, rng: &mut Rng) -> f64 {
        let mu = self.mean.ln() - self.sigma * self.sigma / 2.0;
        (mu + self.sigma * standard_normal(rng)).exp().clamp(self.min, self.max)
    }

    /// One value as a count, at least 1.
    pub fn draw_count(&self, rng: &mut Rng) -> u32 {
        (self.draw(rng).round() as u32).max(1)
    }
}

/// A standard normal value (Box and Muller, 1958; one of the pair is thrown away to stay stateless).
pub fn standard_normal(rng: &mut Rng) -> f64 {
    let radius = (-2.0 * (1.0 - rng.f64()).ln()).sqrt();
    radius * (std::f64::consts::TAU * rng.f64()).cos()
}

/// An exponential value with that mean: the gap between two arrivals of a Poisson process.
pub fn exponential(mean: f64, rng: &mut Rng) -> f64 {
    -mean * (1.0 - rng.f64()).ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_have_the_mean_and_spread_that_they_are_named_by() {
        let mut rng = Rng::with_seed(1);
        let free = Lognormal { min: 0.0, max: f64::INFINITY, ..PROMPT_TOKENS };
        let drawn: Vec<f64> = (0..200_000).map(|_| free.draw(&mut rng)).collect();
        let mean = drawn.iter().sum::<f64>() / drawn.len() as f64;
        assert!((mean / 1_100.0 - 1.0).abs() < 0.02, "{mean}");
        let logs: Vec<f64> = drawn.iter().map(|x| x.ln()).collect();
        let centre = logs.iter().sum::<f64>() / logs.len() as f64;
        let variance = logs.iter().map(|x| (x - centre).powi(2)).sum::<f64>() / logs.len() as f64;
        assert!((variance - 1.0).abs() < 0.02, "{variance}");
    }

    #[test]
    fn draws_stay_in_their_range() {
        let mut rng = Rng::with_seed(2);
        for _ in 0..50_000 {
            let tokens = OUTPUT_TOKENS.draw(&mut rng);
            assert!((2.0..=1_000.0).contains(&tokens), "{tokens}");
        }
    }

    #[test]
    fn gaps_have_their_mean() {
        let mut rng = Rng::with_seed(3);
        let mean = (0..200_000).map(|_| exponential(0.05, &mut rng)).sum::<f64>() / 200_000.0;
        assert!((mean / 0.05 - 1.0).abs() < 0.01, "{mean}");
    }
}
