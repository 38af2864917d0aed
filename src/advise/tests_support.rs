//! Attempts for tests.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::history::{Attempt, History};
use crate::balancer::Observer;
use crate::fleet::Node;
use crate::outcome::Sample;
use crate::recording::Row;
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
        output_tokens_max: None,
        usage_prompt_tokens: None,
        usage_output_tokens: None,
    }
}

/// What a run of a shipped scenario would have recorded.
pub(super) fn recorded(scenario: &str, policy: &str, load: f64, seconds: f64) -> History {
    let scenario = Scenario::named(scenario).expect("shipped").expect("sound");
    let scenario = scenario.lasting(Duration::from_secs_f64(seconds));
    let file = tempfile::NamedTempFile::new().expect("a file");
    let scribe = Arc::new(Scribe(Mutex::new(Vec::new())));
    let observers = || vec![Arc::clone(&scribe) as Arc<dyn Observer>];
    run_with(&scenario, load, 1, |setup| roster::make_observed(policy, setup, observers())).expect("known");
    let rows = std::mem::take(&mut *scribe.0.lock().expect("sound"));
    std::fs::write(file.path(), rows).expect("written");
    History::read(file.path()).expect("enough")
}

struct Scribe(Mutex<Vec<u8>>);

impl Observer for Scribe {
    fn finished(&self, node: &Node, sample: &Sample) {
        let row = Row::of(sample, &node.spec.name, "k".to_owned());
        let mut lines = self.0.lock().expect("sound");
        serde_json::to_writer(&mut *lines, &row).expect("plain data");
        lines.push(b'\n');
    }
}
