//! What a comparison needs of a run, and many runs at a time.
//!
//! A run leaves hundreds of thousands of response times behind; a suite of hundreds of runs keeps these few figures of
//! each. Runs are taken from one list by as many threads as there may be, and each has its place in the result, so that
//! what comes out depends neither on the threads nor on who was first.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;

use crate::balancer::Observer;
use crate::clock::Time;
use crate::sim::driver::run_with;
use crate::sim::result::RunResult;
use crate::sim::roster::{self, RosterError, Setup};
use crate::sim::scenario::{Action, Scenario};

/// Seconds from and to, relative to an incident.
pub const WINDOWS: [(f64, f64); 7] =
    [(-30.0, 0.0), (0.0, 1.0), (1.0, 3.0), (3.0, 5.0), (5.0, 10.0), (10.0, 20.0), (20.0, 60.0)];

/// Seconds over which a share is taken when its rise is followed: at 25 requests a second, good to a few percent.
const RISE_WINDOW_S: u32 = 3;

/// How long a rise is followed, in seconds.
const RISE_MAX_S: u32 = 120;

/// A figure of response times that users may be promised.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Promise {
    /// Of first bytes in place of whole answers.
    pub first_byte: bool,
    /// The share of requests that are no slower, 0 to 1; nothing for the mean.
    pub share: Option<f64>,
}

impl Promise {
    /// What it was in a run, in seconds.
    pub fn of(self, result: &mut RunResult) -> f64 {
        let digest = if self.first_byte { &mut result.ttfb_s } else { &mut result.total_s };
        match self.share {
            None => digest.mean(),
            Some(share) => digest.quantile(share),
        }
    }
}

/// One run that is wanted.
#[derive(Clone, Debug)]
pub struct Job {
    /// Where.
    pub scenario: Arc<Scenario>,
    /// At which load.
    pub load: f64,
    /// Who.
    pub policy: String,
    /// Under which seed.
    pub seed: u64,
    /// A figure to take beside the usual ones.
    pub promise: Option<Promise>,
}

/// The figures of one run. Times in seconds.
#[derive(Clone, Debug)]
pub struct Figures {
    /// Mean response time.
    pub mean_s: f64,
    /// 50th, 90th, 99th and 99.9th percentile.
    pub quantiles_s: [f64; 4],
    /// Mean time to the first byte.
    pub ttfb_mean_s: f64,
    /// Its 99th percentile.
    pub ttfb_p99_s: f64,
    /// What was promised, where something was.
    pub promised_s: Option<f64>,
    /// Requests that were counted.
    pub requests: u64,
    /// Those without an answer.
    pub errors: u64,
    /// In the order of the scenario; those that the run did not reach are missing.
    pub incidents: Vec<Around>,
}

/// What was around one incident of one run.
#[derive(Clone, Debug)]
pub struct Around {
    /// The node's share of attempts in each of [`WINDOWS`].
    pub shares: Vec<f64>,
    /// Its fair share from then on: what it can do over what all can do.
    pub fair_share: f64,
    /// Requests in flight there at that moment.
    pub in_flight: u64,
    /// Requests that ended there without an answer until the node's next incident.
    pub errors: u64,
    /// Whole seconds until the node's share over the last three reached the fair one; infinite if it did not in two
    /// minutes.
    pub reached_s: f64,
}

impl Figures {
    /// Of a run of `scenario`.
    pub fn of(mut result: RunResult, scenario: &Scenario, promise: Option<Promise>) -> Figures {
        let incidents = (0..result.incidents.len()).map(|at| Around::of(&result, scenario, at)).collect();
        Figures {
            mean_s: result.total_s.mean(),
            quantiles_s: [0.5, 0.9, 0.99, 0.999].map(|q| result.total_s.quantile(q)),
            ttfb_mean_s: result.ttfb_s.mean(),
            ttfb_p99_s: result.ttfb_s.quantile(0.99),
            promised_s: promise.map(|promise| promise.of(&mut result)),
            requests: result.offered,
            errors: result.errors(),
            incidents,
        }
    }

