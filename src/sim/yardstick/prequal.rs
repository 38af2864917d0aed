//! Prequal: a pool of recent probes, the hot ones (many requests in flight) by load, the others by latency.
//!
//! Wydrowski, Kleinberg, Rumble and Archer, "Load is not what you should balance: introducing Prequal" (NSDI 2024).
//! Per request three probes go to random nodes; a probe brings the node's requests in flight (RIF) and the
//! median latency of recent completions that had arrived at about that RIF. A probe is hot if its RIF is above the
//! 2^-0.25 quantile of recent ones; the cold one of least latency wins, or, if all are hot, the one of least RIF. Probes are used
//! at most `b_reuse` times, live for a second, and one per request is removed, the oldest and the worst in turn.
//!
//! Adapted: servers that answer probes do not exist, so that a probe reads this proxy's own count and its own
//! completions, without delay (of several proxies each sees its own share only). Where the pool of 16 is larger than
//! the fleet, the published formula for `b_reuse` has no value and every probe serves once, its lower bound. A node
//! without a completion has latency 0: it must be tried to be known. The paper's sinkhole heuristics are unpublished.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::clock::Time;
use crate::fleet::{Node, PerNode, Resettable};
use crate::node::NodeId;
use crate::outcome::Sample;
use crate::policy::{Context, Policy};
use crate::sim::workload::stream;

const POOL: usize = 16;
const AGE_MAX: Duration = Duration::from_secs(1);
const PROBES_PER_REQUEST: usize = 3;
const REMOVED_PER_REQUEST: f64 = 1.0;
const DELTA: f64 = 1.0;
/// How many recent RIF values the threshold is taken from.
const RIF_WINDOW: usize = 128;
/// Completions remembered per node and RIF.
const COMPLETIONS: usize = 16;
/// All larger RIF values share one memory.
const RIF_MAX: usize = 1_024;

/// Prequal on a proxy's own observations.
#[derive(Debug)]
pub struct Prequal {
    state: Mutex<State>,
    completions: PerNode<Completions>,
}

#[derive(Debug)]
struct State {
    rng: fastrand::Rng,
    pool: VecDeque<Probe>,
    rifs: VecDeque<u32>,
    worst_next: bool,
}

#[derive(Clone, Copy, Debug)]
struct Probe {
    node: NodeId,
    at: Time,
    rif: u32,
    latency_s: f64,
    uses: u32,
}

/// Seconds taken by the last completions of each RIF at arrival. Kept by RIF and not only by age: a node that has
/// become idle must be remembered as it was when idle, not as it was in the crowd that it has just left.
#[derive(Debug, Default)]
struct Completions(Mutex<Vec<VecDeque<f64>>>);

impl Resettable for Completions {
    fn reset(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl Completions {
    fn add(&self, rif: u32, took_s: f64) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let place = (rif as usize).min(RIF_MAX);
        if seen.len() <= place {
            seen.resize_with(place + 1, VecDeque::new);
        }
        seen[place].push_back(took_s);
        if seen[place].len() > COMPLETIONS {
            seen[place].pop_front();
        }
    }

    /// Median of the completions at the nearest RIF that has any.
    fn latency_at(&self, rif: u32) -> f64 {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = seen.iter().enumerate().filter(|(_, took)| !took.is_empty());
        let nearest = known.min_by_key(|(at, _)| at.abs_diff(rif as usize));
        let mut took: Vec<f64> = nearest.map(|(_, took)| took.iter().copied().collect()).unwrap_or_default();
        took.sort_by(f64::total_cmp);
        took.get(took.len() / 2).copied().unwrap_or(0.0)
    }
}

impl Prequal {
    /// Prequal with probes drawn under `seed`.
    pub fn new(seed: u64) -> Prequal {
        let state = State {
            rng: stream(seed, "prequal"),
            pool: VecDeque::with_capacity(POOL + 1),
            rifs: VecDeque::with_capacity(RIF_WINDOW + 1),
            worst_next: false,
        };
        Prequal { state: Mutex::new(state), completions: PerNode::default() }
    }
}

impl State {
    fn probe(&mut self, ctx: &Context<'_>, completions: &PerNode<Completions>) {
        for _ in 0..PROBES_PER_REQUEST {
            let candidate = &ctx.candidates[self.rng.usize(..ctx.candidates.len())];
            let node = ctx.node(candidate);
            let latency_s = completions.of(node).latency_at(candidate.in_flight);
            self.pool.push_back(Probe { node: node.id, at: ctx.now, rif: candidate.in_flight, latency_s, uses: 0 });
            self.rifs.push_back(candidate.in_flight);
            while self.pool.len() > POOL {
                self.pool.pop_front();
            }
            while self.rifs.len() > RIF_WINDOW {
                self.rifs.pop_front();
            }
        }
    }

