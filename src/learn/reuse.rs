//! Whether what a node was sent is still in its cache: the chance by what it was sent since, and by time.
//!
//! A cache of fixed size loses what is old by being given new things, so the chance is first of all a curve over the tokens
//! that the node had to take in since; where servers also drop things by time, a second curve over seconds multiplies it.
//! Both are shares of what matched, in classes that double in width, as a cache's size is known to nobody but a factor
//! of two is enough. What a response says of its cached tokens (`usage`) is taken as it is; where nothing is said, the first
//! byte tells by how much earlier it came than it would have for the whole prompt. Each node's share is held toward
//! the fleet's, and that one toward a guess, so that a handful of answers cannot turn a curve over.
//!
//! Cached tokens that are told are not the whole truth of what they are worth: that is a coefficient of the first byte, see
//! [`features`](mod@crate::learn::features). What follows from times is in terms of time already.

use serde::{Deserialize, Serialize};

use crate::outcome::{Extent, Recall};

/// Classes of tokens: below 2^10, then doubling, the last from 2^25 on.
const TOKENS: usize = 17;
const TOKENS_FIRST: f32 = 1024.0;

/// Classes of what was used a short time ago: within the last 2^16 tokens.
const SOON: usize = 7;

/// Classes of time: below a second, then doubling, the last from 9 hours on.
const SECONDS: usize = 17;
const SECONDS_FIRST: f32 = 1.0;

/// Tokens after which half of what was sent is guessed to be gone: what 100 GB hold of a large model, or 40 GB of a small.
const HORIZON_TOKENS: f32 = 300_000.0;

/// Observations that the guess is worth in the fleet's curve, and the fleet's in a node's.
const GUESS_WEIGHT: f64 = 3.0;
const FLEET_WEIGHT: f64 = 10.0;

/// Time constant, in seconds, with which observations fade: caches are resized by restarts.
const TAU_S: f64 = 600.0;

/// Weight of an observation by the first byte; it is a guess of one number from another.
const INFERRED_WEIGHT: f64 = 0.25;

/// An inferred share beyond these says more of the noise than of the cache; as far below the true range as above it, so
/// that cutting has no side.
const INFERRED_SHARE: std::ops::RangeInclusive<f64> = -2.0..=3.0;

/// Matches of fewer tokens say nothing: caches work in blocks themselves.
const MATCHED_MIN: f32 = 32.0;

/// A weighted share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Share {
    held: f64,
    asked: f64,
}

impl Share {
    fn toward(self, guess: f64, weight: f64) -> f64 {
        ((self.held + weight * guess) / (self.asked + weight)).clamp(0.0, 1.0)
    }
}

/// What was seen of one node's cache, or of all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seen {
    tokens: [Share; TOKENS],
    seconds: [Share; SECONDS],
    /// Whether the node has ever told its cached tokens: then what it does not tell is not guessed.
    tells: bool,
}

/// The chances of one node, as decisions read them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Chances {
    tokens: [f32; TOKENS],
    seconds: [f32; SECONDS],
}

impl Default for Chances {
    fn default() -> Self {
        Chances { tokens: std::array::from_fn(|class| guess(class) as f32), seconds: [1.0; SECONDS] }
    }
}

/// The class of `x`, where the first ends at `first`.
fn class(x: f32, first: f32, classes: usize) -> usize {
    // The exponent of a power of two is its logarithm rounded down; below 1 it is negative, and so is the cast cut to 0.
    let doublings = (x / first).max(0.5).log2().floor() + 1.0;
    (doublings as usize).min(classes - 1)
}

/// What is thought of a class of tokens of which nothing was seen.
fn guess(class: usize) -> f64 {
    let middle = f64::from(TOKENS_FIRST) * 0.75 * 2f64.powi(class as i32);
    1.0 / (1.0 + (middle / f64::from(HORIZON_TOKENS)).powi(2))
}

impl Chances {
    /// The chance that what a node used so long ago is still there, 0..=1.
    #[inline]
    pub fn of(&self, extent: Extent) -> f32 {
        self.tokens[class(extent.tokens, TOKENS_FIRST, TOKENS)]
            * self.seconds[class(extent.seconds, SECONDS_FIRST, SECONDS)]
    }

