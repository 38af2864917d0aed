//! Many runs, one table: policies compared on the same requests, seed by seed.
//!
//! Figures are averaged over seeds, but ratios are taken within each seed first: response times differ more between
//! seeds than between good policies, and pairing removes that. The report holds nothing that depends on the machine or
//! on the order in which runs end, so that the same seeds and binary give the same bytes.

use std::sync::Arc;

use serde::Serialize;

use crate::balancer::Observer;
use crate::sim::figures::{Around, Figures, Job, Promise, WINDOWS, fair_share, run_all_watched};
use crate::sim::roster::RosterError;
use crate::sim::scenario::Scenario;
use crate::sim::statistics::{Ratio, mean};

/// What to run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where.
    pub scenario: Scenario,
    /// At which loads.
    pub loads: Vec<f64>,
    /// Who; the first is what the others are compared with.
    pub policies: Vec<String>,
    /// Under which seeds.
    pub seeds: Vec<u64>,
    /// On how many threads, at least 1.
    pub threads: usize,
    /// A figure that each row has beside the usual ones.
    pub promise: Option<Promise>,
}

/// The figures of one policy at one load, averaged over seeds. Times in seconds.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Load relative to the sum of capacities.
    pub load: f64,
    /// Which policy.
    pub policy: String,
    /// Mean response time.
    pub mean_s: f64,
    /// Median.
    pub p50_s: f64,
    /// 90th percentile.
    pub p90_s: f64,
    /// 99th percentile.
    pub p99_s: f64,
    /// 99.9th percentile.
    pub p999_s: f64,
    /// Mean time to the first byte.
    pub ttfb_mean_s: f64,
    /// Its 99th percentile.
    pub ttfb_p99_s: f64,
    /// Requests of all seeds that were counted.
    pub requests: u64,
    /// Those of them without an answer.
    pub errors: u64,
    /// Them as a share.
    pub error_share: f64,
    /// Mean against the first policy's.
    pub mean_ratio: Option<Ratio>,
    /// 99th percentile against the first policy's.
    pub p99_ratio: Option<Ratio>,
    /// What was promised, where something was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub promised: Option<Promised>,
    /// What happened around each incident.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub incidents: Vec<IncidentRow>,
}

/// The figure that was promised, averaged over seeds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Promised {
    /// In seconds.
    pub value_s: f64,
    /// Against the first policy's.
    pub ratio: Option<Ratio>,
}

/// A node's share of attempts around an incident, averaged over seeds.
#[derive(Clone, Debug, Serialize)]
pub struct IncidentRow {
    /// When.
    pub at_s: f64,
    /// Which node.
    pub node: String,
    /// What it can do from then on over what all can do.
    pub fair_share: f64,
    /// Share in each of [`WINDOWS`].
    pub shares: Vec<f64>,
    /// Requests in flight there at that moment.
    pub in_flight: f64,
    /// Requests that ended there without an answer between this incident and the next of that node.
    pub errors: f64,
}

/// Everything that came out.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Which scenario.
    pub scenario: String,
    /// Its one line.
    pub about: String,
    /// Sum of capacities in requests per second.
    pub capacity_rps: f64,
    /// Seconds during which requests arrived.
    pub seconds: f64,
    /// Seeds.
    pub seeds: Vec<u64>,
    /// By load, then in the order of the policies.
    pub rows: Vec<Row>,
}

/// Runs the plan; `progress` hears after each run how many of how many are done.
///
/// # Errors
/// A policy is unknown or cannot compete in this scenario; nothing is run then.
pub fn execute(plan: &Plan, progress: &(dyn Fn(usize, usize) + Sync)) -> Result<Report, RosterError> {
    execute_watched(plan, progress, &|_| Vec::new())
}

/// The same, with observers for each run that hear of every attempt.
///
/// # Errors
/// As [`execute`].
pub fn execute_watched(
    plan: &Plan,
    progress: &(dyn Fn(usize, usize) + Sync),
    watch: &(dyn Fn(&Job) -> Vec<Arc<dyn Observer>> + Sync),
) -> Result<Report, RosterError> {
    let scenario = Arc::new(plan.scenario.clone());
    let mut jobs = Vec::new();
    for load in &plan.loads {
        for policy in &plan.policies {
            let job = |seed: &u64| Job {
                scenario: Arc::clone(&scenario),
                load: *load,
                policy: policy.clone(),
                seed: *seed,
                promise: plan.promise,
            };
            jobs.extend(plan.seeds.iter().map(job));
        }
    }
    let figures = run_all_watched(&jobs, plan.threads, progress, watch)?;
    Ok(Report {
        scenario: plan.scenario.name.clone(),
        about: plan.scenario.about.clone(),
        capacity_rps: plan.scenario.capacity_rps(),
        seconds: plan.scenario.length.as_secs_f64(),
        seeds: plan.seeds.clone(),
        rows: rows(plan, &figures),
    })
}

