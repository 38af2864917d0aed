//! A node's live load as we see it: in flight, waiting for the first byte, and the integral of load over time.
//!
//! The *average* load over an attempt's own life is what response times depend on (the load at dispatch is an
//! errors-in-variables regressor, and its slopes shrink toward zero). Averages over any interval come from one
//! identity: with n attempts in flight at t, the integral of load up to t is `n*t - (sum of starts - sum of ends)`.
//! Count and sum share **one** 64-bit word, so that one atomic add starts an attempt, one ends it, and one load gives
//! a consistent pair. No lock, no allocation; a [`Live`](super::Live) node has cache lines of its own.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::Time;
use crate::node::AUTO_LIMIT_START;

/// The count has the low 16 bits, the sum of times in microseconds (modulo 2^48, almost 9 years) the rest.
const COUNT_BITS: u32 = 16;
const COUNT_MASK: u64 = (1 << COUNT_BITS) - 1;
const SUM_MASK: u64 = (1 << (64 - COUNT_BITS)) - 1;

/// The live load of one node. All methods may be called from any thread.
#[derive(Debug, Default)]
pub struct Ledger {
    load: AtomicU64,
    /// Started without first byte.
    waiting: AtomicU32,
    /// The limit of attempts in flight that was found out; 0 until there is a reason to change it.
    own_limit: AtomicU32,
    waiting_prompt_tokens: AtomicU64,
    /// Expected tokens of attempts in flight, where they are limited, in the low [`TOKEN_BITS`]; above them for how many
    /// tokens at least there is room, in units of [`KEPT_UNIT`].
    tokens: AtomicU64,
    last_sign: AtomicU64,
    gap_micros: AtomicU64,
    gap_events: AtomicU64,
    /// Prompt tokens of attempts whose first byte came since somebody asked.
    read_prompt_tokens: AtomicU64,
}

/// A consistent reading of the load at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Attempts in flight.
    pub in_flight: u32,
    /// The integral of attempts in flight over time up to the reading, in attempt-microseconds modulo 2^48.
    integral: u64,
}

impl Load {
    /// Time-average of the number in flight between `earlier` and this reading, `elapsed` apart.
    ///
    /// For an empty interval it is the present number.
    pub fn mean_since(self, earlier: Load, elapsed: Duration) -> f64 {
        let micros = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
        if micros == 0 {
            return f64::from(self.in_flight);
        }
        let area = self.integral.wrapping_sub(earlier.integral) & SUM_MASK;
        area as f64 / micros as f64
    }
}

/// What a decision and its sample need to know of the load, as it was before the attempt started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Before {
    /// In flight without the new attempt.
    pub in_flight: u32,
    /// Of those, started without first byte.
    pub waiting: u32,
    /// Prompt tokens of those.
    pub waiting_prompt_tokens: u64,
    /// The reading that [`Load::mean_since`] is later measured from; the new attempt included.
    pub load: Load,
}

/// Bits for the tokens in flight: a thousand times the largest limit that can be set.
const TOKEN_BITS: u32 = 40;
const TOKENS: u64 = (1 << TOKEN_BITS) - 1;
/// Tokens in which it is counted for how many room is kept.
const KEPT_UNIT: u64 = 64;

impl Ledger {
    /// Attempts in flight now.
    #[inline]
    pub fn in_flight(&self) -> u32 {
        (self.load.load(Ordering::Relaxed) & COUNT_MASK) as u32
    }

