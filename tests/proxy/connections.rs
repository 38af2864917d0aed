//! The pool of connections to nodes: used again, never wrongly, never too many.

use bellwether::emulator::Fault;

use crate::rig::{Rig, Stage, chat, emulator, settings, spec_of, until};
use crate::wire::{Piece, get, ok, post};

#[tokio::test]
async fn a_connection_is_used_again_after_every_kind_of_ending() {
    let node = Stage::open("a").await;
    let rig = Rig::of([node.spec()]);
    let mut client = rig.client().await;
    let with_length = ok("hello");
    let endings = [
        with_length.as_str(),
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 304 Not Modified\r\netag: \"x\"\r\n\r\n",
        "HTTP/1.1 500 Internal Server Error\r\ncontent-length: 2\r\n\r\nno",
    ];
    client.send(post("/first", "{}")).await;
    let (mut call, head) = node.request().await;
    call.rest_of(head).await;
    for answer in endings {
        call.send(answer).await;
        assert!(client.message().await.clean, "{answer}");
        client.send(post("/next", "{}")).await;
        // On the same connection, or this waits for ever.
        assert_eq!(call.message().await.head.line, "POST /next HTTP/1.1");
    }
    assert_eq!(rig.metric("bellwether_node_connections{node=\"a\"}"), 1.0);
}

#[tokio::test]
async fn a_connection_goes_back_only_after_the_end_of_the_body() {
    let node = Stage::open("a").await;
    let rig = Rig::of([node.spec()]);
    let (mut first, mut second) = (rig.client().await, rig.client().await);
    first.send(get("/first")).await;
    let (mut call, _) = node.request().await;
    call.send("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nha").await;
    let mut framing = first.head().await.framing();
    assert_eq!(first.piece(&mut framing).await, Piece::Data(b"ha".into()));
    second.send(get("/second")).await;
    let (mut other, head) = node.request().await;
    assert_eq!(head.line, "GET /second HTTP/1.1");
    call.send("lf").await;
    assert_eq!(first.piece(&mut framing).await, Piece::Data(b"lf".into()));
    first.send(get("/third")).await;
    assert_eq!(call.head().await.line, "GET /third HTTP/1.1");
    other.send(ok("2")).await;
    call.send(ok("3")).await;
    assert_eq!((second.message().await.text(), first.message().await.text()), ("2", "3"));
}

#[tokio::test]
async fn a_connection_that_the_node_closed_meanwhile_is_no_error_for_a_post_either() {
    let node = Stage::open("a").await;
    let rig = Rig::of([node.spec()]);
    let mut client = rig.client().await;
    for _ in 0..10 {
        client.send(post("/v1/chat/completions", "{\"model\":\"m\"}")).await;
        let (mut call, head) = node.request().await;
        assert_eq!(call.rest_of(head).await.text(), "{\"model\":\"m\"}");
        // Kept alive by what it says, closed by what it does.
        call.send(ok("answer")).await;
        assert_eq!(client.message().await.text(), "answer");
        drop(call);
    }
    assert_eq!(rig.attempts("a", "completed"), 10.0);
    assert_eq!(rig.metric("bellwether_retries_total{reason=\"unsent\"}"), 0.0);
}

#[tokio::test]
async fn a_streaming_upload_survives_a_closed_connection_too() {
    let node = Stage::open("a").await;
    let rig = Rig::of([node.spec()]);
    let mut client = rig.client().await;
    let upload = "POST /upload HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n";
    for _ in 0..3 {
        client.send(upload).await;
        let (mut call, head) = node.request().await;
        assert_eq!(call.rest_of(head).await.text(), "body");
        call.send(ok("answer")).await;
        assert_eq!(client.message().await.text(), "answer");
        drop(call);
    }
}

#[tokio::test]
async fn what_a_node_says_unasked_ends_its_connection_and_reaches_nobody() {
    let node = Stage::open("a").await;
    let rig = Rig::of([node.spec()]);
    let mut client = rig.client().await;
    client.send(get("/")).await;
    let (mut call, _) = node.request().await;
    call.send(format!("{}{}", ok("mine"), ok("poison"))).await;
    assert_eq!(client.message().await.text(), "mine");
    client.send(get("/")).await;
    let (mut call, _) = node.request().await;
    call.send(ok("yours")).await;
    assert_eq!(client.message().await.text(), "yours");
}

