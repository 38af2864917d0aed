//! How well the answers of each node were foreseen: what the model said of them, and what they took.
//!
//! Sums and not a mean, so that whoever looks may take the difference of two looks, over whatever time they like. The
//! trainer writes them where it scores the model, so the request path pays nothing, and they are there whichever policy
//! routes. It is about nodes people watch; what Prometheus keeps for long is the ratio over the whole fleet.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::fleet::{Node, PerNode, Resettable};
use crate::node::NodeId;

/// The longest prediction that is added up, in seconds: an absurd one must not drown all others.
const SECONDS_MAX: f64 = 86_400.0;

/// What was predicted and observed on one node, in all.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Foreseen {
    /// Attempts that were scored.
    pub count: u64,
    /// Sum of what the model said, with the true output lengths put in.
    pub predicted_s: f64,
    /// Sum of what was observed.
    pub observed_s: f64,
}

#[derive(Debug, Default)]
struct Sums {
    count: AtomicU64,
    predicted_us: AtomicU64,
    observed_us: AtomicU64,
}

impl Resettable for Sums {
    fn reset(&self) {
        for sum in [&self.count, &self.predicted_us, &self.observed_us] {
            sum.store(0, Ordering::Relaxed);
        }
    }
}

/// The sums of all nodes.
#[derive(Debug, Default)]
pub(super) struct Foresight(PerNode<Sums>);

impl Foresight {
    pub(super) fn add(&self, slot: u32, id: NodeId, predicted_s: f64, observed_s: f64) {
        let micros = |seconds: f64| (seconds.clamp(0.0, SECONDS_MAX) * 1e6) as u64;
        if predicted_s.is_nan() || observed_s.is_nan() {
            return;
        }
        let sums = self.0.at(slot, id);
        sums.predicted_us.fetch_add(micros(predicted_s), Ordering::Relaxed);
        sums.observed_us.fetch_add(micros(observed_s), Ordering::Relaxed);
        sums.count.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn of(&self, node: &Node) -> Foreseen {
        let sums = self.0.of(node);
        let seconds = |sum: &AtomicU64| sum.load(Ordering::Relaxed) as f64 / 1e6;
        Foreseen {
            count: sums.count.load(Ordering::Relaxed),
            predicted_s: seconds(&sums.predicted_us),
            observed_s: seconds(&sums.observed_us),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::Fleet;
    use crate::node::NodeSpec;

    #[test]
    fn sums_are_a_nodes_own_and_nonsense_is_left_out() {
        let foresight = Foresight::default();
        let fleet = Fleet::default().with(NodeSpec::new("http://a")).expect("free");
        let node = &fleet.nodes()[0];
        foresight.add(node.slot, node.id, 1.5, 2.0);
        foresight.add(node.slot, node.id, f64::NAN, 1.0);
        foresight.add(node.slot, node.id, -1.0, f64::INFINITY);
        let seen = foresight.of(node);
        assert_eq!(seen, Foreseen { count: 2, predicted_s: 1.5, observed_s: 2.0 + SECONDS_MAX });
        let next = fleet.without("a").and_then(|fleet| fleet.with(NodeSpec::new("http://b"))).expect("free");
        assert_eq!(foresight.of(&next.nodes()[0]), Foreseen::default(), "another node in the same slot");
    }
}
