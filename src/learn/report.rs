//! What the learner says of its work: results of fits, and counters for metrics.

use crate::learn::features::TARGETS;
use crate::learn::guard::Fallback;
use crate::learn::sample::Unfit;

/// What became of the fit of one target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FitResult {
    /// Published.
    Published,
    /// There is not enough evidence.
    NoEvidence,
    /// The regression failed, or a coefficient is not a finite number.
    Failed,
    /// It did worse on held-back samples than the one in force.
    Worse,
}

impl FitResult {
    /// All of them, in the order of their counters.
    pub const ALL: [FitResult; 4] = [FitResult::Published, FitResult::NoEvidence, FitResult::Failed, FitResult::Worse];

    /// The word for labels.
    pub fn word(self) -> &'static str {
        match self {
            FitResult::Published => "published",
            FitResult::NoEvidence => "no_evidence",
            FitResult::Failed => "failed",
            FitResult::Worse => "worse",
        }
    }
}

/// What a refit did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FitReport {
    /// Version that was published, if any.
    pub version: Option<u32>,
    /// By target.
    pub targets: [FitResult; TARGETS],
    /// Held-back observations that it was checked with.
    pub held_back: usize,
    /// Why the fallback routes, if the guard says so.
    pub fallback: Option<Fallback>,
}

/// Counters since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Samples that became labels.
    pub labels: u64,
    /// Samples that did not, in the order of [`Unfit::ALL`].
    pub unfit: [u64; Unfit::ALL.len()],
    /// Observations that were cut to a believable size.
    pub clipped: u64,
    /// Observations dropped because too many came between two fits.
    pub dropped: u64,
    /// Fits by target and result, in the orders of [`Target::ALL`](crate::learn::features::Target::ALL) and
    /// [`FitResult::ALL`].
    pub fits: [[u64; FitResult::ALL.len()]; TARGETS],
    /// How often everything was learned anew because the model stood demoted for too long.
    pub relearned: u64,
}

impl Counts {
    /// Counts a sample that is not a label.
    pub(super) fn refuse(&mut self, why: Unfit) {
        self.unfit[why as usize] += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_in_the_order_of_their_words() {
        for (at, why) in Unfit::ALL.iter().enumerate() {
            assert_eq!(*why as usize, at);
        }
        for (at, result) in FitResult::ALL.iter().enumerate() {
            assert_eq!(*result as usize, at);
        }
    }
}
