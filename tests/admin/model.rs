//! What was learned and decided, as the API shows it: a proxy in virtual time that is taught by made-up attempts.

use std::sync::Arc;

use axum::Router;
use bellwether::admin;
use bellwether::app::App;
use bellwether::balancer::{Scratch, Ticket, Verdict};
use bellwether::clock::{Clock, Time};
use bellwether::config::Settings;
use bellwether::fleet::Node;
use bellwether::learn::Learner;
use bellwether::node::NodeSpec;
use bellwether::outcome::{Failure, Outcome};
use bellwether::policy::PolicyId;
use bellwether::request::RequestShape;
use bellwether::trainer;
use serde_json::{Value, json};

use super::{call, get, kept_in, post};

const DONE: Outcome = Outcome::Completed { status: 200 };

/// A proxy without sockets whose clock the test turns.
pub(super) struct Scene {
    pub(super) app: Arc<App>,
    clock: Clock,
    pub(super) router: Router,
    pub(super) learner: Learner,
    scratch: Scratch,
    pub(super) now_s: f64,
}

impl Scene {
    pub(super) fn new(names: &[&str], policy: &str) -> Scene {
        let nodes = names.iter().map(|name| NodeSpec::new(format!("http://127.0.0.1:1/{name}")).named(*name)).collect();
        let policy = PolicyId::named(policy).expect("known");
        let clock = Clock::manual();
        let settings = Settings { nodes, policy, ..Settings::default() };
        let app = App::with_clock(settings, clock.clone()).expect("valid");
        let router = admin::router(Arc::clone(&app));
        let learner = Learner::new(Arc::clone(app.balancer.learned()));
        Scene { app, clock, router, learner, scratch: Scratch::with_seed(7), now_s: 0.0 }
    }

    /// A proxy that has learned for 30 s: node `i` has four workers that take `services[i]`.
    pub(super) fn taught(names: &[&str], services: &[f64]) -> Scene {
        let mut scene = Scene::new(names, "random");
        let mut rng = fastrand::Rng::with_seed(1);
        for tick in 0..60 {
            scene.turn_to(f64::from(tick) * 0.5);
            let burst = 1 + rng.usize(..12 * names.len());
            let mut flying = Vec::new();
            for _ in 0..burst {
                let ticket = scene.decide("/v1/chat/completions", None);
                let queue = f64::from(ticket.decision().before.in_flight + 1) / 4.0;
                let took_s = services[ticket.node().slot as usize] * queue.max(1.0) * (0.9 + 0.2 * rng.f64());
                flying.push((scene.now_s + took_s, ticket));
            }
            flying.sort_by(|(a, _), (b, _)| a.total_cmp(b));
            for (ended_s, ticket) in flying {
                let ended = Time::from_secs_f64(ended_s);
                scene.learner.observe(ended, &ticket.finish(ended, DONE)).expect("a label");
            }
            scene.learner.refit(scene.now());
        }
        scene.app.switch_policy(PolicyId::named("adaptive").expect("known"), "the test");
        scene
    }

    pub(super) fn now(&self) -> Time {
        Time::from_secs_f64(self.now_s)
    }

    pub(super) fn turn_to(&mut self, seconds: f64) {
        self.now_s = seconds;
        self.clock.set(self.now());
    }

    pub(super) fn decide(&mut self, path: &str, model: Option<&str>) -> Ticket {
        let route = if path.ends_with("/chat/completions") { "chat" } else { "other" };
        let kind = self.app.kinds.of(route, model);
        let shape = RequestShape { kind, model: model.map(Arc::from), ..RequestShape::default() };
        match self.app.balancer.decide(self.now(), &shape, &[], &mut self.scratch) {
            Verdict::Go(ticket) => ticket,
            other => panic!("{other:?}"),
        }
    }

    /// The fleet's node of that name.
    pub(super) fn node(&self, name: &str) -> Arc<Node> {
        Arc::clone(self.app.balancer.fleet().by_name(name).expect("there"))
    }

