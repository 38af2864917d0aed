//! Policy and settings: what is in force, switching the policy, reading the configuration again.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Extension, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::guard::Caller;
use super::problem::{Body, Problem};
use crate::app::App;
use crate::config::{Admin, LogFormat, Priority, Role, Settings, Timeouts};
use crate::node::NodeSpec;
use crate::policy::{self, PolicyId};
use crate::reload::{Changes, ReloadError};

/// What stands for a secret.
const MASK: &str = "***";

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
    let Some(id) = PolicyId::named(&choice.policy) else {
        let shown: String = choice.policy.chars().take(64).collect();
        let detail = format!("{shown:?} is not a policy; allowed: {}", policy::names().join(", "));
        let problem = Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail);
        return Err(problem.allowed(&choice.policy, policy::names()));
    };
    app.switch_policy(id, &caller.to_string());
    Ok(policy_view(&app))
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

/// The settings in force, as in the configuration file; secrets are masked.
#[utoipa::path(get, path = "/api/v1/config", tag = "settings", responses(
    (status = 200, description = "Settings as in the configuration file", body = Value)))]
pub(super) async fn get_config(State(app): State<Arc<App>>) -> Json<Value> {
    Json(settings_view(&app.settings.load()))
}

fn span(duration: Duration) -> String {
    humantime::format_duration(duration).to_string().replace(' ', "")
}

/// Every setting by its name. Taken apart without `..`, so that a new one cannot be forgotten here.
fn settings_view(settings: &Settings) -> Value {
    let Settings { listen, policy, workers, admin, nodes, routes, health, timeouts, retry, limits, forward, log } =
        settings;
    let off = |value: Option<String>| value.unwrap_or_else(|| "off".to_owned());
    json!({
        "listen": listen.to_string(),
        "policy": policy.name(),
        "workers": workers,
        "admin": admin_view(admin),
        "node": nodes.iter().map(node_view).collect::<Vec<_>>(),
        "route": routes.iter().map(|route| json!({
            "name": route.name,
            "path_prefix": route.path_prefix,
            "method": route.method.as_ref().map(http::Method::as_str),
            "model": route.model,
            "retry_post": route.retry_post,
            "priority": match route.priority {
                Priority::Interactive => "interactive",
                Priority::Default => "default",
                Priority::Batch => "batch",
            },
            "timeouts": timeouts_view(&route.timeouts),
        })).collect::<Vec<_>>(),
        "health": {
            "interval": span(health.interval),
            "timeout": span(health.timeout),
            "path": off(health.path.clone()),
            "unhealthy_after": health.thresholds.unhealthy_after,
            "healthy_after": health.thresholds.healthy_after,
        },
        "timeouts": timeouts_view(timeouts),
        "retry": { "budget": retry.budget, "floor_per_s": retry.floor_per_s, "attempts_max": retry.attempts_max },
        "limits": {
            "connections_max": limits.connections_max,
            "head_bytes_max": limits.head_bytes_max,
            "headers_max": limits.headers_max,
            "uri_bytes_max": limits.uri_bytes_max,
            "body_bytes_max": limits.body_bytes_max,
            "inspect_bytes_max": limits.inspect_bytes_max,
            "node_connections_max": limits.node_connections_max,
            "node_idle_max": limits.node_idle_max,
            "node_idle_timeout": span(limits.node_idle_timeout),
            "node_lifetime": span(limits.node_lifetime),
        },
        "forward": {
            "trusted_proxies": forward.trusted_proxies.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "preserve_host": forward.preserve_host,
        },
        "log": {
            "level": log.level,
            "format": match log.format { LogFormat::Text => "text", LogFormat::Json => "json" },
            "access": log.access,
        },
    })
}

fn admin_view(admin: &Admin) -> Value {
    let Admin { listen, hosts, metrics_public, tokens } = admin;
    let role = |role| match role {
        Role::Read => "read",
        Role::Operate => "operate",
    };
    json!({
        "listen": listen.to_string(),
        "hosts": hosts,
        "metrics_public": metrics_public,
        "token": tokens.iter().map(|token| json!({ "secret": MASK, "role": role(token.role) })).collect::<Vec<_>>(),
    })
}

fn node_view(spec: &NodeSpec) -> Value {
    let NodeSpec { name, url, weight, max_in_flight, models } = spec;
    json!({ "name": name, "url": url, "weight": weight, "max_in_flight": max_in_flight, "models": models })
}

fn timeouts_view(timeouts: &Timeouts) -> Value {
    let Timeouts { first_request, header_read, connect, first_byte, between_chunks, total, idle, drain } = timeouts;
    json!({
        "first_request": span(*first_request),
        "header_read": span(*header_read),
        "connect": span(*connect),
        "first_byte": span(*first_byte),
        "between_chunks": span(*between_chunks),
        "total": total.map_or_else(|| "off".to_owned(), span),
        "idle": span(*idle),
        "drain": span(*drain),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Token;

    #[test]
    fn secrets_are_masked_and_every_section_is_there() {
        let mut settings = Settings::default();
        settings.admin.tokens = vec![Token { secret: "hunter2".into(), role: Role::Operate }];
        settings.nodes = vec![NodeSpec::new("http://a:1")];
        let view = settings_view(&settings);
        assert!(!view.to_string().contains("hunter2"), "{view}");
        assert_eq!(view["admin"]["token"], json!([{ "secret": "***", "role": "operate" }]));
        assert_eq!(view["timeouts"]["first_byte"], "10m");
        assert_eq!(view["timeouts"]["total"], "off");
        assert_eq!(view["node"][0]["name"], "a:1");
    }
}
