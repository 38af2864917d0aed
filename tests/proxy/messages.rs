//! Methods, statuses and versions whose messages end in other ways than by a body.

use crate::rig::{Rig, Stage};
use crate::wire::{Framing, Piece, Wire, get, ok, post};

/// A proxy before one node, and a client of it.
async fn scene() -> (Stage, Rig, Wire) {
    let node = Stage::open("a").await;
    let rig = Rig::of([node.spec()]);
    let client = rig.client().await;
    (node, rig, client)
}

#[tokio::test]
async fn the_answer_to_head_tells_a_length_and_has_no_body() {
    let (node, rig, mut client) = scene().await;
    client.send("HEAD /file HTTP/1.1\r\nhost: h\r\n\r\n").await;
    let (mut call, head) = node.request().await;
    assert_eq!(head.line, "HEAD /file HTTP/1.1");
    call.send("HTTP/1.1 200 OK\r\ncontent-length: 1234\r\netag: \"x\"\r\n\r\n").await;
    let head = client.head().await;
    assert_eq!((head.get("content-length"), head.get("etag")), (Some("1234"), Some("\"x\"")));
    // Both connections go on at the right place.
    client.send(get("/next")).await;
    assert_eq!(call.head().await.line, "GET /next HTTP/1.1");
    call.send(ok("next")).await;
    assert_eq!(client.message().await.text(), "next");
    assert_eq!(rig.attempts("a", "completed"), 2.0);
}

#[tokio::test]
async fn statuses_without_a_body_stay_without() {
    let (node, _rig, mut client) = scene().await;
    client.send(get("/")).await;
    let (mut call, _) = node.request().await;
    for (answer, etag) in [
        ("HTTP/1.1 204 No Content\r\n\r\n", None),
        ("HTTP/1.1 304 Not Modified\r\netag: \"x\"\r\ncontent-length: 77\r\n\r\n", Some("\"x\"")),
        ("HTTP/1.1 304 Not Modified\r\netag: \"y\"\r\n\r\n", Some("\"y\"")),
    ] {
        call.send(answer).await;
        let head = client.head().await;
        assert_eq!((head.get("transfer-encoding"), head.get("etag")), (None, etag), "{answer}");
        client.send(get("/")).await;
        call.head().await;
    }
}

#[tokio::test]
async fn a_client_that_waits_for_100_gets_it_before_it_sends_the_body() {
    for kind in ["application/json", "application/octet-stream"] {
        let (node, _rig, mut client) = scene().await;
        let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: h\r\nexpect: 100-continue\r\ncontent-length: 2\r\n";
        client.send(format!("{head}content-type: {kind}\r\n\r\n")).await;
        assert_eq!(client.head().await.status(), 100);
        client.send("{}").await;
        let (mut call, head) = node.request().await;
        assert_eq!(head.get("expect"), None);
        assert_eq!(call.rest_of(head).await.text(), "{}");
        call.send(ok("done")).await;
        assert_eq!(client.message().await.text(), "done");
    }
}

#[tokio::test]
async fn a_client_that_waits_for_100_is_refused_without_it() {
    let rig = Rig::of([]);
    let upload = "POST /upload HTTP/1.1\r\nhost: h\r\nexpect: 100-continue\r\ncontent-length: 1000000\r\n\r\n";
    assert_eq!(rig.client().await.ask(upload).await.status(), 503);
}

#[tokio::test]
async fn a_100_of_the_node_is_no_answer() {
    let (node, _rig, mut client) = scene().await;
    client.send(post("/v1/chat/completions", "{}")).await;
    let (mut call, head) = node.request().await;
    call.rest_of(head).await;
    call.send(format!("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n{}", ok("real"))).await;
    assert_eq!(client.message().await.text(), "real");
}

#[tokio::test]
async fn a_client_of_http_1_0_gets_no_chunks_and_the_end_by_closing() {
    let (node, rig, mut client) = scene().await;
    client.send("GET / HTTP/1.0\r\nhost: h\r\n\r\n").await;
    let (mut call, head) = node.request().await;
    assert_eq!(head.line, "GET / HTTP/1.1");
    call.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n").await;
    let message = client.message().await;
    assert_eq!((message.head.framing(), message.text()), (Framing::UntilClose, "hi"));
    // If it asks for it, it may go on.
    let mut client = rig.client().await;
    for _ in 0..2 {
        client.send("GET / HTTP/1.0\r\nhost: h\r\nconnection: keep-alive\r\n\r\n").await;
        call.head().await;
        call.send(ok("kept")).await;
        let message = client.message().await;
        assert_eq!((message.text(), message.head.get("connection")), ("kept", Some("keep-alive")));
    }
}

#[tokio::test]
async fn a_node_of_http_1_0_is_understood() {
    let (node, rig, mut client) = scene().await;
    client.send(get("/")).await;
    let (mut call, _) = node.request().await;
    call.send("HTTP/1.0 200 OK\r\nserver: old\r\n\r\nuntil the end").await;
    drop(call);
    let message = client.message().await;
    assert!(message.head.line.starts_with("HTTP/1.1 200 "));
    assert_eq!((message.text(), message.head.framing(), message.clean), ("until the end", Framing::Chunked, true));
    rig.one_attempt("a", "completed").await;
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_their_order() {
    let (node, _rig, mut client) = scene().await;
    client.send(format!("{}{}{}", post("/1", "one"), get("/2"), get("/3"))).await;
    let (mut call, head) = node.request().await;
    assert_eq!(call.rest_of(head).await.text(), "one");
    for number in ["1", "2", "3"] {
        call.send(ok(number)).await;
        assert_eq!(client.message().await.text(), number);
        if number != "3" {
            call.head().await;
        }
    }
}

#[tokio::test]
async fn a_node_whose_response_may_have_two_lengths_has_broken_the_protocol() {
    let (node, rig, _) = scene().await;
    let framings = [
        "content-length: 2\r\ncontent-length: 3",
        "content-length: -1",
        "content-length: 2, 3",
        "content-length: 7\r\ntransfer-encoding: chunked",
        "transfer-encoding: gzip, chunked",
    ];
    for lengths in framings {
        let mut client = rig.client().await;
        client.send(get("/")).await;
        let (mut call, _) = node.request().await;
        call.send(format!("HTTP/1.1 200 OK\r\n{lengths}\r\n\r\nhi")).await;
        assert_eq!(client.message().await.status(), 502, "{lengths}");
    }
}

#[tokio::test]
async fn methods_that_nobody_knows_pass() {
    let (node, _rig, mut client) = scene().await;
    client.send("PURGE /x HTTP/1.1\r\nhost: h\r\n\r\n").await;
    let (mut call, head) = node.request().await;
    assert_eq!(head.line, "PURGE /x HTTP/1.1");
    call.send(ok("purged")).await;
    assert_eq!(client.message().await.text(), "purged");
    client.send("OPTIONS * HTTP/1.1\r\nhost: h\r\n\r\n").await;
    assert_eq!(call.head().await.line, "OPTIONS * HTTP/1.1");
    call.send("HTTP/1.1 200 OK\r\nallow: GET\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n").await;
    let mut framing = client.head().await.framing();
    assert_eq!(client.piece(&mut framing).await, Piece::End(Vec::new()));
}
