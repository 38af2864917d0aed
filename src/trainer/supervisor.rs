//! Watches the worker: replaces one that panicked or stalled, and stops it in the end.
//!
//! A thread that hangs cannot be ended from outside. It is given up: its life no longer counts, a successor takes over,
//! and should it ever wake it notices and leaves. A successor goes on from what was remembered last, unless its
//! predecessor did and died young: then that state may be the reason, and learning starts cold.

use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use crate::app::App;
use crate::clock::Time;
use crate::learn::Snapshot;
use crate::trainer::worker::{REMEMBER_EVERY, Start, Worker};

/// A worker that has not begun a turn for so long stalls: a hundred turns, or the fit of a fleet a hundred times the
/// size of the largest that was measured.
pub(super) const STALLED_AFTER: Duration = Duration::from_secs(5);

/// How often the supervisor looks.
const WATCH_EVERY: Duration = Duration::from_millis(250);

/// The shortest and the longest pause before a successor starts; each failure in a row doubles it.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// Threads that may be given up; with more, something is wrong that further threads make worse.
const GIVEN_UP_MAX: usize = 4;

/// How long a stopping supervisor waits for the last save.
const LAST_SAVE_WITHIN: Duration = Duration::from_secs(5);

/// How often it looks meanwhile.
const LAST_LOOKS_EVERY: Duration = Duration::from_millis(5);

/// How a worker's life ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Stopped,
    Panicked,
    Stalled,
}

/// Starts the trainer of `app`; it works until [`Trainer::stop`](super::Trainer::stop).
///
/// # Errors
/// There are no threads to be had.
pub fn start(app: &Arc<App>) -> io::Result<()> {
    let shared = Arc::clone(app);
    // The first worker is up before anybody asks: what orders wait for exists from here on.
    app.trainer.up.store(true, Ordering::Relaxed);
    let supervisor = Builder::new().name("trainer-watch".to_owned()).spawn(move || supervise(&shared));
    match supervisor {
        Ok(supervisor) => {
            *app.trainer.supervisor.lock().unwrap_or_else(PoisonError::into_inner) = Some(supervisor);
            Ok(())
        }
        Err(error) => {
            app.trainer.up.store(false, Ordering::Relaxed);
            Err(error)
        }
    }
}

fn supervise(app: &Arc<App>) {
    let (mut start, mut pause) = (Start::Configured, PAUSE_MIN);
    let mut given_up: Vec<JoinHandle<()>> = Vec::new();
    loop {
        let born = app.clock.now();
        let from_memory = matches!(start, Start::Remembered(_));
        let end = match spawn(app, start) {
            Ok(worker) => watch(app, worker, &mut given_up),
            Err(error) => {
                tracing::error!(%error, "no thread for the trainer");
                End::Stalled
            }
        };
        app.trainer.up.store(false, Ordering::Relaxed);
        if end == End::Stopped {
            return;
        }
        app.trainer.restarts.fetch_add(1, Ordering::Relaxed);
        let lived = app.clock.now().since(born);
        let old_enough = lived >= REMEMBER_EVERY;
        pause = if old_enough { PAUSE_MIN } else { (pause * 2).min(PAUSE_MAX) };
        tracing::error!(?end, ?lived, ?pause, "the trainer failed and is restarted; without it the fallback routes");
        start = successor(old_enough, from_memory, app.trainer.remembered.load_full());
        if rest(app, pause, &mut given_up) {
            return;
        }
    }
}

/// What the next one starts from. A state that somebody started from and died young of is not used again.
fn successor(old_enough: bool, from_memory: bool, remembered: Option<Arc<Snapshot>>) -> Start {
    remembered.filter(|_| old_enough || !from_memory).map_or(Start::Cold, Start::Remembered)
}

/// Waits for `pause`, and then until few enough threads are given up; returns whether it stops.
fn rest(app: &App, pause: Duration, given_up: &mut Vec<JoinHandle<()>>) -> bool {
    let until = app.clock.now().after(pause);
    loop {
        given_up.retain(|thread| !thread.is_finished());
        let now = app.clock.now();
        if now >= until && given_up.len() < GIVEN_UP_MAX {
            return false;
        }
        if app.trainer.idle(until.since(now).clamp(Duration::from_millis(1), WATCH_EVERY)) {
            return true;
        }
    }
}

fn spawn(app: &Arc<App>, start: Start) -> io::Result<JoinHandle<()>> {
    let trainer = &app.trainer;
    let life = trainer.life.fetch_add(1, Ordering::AcqRel) + 1;
    trainer.heartbeat.store(app.clock.now().as_micros(), Ordering::Release);
    let shared = Arc::clone(app);
    let worker = Builder::new().name("trainer".to_owned()).spawn(move || live(&shared, life, start))?;
    trainer.up.store(true, Ordering::Relaxed);
    Ok(worker)
}

/// A worker's life.
fn live(app: &Arc<App>, life: u32, start: Start) {
    let trainer = &app.trainer;
    let mut worker = Worker::new(Arc::clone(app), start, app.clock.now());
    loop {
        let now = app.clock.now();
        if trainer.life.load(Ordering::Acquire) != life {
            tracing::warn!("a trainer that was given up has woken, and leaves");
            return;
        }
        trainer.heartbeat.store(now.as_micros(), Ordering::Release);
        let due = worker.turn(now);
        if trainer.wait(due.since(app.clock.now())) {
            return worker.finish(app.clock.now());
        }
    }
}

/// Waits for the end of the worker.
fn watch(app: &App, worker: JoinHandle<()>, given_up: &mut Vec<JoinHandle<()>>) -> End {
    let trainer = &app.trainer;
    let mut stopping_since = None;
    loop {
        if worker.is_finished() {
            return if worker.join().is_err() { End::Panicked } else { End::Stopped };
        }
        let now = app.clock.now();
        let heartbeat = Time::from_micros(trainer.heartbeat.load(Ordering::Acquire));
        if let Some(since) = stopping_since {
            if now.since(since) >= LAST_SAVE_WITHIN {
                tracing::error!("the trainer does not end, what it learned last is not saved");
                return End::Stopped;
            }
        } else if now.since(heartbeat) >= STALLED_AFTER {
            trainer.life.fetch_add(1, Ordering::AcqRel);
            given_up.push(worker);
            return End::Stalled;
        }
        if stopping_since.is_some() {
            std::thread::sleep(LAST_LOOKS_EVERY);
        } else if trainer.idle(WATCH_EVERY) {
            stopping_since = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::Fleet;
    use crate::learn::Learner;

    #[test]
    fn a_state_that_killed_is_not_used_twice() {
        let state = Arc::new(Learner::new(Arc::default()).snapshot(&Fleet::default(), |_| String::new()));
        let starts_cold = |old_enough, from_memory| {
            matches!(successor(old_enough, from_memory, Some(Arc::clone(&state))), Start::Cold)
        };
        assert!(starts_cold(false, true));
        assert!(!starts_cold(true, true) && !starts_cold(false, false));
        assert!(matches!(successor(true, false, None), Start::Cold));
    }
}
