//! Who looks after the nodes: health checks that end, attempts that end, and what follows from them.
//!
//! A node judges itself only in part: whether it stands out from the others, and whether the fleet can do without it,
//! takes a look at all of them. That look happens after failures only, at most every [`LOOK_EVERY`], and ejections are
//! one at a time under a lock, so that two at once never take out more than may be out.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::admission::Signal;
use crate::balancer::Balancer;
use crate::clock::Time;
use crate::fleet::{Cause, Change, Ejection, Failures, Fleet, Judgement, Load, Node, State, Thresholds};
use crate::learn::features::PROMPT_UNIT;
use crate::learn::predictor::{Factors, How};
use crate::learn::{Ask, NodeLoad};
use crate::outcome::{Failure, Outcome, Sample};

/// Between two comparisons of a failing node with the rest of the fleet: each reads every node.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Correctors that correct nothing: what is idle does not drift.
const NEUTRAL: Factors = [1.0; 4];

/// The rules by which nodes leave and return.
#[derive(Clone, Copy, Debug)]
pub(super) struct Care {
    pub(super) thresholds: Thresholds,
    pub(super) ejection: Ejection,
}

impl Default for Care {
    /// Nobody is ejected until somebody says when.
    fn default() -> Self {
        Care { thresholds: Thresholds::default(), ejection: Ejection::OFF }
    }
}

/// What takes one at a time.
#[derive(Debug, Default)]
pub(super) struct Ward {
    ejecting: Mutex<()>,
    looked: AtomicU64,
}

impl Balancer {
    /// How many checks in a row change a node's state.
    pub fn set_thresholds(&self, thresholds: Thresholds) {
        self.care.rcu(|care| Care { thresholds, ..**care });
    }

    /// When nodes are ejected. A new balancer ejects nobody. Where nobody is to be ejected any more, those that are out
    /// are taken back: nothing else would.
    pub fn set_ejection(&self, ejection: Ejection) {
        self.care.rcu(|care| Care { ejection, ..**care });
        if ejection.share_max <= 0.0 {
            self.fleet.load().nodes().iter().for_each(|node| node.live.health.readmit());
        }
    }

    /// An active health check of `node` ended.
    pub fn checked(self: &Arc<Self>, node: &Node, passed: bool) -> Option<Change> {
        let change = node.live.health.checked(passed, self.care.load().thresholds);
        self.tell(node, change);
        if change == Some(Change::Rose) {
            self.hand_over(self.clock.now());
        }
        change
    }

    pub(super) fn tell(&self, node: &Node, change: Option<Change>) {
        if let Some(change) = change {
            match change {
                // Whatever took it away may have taken its memory.
                Change::Rose => {
                    self.learned.returned(node);
                    self.prefixes.load().forget(node);
                }
                Change::Fell => self.prefixes.load().forget(node),
                _ => {}
            }
            for observer in &self.observers {
                observer.health_changed(node, change);
            }
        }
    }

    /// An attempt on `node` ended: what that means for its condition.
    pub(super) fn attend(&self, node: &Arc<Node>, outcome: &Outcome, started: Time, now: Time) {
        let care = **self.care.load();
        let change = node.live.health.observe(outcome, now, care.thresholds);
        self.tell(node, change);
        let is_lost = matches!(outcome, Outcome::Failed(Failure::Connect | Failure::Broken | Failure::BrokenBody));
        if is_lost && node.live.ledger.in_flight() == 0 {
            // Nothing that it was doing is left: as far as can be seen, it was started anew.
            self.prefixes.load().forget(node);
        }
        match node.live.health.judge(outcome, started, now, &care.ejection) {
            Judgement::Nothing => {}
            Judgement::Changed(change) => self.tell(node, Some(change)),
            Judgement::Suspect => self.compare(node, now, &care.ejection),
            Judgement::Eject(cause) => self.eject(node, cause, now, &care.ejection),
        }
    }

    /// An attempt ended on a node that finds out its own limit, and left it with that load.
    pub(super) fn adjust(&self, node: &Node, sample: &Sample, now: Time, load: Load) {
        let signal = match sample.outcome {
            Outcome::Full { .. } | Outcome::Failed(Failure::Timeout) => Signal::Overload,
            _ if sample.outcome.is_latency_label() => {
                Signal::Answer { now, load, among: sample.mean_in_flight, idle_s: self.idle_s(node, sample) }
            }
            _ => return,
        };
        let in_flight = match signal {
            Signal::Answer { .. } => sample.in_flight,
            // What was too much is what came, not what was there before.
            Signal::Overload => sample.in_flight.max(node.live.ledger.in_flight()),
        };
        let limit = self.limits.of(node).observe(signal, in_flight + 1);
        node.live.ledger.set_own_limit(limit);
    }

