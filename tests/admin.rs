//! The admin API from outside: every route, every kind of refusal, and the bounds of its listener.

mod certificates;
#[path = "admin/decisions.rs"]
mod decisions;
#[path = "admin/door.rs"]
mod door;
#[path = "admin/figures.rs"]
mod figures;
#[path = "admin/live.rs"]
mod live;
#[path = "admin/model.rs"]
mod model;
#[path = "admin/tls.rs"]
mod tls;

use std::collections::BTreeMap;
use std::future::Future;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Method, Request, StatusCode};
use bellwether::admin::{self, Bounds, PROBLEM_JSON};
use bellwether::app::App;
use bellwether::balancer::{Scratch, Verdict};
use bellwether::config::{Role, Settings, Token};
use bellwether::node::NodeSpec;
use bellwether::policy::PolicyId;
use bellwether::request::RequestShape;
use bellwether::trainer;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tower_service::Service;

fn app_with(names: &[&str]) -> Arc<App> {
    let nodes = names.iter().map(|name| NodeSpec::new(format!("http://127.0.0.1:1/{name}")).named(*name)).collect();
    App::new(Settings { nodes, ..Settings::default() }).expect("settings are valid")
}

/// What came back.
struct Answer {
    status: StatusCode,
    kind: String,
    headers: HeaderMap,
    text: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    /// The problem, after checking that it is one.
    fn problem(&self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        assert_eq!(self.kind, PROBLEM_JSON);
        let problem = self.json();
        assert_eq!(problem["status"], status);
        assert_eq!(problem["type"], "about:blank");
        assert!(problem["title"].is_string() && problem["detail"].is_string(), "{problem}");
        problem
    }

    fn ok(&self) -> Value {
        assert!(self.status.is_success(), "{} {}", self.status, self.text);
        self.json()
    }
}

async fn send(router: &Router, request: Request<Body>) -> Answer {
    let response = router.clone().call(request).await.expect("infallible");
    let (head, body) = response.into_parts();
    let text = String::from_utf8(to_bytes(body, usize::MAX).await.expect("a body").to_vec()).expect("UTF-8");
    let kind = head.headers.get("content-type").and_then(|kind| kind.to_str().ok()).unwrap_or_default().to_owned();
    Answer { status: head.status, kind, headers: head.headers, text }
}

async fn call(router: &Router, method: &str, path: &str, body: Option<Value>) -> Answer {
    let request = Request::builder().method(method).uri(path).header("host", "localhost");
    let request = match body {
        Some(body) => request.header("content-type", "application/json").body(Body::from(body.to_string())),
        None => request.body(Body::empty()),
    };
    send(router, request.expect("a request")).await
}

async fn get(router: &Router, path: &str) -> Answer {
    call(router, "GET", path, None).await
}

async fn post(router: &Router, path: &str) -> Answer {
    call(router, "POST", path, None).await
}

/// Every operation that the document lists, as path -> methods.
fn operations(document: &Value) -> BTreeMap<String, Vec<String>> {
    let paths = document["paths"].as_object().expect("paths");
    let methods = |item: &Value| item.as_object().expect("operations").keys().map(|m| m.to_uppercase()).collect();
    paths.iter().map(|(path, item)| (path.clone(), methods(item))).collect()
}

fn collect_references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            found.extend(fields.get("$ref").and_then(Value::as_str).map(str::to_owned));
            fields.values().for_each(|value| collect_references(value, found));
        }
        Value::Array(items) => items.iter().for_each(|value| collect_references(value, found)),
        _ => {}
    }
}