    /// Requests without an answer as a share of all; 0 if there were none.
    pub fn error_share(&self) -> f64 {
        if self.requests == 0 { 0.0 } else { self.errors as f64 / self.requests as f64 }
    }
}

impl Around {
    fn of(result: &RunResult, scenario: &Scenario, at: usize) -> Around {
        let (incident, seen) = (&scenario.incidents[at], &result.incidents[at]);
        let from_s = incident.at.as_secs_f64();
        let share = |from: f64, to: f64| {
            result.share_of(incident.node, Time::from_secs_f64(from_s + from), Time::from_secs_f64(from_s + to))
        };
        let fair_share = fair_share(scenario, at);
        let reached = (RISE_WINDOW_S..=RISE_MAX_S)
            .find(|to| share(f64::from(to - RISE_WINDOW_S), f64::from(*to)) >= fair_share)
            .map_or(f64::INFINITY, f64::from);
        Around {
            shares: WINDOWS.iter().map(|(from, to)| share(*from, *to)).collect(),
            fair_share,
            in_flight: seen.in_flight,
            errors: seen.errors,
            reached_s: reached,
        }
    }
}

/// What became of a node by a time.
#[derive(Clone, Copy)]
struct Fate {
    speed: f64,
    /// The share of requests that it answers.
    answers: f64,
    works: bool,
    joined: bool,
}

impl Fate {
    fn of(node: usize, scenario: &Scenario, by: Time) -> Fate {
        let begins = Fate { speed: 1.0, answers: 1.0, works: true, joined: !scenario.nodes[node].joins_later };
        let own = scenario.incidents.iter().filter(|incident| incident.node == node && incident.at <= by);
        own.fold(begins, |fate, incident| match incident.action {
            Action::Speed(speed) => Fate { speed, ..fate },
            Action::Fail(share) => Fate { answers: 1.0 - share, ..fate },
            Action::Hang | Action::Crash => Fate { works: false, ..fate },
            Action::Recover => Fate { joined: fate.joined, ..begins },
            Action::Join => Fate { joined: true, ..fate },
            Action::Leave => Fate { joined: false, ..fate },
        })
    }

    fn capacity_rps(self, whole_rps: f64) -> f64 {
        if self.works && self.joined { whole_rps * self.speed * self.answers } else { 0.0 }
    }
}

/// What the node of an incident can do after it, over what all nodes of the scenario can do then, whatever happened to
/// them before; 0 where none can do anything.
pub fn fair_share(scenario: &Scenario, incident: usize) -> f64 {
    let incident = &scenario.incidents[incident];
    let able = |node: usize| Fate::of(node, scenario, incident.at).capacity_rps(scenario.nodes[node].capacity_rps);
    let all: f64 = (0..scenario.nodes.len()).map(able).sum();
    if all > 0.0 { able(incident.node) / all } else { 0.0 }
}

