//! What each proxy is told, as a fair operator would tell it.
//!
//! All alike, as far as the programs can: keep-alive on both sides, responses passed on as they come, GET /health of every
//! node each 5 s (2 s at most, down after 3 failures, up after 2 passes), 2 s for a connect, 120 s for an answer, no
//! access log, as many threads as the program takes by itself. Nobody repeats a POST that was sent. What a program has
//! for failing nodes in traffic is switched on (HAProxy's `observe layer7`, Envoy's outlier detection, Traefik's passive
//! health check, the circuit breaker of the SGLang router, LiteLLM's cooldowns).
//!
//! Where nodes fail and answers are short (`faults`), the [`Terms`] are strict: a check each second, 5 s for an answer. In
//! `failover`, who can sends a POST again that got an error or nothing, twice at most, to another node where it can say
//! so (not the routers of model servers, and not Pingora's part, whose retries are a program of one's own).

mod envoy;
mod haproxy;
mod nginx;
mod own;
mod routers;
mod traefik;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use crate::Failure;
use crate::contender::ALL;
use crate::peer::Kind;

/// Failed checks until a node is down, passed ones until it is up.
const CHECK_FALL: u32 = 3;
const CHECK_RISE: u32 = 2;
/// Idle connections kept per node.
const IDLE_MAX: u32 = 256;

/// What all are told alike; times in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Terms {
    /// Between two checks of a node.
    pub(crate) check_every_s: u32,
    /// A check may take so long.
    pub(crate) check_wait_s: u32,
    /// An answer may take so long, and so long may be between two pieces of it.
    pub(crate) answer_wait_s: u32,
    /// How often a request may be sent again that got no answer or one of 5xx, a POST too.
    pub(crate) repeats: u32,
}

impl Terms {
    /// For long answers, which nobody wants to have computed twice.
    pub(crate) const PATIENT: Terms = Terms { check_every_s: 5, check_wait_s: 2, answer_wait_s: 120, repeats: 0 };
    /// For short answers.
    pub(crate) const STRICT: Terms = Terms { check_every_s: 1, check_wait_s: 1, answer_wait_s: 5, repeats: 0 };
    /// For short answers that may be asked for again.
    pub(crate) const AGAIN: Terms = Terms { repeats: 2, ..Terms::STRICT };
    /// All of them, and where they are used.
    pub(crate) const ALL: [(Terms, &str); 3] =
        [(Terms::PATIENT, "most scenarios"), (Terms::STRICT, "faults and faults-unseen"), (Terms::AGAIN, "failover")];
}

/// What a configuration depends on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted<'a> {
    /// As the proxy calls it.
    pub(crate) policy: &'a str,
    /// Where the nodes are, with their weights; 1 says nothing.
    pub(crate) nodes: &'a [(SocketAddr, f64)],
    /// Clients at once that there must be room for.
    pub(crate) clients: usize,
    pub(crate) terms: Terms,
    /// Instead of as many as the program takes by itself.
    pub(crate) one_thread: bool,
    /// Where something else must see all of it; for those that start others by themselves.
    pub(crate) one_process: bool,
}

/// How a program is called.
#[derive(Debug, Default)]
pub(crate) struct Launch {
    pub(crate) arguments: Vec<String>,
    pub(crate) environment: Vec<(&'static str, String)>,
}

impl Launch {
    fn with(arguments: &[&str]) -> Launch {
        Launch { arguments: arguments.iter().map(|&word| word.to_owned()).collect(), environment: Vec::new() }
    }
}

/// The policy that costs a proxy least, where it has a choice.
pub(crate) fn simplest(kind: Kind) -> &'static str {
    match kind {
        Kind::Bellwether => "round-robin",
        Kind::Haproxy => "roundrobin",
        Kind::Envoy | Kind::SglangRouter | Kind::Pingora | Kind::Nginx => "round_robin",
        Kind::Traefik => "wrr",
        Kind::Litellm => "simple-shuffle",
    }
}

