//! Requests that no node shall see: refused with a reason, before anything was decided.

use crate::rig::{Rig, Stage, settings};
use crate::wire::{Message, ok, post};

/// The answer to a request that is refused: JSON, with a reason, and the end of the connection.
async fn refused(rig: &Rig, request: impl AsRef<[u8]>, status: u16, code: &str) -> Message {
    let before = rig.metric(&format!("bellwether_refused_total{{reason=\"{code}\"}}"));
    let mut client = rig.client().await;
    // It may be refused, and the connection closed, before all of it is sent.
    let _ = client.try_send(&request).await;
    let message = client.message().await;
    let shown = String::from_utf8_lossy(request.as_ref()).chars().take(120).collect::<String>();
    assert_eq!(message.status(), status, "{shown:?}: {message:?}");
    assert_eq!(message.head.get("proxy-status"), Some("bellwether; error=http_request_error"), "{shown:?}");
    assert_eq!(message.head.get("connection"), Some("close"), "{shown:?}");
    let json = message.json();
    assert_eq!(if json["error"].is_object() { &json["error"]["code"] } else { &json["code"] }, code, "{shown:?}");
    assert_eq!(client.until_closed().await, b"");
    assert_eq!(rig.metric(&format!("bellwether_refused_total{{reason=\"{code}\"}}")), before + 1.0, "{shown:?}");
    message
}

#[tokio::test]
async fn what_two_readers_could_read_differently_is_refused_with_a_400() {
    let node = Stage::open("a").await;
    let rig = Rig::of([node.spec()]);
    for (fields, code) in [
        ("host: h\r\ncontent-length: 3\r\ntransfer-encoding: chunked", "length_and_encoding"),
        ("host: h\r\ncontent-length: 3\r\ncontent-length: 3", "repeated_content_length"),
        ("host: h\r\ncontent-length: +3", "bad_content_length"),
        ("host: h\r\ntransfer-encoding: gzip, chunked", "bad_transfer_encoding"),
        ("host: h\r\nx: a\r\n b: c", "obs_fold"),
        ("host: h\r\nhost: h", "repeated_host"),
        ("host: h/x", "bad_host"),
        ("x: y", "missing_host"),
        ("host: h\r\nx: a\0b", "bad_field_value"),
        ("host: h\r\nx\0: a", "bad_field_name"),
        ("host: h\r\ncontent_length: 3", "underscore_framing"),
        ("host: h\r\ntransfer_encoding: chunked", "underscore_framing"),
        ("host: h\r\nx : y", "space_before_colon"),
        ("host: h\r\nx: y\nz: a", "bare_lf"),
    ] {
        let request = format!("POST /v1/chat/completions HTTP/1.1\r\n{fields}\r\n\r\nabc");
        refused(&rig, request, 400, code).await;
    }
    refused(
        &rig,
        "POST / HTTP/1.0\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
        "transfer_encoding_in_http10",
    )
    .await;
    refused(&rig, "GET /a b HTTP/1.1\r\nhost: h\r\n\r\n", 400, "bad_request_line").await;
    refused(&rig, "GET https://h/ HTTP/1.1\r\nhost: h\r\n\r\n", 400, "bad_target").await;
    refused(&rig, "GET / HTTP/2.0\r\nhost: h\r\n\r\n", 505, "unsupported_version").await;
    assert_eq!(rig.metric("bellwether_decisions_total{node=\"a\",policy=\"least-connections\"}"), 0.0);
}

#[tokio::test]
async fn bad_chunks_are_refused_also_in_the_middle_of_a_body() {
    let node = Stage::open("a").await;
    let rig = Rig::of([node.spec()]);
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: h\r\ncontent-type: application/json\r\n\
        transfer-encoding: chunked\r\n\r\n";
    for (chunks, code) in [
        ("xyz\r\n", "bad_chunk_size"),
        ("-1\r\n", "bad_chunk_size"),
        ("2\r\n{}x\r\n0\r\n\r\n", "bad_chunk_end"),
        ("2\r\n{}\r\nffffffffffffffffff\r\n", "bad_chunk_size"),
        ("0\r\ncontent-length: 5\r\n\r\n", "forbidden_trailer"),
    ] {
        refused(&rig, format!("{head}{chunks}"), 400, code).await;
    }
    assert_eq!(rig.metric("bellwether_decisions_total{node=\"a\",policy=\"least-connections\"}"), 0.0);

    // Of this one the node has seen the beginning.
    let mut client = rig.client().await;
    client.send(format!("{}5\r\nbegun\r\n", head.replace("application/json", "text/plain"))).await;
    let (mut call, _) = node.request().await;
    assert_eq!(call.take(10).await, b"5\r\nbegun\r\n");
    client.send("zz\r\n").await;
    let message = client.message().await;
    assert_eq!((message.status(), &message.json()["error"]["code"]), (400, &"bad_chunk_size".into()));
    assert_eq!(client.until_closed().await, b"");
    assert_eq!(call.until_closed().await, b"");
    rig.one_attempt("a", "client_error").await;
}

