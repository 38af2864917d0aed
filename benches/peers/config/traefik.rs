//! Traefik. Its files are YAML, of which JSON is a part.

use std::net::SocketAddr;
use std::path::Path;

use serde_json::{Value, json};

use super::{IDLE_MAX, Terms, Wanted};

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
    let Terms { check_every_s, check_wait_s, answer_wait_s, repeats } = wanted.terms;
    let mut config = json!({"http": {
        "routers": {"all": {"rule": "PathPrefix(`/`)", "service": "nodes", "entryPoints": ["clients"]}},
        "services": {"nodes": {"loadBalancer": {
            "strategy": wanted.policy,
            "servers": servers,
            "serversTransport": "transport",
            "healthCheck": {
                "path": "/health",
                "interval": format!("{check_every_s}s"),
                "timeout": format!("{check_wait_s}s"),
            },
            "passiveHealthCheck": {"failureWindow": "10s", "maxFailedAttempts": 10},
        }}},
        "serversTransports": {"transport": {
            "maxIdleConnsPerHost": IDLE_MAX,
            "forwardingTimeouts": {
                "dialTimeout": "2s",
                "responseHeaderTimeout": format!("{answer_wait_s}s"),
                "idleConnTimeout": "60s",
            },
        }},
    }});
    if repeats > 0 {
        config["http"]["middlewares"] = json!({"again": {"retry": {
            "attempts": repeats + 1,
            "status": ["500-599"],
            "retryNonIdempotentMethod": true,
        }}});
        config["http"]["routers"]["all"]["middlewares"] = json!(["again"]);
    }
    format!("{config:#}\n")
}
