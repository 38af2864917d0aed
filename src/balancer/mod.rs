//! One coordinator of a request's life: decide, first byte, events, finish.
//!
//! The balancer owns the view of the fleet and the active policy, both swapped whole, and hands out [`Ticket`]s. A
//! ticket is an attempt in flight: it counts in the node's ledger from the decision until it is finished or dropped,
//! exactly once, whatever happens in between. Everything that wants to know of attempts (metrics, policies that learn,
//! the sample store) hears of them here as an [`Observer`], not in the data path.

mod care;
mod choice;
mod gather;
mod hedge;
mod hold;
mod observer;
#[cfg(test)]
mod overload;
mod recall;
mod refusal;
mod tally;
#[cfg(test)]
mod tests;
mod ticket;
mod waiting;

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;

use crate::admission::AutoLimit;
use crate::clock::{Clock, Time};
use crate::fleet::{Before, Fleet, FleetError, Node, PerNode};
use crate::learn::Learned;
use crate::node::NodeId;
use crate::outcome::Recall;
use crate::policy::adaptive::Adaptive;
use crate::policy::{self, Candidate, Context, Policy, PolicyId, draw};
use crate::prefix::{Found, Memory};
use crate::request::RequestShape;

use care::{Care, Ward};
pub use choice::{Choice, DryRun, LeftOut};
use gather::gather;
use hedge::Punctuality;
pub use observer::Observer;
use recall::{note_recall, recall_of};
use refusal::why_none;
pub use refusal::{Reason, Rejection};
pub use tally::{COMPARED_ONE_IN, Compared, Tally};
pub use ticket::Ticket;
use waiting::Waiting;
pub use waiting::{Handed, Place};

/// How often a decision is made anew because another thread took the last place at the chosen node in between.
///
/// Each such race means that somebody else made progress; after this many the nodes are as good as full.
const RACES_MAX: u32 = 32;

/// The buffers of a decision, reused so that it allocates nothing, and its source of randomness.
#[derive(Debug)]
pub struct Scratch {
    candidates: Vec<Candidate>,
    weights: Vec<f64>,
    found: Found,
    rng: fastrand::Rng,
    /// Which decisions are compared; apart from `rng`, so that comparing changes no decision.
    lots: fastrand::Rng,
}

impl Scratch {
    /// Buffers with a generator of that seed.
    pub fn with_seed(seed: u64) -> Scratch {
        let (rng, lots) = (fastrand::Rng::with_seed(seed), fastrand::Rng::with_seed(!seed));
        Scratch { candidates: Vec::new(), weights: Vec::new(), found: Found::default(), rng, lots }
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
    /// Whether it is for a second attempt beside a late one.
    pub hedge: bool,
    /// The node's load as it was before this attempt.
    pub before: Before,
    /// What the node is expected to hold of the prompt.
    pub recall: Recall,
    /// Predicted response time in seconds; NaN where nothing predicts.
    pub predicted_s: f64,
    /// Version of the predictor that said so; 0 for none.
    pub predictor_version: u32,
}

/// The answer to "where does it go?".
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "a box would be an allocation per request, and nobody stores verdicts")]
pub enum Verdict {
    /// There. The ticket counts until it is finished or dropped.
    Go(Ticket),
    /// Nowhere now, but it may wait: by joining the queue with its terms.
    Wait(Place),
    /// Nowhere.
    Refuse(Rejection),
}

/// How far the learned policy is trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stance {
    /// Who routes while there is no model to trust; not itself a learned policy.
    pub fallback: PolicyId,
    /// Whether the learned policy only says what it would do, and the fallback routes.
    pub shadow: bool,
}

impl Default for Stance {
    fn default() -> Self {
        Stance { fallback: PolicyId::named(policy::FALLBACK).unwrap_or(PolicyId(0)), shadow: false }
    }
}

struct ActivePolicy {
    /// As the operator chose.
    id: PolicyId,
    /// Who decides: the fallback where `id` is in the shadow.
    router: PolicyId,
    policy: Arc<dyn Policy>,
}

impl ActivePolicy {
    fn new(id: PolicyId, stance: Stance, learned: &Arc<Learned>) -> ActivePolicy {
        let Stance { fallback, shadow } = stance;
        let fallback = if fallback.is_learned() { Stance::default().fallback } else { fallback };
        if !id.is_learned() {
            return ActivePolicy { id, router: id, policy: id.make_with(learned) };
        }
        if shadow {
            return ActivePolicy { id, router: fallback, policy: fallback.make_with(learned) };
        }
        // Its own least-connections knows of failures, which is more than the plain one does.
        let policy: Arc<dyn Policy> = match fallback.name() {
            policy::FALLBACK => id.make_with(learned),
            _ => Arc::new(Adaptive::new(Arc::clone(learned)).falling_back_to(fallback.make_with(learned))),
        };
        ActivePolicy { id, router: id, policy }
    }
}

