//! What must hold for attempts under any order of events.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::fleet::{Change, Thresholds};
use crate::node::NodeSpec;
use crate::outcome::{Censor, Failure, Outcome, Sample};
use crate::policy::REGISTRY;

/// Counts what it hears.
#[derive(Default)]
struct Listener {
    started: Mutex<HashMap<NodeId, usize>>,
    ended: Mutex<Vec<Sample>>,
    changes: Mutex<Vec<(NodeId, Change)>>,
}

impl Observer for Listener {
    fn started(&self, node: &Node, _policy: PolicyId) {
        *self.started.lock().expect("sound").entry(node.id).or_default() += 1;
    }

    fn finished(&self, _node: &Node, sample: &Sample) {
        self.ended.lock().expect("sound").push(*sample);
    }

    fn health_changed(&self, node: &Node, change: Change) {
        self.changes.lock().expect("sound").push((node.id, change));
    }
}

/// Something that happens; the numbers select among what is in flight, modulo.
#[derive(Clone, Copy, Debug)]
enum Step {
    Decide { prompt_tokens: u32, client: u64 },
    FirstByte(usize),
    Events(usize, u32),
    Finish(usize, Outcome),
    Drop(usize),
    Panic(usize),
    RemoveNode(usize),
    AddNode,
    Switch(u8),
    Wait(u32),
}

fn step() -> impl Strategy<Value = Step> {
    let which = 0..64usize;
    let outcome = prop_oneof![
        4 => Just(Outcome::Completed { status: 200 }),
        1 => Just(Outcome::Completed { status: 404 }),
        1 => Just(Outcome::Failed(Failure::Timeout)),
        1 => Just(Outcome::Failed(Failure::Connect)),
        1 => Just(Outcome::Full { status: 429, retry_after: None }),
        1 => Just(Outcome::Censored(Censor::ClientGone)),
    ];
    prop_oneof![
        8 => (0..5_000u32, any::<u64>()).prop_map(|(prompt_tokens, client)| Step::Decide { prompt_tokens, client }),
        4 => which.clone().prop_map(Step::FirstByte),
        4 => (which.clone(), 0..4u32).prop_map(|(which, events)| Step::Events(which, events)),
        4 => (which.clone(), outcome).prop_map(|(which, outcome)| Step::Finish(which, outcome)),
        1 => which.clone().prop_map(Step::Drop),
        1 => which.clone().prop_map(Step::Panic),
        1 => which.prop_map(Step::RemoveNode),
        1 => Just(Step::AddNode),
        1 => (0..REGISTRY.len() as u8).prop_map(Step::Switch),
        6 => (0..3_000_000u32).prop_map(Step::Wait),
    ]
}

/// A balancer, what is in flight, and a brute-force account of everybody's life.
struct World {
    balancer: Arc<Balancer>,
    listener: Arc<Listener>,
    clock: Clock,
    now: Time,
    scratch: Scratch,
    in_flight: Vec<Ticket>,
    nodes: Vec<Arc<Node>>,
    /// Start and end of each attempt per node, in microseconds; the end is `u64::MAX` while it runs.
    lives: HashMap<NodeId, Vec<(u64, u64)>>,
    decided: usize,
}

impl World {
    fn new(policy: PolicyId) -> World {
        let clock = Clock::manual();
        let now = Time::from_micros(1_000_000);
        clock.set(now);
        let listener = Arc::new(Listener::default());
        let heard: Arc<dyn Observer> = Arc::<Listener>::clone(&listener);
        let balancer = Arc::new(Balancer::new(Fleet::default(), policy, clock.clone(), vec![heard]));
        let mut world = World {
            balancer,
            listener,
            clock,
            now,
            scratch: Scratch::with_seed(5),
            in_flight: Vec::new(),
            nodes: Vec::new(),
            lives: HashMap::new(),
            decided: 0,
        };
        (0..3).for_each(|_| world.take(Step::AddNode));
        world
    }

    fn ticket(&mut self, which: usize) -> Option<&mut Ticket> {
        let count = self.in_flight.len();
        self.in_flight.get_mut(which.checked_rem(count)?)
    }

