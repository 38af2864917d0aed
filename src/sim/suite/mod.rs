//! Many scenarios, one verdict: which promises hold, and what each part of a policy is worth.
//!
//! A suite is a commented TOML file, so that a promise is a line that can be read, run and argued about: a scenario, a
//! figure, what it is compared with, and a bound. Three ship with the program: `evidence` (what `adaptive` must reach),
//! `prefix` (the same where prompts repeat) and `ablation` (the policy with one part left out). Every run that several lines need is done once. A bound is held
//! against the mean over the seeds where the figure is a ratio or a share, and against the worst seed where it counts
//! requests or seconds, since "at most three lost" is not kept on average.

mod file;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::sim::figures::{Figures, Job, run_all};
use crate::sim::roster::RosterError;
use crate::sim::scenario::{Action, Scenario};
use crate::sim::statistics::{Ratio, mean};

/// The suites in the binary: name and text.
const SHIPPED: &[(&str, &str)] = &[
    ("evidence", include_str!("../../../examples/suites/evidence.toml")),
    ("ablation", include_str!("../../../examples/suites/ablation.toml")),
    ("prefix", include_str!("../../../examples/suites/prefix.toml")),
];

/// What is wrong with a suite.
#[derive(Debug, thiserror::Error)]
pub enum SuiteError {
    /// Not TOML, a key that does not exist, or a value of the wrong type; the message shows the place.
    #[error("{0}")]
    Text(String),
    /// A scenario that cannot be had.
    #[error("{0}")]
    Scenario(String),
    /// A policy that is unknown or cannot compete.
    #[error(transparent)]
    Policy(#[from] RosterError),
    /// Something that means nothing.
    #[error("{what}: {allowed}")]
    Value {
        /// As given.
        what: String,
        /// What would be allowed.
        allowed: String,
    },
}

/// What is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Figure {
    /// Mean response time, as a ratio to the reference.
    Mean,
    /// 99th percentile of the response time, as a ratio to the reference.
    P99,
    /// Share of requests without an answer.
    Errors,
    /// Requests without an answer at the node of the first event, from then until it recovers, beyond those in flight
    /// there at that moment; in the worst seed.
    LostBeyond,
    /// What is left, 3 to 5 s after the first event, of the share that its node had too much by then: 1 is all of it.
    ExcessLeft,
    /// Seconds from the first event until its node has its fair share of attempts; in the worst seed.
    SecondsToFairShare,
}

impl Figure {
    /// The word for people.
    pub fn word(self) -> &'static str {
        match self {
            Figure::Mean => "mean",
            Figure::P99 => "p99",
            Figure::Errors => "errors",
            Figure::LostBeyond => "lost beyond",
            Figure::ExcessLeft => "excess left",
            Figure::SecondsToFairShare => "s to fair share",
        }
    }

    /// Whether it needs something to be compared with.
    pub fn is_relative(self) -> bool {
        matches!(self, Figure::Mean | Figure::P99)
    }

    /// Whether it is about what happens to a node.
    pub fn is_of_incident(self) -> bool {
        matches!(self, Figure::LostBeyond | Figure::ExcessLeft | Figure::SecondsToFairShare)
    }

    fn of(self, figures: &Figures, scenario: &Scenario) -> f64 {
        let first = figures.incidents.first();
        match self {
            Figure::Mean => figures.mean_s,
            Figure::P99 => figures.quantiles_s[2],
            Figure::Errors => figures.error_share(),
            Figure::LostBeyond => lost_beyond(figures, scenario),
            Figure::ExcessLeft => first.map_or(f64::NAN, |around| {
                let excess = |share: f64| share - around.fair_share;
                excess(around.shares[3]) / excess(around.shares[0])
            }),
            Figure::SecondsToFairShare => first.map_or(f64::NAN, |around| around.reached_s),
        }
    }
}

fn lost_beyond(figures: &Figures, scenario: &Scenario) -> f64 {
    let Some((first, seen)) = scenario.incidents.first().zip(figures.incidents.first()) else { return f64::NAN };
    let until_well = scenario.incidents.iter().zip(&figures.incidents).filter(|(other, _)| other.node == first.node);
    let errors = until_well.take_while(|(other, _)| other.action != Action::Recover).map(|(_, seen)| seen.errors);
    errors.sum::<u64>() as f64 - seen.in_flight as f64
}