#[tokio::test]
async fn the_document_lists_every_route_and_every_reference_in_it_leads_somewhere() {
    let router = admin::router(app_with(&["a"]));
    let document = get(&router, "/api/v1/openapi.json").await.ok();
    let mut listed = operations(&document);
    listed.values_mut().for_each(|methods| methods.sort());
    let expected: BTreeMap<String, Vec<String>> = [
        ("/livez", vec!["GET"]),
        ("/readyz", vec!["GET"]),
        ("/metrics", vec!["GET"]),
        ("/api/v1/openapi.json", vec!["GET"]),
        ("/api/v1/nodes", vec!["GET", "POST"]),
        ("/api/v1/nodes/{name}", vec!["DELETE", "GET", "PATCH"]),
        ("/api/v1/nodes/{name}/drain", vec!["POST"]),
        ("/api/v1/nodes/{name}/resume", vec!["POST"]),
        ("/api/v1/policy", vec!["GET", "PUT"]),
        ("/api/v1/config", vec!["GET"]),
        ("/api/v1/reload", vec!["POST"]),
        ("/api/v1/model", vec!["GET", "PATCH"]),
        ("/api/v1/model/reset", vec!["POST"]),
        ("/api/v1/model/snapshot", vec!["POST"]),
        ("/api/v1/decisions", vec!["GET"]),
        ("/api/v1/decisions/stream", vec!["GET"]),
        ("/api/v1/explain", vec!["POST"]),
        ("/api/v1/live", vec!["GET"]),
    ]
    .map(|(path, methods)| (path.to_owned(), methods.into_iter().map(str::to_owned).collect()))
    .into();
    assert_eq!(listed, expected);
    assert!(document["openapi"].as_str().is_some_and(|version| version.starts_with("3.")), "{}", document["openapi"]);
    assert_eq!(document["components"]["securitySchemes"]["bearer"]["scheme"], "bearer");
    let mut references = Vec::new();
    collect_references(&document, &mut references);
    assert!(references.len() > 10, "{references:?}");
    for reference in references {
        let pointer = reference.strip_prefix('#').expect("a local reference");
        assert!(document.pointer(pointer).is_some_and(Value::is_object), "{reference} leads nowhere");
    }
}

#[tokio::test]
async fn what_is_listed_is_there_and_what_is_not_listed_is_not() {
    let router = admin::router(app_with(&["a"]));
    let document = get(&router, "/api/v1/openapi.json").await.ok();
    let all = [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS];
    for (path, methods) in operations(&document) {
        for method in &all {
            // A fresh instance each time, as some of these remove the node.
            let router = admin::router(app_with(&["a"]));
            // A stream would go on for minutes.
            let place = path.replace("{name}", "a").replace("v1/live", "v1/live?events=1");
            let place = place.replace("decisions/stream", "decisions/stream?events=0");
            let answer = call(&router, method.as_str(), &place, None).await;
            if methods.contains(&method.to_string()) {
                assert!(![404, 405].contains(&answer.status.as_u16()), "{method} {path}: {}", answer.text);
            } else {
                answer.problem(405);
                let allow = answer.headers.get("allow").and_then(|allow| allow.to_str().ok()).unwrap_or_default();
                assert!(methods.iter().all(|method| allow.contains(method)), "{method} {path}: {allow}");
            }
        }
    }
    for path in ["/api/v1/nothing", "/dashboard/", "/api/v1/nodes/", "/livez/"] {
        get(&router, path).await.problem(404);
    }
}

