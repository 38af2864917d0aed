//! What is simulated: a fleet, what clients send, and what goes wrong when.
//!
//! A scenario is a commented TOML file, so that a figure in a discussion has a name and can be repeated and varied. The
//! ones of `examples/scenarios` ship inside the binary. Load is always relative to the sum of the capacities of the
//! nodes that are there at the start: "80 %" means the same on every fleet.

mod file;
mod fleet;
mod prompts;

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Time;
use crate::node::NodeSpec;
use crate::sim::conversations::Talk;
use crate::sim::trace::Trace;
use crate::sim::workload::{KindMix, RatePiece, Sizes, Workload};
use crate::sim::{ServerSpec, SimNode};

pub use file::ScenarioError;
pub use fleet::FleetFile;
pub use prompts::CacheSpec;

/// Requests of one run at most: minutes of computing. More is a slip of the pen.
pub const REQUESTS_MAX: f64 = 2e7;

/// Something that happens to a node.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Action {
    /// It becomes this many times as fast as its description; 0.2 is five times slower.
    Speed(f64),
    /// It answers this share of requests, 0..=1, with status 500 at once.
    Fail(f64),
    /// It accepts connections and requests, and nothing more comes from it.
    Hang,
    /// Its process ends: what runs there breaks off, and connections are refused.
    Crash,
    /// It is again as it was described. What hung goes on, what crashed starts empty.
    Recover,
    /// The proxies learn of it; before, they did not know it.
    Join,
    /// The proxies forget it; what runs there goes on.
    Leave,
}

/// An action, when, and to whom.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Incident {
    /// When.
    pub at: Time,
    /// Index into [`Scenario::nodes`].
    pub node: usize,
    /// What.
    pub action: Action,
}

/// A node of a scenario.
#[derive(Clone, Debug, PartialEq)]
pub struct ScenarioNode {
    /// What it is.
    pub node: SimNode,
    /// Requests per second of the scenario's mix that it can do when always busy.
    pub capacity_rps: f64,
    /// What the operator says it can do: its weight. Nothing is a weight of 1.
    pub declared_rps: Option<f64>,
    /// Whether the proxies do not know it at the start.
    pub joins_later: bool,
}

impl ScenarioNode {
    /// The node as an operator would configure it: with what is declared as weight, or with its true capacity.
    pub fn spec(&self, weighted: bool) -> NodeSpec {
        let weight = if weighted { Some(self.capacity_rps) } else { self.declared_rps };
        let weight = weight.map_or(1.0, |weight| weight.clamp(1e-3, 1e3));
        let url = format!("http://{}.invalid", self.node.name);
        NodeSpec { weight, ..NodeSpec::new(url).named(&*self.node.name) }
    }
}

/// A checked scenario.
#[derive(Clone, Debug, PartialEq)]
pub struct Scenario {
    /// Its file's name without the ending.
    pub name: String,
    /// One line for people.
    pub about: String,
    /// The servers. Never empty.
    pub nodes: Vec<ScenarioNode>,
    /// Loads to be simulated, each greater than 0. Never empty.
    pub loads: Vec<f64>,
    /// Factors on the load, from these times on; the first from 0.
    pub phases: Vec<(Time, f64)>,
    /// How long requests arrive. Then those in flight are waited for.
    pub length: Duration,
    /// Requests that arrive before this time are not counted.
    pub warm_up: Time,
    /// Kinds of requests. Never empty.
    pub kinds: Vec<KindMix>,
    /// Whether answers are streamed.
    pub streamed: bool,
    /// Independent proxies before the fleet, at least 1.
    pub proxies: u32,
    /// When clients give up.
    pub client_deadline: Option<Duration>,
    /// In order of time.
    pub incidents: Vec<Incident>,
    /// Requests of a production trace in place of drawn ones.
    pub trace: Option<Arc<Trace>>,
    /// The prefix cache of each server.
    pub cache: Option<CacheSpec>,
    /// Conversations whose questions and answers have the sizes of `kinds`, in place of single requests.
    pub talk: Option<Talk>,
}

