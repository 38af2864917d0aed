//! An engine of [`crate::sim`] driven by the machine's clock.
//!
//! The engine keeps its own virtual time: a step ends where it ends, whenever the timer fires. Timers of tokio are a
//! millisecond coarse and late on a busy machine, so the driver sleeps until the end of a step and then advances by
//! as many steps as are due; lateness delays a token, it never slows the server. A request and its response body
//! share a [`Progress`]; dropping the [`Place`] of an unfinished request cancels it in the engine.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use tokio::sync::Notify;

use super::fault::{Counters, Disconnect, Fault};
use super::{EmulatorSpec, Pace};
use crate::clock::{Clock, Time};
use crate::sim::{Event, Lognormal, Server, Text, Work, WorkId};

/// Disconnects that are remembered; older ones are forgotten.
const DISCONNECTS_MAX: usize = 1_024;

/// How far a request is.
#[derive(Debug, Default)]
pub(super) struct Progress(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    tokens: u32,
    done: bool,
    waker: Option<Waker>,
}

impl Progress {
    /// Tokens so far and whether all are there, once either differs from `seen` tokens and unfinished.
    pub(super) fn poll_beyond(&self, seen: u32, cx: &mut Context<'_>) -> Poll<(u32, bool)> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.tokens > seen || state.done {
            return Poll::Ready((state.tokens, state.done));
        }
        match &mut state.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            None => state.waker = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    fn tokens(&self) -> u32 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).tokens
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let waker = {
            let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            change(&mut state);
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

#[derive(Debug)]
struct Core {
    server: Server,
    fault: Fault,
    requests: HashMap<WorkId, Arc<Progress>>,
    next_id: WorkId,
    rng: fastrand::Rng,
    /// Virtual time under [`Pace::Manual`].
    manual_now: Time,
    counters: Counters,
    disconnects: Vec<Disconnect>,
}

impl Core {
    fn advance(&mut self, now: Time) {
        let Core { server, requests, counters, .. } = self;
        server.advance(now, &mut |event| match event {
            Event::FirstToken { .. } => {}
            Event::Tokens { ids, .. } => {
                counters.tokens += ids.len() as u64;
                for progress in ids.iter().filter_map(|id| requests.get(id)) {
                    progress.change(|state| state.tokens += 1);
                }
            }
            Event::Finished { id, .. } => {
                if let Some(progress) = requests.remove(&id) {
                    progress.change(|state| state.done = true);
                }
            }
        });
        counters.live = (server.running() + server.queued()) as u64;
    }
}

/// The engine of one emulated server with everything that its connections share.
#[derive(Debug)]
pub(super) struct Engine {
    core: Mutex<Core>,
    clock: Clock,
    pace: Pace,
    /// Something was submitted or changed: the driver looks again.
    driver: Notify,
    /// Something that a test may wait for happened.
    changed: Notify,
}

impl Engine {
    pub(super) fn new(spec: &EmulatorSpec, seed: u64) -> Engine {
        let server = Server::new(spec.server);
        let server = if let Some(tokens) = spec.cache_tokens { server.caching(tokens) } else { server };
        let core = Core {
            server,
            fault: Fault::None,
            requests: HashMap::new(),
            next_id: 0,
            rng: fastrand::Rng::with_seed(seed),
            manual_now: Time::ZERO,
            counters: Counters::default(),
            disconnects: Vec::new(),
        };
        Engine {
            core: Mutex::new(core),
            clock: Clock::monotonic(),
            pace: spec.pace,
            driver: Notify::new(),
            changed: Notify::new(),
        }
    }

    fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self, core: &Core) -> Time {
        match self.pace {
            Pace::RealTime => self.clock.now(),
            Pace::Manual => core.manual_now,
        }
    }

    /// Lets virtual time follow the clock for ever.
    pub(super) async fn drive(self: Arc<Self>) {
        loop {
            let wait = {
                let mut core = self.core();
                let now = self.now(&core);
                core.advance(now);
                core.server.next_event().map(|next| next.since(now))
            };
            self.changed.notify_waiters();
            match wait.filter(|_| self.pace == Pace::RealTime) {
                Some(wait) => {
                    // The timeout is what is waited for; being notified earlier is as good.
                    let _ = tokio::time::timeout(wait, self.driver.notified()).await;
                }
                None => self.driver.notified().await,
            }
        }
    }

    /// Under [`Pace::Manual`]: computes so many steps (or finished requests of a plain server) now, as far as there
    /// is work. Returns how many there were.
    pub(super) fn step(&self, steps: u32) -> u32 {
        let mut core = self.core();
        let mut done = 0;
        while done < steps {
            let Some(next) = core.server.next_event() else { break };
            core.manual_now = core.manual_now.max(next);
            let now = core.manual_now;
            core.advance(now);
            done += 1;
        }
        drop(core);
        self.changed.notify_waiters();
        done
    }

    pub(super) fn fault(&self) -> Fault {
        self.core().fault
    }

    /// Changes the fault; what concerns sockets is the listener's affair.
    pub(super) fn set_fault(&self, fault: Fault) {
        let mut core = self.core();
        let now = self.now(&core);
        core.advance(now);
        core.fault = fault;
        core.server.set_speed(now, if let Fault::Slow { factor } = fault { 1.0 / factor } else { 1.0 });
        if fault == Fault::Hang {
            core.server.pause(now);
        } else {
            core.server.resume(now);
        }
        drop(core);
        self.driver.notify_one();
    }

    pub(super) fn counters(&self) -> Counters {
        self.core().counters
    }

    /// Requests running, requests waiting, and the tokens of both.
    pub(super) fn load(&self) -> (usize, usize, u64) {
        let mut core = self.core();
        let now = self.now(&core);
        core.advance(now);
        (core.server.running(), core.server.queued(), core.server.tokens())
    }

    pub(super) fn disconnects(&self) -> Vec<Disconnect> {
        self.core().disconnects.clone()
    }

    /// Returns once `enough` holds.
    pub(super) async fn wait_until(&self, enough: impl Fn(&Counters) -> bool) -> Counters {
        loop {
            let changed = self.changed.notified();
            let counters = self.counters();
            if enough(&counters) {
                return counters;
            }
            changed.await;
        }
    }

    pub(super) fn count(&self, count: impl FnOnce(&mut Counters)) {
        count(&mut self.core().counters);
        self.changed.notify_waiters();
    }

    /// A length that the request did not tell, from the server's own generator.
    pub(super) fn draw(&self, lengths: &Lognormal) -> f64 {
        lengths.draw(&mut self.core().rng)
    }

    /// A request goes to the engine; with its place, how many tokens of its prompt are cached.
    pub(super) fn submit(self: &Arc<Self>, work: Work, text: &Text) -> (Place, u32) {
        let progress = Arc::new(Progress::default());
        let mut core = self.core();
        let now = self.now(&core);
        core.advance(now);
        let id = core.next_id;
        core.next_id += 1;
        let was_idle = core.server.next_event().is_none();
        core.requests.insert(id, Arc::clone(&progress));
        let cached = core.server.submit(now, id, work, text);
        core.counters.live += 1;
        drop(core);
        // A step under way ends when it ends; a plain server may have become due earlier than the driver thinks.
        if was_idle || self.has_workers() {
            self.driver.notify_one();
        }
        self.changed.notify_waiters();
        (Place { engine: Arc::clone(self), id, progress, ended: false }, cached)
    }

    fn has_workers(&self) -> bool {
        self.core().server.is_plain()
    }
}

