//! WebSocket and other upgrades: once both sides have switched protocols, bytes pass in both directions.
//!
//! An upgraded connection is never pooled and is counted by its ticket until either side closes, so that limits, drain
//! and metrics see it. How long it lives says nothing about the node's speed: it leaves no latency label.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use http::{HeaderValue, StatusCode, Version, header, request};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::time::timeout;

use crate::balancer::Ticket;
use crate::config::{Settings, Timeouts};
use crate::node::NodeId;
use crate::outcome::{Failure, Outcome};
use crate::proxy::connection::Busy;
use crate::proxy::forward::{Outgoing, Passage, address, not_connected, outgoing};
use crate::proxy::headers;
use crate::proxy::inspect::ResponseScan;
use crate::proxy::intake::Intake;
use crate::proxy::relay::{Attempt, Patience, Relay};
use crate::proxy::reply::ProxyError;
use crate::proxy::server::Counted;
use crate::proxy::story::Story;
use crate::proxy::upload::RequestBody;
use crate::proxy::upstream::Upstream;
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
        mut head: request::Parts,
        mut intake: Intake,
        protocol: HeaderValue,
    ) -> Result<Response, ProxyError> {
        let client = head.extensions.remove::<OnUpgrade>();
        head.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        head.headers.insert(header::UPGRADE, protocol.clone());
        let id = head.headers.get(headers::X_REQUEST_ID).cloned();
        let mut request = outgoing(head, std::mem::replace(&mut intake.body, RequestBody::Empty));
        let mut tried: Vec<NodeId> = Vec::new();
        let (ticket, upstream) = loop {
            let ticket = self.decide(&intake, &tried)?;
            let app = &self.worker.app;
            let (limits, patience) = (&self.settings.limits, self.timeouts().connect);
            let connected =
                Upstream::connect(ticket.node(), &app.open_connections, limits, patience, ticket.started()).await;
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
        address(&mut request, &ticket.node().spec, self.settings.forward.preserve_host);
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
        request: Outgoing,
        client_side: Option<OnUpgrade>,
        protocol: HeaderValue,
        id: Option<HeaderValue>,
    ) -> Result<Response, ProxyError> {
        let answer = self.ask(upstream, request).await;
        let now = worker.app.clock.now();
        let response = match answer {
            Ok(response) => response,
            Err((failure, token, detail)) => {
                self.ticket.finish(now, Outcome::Failed(failure));
                return Err(ProxyError::failed(failure, token, detail));
            }
        };
        self.ticket.first_byte(now);
        let status = response.status();
        worker.app.telemetry.answered(Some(self.ticket.node()), status.as_u16());
        if let Some(story) = &mut self.story {
            story.status = status.as_u16();
        }
        let (mut head, incoming) = response.into_parts();
        let accepted = head.headers.get(header::UPGRADE).cloned();
        let seen = headers::Survey::of(&head.headers);
        headers::strip_hop_by_hop(&mut head.headers, seen);
        headers::append_via(&mut head.headers);
        if let Some(id) = id {
            head.headers.insert(headers::X_REQUEST_ID, id);
        }
        head.version = Version::HTTP_11;
        if status != StatusCode::SWITCHING_PROTOCOLS {
            return Ok(Response::from_parts(head, Body::new(self.decline(worker, incoming, status))));
        }
        head.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        head.headers.insert(header::UPGRADE, accepted.unwrap_or(protocol));
        let node_side = head.extensions.remove::<OnUpgrade>();
        match (client_side, node_side) {
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
    fn decline(self, worker: &Arc<Worker>, incoming: Incoming, status: StatusCode) -> Relay {
        let Opening { ticket, story, busy, timeouts, settings } = self;
        let outcome = Outcome::of_status(status.as_u16(), None);
        let patience = Patience { between: timeouts.between_chunks, deadline: None };
        let worker = Arc::clone(worker);
        let (upstream, upload) = (None, None);
        let attempt = Attempt { ticket, upstream, upload, story, worker, settings, busy, outcome, prompt_bytes: 0 };
        Relay::new(incoming, attempt, ResponseScan::new(None, None), patience)
    }

    async fn ask(
        &self,
        upstream: Upstream,
        request: Outgoing,
    ) -> Result<http::Response<Incoming>, (Failure, &'static str, String)> {
        let name = &self.ticket.node().spec.name;
        let mut sender = upstream.into_tunnel();
        match timeout(self.timeouts.first_byte, sender.send_request(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err((
                Failure::Broken,
                "connection_terminated",
                format!("the node {name} broke the connection: {error}"),
            )),
            Err(_) => {
                Err((Failure::Timeout, "http_response_timeout", format!("the node {name} sent no response in time")))
            }
        }
    }

    /// Carries bytes both ways until either side is done.
    async fn carry(self, worker: Arc<Worker>, client: OnUpgrade, node: OnUpgrade) {
        let Opening { ticket, story, busy, .. } = self;
        let both = timeout(SWITCH_MAX, async { tokio::try_join!(client, node) }).await;
        let mut carried = 0;
        if let Ok(Ok((client, node))) = both {
            let (mut client, mut node) = (TokioIo::new(client), TokioIo::new(node));
            carried = match tokio::io::copy_bidirectional(&mut client, &mut node).await {
                Ok((_, to_client)) => to_client,
                // One side broke: the other is closed by dropping it, which is all that a tunnel can say.
                Err(_) => 0,
            };
        }
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

/// The longest that the two sides may take to hand over their connections after the 101.
const SWITCH_MAX: Duration = Duration::from_secs(10);
