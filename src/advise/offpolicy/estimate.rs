//! Two estimates of the mean under a changed policy, with intervals, or a refusal where the log does not overlap with it.
//!
//! Self-normalised inverse propensities (Hajek's ratio), and doubly robust (Dudik, Langford and Li 2011). Intervals come
//! from the means of forty successive blocks and not from single attempts, as attempts that wait for each other are
//! not independent. Kish's effective sample size alone does not show missing overlap: if *none* of the changed choices was
//! ever taken, all weights are 1 or 0 and it looks excellent. So what must rest on enough attempts is the part that
//! changes: those whose choice the changed policy makes likelier, and their gain must be about what the change moves.

use serde::Serialize;

/// Effective attempts that must have taken choices which the change makes likelier.
pub const GAINED_MIN: f64 = 30.0;

/// The effective sample, as a share of the attempts, below which an estimate is refused.
const EFFECTIVE_MIN: f64 = 0.05;

/// Blocks of successive attempts that an interval is made of.
const BLOCKS: usize = 40;

/// Student's t for 95 % and one block less.
const STUDENT: f64 = 2.0227;

/// What the weights gain, over what the change moves: 1 on average, unless what it would choose was hardly ever taken.
const GAINED_SHARE: std::ops::Range<f64> = 0.5..2.0;

/// One attempt as an estimate sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Term {
    /// The chance of its choice under the change over the one that was logged.
    pub(super) weight: f64,
    /// How long it took.
    pub(super) outcome_s: f64,
    /// What a model says of its choice.
    pub(super) model_s: f64,
    /// What that model says of the changed policy.
    pub(super) expected_s: f64,
    /// The chance that the change moves from some nodes to others.
    pub(super) moved: f64,
}

/// The mean response time under a changed policy that meets the loads of the recording. In seconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// What is changed.
    pub change: String,
    /// Self-normalised inverse-propensity estimate.
    pub weighted_s: f64,
    /// Half the width of its 95 % confidence interval.
    pub weighted_half_s: f64,
    /// Doubly robust estimate.
    pub robust_s: f64,
    /// Half the width of its 95 % confidence interval.
    pub robust_half_s: f64,
    /// Attempts that the weights leave, `(sum w)^2 / sum w^2`.
    pub effective: f64,
    /// The same over the attempts whose choice the change makes likelier, of what it makes them likelier.
    pub gained: f64,
    /// Share of the decisions that would have gone elsewhere.
    pub moved_share: f64,
}

/// Half of the 95 % interval of a sum of `parts`, in their order.
fn half_width(parts: &[f64]) -> f64 {
    let sums: Vec<f64> = parts.chunks(parts.len().div_ceil(BLOCKS)).map(|block| block.iter().sum()).collect();
    let count = sums.len() as f64;
    let mean = sums.iter().sum::<f64>() / count;
    let squares: f64 = sums.iter().map(|sum| (sum - mean).powi(2)).sum();
    STUDENT * (squares * count / (count - 1.0)).sqrt()
}

/// Estimates the mean under `change`.
///
/// # Errors
/// Why not, in a sentence.
pub(super) fn estimate(change: &str, terms: &[Term]) -> Result<Estimate, String> {
    let count = terms.len() as f64;
    let sum_of = |of: &dyn Fn(&Term) -> f64| terms.iter().map(of).sum::<f64>();
    let (sum, squares) = (sum_of(&|term| term.weight), sum_of(&|term| term.weight * term.weight));
    let gain = |term: &Term| (term.weight - 1.0).max(0.0);
    let (gained, gained_squares) = (sum_of(&gain), sum_of(&|term| gain(term).powi(2)));
    let kish = |sum: f64, squares: f64| if squares > 0.0 { sum * sum / squares } else { 0.0 };
    let moved = sum_of(&|term| term.moved);
    let is_covered = GAINED_SHARE.contains(&(gained / moved));
    let (effective, gained) = (kish(sum, squares), if is_covered { kish(gained, gained_squares) } else { 0.0 });
    if gained < GAINED_MIN || effective < EFFECTIVE_MIN * count {
        return Err(format!(
            "{change}: some {moved:.0} of {count:.0} decisions would have gone elsewhere, and too few attempts went \
             there: {gained:.1} effective ones, where {GAINED_MIN} are needed."
        ));
    }
    let weighted_s = sum_of(&|term| term.weight * term.outcome_s) / sum;
    let robust = |term: &Term| (term.expected_s + term.weight * (term.outcome_s - term.model_s)) / count;
    // The delta method for a ratio of means.
    let linear = |term: &Term| term.weight * (term.outcome_s - weighted_s) / sum;
    Ok(Estimate {
        change: change.to_owned(),
        weighted_s,
        weighted_half_s: half_width(&terms.iter().map(linear).collect::<Vec<_>>()),
        robust_s: sum_of(&robust),
        robust_half_s: half_width(&terms.iter().map(robust).collect::<Vec<_>>()),
        effective,
        gained,
        moved_share: moved / count,
    })
}
