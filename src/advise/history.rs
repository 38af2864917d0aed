//! A recording as advice needs it: every attempt in a few numbers, in order of its start.
//!
//! Fitting needs each attempt together with those that ran beside it, so this is held in memory, and bounded: a recorder
//! keeps at most 1.5 million attempts. If a proxy was started anew in the middle of a recording, its clock began at zero
//! again; then only what the last start recorded counts.

use std::collections::HashMap;
use std::path::Path;

use crate::policy::considered::Considered;
use crate::policy::{self, PolicyId};
use crate::recording::{self, Restarts, Row};

/// Attempts that are held at most; some 200 MB.
pub const ATTEMPTS_MAX: usize = 2_000_000;

/// Candidates of decisions that are held at most; some 150 MB. Of later attempts the choice is left out.
pub const CANDIDATES_MAX: usize = 3_000_000;

/// Bad lines that are tolerated.
const BAD_MAX: u64 = 100;

/// One attempt.
#[derive(Clone, Debug, PartialEq)]
pub struct Attempt {
    /// Index into [`History::nodes`].
    pub node: u32,
    /// From 1, in the order in which kinds appeared.
    pub kind: u16,
    /// Whether a stream was asked for.
    pub streaming: bool,
    /// Start, in seconds of the recorder's clock.
    pub start_s: f64,
    /// First byte after the start.
    pub ttfb_s: Option<f64>,
    /// End after the start.
    pub total_s: f64,
    /// Whether it completed with a status below 400: only those say how long an answer takes.
    pub completed: bool,
    /// Prompt tokens.
    pub prompt_tokens: u32,
    /// Output tokens: as told, or the events of a stream; 0 for unknown.
    pub output_tokens: u32,
    /// Streamed events.
    pub events: u32,
    /// Sum of the gaps between them.
    pub gaps_s: f64,
    /// Waiting for a first byte at the node when it started, without this one.
    pub waiting: u32,
    /// Probability with which the node was chosen.
    pub propensity: f64,
    /// What it was chosen from, as far as that is known and [`CANDIDATES_MAX`] allows.
    pub considered: Option<Box<Considered>>,
    /// Limit on output tokens of the client.
    pub output_tokens_max: Option<u32>,
    /// Prompt tokens as the response told them.
    pub usage_prompt_tokens: Option<u32>,
    /// Output tokens as the response told them.
    pub usage_output_tokens: Option<u32>,
}

impl Attempt {
    /// When it ended.
    pub fn end_s(&self) -> f64 {
        self.start_s + self.total_s
    }
}

/// A recording.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Names of the nodes, in alphabetical order.
    pub nodes: Vec<String>,
    /// Names of the kinds; kind 1 is the first.
    pub kinds: Vec<String>,
    /// In order of start.
    pub attempts: Vec<Attempt>,
    /// The policy that chose most of them.
    pub policy: String,
    /// Lines that were no rows.
    pub bad: Vec<String>,
    /// How often the recorder was started anew; what it recorded before is not here.
    pub restarts: u32,
    /// The node in each slot, as far as attempts of it are known; an index into [`History::nodes`].
    pub slots: HashMap<u32, u32>,
    /// Candidates of decisions that the recording tells.
    pub candidates: usize,
}

/// Why a recording is no basis for advice.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// It cannot be opened.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// Too many lines are wrong.
    #[error("{} lines are no rows of a recording, the first: {first}", count)]
    Bad {
        /// How many.
        count: u64,
        /// The first of them.
        first: String,
    },
    /// It is longer than can be held.
    #[error("more than {ATTEMPTS_MAX} attempts: give a shorter recording")]
    TooMany,
    /// There is too little in it.
    #[error("only {0} completed attempts: at least {COMPLETED_MIN} say something")]
    TooFew(usize),
}

/// Completed attempts that a recording must have.
pub const COMPLETED_MIN: usize = 200;

