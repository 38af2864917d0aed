//! Instructions of a process, counted by `perf stat`.
//!
//! Instructions repeat within some percent where CPU time on a shared machine swings twofold. The counter is switched on
//! and off through perf's control pipe and each switch is acknowledged, so a window has exactly the requests that were
//! counted. Virtual machines often have no counter: [`missing`] finds out beforehand, and the caller takes CPU time.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::time::timeout;

use crate::Failure;
use crate::peer::find_program;
use crate::process::signal;

const EVENTS: &str = "instructions:u,instructions:k";
/// perf may take so long to answer.
const ANSWER_WAIT: Duration = Duration::from_secs(10);

/// Why instructions cannot be counted here; `None` if they can.
pub(crate) fn missing() -> Option<String> {
    let Some(perf) = find_program("perf") else { return Some("perf is not installed: apt install linux-perf".into()) };
    let tried = Command::new(perf).args(["stat", "-x", ",", "-e", EVENTS, "--", "true"]).output();
    let text = tried.map(|output| String::from_utf8_lossy(&output.stderr).into_owned()).unwrap_or_default();
    match Instructions::parse(&text) {
        Some(_) => None,
        None => Some(
            "perf does not count instructions here (no such counter, or kernel.perf_event_paranoid forbids)".into(),
        ),
    }
}

/// A count.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Instructions {
    pub(crate) user: f64,
    pub(crate) kernel: f64,
}

impl Instructions {
    /// Reads what `perf stat -x ,` writes: value, unit, event, ...
    fn parse(text: &str) -> Option<Instructions> {
        let of = |event: &str| {
            let mut lines = text.lines().map(|line| line.split(',').collect::<Vec<_>>());
            let line = lines.find(|fields| fields.get(2).is_some_and(|name| name.starts_with(event)))?;
            line[0].parse().ok()
        };
        Some(Instructions { user: of("instructions:u")?, kernel: of("instructions:k")? })
    }
}

/// `perf stat` attached to processes.
#[derive(Debug)]
pub(crate) struct Counter {
    child: Child,
    control: pipe::Sender,
    acknowledged: pipe::Receiver,
    directory: TempDir,
}

impl Counter {
    /// Attaches to the processes and begins to count.
    pub(crate) async fn start(pids: &[u32]) -> Result<Counter, Failure> {
        let perf = find_program("perf").ok_or("perf is not installed")?;
        let directory = tempfile::tempdir()?;
        let (control, acknowledged) = (directory.path().join("control"), directory.path().join("acknowledged"));
        let pipes = (make_pipe(&control)?, make_pipe(&acknowledged)?);
        let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
        let child = Command::new(perf)
            .args(["stat", "-x", ",", "-D", "-1", "-e", EVENTS, "-p", &pids.join(",")])
            .arg(format!("--control=fifo:{},{}", control.display(), acknowledged.display()))
            .arg("-o")
            .arg(result_file(&directory))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let (control, acknowledged) = (pipe::Sender::from_file(pipes.0)?, pipe::Receiver::from_file(pipes.1)?);
        let mut counter = Counter { child, control, acknowledged, directory };
        counter.order("enable\n").await?;
        Ok(counter)
    }

    async fn order(&mut self, order: &str) -> Result<(), Failure> {
        self.control.write_all(order.as_bytes()).await?;
        let mut answer = [0; 16];
        match timeout(ANSWER_WAIT, self.acknowledged.read(&mut answer)).await {
            Ok(read) => read.map(|_| ()).map_err(Failure::from),
            Err(_) => Err("perf does not answer".into()),
        }
    }

    /// Stops counting.
    pub(crate) async fn stop(mut self) -> Result<Instructions, Failure> {
        self.order("disable\n").await?;
        // perf writes its result on an interrupt.
        signal(&[self.child.id()], "INT");
        self.child.wait()?;
        let text = fs::read_to_string(result_file(&self.directory))?;
        Instructions::parse(&text).ok_or_else(|| format!("perf counted nothing: {text}").into())
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        // It has usually ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn result_file(directory: &TempDir) -> PathBuf {
    directory.path().join("counts")
}

/// Makes a named pipe and opens it for both directions, which never waits for the other side.
fn make_pipe(path: &Path) -> Result<File, Failure> {
    if !Command::new("mkfifo").arg(path).status()?.success() {
        return Err("mkfifo does not work".into());
    }
    Ok(OpenOptions::new().read(true).write(true).open(path)?)
}
