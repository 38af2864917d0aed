//! Learning from a recording: the same learner, fed from a file at the speed of the disk.
//!
//! Time is that of the recording, and everything happens in the order in which attempts ended, with a fit every half
//! second, as in production. So the error that is reported is honest without setting rows apart: every attempt is
//! predicted by a model that has not seen it. Gaps between streamed events are taken from each attempt as a whole, as a
//! recording has no readings of a node in between.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Time;
use crate::fleet::{Fleet, FleetError, Node};
use crate::learn::{Counts, Learned, Learner, REFIT_EVERY, Scored, Snapshot, log_error};
use crate::node::NodeSpec;
use crate::recording::{BadRow, Restarts, Row};
use crate::request::Kinds;

/// Attempts that are predicted before the error counts: a model of nothing is as wrong as it likes.
pub const WARM_UP: u64 = 500;

/// Why nothing was learned.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// A line is no row.
    #[error(transparent)]
    Row(#[from] BadRow),
    /// A row says what cannot be.
    #[error("line {line}: {reason}")]
    Absurd {
        /// Which line, from 1.
        line: u64,
        /// What.
        reason: String,
    },
    /// More nodes than a fleet can have.
    #[error("line {line}: {error}")]
    Fleet {
        /// Which line, from 1.
        line: u64,
        /// Why not.
        error: FleetError,
    },
    /// No fit came of it.
    #[error("too little to learn from: {labels} of {rows} rows say something about response times")]
    TooFew {
        /// All of them.
        rows: u64,
        /// Those that became labels.
        labels: u64,
    },
}

/// What came of a recording.
#[derive(Clone, Debug)]
pub struct Trained {
    /// What was learned.
    pub snapshot: Snapshot,
    /// How well, and from what.
    pub report: TrainReport,
}

/// How well a model was learned, and from what.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TrainReport {
    /// Rows read.
    pub rows: u64,
    /// Nodes that they name.
    pub nodes: usize,
    /// Length of the recording in seconds.
    pub seconds: f64,
    /// What became of them.
    pub counts: Counts,
    /// Attempts that were predicted after the warm-up, before they were learned.
    pub predicted: u64,
    /// Mean `|ln(predicted / observed)|` of the model over those, with the true output lengths put in.
    pub model_error: f64,
    /// The same of the moving average that it must beat.
    pub baseline_error: f64,
    /// Mean error of the model over the attempts of the warm-up, those before the first fit left out.
    pub early_error: f64,
}

/// Learns from `rows`, each with its line, starting from the curve of `prior` if there is one.
///
/// # Errors
/// See [`TrainError`]; a recording is refused as a whole, as a part of it would be a biased sample.
pub fn train(
    rows: impl Iterator<Item = Result<(u64, Row), BadRow>>,
    prior: Option<&Snapshot>,
) -> Result<Trained, TrainError> {
    let mut school = School::default();
    if let Some(prior) = prior {
        school.learner.restore(&prior.general(), &school.fleet, |_| None);
    }
    for row in rows {
        let (line, row) = row?;
        school.take(line, &row)?;
    }
    school.graduate()
}

struct School {
    learner: Learner,
    fleet: Fleet,
    kinds: Kinds,
    nodes: HashMap<String, Arc<Node>>,
    began: Option<Time>,
    restarts: Restarts,
    now: Time,
    fit_due: Time,
    scored: u64,
    report: TrainReport,
}

impl Default for School {
    fn default() -> Self {
        School {
            learner: Learner::new(Arc::new(Learned::default())),
            fleet: Fleet::default(),
            kinds: Kinds::default(),
            nodes: HashMap::new(),
            began: None,
            restarts: Restarts::default(),
            now: Time::ZERO,
            fit_due: Time::ZERO,
            scored: 0,
            report: TrainReport::default(),
        }
    }
}

impl School {
    fn take(&mut self, line: u64, row: &Row) -> Result<(), TrainError> {
        let node = self.node(line, &row.node)?;
        let kind = self.kinds.of(&row.kind, None);
        let mut sample = row.sample(node.id, node.slot, kind).map_err(|reason| TrainError::Absurd { line, reason })?;
        self.report.rows += 1;
        self.restarts.is_first(row.started_s + row.total_s);
        sample.started = sample.started.after(Duration::from_secs_f64(self.restarts.shift_s()));
        let ended = sample.started.after(sample.total);
        self.began.get_or_insert(ended);
        // Rows are in the order in which the trainer drained them: out of place by less than a tenth of a second.
        self.now = self.now.max(ended);
        if self.now >= self.fit_due {
            self.fit_due = self.now.after(REFIT_EVERY);
            self.learner.refit(self.now);
        }
        // The learner counts what it refuses.
        if self.learner.observe(self.now, &sample).is_ok() && sample.streaming && sample.events > 1 {
            let streaming = sample.in_flight.saturating_sub(sample.waiting);
            let (gaps_s, events) = (sample.gaps.as_secs_f64(), u64::from(sample.events - 1));
            let load = sample.mean_in_flight;
            self.learner.gaps(self.now, &node, load, sample.waiting, streaming, gaps_s, events);
        }
        if let Some(scored) = self.learner.take_scored() {
            self.score(&scored);
        }
        Ok(())
    }

