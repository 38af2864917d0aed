//! The simulator: model servers in virtual time, workloads, and the real balancer between them.
//!
//! Engines ([`batch`], [`plain`]) are pure: told what time it is, they answer with what happened by then, so the same
//! code serves twice. The emulator on real sockets lets the machine's clock drive it; the [`driver`] jumps from event to
//! event and puts an hour of traffic through the production [`Balancer`](crate::balancer::Balancer) in seconds. A
//! queueing formula would be faster still, but would not show what routing does to batches, slots and queues, and a
//! reimplementation of the policies would show what that one does. Engines know nothing of networks, failures of
//! requests, or the balancer. Not simulated: the time that connections and the proxy itself take.

pub mod ablation;
pub mod batch;
pub mod cache;
pub mod conversations;
pub mod digest;
pub mod driver;
pub mod figures;
pub mod fleets;
mod flights;
mod learning;
pub mod plain;
pub mod random;
pub mod report;
pub mod result;
pub mod roster;
pub mod scenario;
mod server;
pub mod statistics;
pub mod suite;
pub mod trace;
pub mod watch;
pub mod workload;
pub mod yardstick;

pub use batch::{BatchServer, BatchSpec};
pub use cache::PrefixCache;
pub use fleets::{ServerSpec, SimFleet, SimNode};
pub use plain::{PlainServer, PlainSpec};
pub use random::Lognormal;
pub use server::{Server, Text, Work};

use crate::clock::Time;

/// A request inside an engine; the caller's number, unique among those that are in it.
pub type WorkId = u64;

/// What happened in an engine.
///
/// Of one step come first every `FirstToken`, then `Tokens` once, then every `Finished`. A plain server has no tokens
/// and tells only `Finished`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Event<'a> {
    /// The prompt is computed: the sequence has its first token.
    FirstToken {
        /// When.
        at: Time,
        /// Whose.
        id: WorkId,
    },
    /// A step ended and gave one token to each of these sequences, first tokens included.
    Tokens {
        /// When.
        at: Time,
        /// Whose, in no particular order.
        ids: &'a [WorkId],
    },
    /// Everything is computed; the engine has forgotten the id.
    Finished {
        /// When.
        at: Time,
        /// Whose.
        id: WorkId,
    },
}

/// Seconds to whole microseconds, the grain of [`Time`]; negative or not finite counts as 0.
fn micros(seconds: f64) -> u64 {
    // A float-to-integer cast saturates, and NaN becomes 0.
    (seconds * 1e6).round() as u64
}

/// A speed factor as an engine can use it: finite and above zero, 1 otherwise.
fn sound_speed(speed: f64) -> f64 {
    if speed.is_finite() && speed > 0.0 { speed } else { 1.0 }
}
