//! Nodes: what they are doing, and adding, changing, removing them while requests run.
//!
//! A removed node takes no new work and what runs on it goes on; see `drain` for what waits until nothing runs. A node may
//! only be where `admin.node_allow` says, now and whenever it is connected to. A changed weight counts from the next
//! decision. Names may contain anything, also slashes:
//! percent-encode them in the path.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::guard::Caller;
use super::problem::{Body, Name, Problem};
use crate::address::Refused;
use crate::app::App;
use crate::config::check_node;
use crate::fleet::{Fleet, FleetError, Node, State as NodeState};
use crate::node::{MaxInFlight, NO_NODE, NodeSpec};
use crate::telemetry;

/// Quantiles over the last minute.
#[derive(Debug, Serialize, ToSchema)]
struct Quantiles {
    /// Completed attempts in the last minute.
    count: u64,
    /// Median in seconds.
    p50_s: f64,
    /// 90th percentile in seconds.
    p90_s: f64,
    /// 99th percentile in seconds.
    p99_s: f64,
}

/// Attempts since the node came, by how they ended.
#[derive(Debug, Serialize, ToSchema)]
struct Attempts {
    /// The answer reached its end.
    completed: u64,
    /// The node said that it had no room.
    full: u64,
    /// The node did not do its job.
    failed: u64,
    /// Nobody can say how it would have ended: the client left.
    censored: u64,
}

/// A node and what it is doing.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct NodeView {
    /// Unique in the fleet.
    #[schema(example = "10.0.0.1:8000")]
    name: String,
    /// Where requests are sent.
    #[schema(example = "http://10.0.0.1:8000")]
    url: String,
    /// `up`, `down`, `draining`, `full`, `ejected` or `trial`; `up` gets new work, `trial` one request at a time.
    state: &'static str,
    /// Whether checks and connect errors think that it lives, also while it drains.
    up: bool,
    /// Whether an operator drained it.
    draining: bool,
    /// In how many seconds a draining node leaves the fleet at the latest; null if it stays.
    leaves_in_s: Option<f64>,
    /// Relative capacity for the weighted policies.
    weight: f64,
    /// Attempts in flight.
    in_flight: u32,
    /// Of those, the ones without a first byte.
    waiting: u32,
    /// The limit that the operator set, of this node or of all, if any.
    max_in_flight: Option<u32>,
    /// Whether the limit is found out from its response times.
    auto_limit: bool,
    /// The limit of tokens in flight, if any.
    max_in_flight_tokens: Option<u64>,
    /// Expected tokens in flight; counted only where they are limited.
    in_flight_tokens: u64,
    /// The limit in force: less than the operator's while it returns from an ejection.
    limit: u32,
    /// Whether it was ejected for failing requests and has not yet shown that it is well.
    returning: bool,
    /// Times that it was ejected for failing requests, since it came.
    ejections: u64,
    /// For how many more seconds it is ejected; null if it is not.
    ejected_for_s: Option<f64>,
    /// Models that it serves; empty means every model.
    models: Vec<String>,
    /// Attempts since it came, by how they ended.
    attempts: Attempts,
    /// Time to the first byte of attempts completed in the last minute; null if there were none.
    ttfb: Option<Quantiles>,
    /// Whole time of attempts completed in the last minute; null if there were none.
    total: Option<Quantiles>,
}

impl From<telemetry::Quantiles> for Quantiles {
    fn from(seen: telemetry::Quantiles) -> Quantiles {
        let telemetry::Quantiles { count, p50_s, p90_s, p99_s } = seen;
        Quantiles { count, p50_s, p90_s, p99_s }
    }
}

pub(super) fn view(app: &App, node: &Node) -> NodeView {
    let now = app.clock.now();
    let telemetry::Report { counts, ejections, ttfb, total } = app.telemetry.report(node, now);
    let telemetry::Counts { completed, full, failed, censored } = counts;
    NodeView {
        name: node.spec.name.clone(),
        url: node.spec.url.clone(),
        state: node.live.health.state(now).word(),
        up: node.live.health.is_up(),
        draining: node.live.health.is_draining(),
        leaves_in_s: node.live.health.leaves_by().map(|by| by.seconds_since(now)),
        weight: node.spec.weight,
        in_flight: node.live.ledger.in_flight(),
        waiting: node.live.ledger.waiting(),
        max_in_flight: node.spec.max_in_flight,
        auto_limit: node.spec.auto_limit,
        max_in_flight_tokens: node.spec.max_in_flight_tokens,
        in_flight_tokens: node.live.ledger.tokens(),
        limit: node.limit(),
        returning: node.live.health.is_out(),
        ejections,
        ejected_for_s: (node.live.health.state(now) == NodeState::Ejected)
            .then(|| node.live.health.record().until().seconds_since(now)),
        models: node.spec.models.clone(),
        attempts: Attempts { completed, full, failed, censored },
        ttfb: ttfb.map(Into::into),
        total: total.map(Into::into),
    }
}

