//! Taking out a node that answers, but badly: when, for how long, and how it comes back.
//!
//! Health checks see a node that is gone; this sees one that is there and fails requests. Envoy's outlier detection is
//! the field's reference, and most defaults are near its own: so many failures in a row, a share of failures within a
//! window, a node that fails more than the others do. Three things differ. It judges with every failure, not in a sweep
//! every ten seconds, since a broken node answers quickly and attracts work. An outlier is told by a test of two
//! proportions against the rest of the fleet, not by standard deviations of rates, which never find one node among four.
//! And a node returns through a trial, one request at a time, and then a ramp: so the first pause can be short.
//!
//! It knows nothing of response times: nodes differ in speed by right, and a slow one is the policy's business.

use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::Time;

/// When nodes are ejected, and for how long.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ejection {
    /// So many failures in a row eject.
    pub consecutive: u32,
    /// So large a share of failures within the window ejects, 0..=1.
    pub failure_ratio: f64,
    /// A share of failures so much above that of all other nodes ejects, 0..=1, if it is no chance.
    pub outlier_margin: f64,
    /// What shares of failures are taken over: the present window and the one before.
    pub window: Duration,
    /// Shares of fewer requests say nothing.
    pub requests_min: u32,
    /// The first pause; each further one is twice as long.
    pub base: Duration,
    /// The longest pause.
    pub longest: Duration,
    /// At most this share of the fleet is ejected at once, 0..=1, rounded down; 0 ejects nobody.
    pub share_max: f64,
    /// If less than this share of the nodes that could serve a request is left, ejections do not count for it, 0..=1.
    pub panic_below: f64,
}

impl Default for Ejection {
    /// Five in a row, and windows of 10 s, are Envoy's. A share of 50 % is far from what a client's own bad requests
    /// cause. The first pause is 5 s (Envoy: 30 s), as a failed trial costs one request; the longest is Envoy's 5 min.
    /// Half of a fleet may be out (Envoy: a tenth, of much larger fleets), and panic begins at a quarter (Envoy: half),
    /// because limits and the queue protect those that are left.
    fn default() -> Self {
        Ejection {
            consecutive: 5,
            failure_ratio: 0.5,
            outlier_margin: 0.2,
            window: Duration::from_secs(10),
            requests_min: 20,
            base: Duration::from_secs(5),
            longest: Duration::from_secs(300),
            share_max: 0.5,
            panic_below: 0.25,
        }
    }
}

impl Ejection {
    /// Nobody is ejected.
    pub const OFF: Ejection = Ejection {
        consecutive: u32::MAX,
        failure_ratio: 1.0,
        outlier_margin: 1.0,
        window: Duration::from_secs(10),
        requests_min: u32::MAX,
        base: Duration::from_secs(1),
        longest: Duration::from_secs(1),
        share_max: 0.0,
        panic_below: 0.0,
    };

    /// Whether one more of `nodes` may be ejected beside the `ejected` ones.
    pub fn allows(&self, ejected: usize, nodes: usize) -> bool {
        // A hair more, so that a third of three is one.
        (ejected + 1) as f64 <= self.share_max * nodes as f64 + 1e-9
    }
}

/// Why a node was ejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Too many failures in a row.
    Consecutive,
    /// Too large a share of failures.
    Ratio,
    /// Fails much more than the others.
    Outlier,
    /// Failed the request that should have shown that it is well again.
    Trial,
}

impl Cause {
    /// Every cause, for series that exist from the start.
    pub const ALL: [Cause; 4] = [Cause::Consecutive, Cause::Ratio, Cause::Outlier, Cause::Trial];

    /// A short word for logs and metrics labels.
    pub fn word(self) -> &'static str {
        match self {
            Cause::Consecutive => "consecutive",
            Cause::Ratio => "ratio",
            Cause::Outlier => "outlier",
            Cause::Trial => "trial",
        }
    }
}

/// Requests of late and how many of them failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Failures {
    /// Requests that succeeded or failed.
    pub requests: u64,
    /// Those that failed.
    pub failed: u64,
}

impl Failures {
    /// Both together.
    #[must_use]
    pub fn and(self, other: Failures) -> Failures {
        Failures { requests: self.requests + other.requests, failed: self.failed + other.failed }
    }

