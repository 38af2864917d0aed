//! What a decision costs: nanoseconds and allocations, for every policy over 8, 100 and 1,000 nodes.
//!
//! `cargo bench --bench decision` prints two figures per policy and fleet: `decide`, a decision and the end of its
//! attempt through the real balancer (candidates, weighing, draw, ledger, ticket), and `weigh`, the policy alone. The
//! targets: 0.5 us for 8 nodes, 3 us for 100, 25 us for 1,000, and no allocation. A loop of our own rather than a
//! framework: the figure wanted is the best of many short rounds (on a shared machine the mean measures the neighbours),
//! next to the count of allocations of the same loop. A word on the command line selects policies that contain it.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use bellwether::balancer::{Balancer, Scratch, Verdict};
use bellwether::clock::{Clock, Time};
use bellwether::fleet::Fleet;
use bellwether::node::NodeSpec;
use bellwether::outcome::Outcome;
use bellwether::policy::{Candidate, Context, PolicyId, REGISTRY};
use bellwether::request::RequestShape;

/// Nodes and the target for one decision in nanoseconds.
const FLEETS: [(u32, f64); 3] = [(8, 500.0), (100, 3_000.0), (1_000, 25_000.0)];
const ROUNDS: u32 = 60;
/// Time of one round in nanoseconds, about.
const ROUND_NS: f64 = 2e6;
const DONE: Outcome = Outcome::Completed { status: 200 };

fn fleet(nodes: u32) -> Fleet {
    (0..nodes).fold(Fleet::default(), |fleet, index| {
        let weight = f64::from(1 + index % 4);
        fleet.with(NodeSpec { weight, ..NodeSpec::new(format!("http://node-{index}:8000")) }).expect("names differ")
    })
}

/// The best time of one call in nanoseconds, and allocations per call.
fn measure(mut call: impl FnMut(u64)) -> (f64, f64) {
    let mut step = 0;
    let mut run = |calls: u64| {
        let start = Instant::now();
        for _ in 0..calls {
            step += 1;
            call(step);
        }
        start.elapsed().as_nanos() as f64 / calls as f64
    };
    let rough = run(2_000);
    let calls = (ROUND_NS / rough).ceil().max(10.0) as u64;
    let best = (0..ROUNDS).map(|_| run(calls)).fold(f64::INFINITY, f64::min);
    let used = allocation_counter::measure(|| {
        run(calls);
    });
    (best, used.count_total as f64 / calls as f64)
}

/// A decision and the end of its attempt, with two attempts per node in flight on average.
fn decide(fleet: &Fleet, policy: PolicyId) -> (f64, f64) {
    let balancer = Arc::new(Balancer::new(fleet.clone(), policy, Clock::manual(), Vec::new()));
    let mut scratch = Scratch::with_seed(1);
    let mut shape = RequestShape { prompt_tokens: 100, ..RequestShape::default() };
    let mut decide = |step: u64| {
        shape.client_hash = step;
        match balancer.decide(Time::from_micros(step * 50), &shape, &[], &mut scratch) {
            Verdict::Go(ticket) => ticket,
            _ => unreachable!("nothing is full"),
        }
    };
    let in_flight = 2 * fleet.nodes().len() as u64;
    let mut held: Vec<_> = (0..in_flight).map(|step| Some(decide(step))).collect();
    measure(|step| {
        let ticket = decide(in_flight + step);
        let place = (step % in_flight) as usize;
        if let Some(mut ended) = held[place].replace(ticket) {
            let now = Time::from_micros((in_flight + step) * 50);
            ended.first_byte(now);
            black_box(ended.finish(now, DONE));
        }
    })
}

/// The policy alone, over loads that differ and have been served for a while.
fn weigh(fleet: &Fleet, policy: PolicyId) -> (f64, f64) {
    let balancer = Arc::new(Balancer::new(fleet.clone(), policy, Clock::manual(), Vec::new()));
    let policy = policy.make();
    let mut scratch = Scratch::with_seed(1);
    let mut shape = RequestShape::default();
    for step in 0..10 * fleet.nodes().len() as u64 {
        let now = Time::from_micros(step * 50);
        if let Verdict::Go(ticket) = balancer.decide(now, &shape, &[], &mut scratch) {
            let node = Arc::clone(ticket.node());
            policy.observe(&node, &ticket.finish(Time::from_micros(step * 57), DONE));
        }
    }
    let mut rng = fastrand::Rng::with_seed(2);
    let candidates: Vec<Candidate> = fleet
        .nodes()
        .iter()
        .zip(0..)
        .map(|(node, index)| Candidate { index, in_flight: rng.u32(0..64), weight: node.spec.weight })
        .collect();
    let mut out = vec![0.0; candidates.len()];
    measure(|step| {
        shape.client_hash = step;
        out.fill(0.0);
        let now = Time::from_micros(1_000_000 + step);
        policy.weigh(&Context { now, shape: &shape, fleet, candidates: &candidates }, &mut out);
        black_box(&mut out);
    })
}

fn main() {
    let wanted = std::env::args().skip(1).find(|argument| !argument.starts_with("--")).unwrap_or_default();
    println!(
        "{:<22}{:>7}{:>12}{:>12}{:>12}{:>14}",
        "policy", "nodes", "decide ns", "weigh ns", "target ns", "allocations"
    );
    for (nodes, target_ns) in FLEETS {
        let fleet = fleet(nodes);
        for entry in REGISTRY.iter().filter(|entry| entry.name.contains(&wanted)) {
            let Some(policy) = PolicyId::named(entry.name) else { continue };
            let (decide_ns, decide_allocations) = decide(&fleet, policy);
            let (weigh_ns, weigh_allocations) = weigh(&fleet, policy);
            let verdict = if decide_ns > target_ns { "  MISSED" } else { "" };
            println!(
                "{:<22}{nodes:>7}{decide_ns:>12.0}{weigh_ns:>12.0}{target_ns:>12.0}{:>14.3}{verdict}",
                entry.name,
                decide_allocations + weigh_allocations,
            );
        }
    }
}
