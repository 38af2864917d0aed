//! Configuration: from flags, environment and a file to [`Settings`].

mod checked;

pub use checked::{
    Admin, Forward, Health, Limits, Log, LogFormat, Priority, Retry, Role, Route, Settings, Timeouts, Token,
};

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::fleet::Thresholds;
use crate::policy::{self, PolicyId};

impl Default for Settings {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Settings {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)),
            policy: PolicyId::named(policy::DEFAULT).unwrap_or(PolicyId(0)),
            workers: std::thread::available_parallelism().map_or(1, usize::from),
            admin: Admin {
                listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8081)),
                hosts: Vec::new(),
                metrics_public: false,
                tokens: Vec::new(),
            },
            nodes: Vec::new(),
            routes: Vec::new(),
            health: Health { interval: seconds(5), timeout: seconds(2), path: None, thresholds: Thresholds::default() },
            timeouts: Timeouts {
                first_request: seconds(10),
                header_read: seconds(10),
                connect: seconds(2),
                first_byte: seconds(600),
                between_chunks: seconds(120),
                total: None,
                idle: seconds(75),
                drain: seconds(30),
            },
            retry: Retry { budget: 0.2, floor_per_s: 10.0, attempts_max: 3 },
            limits: Limits {
                connections_max: 20_000,
                head_bytes_max: 64 * 1024,
                headers_max: 100,
                uri_bytes_max: 8 * 1024,
                body_bytes_max: None,
                inspect_bytes_max: 256 * 1024,
                node_connections_max: 4_096,
                node_idle_max: 256,
                node_idle_timeout: seconds(60),
                node_lifetime: seconds(600),
            },
            forward: Forward { trusted_proxies: Vec::new(), preserve_host: true },
            log: Log { level: "info".to_owned(), format: LogFormat::Text, access: true },
        }
    }
}