    /// Of those, the ones without a first byte.
    #[inline]
    pub fn waiting(&self) -> u32 {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Prompt tokens of the attempts without a first byte.
    #[inline]
    pub fn waiting_prompt_tokens(&self) -> u64 {
        self.waiting_prompt_tokens.load(Ordering::Relaxed)
    }

    /// Load and integral at `now`.
    pub fn read(&self, now: Time) -> Load {
        Self::load_at(self.load.load(Ordering::Relaxed), now)
    }

    fn load_at(word: u64, now: Time) -> Load {
        let count = word & COUNT_MASK;
        let integral = count.wrapping_mul(now.as_micros()).wrapping_sub(word >> COUNT_BITS) & SUM_MASK;
        Load { in_flight: count as u32, integral }
    }

    /// One attempt at `now`: the count and its start time in one word.
    fn word(now: Time) -> u64 {
        (now.as_micros() << COUNT_BITS) | 1
    }

    /// Starts an attempt at `now` unless `limit` are in flight already; `None` says that they are.
    ///
    /// Compare-and-swap rather than add, so that the limit is never exceeded, not even for a moment.
    pub fn try_start(&self, now: Time, limit: u32, prompt_tokens: u32) -> Option<Before> {
        let mut word = self.load.load(Ordering::Relaxed);
        let started = loop {
            if word & COUNT_MASK >= u64::from(limit) {
                return None;
            }
            let next = word.wrapping_add(Self::word(now));
            match self.load.compare_exchange_weak(word, next, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => break next,
                Err(seen) => word = seen,
            }
        };
        let waiting = self.waiting.fetch_add(1, Ordering::Relaxed);
        let waiting_prompt_tokens = self.waiting_prompt_tokens.fetch_add(u64::from(prompt_tokens), Ordering::Relaxed);
        if waiting == 0 && word & COUNT_MASK == 0 {
            // Silence is counted from the moment that there is something to be heard of.
            self.sign_of_life(now);
        }
        Some(Before {
            in_flight: (word & COUNT_MASK) as u32,
            waiting,
            waiting_prompt_tokens,
            load: Self::load_at(started, now),
        })
    }

    /// Expected tokens in flight; counted only where they are limited.
    pub fn tokens(&self) -> u64 {
        self.tokens.load(Ordering::Relaxed) & TOKENS
    }

    /// Whether so many tokens more are within `limit`. What is larger than the limit by itself has room if there is
    /// nothing else.
    pub fn has_room_for(&self, tokens: u64, limit: u64) -> bool {
        Self::has_room(self.tokens.load(Ordering::Relaxed), tokens, limit)
    }

    fn has_room(word: u64, tokens: u64, limit: u64) -> bool {
        let (held, kept) = (word & TOKENS, word >> TOKEN_BITS);
        tokens / KEPT_UNIT >= kept && (held == 0 || held.saturating_add(tokens) <= limit)
    }

    /// Keeps what room there is for requests of at least so many tokens, rounded down to 64; 0 ends that.
    pub fn keep_for(&self, tokens: u64) {
        let kept = (tokens / KEPT_UNIT).min(u64::MAX >> TOKEN_BITS) << TOKEN_BITS;
        let step = |word: u64| Some(word & TOKENS | kept);
        let _ = self.tokens.fetch_update(Ordering::SeqCst, Ordering::Relaxed, step);
    }

    /// Sets `tokens` aside if they [have room](Ledger::has_room_for); whether they had. Compare-and-swap, as for the
    /// count. Room that was kept for them, or for as many, is used up by that.
    #[must_use]
    pub fn try_reserve(&self, tokens: u64, limit: u64) -> bool {
        let step = |word: u64| Self::has_room(word, tokens, limit).then(|| ((word & TOKENS) + tokens) & TOKENS);
        self.tokens.fetch_update(Ordering::AcqRel, Ordering::Relaxed, step).is_ok()
    }

    /// The limit of attempts in flight that was found out for the node.
    #[inline]
    pub fn own_limit(&self) -> u32 {
        match self.own_limit.load(Ordering::Relaxed) {
            0 => AUTO_LIMIT_START,
            limit => limit,
        }
    }

    /// Sets the limit that was found out; it counts for nodes that are to have one.
    pub fn set_own_limit(&self, limit: u32) {
        self.own_limit.store(limit, Ordering::Relaxed);
    }

    /// Gives back what was set aside.
    pub fn release(&self, tokens: u64) {
        self.tokens.fetch_sub(tokens, Ordering::SeqCst);
    }

    /// The attempt with `prompt_tokens` has its first byte.
    pub fn first_byte(&self, now: Time, prompt_tokens: u32) {
        self.stop_waiting(prompt_tokens);
        self.read_prompt_tokens.fetch_add(u64::from(prompt_tokens), Ordering::Relaxed);
        self.sign_of_life(now);
    }

    fn stop_waiting(&self, prompt_tokens: u32) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        self.waiting_prompt_tokens.fetch_sub(u64::from(prompt_tokens), Ordering::Relaxed);
    }

