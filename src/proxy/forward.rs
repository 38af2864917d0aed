//! One request: take in, attempt, relay.
//!
//! What is decided, tried and tried again in between is in [`retry`](super::retry) and what it uses: here is what happens
//! once to every request, whichever nodes it sees.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use http::{HeaderName, HeaderValue, Method, Request, Version, header, response};
use hyper::body::Incoming;
use tokio::time::{Instant, timeout};

use crate::admission::Allowance;
use crate::balancer::Ticket;
use crate::clock::Time;
use crate::config::{Settings, Timeouts};
use crate::outcome::{Censor, Outcome};
use crate::proxy::alarm::Alarm;
use crate::proxy::attempt::retry_after;
use crate::proxy::connection::{Busy, Conn};
use crate::proxy::headers::{self, Survey};
use crate::proxy::inspect::ResponseScan;
use crate::proxy::intake::{Intake, address_hash, take_in};
use crate::proxy::models;
use crate::proxy::outgoing::Outgoing;
use crate::proxy::rate::{self, Charge};
use crate::proxy::relay::{Attempt, Patience, Relay};
use crate::proxy::reply::{ProxyError, is_openai};
use crate::proxy::story::Story;
use crate::proxy::timing::Timing;
use crate::proxy::tunnel::Wish;
use crate::proxy::upload::RequestBody;
use crate::proxy::upstream::Upstream;
use crate::proxy::worker::{Worker, meaning_of_drop};
use crate::request::RequestShape;

/// The proxied route: every request that no admin API takes comes here.
pub(super) async fn handle(conn: Arc<Conn>, request: Request<Incoming>) -> Result<Response, Infallible> {
    let (index, busy) = conn.begin();
    let worker = &conn.worker;
    let (head, body) = request.into_parts();
    let openai = is_openai(head.uri.path());
    let request = Outgoing::new(head);
    let settings = worker.app.settings.load_full();
    let mut passage = Passage {
        worker: Arc::clone(worker),
        story: None,
        request_id: None,
        arrived: Time::ZERO,
        allowance: None,
        charge: None,
        deadline: None,
        route_timeouts: None,
        settings,
        busy: Some(busy),
        timing: None,
        answered: false,
    };
    let mut alarm = conn.take_alarm(passage.settings.timeouts.first_byte);
    let passed = match conn.framing.refusal_of(index) {
        None => passage.pass(&conn, request, body, &mut alarm).await,
        Some(refusal) => {
            worker.app.telemetry.refused(refusal.reason);
            Err(ProxyError::bad_request(refusal.status, refusal.reason, refusal.detail))
        }
    };
    let mut response = passed.unwrap_or_else(|error| passage.refuse(error, openai));
    if let Some(allowance) = passage.allowance.take() {
        rate::tell(response.headers_mut(), &allowance);
    }
    passage.answered = true;
    conn.keep_alarm(alarm);
    if let Some(mut story) = passage.story.take() {
        // Neither refused nor relayed: the proxy's own answer.
        story.status = response.status().as_u16();
        story.tell(worker.app.clock.now(), "answered");
    }
    conn.framing.answered(index, response.status());
    Ok(response)
}

/// A request on its way through.
pub(super) struct Passage {
    pub(super) worker: Arc<Worker>,
    pub(super) settings: Arc<Settings>,
    pub(super) story: Option<Box<Story>>,
    pub(super) request_id: Option<HeaderValue>,
    /// How the client stands with its rate limits, if there are any.
    pub(super) allowance: Option<Allowance>,
    /// What it has paid in tokens, to be settled when the answer has ended.
    pub(super) charge: Option<Charge>,
    /// When the request came.
    pub(super) arrived: Time,
    pub(super) deadline: Option<Instant>,
    /// Index of the route whose timeouts count.
    route_timeouts: Option<usize>,
    pub(super) busy: Option<Busy>,
    /// Where the time goes, if somebody wants to know.
    pub(super) timing: Option<Box<Timing>>,
    /// Whether there is an answer; without one the client has left.
    answered: bool,
}

