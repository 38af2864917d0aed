//! What the logged chances say by themselves, without an emulation: estimates of small changes of the policy.
//!
//! Every row of a recording tells with which probability its node was chosen and what it was chosen from
//! ([`Considered`]), so the chance of that choice under another exploration rate, another `social` or another weight is
//! known exactly, and outcomes can be reweighted (`estimate.rs`). That chance is computed for the policy as it was, too; a
//! row where it is not the logged one is left out and counted. Under a policy that nearly always takes the least score,
//! a change of what is preferred rests on explored attempts alone, which are too few: the usual answer is a refusal
//! with the numbers. And no estimate of this kind sees that a policy changes the loads that it meets: for that there
//! is the replay.

mod estimate;
#[cfg(test)]
mod tests;

use serde::Serialize;

use super::history::{Attempt, History};
use crate::policy::PolicyId;
use crate::policy::considered::{Altered, Considered};
pub use estimate::{Estimate, GAINED_MIN};
use estimate::{Term, estimate};

/// Changes of the learned policy that are tried.
const LEARNED: [(&str, Altered); 6] = [
    ("no exploration", Altered::Explore(0.0)),
    ("exploration x 0.5", Altered::Explore(0.5)),
    ("exploration x 2", Altered::Explore(2.0)),
    ("exploration x 5", Altered::Explore(5.0)),
    ("social x 0.8", Altered::Social(0.8)),
    ("social x 1.25", Altered::Social(1.25)),
];

/// By what a node's weight is multiplied.
const WEIGHT_FACTOR: f64 = 1.25;

/// Nodes whose weight is changed, the first by name: a page has an end.
const WEIGHTS_MAX: usize = 8;

/// A recomputed chance that is further from the logged one, relatively, is another one: scores are told in seven digits.
const SAME_CHANCE: f64 = 1e-4;

/// Share of the attempts whose logged chance must come out again.
const REPEATED_MIN: f64 = 0.9;

/// What can be said of a recording by its logged chances.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OffPolicy {
    /// Completed attempts whose logged chance can be repeated from what was recorded of their decision.
    pub attempts: usize,
    /// Of them, those on a node that the learned policy did not think the best.
    pub explored: usize,
    /// Completed attempts of which the recording tells no candidates.
    pub untold: usize,
    /// Completed attempts whose logged chance does not come out again.
    pub unlike: usize,
    /// Mean response time of [`OffPolicy::attempts`], in seconds.
    pub mean_s: f64,
    /// One for each change that the log allows.
    pub estimates: Vec<Estimate>,
    /// Why there is no estimate of some or of all.
    pub refusals: Vec<String>,
}

/// An attempt with what it was chosen from.
type Logged<'a> = (&'a Attempt, &'a Considered);

/// Estimates what the logged chances allow.
pub fn off_policy(history: &History) -> OffPolicy {
    let sound = |one: &&Attempt| one.propensity > 0.0 && one.propensity <= 1.0;
    let completed: Vec<&Attempt> = history.completed().filter(sound).collect();
    let told = completed.iter().filter_map(|one| Some((*one, one.considered.as_deref()?)));
    let told: Vec<Logged<'_>> = told.filter(|(_, seen)| seen.policy.name() == history.policy).collect();
    let mut chances = Vec::new();
    let rows: Vec<Logged<'_>> = told.iter().copied().filter(|row| is_repeated(row, &mut chances)).collect();
    let mut result = OffPolicy {
        attempts: rows.len(),
        explored: rows.iter().filter(|(_, seen)| seen.is_explored()).count(),
        untold: completed.len() - told.len(),
        unlike: told.len() - rows.len(),
        mean_s: rows.iter().map(|(row, _)| row.total_s).sum::<f64>() / rows.len().max(1) as f64,
        estimates: Vec::new(),
        refusals: Vec::new(),
    };
    if let Some(why) = refusal(history, &result) {
        result.refusals.push(why);
        return result;
    }
    let model = Model::of(history, &rows);
    for (change, altered) in changes(history) {
        match estimate(&change, &terms(&rows, altered, &model)) {
            Ok(estimate) => result.estimates.push(estimate),
            Err(why) => result.refusals.push(why),
        }
    }
    result
}

/// Whether what was recorded of the decision gives the logged chance.
fn is_repeated((row, seen): &Logged<'_>, chances: &mut Vec<f64>) -> bool {
    // There is nothing to repeat of a fallback's decision: a change of the model does not concern it.
    let by_fallback = seen.policy.is_learned() && seen.grounds.is_none();
    seen.chances(Altered::Nothing, chances).is_some()
        && (by_fallback || (chances[seen.at] / row.propensity - 1.0).abs() <= SAME_CHANCE)
}

