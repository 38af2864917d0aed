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
    #[inline]
    pub const fn from_micros(micros: u64) -> Time {
        Time(micros)
    }

    /// A point `seconds` after the origin; negative or not finite counts as the origin.
    pub fn from_secs_f64(seconds: f64) -> Time {
        // A float-to-integer cast saturates, and NaN becomes 0.
        Time((seconds * 1e6).round() as u64)
    }

    /// Microseconds since the origin.
    #[inline]
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// Seconds since the origin.
    pub fn as_secs_f64(self) -> f64 {
        self.0 as f64 / 1e6
    }

    /// How long after `earlier` this is; zero where it is not after it.
    #[inline]
    pub const fn since(self, earlier: Time) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }

    /// [`since`](Time::since) in seconds, for the mathematics.
    #[inline]
    pub fn seconds_since(self, earlier: Time) -> f64 {
        self.0.saturating_sub(earlier.0) as f64 / 1e6
    }

    /// The point `by` later; stays at the end of time instead of wrapping.
    #[inline]
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

/// A value and the time it was last touched in one atomic word, for averages that decay with time.
///
/// Value and time must change together, and a lock per node is what a decision must not take. So the value is an
/// `f32` and the time milliseconds modulo 2^32 (49 days): to a decay of seconds both are as good as exact. Time that
/// runs a little backwards (threads read the clock before they get here) counts as standing still.
#[derive(Debug, Default)]
pub struct Timed(AtomicU64);

/// How far behind the last touch a time may be before it is read as "more than 24 days later" instead.
const BACKWARDS_MAX_MS: u32 = 60_000;

impl Timed {
    /// `value` as touched at the origin of time.
    pub fn new(value: f32) -> Timed {
        Timed(AtomicU64::new(u64::from(value.to_bits()) << 32))
    }

    /// The value and the seconds since it was touched. Changes nothing.
    pub fn read(&self, now: Time) -> (f32, f64) {
        let (value, elapsed_ms) = self.read_ms(now);
        (value, f64::from(elapsed_ms) / 1e3)
    }

    /// [`read`](Timed::read) with the time in milliseconds, for loops over many.
    #[inline]
    pub fn read_ms(&self, now: Time) -> (f32, u32) {
        let (value, elapsed_ms, _) = Self::unpack(self.0.load(Ordering::Relaxed), now);
        (value, elapsed_ms)
    }

    /// Replaces the value by what `next` makes of it and of the seconds since it was touched; `None` leaves both as
    /// they are. Returns whether it was replaced. `next` is asked again if another thread was quicker.
    pub fn update(&self, now: Time, mut next: impl FnMut(f32, f64) -> Option<f32>) -> bool {
        let step = |word| {
            let (value, elapsed_ms, stamp) = Self::unpack(word, now);
            let value = next(value, f64::from(elapsed_ms) / 1e3)?;
            Some(u64::from(value.to_bits()) << 32 | u64::from(stamp))
        };
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, step).is_ok()
    }

    /// Back to zero, touched at the origin of time.
    pub fn clear(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    /// The value, the milliseconds since it was touched, and the stamp of a touch at `now`.
    #[inline]
    fn unpack(word: u64, now: Time) -> (f32, u32, u32) {
        let (value, stamp) = (f32::from_bits((word >> 32) as u32), word as u32);
        let now_ms = (now.as_micros() / 1000) as u32;
        let elapsed_ms = now_ms.wrapping_sub(stamp);
        if elapsed_ms > u32::MAX - BACKWARDS_MAX_MS { (value, 0, stamp) } else { (value, elapsed_ms, now_ms) }
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

    #[test]
    fn a_timed_value_knows_its_age_and_reading_does_not_touch_it() {
        let at = Time::from_secs_f64;
        let timed = Timed::new(2.5);
        assert_eq!(timed.read(at(3.0)), (2.5, 3.0));
        assert_eq!(timed.read(at(3.0)), (2.5, 3.0));
        assert!(timed.update(at(4.0), |value, elapsed| Some(value + elapsed as f32)));
        assert_eq!(timed.read(at(5.0)), (6.5, 1.0));
        assert!(!timed.update(at(6.0), |_, _| None));
        assert_eq!(timed.read(at(6.0)), (6.5, 2.0));
    }

    #[test]
    fn a_timed_value_survives_clocks_that_disagree_and_wrapping() {
        let at = Time::from_secs_f64;
        let timed = Timed::default();
        timed.update(at(100.0), |_, _| Some(1.0));
        assert_eq!(timed.read(at(99.0)), (1.0, 0.0), "a little backwards is now");
        timed.update(at(99.0), |_, _| Some(2.0));
        assert_eq!(timed.read(at(101.0)), (2.0, 1.0), "and does not move the stamp back");
        let forty_days = 40.0 * 86_400.0;
        assert_eq!(timed.read(at(100.0 + forty_days)).1, forty_days);
    }
}
