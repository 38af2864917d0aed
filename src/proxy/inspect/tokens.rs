//! How many bytes a token of the prompt takes, learned per kind of request.
//!
//! The length of a prompt in tokens decides how long its prefill takes, but only the node has the tokenizer. Carrying
//! tokenizers here would cost megabytes and milliseconds, and would be wrong for every model we do not know. The
//! answers say the true count (`usage.prompt_tokens`), so the ratio is learned from them, separately for each
//! kind, because it depends on the model and on the language people use with it.
//!
//! This is an estimate for prefill cost, not for billing or for checking context limits.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::request::{KINDS_MAX, KindId};

/// Where learning starts: about right for English with the tokenizers of today.
pub const BYTES_PER_TOKEN_DEFAULT: f64 = 4.0;

/// Below one byte a token is not text: chat templates around a short prompt look like that.
pub const BYTES_PER_TOKEN_MIN: f64 = 1.0;

/// Above this the prompt had parts that are not in the count, or the count is not of tokens.
pub const BYTES_PER_TOKEN_MAX: f64 = 16.0;

/// Weight of one observation with a long prompt: the ratio follows a change within some twenty requests.
const WEIGHT: f64 = 1.0 / 16.0;

/// Prompts shorter than this count for less, in proportion: the tokens of the chat template, which are not in the
/// bytes, would distort the ratio for the long prompts, whose length matters.
const TOKENS_FOR_FULL_WEIGHT: f64 = 256.0;

/// Bytes per token for every kind. All methods may be called from any thread; none locks or waits.
#[derive(Debug)]
pub struct BytesPerToken {
    /// Bits of an `f64` each.
    ratios: Box<[AtomicU64]>,
}

impl Default for BytesPerToken {
    fn default() -> Self {
        let start = BYTES_PER_TOKEN_DEFAULT.to_bits();
        BytesPerToken { ratios: (0..KINDS_MAX).map(|_| AtomicU64::new(start)).collect() }
    }
}

impl BytesPerToken {
    /// The ratio now in force for `kind`, within [`BYTES_PER_TOKEN_MIN`] and [`BYTES_PER_TOKEN_MAX`].
    pub fn ratio(&self, kind: KindId) -> f64 {
        f64::from_bits(self.of(kind).load(Ordering::Relaxed))
    }

    /// Tokens that `bytes` of prompt text come to, rounded up; 0 only for none. Saturates.
    pub fn estimate(&self, kind: KindId, bytes: u64) -> u32 {
        (bytes as f64 / self.ratio(kind)).ceil() as u32
    }

    /// Learns that a prompt of `bytes` was `tokens` long. Give it only prompts that were all text and seen whole.
    ///
    /// If another thread learns the same ratio at the same moment, one of the two observations is lost, which is
    /// cheaper than a loop and makes no difference to an average.
    pub fn observe(&self, kind: KindId, bytes: u64, tokens: u32) {
        if bytes == 0 || tokens == 0 {
            return;
        }
        let ratio = self.of(kind);
        let old_bits = ratio.load(Ordering::Relaxed);
        let old = f64::from_bits(old_bits);
        let tokens = f64::from(tokens);
        let seen = (bytes as f64 / tokens).clamp(BYTES_PER_TOKEN_MIN, BYTES_PER_TOKEN_MAX);
        let weight = WEIGHT * (tokens / TOKENS_FOR_FULL_WEIGHT).min(1.0);
        let new = (old + weight * (seen - old)).clamp(BYTES_PER_TOKEN_MIN, BYTES_PER_TOKEN_MAX);
        let _lost = ratio.compare_exchange(old_bits, new.to_bits(), Ordering::Relaxed, Ordering::Relaxed);
    }

    fn of(&self, kind: KindId) -> &AtomicU64 {
        // Only the table of kinds makes ids, and it is bounded; a made-up one shares the row of `other`.
        self.ratios.get(usize::from(kind.0)).unwrap_or(&self.ratios[0])
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KIND: KindId = KindId(7);

    #[test]
    fn it_starts_at_the_default_and_rounds_up() {
        let tokens = BytesPerToken::default();
        assert_eq!(tokens.estimate(KIND, 0), 0);
        assert_eq!(tokens.estimate(KIND, 1), 1);
        assert_eq!(tokens.estimate(KIND, 400), 100);
        assert_eq!(tokens.estimate(KIND, u64::MAX), u32::MAX);
    }

    #[test]
    fn it_converges_to_what_the_answers_say_and_only_for_that_kind() {
        let tokens = BytesPerToken::default();
        for _ in 0..200 {
            tokens.observe(KIND, 3000, 1000);
        }
        assert!((tokens.ratio(KIND) - 3.0).abs() < 0.01);
        assert_eq!(tokens.ratio(KindId(8)), BYTES_PER_TOKEN_DEFAULT);
    }

    #[test]
    fn a_short_prompt_in_a_long_template_moves_it_little() {
        let tokens = BytesPerToken::default();
        tokens.observe(KIND, 2, 12);
        assert!(tokens.ratio(KIND) > 3.98);
    }

    #[test]
    fn nothing_is_learned_from_empty_counts_and_unknown_kinds_share_a_row() {
        let tokens = BytesPerToken::default();
        tokens.observe(KIND, 0, 10);
        tokens.observe(KIND, 10, 0);
        assert_eq!(tokens.ratio(KIND), BYTES_PER_TOKEN_DEFAULT);
        tokens.observe(KindId(u16::MAX), 1000, 1000);
        assert_eq!(tokens.ratio(KindId(u16::MAX)), tokens.ratio(KindId::OTHER));
        assert!(tokens.ratio(KindId::OTHER) < BYTES_PER_TOKEN_DEFAULT);
    }

    proptest! {
        #[test]
        fn the_ratio_stays_in_its_bounds_whatever_is_observed(seen in prop::collection::vec((any::<u64>(), any::<u32>()), 0..50)) {
            let tokens = BytesPerToken::default();
            for (bytes, count) in seen {
                tokens.observe(KIND, bytes, count);
            }
            let ratio = tokens.ratio(KIND);
            prop_assert!((BYTES_PER_TOKEN_MIN..=BYTES_PER_TOKEN_MAX).contains(&ratio));
        }
    }
}
