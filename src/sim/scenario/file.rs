//! Reading a scenario's file: unknown keys and impossible values are refused with a message that says what is allowed.

use serde::Deserialize;

use super::prompts::{RawCache, RawTalk};
use super::{Action, Incident, REQUESTS_MAX, Scenario, ScenarioNode};
use crate::clock::Time;
use crate::node::NODES_MAX;
use crate::sim::random::{OUTPUT_TOKENS, PLAIN_WORK_S, PROMPT_TOKENS};
use crate::sim::workload::{KindMix, Sizes};
use crate::sim::{BatchSpec, Lognormal, PlainSpec, ServerSpec, SimFleet, SimNode, fleets};

/// What is wrong with a scenario.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScenarioError {
    /// Not TOML, a key that does not exist, or a value of the wrong type; the message shows the place.
    #[error("{0}")]
    Text(String),
    /// A value that cannot be.
    #[error("{key} = {value}: {allowed}")]
    Value {
        /// Which.
        key: String,
        /// As given.
        value: String,
        /// What would be allowed.
        allowed: String,
    },
}

pub(super) fn bad<T>(key: &str, value: impl std::fmt::Display, allowed: impl Into<String>) -> Result<T, ScenarioError> {
    Err(ScenarioError::Value { key: key.to_owned(), value: value.to_string(), allowed: allowed.into() })
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawScenario {
    about: String,
    fleet: Option<String>,
    #[serde(default = "one")]
    copies: u32,
    #[serde(default)]
    node: Vec<RawNode>,
    loads: Vec<f64>,
    seconds: f64,
    #[serde(default = "warm_up_default")]
    warm_up: f64,
    #[serde(default)]
    streamed: bool,
    #[serde(default = "one")]
    proxies: u32,
    client_deadline_s: Option<f64>,
    cache: Option<RawCache>,
    conversations: Option<RawTalk>,
    #[serde(default)]
    phase: Vec<RawPhase>,
    #[serde(default)]
    kind: Vec<RawKind>,
    #[serde(default)]
    event: Vec<RawEvent>,
}

/// The study drops the first tenth.
fn warm_up_default() -> f64 {
    0.1
}

pub(super) fn one() -> u32 {
    1
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawNode {
    name: String,
    #[serde(default = "one")]
    count: u32,
    t0_ms: Option<f64>,
    t1_ms: Option<f64>,
    prompt_tokens_per_s: Option<f64>,
    slots: Option<u32>,
    workers: Option<u32>,
    speed: Option<f64>,
    capacity_rps: Option<f64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPhase {
    from_s: f64,
    factor: f64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawKind {
    share: f64,
    prompt: Option<RawLognormal>,
    output: Option<RawLognormal>,
    work_s: Option<RawLognormal>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLognormal {
    mean: f64,
    sigma: f64,
    min: Option<f64>,
    max: Option<f64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEvent {
    at_s: f64,
    node: String,
    action: RawAction,
    speed: Option<f64>,
    share: Option<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RawAction {
    Speed,
    Fail,
    Hang,
    Crash,
    Recover,
    Join,
    Leave,
}

pub(super) fn parse(name: &str, text: &str) -> Result<Scenario, ScenarioError> {
    let raw: RawScenario = toml::from_str(text).map_err(|error| ScenarioError::Text(error.to_string()))?;
    positive("seconds", raw.seconds)?;
    if !(0.0..1.0).contains(&raw.warm_up) {
        return bad("warm_up", raw.warm_up, "a share of the time from 0 to below 1");
    }
    if !(1..=64).contains(&raw.proxies) {
        return bad("proxies", raw.proxies, "from 1 to 64");
    }
    if raw.loads.is_empty() {
        return bad("loads", "[]", "at least one load such as 0.5");
    }
    for load in &raw.loads {
        positive("loads", *load)?;
    }
    let Listed { fleet, declared_rps } = fleet(raw.fleet.as_deref(), raw.copies, &raw.node)?;
    let plain = matches!(fleet.nodes[0].server, ServerSpec::Plain(_));
    if plain && raw.streamed {
        return bad("streamed", true, "plain servers do not stream");
    }
    if plain && (raw.cache.is_some() || raw.conversations.is_some()) {
        return bad("cache", "on plain servers", "[cache] and [conversations] for servers of language models");
    }
    let kinds = kinds(&raw.kind, plain)?;
    let incidents = incidents(&raw.event, &fleet)?;
    let joins = |at: usize| incidents.iter().find(|incident| incident.node == at).map(|incident| incident.action);
    let nodes: Vec<ScenarioNode> = (0..)
        .zip(fleet.nodes)
        .zip(declared_rps)
        .map(|((at, node), declared_rps)| ScenarioNode {
            capacity_rps: Scenario::capacity_of(&node.server, &kinds),
            declared_rps,
            node,
            joins_later: joins(at) == Some(Action::Join),
        })
        .collect();
    if nodes.iter().all(|node| node.joins_later) {
        return bad("event.action", "join", "at least one node must be there at the start");
    }
    let scenario = Scenario {
        name: name.to_owned(),
        about: raw.about,
        nodes,
        loads: raw.loads,
        phases: phases(&raw.phase)?,
        length: std::time::Duration::from_secs_f64(raw.seconds),
        warm_up: Time::from_secs_f64(raw.warm_up * raw.seconds),
        kinds,
        streamed: raw.streamed,
        proxies: raw.proxies,
        client_deadline: deadline(raw.client_deadline_s)?,
        incidents,
        trace: None,
        cache: raw.cache.map(RawCache::check).transpose()?,
        talk: raw.conversations.map(RawTalk::check).transpose()?,
    };
    within_bounds(&scenario)?;
    Ok(scenario)
}

fn within_bounds(scenario: &Scenario) -> Result<(), ScenarioError> {
    for load in &scenario.loads {
        let requests = scenario.expected_requests(*load);
        if requests > REQUESTS_MAX {
            return bad(
                "seconds",
                scenario.length.as_secs_f64(),
                format!("{requests:.0} requests are more than {REQUESTS_MAX:.0}"),
            );
        }
    }
    Ok(())
}

pub(super) fn positive(key: &str, value: f64) -> Result<f64, ScenarioError> {
    // A million is far above any rate, time or length that makes sense, and far below what a clock can hold.
    if value > 0.0 && value <= 1e6 { Ok(value) } else { bad(key, value, "greater than 0 and at most 1,000,000") }
}

fn deadline(seconds: Option<f64>) -> Result<Option<std::time::Duration>, ScenarioError> {
    let seconds = seconds.map(|seconds| positive("client_deadline_s", seconds)).transpose()?;
    Ok(seconds.map(std::time::Duration::from_secs_f64))
}

/// The nodes of a file, and what the operator says they can do.
#[derive(Clone, Debug)]
pub(super) struct Listed {
    pub(super) fleet: SimFleet,
    /// Requests per second, in the order of the nodes; all of them or none.
    pub(super) declared_rps: Vec<Option<f64>>,
}

pub(super) fn fleet(named: Option<&str>, copies: u32, own: &[RawNode]) -> Result<Listed, ScenarioError> {
    let one = match (named, own.is_empty()) {
        (Some(name), true) => match SimFleet::named(name) {
            Some(fleet) => Listed { declared_rps: vec![None; fleet.nodes.len()], fleet },
            None => return bad("fleet", format!("{name:?}"), format!("one of {}", fleets::NAMES.join(", "))),
        },
        (None, false) => own_fleet(own)?,
        _ => return bad("fleet", named.unwrap_or("absent"), "either `fleet` or [[node]] entries"),
    };
    let Listed { fleet, declared_rps } = one;
    let nodes = fleet.nodes.len() * copies as usize;
    if !(1..=NODES_MAX).contains(&nodes) {
        return bad("copies", copies, format!("a fleet has 1 to {NODES_MAX} nodes"));
    }
    let plain = fleet.nodes.iter().filter(|node| matches!(node.server, ServerSpec::Plain(_))).count();
    if plain != 0 && plain != fleet.nodes.len() {
        return bad("node", "mixed", "either all nodes have `workers` and `speed`, or none");
    }
    if copies == 1 {
        return Ok(Listed { fleet, declared_rps });
    }
    let copy = |number: u32| {
        fleet.nodes.iter().map(move |node| SimNode { name: format!("{}.{number}", node.name), server: node.server })
    };
    Ok(Listed {
        declared_rps: declared_rps.repeat(copies as usize),
        fleet: SimFleet { nodes: (1..=copies).flat_map(copy).collect() },
    })
}

impl RawNode {
    /// Its name, or its names if there are several of the kind.
    pub(super) fn names(&self) -> Vec<String> {
        let numbered = |number| if self.count == 1 { self.name.clone() } else { format!("{}-{number}", self.name) };
        (1..=self.count).map(numbered).collect()
    }

    /// What the operator says it can do.
    pub(super) fn declared_rps(&self) -> Result<Option<f64>, ScenarioError> {
        self.capacity_rps.map(|rps| positive("node.capacity_rps", rps)).transpose()
    }

    fn server(&self) -> Result<ServerSpec, ScenarioError> {
        match (self.t0_ms, self.t1_ms, self.prompt_tokens_per_s, self.slots, self.workers, self.speed) {
            (Some(t0), Some(t1), Some(rate), Some(slots), None, None) if t1 >= 0.0 && slots > 0 => {
                let t0_s = positive("node.t0_ms", t0)? / 1e3;
                let rate = positive("node.prompt_tokens_per_s", rate)?;
                Ok(ServerSpec::Batch(BatchSpec::new(t0_s, t1 / 1e3, rate, slots)))
            }
            (None, None, None, None, Some(workers), Some(speed)) if workers > 0 => {
                Ok(ServerSpec::Plain(PlainSpec { workers, speed: positive("node.speed", speed)? }))
            }
            _ => bad("node", &self.name, "t0_ms, t1_ms, prompt_tokens_per_s and slots, or workers and speed"),
        }
    }
}

fn own_fleet(raw: &[RawNode]) -> Result<Listed, ScenarioError> {
    let mut nodes: Vec<SimNode> = Vec::new();
    let mut declared_rps = Vec::new();
    for node in raw {
        let server = node.server()?;
        for name in node.names() {
            if nodes.iter().any(|other| other.name == name) {
                return bad("node.name", name, "each name once");
            }
            nodes.push(SimNode { name, server });
            declared_rps.push(node.declared_rps()?);
        }
    }
    let told = declared_rps.iter().flatten().count();
    if told != 0 && told != nodes.len() {
        return bad("node.capacity_rps", format!("on {told} of {} nodes", nodes.len()), "on all nodes or on none");
    }
    Ok(Listed { fleet: SimFleet { nodes }, declared_rps })
}

fn phases(raw: &[RawPhase]) -> Result<Vec<(Time, f64)>, ScenarioError> {
    let mut phases = vec![(Time::ZERO, 1.0)];
    for phase in raw {
        if !(phase.factor >= 0.0 && phase.factor <= 1e3) {
            return bad("phase.factor", phase.factor, "from 0 to 1,000");
        }
        let from = Time::from_secs_f64(phase.from_s);
        let last = phases.last().map_or(Time::ZERO, |(last, _)| *last);
        if from == Time::ZERO {
            phases[0].1 = phase.factor;
        } else if phase.from_s.is_finite() && from > last {
            phases.push((from, phase.factor));
        } else {
            return bad("phase.from_s", phase.from_s, "phases in order of time");
        }
    }
    Ok(phases)
}

fn kinds(raw: &[RawKind], plain: bool) -> Result<Vec<KindMix>, ScenarioError> {
    if raw.is_empty() {
        let sizes = if plain {
            Sizes::Seconds(PLAIN_WORK_S)
        } else {
            Sizes::Tokens { prompt: PROMPT_TOKENS, output: OUTPUT_TOKENS }
        };
        return Ok(vec![KindMix { share: 1.0, sizes }]);
    }
    let kind = |raw: &RawKind| {
        let sizes = match (plain, raw.prompt, raw.output, raw.work_s) {
            (false, Some(prompt), Some(output), None) => Sizes::Tokens {
                prompt: lognormal("kind.prompt", prompt, PROMPT_TOKENS)?,
                output: lognormal("kind.output", output, OUTPUT_TOKENS)?,
            },
            (true, None, None, Some(work)) => Sizes::Seconds(lognormal("kind.work_s", work, PLAIN_WORK_S)?),
            _ => return bad("kind", "sizes", "prompt and output for language models, work_s for plain servers"),
        };
        Ok(KindMix { share: positive("kind.share", raw.share)?, sizes })
    };
    raw.iter().map(kind).collect()
}

/// Bounds that are not given are those of the study.
fn lognormal(key: &str, raw: RawLognormal, study: Lognormal) -> Result<Lognormal, ScenarioError> {
    let (min, max) = (raw.min.unwrap_or(study.min), raw.max.unwrap_or(study.max));
    let sound = raw.mean > 0.0 && raw.mean <= 1e6 && (0.0..=5.0).contains(&raw.sigma) && min >= 0.0 && min <= max;
    if sound {
        Ok(Lognormal { mean: raw.mean, sigma: raw.sigma, min, max })
    } else {
        bad(key, format!("{raw:?}"), "mean above 0, sigma from 0 to 5, min from 0 to max")
    }
}

fn incidents(raw: &[RawEvent], fleet: &SimFleet) -> Result<Vec<Incident>, ScenarioError> {
    let mut incidents = Vec::new();
    for event in raw {
        let Some(node) = fleet.nodes.iter().position(|node| node.name == event.node) else {
            let names: Vec<&str> = fleet.nodes.iter().map(|node| node.name.as_str()).collect();
            return bad("event.node", format!("{:?}", event.node), format!("one of {}", names.join(", ")));
        };
        if !(event.at_s >= 0.0 && event.at_s <= 1e6) {
            return bad("event.at_s", event.at_s, "from 0 to 1,000,000");
        }
        let action = match (event.action, event.speed, event.share) {
            (RawAction::Speed, Some(speed), None) => Action::Speed(positive("event.speed", speed)?),
            (RawAction::Fail, None, Some(share)) if (0.0..=1.0).contains(&share) => Action::Fail(share),
            (RawAction::Hang, None, None) => Action::Hang,
            (RawAction::Crash, None, None) => Action::Crash,
            (RawAction::Recover, None, None) => Action::Recover,
            (RawAction::Join, None, None) => Action::Join,
            (RawAction::Leave, None, None) => Action::Leave,
            (action, ..) => {
                let allowed = "`speed` with a speed above 0, `fail` with a share from 0 to 1, the others with neither";
                return bad("event.action", format!("{action:?}").to_lowercase(), allowed);
            }
        };
        incidents.push(Incident { at: Time::from_secs_f64(event.at_s), node, action });
    }
    incidents.sort_by_key(|incident| incident.at);
    Ok(incidents)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOUND: &str = "about = 'x'\nfleet = 'plain'\nloads = [0.5]\nseconds = 10\n";

    fn refusal(more: &str) -> String {
        parse("test", &format!("{SOUND}{more}")).expect_err("refused").to_string()
    }

    #[test]
    fn unknown_keys_and_impossible_values_are_refused_with_what_is_allowed() {
        assert!(parse("test", SOUND).is_ok());
        let unknown = refusal("lods = [1]");
        assert!(unknown.contains("line 5") && unknown.contains("lods") && unknown.contains("loads"), "{unknown}");
        assert!(refusal("proxies = 0").contains("from 1 to 64"));
        assert!(refusal("streamed = true").contains("plain servers"));
        assert!(refusal("[[event]]\nat_s = 1\nnode = 'none'\naction = 'hang'").contains("speed4-2"));
        assert!(refusal("[[event]]\nat_s = 1\nnode = 'speed1-1'\naction = 'speed'").contains("speed above 0"));
        assert!(refusal("[[event]]\nat_s = 1\nnode = 'speed1-1'\naction = 'fail'\nshare = 1.5").contains("0 to 1"));
        assert!(refusal("[[phase]]\nfrom_s = 5\nfactor = 1\n[[phase]]\nfrom_s = 4\nfactor = 1").contains("order"));
        assert!(refusal("[[kind]]\nshare = 1").contains("work_s"));
        let long = SOUND.replace("10", "1e6").replace("plain", "study");
        assert!(parse("test", &long).expect_err("refused").to_string().contains("requests"));
        let nobody = SOUND.replace("plain", "nobody");
        assert!(parse("test", &nobody).expect_err("refused").to_string().contains("plain-equal"));
    }

    #[test]
    fn a_fleet_of_ones_own_is_counted_and_named() {
        let text = "about = 'x'\nloads = [0.5]\nseconds = 10\n\
            [[node]]\nname = 'a'\ncount = 2\nworkers = 3\nspeed = 2\n[[node]]\nname = 'b'\nworkers = 1\nspeed = 1\n\
            [[phase]]\nfrom_s = 4\nfactor = 2";
        let scenario = parse("own", text).expect("sound");
        let names: Vec<&str> = scenario.nodes.iter().map(|node| node.node.name.as_str()).collect();
        assert_eq!(names, ["a-1", "a-2", "b"]);
        assert_eq!(scenario.capacity_rps(), 130.0);
        assert_eq!(scenario.expected_requests(0.5), 0.5 * 130.0 * (4.0 + 12.0));
    }
}
