//! The admin API: signs of life, metrics, nodes, policy, settings, what was learned and decided; and a dashboard of it.
//!
//! It has a listener and, in the binary, a thread of its own, so that a busy data path cannot starve the operator who
//! wants to see why it is busy. Every route is written once, as a handler with its description, and both the router
//! and the OpenAPI document are made from that. [`router`] works without a socket; [`serve`] adds the bounds that a
//! listener needs. It does not know the data path: both know the [`App`].

mod clean;
mod dashboard;
mod decisions;
mod door;
mod drain;
mod events;
mod failures;
mod guard;
mod handshakes;
mod learned;
mod live;
mod model;
mod nodes;
mod plain;
mod problem;
mod serve;
mod settings;
mod vital;

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Extension};
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::{from_fn_with_state, map_response};
use utoipa::OpenApi;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub use door::{Door, Peer};
pub use plain::span;
pub use problem::{PROBLEM_JSON, Problem};
pub use serve::{Bounds, serve, serve_within};

use self::decisions::stream::StreamTally;
use self::guard::Gate;
use self::live::{HistoryView, Live};
use crate::app::App;

/// Bytes of a request body: the largest sensible one is a node with a few hundred models.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// The OpenAPI document, rendered once.
#[derive(Clone, Debug)]
struct Document(Arc<str>);

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Bellwether admin API",
        description = "Look at and change a running proxy. Errors are problems (RFC 9457). Reading needs a token with the \
                   role read, everything else one with operate; on loopback or a socket without configured tokens nothing does."
    ),
    components(schemas(HistoryView, StreamTally))
)]
struct Head;

/// All routes of the admin API and the dashboard, with their guard.
pub fn router(app: Arc<App>) -> Router {
    router_with(app, Arc::default())
}

/// [`router`] with streams that somebody else knows too.
fn router_with(app: Arc<App>, live: Arc<Live>) -> Router {
    let (router, mut document) = OpenApiRouter::with_openapi(Head::openapi())
        .routes(routes!(vital::livez))
        .routes(routes!(vital::readyz))
        .routes(routes!(vital::metrics))
        .routes(routes!(vital::openapi))
        .routes(routes!(nodes::list, nodes::add))
        .routes(routes!(nodes::show, nodes::change, nodes::remove))
        .routes(routes!(drain::drain))
        .routes(routes!(drain::resume))
        .routes(routes!(settings::get_policy, settings::put_policy))
        .routes(routes!(settings::get_config))
        .routes(routes!(settings::reload))
        .routes(routes!(model::show, model::turn))
        .routes(routes!(model::reset))
        .routes(routes!(model::snapshot))
        .routes(routes!(decisions::list))
        .routes(routes!(decisions::explain::explain))
        .routes(routes!(decisions::stream::stream))
        .routes(routes!(live::stream))
        .split_for_parts();
    if let Some(components) = &mut document.components {
        components.add_security_scheme("bearer", SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)));
    }
    document.security = Some(vec![SecurityRequirement::new("bearer", [""; 0])]);
    let document = Document(document.to_json().unwrap_or_default().into());
    dashboard::add_to(router)
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(Extension(document))
        .layer(Extension(live))
        .layer(from_fn_with_state(Gate::new(&app), guard::guard))
        .layer(map_response(clean::clean))
        .with_state(app)
}

async fn unknown(uri: Uri) -> Problem {
    let detail = format!("there is no {}; /api/v1/openapi.json lists what there is", uri.path());
    Problem::new(StatusCode::NOT_FOUND, detail)
}

async fn wrong_method(method: Method, uri: Uri) -> Problem {
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, format!("{method} is not possible on {}", uri.path()))
}
