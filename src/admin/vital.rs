//! Signs of life: liveness, readiness, metrics, and the description of the API itself.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Json;
use axum::extract::{Extension, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::Document;
use super::problem::Problem;
use crate::app::App;

/// The media type of the Prometheus text format.
const PROMETHEUS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A good sign.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Status {
    /// Always `ok`; whatever is not comes as a problem.
    status: &'static str,
}

const OK: Json<Status> = Json(Status { status: "ok" });

/// Whether the process runs. Says nothing about nodes: a restart would not bring them back.
#[utoipa::path(get, path = "/livez", tag = "vital", security(()), responses(
    (status = 200, description = "It runs", body = Status)))]
pub(super) async fn livez() -> Json<Status> {
    OK
}

/// Whether new requests should be sent here: not while it stops, and not without a node that gets work.
#[utoipa::path(get, path = "/readyz", tag = "vital", security(()), responses(
    (status = 200, description = "Ready", body = Status),
    (status = 503, description = "Not ready, and why", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn readyz(State(app): State<Arc<App>>) -> Result<Json<Status>, Problem> {
    let not = |why: &str| Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, why));
    if app.stopping.load(Ordering::Relaxed) {
        return not("stopping");
    }
    let (fleet, now) = (app.balancer.fleet(), app.clock.now());
    if fleet.nodes().is_empty() {
        return not("there are no nodes");
    }
    // A node that is full for a moment is still healthy: taking the whole proxy out would only move the load.
    if !fleet.nodes().iter().any(|node| node.live.health.state(now).is_serving()) {
        return not("every node is down or draining");
    }
    Ok(OK)
}

/// All metrics in the text format of Prometheus.
#[utoipa::path(get, path = "/metrics", tag = "vital", responses(
    (status = 200, description = "Metrics", body = String, content_type = "text/plain")))]
pub(super) async fn metrics(State(app): State<Arc<App>>) -> Result<Response, Problem> {
    match tokio::task::spawn_blocking(move || app.scrape()).await {
        Ok(text) => Ok(([(header::CONTENT_TYPE, HeaderValue::from_static(PROMETHEUS_TEXT))], text).into_response()),
        Err(_) => Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be rendered")),
    }
}

/// This description.
#[utoipa::path(get, path = "/api/v1/openapi.json", tag = "vital", responses(
    (status = 200, description = "OpenAPI document", body = serde_json::Value)))]
pub(super) async fn openapi(Extension(document): Extension<Document>) -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], document.0.to_string()).into_response()
}
