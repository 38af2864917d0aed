//! The meters of one node: handles made once, touched on the request path, thrown away with the node.
//!
//! A node's meters are found by its slot, without a map or a lock. They carry the node's identity because the last
//! words of a removed node may arrive after its slot has a new owner; each then makes its own instead of counting for
//! the other.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwapOption;
use metrics::{Counter, Gauge};

use super::Scrape;
use super::codes::CodeCounters;
use super::histogram::{self, Histogram};
use super::prefix::PrefixCounters;
use super::series::{self, Registry};
use super::window::{Quantiles, Sum, Window};
use crate::clock::Time;
use crate::fleet::{Cause, Change, Node, PerNode, Resettable, State};
use crate::node::NodeId;
use crate::outcome::{Censor, Failure, Outcome, Sample};
use crate::policy::{PolicyId, REGISTRY};

/// How attempts end, as label values of `bellwether_attempts_total`.
const OUTCOMES: [&str; 12] = [
    "completed",
    "full",
    "failed_connect",
    "failed_broken",
    "failed_broken_body",
    "failed_timeout",
    "failed_protocol",
    "failed_status",
    "client_gone",
    "client_error",
    "dropped",
    "hedged",
];

fn place(outcome: &Outcome) -> usize {
    match outcome {
        Outcome::Completed { .. } => 0,
        Outcome::Full { .. } => 1,
        Outcome::Failed(Failure::Connect) => 2,
        Outcome::Failed(Failure::Broken) => 3,
        Outcome::Failed(Failure::BrokenBody) => 4,
        Outcome::Failed(Failure::Timeout) => 5,
        Outcome::Failed(Failure::Protocol) => 6,
        Outcome::Failed(Failure::Status(_)) => 7,
        Outcome::Censored(Censor::ClientGone) => 8,
        Outcome::Censored(Censor::ClientError) => 9,
        Outcome::Censored(Censor::Dropped) => 10,
        Outcome::Censored(Censor::Hedged) => 11,
    }
}

/// Attempts of a node since it came, by how they ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// The answer reached its end.
    pub completed: u64,
    /// The node said that it had no room.
    pub full: u64,
    /// The node did not do its job.
    pub failed: u64,
    /// Nobody can say how it would have ended.
    pub censored: u64,
}

/// How a node has been doing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Report {
    /// Attempts since the node came.
    pub counts: Counts,
    /// Times that it was ejected since it came.
    pub ejections: u64,
    /// Time to the first byte of attempts completed in the last minute.
    pub ttfb: Option<Quantiles>,
    /// Whole time of attempts completed in the last minute.
    pub total: Option<Quantiles>,
}

/// How the fleet as a whole has been doing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct FleetReport {
    /// Requests answered since the start: by nodes, also those that have left since, and by the proxy itself.
    pub answers: u64,
    /// Of those, with a status of 500 or above.
    pub errors: u64,
    /// Time to the first byte of attempts completed in the last minute.
    pub ttfb: Option<Quantiles>,
    /// Whole time of attempts completed in the last minute.
    pub total: Option<Quantiles>,
}

/// Answers of the fleet and the proxy together. A sum over nodes would fall when one of them leaves, and whoever takes
/// differences would see traffic stop. On a cache line of its own: all threads that carry requests write it.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(super) struct Answers {
    answers: AtomicU64,
    errors: AtomicU64,
}

impl Answers {
    pub(super) fn add(&self, status: u16) {
        self.answers.fetch_add(1, Ordering::Relaxed);
        if status >= 500 {
            self.errors.fetch_add(1, Ordering::Release);
        }
    }
}

/// A [`FleetReport`] that is being added up.
#[derive(Default)]
pub(super) struct FleetSum {
    pub(super) ttfb: Sum,
    pub(super) total: Sum,
}

impl FleetSum {
    pub(super) fn report(&self, counted: &Answers) -> FleetReport {
        // In this order, so that there are never more errors than answers.
        let errors = counted.errors.load(Ordering::Acquire);
        let answers = counted.answers.load(Ordering::Relaxed);
        FleetReport { answers, errors, ttfb: self.ttfb.quantiles(), total: self.total.quantiles() }
    }
}

