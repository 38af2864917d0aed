//! The few statistics of a report: exact quantiles, and ratios with a confidence interval over paired seeds.

/// A ratio of two policies over paired seeds.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Ratio {
    /// Geometric mean of the ratios of the seeds.
    pub value: f64,
    /// Lower end of the 95 % confidence interval; absent for fewer than two seeds.
    pub low: Option<f64>,
    /// Upper end.
    pub high: Option<f64>,
}

/// Quantiles of Student's t at 97.5 % by degrees of freedom from 1; above, the normal distribution's (2.5 % too small at
/// 31, less beyond).
const T_975: [f64; 30] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
    2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
];
const NORMAL_975: f64 = 1.960;

impl Ratio {
    /// `values[i] / base[i]` for paired seeds: a paired t interval of the logarithms, since ratios are skewed and
    /// response times differ more between seeds than between policies. `None` if a value is not positive and finite.
    pub fn paired(values: &[f64], base: &[f64]) -> Option<Ratio> {
        let logs: Vec<f64> = values.iter().zip(base).map(|(value, base)| (value / base).ln()).collect();
        if logs.is_empty() || logs.len() != values.len() || logs.len() != base.len() {
            return None;
        }
        let n = logs.len() as f64;
        let mean = logs.iter().sum::<f64>() / n;
        if !mean.is_finite() {
            return None;
        }
        if logs.len() < 2 {
            return Some(Ratio { value: mean.exp(), low: None, high: None });
        }
        let variance = logs.iter().map(|log| (log - mean).powi(2)).sum::<f64>() / (n - 1.0);
        let t = T_975.get(logs.len() - 2).copied().unwrap_or(NORMAL_975);
        let half = t * (variance / n).sqrt();
        Some(Ratio { value: mean.exp(), low: Some((mean - half).exp()), high: Some((mean + half).exp()) })
    }
}

/// The value below which a share `q` of `sorted` lies (nearest rank); NaN for nothing.
pub fn quantile(sorted: &[f32], q: f64) -> f64 {
    let rank = (sorted.len() as f64 * q).ceil().max(1.0) as usize;
    sorted.get(rank.min(sorted.len()).saturating_sub(1)).map_or(f64::NAN, |value| f64::from(*value))
}

/// The arithmetic mean; NaN for nothing.
pub fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len() as f64;
    values.sum::<f64>() / count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_occurred() {
        let sorted: Vec<f32> = (1u16..=1_000).map(f32::from).collect();
        assert_eq!(quantile(&sorted, 0.5), 500.0);
        assert_eq!(quantile(&sorted, 0.99), 990.0);
        assert_eq!(quantile(&sorted, 0.999), 999.0);
        assert_eq!(quantile(&sorted, 1.0), 1_000.0);
        assert_eq!(quantile(&[7.0], 0.01), 7.0);
        assert!(quantile(&[], 0.5).is_nan());
    }

    #[test]
    fn the_interval_is_that_of_a_paired_t_test_on_logarithms() {
        // Ratios of e^0.1, e^0.2, e^0.3: mean 0.2, standard error 0.1 / sqrt(3), t(2) = 4.303.
        let base = [1.0, 2.0, 4.0];
        let values: Vec<f64> = base.iter().zip([0.1_f64, 0.2, 0.3]).map(|(base, log)| base * log.exp()).collect();
        let ratio = Ratio::paired(&values, &base).expect("sound");
        let half = 4.303 * 0.1 / 3.0_f64.sqrt();
        assert!((ratio.value.ln() - 0.2).abs() < 1e-12);
        assert!((ratio.low.expect("three").ln() - (0.2 - half)).abs() < 1e-9);
        assert!((ratio.high.expect("three").ln() - (0.2 + half)).abs() < 1e-9);
    }

    #[test]
    fn a_policy_against_itself_is_exactly_one_and_nonsense_is_nothing() {
        let same = Ratio::paired(&[3.0, 5.0], &[3.0, 5.0]).expect("sound");
        assert_eq!((same.value, same.low, same.high), (1.0, Some(1.0), Some(1.0)));
        assert_eq!(Ratio::paired(&[3.0], &[6.0]), Some(Ratio { value: 0.5, low: None, high: None }));
        assert_eq!(Ratio::paired(&[f64::NAN, 1.0], &[1.0, 1.0]), None);
        assert_eq!(Ratio::paired(&[], &[]), None);
    }
}
