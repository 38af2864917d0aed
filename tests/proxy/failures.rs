//! Nodes that fail: what may be tried elsewhere, how often, and what the client is told.

use bellwether::config::Settings;
use bellwether::emulator::Fault;
use bellwether::node::NodeSpec;

use crate::rig::{Dead, Rig, Stage, chat, emulator, policy, route, settings, spec_of};
use crate::wire::{Message, Wire, get, ok, post};

/// Round robin begins with the first node; that nodes fail takes none of them out of service.
fn patient(nodes: impl IntoIterator<Item = bellwether::node::NodeSpec>) -> Settings {
    let mut settings = settings(nodes);
    settings.policy = policy("round-robin");
    settings.health.thresholds.unhealthy_after = u32::MAX;
    settings
}

fn is_node_fault(message: &Message, token: &str, code: &str) {
    assert_eq!(message.status(), 502, "{message:?}");
    assert_eq!(message.head.get("proxy-status"), Some(format!("bellwether; error={token}").as_str()));
    assert_eq!(message.json()["error"]["code"], code);
}

#[tokio::test]
async fn the_only_node_refuses_and_the_client_hears_of_it_in_its_own_language() {
    let dead = Dead::node("a");
    let rig = Rig::start(patient([dead.spec()]));
    let openai = rig.client().await.ask(post("/v1/chat/completions", "{}")).await;
    is_node_fault(&openai, "connection_refused", "node_unreachable");
    assert_eq!(openai.head.get("content-type"), Some("application/json"));
    assert!(openai.json()["error"]["message"].as_str().is_some_and(|message| message.contains("the node a")));
    assert_eq!(openai.json()["error"]["type"], "service_unavailable");
    let plain = rig.client().await.ask(post("/api/predict", "{}")).await;
    assert_eq!(plain.head.get("content-type"), Some("application/problem+json"));
    let problem = plain.json();
    assert_eq!((&problem["status"], &problem["title"]), (&502.into(), &"Bad Gateway".into()));
    assert_eq!(problem["code"], "node_unreachable");
    // Each had one attempt: there is nowhere else to go, and never the same node twice.
    assert_eq!(rig.attempts("a", "failed_connect"), 2.0);
    assert_eq!(rig.metric("bellwether_requests_total{node=\"none\",code=\"502\"}"), 2.0);
}

#[tokio::test]
async fn an_empty_fleet_says_so_and_when_to_come_back() {
    let rig = Rig::of([]);
    let message = rig.client().await.ask(post("/v1/chat/completions", "{}")).await;
    assert_eq!((message.status(), message.head.get("retry-after")), (503, Some("1")));
    assert_eq!(message.json()["error"]["code"], "no_nodes");
    assert_eq!(message.head.get("proxy-status"), Some("bellwether; error=destination_unavailable"));
}

#[tokio::test]
async fn a_refused_connection_is_a_detour_for_every_request() {
    let (dead, node) = (Dead::node("dead"), Stage::open("a").await);
    let upload = "POST /upload HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n";
    for request in [get("/"), post("/v1/chat/completions", "body"), upload.to_owned()] {
        let rig = Rig::start(patient([dead.spec(), node.spec()]));
        let mut client = rig.client().await;
        client.send(&request).await;
        let (mut call, head) = node.request().await;
        let body = call.rest_of(head).await.body;
        assert!(request.starts_with("GET") || body == b"body");
        call.send(ok("from a")).await;
        assert_eq!(client.message().await.text(), "from a");
        assert_eq!((rig.attempts("dead", "failed_connect"), rig.attempts("a", "completed")), (1.0, 1.0));
        assert_eq!(rig.metric("bellwether_retries_total{reason=\"unsent\"}"), 1.0);
    }
}

