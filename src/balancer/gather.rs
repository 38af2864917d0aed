//! Which nodes may get a request: those that serve its model, work, have room, and were not tried.
//!
//! One pass that looks at each node's flags, load and settings, and no more: it is the part of a decision whose cost
//! grows with the fleet. Ejected nodes cost a second pass, to see whether too few are left to do without them: then
//! (panic) ejections do not count for this request, as a node that fails some requests beats none at all.

use crate::balancer::Balancer;
use crate::clock::Time;
use crate::fleet::{Fleet, Node, State};
use crate::learn::NodeLoad;
use crate::learn::expect::OUTPUT_FIRST;
use crate::learn::silence::{PATIENCE_MIN, Quiet, patience_s};
use crate::node::NodeId;
use crate::policy::Candidate;
use crate::request::RequestShape;

/// Fills `candidates` with the nodes that may get the request, of that many expected `tokens`; whether ejections do not count.
pub(super) fn gather(
    fleet: &Fleet,
    now: Time,
    shape: &RequestShape,
    tried: &[NodeId],
    tokens: u64,
    panic_below: f64,
    candidates: &mut Vec<Candidate>,
) -> bool {
    candidates.clear();
    let model = shape.model.as_deref().filter(|_| fleet.lists_models());
    let mut held_back = false;
    for (index, node) in fleet.nodes().iter().enumerate() {
        let in_flight = node.live.ledger.in_flight();
        let may = match node.live.health.state(now) {
            State::Up => in_flight < node.limit(),
            State::Trial => {
                held_back = true;
                in_flight < node.limit()
            }
            State::Ejected => {
                held_back = true;
                false
            }
            State::Down | State::Draining | State::Full => false,
        };
        let serves = !node.lists_models || node.spec.serves(model);
        if may && node.has_room_for(tokens) && !tried.contains(&node.id) && serves {
            candidates.push(Candidate::new(index as u32, in_flight, node.weight));
        }
    }
    held_back && panics(fleet, now, model, panic_below) && {
        gather_in_panic(fleet, now, model, tried, tokens, candidates);
        true
    }
}

/// Whether too few of the nodes that serve `model` are left: those that an operator drained are not missed.
pub(super) fn panics(fleet: &Fleet, now: Time, model: Option<&str>, panic_below: f64) -> bool {
    let (mut all, mut left) = (0u32, 0u32);
    for node in fleet.nodes().iter().filter(|node| node.spec.serves(model)) {
        let state = node.live.health.state(now);
        all += u32::from(state != State::Draining);
        left += u32::from(matches!(state, State::Up | State::Full));
    }
    // None at all is too few, whatever the share.
    left == 0 || f64::from(left) < panic_below * f64::from(all)
}

#[cold]
fn gather_in_panic(
    fleet: &Fleet,
    now: Time,
    model: Option<&str>,
    tried: &[NodeId],
    tokens: u64,
    candidates: &mut Vec<Candidate>,
) {
    candidates.clear();
    for (index, node) in fleet.nodes().iter().enumerate() {
        let in_flight = node.live.ledger.in_flight();
        let works = matches!(node.live.health.state(now), State::Up | State::Ejected | State::Trial);
        let has_room = in_flight < node.own_limit() && node.has_room_for(tokens);
        if works && has_room && !tried.contains(&node.id) && node.spec.serves(model) {
            candidates.push(Candidate::new(index as u32, in_flight, node.spec.weight));
        }
    }
}

impl Balancer {
    /// The tokens that a request is expected to keep a node busy with, prompt and output; 0 where no node has a limit.
    pub(super) fn expected_tokens(&self, fleet: &Fleet, shape: &RequestShape) -> u64 {
        if fleet.limits_tokens() { self.tokens_of(shape) } else { 0 }
    }

    /// Prompt and expected output tokens of a request.
    pub fn tokens_of(&self, shape: &RequestShape) -> u64 {
        let learned = self.learned.load();
        let output = match learned.as_deref() {
            Some(predictor) => {
                let expect = predictor.expectations.of(shape.kind);
                match shape.streaming {
                    true => expect.events(shape.output_tokens_max),
                    false => expect.tokens(shape.output_tokens_max),
                }
            }
            None => OUTPUT_FIRST.min(shape.output_tokens_max.map_or(f64::INFINITY, f64::from)),
        };
        u64::from(shape.prompt_tokens) + output.ceil() as u64
    }

    /// Leaves out candidates that have gone silent with work in flight, for policies that do not look themselves. If
    /// all have, all stay: somebody must be asked.
    ///
    /// How long a silence may be is learned, whichever policy routes; where nothing is learned yet, nobody is silent.
    /// Whether there was anything to look at: then the watch wants to hear who was chosen.
    pub(super) fn leave_out_silent(&self, fleet: &Fleet, now: Time, candidates: &mut Vec<Candidate>) -> bool {
        let quiet_s = |node: &Node| now.seconds_since(node.live.ledger.last_sign());
        let may_be = |candidate: &Candidate| {
            let last_sign = fleet.nodes()[candidate.index as usize].live.ledger.last_sign();
            candidate.in_flight > 0 && now > last_sign.after(PATIENCE_MIN)
        };
        if !candidates.iter().any(may_be) {
            return false;
        }
        let Some(predictor) = self.learned.predictor() else { return false };
        let is_silent = |candidate: &Candidate| {
            let node = &fleet.nodes()[candidate.index as usize];
            let (ledger, live) = (&node.live.ledger, self.learned.node(node));
            let waiting = ledger.waiting();
            let load = NodeLoad::new(candidate.in_flight, waiting, ledger.waiting_prompt_tokens());
            let interval_s = predictor.node(node.slot, node.id).sign_interval_s(&predictor.has, &live.factors(), &load);
            let patience_s = patience_s(interval_s);
            let quiet = Quiet { in_flight: candidate.in_flight, waiting, quiet_s: quiet_s(node), patience_s };
            !live.watch.admits(&quiet)
        };
        let silent = |candidate: &Candidate| may_be(candidate) && is_silent(candidate);
        if candidates.iter().any(|candidate| !silent(candidate)) {
            candidates.retain(|candidate| !silent(candidate));
        }
        true
    }
}
