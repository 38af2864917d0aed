//! The HTTP side of an emulated server: accept loop, connections, routes.
//!
//! hyper without a framework: an emulator shares its cores with the proxy that it is to measure, so it must cost
//! little, and faults reach below what frameworks offer (a response that never comes, a TCP reset).

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::SystemTime;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::EmulatorSpec;
use super::body::{Break, Reply, ResetFlag, TokenStream};
use super::engine::{Engine, Place};
use super::fault::Fault;
use super::openai::{Answer, Asked, Flavour, marker};
use super::text::text_of;
use crate::sim::{Text, Work};

/// Bytes of a request that an emulated server reads.
const REQUEST_BYTES_MAX: usize = 64 * 1024 * 1024;

type Failure = Box<dyn std::error::Error + Send + Sync>;
type Answered = Result<Response<Reply>, Failure>;

/// What the listener is told; the sender hears when it is done.
#[derive(Debug)]
pub(super) enum Order {
    /// Listen, or as a dead process do not.
    Listen(bool, oneshot::Sender<io::Result<()>>),
}

/// What every connection of a server shares.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) spec: EmulatorSpec,
    pub(super) engine: Arc<Engine>,
}

/// Accepts until the sender of orders is gone.
pub(super) async fn accept(
    service: Arc<Service>,
    listener: TcpListener,
    addr: SocketAddr,
    mut orders: mpsc::Receiver<Order>,
) {
    let mut listener = Some(listener);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            order = orders.recv() => {
                let Some(Order::Listen(listen, done)) = order else { return };
                let outcome = if listen {
                    reopen(&mut listener, addr).await
                } else {
                    listener = None;
                    connections.shutdown().await;
                    Ok(())
                };
                // Whoever asked may be gone; the order stands.
                let _ = done.send(outcome);
            }
            accepted = next_connection(listener.as_ref()) => {
                // An accept that fails is the client's affair: it left before it was served.
                if let Ok((stream, _)) = accepted {
                    service.engine.count(|counters| counters.connections += 1);
                    connections.spawn(connection(Arc::clone(&service), stream));
                }
            }
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
        }
    }
}

async fn reopen(listener: &mut Option<TcpListener>, addr: SocketAddr) -> io::Result<()> {
    if listener.is_none() {
        *listener = Some(TcpListener::bind(addr).await?);
    }
    Ok(())
}

async fn next_connection(listener: Option<&TcpListener>) -> io::Result<(TcpStream, SocketAddr)> {
    match listener {
        Some(listener) => listener.accept().await,
        None => std::future::pending().await,
    }
}

async fn connection(service: Arc<Service>, stream: TcpStream) {
    // Without it, small events would wait for acknowledgements of earlier ones.
    let _ = stream.set_nodelay(true);
    let reset = ResetFlag::default();
    let io = TokioIo::new(Resettable { stream, reset: Arc::clone(&reset) });
    let handle = hyper::service::service_fn(move |request| serve(Arc::clone(&service), Arc::clone(&reset), request));
    // How a connection ends (client gone, a fault) shows in the counters.
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, handle).await;
}

async fn serve(service: Arc<Service>, reset: ResetFlag, request: Request<Incoming>) -> Answered {
    let fault = service.engine.fault();
    let path = request.uri().path().to_owned();
    match (request.method(), path.as_str()) {
        (_, "/emulator/counters") => {
            Ok(reply(&service, 200, Bytes::from(json!(service.engine.counters()).to_string())))
        }
        _ if fault == Fault::NeverAnswer => {
            let _gone = Asking::of(&service, request.method() == Method::POST);
            std::future::pending().await
        }
        (&Method::GET, "/health") if fault == Fault::EngineDead => Ok(error(&service, 503, "the engine is dead", None)),
        (&Method::GET, "/health") => Ok(reply(&service, 200, Bytes::from_static(b"{\"status\":\"ok\"}"))),
        (&Method::GET, "/get_load") => Ok(reply(&service, 200, load(&service))),
        (&Method::GET, "/v1/models") => Ok(reply(&service, 200, models(&service))),
        (&Method::POST, "/v1/chat/completions") => {
            compute(&service, fault, &reset, request, Kind::Text(Flavour::Chat)).await
        }
        (&Method::POST, "/v1/completions") => {
            compute(&service, fault, &reset, request, Kind::Text(Flavour::Text)).await
        }
        (&Method::POST, "/v1/embeddings") => compute(&service, fault, &reset, request, Kind::Embeddings).await,
        (&Method::POST, path) if path.starts_with("/api/") => {
            compute(&service, fault, &reset, request, Kind::Plain).await
        }
        _ => Ok(error(&service, 404, "no such path here", None)),
    }
}

/// A request that nothing is computed for; counts as cancelled when the client leaves.
struct Asking<'a>(&'a Service);

