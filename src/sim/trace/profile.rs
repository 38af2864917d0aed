//! Workloads that have the statistics of published traces, for those who do not have the files.
//!
//! Gaps between requests, prompts and answers are drawn independently, each by its distribution: a handful of quantiles
//! joined by straight lines over the logarithm. That reproduces the rate, the burstiness from one request to the next
//! and both length distributions; prompts and answers are uncorrelated in the originals too. It does not reproduce how
//! the rate swings over minutes: a run on the real file has longer bursts than one on its profile.

use fastrand::Rng;

use super::row::TraceRow;

/// A distribution by its quantiles: (share, value), from 0 to 1, values above 0.
type Quantiles = &'static [(f64, f64)];

/// A named workload.
#[derive(Debug, PartialEq)]
pub struct Profile {
    /// What `--trace builtin:NAME` calls it.
    pub name: &'static str,
    /// One line for people.
    pub about: &'static str,
    /// Seconds between requests.
    gaps_s: Quantiles,
    /// Tokens in.
    prompts: Quantiles,
    /// Tokens out.
    outputs: Quantiles,
}

/// Conversation and code service of the Azure LLM inference trace 2023 (Patel et al., Splitwise, ISCA 2024; CC-BY 4.0):
/// quantiles of its two files.
pub const PROFILES: &[Profile] = &[
    Profile {
        name: "azure-conversation",
        about: "5.5 requests/s, prompts 1,020 and answers 129 tokens in the median",
        gaps_s: &[
            (0.0, 2e-6),
            (0.01, 0.000_54),
            (0.05, 0.006_3),
            (0.1, 0.016_1),
            (0.25, 0.048_3),
            (0.5, 0.118_4),
            (0.75, 0.246_7),
            (0.9, 0.420_7),
            (0.95, 0.565_2),
            (0.99, 0.890_9),
            (0.995, 1.05),
            (0.998, 1.252),
            (0.999, 1.431),
            (0.999_5, 1.812),
            (0.999_9, 3.128),
            (1.0, 4.31),
        ],
        prompts: &[
            (0.0, 2.0),
            (0.01, 29.0),
            (0.05, 181.0),
            (0.1, 207.0),
            (0.25, 396.0),
            (0.5, 1_020.0),
            (0.75, 1_189.0),
            (0.9, 2_735.0),
            (0.95, 4_083.0),
            (0.99, 4_142.0),
            (0.999, 6_212.0),
            (1.0, 14_050.0),
        ],
        outputs: &[
            (0.0, 7.0),
            (0.01, 16.0),
            (0.05, 41.0),
            (0.1, 54.0),
            (0.25, 85.0),
            (0.5, 129.0),
            (0.75, 395.0),
            (0.9, 424.0),
            (0.95, 451.0),
            (0.99, 601.0),
            (0.999, 954.0),
            (1.0, 1_000.0),
        ],
    },
    Profile {
        name: "azure-code",
        about: "2.6 requests/s in bursts, prompts 1,469 and answers 13 tokens in the median",
        gaps_s: &[
            (0.0, 6e-6),
            (0.01, 0.000_022),
            (0.05, 0.000_088),
            (0.1, 0.000_21),
            (0.25, 0.002_08),
            (0.5, 0.063_8),
            (0.75, 0.104),
            (0.9, 0.273),
            (0.95, 0.400_8),
            (0.98, 0.798_8),
            (0.99, 2.205),
            (0.993, 3.701),
            (0.995, 10.12),
            (0.997, 28.09),
            (0.998, 43.32),
            (0.999, 82.75),
            (0.999_5, 138.7),
            (1.0, 217.2),
        ],
        prompts: &[
            (0.0, 3.0),
            (0.01, 17.0),
            (0.05, 75.0),
            (0.1, 147.0),
            (0.25, 578.0),
            (0.5, 1_469.0),
            (0.75, 2_745.0),
            (0.9, 5_194.0),
            (0.95, 7_315.0),
            (0.99, 7_436.0),
            (1.0, 7_437.0),
        ],
        outputs: &[
            (0.0, 6.0),
            (0.05, 6.0),
            (0.1, 7.0),
            (0.25, 9.0),
            (0.5, 13.0),
            (0.75, 24.0),
            (0.9, 55.0),
            (0.95, 90.0),
            (0.99, 252.0),
            (0.999, 831.0),
            (1.0, 1_899.0),
        ],
    },
];

