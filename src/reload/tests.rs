//! Reloads without sockets: what is applied, what is left alone, and what waits for a restart.

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::balancer::{Scratch, Verdict};
use crate::node::MaxInFlight;
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

#[test]
fn a_changed_default_limits_nodes_without_their_own_and_takes_nothing_back() {
    let file_with = |default| {
        let mut file = settings(&["a", "b", "off"]);
        file.max_in_flight = default;
        file.nodes[1] = node("b").own_limited(MaxInFlight::Fixed(7));
        file.nodes[2] = node("off").own_limited(MaxInFlight::Off);
        file.nodes = file.nodes.into_iter().map(|node| node.or_limited(default)).collect();
        file
    };
    let (app, file) = instance(file_with(MaxInFlight::Fixed(3)));
    let change = |with: &dyn Fn(&Fleet) -> Result<Fleet, FleetError>| app.balancer.change_fleet(with).unwrap();
    change(&|fleet| fleet.with(node("by-hand").or_limited(MaxInFlight::Fixed(3))));
    change(&|fleet| fleet.with(node("own").own_limited(MaxInFlight::Fixed(2))));
    let heavy = NodeSpec { weight: 9.0, ..node("a").or_limited(MaxInFlight::Fixed(3)) };
    change(&|fleet| fleet.with_changed(heavy.clone()));
    let limits = || app.balancer.fleet().nodes().iter().map(|node| node.limit()).collect::<Vec<_>>();
    let free = crate::node::IN_FLIGHT_MAX;
    assert_eq!(limits(), [3, 7, free, 3, 2]);
    *file.lock().unwrap() = Ok(file_with(MaxInFlight::Fixed(5)));
    let changes = app.reload("test").unwrap();
    let nodes_changed = vec!["a".to_owned(), "by-hand".to_owned()];
    assert_eq!(changes, Changes { nodes_changed, settings: vec!["max_in_flight".into()], ..Changes::default() });
    assert_eq!(limits(), [5, 7, free, 5, 2]);
    assert_eq!(app.balancer.fleet().nodes()[0].spec.weight, 9.0, "an operator's weight stays");
    *file.lock().unwrap() = Ok(file_with(MaxInFlight::Auto));
    assert_eq!(app.reload("test").unwrap().nodes_changed, ["a", "by-hand"]);
    let auto: Vec<bool> = app.balancer.fleet().nodes().iter().map(|node| node.spec.auto_limit).collect();
    assert_eq!(auto, [true, false, false, true, false]);
    assert_eq!(app.reload("test").unwrap(), Changes::default(), "nothing is new");
}