/// What a ratio is taken to: the best of these policies.
#[derive(Clone, Debug)]
pub struct Reference {
    /// Where they are run.
    pub scenario: Arc<Scenario>,
    /// Never empty.
    pub policies: Vec<String>,
}

/// One promise.
#[derive(Clone, Debug)]
pub struct Check {
    /// The row that it belongs to.
    pub about: String,
    /// Where.
    pub scenario: Arc<Scenario>,
    /// At which load.
    pub load: f64,
    /// Who is judged.
    pub policy: String,
    /// By what.
    pub figure: Figure,
    /// Against whom; for relative figures.
    pub reference: Option<Reference>,
    /// The bound.
    pub at_most: f64,
}

/// Policies side by side, without a verdict.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// Its title.
    pub about: String,
    /// The first is what the others are compared with. Never empty.
    pub policies: Vec<String>,
    /// Where, and at which load.
    pub cells: Vec<(Arc<Scenario>, f64)>,
}

/// A checked suite.
#[derive(Clone, Debug)]
pub struct Suite {
    /// One line for people.
    pub about: String,
    /// Promises.
    pub checks: Vec<Check>,
    /// Comparisons.
    pub tables: Vec<Comparison>,
}

/// How a promise was kept.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict {
    /// The row that it belongs to.
    pub about: String,
    /// Where.
    pub scenario: String,
    /// At which load.
    pub load: f64,
    /// Who is judged.
    pub policy: String,
    /// By what.
    pub figure: Figure,
    /// The best of the references, and where it ran if that is elsewhere.
    pub against: Option<String>,
    /// The ratio, or the figure itself.
    pub value: f64,
    /// 95 % confidence interval of a ratio.
    pub low: Option<f64>,
    /// Its upper end.
    pub high: Option<f64>,
    /// The bound.
    pub at_most: f64,
    /// Whether it is kept.
    pub met: bool,
}

/// A policy in one cell of a comparison.
#[derive(Clone, Debug, Serialize)]
pub struct Compared {
    /// Mean against the first policy's.
    pub mean_ratio: Option<Ratio>,
    /// 99th percentile against the first policy's.
    pub p99_ratio: Option<Ratio>,
    /// Share of requests without an answer.
    pub error_share: f64,
}

/// A comparison, filled in.
#[derive(Clone, Debug, Serialize)]
pub struct Table {
    /// Its title.
    pub about: String,
    /// Scenario and load of each column.
    pub columns: Vec<(String, f64)>,
    /// Policies and their cells.
    pub rows: Vec<(String, Vec<Compared>)>,
}

/// What came out.
#[derive(Clone, Debug, Serialize)]
pub struct SuiteReport {
    /// The suite's one line.
    pub about: String,
    /// Seeds.
    pub seeds: Vec<u64>,
    /// In the order of the file.
    pub verdicts: Vec<Verdict>,
    /// In the order of the file.
    pub tables: Vec<Table>,
}

impl SuiteReport {
    /// Promises that are not kept.
    pub fn missed(&self) -> usize {
        self.verdicts.iter().filter(|verdict| !verdict.met).count()
    }
}

/// Runs of one policy in one place: scenario, load in bits, policy.
type Place = (String, u64, String);

fn place(scenario: &Scenario, load: f64, policy: &str) -> Place {
    (scenario.name.clone(), load.to_bits(), policy.to_owned())
}

