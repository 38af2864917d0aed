//! A small fleet with given loads, for the tests of policies.

use std::time::Duration;

use crate::clock::Time;
use crate::fleet::{Fleet, Node};
use crate::node::NodeSpec;
use crate::outcome::{Outcome, Recall, Sample};
use crate::policy::{Candidate, Context, Policy};
use crate::request::{KindId, RequestShape};

/// A decision to be made.
pub(super) struct Scene {
    pub(super) fleet: Fleet,
    pub(super) candidates: Vec<Candidate>,
    pub(super) shape: RequestShape,
    pub(super) now: Time,
}

impl Scene {
    /// `count` idle nodes of weight 1, all candidates.
    pub(super) fn new(count: u32) -> Scene {
        let fleet = (0..count).fold(Fleet::default(), |fleet, i| {
            fleet.with(NodeSpec::new(format!("http://10.0.0.{i}:80"))).expect("free name")
        });
        let candidates = (0..count).map(|index| Candidate::new(index, 0, 1.0)).collect();
        Scene { fleet, candidates, shape: RequestShape::default(), now: Time::ZERO }
    }

    /// Puts `in_flight` attempts on the candidate `at`.
    pub(super) fn load(mut self, at: usize, in_flight: u32) -> Scene {
        self.candidates[at].in_flight = in_flight;
        self
    }

    /// Gives the candidate `at`, and the node behind it, a weight.
    pub(super) fn weight(mut self, at: usize, weight: f64) -> Scene {
        self.candidates[at].weight = weight;
        let spec = NodeSpec { weight, ..self.spec(self.candidates[at].index as usize) };
        self.fleet = self.fleet.with_changed(spec).expect("known");
        self
    }

    /// The settings of the node of that fleet index.
    pub(super) fn spec(&self, index: usize) -> NodeSpec {
        NodeSpec::clone(&self.fleet.nodes()[index].spec)
    }

    /// The scene without the candidate of that fleet index.
    pub(super) fn without(&self, index: u32) -> Scene {
        let candidates = self.candidates.iter().copied().filter(|c| c.index != index).collect();
        Scene { fleet: self.fleet.clone(), candidates, shape: self.shape.clone(), now: self.now }
    }

    /// What the policy may look at.
    pub(super) fn context(&self) -> Context<'_> {
        Context { now: self.now, shape: &self.shape, fleet: &self.fleet, candidates: &self.candidates }
    }

    /// The distribution of one weighing.
    pub(super) fn weigh(&self, policy: &dyn Policy) -> Vec<f64> {
        let mut out = vec![0.0; self.candidates.len()];
        policy.weigh(&self.context(), &mut out);
        let sum: f64 = out.iter().sum();
        out.iter().map(|weight| weight / sum).collect()
    }

    /// The fleet index of the node that a deterministic policy is sure of.
    pub(super) fn sure(&self, policy: &dyn Policy) -> usize {
        let out = self.weigh(policy);
        let at = out.iter().position(|w| *w > 0.0).expect("a choice");
        assert_eq!(out.iter().filter(|w| **w > 0.0).count(), 1, "{out:?}");
        self.candidates[at].index as usize
    }
}

/// The sample of an attempt on `node` between those times; all else is as it is for an idle node.
pub(super) fn sample_of(node: &Node, started: Time, ended: Time, outcome: Outcome) -> Sample {
    Sample {
        node: node.id,
        slot: node.slot,
        kind: KindId::OTHER,
        streaming: false,
        prompt_tokens: 0,
        output_tokens_max: None,
        in_flight: 0,
        waiting: 0,
        waiting_prompt_tokens: 0,
        recall: Recall::default(),
        propensity: 1.0,
        policy: 0,
        predictor_version: 0,
        predicted_s: f64::NAN,
        started,
        ttfb: None,
        total: ended.since(started),
        mean_in_flight: 1.0,
        events: 0,
        gaps: Duration::ZERO,
        output_tokens: None,
        usage_prompt_tokens: None,
        usage_cached_tokens: None,
        outcome,
    }
}
