//! Settings for people and programs to look at: TOML with origins, JSON, never a secret.
//!
//! Checked settings are turned back into raw ones, which are plain data without secrets; so what is printed is what
//! is in force, a default spelled out, and can be loaded again. A token shows where it is kept, where that is known.

use std::collections::BTreeMap;
use std::path::Path;

use secrecy::ExposeSecret;
use serde_json::{Value as Json, json};

use super::checked::{
    Adaptive, AdminTls, LogFormat, Priority, QueueSettings, RateLimit, Role, Route, ServerTiming, Settings, Timeouts,
    Token,
};
use super::raw::{
    Raw, RawAdaptive, RawAdmin, RawClientRole, RawEjection, RawForward, RawHealth, RawLimits, RawLog, RawLogFormat,
    RawNode, RawPrefix, RawPriority, RawQueue, RawRateLimit, RawRetry, RawRole, RawRoute, RawRouteTimeouts,
    RawServerTiming, RawTimeouts, RawTls, RawToken, RawTrace,
};
use super::value::{
    Address, AdminAddress, ClientKey, FieldName, FilePath, HostName, LogFilter, MethodName, ModelName, Name, Network,
    NodePlace, NodeUrl, Objective, OrOff, PolicyName, PriorName, SessionName, Size, Span, UrlPath, Workers,
};
use super::{Loaded, Origin};
use crate::admission::{QueueRules, Quota, RateRules};
use crate::fleet::Ejection;
use crate::node::{MaxInFlight, NodeSpec};

impl Settings {
    /// The settings as plain data. Of tokens only the roles are left.
    pub fn to_raw(&self) -> Raw {
        // Taken apart completely, so that a new setting cannot be forgotten here.
        let Settings {
            listen,
            policy,
            session_key,
            max_in_flight,
            workers,
            handover,
            debug_headers,
            server_timing,
            admin,
            adaptive,
            nodes,
            routes,
            health,
            ejection,
            queue,
            rate_limit,
            prefix,
            timeouts,
            retry,
            limits,
            forward,
            log,
            trace,
        } = self;
        Raw {
            listen: Address(*listen),
            policy: PolicyName(*policy),
            session_key: SessionName(session_key.clone()),
            max_in_flight: (*max_in_flight).into(),
            workers: Workers(Some(*workers)),
            handover: OrOff(handover.as_ref().map(|path| FilePath(path.display().to_string()))),
            debug_headers: *debug_headers,
            server_timing: match server_timing {
                ServerTiming::Off => RawServerTiming::Off,
                ServerTiming::Asked => RawServerTiming::Asked,
                ServerTiming::Always => RawServerTiming::Always,
            },
            admin: RawAdmin {
                listen: AdminAddress(admin.listen.clone()),
                hosts: admin.hosts.iter().cloned().map(HostName).collect(),
                node_allow: admin.node_allow.0.iter().cloned().map(NodePlace).collect(),
                metrics_public: admin.metrics_public,
                tls: admin.tls.as_ref().map(raw_tls).unwrap_or_default(),
                tokens: admin.tokens.iter().map(raw_token).collect(),
            },
            adaptive: raw_adaptive(adaptive),
            health: RawHealth {
                interval: Span(health.interval),
                timeout: Span(health.timeout),
                path: OrOff(health.path.clone().map(UrlPath)),
                unhealthy_after: health.thresholds.unhealthy_after,
                healthy_after: health.thresholds.healthy_after,
            },
            ejection: raw_ejection(ejection),
            queue: raw_queue(queue),
            rate_limit: raw_rate_limit(rate_limit),
            prefix: RawPrefix {
                enabled: prefix.enabled,
                memory_bytes_max: Size(prefix.memory_bytes_max as u64),
                key_file: OrOff(prefix.key_file.as_ref().map(|file| FilePath(file.display().to_string()))),
            },
            timeouts: raw_timeouts(timeouts),
            retry: RawRetry {
                budget: retry.budget,
                floor_per_s: retry.floor_per_s,
                attempts_max: retry.attempts_max,
                hedge_budget: retry.hedge_budget,
                full: retry.full,
            },
            limits: RawLimits {
                connections_max: count(limits.connections_max),
                client_connections_max: count(limits.client_connections_max),
                client_bytes_per_s_min: Size(limits.client_bytes_per_s_min),
                head_bytes_max: Size(limits.head_bytes_max as u64),
                headers_max: count(limits.headers_max),
                uri_bytes_max: Size(limits.uri_bytes_max as u64),
                body_bytes_max: OrOff(limits.body_bytes_max.map(Size)),
                inspect_bytes_max: Size(limits.inspect_bytes_max as u64),
                node_connections_max: count(limits.node_connections_max),
                node_idle_max: count(limits.node_idle_max),
                node_idle_timeout: Span(limits.node_idle_timeout),
                node_lifetime: Span(limits.node_lifetime),
            },
            forward: RawForward {
                trusted_proxies: forward.trusted_proxies.iter().copied().map(Network).collect(),
                preserve_host: forward.preserve_host,
                upgrades: forward.upgrades.iter().cloned().map(Name).collect(),
            },
            log: RawLog {
                level: LogFilter(log.level.clone()),
                format: match log.format {
                    LogFormat::Text => RawLogFormat::Text,
                    LogFormat::Json => RawLogFormat::Json,
                },
                access: log.access,
            },
            trace: RawTrace {
                endpoint: OrOff(trace.endpoint.clone().map(NodeUrl)),
                share: trace.share,
                service: Name(trace.service.clone()),
            },
            nodes: nodes.iter().map(|node| raw_node(node, *max_in_flight)).collect(),
            routes: routes.iter().map(|route| raw_route(route, timeouts)).collect(),
        }
    }

