//! What a run looked like from beside: per node and over time, for reports and for comparing with a recording.
//!
//! An observer of the balancer and not a part of the driver: it sees what a proxy in production could see, attempt by
//! attempt, and costs nothing where nobody looks. Its memory is bounded by the fleet and the number of bins.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::balancer::Observer;
use crate::clock::Time;
use crate::fleet::Node;
use crate::outcome::Sample;
use crate::sim::digest::Digest;
use crate::sim::scenario::Scenario;

/// Pieces that the time of a run is cut into.
pub const BINS: usize = 120;

/// Predictions that are kept, evenly over the run.
pub const PREDICTIONS_MAX: usize = 4_096;

/// One node of a run.
#[derive(Clone, Debug, Default)]
pub struct WatchedNode {
    /// Response times of its completed attempts.
    pub total_s: Digest,
    /// First bytes of the same.
    pub ttfb_s: Digest,
    /// Attempts that started in each bin.
    pub starts: Vec<u32>,
    /// Attempts in flight in each bin, on average.
    pub in_flight: Vec<f64>,
}

/// A run as it was seen.
#[derive(Clone, Debug, Default)]
pub struct Watched {
    /// In the order of the scenario.
    pub nodes: Vec<WatchedNode>,
    /// Response times of all completed attempts after the warm-up.
    pub total_s: Digest,
    /// Predicted and observed response times in seconds, of policies that predict; a part, if there were many.
    pub predictions: Vec<(f32, f32)>,
    /// Of how many those are.
    pub predicted: u64,
}

/// Looks at one run.
#[derive(Debug)]
pub struct Watch {
    names: Vec<String>,
    bin_s: f64,
    warm_up: Time,
    seen: Mutex<(Watched, u64)>,
}

impl Watch {
    /// A watch over a run of `scenario`.
    pub fn new(scenario: &Scenario) -> Watch {
        let node = WatchedNode { starts: vec![0; BINS], in_flight: vec![0.0; BINS], ..WatchedNode::default() };
        let seen = Watched { nodes: vec![node; scenario.nodes.len()], ..Watched::default() };
        Watch {
            names: scenario.nodes.iter().map(|node| node.node.name.clone()).collect(),
            bin_s: (scenario.length.as_secs_f64() / BINS as f64).max(1e-6),
            warm_up: scenario.warm_up,
            seen: Mutex::new((seen, 1)),
        }
    }

    /// Seconds of one bin.
    pub fn bin_s(&self) -> f64 {
        self.bin_s
    }

    /// What was seen so far.
    pub fn take(&self) -> Watched {
        std::mem::take(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner).0)
    }
}

impl Observer for Watch {
    fn finished(&self, node: &Node, sample: &Sample) {
        let Some(at) = self.names.iter().position(|name| *name == *node.spec.name) else { return };
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let (watched, every) = &mut *seen;
        let Some(of_node) = watched.nodes.get_mut(at) else { return };
        let (start_s, total_s) = (sample.started.as_secs_f64(), sample.total.as_secs_f64());
        spread(&mut of_node.in_flight, self.bin_s, start_s, start_s + total_s);
        if let Some(starts) = of_node.starts.get_mut((start_s / self.bin_s) as usize) {
            *starts += 1;
        }
        if sample.started < self.warm_up || !sample.outcome.is_latency_label() {
            return;
        }
        of_node.total_s.push(total_s as f32);
        of_node.ttfb_s.push(sample.ttfb.map_or(total_s, |ttfb: Duration| ttfb.as_secs_f64()) as f32);
        watched.total_s.push(total_s as f32);
        if sample.predicted_s.is_finite() {
            if watched.predicted.is_multiple_of(*every) {
                watched.predictions.push((sample.predicted_s as f32, total_s as f32));
            }
            watched.predicted += 1;
            if watched.predictions.len() >= PREDICTIONS_MAX {
                // Every second goes, and from now on half as many come.
                let mut keep = false;
                watched.predictions.retain(|_| {
                    keep = !keep;
                    keep
                });
                *every *= 2;
            }
        }
    }
}

/// Adds one attempt from `from_s` to `to_s` to the means of the bins.
fn spread(bins: &mut [f64], bin_s: f64, from_s: f64, to_s: f64) {
    let first = (from_s / bin_s) as usize;
    for (at, bin) in bins.iter_mut().enumerate().skip(first) {
        let (begin_s, end_s) = (at as f64 * bin_s, (at + 1) as f64 * bin_s);
        if begin_s >= to_s {
            break;
        }
        *bin += (to_s.min(end_s) - from_s.max(begin_s)).max(0.0) / bin_s;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::sim::driver::run_with;
    use crate::sim::roster;

    #[test]
    fn the_means_of_the_bins_are_those_of_the_intervals() {
        let mut bins = vec![0.0; 4];
        spread(&mut bins, 2.0, 1.0, 5.0);
        spread(&mut bins, 2.0, 7.0, 30.0);
        assert_eq!(bins, [0.5, 1.0, 0.5, 0.5]);
    }

    #[test]
    fn a_watch_sees_every_attempt_and_what_was_predicted() {
        let scenario = Scenario::named("plain-mixed").expect("shipped").expect("sound");
        let scenario = Scenario { warm_up: Time::ZERO, ..scenario.lasting(Duration::from_secs(60)) };
        let watch = Arc::new(Watch::new(&scenario));
        let observers = || vec![Arc::clone(&watch) as Arc<dyn Observer>];
        let mut result =
            run_with(&scenario, 0.4, 1, |setup| roster::make_observed("adaptive", setup, observers())).expect("known");
        let mut seen = watch.take();
        assert_eq!(seen.total_s.len(), result.total_s.len());
        assert!((seen.total_s.quantile(0.9) - result.total_s.quantile(0.9)).abs() < 1e-3);
        let started: u32 = seen.nodes.iter().flat_map(|node| &node.starts).sum();
        assert_eq!(started, result.starts.iter().flatten().sum::<u32>());
        assert!(seen.predicted > 1_000 && seen.predictions.len() <= PREDICTIONS_MAX);
        // Little's law: in flight = rate * mean response time.
        let in_flight = seen.nodes.iter().flat_map(|node| &node.in_flight).sum::<f64>() / BINS as f64;
        let expected = f64::from(started) / 60.0 * result.total_s.mean();
        assert!((in_flight / expected - 1.0).abs() < 0.1, "{in_flight} {expected}");
    }
}
