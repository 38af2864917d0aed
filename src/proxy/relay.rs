//! The response body on its way to the client, and the end of the attempt.
//!
//! The ticket, the connection to the node and the body travel together: whatever ends the body ends the attempt, once.
//! The last byte completes it and returns the connection to the pool; an error or silence of the node fails it and
//! breaks the client's stream uncleanly, never with a made-up ending; a client that leaves drops the relay, and with it
//! the node's connection, which tells the node to stop.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep};

use crate::balancer::Ticket;
use crate::clock::Time;
use crate::config::Settings;
use crate::outcome::{Censor, Failure, Outcome};
use crate::proxy::connection::Busy;
use crate::proxy::inspect::ResponseScan;
use crate::proxy::rate::Charge;
use crate::proxy::story::Story;
use crate::proxy::upstream::Upstream;
use crate::proxy::wire::WireError;
use crate::proxy::worker::{Worker, meaning_of_drop};

/// The node's stream broke; the client's must break too.
#[derive(Debug, thiserror::Error)]
pub(super) enum RelayError {
    /// The node's connection broke or its framing was wrong.
    #[error("the node's response broke off")]
    Broken(#[source] WireError),
    /// Nothing came for too long.
    #[error("the node sent nothing for {0:?}")]
    Silent(Duration),
    /// The request took too long in all.
    #[error("the request took longer than its total timeout")]
    TooLong,
}

/// The attempt behind a response that is on its way.
pub(super) struct Attempt {
    pub(super) ticket: Ticket,
    /// The connection that the body comes from.
    pub(super) upstream: Upstream,
    pub(super) story: Option<Box<Story>>,
    pub(super) worker: Arc<Worker>,
    pub(super) settings: Arc<Settings>,
    /// Keeps the client's connection from counting as idle.
    pub(super) busy: Option<Busy>,
    /// What the status says; the outcome if the body reaches its end.
    pub(super) outcome: Outcome,
    /// Bytes of the prompt, for the ratio of bytes to tokens.
    pub(super) prompt_bytes: u64,
    /// Tokens that the client has paid.
    pub(super) charge: Option<Charge>,
}

/// How long the node may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// Between two pieces.
    pub(super) between: Duration,
    /// For the whole request.
    pub(super) deadline: Option<Instant>,
    /// Whether the node is to blame if that is over while it says nothing.
    pub(super) fair: bool,
}

/// A response body that ends its attempt.
pub(super) struct Relay {
    /// `None` once the attempt has ended.
    attempt: Option<Box<Attempt>>,
    scan: ResponseScan,
    patience: Patience,
    timer: Option<Pin<Box<Sleep>>>,
    /// Why the response broke off, while what came before that is let out.
    broken: Option<RelayError>,
    /// Whether something came since the timer was set: it is moved only when it fires.
    moved: bool,
    /// Whether anything of the body came at all.
    begun: bool,
}

impl Relay {
    pub(super) fn new(attempt: Attempt, scan: ResponseScan, patience: Patience) -> Relay {
        let attempt = Some(Box::new(attempt));
        let mut relay = Relay { attempt, scan, patience, timer: None, broken: None, moved: false, begun: false };
        if let Some(attempt) = relay.attempt.as_ref().filter(|attempt| attempt.upstream.is_end_stream()) {
            let now = attempt.worker.app.clock.now();
            relay.complete(now);
        }
        relay
    }

    fn received(&mut self, now: Time, frame: &Frame<Bytes>) {
        (self.moved, self.begun) = (true, true);
        let Some(attempt) = &mut self.attempt else { return };
        let Some(data) = frame.data_ref() else { return };
        attempt.ticket.first_byte(now);
        let events = self.scan.feed(data);
        attempt.ticket.events(now, events);
        if let Some(story) = &mut attempt.story {
            story.received(now, data.len());
        }
    }

