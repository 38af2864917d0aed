//! One cell of the table: a contender in a scenario under a seed.
//!
//! Each has its own fleet, proxy process and load, on threads of their own, so that cells neither share state nor
//! depend on their order; several may run at the same time where they leave the machine idle. The figures are those of
//! clients, from the moment when a request should have been sent. A cell whose load was late is kept and marked, never
//! used: then the machine was measured.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bellwether::emulator::{EmulatedFleet, Emulator, EmulatorSpec};
use bellwether::load::{self, Ending, LoadSpec, Measured, Recorder, Stop, Summary, quantile};
use bellwether::sim::SimNode;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep_until};

use crate::Failure;
use crate::config::Wanted;
use crate::contender::Contender;
use crate::machine::{Moment, Used};
use crate::peer::{Proxy, Under};
use crate::process::{resident, resident_peak};
use crate::scenario::{Incident, Scenario};

/// Share of a run that is left out: an empty fleet flatters everybody.
const WARM_UP: f64 = 0.1;
/// How long after the last request answers are waited for; what waits longer counts with its time until then.
const DRAIN: Duration = Duration::from_secs(30);
/// Requests in flight at most.
const OUTSTANDING_MAX: usize = 4_096;
/// Files per request in flight: one of the load, one of the node, and what a proxy in this process's limits takes.
pub(crate) const FILES_MAX: u64 = 4 * OUTSTANDING_MAX as u64;
/// A cell is not used if 1 % of its requests were sent later than this, and than this share of the time that 1 % of its
/// responses exceed: what a quantile may owe to the machine.
const LATE_MAX_S: f64 = 0.010;
const LATE_MAX_SHARE: f64 = 0.05;
/// As long as a real model server takes for the head of its answer.
const HEAD_DELAY: Duration = Duration::from_millis(2);
/// Points of the distribution that are kept, for drawing it.
const POINTS: u32 = 100;

/// What was measured; times in seconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Cell {
    pub(crate) scenario: String,
    pub(crate) contender: String,
    pub(crate) version: String,
    pub(crate) seed: u64,
    /// Length of the load.
    pub(crate) seconds: u64,
    pub(crate) rate_rps: f64,
    /// Requests that were to be sent after the warm-up.
    pub(crate) requests: usize,
    pub(crate) answered: usize,
    /// Another status than 2xx, or a broken answer.
    pub(crate) errors: usize,
    /// Of these: by status, 0 for broken ones.
    pub(crate) errors_by_status: Vec<(u16, usize)>,
    pub(crate) unfinished: usize,
    pub(crate) not_sent: usize,
    /// Of answered and unfinished requests; absent where there are none.
    pub(crate) mean_s: Option<f64>,
    pub(crate) p50_s: Option<f64>,
    pub(crate) p90_s: Option<f64>,
    pub(crate) p99_s: Option<f64>,
    pub(crate) ttfb_p50_s: Option<f64>,
    pub(crate) ttfb_p99_s: Option<f64>,
    /// Whether somebody still waited at the end, or was not let in: then the times are lower bounds.
    pub(crate) lower_bound: bool,
    /// Response times below which 1 %, 2 %, .. 100 % lie.
    pub(crate) quantiles_s: Vec<f64>,
    /// Share of the answers that each node gave.
    pub(crate) shares: Vec<(String, f64)>,
    /// CPU time of the proxy per request, in microseconds.
    pub(crate) cpu_us: f64,
    pub(crate) rss_bytes: u64,
    pub(crate) rss_peak_bytes: u64,
    /// 99 % of requests were sent no later.
    pub(crate) late_p99_s: f64,
    /// Of the whole machine, 0..=1.
    pub(crate) machine_busy: f64,
    /// CPU time of this process (emulators and load of all cells at the time) per second, in cores.
    pub(crate) bench_cores: f64,
    /// Why it is not to be used.
    pub(crate) invalid: Option<String>,
}

