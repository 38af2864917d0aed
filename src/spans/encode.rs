//! Spans as OTLP writes them in JSON: ids in hexadecimal digits, 64-bit numbers as strings, kinds as numbers.
//!
//! Names and attributes follow the semantic conventions of OpenTelemetry for HTTP and for generative AI; what is ours
//! begins with `bellwether.`. A name holds the route or the model and never the path, of which there may be any number.

use serde_json::{Map, Value, json};

use super::{AttemptSpan, RequestSpan, Spans};
use crate::outcome::{Failure, Outcome};

/// `SPAN_KIND_SERVER`.
const SERVER: u8 = 2;
/// `SPAN_KIND_CLIENT`.
const CLIENT: u8 = 3;
/// `STATUS_CODE_ERROR`.
const ERROR: u8 = 2;

/// Attributes of a span; what is not known is left out.
#[derive(Default)]
struct Attributes(Vec<Value>);

impl Attributes {
    /// `value` as it is under the name of its type.
    fn add(&mut self, key: &str, kind: &str, value: impl Into<Value>) {
        let typed: Map<String, Value> = [(kind.to_owned(), value.into())].into_iter().collect();
        self.0.push(json!({ "key": key, "value": typed }));
    }

    fn text(&mut self, key: &str, value: Option<&str>) -> &mut Self {
        value.into_iter().for_each(|value| self.add(key, "stringValue", value));
        self
    }

    fn int(&mut self, key: &str, value: Option<u64>) -> &mut Self {
        value.into_iter().for_each(|value| self.add(key, "intValue", value.to_string()));
        self
    }

    fn float(&mut self, key: &str, value: f64) -> &mut Self {
        if value.is_finite() {
            self.add(key, "doubleValue", value);
        }
        self
    }

    fn flag(&mut self, key: &str, value: bool) -> &mut Self {
        self.add(key, "boolValue", value);
        self
    }
}

/// One request to the collector.
pub(super) fn batch(spans: &Spans, service: &str, requests: &[Box<RequestSpan>]) -> Value {
    let mut resource = Attributes::default();
    resource.text("service.name", Some(service)).text("service.version", Some(env!("CARGO_PKG_VERSION")));
    let encoded: Vec<Value> = requests.iter().flat_map(|request| encode(spans, request)).collect();
    json!({ "resourceSpans": [{
        "resource": { "attributes": resource.0 },
        "scopeSpans": [{
            "scope": { "name": "bellwether", "version": env!("CARGO_PKG_VERSION") },
            "spans": encoded,
        }],
    }] })
}

fn encode(spans: &Spans, request: &RequestSpan) -> Vec<Value> {
    let attempts = request.attempts.iter().enumerate();
    let attempts = attempts.map(|(at, one)| attempt(spans, request, at, one));
    std::iter::once(server(spans, request)).chain(attempts).collect()
}

fn hex(span: u64) -> String {
    format!("{span:016x}")
}

/// What a span of the generative AI conventions tells of the request, on both kinds of spans.
fn model(attributes: &mut Attributes, request: &RequestSpan) {
    let RequestSpan { operation, model, output_tokens_max, tokens: (input, output), .. } = request;
    attributes
        .text("gen_ai.operation.name", *operation)
        .text("gen_ai.request.model", model.as_deref())
        .int("gen_ai.request.max_tokens", output_tokens_max.map(u64::from))
        .int("gen_ai.usage.input_tokens", input.map(u64::from))
        .int("gen_ai.usage.output_tokens", output.map(u64::from));
}