    fn node(&mut self, line: u64, name: &str) -> Result<Arc<Node>, TrainError> {
        if let Some(node) = self.nodes.get(name) {
            return Ok(Arc::clone(node));
        }
        let spec = NodeSpec::new(format!("http://{name}")).named(name);
        self.fleet = self.fleet.with(spec).map_err(|error| TrainError::Fleet { line, error })?;
        let node = self
            .fleet
            .by_name(name)
            .cloned()
            .ok_or_else(|| TrainError::Absurd { line, reason: format!("{name:?} cannot be a node") })?;
        self.nodes.insert(name.to_owned(), Arc::clone(&node));
        Ok(node)
    }

    fn score(&mut self, scored: &Scored) {
        self.scored += 1;
        let report = &mut self.report;
        let error = log_error(scored.model_s, scored.observed_s);
        if self.scored <= WARM_UP {
            report.early_error += (error - report.early_error) / self.scored as f64;
            return;
        }
        report.predicted += 1;
        let step = 1.0 / report.predicted as f64;
        report.model_error += (error - report.model_error) * step;
        report.baseline_error += (log_error(scored.baseline_s, scored.observed_s) - report.baseline_error) * step;
    }

    fn graduate(mut self) -> Result<Trained, TrainError> {
        // Twice: what was held back from the first is in the second.
        for _ in 0..2 {
            self.now = self.now.after(REFIT_EVERY);
            self.learner.refit(self.now);
        }
        let counts = *self.learner.counts();
        if self.learner.learned().predictor().is_none() || self.report.predicted == 0 {
            return Err(TrainError::TooFew { rows: self.report.rows, labels: counts.labels });
        }
        let seconds = self.now.seconds_since(self.began.unwrap_or_default());
        let report = TrainReport { nodes: self.nodes.len(), seconds, counts, ..self.report };
        let kinds = &self.kinds;
        Ok(Trained { snapshot: self.learner.snapshot(&self.fleet, |kind| kinds.name(kind)), report })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::learn::test_sample;
    use crate::outcome::Sample;

    /// Answers of two nodes with four workers each, `b` three times as slow.
    fn rows(count: u32) -> Vec<Result<(u64, Row), BadRow>> {
        let mut rng = fastrand::Rng::with_seed(7);
        let row = |i: u32| {
            let (name, service) = if i.is_multiple_of(2) { ("a", 0.1) } else { ("b", 0.3) };
            let n = rng.u32(1..=16);
            let took_s = service * (f64::from(n) / 4.0).max(1.0) * (0.9 + 0.2 * rng.f64());
            let started = Time::ZERO.after(Duration::from_millis(20) * i);
            let row = Row::of(&Sample { started, ..test_sample(0, n, took_s) }, name, "k".to_owned());
            Ok((u64::from(i) + 1, row))
        };
        (0..count).map(row).collect()
    }

    #[test]
    fn a_recording_teaches_a_model_that_beats_the_moving_average() {
        let trained = train(rows(3_000).into_iter(), None).expect("enough");
        let report = trained.report;
        assert_eq!((report.rows, report.nodes, report.counts.labels), (3_000, 2, 3_000));
        assert!(report.predicted > 2_000 && (report.seconds - 60.0).abs() < 5.0, "{report:?}");
        assert!(report.model_error < 0.1 && report.model_error < 0.5 * report.baseline_error, "{report:?}");
        // A recorder that was started anew begins its clock at zero again: as good as one run of twice the length.
        let twice = train(rows(3_000).into_iter().chain(rows(3_000)), None).expect("enough").report;
        assert!((twice.seconds - 120.0).abs() < 5.0 && twice.counts.dropped == 0, "{twice:?}");
        assert!(twice.model_error < 1.2 * report.model_error, "{} {}", twice.model_error, report.model_error);
        // Who starts from it predicts from the first fit on.
        let warm = train(rows(3_000).into_iter(), Some(&trained.snapshot)).expect("enough").report;
        assert!(warm.predicted > report.predicted, "{} {}", warm.predicted, report.predicted);
        // What another fleet starts from predicts its curve: flat up to four, then rising.
        let mut learner = Learner::new(Arc::default());
        learner.restore(&trained.snapshot.general(), &Fleet::default(), |_| None);
        learner.refit(Time::ZERO);
        let predictor = learner.learned().predictor().expect("the prior is enough");
        let total_s = |n: u32| {
            let load = crate::learn::NodeLoad::new(n - 1, 0, 0);
            predictor.fleet.predict(&[1.0; 4], &load, &predictor.typical()).total_s
        };
        assert!(total_s(2) < 1.3 * total_s(1) && total_s(16) > 2.5 * total_s(4), "{} {}", total_s(1), total_s(16));
    }

    #[test]
    fn a_recording_that_cannot_be_is_refused_with_the_line() {
        assert!(matches!(train(rows(20).into_iter(), None), Err(TrainError::TooFew { rows: 20, labels: 20 })));
        let mut absurd = rows(3);
        if let Ok((_, row)) = &mut absurd[1] {
            row.total_s = f64::NAN;
        }
        let message = train(absurd.into_iter(), None).expect_err("refused").to_string();
        assert!(message.starts_with("line 2: total_s"), "{message}");
    }
}
