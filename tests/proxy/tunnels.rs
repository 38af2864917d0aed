//! Upgrades: bytes pass both ways until either side is done, and the proxy knows of them all the time.

use std::time::Duration;

use crate::rig::{Dead, Rig, Stage, emulator, policy, spec_of, until};
use crate::wire::{PATIENCE, Wire, get, ok};

const UPGRADE: &str = "GET /socket HTTP/1.1\r\nhost: h\r\nconnection: keep-alive, Upgrade\r\nupgrade: websocket\r\nsec-websocket-key: k\r\n\r\n";
const SWITCHING: &str =
    "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: a\r\n\r\n";

/// A tunnel through `rig`: its two ends.
async fn open(rig: &Rig, node: &Stage) -> (Wire, Wire) {
    let mut client = rig.client().await;
    client.send(UPGRADE).await;
    let (mut call, head) = node.request().await;
    assert_eq!((head.get("connection"), head.get("upgrade")), (Some("upgrade"), Some("websocket")), "{head:?}");
    assert_eq!(head.get("sec-websocket-key"), Some("k"));
    call.send(SWITCHING).await;
    let head = client.head().await;
    assert_eq!(head.status(), 101);
    assert_eq!((head.get("connection"), head.get("upgrade")), (Some("upgrade"), Some("websocket")), "{head:?}");
    assert_eq!(head.get("sec-websocket-accept"), Some("a"));
    (client, call)
}

async fn ping_pong(client: &mut Wire, call: &mut Wire) {
    client.send(b"\x81\x00ping").await;
    assert_eq!(call.take(6).await, b"\x81\x00ping");
    call.send(b"GET / HTTP/1.1\r\n").await;
    assert_eq!(client.take(16).await, b"GET / HTTP/1.1\r\n");
}

#[tokio::test]
async fn bytes_pass_both_ways_and_the_tunnel_counts_until_it_is_closed() {
    let node = Stage::open("a").await;
    let rig = Rig::of([node.spec()]);
    for client_closes in [true, false] {
        let (mut client, mut call) = open(&rig, &node).await;
        ping_pong(&mut client, &mut call).await;
        assert_eq!((rig.in_flight("a"), rig.metric("bellwether_connections")), (1, 1.0));
        let (closes, mut hears) = if client_closes { (client, call) } else { (call, client) };
        drop(closes);
        assert_eq!(hears.until_closed().await, b"");
        drop(hears);
        until("the end", || rig.in_flight("a") == 0 && rig.metric("bellwether_connections") == 0.0).await;
        until("closed", || rig.metric("bellwether_node_connections{node=\"a\"}") == 0.0).await;
    }
    // How long a tunnel was open is no response time.
    assert_eq!(rig.attempts("a", "completed"), 2.0);
    assert_eq!(rig.metric("bellwether_request_seconds_count{node=\"a\"}"), 0.0);
    assert_eq!(rig.metric("bellwether_requests_total{node=\"a\",code=\"101\"}"), 2.0);
}

#[tokio::test]
async fn what_either_side_sends_in_a_hurry_is_not_lost() {
    let node = Stage::open("a").await;
    let rig = Rig::of([node.spec()]);
    let mut client = rig.client().await;
    client.send(format!("{UPGRADE}early")).await;
    let (mut call, _) = node.request().await;
    call.send(format!("{SWITCHING}too")).await;
    client.head().await;
    assert_eq!(client.take(3).await, b"too");
    assert_eq!(call.take(5).await, b"early");
}

#[tokio::test]
async fn a_node_that_declines_answers_like_to_any_other_request() {
    let node = Stage::open("a").await;
    let rig = Rig::of([node.spec()]);
    let mut client = rig.client().await;
    client.send(UPGRADE).await;
    let (mut call, _) = node.request().await;
    call.send("HTTP/1.1 426 Upgrade Required\r\nupgrade: h2c\r\ncontent-length: 4\r\n\r\nnope").await;
    let message = client.message().await;
    assert_eq!((message.status(), message.text(), message.head.get("via")), (426, "nope", Some("1.1 bellwether")));
    rig.one_attempt("a", "completed").await;
    // Both connections go on as HTTP.
    client.send(get("/")).await;
    let head = call.head().await;
    assert_eq!(head.get("upgrade"), None);
    call.send(crate::wire::ok("next")).await;
    assert_eq!(client.message().await.text(), "next");
}

#[tokio::test]
async fn a_client_that_leaves_before_the_answer_takes_the_nodes_connection_with_it() {
    let node = Stage::open("a").await;
    let rig = Rig::of([node.spec()]);
    let mut client = rig.client().await;
    client.send(UPGRADE).await;
    let (mut call, _) = node.request().await;
    assert_eq!(rig.in_flight("a"), 1);
    drop(client);
    assert_eq!(call.until_closed().await, b"");
    rig.one_attempt("a", "client_gone").await;
}

