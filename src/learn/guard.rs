//! Does the model earn its place? Model against a simple baseline, on the same completed attempts.
//!
//! The baseline is `(m + 1) * EWMA(latency / n)` per node: what anybody would do with two counters. Both are scored by
//! the decayed (60 s) mean of `|ln(predicted / observed)|`, the model with the true output length, as nobody can
//! foresee that. A model that is worse than 1.15 times the baseline for 10 s and 200 attempts is stood down, and comes
//! back after 30 s below 1.05 times: the gap between the two keeps it from flapping.

use crate::clock::Time;

/// Time constant of the scores in seconds.
const TAU_S: f64 = 60.0;
/// Step of the baseline's moving mean.
const BASELINE_STEP: f64 = 0.05;
/// Demotion: ratio of errors, for so many seconds and attempts.
const WORSE_RATIO: f64 = 1.15;
const WORSE_S: f64 = 10.0;
const WORSE_ATTEMPTS: u32 = 200;
/// Return: ratio of errors, for so many seconds.
const BETTER_RATIO: f64 = 1.05;
const BETTER_S: f64 = 30.0;
/// Fewer samples in the whole fleet than this, and the model may not route.
pub const SAMPLES_MIN: f64 = 30.0;
/// A predictor older than this is stale: twenty refits were missed.
pub const STALE_S: f64 = 10.0;
/// Below this error both are as good as exact, and a ratio means nothing.
const ERROR_FLOOR: f64 = 0.05;

/// Why the fallback routes instead of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallback {
    /// There is no predictor yet.
    Missing,
    /// The predictor is old: nobody refits.
    Stale,
    /// The fleet has too few samples.
    TooFew,
    /// The model is worse than the baseline.
    Worse,
    /// The operator asked for it.
    Wanted,
}

impl Fallback {
    /// All of them.
    pub const ALL: [Fallback; 5] =
        [Fallback::Missing, Fallback::Stale, Fallback::TooFew, Fallback::Worse, Fallback::Wanted];

    /// The word for labels.
    pub fn word(self) -> &'static str {
        match self {
            Fallback::Missing => "missing",
            Fallback::Stale => "stale",
            Fallback::TooFew => "too_few_samples",
            Fallback::Worse => "worse_than_baseline",
            Fallback::Wanted => "wanted",
        }
    }

    /// One sentence for people.
    pub fn reason(self) -> &'static str {
        match self {
            Fallback::Missing => "nothing has been learned yet",
            Fallback::Stale => "the model has not been refitted for too long",
            Fallback::TooFew => "the fleet has too few samples for a model",
            Fallback::Worse => "the model predicts worse than a simple moving average",
            Fallback::Wanted => "an operator asked for the fallback",
        }
    }
}

/// `|ln(predicted / observed)|`, always finite.
pub fn log_error(predicted_s: f64, observed_s: f64) -> f64 {
    let floor = |x: f64| x.clamp(1e-6, 1e6);
    let error = (floor(predicted_s) / floor(observed_s)).ln().abs();
    if error.is_finite() { error } else { (1e12f64).ln() }
}

/// The baseline of one node: a moving mean of latency per request in flight.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Baseline(Option<f64>);

impl Baseline {
    /// The response time of a request that finds `in_flight` others; `None` before anything was seen.
    pub fn predict(&self, in_flight: f64) -> Option<f64> {
        self.0.map(|per_request| (in_flight + 1.0) * per_request)
    }

    /// A response time at a life-average load, itself included.
    pub fn add(&mut self, observed_s: f64, mean_in_flight: f64) {
        let seen = observed_s / mean_in_flight.max(1.0);
        let mean = self.0.get_or_insert(seen);
        *mean += BASELINE_STEP * (seen - *mean);
    }
}

/// A decayed mean.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Decayed {
    sum: f64,
    weight: f64,
}

impl Decayed {
    /// Multiplies the weights by `keep`.
    pub fn decay(&mut self, keep: f64) {
        self.sum *= keep;
        self.weight *= keep;
    }

    /// Adds a value of weight 1.
    pub fn add(&mut self, value: f64) {
        self.sum += value;
        self.weight += 1.0;
    }

    /// The mean; `None` without evidence.
    pub fn mean(&self) -> Option<f64> {
        (self.weight > 0.0).then(|| self.sum / self.weight)
    }

    /// Sum of weights.
    pub fn weight(&self) -> f64 {
        self.weight
    }
}

