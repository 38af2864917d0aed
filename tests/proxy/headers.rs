//! What a gateway changes in header fields, and what it leaves alone.

use crate::rig::{Rig, Stage, settings};
use crate::wire::{Head, Message};

/// Sends `request` through a proxy to a node that answers `answer`: what the node got, and what the client got.
async fn pass(
    settings: impl FnOnce(&mut bellwether::config::Settings),
    request: &str,
    answer: &str,
) -> (Head, Message) {
    pass_to("", settings, request, answer).await
}

async fn pass_to(
    base: &str,
    change: impl FnOnce(&mut bellwether::config::Settings),
    request: &str,
    answer: &str,
) -> (Head, Message) {
    let node = Stage::open("a").await;
    let mut spec = node.spec();
    spec.url.push_str(base);
    let mut settings = settings([spec]);
    change(&mut settings);
    let rig = Rig::start(settings);
    let mut client = rig.client().await;
    client.send(request).await;
    let (mut call, head) = node.request().await;
    call.send(answer.replace("NODE", &node.address().to_string())).await;
    (head, client.message().await)
}

const DONE: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

#[tokio::test]
async fn hop_by_hop_fields_end_here_in_both_directions() {
    let request = "GET / HTTP/1.1\r\nHost: h\r\nConnection: X-Hop, keep-alive\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\n\
        Proxy-Connection: keep-alive\r\nTE: gzip, trailers\r\nUpgrade: h2c\r\nX-End: 2\r\nAccept: */*\r\n\r\n";
    let answer = "HTTP/1.1 200 OK\r\nConnection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nX-End: 2\r\n\
        Server: node\r\nContent-Length: 0\r\n\r\n";
    let (head, message) = pass(|_| {}, request, answer).await;
    for gone in ["connection", "x-hop", "keep-alive", "proxy-connection", "upgrade"] {
        assert_eq!(head.get(gone), None, "{head:?}");
        assert_eq!(message.head.get(gone), None, "{message:?}");
    }
    assert_eq!((head.get("te"), head.get("x-end"), head.get("accept")), (Some("trailers"), Some("2"), Some("*/*")));
    assert_eq!((message.head.get("x-end"), message.head.get("server")), (Some("2"), Some("node")));
}

