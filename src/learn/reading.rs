//! What a node streamed and read since the last fit, and what reading does to its streams.
//!
//! A server that reads prompts between the steps of its streams delays them, and more prompts come while more is in
//! flight. With the number in flight as the only regressor of a gap, its coefficient takes the delay in as well: four to
//! six times the truth where caches spare most of the reading, and a request then flees its own past for a node
//! that is hardly quicker. As the delay by a request's own prompt is counted apart (see [`lane`](crate::learn::lane)),
//! it was counted twice. So the rate of reading is a regressor of its own while fitting. When predicting it is no choice of the
//! request: its mean at the node goes into the base, and what moves faster than that is left to the corrector.

use crate::learn::features::{PROMPT_UNIT, READ};
use crate::learn::fit::TargetFit;
use crate::learn::stats::Stats;

/// Sum of weights up to which a node's rate of reading is not believed: one interval between fits.
const SEEN_MIN: f64 = 1.0;

/// What a node streamed and read since the last fit.
///
/// The fit gets one row per node and refit, not one per look: within a tenth of a second arrivals raise the load and
/// stall the batch with their prompts at once, and a slope fitted to that is several times too steep.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Gaps {
    in_flight: f64,
    sum_s: f64,
    events: u64,
    read_tokens: f64,
    elapsed_s: f64,
}

/// What was gathered of gaps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Gathered {
    /// Mean number in flight, as the events saw it.
    pub(super) in_flight: f64,
    /// Prompt tokens read per second, in thousands.
    pub(super) read: f64,
    /// Sum of the gaps.
    pub(super) sum_s: f64,
    /// Number of events, at least 1.
    pub(super) events: u64,
}

impl Gaps {
    /// Adds a look: the mean number in flight, the sum of gaps and the number of events.
    pub(super) fn add(&mut self, mean_in_flight: f64, sum_s: f64, events: u64) {
        self.in_flight += mean_in_flight * events as f64;
        self.sum_s += sum_s;
        self.events = self.events.saturating_add(events);
    }

    /// So many prompt tokens were read in so much time.
    pub(super) fn read(&mut self, tokens: u64, elapsed_s: f64) {
        self.read_tokens += tokens as f64;
        self.elapsed_s += elapsed_s;
    }

    /// What was gathered, if anything was streamed; starts over.
    pub(super) fn take(&mut self) -> Option<Gathered> {
        let Gaps { in_flight, sum_s, events, read_tokens, elapsed_s } = std::mem::take(self);
        let read = if elapsed_s > 0.0 { read_tokens / elapsed_s / PROMPT_UNIT } else { 0.0 };
        (events > 0).then(|| Gathered { in_flight: in_flight / events as f64, read, sum_s, events })
    }
}

/// A fit of gaps with each node's mean rate of reading in its base. `stats` are the sums that it was fitted to, in the order
/// of its nodes.
///
/// A node of which little was seen reads nothing, nor does the fleet's curve, which stands for nodes that are not known: who
/// has just come has nothing to read yet, and is not to be avoided for what the others have.
pub(super) fn settled(mut fit: TargetFit, stats: &[Stats]) -> TargetFit {
    fit.fleet[READ] = 0.0;
    for (node, stats) in fit.nodes.iter_mut().zip(stats) {
        let read = stats.mean_of(READ).filter(|_| stats.weight() > SEEN_MIN).unwrap_or(0.0);
        node.beta[0] += node.beta[READ] * read;
        node.beta[READ] = 0.0;
    }
    fit
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learn::features::{self, Target};
    use crate::learn::fit::fit;

    #[test]
    fn what_reading_delays_is_not_blamed_on_the_number_in_flight() {
        // Two equal nodes; more is read while more is in flight, and one of them reads twice as much.
        let mut rng = fastrand::Rng::with_seed(3);
        let stats: Vec<Stats> = [1.0, 2.0]
            .map(|share| {
                let mut stats = Stats::default();
                for _ in 0..2_000 {
                    let n = f64::from(rng.u32(5..25));
                    let read = share * (0.1 * n + 2.0 * rng.f64());
                    stats.add(0.0, &features::gap(n, read), 0.013 + 0.000_12 * n + 0.002 * read);
                }
                stats
            })
            .into();
        let found = fit(Target::Gap, &stats, &[1.0; 2], None, true).expect("solvable").expect("evidence");
        let settled = settled(found, &stats);
        let n = stats[0].mean_of(1).expect("evidence");
        for (node, stats) in settled.nodes.iter().zip(&stats) {
            assert!((node.beta[1] / 0.000_12 - 1.0).abs() < 0.3, "{:?}", node.beta);
            assert_eq!(node.beta[READ], 0.0);
            let (predicted, observed) = (node.beta[0] + node.beta[1] * n, stats.g[0] / stats.weight());
            assert!((predicted / observed - 1.0).abs() < 0.02, "{predicted} {observed}");
        }
        assert!(settled.nodes[1].beta[0] > settled.nodes[0].beta[0]);
    }

    #[test]
    fn a_node_that_has_just_come_is_not_slowed_by_what_the_others_read() {
        let mut known = Stats::default();
        (1..200).for_each(|at| {
            known.add(0.0, &features::gap(f64::from(at % 9), f64::from(at % 7)), 0.02 + 0.01 * f64::from(at % 7))
        });
        let stats = [known, Stats::default()];
        let found = fit(Target::Gap, &stats, &[1.0; 2], None, true).expect("solvable").expect("evidence");
        let settled = settled(found.clone(), &stats);
        assert!(settled.nodes[0].beta[0] > found.nodes[0].beta[0] + 0.02, "{settled:?}");
        assert_eq!((settled.nodes[1].beta[0], settled.fleet[0]), (found.nodes[1].beta[0], found.fleet[0]));
    }

    #[test]
    fn a_rate_is_of_the_time_that_was_looked_at_and_nothing_streamed_is_nothing_seen() {
        let mut gaps = Gaps::default();
        gaps.read(3_000, 0.1);
        assert_eq!(gaps.take(), None);
        gaps.read(500, 0.1);
        gaps.read(500, 0.3);
        gaps.add(2.0, 0.2, 10);
        gaps.add(5.0, 0.4, 20);
        let seen = gaps.take().expect("events");
        assert!((seen.read - 2.5).abs() < 1e-9 && (seen.in_flight - 4.0).abs() < 1e-9, "{seen:?}");
        assert_eq!((seen.events, gaps.take()), (30, None));
    }
}
