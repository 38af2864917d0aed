//! Each free node in turn.
//!
//! The position runs over the *fleet*, not over the candidates: a node that is skipped because it is at its limit
//! does not shift everybody's turn, and the nodes behind it do not get its share twice.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::policy::{Context, Policy};

/// Round robin.
#[derive(Debug, Default)]
pub(super) struct RoundRobin {
    /// Fleet index after the one chosen last.
    next: AtomicU64,
}

impl Policy for RoundRobin {
    fn weigh(&self, ctx: &Context<'_>, out: &mut [f64]) {
        let turn = |from: u64| {
            let at = ctx.candidates.iter().position(|c| u64::from(c.index) >= from).unwrap_or(0);
            (at, u64::from(ctx.candidates[at].index) + 1)
        };
        // Two decisions at the same moment must not get the same turn.
        let from = self
            .next
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |from| Some(turn(from).1))
            .unwrap_or_else(|from| from);
        out[turn(from).0] = 1.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::tests_support::Scene;

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
}
