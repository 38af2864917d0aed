//! Why a request went where it went: recent decisions, and decisions that are only thought of.
//!
//! Both show the same of a candidate: what the model predicts there, what the request would cost the others, the
//! score, the probability and why it has that. For classic policies too, which look at none of it: then it says what
//! the model would have thought.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use axum::Json;
use axum::extract::State;
use axum::http::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::problem::{Body, Problem, Query};
use crate::app::App;
use crate::clock::Time;
use crate::decisions::{Contender, DECISIONS_MAX, Remembered, contenders, likelier};
use crate::outcome::{Outcome, Sample};
use crate::policy::{Context, PolicyId};
use crate::proxy::{address_hash, route_of};
use crate::request::{Prefix, RequestShape};

/// Decisions that are shown unless a number is asked for.
const SHOWN: usize = 50;

/// The path that a described request is for unless it says so.
const PATH: &str = "/v1/chat/completions";

/// Who asks, in a described request that does not say so.
const CLIENT: &str = "127.0.0.1";

/// A node that could get the request.
#[derive(Debug, Serialize, ToSchema)]
struct CandidateView {
    /// Its name.
    node: String,
    /// The probability of its choice.
    probability: f64,
    /// `only-one`, `least-score`, `tie`, `explored`, `fallback`, `policy-sure`, `policy-tie`, `policy-draw` or `passed`.
    why: &'static str,
    /// In flight there, without the request.
    in_flight: u32,
    /// Expected response time in seconds; null without a model, as all that follows.
    predicted_s: Option<f64>,
    /// Of it, until the first byte.
    first_byte_s: Option<f64>,
    /// Between events; 0 where not streamed.
    gap_s: Option<f64>,
    /// What the request adds to the response times of those in flight there, together.
    adds_s: Option<f64>,
    /// What failures of late multiply the score by, less one.
    penalty: Option<f64>,
    /// What the learned policy makes least; null for a node that it leaves out.
    score: Option<f64>,
    /// Why it leaves the node out: `silent` or `ramping`.
    held: Option<&'static str>,
}

impl CandidateView {
    fn of(contender: &Contender) -> CandidateView {
        let seen = contender.assessment;
        let prediction = seen.map(|seen| seen.prediction);
        CandidateView {
            node: contender.node.name.clone(),
            probability: contender.probability,
            why: contender.why.word(),
            in_flight: contender.in_flight,
            predicted_s: prediction.map(|prediction| prediction.total_s),
            first_byte_s: prediction.map(|prediction| prediction.first_byte_s),
            gap_s: prediction.map(|prediction| prediction.gap_s),
            adds_s: prediction.map(|prediction| prediction.marginal_s),
            penalty: seen.map(|seen| seen.penalty),
            score: seen.map(|seen| seen.score).filter(|score| score.is_finite()),
            held: seen.and_then(|seen| seen.held).map(|held| held.word()),
        }
    }
}

/// What came of a decision.
#[derive(Debug, Serialize, ToSchema)]
struct EndView {
    /// `completed`, `full`, `failed` or `censored`.
    outcome: &'static str,
    /// The status, where there was a response.
    status: Option<u16>,
    /// What the node did wrong, where it failed.
    failure: Option<&'static str>,
    /// First byte after the decision, in seconds.
    ttfb_s: Option<f64>,
    /// End after the decision, in seconds.
    total_s: f64,
    /// Mean number in flight over its life, itself included.
    mean_in_flight: f64,
    /// Streamed events.
    events: u32,
    /// Output tokens, where the response told them.
    output_tokens: Option<u32>,
}

impl EndView {
    fn of(sample: &Sample) -> EndView {
        let (status, failure) = match sample.outcome {
            Outcome::Completed { status } | Outcome::Full { status, .. } => (Some(status), None),
            Outcome::Failed(failure @ crate::outcome::Failure::Status(status)) => (Some(status), Some(failure.word())),
            Outcome::Failed(failure) => (None, Some(failure.word())),
            Outcome::Censored(_) => (None, None),
        };
        EndView {
            outcome: sample.outcome.word(),
            status,
            failure,
            ttfb_s: sample.ttfb.map(|ttfb| ttfb.as_secs_f64()),
            total_s: sample.total.as_secs_f64(),
            mean_in_flight: sample.mean_in_flight,
            events: sample.events,
            output_tokens: sample.output_tokens,
        }
    }
}