fn rows(plan: &Plan, figures: &[Figures]) -> Vec<Row> {
    let per_policy = plan.seeds.len().max(1);
    let of_load: Vec<&[Figures]> = figures.chunks(per_policy * plan.policies.len().max(1)).collect();
    let mut rows = Vec::new();
    for (load, of_load) in plan.loads.iter().zip(of_load) {
        let groups: Vec<&[Figures]> = of_load.chunks(per_policy).collect();
        for (policy, group) in plan.policies.iter().zip(&groups) {
            rows.push(row(&plan.scenario, *load, policy, group, groups[0]));
        }
    }
    rows
}

fn row(scenario: &Scenario, load: f64, policy: &str, group: &[Figures], base: &[Figures]) -> Row {
    let over = |pick: &dyn Fn(&Figures) -> f64| mean(group.iter().map(pick));
    let ratio = |pick: &dyn Fn(&Figures) -> f64| {
        let values = |group: &[Figures]| group.iter().map(pick).collect::<Vec<f64>>();
        Ratio::paired(&values(group), &values(base))
    };
    let requests: u64 = group.iter().map(|figures| figures.requests).sum();
    let errors: u64 = group.iter().map(|figures| figures.errors).sum();
    Row {
        load,
        policy: policy.to_owned(),
        mean_s: over(&|figures| figures.mean_s),
        p50_s: over(&|figures| figures.quantiles_s[0]),
        p90_s: over(&|figures| figures.quantiles_s[1]),
        p99_s: over(&|figures| figures.quantiles_s[2]),
        p999_s: over(&|figures| figures.quantiles_s[3]),
        ttfb_mean_s: over(&|figures| figures.ttfb_mean_s),
        ttfb_p99_s: over(&|figures| figures.ttfb_p99_s),
        requests,
        errors,
        error_share: if requests == 0 { 0.0 } else { errors as f64 / requests as f64 },
        mean_ratio: ratio(&|figures| figures.mean_s),
        p99_ratio: ratio(&|figures| figures.quantiles_s[2]),
        promised: group.iter().all(|figures| figures.promised_s.is_some()).then(|| {
            let promised = |figures: &Figures| figures.promised_s.unwrap_or(f64::NAN);
            Promised { value_s: over(&promised), ratio: ratio(&promised) }
        }),
        incidents: incident_rows(scenario, group),
    }
}

fn incident_rows(scenario: &Scenario, group: &[Figures]) -> Vec<IncidentRow> {
    let rows = scenario.incidents.iter().enumerate().map(|(at, incident)| {
        let seen = || group.iter().filter_map(move |figures| figures.incidents.get(at));
        let count = seen().count().max(1) as f64;
        let average = |pick: &dyn Fn(&Around) -> f64| seen().map(pick).sum::<f64>() / count;
        let node = &scenario.nodes[incident.node];
        IncidentRow {
            at_s: incident.at.as_secs_f64(),
            node: node.node.name.clone(),
            fair_share: fair_share(scenario, at),
            shares: (0..WINDOWS.len()).map(|window| average(&|around| around.shares[window])).collect(),
            in_flight: average(&|around| around.in_flight as f64),
            errors: average(&|around| around.errors as f64),
        }
    });
    rows.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(threads: usize) -> Plan {
        let text = "about = 'x'\nfleet = 'plain'\nloads = [0.5]\nseconds = 6\n\
            [[event]]\nat_s = 3\nnode = 'speed4-1'\naction = 'fail'\nshare = 1";
        let policies = ["least-connections", "round-robin", "c3"].map(str::to_owned).to_vec();
        let scenario = Scenario::parse("test", text).expect("sound");
        Plan { scenario, loads: vec![0.3, 0.6], policies, seeds: vec![1, 2], threads, promise: None }
    }

    #[test]
    fn the_same_seeds_give_the_same_bytes_on_any_number_of_threads() {
        let json = |threads| {
            let report = execute(&plan(threads), &|_, _| ()).expect("known policies");
            serde_json::to_string(&report).expect("serializable")
        };
        let one = json(1);
        assert_eq!(one, json(3));
        assert!(one.contains("\"policy\":\"c3\""));
    }

    #[test]
    fn the_first_policy_is_compared_with_itself_and_errors_are_seen() {
        let report = execute(&plan(2), &|_, _| ()).expect("known policies");
        assert_eq!(report.rows.len(), 6);
        for row in report.rows.iter().filter(|row| row.policy == "least-connections") {
            assert_eq!(row.mean_ratio.expect("sound").value, 1.0);
            assert!(row.error_share > 0.05, "a failing node attracts least connections: {}", row.error_share);
            assert!(row.incidents[0].shares[0] < row.incidents[0].shares[2], "{row:?}");
        }
    }

    #[test]
    fn an_unknown_policy_is_refused_before_anything_runs() {
        let wrong = Plan { policies: vec!["least-connections".into(), "nobody".into()], ..plan(1) };
        let error = execute(&wrong, &|_, _| unreachable!("nothing runs")).expect_err("refused");
        assert!(error.to_string().contains("round-robin"), "{error}");
    }
}