/// Name and content of the files that a proxy reads.
fn files(kind: Kind, wanted: &Wanted<'_>, listen: SocketAddr, admin: SocketAddr, directory: &Path) -> Vec<File> {
    match kind {
        Kind::Bellwether => vec![("bellwether.toml", own::config(wanted, listen, admin))],
        Kind::Nginx => vec![("nginx.conf", nginx::config(wanted, listen, directory))],
        Kind::Haproxy => vec![("haproxy.cfg", haproxy::config(wanted, listen))],
        Kind::Envoy => vec![("envoy.json", envoy::config(wanted, listen))],
        Kind::Traefik => {
            vec![("traefik.yml", traefik::fixed(listen, admin, directory)), ("services.yml", traefik::services(wanted))]
        }
        Kind::Pingora | Kind::SglangRouter => Vec::new(),
        Kind::Litellm => vec![("litellm.yml", routers::litellm_file(wanted))],
    }
}

type File = (&'static str, String);

fn launch(kind: Kind, wanted: &Wanted<'_>, listen: SocketAddr, admin: SocketAddr, directory: &Path) -> Launch {
    let path = |name: &str| directory.join(name).display().to_string();
    let (home, port) = (directory.display().to_string(), listen.port().to_string());
    match kind {
        Kind::Bellwether => Launch::with(&["run", "--config", &path("bellwether.toml")]),
        Kind::Nginx => {
            let mut launch = Launch::with(&["-p", &home, "-c", &path("nginx.conf")]);
            let alone = ["-g", "master_process off;"].map(str::to_owned);
            launch.arguments.extend(alone.into_iter().filter(|_| wanted.one_process));
            launch
        }
        Kind::Haproxy => Launch::with(&["-db", "-f", &path("haproxy.cfg")]),
        Kind::Envoy => {
            let mut launch = Launch::with(&["-c", &path("envoy.json"), "--disable-hot-restart", "--log-level", "warn"]);
            let threads = ["--concurrency", "1"].map(str::to_owned);
            launch.arguments.extend(threads.into_iter().filter(|_| wanted.one_thread));
            launch
        }
        Kind::Traefik => {
            let mut launch = Launch::with(&[&format!("--configFile={}", path("traefik.yml"))]);
            launch.environment.extend(wanted.one_thread.then(|| ("GOMAXPROCS", "1".to_owned())));
            launch
        }
        Kind::Pingora => routers::pingora(wanted, listen),
        Kind::SglangRouter => routers::sglang(wanted, &port, admin),
        Kind::Litellm => routers::litellm(&path("litellm.yml"), &port),
    }
}

/// Writes the files of a proxy into `directory` and says how to call it.
pub(crate) fn write(
    kind: Kind,
    wanted: &Wanted<'_>,
    listen: SocketAddr,
    admin: SocketAddr,
    directory: &Path,
) -> Result<Launch, Failure> {
    for (name, text) in files(kind, wanted, listen, admin, directory) {
        fs::write(directory.join(name), text)?;
    }
    Ok(launch(kind, wanted, listen, admin, directory))
}

/// Every contender's files and command line, with example addresses.
pub(crate) fn show() -> String {
    let address = |port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let nodes = [(address(9001), 10.0), (address(9002), 5.0)];
    let equal = nodes.map(|(node, _)| (node, 1.0));
    let mut text = String::new();
    for contender in ALL {
        let nodes = if contender.weighted { &nodes } else { &equal };
        for (terms, used_in) in Terms::ALL {
            let wanted = Wanted {
                policy: contender.policy,
                nodes,
                clients: 4_096,
                terms,
                one_thread: false,
                one_process: false,
            };
            let (listen, admin, home) = (address(8080), address(8081), Path::new("/tmp/bench"));
            let Launch { arguments, environment } = launch(contender.kind, &wanted, listen, admin, home);
            let environment: String = environment.iter().map(|(name, value)| format!("{name}={value} ")).collect();
            let command = format!("{} {}", contender.kind, arguments.join(" "));
            text += &format!("# {}, {used_in}\n# {environment}{command}\n", contender.name());
            for (name, content) in files(contender.kind, &wanted, listen, admin, home) {
                text += &format!("\n## {name}\n{content}");
            }
            text.push('\n');
        }
    }
    text
}
