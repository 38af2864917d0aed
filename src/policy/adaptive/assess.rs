//! What is thought of one node for one request: how long it would take there, what it would cost the others, and why the
//! node may be left out.

use crate::clock::Time;
use crate::fleet::Node;
use crate::learn::explore::epsilon;
use crate::learn::features::PROMPT_UNIT;
use crate::learn::silence::{PATIENCE_MIN, Quiet, patience_s};
use crate::learn::{Ask, How, Knobs, Learned, NodeLearned, NodeLoad, Prediction, Predictor};
use crate::policy::{Candidate, Context};

use super::{EXPLORED_PENALTY_MAX, SCORE_MIN_S};

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
    /// What it would take there; see [`expected`](Assessment::expected).
    pub prediction: Prediction,
    /// Whether that is a time: false where nothing learned answers for such a request, and the number in flight stands
    /// for the seconds.
    pub is_time: bool,
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

impl Assessment {
    /// What the request would take there, where that is known.
    pub fn expected(&self) -> Option<&Prediction> {
        Some(&self.prediction).filter(|_| self.is_time)
    }
}

pub(super) fn ask(learned: &Learned, predictor: &Predictor, ctx: &Context<'_>) -> Ask {
    let shape = ctx.shape;
    let ask = predictor.ask(shape.kind, shape.streaming, shape.prompt_tokens, shape.output_tokens_max);
    Ask { proxies: learned.knobs().proxies, ..ask }
}

/// The probability with which the request explores.
#[inline]
pub(super) fn explored_share(predictor: &Predictor, knobs: &Knobs, ctx: &Context<'_>) -> f64 {
    let mean_prompt = predictor.expectations.overall().prompt_tokens();
    let held = match ctx.shape.prefix.blocks() {
        [] => 0.0,
        _ => ctx.candidates.iter().map(|candidate| candidate.cached).fold(0.0, f32::max),
    };
    epsilon(knobs.explore, f64::from(ctx.shape.prompt_tokens), f64::from(held), mean_prompt)
}

/// What is asked of a candidate: it need not read what is in its cache.
#[inline]
pub(super) fn ask_at(ask: &Ask, candidate: &Candidate) -> Ask {
    Ask { prompt: (ask.prompt - f64::from(candidate.cached) / PROMPT_UNIT).max(0.0), ..*ask }
}

/// The knobs as they count for a request.
///
/// Work that shares a server, as a batch does, is slowed by whoever stays longer. Where nothing tells of a batch, the
/// server may as well take its queue in turn, and then those who wait pass no delay on: there is no echo.
pub(super) fn knobs(learned: &Learned, ask: &Ask) -> Knobs {
    let knobs = learned.knobs();
    if ask.how == How::Plain { Knobs { echo: 0.0, ..knobs } } else { knobs }
}

/// What is thought of each candidate, in their order, whichever policy decides. Empty without a predictor.
///
/// `started` is a candidate on which the attempt itself already counts: it is judged as it was before.
pub fn assess_all(learned: &Learned, ctx: &Context<'_>, started: Option<usize>) -> Vec<Assessment> {
    let loaded = learned.load();
    let Some(predictor) = loaded.as_deref() else { return Vec::new() };
    let ask = ask(learned, predictor, ctx);
    let knobs = knobs(learned, &ask);
    let judge = |(at, candidate): (usize, &Candidate)| {
        let (node, in_flight) = (ctx.node(candidate), candidate.in_flight);
        let load = match started {
            Some(own) if own == at => load_without(node, candidate, ctx.shape.prompt_tokens),
            _ => load_of(node, in_flight),
        };
        assess(learned, predictor, &ask, &knobs, ctx, candidate, load)
    };
    ctx.candidates.iter().enumerate().map(judge).collect()
}

/// A node's load as a decision sees it.
#[inline]
pub(super) fn load_of(node: &Node, in_flight: u32) -> NodeLoad {
    let ledger = &node.live.ledger;
    NodeLoad::new(in_flight, ledger.waiting(), ledger.waiting_prompt_tokens())
}

/// As the candidate was weighed: the ledger counts the attempt itself, with a prompt of so many tokens, by now.
pub(super) fn load_without(node: &Node, candidate: &Candidate, prompt_tokens: u32) -> NodeLoad {
    let ledger = &node.live.ledger;
    let own = candidate.uncached(prompt_tokens) as u64;
    let waiting_prompt_tokens = ledger.waiting_prompt_tokens().saturating_sub(own);
    NodeLoad::new(candidate.in_flight, ledger.waiting().saturating_sub(1), waiting_prompt_tokens)
}

/// Why `node` is left out, if it is.
#[inline]
pub(super) fn held(
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

/// What is thought of a candidate under that load.
pub(super) fn assess(
    learned: &Learned,
    predictor: &Predictor,
    ask: &Ask,
    knobs: &Knobs,
    ctx: &Context<'_>,
    candidate: &Candidate,
    load: NodeLoad,
) -> Assessment {
    let node = ctx.node(candidate);
    let (live, model) = (learned.node(node), predictor.node(node.slot, node.id));
    let prediction = model.predict(&live.factors(), &load, &ask_at(ask, candidate));
    let penalty = live.penalty.at(ctx.now);
    let held = held(predictor, live, node, ctx.now, candidate.in_flight, || load);
    let score = if held.is_some() { f64::INFINITY } else { score(&prediction, knobs) * (1.0 + penalty) };
    let full = load.in_flight >= model.slots || model.capacity.is_used_up(load.in_flight);
    let explorable = held.is_none() && penalty < EXPLORED_PENALTY_MAX && !full;
    let is_time = ask.how != How::Unknown;
    Assessment { prediction, is_time, penalty, score, held, explorable, level: model.level }
}

/// Marginal cost, by the objective.
#[inline]
pub(super) fn score(prediction: &Prediction, knobs: &Knobs) -> f64 {
    let echo = (prediction.marginal_s / prediction.total_s.max(SCORE_MIN_S)).min(knobs.echo);
    let whole = prediction.total_s + knobs.social * prediction.marginal_s / (1.0 - echo);
    let first = prediction.first_byte_s + knobs.social * prediction.marginal_first_byte_s;
    let mixed = (1.0 - knobs.first_byte) * whole + knobs.first_byte * first;
    // Predictions and knobs are finite and bounded, so this is too, even times the largest penalty.
    mixed.max(SCORE_MIN_S)
}
