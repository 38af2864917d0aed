//! What the logged chances say by themselves, without an emulation: estimates of small changes of exploration.
//!
//! Every row tells with which probability its node was chosen. Exploration that is `k` times as frequent makes an explored
//! choice `k` times as likely, and leaves the preferred node `1 - k (1 - p)` where it had `p`: both exact for the adaptive
//! policy, so outcomes can be reweighted (self-normalised inverse propensities; and doubly robust, Dudik, Langford and
//! Li 2011, with the mean of preferred and of explored choices as the model). Any change of what is *preferred*
//! (`social`, weights, another policy) moves decisions to nodes that were chosen by exploration only, and the log does not
//! hold what the other nodes would have scored: that is refused, with the numbers that say why. And no estimate of this
//! kind sees that a policy changes the loads that it meets: for that there is the replay.

use serde::Serialize;

use super::history::{Attempt, History};

/// Explored attempts that an estimate must rest on.
const EXPLORED_MIN: usize = 30;

/// The effective sample, as a share of the attempts, below which an estimate is refused.
const EFFECTIVE_MIN: f64 = 0.05;

/// Factors on the exploration rate that are tried.
const FACTORS: [f64; 4] = [0.0, 0.5, 2.0, 5.0];

/// The mean response time under another rate of exploration. In seconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// How many times as frequent exploration would be.
    pub factor: f64,
    /// Self-normalised inverse-propensity estimate.
    pub weighted_s: f64,
    /// Doubly robust estimate.
    pub robust_s: f64,
    /// Half the width of the 95 % confidence interval of the former.
    pub half_s: f64,
    /// Attempts that the weights leave, `(sum w)^2 / sum w^2`.
    pub effective: f64,
}

/// What can be said of a recording by its logged chances.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OffPolicy {
    /// Completed attempts.
    pub attempts: usize,
    /// Of them, those whose node was not the preferred one.
    pub explored: usize,
    /// Share of the probability that went to exploration.
    pub explored_share: f64,
    /// Their mean response time.
    pub mean_s: f64,
    /// One for each factor; none if refused.
    pub estimates: Vec<Estimate>,
    /// Why there is no estimate of some or of all.
    pub refusals: Vec<String>,
}

/// Whether the node was one that the policy did not prefer. A preferred node has all that exploration leaves.
fn is_explored(attempt: &Attempt) -> bool {
    attempt.propensity < 0.5
}

/// Estimates what the logged chances allow.
pub fn off_policy(history: &History) -> OffPolicy {
    let rows: Vec<&Attempt> = history.completed().filter(|one| one.propensity > 0.0 && one.propensity <= 1.0).collect();
    let count = rows.len().max(1) as f64;
    let explored = rows.iter().filter(|row| is_explored(row)).count();
    // What the preferred nodes left to others, on average.
    let preferred = || rows.iter().filter(|row| !is_explored(row));
    let left = preferred().map(|row| 1.0 - row.propensity).sum::<f64>() / preferred().count().max(1) as f64;
    let mut result = OffPolicy {
        attempts: rows.len(),
        explored,
        explored_share: left,
        mean_s: rows.iter().map(|row| row.total_s).sum::<f64>() / count,
        estimates: Vec::new(),
        refusals: Vec::new(),
    };
    if explored as f64 > 0.3 * count {
        result.refusals.push(format!(
            "{explored} of {} choices had less than an even chance: this was not one preferred node and a little \
             exploration, so a change of exploration means nothing here.",
            rows.len()
        ));
    } else if explored < EXPLORED_MIN {
        result.refusals.push(format!(
            "Exploration: only {explored} of {} attempts were explored, and an estimate must rest on {EXPLORED_MIN}.",
            rows.len()
        ));
    } else {
        for factor in FACTORS {
            match estimate(&rows, factor, left) {
                Some(estimate) => result.estimates.push(estimate),
                None => result.refusals.push(format!("Exploration {factor} times as frequent: too little overlap.")),
            }
        }
    }
    result.refusals.push(format!(
        "social, weights and other policies: they prefer other nodes, of which the log has explored attempts only: \
         {explored} of {}. A change of one decision in ten would rest on some {:.0}. Use the replay.",
        rows.len(),
        explored as f64 / 10.0
    ));
    result
}

