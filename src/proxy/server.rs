//! Threads and the accept loop: connections are accepted in one place and dealt to the worker that has fewest.
//!
//! Not `SO_REUSEPORT`: the kernel's hash spreads long-lived connections unevenly over a few workers, and closing one
//! listener of such a group resets what waits in its queue. Dealing costs a hop per *connection*, none per request.
//! The acceptor stops accepting, instead of accepting and closing, while the bound of connections is reached or the
//! process has no file descriptors left: what waits in the backlog is not lost.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};

use crate::admission::Place;
use crate::app::App;
use crate::proxy::connection::serve;
use crate::proxy::crowd;
use crate::proxy::wait::tend;
use crate::proxy::worker::{Worker, cut};

/// How long the acceptor rests when a connection cannot be accepted for want of resources.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How often idle connections to nodes are looked through.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// Connections that may wait for a worker to take them; more wait in the kernel's backlog.
const DEALT_MAX: usize = 1024;

/// How far a data path is from its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    /// It accepts.
    Serving,
    /// Somebody else accepts. Clients that are here may ask once more and are told then to go.
    Leaving,
    /// Clients without a request are closed.
    Stopping,
}

/// A running data path.
#[derive(Debug)]
pub struct Proxy {
    app: Arc<App>,
    phase: watch::Sender<Phase>,
    abort: watch::Sender<bool>,
    workers: Vec<JoinHandle<()>>,
    acceptor: JoinHandle<()>,
    address: SocketAddr,
}

/// A connection on its way to a worker; counted as long as it lives.
struct Dealt {
    stream: std::net::TcpStream,
    peer: SocketAddr,
    /// What its client holds by it; nothing if that is a trusted proxy.
    place: Option<Place>,
    counted: Counted,
}

/// One of the client connections, or the tunnel that it became.
pub(super) struct Counted {
    app: Arc<App>,
    worker: Arc<Worker>,
}

