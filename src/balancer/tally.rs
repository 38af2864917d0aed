//! What the learned policy did and would have done: explorations, and comparisons with the policy that routes.
//!
//! While another policy routes, one decision in sixteen is also made by `adaptive`, on the same view and without
//! effect: enough for a share that is exact to a percent within minutes, and a twentieth of the cost of comparing all.
//! Which ones is drawn: every sixteenth would always be the same node's turn under round-robin.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::policy::adaptive::{Comparison, Cost};

/// One in so many decisions of another policy is compared.
pub const COMPARED_ONE_IN: u32 = 16;

/// The longest time that is added up, in seconds: an absurd prediction must not drown all others.
const COST_MAX_S: f64 = 86_400.0;

/// Sums over placements.
#[derive(Debug, Default)]
struct Sums {
    response_us: AtomicU64,
    added_us: AtomicU64,
}

impl Sums {
    fn add(&self, cost: &Cost) {
        let micros = |seconds: f64| (seconds.clamp(0.0, COST_MAX_S) * 1e6) as u64;
        self.response_us.fetch_add(micros(cost.response_s), Ordering::Relaxed);
        self.added_us.fetch_add(micros(cost.added_s), Ordering::Relaxed);
    }

    fn read(&self) -> Cost {
        let seconds = |sum: &AtomicU64| sum.load(Ordering::Relaxed) as f64 / 1e6;
        Cost { response_s: seconds(&self.response_us), added_s: seconds(&self.added_us) }
    }
}

/// The counters.
#[derive(Debug, Default)]
pub struct Tally {
    explored: AtomicU64,
    agreed: AtomicU64,
    differed: AtomicU64,
    chosen: Sums,
    own: Sums,
}

/// Another policy's decisions against those of `adaptive`, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Compared {
    /// Alike.
    pub agreed: u64,
    /// Not alike.
    pub differed: u64,
    /// Expected costs of the nodes that were chosen, in all.
    pub chosen: Cost,
    /// Expected costs of the nodes that `adaptive` would have chosen, in all.
    pub own: Cost,
}

impl Tally {
    pub(super) fn explored(&self) {
        self.explored.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn compared(&self, seen: &Comparison) {
        let counter = if seen.agrees { &self.agreed } else { &self.differed };
        counter.fetch_add(1, Ordering::Relaxed);
        self.chosen.add(&seen.chosen);
        self.own.add(&seen.own);
    }

    /// Decisions for a node that was not the best, to learn of it.
    pub fn explorations(&self) -> u64 {
        self.explored.load(Ordering::Relaxed)
    }

    /// Comparisons so far.
    pub fn comparisons(&self) -> Compared {
        Compared {
            agreed: self.agreed.load(Ordering::Relaxed),
            differed: self.differed.load(Ordering::Relaxed),
            chosen: self.chosen.read(),
            own: self.own.read(),
        }
    }
}
