//! The way of a sample from the request path to the trainer: one push, never a wait.
//!
//! The channel of the standard library, bounded: an array of slots with two atomic positions, no lock. The trainer never
//! blocks on it (it looks every 50 ms), so a push wakes nobody and makes no system call: 23 ns were measured. A full queue drops the newest
//! and counts it: a trainer that is behind is better served by what it has than by a request that waits.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};

use crate::balancer::{Choice, Decision, Observer};
use crate::fleet::Node;
use crate::outcome::Sample;
use crate::policy::considered::Considered;

/// Samples that may wait: 300,000 a second between two looks. Some 4 MB.
pub const QUEUE_MAX: usize = 16_384;

/// A sample, and what its decision was made from while that is recorded.
type Item = (Sample, Option<Arc<Considered>>);

/// The queue.
#[derive(Debug)]
pub(super) struct Samples {
    push: SyncSender<Item>,
    /// Only the trainer takes it; held for the length of a drain.
    pull: Mutex<Receiver<Item>>,
    dropped: AtomicU64,
    records: AtomicBool,
}

impl Default for Samples {
    fn default() -> Self {
        let (push, pull) = sync_channel(QUEUE_MAX);
        Samples { push, pull: Mutex::new(pull), dropped: AtomicU64::new(0), records: AtomicBool::new(false) }
    }
}

impl Samples {
    /// Hands over what has come, at most one queue full. Nothing while another thread drains.
    pub(super) fn drain(&self, mut take: impl FnMut(&Sample, Option<&Considered>)) {
        let pull = match self.pull.try_lock() {
            Ok(pull) => pull,
            Err(TryLockError::Poisoned(poisoned)) => PoisonError::into_inner(poisoned),
            Err(TryLockError::WouldBlock) => return,
        };
        pull.try_iter().take(QUEUE_MAX).for_each(|(sample, considered)| take(&sample, considered.as_deref()));
    }

    /// From now on what decisions are made from is handed over, too.
    pub(super) fn record(&self) {
        self.records.store(true, Ordering::Relaxed);
    }

    /// Samples that found no room.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

impl Observer for Samples {
    fn considered(&self, choice: &Choice<'_>, decision: &Decision) -> Option<Arc<Considered>> {
        let records = self.records.load(Ordering::Relaxed);
        if records { Considered::of(decision.policy, choice.learned, choice.context, choice.at) } else { None }
    }

    fn finished(&self, node: &Node, sample: &Sample) {
        self.finished_considering(node, sample, None);
    }

    fn finished_considering(&self, _node: &Node, sample: &Sample, considered: Option<&Arc<Considered>>) {
        if self.push.try_send((*sample, considered.cloned())).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::Fleet;
    use crate::learn::test_sample;
    use crate::node::NodeSpec;

    #[test]
    fn a_full_queue_drops_the_newest_and_counts_it() {
        let (samples, fleet) = (Samples::default(), Fleet::default().with(NodeSpec::new("http://a")).expect("free"));
        let node = &fleet.nodes()[0];
        for i in 0..QUEUE_MAX as u32 + 7 {
            samples.finished(node, &crate::outcome::Sample { events: i, ..test_sample(0, 1, 0.1) });
        }
        assert_eq!(samples.dropped(), 7);
        let mut seen = Vec::new();
        samples.drain(|sample, _| seen.push(sample.events));
        assert_eq!(seen, (0..QUEUE_MAX as u32).collect::<Vec<_>>());
        samples.finished(node, &test_sample(0, 1, 0.1));
        assert_eq!(samples.dropped(), 7, "there is room again");
    }

    #[test]
    fn a_push_allocates_nothing() {
        let (samples, fleet) = (Samples::default(), Fleet::default().with(NodeSpec::new("http://a")).expect("free"));
        let sample = test_sample(0, 1, 0.1);
        samples.finished(&fleet.nodes()[0], &sample);
        let used = allocation_counter::measure(|| (0..100).for_each(|_| samples.finished(&fleet.nodes()[0], &sample)));
        assert_eq!(used.count_total, 0);
    }
}
