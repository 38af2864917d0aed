//! What may be done at all, before it is asked where: budgets and limits.
//!
//! Admission knows nothing of policies and policies nothing of admission; the balancer and the shell ask both.
//! So far there is the retry budget. Queueing and shedding have their home here.

mod budget;

pub use budget::RetryBudget;
