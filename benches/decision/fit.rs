//! How long a fit takes: the trainer's work twice a second, off the request path.
//!
//! The target is 50 ms over 64 nodes with evidence of all four targets.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bellwether::balancer::{Balancer, Scratch, Verdict};
use bellwether::clock::{Clock, Time};
use bellwether::learn::Learner;
use bellwether::outcome::{Outcome, Sample};
use bellwether::policy::{FALLBACK, PolicyId};
use bellwether::request::RequestShape;

use crate::fleet;

const FLEETS: [u32; 3] = [8, 64, 256];
const TARGET_NODES: u32 = 64;
const TARGET: Duration = Duration::from_millis(50);
const FITS: u32 = 40;
const ANSWERS: u32 = 10;

/// The sample of an attempt, to make others of.
fn sample(fleet: &bellwether::fleet::Fleet) -> Sample {
    let policy = PolicyId::named(FALLBACK).expect("registered");
    let balancer = Arc::new(Balancer::new(fleet.clone(), policy, Clock::manual(), Vec::new()));
    let shape = RequestShape::default();
    match balancer.decide(Time::ZERO, &shape, &[], &mut Scratch::with_seed(1)) {
        Verdict::Go(ticket) => ticket.finish(Time::from_micros(1), Outcome::Completed { status: 200 }),
        _ => unreachable!("nothing is full"),
    }
}

/// The median and the longest fit over so many nodes.
fn measure(nodes: u32) -> (Duration, Duration) {
    let fleet = fleet(nodes);
    let like = sample(&fleet);
    let (mut learner, mut rng) = (Learner::new(Arc::default()), fastrand::Rng::with_seed(12));
    let mut took = Vec::new();
    for fit in 0..FITS {
        let now = Time::from_micros(u64::from(fit) * 500_000);
        for node in fleet.nodes() {
            let speed = 1.0 + f64::from(node.slot % 4);
            for answer in 0..ANSWERS {
                let (n, tokens) = (rng.u32(1..60), rng.u32(1..800));
                let gap_s = speed * (0.01 + 0.001 * f64::from(n));
                learner.gaps(now, node, f64::from(n), 1, n, gap_s * 20.0, 20);
                let sample = Sample {
                    node: node.id,
                    slot: node.slot,
                    streaming: answer % 3 == 0,
                    events: tokens,
                    prompt_tokens: rng.u32(1..5_000),
                    output_tokens: (answer % 3 == 1).then_some(tokens),
                    in_flight: n - 1,
                    mean_in_flight: f64::from(n),
                    ttfb: Some(Duration::from_secs_f64(0.1 * speed)),
                    total: Duration::from_secs_f64(0.1 * speed + gap_s * f64::from(tokens)),
                    ..like
                };
                learner.observe(now, &sample).expect("a label");
            }
        }
        let start = Instant::now();
        learner.refit(now);
        took.push(start.elapsed());
    }
    took.sort_unstable();
    (took[took.len() / 2], took[took.len() - 1])
}

/// The table.
pub(crate) fn print() {
    println!("\n{:<22}{:>7}{:>12}{:>12}{:>12}", "fit of all targets", "nodes", "median ms", "worst ms", "target ms");
    for nodes in FLEETS {
        let (median, worst) = measure(nodes);
        let millis = |time: Duration| time.as_secs_f64() * 1e3;
        let target = if nodes == TARGET_NODES { format!("{:.0}", millis(TARGET)) } else { "-".to_owned() };
        let verdict = if nodes == TARGET_NODES && worst > TARGET { "  MISSED" } else { "" };
        println!("{:<22}{nodes:>7}{:>12.2}{:>12.2}{target:>12}{verdict}", "", millis(median), millis(worst));
    }
}
