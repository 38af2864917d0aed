//! The door of the learner: what may become a label, and what is refused.
//!
//! Failures answer quickly, departed clients say nothing, and a full node is not slow: none of them is a label. What is
//! left must be numbers that can have happened. Everything behind this door may rely on finite values, so one broken
//! clock or counter cannot put a NaN into sums that live for minutes.

use std::time::Duration;

use crate::learn::features::{self, OUTPUT_UNIT, PROMPT_UNIT, Row, Target};
use crate::node::IN_FLIGHT_MAX;
use crate::outcome::{Outcome, Recall, Sample, uncached};

/// The longest response time that is believed: a day.
pub const TOTAL_MAX: Duration = Duration::from_secs(86_400);

/// The longest gap between two events that is believed, in seconds.
pub const GAP_MAX_S: f64 = 3_600.0;

/// The most tokens or events of one request that are believed.
pub const TOKENS_MAX: u32 = 100_000_000;

/// Why an ended attempt is not a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// The node failed.
    Failed,
    /// The node had no room.
    Full,
    /// A 4xx: answered, but not with the work that others wait for.
    ClientError,
    /// Nobody knows how it would have ended.
    Censored,
    /// Numbers that cannot have happened.
    Absurd,
    /// The node is gone, and another may have its slot.
    Gone,
}

impl Unfit {
    /// All of them, in the order of their counters.
    pub const ALL: [Unfit; 6] =
        [Unfit::Failed, Unfit::Full, Unfit::ClientError, Unfit::Censored, Unfit::Absurd, Unfit::Gone];

    /// The word for labels.
    pub fn word(self) -> &'static str {
        match self {
            Unfit::Failed => "failed",
            Unfit::Full => "full",
            Unfit::ClientError => "client_error",
            Unfit::Censored => "censored",
            Unfit::Absurd => "absurd",
            Unfit::Gone => "gone",
        }
    }
}

/// Lets a sample pass if its times may become labels.
///
/// # Errors
/// Why they may not.
pub fn admit(sample: &Sample) -> Result<(), Unfit> {
    match sample.outcome {
        Outcome::Failed(_) => return Err(Unfit::Failed),
        Outcome::Full { .. } => return Err(Unfit::Full),
        Outcome::Censored(_) => return Err(Unfit::Censored),
        Outcome::Completed { .. } if !sample.outcome.is_latency_label() => return Err(Unfit::ClientError),
        Outcome::Completed { .. } => {}
    }
    let load = sample.mean_in_flight;
    let plausible = !sample.total.is_zero()
        && sample.total <= TOTAL_MAX
        && sample.ttfb.is_none_or(|ttfb| !ttfb.is_zero() && ttfb <= sample.total)
        && load.is_finite()
        && (0.0..=f64::from(IN_FLIGHT_MAX)).contains(&load)
        && sample.in_flight <= IN_FLIGHT_MAX
        && sample.waiting <= IN_FLIGHT_MAX
        && sample.prompt_tokens <= TOKENS_MAX
        && is_plausible(&sample.recall)
        && sample.waiting_prompt_tokens <= u64::from(TOKENS_MAX) * 1_000
        && sample.events <= TOKENS_MAX
        && sample.output_tokens.is_none_or(|tokens| tokens <= TOKENS_MAX)
        && sample.propensity > 0.0
        && sample.propensity <= 1.0;
    if plausible { Ok(()) } else { Err(Unfit::Absurd) }
}

/// Whether that can have been found of a prompt.
fn is_plausible(recall: &Recall) -> bool {
    let Recall { matched_tokens, held_tokens, cached_tokens, extent } = *recall;
    [matched_tokens, held_tokens, cached_tokens, extent.tokens, extent.seconds]
        .iter()
        .all(|x| x.is_finite() && *x >= 0.0)
}

/// What an admitted sample says: which target, its regressors, and the observed seconds.
///
/// `slots` is the node's learned slot limit. A stream says something only with its first byte.
pub fn label(sample: &Sample, slots: f64) -> Option<(Target, Row, f64)> {
    if sample.streaming {
        let prompt = uncached(sample.prompt_tokens, past(sample)) / PROMPT_UNIT;
        let held = f64::from(sample.prompt_tokens) / PROMPT_UNIT - prompt;
        let waiting = sample.waiting_prompt_tokens as f64 / PROMPT_UNIT;
        let row = features::first_byte(prompt, waiting, features::place(f64::from(sample.in_flight), slots), held);
        return sample.ttfb.map(|ttfb| (Target::FirstByte, row, ttfb.as_secs_f64()));
    }
    let prompt = sample.recall.uncached(sample.prompt_tokens) / PROMPT_UNIT;
    let (n, seconds) = (sample.mean_in_flight.max(1.0), sample.total.as_secs_f64());
    Some(match sample.output_tokens {
        Some(tokens) => {
            (Target::TotalTokens, features::total_tokens(n, prompt, f64::from(tokens) / OUTPUT_UNIT), seconds)
        }
        None => (Target::Total, features::total(n), seconds),
    })
}

