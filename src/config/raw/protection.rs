//! What protects nodes and clients from each other: the tables of ejection, queue and rate limits.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::checked::RateKey;
use super::super::value::{ClientKey, FieldName, OrOff, Size, Span};
use crate::admission::QueueRules;
use crate::fleet::Ejection;

/// Taking out nodes that answer, but fail requests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawEjection {
    /// Failures in a row that eject a node.
    #[schemars(range(min = 1, max = 10000))]
    pub consecutive: u32,
    /// Share of a node's requests within the window that ejects it by failing.
    #[schemars(extend("exclusiveMinimum" = 0, "maximum" = 1))]
    pub failure_ratio: f64,
    /// How much larger a node's share of failures than that of the other nodes must be to eject it.
    #[schemars(extend("exclusiveMinimum" = 0, "maximum" = 1))]
    pub outlier_margin: f64,
    /// What shares of failures are taken over: this window and the one before.
    pub window: Span,
    /// Requests of a node below which its share of failures says nothing.
    #[schemars(range(min = 1, max = 1000000))]
    pub requests_min: u32,
    /// The first ejection; each further one is twice as long, and service takes that back.
    pub base: Span,
    /// The longest ejection.
    pub longest: Span,
    /// Share of the fleet that may be ejected at once, rounded down; 0 ejects nobody.
    #[schemars(extend("minimum" = 0, "maximum" = 1))]
    pub share_max: f64,
    /// If less than this share of the nodes that could serve a request is left, ejections do not count for it.
    #[schemars(extend("minimum" = 0, "maximum" = 1))]
    pub panic_below: f64,
}

impl Default for RawEjection {
    fn default() -> Self {
        // The numbers live with the rules that they are part of, which run without any configuration too.
        let Ejection {
            consecutive,
            failure_ratio,
            outlier_margin,
            window,
            requests_min,
            base,
            longest,
            share_max,
            panic_below,
        } = Ejection::default();
        RawEjection {
            consecutive,
            failure_ratio,
            outlier_margin,
            window: Span(window),
            requests_min,
            base: Span(base),
            longest: Span(longest),
            share_max,
            panic_below,
        }
    }
}

/// Requests that wait because every node that could serve them is at its limit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawQueue {
    /// Requests that may wait; 0 refuses them at once.
    #[schemars(range(min = 0, max = 100000))]
    pub length_max: u32,
    /// Bytes that may be kept of the bodies of those.
    #[schemars(extend("minimum" = 0))]
    pub bytes_max: Size,
    /// How long a request waits whose client does not say how long it would.
    pub timeout: Span,
    /// How long a request waits at most whose client does say, in `x-request-timeout` or `grpc-timeout`.
    pub timeout_max: Span,
    /// When a class has had somebody waiting for so long without a break, the newest goes first; or "off".
    pub lifo_after: OrOff<Span>,
    /// The request header that names the class: interactive, default or batch; else, or "off", the route says.
    pub priority_header: OrOff<FieldName>,
}

impl Default for RawQueue {
    fn default() -> Self {
        // The numbers live with the queue, which runs without any configuration too.
        let QueueRules { length_max, bytes_max, timeout, timeout_max, lifo_after } = QueueRules::default();
        RawQueue {
            length_max: u32::try_from(length_max).unwrap_or(u32::MAX),
            bytes_max: Size(bytes_max),
            timeout: Span(timeout),
            timeout_max: Span(timeout_max),
            lifo_after: OrOff(lifo_after.map(Span)),
            priority_header: OrOff(None),
        }
    }
}

/// What one client may ask for. All of it at once if it was not used before; it comes back evenly over the window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawRateLimit {
    /// What tells clients apart: "api-key" (`Authorization` or `x-api-key`), "address", or "header:NAME"; a client
    /// without the key or header is known by its address. Nothing here checks keys: a client that invents a new one for
    /// every request gets a new allowance with each. Where clients are not trusted, use "address", or a header that an
    /// authenticating proxy in front sets.
    pub key: ClientKey,
    /// Requests per window; 0 is no limit.
    #[schemars(range(min = 0, max = 1000000000))]
    pub requests: u64,
    /// Prompt and expected output tokens per window; 0 is no limit.
    #[schemars(range(min = 0, max = 1000000000000i64))]
    pub tokens: u64,
    /// The window.
    pub window: Span,
    /// Clients that are remembered; then the least recently seen is forgotten.
    #[schemars(range(min = 1, max = 10000000))]
    pub keys_max: u32,
}

impl Default for RawRateLimit {
    fn default() -> Self {
        // Ten thousand clients are about a megabyte.
        let window = Span(Duration::from_secs(60));
        RawRateLimit { key: ClientKey(RateKey::ApiKey), requests: 0, tokens: 0, window, keys_max: 10_000 }
    }
}
