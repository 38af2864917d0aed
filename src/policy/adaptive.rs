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

use std::sync::Arc;

use crate::clock::Time;
use crate::fleet::Node;
use crate::learn::explore::{Census, PLACES, UNEXPLORED, epsilon};
use crate::learn::lane::{Lane, LanesOf};
use crate::learn::silence::{PATIENCE_MIN, Quiet, patience_s};
use crate::learn::{Ask, Fallback, How, Knobs, Learned, NodeLearned, NodeLoad, Prediction, Predictor, Target};
use crate::node::NODES_MAX;
use crate::outcome::Sample;
use crate::policy::{Candidate, Context, Expected, Policy, least_of, share_minimum};

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

/// Why a node is left out of a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// It went silent with work in flight.
    Silent,
    /// It is new or returned, and has as many in flight as its successes allow.
    Ramping,
}

impl Held {
    /// The word for people.
    pub fn word(self) -> &'static str {
        match self {
            Held::Silent => "silent",
            Held::Ramping => "ramping",
        }
    }
}

/// What the policy thinks of one node for one request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Assessment {
    /// What it would take there.
    pub prediction: Prediction,
    /// Failure penalty.
    pub penalty: f64,
    /// The score; infinite for a node that is left out.
    pub score: f64,
    /// Why it is left out.
    pub held: Option<Held>,
    /// Whether it may be explored.
    pub explorable: bool,
    /// Its level of evidence.
    pub level: u8,
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
    /// the model, or would leave out every node. Allocates nothing.
    pub fn compare(&self, ctx: &Context<'_>, chosen: usize) -> Option<Comparison> {
        let loaded = self.learned.load();
        let predictor = loaded.as_deref()?;
        if self.learned.fallback_of(Some(predictor), ctx.now).is_some() {
            return None;
        }
        let ask = ask(predictor, ctx);
        let knobs = knobs(&self.learned, &ask);
        let mut best: Option<Assessment> = None;
        let mut theirs = None;
        for (at, candidate) in ctx.candidates.iter().enumerate() {
            let node = ctx.node(candidate);
            let load = (candidate.in_flight, load_of(node, candidate.in_flight));
            let seen = assess(&self.learned, predictor, &ask, &knobs, ctx.now, node, load);
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
        let ask = ask(predictor, ctx);
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
            How::Streamed => fleet.judge(ctx, out, levels, |lane, live, node, in_flight| {
                let load = load_of(node, in_flight);
                lane.streamed(live.factor(Target::FirstByte), live.factor(Target::Gap), &load, &ask)
            }),
            // The number in flight is all that these need of the load.
            How::Tokens => fleet.judge(ctx, out, levels, |lane, live, _, in_flight| {
                lane.tokens(live.factor(Target::TotalTokens), &NodeLoad::new(in_flight, 0, 0), &ask)
            }),
            How::Plain => fleet.judge(ctx, out, levels, |lane, live, _, in_flight| {
                lane.plain(live.factor(Target::Total), &NodeLoad::new(in_flight, 0, 0))
            }),
            How::Unknown => {
                fleet.judge(ctx, out, levels, |_, _, _, in_flight| Lane::unknown(&NodeLoad::new(in_flight, 0, 0)))
            }
        }
        let least = least_of(out);
        if least == f64::INFINITY {
            return false;
        }
        let mean_prompt = predictor.expectations.overall().prompt_tokens();
        let epsilon = epsilon(knobs.explore, f64::from(ctx.shape.prompt_tokens), mean_prompt);
        share(out, least, epsilon, levels);
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
        predict: impl Fn(&Lane, &NodeLearned, &Node, u32) -> Prediction,
    ) {
        let (out, levels) = (&mut out[..ctx.candidates.len()], &mut levels[..ctx.candidates.len()]);
        for (at, candidate) in ctx.candidates.iter().enumerate() {
            let node = ctx.node(candidate);
            let (live, lane) = (self.learned.node(node), self.lanes.node(node.slot, node.id));
            let prediction = predict(lane, live, node, candidate.in_flight);
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

fn ask(predictor: &Predictor, ctx: &Context<'_>) -> Ask {
    let shape = ctx.shape;
    predictor.ask(shape.kind, shape.streaming, shape.prompt_tokens, shape.output_tokens_max)
}

/// The knobs as they count for a request.
///
/// Work that shares a server, as a batch does, is slowed by whoever stays longer. Where nothing tells of a batch, the
/// server may as well take its queue in turn, and then those who wait pass no delay on: there is no echo.
fn knobs(learned: &Learned, ask: &Ask) -> Knobs {
    let knobs = learned.knobs();
    if ask.how == How::Plain { Knobs { echo: 0.0, ..knobs } } else { knobs }
}

/// What is thought of each candidate, in their order, whichever policy decides. Empty without a predictor.
///
/// `started` is a candidate on which the attempt itself already counts: it is judged as it was before.
pub fn assess_all(learned: &Learned, ctx: &Context<'_>, started: Option<usize>) -> Vec<Assessment> {
    let loaded = learned.load();
    let Some(predictor) = loaded.as_deref() else { return Vec::new() };
    let ask = ask(predictor, ctx);
    let knobs = knobs(learned, &ask);
    let judge = |(at, candidate): (usize, &Candidate)| {
        let (node, in_flight) = (ctx.node(candidate), candidate.in_flight);
        let load = match started {
            Some(own) if own == at => load_without(node, in_flight, ctx.shape.prompt_tokens),
            _ => load_of(node, in_flight),
        };
        assess(learned, predictor, &ask, &knobs, ctx.now, node, (in_flight, load))
    };
    ctx.candidates.iter().enumerate().map(judge).collect()
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

/// A node's load as a decision sees it.
#[inline]
fn load_of(node: &Node, in_flight: u32) -> NodeLoad {
    let ledger = &node.live.ledger;
    NodeLoad::new(in_flight, ledger.waiting(), ledger.waiting_prompt_tokens())
}

/// As the candidate was weighed: the ledger counts the attempt itself, with so many tokens, by now.
fn load_without(node: &Node, in_flight: u32, prompt_tokens: u32) -> NodeLoad {
    let ledger = &node.live.ledger;
    let waiting_prompt_tokens = ledger.waiting_prompt_tokens().saturating_sub(u64::from(prompt_tokens));
    NodeLoad::new(in_flight, ledger.waiting().saturating_sub(1), waiting_prompt_tokens)
}

/// Why `node` is left out, if it is.
#[inline]
fn held(
    predictor: &Predictor,
    live: &NodeLearned,
    node: &Node,
    now: Time,
    in_flight: u32,
    load: impl FnOnce() -> NodeLoad,
) -> Option<Held> {
    // An idle node is not silent, and nobody is within the shortest patience: nearly always nothing to work out.
    let is_quiet = in_flight > 0 && now > node.live.ledger.last_sign().after(PATIENCE_MIN);
    if (is_quiet || live.watch.is_suspect()) && is_silent(predictor, live, node, now, in_flight, &load()) {
        return Some(Held::Silent);
    }
    (in_flight >= live.ramp_limit()).then_some(Held::Ramping)
}

#[cold]
#[inline(never)]
fn is_silent(
    predictor: &Predictor,
    live: &NodeLearned,
    node: &Node,
    now: Time,
    in_flight: u32,
    load: &NodeLoad,
) -> bool {
    let quiet_s = if in_flight > 0 { now.seconds_since(node.live.ledger.last_sign()) } else { 0.0 };
    let interval_s = predictor.node(node.slot, node.id).sign_interval_s(&predictor.has, &live.factors(), load);
    let quiet = Quiet { in_flight, waiting: load.waiting as u32, quiet_s, patience_s: patience_s(interval_s) };
    !live.watch.admits(&quiet)
}

/// What is thought of `node` with so many in flight, under that load.
fn assess(
    learned: &Learned,
    predictor: &Predictor,
    ask: &Ask,
    knobs: &Knobs,
    now: Time,
    node: &Node,
    (in_flight, load): (u32, NodeLoad),
) -> Assessment {
    let (live, model) = (learned.node(node), predictor.node(node.slot, node.id));
    let prediction = model.predict(&live.factors(), &load, ask);
    let penalty = live.penalty.at(now);
    let held = held(predictor, live, node, now, in_flight, || load);
    let score = if held.is_some() { f64::INFINITY } else { score(&prediction, knobs) * (1.0 + penalty) };
    let full = load.in_flight >= model.slots || model.capacity.is_used_up(load.in_flight);
    let explorable = held.is_none() && penalty < EXPLORED_PENALTY_MAX && !full;
    Assessment { prediction, penalty, score, held, explorable, level: model.level }
}

/// Marginal cost, by the objective.
#[inline]
fn score(prediction: &Prediction, knobs: &Knobs) -> f64 {
    let echo = (prediction.marginal_s / prediction.total_s.max(SCORE_MIN_S)).min(knobs.echo);
    let whole = prediction.total_s + knobs.social * prediction.marginal_s / (1.0 - echo);
    let first = prediction.first_byte_s + knobs.social * prediction.marginal_first_byte_s;
    let mixed = (1.0 - knobs.first_byte) * whole + knobs.first_byte * first;
    // Predictions and knobs are finite and bounded, so this is too, even times the largest penalty.
    mixed.max(SCORE_MIN_S)
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
        let (load, ask) = (load_without(node, candidate.in_flight, ctx.shape.prompt_tokens), ask(predictor, ctx));
        let prediction = predictor.lanes(ask.how).node(node.slot, node.id).predict(&live.factors(), &load, &ask);
        Expected { seconds: prediction.total_s, version: predictor.version }
    }

    fn observe(&self, node: &Node, sample: &Sample) {
        // What is learned has heard of it from the balancer; a fallback that keeps state of its own has not.
        if let Some(fallback) = &self.fallback {
            fallback.observe(node, sample);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::fleet::Fleet;
    use crate::learn::Learner;
    use crate::node::NodeSpec;
    use crate::outcome::{Failure, Outcome};
    use crate::policy::tests_support::{Scene, sample_of};
    use crate::request::RequestShape;

    /// A policy that has learned nodes whose service times are `services`, four workers each.
    fn taught(scene: &Scene, services: &[f64]) -> (Adaptive, Learner) {
        let learned = Arc::new(Learned::default());
        let policy = Adaptive::new(Arc::clone(&learned));
        let mut learner = Learner::new(learned);
        let mut rng = fastrand::Rng::with_seed(1);
        for tick in 0..40u32 {
            let now = Time::from_secs_f64(f64::from(tick) * 0.5);
            for (node, service) in scene.fleet.nodes().iter().zip(services) {
                for _ in 0..10 {
                    let n = rng.u32(1..=12);
                    let took_s = service * (f64::from(n) / 4.0).max(1.0) * (0.8 + 0.4 * rng.f64());
                    let ended = now.after(Duration::from_secs_f64(took_s));
                    let sample = sample_of(node, now, ended, Outcome::Completed { status: 200 });
                    let sample = Sample { in_flight: n - 1, mean_in_flight: f64::from(n), ..sample };
                    policy.learned.ended(node, &sample);
                    learner.observe(now, &sample).expect("a label");
                }
            }
            learner.refit(now);
        }
        (policy, learner)
    }

    fn scene(count: u32) -> Scene {
        Scene { now: Time::from_secs_f64(20.0), ..Scene::new(count) }
    }

    #[test]
    fn a_fast_node_is_preferred_until_it_is_full_enough() {
        let scene = scene(2);
        let (policy, _) = taught(&scene, &[0.1, 0.4]);
        assert!(scene.weigh(&policy)[0] > 0.9);
        let scene = scene.load(0, 5);
        assert!(scene.weigh(&policy)[0] > 0.9, "0.15 s and little harm against 0.4 s");
        let scene = scene.load(0, 30);
        assert!(scene.weigh(&policy)[1] > 0.9);
    }

    #[test]
    fn every_propensity_is_exact_and_exploration_is_shared() {
        let scene = scene(4);
        let (policy, _) = taught(&scene, &[0.1, 0.2, 0.2, 0.2]);
        policy.learned.set_knobs(Knobs { explore: 0.08, ..Knobs::default() });
        let weights = scene.weigh(&policy);
        assert!((weights.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        let scores: Vec<f64> = policy.assess_all(&scene.context()).iter().map(|seen| seen.score).collect();
        for (weight, score) in weights.iter().zip(&scores).skip(1) {
            // Four nodes of one level of evidence, each drawn with a quarter, and a cost that is bounded.
            let expected = 0.02 * (EXPLORED_COST * scores[0] / score).min(1.0);
            assert!((weight - expected).abs() < 1e-12, "{weights:?} {scores:?}");
        }
        assert!(weights[0] >= 0.94);
        policy.learned.set_knobs(Knobs { explore: 0.0, ..Knobs::default() });
        assert_eq!(scene.weigh(&policy), [1.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn a_node_that_fails_loses_its_traffic_at_once_and_gets_it_back() {
        let mut scene = scene(2);
        let (policy, mut learner) = taught(&scene, &[0.1, 0.4]);
        for _ in 0..3 {
            let node = &scene.fleet.nodes()[0];
            policy.learned.ended(node, &sample_of(node, scene.now, scene.now, Outcome::Failed(Failure::Status(500))));
        }
        assert!(scene.weigh(&policy)[0] < 0.01);
        scene.now = Time::from_secs_f64(60.0);
        learner.refit(scene.now);
        assert!(scene.weigh(&policy)[0] > 0.9);
    }

    #[test]
    fn without_a_fresh_model_it_is_least_connections_that_avoids_failing_nodes() {
        let mut scene = scene(3).load(0, 4).load(1, 1).load(2, 1);
        let cold = Adaptive::new(Arc::default());
        assert_eq!(scene.weigh(&cold), [0.0, 0.5, 0.5]);
        let node = &scene.fleet.nodes()[1];
        cold.learned.ended(node, &sample_of(node, scene.now, scene.now, Outcome::Failed(Failure::Connect)));
        assert_eq!(scene.weigh(&cold), [0.0, 0.0, 1.0]);
        let (policy, _) = taught(&scene, &[0.01, 0.4, 0.4]);
        assert!(scene.weigh(&policy)[0] > 0.9);
        scene.now = Time::from_secs_f64(120.0);
        assert_eq!(policy.fallback(scene.now), Some(Fallback::Stale));
        assert_eq!(scene.weigh(&policy), [0.0, 0.5, 0.5]);
    }

    #[test]
    fn who_is_slowed_slows_others_in_turn_but_not_without_end() {
        let of = |marginal_s| {
            let prediction = Prediction { total_s: 2.0, marginal_s, ..Prediction::default() };
            score(&prediction, &Knobs { echo: 0.25, ..Knobs::default() })
        };
        assert_eq!(of(0.0), 2.0);
        assert!((of(0.4) - (2.0 + 0.4 / 0.8)).abs() < 1e-12, "all rounds of a fifth");
        assert!((of(6.0) - (2.0 + 6.0 / 0.75)).abs() < 1e-12, "at most as if it were a quarter");
    }

    #[test]
    fn another_choice_is_compared_with_its_own() {
        let scene = scene(3);
        let (policy, _) = taught(&scene, &[0.1, 0.4, 0.4]);
        let (context, seen) = (scene.context(), policy.assess_all(&scene.context()));
        let same = policy.compare(&context, 0).expect("a model");
        assert!(same.agrees && same.chosen == same.own);
        let other = policy.compare(&context, 1).expect("a model");
        assert!(!other.agrees);
        assert_eq!(other.chosen.response_s, seen[1].prediction.total_s);
        assert_eq!(other.own.response_s, seen[0].prediction.total_s);
        assert!(other.chosen.response_s > 2.0 * other.own.response_s);
        assert_eq!(Adaptive::new(Arc::default()).compare(&context, 0), None);
    }

    #[test]
    fn a_silent_node_gets_nothing_until_it_answers() {
        let scene = scene(2);
        let (policy, _) = taught(&scene, &[0.1, 0.4]);
        let node = &scene.fleet.nodes()[0];
        let start = Time::from_secs_f64(6.0);
        node.live.ledger.try_start(start, 9, 0).expect("room");
        let scene = scene.load(0, 1);
        let silent = policy.assess_all(&scene.context());
        // Fourteen seconds, where ten times a tenth of a second is long, and ten times that enough for a probe.
        assert_eq!(silent[0].held, None, "a probe is due");
        let earlier = Scene { now: Time::from_secs_f64(12.0), ..scene };
        assert_eq!(policy.assess_all(&earlier.context())[0].held, Some(Held::Silent));
        let node = &earlier.fleet.nodes()[0];
        policy.learned.ended(node, &sample_of(node, start, earlier.now, Outcome::Completed { status: 200 }));
        node.live.ledger.sign_of_life(earlier.now);
        assert_eq!(policy.assess_all(&earlier.context())[0].held, None);
    }

    /// The distribution as the design words it, one node after the other: what the tables must agree with, to the bit.
    fn weigh_plainly(policy: &Adaptive, ctx: &Context<'_>) -> Option<Vec<f64>> {
        let seen = policy.assess_all(ctx);
        let least = seen.iter().map(|seen| seen.score).fold(f64::INFINITY, f64::min);
        if least == f64::INFINITY {
            return None;
        }
        let knobs = policy.learned.knobs();
        let mean_prompt = policy.learned.predictor()?.expectations.overall().prompt_tokens();
        let epsilon = epsilon(knobs.explore, f64::from(ctx.shape.prompt_tokens), mean_prompt);
        let open: Vec<&Assessment> = seen.iter().filter(|seen| seen.explorable).collect();
        let part = |own: &Assessment| {
            if !own.explorable {
                return 0.0;
            }
            let better_known = open.iter().filter(|other| other.level > own.level).count() as f64;
            let alike = open.iter().filter(|other| other.level == own.level).count() as f64;
            let share = (2.0 * better_known + alike) / (open.len() as f64 * open.len() as f64);
            epsilon * share * (EXPLORED_COST * least / own.score).min(1.0)
        };
        let explored: f64 = seen.iter().map(part).sum();
        let ties = seen.iter().filter(|seen| seen.score == least).count() as f64;
        let best = |own: &Assessment| if own.score == least { (1.0 - explored) / ties } else { 0.0 };
        Some(seen.iter().map(|own| best(own) + part(own)).collect())
    }

    /// A policy that has learned `nodes` (and one that is gone by now), by answers of all kinds or of some.
    fn taught_at_random(fleet: &Fleet, kinds: u32, rng: &mut fastrand::Rng) -> (Adaptive, Time) {
        let policy = Adaptive::new(Arc::default());
        let mut learner = Learner::new(Arc::clone(&policy.learned));
        let mut now = Time::ZERO;
        for _ in 0..3 {
            now = now.after(Duration::from_millis(500));
            // Most have no answers, some have few: other levels, ramps, the fleet's curve.
            for node in fleet.nodes().iter().take(7) {
                for _ in 0..rng.u32(0..4) * (2 + 4 * node.slot) {
                    let n = rng.u32(1..30);
                    let (started, took) = (now, Duration::from_micros(rng.u64(1_000..4_000_000)));
                    let sample = sample_of(node, started, started.after(took), Outcome::Completed { status: 200 });
                    let streaming = kinds & 1 == 1 && rng.bool();
                    let sample = Sample {
                        in_flight: n - 1,
                        mean_in_flight: f64::from(n),
                        prompt_tokens: rng.u32(0..9_000),
                        streaming,
                        events: rng.u32(1..900),
                        ttfb: Some(took / 2),
                        output_tokens: (kinds & 2 == 2 && rng.bool()).then(|| rng.u32(1..900)),
                        ..sample
                    };
                    policy.learned.ended(node, &sample);
                    learner.observe(now, &sample).expect("a label");
                    if streaming {
                        learner.gaps(now, node, f64::from(n), rng.u32(0..6), n, f64::from(n) * 0.02, 20);
                    }
                }
            }
            learner.refit(now);
        }
        (policy, now)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn the_tables_say_what_one_node_after_the_other_would(
            seed: u64, nodes in 1u32..160, kinds in 0u32..4, streaming: bool,
            explore in prop_oneof![Just(0.0), 0.0..0.5], social in 0.0..3.0, first_byte in 0.0..1.0,
        ) {
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut scene = Scene::new(nodes);
            let (policy, taught) = taught_at_random(&scene.fleet, kinds, &mut rng);
            // A node that is new to the predictor, in a slot that another had.
            let gone = scene.spec(0).name;
            scene.fleet = scene.fleet.without(&gone).and_then(|f| f.with(NodeSpec::new("http://new"))).expect("free");
            policy.learned.set_knobs(Knobs { first_byte, social, explore, ..Knobs::default() });
            scene.shape = RequestShape { streaming, prompt_tokens: rng.u32(0..9_000), ..scene.shape };
            scene.now = taught.after(Duration::from_millis(1_500));
            for (candidate, node) in scene.candidates.iter_mut().zip(scene.fleet.nodes()) {
                candidate.in_flight = if rng.bool() { rng.u32(0..3) } else { rng.u32(0..60) };
                for _ in 0..candidate.in_flight {
                    node.live.ledger.try_start(taught, node.limit_max, 700).expect("room");
                }
                match rng.u32(0..8) {
                    0 => policy.learned.ended(node, &sample_of(node, taught, taught, Outcome::Failed(Failure::Connect))),
                    1 => {}
                    _ => node.live.ledger.sign_of_life(scene.now),
                }
            }
            let context = scene.context();
            prop_assume!(policy.learned.predictor().is_some());
            let mut out = vec![0.0; scene.candidates.len()];
            let loaded = policy.learned.predictor().expect("just seen");
            let routed = policy.weigh_by_model(&loaded, &context, &mut out);
            let expected = weigh_plainly(&policy, &context);
            prop_assert_eq!(routed, expected.is_some());
            for (at, (weight, plain)) in out.iter().zip(expected.iter().flatten()).enumerate() {
                prop_assert_eq!(weight.abs(), *plain, "candidate {} of {}", at, nodes);
            }
        }
    }

    #[test]
    fn a_trained_decision_allocates_nothing() {
        let scene = scene(8);
        let (policy, _) = taught(&scene, &[0.1; 8]);
        let (context, mut out) = (scene.context(), vec![0.0; 8]);
        let used = allocation_counter::measure(|| {
            (0..100).for_each(|_| policy.weigh(&context, &mut out));
            policy.chosen(&context, 3);
        });
        assert_eq!(used.count_total, 0);
    }

    #[test]
    fn a_node_without_successes_is_ramped() {
        let (scene, wider) = (scene(2), scene(3));
        let (policy, _) = taught(&scene, &[0.4, 0.4]);
        let wider = wider.load(0, 9).load(1, 9).load(2, 3);
        assert!(wider.weigh(&policy)[2] > 0.9);
        let wider = wider.load(2, 4);
        assert_eq!(policy.assess_all(&wider.context())[2].held, Some(Held::Ramping));
        assert_eq!(wider.weigh(&policy)[2], 0.0);
    }
}
