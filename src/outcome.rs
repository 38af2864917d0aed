//! How an attempt ended, and the [`Sample`] that it leaves for learning.
//!
//! The distinctions here are the ones that keep a learned router honest: a failure answers quickly and must never
//! look like a fast node, a client that walks away says nothing about the node's speed, and a node that says "full"
//! is not broken.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Time;
use crate::node::NodeId;
use crate::request::KindId;

/// How an attempt ended. Every attempt has exactly one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Outcome {
    /// The node answered and the answer reached its end.
    Completed {
        /// The HTTP status: 1xx to 3xx, or a 4xx other than 429.
        status: u16,
    },
    /// The node said that it has no room: 429, or 503 with `Retry-After`. No label, no evidence of a defect.
    Full {
        /// The HTTP status.
        status: u16,
        /// How long to stay away, if the node said so.
        retry_after: Option<Duration>,
    },
    /// The node did not do its job.
    Failed(Failure),
    /// Nobody can say how it would have ended.
    Censored(Censor),
}

/// What a node did wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No connection: refused, unreachable, or not in time. Nothing was sent.
    Connect,
    /// The connection broke before the response head had come.
    Broken,
    /// The response body broke off.
    BrokenBody,
    /// A deadline for the node passed: first byte, between chunks, or total.
    Timeout,
    /// The node's answer was not HTTP.
    Protocol,
    /// A 5xx status (other than a 503 that says when to come back).
    Status(u16),
}

/// Why an attempt's end says nothing about the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Censor {
    /// The client went away.
    ClientGone,
    /// The client's request broke off or was malformed after the attempt had begun.
    ClientError,
    /// The attempt was ended by us, for no fault of node or client: a shutdown, a panic, a total time that was used up
    /// before, or a want of descriptors or connections.
    Dropped,
    /// Another attempt of the same request was first.
    Hedged,
}

impl Outcome {
    /// Reads the outcome off the status of a complete response.
    pub fn of_status(status: u16, retry_after: Option<Duration>) -> Outcome {
        match status {
            429 => Outcome::Full { status, retry_after },
            503 if retry_after.is_some() => Outcome::Full { status, retry_after },
            500.. => Outcome::Failed(Failure::Status(status)),
            _ => Outcome::Completed { status },
        }
    }

    /// Whether its times may become labels of a regression: only complete answers from 200 to 399. A tunnel (101)
    /// lasts as long as its ends like, which says nothing about the node.
    pub fn is_latency_label(&self) -> bool {
        matches!(self, Outcome::Completed { status: 200..400 })
    }

    /// Whether it is evidence against the node.
    pub fn is_failure(&self) -> bool {
        matches!(self, Outcome::Failed(_))
    }

    /// A short word for logs and metrics labels.
    pub fn word(&self) -> &'static str {
        match self {
            Outcome::Completed { .. } => "completed",
            Outcome::Full { .. } => "full",
            Outcome::Failed(_) => "failed",
            Outcome::Censored(_) => "censored",
        }
    }
}

impl Failure {
    /// A short word for logs and metrics labels.
    pub fn word(self) -> &'static str {
        match self {
            Failure::Connect => "connect",
            Failure::Broken => "broken",
            Failure::BrokenBody => "broken_body",
            Failure::Timeout => "timeout",
            Failure::Protocol => "protocol",
            Failure::Status(_) => "status",
        }
    }
}

/// How long ago a node used what it is expected to hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Extent {
    /// Tokens that the node had to put into its cache since then.
    pub tokens: f32,
    /// Seconds since then.
    pub seconds: f32,
}

/// What a decision knew of a prompt's beginnings at a node; all zero where nothing matched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recall {
    /// Tokens at the beginning of the prompt that the node was sent before.
    pub matched_tokens: f32,
    /// Tokens of those that were expected to be in its cache still.
    pub held_tokens: f32,
    /// Tokens that the node was expected to be spared by that: what is held times what it was found to be worth there.
    pub cached_tokens: f32,
    /// How old the last match is.
    pub extent: Extent,
}