/// A request's place in the engine. Dropped before [`Place::finish`], the client has left: the request is cancelled
/// and remembered as a [`Disconnect`].
#[derive(Debug)]
pub(super) struct Place {
    engine: Arc<Engine>,
    id: WorkId,
    progress: Arc<Progress>,
    ended: bool,
}

impl Place {
    pub(super) fn progress(&self) -> &Progress {
        &self.progress
    }

    /// A number for the response's id.
    pub(super) fn id(&self) -> WorkId {
        self.id
    }

    /// Waits until everything is computed.
    pub(super) async fn all(&self) {
        let everything = |cx: &mut Context<'_>| match self.progress.poll_beyond(u32::MAX, cx) {
            Poll::Ready((_, true)) => Poll::Ready(()),
            _ => Poll::Pending,
        };
        std::future::poll_fn(everything).await;
    }

    /// The whole answer was handed over.
    pub(super) fn finish(&mut self) {
        if !std::mem::replace(&mut self.ended, true) {
            self.engine.count(|counters| counters.finished += 1);
        }
    }

    /// A fault ends the request here.
    pub(super) fn fail(&mut self) {
        if !std::mem::replace(&mut self.ended, true) {
            self.cancel();
            self.engine.count(|counters| counters.faulted += 1);
        }
    }

    fn cancel(&self) {
        let mut core = self.engine.core();
        let now = self.engine.now(&core);
        core.advance(now);
        core.requests.remove(&self.id);
        core.server.cancel(now, self.id);
        core.counters.live = (core.server.running() + core.server.queued()) as u64;
        drop(core);
        self.engine.driver.notify_one();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        self.cancel();
        let disconnect = Disconnect { noticed: Instant::now(), events: self.progress.tokens() };
        let mut core = self.engine.core();
        core.counters.cancelled += 1;
        if core.disconnects.len() == DISCONNECTS_MAX {
            core.disconnects.remove(0);
        }
        core.disconnects.push(disconnect);
        drop(core);
        self.engine.changed.notify_waiters();
    }
}
