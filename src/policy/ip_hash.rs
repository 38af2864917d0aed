//! Always the same node for a client's address, by weighted [rendezvous](super::rendezvous) hashing.
//!
//! It does not bound the load of a node: one busy client stays where it is.

use crate::policy::{Context, Policy, rendezvous};

/// Weighted rendezvous hashing of the client's address.
#[derive(Debug)]
pub(super) struct IpHash;

impl Policy for IpHash {
    fn weigh(&self, ctx: &Context<'_>, out: &mut [f64]) {
        rendezvous::weigh(ctx, ctx.shape.client_hash, out);
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
