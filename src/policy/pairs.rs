//! The choice of two, exactly: what every node's chance is when the better of a random pair gets the request.
//!
//! Of the `n (n - 1) / 2` pairs of distinct nodes, a node wins those with a worse partner and half of those with an
//! equal one. So its chance is a matter of ranks, and sorting gives them all; trying every pair would take 500,000
//! comparisons for 1,000 nodes. Nothing is allocated: the keys are sorted on the stack, in a buffer that suits the
//! number of nodes. They are thrown into buckets first, because comparisons whose result the processor cannot foresee are
//! most of what sorting costs: of 1,000 keys in 1,000 buckets few have to be compared with more than one other.

use crate::node::NODES_MAX;

/// Bits of an index below [`NODES_MAX`].
const INDEX_BITS: u32 = NODES_MAX.ilog2();
const INDEX_MASK: u64 = (1 << INDEX_BITS) - 1;
/// The range of keys is divided into 2^9 to 2^10 - 1 buckets for large fleets, 2^6 to 2^7 - 1 for middle ones.
const BUCKET_BITS: (u32, u32) = (9, 6);
/// For fewer nodes than this, comparing all pairs is cheaper than any preparation.
const FEW: usize = 17;
/// Up to so many nodes, the smaller buffers do.
const MIDDLE: usize = 128;
/// In a bucket of up to so many keys all are compared; a larger one is sorted, unless it is one large tie.
const FEW_WORDS: usize = 8;

const _: () = assert!(NODES_MAX.is_power_of_two() && INDEX_BITS == 12);

/// Replaces the costs in `out`, at most [`NODES_MAX`], by each one's chance to be the better (the less) of two distinct
/// ones.
///
/// Costs are not negative; one that is not a number counts as infinite. The index takes the last 12 of 52 bits of the
/// fraction, so costs that agree in 12 digits may count as equal.
pub(super) fn costs_to_better_of_two(out: &mut [f64]) {
    assert!(out.len() <= NODES_MAX, "a fleet has at most {NODES_MAX} nodes");
    for out in out.iter_mut() {
        *out = f64::from_bits(key(*out));
    }
    match out.len() {
        0..2 => out.fill(1.0),
        2..FEW => by_comparing_all(out),
        FEW..=MIDDLE => by_ranks::<MIDDLE, { 2 << BUCKET_BITS.1 }>(out, BUCKET_BITS.1),
        _ => by_ranks::<NODES_MAX, { 2 << BUCKET_BITS.0 }>(out, BUCKET_BITS.0),
    }
}

/// A cost as a number in the same order, with room for an index in its last bits.
fn key(cost: f64) -> u64 {
    // The bits of floats that are not negative are in the order of the floats.
    let cost = if cost < f64::MAX { cost.max(0.0) } else { f64::MAX };
    cost.to_bits() & !INDEX_MASK
}

/// What the first wins in half pairs: two against a worse key, one against an equal one.
fn halves(own: u64, other: u64) -> usize {
    usize::from(own < other) + usize::from(own <= other)
}

/// Replaces the keys of a few nodes by their chances.
fn by_comparing_all(out: &mut [f64]) {
    let count = out.len();
    let mut keys = [0u64; FEW];
    for (key, out) in keys.iter_mut().zip(out.iter()) {
        *key = out.to_bits();
    }
    let keys = &keys[..count];
    let pairs = (count * (count - 1)) as f64;
    for (out, own) in out.iter_mut().zip(keys) {
        // Against itself it ties, which is one half pair too many.
        let wins: usize = keys.iter().map(|other| halves(*own, *other)).sum();
        *out = (wins - 1) as f64 / pairs;
    }
}

