//! The trainer's work, turn by turn: orders, samples, gaps, fits, snapshots.
//!
//! A turn does what is due at a time that it is told, so that tests drive it by hand; the thread around it
//! (`supervisor.rs`) only waits. What fails here (a full disk, a strange file) is said in the log and costs memory of
//! the past, never a request.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::app::App;
use crate::clock::Time;
use crate::fleet::Fleet;
use crate::learn::{Counts, LOOK_EVERY, REFIT_EVERY, Snapshot, Teacher};
use crate::node::{NODES_MAX, NodeId};
use crate::priors;
use crate::recording::Row;
use crate::request::{KINDS_MAX, KindId};
use crate::state::{self, StateError};
use crate::trainer::{Order, Saved, Status};

/// How often the state is kept in memory, for a successor after a panic.
pub(super) const REMEMBER_EVERY: Duration = Duration::from_secs(10);

/// How often it is kept on disk.
pub(super) const SAVE_EVERY: Duration = Duration::from_secs(60);

/// Between route and model in the names of kinds: what can be in neither.
const KIND_SEPARATOR: char = '\t';

/// Kinds that a state may bring back: those of former days must leave room for today's.
const KINDS_RESTORED_MAX: usize = KINDS_MAX / 2;

/// What a worker starts from.
#[derive(Clone, Debug)]
pub(super) enum Start {
    /// What is configured: the state of the last run, else a prior, else nothing.
    Configured,
    /// What its predecessor knew.
    Remembered(Arc<Snapshot>),
    /// Nothing.
    Cold,
}

/// One life of the trainer.
pub(super) struct Worker {
    app: Arc<App>,
    teacher: Teacher,
    due: Due,
    names: Names,
}

/// When what is to be done next.
struct Due {
    look: Time,
    refit: Time,
    remember: Time,
    save: Time,
}

/// Names of nodes by their ids, also of those that have left: their last words come later than they go.
#[derive(Default)]
struct Names {
    known: HashMap<NodeId, String>,
    version: Option<u64>,
}

impl Names {
    fn learn(&mut self, fleet: &Fleet) {
        if self.version.replace(fleet.version()) == Some(fleet.version()) {
            return;
        }
        if self.known.len() > 2 * NODES_MAX {
            self.known.clear();
        }
        self.known.extend(fleet.nodes().iter().map(|node| (node.id, node.spec.name.clone())));
    }

    fn of(&self, id: NodeId) -> Option<&str> {
        self.known.get(&id).map(String::as_str)
    }
}

impl Worker {
    pub(super) fn new(app: Arc<App>, start: Start, now: Time) -> Worker {
        let mut teacher = Teacher::new(Arc::clone(app.balancer.learned()));
        let counts: Counts = app.trainer.status().counts;
        teacher.learner_mut().carry_on(counts);
        let due = Due {
            look: now.after(LOOK_EVERY),
            refit: now.after(REFIT_EVERY),
            remember: now.after(REMEMBER_EVERY),
            save: now.after(SAVE_EVERY),
        };
        let mut worker = Worker { app, teacher, due, names: Names::default() };
        match start {
            Start::Configured => worker.start_as_configured(),
            Start::Remembered(snapshot) => {
                let nodes = worker.restore(&snapshot);
                tracing::info!(nodes, "learning goes on from what was remembered");
            }
            Start::Cold => {}
        }
        worker
    }

    /// The file that the state is kept in, if it is kept.
    fn file(&self) -> Option<PathBuf> {
        self.app.settings.load().adaptive.state_dir.as_ref().map(|dir| dir.join(state::FILE))
    }

    fn start_as_configured(&mut self) {
        if let Some(path) = self.file() {
            let file = path.display().to_string();
            match state::read(&path) {
                Ok(Some(snapshot)) => {
                    let (nodes, of) = (self.restore(&snapshot), snapshot.nodes.len());
                    tracing::info!(file, nodes, of, "learning goes on from the state of the last run");
                    return;
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::error!(%error, "the learned state is refused, learning starts cold");
                    if matches!(error, StateError::Refused { .. }) {
                        match state::set_aside(&path) {
                            Ok(aside) => tracing::warn!(aside = %aside.display(), "the refused state is kept there"),
                            Err(error) => tracing::warn!(file, %error, "the refused state cannot be moved aside"),
                        }
                    }
                    return;
                }
            }
        }
        self.start_from_prior();
    }

