//! The trainer: a thread of its own that learns from what the request path leaves behind.
//!
//! A request pays one push of a fixed-size sample into a bounded queue (`queue.rs`); everything else happens here, neither
//! on the threads that carry requests nor on the one that answers operators: a fit takes milliseconds and a disk may
//! take minutes. The thread is watched (`supervisor.rs`): if it panics or stalls, that is logged and counted, and another
//! one goes on from the state remembered last. Nobody has to tell the request path: a model that nobody refits
//! grows stale within seconds, and the fallback routes. What is learned is the business of [`learn`](crate::learn).

mod queue;
mod status;
mod supervisor;
#[cfg(test)]
mod tests;
mod worker;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};

use crate::balancer::Observer;
use crate::learn::Snapshot;
use crate::recording::Recorder;
use crate::state::StateError;

pub use queue::QUEUE_MAX;
pub use status::Status;
pub use supervisor::start;

use queue::Samples;

/// How long somebody who gave an order waits for the trainer.
const OBEYED_WITHIN: Duration = Duration::from_secs(10);

/// Orders that may wait; more are refused.
const ORDERS_MAX: usize = 16;

/// What the trainer is told to do.
#[derive(Debug)]
enum Order {
    /// Forget everything.
    Reset(SyncSender<()>),
    /// Keep the state now.
    Save(SyncSender<Result<Saved, StateError>>),
    /// Die.
    #[cfg(test)]
    Panic,
    /// Do nothing until told.
    #[cfg(test)]
    Hang(std::sync::mpsc::Receiver<()>),
}

/// A state that was kept.
#[derive(Clone, Debug)]
pub struct Saved {
    /// On disk, where; `None` without `adaptive.state_dir`.
    pub path: Option<PathBuf>,
    /// The state itself.
    pub snapshot: Arc<Snapshot>,
}

/// Why an order was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// There is no trainer at work, or it did not take the order in time. The order is withdrawn.
    #[error("the trainer does not answer")]
    NoTrainer,
    /// It took the order, and its end was not heard of in time.
    #[error("the trainer began to carry the order out and has not said that it is done; it may be yet")]
    Unfinished,
    /// The state could not be kept.
    #[error(transparent)]
    State(#[from] StateError),
}

/// What wakes the threads of the trainer, and tells them to stop.
#[derive(Debug, Default)]
struct Bell {
    stopping: bool,
    /// Each with its number.
    orders: VecDeque<(u64, Order)>,
    /// How many orders were given.
    given: u64,
}

impl Bell {
    /// Puts an order into the queue; returns its number.
    fn give(&mut self, order: Order) -> u64 {
        self.given += 1;
        self.orders.push_back((self.given, order));
        self.given
    }

    /// Takes an order out of the queue again; false if it was taken up before.
    fn withdraw(&mut self, number: u64) -> bool {
        let place = self.orders.iter().position(|(given, _)| *given == number);
        place.and_then(|place| self.orders.remove(place)).is_some()
    }
}

