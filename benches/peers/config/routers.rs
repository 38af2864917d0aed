//! Routers of model servers, and Pingora's balancer, most of which are told by arguments.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::{CHECK_FALL, CHECK_RISE, Launch, Terms, Wanted};
use bellwether::emulator::MODEL;

/// What requests ask for: those of the load, and those of the benchmark `proxy`.
const MODELS: [&str; 2] = [MODEL, "llama-3.1-8b"];

/// The SGLang router, with one thread per core, which no argument changes. Its `power_of_two` goes by the tokens that the
/// nodes tell at `/get_load`, which it asks for now and then, and is a draw of lots where they tell nothing.
pub(super) fn sglang(wanted: &Wanted<'_>, port: &str, metrics: SocketAddr) -> Launch {
    let Terms { check_every_s, check_wait_s, answer_wait_s, repeats: _ } = wanted.terms;
    let mut launch = Launch::with(&["launch", "--host", "127.0.0.1", "--port", port]);
    let mut add = |name: &str, value: String| launch.arguments.extend([format!("--{name}"), value]);
    add("policy", wanted.policy.to_owned());
    add("prometheus-port", metrics.port().to_string());
    add("log-level", "error".to_owned());
    add("request-timeout-secs", answer_wait_s.to_string());
    add("health-check-interval-secs", check_every_s.to_string());
    add("health-check-timeout-secs", check_wait_s.to_string());
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

/// LiteLLM with one worker, as by default. Workers do not tell each other what they measure, for which it would need Redis;
/// and where there are several, uvicorn ends those that do not answer it within 5 s, as while they import on a busy machine.
pub(super) fn litellm(file: &str, port: &str) -> Launch {
    let mut launch = Launch::with(&["--config", file, "--host", "127.0.0.1", "--port", port]);
    launch.environment = [
        // It would fetch a list of prices first.
        ("LITELLM_LOCAL_MODEL_COST_MAP", "True"),
        ("LITELLM_LOG", "ERROR"),
        // Emulated servers say the same word again and again, which it takes for a model gone wrong.
        ("REPEATED_STREAMING_CHUNK_LIMIT", "1000000"),
    ]
    .map(|(name, value)| (name, value.to_owned()))
    .into();
    launch
}

/// What LiteLLM reads: YAML, of which JSON is a part.
pub(super) fn litellm_file(wanted: &Wanted<'_>) -> String {
    let answer_wait_s = wanted.terms.answer_wait_s;
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
            "timeout": answer_wait_s,
        },
        // It would not start without a key.
        "general_settings": {"dangerously_permit_weak_or_unset_master_key": true},
        "litellm_settings": {"request_timeout": answer_wait_s, "telemetry": false},
    });
    format!("{config:#}\n")
}
