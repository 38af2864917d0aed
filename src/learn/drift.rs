//! The fast corrector: how a node answers *now* against its fitted curve.
//!
//! A fit looks back over a minute; a node that throttles should be noticed in seconds. One factor per node and target,
//! the ratio of observed to predicted sums over the last 5 s, held toward 1 by the weight of 20 average samples. It
//! multiplies predictions and slopes alike. A faster decay of the fits themselves was rejected: slopes need a minute
//! of evidence, a level needs seconds.

/// Time constant in seconds.
pub const TAU_S: f64 = 5.0;

/// Average samples that vouch for the fitted curve.
const PRIOR_SAMPLES: f64 = 20.0;

/// Bounds of the factor.
pub const FACTOR_MIN: f64 = 0.2;
/// Upper bound of the factor.
pub const FACTOR_MAX: f64 = 20.0;

/// Decayed sums of one node and target.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Drift {
    observed: f64,
    predicted: f64,
}

impl Drift {
    /// Lets `seconds` pass; a negative step is none.
    pub fn decay(&mut self, seconds: f64) {
        if seconds > 0.0 {
            let keep = (-seconds / TAU_S).exp();
            self.observed *= keep;
            self.predicted *= keep;
        }
    }

    /// An observation and what the fitted curve, uncorrected, says of the same regressors.
    pub fn add(&mut self, observed: f64, predicted: f64) {
        self.observed += observed;
        self.predicted += predicted;
    }

    /// The factor; `mean` is the fleet's mean observation of the target.
    pub fn factor(&self, mean: f64) -> f64 {
        let vouch = PRIOR_SAMPLES * mean;
        let factor = (self.observed + vouch) / (self.predicted + vouch);
        if factor.is_finite() { factor.clamp(FACTOR_MIN, FACTOR_MAX) } else { 1.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_down_shows_within_seconds_and_fades_without_evidence() {
        let mut drift = Drift::default();
        assert_eq!(drift.factor(0.0), 1.0);
        for _ in 0..60 {
            drift.decay(0.05);
            drift.add(0.5, 0.1);
        }
        assert!(drift.factor(0.1) > 3.0, "{}", drift.factor(0.1));
        drift.decay(60.0);
        assert!((drift.factor(0.1) - 1.0).abs() < 1e-3);
        drift.decay(-1e9);
        assert!((drift.factor(0.1) - 1.0).abs() < 1e-3);
    }

    #[test]
    fn the_factor_is_bounded() {
        let mut drift = Drift::default();
        drift.add(1e12, 1e-9);
        assert_eq!(drift.factor(1e-3), FACTOR_MAX);
    }
}
