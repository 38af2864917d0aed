//! How many requests a node may have in flight when nobody knows: found out from its own response times.
//!
//! A gradient controller in the form of Netflix's Gradient2 (concurrency-limits): with every answer the limit moves
//! toward `L * g + sqrt(L)`, where g falls below 1 once answers take longer than `tolerance` times what they should.
//! What they should take is better known here than there: the learned model says what *this* answer, with its length,
//! would have taken on the idle node, so the tolerance can be 2, which is where throughput over response time is largest
//! for a node whose response time grows in line with its load (Kleinrock's power). Until something is learned, the
//! node's own long average stands in, with Netflix's tolerance of 1.5. A node that says "full", and an answer that does
//! not come in time, take a tenth away.
//!
//! The limit is never raised by an answer that did not need it: a quiet hour must not end in a flood.

use std::sync::{Mutex, PoisonError};

use crate::fleet::Resettable;
use crate::node::{AUTO_LIMIT_START, IN_FLIGHT_MAX};

/// How much longer than on the idle node an answer may take: Kleinrock's power point.
const TOLERANCE_LEARNED: f64 = 2.0;
/// How much longer than on average; Netflix's.
const TOLERANCE_AVERAGE: f64 = 1.5;
/// The part of the way that one answer moves the limit; Netflix's.
const SMOOTHING: f64 = 0.2;
/// What is left after a refusal or a timeout; as in Netflix's AIMD.
const BACKOFF: f64 = 0.9;
/// Answers that the long average is of, and how many of them are averaged plainly first; Netflix's.
const LONG: f64 = 600.0;
/// From this part of the limit on it is being used.
const USED: f64 = 0.75;

/// What an attempt's end tells of the limit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Signal {
    /// An answer that took so many seconds.
    Answer {
        /// Whole response time.
        took_s: f64,
        /// What it would have taken on the idle node, where that is learned.
        idle_s: Option<f64>,
    },
    /// The node said that it is full, or was too late.
    Overload,
}

/// The controller of one node.
#[derive(Debug, Default)]
pub struct AutoLimit(Mutex<State>);

#[derive(Debug)]
struct State {
    limit: f64,
    long_s: f64,
    answers: f64,
}

impl Default for State {
    fn default() -> Self {
        State { limit: f64::from(AUTO_LIMIT_START), long_s: 0.0, answers: 0.0 }
    }
}

impl Resettable for AutoLimit {
    fn reset(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = State::default();
    }
}

impl AutoLimit {
    /// The limit from now on, after an attempt that saw `in_flight` at the node, itself included.
    pub fn observe(&self, signal: Signal, in_flight: u32) -> u32 {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let next = match signal {
            // Below what was there when it was too much, wherever the limit stands.
            Signal::Overload => state.limit.min(f64::from(in_flight.max(1))) * BACKOFF,
            Signal::Answer { took_s, idle_s } => {
                let gradient = state.gradient(took_s, idle_s);
                let wanted = state.limit * gradient + state.limit.sqrt();
                let next = state.limit + SMOOTHING * (wanted - state.limit);
                let used = f64::from(in_flight) >= USED * state.limit;
                if used { next } else { next.min(state.limit) }
            }
        };
        state.limit = next.clamp(1.0, f64::from(IN_FLIGHT_MAX));
        state.limit as u32
    }
}

impl State {
    fn gradient(&mut self, took_s: f64, idle_s: Option<f64>) -> f64 {
        if !took_s.is_finite() || took_s <= 0.0 {
            return 1.0;
        }
        self.answers = (self.answers + 1.0).min(LONG);
        self.long_s += (took_s - self.long_s) / self.answers;
        let gradient = match idle_s.filter(|idle_s| *idle_s > 0.0) {
            Some(idle_s) => TOLERANCE_LEARNED * idle_s / took_s,
            None => TOLERANCE_AVERAGE * self.long_s / took_s,
        };
        gradient.clamp(0.5, 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Where the limit settles if there is always more to do, on a node with that response time.
    fn settled(took_s: impl Fn(f64) -> f64) -> f64 {
        let auto = AutoLimit::default();
        let mut limit = AUTO_LIMIT_START;
        for _ in 0..2_000 {
            let signal = Signal::Answer { took_s: took_s(f64::from(limit)), idle_s: Some(took_s(1.0)) };
            limit = auto.observe(signal, limit);
        }
        f64::from(limit)
    }

    #[test]
    fn it_settles_near_the_best_throughput_over_response_time() {
        // A batching server: the best is a / b = 10, and the headroom that keeps it looking adds some.
        let batching = settled(|n| 1.0 + 0.1 * n);
        assert!((10.0..=26.0).contains(&batching), "{batching}");
        // Eight workers and a line before them: all are busy, and the line is short.
        let workers = settled(|n| (n / 8.0).max(1.0));
        assert!((8.0..=28.0).contains(&workers), "{workers}");
        // A node that does not slow down is not held back.
        assert!(settled(|_| 1.0) > 1_000.0);
    }

    #[test]
    fn refusals_of_the_node_shrink_it_below_what_was_too_much_but_never_to_nothing() {
        let auto = AutoLimit::default();
        assert_eq!(auto.observe(Signal::Overload, 10), 9);
        (0..100).for_each(|_| _ = auto.observe(Signal::Overload, 1));
        assert_eq!(auto.observe(Signal::Overload, 1), 1);
        let answer = Signal::Answer { took_s: 1.0, idle_s: Some(1.0) };
        (0..50).for_each(|_| _ = auto.observe(answer, 60));
        assert!(auto.observe(answer, 60) > 20, "and it recovers");
    }

    #[test]
    fn without_a_model_a_node_that_becomes_slow_is_given_less() {
        let auto = AutoLimit::default();
        let answer = |took_s| Signal::Answer { took_s, idle_s: None };
        let steady = (0..200).map(|_| auto.observe(answer(0.1), 16)).last();
        assert!(steady >= Some(AUTO_LIMIT_START));
        let before = auto.observe(answer(0.1), 1);
        let after = (0..20).map(|_| auto.observe(answer(1.0), before)).last();
        assert!(after.is_some_and(|after| after < before / 2), "{after:?} of {before}");
    }

    proptest! {
        #[test]
        fn it_is_never_raised_while_it_is_not_used_and_stays_in_range(
            signals in prop::collection::vec((any::<bool>(), prop::num::f64::ANY, prop::option::of(0.0..10.0f64), 0.0..1.5f64), 1..60),
        ) {
            let auto = AutoLimit::default();
            let mut limit = AUTO_LIMIT_START;
            for (overload, took_s, idle_s, part) in signals {
                let in_flight = (f64::from(limit) * part) as u32;
                let signal = if overload { Signal::Overload } else { Signal::Answer { took_s, idle_s } };
                let next = auto.observe(signal, in_flight);
                prop_assert!((1..=IN_FLIGHT_MAX).contains(&next));
                if f64::from(in_flight) < 0.7 * f64::from(limit) {
                    prop_assert!(next <= limit, "{limit} to {next} with {in_flight}");
                }
                limit = next;
            }
        }
    }
}
