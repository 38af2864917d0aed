//! From raw settings to checked ones: what concerns several values at once, and what lies outside of the settings.
//!
//! Single values were judged by the walk; here are names that must differ, addresses that must not meet, routes that
//! shadow each other; what is read from elsewhere, tokens and certificates, is in `admin.rs` and `tls.rs`. The function is total: it always gives
//! settings, and every mistake goes to the list. Only the caller who sees an empty list may use them.

mod admin;
mod tls;

use admin::{read_token, sound_token};

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::checked::{
    Adaptive, Forward, Health, Limits, Log, LogFormat, PrefixSettings, Priority, QueueSettings, RateLimit, Retry,
    Route, ServerTiming, Settings, Timeouts, Trace,
};
use super::error::{Complaint, ConfigError, quoted};
use super::origins::Origins;
use super::raw::{
    Raw, RawAdaptive, RawEjection, RawLimits, RawLogFormat, RawNode, RawPrefix, RawPriority, RawQueue, RawRateLimit,
    RawRoute, RawServerTiming, RawTimeouts,
};
use super::sources::Env;
use crate::address::meet;
use crate::admission::{QueueRules, Quota, RateRules};
use crate::fleet::{Ejection, Thresholds};
use crate::learn::Knobs;
use crate::node::{MaxInFlight, NO_NODE, NodeSpec};
use crate::priors;

/// What the checks look at besides the settings, and the mistakes found so far.
pub(super) struct Check<'a> {
    pub(super) origins: &'a Origins,
    pub(super) env: &'a Env,
    /// Where relative token files start.
    pub(super) dir: PathBuf,
    pub(super) errors: Vec<ConfigError>,
}

