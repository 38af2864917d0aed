//! How fast attempts end, in all and on each node: the arrival rate and the shares that people are shown.
//!
//! Decayed counts with a time constant of half a minute. In the long run what ends is what arrived; counting ends
//! costs the request path nothing, as the samples are counted where they are drained.

use crate::clock::Time;
use crate::node::{NODES_MAX, NodeId};

/// Time constant in seconds: a share is stable to a few percent, and a change is seen within a minute.
const TAU_S: f64 = 30.0;

/// The counts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pace {
    since: Option<Time>,
    at: Time,
    all: f64,
    /// By slot; decayed to `at`.
    nodes: Vec<Option<(NodeId, f64)>>,
}

impl Pace {
    /// An attempt on a node ended.
    pub fn ended(&mut self, now: Time, slot: u32, id: NodeId) {
        let slot = slot as usize;
        if slot >= NODES_MAX {
            return;
        }
        self.decay(now);
        self.since.get_or_insert(now);
        if self.nodes.len() <= slot {
            self.nodes.resize(slot + 1, None);
        }
        let place = &mut self.nodes[slot];
        let count = place.filter(|(owner, _)| *owner == id).map_or(0.0, |(_, count)| count);
        *place = Some((id, count + 1.0));
        self.all += 1.0;
    }

    fn decay(&mut self, now: Time) {
        // Not for every sample: there are as many nodes as samples in a busy hundredth of a second.
        let seconds = now.seconds_since(self.at);
        if seconds < 0.01 {
            return;
        }
        let keep = (-seconds / TAU_S).exp();
        self.at = now;
        self.all *= keep;
        self.nodes.iter_mut().flatten().for_each(|(_, count)| *count *= keep);
    }

    /// Attempts per second of late; 0 before there was any.
    pub fn per_s(&self, now: Time) -> f64 {
        let Some(since) = self.since else { return 0.0 };
        let seen_s = now.seconds_since(since).max(1.0);
        let keep = (-now.seconds_since(self.at) / TAU_S).exp();
        // What a constant rate of 1 would have added up to by now.
        let unit = TAU_S * (1.0 - (-seen_s / TAU_S).exp());
        self.all * keep / unit
    }

    /// The part of late attempts that a node had, 0..=1.
    pub fn share(&self, slot: u32, id: NodeId) -> f64 {
        let count = self.nodes.get(slot as usize).copied().flatten().filter(|(owner, _)| *owner == id);
        let counted: f64 = self.nodes.iter().flatten().map(|(_, count)| count).sum();
        count.map_or(0.0, |(_, count)| if counted > 0.0 { count / counted } else { 0.0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: f64) -> Time {
        Time::from_secs_f64(seconds)
    }

    #[test]
    fn a_constant_rate_is_found_early_and_late() {
        let mut pace = Pace::default();
        assert_eq!(pace.per_s(at(5.0)), 0.0);
        for i in 0..4_000 {
            let now = at(100.0 + f64::from(i) * 0.05);
            pace.ended(now, u32::from(i % 4 == 0), NodeId(u32::from(i % 4 == 0)));
            if i == 100 || i == 3_999 {
                assert!((pace.per_s(now) / 20.0 - 1.0).abs() < 0.1, "{} after {i}", pace.per_s(now));
            }
        }
        assert!((pace.share(1, NodeId(1)) - 0.25).abs() < 0.01);
        assert_eq!(pace.share(1, NodeId(7)), 0.0, "another node in the same slot");
        assert!(pace.per_s(at(600.0)) < 0.01, "what is long ago counts for nothing");
    }
}
