//! The nodes, as the instance sees them and as they look from here.
//!
//! Both views matter: a node that only one of them reaches is a question of networks, one that neither reaches is
//! down. Nothing that is asked makes a model compute.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::StatusCode;
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::finding::{Findings, Severity};
use super::{Asked, check_clock, load};
use crate::cli::remote::{Look, Remote, shown};
use crate::cli::tap::encoded;
use crate::node::NodeSpec;
use crate::probe::engine::EngineLoad;

/// Nodes that are asked at once.
const AT_ONCE: usize = 16;

/// The longest answer of a node that is read; metrics of a model server have some ten thousand lines at most.
const BYTES_MAX: usize = 4 * 1024 * 1024;

pub(super) async fn examine(instance: &Remote, asked: &Asked, timeout: Duration, findings: &mut Findings) {
    let nodes = asked.nodes["nodes"].as_array().cloned().unwrap_or_default();
    let checks_path = asked.config["health"]["path"] != "off";
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut examining = JoinSet::new();
    for (at, node) in nodes.into_iter().enumerate() {
        let (instance, places) = (instance.clone(), Arc::clone(&places));
        examining.spawn(async move {
            let _place = places.acquire_owned().await;
            (at, one(&instance, &node, timeout, checks_path).await)
        });
    }
    let mut found = examining.join_all().await;
    found.sort_by_key(|(at, _)| *at);
    found.into_iter().for_each(|(_, of_node)| findings.extend(of_node));
}

/// One node.
async fn one(instance: &Remote, node: &Value, timeout: Duration, checks_path: bool) -> Findings {
    let mut findings = Findings::default();
    let spec = NodeSpec::new(node["url"].as_str().unwrap_or_default());
    let about = format!("node {}", shown(&node["name"]));
    as_seen_there(&about, node, &mut findings);
    let (host, port) = spec.host_port();
    let remote = Remote::at(if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") });
    let look = async |path: &str| remote.look(&format!("{}{path}", spec.base_path()), timeout, BYTES_MAX).await;
    let health = match look("/health").await {
        Ok(health) => health,
        Err(error) => {
            let severity = if node["up"] == true { Severity::Warning } else { Severity::Problem };
            let fix = if node["up"] == true {
                "if this machine should reach it, see to the network between; the instance does"
            } else {
                "start it, or correct its url, or remove it from the configuration"
            };
            findings.add(severity, about, format!("does not answer here: {error}"), fix);
            return findings;
        }
    };
    check_clock(&about, health.date, SystemTime::now(), &mut findings);
    answers(&about, &health, checks_path, &mut findings);
    if let Ok(listed) = look("/v1/models").await {
        models(&about, node, &listed, &mut findings);
    }
    match look("/metrics").await {
        Ok(metrics) if metrics.status.is_success() => {
            if let Some(load) = EngineLoad::of(&String::from_utf8_lossy(&metrics.body)) {
                load::judge(&about, node, in_flight(instance, node).await, &load, &mut findings);
            }
        }
        _ => {
            let fix = "start it with its metrics (SGLang: --enable-metrics, llama.cpp: --metrics), or leave it: nothing here \
                       needs them";
            findings.add(Severity::Note, &about, "has no /metrics, so its own queue cannot be seen", fix);
        }
    }
    findings
}

/// What the instance has in flight at a node: before the node was asked or now, whichever is more.
async fn in_flight(instance: &Remote, node: &Value) -> u64 {
    let before = node["in_flight"].as_u64().unwrap_or_default();
    let path = format!("/api/v1/nodes/{}", encoded(node["name"].as_str().unwrap_or_default()));
    let now = instance.get(&path).await.ok().and_then(|node| node["in_flight"].as_u64());
    before.max(now.unwrap_or_default())
}

/// What the instance says of it.
fn as_seen_there(about: &str, node: &Value, findings: &mut Findings) {
    let state = shown(&node["state"]);
    let (severity, fix) = match state.as_str() {
        "up" => return findings.fine(about, format!("up, {} in flight", node["in_flight"])),
        "draining" => (Severity::Note, "an operator drained it: resume it when it may work again"),
        "full" => (Severity::Note, "it said that it has no room; it is asked again in a moment"),
        "trial" => (Severity::Note, "it returns from an ejection with one request at a time"),
        "ejected" => (Severity::Warning, "it failed requests: see its log, and `bellwether tap --status failed`"),
        _ => (Severity::Problem, "its checks fail: see the log of the instance"),
    };
    findings.add(severity, about, format!("is {state}"), fix);
}

fn answers(about: &str, health: &Look, checks_path: bool, findings: &mut Findings) {
    match health.status {
        StatusCode::NOT_FOUND => {}
        status if !status.is_success() => {
            let what = format!("/health says {status}");
            findings.add(Severity::Problem, about, what, "see its log: it does not think that it is well");
        }
        _ if !checks_path => {
            let fix = "health.path = \"/health\" notices a server that accepts connections and does not work";
            findings.add(Severity::Note, about, "has a /health that is not used for checks", fix);
        }
        _ => {}
    }
}

/// The models that it lists against those that it is configured for.
fn models(about: &str, node: &Value, listed: &Look, findings: &mut Findings) {
    let json: Value = serde_json::from_slice(&listed.body).unwrap_or_default();
    let Some(list) = json["data"].as_array().filter(|_| listed.status.is_success()) else { return };
    let has = |model: &Value| list.iter().any(|one| one["id"] == *model);
    let configured = node["models"].as_array().map(Vec::as_slice).unwrap_or_default();
    for missing in configured.iter().filter(|model| !has(model)) {
        let names: Vec<String> = list.iter().map(|one| shown(&one["id"])).collect();
        let what = format!("is configured for the model {} and lists {}", shown(missing), names.join(", "));
        findings.add(
            Severity::Problem,
            about,
            what,
            "correct `models` of the node: requests for that model fail there",
        );
    }
}