/// The fleet.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct NodeList {
    /// In the order in which they were added.
    nodes: Vec<NodeView>,
}

/// A node to add: what `[[node]]` is in the configuration file.
#[derive(ToSchema)]
#[expect(
    dead_code,
    reason = "only its schema is used: the configuration checks the document itself, all mistakes at once"
)]
pub(super) struct NewNode {
    /// `http://host:port` with an optional base path.
    #[schema(example = "http://10.0.0.3:8000")]
    url: String,
    /// Unique; the URL without its scheme unless given.
    name: Option<String>,
    /// Greater than 0 and at most 1000; 1 unless given.
    weight: Option<f64>,
    /// From 1 to 60000, "auto" or "off"; the `max_in_flight` of all nodes unless given.
    #[schema(value_type = Option<String>, example = "auto")]
    max_in_flight: Option<Value>,
    /// Prompt and expected output tokens in flight at once; no limit unless given.
    max_in_flight_tokens: Option<u64>,
    /// Models that it serves; every model unless given.
    models: Option<Vec<String>>,
}

/// What to change of a node; what is absent stays.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NodePatch {
    /// Greater than 0 and at most 1000.
    weight: Option<f64>,
    /// From 1 to 60000, or "auto": found out from its response times; null or "off" takes the limit away.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>, example = "auto")]
    max_in_flight: Option<Value>,
    /// Prompt and expected output tokens in flight at once, from 1 to 1000000000; null takes the limit away.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<u64>)]
    max_in_flight_tokens: Option<Value>,
}

/// Tells a field that is null from one that is absent.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

/// All nodes and what they are doing.
#[utoipa::path(get, path = "/api/v1/nodes", tag = "nodes", responses(
    (status = 200, description = "The fleet", body = NodeList)))]
pub(super) async fn list(State(app): State<Arc<App>>) -> Json<NodeList> {
    Json(NodeList { nodes: app.balancer.fleet().nodes().iter().map(|node| view(&app, node)).collect() })
}

