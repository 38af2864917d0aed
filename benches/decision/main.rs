//! What the core costs: decisions of every policy over 8, 100 and 1,000 nodes, fits, and remembered decisions.
//!
//! `cargo bench --bench decision` prints two figures per policy and fleet: `decide`, a decision and the end of its
//! attempt through the real balancer (candidates, weighing, draw, ledger, ticket), and `weigh`, the policy alone. The
//! targets: 0.5 us for 8 nodes, 3 us for 100, 25 us for 1,000, `adaptive` at 8 nodes at most 0.3 us above
//! least-connections, and no allocation. A loop of our own rather than a framework: the figure wanted is the best of
//! many short rounds (on a shared machine the mean measures the neighbours), next to the count of allocations of the
//! same loop. `--instructions` counts those of a decision under valgrind instead, which repeat where times do not.
//! A word on the command line selects rows that contain it; `fit`, `remember` and `prefix` are the other parts.

mod fit;
mod instructions;
mod prefix;
mod remember;
mod subject;

use std::time::Instant;

use bellwether::fleet::Fleet;
use bellwether::node::NodeSpec;

use self::subject::{Subject, subjects};

/// Nodes and the target for one decision in nanoseconds.
const FLEETS: [(u32, f64); 3] = [(8, 500.0), (100, 3_000.0), (1_000, 25_000.0)];
/// What the learned policy may cost over least-connections with 8 nodes, in nanoseconds.
const LEARNED_OVER_CLASSIC_NS: f64 = 300.0;
const ROUNDS: u32 = 60;
/// Time of one round in nanoseconds, about.
const ROUND_NS: f64 = 2e6;

pub(crate) fn fleet(nodes: u32) -> Fleet {
    (0..nodes).fold(Fleet::default(), |fleet, index| {
        let weight = f64::from(1 + index % 4);
        fleet.with(NodeSpec { weight, ..NodeSpec::new(format!("http://node-{index}:8000")) }).expect("names differ")
    })
}

/// The best time of one call in nanoseconds, and allocations per call.
pub(crate) fn measure(mut call: impl FnMut()) -> (f64, f64) {
    let mut run = |calls: u64| {
        let start = Instant::now();
        (0..calls).for_each(|_| call());
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

fn print_decisions(wanted: &str) {
    println!(
        "{:<22}{:>7}{:>12}{:>12}{:>12}{:>14}",
        "policy", "nodes", "decide ns", "weigh ns", "target ns", "allocations"
    );
    for (nodes, target_ns) in FLEETS {
        let fleet = fleet(nodes);
        let mut classic_ns = None;
        for subject in subjects().filter(|subject| subject.name().contains(wanted)) {
            let Subject { policy, taught } = subject;
            let (decide_ns, decide_allocations) = subject.decide(&fleet, |call| measure(call));
            let (weigh_ns, weigh_allocations) = subject.weigh(&fleet, |call| measure(call));
            if policy.name() == "least-connections" {
                classic_ns = Some(decide_ns);
            }
            let most_ns = match classic_ns {
                Some(classic_ns) if taught.is_some() && nodes == 8 => classic_ns + LEARNED_OVER_CLASSIC_NS,
                _ => target_ns,
            };
            let verdict = if decide_ns > most_ns { "  MISSED" } else { "" };
            println!(
                "{:<22}{nodes:>7}{decide_ns:>12.0}{weigh_ns:>12.0}{most_ns:>12.0}{:>14.3}{verdict}",
                subject.name(),
                decide_allocations + weigh_allocations,
            );
        }
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [mode, name, nodes, calls] = arguments.as_slice()
        && mode == instructions::MODE
    {
        return instructions::run(name, nodes, calls);
    }
    let wanted = arguments.iter().find(|argument| !argument.starts_with("--")).map_or("", String::as_str);
    if arguments.iter().any(|argument| argument == "--instructions") {
        return instructions::print(wanted);
    }
    match wanted {
        "fit" => fit::print(),
        "remember" => remember::print(),
        "prefix" => prefix::print(),
        "" => {
            print_decisions(wanted);
            remember::print();
            prefix::print();
            fit::print();
        }
        _ => print_decisions(wanted),
    }
}
