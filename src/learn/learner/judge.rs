//! What the learner thinks of itself: models by attempts that they have not seen, fits by observations held back from
//! them, and whether it may route.

use super::{Learner, entry_of};
use crate::clock::Time;
use crate::learn::check::Check;
use crate::learn::features::{PROMPT_UNIT, TARGETS, Target, dot};
use crate::learn::fit::TargetFit;
use crate::learn::guard::{Fallback, SAMPLES_MIN};
use crate::learn::learner::Scored;
use crate::learn::predictor::{Ask, How, NodeLoad, Predictor, how};
use crate::learn::report::FitResult;
use crate::learn::stats::{Stats, TAU_S};
use crate::outcome::Sample;

/// A model that stood demoted for two time constants is learned anew: whatever poisoned it goes with it.
const RELEARN_S: f64 = 2.0 * TAU_S;

impl Learner {
    /// Scores model and baseline on a completed attempt, as they stood before it.
    pub(super) fn score(&mut self, now: Time, sample: &Sample) {
        let Some(entry) = entry_of(&mut self.nodes, sample.slot, sample.node, now) else { return };
        let observed = sample.total.as_secs_f64();
        let baseline = entry.baseline.predict(f64::from(sample.in_flight));
        entry.baseline.add(observed, sample.mean_in_flight);
        let loaded = self.learned.load();
        let (Some(predictor), Some(baseline)) = (loaded.as_deref(), baseline) else { return };
        let how = how(&predictor.has, sample.streaming, sample.output_tokens.is_some());
        let output = match how {
            How::Unknown => return,
            How::Streamed => f64::from(sample.events),
            How::Tokens | How::Plain => f64::from(sample.output_tokens.unwrap_or(0)),
        };
        let ask = Ask { prompt: sample.recall.uncached(sample.prompt_tokens) / PROMPT_UNIT, output, how, proxies: 1.0 };
        let load = NodeLoad::new(sample.in_flight, sample.waiting, sample.waiting_prompt_tokens);
        let factors = self.learned.node_at(sample.slot, sample.node).factors();
        let predicted = predictor.node(sample.slot, sample.node).predict(&factors, &load, &ask);
        self.guard.score(now, predicted.total_s, baseline, observed);
        self.scored = Some(Scored { model_s: predicted.total_s, baseline_s: baseline, observed_s: observed });
    }

    /// Judges a fit by the observations that were held back from it.
    pub(super) fn check(
        &mut self,
        elapsed_s: f64,
        target: Target,
        fit: TargetFit,
        slots: &[usize],
        running: Option<&Predictor>,
    ) -> (FitResult, Option<TargetFit>) {
        let at = target.index();
        let betas = fit.nodes.iter().map(|node| &node.beta).chain([&fit.fleet]);
        if !betas.flatten().all(|b| b.is_finite() && *b >= 0.0) {
            return (FitResult::Failed, None);
        }
        let check = &mut self.checks[at];
        check.decay(elapsed_s);
        if let Some(running) = running.filter(|running| running.has[at]) {
            for pending in self.pending.iter().filter(|pending| pending.target == target) {
                let place = slots.binary_search(&(pending.slot as usize)).ok();
                let own = place.map_or(&fit.fleet, |place| &fit.nodes[place].beta);
                let new_s = dot(own, &pending.row);
                let old_s = dot(&running.node(pending.slot, pending.id).beta[at], &pending.row);
                check.add(new_s, old_s, pending.observed);
            }
            if !check.passes() {
                check.forgive();
                return (FitResult::Worse, None);
            }
        }
        for (slot, node) in slots.iter().zip(&fit.nodes) {
            if let Some(entry) = &mut self.nodes[*slot] {
                entry.speed[at] = node.speed;
            }
        }
        (FitResult::Published, Some(fit))
    }

    /// Says whether the model may route, and learns anew what has been bad for too long.
    pub(super) fn stand(&mut self, now: Time) -> Option<Fallback> {
        let demoted = self.guard.judge(now);
        let since = self.guard.demoted_for_s(now).unwrap_or(0.0);
        let since = self.relearned.map_or(since, |at| since.min(now.seconds_since(at)));
        if demoted && since > RELEARN_S {
            self.relearned = Some(now);
            self.counts.relearned += 1;
            self.prior = None;
            self.checks = [Check::default(); TARGETS];
            self.nodes.iter_mut().flatten().for_each(|entry| entry.forget());
        }
        let prior: f64 = self.prior.iter().flat_map(|prior| &prior[..TARGETS - 1]).map(Stats::weight).sum();
        let answers: f64 = self.nodes.iter().flatten().map(|entry| entry.answers()).sum();
        let standing = match () {
            () if answers + prior < SAMPLES_MIN => Some(Fallback::TooFew),
            () if demoted => Some(Fallback::Worse),
            () => None,
        };
        self.learned.set_standing(standing);
        standing
    }
}