#[tokio::test]
async fn a_node_that_says_close_is_taken_at_its_word_and_the_client_stays() {
    let node = Stage::open("a").await;
    let rig = Rig::of([node.spec()]);
    let mut client = rig.client().await;
    for ending in ["content-length: 2\r\nconnection: close\r\n\r\nhi", "connection: close\r\n\r\nhi"] {
        client.send(get("/")).await;
        let (mut call, _) = node.request().await;
        call.send(format!("HTTP/1.1 200 OK\r\n{ending}")).await;
        drop(call);
        let message = client.message().await;
        assert_eq!((message.text(), message.clean, message.head.get("connection")), ("hi", true, None));
    }
    until("closed", || rig.metric("bellwether_node_connections{node=\"a\"}") == 0.0).await;
}

#[tokio::test]
async fn idle_and_old_connections_are_not_used_and_not_kept() {
    let ages: [fn(&mut bellwether::config::Limits); 3] = [
        |limits| limits.node_idle_timeout = std::time::Duration::ZERO,
        |limits| limits.node_lifetime = std::time::Duration::ZERO,
        |limits| limits.node_idle_max = 0,
    ];
    for age in ages {
        let node = Stage::open("a").await;
        let mut settings = settings([node.spec()]);
        age(&mut settings.limits);
        let rig = Rig::start(settings);
        let mut client = rig.client().await;
        for _ in 0..2 {
            client.send(get("/")).await;
            let (mut call, _) = node.request().await;
            call.send(ok("fresh")).await;
            assert_eq!(client.message().await.text(), "fresh");
            // Without another request: nobody has to come to close it.
            assert_eq!(call.until_closed().await, b"");
        }
    }
}

#[tokio::test]
async fn a_node_gets_no_more_connections_than_it_may_have() {
    let node = Stage::open("a").await;
    let mut settings = settings([node.spec()]);
    settings.limits.node_connections_max = 2;
    let rig = Rig::start(settings);
    let mut clients = [rig.client().await, rig.client().await];
    let mut calls = Vec::new();
    for client in &mut clients {
        client.send(get("/")).await;
        calls.push(node.request().await.0);
    }
    let refused = rig.client().await.ask(post("/v1/chat/completions", "{}")).await;
    assert_eq!(refused.status(), 503, "{refused:?}");
    assert_eq!(refused.head.get("retry-after"), Some("1"));
    assert_eq!(refused.head.get("proxy-status"), Some("bellwether; error=connection_limit_reached"));
    assert_eq!(rig.metric("bellwether_node_connections{node=\"a\"}"), 2.0);
    for (call, client) in calls.iter_mut().zip(&mut clients) {
        call.send(ok("done")).await;
        assert_eq!(client.message().await.text(), "done");
    }
    // A connection that is free again is used, and that the limit was reached is no mark against the node.
    clients[0].send(get("/again")).await;
    assert_eq!(calls[1].head().await.line, "GET /again HTTP/1.1");
    assert!(rig.node("a").live.health.is_up());
}

#[tokio::test]
async fn an_idle_client_is_parked_and_served_again() {
    let node = Stage::open("a").await;
    let rig = Rig::of([node.spec()]);
    let mut client = rig.client().await;
    let parked = |count| {
        let app = std::sync::Arc::clone(&rig.app);
        move || app.parked.load(std::sync::atomic::Ordering::Relaxed) == count
    };
    client.send(get("/first")).await;
    let (mut call, _) = node.request().await;
    call.send(ok("1")).await;
    assert_eq!(client.message().await.text(), "1");
    until("the client is parked", parked(1)).await;
    // Bytes wake it, not whole heads; twice over, and two requests at once.
    client.send("GET /sec").await;
    until("the client is awake", parked(0)).await;
    client.send("ond HTTP/1.1\r\nhost: a\r\n\r\nGET /third HTTP/1.1\r\nhost: a\r\n\r\n").await;
    for line in ["GET /second HTTP/1.1", "GET /third HTTP/1.1"] {
        assert_eq!(call.head().await.line, line);
        call.send(ok(line)).await;
        assert_eq!(client.message().await.text(), line);
    }
    until("the client is parked again", parked(1)).await;
    drop(client);
    until("the client is gone", parked(0)).await;
}

#[tokio::test]
async fn an_idle_connection_of_another_worker_gives_way_to_one_that_is_needed() {
    let node = emulator("a").await;
    node.set_fault(Fault::Status { status: 200, retry_after_s: None }).await.expect("listening");
    let mut settings = settings([spec_of(&node)]);
    (settings.workers, settings.limits.node_connections_max) = (4, 1);
    let rig = Rig::start(settings);
    // New connections are dealt to the worker that has fewest.
    let mut clients = Vec::new();
    for _ in 0..8 {
        clients.push(rig.client().await);
    }
    for client in &mut clients {
        assert_eq!(client.ask(chat(1, false)).await.status(), 200);
        until("at rest", || rig.in_flight("a") == 0).await;
    }
    assert_eq!(rig.metric("bellwether_node_connections{node=\"a\"}"), 1.0);
}
