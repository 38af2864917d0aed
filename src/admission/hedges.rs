//! How many hedges there may be: a share of the requests on routes that hedge, counted exactly.
//!
//! A second copy of one request in fifty shortens the tail at next to no cost (Dean and Barroso 2013, "The Tail at
//! Scale"); copies of every slow request double the load at the moment when everything is slow. So each request earns a
//! part of a hedge and a hedge costs a whole one. Unlike the budget of retries there is neither a floor nor forgetting:
//! nothing breaks without a hedge, and a quiet fleet, whose requests are long, must be able to save up for one. What can
//! be saved up is bounded instead, so that a good hour does not pay for a flood.

use std::sync::atomic::{AtomicU64, Ordering};

/// One hedge, in the units of the balance.
const HEDGE: u64 = 1_000_000;

/// The most hedges that can be saved up.
const SAVED_MAX: u64 = 10;

/// A bound of hedges in proportion to requests. May be shared by all threads.
#[derive(Debug)]
pub struct HedgeBudget {
    /// What a request earns.
    earns: AtomicU64,
    balance: AtomicU64,
}

impl HedgeBudget {
    /// A budget of `ratio` hedges per request, 0..=1; what is not in that range is brought into it.
    pub fn new(ratio: f64) -> HedgeBudget {
        let budget = HedgeBudget { earns: AtomicU64::new(0), balance: AtomicU64::new(0) };
        budget.set(ratio);
        budget
    }

    /// Changes the ratio from now on; what is saved up stays.
    pub fn set(&self, ratio: f64) {
        // What is not a number becomes 0.
        self.earns.store((ratio.clamp(0.0, 1.0) * HEDGE as f64) as u64, Ordering::Relaxed);
    }

    /// A request came that may be hedged.
    pub fn deposit(&self) {
        let earned = self.earns.load(Ordering::Relaxed);
        self.change(|balance| Some((balance + earned).min(SAVED_MAX * HEDGE)));
    }

    /// Takes one hedge out of the budget; `false`, and nothing taken, if there is none.
    #[must_use]
    pub fn try_withdraw(&self) -> bool {
        self.change(|balance| balance.checked_sub(HEDGE))
    }

    /// Gives back one that was taken and not used.
    pub fn refund(&self) {
        self.change(|balance| Some((balance + HEDGE).min(SAVED_MAX * HEDGE)));
    }

    fn change(&self, change: impl Fn(u64) -> Option<u64>) -> bool {
        self.balance.fetch_update(Ordering::Relaxed, Ordering::Relaxed, change).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fifty_requests_pay_for_one_hedge_and_no_more_than_ten_are_saved() {
        let budget = HedgeBudget::new(0.02);
        let mut hedges = 0;
        for request in 1..=1_000u32 {
            budget.deposit();
            hedges += u32::from(budget.try_withdraw());
            assert!(hedges <= request / 50, "{hedges} after {request}");
        }
        assert_eq!(hedges, 20);
        (0..100_000).for_each(|_| budget.deposit());
        assert_eq!((0..100).filter(|_| budget.try_withdraw()).count(), 10);
    }

    #[test]
    fn a_hedge_that_was_not_made_is_not_paid_for_and_nonsense_allows_none() {
        let budget = HedgeBudget::new(1.0);
        budget.deposit();
        assert!(budget.try_withdraw() && !budget.try_withdraw());
        budget.refund();
        assert!(budget.try_withdraw());
        budget.set(f64::NAN);
        (0..100).for_each(|_| budget.deposit());
        assert!(!budget.try_withdraw());
    }

    #[test]
    fn threads_together_never_exceed_the_share() {
        let budget = HedgeBudget::new(0.02);
        let hedges: usize = std::thread::scope(|scope| {
            let work = || {
                (0..10_000)
                    .filter(|_| {
                        budget.deposit();
                        budget.try_withdraw()
                    })
                    .count()
            };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(work)).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
        });
        assert!((790..=800).contains(&hedges), "{hedges} of 40,000");
    }
}
