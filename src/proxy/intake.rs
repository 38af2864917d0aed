//! From a request to its shape: a bounded look at the body, and the body made ready to send.
//!
//! The bytes that are forwarded are the bytes that were received: nothing is parsed and written anew. JSON bodies up
//! to the bound are read whole, since their model decides where they may go, and kept for a retry; of larger ones the
//! beginning is looked at and the rest streams. Other types are not touched.

use std::convert::Infallible;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, header, request};
use http_body::{Body as _, Frame};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::Instant;

use crate::app::App;
use crate::config::{Route, Settings};
use crate::proxy::alarm::Alarm;
use crate::proxy::headers::Survey;
use crate::proxy::inspect::{Api, BLOCK_BYTES, Look, look, model_in_path, prefix_blocks};
use crate::proxy::pace::Pace;
use crate::proxy::reply::ProxyError;
use crate::proxy::session::session_of;
use crate::proxy::upload::{RequestBody, Streaming, UploadState};
use crate::request::{KindId, Prefix, RequestShape};

/// A request that is ready to be decided and sent.
#[derive(Debug)]
pub(super) struct Intake {
    pub(super) shape: RequestShape,
    pub(super) body: RequestBody,
    /// Index of its route in the settings.
    pub(super) route: Option<usize>,
    /// Where a streaming body tells of faults.
    pub(super) upload: Option<Arc<UploadState>>,
    /// Bytes of a prompt that is text only and was seen whole, for the ratio of bytes to tokens; else 0.
    pub(super) prompt_bytes: u64,
}

/// The beginning of a body, or all of it.
struct Begun {
    bytes: Bytes,
    /// The rest, if there may be one.
    rest: Option<Body>,
}

/// Looks at a request.
///
/// # Errors
/// The body is too large, too slow or breaks off.
pub(super) async fn take_in(
    app: &App,
    settings: &Settings,
    head: &request::Parts,
    seen: Survey,
    client_hash: u64,
    body: Incoming,
    alarm: &mut Alarm,
) -> Result<Intake, ProxyError> {
    let request::Parts { method, uri, headers, .. } = head;
    let most = settings.limits.body_bytes_max.unwrap_or(u64::MAX);
    let length = body.size_hint().exact();
    if length.is_some_and(|length| length > most) {
        return Err(ProxyError::too_large(most));
    }
    let api = Api::of_path(uri.path());
    let mut upload = None;
    let mut bytes = Bytes::new();
    let mut looked = false;
    let mut body = if body.is_end_stream() {
        RequestBody::Empty
    } else {
        looked = !seen.coding && is_json(headers, api);
        // Its model may bring it to another route; until that is known, this is the best guess.
        let patience = between_chunks(settings, route_named(settings, method, uri.path(), None, api).0);
        let mut pace = Pace::new(patience, settings.limits.client_bytes_per_s_min);
        let bound = if looked { settings.limits.inspect_bytes_max } else { 0 };
        let begun = begin(body, bound, most, &mut pace, alarm).await?;
        bytes = begun.bytes.clone();
        match begun.rest {
            None => RequestBody::Whole(begun.bytes),
            Some(rest) => {
                let state = Arc::new(UploadState::default());
                upload = Some(Arc::clone(&state));
                let allowance = most - (begun.bytes.len() as u64).min(most);
                let begun = begun.bytes;
                RequestBody::Streaming(Box::new(Streaming { begun, rest, state, allowance, pace, wait: None }))
            }
        }
    };
    let found = if looked { look(&bytes, upload.is_none(), api) } else { Look::default() };
    let model = found.model.clone().or_else(|| model_in_path(uri.path()));
    let (route, name) = route_named(settings, method, uri.path(), model.as_deref(), api);
    if let RequestBody::Streaming(streaming) = &mut body {
        streaming.pace.set_patience(between_chunks(settings, route));
    }
    let kind = app.kinds.of(name, model.as_deref());
    let prompt_bytes = found.prompt_bytes_of(length);
    let text_tokens = app.bytes_per_token.estimate(kind, prompt_bytes);
    let prefix = match looked {
        true => prefix_of(app, settings, &bytes, &found, model.as_deref(), kind),
        false => Prefix::default(),
    };
    let shape = RequestShape {
        kind,
        model: model.map(Arc::from),
        streaming: if looked { found.streaming } else { api.streams(None) },
        prompt_tokens: found.prompt_token_ids_of(length).saturating_add(text_tokens),
        output_tokens_max: found.output_tokens_max,
        body_bytes: length,
        client_hash,
        session_hash: session_of(&settings.session_key, headers, if looked { &bytes } else { &[] }),
        prefix,
    };
    let prompt_bytes = if found.is_all_text() { prompt_bytes } else { 0 };
    Ok(Intake { shape, body, route, upload, prompt_bytes })
}

/// The longest wait for a client's next piece on a route.
fn between_chunks(settings: &Settings, route: Option<usize>) -> Duration {
    route.map_or(&settings.timeouts, |route| &settings.routes[route].timeouts).between_chunks
}