#[tokio::test]
async fn a_node_lives_from_its_addition_to_its_removal_whatever_its_name() {
    let router = admin::router(app_with(&["a"]));
    let new = json!({ "url": "http://127.0.0.1:9/base/", "name": "rack1/gpu[2]", "weight": 2.5, "models": ["m"] });
    let added = call(&router, "POST", "/api/v1/nodes", Some(new.clone())).await;
    assert_eq!(added.status, StatusCode::CREATED, "{}", added.text);
    let place = added.headers["location"].to_str().expect("a location").to_owned();
    assert_eq!(place, "/api/v1/nodes/rack1%2Fgpu%5B2%5D");
    let node = get(&router, &place).await.ok();
    assert_eq!(node["name"], "rack1/gpu[2]");
    assert_eq!(node["url"], "http://127.0.0.1:9/base");
    assert_eq!((&node["state"], &node["up"], &node["draining"]), (&json!("up"), &json!(true), &json!(false)));
    assert_eq!((&node["max_in_flight"], &node["limit"]), (&Value::Null, &json!(60_000)));
    assert_eq!(node["attempts"], json!({ "completed": 0, "full": 0, "failed": 0, "censored": 0 }));
    assert_eq!((&node["ttfb"], &node["total"]), (&Value::Null, &Value::Null));

    let taken = call(&router, "POST", "/api/v1/nodes", Some(new)).await.problem(409);
    assert!(taken["detail"].as_str().is_some_and(|detail| detail.contains("exists already")), "{taken}");

    let patched = call(&router, "PATCH", &place, Some(json!({ "max_in_flight": 4 }))).await.ok();
    assert_eq!((&patched["max_in_flight"], &patched["weight"]), (&json!(4), &json!(2.5)));
    let patched = call(&router, "PATCH", &place, Some(json!({ "weight": 0.5 }))).await.ok();
    assert_eq!((&patched["max_in_flight"], &patched["weight"]), (&json!(4), &json!(0.5)));
    let patched = call(&router, "PATCH", &place, Some(json!({ "max_in_flight": null }))).await.ok();
    assert_eq!((&patched["max_in_flight"], &patched["limit"]), (&Value::Null, &json!(60_000)));

    let drained = post(&router, &format!("{place}/drain")).await.ok();
    assert_eq!((&drained["state"], &drained["up"]), (&json!("draining"), &json!(true)));
    assert_eq!(post(&router, &format!("{place}/resume")).await.ok()["state"], "up");

    let list = get(&router, "/api/v1/nodes").await.ok();
    assert_eq!(list["nodes"].as_array().map(Vec::len), Some(2));
    assert_eq!(call(&router, "DELETE", &place, None).await.status, StatusCode::NO_CONTENT);
    get(&router, &place).await.problem(404);
    call(&router, "DELETE", &place, None).await.problem(404);
    assert_eq!(post(&router, "/api/v1/nodes/b/drain").await.problem(404)["did_you_mean"], "a");
}

/// Waits for what a task of the admin API does by itself; a test that waits for ever fails by its own time limit.
async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let waiting = async {
        while !done() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waiting).await.unwrap_or_else(|_| panic!("{what}: never"));
}

#[tokio::test]
async fn a_drained_node_with_a_deadline_leaves_after_its_last_request_and_not_before() {
    let app = app_with(&["a", "b"]);
    let router = admin::router(Arc::clone(&app));
    let gone = |name: &'static str| {
        let app = Arc::clone(&app);
        move || app.balancer.fleet().by_name(name).is_none()
    };
    app.switch_policy(PolicyId::named("round-robin").expect("it exists"), "the test");
    let start = || match app.balancer.decide(app.clock.now(), &RequestShape::default(), &[], &mut Scratch::with_seed(1))
    {
        Verdict::Go(ticket) => ticket,
        other => panic!("{other:?}"),
    };
    let tickets = [start(), start()];
    let drain = |name: &str, order| {
        let path = format!("/api/v1/nodes/{name}/drain");
        let router = router.clone();
        async move { call(&router, "POST", &path, Some(order)).await }
    };
    for wrong in
        [json!({ "remove_within_s": -1 }), json!({ "remove_within_s": 1e9 }), json!({ "within": 1 }), json!([])]
    {
        drain("a", wrong).await.problem(422);
    }
    assert_eq!(get(&router, "/api/v1/nodes/a").await.ok()["state"], "up", "a mistake drains nothing");

    let draining = drain("a", json!({ "remove_within_s": 3600 })).await.ok();
    assert_eq!((&draining["state"], &draining["in_flight"]), (&json!("draining"), &json!(1)));
    let left = draining["leaves_in_s"].as_f64().expect("a countdown");
    // Kept to a tenth of a second, rounded up.
    assert!(3590.0 < left && left <= 3600.1, "{left}");
    // Whoever thinks better of it keeps the node, and the earlier order with it does not count any more.
    assert_eq!(post(&router, "/api/v1/nodes/a/resume").await.ok()["leaves_in_s"], Value::Null);
    drain("a", json!({ "remove_within_s": 3600 })).await.ok();
    // The other one's deadline passes, whatever runs there: nothing is cut.
    drain("b", json!({ "remove_within_s": 0 })).await.ok();
    until("b leaves at its deadline", gone("b")).await;
    assert!(!gone("a")(), "its request still runs");
    assert!(tickets.iter().all(|ticket| ticket.node().live.ledger.in_flight() == 1));
    drop(tickets);
    until("a leaves with its last request", gone("a")).await;
}

