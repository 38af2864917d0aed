//! The trainer's life: it learns, dies, comes back, remembers, and refuses what is not its own.

use std::fs;
use std::path::Path;
use std::time::Instant;

use super::*;
use crate::app::App;
use crate::balancer::{Scratch, Stance, Verdict};
use crate::config::Settings;
use crate::emulator::{EmulatedFleet, Emulator};
use crate::learn::Fallback;
use crate::load::{self, LoadSpec, Stop};
use crate::node::NodeSpec;
use crate::outcome::Outcome;
use crate::request::RequestShape;
use crate::server::Server;
use crate::sim::SimFleet;
use crate::state;
use crate::trainer::supervisor::STALLED_AFTER;

/// Longer than anything here takes on the busiest machine; a test that waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(120);

/// Waits until `condition` holds.
pub(super) fn until(app: &App, what: &str, condition: impl Fn(&App) -> bool) {
    let begun = Instant::now();
    while !condition(app) {
        assert!(begun.elapsed() < PATIENCE, "never: {what}");
        let bell = app.trainer.bell();
        drop(app.trainer.rung.wait_timeout(bell, Duration::from_millis(20)));
    }
}

fn settings(state_dir: Option<&Path>) -> Settings {
    let nodes = ["a", "b"].map(|name| NodeSpec::new(format!("http://{name}:1")).named(name)).to_vec();
    let mut settings = Settings { nodes, ..Settings::default() };
    settings.adaptive.state_dir = state_dir.map(Path::to_path_buf);
    settings
}

fn started(state_dir: Option<&Path>) -> Arc<App> {
    let app = App::new(settings(state_dir)).expect("valid");
    start(&app).expect("threads");
    app
}

/// Answers of both nodes, `b` three times as slow as `a`, put into the queue as the balancer does.
fn answers(app: &App, count: usize) {
    let mut scratch = Scratch::with_seed(1);
    for at in 0..count {
        let now = app.clock.now();
        let shape = RequestShape { kind: app.kinds.of("chat", Some("llama")), ..RequestShape::default() };
        let tried: Vec<_> = app.balancer.fleet().nodes().iter().skip(at % 2).take(1).map(|node| node.id).collect();
        let Verdict::Go(ticket) = app.balancer.decide(now, &shape, &tried, &mut scratch) else {
            panic!("nodes are free")
        };
        let took = Duration::from_millis(if ticket.node().spec.name == "a" { 10 } else { 30 });
        ticket.finish(now.after(took), Outcome::Completed { status: 200 });
    }
}

fn order(app: &App, order: Order) {
    app.trainer.bell().give(order);
    app.trainer.rung.notify_all();
}

fn learns(app: &App) {
    answers(app, 200);
    until(app, "a model that routes", |app| app.balancer.learned().fallback(app.clock.now()).is_none());
}

#[test]
fn a_model_is_published_and_forgotten_on_demand() {
    let app = started(None);
    assert_eq!(app.balancer.learned().fallback(app.clock.now()), Some(Fallback::Missing));
    learns(&app);
    let status = app.trainer.status();
    assert_eq!(status.counts.labels, 200);
    assert!(status.pace.per_s(status.at) > 0.0);
    let predictor = app.balancer.learned().predictor().expect("published");
    let fleet = app.balancer.fleet();
    let seconds = |at: usize| {
        let node = &fleet.nodes()[at];
        let model = predictor.node(node.slot, node.id);
        model.predict(&[1.0; 4], &Default::default(), &predictor.typical()).total_s
    };
    assert!(seconds(1) > 1.5 * seconds(0), "{} {}", seconds(0), seconds(1));
    app.trainer.reset().expect("obeyed");
    until(&app, "a fit that knows nothing", |app| {
        app.trainer.status().last.is_some_and(|fit| fit.fallback == Some(Fallback::TooFew))
    });
    assert_eq!(app.trainer.status().counts.labels, 200, "counters only grow");
    app.trainer.stop();
    assert!(matches!(app.trainer.reset(), Err(OrderError::NoTrainer)));
}

#[test]
fn an_order_that_was_reported_as_failed_is_not_carried_out_later() {
    // Nobody is at work behind it but the test.
    let trainer = Trainer::default();
    trainer.up.store(true, Ordering::Relaxed);
    let given = trainer.order_within(Duration::ZERO, Order::Reset);
    assert!(matches!(given, Err(OrderError::NoTrainer)));
    assert!(trainer.take_order().is_none(), "it is withdrawn");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Taken up, and never ended.
            while trainer.take_order().is_none() {
                std::thread::yield_now();
            }
        });
        assert!(matches!(trainer.order_within(PATIENCE, Order::Save), Err(OrderError::Unfinished)));
    });
}

