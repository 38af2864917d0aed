//! Changes while requests run: policy, nodes, limits. None of them loses a request.

use bellwether::emulator::Emulator;
use bellwether::node::NodeSpec;

use crate::rig::{Rig, chat, emulator, policy, settings, spec_of, until};
use crate::wire::Wire;

/// Sends so many requests on connections of their own and returns when the nodes have them.
async fn launch(rig: &Rig, nodes: &[&Emulator], count: usize) -> Vec<Wire> {
    let before = live(nodes);
    let mut clients = Vec::with_capacity(count);
    for _ in 0..count {
        let mut client = rig.client().await;
        client.send(chat(5, true)).await;
        clients.push(client);
    }
    until("under way", || live(nodes) == before + count as u64).await;
    clients
}

fn live(nodes: &[&Emulator]) -> u64 {
    nodes.iter().map(|node| node.counters().live).sum()
}

async fn all_whole(clients: &mut [Wire]) {
    for client in clients {
        let message = client.message().await;
        assert_eq!((message.status(), message.clean), (200, true));
        assert!(message.text().ends_with("data: [DONE]\n\n") && message.text().matches("data: ").count() == 6);
    }
}

fn finish(nodes: &[&Emulator]) {
    for node in nodes {
        node.step(u32::MAX);
    }
}

#[tokio::test]
async fn the_policy_is_switched_while_a_hundred_requests_run_and_none_is_lost() {
    let (a, b) = (emulator("a").await, emulator("b").await);
    let nodes = [&a, &b];
    let mut settings = settings([spec_of(&a), spec_of(&b)]);
    (settings.policy, settings.workers) = (policy("round-robin"), 2);
    let rig = Rig::start(settings);
    let mut clients = launch(&rig, &nodes, 100).await;
    // Turns, but for a connection that a busy machine was too slow to open.
    let live = (a.counters().live, b.counters().live);
    assert!(live.0 + live.1 == 100 && live.0.abs_diff(live.1) <= 10, "{live:?}");
    for name in bellwether::policy::names() {
        rig.app.switch_policy(policy(name), "test");
        clients.extend(launch(&rig, &nodes, 5).await);
    }
    let all = clients.len();
    finish(&nodes);
    all_whole(&mut clients).await;
    until("ended", || rig.in_flight("a") + rig.in_flight("b") == 0).await;
    assert_eq!(rig.attempts("a", "completed") + rig.attempts("b", "completed"), all as f64);
    for name in bellwether::policy::names() {
        let of = |node: &str| rig.metric(&format!("bellwether_decisions_total{{node=\"{node}\",policy=\"{name}\"}}"));
        assert_eq!(of("a") + of("b"), if name == "round-robin" { 105.0 } else { 5.0 }, "{name}");
    }
}

#[tokio::test]
async fn no_node_ever_has_more_than_its_limit() {
    let (a, b) = (emulator("a").await, emulator("b").await);
    let limited = |node: &Emulator, limit| NodeSpec { max_in_flight: Some(limit), ..spec_of(node) };
    for name in bellwether::policy::names() {
        let mut settings = settings([limited(&a, 3), limited(&b, 2)]);
        (settings.policy, settings.workers) = (policy(name), 2);
        settings.queue.rules.length_max = 0;
        let rig = Rig::start(settings);
        let mut asking = Vec::new();
        for _ in 0..20 {
            let mut client = rig.client().await;
            asking.push(tokio::spawn(async move { client.ask(chat(5, true)).await }));
        }
        until("15 are refused", || rig.metric("bellwether_rejected_total{reason=\"all_full\"}") == 15.0).await;
        until("5 are under way", || (a.counters().live, b.counters().live) == (3, 2)).await;
        assert_eq!((rig.in_flight("a"), rig.in_flight("b")), (3, 2));
        finish(&[&a, &b]);
        let mut statuses = Vec::new();
        for asked in asking {
            let message = asked.await.expect("no panic");
            assert!(message.status() == 200 || message.head.get("retry-after") == Some("1"));
            statuses.push(message.status());
        }
        assert_eq!(statuses.iter().filter(|status| **status == 503).count(), 15, "{name}");
        // The places are free again.
        until("ended", || rig.in_flight("a") + rig.in_flight("b") == 0).await;
        let mut clients = launch(&rig, &[&a, &b], 5).await;
        finish(&[&a, &b]);
        all_whole(&mut clients).await;
    }
}

