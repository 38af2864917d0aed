//! One coordinator of a request's life: decide, first byte, events, finish.
//!
//! The balancer owns the view of the fleet and the active policy, both swapped whole, and hands out [`Ticket`]s. A
//! ticket is an attempt in flight: it counts in the node's ledger from the decision until it is finished or dropped,
//! exactly once, whatever happens in between. Everything that wants to know of attempts (metrics, policies that learn,
//! the sample store) hears of them here as an [`Observer`], not in the data path.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::clock::{Clock, Time};
use crate::fleet::{Before, Change, Fleet, FleetError, Node, State, Thresholds};
use crate::node::NodeId;
use crate::outcome::{Censor, Outcome, Sample};
use crate::policy::{Candidate, Context, Policy, PolicyId, draw};
use crate::request::RequestShape;

/// How often a decision is made anew because another thread took the last place at the chosen node in between.
///
/// Each such race means that somebody else made progress; after this many the nodes are as good as full.
const RACES_MAX: u32 = 32;

/// How long a refused client should wait when nobody knows better.
const RETRY_AFTER_DEFAULT: Duration = Duration::from_secs(1);

/// Somebody who hears of every attempt. Called on the request path: must be quick and must not block.
pub trait Observer: Send + Sync {
    /// An attempt starts on `node`, chosen by `policy`.
    fn started(&self, node: &Node, policy: PolicyId) {
        let _ = (node, policy);
    }

    /// An attempt ended. Called exactly once for each.
    fn finished(&self, node: &Node, sample: &Sample) {
        let _ = (node, sample);
    }

    /// A node rose or fell.
    fn health_changed(&self, node: &Node, change: Change) {
        let _ = (node, change);
    }
}

/// The buffers of a decision, reused so that it allocates nothing, and its source of randomness.
#[derive(Debug)]
pub struct Scratch {
    candidates: Vec<Candidate>,
    weights: Vec<f64>,
    rng: fastrand::Rng,
}

impl Scratch {
    /// Buffers with a generator of that seed.
    pub fn with_seed(seed: u64) -> Scratch {
        Scratch { candidates: Vec::new(), weights: Vec::new(), rng: fastrand::Rng::with_seed(seed) }
    }
}

/// What was decided for one attempt.
#[derive(Clone, Debug)]
pub struct Decision {
    /// Where it goes.
    pub node: Arc<Node>,
    /// The exact probability of that choice, 0 < p <= 1.
    pub propensity: f64,
    /// Who chose.
    pub policy: PolicyId,
    /// How many nodes there were to choose from.
    pub candidates: u32,
    /// The node's load as it was before this attempt.
    pub before: Before,
    /// Predicted response time in seconds; NaN where nothing predicts.
    pub predicted_s: f64,
}

/// Why there is no node for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The fleet is empty.
    NoNodes,
    /// No node serves the model that the request names.
    UnknownModel,
    /// Every node that could serve it is down or draining.
    NoHealthyNode,
    /// Every healthy node is at its limit or said that it is full.
    AllFull,
    /// Every node that could serve it has been tried.
    AllTried,
}

impl Reason {
    /// Every reason, for series that exist from the start.
    pub const ALL: [Reason; 5] =
        [Reason::NoNodes, Reason::UnknownModel, Reason::NoHealthyNode, Reason::AllFull, Reason::AllTried];

    /// A short word for logs and metrics labels.
    pub fn word(self) -> &'static str {
        match self {
            Reason::NoNodes => "no_nodes",
            Reason::UnknownModel => "unknown_model",
            Reason::NoHealthyNode => "no_healthy_node",
            Reason::AllFull => "all_full",
            Reason::AllTried => "all_tried",
        }
    }
}

/// A refusal: a value that knows when to come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// Why.
    pub reason: Reason,
    /// When to come back, where coming back can help.
    pub retry_after: Option<Duration>,
}

/// The answer to "where does it go?".
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "a box would be an allocation per request, and nobody stores verdicts")]
pub enum Verdict {
    /// There. The ticket counts until it is finished or dropped.
    Go(Ticket),
    /// Nowhere.
    Refuse(Rejection),
}

struct ActivePolicy {
    id: PolicyId,
    policy: Arc<dyn Policy>,
}

/// The coordinator. One per process; every method may be called from any thread.
pub struct Balancer {
    fleet: ArcSwap<Fleet>,
    policy: ArcSwap<ActivePolicy>,
    thresholds: ArcSwap<Thresholds>,
    observers: Vec<Arc<dyn Observer>>,
    clock: Clock,
    /// Serializes changes of fleet and policy; decisions never take it.
    changing: Mutex<()>,
    predictor_version: AtomicU32,
}

impl std::fmt::Debug for Balancer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Balancer").field("fleet", &self.fleet).field("policy", &self.policy().name()).finish()
    }
}

impl Balancer {
    /// A balancer over `fleet` that starts with `policy`.
    pub fn new(fleet: Fleet, policy: PolicyId, clock: Clock, observers: Vec<Arc<dyn Observer>>) -> Balancer {
        Balancer::with_policy(fleet, policy, policy.make(), clock, observers)
    }

