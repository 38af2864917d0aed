//! What the system tells of a process, and what we ask of the system: memory, CPU time, cores, file descriptors.
//!
//! Figures are sums over a process and its children: nginx serves in a child of the process that we start. All is read
//! from `/proc`; cores are set by `taskset`, because the crate forbids the unsafe call.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::Failure;

/// File descriptors of the benchmark besides idle clients.
pub(crate) const FILES_BESIDE: u64 = 512;

/// A process and its children.
pub(crate) fn tree(pid: u32) -> Vec<u32> {
    let mut tree = vec![pid];
    let Ok(entries) = fs::read_dir("/proc") else { return tree };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    tree.extend(pids.filter(|&other| status(other, "PPid") == Some(u64::from(pid))));
    tree
}

/// A number of `/proc/PID/status`.
fn status(pid: u32, key: &str) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}

fn memory(pids: &[u32], key: &str) -> Result<u64, Failure> {
    let of = |&pid| status(pid, key).ok_or_else(|| format!("/proc/{pid}/status has no {key}"));
    Ok(pids.iter().map(of).sum::<Result<u64, _>>()? * 1024)
}

/// Resident bytes.
pub(crate) fn resident(pids: &[u32]) -> Result<u64, Failure> {
    memory(pids, "VmRSS")
}

/// The most bytes that were resident since the last [`forget_peak`].
pub(crate) fn resident_peak(pids: &[u32]) -> Result<u64, Failure> {
    memory(pids, "VmHWM")
}

/// Peaks count from now on; whether the system allows that.
pub(crate) fn forget_peak(pids: &[u32]) -> bool {
    pids.iter().all(|pid| fs::write(format!("/proc/{pid}/clear_refs"), "5").is_ok())
}

/// CPU time of all threads so far, user and kernel.
pub(crate) fn cpu_time(pids: &[u32]) -> Result<Duration, Failure> {
    let mut nanoseconds = 0;
    for pid in pids {
        for thread in fs::read_dir(format!("/proc/{pid}/task"))?.flatten() {
            // A thread may end between the two reads.
            let Ok(text) = fs::read_to_string(thread.path().join("schedstat")) else { continue };
            nanoseconds += text.split(' ').next().unwrap_or_default().parse::<u64>()?;
        }
    }
    Ok(Duration::from_nanos(nanoseconds))
}

/// Whether a tracer is attached to every thread of these processes.
pub(crate) fn is_traced(pids: &[u32]) -> bool {
    let threads = |pid: &u32| fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let mut statuses =
        pids.iter().flat_map(threads).filter_map(|task| fs::read_to_string(task.path().join("status")).ok());
    statuses.all(|status| !status.lines().any(|line| line.trim_end() == "TracerPid:\t0"))
}

/// Room for the clients here and in the processes that inherit the limit.
pub(crate) fn raise_file_limit(clients: u32) -> Result<(), Failure> {
    let (_, hard) = rlimit::Resource::NOFILE.get()?;
    rlimit::increase_nofile_limit(hard.min(2 * u64::from(clients) + FILES_BESIDE))?;
    Ok(())
}

/// Open files that one process may have.
pub(crate) fn file_limit() -> Result<u64, Failure> {
    Ok(rlimit::Resource::NOFILE.get_soft()?)
}

/// A core for the proxy and another for everything else. The benchmark gets all its cores back when this is dropped.
#[derive(Debug)]
pub(crate) struct Cores {
    before: String,
    /// For the proxy.
    pub(crate) proxy: u32,
}

impl Cores {
    /// Puts the benchmark on one core; `None` where there is only one, or no `taskset`.
    pub(crate) fn split() -> Option<Cores> {
        let text = fs::read_to_string("/proc/self/status").ok()?;
        let before = text.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?.trim().to_owned();
        let mut cores = before.split(',').flat_map(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            first.parse::<u32>().unwrap_or(0)..=last.parse::<u32>().unwrap_or(0)
        });
        let (proxy, ours) = (cores.next()?, cores.next()?);
        confine(&ours.to_string()).then_some(Cores { before, proxy })
    }
}

impl Drop for Cores {
    fn drop(&mut self) {
        confine(&self.before);
    }
}

/// Puts all threads of this process on those cores.
fn confine(list: &str) -> bool {
    let pid = std::process::id().to_string();
    let told = Command::new("taskset").args(["-acp", list, &pid]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    told.is_ok_and(|status| status.success())
}

/// Sends a signal, such as "TERM"; that a process is gone already is fine.
pub(crate) fn signal(pids: &[u32], name: &str) {
    let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
    // The shell's own `kill`, which is there even where no such program is.
    let script = format!("kill -{name} {}", pids.join(" "));
    let _ = Command::new("sh").args(["-c", &script]).stderr(Stdio::null()).status();
}
