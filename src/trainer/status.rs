//! What the trainer tells about itself after each fit, for metrics and the admin API.

use crate::clock::Time;
use crate::learn::pace::Pace;
use crate::learn::{Counts, FitReport};

/// As of the last fit; swapped whole.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// When that was.
    pub at: Time,
    /// What it did; `None` before the first.
    pub last: Option<FitReport>,
    /// Counters since the start of the process, whatever was restarted in between.
    pub counts: Counts,
    /// Mean `|ln(predicted / observed)|` of the model over the last minute, with the true output lengths put in.
    pub model_error: Option<f64>,
    /// The same of the simple baseline that it is compared with.
    pub baseline_error: Option<f64>,
    /// How long the model has stood demoted, in seconds; `None` while it does not.
    pub demoted_for_s: Option<f64>,
    /// How fast attempts end, and where.
    pub pace: Pace,
}
