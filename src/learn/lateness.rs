//! How late the first bytes of a node may be: the 95th percentile of observed over predicted time.
//!
//! A predictor says what is expected, not how far answers scatter about it, and "longer than expected" is half of them.
//! The scatter is taken relative to the prediction, as response times of a loaded server spread in proportion to their
//! mean. The percentile is tracked, not computed: the largest of the first twenty ratios (whose expected rank is 20 of
//! 21), and from then on a step up for an answer above it and a nineteenth of that down for one below (Robbins and
//! Monro 1951), in logarithms so that it stays positive. A step needs to know only on which side an answer was, so an
//! attempt that is given up after it has outlived the percentile counts for what it is, without a made-up time.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::fleet::Resettable;

/// Answers that make the first estimate, and without which there is none.
const FIRST: u32 = 20;

/// The share of answers above the percentile.
const ABOVE: f64 = 0.05;

/// How far an answer moves the logarithm: about a twentieth, which settles within some hundred answers and then
/// scatters by a few per cent.
const STEP: f64 = 0.05;

/// Ratios beyond this factor, either way, are taken for it: no answer may throw the estimate out of range.
const RATIO_MAX: f64 = 1e3;

/// The percentile of one node and way of answering.
#[derive(Debug)]
pub struct Lateness {
    /// Bits of the logarithm of the ratio.
    log: AtomicU64,
    answers: AtomicU32,
}

impl Default for Lateness {
    fn default() -> Self {
        Lateness { log: AtomicU64::new((-RATIO_MAX.ln()).to_bits()), answers: AtomicU32::new(0) }
    }
}

impl Resettable for Lateness {
    fn reset(&self) {
        self.log.store(Lateness::default().log.into_inner(), Ordering::Relaxed);
        self.answers.store(0, Ordering::Relaxed);
    }
}

impl Lateness {
    /// Nineteen in twenty first bytes come within so many times what was predicted; `None` until enough have been seen.
    pub fn ratio(&self) -> Option<f64> {
        (self.answers.load(Ordering::Relaxed) >= FIRST).then(|| self.log().exp())
    }

    /// A first byte came after `observed_s` where `predicted_s` had been predicted; what is no positive number is left.
    pub fn answered(&self, observed_s: f64, predicted_s: f64) {
        let ratio = observed_s / predicted_s;
        if !ratio.is_finite() || ratio <= 0.0 {
            return;
        }
        let log = ratio.clamp(1.0 / RATIO_MAX, RATIO_MAX).ln();
        let before = self.answers.fetch_add(1, Ordering::Relaxed);
        if before < FIRST {
            self.change(|present| present.max(log));
        } else {
            self.change(|present| if log > present { present + STEP * (1.0 - ABOVE) } else { present - STEP * ABOVE });
            // Kept from wrapping around.
            self.answers.fetch_min(FIRST + 1, Ordering::Relaxed);
        }
    }

    /// An attempt was given up that had outlived the percentile.
    pub fn outlived(&self) {
        if self.answers.load(Ordering::Relaxed) >= FIRST {
            self.change(|present| present + STEP * (1.0 - ABOVE));
        }
    }

    fn log(&self) -> f64 {
        f64::from_bits(self.log.load(Ordering::Relaxed))
    }

    fn change(&self, change: impl Fn(f64) -> f64) {
        let bound = RATIO_MAX.ln();
        let next = |bits| Some(change(f64::from_bits(bits)).clamp(-bound, bound).to_bits());
        // The closure always gives a value, so this cannot fail.
        let _ = self.log.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The share of further ratios above the estimate, after so many have been seen; ratios are e^(spread * normal).
    fn share_above(spread: f64, seen: usize) -> f64 {
        let mut rng = fastrand::Rng::with_seed(7);
        let mut ratio = || {
            // Twelve uniform numbers less six are a normal one, nearly enough.
            let normal: f64 = (0..12).map(|_| rng.f64()).sum::<f64>() - 6.0;
            (spread * normal).exp()
        };
        let lateness = Lateness::default();
        (0..seen).for_each(|_| lateness.answered(ratio(), 1.0));
        let (mut above, count) = (0, 4_000);
        for _ in 0..count {
            let next = ratio();
            above += u32::from(next > lateness.ratio().expect("enough"));
            lateness.answered(next, 1.0);
        }
        f64::from(above) / f64::from(count)
    }

    #[test]
    fn one_in_twenty_is_later_whatever_the_spread() {
        for spread in [0.1, 0.3, 1.0] {
            for seen in [20, 500] {
                let share = share_above(spread, seen);
                assert!((0.03..=0.07).contains(&share), "{share} at a spread of {spread} after {seen}");
            }
        }
    }

    #[test]
    fn nothing_is_said_before_twenty_answers_nor_after_a_reset() {
        let lateness = Lateness::default();
        lateness.outlived();
        (0..FIRST - 1).for_each(|_| lateness.answered(2.0, 1.0));
        assert_eq!(lateness.ratio(), None);
        lateness.answered(1.0, 1.0);
        assert!((lateness.ratio().expect("enough") - 2.0).abs() < 1e-9, "the largest of the first");
        lateness.reset();
        assert_eq!(lateness.ratio(), None);
    }

    #[test]
    fn who_is_given_up_late_makes_it_more_patient() {
        let lateness = Lateness::default();
        (0..FIRST).for_each(|_| lateness.answered(1.0, 1.0));
        (0..20).for_each(|_| lateness.outlived());
        let ratio = lateness.ratio().expect("enough");
        assert!((2.4..2.8).contains(&ratio), "{ratio}");
    }

    proptest! {
        #[test]
        fn it_stays_finite_and_in_range_whatever_comes(
            answers in prop::collection::vec((prop::num::f64::ANY, prop::num::f64::ANY, any::<bool>()), 0..200),
        ) {
            let lateness = Lateness::default();
            for (observed_s, predicted_s, given_up) in answers {
                if given_up { lateness.outlived() } else { lateness.answered(observed_s, predicted_s) }
                let ratio = lateness.ratio();
                prop_assert!(ratio.is_none_or(|ratio| (0.99 / RATIO_MAX..=1.01 * RATIO_MAX).contains(&ratio)));
            }
        }
    }
}
