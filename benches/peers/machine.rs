//! How busy the machine was, by `/proc/stat`: whether figures measure proxies or the scheduler.

use std::fs;
use std::time::Duration;

use crate::Failure;
use crate::process::cpu_time;

/// Counters at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Moment {
    /// Ticks of all cores: busy, and all.
    ticks: (u64, u64),
    own: Duration,
    proxy: Duration,
}

/// What was used between two moments.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Used {
    /// Of the whole machine, everybody's, 0..=1.
    pub(crate) machine_busy: f64,
    /// CPU time of emulators and load, of all cells that ran at the time.
    pub(crate) own: Duration,
    pub(crate) proxy: Duration,
}

impl Moment {
    /// Now; the proxy is those processes.
    pub(crate) fn now(proxy: &[u32]) -> Result<Moment, Failure> {
        let ticks = ticks(&fs::read_to_string("/proc/stat")?).ok_or("/proc/stat has another form")?;
        // Not by thread: those of cells that have ended count too.
        let own = process_time(&fs::read_to_string("/proc/self/stat")?).ok_or("/proc/self/stat has another form")?;
        Ok(Moment { ticks, own, proxy: cpu_time(proxy)? })
    }

    pub(crate) fn until(&self, later: &Moment) -> Used {
        let (busy, all) = (later.ticks.0 - self.ticks.0, later.ticks.1 - self.ticks.1);
        Used {
            machine_busy: busy as f64 / all.max(1) as f64,
            own: later.own.saturating_sub(self.own),
            proxy: later.proxy.saturating_sub(self.proxy),
        }
    }
}

/// Busy and all ticks of the first line: user nice system idle iowait irq softirq steal.
fn ticks(stat: &str) -> Option<(u64, u64)> {
    let fields = stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace();
    let ticks: Vec<u64> = fields.take(8).map(str::parse).collect::<Result<_, _>>().ok()?;
    let all: u64 = ticks.iter().sum();
    let idle = ticks.get(3)? + ticks.get(4)?;
    Some((all - idle, all))
}

/// User and kernel time of a process: the 14th and 15th field, in hundredths of a second on every Linux (`USER_HZ`). The
/// second field is a name in parentheses that may contain anything.
fn process_time(stat: &str) -> Option<Duration> {
    let fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11).take(2);
    let ticks: Vec<u64> = fields.map(str::parse).collect::<Result<_, _>>().ok()?;
    (ticks.len() == 2).then(|| Duration::from_millis(10 * ticks.iter().sum::<u64>()))
}

pub(crate) fn check() {
    let stat = "7 (a) b) S 1 7 7 0 -1 4194560 9 0 0 0 250 50 0 0 20 0 1 0";
    assert_eq!(process_time(stat), Some(Duration::from_secs(3)));
    assert_eq!(process_time("7 (a) S 1"), None);
    assert_eq!(ticks("cpu  10 1 5 80 4 0 1 2 7 7\ncpu0 1 1 1 1\n"), Some((19, 103)));
    assert_eq!(ticks("intr 1"), None);
}
