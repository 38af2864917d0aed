//! What a live event tells: the fleet in a handful of figures, and each node in a dozen.
//!
//! Counters are told as they are, not as rates: whoever listens takes differences over the time that suits it, and an
//! event that is missed costs nothing. Numbers have four significant digits, which no display exceeds, so that an
//! event of two hundred nodes stays below a hundred kilobytes; see `columns` for a fifth of that.

use std::sync::Arc;

use serde::Serialize;
use utoipa::ToSchema;

use crate::admin::model::{self, Standing};
use crate::app::App;
use crate::clock::Time;
use crate::decisions::AgainstSum;
use crate::fleet::{Node, State};
use crate::learn::capacity::Capacity;
use crate::learn::silence::{Quiet, patience_s};
use crate::learn::{How, NodeLoad, Predictor};
use crate::node::IN_FLIGHT_MAX;
use crate::telemetry::{Foreseen, Report};
use crate::trainer::Status;

/// Nodes in an event; of a larger fleet the first in its order, so that an event has a bound.
pub(super) const NODES_SHOWN_MAX: usize = 1_000;

/// Milliseconds: sums grow, and their differences must not lose what four digits would.
fn sum(seconds: f64) -> f64 {
    (seconds * 1e3).round() / 1e3
}

/// Four significant digits. What is not finite stays so, and is null in JSON.
fn short(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let digits = 3 - value.abs().log10().floor() as i32;
    // Powers of ten are exact up to 22, and dividing by them rounds once.
    if digits >= 0 {
        let scale = 10f64.powi(digits);
        (value * scale).round() / scale
    } else {
        let scale = 10f64.powi(-digits);
        (value / scale).round() * scale
    }
}

fn known(value: f64) -> Option<f64> {
    Some(short(value)).filter(|value| value.is_finite())
}

/// The fleet.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct FleetFigures {
    /// Nodes in it.
    nodes: usize,
    /// Of those, the ones that get work or would if they had room.
    serving: usize,
    /// Requests answered since the start.
    pub(super) answers: u64,
    /// Of those, with a status of 500 or above, whoever gave it.
    pub(super) errors: u64,
    /// Attempts in flight.
    pub(super) in_flight: u64,
    /// Of those, without a first byte.
    waiting: u64,
    /// Requests that wait for a node.
    queued: usize,
    /// Client connections open.
    connections: usize,
    /// Attempts per second over the last half minute.
    pub(super) rps: f64,
    /// Requests per second that the nodes which get work can answer by what was learned; null while nothing was.
    capacity_rps: Option<f64>,
    /// Rate over capacity; null while that is unknown.
    pub(super) utilization: Option<f64>,
    /// Whether one of them was never busy enough to know its capacity, so that the true utilization is lower.
    utilization_is_upper_bound: bool,
    /// Median response time of the last minute in seconds; null without an answer.
    pub(super) p50_s: Option<f64>,
    /// 99th percentile.
    pub(super) p99_s: Option<f64>,
    /// Median time to the first byte.
    ttfb_p50_s: Option<f64>,
    /// 99th percentile.
    ttfb_p99_s: Option<f64>,
}

/// Who decides.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PolicyFigures {
    /// The policy, as the operator chose it.
    name: &'static str,
    /// Whether and why the model decides.
    standing: Standing,
}

/// The model.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ModelFigures {
    /// Version in force; 0 for none.
    version: u32,
    /// Seconds since it was published.
    age_s: Option<f64>,
    /// Samples learned from, since the start.
    labels: u64,
    /// Samples dropped because more came than the trainer takes.
    dropped: u64,
    /// Whether somebody learns.
    trainer_up: bool,
    /// How often that had to be replaced.
    trainer_restarts: u64,
    /// Decisions that explored.
    explorations: u64,
    /// Remembered decisions of the model, a sample of all.
    compared: u64,
    /// What they were expected to cost in all, in seconds: response times, and what they add to others'.
    compared_cost_s: f64,
    /// The same for the choices of least connections in their place.
    compared_plain_cost_s: f64,
}

