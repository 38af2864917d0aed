//! What a decision was made from, for those who remember decisions, and decisions that are only thought of.
//!
//! A dry run goes the way of a decision up to the draw: the same candidates, the same policy and its state, and stops
//! with the distribution. It also says of every other node why it was left out, which a decision has no time for.

use std::sync::Arc;

use crate::balancer::{ActivePolicy, Balancer, Rejection, Stance, gather, note_recall, why_none};
use crate::clock::Time;
use crate::fleet::{Fleet, Node, State};
use crate::learn::Learned;
use crate::policy::{Candidate, Context, PolicyId};
use crate::prefix::Found;
use crate::request::RequestShape;

/// What a decision was made from.
#[derive(Clone, Copy, Debug)]
pub struct Choice<'a> {
    /// Request, fleet and candidates.
    pub context: &'a Context<'a>,
    /// What the policy wrote for each candidate; not normalized.
    pub weights: &'a [f64],
    /// The candidate that was drawn. The attempt counts in its ledger by now.
    pub at: usize,
    /// What is learned.
    pub learned: &'a Learned,
}

/// Why a node cannot get a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeftOut {
    /// It has as much in flight as it may have.
    AtLimit,
    /// It does not serve the model.
    OtherModels,
    /// It has work and has not been heard of for longer than it ever takes, and others have.
    Silent,
    /// It is down, draining, full or ejected, or on trial with a request in flight.
    State(State),
}

impl LeftOut {
    /// Why `node` cannot get the request at `now`; `None` if it can. In a panic ejections do not count.
    fn of(node: &Node, now: Time, model: Option<&str>, tokens: u64, panics: bool) -> Option<LeftOut> {
        let in_flight = node.live.ledger.in_flight();
        match node.live.health.state(now) {
            _ if !node.spec.serves(model) => Some(LeftOut::OtherModels),
            State::Up | State::Trial if !node.has_room_for(tokens) => Some(LeftOut::AtLimit),
            State::Up | State::Ejected | State::Trial if panics && in_flight < node.own_limit() => None,
            State::Up | State::Trial if in_flight < node.limit() => None,
            State::Up => Some(LeftOut::AtLimit),
            state => Some(LeftOut::State(state)),
        }
    }

    /// The word for people and programs.
    pub fn word(self) -> &'static str {
        match self {
            LeftOut::AtLimit => "at-limit",
            LeftOut::OtherModels => "other-models",
            LeftOut::Silent => "silent",
            LeftOut::State(state) => state.word(),
        }
    }
}

/// A decision that was only thought of.
#[derive(Debug)]
pub struct DryRun {
    /// The view that it was made on.
    pub fleet: Arc<Fleet>,
    /// Who would decide.
    pub policy: PolicyId,
    /// Whether that policy is in force; another one starts without a memory of its own.
    pub in_force: bool,
    /// The nodes that may get the request.
    pub candidates: Vec<Candidate>,
    /// The probability of each.
    pub probabilities: Vec<f64>,
    /// The other nodes.
    pub left_out: Vec<(Arc<Node>, LeftOut)>,
    /// Why there is no candidate, if there is none.
    pub rejection: Option<Rejection>,
}

impl Balancer {
    /// What would be decided for `shape` at `now`, by the policy in force or another one. Changes nothing.
    pub fn dry_run(&self, now: Time, shape: &RequestShape, policy: Option<PolicyId>) -> DryRun {
        let (fleet, active) = (self.fleet(), self.policy.load());
        let id = policy.unwrap_or(active.router);
        let in_force = id == active.router;
        let deciding = match in_force {
            true => Arc::clone(&active.policy),
            false => ActivePolicy::new(id, Stance { shadow: false, ..self.stance() }, &self.learned).policy,
        };
        let mut candidates = Vec::new();
        let panic_below = self.care.load().ejection.panic_below;
        let tokens = self.expected_tokens(&fleet, shape);
        let panics = gather(&fleet, now, shape, &[], tokens, panic_below, &mut candidates);
        let heard_or_not = candidates.clone();
        if !id.is_learned() {
            self.leave_out_silent(&fleet, now, &mut candidates);
        }
        let mut found = Found::default();
        self.recall(shape, now, &mut found);
        note_recall(&self.learned, &fleet, shape, &found, &mut candidates);
        let mut probabilities = vec![0.0; candidates.len()];
        let mut rejection = None;
        if candidates.is_empty() {
            rejection = Some(why_none(&fleet, now, shape, &[]));
        } else {
            deciding.peek(&Context { now, shape, fleet: &fleet, candidates: &candidates }, &mut probabilities);
            normalize(&mut probabilities);
        }
        let is_among = |of: &[Candidate], at: usize| of.iter().any(|candidate| candidate.index as usize == at);
        let silent = |at: usize| is_among(&heard_or_not, at) && !is_among(&candidates, at);
        let model = shape.model.as_deref();
        let others = fleet.nodes().iter().enumerate().filter_map(|(at, node)| {
            let why = if silent(at) { Some(LeftOut::Silent) } else { LeftOut::of(node, now, model, tokens, panics) };
            Some((Arc::clone(node), why?))
        });
        let left_out = others.collect();
        DryRun { policy: id, in_force, candidates, probabilities, left_out, rejection, fleet }
    }
}

