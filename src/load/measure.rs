//! What a load generator measures, and its summary.
//!
//! Every request is kept (56 bytes each, as many as the load allows), so quantiles are exact: a histogram would save
//! memory that a bounded run does not need. Requests that did not finish count with the time they had waited so far:
//! leaving them out would make a server that never answers look fast.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::Notify;

/// Nodes told apart; answers of further ones count as of no known node.
const NODES_MAX: usize = 4_096;

/// How a request ended for its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// With a whole answer.
    Answered,
    /// With another status than 2xx.
    Status(u16),
    /// Without an answer, or with one that is cut, or that lacks events.
    Broken,
    /// It was given up when the load ended.
    Unfinished,
    /// It was never sent: too many were in flight.
    NotSent,
}

/// One request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured {
    /// When it was to be sent, after the start of the load.
    pub at: Duration,
    /// Index into [`Recorder::nodes`].
    pub node: Option<u16>,
    /// How late it was sent, in seconds: what the generator itself adds to the times below.
    pub late_s: f64,
    /// From `at` to the first byte of the body, in seconds; NaN without one.
    pub ttfb_s: f64,
    /// From `at` to the end, in seconds; NaN if it was not sent.
    pub total_s: f64,
    /// How it ended.
    pub ending: Ending,
}

impl Measured {
    pub(super) fn not_sent(at: Duration, late_s: f64) -> Measured {
        Measured { at, node: None, late_s, ttfb_s: f64::NAN, total_s: f64::NAN, ending: Ending::NotSent }
    }
}

/// Collects measurements while a load runs.
#[derive(Debug, Default)]
pub struct Recorder {
    inner: Mutex<Recorded>,
    added: Notify,
}

#[derive(Debug, Default)]
struct Recorded {
    measured: Vec<Measured>,
    nodes: Vec<String>,
    index: HashMap<String, u16>,
}

impl Recorder {
    fn inner(&self) -> MutexGuard<'_, Recorded> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, node: Option<&str>, mut measured: Measured) {
        let mut inner = self.inner();
        measured.node = node.and_then(|name| inner.node_index(name));
        inner.measured.push(measured);
        drop(inner);
        self.added.notify_waiters();
    }

    /// Everything from the `index`-th measurement on, in the order of endings.
    pub fn since(&self, index: usize) -> Vec<Measured> {
        self.inner().measured.get(index..).unwrap_or_default().to_vec()
    }

    /// Names of the nodes that answered, in the order of their first answer.
    pub fn nodes(&self) -> Vec<String> {
        self.inner().nodes.clone()
    }

    /// Returns when there are so many measurements.
    pub async fn wait_until(&self, count: usize) {
        loop {
            let added = self.added.notified();
            if self.inner().measured.len() >= count {
                return;
            }
            added.await;
        }
    }
}

impl Recorded {
    fn node_index(&mut self, name: &str) -> Option<u16> {
        if let Some(index) = self.index.get(name) {
            return Some(*index);
        }
        let index = u16::try_from(self.nodes.len()).ok().filter(|index| usize::from(*index) < NODES_MAX)?;
        self.nodes.push(name.to_owned());
        self.index.insert(name.to_owned(), index);
        Some(index)
    }
}

/// A load in a few numbers. Times in seconds, NaN where nothing was measured.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Requests that were to be sent.
    pub requests: usize,
    /// Of those, answered whole.
    pub answered: usize,
    /// Another status than 2xx, or a broken answer.
    pub errors: usize,
    /// Given up at the end; they count in the times below with the time that they had waited.
    pub unfinished: usize,
    /// Not sent because too many were in flight; in no time below.
    pub not_sent: usize,
    /// Quantiles up to this are exact, greater ones are lower bounds: it is the shortest time that an unfinished request
    /// had waited (infinite without one), or 0 where requests were not sent.
    pub exact_to_s: f64,
    /// Mean response time of answered and unfinished requests.
    pub mean_s: f64,
    /// Median of it.
    pub p50_s: f64,
    /// 90 % are no longer.
    pub p90_s: f64,
    /// 99 % are no longer.
    pub p99_s: f64,
    /// Median time to the first byte.
    pub ttfb_p50_s: f64,
    /// 99 % of first bytes come no later.
    pub ttfb_p99_s: f64,
    /// 99 % of requests were sent no later than this after they should have been: beyond some milliseconds, the machine
    /// was too slow for this load, and the times above are partly its own.
    pub late_p99_s: f64,
}

