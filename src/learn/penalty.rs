//! What failures do to a node: they never touch its predicted time, they multiply its score.
//!
//! A node that answers errors at once would look like the fastest of all. Each failed attempt adds 3 to a penalty (at
//! most 1,000), each success halves it, and it decays with 5 s so that the node is tried again. Value and time share
//! one atomic word: outcomes arrive from all cores, and none may be lost to a race with the decay.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::clock::Time;

/// Time constant in seconds.
const TAU_S: f64 = 5.0;

/// What a failure adds.
const PER_FAILURE: f64 = 3.0;

/// The most.
pub const PENALTY_MAX: f64 = 1000.0;

/// Below this it is nothing.
const NEGLIGIBLE: f64 = 1e-3;

/// Time is kept in units of 2^14 microseconds (16 ms) modulo 2^32 (2 years).
const TICK_BITS: u32 = 14;

/// The penalty of one node. Zero at first.
#[derive(Debug, Default)]
pub struct Penalty(AtomicU64);

fn ticks(now: Time) -> u32 {
    (now.as_micros() >> TICK_BITS) as u32
}

#[inline]
fn value_at(word: u64, now: Time) -> f64 {
    let value = f64::from(f32::from_bits((word >> 32) as u32));
    if value == 0.0 {
        return 0.0;
    }
    // A clock that steps back a little must not look like one that went round.
    let age = ticks(now).wrapping_sub(word as u32) as i32;
    let seconds = f64::from(age.max(0)) * f64::from(1u32 << TICK_BITS) / 1e6;
    let value = value * (-seconds / TAU_S).exp();
    if value < NEGLIGIBLE { 0.0 } else { value }
}

impl Penalty {
    /// The penalty at `now`: the score is multiplied by one more than this.
    #[inline]
    pub fn at(&self, now: Time) -> f64 {
        value_at(self.0.load(Ordering::Relaxed), now)
    }

    /// The node failed an attempt.
    pub fn failed(&self, now: Time) {
        self.change(now, |value| (value + PER_FAILURE).min(PENALTY_MAX));
    }

    /// The node did its job.
    pub fn succeeded(&self, now: Time) {
        if self.0.load(Ordering::Relaxed) != 0 {
            self.change(now, |value| value / 2.0);
        }
    }

    /// Back to nothing.
    pub fn reset(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    fn change(&self, now: Time, to: impl Fn(f64) -> f64) {
        let next = |word| {
            let value = to(value_at(word, now)) as f32;
            let kept = if f64::from(value) < NEGLIGIBLE { 0 } else { u64::from(value.to_bits()) };
            Some(if kept == 0 { 0 } else { kept << 32 | u64::from(ticks(now)) })
        };
        // The closure never declines.
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: f64) -> Time {
        Time::from_secs_f64(seconds)
    }

    #[test]
    fn it_rises_with_failures_halves_with_successes_and_fades() {
        let penalty = Penalty::default();
        penalty.succeeded(at(0.0));
        assert_eq!(penalty.at(at(0.0)), 0.0);
        penalty.failed(at(1.0));
        penalty.failed(at(1.0));
        assert_eq!(penalty.at(at(1.0)), 6.0);
        penalty.succeeded(at(1.0));
        assert_eq!(penalty.at(at(1.0)), 3.0);
        assert!((penalty.at(at(6.0)) - 3.0 * (-1.0f64).exp()).abs() < 0.02);
        assert_eq!(penalty.at(at(600.0)), 0.0);
    }

    #[test]
    fn it_is_bounded_and_survives_a_clock_that_steps_back() {
        let penalty = Penalty::default();
        for _ in 0..100_000 {
            penalty.failed(at(100.0));
        }
        assert_eq!(penalty.at(at(100.0)), PENALTY_MAX);
        assert_eq!(penalty.at(at(1.0)), PENALTY_MAX);
        penalty.failed(at(1.0));
        assert!(penalty.at(at(61.0)) < 0.02, "{}", penalty.at(at(61.0)));
    }
}
