//! What can be wrong with an emulated server, and what tests may count on it.

use std::time::Instant;

use serde::{Deserialize, Serialize};

/// How a server misbehaves. Applies to requests that arrive from now on, and to those in flight where it says so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "fault", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Fault {
    /// It works.
    #[default]
    None,
    /// As a dead process: nothing listens, open connections are closed, what was in flight is lost.
    Refuse,
    /// Every request is answered at once with this status: 500 fails fast, 429 and 503 say that it is full.
    Status {
        /// The status.
        status: u16,
        /// `Retry-After` in seconds, if any.
        retry_after_s: Option<u32>,
    },
    /// The engine has died and its front lives on: requests are answered 500 at once, `/health` says 503.
    EngineDead,
    /// The engine stands still, also for what is in flight; connections and `/health` work.
    Hang,
    /// Connections and requests are taken and nothing is ever answered, not even `/health`; the engine is not asked.
    NeverAnswer,
    /// Every step takes `factor` times as long, also for what is in flight.
    Slow {
        /// Above 0; 5 is five times slower.
        factor: f64,
    },
    /// Streamed answers end uncleanly after so many events; others after half of the body.
    Break {
        /// Events that still arrive.
        after_events: u32,
    },
    /// As `Break`, with a TCP reset; after 0 events nothing of the answer is sent.
    Reset {
        /// Events that still arrive.
        after_events: u32,
    },
}

/// What happened at a server since its start. Counts requests that ask for computation, not `/health` and the like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Connections accepted.
    pub connections: u64,
    /// Requests whose head arrived.
    pub started: u64,
    /// Requests whose whole answer was handed to the connection.
    pub finished: u64,
    /// Requests that the client left before that.
    pub cancelled: u64,
    /// Requests that a fault answered or broke.
    pub faulted: u64,
    /// Tokens computed.
    pub tokens: u64,
    /// Sequences that the engine has now, waiting or running.
    pub live: u64,
}

/// A client that left before its answer was complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disconnect {
    /// When the server noticed, which is when it stopped computing.
    pub noticed: Instant,
    /// Events that the engine had computed for the request by then.
    pub events: u32,
}