impl Counted {
    pub(super) fn new(app: &Arc<App>, worker: &Arc<Worker>) -> Counted {
        app.connections.fetch_add(1, Ordering::Relaxed);
        worker.carries.fetch_add(1, Ordering::Relaxed);
        Counted { app: Arc::clone(app), worker: Arc::clone(worker) }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.worker.carries.fetch_sub(1, Ordering::Relaxed);
        self.app.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Proxy {
    /// Starts the workers and the acceptor on `listener`.
    ///
    /// # Errors
    /// No thread or runtime can be had.
    pub fn start(app: &Arc<App>, listener: std::net::TcpListener) -> io::Result<Proxy> {
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let count = app.settings.load().workers.max(1);
        let (phase, phases) = watch::channel(Phase::Serving);
        let (abort, aborting) = watch::channel(false);
        let mut workers = Vec::with_capacity(count);
        let mut hands = Vec::with_capacity(count);
        for index in 0..count {
            let worker = Arc::new(Worker::new(Arc::clone(app), fastrand::u64(..)));
            let (hand, dealt) = mpsc::channel(DEALT_MAX);
            hands.push((Arc::clone(&worker), hand));
            let (phases, aborting) = (phases.clone(), aborting.clone());
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let thread = std::thread::Builder::new().name(format!("worker-{index}"));
            let tends = index == 0;
            workers.push(thread.spawn(move || runtime.block_on(work(worker, dealt, phases, aborting, tends)))?);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let shared = Arc::clone(app);
        let acceptor = std::thread::Builder::new()
            .name("acceptor".to_owned())
            .spawn(move || runtime.block_on(accept(shared, listener, hands, phases)))?;
        Ok(Proxy { app: Arc::clone(app), phase, abort, workers, acceptor, address })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops accepting, as another process does now, and returns when it has. Clients that are here stay until they have
    /// asked once more and were told to go.
    pub fn leave(&self) {
        self.app.begin_stop();
        self.phase.send_if_modified(|phase| std::mem::replace(phase, Phase::Leaving.max(*phase)) < Phase::Leaving);
        while !self.acceptor.is_finished() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Whether it has left accepting to another process.
    pub fn is_leaving(&self) -> bool {
        *self.phase.borrow() == Phase::Leaving
    }

    /// Stops accepting and lets what runs finish: kept-alive connections close after their present request.
    pub fn drain(&self) {
        self.app.begin_stop();
        self.phase.send_replace(Phase::Stopping);
    }

    /// Ends what still runs.
    pub fn abort(&self) {
        self.drain();
        self.abort.send_replace(true);
    }

    /// Waits for the threads; they end once drained or aborted.
    pub fn join(self) {
        // A worker that panicked has said so in the log; there is nothing to add here.
        let _ = self.acceptor.join();
        for worker in self.workers {
            let _ = worker.join();
        }
    }

    /// Whether every thread has ended.
    pub fn is_finished(&self) -> bool {
        self.acceptor.is_finished() && self.workers.iter().all(JoinHandle::is_finished)
    }
}

type Hand = (Arc<Worker>, mpsc::Sender<Dealt>);

async fn accept(app: Arc<App>, listener: std::net::TcpListener, hands: Vec<Hand>, phases: watch::Receiver<Phase>) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "the listening socket cannot be used");
            return;
        }
    };
    accept_all(&app, &listener, &hands, phases).await;
}

/// Accepts until it is told not to. What was accepted is dealt in any case.
async fn accept_all(app: &Arc<App>, listener: &TcpListener, hands: &[Hand], mut phases: watch::Receiver<Phase>) {
    let mut complained = false;
    while *phases.borrow() == Phase::Serving {
        let most = app.settings.load().limits.connections_max;
        if app.connections.load(Ordering::Relaxed) >= most {
            if !std::mem::replace(&mut complained, true) {
                tracing::warn!(most, "as many client connections as allowed: new ones wait");
            }
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        }
        complained = false;
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = phases.wait_for(|phase| *phase != Phase::Serving) => return,
        };
        match accepted {
            Ok((stream, peer)) => deal(app, hands, stream, peer).await,
            Err(error) if is_of_one_client(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections; trying again");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Errors of a connection that ended while it waited, not of the listener.
fn is_of_one_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

async fn deal(app: &Arc<App>, hands: &[Hand], stream: TcpStream, peer: SocketAddr) {
    let Some(place) = crowd::admit(app, peer.ip()) else {
        crowd::turn_away(&stream);
        return;
    };
    let Some((worker, hand)) = hands.iter().min_by_key(|(worker, _)| worker.load()) else { return };
    let _ = stream.set_nodelay(true);
    if let Ok(stream) = stream.into_std() {
        let counted = Counted::new(app, worker);
        // A worker that is gone takes its connections with it: the client sees it closed.
        let _ = hand.send(Dealt { stream, peer, place, counted }).await;
    }
}

/// The life of a worker thread; one of them `tends` those who wait for a node.
async fn work(
    worker: Arc<Worker>,
    mut dealt: mpsc::Receiver<Dealt>,
    phases: watch::Receiver<Phase>,
    mut aborting: watch::Receiver<bool>,
    tends: bool,
) {
    let sweeping = tokio::spawn(sweep(Arc::clone(&worker)));
    let app = Arc::clone(&worker.app);
    let tending = tends.then(|| tokio::spawn(async move { tend(&app).await }));
    let serving = async {
        while let Some(Dealt { stream, peer, place, counted }) = dealt.recv().await {
            let Ok(stream) = TcpStream::from_std(stream) else { continue };
            let (worker, phases) = (Arc::clone(&worker), phases.clone());
            tokio::spawn(async move {
                serve(stream, peer, place, worker, phases).await;
                drop(counted);
            });
        }
        // The acceptor has stopped: what is left are the connections that finish their requests.
        while worker.load() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        () = serving => {}
        _ = aborting.wait_for(|abort| *abort) => cut(),
    }
    sweeping.abort();
    tending.into_iter().for_each(|tending| tending.abort());
    worker.pool.clear();
}

async fn sweep(worker: Arc<Worker>) {
    let mut every = tokio::time::interval(SWEEP_EVERY);
    loop {
        every.tick().await;
        let app = &worker.app;
        worker.pool.sweep(&app.balancer.fleet(), &app.settings.load().limits, app.clock.now());
    }
}
