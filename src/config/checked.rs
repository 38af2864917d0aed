//! Settings that are valid by construction: what the rest of the program reads.

mod admin;
mod prefix;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

pub use admin::{Admin, AdminListen, AdminTls, Role, Token};
pub use prefix::PrefixSettings;

use crate::address::Reach;
pub use crate::admission::Priority;
use crate::admission::{QueueRules, RateRules};
use crate::fleet::{Ejection, Thresholds};
use crate::learn::Knobs;
use crate::node::{MaxInFlight, NodeSpec};
use crate::policy::PolicyId;

/// Everything that an operator can set.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where clients connect.
    pub listen: SocketAddr,
    /// Which policy routes.
    pub policy: PolicyId,
    /// What names a conversation.
    pub session_key: SessionKey,
    /// What limits nodes that have no limit of their own. Those of `nodes` were given it by the checks.
    pub max_in_flight: MaxInFlight,
    /// Threads that carry requests.
    pub workers: usize,
    /// Where a new process takes the listening sockets over from this one.
    pub handover: Option<PathBuf>,
    /// Whether responses tell of node, policy and prediction.
    pub debug_headers: bool,
    /// When responses carry `Server-Timing`.
    pub server_timing: ServerTiming,
    /// The admin listener.
    pub admin: Admin,
    /// What is learned, and the policy that routes by it.
    pub adaptive: Adaptive,
    /// The fleet as configured.
    pub nodes: Vec<NodeSpec>,
    /// Routes in file order; the first that matches counts. Checked: none is hidden by an earlier one.
    pub routes: Vec<Route>,
    /// Active health checks.
    pub health: Health,
    /// Taking out nodes that fail requests.
    pub ejection: Ejection,
    /// Waiting for a node.
    pub queue: QueueSettings,
    /// What one client may ask for.
    pub rate_limit: RateLimit,
    /// What is remembered of prompts.
    pub prefix: PrefixSettings,
    /// Timeouts of requests on no particular route, and of connections.
    pub timeouts: Timeouts,
    /// Retries.
    pub retry: Retry,
    /// Bounds.
    pub limits: Limits,
    /// What is told to nodes and believed of clients.
    pub forward: Forward,
    /// Logs.
    pub log: Log,
    /// Traces.
    pub trace: Trace,
}

/// When responses tell where their time went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerTiming {
    /// Never.
    Off,
    /// When the request asks.
    Asked,
    /// Always.
    Always,
}

/// Traces to a collector.
#[derive(Clone, Debug, PartialEq)]
pub struct Trace {
    /// `http://host:port` with an optional base path; `None` records none.
    pub endpoint: Option<String>,
    /// Share of the traces that begin here which are recorded, 0..=1.
    pub share: f64,
    /// What the spans call this service.
    pub service: String,
}

impl Settings {
    /// What connections to nodes are held against.
    pub fn reach(&self) -> Reach<'_> {
        Reach {
            allow: &self.admin.node_allow,
            known: &self.nodes,
            own: [Some(self.listen), self.admin.listen.address()],
        }
    }
}

/// What is learned, and the policy `adaptive` that routes by it.
#[derive(Clone, Debug, PartialEq)]
pub struct Adaptive {
    /// Objective, social weight and exploration.
    pub knobs: Knobs,
    /// Whether `adaptive` only says what it would do, and the fallback routes.
    pub shadow: bool,
    /// Who routes while there is no model to trust; never `adaptive` itself.
    pub fallback: PolicyId,
    /// Where what was learned is kept over a restart.
    pub state_dir: Option<PathBuf>,
    /// What to start from where nothing was kept: a path, or `builtin:NAME`.
    pub prior: Option<String>,
}

/// Requests that are treated alike; the first that matches counts.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// How metrics and logs call it: its path prefix unless named.
    pub name: String,
    /// Paths that start with it; `/v1` matches `/v1` and `/v1/chat`, not `/v10`.
    pub path_prefix: String,
    /// Only this method.
    pub method: Option<http::Method>,
    /// Only requests that name this model.
    pub model: Option<String>,
    /// Whether a POST that was already sent may be sent again to another node before the first response byte.
    pub retry_post: bool,
    /// Whether an answer of 5xx, and 429 without `retry.full`, counts as none where the request may be sent again.
    pub retry_errors: bool,
    /// Whether what may be sent again goes to a second node when the first is late.
    pub hedge: bool,
    /// Class in the queue.
    pub priority: Priority,
    /// The effective timeouts of the route.
    pub timeouts: Timeouts,
}

