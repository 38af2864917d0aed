//! What a decision reads of a node's model: one cache line per node, and the formulas on it.
//!
//! A [`NodeModel`] says everything that people ask for and spans six cache lines, of which a request needs some numbers
//! of each. Every fit lays them out once more, by slot, one table per kind of answer, so that a decision over 1,000
//! nodes walks along one table, and what kind of answer it is about is asked once instead of for every node. The
//! formulas are here only: whoever asks a [`NodeModel`] gets its lane worked out on the spot. Values are taken as they
//! are, not rounded or combined: a prediction for people and that of a decision are equal to the last bit.

use crate::learn::features::{self, Target, dot};
use crate::learn::predictor::{Ask, Factors, How, NodeLoad, NodeModel, PREDICTION_MAX_S, Prediction};
use crate::node::NodeId;

/// A node that has no such number in flight is never full.
const NEVER_FULL: u16 = u16::MAX;

/// What a decision needs of one node for one kind of answer.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(align(64))]
pub struct Lane {
    /// Coefficients of the total; for streamed answers four of the first byte and two of the gap.
    beta: features::Row,
    /// Learned slot limit; infinite while unknown.
    slots: f64,
    /// Whose this is.
    id: NodeId,
    /// The number in flight from which on the node is used up: exploring it would only queue.
    full_at: u16,
    /// Level of evidence.
    level: u8,
}

/// `seconds` between 0 and the longest prediction, which is also what becomes of no number.
#[inline]
pub(super) fn bounded(seconds: f64) -> f64 {
    // In this form each line is one instruction.
    let seconds = if seconds < PREDICTION_MAX_S { seconds } else { PREDICTION_MAX_S };
    if seconds > 0.0 { seconds } else { 0.0 }
}

impl Lane {
    /// Of `model`, for answers of that kind.
    #[inline]
    pub(super) fn of(model: &NodeModel, how: How) -> Lane {
        let beta = match how {
            How::Streamed => {
                let [base, prompt, waiting, place, ..] = model.beta[Target::FirstByte.index()];
                let [gap, in_flight, ..] = model.beta[Target::Gap.index()];
                [base, prompt, waiting, place, gap, in_flight]
            }
            How::Tokens => model.beta[Target::TotalTokens.index()],
            How::Plain | How::Unknown => model.beta[Target::Total.index()],
        };
        let capacity = if model.capacity.is_lower_bound { f64::INFINITY } else { model.capacity.in_flight };
        // In whole numbers "at least x" is "at least x rounded up". The cast saturates; no number means never.
        let edge = model.slots.min(capacity).ceil();
        let full_at = if edge.is_nan() { NEVER_FULL } else { edge as u16 };
        Lane { beta, slots: model.slots, id: model.id, full_at, level: model.level }
    }

    /// Whether `in_flight` use the node up.
    #[inline]
    pub fn is_full(&self, in_flight: u32) -> bool {
        self.full_at != NEVER_FULL && in_flight >= u32::from(self.full_at)
    }

    /// Level of evidence.
    #[inline]
    pub fn level(&self) -> u8 {
        self.level
    }

    /// The prediction for `ask`, which must be of the kind that this lane is for.
    #[inline]
    pub fn predict(&self, factors: &Factors, load: &NodeLoad, ask: &Ask) -> Prediction {
        let of = |target: Target| factors[target.index()];
        match ask.how {
            How::Streamed => self.streamed(of(Target::FirstByte), of(Target::Gap), load, ask),
            How::Tokens => self.tokens(of(Target::TotalTokens), load, ask),
            How::Plain => self.plain(of(Target::Total), load),
            How::Unknown => Lane::unknown(load),
        }
    }

    /// A streamed answer, with the correctors of first byte and gap.
    #[inline]
    pub fn streamed(&self, first_byte_f: f64, gap_f: f64, load: &NodeLoad, ask: &Ask) -> Prediction {
        let [base, b_prompt, b_waiting, b_place, gap, b_gap] = self.beta;
        let place = features::place(load.in_flight, self.slots);
        let first_byte = [base, b_prompt, b_waiting, b_place, 0.0, 0.0];
        // What is held of the prompt is not in it by as much as it is worth.
        let row = features::first_byte(ask.prompt, load.waiting_prompt, place, 0.0);
        let first_byte_s = bounded(first_byte_f * dot(&first_byte, &row));
        let gap_s = bounded(gap_f * (gap + b_gap * (load.in_flight + 1.0)));
        let streaming = features::above(load.in_flight, load.waiting);
        let (per_prompt, per_place) = (first_byte_f * b_prompt, first_byte_f * b_place);
        let queue = if place > 0.0 { per_place * (load.waiting + 1.0) } else { 0.0 };
        let to_waiting = load.waiting * per_prompt * ask.prompt + queue;
        let to_streaming = streaming * (gap_f * b_gap * ask.output + ask.proxies * per_prompt * ask.prompt);
        Prediction {
            first_byte_s,
            gap_s,
            total_s: bounded(first_byte_s + ask.output * gap_s),
            marginal_s: bounded(to_streaming + to_waiting),
            marginal_first_byte_s: bounded(to_waiting),
        }
    }