    /// The chance that what was used within the last 2^16 tokens is still there, at worst.
    pub fn soon(&self) -> f32 {
        self.tokens[..SOON].iter().copied().fold(1.0, f32::min)
    }

    /// The tokens after which less than half is still there; `None` where even the oldest is.
    pub fn horizon_tokens(&self) -> Option<f64> {
        let class = self.tokens.iter().position(|chance| *chance < 0.5)?;
        Some(if class == 0 { 0.0 } else { f64::from(TOKENS_FIRST) * 2f64.powi(class as i32 - 1) })
    }
}

impl Seen {
    /// Whether nothing was seen.
    pub(super) fn is_empty(&self) -> bool {
        *self == Seen::default()
    }

    /// Whether these are numbers that can have been learned.
    pub(super) fn is_sound(&self) -> bool {
        let mut all = self.tokens.iter().chain(&self.seconds);
        all.all(|share| share.held.is_finite() && share.asked.is_finite() && share.asked >= 0.0)
    }

    /// The response told its cached tokens, in tokens as the request was measured.
    pub(super) fn told(&mut self, recall: &Recall, cached: f64) {
        self.tells = true;
        self.add(recall, (cached / f64::from(recall.matched_tokens)).min(1.0), 1.0);
    }

    /// Whether its responses tell what was cached.
    pub(super) fn tells(&self) -> bool {
        self.tells
    }

    /// The first byte came as if so many tokens were cached; `sure` says how much of the prediction hangs on that, 0..=1.
    pub(super) fn inferred(&mut self, recall: &Recall, cached: f64, sure: f64) {
        let share = cached / f64::from(recall.matched_tokens);
        if !self.tells && share.is_finite() {
            let (least, most) = (*INFERRED_SHARE.start(), *INFERRED_SHARE.end());
            self.add(recall, share.clamp(least, most), INFERRED_WEIGHT * sure * sure);
        }
    }

    fn add(&mut self, recall: &Recall, share: f64, weight: f64) {
        if recall.matched_tokens < MATCHED_MIN {
            return;
        }
        let tokens = class(recall.extent.tokens, TOKENS_FIRST, TOKENS);
        let seconds = class(recall.extent.seconds, SECONDS_FIRST, SECONDS);
        // Each curve is asked only for what the other leaves.
        let by_tokens = self.tokens[tokens].toward(1.0, GUESS_WEIGHT);
        let by_seconds = self.seconds[seconds].toward(1.0, FLEET_WEIGHT);
        let (own, other) = (&mut self.tokens[tokens], &mut self.seconds[seconds]);
        own.held += weight * share;
        own.asked += weight * by_seconds;
        other.held += weight * share;
        other.asked += weight * by_tokens;
    }

    /// Lets what was seen fade by so much time.
    pub(super) fn fade(&mut self, seconds: f64) {
        let factor = (-seconds / TAU_S).exp();
        for share in self.tokens.iter_mut().chain(&mut self.seconds) {
            share.held *= factor;
            share.asked *= factor;
        }
    }

    /// Adds what was seen of another node.
    pub(super) fn merge(&mut self, other: &Seen) {
        let all = self.tokens.iter_mut().chain(&mut self.seconds);
        for (own, other) in all.zip(other.tokens.iter().chain(&other.seconds)) {
            own.held += other.held;
            own.asked += other.asked;
        }
    }

    /// The chances of the fleet as a whole.
    pub(super) fn fleet(&self) -> Chances {
        let seconds = |share: Share| share.toward(1.0, FLEET_WEIGHT) as f32;
        Chances {
            tokens: std::array::from_fn(|class| self.tokens[class].toward(guess(class), GUESS_WEIGHT) as f32),
            seconds: self.seconds.map(seconds),
        }
    }

