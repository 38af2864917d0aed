//! Which nodes get work: active checks, passive evidence, and what is said when none does.

use std::time::Duration;

use bellwether::config::Settings;
use bellwether::emulator::Fault;
use bellwether::node::NodeSpec;

use crate::rig::{Dead, Rig, chat, emulator, settings, spec_of, until};
use crate::wire::{ok, post};

/// Checks as often as the clock allows.
fn watchful(node: NodeSpec, path: Option<&str>) -> Settings {
    let mut settings = settings([node]);
    settings.health.interval = Duration::from_millis(5);
    settings.health.timeout = Duration::from_millis(500);
    settings.health.path = path.map(str::to_owned);
    settings
}

fn is_up(rig: &Rig) -> bool {
    rig.node("a").live.health.is_up()
}

#[tokio::test]
async fn a_node_that_goes_away_is_down_and_comes_back() {
    let node = emulator("a").await;
    let rig = Rig::start(watchful(spec_of(&node), None));
    assert!(is_up(&rig));
    for round in 1..=2_u8 {
        node.set_fault(Fault::Refuse).await.expect("closed");
        until("down", || !is_up(&rig)).await;
        let refused = rig.client().await.ask(chat(1, false)).await;
        assert_eq!((refused.status(), refused.head.get("retry-after")), (503, Some("1")));
        let error = &refused.json()["error"];
        assert_eq!(error["code"], "no_healthy_node");
        assert!(
            error["message"].as_str().is_some_and(|text| text.contains("every node that could serve this request"))
        );
        node.set_fault(Fault::None).await.expect("listening");
        until("up", || is_up(&rig)).await;
        let mut client = rig.client().await;
        client.send(chat(1, false)).await;
        node.wait_until(|counters| counters.live == 1).await;
        node.step(1);
        assert_eq!(client.message().await.status(), 200);
        for to in ["down", "up"] {
            let series = format!("bellwether_health_changes_total{{node=\"a\",to=\"{to}\"}}");
            assert_eq!(rig.metric(&series), f64::from(round));
        }
    }
    assert_eq!(rig.metric("bellwether_rejected_total{reason=\"no_healthy_node\"}"), 2.0);
    assert_eq!(rig.attempts("a", "failed_connect"), 0.0);
}

#[tokio::test]
async fn a_path_is_asked_only_if_it_is_set() {
    // It accepts connections and answers nothing.
    let node = emulator("a").await;
    node.set_fault(Fault::NeverAnswer).await.expect("listening");
    let by_connection = Rig::start(watchful(spec_of(&node), None));
    let by_path = Rig::start(watchful(spec_of(&node), Some("/health")));
    until("down", || !is_up(&by_path)).await;
    let before = node.counters().connections;
    node.wait_until(|counters| counters.connections > before + 20).await;
    assert!(is_up(&by_connection));
    node.set_fault(Fault::None).await.expect("listening");
    until("up", || is_up(&by_path)).await;
}

#[tokio::test]
async fn a_path_that_answers_with_an_error_is_a_failed_check() {
    let node = emulator("a").await;
    let rig = Rig::start(watchful(spec_of(&node), Some("/nothing-here")));
    until("down", || !is_up(&rig)).await;
    assert_eq!(rig.metric("bellwether_node_state{node=\"a\",state=\"down\"}"), 1.0);
    assert_eq!(rig.metric("bellwether_node_up{node=\"a\"}"), 0.0);
}

#[tokio::test]
async fn connect_errors_of_requests_count_and_only_a_check_raises_again() {
    let dead = Dead::node("a");
    let rig = Rig::start(settings([dead.spec()]));
    // There is one active check at the start; two more failures make it three.
    for _ in 0..3 {
        let status = rig.client().await.ask(post("/v1/chat/completions", "{}")).await.status();
        assert!(status == 502 || status == 503);
    }
    assert!(!is_up(&rig));
    let stage = dead.rise();
    let refused = rig.client().await.ask(post("/v1/chat/completions", "{}")).await;
    assert_eq!(refused.json()["error"]["code"], "no_healthy_node");
    for _ in 0..2 {
        rig.app.balancer.checked(&rig.node("a"), true);
    }
    let mut client = rig.client().await;
    client.send(post("/v1/chat/completions", "{}")).await;
    let (mut call, _) = stage.request().await;
    call.send(ok("back")).await;
    assert_eq!(client.message().await.text(), "back");
}

#[tokio::test]
async fn a_node_that_is_added_is_checked_and_one_that_is_removed_is_not() {
    let (dead, node) = (Dead::node("late"), emulator("a").await);
    let rig = Rig::start(watchful(spec_of(&node), None));
    rig.app.balancer.change_fleet(|fleet| fleet.with(dead.spec())).expect("room");
    until("down", || !rig.node("late").live.health.is_up()).await;
    rig.app.balancer.change_fleet(|fleet| fleet.without("late")).expect("it exists");
    let stage = dead.rise();
    // Until the other node is checked forty times in a row while this one is not.
    let mut checked = true;
    while std::mem::replace(&mut checked, false) {
        let before = node.counters().connections;
        let mut forty = std::pin::pin!(node.wait_until(|counters| counters.connections > before + 40));
        while tokio::select! { _ = stage.connection() => true, _ = &mut forty => false } {
            checked = true;
        }
    }
}
