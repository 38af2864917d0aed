//! A program as a process of a benchmark: where it is found, under what it runs, how it is seen to be ready, how it ends.
//!
//! Both benchmarks start other people's proxies, each with configurations of its own; this is what they have in common. A
//! process ends when its [`Running`] is dropped, also by a panic; its output stays readable until then, for the error
//! message.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::signal::unix::{SignalKind, signal as listen_for};
use tokio::time::{sleep, timeout};

use crate::Failure;
use crate::client::{Client, get};
use crate::process::{signal, tree};

/// A process may take so long to end before it is killed; callgrind writes its file then.
const END_WAIT: Duration = Duration::from_secs(10);
/// One try to be answered; under callgrind everything is slow.
const TRY_WAIT: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Directories where servers are installed although they are in few users' `PATH`.
const SYSTEM_DIRECTORIES: [&str; 2] = ["/usr/sbin", "/usr/local/sbin"];
/// Lines of its output that an error message has.
const LINES_TOLD: usize = 20;

/// Looks in `PATH` and where servers are.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::env::split_paths(&path).chain(SYSTEM_DIRECTORIES.map(PathBuf::from));
    directories.map(|directory| directory.join(name)).find(|program| program.is_file())
}

/// What a configuration depends on: equal nodes, one thread.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    pub(crate) nodes: Vec<SocketAddr>,
    /// Clients at once that there must be room for.
    pub(crate) clients: usize,
    /// Long bodies and streams: nginx must not buffer them, HAProxy must notice that a client is gone.
    pub(crate) streams: bool,
}

/// Under which a program runs.
#[derive(Clone, Debug)]
pub(crate) enum Under {
    /// Nothing.
    Nothing,
    /// One core.
    Core(u32),
    /// Another program, with these arguments, that needs a single process.
    Program(PathBuf, Vec<String>),
}

impl Under {
    fn command(&self, program: &Path) -> Command {
        match self {
            Under::Nothing => Command::new(program),
            Under::Core(core) => {
                let mut command = Command::new("taskset");
                command.arg("-c").arg(core.to_string()).arg(program);
                command
            }
            Under::Program(outer, arguments) => {
                let mut command = Command::new(outer);
                command.args(arguments).arg(program);
                command
            }
        }
    }

    /// Whether there may be one process only.
    pub(crate) fn wants_one_process(&self) -> bool {
        matches!(self, Under::Program(..))
    }
}

/// A directory that a worker process of another user can read, as nginx has one when we are root.
pub(crate) fn home() -> Result<TempDir, Failure> {
    let directory = tempfile::tempdir()?;
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))?;
    Ok(directory)
}

/// A process.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    directory: TempDir,
}

impl Running {
    /// Starts `program` at home in `directory`.
    pub(crate) fn start(
        program: &Path,
        under: &Under,
        directory: TempDir,
        arguments: &[String],
        environment: &[(&'static str, String)],
    ) -> Result<Running, Failure> {
        let mut command = under.command(program);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("BELLWETHER_")) {
            command.env_remove(name);
        }
        command.args(arguments).envs(environment.iter().map(|(name, value)| (name, value)));
        let log = File::create(log_file(directory.path()))?;
        command.current_dir(directory.path()).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Ok(Running { child: command.spawn()?, directory })
    }

    /// Returns once `path` is answered at `address`, or a connection made where there is none; tried for so long.
    pub(crate) async fn until_ready(
        &mut self,
        name: &str,
        (address, path): (SocketAddr, Option<&str>),
        wait: Duration,
    ) -> Result<(), Failure> {
        let start = Instant::now();
        let mut last = String::new();
        while start.elapsed() < wait {
            if let Some(status) = self.child.try_wait()? {
                return Err(format!("{name} ended with {status}: {}", self.output()).into());
            }
            match timeout(TRY_WAIT, answers(address, path)).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) => last = error.to_string(),
                Err(_) => "no answer".clone_into(&mut last),
            }
            sleep(LOOK_EVERY).await;
        }
        Err(format!("{name} did not get ready: {last}; it said: {}", self.output()).into())
    }

    /// What it wrote, the end of it.
    pub(crate) fn output(&self) -> String {
        let text = fs::read_to_string(log_file(self.directory.path())).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LINES_TOLD)..].join("\n")
    }

    /// The process that was started.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// That process and its children.
    pub(crate) fn pids(&self) -> Vec<u32> {
        tree(self.child.id())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let pids = self.pids();
        signal(&[self.pid()], "TERM");
        let start = Instant::now();
        while start.elapsed() < END_WAIT {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(LOOK_EVERY);
        }
        signal(&pids, "KILL");
        let _ = self.child.wait();
    }
}

async fn answers(address: SocketAddr, path: Option<&str>) -> Result<(), Failure> {
    let mut client = Client::connect(address).await?;
    match path {
        Some(path) => client.ask(&get(path)).await.map(|_| ()),
        None => Ok(()),
    }
}

fn log_file(directory: &Path) -> PathBuf {
    directory.join("output.log")
}

/// Two ports that are free now; most proxies cannot say which one they took.
pub(crate) fn free_addresses() -> Result<[SocketAddr; 2], Failure> {
    let bind = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    // Both are held until both are known, or they could be the same.
    let listeners = (bind()?, bind()?);
    Ok([listeners.0.local_addr()?, listeners.1.local_addr()?])
}

/// Returns on Ctrl-C or SIGTERM.
pub(crate) async fn told_to_stop() -> Result<(), Failure> {
    let (mut interrupt, mut terminate) = (listen_for(SignalKind::interrupt())?, listen_for(SignalKind::terminate())?);
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Err("stopped by a signal".into())
}
