use super::*;
use crate::fleet::Fleet;
use crate::node::NodeSpec;
use crate::outcome::Failure;

fn request(attempts: Vec<AttemptSpan>) -> Box<RequestSpan> {
    Box::new(RequestSpan {
        trace: 7,
        id: 8,
        parent: None,
        state: None,
        started: Time::from_secs_f64(1.0),
        ended: Time::from_secs_f64(3.5),
        method: Method::POST,
        path: "/v1/chat/completions".to_owned(),
        client: IpAddr::from([127, 0, 0, 1]),
        route: Some("chat".to_owned()),
        operation: Some("chat"),
        model: Some("llama".into()),
        streaming: true,
        output_tokens_max: Some(64),
        status: 200,
        outcome: "completed".to_owned(),
        first_byte: Some(Time::from_secs_f64(2.5)),
        bytes: 1_234,
        tokens: (Some(11), Some(22)),
        attempts,
    })
}

fn attempt(id: u64, started_s: f64, outcome: Outcome) -> AttemptSpan {
    let fleet = Fleet::default().with(NodeSpec::new("http://10.0.0.7:8000/base").named("gpu-1")).expect("free");
    let started = Time::from_secs_f64(started_s);
    AttemptSpan {
        id,
        started,
        ended: Some((started.after(Duration::from_secs(1)), outcome)),
        node: Arc::clone(&fleet.nodes()[0]),
        policy: PolicyId::named("adaptive").expect("known"),
        propensity: 0.75,
        predicted_s: f64::NAN,
        model_version: 3,
        candidates: 4,
        in_flight: 2,
        waited: Duration::from_millis(250),
        hedge: false,
    }
}

/// The attributes of a span by key.
fn attributes(span: &serde_json::Value) -> std::collections::BTreeMap<String, serde_json::Value> {
    let all = span["attributes"].as_array().expect("attributes").iter();
    all.map(|one| (one["key"].as_str().expect("a key").to_owned(), one["value"].clone())).collect()
}

#[test]
fn a_retried_request_is_a_server_span_with_a_client_span_for_each_attempt() {
    let spans = Spans::new(&Clock::manual());
    let failed = attempt(0x10, 1.25, Outcome::Failed(Failure::Connect));
    let request = request(vec![failed, attempt(0x11, 2.25, Outcome::Completed { status: 200 })]);
    let batch = encode::batch(&spans, "front", std::slice::from_ref(&request));
    let service = &batch["resourceSpans"][0]["resource"]["attributes"][0];
    assert_eq!((&service["key"], &service["value"]["stringValue"]), (&"service.name".into(), &"front".into()));
    let told = batch["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().expect("spans");
    let [server, first, second] = &told[..] else { panic!("{told:?}") };
    assert_eq!((&server["name"], &server["kind"]), (&"POST chat".into(), &2.into()));
    assert_eq!(server["traceId"], "00000000000000000000000000000007");
    let nanos = |span: &serde_json::Value, key: &str| span[key].as_str().and_then(|text| text.parse::<u64>().ok());
    let took =
        |span| nanos(span, "endTimeUnixNano").zip(nanos(span, "startTimeUnixNano")).map(|(end, start)| end - start);
    assert_eq!((took(server), took(first)), (Some(2_500_000_000), Some(1_000_000_000)));
    let (of_server, of_first, of_second) = (attributes(server), attributes(first), attributes(second));
    assert_eq!(of_server["http.response.status_code"]["intValue"], "200");
    assert_eq!(of_server["bellwether.queued_s"]["doubleValue"], 0.5);
    for span in [first, second] {
        assert_eq!((&span["parentSpanId"], &span["kind"]), (&"0000000000000008".into(), &3.into()));
        assert_eq!(span["name"], "chat llama");
    }
    assert_eq!((&of_first["error.type"]["stringValue"], &first["status"]["code"]), (&"connect".into(), &2.into()));
    assert!(!of_first.contains_key("gen_ai.usage.input_tokens") && first["events"] == serde_json::json!([]));
    assert_eq!(of_second["http.request.resend_count"]["intValue"], "1");
    assert_eq!(of_second["gen_ai.usage.output_tokens"]["intValue"], "22");
    assert_eq!(of_second["server.port"]["intValue"], "8000");
    assert_eq!(of_second["bellwether.propensity"]["doubleValue"], 0.75);
    assert!(!of_second.contains_key("bellwether.predicted_s"), "nothing was predicted");
    assert_eq!(second["events"][0]["name"], "first byte");
}

#[test]
fn a_full_queue_drops_and_counts_and_does_not_wait() {
    let spans = Spans::new(&Clock::manual());
    for _ in 0..QUEUE_MAX + 3 {
        spans.record(request(vec![attempt(1, 1.0, Outcome::Completed { status: 200 })]));
    }
    assert_eq!(spans.counts(), SpanCounts { dropped: 6, ..SpanCounts::default() });
}