/// The scenarios in the binary: name and text.
const SHIPPED: &[(&str, &str)] = &[
    ("textbook", include_str!("../../../examples/scenarios/textbook.toml")),
    ("llm-mixed", include_str!("../../../examples/scenarios/llm-mixed.toml")),
    ("llm-mixed-whole", include_str!("../../../examples/scenarios/llm-mixed-whole.toml")),
    ("llm-knee", include_str!("../../../examples/scenarios/llm-knee.toml")),
    ("llm-homogeneous", include_str!("../../../examples/scenarios/llm-homogeneous.toml")),
    ("llm-measured", include_str!("../../../examples/scenarios/llm-measured.toml")),
    ("llm-64-nodes", include_str!("../../../examples/scenarios/llm-64-nodes.toml")),
    ("plain-mixed", include_str!("../../../examples/scenarios/plain-mixed.toml")),
    ("plain-homogeneous", include_str!("../../../examples/scenarios/plain-homogeneous.toml")),
    ("degraded", include_str!("../../../examples/scenarios/degraded.toml")),
    ("fail-fast", include_str!("../../../examples/scenarios/fail-fast.toml")),
    ("fail-third", include_str!("../../../examples/scenarios/fail-third.toml")),
    ("hang", include_str!("../../../examples/scenarios/hang.toml")),
    ("antagonists", include_str!("../../../examples/scenarios/antagonists.toml")),
    ("bursts", include_str!("../../../examples/scenarios/bursts.toml")),
    ("cold-join", include_str!("../../../examples/scenarios/cold-join.toml")),
    ("four-proxies", include_str!("../../../examples/scenarios/four-proxies.toml")),
    ("prefix-homogeneous", include_str!("../../../examples/scenarios/prefix-homogeneous.toml")),
    ("prefix-mixed", include_str!("../../../examples/scenarios/prefix-mixed.toml")),
    ("prefix-four-proxies", include_str!("../../../examples/scenarios/prefix-four-proxies.toml")),
    ("prefix-no-caches", include_str!("../../../examples/scenarios/prefix-no-caches.toml")),
];

/// The names of the scenarios in the binary.
pub fn shipped() -> Vec<&'static str> {
    SHIPPED.iter().map(|(name, _)| *name).collect()
}

impl Scenario {
    /// A scenario in the binary.
    pub fn named(name: &str) -> Option<Result<Scenario, ScenarioError>> {
        let (name, text) = SHIPPED.iter().find(|(shipped, _)| *shipped == name)?;
        Some(Scenario::parse(name, text))
    }

    /// Reads the text of a file.
    ///
    /// # Errors
    /// What is wrong with it, with line and column where the text itself is.
    pub fn parse(name: &str, text: &str) -> Result<Scenario, ScenarioError> {
        file::parse(name, text)
    }

    /// Sum of the capacities of the nodes that are there at the start, requests per second.
    pub fn capacity_rps(&self) -> f64 {
        self.nodes.iter().filter(|node| !node.joins_later).map(|node| node.capacity_rps).sum()
    }

    /// Whether all servers are plain.
    pub fn is_plain(&self) -> bool {
        self.nodes.iter().all(|node| matches!(node.node.server, ServerSpec::Plain(_)))
    }

    /// What clients send at that load.
    pub fn workload(&self, load: f64) -> Workload {
        let rate = load * self.capacity_rps();
        Workload {
            rates: self.phases.iter().map(|(from, factor)| RatePiece { from: *from, per_s: rate * factor }).collect(),
            until: Time::ZERO.after(self.length),
            kinds: self.kinds.clone(),
            streaming: self.streamed,
            trace: self.trace.clone(),
            talk: self.talk.clone(),
            clients: crate::sim::workload::CLIENTS_DEFAULT,
            proxies: self.proxies,
        }
    }