#[test]
fn a_trainer_that_panics_is_replaced_and_the_next_one_remembers() {
    let app = started(None);
    learns(&app);
    let saved = app.trainer.save().expect("obeyed");
    assert_eq!((saved.path, saved.snapshot.nodes.len()), (None, 2));
    let version = app.balancer.learned().predictor().expect("published").version;
    order(&app, Order::Panic);
    until(&app, "a restart", |app| app.trainer.restarts() >= 1 && app.trainer.is_up());
    until(&app, "a new model", |app| app.balancer.learned().predictor().expect("stays").version > version);
    // Nothing was learned anew: it knows both nodes from its predecessor.
    let predictor = app.balancer.learned().predictor().expect("published");
    let evidence = |slot: usize| predictor.nodes[slot].map_or(0.0, |model| model.evidence[0]);
    assert!(evidence(0) > 30.0 && evidence(1) > 30.0, "{} {}", evidence(0), evidence(1));
    assert_eq!(app.balancer.learned().fallback(app.clock.now()), None);
    assert!(app.trainer.status().counts.labels >= 200, "counters go on");
    app.trainer.stop();
}

#[test]
fn a_trainer_that_hangs_is_given_up_and_its_order_to_wake_changes_nothing() {
    let mut settings = settings(None);
    settings.policy = crate::policy::PolicyId(0);
    let app = App::new(settings).expect("valid");
    start(&app).expect("threads");
    let (wake, until_woken) = std::sync::mpsc::channel();
    order(&app, Order::Hang(until_woken));
    let begun = app.clock.now();
    until(&app, "a successor", |app| app.trainer.restarts() >= 1 && app.trainer.is_up());
    let restarts = app.trainer.restarts();
    assert!(app.clock.now().since(begun) >= STALLED_AFTER / 2);
    learns(&app);
    wake.send(()).expect("it hangs");
    answers(&app, 50);
    until(&app, "all samples", |app| app.trainer.status().counts.labels == 250);
    assert_eq!(app.trainer.restarts(), restarts);
    app.trainer.stop();
}

#[test]
fn what_was_learned_outlives_a_restart() {
    let dir = tempfile::tempdir().expect("a directory");
    let app = started(Some(dir.path()));
    learns(&app);
    app.trainer.stop();
    assert_eq!(app.trainer.saves(), (1, 0));
    let state = state::read(&dir.path().join(state::FILE)).expect("sound").expect("saved at the stop");
    assert_eq!(state.nodes.len(), 2);
    let again = started(Some(dir.path()));
    until(&again, "a model without any sample", |app| {
        app.balancer.learned().fallback(app.clock.now()).is_none() && app.trainer.status().counts.labels == 0
    });
    assert_eq!(again.kinds.name(again.kinds.of("chat", Some("llama"))), "chat llama");
    assert_eq!(again.kinds.len(), 2, "the kind came back with the state");
    again.trainer.stop();
}

#[test]
fn a_corrupt_state_is_refused_and_learning_starts_cold() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join(state::FILE);
    fs::write(&file, "{\"format\": \"somebody-elses\", \"schema\": 1}").expect("written");
    let app = started(Some(dir.path()));
    until(&app, "a first fit", |app| app.trainer.status().last.is_some());
    assert_eq!(app.balancer.learned().fallback(app.clock.now()), Some(Fallback::Missing));
    learns(&app);
    app.trainer.stop();
    assert!(state::read(&file).expect("sound").is_some(), "a sound state has taken its place");
    let aside = fs::read_to_string(dir.path().join("model.json.refused")).expect("kept");
    assert!(aside.contains("somebody-elses"));
}

#[test]
fn a_full_disk_costs_the_state_and_nothing_else() {
    let dir = tempfile::tempdir().expect("a directory");
    // A file where the directory should be.
    let state_dir = dir.path().join("file");
    fs::write(&state_dir, "").expect("written");
    let app = started(Some(&state_dir));
    learns(&app);
    assert!(matches!(app.trainer.save(), Err(OrderError::State(_))));
    assert_eq!(app.trainer.saves(), (0, 1));
    assert!(app.trainer.is_up());
    app.trainer.stop();
}

#[test]
fn every_sample_is_recorded_under_the_name_of_its_node() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("samples.jsonl");
    let app = App::new(settings(None)).expect("valid");
    app.trainer.record_to(Recorder::start(&path).expect("opened"));
    start(&app).expect("threads");
    answers(&app, 100);
    app.trainer.stop();
    let rows: Vec<_> = crate::recording::read(&path).expect("there").map(|row| row.expect("sound").1).collect();
    assert_eq!(rows.len(), 100);
    assert_eq!(rows.iter().filter(|row| row.node == "a").count(), 50);
    assert!(rows.iter().all(|row| row.kind == "chat llama" && row.policy == "adaptive"), "{:?}", rows[0]);
}

/// The value of a series in a scrape.
fn series(app: &App, name: &str) -> Option<f64> {
    app.scrape().lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

/// Traffic on real sockets, until dropped.
struct Traffic {
    stop: Stop,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Traffic {
    fn start(target: std::net::SocketAddr) -> Traffic {
        let stop = Stop::default();
        let told = stop.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(load::run(LoadSpec::new(target, 60.0, PATIENCE), &Arc::default(), &told));
        });
        Traffic { stop, thread: Some(thread) }
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.stop.stop();
        self.thread.take().map(std::thread::JoinHandle::join);
    }
}