/// Replaces the keys of at most `N` nodes by their chances; `B` is twice 2^`bucket_bits`.
fn by_ranks<const N: usize, const B: usize>(out: &mut [f64], bucket_bits: u32) {
    let count = out.len();
    let pairs = (count * (count - 1)) as f64;
    let mut words = [0u64; N];
    let words = &mut words[..count];
    let ends = into_buckets::<B>(out, words, bucket_bits);
    let mut start = 0;
    for end in ends.map(usize::from) {
        // All pairs with a later bucket are won: two half pairs each.
        let won = 2 * (count - end);
        let bucket = &mut words[start..end];
        start = end;
        if let [word] = bucket {
            out[index(*word)] = won as f64 / pairs;
        } else if bucket.len() <= FEW_WORDS {
            for word in bucket.iter() {
                let own = word & !INDEX_MASK;
                let wins: usize = bucket.iter().map(|other| halves(own, other & !INDEX_MASK)).sum();
                out[index(*word)] = (won + wins - 1) as f64 / pairs;
            }
        } else {
            if !bucket.is_sorted() {
                bucket.sort_unstable();
            }
            rank_sorted(bucket, won, pairs, out);
        }
    }
}

/// Writes the chances of a sorted bucket whose members win `won` half pairs against others.
fn rank_sorted(bucket: &[u64], won: usize, pairs: f64, out: &mut [f64]) {
    let mut worse = bucket.len();
    for equal in bucket.chunk_by(|a, b| a & !INDEX_MASK == b & !INDEX_MASK) {
        worse -= equal.len();
        let chance = (won + 2 * worse + equal.len() - 1) as f64 / pairs;
        for word in equal {
            out[index(*word)] = chance;
        }
    }
}

fn index(word: u64) -> usize {
    (word & INDEX_MASK) as usize
}

/// Writes the keys, with their indexes in the last bits, into `words`, bucket after bucket in ascending order. Returns
/// where each bucket ends. Within a bucket the order is that of the indexes.
fn into_buckets<const B: usize>(keys: &[f64], words: &mut [u64], bucket_bits: u32) -> [u16; B] {
    let (mut least, mut most) = (u64::MAX, 0);
    for key in keys {
        (least, most) = (least.min(key.to_bits()), most.max(key.to_bits()));
    }
    let shift = (u64::BITS - (most - least).leading_zeros()).saturating_sub(bucket_bits + 1);
    let bucket = |key: &f64| ((key.to_bits() - least) >> shift) as usize;
    // First the number of keys in each bucket, then where the next key of the bucket goes: in the end, its end.
    let mut places = [0u16; B];
    for key in keys {
        places[bucket(key)] += 1;
    }
    let mut start = 0;
    for place in &mut places {
        start += std::mem::replace(place, start);
    }
    for (at, key) in keys.iter().enumerate() {
        let place = &mut places[bucket(key)];
        words[usize::from(*place)] = key.to_bits() | at as u64;
        *place += 1;
    }
    places
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
        let mut out = costs.to_vec();
        costs_to_better_of_two(&mut out);
        out
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn the_chances_are_those_of_trying_every_pair(costs in prop::collection::vec(0u32..12, 2..200)) {
            let costs: Vec<f64> = costs.into_iter().map(|cost| f64::from(cost) / 4.0).collect();
            prop_assert_eq!(chances(&costs), by_trying_every_pair(&costs));
        }

        #[test]
        fn costs_far_apart_do_not_confuse_it(costs in prop::collection::vec(-300.0..300.0f64, 2..200)) {
            let costs: Vec<f64> = costs.into_iter().map(|exponent| 10f64.powf(exponent)).collect();
            prop_assert_eq!(chances(&costs), by_trying_every_pair(&costs));
        }

        #[test]
        fn neither_one_crowded_bucket_nor_outliers_confuse_it(
            // Further apart than what counts as equal.
            costs in prop::collection::vec(0u32..1_000_000, 20..300), outlier in prop_oneof![Just(0.0), Just(1e300)],
        ) {
            let costs: Vec<f64> =
                costs.into_iter().map(|step| 1.0 + f64::from(step) * 1e-10).chain([outlier]).collect();
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
