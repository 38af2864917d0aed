//! The end of a proxy: what runs may finish until the deadline, nothing new begins.

use std::time::Duration;

use crate::rig::{Rig, Stage, chat, emulator, spec_of, until};
use crate::wire::{PATIENCE, Piece, Wire, get, ok};

#[tokio::test]
async fn a_stream_may_end_and_nothing_new_begins() {
    let node = emulator("a").await;
    let rig = Rig::of([spec_of(&node)]);
    let mut client = rig.client().await;
    client.send(chat(10, true)).await;
    node.wait_until(|counters| counters.live == 1).await;
    let mut framing = client.head().await.framing();
    let ready = Wire::connect(rig.admin).await.ask("GET /readyz HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    assert_eq!(ready.status(), 200);

    let (app, address, admin) = (std::sync::Arc::clone(&rig.app), rig.address, rig.admin);
    let stopping = rig.stop(PATIENCE);
    until("stopping", || app.is_stopping()).await;
    let ready = Wire::connect(admin).await.ask("GET /readyz HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    assert_eq!((ready.status(), &ready.json()["detail"]), (503, &"stopping".into()));
    // Once the listener is closed; what the kernel took in before that is reset.
    until("closed", || std::net::TcpStream::connect(address).is_err()).await;
    for _ in 0..9 {
        node.step(1);
        assert!(matches!(client.piece(&mut framing).await, Piece::Data(_)));
    }
    assert!(!stopping.is_finished());
    node.step(1);
    let Piece::Data(last) = client.piece(&mut framing).await else { panic!("the end is missing") };
    assert!(last.ends_with(b"data: [DONE]\n\n"));
    assert_eq!(client.piece(&mut framing).await, Piece::End(Vec::new()));
    assert_eq!(client.until_closed().await, b"");
    assert!(stopping.await.expect("no panic"), "everything ended in time");
}

#[tokio::test]
async fn what_has_not_ended_by_the_deadline_is_cut() {
    let node = emulator("a").await;
    let rig = Rig::of([spec_of(&node)]);
    let mut client = rig.client().await;
    client.send(chat(10, true)).await;
    node.wait_until(|counters| counters.live == 1).await;
    node.step(1);
    let mut framing = client.head().await.framing();
    assert!(matches!(client.piece(&mut framing).await, Piece::Data(_)));
    let app = std::sync::Arc::clone(&rig.app);
    assert!(!rig.stop(Duration::from_millis(20)).await.expect("no panic"), "something was cut");
    assert_eq!(client.piece(&mut framing).await, Piece::Broken);
    node.wait_until(|counters| counters.cancelled == 1).await;
    assert_eq!(app.balancer.fleet().nodes()[0].live.ledger.in_flight(), 0);
    // We cut it; the client had not left.
    let metrics = app.scrape();
    let ended = |outcome: &str| format!("bellwether_attempts_total{{node=\"a\",outcome=\"{outcome}\"}} 1");
    assert!(metrics.contains(&ended("dropped")) && !metrics.contains(&ended("client_gone")), "{metrics}");
}

#[tokio::test]
async fn clients_without_a_request_are_not_waited_for() {
    let node = Stage::open("a").await;
    let rig = Rig::of([node.spec()]);
    let mut idle = rig.client().await;
    idle.send(get("/")).await;
    let (mut call, _) = node.request().await;
    call.send(ok("answered")).await;
    idle.message().await;
    let (mut silent, mut half) = (rig.client().await, rig.client().await);
    half.send("GET / HTTP/1.1\r\nhos").await;
    until("all connected", || rig.metric("bellwether_connections") == 3.0).await;
    let stopping = rig.stop(PATIENCE);
    assert_eq!((idle.until_closed().await, silent.until_closed().await), (vec![], vec![]));
    drop(half);
    assert!(stopping.await.expect("no panic"));
    assert_eq!(call.until_closed().await, b"");
}

#[tokio::test]
async fn a_kept_connection_closes_after_the_request_that_runs() {
    let node = Stage::open("a").await;
    let rig = Rig::of([node.spec()]);
    let mut client = rig.client().await;
    client.send(get("/")).await;
    let (mut call, _) = node.request().await;
    let app = std::sync::Arc::clone(&rig.app);
    let stopping = rig.stop(PATIENCE);
    until("stopping", || app.is_stopping()).await;
    call.send(ok("last")).await;
    let message = client.message().await;
    assert_eq!(message.text(), "last");
    assert_eq!(client.until_closed().await, b"");
    assert!(stopping.await.expect("no panic"));
}