impl History {
    /// Reads a recording.
    ///
    /// # Errors
    /// See [`HistoryError`].
    pub fn read(path: &Path) -> Result<History, HistoryError> {
        let mut history = History::default();
        let (mut names, mut chose) = (HashMap::new(), HashMap::new());
        let (mut bad, mut restarts) = (0, Restarts::default());
        for row in recording::read(path)? {
            match row {
                Err(error) => {
                    bad += 1;
                    if history.bad.len() < 10 {
                        history.bad.push(error.to_string());
                    }
                    if bad > BAD_MAX {
                        return Err(HistoryError::Bad { count: bad, first: history.bad.swap_remove(0) });
                    }
                }
                Ok((_, row)) => {
                    let times = [row.started_s, row.total_s, row.gaps_s, row.ttfb_s.unwrap_or(0.0)];
                    if !times.into_iter().all(|seconds| (0.0..1e9).contains(&seconds)) {
                        continue;
                    }
                    if restarts.is_first(row.started_s + row.total_s) {
                        let bad = std::mem::take(&mut history.bad);
                        history = History { bad, restarts: restarts.count(), ..History::default() };
                        names.clear();
                        chose.clear();
                    }
                    *chose.entry(row.policy.clone()).or_insert(0u64) += 1;
                    history.take(row, &mut names);
                    if history.attempts.len() > ATTEMPTS_MAX {
                        return Err(HistoryError::TooMany);
                    }
                }
            }
        }
        let most = chose.into_iter().max_by(|a, b| a.1.cmp(&b.1).then_with(|| b.0.cmp(&a.0)));
        let known = most.map(|(name, _)| name).filter(|name| PolicyId::named(name).is_some());
        history.policy = known.unwrap_or_else(|| policy::FALLBACK.to_owned());
        history.settle()
    }

    fn take(&mut self, row: Row, names: &mut HashMap<String, u32>) {
        let node = match names.get(&row.node) {
            Some(node) => *node,
            None => {
                self.nodes.push(row.node.clone());
                let node = (self.nodes.len() - 1) as u32;
                names.insert(row.node, node);
                node
            }
        };
        let kind = match self.kinds.iter().position(|kind| *kind == row.kind) {
            Some(at) => at + 1,
            None if self.kinds.len() < 255 => {
                self.kinds.push(row.kind);
                self.kinds.len()
            }
            None => 0,
        };
        let considered = row.choice.and_then(|choice| choice.considered(&row.policy));
        if let Some(considered) = &considered {
            self.candidates += considered.candidates.len();
            self.slots.insert(considered.candidates[considered.at].slot, node);
        }
        let streamed = Some(row.events).filter(|_| row.streaming);
        self.attempts.push(Attempt {
            node,
            kind: kind as u16,
            streaming: row.streaming,
            start_s: row.started_s,
            ttfb_s: row.ttfb_s,
            total_s: row.total_s,
            completed: row.outcome == "completed" && row.status.is_some_and(|status| (200..400).contains(&status)),
            prompt_tokens: if row.prompt_tokens > 0 { row.prompt_tokens } else { row.usage_prompt_tokens.unwrap_or(0) },
            output_tokens: row.output_tokens.or(streamed).unwrap_or(0),
            events: row.events,
            gaps_s: row.gaps_s,
            waiting: row.waiting,
            propensity: row.propensity,
            considered: considered.filter(|_| self.candidates <= CANDIDATES_MAX).map(Box::new),
            output_tokens_max: row.output_tokens_max,
            usage_prompt_tokens: row.usage_prompt_tokens,
            usage_output_tokens: row.output_tokens,
        });
    }

