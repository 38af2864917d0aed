//! What is learned, as the request path sees it: one handle that is shared by policy, learner and admin API.
//!
//! The learner publishes whole predictors; what must move faster than fits (correctors, penalties, ramps, silence) is
//! atomics per node. So a decision takes no lock, a failure counts before the next decision, and a learner that dies
//! leaves the last good predictor behind, whose age the policy checks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use arc_swap::{ArcSwapOption, Guard as Loaded};

use crate::clock::Time;
use crate::fleet::{Node, PerNode, Resettable};
use crate::learn::features::{TARGETS, Target};
use crate::learn::guard::{Fallback, STALE_S};
use crate::learn::penalty::Penalty;
use crate::learn::predictor::{Factors, Predictor};
use crate::learn::silence::Watch;
use crate::node::NodeId;
use crate::outcome::{Outcome, Sample};

/// In flight that a node without any success may have.
const RAMP_START: u32 = 4;

/// How much more each success allows: with 2 the cap triples in the time of a response.
const RAMP_PER_SUCCESS: u32 = 2;

/// Successes after which a node is no longer new.
const RAMP_SUCCESSES: u32 = 64;

/// A number that is changed as a whole.
#[derive(Debug)]
struct Number(AtomicU64);

impl Number {
    fn new(value: f64) -> Number {
        Number(AtomicU64::new(value.to_bits()))
    }

    #[inline]
    fn get(&self) -> f64 {
        f64::from_bits(self.0.load(Ordering::Relaxed))
    }

    fn set(&self, value: f64) {
        self.0.store(value.to_bits(), Ordering::Relaxed);
    }
}

/// The knobs of the adaptive policy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Knobs {
    /// 0 routes by response time, 1 by first byte, between them by a mixture of the scores. 0 unless set.
    pub first_byte: f64,
    /// Weight of what a request costs the others, 0..=10; 0 is greedy. 1 unless set.
    pub social: f64,
    /// Share of decisions that explore, 0..=0.5. 0.01 unless set.
    pub explore: f64,
    /// Who is slowed stays longer, and slows others in turn: up to which share of the response time that echo is counted
    /// when a request's cost for the others is, 0..=0.9; 0 counts only the first round. A third, and no setting.
    pub echo: f64,
    /// How many proxies send to the same nodes, this one included, 1..=1000; 1 unless set.
    ///
    /// What a prompt delays are the streams of all of them, of which each sees its own. The slope of gaps needs no such
    /// factor: it is fitted to a number in flight that stands for as many of the others.
    pub proxies: f64,
    /// How much of a prompt that this proxy does not know is expected to be at the prompt's home, 0..=0.95. 0 unless set:
    /// (proxies - 1) / proxies where all hash prompts with one key, as others sent that share of all prompts.
    pub homes: f64,
}

/// With `x` the cost for the others over the own response time, the costs of all rounds add up to `1 / (1 - x)` times
/// the first. But what comes later is routed around a node that has become slow: to count all of it (up to 0.6) costs 3 %
/// of the mean and 13 % of the 99th percentile on mixed hardware, to count none 9 % behind several proxies, which
/// see only a part of whom they slow.
const ECHO: f64 = 1.0 / 3.0;

/// The most proxies that a configuration may tell of.
pub const PROXIES_MAX: f64 = 1_000.0;

impl Knobs {
    /// The same for one of so many proxies; `agreed` if all hash prompts with one key, so that a prompt has one home.
    #[must_use]
    pub fn among(self, proxies: f64, agreed: bool) -> Knobs {
        Knobs { proxies, homes: if agreed { 1.0 - 1.0 / proxies.max(1.0) } else { 0.0 }, ..self }
    }
}

impl Default for Knobs {
    fn default() -> Self {
        Knobs { first_byte: 0.0, social: 1.0, explore: 0.01, echo: ECHO, proxies: 1.0, homes: 0.0 }
    }
}

/// What moves between fits, for one node.
#[derive(Debug)]
pub struct NodeLearned {
    factors: [Number; TARGETS],
    /// Failures of late.
    pub penalty: Penalty,
    /// Silence.
    pub watch: Watch,
    successes: AtomicU32,
}

impl Default for NodeLearned {
    fn default() -> Self {
        NodeLearned {
            factors: std::array::from_fn(|_| Number::new(1.0)),
            penalty: Penalty::default(),
            watch: Watch::default(),
            successes: AtomicU32::new(0),
        }
    }
}

