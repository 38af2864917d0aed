//! What it costs to be watched: user instructions for metrics, remembered decisions and traces, and for those who look.
//!
//! There is no switch for metrics and decisions, and a build without them would be another program. So what is spent on
//! them is counted within one run, under callgrind, where calls enter their modules ([`Profile`]); and what a dashboard or
//! a Prometheus makes the proxy do happens on threads of its own, so it is what those count more than with nobody there. The
//! rate is fixed: part of all this is per second, whatever the load. How long anything takes is not looked at, so other
//! work on the machine does not matter as long as the rate is kept, which the table tells.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use memchr::memmem;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::interval;

use crate::Failure;
use crate::callgrind::switch;
use crate::client::Load;
use crate::cost::NODES;
use crate::node::Nodes;
use crate::peer::{Kind, Proxy, Under, find_program};
use crate::profile::Profile;
use crate::section::{Section, cell, verdict};

/// Requests per second: of one core some percent, and as many as a few dozen GPUs answer.
const PER_S: f64 = 500.0;
const CONNECTIONS: usize = 16;
/// Until there is a model that routes; callgrind does not count yet.
const WARM_UP: Duration = Duration::from_secs(10);
/// A multiple of the longest period, which is the scrape's.
const COUNTED: Duration = Duration::from_secs(30);
/// As Prometheus is often set; the example has 15 s.
const SCRAPE_EVERY: Duration = Duration::from_secs(5);
/// As the dashboard's list of decisions and its view of the model do.
const VIEW_EVERY: Duration = Duration::from_secs(3);
/// All of it over a proxy without any, at most: with nobody there, and with a dashboard open.
const TARGETS: (f64, f64) = (1.03, 1.05);

/// What is told apart, and by what names of functions and source files.
const PARTS: [(&str, &[&str]); 3] = [
    ("metrics", &["bellwether::telemetry", "src/telemetry/"]),
    ("decisions", &["bellwether::decisions", "src/decisions"]),
    (
        "traces",
        &["bellwether::spans", "src/spans/", "bellwether::proxy::trace", "src/proxy/trace.rs", "src/proxy/timing.rs"],
    ),
];

/// Source files of threads that carry requests or learn from them. All other threads are there for those who look, and for
/// health checks, which are little.
const WORK: [&str; 2] = ["src/proxy/forward.rs", "src/trainer/worker.rs"];

/// Who looks, or what is switched on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Case {
    Least,
    Nobody,
    Fleet,
    Decisions,
    Model,
    Prometheus,
    Traced,
}

impl Case {
    const ALL: [Case; 7] =
        [Case::Least, Case::Nobody, Case::Fleet, Case::Decisions, Case::Model, Case::Prometheus, Case::Traced];

    fn name(self) -> &'static str {
        match self {
            Case::Least => "all switched off that can be",
            Case::Nobody => "as by default",
            Case::Fleet => "a dashboard, fleet",
            Case::Decisions => "a dashboard, decisions",
            Case::Model => "a dashboard, model",
            Case::Prometheus => "a scrape every 5 s",
            Case::Traced => "every request traced",
        }
    }

    fn target(self) -> Option<f64> {
        match self {
            Case::Nobody => Some(TARGETS.0),
            Case::Fleet | Case::Decisions | Case::Model => Some(TARGETS.1),
            Case::Least | Case::Prometheus | Case::Traced => None,
        }
    }

    fn config(self, nodes: &[SocketAddr], listen: SocketAddr, admin: SocketAddr) -> String {
        let timing = if self == Case::Least { "off" } else { "asked" };
        let mut text = format!(
            "listen = \"{listen}\"\nworkers = 1\nserver_timing = \"{timing}\"\nadmin.listen = \"{admin}\"\n\
             timeouts.drain = \"1s\"\nlog.access = false\n"
        );
        if self == Case::Traced {
            // The node answers a batch as it answers everything.
            text.push_str(&format!("trace.endpoint = \"http://{}\"\n", nodes[0]));
        }
        let node = |node: &SocketAddr| format!("[[node]]\nurl = \"http://{node}\"\n");
        text + &nodes.iter().map(node).collect::<String>()
    }

    /// Looks for as long as it is polled, and for ever.
    async fn look(self, admin: SocketAddr) -> Result<(), Failure> {
        match self {
            Case::Least | Case::Nobody | Case::Traced => std::future::pending().await,
            Case::Fleet => follow(admin).await,
            Case::Decisions => both(follow(admin), again(admin, "/api/v1/decisions?limit=60", VIEW_EVERY)).await,
            Case::Model => both(follow(admin), again(admin, "/api/v1/model", VIEW_EVERY)).await,
            Case::Prometheus => again(admin, "/metrics", SCRAPE_EVERY).await,
        }
    }
}

async fn both(
    one: impl Future<Output = Result<(), Failure>>,
    other: impl Future<Output = Result<(), Failure>>,
) -> Result<(), Failure> {
    tokio::try_join!(one, other).map(|_| ())
}

async fn again(admin: SocketAddr, path: &str, every: Duration) -> Result<(), Failure> {
    let mut ticks = interval(every);
    loop {
        ticks.tick().await;
        ask(admin, path).await?;
    }
}