/// What the prompt begins with, for a memory that knows it again.
pub(crate) fn prefix_of(
    app: &App,
    settings: &Settings,
    body: &[u8],
    found: &Look<'_>,
    model: Option<&str>,
    kind: KindId,
) -> Prefix {
    if !settings.prefix.enabled {
        return Prefix::default();
    }
    let blocks = prefix_blocks(body, found, model, &app.prefix_key);
    // Ids are hashed as four bytes each, and there is nothing to estimate.
    let bytes_per_token = if found.prompt_bytes == 0 { 4.0 } else { app.bytes_per_token.ratio(kind) };
    Prefix::new(blocks, (BLOCK_BYTES as f64 / bytes_per_token) as f32)
}

/// The route that a request takes, as an index if it is configured, and its name.
pub(crate) fn route_of<'a>(
    settings: &'a Settings,
    method: &Method,
    path: &str,
    model: Option<&str>,
) -> (Option<usize>, &'a str) {
    route_named(settings, method, path, model, Api::of_path(path))
}

fn route_named<'a>(
    settings: &'a Settings,
    method: &Method,
    path: &str,
    model: Option<&str>,
    api: Api,
) -> (Option<usize>, &'a str) {
    let route = settings.routes.iter().position(|route| matches(route, method, path, model));
    (route, route.map_or(api.route_name(), |route| settings.routes[route].name.as_str()))
}

/// A hash of a client's address, the same in every process: several proxies agree where a client belongs.
pub(crate) fn address_hash(client: IpAddr) -> u64 {
    BuildHasherDefault::<DefaultHasher>::default().hash_one(client)
}

/// Whether a body that is not compressed is worth a look: JSON by its type, or without a type on a path that takes JSON.
fn is_json(headers: &HeaderMap, api: Api) -> bool {
    match headers.get(header::CONTENT_TYPE) {
        Some(kind) => {
            let essence = kind.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
            let ends = |suffix: &[u8]| {
                essence.len() >= suffix.len() && essence[essence.len() - suffix.len()..].eq_ignore_ascii_case(suffix)
            };
            ends(b"/json") || ends(b"+json")
        }
        None => api != Api::Other,
    }
}

fn matches(route: &Route, method: &Method, path: &str, model: Option<&str>) -> bool {
    let beneath = path
        .strip_prefix(route.path_prefix.as_str())
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || route.path_prefix.ends_with('/'));
    beneath
        && route.method.as_ref().is_none_or(|wanted| wanted == method)
        && route.model.as_deref().is_none_or(|wanted| Some(wanted) == model)
}

/// Reads up to `bound` bytes of the body, and a little more if a piece is larger.
async fn begin(
    mut body: Incoming,
    bound: usize,
    most: u64,
    pace: &mut Pace,
    alarm: &mut Alarm,
) -> Result<Begun, ProxyError> {
    let mut first = Bytes::new();
    let mut more = BytesMut::new();
    // The clock is read only for a body of several pieces.
    let mut waiting: Option<Instant> = None;
    while first.len() + more.len() < bound {
        if !first.is_empty() {
            let now = Instant::now();
            pace.waited(now - waiting.replace(now).unwrap_or(now));
        }
        let frame = match alarm.within(pace.left(), None, body.frame()).await {
            Some(Some(Ok(frame))) => frame,
            Some(Some(Err(_))) => return Err(ProxyError::broken_upload()),
            Some(None) => return Ok(Begun { bytes: joined(first, &more), rest: None }),
            None => return Err(ProxyError::slow_client()),
        };
        pace.received(frame.data_ref().map_or(0, Bytes::len));
        match frame.into_data() {
            Ok(data) if first.is_empty() && more.is_empty() => first = data,
            Ok(data) => more.extend_from_slice(&data),
            Err(trailers) => {
                // Rare enough to take the streaming way, which can carry them.
                let rest = Body::new(Trailers(trailers.into_trailers().ok()));
                return Ok(Begun { bytes: joined(first, &more), rest: Some(rest) });
            }
        }
        if (first.len() + more.len()) as u64 > most {
            return Err(ProxyError::too_large(most));
        }
        if body.is_end_stream() {
            return Ok(Begun { bytes: joined(first, &more), rest: None });
        }
    }
    Ok(Begun { bytes: joined(first, &more), rest: Some(Body::new(body)) })
}

/// What is left of a body whose trailers have been read. Its size is not told: a body of known size is sent with a
/// length, and trailers need chunks.
struct Trailers(Option<HeaderMap>);

impl http_body::Body for Trailers {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.get_mut().0.take().map(|trailers| Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }
}

fn joined(first: Bytes, more: &BytesMut) -> Bytes {
    if more.is_empty() {
        return first;
    }
    let mut all = BytesMut::with_capacity(first.len() + more.len());
    all.extend_from_slice(&first);
    all.extend_from_slice(more);
    all.freeze()
}