/// A decision that was made.
#[derive(Debug, Serialize, ToSchema)]
struct DecisionView {
    /// Grows by one with each that is remembered.
    number: u64,
    /// When (RFC 3339).
    #[schema(example = "2026-11-22T20:06:45.123Z")]
    time: String,
    /// How long ago, in seconds.
    age_s: f64,
    /// Route and model of the request.
    kind: String,
    /// Whether a stream was asked for.
    streaming: bool,
    /// Prompt tokens.
    prompt_tokens: u32,
    /// The client's limit on output tokens.
    max_tokens: Option<u32>,
    /// Who decided.
    policy: &'static str,
    /// Version of the model then; 0 for none.
    model_version: u32,
    /// Where it went.
    node: String,
    /// The probability of that.
    propensity: f64,
    /// Why, as in the candidates.
    why: &'static str,
    /// The same in words.
    because: &'static str,
    /// Which node the model thinks best, whoever decided; null without one.
    model_prefers: Option<String>,
    /// What it was expected to cost, in seconds: its response time and what it adds to others'; null unless the model decided.
    cost_s: Option<f64>,
    /// The same for the choice of least connections on the same view.
    plain_cost_s: Option<f64>,
    /// How many candidates there were.
    candidates_total: usize,
    /// The likeliest of them.
    candidates: Vec<CandidateView>,
    /// What came of it; null while it runs.
    end: Option<EndView>,
}

/// Recent decisions, the newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DecisionList {
    /// A sample: at most a hundred a second, and all that explored.
    decisions: Vec<DecisionView>,
}

/// How many decisions.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Limit {
    /// From 1 to 1000; 50 unless given.
    limit: Option<usize>,
}

fn decision_view(app: &App, now: Time, wall: SystemTime, one: &Remembered) -> DecisionView {
    let age = now.since(one.at);
    let chosen = &one.contenders[one.chosen];
    DecisionView {
        number: one.number,
        time: humantime::format_rfc3339_millis(wall.checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH)).to_string(),
        age_s: age.as_secs_f64(),
        kind: app.kinds.name(one.kind),
        streaming: one.streaming,
        prompt_tokens: one.prompt_tokens,
        max_tokens: one.output_tokens_max,
        policy: one.policy.name(),
        model_version: one.version,
        node: chosen.node.name.clone(),
        propensity: chosen.probability,
        why: chosen.why.word(),
        because: chosen.why.sentence(),
        model_prefers: one.preferred.as_ref().map(|node| node.name.clone()),
        cost_s: one.against.map(|against| against.chosen_s),
        plain_cost_s: one.against.map(|against| against.plain_s),
        candidates_total: one.candidates,
        candidates: one.contenders.iter().map(CandidateView::of).collect(),
        end: one.ended.get().map(EndView::of),
    }
}

/// Recent decisions, what they were made from, and what came of them.
#[utoipa::path(get, path = "/api/v1/decisions", tag = "model", params(Limit), responses(
    (status = 200, description = "Decisions, the newest first", body = DecisionList),
    (status = 422, description = "Not a number of decisions", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn list(
    State(app): State<Arc<App>>,
    Query(Limit { limit }): Query<Limit>,
) -> Result<Json<DecisionList>, Problem> {
    let limit = limit.unwrap_or(SHOWN);
    if !(1..=DECISIONS_MAX).contains(&limit) {
        let detail = format!("limit: {limit} is out of range; allowed: 1 to {DECISIONS_MAX}");
        return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail));
    }
    let (now, wall) = (app.clock.now(), SystemTime::now());
    let latest = app.decisions.latest(limit);
    Ok(Json(DecisionList { decisions: latest.iter().map(|one| decision_view(&app, now, wall, one)).collect() }))
}

/// A request as it might come.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Described {
    /// The model that it names.
    model: Option<String>,
    /// Whether it asks for a stream.
    #[serde(default)]
    streaming: bool,
    /// Prompt tokens.
    #[serde(default)]
    prompt_tokens: u32,
    /// Its limit on output tokens.
    max_tokens: Option<u32>,
    /// The path that it is a POST to; `/v1/chat/completions` unless given. Route and model make its kind.
    path: Option<String>,
    /// The client's address, which affinity policies look at; 127.0.0.1 unless given.
    #[schema(value_type = Option<String>, example = "10.0.0.7")]
    client: Option<IpAddr>,
    /// Who would decide; the policy in force unless given. Another one starts without a memory of its own.
    policy: Option<String>,
}

