//! Starting and stopping everything: listeners, worker threads, the control thread, signals.
//!
//! The data path and the control side have threads and runtimes of their own, so that a busy data path cannot starve
//! health checks, the admin API and metrics. Stopping goes in order: `/readyz` says no, nothing new is accepted, what
//! runs may finish until the drain deadline, then everything is closed. The admin API answers until the end, so that
//! an operator can watch the drain.

use std::io;
use std::net::SocketAddr;
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
use crate::trainer;

/// Connections that the kernel keeps for us while we are busy.
const BACKLOG: i32 = 4096;
/// How often a stopping server looks whether all is done.
const LOOK_EVERY: Duration = Duration::from_millis(10);

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
    #[error("the admin API does not listen on {0} without a token: set [[admin.token]], or listen on loopback")]
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
    end: watch::Sender<bool>,
}

impl Server {
    /// Binds the listeners of `settings` and starts.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start(settings: Settings) -> Result<Server, StartError> {
        if !settings.admin.listen.is_private() && settings.admin.tokens.is_empty() {
            return Err(StartError::OpenAdmin(settings.admin.listen));
        }
        let listener = listen("listen", settings.listen)?;
        let (door, admin) = open_door(&settings.admin.listen)?;
        let app = App::new(settings)?;
        let (end, ending) = watch::channel(false);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(StartError::Thread)?;
        let shared = Arc::clone(&app);
        let control = std::thread::Builder::new()
            .name("control".to_owned())
            .spawn(move || runtime.block_on(control(shared, door, ending)))
            .map_err(StartError::Thread)?;
        trainer::start(&app).map_err(StartError::Thread)?;
        let proxy = Proxy::start(&app, listener).map_err(StartError::Thread)?;
        Ok(Server { app, proxy, control, admin, end })
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

    /// Stops gracefully: waits for what runs, at most `drain`, then closes it. Returns whether all finished in time.
    pub fn stop(self, drain: Duration) -> bool {
        self.proxy.drain();
        let until = std::time::Instant::now() + drain;
        while !self.proxy.is_finished() && std::time::Instant::now() < until {
            std::thread::sleep(LOOK_EVERY);
        }
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
async fn control(app: Arc<App>, door: Door, mut ending: watch::Receiver<bool>) {
    let mut end = ending.clone();
    let shutdown = async move {
        // An error means that nobody can tell us to end any more, which is an end too.
        let _ = end.wait_for(|end| *end).await;
    };
    let checks = tokio::spawn(probe::watch_fleet(Arc::clone(&app)));
    if let Err(error) = admin::serve(door, app, shutdown).await {
        tracing::error!(%error, "the admin API has stopped");
        let _ = ending.wait_for(|end| *end).await;
    }
    checks.abort();
}

/// Where the admin API is served, and its name there.
fn open_door(listen_at: &AdminListen) -> Result<(Door, AdminListen), StartError> {
    let what = "admin.listen";
    match listen_at {
        AdminListen::Tcp(address) => {
            let listener = listen(what, *address)?;
            let address = listener.local_addr().map_err(StartError::Thread)?;
            Ok((listener.into(), address.into()))
        }
        AdminListen::Unix(path) => {
            let refused = |source| StartError::Listen { what, address: listen_at.to_string(), source };
            Ok((Door::at(path).map_err(refused)?, listen_at.clone()))
        }
    }
}

/// A listening socket that can be bound again right after a restart.
fn listen(what: &'static str, address: SocketAddr) -> Result<std::net::TcpListener, StartError> {
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
