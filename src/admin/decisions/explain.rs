//! Decisions that are only thought of: where a described request would go, and why.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::Method;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::CandidateView;
use crate::admin::problem::{Body, Problem};
use crate::admin::settings;
use crate::app::App;
use crate::decisions::{contenders, likelier};
use crate::policy::{Context, PolicyId};
use crate::proxy::inspect::{Api, look};
use crate::proxy::{address_hash, prefix_of, route_of};
use crate::request::{Prefix, RequestShape};

/// The path that a described request is for unless it says so.
const PATH: &str = "/v1/chat/completions";

/// Who asks, in a described request that does not say so.
const CLIENT: &str = "127.0.0.1";

/// A request as it might come.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::admin) struct Described {
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
    /// Its body as it would be sent, in place of the above: then it is also known what nodes were sent of its prompt.
    body: Option<String>,
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
    /// `down`, `draining`, `full`, `ejected`, `trial`, `at-limit`, `other-models`, or `silent`: it has work and was not heard of
    /// for longer than it ever takes.
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
pub(in crate::admin) struct Explanation {
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
pub(in crate::admin) async fn explain(
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
        candidates: all.iter().map(|one| CandidateView::of(one, shape.prompt_tokens)).collect(),
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
    PolicyId::named(name).ok_or_else(|| settings::unknown_policy(name))
}

/// The shape that the proxy would make of the request; kinds that were never seen are not made.
fn shape(app: &App, request: Described) -> RequestShape {
    let Described { model, streaming, prompt_tokens, max_tokens, body, path, client, .. } = request;
    let settings = app.settings.load();
    let path = path.as_deref().unwrap_or(PATH);
    let found = body.as_deref().map(|body| look(body.as_bytes(), true, Api::of_path(path)));
    let model = found.as_ref().and_then(|found| found.model.as_deref().map(str::to_owned)).or(model);
    let (_, route) = route_of(&settings, &Method::POST, path, model.as_deref());
    let kind = app.kinds.find(route, model.as_deref());
    let described = RequestShape {
        kind,
        model: model.as_deref().map(Arc::from),
        streaming,
        prompt_tokens,
        output_tokens_max: max_tokens,
        body_bytes: None,
        client_hash: client.or_else(|| CLIENT.parse().ok()).map_or(0, address_hash),
        session_hash: None,
        prefix: Prefix::default(),
    };
    let Some((body, found)) = body.as_ref().zip(found) else { return described };
    RequestShape {
        streaming: found.streaming,
        prompt_tokens: found.prompt_token_ids + app.bytes_per_token.estimate(kind, found.prompt_bytes),
        output_tokens_max: found.output_tokens_max,
        body_bytes: Some(body.len() as u64),
        prefix: prefix_of(app, &settings, body.as_bytes(), &found, model.as_deref(), kind),
        ..described
    }
}
