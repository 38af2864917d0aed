//! The whole answer: how good the emulation is, what each policy would have done, capacity, headroom, one more node.

use serde::Serialize;

use super::fit::{self, Fitted, FittedFleet};
use super::headroom::{Headroom, Slo, headroom};
use super::history::History;
use super::offpolicy::{OffPolicy, off_policy};
use super::replay::{NodeCheck, Stage};
use crate::sim::driver::run;
use crate::sim::report::{Plan, Report, Row, execute};
use crate::sim::roster::RosterError;
use crate::sim::scenario::Scenario;
use crate::sim::statistics::Ratio;

/// Kinds of nodes of which one more is tried.
const KINDS_MAX: usize = 6;

/// A percentile that is off by more than this factor makes the emulation doubtful.
const DOUBTFUL: f64 = 1.5;

/// What is asked.
#[derive(Clone, Debug)]
pub struct Question {
    /// Policies to try, in any order; the recorded one is added where it is missing.
    pub policies: Vec<String>,
    /// Under which seeds.
    pub seeds: Vec<u64>,
    /// What users were promised.
    pub slo: Option<Slo>,
    /// Name and capacity in requests per second of nodes, as the operator declares them.
    pub declared: Vec<(String, f64)>,
    /// Runs at the same time.
    pub threads: usize,
}

/// What a node can do.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NodeCapacity {
    /// Its name.
    pub node: String,
    /// Requests per second.
    pub capacity_rps: f64,
    /// Whether it may do more.
    pub at_least: bool,
    /// `declared`, `queued at its limit` or `never full`.
    pub known_from: &'static str,
    /// The most requests that were seen in work at the same time.
    pub at_once: u32,
    /// Share of the recorded attempts that it got.
    pub share: f64,
    /// Its share of the total capacity.
    pub fair_share: f64,
}

/// What one more node of a kind would bring.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OneMore {
    /// The node that it would be like.
    pub like: String,
    /// Mean response time then.
    pub mean_s: f64,
    /// Its 99th percentile.
    pub p99_s: f64,
    /// What the fleet would hold then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headroom: Option<Headroom>,
}

/// The policy that did best.
#[derive(Clone, Debug, Serialize)]
pub struct Best {
    /// Its name.
    pub policy: String,
    /// The figure that decided, such as `p99` or `first-byte p99`.
    pub by: String,
    /// That figure against the present policy's.
    pub ratio: Option<Ratio>,
    /// Whether the interval leaves no doubt that it is better.
    pub sure: bool,
    /// Policies that cannot be told from it.
    pub rivals: Vec<String>,
}

/// The answer.
#[derive(Clone, Debug, Serialize)]
pub struct Advice {
    /// Completed attempts in the recording.
    pub attempts: usize,
    /// Its length.
    pub seconds: f64,
    /// The policy that routed.
    pub present: String,
    /// How the emulation repeats the recording.
    pub checks: Vec<NodeCheck>,
    /// Nodes of which some percentile is off by more than half.
    pub doubtful: Vec<String>,
    /// What each policy would have done; the first row is the present one.
    pub report: Report,
    /// Which to take.
    pub best: Best,
    /// What each node can do.
    pub capacities: Vec<NodeCapacity>,
    /// P: all of them together, requests per second.
    pub capacity_rps: f64,
    /// Whether the fleet may do more.
    pub capacity_at_least: bool,
    /// r: arrivals per second.
    pub rate_rps: f64,
    /// r / P; at most this where the capacity is at least that.
    pub utilization: f64,
    /// The target that was asked about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slo: Option<Slo>,
    /// What the fleet holds at it under the best policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headroom: Option<Headroom>,
    /// What one more node of each kind would bring, under the best policy.
    pub one_more: Vec<OneMore>,
    /// What the logged chances say by themselves.
    pub off_policy: OffPolicy,
}

