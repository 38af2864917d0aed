//! What the access log and a trace will tell of one request, gathered while it runs. Exists only if one of them wants it.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use http::{HeaderValue, Method, Uri, request};

use crate::balancer::{Decision, Ticket};
use crate::clock::Time;
use crate::config::Settings;
use crate::fleet::Node;
use crate::node::NodeId;
use crate::outcome::{Outcome, Sample};
use crate::policy::PolicyId;
use crate::proxy::intake::Intake;
use crate::proxy::trace::Trace;
use crate::proxy::worker::Worker;
use crate::request::Kinds;
use crate::spans::RequestSpan;
use crate::telemetry::AccessRecord;

/// The story of one request so far.
#[derive(Debug)]
pub(super) struct Story {
    started: Time,
    client: IpAddr,
    method: Method,
    uri: Uri,
    /// Whether there is an access log.
    logs: bool,
    trace: Option<Box<Trace>>,
    pub(super) request_id: Option<HeaderValue>,
    model: Option<Arc<str>>,
    node: Option<Arc<Node>>,
    policy: Option<PolicyId>,
    /// Attempts, one after the other.
    attempts: u32,
    /// Of those beside late ones; they are told while the request is lent to both.
    hedges: AtomicU32,
    /// In the queue, over all attempts.
    waited: Duration,
    pub(super) status: u16,
    first_byte: Option<Time>,
    pub(super) bytes: u64,
}

impl Story {
    /// Begins, if somebody wants it.
    pub(super) fn begin(
        worker: &Worker,
        settings: &Settings,
        started: Time,
        client: IpAddr,
        head: &mut request::Parts,
    ) -> Option<Box<Story>> {
        let logs = settings.log.access && worker.app.telemetry.logs_access();
        let trace = Trace::begin(worker, &settings.trace, &mut head.headers);
        if !logs && trace.is_none() {
            return None;
        }
        Some(Box::new(Story {
            started,
            client,
            method: head.method.clone(),
            uri: head.uri.clone(),
            logs,
            trace,
            request_id: None,
            model: None,
            node: None,
            policy: None,
            attempts: 0,
            hedges: AtomicU32::new(0),
            waited: Duration::ZERO,
            status: 0,
            first_byte: None,
            bytes: 0,
        }))
    }

    /// The trace that is recorded, if there is one.
    pub(super) fn trace_id(&self) -> Option<u128> {
        self.trace.as_ref().map(|trace| trace.trace)
    }

    /// What every attempt tells its node.
    pub(super) fn introduced(&mut self, told: &[u8], id: HeaderValue) {
        self.request_id = Some(id);
        if let Some(trace) = &mut self.trace {
            trace.introduced(told.len());
        }
    }

    /// The request was looked at. `kinds` knows its route.
    pub(super) fn describe(&mut self, intake: &Intake, kinds: &Kinds) {
        self.model.clone_from(&intake.shape.model);
        if let Some(trace) = &mut self.trace {
            trace.describe(intake, kinds.parts(intake.shape.kind).0);
        }
    }

    /// Another attempt starts.
    pub(super) fn attempt(&mut self, ticket: &Ticket) {
        self.waited += ticket.time_waited();
        self.attempts += 1;
        self.answers(ticket.decision());
        if let Some(trace) = &self.trace {
            trace.attempt(ticket, false);
        }
    }

    /// Another attempt starts beside a late one.
    pub(super) fn hedge(&self, ticket: &Ticket) {
        self.hedges.fetch_add(1, Ordering::Relaxed);
        if let Some(trace) = &self.trace {
            trace.attempt(ticket, true);
        }
    }

    /// That attempt is the one whose answer counts.
    pub(super) fn answers(&mut self, decision: &Decision) {
        self.node = Some(Arc::clone(&decision.node));
        self.policy = Some(decision.policy);
    }

    /// Names the attempt on `node` to it.
    pub(super) fn pass_on(&self, node: NodeId, told: &mut Vec<u8>) {
        if let Some(trace) = &self.trace {
            trace.pass_on(node, told);
        }
    }

    /// The attempt on `node` has ended.
    pub(super) fn ended(&self, node: NodeId, now: Time, outcome: Outcome) {
        if let Some(trace) = &self.trace {
            trace.ended(node, now, outcome);
        }
    }

    /// The response told its tokens.
    pub(super) fn used(&mut self, sample: &Sample) {
        if let Some(trace) = &mut self.trace {
            trace.used(sample);
        }
    }

    /// A piece of the response body came.
    pub(super) fn received(&mut self, now: Time, bytes: usize) {
        self.first_byte.get_or_insert(now);
        self.bytes += bytes as u64;
    }

    /// Writes the line, and hands the spans over.
    pub(super) fn tell(mut self: Box<Self>, now: Time, outcome: &str) {
        let trace = self.trace.take();
        if self.logs {
            self.log(now, outcome);
        }
        if let Some(trace) = trace {
            trace.record(self.span(now, outcome));
        }
    }

    fn log(&self, now: Time, outcome: &str) {
        let hedges = self.hedges.load(Ordering::Relaxed);
        AccessRecord {
            client: self.client,
            method: self.method.as_str(),
            path: self.uri.path(),
            status: self.status,
            node: self.node.as_ref().map(|node| node.spec.name.as_str()),
            policy: self.policy.map(PolicyId::name),
            model: self.model.as_deref(),
            outcome,
            ttfb: self.first_byte.map(|at| at.since(self.started)),
            total: now.since(self.started),
            bytes: self.bytes,
            attempts: self.attempts + hedges,
            hedged: hedges > 0,
            waited: self.waited,
            request_id: self.request_id.as_ref().and_then(|id| id.to_str().ok()).unwrap_or_default(),
        }
        .log();
    }

    /// What the log and the trace both know.
    fn span(self, now: Time, outcome: &str) -> RequestSpan {
        RequestSpan {
            started: self.started,
            ended: now,
            method: self.method,
            path: self.uri.path().to_owned(),
            client: self.client,
            model: self.model,
            status: self.status,
            outcome: outcome.to_owned(),
            first_byte: self.first_byte,
            bytes: self.bytes,
            trace: 0,
            id: 0,
            parent: None,
            state: None,
            route: None,
            operation: None,
            streaming: false,
            output_tokens_max: None,
            tokens: (None, None),
            attempts: Vec::new(),
        }
    }
}