#[test]
fn a_proxy_on_real_sockets_learns_shows_it_survives_a_panic_and_remembers() {
    let dir = tempfile::tempdir().expect("a directory");
    let fleet = SimFleet::named("study").expect("known").faster(20.0).with_slots_at_most(16);
    let emulators = EmulatedFleet::start(&fleet, 1).expect("sockets");
    let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let mut settings = Settings { listen: any, ..settings(Some(dir.path())) };
    settings.admin.listen = any.into();
    let node = |emulator: &Emulator| NodeSpec::new(emulator.url()).named(emulator.name());
    settings.nodes = emulators.nodes().iter().map(node).collect();
    let server = Server::start(settings.clone()).expect("started");
    let app = Arc::clone(server.app());
    let name = emulators.nodes()[0].name().to_owned();
    assert_eq!(app.balancer.routing().name(), "adaptive");
    assert_eq!(series(&app, "bellwether_trainer_up"), Some(1.0));
    assert_eq!(series(&app, "bellwether_model_version"), Some(0.0));
    let traffic = Traffic::start(server.address());
    let trusted = |app: &App| app.balancer.learned().fallback(app.clock.now()).is_none();
    until(&app, "a model that routes", trusted);
    until(&app, "predictions of every node", |app| {
        let known = |node: &Emulator| {
            let label = format!("{{node=\"{}\"}}", node.name());
            series(app, &format!("bellwether_predicted_seconds{label}")).is_some_and(|s| s > 0.0 && s < 100.0)
                && series(app, &format!("bellwether_node_capacity_rps{label}")).is_some_and(|rps| rps > 0.0)
        };
        emulators.nodes().iter().all(known)
    });
    until(&app, "errors of predictions", |app| {
        series(app, "bellwether_prediction_error_ratio_count").is_some_and(|count| count > 0.0)
            && series(app, "bellwether_model_error{of=\"model\"}").is_some_and(f64::is_finite)
            && series(app, "bellwether_fleet_utilization").is_some_and(|used| used > 0.0)
            && series(app, &format!("bellwether_model_slope{{node=\"{name}\",target=\"gap\"}}"))
                .is_some_and(|s| s >= 0.0)
    });
    order(&app, Order::Panic);
    until(&app, "a successor", |app| {
        series(app, "bellwether_trainer_restarts_total") >= Some(1.0) && app.trainer.is_up()
    });
    until(&app, "a model that routes again", trusted);
    drop(traffic);
    drop(app);
    server.stop(PATIENCE);
    let saved = state::read(&dir.path().join(state::FILE)).expect("sound").expect("saved at the stop");
    assert_eq!(saved.nodes.len(), emulators.nodes().len());
    let again = Server::start(settings).expect("started");
    // Whether it routes is for the guard to say, whose last word depends on how busy the machine was.
    let remembers = |app: &App| app.balancer.learned().predictor().is_some();
    until(again.app(), "the model of the last run", |app| remembers(app) && app.trainer.status().counts.labels == 0);
    again.stop(PATIENCE);
}

#[test]
fn in_the_shadow_the_fallback_routes_and_what_would_have_been_is_counted() {
    let mut settings = settings(None);
    settings.adaptive.shadow = true;
    settings.adaptive.fallback = crate::policy::PolicyId::named("round-robin").expect("known");
    let app = App::new(settings).expect("valid");
    start(&app).expect("threads");
    assert_eq!((app.balancer.policy().name(), app.balancer.routing().name()), ("adaptive", "round-robin"));
    learns(&app);
    let mut scratch = Scratch::with_seed(1);
    for _ in 0..1_000 {
        let now = app.clock.now();
        let Verdict::Go(ticket) = app.balancer.decide(now, &RequestShape::default(), &[], &mut scratch) else {
            panic!("nodes are free")
        };
        ticket.finish(now, Outcome::Censored(crate::outcome::Censor::ClientGone));
    }
    let compared = app.balancer.tally().comparisons();
    // Round-robin gives every other request to the slow node, of which adaptive is sure.
    assert!(compared.agreed > 10 && compared.differed > 10, "{compared:?}");
    assert!(compared.chosen.response_s > 1.2 * compared.own.response_s, "{compared:?}");
    assert_eq!(app.balancer.tally().explorations(), 0);
    assert_eq!(series(&app, "bellwether_policy_active{policy=\"round-robin\"}"), Some(1.0));
    let differed = series(&app, "bellwether_shadow_decisions_total{agree=\"false\"}");
    assert_eq!(differed, Some(compared.differed as f64));
    app.balancer.set_stance(Stance { shadow: false, ..app.balancer.stance() });
    assert_eq!(app.balancer.routing().name(), "adaptive");
    app.trainer.stop();
}
