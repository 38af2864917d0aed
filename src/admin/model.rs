//! The learned model: what was learned, whether it routes and why not, its knobs, forgetting and saving it.
//!
//! It shows what the last fit published and what has moved since; the learner itself has one owner and is not asked.
//! Knobs that are turned here are in force until the next restart, or until a reload brings other ones.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, State};
use axum::http::StatusCode;
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::guard::Caller;
use super::learned::{self, NodeModelView, TargetView};
use super::problem::{Body, Problem};
use crate::app::App;
use crate::balancer::Stance;
use crate::clock::Time;
use crate::config::{self, Adaptive};
use crate::learn::{FitResult, How, Knobs, Predictor, Target, Unfit};
use crate::trainer::OrderError;

/// Whether the model routes.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Standing {
    /// Whether the model decides where requests go.
    pub(super) routes: bool,
    /// `routes`, `other-policy`, `shadow`, or why the fallback routes: `missing`, `stale`, `too_few_samples`,
    /// `worse_than_baseline`, `wanted`.
    pub(super) state: &'static str,
    /// The same in words.
    detail: String,
    /// Who decides now: the policy, or the fallback in its place.
    pub(super) router: &'static str,
    /// Mean |ln(predicted / observed)| of the model over the last minute; null before it was compared.
    model_error: Option<f64>,
    /// The same of a simple moving average.
    baseline_error: Option<f64>,
    /// How long the model has stood demoted, in seconds; null while it does not.
    demoted_for_s: Option<f64>,
}

/// What became of samples.
#[derive(Debug, Serialize, ToSchema)]
struct SamplesView {
    /// Those that were learned from.
    labels: u64,
    /// Those that say nothing of response times, by reason.
    unfit: BTreeMap<&'static str, u64>,
    /// Observations that were cut to a believable size.
    clipped: u64,
    /// Dropped because more came than the trainer takes.
    dropped: u64,
}

/// Who learns.
#[derive(Debug, Serialize, ToSchema)]
struct TrainerView {
    /// Whether it works.
    up: bool,
    /// How often it had to be restarted.
    restarts: u64,
    /// Seconds since the last fit; null before the first.
    fitted_ago_s: Option<f64>,
    /// Fits since the start, by target and result.
    fits: BTreeMap<&'static str, BTreeMap<&'static str, u64>>,
    /// How often everything was learned anew because the model stood demoted for too long.
    relearned: u64,
}

/// The knobs, as in `[adaptive]` of the configuration file.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct KnobsView {
    /// `total`, `first-byte`, or the weight of the first byte between them.
    #[schema(value_type = String, example = "total")]
    objective: Value,
    /// Weight of what a request costs the others, 0 to 10.
    social: f64,
    /// Share of decisions that explore, 0 to 0.5.
    explore: f64,
    /// Whether the model only says what it would do.
    shadow: bool,
    /// Who routes while there is no model to trust. Changed by configuration only.
    fallback: &'static str,
}

/// Knobs to turn; absent ones stay.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only its schema is used: the configuration checks the document itself")]
pub(super) struct KnobsPatch {
    /// `total`, `first-byte`, or a number from 0 to 1 between them.
    objective: Option<String>,
    /// 0 to 10; 0 is greedy.
    social: Option<f64>,
    /// 0 to 0.5.
    explore: Option<f64>,
    /// Whether the model only says what it would do.
    shadow: Option<bool>,
}

/// The request that is typical now.
#[derive(Debug, Serialize, ToSchema)]
struct TypicalView {
    /// Which targets answer for it: `streamed`, `tokens`, `plain` or `unknown`.
    how: &'static str,
    /// Prompt tokens.
    prompt_tokens: f64,
    /// Expected output: events if streamed, else tokens.
    output: f64,
}

/// What is expected of a kind of request.
#[derive(Debug, Serialize, ToSchema)]
struct KindView {
    /// Route and model.
    kind: String,
    /// Mean prompt tokens.
    prompt_tokens: f64,
    /// Expected events of a streamed answer.
    events: f64,
    /// Expected output tokens of an answer that is not streamed.
    tokens: f64,
}

/// Decisions of other policies against what the model would have done, since the start.
#[derive(Debug, Serialize, ToSchema)]
struct ComparedView {
    /// Alike.
    agreed: u64,
    /// Not alike.
    differed: u64,
    /// Mean expected response time where the requests went, in seconds; null before any was compared.
    chosen_mean_s: Option<f64>,
    /// Mean expected response time where the model would have sent them.
    own_mean_s: Option<f64>,
}

