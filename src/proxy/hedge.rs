//! A second attempt beside a late one: the race of two, the end of the one that loses.
//!
//! Only on routes that say so, and only for what may be sent again. The first piece of a response body decides, not the
//! head: servers of models send the head of a stream before they have computed anything. So on these routes a head waits
//! for the first piece of its body, which no client of a model notices. An answer that says "failed" or "full" does not
//! win while the other attempt still runs.
//!
//! The loser's connection is closed in the instant in which the other wins, so that its node stops computing, and its
//! attempt ends as censored: how long it would have taken, nobody knows.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http::response;
use tokio::time::Instant;

use crate::balancer::Ticket;
use crate::node::NodeId;
use crate::outcome::{Censor, Failure, Outcome};
use crate::proxy::alarm::Alarm;
use crate::proxy::attempt::{Failed, outcome_of};
use crate::proxy::forward::Passage;
use crate::proxy::intake::Intake;
use crate::proxy::outgoing::Outgoing;
use crate::proxy::reply::ProxyError;
use crate::proxy::upstream::Upstream;
use crate::proxy::worker::{Worker, meaning_of_drop};
use crate::request::RequestShape;

/// A response whose body has begun, or why there is none.
type Answer = Result<(Upstream, response::Parts), Failed>;

type Running<'a> = Pin<Box<dyn Future<Output = Answer> + Send + 'a>>;

/// A hedge under way; counted once, by what comes of it. Dropped without a word, the client has left.
struct Hedge {
    worker: Arc<Worker>,
    result: &'static str,
}

impl Drop for Hedge {
    fn drop(&mut self) {
        self.worker.app.telemetry.hedged(self.result);
    }
}

/// The copy of a request, and when to send it; `None` for never.
pub(super) struct Spare {
    request: Box<Outgoing>,
    late: Option<Duration>,
}

impl Passage {
    /// What is sent when, if the attempt is late; `None` where nothing is hedged.
    pub(super) fn may_hedge(
        &self,
        ticket: &mut Ticket,
        intake: &Intake,
        spare: Option<&Outgoing>,
        tried: &[NodeId],
    ) -> Option<Spare> {
        let opted_in = intake.route.is_some_and(|route| self.settings.routes[route].hedge);
        let request = spare.filter(|_| opted_in)?.again()?;
        let app = &self.worker.app;
        if tried.is_empty() {
            app.hedges.deposit();
        }
        let late = app.balancer.late_after(ticket, &intake.shape);
        let one_more = tried.len() + 2 <= self.settings.retry.attempts_max as usize;
        Some(Spare { request, late: late.filter(|_| one_more) })
    }

    /// An attempt, and another one beside it if it is late. In the end `ticket` is the attempt whose answer this is; the
    /// other one, if there was one, has ended.
    pub(super) async fn hedged(
        &self,
        ticket: &mut Ticket,
        request: Box<Outgoing>,
        spare: Spare,
        tried: &mut Vec<NodeId>,
        shape: &RequestShape,
        alarm: &mut Alarm,
    ) -> Answer {
        let mut other_alarm;
        let mut running: Running<'_> = Box::pin(self.until_body(ticket, request, alarm));
        let Some(mut pause) = spare.late else { return running.await };
        let mut other = loop {
            if let Ok(answer) = tokio::time::timeout(pause, running.as_mut()).await {
                return answer;
            }
            match self.copy(ticket, shape, tried) {
                Some(copy) => break copy,
                // What is later still may have a node that is quick, or has room, by then.
                None => pause = pause.saturating_mul(2),
            }
        };
        let mut hedge = Hedge { worker: Arc::clone(&self.worker), result: "left" };
        other_alarm = Alarm::new(Instant::now() + self.timeouts().first_byte);
        let mut others: Running<'_> = Box::pin(self.until_body(&other, spare.request, &mut other_alarm));
        let (mut by_copy, answer) = first(&mut running, &mut others).await;
        if by_copy {
            // From here on `ticket` and `running` are of the attempt that has answered.
            std::mem::swap(ticket, &mut other);
            std::mem::swap(&mut running, &mut others);
        }
        let now = || self.worker.app.clock.now();
        let answer = match failure(&answer) {
            None => {
                // First of all the connection: the node should stop computing now.
                drop(others);
                self.end(other, now(), Outcome::Censored(Censor::Hedged));
                answer
            }
            Some(outcome) => {
                drop((answer, running));
                by_copy = !by_copy;
                std::mem::swap(ticket, &mut other);
                tried.push(other.node().id);
                self.end(other, now(), outcome);
                others.await
            }
        };
        hedge.result = match (failure(&answer), by_copy) {
            (Some(_), _) => "failed",
            (None, true) => "won",
            (None, false) => "lost",
        };
        answer
    }

    /// The attempt beside a late one, if there is a node for it and the budget allows it.
    fn copy(&self, late: &Ticket, shape: &RequestShape, tried: &[NodeId]) -> Option<Ticket> {
        let app = &self.worker.app;
        if !app.hedges.try_withdraw() {
            return None;
        }
        let Some(mut copy) = self.worker.hedge(app.clock.now(), shape, late, tried) else {
            app.hedges.refund();
            return None;
        };
        copy.dropped_means(meaning_of_drop);
        if let Some(story) = &self.story {
            story.hedge(&copy);
        }
        Some(copy)
    }

    /// An attempt up to the first piece of the response body.
    fn until_body<'a>(
        &'a self,
        ticket: &Ticket,
        request: Box<Outgoing>,
        alarm: &'a mut Alarm,
    ) -> impl Future<Output = Answer> + Send + use<'a> {
        let (node, started) = (Arc::clone(ticket.node()), ticket.started());
        async move {
            let (mut upstream, head) = self.attempt(&node, started, request, None, &mut *alarm).await?;
            if is_failure(&outcome_of(&head)) {
                return Ok((upstream, head));
            }
            let patience = self.timeouts().between_chunks;
            if alarm.within(patience, self.deadline, upstream.body_begins()).await.is_none() {
                let detail = format!("the node {} sent a head and then nothing for {patience:?}", node.spec.name);
                let error = ProxyError::failed(Failure::Timeout, "http_response_timeout", detail);
                return Err(Failed { error, outcome: Outcome::Failed(Failure::Timeout), unsent: None });
            }
            Ok((upstream, head))
        }
    }
}

/// Whichever answers first, and whether that is the second; the first if both do at once.
async fn first(one: &mut Running<'_>, two: &mut Running<'_>) -> (bool, Answer) {
    std::future::poll_fn(|cx| {
        if let Poll::Ready(answer) = one.as_mut().poll(cx) {
            return Poll::Ready((false, answer));
        }
        two.as_mut().poll(cx).map(|answer| (true, answer))
    })
    .await
}

/// How the attempt has failed, if it has.
fn failure(answer: &Answer) -> Option<Outcome> {
    let outcome = match answer {
        Ok((_, head)) => outcome_of(head),
        Err(failed) => failed.outcome,
    };
    Some(outcome).filter(is_failure)
}

fn is_failure(outcome: &Outcome) -> bool {
    !matches!(outcome, Outcome::Completed { .. })
}
