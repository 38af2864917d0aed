//! What came of one run: exact response times, every request that did not get an answer, and who got how many.
//!
//! Times are kept as `f32` (7 digits are more than a simulation is worth), so that quantiles are exact and not those of
//! a histogram's buckets, until there are so many that memory would grow with them: see [`Digest`].

use crate::clock::Time;
use crate::sim::digest::Digest;
use crate::sim::scenario::Scenario;
use crate::sim::workload::{Arrival, mix};

/// Seconds of which the attempts of each node are counted one by one: a day.
pub const STARTS_MAX: usize = 86_400;

/// What was seen of an incident.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The node that it happened to.
    pub node: usize,
    /// Requests in flight there at that moment.
    pub in_flight: u64,
    /// Requests that ended there without an answer since, until the node's next incident.
    pub errors: u64,
}

/// What came of one run. Requests of the warm-up are not counted anywhere except in `starts` and `fingerprint`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RunResult {
    /// Requests that arrived.
    pub offered: u64,
    /// From arrival to the end of the answer in seconds, retries included; only answers that came.
    pub total_s: Digest,
    /// From arrival to the first byte, of the same requests.
    pub ttfb_s: Digest,
    /// Requests that ended in an error of a node.
    pub failed: u64,
    /// Requests that no node could be found for.
    pub refused: u64,
    /// Requests whose client gave up.
    pub abandoned: u64,
    /// Requests that had not ended long after the last one arrived.
    pub lost: u64,
    /// Attempts after the first, warm-up included.
    pub retries: u64,
    /// Prompt tokens that were not computed because a server had them cached, warm-up included.
    pub cached_tokens: u64,
    /// Prompt tokens of all requests, warm-up included.
    pub prompt_tokens: u64,
    /// Attempts by node and second of their start, warm-up included; of the first [`STARTS_MAX`] seconds.
    pub starts: Vec<Vec<u32>>,
    /// Attempts in flight in any ledger when everything had ended: 0.
    pub in_flight_at_end: u64,
    /// What was seen of each incident of the scenario, in its order; those that the run did not reach are missing.
    pub incidents: Vec<Seen>,
    /// Depends on time, size and luck of every arrival: equal for all policies under one seed.
    pub fingerprint: u64,
    warm_up: Time,
}

impl RunResult {
    pub(super) fn new(scenario: &Scenario) -> RunResult {
        let starts = vec![Vec::new(); scenario.nodes.len()];
        RunResult { starts, warm_up: scenario.warm_up, ..RunResult::default() }
    }

    /// Requests without an answer.
    pub fn errors(&self) -> u64 {
        self.failed + self.refused + self.abandoned + self.lost
    }

    /// Them as a share of all requests; 0 if there were none.
    pub fn error_share(&self) -> f64 {
        if self.offered == 0 { 0.0 } else { self.errors() as f64 / self.offered as f64 }
    }

    /// Share of all attempts from `from` to before `to` that went to a node.
    pub fn share_of(&self, node: usize, from: Time, to: Time) -> f64 {
        let second = |time: Time| time.as_secs_f64() as usize;
        let count = |starts: &Vec<u32>| -> u64 {
            starts.iter().take(second(to)).skip(second(from)).map(|count| u64::from(*count)).sum()
        };
        let all: u64 = self.starts.iter().map(count).sum();
        if all == 0 { 0.0 } else { self.starts.get(node).map_or(0, count) as f64 / all as f64 }
    }

    fn counts(&self, arrival: &Arrival) -> bool {
        arrival.at >= self.warm_up
    }

    pub(super) fn offered(&mut self, arrival: &Arrival) {
        self.offered += u64::from(self.counts(arrival));
        let work = arrival.work;
        self.prompt_tokens += u64::from(work.prompt_tokens);
        for part in [
            arrival.at.as_micros(),
            u64::from(work.prompt_tokens) << 32 | u64::from(work.output_tokens),
            work.plain_s.to_bits(),
            arrival.luck,
            arrival.shape.client_hash,
        ] {
            self.fingerprint = mix(self.fingerprint ^ part);
        }
    }

    pub(super) fn started(&mut self, node: usize, now: Time) {
        let second = now.as_secs_f64() as usize;
        let starts = &mut self.starts[node];
        if second >= STARTS_MAX {
            return;
        }
        if starts.len() <= second {
            starts.resize(second + 1, 0);
        }
        starts[second] += 1;
    }

    pub(super) fn cached(&mut self, tokens: u32) {
        self.cached_tokens += u64::from(tokens);
    }

    pub(super) fn completed(&mut self, arrival: &Arrival, first_byte: Time, end: Time) {
        if self.counts(arrival) {
            self.total_s.push(end.seconds_since(arrival.at) as f32);
            self.ttfb_s.push(first_byte.seconds_since(arrival.at) as f32);
        }
    }

    pub(super) fn incident(&mut self, node: usize, in_flight: u64) {
        self.incidents.push(Seen { node, in_flight, errors: 0 });
    }

    /// A request ended without an answer while it was at `node`.
    pub(super) fn error_at(&mut self, node: usize) {
        if let Some(seen) = self.incidents.iter_mut().rev().find(|seen| seen.node == node) {
            seen.errors += 1;
        }
    }

    pub(super) fn failed(&mut self, arrival: &Arrival) {
        self.failed += u64::from(self.counts(arrival));
    }

    pub(super) fn refused(&mut self, arrival: &Arrival) {
        self.refused += u64::from(self.counts(arrival));
    }

    pub(super) fn abandoned(&mut self, arrival: &Arrival) {
        self.abandoned += u64::from(self.counts(arrival));
    }

    pub(super) fn lost(&mut self, arrival: &Arrival) {
        self.lost += u64::from(self.counts(arrival));
    }
}