/// The status that the log and the metrics give a request whose client left before any answer (as nginx does).
const CLIENT_GONE: u16 = 499;

/// The status of a request that was cut when the time to finish was over: the client got none.
const CUT: u16 = 503;

/// The longest that any request may take in all; `None` if some may take for ever. The route of a request is known only
/// once its body has been looked at.
fn longest_total(settings: &Settings) -> Option<Duration> {
    let of_routes = settings.routes.iter().map(|route| route.timeouts.total);
    of_routes.fold(settings.timeouts.total, |longest, total| Some(longest?.max(total?)))
}

impl Drop for Passage {
    fn drop(&mut self) {
        if self.answered {
            return;
        }
        let (status, outcome) = match meaning_of_drop() {
            Censor::ClientGone => (CLIENT_GONE, "client_gone"),
            _ => (CUT, "dropped"),
        };
        self.worker.app.telemetry.answered(None, status);
        if let Some(mut story) = self.story.take() {
            story.status = status;
            story.tell(self.worker.app.clock.now(), outcome);
        }
    }
}

impl Passage {
    pub(super) fn timeouts(&self) -> &Timeouts {
        self.route_timeouts.map_or(&self.settings.timeouts, |route| &self.settings.routes[route].timeouts)
    }

    /// Answers without a node.
    fn refuse(&mut self, error: ProxyError, openai: bool) -> Response {
        let status = error.status.as_u16();
        self.worker.app.telemetry.answered(None, status);
        if let Some(mut story) = self.story.take() {
            story.status = status;
            story.tell(self.worker.app.clock.now(), error.code);
        }
        error.into_response(openai, self.request_id.take())
    }

    async fn pass(
        &mut self,
        conn: &Conn,
        mut request: Box<Outgoing>,
        body: Incoming,
        alarm: &mut Alarm,
    ) -> Result<Response, ProxyError> {
        let head = &mut request.head;
        let settings = Arc::clone(&self.settings);
        let trusted = &settings.forward.trusted_proxies;
        let client = headers::client_address(&head.headers, conn.peer.ip(), trusted);
        let started = self.worker.app.clock.now();
        self.arrived = started;
        self.story = Story::begin(&self.worker, &settings, started, client, head);
        self.join_crowd(conn, client)?;
        if head.method == Method::CONNECT {
            return Err(ProxyError::method(&head.method));
        }
        if let Some(authority) = head.uri.authority()
            && let Ok(host) = HeaderValue::from_str(authority.as_str())
        {
            // An absolute target counts, whatever `Host` says (RFC 9112, 3.2.2).
            head.headers.insert(header::HOST, host);
        }
        let seen = Survey::of(&head.headers);
        let upgrade = headers::strip_hop_by_hop(&mut head.headers, seen);
        let trace = self.story.as_ref().and_then(|story| story.trace_id());
        let (told, id) = self.worker.with_rng(|rng| conn.introduction.introduce(&mut head.headers, seen, trace, rng));
        if let Some(story) = &mut self.story {
            story.introduced(&told, id.clone());
        }
        self.timing = Timing::wanted(settings.server_timing, seen.timing);
        self.request_id = Some(id);
        if seen.expect {
            // hyper has answered it by the time the body is read; a node must not be asked to answer it again.
            head.headers.remove(header::EXPECT);
        }
        if head.method == Method::GET && head.uri.path() == "/v1/models" {
            if !settings.rate_limit.rules.is_off() {
                let free = RequestShape { output_tokens_max: Some(0), ..RequestShape::default() };
                self.within_rate(&head.headers, client, &free)?;
            }
            request.told = told;
            return Box::pin(models::merged(&self.worker, &settings, request)).await;
        }
        let hash = if client == conn.peer.ip() { conn.peer_hash } else { address_hash(client) };
        let taking = take_in(&self.worker.app, &settings, head, seen, hash, body, alarm);
        let taken = match longest_total(&settings) {
            None => taking.await,
            Some(total) => timeout(total, Box::pin(taking)).await.unwrap_or_else(|_| Err(ProxyError::slow_client())),
        };
        let mut intake = taken.map_err(|error| self.client_fault(conn, error))?;
        (request.told, request.body) = (told, std::mem::replace(&mut intake.body, RequestBody::Empty));
        self.route_timeouts = intake.route;
        if let Some(total) = self.timeouts().total {
            let left = total.saturating_sub(self.worker.app.clock.now().since(started));
            if left.is_zero() {
                return Err(ProxyError::slow_client());
            }
            self.deadline = Some(Instant::now() + left);
        }
        if let Some(story) = &mut self.story {
            story.describe(&intake, &self.worker.app.kinds);
        }
        if !settings.rate_limit.rules.is_off() {
            self.within_rate(&head.headers, client, &intake.shape)?;
        }
        self.worker.app.retries.deposit(started);
        match upgrade.and_then(|wish| Wish::of(&mut request, &wish, &settings.forward.upgrades)) {
            // Boxed, like all that is seldom: the future of every request is as large as its largest branch.
            Some(wish) => Box::pin(self.tunnel(request, intake, wish, alarm)).await,
            None => self.attempts(conn, request, intake, alarm).await,
        }
    }

