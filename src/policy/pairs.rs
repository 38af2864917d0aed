//! The choice of two, exactly: what every node's chance is when the better of a random pair gets the request.
//!
//! Of the `n (n - 1) / 2` pairs of distinct nodes, a node wins those with a worse partner and half of those with an
//! equal one. So its chance is a matter of ranks, and one sort gives them all; trying every pair would take 500,000
//! comparisons for 1,000 nodes. Nothing is allocated: cost and index share one word of `out`, which is sorted, turned
//! into chances and put back into order in place.

use crate::node::NODES_MAX;

/// Bits of an index below [`NODES_MAX`].
const INDEX_BITS: u32 = NODES_MAX.ilog2();
const INDEX_MASK: u64 = (1 << INDEX_BITS) - 1;

const _: () = assert!(NODES_MAX.is_power_of_two() && INDEX_BITS == 12);

/// Writes the chance of each index to be the better (of less `cost`) of two distinct ones into `out`, which has at
/// most [`NODES_MAX`] values.
///
/// Costs are not negative; one that is not a number counts as infinite. The index takes the last 12 of 52 bits of the
/// fraction, so costs that agree in 12 digits may count as equal.
pub(super) fn better_of_two(out: &mut [f64], cost: impl Fn(usize) -> f64) {
    let count = out.len();
    assert!(count <= NODES_MAX, "a fleet has at most {NODES_MAX} nodes");
    if count < 2 {
        out.fill(1.0);
        return;
    }
    for (at, out) in out.iter_mut().enumerate() {
        let cost = cost(at);
        // The greatest finite number: with an index in its last bits, infinity would not be a number.
        let cost = if cost < f64::MAX { cost.max(0.0) } else { f64::MAX };
        *out = f64::from_bits(cost.to_bits() & !INDEX_MASK | at as u64);
    }
    // The bits of numbers that are not negative are in the order of the numbers.
    out.sort_unstable_by_key(|word| word.to_bits());
    rank(out);
    unsort(out);
}

/// Replaces each word of cost and index, in sorted order, by its wins and index: wins in half pairs, at most
/// `2 * NODES_MAX`, times `NODES_MAX` plus the index, which a float holds exactly.
fn rank(sorted: &mut [f64]) {
    let count = sorted.len();
    let mut start = 0;
    while start < count {
        let cost = sorted[start].to_bits() & !INDEX_MASK;
        let equal = sorted[start..].iter().take_while(|word| word.to_bits() & !INDEX_MASK == cost).count();
        let end = start + equal;
        let wins = 2 * (count - end) + (equal - 1);
        for word in &mut sorted[start..end] {
            let index = word.to_bits() & INDEX_MASK;
            *word = (wins as u64 * NODES_MAX as u64 + index) as f64;
        }
        start = end;
    }
}

/// Moves each chance to its index, along the cycles of the permutation. What has arrived is marked by being negative.
fn unsort(words: &mut [f64]) {
    let pairs = (words.len() * (words.len() - 1)) as f64;
    for start in 0..words.len() {
        let mut carried = words[start];
        while carried >= 0.0 {
            let word = carried as u64;
            let (wins, index) = (word >> INDEX_BITS, (word & INDEX_MASK) as usize);
            carried = std::mem::replace(&mut words[index], -1.0 - wins as f64);
        }
    }
    for word in words {
        *word = (-1.0 - *word) / pairs;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn by_trying_every_pair(costs: &[f64]) -> Vec<f64> {
        let pairs = (costs.len() * (costs.len() - 1)) as f64;
        let score = |a: f64, b: f64| if a < b { 2.0 } else { f64::from(u8::from(a == b)) };
        (0..costs.len())
            .map(|at| (0..costs.len()).filter(|b| *b != at).map(|b| score(costs[at], costs[b])).sum::<f64>() / pairs)
            .collect()
    }

    fn chances(costs: &[f64]) -> Vec<f64> {
        let mut out = vec![0.0; costs.len()];
        better_of_two(&mut out, |at| costs[at]);
        out
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn the_chances_are_those_of_trying_every_pair(costs in prop::collection::vec(0u32..12, 2..60)) {
            let costs: Vec<f64> = costs.into_iter().map(|cost| f64::from(cost) / 4.0).collect();
            prop_assert_eq!(chances(&costs), by_trying_every_pair(&costs));
        }

        #[test]
        fn costs_far_apart_do_not_confuse_it(costs in prop::collection::vec(-300.0..300.0f64, 2..40)) {
            let costs: Vec<f64> = costs.into_iter().map(|exponent| 10f64.powf(exponent)).collect();
            prop_assert_eq!(chances(&costs), by_trying_every_pair(&costs));
        }
    }

    #[test]
    fn infinite_and_meaningless_costs_lose_against_every_other_and_tie_among_themselves() {
        assert_eq!(chances(&[f64::NAN, 1.0, f64::INFINITY]), [1.0 / 6.0, 4.0 / 6.0, 1.0 / 6.0]);
        assert_eq!(chances(&[f64::NAN]), [1.0]);
        assert_eq!(chances(&[]), Vec::<f64>::new());
    }

    #[test]
    fn the_largest_fleet_fits() {
        let costs: Vec<f64> = (0..NODES_MAX).map(|at| (at % 1000) as f64).collect();
        let sum: f64 = chances(&costs).iter().sum();
        assert!((sum - 1.0).abs() < 1e-9, "{sum}");
    }
}
