//! Response times of a run in bounded memory: exact for a million, then counted in fine classes.
//!
//! Quantiles of what is usually simulated are values that occurred. A trace of days would fill the memory with them, so
//! beyond [`EXACT_MAX`] values everything is counted in classes whose borders lie 0.1 % apart, and a quantile is off by
//! 0.05 % at most. A sketch with a fixed number of centroids would take less memory and say less about its error.

/// Values that are kept as they are; 4 MB.
pub const EXACT_MAX: usize = 1 << 20;

/// Borders of neighbouring classes.
const RATIO: f64 = 1.001;

/// The lowest border: a microsecond is the grain of time.
const LEAST: f64 = 1e-6;

/// The highest: twelve orders of magnitude above.
const CLASSES: usize = 27_646;

/// Seconds, in no order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Digest {
    exact: Vec<f32>,
    sorted: bool,
    /// Empty while `exact` has everything.
    classes: Vec<u32>,
    count: u64,
    sum: f64,
}

impl Digest {
    /// Takes a value in.
    pub fn push(&mut self, value: f32) {
        self.count += 1;
        self.sum += f64::from(value);
        if self.classes.is_empty() && self.exact.len() < EXACT_MAX {
            self.exact.push(value);
            self.sorted = false;
            return;
        }
        if self.classes.is_empty() {
            self.classes = vec![0; CLASSES];
            let exact = std::mem::take(&mut self.exact);
            exact.into_iter().for_each(|value| self.classes[class(value)] += 1);
        }
        let counted = &mut self.classes[class(value)];
        *counted = counted.saturating_add(1);
    }

    /// How many.
    pub fn len(&self) -> u64 {
        self.count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The arithmetic mean; NaN for nothing.
    pub fn mean(&self) -> f64 {
        self.sum / self.count as f64
    }

    /// The value below which a share `q` lies (nearest rank); NaN for nothing.
    pub fn quantile(&mut self, q: f64) -> f64 {
        if self.classes.is_empty() {
            if !std::mem::replace(&mut self.sorted, true) {
                self.exact.sort_unstable_by(f32::total_cmp);
            }
            return super::statistics::quantile(&self.exact, q);
        }
        let rank = (self.count as f64 * q).ceil().max(1.0) as u64;
        let mut below = 0;
        let reached = |(_, count): &(usize, &u32)| {
            below += u64::from(**count);
            below >= rank
        };
        self.classes.iter().enumerate().find(reached).map_or(f64::NAN, |(at, _)| LEAST * RATIO.powf(at as f64 + 0.5))
    }

    /// The values as they came; empty once there were more than [`EXACT_MAX`], in order after a quantile.
    pub fn values(&self) -> &[f32] {
        &self.exact
    }
}

fn class(value: f32) -> usize {
    // A float-to-integer cast saturates, and NaN becomes 0.
    ((f64::from(value) / LEAST).ln() / RATIO.ln()).max(0.0).min((CLASSES - 1) as f64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_exact_up_to_the_bound_and_close_beyond_it() {
        let mut rng = fastrand::Rng::with_seed(5);
        let mut drawn: Vec<f32> = (0..EXACT_MAX + 50_000).map(|_| (rng.f32() * 12.0 - 6.0).exp()).collect();
        let mut digest = Digest::default();
        drawn[..1_000].iter().for_each(|value| digest.push(*value));
        let mut few = drawn[..1_000].to_vec();
        few.sort_unstable_by(f32::total_cmp);
        assert_eq!(digest.quantile(0.9), f64::from(few[899]));
        drawn[1_000..].iter().for_each(|value| digest.push(*value));
        let mean = drawn.iter().map(|value| f64::from(*value)).sum::<f64>() / drawn.len() as f64;
        drawn.sort_unstable_by(f32::total_cmp);
        for q in [0.001, 0.5, 0.99, 0.999, 1.0] {
            let exact = super::super::statistics::quantile(&drawn, q);
            assert!((digest.quantile(q) / exact - 1.0).abs() < 0.001, "{q}: {} is not {exact}", digest.quantile(q));
        }
        assert!((digest.mean() / mean - 1.0).abs() < 1e-9);
        assert_eq!((digest.len(), digest.values().len()), (drawn.len() as u64, 0), "nothing is kept twice");
    }

    #[test]
    fn nothing_is_no_number_and_extremes_are_counted() {
        let mut digest = Digest::default();
        assert!(digest.is_empty() && digest.mean().is_nan() && digest.quantile(0.5).is_nan());
        (0..=EXACT_MAX).for_each(|_| digest.push(0.0));
        digest.push(f32::INFINITY);
        assert!(digest.quantile(0.5) <= 1.001 * LEAST && digest.quantile(1.0) > 9e5);
    }
}