fn estimate(rows: &[&Attempt], factor: f64, left: f64) -> Option<Estimate> {
    let weight = |row: &Attempt| {
        if is_explored(row) { factor } else { (1.0 - factor * (1.0 - row.propensity)).max(0.0) / row.propensity }
    };
    let (mut sum, mut squares, mut weighted) = (0.0, 0.0, 0.0);
    // Mean response times of preferred and of explored choices.
    let mut means = [(0.0, 0.0); 2];
    for row in rows {
        let w = weight(row);
        sum += w;
        squares += w * w;
        weighted += w * row.total_s;
        let mean = &mut means[usize::from(is_explored(row))];
        *mean = (mean.0 + row.total_s, mean.1 + 1.0);
    }
    let effective = sum * sum / squares;
    let count = rows.len() as f64;
    if effective.is_nan() || effective < EFFECTIVE_MIN * count || factor * left > 0.5 {
        return None;
    }
    let weighted_s = weighted / sum;
    let model = means.map(|(total, count): (f64, f64)| total / count.max(1.0));
    let expected = (1.0 - factor * left) * model[0] + factor * left * model[1];
    let corrections = rows.iter().map(|row| weight(row) * (row.total_s - model[usize::from(is_explored(row))]));
    let robust_s = expected + corrections.sum::<f64>() / count;
    // The delta method for a ratio of means.
    let spread: f64 = rows.iter().map(|row| (weight(row) * (row.total_s - weighted_s)).powi(2)).sum();
    Some(Estimate { factor, weighted_s, robust_s, half_s: 1.96 * spread.sqrt() / sum, effective })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::advise::tests_support::attempt;

    /// Preferred choices take 1 s and explored ones 3 s on average; a share `explore` is explored.
    fn history(explore: f64, count: u32) -> History {
        let mut rng = fastrand::Rng::with_seed(9);
        let one = |i: u32| {
            let explored = rng.f64() < explore;
            let (propensity, mean_s) = if explored { (explore / 3.0, 3.0) } else { (1.0 - explore, 1.0) };
            let total_s = mean_s * (0.5 + rng.f64());
            Attempt { propensity, ..attempt(f64::from(i), 0.0, total_s, 1) }
        };
        History { nodes: vec!["a".into()], attempts: (0..count).map(one).collect(), ..History::default() }
    }

    #[test]
    fn both_estimates_hit_the_truth_of_another_exploration_rate() {
        let result = off_policy(&history(0.02, 100_000));
        assert_eq!(result.estimates.len(), FACTORS.len(), "{:?}", result.refusals);
        for estimate in &result.estimates {
            let explore = 0.02 * estimate.factor;
            let truth = (1.0 - explore) + explore * 3.0;
            for value in [estimate.weighted_s, estimate.robust_s] {
                assert!((value - truth).abs() < 0.01 && estimate.half_s < 0.02, "{estimate:?} is not {truth}");
            }
            assert!(estimate.effective > 0.4 * 100_000.0 && estimate.effective <= 100_000.0, "{estimate:?}");
        }
        assert!(result.refusals.len() == 1 && result.refusals[0].contains("replay"), "{:?}", result.refusals);
    }

    #[test]
    fn too_little_overlap_is_refused_with_the_numbers() {
        let few = off_policy(&history(0.01, 1_000));
        assert!(few.estimates.is_empty() && few.refusals[0].contains("must rest on 30"), "{few:?}");
        let random = off_policy(&history(0.6, 1_000));
        assert!(random.estimates.is_empty() && random.refusals[0].contains("even chance"), "{random:?}");
        let wild = off_policy(&history(0.15, 10_000));
        assert!(wild.refusals[0].contains("5 times as frequent: too little overlap"), "{wild:?}");
    }
}