/// The probabilities that weights amount to when they are drawn from.
fn normalize(weights: &mut [f64]) {
    let sum: f64 = weights.iter().sum();
    let even = 1.0 / weights.len() as f64;
    let sound = sum.is_finite() && sum > 0.0;
    weights.iter_mut().for_each(|weight| *weight = if sound { *weight / sum } else { even });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balancer::{Scratch, Verdict};
    use crate::clock::Clock;
    use crate::node::NodeSpec;
    use crate::policy::REGISTRY;

    fn balancer(policy: &str) -> Arc<Balancer> {
        let spec = |name: &str, weight| NodeSpec { weight, ..NodeSpec::new(format!("http://{name}")) };
        let fleet = [("a", 1.0), ("b", 3.0), ("c", 1.0)]
            .into_iter()
            .fold(Fleet::default(), |fleet, (name, weight)| fleet.with(spec(name, weight)).expect("free name"));
        Arc::new(Balancer::new(fleet, PolicyId::named(policy).expect("known"), Clock::manual(), Vec::new()))
    }

    #[test]
    fn a_dry_run_tells_the_propensity_of_the_next_decision_and_takes_nobodys_turn() {
        let shape = RequestShape::default();
        for entry in REGISTRY {
            let (balancer, unasked) = (balancer(entry.name), balancer(entry.name));
            let mut scratches = [Scratch::with_seed(5), Scratch::with_seed(5)];
            for i in 0..20 {
                let now = Time::from_micros(i);
                let seen = balancer.dry_run(now, &shape, None);
                balancer.dry_run(now, &shape, PolicyId::named("round-robin"));
                assert!((seen.probabilities.iter().sum::<f64>() - 1.0).abs() < 1e-12, "{}", entry.name);
                let mut decide =
                    |balancer: &Arc<Balancer>, at: usize| match balancer.decide(now, &shape, &[], &mut scratches[at]) {
                        Verdict::Go(ticket) => ticket,
                        other => panic!("{other:?}"),
                    };
                let (ticket, other) = (decide(&balancer, 0), decide(&unasked, 1));
                let told = seen.probabilities[ticket.node().slot as usize];
                assert!((told - ticket.decision().propensity).abs() < 1e-12, "{}: {told}", entry.name);
                // Who was never asked decides the same.
                assert_eq!(ticket.node().slot, other.node().slot, "{}", entry.name);
            }
        }
    }

    #[test]
    fn nodes_that_are_left_out_have_their_reason() {
        let balancer = balancer("random");
        let change = |name: &str, change: &dyn Fn(&mut NodeSpec)| {
            let changed = balancer.change_fleet(|fleet| {
                let mut spec = NodeSpec::clone(&fleet.by_name(name).expect("known").spec);
                change(&mut spec);
                fleet.with_changed(spec)
            });
            changed.expect("known")
        };
        change("a", &|spec| spec.models = vec!["llama".into()]);
        let fleet = change("b", &|spec| spec.max_in_flight = Some(1));
        fleet.nodes()[1].live.ledger.try_start(Time::ZERO, 1, 0).expect("room");
        fleet.nodes()[2].live.health.set_draining(true);
        let shape = RequestShape { model: Some("qwen".into()), ..RequestShape::default() };
        let seen = balancer.dry_run(Time::ZERO, &shape, None);
        let reasons: Vec<_> = seen.left_out.iter().map(|(node, why)| (node.spec.name.as_str(), why.word())).collect();
        assert_eq!(reasons, [("a", "other-models"), ("b", "at-limit"), ("c", "draining")]);
        assert!(seen.candidates.is_empty() && seen.rejection.is_some());
    }
}
