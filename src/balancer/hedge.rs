//! A second attempt beside a late one: when an attempt counts as late, and which node would be quick.
//!
//! Late is later than the 95th percentile of what the model predicted for this request on this node; quick is a node
//! whose predicted first byte comes sooner than what the late one has already taken. With the long tails of response
//! times the rest of a wait is about as long as what has passed, so that is where a copy is expected to be first. Fixed
//! hedging delays need to know the workload: a long prompt is not late, only long. Where no trusted model knows both
//! nodes, nothing is hedged.
//!
//! The copy is a decision like any other, by the policy in force, among the quick nodes with room; it never waits in the
//! queue, since whoever waits there has no attempt at all. What it may cost is the budget's business, not this module's.

use std::sync::Arc;
use std::time::Duration;

use crate::balancer::{Balancer, Scratch, Ticket};
use crate::clock::Time;
use crate::fleet::{Node, PerNode, Resettable};
use crate::learn::lateness::Lateness;
use crate::learn::{Ask, How, NodeLoad, Predictor};
use crate::node::NodeId;
use crate::outcome::{Outcome, Sample};
use crate::request::RequestShape;

/// The least patience: below it, waking up for the copy costs more than it could save.
const PATIENCE_MIN: Duration = Duration::from_millis(2);

/// Percentiles of a node: of answers as a whole, and of streamed ones, whose first bytes do not hang on their length.
#[derive(Debug, Default)]
pub(super) struct Tails([Lateness; 2]);

impl Resettable for Tails {
    fn reset(&self) {
        self.0.iter().for_each(Resettable::reset);
    }
}

/// What is foreseen of an attempt's first byte.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Foresight {
    expected_s: f64,
    /// When it is late, if that is known.
    late_after: Option<Duration>,
}

/// The percentiles of all nodes.
#[derive(Debug, Default)]
pub(super) struct Punctuality(PerNode<Tails>);

impl Punctuality {
    fn of(&self, node: &Node, streaming: bool) -> &Lateness {
        &self.0.of(node).0[usize::from(streaming)]
    }

    /// An attempt ended of which something was foreseen.
    pub(super) fn ended(&self, node: &Node, foreseen: &Foresight, sample: &Sample) {
        let tail = self.of(node, sample.streaming);
        match (sample.outcome, sample.ttfb) {
            (outcome, Some(ttfb)) if outcome.is_latency_label() => {
                tail.answered(ttfb.as_secs_f64(), foreseen.expected_s);
            }
            // Nobody knows when it would have come, but it was late.
            (Outcome::Censored(_), None) if foreseen.late_after.is_some_and(|late| sample.total >= late) => {
                tail.outlived();
            }
            _ => {}
        }
    }
}

impl Balancer {
    /// How long after its start an attempt is late, and looked after as one that may be hedged: its end teaches how late
    /// first bytes are. `None` while no trusted model says what to expect, or too few first bytes have been seen.
    pub fn late_after(&self, ticket: &mut Ticket, shape: &RequestShape) -> Option<Duration> {
        let learned = self.learned.load();
        let predictor = self.trusted(learned.as_deref(), ticket.started())?;
        let ask = predictor.ask(shape.kind, shape.streaming, shape.prompt_tokens, shape.output_tokens_max);
        let node = ticket.node();
        let before = &ticket.decision().before;
        let load = NodeLoad::new(before.in_flight, before.waiting, before.waiting_prompt_tokens);
        let expected_s = self.first_byte_s(predictor, node, &load, &ask)?;
        let ratio = self.punctuality.of(node, shape.streaming).ratio();
        let late_s = ratio.map(|ratio| expected_s * ratio.max(1.0));
        let late_after = late_s.and_then(|late_s| Duration::try_from_secs_f64(late_s).ok());
        let late_after = late_after.map(|late| late.max(PATIENCE_MIN));
        ticket.foresee(Foresight { expected_s, late_after });
        late_after
    }

    /// Another attempt of the request whose attempt `late` is late, on a node that is predicted to be quick; `None` if
    /// there is no such node with room. Nodes in `tried` and the late one's own are left out.
    pub fn hedge(
        self: &Arc<Self>,
        now: Time,
        shape: &RequestShape,
        late: &Ticket,
        tried: &[NodeId],
        scratch: &mut Scratch,
    ) -> Option<Ticket> {
        // Whoever waits goes first.
        self.hand_over(now);
        let mut left_out = tried.to_vec();
        left_out.push(late.node().id);
        {
            let learned = self.learned.load();
            let predictor = self.trusted(learned.as_deref(), now)?;
            let ask = predictor.ask(shape.kind, shape.streaming, shape.prompt_tokens, shape.output_tokens_max);
            let passed_s = now.since(late.started()).as_secs_f64();
            let is_quick = |node: &Node| {
                let ledger = &node.live.ledger;
                let load = NodeLoad::new(ledger.in_flight(), ledger.waiting(), ledger.waiting_prompt_tokens());
                self.first_byte_s(predictor, node, &load, &ask).is_some_and(|expected_s| expected_s < passed_s)
            };
            let fleet = self.fleet.load();
            left_out.extend(fleet.nodes().iter().filter(|node| !is_quick(node)).map(|node| node.id));
        }
        let mut ticket = self.try_now(now, shape, &left_out, scratch, true)?;
        // Its end teaches too; when it is late itself does not matter.
        self.late_after(&mut ticket, shape);
        Some(ticket)
    }

