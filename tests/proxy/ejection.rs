//! Nodes that answer, but badly: taken out, tried again one request at a time, and taken back.

use std::time::Duration;

use bellwether::emulator::{Emulator, Fault};
use bellwether::fleet::State;

use crate::rig::{Rig, chat, emulator, policy, settings, spec_of, until};

async fn says(node: &Emulator, status: u16, retry_after_s: Option<u32>) {
    node.set_fault(Fault::Status { status, retry_after_s }).await.expect("listening");
}

/// Two nodes under round robin, the first of which fails as it is told to.
async fn rig(status: u16, retry_after_s: Option<u32>, base: Duration) -> (Rig, Emulator, Emulator) {
    let (a, b) = (emulator("a").await, emulator("b").await);
    says(&a, status, retry_after_s).await;
    says(&b, 200, None).await;
    let mut settings = settings([spec_of(&a), spec_of(&b)]);
    settings.policy = policy("round-robin");
    settings.ejection.base = base;
    (Rig::start(settings), a, b)
}

async fn ask(rig: &Rig, times: usize) -> Vec<u16> {
    let mut client = rig.client().await;
    let mut statuses = Vec::new();
    for _ in 0..times {
        statuses.push(client.ask(chat(1, false)).await.status());
    }
    statuses
}

#[tokio::test]
async fn a_node_that_fails_five_in_a_row_gets_no_more_requests() {
    let (rig, a, b) = rig(500, None, Duration::from_secs(300)).await;
    assert_eq!(ask(&rig, 10).await, [500, 200].repeat(5));
    assert_eq!(ask(&rig, 20).await, [200; 20]);
    assert_eq!((a.counters().started, b.counters().started), (5, 25));
    assert_eq!(rig.metric("bellwether_ejections_total{node=\"a\",cause=\"consecutive\"}"), 1.0);
    assert_eq!(rig.metric("bellwether_node_state{node=\"a\",state=\"ejected\"}"), 1.0);
    assert_eq!(rig.metric("bellwether_node_limit{node=\"a\"}"), 1.0);
}

#[tokio::test]
async fn full_nodes_and_wrong_requests_are_not_ejected() {
    for (status, retry_after_s) in [(404, None), (422, None), (429, Some(0)), (503, Some(0))] {
        let (rig, a, _b) = rig(status, retry_after_s, Duration::from_secs(300)).await;
        let (answers, asked) = (ask(&rig, 60).await, a.counters().started);
        match retry_after_s {
            // Somebody else is asked then, and it is the first one's turn again.
            Some(_) => assert_eq!((answers, asked), (vec![200; 60], 60), "{status}"),
            None => assert_eq!((answers, asked), ([status, 200].repeat(30), 30), "{status}"),
        }
        assert_eq!(rig.metric("bellwether_node_state{node=\"a\",state=\"up\"}"), 1.0, "{status}");
    }
}

#[tokio::test]
async fn an_ejected_node_returns_by_one_request_that_succeeds() {
    let (rig, a, b) = rig(500, None, Duration::from_millis(1)).await;
    ask(&rig, 10).await;
    let state = || rig.node("a").live.health.state(rig.app.clock.now());
    until("the trial", || state() == State::Trial).await;
    // While it fails, each trial costs one request and makes the next pause longer.
    while rig.metric("bellwether_ejections_total{node=\"a\",cause=\"trial\"}") < 1.0 {
        ask(&rig, 1).await;
    }
    says(&a, 200, None).await;
    until("the next trial", || state() == State::Trial).await;
    let before = a.counters().started;
    assert_eq!(ask(&rig, 2).await, [200, 200]);
    assert_eq!((a.counters().started - before, state()), (1, State::Up));
    // Sixty-three more, and nothing holds it back.
    ask(&rig, 126).await;
    assert!(!rig.node("a").live.health.is_out());
    assert!(b.counters().started > 60);
}
