//! WebSocket and other upgrades: once both sides have switched protocols, bytes pass in both directions.
//!
//! An upgraded connection is never pooled and is counted by its ticket until either side closes, so that limits, drain
//! and metrics see it. How long it lives says nothing about the node's speed: it leaves no latency label.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use http::{HeaderValue, StatusCode, Version, header, response};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt as _;
use tokio::time::timeout;

use crate::balancer::Ticket;
use crate::config::{Settings, Timeouts};
use crate::node::NodeId;
use crate::outcome::{Failure, Outcome};
use crate::proxy::alarm::Alarm;
use crate::proxy::attempt::not_connected;
use crate::proxy::connection::Busy;
use crate::proxy::forward::Passage;
use crate::proxy::headers;
use crate::proxy::inspect::ResponseScan;
use crate::proxy::intake::Intake;
use crate::proxy::outgoing::Outgoing;
use crate::proxy::relay::{Attempt, Patience, Relay};
use crate::proxy::reply::ProxyError;
use crate::proxy::server::Counted;
use crate::proxy::story::Story;
use crate::proxy::upstream::{ExchangeError, Switched, Upstream};
use crate::proxy::worker::Worker;

/// A tunnel that is about to be opened.
struct Opening {
    ticket: Ticket,
    story: Option<Box<Story>>,
    busy: Option<Busy>,
    timeouts: Timeouts,
    settings: Arc<Settings>,
}

impl Passage {
    /// Asks a node to switch protocols. The attempt is repeated elsewhere only if no connection to the node can be had:
    /// a handshake is a request that a node may have begun to work on.
    pub(super) async fn tunnel(
        &mut self,
        mut request: Box<Outgoing>,
        intake: Intake,
        protocol: HeaderValue,
        alarm: &mut Alarm,
    ) -> Result<Response, ProxyError> {
        let client = request.head.extensions.remove::<OnUpgrade>();
        request.head.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        request.head.headers.insert(header::UPGRADE, protocol.clone());
        let id = self.request_id.clone();
        let mut tried: Vec<NodeId> = Vec::new();
        let (ticket, upstream) = loop {
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
            ticket.finish(now, failed.outcome);
            let Some(unsent) = failed.unsent.filter(|_| self.may_try_again(&tried, now)) else {
                return Err(failed.error);
            };
            app.telemetry.retried("unsent");
            request = unsent;
        };
        request.address(ticket.node(), self.settings.forward.preserve_host);
        let (timeouts, settings) = (self.timeouts().clone(), Arc::clone(&self.settings));
        let opening = Opening { ticket, story: self.story.take(), busy: self.busy.take(), timeouts, settings };
        opening.open(&self.worker, upstream, request, client, protocol, id).await
    }
}

impl Opening {
    /// Asks the node to switch protocols; a node that does not want to answers like to any other request.
    async fn open(
        mut self,
        worker: &Arc<Worker>,
        upstream: Upstream,
        request: Box<Outgoing>,
        client_side: Option<OnUpgrade>,
        protocol: HeaderValue,
        id: Option<HeaderValue>,
    ) -> Result<Response, ProxyError> {
        let answer = self.ask(upstream, request).await;
        let now = worker.app.clock.now();
        let (upstream, mut head) = match answer {
            Ok(answer) => answer,
            Err((failure, token, detail)) => {
                self.ticket.finish(now, Outcome::Failed(failure));
                return Err(ProxyError::failed(failure, token, detail));
            }
        };
        self.ticket.first_byte(now);
        let status = head.status;
        worker.app.telemetry.answered(Some(self.ticket.node()), status.as_u16());
        if let Some(story) = &mut self.story {
            story.status = status.as_u16();
        }
        let accepted = head.headers.get(header::UPGRADE).cloned();
        let seen = headers::Survey::of(&head.headers);
        headers::strip_hop_by_hop(&mut head.headers, seen);
        headers::append_via(&mut head.headers);
        if let Some(id) = id {
            head.headers.insert(headers::X_REQUEST_ID, id);
        }
        head.version = Version::HTTP_11;
        if status != StatusCode::SWITCHING_PROTOCOLS {
            return Ok(Response::from_parts(head, Body::new(self.decline(worker, upstream, status))));
        }
        head.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        head.headers.insert(header::UPGRADE, accepted.unwrap_or(protocol));
        match (client_side, upstream.into_switched()) {
            (Some(client), Some(node)) => {
                // The connection that asked is over as such: from here on the tunnel is what is counted and waited for.
                let counted = Counted::new(&worker.app, worker);
                let carrying = self.carry(Arc::clone(worker), client, node);
                tokio::spawn(async move {
                    carrying.await;
                    drop(counted);
                });
                Ok(Response::from_parts(head, Body::empty()))
            }
            _ => {
                self.ticket.finish(now, Outcome::Failed(Failure::Protocol));
                Err(ProxyError::internal("this connection cannot be upgraded"))
            }
        }
    }

