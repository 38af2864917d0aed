//! What a proxy tells of its decisions: in headers if it is asked to, and afterwards through the admin API.

use std::sync::Arc;
use std::time::Duration;

use bellwether::balancer::{Balancer, Scratch, Verdict};
use bellwether::clock::{Clock, Time};
use bellwether::emulator::{Emulator, EmulatorSpec};
use bellwether::fleet::Fleet;
use bellwether::learn::{Knobs, Learner};
use bellwether::node::NodeSpec;
use bellwether::outcome::Outcome;
use bellwether::request::RequestShape;
use bellwether::sim::{BatchSpec, ServerSpec};
use serde_json::{Value, json};

use crate::rig::{Rig, Stage, chat, policy, settings, spec_of, until};
use crate::wire::{Wire, get, post};

/// Asks the admin API on its listener.
async fn ask(rig: &Rig, request: String) -> Value {
    let message = Wire::connect(rig.admin).await.ask(request.replacen("proxy.test", "localhost", 1)).await;
    assert_eq!(message.status(), 200, "{message:?}");
    message.json()
}

async fn decisions(rig: &Rig) -> Vec<Value> {
    let list = ask(rig, get("/api/v1/decisions?limit=1000")).await;
    list["decisions"].as_array().expect("a list").clone()
}

/// A server that computes by itself, a token in a tenth of a millisecond.
async fn quick(name: &str) -> Emulator {
    let server = ServerSpec::Batch(BatchSpec::new(1e-4, 0.0, 1e9, 256));
    Emulator::start(EmulatorSpec::new(name, server), 1).await.expect("a free port")
}

/// The probabilities of the candidates by name.
fn probabilities(view: &Value) -> Vec<(String, f64)> {
    let of =
        |one: &Value| (one["node"].as_str().expect("a name").to_owned(), one["probability"].as_f64().expect("one"));
    let mut all: Vec<_> = view["candidates"].as_array().expect("a list").iter().map(of).collect();
    all.sort_by(|(a, _), (b, _)| a.cmp(b));
    all
}

#[tokio::test]
async fn after_traffic_decisions_have_outcomes_and_the_distribution_that_an_explanation_gives() {
    let (a, b) = (quick("a").await, quick("b").await);
    let mut settings = settings([spec_of(&a), NodeSpec { weight: 3.0, ..spec_of(&b) }]);
    settings.policy = policy("random");
    let rig = Rig::start(settings);
    let mut client = rig.client().await;
    for at in 0..20 {
        let message = client.ask(chat(3, at % 2 == 0)).await;
        assert_eq!(message.status(), 200);
        assert_eq!(message.head.get("x-bellwether-node"), None, "nobody asked for it");
    }
    let ended = || rig.app.decisions.latest(usize::MAX).iter().all(|one| one.ended.get().is_some());
    until("what came of all is known", ended).await;
    let explained = ask(&rig, post("/api/v1/explain", &json!({ "model": "m", "streaming": true }).to_string())).await;
    assert_eq!(probabilities(&explained), [("a".to_owned(), 0.25), ("b".to_owned(), 0.75)]);
    assert_eq!((&explained["kind"], &explained["node"]), (&json!("chat m"), &json!("b")));
    let seen = decisions(&rig).await;
    assert!(!seen.is_empty());
    for one in &seen {
        assert_eq!(probabilities(one), probabilities(&explained));
        assert_eq!(
            (&one["kind"], &one["policy"], &one["why"]),
            (&json!("chat m"), &json!("random"), &json!("policy-draw"))
        );
        let end = &one["end"];
        assert_eq!((&end["outcome"], &end["status"]), (&json!("completed"), &json!(200)));
        assert!(end["ttfb_s"].as_f64() <= end["total_s"].as_f64() && end["ttfb_s"].as_f64() > Some(0.0), "{end}");
        assert_eq!(end["events"].as_u64().is_some_and(|events| events >= 3), one["streaming"] == true, "{one}");
    }
}

/// Teaches the proxy that the first node takes 40 ms and the others 120 ms, and ends its own learning.
fn teach(rig: &Rig) {
    rig.app.trainer.stop();
    let balancer = &rig.app.balancer;
    let mut learner = Learner::new(Arc::clone(balancer.learned()));
    let fleet = Fleet::clone(&balancer.fleet());
    let random = Arc::new(Balancer::new(fleet, policy("random"), Clock::manual(), Vec::new()));
    // So late that it does not grow stale while the test runs.
    let (now, mut scratch) = (Time::from_secs_f64(3_600.0), Scratch::with_seed(1));
    for _ in 0..300 {
        let Verdict::Go(ticket) = random.decide(now, &RequestShape::default(), &[], &mut scratch) else {
            panic!("every node is up")
        };
        let took_ms = if ticket.node().slot == 0 { 40 } else { 120 };
        let ended = now.after(Duration::from_millis(took_ms));
        learner.observe(ended, &ticket.finish(ended, Outcome::Completed { status: 200 })).expect("a label");
    }
    learner.refit(now);
    learner.refit(now);
    balancer.learned().set_knobs(Knobs { explore: 0.0, ..Knobs::default() });
}

#[tokio::test]
async fn debug_headers_tell_what_an_explanation_says() {
    let (a, b) = (quick("a").await, quick("b").await);
    let mut settings = settings([spec_of(&a), spec_of(&b)]);
    settings.policy = policy("adaptive");
    settings.debug_headers = true;
    let rig = Rig::start(settings);
    teach(&rig);
    let explained = ask(&rig, post("/api/v1/explain", "{}")).await;
    assert_eq!((&explained["node"], &explained["probability"]), (&json!("a"), &json!(1.0)));
    let predicted_ms = explained["candidates"][0]["predicted_s"].as_f64().expect("a model") * 1e3;
    let message = rig.client().await.ask(chat(3, false)).await;
    assert_eq!(message.head.get("x-bellwether-node"), Some("a"));
    assert_eq!(message.head.get("x-bellwether-policy"), Some("adaptive"));
    assert_eq!(message.head.get("x-bellwether-predicted-ms"), Some(format!("{predicted_ms:.1}").as_str()));
    let latest = &decisions(&rig).await[0];
    assert_eq!(
        (&latest["node"], &latest["why"], &latest["model_prefers"]),
        (&json!("a"), &json!("least-score"), &json!("a"))
    );
    assert!((latest["candidates"][0]["predicted_s"].as_f64().expect("a model") * 1e3 - predicted_ms).abs() < 1e-6);
}

#[tokio::test]
async fn a_nodes_own_words_do_not_pass_as_the_proxys() {
    let node = Stage::open("gpu \u{e9}").await;
    let mut settings = settings([node.spec()]);
    settings.policy = policy("round-robin");
    settings.debug_headers = true;
    let rig = Rig::start(settings);
    let mut client = rig.client().await;
    client.send(get("/")).await;
    let (mut call, _) = node.request().await;
    call.send(
        "HTTP/1.1 200 OK\r\nx-bellwether-node: evil\r\nx-bellwether-predicted-ms: 1\r\ncontent-length: 0\r\n\r\n",
    )
    .await;
    let head = client.message().await.head;
    assert_eq!(
        (head.get("x-bellwether-node"), head.get("x-bellwether-policy")),
        (Some("gpu \u{e9}"), Some("round-robin"))
    );
    assert_eq!(head.get("x-bellwether-predicted-ms"), None, "this policy predicts nothing");
}