    /// The share that failed; 0 of none.
    pub fn ratio(self) -> f64 {
        if self.requests == 0 { 0.0 } else { self.failed as f64 / self.requests as f64 }
    }

    /// Whether this is worse than `rest` by `margin` and by more than chance: three standard errors of the difference
    /// of two proportions (one in a thousand).
    pub fn stands_out(self, rest: Failures, margin: f64) -> bool {
        if self.requests == 0 || rest.requests == 0 {
            return false;
        }
        let difference = self.ratio() - rest.ratio();
        let pooled = self.and(rest).ratio();
        let variance = pooled * (1.0 - pooled) * (1.0 / self.requests as f64 + 1.0 / rest.requests as f64);
        difference >= margin && difference > 3.0 * variance.sqrt()
    }
}

/// Successes after a trial until a node is no longer held back. Each allows one more in flight, which doubles them
/// within a response time.
const RAMP_SUCCESSES: u32 = 64;

/// Widths in the word of a window: its number, requests, failures.
const COUNT_BITS: u32 = 22;
const COUNT_MAX: u64 = (1 << COUNT_BITS) - 1;

/// What ejection remembers of one node. All methods may be called from any thread; `eject` by one at
/// a time.
#[derive(Debug, Default)]
pub struct Record {
    /// Failures in a row; more than can be counted are as many as can.
    streak: AtomicU16,
    window: AtomicU64,
    window_before: AtomicU64,
    /// When the last ejection ends or ended.
    until: AtomicU64,
    /// Length of the last ejection in microseconds.
    pause: AtomicU64,
    /// Ejections that still count for the length of the next one.
    times: AtomicU16,
    /// Successes since the last ejection ended.
    successes: AtomicU32,
}

fn word(number: u64, counts: Failures) -> u64 {
    number << (2 * COUNT_BITS) | counts.requests.min(COUNT_MAX) << COUNT_BITS | counts.failed.min(COUNT_MAX)
}

fn counts(word: u64) -> Failures {
    Failures { requests: word >> COUNT_BITS & COUNT_MAX, failed: word & COUNT_MAX }
}

/// The number of the window at `now`, modulo what a word has room for.
fn number(now: Time, window: Duration) -> u64 {
    let window = u64::try_from(window.as_micros()).unwrap_or(u64::MAX).max(1);
    (now.as_micros() / window) & ((1 << (64 - 2 * COUNT_BITS)) - 1)
}

impl Record {
    /// Requests and failures in the present window and the one before.
    pub fn failures(&self, now: Time, window: Duration) -> Failures {
        let number = number(now, window);
        let of = |word: u64, ago: u64| {
            let same = word >> (2 * COUNT_BITS) == number.wrapping_sub(ago);
            if same { counts(word) } else { Failures::default() }
        };
        let present = self.window.load(Ordering::Relaxed);
        of(present, 0).and(of(present, 1)).and(of(self.window_before.load(Ordering::Relaxed), 1))
    }

    fn count(&self, now: Time, window: Duration, failed: bool) {
        let number = number(now, window);
        let one = Failures { requests: 1, failed: u64::from(failed) };
        let step = |old: u64| {
            let same = old >> (2 * COUNT_BITS) == number;
            Some(word(number, if same { counts(old).and(one) } else { one }))
        };
        if let Ok(old) = self.window.fetch_update(Ordering::Relaxed, Ordering::Relaxed, step)
            && old >> (2 * COUNT_BITS) != number
        {
            self.window_before.store(old, Ordering::Relaxed);
        }
    }

    /// An attempt that started at `started` did what it should. Whether that ends the trial, and whether the ramp.
    pub(super) fn succeeded(&self, started: Time, now: Time, window: Duration, is_returning: bool) -> (bool, bool) {
        if self.streak.load(Ordering::Relaxed) != 0 {
            self.streak.store(0, Ordering::Relaxed);
        }
        self.count(now, window, false);
        if !is_returning || started < self.until() {
            return (false, false);
        }
        let successes = self.successes.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        (successes == 1, successes >= RAMP_SUCCESSES)
    }

