//! The proxies that are measured, as processes: how each is configured, started, found ready, and ended.
//!
//! Configurations are as alike as the programs allow: one thread, round robin, keep-alive on both sides without a bound
//! on requests, an `X-Forwarded-For` header, no access log, connects checked every 5 s where the program can. Bellwether
//! runs its defaults besides, so it also looks into bodies, makes request ids and keeps metrics, which the others do not.

use std::fmt::{self, Display, Write};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::Failure;
use crate::program::{Running, free_addresses, home};
pub(crate) use crate::program::{Site, Under, find_program};

/// A process may take so long to answer; under callgrind everything is slow.
const START_WAIT: Duration = Duration::from_secs(30);

/// Which proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Bellwether,
    Haproxy,
    Nginx,
}

impl Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Bellwether => "bellwether",
            Kind::Haproxy => "haproxy",
            Kind::Nginx => "nginx",
        }
    }

    /// The Debian package.
    pub(crate) fn package(self) -> &'static str {
        match self {
            Kind::Nginx => "nginx-light",
            other => other.name(),
        }
    }

    /// Where the program is, if it is installed.
    pub(crate) fn program(self) -> Option<PathBuf> {
        match self {
            Kind::Bellwether => Some(PathBuf::from(env!("CARGO_BIN_EXE_bellwether"))),
            other => find_program(other.name()),
        }
    }

    fn config(self, site: &Site, listen: SocketAddr, admin: SocketAddr, directory: &Path) -> String {
        match self {
            Kind::Bellwether => bellwether(site, listen, admin),
            Kind::Haproxy => haproxy(site, listen),
            Kind::Nginx => nginx(site, listen, directory),
        }
    }

    fn arguments(self, config: &Path, directory: &Path, one_process: bool) -> Vec<String> {
        let (config, directory) = (config.display().to_string(), directory.display().to_string());
        let words: &[&str] = match self {
            Kind::Bellwether => &["run", "--config", &config],
            Kind::Haproxy => &["-db", "-f", &config],
            Kind::Nginx if one_process => &["-p", &directory, "-c", &config, "-g", "master_process off;"],
            Kind::Nginx => &["-p", &directory, "-c", &config],
        };
        words.iter().map(|&word| word.to_owned()).collect()
    }
}

fn bellwether(site: &Site, listen: SocketAddr, admin: SocketAddr) -> String {
    let mut text = format!(
        "listen = \"{listen}\"\npolicy = \"round-robin\"\nworkers = 1\n\n[admin]\nlisten = \"{admin}\"\n\n\
         [timeouts]\nidle = \"120s\"\ndrain = \"1s\"\n\n[log]\naccess = false\n"
    );
    for node in &site.nodes {
        // Writing to a string does not fail.
        let _ = write!(text, "\n[[node]]\nurl = \"http://{node}\"\n");
    }
    text
}

fn haproxy(site: &Site, listen: SocketAddr) -> String {
    let mut text = format!(
        "global\n  nbthread 1\n  maxconn {}\n  no strict-limits\n\
         defaults\n  mode http\n  timeout connect 2s\n  timeout client 120s\n  timeout server 120s\n  \
         timeout http-keep-alive 120s\n  option http-keep-alive\n  http-reuse always\n  option forwardfor\n",
        site.clients + 100
    );
    if site.streams {
        text.push_str("  option abortonclose\n");
    }
    let _ = write!(
        text,
        "frontend clients\n  bind {listen}\n  default_backend nodes\nbackend nodes\n  balance roundrobin\n"
    );
    for (index, node) in site.nodes.iter().enumerate() {
        let _ = writeln!(text, "  server node{index} {node} check inter 5s");
    }
    text
}

fn nginx(site: &Site, listen: SocketAddr, directory: &Path) -> String {
    let directory = directory.display();
    let mut text = format!(
        "worker_processes 1;\ndaemon off;\nerror_log {directory}/error.log;\npid {directory}/nginx.pid;\n\
         events {{ worker_connections {}; }}\nhttp {{\n  access_log off;\n  keepalive_requests 100000000;\n  \
         keepalive_timeout 120s;\n",
        2 * site.clients + 100
    );
    for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        let _ = writeln!(text, "  {kind}_temp_path {directory}/{kind};");
    }
    text.push_str("  upstream nodes {\n");
    for node in &site.nodes {
        let _ = writeln!(text, "    server {node};");
    }
    let _ = write!(
        text,
        "    keepalive 256;\n    keepalive_requests 100000000;\n  }}\n  server {{\n    listen {listen} backlog=4096;\n    \
         client_max_body_size 0;\n    location / {{\n      proxy_pass http://nodes;\n      proxy_http_version 1.1;\n      \
         proxy_set_header Connection \"\";\n      proxy_set_header Host $http_host;\n      \
         proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\n"
    );
    if site.streams {
        text.push_str("      proxy_buffering off;\n      proxy_request_buffering off;\n");
    }
    text.push_str("    }\n  }\n}\n");
    text
}

/// All configurations, with example addresses.
pub(crate) fn show_configs() -> String {
    let address = |port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut text = String::new();
    for (streams, parts) in [(false, "cost, callgrind and idle"), (true, "bulk and disconnect, which have one node")] {
        let site = Site { nodes: [9001, 9002, 9003].map(address).to_vec(), clients: 1_000, streams };
        for kind in [Kind::Bellwether, Kind::Haproxy, Kind::Nginx] {
            let config = kind.config(&site, address(8080), address(8081), Path::new("/tmp/bench"));
            let _ = write!(text, "# {kind}, for {parts}\n\n{config}\n");
        }
    }
    text
}

/// A running proxy.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) kind: Kind,
    /// Where clients connect.
    pub(crate) address: SocketAddr,
    /// Where our own admin API listens.
    pub(crate) admin: SocketAddr,
    running: Running,
}

impl Proxy {
    /// Starts a proxy and returns when it has passed a request on to a node.
    pub(crate) async fn start(kind: Kind, site: &Site, under: &Under) -> Result<Proxy, Failure> {
        Proxy::start_with(kind, under, |listen, admin, directory| kind.config(site, listen, admin, directory)).await
    }

    /// The same with another configuration, for the addresses of clients and admin API, and a directory.
    pub(crate) async fn start_with(
        kind: Kind,
        under: &Under,
        configure: impl FnOnce(SocketAddr, SocketAddr, &Path) -> String,
    ) -> Result<Proxy, Failure> {
        let program =
            kind.program().ok_or_else(|| format!("{kind} is not installed: apt install {}", kind.package()))?;
        let directory = home()?;
        let [address, admin] = free_addresses()?;
        let config = directory.path().join("proxy.conf");
        fs::write(&config, configure(address, admin, directory.path()))?;
        let arguments = kind.arguments(&config, directory.path(), under.wants_one_process());
        let mut running = Running::start(&program, under, directory, &arguments, &[])?;
        running.until_ready(kind.name(), (address, Some("/health")), START_WAIT).await?;
        Ok(Proxy { kind, address, admin, running })
    }

    /// The process that was started.
    pub(crate) fn pid(&self) -> u32 {
        self.running.pid()
    }

    /// That process and its children.
    pub(crate) fn pids(&self) -> Vec<u32> {
        self.running.pids()
    }
}