/// Waiting for a node.
#[derive(Clone, Debug, PartialEq)]
pub struct QueueSettings {
    /// Its bounds.
    pub rules: QueueRules,
    /// The request header that names the class.
    pub priority_header: Option<http::HeaderName>,
}

/// What one client may ask for.
#[derive(Clone, Debug, PartialEq)]
pub struct RateLimit {
    /// What tells clients apart.
    pub key: RateKey,
    /// The quotas.
    pub rules: RateRules,
}

/// What tells clients apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RateKey {
    /// Their address.
    Address,
    /// `Authorization` or `x-api-key`.
    ApiKey,
    /// Another header.
    Header(http::HeaderName),
}

/// What names a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionKey {
    /// A header.
    Header(http::HeaderName),
    /// A cookie.
    Cookie(String),
    /// A field of a JSON body; further ones are below the one before them. Never empty.
    Body(Vec<String>),
}

/// Active health checks.
#[derive(Clone, Debug, PartialEq)]
pub struct Health {
    /// Between two checks of a node, give or take a tenth.
    pub interval: Duration,
    /// A check that takes longer has failed.
    pub timeout: Duration,
    /// Asked with GET, 2xx and 3xx pass; `None` checks that the node accepts a TCP connection.
    pub path: Option<String>,
    /// How many checks in a row change a node's state.
    pub thresholds: Thresholds,
}

/// Timeouts. All but `total` are always on.
#[derive(Clone, Debug, PartialEq)]
pub struct Timeouts {
    /// From accepting a client's connection to the first complete request head.
    pub first_request: Duration,
    /// From the first byte of a later request head to its end.
    pub header_read: Duration,
    /// Opening a connection to a node.
    pub connect: Duration,
    /// From the request sent to the response head of the node.
    pub first_byte: Duration,
    /// Between two pieces of a body, of the client's or the node's.
    pub between_chunks: Duration,
    /// A whole request with its response.
    pub total: Option<Duration>,
    /// A client's connection without a request.
    pub idle: Duration,
    /// A tunnel in which neither side sends anything; it is cut after that time and before twice that.
    pub tunnel_idle: Duration,
    /// How long a stopping proxy waits for what runs.
    pub drain: Duration,
}

/// Retries.
#[derive(Clone, Debug, PartialEq)]
pub struct Retry {
    /// Retries as a share of requests, 0..=1.
    pub budget: f64,
    /// Retries per second that are always allowed.
    pub floor_per_s: f64,
    /// Attempts of one request at most, the first included.
    pub attempts_max: u32,
    /// Hedges as a share of the requests on routes that hedge, 0..=0.1.
    pub hedge_budget: f64,
    /// Whether a request that a node is too full for goes to another one.
    pub full: bool,
}

/// Bounds.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Client connections at once.
    pub connections_max: usize,
    /// Client connections of one address, or requests under way of one behind a trusted proxy.
    pub client_connections_max: usize,
    /// The slowest that a client may send a body or take a response that waits for it, in bytes per second; 0 is any.
    pub client_bytes_per_s_min: u64,
    /// Bytes of a request head.
    pub head_bytes_max: usize,
    /// Header fields of a request.
    pub headers_max: usize,
    /// Bytes of a request target.
    pub uri_bytes_max: usize,
    /// Bytes of a request body; `None` is no bound, as bodies stream.
    pub body_bytes_max: Option<u64>,
    /// Bytes of a JSON request body that are looked at, and kept for a retry.
    pub inspect_bytes_max: usize,
    /// Connections to one node at once, from all workers together.
    pub node_connections_max: usize,
    /// Idle connections kept per node and worker.
    pub node_idle_max: usize,
    /// How long a connection to a node may be idle before it is closed.
    pub node_idle_timeout: Duration,
    /// How old a connection to a node may become before it is not used again.
    pub node_lifetime: Duration,
}

/// What is told to nodes and believed of clients.
#[derive(Clone, Debug, PartialEq)]
pub struct Forward {
    /// Proxies whose `Forwarded`, `X-Forwarded-*` are believed and extended instead of replaced.
    pub trusted_proxies: Vec<IpNet>,
    /// Whether the client's `Host` reaches the node; otherwise the node's own authority does.
    pub preserve_host: bool,
    /// Protocols to which a client may switch, in any case of letters.
    pub upgrades: Vec<String>,
}

/// Logs.
#[derive(Clone, Debug, PartialEq)]
pub struct Log {
    /// A filter such as `info` or `bellwether=debug`.
    pub level: String,
    /// How lines look.
    pub format: LogFormat,
    /// One line per request.
    pub access: bool,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}
