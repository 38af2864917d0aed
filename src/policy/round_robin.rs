//! Each free node in turn: the candidate whose last turn is longest ago.
//!
//! Every node remembers its own last turn. One position that runs over the fleet is the obvious way, and starves
//! nodes: with two models on two nodes each and requests that alternate between the models, the position always
//! stands behind the first node of a model, so the second never gets a turn. Here a node that was left out (at its
//! limit, down, another model) is next as soon as it may be, once, and nobody gets its share twice.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::fleet::{PerNode, Resettable};
use crate::policy::{Context, Policy};

/// How often the search starts anew because another thread took the same turn; each time, that one made progress.
const RACES_MAX: u32 = 16;

/// Round robin.
#[derive(Debug, Default)]
pub(super) struct RoundRobin {
    last_turns: PerNode<LastTurn>,
    turns: AtomicU64,
}

/// The number of a node's last turn; 0 for none.
#[derive(Debug, Default)]
struct LastTurn(AtomicU64);

impl Resettable for LastTurn {
    fn reset(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

impl RoundRobin {
    /// The candidate whose last turn is longest ago, and when that was.
    fn next(&self, ctx: &Context<'_>) -> (usize, u64) {
        let (mut next, mut longest_ago) = (0, u64::MAX);
        for (at, candidate) in ctx.candidates.iter().enumerate() {
            let last = self.last_turns.of(ctx.node(candidate)).0.load(Ordering::Relaxed);
            if last < longest_ago {
                (next, longest_ago) = (at, last);
            }
        }
        (next, longest_ago)
    }
}

impl Policy for RoundRobin {
    fn peek(&self, ctx: &Context<'_>, out: &mut [f64]) {
        out[self.next(ctx).0] = 1.0;
    }

    fn weigh(&self, ctx: &Context<'_>, out: &mut [f64]) {
        let turn = self.turns.fetch_add(1, Ordering::Relaxed) + 1;
        let mut chosen = 0;
        for _ in 0..RACES_MAX {
            let longest_ago;
            (chosen, longest_ago) = self.next(ctx);
            // Two decisions at the same moment must not get the same turn.
            let last = &self.last_turns.of(ctx.node(&ctx.candidates[chosen])).0;
            if last.compare_exchange(longest_ago, turn, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                break;
            }
        }
        out[chosen] = 1.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::tests_support::Scene;
    use proptest::prelude::*;

    #[test]
    fn every_node_gets_its_turn_and_a_full_one_costs_nobody_theirs() {
        let scene = Scene::new(4);
        let policy = RoundRobin::default();
        let turns: Vec<usize> = (0..8).map(|_| scene.sure(&policy)).collect();
        assert_eq!(turns, [0, 1, 2, 3, 0, 1, 2, 3]);
        let without_1 = scene.without(1);
        let turns: Vec<usize> = (0..6).map(|_| without_1.sure(&policy)).collect();
        assert_eq!(turns, [0, 2, 3, 0, 2, 3]);
    }

    #[test]
    fn a_peek_sees_the_next_turn_and_takes_none() {
        let (policy, scene) = (RoundRobin::default(), Scene::new(3));
        for turn in [0, 1, 2, 0, 1] {
            let mut seen = [0.0; 3];
            policy.peek(&scene.context(), &mut seen);
            policy.peek(&scene.context(), &mut [0.0; 3]);
            assert_eq!((seen[turn], scene.sure(&policy)), (1.0, turn));
        }
    }

    #[test]
    fn alternating_kinds_of_candidates_starve_nobody() {
        let scene = Scene::new(4);
        let (ours, theirs) = (scene.without(2).without(3), scene.without(0).without(1));
        let policy = RoundRobin::default();
        let mut turns = [0; 4];
        for _ in 0..10 {
            turns[ours.sure(&policy)] += 1;
            turns[theirs.sure(&policy)] += 1;
        }
        assert_eq!(turns, [5, 5, 5, 5]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn nobody_is_two_turns_ahead_of_another_that_could_have_had_them(
            count in 1u32..8, left_out in prop::collection::vec(0u32..8, 1..60),
        ) {
            let scene = Scene::new(count);
            let policy = RoundRobin::default();
            let mut turns = vec![0i64; count as usize];
            for _ in 0..3 * count {
                turns[scene.sure(&policy)] += 1;
            }
            prop_assert!(turns.iter().all(|turns| *turns == 3));
            for out in left_out {
                if count == 1 || out >= count {
                    continue;
                }
                scene.without(out).sure(&policy);
            }
            // Whatever was left out before, each node has one turn in the next round.
            let mut next: Vec<usize> = (0..count).map(|_| scene.sure(&policy)).collect();
            next.sort_unstable();
            prop_assert_eq!(next, (0..count as usize).collect::<Vec<_>>());
        }
    }

    #[test]
    fn threads_share_the_turns_evenly() {
        let scene = Scene::new(5);
        let policy = RoundRobin::default();
        let counts: Vec<AtomicU64> = (0..5).map(|_| AtomicU64::new(0)).collect();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..2_500 {
                        counts[scene.sure(&policy)].fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        let counts: Vec<u64> = counts.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
        // A thread that is suspended between taking its turn's number and its node shifts that node by one place.
        assert!(most - least <= 500 && counts.iter().sum::<u64>() == 10_000, "{counts:?}");
    }
}