    /// What an answer of that length would have taken on the idle node, by a model that is trusted.
    fn idle_s(&self, node: &Node, sample: &Sample) -> Option<f64> {
        let learned = self.learned.load();
        let predictor = learned.as_deref()?;
        if self.learned.fallback_of(Some(predictor), sample.started).is_some() {
            return None;
        }
        let ask = predictor.ask(sample.kind, sample.streaming, sample.prompt_tokens, sample.output_tokens_max);
        let seen = if ask.how == How::Streamed { Some(sample.events) } else { sample.output_tokens };
        let prompt = sample.recall.uncached(sample.prompt_tokens) / PROMPT_UNIT;
        let ask = Ask { prompt, output: seen.map_or(ask.output, f64::from), ..ask };
        let model = predictor.known(node.slot, node.id).filter(|_| ask.how != How::Unknown)?;
        Some(model.predict(&NEUTRAL, &NodeLoad::default(), &ask).total_s)
    }

    /// Ejects a node that fails much more than the rest of the fleet.
    fn compare(&self, node: &Arc<Node>, now: Time, rules: &Ejection) {
        let own = node.live.health.record().failures(now, rules.window);
        if own.requests < u64::from(rules.requests_min) || own.ratio() < rules.outlier_margin {
            return;
        }
        let looked = Time::from_micros(self.ward.looked.load(Ordering::Relaxed));
        if now.since(looked) < LOOK_EVERY {
            return;
        }
        self.ward.looked.store(now.as_micros(), Ordering::Relaxed);
        let fleet = self.fleet.load();
        let others = fleet.nodes().iter().filter(|other| other.id != node.id && !other.live.health.is_out());
        let rest = others
            .fold(Failures::default(), |rest, other| rest.and(other.live.health.record().failures(now, rules.window)));
        if rest.requests >= u64::from(rules.requests_min) && own.stands_out(rest, rules.outlier_margin) {
            self.eject(node, Cause::Outlier, now, rules);
        }
    }