    /// A whole answer that tells its tokens.
    #[inline]
    pub fn tokens(&self, factor: f64, load: &NodeLoad, ask: &Ask) -> Prediction {
        let output = ask.output / features::OUTPUT_UNIT;
        self.total(factor, load.in_flight, |n| features::total_tokens(n, ask.prompt, output))
    }

    /// A whole answer that does not.
    #[inline]
    pub fn plain(&self, factor: f64, load: &NodeLoad) -> Prediction {
        self.total(factor, load.in_flight, features::total)
    }

    /// An answer of which nothing is known: the number in flight stands for the seconds.
    #[inline]
    pub fn unknown(load: &NodeLoad) -> Prediction {
        let total_s = bounded(load.in_flight + 1.0);
        Prediction { first_byte_s: total_s, total_s, ..Prediction::default() }
    }

    #[inline]
    fn total(&self, factor: f64, m: f64, row: impl Fn(f64) -> features::Row) -> Prediction {
        let with = bounded(factor * dot(&self.beta, &row(m + 1.0)));
        let without = bounded(factor * dot(&self.beta, &row(m)));
        let marginal_s = bounded(m * (with - without));
        Prediction { first_byte_s: with, gap_s: 0.0, total_s: with, marginal_s, marginal_first_byte_s: marginal_s }
    }
}

/// The lanes of one kind of answer.
#[derive(Clone, Debug)]
struct Table {
    /// Of nodes that are not known.
    fleet: Lane,
    /// By slot.
    nodes: Vec<Lane>,
}

/// The lanes of a predictor.
#[derive(Clone, Debug)]
pub(super) struct Lanes([Table; 3]);

/// The lanes of one kind of answer, for one decision.
#[derive(Clone, Copy, Debug)]
pub struct LanesOf<'a>(&'a Table);

impl Lanes {
    /// Of the fleet's curve and the nodes by slot.
    pub(super) fn of(fleet: &NodeModel, nodes: &[Option<NodeModel>]) -> Lanes {
        Lanes([How::Streamed, How::Tokens, How::Plain].map(|how| Table {
            fleet: Lane::of(fleet, how),
            nodes: nodes.iter().map(|node| Lane::of(node.as_ref().unwrap_or(fleet), how)).collect(),
        }))
    }

    #[inline]
    pub(super) fn answering(&self, how: How) -> LanesOf<'_> {
        LanesOf(match how {
            How::Streamed => &self.0[0],
            How::Tokens => &self.0[1],
            How::Plain | How::Unknown => &self.0[2],
        })
    }
}

impl<'a> LanesOf<'a> {
    /// Of the node with that slot and id: the fleet's where it is not known.
    #[inline]
    pub fn node(self, slot: u32, id: NodeId) -> &'a Lane {
        match self.0.nodes.get(slot as usize) {
            Some(lane) if lane.id == id => lane,
            _ => &self.0.fleet,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learn::capacity::Capacity;
    use crate::learn::predictor::tests::model;

    #[test]
    fn a_lane_is_one_cache_line() {
        assert_eq!((size_of::<Lane>(), align_of::<Lane>()), (64, 64));
    }

    #[test]
    fn a_node_is_full_at_its_slots_or_its_capacity() {
        let capacity = |in_flight, is_lower_bound| Capacity { rps: 1.0, in_flight, is_lower_bound };
        for (slots, capacity) in [
            (f64::INFINITY, capacity(7.3, true)),
            (f64::INFINITY, capacity(7.3, false)),
            (4.5, capacity(7.3, false)),
            (8.0, capacity(7.0, true)),
            (f64::NAN, capacity(1.0, true)),
            (1e300, capacity(1e300, false)),
        ] {
            let model = NodeModel { slots, capacity, ..model([[0.0; 6]; 4]) };
            let lane = Lane::of(&model, How::Plain);
            for in_flight in (0..20).chain([60_000]) {
                let m = f64::from(in_flight);
                assert_eq!(lane.is_full(in_flight), m >= slots || capacity.is_used_up(m), "{in_flight} {model:?}");
            }
        }
    }

    #[test]
    fn a_node_that_is_not_known_has_the_lane_of_the_fleet() {
        let known = NodeModel { level: 3, ..model([[1.0; 6]; 4]) };
        let fleet = NodeModel { level: 1, id: NodeId(u32::MAX), ..known };
        let lanes = Lanes::of(&fleet, &[None, Some(NodeModel { id: NodeId(5), ..known })]);
        let level = |slot, id| lanes.answering(How::Tokens).node(slot, NodeId(id)).level();
        assert_eq!([level(1, 5), level(1, 4), level(0, 0), level(2, 5)], [3, 1, 1, 1]);
    }
}
