//! Why a candidate of a decision has the probability that it has: for programs a word, for people a sentence.
//!
//! It is read off the distribution after the fact. A policy that told its reasons itself would have to tell them for
//! every decision, of which one in hundreds is ever looked at.

use crate::clock::Time;
use crate::learn::{Fallback, Learned};
use crate::policy::PolicyId;
use crate::policy::adaptive::{self, Assessment};

/// Why a candidate has the probability that it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// There was no other.
    Only,
    /// It has the least score.
    LeastScore,
    /// It shares the least score with others.
    Tie,
    /// It is not the best, but less is known of it.
    Explored,
    /// The fallback of the learned policy chose it, for that reason; `None` where every node was left out.
    Fallback(Option<Fallback>),
    /// A classic policy was sure.
    Sure,
    /// A classic policy found it as good as others.
    Equal,
    /// A classic policy drew it.
    Drawn,
    /// It could not be chosen this time.
    Passed,
}

impl Why {
    /// The word for programs.
    pub fn word(self) -> &'static str {
        match self {
            Why::Only => "only-one",
            Why::LeastScore => "least-score",
            Why::Tie => "tie",
            Why::Explored => "explored",
            Why::Fallback(_) => "fallback",
            Why::Sure => "policy-sure",
            Why::Equal => "policy-tie",
            Why::Drawn => "policy-draw",
            Why::Passed => "passed",
        }
    }

    /// The same for people.
    pub fn sentence(self) -> &'static str {
        match self {
            Why::Only => "it was the only candidate",
            Why::LeastScore => "it has the least score",
            Why::Tie => "it shares the least score with others",
            Why::Explored => "it is explored: another has the least score, but less is known of this one",
            Why::Fallback(Some(fallback)) => fallback.reason(),
            Why::Fallback(None) => "every candidate is silent or ramping, so the fallback chose",
            Why::Sure => "the policy chose it with certainty",
            Why::Equal => "the policy found it as good as others",
            Why::Drawn => "the policy drew it with this probability",
            Why::Passed => "the policy did not consider it this time",
        }
    }
}

/// How a distribution came about.
#[derive(Clone, Copy, Debug)]
pub struct Reasons<'a> {
    policy: PolicyId,
    fallback: Option<Fallback>,
    probabilities: &'a [f64],
    most: f64,
    /// What the best have at least.
    floor: f64,
    routed: bool,
}

impl<'a> Reasons<'a> {
    /// Of what `policy` wrote for the candidates, given what the learned policy thinks of each.
    pub fn of(
        policy: PolicyId,
        learned: &Learned,
        now: Time,
        probabilities: &'a [f64],
        assessments: &[Assessment],
    ) -> Reasons<'a> {
        let most = probabilities.iter().copied().fold(0.0, f64::max);
        let fallback = learned.fallback(now);
        let routed = fallback.is_none() && assessments.iter().any(|seen| seen.held.is_none());
        Reasons { policy, fallback, probabilities, most, floor: most * adaptive::best_floor(learned), routed }
    }

    /// Why the candidate `at` has its probability.
    pub fn why(&self, at: usize) -> Why {
        let own = self.probabilities[at];
        let learned = self.policy.is_learned();
        let as_good = |least: f64| self.probabilities.iter().filter(|p| **p >= least).count();
        match () {
            () if self.probabilities.len() == 1 => Why::Only,
            () if own <= 0.0 => Why::Passed,
            () if learned && !self.routed => Why::Fallback(self.fallback),
            () if learned && own < self.floor => Why::Explored,
            () if learned && as_good(self.floor) > 1 => Why::Tie,
            () if learned => Why::LeastScore,
            () if as_good(f64::MIN_POSITIVE) == 1 => Why::Sure,
            () if own >= self.most * (1.0 - 1e-9) && as_good(own * (1.0 - 1e-9)) == as_good(f64::MIN_POSITIVE) => {
                Why::Equal
            }
            () => Why::Drawn,
        }
    }
}
