//! What a small request costs the proxy: instructions where they can be counted, CPU time otherwise.
//!
//! The proxy has a core of its own; load and nodes share another. All proxies run for the whole time, loaded one after
//! the other within each round, and are compared within a round only.

use std::time::Duration;

use serde_json::{Value, json};

use crate::Failure;
use crate::client::{Load, Until};
use crate::node::Nodes;
use crate::peer::{Kind, Proxy, Site, Under};
use crate::perf::{self, Counter, Instructions};
use crate::process::{Cores, cpu_time};
use crate::section::{Section, cell, median, range, verdict};

pub(crate) const CONNECTIONS: usize = 64;
pub(crate) const NODES: usize = 3;
/// Ours over HAProxy's, at most.
pub(crate) const RATIO_TARGET: f64 = 1.15;

/// One proxy in one round, per request.
#[derive(Clone, Copy, Debug)]
struct Sample {
    cpu_us: f64,
    instructions: Option<Instructions>,
    requests_per_s: f64,
}

impl Sample {
    /// What is compared.
    fn figure(&self) -> f64 {
        self.instructions.map_or(self.cpu_us, |count| count.user + count.kernel)
    }
}

pub(crate) async fn measure(kinds: &[Kind], rounds: u32, seconds: u64) -> Result<Section, Failure> {
    let no_perf = perf::missing();
    let cores = Cores::split();
    let nodes = Nodes::start(NODES).await?;
    let site = Site { nodes: nodes.addresses.clone(), clients: 1_000, streams: false };
    let under = cores.as_ref().map_or(Under::Nothing, |cores| Under::Core(cores.proxy));
    let mut proxies = Vec::new();
    for &kind in kinds {
        proxies.push(Proxy::start(kind, &site, &under).await?);
    }
    let window = Duration::from_secs(seconds);
    let mut samples: Vec<Vec<Sample>> = vec![Vec::new(); kinds.len()];
    for round in 0..rounds as usize {
        for place in 0..kinds.len() {
            let index = (round + place) % kinds.len();
            samples[index].push(sample(&proxies[index], window, no_perf.is_none()).await?);
        }
    }
    let mut notes = vec![
        format!(
            "{rounds} rounds of {seconds} s each, {CONNECTIONS} connections, {NODES} nodes (our own, on the load's thread), \
             one thread per proxy"
        ),
        format!(
            "target: at most {RATIO_TARGET} x HAProxy, by instructions; ratios are medians of those within a round"
        ),
    ];
    notes.extend(no_perf.map(|why| format!("CPU time instead of instructions: {why}; only ratios mean something")));
    notes.extend(cores.is_none().then(|| "nothing is pinned to a core: there is only one, or no taskset".to_owned()));
    Ok(section(kinds, &samples, notes))
}

async fn sample(proxy: &Proxy, window: Duration, count: bool) -> Result<Sample, Failure> {
    let mut load = Load::connect(proxy.address, CONNECTIONS).await?;
    load.run(Until { time: window / 4, requests: u64::MAX }).await?;
    let pids = proxy.pids();
    let counter = if count { Some(Counter::start(&pids).await?) } else { None };
    let before = cpu_time(&pids)?;
    let (requests, took) = load.run(Until { time: window, requests: u64::MAX }).await?;
    let cpu = cpu_time(&pids)?.saturating_sub(before);
    let requests = requests as f64;
    let instructions = match counter {
        None => None,
        Some(counter) => {
            let Instructions { user, kernel } = counter.stop().await?;
            Some(Instructions { user: user / requests, kernel: kernel / requests })
        }
    };
    Ok(Sample {
        cpu_us: cpu.as_secs_f64() * 1e6 / requests,
        instructions,
        requests_per_s: requests / took.as_secs_f64(),
    })
}

fn section(kinds: &[Kind], samples: &[Vec<Sample>], notes: Vec<String>) -> Section {
    let haproxy = kinds.iter().position(|&kind| kind == Kind::Haproxy).map(|index| &samples[index]);
    let (mut rows, mut data) = (Vec::new(), Vec::new());
    for (&kind, samples) in kinds.iter().zip(samples) {
        let of = |figure: fn(&Sample) -> Option<f64>| median(samples.iter().filter_map(figure));
        let user = of(|sample| Some(sample.instructions?.user));
        let kernel = of(|sample| Some(sample.instructions?.kernel));
        let both = of(|sample| Some(sample.instructions?.user + sample.instructions?.kernel));
        let cpu = of(|sample| Some(sample.cpu_us));
        let rate = of(|sample| Some(sample.requests_per_s));
        let ratios: Vec<f64> = haproxy
            .map(|theirs| samples.iter().zip(theirs).map(|(ours, theirs)| ours.figure() / theirs.figure()).collect())
            .unwrap_or_default();
        let ratio = median(ratios.iter().copied());
        let own = kind == Kind::Bellwether;
        rows.push(vec![
            kind.to_string(),
            cell(user, 0),
            cell(kernel, 0),
            cell(both, 0),
            cell(cpu, 2),
            cell(rate, 0),
            cell(ratio, 2),
            range(&ratios, 2),
            if own { verdict(ratio, RATIO_TARGET) } else { "" }.to_owned(),
        ]);
        data.push(json!({
            "proxy": kind.name(),
            "instructions_user": user,
            "instructions_kernel": kernel,
            "instructions": both,
            "cpu_us": cpu,
            "requests_per_s": rate,
            "ratio_to_haproxy": ratio,
            "ratios_to_haproxy": ratios,
            "ratio_target": own.then_some(RATIO_TARGET),
        }));
    }
    Section {
        name: "cost",
        title: "a small JSON POST through one core, per request".to_owned(),
        notes,
        columns: vec![
            "proxy",
            "instr user",
            "kernel",
            "both",
            "CPU us",
            "requests/s",
            "x HAProxy",
            "lowest .. highest",
            "target",
        ],
        rows,
        data: Value::Array(data),
    }
}
