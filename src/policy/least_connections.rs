//! Fewest in flight for its weight: `(in flight + 1) / weight`, ties at random.
//!
//! The `+ 1` counts the new request, so that an idle node of weight 2 beats an idle node of weight 1. Ties are split
//! evenly rather than by order: several proxies with the same view would otherwise all pick the first.

use crate::policy::{Context, Policy, share_minimum};

/// Weighted least connections.
#[derive(Debug)]
pub(super) struct LeastConnections;

impl Policy for LeastConnections {
    fn weigh(&self, ctx: &Context<'_>, out: &mut [f64]) {
        share_minimum(out, |at| {
            let candidate = &ctx.candidates[at];
            f64::from(candidate.in_flight + 1) / candidate.weight
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::tests_support::Scene;

    #[test]
    fn the_least_loaded_for_its_weight_gets_it_and_ties_share() {
        let scene = Scene::new(3).load(0, 4).load(1, 1).load(2, 1);
        assert_eq!(scene.weigh(&LeastConnections), [0.0, 0.5, 0.5]);
        let scene = scene.weight(0, 10.0);
        assert_eq!(scene.weigh(&LeastConnections), [1.0, 0.0, 0.0]);
    }
}