    fn eject(&self, node: &Arc<Node>, cause: Cause, now: Time, rules: &Ejection) {
        let change = {
            let _one_at_a_time = self.ward.ejecting.lock().unwrap_or_else(PoisonError::into_inner);
            let fleet: Arc<Fleet> = self.fleet.load_full();
            let is_ejected = |node: &Arc<Node>| node.live.health.state(now) == State::Ejected;
            let ejected = fleet.nodes().iter().filter(|node| is_ejected(node)).count();
            if is_ejected(node) || !rules.allows(ejected, fleet.nodes().len()) {
                return;
            }
            node.live.health.eject(cause, now, rules)
        };
        // What it was taught by working badly counts no more; it proves itself anew.
        self.learned.returned(node);
        self.tell(node, Some(change));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balancer::{Reason, Rejection, Scratch, Ticket, Verdict};
    use crate::clock::Clock;
    use crate::node::NodeSpec;
    use crate::outcome::Failure;
    use crate::policy::{PolicyId, REGISTRY};
    use crate::request::RequestShape;

    const FAILED: Outcome = Outcome::Failed(Failure::Status(500));
    const WELL: Outcome = Outcome::Completed { status: 200 };

    fn balancer(nodes: usize, policy: &str) -> Arc<Balancer> {
        let specs = (0..nodes).map(|at| NodeSpec::new(format!("http://n{at}")));
        let fleet = specs.fold(Fleet::default(), |fleet, spec| fleet.with(spec).expect("free name"));
        let policy = PolicyId::named(policy).expect("known");
        let balancer = Balancer::new(fleet, policy, Clock::manual(), Vec::new());
        balancer.set_ejection(Ejection::default());
        Arc::new(balancer)
    }

    fn at(seconds: f64) -> Time {
        Time::from_secs_f64(seconds)
    }

    fn decide(balancer: &Arc<Balancer>, now: Time, scratch: &mut Scratch) -> Result<Ticket, Rejection> {
        match balancer.decide(now, &RequestShape::default(), &[], scratch) {
            Verdict::Go(ticket) => Ok(ticket),
            Verdict::Refuse(rejection) => Err(rejection),
            Verdict::Wait(_) => panic!("nobody may wait"),
        }
    }

    fn states(balancer: &Balancer, now: Time) -> Vec<State> {
        balancer.fleet().nodes().iter().map(|node| node.live.health.state(now)).collect()
    }

    #[test]
    fn every_policy_leaves_out_a_failing_node_tries_it_again_and_takes_it_back() {
        for entry in REGISTRY {
            let balancer = balancer(3, entry.name);
            let mut scratch = Scratch::with_seed(1);
            let ask = |now: f64, client: u64, scratch: &mut Scratch| {
                let shape = RequestShape { client_hash: client, ..RequestShape::default() };
                match balancer.decide(at(now), &shape, &[], scratch) {
                    Verdict::Go(ticket) => ticket,
                    other => panic!("{}: {other:?}", entry.name),
                }
            };
            for client in 0..100 {
                let ticket = ask(1.0, client, &mut scratch);
                let outcome = if ticket.node().slot == 0 { FAILED } else { WELL };
                ticket.finish(at(1.0), outcome);
            }
            // The policies that see failures by themselves may be quicker than five in a row.
            let node = Arc::clone(&balancer.fleet().nodes()[0]);
            let ejected = node.live.health.state(at(1.0)) == State::Ejected;
            assert!(ejected || entry.name == "adaptive" || entry.name.starts_with("peak-ewma"), "{}", entry.name);
            if !ejected {
                continue;
            }
            assert!((0..100).all(|client| ask(2.0, client, &mut scratch).node().slot != 0), "{}", entry.name);
            // On trial: one at a time.
            let trial: Vec<Ticket> = (0..200).map(|client| ask(7.0, client, &mut scratch)).collect();
            assert!(trial.iter().filter(|ticket| ticket.node().slot == 0).count() <= 1, "{}", entry.name);
            drop(trial);
            assert_eq!(node.live.health.state(at(7.0)), State::Trial, "{}: who left proves nothing", entry.name);
            for client in 0..600 {
                ask(20.0, client, &mut scratch).finish(at(20.1), WELL);
            }
            assert!(!node.live.health.is_out(), "{}", entry.name);
        }
    }

    #[test]
    fn not_more_than_the_share_is_ejected_however_many_threads_see_failures() {
        let balancer = balancer(8, "round-robin");
        std::thread::scope(|scope| {
            for seed in 0..4 {
                let balancer = &balancer;
                scope.spawn(move || {
                    let mut scratch = Scratch::with_seed(seed);
                    for step in 0..500u32 {
                        let now = at(1.0 + f64::from(step) * 1e-3);
                        decide(balancer, now, &mut scratch).expect("a node").finish(now, FAILED);
                        let ejected = states(balancer, now).iter().filter(|state| **state == State::Ejected).count();
                        assert!(ejected <= 4, "{ejected}");
                    }
                });
            }
        });
        assert_eq!(states(&balancer, at(1.5)).iter().filter(|state| **state == State::Ejected).count(), 4);
    }

    #[test]
    fn the_only_node_is_never_ejected() {
        let balancer = balancer(1, "least-connections");
        let mut scratch = Scratch::with_seed(1);
        for _ in 0..100 {
            decide(&balancer, at(1.0), &mut scratch).expect("a node").finish(at(1.0), FAILED);
        }
        assert_eq!(states(&balancer, at(1.0)), [State::Up]);
    }

    #[test]
    fn in_a_panic_ejected_nodes_serve_and_nodes_that_are_down_do_not() {
        let balancer = balancer(4, "round-robin");
        let rules = Ejection { panic_below: 0.5, ..Ejection::default() };
        balancer.set_ejection(rules);
        let mut scratch = Scratch::with_seed(1);
        let fleet = balancer.fleet();
        let seen = |now: f64, scratch: &mut Scratch| {
            let mut slots: Vec<u32> = (0..40)
                .filter_map(|_| decide(&balancer, at(now), scratch).ok())
                .map(|ticket| ticket.node().slot)
                .collect();
            slots.sort_unstable();
            slots.dedup();
            slots
        };
        fleet.nodes()[0].live.health.eject(Cause::Ratio, at(1.0), &rules);
        fleet.nodes()[1].live.health.eject(Cause::Ratio, at(1.0), &rules);
        assert_eq!(seen(2.0, &mut scratch), [2, 3], "half is left");
        let once = Thresholds { unhealthy_after: 1, healthy_after: 1 };
        fleet.nodes()[2].live.health.checked(false, once);
        assert_eq!(seen(2.0, &mut scratch), [0, 1, 3], "a quarter is left");
        fleet.nodes()[3].live.health.set_draining(true);
        assert_eq!(seen(2.0, &mut scratch), [0, 1], "nobody is left");
        // On trial they carry everything too, as there is nobody else.
        let all: Vec<_> = (0..10).map(|_| decide(&balancer, at(6.5), &mut scratch).expect("a node")).collect();
        assert_eq!(all.len(), 10);
        fleet.nodes()[0].live.health.checked(false, once);
        fleet.nodes()[1].live.health.checked(false, once);
        let refused = decide(&balancer, at(6.5), &mut scratch).expect_err("all down");
        assert_eq!(refused.reason, Reason::NoHealthyNode);
    }

    #[test]
    fn a_node_that_fails_much_more_than_the_others_is_ejected_and_an_equally_bad_fleet_is_not() {
        for (own, others, expected) in [(4, 50, true), (4, 4, false)] {
            // Every fourth fails at the node; of the others every fourth or nearly none.
            let balancer = balancer(4, "round-robin");
            let mut scratch = Scratch::with_seed(1);
            for step in 0..400u32 {
                let now = at(1.0 + f64::from(step) * 0.02);
                let ticket = decide(&balancer, now, &mut scratch).expect("a node");
                let nth = step / 4;
                let every = if ticket.node().slot == 0 { own } else { others };
                ticket.finish(now, if nth % every == 0 { FAILED } else { WELL });
            }
            let ejected = balancer.fleet().nodes()[0].live.health.is_out();
            assert_eq!(ejected, expected, "{own} {others}");
        }
    }

    #[test]
    fn with_ejection_turned_off_a_node_that_was_out_serves_as_before() {
        let balancer = balancer(2, "round-robin");
        let mut scratch = Scratch::with_seed(1);
        let fleet = balancer.fleet();
        let all_at = |now: f64, scratch: &mut Scratch| {
            let tickets: Vec<_> = (0..20).map(|_| decide(&balancer, at(now), scratch).expect("a node")).collect();
            tickets.iter().filter(|ticket| ticket.node().slot == 0).count()
        };
        fleet.nodes()[0].live.health.eject(Cause::Ratio, at(1.0), &Ejection::default());
        assert_eq!(all_at(2.0, &mut scratch), 0);
        balancer.set_ejection(Ejection::OFF);
        assert_eq!((states(&balancer, at(2.0))[0], all_at(2.0, &mut scratch)), (State::Up, 10));
        // One that another thread ejected in that moment is taken back by what ends there.
        fleet.nodes()[0].live.health.eject(Cause::Ratio, at(3.0), &Ejection::default());
        fleet.nodes()[0].live.health.judge(&WELL, at(3.0), at(3.1), &Ejection::OFF);
        assert_eq!(all_at(3.1, &mut scratch), 10);
    }

    #[test]
    fn one_late_answer_does_not_shrink_a_limit_to_what_was_there_when_it_began() {
        let balancer = balancer(1, "round-robin");
        let spec = NodeSpec { auto_limit: true, ..NodeSpec::clone(&balancer.fleet().nodes()[0].spec) };
        balancer.change_fleet(|fleet| fleet.with_changed(spec)).expect("known");
        let mut scratch = Scratch::with_seed(1);
        let limit = || balancer.fleet().nodes()[0].limit();
        let before = limit();
        let first = decide(&balancer, at(1.0), &mut scratch).expect("a node");
        let others: Vec<_> =
            (1..before).map(|_| decide(&balancer, at(2.0), &mut scratch).expect("there is room")).collect();
        first.finish(at(60.0), Outcome::Failed(Failure::Timeout));
        assert!(limit() < before && f64::from(limit()) >= 0.85 * f64::from(before), "{} of {before}", limit());
        drop(others);
    }

    #[test]
    fn other_policies_leave_out_a_silent_node_once_something_is_learned() {
        use crate::learn::Learner;
        let balancer = balancer(2, "round-robin");
        let mut scratch = Scratch::with_seed(1);
        let mut learner = Learner::new(Arc::clone(balancer.learned()));
        for step in 0..400u32 {
            let now = at(f64::from(step) * 0.05);
            let ticket = decide(&balancer, now, &mut scratch).expect("a node");
            let sample = ticket.finish(now.after(Duration::from_millis(40)), WELL);
            learner.observe(now.after(Duration::from_millis(40)), &sample).expect("a label");
            if step % 10 == 0 {
                learner.refit(now);
            }
        }
        let stuck = loop {
            let ticket = decide(&balancer, at(20.1), &mut scratch).expect("a node");
            if ticket.node().slot == 0 {
                break ticket;
            }
        };
        let to_hung = (0..20).map(|_| decide(&balancer, at(22.0), &mut scratch).expect("a node"));
        assert_eq!(to_hung.filter(|ticket| ticket.node().slot == 0).count(), 0);
        let seen = balancer.dry_run(at(22.0), &RequestShape::default(), None);
        let left_out: Vec<_> = seen.left_out.iter().map(|(node, why)| (node.slot, why.word())).collect();
        assert_eq!((left_out, seen.candidates.len()), (vec![(0, "silent")], 1), "and whoever asks is told");
        stuck.finish(at(22.5), WELL);
        let slots: Vec<u32> =
            (0..2).map(|_| decide(&balancer, at(22.6), &mut scratch).expect("a node").node().slot).collect();
        assert!(slots.contains(&0), "{slots:?}");
    }
}
