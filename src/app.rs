//! One running instance: what its data path, admin API, probes and signals share.
//!
//! Everything here is either immutable, swapped whole, or atomic. The pieces know each other only through this.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};

use arc_swap::ArcSwap;

use crate::balancer::{Balancer, Observer};
use crate::clock::Clock;
use crate::config::Settings;
use crate::fleet::{Fleet, FleetError};
use crate::request::Kinds;
use crate::telemetry::Telemetry;

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
        }))
    }
}