/// One node.
#[utoipa::path(get, path = "/api/v1/nodes/{name}", tag = "nodes",
    params(("name" = String, Path, description = "The node's name, percent-encoded")),
    responses((status = 200, description = "The node", body = NodeView),
        (status = 404, description = "No such node", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn show(State(app): State<Arc<App>>, Name(name): Name) -> Result<Json<NodeView>, Problem> {
    let node = find(&app, &name)?;
    Ok(Json(view(&app, &node)))
}

/// Adds a node; it gets work at once and is checked like the others.
#[utoipa::path(post, path = "/api/v1/nodes", tag = "nodes", request_body = NewNode, responses(
    (status = 201, description = "Added", body = NodeView),
    (status = 403, description = "Not where a node may be (`admin.node_allow`)", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "The name is taken, or the fleet is full", body = Problem, content_type = "application/problem+json"),
    (status = 422, description = "Not a node; every mistake is listed", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn add(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Body(new): Body<Value>,
) -> Result<Response, Problem> {
    let settings = app.settings.load_full();
    let spec = NodeSpec { guarded: true, ..check(new, settings.max_in_flight)? };
    settings.reach().check(&spec).await.map_err(|refused| outside(&refused))?;
    let (name, url) = (spec.name.clone(), spec.url.clone());
    app.balancer.change_fleet(|fleet| fleet.with(spec)).map_err(|error| refused(&app.balancer.fleet(), &error))?;
    tracing::info!(target: "bellwether::audit", who = %caller, node = name, url, "node added");
    let node = find(&app, &name)?;
    let location = HeaderValue::try_from(format!("/api/v1/nodes/{}", encoded(&name)));
    let mut response = (StatusCode::CREATED, Json(view(&app, &node))).into_response();
    if let Ok(location) = location {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

/// Removes a node; what runs on it goes on.
#[utoipa::path(delete, path = "/api/v1/nodes/{name}", tag = "nodes",
    params(("name" = String, Path, description = "The node's name, percent-encoded")),
    responses((status = 204, description = "Removed"),
        (status = 404, description = "No such node", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn remove(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Name(name): Name,
) -> Result<StatusCode, Problem> {
    app.balancer.change_fleet(|fleet| fleet.without(&name)).map_err(|error| refused(&app.balancer.fleet(), &error))?;
    tracing::info!(target: "bellwether::audit", who = %caller, node = name, "node removed");
    Ok(StatusCode::NO_CONTENT)
}

/// Changes weight and limits; they count from the next decision.
#[utoipa::path(patch, path = "/api/v1/nodes/{name}", tag = "nodes", request_body = NodePatch,
    params(("name" = String, Path, description = "The node's name, percent-encoded")),
    responses((status = 200, description = "Changed", body = NodeView),
        (status = 404, description = "No such node", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "Not a weight or limit", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn change(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Name(name): Name,
    Body(patch): Body<NodePatch>,
) -> Result<Json<NodeView>, Problem> {
    let NodePatch { weight, max_in_flight, max_in_flight_tokens } = patch;
    if weight.is_none() && max_in_flight.is_none() && max_in_flight_tokens.is_none() {
        let detail = "nothing to change: give weight, max_in_flight or max_in_flight_tokens";
        return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail));
    }
    // As part of some node, since that is what can be checked.
    let mut given = Map::from_iter([("url".to_owned(), json!("http://localhost"))]);
    let limits = [("max_in_flight", &max_in_flight), ("max_in_flight_tokens", &max_in_flight_tokens)];
    given.extend(weight.map(|weight| ("weight".to_owned(), json!(weight))));
    given.extend(limits.into_iter().filter_map(|(key, value)| match value {
        None | Some(Value::Null) => None,
        Some(value) => Some((key.to_owned(), value.clone())),
    }));
    let checked = check(given.into(), MaxInFlight::Off)?;
    let change = |fleet: &Fleet| {
        let node = fleet.by_name(&name).ok_or_else(|| FleetError::Unknown(name.clone()))?;
        let mut spec = NodeSpec::clone(&node.spec);
        if weight.is_some() {
            spec.weight = checked.weight;
        }
        if max_in_flight.is_some() {
            spec = spec.own_limited(checked.max_in_flight());
        }
        if max_in_flight_tokens.is_some() {
            spec.max_in_flight_tokens = checked.max_in_flight_tokens;
        }
        fleet.with_changed(spec)
    };
    app.balancer.change_fleet(change).map_err(|error| refused(&app.balancer.fleet(), &error))?;
    let node = find(&app, &name)?;
    let NodeSpec { weight, max_in_flight, auto_limit, max_in_flight_tokens, .. } = *node.spec;
    tracing::info!(target: "bellwether::audit", who = %caller, node = name, weight, max_in_flight, auto_limit, max_in_flight_tokens, "node changed");
    Ok(Json(view(&app, &node)))
}

pub(super) fn find(app: &App, name: &str) -> Result<Arc<Node>, Problem> {
    let fleet = app.balancer.fleet();
    fleet.by_name(name).cloned().ok_or_else(|| refused(&fleet, &FleetError::Unknown(name.to_owned())))
}

fn refused(fleet: &Fleet, error: &FleetError) -> Problem {
    match error {
        FleetError::Unknown(name) => Problem::new(StatusCode::NOT_FOUND, error.to_string())
            .suggest(name, fleet.nodes().iter().map(|node| node.spec.name.as_str())),
        FleetError::NameTaken(_) | FleetError::Full => Problem::new(StatusCode::CONFLICT, error.to_string()),
    }
}

/// A node may not be there. Addresses of machines in it come from a resolver; who may add nodes may ask one.
fn outside(refused: &Refused) -> Problem {
    let detail = format!("{refused}; an operator can allow it with an entry of its own in admin.node_allow");
    Problem::new(StatusCode::FORBIDDEN, detail)
}

/// The node that `json` describes, with `default` where it says nothing of a limit: the configuration's own checks, so
/// that both say the same of the same mistake.
fn check(json: Value, default: MaxInFlight) -> Result<NodeSpec, Problem> {
    let wrong = |errors: Vec<String>| {
        let detail = errors.join("; ");
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail).errors(errors)
    };
    let spec = check_node(json, default).map_err(|errors| wrong(errors.iter().map(ToString::to_string).collect()))?;
    if spec.name == NO_NODE {
        return Err(wrong(vec![format!("name: {:?} is what metrics call the proxy itself", spec.name)]));
    }
    Ok(spec)
}

/// Percent-encoded for a path segment.
fn encoded(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:".contains(&byte);
    name.bytes().fold(String::with_capacity(name.len()), |mut text, byte| {
        match plain(byte) {
            true => text.push(char::from(byte)),
            false => text.push_str(&format!("%{byte:02X}")),
        }
        text
    })
}
