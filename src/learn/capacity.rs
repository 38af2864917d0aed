//! What a node can do: the largest rate `n / T(n)` of its fitted curve, in requests per second.
//!
//! By Little's law a node that holds `n` requests and answers each in `T(n)` completes `n / T(n)` a second. The curve is
//! followed up to the node's limit, its learned slot limit, or 1.25 times the largest load that was seen there: beyond
//! that it would be invention. While the rate still grows at that edge, the figure is a lower bound and says so.

use std::sync::Arc;

use crate::clock::Time;
use crate::fleet::Node;
use crate::learn::predictor::{Ask, Factors, How, NodeLoad, NodeModel, Predictor};

/// How far beyond the largest load seen the curve is followed.
const BEYOND: f64 = 1.25;

/// Points on the curve.
const POINTS: i32 = 24;

/// If twice the load gives more than this times the rate, the node was never half used.
const STILL_GROWING: f64 = 1.5;

/// Capacity of a node for the request that is typical now.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Capacity {
    /// Requests per second; 0 while unknown.
    pub rps: f64,
    /// In flight where that is reached.
    pub in_flight: f64,
    /// Whether the node was never more than half used, so that it can do more.
    pub is_lower_bound: bool,
}

impl Default for Capacity {
    fn default() -> Self {
        Capacity { rps: 0.0, in_flight: 0.0, is_lower_bound: true }
    }
}

impl Capacity {
    /// What the nodes that bear load at `now` can do together. A lower bound if it is one of any of them.
    pub fn in_service(predictor: &Predictor, nodes: &[Arc<Node>], now: Time) -> Capacity {
        let bearing = nodes.iter().filter(|node| node.live.health.state(now).bears_load());
        let none = Capacity { is_lower_bound: false, ..Capacity::default() };
        bearing.map(|node| predictor.node(node.slot, node.id).capacity).fold(none, |sum, one| Capacity {
            rps: sum.rps + one.rps,
            in_flight: sum.in_flight + one.in_flight,
            is_lower_bound: sum.is_lower_bound || one.is_lower_bound,
        })
    }

    /// Of `model` with its limit and the largest load that was seen at it. Unknown where nothing was learned of the node
    /// itself, or where nothing learned answers for the typical request: the prediction is then no time.
    pub(super) fn of(model: &NodeModel, factors: &Factors, ask: &Ask, limit: f64, largest_seen: f64) -> Capacity {
        if ask.how == How::Unknown || !model.is_known() {
            return Capacity::default();
        }
        let edge = limit.min(model.slots).min((BEYOND * largest_seen).max(1.0)).max(1.0);
        let rate = |n: f64| {
            let load = NodeLoad { in_flight: n - 1.0, ..NodeLoad::default() };
            n / model.predict(factors, &load, ask).total_s.max(1e-6)
        };
        let mut best = Capacity { rps: rate(1.0), in_flight: 1.0, is_lower_bound: false };
        for point in 1..=POINTS {
            let n = edge.powf(f64::from(point) / f64::from(POINTS));
            if rate(n) > best.rps {
                best = Capacity { rps: rate(n), in_flight: n, ..best }
            }
        }
        let at_edge = best.in_flight >= edge * 0.99;
        let grows = rate(edge) > STILL_GROWING * rate((edge / 2.0).max(1.0)) || edge < 2.0;
        let known_end = edge >= model.slots.min(limit);
        Capacity { is_lower_bound: at_edge && grows && !known_end, ..best }
    }

    /// Whether `in_flight` more or less uses it up.
    #[inline]
    pub fn is_used_up(&self, in_flight: f64) -> bool {
        !self.is_lower_bound && in_flight >= self.in_flight
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learn::features::{TARGETS, Target};
    use crate::learn::predictor::tests::model;

    const ASK: Ask = Ask { prompt: 0.0, output: 0.0, how: How::Plain, proxies: 1.0 };

    /// Four workers of 100 ms: flat up to 4, then 25 ms for each further one.
    fn four_workers() -> NodeModel {
        let mut beta = [[0.0; 6]; TARGETS];
        beta[Target::Total.index()] = [0.1, 0.0, 0.0, 0.025, 0.0, 0.0];
        NodeModel { evidence: [1.0, 0.0, 0.0, 0.0], ..model(beta) }
    }

    #[test]
    fn of_a_node_that_has_answered_nothing_or_a_request_that_nothing_answers_for_no_capacity_is_told() {
        let stranger = NodeModel { evidence: [0.0; TARGETS], ..four_workers() };
        for (node, ask) in [(stranger, ASK), (four_workers(), Ask { how: How::Unknown, ..ASK })] {
            let capacity = Capacity::of(&node, &[1.0; TARGETS], &ask, 6e4, 10.0);
            assert_eq!(capacity, Capacity::default());
            assert!(!capacity.is_used_up(100.0), "it may be explored");
        }
    }

    #[test]
    fn the_capacity_of_four_workers_is_forty_a_second() {
        let capacity = Capacity::of(&four_workers(), &[1.0; TARGETS], &ASK, 6e4, 10.0);
        assert!((capacity.rps - 40.0).abs() < 1.0, "{capacity:?}");
        assert!(!capacity.is_lower_bound);
    }

    #[test]
    fn a_node_that_was_never_busy_only_has_a_lower_bound() {
        let capacity = Capacity::of(&four_workers(), &[1.0; TARGETS], &ASK, 6e4, 2.0);
        assert!(capacity.is_lower_bound && capacity.rps < 30.0, "{capacity:?}");
        assert!(!capacity.is_used_up(100.0));
    }
}
