//! What may be done at all, before it is asked where: budgets and limits.
//!
//! Admission knows nothing of policies and policies nothing of admission; the balancer and the shell ask both.
//! The retry budget bounds retries, the queue orders those who wait for a node.

mod budget;
mod queue;

pub use budget::RetryBudget;
pub use queue::{Entry, Position, Priority, Pushed, Queue, QueueRules, Terms, Turned};
