//! What it costs that decisions are remembered for people: of the few that are, and of the many that are passed over.
//!
//! A decision is remembered where ten milliseconds have passed since the last one, so the clock of the one loop takes
//! such steps and that of the other small ones. A model is trusted for ten seconds only: every round has its own.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use bellwether::balancer::{Observer, Scratch, Verdict};
use bellwether::clock::Time;
use bellwether::decisions::Decisions;
use bellwether::learn::Knobs;

use crate::fleet;
use crate::subject::{START_MICROS, Subject, subjects};

const ROUNDS: u32 = 9;
/// Decisions of a round: nine seconds of those that are remembered.
const DECISIONS: u64 = 900;
const ROWS: [(u32, &str); 3] = [(8, "least-connections"), (8, "adaptive, plain"), (100, "adaptive, plain")];

/// The best time of a decision in nanoseconds, with so many microseconds between two.
fn measure(subject: &Subject, nodes: u32, remembers: bool, step_micros: u64) -> f64 {
    let rounds = (0..ROUNDS).map(|_| {
        let observers: Vec<Arc<dyn Observer>> = if remembers { vec![Arc::new(Decisions::default())] } else { vec![] };
        let balancer = subject.balancer(&fleet(nodes), observers);
        // An explored decision is always remembered.
        balancer.learned().set_knobs(Knobs { explore: 0.0, ..Knobs::default() });
        let (mut scratch, shape) = (Scratch::with_seed(1), subject.shape());
        let start = Instant::now();
        for step in 0..DECISIONS {
            let now = Time::from_micros(START_MICROS + step * step_micros);
            match balancer.decide(now, &shape, &[], &mut scratch) {
                Verdict::Go(ticket) => drop(black_box(ticket)),
                _ => unreachable!("nothing is full"),
            }
        }
        start.elapsed().as_nanos() as f64 / DECISIONS as f64
    });
    rounds.fold(f64::INFINITY, f64::min)
}

/// The table.
pub(crate) fn print() {
    println!("\n{:<22}{:>7}{:>12}{:>16}{:>16}", "remembering", "nodes", "alone ns", "passed over ns", "remembered ns");
    for (nodes, name) in ROWS {
        let Some(subject) = subjects().find(|subject| subject.name() == name) else { continue };
        let alone = measure(&subject, nodes, false, 1);
        let (passed, remembered) = (measure(&subject, nodes, true, 1), measure(&subject, nodes, true, 10_000));
        println!("{name:<22}{nodes:>7}{alone:>12.0}{passed:>16.0}{remembered:>16.0}");
    }
}
