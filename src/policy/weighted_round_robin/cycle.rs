//! The order of turns for one view of the fleet, in whole turns and of bounded length.
//!
//! Weights that are small multiples of something (5, 1, 1; 0.5, 0.25; 1.2, 0.8) get exactly that many turns. Others
//! are rounded to a cycle of at most [`len_max`] turns by largest remainders, every node at least one: a share is then
//! off by at most `(nodes + 1) / len_max`, 0.2 % of the traffic for 8 nodes. The smooth order is what the textbook
//! loop gives (everybody gains its weight, the richest pays the sum), but nodes of equal weight take turns among
//! themselves, so a step looks at the distinct weights only: of those there are at most `sqrt(2 * turns)`.

use crate::fleet::Fleet;
use crate::policy::Context;

/// The least bound of a cycle's length, in turns.
const LEN_MAX: usize = 4096;
/// The bound for large fleets, in turns per node.
const TURNS_PER_NODE: usize = 16;
/// The largest common denominator that is tried to make weights whole.
const DENOMINATOR_MAX: u32 = 100;
/// How many turns are looked at one by one before the next turn is searched for per candidate.
const NEAR: usize = 32;

/// The bound of a cycle's length in turns.
fn len_max(nodes: usize) -> usize {
    LEN_MAX.max(TURNS_PER_NODE * nodes)
}

/// An order of turns that repeats.
#[derive(Debug)]
pub(super) struct Cycle {
    /// [`Fleet::version`] of the view that it is of.
    version: u64,
    /// The fleet index of each turn's node.
    turns: Box<[u16]>,
    /// The turns of each node in ascending order, node after node.
    by_node: Box<[u32]>,
    /// Where each node's turns start in `by_node`; one more for the end.
    starts: Box<[u32]>,
}

/// A turn that is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Turn {
    /// Its place in the cycle.
    pub(super) turn: usize,
    /// Whose it is: index into the candidates.
    pub(super) candidate: usize,
}

impl Cycle {
    /// The cycle of that view.
    pub(super) fn of(fleet: &Fleet) -> Cycle {
        let weights: Vec<f64> = fleet.nodes().iter().map(|node| node.spec.weight).collect();
        let counts = whole(&weights).unwrap_or_else(|| rounded(&weights));
        let turns = smooth(&counts);
        let mut starts: Vec<u32> = vec![0];
        for count in &counts {
            starts.push(starts.last().copied().unwrap_or(0) + count);
        }
        let mut next = starts.clone();
        let mut by_node = vec![0; turns.len()];
        for (turn, node) in turns.iter().enumerate() {
            let place = &mut next[usize::from(*node)];
            by_node[*place as usize] = turn as u32;
            *place += 1;
        }
        Cycle { version: fleet.version(), turns: turns.into(), by_node: by_node.into(), starts: starts.into() }
    }

    /// Whether it is the cycle of that view.
    pub(super) fn is_of(&self, fleet: &Fleet) -> bool {
        self.version == fleet.version() && self.starts.len() == fleet.nodes().len() + 1
    }

    /// How many turns it has; at least 1 for a fleet with nodes.
    pub(super) fn len(&self) -> usize {
        self.turns.len()
    }

    /// The first turn from `from` on that is a candidate's. The candidates are of the view that this is of.
    pub(super) fn next(&self, from: usize, ctx: &Context<'_>) -> Turn {
        let all = ctx.candidates.len() == ctx.fleet.nodes().len();
        for turn in (from..self.len()).chain(0..from).take(NEAR) {
            let node = u32::from(self.turns[turn]);
            if all {
                return Turn { turn, candidate: node as usize };
            }
            if let Ok(candidate) = ctx.candidates.binary_search_by_key(&node, |candidate| candidate.index) {
                return Turn { turn, candidate };
            }
        }
        let away = |turn: usize| if turn >= from { turn - from } else { turn + self.len() - from };
        (0..ctx.candidates.len())
            .map(|candidate| Turn { turn: self.of_node_from(ctx.candidates[candidate].index, from), candidate })
            .min_by_key(|next| away(next.turn))
            .unwrap_or(Turn { turn: from, candidate: 0 })
    }

    /// The first turn of that node from `from` on.
    fn of_node_from(&self, node: u32, from: usize) -> usize {
        let (start, end) = (self.starts[node as usize] as usize, self.starts[node as usize + 1] as usize);
        let turns = &self.by_node[start..end];
        let next = turns.partition_point(|turn| (*turn as usize) < from);
        turns.get(next).or(turns.first()).map_or(from, |turn| *turn as usize)
    }
}

/// The weights as whole numbers in lowest terms, if they are such multiples and the cycle is short enough.
fn whole(weights: &[f64]) -> Option<Vec<u32>> {
    let near_whole = |x: f64| x >= 0.5 && (x - x.round()).abs() <= 1e-9 * x;
    let denominator = (1..=DENOMINATOR_MAX).map(f64::from).find(|d| weights.iter().all(|w| near_whole(w * d)))?;
    let counts: Vec<u64> = weights.iter().map(|weight| (weight * denominator).round() as u64).collect();
    let divisor = counts.iter().copied().fold(0, greatest_common_divisor).max(1);
    let sum: u64 = counts.iter().map(|count| count / divisor).sum();
    let fits = sum <= len_max(weights.len()) as u64;
    fits.then(|| counts.iter().map(|count| (count / divisor) as u32).collect())
}

fn greatest_common_divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

