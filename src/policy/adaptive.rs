//! The learned policy: the least *marginal cost* by each node's learned response times.
//!
//! Score of a node: the response time predicted for the request there, plus what it adds to the response times of the
//! requests already there, times one more than the node's failure penalty. Lowest own latency alone is greedy and
//! overfills fast nodes at high load. A node that is silent, or new and without enough successes for more, is left
//! out. A small part of the decisions explores the less known of two nodes. While the guard does not trust the model,
//! the fallback routes: least-connections, with the failure penalty, as an untrusted model is no reason to send
//! everything to a node that answers errors at once.
//!
//! What is learned comes in through [`Learned`]; nothing is fitted here.

mod assess;
pub mod grounds;

use std::sync::Arc;

use crate::clock::Time;
use crate::fleet::Node;
use crate::learn::explore::{Census, PLACES, UNEXPLORED};
use crate::learn::lane::{Lane, LanesOf};
use crate::learn::{Fallback, How, Knobs, Learned, NodeLearned, NodeLoad, Prediction, Predictor, Target};
use crate::node::NODES_MAX;
use crate::outcome::Sample;
use crate::policy::{Candidate, Context, Expected, Policy, least_of, share_minimum};

pub use assess::{Assessment, Held, assess_all};
use assess::{ask, ask_at, assess, explored_share, held, knobs, load_of, load_without, score};

/// The least time that a score is made of: a penalty must have something to multiply.
const SCORE_MIN_S: f64 = 1e-6;

/// A penalty above this keeps exploration away.
const EXPLORED_PENALTY_MAX: f64 = 0.5;

/// A node whose score is more than so many times the best is explored less often in proportion: what an experiment
/// costs is bounded, however slow a node is.
const EXPLORED_COST: f64 = 2.0;

/// The learned policy.
#[derive(Debug)]
pub struct Adaptive {
    learned: Arc<Learned>,
    fallback: Option<Arc<dyn Policy>>,
}

/// What a placement is expected to cost, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// The request's own response time.
    pub response_s: f64,
    /// What it adds to the response times of those in flight there, together.
    pub added_s: f64,
}

/// Another policy's choice against the one of [`Adaptive`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Comparison {
    /// Whether they would have chosen alike.
    pub agrees: bool,
    /// Of the node that was chosen.
    pub chosen: Cost,
    /// Of the node that it would have chosen.
    pub own: Cost,
}

impl Adaptive {
    /// A policy that reads `learned` and falls back to least-connections.
    pub fn new(learned: Arc<Learned>) -> Adaptive {
        Adaptive { learned, fallback: None }
    }

    /// The same with another fallback.
    #[must_use]
    pub fn falling_back_to(self, fallback: Arc<dyn Policy>) -> Adaptive {
        Adaptive { fallback: Some(fallback), ..self }
    }

    /// Why the fallback would route at `now`, if it would.
    pub fn fallback(&self, now: Time) -> Option<Fallback> {
        self.learned.fallback(now)
    }

    /// What the policy thinks of each candidate, in their order; for explanations. Empty without a predictor.
    pub fn assess_all(&self, ctx: &Context<'_>) -> Vec<Assessment> {
        assess_all(&self.learned, ctx, None)
    }

    /// What it would have done where another policy chose the candidate `chosen`; `None` while it would not route by
    /// the model, would leave out every node, or knows no times of such requests. Allocates nothing.
    pub fn compare(&self, ctx: &Context<'_>, chosen: usize) -> Option<Comparison> {
        let loaded = self.learned.load();
        let predictor = loaded.as_deref()?;
        if self.learned.fallback_of(Some(predictor), ctx.now).is_some() {
            return None;
        }
        let ask = ask(&self.learned, predictor, ctx);
        if ask.how == How::Unknown {
            return None;
        }
        let knobs = knobs(&self.learned, &ask);
        let mut best: Option<Assessment> = None;
        let mut theirs = None;
        for (at, candidate) in ctx.candidates.iter().enumerate() {
            let load = load_of(ctx.node(candidate), candidate.in_flight);
            let seen = assess(&self.learned, predictor, &ask, &knobs, ctx, candidate, load);
            if at == chosen {
                theirs = Some(seen);
            }
            if seen.held.is_none() && best.is_none_or(|best| seen.score < best.score) {
                best = Some(seen);
            }
        }
        let (best, theirs) = (best?, theirs?);
        let cost =
            |seen: &Assessment| Cost { response_s: seen.prediction.total_s, added_s: seen.prediction.marginal_s };
        // A tie is agreement: the draw between equals could have gone that way.
        Some(Comparison { agrees: theirs.score <= best.score, chosen: cost(&theirs), own: cost(&best) })
    }