/// Runs `jobs` on that many threads; `progress` hears after each how many of how many are done.
///
/// # Errors
/// A policy is unknown or cannot compete where it should; nothing is run then.
pub fn run_all(
    jobs: &[Job],
    threads: usize,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<Vec<Figures>, RosterError> {
    run_all_watched(jobs, threads, progress, &|_| Vec::new())
}

/// The same, with observers for each run that hear of every attempt.
///
/// # Errors
/// As [`run_all`].
pub fn run_all_watched(
    jobs: &[Job],
    threads: usize,
    progress: &(dyn Fn(usize, usize) + Sync),
    watch: &(dyn Fn(&Job) -> Vec<Arc<dyn Observer>> + Sync),
) -> Result<Vec<Figures>, RosterError> {
    jobs.iter().try_for_each(|job| roster::check(&job.policy, &job.scenario))?;
    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let results: Vec<Mutex<Option<Result<Figures, RosterError>>>> = jobs.iter().map(|_| Mutex::new(None)).collect();
    let work = || {
        while let Some((at, job)) =
            Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|at| jobs.get(at).map(|job| (at, job)))
        {
            let observed = |setup: &Setup<'_>| roster::make_observed(&job.policy, setup, watch(job));
            let result = run_with(&job.scenario, job.load, job.seed, observed);
            let figures = result.map(|result| Figures::of(result, &job.scenario, job.promise));
            *results[at].lock().unwrap_or_else(PoisonError::into_inner) = Some(figures);
            progress(done.fetch_add(1, Ordering::Relaxed) + 1, jobs.len());
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads.max(1) {
            scope.spawn(work);
        }
        work();
    });
    let figures = results.into_iter().filter_map(|slot| slot.into_inner().unwrap_or_else(PoisonError::into_inner));
    figures.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fair_share_is_what_a_node_can_do_after_what_happened_to_it() {
        let event = |action: &str| format!("[[event]]\nat_s = 1\nnode = 'a-1'\naction = {action}\n");
        let text = "about = 'x'\nloads = [0.5]\nseconds = 9\n[[node]]\nname = 'a'\ncount = 4\nworkers = 4\nspeed = 1\n";
        let share = |action: &str| {
            let scenario = Scenario::parse("test", &format!("{text}{}", event(action))).expect("sound");
            fair_share(&scenario, 0)
        };
        assert!((share("'recover'") - 0.25).abs() < 1e-12);
        assert!((share("'speed'\nspeed = 0.5") - 0.5 / 3.5).abs() < 1e-12);
        assert_eq!(share("'hang'"), 0.0);
    }

    #[test]
    fn what_happened_to_the_others_before_counts_in_a_fair_share() {
        let text = "about = 'x'\nloads = [0.5]\nseconds = 9\n[[node]]\nname = 'a'\ncount = 4\nworkers = 4\nspeed = 1\n";
        let events = [(1, 2, "'crash'"), (2, 3, "'speed'\nspeed = 0.5"), (3, 1, "'recover'"), (4, 2, "'recover'")];
        let events =
            events.map(|(at, node, action)| format!("[[event]]\nat_s = {at}\nnode = 'a-{node}'\naction = {action}\n"));
        let joins = "[[event]]\nat_s = 5\nnode = 'a-4'\naction = 'join'\n";
        let scenario = Scenario::parse("test", &format!("{text}{}{joins}", events.concat())).expect("sound");
        // One of three; half of one and a half; one of one and a half; one of two and a half; one of three and a half.
        let wanted = [0.0, 0.5 / 1.5, 1.0 / 1.5, 1.0 / 2.5, 1.0 / 3.5];
        for (at, wanted) in wanted.into_iter().enumerate() {
            assert!((fair_share(&scenario, at) - wanted).abs() < 1e-12, "{at}: {}", fair_share(&scenario, at));
        }
    }

    #[test]
    fn the_rise_of_a_node_that_joins_is_followed() {
        let join = "[[event]]\nat_s = 4\nnode = 'speed1-1'\naction = 'join'";
        let text = format!("about = 'x'\nfleet = 'plain-equal'\nloads = [0.6]\nseconds = 12\n{join}");
        let scenario = Arc::new(Scenario::parse("test", &text).expect("sound"));
        let job = |policy: &str| {
            let (scenario, policy) = (Arc::clone(&scenario), policy.to_owned());
            Job { scenario, load: 0.6, policy, seed: 1, promise: None }
        };
        let figures = run_all(&[job("round-robin")], 1, &|_, _| ()).expect("known");
        let around = &figures[0].incidents[0];
        assert_eq!((around.shares[0], around.reached_s), (0.0, 3.0), "{around:?}");
        assert!((around.shares[3] - 0.125).abs() < 0.01, "{around:?}");
    }
}