/// The coordinator. One per process; every method may be called from any thread.
pub struct Balancer {
    fleet: ArcSwap<Fleet>,
    learned: Arc<Learned>,
    policy: ArcSwap<ActivePolicy>,
    care: ArcSwap<Care>,
    ward: Ward,
    waiting: Waiting,
    limits: PerNode<AutoLimit>,
    prefixes: ArcSwap<Memory>,
    punctuality: Punctuality,
    observers: Vec<Arc<dyn Observer>>,
    clock: Clock,
    /// The learned policy while it does not route.
    shadow: Adaptive,
    tally: Tally,
    /// Serializes changes of fleet and policy; decisions never take it.
    changing: Mutex<Stance>,
}

impl std::fmt::Debug for Balancer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Balancer").field("fleet", &self.fleet).field("policy", &self.policy().name()).finish()
    }
}

impl Balancer {
    /// A balancer over `fleet` that starts with `policy`.
    pub fn new(fleet: Fleet, policy: PolicyId, clock: Clock, observers: Vec<Arc<dyn Observer>>) -> Balancer {
        let learned = Arc::default();
        let active = ActivePolicy::new(policy, Stance::default(), &learned);
        Balancer::assemble(fleet, active, learned, clock, observers)
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
        Balancer::assemble(fleet, ActivePolicy { id, router: id, policy }, Arc::default(), clock, observers)
    }