    /// Takes a ticket out of what is in flight and notes that its life ends now.
    fn take_out(&mut self, which: usize) -> Option<Ticket> {
        let ticket = self.in_flight.swap_remove(which.checked_rem(self.in_flight.len())?);
        let (started, lives) = (ticket.started().as_micros(), self.lives.get_mut(&ticket.node().id)?);
        let life = lives.iter_mut().find(|life| **life == (started, u64::MAX)).expect("it started");
        life.1 = self.now.as_micros();
        Some(ticket)
    }

    fn take(&mut self, step: Step) {
        let now = self.now;
        match step {
            Step::Decide { prompt_tokens, client } => self.decide(prompt_tokens, client),
            Step::FirstByte(which) => self.ticket(which).into_iter().for_each(|ticket| ticket.first_byte(now)),
            Step::Events(which, events) => {
                self.ticket(which).into_iter().for_each(|ticket| ticket.events(now, events));
            }
            Step::Finish(which, outcome) => {
                if let Some(ticket) = self.take_out(which) {
                    let sample = ticket.finish(now, outcome);
                    assert_eq!(sample.outcome, outcome);
                    self.check(&sample);
                }
            }
            Step::Drop(which) => {
                if let Some(ticket) = self.take_out(which) {
                    drop(ticket);
                    self.check_dropped();
                }
            }
            Step::Panic(which) => {
                if let Some(ticket) = self.take_out(which) {
                    // As a panic would, but without its message.
                    let handler = AssertUnwindSafe(move || {
                        let _ticket = ticket;
                        resume_unwind(Box::new("a handler broke"))
                    });
                    catch_unwind::<_, ()>(handler).expect_err("it panicked");
                    self.check_dropped();
                }
            }
            Step::RemoveNode(which) => self.remove_node(which),
            Step::AddNode => {
                let spec = NodeSpec::new(format!("http://node-{}", self.nodes.len()));
                let spec = NodeSpec { max_in_flight: Some(7), ..spec };
                let fleet = self.balancer.change_fleet(|fleet| fleet.with(spec)).expect("free name");
                self.nodes.extend(fleet.nodes().last().cloned());
            }
            Step::Switch(policy) => {
                self.balancer.set_policy(PolicyId(policy));
                assert_eq!(self.balancer.policy(), PolicyId(policy));
            }
            Step::Wait(micros) => {
                self.now = now.after(Duration::from_micros(u64::from(micros)));
                self.clock.set(self.now);
            }
        }
    }

    fn decide(&mut self, prompt_tokens: u32, client_hash: u64) {
        let shape = RequestShape { prompt_tokens, client_hash, ..RequestShape::default() };
        if let Verdict::Go(ticket) = self.balancer.decide(self.now, &shape, &[], &mut self.scratch) {
            let propensity = ticket.decision().propensity;
            assert!(propensity > 0.0 && propensity <= 1.0, "{propensity}");
            self.lives.entry(ticket.node().id).or_default().push((self.now.as_micros(), u64::MAX));
            self.in_flight.push(ticket);
            self.decided += 1;
        }
    }

    fn remove_node(&self, which: usize) {
        let fleet = self.balancer.fleet();
        if let Some(at) = which.checked_rem(fleet.nodes().len()) {
            let name = &fleet.nodes()[at].spec.name;
            self.balancer.change_fleet(|fleet| fleet.without(name)).expect("it is there");
        }
    }

    /// The load over the life of that attempt is what adding up all lives one by one says.
    fn check(&self, sample: &Sample) {
        let (start, end) = (sample.started.as_micros(), self.now.as_micros());
        let overlap = |life: &(u64, u64)| life.1.min(end).saturating_sub(life.0.max(start));
        let area: u64 = self.lives[&sample.node].iter().map(overlap).sum();
        if end > start {
            assert_eq!(sample.mean_in_flight, area as f64 / (end - start) as f64, "{sample:?}");
        } else {
            assert!(sample.mean_in_flight >= 1.0, "{sample:?}");
        }
        assert_eq!(sample.total, self.now.since(sample.started));
        assert!(sample.ttfb.is_none_or(|ttfb| ttfb <= sample.total));
        assert!(sample.gaps <= sample.total);
    }