impl Cell {
    /// Marks a cell whose load was late.
    #[must_use]
    pub(crate) fn judged(self) -> Cell {
        let most = LATE_MAX_S.max(LATE_MAX_SHARE * self.p99_s.unwrap_or_default());
        let late = || format!("1 % of requests were sent {:.0} ms late", self.late_p99_s * 1e3);
        Cell { invalid: (self.late_p99_s > most).then(late), ..self }
    }
}

/// What a cell is to be.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    pub(crate) scenario: Scenario,
    pub(crate) contender: Contender,
    pub(crate) version: String,
    pub(crate) seed: u64,
    pub(crate) seconds: u64,
}

impl Order {
    /// In words, for progress.
    pub(crate) fn words(&self) -> String {
        format!("{} {} seed {}", self.scenario.name, self.contender.name(), self.seed)
    }

    /// Runs it.
    pub(crate) async fn run(self) -> Result<Cell, Failure> {
        let fleet = self.scenario.fleet();
        let cache_tokens = self.scenario.cache_tokens();
        let spec = |node: &SimNode| EmulatorSpec {
            head_delay: HEAD_DELAY,
            cache_tokens,
            ..EmulatorSpec::new(&node.name, node.server)
        };
        let (specs, seed) = (fleet.nodes.iter().map(spec).collect(), self.seed);
        // It has a runtime of its own, which cannot be started on this one's thread.
        let emulators = Arc::new(tokio::task::spawn_blocking(move || EmulatedFleet::start_specs(specs, seed)).await??);
        let weight =
            |index: usize| if self.contender.weighted { fleet.nodes[index].server.capacity_rps() } else { 1.0 };
        let address = |(index, node): (usize, &Emulator)| (node.addr(), weight(index));
        let nodes: Vec<(SocketAddr, f64)> = emulators.nodes().iter().enumerate().map(address).collect();
        let wanted = Wanted {
            policy: self.contender.policy,
            nodes: &nodes,
            clients: OUTSTANDING_MAX,
            terms: self.scenario.terms,
            one_thread: false,
            one_process: false,
        };
        let proxy = Proxy::launch(self.contender.kind, &wanted, &Under::Nothing).await?;
        let run = Duration::from_secs(self.seconds);
        let spec = LoadSpec {
            ask: self.scenario.ask(),
            bursts: self.scenario.bursts,
            outstanding_max: OUTSTANDING_MAX,
            drain: DRAIN,
            seed: self.seed,
            rewritten: self.contender.kind.rewrites(),
            ..LoadSpec::new(proxy.address, self.scenario.rate_rps(), run)
        };
        let recorder = Arc::new(Recorder::default());
        let stop = StopOnDrop::default();
        let pids = proxy.pids();
        let before = Moment::now(&pids)?;
        let start = Instant::now();
        let loaded = start_load(spec, Arc::clone(&recorder), stop.0.clone())?;
        let trouble = cause(Arc::clone(&emulators), self.scenario.incidents(run, self.seed), start);
        trouble.await?;
        sleep_until(start + run).await;
        // Before the drain: it has no fixed length.
        let used = before.until(&Moment::now(&pids)?);
        let memory = (resident(&pids)?, resident_peak(&pids)?);
        loaded.await?;
        let cell = self.cell(&recorder, used, memory);
        let log = (cell.errors > 0).then(|| proxy.output()).filter(|log| !log.is_empty());
        if let Some(log) = log {
            eprintln!("{}: {} errors; the proxy said:\n{log}", self.words(), cell.errors);
        }
        // A process takes its time to end, and other cells run on this thread.
        tokio::task::spawn_blocking(move || drop((proxy, emulators))).await?;
        Ok(cell)
    }

