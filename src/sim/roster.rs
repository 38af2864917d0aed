//! Who competes in a simulation: from a policy's name to a balancer that is ready to route.
//!
//! Every registered policy can be named, the yardsticks of [`crate::sim::yardstick`], and `adaptive` without one of its
//! parts ([`crate::sim::ablation`]). A balancer that learns brings [`Hook`]s: what a trainer's thread does every half
//! second in production, the driver calls in virtual time.

use std::sync::Arc;
use std::time::Duration;

use crate::balancer::{Balancer, Observer};
use crate::clock::{Clock, Time};
use crate::fleet::{Fleet, FleetError};
use crate::policy::{self, Policy, PolicyId};
use crate::sim::ablation::{Forgiving, Without};
use crate::sim::learning::{self, Samples};
use crate::sim::scenario::Scenario;
use crate::sim::yardstick::{AsRecorded, C3, CacheAware, Foresight, GreedyOracle, LMetric, Prequal};

/// Least connections with each node's true capacity as its weight: what an operator could reach who knew them.
pub const ORACLE_WEIGHTED: &str = "oracle-weighted-least-connections";
/// The registered policy that needs a learner beside it.
const LEARNING: &str = "adaptive";

/// See [`C3`].
pub const C3_NAME: &str = "c3";
/// See [`Prequal`].
pub const PREQUAL: &str = "prequal";
/// See [`GreedyOracle`].
pub const GREEDY: &str = "greedy-oracle";

/// See [`CacheAware`].
pub const CACHE_AWARE: &str = "cache-aware";
/// See [`LMetric`].
pub const LMETRIC: &str = "lmetric";

/// The names that only the simulator knows.
pub const YARDSTICKS: &[&str] = &[ORACLE_WEIGHTED, C3_NAME, PREQUAL, CACHE_AWARE, LMETRIC, GREEDY];

/// Something that wants to be called at regular times.
pub struct Hook {
    /// How often; the first time after one interval.
    pub every: Duration,
    /// What.
    pub call: Box<dyn FnMut(Time)>,
}

/// One proxy of a simulation.
pub struct Instance {
    /// Who decides.
    pub balancer: Arc<Balancer>,
    /// What runs beside it.
    pub hooks: Vec<Hook>,
    /// Whether nodes that join bring their capacity as weight.
    pub weighted: bool,
    /// Whether it is told what prompts begin with.
    pub sees_prompts: bool,
}

impl std::fmt::Debug for Instance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Instance").field("balancer", &self.balancer).field("hooks", &self.hooks.len()).finish()
    }
}

/// What an instance is made of.
#[derive(Debug)]
pub struct Setup<'a> {
    /// What is simulated.
    pub scenario: &'a Scenario,
    /// Virtual time.
    pub clock: &'a Clock,
    /// A seed of this instance's own.
    pub seed: u64,
    /// What the driver tells of the request to be placed.
    pub foresight: &'a Foresight,
}

/// Why nobody of that name can compete.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RosterError {
    /// No such policy.
    #[error("no policy is named {0:?}; known are {known}", known = names().join(", "))]
    Unknown(String),
    /// The scenario's fleet cannot be.
    #[error(transparent)]
    Fleet(#[from] FleetError),
}

/// Every name that can be simulated.
pub fn names() -> Vec<&'static str> {
    let variants = Without::NAMES.iter().map(|(name, _)| *name);
    policy::names().into_iter().chain(YARDSTICKS.iter().copied()).chain(variants).collect()
}

/// Whether `name` can compete in `scenario`.
///
/// # Errors
/// It is unknown, or two nodes of the scenario have one name.
pub fn check(name: &str, scenario: &Scenario) -> Result<(), RosterError> {
    fleet(scenario, false)?;
    if PolicyId::named(name).is_some() || YARDSTICKS.contains(&name) || Without::named(name).is_some() {
        return Ok(());
    }
    Err(RosterError::Unknown(name.to_owned()))
}

/// A proxy that routes by the policy `name`.
///
/// # Errors
/// Those of [`check`], and a fleet with two nodes of one name.
pub fn make(name: &str, setup: &Setup<'_>) -> Result<Instance, RosterError> {
    make_observed(name, setup, Vec::new())
}

