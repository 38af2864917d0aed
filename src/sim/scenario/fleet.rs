//! A fleet without a scenario: what a trace is replayed on, and what an operator declares about real nodes.
//!
//! The file holds the `fleet` or `[[node]]` entries of a scenario, its `[cache]`, and nothing else, or is a scenario, of which only the
//! nodes count. Where real nodes are described, `name` and `capacity_rps` are enough.

use std::time::Duration;

use serde::Deserialize;

use super::file::{self, Listed, RawNode, bad};
use super::prompts::{CacheSpec, RawCache};
use super::{Scenario, ScenarioError, ScenarioNode};
use crate::clock::Time;
use crate::sim::random::{OUTPUT_TOKENS, PROMPT_TOKENS};
use crate::sim::workload::{KindMix, Sizes};
use crate::sim::{SimFleet, fleets};

/// The load of a fleet unless told otherwise: busy, and no policy is overrun.
const LOAD: f64 = 0.6;

/// A fleet that was read from a file.
#[derive(Clone, Debug)]
pub struct FleetFile {
    nodes: Vec<ScenarioNode>,
    streamed: bool,
    cache: Option<CacheSpec>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFleet {
    fleet: Option<String>,
    #[serde(default = "file::one")]
    copies: u32,
    #[serde(default = "yes")]
    streamed: bool,
    #[serde(default)]
    node: Vec<RawNode>,
    cache: Option<RawCache>,
}

fn yes() -> bool {
    true
}

impl FleetFile {
    /// A named fleet (`study`, `measured`, ...), or that of a scenario that ships with the program.
    pub fn named(name: &str) -> Option<Result<FleetFile, ScenarioError>> {
        match SimFleet::named(name) {
            Some(fleet) => {
                let declared_rps = vec![None; fleet.nodes.len()];
                Some(Ok(FleetFile::of(Listed { fleet, declared_rps }, true, None)))
            }
            None => Some(Scenario::named(name)?.map(FleetFile::of_scenario)),
        }
    }

    /// Reads the text of a file.
    ///
    /// # Errors
    /// What is wrong with it, with line and column where the text itself is.
    pub fn parse(text: &str) -> Result<FleetFile, ScenarioError> {
        if is_scenario(text) {
            return Scenario::parse("fleet", text).map(FleetFile::of_scenario);
        }
        let raw: RawFleet = toml::from_str(text).map_err(|error| ScenarioError::Text(error.to_string()))?;
        let listed = file::fleet(raw.fleet.as_deref(), raw.copies, &raw.node)?;
        Ok(FleetFile::of(listed, raw.streamed, raw.cache.map(RawCache::check).transpose()?))
    }

    /// Reads what the text of a file declares about real nodes: name and requests per second, servers or not.
    ///
    /// # Errors
    /// As [`FleetFile::parse`]; and a node without `capacity_rps`.
    pub fn declared(text: &str) -> Result<Vec<(String, f64)>, ScenarioError> {
        if is_scenario(text) {
            return Scenario::parse("fleet", text)?.declared();
        }
        let raw: RawFleet = toml::from_str(text).map_err(|error| ScenarioError::Text(error.to_string()))?;
        let mut declared: Vec<(String, f64)> = Vec::new();
        for node in &raw.node {
            let Some(rps) = node.declared_rps()? else { return undeclared(&node.names().join(", ")) };
            declared.extend(node.names().into_iter().map(|name| (name, rps)));
        }
        if declared.is_empty() { bad("node", "absent", "at least one [[node]] entry") } else { Ok(declared) }
    }

    /// The fleet as a scenario of one load, the study's requests, and nothing that goes wrong.
    #[must_use]
    pub fn scenario(self, name: &str, about: &str) -> Scenario {
        let kinds = vec![KindMix { share: 1.0, sizes: Sizes::Tokens { prompt: PROMPT_TOKENS, output: OUTPUT_TOKENS } }];
        Scenario {
            name: name.to_owned(),
            about: about.to_owned(),
            nodes: self.nodes,
            loads: vec![LOAD],
            phases: vec![(Time::ZERO, 1.0)],
            length: Duration::from_secs(600),
            warm_up: Time::from_secs_f64(60.0),
            kinds,
            streamed: self.streamed,
            proxies: 1,
            client_deadline: None,
            incidents: Vec::new(),
            trace: None,
            cache: self.cache,
            talk: None,
        }
    }