#[tokio::test]
async fn limits_can_be_changed_also_to_automatic_ones_and_back() {
    let router = admin::router(app_with(&["a"]));
    let change = |patch| call(&router, "PATCH", "/api/v1/nodes/a", Some(patch));
    let told = |node: &Value| {
        [node["max_in_flight"].clone(), node["auto_limit"].clone(), node["max_in_flight_tokens"].clone()]
    };
    let auto = change(json!({ "max_in_flight": "auto", "max_in_flight_tokens": 9_000 })).await.ok();
    assert_eq!(told(&auto), [Value::Null, json!(true), json!(9_000)]);
    let heavier = change(json!({ "weight": 2 })).await.ok();
    assert_eq!(told(&heavier), told(&auto), "what is absent stays");
    let fixed = change(json!({ "max_in_flight": 7 })).await.ok();
    assert_eq!(told(&fixed), [json!(7), json!(false), json!(9_000)]);
    let free = change(json!({ "max_in_flight": null, "max_in_flight_tokens": null })).await.ok();
    assert_eq!(told(&free), [Value::Null, json!(false), Value::Null]);
    for wrong in
        [json!({ "max_in_flight": "much" }), json!({ "max_in_flight": 0 }), json!({ "max_in_flight_tokens": 0 })]
    {
        change(wrong).await.problem(422);
    }
}

#[tokio::test]
async fn a_node_that_cannot_be_is_refused_with_every_mistake() {
    let app = app_with(&["a"]);
    let router = admin::router(Arc::clone(&app));
    let version = app.balancer.fleet().version();
    let add = |body| call(&router, "POST", "/api/v1/nodes", Some(body));
    let wrong = json!({ "url": "https://x", "name": "", "weight": 0, "max_in_flight": 0, "models": ["a\nb"] });
    let problem = add(wrong).await.problem(422);
    let errors: Vec<&str> = problem["errors"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for field in ["url", "name", "weight", "max_in_flight", "models"] {
        assert!(errors.iter().any(|error| error.contains(field)), "{field}: {errors:?}");
    }
    for url in ["", "x", "ftp://h", "http://", "http://u:p@h", "http://h/?q", "http://h/#f", "http://h:0", "http://h:x"]
    {
        let problem = add(json!({ "url": url })).await.problem(422);
        assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("http://HOST")), "{url}: {problem}");
    }
    add(json!({ "url": "http://h", "name": "none" })).await.problem(422);
    add(json!({ "url": "http://h", "speed": 1 })).await.problem(422);
    for patch in [json!({}), json!({ "weight": -1 }), json!({ "weight": 1001 }), json!({ "max_in_flight": 60_001 })] {
        call(&router, "PATCH", "/api/v1/nodes/a", Some(patch)).await.problem(422);
    }
    assert_eq!(app.balancer.fleet().version(), version, "nothing has changed");
}