/// Why there can be no estimate at all.
fn refusal(history: &History, seen: &OffPolicy) -> Option<String> {
    let policy = &history.policy;
    if !PolicyId::named(policy).is_some_and(|id| id.is_learned()) && changes(history).is_empty() {
        return Some(format!(
            "{policy} neither explores nor draws by weights: its choices have no chances that could be reweighted. Use \
             the replay."
        ));
    }
    let (all, untold) = (seen.attempts + seen.unlike + seen.untold, seen.untold);
    if seen.attempts + seen.unlike == 0 {
        return Some(
            "The recording does not tell what its decisions were made from (an older recording, or more than 64 \
             candidates). Record anew, or use the replay."
                .to_owned(),
        );
    }
    let told = all - untold;
    ((seen.attempts as f64) < REPEATED_MIN * told as f64).then(|| {
        format!(
            "Of {told} decisions only {} give the logged chance again: something else than {policy} decided.",
            seen.attempts
        )
    })
}

/// What is tried on the recorded policy, with its name.
fn changes(history: &History) -> Vec<(String, Altered)> {
    match history.policy.as_str() {
        name if PolicyId::named(name).is_some_and(|id| id.is_learned()) => {
            LEARNED.map(|(name, altered)| (name.to_owned(), altered)).to_vec()
        }
        "random" | "least-connections" | "power-of-two" => {
            let mut slots: Vec<(u32, u32)> = history.slots.iter().map(|(slot, node)| (*node, *slot)).collect();
            slots.sort_unstable();
            let change = |(node, slot): &(u32, u32)| {
                let name = format!("weight of {} x {WEIGHT_FACTOR}", history.nodes[*node as usize]);
                (name, Altered::Weight(*slot, WEIGHT_FACTOR))
            };
            slots.iter().take(WEIGHTS_MAX).map(change).collect()
        }
        _ => Vec::new(),
    }
}

/// What a choice is expected to take: what the learned policy expected, brought to the recorded mean; else the mean of
/// the node's attempts. A poor model widens the doubly robust interval, and does not make it wrong.
struct Model {
    /// Recorded over expected.
    factor: f64,
    /// By node.
    means: Vec<f64>,
    mean: f64,
}

impl Model {
    fn of(history: &History, rows: &[Logged<'_>]) -> Model {
        let (mut recorded, mut expected) = (0.0, 0.0);
        let mut sums = vec![(0.0, 0.0); history.nodes.len()];
        for (row, seen) in rows {
            if let Some(expected_s) = seen.expected_s(seen.at) {
                recorded += row.total_s;
                expected += expected_s;
            }
            let sum = &mut sums[row.node as usize];
            *sum = (sum.0 + row.total_s, sum.1 + 1.0);
        }
        let all = sums.iter().fold((0.0, 0.0), |all, sum| (all.0 + sum.0, all.1 + sum.1));
        let mean_of = |(sum, count): (f64, f64), or: f64| if count > 0.0 { sum / count } else { or };
        let mean = mean_of(all, 0.0);
        let factor = if expected > 0.0 { recorded / expected } else { 1.0 };
        Model { factor, means: sums.into_iter().map(|sum| mean_of(sum, mean)).collect(), mean }
    }

    fn of_choice(&self, node: Option<u32>, seen: &Considered, at: usize) -> f64 {
        let of_node = || node.and_then(|node| self.means.get(node as usize)).copied().unwrap_or(self.mean);
        seen.expected_s(at).filter(|s| s.is_finite()).map_or_else(of_node, |expected_s| self.factor * expected_s)
    }
}

fn terms(rows: &[Logged<'_>], altered: Altered, model: &Model) -> Vec<Term> {
    let nodes: std::collections::HashMap<u32, u32> =
        rows.iter().map(|(row, seen)| (seen.candidates[seen.at].slot, row.node)).collect();
    let (mut before, mut after) = (Vec::new(), Vec::new());
    let term = |(row, seen): &Logged<'_>| {
        seen.chances(Altered::Nothing, &mut before)?;
        seen.chances(altered, &mut after)?;
        let of = |at: usize| model.of_choice(nodes.get(&seen.candidates[at].slot).copied(), seen, at);
        let moved = before.iter().zip(&after).map(|(before, after)| (after - before).max(0.0)).sum();
        let likely = after.iter().enumerate().filter(|(_, chance)| **chance > 0.0);
        Some(Term {
            weight: after[seen.at] / before[seen.at],
            outcome_s: row.total_s,
            model_s: of(seen.at),
            expected_s: likely.map(|(at, chance)| chance * of(at)).sum(),
            moved,
        })
    };
    rows.iter().filter_map(term).collect()
}