/// Why there is no advice.
#[derive(Debug, thiserror::Error)]
pub enum AdviceError {
    /// A policy cannot be tried.
    #[error("--policies: {0}")]
    Policy(#[from] RosterError),
    /// All requests came at one time.
    #[error("all requests of the recording came at one time")]
    NoTime,
    /// A node was declared that the recording does not know.
    #[error("--fleet declares {}, of which the recording has never heard; its nodes are {}", unknown.join(", "), known.join(", "))]
    Strangers {
        /// Those.
        unknown: Vec<String>,
        /// The nodes of the recording.
        known: Vec<String>,
    },
    /// Some nodes are declared and others not.
    #[error("--fleet does not declare {}", .0.join(", "))]
    Undeclared(Vec<String>),
}

/// Answers `question` from `history`; `progress` hears of runs that are done.
///
/// # Errors
/// See [`AdviceError`].
pub fn advise(
    history: &History,
    question: &Question,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<(Advice, Plan), AdviceError> {
    check_declared(history, &question.declared)?;
    let fitted = fit::fit(history);
    let stage = Stage::new(history, &fitted, &question.declared).ok_or(AdviceError::NoTime)?;
    let checks = stage.check(history)?;
    let plan = plan(history, question, &stage);
    let report = execute(&plan, progress)?;
    let best = best(&report, question.slo.as_ref());
    let capacities = capacities(history, &fitted, &question.declared);
    let capacity_rps: f64 = capacities.iter().map(|node| node.capacity_rps).sum();
    let scenario = &plan.scenario;
    // What the emulated fleet can do is as far as the search needs to go.
    let headroom_of = |scenario: &Scenario| {
        let most_rps = 1.2 * scenario.capacity_rps();
        question.slo.as_ref().map(|slo| headroom(scenario, &best.policy, slo, most_rps)).transpose()
    };
    let headroom = headroom_of(scenario)?;
    let mut one_more = Vec::new();
    for at in kinds_of(history, &fitted) {
        let declared = question.declared.iter().find(|(name, _)| *name == history.nodes[at]).map(|(_, rps)| *rps);
        let grown = stage.with_one_more(&history.nodes[at], &fitted.nodes[at], declared).resampled();
        // Over the same seeds as the table that it is read against.
        let (mut mean_s, mut p99_s) = (0.0, 0.0);
        for seed in &question.seeds {
            let mut result = run(&grown, grown.loads[0], &best.policy, *seed)?;
            mean_s += result.total_s.mean() / question.seeds.len() as f64;
            p99_s += result.total_s.quantile(0.99) / question.seeds.len() as f64;
        }
        one_more.push(OneMore { like: history.nodes[at].clone(), mean_s, p99_s, headroom: headroom_of(&grown)? });
    }
    let advice = Advice {
        attempts: history.completed().count(),
        seconds: history.span_s(),
        present: history.policy.clone(),
        doubtful: checks.iter().filter(|check| check.off_by() > DOUBTFUL).map(|check| check.node.clone()).collect(),
        checks,
        best,
        capacity_rps,
        capacity_at_least: capacities.iter().any(|node| node.at_least),
        capacities,
        rate_rps: stage.rate,
        utilization: stage.rate / capacity_rps,
        report,
        slo: question.slo,
        headroom,
        one_more,
        off_policy: off_policy(history),
    };
    Ok((advice, plan))
}

fn check_declared(history: &History, declared: &[(String, f64)]) -> Result<(), AdviceError> {
    let strangers = declared.iter().filter(|(name, _)| !history.nodes.contains(name)).map(|(name, _)| name.clone());
    let unknown: Vec<String> = strangers.collect();
    if !unknown.is_empty() {
        return Err(AdviceError::Strangers { unknown, known: history.nodes.clone() });
    }
    let told = |node: &&String| declared.iter().any(|(name, _)| name == *node);
    let missing: Vec<String> = history.nodes.iter().filter(|node| !told(node)).cloned().collect();
    if !declared.is_empty() && !missing.is_empty() {
        return Err(AdviceError::Undeclared(missing));
    }
    Ok(())
}

fn plan(history: &History, question: &Question, stage: &Stage) -> Plan {
    let mut policies = vec![history.policy.clone()];
    policies.extend(question.policies.iter().filter(|policy| **policy != history.policy).cloned());
    let scenario = stage.resampled();
    let (loads, seeds) = (scenario.loads.clone(), question.seeds.clone());
    let promise = question.slo.map(|slo| slo.promise);
    Plan { scenario, loads, policies, seeds, threads: question.threads, promise }
}

/// The policy with the lowest figure: what was promised, or the mean of whole answers.
fn best(report: &Report, slo: Option<&Slo>) -> Best {
    let figure = |row: &Row| row.promised.map_or(row.mean_s, |promised| promised.value_s);
    let ratio = |row: &Row| row.promised.map_or(row.mean_ratio, |promised| promised.ratio);
    // A policy that loses requests is not good however fast it answers the others.
    let least_errors = report.rows.iter().map(|row| row.error_share).fold(f64::INFINITY, f64::min);
    let sound = |row: &&Row| row.error_share <= least_errors + 0.001 && !YARDSTICK.contains(&row.policy.as_str());
    let rows: Vec<&Row> = report.rows.iter().filter(sound).collect();
    let best = rows.iter().copied().min_by(|a, b| figure(a).total_cmp(&figure(b))).unwrap_or(&report.rows[0]);
    let high = |row: &Row| ratio(row).and_then(|ratio| ratio.high).unwrap_or(f64::INFINITY);
    let low = |row: &Row| ratio(row).and_then(|ratio| ratio.low).unwrap_or(0.0);
    let rivals = rows.iter().filter(|row| row.policy != best.policy && low(row) <= high(best));
    Best {
        policy: best.policy.clone(),
        by: slo.map_or_else(|| "mean".to_owned(), Slo::figure),
        ratio: ratio(best),
        sure: best.policy != report.rows[0].policy && high(best) < 1.0,
        rivals: rivals.map(|row| row.policy.clone()).collect(),
    }
}

/// What nobody can route by: they are compared, not advised.
const YARDSTICK: &[&str] = crate::sim::roster::YARDSTICKS;

fn capacities(history: &History, fitted: &FittedFleet, declared: &[(String, f64)]) -> Vec<NodeCapacity> {
    let total = history.attempts.len().max(1) as f64;
    let node = |(at, (name, node)): (usize, (&String, &Fitted))| {
        let attempts = history.attempts.iter().filter(|attempt| attempt.node as usize == at).count();
        let told = declared.iter().find(|(known, _)| known == name).map(|(_, rps)| *rps);
        NodeCapacity {
            node: name.clone(),
            capacity_rps: told.unwrap_or_else(|| node.capacity_rps(&fitted.mean)),
            at_least: told.is_none() && !node.limit_seen,
            known_from: match (told, node.limit_seen) {
                (Some(_), _) => "declared",
                (None, true) => "queued at its limit",
                (None, false) => "never full",
            },
            at_once: node.at_once,
            share: attempts as f64 / total,
            fair_share: 0.0,
        }
    };
    let mut nodes: Vec<NodeCapacity> = history.nodes.iter().zip(&fitted.nodes).enumerate().map(node).collect();
    let all: f64 = nodes.iter().map(|node| node.capacity_rps).sum();
    nodes.iter_mut().for_each(|node| node.fair_share = node.capacity_rps / all);
    nodes
}

/// One node of each kind: names that differ in their number only are of one kind. The middle one by capacity.
fn kinds_of(history: &History, fitted: &FittedFleet) -> Vec<usize> {
    let stem = |name: &str| {
        let bare = name.trim_end_matches(|c: char| c.is_ascii_digit());
        bare.strip_suffix(['-', '_', '.']).unwrap_or(bare).to_owned()
    };
    let mut kinds: Vec<(String, Vec<usize>)> = Vec::new();
    for (at, name) in history.nodes.iter().enumerate() {
        let stem = stem(name);
        match kinds.iter_mut().find(|(known, _)| *known == stem) {
            Some((_, members)) => members.push(at),
            None => kinds.push((stem, vec![at])),
        }
    }
    let middle = |(_, mut members): (String, Vec<usize>)| {
        members.sort_by(|a, b| {
            let capacity = |at: &usize| fitted.nodes[*at].capacity_rps(&fitted.mean);
            capacity(a).total_cmp(&capacity(b))
        });
        members[members.len() / 2]
    };
    kinds.into_iter().take(KINDS_MAX).map(middle).collect()
}

#[cfg(test)]
mod tests;