impl<'a> Asking<'a> {
    fn of(service: &'a Service, computes: bool) -> Option<Asking<'a>> {
        computes.then(|| {
            service.engine.count(|counters| counters.started += 1);
            Asking(service)
        })
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.engine.count(|counters| counters.cancelled += 1);
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text(Flavour),
    Embeddings,
    Plain,
}

async fn compute(
    service: &Arc<Service>,
    fault: Fault,
    reset: &ResetFlag,
    request: Request<Incoming>,
    kind: Kind,
) -> Answered {
    let engine = &service.engine;
    engine.count(|counters| counters.started += 1);
    let answered_at_once = match fault {
        Fault::Status { status, retry_after_s } => Some((status, retry_after_s)),
        Fault::EngineDead => Some((500, None)),
        _ => None,
    };
    if let Some((status, retry_after_s)) = answered_at_once {
        engine.count(|counters| counters.faulted += 1);
        return Ok(error(service, status, "the emulated server fails", retry_after_s));
    }
    let cut = Break::of(fault, reset);
    if let Some(cut) = cut.as_ref().filter(|cut| cut.before_the_head()) {
        engine.count(|counters| counters.faulted += 1);
        return Err(cut.error().into());
    }
    let path = request.uri().path().to_owned();
    let Ok(body) = Limited::new(request.into_body(), REQUEST_BYTES_MAX).collect().await else {
        engine.count(|counters| counters.cancelled += 1);
        return Err("the request body did not arrive".into());
    };
    let body = body.to_bytes();
    let Ok(asked) = serde_json::from_slice::<Asked>(&body) else {
        engine.count(|counters| counters.faulted += 1);
        return Ok(error(service, 400, "the body is no JSON object of a known shape", None));
    };
    let work = work_of(service, &asked, &body, kind);
    let text = match service.spec.cache_tokens {
        Some(_) if kind != Kind::Plain => text_of(&asked, work.output_tokens),
        _ => Text::default(),
    };
    let (mut place, cached) = engine.submit(work, &text);
    let answer = Answer {
        flavour: if let Kind::Text(flavour) = kind { flavour } else { Flavour::Text },
        id: place.id(),
        model: asked.model.clone().unwrap_or_else(|| service.spec.model().to_owned()),
        prompt_tokens: work.prompt_tokens,
        cached_tokens: service.spec.cache_tokens.map(|_| cached),
        output_tokens: work.output_tokens,
        created: SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs()),
    };
    if asked.stream && matches!(kind, Kind::Text(_)) {
        if !service.spec.head_delay.is_zero() {
            tokio::time::sleep(service.spec.head_delay).await;
        }
        let stream = TokenStream::new(place, answer.events(asked.include_usage()), cut);
        let mut response = reply_with(service, 200, Reply::Stream(Box::new(stream)));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        return Ok(response);
    }
    place.all().await;
    let whole = match kind {
        Kind::Text(_) => answer.whole(),
        Kind::Embeddings => answer.embeddings(asked.inputs()),
        Kind::Plain => Bytes::from(json!({"endpoint": path, "work_ms": work.plain_s * 1e3}).to_string()),
    };
    Ok(whole_reply(service, whole, cut, &mut place))
}

fn whole_reply(service: &Service, whole: Bytes, cut: Option<Break>, place: &mut Place) -> Response<Reply> {
    match cut {
        Some(cut) => {
            place.fail();
            reply_with(service, 200, Reply::cut(&whole, cut))
        }
        None => {
            place.finish();
            reply(service, 200, whole)
        }
    }
}

/// What the request costs: as its text tells, otherwise drawn.
fn work_of(service: &Service, asked: &Asked, body: &[u8], kind: Kind) -> Work {
    let draw = |lengths| service.engine.draw(lengths);
    let output_tokens = match kind {
        Kind::Embeddings => 1,
        _ => marker(body, "output").unwrap_or_else(|| draw(&service.spec.outputs)).round() as u32,
    };
    let plain_s = match marker(body, "work_ms") {
        Some(milliseconds) => milliseconds / 1e3,
        None => draw(&service.spec.plain_work_s),
    };
    let prompt_tokens = match kind {
        Kind::Plain => u32::try_from(body.len() / 4).unwrap_or(u32::MAX),
        _ => asked.prompt_tokens(),
    };
    Work { prompt_tokens, output_tokens: output_tokens.min(asked.output_limit()).max(1), plain_s: plain_s.max(0.0) }
}

/// The present load as SGLang tells it to its router, which chooses by the number of tokens.
fn load(service: &Service) -> Bytes {
    let (running, waiting, tokens) = service.engine.load();
    let load = json!([
        {"dp_rank": 0, "num_reqs": running + waiting, "num_waiting_reqs": waiting, "num_tokens": tokens}
    ]);
    Bytes::from(load.to_string())
}

fn models(service: &Service) -> Bytes {
    let model = |name: &String| json!({"id": name, "object": "model", "created": 0, "owned_by": "emulator"});
    let data: Vec<_> = service.spec.models.iter().map(model).collect();
    Bytes::from(json!({"object": "list", "data": data}).to_string())
}

fn reply(service: &Service, status: u16, body: Bytes) -> Response<Reply> {
    reply_with(service, status, Reply::from(body))
}

fn reply_with(service: &Service, status: u16, body: Reply) -> Response<Reply> {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Ok(name) = HeaderValue::from_str(&service.spec.name) {
        headers.insert(super::NODE_HEADER, name);
    }
    response
}

fn error(service: &Service, status: u16, message: &str, retry_after_s: Option<u32>) -> Response<Reply> {
    let kind = if status >= 500 { "server_error" } else { "invalid_request_error" };
    let body = json!({"error": {"message": message, "type": kind, "code": status}}).to_string();
    let mut response = reply(service, status, Bytes::from(body));
    if let Some(seconds) = retry_after_s {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// A connection that can be told to end with a TCP reset.
#[derive(Debug)]
struct Resettable {
    stream: TcpStream,
    reset: Arc<AtomicBool>,
}

impl Drop for Resettable {
    fn drop(&mut self) {
        if self.reset.load(Ordering::Relaxed) {
            // A close without lingering is a reset; where that cannot be set, it ends as any other connection.
            let _ = self.stream.set_zero_linger();
        }
    }
}

impl AsyncRead for Resettable {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Resettable {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