#[tokio::test]
async fn bodies_that_cannot_be_read_are_problems() {
    let router = admin::router(app_with(&["a"]));
    let put = async |kind: Option<&'static str>, body: &str| {
        let mut request = Request::builder().method("PUT").uri("/api/v1/policy").header("host", "localhost");
        if let Some(kind) = kind {
            request = request.header("content-type", kind);
        }
        send(&router, request.body(Body::from(body.to_owned())).expect("a request")).await
    };
    let json = Some("application/json");
    put(None, r#"{"policy":"round-robin"}"#).await.problem(415);
    put(Some("text/plain"), r#"{"policy":"round-robin"}"#).await.problem(415);
    put(json, "{").await.problem(400);
    put(json, "").await.problem(400);
    put(json, &format!("{{\"policy\":\"{}\"}}", "x".repeat(70_000))).await.problem(413);
    put(json, "{}").await.problem(422);
    put(json, "[]").await.problem(422);
    let extra = put(json, r#"{"policy":"round-robin","weight":1}"#).await.problem(422);
    assert!(extra["detail"].as_str().is_some_and(|detail| detail.contains("unknown field `weight`")), "{extra}");
}

#[tokio::test]
async fn the_policy_is_switched_at_once_and_a_wrong_name_is_explained() {
    let app = app_with(&["a"]);
    let router = admin::router(Arc::clone(&app));
    let put = |name: &str| call(&router, "PUT", "/api/v1/policy", Some(json!({ "policy": name })));
    let view = get(&router, "/api/v1/policy").await.ok();
    assert_eq!(view["policy"], app.balancer.policy().name());
    let available = view["available"].as_array().expect("a list");
    let named: Vec<&str> = available.iter().filter_map(|policy| policy["name"].as_str()).collect();
    assert_eq!(named, bellwether::policy::names());
    assert!(available.iter().all(|policy| policy["about"].as_str().is_some_and(|about| about.len() > 5)), "{view}");
    assert_eq!(put("round-robin").await.ok()["policy"], "round-robin");
    assert_eq!(app.balancer.policy().name(), "round-robin");
    let text = get(&router, "/metrics").await.text;
    assert!(text.contains("bellwether_policy_active{policy=\"round-robin\"} 1\n"), "{text}");
    assert!(text.contains("bellwether_policy_active{policy=\"least-connections\"} 0\n"), "{text}");
    assert!(text.contains("bellwether_policy_switches_total 1\n"), "{text}");
    let problem = put("round-robbin").await.problem(422);
    assert_eq!(problem["did_you_mean"], "round-robin");
    assert_eq!(problem["allowed"], json!(bellwether::policy::names()));
    assert_eq!(app.balancer.policy().name(), "round-robin");
}

#[tokio::test]
async fn readiness_follows_the_nodes_and_the_stop_and_liveness_does_not() {
    let app = app_with(&["a"]);
    let router = admin::router(Arc::clone(&app));
    assert_eq!(get(&router, "/readyz").await.ok()["status"], "ok");
    post(&router, "/api/v1/nodes/a/drain").await.ok();
    assert_eq!(get(&router, "/readyz").await.problem(503)["detail"], "every node is down or draining");
    post(&router, "/api/v1/nodes/a/resume").await.ok();
    get(&router, "/readyz").await.ok();
    app.stopping.store(true, Ordering::Relaxed);
    assert_eq!(get(&router, "/readyz").await.problem(503)["detail"], "stopping");
    assert_eq!(get(&router, "/livez").await.ok()["status"], "ok");
    let empty = admin::router(app_with(&[]));
    assert_eq!(get(&empty, "/readyz").await.problem(503)["detail"], "there are no nodes");
    // A load balancer in front may ask under any name.
    let probe = Request::builder().uri("/livez").header("host", "anything.example").body(Body::empty());
    assert_eq!(send(&empty, probe.expect("a request")).await.status, StatusCode::OK);
}

#[tokio::test]
async fn promtool_finds_nothing_wrong_with_the_metrics() {
    let app = app_with(&["a", "rack 1/\"b\"\\"]);
    let fleet = app.balancer.fleet();
    for node in fleet.nodes() {
        app.telemetry.answered(Some(node), 200);
        app.telemetry.answered(Some(node), 418);
    }
    app.telemetry.answered(None, 503);
    app.telemetry.retried("connect");
    app.telemetry.refused("malformed");
    let answer = get(&admin::router(app), "/metrics").await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.kind, "text/plain; version=0.0.4; charset=utf-8");
    let mut promtool = Command::new("promtool");
    promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut promtool = match promtool.spawn() {
        Ok(promtool) => promtool,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let message = "NOT CHECKED: promtool is not installed (Debian: apt-get install prometheus)\n";
            assert!(std::env::var_os("CI").is_none(), "{message}");
            // Not eprintln: what a passing test prints is not shown.
            let _ = io::stderr().write_all(message.as_bytes());
            return;
        }
        Err(error) => panic!("promtool does not start: {error}"),
    };
    promtool.stdin.take().expect("piped").write_all(answer.text.as_bytes()).expect("promtool reads");
    let result = promtool.wait_with_output().expect("promtool ends");
    let said = String::from_utf8_lossy(&result.stdout).into_owned() + &String::from_utf8_lossy(&result.stderr);
    assert!(result.status.success() && said.trim().is_empty(), "{said}\n{}", answer.text);
}

