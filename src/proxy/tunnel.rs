//! WebSocket and other upgrades: once both sides have switched protocols, bytes pass in both directions.
//!
//! An upgraded connection is never pooled and is counted by its ticket until either side closes, so that limits, drain
//! and metrics see it, or until both have been silent for so long that one of them must be taken for gone: a client that
//! vanishes behind a router says nothing. How long it lives says nothing about the node's speed: it leaves no latency
//! label. Which protocols may be switched to is for the operator to say; what else is asked for is ignored.

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use http::{HeaderValue, StatusCode, Version, header, response};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf, copy_bidirectional};
use tokio::time::{Instant, sleep, timeout};

use crate::balancer::Ticket;
use crate::node::NodeId;
use crate::outcome::{Failure, Outcome};
use crate::proxy::alarm::Alarm;
use crate::proxy::attempt::{no_response, not_connected};
use crate::proxy::connection::Busy;
use crate::proxy::forward::Passage;
use crate::proxy::headers;
use crate::proxy::intake::Intake;
use crate::proxy::outgoing::Outgoing;
use crate::proxy::reply::ProxyError;
use crate::proxy::server::Counted;
use crate::proxy::story::Story;
use crate::proxy::upload::RequestBody;
use crate::proxy::upstream::{Switched, Upstream};
use crate::proxy::worker::Worker;

/// A wish to leave HTTP that can be granted.
pub(super) struct Wish {
    /// The protocols that the node is asked for.
    protocols: HeaderValue,
    /// The client's side, once it has its 101.
    client: OnUpgrade,
}

impl Wish {
    /// What `upgrade` asks for, as far as it is allowed. All else is an ordinary request, as a server may ignore the
    /// field (RFC 9110, 7.8): a protocol that nobody allowed, such as `h2c`, would leave every limit, route and rate
    /// behind; and a body, which the client may break or hold back, would be told from a node's failure only by luck.
    pub(super) fn of(request: &mut Outgoing, upgrade: &HeaderValue, allowed: &[String]) -> Option<Wish> {
        if !matches!(request.body, RequestBody::Empty) {
            return None;
        }
        // hyper gives none for HTTP/1.0, where the field means nothing.
        let client = request.head.extensions.remove::<OnUpgrade>()?;
        let may = |wish: &&str| {
            let name = wish.split('/').next().unwrap_or_default();
            allowed.iter().any(|allowed| allowed.eq_ignore_ascii_case(name))
        };
        let wishes: Vec<&str> = upgrade.to_str().ok()?.split(',').map(str::trim).filter(may).collect();
        let protocols = HeaderValue::try_from(wishes.join(", ")).ok().filter(|_| !wishes.is_empty())?;
        Some(Wish { protocols, client })
    }
}

impl Passage {
    /// Asks a node to switch protocols. The attempt is repeated elsewhere only if no connection to the node can be had:
    /// a handshake is a request that a node may have begun to work on.
    pub(super) async fn tunnel(
        &mut self,
        mut request: Box<Outgoing>,
        intake: Intake,
        wish: Wish,
        alarm: &mut Alarm,
    ) -> Result<Response, ProxyError> {
        request.head.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        request.head.headers.insert(header::UPGRADE, wish.protocols.clone());
        let mut tried: Vec<NodeId> = Vec::new();
        let (ticket, mut upstream) = loop {
            let verdict = self.decide(&intake, &tried, &request);
            let ticket = self.settle(verdict, intake.shape.model.as_deref(), alarm).await?;
            let app = &self.worker.app;
            let (settings, patience) = (&self.settings, self.timeouts().connect);
            let connected =
                Upstream::connect(ticket.node(), &app.open_connections, settings, patience, ticket.started()).await;
            let failed = match connected {
                Ok(upstream) => break (ticket, upstream),
                Err(error) => not_connected(error, &ticket.node().spec.name, request),
            };
            let now = app.clock.now();
            tried.push(ticket.node().id);
            self.end(ticket, now, failed.outcome);
            let model = intake.shape.model.as_deref();
            let Some(unsent) = failed.unsent.filter(|_| self.may_try_again(&tried, model, now)) else {
                return Err(failed.error);
            };
            app.telemetry.retried("unsent");
            request = unsent;
        };
        request.address(ticket.node(), self.settings.forward.preserve_host);
        if let Some(story) = &self.story {
            story.pass_on(ticket.node().id, &mut request.told);
        }
        let (patience, deadline) = (self.timeouts().first_byte, self.deadline);
        let failed = match alarm.within(patience, deadline, upstream.exchange(request)).await {
            Some(Ok(head)) if head.status == StatusCode::SWITCHING_PROTOCOLS => {
                return self.switch(ticket, upstream, head, wish);
            }
            // A node that does not want to answers as to any other request.
            Some(Ok(head)) => return Ok(self.relay(ticket, upstream, head, &intake)),
            Some(Err(error)) => no_response(error, None, &ticket.node().spec.name, None),
            None => self.late(&ticket.node().spec.name, ticket.started(), patience, None),
        };
        self.end(ticket, self.worker.app.clock.now(), failed.outcome);
        Err(failed.error)
    }

