//! The live stream and the dashboard's files, from outside.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response, StatusCode};
use bellwether::admin::{self, Bounds};
use bellwether::config::{Role, Settings, Token};
use http_body_util::BodyExt;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tower_service::Service;

use crate::{App, app_with, call, get, run, send, soon};

/// Names and data of the events in `text`.
fn events(text: &str) -> Vec<(String, Value)> {
    let event = |block: &str| {
        let (name, data) =
            block.strip_prefix("event: ").and_then(|rest| rest.split_once("\ndata: ")).expect("an event");
        (name.to_owned(), serde_json::from_str(data).expect("JSON on one line"))
    };
    text.split_terminator("\n\n").map(event).collect()
}

async fn open(router: &Router) -> Response<Body> {
    let request = Request::builder().uri("/api/v1/live").header("host", "localhost").body(Body::empty());
    router.clone().call(request.expect("a request")).await.expect("infallible")
}

#[tokio::test]
async fn a_stream_tells_what_was_and_what_is_and_ends_after_as_many_events_as_wanted() {
    let app = app_with(&["a", "b"]);
    app.telemetry.answered(None, 503);
    let router = admin::router(Arc::clone(&app));
    call(&router, "POST", "/api/v1/nodes/b/drain", None).await.ok();
    let answer = get(&router, "/api/v1/live?events=1").await;
    assert_eq!((answer.status, answer.kind.as_str()), (StatusCode::OK, "text/event-stream"));
    assert_eq!(answer.headers["cache-control"], "no-store");
    let [(first, past), (second, live)] = &events(&answer.text)[..] else { panic!("{}", answer.text) };
    assert_eq!((first.as_str(), second.as_str()), ("history", "live"));
    assert!(past["moments"].is_array(), "{past}");
    let fleet = &live["fleet"];
    assert_eq!([&fleet["nodes"], &fleet["serving"], &fleet["answers"], &fleet["errors"]], [2, 1, 1, 1]);
    assert_eq!(live["policy"]["standing"]["state"], "missing");
    let nodes: Vec<&Value> = live["nodes"].as_array().into_iter().flatten().collect();
    let told: Vec<[&Value; 3]> = nodes.iter().map(|node| [&node["name"], &node["state"], &node["p50_s"]]).collect();
    assert_eq!(
        told,
        [["a".into(), "up".into(), Value::Null], ["b".into(), "draining".into(), Value::Null]]
            .each_ref()
            .map(|row| row.each_ref())
    );
    for events in ["0", "301", "x"] {
        let refused = get(&router, &format!("/api/v1/live?events={events}")).await;
        assert!([400, 422].contains(&refused.status.as_u16()), "{events}: {}", refused.text);
    }
}

#[tokio::test]
async fn limits_are_told_with_where_they_come_from() {
    let app = app_with(&["auto", "fixed", "free"]);
    let router = admin::router(Arc::clone(&app));
    for (name, limit) in [("auto", "auto".into()), ("fixed", Value::from(7))] {
        let patch = serde_json::json!({ "max_in_flight": limit });
        call(&router, "PATCH", &format!("/api/v1/nodes/{name}"), Some(patch)).await.ok();
    }
    let told = events(&get(&router, "/api/v1/live?events=1").await.text).remove(1).1;
    let told = |at: usize| ["limit", "auto_limit", "limit_now"].map(|key| told["nodes"][at][key].clone());
    let found = app.balancer.fleet().nodes()[0].limit();
    assert!((1..1_000).contains(&found), "where it begins: {found}");
    assert_eq!(told(0), [Value::Null, true.into(), found.into()]);
    assert_eq!(told(1), [Value::from(7), false.into(), Value::from(7)]);
    assert_eq!(told(2), [Value::Null, false.into(), Value::Null]);
}

#[tokio::test]
async fn streams_are_bounded_and_a_reader_that_goes_makes_room() {
    let router = admin::router(app_with(&["a"]));
    let mut readers = Vec::new();
    let full = loop {
        let answer = open(&router).await;
        if answer.status() != StatusCode::OK {
            break answer;
        }
        readers.push(answer);
        assert!(readers.len() < 100, "there is no bound");
    };
    assert_eq!((full.status(), readers.len()), (StatusCode::SERVICE_UNAVAILABLE, 16));
    let mut kept = readers.split_off(1);
    drop(readers);
    // Whoever fills it learns of that in its next turn.
    while open(&router).await.status() != StatusCode::OK {
        tokio::task::yield_now().await;
    }
    let frame = soon("an event", kept[0].body_mut().frame()).await.expect("not its end").expect("no error");
    assert!(frame.into_data().expect("data").starts_with(b"event: history\n"));
}