#[tokio::test]
async fn what_is_too_large_is_refused_by_what_is_too_large() {
    let node = Stage::open("a").await;
    let mut settings = settings([node.spec()]);
    settings.limits.head_bytes_max = 16 * 1024;
    settings.limits.uri_bytes_max = 1024;
    settings.limits.headers_max = 20;
    let rig = Rig::start(settings);
    let long = "x".repeat(1025);
    refused(&rig, format!("GET /{long} HTTP/1.1\r\nhost: h\r\n\r\n"), 414, "uri_too_long").await;
    refused(&rig, format!("GET / HTTP/1.1\r\nhost: h\r\nx: {}\r\n\r\n", "y".repeat(17_000)), 431, "head_too_large")
        .await;
    refused(&rig, format!("GET / HTTP/1.1\r\nhost: h\r\n{}\r\n", "x: y\r\n".repeat(20)), 431, "too_many_fields").await;
}

#[tokio::test]
async fn a_body_above_the_limit_is_a_413_however_it_comes() {
    let node = Stage::open("a").await;
    let mut settings = settings([node.spec()]);
    settings.limits.body_bytes_max = Some(10);
    let rig = Rig::start(settings);
    let chunked = |kind: &str| {
        format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: h\r\ncontent-type: {kind}\r\ntransfer-encoding: chunked\r\n\r\n\
            9\r\n{{\"a\": \"bc\r\n9\r\ndefghij\"}}\r\n0\r\n\r\n"
        )
    };
    for request in [post("/v1/chat/completions", "{\"a\":\"bcde\"}"), chunked("application/json")] {
        let mut client = rig.client().await;
        client.send(request).await;
        let message = client.message().await;
        assert_eq!((message.status(), &message.json()["error"]["code"]), (413, &"body_too_large".into()));
        assert_eq!(message.head.get("connection"), Some("close"));
    }
    // This one is found out on its way.
    let mut client = rig.client().await;
    client.send(chunked("text/plain")).await;
    let (mut call, _) = node.request().await;
    assert_eq!(client.message().await.status(), 413);
    assert!(!String::from_utf8(call.until_closed().await).expect("UTF-8").contains("0\r\n\r\n"));
    rig.one_attempt("a", "client_error").await;
    // Exactly the limit is within it.
    let mut client = rig.client().await;
    client.send(post("/v1/chat/completions", "{\"a\":\"bc\"}")).await;
    let (mut call, head) = node.request().await;
    assert_eq!(call.rest_of(head).await.body.len(), 10);
    call.send(ok("fits")).await;
    assert_eq!(client.message().await.text(), "fits");
}

#[tokio::test]
async fn connect_is_not_proxied() {
    let node = Stage::open("a").await;
    let rig = Rig::of([node.spec()]);
    let message = rig.client().await.ask("CONNECT h:443 HTTP/1.1\r\nhost: h:443\r\n\r\n").await;
    assert_eq!(message.status(), 501);
    assert_eq!(message.head.get("proxy-status"), Some("bellwether; error=http_request_denied"));
}

#[tokio::test]
async fn what_was_asked_before_a_refusal_is_answered_before_it() {
    let node = Stage::open("a").await;
    let rig = Rig::of([node.spec()]);
    let mut client = rig.client().await;
    client.send("GET /good HTTP/1.1\r\nhost: h\r\n\r\nGET /bad HTTP/1.1\r\nhost: h\r\nhost: h\r\n\r\nGET /never").await;
    let (mut call, head) = node.request().await;
    assert_eq!(head.line, "GET /good HTTP/1.1");
    call.send(ok("good")).await;
    assert_eq!(client.message().await.text(), "good");
    assert_eq!(client.message().await.status(), 400);
    assert_eq!(client.until_closed().await, b"");
    rig.one_attempt("a", "completed").await;
}