/// Sends `request` to a fleet whose first node takes it and dies: what the client gets if the second one answers.
async fn killed(request: &str, change: impl FnOnce(&mut Settings)) -> (Rig, Stage, Wire) {
    let (first, second) = (Stage::open("first").await, Stage::open("second").await);
    let mut settings = patient([first.spec(), second.spec()]);
    change(&mut settings);
    let rig = Rig::start(settings);
    let mut client = rig.client().await;
    client.send(request).await;
    let (mut call, head) = first.request().await;
    call.rest_of(head).await;
    drop(call);
    (rig, second, client)
}

#[tokio::test]
async fn what_was_sent_is_sent_again_only_if_that_does_no_harm() {
    let put = "PUT /x HTTP/1.1\r\nhost: h\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}";
    let allow = |settings: &mut Settings| {
        let mut route = route("/v1", settings.timeouts.clone());
        route.retry_post = true;
        settings.routes = vec![route];
    };
    let again = post("/v1/chat/completions", "{\"model\":\"m\"}");
    let nothing: fn(&mut Settings) = |_| {};
    let changes = [(get("/x"), nothing), (put.to_owned(), nothing), (again.clone(), allow)];
    for (request, change) in changes {
        let (rig, second, mut client) = killed(&request, change).await;
        let (mut call, head) = second.request().await;
        let body = call.rest_of(head).await.body;
        assert!(request.as_bytes().ends_with(&body));
        call.send(ok("second")).await;
        assert_eq!(client.message().await.text(), "second");
        assert_eq!((rig.attempts("first", "failed_broken"), rig.attempts("second", "completed")), (1.0, 1.0));
        assert_eq!(rig.metric("bellwether_retries_total{reason=\"idempotent\"}"), 1.0);
    }
    let (rig, _second, mut client) = killed(&again, |_| {}).await;
    is_node_fault(&client.message().await, "connection_terminated", "node_failed");
    assert_eq!(rig.metric("bellwether_decisions_total{node=\"second\",policy=\"round-robin\"}"), 0.0);
}

/// A route for everything below "/v1", on which errors of nodes count as no answer.
fn errors_again(settings: &mut Settings) {
    let mut route = route("/v1", settings.timeouts.clone());
    (route.retry_post, route.retry_errors) = (true, true);
    settings.routes = vec![route];
}

/// What a client gets if the first node answers so, and the second, if it is asked, well.
async fn answered(status: u16, change: fn(&mut Settings)) -> (Rig, u16) {
    let (first, second) = (Stage::open("first").await, Stage::open("second").await);
    let mut settings = patient([first.spec(), second.spec()]);
    change(&mut settings);
    let rig = Rig::start(settings);
    let mut client = rig.client().await;
    client.send(post("/v1/chat/completions", "{\"model\":\"m\"}")).await;
    let (mut call, head) = first.request().await;
    call.rest_of(head).await;
    call.send(format!("HTTP/1.1 {status} x\r\nretry-after: 7\r\ncontent-length: 4\r\n\r\nsays")).await;
    let well = async {
        let (mut call, head) = second.request().await;
        let body = call.rest_of(head).await.body;
        assert_eq!(body, b"{\"model\":\"m\"}");
        call.send(ok("second")).await;
        std::future::pending::<()>().await;
    };
    let message = tokio::select! {
        message = client.message() => message,
        () = well => unreachable!("never ends"),
    };
    assert_eq!(message.text(), if message.status() == 200 { "second" } else { "says" });
    (rig, message.status())
}

#[tokio::test]
async fn an_error_counts_as_no_answer_where_the_route_says_so() {
    let retried = |rig: &Rig| rig.metric("bellwether_retries_total{reason=\"status\"}");
    for (status, ended) in [(500, "failed_status"), (502, "failed_status"), (503, "full"), (429, "full")] {
        let (rig, seen) = answered(status, |settings| {
            errors_again(settings);
            settings.retry.full = false;
        })
        .await;
        assert_eq!((seen, retried(&rig)), (200, 1.0), "{status}");
        assert_eq!((rig.attempts("first", ended), rig.attempts("second", "completed")), (1.0, 1.0), "{status}");
        let (rig, seen) = answered(status, |settings| settings.retry.full = false).await;
        assert_eq!((seen, retried(&rig)), (status, 0.0), "{status}");
    }
    let (rig, seen) = answered(404, errors_again).await;
    assert_eq!((seen, retried(&rig)), (404, 0.0));
}