impl Recall {
    /// Of a prompt of so many tokens, those that the node has to read.
    pub fn uncached(&self, prompt_tokens: u32) -> f64 {
        uncached(prompt_tokens, self.cached_tokens)
    }
}

/// What is left of a prompt of so many tokens if so many are expected to be cached.
#[inline]
pub fn uncached(prompt_tokens: u32, cached_tokens: f32) -> f64 {
    (f64::from(prompt_tokens) - f64::from(cached_tokens)).max(0.0)
}

/// Decision and outcome of one attempt, ready for learning. Fixed size: making one allocates nothing.
///
/// Fields up to `started` are as they were when the decision was made, never recomputed; the rest only the end can tell.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// Where it ran.
    pub node: NodeId,
    /// The node's slot in per-node tables.
    pub slot: u32,
    /// Route and model.
    pub kind: KindId,
    /// Whether a stream of events was asked for.
    pub streaming: bool,
    /// Prompt tokens of the request.
    pub prompt_tokens: u32,
    /// The client's limit on output tokens.
    pub output_tokens_max: Option<u32>,
    /// In flight at the node, without this one.
    pub in_flight: u32,
    /// Of those, how many had no first byte yet.
    pub waiting: u32,
    /// Prompt tokens of those that had no first byte yet, without what was expected to be cached of them.
    pub waiting_prompt_tokens: u64,
    /// What the node was expected to hold of the prompt.
    pub recall: Recall,
    /// Probability with which this node was chosen, 0 < p <= 1.
    pub propensity: f64,
    /// Which policy chose: its place in the registry of policies.
    pub policy: u8,
    /// Version of the predictor in force; 0 for none.
    pub predictor_version: u32,
    /// Response time predicted for it, in seconds; NaN for none.
    pub predicted_s: f64,
    /// When the attempt started.
    pub started: Time,
    /// First byte of the body after the start, if it came.
    pub ttfb: Option<Duration>,
    /// End after the start.
    pub total: Duration,
    /// Time-average of the number in flight over the attempt's own life, itself included.
    pub mean_in_flight: f64,
    /// Streamed events seen.
    pub events: u32,
    /// Sum of the gaps between streamed events.
    pub gaps: Duration,
    /// Output tokens as told by `usage`.
    pub output_tokens: Option<u32>,
    /// Prompt tokens as told by `usage`.
    pub usage_prompt_tokens: Option<u32>,
    /// Of those, tokens that came from the node's cache, as told by `usage`.
    pub usage_cached_tokens: Option<u32>,
    /// How it ended.
    pub outcome: Outcome,
}

impl Sample {
    /// What the response told of cached tokens, as the request was measured: it counts tokens, the request was
    /// measured in bytes.
    pub fn told_cached(&self) -> Option<f64> {
        let told = f64::from(self.usage_cached_tokens?);
        let counted = f64::from(self.usage_prompt_tokens.unwrap_or(0));
        let scale = if counted > 0.0 { f64::from(self.prompt_tokens) / counted } else { 1.0 };
        Some(told * scale)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_good_complete_answers_are_latency_labels() {
        assert!(Outcome::of_status(200, None).is_latency_label());
        assert!(!Outcome::of_status(101, None).is_latency_label());
        assert!(!Outcome::of_status(404, None).is_latency_label());
        assert!(!Outcome::of_status(500, None).is_latency_label());
        assert!(!Outcome::of_status(429, None).is_latency_label());
        assert!(!Outcome::Censored(Censor::ClientGone).is_latency_label());
        assert!(!Outcome::Censored(Censor::Hedged).is_latency_label());
    }

    #[test]
    fn full_is_not_broken() {
        let later = Some(Duration::from_secs(1));
        assert!(!Outcome::of_status(503, later).is_failure());
        assert!(!Outcome::of_status(429, None).is_failure());
        assert!(Outcome::of_status(503, None).is_failure());
        assert!(!Outcome::of_status(422, None).is_failure());
    }
}
