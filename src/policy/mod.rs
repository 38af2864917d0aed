//! How a node is chosen: one trait, one file per policy, one sampler.
//!
//! A policy does not choose; it writes a *probability per candidate*, and [`draw()`] chooses. So every decision has an
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

pub mod adaptive;
pub mod considered;
mod draw;
mod ip_hash;
mod least_connections;
mod pairs;
mod peak_ewma;
mod power_of_two;
mod random;
pub(crate) mod rendezvous;
mod round_robin;
mod session_hash;
#[cfg(test)]
mod tests_registry;
#[cfg(test)]
mod tests_support;
mod weighted_round_robin;

use std::sync::Arc;

use crate::clock::Time;
use crate::fleet::{Fleet, Node};
use crate::learn::Learned;
use crate::outcome::{Sample, uncached};
use crate::request::RequestShape;

pub use draw::draw;
use draw::{least_of, share_minimum};

/// A node that may get the request: up, serving its model, below its limit, not tried before.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// Index into [`Fleet::nodes`].
    pub index: u32,
    /// In flight there when the candidates were gathered.
    pub in_flight: u32,
    /// The operator's weight, greater than 0.
    pub weight: f64,
    /// Tokens at the beginning of the prompt that the node was sent before; at most the prompt.
    pub matched: f32,
    /// Tokens of those that the node is expected to be spared, as they are in its cache; at most what matched.
    pub cached: f32,
}

impl Candidate {
    /// A candidate that was never sent anything like the request.
    pub fn new(index: u32, in_flight: u32, weight: f64) -> Candidate {
        Candidate { index, in_flight, weight, matched: 0.0, cached: 0.0 }
    }

    /// Of a prompt of so many tokens, those that the node is expected to have to read.
    #[inline]
    pub fn uncached(&self, prompt_tokens: u32) -> f64 {
        uncached(prompt_tokens, self.cached)
    }
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
    #[inline]
    pub fn node(&self, candidate: &Candidate) -> &'a Node {
        &self.fleet.nodes()[candidate.index as usize]
    }
}

/// What a policy expects of the attempt that it chose a node for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Expected {
    /// Response time in seconds; NaN for none.
    pub seconds: f64,
    /// Version of the predictor that said so; 0 for none.
    pub version: u32,
}

impl Expected {
    /// The policy does not predict.
    pub const NOTHING: Expected = Expected { seconds: f64::NAN, version: 0 };
}

/// A way to choose among candidates.
pub trait Policy: Send + Sync {
    /// Writes the probability of each candidate into `out`, which has their length and is zero at first.
    ///
    /// The values need not sum to 1 (the sampler normalizes) but must be finite and not negative, with at least one
    /// above zero. Allocates nothing.
    fn weigh(&self, ctx: &Context<'_>, out: &mut [f64]);

    /// [`weigh`](Policy::weigh) for a decision that is only thought of: writes the same and leaves everything as it is.
    /// A policy whose weighing takes a turn must have its own.
    fn peek(&self, ctx: &Context<'_>, out: &mut [f64]) {
        self.weigh(ctx, out);
    }

    /// The candidate `at` was drawn and has started: what is expected of it. For policies that predict.
    fn chosen(&self, ctx: &Context<'_>, at: usize) -> Expected {
        let _ = (ctx, at);
        Expected::NOTHING
    }

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
    /// Makes an instance; policies that route by what is learned read it there.
    make: fn(&Arc<Learned>) -> Arc<dyn Policy>,
}

/// Every policy there is, in the order in which they are listed to people.
pub const REGISTRY: &[Entry] = &[
    Entry {
        name: "round-robin",
        about: "each free node in turn",
        make: |_| Arc::new(round_robin::RoundRobin::default()),
    },
    Entry {
        name: "weighted-round-robin",
        about: "turns in proportion to the weights, evenly spread",
        make: |_| Arc::new(weighted_round_robin::WeightedRoundRobin::default()),
    },
    Entry {
        name: "least-connections",
        about: "fewest (in flight + 1) / weight, ties at random",
        make: |_| Arc::new(least_connections::LeastConnections),
    },
    Entry {
        name: "ip-hash",
        about: "the same node for a client's address, in proportion to the weights",
        make: |_| Arc::new(ip_hash::IpHash),
    },
    Entry {
        name: "session-hash",
        about: "the same node for a conversation as session_key names it, in proportion to the weights",
        make: |_| Arc::new(session_hash::SessionHash),
    },
    Entry { name: "random", about: "at random in proportion to the weights", make: |_| Arc::new(random::Random) },
    Entry {
        name: "power-of-two",
        about: "the less loaded of two random nodes",
        make: |_| Arc::new(power_of_two::PowerOfTwo),
    },
    Entry {
        name: "peak-ewma",
        about: "the less of two random nodes by recent response time * (in flight + 1), as Linkerd and Finagle",
        make: |_| Arc::new(peak_ewma::PeakEwma::choice_of_two()),
    },
    Entry {
        name: "peak-ewma-scan",
        about: "the same over all nodes instead of two: a stronger yardstick, but proxies may run to one node together",
        make: |_| Arc::new(peak_ewma::PeakEwma::scan()),
    },
    Entry {
        name: "adaptive",
        about: "least marginal cost by each node's learned response times; least-connections until enough is learned",
        make: |learned| Arc::new(adaptive::Adaptive::new(Arc::clone(learned))),
    },
];

/// The policy of a proxy whose operator names none.
pub const DEFAULT: &str = ADAPTIVE;

/// Who routes in its place while there is nothing to trust, unless the operator names another.
pub const FALLBACK: &str = "least-connections";

/// The policy that routes by what is learned.
pub const ADAPTIVE: &str = "adaptive";

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

    /// Whether it routes by what is learned.
    pub fn is_learned(self) -> bool {
        self.name() == ADAPTIVE
    }

    /// A new instance that shares what it learns with nobody.
    pub fn make(self) -> Arc<dyn Policy> {
        self.make_with(&Arc::default())
    }

    /// A new instance that reads what is learned from `learned`.
    pub fn make_with(self, learned: &Arc<Learned>) -> Arc<dyn Policy> {
        (self.entry().make)(learned)
    }
}

/// All names, for messages.
pub fn names() -> Vec<&'static str> {
    REGISTRY.iter().map(|entry| entry.name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_the_default_exists() {
        for (at, entry) in REGISTRY.iter().enumerate() {
            assert_eq!(PolicyId::named(entry.name), Some(PolicyId(at as u8)));
        }
        assert!([DEFAULT, ADAPTIVE, FALLBACK].iter().all(|name| PolicyId::named(name).is_some()));
    }
}
