//! What every policy must keep, tested over the whole registry.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use proptest::prelude::*;

use crate::balancer::{Balancer, Scratch, Verdict};
use crate::clock::{Clock, Time};
use crate::fleet::Fleet;
use crate::node::NodeSpec;
use crate::outcome::{Failure, Outcome};
use crate::policy::tests_support::{Scene, sample_of};
use crate::policy::{PolicyId, REGISTRY, draw};
use crate::request::RequestShape;

fn every_policy() -> impl Iterator<Item = PolicyId> {
    (0..REGISTRY.len()).map(|at| PolicyId(at as u8))
}

fn outcomes() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        Just(Outcome::Completed { status: 200 }),
        Just(Outcome::Failed(Failure::Connect)),
        Just(Outcome::Full { status: 429, retry_after: None }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn the_distribution_is_sound_for_any_candidates_loads_weights_and_history(
        nodes in prop::collection::vec((0.001..1000.0f64, 0u32..60_000, any::<bool>()), 1..40),
        history in prop::collection::vec((any::<prop::sample::Index>(), 0.0..1e4f64, 0.0..1e3f64, outcomes()), 0..20),
        client_hash: u64,
        now_s in 0.0..1e6f64,
    ) {
        let mut scene = nodes.iter().enumerate().fold(Scene::new(nodes.len() as u32), |scene, (at, node)| {
            scene.weight(at, node.0).load(at, node.1)
        });
        for (index, (_, _, stays)) in nodes.iter().enumerate() {
            if !stays && scene.candidates.len() > 1 {
                scene = scene.without(index as u32);
            }
        }
        scene.shape.client_hash = client_hash;
        scene.now = Time::from_secs_f64(now_s);
        for id in every_policy() {
            let policy = id.make();
            for (node, started_s, took_s, outcome) in &history {
                let node = node.get(scene.fleet.nodes());
                let (started, ended) = (Time::from_secs_f64(*started_s), Time::from_secs_f64(started_s + took_s));
                policy.observe(node, &sample_of(node, started, ended, *outcome));
            }
            for _ in 0..3 {
                let mut out = vec![0.0; scene.candidates.len()];
                policy.weigh(&scene.context(), &mut out);
                prop_assert!(out.iter().all(|weight| weight.is_finite() && *weight >= 0.0), "{} {out:?}", id.name());
                let sum: f64 = out.iter().sum();
                prop_assert!(sum > 0.0 && sum.is_finite(), "{} {out:?}", id.name());
                let normalized: f64 = out.iter().map(|weight| weight / sum).sum();
                prop_assert!((normalized - 1.0).abs() < 1e-9, "{} {normalized}", id.name());
                let (chosen, propensity) = draw(&out, &mut fastrand::Rng::with_seed(client_hash)).expect("not empty");
                prop_assert!(out[chosen] > 0.0 && propensity > 0.0 && propensity <= 1.0, "{}", id.name());
            }
        }
    }
}

/// A node with every slot taken is never asked for one more, however many threads decide at once.
#[test]
fn the_limits_hold_under_concurrency_whatever_the_policy() {
    const LIMITS: [u32; 3] = [1, 2, 4];
    const LAST: u64 = 1_500;
    for id in every_policy() {
        let fleet = LIMITS.iter().fold(Fleet::default(), |fleet, limit| {
            let spec = NodeSpec { max_in_flight: Some(*limit), ..NodeSpec::new(format!("http://node-{limit}")) };
            fleet.with(spec).expect("free name")
        });
        let balancer = Arc::new(Balancer::new(fleet, id, Clock::manual(), Vec::new()));
        let running = [const { AtomicU32::new(0) }; LIMITS.len()];
        let answered = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (balancer, running, answered) = (&balancer, &running, &answered);
                scope.spawn(move || {
                    let mut scratch = Scratch::with_seed(thread);
                    let mut held = Vec::new();
                    for step in 0..=LAST {
                        let now = Time::from_micros(step);
                        let shape = RequestShape { client_hash: step * 4 + thread, ..RequestShape::default() };
                        if let Verdict::Go(ticket) = balancer.decide(now, &shape, &[], &mut scratch) {
                            let index = ticket.node().id.0 as usize;
                            let now_running = running[index].fetch_add(1, Ordering::SeqCst) + 1;
                            assert!(now_running <= LIMITS[index], "{} {now_running}", id.name());
                            held.push(ticket);
                        }
                        if held.len() > 2 || step % 3 == 0 || step == LAST {
                            for ticket in held.drain(..) {
                                running[ticket.node().id.0 as usize].fetch_sub(1, Ordering::SeqCst);
                                ticket.finish(now, Outcome::Completed { status: 200 });
                                answered.fetch_add(1, Ordering::Relaxed);
                            }
                        }
                    }
                });
            }
        });
        assert!(answered.into_inner() > 1_000, "{}", id.name());
        assert!(balancer.fleet().nodes().iter().all(|node| node.live.ledger.in_flight() == 0), "{}", id.name());
    }
}

/// The same seed and the same history make the same decisions.
#[test]
fn a_seed_reproduces_every_decision_of_every_policy() {
    for id in every_policy() {
        let run = |seed| {
            let fleet = (1..=6).fold(Fleet::default(), |fleet, weight| {
                let spec = NodeSpec { weight: f64::from(weight), ..NodeSpec::new(format!("http://node-{weight}")) };
                fleet.with(spec).expect("free name")
            });
            let balancer = Arc::new(Balancer::new(fleet, id, Clock::manual(), Vec::new()));
            let mut scratch = Scratch::with_seed(seed);
            let mut held = std::collections::VecDeque::new();
            (0..400u64)
                .map(|step| {
                    let now = Time::from_micros(step * 10_000);
                    let shape = RequestShape { client_hash: step % 37, ..RequestShape::default() };
                    let Verdict::Go(ticket) = balancer.decide(now, &shape, &[], &mut scratch) else {
                        panic!("nothing is full")
                    };
                    let decided = (ticket.node().id, ticket.decision().propensity);
                    held.push_back(ticket);
                    if held.len() > 9 {
                        held.pop_front().expect("ten").finish(now, Outcome::Completed { status: 200 });
                    }
                    decided
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(run(3), run(3), "{}", id.name());
    }
}

/// Weighing, drawing and ending an attempt allocate nothing once the buffers have grown.
#[test]
fn a_decision_allocates_nothing_whatever_the_policy() {
    let fleet = (0..100).fold(Fleet::default(), |fleet, index| {
        fleet.with(NodeSpec::new(format!("http://node-{index}"))).expect("free name")
    });
    for id in every_policy() {
        let balancer = Arc::new(Balancer::new(fleet.clone(), id, Clock::manual(), Vec::new()));
        let mut scratch = Scratch::with_seed(1);
        let mut decide = |step: u64| {
            let shape = RequestShape { client_hash: step, ..RequestShape::default() };
            let now = Time::from_micros(step * 1_000);
            let Verdict::Go(mut ticket) = balancer.decide(now, &shape, &[], &mut scratch) else {
                panic!("nothing is full")
            };
            ticket.first_byte(now);
            ticket.finish(now, Outcome::Completed { status: 200 });
        };
        (0..200).for_each(&mut decide);
        let used = allocation_counter::measure(|| (200..400).for_each(&mut decide));
        assert_eq!(used.count_total, 0, "{}", id.name());
    }
}