    /// `events` streamed events came, `gap` after the ones before them.
    pub fn events(&self, now: Time, events: u32, gap: Duration) {
        self.gap_micros.fetch_add(u64::try_from(gap.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.gap_events.fetch_add(u64::from(events), Ordering::Relaxed);
        self.sign_of_life(now);
    }

    /// Ends an attempt at `now`; `waiting` tells the prompt tokens of one that never had its first byte. Returns the
    /// load before the end, the attempt still included.
    pub fn end(&self, now: Time, waiting: Option<u32>) -> Load {
        if let Some(prompt_tokens) = waiting {
            self.stop_waiting(prompt_tokens);
        }
        // Sequentially consistent with those who are about to wait, see `balancer/waiting.rs`; on x86 at no cost.
        let word = self.load.fetch_sub(Self::word(now), Ordering::SeqCst);
        Self::load_at(word, now)
    }

    /// Something came from the node.
    pub fn sign_of_life(&self, now: Time) {
        self.last_sign.store(now.as_micros(), Ordering::Relaxed);
    }

    /// When the last byte or completion came, or the first attempt of the present busy period started.
    #[inline]
    pub fn last_sign(&self) -> Time {
        Time::from_micros(self.last_sign.load(Ordering::Relaxed))
    }

    /// Takes the gaps gathered since the last call: their sum in seconds and the number of events.
    pub fn take_gaps(&self) -> (f64, u64) {
        let events = self.gap_events.swap(0, Ordering::Relaxed);
        let micros = self.gap_micros.swap(0, Ordering::Relaxed);
        (micros as f64 / 1e6, events)
    }

    /// Takes the prompt tokens that the node has read since the last call: those of attempts whose first byte came.
    pub fn take_read_prompt_tokens(&self) -> u64 {
        self.read_prompt_tokens.swap(0, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: f64) -> Time {
        Time::from_secs_f64(seconds)
    }

    #[test]
    fn the_average_load_over_a_life_is_exact() {
        let ledger = Ledger::default();
        let a = ledger.try_start(at(10.0), 9, 100).expect("room");
        assert_eq!((a.in_flight, a.waiting), (0, 0));
        let b = ledger.try_start(at(12.0), 9, 50).expect("room");
        assert_eq!((b.in_flight, b.waiting, b.waiting_prompt_tokens), (1, 1, 100));
        ledger.first_byte(at(13.0), 100);
        // a alone for 2 s, both for 4 s, b alone for 4 s.
        let a_end = ledger.end(at(16.0), None);
        assert_eq!(a_end.mean_since(a.load, Duration::from_secs(6)), (2.0 + 8.0) / 6.0);
        let b_end = ledger.end(at(20.0), Some(50));
        assert_eq!(b_end.mean_since(b.load, Duration::from_secs(8)), (8.0 + 4.0) / 8.0);
        assert_eq!((ledger.in_flight(), ledger.waiting(), ledger.waiting_prompt_tokens()), (0, 0, 0));
    }

    #[test]
    fn the_integral_survives_wrapping() {
        let ledger = Ledger::default();
        let late = Time::from_micros((1 << 48) - 1_000_000);
        let before = ledger.try_start(late, 9, 0).expect("room");
        let end = ledger.end(late.after(Duration::from_secs(2)), Some(0));
        assert_eq!(end.mean_since(before.load, Duration::from_secs(2)), 1.0);
        assert_eq!(ledger.in_flight(), 0);
    }

    #[test]
    fn a_limit_is_never_exceeded_under_concurrency() {
        let ledger = Ledger::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for i in 0..20_000 {
                        if ledger.try_start(Time::from_micros(i), 3, 1).is_some() {
                            assert!(ledger.in_flight() <= 3);
                            ledger.end(Time::from_micros(i + 1), Some(1));
                        }
                    }
                });
            }
        });
        assert_eq!((ledger.in_flight(), ledger.waiting(), ledger.waiting_prompt_tokens()), (0, 0, 0));
    }

    #[test]
    fn tokens_never_exceed_their_limit_whatever_the_threads_do_but_one_alone_may() {
        let ledger = Ledger::default();
        assert!(ledger.try_reserve(500, 100) && !ledger.try_reserve(1, 100));
        ledger.release(500);
        std::thread::scope(|scope| {
            for seed in 0..4 {
                let ledger = &ledger;
                scope.spawn(move || {
                    let mut rng = fastrand::Rng::with_seed(seed);
                    for _ in 0..5_000 {
                        let tokens = rng.u64(1..60);
                        if ledger.try_reserve(tokens, 100) {
                            let held = ledger.tokens();
                            assert!((tokens..=100).contains(&held), "{held}");
                            ledger.release(tokens);
                        }
                    }
                });
            }
        });
        assert_eq!(ledger.tokens(), 0);
    }
}
