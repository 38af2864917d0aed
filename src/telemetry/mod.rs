//! What is told to operators: metrics and logs.
//!
//! Handles are made once per node and touched on the request path, a few atomic additions each; everything that can
//! be computed when somebody asks (gauges, quantiles, what the machine knows of the process) is computed then, from
//! the ledgers themselves, so that a gauge cannot drift from what it shows. Labels come from node names, from known
//! words and from a table of status codes, never from a request. Each instance has its own registries and nothing is
//! global, so that tests run many in one process. It keeps no history: that is what Prometheus is for.

mod access;
mod codes;
mod foresight;
mod histogram;
mod learning;
pub mod logging;
mod meters;
mod prefix;
mod process;
mod series;
mod sink;
mod window;
mod words;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use metrics::{Counter, Gauge};

pub use access::AccessRecord;
pub use foresight::Foreseen;
pub use meters::{Counts, FleetReport, Report};
pub use window::Quantiles;

use self::codes::CodeCounters;
use self::foresight::Foresight;
use self::histogram::Histogram;
use self::meters::{AllMeters, Answers, FleetSum};
use self::process::Process;
use self::series::Registry;
use self::words::Words;
use crate::admission::Priority;
use crate::balancer::{Balancer, Observer, Reason};
use crate::clock::Time;
use crate::fleet::{Change, Fleet, Node};
use crate::node::NO_NODE;
use crate::outcome::Sample;
use crate::policy::{PolicyId, REGISTRY};
use crate::spans::SpanCounts;
use crate::trainer::Trainer;

/// Why attempts are followed by another one; series that exist from the start.
const RETRY_REASONS: [&str; 4] = ["unsent", "full", "idempotent", "status"];

/// What comes of second attempts beside late ones.
const HEDGE_RESULTS: [&str; 4] = ["won", "lost", "failed", "left"];

/// What a scrape needs to know beyond the counters.
#[derive(Clone, Copy)]
pub struct Scrape<'a> {
    /// The present time on the instance's clock.
    pub now: Time,
    /// The nodes that are shown; series of all others are gone.
    pub fleet: &'a Fleet,
    /// Who decides, and what it knows.
    pub balancer: &'a Balancer,
    /// Who learns.
    pub trainer: &'a Trainer,
    /// Client connections open.
    pub connections: usize,
    /// What became of spans.
    pub spans: SpanCounts,
    /// Connections open to a node.
    pub node_connections: &'a dyn Fn(&Node) -> usize,
}

/// The metrics of one running instance. The data path calls it once or twice per request.
pub struct Telemetry {
    registry: Registry,
    nodes: AllMeters,
    /// Answers of the proxy itself.
    codes: CodeCounters,
    answers: Answers,
    foresight: Foresight,
    retries: Words,
    hedges: Words,
    rejected: Words,
    refused: Words,
    fit_seconds: Histogram,
    prediction_error: Histogram,
    queue_wait: Histogram,
    queue_lengths: [Gauge; Priority::ALL.len()],
    queue_bytes: Gauge,
    connections: Gauge,
    policies: Vec<Gauge>,
    policy_switches: Counter,
    reloads: [Counter; 2],
    log_lines_dropped: Counter,
    /// Sent, dropped, lost.
    spans: [Counter; 3],
    started: SystemTime,
}

impl std::fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Telemetry").field("started", &self.started).finish_non_exhaustive()
    }
}

