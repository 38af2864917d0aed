//! `GET /v1/models`: one list for the whole fleet.
//!
//! A client asks the proxy which models there are and must not get the list of whichever node was next. Nodes whose
//! models are configured are not asked: the configuration decides what is routed there, so it is what is true. The
//! others are asked at the same time; those that do not answer in time are left out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use http::{HeaderName, HeaderValue, Method, Uri, header};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::clock::Time;
use crate::config::Settings;
use crate::fleet::{Node, State};
use crate::outcome::Failure;
use crate::proxy::outgoing::Outgoing;
use crate::proxy::reply::ProxyError;
use crate::proxy::upstream::Upstream;
use crate::proxy::worker::Worker;

/// How long nodes have for their lists.
const PATIENCE: Duration = Duration::from_secs(2);
/// How many nodes are asked at once.
const ASKED_AT_ONCE: usize = 64;
/// The longest list that is read from a node.
const LIST_BYTES_MAX: usize = 1024 * 1024;

/// Fields of the client that are about its own list.
const NOT_ASKED: [HeaderName; 7] = [
    header::ACCEPT_ENCODING,
    header::IF_MATCH,
    header::IF_NONE_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_UNMODIFIED_SINCE,
    header::IF_RANGE,
    header::RANGE,
];

/// The merged list.
pub(super) async fn merged(
    worker: &Arc<Worker>,
    settings: &Arc<Settings>,
    request: Box<Outgoing>,
) -> Result<Response, ProxyError> {
    let now = worker.app.clock.now();
    let fleet = worker.app.balancer.fleet();
    let mut models: BTreeMap<String, Value> = BTreeMap::new();
    let mut asked = JoinSet::new();
    let mut answered = false;
    for node in fleet.nodes() {
        answered |= !node.spec.models.is_empty();
        for model in &node.spec.models {
            models.entry(model.clone()).or_insert_with(|| entry(model));
        }
        if node.spec.models.is_empty() && node.live.health.state(now) != State::Down {
            if asked.len() >= ASKED_AT_ONCE {
                answered |= add(&mut models, asked.join_next().await);
            }
            let mut asking = request.about(Method::GET, Uri::from_static("/v1/models"), request.head.headers.clone());
            // The list is read here, whatever the client accepts or has already.
            for name in NOT_ASKED {
                asking.head.headers.remove(name);
            }
            asking.address(node, settings.forward.preserve_host);
            asked.spawn(ask(Arc::clone(worker), Arc::clone(settings), Arc::clone(node), asking, now));
        }
    }
    while let Some(list) = asked.join_next().await {
        answered |= add(&mut models, Some(list));
    }
    if !answered {
        let detail = "no node answered with a list of models".to_owned();
        return Err(ProxyError::failed(Failure::Broken, "destination_unavailable", detail));
    }
    let list = json!({"object": "list", "data": models.into_values().collect::<Vec<_>>()});
    let mut response = Response::new(Body::from(list.to_string()));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    worker.app.telemetry.answered(None, 200);
    Ok(response)
}

fn entry(model: &str) -> Value {
    json!({"id": model, "object": "model", "created": 0, "owned_by": "bellwether"})
}

/// Adds a node's list; `true` if it was one.
fn add(models: &mut BTreeMap<String, Value>, list: Option<Result<Option<Value>, tokio::task::JoinError>>) -> bool {
    let Some(Ok(Some(mut list))) = list else { return false };
    let Some(entries) = list.get_mut("data").and_then(Value::as_array_mut) else { return false };
    for model in entries.drain(..) {
        if let Some(id) = model.get("id").and_then(Value::as_str) {
            models.entry(id.to_owned()).or_insert(model);
        }
    }
    true
}

/// A node's list, if it has one.
async fn ask(
    worker: Arc<Worker>,
    settings: Arc<Settings>,
    node: Arc<Node>,
    request: Box<Outgoing>,
    now: Time,
) -> Option<Value> {
    let limits = &settings.limits;
    let fetching = async {
        let mut upstream = match worker.pool.take(&node, limits, now) {
            Some(upstream) => upstream,
            None => {
                let open = &worker.app.open_connections;
                Upstream::connect(&node, open, &settings, settings.timeouts.connect, now).await.ok()?
            }
        };
        let (status, body) = upstream.fetch(request, LIST_BYTES_MAX).await?;
        worker.pool.put(upstream, limits, worker.app.clock.now());
        status.is_success().then(|| serde_json::from_slice(&body).ok())?
    };
    tokio::time::timeout(PATIENCE, fetching).await.ok()?
}
