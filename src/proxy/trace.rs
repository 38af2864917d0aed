//! The spans of one request, gathered while it runs. Exists only for requests that are recorded.
//!
//! Whether one is, its caller decides by the sampled flag of its trace context; where no caller says anything, our share
//! does. A recorded request's nodes get a context of their own attempt; one that is not recorded passes as it came.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::HeaderMap;

use crate::balancer::{Decision, Ticket};
use crate::clock::Time;
use crate::config;
use crate::node::NodeId;
use crate::outcome::{Outcome, Sample};
use crate::proxy::inspect::Api;
use crate::proxy::intake::Intake;
use crate::proxy::worker::Worker;
use crate::spans::context::{self, TRACEPARENT, TRACESTATE, parent, render};
use crate::spans::{AttemptSpan, RequestSpan, Spans};

/// The trace of one request so far.
#[derive(Debug)]
pub(super) struct Trace {
    spans: Arc<Spans>,
    /// The trace's id.
    pub(super) trace: u128,
    id: u64,
    parent: Option<u64>,
    state: Option<String>,
    /// Bytes of what every attempt tells its node; the trace context comes behind them.
    told_bytes: usize,
    route: Option<String>,
    streaming: bool,
    output_tokens_max: Option<u32>,
    tokens: (Option<u32>, Option<u32>),
    /// Told while the request is lent to two attempts; never waited for.
    attempts: Mutex<Attempts>,
}

#[derive(Debug)]
struct Attempts {
    /// For ids.
    rng: fastrand::Rng,
    spans: Vec<AttemptSpan>,
}

impl Trace {
    /// Begins, if the request is recorded, and takes the caller's context out of `headers`.
    pub(super) fn begin(worker: &Worker, settings: &config::Trace, headers: &mut HeaderMap) -> Option<Box<Trace>> {
        settings.endpoint.as_ref()?;
        let caller = parent(headers);
        let (made, seed) = worker.with_rng(|rng| (rng.u128(1..), rng.u64(..)));
        let trace = caller.map_or(made, |caller| caller.trace);
        if !caller.map_or_else(|| context::is_drawn(trace, settings.share), |caller| caller.sampled) {
            return None;
        }
        let state = caller.and_then(|_| context::state(headers));
        headers.remove(TRACEPARENT);
        if caller.is_none() {
            // It belongs to a context that was none.
            headers.remove(TRACESTATE);
        }
        let mut rng = fastrand::Rng::with_seed(seed);
        Some(Box::new(Trace {
            spans: Arc::clone(&worker.app.spans),
            trace,
            id: rng.u64(1..),
            parent: caller.map(|caller| caller.span),
            state,
            told_bytes: 0,
            route: None,
            streaming: false,
            output_tokens_max: None,
            tokens: (None, None),
            attempts: Mutex::new(Attempts { rng, spans: Vec::new() }),
        }))
    }

    fn attempts(&self) -> MutexGuard<'_, Attempts> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What every attempt tells its node is so long.
    pub(super) fn introduced(&mut self, told_bytes: usize) {
        self.told_bytes = told_bytes;
    }

    /// The request was looked at.
    pub(super) fn describe(&mut self, intake: &Intake, route: String) {
        self.route = Some(route);
        self.streaming = intake.shape.streaming;
        self.output_tokens_max = intake.shape.output_tokens_max;
    }

    /// Another attempt starts; `hedge` if it is beside a late one.
    pub(super) fn attempt(&self, ticket: &Ticket, hedge: bool) {
        let Decision { node, policy, propensity, predicted_s, predictor_version, candidates, before, .. } =
            ticket.decision();
        let mut attempts = self.attempts();
        let id = attempts.rng.u64(1..);
        attempts.spans.push(AttemptSpan {
            id,
            started: ticket.started(),
            ended: None,
            node: Arc::clone(node),
            policy: *policy,
            propensity: *propensity,
            predicted_s: *predicted_s,
            model_version: *predictor_version,
            candidates: *candidates,
            in_flight: before.in_flight,
            waited: ticket.time_waited(),
            hedge,
        });
    }

    /// Names the attempt on `node` as the parent of what that records. A request has at most one attempt on a node.
    pub(super) fn pass_on(&self, node: NodeId, told: &mut Vec<u8>) {
        if let Some(attempt) = self.attempts().spans.iter().rfind(|attempt| attempt.node.id == node) {
            // What an earlier attempt told goes.
            told.truncate(self.told_bytes);
            told.extend_from_slice(b"traceparent: ");
            told.extend_from_slice(&render(self.trace, attempt.id, true));
            told.extend_from_slice(b"\r\n");
        }
    }

    /// The attempt on `node` has ended.
    pub(super) fn ended(&self, node: NodeId, now: Time, outcome: Outcome) {
        if let Some(attempt) = self.attempts().spans.iter_mut().rfind(|attempt| attempt.node.id == node) {
            attempt.ended = Some((now, outcome));
        }
    }

    /// The response told its tokens.
    pub(super) fn used(&mut self, sample: &Sample) {
        self.tokens = (sample.usage_prompt_tokens, sample.output_tokens);
    }

    /// Hands the spans over: `request` has what the story knows, the rest is filled in.
    pub(super) fn record(self, mut request: RequestSpan) {
        let attempts = self.attempts.into_inner().unwrap_or_else(PoisonError::into_inner).spans;
        (request.trace, request.id, request.parent, request.state) = (self.trace, self.id, self.parent, self.state);
        (request.operation, request.route) = (operation(&request.path), self.route);
        (request.streaming, request.output_tokens_max) = (self.streaming, self.output_tokens_max);
        (request.tokens, request.attempts) = (self.tokens, attempts);
        self.spans.record(Box::new(request));
    }
}

/// The operation in the words of the GenAI conventions.
fn operation(path: &str) -> Option<&'static str> {
    match Api::of_path(path) {
        Api::Chat | Api::Responses | Api::Messages | Api::OllamaChat => Some("chat"),
        Api::Completions | Api::Generate | Api::GenerateStream | Api::OllamaGenerate => Some("text_completion"),
        Api::Embeddings => Some("embeddings"),
        Api::Infer | Api::Other => None,
    }
}
