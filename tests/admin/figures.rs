//! What operators are shown is what it says: capacity that is there, times that are times, counts that do not jump.

use bellwether::balancer::Ticket;
use bellwether::config::Settings;
use bellwether::node::MaxInFlight;
use serde_json::{Value, json};

use super::model::{Scene, number};
use super::{call, get, post};

#[tokio::test]
async fn what_gets_no_work_is_no_capacity_and_has_no_fair_share() {
    let mut scene = Scene::taught(&["a", "b", "c", "d"], &[0.2; 4]);
    let before = scene.live().await;
    let failed = (0..3).filter_map(|_| scene.app.balancer.checked(&scene.node("b"), false)).count();
    assert_eq!(failed, 1, "three checks in a row bring it down");
    post(&scene.router, "/api/v1/nodes/c/drain").await.ok();
    // Streams share what was looked up within half a second.
    scene.turn_to(scene.now_s + 1.0);
    let after = scene.live().await;
    let rates: Vec<f64> =
        before["nodes"].as_array().into_iter().flatten().map(|node| number(&node["capacity_rps"])).collect();
    let near = |value: &Value, wanted: f64| assert!((number(value) / wanted - 1.0).abs() < 0.01, "{value} {wanted}");
    near(&before["fleet"]["capacity_rps"], rates.iter().sum());
    near(&before["nodes"][1]["fair_share"], rates[1] / rates.iter().sum::<f64>());
    let serving = rates[0] + rates[3];
    near(&after["fleet"]["capacity_rps"], serving);
    near(&after["nodes"][0]["fair_share"], rates[0] / serving);
    assert_eq!((&after["nodes"][1]["fair_share"], &after["nodes"][2]["fair_share"]), (&Value::Null, &Value::Null));
    near(&after["nodes"][1]["capacity_rps"], rates[1]);
    let text = get(&scene.router, "/metrics").await.text;
    let shares: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix("bellwether_node_fair_share{node=\"")).collect();
    near(&json!(shares[0].trim_start_matches("a\"} ").parse::<f64>().expect("a number")), rates[0] / serving);
    assert_eq!((shares[1], shares[2]), ("b\"} NaN", "c\"} NaN"));
}

#[tokio::test]
async fn while_only_gaps_are_known_what_is_in_flight_is_not_shown_as_seconds() {
    let mut scene = Scene::new(&["a", "b"], "adaptive");
    for tick in 1..10 {
        scene.turn_to(0.5 * f64::from(tick));
        for name in ["a", "b"] {
            scene.learner.gaps(scene.now(), &scene.node(name), 4.0, 0, 4, 0.5, 10);
        }
        scene.learner.refit(scene.now());
    }
    let tickets: Vec<Ticket> = (0..4).map(|_| scene.decide("/v1/chat/completions", None)).collect();
    assert!(tickets.iter().all(|ticket| ticket.decision().predicted_s.is_nan()), "a header and recordings tell it");
    let model = get(&scene.router, "/api/v1/model").await.ok();
    assert_eq!(model["typical"]["how"], "unknown");
    assert_eq!(model["nodes"][0]["targets"][0]["target"], "gap", "{model}");
    assert_eq!((&model["nodes"][0]["predicted_s"], &model["nodes"][0]["capacity"]), (&Value::Null, &Value::Null));
    let explained = scene.explain(json!({})).await;
    let listed = get(&scene.router, "/api/v1/decisions").await.ok();
    for candidate in [&explained["candidates"][0], &listed["decisions"][0]["candidates"][0]] {
        for key in ["predicted_s", "first_byte_s", "gap_s", "adds_s"] {
            assert_eq!(candidate[key], Value::Null, "{key} {candidate}");
        }
        assert!(number(&candidate["score"]) >= 1.0, "it goes by the number in flight: {candidate}");
    }
    assert_eq!(listed["decisions"][0]["cost_s"], Value::Null);
    let live = scene.live().await;
    assert_eq!((&live["fleet"]["capacity_rps"], &live["nodes"][0]["capacity_rps"]), (&Value::Null, &Value::Null));
    let text = get(&scene.router, "/metrics").await.text;
    assert!(text.contains("bellwether_node_capacity_rps{node=\"a\"} NaN\n"), "{text}");
}

#[tokio::test]
async fn the_settings_in_force_tell_what_was_changed_while_running() {
    let scene = Scene::new(&["a", "b"], "adaptive");
    let change = |method, path, body| call(&scene.router, method, path, Some(body));
    change("PUT", "/api/v1/policy", json!({ "policy": "round-robin" })).await.ok();
    change("PATCH", "/api/v1/model", json!({ "social": 3, "shadow": true })).await.ok();
    let settings = Settings { max_in_flight: MaxInFlight::Fixed(9), ..Settings::clone(&scene.app.settings.load()) };
    scene.app.settings.store(settings.into());
    let added = change("POST", "/api/v1/nodes", json!({ "url": "http://h:1", "name": "c" })).await.ok();
    assert_eq!((&added["max_in_flight"], &added["limit"]), (&json!(9), &json!(9)), "the default of all nodes");
    let free = json!({ "url": "http://h:2", "name": "d", "max_in_flight": "off" });
    let added = change("POST", "/api/v1/nodes", free).await.ok();
    assert_eq!((&added["max_in_flight"], &added["limit"]), (&Value::Null, &json!(60_000)));
    change("POST", "/api/v1/nodes", json!({ "url": "http://h:3", "name": "e" })).await.ok();
    let patched = change("PATCH", "/api/v1/nodes/e", json!({ "weight": 2 })).await.ok();
    assert_eq!(patched["max_in_flight"], 9);
    let patched = change("PATCH", "/api/v1/nodes/e", json!({ "max_in_flight": null })).await.ok();
    assert_eq!((&patched["max_in_flight"], &patched["limit"]), (&Value::Null, &json!(60_000)));
    change("PATCH", "/api/v1/nodes/a", json!({ "weight": 2.5, "max_in_flight": "auto" })).await.ok();
    call(&scene.router, "DELETE", "/api/v1/nodes/b", None).await;
    let told = get(&scene.router, "/api/v1/config").await.ok();
    assert_eq!((&told["policy"], &told["adaptive"]["social"]), (&json!("round-robin"), &json!(3.0)));
    assert_eq!((&told["adaptive"]["shadow"], &told["adaptive"]["explore"]), (&json!(true), &json!(0.01)));
    let nodes = told["node"].as_array().expect("a list");
    assert_eq!(nodes.iter().map(|node| &node["name"]).collect::<Vec<_>>(), ["a", "c", "d", "e"]);
    let limits: Vec<&Value> = nodes.iter().map(|node| &node["max_in_flight"]).collect();
    assert_eq!(
        (&told["max_in_flight"], limits[1], limits[2], limits[3]),
        (&json!(9), &Value::Null, &json!("off"), &json!("off"))
    );
    assert_eq!((&nodes[0]["weight"], &nodes[0]["max_in_flight"]), (&json!(2.5), &json!("auto")));
}