#[tokio::test]
async fn nodes_come_and_go_and_what_runs_on_them_goes_on() {
    let (a, b) = (emulator("a").await, emulator("b").await);
    let rig = Rig::of([spec_of(&a)]);
    let mut clients = launch(&rig, &[&a], 10).await;
    rig.app.balancer.change_fleet(|fleet| fleet.with(spec_of(&b))).expect("room");
    clients.extend(launch(&rig, &[&a, &b], 10).await);
    assert_eq!((a.counters().live, b.counters().live), (10, 10));

    let removed = rig.node("a");
    rig.app.balancer.change_fleet(|fleet| fleet.without("a")).expect("it exists");
    clients.extend(launch(&rig, &[&a, &b], 10).await);
    assert_eq!((a.counters().live, b.counters().live), (10, 20));
    finish(&[&a, &b]);
    all_whole(&mut clients).await;
    until("ended", || removed.live.ledger.in_flight() + rig.in_flight("b") == 0).await;

    // One of the same name and address is another node, with nothing of the first one's.
    rig.app.balancer.change_fleet(|fleet| fleet.with(spec_of(&a))).expect("room");
    assert_ne!(rig.node("a").id, removed.id);
    let mut clients = launch(&rig, &[&a, &b], 4).await;
    assert_eq!((a.counters().live, b.counters().live), (2, 2));
    finish(&[&a, &b]);
    all_whole(&mut clients).await;
}

#[tokio::test]
async fn a_drained_node_finishes_and_gets_nothing_new_until_it_is_resumed() {
    let (a, b) = (emulator("a").await, emulator("b").await);
    let rig = Rig::of([spec_of(&a), spec_of(&b)]);
    let mut clients = launch(&rig, &[&a, &b], 4).await;
    rig.node("a").live.health.set_draining(true);
    clients.extend(launch(&rig, &[&a, &b], 4).await);
    assert_eq!((a.counters().live, b.counters().live), (2, 6));
    rig.node("b").live.health.set_draining(true);
    let refused = rig.client().await.ask(chat(1, false)).await;
    assert_eq!((refused.status(), &refused.json()["error"]["code"]), (503, &"no_healthy_node".into()));
    rig.node("a").live.health.set_draining(false);
    clients.extend(launch(&rig, &[&a, &b], 1).await);
    assert_eq!((a.counters().live, b.counters().live), (3, 6));
    finish(&[&a, &b]);
    all_whole(&mut clients).await;
}

#[tokio::test]
async fn a_reload_changes_the_fleet_under_running_requests() {
    let (a, b) = (emulator("a").await, emulator("b").await);
    let rig = Rig::of([spec_of(&a)]);
    let mut next = settings([NodeSpec { max_in_flight: Some(3), ..spec_of(&b) }]);
    next.queue.rules.length_max = 0;
    rig.app.reload.read_with(move || Ok(next.clone()));
    let mut clients = launch(&rig, &[&a], 10).await;
    let changes = rig.app.reload("test").expect("valid");
    assert_eq!((changes.nodes_added, changes.nodes_removed), (vec!["b".to_owned()], vec!["a".to_owned()]));
    clients.extend(launch(&rig, &[&a, &b], 3).await);
    assert_eq!(rig.client().await.ask(chat(5, true)).await.status(), 503);
    assert_eq!((a.counters().live, b.counters().live), (10, 3));
    finish(&[&a, &b]);
    all_whole(&mut clients).await;
}
