//! From fits to a predictor that others read.

use std::sync::Arc;

use crate::clock::Time;
use crate::learn::capacity::Capacity;
use crate::learn::explore;
use crate::learn::features::{COLUMNS_MAX, TARGETS};
use crate::learn::fit::TargetFit;
use crate::learn::lane::Lanes;
use crate::learn::predictor::{NodeModel, Predictor};
use crate::learn::reuse::Seen;
use crate::learn::stats::{Stats, TAU_S};
use crate::node::NodeId;

use super::{HOLD, Learner};

impl Learner {
    /// The sums of every node, brought to the present learning time.
    pub(super) fn aged(&mut self, target: usize, elapsed_s: f64, slots: &[usize]) -> Vec<Stats> {
        let evidence: f64 = self.entries(slots).map(|entry| entry.stats[target].weight()).sum();
        if evidence > HOLD {
            // Not further than to where it holds.
            self.clock_s[target] += elapsed_s.min(TAU_S * (evidence / HOLD).ln());
        }
        let clock_s = self.clock_s[target];
        let aged = self.nodes.iter_mut().flatten().map(|entry| {
            entry.stats[target].decay(clock_s);
            entry.stats[target]
        });
        aged.collect()
    }

    /// Publishes what passed; a target that did not keeps the coefficients in force.
    pub(super) fn publish(
        &mut self,
        now: Time,
        slots: &[usize],
        fits: &[Option<TargetFit>; TARGETS],
        running: Option<&Predictor>,
    ) -> u32 {
        self.version = self.version.wrapping_add(1).max(1);
        let id = NodeId(u32::MAX);
        let old_fleet = running.map_or_else(|| NodeModel::unknown(id, [[0.0; COLUMNS_MAX]; TARGETS]), |old| old.fleet);
        let fleet_beta = std::array::from_fn(|at| fits[at].as_ref().map_or(old_fleet.beta[at], |fit| fit.fleet));
        let fleet = NodeModel::unknown(id, fleet_beta);
        let mut predictor = Predictor {
            version: self.version,
            made: now,
            has: std::array::from_fn(|at| fits[at].is_some() || running.is_some_and(|old| old.has[at])),
            fleet,
            lanes: Lanes::of(&fleet, &[]),
            nodes: vec![None; self.nodes.len()],
            expectations: self.expectations.clone(),
            means: self.means(slots),
        };
        let typical = predictor.typical();
        let mut seen = Seen::default();
        self.entries(slots).for_each(|entry| seen.merge(&entry.reuse));
        predictor.fleet.chances = seen.fleet();
        for (place, slot) in slots.iter().enumerate() {
            let Some(entry) = &mut self.nodes[*slot] else { continue };
            let slot = *slot as u32;
            entry.fade(now);
            let factors = if self.method.corrects { entry.factors(&predictor.means) } else { [1.0; TARGETS] };
            self.learned.node_at(slot, entry.id).set_factors(&factors);
            let old = running.map_or(&old_fleet, |old| old.node(slot, entry.id));
            let mut model = NodeModel {
                speed: entry.speed,
                slots: entry.slots.limit(),
                evidence: entry.stats.map(|stats| stats.weight()),
                level: explore::level(entry.answers()),
                chances: entry.reuse.node(&predictor.fleet.chances),
                tells: entry.reuse.tells(),
                ..NodeModel::unknown(
                    entry.id,
                    std::array::from_fn(|at| fits[at].as_ref().map_or(old.beta[at], |fit| fit.nodes[place].beta)),
                )
            };
            model.capacity = Capacity::of(&model, &factors, &typical, f64::from(entry.limit), entry.largest);
            predictor.nodes[slot as usize] = Some(model);
        }
        predictor.lanes = Lanes::of(&fleet, &predictor.nodes);
        self.learned.publish(Some(Arc::new(predictor)));
        self.version
    }

    /// The fleet's mean observation by target.
    pub(super) fn means(&self, slots: &[usize]) -> [f64; TARGETS] {
        std::array::from_fn(|at| {
            let (sum, weight) = self
                .entries(slots)
                .map(|entry| (entry.stats[at].g[0], entry.stats[at].weight()))
                .chain(self.prior.as_ref().map(|prior| (prior[at].g[0], prior[at].weight())))
                .fold((0.0, 0.0), |(sum, weight), (s, w)| (sum + s, weight + w));
            if weight > 0.0 { sum / weight } else { 0.0 }
        })
    }
}