fn server(spans: &Spans, request: &RequestSpan) -> Value {
    let method = request.method.as_str();
    let broken = request.status >= 500;
    let status = request.status.to_string();
    let waited: f64 = request.attempts.iter().map(|attempt| attempt.waited.as_secs_f64()).sum();
    let mut attributes = Attributes::default();
    attributes
        .text("http.request.method", Some(method))
        .text("url.scheme", Some("http"))
        .text("url.path", Some(&request.path))
        .int("http.response.status_code", Some(u64::from(request.status)))
        .int("http.response.body.size", Some(request.bytes))
        .text("client.address", Some(&request.client.to_string()))
        .text("error.type", broken.then_some(&status))
        .text("bellwether.route", request.route.as_deref())
        .text("bellwether.outcome", Some(&request.outcome))
        .flag("bellwether.streaming", request.streaming)
        .int("bellwether.attempts", Some(request.attempts.len() as u64))
        .float("bellwether.queued_s", waited);
    model(&mut attributes, request);
    let mut span = json!({
        "traceId": format!("{:032x}", request.trace),
        "spanId": hex(request.id),
        "name": request.route.as_ref().map_or(method.to_owned(), |route| format!("{method} {route}")),
        "kind": SERVER,
        "startTimeUnixNano": spans.unix_ns(request.started).to_string(),
        "endTimeUnixNano": spans.unix_ns(request.ended).to_string(),
        "attributes": attributes.0,
        "status": if broken { json!({ "code": ERROR }) } else { json!({}) },
    });
    if let Some(parent) = request.parent {
        span["parentSpanId"] = hex(parent).into();
    }
    if let Some(state) = &request.state {
        span["traceState"] = state.as_str().into();
    }
    span
}

fn attempt(spans: &Spans, request: &RequestSpan, at: usize, one: &AttemptSpan) -> Value {
    let (host, port) = one.node.spec.host_port();
    let (ended, outcome) = one.ended.map_or((request.ended, None), |(ended, outcome)| (ended, Some(outcome)));
    let status = match outcome {
        Some(Outcome::Completed { status } | Outcome::Full { status, .. }) => Some(status),
        Some(Outcome::Failed(Failure::Status(status))) => Some(status),
        _ => None,
    };
    let failure = match outcome {
        Some(Outcome::Failed(Failure::Status(status)) | Outcome::Full { status, .. }) => Some(status.to_string()),
        Some(Outcome::Failed(failure)) => Some(failure.word().to_owned()),
        _ => None,
    };
    let answers = request.answering() == Some(one.id);
    let name = match (request.operation, request.model.as_deref()) {
        (Some(operation), Some(model)) => format!("{operation} {model}"),
        _ => request.method.as_str().to_owned(),
    };
    let mut attributes = Attributes::default();
    attributes
        .text("http.request.method", Some(request.method.as_str()))
        .text("server.address", Some(host))
        .int("server.port", Some(u64::from(port)))
        .int("http.response.status_code", status.map(u64::from))
        .int("http.request.resend_count", (at > 0).then_some(at as u64))
        .flag("bellwether.hedge", one.hedge)
        .text("error.type", failure.as_deref())
        .text("bellwether.node", Some(&one.node.spec.name))
        .text("bellwether.policy", Some(one.policy.name()))
        .float("bellwether.propensity", one.propensity)
        .float("bellwether.predicted_s", one.predicted_s)
        .int("bellwether.model_version", Some(u64::from(one.model_version)))
        .int("bellwether.candidates", Some(u64::from(one.candidates)))
        .int("bellwether.in_flight", Some(u64::from(one.in_flight)))
        .text("bellwether.outcome", outcome.map(|outcome| outcome.word()));
    if answers {
        model(&mut attributes, request);
    } else {
        attributes.text("gen_ai.request.model", request.model.as_deref());
    }
    let first_byte = request.first_byte.filter(|_| answers);
    let events: Vec<Value> = first_byte
        .map(|at| json!({ "name": "first byte", "timeUnixNano": spans.unix_ns(at).to_string() }))
        .into_iter()
        .collect();
    json!({
        "traceId": format!("{:032x}", request.trace),
        "spanId": hex(one.id),
        "parentSpanId": hex(request.id),
        "name": name,
        "kind": CLIENT,
        "startTimeUnixNano": spans.unix_ns(one.started).to_string(),
        "endTimeUnixNano": spans.unix_ns(ended).to_string(),
        "attributes": attributes.0,
        "events": events,
        "status": if failure.is_some() { json!({ "code": ERROR }) } else { json!({}) },
    })
}
