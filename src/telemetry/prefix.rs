//! What is known again of prompts: how much matched, how much was expected to be cached, and how much was.
//!
//! Counters of tokens and not ratios, so that ratios can be taken over any time and any nodes. What was expected is
//! compared with what was told only where a response tells its cached tokens; both are in tokens as requests are measured.

use metrics::Counter;

use super::series::{self, Registry};
use crate::outcome::{Outcome, Sample};
use crate::prefix::Fill;

/// Of attempts that completed: the prompt, what matched of it, and what was expected to be cached.
const SEEN: [&str; 3] = ["prompt", "matched", "expected"];

/// Of those whose responses told: the prompt, what was expected of what matched, what of that was told, and by how much
/// the two differed.
const TOLD: [&str; 4] = ["prompt", "expected", "cached", "error"];

/// The counters of one node.
pub(super) struct PrefixCounters {
    seen: [Counter; SEEN.len()],
    told: [Counter; TOLD.len()],
}

impl PrefixCounters {
    pub(super) fn new(registry: &Registry) -> PrefixCounters {
        PrefixCounters {
            seen: SEEN.map(|of| registry.counter_with(series::PREFIX_TOKENS, "of", of)),
            told: TOLD.map(|of| registry.counter_with(series::PREFIX_TOLD_TOKENS, "of", of)),
        }
    }

    pub(super) fn finished(&self, sample: &Sample) {
        if sample.prompt_tokens == 0 || !matches!(sample.outcome, Outcome::Completed { status: 200.. }) {
            return;
        }
        let (prompt, recall) = (f64::from(sample.prompt_tokens), &sample.recall);
        self.seen[0].increment(u64::from(sample.prompt_tokens));
        // Most prompts are new.
        if recall.matched_tokens > 0.0 {
            add(&self.seen[1..], [f64::from(recall.matched_tokens).min(prompt), f64::from(recall.cached_tokens)]);
        }
        if let Some(told) = sample.told_cached() {
            let (matched, expected) = (f64::from(recall.matched_tokens), f64::from(recall.held_tokens));
            add(&self.told, [prompt, expected, told, (expected - told.min(matched)).abs()]);
        }
    }
}

fn add<const N: usize>(counters: &[Counter], tokens: [f64; N]) {
    for (counter, tokens) in counters.iter().zip(tokens) {
        counter.increment(tokens.round() as u64);
    }
}

/// How full the memory of prompts is, as text.
pub(super) fn render(fill: &Fill) -> String {
    let lines = [
        (series::PREFIX_ENTRIES, "gauge", fill.entries),
        (series::PREFIX_BYTES, "gauge", fill.bytes),
        (series::PREFIX_BYTES_MAX, "gauge", fill.bytes_max),
        (series::PREFIX_EVICTIONS, "counter", fill.evicted),
        (series::PREFIX_PASSED_BY, "counter", fill.passed_by),
    ];
    lines.map(|(name, kind, value)| format!("# TYPE {name} {kind}\n{name} {value}\n")).concat()
}