    /// The node switches: its connection and the client's become the two ends of a tunnel.
    fn switch(
        &mut self,
        mut ticket: Ticket,
        upstream: Upstream,
        mut head: response::Parts,
        wish: Wish,
    ) -> Result<Response, ProxyError> {
        let worker = Arc::clone(&self.worker);
        let now = worker.app.clock.now();
        ticket.first_byte(now);
        let accepted = head.headers.get(header::UPGRADE).cloned();
        let seen = headers::Survey::of(&head.headers);
        headers::strip_hop_by_hop(&mut head.headers, seen);
        headers::append_via(&mut head.headers);
        if let Some(id) = self.request_id.take() {
            head.headers.insert(headers::X_REQUEST_ID, id);
        }
        head.version = Version::HTTP_11;
        head.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        head.headers.insert(header::UPGRADE, accepted.unwrap_or(wish.protocols));
        let Some(node) = upstream.into_switched() else {
            self.end(ticket, now, Outcome::Failed(Failure::Protocol));
            return Err(ProxyError::internal("this connection cannot be upgraded"));
        };
        let status = head.status.as_u16();
        worker.app.telemetry.answered(Some(ticket.node()), status);
        if let Some(story) = &mut self.story {
            story.status = status;
        }
        // The connection that asked is over as such: from here on the tunnel is what is counted and waited for.
        let counted = Counted::new(&worker.app, &worker);
        let tunnel =
            Tunnel { ticket, story: self.story.take(), busy: self.busy.take(), idle: self.timeouts().tunnel_idle };
        tokio::spawn(async move {
            tunnel.carry(worker, wish.client, node).await;
            drop(counted);
        });
        Ok(Response::from_parts(head, Body::empty()))
    }
}

/// A tunnel as long as it is open.
struct Tunnel {
    ticket: Ticket,
    story: Option<Box<Story>>,
    busy: Option<Busy>,
    idle: Duration,
}

impl Tunnel {
    /// Carries bytes both ways until either side is done, or both have been silent for too long.
    async fn carry(self, worker: Arc<Worker>, client: OnUpgrade, node: Switched) {
        let Tunnel { ticket, story, busy, idle } = self;
        // One side breaking is a usual end: the other is closed by dropping it, which is all that a tunnel can say.
        let carried = match timeout(SWITCH_MAX, client).await {
            Ok(Ok(client)) => carry_both(TokioIo::new(client), node, idle).await,
            _ => 0,
        };
        let now = worker.app.clock.now();
        let outcome = Outcome::Completed { status: StatusCode::SWITCHING_PROTOCOLS.as_u16() };
        if let Some(mut story) = story {
            story.bytes = carried;
            story.ended(ticket.node().id, now, outcome);
            story.tell(now, outcome.word());
        }
        ticket.finish(now, outcome);
        drop(busy);
    }
}

/// Bytes that went to the client.
async fn carry_both(client: TokioIo<Upgraded>, mut node: Switched, idle: Duration) -> u64 {
    let (from_client, from_node) = (Traffic::default(), Traffic::default());
    let mut client = Watched { io: client, traffic: &from_client };
    let carrying = async {
        client.write_all(&node.begun).await?;
        let mut node = Watched { io: &mut node.stream, traffic: &from_node };
        copy_bidirectional(&mut client, &mut node).await
    };
    let mut carrying = pin!(carrying);
    let mut timer = pin!(sleep(idle));
    let mut half_closed = false;
    std::future::poll_fn(|cx| {
        if carrying.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let ended = [&from_client, &from_node].iter().any(|traffic| traffic.ended.load(Ordering::Relaxed));
        let patience = if ended { idle.min(HALF_CLOSED_IDLE) } else { idle };
        if ended && !std::mem::replace(&mut half_closed, true) {
            timer.as_mut().reset(Instant::now() + patience);
        }
        while timer.as_mut().poll(cx).is_ready() {
            let moved = [&from_client, &from_node].map(|traffic| traffic.moved.swap(false, Ordering::Relaxed));
            if moved == [false; 2] {
                return Poll::Ready(());
            }
            timer.as_mut().reset(Instant::now() + patience);
        }
        Poll::Pending
    })
    .await;
    from_client.written.load(Ordering::Relaxed)
}

/// What is known of one side of a tunnel.
#[derive(Debug, Default)]
struct Traffic {
    /// Whether it sent or took anything since somebody looked.
    moved: AtomicBool,
    /// Whether it will send nothing more.
    ended: AtomicBool,
    /// Bytes that it took.
    written: AtomicU64,
}

/// One side of a tunnel, watched.
struct Watched<'a, S> {
    io: S,
    traffic: &'a Traffic,
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<'_, S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
        let flag = if buf.filled().len() > before { &this.traffic.moved } else { &this.traffic.ended };
        flag.store(true, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<'_, S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let taken = ready!(Pin::new(&mut this.io).poll_write(cx, buf))?;
        this.traffic.moved.store(true, Ordering::Relaxed);
        this.traffic.written.fetch_add(taken as u64, Ordering::Relaxed);
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

/// The longest that the client's side may take to hand over its connection after the 101.
const SWITCH_MAX: Duration = Duration::from_secs(10);

/// How long the other side may be silent once one has closed: there is nobody left who would ask it for anything.
const HALF_CLOSED_IDLE: Duration = Duration::from_secs(30);
