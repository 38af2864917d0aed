//! Clients that leave: whatever their request was doing, the attempt ends, once, and the node hears of it at once.

use std::time::Duration;

use crate::rig::{Hole, Rig, Stage, chat, emulator, settings, spec_of, until};
use crate::wire::{Piece, Wire, get, post};

/// How a client leaves.
const WAYS: [fn(Wire); 2] = [drop, Wire::reset];

#[tokio::test]
async fn while_a_connection_to_the_node_is_waited_for() {
    for leave in WAYS {
        let hole = Hole::open().await;
        let mut settings = settings([hole.spec("a")]);
        settings.timeouts.connect = Duration::from_secs(3_600);
        let rig = Rig::start(settings);
        let mut client = rig.client().await;
        client.send(post("/v1/chat/completions", "{}")).await;
        until("in flight", || rig.in_flight("a") == 1).await;
        leave(client);
        rig.one_attempt("a", "client_gone").await;
        assert_eq!(rig.metric("bellwether_node_connections{node=\"a\"}"), 0.0);
    }
}

#[tokio::test]
async fn while_the_request_is_still_being_sent() {
    let heads = ["content-length: 1000000", "transfer-encoding: chunked"];
    for (leave, framing) in WAYS.iter().zip(heads) {
        let node = Stage::open("a").await;
        let rig = Rig::of([node.spec()]);
        let mut client = rig.client().await;
        client.send(format!("POST /upload HTTP/1.1\r\nhost: h\r\n{framing}\r\n\r\n5\r\nbegun\r\n")).await;
        let (mut call, _) = node.request().await;
        leave(client);
        // The node must not take a part for the whole: no final chunk comes.
        let sent = String::from_utf8(call.until_closed().await).expect("UTF-8");
        assert!(sent.starts_with("5\r\nbegun") && !sent.contains("0\r\n\r\n"), "{sent:?}");
        rig.one_attempt("a", "client_error").await;
    }
}

#[tokio::test]
async fn before_the_request_was_whole_enough_for_a_decision() {
    let node = Stage::open("a").await;
    let rig = Rig::of([node.spec()]);
    let whole = post("/v1/chat/completions", "{\"model\":\"m\"}");
    for leave in WAYS {
        for part in [10, whole.len() - 1] {
            let mut client = rig.client().await;
            client.send(&whole[..part]).await;
            until("connected", || rig.metric("bellwether_connections") == 1.0).await;
            leave(client);
            until("gone", || rig.metric("bellwether_connections") == 0.0).await;
        }
    }
    assert_eq!(rig.metric("bellwether_decisions_total{node=\"a\",policy=\"least-connections\"}"), 0.0);
}

#[tokio::test]
async fn while_the_first_byte_is_waited_for() {
    for leave in WAYS {
        let node = emulator("a").await;
        let rig = Rig::of([spec_of(&node)]);
        let mut client = rig.client().await;
        client.send(chat(1_000, false)).await;
        node.wait_until(|counters| counters.live == 1).await;
        node.step(3);
        leave(client);
        // Nothing is computed meanwhile: it is noticed before the next token, not because of it.
        let counters = node.wait_until(|counters| counters.cancelled == 1).await;
        assert_eq!((counters.live, counters.tokens), (0, 3));
        rig.one_attempt("a", "client_gone").await;
        assert_eq!(rig.metric("bellwether_ttfb_seconds_count{node=\"a\"}"), 0.0);
    }
}

#[tokio::test]
async fn in_the_middle_of_a_stream() {
    for leave in WAYS {
        let node = emulator("a").await;
        let rig = Rig::of([spec_of(&node)]);
        let mut client = rig.client().await;
        client.send(chat(1_000, true)).await;
        node.wait_until(|counters| counters.live == 1).await;
        let mut framing = client.head().await.framing();
        for _ in 0..3 {
            node.step(1);
            assert!(matches!(client.piece(&mut framing).await, Piece::Data(_)));
        }
        leave(client);
        // Far below the five events that are allowed: there is not one more.
        let counters = node.wait_until(|counters| counters.cancelled == 1).await;
        assert_eq!((counters.live, node.disconnects()[0].events), (0, 3));
        rig.one_attempt("a", "client_gone").await;
        assert_eq!(rig.metric("bellwether_ttfb_seconds_count{node=\"a\"}"), 0.0);
        assert_eq!(rig.metric("bellwether_node_connections{node=\"a\"}"), 0.0);
    }
}

#[tokio::test]
async fn in_the_middle_of_a_stream_that_it_does_not_read() {
    let node = emulator("a").await;
    let rig = Rig::of([spec_of(&node)]);
    let mut client = rig.client().await;
    client.send(chat(100_000, true)).await;
    node.wait_until(|counters| counters.live == 1).await;
    // Some 20 MB of events: more than the buffers of the kernel take.
    node.step(90_000);
    client.head().await;
    drop(client);
    let counters = node.wait_until(|counters| counters.cancelled == 1).await;
    assert_eq!(counters.live, 0);
    rig.one_attempt("a", "client_gone").await;
}

#[tokio::test]
async fn one_of_several_does_not_disturb_the_others() {
    let node = emulator("a").await;
    let rig = Rig::of([spec_of(&node)]);
    let mut clients = Vec::new();
    for _ in 0..10 {
        let mut client = rig.client().await;
        client.send(chat(20, true)).await;
        clients.push(client);
    }
    node.wait_until(|counters| counters.live == 10).await;
    node.step(2);
    clients.truncate(4);
    node.wait_until(|counters| counters.cancelled == 6).await;
    node.step(u32::MAX);
    for client in &mut clients {
        let message = client.message().await;
        assert!(message.clean && message.text().ends_with("data: [DONE]\n\n"));
    }
    until("all ended", || rig.in_flight("a") == 0).await;
    assert_eq!((rig.attempts("a", "client_gone"), rig.attempts("a", "completed")), (6.0, 4.0));
}

#[tokio::test]
async fn after_the_whole_response_is_no_departure() {
    let node = Stage::open("a").await;
    let rig = Rig::of([node.spec()]);
    let mut client = rig.client().await;
    client.send(get("/")).await;
    let (mut call, _) = node.request().await;
    call.send(crate::wire::ok("whole")).await;
    assert_eq!(client.message().await.text(), "whole");
    drop(client);
    rig.one_attempt("a", "completed").await;
}