impl Summary {
    /// Sums up the requests that were to be sent at `from` or later: a run's start measures an empty fleet.
    pub fn of(measured: &[Measured], from: Duration) -> Summary {
        let counted = || measured.iter().filter(|one| one.at >= from);
        let count = |is: fn(&Ending) -> bool| counted().filter(|one| is(&one.ending)).count();
        let waited = || counted().filter(|one| matches!(one.ending, Ending::Answered | Ending::Unfinished));
        let totals = sorted(waited().map(|one| one.total_s));
        // Who has no first byte yet has waited at least so long for it.
        let ttfbs = sorted(waited().map(|one| if one.ttfb_s.is_nan() { one.total_s } else { one.ttfb_s }));
        let not_sent = count(|ending| *ending == Ending::NotSent);
        let unfinished = counted().filter(|one| one.ending == Ending::Unfinished);
        let shortest_unfinished_s = unfinished.map(|one| one.total_s).fold(f64::INFINITY, f64::min);
        Summary {
            requests: counted().count(),
            answered: count(|ending| *ending == Ending::Answered),
            errors: count(|ending| matches!(ending, Ending::Status(_) | Ending::Broken)),
            unfinished: count(|ending| *ending == Ending::Unfinished),
            not_sent,
            exact_to_s: if not_sent > 0 { 0.0 } else { shortest_unfinished_s },
            mean_s: if totals.is_empty() { f64::NAN } else { totals.iter().sum::<f64>() / totals.len() as f64 },
            p50_s: quantile(&totals, 0.5),
            p90_s: quantile(&totals, 0.9),
            p99_s: quantile(&totals, 0.99),
            ttfb_p50_s: quantile(&ttfbs, 0.5),
            ttfb_p99_s: quantile(&ttfbs, 0.99),
            late_p99_s: quantile(&sorted(counted().map(|one| one.late_s)), 0.99),
        }
    }

    /// Whether the mean is a lower bound: somebody still waited at the end, or was never let in.
    pub fn is_lower_bound(&self) -> bool {
        self.unfinished > 0 || self.not_sent > 0
    }
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

/// The smallest of the sorted values that at least a share `q` of them does not exceed; NaN for none.
pub fn quantile(sorted: &[f64], q: f64) -> f64 {
    let rank = (q * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(second: u64, total_s: f64, ending: Ending) -> Measured {
        Measured { at: Duration::from_secs(second), node: None, late_s: 0.0, ttfb_s: total_s / 10.0, total_s, ending }
    }

    #[test]
    fn quantiles_are_values_that_were_measured() {
        let values: Vec<f64> = (1..=200).map(f64::from).collect();
        assert_eq!((quantile(&values, 0.5), quantile(&values, 0.99), quantile(&values, 1.0)), (100.0, 198.0, 200.0));
        assert_eq!(quantile(&[7.0], 0.01), 7.0);
        assert!(quantile(&[], 0.5).is_nan());
    }

    #[test]
    fn unfinished_requests_count_with_what_they_waited_and_failed_ones_do_not() {
        let all = [
            measured(0, 50.0, Ending::Answered),
            measured(5, 1.0, Ending::Answered),
            measured(6, 3.0, Ending::Answered),
            Measured { ttfb_s: f64::NAN, ..measured(7, 8.0, Ending::Unfinished) },
            measured(8, 0.001, Ending::Status(500)),
            measured(8, 0.001, Ending::Broken),
            Measured::not_sent(Duration::from_secs(9), 0.002),
        ];
        let summary = Summary::of(&all, Duration::from_secs(5));
        assert_eq!((summary.requests, summary.answered, summary.errors), (6, 2, 2));
        assert_eq!((summary.unfinished, summary.not_sent, summary.is_lower_bound()), (1, 1, true));
        assert_eq!((summary.late_p99_s, summary.exact_to_s), (0.002, 0.0));
        assert_eq!((summary.mean_s, summary.p50_s, summary.p99_s, summary.ttfb_p99_s), (4.0, 3.0, 8.0, 8.0));
    }

    #[test]
    fn quantiles_say_how_far_they_are_exact_and_nothing_is_not_fast() {
        let kept_up = [measured(5, 1.0, Ending::Answered), measured(6, 2.0, Ending::Unfinished)];
        let summary = Summary::of(&kept_up, Duration::ZERO);
        assert_eq!((summary.exact_to_s, summary.is_lower_bound()), (2.0, true));
        assert_eq!(Summary::of(&kept_up[..1], Duration::ZERO).exact_to_s, f64::INFINITY);
        let nothing = Summary::of(&[], Duration::ZERO);
        assert!(nothing.mean_s.is_nan() && nothing.p99_s.is_nan() && nothing.requests == 0);
    }
}
