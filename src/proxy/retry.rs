//! The attempts of one request, one after the other.
//!
//! What no node has begun on may go to another node: what was not sent, and what a node says it has no room for (429, or
//! 503 with `Retry-After`). What a node may have begun on may only if the method is idempotent or the route says so, and
//! an error of a node is its answer unless the route says otherwise. A retry is a new attempt with its own decision,
//! never on a node that was tried, and is paid for from a budget, so that a sick fleet is not asked three times as much.
//!
//! An answer is given up only once there is another node, or a place in the queue for one: else it is the best that the
//! client can get, with the node's own `Retry-After`.

use axum::response::Response;
use http::{Method, StatusCode, response};
use tokio::time::Instant;

use crate::balancer::{Ticket, Verdict};
use crate::clock::Time;
use crate::node::NodeId;
use crate::outcome::{Failure, Outcome};
use crate::proxy::alarm::Alarm;
use crate::proxy::attempt::outcome_of;
use crate::proxy::connection::Conn;
use crate::proxy::forward::Passage;
use crate::proxy::intake::Intake;
use crate::proxy::outgoing::Outgoing;
use crate::proxy::reply::ProxyError;
use crate::proxy::upstream::Upstream;

/// What is done instead of passing an answer on.
struct Detour {
    request: Box<Outgoing>,
    /// Where it goes. A box: the future of every request has room for it, and hardly any needs it.
    verdict: Box<Verdict>,
    /// What the client is told if nothing comes of it; `None` where the queue's own word is as good.
    error: Option<ProxyError>,
}

impl Passage {
    pub(super) async fn attempts(
        &mut self,
        conn: &Conn,
        mut request: Box<Outgoing>,
        intake: Intake,
        alarm: &mut Alarm,
    ) -> Result<Response, ProxyError> {
        request.may_return = self.settings.retry.full;
        // Only what may be sent a second time after a node may have begun on it needs a copy.
        let repeatable = self.may_repeat(&request.head.method, intake.route);
        let spare = if repeatable { request.again() } else { None };
        let mut tried: Vec<NodeId> = Vec::new();
        let mut former = None;
        let mut next: Option<Box<Verdict>> = None;
        loop {
            let verdict = match next.take() {
                None => self.decide(&intake, &tried, &request),
                Some(decided) => *decided,
            };
            let mut ticket = match verdict {
                Verdict::Go(ticket) => self.begin(ticket),
                verdict => match Box::pin(self.settle(verdict, intake.shape.model.as_deref(), alarm)).await {
                    Ok(ticket) => ticket,
                    // What went wrong first is what there is to tell.
                    Err(error) => return Err(former.unwrap_or(error)),
                },
            };
            let upload = intake.upload.as_deref();
            let hedge = self.may_hedge(&mut ticket, &intake, spare.as_deref(), &tried);
            let answered = match hedge {
                None => self.attempt(ticket.node(), ticket.started(), request, upload, alarm).await,
                Some(spare) => {
                    Box::pin(self.hedged(&mut ticket, request, spare, &mut tried, &intake.shape, alarm)).await
                }
            };
            let failed = match answered {
                Ok((mut upstream, head)) => {
                    let detour = self.instead(&mut upstream, &head, &ticket, spare.as_deref(), &intake, &mut tried);
                    let Some(detour) = detour else { return Ok(self.relay(ticket, upstream, head, &intake)) };
                    // Its connection is closed, whatever else of the answer would have come.
                    drop(upstream);
                    self.end(ticket, self.worker.app.clock.now(), outcome_of(&head));
                    (request, next) = (detour.request, Some(detour.verdict));
                    former = detour.error.or(former);
                    continue;
                }
                Err(failed) => failed,
            };
            let app = &self.worker.app;
            let now = app.clock.now();
            let node = ticket.node().id;
            self.end(ticket, now, failed.outcome);
            if matches!(failed.outcome, Outcome::Censored(_)) && failed.unsent.is_none() {
                return Err(self.client_fault(conn, failed.error));
            }
            tried.push(node);
            let unsent = failed.unsent.is_some();
            let again = failed.unsent.or_else(|| spare.as_ref()?.again());
            let Some(again) = again else { return Err(failed.error) };
            if !self.may_try_again(&tried, intake.shape.model.as_deref(), now) {
                return Err(failed.error);
            }
            former = Some(failed.error);
            app.telemetry.retried(if unsent { "unsent" } else { "idempotent" });
            request = again;
        }
    }

    /// Another attempt, paid for and decided, if this answer counts as none and there is a node or a place for one.
    fn instead(
        &self,
        upstream: &mut Upstream,
        head: &response::Parts,
        ticket: &Ticket,
        spare: Option<&Outgoing>,
        intake: &Intake,
        tried: &mut Vec<NodeId>,
    ) -> Option<Detour> {
        if head.status < StatusCode::TOO_MANY_REQUESTS {
            return None;
        }
        let returned = upstream.returned();
        let errors_too = || intake.route.is_some_and(|route| self.settings.routes[route].retry_errors);
        let (request, error) = match outcome_of(head) {
            Outcome::Full { .. } if self.settings.retry.full => (returned?, None),
            Outcome::Full { .. } | Outcome::Failed(_) if errors_too() => {
                let status = head.status.as_u16();
                let detail = format!("the node {} answered {status}", ticket.node().spec.name);
                let error = ProxyError::failed(Failure::Status(status), "http_response_incomplete", detail);
                (spare?.again()?, Some(error))
            }
            _ => return None,
        };
        let app = &self.worker.app;
        tried.push(ticket.node().id);
        if !self.may_try_again(tried, intake.shape.model.as_deref(), app.clock.now()) {
            return None;
        }
        let verdict = match self.decide(intake, tried, &request) {
            Verdict::Refuse(_) => return None,
            verdict => Box::new(verdict),
        };
        app.telemetry.retried(if error.is_some() { "status" } else { "full" });
        Some(Detour { request, verdict, error })
    }

    /// Ends an attempt that brought no answer for the client.
    pub(super) fn end(&self, ticket: Ticket, now: Time, outcome: Outcome) {
        if let Some(story) = &self.story {
            story.ended(ticket.node().id, now, outcome);
        }
        ticket.finish(now, outcome);
    }

    /// Whether there may be another attempt; pays for it.
    pub(super) fn may_try_again(&self, tried: &[NodeId], model: Option<&str>, now: Time) -> bool {
        let app = &self.worker.app;
        let enough = tried.len() >= self.settings.retry.attempts_max as usize;
        let in_time = self.deadline.is_none_or(|deadline| Instant::now() < deadline);
        let fleet = app.balancer.fleet();
        let mut left = fleet.nodes().iter().filter(|node| !tried.contains(&node.id) && node.spec.serves(model));
        let another = left.any(|node| node.live.health.state(now).is_serving());
        !enough && in_time && another && app.retries.try_withdraw(now)
    }

    /// Whether a request may be sent again after a node may have begun to work on it.
    fn may_repeat(&self, method: &Method, route: Option<usize>) -> bool {
        method.is_idempotent() || (*method == Method::POST && route.is_some_and(|r| self.settings.routes[r].retry_post))
    }
}