#[tokio::test]
async fn the_settings_are_shown_without_secrets_and_read_again_on_demand() {
    let app = app_with(&["a"]);
    let router = admin::router(Arc::clone(&app));
    post(&router, "/api/v1/reload").await.problem(409);
    assert_eq!(get(&router, "/api/v1/config").await.ok()["policy"], "adaptive");

    let file = Arc::new(Mutex::new(Err(vec!["x.toml:1:2: one".to_owned(), "x.toml:3:4: two".to_owned()])));
    let read = Arc::clone(&file);
    app.reload.read_with(move || read.lock().expect("not poisoned").clone());
    let problem = post(&router, "/api/v1/reload").await.problem(422);
    assert_eq!(problem["errors"], json!(["x.toml:1:2: one", "x.toml:3:4: two"]));
    call(&router, "POST", "/api/v1/nodes", Some(json!({ "url": "http://127.0.0.1:1", "name": "by-hand" }))).await.ok();

    let mut next = Settings { nodes: vec![NodeSpec::new("http://b:1").named("b")], ..Settings::default() };
    next.admin.tokens = vec![Token { secret: "hunter2".to_owned().into(), role: Role::Read }];
    *file.lock().expect("not poisoned") = Ok(next);
    let changes = post(&router, "/api/v1/reload").await.ok();
    assert_eq!(changes["nodes_added"], json!(["b"]));
    assert_eq!(changes["nodes_removed"], json!(["a"]));
    assert_eq!(changes["settings"], json!(["admin.token"]));
    // The new token is in force at once.
    let denied = get(&router, "/api/v1/nodes").await;
    denied.problem(401);
    assert!(denied.headers["www-authenticate"].to_str().is_ok_and(|challenge| challenge.starts_with("Bearer realm=")));
    let with_token = |path: &str| {
        let request =
            Request::builder().uri(path).header("host", "localhost").header("authorization", "Bearer hunter2");
        request.body(Body::empty()).expect("a request")
    };
    let nodes = send(&router, with_token("/api/v1/nodes")).await.ok();
    let names: Vec<&Value> = nodes["nodes"].as_array().into_iter().flatten().map(|node| &node["name"]).collect();
    assert_eq!(names, ["by-hand", "b"]);
    let shown = send(&router, with_token("/api/v1/config")).await;
    assert!(!shown.text.contains("hunter2"), "{}", shown.text);
    assert_eq!(shown.ok()["admin"]["token"], json!([{ "role": "read" }]));
}

#[derive(Clone, Default)]
struct Page(Arc<Mutex<Vec<u8>>>);

