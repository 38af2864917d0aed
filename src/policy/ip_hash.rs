//! Always the same node for a client's address, by weighted rendezvous hashing.
//!
//! Every node gets a number in 0..1 from the hash of client and node name; the least `-ln(number) / weight` wins, so
//! that a node's share is in proportion to its weight (Thaler and Ravishankar 1998; weights by Schindelhauer and
//! Schomaker 2005). A node that comes or goes moves only its own share; `hash modulo count` would move nearly everybody.
//! A ring would need a table and a hundred points per node for the evenness that this has by itself. Only candidates
//! count: clients of a node that is down or full spread over the others, and come back with it. The hash is the same in
//! every process, so several proxies agree. It does not bound the load of a node: one busy client stays where it is.

use crate::node::scramble;
use crate::policy::{Context, Policy, share_minimum};

/// Weighted rendezvous hashing of the client's address.
#[derive(Debug)]
pub(super) struct IpHash;

impl Policy for IpHash {
    fn weigh(&self, ctx: &Context<'_>, out: &mut [f64]) {
        let client = scramble(ctx.shape.client_hash);
        share_minimum(out, |at| {
            let candidate = &ctx.candidates[at];
            let hash = scramble(client ^ ctx.node(candidate).name_hash);
            // The upper 52 bits, moved by half a step: never 0 and never 1.
            let number = ((hash >> 12) as f64 + 0.5) / (1u64 << 52) as f64;
            -number.ln() / candidate.weight
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::tests_support::Scene;
    use proptest::prelude::*;

    const CLIENTS: u64 = 4000;

    fn homes(scene: &mut Scene) -> Vec<usize> {
        (0..CLIENTS)
            .map(|client| {
                scene.shape.client_hash = client;
                scene.sure(&IpHash)
            })
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        #[test]
        fn a_node_that_goes_moves_only_its_own_clients(
            count in 2u32..9, gone in 0u32..9, weights in prop::collection::vec(0.5..4.0f64, 9),
        ) {
            let gone = gone % count;
            let mut scene = (0..count as usize).fold(Scene::new(count), |scene, at| scene.weight(at, weights[at]));
            let with = homes(&mut scene);
            let without = homes(&mut scene.without(gone));
            for (before, after) in with.iter().zip(&without) {
                prop_assert_ne!(*after, gone as usize);
                if *before != gone as usize {
                    prop_assert_eq!(before, after);
                }
            }
        }

        #[test]
        fn shares_are_in_proportion_to_the_weights(weights in prop::collection::vec(0.5..4.0f64, 2..7)) {
            let scene = Scene::new(weights.len() as u32);
            let mut scene = weights.iter().enumerate().fold(scene, |scene, (at, weight)| scene.weight(at, *weight));
            let homes = homes(&mut scene);
            let sum: f64 = weights.iter().sum();
            for (at, weight) in weights.iter().enumerate() {
                let expected = weight / sum;
                let share = homes.iter().filter(|home| **home == at).count() as f64 / CLIENTS as f64;
                // Five standard deviations of a share among that many clients.
                let margin = 5.0 * (expected * (1.0 - expected) / CLIENTS as f64).sqrt();
                prop_assert!((share - expected).abs() < margin, "{share} is not {expected}");
            }
        }
    }

    #[test]
    fn the_load_moves_nobody() {
        let mut idle = Scene::new(5);
        let mut busy = Scene::new(5).load(0, 50).load(3, 7);
        assert_eq!(homes(&mut idle), homes(&mut busy));
    }
}
