//! The settings as they are written: one struct per table of the file, and every default.
//!
//! This is the one source for keys, defaults, ranges and descriptions: the JSON Schema is derived from it, the walk that
//! finds mistakes is driven by that schema, environment variables are named after its paths, and `Settings::default`
//! is what these defaults check to. So a setting is added in two places: here, and where it becomes part of
//! [`Settings`](super::Settings). What concerns several values at once is in `check.rs`, not here.

mod admin;
mod node;
mod observation;
mod prefix;
mod protection;
mod route;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use http::HeaderName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::checked::SessionKey;
use super::value::{
    Address, FilePath, InFlight, LogFilter, Name, Network, Objective, OrOff, PolicyName, PriorName, SessionName, Size,
    Span, UrlPath, Workers,
};
use crate::fleet::Thresholds;
use crate::learn::Knobs;
use crate::policy::{self, PolicyId};

pub use admin::{RawAdmin, RawClientRole, RawRole, RawTls, RawToken};
pub use node::RawNode;
pub use observation::{RawServerTiming, RawTrace};
pub use prefix::RawPrefix;
pub use protection::{RawEjection, RawQueue, RawRateLimit};
pub use route::{RawPriority, RawRoute, RawRouteTimeouts};

/// The configuration of Bellwether.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Raw {
    /// Where clients connect. Change needs a restart.
    pub listen: Address,
    /// Which policy routes.
    #[schemars(extend("enum" = policy::names()))]
    pub policy: PolicyName,
    /// What names a conversation, for the policy `session-hash`: "header:NAME", "cookie:NAME", or "body:FIELD" for a field
    /// of a JSON body, below another as "body:metadata.user_id".
    pub session_key: SessionName,
    /// The `max_in_flight` of every node that has none of its own: a number, "auto" or "off".
    pub max_in_flight: OrOff<InFlight>,
    /// Threads that carry requests; "auto" is one per core. Change needs a restart.
    pub workers: Workers,
    /// A unix socket at which a new process takes the listening sockets over from this one, relative to the configuration
    /// file, or "off". Change needs a restart.
    pub handover: OrOff<FilePath>,
    /// Whether responses tell in headers which node answered, who chose it, and what was predicted: for tests, not for
    /// clients that one does not know.
    pub debug_headers: bool,
    /// When responses tell in `Server-Timing` where their time went: "off", "asked" (by a request that has
    /// `x-bellwether-timing`), or "always".
    pub server_timing: RawServerTiming,
    /// The admin API.
    pub admin: RawAdmin,
    /// What is learned of the nodes, and the policy `adaptive` that routes by it.
    pub adaptive: RawAdaptive,
    /// Active health checks.
    pub health: RawHealth,
    /// Taking out nodes that answer, but fail requests.
    pub ejection: RawEjection,
    /// Requests that wait because every node that could serve them is at its limit.
    pub queue: RawQueue,
    /// What one client may ask for.
    pub rate_limit: RawRateLimit,
    /// What is remembered of prompts.
    pub prefix: RawPrefix,
    /// Timeouts.
    pub timeouts: RawTimeouts,
    /// Retries on another node.
    pub retry: RawRetry,
    /// Bounds.
    pub limits: RawLimits,
    /// What is told to nodes and believed of clients.
    pub forward: RawForward,
    /// Logs.
    pub log: RawLog,
    /// Traces to an OpenTelemetry collector.
    pub trace: RawTrace,
    /// The model servers.
    #[serde(rename = "node", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4096))]
    pub nodes: Vec<RawNode>,
    /// Requests that are treated alike; the first in file order that matches a request counts.
    #[serde(rename = "route", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1024))]
    pub routes: Vec<RawRoute>,
}

impl Default for Raw {
    fn default() -> Self {
        Raw {
            listen: Address(SocketAddr::from((Ipv4Addr::LOCALHOST, 8080))),
            policy: PolicyName(PolicyId::named(policy::DEFAULT).unwrap_or(PolicyId(0))),
            // What gateways of language models send for this, where they do.
            session_key: SessionName(SessionKey::Header(HeaderName::from_static("x-session-id"))),
            max_in_flight: OrOff(None),
            workers: Workers(None),
            handover: OrOff(None),
            debug_headers: false,
            server_timing: RawServerTiming::default(),
            admin: RawAdmin::default(),
            adaptive: RawAdaptive::default(),
            health: RawHealth::default(),
            ejection: RawEjection::default(),
            queue: RawQueue::default(),
            rate_limit: RawRateLimit::default(),
            prefix: RawPrefix::default(),
            timeouts: RawTimeouts::default(),
            retry: RawRetry::default(),
            limits: RawLimits::default(),
            forward: RawForward::default(),
            log: RawLog::default(),
            trace: RawTrace::default(),
            nodes: Vec::new(),
            routes: Vec::new(),
        }
    }
}