/// The same, with observers that hear of every attempt.
///
/// # Errors
/// As [`make`].
pub fn make_observed(
    name: &str,
    setup: &Setup<'_>,
    observers: Vec<Arc<dyn Observer>>,
) -> Result<Instance, RosterError> {
    check(name, setup.scenario)?;
    let weighted = name == ORACLE_WEIGHTED;
    let fleet = fleet(setup.scenario, weighted)?;
    let unlisted = |policy: Arc<dyn Policy>, fleet, observers| {
        Balancer::with_policy(fleet, PolicyId::UNLISTED, policy, setup.clock.clone(), observers)
    };
    let cache_tokens = setup.scenario.cache.map_or(0, |cache| cache.tokens);
    let balancer = match name {
        C3_NAME => unlisted(Arc::new(C3::new(setup.scenario.proxies)), fleet, observers),
        PREQUAL => unlisted(Arc::new(Prequal::new(setup.seed)), fleet, observers),
        CACHE_AWARE => unlisted(Arc::new(CacheAware::new(cache_tokens)), fleet, observers),
        LMETRIC => unlisted(Arc::new(LMetric::new(cache_tokens)), fleet, observers),
        GREEDY => unlisted(Arc::new(GreedyOracle::new(setup.foresight.clone())), fleet, observers),
        LEARNING => return Ok(learner(None, setup, fleet, observers)),
        _ => match Without::named(name) {
            Some(without) => return Ok(learner(Some(without), setup, fleet, observers)),
            None => {
                let name = if weighted { "least-connections" } else { name };
                let id = PolicyId::named(name).ok_or_else(|| RosterError::Unknown(name.to_owned()))?;
                Balancer::new(fleet, id, setup.clock.clone(), observers)
            }
        },
    };
    Ok(Instance { balancer: Arc::new(balancer), hooks: Vec::new(), weighted, sees_prompts: true })
}

/// The learned policy with its learner, whole or without a part.
fn learner(
    without: Option<Without>,
    setup: &Setup<'_>,
    fleet: Fleet,
    mut observers: Vec<Arc<dyn Observer>>,
) -> Instance {
    let (samples, forgiving) = (Arc::new(Samples::default()), Arc::new(Forgiving::default()));
    observers.push(Arc::clone(&samples) as Arc<dyn Observer>);
    if without == Some(Without::FailurePenalty) {
        observers.push(Arc::clone(&forgiving) as Arc<dyn Observer>);
    }
    let id = PolicyId::named(LEARNING).unwrap_or(PolicyId::UNLISTED);
    let balancer = Arc::new(Balancer::new(fleet, id, setup.clock.clone(), observers));
    // Only the first call counts, and this is it.
    let _ = forgiving.0.set(Arc::clone(balancer.learned()));
    // Operators know how many proxies they run, and give them one key.
    let knobs = balancer.learned().knobs();
    balancer.learned().set_knobs(knobs.among(f64::from(setup.scenario.proxies), true));
    if let Some(without) = without {
        without.turn(balancer.learned());
    }
    let hooks = learning::hooks(&balancer, samples, without);
    Instance { balancer, hooks, weighted: false, sees_prompts: without != Some(Without::Prefixes) }
}

/// A proxy that sends every request where the trace says it went; no name leads to it.
///
/// # Errors
/// A fleet with two nodes of one name.
pub fn make_as_recorded(setup: &Setup<'_>, observers: Vec<Arc<dyn Observer>>) -> Result<Instance, RosterError> {
    let names = setup.scenario.nodes.iter().map(|node| node.node.name.clone()).collect();
    let policy = Arc::new(AsRecorded::new(setup.foresight.clone(), names));
    let fleet = fleet(setup.scenario, false)?;
    let balancer = Balancer::with_policy(fleet, PolicyId::UNLISTED, policy, setup.clock.clone(), observers);
    Ok(Instance { balancer: Arc::new(balancer), hooks: Vec::new(), weighted: false, sees_prompts: true })
}

/// The fleet as it is configured at the start; weighted by true capacity where that is asked for.
fn fleet(scenario: &Scenario, weighted: bool) -> Result<Fleet, FleetError> {
    let present = scenario.nodes.iter().filter(|node| !node.joins_later);
    present.map(|node| node.spec(weighted)).try_fold(Fleet::default(), |fleet, spec| fleet.with(spec))
}
