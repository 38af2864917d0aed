//! What may be done at all, before it is asked where: budgets and limits.
//!
//! Admission knows nothing of policies and policies nothing of admission; the balancer and the shell ask both.
//! The budgets bound retries and hedges, a limit keeps a node from being overfilled, the queue orders those who wait for one,
//! and rates and places bound what one client asks for and holds.

mod budget;
mod hedges;
mod limit;
mod places;
mod queue;
mod rate;

pub use budget::RetryBudget;
pub use hedges::HedgeBudget;
pub use limit::{AutoLimit, Signal};
pub use places::{Place, Places};
pub use queue::{Entry, Position, Priority, Pushed, Queue, QueueRules, Terms, Turned};
pub use rate::{Allowance, Quota, RateRules, RateTable, Standing};
