//! WebSocket and other upgrades: once both sides have switched protocols, bytes pass in both directions.
//!
//! An upgraded connection is never pooled and is counted by its ticket until either side closes, so that limits, drain
//! and metrics see it. How long it lives says nothing about the node's speed: it leaves no latency label.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use http::{HeaderValue, Request, StatusCode, Version, header, request};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::time::timeout;

use crate::balancer::Ticket;
use crate::config::{Settings, Timeouts};
use crate::outcome::{Failure, Outcome};
use crate::proxy::connection::Busy;
use crate::proxy::forward::{address, outgoing};
use crate::proxy::headers;
use crate::proxy::inspect::ResponseScan;
use crate::proxy::relay::{Attempt, Patience, Relay};
use crate::proxy::reply::ProxyError;
use crate::proxy::story::Story;
use crate::proxy::upload::RequestBody;
use crate::proxy::upstream::Upstream;
use crate::proxy::worker::Worker;

/// A tunnel that is about to be opened.
pub(super) struct Opening {
    pub(super) ticket: Ticket,
    pub(super) story: Option<Box<Story>>,
    pub(super) busy: Option<Busy>,
    pub(super) timeouts: Timeouts,
    pub(super) settings: Arc<Settings>,
}

impl Opening {
    /// Asks the node to switch protocols; a node that does not want to answers like to any other request.
    pub(super) async fn open(
        mut self,
        worker: &Arc<Worker>,
        mut head: request::Parts,
        body: RequestBody,
        protocol: HeaderValue,
    ) -> Result<Response, ProxyError> {
        let client_side = head.extensions.remove::<OnUpgrade>();
        head.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        head.headers.insert(header::UPGRADE, protocol.clone());
        let id = head.headers.get(headers::X_REQUEST_ID).cloned();
        let request = outgoing(head, body);
        let answer = self.ask(worker, request).await;
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
                tokio::spawn(self.carry(Arc::clone(worker), client, node));
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
        worker: &Worker,
        mut request: Request<RequestBody>,
    ) -> Result<http::Response<Incoming>, (Failure, &'static str, String)> {
        let node = self.ticket.node();
        let name = &node.spec.name;
        address(&mut request, &node.spec, self.settings.forward.preserve_host);
        let open = &worker.app.open_connections;
        let connected =
            Upstream::connect(node, open, &self.settings.limits, self.timeouts.connect, self.ticket.started()).await;
        let upstream = connected.map_err(|error| {
            (Failure::Connect, "destination_unavailable", format!("no connection to the node {name}: {error:?}"))
        })?;
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
