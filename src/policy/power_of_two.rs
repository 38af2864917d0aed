//! Two distinct nodes at random; the one with fewer `(in flight + 1) / weight` gets it, a tie is split evenly.
//!
//! Mitzenmacher (2001), "The power of two choices in randomized load balancing". Looking at two nodes instead of all
//! does not save time here (all loads are at hand); it keeps several proxies, or one with stale figures, from all
//! running to the same node. The pair is not drawn: the policy writes what each node's chance is over all pairs.

use crate::policy::pairs::costs_to_better_of_two;
use crate::policy::{Context, Policy};

/// The power of two choices.
#[derive(Debug)]
pub(super) struct PowerOfTwo;

impl Policy for PowerOfTwo {
    fn weigh(&self, ctx: &Context<'_>, out: &mut [f64]) {
        for (out, candidate) in out.iter_mut().zip(ctx.candidates) {
            *out = f64::from(candidate.in_flight + 1) / candidate.weight;
        }
        costs_to_better_of_two(out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::tests_support::Scene;

    #[test]
    fn the_busiest_never_gets_it_and_a_tie_is_even() {
        let scene = Scene::new(3).load(0, 9).load(1, 2).load(2, 2);
        let shares = scene.weigh(&PowerOfTwo);
        assert_eq!(shares[0], 0.0);
        assert_eq!(shares[1], shares[2]);
    }

    #[test]
    fn weight_counts_as_capacity() {
        let scene = Scene::new(2).load(0, 7).load(1, 3).weight(0, 4.0);
        assert_eq!(scene.weigh(&PowerOfTwo), [1.0, 0.0]);
    }
}
