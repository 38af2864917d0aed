//! New settings for a running instance, without dropping a request.
//!
//! A reload applies *what changed in the configuration since it was last read*, and leaves alone what it left alone: a
//! node that the admin API added, drained, weighted or removed stays as it is unless the configuration's own entry
//! for it changed. The other rule, "afterwards everything is as the file says", would undo an operator's drain at
//! three in the morning because of an unrelated edit. Nothing changes unless everything can: settings are checked as a
//! whole first, and the fleet is swapped in one step. Addresses and numbers of threads are fixed at the start; a
//! change of those is reported and otherwise ignored until a restart.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::{Mutex, OnceLock, PoisonError};

use serde::Serialize;
use utoipa::ToSchema;

use crate::app::App;
use crate::balancer::Stance;
use crate::config::{self, Adaptive, Admin, Log, Settings};
use crate::fleet::{Fleet, FleetError};
use crate::learn::Knobs;
use crate::node::NodeSpec;
use crate::telemetry::logging::{self, LogControl};

/// Reads the settings from where they came from at the start; on failure every mistake, one per line.
pub type Load = Box<dyn Fn() -> Result<Settings, Vec<String>> + Send + Sync>;

/// What a reload needs beyond the instance; both are set at most once, at the start.
#[derive(Default)]
pub struct Reload {
    load: OnceLock<Load>,
    log: OnceLock<LogControl>,
    /// One reload at a time: two that overlap would compare with the same former settings.
    running: Mutex<()>,
}

impl std::fmt::Debug for Reload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reload").field("load", &self.load.get().is_some()).finish_non_exhaustive()
    }
}

impl Reload {
    /// Says where settings come from; only the first call counts.
    pub fn read_with(&self, load: impl Fn() -> Result<Settings, Vec<String>> + Send + Sync + 'static) {
        let _ = self.load.set(Box::new(load));
    }

    /// Hands over the log, so that a changed level takes effect; only the first call counts.
    pub fn control_log(&self, log: LogControl) {
        let _ = self.log.set(log);
    }
}

/// What a reload did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Changes {
    /// Nodes that came.
    pub nodes_added: Vec<String>,
    /// Nodes with new settings.
    pub nodes_changed: Vec<String>,
    /// Nodes that left; what runs on them goes on.
    pub nodes_removed: Vec<String>,
    /// The new policy, if the configuration names another one than before.
    pub policy: Option<String>,
    /// Other settings that changed, by their keys; in force now.
    pub settings: Vec<String>,
    /// Settings that changed but are fixed until the next start.
    pub restart_needed: Vec<String>,
}

/// Why a reload changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReloadError {
    /// The instance was built without a source of settings.
    #[error("there is no configuration to read again: this instance was started without one")]
    NoSource,
    /// The settings are not valid; every mistake.
    #[error("{}", .0.join("\n"))]
    Invalid(Vec<String>),
}

impl App {
    /// Reads the configuration again and applies what changed. Reads files: not for the threads that carry requests.
    ///
    /// # Errors
    /// There is nothing to read, or what was read is not valid; nothing has changed then.
    pub fn reload(&self, who: &str) -> Result<Changes, ReloadError> {
        let result = self.try_reload();
        self.telemetry.reloaded(result.is_ok());
        match &result {
            Ok(changes) => {
                tracing::info!(target: "bellwether::audit", who, ?changes, "configuration reloaded");
                if !changes.restart_needed.is_empty() {
                    tracing::warn!(settings = ?changes.restart_needed, "changed settings need a restart");
                }
            }
            Err(error) => {
                tracing::error!(target: "bellwether::audit", who, error = ?error, "reload refused, nothing has changed");
            }
        }
        result
    }

    fn try_reload(&self) -> Result<Changes, ReloadError> {
        let load = self.reload.load.get().ok_or(ReloadError::NoSource)?;
        let _running = self.reload.running.lock().unwrap_or_else(PoisonError::into_inner);
        let next = load().map_err(ReloadError::Invalid)?;
        self.apply(next).map_err(|error| ReloadError::Invalid(vec![error]))
    }

