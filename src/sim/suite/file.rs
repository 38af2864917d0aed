//! Reading a suite's file: unknown keys and names that mean nothing are refused, with what would be allowed.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;

use super::{Check, Comparison, Figure, Reference, Suite, SuiteError};
use crate::sim::roster;
use crate::sim::scenario::Scenario;

/// Who is judged unless a row says otherwise.
const JUDGED: &str = "adaptive";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSuite {
    about: String,
    #[serde(default)]
    sets: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    row: Vec<RawRow>,
    #[serde(default)]
    table: Vec<RawTable>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRow {
    about: String,
    scenario: String,
    loads: Option<Vec<f64>>,
    policy: Option<String>,
    check: Vec<RawCheck>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCheck {
    figure: Figure,
    against: Option<String>,
    scenario: Option<String>,
    #[serde(default = "yes")]
    events: bool,
    loads: Option<Vec<f64>>,
    at_most: f64,
}

fn yes() -> bool {
    true
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTable {
    about: String,
    policies: Vec<String>,
    cell: Vec<RawCell>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCell {
    scenario: String,
    loads: Option<Vec<f64>>,
}

fn bad<T>(what: impl std::fmt::Display, allowed: impl Into<String>) -> Result<T, SuiteError> {
    Err(SuiteError::Value { what: what.to_string(), allowed: allowed.into() })
}

/// Finds scenarios, each once.
struct Scenarios<'a> {
    find: &'a dyn Fn(&str) -> Result<Scenario, String>,
    found: BTreeMap<(String, bool), Arc<Scenario>>,
}

impl Scenarios<'_> {
    fn get(&mut self, name: &str, events: bool) -> Result<Arc<Scenario>, SuiteError> {
        let key = (name.to_owned(), events);
        if let Some(known) = self.found.get(&key) {
            return Ok(Arc::clone(known));
        }
        let mut scenario = (self.find)(name).map_err(SuiteError::Scenario)?;
        if !events {
            scenario = scenario.without_incidents();
            scenario.name += " without events";
        }
        let scenario = Arc::new(scenario);
        self.found.insert(key, Arc::clone(&scenario));
        Ok(scenario)
    }
}

pub(super) fn parse(text: &str, find: &dyn Fn(&str) -> Result<Scenario, String>) -> Result<Suite, SuiteError> {
    let raw: RawSuite = toml::from_str(text).map_err(|error| SuiteError::Text(error.to_string()))?;
    let mut scenarios = Scenarios { find, found: BTreeMap::new() };
    let (mut checks, mut tables) = (Vec::new(), Vec::new());
    for row in &raw.row {
        let scenario = scenarios.get(&row.scenario, true)?;
        for load in loads(row.loads.as_ref(), &scenario)? {
            for check in row.check.iter().filter(|check| check.loads.as_ref().is_none_or(|only| only.contains(&load))) {
                checks.push(one(&raw, row, check, load, &scenario, &mut scenarios)?);
            }
        }
        for only in row.check.iter().filter_map(|check| check.loads.as_ref()) {
            let known = loads(row.loads.as_ref(), &scenario)?;
            if let Some(strange) = only.iter().find(|load| !known.contains(load)) {
                return bad(
                    format!("{}: a check at load {strange}", row.about),
                    format!("loads of the row: {known:?}"),
                );
            }
        }
    }
    for table in &raw.table {
        let mut cells = Vec::new();
        for cell in &table.cell {
            let scenario = scenarios.get(&cell.scenario, true)?;
            cells.extend(loads(cell.loads.as_ref(), &scenario)?.into_iter().map(|load| (Arc::clone(&scenario), load)));
        }
        for (scenario, _) in &cells {
            table.policies.iter().try_for_each(|policy| roster::check(policy, scenario))?;
        }
        if table.policies.is_empty() {
            return bad(
                format!("{}: policies = []", table.about),
                "at least the one that the others are compared with",
            );
        }
        tables.push(Comparison { about: table.about.clone(), policies: table.policies.clone(), cells });
    }
    if checks.is_empty() && tables.is_empty() {
        return bad("nothing to do", "at least one [[row]] with checks or one [[table]]");
    }
    Ok(Suite { about: raw.about, checks, tables })
}

fn loads(asked: Option<&Vec<f64>>, scenario: &Scenario) -> Result<Vec<f64>, SuiteError> {
    let loads = asked.unwrap_or(&scenario.loads);
    match loads.iter().find(|load| !(**load > 0.0 && **load <= 10.0)) {
        Some(load) => bad(format!("load {load}"), "above 0 and at most 10"),
        None => Ok(loads.clone()),
    }
}

fn one(
    raw: &RawSuite,
    row: &RawRow,
    check: &RawCheck,
    load: f64,
    scenario: &Arc<Scenario>,
    scenarios: &mut Scenarios<'_>,
) -> Result<Check, SuiteError> {
    let policy = row.policy.clone().unwrap_or_else(|| JUDGED.to_owned());
    roster::check(&policy, scenario)?;
    if !check.at_most.is_finite() {
        return bad(format!("{}: at_most = {}", row.about, check.at_most), "a number");
    }
    let compares = check.against.is_some() || check.scenario.is_some() || !check.events;
    if compares != check.figure.is_relative() {
        let allowed = match compares {
            true => "no reference: the figure stands for itself",
            false => "a reference: `against`, `scenario` or `events = false`",
        };
        return bad(format!("{}: {}", row.about, check.figure.word()), allowed);
    }
    if check.figure.is_of_incident() && scenario.incidents.is_empty() {
        return bad(format!("{}: {}", row.about, check.figure.word()), "a scenario with events");
    }
    let reference = if compares {
        let policies = match &check.against {
            None => vec![policy.clone()],
            Some(name) => raw.sets.get(name).cloned().unwrap_or_else(|| vec![name.clone()]),
        };
        let other = scenarios.get(check.scenario.as_ref().unwrap_or(&row.scenario), check.events)?;
        policies.iter().try_for_each(|policy| roster::check(policy, &other))?;
        Some(Reference { scenario: other, policies })
    } else {
        None
    };
    Ok(Check {
        about: row.about.clone(),
        scenario: Arc::clone(scenario),
        load,
        policy,
        figure: check.figure,
        reference,
        at_most: check.at_most,
    })
}
