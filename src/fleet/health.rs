//! Whether a node may get work: the state machine that active checks, passive evidence and operators feed.
//!
//! Four questions that are easily mixed up are kept apart: is the node *up* (checks and connect errors decide), does
//! the operator want it to *serve* (drain and resume), does it do its work *well* (ejection), and did it ask to be left
//! alone for a while (`Full`). A node starts as up, so that a proxy is useful in its first second; one failed check too
//! many corrects that. The answers to the first three are bits of one byte, so that a decision reads them at once.

use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::Time;
use crate::fleet::ejection::{Cause, Ejection, Record};
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
    /// Failed too many requests; gets no work for a while.
    Ejected,
    /// Was ejected; gets one request at a time until one succeeds.
    Trial,
}

impl State {
    /// Every state, for series that exist from the start.
    pub const ALL: [State; 6] = [State::Up, State::Down, State::Draining, State::Full, State::Ejected, State::Trial];

    /// Whether the node gets work, now or before long: an ejected one returns, or is needed if all are.
    pub fn is_serving(self) -> bool {
        !matches!(self, State::Down | State::Draining)
    }

    /// Whether what the node can do counts for the fleet now. An ejected one gets nothing, one on trial next to nothing.
    pub fn bears_load(self) -> bool {
        matches!(self, State::Up | State::Full)
    }

    /// The word for people and labels.
    pub fn word(self) -> &'static str {
        match self {
            State::Up => "up",
            State::Down => "down",
            State::Draining => "draining",
            State::Full => "full",
            State::Ejected => "ejected",
            State::Trial => "trial",
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
    /// The node was ejected.
    Ejected {
        /// Why.
        cause: Cause,
        /// For how long.
        pause: Duration,
    },
    /// The node passed its trial and gets more work with each success.
    Readmitted,
}

/// What an attempt's end says of its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// Nothing new.
    Nothing,
    /// Something that somebody should hear of.
    Changed(Change),
    /// It failed, which is no cause by itself: the rest of the fleet has to be looked at.
    Suspect,
    /// It should be ejected, if the fleet can do without it.
    Eject(Cause),
}

/// A tenth of a second in microseconds.
const TENTH: u64 = 100_000;

const DOWN: u8 = 1;
const DRAINING: u8 = 2;
/// Ejected, or on its way back.
const OUT: u8 = 4;

/// The live condition of one node.
#[derive(Debug, Default)]
pub struct Health {
    flags: AtomicU8,
    failures: AtomicU32,
    successes: AtomicU32,
    full_until: AtomicU64,
    /// When a draining node leaves the fleet at the latest, in tenths of a second (14 years): the last four bytes of the
    /// lines that a decision reads. 0 if it stays.
    leaves_by: AtomicU32,
    record: Record,
}

impl Health {
    /// The condition at `now`.
    #[inline]
    pub fn state(&self, now: Time) -> State {
        let flags = self.flags.load(Ordering::Relaxed);
        if flags != 0
            && let Some(state) = self.state_of(flags, now)
        {
            state
        } else if self.full_until.load(Ordering::Relaxed) > now.as_micros() {
            State::Full
        } else {
            State::Up
        }
    }

    #[cold]
    fn state_of(&self, flags: u8, now: Time) -> Option<State> {
        if flags & DRAINING != 0 {
            Some(State::Draining)
        } else if flags & DOWN != 0 {
            Some(State::Down)
        } else if self.record.until() > now {
            Some(State::Ejected)
        } else if self.full_until.load(Ordering::Relaxed) > now.as_micros() {
            Some(State::Full)
        } else {
            (self.record.successes() == 0).then_some(State::Trial)
        }
    }

    /// How many it may have in flight for having been ejected; no bound for all others.
    #[inline]
    pub fn ramp(&self) -> u32 {
        if self.flags.load(Ordering::Relaxed) & OUT == 0 { u32::MAX } else { self.record.ramp() }
    }

    /// Whether checks and connect errors think that it lives, whatever the operator wants.
    pub fn is_up(&self) -> bool {
        self.flags.load(Ordering::Relaxed) & DOWN == 0
    }

    /// Whether it was ejected and has not shown yet that it is well.
    pub fn is_out(&self) -> bool {
        self.flags.load(Ordering::Relaxed) & OUT != 0
    }

    /// When a node that said "full" may be asked again.
    pub fn full_until(&self) -> Time {
        Time::from_micros(self.full_until.load(Ordering::Relaxed))
    }

    /// What ejection remembers of it.
    pub fn record(&self) -> &Record {
        &self.record
    }

    fn raise(&self, flag: u8, wanted: bool) -> bool {
        let before = match wanted {
            true => self.flags.fetch_or(flag, Ordering::Relaxed),
            false => self.flags.fetch_and(!flag, Ordering::Relaxed),
        };
        (before & flag != 0) != wanted
    }

    /// Takes it out of (or back into) service by an operator's wish. It stays in the fleet.
    pub fn set_draining(&self, draining: bool) {
        self.leaves_by.store(0, Ordering::Relaxed);
        self.raise(DRAINING, draining);
    }