    /// The framing guard knows better than hyper what was wrong with a body.
    pub(super) fn client_fault(&self, conn: &Conn, error: ProxyError) -> ProxyError {
        match conn.framing.body_refusal() {
            Some(refusal) => {
                self.worker.app.telemetry.refused(refusal.reason);
                ProxyError::bad_request(refusal.status, refusal.reason, refusal.detail)
            }
            None => error,
        }
    }

    pub(super) fn relay(
        &mut self,
        ticket: Ticket,
        mut upstream: Upstream,
        mut head: response::Parts,
        intake: &Intake,
    ) -> Response {
        let status = head.status.as_u16();
        let seen = Survey::of(&head.headers);
        let get = |name: HeaderName| head.headers.get(name).map(HeaderValue::as_bytes);
        let retry_after = if seen.retry_after { get(header::RETRY_AFTER).map(retry_after) } else { None };
        let coding = if seen.coding { get(header::CONTENT_ENCODING) } else { None };
        let scan = ResponseScan::new(get(header::CONTENT_TYPE), coding);
        headers::strip_hop_by_hop(&mut head.headers, seen);
        headers::append_via(&mut head.headers);
        if let Some(id) = self.request_id.take() {
            head.headers.insert(headers::X_REQUEST_ID, id);
        }
        if self.settings.debug_headers {
            headers::tell_decision(&mut head.headers, ticket.decision());
        }
        let connecting = upstream.connecting();
        if let Some(timing) = &self.timing {
            timing.tell(&mut head.headers, &ticket, connecting, self.worker.app.clock.now());
        }
        head.version = Version::HTTP_11;
        self.worker.app.telemetry.answered(Some(ticket.node()), status);
        if let Some(story) = &mut self.story {
            story.status = status;
            story.answers(ticket.decision());
        }
        let fair = self.had_its_time(ticket.started(), intake.upload.as_deref());
        let patience = Patience { between: self.timeouts().between_chunks, deadline: self.deadline, fair };
        let attempt = Attempt {
            ticket,
            upstream,
            story: self.story.take(),
            worker: Arc::clone(&self.worker),
            settings: Arc::clone(&self.settings),
            busy: self.busy.take(),
            outcome: Outcome::of_status(status, retry_after),
            prompt_bytes: intake.prompt_bytes,
            charge: self.charge.take(),
        };
        Response::from_parts(head, Body::new(Relay::new(attempt, scan, patience)))
    }
}
