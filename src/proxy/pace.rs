//! How long a client may keep us waiting for its body.
//!
//! A timeout between two pieces alone is no bound: who sends a byte a minute is always in time, and holds a place at a
//! node for days. So what we wait for in all counts too: as long as between two pieces, and for every byte that came the
//! time that it takes at the slowest rate allowed. Only time in which the *client* is waited for; a node that takes an
//! upload slowly costs it nothing.

use std::time::Duration;

/// The pace of one body.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// The longest wait for one piece.
    patience: Duration,
    /// The slowest rate; 0 is any.
    bytes_per_s_min: u64,
    received_bytes: u64,
    waited: Duration,
}

impl Pace {
    pub(super) fn new(patience: Duration, bytes_per_s_min: u64) -> Pace {
        Pace { patience, bytes_per_s_min, received_bytes: 0, waited: Duration::ZERO }
    }

    /// Another wait for one piece, from here on.
    pub(super) fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// So many bytes have come.
    pub(super) fn received(&mut self, bytes: usize) {
        self.received_bytes = self.received_bytes.saturating_add(bytes as u64);
    }

    /// The client was waited for.
    pub(super) fn waited(&mut self, time: Duration) {
        self.waited = self.waited.saturating_add(time);
    }

    /// How long the next piece may take.
    pub(super) fn left(&self) -> Duration {
        let all = allowance(self.patience, self.received_bytes, self.bytes_per_s_min);
        all.saturating_sub(self.waited).min(self.patience)
    }
}

/// How long `bytes` may be waited for in all; without a rate for ever.
pub(super) fn allowance(patience: Duration, bytes: u64, bytes_per_s_min: u64) -> Duration {
    match bytes_per_s_min {
        0 => Duration::MAX,
        rate => patience.saturating_add(Duration::from_micros(bytes.saturating_mul(1_000_000) / rate)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_byte_now_and_then_uses_the_patience_up() {
        let mut pace = Pace::new(10 * SECOND, 100);
        for _ in 0..9 {
            pace.waited(SECOND);
            pace.received(1);
        }
        assert_eq!(pace.left(), SECOND + Duration::from_millis(90));
        pace.waited(2 * SECOND);
        assert_eq!(pace.left(), Duration::ZERO);
    }

    #[test]
    fn who_keeps_the_pace_is_never_late_and_gathers_no_more_than_one_patience() {
        let mut pace = Pace::new(10 * SECOND, 100);
        for _ in 0..10_000 {
            pace.waited(SECOND);
            pace.received(100);
            assert_eq!(pace.left(), 10 * SECOND);
        }
        let mut any = Pace::new(SECOND, 0);
        any.waited(Duration::from_secs(1_000_000));
        assert_eq!(any.left(), SECOND);
    }
}
