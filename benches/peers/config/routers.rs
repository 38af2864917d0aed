//! Routers of model servers, and Pingora's balancer, most of which are told by arguments.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::{ANSWER_WAIT_S, CHECK_EVERY_S, CHECK_FALL, CHECK_RISE, CHECK_WAIT_S, Launch, Wanted};
use bellwether::emulator::MODEL;

/// What requests ask for: those of the load, and those of the benchmark `proxy`.
const MODELS: [&str; 2] = [MODEL, "llama-3.1-8b"];

/// The SGLang router, with one thread per core, which no argument changes. Its `power_of_two` goes by the tokens that the
/// nodes tell at `/get_load`, which it asks for now and then, and is a draw of lots where they tell nothing.
pub(super) fn sglang(wanted: &Wanted<'_>, port: &str, metrics: SocketAddr) -> Launch {
    let mut launch = Launch::with(&["launch", "--host", "127.0.0.1", "--port", port]);
    let mut add = |name: &str, value: String| launch.arguments.extend([format!("--{name}"), value]);
    add("policy", wanted.policy.to_owned());
    add("prometheus-port", metrics.port().to_string());
    add("log-level", "error".to_owned());
    add("request-timeout-secs", ANSWER_WAIT_S.to_string());
    add("health-check-interval-secs", CHECK_EVERY_S.to_string());
    add("health-check-timeout-secs", CHECK_WAIT_S.to_string());
    add("health-failure-threshold", CHECK_FALL.to_string());
    add("health-success-threshold", CHECK_RISE.to_string());
    // As many as the others let through.
    add("max-concurrent-requests", wanted.clients.to_string());
    launch.arguments.extend(["--disable-retries", "--worker-urls"].map(str::to_owned));
    launch.arguments.extend(wanted.nodes.iter().map(|(node, _)| format!("http://{node}")));
    launch
}

/// A program of somebody's own, made of Pingora's parts: it comes with none.
pub(super) fn pingora(wanted: &Wanted<'_>, listen: SocketAddr) -> Launch {
    let mut launch = Launch::with(&[&listen.to_string()]);
    launch.arguments.extend(wanted.nodes.iter().map(|(node, _)| node.to_string()));
    launch
}

/// LiteLLM. Its file is YAML, of which JSON is a part. A worker of its own has no state in common with others, so there
/// is one, as by default.
pub(super) fn litellm(wanted: &Wanted<'_>) -> String {
    let model = |name: &str, node: SocketAddr| {
        json!({
            "model_name": name,
            "litellm_params": {
                "model": format!("openai/{name}"),
                "api_base": format!("http://{node}/v1"),
                "api_key": "none",
            },
        })
    };
    let of_all = |name: &'static str| wanted.nodes.iter().map(move |(node, _)| model(name, *node));
    let models: Vec<Value> = MODELS.into_iter().flat_map(of_all).collect();
    let config = json!({
        "model_list": models,
        "router_settings": {
            "routing_strategy": if wanted.policy == "latency-based" { "latency-based-routing" } else { wanted.policy },
            "num_retries": 0,
            "timeout": ANSWER_WAIT_S,
        },
        // It would not start without a key.
        "general_settings": {"dangerously_permit_weak_or_unset_master_key": true},
        "litellm_settings": {"request_timeout": ANSWER_WAIT_S, "telemetry": false},
    });
    format!("{config:#}\n")
}
