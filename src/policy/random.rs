//! At random, in proportion to the weights.
//!
//! Needs no state and no agreement between proxies, and is what every cleverer policy should be compared with: it
//! is the only one whose choice says nothing about the node's condition, so its samples are unbiased.

use crate::policy::{Context, Policy};

/// Weighted random choice.
#[derive(Debug)]
pub(super) struct Random;

impl Policy for Random {
    fn weigh(&self, ctx: &Context<'_>, out: &mut [f64]) {
        for (out, candidate) in out.iter_mut().zip(ctx.candidates) {
            *out = candidate.weight;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::tests_support::Scene;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn shares_are_the_weights_whatever_the_loads(
            nodes in prop::collection::vec((0.01..1000.0f64, 0u32..100), 1..12),
        ) {
            let scene = nodes.iter().enumerate().fold(Scene::new(nodes.len() as u32), |scene, (at, (weight, load))| {
                scene.weight(at, *weight).load(at, *load)
            });
            let sum: f64 = nodes.iter().map(|(weight, _)| weight).sum();
            for (share, (weight, _)) in scene.weigh(&Random).iter().zip(&nodes) {
                prop_assert!((share - weight / sum).abs() < 1e-12);
            }
        }
    }
}
