//! User instructions per small request, counted by valgrind: exact, and needs nothing of the machine.
//!
//! What the kernel does is not in it, and a program runs some fifty times slower, so more connections are ready at once
//! than in reality. It serves to compare two versions of a program on a machine where perf does not count.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::Failure;
use crate::client::{Load, Until};
use crate::cost::{CONNECTIONS, NODES};
use crate::node::Nodes;
use crate::peer::{Kind, Proxy, Site, Under, find_program};
use crate::section::{Section, cell, median, range};

const WARM_UP: u64 = 1_000;
const REQUESTS: u64 = 5_000;
/// Processes of each proxy. Counts agree within 2 %; where one does not, the range shows it.
const RUNS: u32 = 3;
/// A run that takes longer is broken.
const TIME_MAX: Duration = Duration::from_secs(120);

pub(crate) async fn measure(kinds: &[Kind]) -> Result<Section, Failure> {
    let mut counts = Vec::new();
    for &kind in kinds {
        let mut runs = Vec::new();
        for _ in 0..RUNS {
            runs.push(count(kind).await?);
        }
        counts.push((kind, runs));
    }
    let haproxy = counts.iter().find(|(kind, _)| *kind == Kind::Haproxy).and_then(|(_, runs)| median(runs.clone()));
    let (mut rows, mut data) = (Vec::new(), Vec::new());
    for (kind, runs) in &counts {
        let middle = median(runs.clone());
        let ratio = middle.zip(haproxy).map(|(ours, theirs)| ours / theirs);
        rows.push(vec![kind.to_string(), cell(middle, 0), range(runs, 0), cell(ratio, 2)]);
        data.push(json!({
            "proxy": kind.name(),
            "instructions_user": middle,
            "instructions_user_of_runs": runs,
            "ratio_to_haproxy": ratio,
        }));
    }
    Ok(Section {
        name: "callgrind",
        title: "user instructions per small request, under valgrind".to_owned(),
        notes: vec![format!(
            "the median of {RUNS} processes, {REQUESTS} requests each over {CONNECTIONS} connections, {NODES} nodes; kernel \
             not included"
        )],
        columns: vec!["proxy", "instr user", "lowest .. highest", "x HAProxy"],
        rows,
        data: Value::Array(data),
    })
}

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

fn switch(pid: u32, to: &str) -> Result<(), Failure> {
    let pid = pid.to_string();
    let output = Command::new("callgrind_control").args(["-i", to, &pid]).stdin(Stdio::null()).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    if output.status.success() && text.contains("OK") {
        Ok(())
    } else {
        Err(format!("callgrind_control: {text}").into())
    }
}
