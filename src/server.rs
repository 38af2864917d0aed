//! Starting and stopping everything: listeners, worker threads, the control thread, signals.
//!
//! The data path and the control side have threads and runtimes of their own, so that a busy data path cannot starve
//! health checks, the admin API and metrics. Stopping goes in order: `/readyz` says no, nothing new is accepted, what
//! runs may finish until the drain deadline, then everything is closed. The admin API answers until the end, so that
//! an operator can watch the drain; unless another process has taken over, which answers then.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::watch;

use crate::admin::{self, Door};
use crate::app::App;
use crate::config::{AdminListen, Settings};
use crate::probe;
use crate::proxy::Proxy;
use crate::sockets::Sockets;
use crate::spans;
use crate::trainer;

/// Connections that the kernel keeps for us while we are busy.
const BACKLOG: i32 = 4096;
/// How often a stopping server looks whether all is done.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// How long kept-alive connections stay after another process has taken over: whoever asks within that time is told to go,
/// the others are closed, as idle connections may be at any time.
const LINGER: Duration = Duration::from_secs(5);

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address} ({what}): {source}")]
    Listen {
        /// Which listener.
        what: &'static str,
        /// Where.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// The admin API would be open to everybody.
    #[error(
        "the admin API does not listen on {0} without a token or client certificates: set [[admin.token]] or \
         admin.tls.client_ca, or listen on loopback"
    )]
    OpenAdmin(AdminListen),
    /// The settings make no fleet.
    #[error(transparent)]
    Fleet(#[from] crate::fleet::FleetError),
    /// No thread or runtime can be had.
    #[error("cannot start a thread: {0}")]
    Thread(#[source] io::Error),
}

/// A running proxy with everything around it.
#[derive(Debug)]
pub struct Server {
    app: Arc<App>,
    proxy: Proxy,
    control: JoinHandle<()>,
    admin: AdminListen,
    /// Ends the admin API.
    silence: watch::Sender<bool>,
    end: watch::Sender<bool>,
    /// To be offered to another process.
    offered: Option<Sockets>,
}

impl Server {
    /// Binds the listeners of `settings` and starts.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start(settings: Settings) -> Result<Server, StartError> {
        Server::start_on(settings, Sockets::default())
    }

    /// Starts on `sockets`; binds those that are missing.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start_on(settings: Settings, sockets: Sockets) -> Result<Server, StartError> {
        if settings.admin.is_open() {
            return Err(StartError::OpenAdmin(settings.admin.listen));
        }
        let listener = sockets.clients.map_or_else(|| listen("listen", settings.listen), Ok)?;
        let (door, admin, admin_listener) = open_door(&settings.admin.listen, sockets.admin)?;
        let offered = match settings.handover {
            Some(_) => Some(Sockets { clients: Some(again(&listener)?), admin: admin_listener }),
            None => None,
        };
        let app = App::new(settings)?;
        let (silence, silenced) = watch::channel(false);
        let (end, ending) = watch::channel(false);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(StartError::Thread)?;
        let shared = Arc::clone(&app);
        let control = std::thread::Builder::new()
            .name("control".to_owned())
            .spawn(move || runtime.block_on(control(shared, door, silenced, ending)))
            .map_err(StartError::Thread)?;
        trainer::start(&app).map_err(StartError::Thread)?;
        let proxy = Proxy::start(&app, listener).map_err(StartError::Thread)?;
        Ok(Server { app, proxy, control, admin, silence, end, offered })
    }

    /// The shared state.
    pub fn app(&self) -> &Arc<App> {
        &self.app
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.proxy.address()
    }

    /// Where the admin API listens.
    pub fn admin_address(&self) -> &AdminListen {
        &self.admin
    }

    /// The listening sockets once more, for another process to take over; `None` unless the settings allow that, and from
    /// the second call on. As long as they live, connections wait for somebody to accept them.
    pub fn take_offered(&mut self) -> Option<Sockets> {
        self.offered.take()
    }

    /// Leaves accepting to another process, which has the sockets. What runs goes on; [`Server::stop`] follows.
    pub fn leave(&self) {
        self.silence.send_replace(true);
        self.proxy.leave();
    }

    /// Stops gracefully: waits for what runs, at most `drain`, then closes it. Returns whether all finished in time.
    pub fn stop(self, drain: Duration) -> bool {
        let start = std::time::Instant::now();
        let wait = |until: std::time::Instant| {
            while !self.proxy.is_finished() && std::time::Instant::now() < until {
                std::thread::sleep(LOOK_EVERY);
            }
        };
        if self.proxy.is_leaving() {
            wait(start + drain.min(LINGER));
        }
        self.proxy.drain();
        wait(start + drain);
        let finished = self.proxy.is_finished();
        if !finished {
            self.proxy.abort();
        }
        self.proxy.join();
        // Before the admin API: until here an operator can watch.
        self.app.trainer.stop();
        self.end.send_replace(true);
        let _ = self.control.join();
        finished
    }
}

/// Everything that is not the data path.
async fn control(app: Arc<App>, door: Door, mut silenced: watch::Receiver<bool>, mut ending: watch::Receiver<bool>) {
    let mut end = ending.clone();
    let shutdown = async move {
        // An error means that nobody can tell us to end any more, which is an end too.
        tokio::select! {
            _ = silenced.wait_for(|silenced| *silenced) => {}
            _ = end.wait_for(|end| *end) => {}
        }
    };
    let checks = tokio::spawn(probe::watch_fleet(Arc::clone(&app)));
    let exporting = tokio::spawn(spans::export(Arc::clone(&app), ending.clone()));
    if let Err(error) = admin::serve(door, app, shutdown).await {
        tracing::error!(%error, "the admin API has stopped");
    }
    let _ = ending.wait_for(|end| *end).await;
    checks.abort();
    // It sends what is left, for a bounded time.
    let _ = exporting.await;
}

/// The same socket once more.
fn again(listener: &TcpListener) -> Result<TcpListener, StartError> {
    listener.try_clone().map_err(StartError::Thread)
}

/// Where the admin API is served, its name there, and its socket once more if it can be handed over.
fn open_door(
    listen_at: &AdminListen,
    opened: Option<TcpListener>,
) -> Result<(Door, AdminListen, Option<TcpListener>), StartError> {
    let what = "admin.listen";
    match listen_at {
        AdminListen::Tcp(address) => {
            let listener = opened.map_or_else(|| listen(what, *address), Ok)?;
            let address = listener.local_addr().map_err(StartError::Thread)?;
            let spare = again(&listener)?;
            Ok((listener.into(), address.into(), Some(spare)))
        }
        AdminListen::Unix(path) => {
            let refused = |source| StartError::Listen { what, address: listen_at.to_string(), source };
            Ok((Door::at(path).map_err(refused)?, listen_at.clone(), None))
        }
    }
}

/// A listening socket that can be bound again right after a restart.
fn listen(what: &'static str, address: SocketAddr) -> Result<TcpListener, StartError> {
    let bind = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        Ok(socket.into())
    };
    bind().map_err(|source| StartError::Listen { what, address: address.to_string(), source })
}
