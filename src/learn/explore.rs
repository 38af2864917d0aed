//! Exploration: with a small probability, the less known of two nodes drawn at random.
//!
//! Two nodes are drawn with replacement, and the one with less sample weight gets the request. The exact probability of
//! every node follows from how many nodes are better known than it: `(2 better known + as well known) / k^2`. Evidence
//! is compared in powers of two, which makes the count linear in the nodes instead of quadratic; a factor below two in
//! evidence is no reason to prefer anybody. Small requests are preferred: an experiment should be cheap.

/// Levels of evidence that are told apart.
pub const LEVELS: usize = 16;

/// The level of a sample weight: its power of two.
pub fn level(weight: f64) -> u8 {
    // A float-to-integer cast saturates, and NaN becomes 0.
    ((weight.max(0.0) + 1.0).log2() as u8).min(LEVELS as u8 - 1)
}

/// The probability of exploring with a prompt of that many tokens, so many of which some node is expected to hold: what
/// would have to be read again elsewhere is the price of an experiment, and others cost less.
pub fn epsilon(configured: f64, prompt_tokens: f64, held_tokens: f64, mean_prompt_tokens: f64) -> f64 {
    let small = if prompt_tokens > mean_prompt_tokens { mean_prompt_tokens / prompt_tokens } else { 1.0 };
    let new = if held_tokens > 0.0 { (1.0 - held_tokens / prompt_tokens).max(0.0) } else { 1.0 };
    let epsilon = configured * small * new;
    if epsilon.is_finite() { epsilon.clamp(0.0, 1.0) } else { 0.0 }
}

/// In place of a level: a node that may not be explored now.
pub const UNEXPLORED: u8 = LEVELS as u8;

/// Entries of a table by level that [`UNEXPLORED`] is in too; a power of two, so that no entry is out of bounds.
pub const PLACES: usize = 2 * LEVELS;

/// How many nodes that may be explored there are of each level.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    levels: [u32; LEVELS],
    nodes: u32,
}

impl Census {
    /// Of the levels of all nodes, [`UNEXPLORED`] where a node may not be.
    #[inline]
    pub fn of(levels: &[u8]) -> Census {
        // Most nodes are of the same level: two tables, as a count waits for the one before it to be written.
        let mut counts = [[0u32; PLACES]; 2];
        let (pairs, rest) = levels.as_chunks::<2>();
        for [a, b] in pairs {
            counts[0][usize::from(*a) % PLACES] += 1;
            counts[1][usize::from(*b) % PLACES] += 1;
        }
        rest.iter().for_each(|level| counts[0][usize::from(*level) % PLACES] += 1);
        let levels: [u32; LEVELS] = std::array::from_fn(|level| counts[0][level] + counts[1][level]);
        Census { levels, nodes: levels.iter().sum() }
    }

    /// Whether nobody may be explored.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.nodes == 0
    }

    /// The probability with which a node of each level, one that was counted, is explored; zero at [`UNEXPLORED`].
    #[inline]
    pub fn shares(&self) -> [f64; PLACES] {
        let pairs = (f64::from(self.nodes) * f64::from(self.nodes)).max(1.0);
        let mut shares = [0.0; PLACES];
        let mut better_known = 0;
        for (share, counted) in shares[..LEVELS].iter_mut().zip(self.levels).rev() {
            *share = f64::from(2 * better_known + counted) / pairs;
            better_known += counted;
        }
        shares
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shares_are_those_of_drawing_pairs() {
        let weights = [0.0, 3.0, 3.5, 100.0, 5000.0];
        let levels = weights.map(level);
        let census = Census::of(&[&levels[..], &[UNEXPLORED]].concat());
        let mut by_pairs = [0.0; 5];
        for (a, la) in levels.iter().enumerate() {
            for (b, lb) in levels.iter().enumerate() {
                match la.cmp(lb) {
                    std::cmp::Ordering::Less => by_pairs[a] += 0.04,
                    std::cmp::Ordering::Greater => by_pairs[b] += 0.04,
                    std::cmp::Ordering::Equal => {
                        by_pairs[a] += 0.02;
                        by_pairs[b] += 0.02;
                    }
                }
            }
        }
        for (level, expected) in levels.iter().zip(by_pairs) {
            assert!((census.shares()[usize::from(*level)] - expected).abs() < 1e-12);
        }
    }

    #[test]
    fn large_requests_and_those_that_leave_a_cache_behind_explore_less_and_nothing_is_not_a_number() {
        assert_eq!(epsilon(0.01, 500.0, 0.0, 1000.0), 0.01);
        assert!((epsilon(0.01, 4000.0, 0.0, 1000.0) - 0.0025).abs() < 1e-12);
        assert!((epsilon(0.01, 500.0, 400.0, 1000.0) - 0.002).abs() < 1e-12);
        assert_eq!(epsilon(0.01, 500.0, 501.0, 1000.0), 0.0);
        assert_eq!(epsilon(0.01, 0.0, 0.0, 0.0), 0.01);
        assert_eq!(epsilon(0.01, 0.0, 1.0, 0.0), 0.0);
        assert_eq!(epsilon(f64::NAN, 1.0, 0.0, 1.0), 0.0);
        assert_eq!(level(f64::NAN), 0);
        assert_eq!(level(f64::INFINITY), 15);
        assert_eq!(Census::of(&[UNEXPLORED; 3]).shares(), [0.0; PLACES]);
        assert!(Census::of(&[UNEXPLORED; 3]).is_empty());
    }
}