/// A node.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct NodeFigures {
    /// Its name.
    name: String,
    /// `up`, `down`, `draining`, `full`, `ejected`, `trial`, and words that later versions add.
    state: &'static str,
    /// Its weight.
    weight: f64,
    /// Attempts in flight.
    in_flight: u32,
    /// Of those, without a first byte.
    waiting: u32,
    /// The limit that the operator set, if any.
    limit: Option<u32>,
    /// Whether its limit is found out from its response times.
    auto_limit: bool,
    /// The limit in force, which may be lower while it returns from an ejection; null for none.
    limit_now: Option<u32>,
    /// Its part of the attempts that ended of late.
    share: f64,
    /// Its part of the capacity of the nodes that get work; null while unknown, and for the others.
    fair_share: Option<f64>,
    /// Attempts completed, since it came.
    completed: u64,
    /// Attempts that failed.
    failed: u64,
    /// Times that it was ejected.
    ejections: u64,
    /// For how many more seconds it is ejected; null if it is not.
    ejected_for_s: Option<f64>,
    /// In how many seconds a draining node leaves the fleet at the latest; null if it stays.
    leaves_in_s: Option<f64>,
    /// Attempts that it had no room for.
    full: u64,
    /// Median response time of the last minute; null without an answer.
    p50_s: Option<f64>,
    /// 99th percentile.
    p99_s: Option<f64>,
    /// Expected response time of the typical request at its load now; null before anything was learned.
    expected_s: Option<f64>,
    /// Answers that the model was scored on, since it came.
    scored: u64,
    /// Sum of what the model said of them, in seconds, with the true output lengths put in.
    scored_predicted_s: f64,
    /// Sum of what they took.
    scored_observed_s: f64,
    /// Response times relative to the fleet's, load aside; below 1 is faster. Null before anything was learned.
    speed: Option<f64>,
    /// Requests per second that it can answer; null before anything was learned of it.
    capacity_rps: Option<f64>,
    /// Whether it was never busy enough to know more than that it can do at least that.
    capacity_is_lower_bound: bool,
    /// How many requests it works on at once, as learned; null while unknown.
    slots: Option<f64>,
    /// What failures of late multiply its score by, less one.
    penalty: f64,
    /// Whether it has work and gives no sign of life, or went silent and was not heard of since.
    silent: bool,
    /// How many the model gives it at once while it proves itself; null once it has, and while the model does not route.
    ramp: Option<u32>,
}

/// One event: everything as it is at one moment.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct LiveView {
    /// Seconds on the instance's own clock. One that is lower than before means that it was restarted.
    pub(super) now_s: f64,
    /// The fleet.
    pub(super) fleet: FleetFigures,
    /// Who decides.
    policy: PolicyFigures,
    /// The model.
    model: ModelFigures,
    /// Node by node, in the fleet's order, at most a thousand.
    nodes: Vec<NodeFigures>,
}

/// The fleet as it is at `now`.
pub(super) fn fleet(app: &App, now: Time) -> FleetFigures {
    let (fleet, status) = (app.balancer.fleet(), app.trainer.status());
    let nodes = fleet.nodes();
    let report = app.telemetry.fleet_report(nodes, now);
    let predictor = app.balancer.learned().predictor();
    let capacity =
        predictor.as_deref().map(|predictor| Capacity::in_service(predictor, nodes, now)).unwrap_or_default();
    let rps = status.pace.per_s(now);
    let serves = |node: &&Arc<Node>| node.live.health.state(now).is_serving();
    let quantile = |of: Option<crate::telemetry::Quantiles>, pick: fn(crate::telemetry::Quantiles) -> f64| {
        of.map(pick).and_then(known)
    };
    FleetFigures {
        nodes: nodes.len(),
        serving: nodes.iter().filter(serves).count(),
        answers: report.answers,
        errors: report.errors,
        in_flight: nodes.iter().map(|node| u64::from(node.live.ledger.in_flight())).sum(),
        waiting: nodes.iter().map(|node| u64::from(node.live.ledger.waiting())).sum(),
        queued: app.balancer.queued().0.iter().sum(),
        connections: app.connections.load(std::sync::atomic::Ordering::Relaxed),
        rps: short(rps),
        capacity_rps: known(capacity.rps).filter(|rps| *rps > 0.0),
        utilization: known(rps / capacity.rps),
        utilization_is_upper_bound: capacity.is_lower_bound,
        p50_s: quantile(report.total, |seen| seen.p50_s),
        p99_s: quantile(report.total, |seen| seen.p99_s),
        ttfb_p50_s: quantile(report.ttfb, |seen| seen.p50_s),
        ttfb_p99_s: quantile(report.ttfb, |seen| seen.p99_s),
    }
}

fn model(app: &App, predictor: Option<&Predictor>, status: &Status, now: Time) -> ModelFigures {
    let AgainstSum { decisions, chosen_s, plain_s } = app.decisions.against();
    ModelFigures {
        version: predictor.map_or(0, |predictor| predictor.version),
        age_s: predictor.and_then(|predictor| known(now.seconds_since(predictor.made))),
        labels: status.counts.labels,
        dropped: status.counts.dropped + app.trainer.samples_dropped(),
        trainer_up: app.trainer.is_up(),
        trainer_restarts: app.trainer.restarts(),
        explorations: app.balancer.tally().explorations(),
        compared: decisions,
        compared_cost_s: chosen_s,
        compared_plain_cost_s: plain_s,
    }
}