/// The tokens of a prompt that may have been cached: what the response told, otherwise all that matched, whatever was
/// expected of it. Expecting too little would otherwise prove itself right: what is cached and counts as read makes
/// reading look cheap, and by the price of reading is measured what was cached.
fn past(sample: &Sample) -> f32 {
    let Recall { matched_tokens, cached_tokens, .. } = sample.recall;
    sample.told_cached().map_or(matched_tokens.max(cached_tokens), |told| told as f32)
}

/// The regressors and mean gap of what a node streamed in an interval in which it read so many thousands of prompt tokens
/// a second; `None` where it cannot have happened.
pub fn gap(mean_in_flight: f64, read: f64, sum_s: f64, events: u64) -> Option<(Row, f64)> {
    let mean_s = sum_s / events as f64;
    let plausible = (0.0..=f64::from(IN_FLIGHT_MAX)).contains(&mean_in_flight) && (0.0..=GAP_MAX_S).contains(&mean_s);
    (events > 0 && plausible).then(|| (features::gap(mean_in_flight.max(1.0), read), mean_s))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::clock::Time;
    use crate::node::NodeId;
    use crate::outcome::{Censor, Extent, Failure};
    use crate::request::KindId;

    /// A plain answer of node `slot` after `total_s` at `n` in flight.
    pub(crate) fn plain(slot: u32, n: u32, total_s: f64) -> Sample {
        Sample {
            node: NodeId(slot),
            slot,
            kind: KindId::OTHER,
            streaming: false,
            prompt_tokens: 0,
            output_tokens_max: None,
            in_flight: n - 1,
            waiting: n - 1,
            waiting_prompt_tokens: 0,
            recall: Recall::default(),
            propensity: 1.0,
            policy: 0,
            predictor_version: 0,
            predicted_s: f64::NAN,
            started: Time::ZERO,
            ttfb: Some(Duration::from_secs_f64(total_s)),
            total: Duration::from_secs_f64(total_s),
            mean_in_flight: f64::from(n),
            events: 0,
            gaps: Duration::ZERO,
            output_tokens: None,
            usage_prompt_tokens: None,
            usage_cached_tokens: None,
            outcome: Outcome::Completed { status: 200 },
        }
    }

    #[test]
    fn only_answers_become_labels() {
        let with = |outcome| admit(&Sample { outcome, ..plain(0, 1, 0.1) });
        assert_eq!(with(Outcome::Completed { status: 200 }), Ok(()));
        assert_eq!(with(Outcome::Completed { status: 404 }), Err(Unfit::ClientError));
        assert_eq!(with(Outcome::Failed(Failure::Status(500))), Err(Unfit::Failed));
        assert_eq!(with(Outcome::Full { status: 429, retry_after: None }), Err(Unfit::Full));
        assert_eq!(with(Outcome::Censored(Censor::ClientGone)), Err(Unfit::Censored));
    }

    #[test]
    fn what_cannot_have_happened_is_refused() {
        let good = plain(0, 3, 0.1);
        let absurd = [
            Sample { total: Duration::ZERO, ttfb: None, ..good },
            Sample { total: Duration::MAX, ..good },
            Sample { ttfb: Some(Duration::from_secs(5)), ..good },
            Sample { mean_in_flight: f64::NAN, ..good },
            Sample { mean_in_flight: 1e300, ..good },
            Sample { mean_in_flight: -1.0, ..good },
            Sample { output_tokens: Some(u32::MAX), ..good },
            Sample { recall: Recall { cached_tokens: f32::NAN, ..Recall::default() }, ..good },
            Sample { recall: Recall { extent: Extent { tokens: -1.0, seconds: 0.0 }, ..Recall::default() }, ..good },
            Sample { propensity: 0.0, ..good },
            Sample { propensity: f64::NAN, ..good },
        ];
        for sample in absurd {
            assert_eq!(admit(&sample), Err(Unfit::Absurd), "{sample:?}");
        }
        for (load, sum, events) in [(f64::NAN, 1.0, 1), (1.0, f64::INFINITY, 1), (1.0, -1.0, 1), (1.0, 1.0, 0)] {
            assert_eq!(gap(load, 0.0, sum, events), None);
        }
    }
}