impl Write for Page {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("not poisoned").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Settings of a node whose model is kept in `dir`.
fn kept_in(dir: &Path) -> Settings {
    let mut settings =
        Settings { nodes: vec![NodeSpec::new("http://127.0.0.1:1/a").named("a")], ..Settings::default() };
    settings.adaptive.state_dir = Some(dir.join("state"));
    settings
}

/// A runtime whose other threads write to `log` too: files are read on such.
fn runtime_with(log: &tracing::Dispatch) -> tokio::runtime::Runtime {
    let log = log.clone();
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .on_thread_start(move || std::mem::forget(tracing::dispatcher::set_default(&log)))
        .build()
        .expect("a runtime")
}

#[test]
fn every_change_is_in_the_audit_log_with_who_and_what() {
    let page = Page::default();
    let written = page.clone();
    let subscriber = tracing_subscriber::fmt().json().with_writer(move || written.clone()).finish();
    let log = tracing::Dispatch::new(subscriber);
    // With a single log, what another test says first, on a thread without one, would be off everywhere from then on.
    let _second = tracing::Dispatch::new(tracing::subscriber::NoSubscriber::default());
    let runtime = runtime_with(&log);
    let dir = tempfile::tempdir().expect("a directory");
    let app = App::new(kept_in(dir.path())).expect("settings are valid");
    let next = Arc::new(Mutex::new(Ok(Settings { debug_headers: true, ..kept_in(dir.path()) })));
    let read = Arc::clone(&next);
    app.reload.read_with(move || read.lock().expect("not poisoned").clone());
    trainer::start(&app).expect("threads");
    tracing::dispatcher::with_default(&log, || {
        runtime.block_on(async {
            let router = admin::router(Arc::clone(&app));
            let node = json!({ "url": "http://127.0.0.1:1", "name": "b" });
            call(&router, "POST", "/api/v1/nodes", Some(node)).await.ok();
            call(&router, "PATCH", "/api/v1/nodes/b", Some(json!({ "weight": 3 }))).await.ok();
            post(&router, "/api/v1/nodes/b/drain").await.ok();
            post(&router, "/api/v1/nodes/b/resume").await.ok();
            call(&router, "DELETE", "/api/v1/nodes/b", None).await;
            call(&router, "PUT", "/api/v1/policy", Some(json!({ "policy": "round-robin" }))).await.ok();
            call(&router, "PATCH", "/api/v1/model", Some(json!({ "social": 2 }))).await.ok();
            post(&router, "/api/v1/model/snapshot").await.ok();
            post(&router, "/api/v1/model/reset").await.ok();
            post(&router, "/api/v1/reload").await.ok();
            *next.lock().expect("not poisoned") = Err(vec!["x.toml:1:2: one".to_owned()]);
            post(&router, "/api/v1/reload").await.problem(422);
            // Neither a look nor a refused change of a node is a change.
            get(&router, "/api/v1/nodes").await.ok();
            call(&router, "DELETE", "/api/v1/nodes/b", None).await.problem(404);
        });
    });
    app.trainer.stop();
    let text = String::from_utf8(page.0.lock().expect("not poisoned").clone()).expect("UTF-8");
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let audit: Vec<&Value> = lines.iter().filter(|line| line["target"] == "bellwether::audit").collect();
    let told: Vec<&str> = audit.iter().filter_map(|line| line["fields"]["message"].as_str()).collect();
    let expected = [
        "node added",
        "node changed",
        "node drained",
        "node resumed",
        "node removed",
        "policy switched",
        "knobs turned",
        "model saved",
        "model reset",
        "configuration reloaded",
        "reload refused, nothing has changed",
    ];
    assert_eq!(told, expected, "{text}");
    for (line, message) in audit.iter().zip(told) {
        assert_eq!(line["level"], if message.starts_with("reload refused") { "ERROR" } else { "INFO" });
        assert_eq!(line["fields"]["who"], "anybody on loopback", "{line}");
    }
    let says = |at: usize, field: &str, what: &str| {
        let said = &audit[at]["fields"][field];
        assert!(said.as_str().is_some_and(|said| said.contains(what)), "{field}: {said}");
    };
    says(5, "to", "round-robin");
    says(7, "path", &dir.path().display().to_string());
    says(9, "changes", "debug_headers");
    says(10, "error", "x.toml:1:2: one");
}

/// A listener with its API; it runs until `stop` is used or dropped.
struct Running {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    ended: tokio::task::JoinHandle<io::Result<()>>,
}

async fn run(app: Arc<App>, bounds: Bounds) -> Running {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    let (stop, stopped) = oneshot::channel::<()>();
    let shutdown = async { drop(stopped.await) };
    let ended = tokio::spawn(admin::serve_within(bounds, listener.into(), app, shutdown));
    Running { address, stop, ended }
}

/// What hangs here hangs for ever; the bound only turns that into a message.
async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), future).await.unwrap_or_else(|_| panic!("{what}: nothing happened"))
}