/// What is learned of the nodes, and the policy `adaptive` that routes by it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawAdaptive {
    /// What is made short: "total" response times, the "first-byte", or a mixture: 0 is total, 1 is first-byte.
    #[schemars(extend("minimum" = 0, "maximum" = 1))]
    pub objective: Objective,
    /// Weight of what a request costs the others on its node; 0 is greedy.
    #[schemars(extend("minimum" = 0, "maximum" = 10))]
    pub social: f64,
    /// Share of decisions that try the less known of two nodes.
    #[schemars(extend("minimum" = 0, "maximum" = 0.5))]
    pub explore: f64,
    /// How many proxies send to the same nodes, this one included. What a request costs the others is counted for all of
    /// them, and with one `prefix.key_file` they agree, without talking, where a conversation belongs.
    #[schemars(extend("minimum" = 1, "maximum" = 1000))]
    pub proxies: u32,
    /// Whether the policy `adaptive` only says what it would do, and the fallback routes.
    pub shadow: bool,
    /// Which policy routes while there is no model to trust; any but `adaptive`.
    #[schemars(extend("enum" = fallbacks()))]
    pub fallback: PolicyName,
    /// A directory that keeps what was learned over a restart, relative to the configuration file, or "off". Change
    /// needs a restart.
    pub state_dir: OrOff<FilePath>,
    /// What to start from where nothing was kept: a snapshot's file, "builtin:NAME", or "off". Change needs a restart.
    pub prior: OrOff<PriorName>,
}

/// Policies that do without a model.
pub(super) fn fallbacks() -> Vec<&'static str> {
    policy::names().into_iter().filter(|name| *name != policy::ADAPTIVE).collect()
}

impl Default for RawAdaptive {
    fn default() -> Self {
        // The numbers live with the policy that they turn, which runs without any configuration too.
        let Knobs { first_byte, social, explore, proxies, .. } = Knobs::default();
        RawAdaptive {
            proxies: proxies as u32,
            objective: Objective(first_byte),
            social,
            explore,
            shadow: false,
            fallback: PolicyName(PolicyId::named(policy::FALLBACK).unwrap_or(PolicyId(0))),
            state_dir: OrOff(None),
            prior: OrOff(None),
        }
    }
}

/// Active health checks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawHealth {
    /// Between two checks of a node, give or take a tenth.
    pub interval: Span,
    /// A check that takes longer has failed.
    pub timeout: Span,
    /// Asked with GET, 2xx and 3xx pass; "off" checks only that the node accepts a TCP connection.
    pub path: OrOff<UrlPath>,
    /// Failed checks in a row until a node gets no more work.
    #[schemars(range(min = 1, max = 100))]
    pub unhealthy_after: u32,
    /// Passed checks in a row until it gets work again.
    #[schemars(range(min = 1, max = 100))]
    pub healthy_after: u32,
}

impl Default for RawHealth {
    fn default() -> Self {
        // The numbers live with the state machine that they drive, which runs without any configuration too.
        let Thresholds { unhealthy_after, healthy_after } = Thresholds::default();
        RawHealth { interval: seconds(5), timeout: seconds(2), path: OrOff(None), unhealthy_after, healthy_after }
    }
}

/// Timeouts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawTimeouts {
    /// From accepting a client's connection to the first complete request head.
    pub first_request: Span,
    /// From the first byte of a later request head to its end.
    pub header_read: Span,
    /// Opening a connection to a node.
    pub connect: Span,
    /// From the request sent to the response head of the node.
    pub first_byte: Span,
    /// Between two pieces of a body, of the client's or the node's.
    pub between_chunks: Span,
    /// A whole request with its response, or "off".
    pub total: OrOff<Span>,
    /// A client's connection without a request.
    pub idle: Span,
    /// A tunnel (WebSocket) in which neither side sends anything.
    pub tunnel_idle: Span,
    /// How long a stopping proxy waits for what runs.
    pub drain: Span,
}

impl Default for RawTimeouts {
    fn default() -> Self {
        RawTimeouts {
            first_request: seconds(10),
            header_read: seconds(10),
            connect: seconds(2),
            first_byte: seconds(600),
            between_chunks: seconds(120),
            total: OrOff(None),
            idle: seconds(75),
            tunnel_idle: seconds(600),
            drain: seconds(30),
        }
    }
}