/// What was learned.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ModelView {
    /// Grows with every fit that is published; 0 before the first.
    version: u32,
    /// Seconds since it was published; null before the first.
    age_s: Option<f64>,
    /// Whether it routes.
    standing: Standing,
    /// Its knobs.
    knobs: KnobsView,
    /// What it was learned from.
    samples: SamplesView,
    /// Who learns.
    trainer: TrainerView,
    /// Decisions that explored, since the start.
    explorations: u64,
    /// Other policies against it.
    compared: ComparedView,
    /// The request that is typical now; null before the first fit.
    typical: Option<TypicalView>,
    /// The curve that nodes are shrunk to, by target.
    fleet: Vec<TargetView>,
    /// Node by node; empty before the first fit.
    nodes: Vec<NodeModelView>,
    /// Expected answers, kind by kind.
    kinds: Vec<KindView>,
}

/// Whether the model routes.
pub(super) fn standing(app: &App, now: Time) -> Standing {
    let (balancer, status) = (&app.balancer, app.trainer.status());
    let (policy, router, stance) = (balancer.policy(), balancer.routing(), balancer.stance());
    let fallback = balancer.learned().fallback(now);
    let instead = stance.fallback.name();
    let (state, detail, router) = match fallback {
        _ if !policy.is_learned() => {
            ("other-policy", format!("{} routes; the model only learns", policy.name()), router)
        }
        _ if !router.is_learned() => {
            ("shadow", format!("{instead} routes; the model only says what it would have done"), router)
        }
        Some(why) => (why.word(), format!("{instead} routes: {}", why.reason()), stance.fallback),
        None => ("routes", "the model routes".to_owned(), router),
    };
    Standing {
        routes: state == "routes",
        state,
        detail,
        router: router.name(),
        model_error: status.model_error,
        baseline_error: status.baseline_error,
        demoted_for_s: status.demoted_for_s,
    }
}

fn knobs_view(app: &App) -> KnobsView {
    let (Knobs { first_byte, social, explore, .. }, stance) = (app.balancer.learned().knobs(), app.balancer.stance());
    let objective = match first_byte {
        0.0 => json!("total"),
        1.0 => json!("first-byte"),
        weight => json!(weight),
    };
    KnobsView { objective, social, explore, shadow: stance.shadow, fallback: stance.fallback.name() }
}

fn samples_view(app: &App) -> SamplesView {
    let counts = app.trainer.status().counts;
    SamplesView {
        labels: counts.labels,
        unfit: Unfit::ALL.iter().map(|why| why.word()).zip(counts.unfit).collect(),
        clipped: counts.clipped,
        dropped: counts.dropped + app.trainer.samples_dropped(),
    }
}

fn trainer_view(app: &App, now: Time) -> TrainerView {
    let status = app.trainer.status();
    let of_target = |counts: &[u64; FitResult::ALL.len()]| {
        FitResult::ALL.iter().map(|result| result.word()).zip(counts.iter().copied()).collect()
    };
    TrainerView {
        up: app.trainer.is_up(),
        restarts: app.trainer.restarts(),
        fitted_ago_s: status.last.map(|_| now.seconds_since(status.at)),
        fits: Target::ALL.iter().map(|target| target.word()).zip(status.counts.fits.iter().map(of_target)).collect(),
        relearned: status.counts.relearned,
    }
}

fn compared_view(app: &App) -> ComparedView {
    let compared = app.balancer.tally().comparisons();
    let count = compared.agreed + compared.differed;
    let mean = |sum: f64| (count > 0).then(|| sum / count as f64);
    ComparedView {
        agreed: compared.agreed,
        differed: compared.differed,
        chosen_mean_s: mean(compared.chosen.response_s),
        own_mean_s: mean(compared.own.response_s),
    }
}

fn typical_view(predictor: &Predictor) -> TypicalView {
    let ask = predictor.typical();
    let how = match ask.how {
        How::Streamed => "streamed",
        How::Tokens => "tokens",
        How::Plain => "plain",
        How::Unknown => "unknown",
    };
    TypicalView { how, prompt_tokens: predictor.expectations.overall().prompt_tokens(), output: ask.output }
}

fn kinds_view(app: &App, predictor: &Predictor) -> Vec<KindView> {
    let kinds = predictor.expectations.kinds();
    let view = kinds.map(|(kind, expect)| KindView {
        kind: app.kinds.name(kind),
        prompt_tokens: expect.prompt_tokens(),
        events: expect.events(None),
        tokens: expect.tokens(None),
    });
    view.collect()
}

fn fleet_view(predictor: &Predictor) -> Vec<TargetView> {
    let mut fleet = predictor.fleet;
    for (target, evidence) in fleet.evidence.iter_mut().enumerate() {
        *evidence = predictor.nodes.iter().flatten().map(|node| node.evidence[target]).sum();
    }
    learned::targets(predictor, &fleet, &[1.0; Target::ALL.len()])
}

