//! Traces as a collector gets them, the context as nodes get it, and the times that a client may ask for.

use std::collections::BTreeMap;

use bellwether::config::{ServerTiming, Settings};
use serde_json::Value;

use crate::hedging;
use crate::rig::{Dead, Rig, Stage, policy, settings, until};
use crate::wire::{Head, Wire, get, ok, post};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

/// A span as OTLP tells it.
#[derive(Clone, Debug)]
struct Span {
    json: Value,
    attributes: BTreeMap<String, Value>,
}

impl Span {
    fn of(json: &Value) -> Span {
        let all = json["attributes"].as_array().expect("attributes").iter();
        let one = |one: &Value| {
            let typed = one["value"].as_object().expect("a value").values().next().expect("one type").clone();
            (one["key"].as_str().expect("a key").to_owned(), typed)
        };
        Span { json: json.clone(), attributes: all.map(one).collect() }
    }

    fn text(&self, key: &str) -> &str {
        self.json[key].as_str().unwrap_or_default()
    }

    fn has(&self, key: &str) -> String {
        self.attributes.get(key).map_or("-".to_owned(), |value| value.as_str().map_or(value.to_string(), str::to_owned))
    }

    fn nanos(&self, key: &str) -> u64 {
        self.text(key).parse().expect("a string of digits")
    }
}

/// A collector that decodes what it gets.
struct Collector(Stage);

impl Collector {
    async fn open() -> Collector {
        Collector(Stage::open("collector").await)
    }

    fn settings(&self, mut settings: Settings) -> Settings {
        settings.trace.endpoint = Some(format!("http://{}/base", self.0.address()));
        settings.trace.service = "front".to_owned();
        settings
    }

    /// The next batch, which is answered with `answer`.
    async fn batch(&self, answer: &str) -> Vec<Span> {
        let (mut wire, head) = self.0.request().await;
        assert_eq!(head.line, "POST /base/v1/traces HTTP/1.1");
        assert_eq!(head.get("content-type"), Some("application/json"));
        let message = wire.rest_of(head).await;
        wire.send(answer).await;
        let json = message.json();
        let resource = &json["resourceSpans"][0];
        let service = &resource["resource"]["attributes"][0];
        assert_eq!((&service["key"], &service["value"]["stringValue"]), (&"service.name".into(), &"front".into()));
        let spans = resource["scopeSpans"][0]["spans"].as_array().expect("spans");
        spans.iter().map(Span::of).collect()
    }
}

/// The parent that a node is told of: trace, span and flags.
fn told(head: &Head) -> [String; 3] {
    let [parent] = head.all("traceparent")[..] else { panic!("{head:?}") };
    let parts: Vec<&str> = parent.split('-').collect();
    assert_eq!((parts.len(), parts[0]), (4, "00"), "{parent}");
    [parts[1].to_owned(), parts[2].to_owned(), parts[3].to_owned()]
}

