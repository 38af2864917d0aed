//! Plain servers from their ends: how many workers a node has, how fast they are, and what each request costs.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::fit::{Fitted, FittedFleet, MeanRequest};
use super::history::{Attempt, History};
use crate::sim::{PlainSpec, ServerSpec};

/// Workers that are tried at most.
const WORKERS_MAX: usize = 1_024;

/// Share of the attempts that would have queued that a number of workers may fail to explain: clocks and connections
/// take their part. With too few workers it is a tenth and more.
const UNEXPLAINED_MAX: f64 = 0.02;

/// What an end may be too early by and still count as explained, in seconds: the time on the wire.
const SLACK_S: f64 = 0.002;

/// Attempts that must have queued before the number of workers counts as seen.
const QUEUED_MIN: usize = 20;

/// Rounds of the fit of kinds and nodes; it settles within a few.
const ROUNDS: usize = 10;

/// The least service time that is believed.
const SERVICE_MIN_S: f64 = 1e-6;

/// When each attempt of a node began to be served by `workers`, and how many cannot have been.
struct Served {
    seconds: Vec<f64>,
    unexplained: usize,
    queued: usize,
}

fn served(attempts: &[&Attempt], workers: usize) -> Served {
    let mut busy: BinaryHeap<Reverse<u64>> = BinaryHeap::new();
    let micros = |seconds: f64| (seconds * 1e6).round().max(0.0) as u64;
    let mut result = Served { seconds: Vec::with_capacity(attempts.len()), unexplained: 0, queued: 0 };
    for attempt in attempts {
        let (start, end) = (micros(attempt.start_s), micros(attempt.end_s()));
        let mut begin = start;
        while busy.peek().is_some_and(|Reverse(end)| *end <= start) {
            busy.pop();
        }
        if busy.len() >= workers
            && let Some(Reverse(free)) = busy.pop()
        {
            begin = free.max(start);
            result.queued += 1;
        }
        let seconds = (end as f64 - begin as f64) / 1e6;
        result.unexplained += usize::from(seconds < -SLACK_S);
        result.seconds.push(seconds.max(SERVICE_MIN_S));
        busy.push(Reverse(end));
    }
    result
}

