//! The line between the trainer's thread and everybody else: what it tells, and what it is asked to do.
//!
//! The learner has one owner and no lock, so nobody reads it while it learns. Its trainer tells its [`Progress`] after
//! every refit, and takes [`Order`]s when it comes round. A bounded queue instead of a channel, because a trainer that
//! died and was started again must find the line where it was; whoever asked waits for the answer with a patience of
//! its own, and learns from a dropped answer that there is none.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwapOption;
use tokio::sync::oneshot;

use crate::clock::Time;
use crate::learn::guard::Guard;
use crate::learn::{Counts, FitReport};

/// Orders that wait at most: they come from operators, one at a time.
pub const ORDERS_MAX: usize = 16;

/// What the trainer is asked to do; it answers through the sender.
#[derive(Debug)]
pub enum Order {
    /// Forget everything that was learned.
    Reset(oneshot::Sender<()>),
    /// Save what was learned now; the answer is where, or why not.
    Snapshot(oneshot::Sender<Result<String, String>>),
}

/// How learning goes, as of the last refit.
#[derive(Clone, Debug)]
pub struct Progress {
    /// When it was told.
    pub at: Time,
    /// Model against baseline.
    pub guard: Guard,
    /// Counters of the learner.
    pub counts: Counts,
    /// What the last refit did.
    pub fit: FitReport,
    /// How long it took, in seconds.
    pub fit_s: f64,
    /// Samples that were dropped because the trainer did not keep up.
    pub queue_dropped: u64,
}

/// The line.
#[derive(Debug, Default)]
pub struct Learning {
    progress: ArcSwapOption<Progress>,
    orders: Mutex<VecDeque<Order>>,
}

impl Learning {
    /// For the trainer: tells how it goes.
    pub fn tell(&self, progress: Progress) {
        self.progress.store(Some(Arc::new(progress)));
    }

    /// How it went last; `None` before the first refit.
    pub fn progress(&self) -> Option<Arc<Progress>> {
        self.progress.load_full()
    }

    /// Asks the trainer to do something.
    ///
    /// # Errors
    /// The order back, if [`ORDERS_MAX`] wait already.
    pub fn ask(&self, order: Order) -> Result<(), Order> {
        let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        // Nobody waits for these any more: an order must not be carried out minutes after it was given up.
        orders.retain(|order| !order.is_given_up());
        if orders.len() >= ORDERS_MAX {
            return Err(order);
        }
        orders.push_back(order);
        Ok(())
    }

    /// For the trainer: the next order that somebody still waits for.
    pub fn next_order(&self) -> Option<Order> {
        let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        std::iter::from_fn(|| orders.pop_front()).find(|order| !order.is_given_up())
    }
}

impl Order {
    fn is_given_up(&self) -> bool {
        match self {
            Order::Reset(answer) => answer.is_closed(),
            Order::Snapshot(answer) => answer.is_closed(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_taken_in_turn_and_only_while_somebody_waits() {
        let learning = Learning::default();
        let (first, mut first_answer) = oneshot::channel();
        let (second, given_up) = oneshot::channel();
        learning.ask(Order::Reset(first)).expect("room");
        learning.ask(Order::Snapshot(second)).expect("room");
        drop(given_up);
        let Some(Order::Reset(answer)) = learning.next_order() else { panic!("the first order") };
        answer.send(()).expect("somebody waits");
        assert_eq!(first_answer.try_recv(), Ok(()));
        assert!(learning.next_order().is_none());
    }

    #[test]
    fn waiting_orders_are_bounded() {
        let learning = Learning::default();
        let ask = |answers: &mut Vec<oneshot::Receiver<()>>| {
            let (order, answer) = oneshot::channel();
            answers.push(answer);
            learning.ask(Order::Reset(order)).is_ok()
        };
        let mut answers = Vec::new();
        assert!((0..ORDERS_MAX).all(|_| ask(&mut answers)));
        assert!(!ask(&mut answers));
        answers.clear();
        assert!(ask(&mut answers), "those that were given up make room");
    }
}