/// A request to `node`, and what the node was told of it.
async fn exchange(client: &mut Wire, node: &Stage, request: &str, answer: &str) -> Head {
    client.send(request).await;
    let (mut call, head) = node.request().await;
    call.send(answer.replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n")).await;
    assert!(client.message().await.clean);
    head
}

fn with(request: &str, fields: &str) -> String {
    request.replacen("\r\n", &format!("\r\n{fields}"), 1)
}

#[tokio::test]
async fn a_request_is_a_server_span_and_its_attempts_are_client_spans_that_nodes_know_as_their_parents() {
    let (collector, node, dead) = (Collector::open().await, Stage::open("n").await, Dead::node("dead"));
    let mut settings = collector.settings(settings([dead.spec(), node.spec()]));
    settings.policy = policy("round-robin");
    settings.health.thresholds.unhealthy_after = 100;
    let rig = Rig::start(settings);
    let mut client = rig.client().await;
    let body = r#"{"model":"llama","max_tokens":64,"messages":[]}"#;
    let fields = format!("traceparent: 00-{TRACE}-b7ad6b7169203331-01\r\ntracestate: vendor=1\r\n");
    let request = with(&post("/v1/chat/completions?secret=1", body), &fields);
    let answer = ok(r#"{"usage":{"prompt_tokens":11,"completion_tokens":22}}"#).replacen(
        "\r\n",
        "\r\ncontent-type: application/json\r\n",
        1,
    );
    // The dead node has its turn within two requests, and then it is tried in vain.
    let mut spans = Vec::new();
    while spans.iter().all(|span: &Span| span.has("error.type") != "connect") {
        let head = exchange(&mut client, &node, &request, &answer).await;
        let [trace, parent, flags] = told(&head);
        assert_eq!((trace.as_str(), flags.as_str(), head.get("tracestate")), (TRACE, "01", Some("vendor=1")));
        spans = collector.batch(&ok("{}")).await;
        let attempt = spans.iter().find(|span| span.text("spanId") == parent).expect("the node's parent");
        assert_eq!(attempt.has("bellwether.node"), "n");
    }
    let [server, failed, answered] = &spans[..] else { panic!("{spans:?}") };
    assert_eq!((server.text("parentSpanId"), server.text("traceState")), ("b7ad6b7169203331", "vendor=1"));
    assert_eq!((server.text("name"), &server.json["kind"]), ("POST chat", &2.into()));
    assert_eq!(
        (server.has("url.path"), server.has("bellwether.attempts")),
        ("/v1/chat/completions".into(), "2".into())
    );
    for span in [server, failed, answered] {
        assert_eq!(span.text("traceId"), TRACE);
        assert!(span.nanos("endTimeUnixNano") >= span.nanos("startTimeUnixNano"), "{span:?}");
        assert!(!span.json.to_string().contains("secret"), "{span:?}");
    }
    for attempt in [failed, answered] {
        assert_eq!((attempt.text("parentSpanId"), &attempt.json["kind"]), (server.text("spanId"), &3.into()));
        assert_eq!(attempt.has("bellwether.policy"), "round-robin");
        assert!(attempt.attributes["bellwether.propensity"].as_f64().is_some_and(|p| p > 0.0 && p <= 1.0));
    }
    assert_eq!((failed.has("bellwether.node"), &failed.json["status"]["code"]), ("dead".into(), &2.into()));
    assert_eq!((answered.has("gen_ai.request.model"), answered.text("name")), ("llama".into(), "chat llama"));
    assert_eq!(
        ["max_tokens", "model"].map(|key| server.has(&format!("gen_ai.request.{key}"))),
        ["64".to_owned(), "llama".to_owned()]
    );
    assert_eq!(
        (answered.has("gen_ai.usage.input_tokens"), answered.has("gen_ai.usage.output_tokens")),
        ("11".into(), "22".into())
    );
    assert_eq!(
        (answered.has("http.response.status_code"), answered.has("http.request.resend_count")),
        ("200".into(), "1".into())
    );
}

#[tokio::test]
async fn both_attempts_of_a_hedged_request_are_spans_and_each_tells_how_it_ended() {
    let (collector, (a, b, settings)) = (Collector::open().await, hedging::stages().await);
    let rig = hedging::taught(collector.settings(settings));
    let mut client = rig.client().await;
    for late_wins in [false, true] {
        client.send(with(&get("/hedged"), &format!("traceparent: 00-{TRACE}-b7ad6b7169203331-01\r\n"))).await;
        let (mut late, late_head) = a.request().await;
        let (mut copy, copy_head) = b.request().await;
        let (winner, loser) = if late_wins { (&mut late, &mut copy) } else { (&mut copy, &mut late) };
        winner.send(ok("won").replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n")).await;
        assert_eq!(client.message().await.text(), "won");
        assert!(loser.until_closed().await.is_empty());
        let spans = collector.batch(&ok("{}")).await;
        let [server, first, second] = &spans[..] else { panic!("{spans:?}") };
        // Who hedges is not who failed: nothing of it is an error.
        assert!(spans.iter().all(|span| span.text("traceId") == TRACE && span.json["status"]["code"].is_null()));
        assert_eq!(
            (server.has("bellwether.attempts"), server.has("http.response.status_code")),
            ("2".into(), "200".into())
        );
        let (won, lost) = (["completed", "200"], ["censored", "-"]);
        for (span, head, node, hedge, ended) in [
            (first, &late_head, "a", "false", if late_wins { won } else { lost }),
            (second, &copy_head, "b", "true", if late_wins { lost } else { won }),
        ] {
            assert_eq!((span.text("parentSpanId"), &span.json["kind"]), (server.text("spanId"), &3.into()));
            assert_eq!(told(head), [TRACE, span.text("spanId"), "01"], "each node knows its own attempt");
            assert_eq!(["bellwether.node", "bellwether.hedge"].map(|key| span.has(key)), [node, hedge]);
            assert_eq!(["bellwether.outcome", "http.response.status_code"].map(|key| span.has(key)), ended);
            assert_eq!(span.json["events"].as_array().map(Vec::len), Some(usize::from(ended == won)), "first byte");
            assert!(span.nanos("endTimeUnixNano") <= server.nanos("endTimeUnixNano"), "{spans:?}");
            assert_eq!(span.has("bellwether.policy"), "ip-hash");
        }
        assert!(second.nanos("startTimeUnixNano") > first.nanos("startTimeUnixNano"), "{spans:?}");
    }
}

#[tokio::test]
async fn the_callers_flag_decides_and_who_is_not_recorded_passes_as_before() {
    let (collector, node) = (Collector::open().await, Stage::open("n").await);
    let rig = Rig::start(collector.settings(settings([node.spec()])));
    let mut client = rig.client().await;
    let unsampled = format!("00-{TRACE}-b7ad6b7169203331-00");
    let request = with(&get("/unsampled"), &format!("traceparent: {unsampled}\r\n"));
    let head = exchange(&mut client, &node, &request, &ok("")).await;
    assert_eq!(head.all("traceparent"), [unsampled.as_str()]);
    // A context that is none is not passed on, nor is what belongs to it; the request id is the new trace's.
    let request = with(&get("/broken"), "traceparent: 00-nonsense\r\ntracestate: vendor=1\r\n");
    let head = exchange(&mut client, &node, &request, &ok("")).await;
    let [trace, parent, flags] = told(&head);
    assert_eq!((flags.as_str(), head.get("tracestate")), ("01", None));
    assert_eq!(head.get("x-request-id"), Some(trace.as_str()));
    let spans = collector.batch(&ok("{}")).await;
    let [server, attempt] = &spans[..] else { panic!("{spans:?}") };
    assert_eq!((server.has("url.path"), server.text("parentSpanId")), ("/broken".into(), ""));
    assert_eq!((attempt.text("spanId"), attempt.text("traceId")), (parent.as_str(), trace.as_str()));
}

#[tokio::test]
async fn nothing_is_recorded_unless_it_is_configured_or_drawn() {
    let (collector, node) = (Collector::open().await, Stage::open("n").await);
    let sampled = format!("00-{TRACE}-b7ad6b7169203331-01");
    let request = with(&get("/"), &format!("traceparent: {sampled}\r\n"));
    let off = Rig::of([node.spec()]);
    let head = exchange(&mut off.client().await, &node, &request, &ok("")).await;
    assert_eq!(head.all("traceparent"), [sampled.as_str()]);
    let mut settings = collector.settings(settings([node.spec()]));
    settings.trace.share = 0.0;
    let rig = Rig::start(settings);
    let mut client = rig.client().await;
    let head = exchange(&mut client, &node, &get("/"), &ok("")).await;
    assert_eq!(told(&head)[2], "00", "of a trace that nobody records");
    // A caller that records is recorded nevertheless.
    exchange(&mut client, &node, &request, &ok("")).await;
    assert_eq!(collector.batch(&ok("{}")).await.len(), 2);
}

#[tokio::test]
async fn a_collector_that_refuses_or_is_busy_costs_spans_and_no_request() {
    let (collector, node) = (Collector::open().await, Stage::open("n").await);
    let rig = Rig::start(collector.settings(settings([node.spec()])));
    let count = |result: &str| rig.metric(&format!("bellwether_trace_spans_total{{result=\"{result}\"}}"));
    assert_eq!(["sent", "dropped", "lost"].map(count), [0.0; 3]);
    let mut client = rig.client().await;
    exchange(&mut client, &node, &get("/busy"), &ok("")).await;
    let busy = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";
    let first = collector.batch(busy).await;
    let again = collector.batch(&ok("{}")).await;
    assert_eq!((first[0].has("url.path"), again[0].has("url.path")), ("/busy".into(), "/busy".into()));
    until("the spans to be counted", || count("sent") == 2.0).await;
    exchange(&mut client, &node, &get("/refused"), &ok("")).await;
    collector.batch("HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await;
    until("the spans to be counted", || count("lost") == 2.0).await;
    assert_eq!(count("dropped"), 0.0);
}

#[tokio::test]
async fn what_is_left_is_sent_when_the_proxy_stops() {
    let (collector, node) = (Collector::open().await, Stage::open("n").await);
    let rig = Rig::start(collector.settings(settings([node.spec()])));
    exchange(&mut rig.client().await, &node, &get("/last"), &ok("")).await;
    let stopping = rig.stop(std::time::Duration::from_secs(30));
    assert_eq!(collector.batch(&ok("{}")).await[0].has("url.path"), "/last");
    assert!(stopping.await.expect("no panic"));
}

#[tokio::test]
async fn a_client_that_asks_is_told_where_the_time_went() {
    let node = Stage::open("n").await;
    let asking = with(&get("/"), "x-bellwether-timing: 1\r\n");
    let own = "HTTP/1.1 200 OK\r\nserver-timing: model;dur=5\r\ncontent-length: 0\r\n\r\n";
    let told = |head: &Head| head.all("server-timing").iter().map(|&value| value.to_owned()).collect::<Vec<_>>();
    for (when, request, expected) in [
        (ServerTiming::Asked, asking.as_str(), true),
        (ServerTiming::Asked, &get("/"), false),
        (ServerTiming::Off, &asking, false),
        (ServerTiming::Always, &get("/"), true),
    ] {
        let mut settings = settings([node.spec()]);
        settings.server_timing = when;
        let rig = Rig::start(settings);
        let mut client = rig.client().await;
        client.send(request).await;
        let (mut call, _) = node.request().await;
        call.send(own).await;
        let first = told(&client.message().await.head);
        assert_eq!((first[0].as_str(), first.len()), ("model;dur=5", 1 + usize::from(expected)), "{when:?}");
        if expected {
            let metrics: Vec<(&str, f64)> = first[1]
                .split(", ")
                .filter_map(|one| one.split_once(";dur="))
                .map(|(name, dur)| (name, dur.parse().expect("milliseconds")))
                .collect();
            let names: Vec<&str> = metrics.iter().map(|(name, _)| *name).collect();
            assert_eq!(names, ["queue", "decision", "connect", "upstream"], "nothing is learned, so nothing predicted");
            assert!(metrics.iter().all(|(_, dur)| *dur >= 0.0) && metrics[0].1 == 0.0, "{metrics:?}");
            // The second request has a connection already.
            client.send(request).await;
            call.head().await;
            call.send(own).await;
            assert!(!told(&client.message().await.head)[1].contains("connect"));
        }
    }
}
