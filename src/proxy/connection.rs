//! One client connection: its life, its timeouts, its end.
//!
//! hyper's own timer covers only the reading of a head, and restarts for every request. Here one timer per connection
//! sleeps through whole requests: it looks when it fires, and moves itself to the earliest moment at which anything
//! could be overdue. So keep-alive requests cost no timer operation at all, and a client that sends nothing, or one
//! byte, is cut like every other.

use std::error::Error;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use http::Request;
use http_body::Body as HttpBody;
use hyper::body::Incoming;
use hyper::rt::{Read, Write};
use hyper::server::conn::http1;
use hyper::service::{HttpService, service_fn};
use hyper_util::rt::TokioIo;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::admission::Place;
use crate::clock::Time;
use crate::config::Settings;
use crate::proxy::alarm::Alarm;
use crate::proxy::forward::handle;
use crate::proxy::framing::{ConnState, GuardedIo, Limits as FramingLimits};
use crate::proxy::headers::Introduction;
use crate::proxy::intake::address_hash;
use crate::proxy::overdue::{LOOK_EVERY, Look, Overdue};
use crate::proxy::server::Phase;
use crate::proxy::worker::Worker;

/// What the requests of one connection share.
#[derive(Debug)]
pub(super) struct Conn {
    pub(super) worker: Arc<Worker>,
    pub(super) peer: SocketAddr,
    pub(super) framing: Arc<ConnState>,
    pub(super) introduction: Introduction,
    requests: AtomicU64,
    /// Requests whose response has not ended.
    open: AtomicU32,
    idle_since: AtomicU64,
    /// A hash of the peer's address, for affinity.
    pub(super) peer_hash: u64,
    /// The timer of its requests, while none uses it.
    alarm: Mutex<Option<Alarm>>,
    /// What its client holds by it, also while a tunnel does.
    _place: Option<Place>,
}

/// A request of a connection is under way; the connection is not idle as long as this lives.
#[derive(Debug)]
pub(super) struct Busy {
    conn: Arc<Conn>,
    ended: bool,
    /// What its client holds by it.
    place: Option<Place>,
}

impl Conn {
    pub(super) fn new(worker: Arc<Worker>, peer: SocketAddr, place: Option<Place>, framing: Arc<ConnState>) -> Conn {
        let now = worker.app.clock.now();
        let introduction = Introduction::new(peer.ip(), &worker.app.settings.load().forward.trusted_proxies);
        Conn {
            worker,
            peer,
            framing,
            introduction,
            requests: AtomicU64::new(0),
            open: AtomicU32::new(0),
            idle_since: AtomicU64::new(now.as_micros()),
            peer_hash: address_hash(peer.ip()),
            alarm: Mutex::new(None),
            _place: place,
        }
    }

    /// Starts the next request; returns its index on this connection, from 0.
    pub(super) fn begin(self: &Arc<Self>) -> (u64, Busy) {
        self.open.fetch_add(1, Ordering::Relaxed);
        (self.requests.fetch_add(1, Ordering::Relaxed), Busy { conn: Arc::clone(self), ended: false, place: None })
    }

    /// The timer for the waits of a request; a new one would ring after `patience`.
    pub(super) fn take_alarm(&self, patience: Duration) -> Alarm {
        let kept = self.alarm.lock().unwrap_or_else(PoisonError::into_inner).take();
        kept.unwrap_or_else(|| Alarm::new(tokio::time::Instant::now() + patience))
    }

    /// Keeps the timer for the next request.
    pub(super) fn keep_alarm(&self, alarm: Alarm) {
        *self.alarm.lock().unwrap_or_else(PoisonError::into_inner) = Some(alarm);
    }

    /// Requests so far.
    pub(super) fn served(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Whether a response has not ended.
    pub(super) fn is_busy(&self) -> bool {
        self.open.load(Ordering::Relaxed) > 0
    }

    /// When the last response ended.
    pub(super) fn idle_since(&self) -> Time {
        Time::from_micros(self.idle_since.load(Ordering::Relaxed))
    }
}

impl Busy {
    /// The request begins or ends to wait for a node.
    pub(super) fn waits(&self, waits: bool) {
        self.conn.framing.set_awaiting(waits);
    }

    /// Holds the place of its client until the request has ended.
    pub(super) fn hold(&mut self, place: Place) {
        self.place = Some(place);
    }