impl Default for Telemetry {
    fn default() -> Self {
        let own = Registry::new(None);
        let telemetry = Telemetry {
            nodes: AllMeters::default(),
            answers: Answers::default(),
            foresight: Foresight::default(),
            codes: CodeCounters::new(|code| proxy_answers(&own, code)),
            retries: Words::new(&own, series::RETRIES, "reason", &RETRY_REASONS),
            hedges: Words::new(&own, series::HEDGES, "result", &HEDGE_RESULTS),
            rejected: Words::new(&own, series::REJECTED, "reason", &Reason::ALL.map(Reason::word)),
            refused: Words::new(&own, series::REFUSED, "reason", &[]),
            fit_seconds: Histogram::new(series::FIT_SECONDS, histogram::SHORT),
            prediction_error: Histogram::new(series::PREDICTION_ERROR, histogram::RATIOS),
            queue_wait: Histogram::new(series::QUEUE_WAIT, histogram::LONG),
            queue_lengths: Priority::ALL.map(|class| own.gauge_with(series::QUEUE_LENGTH, "class", class.word())),
            queue_bytes: own.gauge(series::QUEUE_BYTES),
            connections: own.gauge(series::CONNECTIONS),
            policies: REGISTRY
                .iter()
                .map(|policy| own.gauge_with(series::POLICY_ACTIVE, "policy", policy.name))
                .collect(),
            policy_switches: own.counter(series::POLICY_SWITCHES),
            reloads: ["success", "failure"].map(|result| own.counter_with(series::CONFIG_RELOADS, "result", result)),
            log_lines_dropped: own.counter(series::LOG_LINES_DROPPED),
            spans: ["sent", "dropped", "lost"].map(|result| own.counter_with(series::SPANS, "result", result)),
            started: SystemTime::now(),
            registry: own,
        };
        let since_1970 = telemetry.started.duration_since(UNIX_EPOCH).unwrap_or_default();
        telemetry.registry.gauge(series::START_TIME).set(since_1970.as_secs_f64());
        telemetry.registry.gauge_with(series::BUILD_INFO, "version", env!("CARGO_PKG_VERSION")).set(1.0);
        telemetry
    }
}

fn proxy_answers(own: &Registry, code: String) -> Counter {
    own.counter_with_all(series::REQUESTS, [("node", NO_NODE.to_owned()), ("code", code)])
}

impl Telemetry {
    /// A client has its answer: `node` is the one whose response it got, `None` where the proxy itself answered.
    pub fn answered(&self, node: Option<&Node>, status: u16) {
        self.answers.add(status);
        match node {
            Some(node) => self.nodes.of(node, |meters| meters.answered(status)),
            None => self.codes.of(status, |code| proxy_answers(&self.registry, code)).increment(1),
        }
    }

    /// Another attempt of the same request follows; `reason` is from a known set of words.
    pub fn retried(&self, reason: &'static str) {
        self.retries.count(&self.registry, reason);
    }

    /// A second attempt beside a late one has come to something; `result` is from a known set of words.
    pub fn hedged(&self, result: &'static str) {
        self.hedges.count(&self.registry, result);
    }

    /// A request was refused for want of a node.
    pub fn rejected(&self, reason: Reason) {
        self.rejected.count(&self.registry, reason.word());
    }

    /// A request or connection was refused before it came to a decision; `reason` is from a known set of words.
    pub fn refused(&self, reason: &'static str) {
        self.refused.count(&self.registry, reason);
    }

    /// The words that [`refused`](Telemetry::refused) will be called with: their series exist from now on.
    pub fn expect_refusals(&self, reasons: impl IntoIterator<Item = &'static str>) {
        self.refused.expect(&self.registry, reasons);
    }

    /// Whether anybody reads the access log.
    pub fn logs_access(&self) -> bool {
        AccessRecord::enabled()
    }

    /// A fit took so long.
    pub fn fitted(&self, took: Duration) {
        self.fit_seconds.record(took);
    }

    /// The attempt behind `sample` took `observed_s`, and the model had said `predicted_s`.
    pub fn predicted(&self, sample: &Sample, predicted_s: f64, observed_s: f64) {
        self.prediction_error.record_number(observed_s / predicted_s.max(f64::MIN_POSITIVE));
        self.foresight.add(sample.slot, sample.node, predicted_s, observed_s);
    }

    /// How well the answers of `node` were foreseen, since it came.
    pub fn foreseen(&self, node: &Node) -> Foreseen {
        self.foresight.of(node)
    }

