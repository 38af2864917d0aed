//! The raw samples of a node, bounded, from light load and heavy load alike.
//!
//! One ring of the newest samples would forget how a node answers when idle after a minute of rush hour. So there are
//! two, split at the node's own slowly moving mean load, each of which drops its own oldest. The fits use sums
//! ([`crate::learn::Stats`]); the raw samples are for recording, explanations and for computing the sums anew when
//! the columns change their meaning.

use std::collections::VecDeque;
use std::time::Duration;

use crate::clock::Time;
use crate::outcome::Sample;

/// Samples kept per node and regime; with 4,096 nodes and some 250 bytes a sample at most 130 MB.
pub const SAMPLES_PER_REGIME: usize = 64;

/// Samples older than this are forgotten: five time constants of the decay, 0.7 % of a weight.
pub const WINDOW: Duration = Duration::from_secs(300);

/// Weight of a sample in the mean load that separates the regimes.
const MEAN_STEP: f64 = 0.02;

/// The raw samples of one node.
#[derive(Debug, Default)]
pub struct Store {
    light: VecDeque<(Time, Sample)>,
    heavy: VecDeque<(Time, Sample)>,
    mean_load: Option<f64>,
    dropped: u64,
}

impl Store {
    /// Keeps `sample`, which ended at `now`; the oldest of its regime goes where there is no room.
    pub fn push(&mut self, now: Time, sample: Sample) {
        let load = sample.mean_in_flight;
        let mean = self.mean_load.get_or_insert(load);
        let ring = if load > *mean { &mut self.heavy } else { &mut self.light };
        *mean += MEAN_STEP * (load - *mean);
        while ring.front().is_some_and(|(at, _)| now.since(*at) > WINDOW) {
            ring.pop_front();
        }
        if ring.len() >= SAMPLES_PER_REGIME {
            ring.pop_front();
            self.dropped += 1;
        }
        ring.push_back((now, sample));
    }

    /// The samples kept, light load first, each regime oldest first.
    pub fn samples(&self) -> impl Iterator<Item = &Sample> {
        self.light.iter().chain(&self.heavy).map(|(_, sample)| sample)
    }

    /// Samples kept.
    pub fn len(&self) -> usize {
        self.light.len() + self.heavy.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Samples that had to go before they were old.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learn::sample::tests::plain;

    #[test]
    fn a_rush_does_not_push_out_what_is_known_of_quiet_times() {
        let mut store = Store::default();
        for i in 0..40 {
            store.push(Time::from_micros(i), plain(0, 1, 0.1));
        }
        for i in 0..10_000 {
            store.push(Time::from_micros(100 + i), plain(0, 50, 0.9));
        }
        assert!(store.len() <= 2 * SAMPLES_PER_REGIME);
        assert!(store.samples().any(|sample| sample.mean_in_flight == 1.0));
        assert_eq!(store.dropped(), 10_040 - store.len() as u64);
    }

    #[test]
    fn old_samples_go() {
        let mut store = Store::default();
        store.push(Time::ZERO, plain(0, 1, 0.1));
        store.push(Time::ZERO.after(WINDOW).after(Duration::from_secs(1)), plain(0, 1, 0.2));
        assert_eq!(store.len(), 1);
        assert_eq!(store.dropped(), 0);
    }
}