    /// A balancer that starts with an instance of a policy made elsewhere: one that is not in the registry
    /// ([`PolicyId::UNLISTED`]), or that shares state with somebody.
    pub fn with_policy(
        fleet: Fleet,
        id: PolicyId,
        policy: Arc<dyn Policy>,
        clock: Clock,
        observers: Vec<Arc<dyn Observer>>,
    ) -> Balancer {
        Balancer {
            fleet: ArcSwap::from_pointee(fleet),
            policy: ArcSwap::from_pointee(ActivePolicy { id, policy }),
            thresholds: ArcSwap::from_pointee(Thresholds::default()),
            observers,
            clock,
            changing: Mutex::new(()),
            predictor_version: AtomicU32::new(0),
        }
    }

    /// The present view of the fleet.
    pub fn fleet(&self) -> Arc<Fleet> {
        self.fleet.load_full()
    }

    /// The clock that drops are timed with.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// The active policy.
    pub fn policy(&self) -> PolicyId {
        self.policy.load().id
    }

    /// Switches the policy for all decisions from now on; returns the one before. Attempts in flight go on.
    ///
    /// Naming the active policy changes nothing, so that its state is kept.
    pub fn set_policy(&self, id: PolicyId) -> PolicyId {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.policy();
        if before != id {
            self.policy.store(Arc::new(ActivePolicy { id, policy: id.make() }));
        }
        before
    }

    /// How many checks in a row change a node's state.
    pub fn set_thresholds(&self, thresholds: Thresholds) {
        self.thresholds.store(Arc::new(thresholds));
    }

    /// Replaces the fleet by what `change` makes of the present one; changes are serialized.
    ///
    /// # Errors
    /// Whatever `change` refuses; the fleet is then as before.
    pub fn change_fleet(
        &self,
        change: impl FnOnce(&Fleet) -> Result<Fleet, FleetError>,
    ) -> Result<Arc<Fleet>, FleetError> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let next = Arc::new(change(&self.fleet.load())?);
        self.fleet.store(Arc::clone(&next));
        Ok(next)
    }

    /// An active health check of `node` ended.
    pub fn checked(&self, node: &Node, passed: bool) -> Option<Change> {
        let change = node.live.health.checked(passed, **self.thresholds.load());
        self.tell(node, change);
        change
    }

    fn tell(&self, node: &Node, change: Option<Change>) {
        if let Some(change) = change {
            for observer in &self.observers {
                observer.health_changed(node, change);
            }
        }
    }

    /// Where an attempt of this request goes. `tried` nodes are left out.
    ///
    /// Takes no lock and allocates nothing once `scratch` has grown to the fleet's size.
    pub fn decide(
        self: &Arc<Self>,
        now: Time,
        shape: &RequestShape,
        tried: &[NodeId],
        scratch: &mut Scratch,
    ) -> Verdict {
        let fleet = self.fleet.load();
        let active = self.policy.load();
        let Scratch { candidates, weights, rng } = scratch;
        for _ in 0..RACES_MAX {
            gather(&fleet, now, shape, tried, candidates);
            weights.clear();
            weights.resize(candidates.len(), 0.0);
            let context = Context { now, shape, fleet: &fleet, candidates };
            if candidates.is_empty() {
                break;
            }
            active.policy.weigh(&context, weights);
            let Some((chosen, propensity)) = draw(weights, rng) else { break };
            let node = &fleet.nodes()[candidates[chosen].index as usize];
            let Some(before) = node.live.ledger.try_start(now, node.spec.limit(), shape.prompt_tokens) else {
                continue;
            };
            for observer in &self.observers {
                observer.started(node, active.id);
            }
            let decision = Decision {
                node: Arc::clone(node),
                propensity,
                policy: active.id,
                candidates: candidates.len() as u32,
                before,
                predicted_s: f64::NAN,
            };
            return Verdict::Go(Ticket::new(Arc::clone(self), decision, now, shape));
        }
        Verdict::Refuse(why_none(&fleet, now, shape, tried))
    }
}

/// Fills `candidates` with the nodes that may get the request.
fn gather(fleet: &Fleet, now: Time, shape: &RequestShape, tried: &[NodeId], candidates: &mut Vec<Candidate>) {
    candidates.clear();
    let model = shape.model.as_deref().filter(|_| fleet.lists_models());
    for (index, node) in fleet.nodes().iter().enumerate() {
        let in_flight = node.live.ledger.in_flight();
        let may = in_flight < node.spec.limit()
            && node.live.health.state(now) == State::Up
            && !tried.contains(&node.id)
            && node.spec.serves(model);
        if may {
            candidates.push(Candidate { index: index as u32, in_flight, weight: node.spec.weight });
        }
    }
}

