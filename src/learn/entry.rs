//! What the learner keeps of one node: sums, correctors, raw samples, and what it saw of its limits.

use crate::clock::Time;
use crate::learn::drift::Drift;
use crate::learn::features::TARGETS;
use crate::learn::guard::Baseline;
use crate::learn::predictor::Factors;
use crate::learn::reading::Gaps;
use crate::learn::reuse::Seen;
use crate::learn::slots::Slots;
use crate::learn::stats::Stats;
use crate::learn::store::Store;
use crate::node::{IN_FLIGHT_MAX, NodeId};

/// Time constant, in seconds, with which the largest load seen is forgotten.
const LARGEST_TAU_S: f64 = 600.0;

/// One node.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) id: NodeId,
    pub(super) stats: [Stats; TARGETS],
    pub(super) speed: [f64; TARGETS],
    pub(super) slots: Slots,
    pub(super) baseline: Baseline,
    pub(super) store: Store,
    /// The operator's limit of attempts in flight.
    pub(super) limit: u32,
    pub(super) largest: f64,
    pub(super) gaps: Gaps,
    /// What was seen of its cache.
    pub(super) reuse: Seen,
    drift: [Drift; TARGETS],
    drift_at: Time,
}

impl Entry {
    pub(super) fn new(id: NodeId, now: Time) -> Entry {
        Entry {
            id,
            stats: [Stats::default(); TARGETS],
            speed: [1.0; TARGETS],
            slots: Slots::default(),
            baseline: Baseline::default(),
            store: Store::default(),
            limit: IN_FLIGHT_MAX,
            largest: 0.0,
            gaps: Gaps::default(),
            reuse: Seen::default(),
            drift: [Drift::default(); TARGETS],
            drift_at: now,
        }
    }

    /// Brings what fades to `now`.
    pub(super) fn fade(&mut self, now: Time) {
        let seconds = now.seconds_since(self.drift_at);
        self.drift_at = now;
        for drift in &mut self.drift {
            drift.decay(seconds);
        }
        self.reuse.fade(seconds);
        self.largest *= (-seconds / LARGEST_TAU_S).exp();
    }

    /// An observation against the fitted curve.
    pub(super) fn drifted(&mut self, target: usize, observed: f64, predicted: f64) {
        self.drift[target].add(observed, predicted);
    }

    /// The correctors, given the fleet's mean observations.
    pub(super) fn factors(&self, means: &[f64; TARGETS]) -> Factors {
        std::array::from_fn(|target| self.drift[target].factor(means[target]))
    }

    /// Sum of weights of whole answers: gaps are gathered by the clock and say nothing of how well a node is known.
    pub(super) fn answers(&self) -> f64 {
        self.stats[..TARGETS - 1].iter().map(Stats::weight).sum()
    }

    /// Forgets what fits are made of.
    pub(super) fn forget(&mut self) {
        self.stats = [Stats::default(); TARGETS];
        self.speed = [1.0; TARGETS];
        self.drift = [Drift::default(); TARGETS];
        self.baseline = Baseline::default();
        self.reuse = Seen::default();
    }
}