/// What all nodes of an event are seen by.
struct Look<'a> {
    app: &'a App,
    predictor: Option<&'a Predictor>,
    /// Capacity of the nodes that get work.
    fleet_rps: Option<f64>,
    /// Whether the model routes.
    routes: bool,
    now: Time,
}

fn node(node: &Node, look: &Look<'_>) -> NodeFigures {
    let Look { app, predictor, fleet_rps, routes, now } = *look;
    let Report { counts, ejections, total, .. } = app.telemetry.report(node, now);
    let Foreseen { count, predicted_s, observed_s } = app.telemetry.foreseen(node);
    let (ledger, live) = (&node.live.ledger, app.balancer.learned().node(node));
    let (state, in_flight, waiting) = (node.live.health.state(now), ledger.in_flight(), ledger.waiting());
    let load = NodeLoad::new(in_flight, waiting, ledger.waiting_prompt_tokens());
    let learned = predictor.map(|predictor| (predictor, predictor.node(node.slot, node.id)));
    let ask = predictor.map(Predictor::typical).filter(|ask| ask.how != How::Unknown);
    let factors = live.factors();
    let silent = learned.is_some_and(|(predictor, model)| {
        let patience_s = patience_s(model.sign_interval_s(&predictor.has, &factors, &load));
        Quiet { in_flight, waiting, quiet_s: now.seconds_since(ledger.last_sign()), patience_s }.is_silent()
    });
    let capacity = learned.map(|(_, model)| model.capacity).filter(|capacity| capacity.rps > 0.0);
    let governing = ask.and_then(|ask| ask.how.target());
    NodeFigures {
        name: node.spec.name.clone(),
        state: state.word(),
        weight: node.spec.weight,
        in_flight,
        waiting,
        limit: node.spec.max_in_flight,
        auto_limit: node.spec.auto_limit,
        limit_now: Some(node.limit()).filter(|limit| *limit < IN_FLIGHT_MAX),
        share: short(app.trainer.status().pace.share(node.slot, node.id)),
        fair_share: capacity
            .filter(|_| state.bears_load())
            .zip(fleet_rps)
            .and_then(|(capacity, all)| known(capacity.rps / all)),
        completed: counts.completed,
        failed: counts.failed,
        ejections,
        leaves_in_s: node.live.health.leaves_by().map(|by| short(by.seconds_since(now))),
        ejected_for_s: (state == State::Ejected).then(|| short(node.live.health.record().until().seconds_since(now))),
        full: counts.full,
        p50_s: total.and_then(|seen| known(seen.p50_s)),
        p99_s: total.and_then(|seen| known(seen.p99_s)),
        expected_s: learned.zip(ask).and_then(|((_, model), ask)| known(model.predict(&factors, &load, &ask).total_s)),
        scored: count,
        scored_predicted_s: sum(predicted_s),
        scored_observed_s: sum(observed_s),
        speed: learned.zip(governing).and_then(|((_, model), target)| known(model.speed[target.index()])),
        capacity_rps: capacity.and_then(|capacity| known(capacity.rps)),
        capacity_is_lower_bound: capacity.is_none_or(|capacity| capacity.is_lower_bound),
        slots: learned.and_then(|(_, model)| known(model.slots)),
        penalty: short(live.penalty.at(now)),
        silent: silent || live.watch.is_suspect(),
        ramp: Some(live.ramp_limit()).filter(|limit| routes && *limit != u32::MAX),
    }
}

/// Everything as it is at `now`.
pub(super) fn live(app: &App, now: Time) -> LiveView {
    let predictor = app.balancer.learned().predictor();
    let predictor = predictor.as_deref();
    let figures = fleet(app, now);
    let nodes = app.balancer.fleet();
    let nodes = nodes.nodes().iter().take(NODES_SHOWN_MAX);
    let standing = model::standing(app, now);
    let look = Look { app, predictor, fleet_rps: figures.capacity_rps, routes: standing.routes, now };
    LiveView {
        now_s: now.as_secs_f64(),
        policy: PolicyFigures { name: app.balancer.policy().name(), standing },
        model: model(app, predictor, &app.trainer.status(), now),
        nodes: nodes.map(|one| node(one, &look)).collect(),
        fleet: figures,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_four_digits() {
        let shown = [0.0, 0.000123456, 1.0, 12.34567, 123_456.0, -0.98765, 1e-12].map(short);
        assert_eq!(shown, [0.0, 0.0001235, 1.0, 12.35, 123_500.0, -0.9877, 1e-12]);
        assert_eq!(serde_json::to_string(&short(583.27e-3)).expect("a number"), "0.5833");
        assert!(short(f64::NAN).is_nan() && known(f64::INFINITY).is_none());
    }
}
