//! User instructions per small request, counted by valgrind, system calls by strace, and what both amount to.
//!
//! Valgrind's count is exact and needs nothing of the machine. What the kernel does is not in it, and a program runs some
//! fifty times slower, so more connections are ready at once than in reality. The total is therefore an estimate: the
//! user part as counted, and for the kernel's the same assumption for every proxy, [`KERNEL_ASSUMED`]; the system calls
//! beside it let a reader judge whether that is fair. It is no substitute for perf where perf counts.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::time::sleep;

use crate::Failure;
use crate::client::{Load, Until};
use crate::cost::{CONNECTIONS, NODES, RATIO_TARGET};
use crate::node::Nodes;
use crate::peer::{Kind, Proxy, Site, Under, find_program};
use crate::process::{is_traced, signal};
use crate::section::{Section, cell, median, range, verdict};

const WARM_UP: u64 = 1_000;
const REQUESTS: u64 = 5_000;
/// Processes of each proxy. Counts agree within 2 %; where one does not, the range shows it.
const RUNS: u32 = 3;
/// Instructions of the kernel per request, the same for all: where perf counted, HAProxy had 59,000 and nginx 47,000 in
/// all, of which valgrind finds about 34,000 and 22,000 in user space. Two messages in and two out cost the kernel what
/// they cost, whoever asks.
const KERNEL_ASSUMED: f64 = 25_000.0;
/// A run that takes longer is broken.
const TIME_MAX: Duration = Duration::from_secs(120);

/// What was counted of one proxy.
struct Counted {
    kind: Kind,
    /// User instructions per request, of each run.
    user: Vec<f64>,
    /// System calls per request, if strace is there.
    calls: Option<f64>,
}

impl Counted {
    /// User and kernel instructions per request, the kernel's assumed.
    fn estimate(&self) -> Option<f64> {
        median(self.user.clone()).map(|user| user + KERNEL_ASSUMED)
    }
}

pub(crate) async fn measure(kinds: &[Kind]) -> Result<Section, Failure> {
    let strace = find_program("strace");
    let mut counted = Vec::new();
    for &kind in kinds {
        let mut user = Vec::new();
        for _ in 0..RUNS {
            user.push(count(kind).await?);
        }
        let calls = match &strace {
            Some(strace) => Some(system_calls(kind, strace).await?),
            None => None,
        };
        counted.push(Counted { kind, user, calls });
    }
    Ok(section(&counted, strace.is_some()))
}

fn section(counted: &[Counted], has_strace: bool) -> Section {
    let haproxy = counted.iter().find(|counted| counted.kind == Kind::Haproxy);
    let user_of = |counted: &Counted| median(counted.user.clone());
    let ratio = |ours: Option<f64>, theirs: Option<f64>| ours.zip(theirs).map(|(ours, theirs)| ours / theirs);
    let (mut rows, mut data) = (Vec::new(), Vec::new());
    for one in counted {
        let user = user_of(one);
        let user_ratio = ratio(user, haproxy.and_then(user_of));
        let estimate = ratio(one.estimate(), haproxy.and_then(Counted::estimate));
        let own = one.kind == Kind::Bellwether;
        rows.push(vec![
            one.kind.to_string(),
            cell(user, 0),
            range(&one.user, 0),
            cell(user_ratio, 2),
            cell(one.calls, 1),
            cell(one.estimate(), 0),
            cell(estimate, 2),
            if own { verdict(estimate, RATIO_TARGET) } else { "" }.to_owned(),
        ]);
        data.push(json!({
            "proxy": one.kind.name(),
            "instructions_user": user,
            "instructions_user_of_runs": one.user,
            "user_ratio_to_haproxy": user_ratio,
            "system_calls": one.calls,
            "instructions_kernel_assumed": KERNEL_ASSUMED,
            "instructions_estimated": one.estimate(),
            "estimated_ratio_to_haproxy": estimate,
            "ratio_target": own.then_some(RATIO_TARGET),
        }));
    }
    let mut notes = vec![
        format!(
            "user: counted by callgrind, the median of {RUNS} processes, {REQUESTS} requests each over {CONNECTIONS} \
             connections, {NODES} nodes; all threads"
        ),
        format!(
            "estimate: user, and {KERNEL_ASSUMED} for the kernel, which is assumed for all alike and not counted; the \
             target is {RATIO_TARGET} x HAProxy"
        ),
    ];
    notes.push(match has_strace {
        true => format!(
            "calls: system calls of all threads over {REQUESTS} requests, counted by strace in a run of its own"
        ),
        false => "calls: strace is not installed: apt install strace".to_owned(),
    });
    Section {
        name: "callgrind",
        title: "user instructions per small request, under valgrind".to_owned(),
        notes,
        columns: vec![
            "proxy",
            "instr user",
            "lowest .. highest",
            "x HAProxy",
            "calls",
            "estimate",
            "x HAProxy",
            "target",
        ],
        rows,
        data: Value::Array(data),
    }
}

