//! One running instance: what its data path, admin API, probes and signals share.
//!
//! Everything here is either immutable, swapped whole, or atomic. The pieces know each other only through this.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use arc_swap::ArcSwap;

use crate::balancer::{Balancer, Observer};
use crate::clock::Clock;
use crate::config::Settings;
use crate::fleet::{Fleet, FleetError};
use crate::policy::PolicyId;
use crate::reload::Reload;
use crate::request::Kinds;
use crate::telemetry::{Scrape, Telemetry};

/// One running instance.
#[derive(Debug)]
pub struct App {
    /// The settings in force; listeners and workers keep the ones that they were started with.
    pub settings: ArcSwap<Settings>,
    /// Who decides.
    pub balancer: Arc<Balancer>,
    /// Kinds of requests seen.
    pub kinds: Kinds,
    /// Metrics.
    pub telemetry: Arc<Telemetry>,
    /// Time.
    pub clock: Clock,
    /// Whether it stops: `/readyz` says so and no new connection is taken.
    pub stopping: AtomicBool,
    /// Client connections open now.
    pub connections: AtomicUsize,
    /// Where new settings come from.
    pub reload: Reload,
}

impl App {
    /// An instance with the fleet and policy of `settings`; nothing listens yet.
    ///
    /// # Errors
    /// Two nodes of one name, or too many: checked settings have neither.
    pub fn new(settings: Settings) -> Result<Arc<App>, FleetError> {
        let fleet = settings.nodes.iter().cloned().try_fold(Fleet::default(), |fleet, spec| fleet.with(spec))?;
        let clock = Clock::monotonic();
        let telemetry = Arc::new(Telemetry::default());
        let observers: Vec<Arc<dyn Observer>> = vec![Arc::clone(&telemetry) as Arc<dyn Observer>];
        let balancer = Arc::new(Balancer::new(fleet, settings.policy, clock.clone(), observers));
        balancer.set_thresholds(settings.health.thresholds);
        Ok(Arc::new(App {
            settings: ArcSwap::from_pointee(settings),
            balancer,
            kinds: Kinds::default(),
            telemetry,
            clock,
            stopping: AtomicBool::new(false),
            connections: AtomicUsize::new(0),
            reload: Reload::default(),
        }))
    }

    /// Switches the policy while requests run; returns the one before. `who` is for the log.
    pub fn switch_policy(&self, policy: PolicyId, who: &str) -> PolicyId {
        let before = self.balancer.set_policy(policy);
        if before != policy {
            self.telemetry.policy_switched();
            tracing::info!(target: "bellwether::audit", who, from = before.name(), to = policy.name(), "policy switched");
        }
        before
    }

    /// All metrics in the text format of Prometheus. Blocks for milliseconds.
    pub fn scrape(&self) -> String {
        self.telemetry.render(&Scrape {
            now: self.clock.now(),
            fleet: &self.balancer.fleet(),
            policy: self.balancer.policy(),
            connections: self.connections.load(Ordering::Relaxed),
        })
    }

    /// What has to be done about every second: keeps the memory that metrics take bounded.
    pub fn upkeep(&self) {
        self.telemetry.upkeep(&self.balancer.fleet());
    }
}
