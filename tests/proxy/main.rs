//! The path of a request on real sockets: a whole proxy, nodes behind it and clients before it, all on loopback.
//!
//! One binary with a module per theme. Both ends of an exchange are usually played by the test itself with [`wire::Wire`],
//! because what matters here (a byte that must not be there yet, a connection that must be closed) is below what an
//! HTTP client shows. Where a node has to compute, it is an emulator that goes on only when it is told to. Nothing
//! sleeps for a while and then looks: tests wait for what they expect, with [`wire::PATIENCE`] only so that a test that
//! would hang fails instead.

mod changes;
mod connections;
mod crowd;
mod decisions;
mod departures;
mod ejection;
mod failures;
mod full;
mod headers;
mod health;
mod hedging;
mod limits;
mod messages;
mod models;
mod queue;
mod rate;
mod reach;
mod refusals;
mod rig;
mod slow;
mod stopping;
mod streaming;
mod timeouts;
mod tracing;
mod tunnels;
mod upgrade;
mod wire;
