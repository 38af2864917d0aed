//! Attempts for tests.

use std::io::BufWriter;
use std::sync::Arc;
use std::time::Duration;

use super::history::{Attempt, History};
use crate::balancer::Observer;
use crate::recording::Scribe;
use crate::sim::driver::run_with;
use crate::sim::roster;
use crate::sim::scenario::Scenario;

/// A streamed attempt that completed, by start, first byte and end after the start.
pub(super) fn attempt(start_s: f64, ttfb_s: f64, total_s: f64, prompt_tokens: u32) -> Attempt {
    Attempt {
        node: 0,
        kind: 1,
        streaming: true,
        start_s,
        ttfb_s: Some(ttfb_s),
        total_s,
        completed: true,
        prompt_tokens,
        output_tokens: 2,
        events: 2,
        gaps_s: total_s - ttfb_s,
        waiting: 0,
        propensity: 1.0,
        considered: None,
        output_tokens_max: None,
        usage_prompt_tokens: None,
        usage_output_tokens: None,
    }
}

/// What a run of a shipped scenario would have recorded.
pub(super) fn recorded(scenario: &str, policy: &str, load: f64, seconds: f64) -> History {
    let scenario = Scenario::named(scenario).expect("shipped").expect("sound");
    recorded_of(&scenario.lasting(Duration::from_secs_f64(seconds)), policy, load)
}

/// What a run of a scenario would have recorded.
pub(super) fn recorded_of(scenario: &Scenario, policy: &str, load: f64) -> History {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let scribe = Arc::new(Scribe::new(BufWriter::new(file.reopen().expect("it is there"))));
    let observers = || vec![Arc::clone(&scribe) as Arc<dyn Observer>];
    run_with(scenario, load, 1, |setup| roster::make_observed(policy, setup, observers())).expect("known");
    scribe.finish().expect("written");
    History::read(file.path()).expect("enough")
}
