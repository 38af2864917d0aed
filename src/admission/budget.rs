//! How many retries there may be: a share of the requests, plus a floor per second.
//!
//! A fixed number of retries per request multiplies the load exactly when nodes fail under load. A budget bounds the
//! *sum*: in Finagle (`RetryBudget`: 20 % and 10 per second over 10 s; tower has the same) every request deposits
//! a fifth of a retry, and a retry withdraws a whole one. Those two forget deposits by a ring of time slots; here the
//! balance decays toward the floor's reserve instead, with the same 10 s as its time constant:
//!
//! ```text
//! d balance / dt = floor - balance / 10 s,      + ratio per request,      - 1 per retry, never below 0
//! ```
//!
//! That fits in one atomic word (no lock, no slots), and its bound is the same: over any time the retries are at most
//! `ratio * requests + floor * seconds` plus what had been saved up, which decay keeps at 10 seconds' worth. It does
//! not decide *whether* a request may be retried (was it sent, is it idempotent), only whether the proxy can afford it.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::clock::{Time, Timed};

/// Time constant with which unused deposits are forgotten, in seconds; Finagle's window.
const MEMORY_S: f64 = 10.0;

/// The most that can be saved up, in retries; keeps the balance where an `f32` still counts a fifth of a retry.
const BALANCE_MAX: f64 = 100_000.0;

/// A bound of retries in proportion to requests. May be shared by all threads.
#[derive(Debug)]
pub struct RetryBudget {
    /// The bits of an `f64`, as [`set`](RetryBudget::set) may change it while requests run.
    ratio: AtomicU64,
    /// The balance in the absence of requests; bits as above.
    reserve: AtomicU64,
    balance: Timed,
}

impl Default for RetryBudget {
    /// 20 % of the requests and 10 per second, as in Finagle.
    fn default() -> Self {
        RetryBudget::new(0.2, 10.0)
    }
}

impl RetryBudget {
    /// A budget of `ratio` retries per request (0.2 is one retry for five requests) and `floor_per_s` retries per second
    /// besides, so that a proxy with few requests can retry at all. It starts with ten seconds of the floor saved up.
    ///
    /// Ratios below 0 and floors below 0, and what is not a number, count as 0; both at 0 forbid every retry.
    pub fn new(ratio: f64, floor_per_s: f64) -> RetryBudget {
        let reserve = (floor_per_s.max(0.0) * MEMORY_S).min(BALANCE_MAX);
        RetryBudget {
            ratio: AtomicU64::new(ratio.max(0.0).to_bits()),
            reserve: AtomicU64::new(reserve.to_bits()),
            balance: Timed::new(reserve as f32),
        }
    }

    /// Changes ratio and floor from now on; what is saved up stays and drifts towards the new floor.
    pub fn set(&self, ratio: f64, floor_per_s: f64) {
        let fresh = RetryBudget::new(ratio, floor_per_s);
        self.ratio.store(fresh.ratio.into_inner(), Ordering::Relaxed);
        self.reserve.store(fresh.reserve.into_inner(), Ordering::Relaxed);
    }

    fn ratio(&self) -> f64 {
        f64::from_bits(self.ratio.load(Ordering::Relaxed))
    }

    /// A request came (the first attempt of it, not a retry).
    pub fn deposit(&self, now: Time) {
        self.balance.update(now, |balance, elapsed_s| {
            Some((self.after(balance, elapsed_s) + self.ratio()).min(BALANCE_MAX) as f32)
        });
    }

    /// Takes one retry out of the budget; `false`, and nothing taken, if there is none.
    #[must_use]
    pub fn try_withdraw(&self, now: Time) -> bool {
        self.balance.update(now, |balance, elapsed_s| {
            let balance = self.after(balance, elapsed_s);
            (balance >= 1.0).then_some((balance - 1.0) as f32)
        })
    }

    /// How many retries it would allow at `now`.
    pub fn balance(&self, now: Time) -> f64 {
        let (balance, elapsed_s) = self.balance.read(now);
        self.after(balance, elapsed_s)
    }