    fn assemble(
        fleet: Fleet,
        active: ActivePolicy,
        learned: Arc<Learned>,
        clock: Clock,
        observers: Vec<Arc<dyn Observer>>,
    ) -> Balancer {
        Balancer {
            fleet: ArcSwap::from_pointee(fleet),
            shadow: Adaptive::new(Arc::clone(&learned)),
            learned,
            policy: ArcSwap::from_pointee(active),
            care: ArcSwap::from_pointee(Care::default()),
            ward: Ward::default(),
            waiting: Waiting::default(),
            limits: PerNode::default(),
            prefixes: ArcSwap::from_pointee(Memory::default()),
            punctuality: Punctuality::default(),
            observers,
            clock,
            tally: Tally::default(),
            changing: Mutex::default(),
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

    /// What is learned: where a learner publishes and learned policies read, whichever policy is active.
    pub fn learned(&self) -> &Arc<Learned> {
        &self.learned
    }

    /// Explorations, and what the learned policy would have done where another routed.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// The active policy, as the operator chose it.
    pub fn policy(&self) -> PolicyId {
        self.policy.load().id
    }

    /// Who decides: the active policy, or the fallback while that one is in the shadow.
    pub fn routing(&self) -> PolicyId {
        self.policy.load().router
    }

    /// How far the learned policy is trusted.
    pub fn stance(&self) -> Stance {
        *self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says how far the learned policy is trusted, for all decisions from now on.
    pub fn set_stance(&self, stance: Stance) {
        let mut present = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let id = self.policy();
        if std::mem::replace(&mut *present, stance) != stance && id.is_learned() {
            self.policy.store(Arc::new(ActivePolicy::new(id, stance, &self.learned)));
        }
    }

    /// Switches the policy for all decisions from now on; returns the one before. Attempts in flight go on.
    ///
    /// Naming the active policy changes nothing, so that its state is kept.
    pub fn set_policy(&self, id: PolicyId) -> PolicyId {
        let stance = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.policy();
        if before != id {
            self.policy.store(Arc::new(ActivePolicy::new(id, *stance, &self.learned)));
        }
        before
    }

    /// Replaces the fleet by what `change` makes of the present one; changes are serialized.
    ///
    /// # Errors
    /// Whatever `change` refuses; the fleet is then as before.
    pub fn change_fleet(
        self: &Arc<Self>,
        change: impl FnOnce(&Fleet) -> Result<Fleet, FleetError>,
    ) -> Result<Arc<Fleet>, FleetError> {
        let changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let next = Arc::new(change(&self.fleet.load())?);
        self.fleet.store(Arc::clone(&next));
        let prefixes = self.prefixes.load();
        next.nodes().iter().for_each(|node| prefixes.own(node));
        drop(changing);
        self.hand_over(self.clock.now());
        Ok(next)
    }

    /// Where an attempt of this request goes. `tried` nodes are left out.
    ///
    /// While nobody waits, it takes no lock and allocates nothing once `scratch` has grown to the fleet's size.
    pub fn decide(
        self: &Arc<Self>,
        now: Time,
        shape: &RequestShape,
        tried: &[NodeId],
        scratch: &mut Scratch,
    ) -> Verdict {
        // Whoever waits goes first.
        self.hand_over(now);
        if let Some(ticket) = self.try_now(now, shape, tried, scratch, false) {
            return Verdict::Go(ticket);
        }
        let rejection = why_none(&self.fleet.load(), now, shape, tried);
        if rejection.reason == Reason::AllFull && self.may_wait() {
            return Verdict::Wait(Place::new(self, shape, tried, rejection));
        }
        Verdict::Refuse(rejection)
    }

    /// The decision as far as there is a node with room.
    fn try_now(
        self: &Arc<Self>,
        now: Time,
        shape: &RequestShape,
        tried: &[NodeId],
        scratch: &mut Scratch,
        hedge: bool,
    ) -> Option<Ticket> {
        let fleet = self.fleet.load();
        let active = self.policy.load();
        let Scratch { candidates, weights, found, rng, lots } = scratch;
        let compares = !active.router.is_learned() && lots.u32(..COMPARED_ONE_IN) == 0;
        let tokens = self.expected_tokens(&fleet, shape);
        self.recall(shape, now, found);
        for _ in 0..RACES_MAX {
            let panic_below = self.care.load().ejection.panic_below;
            let panics = gather(&fleet, now, shape, tried, tokens, panic_below, candidates);
            let watched = !active.router.is_learned() && self.leave_out_silent(&fleet, now, candidates);
            note_recall(&self.learned, &fleet, shape, found, candidates);
            weights.clear();
            weights.resize(candidates.len(), 0.0);
            let context = Context { now, shape, fleet: &fleet, candidates };
            if candidates.is_empty() {
                break;
            }
            active.policy.weigh(&context, weights);
            let Some((chosen, propensity)) = draw(weights, rng) else { break };
            let compared = if compares { self.shadow.compare(&context, chosen) } else { None };
            let node = &fleet.nodes()[candidates[chosen].index as usize];
            let recall = recall_of(found, node.slot, &candidates[chosen]);
            let Some(before) = start(node, now, &recall, shape, tokens, panics) else { continue };
            if watched {
                self.learned.node(node).watch.sent();
            }
            if let Some(compared) = compared {
                self.tally.compared(&compared);
            } else if propensity < 0.5 && active.router.is_learned() && is_not_best(weights, chosen) {
                self.tally.explored();
            }
            let decision = Decision {
                node: Arc::clone(node),
                propensity,
                policy: active.router,
                candidates: candidates.len() as u32,
                hedge,
                before,
                recall,
                predicted_s: f64::NAN,
                predictor_version: 0,
            };
            // From here on the ticket answers for the place in the ledger, even if an observer panics.
            let mut ticket = Ticket::new(Arc::clone(self), decision, now, shape);
            ticket.reserved(if node.spec.max_in_flight_tokens.is_some() { tokens } else { 0 });
            ticket.used(self.remember(node, shape, now, found.at(node.slot).blocks, &recall));
            ticket.expect(active.policy.chosen(&context, chosen));
            for observer in &self.observers {
                let choice = Choice { context: &context, weights, at: chosen, learned: &self.learned };
                ticket.remember(observer.decided(&choice, ticket.decision()));
                ticket.consider(observer.considered(&choice, ticket.decision()));
                observer.started(ticket.node(), active.router);
            }
            return Some(ticket);
        }
        None
    }
}

/// Counts the attempt in the ledger, if the node still has room. In a panic the ramp of an ejected node does not count.
#[inline]
fn start(node: &Node, now: Time, recall: &Recall, shape: &RequestShape, tokens: u64, panics: bool) -> Option<Before> {
    let limit = if panics { node.own_limit() } else { node.limit() };
    let (ledger, pending) = (&node.live.ledger, recall.uncached(shape.prompt_tokens) as u32);
    let Some(most) = node.spec.max_in_flight_tokens else {
        return ledger.try_start(now, limit, pending);
    };
    if !ledger.try_reserve(tokens, most) {
        return None;
    }
    let started = ledger.try_start(now, limit, pending);
    if started.is_none() {
        ledger.release(tokens);
    }
    started
}

/// Whether another candidate was likelier: then this one was explored.
fn is_not_best(weights: &[f64], chosen: usize) -> bool {
    weights.iter().any(|weight| *weight > weights[chosen])
}
