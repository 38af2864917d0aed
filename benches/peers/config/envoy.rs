//! Envoy. Its limits of 1,024 requests and connections to all nodes together are raised: the others have none.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::{ANSWER_WAIT_S, CHECK_EVERY_S, CHECK_FALL, CHECK_RISE, CHECK_WAIT_S, Wanted};

const MANAGER: &str =
    "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
const ROUTER: &str = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";

fn seconds(count: u32) -> String {
    format!("{count}s")
}

fn at(address: SocketAddr) -> Value {
    json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}})
}

pub(super) fn config(wanted: &Wanted<'_>, listen: SocketAddr) -> String {
    let route = json!({
        "match": {"prefix": "/"},
        // The time of a whole answer is not bounded, that between two pieces is.
        "route": {"cluster": "nodes", "timeout": "0s", "idle_timeout": seconds(ANSWER_WAIT_S)},
    });
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
    let many = json!({"max_connections": 10_000, "max_pending_requests": 10_000, "max_requests": 10_000});
    let cluster = json!({
        "name": "nodes",
        "type": "STATIC",
        "connect_timeout": "2s",
        "lb_policy": wanted.policy.to_uppercase(),
        "load_assignment": {"cluster_name": "nodes", "endpoints": [{"lb_endpoints": endpoints}]},
        "circuit_breakers": {"thresholds": [many]},
        "outlier_detection": {},
        "health_checks": [{
            "timeout": seconds(CHECK_WAIT_S),
            "interval": seconds(CHECK_EVERY_S),
            "unhealthy_threshold": CHECK_FALL,
            "healthy_threshold": CHECK_RISE,
            "http_health_check": {"path": "/health"},
        }],
    });
    let listener = json!({"name": "clients", "address": at(listen), "filter_chains": [{"filters": [filter]}]});
    format!("{:#}\n", json!({"static_resources": {"listeners": [listener], "clusters": [cluster]}}))
}
