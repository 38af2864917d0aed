//! How a node is chosen: one trait, one file per policy, one sampler.
//!
//! A policy does not choose; it writes a *probability per candidate*, and [`draw`] chooses. So every decision has an
//! exact propensity, even a deterministic one (it is 1), and what a policy would have done can be asked without doing
//! it. A policy never draws, logs or reads a clock; what state it has is atomics of its own, so that one instance
//! serves all threads without a lock.
//!
//! # To add a policy
//! 1. Write `src/policy/NAME.rs`: a type that implements [`Policy`], its formula and source in the module docs.
//! 2. Add `mod NAME;` here and a line in [`REGISTRY`].
//! 3. State its promise as a property test beside the code.
//! 4. Give it a row in the README's table: when to use it, when not.
//! 5. `cargo test policy` also runs the tests that every policy must pass.

mod least_connections;
mod round_robin;
#[cfg(test)]
mod tests_support;

use std::sync::Arc;

use crate::clock::Time;
use crate::fleet::{Fleet, Node};
use crate::outcome::Sample;
use crate::request::RequestShape;

/// A node that may get the request: up, serving its model, below its limit, not tried before.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// Index into [`Fleet::nodes`].
    pub index: u32,
    /// In flight there when the candidates were gathered.
    pub in_flight: u32,
    /// The operator's weight, greater than 0.
    pub weight: f64,
}

/// What a policy may look at.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// The time of the decision.
    pub now: Time,
    /// The request.
    pub shape: &'a RequestShape,
    /// The view of the fleet that the candidates index into.
    pub fleet: &'a Fleet,
    /// Never empty, in the order of the fleet's nodes.
    pub candidates: &'a [Candidate],
}

impl<'a> Context<'a> {
    /// The node behind a candidate.
    pub fn node(&self, candidate: &Candidate) -> &'a Node {
        &self.fleet.nodes()[candidate.index as usize]
    }
}

/// A way to choose among candidates.
pub trait Policy: Send + Sync {
    /// Writes the probability of each candidate into `out`, which has their length and is zero at first.
    ///
    /// The values need not sum to 1 (the sampler normalizes) but must be finite and not negative, with at least one
    /// above zero. Allocates nothing.
    fn weigh(&self, ctx: &Context<'_>, out: &mut [f64]);

    /// An attempt ended, wherever it was decided. For policies that learn from outcomes.
    fn observe(&self, node: &Node, sample: &Sample) {
        let _ = (node, sample);
    }
}

impl std::fmt::Debug for dyn Policy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Policy")
    }
}

/// A policy's place in [`REGISTRY`]: what samples and metrics carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PolicyId(pub u8);

/// A registered policy.
#[derive(Debug)]
pub struct Entry {
    /// What `--policy`, metrics and the admin API call it.
    pub name: &'static str,
    /// One line for `--help` and the admin API.
    pub about: &'static str,
    make: fn() -> Arc<dyn Policy>,
}

/// Every policy there is, in the order in which they are listed to people.
pub const REGISTRY: &[Entry] = &[
    Entry {
        name: "round-robin",
        about: "each free node in turn",
        make: || Arc::new(round_robin::RoundRobin::default()),
    },
    Entry {
        name: "least-connections",
        about: "fewest (in flight + 1) / weight, ties at random",
        make: || Arc::new(least_connections::LeastConnections),
    },
];

/// The policy of a proxy whose operator names none.
pub const DEFAULT: &str = "least-connections";

impl PolicyId {
    /// The id of every policy outside [`REGISTRY`]: the simulator's yardsticks.
    pub const UNLISTED: PolicyId = PolicyId(u8::MAX);

    /// The policy of that name.
    pub fn named(name: &str) -> Option<PolicyId> {
        REGISTRY.iter().position(|entry| entry.name == name).and_then(|at| u8::try_from(at).ok()).map(PolicyId)
    }

    /// Its entry.
    pub fn entry(self) -> &'static Entry {
        &REGISTRY[usize::from(self.0) % REGISTRY.len()]
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        if self == PolicyId::UNLISTED { "unlisted" } else { self.entry().name }
    }

    /// A new instance.
    pub fn make(self) -> Arc<dyn Policy> {
        (self.entry().make)()
    }
}

/// All names, for messages.
pub fn names() -> Vec<&'static str> {
    REGISTRY.iter().map(|entry| entry.name).collect()
}

/// Writes 1 for every index of least `cost` into `out` and 0 for the others: an argmin whose ties the sampler splits.
///
/// A cost that is not a number counts as infinite.
fn share_minimum(out: &mut [f64], cost: impl Fn(usize) -> f64) {
    let mut least = f64::INFINITY;
    for at in 0..out.len() {
        let cost = cost(at);
        if cost < least {
            out[..at].fill(0.0);
            least = cost;
            out[at] = 1.0;
        } else {
            out[at] = f64::from(u8::from(cost == least));
        }
    }
}

/// Draws an index with the probabilities that `weights` are proportional to; with it the exact probability.
///
/// Weights that are not a distribution (all zero, negative, not finite) count as equal: a defect in a policy must not
/// stop routing. `None` only for an empty slice.
pub fn draw(weights: &[f64], rng: &mut fastrand::Rng) -> Option<(usize, f64)> {
    let sum: f64 = weights.iter().sum();
    let sound = sum.is_finite() && sum > 0.0 && weights.iter().all(|w| *w >= 0.0);
    if !sound {
        return (!weights.is_empty()).then(|| (rng.usize(..weights.len()), 1.0 / weights.len() as f64));
    }
    let mut rest = rng.f64() * sum;
    let mut last = None;
    for (index, weight) in weights.iter().enumerate() {
        if *weight > 0.0 {
            last = Some((index, weight / sum));
            if rest < *weight {
                break;
            }
            rest -= weight;
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_draw_follows_the_weights_and_tells_the_exact_propensity() {
        let mut rng = fastrand::Rng::with_seed(7);
        let mut seen = [0u32; 3];
        for _ in 0..40_000 {
            let (index, propensity) = draw(&[1.0, 0.0, 3.0], &mut rng).expect("not empty");
            assert_eq!(propensity, [0.25, f64::NAN, 0.75][index]);
            seen[index] += 1;
        }
        assert_eq!(seen[1], 0);
        assert!((f64::from(seen[0]) / 40_000.0 - 0.25).abs() < 0.01, "{seen:?}");
    }

    #[test]
    fn a_broken_distribution_does_not_stop_routing() {
        let mut rng = fastrand::Rng::with_seed(7);
        for weights in [[0.0, 0.0], [f64::NAN, 1.0], [-1.0, 2.0], [f64::INFINITY, 1.0]] {
            let (index, propensity) = draw(&weights, &mut rng).expect("not empty");
            assert!(index < 2 && propensity == 0.5, "{weights:?}");
        }
        assert_eq!(draw(&[], &mut rng), None);
    }

    #[test]
    fn names_are_unique_and_the_default_exists() {
        for (at, entry) in REGISTRY.iter().enumerate() {
            assert_eq!(PolicyId::named(entry.name), Some(PolicyId(at as u8)));
        }
        assert!(PolicyId::named(DEFAULT).is_some());
    }
}
