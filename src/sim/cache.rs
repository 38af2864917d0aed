//! What a model server keeps of earlier prompts: a prefix cache with a budget of tokens, in blocks.
//!
//! A prompt is a chain of cumulative hashes, one for each block from its start, as in
//! [`Prefix`](crate::request::Prefix): what is held of it are its first blocks up to the first that is missing. Least
//! recently used blocks go first, and of one prompt its end before its start, as in the servers that this stands for
//! (vLLM and SGLang free a sequence from its tail), so that a chain never loses its middle. Not modelled: blocks that
//! running sequences hold against eviction, tiers below the accelerator's memory, and caches shared by nodes.

use std::collections::{HashMap, VecDeque};

/// Tokens in a block of a simulated or emulated cache: a few of the servers' own (16 to 64), so that a block is to
/// both sides what it is in production.
pub const BLOCK_TOKENS: u32 = 64;

/// A cache of blocks; the least recently used goes first.
#[derive(Clone, Debug, Default)]
pub struct PrefixCache {
    blocks_max: usize,
    /// When each block was used last, as a running number.
    used: HashMap<u64, u64>,
    /// Uses in their order; one is void where the block was used again since.
    uses: VecDeque<(u64, u64)>,
    now: u64,
}

impl PrefixCache {
    /// A cache of that many blocks; none keeps nothing.
    pub fn new(blocks_max: usize) -> PrefixCache {
        PrefixCache { blocks_max, ..PrefixCache::default() }
    }

    /// A cache for so many tokens in blocks of so many.
    pub fn of_tokens(tokens: u64, tokens_per_block: f32) -> PrefixCache {
        // A cast saturates, and nothing divided by nothing is no block.
        PrefixCache::new((tokens as f64 / f64::from(tokens_per_block)) as usize)
    }

    /// Blocks that it may hold.
    pub fn blocks_max(&self) -> usize {
        self.blocks_max
    }

    /// Blocks that it holds.
    pub fn len(&self) -> usize {
        self.used.len()
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.used.is_empty()
    }

    /// How many of the first `blocks` it holds. Changes nothing.
    pub fn held(&self, blocks: &[u64]) -> usize {
        blocks.iter().take_while(|block| self.used.contains_key(block)).count()
    }

    /// Takes `blocks` in, the first as the most recently used, and lets go of what is too much.
    pub fn take_in(&mut self, blocks: &[u64]) {
        for block in blocks.iter().take(self.blocks_max).rev() {
            self.now += 1;
            self.used.insert(*block, self.now);
            self.uses.push_back((*block, self.now));
        }
        while self.used.len() > self.blocks_max {
            let Some((block, at)) = self.uses.pop_front() else { break };
            if self.used.get(&block) == Some(&at) {
                self.used.remove(&block);
            }
        }
        // Void uses are kept to at most as many as valid ones, so that a step costs constant time on average.
        if self.uses.len() > 2 * self.used.len() + 1_024 {
            self.uses.retain(|(block, at)| self.used.get(block) == Some(at));
        }
    }

    /// Forgets everything, as a restart does.
    pub fn clear(&mut self) {
        self.used.clear();
        self.uses.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The first `length` blocks of text `text`, of which the first `shared` are those of text 0.
    fn chain(text: u64, shared: u64, length: u64) -> Vec<u64> {
        (0..length).map(|at| if at < shared { at } else { text * 1_000 + at }).collect()
    }

    #[test]
    fn what_was_used_longest_ago_goes_first_and_of_one_prompt_its_end() {
        let mut cache = PrefixCache::new(10);
        cache.take_in(&chain(1, 0, 6));
        cache.take_in(&chain(2, 0, 4));
        assert_eq!((cache.held(&chain(1, 0, 8)), cache.held(&chain(2, 0, 8)), cache.len()), (6, 4, 10));
        cache.take_in(&chain(3, 0, 3));
        assert_eq!((cache.held(&chain(1, 0, 6)), cache.held(&chain(2, 0, 4)), cache.len()), (3, 4, 10));
        cache.clear();
        assert!(cache.is_empty() && cache.held(&chain(3, 0, 3)) == 0);
    }

    #[test]
    fn a_beginning_that_many_prompts_share_is_held_once_and_stays() {
        let mut cache = PrefixCache::new(20);
        for text in 1..50 {
            cache.take_in(&chain(text, 4, 10));
            assert_eq!(cache.held(&chain(99, 4, 10)), 4);
        }
        assert_eq!(cache.len(), 20);
    }

    #[test]
    fn a_cache_without_room_keeps_nothing() {
        let mut cache = PrefixCache::of_tokens(63, 64.0);
        cache.take_in(&chain(1, 0, 3));
        assert_eq!((cache.blocks_max(), cache.len()), (0, 0));
        assert_eq!(PrefixCache::of_tokens(0, 0.0).blocks_max(), 0);
    }

    proptest! {
        #[test]
        fn the_budget_holds_and_what_is_held_is_the_beginning(
            steps in prop::collection::vec((1u64..6, 0u64..4, 1u64..12), 1..200), blocks_max in 0usize..30,
        ) {
            let mut cache = PrefixCache::new(blocks_max);
            for (text, shared, length) in steps {
                let blocks = chain(text, shared, length);
                cache.take_in(&blocks);
                prop_assert!(cache.len() <= blocks_max);
                prop_assert_eq!(cache.held(&blocks), blocks.len().min(blocks_max));
                prop_assert!(cache.uses.len() <= 2 * cache.used.len() + 1_024 + blocks.len());
            }
        }
    }
}