impl Check<'_> {
    /// Checked settings; trustworthy if no error was added.
    pub(super) fn settings(&mut self, raw: &Raw) -> Settings {
        let timeouts = timeouts(&raw.timeouts);
        let settings = Settings {
            listen: raw.listen.0,
            policy: raw.policy.0,
            max_in_flight: raw.max_in_flight.limit(),
            workers: raw.workers.0.unwrap_or_else(cores),
            session_key: raw.session_key.0.clone(),
            handover: raw.handover.0.as_ref().map(|path| self.dir.join(&path.0)),
            debug_headers: raw.debug_headers,
            server_timing: match raw.server_timing {
                RawServerTiming::Off => ServerTiming::Off,
                RawServerTiming::Asked => ServerTiming::Asked,
                RawServerTiming::Always => ServerTiming::Always,
            },
            admin: self.admin(&raw.admin),
            adaptive: self.adaptive(&raw.adaptive, &raw.prefix),
            nodes: raw.nodes.iter().map(|raw_node| node(raw_node, raw.max_in_flight.limit())).collect(),
            routes: raw.routes.iter().map(|raw| route(raw, &timeouts)).collect(),
            health: Health {
                interval: raw.health.interval.0,
                timeout: raw.health.timeout.0,
                path: raw.health.path.0.as_ref().map(|path| path.0.clone()),
                thresholds: Thresholds {
                    unhealthy_after: raw.health.unhealthy_after,
                    healthy_after: raw.health.healthy_after,
                },
            },
            ejection: ejection(&raw.ejection),
            queue: queue(&raw.queue),
            rate_limit: rate_limit(&raw.rate_limit),
            prefix: self.prefix(&raw.prefix),
            timeouts,
            retry: Retry {
                budget: raw.retry.budget,
                floor_per_s: raw.retry.floor_per_s,
                attempts_max: raw.retry.attempts_max,
                hedge_budget: raw.retry.hedge_budget,
                full: raw.retry.full,
            },
            limits: limits(&raw.limits),
            forward: Forward {
                trusted_proxies: raw.forward.trusted_proxies.iter().map(|network| network.0).collect(),
                preserve_host: raw.forward.preserve_host,
                upgrades: raw.forward.upgrades.iter().map(|name| name.0.clone()).collect(),
            },
            log: Log {
                level: raw.log.level.0.clone(),
                format: match raw.log.format {
                    RawLogFormat::Text => LogFormat::Text,
                    RawLogFormat::Json => LogFormat::Json,
                },
                access: raw.log.access,
            },
            trace: Trace {
                endpoint: raw.trace.endpoint.0.as_ref().map(|url| url.0.clone()),
                share: raw.trace.share,
                service: raw.trace.service.0.clone(),
            },
        };
        self.listeners(&settings, raw.admin.tokens.is_empty());
        self.names(&settings.nodes);
        self.loops(&settings);
        self.shadows(&settings.routes);
        self.second_posts(&settings.routes);
        if settings.handover.is_some() && settings.admin.listen.address().is_none() && !self.broken(&["admin.listen"]) {
            let complaint = Complaint::new("a socket in the file system (admin.listen) is not handed over");
            self.complain("handover", complaint.allowed("\"off\", or an IP and port for admin.listen"));
        }
        if settings.ejection.base > settings.ejection.longest && !self.broken(&["ejection"]) {
            let complaint = Complaint::new("the first ejection is longer than the longest");
            self.complain("ejection.base", complaint.allowed("at most ejection.longest"));
        }
        if settings.queue.rules.timeout > settings.queue.rules.timeout_max && !self.broken(&["queue"]) {
            let complaint = Complaint::new("longer than a client may wait by its own wish");
            self.complain("queue.timeout", complaint.allowed("at most queue.timeout_max"));
        }
        if settings.limits.uri_bytes_max > settings.limits.head_bytes_max && !self.broken(&["limits"]) {
            let allowed = "at most limits.head_bytes_max, of which it is a part";
            self.complain("limits.uri_bytes_max", Complaint::new("more bytes than a head may have").allowed(allowed));
        }
        settings
    }

    /// Whether a value that the walk cut out would make a check of these keys guess.
    fn broken(&self, keys: &[&str]) -> bool {
        self.errors.iter().any(|error| keys.iter().any(|key| error.key.starts_with(key)))
    }

    fn complain(&mut self, path: &str, complaint: Complaint) {
        let place = self.origins.place(path);
        self.errors.push(complaint.at(place.at.clone(), &*place.label));
    }

    fn adaptive(&self, raw: &RawAdaptive, prefix: &RawPrefix) -> Adaptive {
        // A path is relative to the file that names it; "builtin:NAME" is no path.
        let near = |path: &str| self.dir.join(path);
        let prior = raw.prior.0.as_ref().map(|prior| match priors::builtin(&prior.0) {
            Some(_) => prior.0.clone(),
            None => near(&prior.0).display().to_string(),
        });
        Adaptive {
            knobs: Knobs { first_byte: raw.objective.0, social: raw.social, explore: raw.explore, ..Knobs::default() }
                .among(f64::from(raw.proxies), prefix.enabled && prefix.key_file.0.is_some()),
            shadow: raw.shadow,
            fallback: raw.fallback.0,
            state_dir: raw.state_dir.0.as_ref().map(|dir| near(&dir.0)),
            prior,
        }
    }

    fn prefix(&mut self, raw: &RawPrefix) -> PrefixSettings {
        let key_file = raw.key_file.0.as_ref().map(|file| self.dir.join(&file.0));
        let key = key_file.as_deref().and_then(|file| match read_token(file).and_then(|text| sound_token(&text)) {
            Ok(key) => Some(key),
            Err(complaint) => {
                self.complain("prefix.key_file", complaint);
                None
            }
        });
        let memory_bytes_max = usize::try_from(raw.memory_bytes_max.0).unwrap_or(usize::MAX);
        PrefixSettings { enabled: raw.enabled, memory_bytes_max, key, key_file }
    }

    fn names(&mut self, nodes: &[NodeSpec]) {
        let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
        for (at, node) in nodes.iter().enumerate() {
            if node.name == NO_NODE {
                let path = ["name", "url"].map(|key| format!("node[{at}].{key}"));
                let path = path.iter().find(|path| self.origins.has(path)).unwrap_or(&path[1]);
                let problem = format!("{} is what metrics call the proxy itself", quoted(&node.name));
                self.complain(path, Complaint::new(problem).allowed("another name"));
            }
            let Some(first) = seen.get(node.name.as_str()) else {
                seen.insert(&node.name, at);
                continue;
            };
            let first = self.origins.place(&format!("node[{first}]"));
            let problem = format!("{} is already the name of {} ({})", quoted(&node.name), first.label, first.at);
            let path = ["name", "url"].map(|key| format!("node[{at}].{key}"));
            let path = path.iter().find(|path| self.origins.has(path)).unwrap_or(&path[1]);
            self.complain(path, Complaint::new(problem).allowed("a name of its own for each node"));
        }
    }

    fn loops(&mut self, settings: &Settings) {
        for (at, node) in settings.nodes.iter().enumerate() {
            let host = node.url.trim_start_matches("http://").split('/').next().unwrap_or_default();
            let host = host.replacen("localhost", "127.0.0.1", 1);
            let address = host.parse().or_else(|_| format!("{host}:80").parse::<SocketAddr>());
            let own = [("listen", Some(settings.listen)), ("admin.listen", settings.admin.listen.address())];
            for (key, listen) in own {
                let meets = address.as_ref().is_ok_and(|address| listen.is_some_and(|listen| meet(*address, listen)));
                if meets && !self.broken(&[key]) {
                    let complaint = Complaint::new(format!("{} is this proxy itself ({key})", quoted(&node.url)));
                    self.complain(&format!("node[{at}].url"), complaint.allowed("the address of a model server"));
                }
            }
        }
    }

    /// A route that gets no request because an earlier one takes all of them is a mistake in the order.
    fn shadows(&mut self, routes: &[Route]) {
        if self.broken(&["route"]) {
            return;
        }
        for (at, route) in routes.iter().enumerate() {
            let Some(first) = routes[..at].iter().position(|first| takes_all(first, route)) else { continue };
            let place = self.origins.place(&format!("route[{first}]"));
            let problem =
                format!("never matches: {} ({}) comes first and takes all its requests", place.label, place.at);
            let complaint = Complaint::new(problem).allowed("the more specific route first");
            self.complain(&format!("route[{at}]"), complaint);
        }
    }

    /// A copy of a POST is a second POST, which the route must allow.
    fn second_posts(&mut self, routes: &[Route]) {
        for (at, route) in routes.iter().enumerate() {
            if route.hedge && !route.retry_post && route.method == Some(http::Method::POST) {
                let complaint = Complaint::new("never hedges: a POST of this route may not be sent again");
                self.complain(&format!("route[{at}].hedge"), complaint.allowed("retry_post = true beside it"));
            }
            if route.retry_errors && !route.retry_post && route.method == Some(http::Method::POST) {
                let complaint = Complaint::new("never retries: a POST of this route may not be sent again");
                self.complain(&format!("route[{at}].retry_errors"), complaint.allowed("retry_post = true beside it"));
            }
        }
    }
}

