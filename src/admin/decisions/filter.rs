//! Which decisions a stream tells.
//!
//! All conditions that are given must hold. They are judged when the attempt has ended, as status and time are not
//! known before, and here rather than by the reader, so that a rare kind of decision does not cost a stream of all.

use super::stream::Wanted;
use crate::app::App;
use crate::decisions::{Remembered, Why};
use crate::outcome::{Failure, Outcome};

/// The longest status filter that is shown back.
const SHOWN_MAX: usize = 32;

/// Conditions on a decision.
#[derive(Debug, Default)]
pub(super) struct Filter {
    node: Option<String>,
    model: Option<String>,
    end: Option<End>,
    slow_s: Option<f64>,
    explored: Option<bool>,
    fallback: Option<bool>,
}

/// How an attempt is to have ended.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    /// With a status from the first to the last.
    Status(u16, u16),
    /// With that word.
    Word(&'static str),
}

/// The words of [`Outcome::word`].
const WORDS: [&str; 4] = ["completed", "full", "failed", "censored"];

impl End {
    fn of(text: &str) -> Option<End> {
        let class = text.strip_suffix("xx").and_then(|class| class.parse::<u16>().ok());
        let word = || WORDS.into_iter().find(|word| *word == text).map(End::Word);
        match (class, text.parse::<u16>()) {
            (Some(class @ 1..=5), _) => Some(End::Status(class * 100, class * 100 + 99)),
            (_, Ok(status @ 100..=599)) => Some(End::Status(status, status)),
            _ => word(),
        }
    }

    fn admits(self, outcome: &Outcome) -> bool {
        match (self, outcome) {
            (End::Word(word), outcome) => outcome.word() == word,
            (End::Status(first, last), Outcome::Completed { status } | Outcome::Full { status, .. })
            | (End::Status(first, last), Outcome::Failed(Failure::Status(status))) => (first..=last).contains(status),
            (End::Status(..), _) => false,
        }
    }
}

impl Filter {
    /// The filter that is wanted, or why there is none.
    pub(super) fn of(wanted: Wanted) -> Result<Filter, String> {
        let end = wanted.status.map(|text| {
            let shown: String = text.chars().take(SHOWN_MAX).collect();
            let allowed = "a status such as 503, a class such as 5xx, or one of completed, full, failed, censored";
            End::of(&text).ok_or_else(|| format!("status: {shown:?} is not a status; allowed: {allowed}"))
        });
        if let Some(slow_s) = wanted.slow_s.filter(|slow_s| !(*slow_s >= 0.0 && slow_s.is_finite())) {
            return Err(format!("slow_s: {slow_s} is not a time; allowed: seconds from 0"));
        }
        let Wanted { node, model, slow_s, explored, fallback, .. } = wanted;
        Ok(Filter { node, model, end: end.transpose()?, slow_s, explored, fallback })
    }

    /// Whether it wants a decision; never one that has not ended.
    pub(super) fn admits(&self, app: &App, one: &Remembered) -> bool {
        let Some(sample) = one.ended.get() else { return false };
        let chosen = &one.contenders[one.chosen];
        let is = |wanted: Option<bool>, is: bool| wanted.is_none_or(|wanted| wanted == is);
        self.node.as_ref().is_none_or(|node| *node == chosen.node.name)
            && self.end.is_none_or(|end| end.admits(&sample.outcome))
            && self.slow_s.is_none_or(|slow_s| sample.total.as_secs_f64() >= slow_s)
            && is(self.explored, chosen.why == Why::Explored)
            && is(self.fallback, matches!(chosen.why, Why::Fallback(_)))
            && self.model.as_ref().is_none_or(|model| *model == app.kinds.parts(one.kind).1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Censor;

    #[test]
    fn a_status_is_one_a_class_or_a_word_and_nothing_else() {
        assert_eq!(End::of("503"), Some(End::Status(503, 503)));
        assert_eq!(End::of("4xx"), Some(End::Status(400, 499)));
        assert_eq!(End::of("censored"), Some(End::Word("censored")));
        for wrong in ["", "xx", "6xx", "0", "99", "600", "5XX", "broken", "-1"] {
            assert_eq!(End::of(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn failures_have_a_status_only_where_the_node_gave_one() {
        let ends = [
            (Outcome::Completed { status: 404 }, "4xx", true),
            (Outcome::Full { status: 503, retry_after: None }, "503", true),
            (Outcome::Failed(Failure::Status(500)), "5xx", true),
            (Outcome::Failed(Failure::Connect), "5xx", false),
            (Outcome::Failed(Failure::Connect), "failed", true),
            (Outcome::Censored(Censor::ClientGone), "failed", false),
            (Outcome::Completed { status: 200 }, "500", false),
        ];
        for (outcome, text, admitted) in ends {
            assert_eq!(End::of(text).expect("a status").admits(&outcome), admitted, "{outcome:?} {text}");
        }
    }
}