    fn trusted<'a>(&self, predictor: Option<&'a Predictor>, now: Time) -> Option<&'a Predictor> {
        let predictor = predictor?;
        self.learned.fallback_of(Some(predictor), now).is_none().then_some(predictor)
    }

    /// The predicted first byte on a node that the model knows itself.
    fn first_byte_s(&self, predictor: &Predictor, node: &Node, load: &NodeLoad, ask: &Ask) -> Option<f64> {
        let model = predictor.known(node.slot, node.id).filter(|_| ask.how != How::Unknown)?;
        Some(model.predict(&self.learned.node(node).factors(), load, ask).first_byte_s)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balancer::Verdict;
    use crate::clock::Clock;
    use crate::fleet::Fleet;
    use crate::learn::{Learner, test_sample};
    use crate::node::NodeSpec;
    use crate::outcome::{Censor, Failure};
    use crate::policy::{PolicyId, REGISTRY};

    const WELL: Outcome = Outcome::Completed { status: 200 };

    fn at(seconds: f64) -> Time {
        Time::from_secs_f64(seconds)
    }

    fn go(balancer: &Arc<Balancer>, now: f64, tried: &[NodeId]) -> Ticket {
        match balancer.decide(at(now), &RequestShape::default(), tried, &mut Scratch::with_seed(1)) {
            Verdict::Go(ticket) => ticket,
            other => panic!("{other:?}"),
        }
    }

    /// Three nodes of 0.1, 0.1 and 2 seconds, one at a time each, that the model knows at 60 s; the first has been late
    /// by up to twice what was predicted.
    fn taught(policy: &str) -> Arc<Balancer> {
        let specs = ["a", "b", "slow"]
            .map(|name| NodeSpec { max_in_flight: Some(1), ..NodeSpec::new(format!("http://{name}")).named(name) });
        let fleet = specs.into_iter().fold(Fleet::default(), |fleet, spec| fleet.with(spec).expect("free name"));
        let policy = PolicyId::named(policy).expect("known");
        let balancer = Arc::new(Balancer::new(fleet, policy, Clock::manual(), Vec::new()));
        let mut learner = Learner::new(Arc::clone(balancer.learned()));
        for tick in 0..120u32 {
            let now = f64::from(tick) * 0.5;
            for (node, took_s) in balancer.fleet().nodes().iter().zip([0.1, 0.1, 2.0]) {
                for count in 0..4u32 {
                    let took_s = took_s * (1.0 + 0.01 * f64::from(count));
                    let sample = Sample { node: node.id, started: at(now), ..test_sample(node.slot, 1, took_s) };
                    balancer.learned().ended(node, &sample);
                    learner.observe(at(now), &sample).expect("a label");
                }
            }
            learner.refit(at(now));
        }
        for node in balancer.fleet().nodes() {
            let tail = balancer.punctuality.of(node, false);
            (0..40).for_each(|_| tail.answered(2.0, 1.0));
        }
        balancer
    }

    fn id(balancer: &Balancer, name: &str) -> NodeId {
        balancer.fleet().by_name(name).expect("known").id
    }

    #[test]
    fn late_is_later_than_the_percentile_of_what_was_predicted() {
        let balancer = taught("round-robin");
        let shape = RequestShape::default();
        let others = [id(&balancer, "b"), id(&balancer, "slow")];
        let mut ticket = go(&balancer, 60.0, &others);
        let late = balancer.late_after(&mut ticket, &shape).expect("known").as_secs_f64();
        assert!((0.17..0.25).contains(&late), "twice a tenth: {late}");
        let others = [id(&balancer, "a"), id(&balancer, "b")];
        let mut ticket = go(&balancer, 60.0, &others);
        let late = balancer.late_after(&mut ticket, &shape).expect("known").as_secs_f64();
        assert!((3.0..5.0).contains(&late), "a slow node is not late, only slow: {late}");
    }

    #[test]
    fn under_every_policy_the_copy_goes_to_another_node_that_is_quick_or_nowhere() {
        for entry in REGISTRY {
            let balancer = taught(entry.name);
            let shape = RequestShape::default();
            let others = [id(&balancer, "b"), id(&balancer, "slow")];
            let mut late = go(&balancer, 60.0, &others);
            balancer.late_after(&mut late, &shape);
            let mut scratch = Scratch::with_seed(3);
            // After 0.05 s nobody is quick enough, after 0.3 s "b" is and "slow" is not.
            assert!(balancer.hedge(at(60.05), &shape, &late, &[], &mut scratch).is_none(), "{}", entry.name);
            let copy = balancer.hedge(at(60.3), &shape, &late, &[], &mut scratch).expect("b is quick");
            assert_eq!((copy.node().spec.name.as_str(), copy.decision().propensity), ("b", 1.0), "{}", entry.name);
            // Now "b" has as much as it may have, and once tried it is left out too.
            assert!(balancer.hedge(at(60.3), &shape, &late, &[], &mut scratch).is_none(), "{}", entry.name);
            copy.finish(at(60.4), Outcome::Censored(Censor::Hedged));
            let tried = [id(&balancer, "b")];
            assert!(balancer.hedge(at(60.4), &shape, &late, &tried, &mut scratch).is_none(), "{}", entry.name);
            late.finish(at(60.5), WELL);
            assert!(balancer.fleet().nodes().iter().all(|node| node.live.ledger.in_flight() == 0));
        }
    }

    #[test]
    fn who_waits_in_the_queue_goes_before_a_copy() {
        let balancer = taught("least-connections");
        balancer.set_queue(crate::admission::QueueRules::default());
        let shape = RequestShape::default();
        let mut late = go(&balancer, 60.0, &[id(&balancer, "b"), id(&balancer, "slow")]);
        balancer.late_after(&mut late, &shape);
        let running = [go(&balancer, 60.0, &[id(&balancer, "slow")]), go(&balancer, 60.0, &[])];
        let mut scratch = Scratch::with_seed(3);
        let verdict = balancer.decide(at(60.1), &shape, &[], &mut scratch);
        let Verdict::Wait(mut place) = verdict else { panic!("{verdict:?}") };
        let terms = crate::admission::Terms { priority: Default::default(), bytes: 0, deadline: at(90.0) };
        place.join(at(60.1), terms).expect("room to wait");
        assert!(balancer.hedge(at(60.3), &shape, &late, &[], &mut scratch).is_none(), "all are busy");
        let [on_b, _] = running;
        on_b.finish(at(60.3), WELL);
        let _waited = place.answer().expect("an answer").expect("a node");
        assert!(balancer.hedge(at(60.4), &shape, &late, &[], &mut scratch).is_none());
    }

    #[test]
    fn without_a_model_that_is_trusted_nothing_is_late() {
        let balancer = taught("least-connections");
        let shape = RequestShape::default();
        let mut ticket = go(&balancer, 60.0, &[]);
        balancer.learned().want_fallback(true);
        assert_eq!(balancer.late_after(&mut ticket, &shape), None);
        assert!(balancer.hedge(at(99.0), &shape, &ticket, &[], &mut Scratch::with_seed(1)).is_none());
    }

    #[test]
    fn only_answers_and_those_given_up_late_teach_how_late_first_bytes_are() {
        let balancer = taught("least-connections");
        let shape = RequestShape::default();
        let others = [id(&balancer, "b"), id(&balancer, "slow")];
        let node = Arc::clone(balancer.fleet().by_name("a").expect("known"));
        let ratio = || balancer.punctuality.of(&node, false).ratio().expect("enough");
        let run = |took_s: f64, first_byte: bool, outcome: Outcome| {
            let before = ratio();
            let mut ticket = go(&balancer, 60.0, &others);
            balancer.late_after(&mut ticket, &shape);
            if first_byte {
                ticket.first_byte(at(60.0 + took_s));
            }
            ticket.finish(at(60.0 + took_s), outcome);
            ratio() / before
        };
        assert!(run(0.01, true, WELL) < 1.0 && run(9.0, true, WELL) > 1.0);
        assert_eq!(run(0.001, true, Outcome::Failed(Failure::Status(500))), 1.0, "a fast failure");
        assert_eq!(run(9.0, false, Outcome::Failed(Failure::Timeout)), 1.0);
        assert_eq!(run(0.01, false, Outcome::Censored(Censor::ClientGone)), 1.0, "left early");
        assert_eq!(run(0.01, true, Outcome::Censored(Censor::ClientGone)), 1.0);
        assert!(run(9.0, false, Outcome::Censored(Censor::Hedged)) > 1.0);
    }
}
