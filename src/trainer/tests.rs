//! The trainer's life: it learns, dies, comes back, remembers, and refuses what is not its own.

use std::fs;
use std::path::Path;
use std::time::Instant;

use super::*;
use crate::app::App;
use crate::balancer::{Scratch, Verdict};
use crate::config::Settings;
use crate::learn::Fallback;
use crate::node::NodeSpec;
use crate::outcome::Outcome;
use crate::request::RequestShape;
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
    app.trainer.bell().orders.push_back(order);
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
fn a_trainer_that_panics_is_replaced_and_the_next_one_remembers() {
    let app = started(None);
    learns(&app);
    let saved = app.trainer.save().expect("obeyed");
    assert_eq!((saved.path, saved.snapshot.nodes.len()), (None, 2));
    let version = app.balancer.learned().predictor().expect("published").version;
    order(&app, Order::Panic);
    until(&app, "a restart", |app| app.trainer.restarts() == 1 && app.trainer.is_up());
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
    until(&app, "a successor", |app| app.trainer.restarts() == 1 && app.trainer.is_up());
    assert!(app.clock.now().since(begun) >= STALLED_AFTER / 2);
    learns(&app);
    wake.send(()).expect("it hangs");
    answers(&app, 50);
    until(&app, "all samples", |app| app.trainer.status().counts.labels == 250);
    assert_eq!(app.trainer.restarts(), 1);
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
