//! The recorded requests on the emulated fleet: as they were, and as each policy would have done it.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::fit::{Fitted, FittedFleet};
use super::history::{Attempt, History};
use crate::balancer::Observer;
use crate::clock::Time;
use crate::sim::SimNode;
use crate::sim::digest::Digest;
use crate::sim::driver::run_with;
use crate::sim::roster::{self, RosterError};
use crate::sim::scenario::{Scenario, ScenarioNode};
use crate::sim::trace::{Trace, TraceRow};
use crate::sim::watch::{Watch, Watched};
use crate::sim::workload::{KindMix, Sizes};
use crate::sim::{Lognormal, ServerSpec};

/// Length of the blocks that a replay is put together from: long enough for a burst, unless the recording is short.
const BLOCK_S: f64 = 60.0;

/// Blocks that a recording must have at least, or their order would say nothing.
const BLOCKS_MIN: f64 = 10.0;

/// The recorded traffic on the fitted fleet, ready to be simulated.
#[derive(Clone, Debug)]
pub struct Stage {
    /// The requests as they came, and the fleet.
    pub scenario: Scenario,
    /// Requests per second.
    pub rate: f64,
}

/// A node as it was recorded and as it was emulated, under the same requests. Times in seconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NodeCheck {
    /// Its name.
    pub node: String,
    /// Attempts that were compared.
    pub attempts: u64,
    /// Recorded 50th, 90th and 99th percentile of response times.
    pub recorded_s: [f64; 3],
    /// Emulated ones.
    pub emulated_s: [f64; 3],
    /// The same of first bytes, where answers were streamed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recorded_ttfb_s: Option<[f64; 3]>,
    /// The same of first bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub emulated_ttfb_s: Option<[f64; 3]>,
}

const QUANTILES: [f64; 3] = [0.5, 0.9, 0.99];

impl NodeCheck {
    /// The worst factor by which a percentile of the response times is off, at least 1.
    pub fn off_by(&self) -> f64 {
        let off = |(a, b): (&f64, &f64)| (a / b).max(b / a);
        self.recorded_s.iter().zip(&self.emulated_s).map(off).fold(1.0, f64::max)
    }
}

impl Stage {
    /// The recorded requests before the fleet `fitted`; `declared` capacities are known to weighted policies. `None` if
    /// all requests came at one time.
    pub fn new(history: &History, fitted: &FittedFleet, declared: &[(String, f64)]) -> Option<Stage> {
        let row = |(at, attempt): (usize, &Attempt)| TraceRow {
            at_s: attempt.start_s,
            kind: attempt.kind,
            streaming: Some(attempt.streaming),
            prompt_tokens: attempt.prompt_tokens,
            output_tokens: attempt.output_tokens,
            plain_s: fitted.work_s.get(at).copied().unwrap_or(0.0),
            node: Some(attempt.node),
            ..TraceRow::default()
        };
        let attempts = history.attempts.iter().enumerate().filter(|(_, attempt)| attempt.completed);
        let trace = Arc::new(Trace::of_rows(attempts.map(row).collect())?);
        let rate = trace.survey().rate;
        let nodes = history.nodes.iter().zip(&fitted.nodes).map(|(name, node)| {
            let declared_rps = declared.iter().find(|(known, _)| known == name).map(|(_, rps)| *rps);
            scenario_node(name.clone(), node.server, declared_rps)
        });
        // Never drawn from: the trace has the sizes.
        let unused = Lognormal { mean: 1.0, sigma: 0.0, min: 0.0, max: 1.0 };
        let scenario = Scenario {
            name: "recording".to_owned(),
            about: "recorded requests on the emulated fleet".to_owned(),
            nodes: nodes.collect(),
            loads: vec![1.0],
            phases: vec![(Time::ZERO, 1.0)],
            length: Duration::from_secs_f64(trace.survey().requests as f64 / rate),
            warm_up: Time::ZERO,
            kinds: vec![KindMix { share: 1.0, sizes: Sizes::Seconds(unused) }],
            streamed: false,
            proxies: 1,
            client_deadline: None,
            incidents: Vec::new(),
            trace: None,
            cache: None,
            talk: None,
        };
        let mut scenario = scenario.replaying(trace)?;
        scenario.loads = vec![rate / scenario.capacity_rps()];
        Some(Stage { scenario, rate })
    }