    /// The response reached its end.
    fn complete(&mut self, now: Time) {
        let Some(attempt) = self.attempt.take() else { return };
        let Attempt { mut ticket, upstream, story, worker, settings, busy, outcome, prompt_bytes, charge } = *attempt;
        ticket.first_byte(now);
        let usage = self.scan.finish();
        ticket.usage(usage.prompt_tokens, usage.output_tokens);
        ticket.usage_cached(usage.cached_tokens);
        let node = ticket.node().id;
        let sample = ticket.finish(now, outcome);
        if let Some(tokens) = usage.prompt_tokens.filter(|_| prompt_bytes > 0) {
            worker.app.bytes_per_token.observe(sample.kind, prompt_bytes, tokens);
        }
        if let Some(charge) = charge {
            charge.settle(&worker.app, &settings, &sample);
        }
        worker.pool.put(upstream, &settings.limits, now);
        if let Some(mut story) = story {
            story.used(&sample);
            story.ended(node, now, outcome);
            story.tell(now, outcome.word());
        }
        if let Some(mut busy) = busy {
            busy.end(now);
        }
    }

    /// The response will not reach its end.
    fn abandon(&mut self, outcome: Outcome) {
        let Some(attempt) = self.attempt.take() else { return };
        let Attempt { ticket, upstream, story, worker, .. } = *attempt;
        // First of all the node's connection: it should stop computing now.
        drop(upstream);
        let now = worker.app.clock.now();
        let node = ticket.node().id;
        ticket.finish(now, outcome);
        if let Some(story) = story {
            story.ended(node, now, outcome);
            story.tell(now, outcome.word());
        }
    }

    /// Whether the node has been silent for too long, or the request has taken too long.
    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<RelayError> {
        loop {
            let Patience { between, deadline, .. } = self.patience;
            let timer = match &mut self.timer {
                Some(timer) => timer,
                none => {
                    self.moved = false;
                    none.insert(Box::pin(tokio::time::sleep_until(next_look(between, deadline))))
                }
            };
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Poll::Ready(RelayError::TooLong);
            }
            if !std::mem::replace(&mut self.moved, false) {
                return Poll::Ready(RelayError::Silent(between));
            }
            timer.as_mut().reset(next_look(between, deadline));
        }
    }
}

fn next_look(between: Duration, deadline: Option<Instant>) -> Instant {
    let silence = Instant::now() + between;
    deadline.map_or(silence, |deadline| deadline.min(silence))
}

impl Body for Relay {
    type Data = Bytes;
    type Error = RelayError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, RelayError>>> {
        let this = self.get_mut();
        if let Some(error) = this.broken.take() {
            return Poll::Ready(Some(Err(error)));
        }
        let Some(attempt) = &mut this.attempt else { return Poll::Ready(None) };
        match attempt.upstream.poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                let ended = attempt.upstream.is_end_stream();
                let now = attempt.worker.app.clock.now();
                this.received(now, &frame);
                if ended {
                    this.complete(now);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                this.abandon(if error.is_upload() {
                    Outcome::Censored(Censor::ClientError)
                } else {
                    Outcome::Failed(Failure::BrokenBody)
                });
                // An error makes hyper close the connection with what it has not written yet, the head included, and a
                // client that hears nothing may believe that nothing was done. It writes while there is nothing to read.
                this.broken = Some(RelayError::Broken(error));
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Poll::Ready(None) => {
                let now = attempt.worker.app.clock.now();
                this.complete(now);
                Poll::Ready(None)
            }
            Poll::Pending => match this.poll_patience(cx) {
                Poll::Ready(error) => {
                    // A long answer that is under way is no failure, nor is one whose time others have used up.
                    let excused = matches!(error, RelayError::TooLong) && (this.begun || !this.patience.fair);
                    this.abandon(match excused {
                        true => Outcome::Censored(Censor::Dropped),
                        false => Outcome::Failed(Failure::Timeout),
                    });
                    Poll::Ready(Some(Err(error)))
                }
                Poll::Pending => Poll::Pending,
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.attempt.is_none() && self.broken.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        self.attempt.as_ref().map_or_else(SizeHint::default, |attempt| attempt.upstream.size_hint())
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.abandon(Outcome::Censored(meaning_of_drop()));
    }
}