    /// The policy was switched while running.
    pub fn policy_switched(&self) {
        self.policy_switches.increment(1);
    }

    /// The configuration was read again; `taken` says whether it is in force now.
    pub fn reloaded(&self, taken: bool) {
        self.reloads[usize::from(!taken)].increment(1);
    }

    /// How `node` has been doing; quantiles are of the minute before `now`.
    pub fn report(&self, node: &Node, now: Time) -> Report {
        self.nodes.of(node, |meters| meters.report(now))
    }

    /// How the fleet as a whole has been doing; quantiles are of the minute before `now`.
    pub fn fleet_report(&self, nodes: &[Arc<Node>], now: Time) -> FleetReport {
        let mut sum = FleetSum::default();
        for node in nodes {
            self.nodes.of(node, |meters| meters.add_to(&mut sum, now));
        }
        sum.report(&self.answers)
    }

    /// Everything in the text format of Prometheus (0.0.4). Takes milliseconds with many nodes: not for the threads
    /// that carry requests.
    pub fn render(&self, scrape: &Scrape<'_>) -> String {
        self.connections.set(scrape.connections as f64);
        for (at, gauge) in self.policies.iter().enumerate() {
            gauge.set(f64::from(u8::from(usize::from(scrape.balancer.routing().0) == at)));
        }
        let (lengths, bytes) = scrape.balancer.queued();
        for (gauge, length) in self.queue_lengths.iter().zip(lengths) {
            gauge.set(length as f64);
        }
        self.queue_bytes.set(bytes as f64);
        self.log_lines_dropped.absolute(sink::dropped());
        let SpanCounts { sent, dropped, lost } = scrape.spans;
        self.spans.iter().zip([sent, dropped, lost]).for_each(|(counter, count)| counter.absolute(count));
        let process = Process::read();
        let gauge = |name, value: Option<f64>| value.into_iter().for_each(|value| self.registry.gauge(name).set(value));
        gauge(series::RESIDENT_BYTES, process.resident_bytes);
        gauge(series::OPEN_FDS, process.open_fds);
        gauge(series::MAX_FDS, process.max_fds);
        let mut own = self.registry.render();
        for histogram in [&self.fit_seconds, &self.prediction_error, &self.queue_wait] {
            histogram.render(None, &mut own);
        }
        let mut parts = vec![own];
        if let Some(cpu_s) = process.cpu_s {
            // The exporter's counters are whole numbers; this one is not.
            parts.push(format!("# TYPE {0} counter\n{0} {cpu_s}\n", series::CPU_SECONDS));
        }
        parts.push(prefix::render(&scrape.balancer.prefixes().fill()));
        parts.push(learning::render(scrape.now, scrape.fleet, scrape.balancer, scrape.trainer));
        let nodes = scrape.fleet.nodes();
        parts.extend(nodes.iter().map(|node| self.nodes.of(node, |meters| meters.render(node, scrape))));
        series::merge(&parts)
    }
}

impl Observer for Telemetry {
    fn started(&self, node: &Node, policy: PolicyId) {
        self.nodes.of(node, |meters| meters.decided(policy));
    }

    fn finished(&self, node: &Node, sample: &Sample) {
        self.nodes.of(node, |meters| meters.finished(sample));
    }

    fn waited(&self, _priority: Priority, waited: Duration) {
        self.queue_wait.record(waited);
    }

    fn health_changed(&self, node: &Node, change: Change) {
        self.nodes.of(node, |meters| meters.health_changed(change));
        let name = node.spec.name.as_str();
        match change {
            Change::Rose => tracing::info!(node = name, "node is up"),
            Change::Fell => tracing::warn!(node = name, "node is down"),
            Change::Ejected { cause, pause } => {
                tracing::warn!(node = name, cause = cause.word(), pause_s = pause.as_secs_f64(), "node ejected");
            }
            Change::Readmitted => tracing::info!(node = name, "node readmitted: its trial succeeded"),
        }
    }
}

#[cfg(test)]
mod tests;
