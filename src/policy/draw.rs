//! The sampler: the one place in the crate where chance chooses a node, and the argmin that shares ties.
//!
//! Both run over every candidate of every decision. So sums go in [`LANES`] independent parts, because one running
//! sum waits for each addition before it starts the next, and a draw looks at single weights only in the block where
//! it ends. An alias table would draw in constant time but takes longer to build than this takes altogether.

/// Partial sums that are computed side by side.
const LANES: usize = 8;
/// Weights that a draw skips at once.
const BLOCK: usize = 4 * LANES;

/// Writes 1 for every index of least `cost` into `out` and 0 for the others: an argmin whose ties the sampler splits.
///
/// A cost that is not a number counts as infinite.
pub(super) fn share_minimum(out: &mut [f64], cost: impl Fn(usize) -> f64) {
    for (at, out) in out.iter_mut().enumerate() {
        *out = cost(at);
    }
    costs_to_minimum(out);
}

/// The least of the costs; infinite of none, and what is not a number does not count.
pub(super) fn least_of(costs: &[f64]) -> f64 {
    let mut least = [f64::INFINITY; LANES];
    let (blocks, rest) = costs.as_chunks::<LANES>();
    for block in blocks {
        for lane in 0..LANES {
            // `f64::min` minds what is not a number; this is one instruction, and such a cost is never less.
            least[lane] = if block[lane] < least[lane] { block[lane] } else { least[lane] };
        }
    }
    for (least, cost) in least.iter_mut().zip(rest) {
        *least = if *cost < *least { *cost } else { *least };
    }
    least.into_iter().fold(f64::INFINITY, f64::min)
}

/// [`share_minimum`] of costs that are in `out` already.
pub(super) fn costs_to_minimum(out: &mut [f64]) {
    let least = least_of(out);
    for out in out {
        let cost = if out.is_nan() { f64::INFINITY } else { *out };
        *out = f64::from(u8::from(cost == least));
    }
}

/// The sum of the weights; not a number if one is negative or none.
fn checked_sum(weights: &[f64]) -> f64 {
    let mut sums = [0.0; LANES];
    let mut sound = [true; LANES];
    let (blocks, rest) = weights.as_chunks::<LANES>();
    for block in blocks {
        for lane in 0..LANES {
            sums[lane] += block[lane];
            sound[lane] &= block[lane] >= 0.0;
        }
    }
    for (lane, weight) in rest.iter().enumerate() {
        sums[lane] += weight;
        sound[lane] &= *weight >= 0.0;
    }
    if sound.iter().all(|sound| *sound) { sums.iter().sum() } else { f64::NAN }
}

/// Draws an index with the probabilities that `weights` are proportional to; with it the exact probability.
///
/// Weights that are not a distribution (all zero, negative, not finite) count as equal: a defect in a policy must not
/// stop routing. `None` only for an empty slice.
pub fn draw(weights: &[f64], rng: &mut fastrand::Rng) -> Option<(usize, f64)> {
    let sum = checked_sum(weights);
    if !(sum.is_finite() && sum > 0.0) {
        return (!weights.is_empty()).then(|| (rng.usize(..weights.len()), 1.0 / weights.len() as f64));
    }
    let mut rest = rng.f64() * sum;
    let mut last = None;
    for (block, block_weights) in weights.chunks(BLOCK).enumerate() {
        let block_sum = checked_sum(block_weights);
        if block_sum == 0.0 {
            continue;
        }
        if rest >= block_sum {
            rest -= block_sum;
            last = Some(block);
            continue;
        }
        return within(block_weights, rest).map(|(at, weight)| (block * BLOCK + at, weight / sum));
    }
    // Rounding can leave a little over; it belongs to the last weight there is.
    let block = last?;
    within(&weights[block * BLOCK..], f64::INFINITY).map(|(at, weight)| (block * BLOCK + at, weight / sum))
}

/// The index and weight where `rest` is used up; the last one above zero if it never is.
fn within(weights: &[f64], mut rest: f64) -> Option<(usize, f64)> {
    let mut last = None;
    for (at, weight) in weights.iter().enumerate().filter(|(_, weight)| **weight > 0.0) {
        last = Some((at, *weight));
        if rest < *weight {
            break;
        }
        rest -= weight;
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_draw_follows_the_weights_and_tells_the_exact_propensity() {
        let mut rng = fastrand::Rng::with_seed(7);
        let mut seen = [0u32; 3];
        for _ in 0..40_000 {
            let (index, propensity) = draw(&[1.0, 0.0, 3.0], &mut rng).expect("not empty");
            assert_eq!(propensity, [0.25, f64::NAN, 0.75][index]);
            seen[index] += 1;
        }
        assert_eq!(seen[1], 0);
        assert!((f64::from(seen[0]) / 40_000.0 - 0.25).abs() < 0.01, "{seen:?}");
    }

    #[test]
    fn many_nodes_are_drawn_as_often_as_their_weights_say() {
        let weights: Vec<f64> = (0..100).map(|at| f64::from(at % 5)).collect();
        let mut rng = fastrand::Rng::with_seed(11);
        let mut seen = vec![0u32; weights.len()];
        for _ in 0..200_000 {
            seen[draw(&weights, &mut rng).expect("not empty").0] += 1;
        }
        for (seen, weight) in seen.iter().zip(&weights) {
            let expected = 200_000.0 * weight / 200.0;
            // Six standard deviations of a count, under a fixed seed.
            assert!((f64::from(*seen) - expected).abs() <= 6.0 * expected.sqrt(), "{seen} for {weight}");
        }
    }

    #[test]
    fn a_broken_distribution_does_not_stop_routing() {
        let mut rng = fastrand::Rng::with_seed(7);
        for weights in [[0.0, 0.0], [f64::NAN, 1.0], [-1.0, 2.0], [f64::INFINITY, 1.0]] {
            let (index, propensity) = draw(&weights, &mut rng).expect("not empty");
            assert!(index < 2 && propensity == 0.5, "{weights:?}");
        }
        assert_eq!(draw(&[], &mut rng), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn nothing_of_weight_zero_is_drawn_and_the_propensity_is_its_share(
            weights in prop::collection::vec(prop_oneof![Just(0.0), 1e-12..1e12f64], 1..150), seed: u64,
        ) {
            let sum: f64 = weights.iter().sum();
            let (index, propensity) = draw(&weights, &mut fastrand::Rng::with_seed(seed)).expect("not empty");
            if sum > 0.0 {
                prop_assert!(weights[index] > 0.0);
                prop_assert!((propensity - weights[index] / sum).abs() <= 1e-12 * propensity);
            } else {
                prop_assert_eq!(propensity, 1.0 / weights.len() as f64);
            }
            prop_assert!(propensity > 0.0 && propensity <= 1.0 + 1e-12);
        }

        #[test]
        fn the_least_share_the_choice(costs in prop::collection::vec(0u8..6, 1..50)) {
            let mut out = vec![0.0; costs.len()];
            share_minimum(&mut out, |at| if costs[at] == 5 { f64::NAN } else { f64::from(costs[at]) });
            let least = costs.iter().min().expect("not empty");
            for (out, cost) in out.iter().zip(&costs) {
                prop_assert_eq!(*out, f64::from(u8::from(cost == least)));
            }
        }
    }
}