impl Suite {
    /// The text of a suite in the binary.
    pub fn shipped(name: &str) -> Option<&'static str> {
        SHIPPED.iter().find(|(shipped, _)| *shipped == name).map(|(_, text)| *text)
    }

    /// The names of the suites in the binary.
    pub fn names() -> Vec<&'static str> {
        SHIPPED.iter().map(|(name, _)| *name).collect()
    }

    /// Reads the text of a file; `find` finds the scenarios that it names.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str, find: &dyn Fn(&str) -> Result<Scenario, String>) -> Result<Suite, SuiteError> {
        file::parse(text, find)
    }

    /// Everything that has to be run, each once, by place and then seed.
    fn places(&self) -> BTreeMap<Place, (Arc<Scenario>, f64, String)> {
        let mut places = BTreeMap::new();
        let mut want = |scenario: &Arc<Scenario>, load: f64, policy: &str| {
            places.insert(place(scenario, load, policy), (Arc::clone(scenario), load, policy.to_owned()));
        };
        for check in &self.checks {
            want(&check.scenario, check.load, &check.policy);
            if let Some(reference) = &check.reference {
                reference.policies.iter().for_each(|policy| want(&reference.scenario, check.load, policy));
            }
        }
        for table in &self.tables {
            for (scenario, load) in &table.cells {
                table.policies.iter().for_each(|policy| want(scenario, *load, policy));
            }
        }
        places
    }

    /// Runs it all; `progress` hears after each run how many of how many are done.
    ///
    /// # Errors
    /// A policy is unknown or cannot compete.
    pub fn execute(
        &self,
        seeds: &[u64],
        threads: usize,
        progress: &(dyn Fn(usize, usize) + Sync),
    ) -> Result<SuiteReport, RosterError> {
        let places = self.places();
        let mut jobs = Vec::new();
        for (scenario, load, policy) in places.values() {
            let job = |seed: &u64| Job {
                scenario: Arc::clone(scenario),
                load: *load,
                policy: policy.clone(),
                seed: *seed,
                promise: None,
            };
            jobs.extend(seeds.iter().map(job));
        }
        let figures = run_all(&jobs, threads, progress)?;
        let results = Results(places.into_keys().zip(figures.chunks(seeds.len().max(1)).map(<[_]>::to_vec)).collect());
        Ok(SuiteReport {
            about: self.about.clone(),
            seeds: seeds.to_vec(),
            verdicts: self.checks.iter().map(|check| results.judge(check)).collect(),
            tables: self.tables.iter().map(|table| results.fill(table)).collect(),
        })
    }
}

/// The figures of every place, seed by seed.
struct Results(BTreeMap<Place, Vec<Figures>>);

impl Results {
    fn values(&self, figure: Figure, scenario: &Scenario, load: f64, policy: &str) -> Vec<f64> {
        let figures = self.0.get(&place(scenario, load, policy)).map_or(&[][..], Vec::as_slice);
        figures.iter().map(|figures| figure.of(figures, scenario)).collect()
    }

    fn judge(&self, check: &Check) -> Verdict {
        let own = self.values(check.figure, &check.scenario, check.load, &check.policy);
        let against = check.reference.as_ref().and_then(|reference| self.best(check, reference));
        let (value, low, high) = match &against {
            Some((_, base)) => match Ratio::paired(&own, base) {
                Some(Ratio { value, low, high }) => (value, low, high),
                None => (f64::NAN, None, None),
            },
            None if matches!(check.figure, Figure::LostBeyond | Figure::SecondsToFairShare) => {
                (own.iter().copied().fold(f64::NEG_INFINITY, f64::max), None, None)
            }
            None => (mean(own.iter().copied()), None, None),
        };
        Verdict {
            about: check.about.clone(),
            scenario: check.scenario.name.clone(),
            load: check.load,
            policy: check.policy.clone(),
            figure: check.figure,
            against: against.map(|(name, _)| name),
            value,
            low,
            high,
            at_most: check.at_most,
            // What is not a number keeps no promise.
            met: value <= check.at_most,
        }
    }

    /// The reference that is best by the check's figure: its name, and its values.
    fn best(&self, check: &Check, reference: &Reference) -> Option<(String, Vec<f64>)> {
        let elsewhere = reference.scenario.name != check.scenario.name;
        let candidates = reference.policies.iter().map(|policy| {
            let values = self.values(check.figure, &reference.scenario, check.load, policy);
            let name = if elsewhere { format!("{policy} in {}", reference.scenario.name) } else { policy.clone() };
            (name, values)
        });
        candidates.min_by(|(_, a), (_, b)| mean(a.iter().copied()).total_cmp(&mean(b.iter().copied())))
    }

    fn fill(&self, table: &Comparison) -> Table {
        let first = table.policies.first().map_or("", String::as_str);
        let cell = |policy: &String, (scenario, load): &(Arc<Scenario>, f64)| {
            let ratio = |figure: Figure| {
                let values = |policy: &str| self.values(figure, scenario, *load, policy);
                Ratio::paired(&values(policy), &values(first))
            };
            let errors = self.values(Figure::Errors, scenario, *load, policy);
            Compared {
                mean_ratio: ratio(Figure::Mean),
                p99_ratio: ratio(Figure::P99),
                error_share: mean(errors.into_iter()),
            }
        };
        let rows = table.policies.iter();
        Table {
            about: table.about.clone(),
            columns: table.cells.iter().map(|(scenario, load)| (scenario.name.clone(), *load)).collect(),
            rows: rows
                .map(|policy| (policy.clone(), table.cells.iter().map(|place| cell(policy, place)).collect()))
                .collect(),
        }
    }
}