    fn after(&self, balance: f32, elapsed_s: f64) -> f64 {
        let balance = f64::from(balance);
        if elapsed_s == 0.0 {
            return balance;
        }
        let reserve = f64::from_bits(self.reserve.load(Ordering::Relaxed));
        reserve + (balance - reserve) * (-elapsed_s / MEMORY_S).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(seconds: f64) -> Time {
        Time::from_secs_f64(seconds)
    }

    fn withdraw_all(budget: &RetryBudget, now: Time) -> usize {
        (0..1_000_000).take_while(|_| budget.try_withdraw(now)).count()
    }

    #[test]
    fn a_budget_that_is_changed_keeps_what_is_saved_and_follows_the_new_floor() {
        let budget = RetryBudget::new(0.0, 1.0);
        let start = budget.balance(Time::ZERO);
        budget.set(0.5, 0.0);
        assert_eq!(budget.balance(Time::ZERO), start);
        assert!(budget.balance(Time::from_secs_f64(1000.0)) < 0.001);
        budget.deposit(Time::from_secs_f64(1000.0));
        assert!((budget.balance(Time::from_secs_f64(1000.0)) - 0.5).abs() < 0.001);
    }

    #[test]
    fn five_requests_pay_for_one_retry() {
        let budget = RetryBudget::new(0.2, 0.0);
        assert!(!budget.try_withdraw(at(1.0)));
        for _ in 0..50 {
            budget.deposit(at(1.0));
        }
        // Sums of 0.2 in 24 bits end a little beside 10.
        let retries = withdraw_all(&budget, at(1.0));
        assert!((9..=10).contains(&retries), "{retries}");
    }

    #[test]
    fn the_floor_alone_allows_its_rate_and_a_reserve_of_ten_seconds() {
        let budget = RetryBudget::new(0.2, 10.0);
        assert_eq!(withdraw_all(&budget, at(5.0)), 100);
        let steady: usize = (1..=200).map(|step| withdraw_all(&budget, at(5.0 + f64::from(step) * 0.1))).sum();
        assert!((190..=200).contains(&steady), "{steady} in 20 s");
        assert!((budget.balance(at(1000.0)) - 100.0).abs() < 1e-3);
    }

    #[test]
    fn a_busy_hour_is_not_saved_up_for_a_bad_minute() {
        let budget = RetryBudget::new(0.2, 0.0);
        for step in 0..360_000 {
            budget.deposit(at(f64::from(step) * 0.01));
        }
        // 100 requests per second earn 20 retries per second, of which ten seconds' worth are remembered.
        let saved = budget.balance(at(3_600.0));
        assert!((saved - 200.0).abs() < 2.0, "{saved}");
        assert!(budget.balance(at(3_700.0)) < 0.02);
    }

    #[test]
    fn nonsense_forbids_retries_instead_of_allowing_all() {
        for budget in [RetryBudget::new(-1.0, -5.0), RetryBudget::new(f64::NAN, f64::NAN)] {
            budget.deposit(at(1.0));
            assert!(!budget.try_withdraw(at(2.0)));
        }
        let endless = RetryBudget::new(f64::INFINITY, f64::INFINITY);
        endless.deposit(at(1.0));
        assert_eq!(endless.balance(at(1.0)), BALANCE_MAX);
    }

    #[test]
    fn threads_never_withdraw_more_than_there_is() {
        let budget = RetryBudget::new(0.0, 10.0);
        let taken: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| withdraw_all(&budget, at(1.0)))).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
        });
        assert_eq!(taken, 100);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn retries_never_exceed_the_share_the_floor_and_the_reserve(
            ratio in 0.0..1.0f64,
            floor in 0.0..20.0f64,
            steps in prop::collection::vec((0.0..2.0f64, 0u32..20, 0u32..20), 1..60),
        ) {
            let budget = RetryBudget::new(ratio, floor);
            let (mut now_s, mut requests, mut retries) = (3.0, 0u32, 0u32);
            for (pause_s, deposits, wanted) in steps {
                now_s += pause_s;
                (0..deposits).for_each(|_| budget.deposit(at(now_s)));
                requests += deposits;
                retries += (0..wanted).filter(|_| budget.try_withdraw(at(now_s))).count() as u32;
                let allowed = ratio * f64::from(requests) + floor * (now_s - 3.0) + floor * MEMORY_S;
                prop_assert!(f64::from(retries) <= allowed * (1.0 + 1e-4) + 1e-3, "{retries} of {allowed}");
                prop_assert!(budget.balance(at(now_s)) >= 0.0);
            }
        }
    }
}
