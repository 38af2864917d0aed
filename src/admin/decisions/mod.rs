//! Why a request went where it went: recent decisions, and decisions that are only thought of.
//!
//! Both show the same of a candidate: what the model predicts there, what the request would cost the others, the
//! score, the probability and why it has that. For classic policies too, which look at none of it: then it says what
//! the model would have thought.

pub(super) mod explain;
mod filter;
pub(super) mod stream;

use std::sync::Arc;
use std::time::SystemTime;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::problem::{Problem, Query};
use crate::app::App;
use crate::clock::Time;
use crate::decisions::{Contender, DECISIONS_MAX, Remembered};
use crate::outcome::{Censor, Outcome, Sample, uncached};

/// Decisions that are shown unless a number is asked for.
const SHOWN: usize = 50;

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
    /// Tokens at the beginning of the prompt that the node was sent before.
    matched_tokens: f64,
    /// Tokens of those that are expected to be in its cache, by as much as that spares it.
    cached_tokens: f64,
    /// Prompt tokens that are left for it to read.
    uncached_tokens: f64,
    /// Expected response time in seconds; null without a model, as all that follows, and where the model knows no times of
    /// such requests yet.
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
    fn of(contender: &Contender, prompt_tokens: u32) -> CandidateView {
        let seen = contender.assessment;
        let prediction = seen.and_then(|seen| seen.expected().copied());
        CandidateView {
            node: contender.node.name.clone(),
            probability: contender.probability,
            why: contender.why.word(),
            in_flight: contender.in_flight,
            matched_tokens: f64::from(contender.matched),
            cached_tokens: f64::from(contender.cached),
            uncached_tokens: uncached(prompt_tokens, contender.cached),
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
    /// Whether another attempt of the same request was first.
    hedged: bool,
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
    /// Prompt tokens that came from the node's cache, where the response told them.
    cached_tokens: Option<u32>,
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
            hedged: sample.outcome == Outcome::Censored(Censor::Hedged),
            ttfb_s: sample.ttfb.map(|ttfb| ttfb.as_secs_f64()),
            total_s: sample.total.as_secs_f64(),
            mean_in_flight: sample.mean_in_flight,
            events: sample.events,
            output_tokens: sample.output_tokens,
            cached_tokens: sample.usage_cached_tokens,
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
    /// Whether it was for a second attempt beside a late one.
    hedge: bool,
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
    /// A sample: at most fifty a second, and all that explored.
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
        hedge: one.hedge,
        model_version: one.version,
        node: chosen.node.name.clone(),
        propensity: chosen.probability,
        why: chosen.why.word(),
        because: chosen.why.sentence(),
        model_prefers: one.preferred.as_ref().map(|node| node.name.clone()),
        cost_s: one.against.map(|against| against.chosen_s),
        plain_cost_s: one.against.map(|against| against.plain_s),
        candidates_total: one.candidates,
        candidates: one.contenders.iter().map(|each| CandidateView::of(each, one.prompt_tokens)).collect(),
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