/// Whether every request that `later` matches is matched by `first` too.
fn takes_all(first: &Route, later: &Route) -> bool {
    let prefix = first.path_prefix.trim_end_matches('/');
    let below = later.path_prefix.strip_prefix(prefix);
    below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        && (first.method.is_none() || first.method == later.method)
        && (first.model.is_none() || first.model == later.model)
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// A node, where those without a limit of their own have `default`.
pub(super) fn node(raw: &RawNode, default: MaxInFlight) -> NodeSpec {
    let spec = NodeSpec::new(raw.url.0.clone());
    let spec = match &raw.max_in_flight {
        Some(own) => spec.own_limited(own.limit()),
        None => spec.or_limited(default),
    };
    NodeSpec {
        name: raw.name.as_ref().map_or(spec.name, |name| name.0.clone()),
        weight: raw.weight,
        max_in_flight_tokens: raw.max_in_flight_tokens,
        models: raw.models.iter().map(|model| model.0.clone()).collect(),
        ..spec
    }
}

fn route(raw: &RawRoute, timeouts: &Timeouts) -> Route {
    // "/v1/" means the same as "/v1"; only the root keeps its slash.
    let trimmed = raw.path_prefix.as_ref().map_or("", |path| path.0.trim_end_matches('/'));
    let path_prefix = if trimmed.is_empty() { "/" } else { trimmed }.to_owned();
    let mut timeouts = timeouts.clone();
    for (global, own) in [
        (&mut timeouts.connect, &raw.timeouts.connect),
        (&mut timeouts.first_byte, &raw.timeouts.first_byte),
        (&mut timeouts.between_chunks, &raw.timeouts.between_chunks),
    ] {
        *global = own.as_ref().map_or(*global, |span| span.0);
    }
    if let Some(total) = &raw.timeouts.total {
        timeouts.total = total.0.as_ref().map(|span| span.0);
    }
    Route {
        name: raw.name.as_ref().map_or_else(|| path_prefix.clone(), |name| name.0.clone()),
        path_prefix,
        method: raw.method.as_ref().map(|method| method.0.clone()),
        model: raw.model.as_ref().map(|model| model.0.clone()),
        retry_post: raw.retry_post,
        retry_errors: raw.retry_errors,
        hedge: raw.hedge,
        priority: match raw.priority {
            RawPriority::Interactive => Priority::Interactive,
            RawPriority::Default => Priority::Default,
            RawPriority::Batch => Priority::Batch,
        },
        timeouts,
    }
}

fn timeouts(raw: &RawTimeouts) -> Timeouts {
    Timeouts {
        first_request: raw.first_request.0,
        header_read: raw.header_read.0,
        connect: raw.connect.0,
        first_byte: raw.first_byte.0,
        between_chunks: raw.between_chunks.0,
        total: raw.total.0.as_ref().map(|span| span.0),
        idle: raw.idle.0,
        tunnel_idle: raw.tunnel_idle.0,
        drain: raw.drain.0,
    }
}

fn ejection(raw: &RawEjection) -> Ejection {
    Ejection {
        consecutive: raw.consecutive,
        failure_ratio: raw.failure_ratio,
        outlier_margin: raw.outlier_margin,
        window: raw.window.0,
        requests_min: raw.requests_min,
        base: raw.base.0,
        longest: raw.longest.0,
        share_max: raw.share_max,
        panic_below: raw.panic_below,
    }
}

fn queue(raw: &RawQueue) -> QueueSettings {
    QueueSettings {
        rules: QueueRules {
            length_max: raw.length_max as usize,
            bytes_max: raw.bytes_max.0,
            timeout: raw.timeout.0,
            timeout_max: raw.timeout_max.0,
            lifo_after: raw.lifo_after.0.as_ref().map(|span| span.0),
        },
        priority_header: raw.priority_header.0.as_ref().map(|name| name.0.clone()),
    }
}

fn rate_limit(raw: &RawRateLimit) -> RateLimit {
    let quota = |amount: u64| (amount > 0).then_some(Quota { amount, window: raw.window.0 });
    let rules = RateRules { requests: quota(raw.requests), tokens: quota(raw.tokens), keys_max: raw.keys_max as usize };
    RateLimit { key: raw.key.0.clone(), rules }
}

fn limits(raw: &RawLimits) -> Limits {
    let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    Limits {
        connections_max: size(raw.connections_max.into()),
        client_connections_max: size(raw.client_connections_max.into()),
        client_bytes_per_s_min: raw.client_bytes_per_s_min.0,
        head_bytes_max: size(raw.head_bytes_max.0),
        headers_max: size(raw.headers_max.into()),
        uri_bytes_max: size(raw.uri_bytes_max.0),
        body_bytes_max: raw.body_bytes_max.0.as_ref().map(|size| size.0),
        inspect_bytes_max: size(raw.inspect_bytes_max.0),
        node_connections_max: size(raw.node_connections_max.into()),
        node_idle_max: size(raw.node_idle_max.into()),
        node_idle_timeout: raw.node_idle_timeout.0,
        node_lifetime: raw.node_lifetime.0,
    }
}
