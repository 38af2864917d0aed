//! C3's replica ranking: response time, less service time, plus queue cubed times service time.
//!
//! Suresh, Canini, Schmid and Feldmann, "C3: Cutting tail latency in cloud data stores via adaptive replica selection"
//! (NSDI 2015):
//!
//! ```text
//! q = 1 + outstanding * w + queue        psi = response - service + q^3 * service        lowest psi wins
//! ```
//!
//! Adapted, because model servers tell a proxy nothing: `queue` and `service` come there piggybacked on answers. Here
//! the outstanding requests are the queue (times `w`, the number of proxies, as published) and the response time stands
//! for the service time, so that the first two terms cancel. Averages keep 0.9 of their former value per sample. The
//! rate control is left out: it acts on servers that are all saturated, and its backpressure queue has no counterpart
//! here. A node without a sample counts as free (psi 0), as in the published simulator.

use std::sync::{Mutex, PoisonError};

use crate::fleet::{Node, PerNode, Resettable};
use crate::outcome::Sample;
use crate::policy::{Context, Policy};

/// How much of an average's former value a new sample leaves.
const KEEP: f64 = 0.9;

/// The exponent of the queue.
const EXPONENT: i32 = 3;

/// C3 without server feedback and rate control.
#[derive(Debug)]
pub struct C3 {
    proxies: f64,
    seen: PerNode<Average>,
}

#[derive(Debug, Default)]
struct Average(Mutex<Option<f64>>);

impl Resettable for Average {
    fn reset(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl C3 {
    /// C3 as one of `proxies` (its concurrency compensation `w`).
    pub fn new(proxies: u32) -> C3 {
        C3 { proxies: f64::from(proxies.max(1)), seen: PerNode::default() }
    }
}

impl Policy for C3 {
    fn weigh(&self, ctx: &Context<'_>, out: &mut [f64]) {
        let psi = |at: usize| {
            let candidate = &ctx.candidates[at];
            let seen = *self.seen.of(ctx.node(candidate)).0.lock().unwrap_or_else(PoisonError::into_inner);
            let queue = 1.0 + f64::from(candidate.in_flight) * self.proxies;
            seen.unwrap_or(0.0) * queue.powi(EXPONENT)
        };
        let least = (0..out.len()).map(psi).fold(f64::INFINITY, f64::min);
        for (at, out) in out.iter_mut().enumerate() {
            *out = f64::from(u8::from(psi(at) == least));
        }
    }

    fn observe(&self, node: &Node, sample: &Sample) {
        // Answers of every status count: the published algorithm does not tell failures from answers.
        let took = sample.total.as_secs_f64();
        let mut seen = self.seen.of(node).0.lock().unwrap_or_else(PoisonError::into_inner);
        *seen = Some(seen.map_or(took, |before| KEEP * before + (1.0 - KEEP) * took));
    }
}