    fn start_from_prior(&mut self) {
        let Some(prior) = self.app.settings.load().adaptive.prior.clone() else { return };
        match priors::load(&prior) {
            Ok(snapshot) => {
                // Its nodes and kinds are others': what counts is the fleet's curve.
                self.teacher.learner_mut().restore(&snapshot.general(), &self.app.balancer.fleet(), |_| None);
                tracing::info!(prior, "learning starts from a prior");
            }
            Err(error) => tracing::error!(%error, "the prior is refused, learning starts cold"),
        }
    }

    fn restore(&mut self, snapshot: &Snapshot) -> usize {
        let kinds = &self.app.kinds;
        let kind_of = |name: &str| {
            let (route, model) = name.split_once(KIND_SEPARATOR)?;
            (kinds.len() < KINDS_RESTORED_MAX).then(|| kinds.of(route, Some(model)))
        };
        self.teacher.learner_mut().restore(snapshot, &self.app.balancer.fleet(), kind_of)
    }

    fn snapshot(&self) -> Snapshot {
        let name = |kind: KindId| {
            let (route, model) = self.app.kinds.parts(kind);
            format!("{route}{KIND_SEPARATOR}{model}")
        };
        self.teacher.learner().snapshot(&self.app.balancer.fleet(), name)
    }

    /// Does what is due at `now`; returns when the next is.
    pub(super) fn turn(&mut self, now: Time) -> Time {
        // The next one has the next turn, which comes at once.
        if let Some(order) = self.app.trainer.take_order() {
            self.obey(order);
        }
        if now >= self.due.look {
            self.due.look = now.after(LOOK_EVERY);
            self.look(now);
        }
        if now >= self.due.refit {
            self.due.refit = now.after(REFIT_EVERY);
            self.refit(now);
        }
        if now >= self.due.remember {
            self.due.remember = now.after(REMEMBER_EVERY);
            self.remember();
        }
        if now >= self.due.save {
            self.due.save = now.after(SAVE_EVERY);
            // What went wrong is in the log.
            let _ = self.save();
        }
        self.due.look
    }

    /// The last turn: what is still there is learned, and the state is saved.
    pub(super) fn finish(&mut self, now: Time) {
        self.look(now);
        self.refit(now);
        // What went wrong is in the log.
        let _ = self.save();
    }

    fn look(&mut self, now: Time) {
        let Worker { app, teacher, names, .. } = self;
        let recorder = app.trainer.recorder();
        if recorder.is_some() {
            names.learn(&app.balancer.fleet());
        }
        app.trainer.samples.drain(|sample, considered| {
            if let Some((recorder, node)) = recorder.zip(names.of(sample.node)) {
                let row = Row::of(sample, node, app.kinds.name(sample.kind));
                recorder.record(row.considering(considered));
            }
            // The learner counts what it refuses.
            let _ = teacher.observe(now, sample);
            if let Some(scored) = teacher.learner_mut().take_scored() {
                app.telemetry.predicted(sample, scored.model_s, scored.observed_s);
            }
        });
        teacher.look(now, &app.balancer.fleet());
    }

    fn refit(&mut self, now: Time) {
        let before = self.app.clock.now();
        let report = self.teacher.learner_mut().refit(now);
        self.app.telemetry.fitted(self.app.clock.now().since(before));
        let learner = self.teacher.learner();
        let guard = learner.guard();
        self.app.trainer.publish(Status {
            at: now,
            last: Some(report),
            counts: *learner.counts(),
            model_error: guard.model_error(),
            baseline_error: guard.baseline_error(),
            demoted_for_s: guard.demoted_for_s(now),
            pace: self.teacher.pace().clone(),
        });
    }

    fn remember(&self) {
        self.app.trainer.remember(Arc::new(self.snapshot()));
    }

    /// Keeps the state in memory and, where a directory is configured, on disk.
    fn save(&self) -> Result<Saved, StateError> {
        let snapshot = Arc::new(self.snapshot());
        self.app.trainer.remember(Arc::clone(&snapshot));
        let path = self.file();
        if let Some(path) = &path {
            let written = state::write(path, &snapshot);
            self.app.trainer.saves[usize::from(written.is_err())].fetch_add(1, Ordering::Relaxed);
            if let Err(error) = written {
                tracing::error!(%error, "the learned state cannot be saved");
                return Err(error);
            }
        }
        Ok(Saved { path, snapshot })
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Reset(done) => {
                self.teacher.learner_mut().reset();
                self.remember();
                tracing::info!(target: "bellwether::audit", "everything learned was forgotten");
                // Whoever asked may have gone.
                let _ = done.send(());
            }
            Order::Save(done) => _ = done.send(self.save()),
            #[cfg(test)]
            Order::Panic => panic!("the test wanted it"),
            #[cfg(test)]
            Order::Hang(until) => _ = until.recv(),
        }
    }
}