    /// What a live event tells.
    pub(super) async fn live(&self) -> Value {
        let text = get(&self.router, "/api/v1/live?events=1").await.text;
        let (_, data) = text.split_once("event: live\ndata: ").expect("an event");
        serde_json::from_str(data).expect("JSON on one line")
    }

    pub(super) async fn explain(&self, request: Value) -> Value {
        call(&self.router, "POST", "/api/v1/explain", Some(request)).await.ok()
    }
}

pub(super) fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

#[tokio::test]
async fn before_anything_was_learned_the_model_says_so() {
    let scene = Scene::new(&["a", "b"], "adaptive");
    let model = get(&scene.router, "/api/v1/model").await.ok();
    assert_eq!((&model["version"], &model["age_s"], &model["typical"]), (&json!(0), &Value::Null, &Value::Null));
    assert_eq!((&model["nodes"], &model["fleet"]), (&json!([]), &json!([])));
    assert_eq!(model["standing"]["state"], "missing");
    assert_eq!(model["standing"]["detail"], "least-connections routes: nothing has been learned yet");
    assert_eq!(
        (&model["standing"]["routes"], &model["standing"]["router"]),
        (&json!(false), &json!("least-connections"))
    );
    let knobs = json!({
        "objective": "total", "social": 1.0, "explore": 0.01, "shadow": false, "fallback": "least-connections"
    });
    assert_eq!(model["knobs"], knobs);
    let seen = scene.explain(json!({})).await;
    assert_eq!((&seen["policy"], &seen["model_version"]), (&json!("adaptive"), &json!(0)));
    for candidate in seen["candidates"].as_array().expect("a list") {
        assert_eq!((&candidate["probability"], &candidate["why"]), (&json!(0.5), &json!("fallback")));
        assert_eq!((&candidate["predicted_s"], &candidate["score"]), (&Value::Null, &Value::Null));
    }
}

#[tokio::test]
async fn what_was_learned_is_shown_in_numbers_with_units_and_in_words() {
    let scene = Scene::taught(&["fast", "slow"], &[0.1, 0.4]);
    let model = get(&scene.router, "/api/v1/model").await.ok();
    assert_eq!((&model["standing"]["state"], &model["standing"]["routes"]), (&json!("routes"), &json!(true)));
    assert!(number(&model["version"]) > 50.0 && number(&model["age_s"]) < 1.0, "{model}");
    assert_eq!(model["typical"]["how"], "plain");
    let predictor = scene.app.balancer.learned().predictor().expect("taught");
    let mut rates = Vec::new();
    for (node, view) in scene.app.balancer.fleet().nodes().iter().zip(model["nodes"].as_array().expect("a list")) {
        assert_eq!((&view["name"], &view["known"]), (&json!(node.spec.name), &json!(true)));
        assert_eq!((&view["silent"], &view["ramp_limit"], &view["penalty"]), (&json!("no"), &Value::Null, &json!(0.0)));
        let known = predictor.known(node.slot, node.id).expect("taught");
        assert_eq!(view["capacity"]["rps"], json!(known.capacity.rps));
        rates.push(known.capacity.rps);
        let target = &view["targets"][0];
        assert_eq!((&target["target"], &target["evidence"]), (&json!("total"), &json!(known.evidence[0])));
        assert_eq!(target["speed_factor"], json!(known.speed[0]));
        let coefficients = target["coefficients"].as_array().expect("a list");
        let values: Vec<f64> = coefficients.iter().map(|one| number(&one["value"])).collect();
        assert_eq!(values, known.beta[0]);
        assert!(coefficients.iter().all(|one| one["unit"] == "s"), "{target}");
        let drift = number(&target["drift_factor"]);
        let words = format!("a request takes {} by itself", admin::span(known.beta[0][0] * drift));
        assert_eq!(coefficients[0]["words"], words);
    }
    assert!(rates[0] > 2.0 * rates[1], "{rates:?}");
    assert_eq!(model["kinds"][0]["kind"], "chat");
}