fn view(app: &App) -> ModelView {
    let (now, learned) = (app.clock.now(), app.balancer.learned());
    let predictor = learned.predictor();
    let predictor = predictor.as_deref();
    let standing = standing(app, now);
    let nodes = predictor.map(|predictor| {
        let fleet = app.balancer.fleet();
        let view = |node| learned::node(learned, predictor, node, standing.routes, now);
        fleet.nodes().iter().map(|node| view(node)).collect()
    });
    ModelView {
        version: predictor.map_or(0, |predictor| predictor.version),
        age_s: predictor.map(|predictor| now.seconds_since(predictor.made)),
        standing,
        knobs: knobs_view(app),
        samples: samples_view(app),
        trainer: trainer_view(app, now),
        explorations: app.balancer.tally().explorations(),
        compared: compared_view(app),
        typical: predictor.map(typical_view),
        fleet: predictor.map_or_else(Vec::new, fleet_view),
        nodes: nodes.unwrap_or_default(),
        kinds: predictor.map_or_else(Vec::new, |predictor| kinds_view(app, predictor)),
    }
}

/// What was learned, and whether it routes.
#[utoipa::path(get, path = "/api/v1/model", tag = "model", responses(
    (status = 200, description = "The model", body = ModelView)))]
pub(super) async fn show(State(app): State<Arc<App>>) -> Json<ModelView> {
    Json(view(&app))
}

/// Turns knobs of the adaptive policy, for all decisions from now on.
#[utoipa::path(patch, path = "/api/v1/model", tag = "model", request_body = KnobsPatch, responses(
    (status = 200, description = "In force", body = KnobsView),
    (status = 422, description = "Not knobs; every mistake is listed and nothing has changed", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn turn(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Body(given): Body<Value>,
) -> Result<Json<KnobsView>, Problem> {
    let refused = |detail: String| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail);
    if given.as_object().is_some_and(serde_json::Map::is_empty) {
        return Err(refused(format!("nothing to change: give {}", config::KNOBS.join(", "))));
    }
    let stance = app.balancer.stance();
    let configured = app.settings.load().adaptive.clone();
    let present = Adaptive { knobs: app.balancer.learned().knobs(), shadow: stance.shadow, ..configured };
    let Adaptive { knobs, shadow, .. } = config::check_knobs(&present, given).map_err(|errors| {
        let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
        refused(errors.join("; ")).errors(errors)
    })?;
    app.balancer.learned().set_knobs(knobs);
    app.balancer.set_stance(Stance { shadow, ..stance });
    let Knobs { first_byte, social, explore, .. } = knobs;
    tracing::info!(target: "bellwether::audit", who = %caller, first_byte, social, explore, shadow, "knobs turned");
    Ok(Json(knobs_view(&app)))
}

/// What was done.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Done {
    /// `reset` or `snapshot`.
    done: &'static str,
    /// The file that was written; null if there is none: without `adaptive.state_dir` the state is kept in memory.
    path: Option<String>,
    /// Nodes in the state that was saved.
    nodes: Option<usize>,
}

/// Forgets everything that was learned; the fallback routes until enough was learned anew.
#[utoipa::path(post, path = "/api/v1/model/reset", tag = "model", responses(
    (status = 200, description = "Forgotten", body = Done),
    (status = 503, description = "The trainer does not answer", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn reset(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<Done>, Problem> {
    let ordered = tokio::task::spawn_blocking(move || app.trainer.reset()).await;
    ordered.map_err(|_| unanswered())?.map_err(|error| failed(&error))?;
    tracing::info!(target: "bellwether::audit", who = %caller, "model reset");
    Ok(Json(Done { done: "reset", path: None, nodes: None }))
}

/// Saves what was learned now.
#[utoipa::path(post, path = "/api/v1/model/snapshot", tag = "model", responses(
    (status = 200, description = "Saved", body = Done),
    (status = 500, description = "The file cannot be written, and why", body = Problem, content_type = "application/problem+json"),
    (status = 503, description = "The trainer does not answer", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn snapshot(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<Done>, Problem> {
    let ordered = tokio::task::spawn_blocking(move || app.trainer.save()).await;
    let saved = ordered.map_err(|_| unanswered())?.map_err(|error| failed(&error))?;
    let path = saved.path.map(|path| path.display().to_string());
    tracing::info!(target: "bellwether::audit", who = %caller, path, "model saved");
    Ok(Json(Done { done: "snapshot", path, nodes: Some(saved.snapshot.nodes.len()) }))
}

fn failed(error: &OrderError) -> Problem {
    let status = match error {
        OrderError::NoTrainer | OrderError::Unfinished => StatusCode::SERVICE_UNAVAILABLE,
        OrderError::State(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    Problem::new(status, error.to_string())
}

fn unanswered() -> Problem {
    failed(&OrderError::NoTrainer)
}