    fn of(listed: Listed, streamed: bool, cache: Option<CacheSpec>) -> FleetFile {
        let node = |(node, declared_rps): (crate::sim::SimNode, Option<f64>)| ScenarioNode {
            capacity_rps: node.server.capacity_rps(),
            node,
            declared_rps,
            joins_later: false,
        };
        let nodes = listed.fleet.nodes.into_iter().zip(listed.declared_rps).map(node).collect();
        FleetFile { nodes, streamed, cache }
    }

    fn of_scenario(scenario: Scenario) -> FleetFile {
        let (streamed, cache) = (scenario.streamed, scenario.cache);
        let there = |node| ScenarioNode { joins_later: false, ..node };
        FleetFile { nodes: scenario.nodes.into_iter().map(there).collect(), streamed, cache }
    }

    /// The names that [`FleetFile::named`] knows beside those of scenarios.
    pub fn names() -> &'static [&'static str] {
        fleets::NAMES
    }
}

impl Scenario {
    /// Name and declared capacity of every node.
    ///
    /// # Errors
    /// Nothing is declared.
    pub fn declared(&self) -> Result<Vec<(String, f64)>, ScenarioError> {
        let declared = |node: &ScenarioNode| match node.declared_rps {
            Some(rps) => Ok((node.node.name.clone(), rps)),
            None => undeclared(&node.node.name),
        };
        self.nodes.iter().map(declared).collect()
    }
}

fn undeclared<T>(name: &str) -> Result<T, ScenarioError> {
    bad("node.capacity_rps", format!("absent for {name}"), "requests per second that the node can do")
}

/// Whether a text is that of a scenario: no other file has loads.
fn is_scenario(text: &str) -> bool {
    text.parse::<toml::Table>().is_ok_and(|table| table.contains_key("loads"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fleet_is_named_written_out_or_that_of_a_scenario() {
        let count = |fleet: FleetFile| fleet.nodes.len();
        assert_eq!(FleetFile::named("study").expect("known").map(count), Ok(8));
        assert_eq!(FleetFile::named("textbook").expect("shipped").map(count), Ok(3));
        assert!(FleetFile::named("nobody").is_none());
        let own =
            "streamed = false\n[[node]]\nname = 'a'\nt0_ms = 10\nt1_ms = 0.1\nprompt_tokens_per_s = 9000\nslots = 8";
        let fleet = FleetFile::parse(own).expect("sound");
        assert_eq!((fleet.streamed, count(fleet)), (false, 1));
        assert_eq!(FleetFile::parse("fleet = 'middle'\ncopies = 3").map(count), Ok(24));
        assert!(FleetFile::parse("flet = 'x'").expect_err("refused").to_string().contains("flet"));
    }

    #[test]
    fn what_is_declared_needs_no_server() {
        let text = "[[node]]\nname = 'a'\ncapacity_rps = 50\n[[node]]\nname = 'b'\ncount = 2\ncapacity_rps = 70";
        let declared = FleetFile::declared(text).expect("sound");
        assert_eq!(declared, [("a".to_owned(), 50.0), ("b-1".to_owned(), 70.0), ("b-2".to_owned(), 70.0)]);
        let shipped = include_str!("../../../examples/scenarios/textbook.toml");
        let sum: f64 = FleetFile::declared(shipped).expect("declared").iter().map(|(_, rps)| rps).sum();
        assert_eq!(sum, 200.0);
        let missing = FleetFile::declared("[[node]]\nname = 'a'").expect_err("refused").to_string();
        assert!(missing.contains("capacity_rps"), "{missing}");
        let half = "[[node]]\nname = 'a'\nworkers = 1\nspeed = 1\ncapacity_rps = 10\n[[node]]\nname = 'b'\nworkers = 1\nspeed = 1";
        assert!(FleetFile::parse(half).expect_err("refused").to_string().contains("on all nodes or on none"));
    }
}
