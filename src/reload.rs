//! New settings for a running instance, without dropping a request.
//!
//! A reload applies *what changed in the configuration since it was last read*, and leaves alone what it left alone: a
//! node that the admin API added, drained, weighted or removed stays as it is unless the configuration's own entry
//! for it changed. The other rule, "afterwards everything is as the file says", would undo an operator's drain at
//! three in the morning because of an unrelated edit. Nothing changes unless everything can: settings are checked as a
//! whole first, and the fleet is swapped in one step. Addresses and numbers of threads are fixed at the start; a
//! change of those is reported and otherwise ignored until a restart.

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
            .change_fleet(|fleet| merge(fleet, &former.nodes, &next.nodes, &mut changes))
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
fn merge(fleet: &Fleet, former: &[NodeSpec], next: &[NodeSpec], changes: &mut Changes) -> Result<Fleet, FleetError> {
    let by_name = |specs: &'_ [NodeSpec]| -> BTreeMap<String, NodeSpec> {
        specs.iter().map(|spec| (spec.name.clone(), spec.clone())).collect()
    };
    let (former, wanted) = (by_name(former), by_name(next));
    let mut merged = fleet.clone();
    for name in former.keys().filter(|name| !wanted.contains_key(*name)) {
        if merged.by_name(name).is_some() {
            merged = merged.without(name)?;
            changes.nodes_removed.push(name.clone());
        }
    }
    // In the configuration's order, so that the fleet's order is the file's.
    for spec in next.iter().filter(|spec| former.get(&spec.name) != Some(*spec)) {
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
    Ok(merged)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::balancer::{Scratch, Verdict};
    use crate::outcome::Outcome;
    use crate::policy::PolicyId;
    use crate::request::RequestShape;

    fn node(name: &str) -> NodeSpec {
        NodeSpec::new(format!("http://{name}:1")).named(name)
    }

    fn settings(names: &[&str]) -> Settings {
        Settings { nodes: names.iter().map(|name| node(name)).collect(), ..Settings::default() }
    }

    type File = Arc<Mutex<Result<Settings, Vec<String>>>>;

    /// An instance and the file that it reads.
    fn instance(start: Settings) -> (Arc<App>, File) {
        let file = Arc::new(Mutex::new(Ok(start.clone())));
        let app = App::new(start).unwrap();
        let read = Arc::clone(&file);
        app.reload.read_with(move || read.lock().unwrap().clone());
        (app, file)
    }

    fn names(app: &App) -> Vec<String> {
        app.balancer.fleet().nodes().iter().map(|node| node.spec.name.clone()).collect()
    }

    #[test]
    fn what_the_file_left_alone_is_left_alone() {
        let (app, file) = instance(settings(&["a", "b", "c"]));
        let change = |with: &dyn Fn(&Fleet) -> Result<Fleet, FleetError>| app.balancer.change_fleet(with).unwrap();
        change(&|fleet| fleet.with(node("by-hand")));
        change(&|fleet| fleet.without("c"));
        change(&|fleet| fleet.with_changed(NodeSpec { weight: 9.0, ..node("a") }));
        app.balancer.fleet().nodes()[0].live.health.set_draining(true);
        *file.lock().unwrap() = Ok(settings(&["a", "b", "c", "d"]));
        let changes = app.reload("test").unwrap();
        assert_eq!(changes, Changes { nodes_added: vec!["d".into()], ..Changes::default() });
        assert_eq!(names(&app), ["a", "b", "by-hand", "d"]);
        let fleet = app.balancer.fleet();
        assert_eq!(fleet.nodes()[0].spec.weight, 9.0);
        assert!(fleet.nodes()[0].live.health.is_draining());
    }

    #[test]
    fn what_the_file_changed_is_changed() {
        let (app, file) = instance(settings(&["a", "b"]));
        app.balancer.change_fleet(|fleet| fleet.with(node("late"))).unwrap();
        let mut next = settings(&["a", "late"]);
        next.nodes[0].weight = 3.0;
        next.nodes[1].weight = 2.0;
        next.policy = PolicyId::named("round-robin").unwrap();
        next.timeouts.connect = Duration::from_secs(1);
        next.health.thresholds.unhealthy_after = 1;
        *file.lock().unwrap() = Ok(next);
        let changes = app.reload("test").unwrap();
        assert_eq!(changes.nodes_changed, ["a", "late"]);
        assert_eq!(changes.nodes_removed, ["b"]);
        assert_eq!(changes.policy.as_deref(), Some("round-robin"));
        assert_eq!(changes.settings, ["health.unhealthy_after", "timeouts.connect"]);
        assert_eq!(names(&app), ["a", "late"]);
        assert_eq!(app.balancer.policy().name(), "round-robin");
        assert_eq!(app.settings.load().timeouts.connect, Duration::from_secs(1));
        let fleet = app.balancer.fleet();
        app.balancer.checked(&fleet.nodes()[0], false);
        assert!(!fleet.nodes()[0].live.health.is_up(), "the new threshold is in force");
    }

    #[test]
    fn learning_is_turned_while_running_but_not_where_it_started_from() {
        let (app, file) = instance(settings(&["a"]));
        app.balancer.learned().set_knobs(crate::learn::Knobs { explore: 0.3, ..app.balancer.learned().knobs() });
        let mut next = settings(&["a"]);
        next.adaptive.shadow = true;
        next.adaptive.fallback = PolicyId::named("random").unwrap();
        next.adaptive.state_dir = Some("elsewhere".into());
        *file.lock().unwrap() = Ok(next.clone());
        let changes = app.reload("test").unwrap();
        assert_eq!(changes.settings, ["adaptive.fallback", "adaptive.shadow"]);
        assert_eq!(changes.restart_needed, ["adaptive.state_dir"]);
        assert_eq!(app.settings.load().adaptive.state_dir, None);
        assert_eq!((app.balancer.policy().name(), app.balancer.routing().name()), ("adaptive", "random"));
        assert_eq!(app.balancer.learned().knobs().explore, 0.3, "what the file left alone");
        next.adaptive.knobs.social = 0.5;
        *file.lock().unwrap() = Ok(next.clone());
        assert_eq!(app.reload("test").unwrap().settings, ["adaptive.social"]);
        assert_eq!(app.balancer.learned().knobs().social, 0.5);
        assert_eq!(app.balancer.learned().knobs().explore, 0.3, "one knob does not take another back");
        app.balancer.set_stance(Stance { shadow: false, ..app.balancer.stance() });
        next.adaptive.fallback = PolicyId::named("round-robin").unwrap();
        *file.lock().unwrap() = Ok(next);
        assert_eq!(app.reload("test").unwrap().settings, ["adaptive.fallback"]);
        let stance = app.balancer.stance();
        assert_eq!((stance.fallback.name(), stance.shadow), ("round-robin", false));
    }

    #[test]
    fn a_broken_file_changes_nothing_and_says_everything() {
        let (app, file) = instance(settings(&["a"]));
        *file.lock().unwrap() = Err(vec!["x.toml:1:1: one".into(), "x.toml:2:1: two".into()]);
        let error = app.reload("test").unwrap_err();
        assert_eq!(error, ReloadError::Invalid(vec!["x.toml:1:1: one".into(), "x.toml:2:1: two".into()]));
        assert_eq!(names(&app), ["a"]);
        let text = app.scrape();
        assert!(text.contains("bellwether_config_reloads_total{result=\"failure\"} 1"), "{text}");
    }

    #[test]
    fn addresses_and_threads_wait_for_a_restart() {
        let (app, file) = instance(settings(&["a"]));
        let mut next = settings(&["a"]);
        next.listen = "127.0.0.1:9".parse().unwrap();
        next.admin.listen = "0.0.0.0:9".parse().unwrap();
        next.workers += 1;
        *file.lock().unwrap() = Ok(next);
        assert_eq!(app.reload("test").unwrap().restart_needed, ["admin.listen", "listen", "workers"]);
        let in_force = app.settings.load();
        let fresh = Settings::default();
        assert_eq!((in_force.listen, &in_force.admin.listen), (fresh.listen, &fresh.admin.listen));
        assert_eq!(in_force.workers, fresh.workers);
    }

    #[test]
    fn the_last_token_of_an_exposed_admin_api_cannot_be_taken_away() {
        let mut open = settings(&["a"]);
        open.admin.listen = "0.0.0.0:8081".parse().unwrap();
        let token = crate::config::Token { secret: "s".into(), role: crate::config::Role::Read };
        open.admin.tokens = vec![token];
        let (app, file) = instance(open.clone());
        // Even if the file also moves the listener to loopback: the open one stays until a restart.
        *file.lock().unwrap() = Ok(settings(&["a", "b"]));
        assert!(matches!(app.reload("test"), Err(ReloadError::Invalid(_))));
        assert_eq!(app.settings.load().admin.tokens.len(), 1);
        assert_eq!(names(&app), ["a"]);
    }

    #[test]
    fn a_request_on_a_node_that_a_reload_removes_ends_properly() {
        let (app, file) = instance(settings(&["a"]));
        let now = app.clock.now();
        let verdict = app.balancer.decide(now, &RequestShape::default(), &[], &mut Scratch::with_seed(1));
        let Verdict::Go(ticket) = verdict else { panic!("a node is free") };
        let live = Arc::clone(&ticket.node().live);
        *file.lock().unwrap() = Ok(settings(&["b"]));
        app.reload("test").unwrap();
        assert_eq!(live.ledger.in_flight(), 1);
        ticket.finish(app.clock.now(), Outcome::Completed { status: 200 });
        assert_eq!(live.ledger.in_flight(), 0);
        assert_eq!(names(&app), ["b"]);
    }

    #[test]
    fn without_a_source_there_is_nothing_to_reload() {
        let app = App::new(settings(&["a"])).unwrap();
        assert_eq!(app.reload("test"), Err(ReloadError::NoSource));
    }
}
