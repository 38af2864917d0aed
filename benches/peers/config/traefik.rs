//! Traefik. Its files are YAML, of which JSON is a part.

use std::net::SocketAddr;
use std::path::Path;

use serde_json::{Value, json};

use super::{ANSWER_WAIT_S, CHECK_EVERY_S, CHECK_WAIT_S, IDLE_MAX, Wanted};

/// What it reads once.
pub(super) fn fixed(listen: SocketAddr, admin: SocketAddr, directory: &Path) -> String {
    let config = json!({
        "global": {"checkNewVersion": false, "sendAnonymousUsage": false},
        "entryPoints": {
            "clients": {
                "address": listen.to_string(),
                "transport": {
                    "lifeCycle": {"graceTimeOut": "1s"},
                    "respondingTimeouts": {"readTimeout": "0s", "idleTimeout": "120s"},
                },
            },
            "traefik": {"address": admin.to_string()},
        },
        "api": {"insecure": true},
        "providers": {"file": {"filename": directory.join("services.yml"), "watch": false}},
        "log": {"level": "ERROR"},
    });
    format!("{config:#}\n")
}

/// What it routes.
pub(super) fn services(wanted: &Wanted<'_>) -> String {
    let servers: Vec<Value> = wanted.nodes.iter().map(|(node, _)| json!({"url": format!("http://{node}")})).collect();
    let config = json!({"http": {
        "routers": {"all": {"rule": "PathPrefix(`/`)", "service": "nodes", "entryPoints": ["clients"]}},
        "services": {"nodes": {"loadBalancer": {
            "strategy": wanted.policy,
            "servers": servers,
            "serversTransport": "transport",
            "healthCheck": {
                "path": "/health",
                "interval": format!("{CHECK_EVERY_S}s"),
                "timeout": format!("{CHECK_WAIT_S}s"),
            },
            "passiveHealthCheck": {"failureWindow": "10s", "maxFailedAttempts": 10},
        }}},
        "serversTransports": {"transport": {
            "maxIdleConnsPerHost": IDLE_MAX,
            "forwardingTimeouts": {
                "dialTimeout": "2s",
                "responseHeaderTimeout": format!("{ANSWER_WAIT_S}s"),
                "idleConnTimeout": "60s",
            },
        }},
    }});
    format!("{config:#}\n")
}
