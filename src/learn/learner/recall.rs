//! What an answer says of its node's cache.
//!
//! The share that was cached is told by the response, or follows from how much earlier the first byte came than it would
//! have for the whole prompt. That is asked of the model as it stood before the answer; what the sample's label is made of
//! stays as it was at the decision.

use super::{Learner, entry_of};
use crate::clock::Time;
use crate::learn::features::{self, OUTPUT_UNIT, PROMPT_UNIT, Target, dot};
use crate::learn::predictor::Predictor;
use crate::outcome::Sample;

impl Learner {
    /// Learns whether what matched was still there.
    pub(super) fn recall(&mut self, now: Time, sample: &Sample) {
        if sample.recall.matched_tokens <= 0.0 {
            return;
        }
        let loaded = self.learned.load();
        // At its home more may have been cached than what is remembered, by another proxy's work.
        let alone = loaded.as_deref().filter(|_| sample.recall.cached_tokens <= sample.recall.held_tokens);
        let inferred = alone.and_then(|predictor| self.inferred(predictor, sample));
        let Some(entry) = entry_of(&mut self.nodes, sample.slot, sample.node, now) else { return };
        match (sample.told_cached(), inferred) {
            (Some(told), _) => entry.reuse.told(&sample.recall, told),
            (None, Some((cached, sure))) => entry.reuse.inferred(&sample.recall, cached, sure),
            (None, None) => {}
        }
    }

    /// The cached tokens that the time of an answer tells of, and the share of its time that they could have been.
    fn inferred(&self, predictor: &Predictor, sample: &Sample) -> Option<(f64, f64)> {
        let prompt = f64::from(sample.prompt_tokens) / PROMPT_UNIT;
        let model = predictor.known(sample.slot, sample.node)?;
        let (target, row, observed_s) = match (sample.streaming, sample.output_tokens) {
            (true, _) => {
                let place = features::place(f64::from(sample.in_flight), model.slots);
                let waiting = sample.waiting_prompt_tokens as f64 / PROMPT_UNIT;
                let row = features::first_byte(prompt, waiting, place, 0.0);
                (Target::FirstByte, row, sample.ttfb?.as_secs_f64())
            }
            (false, Some(tokens)) => {
                let (n, output) = (sample.mean_in_flight.max(1.0), f64::from(tokens) / OUTPUT_UNIT);
                (Target::TotalTokens, features::total_tokens(n, prompt, output), sample.total.as_secs_f64())
            }
            (false, None) => return None,
        };
        let factor = self.learned.node_at(sample.slot, sample.node).factor(target);
        let beta = &model.beta[target.index()];
        let b_prompt = match target {
            Target::FirstByte => beta[1],
            _ => beta[2],
        };
        let (whole_s, token_s) = (factor * dot(beta, &row), factor * b_prompt / PROMPT_UNIT);
        if !predictor.has[target.index()] || token_s <= 0.0 || whole_s <= 0.0 {
            return None;
        }
        let sure = token_s * f64::from(sample.recall.matched_tokens) / whole_s;
        Some(((whole_s - observed_s) / token_s, sure.min(1.0)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::learn::Learned;
    use crate::learn::sample::tests::plain;
    use crate::outcome::{Extent, Recall};

    /// Servers that read a token of a prompt in so many seconds, and of a token that matched only this share; whether
    /// they tell.
    fn taught(streaming: bool, read_share: f64, tells: bool) -> Arc<Learned> {
        let learned = Arc::new(Learned::default());
        let mut learner = Learner::new(Arc::clone(&learned));
        let mut rng = fastrand::Rng::with_seed(7);
        for tick in 0..120u32 {
            let now = Time::from_secs_f64(f64::from(tick) * 0.5);
            for slot in 0..4 {
                for _ in 0..3 {
                    let prompt = rng.u32(200..6_000);
                    let matched = if rng.u32(0..3) == 0 { 0.0 } else { 0.9 * prompt as f32 };
                    let extent = Extent { tokens: 20_000.0, seconds: 20.0 };
                    // As a decision would have had it.
                    let known = learned.predictor();
                    let known = known.as_deref().map(|known| known.node(slot, plain(slot, 1, 1.0).node));
                    let held = matched * known.map_or(0.9, |model| model.chances.of(extent));
                    let cached = held * known.map_or(1.0, |model| model.worth() as f32);
                    let recall = Recall { matched_tokens: matched, held_tokens: held, cached_tokens: cached, extent };
                    let read = f64::from(prompt) - f64::from(matched) * (1.0 - read_share);
                    let took_s = (0.05 + 0.0002 * read) * (0.7 + 0.6 * rng.f64());
                    let output = rng.u32(10..200);
                    let total_s = took_s + 0.01 * f64::from(output);
                    let sample = Sample {
                        streaming,
                        prompt_tokens: prompt,
                        recall,
                        events: output,
                        ttfb: Some(Duration::from_secs_f64(if streaming { took_s } else { total_s })),
                        output_tokens: (!streaming).then_some(output),
                        usage_cached_tokens: tells.then(|| (f64::from(matched) * (1.0 - read_share)) as u32),
                        started: now,
                        ..plain(slot, 1, total_s)
                    };
                    learner.observe(now, &sample).expect("a label");
                }
            }
            learner.refit(now);
        }
        learned
    }

    /// The share of a match that the node is expected to be spared.
    fn spared(learned: &Learned) -> Vec<f64> {
        let predictor = learned.predictor().expect("taught");
        let models = (0..4).map(|slot| *predictor.node(slot, plain(slot, 1, 1.0).node));
        let extent = Extent { tokens: 20_000.0, seconds: 20.0 };
        models.map(|model| model.worth() * f64::from(model.chances.of(extent))).collect()
    }

    #[test]
    fn nodes_without_caches_are_found_out_by_their_times_alone() {
        for (streaming, tells) in [(true, false), (true, true), (false, false), (false, true)] {
            let spared = spared(&taught(streaming, 1.0, tells));
            assert!(spared.iter().all(|share| *share < 0.2), "{streaming} {tells} {spared:?}");
        }
    }

    #[test]
    fn nodes_with_caches_are_believed_to_have_them_whether_they_tell_or_not() {
        for (streaming, tells) in [(true, false), (true, true), (false, false), (false, true)] {
            let spared = spared(&taught(streaming, 0.0, tells));
            assert!(spared.iter().all(|share| *share > 0.7), "{streaming} {tells} {spared:?}");
        }
    }
}