#[tokio::test]
async fn where_nobody_else_is_left_the_error_reaches_the_client_as_the_node_told_it() {
    let (rig, seen) = answered(503, |settings| {
        errors_again(settings);
        settings.retry.attempts_max = 1;
    })
    .await;
    assert_eq!((seen, rig.metric("bellwether_retries_total{reason=\"status\"}")), (503, 0.0));
    assert_eq!(rig.attempts("first", "full"), 1.0);
}

#[tokio::test]
async fn no_node_is_tried_twice_and_not_more_than_allowed() {
    let dead = ["a", "b", "c", "d"].map(Dead::node);
    for (attempts_max, expected) in [(10, 4.0), (2, 2.0), (1, 1.0)] {
        let mut settings = patient(dead.iter().map(Dead::spec));
        settings.retry.attempts_max = attempts_max;
        let rig = Rig::start(settings);
        let message = rig.client().await.ask(post("/v1/chat/completions", "{}")).await;
        is_node_fault(&message, "connection_refused", "node_unreachable");
        let attempts = ["a", "b", "c", "d"].map(|name| rig.attempts(name, "failed_connect"));
        assert!(attempts.iter().all(|attempts| *attempts <= 1.0), "{attempts:?}");
        assert_eq!(attempts.iter().sum::<f64>(), expected);
    }
}

#[tokio::test]
async fn retries_are_paid_from_a_budget() {
    let dead = ["a", "b", "c"].map(Dead::node);
    for (budget, least, most) in [(0.0, 0.0, 0.0), (0.5, 1.0, 50.0)] {
        let mut settings = patient(dead.iter().map(Dead::spec));
        (settings.retry.budget, settings.retry.floor_per_s) = (budget, 0.0);
        let rig = Rig::start(settings);
        let mut client = rig.client().await;
        for _ in 0..100 {
            assert_eq!(client.ask(post("/v1/chat/completions", "{}")).await.status(), 502);
        }
        let attempts: f64 = ["a", "b", "c"].map(|name| rig.attempts(name, "failed_connect")).iter().sum();
        assert!((least..=most).contains(&(attempts - 100.0)), "{attempts} attempts for 100 requests");
    }
}

#[tokio::test]
async fn what_is_no_http_is_a_502_and_not_passed_on() {
    for answer in ["SSH-2.0-OpenSSH_9.2\r\n\r\n", "HTTP/1.1 2x0 Hm\r\n\r\n", "HTTP/1.1 200 OK\r\nno colon\r\n\r\n"] {
        let node = Stage::open("a").await;
        let rig = Rig::of([node.spec()]);
        let mut client = rig.client().await;
        client.send(post("/v1/chat/completions", "{}")).await;
        let (mut call, head) = node.request().await;
        call.rest_of(head).await;
        call.send(answer).await;
        is_node_fault(&client.message().await, "http_protocol_error", "node_protocol_error");
        rig.one_attempt("a", "failed_protocol").await;
    }
}

#[tokio::test]
async fn a_stream_that_breaks_midway_ends_uncleanly_and_without_a_made_up_end() {
    for fault in [Fault::Break { after_events: 2 }, Fault::Reset { after_events: 2 }] {
        for stream in [true, false] {
            let node = emulator("a").await;
            node.set_fault(fault).await.expect("listening");
            let rig = Rig::of([spec_of(&node)]);
            let mut client = rig.client().await;
            client.send(chat(9, stream)).await;
            node.wait_until(|counters| counters.live == 1).await;
            node.step(u32::MAX);
            let message = client.message().await;
            assert_eq!((message.status(), message.clean), (200, false), "{fault:?}");
            assert!(!message.body.is_empty() && !message.text().contains("[DONE]"));
            rig.one_attempt("a", "failed_broken_body").await;
        }
    }
}