/// The condition of a node as gauges; computed from the ledger at scrape time, never kept up to date in between.
struct Gauges {
    in_flight: Gauge,
    waiting: Gauge,
    connections: Gauge,
    up: Gauge,
    weight: Gauge,
    limit: Gauge,
    tokens: Gauge,
    states: [(State, Gauge); State::ALL.len()],
}

/// The handles of one node.
pub(super) struct Meters {
    id: NodeId,
    registry: Registry,
    codes: CodeCounters,
    outcomes: [Counter; OUTCOMES.len()],
    decisions: Vec<Counter>,
    request_seconds: Histogram,
    ttfb_seconds: Histogram,
    output_tokens: Counter,
    prompt_tokens: Counter,
    prefix: PrefixCounters,
    rose: Counter,
    fell: Counter,
    ejections: [Counter; Cause::ALL.len()],
    gauges: Gauges,
    counts: [AtomicU64; OUTCOMES.len()],
    ejected: AtomicU64,
    total: Window,
    ttfb: Window,
}

impl Meters {
    fn new(node: &Node) -> Meters {
        let registry = Registry::new(Some(&node.spec.name));
        let state = |state: State| (state, registry.gauge_with(series::NODE_STATE, "state", state.word()));
        Meters {
            id: node.id,
            codes: CodeCounters::new(|code| registry.counter_with(series::REQUESTS, "code", code)),
            outcomes: OUTCOMES.map(|outcome| registry.counter_with(series::ATTEMPTS, "outcome", outcome)),
            decisions: REGISTRY
                .iter()
                .map(|policy| registry.counter_with(series::DECISIONS, "policy", policy.name))
                .collect(),
            request_seconds: Histogram::new(series::REQUEST_SECONDS, histogram::LONG),
            ttfb_seconds: Histogram::new(series::TTFB_SECONDS, histogram::LONG),
            output_tokens: registry.counter(series::OUTPUT_TOKENS),
            prompt_tokens: registry.counter(series::PROMPT_TOKENS),
            prefix: PrefixCounters::new(&registry),
            rose: registry.counter_with(series::HEALTH_CHANGES, "to", "up"),
            fell: registry.counter_with(series::HEALTH_CHANGES, "to", "down"),
            ejections: Cause::ALL.map(|cause| registry.counter_with(series::EJECTIONS, "cause", cause.word())),
            gauges: Gauges {
                in_flight: registry.gauge(series::IN_FLIGHT),
                waiting: registry.gauge(series::WAITING),
                connections: registry.gauge(series::NODE_CONNECTIONS),
                up: registry.gauge(series::NODE_UP),
                weight: registry.gauge(series::NODE_WEIGHT),
                limit: registry.gauge(series::NODE_LIMIT),
                tokens: registry.gauge(series::NODE_TOKENS),
                states: State::ALL.map(state),
            },
            counts: [const { AtomicU64::new(0) }; OUTCOMES.len()],
            ejected: AtomicU64::new(0),
            total: Window::default(),
            ttfb: Window::default(),
            registry,
        }
    }

    pub(super) fn answered(&self, status: u16) {
        self.codes.of(status, |code| self.registry.counter_with(series::REQUESTS, "code", code)).increment(1);
    }

    pub(super) fn decided(&self, policy: PolicyId) {
        if let Some(counter) = self.decisions.get(usize::from(policy.0)) {
            counter.increment(1);
        }
    }

    pub(super) fn finished(&self, sample: &Sample) {
        let place = place(&sample.outcome);
        self.counts[place].fetch_add(1, Ordering::Relaxed);
        if let Some(tokens) = sample.output_tokens {
            self.output_tokens.increment(u64::from(tokens));
        }
        self.prefix.finished(sample);
        if let Some(tokens) = sample.usage_prompt_tokens {
            self.prompt_tokens.increment(u64::from(tokens));
        }
        // A tunnel (101) lasts as long as its ends like, which says nothing about the node.
        if matches!(sample.outcome, Outcome::Completed { status: 200.. }) {
            let now = sample.started.after(sample.total);
            self.request_seconds.record(sample.total);
            self.total.record(now, sample.total);
            if let Some(ttfb) = sample.ttfb {
                self.ttfb_seconds.record(ttfb);
                self.ttfb.record(now, ttfb);
            }
        }
    }