async fn send(admin: SocketAddr, path: &str) -> Result<TcpStream, Failure> {
    let mut stream = TcpStream::connect(admin).await?;
    let head = format!("GET {path} HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    Ok(stream)
}

async fn ask(admin: SocketAddr, path: &str) -> Result<(), Failure> {
    let (mut stream, mut answer) = (send(admin, path).await?, Vec::new());
    stream.read_to_end(&mut answer).await?;
    if answer.starts_with(b"HTTP/1.1 200 ") { Ok(()) } else { Err(format!("{path} was not answered with 200").into()) }
}

/// Reads the stream that the dashboard reads; it must not end.
async fn follow(admin: SocketAddr) -> Result<(), Failure> {
    let (mut stream, mut piece) = (send(admin, "/api/v1/live?compact=true").await?, Vec::with_capacity(64 * 1024));
    let mut begun = false;
    while stream.read_buf(&mut piece).await? > 0 {
        begun |= memmem::find(&piece, b"event: live").is_some();
        piece.clear();
    }
    Err(if begun { "the live stream ended" } else { "there is no live stream" }.into())
}

/// What was counted, per request.
#[derive(Debug)]
struct Counted {
    case: Case,
    per_s: f64,
    seconds: f64,
    /// All of it.
    total: f64,
    /// By those that carry requests and learn, for each of [`PARTS`].
    parts: [f64; PARTS.len()],
    /// By all other threads.
    beside: f64,
}

impl Counted {
    /// Instructions for those who look or may look.
    fn watching(&self) -> f64 {
        self.parts.iter().sum::<f64>() + self.beside
    }
}

async fn count(case: Case) -> Result<Counted, Failure> {
    let valgrind = find_program("valgrind").ok_or("valgrind is not installed: apt install valgrind")?;
    let directory = tempfile::tempdir()?;
    let arguments = ["--tool=callgrind", "--instr-atstart=no", "--separate-threads=yes", "--fair-sched=try"];
    let mut arguments: Vec<String> = arguments.map(str::to_owned).to_vec();
    arguments.push(format!("--callgrind-out-file={}", directory.path().join("out").display()));
    let nodes = Nodes::start(NODES).await?;
    let configure = |listen, admin, _: &Path| case.config(&nodes.addresses, listen, admin);
    let proxy = Proxy::start_with(Kind::Bellwether, &Under::Program(valgrind, arguments), configure).await?;
    let mut load = Load::connect(proxy.address, CONNECTIONS).await?;
    let mut looking = JoinSet::new();
    looking.spawn(case.look(proxy.admin));
    load.run_at(PER_S, WARM_UP).await?;
    switch(proxy.pid(), "on")?;
    let (requests, took) = load.run_at(PER_S, COUNTED).await?;
    switch(proxy.pid(), "off")?;
    if let Some(ended) = looking.try_join_next() {
        ended??;
    }
    // Whoever looks is gone before the proxy, and files are written when that ends.
    looking.shutdown().await;
    drop((load, proxy));
    let requests = requests as f64;
    let mut counted = Counted {
        case,
        per_s: requests / took.as_secs_f64(),
        seconds: took.as_secs_f64(),
        total: 0.0,
        parts: [0.0; PARTS.len()],
        beside: 0.0,
    };
    for file in fs::read_dir(directory.path())? {
        let thread = Profile::parse(&String::from_utf8_lossy(&fs::read(file?.path())?))?;
        counted.total += thread.total() / requests;
        if WORK.iter().any(|work| thread.ran(work)) {
            let spent = thread.spent(&PARTS);
            counted.parts.iter_mut().zip(spent).for_each(|(sum, one)| *sum += one / requests);
        } else {
            counted.beside += thread.total() / requests;
        }
    }
    Ok(counted)
}

pub(crate) async fn measure() -> Result<Section, Failure> {
    let mut counted = Vec::new();
    for case in Case::ALL {
        counted.push(count(case).await?);
    }
    Ok(section(&counted))
}

fn section(all: &[Counted]) -> Section {
    // Ratios are to one run: how often the model was fitted differs by a few times between runs, and has nothing to do with it.
    let plain = all.iter().find(|one| one.case == Case::Nobody).or(all.first());
    let without = plain.map_or(f64::NAN, |plain| plain.total - plain.watching());
    let (mut rows, mut data) = (Vec::new(), Vec::new());
    for one in all {
        let watching = one.watching();
        let ratio = 1.0 + watching / without;
        let mut row = vec![one.case.name().to_owned(), cell(Some(one.per_s), 0), cell(Some(one.total), 0)];
        row.extend(one.parts.iter().map(|part| cell(Some(*part), 0)));
        row.extend([cell(Some(one.beside), 0), cell(Some(one.beside * one.per_s / 1e3), 0), cell(Some(ratio), 3)]);
        row.push(one.case.target().map_or("", |target| verdict(Some(ratio), target)).to_owned());
        rows.push(row);
        let parts: serde_json::Map<String, Value> =
            PARTS.iter().zip(one.parts).map(|((name, _), part)| ((*name).to_owned(), part.into())).collect();
        data.push(json!({
            "case": one.case.name(), "requests_per_s": one.per_s, "seconds": one.seconds, "instructions_per_request": one.total,
            "of_which": parts, "beside": one.beside, "ratio": ratio, "ratio_target": one.case.target(),
        }));
    }
    Section {
        name: "watching",
        title: format!("user instructions per small request for being watched, at {PER_S} requests a second"),
        notes: vec![
            format!("counted by callgrind over {} s after {} s; {NODES} nodes, learning and routing by default, no access log", COUNTED.as_secs(), WARM_UP.as_secs()),
            "metrics, decisions, traces: spent on threads that carry requests or learn, by where calls enter their modules".to_owned(),
            "beside: all other threads (admin API, history, health checks), per request, and in thousands per second".to_owned(),
            format!("x without: over the same proxy without all of these; targets are {} and, with a dashboard, {}", TARGETS.0, TARGETS.1),
        ],
        columns: vec!["case", "requests/s", "instr", "metrics", "decisions", "traces", "beside", "k/s", "x without", "target"],
        rows,
        data: Value::Array(data),
    }
}
