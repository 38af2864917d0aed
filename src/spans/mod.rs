//! Traces: what happened to a request, as spans that an OpenTelemetry collector takes.
//!
//! One server span per request, one client span per attempt. They are made only for requests that are recorded, put
//! into a bounded queue without waiting, and sent in batches by one task; what finds no room is counted and gone. The
//! wire is OTLP over HTTP in its JSON encoding, written here: the OpenTelemetry crates for it bring twenty others
//! (prost and h2 among them) to encode two kinds of spans. It sends over plain HTTP only, as to an agent or collector
//! on the same machine or network, and tells no header values, queries, prompts or answers.

pub mod context;
mod encode;
mod export;

use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::Method;
use tokio::sync::mpsc;

use crate::clock::{Clock, Time};
use crate::fleet::Node;
use crate::outcome::{Censor, Outcome};
use crate::policy::PolicyId;

pub use export::export;

/// Requests whose spans wait to be sent; some kilobytes each.
const QUEUE_MAX: usize = 2_048;

/// One attempt of a request.
#[derive(Debug)]
pub struct AttemptSpan {
    /// Its id; the parent of what the node records.
    pub id: u64,
    /// When it started.
    pub started: Time,
    /// When it ended, and how; `None` while it runs.
    pub ended: Option<(Time, Outcome)>,
    /// Where.
    pub node: Arc<Node>,
    /// Who chose.
    pub policy: PolicyId,
    /// With which probability.
    pub propensity: f64,
    /// What was predicted, in seconds; NaN for nothing.
    pub predicted_s: f64,
    /// Version of the predictor; 0 for none.
    pub model_version: u32,
    /// How many nodes there were to choose from.
    pub candidates: u32,
    /// In flight at the node before.
    pub in_flight: u32,
    /// How long the request waited for it.
    pub waited: Duration,
    /// Whether it was made beside a late one.
    pub hedge: bool,
}

/// One request.
#[derive(Debug)]
pub struct RequestSpan {
    /// The trace.
    pub trace: u128,
    /// The id of the server span.
    pub id: u64,
    /// The client's span, if it told one.
    pub parent: Option<u64>,
    /// The client's `tracestate`.
    pub state: Option<String>,
    /// When the request came.
    pub started: Time,
    /// When it ended.
    pub ended: Time,
    /// Its method.
    pub method: Method,
    /// Its path, without the query.
    pub path: String,
    /// Who asked.
    pub client: IpAddr,
    /// Route and what the route is about, where it is known.
    pub route: Option<String>,
    /// The operation in the words of the GenAI conventions, for paths of model servers.
    pub operation: Option<&'static str>,
    /// The model that it names.
    pub model: Option<Arc<str>>,
    /// Whether a stream was asked for.
    pub streaming: bool,
    /// Its limit on output tokens.
    pub output_tokens_max: Option<u32>,
    /// Status of the response; 499 where the client left before there was one.
    pub status: u16,
    /// How it ended, in a word.
    pub outcome: String,
    /// First byte of the response body.
    pub first_byte: Option<Time>,
    /// Bytes of the response body.
    pub bytes: u64,
    /// Tokens that the response told of: of the prompt, of the output.
    pub tokens: (Option<u32>, Option<u32>),
    /// The attempts, in their order; at most as many as a request may have.
    pub attempts: Vec<AttemptSpan>,
}

impl RequestSpan {
    /// The attempt whose answer the client got, or would have got: the one that ended last, of two the one that won.
    fn answering(&self) -> Option<u64> {
        let lost = |attempt: &AttemptSpan| matches!(attempt.ended, Some((_, Outcome::Censored(Censor::Hedged))));
        let last = self.attempts.iter().max_by_key(|one| (!lost(one), one.ended.map_or(self.ended, |(at, _)| at)));
        last.map(|attempt| attempt.id)
    }

    /// How many spans it is.
    fn spans(&self) -> u64 {
        1 + self.attempts.len() as u64
    }
}

/// Spans since the start, by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpanCounts {
    /// Taken by the collector.
    pub sent: u64,
    /// Dropped as the queue was full.
    pub dropped: u64,
    /// Lost as the collector did not take them.
    pub lost: u64,
}

/// The queue of spans, and what became of them.
pub struct Spans {
    queue: mpsc::Sender<Box<RequestSpan>>,
    /// Who exports takes it.
    waiting: Mutex<Option<mpsc::Receiver<Box<RequestSpan>>>>,
    sent: AtomicU64,
    dropped: AtomicU64,
    lost: AtomicU64,
    /// Wall time at the zero of the clock, in nanoseconds since 1970.
    zero_ns: u64,
}

impl fmt::Debug for Spans {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spans").field("counts", &self.counts()).finish_non_exhaustive()
    }
}

impl Spans {
    /// An empty queue, for times of `clock`.
    pub fn new(clock: &Clock) -> Spans {
        let (queue, waiting) = mpsc::channel(QUEUE_MAX);
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let zero = wall.saturating_sub(Duration::from_micros(clock.now().as_micros()));
        Spans {
            queue,
            waiting: Mutex::new(Some(waiting)),
            sent: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            zero_ns: u64::try_from(zero.as_nanos()).unwrap_or(u64::MAX),
        }
    }

    /// Queues a request that has ended; never waits.
    pub fn record(&self, request: Box<RequestSpan>) {
        let spans = request.spans();
        if self.queue.try_send(request).is_err() {
            self.dropped.fetch_add(spans, Ordering::Relaxed);
        }
    }

    /// What became of all so far.
    pub fn counts(&self) -> SpanCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        SpanCounts { sent: read(&self.sent), dropped: read(&self.dropped), lost: read(&self.lost) }
    }

    fn take_waiting(&self) -> Option<mpsc::Receiver<Box<RequestSpan>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Nanoseconds since 1970.
    fn unix_ns(&self, at: Time) -> u64 {
        self.zero_ns.saturating_add(at.as_micros().saturating_mul(1_000))
    }
}

#[cfg(test)]
mod tests;