    fn check_dropped(&self) {
        let sample = *self.listener.ended.lock().expect("sound").last().expect("somebody told of its end");
        assert_eq!(sample.outcome, Outcome::Censored(Censor::Dropped));
        self.check(&sample);
    }

    /// At any moment the ledgers say what is in flight.
    fn check_ledgers(&self) {
        for node in &self.nodes {
            let here = || self.in_flight.iter().filter(|ticket| ticket.node().id == node.id);
            let waiting = || here().filter(|ticket| ticket.sample().ttfb.is_none());
            let tokens: u64 = waiting().map(|ticket| u64::from(ticket.sample().prompt_tokens)).sum();
            let ledger = &node.live.ledger;
            assert_eq!(ledger.in_flight() as usize, here().count());
            assert_eq!(ledger.waiting() as usize, waiting().count());
            assert_eq!(ledger.waiting_prompt_tokens(), tokens);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn every_attempt_ends_once_and_leaves_nothing_behind_whatever_happens(
        policy in 0..REGISTRY.len() as u8,
        steps in prop::collection::vec(step(), 1..150),
    ) {
        let mut world = World::new(PolicyId(policy));
        for step in steps {
            world.take(step);
            world.check_ledgers();
        }
        while !world.in_flight.is_empty() {
            world.take(Step::Drop(0));
        }
        world.check_ledgers();
        let started: usize = world.listener.started.lock().expect("sound").values().sum();
        prop_assert_eq!(started, world.decided);
        prop_assert_eq!(world.listener.ended.lock().expect("sound").len(), world.decided);
    }
}

#[test]
fn an_observer_that_panics_at_the_start_leaves_nothing_in_flight() {
    struct Broken;
    impl Observer for Broken {
        fn started(&self, _node: &Node, _policy: PolicyId) {
            resume_unwind(Box::new("broken"));
        }
    }
    let fleet = Fleet::default().with(NodeSpec::new("http://a")).expect("free name");
    let balancer = Balancer::new(fleet, PolicyId(0), Clock::manual(), vec![Arc::new(Broken)]);
    let balancer = Arc::new(balancer);
    let mut scratch = Scratch::with_seed(1);
    let shape = RequestShape { prompt_tokens: 9, ..RequestShape::default() };
    catch_unwind(AssertUnwindSafe(|| balancer.decide(Time::ZERO, &shape, &[], &mut scratch))).expect_err("it panicked");
    let fleet = balancer.fleet();
    let ledger = &fleet.nodes()[0].live.ledger;
    assert_eq!((ledger.in_flight(), ledger.waiting(), ledger.waiting_prompt_tokens()), (0, 0, 0));
}

#[test]
fn observers_hear_of_a_fall_by_connect_errors_and_of_the_rise_by_checks() {
    let mut world = World::new(PolicyId(0));
    world.take(Step::RemoveNode(0));
    world.take(Step::RemoveNode(0));
    let node = Arc::clone(&world.balancer.fleet().nodes()[0]);
    world.balancer.set_thresholds(Thresholds { unhealthy_after: 2, healthy_after: 1 });
    for _ in 0..2 {
        world.take(Step::Decide { prompt_tokens: 1, client: 1 });
        world.take(Step::Finish(0, Outcome::Failed(Failure::Connect)));
    }
    let refused = world.balancer.decide(world.now, &RequestShape::default(), &[], &mut world.scratch);
    assert!(matches!(refused, Verdict::Refuse(Rejection { reason: Reason::NoHealthyNode, .. })), "{refused:?}");
    world.balancer.checked(&node, true);
    let heard = world.listener.changes.lock().expect("sound").clone();
    assert_eq!(heard, [(node.id, Change::Fell), (node.id, Change::Rose)]);
}

#[test]
fn a_node_that_was_tried_is_left_out() {
    let world = World::new(PolicyId(0));
    let mut scratch = Scratch::with_seed(1);
    let tried: Vec<NodeId> = world.nodes[..2].iter().map(|node| node.id).collect();
    for _ in 0..5 {
        let verdict = world.balancer.decide(world.now, &RequestShape::default(), &tried, &mut scratch);
        let Verdict::Go(ticket) = verdict else { panic!("one is left") };
        assert_eq!(ticket.node().id, world.nodes[2].id);
        assert_eq!(ticket.decision().candidates, 1);
    }
}
