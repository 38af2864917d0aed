//! Earliest finish with perfect knowledge: it knows every request's size and every node's queue.
//!
//! A lower bound of sorts for what *selfish* routing can reach: each request goes where it ends first, without regard
//! for those that come after it. A policy that weighs the harm to others can beat it at high load. Before each decision
//! the driver asks every emulated node when the request would end there if nothing came after it. A batching
//! server runs a copy of itself ahead to answer, which makes this the slowest policy of all.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::policy::{Context, Policy};

/// What the driver knows about the request to be placed: seconds until it would end, by the node's place in the
/// simulated fleet. Nodes are found by name, as the proxies' view may hold fewer of them.
#[derive(Clone, Debug, Default)]
pub struct Foresight(Arc<Known>);

#[derive(Debug, Default)]
struct Known {
    used: AtomicBool,
    /// One more than the recorded node of the request to be placed; 0 for none.
    recorded: AtomicU64,
    ends: Mutex<Vec<(String, f64)>>,
}

impl Foresight {
    /// Whether anybody reads it; if not, the driver saves itself the work.
    pub fn is_used(&self) -> bool {
        self.0.used.load(Ordering::Relaxed)
    }

    /// Forgets everything and learns `ends` anew.
    pub fn set(&self, ends: impl Iterator<Item = (String, f64)>) {
        let mut known = self.0.ends.lock().unwrap_or_else(PoisonError::into_inner);
        known.clear();
        known.extend(ends);
    }

    /// Says which node of the scenario the request to be placed was recorded at.
    pub fn set_recorded(&self, node: Option<u32>) {
        self.0.recorded.store(node.map_or(0, |node| u64::from(node) + 1), Ordering::Relaxed);
    }

    pub(super) fn recorded(&self) -> Option<u64> {
        self.0.recorded.load(Ordering::Relaxed).checked_sub(1)
    }

    fn ends_at(&self, name: &str) -> f64 {
        let known = self.0.ends.lock().unwrap_or_else(PoisonError::into_inner);
        known.iter().find(|(known, _)| known == name).map_or(f64::INFINITY, |(_, ends)| *ends)
    }
}

/// Sends each request where it ends first.
#[derive(Debug)]
pub struct GreedyOracle {
    foresight: Foresight,
}

impl GreedyOracle {
    /// An oracle that reads what the driver writes into `foresight`.
    pub fn new(foresight: Foresight) -> GreedyOracle {
        foresight.0.used.store(true, Ordering::Relaxed);
        GreedyOracle { foresight }
    }
}

impl Policy for GreedyOracle {
    fn weigh(&self, ctx: &Context<'_>, out: &mut [f64]) {
        let ends = |at: usize| self.foresight.ends_at(&ctx.node(&ctx.candidates[at]).spec.name);
        let least = (0..out.len()).map(ends).fold(f64::INFINITY, f64::min);
        for (at, out) in out.iter_mut().enumerate() {
            *out = f64::from(u8::from(ends(at) == least));
        }
    }
}
