//! One running instance: what its data path, admin API, probes and signals share.
//!
//! Everything here is either immutable, swapped whole, or atomic. The pieces know each other only through this.

use std::hash::RandomState;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use secrecy::ExposeSecret;

use crate::admission::{HedgeBudget, Places, RateTable, RetryBudget};
use crate::balancer::{Balancer, Observer, Stance};
use crate::clock::Clock;
use crate::config::Settings;
use crate::decisions::Decisions;
use crate::fleet::{Fleet, FleetError};
use crate::policy::PolicyId;
use crate::proxy::OpenConnections;
use crate::proxy::framing::Refusal;
use crate::proxy::inspect::{BytesPerToken, PrefixKey};
use crate::reload::Reload;
use crate::request::Kinds;
use crate::spans::Spans;
use crate::telemetry::{Scrape, Telemetry};
use crate::trainer::Trainer;

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
    /// The learned ratio of prompt bytes to tokens.
    pub bytes_per_token: BytesPerToken,
    /// What beginnings of prompts are hashed with.
    pub prefix_key: PrefixKey,
    /// What retries are paid from.
    pub retries: RetryBudget,
    /// What hedges are paid from.
    pub hedges: HedgeBudget,
    /// Connections open to each node.
    pub open_connections: OpenConnections,
    /// What each client has asked for of late.
    pub rates: RateTable,
    /// What each client holds now.
    pub places: Arc<Places>,
    /// What clients' keys are hashed with.
    pub rate_hash: RandomState,
    /// Time.
    pub clock: Clock,
    /// Whether it stops: `/readyz` says so and no new connection is taken.
    pub stopping: AtomicBool,
    /// Client connections open now.
    pub connections: AtomicUsize,
    /// Of those, how many are idle and hold no buffers.
    pub parked: AtomicUsize,
    /// Who learns; it works once [`trainer::start`](crate::trainer::start) was called.
    pub trainer: Trainer,
    /// Where new settings come from.
    pub reload: Reload,
    /// Recent decisions.
    pub decisions: Arc<Decisions>,
    /// Traces on their way to a collector.
    pub spans: Arc<Spans>,
}

impl App {
    /// An instance with the fleet and policy of `settings`; nothing listens yet.
    ///
    /// # Errors
    /// Two nodes of one name, or too many: checked settings have neither.
    pub fn new(settings: Settings) -> Result<Arc<App>, FleetError> {
        App::with_clock(settings, Clock::monotonic())
    }

    /// The same by another clock.
    ///
    /// # Errors
    /// As for [`App::new`].
    pub fn with_clock(settings: Settings, clock: Clock) -> Result<Arc<App>, FleetError> {
        let fleet = settings.nodes.iter().cloned().try_fold(Fleet::default(), |fleet, spec| fleet.with(spec))?;
        let telemetry = Arc::new(Telemetry::default());
        telemetry.expect_refusals(Refusal::ALL.iter().map(|refusal| refusal.reason));
        let (trainer, decisions) = (Trainer::default(), Arc::new(Decisions::default()));
        let observers = vec![
            Arc::clone(&telemetry) as Arc<dyn Observer>,
            trainer.observer(),
            Arc::clone(&decisions) as Arc<dyn Observer>,
        ];
        let balancer = Arc::new(Balancer::new(fleet, settings.policy, clock.clone(), observers));
        balancer.set_thresholds(settings.health.thresholds);
        balancer.set_ejection(settings.ejection);
        balancer.set_queue(settings.queue.rules);
        balancer.learned().set_knobs(settings.adaptive.knobs);
        balancer.set_stance(Stance { fallback: settings.adaptive.fallback, shadow: settings.adaptive.shadow });
        balancer.set_prefix_bytes_max(settings.prefix.memory_bytes_max);
        let secret = settings.prefix.key.as_ref();
        let prefix_key = secret.map_or_else(PrefixKey::random, |key| PrefixKey::of_secret(key.expose_secret()));
        let retries = RetryBudget::new(settings.retry.budget, settings.retry.floor_per_s);
        let hedges = HedgeBudget::new(settings.retry.hedge_budget);
        Ok(Arc::new(App {
            settings: ArcSwap::from_pointee(settings),
            balancer,
            kinds: Kinds::default(),
            telemetry,
            bytes_per_token: BytesPerToken::default(),
            prefix_key,
            retries,
            hedges,
            spans: Arc::new(Spans::new(&clock)),
            open_connections: OpenConnections::default(),
            rates: RateTable::default(),
            places: Arc::default(),
            rate_hash: RandomState::new(),
            clock,
            stopping: AtomicBool::new(false),
            connections: AtomicUsize::new(0),
            parked: AtomicUsize::new(0),
            trainer,
            reload: Reload::default(),
            decisions,
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
            balancer: &self.balancer,
            trainer: &self.trainer,
            connections: self.connections.load(Ordering::Relaxed),
            spans: self.spans.counts(),
            node_connections: &|node| self.open_connections.count(node),
        })
    }

    /// From now on `/readyz` says that it stops.
    pub fn begin_stop(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    /// Whether it stops.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }
}