    /// Sends every request where it was sent and compares each node with its recording.
    ///
    /// # Errors
    /// The fleet cannot be.
    pub fn check(&self, history: &History) -> Result<Vec<NodeCheck>, RosterError> {
        let watch = Arc::new(Watch::new(&self.scenario));
        let load = self.scenario.loads[0];
        run_with(&self.scenario, load, 1, |setup| {
            roster::make_as_recorded(setup, vec![Arc::clone(&watch) as Arc<dyn Observer>])
        })?;
        let Watched { mut nodes, .. } = watch.take();
        let streamed =
            history.completed().filter(|attempt| attempt.streaming).count() * 2 > history.completed().count();
        let names = history.nodes.iter().zip(0u32..).zip(&mut nodes);
        let checks = names.map(|((name, number), emulated)| {
            let own = || history.completed().filter(move |attempt| attempt.node == number);
            let mut total = digest(own().map(|attempt| attempt.total_s));
            let mut ttfb = digest(own().map(|attempt| attempt.ttfb_s.unwrap_or(attempt.total_s)));
            NodeCheck {
                node: name.clone(),
                attempts: total.len(),
                recorded_s: quantiles(&mut total),
                emulated_s: quantiles(&mut emulated.total_s),
                recorded_ttfb_s: streamed.then(|| quantiles(&mut ttfb)),
                emulated_ttfb_s: streamed.then(|| quantiles(&mut emulated.ttfb_s)),
            }
        });
        Ok(checks.filter(|check| check.attempts > 0).collect())
    }

    /// The same traffic in blocks drawn anew for each seed, its first tenth not counted.
    pub fn resampled(&self) -> Scenario {
        let length_s = self.scenario.length.as_secs_f64();
        let block_s = BLOCK_S.min(length_s / BLOCKS_MIN);
        let trace = self.scenario.trace.as_ref().map(|trace| Arc::new(trace.resampled(block_s)));
        Scenario { trace, warm_up: Time::from_secs_f64(0.1 * length_s), ..self.scenario.clone() }
    }

    /// One more node like `fitted`.
    pub fn with_one_more(&self, name: &str, fitted: &Fitted, declared_rps: Option<f64>) -> Stage {
        let mut stage = self.clone();
        let mut node = scenario_node(format!("{name}+1"), fitted.server, declared_rps);
        if let (Some(trace), ServerSpec::Batch(spec)) = (&self.scenario.trace, &node.node.server) {
            node.capacity_rps = spec.capacity_rps(trace.survey().prompt_tokens, trace.survey().output_tokens);
        } else if let (Some(trace), ServerSpec::Plain(spec)) = (&self.scenario.trace, &node.node.server) {
            node.capacity_rps = spec.capacity_rps(trace.survey().plain_s);
        }
        stage.scenario.nodes.push(node);
        stage.scenario.loads = vec![self.rate / stage.scenario.capacity_rps()];
        stage
    }
}

fn scenario_node(name: String, server: ServerSpec, declared_rps: Option<f64>) -> ScenarioNode {
    ScenarioNode {
        node: SimNode { name, server },
        capacity_rps: server.capacity_rps(),
        declared_rps,
        joins_later: false,
    }
}

fn digest(values: impl Iterator<Item = f64>) -> Digest {
    let mut digest = Digest::default();
    values.for_each(|value| digest.push(value as f32));
    digest
}

fn quantiles(digest: &mut Digest) -> [f64; 3] {
    QUANTILES.map(|q| digest.quantile(q))
}