#[tokio::test]
async fn failures_new_nodes_and_silence_are_shown() {
    let mut scene = Scene::taught(&["a", "b"], &[0.2, 0.2]);
    scene
        .app
        .balancer
        .change_fleet(|fleet| fleet.with(NodeSpec::new("http://127.0.0.1:1/c").named("c")))
        .expect("room");
    let node = |model: &Value, at: usize| model["nodes"][at].clone();
    let model = get(&scene.router, "/api/v1/model").await.ok();
    assert_eq!((&node(&model, 2)["known"], &node(&model, 2)["ramp_limit"]), (&json!(false), &json!(4)));
    assert_eq!(node(&model, 2)["capacity"], Value::Null);
    assert_eq!(scene.live().await["nodes"][2]["ramp"], 4);
    // To be looked at is not to be known: nobody answered there, and the curve is the fleet's.
    scene.turn_to(scene.now_s + 1.0);
    let newcomer = scene.node("c");
    scene.learner.gaps(scene.now(), &newcomer, 0.0, 0, 0, 0.0, 0);
    scene.learner.refit(scene.now());
    let model = get(&scene.router, "/api/v1/model").await.ok();
    assert_eq!((&node(&model, 2)["known"], &node(&model, 2)["capacity"]), (&json!(false), &Value::Null));
    assert!(number(&node(&model, 2)["predicted_s"]) > 0.0, "{model}");
    assert_eq!(scene.live().await["nodes"][2]["capacity_rps"], Value::Null);
    scene.app.balancer.set_policy(PolicyId::named("round-robin").expect("known"));
    let tickets: Vec<Ticket> = (0..3).map(|_| scene.decide("/", None)).collect();
    let mut tickets = tickets.into_iter();
    tickets.next().expect("three").finish(scene.now(), Outcome::Failed(Failure::Connect));
    // The other two hang.
    scene.turn_to(scene.now_s + 9.0);
    let model = get(&scene.router, "/api/v1/model").await.ok();
    assert!(number(&node(&model, 0)["penalty"]) > 0.1, "{model}");
    assert_eq!((&node(&model, 0)["silent"], &node(&model, 1)["silent"]), (&json!("no"), &json!("yes")));
    assert_eq!(model["standing"]["state"], "other-policy");
    // Only the model keeps a new node small, so while it does not route nothing is told of that.
    assert_eq!((&node(&model, 2)["ramp_limit"], &scene.live().await["nodes"][2]["ramp"]), (&Value::Null, &Value::Null));
    assert_eq!(model["standing"]["detail"], "round-robin routes; the model only learns");
    drop(tickets);
}

#[tokio::test]
async fn knobs_are_turned_at_once_and_wrong_ones_change_nothing() {
    let scene = Scene::taught(&["fast", "slow"], &[0.1, 0.4]);
    let turn = |knobs: Value| call(&scene.router, "PATCH", "/api/v1/model", Some(knobs));
    let greedy = number(&scene.explain(json!({})).await["probability"]);
    assert!((greedy - 0.99).abs() < 0.01, "{greedy}");
    let turned = turn(json!({ "objective": "first-byte", "social": 0, "explore": 0.2 })).await.ok();
    assert_eq!(
        (&turned["objective"], &turned["social"], &turned["shadow"]),
        (&json!("first-byte"), &json!(0.0), &json!(false))
    );
    let exploring = number(&scene.explain(json!({})).await["probability"]);
    assert!(exploring < 0.96, "{exploring}");
    assert_eq!(turn(json!({ "objective": 0.25 })).await.ok()["objective"], 0.25);
    assert_eq!(turn(json!({ "shadow": true })).await.ok()["explore"], 0.2, "the others stay");
    assert_eq!(get(&scene.router, "/api/v1/model").await.ok()["standing"]["state"], "shadow");
    let seen = scene.explain(json!({})).await;
    assert_eq!((&seen["policy"], &seen["probability"]), (&json!("least-connections"), &json!(0.5)));
    assert_eq!(seen["model_prefers"], "fast");

    let before = get(&scene.router, "/api/v1/model").await.ok()["knobs"].clone();
    let problem =
        turn(json!({ "social": 11, "explore": "much", "objektive": "total", "fallback": "random" })).await.problem(422);
    assert_eq!(problem["errors"].as_array().map(Vec::len), Some(4), "{problem}");
    for wrong in
        [json!({}), json!([]), json!({ "social": null }), json!({ "objective": 2 }), json!({ "explore": -0.1 })]
    {
        turn(wrong).await.problem(422);
    }
    assert_eq!(get(&scene.router, "/api/v1/model").await.ok()["knobs"], before);
}