/// The least number of workers that explains the ends, by bisection: more workers never explain less.
fn workers_of(attempts: &[&Attempt], at_once: usize) -> usize {
    let explains = |workers: usize| {
        let served = served(attempts, workers);
        served.unexplained as f64 <= UNEXPLAINED_MAX * served.queued as f64
    };
    let (mut low, mut high) = (1, at_once.clamp(1, WORKERS_MAX));
    while low < high {
        let middle = low + (high - low) / 2;
        if explains(middle) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    low
}

/// The most attempts that a node had at the same time.
fn at_once(attempts: &[&Attempt]) -> usize {
    let mut ends: BinaryHeap<Reverse<u64>> = BinaryHeap::new();
    let mut most = 0;
    for attempt in attempts {
        let start = (attempt.start_s * 1e6) as u64;
        while ends.peek().is_some_and(|Reverse(end)| *end <= start) {
            ends.pop();
        }
        ends.push(Reverse((attempt.end_s() * 1e6) as u64));
        most = most.max(ends.len());
    }
    most
}

pub(super) fn fleet(history: &History) -> FittedFleet {
    let mut work_s = vec![f64::NAN; history.attempts.len()];
    let mut nodes = Vec::new();
    for node in 0..history.nodes.len() as u32 {
        let own: Vec<(usize, &Attempt)> =
            history.attempts.iter().enumerate().filter(|(_, attempt)| attempt.node == node).collect();
        let attempts: Vec<&Attempt> = own.iter().map(|(_, attempt)| *attempt).collect();
        let at_once = at_once(&attempts);
        let workers = workers_of(&attempts, at_once);
        let served = served(&attempts, workers);
        for ((at, attempt), seconds) in own.iter().zip(&served.seconds) {
            if attempt.completed {
                work_s[*at] = *seconds;
            }
        }
        nodes.push((workers, at_once, served.queued >= QUEUED_MIN && at_once > workers, attempts.len()));
    }
    let speeds = speeds(history, &work_s);
    for (work_s, attempt) in work_s.iter_mut().zip(&history.attempts) {
        *work_s *= speeds[attempt.node as usize];
    }
    let known: Vec<f64> = work_s.iter().copied().filter(|work| work.is_finite()).collect();
    let mean = MeanRequest { work_s: known.iter().sum::<f64>() / known.len().max(1) as f64, ..MeanRequest::default() };
    let nodes = nodes.into_iter().zip(speeds).map(|((workers, at_once, limit_seen, attempts), speed)| Fitted {
        server: ServerSpec::Plain(PlainSpec { workers: workers as u32, speed }),
        attempts,
        limit_seen,
        at_once: at_once as u32,
        borrowed: attempts == 0,
    });
    FittedFleet { nodes: nodes.collect(), work_s, mean }
}

/// How fast each node is: service time = work of the kind / speed of the node, fitted by turns. 1 is the mean.
fn speeds(history: &History, service_s: &[f64]) -> Vec<f64> {
    let mut speeds = vec![1.0; history.nodes.len()];
    let mut kinds = vec![1.0; history.kinds.len() + 1];
    let labels = || history.attempts.iter().zip(service_s).filter(|(_, seconds)| seconds.is_finite());
    for _ in 0..ROUNDS {
        let mut sums = vec![(0.0, 0.0); kinds.len()];
        for (attempt, seconds) in labels() {
            let sum = &mut sums[usize::from(attempt.kind)];
            *sum = (sum.0 + seconds * speeds[attempt.node as usize], sum.1 + 1.0);
        }
        for (kind, (work, count)) in kinds.iter_mut().zip(sums) {
            *kind = if count > 0.0 { work / count } else { *kind };
        }
        let mut sums = vec![(0.0, 0.0); speeds.len()];
        for (attempt, seconds) in labels() {
            let sum = &mut sums[attempt.node as usize];
            *sum = (sum.0 + kinds[usize::from(attempt.kind)], sum.1 + seconds);
        }
        for (speed, (expected, took)) in speeds.iter_mut().zip(sums) {
            *speed = if took > 0.0 { expected / took } else { 1.0 };
        }
        let mean = speeds.iter().sum::<f64>() / speeds.len().max(1) as f64;
        speeds.iter_mut().for_each(|speed| *speed /= mean);
    }
    speeds
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::advise::tests_support::attempt;

    /// Attempts at a server of `workers`, with exponential gaps and services of a second on average.
    fn queue(workers: usize, per_s: f64) -> Vec<Attempt> {
        let mut rng = fastrand::Rng::with_seed(2);
        let mut free = vec![0.0_f64; workers];
        let mut now_s = 0.0;
        let mut one = || {
            now_s -= (1.0 - rng.f64()).ln() / per_s;
            let next = (0..workers).min_by(|a, b| free[*a].total_cmp(&free[*b])).expect("a worker");
            let service_s = 0.2 - 0.8 * (1.0 - rng.f64()).ln();
            free[next] = free[next].max(now_s) + service_s;
            attempt(now_s, 0.0, free[next] - now_s, 0)
        };
        (0..3_000).map(|_| one()).collect()
    }

    #[test]
    fn the_number_of_workers_is_read_off_the_ends_where_requests_queued() {
        for workers in [1, 3, 8] {
            let attempts = queue(workers, 0.9 * workers as f64);
            let attempts: Vec<&Attempt> = attempts.iter().collect();
            let most = at_once(&attempts);
            assert!(most > workers);
            assert_eq!(workers_of(&attempts, most), workers);
            let mean = served(&attempts, workers).seconds.iter().sum::<f64>() / attempts.len() as f64;
            assert!((mean - 1.0).abs() < 0.05, "{mean}");
        }
    }

    #[test]
    fn a_node_that_never_queued_has_as_many_workers_as_were_seen_and_no_limit() {
        let attempts = queue(50, 1.0);
        let refs: Vec<&Attempt> = attempts.iter().collect();
        let most = at_once(&refs);
        assert_eq!(served(&refs, most).queued, 0);
        assert!(workers_of(&refs, most) <= most && most < 10);
        let history = History {
            nodes: vec!["a".into()],
            kinds: vec!["k".into()],
            attempts: attempts.into_iter().map(|one| Attempt { output_tokens: 0, ..one }).collect(),
            ..History::default()
        };
        let fitted = fleet(&history);
        assert!(!fitted.nodes[0].limit_seen, "{:?}", fitted.nodes[0]);
    }
}