#[tokio::test]
async fn a_dead_node_is_no_end_for_an_upgrade_either() {
    let (dead, node) = (Dead::node("dead"), Stage::open("a").await);
    let mut settings = crate::rig::settings([dead.spec(), node.spec()]);
    settings.policy = policy("round-robin");
    let rig = Rig::start(settings);
    // Two in a row: at least one of them meets the dead node first.
    for _ in 0..2 {
        let (mut client, mut call) = open(&rig, &node).await;
        ping_pong(&mut client, &mut call).await;
    }
    let refused = rig.attempts("dead", "failed_connect");
    assert!(refused >= 1.0);
    assert_eq!(rig.metric("bellwether_retries_total{reason=\"unsent\"}"), refused);
}

#[tokio::test]
async fn a_stop_lets_a_tunnel_go_on_until_the_deadline() {
    let node = Stage::open("a").await;
    let rig = Rig::of([node.spec()]);
    let (mut client, mut call) = open(&rig, &node).await;
    let app = std::sync::Arc::clone(&rig.app);
    let stopping = rig.stop(PATIENCE);
    until("stopping", || app.is_stopping()).await;
    for _ in 0..100 {
        ping_pong(&mut client, &mut call).await;
    }
    drop((client, call));
    assert!(stopping.await.expect("no panic"), "the tunnel ended by itself");

    let rig = Rig::of([node.spec()]);
    let (mut client, mut call) = open(&rig, &node).await;
    assert!(!rig.stop(Duration::from_millis(20)).await.expect("no panic"), "the tunnel was cut");
    assert_eq!((client.until_closed().await, call.until_closed().await), (vec![], vec![]));
}

#[tokio::test]
async fn an_ordinary_server_is_asked_for_an_upgrade_without_harm() {
    let node = emulator("a").await;
    let rig = Rig::of([spec_of(&node)]);
    let message = rig.client().await.ask(UPGRADE).await;
    assert_eq!((message.status(), message.clean), (404, true));
    rig.one_attempt("a", "completed").await;
}

#[tokio::test]
async fn a_wish_that_cannot_be_granted_is_ignored_and_the_rest_is_an_ordinary_request() {
    let websocket = "connection: upgrade\r\nupgrade: websocket\r\n";
    let h2c = "connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n";
    for (line, fields, body) in [
        ("POST /x HTTP/1.1", format!("{websocket}content-type: text/plain\r\ncontent-length: 2\r\n"), "{}"),
        ("POST /x HTTP/1.1", format!("{websocket}content-type: application/json\r\ncontent-length: 2\r\n"), "{}"),
        ("GET /x HTTP/1.1", h2c.to_owned(), ""),
        ("GET /x HTTP/1.0", websocket.to_owned(), ""),
    ] {
        let node = Stage::open("a").await;
        let rig = Rig::of([node.spec()]);
        let mut client = rig.client().await;
        client.send(format!("{line}\r\nhost: h\r\n{fields}\r\n{body}")).await;
        let (mut call, head) = node.request().await;
        assert_eq!((head.get("upgrade"), head.get("http2-settings")), (None, None), "{head:?}");
        assert_eq!(call.rest_of(head).await.text(), body);
        call.send(ok("plain")).await;
        assert_eq!(client.message().await.text(), "plain", "{line} {fields}");
        rig.one_attempt("a", "completed").await;
    }
}

#[tokio::test]
async fn a_client_cannot_have_a_node_blamed_by_an_upgrade_with_a_broken_body() {
    let node = Stage::open("a").await;
    let rig = Rig::of([node.spec()]);
    let mut client = rig.client().await;
    let fields = "connection: upgrade\r\nupgrade: websocket\r\ncontent-type: text/plain\r\ntransfer-encoding: chunked";
    client.send(format!("POST /x HTTP/1.1\r\nhost: h\r\n{fields}\r\n\r\nzz\r\n")).await;
    assert_eq!(client.message().await.status(), 400);
    let text = rig.app.scrape();
    let failed = text.lines().filter(|line| line.starts_with("bellwether_attempts_total{node=\"a\",outcome=\"failed"));
    assert!(failed.clone().count() > 0 && failed.clone().all(|line| line.ends_with(" 0")), "{text}");
}

#[tokio::test]
async fn a_node_that_is_too_full_for_a_tunnel_is_full_and_not_broken() {
    let node = Stage::open("a").await;
    let rig = Rig::of([node.spec()]);
    let mut client = rig.client().await;
    client.send(UPGRADE).await;
    let (mut call, _) = node.request().await;
    call.send("HTTP/1.1 503 Service Unavailable\r\nretry-after: 7\r\ncontent-length: 0\r\n\r\n").await;
    let message = client.message().await;
    assert_eq!((message.status(), message.head.get("retry-after")), (503, Some("7")));
    rig.one_attempt("a", "full").await;
}

#[tokio::test]
async fn a_tunnel_in_which_nobody_says_anything_ends_whether_one_side_has_closed_or_not() {
    for half_closed in [false, true] {
        let node = Stage::open("a").await;
        let mut settings = crate::rig::settings([node.spec()]);
        settings.timeouts.tunnel_idle = Duration::from_millis(50);
        let rig = Rig::start(settings);
        let (mut client, mut call) = open(&rig, &node).await;
        if half_closed {
            client.end().await;
        }
        assert_eq!((client.until_closed().await, call.until_closed().await), (vec![], vec![]));
        until("the end", || rig.in_flight("a") == 0).await;
        assert_eq!(rig.attempts("a", "completed"), 1.0);
    }
}