    fn weigh_by_fallback(&self, ctx: &Context<'_>, out: &mut [f64]) {
        if let Some(fallback) = &self.fallback {
            return fallback.weigh(ctx, out);
        }
        share_minimum(out, |at| {
            let candidate = &ctx.candidates[at];
            let penalty = self.learned.node(ctx.node(candidate)).penalty.at(ctx.now);
            f64::from(candidate.in_flight + 1) / candidate.weight * (1.0 + penalty)
        });
    }

    /// Writes the distribution; false if every node is left out.
    fn weigh_by_model(&self, predictor: &Predictor, ctx: &Context<'_>, out: &mut [f64]) -> bool {
        let ask = ask(&self.learned, predictor, ctx);
        let knobs = knobs(&self.learned, &ask);
        // What it costs to clear a table for the largest fleet is a fifth of what a decision over few nodes may.
        let (mut few, mut many);
        let levels = if out.len() <= FEW {
            few = [UNEXPLORED; FEW];
            &mut few[..out.len()]
        } else {
            many = [UNEXPLORED; NODES_MAX];
            &mut many[..out.len().min(NODES_MAX)]
        };
        let fleet = Judge { learned: &self.learned, predictor, lanes: predictor.lanes(ask.how), knobs: &knobs };
        match ask.how {
            How::Streamed => fleet.judge(ctx, out, levels, |lane, live, node, at| {
                let load = load_of(node, at.in_flight);
                lane.streamed(live.factor(Target::FirstByte), live.factor(Target::Gap), &load, &ask_at(&ask, at))
            }),
            // The number in flight is all that these need of the load.
            How::Tokens => fleet.judge(ctx, out, levels, |lane, live, _, at| {
                lane.tokens(live.factor(Target::TotalTokens), &NodeLoad::new(at.in_flight, 0, 0), &ask_at(&ask, at))
            }),
            How::Plain => fleet.judge(ctx, out, levels, |lane, live, _, at| {
                lane.plain(live.factor(Target::Total), &NodeLoad::new(at.in_flight, 0, 0))
            }),
            How::Unknown => {
                fleet.judge(ctx, out, levels, |_, _, _, at| Lane::unknown(&NodeLoad::new(at.in_flight, 0, 0)))
            }
        }
        let least = least_of(out);
        if least == f64::INFINITY {
            return false;
        }
        share(out, least, explored_share(predictor, &knobs, ctx), levels);
        true
    }
}

/// Fleets up to this size have a table of levels of their own size.
const FEW: usize = 128;

/// What all nodes of a decision are judged by.
struct Judge<'a> {
    learned: &'a Learned,
    predictor: &'a Predictor,
    lanes: LanesOf<'a>,
    knobs: &'a Knobs,
}

impl Judge<'_> {
    /// Writes the score of each candidate, as [`assess`] would say it, and the level of those that may be explored.
    #[inline]
    fn judge(
        &self,
        ctx: &Context<'_>,
        out: &mut [f64],
        levels: &mut [u8],
        predict: impl Fn(&Lane, &NodeLearned, &Node, &Candidate) -> Prediction,
    ) {
        let (out, levels) = (&mut out[..ctx.candidates.len()], &mut levels[..ctx.candidates.len()]);
        for (at, candidate) in ctx.candidates.iter().enumerate() {
            let node = ctx.node(candidate);
            let (live, lane) = (self.learned.node(node), self.lanes.node(node.slot, node.id));
            let prediction = predict(lane, live, node, candidate);
            let penalty = live.penalty.at(ctx.now);
            let load = || load_of(node, candidate.in_flight);
            let held = held(self.predictor, live, node, ctx.now, candidate.in_flight, load).is_some();
            out[at] = if held { f64::INFINITY } else { score(&prediction, self.knobs) * (1.0 + penalty) };
            let explorable = !held && penalty < EXPLORED_PENALTY_MAX && !lane.is_full(candidate.in_flight);
            levels[at] = if explorable { lane.level() } else { UNEXPLORED };
        }
    }
}