#[tokio::test]
async fn forgetting_and_saving_need_a_trainer_and_say_what_they_did() {
    let scene = Scene::taught(&["a"], &[0.1]);
    for order in ["reset", "snapshot"] {
        let problem = post(&scene.router, &format!("/api/v1/model/{order}")).await.problem(503);
        assert_eq!(problem["detail"], "the trainer does not answer");
    }
    let dir = tempfile::tempdir().expect("a directory");
    let app = App::new(kept_in(dir.path())).expect("valid");
    trainer::start(&app).expect("threads");
    let router = admin::router(Arc::clone(&app));
    let saved = post(&router, "/api/v1/model/snapshot").await.ok();
    let path = saved["path"].as_str().expect("a path");
    assert!(std::path::Path::new(path).exists(), "{path}");
    assert_eq!(post(&router, "/api/v1/model/reset").await.ok()["done"], "reset");
    assert_eq!(get(&router, "/api/v1/model").await.ok()["trainer"]["up"], true);
    app.trainer.stop();
}

#[tokio::test]
async fn an_explanation_is_the_distribution_of_the_next_decision() {
    let mut scene = Scene::taught(&["fast", "slow", "slower"], &[0.1, 0.4, 0.6]);
    for policy in bellwether::policy::names() {
        let seen = scene.explain(json!({ "policy": policy, "client": "10.0.0.9" })).await;
        assert_eq!((&seen["policy"], &seen["in_force"]), (&json!(policy), &json!(policy == "adaptive")));
        let candidates = seen["candidates"].as_array().expect("a list");
        let sum: f64 = candidates.iter().map(|candidate| number(&candidate["probability"])).sum();
        assert!((sum - 1.0).abs() < 1e-9 && candidates.len() == 3, "{seen}");
        // The model is asked of each, whoever decides.
        assert_eq!(seen["model_prefers"], "fast");
        assert!(candidates.iter().all(|candidate| number(&candidate["score"]) > 0.0), "{seen}");
    }
    for _ in 0..20 {
        let seen = scene.explain(json!({ "path": "/v1/chat/completions" })).await;
        assert_eq!(seen["kind"], "chat");
        let ticket = scene.decide("/v1/chat/completions", None);
        let candidates = seen["candidates"].as_array().expect("a list");
        let own =
            candidates.iter().find(|candidate| candidate["node"] == ticket.node().spec.name.as_str()).expect("there");
        assert!((number(&own["probability"]) - ticket.decision().propensity).abs() < 1e-12, "{seen}");
        assert!((number(&own["predicted_s"]) - ticket.decision().predicted_s).abs() < 1e-9, "{seen}");
        ticket.finish(scene.now(), Outcome::Completed { status: 404 });
    }
    let least = &scene.explain(json!({})).await["candidates"][0];
    assert_eq!((&least["node"], &least["why"]), (&json!("fast"), &json!("least-score")));
    let problem =
        call(&scene.router, "POST", "/api/v1/explain", Some(json!({ "policy": "adaptiv" }))).await.problem(422);
    assert_eq!(problem["did_you_mean"], "adaptive");
    for wrong in [json!({ "prompt_tokens": -1 }), json!({ "client": "nobody" }), json!({ "prompt": "hello" })] {
        call(&scene.router, "POST", "/api/v1/explain", Some(wrong)).await.problem(422);
    }
}

