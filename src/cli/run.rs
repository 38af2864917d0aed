//! `bellwether run`: settings, log, banner, and then the server until it is told to stop.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::settings::{SettingsArgs, load};
use super::{Exit, Process, Screen};
use crate::app::App;
use crate::config::{AdminListen, Loaded, Settings, Sources};
use crate::handover::{Offer, Successor, take_over};
use crate::recording::Recorder;
use crate::server::Server;
use crate::sockets::Sockets;
use crate::telemetry::logging::LogControl;

/// How many nodes the banner names; of a large fleet the number is enough.
const NODES_NAMED_MAX: usize = 8;

/// File descriptors for everything that is not a proxied connection.
const FILES_BESIDE: usize = 256;

/// Route requests to model servers until told to stop
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  bellwether run --node http://10.0.0.1:8000 --node http://10.0.0.2:8000
  bellwether run --node big=http://10.0.0.1:8000@3 --node small=http://10.0.0.2:8000 --policy weighted-round-robin
  bellwether run --config bellwether.toml --log-format json
  BELLWETHER_NODE=http://10.0.0.1:8000,http://10.0.0.2:8000 bellwether run --listen 0.0.0.0:8080

SIGTERM or Ctrl-C stops after what runs has ended, a second one at once; SIGHUP reads the configuration again. With the
key handover, a second process of the same settings takes over without losing a connection.

Exit codes: 0 stopped as asked, 1 failure at run time, 2 wrong configuration or usage.")]
pub(super) struct Run {
    #[command(flatten)]
    settings: SettingsArgs,
    /// Start without nodes; the admin API can add some
    #[arg(long)]
    allow_no_nodes: bool,
    /// Write every attempt to this file as a line of JSON, for `train`; rotated, at most 640 MB in all
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
}

impl Run {
    pub(super) fn execute(self, process: Process, screen: &mut Screen<'_>) -> io::Result<Exit> {
        let sources = self.settings.into_sources(process.env);
        let loaded = match load(&sources, screen)? {
            Ok(loaded) => loaded,
            Err(exit) => return Ok(exit),
        };
        if loaded.settings.nodes.is_empty() && !self.allow_no_nodes {
            writeln!(
                screen.err,
                "error: there is no node to send requests to\n\
                 Add one with --node http://HOST:PORT, with BELLWETHER_NODE, or in the configuration file:\n\n    \
                 [[node]]\n    url = \"http://HOST:PORT\"\n\n\
                 To start without and add nodes by the admin API: --allow-no-nodes"
            )?;
            return Ok(Exit::Refused);
        }
        let log = match (process.start_log)(&loaded.settings.log) {
            Ok(log) => log,
            Err(error) => return Ok(screen.failed(&error)),
        };
        let recorder = match self.record.as_deref().map(|path| (path, Recorder::start(path))) {
            Some((path, Err(error))) => {
                return Ok(screen.failed(&format!("cannot record to {}: {error}", path.display())));
            }
            Some((_, Ok(recorder))) => Some(recorder),
            None => None,
        };
        raise_file_limit(&loaded);
        let server = match start(&loaded.settings) {
            Ok(server) => server,
            Err(error) => return Ok(screen.failed(&error)),
        };
        if let Some(recorder) = recorder {
            server.app().trainer.record_to(recorder);
        }
        let banner = banner(&loaded, &server);
        match serve(server, sources, log, || write!(screen.err, "{banner}")) {
            Ok(()) => Ok(Exit::Fine),
            Err(error) => Ok(screen.failed(&error)),
        }
    }
}

/// Starts on the sockets of a running process that hands them over, on those that systemd has opened, or on new ones.
fn start(settings: &Settings) -> Result<Server, Box<dyn std::error::Error>> {
    // Before there is a thread: it also takes the variables out of the environment.
    let inherited = Sockets::inherited(settings)?;
    let predecessor = match &settings.handover {
        Some(path) => take_over(path)?,
        None => None,
    };
    let Some((sockets, predecessor)) = predecessor else {
        return Ok(Server::start_on(settings.clone(), inherited)?);
    };
    let server = Server::start_on(settings.clone(), sockets.fitting(settings).or(inherited))?;
    match predecessor.relieve() {
        Ok(()) => tracing::info!("took the listening sockets over"),
        Err(error) => tracing::warn!(%error, "the process that the sockets were taken over from may be dead"),
    }
    Ok(server)
}

