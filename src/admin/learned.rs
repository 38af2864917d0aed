//! What was learned of one node, as people and programs read it.

use serde::Serialize;
use utoipa::ToSchema;

use super::plain;
use crate::clock::Time;
use crate::fleet::Node;
use crate::learn::predictor::Factors;
use crate::learn::silence::{Quiet, patience_s};
use crate::learn::{How, Learned, NodeLoad, NodeModel, Predictor, Target};

/// A learned number.
#[derive(Debug, Serialize, ToSchema)]
struct Coefficient {
    /// What it multiplies.
    #[schema(example = "in flight")]
    name: &'static str,
    /// Its unit.
    #[schema(example = "s")]
    unit: &'static str,
    /// As fitted. Never negative.
    value: f64,
    /// The same in plain words, the drift included.
    #[schema(example = "each request in flight adds 14.0 ms to each gap")]
    words: String,
}

/// What was learned of one target: a part of the response time.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TargetView {
    /// `total`, `total_tokens`, `first_byte` or `gap`.
    target: &'static str,
    /// Speed against the fleet: below 1 is faster.
    speed_factor: f64,
    /// Correction of the last seconds, by which predictions are multiplied; 1 is none.
    drift_factor: f64,
    /// Sum of the weights of its samples: how much is known.
    evidence: f64,
    /// The coefficients.
    coefficients: Vec<Coefficient>,
}

/// What a node can do with the request that is typical now.
#[derive(Debug, Serialize, ToSchema)]
struct CapacityView {
    /// Requests per second.
    rps: f64,
    /// In flight where that is reached.
    in_flight: f64,
    /// Whether the node was never more than half used, so that it can do more.
    is_lower_bound: bool,
}

/// What was learned of a node.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct NodeModelView {
    /// Its name.
    name: String,
    /// Whether anything was learned of the node itself; if not, the fleet's curve stands in.
    known: bool,
    /// Expected response time of the request that is typical now, in seconds; null while no times of such are known.
    predicted_s: Option<f64>,
    /// What failures of late multiply its score by, less one.
    penalty: f64,
    /// Learned number of requests that it works on at once; null while unknown.
    slot_limit: Option<f64>,
    /// Null before anything was learned of it.
    capacity: Option<CapacityView>,
    /// How many the model gives it at once while it proves itself; null once it has, and while the model does not route.
    ramp_limit: Option<u32>,
    /// `no`; `yes`: it has work and gives no sign of life; `suspected`: it went silent and was not heard of since.
    silent: &'static str,
    /// By target, those with evidence.
    targets: Vec<TargetView>,
}

/// The targets of which the fleet has evidence.
pub(super) fn targets(predictor: &Predictor, model: &NodeModel, factors: &Factors) -> Vec<TargetView> {
    let known = Target::ALL.into_iter().filter(|target| predictor.has[target.index()]);
    let view = |target: Target| {
        let at = target.index();
        let drift_factor = factors[at];
        let columns = target.columns().iter().zip(model.beta[at]).enumerate();
        let coefficients = columns.map(|(index, (column, value))| Coefficient {
            name: column.name,
            unit: column.unit,
            value,
            words: plain::coefficient(target, index, value * drift_factor),
        });
        TargetView {
            target: target.word(),
            speed_factor: model.speed[at],
            drift_factor,
            evidence: model.evidence[at],
            coefficients: coefficients.collect(),
        }
    };
    known.map(view).collect()
}

/// What was learned of `node`; `routes` says whether the model decides.
pub(super) fn node(learned: &Learned, predictor: &Predictor, node: &Node, routes: bool, now: Time) -> NodeModelView {
    let (model, live) = (predictor.node(node.slot, node.id), learned.node(node));
    let (ledger, factors) = (&node.live.ledger, live.factors());
    let (in_flight, waiting) = (ledger.in_flight(), ledger.waiting());
    let load = NodeLoad::new(in_flight, waiting, ledger.waiting_prompt_tokens());
    let patience_s = patience_s(model.sign_interval_s(&predictor.has, &factors, &load));
    let quiet = Quiet { in_flight, waiting, quiet_s: now.seconds_since(ledger.last_sign()), patience_s };
    let ask = Some(predictor.typical()).filter(|ask| ask.how != How::Unknown);
    let capacity = Some(model.capacity).filter(|capacity| capacity.rps > 0.0);
    NodeModelView {
        name: node.spec.name.clone(),
        known: model.is_known(),
        predicted_s: ask.map(|ask| model.predict(&factors, &load, &ask).total_s),
        penalty: live.penalty.at(now),
        slot_limit: Some(model.slots).filter(|slots| slots.is_finite()),
        capacity: capacity.map(|capacity| CapacityView {
            rps: capacity.rps,
            in_flight: capacity.in_flight,
            is_lower_bound: capacity.is_lower_bound,
        }),
        ramp_limit: Some(live.ramp_limit()).filter(|limit| routes && *limit != u32::MAX),
        silent: match () {
            () if quiet.is_silent() => "yes",
            () if live.watch.is_suspect() => "suspected",
            () => "no",
        },
        targets: targets(predictor, model, &factors),
    }
}