/// The guard.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Guard {
    model: Decayed,
    baseline: Decayed,
    at: Option<Time>,
    demoted: Option<Time>,
    /// Since when, and over how many attempts, the other side of the threshold has been seen.
    turn: Option<(Time, u32)>,
}

impl Guard {
    /// A completed attempt: what model and baseline predicted, and what was seen.
    pub fn score(&mut self, now: Time, model_s: f64, baseline_s: f64, observed_s: f64) {
        self.decay(now);
        self.model.add(log_error(model_s, observed_s));
        self.baseline.add(log_error(baseline_s, observed_s));
        if let Some((_, attempts)) = &mut self.turn {
            *attempts = attempts.saturating_add(1);
        }
    }

    fn decay(&mut self, now: Time) {
        let seconds = self.at.map_or(0.0, |at| now.seconds_since(at));
        self.at = Some(now);
        let keep = (-seconds / TAU_S).exp();
        self.model.decay(keep);
        self.baseline.decay(keep);
    }

    /// Judges at `now`: whether the model stands demoted.
    pub fn judge(&mut self, now: Time) -> bool {
        self.decay(now);
        let Some(ratio) = self.ratio() else { return self.demoted.is_some() };
        let demoted = self.demoted.is_some();
        let turning = if demoted { ratio < BETTER_RATIO } else { ratio > WORSE_RATIO };
        if !turning {
            self.turn = None;
            return demoted;
        }
        let (since, attempts) = *self.turn.get_or_insert((now, 0));
        // A clock that stepped back starts the wait anew instead of prolonging it.
        if since > now {
            self.turn = Some((now, attempts));
        }
        let waited = now.seconds_since(since);
        let turns = if demoted { waited >= BETTER_S } else { waited >= WORSE_S && attempts >= WORSE_ATTEMPTS };
        if turns {
            self.turn = None;
            self.demoted = (!demoted).then_some(now);
        }
        self.demoted.is_some()
    }

    /// Error of the model over that of the baseline; above 1 is worse.
    pub fn ratio(&self) -> Option<f64> {
        let (model, baseline) = (self.model.mean()?, self.baseline.mean()?);
        Some(model.max(ERROR_FLOOR) / baseline.max(ERROR_FLOOR))
    }

    /// Mean `|ln(predicted / observed)|` of the model.
    pub fn model_error(&self) -> Option<f64> {
        self.model.mean()
    }

    /// Mean `|ln(predicted / observed)|` of the baseline.
    pub fn baseline_error(&self) -> Option<f64> {
        self.baseline.mean()
    }

    /// How long the model has stood demoted, in seconds.
    pub fn demoted_for_s(&self, now: Time) -> Option<f64> {
        self.demoted.map(|since| now.seconds_since(since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scores 50 attempts a second with the model off by `factor` and the baseline by 1.5; the seconds until demotion
    /// becomes `wanted`.
    fn until(guard: &mut Guard, from_s: f64, factor: f64, wanted: bool) -> Option<f64> {
        for tick in 0..600 {
            let now = Time::from_secs_f64(from_s + f64::from(tick) * 0.5);
            for _ in 0..25 {
                guard.score(now, factor, 1.5, 1.0);
            }
            if guard.judge(now) == wanted {
                return Some(f64::from(tick) * 0.5);
            }
        }
        None
    }

    #[test]
    fn a_bad_model_is_stood_down_and_a_better_one_returns() {
        let mut guard = Guard::default();
        assert_eq!(until(&mut guard, 0.0, 1.1, true), None);
        let mut guard = Guard::default();
        let down = until(&mut guard, 0.0, 3.0, true).expect("demoted");
        assert!((10.0..12.0).contains(&down), "{down}");
        let up = until(&mut guard, 100.0, 1.1, false).expect("returned");
        assert!(up >= BETTER_S, "{up}");
    }

    #[test]
    fn a_model_as_good_as_the_baseline_stays() {
        assert_eq!(until(&mut Guard::default(), 0.0, 1.5, true), None);
    }

    #[test]
    fn few_attempts_do_not_stand_it_down() {
        let mut guard = Guard::default();
        for second in 0..100u32 {
            guard.score(Time::from_secs_f64(f64::from(second)), 9.0, 1.0, 1.0);
            assert!(!guard.judge(Time::from_secs_f64(f64::from(second))));
        }
    }

    #[test]
    fn errors_are_always_finite() {
        for (a, b) in [(0.0, 0.0), (f64::NAN, 1.0), (f64::INFINITY, 1.0), (1e300, 1e-300), (-1.0, 1.0)] {
            assert!(log_error(a, b).is_finite(), "{a} {b}");
        }
    }
}
