//! Draining a node: no new work, and then out, or back.
//!
//! A drained node stays in the fleet, is checked on, and can be resumed. With a deadline it is taken out as soon as its
//! last request has ended, so that whoever replaces the machine behind it has one thing to wait for. The deadline bounds
//! that wait; it cuts nothing: what still runs goes on as after any removal, and the log says how much that was.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Extension, State};
use axum::http::StatusCode;
use serde::Deserialize;
use utoipa::ToSchema;

use super::guard::Caller;
use super::nodes::{NodeView, find, view};
use super::problem::{Body, Name, Problem};
use crate::app::App;
use crate::clock::Time;
use crate::fleet::{Fleet, FleetError, Node};

/// The longest deadline: a day. Whoever needs more means a drain without one.
const WITHIN_MAX_S: f64 = 86_400.0;

/// Between two looks at whether the last request has ended.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How to drain.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct DrainOrder {
    /// Takes the node out of the fleet when its last request has ended, and after so many seconds at the latest: 0 to
    /// 86400. Without it the node stays, drained, until it is resumed or removed.
    remove_within_s: Option<f64>,
}

/// Gives a node no new work; what runs on it goes on. With `remove_within_s` it leaves the fleet afterwards.
#[utoipa::path(post, path = "/api/v1/nodes/{name}/drain", tag = "nodes", request_body = Option<DrainOrder>,
    params(("name" = String, Path, description = "The node's name, percent-encoded")),
    responses((status = 200, description = "Draining", body = NodeView),
        (status = 404, description = "No such node", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "Not a number of seconds", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn drain(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Name(name): Name,
    order: Option<Body<DrainOrder>>,
) -> Result<Json<NodeView>, Problem> {
    let node = find(&app, &name)?;
    let within_s = order.and_then(|Body(order)| order.remove_within_s);
    if let Some(wrong) = within_s.filter(|within_s| !(0.0..=WITHIN_MAX_S).contains(within_s)) {
        let detail = format!("remove_within_s: {wrong} is not from 0 to {WITHIN_MAX_S} seconds");
        return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail));
    }
    match within_s {
        None => node.live.health.set_draining(true),
        Some(within_s) => {
            let by = app.clock.now().after(Duration::from_secs_f64(within_s));
            let by = node.live.health.leave_by(by);
            tokio::spawn(see_off(Arc::clone(&app), Arc::clone(&node), by, caller.to_string()));
        }
    }
    let in_flight = node.live.ledger.in_flight();
    tracing::info!(target: "bellwether::audit", who = %caller, node = name, in_flight, remove_within_s = within_s, "node drained");
    Ok(Json(view(&app, &node)))
}

/// Takes `node` out once nothing runs on it, or at `by`; ends at once if it was resumed or drained anew.
async fn see_off(app: Arc<App>, node: Arc<Node>, by: Time, who: String) {
    let name = &node.spec.name;
    loop {
        if node.live.health.leaves_by() != Some(by) {
            return;
        }
        let left = node.live.ledger.in_flight();
        if left == 0 || app.clock.now() >= by {
            // Not one that was resumed this moment, nor a younger node that has the name by now.
            let take_out = |fleet: &Fleet| {
                let is_it = fleet.by_name(name).is_some_and(|present| present.id == node.id);
                let is_to_leave = is_it && node.live.health.leaves_by() == Some(by);
                if is_to_leave { fleet.without(name) } else { Err(FleetError::Unknown(name.clone())) }
            };
            if app.balancer.change_fleet(take_out).is_ok() {
                tracing::info!(target: "bellwether::audit", who, node = name, still_running = left, "drained node removed");
            }
            return;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Gives a drained node work again.
#[utoipa::path(post, path = "/api/v1/nodes/{name}/resume", tag = "nodes",
    params(("name" = String, Path, description = "The node's name, percent-encoded")),
    responses((status = 200, description = "In service again", body = NodeView),
        (status = 404, description = "No such node", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn resume(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Name(name): Name,
) -> Result<Json<NodeView>, Problem> {
    let node = find(&app, &name)?;
    node.live.health.set_draining(false);
    tracing::info!(target: "bellwether::audit", who = %caller, node = name, "node resumed");
    Ok(Json(view(&app, &node)))
}