#[tokio::test]
async fn the_node_learns_who_asks_and_through_whom() {
    let request = "GET / HTTP/1.1\r\nhost: api.test\r\nx-forwarded-for: 203.0.113.66\r\nforwarded: for=evil\r\n\
        x-forwarded-proto: https\r\nx-forwarded-host: evil.test\r\nvia: 1.0 first\r\n\r\n";
    let (head, message) = pass(|_| {}, request, "HTTP/1.1 200 OK\r\nvia: 1.0 last\r\ncontent-length: 0\r\n\r\n").await;
    assert_eq!(head.get("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(head.get("x-forwarded-proto"), Some("http"));
    assert_eq!(head.get("x-forwarded-host"), Some("api.test"));
    assert_eq!(head.get("forwarded"), Some("for=127.0.0.1;host=\"api.test\";proto=http"));
    assert_eq!(head.all("via"), ["1.0 first", "1.1 bellwether"]);
    assert_eq!(message.head.all("via"), ["1.0 last", "1.1 bellwether"]);
}

#[tokio::test]
async fn a_trusted_proxys_word_is_extended() {
    let trust = |settings: &mut bellwether::config::Settings| {
        settings.forward.trusted_proxies = vec!["127.0.0.0/8".parse().expect("a net")];
    };
    let request = "GET / HTTP/1.1\r\nhost: api.test\r\nx-forwarded-for: 203.0.113.66\r\nforwarded: for=203.0.113.66\r\n\
        x-forwarded-proto: https\r\nx-forwarded-host: front.test\r\n\r\n";
    let (head, _) = pass(trust, request, DONE).await;
    assert_eq!(head.get("x-forwarded-for"), Some("203.0.113.66, 127.0.0.1"));
    assert_eq!(head.get("x-forwarded-proto"), Some("https"));
    assert_eq!(head.get("x-forwarded-host"), Some("front.test"));
    let forwarded = "for=203.0.113.66, for=127.0.0.1;host=\"api.test\";proto=http";
    assert_eq!(head.get("forwarded"), Some(forwarded));
}

#[tokio::test]
async fn a_request_id_and_a_trace_are_kept_or_made_and_the_id_is_echoed() {
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let request = format!("GET / HTTP/1.1\r\nhost: h\r\nx-request-id: abc-123\r\ntraceparent: {trace}\r\n\r\n");
    // What the node says about the id does not count.
    let answer = "HTTP/1.1 200 OK\r\nx-request-id: other\r\ncontent-length: 0\r\n\r\n";
    let (head, message) = pass(|_| {}, &request, answer).await;
    assert_eq!((head.get("x-request-id"), head.get("traceparent")), (Some("abc-123"), Some(trace)));
    assert_eq!(message.head.get("x-request-id"), Some("abc-123"));

    let (head, message) = pass(|_| {}, "GET / HTTP/1.1\r\nhost: h\r\nx-request-id: two words\r\n\r\n", DONE).await;
    let id = head.get("x-request-id").expect("an id");
    assert!(id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
    assert_eq!(message.head.get("x-request-id"), Some(id));
    let made = head.get("traceparent").expect("a trace");
    assert!(made.len() == 55 && made.starts_with("00-") && made.ends_with("-00"), "{made}");

    // An answer of the proxy's own has it too.
    let rig = Rig::of([]);
    let refused = rig.client().await.ask(request).await;
    assert_eq!((refused.status(), refused.head.get("x-request-id")), (503, Some("abc-123")));
}

#[tokio::test]
async fn the_host_is_the_clients_unless_it_shall_be_the_nodes() {
    let request = "GET / HTTP/1.1\r\nhost: api.test:81\r\n\r\n";
    let (head, _) = pass(|_| {}, request, DONE).await;
    assert_eq!(head.get("host"), Some("api.test:81"));
    let (head, message) = pass(
        |s| s.forward.preserve_host = false,
        request,
        "HTTP/1.1 200 OK\r\nnode: NODE\r\ncontent-length: 0\r\n\r\n",
    )
    .await;
    assert_eq!(head.get("host"), message.head.get("node"));
    assert_eq!(head.get("x-forwarded-host"), Some("api.test:81"));
    // A client of HTTP/1.0 need not name one; a node of HTTP/1.1 must hear one.
    let (head, message) =
        pass(|_| {}, "GET / HTTP/1.0\r\n\r\n", "HTTP/1.1 200 OK\r\nnode: NODE\r\ncontent-length: 0\r\n\r\n").await;
    assert_eq!(head.get("host"), message.head.get("node"));
}

#[tokio::test]
async fn an_absolute_target_counts_more_than_the_host_field() {
    let (head, _) = pass(|_| {}, "GET http://real.test:82/a?b HTTP/1.1\r\nhost: other.test\r\n\r\n", DONE).await;
    assert_eq!((head.line.as_str(), head.get("host")), ("GET /a?b HTTP/1.1", Some("real.test:82")));
    assert_eq!(head.get("x-forwarded-host"), Some("real.test:82"));
    let (head, _) = pass(|_| {}, "GET http://real.test HTTP/1.1\r\nhost: real.test\r\n\r\n", DONE).await;
    assert_eq!((head.line.as_str(), head.get("host")), ("GET / HTTP/1.1", Some("real.test")));
}

#[tokio::test]
async fn the_path_of_the_nodes_url_stands_before_the_requests() {
    for (target, path) in [
        ("/v1/x?y=%20z&&a", "/deep/er/v1/x?y=%20z&&a"),
        ("/", "/deep/er/"),
        ("http://h/x", "/deep/er/x"),
        ("/a//b/../c;d?", "/deep/er/a//b/../c;d?"),
    ] {
        let request = format!("GET {target} HTTP/1.1\r\nhost: h\r\n\r\n");
        let (head, _) = pass_to("/deep/er", |_| {}, &request, DONE).await;
        assert_eq!(head.line, format!("GET {path} HTTP/1.1"));
    }
}

#[tokio::test]
async fn repeated_fields_and_odd_bytes_pass_as_they_are() {
    let request = "GET / HTTP/1.1\r\nhost: h\r\nx-many: 1\r\nx-many: 2\r\ncookie: a=b\r\ncookie: c=d\r\nx-text: grüße\r\n\
        x-empty:\r\n\r\n";
    let answer =
        "HTTP/1.1 200 Fine\r\nset-cookie: a=1\r\nset-cookie: b=2\r\nx-text: grüße\r\ncontent-length: 0\r\n\r\n";
    let (head, message) = pass(|_| {}, request, answer).await;
    assert_eq!((head.all("x-many"), head.all("cookie")), (vec!["1", "2"], vec!["a=b", "c=d"]));
    assert_eq!((head.get("x-text"), head.get("x-empty")), (Some("grüße"), Some("")));
    assert_eq!(message.head.all("set-cookie"), ["a=1", "b=2"]);
    assert_eq!(message.head.get("x-text"), Some("grüße"));
}