#[tokio::test]
async fn an_explanation_says_why_nodes_are_left_out_and_makes_no_kinds() {
    let scene = Scene::new(&["a", "b"], "random");
    post(&scene.router, "/api/v1/nodes/b/drain").await.ok();
    let seen =
        scene.explain(json!({ "model": "never seen", "streaming": true, "prompt_tokens": 900, "max_tokens": 5 })).await;
    assert_eq!((&seen["node"], &seen["kind"]), (&json!("a"), &json!("other")));
    assert_eq!(seen["because"], "it was the only candidate");
    assert_eq!(seen["left_out"], json!([{ "node": "b", "why": "draining" }]));
    post(&scene.router, "/api/v1/nodes/a/drain").await.ok();
    let seen = scene.explain(json!({ "model": "never seen" })).await;
    assert_eq!((&seen["node"], &seen["refused"]["reason"]), (&Value::Null, &json!("no_healthy_node")));
    assert_eq!(scene.app.kinds.len(), 1);
}

#[tokio::test]
async fn decisions_are_listed_newest_first_with_what_came_of_them_and_texts_are_only_texts() {
    let mut scene = Scene::taught(&["a<b>", "b\"\\\u{1b}[31m"], &[0.1, 0.4]);
    let hostile = "\"}],\"x\":\u{0}\u{1b}]0;\u{7}\u{202e}<script>\n";
    let mut numbers = Vec::new();
    for i in 0..5u16 {
        scene.turn_to(scene.now_s + 1.0);
        let (now_s, ticket) = (scene.now_s, scene.decide("/v1/chat/completions", Some(hostile)));
        numbers.push(ticket.node().spec.name.clone());
        let outcome = match i {
            0 => Outcome::Failed(Failure::Status(500)),
            1 => Outcome::Failed(Failure::Timeout),
            2 => Outcome::Full { status: 429, retry_after: None },
            _ => DONE,
        };
        if i < 4 {
            ticket.finish(Time::from_secs_f64(now_s + 0.5), outcome);
        } else {
            let listed = get(&scene.router, "/api/v1/decisions?limit=1").await.ok();
            assert_eq!(listed["decisions"][0]["end"], Value::Null, "it still runs");
            drop(ticket);
        }
    }
    let listed = get(&scene.router, "/api/v1/decisions?limit=5").await.ok();
    let listed = listed["decisions"].as_array().expect("a list");
    assert_eq!(listed.len(), 5);
    let ends = ["censored", "completed", "full", "failed", "failed"];
    for ((one, end), node) in listed.iter().zip(ends).zip(numbers.iter().rev()) {
        assert_eq!((&one["end"]["outcome"], &one["node"]), (&json!(end), &json!(node)));
        assert_eq!(one["kind"], format!("chat {hostile}"));
        assert!(one["time"].as_str().is_some_and(|time| time.ends_with('Z')), "{one}");
        let chosen =
            one["candidates"].as_array().expect("a list").iter().find(|candidate| candidate["node"] == one["node"]);
        assert_eq!(chosen.expect("the chosen one is there")["probability"], one["propensity"]);
    }
    // The node that said that it was full is no candidate afterwards.
    assert_eq!((&listed[2]["candidates_total"], &listed[1]["candidates_total"]), (&json!(2), &json!(1)));
    assert_eq!((&listed[1]["why"], &listed[1]["end"]["total_s"]), (&json!("only-one"), &json!(0.5)));
    assert_eq!((&listed[2]["end"]["status"], &listed[3]["end"]["failure"]), (&json!(429), &json!("timeout")));
    assert_eq!((&listed[4]["end"]["status"], &listed[4]["end"]["failure"]), (&json!(500), &json!("status")));
    assert_eq!((&listed[4]["age_s"], &listed[4]["policy"]), (&json!(4.0), &json!("adaptive")));
    for wrong in ["0", "1001", "-1", "x", "1&limit=2", "1&more=2"] {
        get(&scene.router, &format!("/api/v1/decisions?limit={wrong}")).await.problem(422);
    }
    assert!(
        get(&scene.router, "/api/v1/decisions").await.ok()["decisions"].as_array().is_some_and(|all| all.len() == 50)
    );
}
