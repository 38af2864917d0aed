//! What the machine says about this process: memory, descriptors, processor time.
//!
//! Read from `/proc` at scrape time; on other systems than Linux there is nothing, and the series are absent rather
//! than zero. Names and meaning follow the Prometheus client conventions.

/// A reading; what could not be read is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Process {
    /// Resident memory.
    pub(super) resident_bytes: Option<f64>,
    /// Open file descriptors.
    pub(super) open_fds: Option<f64>,
    /// How many it may have.
    pub(super) max_fds: Option<f64>,
    /// User and system time since the start, in whole hundredths of a second.
    pub(super) cpu_s: Option<f64>,
}

/// `/proc/self/stat` counts in ticks of 1/100 s on every architecture (`USER_HZ`), whatever the kernel's own tick is.
const TICKS_PER_S: f64 = 100.0;

impl Process {
    /// Reads `/proc/self`.
    pub(super) fn read() -> Process {
        let file = |name: &str| std::fs::read_to_string(format!("/proc/self/{name}")).ok();
        Process {
            resident_bytes: file("status").as_deref().and_then(resident_bytes),
            open_fds: std::fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count() as f64),
            max_fds: file("limits").as_deref().and_then(max_fds),
            cpu_s: file("stat").as_deref().and_then(cpu_s),
        }
    }
}

fn resident_bytes(status: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024.0)
}

fn max_fds(limits: &str) -> Option<f64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    // The soft limit; `unlimited` is no number.
    line.split_ascii_whitespace().next()?.parse().ok()
}

fn cpu_s(stat: &str) -> Option<f64> {
    // The command in parentheses may contain anything, also parentheses; utime and stime are fields 14 and 15.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS_PER_S)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_with_parentheses_does_not_shift_the_fields() {
        let stat = "7 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20";
        assert_eq!(cpu_s(stat), Some(3.0));
        assert_eq!(cpu_s("nonsense"), None);
    }

    #[test]
    fn memory_is_in_bytes() {
        assert_eq!(resident_bytes("Name:\tx\nVmRSS:\t    2048 kB\nVmData: 1 kB\n"), Some(2_097_152.0));
        assert_eq!(resident_bytes("Name:\tx\n"), None);
    }

    #[test]
    fn the_soft_limit_counts() {
        let limits = "Limit   Soft Limit  Hard Limit  Units\nMax open files            1024                 4096                 files\n";
        assert_eq!(max_fds(limits), Some(1024.0));
        assert_eq!(max_fds("Max open files  unlimited  unlimited  files\n"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_has_memory_and_descriptors() {
        let own = Process::read();
        assert!(own.resident_bytes.is_some_and(|bytes| bytes > 1e5), "{own:?}");
        assert!(own.open_fds.is_some_and(|fds| fds >= 1.0), "{own:?}");
        assert!(own.max_fds >= own.open_fds, "{own:?}");
        assert!(own.cpu_s.is_some(), "{own:?}");
    }
}
