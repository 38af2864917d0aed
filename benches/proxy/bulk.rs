//! One large body down and one up: how fast beside a direct connection, and how much memory at most.
//!
//! Client, proxy and node are three threads here, on as many cores as there are; with two cores a direct connection
//! has both to itself and a proxied one shares them, so a ratio of 1 cannot be reached there.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::time::timeout;

use crate::Failure;
use crate::client::{Client, get};
use crate::node::NodeThread;
use crate::peer::{Kind, Proxy, Site, Under};
use crate::process::{cpu_time, forget_peak, resident, resident_peak};
use crate::section::{Section, cell, median, verdict};

/// Resident bytes above idle, at most.
const TARGET_BYTES: f64 = 32e6;
/// Slower than this is broken.
const BYTES_PER_S_MIN: u64 = 5_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Down,
    Up,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Way::Down => "response",
            Way::Up => "upload",
        }
    }
}

/// One body through one proxy, or through none.
#[derive(Clone, Copy, Debug)]
struct Sample {
    mb_per_s: f64,
    to_direct: f64,
    peak_bytes: f64,
    cpu_s: f64,
}

pub(crate) async fn measure(kinds: &[Kind], rounds: u32, bytes: u64) -> Result<Section, Failure> {
    let node = NodeThread::start().await?;
    let site = Site { nodes: vec![node.address], clients: 1_000, streams: true };
    let mut peaks_are_reset = true;
    let (mut proxies, mut idle) = (Vec::new(), Vec::new());
    for &kind in kinds {
        let proxy = Proxy::start(kind, &site, &Under::Nothing).await?;
        peaks_are_reset &= forget_peak(&proxy.pids());
        // Before any body: what a proxy keeps of one for the next is not idle memory.
        idle.push(resident(&proxy.pids())?);
        proxies.push(proxy);
    }
    let (mut rows, mut data) = (Vec::new(), Vec::new());
    for way in [Way::Down, Way::Up] {
        let mut direct = Vec::new();
        let mut samples: Vec<Vec<Sample>> = vec![Vec::new(); kinds.len()];
        for round in 0..rounds as usize {
            let alone = transfer("nothing", node.address, way, bytes).await?;
            direct.push(alone);
            for place in 0..kinds.len() {
                let index = (round + place) % kinds.len();
                let pids = proxies[index].pids();
                let cpu = cpu_time(&pids)?;
                let mb_per_s = transfer(proxies[index].kind.name(), proxies[index].address, way, bytes).await?;
                samples[index].push(Sample {
                    mb_per_s,
                    to_direct: mb_per_s / alone,
                    peak_bytes: resident_peak(&pids)?.saturating_sub(idle[index]) as f64,
                    cpu_s: cpu_time(&pids)?.saturating_sub(cpu).as_secs_f64(),
                });
            }
        }
        let direct = median(direct);
        rows.push(vec![format!("{}, direct", way.name()), cell(direct, 0)]);
        data.push(json!({"way": way.name(), "proxy": null, "mb_per_s": direct}));
        for (&kind, samples) in kinds.iter().zip(&samples) {
            let (row, datum) = line(way, kind, samples, bytes);
            rows.push(row);
            data.push(datum);
        }
    }
    let mut notes = vec![
        format!("{rounds} rounds; the target: at most {} MB above idle, at line speed", TARGET_BYTES / 1e6),
        "memory is the highest so far, uploads come second; the others are medians; ratios are taken within a round"
            .to_owned(),
    ];
    if !peaks_are_reset {
        notes.push("the system does not let peaks be forgotten: memory includes the start of the process".to_owned());
    }
    Ok(Section {
        name: "bulk",
        title: format!("bodies of {} MB, streamed through", bytes / 1_000_000),
        notes,
        columns: vec!["body, proxy", "MB/s", "of direct", "peak MB above idle", "CPU s per GB", "target"],
        rows,
        data: Value::Array(data),
    })
}

/// Moves one body and returns MB/s.
async fn transfer(through: &str, address: SocketAddr, way: Way, bytes: u64) -> Result<f64, Failure> {
    let limit = Duration::from_secs(10 + bytes / BYTES_PER_S_MIN);
    let start = Instant::now();
    let moved = timeout(limit, async {
        let mut client = Client::connect(address).await?;
        match way {
            Way::Up => client.upload(bytes).await,
            Way::Down => match client.ask(&get(&format!("/bytes/{bytes}"))).await? {
                received if received == bytes => Ok(()),
                received => Err(format!("{received} bytes instead of {bytes}").into()),
            },
        }
    });
    let moved = moved.await.unwrap_or_else(|_| Err(format!("it took longer than {limit:?}").into()));
    moved.map_err(|error| format!("{} of {bytes} bytes through {through}: {error}", way.name()))?;
    Ok(bytes as f64 / 1e6 / start.elapsed().as_secs_f64())
}

fn line(way: Way, kind: Kind, samples: &[Sample], bytes: u64) -> (Vec<String>, Value) {
    let of = |figure: fn(&Sample) -> f64| median(samples.iter().map(figure));
    let (speed, ratio) = (of(|sample| sample.mb_per_s), of(|sample| sample.to_direct));
    let cpu_per_gb = of(|sample| sample.cpu_s).map(|cpu_s| cpu_s * 1e9 / bytes as f64);
    let peak = samples.iter().map(|sample| sample.peak_bytes).reduce(f64::max);
    let own = kind == Kind::Bellwether;
    let row = vec![
        format!("{}, {kind}", way.name()),
        cell(speed, 0),
        cell(ratio, 2),
        cell(peak.map(|bytes| bytes / 1e6), 1),
        cell(cpu_per_gb, 2),
        if own { verdict(peak, TARGET_BYTES) } else { "" }.to_owned(),
    ];
    let datum = json!({
        "way": way.name(),
        "proxy": kind.name(),
        "mb_per_s": speed,
        "ratio_to_direct": ratio,
        "peak_bytes_above_idle": peak,
        "cpu_s_per_gb": cpu_per_gb,
        "target_bytes": own.then_some(TARGET_BYTES),
    });
    (row, datum)
}