    /// Orders attempts by start and nodes by name.
    fn settle(mut self) -> Result<History, HistoryError> {
        let completed = self.completed().count();
        if completed < COMPLETED_MIN {
            return Err(HistoryError::TooFew(completed));
        }
        let mut order: Vec<usize> = (0..self.nodes.len()).collect();
        order.sort_by(|a, b| self.nodes[*a].cmp(&self.nodes[*b]));
        let mut place = vec![0; order.len()];
        (0u32..).zip(&order).for_each(|(to, from)| place[*from] = to);
        self.nodes = order.iter().map(|at| self.nodes[*at].clone()).collect();
        self.attempts.iter_mut().for_each(|attempt| attempt.node = place[attempt.node as usize]);
        self.slots.values_mut().for_each(|node| *node = place[*node as usize]);
        self.attempts.sort_by(|a, b| a.start_s.total_cmp(&b.start_s));
        Ok(self)
    }

    /// The attempts that say how long an answer takes.
    pub fn completed(&self) -> impl Iterator<Item = &Attempt> {
        self.attempts.iter().filter(|attempt| attempt.completed)
    }

    /// From the first start to the last.
    pub fn span_s(&self) -> f64 {
        match (self.attempts.first(), self.attempts.last()) {
            (Some(first), Some(last)) => last.start_s - first.start_s,
            _ => 0.0,
        }
    }

    /// Whether answers are those of language models: nearly all tell their tokens.
    pub fn has_tokens(&self) -> bool {
        let (all, told) = self
            .completed()
            .fold((0u64, 0u64), |(all, told), attempt| (all + 1, told + u64::from(attempt.output_tokens > 0)));
        told * 10 >= all * 9
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::learn::test_sample;
    use crate::outcome::{Censor, Outcome, Sample};

    fn written(samples: &[(f64, &str)]) -> Result<History, HistoryError> {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("samples.jsonl");
        let line = |(start_s, node): &(f64, &str)| {
            let row = Row { started_s: *start_s, ..Row::of(&test_sample(0, 1, 0.1), node, "k".to_owned()) };
            serde_json::to_string(&row).expect("plain data") + "\n"
        };
        fs::write(&path, samples.iter().map(line).collect::<String>()).expect("written");
        History::read(&path)
    }

    #[test]
    fn attempts_are_in_order_of_start_and_nodes_in_order_of_name() {
        let mut samples: Vec<(f64, &str)> =
            (0..300).map(|i| (f64::from(i), if i % 3 == 0 { "b" } else { "a" })).collect();
        samples.swap(3, 4);
        let history = written(&samples).expect("enough");
        assert_eq!(history.nodes, ["a", "b"]);
        assert!(history.attempts.windows(2).all(|pair| pair[0].start_s <= pair[1].start_s));
        assert_eq!((history.attempts[3].node, history.attempts[4].node, history.span_s()), (1, 0, 299.0));
    }

    #[test]
    fn only_what_the_last_start_recorded_counts() {
        let before = (0..250).map(|i| (f64::from(i), "gone"));
        let samples: Vec<(f64, &str)> = before.chain((0..250).map(|i| (f64::from(i), "a"))).collect();
        let history = written(&samples).expect("enough");
        assert_eq!((history.restarts, history.attempts.len()), (1, 250));
        assert_eq!(history.nodes, ["a"], "a node that went before is not part of the fleet");
    }

    #[test]
    fn an_absurd_time_is_no_restart() {
        let absurd = [(1e12, "a"), (f64::from(300), "a")];
        let samples: Vec<(f64, &str)> = (0..300).map(|i| (f64::from(i), "a")).chain(absurd).collect();
        let history = written(&samples).expect("enough");
        assert_eq!((history.restarts, history.attempts.len()), (0, 301));
    }

    #[test]
    fn too_little_is_refused() {
        assert!(matches!(written(&[(0.0, "a"); 150]), Err(HistoryError::TooFew(150))));
        let gone = Sample { outcome: Outcome::Censored(Censor::ClientGone), ..test_sample(0, 1, 0.1) };
        let mut history = History::default();
        history.take(Row::of(&gone, "a", String::new()), &mut HashMap::new());
        assert_eq!((history.attempts.len(), history.completed().count()), (1, 0));
    }
}