    fn cell(&self, recorder: &Recorder, used: Used, memory: (u64, u64)) -> Cell {
        let run = Duration::from_secs(self.seconds);
        let measured = recorder.since(0);
        let from = run.mul_f64(WARM_UP);
        let summary = Summary::of(&measured, from);
        let counted: Vec<Measured> = measured.iter().filter(|one| one.at >= from).copied().collect();
        let known = |seconds: f64| Some(seconds).filter(|seconds| seconds.is_finite());
        let cell = Cell {
            scenario: self.scenario.name.to_owned(),
            contender: self.contender.name(),
            version: self.version.clone(),
            seed: self.seed,
            seconds: self.seconds,
            rate_rps: self.scenario.rate_rps(),
            requests: summary.requests,
            answered: summary.answered,
            errors: summary.errors,
            errors_by_status: by_status(&counted),
            unfinished: summary.unfinished,
            not_sent: summary.not_sent,
            mean_s: known(summary.mean_s),
            p50_s: known(summary.p50_s),
            p90_s: known(summary.p90_s),
            p99_s: known(summary.p99_s),
            ttfb_p50_s: known(summary.ttfb_p50_s),
            ttfb_p99_s: known(summary.ttfb_p99_s),
            lower_bound: summary.is_lower_bound(),
            quantiles_s: distribution(&counted),
            shares: shares(&counted, &recorder.nodes()),
            cpu_us: used.proxy.as_secs_f64() * 1e6 / measured.len().max(1) as f64,
            rss_bytes: memory.0,
            rss_peak_bytes: memory.1,
            late_p99_s: known(summary.late_p99_s).unwrap_or(0.0),
            machine_busy: used.machine_busy,
            bench_cores: used.own.as_secs_f64() / run.as_secs_f64(),
            invalid: None,
        };
        cell.judged()
    }
}

/// Ends a load whose cell is given up.
#[derive(Default)]
struct StopOnDrop(Stop);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// Runs a load on a thread and runtime of its own; resolves when it is over.
fn start_load(spec: LoadSpec, recorder: Arc<Recorder>, stop: Stop) -> io::Result<tokio::sync::oneshot::Receiver<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (ended, over) = tokio::sync::oneshot::channel();
    std::thread::Builder::new().name("load".to_owned()).spawn(move || {
        runtime.block_on(load::run(spec, &recorder, &stop));
        drop(runtime);
        // Nobody waits any more if the cell was given up.
        let _ = ended.send(());
    })?;
    Ok(over)
}

/// Makes everything happen at its time.
async fn cause(emulators: Arc<EmulatedFleet>, incidents: Vec<Incident>, start: Instant) -> io::Result<()> {
    for incident in incidents {
        sleep_until(start + incident.at).await;
        emulators.nodes()[incident.node].set_fault(incident.fault).await?;
    }
    Ok(())
}

fn by_status(measured: &[Measured]) -> Vec<(u16, usize)> {
    let mut counts = std::collections::BTreeMap::new();
    for one in measured {
        let status = match one.ending {
            Ending::Status(status) => status,
            Ending::Broken => 0,
            Ending::Answered | Ending::Unfinished | Ending::NotSent => continue,
        };
        *counts.entry(status).or_default() += 1;
    }
    counts.into_iter().collect()
}

fn distribution(measured: &[Measured]) -> Vec<f64> {
    let waited = measured.iter().filter(|one| matches!(one.ending, Ending::Answered | Ending::Unfinished));
    let mut times: Vec<f64> = waited.map(|one| one.total_s).collect();
    times.sort_by(f64::total_cmp);
    let points = (1..=POINTS).map(|point| quantile(&times, f64::from(point) / f64::from(POINTS)));
    points.filter(|time| time.is_finite()).collect()
}

fn shares(measured: &[Measured], names: &[String]) -> Vec<(String, f64)> {
    let of = |index: usize| measured.iter().filter(|one| one.node.map(usize::from) == Some(index)).count();
    let counts: Vec<usize> = (0..names.len()).map(of).collect();
    let all = counts.iter().sum::<usize>().max(1) as f64;
    let mut shares: Vec<_> = names.iter().cloned().zip(counts.iter().map(|count| *count as f64 / all)).collect();
    shares.sort_by(|(one, _), (other, _)| one.cmp(other));
    shares
}