/// Sends `text` and reads until the other side closes.
async fn exchange(address: SocketAddr, text: &str) -> String {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    // The server may refuse a request, and close, before it has read all of it.
    let _ = stream.write_all(text.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = soon("the end of the connection", stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn tokens_and_hosts_count_on_real_sockets() {
    let mut settings = Settings::default();
    settings.admin.tokens = vec![Token { secret: "look".to_owned().into(), role: Role::Read }];
    let running = run(App::new(settings).expect("valid"), Bounds::default()).await;
    let ask = async |head: &str| exchange(running.address, &format!("{head}connection: close\r\n\r\n")).await;
    let good = "host: localhost\r\nauthorization: Bearer look\r\n";
    let nodes = ask(&format!("GET /api/v1/nodes HTTP/1.1\r\n{good}")).await;
    assert!(nodes.starts_with("HTTP/1.1 200 "), "{nodes}");
    let stranger = ask("GET /api/v1/nodes HTTP/1.1\r\nhost: localhost\r\n").await;
    assert!(stranger.starts_with("HTTP/1.1 401 ") && stranger.contains("\r\nwww-authenticate: Bearer "), "{stranger}");
    let reader = ask(&format!("POST /api/v1/reload HTTP/1.1\r\n{good}")).await;
    assert!(reader.starts_with("HTTP/1.1 403 "), "{reader}");
    let rebound = ask("GET /metrics HTTP/1.1\r\nhost: evil.example\r\nauthorization: Bearer look\r\n").await;
    assert!(rebound.starts_with("HTTP/1.1 421 "), "{rebound}");
    let huge = ask(&format!("GET /livez HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n", "y".repeat(64 * 1024))).await;
    assert!(huge.is_empty() || huge.starts_with("HTTP/1.1 431 "), "{huge}");
    running.stop.send(()).expect("it runs");
    soon("the stop", running.ended).await.expect("no panic").expect("no error");
}

#[tokio::test]
async fn clients_that_send_too_little_are_sent_away() {
    let bounds = Bounds { head: Duration::from_millis(50), request: Duration::from_millis(50), ..Bounds::default() };
    let running = run(app_with(&["a"]), bounds).await;
    // Each of these returns only when the server closes the connection.
    exchange(running.address, "").await;
    exchange(running.address, "G").await;
    exchange(running.address, "GET /livez HTTP/1.1\r\nhost: loc").await;
    exchange(running.address, "GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    let head =
        "PUT /api/v1/policy HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 9\r\n";
    let slow = exchange(running.address, &format!("{head}\r\n{{")).await;
    assert!(slow.starts_with("HTTP/1.1 408 ") && slow.contains(PROBLEM_JSON), "{slow}");
}

#[tokio::test]
async fn connections_are_bounded_and_old_ones_make_room() {
    let bounds = Bounds { connections_max: 1, connection: Duration::from_millis(50), ..Bounds::default() };
    let running = run(app_with(&["a"]), bounds).await;
    let _silent = TcpStream::connect(running.address).await.expect("a connection");
    // The only place is taken by somebody who says nothing, until that connection is too old.
    let answer = exchange(running.address, "GET /livez HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[tokio::test]
async fn the_stop_does_not_wait_for_those_who_say_nothing() {
    let running = run(app_with(&["a"]), Bounds { stop: Duration::from_millis(50), ..Bounds::default() }).await;
    let mut half = TcpStream::connect(running.address).await.expect("a connection");
    half.write_all(b"GET /livez HTTP/1.1\r\nhost: loc").await.expect("written");
    running.stop.send(()).expect("it runs");
    soon("the stop", running.ended).await.expect("no panic").expect("no error");
    let mut rest = Vec::new();
    let _ = soon("the end of the connection", half.read_to_end(&mut rest)).await;
}

#[tokio::test]
async fn beyond_loopback_nothing_is_served_without_a_token() {
    let listener = std::net::TcpListener::bind("0.0.0.0:0").expect("a free port");
    let refused = admin::serve(listener.into(), app_with(&["a"]), std::future::pending()).await;
    let error = refused.expect_err("refused");
    assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    assert!(error.to_string().contains("[[admin.token]]"), "{error}");
}