    /// The same with the requests of `trace`, in phases of equal load; capacities are those for its mean request. `None`
    /// where servers have no tokens and the trace says no times, or the reverse.
    #[must_use]
    pub fn replaying(self, trace: Arc<Trace>) -> Option<Scenario> {
        let survey = trace.survey();
        let mut nodes = self.nodes;
        for node in &mut nodes {
            node.capacity_rps = match &node.node.server {
                ServerSpec::Batch(spec) if survey.output_tokens > 0.0 => {
                    spec.capacity_rps(survey.prompt_tokens, survey.output_tokens)
                }
                ServerSpec::Plain(spec) if survey.plain_s > 0.0 => spec.capacity_rps(survey.plain_s),
                _ => return None,
            };
        }
        Some(Scenario { nodes, phases: vec![(Time::ZERO, 1.0)], trace: Some(trace), talk: None, ..self })
    }

    /// The same without incidents; nodes that would join never do.
    #[must_use]
    pub fn without_incidents(self) -> Scenario {
        Scenario { incidents: Vec::new(), ..self }
    }

    /// The same for another length, its warm-up in proportion; incidents and phases keep their times.
    #[must_use]
    pub fn lasting(self, length: Duration) -> Scenario {
        let share = self.warm_up.as_secs_f64() / self.length.as_secs_f64();
        Scenario { length, warm_up: Time::from_secs_f64(share * length.as_secs_f64()), ..self }
    }

    /// Requests expected at that load.
    pub fn expected_requests(&self, load: f64) -> f64 {
        let end = Time::ZERO.after(self.length);
        let ends = self.phases.iter().skip(1).map(|(from, _)| *from).chain([end]);
        let spans = self.phases.iter().zip(ends).map(|((from, factor), to)| factor * to.min(end).seconds_since(*from));
        load * self.capacity_rps() * spans.sum::<f64>()
    }

    /// The capacity of a server under a mix of kinds: the busy time of its mean request counts.
    fn capacity_of(server: &ServerSpec, kinds: &[KindMix]) -> f64 {
        let shares: f64 = kinds.iter().map(|kind| kind.share).sum();
        let (mut prompt, mut output, mut work_s) = (0.0, 0.0, 0.0);
        for kind in kinds {
            let share = kind.share / shares;
            match kind.sizes {
                Sizes::Tokens { prompt: p, output: o } => {
                    prompt += share * p.mean;
                    output += share * o.mean;
                }
                Sizes::Seconds(seconds) => work_s += share * seconds.mean,
            }
        }
        match server {
            ServerSpec::Batch(spec) => spec.capacity_rps(prompt, output),
            ServerSpec::Plain(spec) => spec.capacity_rps(work_s),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shipped_scenario_is_sound() {
        for name in shipped() {
            let scenario = Scenario::named(name).expect("shipped").unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(scenario.name, name);
            assert!(!scenario.about.is_empty(), "{name}");
            for load in &scenario.loads {
                assert!(scenario.expected_requests(*load) < REQUESTS_MAX, "{name}");
            }
        }
        assert!(Scenario::named("no such").is_none());
    }

    #[test]
    fn load_is_relative_to_the_nodes_that_are_there_at_the_start() {
        let all = Scenario::named("llm-mixed").expect("shipped").expect("sound");
        let seven = Scenario::named("cold-join").expect("shipped").expect("sound");
        let late = seven.nodes.iter().find(|node| node.joins_later).expect("a node that joins");
        assert!((all.capacity_rps() - seven.capacity_rps() - late.capacity_rps).abs() < 1e-9);
        assert!((all.capacity_rps() - 47.7).abs() < 0.1, "{}", all.capacity_rps());
        assert_eq!(all.workload(0.5).rates[0].per_s, 0.5 * all.capacity_rps());
    }
}