    /// Puts `next` in force.
    fn apply(&self, next: Settings) -> Result<Changes, String> {
        let former = self.settings.load_full();
        let (fixed, free): (Vec<_>, Vec<_>) = config::changes(&former, &next).into_iter().partition(|key| key.restart);
        let told_otherwise = |key: &str| key.starts_with("node[") || key == "policy";
        let mut changes = Changes {
            settings: free.into_iter().map(|changed| changed.key).filter(|key| !told_otherwise(key)).collect(),
            restart_needed: fixed.into_iter().map(|changed| changed.key).collect(),
            ..Changes::default()
        };
        let next = Settings {
            listen: former.listen,
            workers: former.workers,
            handover: former.handover.clone(),
            admin: Admin { listen: former.admin.listen.clone(), ..next.admin },
            adaptive: Adaptive {
                state_dir: former.adaptive.state_dir.clone(),
                prior: former.adaptive.prior.clone(),
                ..next.adaptive
            },
            log: Log { format: former.log.format, ..next.log },
            ..next
        };
        if next.admin.is_open() {
            let listen = &next.admin.listen;
            return Err(format!(
                "admin.token, or admin.tls.client_ca: needed because the admin API listens on {listen}"
            ));
        }
        if let Some(why) = logging::check_level(&next.log.level) {
            return Err(format!("log.level: {why}"));
        }
        self.balancer
            .change_fleet(|fleet| merge(fleet, &former, &next, &mut changes))
            .map_err(|error| format!("node: {error}"))?;
        if former.policy != next.policy {
            self.switch_policy(next.policy, "reload");
            changes.policy = Some(next.policy.name().to_owned());
        }
        self.balancer.set_thresholds(next.health.thresholds);
        self.balancer.set_ejection(next.ejection);
        self.balancer.set_queue(next.queue.rules);
        self.balancer.set_prefix_bytes_max(next.prefix.memory_bytes_max);
        self.turn(&former.adaptive, &next.adaptive);
        self.retries.set(next.retry.budget, next.retry.floor_per_s);
        self.hedges.set(next.retry.hedge_budget);
        if let Some(log) = self.reload.log.get().filter(|_| former.log.level != next.log.level) {
            log.set_level(&next.log.level).map_err(|error| error.to_string())?;
        }
        self.settings.store(std::sync::Arc::new(next));
        Ok(changes)
    }
}

impl App {
    /// Turns the knobs that the configuration changed; what an operator turned besides stays.
    fn turn(&self, former: &Adaptive, next: &Adaptive) {
        let (old, new, present) = (&former.knobs, &next.knobs, self.balancer.learned().knobs());
        self.balancer.learned().set_knobs(Knobs {
            first_byte: changed(old.first_byte, new.first_byte, present.first_byte),
            social: changed(old.social, new.social, present.social),
            explore: changed(old.explore, new.explore, present.explore),
            echo: changed(old.echo, new.echo, present.echo),
            proxies: changed(old.proxies, new.proxies, present.proxies),
            homes: changed(old.homes, new.homes, present.homes),
        });
        let present = self.balancer.stance();
        self.balancer.set_stance(Stance {
            fallback: changed(former.fallback, next.fallback, present.fallback),
            shadow: changed(former.shadow, next.shadow, present.shadow),
        });
    }
}

/// What is in force, unless the configuration changed it.
fn changed<T: PartialEq + Copy>(former: T, next: T, present: T) -> T {
    if former == next { present } else { next }
}

/// The present fleet with what changed from `former` to `next`.
fn merge(fleet: &Fleet, former: &Settings, next: &Settings, changes: &mut Changes) -> Result<Fleet, FleetError> {
    let new_default = (former.max_in_flight != next.max_in_flight).then_some(next.max_in_flight);
    let by_name = |specs: &'_ [NodeSpec]| -> BTreeMap<String, NodeSpec> {
        specs.iter().map(|spec| (spec.name.clone(), spec.clone())).collect()
    };
    let (mut former, wanted) = (by_name(&former.nodes), by_name(&next.nodes));
    if let Some(default) = new_default {
        // An entry is not another one because of the default: that would take back what an operator changed of the node.
        former.values_mut().for_each(|spec| *spec = spec.clone().or_limited(default));
    }
    let mut merged = fleet.clone();
    for name in former.keys().filter(|name| !wanted.contains_key(*name)) {
        if merged.by_name(name).is_some() {
            merged = merged.without(name)?;
            changes.nodes_removed.push(name.clone());
        }
    }
    // In the configuration's order, so that the fleet's order is the file's.
    for spec in next.nodes.iter().filter(|spec| former.get(&spec.name) != Some(*spec)) {
        let present = merged.by_name(&spec.name).map(|node| NodeSpec::clone(&node.spec));
        match present {
            Some(present) if present == *spec => {}
            Some(_) => {
                merged = merged.with_changed(spec.clone())?;
                changes.nodes_changed.push(spec.name.clone());
            }
            None => {
                merged = merged.with(spec.clone())?;
                changes.nodes_added.push(spec.name.clone());
            }
        }
    }
    // Whoever named them: all nodes without a limit of their own have the default.
    let present: Vec<NodeSpec> = merged.nodes().iter().map(|node| NodeSpec::clone(&node.spec)).collect();
    for (before, default) in present.into_iter().zip(new_default.into_iter().cycle()) {
        let after = before.clone().or_limited(default);
        if after != before {
            changes.nodes_changed.push(after.name.clone());
            merged = merged.with_changed(after)?;
        }
    }
    Ok(merged)
}