/// System calls per request, of all threads.
async fn system_calls(kind: Kind, strace: &Path) -> Result<f64, Failure> {
    let nodes = Nodes::start(NODES).await?;
    let site = Site { nodes: nodes.addresses.clone(), clients: 1_000, streams: false };
    let proxy = Proxy::start(kind, &site, &Under::Nothing).await?;
    let mut load = Load::connect(proxy.address, CONNECTIONS).await?;
    load.run(Until { time: TIME_MAX, requests: WARM_UP }).await?;
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("calls");
    let pids = proxy.pids();
    let mut command = Command::new(strace);
    command
        .args(["-f", "-q", "-c", "-o"])
        .arg(&file)
        .args(pids.iter().flat_map(|pid| ["-p".to_owned(), pid.to_string()]));
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let counted = async {
        let start = Instant::now();
        while !is_traced(&pids) {
            if start.elapsed() > ATTACH_WAIT {
                return Err(Failure::from("strace does not attach: may it trace other processes?"));
            }
            sleep(LOOK_EVERY).await;
        }
        Ok(load.run(Until { time: TIME_MAX, requests: REQUESTS }).await?.0)
    };
    let requests = counted.await;
    // It writes its table on an interrupt, and lets the proxy go.
    signal(&[child.id()], "INT");
    child.wait()?;
    let requests = requests?;
    let text = fs::read_to_string(&file)?;
    let total = text.lines().rev().find(|line| line.trim_end().ends_with(" total"));
    // Share, seconds, microseconds per call, calls, perhaps errors.
    let calls: f64 = total.and_then(|line| line.split_whitespace().nth(3)).ok_or("strace counted nothing")?.parse()?;
    Ok(calls / requests as f64)
}

/// How long strace may take to attach to all threads.
const ATTACH_WAIT: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(20);

async fn count(kind: Kind) -> Result<f64, Failure> {
    let valgrind = find_program("valgrind").ok_or("valgrind is not installed: apt install valgrind")?;
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("callgrind.out");
    let arguments = vec![
        "--tool=callgrind".to_owned(),
        "--instr-atstart=no".to_owned(),
        "--dump-instr=no".to_owned(),
        format!("--callgrind-out-file={}", file.display()),
    ];
    let nodes = Nodes::start(NODES).await?;
    let site = Site { nodes: nodes.addresses.clone(), clients: 1_000, streams: false };
    let proxy = Proxy::start(kind, &site, &Under::Program(valgrind, arguments)).await?;
    let mut load = Load::connect(proxy.address, CONNECTIONS).await?;
    load.run(Until { time: TIME_MAX, requests: WARM_UP }).await?;
    switch(proxy.pid(), "on")?;
    let (requests, _) = load.run(Until { time: TIME_MAX, requests: REQUESTS }).await?;
    switch(proxy.pid(), "off")?;
    // The file is written when the program ends.
    drop(load);
    drop(proxy);
    let text = fs::read_to_string(&file).map_err(|error| format!("callgrind wrote no file for {kind}: {error}"))?;
    let total = text.lines().find_map(|line| line.strip_prefix("totals:"));
    let total: f64 = total.ok_or_else(|| format!("callgrind's file for {kind} has no total"))?.trim().parse()?;
    Ok(total / requests as f64)
}

/// Counting goes "on" or "off".
pub(crate) fn switch(pid: u32, to: &str) -> Result<(), Failure> {
    let pid = pid.to_string();
    let output = Command::new("callgrind_control").args(["-i", to, &pid]).stdin(Stdio::null()).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    if output.status.success() && text.contains("OK") {
        Ok(())
    } else {
        Err(format!("callgrind_control: {text}").into())
    }
}