    /// An attempt that started at `started` failed. What that is a cause of, the rest of the fleet aside.
    pub(super) fn failed(&self, started: Time, now: Time, rules: &Ejection, is_returning: bool) -> Option<Cause> {
        if started < self.until() {
            // It was sent before the node was ejected, or in a panic: that has been judged.
            return None;
        }
        let longer = |streak: u16| Some(streak.saturating_add(1));
        let before = self.streak.fetch_update(Ordering::Relaxed, Ordering::Relaxed, longer).unwrap_or_default();
        let streak = u32::from(before) + 1;
        self.count(now, rules.window, true);
        if is_returning && self.successes() == 0 {
            return Some(Cause::Trial);
        }
        if streak >= rules.consecutive {
            return Some(Cause::Consecutive);
        }
        let seen = self.failures(now, rules.window);
        let enough = seen.requests >= u64::from(rules.requests_min);
        (enough && seen.ratio() >= rules.failure_ratio).then_some(Cause::Ratio)
    }

    /// Starts a pause at `now` and returns its length: twice the last one, but every stretch as long as the last one
    /// that the node has been in service since takes back one doubling.
    pub(super) fn eject(&self, now: Time, rules: &Ejection) -> Duration {
        let pause = self.pause.load(Ordering::Relaxed).max(1);
        let served = now.as_micros().saturating_sub(self.until().as_micros());
        let forgiven = u32::try_from(served / pause).unwrap_or(u32::MAX);
        let times = u32::from(self.times.load(Ordering::Relaxed)).saturating_sub(forgiven);
        let factor = 2_u32.saturating_pow(times);
        let length = rules.base.saturating_mul(factor).min(rules.longest);
        let micros = u64::try_from(length.as_micros()).unwrap_or(u64::MAX);
        self.pause.store(micros, Ordering::Relaxed);
        self.times.store(u16::try_from(times + 1).unwrap_or(u16::MAX), Ordering::Relaxed);
        self.streak.store(0, Ordering::Relaxed);
        self.window.store(0, Ordering::Relaxed);
        self.window_before.store(0, Ordering::Relaxed);
        self.successes.store(0, Ordering::Relaxed);
        self.until.store(now.after(length).as_micros(), Ordering::Relaxed);
        length
    }

    /// When the last ejection ends or ended; the origin of time if there was none.
    pub fn until(&self) -> Time {
        Time::from_micros(self.until.load(Ordering::Relaxed))
    }

    /// Successes since the last ejection ended.
    pub fn successes(&self) -> u32 {
        self.successes.load(Ordering::Relaxed)
    }