    pub(super) fn health_changed(&self, change: Change) {
        match change {
            Change::Rose => self.rose.increment(1),
            Change::Fell => self.fell.increment(1),
            Change::Ejected { cause, .. } => {
                self.ejected.fetch_add(1, Ordering::Relaxed);
                let at = Cause::ALL.iter().position(|known| *known == cause);
                at.into_iter().for_each(|at| self.ejections[at].increment(1));
            }
            Change::Readmitted => {}
        }
    }

    pub(super) fn render(&self, node: &Node, scrape: &Scrape<'_>) -> String {
        let present = node.live.health.state(scrape.now);
        let gauges = &self.gauges;
        for (counter, count) in self.outcomes.iter().zip(&self.counts) {
            counter.absolute(count.load(Ordering::Relaxed));
        }
        gauges.in_flight.set(f64::from(node.live.ledger.in_flight()));
        gauges.waiting.set(f64::from(node.live.ledger.waiting()));
        gauges.connections.set((scrape.node_connections)(node) as f64);
        gauges.up.set(f64::from(u8::from(node.live.health.is_up())));
        gauges.weight.set(node.spec.weight);
        gauges.tokens.set(node.live.ledger.tokens() as f64);
        gauges.limit.set(f64::from(node.limit()));
        for (state, gauge) in &gauges.states {
            gauge.set(f64::from(u8::from(*state == present)));
        }
        let mut text = self.registry.render();
        self.request_seconds.render(Some(&node.spec.name), &mut text);
        self.ttfb_seconds.render(Some(&node.spec.name), &mut text);
        text
    }

    pub(super) fn report(&self, now: Time) -> Report {
        let sum = |places: std::ops::Range<usize>| places.map(|at| self.counts[at].load(Ordering::Relaxed)).sum();
        let counts =
            Counts { completed: sum(0..1), full: sum(1..2), failed: sum(2..8), censored: sum(8..OUTCOMES.len()) };
        let ejections = self.ejected.load(Ordering::Relaxed);
        Report { counts, ejections, ttfb: self.ttfb.quantiles(now), total: self.total.quantiles(now) }
    }

    pub(super) fn add_to(&self, fleet: &mut FleetSum, now: Time) {
        fleet.ttfb.add(&self.ttfb, now);
        fleet.total.add(&self.total, now);
    }
}

/// Where a node's meters are kept: those of the first node in a slot for good, as most fleets never have a second one
/// there and a request comes here three times; those of later ones where they can be swapped.
#[derive(Default)]
struct Place {
    first: OnceLock<Box<Meters>>,
    later: ArcSwapOption<Meters>,
}

impl Resettable for Place {
    fn reset(&self) {
        self.later.store(None);
    }
}

/// The meters of all nodes. Their number is bounded by twice the largest fleet that there was: slots are reused.
#[derive(Default)]
pub(super) struct AllMeters(PerNode<Place>);

impl AllMeters {
    /// Calls `with` with the meters of `node`, made on first sight.
    pub(super) fn of<R>(&self, node: &Node, with: impl FnOnce(&Meters) -> R) -> R {
        let place = self.0.of(node);
        let first = place.first.get_or_init(|| Box::new(Meters::new(node)));
        if first.id == node.id {
            return with(first);
        }
        let place = &place.later;
        if let Some(meters) = place.load().as_ref().filter(|meters| meters.id == node.id) {
            return with(meters);
        }
        let made = Arc::new(Meters::new(node));
        // Two threads may come here at once for a new node: the first one's meters stay, so that no count is lost.
        let seen = place.load();
        let stale = seen.as_ref().filter(|meters| meters.id != node.id);
        let expected = stale.cloned();
        let before = place.compare_and_swap(&expected, Some(Arc::clone(&made)));
        match before.as_ref().filter(|meters| meters.id == node.id) {
            Some(theirs) => with(theirs),
            None => with(&made),
        }
    }
}