#[tokio::test]
async fn bad_framing_of_the_nodes_body_breaks_the_clients_too() {
    let node = Stage::open("a").await;
    let rig = Rig::of([node.spec()]);
    let mut client = rig.client().await;
    client.send(get("/")).await;
    let (mut call, _) = node.request().await;
    call.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n").await;
    let mut framing = client.head().await.framing();
    client.piece(&mut framing).await;
    call.send("nonsense\r\n").await;
    assert_eq!(client.piece(&mut framing).await, crate::wire::Piece::Broken);
    assert_eq!(call.until_closed().await, b"");
    rig.one_attempt("a", "failed_broken_body").await;
}

#[tokio::test]
async fn a_nodes_own_error_is_the_clients_answer() {
    let node = emulator("a").await;
    let rig = Rig::of([spec_of(&node)]);
    for (status, outcome) in [(500, "failed_status"), (404, "completed")] {
        node.set_fault(Fault::Status { status, retry_after_s: None }).await.expect("listening");
        let message = rig.client().await.ask(chat(1, false)).await;
        assert_eq!((message.status(), message.head.get("proxy-status")), (status, None));
        assert_eq!(message.json()["error"]["message"], "the emulated server fails");
        assert_eq!(rig.attempts("a", outcome), 1.0);
    }
    // A node that is full says so to the client, and is left alone for as long as it wants.
    node.set_fault(Fault::Status { status: 503, retry_after_s: Some(60) }).await.expect("listening");
    assert_eq!(rig.client().await.ask(chat(1, false)).await.head.get("retry-after"), Some("60"));
    let refused = rig.client().await.ask(chat(1, false)).await;
    assert_eq!(refused.json()["error"]["code"], "all_full");
    assert_eq!((rig.attempts("a", "full"), node.counters().started), (1.0, 3));
}

#[tokio::test]
async fn a_detour_goes_to_the_path_and_the_host_of_the_node_that_is_asked_and_of_no_other() {
    for (there, here, line) in [("/llm", "/llm", "/llm/v1/x?y"), ("/llm", "", "/v1/x?y"), ("", "/llm", "/llm/v1/x?y")] {
        let (dead, node) = (Dead::node("dead"), Stage::open("a").await);
        let beneath = |spec: NodeSpec, base: &str| NodeSpec { url: format!("{}{base}", spec.url), ..spec };
        let rig = Rig::start(patient([beneath(dead.spec(), there), beneath(node.spec(), here)]));
        let mut client = rig.client().await;
        client.send("GET /v1/x?y HTTP/1.0\r\n\r\n").await;
        let (mut call, head) = node.request().await;
        assert_eq!(head.line, format!("GET {line} HTTP/1.1"), "{there:?} {here:?}");
        assert_eq!(head.get("host"), Some(node.address().to_string().as_str()));
        call.send(ok("from a")).await;
        assert_eq!(client.message().await.text(), "from a");
        assert_eq!(rig.attempts("dead", "failed_connect"), 1.0);
    }
}

#[tokio::test]
async fn a_failure_is_told_as_it_was_where_no_other_node_could_have_helped() {
    let model = |spec: NodeSpec, model: &str| NodeSpec { models: vec![model.to_owned()], ..spec };
    let (dead, other) = (Dead::node("dead"), Stage::open("other").await);
    let rig = Rig::start(patient([model(dead.spec(), "m"), model(other.spec(), "x")]));
    let message = rig.client().await.ask(post("/v1/chat/completions", "{\"model\": \"m\"}")).await;
    is_node_fault(&message, "connection_refused", "node_unreachable");
    assert_eq!(rig.metric("bellwether_retries_total{reason=\"unsent\"}"), 0.0);
}