impl Profile {
    /// The profile of that name.
    pub fn named(name: &str) -> Option<&'static Profile> {
        PROFILES.iter().find(|profile| profile.name == name)
    }

    /// Requests per second.
    pub fn rate(&self) -> f64 {
        1.0 / mean(self.gaps_s)
    }

    /// Mean tokens in and out.
    pub fn mean_tokens(&self) -> (f64, f64) {
        (mean(self.prompts), mean(self.outputs))
    }

    /// The request after one at `at_s`.
    pub(super) fn draw(&self, at_s: f64, rng: &mut Rng) -> TraceRow {
        let count = |quantiles, rng: &mut Rng| value(quantiles, rng.f64()).round() as u32;
        TraceRow {
            at_s: at_s + value(self.gaps_s, rng.f64()),
            kind: 1,
            prompt_tokens: count(self.prompts, rng),
            output_tokens: count(self.outputs, rng).max(1),
            ..TraceRow::default()
        }
    }
}

/// The value below which a share `q` lies.
fn value(quantiles: Quantiles, q: f64) -> f64 {
    let after = quantiles.iter().position(|(share, _)| *share > q).unwrap_or(quantiles.len() - 1).max(1);
    let ((from, low), (to, high)) = (quantiles[after - 1], quantiles[after]);
    low * (high / low).powf((q - from) / (to - from))
}

/// The mean: each piece is a log-uniform distribution, whose mean is (high - low) / ln(high / low).
fn mean(quantiles: Quantiles) -> f64 {
    let piece = |pair: &[(f64, f64)]| {
        let ((from, low), (to, high)) = (pair[0], pair[1]);
        (to - from) * if high > low { (high - low) / (high / low).ln() } else { low }
    };
    quantiles.windows(2).map(piece).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rate, coefficient of variation of the gaps, and the quantiles of the lengths, as published with the traces.
    fn statistics(name: &str) -> (f64, f64, [u32; 4]) {
        let profile = Profile::named(name).expect("known");
        let mut rng = Rng::with_seed(11);
        let (mut at_s, mut gaps, mut prompts, mut outputs) = (0.0, Vec::new(), Vec::new(), Vec::new());
        for _ in 0..200_000 {
            let row = profile.draw(at_s, &mut rng);
            gaps.push(row.at_s - at_s);
            at_s = row.at_s;
            prompts.push(row.prompt_tokens);
            outputs.push(row.output_tokens);
        }
        prompts.sort_unstable();
        outputs.sort_unstable();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let deviation = (gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64).sqrt();
        let (half, most) = (gaps.len() / 2, gaps.len() * 99 / 100);
        (1.0 / mean, deviation / mean, [prompts[half], prompts[most], outputs[half], outputs[most]])
    }

    fn near(value: f64, published: f64, within: f64) {
        assert!((value / published - 1.0).abs() < within, "{value} is not {published}");
    }

    #[test]
    fn the_conversation_profile_has_the_statistics_of_the_trace() {
        let (rate, variation, lengths) = statistics("azure-conversation");
        near(rate, 5.5, 0.05);
        near(variation, 1.09, 0.05);
        for (length, published) in lengths.into_iter().zip([1_020.0, 4_142.0, 129.0, 601.0]) {
            near(f64::from(length), published, 0.03);
        }
    }

    #[test]
    fn the_code_profile_has_the_statistics_of_the_trace() {
        let (rate, variation, lengths) = statistics("azure-code");
        near(rate, 2.6, 0.1);
        near(variation, 13.0, 0.1);
        for (length, published) in lengths.into_iter().zip([1_469.0, 7_436.0, 13.0, 251.0]) {
            near(f64::from(length), published, 0.03);
        }
    }

    #[test]
    fn means_are_those_of_what_is_drawn() {
        for profile in PROFILES {
            let mut rng = Rng::with_seed(3);
            let drawn = (0..100_000).map(|_| profile.draw(0.0, &mut rng)).collect::<Vec<_>>();
            let of = |pick: fn(&TraceRow) -> u32| {
                drawn.iter().map(|row| f64::from(pick(row))).sum::<f64>() / drawn.len() as f64
            };
            let (prompt, output) = profile.mean_tokens();
            near(of(|row| row.prompt_tokens), prompt, 0.02);
            near(of(|row| row.output_tokens), output, 0.03);
        }
    }
}
