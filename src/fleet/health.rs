//! Whether a node may get work: the state machine that active checks, passive evidence and operators feed.
//!
//! Three questions that are easily mixed up are kept apart: is the node *up* (checks and connect errors decide), does
//! the operator want it to *serve* (drain and resume), and did it ask to be left alone for a while (`Full`). A node
//! starts as up, so that a proxy is useful in its first second; one failed check too many corrects that.
//!
//! Ejection by failure ratio and outliers does not live here yet, but this is its home.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::Time;
use crate::outcome::{Failure, Outcome};

/// How many checks in a row change a node's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// Failures in a row until an up node is down.
    pub unhealthy_after: u32,
    /// Successes in a row until a down node is up.
    pub healthy_after: u32,
}

impl Default for Thresholds {
    /// Three strikes, two to return: a lost check is common, a lost node is not, and a flapping node should prove
    /// itself twice.
    fn default() -> Self {
        Thresholds { unhealthy_after: 3, healthy_after: 2 }
    }
}

/// How long a node that says "full" is left alone when it does not say how long.
pub const FULL_DEFAULT: Duration = Duration::from_secs(1);

/// The longest that one `Retry-After` of a node is honoured: a typing error there must not lose the node for a day.
pub const FULL_MAX: Duration = Duration::from_secs(60);

/// What the outside calls a node's condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Gets work.
    Up,
    /// Failed its checks; gets none.
    Down,
    /// Finishes what it has; gets no new work until resumed.
    Draining,
    /// Said that it has no room; gets no new work for a while.
    Full,
}

impl State {
    /// The word for people and labels.
    pub fn word(self) -> &'static str {
        match self {
            State::Up => "up",
            State::Down => "down",
            State::Draining => "draining",
            State::Full => "full",
        }
    }
}

/// A change that somebody should hear of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The node is up again.
    Rose,
    /// The node is down.
    Fell,
}

const UP: u8 = 0;
const DOWN: u8 = 1;

/// The live condition of one node.
#[derive(Debug, Default)]
pub struct Health {
    state: AtomicU8,
    draining: AtomicBool,
    failures: AtomicU32,
    successes: AtomicU32,
    full_until: AtomicU64,
}

impl Health {
    /// The condition at `now`.
    pub fn state(&self, now: Time) -> State {
        if self.draining.load(Ordering::Relaxed) {
            State::Draining
        } else if self.state.load(Ordering::Relaxed) != UP {
            State::Down
        } else if self.full_until.load(Ordering::Relaxed) > now.as_micros() {
            State::Full
        } else {
            State::Up
        }
    }

    /// Whether checks and connect errors think that it lives, whatever the operator wants.
    pub fn is_up(&self) -> bool {
        self.state.load(Ordering::Relaxed) == UP
    }

    /// When a node that said "full" may be asked again.
    pub fn full_until(&self) -> Time {
        Time::from_micros(self.full_until.load(Ordering::Relaxed))
    }

    /// Takes it out of (or back into) service by an operator's wish.
    pub fn set_draining(&self, draining: bool) {
        self.draining.store(draining, Ordering::Relaxed);
    }

    /// Whether an operator drained it.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// An active check ended.
    pub fn checked(&self, passed: bool, thresholds: Thresholds) -> Option<Change> {
        if passed { self.good(thresholds) } else { self.bad(thresholds) }
    }

    /// Passive evidence from an attempt: connect errors count like failed checks, an answer clears them.
    ///
    /// An answer never raises a node that is down: that is for the active checks to say.
    pub fn observe(&self, outcome: &Outcome, now: Time, thresholds: Thresholds) -> Option<Change> {
        match outcome {
            Outcome::Failed(Failure::Connect) => self.bad(thresholds),
            Outcome::Completed { .. } => {
                if self.failures.load(Ordering::Relaxed) != 0 {
                    self.failures.store(0, Ordering::Relaxed);
                }
                None
            }
            Outcome::Full { retry_after, .. } => {
                let pause = retry_after.unwrap_or(FULL_DEFAULT).min(FULL_MAX);
                self.full_until.fetch_max(now.after(pause).as_micros(), Ordering::Relaxed);
                None
            }
            Outcome::Failed(_) | Outcome::Censored(_) => None,
        }
    }

    fn good(&self, thresholds: Thresholds) -> Option<Change> {
        self.failures.store(0, Ordering::Relaxed);
        let row = self.successes.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let rises = row >= thresholds.healthy_after && self.state.swap(UP, Ordering::Relaxed) != UP;
        rises.then_some(Change::Rose)
    }

    fn bad(&self, thresholds: Thresholds) -> Option<Change> {
        self.successes.store(0, Ordering::Relaxed);
        let row = self.failures.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let falls = row >= thresholds.unhealthy_after && self.state.swap(DOWN, Ordering::Relaxed) != DOWN;
        falls.then_some(Change::Fell)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: Thresholds = Thresholds { unhealthy_after: 2, healthy_after: 2 };

    #[test]
    fn thresholds_hold_both_ways() {
        let health = Health::default();
        assert_eq!(health.checked(false, TWO), None);
        assert_eq!(health.checked(true, TWO), None);
        assert_eq!(health.checked(false, TWO), None);
        assert!(health.is_up());
        assert_eq!(health.checked(false, TWO), Some(Change::Fell));
        assert_eq!(health.state(Time::ZERO), State::Down);
        assert_eq!(health.checked(false, TWO), None);
        assert_eq!(health.checked(true, TWO), None);
        assert_eq!(health.checked(true, TWO), Some(Change::Rose));
        assert_eq!(health.state(Time::ZERO), State::Up);
    }

    #[test]
    fn connect_errors_count_and_answers_clear_them_but_never_raise() {
        let health = Health::default();
        let refused = Outcome::Failed(Failure::Connect);
        let answered = Outcome::Completed { status: 200 };
        assert_eq!(health.observe(&refused, Time::ZERO, TWO), None);
        assert_eq!(health.observe(&answered, Time::ZERO, TWO), None);
        assert_eq!(health.observe(&refused, Time::ZERO, TWO), None);
        assert_eq!(health.observe(&refused, Time::ZERO, TWO), Some(Change::Fell));
        assert_eq!(health.observe(&answered, Time::ZERO, TWO), None);
        assert!(!health.is_up());
    }

    #[test]
    fn full_is_left_alone_for_as_long_as_it_says_but_not_for_ever() {
        let health = Health::default();
        let full = |seconds| Outcome::Full { status: 429, retry_after: Some(Duration::from_secs(seconds)) };
        health.observe(&full(2), Time::ZERO, TWO);
        assert_eq!(health.state(Time::from_secs_f64(1.9)), State::Full);
        assert_eq!(health.state(Time::from_secs_f64(2.0)), State::Up);
        health.observe(&full(86_400), Time::ZERO, TWO);
        assert_eq!(health.state(Time::from_secs_f64(60.1)), State::Up);
    }

    #[test]
    fn drain_is_the_operators_and_survives_checks() {
        let health = Health::default();
        health.set_draining(true);
        health.checked(true, TWO);
        assert_eq!(health.state(Time::ZERO), State::Draining);
        health.set_draining(false);
        assert_eq!(health.state(Time::ZERO), State::Up);
    }
}