    /// The request has ended, `now`.
    pub(super) fn end(&mut self, now: Time) {
        if !std::mem::replace(&mut self.ended, true) {
            self.conn.idle_since.store(now.as_micros(), Ordering::Relaxed);
            self.conn.open.fetch_sub(1, Ordering::Relaxed);
            self.place = None;
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        if !self.ended {
            self.end(self.conn.worker.app.clock.now());
        }
    }
}

/// When a new connection, or one that comes back to life, is looked at for the first time: most clients that ask once
/// and stay have their answer by then. Those that go on asking pay for one look more.
const FIRST_LOOK: Duration = Duration::from_millis(200);

/// hyper refuses buffers below this.
const MIN_BUFFER: usize = 8 * 1024;

/// The bound of header fields that hyper keeps without asking for memory with every request.
const HEADERS_INLINE: usize = 100;

/// Serves one client until it leaves, is cut, or the proxy stops.
///
/// A client that stays idle is *parked*: hyper's connection with its buffers is taken down to the bare socket, and set up
/// again when something arrives. Thousands of idle clients then cost little more than their sockets.
pub(super) async fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    place: Option<Place>,
    worker: Arc<Worker>,
    mut phases: watch::Receiver<Phase>,
) {
    let app = Arc::clone(&worker.app);
    let settings = app.settings.load_full();
    let framing = Arc::new(ConnState::default());
    let conn = Arc::new(Conn::new(worker, peer, place, Arc::clone(&framing)));
    // Not a router: it would look the path up among routes that do not exist, and box every request.
    let handling = Arc::clone(&conn);
    let mut service = service_fn(move |request: Request<Incoming>| handle(Arc::clone(&handling), request));
    let mut io = TokioIo::new(GuardedIo::new(stream, framing_limits(&settings), framing).asking(has_left));
    let builder = builder(&settings);
    let accepted = app.clock.now();
    let mut overdue = Overdue::new(&settings, accepted);
    drop(settings);
    loop {
        let mut serving = Box::pin(builder.serve_connection(io, service).with_upgrades());
        if !is_idle_after(serving.as_mut(), &conn, &mut overdue, &phases).await {
            return;
        }
        let Some(parts) = Pin::into_inner(serving).into_parts() else { return };
        // A complete head would have become a request; what is incomplete, the guard has kept.
        debug_assert!(parts.read_buf.is_empty());
        (io, service) = (parts.io, parts.service);
        let limit = conn.idle_since().after(overdue.timeouts.idle);
        let patience = limit.since(app.clock.now());
        let _parked = Parked::new(&app.parked);
        tokio::select! {
            arrived = io.inner().get_ref().readable() => if arrived.is_err() { return },
            () = tokio::time::sleep(patience) => return,
            _ = phases.wait_for(|phase| *phase == Phase::Stopping) => return,
        }
    }
}

/// Whether the client has closed its side, or reset the connection: known without reading what it sent before.
fn has_left(stream: &TcpStream) -> bool {
    let mut ready = pin!(stream.ready(Interest::READABLE));
    match ready.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Ok(ready)) => ready.is_read_closed(),
        Poll::Ready(Err(_)) => true,
        Poll::Pending => false,
    }
}

/// Counts a parked connection as long as it is.
struct Parked<'a>(&'a AtomicUsize);

impl<'a> Parked<'a> {
    fn new(count: &'a AtomicUsize) -> Parked<'a> {
        count.fetch_add(1, Ordering::Relaxed);
        Parked(count)
    }
}

impl Drop for Parked<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn framing_limits(settings: &Settings) -> FramingLimits {
    FramingLimits {
        head_bytes_max: settings.limits.head_bytes_max,
        headers_max: settings.limits.headers_max,
        uri_bytes_max: settings.limits.uri_bytes_max,
    }
}

fn builder(settings: &Settings) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder.max_buf_size(settings.limits.head_bytes_max.max(MIN_BUFFER));
    if settings.limits.headers_max > HEADERS_INLINE {
        builder.max_headers(settings.limits.headers_max);
    }
    builder
}

/// Drives a connection until it has ended or is cut (`false`), or has been idle for a look (`true`).
async fn is_idle_after<F: Serving>(
    mut serving: Pin<&mut F>,
    conn: &Conn,
    overdue: &mut Overdue,
    phases: &watch::Receiver<Phase>,
) -> bool {
    let app = &conn.worker.app;
    let first_look = overdue.timeouts.first_request.min(FIRST_LOOK);
    let mut timer = pin!(tokio::time::sleep(first_look));
    let mut listening = phases.clone();
    let mut stop = pin!(async move {
        // An error means that nobody can tell us to stop any more, which is a stop too.
        let _ = listening.wait_for(|phase| *phase == Phase::Stopping).await;
    });
    let (mut told, mut listens, mut before) = (false, false, None);
    std::future::poll_fn(|cx| {
        if !listens {
            // One poll leaves the waker; from then on a flag tells, which is cheaper to look at with every event.
            listens = true;
            let _ = stop.as_mut().poll(cx);
        }
        let ends = app.is_stopping();
        let is_to_go = |before| overdue.is_to_go(conn, *phases.borrow(), before, app.clock.now());
        if ends && !told && is_to_go(*before.get_or_insert_with(|| conn.served())) {
            told = true;
            serving.as_mut().graceful_shutdown();
        }
        if serving.as_mut().poll(cx).is_ready() {
            return Poll::Ready(false);
        }
        if ends && !told && conn.is_busy() && before.is_some_and(is_to_go) {
            // The answer to the request that has just come tells the client.
            told = true;
            serving.as_mut().graceful_shutdown();
            cx.waker().wake_by_ref();
        }
        while timer.as_mut().poll(cx).is_ready() {
            let now = app.clock.now();
            match overdue.look(conn, now) {
                Look::Close => return Poll::Ready(false),
                Look::Park if !told => return Poll::Ready(true),
                Look::Park => timer.as_mut().reset(tokio::time::Instant::now() + LOOK_EVERY),
                Look::Again(at) => timer.as_mut().reset(tokio::time::Instant::now() + at.since(now)),
            }
        }
        Poll::Pending
    })
    .await
}

/// A connection that hyper serves, without the names of its type.
trait Serving: Future {
    fn graceful_shutdown(self: Pin<&mut Self>);
}

impl<I, B, S> Serving for http1::UpgradeableConnection<I, S>
where
    http1::UpgradeableConnection<I, S>: Future,
    S: HttpService<Incoming, ResBody = B>,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
    I: Read + Write + Unpin,
    B: HttpBody + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    fn graceful_shutdown(self: Pin<&mut Self>) {
        http1::UpgradeableConnection::graceful_shutdown(self);
    }
}
