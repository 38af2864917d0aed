//! Learning: from samples through linfa fits to an immutable predictor. Pure: time is an argument, nothing is drawn.
//!
//! The obvious design, a least-squares fit of latency on load per node and the lowest prediction wins, loses to
//! least-connections: slopes are not identified where a policy keeps nodes at one load, node differences of equal nodes
//! are noise, and load at dispatch is the wrong regressor. So coefficients are non-negative and shrunk to the fleet's
//! ([`fit`](mod@fit)), speed differences count as far as they exceed their errors (`speed`), loads are averages over an
//! attempt's own life ([`features`]), and what moves faster than a fit has correctors of its own ([`drift`],
//! [`penalty`], [`silence`]). A [`guard`] compares the whole with a simple baseline and stands it down if it loses.
//!
//! The pieces meet in [`Learner`], which a [`Teacher`] feeds, and in [`Learned`], which the request path reads.

pub mod capacity;
mod check;
pub mod drift;
mod entry;
pub mod expect;
pub mod explore;
pub mod features;
pub mod fit;
pub mod guard;
pub mod lane;
pub mod lateness;
pub mod learned;
mod learner;
mod method;
mod nonneg;
pub mod pace;
pub mod penalty;
pub mod predictor;
mod reading;
mod report;
pub mod reuse;
pub mod sample;
pub mod silence;
pub mod slots;
pub mod snapshot;
mod speed;
mod stats;
pub mod store;
mod teacher;
#[cfg(test)]
mod tests;

pub use features::Target;
pub use guard::{Fallback, log_error};
pub use learned::{Knobs, Learned, NodeLearned, PROXIES_MAX};
pub use learner::{Learner, PENDING_MAX, Scored};
pub use method::Method;
pub use nonneg::SolveError;
pub use predictor::{Ask, How, NodeLoad, NodeModel, Prediction, Predictor};
pub use report::{Counts, FitReport, FitResult};
pub use sample::Unfit;
pub use snapshot::{Snapshot, SnapshotError};
pub use speed::EVIDENCE_MIN;
pub use stats::Stats;
pub use teacher::{LOOK_EVERY, REFIT_EVERY, Teacher};

#[cfg(test)]
pub(crate) use sample::tests::plain as test_sample;