/// A node that cannot get the request.
#[derive(Debug, Serialize, ToSchema)]
struct LeftOutView {
    /// Its name.
    node: String,
    /// `down`, `draining`, `full`, `at-limit` or `other-models`.
    why: &'static str,
}

/// Why there is no node for the request.
#[derive(Debug, Serialize, ToSchema)]
struct RefusedView {
    /// `no_nodes`, `unknown_model`, `no_healthy_node` or `all_full`.
    reason: &'static str,
    /// When to come back, in seconds, where that can help.
    retry_after_s: Option<f64>,
}

/// What would be decided.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Explanation {
    /// Who would decide.
    policy: &'static str,
    /// Whether that policy is in force.
    in_force: bool,
    /// Route and model of the request; `other` for what has never been seen.
    kind: String,
    /// Version of the model; 0 for none.
    model_version: u32,
    /// Where the request would go, or most likely; null if nowhere.
    node: Option<String>,
    /// The probability of that.
    probability: Option<f64>,
    /// Why, in words.
    because: Option<&'static str>,
    /// Which node the model thinks best, whoever decides; null without one.
    model_prefers: Option<String>,
    /// The candidates, the likeliest first.
    candidates: Vec<CandidateView>,
    /// The other nodes.
    left_out: Vec<LeftOutView>,
    /// Why there is no candidate.
    refused: Option<RefusedView>,
}

/// What would be decided for a described request, and why. Sends nothing and changes nothing.
#[utoipa::path(post, path = "/api/v1/explain", tag = "model", request_body = Described, responses(
    (status = 200, description = "What would be decided", body = Explanation),
    (status = 422, description = "No such policy", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn explain(
    State(app): State<Arc<App>>,
    Body(request): Body<Described>,
) -> Result<Json<Explanation>, Problem> {
    let policy = request.policy.as_deref().map(named).transpose()?;
    let shape = shape(&app, request);
    let now = app.clock.now();
    let dry = app.balancer.dry_run(now, &shape, policy);
    let context = Context { now, shape: &shape, fleet: &dry.fleet, candidates: &dry.candidates };
    let learned = app.balancer.learned();
    let (mut all, best) = contenders(&context, dry.policy, learned, &dry.probabilities, None);
    let preferred = best.map(|best| all[best].node.name.clone());
    all.sort_by(likelier);
    let likeliest = all.first();
    Ok(Json(Explanation {
        policy: dry.policy.name(),
        in_force: dry.in_force,
        kind: app.kinds.name(shape.kind),
        model_version: learned.predictor().map_or(0, |predictor| predictor.version),
        node: likeliest.map(|contender| contender.node.name.clone()),
        probability: likeliest.map(|contender| contender.probability),
        because: likeliest.map(|contender| contender.why.sentence()),
        model_prefers: preferred,
        candidates: all.iter().map(CandidateView::of).collect(),
        left_out: dry
            .left_out
            .iter()
            .map(|(node, why)| LeftOutView { node: node.spec.name.clone(), why: why.word() })
            .collect(),
        refused: dry.rejection.map(|rejection| RefusedView {
            reason: rejection.reason.word(),
            retry_after_s: rejection.retry_after.map(|after| after.as_secs_f64()),
        }),
    }))
}

fn named(name: &str) -> Result<PolicyId, Problem> {
    PolicyId::named(name).ok_or_else(|| super::settings::unknown_policy(name))
}

/// The shape that the proxy would make of the request; kinds that were never seen are not made.
fn shape(app: &App, request: Described) -> RequestShape {
    let Described { model, streaming, prompt_tokens, max_tokens, path, client, .. } = request;
    let settings = app.settings.load();
    let (_, route) = route_of(&settings, &Method::POST, path.as_deref().unwrap_or(PATH), model.as_deref());
    RequestShape {
        kind: app.kinds.find(route, model.as_deref()),
        model: model.map(Arc::from),
        streaming,
        prompt_tokens,
        output_tokens_max: max_tokens,
        body_bytes: None,
        client_hash: client.or_else(|| CLIENT.parse().ok()).map_or(0, address_hash),
        prefix: Prefix::default(),
    }
}
