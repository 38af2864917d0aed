//! Time as the core sees it: microseconds since an origin, never the wall clock.
//!
//! Every function of the core takes `now: Time` as an argument, so that the simulator can run the production code
//! under virtual time and a seed reproduces a run. The one exception is an attempt that is *dropped* (a panic, a
//! cancelled task): `Drop` has no arguments, so a ticket asks the [`Clock`] that its balancer was built with. This is
//! the only file of the core that may read the machine's monotonic clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A point in time: microseconds since the origin of the process or of the simulation.
///
/// One microsecond is fine enough for response times, and 2^63 of them are 292,000 years.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(u64);

impl Time {
    /// The origin.
    pub const ZERO: Time = Time(0);

    /// A point `micros` microseconds after the origin.
    pub const fn from_micros(micros: u64) -> Time {
        Time(micros)
    }

    /// A point `seconds` after the origin; negative or not finite counts as the origin.
    pub fn from_secs_f64(seconds: f64) -> Time {
        // A float-to-integer cast saturates, and NaN becomes 0.
        Time((seconds * 1e6).round() as u64)
    }

    /// Microseconds since the origin.
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// Seconds since the origin.
    pub fn as_secs_f64(self) -> f64 {
        self.0 as f64 / 1e6
    }

    /// How long after `earlier` this is; zero where it is not after it.
    pub const fn since(self, earlier: Time) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }

    /// [`since`](Time::since) in seconds, for the mathematics.
    pub fn seconds_since(self, earlier: Time) -> f64 {
        self.0.saturating_sub(earlier.0) as f64 / 1e6
    }

    /// The point `by` later; stays at the end of time instead of wrapping.
    pub fn after(self, by: Duration) -> Time {
        Time(self.0.saturating_add(u64::try_from(by.as_micros()).unwrap_or(u64::MAX)))
    }
}

/// Where `now` comes from: the machine's monotonic clock, or a hand that a test or the simulator turns.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    Monotonic(Instant),
    Manual(Arc<AtomicU64>),
}

impl Clock {
    /// The machine's monotonic clock with its origin now.
    pub fn monotonic() -> Clock {
        Clock(Source::Monotonic(Instant::now()))
    }

    /// A clock that stands still until [`set`](Clock::set); clones share the hand.
    pub fn manual() -> Clock {
        Clock(Source::Manual(Arc::new(AtomicU64::new(0))))
    }

    /// The present time.
    pub fn now(&self) -> Time {
        match &self.0 {
            Source::Monotonic(origin) => Time(u64::try_from(origin.elapsed().as_micros()).unwrap_or(u64::MAX)),
            Source::Manual(hand) => Time(hand.load(Ordering::Relaxed)),
        }
    }

    /// Turns the hand of a manual clock; a monotonic clock cannot be set and stays as it is.
    pub fn set(&self, now: Time) {
        if let Source::Manual(hand) = &self.0 {
            hand.store(now.0, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_never_runs_backwards_into_a_negative_duration() {
        let (early, late) = (Time::from_micros(5), Time::from_micros(9));
        assert_eq!(late.since(early), Duration::from_micros(4));
        assert_eq!(early.since(late), Duration::ZERO);
        assert_eq!(Time::from_secs_f64(f64::NAN), Time::ZERO);
        assert_eq!(Time::from_secs_f64(-3.0), Time::ZERO);
    }

    #[test]
    fn clones_of_a_manual_clock_share_the_hand() {
        let clock = Clock::manual();
        let twin = clock.clone();
        clock.set(Time::from_secs_f64(2.5));
        assert_eq!(twin.now().as_secs_f64(), 2.5);
    }
}