    /// The node answers as to any other request.
    fn decline(self, worker: &Arc<Worker>, upstream: Upstream, status: StatusCode) -> Relay {
        let Opening { ticket, story, busy, timeouts, settings } = self;
        let outcome = Outcome::of_status(status.as_u16(), None);
        let patience = Patience { between: timeouts.between_chunks, deadline: None };
        let worker = Arc::clone(worker);
        let attempt = Attempt { ticket, upstream, story, worker, settings, busy, outcome, prompt_bytes: 0 };
        Relay::new(attempt, ResponseScan::new(None, None), patience)
    }

    async fn ask(
        &self,
        mut upstream: Upstream,
        request: Box<Outgoing>,
    ) -> Result<(Upstream, response::Parts), (Failure, &'static str, String)> {
        let name = &self.ticket.node().spec.name;
        let answer = timeout(self.timeouts.first_byte, upstream.exchange(request)).await;
        match answer {
            Ok(Ok(head)) => Ok((upstream, head)),
            Ok(Err(ExchangeError { source, .. })) if source.is_parse() => {
                let detail = format!("the node {name} sent no valid response: {source}");
                Err((Failure::Protocol, "http_protocol_error", detail))
            }
            Ok(Err(ExchangeError { source, .. })) => {
                let detail = format!("the node {name} broke the connection: {source}");
                Err((Failure::Broken, "connection_terminated", detail))
            }
            Err(_) => {
                Err((Failure::Timeout, "http_response_timeout", format!("the node {name} sent no response in time")))
            }
        }
    }

    /// Carries bytes both ways until either side is done.
    async fn carry(self, worker: Arc<Worker>, client: OnUpgrade, node: Switched) {
        let Opening { ticket, story, busy, .. } = self;
        // One side breaking is a usual end: the other is closed by dropping it, which is all that a tunnel can say.
        let carried = match timeout(SWITCH_MAX, client).await {
            Ok(Ok(client)) => carry_both(TokioIo::new(client), node).await.unwrap_or(0),
            _ => 0,
        };
        let now = worker.app.clock.now();
        let outcome = Outcome::Completed { status: StatusCode::SWITCHING_PROTOCOLS.as_u16() };
        ticket.finish(now, outcome);
        if let Some(mut story) = story {
            story.bytes = carried;
            story.tell(now, outcome.word());
        }
        drop(busy);
    }
}

/// Bytes that went to the client.
async fn carry_both(mut client: TokioIo<Upgraded>, mut node: Switched) -> std::io::Result<u64> {
    client.write_all(&node.begun).await?;
    let (_, to_client) = tokio::io::copy_bidirectional(&mut client, &mut node.stream).await?;
    Ok(to_client + node.begun.len() as u64)
}

/// The longest that the client's side may take to hand over its connection after the 101.
const SWITCH_MAX: Duration = Duration::from_secs(10);
