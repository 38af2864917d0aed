//! `simulate --report`: the comparison as a page.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use super::SimulateError;
use crate::balancer::Observer;
use crate::report::{Page, Seen};
use crate::sim::figures::Job;
use crate::sim::report::{Plan, Report, execute_watched};
use crate::sim::roster::RosterError;
use crate::sim::watch::Watch;

/// Watches over the runs under the first seed, by load and policy in the order of the plan.
type Watches = Mutex<BTreeMap<(usize, usize), Arc<Watch>>>;

/// Runs the plan and writes the page beside.
pub(super) fn run(plan: &Plan, path: &Path, progress: &(dyn Fn(usize, usize) + Sync)) -> Result<Report, SimulateError> {
    let page = watched(plan, progress)?;
    write(&page, path)?;
    Ok(page.report)
}

/// Writes the page of advice: the report that it made, with charts of one more run of each policy under the first seed.
pub(in crate::cli) fn advised(plan: &Plan, report: Report, advice: String, path: &Path) -> Result<(), SimulateError> {
    let first = Plan { seeds: plan.seeds.iter().take(1).copied().collect(), ..plan.clone() };
    write(&Page { report, advice: Some(advice), ..watched(&first, &|_, _| ())? }, path)
}

fn write(page: &Page, path: &Path) -> Result<(), SimulateError> {
    fs::write(path, page.html()).map_err(|error| SimulateError::Page { path: path.to_path_buf(), error })
}

/// The page of the plan's runs, those under the first seed watched.
fn watched(plan: &Plan, progress: &(dyn Fn(usize, usize) + Sync)) -> Result<Page, SimulateError> {
    let watches = Watches::default();
    let report = execute_watched(plan, progress, &|job| watch(plan, job, &watches)).map_err(policy)?;
    let watches = watches.into_inner().unwrap_or_else(PoisonError::into_inner);
    let bin_s = watches.values().next().map_or(1.0, |watch| watch.bin_s());
    let seen = watches.into_iter().map(|((load, policy), watch)| Seen {
        load: plan.loads[load],
        policy: plan.policies[policy].clone(),
        watched: watch.take(),
    });
    Ok(Page {
        seen: seen.collect(),
        nodes: plan.scenario.nodes.iter().map(|node| node.node.name.clone()).collect(),
        bin_s,
        command: command(),
        advice: None,
        report,
    })
}

fn policy(error: RosterError) -> SimulateError {
    SimulateError::Policy(error)
}

fn watch(plan: &Plan, job: &Job, watches: &Watches) -> Vec<Arc<dyn Observer>> {
    let load = plan.loads.iter().position(|load| *load == job.load);
    let policy = plan.policies.iter().position(|policy| *policy == job.policy);
    let (Some(load), Some(policy), true) = (load, policy, plan.seeds.first() == Some(&job.seed)) else {
        return Vec::new();
    };
    let watch = Arc::new(Watch::new(&plan.scenario));
    watches.lock().unwrap_or_else(PoisonError::into_inner).insert((load, policy), Arc::clone(&watch));
    vec![watch]
}

/// The command line of this process, as a shell would take it again.
fn command() -> String {
    let plain =
        |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c));
    let quoted = |text: String| if plain(&text) { text } else { format!("'{}'", text.replace('\'', "'\\''")) };
    let args = std::env::args_os().skip(1).map(|arg| quoted(arg.to_string_lossy().into_owned()));
    std::iter::once("bellwether".to_owned()).chain(args).collect::<Vec<_>>().join(" ")
}