/// Every client and every connection to a node is a file descriptor; the usual soft limit of 1,024 is soon reached.
fn raise_file_limit(loaded: &Loaded) {
    let limits = &loaded.settings.limits;
    let wanted = limits.connections_max.saturating_mul(2).saturating_add(FILES_BESIDE) as u64;
    match rlimit::increase_nofile_limit(wanted) {
        Ok(allowed) if allowed < wanted => tracing::warn!(
            allowed,
            wanted,
            "fewer file descriptors than limits.connections_max may need: raise the hard limit (ulimit -Hn)"
        ),
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, "the limit of file descriptors cannot be raised"),
    }
}

/// What was started, for whoever looks at the terminal or the first lines of a log.
fn banner(loaded: &Loaded, server: &Server) -> String {
    let settings = &loaded.settings;
    let nodes = &settings.nodes;
    let mut named: Vec<&str> = nodes.iter().take(NODES_NAMED_MAX).map(|node| node.name.as_str()).collect();
    if nodes.len() > NODES_NAMED_MAX {
        named.push("...");
    }
    let named = if named.is_empty() { "none yet".to_owned() } else { format!("{}: {}", nodes.len(), named.join(", ")) };
    format!(
        "bellwether {}\n  clients   http://{}\n  admin     {}\n  policy    {}\n  nodes     {named}\n  settings  {}\n",
        env!("CARGO_PKG_VERSION"),
        server.address(),
        admin_url(server.admin_address(), settings.admin.tls.is_some()),
        settings.policy.name(),
        loaded.origins.summary(),
    )
}

/// Where a browser or `curl` finds the admin API.
fn admin_url(listen: &AdminListen, tls: bool) -> String {
    match listen {
        AdminListen::Tcp(address) => format!("{}://{address}", if tls { "https" } else { "http" }),
        AdminListen::Unix(_) => listen.to_string(),
    }
}

/// Serves until a signal says stop. SIGHUP reads the configuration again; a second signal to stop does not wait.
/// `announce` is called as soon as signals mean that.
fn serve(
    mut server: Server,
    sources: Sources,
    log: LogControl,
    announce: impl FnOnce() -> io::Result<()>,
) -> io::Result<()> {
    let app = Arc::clone(server.app());
    app.reload.control_log(log);
    app.reload.read_with(move || {
        let loaded = sources.load().map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>())?;
        Ok(loaded.settings)
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (mut stop, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let mut hangup = signal(SignalKind::hangup())?;
        let offer = offer(&mut server)?;
        announce()?;
        loop {
            tokio::select! {
                _ = stop.recv() => break,
                _ = interrupt.recv() => break,
                successor = taken(offer.as_ref(), &app) => {
                    server.leave();
                    tracing::info!("another process has taken over");
                    if let Err(error) = successor.leave_to_it() {
                        tracing::warn!(%error, "it does not listen any more");
                    }
                    break;
                }
                _ = hangup.recv() => {
                    // What it did, or why nothing, is in the log. It reads files, which blocks nothing but us.
                    let _ = app.reload("SIGHUP");
                }
            }
        }
        drop(offer);
        let drain = app.settings.load().timeouts.drain;
        drop(app);
        tracing::info!(?drain, "stopping; a second signal stops at once");
        let (done, stopped) = tokio::sync::oneshot::channel();
        std::thread::Builder::new().name("stop".to_owned()).spawn(move || done.send(server.stop(drain)))?;
        tokio::select! {
            finished = stopped => {
                if !finished.unwrap_or(false) {
                    tracing::warn!("the drain deadline has passed, what still ran was cut off");
                }
            }
            _ = stop.recv() => {}
            _ = interrupt.recv() => {}
        }
        Ok(())
    })
}

/// Offers the listening sockets to a new process, if the settings say so.
fn offer(server: &mut Server) -> io::Result<Option<Offer>> {
    let path = server.app().settings.load().handover.clone();
    let Some((path, sockets)) = path.zip(server.take_offered()) else { return Ok(None) };
    let offer = Offer::open(&path, sockets);
    offer.map(Some).map_err(|error| io::Error::new(error.kind(), format!("handover: {}: {error}", path.display())))
}

/// The process that has taken over; waits for ever where nothing is offered.
async fn taken(offer: Option<&Offer>, app: &Arc<App>) -> Successor {
    let Some(offer) = offer else { return std::future::pending().await };
    let app = Arc::clone(app);
    let keep = move || {
        // Without a directory it stays in memory, and without a trainer nothing is learned: no reason to stay.
        if let Err(error) = app.trainer.save() {
            tracing::warn!(%error, "the new process will not know what was learned last");
        }
    };
    offer.taken(keep).await
}