    /// The RIF above which a probe is hot.
    fn threshold(&self) -> u32 {
        let mut rifs: Vec<u32> = self.rifs.iter().copied().collect();
        rifs.sort_unstable();
        let at = (rifs.len() as f64 * 2.0_f64.powf(-0.25)) as usize;
        rifs.get(at.min(rifs.len().saturating_sub(1))).copied().unwrap_or(0)
    }

    /// Index of the best probe, or of the worst, by the hot-cold lexicographic rule.
    fn extreme(&self, worst: bool) -> Option<usize> {
        let threshold = self.threshold();
        let key = |probe: &Probe| {
            if probe.rif > threshold { (1, f64::from(probe.rif)) } else { (0, probe.latency_s) }
        };
        let order = |a: &(usize, &Probe), b: &(usize, &Probe)| {
            let ((hot_a, a), (hot_b, b)) = (key(a.1), key(b.1));
            hot_a.cmp(&hot_b).then(a.total_cmp(&b))
        };
        let probes = self.pool.iter().enumerate();
        if worst { probes.max_by(order) } else { probes.min_by(order) }.map(|(at, _)| at)
    }

    fn remove_one(&mut self) {
        self.worst_next = !self.worst_next;
        if self.worst_next {
            if let Some(at) = self.extreme(true) {
                self.pool.remove(at);
            }
        } else {
            self.pool.pop_front();
        }
    }

    /// How often a probe may serve, rounded at random as published.
    fn reuse(&mut self, nodes: usize) -> u32 {
        let spare = (1.0 - POOL as f64 / nodes as f64) * PROBES_PER_REQUEST as f64 - REMOVED_PER_REQUEST;
        let reuse = if spare > 0.0 { ((1.0 + DELTA) / spare).max(1.0) } else { 1.0 };
        reuse.floor() as u32 + u32::from(self.rng.f64() < reuse.fract())
    }
}

impl Policy for Prequal {
    fn weigh(&self, ctx: &Context<'_>, out: &mut [f64]) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let place = |id: NodeId| ctx.candidates.iter().position(|candidate| ctx.node(candidate).id == id);
        state.pool.retain(|probe| ctx.now.since(probe.at) <= AGE_MAX && place(probe.node).is_some());
        let best = if state.pool.len() < 2 { None } else { state.extreme(false) };
        match best.and_then(|at| place(state.pool[at].node).map(|candidate| (at, candidate))) {
            None => out.fill(1.0),
            Some((at, candidate)) => {
                out[candidate] = 1.0;
                let reuse = state.reuse(ctx.candidates.len());
                let probe = &mut state.pool[at];
                probe.rif += 1;
                probe.uses += 1;
                if probe.uses >= reuse {
                    state.pool.remove(at);
                }
            }
        }
        state.remove_one();
        // Asynchronous probes: they serve later requests.
        state.probe(ctx, &self.completions);
    }

    fn observe(&self, node: &Node, sample: &Sample) {
        self.completions.of(node).add(sample.in_flight, sample.total.as_secs_f64());
    }
}
