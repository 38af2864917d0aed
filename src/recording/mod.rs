//! Samples as lines of JSON: what `run --record` and `simulate --record` write and `train` reads.
//!
//! One row per attempt, with names in place of the numbers that only one process knows, so that a recording can be
//! read a year later on another machine. JSON and not a denser form, because people look into it with the tools that
//! they have; a row takes some 450 bytes, and some 20 more for each candidate of its decision ([`ChoiceRow`]; of a choice
//! among more than 64 nothing is told). It holds no prompt, no answer, no address of a client. Writing has a thread
//! of its own: neither a request nor the trainer ever waits for a disk.

mod choice;
mod read;
mod restarts;
mod scribe;
mod write;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Time;
use crate::node::NodeId;
use crate::outcome::{Censor, Failure, Outcome, Recall, Sample};
use crate::policy::PolicyId;
use crate::policy::considered::Considered;
use crate::request::KindId;

pub use choice::{ChoiceRow, ModelRow};
pub use read::{BadRow, Rows, read};
pub use restarts::Restarts;
pub use scribe::Scribe;
pub use write::{FILE_BYTES_MAX, FILES_KEPT, Recorder, Rotating};

/// One attempt. Times in seconds; the names end in their unit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// Name of the node.
    pub node: String,
    /// Route and model.
    pub kind: String,
    /// Whether a stream of events was asked for.
    pub streaming: bool,
    /// When it started, since the process or the simulation did.
    pub started_s: f64,
    /// First byte of the body after the start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttfb_s: Option<f64>,
    /// End after the start.
    pub total_s: f64,
    /// `completed`, `full`, `failed` or `censored`.
    pub outcome: String,
    /// The HTTP status, where there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// What went wrong, where something did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Prompt tokens of the request, estimated.
    pub prompt_tokens: u32,
    /// The client's limit on output tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_tokens_max: Option<u32>,
    /// Output tokens as the response told them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_tokens: Option<u32>,
    /// Prompt tokens as the response told them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage_prompt_tokens: Option<u32>,
    /// Of those, tokens that came from the node's cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage_cached_tokens: Option<u32>,
    /// What the node was expected to hold of the prompt, where it was sent its beginning before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recall: Option<Recall>,
    /// Streamed events.
    pub events: u32,
    /// Sum of the gaps between streamed events.
    pub gaps_s: f64,
    /// In flight at the node when the decision was made, without this one.
    pub in_flight: u32,
    /// Of those, how many had no first byte yet.
    pub waiting: u32,
    /// Prompt tokens of those, without what was expected to be cached.
    pub waiting_prompt_tokens: u64,
    /// Time-average of the number in flight over the attempt's life, itself included.
    pub mean_in_flight: f64,
    /// Which policy chose.
    pub policy: String,
    /// Probability with which the node was chosen.
    pub propensity: f64,
    /// Response time that was predicted at the decision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predicted_s: Option<f64>,
    /// Version of the predictor in force; 0 for none.
    pub predictor_version: u32,
    /// What the decision was made from; absent in older recordings, and where there were too many candidates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub choice: Option<ChoiceRow>,
}

/// The failures and censorings that a row's `reason` names.
const FAILURES: [Failure; 5] =
    [Failure::Connect, Failure::Broken, Failure::BrokenBody, Failure::Timeout, Failure::Protocol];
const CENSORS: [(Censor, &str); 4] = [
    (Censor::ClientGone, "client_gone"),
    (Censor::ClientError, "client_error"),
    (Censor::Dropped, "dropped"),
    (Censor::Hedged, "hedged"),
];

impl Row {
    /// The row of a sample, with the names of its node and kind.
    pub fn of(sample: &Sample, node: &str, kind: String) -> Row {
        let (status, reason) = match sample.outcome {
            Outcome::Completed { status } | Outcome::Full { status, .. } => (Some(status), None),
            Outcome::Failed(Failure::Status(status)) => (Some(status), None),
            Outcome::Failed(failure) => (None, Some(failure.word())),
            Outcome::Censored(censor) => {
                (None, CENSORS.iter().find(|(known, _)| *known == censor).map(|(_, word)| *word))
            }
        };
        Row {
            node: node.to_owned(),
            kind,
            streaming: sample.streaming,
            started_s: sample.started.as_secs_f64(),
            ttfb_s: sample.ttfb.map(|ttfb| ttfb.as_secs_f64()),
            total_s: sample.total.as_secs_f64(),
            outcome: sample.outcome.word().to_owned(),
            status,
            reason: reason.map(str::to_owned),
            prompt_tokens: sample.prompt_tokens,
            output_tokens_max: sample.output_tokens_max,
            output_tokens: sample.output_tokens,
            usage_prompt_tokens: sample.usage_prompt_tokens,
            usage_cached_tokens: sample.usage_cached_tokens,
            recall: Some(sample.recall).filter(|recall| recall.matched_tokens > 0.0),
            events: sample.events,
            gaps_s: sample.gaps.as_secs_f64(),
            in_flight: sample.in_flight,
            waiting: sample.waiting,
            waiting_prompt_tokens: sample.waiting_prompt_tokens,
            mean_in_flight: sample.mean_in_flight,
            policy: PolicyId(sample.policy).name().to_owned(),
            propensity: sample.propensity,
            predicted_s: Some(sample.predicted_s).filter(|seconds| seconds.is_finite()),
            predictor_version: sample.predictor_version,
            choice: None,
        }
    }

