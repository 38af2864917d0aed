//! The part of a row that says what its decision was made from: columns over the candidates.
//!
//! Columns and not one object per candidate, as names of fields would be most of the bytes; weights are left out where
//! all are 1, and numbers are rounded to seven digits. That makes some 20 bytes per candidate for the learned policy and
//! 8 for others. A node is told by its slot, which the rows of its own attempts give a name.

use serde::{Deserialize, Serialize};

use crate::learn::explore::UNEXPLORED;
use crate::policy::PolicyId;
use crate::policy::adaptive::grounds::{Ground, Grounds};
use crate::policy::considered::{CONSIDERED_MAX, Considered, Contestant};

/// What a decision was made from, per candidate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChoiceRow {
    /// Index of the one that was chosen.
    pub at: u32,
    /// Slots of the nodes.
    pub slots: Vec<u32>,
    /// In flight at each.
    pub in_flight: Vec<u32>,
    /// Weight of each; absent where all are 1.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub weights: Vec<f64>,
    /// What the learned policy saw, where it decided by its model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelRow>,
}

/// What the learned policy saw.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelRow {
    /// Weight of what a request costs the others.
    pub social: f64,
    /// Probability with which this request was to explore.
    pub explore: f64,
    /// Cost for the request itself; null for a node that was left out.
    pub own_s: Vec<Option<f64>>,
    /// Cost for the others.
    pub added_s: Vec<f64>,
    /// Levels of evidence.
    pub levels: Vec<u8>,
}

/// Seven digits: what is told of a score must keep its order.
fn rounded(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let digits = 6 - value.abs().log10().floor() as i32;
    // Beyond what a power of ten can say nothing is rounded.
    let factor = 10f64.powi(digits);
    if factor.is_normal() { (value * factor).round() / factor } else { value }
}

impl ChoiceRow {
    /// The row of what was considered.
    pub fn of(considered: &Considered) -> ChoiceRow {
        let column = |of: fn(&Contestant) -> u32| considered.candidates.iter().map(of).collect();
        let weights: Vec<f64> = considered.candidates.iter().map(|one| one.weight).collect();
        ChoiceRow {
            at: considered.at as u32,
            slots: column(|one| one.slot),
            in_flight: column(|one| one.in_flight),
            weights: if weights.iter().all(|weight| *weight == 1.0) { Vec::new() } else { weights },
            model: considered.grounds.as_ref().map(|grounds| ModelRow {
                social: grounds.social,
                explore: rounded(grounds.explore),
                own_s: grounds.nodes.iter().map(|node| Some(rounded(node.own_s)).filter(|s| s.is_finite())).collect(),
                added_s: grounds.nodes.iter().map(|node| rounded(node.added_s)).collect(),
                levels: grounds.nodes.iter().map(|node| node.level).collect(),
            }),
        }
    }

    /// What was considered, by the policy of that name; `None` for one that is not registered, and where the columns
    /// cannot be those of one decision.
    pub fn considered(&self, policy: &str) -> Option<Considered> {
        let count = self.slots.len();
        let sound = |seconds: f64| seconds.is_finite() && seconds >= 0.0;
        let fits = count <= CONSIDERED_MAX
            && (self.at as usize) < count
            && self.in_flight.len() == count
            && (self.weights.is_empty() || self.weights.len() == count)
            && self.weights.iter().all(|weight| weight.is_finite() && *weight > 0.0);
        if !fits {
            return None;
        }
        let weight = |at: usize| self.weights.get(at).copied().unwrap_or(1.0);
        let candidate = |(at, (slot, in_flight)): (usize, (&u32, &u32))| Contestant {
            slot: *slot,
            in_flight: *in_flight,
            weight: weight(at),
        };
        let grounds = match &self.model {
            None => None,
            Some(model) => {
                let fits = [model.own_s.len(), model.added_s.len(), model.levels.len()] == [count; 3]
                    && sound(model.social)
                    && (0.0..=1.0).contains(&model.explore)
                    && model.own_s.iter().flatten().chain(&model.added_s).all(|seconds| sound(*seconds))
                    && model.own_s.iter().any(Option::is_some)
                    && model.levels.iter().all(|level| *level <= UNEXPLORED);
                let columns = model.own_s.iter().zip(&model.added_s).zip(&model.levels);
                let ground = |((own_s, added_s), level): ((&Option<f64>, &f64), &u8)| Ground {
                    own_s: own_s.unwrap_or(f64::INFINITY),
                    added_s: *added_s,
                    level: *level,
                };
                let nodes = columns.map(ground).collect();
                Some(fits.then_some(Grounds { social: model.social, explore: model.explore, nodes })?)
            }
        };
        Some(Considered {
            policy: PolicyId::named(policy)?,
            at: self.at as usize,
            candidates: self.slots.iter().zip(&self.in_flight).enumerate().map(candidate).collect(),
            grounds,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn considered() -> Considered {
        let candidate = |slot, weight| Contestant { slot, in_flight: 3 * slot, weight };
        let ground = |own_s, level| Ground { own_s, added_s: 0.25, level };
        let nodes = vec![ground(0.125, 2), ground(f64::INFINITY, UNEXPLORED)];
        Considered {
            policy: PolicyId::named("adaptive").expect("registered"),
            at: 1,
            candidates: vec![candidate(0, 1.0), candidate(7, 2.0)],
            grounds: Some(Grounds { social: 1.0, explore: 0.01, nodes }),
        }
    }

    #[test]
    fn a_row_gives_back_what_was_considered() {
        for considered in [considered(), Considered { grounds: None, ..considered() }] {
            let json = serde_json::to_string(&ChoiceRow::of(&considered)).expect("plain data");
            let read: ChoiceRow = serde_json::from_str(&json).expect("its own words");
            assert_eq!(read.considered("adaptive"), Some(considered), "{json}");
            assert_eq!(read.considered("unlisted"), None);
        }
    }

    #[test]
    fn eight_candidates_take_less_than_four_hundred_bytes() {
        let ground = |at: u32| Ground { own_s: 1.234_567_891 / f64::from(at + 1), added_s: 0.098_765_432_1, level: 12 };
        let considered = Considered {
            candidates: (0..8).map(|slot| Contestant { slot, in_flight: 20 + slot, weight: 1.0 }).collect(),
            grounds: Some(Grounds { social: 1.0, explore: 0.003_456_789_1, nodes: (0..8).map(ground).collect() }),
            ..considered()
        };
        let json = serde_json::to_string(&ChoiceRow::of(&considered)).expect("plain data");
        assert!(json.len() < 400, "{}: {json}", json.len());
        let read: ChoiceRow = serde_json::from_str(&json).expect("its own words");
        let own_s = read.considered("adaptive").expect("sound").expected_s(2).expect("told");
        assert!((own_s / (1.234_567_891 / 3.0) - 1.0).abs() < 1e-6, "{own_s}");
    }

    #[test]
    fn columns_of_different_lengths_are_no_decision() {
        let row = ChoiceRow::of(&considered());
        let refused = |row: ChoiceRow| row.considered("adaptive").is_none();
        assert!(refused(ChoiceRow { at: 2, ..row.clone() }));
        assert!(refused(ChoiceRow { in_flight: vec![1], ..row.clone() }));
        assert!(refused(ChoiceRow { weights: vec![1.0, -1.0], ..row.clone() }));
        let model = row.model.clone().expect("there");
        assert!(refused(ChoiceRow { model: Some(ModelRow { levels: vec![3], ..model.clone() }), ..row.clone() }));
        assert!(refused(ChoiceRow { model: Some(ModelRow { own_s: vec![None, None], ..model }), ..row }));
    }
}