#[tokio::test]
async fn a_stop_does_not_wait_for_streams() {
    // Nothing but the end of the stream ends this stop in time.
    let patient = Duration::from_secs(3_600);
    let bounds = Bounds { stop: patient, request: patient, ..Bounds::default() };
    let running = run(app_with(&["a"]), bounds).await;
    let mut stream = TcpStream::connect(running.address).await.expect("a connection");
    stream.write_all(b"GET /api/v1/live HTTP/1.1\r\nhost: localhost\r\n\r\n").await.expect("written");
    let mut head = [0; 12];
    soon("the answer", stream.read_exact(&mut head)).await.expect("an answer");
    assert_eq!(&head, b"HTTP/1.1 200");
    running.stop.send(()).expect("it runs");
    let mut rest = Vec::new();
    soon("the end of the stream", stream.read_to_end(&mut rest)).await.expect("an orderly end");
    assert!(rest.ends_with(b"0\r\n\r\n"), "the stream is ended, not broken");
    soon("the stop", running.ended).await.expect("no panic").expect("no error");
}

#[tokio::test]
async fn the_page_needs_no_token_what_it_shows_does_and_it_may_do_no_more_than_it_must() {
    let mut settings = Settings::default();
    settings.admin.tokens = vec![Token { secret: "look".to_owned().into(), role: Role::Read }];
    let router = admin::router(App::new(settings).expect("valid"));
    let page = get(&router, "/").await;
    assert_eq!((page.status, page.kind.as_str()), (StatusCode::OK, "text/html; charset=utf-8"));
    let named = page.text.split('"').filter(|part| part.starts_with("dashboard/"));
    let mut paths: Vec<String> = named.map(|name| format!("/{name}")).collect();
    assert!(paths.len() >= 3, "{paths:?}");
    paths.push("/".to_owned());
    for path in &paths {
        let file = get(&router, path).await;
        assert_eq!(file.status, StatusCode::OK, "{path}");
        let policy = file.headers["content-security-policy"].to_str().expect("text");
        for part in ["default-src 'none'", "script-src 'self'", "style-src 'self'", "frame-ancestors 'none'"] {
            assert!(policy.split("; ").any(|one| one == part), "{path}: {policy}");
        }
        assert!(!policy.contains("unsafe") && !policy.contains("http"), "{path}: {policy}");
        assert_eq!(file.headers["x-content-type-options"], "nosniff");
        assert_eq!(file.headers["referrer-policy"], "no-referrer");
        let mark = file.headers["etag"].to_str().expect("text");
        let again = Request::builder().uri(path).header("host", "localhost").header("if-none-match", mark);
        let again = send(&router, again.body(Body::empty()).expect("a request")).await;
        assert_eq!((again.status, again.text.as_str()), (StatusCode::NOT_MODIFIED, ""));
    }
    get(&router, "/api/v1/live").await.problem(401);
    get(&router, "/dashboard/none.js").await.problem(401);
    call(&router, "POST", "/", None).await.problem(401);
    // A page that a name of somebody else leads to could be asked for the token.
    let rebound = Request::builder().uri("/").header("host", "evil.example").body(Body::empty());
    send(&router, rebound.expect("a request")).await.problem(421);
}

#[tokio::test]
async fn compact_events_of_two_hundred_nodes_say_the_same_in_a_fraction_of_the_bytes() {
    let names: Vec<String> = (0..200).map(|i| format!("rack-{}/gpu-{i}", i / 8)).collect();
    let app = app_with(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let router = admin::router(Arc::clone(&app));
    let stir = |factor: u32| {
        let fleet = app.balancer.fleet();
        for (at, node) in fleet.nodes().iter().enumerate() {
            let now = app.clock.now();
            for _ in 0..factor * at as u32 % 30 {
                node.live.ledger.try_start(now, 60, 0).expect("room");
            }
        }
    };
    stir(7);
    let whole = events(&get(&router, "/api/v1/live?events=1").await.text);
    let request = Request::builder().uri("/api/v1/live?compact=true&events=2").header("host", "localhost");
    let response = router.clone().call(request.body(Body::empty()).expect("a request")).await.expect("infallible");
    let mut body = response.into_body();
    let mut next = async || {
        let frame = soon("an event", body.frame()).await.expect("not its end").expect("no error");
        String::from_utf8(frame.into_data().expect("data").to_vec()).expect("UTF-8")
    };
    let mut texts = vec![next().await, next().await];
    stir(11);
    texts.push(next().await);
    let [_, first, second] = &texts[..] else { panic!("{texts:?}") };
    let nodes = whole[1].1["nodes"].as_array().expect("nodes");
    let (first_event, second_event) = (&events(first)[0].1, &events(second)[0].1);
    assert_eq!((first_event["count"].as_u64(), &first_event["nodes"]), (Some(200), &Value::Null));
    for (key, column) in first_event["columns"].as_object().expect("columns") {
        let told: Vec<&Value> = nodes.iter().map(|node| &node[key]).collect();
        assert_eq!(column.as_array().expect("a column").iter().collect::<Vec<_>>(), told, "{key}");
    }
    assert!(second_event["columns"]["name"].is_null() && second_event["columns"]["in_flight"].is_array());
    assert!(first.len() < 30_000 && second.len() < 10_000, "{} and {} bytes", first.len(), second.len());
}
