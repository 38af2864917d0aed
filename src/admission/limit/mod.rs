//! How many requests a node may have in flight when nobody knows: found out from its own response times.
//!
//! By Little's law an answer takes what is in flight over what is answered in a second. So more in flight is worth it as
//! long as answers become slower by less than that, and a node's [`Curve`] says whether they do: the limit is raised while
//! answers take about as long as on the idle node, and beyond while a percent more in flight makes them at most 0.9
//! percent slower (workers with a line before them: 1 percent from the last worker on; a batch of a + b n:
//! n b / (a + b n)). Five times the response time of the idle node is too much, whatever it brings. What answers take is
//! not averaged over answers but counted, in flight by answers: while a limit rises, the first to end are the short ones.
//!
//! Netflix's Gradient2 and Envoy's gradient, which came before this, compare with one number. A long average follows a
//! rush upwards, and then everybody is late; a tolerance of two, right for workers, leaves the better half of a batching
//! server unused; and a pause to measure the idle node costs what it is meant to save. Where the learned model says what
//! *this* answer, with its length, would have taken on the idle node, the curve is in multiples of that, which takes the
//! chance out of the lengths. A node that says "full", and an answer that does not come in time, take a tenth away.
//!
//! The limit is never raised by an answer that did not need it: a quiet hour must not end in a flood. It is no match for a
//! single worker that takes long: it starts at 16, and ten answers tell nothing yet; say 1 there, or 2.

mod curve;
#[cfg(test)]
mod tests;

use std::sync::{Mutex, PoisonError};

use crate::clock::Time;
use crate::fleet::{Load, Resettable};
use crate::node::{AUTO_LIMIT_START, IN_FLIGHT_MAX};
use curve::{Curve, Reading};

/// Up to this multiple of the idle node's response time, answers are about as fast as they can be.
const QUICK: f64 = 1.5;
/// And beyond this one, too slow.
const SLOW: f64 = 5.0;
/// How much slower, in percent, a percent more in flight may make answers: less than 1, or nothing is gained.
const WORTH: f64 = 0.9;
/// The same where nothing is known between here and less than [`NEAR`] of it: the bend may be anywhere.
const WORTH_FAR: f64 = 0.75;
/// See [`WORTH_FAR`].
const NEAR: f64 = 1.0 / 3.0;
/// What an answer adds to the limit while answers are quick: half as much again in a response time.
const RISE_QUICK: f64 = 0.5;
/// And while they are slower, but it is worth it.
const RISE: f64 = 0.4;
/// What an answer takes away where it is not.
const FALL: f64 = 0.4;
/// An answer that had so many beside it never takes the limit below this part of them: those that come late tell of what
/// has been dealt with.
const FALL_TO: f64 = 0.8;
/// What is left after a refusal or a timeout; as in Netflix's AIMD.
const BACKOFF: f64 = 0.9;
/// From this part of the limit on it is being used.
const USED: f64 = 0.75;

/// What an attempt's end tells of the limit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Signal {
    /// An answer.
    Answer {
        /// When it ended.
        now: Time,
        /// The node's load then, without it.
        load: Load,
        /// What was in flight over its own life on average, itself included.
        among: f64,
        /// Seconds that it would have taken on the idle node, where that is learned.
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
    /// In seconds.
    seen: Curve,
    /// In what the model says of the idle node.
    learned: Curve,
    /// When the last answer ended, and the load then.
    last: Option<(Time, Load)>,
}

impl Default for State {
    fn default() -> Self {
        State { limit: f64::from(AUTO_LIMIT_START), seen: Curve::default(), learned: Curve::default(), last: None }
    }
}

impl Resettable for AutoLimit {
    fn reset(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = State::default();
    }
}

impl AutoLimit {
    /// The limit from now on, after an attempt that saw `in_flight` at the node when it started, itself included.
    pub fn observe(&self, signal: Signal, in_flight: u32) -> u32 {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match signal {
            Signal::Overload => state.refused(in_flight),
            Signal::Answer { now, load, among, idle_s } => {
                if let Some(area) = state.since_last(now, load) {
                    // The pace of those beside which it ran, not of those who have come since.
                    let area = area * among / f64::from(load.in_flight + 1);
                    state.answered(area, among, idle_s, in_flight);
                }
            }
        }
        state.limit as u32
    }
}

impl State {
    fn set(&mut self, limit: f64) {
        self.limit = limit.clamp(1.0, f64::from(IN_FLIGHT_MAX));
    }

    /// Below what was there when it was too much, wherever the limit stands.
    fn refused(&mut self, in_flight: u32) {
        self.set(self.limit.min(f64::from(in_flight.max(1))) * BACKOFF);
    }

    /// What was in flight since the last answer, times for how many seconds.
    fn since_last(&mut self, now: Time, load: Load) -> Option<f64> {
        let (last, before) = self.last.unwrap_or((now, load));
        if now < last {
            // Another thread was quicker: this answer ended with that one.
            return Some(0.0);
        }
        let is_first = self.last.replace((now, load)).is_none();
        let elapsed = now.since(last);
        (!is_first).then(|| elapsed.as_secs_f64() * load.mean_since(before, elapsed))
    }

    /// An answer came: what was in flight times for how long since the one before it, what was in flight in its own life, and
    /// what it would have taken alone.
    fn answered(&mut self, area: f64, among: f64, idle_s: Option<f64>, in_flight: u32) {
        let (curve, worth) = match idle_s {
            Some(idle_s) => (&mut self.learned, idle_s),
            None => (&mut self.seen, 1.0),
        };
        if !(worth.is_normal() && worth > 0.0 && area >= 0.0 && (area + among).is_finite()) {
            return;
        }
        let Some(reading) = curve.observe(area, among, worth) else { return };
        let times = reading.here.took() / if idle_s.is_some() { 1.0 } else { reading.least.took() };
        if !times.is_finite() {
            // Answers that all came in one instant tell nothing.
            return;
        }
        let used = f64::from(in_flight) >= USED * self.limit.floor();
        if times < SLOW && (times < QUICK || is_worth_it(&reading)) {
            if used {
                self.set(self.limit + if times < QUICK { RISE_QUICK } else { RISE });
            }
        } else {
            let less = (self.limit - FALL).max(self.limit.min(FALL_TO * among));
            self.set(if times > SLOW { less.min(among * SLOW / times) } else { less });
        }
    }
}

/// Whether a little more in flight would bring more answers, by what the step up to here has brought.
fn is_worth_it(reading: &Reading) -> bool {
    let Reading { here, below, .. } = reading;
    let Some(below) = below else { return true };
    let slower = 1.0 - below.took() / here.took();
    let more = 1.0 - below.in_flight / here.in_flight;
    let near = below.in_flight >= NEAR * here.in_flight;
    slower < more * if near { WORTH } else { WORTH_FAR }
}