    /// The settings as JSON, in the words of the configuration file. Of tokens only the roles are left.
    pub fn to_json(&self) -> Json {
        serde_json::to_value(self.to_raw()).unwrap_or_default()
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn raw_adaptive(adaptive: &Adaptive) -> RawAdaptive {
    let Adaptive { knobs, shadow, fallback, state_dir, prior } = adaptive;
    RawAdaptive {
        objective: Objective(knobs.first_byte),
        social: knobs.social,
        explore: knobs.explore,
        proxies: knobs.proxies as u32,
        shadow: *shadow,
        fallback: PolicyName(*fallback),
        state_dir: OrOff(state_dir.as_ref().map(|dir| FilePath(dir.display().to_string()))),
        prior: OrOff(prior.clone().map(PriorName)),
    }
}

fn raw_token(token: &Token) -> RawToken {
    let role = match token.role {
        Role::Read => RawRole::Read,
        Role::Operate => RawRole::Operate,
    };
    RawToken { file: None, env: None, role }
}

fn raw_tls(tls: &AdminTls) -> RawTls {
    let file = |path: &Path| OrOff(Some(FilePath(path.display().to_string())));
    RawTls {
        certificate: file(&tls.certificate),
        key: file(&tls.key),
        client_ca: tls.client_ca.as_deref().map_or(OrOff(None), file),
        client_role: match tls.client_role {
            None => RawClientRole::None,
            Some(Role::Read) => RawClientRole::Read,
            Some(Role::Operate) => RawClientRole::Operate,
        },
    }
}

/// A limit that came from the default is left to the default, so that it follows that after it was loaded again.
fn raw_node(node: &NodeSpec, default: MaxInFlight) -> RawNode {
    let limit = node.max_in_flight();
    RawNode {
        url: NodeUrl(node.url.clone()),
        name: Some(Name(node.name.clone())),
        weight: node.weight,
        max_in_flight: (node.own_limit || limit != default).then(|| limit.into()),
        max_in_flight_tokens: node.max_in_flight_tokens,
        models: node.models.iter().cloned().map(ModelName).collect(),
    }
}

fn raw_ejection(rules: &Ejection) -> RawEjection {
    RawEjection {
        consecutive: rules.consecutive,
        failure_ratio: rules.failure_ratio,
        outlier_margin: rules.outlier_margin,
        window: Span(rules.window),
        requests_min: rules.requests_min,
        base: Span(rules.base),
        longest: Span(rules.longest),
        share_max: rules.share_max,
        panic_below: rules.panic_below,
    }
}

fn raw_queue(queue: &QueueSettings) -> RawQueue {
    let QueueRules { length_max, bytes_max, timeout, timeout_max, lifo_after } = queue.rules;
    RawQueue {
        length_max: count(length_max),
        bytes_max: Size(bytes_max),
        timeout: Span(timeout),
        timeout_max: Span(timeout_max),
        lifo_after: OrOff(lifo_after.map(Span)),
        priority_header: OrOff(queue.priority_header.clone().map(FieldName)),
    }
}

fn raw_rate_limit(limit: &RateLimit) -> RawRateLimit {
    let RateRules { requests, tokens, keys_max } = limit.rules;
    let amount = |quota: Option<Quota>| quota.map_or(0, |quota| quota.amount);
    // Where there is no quota, the window is the default: it says nothing.
    let window = requests.or(tokens).map_or(RawRateLimit::default().window, |quota| Span(quota.window));
    RawRateLimit {
        key: ClientKey(limit.key.clone()),
        requests: amount(requests),
        tokens: amount(tokens),
        window,
        keys_max: count(keys_max),
    }
}

fn raw_timeouts(timeouts: &Timeouts) -> RawTimeouts {
    RawTimeouts {
        first_request: Span(timeouts.first_request),
        header_read: Span(timeouts.header_read),
        connect: Span(timeouts.connect),
        first_byte: Span(timeouts.first_byte),
        between_chunks: Span(timeouts.between_chunks),
        total: OrOff(timeouts.total.map(Span)),
        idle: Span(timeouts.idle),
        tunnel_idle: Span(timeouts.tunnel_idle),
        drain: Span(timeouts.drain),
    }
}

fn raw_route(route: &Route, global: &Timeouts) -> RawRoute {
    let own = &route.timeouts;
    let differing = |own, global| (own != global).then_some(Span(own));
    RawRoute {
        name: Some(Name(route.name.clone())),
        path_prefix: Some(UrlPath(route.path_prefix.clone())),
        method: route.method.clone().map(MethodName),
        model: route.model.clone().map(ModelName),
        retry_post: route.retry_post,
        retry_errors: route.retry_errors,
        hedge: route.hedge,
        priority: match route.priority {
            Priority::Interactive => RawPriority::Interactive,
            Priority::Default => RawPriority::Default,
            Priority::Batch => RawPriority::Batch,
        },
        timeouts: RawRouteTimeouts {
            connect: differing(own.connect, global.connect),
            first_byte: differing(own.first_byte, global.first_byte),
            between_chunks: differing(own.between_chunks, global.between_chunks),
            total: (own.total != global.total).then(|| OrOff(own.total.map(Span))),
        },
    }
}

/// Whether the tokens allow the same to the same holders.
pub(super) fn same_tokens(a: &[Token], b: &[Token]) -> bool {
    let known = |token: &Token| (token.secret.expose_secret().to_owned(), token.role);
    a.iter().map(known).eq(b.iter().map(known))
}

impl Loaded {
    fn raw(&self) -> Raw {
        let mut raw = self.settings.to_raw();
        raw.admin.tokens.clone_from(&self.tokens);
        raw
    }

    /// The effective settings as a configuration file, with the origin of each value behind it.
    pub fn to_toml(&self) -> String {
        let text = toml::to_string(&self.raw()).unwrap_or_default();
        let mut out = String::new();
        let mut indexes: BTreeMap<String, usize> = BTreeMap::new();
        let mut table = String::new();
        for line in text.lines() {
            if let Some(header) = line.strip_prefix("[[").and_then(|line| line.strip_suffix("]]")) {
                let index = indexes.entry(header.to_owned()).and_modify(|index| *index += 1).or_default();
                table = format!("{header}[{index}]");
            } else if let Some(header) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
                // A table below an entry of an array belongs to the entry that came last.
                let (head, rest) = header.split_once('.').unwrap_or((header, ""));
                table = match indexes.get(head) {
                    Some(index) => format!("{head}[{index}].{rest}"),
                    None => header.to_owned(),
                };
            } else if let Some((key, _)) = line.split_once(" = ") {
                let origin = self.origin(&super::schema::join(&table, key));
                out.push_str(&format!("{line:<40}  # {origin}\n"));
                continue;
            }
            out.push_str(line);
            out.push('\n');
        }
        out
    }

    /// The effective settings and the origin of each value that is not a default.
    pub fn to_json(&self) -> Json {
        let origins: BTreeMap<&str, &Origin> = self.origins.iter().collect();
        json!({ "settings": serde_json::to_value(self.raw()).unwrap_or_default(), "origins": origins })
    }

    fn origin(&self, path: &str) -> String {
        match self.origins.get(path) {
            Origin::Default if path.ends_with(".name") => "default, from its address".to_owned(),
            origin => origin.to_string(),
        }
    }
}
