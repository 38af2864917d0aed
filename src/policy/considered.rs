//! What a decision was made from, in numbers: enough to say with which chance a *changed* policy would have chosen each
//! candidate.
//!
//! The logged propensity alone answers that only for changes that leave the preference as it was. So whoever records
//! may keep, per candidate, what the policy looked at: two numbers and a level for the learned one ([`Grounds`]), the
//! load and the weight for those that route by weights. Chances are computed by the very code that decides, not by a
//! second version of it, and the chance that comes out for the policy as it was must be the propensity that was
//! logged, which readers check. Policies with a turn or a memory of their own cannot be asked afterwards.

use std::sync::Arc;

use super::adaptive::grounds::{Ground, Grounds};
use super::pairs::costs_to_better_of_two;
use super::{Context, PolicyId, share_minimum};
use crate::learn::Learned;

/// Candidates that are kept of a decision; of one with more nothing is, as an exact chance needs all.
pub const CONSIDERED_MAX: usize = 64;

/// One candidate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Contestant {
    /// The node's slot in per-node tables.
    pub slot: u32,
    /// In flight there, without the new request.
    pub in_flight: u32,
    /// The operator's weight.
    pub weight: f64,
}

/// What a decision was made from.
#[derive(Clone, Debug, PartialEq)]
pub struct Considered {
    /// Who decided.
    pub policy: PolicyId,
    /// Which candidate was chosen.
    pub at: usize,
    /// The candidates.
    pub candidates: Vec<Contestant>,
    /// What the learned policy thought of each, where it decided by its model.
    pub grounds: Option<Grounds>,
}

/// A small change of the policy that decided.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Altered {
    /// As it was.
    Nothing,
    /// Exploration so many times as frequent, never more often than always.
    Explore(f64),
    /// `social` so many times as large.
    Social(f64),
    /// The weight of the node in this slot so many times as large.
    Weight(u32, f64),
}

impl Considered {
    /// That of a decision of `policy` for the candidate `at`, on which the attempt counts by now. `None` for more than
    /// [`CONSIDERED_MAX`] candidates.
    pub fn of(policy: PolicyId, learned: &Learned, ctx: &Context<'_>, at: usize) -> Option<Arc<Considered>> {
        if ctx.candidates.len() > CONSIDERED_MAX {
            return None;
        }
        let contestant = |candidate: &super::Candidate| Contestant {
            slot: ctx.node(candidate).slot,
            in_flight: candidate.in_flight,
            weight: candidate.weight,
        };
        Some(Arc::new(Considered {
            policy,
            at,
            candidates: ctx.candidates.iter().map(contestant).collect(),
            grounds: if policy.is_learned() { Grounds::of(learned, ctx, at) } else { None },
        }))
    }

    /// Writes the chance of each candidate under the policy as it was or altered into `out`.
    ///
    /// `None` if that cannot be said, as the policy has a state of its own. Where the learned policy's fallback decided,
    /// what alters its model changes nothing, and the chances are those of the fallback as far as they matter: 1 for
    /// whom it chose.
    pub fn chances(&self, altered: Altered, out: &mut Vec<f64>) -> Option<()> {
        out.clear();
        if self.policy.is_learned() {
            let Some(grounds) = &self.grounds else {
                out.resize(self.candidates.len(), 0.0);
                *out.get_mut(self.at)? = 1.0;
                return Some(());
            };
            let Grounds { social, explore, .. } = grounds;
            match altered {
                Altered::Explore(factor) => grounds.chances(*social, (explore * factor).min(1.0), out),
                Altered::Social(factor) => grounds.chances(social * factor, *explore, out),
                Altered::Nothing | Altered::Weight(..) => grounds.chances(*social, *explore, out),
            }
            return Some(());
        }
        let weight = |one: &Contestant| match altered {
            Altered::Weight(slot, factor) if slot == one.slot => one.weight * factor,
            _ => one.weight,
        };
        let load = |one: &Contestant| f64::from(one.in_flight + 1) / weight(one);
        match self.policy.name() {
            "random" => out.extend(self.candidates.iter().map(weight)),
            "least-connections" => {
                out.resize(self.candidates.len(), 0.0);
                share_minimum(out, |at| load(&self.candidates[at]));
            }
            "power-of-two" => {
                out.extend(self.candidates.iter().map(load));
                costs_to_better_of_two(out);
            }
            _ => return None,
        }
        let sum: f64 = out.iter().sum();
        out.iter_mut().for_each(|chance| *chance /= sum);
        (sum > 0.0).then_some(())
    }