    /// How many a returning node may have in flight: one on trial, then one more with each success.
    pub fn ramp(&self) -> u32 {
        1 + self.successes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Ejection = Ejection { consecutive: 3, requests_min: 10, ..DEFAULTS };
    const DEFAULTS: Ejection = Ejection {
        failure_ratio: 0.5,
        outlier_margin: 0.2,
        base: Duration::from_secs(5),
        longest: Duration::from_secs(60),
        share_max: 0.5,
        panic_below: 0.25,
        ..Ejection::OFF
    };

    fn at(seconds: f64) -> Time {
        Time::from_secs_f64(seconds)
    }

    fn fail(record: &Record, now: Time) -> Option<Cause> {
        record.failed(now, now, &RULES, false)
    }

    fn succeed(record: &Record, now: Time) {
        record.succeeded(now, now, RULES.window, false);
    }

    #[test]
    fn failures_in_a_row_are_a_cause_and_a_success_between_them_is_not() {
        let record = Record::default();
        assert_eq!([fail(&record, at(1.0)), fail(&record, at(1.1))], [None, None]);
        succeed(&record, at(1.2));
        assert_eq!([fail(&record, at(1.3)), fail(&record, at(1.4))], [None, None]);
        assert_eq!(fail(&record, at(1.5)), Some(Cause::Consecutive));
    }

    #[test]
    fn a_share_of_failures_is_a_cause_only_of_enough_requests_within_two_windows() {
        let record = Record::default();
        for step in 0..4 {
            succeed(&record, at(9.0 + f64::from(step) * 0.1));
            assert_eq!(fail(&record, at(9.05 + f64::from(step) * 0.1)), None, "too few");
        }
        // In the next window; the last one still counts.
        succeed(&record, at(12.0));
        assert_eq!(fail(&record, at(12.1)), Some(Cause::Ratio));
        assert_eq!(record.failures(at(12.2), RULES.window), Failures { requests: 10, failed: 5 });
        assert_eq!(record.failures(at(22.0), RULES.window), Failures { requests: 2, failed: 1 });
        assert_eq!(record.failures(at(32.0), RULES.window), Failures::default());
        assert_eq!(fail(&record, at(40.0)), None);
    }

    #[test]
    fn pauses_double_up_to_a_bound_and_service_takes_doublings_back() {
        let record = Record::default();
        let mut now = at(1.0);
        let mut pauses = Vec::new();
        for _ in 0..6 {
            pauses.push(record.eject(now, &RULES).as_secs());
            now = record.until();
        }
        assert_eq!(pauses, [5, 10, 20, 40, 60, 60]);
        // Two minutes of service are two pauses of a minute: two of six doublings are forgiven.
        now = now.after(Duration::from_secs(125));
        assert_eq!(record.eject(now, &RULES).as_secs(), 60);
        assert_eq!(record.times.load(Ordering::Relaxed), 5);
        let next_day = now.after(Duration::from_secs(86_400));
        assert_eq!(record.eject(next_day, &RULES).as_secs(), 5);
    }

    #[test]
    fn what_was_sent_before_an_ejection_neither_prolongs_nor_ends_it() {
        let record = Record::default();
        record.eject(at(10.0), &RULES);
        for _ in 0..10 {
            assert_eq!(record.failed(at(9.0), at(16.0), &RULES, true), None);
        }
        assert_eq!(record.succeeded(at(9.0), at(16.0), RULES.window, true), (false, false));
        assert_eq!(record.ramp(), 1);
        assert_eq!(record.failed(at(15.5), at(16.0), &RULES, true), Some(Cause::Trial));
    }

    #[test]
    fn the_ramp_grows_with_each_success_and_ends() {
        let record = Record::default();
        record.eject(at(10.0), &RULES);
        let one = || record.succeeded(at(15.0), at(16.0), RULES.window, true);
        assert_eq!((one(), record.ramp()), ((true, false), 2));
        assert_eq!((one(), record.ramp()), ((false, false), 3));
        (3..RAMP_SUCCESSES).for_each(|_| assert_eq!(one(), (false, false)));
        assert_eq!(one(), (false, true));
        // A failure on the ramp is judged like every other.
        assert_eq!(record.failed(at(16.0), at(17.0), &RULES, true), None);
    }

    #[test]
    fn an_outlier_is_told_from_chance_even_among_two_nodes() {
        let of = |requests, failed| Failures { requests, failed };
        assert!(of(30, 10).stands_out(of(30, 0), 0.2));
        assert!(of(20, 8).stands_out(of(140, 3), 0.2));
        assert!(!of(20, 3).stands_out(of(140, 0), 0.2), "below the margin");
        assert!(!of(5, 2).stands_out(of(5, 0), 0.2), "may be chance");
        assert!(!of(100, 60).stands_out(of(700, 420), 0.2), "all fail alike");
        assert!(!of(10, 10).stands_out(of(0, 0), 0.2), "nobody to compare with");
    }

    #[test]
    fn the_share_that_may_be_out_is_rounded_down() {
        let rules = |share_max| Ejection { share_max, ..RULES };
        let most = |share, nodes| (0..=nodes).find(|out| !rules(share).allows(*out, nodes)).expect("a bound");
        assert_eq!([1, 2, 3, 4, 8].map(|nodes| most(0.5, nodes)), [0, 1, 1, 2, 4]);
        assert_eq!((most(1.0 / 3.0, 3), most(0.0, 100)), (1, 0));
    }

    #[test]
    fn counts_stay_in_their_places_however_many_there_are() {
        let record = Record::default();
        record.window.store(word(0, Failures { requests: COUNT_MAX, failed: COUNT_MAX }), Ordering::Relaxed);
        record.count(at(1.0), RULES.window, true);
        assert_eq!(record.failures(at(1.0), RULES.window), Failures { requests: COUNT_MAX, failed: COUNT_MAX });
    }
}
