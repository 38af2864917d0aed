//! Is a node stuck? Judged by *its* silence, never by the age of one request.
//!
//! Sizes are heavy-tailed, so an old request looks just like a stalled one; penalizing age hurts. But a node with work
//! in flight that sends no byte and completes nothing for ten times the expected interval between its signs of life
//! (and at least half a second) has stopped. It gets no new work but single probes, each after ten times as much silence
//! as the one before, so that a node that hangs for an hour costs a handful of requests. A sign of life clears it.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

/// The shortest silence that means anything: twice a retransmission, or a pause of a garbage collector. To doubt a node
/// wrongly costs next to nothing, as its next byte clears it; each further half second of trust costs what is sent there
/// meanwhile.
pub const PATIENCE_MIN: Duration = Duration::from_millis(500);
const PATIENCE_MIN_S: f64 = PATIENCE_MIN.as_millis() as f64 / 1e3;

/// The longest patience, in seconds.
const PATIENCE_MAX_S: f64 = 300.0;

/// Expected intervals that may pass.
const INTERVALS: f64 = 10.0;

/// How much longer the silence must last for each further probe.
const PROBE_GROWTH: f64 = 10.0;

/// Probes beyond which the waits do not grow further.
const PROBES_MAX: u32 = 8;

/// How long a silence is borne from a node that is expected to give a sign of life every `interval_s`.
pub fn patience_s(interval_s: f64) -> f64 {
    let patience_s = INTERVALS * interval_s;
    if patience_s.is_nan() { PATIENCE_MIN_S } else { patience_s.clamp(PATIENCE_MIN_S, PATIENCE_MAX_S) }
}

/// What a decision sees of a node's silence.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quiet {
    /// Attempts in flight.
    pub in_flight: u32,
    /// Of those, without a first byte.
    pub waiting: u32,
    /// Seconds since the last sign of life.
    pub quiet_s: f64,
    /// How long that may be.
    pub patience_s: f64,
}

impl Quiet {
    /// Whether the node is silent now.
    pub fn is_silent(&self) -> bool {
        self.in_flight > 0 && self.quiet_s > self.patience_s
    }
}

/// The memory of one node's silence. All methods may be called from any thread.
#[derive(Debug, Default)]
pub struct Watch {
    suspect: AtomicBool,
    probes: AtomicU32,
}

impl Watch {
    /// Whether the node may get new work.
    pub fn admits(&self, quiet: &Quiet) -> bool {
        if quiet.is_silent() {
            self.suspect.store(true, Ordering::Relaxed);
            let probes = self.probes.load(Ordering::Relaxed).min(PROBES_MAX);
            return quiet.quiet_s > quiet.patience_s * PROBE_GROWTH.powi(1 + probes as i32);
        }
        if !self.suspect.load(Ordering::Relaxed) {
            return true;
        }
        if quiet.waiting < quiet.in_flight {
            // Something streams, and not long ago.
            self.alive();
            return true;
        }
        // All that ran there failed or left, nothing was heard: one at a time.
        quiet.in_flight == 0
    }

    /// The node got a request.
    pub fn sent(&self) {
        if self.suspect.load(Ordering::Relaxed) {
            self.probes.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The node completed something.
    pub fn alive(&self) {
        if self.suspect.load(Ordering::Relaxed) {
            self.suspect.store(false, Ordering::Relaxed);
            self.probes.store(0, Ordering::Relaxed);
        }
    }

    /// Whether it went silent and was not heard of since.
    #[inline]
    pub fn is_suspect(&self) -> bool {
        self.suspect.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quiet(in_flight: u32, waiting: u32, quiet_s: f64) -> Quiet {
        Quiet { in_flight, waiting, quiet_s, patience_s: patience_s(0.02) }
    }

    #[test]
    fn a_silent_node_gets_single_probes_ever_more_rarely() {
        let watch = Watch::default();
        assert!(watch.admits(&quiet(9, 1, 0.4)));
        let mut sent = Vec::new();
        for second in 2..200 {
            if watch.admits(&quiet(9, 9, f64::from(second))) {
                watch.sent();
                sent.push(second);
            }
        }
        assert_eq!(sent, [6, 51]);
    }

    #[test]
    fn a_sign_of_life_clears_it() {
        let watch = Watch::default();
        assert!(!watch.admits(&quiet(9, 9, 2.0)));
        assert!(!watch.admits(&quiet(9, 9, 0.1)), "nothing but a start");
        assert!(watch.admits(&quiet(0, 0, 0.1)), "a probe");
        assert!(watch.admits(&quiet(9, 8, 0.1)), "it streams");
        assert!(watch.admits(&quiet(9, 9, 0.1)));
        assert!(!watch.admits(&quiet(9, 9, 2.0)));
        watch.alive();
        assert!(watch.admits(&quiet(9, 9, 0.1)));
    }

    #[test]
    fn an_idle_node_is_not_silent_and_patience_is_always_a_number() {
        assert!(Watch::default().admits(&quiet(0, 0, 1e9)));
        for interval in [f64::NAN, f64::INFINITY, -1.0, 0.0, 1e300] {
            assert!((PATIENCE_MIN_S..=PATIENCE_MAX_S).contains(&patience_s(interval)), "{interval}");
        }
    }
}