    /// Whether the learned policy took one that it did not think the best. Never where it did not decide by its model: a
    /// policy that splits ties at random explores nothing.
    pub fn is_explored(&self) -> bool {
        let Some(grounds) = &self.grounds else { return false };
        let mut scores = Vec::new();
        grounds.scores(grounds.social, &mut scores);
        scores.get(self.at).is_some_and(|own| scores.iter().any(|score| score < own))
    }

    /// What the learned policy expected of each candidate, in seconds, the failure penalty included.
    pub fn expected_s(&self, at: usize) -> Option<f64> {
        self.grounds.as_ref().and_then(|grounds| grounds.nodes.get(at)).map(|node: &Ground| node.own_s)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learn::explore::UNEXPLORED;

    fn considered(policy: &str, loads: &[(u32, f64)]) -> Considered {
        let candidate = |(slot, (in_flight, weight)): (u32, &(u32, f64))| Contestant {
            slot,
            in_flight: *in_flight,
            weight: *weight,
        };
        let candidates = (0u32..).zip(loads).map(candidate).collect();
        Considered { policy: PolicyId::named(policy).expect("registered"), at: 0, candidates, grounds: None }
    }

    fn chances(considered: &Considered, altered: Altered) -> Vec<f64> {
        let mut out = Vec::new();
        considered.chances(altered, &mut out).expect("can be said");
        out
    }

    fn learned(social: f64) -> Considered {
        let ground = |own_s, added_s, level| Ground { own_s, added_s, level };
        let nodes = vec![ground(1.0, 1.0, 3), ground(1.5, 0.1, 3), ground(f64::INFINITY, 0.0, UNEXPLORED)];
        let grounds = Some(Grounds { social, explore: 0.1, nodes });
        Considered { grounds, ..considered("adaptive", &[(0, 1.0), (0, 1.0), (9, 1.0)]) }
    }

    #[test]
    fn another_social_prefers_another_node_and_who_was_left_out_stays_out() {
        let as_it_was = chances(&learned(0.2), Altered::Nothing);
        assert!(as_it_was[0] > 0.9 && as_it_was[1] > 0.0 && as_it_was[2] == 0.0, "{as_it_was:?}");
        let altered = chances(&learned(0.2), Altered::Social(5.0));
        assert!(altered[1] > 0.9 && (altered.iter().sum::<f64>() - 1.0).abs() < 1e-12, "{altered:?}");
        assert_eq!(chances(&learned(0.2), Altered::Weight(0, 9.0)), as_it_was, "it does not route by weights");
    }

    #[test]
    fn more_exploration_takes_from_the_best_what_it_gives_to_others() {
        let (once, twice) = (chances(&learned(0.2), Altered::Nothing), chances(&learned(0.2), Altered::Explore(2.0)));
        assert!((twice[1] - 2.0 * once[1]).abs() < 1e-12 && (twice.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        assert_eq!(chances(&learned(0.2), Altered::Explore(0.0)), [1.0, 0.0, 0.0]);
    }

    #[test]
    fn a_tie_is_no_exploration() {
        let tied = considered("least-connections", &[(1, 1.0), (1, 1.0), (4, 1.0)]);
        assert_eq!(chances(&tied, Altered::Nothing), [0.5, 0.5, 0.0]);
        assert!(!tied.is_explored() && !learned(0.2).is_explored());
        assert!(Considered { at: 1, ..learned(0.2) }.is_explored());
    }

    #[test]
    fn weights_count_as_the_policies_count_them() {
        let nodes = [(1, 1.0), (3, 2.0)];
        assert_eq!(chances(&considered("random", &nodes), Altered::Weight(0, 2.0)), [0.5, 0.5]);
        assert_eq!(chances(&considered("power-of-two", &nodes), Altered::Weight(1, 2.0)), [0.0, 1.0]);
        assert_eq!(considered("round-robin", &nodes).chances(Altered::Nothing, &mut Vec::new()), None);
    }
}