    /// Takes it out of service by an operator's wish, to leave the fleet when its last request has ended, or at `by`,
    /// to a tenth of a second: returns what is kept of it.
    pub fn leave_by(&self, by: Time) -> Time {
        let tenths = u32::try_from(by.as_micros().div_ceil(TENTH)).unwrap_or(u32::MAX).max(1);
        self.leaves_by.store(tenths, Ordering::Relaxed);
        self.raise(DRAINING, true);
        Time::from_micros(u64::from(tenths) * TENTH)
    }

    /// When it leaves the fleet at the latest; `None` if it is to stay.
    pub fn leaves_by(&self) -> Option<Time> {
        let tenths = self.leaves_by.load(Ordering::Relaxed);
        (tenths != 0).then(|| Time::from_micros(u64::from(tenths) * TENTH))
    }

    /// Whether an operator drained it.
    pub fn is_draining(&self) -> bool {
        self.flags.load(Ordering::Relaxed) & DRAINING != 0
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

    /// What an attempt that started at `started` says of how well the node works. A node that is full, an answer of 400
    /// to 499 and a client that left say nothing.
    pub fn judge(&self, outcome: &Outcome, started: Time, now: Time, rules: &Ejection) -> Judgement {
        if rules.share_max <= 0.0 {
            self.readmit();
            return Judgement::Nothing;
        }
        match outcome {
            Outcome::Completed { status: ..400 } => {
                let (passed, ramped) = self.record.succeeded(started, now, rules.window, self.is_out());
                if ramped {
                    self.raise(OUT, false);
                }
                if passed { Judgement::Changed(Change::Readmitted) } else { Judgement::Nothing }
            }
            Outcome::Failed(_) => match self.record.failed(started, now, rules, self.is_out()) {
                Some(cause) => Judgement::Eject(cause),
                None => Judgement::Suspect,
            },
            Outcome::Completed { .. } | Outcome::Full { .. } | Outcome::Censored(_) => Judgement::Nothing,
        }
    }

    /// Ejects it at `now`. To be called by one thread at a time.
    pub fn eject(&self, cause: Cause, now: Time, rules: &Ejection) -> Change {
        let pause = self.record.eject(now, rules);
        self.raise(OUT, true);
        Change::Ejected { cause, pause }
    }

    /// Takes it back at once, whatever it has shown: nobody is ejected any more.
    pub fn readmit(&self) {
        if self.is_out() {
            self.raise(OUT, false);
        }
    }

    fn good(&self, thresholds: Thresholds) -> Option<Change> {
        self.failures.store(0, Ordering::Relaxed);
        let row = self.successes.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let rises = row >= thresholds.healthy_after && self.raise(DOWN, false);
        rises.then_some(Change::Rose)
    }

    fn bad(&self, thresholds: Thresholds) -> Option<Change> {
        self.successes.store(0, Ordering::Relaxed);
        let row = self.failures.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let falls = row >= thresholds.unhealthy_after && self.raise(DOWN, true);
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

    #[test]
    fn an_ejected_node_returns_through_a_trial_and_a_ramp() {
        let health = Health::default();
        let rules = Ejection::default();
        let at = Time::from_secs_f64;
        let failed = Outcome::Failed(Failure::Status(500));
        let judge = |outcome: &Outcome, now: f64| health.judge(outcome, at(now), at(now), &rules);
        let verdicts: Vec<Judgement> = (0..5).map(|i| judge(&failed, 1.0 + 0.1 * f64::from(i))).collect();
        assert_eq!(verdicts[..4], [Judgement::Suspect; 4]);
        assert_eq!(verdicts[4], Judgement::Eject(Cause::Consecutive));
        assert_eq!(health.state(at(2.0)), State::Up, "the fleet has the last word");
        assert_eq!(
            health.eject(Cause::Consecutive, at(2.0), &rules),
            Change::Ejected { cause: Cause::Consecutive, pause: rules.base }
        );
        assert_eq!(health.state(at(6.9)), State::Ejected);
        assert_eq!((health.state(at(7.0)), health.ramp()), (State::Trial, 1));
        let well = Outcome::Completed { status: 200 };
        assert_eq!(judge(&well, 7.5), Judgement::Changed(Change::Readmitted));
        assert_eq!((health.state(at(8.0)), health.ramp(), health.is_out()), (State::Up, 2, true));
        (0..70).for_each(|_| assert_eq!(judge(&well, 8.0), Judgement::Nothing));
        assert_eq!((health.ramp(), health.is_out()), (u32::MAX, false));
    }

    #[test]
    fn full_nodes_wrong_requests_and_clients_that_leave_are_no_failures() {
        let health = Health::default();
        let rules = Ejection { consecutive: 1, requests_min: 1, ..Ejection::default() };
        for outcome in [
            Outcome::Full { status: 429, retry_after: None },
            Outcome::Full { status: 503, retry_after: Some(Duration::ZERO) },
            Outcome::Completed { status: 404 },
            Outcome::Censored(crate::outcome::Censor::ClientGone),
        ] {
            assert_eq!(health.judge(&outcome, Time::ZERO, Time::ZERO, &rules), Judgement::Nothing);
        }
        assert_eq!(health.record().failures(Time::ZERO, rules.window), Default::default());
    }
}