/// The weights as numbers of turns of a cycle of [`len_max`] (a little more if many nodes' shares are below one turn).
fn rounded(weights: &[f64]) -> Vec<u32> {
    let len = len_max(weights.len());
    let sum: f64 = weights.iter().sum();
    let quotas: Vec<f64> = weights.iter().map(|weight| weight / sum * len as f64).collect();
    let mut counts: Vec<u32> = quotas.iter().map(|quota| (quota.floor() as u32).max(1)).collect();
    let given: usize = counts.iter().map(|count| *count as usize).sum();
    let mut by_remainder: Vec<usize> = (0..weights.len()).collect();
    by_remainder.sort_by(|a, b| quotas[*b].fract().total_cmp(&quotas[*a].fract()));
    for node in by_remainder.into_iter().filter(|node| quotas[*node] >= 1.0).take(len.saturating_sub(given)) {
        counts[node] += 1;
    }
    counts
}

/// Nodes of the same number of turns.
struct Class {
    count: i64,
    /// How much it is owed: turns so far times `count`, minus the sum of all for each turn its next member has had.
    owed: i64,
    members: Vec<u16>,
    next: usize,
}

/// The smooth order of that many turns per node.
fn smooth(counts: &[u32]) -> Vec<u16> {
    let sum: i64 = counts.iter().map(|count| i64::from(*count)).sum();
    let mut classes: Vec<Class> = Vec::new();
    let mut by_count: Vec<usize> = (0..counts.len()).collect();
    by_count.sort_by_key(|node| counts[*node]);
    for node in by_count {
        let count = i64::from(counts[node]);
        match classes.last_mut().filter(|class| class.count == count) {
            Some(class) => class.members.push(node as u16),
            None => classes.push(Class { count, owed: 0, members: vec![node as u16], next: 0 }),
        }
    }
    let mut turns = Vec::with_capacity(sum as usize);
    for _ in 0..sum {
        classes.iter_mut().for_each(|class| class.owed += class.count);
        // The most owed; of those the first in the fleet.
        let richest = classes.iter_mut().max_by_key(|class| (class.owed, std::cmp::Reverse(class.members[class.next])));
        let Some(class) = richest else { break };
        turns.push(class.members[class.next]);
        class.next += 1;
        if class.next == class.members.len() {
            class.next = 0;
            class.owed -= sum;
        }
    }
    turns
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::tests_support::Scene;
    use proptest::prelude::*;

    /// The loop of the textbook.
    fn one_by_one(counts: &[u32]) -> Vec<u16> {
        let sum: i64 = counts.iter().map(|count| i64::from(*count)).sum();
        let mut owed = vec![0i64; counts.len()];
        (0..sum)
            .map(|_| {
                owed.iter_mut().zip(counts).for_each(|(owed, count)| *owed += i64::from(*count));
                let richest = (0..owed.len()).rev().max_by_key(|node| owed[*node]).unwrap();
                owed[richest] -= sum;
                richest as u16
            })
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn the_order_is_that_of_the_textbook(counts in prop::collection::vec(1u32..9, 1..12)) {
            prop_assert_eq!(smooth(&counts), one_by_one(&counts));
        }

        #[test]
        fn whole_weights_are_exact_in_any_unit(counts in prop::collection::vec(1u32..40, 1..8), parts in 1u32..100) {
            let weights: Vec<f64> = counts.iter().map(|count| f64::from(*count) / f64::from(parts)).collect();
            let turns = whole(&weights).expect("small multiples");
            for (a, b) in (0..counts.len()).flat_map(|a| (0..a).map(move |b| (a, b))) {
                prop_assert_eq!(turns[a] * counts[b], turns[b] * counts[a]);
            }
        }

        #[test]
        fn any_weights_give_a_short_cycle_of_bounded_error(weights in prop::collection::vec(0.001..1000.0f64, 1..40)) {
            let counts = rounded(&weights);
            let turns: u32 = counts.iter().sum();
            let bound = len_max(weights.len());
            prop_assert!(turns as usize <= bound + weights.len());
            let sum: f64 = weights.iter().sum();
            for (count, weight) in counts.iter().zip(&weights) {
                prop_assert!(*count > 0);
                let error = (f64::from(*count) / f64::from(turns) - weight / sum).abs();
                prop_assert!(error <= (weights.len() + 1) as f64 / bound as f64, "{error}");
            }
        }

        #[test]
        fn the_next_turn_is_the_same_near_and_far(
            weights in prop::collection::vec(0.01..100.0f64, 3..9), only in 0u32..9, from in 0usize..4096,
        ) {
            let count = weights.len() as u32;
            let scene = weights.iter().enumerate().fold(Scene::new(count), |s, (at, weight)| s.weight(at, *weight));
            let cycle = Cycle::of(&scene.fleet);
            let one = (0..count).filter(|index| *index != only % count).fold(scene, |s, index| s.without(index));
            let from = from % cycle.len();
            let next = cycle.next(from, &one.context());
            let walked = (from..cycle.len()).chain(0..from).find(|turn| u32::from(cycle.turns[*turn]) == only % count);
            prop_assert_eq!(Some(next.turn), walked);
        }
    }

    #[test]
    fn the_largest_fleet_of_odd_weights_stays_within_its_bound() {
        let weights: Vec<f64> = (0..4096).map(|node| 0.5 + f64::from(node) * 0.137).collect();
        assert_eq!(whole(&weights), None);
        let turns = smooth(&rounded(&weights));
        assert!(turns.len() <= len_max(4096) + 4096, "{}", turns.len());
    }
}