/// The most telling reason for an empty list of candidates.
fn why_none(fleet: &Fleet, now: Time, shape: &RequestShape, tried: &[NodeId]) -> Rejection {
    let refuse = |reason, retry_after| Rejection { reason, retry_after };
    if fleet.nodes().is_empty() {
        return refuse(Reason::NoNodes, Some(RETRY_AFTER_DEFAULT));
    }
    let serving = || fleet.nodes().iter().filter(|node| node.spec.serves(shape.model.as_deref()));
    if serving().next().is_none() {
        return refuse(Reason::UnknownModel, None);
    }
    let healthy = || serving().filter(|node| matches!(node.live.health.state(now), State::Up | State::Full));
    if healthy().next().is_none() {
        return refuse(Reason::NoHealthyNode, Some(RETRY_AFTER_DEFAULT));
    }
    if healthy().all(|node| tried.contains(&node.id)) {
        return refuse(Reason::AllTried, Some(RETRY_AFTER_DEFAULT));
    }
    let soonest = healthy().map(|node| node.live.health.full_until().since(now)).min();
    refuse(Reason::AllFull, Some(soonest.unwrap_or_default().max(RETRY_AFTER_DEFAULT)))
}

/// An attempt in flight. Finish it with [`Ticket::finish`]; a dropped one counts as [`Censor::Dropped`].
pub struct Ticket {
    balancer: Arc<Balancer>,
    decision: Decision,
    sample: Sample,
    last_event: Option<Time>,
    ended: bool,
}

impl std::fmt::Debug for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ticket").field("decision", &self.decision).field("sample", &self.sample).finish()
    }
}

impl Ticket {
    fn new(balancer: Arc<Balancer>, decision: Decision, now: Time, shape: &RequestShape) -> Ticket {
        let sample = Sample {
            node: decision.node.id,
            slot: decision.node.slot,
            kind: shape.kind,
            streaming: shape.streaming,
            prompt_tokens: shape.prompt_tokens,
            output_tokens_max: shape.output_tokens_max,
            in_flight: decision.before.in_flight,
            waiting: decision.before.waiting,
            waiting_prompt_tokens: decision.before.waiting_prompt_tokens,
            propensity: decision.propensity,
            policy: decision.policy.0,
            predictor_version: balancer.predictor_version.load(Ordering::Relaxed),
            predicted_s: decision.predicted_s,
            started: now,
            ttfb: None,
            total: Duration::ZERO,
            mean_in_flight: f64::from(decision.before.in_flight + 1),
            events: 0,
            gaps: Duration::ZERO,
            output_tokens: None,
            usage_prompt_tokens: None,
            outcome: Outcome::Censored(Censor::Dropped),
        };
        Ticket { balancer, decision, sample, last_event: None, ended: false }
    }

    /// What was decided.
    pub fn decision(&self) -> &Decision {
        &self.decision
    }

    /// Where it runs.
    pub fn node(&self) -> &Arc<Node> {
        &self.decision.node
    }

    /// When the attempt started.
    pub fn started(&self) -> Time {
        self.sample.started
    }

    /// The first byte of the response body came. Only the first call counts.
    pub fn first_byte(&mut self, now: Time) {
        if self.sample.ttfb.is_none() {
            self.sample.ttfb = Some(now.since(self.sample.started));
            self.decision.node.live.ledger.first_byte(now, self.sample.prompt_tokens);
        }
    }

    /// `events` streamed events came in one read. The first read of events starts the measurement of gaps.
    pub fn events(&mut self, now: Time, events: u32) {
        if events == 0 {
            return;
        }
        if let Some(last) = self.last_event {
            let gap = now.since(last);
            self.sample.gaps += gap;
            self.decision.node.live.ledger.events(now, events, gap);
        }
        self.last_event = Some(now);
        self.sample.events = self.sample.events.saturating_add(events);
    }

    /// The response told its tokens.
    pub fn usage(&mut self, prompt_tokens: Option<u32>, output_tokens: Option<u32>) {
        self.sample.usage_prompt_tokens = prompt_tokens.or(self.sample.usage_prompt_tokens);
        self.sample.output_tokens = output_tokens.or(self.sample.output_tokens);
    }

    /// Ends the attempt and returns its sample.
    pub fn finish(mut self, now: Time, outcome: Outcome) -> Sample {
        self.end(now, outcome);
        self.sample
    }

    fn end(&mut self, now: Time, outcome: Outcome) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let node = &self.decision.node;
        let waiting = self.sample.ttfb.is_none().then_some(self.sample.prompt_tokens);
        let load = node.live.ledger.end(now, waiting);
        self.sample.total = now.since(self.sample.started);
        self.sample.mean_in_flight = load.mean_since(self.decision.before.load, self.sample.total);
        self.sample.outcome = outcome;
        if matches!(outcome, Outcome::Completed { .. }) {
            node.live.ledger.sign_of_life(now);
        }
        let thresholds = **self.balancer.thresholds.load();
        let change = node.live.health.observe(&outcome, now, thresholds);
        self.balancer.tell(node, change);
        self.balancer.policy.load().policy.observe(node, &self.sample);
        for observer in &self.balancer.observers {
            observer.finished(node, &self.sample);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.ended {
            let now = self.balancer.clock.now();
            self.end(now, Outcome::Censored(Censor::Dropped));
        }
    }
}
