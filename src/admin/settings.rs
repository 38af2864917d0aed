//! Policy and settings: what is in force, switching the policy, reading the configuration again.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::guard::Caller;
use super::problem::{Body, Problem};
use crate::app::App;
use crate::config::Settings;
use crate::node::NodeSpec;
use crate::policy::{self, PolicyId};
use crate::reload::{Changes, ReloadError};

/// A policy that can be chosen.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PolicyEntry {
    /// What to put into `policy`.
    name: &'static str,
    /// What it does.
    about: &'static str,
}

/// The policy in force.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PolicyView {
    /// Who decides.
    policy: &'static str,
    /// What it could be switched to.
    available: Vec<PolicyEntry>,
}

/// The policy to switch to.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PolicyChoice {
    /// One of the available names.
    #[schema(example = "least-connections")]
    policy: String,
}

fn policy_view(app: &App) -> Json<PolicyView> {
    let available = policy::REGISTRY.iter().map(|entry| PolicyEntry { name: entry.name, about: entry.about }).collect();
    Json(PolicyView { policy: app.balancer.policy().name(), available })
}

/// The policy in force and the ones to choose from.
#[utoipa::path(get, path = "/api/v1/policy", tag = "settings", responses(
    (status = 200, description = "The policy", body = PolicyView)))]
pub(super) async fn get_policy(State(app): State<Arc<App>>) -> Json<PolicyView> {
    policy_view(&app)
}

/// Switches the policy for all decisions from now on; requests in flight go on.
#[utoipa::path(put, path = "/api/v1/policy", tag = "settings", request_body = PolicyChoice, responses(
    (status = 200, description = "In force", body = PolicyView),
    (status = 422, description = "No such policy; the allowed ones are listed", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn put_policy(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Body(choice): Body<PolicyChoice>,
) -> Result<Json<PolicyView>, Problem> {
    let Some(id) = PolicyId::named(&choice.policy) else { return Err(unknown_policy(&choice.policy)) };
    app.switch_policy(id, &caller.to_string());
    Ok(policy_view(&app))
}

/// Lists the policies to somebody who named another.
pub(super) fn unknown_policy(name: &str) -> Problem {
    let shown: String = name.chars().take(64).collect();
    let detail = format!("{shown:?} is not a policy; allowed: {}", policy::names().join(", "));
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail).allowed(name, policy::names())
}

/// Reads the configuration again and applies what changed; a broken one changes nothing.
#[utoipa::path(post, path = "/api/v1/reload", tag = "settings", responses(
    (status = 200, description = "In force", body = Changes),
    (status = 409, description = "There is no configuration to read", body = Problem, content_type = "application/problem+json"),
    (status = 422, description = "Not valid; every mistake is listed and nothing has changed", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn reload(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<Changes>, Problem> {
    let reloaded = tokio::task::spawn_blocking(move || app.reload(&caller.to_string())).await;
    match reloaded {
        Ok(Ok(changes)) => Ok(Json(changes)),
        Ok(Err(error @ ReloadError::NoSource)) => Err(Problem::new(StatusCode::CONFLICT, error.to_string())),
        Ok(Err(ReloadError::Invalid(errors))) => {
            let detail = "the configuration is not valid; nothing has changed";
            Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail).errors(errors))
        }
        Err(_) => Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the reload did not end properly")),
    }
}

/// What was configured, with what was changed since while running: policy, knobs, nodes.
fn in_force(app: &App) -> Settings {
    let (balancer, stance) = (&app.balancer, app.balancer.stance());
    let mut settings = Settings::clone(&app.settings.load());
    settings.policy = balancer.policy();
    settings.nodes = balancer.fleet().nodes().iter().map(|node| NodeSpec::clone(&node.spec)).collect();
    settings.adaptive.knobs = balancer.learned().knobs();
    (settings.adaptive.shadow, settings.adaptive.fallback) = (stance.shadow, stance.fallback);
    settings
}

/// The settings in force, as in the configuration file, with what was changed while running; of tokens only the roles.
#[utoipa::path(get, path = "/api/v1/config", tag = "settings", responses(
    (status = 200, description = "Settings as in the configuration file", body = Value)))]
pub(super) async fn get_config(State(app): State<Arc<App>>) -> Json<Value> {
    Json(in_force(&app).to_json())
}