impl Resettable for NodeLearned {
    fn reset(&self) {
        self.set_factors(&[1.0; TARGETS]);
        self.penalty.reset();
        self.watch.alive();
        self.successes.store(0, Ordering::Relaxed);
    }
}

impl NodeLearned {
    /// The fast correctors.
    #[inline]
    pub fn factors(&self) -> Factors {
        std::array::from_fn(|target| self.factors[target].get())
    }

    /// The fast corrector of one target.
    #[inline]
    pub fn factor(&self, target: Target) -> f64 {
        self.factors[target.index()].get()
    }

    pub(super) fn set_factors(&self, factors: &Factors) {
        for (number, factor) in self.factors.iter().zip(factors) {
            number.set(*factor);
        }
    }

    /// How many a new or returned node may have in flight; grows with its successes, not with time.
    #[inline]
    pub fn ramp_limit(&self) -> u32 {
        match self.successes.load(Ordering::Relaxed) {
            RAMP_SUCCESSES.. => u32::MAX,
            successes => RAMP_START + RAMP_PER_SUCCESS * successes,
        }
    }

    /// Ends its ramp, as if it had proved itself.
    pub fn trust(&self) {
        self.successes.store(RAMP_SUCCESSES, Ordering::Relaxed);
    }

    fn succeeded(&self, now: Time) {
        self.penalty.succeeded(now);
        if self.successes.load(Ordering::Relaxed) < RAMP_SUCCESSES {
            self.successes.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Not demoted.
const TRUSTED: u8 = u8::MAX;

/// The handle.
#[derive(Debug)]
pub struct Learned {
    predictor: ArcSwapOption<Predictor>,
    nodes: PerNode<NodeLearned>,
    /// Index into [`Fallback::ALL`], or [`TRUSTED`].
    standing: AtomicU8,
    wants_fallback: std::sync::atomic::AtomicBool,
    first_byte: Number,
    social: Number,
    explore: Number,
    echo: Number,
    proxies: Number,
    homes: Number,
}

impl Default for Learned {
    fn default() -> Self {
        let knobs = Knobs::default();
        Learned {
            predictor: ArcSwapOption::empty(),
            nodes: PerNode::default(),
            standing: AtomicU8::new(TRUSTED),
            wants_fallback: false.into(),
            first_byte: Number::new(knobs.first_byte),
            social: Number::new(knobs.social),
            explore: Number::new(knobs.explore),
            echo: Number::new(knobs.echo),
            proxies: Number::new(knobs.proxies),
            homes: Number::new(knobs.homes),
        }
    }
}

impl Learned {
    /// The predictor in force, if any, whatever the guard says of it.
    pub fn predictor(&self) -> Option<Arc<Predictor>> {
        self.predictor.load_full()
    }

    pub(crate) fn load(&self) -> Loaded<Option<Arc<Predictor>>> {
        self.predictor.load()
    }

    pub(super) fn publish(&self, predictor: Option<Arc<Predictor>>) {
        self.predictor.store(predictor);
    }

    /// What moves between fits, for `node`.
    #[inline]
    pub fn node(&self, node: &Node) -> &NodeLearned {
        self.nodes.of(node)
    }

    pub(super) fn node_at(&self, slot: u32, id: NodeId) -> &NodeLearned {
        self.nodes.at(slot, id)
    }

    /// An attempt ended: what counts before the next decision. Call it exactly once for each.
    pub fn ended(&self, node: &Node, sample: &Sample) {
        let now = sample.started.after(sample.total);
        let learned = self.nodes.of(node);
        match sample.outcome {
            Outcome::Failed(_) => learned.penalty.failed(now),
            Outcome::Completed { .. } => {
                learned.watch.alive();
                // Other answers below 500 show life, but not that the node can do its work.
                if sample.outcome.is_latency_label() {
                    learned.succeeded(now);
                }
            }
            Outcome::Full { .. } => learned.watch.alive(),
            Outcome::Censored(_) => {}
        }
    }

    /// A node returned to service: it proves itself anew.
    pub fn returned(&self, node: &Node) {
        self.nodes.of(node).successes.store(0, Ordering::Relaxed);
    }

    /// Why the fallback should route at `now`, if it should.
    pub fn fallback(&self, now: Time) -> Option<Fallback> {
        self.fallback_of(self.predictor.load().as_deref(), now)
    }

    pub(crate) fn fallback_of(&self, predictor: Option<&Predictor>, now: Time) -> Option<Fallback> {
        let Some(predictor) = predictor else { return Some(Fallback::Missing) };
        if self.wants_fallback.load(Ordering::Relaxed) {
            return Some(Fallback::Wanted);
        }
        if now.seconds_since(predictor.made) > STALE_S {
            return Some(Fallback::Stale);
        }
        Fallback::ALL.get(usize::from(self.standing.load(Ordering::Relaxed))).copied()
    }

    /// What the guard thinks of the model.
    pub(super) fn set_standing(&self, standing: Option<Fallback>) {
        let index = standing.and_then(|why| Fallback::ALL.iter().position(|known| *known == why));
        self.standing.store(index.and_then(|at| u8::try_from(at).ok()).unwrap_or(TRUSTED), Ordering::Relaxed);
    }

    /// Makes the fallback route whatever the guard thinks, or no longer.
    pub fn want_fallback(&self, wanted: bool) {
        self.wants_fallback.store(wanted, Ordering::Relaxed);
    }

    /// The knobs.
    pub fn knobs(&self) -> Knobs {
        Knobs {
            first_byte: self.first_byte.get(),
            social: self.social.get(),
            explore: self.explore.get(),
            echo: self.echo.get(),
            proxies: self.proxies.get(),
            homes: self.homes.get(),
        }
    }

    /// Turns the knobs; each is brought into its range, and what is not a number is left as it is.
    pub fn set_knobs(&self, knobs: Knobs) {
        let turn = |number: &Number, value: f64, min: f64, max: f64| {
            if !value.is_nan() {
                number.set(value.clamp(min, max));
            }
        };
        turn(&self.first_byte, knobs.first_byte, 0.0, 1.0);
        turn(&self.social, knobs.social, 0.0, 10.0);
        turn(&self.explore, knobs.explore, 0.0, 0.5);
        turn(&self.echo, knobs.echo, 0.0, 0.9);
        turn(&self.proxies, knobs.proxies, 1.0, PROXIES_MAX);
        turn(&self.homes, knobs.homes, 0.0, 0.95);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::Fleet;
    use crate::learn::sample::tests::plain;
    use crate::node::NodeSpec;
    use crate::outcome::Failure;

    #[test]
    fn proxies_that_agree_expect_what_the_others_sent_at_its_home() {
        let knobs = Knobs::default();
        assert_eq!(knobs.among(1.0, true), knobs);
        assert_eq!(knobs.among(4.0, true), Knobs { proxies: 4.0, homes: 0.75, ..knobs });
        assert_eq!(knobs.among(4.0, false), Knobs { proxies: 4.0, ..knobs });
    }

    #[test]
    fn a_new_node_is_ramped_by_successes_and_again_after_a_return() {
        let fleet = Fleet::default().with(NodeSpec::new("http://a")).expect("free");
        let node = &fleet.nodes()[0];
        let learned = Learned::default();
        assert_eq!(learned.node(node).ramp_limit(), RAMP_START);
        learned.ended(node, &plain(0, 1, 0.1));
        assert_eq!(learned.node(node).ramp_limit(), RAMP_START + RAMP_PER_SUCCESS);
        learned.ended(node, &Sample { outcome: Outcome::Failed(Failure::Connect), ..plain(0, 1, 0.1) });
        learned.ended(node, &Sample { outcome: Outcome::Completed { status: 404 }, ..plain(0, 1, 0.1) });
        assert_eq!(learned.node(node).ramp_limit(), RAMP_START + RAMP_PER_SUCCESS);
        (0..RAMP_SUCCESSES).for_each(|_| learned.ended(node, &plain(0, 1, 0.1)));
        assert_eq!(learned.node(node).ramp_limit(), u32::MAX);
        learned.returned(node);
        assert_eq!(learned.node(node).ramp_limit(), RAMP_START);
    }

    #[test]
    fn knobs_stay_in_range() {
        let learned = Learned::default();
        learned.set_knobs(Knobs {
            first_byte: f64::NAN,
            social: 1e300,
            explore: -1.0,
            echo: 2.0,
            proxies: 0.0,
            homes: 2.0,
        });
        assert_eq!(
            learned.knobs(),
            Knobs { first_byte: 0.0, social: 10.0, explore: 0.0, echo: 0.9, proxies: 1.0, homes: 0.95 }
        );
    }

    #[test]
    fn without_a_predictor_the_fallback_routes() {
        assert_eq!(Learned::default().fallback(Time::ZERO), Some(Fallback::Missing));
    }
}