    /// The same with what its decision was made from.
    #[must_use]
    pub fn considering(self, considered: Option<&Considered>) -> Row {
        Row { choice: considered.map(ChoiceRow::of), ..self }
    }

    /// The sample of a row, on a node and of a kind that the reader has numbered.
    ///
    /// # Errors
    /// What cannot be: an unknown outcome, or a time that is negative or not finite.
    pub fn sample(&self, node: NodeId, slot: u32, kind: KindId) -> Result<Sample, String> {
        let duration = |name: &str, seconds: f64| {
            Duration::try_from_secs_f64(seconds).map_err(|_| format!("{name}: {seconds} is no duration"))
        };
        Ok(Sample {
            node,
            slot,
            kind,
            streaming: self.streaming,
            prompt_tokens: self.prompt_tokens,
            output_tokens_max: self.output_tokens_max,
            in_flight: self.in_flight,
            waiting: self.waiting,
            waiting_prompt_tokens: self.waiting_prompt_tokens,
            recall: self.recall.unwrap_or_default(),
            propensity: self.propensity,
            policy: PolicyId::named(&self.policy).unwrap_or(PolicyId::UNLISTED).0,
            predictor_version: self.predictor_version,
            predicted_s: self.predicted_s.unwrap_or(f64::NAN),
            started: Time::ZERO.after(duration("started_s", self.started_s)?),
            ttfb: self.ttfb_s.map(|seconds| duration("ttfb_s", seconds)).transpose()?,
            total: duration("total_s", self.total_s)?,
            mean_in_flight: self.mean_in_flight,
            events: self.events,
            gaps: duration("gaps_s", self.gaps_s)?,
            output_tokens: self.output_tokens,
            usage_prompt_tokens: self.usage_prompt_tokens,
            usage_cached_tokens: self.usage_cached_tokens,
            outcome: self.outcome()?,
        })
    }

    fn outcome(&self) -> Result<Outcome, String> {
        let reason = self.reason.as_deref().unwrap_or_default();
        let unknown = || format!("outcome: {:?} with status {:?} and reason {reason:?}", self.outcome, self.status);
        let outcome = match (self.outcome.as_str(), self.status) {
            ("completed", Some(status)) => Some(Outcome::Completed { status }),
            ("full", Some(status)) => Some(Outcome::Full { status, retry_after: None }),
            ("failed", Some(status)) => Some(Outcome::Failed(Failure::Status(status))),
            ("failed", None) => FAILURES.into_iter().find(|known| known.word() == reason).map(Outcome::Failed),
            ("censored", _) => {
                CENSORS.iter().find(|(_, word)| *word == reason).map(|(censor, _)| Outcome::Censored(*censor))
            }
            _ => None,
        };
        outcome.ok_or_else(unknown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learn::test_sample;
    use crate::outcome::Extent;

    #[test]
    fn a_row_gives_the_sample_back() {
        let outcomes =
            FAILURES.into_iter().map(Outcome::Failed).chain(CENSORS.map(|(censor, _)| Outcome::Censored(censor)));
        let others = [
            Outcome::Completed { status: 200 },
            Outcome::Full { status: 429, retry_after: None },
            Outcome::Failed(Failure::Status(500)),
        ];
        let extent = Extent { tokens: 4_096.0, seconds: 30.0 };
        for outcome in outcomes.chain(others) {
            let sample = Sample {
                outcome,
                predicted_s: 0.25,
                output_tokens: Some(7),
                usage_cached_tokens: Some(900),
                recall: Recall { matched_tokens: 1_024.0, held_tokens: 1_000.0, cached_tokens: 512.5, extent },
                gaps: Duration::from_micros(1_234_567),
                ..test_sample(3, 5, 0.123_456)
            };
            let row = Row::of(&sample, "gpu-1", "chat llama".to_owned());
            let json = serde_json::to_string(&row).expect("plain data");
            let read: Row = serde_json::from_str(&json).expect("its own words");
            assert_eq!(read, row);
            assert_eq!(read.sample(sample.node, sample.slot, sample.kind), Ok(sample), "{json}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused_by_the_name_of_its_field() {
        let row = Row::of(&test_sample(0, 1, 0.1), "a", String::new());
        let refused = |row: Row| row.sample(NodeId(0), 0, KindId::OTHER).expect_err("refused");
        assert!(refused(Row { total_s: -1.0, ..row.clone() }).starts_with("total_s"));
        assert!(refused(Row { gaps_s: f64::NAN, ..row.clone() }).starts_with("gaps_s"));
        assert!(refused(Row { outcome: "fine".to_owned(), ..row }).starts_with("outcome"));
    }
}
