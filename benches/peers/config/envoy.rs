//! Envoy. Its limits of 1,024 requests and connections, and three repeats, to all nodes together are raised: the others have none.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::{CHECK_FALL, CHECK_RISE, Terms, Wanted};

const MANAGER: &str =
    "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
const ROUTER: &str = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";

const PREVIOUS: &str = "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate";

fn seconds(count: u32) -> String {
    format!("{count}s")
}

fn at(address: SocketAddr) -> Value {
    json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}})
}

pub(super) fn config(wanted: &Wanted<'_>, listen: SocketAddr) -> String {
    let Terms { check_every_s, check_wait_s, answer_wait_s, repeats } = wanted.terms;
    let mut route = json!({
        "match": {"prefix": "/"},
        // The time of a whole answer is not bounded, that between two pieces is: over all attempts, so longer than they are.
        "route": {"cluster": "nodes", "timeout": "0s", "idle_timeout": seconds(answer_wait_s * (repeats + 1) + repeats)},
    });
    if repeats > 0 {
        // It bounds the time of an attempt only together with repeating.
        route["route"]["retry_policy"] = json!({
            "retry_on": "5xx,reset,connect-failure,refused-stream",
            "num_retries": repeats,
            "per_try_timeout": seconds(answer_wait_s),
            "retry_host_predicate": [{"name": "envoy.retry_host_predicates.previous_hosts", "typed_config": {"@type": PREVIOUS}}],
            "host_selection_retry_max_attempts": 5,
        });
    }
    let manager = json!({
        "@type": MANAGER,
        "stat_prefix": "clients",
        "use_remote_address": true,
        "common_http_protocol_options": {"idle_timeout": "120s"},
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {"@type": ROUTER}}],
    });
    let filter = json!({"name": "envoy.filters.network.http_connection_manager", "typed_config": manager});
    let endpoints: Vec<Value> =
        wanted.nodes.iter().map(|(node, _)| json!({"endpoint": {"address": at(*node)}})).collect();
    let many = json!({"max_connections": 10_000, "max_pending_requests": 10_000, "max_requests": 10_000, "max_retries": 10_000});
    let cluster = json!({
        "name": "nodes",
        "type": "STATIC",
        "connect_timeout": "2s",
        "lb_policy": wanted.policy.to_uppercase(),
        "load_assignment": {"cluster_name": "nodes", "endpoints": [{"lb_endpoints": endpoints}]},
        "circuit_breakers": {"thresholds": [many]},
        // The default of a tenth of the nodes is none of eight.
        "outlier_detection": {"max_ejection_percent": 50},
        "health_checks": [{
            "timeout": seconds(check_wait_s),
            "interval": seconds(check_every_s),
            "unhealthy_threshold": CHECK_FALL,
            "healthy_threshold": CHECK_RISE,
            "http_health_check": {"path": "/health"},
        }],
    });
    let listener = json!({"name": "clients", "address": at(listen), "filter_chains": [{"filters": [filter]}]});
    format!("{:#}\n", json!({"static_resources": {"listeners": [listener], "clusters": [cluster]}}))
}