/// Retries on another node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawRetry {
    /// Retries as a share of requests.
    #[schemars(extend("minimum" = 0, "maximum" = 1))]
    pub budget: f64,
    /// Retries per second that are always allowed.
    #[schemars(extend("minimum" = 0, "maximum" = 10000))]
    pub floor_per_s: f64,
    /// Attempts of one request at most, the first included.
    #[schemars(range(min = 1, max = 10))]
    pub attempts_max: u32,
    /// Second attempts beside late ones, as a share of the requests on routes that hedge.
    #[schemars(extend("minimum" = 0, "maximum" = 0.1))]
    pub hedge_budget: f64,
    /// Whether a request that a node is too full for (429, or 503 with `Retry-After`) goes to another one.
    pub full: bool,
}

impl Default for RawRetry {
    fn default() -> Self {
        RawRetry { budget: 0.2, floor_per_s: 10.0, attempts_max: 3, hedge_budget: 0.02, full: true }
    }
}

/// Bounds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawLimits {
    /// Client connections at once.
    #[schemars(range(min = 1, max = 1000000))]
    pub connections_max: u32,
    /// Of those, connections of one client: an IPv4 address or an IPv6 /64 network. Behind trusted proxies, whose
    /// connections are not counted, requests under way of one client.
    #[schemars(range(min = 1, max = 1000000))]
    pub client_connections_max: u32,
    /// Bytes a second below which a client is too slow: with its body, or with what it takes of a response while that
    /// waits for it. Counts once it was waited for `timeouts.between_chunks` in all; 0 lets every one be.
    #[schemars(extend("minimum" = 0, "maximum" = 1048576))]
    pub client_bytes_per_s_min: Size,
    /// Bytes of a request head.
    #[schemars(extend("minimum" = 1024, "maximum" = 1048576))]
    pub head_bytes_max: Size,
    /// Header fields of a request.
    #[schemars(range(min = 8, max = 1024))]
    pub headers_max: u32,
    /// Bytes of a request target; at most those of a head.
    #[schemars(extend("minimum" = 64, "maximum" = 65534))]
    pub uri_bytes_max: Size,
    /// Bytes of a request body, or "off": bodies stream, so that a large one costs no memory.
    #[schemars(extend("minimum" = 1))]
    pub body_bytes_max: OrOff<Size>,
    /// Bytes of a JSON request body that are looked at, and kept for a retry.
    #[schemars(extend("minimum" = 0, "maximum" = 16777216))]
    pub inspect_bytes_max: Size,
    /// Connections to one node at once, from all workers together.
    #[schemars(range(min = 1, max = 60000))]
    pub node_connections_max: u32,
    /// Idle connections kept per node and worker.
    #[schemars(range(min = 0, max = 60000))]
    pub node_idle_max: u32,
    /// How long a connection to a node may be idle before it is closed.
    pub node_idle_timeout: Span,
    /// How old a connection to a node may become before it is not used again.
    pub node_lifetime: Span,
}

impl Default for RawLimits {
    fn default() -> Self {
        RawLimits {
            connections_max: 20_000,
            client_connections_max: 10_000,
            client_bytes_per_s_min: Size(240),
            head_bytes_max: Size(64 * 1024),
            headers_max: 100,
            uri_bytes_max: Size(8 * 1024),
            body_bytes_max: OrOff(None),
            inspect_bytes_max: Size(256 * 1024),
            node_connections_max: 4_096,
            node_idle_max: 256,
            node_idle_timeout: seconds(60),
            node_lifetime: seconds(600),
        }
    }
}

/// What is told to nodes and believed of clients.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawForward {
    /// Proxies whose `Forwarded` and `X-Forwarded-*` are believed and extended instead of replaced.
    #[schemars(length(max = 1024))]
    pub trusted_proxies: Vec<Network>,
    /// Whether the client's `Host` reaches the node; otherwise the node's own authority does.
    pub preserve_host: bool,
    /// Protocols to which a client may switch with `Upgrade`; a wish for any other is ignored.
    #[schemars(length(max = 64))]
    pub upgrades: Vec<Name>,
}

impl Default for RawForward {
    fn default() -> Self {
        let upgrades = vec![Name("websocket".to_owned())];
        RawForward { trusted_proxies: Vec::new(), preserve_host: true, upgrades }
    }
}

/// Logs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawLog {
    /// Which lines are written: a level, perhaps others per target, such as "info,bellwether=debug".
    pub level: LogFilter,
    /// How lines look.
    pub format: RawLogFormat,
    /// Whether every request gets a line.
    pub access: bool,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "described once at the field; a description per word would turn the enum into a oneOf")]
pub enum RawLogFormat {
    #[default]
    Text,
    Json,
}

impl Default for RawLog {
    fn default() -> Self {
        RawLog { level: LogFilter("info".to_owned()), format: RawLogFormat::Text, access: true }
    }
}

fn seconds(count: u64) -> Span {
    Span(Duration::from_secs(count))
}
