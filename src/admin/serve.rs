//! The admin listener: an accept loop with the bounds that `axum::serve` lacks.
//!
//! A client that sends half a header, reads nothing or never leaves must not cost the operator the access to the
//! proxy. So heads, bodies and whole requests have deadlines, connections have a number and an age, and the stop has an
//! end. HTTP/1.1 only: nobody operates a proxy over a thousand parallel streams.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response, StatusCode};
use axum::response::IntoResponse;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tower_service::Service;

use super::door::{Door, Peer, Stream};
use super::events::Ending;
use super::handshakes::{HandshakeBounds, Handshakes};
use super::live::Live;
use super::problem::Problem;
use crate::app::App;
use crate::config::AdminListen;
use crate::tls::Certified;

/// Bytes of a request head.
const HEAD_BYTES_MAX: usize = 32 * 1024;

/// Header fields of a request.
const HEADERS_MAX: usize = 64;

/// The pause after a failed accept: usually there are no descriptors left, and trying at once would only burn a core.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What an exposed listener needs.
const GUARDS: &str = "a token or client certificates: set [[admin.token]] or admin.tls.client_ca";

/// The bounds of the admin listener.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Connections at once; further ones wait in the system's queue.
    pub connections_max: usize,
    /// From a connection to the end of its TLS handshake.
    pub handshake: Duration,
    /// TLS handshakes at once; who comes while so many run is cut.
    pub handshakes_max: usize,
    /// Of those, from one client.
    pub client_handshakes_max: usize,
    /// From a connection, or the end of a response, to the end of the next request head.
    pub head: Duration,
    /// From a request head to its response: the body is read in it.
    pub request: Duration,
    /// How old a connection may become; a client that reads nothing is gone after it.
    pub connection: Duration,
    /// How long a stop waits for what runs.
    pub stop: Duration,
}

impl Bounds {
    fn handshakes(&self) -> HandshakeBounds {
        let Bounds { handshake: deadline, handshakes_max: most, client_handshakes_max: per_client, .. } = *self;
        HandshakeBounds { most, per_client, deadline }
    }
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds {
            connections_max: 256,
            handshake: Duration::from_secs(5),
            handshakes_max: 64,
            client_handshakes_max: 16,
            head: Duration::from_secs(10),
            request: Duration::from_secs(30),
            connection: Duration::from_secs(600),
            stop: Duration::from_secs(2),
        }
    }
}

/// Serves the admin API at `door` until `shutdown` ends, then for at most two seconds what runs.
///
/// # Errors
/// The listener is not on loopback and neither a token nor a client certificate is asked for: it would let everybody do
/// everything.
pub async fn serve(door: Door, app: Arc<App>, shutdown: impl Future<Output = ()>) -> io::Result<()> {
    serve_within(Bounds::default(), door, app, shutdown).await
}

/// [`serve`] with other bounds.
///
/// # Errors
/// As for [`serve`].
pub async fn serve_within(
    bounds: Bounds,
    door: Door,
    app: Arc<App>,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    if let Some(address) = door.address()?
        && !AdminListen::from(address).is_private()
        && !app.settings.load().admin.is_guarded()
    {
        let why = format!("the admin API does not listen on {address} without {GUARDS}");
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    }
    let door = door.open()?;
    let live = Arc::new(Live::default());
    let router = super::router_with(Arc::clone(&app), Arc::clone(&live));
    let places = Arc::new(Semaphore::new(bounds.connections_max));
    let (stop, stopping) = watch::channel(false);
    let handshakes = Handshakes::default();
    let mut connections = JoinSet::new();
    let mut shutdown = std::pin::pin!(shutdown);
    let mut remembering = std::pin::pin!(live.remember(&app));
    loop {
        let accept = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, door.accept().await)
        };
        let (place, accepted) = tokio::select! {
            () = &mut shutdown => break,
            () = &mut remembering => break,
            accepted = accept => accepted,
        };
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok((stream, peer)) => {
                let (router, stopping) = (router.clone(), stopping.clone());
                // As of now: a reload may have brought a new certificate.
                let tls = app.settings.load().admin.tls.as_ref().map(|tls| tls.server.clone());
                let handshakes = handshakes.clone();
                connections.spawn(async move {
                    let secured = match tls {
                        Some(tls) => handshakes.secure(bounds.handshakes(), &tls, stream, peer).await,
                        None => Some((stream, None)),
                    };
                    if let Some((stream, certified)) = secured {
                        carry(bounds, stream, Visitor { peer, certified }, router, stopping).await;
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the admin listener cannot accept");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(door);
    let _ = stop.send(true);
    let _ = timeout(bounds.stop, async { while connections.join_next().await.is_some() {} }).await;
    connections.abort_all();
    Ok(())
}

/// Who is at the other end of a connection.
#[derive(Clone)]
struct Visitor {
    peer: Peer,
    /// By which certificate, if one was asked for.
    certified: Option<Certified>,
}

/// One connection, to its end.
async fn carry(
    bounds: Bounds,
    stream: Box<dyn Stream>,
    visitor: Visitor,
    router: Router,
    mut stopping: watch::Receiver<bool>,
) {
    let ending = Ending(stopping.clone());
    let peer = visitor.peer;
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(ending.clone());
        answer(bounds.request, router.clone(), visitor.clone(), request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.head)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        () = sleep(bounds.connection) => None,
        _ = stopping.wait_for(|stopping| *stopping) => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            connection.as_mut().graceful_shutdown();
            timeout(bounds.request, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, %error, "an admin connection ended early");
    }
}

async fn answer(
    bound: Duration,
    mut router: Router,
    visitor: Visitor,
    request: Request<Incoming>,
) -> Result<Response<Body>, std::convert::Infallible> {
    let mut request = request.map(Body::new);
    request.extensions_mut().insert(visitor.peer);
    if let Some(certified) = visitor.certified {
        request.extensions_mut().insert(certified);
    }
    match timeout(bound, router.call(request)).await {
        Ok(response) => response,
        Err(_) => {
            let detail = format!("the request was not complete within {} s", bound.as_secs_f64());
            Ok(Problem::new(StatusCode::REQUEST_TIMEOUT, detail).into_response())
        }
    }
}
