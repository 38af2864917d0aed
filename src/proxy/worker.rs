//! What one worker thread owns: its pool of connections, its buffers for decisions, its randomness.
//!
//! One single-threaded runtime per worker, measured against a work-stealing one, saves the synchronization of its
//! queues and of the connection pool (about a tenth of the instructions of a small request). The price: a connection
//! stays on the worker that it was dealt to, so one worker may be busy while another is idle; the acceptor deals new
//! connections to the worker that has fewest.

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::app::App;
use crate::balancer::{Scratch, Ticket, Verdict};
use crate::clock::Time;
use crate::node::NodeId;
use crate::outcome::Censor;
use crate::proxy::upstream::Pool;
use crate::request::RequestShape;

thread_local! {
    static CUT: Cell<bool> = const { Cell::new(false) };
}

/// What this worker thread drops from now on is cut by us: the time to finish is over.
pub(super) fn cut() {
    CUT.set(true);
}

/// What it means that a request is dropped: its client has left, unless we cut it or somebody panics.
pub(super) fn meaning_of_drop() -> Censor {
    if CUT.get() || std::thread::panicking() { Censor::Dropped } else { Censor::ClientGone }
}

/// One worker. The mutexes are formalities: everything here is used by one thread, but futures must be `Send`.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) app: Arc<App>,
    pub(super) pool: Arc<Pool>,
    scratch: Mutex<Scratch>,
    rng: Mutex<fastrand::Rng>,
    /// Client connections that it carries.
    pub(super) carries: AtomicUsize,
}

impl Worker {
    pub(super) fn new(app: Arc<App>, seed: u64) -> Worker {
        let pool = Arc::default();
        app.open_connections.join(&pool);
        Worker {
            app,
            pool,
            scratch: Mutex::new(Scratch::with_seed(seed)),
            rng: Mutex::new(fastrand::Rng::with_seed(seed.rotate_left(32))),
            carries: AtomicUsize::new(0),
        }
    }

    pub(super) fn decide(&self, now: Time, shape: &RequestShape, tried: &[NodeId]) -> Verdict {
        let mut scratch = self.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        self.app.balancer.decide(now, shape, tried, &mut scratch)
    }

    /// A second attempt of the request whose attempt `late` is late, if there is a node that is predicted to be quick.
    pub(super) fn hedge(&self, now: Time, shape: &RequestShape, late: &Ticket, tried: &[NodeId]) -> Option<Ticket> {
        let mut scratch = self.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        self.app.balancer.hedge(now, shape, late, tried, &mut scratch)
    }

    pub(super) fn with_rng<T>(&self, draw: impl FnOnce(&mut fastrand::Rng) -> T) -> T {
        draw(&mut self.rng.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn load(&self) -> usize {
        self.carries.load(Ordering::Relaxed)
    }
}