/// The trainer as the rest of the program sees it. One per instance; it works once [`start`] was called.
#[derive(Debug, Default)]
pub struct Trainer {
    samples: Arc<Samples>,
    status: ArcSwap<Status>,
    remembered: ArcSwapOption<Snapshot>,
    bell: Mutex<Bell>,
    rung: Condvar,
    /// Which life of the worker counts; others end when they notice.
    life: AtomicU32,
    /// When the worker began its last turn, in microseconds of the instance's clock.
    heartbeat: AtomicU64,
    up: AtomicBool,
    restarts: AtomicU64,
    /// Saves to disk: that succeeded, that failed.
    saves: [AtomicU64; 2],
    recorder: OnceLock<Recorder>,
    supervisor: Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl Trainer {
    /// Who takes the samples on the request path.
    pub fn observer(&self) -> Arc<dyn Observer> {
        Arc::clone(&self.samples) as Arc<dyn Observer>
    }

    /// As of the last fit.
    pub fn status(&self) -> Arc<Status> {
        self.status.load_full()
    }

    /// Whether a worker learns.
    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    /// How often a worker had to be replaced.
    pub fn restarts(&self) -> u64 {
        self.restarts.load(Ordering::Relaxed)
    }

    /// Samples that found the queue full.
    pub fn samples_dropped(&self) -> u64 {
        self.samples.dropped()
    }

    /// Saves to disk since the start: how many succeeded, and how many failed.
    pub fn saves(&self) -> (u64, u64) {
        (self.saves[0].load(Ordering::Relaxed), self.saves[1].load(Ordering::Relaxed))
    }

    /// From now on every sample is recorded too. Only the first call counts.
    pub fn record_to(&self, recorder: Recorder) {
        self.samples.record();
        if let Err(second) = self.recorder.set(recorder) {
            second.stop();
        }
    }

    /// Who records, if somebody does.
    pub fn recorder(&self) -> Option<&Recorder> {
        self.recorder.get()
    }

    /// Forgets everything learned; the fallback routes until enough was learned anew. Blocks until it is done.
    ///
    /// # Errors
    /// The trainer does not answer.
    pub fn reset(&self) -> Result<(), OrderError> {
        self.order(Order::Reset)
    }

    /// Keeps the state now: in memory, and on disk where `adaptive.state_dir` says so. Blocks until it is done.
    ///
    /// # Errors
    /// The trainer does not answer, or the state cannot be written.
    pub fn save(&self) -> Result<Saved, OrderError> {
        Ok(self.order(Order::Save)??)
    }

    fn order<T>(&self, order: impl FnOnce(SyncSender<T>) -> Order) -> Result<T, OrderError> {
        self.order_within(OBEYED_WITHIN, order)
    }

    fn order_within<T>(&self, within: Duration, order: impl FnOnce(SyncSender<T>) -> Order) -> Result<T, OrderError> {
        let (done, obeyed) = sync_channel(1);
        let number = {
            let mut bell = self.bell();
            if bell.stopping || bell.orders.len() >= ORDERS_MAX || !self.is_up() {
                return Err(OrderError::NoTrainer);
            }
            bell.give(order(done))
        };
        self.rung.notify_all();
        obeyed.recv_timeout(within).map_err(|_| {
            // Whoever is told that nothing was done must not be proved wrong later.
            if self.bell().withdraw(number) { OrderError::NoTrainer } else { OrderError::Unfinished }
        })
    }

    /// Stops learning and saves the state. Blocks for as long as that takes, at most some seconds.
    pub fn stop(&self) {
        self.bell().stopping = true;
        self.rung.notify_all();
        let supervisor = self.supervisor.lock().unwrap_or_else(PoisonError::into_inner).take();
        if supervisor.is_some_and(|supervisor| supervisor.join().is_err()) {
            tracing::error!("the trainer's supervisor panicked");
        }
        if let Some(recorder) = self.recorder() {
            recorder.stop();
        }
    }

    fn bell(&self) -> MutexGuard<'_, Bell> {
        self.bell.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next order. One at a time: while it is carried out, the others can still be withdrawn.
    fn take_order(&self) -> Option<Order> {
        self.bell().orders.pop_front().map(|(_, order)| order)
    }

    fn publish(&self, status: Status) {
        self.status.store(Arc::new(status));
        #[cfg(test)]
        self.rung.notify_all();
    }

    fn remember(&self, snapshot: Arc<Snapshot>) {
        self.remembered.store(Some(snapshot));
    }

    /// Waits until it stops or `at_most` has passed; returns whether it stops.
    fn idle(&self, at_most: Duration) -> bool {
        let bell = self.bell();
        bell.stopping || self.rung.wait_timeout(bell, at_most).unwrap_or_else(PoisonError::into_inner).0.stopping
    }

    /// The same for the worker, whom orders wake too. Waits until somebody rings or `at_most` has passed; returns whether it stops.
    fn wait(&self, at_most: Duration) -> bool {
        let bell = self.bell();
        if bell.stopping || !bell.orders.is_empty() {
            return bell.stopping;
        }
        self.rung.wait_timeout(bell, at_most).unwrap_or_else(PoisonError::into_inner).0.stopping
    }
}