/// Turns the scores in `out`, the least of which is `least`, into probabilities: those of least score share what
/// exploration leaves.
fn share(out: &mut [f64], least: f64, epsilon: f64, levels: &[u8]) {
    let ties = out.iter().filter(|score| **score == least).count() as f64;
    let census = Census::of(levels);
    if epsilon == 0.0 || census.is_empty() {
        return out.iter_mut().for_each(|out| *out = if *out == least { 1.0 / ties } else { 0.0 });
    }
    // What goes to exploration first, with the best marked by a negative sign; then the rest to the best.
    let shares = census.shares().map(|share| epsilon * share);
    let bearable = EXPLORED_COST * least;
    let mut explored = 0.0;
    let levels = &levels[..out.len()];
    for at in 0..out.len() {
        let cost = bearable / out[at];
        let part = shares[usize::from(levels[at]) % PLACES] * if cost < 1.0 { cost } else { 1.0 };
        explored += part;
        out[at] = if out[at] == least { -part } else { part };
    }
    let greedy = (1.0 - explored) / ties;
    out.iter_mut().for_each(|out| *out = if out.is_sign_negative() { greedy - *out } else { *out });
}

/// Whether drawing candidate `at` from what this policy wrote into `weights` was exploration: it is none of the best.
///
/// The best share what exploration leaves, and each may get a part of that too, so that none is below
/// (1 - e) / (1 + e) of the highest. Exact while less than a third of the decisions explores; above that an explored
/// candidate may pass as one of the best, never the reverse.
pub fn is_explored(learned: &Learned, now: Time, weights: &[f64], at: usize) -> bool {
    let most = weights.iter().copied().fold(0.0, f64::max);
    weights[at] < most && weights[at] < most * best_floor(learned) && learned.fallback(now).is_none()
}

/// The least weight of one of the best candidates, as a share of the highest.
pub fn best_floor(learned: &Learned) -> f64 {
    let explore = learned.knobs().explore;
    (1.0 - explore) / (1.0 + explore) - 1e-9
}

impl Policy for Adaptive {
    fn weigh(&self, ctx: &Context<'_>, out: &mut [f64]) {
        let loaded = self.learned.load();
        let predictor = loaded.as_deref();
        let trusted = predictor.filter(|_| self.learned.fallback_of(predictor, ctx.now).is_none());
        if !trusted.is_some_and(|predictor| self.weigh_by_model(predictor, ctx, out)) {
            self.weigh_by_fallback(ctx, out);
        }
    }

    fn chosen(&self, ctx: &Context<'_>, at: usize) -> Expected {
        let candidate = &ctx.candidates[at];
        let node = ctx.node(candidate);
        let live = self.learned.node(node);
        live.watch.sent();
        let loaded = self.learned.load();
        let Some(predictor) = loaded.as_deref() else { return Expected::NOTHING };
        let load = load_without(node, candidate, ctx.shape.prompt_tokens);
        let ask = ask_at(&ask(&self.learned, predictor, ctx), candidate);
        let prediction = predictor.lanes(ask.how).node(node.slot, node.id).predict(&live.factors(), &load, &ask);
        let seconds = if ask.how == How::Unknown { f64::NAN } else { prediction.total_s };
        Expected { seconds, version: predictor.version }
    }

    fn observe(&self, node: &Node, sample: &Sample) {
        // What is learned has heard of it from the balancer; a fallback that keeps state of its own has not.
        if let Some(fallback) = &self.fallback {
            fallback.observe(node, sample);
        }
    }
}

#[cfg(test)]
mod tests;