    /// The chances of the node.
    pub(super) fn node(&self, fleet: &Chances) -> Chances {
        let toward = |share: &Share, fleet: f32| share.toward(f64::from(fleet), FLEET_WEIGHT) as f32;
        Chances {
            tokens: std::array::from_fn(|class| toward(&self.tokens[class], fleet.tokens[class])),
            seconds: std::array::from_fn(|class| toward(&self.seconds[class], fleet.seconds[class])),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recall(tokens: f32, seconds: f32) -> Recall {
        Recall { matched_tokens: 1_000.0, extent: Extent { tokens, seconds }, ..Recall::default() }
    }

    fn alone(seen: &Seen) -> Chances {
        seen.node(&seen.fleet())
    }

    #[test]
    fn classes_double() {
        let classes = [0.0, 1_023.0, 1_024.0, 2_047.0, 2_048.0, 1e12, f32::NAN].map(|x| class(x, TOKENS_FIRST, TOKENS));
        assert_eq!(classes, [0, 0, 1, 1, 2, TOKENS - 1, 0]);
    }

    #[test]
    fn a_horizon_is_learned_from_what_responses_tell() {
        let mut seen = Seen::default();
        let mut rng = fastrand::Rng::with_seed(1);
        for _ in 0..2_000 {
            let tokens = 2f32.powf(8.0 + 14.0 * rng.f32());
            seen.told(&recall(tokens, tokens / 5_000.0), if tokens < 65_536.0 { 990.0 } else { 0.0 });
        }
        let chances = alone(&seen);
        let chance = |tokens: f32| chances.of(Extent { tokens, seconds: tokens / 5_000.0 });
        assert!(chance(20_000.0) > 0.9 && chance(200_000.0) < 0.1, "{chances:?}");
        assert_eq!(chances.horizon_tokens(), Some(65_536.0));
    }

    #[test]
    fn a_node_without_a_cache_is_found_out_whether_it_tells_or_not() {
        let (mut tells, mut silent) = (Seen::default(), Seen::default());
        for _ in 0..200 {
            tells.told(&recall(3_000.0, 10.0), 0.0);
            silent.inferred(&recall(3_000.0, 10.0), 0.0, 1.0);
        }
        for seen in [tells, silent] {
            assert!(alone(&seen).of(Extent { tokens: 3_000.0, seconds: 10.0 }) < 0.1);
        }
    }

    #[test]
    fn what_a_node_tells_counts_more_than_what_could_be_guessed() {
        let mut seen = Seen::default();
        for _ in 0..100 {
            seen.told(&recall(3_000.0, 10.0), 1_000.0);
            seen.inferred(&recall(3_000.0, 10.0), 0.0, 1.0);
        }
        assert!(alone(&seen).of(Extent { tokens: 3_000.0, seconds: 10.0 }) > 0.95);
    }

    #[test]
    fn what_was_used_a_short_time_ago_counts_at_its_worst() {
        let mut seen = Seen::default();
        assert!(alone(&seen).soon() > 0.9, "nothing is known yet");
        (0..100).for_each(|_| seen.told(&recall(300_000.0, 10.0), 0.0));
        assert!(alone(&seen).soon() > 0.9, "long ago is not soon");
        (0..100).for_each(|_| seen.told(&recall(3_000.0, 10.0), 0.0));
        assert!(alone(&seen).soon() < 0.1);
    }

    #[test]
    fn a_new_node_is_thought_of_as_the_others_are_and_nothing_leaves_the_range() {
        let mut fleet = Seen::default();
        (0..100).for_each(|_| fleet.told(&recall(3_000.0, 10.0), 0.0));
        let chances = Seen::default().node(&fleet.fleet());
        assert!(chances.of(Extent { tokens: 3_000.0, seconds: 10.0 }) < 0.1);
        let mut odd = Seen::default();
        odd.inferred(&recall(3_000.0, 10.0), f64::INFINITY, 1.0);
        odd.inferred(&recall(3_000.0, 10.0), 1e12, 1.0);
        odd.inferred(&recall(3_000.0, 10.0), -1e12, 1.0);
        odd.fade(1.0);
        assert!(alone(&odd).tokens.iter().all(|chance| (0.0..=1.0).contains(chance)));
    }
}
